"""What can be said about a recipe without building anything: its values one by one, what differs from the preset, what
nothing reads, and the command that gives it again. No torch here.
"""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import json
import math
import os
import shlex
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from saddlepoint import recipes
from saddlepoint.errors import UserError
from saddlepoint.recipes.base import Augment, ImageRecipe, Optimizer, Penalty, Recipe

if TYPE_CHECKING:
    from saddlepoint.data.catalog import Facts

NAMES = ("system", "preset", "data", "classes", "dimensions")  # said elsewhere, or not to be chosen
RECORDS = (
    "log_kimg", "samples_kimg", "checkpoint_kimg", "keep_checkpoints", "evaluate_every", "evaluate_metric",
    "evaluate_features", "evaluate_n",
)  # fmt: skip
BY_DATA = ("resolution", "channels", "input_channels")
AUTOMATIC = (*BY_DATA, "log_kimg", "samples_kimg", "checkpoint_kimg")  # 0 is filled in
AT_LEAST_ZERO = (
    "lr", "eps", "weight_decay", "r1", "r2", "gradient_penalty", "dragan", "drift", "operator_strength", "resolution",
    "unroll_steps", "ema_half_life_kimg", "ema_ramp", "log_kimg", "samples_kimg", "checkpoint_kimg",
    "evaluate_every", "freeze_d",
)  # fmt: skip
# Which operators read a setting that the others pass over.
OPERATORS = {
    "operator_strength": ("consensus", "symplectic"),
    "unroll_steps": ("unrolled",),
    "unroll_through": ("unrolled",),
    "draws": ("alternating",),
}
# Which update rules read a setting of Optimizer.
KINDS = {
    "betas": ("adam", "adamw"),
    "alpha": ("rmsprop",),
    "momentum": ("sgd", "rmsprop"),
    "eps": ("adam", "adamw", "rmsprop"),
}


def flat(recipe: Any, prefix: str = "") -> dict[str, Any]:
    """Every setting by its dotted path: {"kimg": 240.0, "d.lr": 2e-4, ...}. Hidden ones are left out."""
    values: dict[str, Any] = {}
    for field in dataclasses.fields(recipe):
        if hidden(field):
            continue
        value = getattr(recipe, field.name)
        if dataclasses.is_dataclass(value):
            values |= flat(value, f"{prefix}{field.name}.")
        elif prefix or field.name not in NAMES:
            values[prefix + field.name] = value
    return values


def hidden(field: dataclasses.Field[Any]) -> bool:
    """Has this setting no flag, though it is not said elsewhere?"""
    return "Suppress" in str(field.type) and field.name not in NAMES


def flag(path: str, value: Any = None) -> str:
    """The command's flag for a setting; with False, the one that switches it off."""
    head, _, name = path.replace("_", "-").rpartition(".")
    return "--" + (f"{head}." if head else "") + ("no-" if value is False else "") + name


def shown(value: Any) -> str:
    """A value as it is typed."""
    if isinstance(value, tuple):
        return " ".join(map(shown, value))
    if isinstance(value, bool):
        return "yes" if value else "no"
    if not isinstance(value, float):
        return str(value)
    short = f"{value:.10g}"
    return short if float(short) == value or not math.isfinite(value) else repr(value)


def preset_summary(system: str, preset: str) -> str:
    """What a preset is, in a line: the first paragraph of its function's docstring."""
    function = importlib.import_module(recipes.SYSTEMS[system].recipes).PRESETS[preset]
    return " ".join((function.__doc__ or "").split("\n\n")[0].split())


# ---- groups
def groups(recipe: Recipe) -> Iterator[tuple[str, dict[str, Any]]]:
    """(title, {path: value}): the settings as a reader looks for them."""
    titles = {"Recipe": "training", "ImageRecipe": "images", "AdversarialRecipe": "game"}
    found: dict[str, dict[str, Any]] = {}
    placed = set(NAMES)
    for kind in reversed(type(recipe).__mro__):
        for name in inspect.get_annotations(kind):
            if name in placed or name not in recipe.__dataclass_fields__ or hidden(recipe.__dataclass_fields__[name]):
                continue
            placed.add(name)  # where it is first defined; a system may define it again with another default
            value = getattr(recipe, name)
            title = "records" if name in RECORDS else titles.get(kind.__name__, recipe.system)
            inside = flat(value, f"{name}.") if dataclasses.is_dataclass(value) else {name: value}
            found.setdefault(_nested_title(name, value, recipe) or title, {}).update(inside)
    yield from found.items()


def _nested_title(name: str, value: Any, recipe: Recipe) -> str:
    if isinstance(value, Optimizer):
        player = next((p for p, settings in recipe.optimizers().items() if settings is value), "")
        players = [p for p in recipe.optimizers() if p.startswith(name)] or [player]
        return f"{players[0] or name}'s moves"
    return "penalties" if isinstance(value, Penalty) else name if dataclasses.is_dataclass(value) else ""


# ---- data
def native_facts(recipe: Recipe) -> Facts | None:
    """What is known of the recipe's data as they are; None where it has none. UserError if they are not there."""
    if (own := _own_description(recipe)) is not None:
        return own(recipe)
    if not recipe.data or (recipe.data_module and not isinstance(recipe, ImageRecipe)):
        return None
    from saddlepoint.data import describe

    return describe(recipe.data)


def _own_description(recipe: Recipe) -> Callable[..., Facts | None] | None:
    """The function that describes data of another kind, where their module has one."""
    module = importlib.import_module(recipe.data_module) if recipe.data and recipe.data_module else None
    found: Callable[..., Facts | None] | None = getattr(module, "describe", None)
    return found


def shown_facts(recipe: Recipe) -> Facts | None:
    """The same in the shape that the recipe asks for."""
    if (own := _own_description(recipe)) is not None:
        return own(recipe, shaped=True)
    if not recipe.data or not isinstance(recipe, ImageRecipe):
        return native_facts(recipe)
    from saddlepoint.data import describe

    shape, channels = recipe.shape if recipe.resolution else None, recipe.channels or None
    return describe(recipe.data, resolution=shape, channels=channels, fit=recipe.fit)


# ---- against the preset
def preset_of(recipe: Recipe) -> Recipe:
    """The recipe's preset, untouched."""
    return recipes.recipe(recipe.system, recipe.preset)


def changed(recipe: Recipe, facts: Facts | None = None) -> dict[str, Any]:
    """{path: the preset's value} of what somebody chose: what the data decide and automatic intervals do not count.

    facts: of the data as they are (`native_facts`).
    """
    preset = preset_of(recipe)
    old, new = flat(preset), flat(recipe)
    start = dataclasses.replace(preset, kimg=recipe.kimg)
    automatic = flat(_resolved(start, recipe, facts).with_intervals())
    return {
        path: old[path]
        for path, value in new.items()
        if value != old[path] and not (path in AUTOMATIC and old[path] == 0 and value == automatic[path])
    }


def _resolved(start: Recipe, recipe: Recipe, facts: Facts | None) -> Recipe:
    """`start` with all filled in that the data of `recipe` decide; as it is where they are gone."""
    if facts is None or _own_description(recipe) is None:
        return recipes.resolve(start, facts)
    resolved: Recipe = importlib.import_module(recipe.data_module).resolve(dataclasses.replace(start, data=recipe.data))
    return resolved


def remarks(recipe: Recipe, facts: Facts | None = None) -> dict[str, tuple[str, str]]:
    """{path: (kind, text)} for settings that a reader should not take for the preset's: "changed" by somebody,
    "automatic", or "unread" by the kinds that were chosen. facts: of the data as they are.
    """
    differs, ignored, preset = changed(recipe, facts), unread(recipe), flat(preset_of(recipe))
    found: dict[str, tuple[str, str]] = {}
    for path, value in flat(recipe).items():
        given = "from the data" if path in BY_DATA else "automatic"
        if path in differs:
            old = given if path in AUTOMATIC and differs[path] == 0 else shown(differs[path])
            found[path] = ("changed", f"preset: {old}")
        elif value != preset[path]:
            found[path] = ("automatic", given)
        elif path in ignored:
            found[path] = ("unread", "not read")
    return found


def command(recipe: Recipe, out: str = "", facts: Facts | None = None) -> str:
    """The command line that trains this recipe."""
    words = ["saddlepoint", "train", recipe.system]
    if recipe.preset != recipes.presets(recipe.system)[0]:
        words += ["--preset", recipe.preset]
    if recipe.data:
        words += ["--data", recipe.data]
    values = flat(recipe)
    for path in changed(recipe, facts):
        value = values[path]
        words += [flag(path, value), *([] if isinstance(value, bool) else shown(value).split(" "))]
    return shlex.join([*words, *(["--out", out] if out else [])])


def python_lines(recipe: Recipe, out: str = "", facts: Facts | None = None) -> str:
    """The same from Python."""
    values = flat(recipe)
    chosen = {path: values[path] for path in changed(recipe, facts)}
    plain = [f"{path}={_literal(value)}" for path, value in chosen.items() if "." not in path]
    dotted = [f"{_literal(path)}: {_literal(value)}" for path, value in chosen.items() if "." in path]
    named = [_literal(recipe.system), f"preset={_literal(recipe.preset)}"]
    words = [*named, *plain, *(["**{" + ", ".join(dotted) + "}"] if dotted else [])]
    call = ", ".join(words)
    if len(call) > 90:
        call = "\n    " + ",\n    ".join(words) + ",\n"
    places = {"data": recipe.data, "out": out}
    where = "".join(f", {name}={_literal(value)}" for name, value in places.items() if value)
    return (
        f"import saddlepoint as sp\n\nrecipe = sp.recipe({call})\nrun = sp.train(recipe{where})\n"
        "images = run.sample(16, seed=0)  # float tensor in [-1, 1]"
    )


def _literal(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False) if isinstance(value, str) else repr(value)


# ---- what cannot be
def check(recipe: Recipe) -> None:
    """Refuse values that no training could use: UserError naming the setting, its value and what was expected."""
    for path, value in flat(recipe).items():
        name = path.rpartition(".")[2]
        numbers = value if isinstance(value, tuple) else (value,)
        for number in numbers:
            expected = "" if isinstance(number, bool | str) else _expected(name, number)
            if expected:
                raise UserError(f"{path} is {shown(value)}; expected {expected}.")
    processes = int(os.environ.get("WORLD_SIZE", "1"))
    parts = processes * recipe.accumulate
    if recipe.batch % parts:
        below, above = recipe.batch // parts * parts, (recipe.batch // parts + 1) * parts
        raise UserError(
            f"a batch of {recipe.batch} cannot be divided over {processes} process(es) with {recipe.accumulate} "
            f"micro-batches each; nearest: {f'{below} or ' if below else ''}{above}."
        )


def _expected(name: str, number: float) -> str:
    """What was expected, or nothing where the number will do."""
    if not math.isfinite(number):
        return "a finite number"
    if name == "kimg" and number <= 0:
        return "more than 0"
    if name in ("batch", "accumulate", "steps", "keep_checkpoints", "evaluate_n") and number < 1:
        return "1 or more"
    if name in ("betas", "alpha") and not 0 <= number < 1:
        return "a decay: at least 0 and less than 1"
    if name == "p" and not 0 <= number <= 1:
        return "a probability from 0 to 1"
    if name == "channels" and number not in (0, 1, 3, 4):
        return "1 (grey), 3 (RGB), 4 (RGBA), or 0 for what the data have"
    if name in AT_LEAST_ZERO and number < 0:
        return "0 or more"
    return ""


def unread(recipe: Recipe) -> dict[str, str]:
    """{path: who would read it} of the settings that the chosen kinds pass over."""
    found: dict[str, str] = {}
    for name, operators in OPERATORS.items():
        if recipe.operator not in operators and name in recipe.__dataclass_fields__:
            found[name] = " or ".join(f"--operator {operator}" for operator in operators)
    if not recipe.evaluate_every:
        for name in ("evaluate_metric", "evaluate_features", "evaluate_n"):
            found[name] = "scores in training: --evaluate-every above 0"
    if not recipe.ema_half_life_kimg:
        found["ema_ramp"] = "a running average: --ema-half-life-kimg above 0"
    elif recipe.init_from:
        found["ema_ramp"] = "a start from random weights: no --init-from"
    for field in dataclasses.fields(recipe):
        value = getattr(recipe, field.name)
        if isinstance(value, Optimizer):
            head = field.name
            for name, kinds in KINDS.items():
                if value.kind not in kinds:
                    found[f"{head}.{name}"] = " or ".join(f"--{head}.kind {kind}" for kind in kinds)
            if recipe.operator != "alternating":
                found[f"{head}.steps"] = "--operator alternating"
        elif isinstance(value, Penalty) and not (value.gradient_penalty or value.dragan):
            found[f"{field.name}.one_sided"] = f"--{field.name}.gradient-penalty or --{field.name}.dragan above 0"
        elif isinstance(value, Augment):
            found |= _unread_augmentation(field.name, value)
    return found


def _unread_augmentation(name: str, value: Augment) -> dict[str, str]:
    if not value.operations:
        return {f"{name}.{part}": f"{flag(name)}.operations bgc" for part in ("p", "target", "every", "kimg")}
    return {} if value.target else {f"{name}.{part}": f"{flag(name)}.target above 0" for part in ("every", "kimg")}


def refuse_unread(recipe: Recipe) -> None:
    """A setting that was changed from the preset and that nothing reads is a mistake of the person who typed it."""
    values, ignored = flat(recipe), unread(recipe)
    for path in changed(recipe):
        if path in ignored:
            raise UserError(
                f"{flag(path)} {shown(values[path])} would change nothing: it is read by {ignored[path]} only. "
                "Choose that as well, or leave the flag out."
            )
