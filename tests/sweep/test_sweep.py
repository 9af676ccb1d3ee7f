"""The same checks over every system in the table.

Weights are perturbed and warm rounds are played first: at their neutral start (zero gains, terms that are not due,
empty running values) many a broken loss looks right.
"""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import json
from pathlib import Path

import pytest
import torch
from torch import Tensor

from saddlepoint import recipes
from saddlepoint.data import Stream, open_set
from saddlepoint.engine import Source, Training
from saddlepoint.errors import UserError
from saddlepoint.game import Game, Round
from saddlepoint.layers.latent import LatentGame
from saddlepoint.recipes.base import ImageRecipe, Recipe
from saddlepoint.systems import build

SYSTEMS = recipes.systems()
ROOT = Path(__file__).parents[2]
# Instance norm magnifies rounding where a map is nearly constant; in float64 these agree (test_translation.py).
ROUNDING = {"pix2pix": 2e-5, "cyclegan": 2e-5, "pix2pixhd": 2e-5}


def small(system: str, **overrides: object) -> Recipe:
    """The system's first preset on 8x8 or 16x16 digits, in float32, a few samples a batch."""
    recipe = recipes.recipe(
        system, **{"precision": "fp32", "channels_last": False, "batch": 8, "kimg": 1.0, **overrides}
    )
    if isinstance(recipe, ImageRecipe):
        names = {f.name for f in dataclasses.fields(recipe)}
        least: dict[str, object] = {"width": 8, "critic_width": 8, "latent": 8, "long_steps": 7, "fmap_max": 8, "w": 8}
        least |= {"layers": 4, "margin": 2}  # stylegan3
        least |= {"d_width": 8, "n_layers": 1, "blocks": 1, "pool": 4, "input_channels": 1}  # translation
        least |= {"width_max": 8}  # gan-r1
        least |= {"channel_base": 64, "channel_max": 8, "group": 8}  # r3gan
        least |= {"start": 4, "stable_kimg": 0.006, "fade_kimg": 0.016, "batches": (0,)}  # growing, through a fade
        least |= {name: {"channel_base": 64, "channel_max": 8} for name in ("g_net", "d_net")}
        if getattr(recipe, "objective", "") == "hinge":  # flat for fakes that are recognised, where nothing shows
            least["objective"] = "nonsaturating"
        if isinstance(getattr(recipe, "blocks", 1), tuple):
            del least["blocks"]  # r3gan's are counted by resolution
        narrow = {k: v for k, v in least.items() if k in names}
        side = max(8, recipe.min_resolution)
        data = recipe.data or "digits"  # or a set with two domains
        recipe = recipes.with_overrides(recipe, {"resolution": side, "channels": 1, "data": data, **narrow})
    return recipe


def source(recipe: Recipe) -> Source | None:
    if recipe.data_module:
        made: Source = importlib.import_module(recipe.data_module).source(recipe)
        return made
    if not isinstance(recipe, ImageRecipe):
        return None
    images = open_set("digits", resolution=recipe.resolution, channels=recipe.channels)
    return Stream(images, seed=recipe.seed)


def training(recipe: Recipe, rounds: int = 0) -> Training:
    game = build(recipe)
    with torch.no_grad():
        generator = torch.Generator().manual_seed(1)
        for parameter in game.parameters():
            spread = 0.1 * float(parameter.abs().mean()) + 0.01
            parameter += spread * torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype)
    made = Training(game, recipe, source(recipe))
    for _ in range(rounds):
        made.play()
    return made


def analysed(made: Training) -> tuple[Game, Round]:
    """The game and a round for analysis on its data."""
    batch = {} if made.source is None else made.source(0, 8, 0, 8)
    return made.game, made.game.round(batch, seed=3, clock=made.counters.clock, step=made.counters.step)


@pytest.mark.parametrize("system", SYSTEMS)
class TestEverySystem:
    def test_recipes_survive_json_and_have_presets_that_build(self, system: str) -> None:
        for preset in recipes.presets(system):
            recipe = recipes.recipe(system, preset)
            assert recipes.from_json(json.loads(json.dumps(recipes.to_json(recipe)))) == recipe
            if isinstance(recipe, ImageRecipe):
                recipe = dataclasses.replace(
                    recipe, resolution=recipe.resolution or 32, channels=recipe.channels or 3, classes=10
                )
            game = build(recipe, "meta")
            assert {p.name for p in game.players} == set(recipe.optimizers())
            assert all(p.parameters for p in game.players)

    def test_samples_are_a_function_of_the_seed(self, system: str) -> None:
        made = training(small(system), rounds=1)
        game = made.game
        modes = [m.training for m in game.modules()]
        first, again, other = (game.sample(5, seed=s) for s in (0, 0, 1))
        assert torch.equal(first, again)
        assert made.source is None or not torch.equal(first, other)  # a closed-form game has one point to show
        assert len(first) == 5 and torch.isfinite(first).all()
        if isinstance(made.recipe, ImageRecipe):
            assert first.shape == (5, 1, made.recipe.resolution, made.recipe.resolution)
            assert first.abs().max() <= 1
        assert [m.training for m in game.modules()] == modes
        assert torch.allclose(game.sample(3, seed=0), first[:3], atol=1e-5), "a longer sample begins with the shorter"

    def test_a_path_between_latents_begins_and_ends_at_their_samples(self, system: str) -> None:
        game = training(small(system), rounds=1).game
        if not isinstance(game, LatentGame):
            pytest.skip("no latents")
        z = game.draw_latents(2, seed=0)
        path, controls = game.interpolate(z[0], z[1], 4), {}
        for name, value in {"label": 0, "domain": "both"}.items():  # the defaults of paths: one class, both domains
            if name in inspect.signature(game.sample).parameters:
                controls[name] = value
        ends = game.sample(2, z=z, **controls)
        assert torch.allclose(path[[0, -1]], ends, atol=1e-5) and not torch.equal(path[1], path[2])

    def test_between_two_classes_lie_their_mixtures(self, system: str) -> None:
        recipe = small(system)
        if "conditional" in {f.name for f in dataclasses.fields(recipe)}:
            needed: dict[str, object] = {"conditional": True, "classes": 10, "embedding": 4}
            needed |= {"network": "resnet"} if system == "wgan-gp" else {}
            names = {f.name for f in dataclasses.fields(recipe)}
            recipe = recipes.with_overrides(recipe, {k: v for k, v in needed.items() if k in names})
        game = training(recipe, rounds=1).game
        if not isinstance(game, LatentGame):
            pytest.skip("no latents")
        z = game.draw_latents(1, seed=0)[0]
        if "label" not in inspect.signature(game.sample).parameters:
            with pytest.raises(UserError, match="knows no classes"):
                game.interpolate_classes(z, 0, 3)
            return
        path = game.interpolate_classes(z, 0, 3, 4)
        ends = game.sample(2, z=z.expand(2, -1), label=[0, 3])
        assert torch.allclose(path[[0, -1]], ends, atol=1e-5)
        assert not torch.equal(path[1], path[2]) and not torch.equal(path[0], path[-1])

    def test_every_term_is_finite_with_a_gradient_for_its_own_player(self, system: str) -> None:
        game, round = analysed(training(small(system), rounds=2))
        for player in game.players:
            with game.untouched():
                terms = game.loss(player, round)
            assert terms, f"{player} sits out of the first rounds"
            for name, term in terms.items():
                assert term.ndim == 0 and torch.isfinite(term), (player, name)
                gradients = torch.autograd.grad(term, player.parameters, allow_unused=True, retain_graph=True)
                present = [g for g in gradients if g is not None]
                assert present and any(g.abs().max() > 0 for g in present), f"{name} does not move {player}"

    def test_the_same_round_has_the_same_losses_and_leaves_no_trace(self, system: str) -> None:
        game, round = analysed(training(small(system), rounds=2))
        before = {k: v.clone() for k, v in game.state_dict().items()}

        def evaluate() -> dict[tuple[str, str], Tensor]:
            with game.untouched():
                return {(p.name, k): v for p in game.players for k, v in game.loss(p, round).items()}

        first, second = evaluate(), evaluate()
        assert all(torch.equal(first[k], second[k]) for k in first)
        assert all(torch.equal(v, before[k]) for k, v in game.state_dict().items())

    def test_another_draw_has_other_losses(self, system: str) -> None:
        made = training(small(system), rounds=2)
        game, round = analysed(made)
        if made.source is None or hasattr(game, "translate"):
            pytest.skip("a game without data, and a map from images to images, may have nothing random")
        other = dataclasses.replace(round, draw=round.draw + 1, numbers={})
        name = game.players[0].name
        with game.untouched():
            assert not torch.equal(sum(game.loss(name, round).values()), sum(game.loss(name, other).values()))

    def test_micro_batches_equal_the_batch_unless_the_game_says_otherwise(self, system: str) -> None:
        recipe = small(system)
        whole, parts = training(recipe, 1), training(dataclasses.replace(recipe, accumulate=2), 0)
        parts.load(*whole.state())
        for made in (whole, parts):
            made.table.begin()
        gradients = []
        for made in (whole, parts):
            round = made.table.draw("data")
            name = made.game.players[0].name
            gradients.append([g for g in made.table.measure(name, round)[0] if g is not None])
        scale = max(float(g.abs().max()) for g in gradients[0])
        worst = max(float((a - b).abs().max()) for a, b in zip(*gradients, strict=True))
        if whole.game.couples:
            assert worst > 1e-6 * scale, f"{system} declares {set(whole.game.couples)}, yet nothing couples its batch"
        else:
            assert worst <= ROUNDING.get(system, 2e-6) * scale

    def test_a_resumed_run_is_the_uninterrupted_one_bit_for_bit(self, system: str, tmp_path: Path) -> None:
        from saddlepoint.runs import read_checkpoint, save_checkpoint

        recipe = small(system)
        whole = training(recipe, rounds=3)
        save_checkpoint(tmp_path / "000", *whole.state())
        resumed = Training(build(recipe), recipe, source(recipe))
        resumed.load(*read_checkpoint(tmp_path / "000"))
        for made in (whole, resumed):
            for _ in range(3):
                made.play()
        a, b = whole.state()[0], resumed.state()[0]
        assert a.keys() == b.keys() and whole.counters == resumed.counters
        assert all(torch.equal(a[k], b[k]) for k in a)

    @pytest.mark.parametrize("operator", ["alternating", "simultaneous", "extragradient", "consensus"])
    def test_every_operator_plays_it(self, system: str, operator: str) -> None:
        made = training(small(system, operator=operator, operator_strength=0.01))
        before = {k: v.clone() for k, v in made.game.named_parameters()}
        for _ in range(3):
            report = made.play()
        assert set(report) == {p.name for p in made.game.players}
        assert all(torch.isfinite(v) for terms in report.values() for v in terms.values())
        for player in made.game.players:
            names = [k for k, v in made.game.named_parameters() if any(v is p for p in player.parameters)]
            assert any(not torch.equal(before[k], made.game.get_parameter(k)) for k in names), f"{player} did not move"

    def test_twenty_rounds_stay_finite_and_move_the_samples(self, system: str) -> None:
        made = training(small(system, batch=4))
        before = made.average.game().sample(4, seed=0)
        for _ in range(20):
            made.play()
        after = made.average.game().sample(4, seed=0)
        assert torch.isfinite(after).all() and not torch.equal(before, after)
        assert made.counters.step == 20 and made.counters.clock >= 80

    def test_it_has_a_page(self, system: str) -> None:
        page = ROOT / "docs" / "systems" / f"{system}.md"
        assert page.is_file(), f"write docs/systems/{system}.md"
        assert f"saddlepoint train {system}" in page.read_text() or f'sp.game("{system}"' in page.read_text()
