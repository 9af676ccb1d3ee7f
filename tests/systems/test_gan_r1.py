from __future__ import annotations

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from saddlepoint import pretrained
from saddlepoint.errors import UserError
from saddlepoint.penalties import slope
from saddlepoint.recipes.gan_r1 import half_life_kimg
from saddlepoint.systems.gan_r1 import Block, levels, mirrored, sphere
from tests.systems.builders import build, counts, images, train

SMALL: dict[str, Any] = {"width": 4, "width_max": 8, "latent": 6, "embedding": 3}


# ---- networks
@pytest.mark.parametrize(
    ("preset", "classes", "generator", "discriminator"),
    [
        ("imagenet-128", 1000, 100_535_747, 108_260_776),
        ("paper", 1000, 100_535_747, 108_260_776),
        ("lsun-256", 0, 52_154_052, 47_944_385),
        ("celeba-hq-1024", 0, 18_810_036, 16_705_201),
    ],
)
def test_published_parameter_counts(preset: str, classes: int, generator: int, discriminator: int) -> None:
    assert counts("gan-r1", preset, classes=classes) == (generator, discriminator)


def test_the_discriminator_is_the_generator_backwards() -> None:
    start, blocks = levels(build("gan-r1", width=4, width_max=8).recipe)
    assert (start, blocks) == (4, [[(8, 8)], [(8, 4)], [(4, 4)]])
    assert mirrored(blocks) == [[(4, 4)], [(4, 8)], [(8, 8)]]
    start, blocks = levels(build("gan-r1", network="resnet2", resolution=64, **SMALL).recipe)
    assert start == 2 and len(blocks) == 6 and all(len(level) == 2 for level in blocks)


def test_a_block_adds_a_tenth_of_its_branch() -> None:
    block, x = Block(3, 3), torch.randn(2, 3, 5, 5)
    branch = block.conv2(F.leaky_relu(block.conv1(F.leaky_relu(x, 0.2)), 0.2))
    assert torch.allclose(block(x), x + branch / 10, atol=1e-6)
    with torch.no_grad():
        block.conv2.weight.zero_()
        block.conv2.bias.zero_()  # type: ignore[union-attr]
    assert torch.equal(block(x), x)


def test_only_the_direction_of_a_class_vector_counts() -> None:
    game = build("gan-r1", conditional=True, classes=3, **SMALL)
    z, vectors = torch.randn(2, 6), torch.randn(2, 3)
    images_ = game.generator(z, vectors)
    assert torch.allclose(images_, game.generator(z, 7 * vectors), atol=1e-5)
    assert not torch.allclose(images_, game.generator(z, vectors.flip(0)), atol=1e-5)


def test_a_discriminator_picks_the_logit_of_the_class() -> None:
    D, x = build("gan-r1", conditional=True, classes=3, **SMALL).discriminator, images(3)
    with torch.no_grad():
        D.output.weight.zero_()
        D.output.bias.copy_(torch.tensor([5.0, 6.0, 7.0]))
    assert D(x, torch.tensor([2, 0, 1])).tolist() == [7, 5, 6]


# ---- the game
def test_the_penalty_is_half_gamma_times_the_squared_slope_on_reals_only() -> None:
    game, x = build("gan-r1", **{**SMALL, "penalty.r1": 2.0, "penalty.mixed": False}), images(4)
    round = game.round({"image": x})
    label = torch.zeros(4, dtype=torch.int64)
    terms = game.loss("discriminator", round)
    leaf = x.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(game.discriminator(leaf, label).sum(), leaf)
    assert set(terms) == {"gan", "r1"}
    assert terms["r1"].item() == pytest.approx(0.5 * 2.0 * gradient.square().sum().item() / 4, rel=1e-4)
    assert game.loss("generator", round).keys() == {"gan"}


def test_samples_do_not_see_each_other() -> None:
    game, x = build("gan-r1", **SMALL), images(4)
    label = torch.zeros(4, dtype=torch.int64)
    whole = game.discriminator(x, label)
    assert torch.allclose(whole[:1], game.discriminator(x[:1], label[:1]), atol=1e-6)
    assert game.couples == frozenset()


def test_a_trained_slope_on_reals_falls() -> None:
    """With a strong penalty the slope on the data is pressed down from round to round."""
    game, x = build("gan-r1", **{**SMALL, "penalty.r1": 100.0}), images(8)
    label = torch.zeros(8, dtype=torch.int64)
    with torch.no_grad():
        game.discriminator.output.weight.mul_(30)
    before = slope(lambda v: game.discriminator(v, label), x)[1].mean().item()
    train(game, {"image": x}, 30)
    assert slope(lambda v: game.discriminator(v, label), x)[1].mean().item() < 0.8 * before


# ---- use
def test_great_circles() -> None:
    a, b = torch.tensor([[2.0, 0.0]]), torch.tensor([[0.0, 2.0]])
    half = sphere(a, b, 0.5)
    assert torch.allclose(half, torch.full((1, 2), math.sqrt(2)))
    assert torch.allclose(sphere(a, b, 0.0), a) and torch.allclose(sphere(a, b, 1.0), b)
    assert torch.isfinite(sphere(a, a, 0.3)).all()


def test_interpolations_begin_and_end_where_they_should() -> None:
    game = build("gan-r1", conditional=True, classes=3, **SMALL)
    z = game.draw_latents(2)
    path = game.interpolate(z[0], z[1], 5, label=1)
    assert torch.allclose(path[[0, -1]], game.sample(2, z=z, label=1), atol=1e-5)
    classes = game.interpolate_classes(z[0], 0, 2, 4)
    assert torch.allclose(classes[[0, -1]], game.sample(2, z=z[:1].expand(2, -1), label=[0, 2]), atol=1e-5)


def test_the_half_life_of_a_decay() -> None:
    assert 0.999 ** (1000 * half_life_kimg(0.999, 64) / 64) == pytest.approx(0.5)


# ---- what cannot be
def test_errors_name_the_nearest_choice() -> None:
    with pytest.raises(UserError, match="nearest: 64"):
        build("gan-r1", network="resnet2", resolution=70)
    with pytest.raises(UserError, match="nearest: 32"):
        build("gan-r1", resolution=30)
    with pytest.raises(UserError, match="labelled images"):
        build("gan-r1", conditional=True)


CONFIG: dict[str, Any] = {"size": 16, "nfilter": 4, "nfilter_max": 8, "z_dim": 6, "embed_size": 3}


class TestOfficialWeights:
    def official(self, prefix: str = "") -> dict[str, torch.Tensor]:
        game = build("gan-r1", **SMALL)
        from saddlepoint.pretrained.gan_r1 import FIRST, official_name

        named = game.generator.named_parameters()
        return {prefix + official_name(n, "resnet", FIRST): p.detach().clone() for n, p in named}

    def test_images_have_three_channels_there(self) -> None:
        with pytest.raises(UserError, match=r"conv_img.weight is \[1, 4, 3, 3\], expected \[3, 4, 3, 3\]"):
            pretrained.load("gan-r1", self.official(), **CONFIG)

    def test_missing_and_unknown_tensors_are_named(self) -> None:
        state = {k: v for k, v in self.official("G.").items() if k != "G.fc.bias" and "conv_img" not in k}
        with pytest.raises(UserError, match=r"fc\.bias"):
            pretrained.load("gan-r1", state, **CONFIG)

    def test_unknown_options(self) -> None:
        with pytest.raises(UserError, match="nfilter"):
            pretrained.load("gan-r1", self.official(), nfiltre=4)
        with pytest.raises(UserError, match="size is needed"):
            pretrained.load("gan-r1", self.official())
        for option in ("gan_type", "reg_type", "optimizer"):
            with pytest.raises(UserError, match=option):
                pretrained.load("gan-r1", self.official(), **CONFIG, **{option: "other"})
