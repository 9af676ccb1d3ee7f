"""Curves as inline SVG: small, sharp at every size, in the page's own colours by day and by night."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from html import escape

WIDTH, HEIGHT = 460.0, 250.0
LEFT, RIGHT, TOP, BOTTOM = 58.0, 14.0, 12.0, 42.0
POINTS = 400  # more would not be seen
FAR = 1e100  # beyond, and logarithms below its inverse, a value is not drawn


@dataclass(frozen=True)
class Line:
    """A curve: its name, points, and which of the page's colours it has."""

    name: str
    xs: Sequence[float]
    ys: Sequence[float]
    colour: int = 0


@dataclass(frozen=True)
class Mark:
    """A dashed horizontal line at a value that means something."""

    value: float
    label: str
    colour: int = -1  # -1: grey


def chart(
    lines: Sequence[Line], *, key: str, x_label: str, y_label: str, marks: Sequence[Mark] = (), log: bool = False
) -> str:
    """An SVG of the lines. key: unique on the page. log: logarithmic y axis. Values that are not finite leave gaps.

    A few values far from all others would flatten the rest: the axis spans the middle 98 % generously, and what is
    beyond is cut off at the edge.
    """
    lines = [_thinned(line) for line in lines]
    xs = [x for line in lines for x in line.xs]
    low, high = _span([y for line in lines for y in line.ys], [mark.value for mark in marks], log)
    marks = [mark for mark in marks if low <= mark.value <= high]
    x_low, x_high = min(xs, default=0.0), max(xs, default=1.0)
    x_low = 0.0 if 0 < x_low < 0.1 * x_high else x_low
    x_high = x_high if x_high > x_low else x_low + 1
    right, bottom = WIDTH - RIGHT, HEIGHT - BOTTOM

    def place_x(x: float) -> float:
        return LEFT + (x - x_low) / (x_high - x_low) * (right - LEFT)

    def place_y(y: float) -> float:
        bounds = (low, high, y)
        a, b, c = (math.log10(v) for v in bounds) if log else bounds
        return bottom - (c - a) / (b - a) * (bottom - TOP)

    parts = [
        f'<svg viewBox="0 0 {WIDTH:g} {HEIGHT:g}" role="img" aria-label="{escape(y_label)} over {escape(x_label)}">'
    ]
    parts.append(
        f'<clipPath id="{key}"><rect x="{LEFT}" y="{TOP}" width="{right - LEFT}" height="{bottom - TOP}"/></clipPath>'
    )
    for tick in log_ticks(low, high) if log else ticks(low, high):
        y = place_y(tick)
        parts.append(f'<path class="grid" d="M{LEFT:g} {y:.1f}H{right:g}"/>')
        parts.append(f'<text x="{LEFT - 7:g}" y="{y + 4:.1f}" text-anchor="end">{number(tick)}</text>')
    for tick in ticks(x_low, x_high, 6):
        x = place_x(tick)
        parts.append(f'<path class="grid" d="M{x:.1f} {bottom:g}v5"/>')
        parts.append(f'<text x="{x:.1f}" y="{bottom + 18:g}" text-anchor="middle">{number(tick)}</text>')
    parts.append(f'<path class="axis" d="M{LEFT:g} {TOP:g}V{bottom:g}H{right:g}"/>')
    labels = []  # on top of the lines
    for mark in marks:
        tint = f"l{mark.colour}" if mark.colour >= 0 else "l"
        y = place_y(mark.value)
        parts.append(f'<path class="mark {tint}" d="M{LEFT:g} {y:.1f}H{right:g}"/>')
        labels.append(
            f'<text class="mark {tint}" x="{right - 4:g}" y="{y - 5:.1f}" text-anchor="end">{escape(mark.label)}</text>'
        )
    for line in lines:
        path = "".join(_path([(place_x(x), y, place_y) for x, y in zip(line.xs, line.ys, strict=True)], log))
        parts.append(f'<path class="line l{line.colour}" clip-path="url(#{key})" d="{path}"/>')
    parts += labels
    parts.append(f'<text x="{(LEFT + right) / 2:g}" y="{HEIGHT - 6:g}" text-anchor="middle">{escape(x_label)}</text>')
    middle = (TOP + bottom) / 2
    parts.append(
        f'<text transform="translate(11 {middle:g}) rotate(-90)" text-anchor="middle">{escape(y_label)}</text></svg>'
    )
    return "".join(parts)


def _path(points: Sequence[tuple[float, float, object]], log: bool) -> Iterator[str]:
    """Path commands; a gap where a value cannot be drawn."""
    pen_up = True
    for x, y, place in points:
        if not _drawable(y, log):
            pen_up = True
            continue
        height = max(-HEIGHT, min(2 * HEIGHT, place(y)))  # type: ignore[operator]
        yield f"{'M' if pen_up else 'L'}{x:.1f} {height:.1f}"
        pen_up = False


def _thinned(line: Line) -> Line:
    """At most POINTS points: means of neighbours."""
    step = math.ceil(len(line.xs) / POINTS)
    if step < 2:
        return line
    starts = range(0, len(line.xs), step)
    xs = [sum(part) / len(part) for part in (line.xs[i : i + step] for i in starts)]
    ys = [sum(part) / len(part) for part in (line.ys[i : i + step] for i in starts)]
    return Line(line.name, xs, ys, line.colour)


def _span(values: Sequence[float], marks: Sequence[float], log: bool) -> tuple[float, float]:
    """Limits of the y axis: the middle 98 % of the values with room around it, and the marks that are near."""
    found = sorted(v for v in values if _drawable(v, log))
    if not found:
        return (0.1, 1.0) if log else (0.0, 1.0)
    low, high = found[int(0.01 * (len(found) - 1))], found[math.ceil(0.99 * (len(found) - 1))]
    if log:
        return max(found[0], low / 2) / 1.25, max(min(found[-1], high * 2), found[0] * 1.01) * 1.25
    room = (high - low) or abs(high) or 1.0
    near = [m for m in marks if low - 1.5 * room <= m <= high + 1.5 * room]
    low, high = max(found[0], low - 0.5 * room), min(found[-1], high + 0.5 * room)
    low, high = min([low, *near]), max([high, *near])
    edge = 0.06 * ((high - low) or abs(high) or 1.0)
    return (0.0 if 0 <= low < 0.4 * high else low - edge), high + edge


def _drawable(value: float, log: bool) -> bool:
    return abs(value) < FAR and (not log or value > 1 / FAR)  # false for nan


def ticks(low: float, high: float, count: int = 5) -> list[float]:
    """Round numbers between low and high, about `count` of them: steps of 1, 2 or 5 times a power of ten."""
    rough = (high - low) / count
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(m * power for m in (1, 2, 5, 10) if m * power >= rough * 0.999)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [i * step for i in range(first, last + 1)]


def log_ticks(low: float, high: float) -> list[float]:
    """Powers of ten between low and high; with less than two of them also 2 and 5 times a power."""
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    decades = [10.0**p for p in powers if low <= 10.0**p <= high]
    if len(decades) >= 3:
        return decades[:: math.ceil(len(decades) / 6)]
    return [m * 10.0**p for p in powers for m in (1, 2, 5) if low <= m * 10.0**p <= high]


def number(value: float) -> str:
    """A tick's label: no more digits than needed."""
    if value == 0 or abs(value) < 1e-12:
        return "0"
    if 1e4 <= abs(value) < 1e6:
        text = f"{round(value / 1000, 6):g}k"
    elif 1e-2 <= abs(value) < 1e6:
        text = f"{round(value, 10):,.10g}"
    else:
        mantissa, exponent = f"{value:.6e}".split("e")
        text = f"{float(mantissa):g}e{int(exponent)}"
    return text.replace("-", "−")
