"""`saddlepoint list` and `saddlepoint report`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

import tyro

from saddlepoint import recipes
from saddlepoint.cli.forms import parse
from saddlepoint.cli.terminal import BOLD, styled, table
from saddlepoint.recipes.settings import preset_summary


@dataclass(frozen=True)
class List:
    """What there is: systems with their presets, and named data sets."""

    what: Annotated[Literal["all", "systems", "presets", "data"], tyro.conf.Positional] = "all"
    """Only this part."""


def listing(argv: list[str]) -> int:
    """Systems, presets, data sets."""
    what = parse(List, argv, prog="saddlepoint list").what
    parts = {"systems": systems, "presets": presets, "data": data}
    wanted = ["systems", "data"] if what == "all" else [what]
    print("\n\n".join(parts[name]() for name in wanted))
    return 0


def systems() -> str:
    """A line for each system; the first preset is what `train` takes."""
    rows = []
    for name in recipes.systems():
        rows.append([styled(name, BOLD), recipes.summary(name)])
        rows.append(["", "presets: " + ", ".join(recipes.presets(name))])
    return _titled("systems", rows)


def presets() -> str:
    """Every preset of every system."""
    rows = []
    for system in recipes.systems():
        for index, preset in enumerate(recipes.presets(system)):
            shown = styled(system, BOLD) if index == 0 else ""
            rows.append([shown, preset, preset_summary(system, preset)])
    return _titled("presets", rows)


def data() -> str:
    """Every named set."""
    from saddlepoint.data import SETS

    rows = []
    for entry in SETS.values():
        facts = entry.facts("all")
        size = "any size" if entry.vector else f"{facts.height}x{facts.width}"
        colours = {1: "grey", 3: "RGB", 4: "RGBA"}[facts.channels]
        shape = f"{facts.count:,} images, {size}, {colours}, {facts.classes} classes"
        rows.append([styled(entry.name, BOLD), entry.summary])
        rows.append(["", f"{shape}; {facts.licence}"])
        rows.append(["", entry.obtain])
    note = "Any folder of images and any zip in the layout of NVIDIA's dataset_tool will do as well: --data PATH."
    return f"{_titled('data', rows)}\n\n  {note}"


def _titled(title: str, rows: list[list[str]]) -> str:
    return f"{styled(title, BOLD)}\n{table(rows)}"


@dataclass(frozen=True)
class Report:
    """Write a run's report.html anew: one file with everything at a glance, which asks nothing of any network."""

    run: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="RUN")]
    """The run folder."""


def report(argv: list[str]) -> int:
    """Write report.html."""
    chosen = parse(Report, argv, prog="saddlepoint report")
    from saddlepoint.api import load
    from saddlepoint.report import write_report

    print(write_report(load(chosen.run)))
    return 0
