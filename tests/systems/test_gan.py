from __future__ import annotations

import math
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from saddlepoint.engine import Training
from saddlepoint.errors import UserError
from saddlepoint.game import Move
from saddlepoint.layers.dense import MaxoutConv
from saddlepoint.objectives import cross_entropy_discriminator, minimax_generator, nonsaturating_generator
from saddlepoint.systems.gan import (
    Discriminator,
    contrast_normalised,
    nearest_examples,
    parzen,
    parzen_log_likelihood,
)
from tests.systems.builders import build, counts, images, train

# The published initial weights make every logit about 0; larger ones let the losses speak.
SMALL = {"latent": 5, "hidden": (12, 12), "units": (6, 6), "pieces": 3, "d_irange": 0.3, "g_irange": 0.5}


# ---- networks
@pytest.mark.parametrize(
    ("preset", "generator", "discriminator"),
    [
        ("paper", 2_503_984, 1_231_441),
        ("mnist", 2_503_984, 1_231_441),
        ("tfd", 83_250_304, 21_037_201),
        ("cifar", 89_395_072, 37_393_601),
    ],
)
def test_published_parameter_counts(preset: str, generator: int, discriminator: int) -> None:
    assert counts("gan", preset) == (generator, discriminator)


def test_convolutional_counts_from_the_list_of_its_layers() -> None:
    """The sides 33 16 15 7 9 5 follow from cuda-convnet's pooling, which counts windows over the edge."""
    g = 100 * 8000 + 8000 + 8000 * 8000 + 8000 + 80 * 3 * 25 + 3 * 32 * 32
    d = (3 * 64 * 64 + 64) + (32 * 64 * 64 + 64) + (32 * 25 * 384 + 384) + (192 * 25 * 2500 + 2500) + (500 + 1)
    assert counts("gan", "cifar-conv") == (g, d)
    x, sides = torch.zeros(1, 3, 32, 32), []
    for layer in (MaxoutConv(3, 1, 8, 4, 4, 2), MaxoutConv(1, 1, 8, 3, 4, 2), MaxoutConv(1, 1, 5, 3, 2, 2)):
        sides += [layer.conv(x).shape[-1], layer.side(x.shape[-1])]
        x = layer(x)
        assert x.shape[-1] == sides[-1]
    assert sides == [33, 16, 15, 7, 9, 5]


@pytest.mark.parametrize("resolution", [8, 16, 28, 64])
@pytest.mark.parametrize("channels", [1, 3, 4])
def test_any_resolution_builds(resolution: int, channels: int) -> None:
    game = build("gan", resolution=resolution, channels=channels, **SMALL)
    x = game.sample(3)
    assert x.shape == (3, channels, resolution, resolution)
    assert game.discriminator(game.inside(x)).shape == (3,)
    assert x.abs().max() <= 1


def test_the_convolutional_pair_needs_a_resolution_of_3_b_plus_2() -> None:
    for resolution in (8, 32):
        game = build("gan", "cifar-conv", resolution=resolution, hidden=(20, 400), units=(0, 10))
        assert game.sample(2).shape == (2, 3, resolution, resolution)
    with pytest.raises(UserError, match=r"not 64; nearest: 65\."):
        build("gan", "cifar-conv", resolution=64)
    with pytest.raises(UserError, match=r"not 16; nearest: 17\."):
        build("gan", "cifar-conv", resolution=16)


def test_initial_weights_are_the_yaml_files() -> None:
    game = build("gan", "mnist")
    for weight, irange in ((game.generator.second.weight, 0.05), (game.discriminator.layers[0].linear.weight, 0.005)):
        assert irange * 0.999 < weight.abs().max().item() <= irange
        assert weight.std().item() == pytest.approx(irange / math.sqrt(3), rel=0.02)
    face = build("gan", "tfd", hidden=(50, 200), units=(8, 8), resolution=8)
    nonzero = (face.generator.output.weight != 0).sum(1)
    assert nonzero.min() == nonzero.max() == 100
    assert torch.all(face.generator.second.bias == -2)
    assert build("gan", "cifar", hidden=(9, 50)).generator.output.weight.abs().max().item() > 0.49
    z = game.draw_latents(4000)  # uniform with unit variance
    assert z.std().item() == pytest.approx(1, abs=0.01)
    assert z.abs().max().item() == pytest.approx(math.sqrt(3), abs=0.01)


# ---- the data's side
def test_inside_and_outside_are_inverse_in_the_unit_interval() -> None:
    game, x = build("gan", **SMALL), images(4)
    inside = game.inside(x)
    assert inside.min() >= 0 and inside.max() <= 1
    torch.testing.assert_close(game.outside(inside), x)


def test_contrast_normalisation_has_mean_zero_and_norm_55() -> None:
    game = build("gan", "cifar", hidden=(8, 8), units=(4, 4))
    x = game.inside(images(4, 32, 3))
    torch.testing.assert_close(x.mean(1), torch.zeros(4), rtol=0, atol=1e-5)
    torch.testing.assert_close(x.norm(dim=1), torch.full((4,), 55.0))
    assert contrast_normalised(torch.ones(1, 10)).abs().max() == 0
    assert game.outside(x).abs().amax((1, 2, 3)).tolist() == pytest.approx([1] * 4)


def test_marginals_start_the_output_at_the_mean_image() -> None:
    game, x = build("gan", **SMALL), images(50)
    game.prepare(x)
    torch.testing.assert_close(torch.sigmoid(game.generator.output.bias), game.inside(x).mean(0), rtol=0, atol=1e-6)
    dark = build("gan", **SMALL)
    dark.fit_marginals(torch.full((3, 1, 16, 16), -1.0))
    assert dark.generator.output.bias[0].item() == pytest.approx(math.log(1e-7), rel=1e-4)
    unprepared = build("gan", marginals=False, **SMALL)
    unprepared.prepare(x)
    assert torch.all(unprepared.generator.output.bias == 0)


# ---- the value function
def value(logits: Tensor, p: Tensor, q: Tensor) -> Tensor:
    """V(d, g) on a grid: expectations of -(losses) under two densities that sum to one."""
    zero = torch.zeros_like(logits)  # cross entropy of (t, 0) is softplus(-t) + log 2
    real, fake = cross_entropy_discriminator(logits, zero), cross_entropy_discriminator(zero, logits)
    return -((p * real).sum() + (q * fake).sum() - 2 * math.log(2))


@pytest.mark.parametrize("seed", range(4))
def test_value_at_the_optimum_is_twice_the_divergence_minus_log_four(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    p, q = (torch.rand(2, 50, generator=generator, dtype=torch.float64) ** 3 + 1e-9).softmax(1).unbind()
    m = (p + q) / 2
    jsd = 0.5 * (p * (p / m).log()).sum() + 0.5 * (q * (q / m).log()).sum()
    best = (p / q).log()  # the logit of p / (p + q)
    assert value(best, p, q).item() == pytest.approx((2 * jsd - math.log(4)).item(), abs=1e-12)
    assert value(best + 0.1, p, q) < value(best, p, q)
    assert value(torch.zeros(50, dtype=torch.float64), p, p).item() == pytest.approx(-1.386294, abs=1e-6)


def test_gradients_of_the_two_generator_losses_where_the_fake_is_recognised() -> None:
    t = torch.tensor(-10.0, dtype=torch.float64, requires_grad=True)
    (saturating,) = torch.autograd.grad(minimax_generator(t), t)
    (alive,) = torch.autograd.grad(nonsaturating_generator(t), t)
    assert saturating.item() == pytest.approx(-4.54e-5, rel=1e-3)
    assert alive.item() == pytest.approx(-0.99995, abs=1e-5)


def test_a_maxout_discriminator_learns_the_ratio_of_two_densities() -> None:
    recipe = build("gan", resolution=2, units=(16, 16), pieces=3, d_irange=0.5).recipe
    torch.manual_seed(1)
    d = Discriminator(recipe).double()
    x = torch.linspace(-4, 4, 161, dtype=torch.float64)
    p, q = torch.softmax(-((x + 1) ** 2) / 2, 0), torch.softmax(-((x - 1) ** 2) / 2, 0)
    points = x.unsqueeze(1) * torch.ones(4, dtype=torch.float64)
    adam = torch.optim.Adam(d.parameters(), lr=1e-2)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(adam, 400)
    for _ in range(400):
        adam.zero_grad()
        (-value(d(points), p, q)).backward()
        adam.step()
        schedule.step()
    bulk = (p + q) > 1e-3
    error = (torch.sigmoid(d(points)) - p / (p + q)).abs()[bulk].max()
    assert error.item() < 0.02


# ---- the game
def test_the_discriminators_loss_is_half_the_sum_of_two_cross_entropies() -> None:
    game = build("gan", keep_input=1.0, keep_hidden=1.0, **SMALL)
    round = game.round({"image": images(7)})
    real = game.discriminator(game.inside(images(7)))
    fake = game.discriminator(game.generator(game.prior.of(round)))
    bce = partial(F.binary_cross_entropy_with_logits)
    expected = 0.5 * (bce(real, torch.ones(7)) + bce(fake, torch.zeros(7)))
    torch.testing.assert_close(game.loss("discriminator", round)["gan"], expected)
    torch.testing.assert_close(game.loss("generator", round)["gan"], bce(fake, torch.ones(7)))


def test_minimax_is_zero_sum_up_to_the_half() -> None:
    """Same round, same masks: the generator's gradient is that of V, which is -2 times the discriminator's loss."""
    game = build("gan", objective="minimax", **SMALL).double()
    round = game.round({"image": images(7, dtype=torch.float64)})
    weights = list(game.generator.parameters())
    own = torch.autograd.grad(game.loss("generator", round)["gan"], weights)
    of_value = torch.autograd.grad(-2 * game.loss("discriminator", round)["gan"], weights)
    for a, b in zip(own, of_value, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-12)
        assert a.abs().max() > 0


def test_a_move_of_the_generator_leaves_the_discriminator_alone() -> None:
    game = build("gan", **SMALL)
    training = train(game, {"image": images(10)})
    before = [p.clone() for p in game.discriminator.parameters()]
    g_before = game.generator.first.weight.clone()
    training.table.begin()
    gradients, _ = training.table.measure("generator", training.table.draw("data"))
    training.table.write("generator", gradients)
    assert all(torch.equal(a, b) for a, b in zip(before, game.discriminator.parameters(), strict=True))
    assert not torch.equal(g_before, game.generator.first.weight)


def test_k_steps_of_the_discriminator_each_on_new_data() -> None:
    game = build("gan", **{"d.steps": 3}, **SMALL)
    assert game.moves(0) == [*[Move("discriminator", "data")] * 3, Move("generator", "noise")]


def test_dropout_masks_differ_between_reals_and_fakes_and_hold_in_both_moves() -> None:
    game = build("gan", **SMALL)
    round = game.round({"image": images(400)})
    ones = torch.ones(400, 256)
    real, fake = game.dropping(round, "real"), game.dropping(round, "fake")
    first = real(ones, 0)
    assert set(first.unique().tolist()) == {0.0, 1.25}
    assert (first > 0).float().mean().item() == pytest.approx(0.8, abs=0.01)
    hidden = real(ones, 1)
    assert set(hidden.unique().tolist()) == {0.0, 2.0}
    assert (hidden > 0).float().mean().item() == pytest.approx(0.5, abs=0.01)
    assert not torch.equal(first, fake(ones, 0))
    assert torch.equal(fake(ones, 0), game.dropping(round, "fake")(ones, 0))
    other = game.round({"image": images(400)}, draw=1)
    assert not torch.equal(first, game.dropping(other, "real")(ones, 0))
    logits = (
        game.discriminator(game.inside(images(400)), real),
        game.discriminator(game.generator(game.prior.of(round)), fake),
    )
    torch.testing.assert_close(
        game.loss("discriminator", round)["gan"], 0.5 * cross_entropy_discriminator(*logits).mean()
    )
    torch.testing.assert_close(game.loss("generator", round)["gan"], nonsaturating_generator(logits[1]).mean())


@pytest.mark.parametrize("network", ["dense", "conv"])
def test_micro_batches_equal_the_batch(network: str) -> None:
    small = {**SMALL, "resolution": 8, "network": network}
    game = build("gan", **{"penalty.gradient_penalty": 10.0}, **small).double()
    round = game.round({"image": images(8, 8, dtype=torch.float64)})
    for player in game.players:
        whole = torch.autograd.grad(sum(game.loss(player, round).values()), player.parameters)
        parts = [
            torch.autograd.grad(sum(game.loss(player, part).values()) / 4, player.parameters) for part in round.split(4)
        ]
        for a, *b in zip(whole, *parts, strict=True):
            torch.testing.assert_close(a, torch.stack(b).sum(0), rtol=1e-9, atol=1e-11)
            assert a.abs().max() > 0


def test_momentum_and_learning_rate_by_the_clock() -> None:
    game = build("gan", "mnist", hidden=(8, 8), units=(4, 4))
    at = [game.stage(clock).settings["discriminator"] for clock in (0, 6_250_000, 12_500_000, 10**9)]
    assert [s["momentum"] for s in at] == pytest.approx([0.5, 0.6, 0.7, 0.7])
    assert at[1]["lr"] == pytest.approx(0.1 / 1.000004**62_500)
    assert at[1]["lr"] == pytest.approx(0.1 * math.exp(-0.25), rel=1e-5)
    assert at[3]["lr"] == 1e-6
    twenty = build("gan", "mnist", hidden=(8, 8), units=(4, 4), batch=20)
    training = train(twenty, {"image": images(20, 28)}, rounds=2)
    group = training.optimizers["generator"].param_groups[0]
    assert group["lr"] == pytest.approx(0.1 / 1.000004) and group["momentum"] > 0.5
    assert "momentum" not in build("gan", momentum_kimg=1.0, **SMALL).stage(0).settings["generator"]  # Adam


def test_no_unit_keeps_more_than_the_largest_norm() -> None:
    game = build("gan", "tfd", hidden=(30, 150), units=(8, 8), resolution=8, **{"g.lr": 5.0, "d.lr": 5.0})
    train(game, {"image": images(10, 8)}, rounds=2)
    norms = [m.weight.norm(dim=1) for m in game.modules() if isinstance(m, nn.Linear)]
    assert all(n.max().item() <= 1.9366 for n in norms)
    assert max(n.max().item() for n in norms) > 1.9  # the limit was met
    assert build("gan", "mnist", hidden=(8, 8), units=(4, 4)).players[0].project is None


def test_monitors_count_mistakes() -> None:
    game = build("gan", keep_input=1.0, keep_hidden=1.0, **SMALL)
    with torch.no_grad():
        game.discriminator.judge.weight.zero_()
        game.discriminator.judge.bias.fill_(3.0)  # calls everything real
    round = game.round({"image": images(6)})
    game.loss("discriminator", round)
    assert float(round.notes["false_negatives"][0]) == 0
    assert float(round.notes["false_positives"][0]) == 1


@pytest.mark.parametrize("objective", ["minimax", "least-squares", "hinge", "wasserstein", "relativistic"])
def test_other_objectives_train(objective: str) -> None:
    game = build("gan", objective=objective, **SMALL)
    training: Training = train(game, {"image": images(10)}, rounds=3)
    assert all(torch.isfinite(p).all() for p in training.game.parameters())


# ---- use
def test_interpolation_runs_from_end_to_end() -> None:
    game = build("gan", **SMALL)
    a, b = game.draw_latents(2)
    x = game.interpolate(a, b, 5)
    torch.testing.assert_close(x[[0, 4]], game.sample(2, z=torch.stack([a, b])))
    torch.testing.assert_close(x[2], game.sample(1, z=((a + b) / 2).unsqueeze(0))[0], rtol=0, atol=1e-6)
    assert torch.equal(game.sample(3, seed=5), game.sample(3, seed=5))
    assert not torch.equal(game.sample(3, seed=5), game.sample(3, seed=6))


def test_parzen_with_one_centre_is_the_gaussian() -> None:
    torch.manual_seed(0)
    centre, x, sigma = torch.randn(1, 6).double(), torch.randn(20, 6).double(), 0.3
    exact = torch.distributions.Normal(centre[0], sigma).log_prob(x).sum(1)
    torch.testing.assert_close(parzen(centre, x, sigma), exact, rtol=0, atol=1e-10)
    centres = torch.randn(50, 6).double()
    found = parzen(centres, x, sigma, batch=7)
    torch.testing.assert_close(found, parzen(torch.cat([centres, centres]), x, sigma), rtol=0, atol=1e-10)
    each = torch.distributions.Normal(centres.unsqueeze(0), sigma).log_prob(x.unsqueeze(1)).sum(2)
    torch.testing.assert_close(found, each.exp().mean(1).log(), rtol=0, atol=1e-8)


def test_parzen_log_likelihood_chooses_the_width_on_the_validation_set_and_warns() -> None:
    torch.manual_seed(0)
    samples, validation, test = (2 * torch.randn(n, 1, 2, 2) * 0.2 for n in (400, 200, 300))  # std 0.2 in [0, 1]
    with pytest.warns(UserWarning, match="historical"):
        found = parzen_log_likelihood(samples, validation, test)
    candidates = torch.logspace(-1, 0, 10).tolist()
    scores = [parzen((samples + 1) / 2, (validation + 1) / 2, s).mean().item() for s in candidates]
    assert found.sigma == pytest.approx(candidates[scores.index(max(scores))])
    values = parzen((samples + 1) / 2, (test + 1) / 2, found.sigma)
    assert found.mean == pytest.approx(values.mean().item())
    assert found.standard_error == pytest.approx(values.std(correction=0).item() / math.sqrt(300))
    entropy = 4 * (0.5 * math.log(2 * math.pi * math.e) + math.log(0.2))
    assert found.mean < -entropy + 0.1  # no density scores above minus the data's entropy


def test_nearest_examples_are_those_of_all_distances() -> None:
    x, training = images(20, seed=1), images(60, seed=2)
    index, distance = nearest_examples(x, training, batch=7)
    all_distances = torch.cdist(x.flatten(1), training.flatten(1))
    assert torch.equal(index, all_distances.argmin(1))
    torch.testing.assert_close(distance, all_distances.min(1).values, rtol=1e-4, atol=1e-4)
