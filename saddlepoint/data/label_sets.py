"""Named sets with label maps: the layers of OpenMoji, the classes of maps, and procedural scenes.

The examples have "label" (a class for every pixel), "instance" (an object for every pixel, numbers from 0 that mean
nothing from one example to the next) and "b", the picture; `world` has "a" too, a line drawing.
"""

from __future__ import annotations

import dataclasses
import gzip
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from saddlepoint.errors import UserError

from . import named, pairs, world
from .catalog import SETS, Facts
from .files import Source
from .options import Options
from .pair_catalog import DEPTHS, HEIGHTS, LAYERS, PairEntry
from .paired import MAPS, Column

Ids = NDArray[np.int32]
Draw = Callable[[int, int, int], Image.Image]  # (index, height, width) -> picture, or map as an image of numbers


def columns(entry: PairEntry, split: str) -> tuple[Column, ...]:
    """The columns of a set with label maps. Raises UserError where its package is missing."""
    make = {"openmoji-layers": _layers, "maps-classes": _classes, "world": _world}[entry.name]
    return make(entry, split)


def _column(entry: PairEntry, split: str, name: str, stamp: str, keys: Callable[[], Sequence[str]], draw: Draw,
            **more: Any) -> Column:  # fmt: skip
    """A column that is drawn at any height and width that is asked for."""
    facts = pairs._facts(entry, split, entry.columns.index(name), **more)

    def load(options: Options) -> Source:
        to = options.settled(facts)
        side = to.drawing_size()
        height, width = (side, side) if to.fit in ("crop", "stretch") else (to.height, to.width)
        own = dataclasses.replace(facts, count=len(keys()), height=height, width=width)
        names = [f"{name}/{key}" for key in keys()]
        return Source(own, names, lambda index: draw(index, height, width), fixed=True, maps=name in MAPS)

    return Column(name, f"1 {facts.name} {name} {stamp}", load, lambda: facts)


def _number_image(ids: NDArray[Any]) -> Image.Image:
    """Whole numbers [H, W] as an image that holds them as they are."""
    return Image.fromarray(ids.astype(np.int32))


# ---- openmoji-layers
SVG = "{http://www.w3.org/2000/svg}"
SHAPES = {"path", "line", "circle", "rect", "polyline", "polygon", "ellipse"}
LINES = LAYERS.index("line")


def _layer(name: str) -> int:
    """The class of what lies in a group of this name; unnamed groups and shapes outside belong to "color"."""
    known = {"color-foreground": "foreground", "line-supplement": "line"}
    name = known.get(name, name)
    return LAYERS.index(name) if name in LAYERS[1:] else LAYERS.index("color")


def coded(svg: str) -> tuple[str, list[int]]:
    """(drawing, layers): shape number n in the colour n + 1, nothing mixed at the edges; the layer of every shape."""
    root = ElementTree.fromstring(svg)
    layers: list[int] = []

    def visit(node: ElementTree.Element, layer: int, fill: str, stroke: str) -> None:
        fill, stroke = node.get("fill", fill), node.get("stroke", stroke)
        for name in ("opacity", "fill-opacity", "stroke-opacity", "class", "style", "shape-rendering", "color"):
            node.attrib.pop(name, None)
        if node.tag.removeprefix(SVG) in SHAPES:
            layers.append(layer)
            colour = f"#{len(layers):06x}"
            node.set("fill", "none" if fill == "none" else colour)
            node.set("stroke", "none" if stroke == "none" else colour)
        for child in node:
            visit(child, layer, fill, stroke)

    for child in root:
        visit(child, _layer(child.get("id", "")), root.get("fill", "black"), root.get("stroke", "none"))
    root.set("shape-rendering", "crispEdges")
    text = ElementTree.tostring(root, encoding="unicode").replace("ns0:", "").replace(":ns0", "")
    return text, layers


def layer_maps(svg: str, height: int, width: int) -> tuple[Ids, Ids]:
    """(label, instance), int32 [height, width], of a drawing in the middle of the canvas.

    label: the layer of the shape that is on top at the pixel, 0 where there is none. instance: 0 for the background;
    the connected visible parts of every shape are objects of their own, all lines together count as one shape.
    """
    from scipy import ndimage

    text, layers = coded(svg)
    bytes_of = np.asarray(_centred(named.draw(text, min(height, width)), height, width)).astype(np.int32)  # [H, W, 4]
    shape = (bytes_of[..., 0] << 16 | bytes_of[..., 1] << 8 | bytes_of[..., 2]) * (bytes_of[..., 3] > 127)
    label = np.array([0, *layers], np.int32)[np.minimum(shape, len(layers))]
    shape = np.where(label == LINES, len(layers) + 1, shape)
    instance, count = np.zeros_like(label), 0
    for one in np.unique(shape[shape > 0]):
        parts, n = ndimage.label(shape == one)
        instance += np.where(parts > 0, parts + count, 0).astype(np.int32)
        count += n
    return label, instance


def _centred(image: Image.Image, height: int, width: int) -> Image.Image:
    if image.size == (width, height):
        return image
    canvas = Image.new("RGBA", (width, height))
    canvas.paste(image, ((width - image.width) // 2, (height - image.height) // 2))
    return canvas


def _layers(entry: PairEntry, split: str) -> tuple[Column, ...]:
    """The drawings of openmoji-edges, in the same parts."""
    package = named._package(SETS["openmoji"])
    if package.is_dir():
        raise UserError(f"{entry.name} needs the npm package {SETS['openmoji'].package}: {package} has no layers.")
    codes = lru_cache(1)(lambda: pairs.edge_codes(package, split))

    def svg(index: int) -> str:
        return pairs._outlines(package)[1][codes()[index]]

    def picture(index: int, height: int, width: int) -> Image.Image:
        return _centred(named.draw(svg(index), min(height, width)), height, width)

    def maps(position: int) -> Draw:
        return lambda index, height, width: _number_image(layer_maps(svg(index), height, width)[position])

    draws = {"label": maps(0), "instance": maps(1), "b": picture}
    stamp = named._stamp(package)
    return tuple(
        _column(entry, split, name, stamp, codes, draw, transparent=name == "b") for name, draw in draws.items()
    )


# ---- maps-classes
MARGIN = 8  # pixels around a tile that are looked at with it
SHADES = 9  # pixels over which colours are averaged, so that the shading of slopes goes


def _classes(entry: PairEntry, split: str) -> tuple[Column, ...]:
    """The tiles of `maps`, in the same parts."""
    files = (*pairs.RASTERS, "lsmask_5min_c.bin", MASK, *BORDERS)
    stamp = named._stamp(*[pairs._raster(name) for name in files])
    keys = lru_cache(1)(lambda: [f"{top:04d}-{left:04d}" for top, left in pairs._tiles(split)])

    def load(name: str, facts: Facts) -> Callable[[Options], Source]:
        def read(index: int) -> Image.Image:
            top, left = pairs._tiles(split)[index]
            if name == "b":
                return Image.fromarray(
                    pairs._pixels(pairs.RASTERS[1])[top : top + pairs.TILE, left : left + pairs.TILE]
                )
            return _number_image((tile_countries if name == "instance" else tile_classes)(top, left))

        names = [f"{name}/{key}" for key in keys()]
        own = dataclasses.replace(facts, count=len(names))
        return lambda options: Source(own, names, read, fixed=True, maps=name in MAPS)

    def column(name: str) -> Column:
        facts = pairs._facts(entry, split, entry.columns.index(name), vector=False)
        facts = dataclasses.replace(facts, height=pairs.TILE, width=pairs.TILE)
        return Column(name, f"1 {facts.name} {name} {stamp}", lambda options: load(name, facts)(options), lambda: facts)

    return tuple(column(name) for name in entry.columns)


MASK = "lsmask_2.5min_f.bin"
BORDERS = ("countriesmeta_i.dat", "countries_i.dat")


@lru_cache(1)
def _surface() -> NDArray[np.uint8]:
    """0 sea, 1 land, 2 lake at 15 pixels a degree, [2700, 5400]."""
    mask = np.frombuffer(gzip.decompress(pairs._raster(MASK).read_bytes()), np.uint8).reshape(4320, 8640)[::-1]
    rows = (2 * np.arange(2700) + 1) * 4320 // 5400
    columns = (2 * np.arange(5400) + 1) * 8640 // 10800
    return np.minimum(mask, 2)[rows][:, columns]


@lru_cache(1)
def _borders() -> NDArray[np.bool_]:
    """Where a border between countries runs, [2700, 5400]: lines without a gap between pixels that touch by corners."""
    about, data = (pairs._raster(name) for name in BORDERS)
    image = Image.new("1", (5400, 2700))
    draw, lines = ImageDraw.Draw(image), data.read_bytes()
    for row in about.read_text().splitlines():
        start, length = (int(part) for part in row.split()[5:7])
        points = np.frombuffer(lines, "<f4", length // 4, start).reshape(-1, 2)  # longitude, latitude in degrees
        pixels = np.stack([(points[:, 0] + 180) * 15, (90 - points[:, 1]) * 15], 1)
        for one, other in pairwise(pixels.tolist()):
            if abs(one[0] - other[0]) < 2700:
                draw.line([*one, *other], fill=1)
    return np.asarray(image)


def tile_classes(top: int, left: int) -> Ids:
    """The classes of the tile with this corner in the raster of heights, int32 [128, 128].

    Sea and lakes by the package's mask; depth and height by the raster's colours, averaged over 9x9 pixels of the same
    side of the coast, which takes the shading of slopes away.
    """
    tall, wide = slice(top - MARGIN, top + pairs.TILE + MARGIN), np.arange(left - MARGIN, left + pairs.TILE + MARGIN)
    surface = _surface()[tall, wide % 5400]
    colours = pairs._pixels(pairs.RASTERS[0])[tall, wide % 5400].astype(np.float32)
    blue = colours[..., 2] > colours[..., :2].max(-1)
    label = np.full(surface.shape, len(DEPTHS), np.int32)  # lake
    for kind, table, first, otherwise in ((0, DEPTHS, 0, "shelf"), (1, HEIGHTS, len(DEPTHS) + 1, "lowland")):
        mine = surface == kind
        if mine.any():
            nearest = _by_colour(colours, mine & (blue == (kind == 0)), table, list(table).index(otherwise))
            label = np.where(mine, first + nearest, label)
    return np.asarray(label[MARGIN:-MARGIN, MARGIN:-MARGIN], np.int32)


def _by_colour(
    colours: NDArray[np.float32],
    counted: NDArray[np.bool_],
    table: Mapping[str, Sequence[Sequence[float]]],
    otherwise: int,
) -> Ids:
    """Which row of a table of shades is nearest to the mean colour of the pixels that count, [H, W]; `otherwise` where
    none near does.
    """
    from scipy import ndimage

    weight = ndimage.uniform_filter(counted.astype(np.float32), SHADES)
    sums = [ndimage.uniform_filter(colours[..., c] * counted, SHADES) for c in range(3)]
    mean = np.stack(sums, -1) / np.maximum(weight, 1e-6)[..., None]  # [H, W, 3]
    largest = np.maximum(mean.max(-1, keepdims=True), 1)
    seen = np.concatenate([mean / largest, largest / 510], -1)  # brightness counts half
    rows = np.array([row for row, shades in enumerate(table.values()) for _ in shades])
    known = np.array([(*shade[:3], shade[3] / 2) for shades in table.values() for shade in shades], np.float32)
    best = ((known**2).sum(-1) - 2 * seen @ known.T).argmin(-1)  # the nearest: |seen|^2 is the same for all
    return np.asarray(np.where(weight > 1e-3, rows[best], otherwise), np.int32)


def tile_countries(top: int, left: int) -> Ids:
    """A number for every connected sea, lake and piece of land between the borders of countries, int32 [128, 128].

    A pixel on a border goes to what is nearest.
    """
    from scipy import ndimage

    tile = slice(top, top + pairs.TILE), slice(left, left + pairs.TILE)
    surface = _surface()[tile]
    lines = _borders()[tile] & (surface == 1)
    instance, count = np.zeros(surface.shape, np.int32), 0
    for kind in (0, 2, 1):
        parts, n = ndimage.label((surface == kind) & ~lines)
        instance += np.where(parts > 0, parts + count, 0).astype(np.int32)
        count += n
    land = (surface == 1) & ~lines
    if lines.any() and land.any():
        places = ndimage.distance_transform_edt(~land, return_distances=False, return_indices=True)
        instance = np.where(lines, instance[tuple(places)], instance)
    return instance


# ---- world
def _world(entry: PairEntry, split: str) -> tuple[Column, ...]:
    keys = lru_cache(1)(lambda: [f"{kind}-{index:04d}" for kind, index in world.members(split)])

    def draw(name: str) -> Draw:
        def drawn(index: int, height: int, width: int) -> Image.Image:
            kind, number = world.members(split)[index]
            scene = world.drawing(number, (height, width), kind)
            if name == "a":
                return Image.fromarray(scene.sketch())
            return _number_image(scene.label() if name == "label" else scene.instance())

        return drawn

    made = [_column(entry, split, name, STAMP, keys, draw(name)) for name in entry.columns if name != "b"]
    return (*made, _told(entry, split, keys))


STAMP = f"world {world.VERSION}"


def _told(entry: PairEntry, split: str, keys: Callable[[], Sequence[str]]) -> Column:
    """The pictures of scenes with their captions, and as tags season, light and how often there is what.

    Both are known once a picture has been drawn, so that nothing is drawn for them alone.
    """
    facts = dataclasses.replace(pairs._facts(entry, split, entry.columns.index("b")), captions=True)

    def load(options: Options) -> Source:
        plain = _column(entry, split, "b", STAMP, keys, lambda *_: Image.new("RGB", (1, 1))).load(options)
        size = plain.facts.height, plain.facts.width
        sentences: list[list[str]] = [[] for _ in plain.names]
        tags: list[list[str]] = [[] for _ in plain.names]

        def read(index: int) -> Image.Image:
            kind, number = world.members(split)[index]
            scene = world.drawing(number, size, kind)
            known = scene.facts()
            sentences[index] = list(known.captions)
            tags[index] = [known.season, known.light, *(f"{n} {what}" for what, n in known.counts.items() if n)]
            return Image.fromarray(scene.image())

        own = dataclasses.replace(plain.facts, captions=True)
        return dataclasses.replace(plain, facts=own, read=read, captions=sentences, tags=tags)

    return Column("b", f"1 {facts.name} b {STAMP}", load, lambda: facts)
