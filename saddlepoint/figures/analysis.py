"""A finished run under the theory's tools: local convergence at each checkpoint, as a table, a picture and numbers."""

from __future__ import annotations

import io
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from saddlepoint.errors import UserError, unknown
from saddlepoint.figures import style
from saddlepoint.figures.picture import plain
from saddlepoint.figures.style import DATA, EDGE, INK, JUDGE, MODEL, PURPLE, SKY, SOFT

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from saddlepoint.game import Game
    from saddlepoint.runs import Run
    from saddlepoint.theory.report import Progress, Report

PRECISIONS = ("auto", "double", "single")


@dataclass(frozen=True, eq=False)
class Point:
    """One checkpoint: thousands of images seen, its report, how long that took, and in which precision."""

    kimg: float
    report: Report
    seconds: float
    precision: str = "double"

    @property
    def rightmost(self) -> float:
        """Largest real part of the eigenvalues found: below 0 is locally convergent in continuous time."""
        return max(self.report.leading.rightmost, self.report.rightmost.rightmost)

    @property
    def largest(self) -> float:
        """Largest |lambda|."""
        return float(np.abs(self.report.leading.all).max())

    @property
    def own_radius(self) -> float:
        """Largest |1 + lambda| of the players' own optimizers, second moments frozen; nan without optimizers."""
        stepping = self.report.stepping
        return float("nan") if stepping is None else float(np.abs(1 + stepping.all).max())


DOUBLE = 100_000
"""Up to so many weights "auto" is double precision: above, its convolutions would make minutes of seconds."""


def along(
    run: Run,
    k: int = 6,
    *,
    last: bool = False,
    batch: int = 64,
    training_mode: bool = True,
    precision: str = "auto",
    seed: int = 0,
    progress: Progress | None = None,
) -> Iterator[Point]:
    """Reports on the run's checkpoints, oldest first, at each one's live weights and optimizer moments.

    All are looked at on the same round: the first `batch` examples of the run's stream and the numbers of one draw.
    precision: "double", "single", or "auto", double up to 100,000 weights. progress: see `local_convergence`.
    Raises UserError for a run without checkpoints, or where no eigenvalue can be found.
    """
    from saddlepoint import api
    from saddlepoint.engine import Training
    from saddlepoint.runs import read_checkpoint
    from saddlepoint.systems import build
    from saddlepoint.theory.report import local_convergence

    if precision not in PRECISIONS:
        raise unknown("precision", precision, PRECISIONS)
    folders = run.checkpoints()
    if not folders:
        raise UserError(f"{run.path} has no checkpoint yet: there is nothing to analyse.")
    source = api._source(run.recipe)
    for folder in folders[-1:] if last else folders:
        started = time.perf_counter()
        training = Training(build(run.recipe), run.recipe, source)
        training.load(*read_checkpoint(folder))
        game, used = _in_precision(training.game, precision)
        game.train(training_mode)
        resolution = game.stage(training.counters.clock).resolution
        examples = {} if source is None else source(0, batch, 0, batch, resolution)
        round = game.round(examples, seed, size=batch, clock=training.counters.clock)
        try:
            report = local_convergence(game, round, k, optimizers=training.optimizers, seed=seed, progress=progress)
        except ArithmeticError as error:
            raise UserError(f"checkpoint {folder}: {error}") from error
        yield Point(training.counters.clock / 1000, report, time.perf_counter() - started, used)


def _in_precision(game: Game, precision: str) -> tuple[Game, str]:
    """The game in "double" or "single", and which; "auto" by its size."""
    weights = sum(p.numel() for player in game.players for p in player.parameters)
    used = precision if precision != "auto" else "double" if weights <= DOUBLE else "single"
    return (game.double() if used == "double" else game.float()), used


def rows(points: Sequence[Point]) -> list[list[str]]:
    """A table: a line for each checkpoint."""
    head = [
        "kimg",
        "|v|",
        "largest |lambda|",
        "largest Re",
        "stable plain step",
        "own steps |1+lambda|",
        "rotation",
        "continuous",
    ]
    lines = [head]
    for point in points:
        report = point.report
        step = report.simultaneous_step
        lines.append(
            [
                f"{point.kimg:g}", f"{report.norm:.3g}", f"{point.largest:.4g}", f"{point.rightmost:.3g}",
                "none" if step == 0 else f"{'' if report.exact else '<= '}{step:.3g}", f"{point.own_radius:.5g}",
                f"{report.decomposition.rotation:.3f}", report.continuous.verdict,
            ]
        )  # fmt: skip
    return lines


def write(points: Sequence[Point], out: Path) -> list[Path]:
    """analysis.png and analysis.json into the folder `out`."""
    from saddlepoint.runs import write_bytes, write_json

    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot write into {out}: {error.strerror or error}.") from error
    buffer = io.BytesIO()
    with style.styled():
        drawn(points).savefig(buffer, format="png", dpi=125, metadata={"Software": None})
    write_bytes(out / "analysis.png", buffer.getvalue())
    values = [
        {"kimg": p.kimg, "precision": p.precision, **p.report.to_dict(), "own_steps_radius": p.own_radius}
        for p in points
    ]
    write_json(out / "analysis.json", plain({"checkpoints": values}))
    return [out / "analysis.png", out / "analysis.json"]


@style.in_style
def drawn(points: Sequence[Point]) -> Figure:
    """Eigenvalues by checkpoint; and over the run: stable step, real parts, rotation."""
    figure = style.slide()
    grid = figure.add_gridspec(3, 2, width_ratios=[1.15, 1])
    _spectrum(figure, figure.add_subplot(grid[:, 0]), points)
    kimg = [point.kimg for point in points]
    steps, radius, share = (figure.add_subplot(grid[i, 1]) for i in range(3))
    _steps(steps, points)
    radius.plot(kimg, [point.own_radius for point in points], "o-", color=PURPLE, ms=7)
    radius.axhline(1, color=EDGE, lw=1.4, zorder=0)
    radius.set_title(r"largest $|1+\lambda|$ of the players' own steps", fontsize=15)
    rotation = [point.report.decomposition for point in points]
    share.errorbar(
        kimg,
        [each.rotation for each in rotation],
        [2 * each.error for each in rotation],
        fmt="o-",
        color=JUDGE,
        ms=7,
        capsize=4,
    )
    share.set(ylim=(-0.03, 1.03), yticks=[0, 0.5, 1], xlabel="thousands of images (kimg)")
    share.set_title("share of rotation in the Jacobian", fontsize=15)
    for ax in (steps, radius):
        ax.tick_params(labelbottom=False)
        ax.set_xlim(share.get_xlim())
    return figure


def _spectrum(figure: Figure, ax: Axes, points: Sequence[Point]) -> None:
    from matplotlib import colormaps

    every = [np.concatenate([p.report.leading.eigenvalues, p.report.rightmost.eigenvalues]) for p in points]
    colours = colormaps["viridis_r"](np.linspace(0.08, 1, len(points)))
    for point, z, colour in zip(points, every, colours, strict=True):
        label = f"{point.kimg:g} kimg" if len(points) < 7 or point in (points[0], points[-1]) else None
        ax.plot(z.real, z.imag, "o", color=colour, ms=9, mec="white", mew=0.6, label=label)
    joined = np.concatenate(every)
    ax.axhline(0, color=EDGE, lw=1, zorder=0)
    ax.axvline(0, color=SOFT, lw=1.2, zorder=0)
    left, right = ax.get_xlim()
    ax.axvspan(min(left, 0), 0, color=SKY, alpha=0.12, lw=0, zorder=-1)
    ax.set_xlim(left, max(right, 0.04 * (right - left)))
    high = max(float(np.abs(joined.imag).max()) * 1.25, 0.05 * float(np.abs(joined).max()), 1e-12)
    ax.set(ylim=(-high, high), xlabel="Re", ylabel="Im")
    ax.set_title("eigenvalues found: largest and rightmost")
    ax.legend(loc="upper left", fontsize=13, handletextpad=0.1)


def _steps(ax: Axes, points: Sequence[Point]) -> None:
    kimg = np.array([point.kimg for point in points])
    sizes = np.array([point.report.simultaneous_step for point in points])
    stable = (sizes > 0) & np.isfinite(sizes)
    if stable.any():
        ax.semilogy(kimg[stable], sizes[stable], "o-", color=DATA, ms=7)
    low = float(sizes[stable].min()) / 2 if stable.any() else 0.0
    if not stable.all():
        ax.plot(
            kimg[~stable], np.full((~stable).sum(), low), "x", color=MODEL, ms=10, mew=2.5, label="no step is stable"
        )
        ax.legend(fontsize=13)
    if not stable.any():
        ax.set_yticks([])
    ax.set_title("largest stable plain step", fontsize=15, color=INK)
