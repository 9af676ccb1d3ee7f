"""`saddlepoint data build` and `saddlepoint data inspect`."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Annotated, Literal

import tyro

from saddlepoint.cli.forms import Switch, parse

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Build:
    """Build a zip of images in one shape, in the layout of NVIDIA's dataset_tool. Stopped, it goes on where it was."""

    source: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="SOURCE")]
    """A set's name (with :test or :all for a split), a folder, or a zip."""
    out: str
    """The zip to write."""
    resolution: str = ""
    """Side of the square, or HEIGHTxWIDTH; without it the images' own size, which must then be one size."""
    channels: Literal[0, 1, 3, 4] = 0
    """1 grey, 3 RGB, 4 RGBA; 0 takes the source's."""
    fit: Literal["auto", "pad", "resize", "crop", "stretch"] = "auto"
    """How another shape is brought to this one. pad: centred on the background, never enlarged. resize: scaled to fit
    inside, the rest is background. crop: scaled to cover, the middle cut out. stretch: each side scaled on its own.
    auto: pad for drawings and for grey images at most a quarter too small, crop otherwise."""
    background: Literal["auto", "black", "grey", "white"] = "auto"
    """What shows through transparency and around padded images; auto: black for grey sets, white for colour."""
    on_error: Literal["refuse", "skip"] = "refuse"
    """What to do about images that cannot be read: refuse the set and name them, or leave them out and name them."""
    resume: bool = True
    """Go on with an unfinished build of the same source and options."""
    overwrite: Switch = False
    """Replace a zip that is there."""
    quiet: Switch = False
    """Print errors only."""


def build(argv: list[str]) -> int:
    """Build a zip."""
    chosen = parse(Build, argv, prog="saddlepoint data build")
    from saddlepoint.data import format_report
    from saddlepoint.data.build import build as build_zip

    with _bar("building", chosen.quiet) as progress:
        report = build_zip(
            chosen.source,
            chosen.out,
            resolution=chosen.resolution or None,
            channels=chosen.channels or None,
            fit=chosen.fit,
            background=chosen.background,
            on_error=chosen.on_error,
            resume=chosen.resume,
            overwrite=chosen.overwrite,
            progress=progress,
        )
    if not chosen.quiet:
        print(format_report(report))
    return 0


@dataclass(frozen=True)
class Inspect:
    """Decode every image of a set, folder or zip: counts, sizes, modes, labels, duplicates, problems."""

    source: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="SOURCE")]
    """A set's name (with :test or :all for a split), a folder, or a zip."""
    sheet: str = ""
    """Also draw a contact sheet into this PNG."""


def inspect(argv: list[str]) -> int:
    """Count and check."""
    chosen = parse(Inspect, argv, prog="saddlepoint data inspect")
    from saddlepoint.data import format_report
    from saddlepoint.data import inspect as look

    with _bar("reading", quiet=False) as progress:
        report = look(chosen.source, chosen.sheet or None, progress)
    print(format_report(report))
    if chosen.sheet:
        print(f"  sheet       {chosen.sheet}")
    return 0


@contextmanager
def _bar(title: str, quiet: bool) -> Iterator[Progress | None]:
    """A progress bar on standard error, where that is a terminal."""
    if quiet or not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bar

    columns = (TextColumn(title), BarColumn(), MofNCompleteColumn(), TextColumn("left"), TimeRemainingColumn())
    with Bar(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(title, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)
