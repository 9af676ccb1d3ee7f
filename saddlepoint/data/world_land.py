"""What lies where in a procedural scene: shapes from back to front, each with its class, its object and its material.

Lengths are in heights of the picture, y points down. All chances come from one `random.Random`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import Random

from .pair_catalog import SCENERY

Points = list[tuple[float, float]]


@dataclass(frozen=True)
class Part:
    """One shape. `tone` in [0, 1] chooses among a material's colours; parts of one `line` have no line between them."""

    points: Points
    label: int
    thing: int
    material: str
    tone: float = 0.5
    depth: float = 0.0  # 0 near, 1 far: how much haze lies before it
    line: int = 0
    round: bool = False  # an ellipse in the box of the first and the last point


class Land:
    """Where everything lies. parts: shapes from back to front; kinds: of every object, by its number."""

    def __init__(self, random: Random, width: float) -> None:
        self.random, self.width = random, width
        self.kinds = ["sky"]
        self.parts = [Part([(0, 0), (width, 1)], 0, 0, "sky")]
        self.lines = 0
        self.horizon = random.uniform(0.36, 0.58)
        self.coast = random.random() < 0.3
        self.shore: Callable[[float], float] | None = None  # x -> y where the land begins
        self.ways: list[tuple[Callable[[float], float], Callable[[float], float]]] = []  # (middle, half width) at y
        self.sun: tuple[float, float] | None = None
        self._sky()
        self._background()
        self._ground()
        self._objects()

    # -- adding
    def thing(self, kind: str) -> int:
        """The number of a new object."""
        self.kinds.append(kind)
        return len(self.kinds) - 1

    def outline(self) -> int:
        self.lines += 1
        return self.lines

    def add(
        self, points: Points, label: str, thing: int, material: str, *, tone: float = 0.5, depth: float = 0.0,
        line: float = 0,
    ) -> None:  # fmt: skip
        """A polygon with a line around it, or as part of the `line` that is given."""
        line = int(line) or self.outline()
        self.parts.append(Part(points, SCENERY.index(label), thing, material, tone, depth, line))

    def oval(
        self, x: float, y: float, a: float, b: float, label: str, thing: int, material: str, *, tone: float = 0.5,
        depth: float = 0.0, line: float = 0,
    ) -> None:  # fmt: skip
        """An ellipse around (x, y) with half axes a and b."""
        ends, line = [(x - a, y - b), (x + a, y + b)], int(line) or self.outline()
        self.parts.append(Part(ends, SCENERY.index(label), thing, material, tone, depth, line, round=True))

    # -- sky
    def _sky(self) -> None:
        r, top = self.random, self.horizon
        if r.random() < 0.65:
            self.sun = r.uniform(0.1, 0.9) * self.width, r.uniform(0.08, top - 0.08)
            size = r.uniform(0.03, 0.06)
            self.oval(*self.sun, size, size, "sun or moon", self.thing("sun or moon"), "sun")
        for _ in range(r.choice((0, 0, 1, 2, 2, 3, 4))):
            self._cloud(r.uniform(0, self.width), r.uniform(0.06, max(0.1, top - 0.12)), r.uniform(0.07, 0.17))

    def _cloud(self, x: float, y: float, size: float) -> None:
        r, thing, line, tone = self.random, self.thing("cloud"), self.outline(), self.random.random()
        for k in range(r.randint(4, 6)):
            away = (k % 2 * 2 - 1) * (k // 2 + k % 2) / 3 * r.uniform(0.8, 1.1)
            high = size * (0.42 - 0.2 * abs(away)) * r.uniform(0.8, 1.2)
            self.oval(
                x + away * size, y - high * 0.6, size * r.uniform(0.35, 0.5), max(0.012, high), "cloud", thing, "cloud",
                tone=tone, depth=0.3, line=line,
            )  # fmt: skip

    # -- behind
    def _background(self) -> None:
        r = self.random
        if self.coast:
            self.add(self._down(lambda x: self.horizon), "sea", self.thing("sea"), "sea", depth=0.15)
        for k in range(r.choice((0, 1, 1, 2) if not self.coast else (0, 0, 0, 1))):
            self._range(0.9 - 0.25 * k, r.uniform(0.16, 0.34) * (1 - 0.35 * k))
        for k in range(r.choice((0, 1, 2)) if not self.coast else 0):
            self._hill(0.5 - 0.2 * k, r.uniform(0.05, 0.13) * (1 - 0.3 * k))

    def _range(self, depth: float, high: float) -> None:
        """Mountains: peaks of their own shape, the higher ones behind, each with its side in the shade."""
        r, thing, base = self.random, self.thing("mountain range"), self.horizon + 0.004
        tone, count = r.random(), r.randint(2, 5)
        middle, spread = r.uniform(0.2, 0.8) * self.width, r.uniform(0.4, 1.1) * self.width
        peaks = [(middle + (k / max(1, count - 1) - 0.5) * spread + r.uniform(-0.08, 0.08), r.uniform(0.5, 1) * high)
                 for k in range(count)]  # fmt: skip
        for x, h in sorted(peaks, key=lambda peak: -peak[1]):
            wide = h * r.uniform(1.0, 1.7)
            slope = [(t, r.uniform(-0.09, 0.09)) for t in (0.2, 0.4, 0.6, 0.8)]
            left = [(x - wide * min(1, t + o), base - h * (1 - t)) for t, o in slope]
            right = [(x + wide * min(1, t - o * 0.7), base - h * (1 - t)) for t, o in slope]
            top, foot = (x, base - h), [(x + wide, base), (x - wide, base)]
            line = self.outline()
            self.add(
                [top, *right, *foot, *left[::-1]], "mountain", thing, "mountain", tone=tone, depth=depth, line=line
            )
            bend = [(x + wide * (0.18 * t + r.uniform(-0.1, 0.12)), base - h * (1 - t)) for t, _ in slope]
            shade = [top, *bend, (x + 0.1 * wide, base), foot[0], *right[::-1]]
            self.add(shade, "mountain", thing, "mountain shade", tone=tone, depth=depth)

    def _hill(self, depth: float, high: float) -> None:
        r, thing = self.random, self.thing("hill")
        a, b, c = r.uniform(0, 6.3), r.uniform(2, 5), r.uniform(0, 6.3)
        waves = lambda x: 0.6 + 0.3 * math.sin(b * x + a) + 0.1 * math.sin(2.7 * b * x + c)  # noqa: E731
        self.add(
            self._down(lambda x: self.horizon - high * waves(x)), "hill", thing, "hill", tone=r.random(), depth=depth
        )

    def _down(self, edge: Callable[[float], float]) -> Points:
        """Everything under an edge y(x)."""
        steps = [self.width * k / 24 for k in range(25)]
        return [*((x, edge(x)) for x in steps), (self.width, 1.0), (0.0, 1.0)]

    # -- the ground
    def _ground(self) -> None:
        r, h = self.random, self.horizon
        if self.coast:
            start, lean, phase = h + r.uniform(0.1, 0.26), r.uniform(-0.22, 0.22), r.uniform(0, 6.3)
            wide, wave = r.uniform(0.03, 0.12), r.uniform(2, 5)

            def shore(x: float) -> float:
                return max(h + 0.04, start + lean * (x / self.width - 0.5) + 0.02 * math.sin(wave * x + phase))

            def land(x: float) -> float:
                return min(0.98, shore(x) + wide * (1 + 0.4 * math.sin(3 * x + phase)))

            self.shore = shore
            self.add(self._down(shore), "sand", self.thing("sand"), "sand", tone=r.random())
            self.add(self._down(land), "grass", self.thing("grass"), "grass", tone=r.random())
            return
        wave, phase = r.uniform(2, 6), r.uniform(0, 6.3)
        self.add(self._down(lambda x: h + 0.008 * math.sin(wave * x + phase)), "grass", self.thing("grass"), "grass",
                 tone=r.random())  # fmt: skip
        if r.random() < 0.45:
            self._fields()
        if r.random() < 0.35:
            self._wood()
        side = r.choice((-1, 1))
        if r.random() < 0.35:
            self._way("river", r.uniform(0.28, 0.46), side, 0.09)
        if r.random() < 0.42:
            self._way("road", r.uniform(0.16, 0.26), -side, 0.05)

    def _fields(self) -> None:
        r, h = self.random, self.horizon
        x, vanish = r.uniform(0, 0.5) * self.width, r.uniform(0.2, 0.8) * self.width
        near, far = h + r.uniform(0.12, 0.3), h + r.uniform(0.015, 0.04)
        for _ in range(r.randint(2, 4)):
            wide = r.uniform(0.15, 0.4)
            t = (far - h) / (near - h)
            edges = [vanish + (e - vanish) * t for e in (x, x + wide)]
            points = [(edges[0], far), (edges[1], far), (x + wide, near), (x, near)]
            self.add(points, "field", self.thing("field"), "field", tone=r.random(), depth=0.15)
            x += wide * r.uniform(1.0, 1.3)

    def _wood(self) -> None:
        """The edge of a forest along the horizon."""
        r, thing, h = self.random, self.thing("wood"), self.horizon
        start, wide, high, x = r.uniform(-0.1, 0.6) * self.width, r.uniform(0.3, 0.8), r.uniform(0.03, 0.06), 0.0
        line, tone = self.outline(), r.random()
        material = r.choice(("leaves", "needles"))
        while x < wide:
            size = high * r.uniform(0.6, 1.1)
            middle = start + x
            if material == "needles":
                points = [
                    (middle - size * 0.5, h + 0.02),
                    (middle, h + 0.02 - 1.6 * size),
                    (middle + size * 0.5, h + 0.02),
                ]
                self.add(points, "tree", thing, material, tone=tone, depth=0.4, line=line)
            else:
                self.oval(middle, h + 0.02 - size * 0.6, size * 0.7, size * 0.7, "tree", thing, material, tone=tone,
                          depth=0.4, line=line)  # fmt: skip
            x += size * r.uniform(0.5, 0.8)

    def _way(self, kind: str, wide: float, side: int, swing: float) -> None:
        """A river or a road from the horizon to the lower border, wider where it is near."""
        r, h = self.random, self.horizon
        far = (0.5 + side * r.uniform(0.0, 0.25)) * self.width
        near = (0.5 + side * r.uniform(0.1, 0.45)) * self.width
        turns, phase = r.uniform(3, 6), r.uniform(0, 6.3)

        def middle(y: float) -> float:
            t = max(0.0, (y - h) / (1 - h))
            return far + (near - far) * t**1.5 + swing * math.sin(turns * math.sqrt(t) + phase) * (0.25 + t)

        def half(y: float) -> float:
            t = max(0.0, (y - h) / (1 - h))
            return 0.5 * (0.01 + wide * t**1.3)

        steps = [h + 0.006 + (1.01 - h) * (k / 20) ** 1.4 for k in range(21)]
        left = [(middle(y) - half(y), y) for y in steps]
        right = [(middle(y) + half(y), y) for y in steps]
        thing = self.thing(kind)
        self.add([*left, *right[::-1]], kind, thing, kind, tone=r.random())
        if kind == "road" and r.random() < 0.6:  # the line in its middle
            line = self.lines
            for one, other in zip(steps[6:-1:2], steps[7::2], strict=True):
                a, b, w, v = middle(one), middle(other), 0.09 * half(one), 0.09 * half(other)
                self.add(
                    [(a - w, one), (a + w, one), (b + v, other), (b - v, other)], "road", thing, "marking", line=line
                )
        self.ways.append((middle, half))

    # -- objects
    def _objects(self) -> None:
        """Houses, trees and boats, the far ones first."""
        r = self.random
        made: list[tuple[float, float, float, str]] = []  # (y, x, half width, kind)
        wanted = ["house"] * r.choices((0, 1, 2, 3), (30, 35, 20, 15))[0]
        wanted += ["tree"] * r.choices(range(9), (8, 12, 15, 15, 14, 12, 10, 8, 6))[0]
        if self.coast:
            wanted += ["boat"] * r.choice((0, 0, 1, 1, 2))
        for kind in wanted:
            for _ in range(12):
                place = self._place(kind)
                if place is not None and self._free(*place, made):
                    made.append((*place, kind))
                    break
        for y, x, half, kind in sorted(made):
            {"house": self._house, "tree": self._tree, "boat": self._boat}[kind](x, y, half)

    def near(self, y: float) -> float:
        """How large things look that stand at y: 0.12 at the horizon, 1 at the lower border."""
        return 0.12 + 0.88 * max(0.0, y - self.horizon) / (1 - self.horizon)

    def _place(self, kind: str) -> tuple[float, float, float] | None:
        """(y, x, half width) of a place to stand on; None where there is none at this x."""
        r = self.random
        x = r.uniform(0.05, 0.95) * self.width
        ground = self.shore(x) if self.shore else self.horizon
        if kind == "boat":
            y = r.uniform(self.horizon + 0.03, max(self.horizon + 0.035, ground - 0.02))
            return (y, x, 0.16 * (0.25 + self.near(y))) if y < ground else None
        first = ground + (0.05 if self.shore else 0.02)
        y = first + (0.97 - first) * r.random() ** 1.25
        return y, x, self.near(y) * (r.uniform(0.17, 0.24) if kind == "house" else r.uniform(0.07, 0.11))

    def _free(self, y: float, x: float, half: float, made: Sequence[tuple[float, float, float, str]]) -> bool:
        if any(abs(x - middle(y)) < wide(y) + 0.8 * half for middle, wide in self.ways):
            return False
        return all(abs(x - other[1]) > 0.85 * (half + other[2]) or abs(y - other[0]) > 0.22 for other in made)

    def _tree(self, x: float, y: float, half: float) -> None:
        r, thing, tone = self.random, self.thing("tree"), self.random.random()
        kind = r.choices(("round", "fir", "poplar", "palm"), (5, 4, 2, 3) if self.shore else (6, 5, 2, 0))[0]
        depth = 0.35 * (1 - self.near(y))
        high = half * r.uniform(3.2, 4.4) * (1.3 if kind in ("fir", "poplar") else 1.0)
        w = half * (0.13 if kind == "palm" else 0.17)
        trunk = [(x - w, y), (x + w, y), (x + 0.7 * w, y - 0.6 * high), (x - 0.7 * w, y - 0.6 * high)]
        if kind == "palm":
            lean = r.uniform(-0.5, 0.5) * half
            top = (x + lean, y - 0.75 * high)
            self.add([(x - w, y), (x + w, y), (top[0] + 0.6 * w, top[1]), (top[0] - 0.6 * w, top[1])], "tree", thing,
                     "trunk", tone=tone, depth=depth)  # fmt: skip
            line = self.outline()
            for angle in (-2.9, -2.3, -1.7, -1.2, -0.7, -0.15):
                reach = half * r.uniform(1.1, 1.5)
                far = (top[0] + reach * math.cos(angle), top[1] + 0.75 * reach * math.sin(angle) + 0.25 * reach)
                mid = (top[0] + 0.55 * reach * math.cos(angle), top[1] + 0.8 * reach * math.sin(angle))
                self.add([top, (mid[0], mid[1] - 0.12 * reach), far, (mid[0], mid[1] + 0.16 * reach)], "tree", thing,
                         "palm", tone=tone, depth=depth, line=line)  # fmt: skip
            return
        self.add(trunk, "tree", thing, "trunk", tone=tone, depth=depth)
        line = self.outline()
        more = {"tone": tone, "depth": depth, "line": float(line)}
        if kind == "fir":
            for k in range(3):
                low, wide = y - high * (0.14 + 0.24 * k), half * (1.05 - 0.25 * k)
                self.add([(x - wide, low), (x, low - 0.44 * high), (x + wide, low)], "tree", thing, "needles", **more)
        elif kind == "poplar":
            self.oval(x, y - 0.56 * high, 0.52 * half, 0.44 * high, "tree", thing, "leaves", **more)
        else:
            middle = y - 0.62 * high
            for dx, dy, size in ((-0.5, 0.1, 0.62), (0.5, 0.12, 0.6), (0.0, -0.3, 0.72), (0.05, 0.12, 0.7)):
                self.oval(x + dx * half, middle + dy * half * 1.5, size * half * r.uniform(0.9, 1.1),
                          size * half * 1.1, "tree", thing, "leaves", **more)  # fmt: skip

    def _house(self, x: float, y: float, half: float) -> None:
        r, thing, tone = self.random, self.thing("house"), self.random.random()
        depth, kind = 0.3 * (1 - self.near(y)), r.choices(("long", "gable", "tall"), (5, 5, 2))[0]
        more = {"tone": tone, "depth": depth}
        wall = half * r.uniform(0.8, 1.05) * (2.0 if kind == "tall" else 1.0)
        half *= 0.75 if kind == "tall" else 1.0
        roof, eave = half * r.uniform(0.55, 0.8), 0.1 * half
        top = y - wall
        if r.random() < 0.6 and kind != "tall":
            c = x + half * r.uniform(0.25, 0.6)
            self.add(box(c - 0.09 * half, top - 1.05 * roof, c + 0.09 * half, top), "roof", thing, "chimney", **more)
        if kind == "gable":  # the front, and the side that goes back to the right or to the left
            way, front = r.choice((-1, 1)), 0.85 * half
            a, b, end = x - way * half, x - way * half + way * front, x + way * half
            peak = ((a + b) / 2, top - roof)
            back = (end - way * front / 2 * 0.6, top - roof)
            self.add([(b, y), (end, y - 0.05 * half), (end, top), (b, top)], "house", thing, "wall shade", **more)
            self.add([(a, y), (b, y), (b, top), peak, (a, top)], "house", thing, "wall", **more)
            self.add([(b + way * eave * 0.3, top + eave * 0.6), peak, back, (end + way * eave, top + eave * 0.3)],
                     "roof", thing, "roof", **more)  # fmt: skip
            self.add([(a - way * eave, top + eave), peak, (peak[0], peak[1] + 0.16 * half),
                      (a - way * eave * 0.2, top + 1.6 * eave)], "roof", thing, "roof shade", **more)  # fmt: skip
            self._windows(thing, min(b, end), max(b, end), top, y - 0.05 * half, 2, 1, depth, tone)
            self._windows(thing, min(a, b), max(a, b), top, y, 2, 1, depth, tone, door=True)
            return
        self.add(box(x - half, top, x + half, y), "house", thing, "wall", **more)
        if kind == "tall":
            self.add(box(x - half - 0.05 * half, top - 0.12 * half, x + half + 0.05 * half, top), "roof", thing,
                     "roof", **more)  # fmt: skip
        else:
            slant = r.uniform(0.1, 0.45) * half
            self.add([(x - half - eave, top + 0.5 * eave), (x - half + slant, top - roof),
                      (x + half - slant, top - roof), (x + half + eave, top + 0.5 * eave)],
                     "roof", thing, "roof", **more)  # fmt: skip
        rows = r.randint(3, 4) if kind == "tall" else 1
        self._windows(thing, x - half, x + half, top, y, 3, rows, depth, tone, door=True)

    def _windows(
        self, thing: int, left: float, right: float, top: float, base: float, columns: int, rows: int, depth: float,
        tone: float, door: bool = False,
    ) -> None:  # fmt: skip
        """Windows on a wall in rows and columns, with a door in place of the last one below."""
        wide, high = (right - left) / columns, (base - top) / (rows + 0.2)
        for row in range(rows):
            for k in range(columns):
                x, y = left + wide * (k + 0.5), top + high * (row + 0.5)
                lit = self.random.random()
                if door and row == rows - 1 and k == columns // 2:
                    self.add(box(x - 0.2 * wide, y - 0.2 * high, x + 0.2 * wide, base), "house", thing, "door",
                             tone=tone, depth=depth)  # fmt: skip
                else:
                    self.add(box(x - 0.26 * wide, y - 0.26 * high, x + 0.26 * wide, y + 0.26 * high), "window", thing,
                             "window", tone=lit, depth=depth)  # fmt: skip

    def _boat(self, x: float, y: float, half: float) -> None:
        r, thing, tone = self.random, self.thing("boat"), self.random.random()
        depth, high = 0.3 * (1 - self.near(y)), half * r.uniform(1.5, 2.0)
        self.add([(x - 0.9 * half, y - 0.26 * half), (x + half, y - 0.3 * half), (x + 0.65 * half, y),
                  (x - 0.6 * half, y)], "boat", thing, "hull", tone=tone, depth=depth)  # fmt: skip
        mast = x + 0.1 * half
        self.add([(mast, y - 0.34 * half), (mast, y - high), (mast - 0.75 * half, y - 0.36 * half)], "boat", thing,
                 "sail", tone=tone, depth=depth)  # fmt: skip
        self.add([(mast + 0.06 * half, y - 0.34 * half), (mast + 0.06 * half, y - 0.85 * high),
                  (mast + 0.7 * half, y - 0.36 * half)], "boat", thing, "sail", tone=1 - tone, depth=depth)  # fmt: skip


def box(left: float, top: float, right: float, base: float) -> Points:
    return [(left, top), (right, top), (right, base), (left, base)]
