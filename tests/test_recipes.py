from __future__ import annotations

import dataclasses
import importlib
import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from saddlepoint import recipes
from saddlepoint.errors import UserError, nearest, unknown
from saddlepoint.recipes import SYSTEMS, from_json, presets, recipe, resolve, summary, systems, to_json, with_overrides
from saddlepoint.recipes.base import AdversarialRecipe, ImageRecipe, Optimizer, Penalty, Recipe


def importable() -> list[str]:
    """Systems whose recipe module exists."""
    return [name for name, entry in SYSTEMS.items() if importlib.util.find_spec(entry.recipes)]


EVERY = [(system, preset) for system in importable() for preset in presets(system)]


# ---- every preset of every system


@pytest.mark.parametrize(("system", "preset"), EVERY)
def test_json_and_back(system: str, preset: str) -> None:
    made = recipe(system, preset)
    written = json.dumps(to_json(made), allow_nan=False)
    again = from_json(json.loads(written))
    assert again == made
    assert type(again) is type(made)
    assert json.dumps(to_json(again)) == written  # an integer that became a float would show here
    assert (made.system, made.preset) == (system, preset)


@pytest.mark.parametrize(("system", "preset"), EVERY)
def test_a_preset_is_made_of_plain_values_of_their_declared_types(system: str, preset: str) -> None:
    def check(value: Any, where: str) -> None:
        if dataclasses.is_dataclass(value):
            assert value.__dataclass_params__.frozen  # type: ignore[attr-defined]
            for field in dataclasses.fields(value):
                check(getattr(value, field.name), f"{where}.{field.name}")
        elif isinstance(value, tuple | list):
            for item in value:
                check(item, where)
        elif isinstance(value, dict):
            for item in value.values():
                check(item, where)
        else:
            assert isinstance(value, bool | int | float | str), where

    made = recipe(system, preset)
    check(made, system)
    assert with_overrides(made, to_json(made)) == made  # every value passes its own check


@pytest.mark.parametrize("system", importable())
def test_systems_have_a_summary_and_image_models_a_tiny_and_a_paper_preset(system: str) -> None:
    assert system in systems()
    if isinstance(recipe(system), ImageRecipe):
        assert presets(system)[0].startswith("tiny")  # what a newcomer gets ends in minutes
        assert "paper" in presets(system) or system == "stylegan3"  # two configurations, each in three sizes
    assert 10 < len(summary(system)) < 120
    assert "\n" not in summary(system)
    assert recipe(system) == recipe(system, presets(system)[0])


@pytest.mark.parametrize(("system", "preset"), EVERY)
def test_optimizers_name_players_and_intervals_are_written_out(system: str, preset: str) -> None:
    made = recipe(system, preset)
    optimizers = made.optimizers()
    assert optimizers
    assert all(isinstance(o, Optimizer) and o.lr > 0 and o.steps >= 1 for o in optimizers.values())
    resolved = made.with_intervals()
    assert (resolved.log_kimg, resolved.samples_kimg, resolved.checkpoint_kimg) == (
        made.log_kimg or made.kimg / 100,
        made.samples_kimg or made.kimg / 10,
        made.checkpoint_kimg or made.kimg / 10,
    )
    assert dataclasses.replace(resolved, kimg=1e6).with_intervals() == dataclasses.replace(resolved, kimg=1e6)


@pytest.mark.parametrize(("system", "preset"), [e for e in EVERY if e[0] == "dcgan"])
def test_recipes_of_the_players_of_the_game(system: str, preset: str) -> None:
    from saddlepoint.systems import build

    made = recipe(system, preset)
    facts = SimpleNamespace(height=32, width=32, channels=1, classes=10)
    game = build(resolve(made, facts), "meta")  # type: ignore[arg-type]
    assert {p.name for p in game.players} == set(made.optimizers())


# ---- overrides


def test_dotted_names_and_mappings_are_the_same() -> None:
    dotted = recipe("dcgan", **{"d.lr": 1e-4, "d.betas": (0.0, 0.9), "penalty.r1": 2.0, "kimg": 5.0})
    mapped = recipe("dcgan", d={"lr": 1e-4, "betas": [0.0, 0.9]}, penalty={"r1": 2.0}, kimg=5.0)
    assert dotted == mapped
    assert isinstance(dotted, AdversarialRecipe)
    assert (dotted.d.lr, dotted.d.betas, dotted.penalty.r1, dotted.kimg) == (1e-4, (0.0, 0.9), 2.0, 5.0)
    assert dotted.g == recipe("dcgan").g  # type: ignore[attr-defined]
    assert dotted.d.kind == "adam"  # what is not named stays
    assert recipe("dcgan", d=Optimizer(lr=3.0)).d.lr == 3.0  # type: ignore[attr-defined]


def test_overriding_leaves_the_preset_alone() -> None:
    before = recipe("dcgan")
    recipe("dcgan", batch=8, **{"g.lr": 1.0})
    assert recipe("dcgan") == before


def test_integers_become_floats_where_floats_belong() -> None:
    made: Any = recipe("dcgan", kimg=5, d={"lr": 1, "betas": (0, 1)}, g={"betas": [0, 0.9]})
    for value in (made.kimg, made.d.lr, *made.d.betas, *made.g.betas):
        assert type(value) is float
    assert type(made.g.betas) is tuple
    assert type(made.batch) is int


@given(st.floats(1e-6, 1), st.floats(0, 0.999), st.integers(1, 512), st.booleans())
def test_overrides_survive_json(lr: float, beta: float, batch: int, mirror: bool) -> None:
    made = recipe("dcgan", batch=batch, mirror=mirror, d={"lr": lr, "betas": (beta, 0.5)})
    assert from_json(json.loads(json.dumps(to_json(made)))) == made


@dataclass(frozen=True)
class Varied(Recipe):
    """Settings of the kinds that dcgan does not have."""

    widths: tuple[int, ...] = (64, 32)
    scales: tuple[float, ...] = ()


def test_tuples_of_any_length() -> None:
    made = with_overrides(Varied(), {"widths": [8, 4, 2], "scales": [1.5]})
    assert (made.widths, made.scales) == ((8, 4, 2), (1.5,))
    assert with_overrides(made, {"widths": []}).widths == ()
    with pytest.raises(UserError, match=r"widths takes int, not 1.5"):
        with_overrides(made, {"widths": [1.5]})


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"btach": 3}, "unknown setting of dcgan 'btach'; did you mean 'batch'?"),
        ({"d.learning_rat": 3}, "unknown setting of Optimizer 'learning_rat'"),
        ({"d.lrr": 3}, "did you mean 'lr'?"),
        ({"d": {"bettas": (0.0, 0.9)}}, "did you mean 'betas'?"),
        ({"objective": "waserstein"}, "unknown value of objective 'waserstein'; did you mean 'wasserstein'?"),
        ({"d.kind": "adm"}, "did you mean 'adam'?"),
        ({"operator": 3}, "unknown value of operator '3'"),
        ({"batch": 64.0}, "batch takes int, not 64.0"),
        ({"batch": True}, "batch takes int, not True"),
        ({"kimg": "long"}, "kimg takes float, not 'long'"),
        ({"kimg": True}, "kimg takes float, not True"),
        ({"mirror": 1}, "mirror takes bool, not 1"),
        ({"d.betas": (0.9,)}, "betas takes 2 values, not (0.9,)"),
        ({"d.betas": 0.9}, "betas takes tuple, not 0.9"),
        ({"d.betas": ("a", "b")}, "betas takes float, not 'a'"),
        ({"d": 3}, "d takes Optimizer, not 3"),
        ({"batch.size": 3}, "batch has no settings of its own"),
        ({"kimg": None}, "kimg takes float, not None"),
    ],
)
def test_errors_name_the_setting_and_what_it_takes(overrides: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError) as caught:
        recipe("dcgan", **overrides)
    assert message in str(caught.value)


def test_unknown_systems_and_presets() -> None:
    with pytest.raises(UserError, match=r"unknown system 'dcgna'; did you mean 'dcgan'\? Choices: "):
        recipe("dcgna")
    with pytest.raises(UserError, match=r"unknown preset of dcgan 'tinny'; did you mean 'tiny'\?"):
        recipe("dcgan", "tinny")
    with pytest.raises(UserError, match="unknown system"):
        from_json({"system": "nothing", "preset": "tiny"})


def test_a_newer_recipes_settings_are_named() -> None:
    values = to_json(recipe("dcgan")) | {"from_the_future": 1}
    with pytest.raises(UserError, match="'from_the_future'"):
        from_json(values)
    older = {k: v for k, v in to_json(recipe("dcgan", width=8)).items() if k != "latent"}
    assert from_json(older) == recipe("dcgan", width=8)  # a setting that did not exist takes the preset's value
    gone = to_json(recipe("dcgan", "svhn")) | {"preset": "renamed"}
    assert from_json(gone) == dataclasses.replace(recipe("dcgan", "svhn"), preset="renamed")


def test_nearest() -> None:
    assert nearest("batsh", ["batch", "kimg"]) == "batch"
    assert nearest("xyz", ["batch", "kimg"]) == ""
    assert str(unknown("fruit", "zzz", ["pear", "apple"])) == "unknown fruit 'zzz'. Choices: apple, pear."


# ---- what the data decide


def facts(height: int, width: int, channels: int = 3, classes: int = 0) -> Any:
    return SimpleNamespace(height=height, width=width, channels=channels, classes=classes)


@pytest.mark.parametrize(
    ("height", "width", "side"), [(8, 8, 8), (28, 28, 32), (32, 32, 32), (33, 12, 64), (1, 1, 8), (100, 200, 256)]
)
def test_resolve_takes_the_smallest_power_of_two_that_holds_the_images(height: int, width: int, side: int) -> None:
    made: Any = resolve(recipe("dcgan"), facts(height, width, 1, 10))
    assert (made.resolution, made.channels, made.classes) == (side, 1, 10)


def test_resolve_keeps_what_the_recipe_says() -> None:
    made: Any = resolve(recipe("dcgan", resolution=16, channels=4), facts(100, 100))
    assert (made.resolution, made.channels) == (16, 4)
    assert resolve(recipe("dcgan"), None) == recipe("dcgan")
    assert resolve(Varied(), facts(8, 8)) == Varied()  # no images, nothing to fill in


def test_penalties_and_objective_are_off_by_default() -> None:
    assert not any(dataclasses.asdict(Penalty()).values())
    assert ImageRecipe().min_resolution == 8
    with pytest.raises(NotImplementedError):
        Recipe().optimizers()


# ---- start-up


def test_recipes_import_no_torch() -> None:
    """Help, list and dry-run read every recipe; torch alone takes seconds."""
    program = f"""
import sys
from saddlepoint import recipes
for system in {importable()!r}:
    for preset in recipes.presets(system):
        made = recipes.recipe(system, preset, **{{"batch": 8}})
        recipes.from_json(recipes.to_json(made))
        recipes.summary(system)
heavy = {{"torch", "numpy", "matplotlib", "sklearn", "scipy", "PIL", "gradio", "tensorboard"}} & set(sys.modules)
sys.exit(f"imported: {{heavy}}" if heavy else 0)
"""
    root = Path(recipes.__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", program], cwd=root, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
