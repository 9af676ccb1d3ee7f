from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from saddlepoint import pretrained
from saddlepoint.engine import Training
from saddlepoint.errors import UserError
from saddlepoint.layers.resample import downsample2d, upsample2d
from saddlepoint.systems.r3gan import Block, half_cosine, kernel_of, plan
from tests.systems.builders import build, counts, images, train

SMALL: dict[str, Any] = {"channel_base": 128, "channel_max": 8, "group": 8, "latent": 6}


# ---- networks
@pytest.mark.parametrize(
    ("preset", "classes", "generator", "discriminator"),
    [
        ("stacked-mnist", 0, 20_732_160, 20_683_776),
        ("cifar-10", 10, 20_781_952, 21_280_512),
        ("ffhq-64", 0, 22_429_824, 22_381_440),
        ("ffhq-256", 0, 23_057_952, 23_009_568),
        ("paper", 0, 23_057_952, 23_009_568),
        ("imagenet-32", 1000, 82_914_304, 86_548_992),
        ("imagenet-64", 1000, 103_570_432, 107_205_120),
    ],
)
def test_published_parameter_counts(preset: str, classes: int, generator: int, discriminator: int) -> None:
    assert counts("r3gan", preset, classes=classes) == (generator, discriminator)


def test_groups_hold_sixteen_channels_and_thirty_two_at_twice_the_width() -> None:
    assert plan(build("r3gan", "ffhq-256", device="meta").recipe)[-2:] == [(192, 24, 2), (96, 12, 2)]
    assert plan(build("r3gan", "imagenet-32", device="meta", classes=2).recipe)[0] == (1536, 96, 2)


def test_at_the_start_blocks_are_identities_and_the_generator_is_linear() -> None:
    game, x = build("r3gan", **SMALL), torch.randn(2, 8, 4, 4)
    assert torch.equal(game.generator.stages[0](x), x)
    z = torch.randn(3, 6)
    assert torch.allclose(game.generator(2 * z), 2 * game.generator(z), atol=1e-5)
    assert torch.allclose(game.generator(z[:1] + z[1:2]), game.generator(z[:1]) + game.generator(z[1:2]), atol=1e-5)


def test_initial_spread_of_a_block() -> None:
    torch.manual_seed(0)
    block = Block(128, 16, 8)
    gain = math.sqrt(2 / 1.04) * 8**-0.25
    assert float(block.conv1.weight.std()) == pytest.approx(gain / math.sqrt(128), rel=0.02)
    assert float(block.conv2.weight.std()) == pytest.approx(gain / math.sqrt(16 * 9), rel=0.02)
    assert not block.conv3.weight.any() and not block.conv1.bias.any()


def test_constants_survive_resampling_inside() -> None:
    kernel, x = kernel_of((1, 2, 1)), torch.ones(1, 1, 8, 8)
    assert torch.allclose(kernel, torch.outer(*[torch.tensor([1.0, 3.0, 3.0, 1.0]) / 8] * 2))
    there_and_back = downsample2d(upsample2d(x, kernel), kernel)
    assert torch.allclose(there_and_back[..., 2:-2, 2:-2], x[..., 2:-2, 2:-2])


def test_freeze_d_counts_from_the_image_on() -> None:
    D = build("r3gan", **SMALL).discriminator
    layers = D.layers()
    assert layers[0] is D.first and layers[-1] is D.basis
    assert {id(m) for m in layers} == {id(m) for m in D.modules() if isinstance(m, torch.nn.Conv2d)}


# ---- the game
def labelled(**overrides: Any) -> Any:
    return build("r3gan", **{"conditional": True, "classes": 3, **SMALL, **overrides})


class Shifted(torch.nn.Module):
    """A discriminator plus a constant."""

    def __init__(self, inner: torch.nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor, label: Tensor | None = None) -> Tensor:
        shifted: Tensor = self.inner(x, label) + 3
        return shifted


def test_only_differences_of_logits_count() -> None:
    game = build("r3gan", **SMALL)
    round = game.round({"image": images(4)})
    players = ("discriminator", "generator")
    before = [{k: v.item() for k, v in game.loss(p, round).items()} for p in players]
    game.discriminator = Shifted(game.discriminator)
    after = [{k: v.item() for k, v in game.loss(p, round).items()} for p in players]
    for a, b in zip(before, after, strict=True):
        assert a == pytest.approx(b, abs=1e-5)


def test_a_blind_discriminator_pays_log_2_and_no_penalty() -> None:
    game = build("r3gan", **SMALL)
    with torch.no_grad():
        game.discriminator.output.weight.zero_()
    terms = game.loss("discriminator", game.round({"image": images(4)}))
    assert terms["gan"].item() == pytest.approx(math.log(2)) and terms["r1"] == terms["r2"] == 0


def test_penalties_of_a_linear_discriminator_are_gamma_times_its_squared_weights() -> None:
    """At the start blocks are identities, so D is linear: |w|^2 the same on reals and fakes, gamma/2 of each."""
    game = build("r3gan", **{"penalty.r1": 3.0, "penalty.r2": 3.0, **SMALL})
    zero = torch.zeros(1, 1, 16, 16, requires_grad=True)
    (w,) = torch.autograd.grad(game.discriminator(zero).sum(), zero)
    terms = game.loss("discriminator", game.round({"image": images(4)}))
    assert float(terms["r1"] + terms["r2"]) == pytest.approx(3.0 * float(w.square().sum()), rel=1e-4)


def test_classes_choose_their_direction_of_the_features() -> None:
    game, x = labelled(), images(3)
    D = game.discriminator
    features = torch.eye(3) @ D.embed.weight.T  # [3, size]
    label = torch.tensor([2, 0, 1])
    hidden: list[Tensor] = []
    D.output.register_forward_hook(lambda m, i, o: hidden.append(o))
    logits = D(x, label)
    assert torch.allclose(logits, (hidden[0] * features[label]).sum(1), atol=1e-6)
    with pytest.raises(UserError, match="label"):
        D(x)


def test_the_schedule() -> None:
    assert [half_cosine(c, 1.0, 3.0, 1.0) for c in (0, 500, 1000, 5000)] == pytest.approx([1, 2, 3, 3])
    game = build("r3gan", "cifar-10", device="meta", classes=10)
    first, last = game.stage(0), game.stage(20_000_000)
    assert first.half_life_kimg == 0 and last.half_life_kimg == 5000
    assert first.settings["generator"] == {"lr": 2e-4, "betas": (0.0, 0.9)}
    assert last.settings["generator"]["lr"] == pytest.approx(5e-5)
    assert last.settings["discriminator"]["betas"] == pytest.approx((0.0, 0.99))
    assert 0.05 * game.gamma(0) == 0.05 and 0.05 * game.gamma(20_000_000) == pytest.approx(0.005)
    middle = game.stage(10_000_000)
    assert middle.settings["generator"]["lr"] == pytest.approx((2e-4 + 5e-5) / 2)


def test_the_schedule_reaches_optimizers_penalties_augmentation_and_average() -> None:
    late: dict[str, Any] = {
        "late.kimg": 0.008,
        "late.augment": 0.4,
        "augment.operations": "blit",
        "ema_half_life_kimg": 4e-3,
    }
    game = build("r3gan", **late, **SMALL)
    x = images(4)
    training = train(game, {"image": x}, 1)
    assert float(game.augment.controller.p) == pytest.approx(0.2)  # half of the way
    moved = dict(game.generator.named_parameters())
    averaged = dict(training.average.game().get_submodule("generator").named_parameters())
    assert all(torch.equal(moved[n], averaged[n]) for n in moved)  # the half-life begins at 0
    training.play()
    training.play()
    assert training.optimizers["generator"].param_groups[0]["lr"] == pytest.approx(2e-3 * 0.25)
    assert any(not torch.equal(moved[n], averaged[n]) for n in moved)
    round_ = game.round({"image": x}, clock=8)
    assert set(game.loss("discriminator", round_)) == {"gan", "r1", "r2"}


def test_colour_is_half_as_likely() -> None:
    pipe = build("r3gan", "ffhq-64", device="meta").augment.pipe
    assert pipe.multipliers["hue"] == 0.5 and pipe.multipliers["rotate"] == pipe.multipliers["cutout"] == 1
    assert not pipe.wants("noise", "imgfilter")


def test_each_player_has_images_of_its_own() -> None:
    game = build("r3gan", **SMALL)
    assert [(m.player, m.draw) for m in game.moves(0)] == [("discriminator", "data"), ("generator", "data")]


# ---- use
def test_samples_are_clamped_and_follow_labels() -> None:
    game = labelled()
    with torch.no_grad():
        game.generator.output.weight.mul_(100)
    assert game.sample(4).abs().max() == 1
    z = game.draw_latents(2)
    assert not torch.equal(game.sample(2, z=z, label=0), game.sample(2, z=z, label=1))
    path = game.interpolate(z[0], z[1], 3, label=1)
    assert torch.allclose(path[[0, -1]], game.sample(2, z=z, label=1), atol=1e-4)
    assert game.sample(0).shape == (0, 1, 16, 16)


# ---- what cannot be
@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"resolution": 30}, "nearest: 32"),
        ({"widths": (8, 8)}, "3 resolutions"),
        ({"groups": (2, 2, 3), **SMALL}, "nearest: 2"),
        ({"kernel": 4}, "odd kernel"),
        ({"conditional": True}, "labelled images"),
    ],
)
def test_errors_say_what_was_expected(overrides: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        build("r3gan", **overrides)


CONFIG: dict[str, Any] = {
    "WidthPerStage": [8, 8], "CardinalityPerStage": [2, 2], "BlocksPerStage": [1, 1], "img_resolution": 8,
    "NoiseDimension": 6,
}  # fmt: skip


class TestOfficialWeights:
    def official(self) -> dict[str, Tensor]:
        from saddlepoint.pretrained.r3gan import official_names

        shape: dict[str, Any] = {"widths": (8, 8), "groups": (2, 2), "blocks": (1,), "expansion": 2}
        game = build("r3gan", resolution=8, channels=3, latent=6, **shape)
        names = official_names(game.generator)
        return {f"Model.{names[n]}": p.detach().clone() for n, p in game.generator.named_parameters()}

    def test_the_average_is_preferred(self) -> None:
        state = {f"G.{k}": v for k, v in self.official().items()}
        better = {f"G_ema.{k}": v + 1 for k, v in self.official().items()}
        game: Any = pretrained.load("r3gan", {**state, **better}, **CONFIG)
        assert torch.equal(game.generator.basis, better["G_ema.Model.MainLayers.0.Layers.0.Basis"])

    def test_another_filter_is_refused(self) -> None:
        state = {**self.official(), "Model.MainLayers.1.Layers.0.Resampler.Kernel": kernel_of((1, 3, 1))}
        with pytest.raises(UserError, match="ResamplingFilter"):
            pretrained.load("r3gan", state, **CONFIG)

    def test_wrong_tensors_and_options_are_named(self) -> None:
        state = self.official()
        state["Model.AggregationLayer.Layer.wieght"] = state.pop("Model.AggregationLayer.Layer.weight")
        with pytest.raises(UserError, match=r"AggregationLayer\.Layer\.weight"):
            pretrained.load("r3gan", state, **CONFIG)
        with pytest.raises(UserError, match="WidthPerStage"):
            pretrained.load("r3gan", self.official(), WidthPerStages=[8, 8])
        with pytest.raises(UserError, match="img_resolution is needed"):
            pretrained.load("r3gan", self.official(), WidthPerStage=[8], CardinalityPerStage=[1], BlocksPerStage=[1])


def test_training_learns_to_rank_reals_above_fakes() -> None:
    game, x = build("r3gan", **{"penalty.r1": 0.01, "penalty.r2": 0.01, **SMALL}), images(8)
    before = game.loss("discriminator", game.round({"image": x}))["gan"].item()
    training: Training = train(game, {"image": x}, 0)
    for _ in range(15):
        training.table.begin()
        round = training.table.draw("data")
        training.table.write("discriminator", training.table.measure("discriminator", round)[0])
    assert game.loss("discriminator", game.round({"image": x}))["gan"].item() < before - 0.05
