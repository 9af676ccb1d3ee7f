from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from saddlepoint.errors import UserError
from saddlepoint.game import Move
from saddlepoint.layers.normalisation import BatchNorm
from saddlepoint.penalties import slope
from tests.systems.builders import build, counts, images, train

SMALL = {"width": 4, "critic_width": 4, "latent": 6}


def largest_weight(game: object) -> float:
    return max(p.abs().max().item() for p in game.critic.parameters())


@pytest.mark.parametrize(
    ("preset", "overrides", "generator", "critic"),
    [
        ("paper", {}, 3_576_704, 2_765_568),
        ("no-norm", {}, 3_574_784, 2_763_776),
        ("mlp", {}, 6_880_768, 2_765_568),
        ("mlp", {"critic": "mlp"}, 6_880_768, 794_881),
        ("mlp", {"critic": "mlp", "critic_width": 512}, 6_880_768, 6_817_793),
    ],
)
def test_published_parameter_counts(preset: str, overrides: dict[str, object], generator: int, critic: int) -> None:
    assert counts("wgan", preset, **overrides) == (generator, critic)


def test_extra_layers_are_3x3_convolutions_with_a_norm_at_half_the_resolution() -> None:
    more = 64 * 64 * 9 + 2 * 64
    assert counts("wgan", "paper", extra_layers=2) == (3_576_704 + 2 * more, 2_765_568 + 2 * more)
    game = build("wgan", extra_layers=1, **SMALL)
    assert game.sample(2).shape == (2, 1, 16, 16) and game.critic(images(3)).shape == (3,)


@pytest.mark.parametrize("resolution", [8, 16, 32, 64])
@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize("kind", ["conv", "mlp"])
def test_any_power_of_two_builds(resolution: int, channels: int, kind: str) -> None:
    game = build("wgan", resolution=resolution, channels=channels, generator=kind, critic=kind, **SMALL)
    x = game.sample(3)
    assert x.shape == (3, channels, resolution, resolution)
    assert game.critic(x).shape == (3,)


def test_another_resolution_is_an_error_that_names_the_nearest() -> None:
    with pytest.raises(UserError, match=r"wgan needs .* not 28; nearest: 32\."):
        build("wgan", resolution=28)


def test_initial_weights_without_clipping() -> None:
    game = build("wgan", clip=0.0, width=32, critic_width=32)
    weights = torch.cat([m.weight.flatten() for m in game.critic.modules() if isinstance(m, nn.Conv2d)])
    assert weights.std().item() == pytest.approx(0.02, rel=0.01)
    assert all(m.bias is None for m in game.modules() if isinstance(m, nn.Conv2d | nn.ConvTranspose2d))
    assert build("wgan", clip=0.0).players[0].project is None
    assert isinstance(game.critic.norms[0], nn.Identity)


def test_every_weight_of_the_critic_is_clipped_at_the_start_and_after_every_step() -> None:
    game = build("wgan", clip=0.01, **{"d.lr": 0.05}, **SMALL)
    assert largest_weight(game) <= 0.01
    gains = [m.weight for m in game.critic.modules() if isinstance(m, BatchNorm)]
    assert gains and all(g.max().item() == pytest.approx(0.01) for g in gains)  # batch norm included, as officially
    training = train(game, {"image": images(8)})
    for _ in range(3):
        training.play()
        assert largest_weight(game) == pytest.approx(0.01)
    assert max(p.abs().max().item() for p in game.generator.parameters()) > 0.5  # the generator's are not


def test_order_of_play_has_a_warm_up_and_refreshing_rounds() -> None:
    game = build("wgan", "paper", **SMALL)
    lengths = [len(game.moves(step)) - 1 for step in (0, 24, 25, 499, 500, 501, 1000)]
    assert lengths == [100, 100, 5, 5, 100, 5, 100]
    assert game.moves(30) == [*[Move("critic", "data")] * 5, Move("generator", "noise")]
    assert {p.name for p in game.players} == set(game.recipe.optimizers()) == {"critic", "generator"}
    optimizer = game.recipe.optimizers()["critic"]
    assert (optimizer.kind, optimizer.lr, optimizer.alpha, optimizer.eps) == ("rmsprop", 5e-5, 0.99, 1e-8)
    assert "batch-norm" in game.couples and not build("wgan", "no-norm", **SMALL).couples


def test_losses_are_the_critics_means_and_a_constant_cancels() -> None:
    game = build("wgan", **{**SMALL, "critic_norm": "none"})
    round = game.round({"image": images(5)})
    real, fake = game.critic(images(5)), game.critic(game.generator(game.prior.of(round)))
    terms = game.loss("critic", round)
    torch.testing.assert_close(terms["wasserstein"], fake.mean() - real.mean())
    torch.testing.assert_close(round.notes["wasserstein_estimate"][0], (real.mean() - fake.mean()).detach())
    torch.testing.assert_close(game.loss("generator", round)["wasserstein"], -fake.mean())
    handle = game.critic.register_forward_hook(lambda _, __, y: y + 5.0)
    torch.testing.assert_close(game.loss("critic", round)["wasserstein"], terms["wasserstein"], rtol=0, atol=1e-5)
    handle.remove()


def test_drift_fixes_the_constant() -> None:
    game = build("wgan", **{"penalty.drift": 1e-3}, **SMALL)
    round = game.round({"image": images(5)})
    before = sum(game.loss("critic", round).values())
    game.critic.register_forward_hook(lambda _, __, y: y + 5.0)
    assert (sum(game.loss("critic", round).values()) - before).item() == pytest.approx(1e-3 * 25, rel=0.05)


def test_a_clipped_dense_critic_is_as_lipschitz_as_its_layers_allow() -> None:
    game = build("wgan", clip=0.01, critic="mlp", critic_width=16, width=4, **{"d.lr": 1e-3, "g.lr": 1e-4})
    train(game, {"image": images(8)}, rounds=4)
    layers = [m for m in game.critic.modules() if isinstance(m, nn.Linear)]
    bound = math.prod(0.01 * math.sqrt(m.in_features * m.out_features) for m in layers)
    _, squared = slope(game.critic, images(8))
    assert 0 < squared.max().sqrt().item() <= bound


def test_clipping_piles_the_weights_up_at_its_ends() -> None:
    """Figure 1b of the WGAN-GP paper: a clipped critic uses little between -c and c."""
    game = build(
        "wgan",
        clip=0.01,
        critic="mlp",
        critic_width=32,
        generator_norm="none",
        width=4,
        **{"d.steps": 20, "d.lr": 2e-3, "g.lr": 1e-4},
    )
    share = lambda: torch.cat([(m.weight.abs() > 0.0099).float().flatten() for m in game.critic.layers]).mean().item()  # noqa: E731
    train(game, {"image": images(16)}, rounds=4)
    assert share() > 0.6


def test_micro_batches_equal_the_batch_without_batch_norm() -> None:
    norms = {"generator_norm": "none", "critic_norm": "layer"}
    game = build("wgan", **{"penalty.gradient_penalty": 1.0}, **norms, **SMALL).double()
    round = game.round({"image": images(8, dtype=torch.float64)})
    for player in game.players:
        whole = torch.autograd.grad(sum(game.loss(player, round).values()), player.parameters)
        halves = [
            torch.autograd.grad(sum(game.loss(player, part).values()) / 2, player.parameters) for part in round.split(2)
        ]
        for a, *b in zip(whole, *halves, strict=True):
            torch.testing.assert_close(a, torch.stack(b).sum(0), rtol=1e-8, atol=1e-12)
        assert max(a.abs().max().item() for a in whole) > 0


@pytest.mark.parametrize("objective", ["nonsaturating", "hinge", "relativistic"])
def test_other_objectives_train_and_name_their_term(objective: str) -> None:
    game = build("wgan", objective=objective, **SMALL)
    assert list(game.loss("critic", game.round({"image": images(4)}))) == ["gan"]
    train(game, {"image": images(6)}, rounds=2)
    assert all(torch.isfinite(p).all() for p in game.parameters())


def test_samples_of_a_dense_generator_are_clamped_and_interpolation_has_its_ends() -> None:
    game = build("wgan", generator="mlp", critic="mlp", **SMALL)
    with torch.no_grad():
        game.generator.layers[-1].bias.fill_(3.0)
    assert torch.equal(game.sample(2), torch.ones(2, 1, 16, 16))
    game = build("wgan", **SMALL)
    a, b = game.draw_latents(2)
    torch.testing.assert_close(game.interpolate(a, b, 3)[[0, 2]], game.sample(2, z=torch.stack([a, b])))
