"""pix2pix and CycleGAN: sizes, patches, pool, schedule, order of play; and translating pictures of any size."""

from __future__ import annotations

import dataclasses
from contextlib import suppress
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from saddlepoint import recipes
from saddlepoint.engine import Training
from saddlepoint.errors import UserError
from saddlepoint.game import Game
from saddlepoint.layers.translation import (
    Dropout,
    Enough,
    InstanceNorm,
    NLayerDiscriminator,
    ResnetGenerator,
    Shared,
    UnetGenerator,
    criterion,
    dropping,
    from_pool,
    sharing,
)
from saddlepoint.systems import build
from saddlepoint.systems.translation import factor_at, padded


def small(system: str, **settings: Any) -> Any:
    narrow = {"width": 4, "d_width": 4, "n_layers": 1, "batch": 4, "ema_half_life_kimg": 0.0, "precision": "fp32"}
    narrow |= {"resolution": 32, "channels": 3, "input_channels": 3}
    if system == "cyclegan":
        narrow |= {"blocks": 1, "pool": 6}
    return recipes.recipe(system, "tiny", **{**narrow, **settings})


def built(system: str, **settings: Any) -> Any:
    return build(small(system, **settings))


def batch(n: int = 4, side: int = 32, seed: int = 0) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {name: torch.rand(n, 3, side, side, generator=generator) * 2 - 1 for name in ("a", "b")}


def played(game: Game, rounds: int = 1, accumulate: int = 1) -> Training:
    recipe = dataclasses.replace(game.recipe, accumulate=accumulate)  # type: ignore[arg-type, type-var]

    def source(cursor: int, total: int, first: int, length: int, resolution: int | None = None) -> dict[str, Tensor]:
        return {k: v[first : first + length] for k, v in batch(total, seed=cursor).items()}

    made = Training(game, recipe, source)
    for _ in range(rounds):
        made.play()
    return made


class TestNetworks:
    @pytest.mark.parametrize(
        ("system", "preset", "counts"),
        [
            ("cyclegan", "paper", {"G_A": 11_378_179, "D_A": 2_764_737}),
            ("cyclegan", "resnet-6", {"G_A": 7_837_699}),
            ("cyclegan", "unet-256", {"G_B": 54_409_603}),
            ("pix2pix", "paper", {"generator": 54_413_955, "discriminator": 2_768_705}),
            ("pix2pix", "unet-128", {"generator": 41_828_995}),
            ("cyclegan", "tiny", {"G_A": 272_515}),
        ],
    )
    def test_published_parameter_counts(self, system: str, preset: str, counts: dict[str, int]) -> None:
        recipe = recipes.recipe(system, preset)
        recipe = recipes.with_overrides(
            recipe, {"channels": 3, "input_channels": 3, "resolution": getattr(recipe, "resolution", 0) or 64}
        )
        game = build(recipe, "meta")
        for name, count in counts.items():
            assert sum(p.numel() for p in game.get_submodule(name).parameters()) == count

    @pytest.mark.parametrize(("n_layers", "patch"), [(1, 16), (2, 34), (3, 70), (4, 142)])
    def test_a_logit_sees_exactly_its_patch(self, n_layers: int, patch: int) -> None:
        D = NLayerDiscriminator(1, 2, n_layers, "none")
        x = torch.rand(1, 1, 256, 256, requires_grad=True)
        y = D(x)
        assert n_layers != 3 or y.shape == (1, 1, 30, 30)
        (gradient,) = torch.autograd.grad(y[0, 0, y.shape[2] // 2, y.shape[3] // 2], x)
        rows, columns = gradient[0, 0].nonzero(as_tuple=True)
        assert [int(v.max() - v.min()) + 1 for v in (rows, columns)] == [patch, patch]

    def test_a_constant_picture_stays_constant_under_reflection(self) -> None:
        G = ResnetGenerator(3, 3, 4, "none", n_blocks=1)
        first = G.model[:2](torch.full((1, 3, 16, 16), 0.3))
        assert torch.allclose(first, first[:, :, :1, :1].expand_as(first), atol=1e-6)

    def test_the_unet_has_dropout_where_the_paper_has_it_and_its_masks_come_from_outside(self) -> None:
        G = UnetGenerator(3, 3, 8, 2, "batch", use_dropout=True)
        assert sum(isinstance(m, Dropout) for m in G.modules()) == 3
        x = torch.rand(3, 2, 4, 4)
        layer = Dropout("0")
        assert torch.equal(layer(x), x), "off without numbers"
        with dropping(lambda name, *shape: torch.tensor([0.4, 0.6]).repeat(3, 2, 4, 2)):
            assert torch.equal(layer(x), x * torch.tensor([2.0, 0.0, 2.0, 0.0]))

    def test_the_unet_says_which_sides_it_takes(self) -> None:
        with pytest.raises(UserError, match=r"multiples of 32, not 40x64; nearest above: 64x64"):
            UnetGenerator(3, 3, 5, 2)(torch.zeros(1, 3, 40, 64))

    def test_instance_norm_against_torch(self) -> None:
        x = torch.randn(2, 3, 5, 4, dtype=torch.float64, requires_grad=True)
        expected = nn.InstanceNorm2d(3)(x)
        assert torch.allclose(InstanceNorm(3)(x), expected)
        assert torch.equal(InstanceNorm(3)(torch.rand(1, 2, 1, 1)), torch.zeros(1, 2, 1, 1))
        with Game().untouched():  # the form with derivatives of every order
            assert torch.allclose(InstanceNorm(3)(x), expected)

    def test_what_does_not_fit_is_refused(self) -> None:
        with pytest.raises(UserError, match="nearest: n_layers=3, or d_network=pixel"):
            built("pix2pix", n_layers=5)
        with pytest.raises(UserError, match="identity"):
            built("cyclegan", input_channels=1)
        assert built("cyclegan", input_channels=1, identity=0.0).G_B.model[-2].out_channels == 1


class TestObjectives:
    def test_numbers_by_hand(self) -> None:
        half = torch.full((2, 1, 3, 3), 0.5)
        assert float(criterion("lsgan", half, True)) == 0.25
        assert 0.5 * float(criterion("lsgan", half, True) + criterion("lsgan", half, False)) == 0.25
        assert float(criterion("vanilla", torch.zeros(1), True)) == pytest.approx(0.693147, abs=1e-6)
        assert float(criterion("wgangp", half, True)) == -0.5

    def test_identity_maps_pay_nothing_for_cycle_and_identity(self) -> None:
        game = built("cyclegan")
        game.G_A = game.G_B = Same()
        terms = game.loss("generators", game.round(batch()))
        assert [float(terms[k]) for k in ("cycle_A", "cycle_B", "idt_A", "idt_B")] == [0.0] * 4

    def test_weights_of_the_terms(self) -> None:
        game = built("cyclegan", lambda_a=3.0, lambda_b=7.0, identity=0.5)
        round = game.round(batch())
        terms = game.loss("generators", round)
        fake_b, rec_a, _, rec_b = game.there(round)
        x, y = round["a"], round["b"]
        assert torch.isclose(terms["cycle_A"], 3 * (rec_a - x).abs().mean())
        assert torch.isclose(terms["cycle_B"], 7 * (rec_b - y).abs().mean())
        assert torch.isclose(terms["idt_A"], 3.5 * (game.G_A(y) - y).abs().mean())
        assert torch.isclose(terms["idt_B"], 1.5 * (game.G_B(x) - x).abs().mean())
        assert torch.isclose(terms["G_A"], (game.D_A(fake_b) - 1).square().mean())

    def test_the_condition_is_seen_unless_it_is_switched_off(self) -> None:
        for conditional in (True, False):
            game = built("pix2pix", conditional=conditional)
            data = batch()
            swapped = {"a": data["a"].flip(0), "b": data["b"]}
            pair = [game.judge(d["a"], d["b"]) for d in (data, swapped)]
            assert torch.equal(*pair) != conditional


class Same(nn.Module):
    def forward(self, x: Tensor, noise: Any = None) -> Tensor:
        return x


class TestPool:
    def test_it_fills_then_shows_half_of_what_it_keeps(self) -> None:
        generator = torch.Generator().manual_seed(0)
        stored, count = torch.zeros(50, 1, 1, 1), torch.zeros(())
        own = 0
        for step in range(1050):
            fake = torch.full((1, 1, 1, 1), float(step + 1))
            shown, stored, count = from_pool(stored, count, fake, torch.rand(1, 2, generator=generator))
            own += int(torch.equal(shown, fake))
            if step < 50:
                assert torch.equal(shown, fake) and float(count) == step + 1
        assert float(count) == 50 and len(stored) == 50 and stored.min() > 0
        assert 480 <= own - 50 <= 560

    def test_parts_of_a_batch_make_the_pool_of_the_batch(self) -> None:
        generator = torch.Generator().manual_seed(1)
        stored, fake = torch.rand(5, 2, 3, 3), torch.rand(8, 2, 3, 3)
        for count in (0.0, 3.0, 5.0):
            numbers = torch.rand(8, 2, generator=generator)
            whole = from_pool(stored, torch.tensor(count), fake, numbers)
            parts = [from_pool(stored, torch.tensor(count), fake[i : i + 2], numbers, i) for i in (0, 2, 4, 6)]
            assert torch.equal(whole[0], torch.cat([part[0] for part in parts]))
            assert torch.allclose(whole[1], torch.stack([part[1] for part in parts]).mean(0))
            assert all(torch.equal(whole[2], part[2]) for part in parts)

    def test_it_is_part_of_the_state_and_independent_of_micro_batches(self) -> None:
        states = [played(built("cyclegan").double(), rounds=5, accumulate=n).game.state_dict() for n in (1, 2)]
        assert float(states[0]["pool_count"]) == 6
        for name in ("pool_a", "pool_b", "G_A.model.1.weight", "D_B.model.0.weight"):
            assert torch.allclose(states[0][name], states[1][name], atol=1e-9), name
        assert states[0]["pool_a"].abs().sum() > 0


class TestPlay:
    def test_discriminators_judge_the_fakes_from_before_the_generators_step(self) -> None:
        game = built("cyclegan", pool=0)
        data = batch(4, seed=0)
        before = game.round(data)
        expected = {k: float(v.detach()) for k, v in game.loss("discriminators", before).items()}
        training = Training(game, game.recipe, lambda *place: data)
        report = training.play()
        assert {k: float(v) for k, v in report["discriminators"].items()} == pytest.approx(expected, abs=1e-6)

    def test_gradients_go_to_the_own_player_only(self) -> None:
        game = built("pix2pix")
        parameters = {k: v.clone() for k, v in game.named_parameters()}
        played(game)
        moved = {k.partition(".")[0] for k, v in game.named_parameters() if not torch.equal(v, parameters[k])}
        assert moved == {"generator", "discriminator"} and all(p.grad is None for p in game.parameters())

    def test_learning_rates_fall_as_published(self) -> None:
        recipe = recipes.recipe("cyclegan", "paper")
        epoch = round(1000 * recipe.epoch_kimg)  # type: ignore[attr-defined]
        factors = [factor_at(recipe, e * epoch + 7) for e in (0, 99, 100, 199)]  # type: ignore[arg-type]
        assert factors == pytest.approx([1, 1, 1 - 1 / 101, 1 / 101])
        gliding = recipes.recipe("cyclegan", "tiny")
        assert [factor_at(gliding, c) for c in (0, 6000, 8000, 10000)] == pytest.approx([1, 1, 0.5, 0])  # type: ignore[arg-type]

    def test_batch_norm_is_official_in_how_often_it_is_counted(self) -> None:
        game = built("pix2pix", norm="batch", network="resnet", blocks=1)
        mean = game.generator.model[:2](batch(4, seed=0)["a"]).mean((0, 2, 3)).detach()
        played(game)
        found = game.generator.model[2].running_mean
        assert torch.allclose(found, 0.1 * mean, atol=1e-6), "once a round, though the forward is made twice"


class TestUse:
    def test_any_size_comes_back_in_its_size(self) -> None:
        for system in ("pix2pix", "cyclegan"):
            game = built(system)
            for sides in ((32, 32), (37, 50), (9, 70)):
                x = torch.rand(2, 3, *sides) * 2 - 1
                y = game.translate(x)
                assert y.shape == x.shape and y.abs().max() <= 1
            assert torch.allclose(game.translate(x, batch=1), y, atol=1e-5)
        with pytest.raises(UserError, match="3, H, W"):
            game.translate(torch.zeros(1, 1, 32, 32))
        with pytest.raises(UserError, match="did you mean 'b-to-a'"):
            game.translate(x, direction="b-to-aa")

    def test_padding_reflects_where_it_can(self) -> None:
        x = torch.arange(5.0).view(1, 1, 1, 5).expand(1, 1, 6, 5)
        assert padded(x, 4)[0, 0, 0].tolist() == [0, 1, 2, 3, 4, 3, 2, 1]
        assert padded(x, 16).shape == (1, 1, 16, 16)
        assert padded(x[:, :, :4, :4], 4) is not None

    def test_kept_examples_are_what_is_shown(self) -> None:
        class Source:
            paired = True

            def __len__(self) -> int:
                return 3

            def __call__(self, cursor: int, total: int, first: int, length: int) -> dict[str, Tensor]:
                return batch(length)

        game = built("cyclegan")
        assert len(game.examples()[0]) == 0 and game.sample(2).shape == (2, 3, 32, 32)
        game.meet(Source())
        x, truth = game.examples()
        assert torch.allclose(x, batch(3)["a"], atol=1 / 127) and truth is not None
        images, columns = game.show()
        assert columns == 6 and torch.equal(images[0], x[0]) and torch.equal(images[2], truth[0])
        assert torch.allclose(images[1], game.translate(x)[0])
        assert {tuple(y.flatten()[:2].tolist()) for y in game.sample(3, seed=1)} == {
            tuple(y.flatten()[:2].tolist()) for y in game.translate(x)
        }

    def test_batch_norm_takes_each_picture_by_itself(self) -> None:
        game = played(built("pix2pix", norm="batch"), rounds=2).game
        x = batch()["a"]
        alone = torch.cat([game.translate(part) for part in x.split(1)])  # type: ignore[operator]
        assert torch.allclose(game.translate(x)[:1], alone[:1], atol=1e-5)  # type: ignore[operator]
        running = game.eval().generator(x)  # type: ignore[operator]
        assert not torch.allclose(running, alone, atol=1e-2)

    def test_tiles_may_share_statistics(self) -> None:
        layers = nn.Sequential(InstanceNorm(2), nn.Tanh(), InstanceNorm(2))
        x = torch.randn(1, 2, 8, 8).cumsum(3)
        whole, halves, shared, found = layers(x), x.split(4, 3), Shared(), []
        with sharing(shared):
            for _ in range(3):
                assert not found, "nothing comes out before the last pass"
                for half in halves:
                    with suppress(Enough):
                        found.append(layers(half))
                again = shared.next_pass()
        assert not again, "two layers, and a pass that finds no third"
        joined = torch.cat(found, 3)
        assert torch.allclose(joined, whole, atol=1e-5)
        assert not torch.allclose(torch.cat([layers(half) for half in halves], 3), whole, atol=0.1)

    def test_the_first_layers_alone_are_exact_and_the_rest_is_each_tiles_own(self) -> None:
        layers = nn.Sequential(InstanceNorm(2), nn.Tanh(), InstanceNorm(2))
        x = torch.randn(1, 2, 8, 8).cumsum(3)
        halves, shared = x.split(4, 3), Shared()
        with sharing(shared):
            for half in halves:
                with pytest.raises(Enough):
                    layers(half)
            assert shared.next_pass(search=False)
            found = [layers(half) for half in halves]
        for part, first in zip(found, layers[0](x).tanh().split(4, 3), strict=True):
            torch.testing.assert_close(part, layers[2](first))

    def test_a_part_that_counts_twice_counts_once(self) -> None:
        layer, shared = InstanceNorm(1), Shared()
        x = torch.arange(6.0).view(1, 1, 1, 6).expand(1, 1, 2, 6)
        with sharing(shared):
            for part, columns in ((x[..., :4], (0.0, 0.75)), (x[..., 2:], (0.25, 1.0))):
                shared.place((0.0, 1.0), columns)
                with suppress(Enough):
                    layer(part)
            shared.next_pass(search=False)
            torch.testing.assert_close(layer(x), InstanceNorm(1)(x))
