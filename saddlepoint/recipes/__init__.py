"""Recipes: the settings and presets of every system, without torch, so that help, list and dry-run answer at once.

`SYSTEMS` is the one table of the library: system name -> where its recipe and its game live.
"""

from __future__ import annotations

import dataclasses
import importlib
import typing
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from saddlepoint.errors import UserError, unknown
from saddlepoint.recipes.base import ImageRecipe, Recipe, to_json

if TYPE_CHECKING:
    from saddlepoint.data.catalog import Facts

__all__ = [
    "SYSTEMS",
    "Entry",
    "from_json",
    "presets",
    "recipe",
    "resolve",
    "summary",
    "systems",
    "to_json",
    "with_overrides",
]


class Entry(NamedTuple):
    """Where a system lives: its torch-free recipe module (with PRESETS and SUMMARY) and the class of its game."""

    recipes: str
    game: str


SYSTEMS: dict[str, Entry] = {
    "gan": Entry("saddlepoint.recipes.gan", "saddlepoint.systems.gan:GAN"),
    "dcgan": Entry("saddlepoint.recipes.dcgan", "saddlepoint.systems.dcgan:DCGAN"),
    "wgan": Entry("saddlepoint.recipes.wgan", "saddlepoint.systems.wgan:WGAN"),
    "wgan-gp": Entry("saddlepoint.recipes.wgan_gp", "saddlepoint.systems.wgan_gp:WGANGP"),
    "progan": Entry("saddlepoint.recipes.progan", "saddlepoint.systems.progan:ProGAN"),
    "stylegan1": Entry("saddlepoint.recipes.stylegan1", "saddlepoint.systems.stylegan1:StyleGAN1"),
    "stylegan2": Entry("saddlepoint.recipes.stylegan2", "saddlepoint.systems.stylegan2:StyleGAN2"),
    "stylegan3": Entry("saddlepoint.recipes.stylegan3", "saddlepoint.systems.stylegan3:StyleGAN3"),
    "gan-r1": Entry("saddlepoint.recipes.gan_r1", "saddlepoint.systems.gan_r1:GANR1"),
    "sagan": Entry("saddlepoint.recipes.sagan", "saddlepoint.systems.sagan:SAGAN"),
    "biggan": Entry("saddlepoint.recipes.biggan", "saddlepoint.systems.biggan:BigGAN"),
    "cogan": Entry("saddlepoint.recipes.cogan", "saddlepoint.systems.cogan:CoGAN"),
    "r3gan": Entry("saddlepoint.recipes.r3gan", "saddlepoint.systems.r3gan:R3GAN"),
    "pix2pix": Entry("saddlepoint.recipes.pix2pix", "saddlepoint.systems.pix2pix:Pix2Pix"),
    "cyclegan": Entry("saddlepoint.recipes.cyclegan", "saddlepoint.systems.cyclegan:CycleGAN"),
    "gaugan": Entry("saddlepoint.recipes.gaugan", "saddlepoint.systems.gaugan:GauGAN"),
    "pix2pixhd": Entry("saddlepoint.recipes.pix2pixhd", "saddlepoint.systems.pix2pixhd:Pix2PixHD"),
    "toy": Entry("saddlepoint.recipes.toy", "saddlepoint.systems.toy:Toy"),
    "dirac": Entry("saddlepoint.recipes.dirac", "saddlepoint.systems.dirac:Dirac"),
    "bilinear": Entry("saddlepoint.recipes.bilinear", "saddlepoint.systems.bilinear:Bilinear"),
    "quadratic": Entry("saddlepoint.recipes.quadratic", "saddlepoint.systems.quadratic:Quadratic"),
}


# What `saddlepoint train` trains where no system is named: of all in benchmarks/compare.py the one that was near the
# best on both of its sets, at minutes on CPU (dcgan is first on 60,000 garments, wgan on 3,600 emoji, neither on both).
DEFAULT = "wgan-gp"


def _module(system: str) -> Any:
    if system not in SYSTEMS:
        raise unknown("system", system, SYSTEMS)
    return importlib.import_module(SYSTEMS[system].recipes)


def systems() -> list[str]:
    """Names of all systems."""
    return list(SYSTEMS)


def presets(system: str) -> list[str]:
    """Names of a system's presets, the default first."""
    return list(_module(system).PRESETS)


def summary(system: str) -> str:
    """One line: what the system is."""
    text: str = _module(system).SUMMARY
    return text


def recipe(system: str, preset: str = "", **overrides: Any) -> Recipe:
    """A preset with some values replaced.

    Nested values are named with a dot or given as a mapping: `recipe("dcgan", **{"d.lr": 1e-4})`, `recipe("dcgan",
    d={"lr": 1e-4})`. An unknown system, preset or name is an error that says the nearest valid one.
    """
    table = _module(system).PRESETS
    name = preset or next(iter(table))
    if name not in table:
        raise unknown(f"preset of {system}", name, table)
    made: Recipe = dataclasses.replace(table[name](), system=system, preset=name)
    made = with_overrides(made, to_json(made))  # a preset may say 100 where 100.0 is meant
    return with_overrides(made, overrides)


def with_overrides(recipe: Any, overrides: Mapping[str, Any]) -> Any:
    """`recipe` with values replaced; names may be dotted paths, values of nested settings mappings."""
    fields = {f.name: f for f in dataclasses.fields(recipe)}
    hints = typing.get_type_hints(type(recipe))
    for path, value in overrides.items():
        name, _, rest = path.partition(".")
        if name not in fields:
            raise unknown(f"setting of {getattr(recipe, 'system', '') or type(recipe).__name__}", name, fields)
        current = getattr(recipe, name)
        if rest and not dataclasses.is_dataclass(current):
            raise UserError(f"{name} has no settings of its own, so there is no {path!r}.")
        if rest:
            value = with_overrides(current, {rest: value})
        elif dataclasses.is_dataclass(current) and isinstance(value, Mapping):
            value = with_overrides(current, value)
        else:
            value = _checked(hints[name], name, value)
        recipe = dataclasses.replace(recipe, **{name: value})
    return recipe


def _checked(hint: Any, name: str, value: Any) -> Any:
    """The value as the setting's declared type, or an error that says what was expected."""
    kind, choices = typing.get_origin(hint) or hint, typing.get_args(hint)
    if kind is typing.Literal:
        if value not in choices:
            raise unknown(f"value of {name}", str(value), [str(c) for c in choices])
        return value
    if kind is tuple and isinstance(value, list | tuple):
        kinds = choices[:1] * len(value) if Ellipsis in choices else choices
        if len(value) != len(kinds):
            raise UserError(f"{name} takes {len(kinds)} values, not {value!r}.")
        return tuple(_checked(each, name, item) for each, item in zip(kinds, value, strict=True))
    if kind is float and isinstance(value, int | float) and not isinstance(value, bool):
        return float(value)  # integer betas, for one, are refused by current optimizers
    if type(value) is not kind and not (dataclasses.is_dataclass(value) and isinstance(value, kind)):
        raise UserError(f"{name} takes {kind.__name__}, not {value!r}.")
    return value


def from_json(values: Mapping[str, Any]) -> Recipe:
    """The recipe that `to_json` wrote. Settings of a newer version are an error that names them."""
    plain = {k: v for k, v in values.items() if k not in ("system", "preset")}
    table = _module(values["system"]).PRESETS
    base = table.get(values["preset"], next(iter(table.values())))()
    named = dataclasses.replace(base, system=values["system"], preset=values["preset"])
    result: Recipe = with_overrides(named, plain)
    return result


def resolve(recipe: Recipe, facts: Facts | None) -> Recipe:
    """Fill in what the data decide: resolution, channels, classes."""
    if facts is None or not isinstance(recipe, ImageRecipe):
        return recipe
    return dataclasses.replace(
        recipe,
        resolution=recipe.resolution or recipe.holding(facts.height, facts.width),
        channels=recipe.channels or facts.channels,
        classes=facts.classes,
    )
