"""`saddlepoint list` and `saddlepoint report`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from saddlepoint import recipes
from saddlepoint.cli.forms import Switch, parse
from saddlepoint.cli.terminal import BOLD, DIM, ESCAPES, RED, styled, table, width
from saddlepoint.recipes.settings import preset_summary

if TYPE_CHECKING:
    from saddlepoint.diagnosis import Finding, Level

GREEN, YELLOW = "32", "33"


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
    from saddlepoint.data.pair_catalog import PAIRS

    rows = []
    for entry in SETS.values():
        facts = entry.facts("all")
        size = "any size" if entry.vector else f"{facts.height}x{facts.width}"
        colours = {1: "grey", 3: "RGB", 4: "RGBA"}[facts.channels]
        shape = f"{facts.count:,} images, {size}, {colours}, {facts.classes} classes"
        rows.append([styled(entry.name, BOLD), entry.summary])
        rows.append(["", f"{shape}; {facts.licence}"])
        rows.append(["", entry.obtain])
    for pair in PAIRS.values():
        parts = "train, test" if pair.paired else "a, b, test"
        shape = f"{', '.join(f'{n:,}' for n in pair.counts)} examples ({parts})"
        rows.append([styled(pair.name, BOLD), f"{pair.summary} ({pair.systems})"])
        rows.append(["", f"{shape}; {pair.licence}"])
        rows.append(["", pair.obtain])
    note = "Any folder of images and any zip in the layout of NVIDIA's dataset_tool will do as well: --data PATH."
    return f"{_titled('data', rows)}\n\n  {note}"


def _titled(title: str, rows: list[list[str]]) -> str:
    return f"{styled(title, BOLD)}\n{table(rows)}"


@dataclass(frozen=True)
class Report:
    """Say how a run is doing, from what it logged and stored, and write its report.html anew: one file with everything
    at a glance, which asks nothing of any network.
    """

    run: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="RUN")]
    """The run folder."""
    held_out: Switch = False
    """Compare the discriminator's logits on training images and on the test split of the run's named set."""
    spectrum: Switch = False
    """Compute the newest checkpoint's spectrum first, which takes minutes for networks (see `saddlepoint analyse`)."""


def report(argv: list[str]) -> int:
    """Print the findings, write report.html."""
    chosen = parse(Report, argv, prog="saddlepoint report")
    from saddlepoint import evidence
    from saddlepoint.api import load
    from saddlepoint.diagnosis import diagnose
    from saddlepoint.report import write_report

    run = load(chosen.run)
    if chosen.held_out:
        evidence.held_out(run)
    if chosen.spectrum:
        from saddlepoint.cli.lab import Watch

        watch = Watch()
        evidence.spectrum(run, progress=watch)
        watch.end()
    print("\n".join(told(finding) for finding in diagnose(evidence.gathered(run))))
    print(write_report(run))
    return 0


STYLES: dict[Level, str] = {"good": GREEN, "watch": YELLOW, "bad": RED, "unknown": DIM}


def told(finding: Finding) -> str:
    """A finding for the terminal: the verdict, what it rests on, what to try."""
    head = styled(f"{finding.question} ", BOLD) + styled(finding.verdict, STYLES[finding.level]) + f". {finding.says}"
    rows = [["because" if i == 0 else "", fact.text] for i, fact in enumerate(finding.evidence)]
    rows += [["try" if i == 0 else "", advice] for i, advice in enumerate(finding.advice)]
    return f"{wrapped(head)}\n{table(rows)}" if rows else wrapped(head)


def wrapped(text: str) -> str:
    """Text broken at the terminal's edge; styles do not count."""
    if len(ESCAPES.sub("", text)) <= width():
        return text
    lines: list[str] = []
    line = ""
    for word in text.split(" "):
        if line and len(ESCAPES.sub("", f"{line} {word}")) > width():
            lines, line = [*lines, line], word
        else:
            line = f"{line} {word}" if line else word
    return "\n".join([*lines, line])
