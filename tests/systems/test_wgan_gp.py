from __future__ import annotations

import dataclasses
import math
from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from saddlepoint.errors import UserError
from saddlepoint.game import Move
from saddlepoint.layers.residual import ConditionalBatchNorm
from saddlepoint.penalties import judge, slope
from saddlepoint.recipes.base import Penalty
from saddlepoint.systems.wgan_gp import good_widths, sides
from tests.systems.builders import build, counts, images, train

SMALL = {"width": 4, "critic_width": 4, "latent": 6}
NETWORKS = [
    {"network": "conv"},
    {"network": "resnet"},
    {"network": "good", "critic_norm": "layer"},
    {"network": "resnet-101", "critic_norm": "layer"},
]


def labelled(**overrides: object) -> object:
    return build("wgan-gp", "cifar-resnet-labels", classes=3, resolution=8, **{**SMALL, **overrides})


# ---- networks
@pytest.mark.parametrize(
    ("preset", "generator", "critic"),
    [
        ("paper", 1_204_483, 1_053_825),
        ("cifar-resnet", 1_204_483, 1_053_825),
        ("cifar-resnet-labels", 1_218_307, 1_055_115),
        ("mnist", 1_554_177, 1_030_145),
        ("cifar-dcgan", 5_179_907, 4_114_689),
    ],
)
def test_published_parameter_counts(preset: str, generator: int, critic: int) -> None:
    assert counts("wgan-gp", preset, classes=10) == (generator, critic)


def block(a: int, b: int, middle: int) -> int:
    """A residual block of the 64x64 networks: two norms, 3x3 without bias, 3x3 and 1x1 with."""
    return 2 * (a + middle) + 9 * a * middle + 9 * middle * b + b + a * b + b


def test_good_64_counts_from_the_list_of_its_layers() -> None:
    up, down = [512, 512, 256, 128, 64], [64, 128, 256, 512, 512]
    g = 129 * 8192 + sum(block(a, b, b) for a, b in pairwise(up)) + 2 * 64 + 64 * 27 + 3
    d = 27 * 64 + 64 + sum(block(a, b, a) for a, b in pairwise(down)) + 8192 + 1
    assert counts("wgan-gp", "good-64") == (g, d)
    assert good_widths(64, 64) == up


def test_resnet_101_has_101_layers_and_the_counts_of_its_blocks() -> None:
    def bottleneck(a: int, b: int, shortcut: int) -> int:
        return (a * a // 2 + a // 2) + (9 * a * b // 4 + b // 2) + b * b // 2 + 2 * b + shortcut

    widths, plain = [512, 256, 128, 64, 32], [6, 6, 6, 6, 5]
    same = sum(n * bottleneck(w, w, 0) for w, n in zip(widths, plain, strict=True))
    ups = sum(bottleneck(a, b, 4 * b * (a + 1)) for a, b in pairwise(widths))
    downs = sum(bottleneck(b, a, a * (b + 1)) for a, b in pairwise(widths))
    g = 129 * 8192 + same + ups + 32 * 3 + 3
    d = 3 * 32 + 32 + same + downs + 8192 + 1
    assert counts("wgan-gp", "resnet-101") == (g, d)
    assert 2 + 3 * (sum(plain) + 4) == 101
    game = build("wgan-gp", "resnet-101", device="meta")
    for network in (game.generator, game.critic):
        assert len(network.blocks) == sum(plain) + 4


@pytest.mark.parametrize("overrides", NETWORKS)
@pytest.mark.parametrize("resolution", [8, 16, 32, 64])
def test_any_power_of_two_builds(overrides: dict[str, str], resolution: int) -> None:
    channels = {8: 1, 16: 3, 32: 4, 64: 3}[resolution]
    game = build("wgan-gp", resolution=resolution, channels=channels, **overrides, **SMALL)
    x = game.sample(2)
    assert x.shape == (2, channels, resolution, resolution)
    assert x.abs().max() < 1
    assert game.critic(x).shape == (2,)


def test_convolutional_networks_take_multiples_of_four_and_others_name_the_nearest() -> None:
    assert sides(28) == [4, 7, 14, 28] and sides(32) == [4, 8, 16, 32] and sides(12) == [3, 6, 12]
    assert build("wgan-gp", resolution=28, **SMALL).sample(2).shape == (2, 1, 28, 28)
    with pytest.raises(UserError, match=r"not 30; nearest: (28|32)\."):
        build("wgan-gp", resolution=30)
    with pytest.raises(UserError, match=r"not 28; nearest: 32\."):
        build("wgan-gp", resolution=28, network="resnet")
    with pytest.raises(UserError, match="network=resnet only, not conv"):
        build("wgan-gp", conditional=True, classes=3)
    with pytest.raises(UserError, match="needs labelled images"):
        build("wgan-gp", "cifar-resnet-labels")
    with pytest.raises(UserError, match="network=conv only, not good"):
        build("wgan-gp", unit_range=True, network="good")


def test_initial_weights_follow_the_fans() -> None:
    game = build("wgan-gp", "cifar-resnet", width=32, critic_width=32)
    up = game.generator.blocks[1]
    he, glorot = math.sqrt(4 / (2 * 32 * 9)), math.sqrt(2 / (2 * 32))
    for weight, std in ((up.conv1.weight, he), (up.shortcut.weight, glorot)):
        assert weight.std().item() == pytest.approx(std, rel=0.05)
        assert weight.abs().max().item() <= math.sqrt(3) * std
    assert game.generator.output.weight.std().item() == pytest.approx(math.sqrt(2 / (9 * (32 + 3))), rel=0.05)
    dense = build("wgan-gp", "cifar-dcgan", width=16, critic_width=16)
    conv = dense.critic.convs[1].weight  # 16 to 32 channels, 5x5, stride 2
    assert conv.std().item() == pytest.approx(math.sqrt(4 / (25 * (16 + 32 / 4))), rel=0.05)
    up_conv = dense.generator.ups[0].weight  # 64 to 32 channels
    assert up_conv.std().item() == pytest.approx(math.sqrt(4 / (25 * (64 / 4 + 32))), rel=0.05)
    assert all(torch.all(m.bias == 0) for m in dense.modules() if isinstance(m, nn.Conv2d | nn.Linear))


def test_blocks_are_the_official_order_of_operations() -> None:
    """Shortcut of a halving block: the CIFAR code convolves, then averages; the 64x64 code averages, then convolves."""
    torch.manual_seed(0)
    game = build("wgan-gp", network="good", **SMALL).double()
    down, x = game.critic.blocks[0], torch.randn(2, 4, 8, 8, dtype=torch.float64)
    h = F.avg_pool2d(down.conv2(F.relu(down.conv1(F.relu(x)))), 2)
    torch.testing.assert_close(down(x), F.avg_pool2d(down.shortcut(x), 2) + h)
    up, x = game.generator.blocks[0], torch.randn(3, 8, 4, 4, dtype=torch.float64)
    wide = F.relu(up.norm1(x)).repeat_interleave(2, 2).repeat_interleave(2, 3)
    h = up.conv2(F.relu(up.norm2(up.conv1(wide))))
    shortcut = up.shortcut(x.repeat_interleave(2, 2).repeat_interleave(2, 3))
    torch.testing.assert_close(up(x), shortcut + h)


def test_the_101_layers_end_in_a_fifth_and_their_residuals_in_three_tenths() -> None:
    game = build("wgan-gp", network="resnet-101", critic_norm="layer", resolution=8, **SMALL).double()
    z, x = game.draw_latents(3), images(3, 8, dtype=torch.float64)
    h = game.generator.blocks(game.generator.first(z).view(3, -1, 4, 4))
    torch.testing.assert_close(game.generator(z), torch.tanh(game.generator.output(h) / 5))
    h = game.critic.blocks(game.critic.first(x)).flatten(1)
    value = h @ game.critic.output.weight[0] / 5 + game.critic.output.bias
    torch.testing.assert_close(game.critic(x), value)
    block, h = game.critic.blocks[0], torch.randn(2, 2, 5, 5, dtype=torch.float64)
    inner = block.conv2(F.relu(block.middle(F.relu(block.conv1(F.relu(h))))))
    torch.testing.assert_close(block(h), h + 0.3 * F.group_norm(inner, 1))


# ---- the critic sees samples one by one
@pytest.mark.parametrize("overrides", NETWORKS)
def test_gradient_norms_equal_a_loop_over_samples(overrides: dict[str, str]) -> None:
    game = build("wgan-gp", **overrides, **SMALL).double()
    x = images(4, dtype=torch.float64)
    value, squared = slope(game.critic, x)
    for i in range(4):
        one = x[i : i + 1].requires_grad_()
        alone = game.critic(one)
        (gradient,) = torch.autograd.grad(alone.sum(), one)
        torch.testing.assert_close(value[i], alone[0])
        torch.testing.assert_close(squared[i], gradient.square().sum())
    assert squared.min() > 0


@pytest.mark.parametrize("overrides", NETWORKS)
def test_changing_one_image_leaves_the_others_values(overrides: dict[str, str]) -> None:
    game = build("wgan-gp", **overrides, **SMALL).double()
    x = images(4, dtype=torch.float64)
    before = game.critic(x)
    x[2] = -x[2]
    after = game.critic(x)
    torch.testing.assert_close(before[[0, 1, 3]], after[[0, 1, 3]], rtol=1e-12, atol=1e-12)
    assert (before[2] - after[2]).abs() > 1e-9


# ---- the penalty
def test_the_penalty_is_that_of_the_formula() -> None:
    game = build("wgan-gp", norm="none", **SMALL).double()
    real = images(6, dtype=torch.float64)
    round = game.round({"image": real})
    fake = game.generator(game.prior.of(round))
    a = round.uniform("mix").view(-1, 1, 1, 1)
    assert len(a.unique()) == 6  # one number per sample
    between = (real + a * (fake - real)).detach().requires_grad_()
    (gradient,) = torch.autograd.grad(game.critic(between).sum(), between, create_graph=True)
    expected = 10 * (gradient.flatten(1).norm(dim=1) - 1).square().mean()
    terms = game.loss("critic", round)
    torch.testing.assert_close(terms["gradient_penalty"], expected)
    torch.testing.assert_close(terms["wasserstein"], game.critic(fake).mean() - game.critic(real).mean())
    for a, b in zip(
        torch.autograd.grad(terms["gradient_penalty"], list(game.critic.convs.parameters())),
        torch.autograd.grad(expected, list(game.critic.convs.parameters())),
        strict=True,
    ):
        torch.testing.assert_close(a, b)
    assert max(p.abs().max().item() for p in torch.autograd.grad(
        game.loss("critic", round)["gradient_penalty"], [c.weight for c in game.critic.convs])) > 0  # fmt: skip


def test_the_one_sided_penalty_forgives_small_slopes() -> None:
    game = build("wgan-gp", **{"penalty.one_sided": True}, **SMALL)
    with torch.no_grad():
        game.critic.output.weight.mul_(1e-4)
    round = game.round({"image": images(4)})
    assert game.loss("critic", round)["gradient_penalty"].item() == 0
    two = build("wgan-gp", **SMALL)
    two.load_state_dict(game.state_dict())
    assert two.loss("critic", round)["gradient_penalty"].item() == pytest.approx(10, rel=0.01)


def test_a_linear_critic_on_two_points_finds_their_distance() -> None:
    """q is p shifted by d: at slope one the value is d = W1; the penalised optimum has slope 1 + d / (2 lambda)."""
    d, weight = 0.6, nn.Parameter(torch.tensor([0.1], dtype=torch.float64))
    p = torch.randn(64, 1, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    game = build("wgan-gp", **SMALL).double()
    round = dataclasses.replace(game.round({"image": p}), terms=None)
    adam = torch.optim.LBFGS([weight], line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        judged = judge(lambda x: x @ weight, p + d, p, round, Penalty(gradient_penalty=10.0))
        total = judged.fake.mean() - judged.real.mean() + judged.penalties["gradient_penalty"]
        adam.zero_grad()
        total.backward()
        return total

    for _ in range(5):
        adam.step(loss)
    assert weight.item() == pytest.approx(1 + d / 20, rel=1e-6)
    assert ((p + d).mean() - p.mean()).item() == pytest.approx(d)


def test_a_critics_move_leaves_the_generator_alone() -> None:
    game = build("wgan-gp", **SMALL)
    training = train(game, {"image": images(6)})
    before, critic = [p.clone() for p in game.generator.parameters()], game.critic.convs[0].weight.clone()
    training.table.begin()
    gradients, terms = training.table.measure("critic", training.table.draw("data"))
    training.table.write("critic", gradients)
    assert list(terms) == ["wasserstein", "gradient_penalty"]
    assert all(torch.equal(a, b) for a, b in zip(before, game.generator.parameters(), strict=True))
    assert not torch.equal(critic, game.critic.convs[0].weight)


@pytest.mark.parametrize("overrides", NETWORKS[:3])
def test_micro_batches_equal_the_batch_without_batch_norm(overrides: dict[str, str]) -> None:
    game = build("wgan-gp", norm="none", resolution=8, **overrides, **SMALL).double()
    assert not game.couples and build("wgan-gp", **SMALL).couples == {"batch-norm"}
    round = game.round({"image": images(8, 8, dtype=torch.float64)})
    for player in game.players:
        whole = torch.autograd.grad(sum(game.loss(player, round).values()), player.parameters)
        halves = [
            torch.autograd.grad(sum(game.loss(player, part).values()) / 2, player.parameters, allow_unused=True)
            for part in round.split(2)
        ]
        for a, *b in zip(whole, *halves, strict=True):
            torch.testing.assert_close(a, torch.stack(b).sum(0), rtol=1e-8, atol=1e-11)


# ---- with labels
def test_class_conditional_batch_norm_has_a_row_per_class() -> None:
    torch.manual_seed(0)
    norm, x, label = ConditionalBatchNorm(3, 4), torch.randn(6, 3, 2, 2), torch.tensor([0, 1, 2, 3, 0, 1])
    with torch.no_grad():
        norm.gain.weight.normal_()
        norm.offset.weight.normal_()
    plain = F.batch_norm(x, None, None, training=True)
    expected = norm.gain.weight[label][:, :, None, None] * plain + norm.offset.weight[label][:, :, None, None]
    torch.testing.assert_close(norm(x, label), expected)


def test_class_terms_carry_their_weights() -> None:
    game = labelled().double()
    label = torch.tensor([0, 1, 2, 0])
    round = game.round({"image": images(4, 8, 3, dtype=torch.float64), "label": label})
    terms = game.loss("critic", round)
    assert list(terms) == ["wasserstein", "class", "gradient_penalty"]
    _, logits = game.critic.both(game.real(round))
    torch.testing.assert_close(terms["class"], F.cross_entropy(logits, label))
    x, own = game.fakes(round)
    assert x.shape[0] == own.shape[0] == 8 and set(own.tolist()) <= {0, 1, 2}  # g_batches = 2
    value, logits = game.critic.both(x)
    mine = game.loss("generator", round)
    torch.testing.assert_close(mine["class"], 0.1 * F.cross_entropy(logits, own))
    torch.testing.assert_close(mine["wasserstein"], -value.mean())


def test_sharing_the_classifiers_forward_changes_nothing() -> None:
    """The critic's value on reals comes from the classifier's pass; with R1 it is computed anew."""
    game = labelled().double()
    round = game.round({"image": images(4, 8, 3, dtype=torch.float64), "label": torch.tensor([0, 1, 2, 0])})
    fake = game.generator(game.prior.of(round), round["label"])
    judged = judge(game.critic, game.real(round), fake, round, game.recipe.penalty)
    terms = game.loss("critic", round)
    torch.testing.assert_close(terms["wasserstein"], judged.fake.mean() - judged.real.mean())
    torch.testing.assert_close(terms["gradient_penalty"], judged.penalties["gradient_penalty"])
    with_r1 = labelled(**{"penalty.r1": 1.0}).double()
    with_r1.load_state_dict(game.state_dict())
    _, squared = slope(game.critic, game.real(round))
    torch.testing.assert_close(with_r1.loss("critic", round)["r1"], 0.5 * squared.mean())


def test_labels_choose_the_image() -> None:
    game = labelled()
    with torch.no_grad():
        for m in game.modules():
            if isinstance(m, ConditionalBatchNorm):
                m.offset.weight.normal_()
    z = game.draw_latents(1).expand(3, -1)
    x = game.sample(3, z=z)
    torch.testing.assert_close(x, game.sample(3, z=z, label=[0, 1, 2]))
    torch.testing.assert_close(game.sample(3, z=z, label=1)[0], x[1])
    assert (x[0] - x[1]).abs().max() > 1e-3


# ---- schedule and data
def test_order_of_play_batches_and_decay() -> None:
    game = labelled()
    assert game.moves(0) == [Move("critic", "data")] * 5  # the generator's first move is skipped
    assert game.moves(1) == [*[Move("critic", "data")] * 5, Move("generator", "noise")]
    rates = [game.stage(clock).settings["critic"]["lr"] for clock in (0, 16_000_000, 32_000_000, 40_000_000)]
    assert rates == pytest.approx([2e-4, 1e-4, 0, 0])
    for preset, betas in (("paper", (0.0, 0.9)), ("mnist", (0.5, 0.9)), ("good-64", (0.0, 0.9))):
        game = build("wgan-gp", preset, device="meta")
        assert game.recipe.optimizers()["critic"].betas == betas and game.recipe.penalty.gradient_penalty == 10


def test_dequantised_and_unit_range_data() -> None:
    game = labelled()
    pixels = torch.tensor([0.0, 127.0, 255.0]).view(3, 1, 1, 1).expand(3, 3, 8, 8)
    round = game.round({"image": pixels / 127.5 - 1, "label": torch.tensor([0, 1, 2])})
    noise = game.real(round) - (2 * pixels / 256 - 1)
    assert noise.min() >= -1e-6 and noise.max() <= 1 / 128 + 1e-6
    assert noise.std().item() == pytest.approx(1 / 128 / math.sqrt(12), rel=0.1)
    mnist = build("wgan-gp", "mnist", **SMALL)
    x = images(4, 28)
    assert torch.equal(mnist.real(mnist.round({"image": x})), (x + 1) / 2)
    inside = mnist.generator(mnist.draw_latents(4))
    assert inside.min() > 0 and inside.max() < 1
    torch.testing.assert_close(mnist.sample(4), 2 * inside.detach() - 1)


@pytest.mark.parametrize("objective", ["nonsaturating", "relativistic"])
def test_other_objectives_train(objective: str) -> None:
    game = labelled(objective=objective)
    train(game, {"image": images(6, 8, 3), "label": torch.arange(6) % 3}, rounds=2)
    assert all(torch.isfinite(p).all() for p in game.parameters())


def test_interpolation_has_its_ends() -> None:
    game = build("wgan-gp", **SMALL)
    a, b = game.draw_latents(2)
    torch.testing.assert_close(game.interpolate(a, b, 3)[[0, 2]], game.sample(2, z=torch.stack([a, b])))
