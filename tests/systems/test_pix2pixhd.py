"""pix2pixHD: sizes, edges, means over instances, scales, stages, appearances; and what cannot be is refused by name."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from saddlepoint import pretrained, recipes
from saddlepoint.engine import Training
from saddlepoint.errors import UserError
from saddlepoint.layers.label_maps import coloured, edges
from saddlepoint.layers.vgg import CONVOLUTIONS, VGG19, perceptual
from saddlepoint.systems import build
from saddlepoint.systems.pix2pixhd import (
    MultiscaleDiscriminator,
    feature_matching,
    halved,
    over_scales,
)

NARROW = {
    "width": 4, "d_width": 4, "n_layers": 1, "downs": 1, "blocks": 1, "local_blocks": 1, "e_width": 4, "e_downs": 1,
    "batch": 2, "ema_half_life_kimg": 0.0, "resolution": 32, "channels": 3, "load_size": 0, "aspect": 1,
}  # fmt: skip
STREET = {"labels": 5, "instances": True, "features": 2, "input_channels": 0}


def built(**settings: Any) -> Any:
    return build(recipes.recipe("pix2pixhd", "tiny", **{**NARROW, "input_channels": 3, **settings}))


def street(n: int = 2, height: int = 32, width: int = 32, seed: int = 0) -> dict[str, Tensor]:
    """Label maps of four quarters, two of them instances of one class, and photos."""
    generator = torch.Generator().manual_seed(seed)
    label = torch.zeros(n, height, width, dtype=torch.int64)
    label[:, : height // 2, width // 2 :] = 2
    label[:, height // 2 :] = 4
    instance = label.clone()
    instance[:, height // 2 :, : width // 2] = 4000
    instance[:, height // 2 :, width // 2 :] = 4001
    image = torch.rand(n, 3, height, width, generator=generator) * 2 - 1
    return {"label": label, "instance": instance, "image": image}


def pictures(n: int = 2, side: int = 32, seed: int = 0) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {name: torch.rand(n, 3, side, side, generator=generator) * 2 - 1 for name in ("a", "b")}


def apart(network: VGG19, x: Tensor, y: Tensor) -> Tensor:
    return perceptual(network(x), network(y))


def vgg(divisor: int = 32) -> VGG19:
    generator, before = torch.Generator().manual_seed(0), 3
    state = {}
    for i, width in zip(CONVOLUTIONS, [64] * 2 + [128] * 2 + [256] * 4 + [512] * 5, strict=True):
        wide = width // divisor
        state[f"features.{i}.weight"] = torch.randn(wide, before, 3, 3, generator=generator) * (2 / 9 / before) ** 0.5
        state[f"features.{i}.bias"], before = torch.zeros(wide), wide
    return VGG19(state)


class TestNetworks:
    @pytest.mark.parametrize(
        ("preset", "counts"),
        [
            ("paper", {"generator": 182_546_755, "discriminator": 5_603_202}),
            ("cityscapes-features", {"generator": 182_556_163, "encoder": 788_803}),
            ("cityscapes-1024p", {"generator": 182_857_059, "discriminator": 8_404_803}),
        ],
    )
    def test_published_parameter_counts(self, preset: str, counts: dict[str, int]) -> None:
        game = build(recipes.recipe("pix2pixhd", preset), "meta")
        for name, count in counts.items():
            assert sum(p.numel() for p in game.get_submodule(name).parameters()) == count
        one = MultiscaleDiscriminator(39, scales=1)
        assert sum(p.numel() for p in one.parameters()) == 2_801_601

    def test_three_halvings(self) -> None:
        game = build(recipes.recipe("pix2pixhd", "paper", downs=3), "meta")
        assert sum(p.numel() for p in game.get_submodule("generator").parameters()) == 45_696_835

    def test_shapes_that_the_discriminators_give(self) -> None:
        with torch.device("meta"):
            D = MultiscaleDiscriminator(39, scales=3)
            found = D(torch.zeros(1, 39, 128, 256))
        assert [tuple(y.shape[2:]) for y in found[0]] == [(65, 129), (33, 65), (17, 33), (18, 34), (19, 35)]
        assert [y.shape[1] for y in found[0]] == [64, 128, 256, 512, 1] and len(found) == 3

    def test_the_full_size_has_the_weights_with_the_highest_number(self) -> None:
        D, x = MultiscaleDiscriminator(3, 4, 1, scales=2), torch.rand(1, 3, 16, 16)
        before = D(x)
        with torch.no_grad():
            D.get_submodule("scale1_layer0")[0].weight.zero_()  # type: ignore[index]
        after = D(x)
        assert not torch.equal(before[0][0], after[0][0]) and torch.equal(before[1][0], after[1][0])

    def test_halving_keeps_a_constant_constant(self) -> None:
        for sides in ((8, 6), (7, 5)):
            assert torch.allclose(halved(torch.full((1, 2, *sides), 0.3)), torch.full((1, 2, 4, 3), 0.3))

    def test_first_weights_are_the_published_ones(self) -> None:
        G = built(width=32).generator
        weight, bias = G.model[4].weight, G.model[4].bias
        assert float(weight.detach().std()) == pytest.approx(0.02, rel=0.03)
        assert 0 < bias.abs().max() <= 1 / (32 * 9) ** 0.5, "torch's own, which the official code leaves"

    def test_any_norm_and_padding(self) -> None:
        for norm, padding in (("batch", "zero"), ("none", "replicate")):
            game = built(norm=norm, padding=padding, dropout=True)
            assert game.translate(pictures()["a"]).shape == (2, 3, 32, 32)
            assert all(layer.bias is not None for layer in game.modules() if isinstance(layer, nn.Conv2d))


class TestObjectives:
    def test_a_constant_verdict_by_hand(self) -> None:
        maps = [[torch.rand(2, 3, 4, 4), torch.full((2, 1, 3, 3), 0.25)] for _ in range(3)]
        assert float(over_scales("lsgan", maps, True)) == pytest.approx(3 * 0.75**2)
        assert float(over_scales("lsgan", maps, False)) == pytest.approx(3 * 0.25**2)

    def test_feature_matching(self) -> None:
        D = MultiscaleDiscriminator(3, 4, 3, scales=2)
        found = D(torch.rand(1, 3, 32, 32))
        assert sum(len(maps) - 1 for maps in found) == 2 * 4
        assert float(feature_matching(found, found, 3)) == 0
        shifted = [[y + 1 for y in maps] for maps in found]
        assert float(feature_matching(shifted, found, 3)) == pytest.approx(4.0), "4 layers, factor 1, mean over scales"
        last = [[*maps[:-1], maps[-1] + 5] for maps in found]
        assert float(feature_matching(last, found, 3)) == 0, "the verdict itself is not matched"

    def test_the_true_side_gives_the_generator_nothing_and_the_move_gives_the_discriminator_nothing(self) -> None:
        game = built(**STREET)
        round = game.round(street())
        seen, true = game.seen(round), game.true(round)
        for parameter in game.discriminator.parameters():  # as in the generator's move
            parameter.requires_grad_(False)
        assert not any(y.requires_grad for maps in game.judged(seen, true) for y in maps)

    def test_perceptual_distance(self) -> None:
        network, x = vgg(), torch.rand(1, 3, 32, 32)
        assert float(apart(network, x, x)) == 0 and float(apart(network, x, 1 - x)) > 0
        assert [y.shape[2] for y in network(x)] == [32, 16, 8, 4, 2] and not list(network.parameters())
        assert not network.state_dict(), "a checkpoint does not carry them"
        network.forward = lambda v: [v.mean() * torch.ones(2, 2)] * 5  # type: ignore[method-assign, assignment]
        assert float(apart(network, x * 0, x * 0 + 1)) == pytest.approx(1.46875)

    def test_it_is_there_with_a_file_only(self, tmp_path: Path) -> None:
        assert "perceptual" not in built().loss("generator", built().round(pictures()))
        state = {f"features.{n.removeprefix(p)}.{p}": t for n, t in vgg().named_buffers() for p in ("weight", "bias")
                 if n.startswith(p)}  # fmt: skip
        torch.save(state, tmp_path / "vgg.pth")
        game = built(vgg=str(tmp_path / "vgg.pth"))
        terms = game.loss("generator", game.round(pictures()))
        expected = apart(vgg(), game.fake(game.round(pictures())), pictures()["b"])
        assert float(terms["perceptual"]) == pytest.approx(10 * float(expected), rel=1e-5)
        with pytest.raises(UserError, match="is not a file"):
            built(vgg="nowhere.pth")
        torch.save({"features.0.weight": torch.zeros(1)}, tmp_path / "other.pth")
        with pytest.raises(UserError, match="expected torchvision's vgg19"):
            built(vgg=str(tmp_path / "other.pth"))

    def test_weights_of_the_terms(self) -> None:
        game = built(feature_matching=3.0, **STREET)
        round = game.round(street())
        terms = game.loss("generator", round)
        seen, fake = game.seen(round), game.fake(round)
        on_fake, on_real = game.judged(seen, fake), game.judged(seen, round["image"])
        assert torch.isclose(terms["feature_matching"], 3 * feature_matching(on_fake, on_real, 1))
        expected = 0.5 * (over_scales("lsgan", on_fake, False) + over_scales("lsgan", on_real, True))
        assert torch.isclose(game.loss("discriminator", round)["gan"], expected)
        off = built(feature_matching=0.0)
        assert set(off.loss("generator", off.round(pictures()))) == {"gan"}


def training(game: Any, **settings: Any) -> Training:
    recipe = dataclasses.replace(game.recipe, **settings)
    make = street if recipe.labels else pictures

    def source(cursor: int, total: int, first: int, length: int, resolution: int | None = None) -> dict[str, Tensor]:
        return {k: v[first : first + length] for k, v in make(total, seed=cursor).items()}

    return Training(game, recipe, source)


class TestPlay:
    def test_first_only_the_outer_enhancer_and_the_encoder_learn(self) -> None:
        game = built(network="local", enhancers=2, fix_global_kimg=0.004, **STREET)
        before = {k: v.clone() for k, v in game.named_parameters()}
        made = training(game)

        def moved() -> set[str]:
            return {k for k, v in game.named_parameters() if not torch.equal(v, before[k])}

        for _ in range(2):
            made.play()
        names = {k.removeprefix("generator.").partition(".")[0] for k in moved() if k.startswith("generator.")}
        assert names == {"model2_1", "model2_2"}
        assert any(k.startswith("encoder.") for k in moved())
        made.play()
        names = {k.removeprefix("generator.").partition(".")[0] for k in moved() if k.startswith("generator.")}
        assert names == {"model", "model1_1", "model1_2", "model2_1", "model2_2"}
        steps = {float(s["step"]) for s in made.optimizers["generator"].state.values()}
        assert steps == {1.0}, "a new Adam over everything"

    def test_a_fixed_inner_generator_computes_the_same_and_lets_the_encoders_gradient_through(self) -> None:
        game = built(network="local", **STREET)
        x = torch.rand(1, 8, 32, 32, requires_grad=True)
        free, fixed = (game.generator(x, fixed=f) for f in (False, True))
        assert torch.equal(free, fixed)
        inner = [p for k, p in game.generator.named_parameters() if k.startswith("model.")]
        gradients = torch.autograd.grad(fixed.sum(), [x, *inner], allow_unused=True)
        assert all(g is None for g in gradients[1:]) and gradients[0] is not None
        assert torch.allclose(gradients[0], torch.autograd.grad(free.sum(), x)[0], atol=1e-6)

    def test_the_inner_generator_takes_a_smaller_runs_weights(self) -> None:
        small, large = built(width=8).generator.state_dict(), built(network="local").generator.state_dict()
        inner = {k: v.shape for k, v in large.items() if k.startswith("model.")}
        assert all(small[k].shape == shape for k, shape in inner.items())

    def test_the_discriminator_judges_the_fake_from_before_the_generators_step(self) -> None:
        game = built(**STREET, precision="fp32")
        data = street()
        expected = float(game.loss("discriminator", game.round(data))["gan"].detach())
        report = Training(game, game.recipe, lambda *place: data).play()
        assert float(report["discriminator"]["gan"]) == pytest.approx(expected, abs=1e-6)

    def test_learning_rates_fall_after_each_epoch_beyond_the_first_of_the_decay(self) -> None:
        game = build(recipes.recipe("pix2pixhd", "paper"), "meta")
        rates = [game.stage(e * 2975 + 5).settings["generator"]["lr"] / 2e-4 for e in (0, 99, 100, 101, 199)]
        assert rates == pytest.approx([1, 1, 1, 0.99, 0.01])

    def test_the_pool_is_filled_with_conditions_and_fakes(self) -> None:
        game = built(pool=3, **STREET)
        training(game).play()
        assert float(game.pool_count) == 2
        assert torch.equal(game.pool[0, :5].argmax(0), street()["label"][0])


class TestAppearances:
    def test_one_objects_look_is_changed_and_no_others(self) -> None:
        game = built(**STREET)
        data = street(2)
        with pytest.raises(UserError, match="learn_centres"):
            game.translate(data["label"], instance=data["instance"])
        centres = game.learn_centres([data])
        assert set(centres) == {0, 2, 4} and len(centres[4]) == 4
        drawn = [
            game.draw_features(data["instance"], data["label"], seed=1, choose={4001: pick}) for pick in (0, 1)
        ]  # fmt: skip
        changed = (drawn[0] != drawn[1]).any(1)
        assert torch.equal(changed, data["instance"] == 4001)
        assert torch.allclose(drawn[1][0, :, -1, -1], centres[4][1])
        photos = [game.translate(data["label"], instance=data["instance"], features=f) for f in drawn]
        assert photos[0].shape == (2, 3, 32, 32) and not torch.equal(*photos)
        with pytest.raises(UserError, match="object 4001 has 4 appearances"):
            game.draw_features(data["instance"], data["label"], choose={4001: 4})
        again = built(**STREET)
        again.load_state_dict(game.state_dict())
        assert torch.equal(again.draw_features(data["instance"], data["label"], seed=3),
                           game.draw_features(data["instance"], data["label"], seed=3))  # fmt: skip

    def test_looks_are_taken_over_from_a_photo(self) -> None:
        game = built(**STREET)
        data = street()
        features = game.encode(data["image"], data["instance"])
        photos = game.translate(data["label"], instance=data["instance"], image=data["image"])
        expected = game.translate(data["label"], instance=data["instance"], features=features)
        assert torch.allclose(photos, expected)
        assert torch.allclose(photos, game.fake(game.round(data)), atol=1e-6)

    def test_features_of_classes(self) -> None:
        game = built(**{**STREET, "instances": False, "label_features": True})
        data = street()
        features = game.encode(data["image"], label=data["label"])
        assert all(features[0][:, data["label"][0] == k].std(1).max() < 1e-6 for k in (0, 2, 4))
        game.loss("generator", game.round({k: data[k] for k in ("label", "image")}))


class TestUse:
    def test_maps_of_any_size(self) -> None:
        game = built(network="local", labels=5, instances=True, input_channels=0)
        for sides in ((32, 32), (21, 40)):
            data = street(2, *sides)
            photos = game.translate(data["label"], instance=data["instance"])
            assert photos.shape == (2, 3, *sides) and photos.abs().max() <= 1
            single = game.translate(data["label"], instance=data["instance"], batch=1)
            assert torch.allclose(photos, single, atol=1e-5)
        with pytest.raises(UserError, match="give the instance ids"):
            game.translate(data["label"])
        with pytest.raises(UserError, match=r"instance ids of \[21, 39\]"):
            game.translate(data["label"], instance=data["instance"][:, :, 1:])
        with pytest.raises(UserError, match="not pictures"):
            game.translate(torch.zeros(1, 3, 32, 32))

    def test_kept_examples_are_what_is_shown(self) -> None:
        class Source:
            paired = True

            def __len__(self) -> int:
                return 3

            def __call__(self, cursor: int, total: int, first: int, length: int) -> dict[str, Tensor]:
                return street(length)

        game = built(**STREET)
        assert game.sample(2).shape == (2, 3, 32, 32)
        assert len(game.show()[0]) == 8
        game.meet(Source())
        images, columns = game.show()
        assert columns == 6 and len(images) == 9
        assert torch.equal(images[0], coloured(street(3)["label"])[0])
        assert torch.allclose(images[2], street(3)["image"][0], atol=1 / 127)
        before = game.sample(3, seed=1)
        game.learn_centres([street(3)])
        assert not torch.equal(before, game.sample(3, seed=1)) and torch.equal(game.sample(2), game.sample(2))

    def test_a_folder_of_maps_and_photos_is_trained_on(self, tmp_path: Path) -> None:
        from PIL import Image

        for i in range(4):
            data = street(1, seed=i)
            arrays: dict[str, Any] = {
                "label": data["label"][0].numpy().astype(np.uint8),
                "inst": data["instance"][0].numpy().astype(np.uint16),
                "img": ((data["image"][0].permute(1, 2, 0) + 1) * 127.5).numpy().astype(np.uint8),
            }  # fmt: skip
            for folder, array in arrays.items():
                (tmp_path / folder).mkdir(exist_ok=True)
                Image.fromarray(array).save(tmp_path / folder / f"{i}.png")
        from saddlepoint.data import paired

        recipe = recipes.recipe("pix2pixhd", "tiny", **{**NARROW, **STREET, "data": str(tmp_path), "channels": 0})
        recipe = paired.resolve(recipe)
        source = paired.source(recipe)
        batch = source(0, 2, 0, 2)
        assert batch["label"].max() == 4 and set(batch["instance"].unique().tolist()) == {0, 2, 4000, 4001}
        game: Any = build(recipe)
        game.meet(source)
        report = Training(game, recipe, source).play()
        assert all(torch.isfinite(v) for terms in report.values() for v in terms.values())

    def test_what_does_not_go_together_is_refused(self) -> None:
        for settings, words in (
            ({"features": 2}, "need objects"),
            ({"gradient_penalty": 10.0}, "without a gradient penalty"),
            ({"downs": 5}, "too small to be halved 5 times"),
            ({"labels": 3, "direction": "b-to-a"}, "exchanges pictures"),
            ({"scales": 0}, "expected at least 1"),
        ):
            with pytest.raises(UserError, match=words):
                built(**settings)


class TestTiles:
    """A map in tiles is the map as a whole: edges and looks are not those of the tiles."""

    @staticmethod
    def large(height: int, width: int) -> tuple[Tensor, Tensor]:
        label = torch.zeros(height, width, dtype=torch.int64)
        label[:, width // 3 :] = 2
        label[height // 2 :, : width // 2] = 4
        instance = label.clone()
        instance[height // 2 :, : width // 4] = 4001
        return label, instance

    @pytest.mark.parametrize("network", ["global", "local"])
    def test_they_are_the_whole_where_tiles_see_enough(self, network: str) -> None:
        game = built(network=network, **STREET, norm="none", init_gain=0.15)
        label, instance = self.large(40, 300)
        game.set_centres({k: torch.randn(3, 2) for k in range(5)})
        whole = game.translate(label[None], instance=instance[None], seed=3)[0]
        tiled = game.translate_tiled(label, tile=160, instance=instance, seed=3)
        assert game.generator.reach < 64 and torch.allclose(tiled, whole, atol=1e-4)
        alone = game.translate_tiled(label[:, :160], tile=160, instance=instance[:, :160], seed=3)
        assert not torch.allclose(alone[:, :, -8:], whole[:, :, 152:160], atol=1e-3)  # what a tile sees is needed

    def test_an_object_has_one_look_and_no_edge_where_a_tile_ends(self) -> None:
        game = built(**STREET, norm="none")
        label, instance = self.large(32, 96)
        game.set_centres({k: torch.randn(3, 2) for k in range(5)})
        seen: list[Tensor] = []
        game.generator.register_forward_pre_hook(lambda module, given: seen.append(given[0]))
        game.translate_tiled(label, tile=32, overlap=0, instance=instance)
        assert len(seen) == 3
        together = torch.cat(seen, 3)  # [1, labels + edges + features, H, W]
        assert torch.equal(together[:, 5:6], edges(instance[None]))
        assert torch.equal(together[:, 6:], game.draw_features(instance[None], label[None]))


class TestPublished:
    @pytest.mark.parametrize(
        ("settings", "options"),
        [
            ({"labels": 4, "instances": True, "features": 2}, {"label_nc": 4, "instance_feat": True, "feat_num": 2}),
            (
                {"labels": 4, "instances": False, "features": 3, "label_features": True},
                {"label_nc": 4, "no_instance": True, "label_feat": True},
            ),
            ({"instances": True, "features": 3}, {"label_nc": 0, "instance_feat": True}),
            ({"input_channels": 1}, {}),
            ({"labels": 35, "instances": True, "features": 3}, {}),
            (
                {"labels": 4, "instances": True, "network": "local", "enhancers": 2, "fix_global_kimg": 29.75},
                {"label_nc": 4, "netG": "local", "niter_fix_global": 10},
            ),
            (
                {"labels": 4, "instances": True, "norm": "batch", "gan_mode": "vanilla", "padding": "zero"},
                {"label_nc": 4, "norm": "batch", "no_lsgan": True},
            ),
            ({"labels": 4, "instances": True, "scales": 3, "feature_matching": 0.0},
             {"label_nc": 4, "no_ganFeat_loss": True}),
        ],
    )  # fmt: skip
    def test_a_recipe_is_found_again_in_tensors_and_official_options(
        self, settings: dict[str, Any], options: dict[str, Any]
    ) -> None:
        game = built(**settings)
        parts = {"G": game.generator, "D": game.discriminator, "E": game.encoder}
        state = {f"{p}.{k}": v for p, m in parts.items() if m is not None for k, v in m.state_dict().items()}
        found: Any = pretrained.load("pix2pixhd", state, **options)
        names = ["labels", "instances", "features", "label_features", "width", "downs", "blocks", "network", "norm"]
        names += ["padding", "gan_mode", "scales", "n_layers", "feature_matching", "fix_global_kimg"]
        names += ["e_downs", "e_width"] * (game.encoder is not None)
        names += ["enhancers", "local_blocks"] * (game.recipe.network == "local")
        assert {n: getattr(found.recipe, n) for n in names} == {n: getattr(game.recipe, n) for n in names}
        assert all(torch.equal(found.state_dict()[k], v) for k, v in game.named_parameters())
        for part in ("G", "D"):
            alone = {k[2:]: v for k, v in state.items() if k.startswith(f"{part}.")}
            pretrained.load("pix2pixhd", alone, **options)

    def test_what_does_not_fit_is_named(self) -> None:
        game = built(labels=4, instances=True)
        state = {f"G.{k}": v for k, v in game.generator.state_dict().items()}
        with pytest.raises(UserError, match=r"model\.1\.weight is \[4, 5, 7, 7\], expected \[4, 7, 7, 7\]"):
            pretrained.load("pix2pixhd", state, label_nc=6)
        state.pop("G.model.4.bias")
        with pytest.raises(UserError, match=r"missing \(1\): model\.4\.bias"):
            pretrained.load("pix2pixhd", state, label_nc=4)
