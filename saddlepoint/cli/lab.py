"""`saddlepoint analyse` and `saddlepoint figures`: the theory's tools on a run, and its pictures."""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal, TextIO

import tyro

from saddlepoint.cli.forms import Switch, parse
from saddlepoint.cli.terminal import BOLD, styled, table
from saddlepoint.errors import UserError, unknown


@dataclass(frozen=True)
class Analyse:
    """What the linear theory says about training along a run: the eigenvalues of the vector field's Jacobian at each
    checkpoint's live weights, on one frozen round of its data; the largest stable step; how much of the field is
    rotation.
    """

    run: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="RUN")]
    """The run folder."""
    k: int = 6
    """How many eigenvalues, of the largest and of the rightmost."""
    checkpoints: Literal["all", "last"] = "all"
    """Which checkpoints; --keep-checkpoints of the training decides how many there are."""
    batch: int = 64
    """Examples in the frozen round."""
    mode: Literal["training", "evaluation"] = "training"
    """training: with the batch's own statistics, as the players move; evaluation: with the running ones."""
    precision: Literal["auto", "double", "single"] = "auto"
    """auto: double up to 100,000 weights, single above, where double takes several times as long."""
    seed: int = 0
    """Of the round's random numbers."""
    out: str = ""
    """Folder for analysis.png and analysis.json; without it RUN/analysis."""


def analyse(argv: list[str]) -> int:
    """Report on the checkpoints of a run."""
    chosen = parse(Analyse, argv, prog="saddlepoint analyse")
    for name, value in (("--k", chosen.k), ("--batch", chosen.batch)):
        if value < 1:
            raise UserError(f"{name} is {value}; expected 1 or more.")
    from saddlepoint.api import load
    from saddlepoint.figures import analysis

    run = load(chosen.run)
    out = Path(chosen.out).expanduser() if chosen.out else run.path / "analysis"
    points, watch = [], Watch()
    for point in analysis.along(
        run,
        chosen.k,
        last=chosen.checkpoints == "last",
        batch=chosen.batch,
        training_mode=chosen.mode == "training",
        precision=chosen.precision,
        seed=chosen.seed,
        progress=watch,
    ):
        watch.end()
        print(
            styled(f"{point.kimg:g} kimg", BOLD) + f"  ({point.seconds:.0f} s, {point.precision} precision)", flush=True
        )
        print("\n".join(f"  {line}" for line in point.report.lines()), flush=True)
        points.append(point)
    if len(points) > 1:
        print("\n" + table(analysis.rows(points)))
    for path in analysis.write(points, out):
        print(path)
    return 0


class Watch:
    """Tells on standard error how far the work on a checkpoint is, and about how long the rest will take: a line that
    renews itself on a terminal, one line a checkpoint elsewhere, nothing for small games (their matrix is there at
    once).
    """

    def __init__(self, stream: TextIO | None = None) -> None:
        self.stream = stream or sys.stderr
        self.live = self.stream.isatty()
        self.end()

    def end(self) -> None:
        """A checkpoint is done: the line goes, the next starts anew."""
        if self.live:
            print("\r\x1b[K", end="", file=self.stream, flush=True)
        self.started = 0.0
        self.done: dict[str, int] = {}
        self.said = False

    def __call__(self, part: str, done: int, usual: int) -> None:
        """So many products of this part are done, of usually so many."""
        from saddlepoint.theory.report import USUAL

        self.done[part] = done
        made = sum(self.done.values())
        if made == 1:  # it built the graph too
            self.started = time.perf_counter()
        if made < 4 or (self.said and not self.live):
            return
        self.said = True
        parts = list(USUAL)  # in the order of the work
        rest = max(usual - done, 1) + sum(USUAL[later] for later in parts[parts.index(part) + 1 :])
        each = (time.perf_counter() - self.started) / (made - 1)
        text = f"  {part}: {done} products of {each:.2g} s; about {rest * each:.0f} s left for this checkpoint"
        print(f"\r\x1b[K{text}" if self.live else text, end="" if self.live else "\n", file=self.stream, flush=True)


@dataclass(frozen=True)
class Figures:
    """The pictures of the theory: `list` says which there are, a NAME makes one, `all` makes the gallery."""

    what: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="list|NAME|all")]
    """What to make."""
    out: str = "figures"
    """Folder to write to."""
    format: Literal["png", "svg"] = "png"
    """Of the still pictures; moving ones are GIF, numbers JSON."""
    quick: Switch = False
    """Coarser grids and much shorter trainings: a look at everything within a minute."""


def figures(argv: list[str]) -> int:
    """List the pictures, make one, or make all with their page."""
    chosen = parse(Figures, argv, prog="saddlepoint figures")
    from saddlepoint import figures as pictures

    if chosen.what == "list":
        chapter = ""
        for name, entry in pictures.FIGURES.items():
            if entry.chapter != chapter:
                chapter = entry.chapter
                print(styled(chapter, BOLD))
            print(f"  {name:24}{entry.title}")
        return 0
    if chosen.what == "all":
        print(pictures.gallery(chosen.out, format=chosen.format, quick=chosen.quick, progress=_tell))
        return 0
    if chosen.what not in pictures.FIGURES:
        raise unknown("figure", chosen.what, [*pictures.FIGURES, "list", "all"])
    for path in pictures.save(chosen.what, chosen.out, format=chosen.format, quick=chosen.quick):
        print(path)
    return 0


def _tell(name: str) -> None:
    print(f"  {name}", file=sys.stderr, flush=True)
