"""GauGAN: sizes of the published networks, what SPADE is, losses at values known by hand, styles and label maps."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from saddlepoint import recipes
from saddlepoint.engine import Training
from saddlepoint.errors import UserError
from saddlepoint.layers.spade import (
    SPADE,
    MultiscaleDiscriminator,
    SpadeGenerator,
    divergence,
    feature_matching,
    over_scales,
    posterised,
    semantics,
)
from saddlepoint.layers.spectral import SpectralConv2d, SpectralNorm
from saddlepoint.layers.vgg import CONVOLUTIONS
from saddlepoint.systems import build

NARROW: dict[str, Any] = {
    "resolution": 32, "channels": 3, "input_channels": 3, "width": 2, "width_max": 8, "hidden": 4, "d_width": 4,
    "n_layers": 2, "latent": 6, "labels": 4, "levels": 0, "batch": 2, "precision": "fp32", "ema_half_life_kimg": 0.0,
}  # fmt: skip


def built(preset: str = "tiny", **settings: Any) -> Any:
    return build(recipes.recipe("gaugan", preset, **{**NARROW, **settings}))


def batch(n: int = 2, seed: int = 0, side: int = 32) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    label = torch.randint(4, (n, side // 8, side // 8), generator=generator)
    wide = label.repeat_interleave(8, 1).repeat_interleave(8, 2)
    return {"label": wide, "image": torch.rand(n, 3, side, side, generator=generator) * 2 - 1}


def count(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


class TestNetworks:
    @pytest.mark.parametrize(
        ("preset", "generator", "discriminator", "encoder"),
        [
            ("coco", 97_480_899, 5_904_514, 0),
            ("paper-vae", 112_626_883, 5_904_514, 10_463_424),
            ("ade20k", 96_492_483, 5_836_930, 0),
            ("cityscapes", 93_048_003, 5_601_410, 0),
            ("tiny", 2_325_779, 89_634, 654_880),
        ],
    )
    def test_published_parameter_counts(self, preset: str, generator: int, discriminator: int, encoder: int) -> None:
        game: Any = build(recipes.recipe("gaugan", preset, channels=3, input_channels=3), "meta")
        assert (count(game.generator), count(game.discriminator)) == (generator, discriminator)
        assert (count(game.encoder) if encoder else 0) == encoder
        if preset == "coco":
            blocks = game.generator.head_0, game.generator.up_0, game.generator.up_3
            assert [count(b) for b in blocks] == [24_023_296, 14_142_848, 1_493_120]
        if preset == "cityscapes":
            assert game.generator.start == (4, 8) and game.recipe.shape == (256, 512)

    def test_shapes_of_the_discriminators_at_256(self) -> None:
        with torch.device("meta"):
            found = MultiscaleDiscriminator(6, 64, 4, 2, spectral=False)(torch.empty(1, 6, 256, 256))
        shapes = [[tuple(layer.shape[1:3]) for layer in scale] for scale in found]
        assert shapes[0] == [(64, 129), (128, 65), (256, 33), (512, 34), (1, 35)]
        assert shapes[1] == [(64, 65), (128, 33), (256, 17), (512, 18), (1, 19)]

    @pytest.mark.parametrize(("upsampling", "times"), [("normal", 32), ("more", 64), ("most", 128)])
    def test_every_upsampling_makes_its_size(self, upsampling: str, times: int) -> None:
        with torch.device("meta"):
            G = SpadeGenerator(3, 3, 2, start=(1, 2), upsampling=upsampling, hidden=4, spectral=False)
            seg = torch.empty(1, 3, 10, 20)
            assert G(seg).shape == (1, 3, times, 2 * times)
            assert G(seg, start=(2, 3)).shape == (1, 3, 2 * times, 3 * times)
            assert hasattr(G, "up_4") == (upsampling == "most")

    def test_spectral_norm_is_where_the_code_has_it_and_its_largest_singular_value_is_one(self) -> None:
        D = MultiscaleDiscriminator(4, 4, 4, 1)
        kinds = [type(m) for m in D.modules() if isinstance(m, nn.Conv2d)]
        assert kinds == [nn.Conv2d, *[SpectralConv2d] * 3, nn.Conv2d]
        layer = next(m for m in D.modules() if isinstance(m, SpectralNorm))
        for _ in range(200):
            u, matrix = layer.get_buffer("u0"), layer.weight.detach().flatten(1)
            v = F.normalize(u @ matrix)
            layer.get_buffer("u0").copy_(F.normalize(v @ matrix.T))
            layer.get_buffer("v0").copy_(v)
        largest = torch.linalg.matrix_norm(layer.eval().normalised().detach().flatten(1), 2)
        assert float(largest) == pytest.approx(1, abs=1e-4)

    def test_what_makes_no_network_is_refused_with_the_nearest(self) -> None:
        with pytest.raises(UserError, match=r"multiple of 32, not 32x40; nearest: resolution=32"):
            built(resolution=40)
        with pytest.raises(UserError, match=r"--labels"):
            built(labels=0)
        with pytest.raises(UserError, match=r"kernel is an odd number, not 4; nearest: 3"):
            built(kernel=4)
        with pytest.raises(UserError, match=r"scales is at least 1"):
            built(scales=0)


class TestSpade:
    def test_without_modulation_it_is_batch_norm_and_with_constants_the_affine_one(self) -> None:
        layer, x = SPADE(3, 2, 4), torch.randn(4, 3, 5, 5)
        seg = torch.rand(4, 2, 9, 9)
        for part in (layer.mlp_gamma, layer.mlp_beta):
            nn.init.zeros_(part.weight)
            assert part.bias is not None
            nn.init.zeros_(part.bias)
        assert torch.allclose(layer(x, seg), nn.BatchNorm2d(3, affine=False)(x), atol=1e-6)
        with torch.no_grad():
            layer.mlp_gamma.bias.copy_(torch.tensor([1.0, 2.0, 3.0]))  # type: ignore[union-attr]
            layer.mlp_beta.bias.copy_(torch.tensor([-1.0, 0.0, 1.0]))  # type: ignore[union-attr]
        affine = nn.BatchNorm2d(3)
        with torch.no_grad():
            affine.weight.copy_(torch.tensor([2.0, 3.0, 4.0]))
            affine.bias.copy_(torch.tensor([-1.0, 0.0, 1.0]))
        assert torch.allclose(layer(x, seg), affine(x), atol=1e-5)

    def test_one_class_gives_one_scale_inside_and_with_kernel_one_everywhere(self) -> None:
        seg = torch.zeros(1, 2, 8, 8)
        seg[:, 1] = 1
        for kernel, border in ((3, 2), (1, 0)):
            layer = SPADE(3, 2, 4, kernel)
            gamma = layer.mlp_gamma(layer.mlp_shared(seg))
            inside = gamma[:, :, border : 8 - border, border : 8 - border]
            assert torch.allclose(inside, inside[:, :, :1, :1].expand_as(inside), atol=1e-6)
            assert torch.allclose(gamma, gamma[:, :, 4:5, 4:5].expand_as(gamma), atol=1e-6) == (kernel == 1)

    def test_instance_norm_washes_a_uniform_map_out_and_spade_does_not(self) -> None:
        torch.manual_seed(0)
        seg = torch.zeros(1, 2, 8, 8, dtype=torch.float64)
        seg[:, 1] = 1
        features = nn.Conv2d(2, 3, 1).double()(seg)  # one class everywhere: the same features everywhere
        assert F.instance_norm(features).abs().max() < 1e-9
        assert SPADE(3, 2, 4, norm="instance").double()(features, seg).abs().max() > 1e-3


class TestMapsAndLosses:
    def test_semantics_and_ids_that_are_no_class(self) -> None:
        label = torch.tensor([[[0, 1], [255, 2]]])
        seg = semantics(label, 3, dont_care=True, dtype=torch.float32)
        assert seg.shape == (1, 4, 2, 2) and torch.equal(seg.sum(1), torch.ones(1, 2, 2))
        assert seg[0, 3, 1, 0] == 1
        with pytest.raises(UserError, match=r"unknown id 255 on 1 pixels; expected 0 to 2; nearest: 2"):
            semantics(label, 3, dtype=torch.float32)
        with pytest.raises(UserError, match=r"unknown id 2 on 1 pixels; expected 0 to 0, or 255 for don't care"):
            semantics(label, 1, dont_care=True, dtype=torch.float32)

    def test_brightness_makes_classes(self) -> None:
        x = torch.tensor([[-1.0, -0.1, 0.1, 1.0]]).view(1, 1, 1, 4)
        assert posterised(x, 2).flatten().tolist() == [0, 0, 1, 1]
        both = torch.cat([x, -x], 1)
        assert posterised(both, 2).flatten().tolist() == [2, 2, 1, 1]

    def test_hinge_by_hand(self) -> None:
        zero = [[torch.zeros(2, 1, 3, 3)], [torch.zeros(2, 1, 2, 2)]]
        assert over_scales("hinge", zero, True) + over_scales("hinge", zero, False) == 2
        sure = torch.full((2, 1, 3, 3), 1.5, requires_grad=True)
        loss = over_scales("hinge", [[sure]], True) + over_scales("hinge", [[-sure]], False)
        assert loss == 0 and torch.autograd.grad(loss, sure)[0].abs().max() == 0
        assert over_scales("hinge", [[sure]], True, generator=True) == -1.5
        with pytest.raises(UserError, match="did you mean 'hinge'"):
            over_scales("hing", zero, True)

    def test_divergence_and_feature_matching_by_hand(self) -> None:
        zero = torch.zeros(2, 256)
        assert torch.equal(divergence(zero, zero), torch.zeros(2))
        assert torch.equal(divergence(zero + 1, zero), torch.full((2,), 128.0))
        one = [
            [torch.ones(1, 2), torch.ones(1, 2), torch.zeros(1)],
            [torch.ones(1, 2), torch.zeros(1, 2), torch.ones(1)],
        ]
        none = [[torch.zeros_like(layer) for layer in scale] for scale in one]
        assert feature_matching(one, none) == 1.5  # (2 + 1) / 2 scales, the logits left out


class TestGame:
    def test_the_encoder_belongs_to_the_generator_and_the_divergence_counts_the_whole_batch(self) -> None:
        game = built()
        owned = {id(p) for p in game.player("generator").parameters}
        assert {id(p) for p in game.encoder.parameters()} <= owned
        assert game.couples == {"batch-norm"} and not built(norm="instance").couples
        round = game.round(batch(4))
        with game.untouched():
            whole = game.loss("generator", round)["kld"]
            parts = [game.loss("generator", part)["kld"] for part in round.split(2)]
        mu, logvar = game.encoder(round["image"])
        assert torch.allclose(whole, 0.05 * divergence(mu, logvar).sum(), rtol=1e-4)
        assert torch.allclose(torch.stack(parts).mean(), whole, rtol=1e-4)

    def test_every_round_both_move_and_the_discriminator_sees_other_noise(self) -> None:
        game = built()
        moves = game.moves(0)
        assert [(m.player, m.draw) for m in moves] == [("generator", "data"), ("discriminator", "noise")]

    def test_rates_stay_and_then_fall_by_epochs(self) -> None:
        game = built(hold_kimg=2.0, decay_kimg=2.0, epoch_kimg=1.0)
        rates = [game.stage(k).settings["generator"]["lr"] / 1e-4 for k in (0, 1999, 2000, 2999, 3000, 3999, 4000)]
        assert rates == pytest.approx([1, 1, 1, 1, 0.5, 0.5, 0])  # the first epoch after the hold is at the full rate

    def test_in_evaluation_every_map_is_painted_alone(self) -> None:
        game = built("tiny-map", resolution=64, norm="instance")
        label = batch(2, side=64)["label"]
        both = game.translate(label, seed=1)
        assert torch.allclose(both[:1], game.translate(label[:1], seed=1), atol=1e-5)
        assert both.shape == (2, 3, 64, 64) and both.abs().max() <= 1

    def test_an_edit_of_a_region_shows_most_in_it(self) -> None:
        game = built("tiny-map", resolution=64, init_gain=1.0)
        label = torch.zeros(1, 64, 64, dtype=torch.long)
        edited = label.clone()
        edited[:, 24:32, 24:32] = 2
        change = (game.translate(label) - game.translate(edited)).abs()[0].amax(0)
        assert change[24:32, 24:32].mean() > 3 * change[:8].mean()

    def test_styles_decide_and_the_seed_decides_styles(self) -> None:
        game = built()
        nn.init.normal_(game.generator.fc.weight)
        label = batch(1)["label"]
        same, again, other = (game.translate(label, seed=s) for s in (0, 0, 1))
        assert torch.equal(same, again) and not torch.equal(same, other)
        z = game.style_of(batch(1)["image"])
        assert z.shape == (1, 6) and torch.equal(z, game.style_of(batch(1)["image"]))
        assert not torch.equal(z, game.style_of(batch(1)["image"], seed=0))
        assert game.translate(label, style=z).shape == (1, 3, 32, 32)
        assert game.translate(batch(1, side=48)["label"], style=z[0]).shape == (1, 3, 48, 48)
        with pytest.raises(UserError, match="styles are"):
            game.translate(label, style=torch.zeros(1, 5))
        with pytest.raises(UserError, match="--encoder"):
            built("tiny-map").style_of(batch(1)["image"])

    def test_the_grid_shows_the_map_that_the_network_sees(self) -> None:
        game = built("tiny-map", levels=2, labels=0)
        assert game.classes == 8
        images, columns = game.show()
        assert columns == 4 and images.shape == (8, 3, 32, 32)
        assert set(images[0].unique().tolist()) <= {-0.5, 0.5}

    def test_wrong_ids_and_pictures_are_named_where_maps_are_painted(self) -> None:
        game = built("tiny-map")
        with pytest.raises(UserError, match=r"unknown id 9 on 1024 pixels"):
            game.translate(torch.full((1, 32, 32), 9))
        with pytest.raises(UserError, match=r"takes pictures \[N, 1, H, W\]"):
            game.translate(torch.zeros(1, 3, 32, 32))
        with pytest.raises(UserError, match="give it pictures, not ids"):
            built("tiny-map", levels=2, labels=0).translate(torch.zeros(1, 32, 32, dtype=torch.long))

    def test_the_perceptual_term_is_there_with_weights_and_stays_out_of_the_checkpoint(self, tmp_path: Path) -> None:
        kernels = {f"features.{i}.weight": torch.randn(2, 2 if i else 3, 3, 3) for i in CONVOLUTIONS}
        offsets = {f"features.{i}.bias": torch.randn(2) for i in CONVOLUTIONS}
        torch.save(kernels | offsets, tmp_path / "vgg.pth")
        game = built(vgg=str(tmp_path / "vgg.pth"))
        terms = game.loss("generator", game.round(batch()))
        assert list(terms) == ["gan", "feature", "vgg", "kld"] and terms["vgg"] > 0
        assert not any("vgg" in name for name in game.state_dict())
        with pytest.raises(UserError, match="is not a file"):
            built(vgg="nowhere.pth")
        torch.save({"features.0.weight": torch.zeros(2, 3, 3, 3)}, tmp_path / "less.pth")
        with pytest.raises(UserError, match=r"has no 0\.bias; expected torchvision's vgg19"):
            built(vgg=str(tmp_path / "less.pth"))


class TestTiles:
    @pytest.mark.parametrize("preset", ["tiny", "tiny-map"])
    def test_they_are_the_whole_where_tiles_see_enough(self, preset: str) -> None:
        """Edges between objects and the first maps are the whole's, and so is the style."""
        game = built(preset, instances=True, init_gain=2.0)
        generator = torch.Generator().manual_seed(0)
        label = torch.randint(4, (2, 71), generator=generator).repeat_interleave(20, 0).repeat_interleave(20, 1)
        instance = torch.randint(9, label.shape, generator=generator)
        whole = game.translate(label[None], instance=instance[None], seed=4)[0]
        assert game.generator.reach == 223 and float(whole.std()) > 0.05
        tiled = game.translate_tiled(label, instance=instance, seed=4, tile=1152)
        assert torch.allclose(tiled, whole, atol=1e-4)
        less = game.translate_tiled(label, instance=instance, seed=4, tile=64, overlap=0)
        assert float((less - whole).abs().max()) > 0.01


def test_the_edges_of_objects_are_seen_where_they_are_given() -> None:
    game = built("tiny-map", instances=True, init_gain=1.0)
    label, instance = torch.zeros(1, 32, 32, dtype=torch.long), torch.arange(32).expand(1, 32, 32) // 16
    assert not torch.allclose(game.translate(label), game.translate(label, instance=instance))
    assert torch.equal(game.translate(label), game.translate(label, instance=label))
    with pytest.raises(UserError, match="instance ids of"):
        game.translate(label, instance=instance[:, 1:])


def test_a_folder_of_label_maps_trains(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from saddlepoint.data import paired

    rng = np.random.default_rng(0)
    for name in ("label", "inst", "img"):
        (tmp_path / name).mkdir()
    for index in range(4):
        label = rng.integers(0, 4, (4, 4)).repeat(8, 0).repeat(8, 1).astype(np.uint8)
        Image.fromarray(label).save(tmp_path / "label" / f"{index}.png")
        Image.fromarray((label // 2).astype(np.uint8)).save(tmp_path / "inst" / f"{index}.png")
        Image.fromarray(rng.integers(0, 255, (32, 32, 3), np.uint8)).save(tmp_path / "img" / f"{index}.png")
    recipe = recipes.recipe("gaugan", "tiny", **{**NARROW, "data": str(tmp_path), "instances": True})
    recipe = paired.resolve(recipe)
    source = paired.source(recipe)
    game: Any = build(recipe)
    game.meet(source)
    assert "without the perceptual term" in capsys.readouterr().err
    report = Training(game, recipe, source).play()
    assert all(torch.isfinite(v) for terms in report.values() for v in terms.values())
    x, truth = game.examples()
    assert truth is not None and x.shape == (4, 1, 32, 32) and set(game.label_of(x).unique().tolist()) <= {0, 1, 2, 3}
    instance = source(0, 4, 0, 4)["instance"]
    assert set(game.examples_instance[:4].flatten(1).sum(1).tolist()) == set(instance.flatten(1).sum(1).tolist())
    images, columns = game.show()
    assert columns == 6 and images.shape == (12, 3, 32, 32)
    assert len({tuple(v) for v in game.colours(torch.arange(4).view(1, 2, 2))[0].flatten(1).T.tolist()}) == 4
    assert dataclasses.replace(recipe, instances=False).domains == ("label", "image")
