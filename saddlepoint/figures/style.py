"""One look for all pictures: light, large letters, a palette that colour-blind readers can tell apart (Okabe and Ito).

Colours have roles: blue is data, vermilion the generator, green the discriminator, everywhere.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import wraps
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

P = ParamSpec("P")
R = TypeVar("R")
Array = npt.NDArray[np.float64]

DATA, MODEL, JUDGE = "#0072B2", "#D55E00", "#009E73"
PURPLE, ORANGE, SKY = "#AA4499", "#E69F00", "#56B4E9"
INK, SOFT, EDGE, PAPER = "#1b1f24", "#5d6673", "#c9ced6", "#ffffff"

RC: Any = {
    "font.family": "DejaVu Sans", "font.size": 15, "mathtext.fontset": "cm",
    "figure.facecolor": PAPER, "axes.facecolor": PAPER, "savefig.facecolor": PAPER,
    "text.color": INK, "axes.labelcolor": INK, "axes.edgecolor": SOFT, "xtick.color": SOFT, "ytick.color": SOFT,
    "axes.titlesize": 17, "axes.titleweight": "normal", "axes.titlepad": 10, "axes.labelsize": 16,
    "axes.spines.top": False, "axes.spines.right": False, "axes.linewidth": 1.0,
    "xtick.labelsize": 13, "ytick.labelsize": 13, "lines.linewidth": 2.6, "lines.solid_capstyle": "round",
    "legend.frameon": False, "legend.fontsize": 14, "figure.constrained_layout.h_pad": 0.08,
    "figure.constrained_layout.w_pad": 0.08, "svg.hashsalt": "saddlepoint", "path.simplify_threshold": 0.2,
}  # fmt: skip


@contextmanager
def styled() -> Iterator[None]:
    """Inside, matplotlib draws in this style, and nowhere else."""
    import matplotlib

    with matplotlib.rc_context(RC):
        yield


def in_style(function: Callable[P, R]) -> Callable[P, R]:
    """A function that draws, drawing in this style."""

    @wraps(function)
    def drawn(*args: P.args, **kwargs: P.kwargs) -> R:
        with styled():
            return function(*args, **kwargs)

    return drawn


def slide(width: float = 12.8, height: float = 7.2) -> Figure:
    """An empty figure, 16:9 unless asked otherwise (inches)."""
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    return Figure(figsize=(width, height), layout=ConstrainedLayoutEngine(rect=(0.012, 0.015, 0.976, 0.97)))


def bare(ax: Axes) -> None:
    """No axes, only what is drawn."""
    ax.set_axis_off()


def plane(ax: Axes, extent: float, *, x: str = r"$\theta$", y: str = r"$\psi$", ticks: Sequence[float] = ()) -> None:
    """A square window [-extent, extent]^2 with its two axes through the origin."""
    ax.set(xlim=(-extent, extent), ylim=(-extent, extent), aspect="equal")
    for line in (ax.axhline, ax.axvline):
        line(0, color=EDGE, lw=1, zorder=0)
    ax.set_xticks(list(ticks))
    ax.set_yticks(list(ticks))
    ax.set_xlabel(x, labelpad=2)
    ax.set_ylabel(y, labelpad=2, rotation=0)
    ax.spines[["top", "right"]].set_visible(True)
    for spine in ax.spines.values():
        spine.set_color(EDGE)


def arrows(ax: Axes, points: Array, vectors: Array, *, colour: str = "#9aa3af", cell: float = 0.4) -> None:
    """A field of arrows: directions true, lengths compressed so that the longest fills most of a cell."""
    norms = np.linalg.norm(vectors, axis=1)
    longest = float(norms.max(initial=0.0)) or 1.0
    shown = vectors / np.maximum(norms, 1e-12)[:, None] * (0.85 * cell * (norms / longest) ** 0.5)[:, None]
    ax.quiver(
        *points.T, *shown.T, angles="xy", scale_units="xy", scale=1, color=colour, width=0.0045, headwidth=4.2,
        headlength=4.5, headaxislength=4, pivot="mid", zorder=1,
    )  # fmt: skip


def lattice(extent: float, count: int = 10) -> Array:
    """count x count points over [-extent, extent]^2, half a cell from its edge, [count^2, 2]."""
    side = (np.arange(count) + 0.5) / count * 2 * extent - extent
    return np.stack([grid.ravel() for grid in np.meshgrid(side, side)], 1)


def density(ax: Axes, x: Array, y: Array, colour: str, label: str = "", **line: Any) -> None:
    """A density: a line over a light filling."""
    ax.fill_between(x, y, color=colour, alpha=0.16, lw=0, zorder=1)
    ax.plot(x, y, color=colour, label=label, **line)


def note(ax: Axes, x: float, y: float, text: str, **how: Any) -> None:
    """Words in the picture, on a light ground so that lines behind them do not disturb."""
    box = {"boxstyle": "round,pad=0.25", "fc": PAPER, "ec": "none", "alpha": 0.85}
    ax.text(x, y, text, **{"fontsize": 14, "bbox": box, "zorder": 9, **how})
