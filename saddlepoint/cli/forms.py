"""From words to typed values: tyro parses, and what it refuses becomes one sentence with the nearest valid choice."""

from __future__ import annotations

import contextlib
import dataclasses
import difflib
import io
import re
import typing
from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated, Any, NamedTuple, TypeVar

import tyro

from saddlepoint.errors import UserError, unknown
from saddlepoint.recipes.settings import flag

Form = TypeVar("Form")
Switch = Annotated[bool, tyro.conf.FlagCreatePairsOff]  # --x without --no-x

# Words of other tools, by what they are called here. Names without a head stand for every flag that ends so.
ELSEWHERE = {
    "learning-rate": ["lr"], "beta1": ["betas"], "beta2": ["betas"], "optimizer": ["kind"], "n-critic": ["d.steps"],
    "epochs": ["kimg"], "epoch": ["kimg"], "niter": ["kimg"], "iterations": ["kimg"], "iters": ["kimg"],
    "max-steps": ["kimg"], "num-steps": ["kimg"], "length": ["kimg"], "duration": ["kimg"],
    "bs": ["batch"], "batch-size": ["batch"], "dataset": ["data"], "dataroot": ["data"], "input": ["data"],
    "outdir": ["out"], "output": ["out"], "logdir": ["out"], "dir": ["out"], "gpu": ["device"], "gpus": ["device"],
    "cuda": ["device"], "cpu": ["device"], "fp16": ["precision"], "bf16": ["precision"], "amp": ["precision"],
    "loss": ["objective"], "gp": ["penalty.gradient-penalty"], "gamma": ["penalty.r1", "operator-strength"],
    "image-size": ["resolution"], "img-size": ["resolution"], "size": ["resolution"], "nz": ["latent"],
    "z-dim": ["latent"], "latent-dim": ["latent"], "ngf": ["width"], "ndf": ["width"], "random-seed": ["seed"],
    "ema": ["ema-half-life-kimg"], "flip": ["mirror"], "hflip": ["mirror"], "count": ["n"], "num": ["n"],
    "o": ["out"], "s": ["seed"], "b": ["batch"], "gradient-accumulation": ["accumulate"], "force": ["overwrite"],
    "verbose": ["quiet"],
}  # fmt: skip


def parse(
    form: type[Form], argv: Sequence[str], *, prog: str, description: str = "", default: Form | None = None
) -> Form:
    """`argv` as an instance of the dataclass `form`. `--help` prints and exits; anything wrong is a UserError."""
    complaints = io.StringIO()
    given: dict[str, Any] = {} if default is None else {"default": default}
    try:
        with contextlib.redirect_stderr(complaints):
            made: Form = tyro.cli(form, prog=prog, description=description or None, args=argv, **given)
            return made
    except SystemExit as stop:
        if stop.code in (None, 0):
            raise
    text = _plain(complaints.getvalue())
    if text.startswith("Missing from"):
        needed = [name for name in required(form) if re.search(rf"(?<!\S){name} ", text)]
        raise UserError(f"{prog} needs {' and '.join(needed)}; see {prog} --help")
    raise UserError(diagnosis(known(form, default), argv, text, prog))


def required(form: Any) -> list[str]:
    """What has no default: positional words in capitals, flags with their dashes."""
    hints = typing.get_type_hints(form, include_extras=True)
    return [
        field.name.upper() if "Positional" in str(getattr(hints[field.name], "__metadata__", "")) else flag(field.name)
        for field in dataclasses.fields(form)
        if field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
    ]


class Flag(NamedTuple):
    """What may follow a flag: one of `choices` (empty: anything), or nothing at all after a switch."""

    choices: tuple[str, ...] = ()
    switch: bool = False


def known(form: Any, default: Any = None, prefix: str = "") -> dict[str, Flag]:
    """Every flag of a form, by name."""
    found: dict[str, Flag] = {}
    form = typing.get_origin(form) or form
    hints = typing.get_type_hints(form, include_extras=True)
    for field in dataclasses.fields(form):
        hint = hints[field.name]
        marks = getattr(hint, "__metadata__", ())
        names = " ".join(map(str, marks))
        if "Suppress" in names or "Positional" in names:
            continue
        value = getattr(default, field.name, None)
        kind = type(value) if dataclasses.is_dataclass(value) else typing.get_args(hint)[0] if marks else hint
        path = prefix + field.name
        if dataclasses.is_dataclass(kind):
            flattened = any(getattr(mark, "prefix_name", None) is False for mark in marks)
            found |= known(kind, value, prefix if flattened else f"{path}.")
            continue
        choices = typing.get_args(kind) if typing.get_origin(kind) is typing.Literal else ()
        found[flag(path)] = Flag(tuple(map(str, choices)), kind is bool)
        if kind is bool and "FlagCreatePairsOff" not in names:
            found[flag(path, False)] = Flag((), True)
    return found


def diagnosis(flags: Mapping[str, Flag], argv: Sequence[str], text: str, prog: str) -> str:
    """One sentence on what is wrong with `argv`, where tyro says `text`."""
    seek = f"All flags: {prog} --help"
    for index, word in enumerate(argv):
        name, equals, value = word.partition("=")
        if not re.match(r"--?[A-Za-z]", name):
            continue
        wanted = flags.get(name.replace("_", "-"))
        if wanted is None:
            return f"unknown flag {name}; did you mean {alternatives(name, flags)}? {seek}"
        value = value if equals else " ".join(argv[index + 1 : index + 2])
        if not value or value.startswith("--"):
            continue
        if wanted.choices and value not in wanted.choices:
            return str(unknown(f"value of {name}", value, wanted.choices))
        if wanted.switch and f"Unrecognized options: {value}" in text:
            off = "--" + name[2:].rpartition(".")[0] + "." * ("." in name) + "no-" + name[2:].rpartition(".")[2]
            hint = f" {off} switches it off." if off in flags else ""
            return f"{name} takes no value, so {value!r} is not understood.{hint} {seek}"
    return f"{sentence(text)} {seek}"


def alternatives(name: str, flags: Iterable[str]) -> str:
    """The nearest valid flag, the run's own before a player's; or both players' where each has such a setting."""
    word = name.lstrip("-").replace("_", "-")
    head, _, last = word.rpartition(".")
    names = [f.removeprefix("--") for f in flags]
    for wanted in (last, *ELSEWHERE.get(last, [])):
        exact = [n for n in names if n == wanted or n.endswith("." + wanted)]
        exact = [n for n in exact if head and n.startswith(head + ".")] or [n for n in exact if n == wanted] or exact
        if exact:
            return " or ".join(f"--{n}" for n in exact)

    def likeness(candidate: str) -> float:
        if len(word) == 1:
            return candidate.startswith(word) / len(candidate)
        tails = (candidate, candidate.rpartition(".")[2])
        return max(difflib.SequenceMatcher(None, word, tail).ratio() for tail in tails)

    return f"--{max(names, key=likeness, default='help')}"


def _plain(complaints: str) -> str:
    """The words in tyro's box: from below its title to the first rule. (Boxes are drawn with blanks and dashes where
    the terminal knows no better.)
    """
    lines = [line.strip("│ ").strip() for line in re.sub(r"\x1b\[[0-9;]*m", "", complaints).splitlines()]
    rules = [index for index, line in enumerate(lines) if len(line) > 3 and not line.strip("╭╮╰╯─- ")]
    title = next((i for i, line in enumerate(lines) if line.startswith("╭")), rules[0] if rules[:1] == [1] else -1)
    last = next((index for index in rules if index > title), len(lines))
    return " ".join(line for line in lines[title + 1 : last] if line).rstrip(".")


def sentence(text: str) -> str:
    """What tyro says, in the command's own words."""
    if found := re.match(r"invalid choice '(.*)' for argument '(.*)'\. Expected one of \((.*)\)", text):
        return str(unknown("choice", found[1], re.findall(r"'([^']+)'", found[3])))
    for pattern, replacement in (
        (r"Unrecognized options: (.*)", r"unexpected \1: every value follows its flag"),
        (r"Missing value for argument '(.*)'\. Expected 1 values", r"\1 takes a value"),
        (r"Missing value for argument '(.*)'\. Expected (\d+) values", r"\1 takes \2 values"),
        (r"Error parsing (\S+): invalid literal for int\(\) with base 10: (.*)", r"\1 takes a whole number, not \2"),
        (r"Error parsing (\S+): could not convert string to float: (.*)", r"\1 takes a number, not \2"),
    ):
        text = re.sub(pattern, replacement, text)
    return (text or "these words make no sense together") + "."
