"""Procedural scenes: a land with sky, water, trees and houses, and everything that is true about it.

    scene    picture, label map, objects, line drawing, caption and counts of scene number `index`, at any size
    facts    caption and counts alone, without a picture       captions    several sentences about a scene

What lies where and how it looks are drawn from two streams of random numbers: of one land there are pictures in every
season and light, and its label map does not say which. A scene is a function of (seed, split, index) and the proportion
of its sides; its size only decides how finely it is drawn. Lengths are in heights of the picture, y points down.

Every shape is drawn once, as a number, at two to four times the size. The label map and the objects are that map looked
at in the middle of each pixel; the picture is that map coloured and averaged; the sketch is where it changes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter

from saddlepoint.errors import UserError, unknown

from .catalog import SPLITS
from .world_land import Land, Part
from .world_look import LIGHTS as LIGHTS
from .world_look import SEASONS as SEASONS
from .world_look import Look, coloured

VERSION = 1  # raised when the same index would give another scene
COUNTS = {"train": 4000, "test": 400}
KINDS = (
    "house", "tree", "boat", "cloud", "wood", "mountain range", "hill", "field", "river", "road", "sea", "sun or moon",
)  # fmt: skip
SEEN = 6  # pixels of a scene 64 pixels high that an object needs to be counted


@dataclass(frozen=True)
class Facts:
    """What is true about a scene. counts: objects of each of `KINDS` that can be seen."""

    caption: str
    captions: tuple[str, ...]
    counts: dict[str, int]
    season: str
    light: str


@dataclass(frozen=True, eq=False)
class Scene:
    """One scene. image uint8 [H, W, 3]; label, instance int32 [H, W]; sketch uint8 [H, W], dark lines on white.

    label: classes in the order of `data.pair_catalog.SCENERY`. instance: 0 is the sky, every other object has a number
    of its own; a house with its roof and windows is one.
    """

    image: NDArray[np.uint8]
    label: NDArray[np.int32]
    instance: NDArray[np.int32]
    sketch: NDArray[np.uint8]
    caption: str
    counts: dict[str, int]
    captions: tuple[str, ...]
    season: str
    light: str


# ---- what a user calls
def members(split: str) -> list[tuple[str, int]]:
    """("train" or "test", index) of every scene of a split. UserError for an unknown split."""
    if split not in SPLITS:
        raise unknown("split of the set 'world'", split, SPLITS)
    return [(kind, index) for kind in COUNTS if split in (kind, "all") for index in range(COUNTS[kind])]


def scene(
    index: int, size: int | tuple[int, int] = 64, split: str = "train", *, seed: int = 0, season: str = "",
    light: str = "",
) -> Scene:  # fmt: skip
    """Scene number `index`, at `size` pixels (one side, or height and width).

    Any index from 0 will do: the named set "world" holds the first 4,000 of "train" and the first 400 of "test".
    season, light: in which to see the land, in place of its own. Raises UserError for what is not among `SEASONS` and
    `LIGHTS`, an unknown split, and sizes under 8 pixels.
    """
    drawn = _Drawn(index, _sides(size), split, seed, season, light)
    facts = drawn.facts()
    return Scene(
        drawn.image(), drawn.label(), drawn.instance(), drawn.sketch(), facts.caption, facts.counts, facts.captions,
        facts.season, facts.light,
    )  # fmt: skip


def facts(index: int, split: str = "train", *, seed: int = 0) -> Facts:
    """Caption, counts, season and light of a square scene, without drawing its picture."""
    return _Drawn(index, (64, 64), split, seed, "", "").facts()


def drawing(index: int, size: tuple[int, int], split: str) -> _Drawn:
    """What draws a scene of the named set: `.image()`, `.label()`, `.instance()`, `.sketch()`, `.facts()`."""
    return _Drawn(index, size, split, 0, "", "")


def _sides(size: int | tuple[int, int]) -> tuple[int, int]:
    height, width = (size, size) if isinstance(size, int) else size
    if min(height, width) < 8:
        raise UserError(f"a scene of {height}x{width} pixels is too small to see; expected 8 or more a side.")
    return height, width


class _Drawn:
    """A scene whose shapes are drawn when they are first needed."""

    def __init__(self, index: int, size: tuple[int, int], split: str, seed: int, season: str, light: str) -> None:
        if split not in COUNTS:
            raise unknown("split of a scene", split, COUNTS)
        if index < 0:
            raise UserError(f"scene {index} is not there: scenes count from 0.")
        for name, value, known in (("season", season, SEASONS), ("light", light, LIGHTS)):
            if value and value not in known:
                raise unknown(name, value, known)
        key = f"saddlepoint world {VERSION} {seed} {split} {index}"
        self.size, self.key = size, key
        self.land = Land(Random(key), size[1] / size[0])
        style = Random(f"{key} style")
        chosen = style.choices(SEASONS, (5, 2, 3))[0], style.choices(LIGHTS, (48, 25, 17, 10))[0]
        self.season, self.light = season or chosen[0], light or chosen[1]
        self.scale = 4 if size[0] <= 64 else 3 if size[0] <= 128 else 2
        self._shapes: NDArray[np.int32] | None = None

    def shapes(self) -> NDArray[np.int32]:
        """The number of the part at every place, [scale H, scale W]."""
        if self._shapes is None:
            self._shapes = _rastered(self.land.parts, self.scale * self.size[0], self.scale * self.size[1])
        return self._shapes

    def _at(self, values: Sequence[int]) -> NDArray[np.int32]:
        middle = slice(self.scale // 2, None, self.scale)
        return np.array(values, np.int32)[self.shapes()[middle, middle]]

    def label(self) -> NDArray[np.int32]:
        return self._at([part.label for part in self.land.parts])

    def instance(self) -> NDArray[np.int32]:
        return self._at([part.thing for part in self.land.parts])

    def sketch(self) -> NDArray[np.uint8]:
        """Lines a little over a pixel wide where one object, or one side of it, ends."""
        lines = np.array([part.line for part in self.land.parts], np.int32)[self.shapes()]
        edge = np.zeros(lines.shape, np.uint8)
        edge[1:] |= lines[1:] != lines[:-1]
        edge[:, 1:] |= lines[:, 1:] != lines[:, :-1]
        image = Image.fromarray(255 - 235 * edge).filter(ImageFilter.MinFilter(2 * (self.scale // 2) + 1))
        return np.asarray(image.reduce(self.scale))

    def image(self) -> NDArray[np.uint8]:
        look = Look(Random(f"{self.key} {self.season} {self.light}"), self.season, self.light)
        return coloured(self.shapes(), self.land, look, self.scale)

    def facts(self) -> Facts:
        """Counted at 64 pixels whatever the size, so that they do not depend on it."""
        height, width = self.size
        small = (64, max(8, round(64 * width / height)))
        ids = self.shapes() if small == self.size else _rastered(self.land.parts, 4 * small[0], 4 * small[1])
        things = np.array([part.thing for part in self.land.parts])[ids[2::4, 2::4]]
        area = np.bincount(things.ravel(), minlength=len(self.land.kinds))
        counts = dict.fromkeys(KINDS, 0)
        for number, kind in enumerate(self.land.kinds):
            if kind in counts and area[number] >= SEEN:
                counts[kind] += 1
        sentences = captions(counts, self.season, self.light, Random(f"{self.key} words"))
        return Facts(sentences[0], sentences, counts, self.season, self.light)


def _rastered(parts: Sequence[Part], height: int, width: int) -> NDArray[np.int32]:
    """Number of the part on top at every pixel, [height, width]; part 0 is everywhere."""
    image = Image.new("I", (width, height), 0)
    draw = ImageDraw.Draw(image)
    for number, part in enumerate(parts):
        points = [(x * height - 0.5, y * height - 0.5) for x, y in part.points]
        if part.round:
            draw.ellipse((*points[0], *points[-1]), fill=number)
        elif number:
            draw.polygon(points, fill=number)
    return np.asarray(image, np.int32)


# ---- words
NUMBERS = ("no", "a", "two", "three", "four", "five", "six", "seven", "eight", "nine")


def _several(count: int, noun: str) -> str:
    number = NUMBERS[count] if count < len(NUMBERS) else str(count)
    return f"{number} {noun}" if count == 1 else f"{number} {noun}s"


def _joined(parts: Sequence[str]) -> str:
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"


def captions(counts: dict[str, int], season: str, light: str, random: Random) -> tuple[str, ...]:
    """Four sentences about a scene with these objects; the first names every house, tree and boat, and the place."""
    things = [_several(counts[kind], kind) for kind in ("house", "boat", "tree") if counts[kind]]
    what = _joined(things) if things else "empty land"
    place = (
        "by the sea" if counts["sea"]
        else "beside a river" if counts["river"]
        else "along a road" if counts["road"]
        else "below the mountains" if counts["mountain range"]
        else "between fields" if counts["field"]
        else random.choice(("on a meadow", "in the country"))
    )  # fmt: skip
    when = {
        "day": f"on a {random.choice(('clear ', 'bright ', ''))}{season} day",
        "dusk": f"at dusk in {season}",
        "night": f"on a {season} night",
        "fog": f"in the fog of a {season} morning",
    }[light]
    back = [name for kind, name in (("mountain range", "mountains"), ("hill", "hills"), ("wood", "a wood"))
            if counts[kind] and not (kind == "mountain range" and place.endswith("mountains"))]  # fmt: skip
    behind = f", {_joined(back)} behind" if back else ""
    disc = "moon" if light == "night" else "sun"
    sky = [f"the {disc}"] if counts["sun or moon"] else []
    sky += [_several(counts["cloud"], "cloud")] if counts["cloud"] else []
    above = f", {_joined(sky)} above" if sky else ""
    return (
        f"{what} {place} {when}",
        f"{what} {place}{behind}{above}, {when}",
        f"a {random.choice(('landscape', 'view', 'scene'))} with {what} {place}, {when}",
        f"{when}: {what}{behind}",
    )
