from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from saddlepoint import pretrained, recipes
from saddlepoint.engine import Training
from saddlepoint.errors import UserError
from saddlepoint.game import Round, Stage
from saddlepoint.layers.growing import faded, shrunk
from saddlepoint.layers.residual import doubled, halved
from saddlepoint.recipes.growing import Level
from saddlepoint.recipes.progan import ProGANRecipe
from saddlepoint.runs import read_checkpoint, save_checkpoint
from saddlepoint.systems.progan import ProGAN
from tests.systems.builders import build, counts, images

SMALL: dict[str, Any] = {"fmap_max": 6, "latent": 5, "batches": (0,), "precision": "fp32", "channels_last": False}


def small(**overrides: Any) -> ProGAN:
    game: ProGAN = build("progan", **{**SMALL, **overrides})
    with torch.no_grad():  # biases start at 0, where scaling or dropping them shows nothing
        for parameter in game.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return game


def at(game: ProGAN, resolution: int, fade: float, batch: int = 8, **more: Any) -> Round:
    """A round of this game at a level."""
    label = {"label": torch.arange(batch) % 3} if game.recipe.conditional else {}
    made = game.round({"image": images(batch, game.recipe.resolution), **label}, seed=1)
    return dataclasses.replace(made, stage=Stage(resolution=resolution, fade=fade), **more)


# ---- networks
@pytest.mark.parametrize(
    ("resolution", "generator", "discriminator"),
    [
        (1024, 23_079_115, 23_087_249),
        (256, 23_044_309, 23_052_353),
        (128, 22_933_394, 22_941_313),
        (64, 22_490_383, 22_498_049),
        (32, 20_719_628, 20_726_785),
    ],
)
@pytest.mark.parametrize("preset", ["1024", "tf-8gpu"])
def test_published_parameter_counts(preset: str, resolution: int, generator: int, discriminator: int) -> None:
    assert counts("progan", preset, resolution=resolution) == (generator, discriminator)


def test_counts_of_the_zoo_and_of_labels() -> None:
    # A bias for each of the first layer's 8192 numbers instead of 512 channels.
    depths = (512, 512, 512, 512, 256, 128, 64, 32, 16)
    assert counts("progan", "1024", port="zoo", depths=depths) == (23_086_795, 23_087_249)
    plain, labelled = counts("progan", "1024"), counts("progan", "1024", conditional=True, classes=10)
    assert (labelled[0] - plain[0], labelled[1] - plain[1]) == (10 * 8192, 10 * 513)


def test_channels_follow_base_decay_and_maximum() -> None:
    made = ProGANRecipe(resolution=1024)
    assert made.widths() == [512, 512, 512, 512, 256, 128, 64, 32, 16]
    assert ProGANRecipe(resolution=64, fmap_base=128, fmap_max=20).widths() == [20, 20, 16, 8, 4]
    assert ProGANRecipe(resolution=16, fmap_base=64, fmap_decay=0.5, fmap_max=512).widths() == [45, 32, 22]


@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("resolution", [8, 16, 32])
def test_grown_networks_with_the_newest_layers_at_weight_zero_are_the_old_ones(resolution: int, fused: bool) -> None:
    game = small(resolution=32, fused=fused)
    z, x = torch.randn(4, 5), images(4, resolution)
    with torch.no_grad():
        new, old = (game.generator.at(level, z) for level in (Level(resolution, 0.0), Level(resolution // 2)))
        assert torch.equal(new, doubled(old))
        score = game.discriminator.at(Level(resolution, 0.0), x)
        assert torch.equal(score, game.discriminator.at(Level(resolution // 2), halved(x)))
        blend = game.generator.at(Level(resolution, 0.25), z)
        full = game.generator.at(Level(resolution), z)
    torch.testing.assert_close(blend, 0.25 * full + 0.75 * doubled(old), atol=1e-6, rtol=1e-6)
    assert not torch.allclose(full, new, atol=0.1)


def test_a_faded_in_level_leaves_the_old_image_layers_without_gradient() -> None:
    game = small(resolution=16)
    for fade, reached in ((1.0, {2}), (0.5, {1, 2})):
        round = at(game, 16, fade)
        for player, layers in (("generator", game.generator.to_rgb), ("discriminator", game.discriminator.from_rgb)):
            total = torch.stack(list(game.loss(player, round).values())).sum()
            weights = [layer.weight for layer in layers]
            gradients = torch.autograd.grad(total, weights, allow_unused=True)
            assert {i for i, g in enumerate(gradients) if g is not None and g.abs().max() > 0} == reached


def test_the_discriminator_blends_maps_after_the_leaky_relu_of_the_old_image_layer() -> None:
    game = small(resolution=8)
    D, x = game.discriminator, images(4, 8)
    new = D.blocks[0](F.leaky_relu(D.from_rgb[1](x), 0.2))
    old = F.leaky_relu(D.from_rgb[0](halved(x)), 0.2)
    h = D.deviation(0.3 * new + 0.7 * old)  # type: ignore[misc]
    expected = D.output(F.leaky_relu(D.hidden(F.leaky_relu(D.conv(h), 0.2).flatten(1)), 0.2))
    torch.testing.assert_close(D.at(Level(8, 0.3), x), expected, atol=1e-6, rtol=1e-6)


def test_fused_halving_is_another_function_and_only_by_the_place_of_the_leaky_relu() -> None:
    fused, plain = small(resolution=8).discriminator, small(resolution=8, fused=False).discriminator
    plain.load_state_dict(fused.state_dict())
    x = images(4, 8)
    assert not torch.allclose(fused(x, lod=0.0), plain(x, lod=0.0), atol=1e-3)
    for block in (*fused.blocks, *plain.blocks):
        block.slope = 1.0  # without a nonlinearity the order does not matter
    torch.testing.assert_close(fused(x, lod=0.0), plain(x, lod=0.0), atol=1e-5, rtol=1e-5)


def test_classes_join_z_before_it_is_normalised() -> None:
    game = small(conditional=True, classes=3)
    z, label = torch.randn(3, 5), torch.tensor([0, 2, 1])
    one = game.generator(z, label)
    assert torch.equal(one, game.generator(z, F.one_hot(label, 3).float()))
    # Twice z and twice the one-hot rows are the same direction; twice z alone is not.
    torch.testing.assert_close(game.generator(2 * z, 2.0 * F.one_hot(label, 3)), one, atol=1e-5, rtol=1e-4)
    assert not torch.allclose(game.generator(2 * z, label), one, atol=1e-3)
    with pytest.raises(UserError, match="a class for every latent is needed"):
        game.generator(z)


def test_without_equalised_rates_the_first_function_is_the_same() -> None:
    with_, without = build("progan", **SMALL), build("progan", equalised=False, **SMALL)
    z = torch.randn(3, 5)
    torch.testing.assert_close(with_.generator(z, lod=0), without.generator(z, lod=0))
    assert {layer.scale for layer in without.generator.to_rgb} == {1.0}


# ---- the schedule
def test_table_of_the_schedule() -> None:
    made = ProGANRecipe(resolution=1024)
    rows = {
        0: (4, 1.0),
        599: (4, 1.0),
        600: (4, 1.0),
        750: (8, 0.25),
        900: (8, 0.5),
        1200: (8, 1.0),
        1800: (8, 1.0),
        2100: (16, 0.5),
        2400: (16, 1.0),
        9600: (1024, 1.0),
        20000: (1024, 1.0),
    }
    for kimg, (resolution, fade) in rows.items():
        level = made.level(made.lod(1000 * kimg))
        assert level.resolution == resolution and level.fade == pytest.approx(fade), kimg
    assert made.lod(1_200_000) == 7.0 and made.lod(1_199_999) > 7.0
    assert ProGANRecipe(resolution=64, start=64).lod(0) == 0.0
    assert ProGANRecipe(resolution=64, start=8).level(3.0) == (8, 1.0)


def test_stages_say_batch_learning_rate_and_where_optimizers_start_afresh() -> None:
    game = build("progan", "tf-8gpu", device="meta")
    stages = {kimg: game.stage(1000 * kimg) for kimg in (0, 600, 601, 1199, 1200, 1801, 4800, 6000, 8400, 9600)}
    assert [s.batch for s in stages.values()] == [512, 512, 256, 256, 256, 128, 32, 32, 32, 32]
    rates = [s.settings["generator"]["lr"] for s in stages.values()]
    assert rates == pytest.approx([1e-3] * 6 + [1e-3, 1.5e-3, 3e-3, 3e-3])
    assert stages[0].settings["discriminator"] == stages[0].settings["generator"]
    eras = [s.era for s in stages.values()]
    assert eras[:6] == [1, 1, 2, 2, 3, 4] and eras == sorted(eras)
    paper = build("progan", "1024", device="meta")
    assert [paper.stage(1000 * k).batch for k in (0, 8000, 9600, 11200, 12800)] == [16, 16, 14, 6, 3]
    assert build("progan", "1024", device="meta", reset=False).stage(0).era == 0


def test_the_average_of_the_paper_keeps_0_999_of_the_old_weights_a_step() -> None:
    for preset, batch in (("1024", 16), ("tf-1gpu", 4), ("tf-8gpu", 32)):
        half_life = 1000 * recipes.recipe("progan", preset).ema_half_life_kimg
        assert 0.5 ** (batch / half_life) == pytest.approx(0.999, abs=1e-9)
        assert 0.5 ** (batch * 700 / half_life) == pytest.approx(0.999**700, rel=1e-6)


def source(cursor: int, total: int, first: int, length: int, resolution: int | None = None) -> dict[str, Tensor]:
    x = images(length, 16, seed=cursor + first)
    return {"image": shrunk(x, resolution or 16), "label": (torch.arange(length) + cursor) % 3}


def training(**overrides: Any) -> Training:
    """Growing from 4 to 16 pixels within 96 images: 16 at a level, 16 fading."""
    short = {"stable_kimg": 0.016, "fade_kimg": 0.016, "batch": 4, "resolution": 16}
    game = small(**{**short, **overrides})
    return Training(game, game.recipe, source)


def test_training_walks_through_the_whole_schedule() -> None:
    made = training()
    sides, eras, before = [], [], {k: v.clone() for k, v in made.game.named_parameters()}
    while made.counters.clock < 100:
        report = made.play()
        assert all(torch.isfinite(v) for terms in report.values() for v in terms.values())
        sides.append(made.table.stage.resolution)
        eras.append(made.table.stage.era)
    assert sides == [4] * 5 + [8] * 8 + [16] * 12
    assert sorted(set(eras)) == [1, 2, 3, 4, 5]
    assert all(not torch.equal(before[k], v) for k, v in made.game.named_parameters()), "a layer was never trained"
    assert float(made.game.generator.lod) == float(made.average.game().generator.lod) == 0.0


def test_optimizers_start_afresh_at_both_ends_of_a_fade() -> None:
    made = training()
    steps = []
    while made.counters.clock < 52:
        made.play()
        steps.append(int(next(iter(made.optimizers["generator"].state.values()))["step"]))
    assert steps == [1, 2, 3, 4, 5, 1, 2, 3, 1, 2, 3, 4, 5]


@pytest.mark.parametrize("rounds", [5, 6, 7, 8, 13, 15])
def test_resuming_in_and_around_a_fade_is_exact(rounds: int, tmp_path: Path) -> None:
    whole = training()
    for _ in range(rounds):
        whole.play()
    save_checkpoint(tmp_path / "000", *whole.state())
    again = training()
    again.load(*read_checkpoint(tmp_path / "000"))
    for made in (whole, again):
        for _ in range(4):
            made.play()
    a, b = whole.state()[0], again.state()[0]
    assert a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)
    assert torch.equal(whole.average.game().sample(3), again.average.game().sample(3))


def test_samples_are_as_large_as_they_will_be_and_as_fine_as_training_is() -> None:
    made = training()
    coarse = made.game.sample(3)
    assert coarse.shape == (3, 1, 16, 16)
    assert torch.equal(coarse, doubled(doubled(coarse[..., ::4, ::4])))
    while made.counters.clock < 80:
        made.play()
    fine = made.average.game().sample(3)
    assert not torch.equal(fine, doubled(halved(fine)))
    half = made.game.sample(3, lod=1.0)
    assert torch.equal(half, doubled(half[..., ::2, ::2]))


# ---- the losses
def test_reals_fade_as_fakes_do() -> None:
    game, x = small(resolution=16), images(8, 16)
    torch.testing.assert_close(game.reals(at(game, 8, 0.25)), 0.25 * halved(x) + 0.75 * doubled(halved(halved(x))))
    assert torch.equal(game.reals(at(game, 16, 1.0)), x)
    assert torch.equal(faded(x, 1.0), x)
    with pytest.raises(UserError, match="images of side 8 at a level of 16"):
        shrunk(images(1, 8), 16)


@pytest.mark.parametrize("target", [1.0, 750.0])
def test_the_penalty_of_a_linear_critic(target: float) -> None:
    game, a = small(resolution=8, slope=target), torch.randn(1, 8, 8)
    game.discriminator.at = lambda level, x: (x * a).sum((1, 2, 3)).unsqueeze(1)  # type: ignore[method-assign]
    terms = game.loss("discriminator", at(game, 8, 1.0))
    assert float(terms["gradient_penalty"].detach()) == pytest.approx(
        10 * (float(a.norm()) / target - 1) ** 2, rel=1e-4
    )
    score = (at(game, 8, 1.0)["image"] * a).sum((1, 2, 3))
    assert float(terms["drift"].detach()) == pytest.approx(0.001 * float(score.square().mean()), rel=1e-5)
    # Drift is about reals: no gradient for what makes the fakes.
    weight = game.generator.conv.weight
    assert torch.autograd.grad(terms["wasserstein"], weight, retain_graph=True)[0].any()
    assert not torch.autograd.grad(terms["drift"] + 0 * terms["wasserstein"], weight)[0].any()


def test_discriminator_and_generator_terms_by_their_formulas() -> None:
    game = small(resolution=8)
    round = at(game, 8, 0.5)
    level = Level(8, 0.5)
    fake = game.generator.at(level, round.normal("z", 5))
    score = game.discriminator.at(level, fake)[:, 0]
    real = game.discriminator.at(level, faded(shrunk(round["image"], 8), 0.5))[:, 0]
    terms = game.loss("discriminator", round)
    assert list(terms) == ["wasserstein", "gradient_penalty", "drift"]
    torch.testing.assert_close(terms["wasserstein"], score.mean() - real.mean())
    torch.testing.assert_close(game.loss("generator", round)["wasserstein"], -score.mean())


def test_labels_add_a_classifier_on_reals_and_fakes() -> None:
    game = small(resolution=8, conditional=True, classes=3, class_weight=2.0)
    round = at(game, 8, 1.0)
    fake = game.generator.at(Level(8), round.normal("z", 5), round["label"])
    costs = [
        F.cross_entropy(game.discriminator.both_at(Level(8), x)[1], round["label"]) for x in (round["image"], fake)
    ]
    torch.testing.assert_close(game.loss("discriminator", round)["class"], 2 * (costs[0] + costs[1]))
    torch.testing.assert_close(game.loss("generator", round)["class"], 2 * costs[1])
    assert game.sample(4, label=1).shape == (4, 1, 8, 8)
    assert not torch.equal(game.sample(2, label=0), game.sample(2, label=1))
    made = training(conditional=True, classes=3)
    assert set(made.play()["discriminator"]) == {"wasserstein", "gradient_penalty", "drift", "class"}
    with pytest.raises(UserError, match="needs labelled images"):
        build("progan", conditional=True)


@pytest.mark.parametrize("objective", ["nonsaturating", "relativistic"])
def test_other_objectives_and_r1(objective: str) -> None:
    made = training(objective=objective, penalty={"r1": 1.0, "gradient_penalty": 0.0, "drift": 0.0})
    report = made.play()
    assert set(report["discriminator"]) == {"gan", "r1"} and set(report["generator"]) == {"gan"}


# ---- errors
def test_what_cannot_be_built() -> None:
    with pytest.raises(UserError, match="progan needs a resolution that is a power of two from 8 on, not 24"):
        build("progan", resolution=24)
    with pytest.raises(UserError, match=r"start is 6; expected a power of two from 4 on; nearest: 4"):
        build("progan", start=6)


# ---- published weights
def exported(game: ProGAN) -> dict[str, Tensor]:
    """The game's weights under the official names and layouts, by rules of their own: loops instead of patterns."""
    state: dict[str, Tensor] = {}
    for prefix, network in (("G", game.generator), ("D", game.discriminator)):
        levels = len(network.blocks) + 1
        rgb, kind = (network.to_rgb, "ToRGB") if prefix == "G" else (network.from_rgb, "FromRGB")
        layers = {f"{kind}_lod{levels - 1 - i}": layer for i, layer in enumerate(rgb)} | {"4x4/Conv": network.conv}
        if prefix == "G":
            layers |= {"4x4/Dense": network.first}
        else:
            layers |= {"4x4/Dense0": network.hidden, "4x4/Dense1": network.output}
        for i, block in enumerate(network.blocks):
            side = 8 * 2**i
            layers[f"{side}x{side}/Conv0" + ("_up" if prefix == "G" else "")] = block.conv0
            layers[f"{side}x{side}/Conv1" + ("" if prefix == "G" else "_down")] = block.conv1
        for name, layer in layers.items():
            w = layer.weight.detach()
            if name.endswith("Conv0_up"):
                w = w.flip(2, 3).permute(2, 3, 0, 1)
            else:
                w = w.permute(2, 3, 1, 0) if w.ndim == 4 else w.t()
            state[f"{prefix}/{name}/weight"] = w
            bias = network.first_bias if name == "4x4/Dense" else layer.bias
            state[f"{prefix}/{name}/bias"] = bias.detach()
        state[f"{prefix}/lod"] = network.lod.clone()
    return state


CONFIG = {"resolution": 16, "num_channels": 1, "fmap_base": 8192, "fmap_max": 6, "latent_size": 5}


def test_weights_go_out_under_official_names_and_come_back() -> None:
    game = small(resolution=16, fmap_base=8192)
    found = pretrained.load("progan", exported(game), **CONFIG)
    z, x = torch.randn(2, 5), images(2, 16)
    assert torch.equal(found.generator(z, lod=0.0), game.generator(z, lod=0.0))
    assert torch.equal(found.discriminator(x, lod=0.6), game.discriminator(x, lod=0.6))


def test_one_network_alone_leaves_the_other_as_it_was_made() -> None:
    game = small(resolution=16, fmap_base=8192)
    state = {k: v for k, v in exported(game).items() if k.startswith("G/") and k != "G/lod"}
    found = pretrained.load("progan", {k.removeprefix("G/"): v for k, v in state.items()}, **CONFIG)
    assert torch.equal(found.generator(torch.ones(1, 5)), game.generator(torch.ones(1, 5), lod=0.0))
    assert not found.discriminator.conv.bias.any()


def test_weights_that_do_not_fit_are_named() -> None:
    state = exported(small(resolution=16, fmap_base=8192))
    del state["G/8x8/Conv1/bias"]
    state["G/8x8/Conv2/bias"] = torch.zeros(6)
    state["G/4x4/Conv/bias"] = torch.zeros(7)
    with pytest.raises(UserError, match="generator of progan") as caught:
        pretrained.load("progan", state, **CONFIG)
    for words in ("missing (1): 8x8/Conv1/bias", "8x8/Conv2/bias", "4x4/Conv/bias is [7], expected [6]"):
        assert words in str(caught.value)
    with pytest.raises(UserError, match="unknown argument of progan's networks 'fmap_bas'; did you mean 'fmap_base'"):
        pretrained.load("progan", state, fmap_bas=3)
    with pytest.raises(UserError, match="resolution is 16 for one network and 8 for the other"):
        pretrained.load("progan", state, G_kwargs={"resolution": 16}, D_kwargs={"resolution": 8})
