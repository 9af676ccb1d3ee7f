"""How a procedural scene looks: colours of a season and a light, haze, shadows, reflections, lamps and weather."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from random import Random
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter

from .world_land import Land, Part

SEASONS = ("summer", "autumn", "winter")
LIGHTS = ("day", "dusk", "night", "fog")
Colour = tuple[float, float, float]
Floats = NDArray[np.float32]
GREENS = ((62, 120, 48), (86, 142, 52), (52, 108, 62), (112, 152, 60))
LEAVES = {
    "summer": ((58, 118, 44), (84, 140, 52), (44, 98, 52), (120, 150, 60)),
    "autumn": ((206, 120, 34), (188, 70, 36), (222, 166, 50), (150, 92, 40)),
    "winter": ((122, 108, 98), (138, 128, 120), (205, 212, 218), (168, 172, 178)),
}
GRASS = {
    "summer": ((98, 158, 62), (122, 168, 70), (86, 146, 72)),
    "autumn": ((156, 148, 74), (170, 150, 86), (134, 142, 70)),
    "winter": ((232, 238, 244), (222, 232, 242), (240, 242, 244)),
}
FIELDS = {
    "summer": ((222, 190, 92), (150, 176, 78), (186, 148, 94), (226, 208, 130), (170, 132, 170)),
    "autumn": ((150, 108, 70), (176, 140, 84), (198, 166, 96), (128, 96, 66), (146, 136, 82)),
    "winter": ((220, 228, 236), (206, 216, 226), (232, 236, 240), (214, 216, 216), (226, 232, 238)),
}
WALLS = (
    (238, 224, 196), (226, 196, 160), (206, 120, 92), (242, 240, 232), (166, 180, 192), (232, 206, 120), (150, 108, 78),
)  # fmt: skip
ROOFS = ((168, 66, 48), (122, 62, 48), (92, 96, 108), (72, 76, 90), (190, 96, 60), (64, 96, 92))
ROCKS = ((122, 116, 118), (136, 118, 104), (104, 112, 128), (140, 126, 120))
SKIES: dict[str, tuple[tuple[Colour, Colour], ...]] = {
    "day": (((64, 132, 214), (188, 220, 244)), ((90, 150, 216), (220, 232, 240)), ((46, 112, 200), (160, 206, 240))),
    "dusk": (((70, 62, 120), (252, 158, 92)), ((96, 66, 118), (248, 124, 104)), ((62, 92, 146), (254, 206, 140)),
             ((44, 50, 98), (226, 96, 92))),
    "night": (((10, 16, 46), (52, 72, 128)), ((18, 20, 56), (76, 78, 130)), ((10, 26, 52), (40, 92, 118))),
    "fog": (((192, 198, 204), (214, 218, 220)), ((176, 184, 190), (206, 208, 206)), ((206, 204, 198), (222, 220, 214))),
}  # fmt: skip
LIGHT: dict[str, tuple[tuple[float, float, float], ...]] = {  # what the colours of things are multiplied by
    "day": ((1.0, 1.0, 1.0), (1.04, 1.01, 0.95), (0.92, 0.95, 1.0)),
    "dusk": ((0.86, 0.62, 0.56), (0.74, 0.55, 0.58), (0.95, 0.72, 0.56)),
    "night": ((0.33, 0.4, 0.62), (0.4, 0.45, 0.64), (0.29, 0.41, 0.56)),
    "fog": ((0.84, 0.86, 0.87), (0.78, 0.8, 0.82), (0.88, 0.87, 0.84)),
}
HAZE = {"day": 0.5, "dusk": 0.6, "night": 0.62, "fog": 0.95}


class Look:
    """Colours of a season and a light, with chances of their own."""

    def __init__(self, random: Random, season: str, light: str) -> None:
        self.random, self.season, self.light = random, season, light
        self.zenith, self.skyline = random.choice(SKIES[light])
        if season == "winter" and light == "day" and random.random() < 0.5:  # an overcast sky
            self.zenith, self.skyline = (164, 178, 196), (222, 228, 234)
        self.flakes = season == "winter" and self.zenith[0] > 150 and random.random() < 0.6
        self.ambient = random.choice(LIGHT[light])
        self.haze = HAZE[light] * random.uniform(0.85, 1.05)
        self.shift = random.random()  # moves every tone, so that one land has other trees and roofs in another picture
        self.snowy = season == "winter"
        self.capped = random.uniform(0.25, 0.6) if not self.snowy else random.uniform(0.6, 1.0)
        self.from_left = random.random() < 0.5  # where the light comes from

    def pick(self, colours: Sequence[Colour], tone: float) -> Colour:
        return colours[int((tone + self.shift) % 1 * len(colours))]

    def material(self, part: Part) -> tuple[Colour, Colour, float]:
        """(colour where the light falls, colour where it does not, strength of the grain) before light and haze."""
        name, tone = part.material, part.tone
        if name in ("grass", "hill"):
            colour = self.pick(GRASS[self.season], tone)
            return (_times(colour, 1.06), _times(colour, 0.78), 13.0) if name == "grass" else (
                _times(colour, 0.95), _times(colour, 0.72), 9.0)  # fmt: skip
        if name == "field":
            colour = self.pick(FIELDS[self.season], tone)
            return colour, _times(colour, 0.88), 16.0
        if name in ("leaves", "needles"):
            green = name == "needles" and self.season != "winter"
            colour = (
                (34 + 20 * tone, 84 + 14 * tone, 54) if green
                else (150, 168, 166) if name == "needles"
                else self.pick(LEAVES[self.season], tone)
            )  # fmt: skip
            low = (38.0, 70.0, 52.0) if name == "needles" and self.snowy else _times(colour, 0.52)
            return (238.0, 243.0, 247.0) if name == "needles" and self.snowy else _times(colour, 1.16), low, 17.0
        if name.startswith("mountain"):
            colour = _times(self.pick(ROCKS, tone), 1.08)
            return (colour, _times(colour, 0.86), 12.0) if name == "mountain" else (
                _times(colour, 0.66), _times(colour, 0.6), 10.0)  # fmt: skip
        if name.startswith("wall"):
            colour = _times(self.pick(WALLS, tone), 1.0 if name == "wall" else 0.74)
            return colour, _times(colour, 0.9), 4.0
        if name.startswith("roof"):
            colour = (236.0, 241.0, 246.0) if self.snowy else self.pick(ROOFS, tone)
            colour = _times(colour, 1.0 if name == "roof" else 0.7)
            return colour, _times(colour, 0.84), 6.0
        return self._other(name, tone)

    def _other(self, name: str, tone: float) -> tuple[Colour, Colour, float]:
        if name in ("sea", "river"):
            deep = _mix((22, 78, 120), self.zenith, 0.35)
            return _mix(_mix(deep, self.skyline, 0.62), (150, 190, 200), 0.1), deep, 9.0
        if name == "window":
            return ((66, 86, 108), (120, 150, 172), 0.0)
        if name == "hull":
            colour = self.pick(((150, 44, 40), (40, 60, 100), (240, 240, 236), (108, 70, 44), (34, 96, 88)), tone)
            return colour, _times(colour, 0.8), 0.0
        if name == "sail":
            colour = self.pick(((248, 246, 238), (248, 246, 238), (214, 96, 60), (238, 206, 120)), tone)
            return colour, _times(colour, 0.88), 0.0
        table: dict[str, tuple[Colour, Colour, float]] = {
            "palm": (_times(self.pick(GREENS, tone), 1.16), _times(self.pick(GREENS, tone), 0.55), 12.0),
            "sand": ((226, 206, 158), (204, 180, 132), 9.0),
            "road": ((128, 124, 122), (112, 108, 108), 6.0) if tone < 0.6 else ((182, 154, 116), (160, 132, 98), 9.0),
            "marking": ((214, 208, 190), (214, 208, 190), 0.0),
            "trunk": ((112, 82, 58), (70, 50, 38), 8.0),
            "chimney": ((138, 84, 68), (104, 64, 54), 4.0),
            "door": (self.pick(((96, 58, 36), (52, 76, 96), (116, 40, 36), (60, 84, 60)), tone), (52, 40, 34), 0.0),
        }
        if self.snowy:
            table["sand"] = (226, 222, 212), (206, 204, 198), 8.0
            table["road"] = ((188, 190, 194), (160, 162, 168), 9.0)
        return table[name]


def _times(colour: Colour, factor: float) -> Colour:
    return colour[0] * factor, colour[1] * factor, colour[2] * factor


def _mix(one: Colour, other: Colour, share: float) -> Colour:
    a, b = 1 - share, share
    return a * one[0] + b * other[0], a * one[1] + b * other[1], a * one[2] + b * other[2]


def _shades(land: Land, look: Look) -> tuple[Floats, Floats, Floats, Floats]:
    """Per part: colour at t = 0, change to t = 1, plane (a, b, c) with t = a x + b y + c, each [P, 3]; grain [P]."""
    starts, changes, planes, grains = [], [], [], []
    for part in land.parts:
        light, low, grain = _tinted(part, look)
        starts.append(light)
        changes.append([b - a for a, b in zip(light, low, strict=True)])
        planes.append(_plane(part, look, land.horizon))
        grains.append(grain)
    return tuple(np.array(values, np.float32) for values in (starts, changes, planes, grains))  # type: ignore[return-value]


def _tinted(part: Part, look: Look) -> tuple[Colour, Colour, float]:
    """The colours of a part under the light and behind the haze."""
    if part.material == "sky":
        return look.zenith, look.skyline, 0.0
    if part.material == "sun":
        colour = {"day": (255, 246, 206), "dusk": (255, 214, 140), "night": (240, 240, 220), "fog": (240, 238, 228)}
        return colour[look.light], _times(colour[look.light], 0.97), 0.0
    if part.material == "cloud":
        white = {"day": (252, 252, 254), "dusk": (252, 176, 132), "night": (66, 76, 108), "fog": (224, 226, 228)}
        return white[look.light], _mix(white[look.light], look.zenith, 0.42), 8.0
    if part.material == "window" and look.light in ("night", "dusk") and part.tone < 0.75:
        return (255.0, 214.0, 120.0), (248.0, 180.0, 84.0), 0.0
    light, low, grain = look.material(part)
    amb, share = look.ambient, min(1.0, part.depth * look.haze)
    if part.material in ("sea", "river"):  # shows the sky, which is lit already
        amb = (0.9, 0.9, 0.9) if look.light != "night" else (0.62, 0.66, 0.75)
    both = [_mix((c[0] * amb[0], c[1] * amb[1], c[2] * amb[2]), look.skyline, share) for c in (light, low)]
    return both[0], both[1], grain * (1 - share) * sum(amb) / 3


def _plane(part: Part, look: Look, horizon: float) -> tuple[float, float, float]:
    """t of `_shades` over a part: downwards on what lies, away from the light on what stands."""
    if part.material == "sky":
        return 0.0, 1 / horizon, 0.0
    left, right = min(x for x, _ in part.points), max(x for x, _ in part.points)
    top, low = min(y for _, y in part.points), max(y for _, y in part.points)
    high, wide = max(low - top, 1e-6), max(right - left, 1e-6)
    if part.material in ("leaves", "palm", "needles", "trunk", "hull", "sail", "cloud"):
        across = 0.55 / wide if look.from_left else -0.55 / wide
        return across, 0.75 / high, -across * (left + right) / 2 - 0.75 * (top + low) / 2 / high + 0.45
    return 0.0, 1 / high, -top / high


@lru_cache(1)
def _grain() -> Floats:
    """Noise of many sizes, about [-1, 1], 1024x1024, that repeats."""
    draw = np.random.Generator(np.random.PCG64(20))
    total = np.zeros((1024, 1024), np.float32)
    for cells, weight in ((16, 0.3), (32, 0.3), (64, 0.3), (128, 0.35), (256, 0.35), (512, 0.3)):
        values = draw.uniform(-1, 1, (cells, cells)).astype(np.float32)
        around = np.pad(values, ((1, 1), (1, 1)), mode="wrap")
        step = 1024 // cells
        wide = Image.fromarray(around).resize(((cells + 2) * step,) * 2, Image.Resampling.BICUBIC)
        total += weight * np.asarray(wide)[step:-step, step:-step]
    return total


def coloured(shapes: NDArray[Any], land: Land, look: Look, scale: int) -> NDArray[np.uint8]:
    """The picture of a map of parts, [H, W, 3]: colour and grain of each part, then what light does between them."""
    high, wide = shapes.shape
    start, change, plane, grain = _shades(land, look)
    y = ((np.arange(high, dtype=np.float32) + 0.5) / high)[:, None]
    x = ((np.arange(wide, dtype=np.float32) + 0.5) / high)[None]
    shapes = shapes.astype(np.intp)  # taking is fastest with these
    a, b, c = (plane[:, i].take(shapes) for i in range(3))
    t = np.clip(a * x + b * y + c, 0, 1)
    image = start.take(shapes, 0) + change.take(shapes, 0) * t[..., None]  # [H, W, 3]
    noise, off = _grain(), (look.random.randrange(1024), look.random.randrange(1024))
    flat = np.array([part.material in ("sea", "river", "field", "grass", "cloud") for part in land.parts]).take(shapes)
    rows = (off[0] + y * 512).astype(np.intp) % 1024
    columns = (off[1] + x * np.where(flat, 160, 512)).astype(np.intp) % 1024  # what lies has streaks
    rough = noise.ravel().take(1024 * rows + columns)
    image += (grain.take(shapes) * rough)[..., None]
    _caps(image, shapes, y, rough, land, look)
    _shadows(image, shapes, land, look)
    _glow(image, shapes, x, y, land, look)
    _water(image, shapes, x, rough, land, look)
    _lamps(image, shapes, land, look)
    _weather(image, shapes, land, look)
    return np.asarray(Image.fromarray(np.clip(image, 0, 255).astype(np.uint8)).reduce(scale))


def _where(shapes: NDArray[Any], land: Land, *materials: str) -> NDArray[np.bool_]:
    """The pixels of parts of these materials."""
    return np.asarray(np.array([part.material in materials for part in land.parts]).take(shapes))


def _caps(image: Floats, shapes: NDArray[Any], y: Floats, rough: Floats, land: Land, look: Look) -> None:
    """Snow on the mountains, above a height that is not quite even."""
    rows = np.nonzero(_where(shapes, land, "mountain", "mountain shade"))
    if not len(rows[0]):
        return
    tops = np.array([min(py for _, py in part.points) if part.round is False else 0 for part in land.parts], np.float32)
    number = shapes[rows]
    part_way = (y[rows[0], 0] - tops[number]) / np.maximum(land.horizon - tops[number], 1e-3)
    snow = part_way + 0.22 * rough[rows] < look.capped
    white = np.array([250, 252, 255], np.float32) * np.array(look.ambient, np.float32)
    dark = np.array([part.material == "mountain shade" for part in land.parts])[number]
    depth = np.array([part.depth for part in land.parts], np.float32)[number] * look.haze * 0.7
    colour = white * np.where(dark, 0.76, 1.0)[:, None]
    colour += (np.array(look.skyline, np.float32) - colour) * depth[:, None]
    image[rows[0][snow], rows[1][snow]] = colour[snow]


def _shadows(image: Floats, shapes: NDArray[Any], land: Land, look: Look) -> None:
    """Soft dark ovals beside trees and houses, on the ground alone."""
    if look.light in ("fog",):
        return
    high, wide = shapes.shape
    small = Image.new("L", (wide // 2, high // 2), 0)
    draw = ImageDraw.Draw(small)
    for part in land.parts:
        if part.material in ("trunk", "wall"):
            left, right = min(x for x, _ in part.points), max(x for x, _ in part.points)
            base = max(y for _, y in part.points)
            reach = (right - left) * (3.4 if part.material == "trunk" else 0.62)
            middle = (left + right) / 2 + (reach if look.from_left else -reach) * 0.55
            box = [v * high / 2 for v in (middle - reach, base - 0.17 * reach, middle + reach, base + 0.17 * reach)]
            draw.ellipse(box, fill=110 if look.light != "night" else 60)
    mask = np.asarray(small.filter(ImageFilter.BoxBlur(high / 256)).resize((wide, high)), np.float32) / 255
    ground = _where(shapes, land, "grass", "sand", "road", "field", "marking", "river")
    image *= (1 - mask * ground)[..., None]


def _glow(image: Floats, shapes: NDArray[Any], x: Floats, y: Floats, land: Land, look: Look) -> None:
    """The sky is brighter around the sun."""
    if land.sun is None:
        return
    strength, reach = {"day": (70, 0.16), "dusk": (110, 0.26), "night": (46, 0.12), "fog": (34, 0.2)}[look.light]
    distance = (x - land.sun[0]) ** 2 + (y - land.sun[1]) ** 2
    far = _where(shapes, land, "sky", "sun", "cloud", "mountain", "mountain shade")
    halo = strength * np.exp(-distance / reach**2) * far
    warm = {"day": (1, 0.97, 0.8), "dusk": (1, 0.72, 0.36), "night": (0.75, 0.85, 1), "fog": (1, 1, 0.95)}[look.light]
    image += halo[..., None] * np.array(warm, np.float32)


def _water(image: Floats, shapes: NDArray[Any], x: Floats, rough: Floats, land: Land, look: Look) -> None:
    """The sea shows what is behind it upside down, and a way of light below the sun."""
    rows, columns = np.nonzero(_where(shapes, land, "sea"))
    if not len(rows):
        return
    high = shapes.shape[0]
    edge = round(land.horizon * high)
    wave = rough[rows, columns] * 0.03 * high
    above = np.clip(2 * edge - rows + wave, 0, max(0, edge - 1)).astype(np.int32)
    seen = image[above, columns]
    image[rows, columns] += 0.38 * (seen - image[rows, columns])
    if land.sun is not None:
        away = (x[0, columns] - land.sun[0]) / (0.03 + 0.22 * (rows / high - land.horizon))
        bright = np.exp(-(away**2)) * np.clip(0.35 + 1.6 * rough[rows, columns], 0, 1)
        strength = {"day": 90, "dusk": 130, "night": 90, "fog": 20}[look.light]
        colour = np.array({"dusk": (1, 0.75, 0.45)}.get(look.light, (1, 1, 0.9)), np.float32)
        image[rows, columns] += strength * bright[:, None] * colour


def _lamps(image: Floats, shapes: NDArray[Any], land: Land, look: Look) -> None:
    """Light falls out of the windows at night."""
    if look.light != "night":
        return
    lit = np.array([part.material == "window" and part.tone < 0.75 for part in land.parts])[shapes]
    if not lit.any():
        return
    high, wide = shapes.shape
    mask = Image.fromarray((255 * lit).astype(np.uint8)).reduce(4).filter(ImageFilter.BoxBlur(high / 90))
    soft = np.asarray(mask.filter(ImageFilter.BoxBlur(high / 60)).resize((wide, high)), np.float32) / 255
    image += (190 * soft * ~lit)[..., None] * np.array([1.0, 0.72, 0.34], np.float32)


def _weather(image: Floats, shapes: NDArray[Any], land: Land, look: Look) -> None:
    """Stars in a clear night, and flakes of snow in some of the grey winter days."""
    high, wide = shapes.shape
    if look.light == "night":
        count, where, size, strength = round(70 * wide / high), _where(shapes, land, "sky"), 0.0035, (60, 200)
    elif look.flakes:
        count, where, size, strength = round(150 * wide / high), np.ones(shapes.shape, np.bool_), 0.0065, (70, 190)
    else:
        return
    colour = np.array([1.0, 1.0, 0.97], np.float32)
    for _ in range(count):
        side = max(2, round(high * size * look.random.uniform(0.7, 1.3)))
        row, column = look.random.randrange(high), look.random.randrange(wide)
        place = slice(row, row + side), slice(column, column + side)
        image[place] += look.random.uniform(*strength) * where[place][..., None] * colour
