"""`saddlepoint train` and `saddlepoint resume`."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Generic, Literal, TypeVar

import tyro

from saddlepoint import recipes
from saddlepoint.cli.forms import Switch, parse
from saddlepoint.cli.terminal import BOLD, CYAN, DIM, amount, chief, duration, styled, table
from saddlepoint.errors import UserError
from saddlepoint.recipes import gamma
from saddlepoint.recipes.base import Recipe
from saddlepoint.recipes.settings import (
    check,
    flag,
    flat,
    groups,
    native_facts,
    preset_summary,
    refuse_unread,
    remarks,
    shown,
    shown_facts,
)

if TYPE_CHECKING:
    from saddlepoint.data.catalog import Facts
    from saddlepoint.runs import Run

R = TypeVar("R", bound=Recipe)
Device = Literal["auto", "cpu", "cuda", "mps"]


@dataclass(frozen=True)
class Train(Generic[R]):
    """Flags of `saddlepoint train SYSTEM`: where and how, then the system's recipe."""

    recipe: Annotated[R, tyro.conf.arg(name="", prefix_name=False)]
    preset: str = ""
    """Which preset to start from; the defaults shown here are this one's."""
    data: str = ""
    """What to train on: the name of a set (see `saddlepoint list data`), a folder of images, a zip, or tar shards
    (train-{000..009}.tar, or the folder that holds them)."""
    out: str = ""
    """Run folder; without it runs/SYSTEM-DATA-NUMBER."""
    device: Device = "auto"
    """Where to train; auto takes cuda, then mps, then cpu."""
    overwrite: Switch = False
    """Replace the run that is in --out."""
    dry_run: Switch = False
    """Show what would be trained, how long and with how much memory, and write nothing."""
    measure_seconds: float = 30.0
    """With --dry-run: about how long to play rounds for a forecast of time and memory; 0 is not at all."""
    tensorboard: Switch = False
    """Write TensorBoard events into the run folder as well."""
    quiet: Switch = False
    """Print errors only."""


def train(argv: list[str]) -> int:
    """Train a system on data into a run folder."""
    if not argv or argv[0] in ("-h", "--help"):
        print(_which_system())
        return 0 if argv else 2
    if argv[0].startswith("-") and not set(argv) & set(recipes.systems()):
        argv = [recipes.DEFAULT, *argv]
    system, words = argv[0], argv[1:]
    if system.startswith("-"):
        raise UserError(f"the system comes first: saddlepoint train SYSTEM {system} ...; {_systems()}.")
    base = recipes.recipe(system, _value_of("--preset", words))
    from saddlepoint import api
    from saddlepoint.runs import refuse_occupied, source_of

    form = Train(recipe=base, preset=base.preset, data=base.data or api.default_data(base))
    description = _about(base)
    typed: Any = Train
    chosen: Train[Recipe] = parse(
        typed[type(base)], words, prog=f"saddlepoint train {system}", description=description, default=form
    )
    check(chosen.recipe)
    refuse_unread(chosen.recipe)
    recipe = api.prepared(chosen.recipe, chosen.data).with_intervals()
    facts = shown_facts(recipe)
    folder = api.run_folder(chosen.out or None, recipe)
    if chief() and api.begun_before(chosen.out or None, recipe) is None:
        refuse_occupied(folder, overwrite=chosen.overwrite)  # at once, not after torch and the data have been loaded
    if recipe.init_from:
        source_of(recipe.init_from)
    if chosen.dry_run:
        print(plan(recipe, facts, str(folder)), flush=True)
        if chosen.measure_seconds > 0:
            print("\n" + measured(recipe, chosen.device, chosen.measure_seconds))
        return 0
    if not chosen.quiet:
        print("\n".join(headline(recipe, facts)), flush=True)
    run = api.train(
        recipe,
        out=chosen.out or None,
        device=chosen.device,
        overwrite=chosen.overwrite,
        progress=not chosen.quiet,
        tensorboard=chosen.tensorboard,
    )
    return ending(run, chosen.quiet)


def _value_of(flag: str, words: Sequence[str]) -> str:
    """The value of one flag, found before everything else is known."""
    found = ""
    for index, word in enumerate(words):
        if word == flag:
            found = "".join(words[index + 1 : index + 2])
        elif word.startswith(flag + "="):
            found = word.partition("=")[2]
    return found


def _systems() -> str:
    return f"systems: {', '.join(recipes.systems())}"


def _which_system() -> str:
    rows = [[styled(name, BOLD), recipes.summary(name)] for name in recipes.systems()]
    return (
        f"usage: saddlepoint train SYSTEM [flags]\n\n{table(rows)}\n\n"
        "saddlepoint train SYSTEM --help shows the presets and every setting of a system. Without a system, as in\n"
        f"saddlepoint train --data photos/, it is {recipes.DEFAULT}, near the best in minutes on CPU."
    )


def preset_rows(system: str) -> list[tuple[str, str]]:
    """(name, what it is) of every preset: the first paragraph of its function's docstring."""
    return [(name, preset_summary(system, name)) for name in recipes.presets(system)]


def _about(recipe: Recipe) -> str:
    """The head of the help: the system, its presets, and how settings are read."""
    return "\n".join(
        [
            recipes.summary(recipe.system),
            "",
            f"Presets (the defaults below are those of {recipe.preset}):",
            table(preset_rows(recipe.system)),
            "",
            "A setting that only some kinds read says so; changed where nothing reads it, it is an error.",
        ]
    )


# ---- what will be trained
def headline(recipe: Recipe, facts: Facts | None) -> Iterator[str]:
    """What is trained, on what, for how long: three lines."""
    yield styled(f"{recipe.system} ({recipe.preset})", BOLD) + f"  {recipes.summary(recipe.system)}"
    if facts is not None:
        colours = {1: "grey", 3: "RGB", 4: "RGBA"}.get(facts.channels, f"{facts.channels} channels")
        labels = f", {facts.classes} classes" if facts.classes else ""
        size = f"{facts.height}x{facts.width} {colours}{labels}; {facts.preparation}"
        yield f"  data    {facts.name}: {amount(facts.count, 'image')}, {size}"
    elif recipe.data:
        yield f"  data    {recipe.data}"
    moves = {player: settings.steps for player, settings in recipe.optimizers().items()}
    per_round = recipe.batch * (next(iter(moves.values()), 1) if recipe.operator == "alternating" else 1)
    rounds = recipe.kimg * 1000 / per_round
    passes = f", {recipe.kimg * 1000 / facts.count:,.3g} passes over the data" if facts is not None else ""
    length = f"about {amount(rounds, 'round')} of {amount(per_round, 'image')}{passes}"
    yield f"  length  {shown(recipe.kimg)} kimg: {length}"


def plan(recipe: Recipe, facts: Facts | None, folder: str) -> str:
    """Everything that a training would do, for --dry-run: each setting with the flag that changes it."""
    lines = [*headline(recipe, facts), f"  run     {folder} (nothing is written now)"]
    if facts is not None and (facts.licence or facts.attribution):
        lines.append(f"  licence {'; '.join(filter(None, [facts.licence, facts.attribution]))}")
    if advice := gamma.remark(recipe):
        lines.append(table([["R1", advice]], gap=6))
    noted = remarks(recipe, native_facts(recipe))
    style = {"changed": CYAN, "automatic": "0", "unread": DIM}
    width = max(len(flag(path)) for path in flat(recipe))
    for title, values in groups(recipe):
        rows = []
        for path, value in values.items():
            kind, text = noted.get(path, ("automatic", ""))
            note = styled("* " * (kind == "changed") + text, style[kind])
            rows.append([flag(path).ljust(width), (shown(value) or "none").ljust(12), note])
        lines += ["", styled(title, BOLD), table(rows)]
    return "\n".join(lines)


def measured(recipe: Recipe, device: str, seconds: float) -> str:
    """Time, memory and disk that the run will take, from a few rounds played now in a process of their own."""
    from saddlepoint import forecast

    found = forecast.forecast(recipe, device, seconds)
    return f"  {found}" if isinstance(found, str) else table(forecast.rows(found, recipe))


# ---- afterwards
def ending(run: Run, quiet: bool) -> int:
    """Say where everything is; the exit status is 130 if the run was interrupted before its length."""
    finished = run.clock >= round(run.recipe.kimg * 1000)
    if not finished:
        return 130  # api has said how to go on
    if not quiet:
        lines = run.log()
        seconds = float(lines[-1]["seconds"]) if lines else 0.0
        print(f"{run.clock / 1000:g} kimg in {duration(seconds)}")
        place, more = shlex.quote(str(run.path)), 2 * run.recipe.kimg
        print(f"  run     {run.path}")  # not in a table: lines that are copied must not wrap
        print(f"  report  {run.path / 'report.html'}")
        print(f"  sample  saddlepoint sample {place} --n 16 --seed 0 --out grid.png")
        print(f"  go on   saddlepoint resume {place} --kimg {shown(more)}")
    return 0


@dataclass(frozen=True)
class Resume:
    """Go on with a run from its newest whole checkpoint; on the same CPU bit for bit as if it had never stopped."""

    run: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="RUN")]
    """The run folder."""
    kimg: float = 0.0
    """New total length in thousands of images; 0 keeps the length that the run was started with."""
    device: Device = "auto"
    """Where to train; auto takes cuda, then mps, then cpu."""
    tensorboard: Switch = False
    """Write TensorBoard events into the run folder as well."""
    quiet: Switch = False
    """Print errors only."""


def resume(argv: list[str]) -> int:
    """Go on with a run."""
    chosen = parse(Resume, argv, prog="saddlepoint resume")
    from saddlepoint import api

    run = api.load(chosen.run)
    recipe = api.to_go_on(run, chosen.kimg or None)
    check(recipe)
    if not chosen.quiet:
        print("\n".join(headline(recipe, shown_facts(recipe))))
        print(f"  from    {run.clock / 1000:g} kimg", flush=True)
    run = api.resume(
        chosen.run,
        kimg=chosen.kimg or None,
        device=chosen.device,
        progress=not chosen.quiet,
        tensorboard=chosen.tensorboard,
    )
    return ending(run, chosen.quiet)
