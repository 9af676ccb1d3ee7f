from __future__ import annotations

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from saddlepoint.errors import UserError
from saddlepoint.systems.cogan import doublings
from tests.systems.builders import build, count, counts, images, train

SMALL: dict[str, Any] = {"width": 16, "latent": 8, "critic_widths": (4, 6, 10), "resolution": 16}


def batch(n: int = 4, **more: Tensor) -> dict[str, Tensor]:
    return {"image": images(n), "second": -images(n, seed=1), **more}


# ---- networks
def test_published_parameter_counts() -> None:
    assert counts("cogan", "mnist", channels=1) == (7_842_694, 427_593)
    assert counts("cogan", "adaptation", channels=1, classes=10) == (7_842_694, 432_603)


def test_one_domain_alone_has_the_published_parameters() -> None:
    game = build("cogan", "mnist", device="meta", channels=1)
    assert count(game.generator) - count(game.generator.own[1]) == 7_838_085
    assert count(game.discriminator) - count(game.discriminator.own[1]) == 427_073


def test_the_maps_grow_as_published() -> None:
    game = build("cogan", "mnist", device="meta", channels=1)
    x, sides = torch.empty(1, 100, 1, 1, device="meta"), []
    for layer in [*game.generator.shared, *game.generator.own[0]]:
        x = layer(x)
        sides.append((x.shape[1], x.shape[-1]))
    assert sides == [(1024, 4), (512, 7), (256, 13), (128, 25), (1, 28)]
    assert doublings(28) == (3, 6) and doublings(8) == (1, 4) and doublings(16) == (2, 6)


@pytest.mark.parametrize("resolution", [8, 9, 13, 16, 20, 28, 32])
def test_a_pair_has_the_images_size(resolution: int) -> None:
    game = build("cogan", **{**SMALL, "resolution": resolution})
    a, b = game.generator(torch.randn(2, 8))
    assert a.shape == b.shape == (2, 1, resolution, resolution)
    assert game.discriminator(a, b).shape == (4,)


def test_faces_end_in_a_dense_layer_on_2x2_maps() -> None:
    game = build("cogan", "faces-128", device="meta")
    a, b = game.generator(torch.empty(2, 100, device="meta"))
    assert a.shape == (2, 3, 128, 128)
    code = game.discriminator.code(a, b)
    assert code.shape == (4, 2048, 1, 1)
    widths = [layer.layer.out_channels for layer in game.discriminator.own[0]]
    assert widths == [32, 64]
    assert [layer.drop for layer in game.discriminator.shared] == [0.1, 0.3, 0.3, 0.5, 0.5]


# ---- what is shared
def test_after_training_the_shared_layers_are_one_and_the_own_ones_differ() -> None:
    game = build("cogan", **SMALL)
    train(game, batch(8), 3)
    names = [name for name, _ in game.named_parameters()]
    assert sum("generator.shared.0.conv.weight" in name for name in names) == 1
    for player in (game.generator, game.discriminator):
        a, b = (next(own.parameters()) for own in player.own)
        assert a is not b and not torch.equal(a, b)


def test_the_loss_of_one_domain_does_not_reach_the_other_ones_layers() -> None:
    game = build("cogan", **SMALL)
    a, b = game.generator(torch.randn(4, 8))
    first = game.discriminator(a, b)[:4].sum()
    for player in (game.generator, game.discriminator):
        other = list(player.own[1].parameters())
        gradients = torch.autograd.grad(first, other, allow_unused=True, retain_graph=True)
        assert all(g is None or not g.any() for g in gradients)
        (shared,) = torch.autograd.grad(first, [next(player.shared.parameters())], retain_graph=True)
        assert shared.abs().max() > 0


def test_both_domains_pass_the_shared_layers_as_they_would_alone() -> None:
    """No statistics tie the halves of the digits' discriminator together."""
    game = build("cogan", **SMALL)
    x, y = game.seen(images(4)), game.seen(images(4, seed=1))
    together = game.discriminator(x, y)
    assert torch.allclose(together[:4], game.discriminator(x, x)[:4], atol=1e-6)
    assert torch.allclose(together[4:], game.discriminator(y, y)[4:], atol=1e-6)


@pytest.mark.parametrize(("own", "shared"), [(0, 4), (1, 3), (4, 0)])
def test_as_many_layers_are_shared_as_the_recipe_says(own: int, shared: int) -> None:
    game = build("cogan", **SMALL, own_g=own)
    assert len(game.generator.shared) == shared
    a, b = game.sample(2), game.sample(2, domain="b")
    assert torch.equal(a, b) == (own == 0)


# ---- the game
def test_the_losses_are_the_softmax_cross_entropies_of_both_batches() -> None:
    game = build("cogan", **SMALL)
    round = game.round(batch(), seed=5)
    terms = game.loss("discriminator", round)
    real, fake = game.real(round), game.generator(game.prior.of(round))
    logits = [game.discriminator.output(game.discriminator.code(*pair)).flatten(1) for pair in (real, fake)]
    ones, zeros = torch.ones(8, dtype=torch.int64), torch.zeros(8, dtype=torch.int64)
    expected = F.cross_entropy(logits[0], ones) + F.cross_entropy(logits[1], zeros)
    assert terms.keys() == {"gan"}
    assert terms["gan"].item() == pytest.approx(expected.item(), rel=1e-5)
    assert game.loss("generator", round)["gan"].item() == pytest.approx(
        F.cross_entropy(logits[1], ones).item(), rel=1e-5
    )


def test_adaptation_adds_the_classes_of_a_and_the_distance_of_the_codes() -> None:
    game = build("cogan", **SMALL, classes=3, class_weight=10.0, feature_weight=0.01)
    label = torch.tensor([0, 2, 1, 1])
    round = game.round(batch(label=label), seed=5)
    terms = game.loss("discriminator", round)
    D, fake = game.discriminator, game.generator(game.prior.of(round))
    a, b = D.code(*fake).flatten(1).chunk(2)
    classes = D.classes(game.real(round)[0])
    assert terms["class"].item() == pytest.approx(10 * F.cross_entropy(classes, label).item(), rel=1e-5)
    assert terms["feature"].item() == pytest.approx(0.01 * 10 * F.mse_loss(a, b).item(), rel=1e-5)  # codes of 10
    assert game.classify(images(4), "b").shape == (4,)


def test_penalties_see_a_pair_as_one_sample() -> None:
    game = build("cogan", **SMALL, **{"penalty.r1": 2.0})
    round = game.round(batch(), seed=5)
    a, b = (x.requires_grad_() for x in game.real(round))
    gradients = torch.autograd.grad(game.discriminator(a, b).sum(), (a, b))
    squared = sum(float(g.square().sum()) for g in gradients)
    assert game.loss("discriminator", round)["r1"].item() == pytest.approx(0.5 * 2 * squared / 4, rel=1e-4)


def test_weight_decay_is_in_the_gradient() -> None:
    """Adam, not AdamW: a layer that gets no gradient from the loss moves by -lr sign(w), not by -lr decay w."""
    game = build("cogan", **SMALL)
    layer = game.discriminator.shared[0][0]
    with torch.no_grad():
        game.discriminator.output.weight.zero_()  # so nothing but the decay reaches the layers below
    before = layer.weight.detach().clone()
    lr = game.recipe.d.lr
    train(game, batch(), 1)
    large = before.abs() > 0.01  # Adam's eps is in the way of smaller ones
    assert torch.allclose(layer.weight[large], (before - lr * before.sign())[large], atol=2e-2 * lr)


def test_dropout_takes_other_masks_for_either_domain_and_none_in_sampling() -> None:
    game = build("cogan", network="faces", resolution=16, width=8, latent=4, critic_width=2, own_d=2)
    round = game.round({"image": images(4), "second": images(4)}, seed=1)
    game.discriminator.eval()
    x = game.seen(images(4))
    plain = game.discriminator(x, x)
    dropped = game.discriminator(x, x, game.numbers(round, "real"))
    again = game.discriminator(x, x, game.numbers(round, "real"))
    assert torch.equal(dropped, again) and not torch.equal(plain, dropped)


def test_coupled_weights_make_pairs_of_what_was_never_paired() -> None:
    """Bars on the left or the right, and negatives in another order: the same z puts both bars on one side.

    Nothing in the game forbids the opposite, that left goes with right, and other seeds find that.
    """
    bars = torch.full((16, 1, 8, 8), -1.0)
    bars[::2, :, :, 1:3] = 1
    bars[1::2, :, :, 5:7] = 1
    game = build("cogan", seed=1, **{**SMALL, "resolution": 8}, **{"g.lr": 4e-3, "d.lr": 1e-3})
    train(game, {"image": bars, "second": -bars.flip(0)}, 120)
    a, b = game.sample(64), game.sample(64, domain="b")

    def left(x: Tensor) -> Tensor:
        return x[..., :4].mean((1, 2, 3)) > x[..., 4:].mean((1, 2, 3))

    assert 0.2 < left(a).float().mean() < 0.8, "one side only"
    assert (left(a) == left(-b)).float().mean() > 0.85


# ---- use
def test_both_domains_beside_each_other() -> None:
    game = build("cogan", **SMALL)
    both = game.sample(3, seed=2, domain="both")
    assert torch.equal(both[..., :16], game.sample(3, seed=2)) and both.shape == (3, 1, 16, 32)
    assert torch.equal(both[..., 16:], game.sample(3, seed=2, domain="b"))
    pictures, columns = game.show(rows=2)
    assert columns == 4 and torch.allclose(pictures[:3], game.sample(3, domain="both"), atol=1e-6)


def test_interpolation_moves_both() -> None:
    game = build("cogan", **SMALL)
    z = game.draw_latents(2)
    path = game.interpolate(z[0], z[1], 5)
    assert torch.allclose(path[[0, -1]], game.sample(2, z=z, domain="both"), atol=1e-6)


def test_what_one_generator_can_make_is_carried_to_the_other_domain() -> None:
    game = build("cogan", **SMALL)
    train(game, batch(8), 2)
    game.train()
    a, b = game.sample(4, seed=3), game.sample(4, seed=3, domain="b")
    carried = game.transform(a, "b", steps=150)
    assert game.training and (carried - b).square().mean() < 0.2 * b.var()


def test_errors_name_the_nearest_choice() -> None:
    with pytest.raises(UserError, match="nearest: 56"):
        build("cogan", **{**SMALL, "resolution": 64})
    with pytest.raises(UserError, match="own_g is 9; the networks have 4 layers to share; nearest: 4"):
        build("cogan", **SMALL, own_g=9)
    with pytest.raises(UserError, match="did you mean 'both'"):
        build("cogan", **SMALL).sample(1, domain="bot")
    with pytest.raises(UserError, match="labelled images"):
        build("cogan", **SMALL, class_weight=1.0)
    with pytest.raises(UserError, match="no classifier"):
        build("cogan", **SMALL).classify(images(1))


def test_the_first_loss_is_chance() -> None:
    game = build("cogan", **SMALL)
    with torch.no_grad():
        game.discriminator.output.weight.zero_()
    assert game.loss("discriminator", game.round(batch()))["gan"].item() == pytest.approx(2 * math.log(2), rel=1e-6)
