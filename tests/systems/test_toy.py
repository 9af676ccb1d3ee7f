"""Toy games: the networks of the sheets, penalties in closed form, and the pathologies in small."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import saddlepoint as sp
from saddlepoint import api, experiments, recipes
from saddlepoint.data import toys
from saddlepoint.errors import UserError
from saddlepoint.game import Round
from saddlepoint.systems import build


def game(preset: str = "tiny", **overrides: Any) -> Any:
    return build(api.prepared(recipes.recipe("toy", preset, **overrides)))


def the_round(made: object, n: int = 32, seed: int = 0) -> Round:
    batch = toys.source(made.recipe)(0, n, 0, n)  # type: ignore[attr-defined]
    return made.round(batch, seed=seed)  # type: ignore[attr-defined]


# ---- networks
@pytest.mark.parametrize(
    ("preset", "generator", "discriminator"),
    [
        ("metz", 49_666, 513),
        ("metz-notebook", 49_666, 17_025),
        ("numerics", 1_122, 881),
        ("wgan-gp", 527_874, 527_361),
    ],
)
def test_published_parameter_counts(preset: str, generator: int, discriminator: int) -> None:
    made = build(recipes.recipe("toy", preset), "meta")
    counts = {p.name: sum(w.numel() for w in p.parameters) for p in made.players}
    assert counts == {"generator": generator, "discriminator": discriminator}


def test_orthogonal_weights_have_the_gain_and_no_bias() -> None:
    made = game("metz")
    for network in (made.generator, made.discriminator):
        for layer in network.layers:
            w = layer.weight.detach()
            small = w @ w.T if w.shape[0] <= w.shape[1] else w.T @ w
            assert torch.allclose(small, 0.8**2 * torch.eye(len(small)), atol=1e-5)
            assert not layer.bias.any()


def test_he_and_xavier_spread_and_torchs_own() -> None:
    he, xavier = game("wgan-gp").generator.layers[1].weight, game("numerics").generator.layers[1].weight
    assert float(he.detach().abs().max()) == pytest.approx((6 / 512) ** 0.5, rel=0.01)
    assert float(xavier.detach().abs().max()) == pytest.approx((6 / 32) ** 0.5, rel=0.03)
    own = game(initialisation="torch", gain=7.0)
    assert own.generator.layers[0].bias.any() and float(own.generator.layers[0].weight.detach().abs().max()) <= 16**-0.5


def test_the_discriminator_sees_points_scaled() -> None:
    made, x = game("metz"), torch.randn(5, 2)
    hidden = torch.relu(made.discriminator.layers[0](x / 4))
    assert torch.allclose(made.discriminator(x), made.discriminator.layers[1](hidden)[:, 0])


@pytest.mark.parametrize(("activation", "f"), [("relu", torch.relu), ("tanh", torch.tanh)])
def test_the_generator_is_a_plain_network(activation: str, f: object) -> None:
    made = game(activation=activation, hidden=(8, 5, 4))
    x = z = torch.randn(3, 16)
    for layer in made.generator.layers[:-1]:
        x = f(x @ layer.weight.T + layer.bias)  # type: ignore[operator]
    last = made.generator.layers[-1]
    assert len(made.generator.layers) == 4 and torch.allclose(
        made.generator(z), x @ last.weight.T + last.bias, atol=1e-6
    )


def test_samples_and_lines() -> None:
    made = game()
    z = made.draw_latents(2, seed=1)
    assert made.sample(5).shape == (5, 2) and torch.equal(made.sample(2, seed=1), made.sample(2, z=z))
    assert torch.allclose(made.interpolate(z[0], z[1], 4)[[0, -1]], made.sample(2, z=z), atol=1e-6)


# ---- losses
def test_penalties_of_a_linear_discriminator() -> None:
    made = game(d_hidden=(), **{"penalty.r1": 0.6, "penalty.r2": 0.4, "penalty.gradient_penalty": 3.0})
    with torch.no_grad():
        made.discriminator.layers[0].weight.copy_(torch.tensor([[3.0, 4.0]]))
    terms = made.loss("discriminator", the_round(made))
    assert terms["r1"].item() == pytest.approx(0.3 * 25) and terms["r2"].item() == pytest.approx(0.2 * 25)
    assert terms["gradient_penalty"].item() == pytest.approx(3 * 16, rel=1e-5)


def test_minimax_is_zero_sum_and_others_are_not() -> None:
    made = game("metz")
    round = the_round(made)
    d, g = (float(sum(made.loss(p, round).values())) for p in ("discriminator", "generator"))
    real = float(torch.nn.functional.softplus(-made.discriminator(round["point"])).mean())
    assert d + g == pytest.approx(real, abs=1e-5)  # the rest of V does not depend on the generator


def test_instance_noise_is_on_whatever_is_seen_and_gone_at_zero() -> None:
    made, seen = game(instance_noise=0.5, **{"penalty.r1": 0.0}), []
    made.discriminator.register_forward_pre_hook(lambda _, args: seen.append(args[0].detach()))
    round = the_round(made, n=2000)
    made.loss("discriminator", round)
    fake = made.generator(made.prior.of(round)).detach()
    for noisy, clean in ((seen[0], round["point"]), (seen[1], fake)):
        assert float((noisy - clean).std()) == pytest.approx(0.5, rel=0.05)
    assert float(((seen[0] - round["point"]) * (seen[1] - fake)).mean().abs()) < 0.03
    seen.clear()
    made.loss("generator", round)
    assert not torch.equal(seen[0], fake)
    clean = game(**{"penalty.r1": 0.0})
    assert clean.seen(fake, round, "noise.fake") is fake


def test_clipping_holds_from_the_start() -> None:
    made = experiments.training("tiny", clip=0.05, batch=16, **{"penalty.r1": 0.0, "d.lr": 0.1})
    for _ in range(3):
        weights = [w.detach().abs().max() for w in made.game.player("discriminator").parameters]
        assert max(weights) <= 0.05 and max(weights) > 0.049
        made.play()


def test_relativistic_generators_see_the_data_too() -> None:
    made = game(objective="relativistic")
    round = the_round(made)
    real, fake = made.discriminator(round["point"]), made.discriminator(made.fake(round))
    expected = torch.nn.functional.softplus(real - fake).mean()
    assert torch.allclose(made.loss("generator", round)["gan"], expected)


# ---- unrolling
def weights_after(rounds: int = 3, **overrides: object) -> list[Tensor]:
    made = experiments.training("metz", batch=16, hidden=(8, 8), d_hidden=(8,), **overrides)
    for _ in range(rounds):
        made.play()
    return [p.detach().clone() for p in made.game.parameters()]


def test_without_unrolled_steps_it_is_the_simultaneous_game() -> None:
    plain, zero = weights_after(operator="simultaneous"), weights_after(unroll_steps=0)
    assert all(torch.equal(a, b) for a, b in zip(plain, zero, strict=True))
    ten = weights_after(unroll_steps=10)
    assert not all(torch.equal(a, b) for a, b in zip(plain, ten, strict=True))


@pytest.mark.parametrize("through", [True, False])
def test_the_shared_forward_changes_cost_and_nothing_else(through: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    def played() -> tuple[list[Tensor], int]:
        made = experiments.training(
            "metz", batch=16, hidden=(8,), d_hidden=(8,), unroll_steps=4, unroll_through=through
        )
        calls: list[int] = []
        made.game.generator.register_forward_hook(lambda *_: calls.append(1))  # type: ignore[union-attr]
        gradients, _ = [], made.play()
        made.table.begin()
        round = made.table.draw("data")
        from saddlepoint.operators import unrolled_loss

        loss = unrolled_loss(
            made.game, "generator", {"discriminator": lambda: made.table.stepper("discriminator")}, 4, through
        )
        gradients = [g for g in made.table.measure("generator", round, loss)[0] if g is not None]
        return gradients, len(calls)

    shared, few = played()
    monkeypatch.setattr(Round, "once", lambda self, player, name, fn: fn())
    apart, many = played()
    assert few == 3 and many == 11  # in the first round d's own move and g's; then g's alone
    assert all(torch.allclose(a, b, rtol=1e-4, atol=1e-8) for a, b in zip(shared, apart, strict=True))


# ---- the pathologies, in small
def test_the_saturating_gradient_vanishes_as_the_discriminator_gets_better() -> None:
    found = experiments.vanishing_gradients(0, moves=300, batch=64, times=10)
    assert found.accuracy[-1] > 0.999 and found.jsd_bound[-1] == pytest.approx(np.log(2), abs=0.01)
    assert found.saturating[-1] < 0.05 * max(found.saturating)
    assert found.nonsaturating[-1] > 10 * found.nonsaturating[0]
    # Both are the same where d does not know: s = 1 - s = 1/2.
    assert found.saturating[0] == pytest.approx(found.nonsaturating[0], rel=0.1)


def test_two_gaussians_a_cliff_against_a_ramp() -> None:
    found = experiments.two_gaussians("gradient", moves=300, batch=64)
    at_fakes = np.abs(found.x - 5) < 1
    assert found.discriminator[0] > 0.99 and found.discriminator[-1] < 0.01
    assert np.abs(found.discriminator_slope[at_fakes]).max() < 1e-2
    assert np.abs(found.critic_slope[at_fakes]).min() > 0.3
    assert 7 < found.estimate <= found.w1
    with pytest.raises(UserError, match="gradient"):
        experiments.two_gaussians("gradiant")


def test_the_plain_game_swings_and_a_penalty_settles_it() -> None:
    plain = experiments.oscillation("unregularised", rounds=400, times=80)
    settled = experiments.oscillation("r1", rounds=400, times=80)
    assert plain.amplitude > 10 * settled.amplitude and settled.amplitude < 0.05
    assert plain.crossings >= 4
    with pytest.raises(UserError, match="instance-noise"):
        experiments.oscillation("instance noise")


def test_a_watched_training_counts_hops() -> None:
    found = experiments.mode_collapse(
        0, rounds=20, every=10, pictures=3, samples=50, batch=8, hidden=(8,), d_hidden=(4,), latent=2
    )
    assert [m.round for m in found.moments] == [0, 10, 20] and list(found.snapshots) == [0, 10, 20]
    assert found.snapshots[20].shape == found.target.shape == (50, 2)
    assert found.final is found.moments[-1].coverage and found.hops >= 0

    def moment(at: int, *nearest: int) -> experiments.Moment:
        rest = dict.fromkeys(("modes", "modes_20", "modes_1_percent", "high_quality", "kl", "std_ratio", "counts"), 0)
        coverage = experiments.ModeCoverage(samples=sum(nearest), of_modes=3, nearest=nearest, **rest)  # type: ignore[arg-type]
        return experiments.Moment(at, coverage)

    held = [
        moment(0, 4, 3, 3),
        moment(1, 9, 1, 0),
        moment(2, 0, 9, 1),
        moment(3, 0, 9, 1),
        moment(4, 3, 3, 4),
        moment(5, 9, 1, 0),
    ]
    watched = experiments.ModeCollapse(0, 0, 5, tuple(held), {}, np.zeros((0, 2)))
    assert watched.hops == 1  # from 1 to 2; evenly spread generators neither hop nor hold
    assert [m.leading_share for m in held[:2]] == [0.4, 0.9]


def shares(found: experiments.ModeCollapse) -> list[float]:
    """Share of the samples at the fullest mode, in the second half of a training."""
    return [m.leading_share for m in found.moments if m.round > found.rounds / 2]


def test_a_plain_gan_collapses_and_a_foreseeing_one_spreads() -> None:
    settings = {"rounds": 500, "every": 100, "batch": 64, "samples": 500}
    plain, unrolled = (experiments.mode_collapse(k, **settings) for k in (0, 10))
    assert np.mean(shares(plain)) > 0.7 and max(shares(unrolled)) < 0.3
    assert sum(n >= 5 for n in unrolled.final.nearest) == 8


@pytest.mark.slow
def test_a_plain_gan_hops_between_modes_and_foreseeing_covers_them() -> None:
    plain, unrolled = experiments.mode_collapse(0, rounds=2500), experiments.mode_collapse(10, rounds=2500)
    assert np.mean(shares(plain)) > 0.75 and plain.hops >= 5 and plain.final.modes <= 2
    assert max(shares(unrolled)) < 0.25 and unrolled.hops == 0 and unrolled.final.modes >= 7


@pytest.mark.slow
def test_r1_covers_the_ring() -> None:
    made = experiments.training("tiny")
    for _ in range(3000):
        made.play()
    ring = toys.point_set("ring")
    found = experiments.mode_coverage(experiments.drawn(made), ring.centres, ring.sigma)
    assert found.modes_1_percent == 8 and found.high_quality > 0.7


# ---- runs
@pytest.mark.parametrize("data", ["circle", "mixture-1d"])
def test_runs_on_points(data: str, tmp_path: Path) -> None:
    from PIL import Image

    run = sp.train(
        "toy", data=data, out=tmp_path / "run", kimg=0.1, device="cpu", progress=False, batch=20, hidden=(8,)
    )
    assert run.sample(3).shape == (3, run.recipe.dimensions) and run.clock == 100  # type: ignore[attr-defined]
    for path in (run.path / "samples").glob("*.png"):
        with Image.open(path) as image:
            assert image.size == (480, 480) and len(image.getcolors(1 << 20) or ()) > 1
    assert (run.path / "report.html").exists()
    longer = sp.resume(run.path, kimg=0.2, device="cpu", progress=False)
    whole = sp.train(
        "toy", data=data, out=tmp_path / "w", kimg=0.2, device="cpu", progress=False, batch=20, hidden=(8,)
    )
    assert torch.equal(longer.sample(4), whole.sample(4))
