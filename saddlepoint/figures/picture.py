"""What a figure's function returns, and how it becomes files."""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from saddlepoint.errors import unknown
from saddlepoint.figures import style

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FORMATS = ("png", "svg")


@dataclass(frozen=True, eq=False)
class Animation:
    """A figure that changes: `draw(i)` brings it to frame i of `frames`."""

    figure: Figure
    draw: Callable[[int], None]
    frames: int
    fps: float = 12.5
    dpi: int = 75
    colours: int = 64


@dataclass(frozen=True, eq=False)
class Picture:
    """figure: a matplotlib Figure of 16:9. numbers: everything that it shows, plain values for JSON. formula: TeX (the
    subset of `formulas`). claim: what the theory says, measured: what was found here, correction: what the lecture
    prints otherwise; in them $...$ is TeX.
    """

    figure: Figure
    numbers: dict[str, Any]
    formula: str
    claim: str
    measured: str
    correction: str = ""
    animation: Animation | None = None


def rendered(picture: Picture, format: str = "png") -> bytes:
    """The figure as a file: 1600 x 900 PNG, or SVG with letters as outlines. The same numbers give the same bytes."""
    if format not in FORMATS:
        raise unknown("format", format, FORMATS)
    buffer = io.BytesIO()
    with style.styled():
        metadata = {"Date": None} if format == "svg" else {"Software": None}
        picture.figure.savefig(buffer, format=format, dpi=125, metadata=metadata)
    return buffer.getvalue()


def animated(animation: Animation) -> bytes:
    """The animation as a GIF that repeats. One palette for all frames keeps it small and steady."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from PIL import Image

    canvas = FigureCanvasAgg(animation.figure)
    animation.figure.set_dpi(animation.dpi)
    frames = []
    with style.styled():
        for i in range(animation.frames):
            animation.draw(i)
            canvas.draw()
            frames.append(Image.fromarray(np.asarray(canvas.buffer_rgba())[..., :3].copy()))
            if i == 0:  # where everything lies is decided once: nothing may tremble
                animation.figure.set_layout_engine("none")
    chosen = [frames[i] for i in sorted({0, len(frames) // 3, 2 * len(frames) // 3, len(frames) - 1})]
    stack = Image.fromarray(np.concatenate([np.asarray(frame) for frame in chosen]))
    palette = stack.quantize(animation.colours, method=Image.Quantize.MEDIANCUT)
    colours = np.array(palette.getpalette()).reshape(-1, 3)
    colours[(colours > 247).all(1)] = 255  # paper stays white
    palette.putpalette(colours.ravel().tolist())
    flat = [frame.quantize(palette=palette, dither=Image.Dither.NONE) for frame in frames]
    buffer = io.BytesIO()
    flat[0].save(
        buffer, "GIF", save_all=True, append_images=flat[1:], duration=round(1000 / animation.fps), loop=0,
        optimize=False, disposal=1,
    )  # fmt: skip
    return buffer.getvalue()


def plain(value: Any, digits: int = 9) -> Any:
    """`value` as JSON can hold it: arrays as lists, complex numbers as [re, im], nothing for NaN and infinities."""
    if isinstance(value, Mapping):
        return {str(k): plain(v, digits) for k, v in value.items()}
    if isinstance(value, complex | np.complexfloating):
        return [plain(value.real, digits), plain(value.imag, digits)]
    if isinstance(value, np.ndarray):
        return plain(value.tolist(), digits)
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [plain(v, digits) for v in value]
    if isinstance(value, bool | np.bool_):
        return bool(value)
    if isinstance(value, int | np.integer):
        return int(value)
    if isinstance(value, float | np.floating):
        return float(f"{value:.{digits}g}") if math.isfinite(value) else None
    return value
