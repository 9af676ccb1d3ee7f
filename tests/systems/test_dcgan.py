from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from saddlepoint.engine import build_optimizer
from saddlepoint.errors import UserError
from saddlepoint.game import Move
from saddlepoint.layers.convolution import UpConv
from saddlepoint.layers.normalisation import BatchNorm
from saddlepoint.recipes.base import Optimizer
from saddlepoint.systems import dcgan_uses as uses
from saddlepoint.systems.dcgan import joined
from tests.systems.builders import build, count, counts, images, train


# ---- networks
@pytest.mark.parametrize(
    ("preset", "generator", "discriminator"),
    [
        ("paper", 18_885_760, 17_232_768),
        ("svhn", 1_446_976, 1_033_664),
        ("mnist-conditional", 6_820_538, 6_688_202),
    ],
)
def test_published_parameter_counts(preset: str, generator: int, discriminator: int) -> None:
    assert counts("dcgan", preset, classes=10) == (generator, discriminator)


def test_imagenet_counts_from_the_list_of_its_layers() -> None:
    kernels = [(512, 512), (512, 256), (256, 256), (256, 128), (128, 128), (128, 3)]
    norms = [512 * 16, 512, 256, 256, 128, 128]
    g = 256 * 512 * 16 + 9 * sum(a * b for a, b in kernels) + 2 * sum(norms)
    d = 9 * sum(a * b for a, b in [(3, 128), (128, 128), (128, 256), (256, 256), (256, 512), (512, 512)])
    d += 2 * (128 + 256 + 256 + 512 + 512) + 512 * 16
    assert counts("dcgan", "imagenet") == (g, d)


@pytest.mark.parametrize("convs", [1, 2])
def test_every_doubling_is_exact_and_images_stay_inside_one(convs: int) -> None:
    game = build("dcgan", resolution=32, channels=3, width=4, convs=convs)
    sides: list[int] = []
    for layer in game.generator.layers:
        layer.register_forward_hook(lambda _, __, y: sides.append(y.shape[-1]))
    x = game.generator(3 * game.draw_latents(8))
    assert x.shape == (8, 3, 32, 32)
    assert sides == ([8, 16, 32] if convs == 1 else [8, 8, 16, 16, 32, 32])
    assert float(x.detach().abs().max()) < 1


@pytest.mark.parametrize("resolution", [8, 16, 32, 64])
@pytest.mark.parametrize("channels", [1, 3, 4])
def test_any_power_of_two_builds(resolution: int, channels: int) -> None:
    game = build("dcgan", resolution=resolution, channels=channels, width=4)
    x = game.sample(2)
    assert x.shape == (2, channels, resolution, resolution)
    assert game.discriminator.activations(x)[-1].shape[-2:] == (4, 4)
    assert game.discriminator(x).shape == (2,)


@pytest.mark.parametrize(("resolution", "near"), [(28, 32), (4, 8), (33, 32), (50, 64), (0, 16)])
def test_another_resolution_is_an_error_that_names_the_nearest(resolution: int, near: int) -> None:
    if not resolution:  # 0 asks for the data's: the builder fills in 16
        assert build("dcgan", resolution=0, width=4).recipe.resolution == near
        return
    with pytest.raises(UserError, match=rf"not {resolution}; nearest: {near}\."):
        build("dcgan", resolution=resolution)
    with pytest.raises(UserError, match=r"not 30; nearest: (28|32)\."):
        build("dcgan", "mnist-conditional", resolution=30, classes=10)


@pytest.mark.parametrize("preset", ["tiny", "imagenet", "mnist-conditional"])
def test_no_biases_but_batch_norms_and_none_at_the_ends(preset: str) -> None:
    game = build("dcgan", preset, width=4, dense=8, classes=10)
    for layer in game.modules():
        if isinstance(layer, nn.Linear | nn.Conv2d | UpConv):
            assert layer.bias is None
    if preset == "mnist-conditional":  # batch norm without gain and bias
        assert all(m.weight is None for m in game.modules() if isinstance(m, BatchNorm))
        return
    assert len(game.generator.norms) == len(game.generator.layers) - 1  # none at the output
    assert isinstance(game.discriminator.norms[0], nn.Identity)  # none at the input
    assert all(isinstance(norm, BatchNorm) for norm in game.discriminator.norms[1:])


def test_initial_weights_and_batch_norm_outputs() -> None:
    game = build("dcgan", resolution=32, width=32)
    weights = torch.cat([m.weight.flatten() for m in game.modules() if isinstance(m, nn.Conv2d | nn.Linear | UpConv)])
    gains = torch.cat([m.weight for m in game.modules() if isinstance(m, BatchNorm)])
    assert weights.std().item() == pytest.approx(0.02, rel=0.01)
    assert (gains.mean().item(), gains.std().item()) == pytest.approx((1, 0.02), abs=0.002)
    outputs: list[torch.Tensor] = []
    for norm in game.generator.norms:
        norm.register_forward_hook(lambda _, __, y: outputs.append(y))
    with torch.no_grad():
        game.generator(game.draw_latents(64))
    for y in outputs:
        assert y.mean((0, 2, 3)).abs().max().item() < 1e-5
        assert y.std((0, 2, 3)).sub(1).abs().max().item() < 0.1  # the gain's own spread


def test_batch_composition_matters_in_training_mode_only() -> None:
    game = build("dcgan", width=8)
    d, x, other = game.discriminator, images(4), images(4, seed=1)
    alone, mixed = d(x), d(torch.cat([x, other]))[:4]
    assert (alone - mixed).abs().max().item() > 1e-4
    d.eval()
    torch.testing.assert_close(d(x), d(torch.cat([x, other]))[:4], rtol=0, atol=1e-6)


def test_reals_and_fakes_have_their_own_batch_statistics() -> None:
    game = build("dcgan", width=8)
    round = game.round({"image": images(6)})
    fake = game.generator(game.prior.of(round))
    expected = F.softplus(-game.discriminator(images(6))).mean() + F.softplus(game.discriminator(fake)).mean()
    torch.testing.assert_close(game.loss("discriminator", round)["gan"], expected)
    both = game.discriminator(torch.cat([images(6), fake]))
    mixed = F.softplus(-both[:6]).mean() + F.softplus(both[6:]).mean()
    assert abs((mixed - expected).item()) > 1e-6


def test_batch_statistics_make_a_sample_depend_on_its_neighbours() -> None:
    for batch_statistics in (False, True):
        game = build("dcgan", width=8, batch_statistics=batch_statistics)
        z = game.draw_latents(8)
        apart = float((game.sample(8, z=z)[:3] - game.sample(3, z=z[:3])).abs().max())
        assert (apart > 1e-3) is batch_statistics


# ---- the game
def test_losses_start_near_two_log_two_and_log_two() -> None:
    game = build("dcgan", resolution=32, channels=3)
    round = game.round({"image": images(32, 32, 3)})
    assert game.loss("discriminator", round)["gan"].item() == pytest.approx(2 * math.log(2), abs=0.15)
    assert game.loss("generator", round)["gan"].item() == pytest.approx(math.log(2), abs=0.15)


def test_l2_is_adams_coupled_term() -> None:
    """Faces code: l2 is added to the gradient, so that Adam's first step is lr sign(g + l2 w), however small l2 w."""
    settings = build("dcgan", "paper", width=4).recipe.optimizers()["generator"]
    assert settings.kind == "adam" and settings.weight_decay == 1e-5
    w = torch.tensor([3.0, -2.0], requires_grad=True)
    w.grad = torch.zeros(2)
    build_optimizer(settings, [w]).step()
    torch.testing.assert_close(w.detach(), torch.tensor([3 - 2e-4, -2 + 2e-4]), rtol=0, atol=1e-6)
    w.grad = torch.zeros(2)
    before = w.detach().clone()
    decoupled = Optimizer(kind="adamw", lr=2e-4, weight_decay=1e-5)
    build_optimizer(decoupled, [w]).step()
    torch.testing.assert_close(w.detach(), before * (1 - 2e-9), rtol=0, atol=1e-6)


def test_order_of_play_and_decay() -> None:
    own, shared = build("dcgan", "paper", width=4), build("dcgan", width=4)
    assert own.moves(0) == [Move("discriminator", "data"), Move("generator", "data")]
    assert shared.moves(0) == [Move("discriminator", "data"), Move("generator", "noise")]
    game = build("dcgan", "mnist-conditional", width=4, dense=8, classes=10)
    rates = [game.stage(clock).settings["generator"]["lr"] for clock in (0, 2_500_000, 3_750_000, 5_000_000)]
    assert rates == pytest.approx([2e-4, 2e-4, 1e-4, 0])


# ---- the conditional networks
def conditional(**overrides: object) -> object:
    return build("dcgan", "mnist-conditional", width=4, dense=16, classes=3, resolution=16, **overrides)


def test_the_class_reaches_every_layer() -> None:
    game = conditional()
    g, d = game.generator, game.discriminator
    z, y = game.draw_latents(6), game.one_hot(torch.tensor([0, 1, 2, 0, 1, 2]))
    for network, first in ((g, z), (d, images(6))):
        inputs: list[torch.Tensor] = []
        layers = [m for m in network.modules() if isinstance(m, nn.Linear | nn.Conv2d | UpConv)]
        assert len(layers) == 4
        for layer in layers:
            layer.register_forward_pre_hook(lambda _, args, seen=inputs: seen.append(args[0]))
        network(first, y)
        for x in inputs:  # its last three units or maps are the one-hot class
            given = x[:, -3:] if x.ndim == 2 else x[:, -3:].mean((2, 3))
            assert torch.equal(given, y)
    x = torch.randn(2, 5, 3, 3)
    assert torch.equal(joined(x, y[:2])[:, :5], x)


def test_conditional_data_are_in_the_unit_interval_and_labels_choose_the_image() -> None:
    game = conditional(batch_statistics=False)
    round = game.round({"image": images(6), "label": torch.tensor([0, 1, 2, 0, 1, 2])})
    assert float(game.real(round).min()) >= 0
    assert float(game.generator(game.prior.of(round), *game.given(round)).detach().min()) >= 0
    z = game.draw_latents(1).expand(3, -1)
    same, different = game.sample(3, z=z, label=1), game.sample(3, z=z, label=[0, 1, 2])
    torch.testing.assert_close(same[0], same[2], rtol=0, atol=1e-5)
    torch.testing.assert_close(same[1], different[1], rtol=0, atol=1e-5)
    assert float((different[0] - different[2]).abs().max()) > 1e-3
    assert torch.equal(game.sample(3, z=z), different)  # None takes the classes in turn
    with game.evaluating():
        inside = game.generator(z, game.one_hot(torch.tensor([0, 1, 2])))
    torch.testing.assert_close(different, 2 * inside - 1)
    with pytest.raises(UserError, match=r"no class 3: the classes are 0 to 2; nearest: 2"):
        game.sample(3, label=3)
    with pytest.raises(UserError, match="one class or 3 of them, not 2"):
        game.sample(3, label=[0, 1])


def test_conditional_without_labels_says_so() -> None:
    with pytest.raises(UserError, match="needs labelled images"):
        build("dcgan", "mnist-conditional", width=4)
    with pytest.raises(UserError, match="this round has no 'label'"):
        game = conditional()
        game.loss("discriminator", game.round({"image": images(2)}))


# ---- use
def test_feature_sizes_of_the_paper() -> None:
    for preset, size in (("imagenet", 28_672), ("svhn", 7_168)):
        game = build("dcgan", preset, device="meta")
        assert game.discriminator.features(torch.empty(2, 3, 32, 32, device="meta")).shape == (2, size)


def test_features_are_the_official_poolings() -> None:
    game = build("dcgan", resolution=32, channels=3, width=4).eval()
    x = images(3, 32, 3)
    sixteen, eight, four = game.discriminator.activations(x)  # sides 16, 8, 4, pooled by 4, 2, 1
    expected = torch.cat([F.max_pool2d(sixteen, 4).flatten(1), F.max_pool2d(eight, 2).flatten(1), four.flatten(1)], 1)
    assert torch.equal(game.discriminator.features(x), expected)
    assert torch.equal(uses.features(game, x, batch=2), expected)


def test_statistics_are_the_means_over_batches_and_are_put_back() -> None:
    game = build("dcgan", width=4)
    train(game, {"image": images(8)}, rounds=2)
    d, x = game.discriminator, images(8, seed=3)
    buffers = [buffer.clone() for buffer in d.buffers()]
    h = d.layers[1](F.leaky_relu(d.layers[0](x), 0.2))  # what the first batch norm sees
    expected = torch.stack([h[:4].mean((0, 2, 3)), h[4:].mean((0, 2, 3))]).mean(0)
    with uses.statistics_of(d, x, batch=4):
        torch.testing.assert_close(d.norms[1].running_mean, expected.detach())
        assert not d.training
    assert d.training
    assert all(torch.equal(a, b) for a, b in zip(buffers, d.buffers(), strict=True))


def test_interpolation_arithmetic_and_turning() -> None:
    game = build("dcgan", width=4)
    a, b, c = game.draw_latents(9).split(3)
    rows = uses.interpolate(game, a, steps=5)
    assert rows.shape == (2, 5, 1, 16, 16)
    torch.testing.assert_close(rows[0, -1], rows[1, 0])
    torch.testing.assert_close(rows[:, 0], game.sample(2, z=a[:2]))
    # a - b + b is a, in the centre; the neighbours are within the spread
    made = uses.arithmetic(game, a, b, b)
    torch.testing.assert_close(made[4], game.sample(1, z=a.mean(0, keepdim=True))[0], rtol=0, atol=1e-5)
    assert all(not torch.equal(made[4], made[i]) for i in range(9) if i != 4)
    still = uses.arithmetic(game, a, b, c, spread=0)
    torch.testing.assert_close(still[0], still[8])
    pixels = uses.pixel_arithmetic(game, a, b, b)
    torch.testing.assert_close(pixels, game.sample(3, z=a).mean(0))
    turned = uses.turn(game, c, a, b, weights=(0, 1))
    torch.testing.assert_close(turned[:, 0], game.sample(3, z=c))
    torch.testing.assert_close(turned[:, 1], game.sample(3, z=c + b.mean(0) - a.mean(0)))


def test_nearest_neighbours_and_balanced_draws() -> None:
    samples = (torch.stack([torch.full((1, 4, 4), v) for v in (-1.0, 0.0, 1.0)]), torch.tensor([0, 1, 2]))
    real = (torch.stack([torch.full((1, 4, 4), v) for v in (-0.8, 0.1, 0.4, 0.9)]), torch.tensor([0, 1, 2, 2]))
    accuracy, distance = uses.nearest_neighbour_accuracy(samples, real)  # 0.4 is closer to 0 than to 1
    assert accuracy == 0.75
    assert distance == pytest.approx(4 * (0.1 + 0.05 + 0.2 + 0.05) / 4, rel=1e-5)  # half the difference times sqrt(16)
    labels = torch.arange(50) % 5
    index = uses.balanced(labels, 4, seed=1)
    assert len(index.unique()) == 20
    assert labels[index].bincount().tolist() == [4] * 5
    assert not torch.equal(index, uses.balanced(labels, 4, seed=2))


def test_the_classifier_finds_a_separable_class_and_chooses_its_cost_on_held_out_images() -> None:
    game = build("dcgan", width=4)
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(80) % 2
    x = torch.randn(80, 1, 16, 16, generator=generator) * 0.3 + (labels * 1.2 - 0.6).view(-1, 1, 1, 1)
    found = uses.classify_features(game, (x[:60], labels[:60]), (x[60:], labels[60:]), costs=(1e-4, 1e-1))
    assert found.accuracy > 0.9
    assert found.cost == max(found.validation, key=lambda c: found.validation[c])
    shuffled = labels[torch.randperm(80, generator=generator)]
    chance = uses.classify_features(game, (x[:60], shuffled[:60]), (x[60:], shuffled[60:]), costs=(1e-4,))
    assert chance.accuracy < 0.85


@pytest.mark.slow
def test_trained_features_beat_random_ones_on_digits() -> None:
    """The paper's control idea: the same SVM on the same labels, on a trained and on an untrained discriminator."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    x = (torch.from_numpy(digits.images).float() / 8 - 1).unsqueeze(1)  # [1797, 1, 8, 8]
    x, y = F.interpolate(x, size=16, mode="bilinear"), torch.from_numpy(digits.target)
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))
    x, y = x[order], y[order]
    game, random = build("dcgan", width=16), build("dcgan", width=16)

    def source(
        cursor: int, total: int, first: int, length: int, resolution: int | None = None
    ) -> dict[str, torch.Tensor]:
        index = (torch.arange(length) + cursor + first) % len(x)
        return {"image": x[index]}

    from saddlepoint.engine import Training

    training = Training(game, game.recipe, source)
    for _ in range(600):
        training.play()
    chosen = uses.balanced(y[:1000], 10)
    accuracies = [
        uses.classify_features(g, (x[chosen], y[chosen]), (x[1000:], y[1000:])).accuracy for g in (game, random)
    ]
    assert accuracies[0] > accuracies[1] + 0.01


def test_counting_helper_counts() -> None:
    assert count(nn.Linear(3, 2)) == 8


# ---- augmentation
@pytest.mark.parametrize("conditional", [False, True])
def test_everything_that_the_discriminator_sees_is_augmented(conditional: bool) -> None:
    small = {"resolution": 16, "channels": 1, "width": 4, "conditional": conditional, "classes": 3, "precision": "fp32"}
    plain, game = (build("dcgan", **small, augment={"operations": o, "p": 1.0}) for o in ("", "bgc"))
    game.load_state_dict(plain.state_dict(), strict=False)
    batch = {"image": images(8, channels=1, resolution=16), "label": torch.arange(8) % 3}
    seen = []
    game.discriminator.register_forward_pre_hook(lambda _, given: seen.append(given[0].detach()))
    for player in ("generator", "discriminator"):
        a, b = (g.loss(player, g.round(batch)) for g in (plain, game))
        assert not torch.allclose(a["gan"], b["gan"])
    real = plain.real(plain.round(batch))
    assert len(seen) == 3 and not any(torch.allclose(x, real) for x in seen)
    game.augment.controller.p.fill_(0.0)
    game.loss("discriminator", game.round(batch))
    torch.testing.assert_close(seen[3], real)  # and the conditional networks still work in [0, 1]


def test_adaptive_augmentation_follows_the_signs() -> None:
    small = {"resolution": 16, "channels": 1, "width": 4, "batch": 8}
    game = build("dcgan", **small, augment={"operations": "bgc", "p": 0.5, "kimg": 0.1})
    training = train(game, {"image": images(8, channels=1, resolution=16)}, rounds=4)
    p, sign = float(game.augment.controller.p), float(game.augment.controller.sign)
    assert p == pytest.approx(0.5 + math.copysign(4 * 8 / 100, sign - 0.6))
    assert training.counters.step == 4
