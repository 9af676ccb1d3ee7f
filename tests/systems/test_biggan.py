from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from saddlepoint import pretrained
from saddlepoint.engine import Training
from saddlepoint.errors import UserError
from saddlepoint.layers.attention import SelfAttention
from saddlepoint.layers.conditional import ConditionalNorm
from saddlepoint.layers.spectral import Spectral, SpectralConv2d, SpectralNorm, followed
from saddlepoint.penalties import orthogonal
from saddlepoint.pretrained.biggan import official_names
from saddlepoint.systems.biggan import downward, matrices, truncate, upward
from tests.systems.builders import build, counts, images, train

SMALL: dict[str, Any] = {"width": 4, "width_max": 8, "latent": 12, "embedding": 5, "precision": "fp32",
                         "channels_last": False, "attention": (8,), "d_attention": (8,), "standing": 2}  # fmt: skip


def small(classes: int = 3, **overrides: Any) -> Any:
    return build("biggan", **{**SMALL, "classes": classes, **overrides})


def batch(n: int = 8, classes: int = 3) -> dict[str, Tensor]:
    return {"image": images(n), "label": torch.arange(n) % classes}


def stirred(game: Any) -> Any:
    """Away from the neutral start: gammas, biases and gains that say something."""
    torch.manual_seed(2)
    with torch.no_grad():
        for parameter in game.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    return game


class TestPublishedSizes:
    @pytest.mark.parametrize(
        ("preset", "classes", "generator", "discriminator"),
        [
            ("128", 1000, 70_433_988, 87_982_370),
            ("256", 1000, 82_235_844, 99_225_890),
            ("deep-128", 1000, 50_244_484, 34_590_210),
            ("deep-256", 1000, 55_736_708, 38_247_426),
            ("cifar", 10, 4_304_387, 4_207_361),
        ],
    )
    def test_parameters(self, preset: str, classes: int, generator: int, discriminator: int) -> None:
        assert counts("biggan", preset, classes=classes) == (generator, discriminator)

    def test_parts_of_the_128_network(self) -> None:
        game = build("biggan", "128", classes=1000, device="meta")
        parts = (game.generator.shared, game.generator.linear, game.generator.output, game.discriminator.embed)
        assert [sum(p.numel() for p in part.parameters()) for part in parts] == [128_000, 516_096, 2_595, 1_536_000]
        attending = [n for n, m in game.named_modules() if isinstance(m, SelfAttention)]
        assert attending == ["generator.blocks.3.1", "discriminator.blocks.0.1"]  # 64x64 in both

    def test_names_are_the_official_ones(self, parity: Path) -> None:
        published = json.loads((parity / "biggan" / "names_published.json").read_text())
        for preset, part in (("128", "BigGAN 128"), ("deep-128", "BigGAN-deep 128")):
            entry = next(v for k, v in published["pytorch_repository"].items() if k.startswith(part))
            game = build("biggan", preset, classes=1000, device="meta")
            for letter, module in (("G", game.generator), ("D", game.discriminator)):
                own = {**dict(module.named_parameters()), **dict(module.named_buffers())}
                theirs = {official: list(own[ours].shape) for ours, official in official_names(module).items()}
                assert theirs == entry[f"{letter}_tensors"]

    def test_the_published_deep_generator_of_tensorflow(self, parity: Path) -> None:
        published = json.loads((parity / "biggan" / "names_published.json").read_text())["hf"]
        (entry,) = published.values()
        with torch.device("meta"):
            state = {name: torch.empty(shape) for name, shape in entry["tensors"].items()}
            game = pretrained.load("biggan", state, **entry["config"])
            told = pretrained.load("biggan", state)
        assert sum(p.numel() for p in game.get_submodule("generator").parameters()) == entry["parameters"] == 50_388_609
        assert told.recipe == game.recipe  # type: ignore[attr-defined]


class TestBlocks:
    def test_folding_the_resampling_changes_nothing(self) -> None:
        torch.manual_seed(0)
        conv, x = SpectralConv2d(3, 5, 3, Spectral()).eval(), torch.randn(2, 3, 6, 8)
        expected = conv(F.interpolate(x, scale_factor=2)), F.avg_pool2d(conv(x), 2)
        assert torch.equal(upward(conv, x), expected[0]) and torch.equal(downward(conv, x), expected[1])
        with torch.autocast("cpu", dtype=torch.bfloat16):
            folded = upward(conv, x), downward(conv, x)
        for a, b in zip(folded, expected, strict=True):
            assert (a.float() - b).abs().max() < 0.02 * b.abs().max()

    def test_a_later_chunk_of_z_does_not_reach_an_earlier_block(self) -> None:
        G = stirred(small()).generator.eval()
        z, label = torch.randn(2, G.latent, requires_grad=True), torch.tensor([0, 2])
        seen: list[Tensor] = []
        hooks = [layers[0].register_forward_hook(lambda m, i, o: seen.append(o)) for layers in G.blocks]
        G(z, label)
        for hook in hooks:
            hook.remove()
        for block, features in enumerate(seen):
            (gradient,) = torch.autograd.grad(features.sum(), z, retain_graph=True)
            reached = gradient.view(2, -1, G.chunk).abs().amax((0, 2)) > 0
            assert reached.tolist() == [True] * (block + 2) + [False] * (len(seen) - 1 - block)

    def test_all_of_z_reaches_every_norm_of_the_deep_network(self) -> None:
        G = stirred(small(network="deep")).generator
        z = torch.randn(1, G.latent, requires_grad=True)
        _, vectors = G.parts(z, torch.tensor([1]))
        assert len(vectors) == 4 and all(v is not None and v.shape == (1, 5 + 12) for v in vectors)

    def test_the_discriminator_sums_over_positions(self) -> None:
        D = small(attention=(), d_attention=()).discriminator
        with torch.no_grad():
            for name, parameter in D.named_parameters():
                if name.endswith("bias"):
                    parameter.zero_()
        h = D.features(torch.zeros(1, 1, 16, 16), torch.tensor([0]))
        assert h.shape == (1, 8) and not h.any()

    def test_no_sample_sees_another_in_the_discriminator(self) -> None:
        D, given = stirred(small()).discriminator, batch()
        whole = D(given["image"], given["label"])
        halves = [D(given["image"][i : i + 4], given["label"][i : i + 4]) for i in (0, 4)]
        torch.testing.assert_close(whole, torch.cat(halves), rtol=1e-5, atol=1e-5)

    def test_logits_are_linear_in_the_class_vector(self) -> None:
        D, x = stirred(small()).discriminator.eval(), images(4)
        h, table = D.features(x, torch.zeros(4, dtype=torch.int64)), D.embed.normalised()
        difference = D(x, torch.full((4,), 2)) - D(x, torch.full((4,), 0))
        torch.testing.assert_close(difference, h @ (table[2] - table[0]), rtol=1e-4, atol=1e-5)

    def test_gamma_starts_at_zero_where_attention_is_not_there(self) -> None:
        game, plain = small(), small(attention=(), d_attention=())
        plain.load_state_dict({k: v for k, v in game.state_dict().items() if k in plain.state_dict()})
        assert torch.equal(game.sample(3), plain.sample(3))


class TestIngredients:
    """Each is one setting, and each changes what it says."""

    @pytest.mark.parametrize(
        "setting",
        [
            {"hierarchical": False}, {"class_norm": False}, {"shared": False}, {"projection": False},
            {"attention": (), "d_attention": ()}, {"spectral_g": False}, {"spectral_d": False}, {"orthogonal": 0.0},
            {"initial": "glorot"}, {"initial": "normal"}, {"objective": "nonsaturating"}, {"network": "deep"},
            {"norm": "instance"}, {"norm": "none", "output_norm": False}, {"labels": "data"},
            {"objective": "relativistic"}, {"class_norm": False, "hierarchical": False},
            {"shared": False, "hierarchical": False},
            {"conditional": False}, {"orthogonal_d": 1e-3}, {"wide": False}, {"singular_values": 2},
            {"network": "deep", "shared": False}, {"network": "deep", "hierarchical": False, "projection": False},
        ],
        ids=str,
    )  # fmt: skip
    def test_it_trains_and_samples(self, setting: dict[str, Any]) -> None:
        game = stirred(small(**setting))
        before = [p.clone() for p in game.parameters()]
        training = train(game, batch(), rounds=1)
        moved = [not torch.equal(a, b) for a, b in zip(before, game.parameters(), strict=True)]
        assert sum(moved) > 0.8 * len(moved)
        assert torch.isfinite(training.average.game().sample(2, label=0 if game.classes == 0 else [0, 2])).all()

    def test_singular_values_are_logged(self) -> None:
        training = train(small(), batch(), rounds=2)
        notes = training.table.notes
        game = training.game
        for player in ("generator", "discriminator"):
            assert f"singular_value.{player}.first" in notes
            largest = notes[f"singular_value.{player}"][-1]
            exact = max(
                torch.linalg.matrix_norm(m.weight.detach().flatten(1), 2) for m in followed(game.get_submodule(player))
            )
            assert largest == pytest.approx(float(exact), rel=0.05)

    def test_unshared_classes_have_tables(self) -> None:
        names = [n for n, _ in small(shared=False).generator.named_parameters()]
        assert "blocks.0.0.bn1.gain.table.weight" in names and "blocks.0.0.bn1.gain.linear.weight" in names
        assert not any(n.startswith("shared") for n in names)

    def test_the_shared_vectors_are_not_normalised(self) -> None:
        game = small()
        assert not isinstance(game.generator.shared, SpectralNorm) and isinstance(
            game.discriminator.embed, SpectralNorm
        )

    def test_orthogonal_start(self) -> None:
        game = small()
        for layer in followed(game):
            w = layer.weight.detach().flatten(1)
            gram = w @ w.T if w.shape[0] <= w.shape[1] else w.T @ w
            torch.testing.assert_close(gram, torch.eye(len(gram)), rtol=0, atol=1e-5)
        flat = [w for w in matrices(game.generator) if len(w) <= w[0].numel()]
        assert orthogonal(flat).item() == pytest.approx(0, abs=1e-8)

    def test_orthogonal_penalty_of_two_equal_rows(self) -> None:
        row = torch.tensor([[0.6, 0.8]])
        assert orthogonal([torch.cat([row, row])]).item() == pytest.approx(2)
        assert orthogonal([2 * torch.eye(3)]).item() == 0  # of whatever length
        assert orthogonal([2 * torch.eye(3)], diagonal=True).item() == pytest.approx(27)

    def test_the_average_is_the_generator_until_it_starts(self) -> None:
        game = small(ema_start_kimg=0.04, ema_half_life_kimg=1.0)
        training = train(game, batch(), rounds=2)  # 2 x 2 x 8 images
        pairs = list(zip(training.average.weights, training.average.live_weights, strict=True))
        assert all(torch.equal(a, b) for a, b in pairs)
        for _ in range(2):
            training.play()
        assert not all(torch.equal(a, b) for a, b in pairs)

    def test_fakes_are_of_all_classes_alike(self) -> None:
        game = small()
        round = game.round({"image": images(300), "label": torch.zeros(300, dtype=torch.int64)})
        drawn = game.label(round, fake=True)
        assert drawn.dtype == torch.int64 and (torch.bincount(drawn, minlength=3) > 60).all()
        assert not game.label(round, fake=False).any()
        assert not small(labels="data").label(round, fake=True).any()


class TestMicroBatches:
    def gradients(self, **setting: Any) -> tuple[list[Tensor], list[Tensor]]:
        found = []
        for accumulate in (1, 2):
            torch.manual_seed(0)
            game = small(accumulate=accumulate, **setting)
            training = Training(game, game.recipe)
            training.table.begin()
            gradients, _ = training.table.measure("generator", game.round(batch()))
            found.append([g for g in gradients if g is not None])
        return found[0], found[1]

    def test_two_halves_are_the_batch_without_batch_norm_only(self) -> None:
        whole, halves = self.gradients(norm="none", output_norm=False)
        scale = max(float(g.abs().max()) for g in whole)
        assert max(float((a - b).abs().max()) for a, b in zip(whole, halves, strict=True)) < 1e-5 * scale
        whole, halves = self.gradients()
        assert max(float((a - b).abs().max()) for a, b in zip(whole, halves, strict=True)) > 1e-3 * scale


class TestTruncation:
    def test_it_is_the_truncated_normal_distribution(self) -> None:
        z = torch.randn(100_000, generator=torch.Generator().manual_seed(0))
        cut = truncate(z, 0.5)  # within +-1
        assert cut.abs().max() <= 1
        phi, mass = math.exp(-0.5) / math.sqrt(2 * math.pi), math.erf(1 / math.sqrt(2))
        assert cut.var().item() == pytest.approx(1 - 2 * phi / mass, abs=0.005)
        scaled = truncate(z, 0.5, "scale")  # half of what lies within +-2
        assert scaled.abs().max() <= 1
        phi, mass = math.exp(-2.0) / math.sqrt(2 * math.pi), math.erf(2 / math.sqrt(2))
        assert scaled.var().item() == pytest.approx((1 - 4 * phi / mass) / 4, abs=0.005)

    def test_each_number_stays_on_its_side_and_in_its_order(self) -> None:
        z = torch.linspace(-6, 6, 50)
        for kind in ("threshold", "scale"):
            cut = truncate(z, 0.3, kind)
            assert torch.equal(cut.sign(), z.sign()) and (cut.diff() >= 0).all()
            assert torch.equal(truncate(z, 0.0, kind), torch.zeros(50))
        assert torch.equal(truncate(z, 1.0), z)
        with pytest.raises(UserError, match="0 or more"):
            truncate(z, -0.1)

    def test_nothing_left_of_z_is_one_image_a_class(self) -> None:
        game = stirred(small())
        shown = game.sample(6, label=[0, 0, 1, 1, 2, 2], truncation=0.0)
        torch.testing.assert_close(shown[::2], shown[1::2])
        assert (shown[0] - shown[2]).abs().max() > 1e-3
        plain = game.sample(6, label=[0, 0, 1, 1, 2, 2])
        assert (plain[0] - plain[1]).abs().max() > 1e-3

    def test_statistics_are_those_of_truncated_latents_and_leave_no_trace(self) -> None:
        game = stirred(small())
        before = {k: v.clone() for k, v in game.state_dict().items()}
        cut = game.sample(4, truncation=0.2)
        assert all(torch.equal(v, before[k]) for k, v in game.state_dict().items())
        assert torch.equal(cut, game.sample(4, truncation=0.2))
        running = stirred(small(standing=0))
        running.load_state_dict(game.state_dict())
        assert not torch.allclose(cut, running.sample(4, truncation=0.2), atol=1e-3)
        assert torch.equal(running.sample(4, truncation=0.2), game.sample(4, truncation=0.2, standing=False))
        with torch.no_grad():
            game.generator.linear.weight += 0.5 * torch.randn_like(game.generator.linear.weight)
        changed = game.sample(4, truncation=0.2)
        game._standing.clear()
        assert torch.equal(changed, game.sample(4, truncation=0.2)), "statistics of other weights were kept"


class TestClasses:
    def test_a_class_each_and_none_in_turn(self) -> None:
        game = stirred(small())
        assert torch.equal(game.sample(4, label=[0, 1, 2, 0]), game.sample(4))
        assert torch.equal(game.sample(2, label=1), game.sample(2, label=torch.tensor([1, 1])))
        with pytest.raises(UserError, match="no class 3"):
            game.sample(2, label=3)

    def test_between_classes(self) -> None:
        game = stirred(small())
        z = game.draw_latents(1)
        walk = game.interpolate_classes(z[0], 0, 2, 5)
        ends = [game.sample(1, z=z, label=y)[0] for y in (0, 2)]
        torch.testing.assert_close(walk[0], ends[0], rtol=0, atol=1e-6)
        torch.testing.assert_close(walk[-1], ends[1], rtol=0, atol=1e-6)
        weights = torch.tensor([0.5, 0.0, 0.5])
        torch.testing.assert_close(walk[2:3], game.sample(1, z=z, label=weights), rtol=0, atol=1e-6)
        quarter = game.sample(1, z=z, label=1.25)
        torch.testing.assert_close(
            quarter, game.sample(1, z=z, label=torch.tensor([0.0, 0.75, 0.25])), rtol=0, atol=1e-6
        )
        torch.testing.assert_close(game.sample(1, z=z, label=2.0)[0], ends[1], rtol=0, atol=1e-6)
        fine = game.interpolate_classes(z[0], 0, 2, 65)
        assert (fine[1:] - fine[:-1]).abs().max() < 0.25 * max((walk[1:] - walk[:-1]).abs().max(), 1e-3)

    def test_data_without_classes_are_one(self) -> None:
        game = small(classes=0)
        assert game.generator.shared.weight.shape == (1, 5) and game.sample(2).shape == (2, 1, 16, 16)
        train(game, {"image": images(8)})

    def test_where_positions_look(self) -> None:
        game = stirred(small())
        found = game.attention(2, label=[0, 1])
        assert torch.equal(found.images, game.sample(2, label=[0, 1])) and found.weights.shape == (2, 8, 8, 4, 4)
        torch.testing.assert_close(found.weights.sum((3, 4)), torch.ones(2, 8, 8))
        judged = game.attention(images=images(3), label=1, side=8)
        assert judged.weights.shape == (3, 8, 8, 4, 4)
        with pytest.raises(UserError, match=r"there are: \[8\]"):
            game.attention(1, side=16)
        with pytest.raises(UserError, match="none"):
            small(attention=()).attention(1)


class TestErrors:
    def test_settings_that_fit_nothing(self) -> None:
        with pytest.raises(UserError, match="nearest: 16"):
            small(resolution=20)
        with pytest.raises(UserError, match="width_max"):
            build("biggan", "128", resolution=1024, device="meta")
        with pytest.raises(UserError, match="latent is 2"):
            small(latent=2)
        with pytest.raises(UserError, match="layout has '16-8'"):
            small(layout=("16-8",))
        with pytest.raises(UserError, match="does not lead"):
            small(layout=("16:8:up", "4:2:up"), network="deep")

    def test_options_of_the_official_code(self) -> None:
        with pytest.raises(UserError, match="G_attn"):
            pretrained.load("biggan", {}, G_atn="64")
        with pytest.raises(UserError, match="norm_style"):
            pretrained.load("biggan", {}, norm_style="gn")
        with pytest.raises(UserError, match="expected 3"):
            pretrained.load("biggan", {}, G_kernel_size=5)
        with pytest.raises(UserError, match="missing"):
            pretrained.load("biggan", {"embeddings.weight": torch.zeros(4, 5)})

    def test_missing_tensors_are_named(self) -> None:
        game = build("biggan", "cifar", width=2, latent=8, classes=3)
        G = game.generator
        own = {**dict(G.named_parameters()), **dict(G.named_buffers())}
        state = {official: own[ours].detach() for ours, official in official_names(G).items()}
        again: Any = pretrained.load("biggan", state)
        assert all(torch.equal(v, G.state_dict()[k]) for k, v in again.generator.state_dict().items())
        del state["blocks.1.0.conv2.bias"]
        with pytest.raises(UserError, match=r"blocks\.1\.0\.conv2\.bias"):
            pretrained.load("biggan", state)


class TestFiles:
    def test_a_generator_s_file_becomes_a_run(self, tmp_path: Path) -> None:
        """G_ema.pth as torch.save writes it; nothing but shapes says what it is."""
        from saddlepoint.pretrained.importing import import_run, read

        made = {"width": 2, "latent": 12, "classes": 3, "norm_eps": 1e-5, "hierarchical": True, "shared": True}
        game = stirred(build("biggan", "cifar", channels=3, embedding=5, attention=(16,), **made))
        own = {**dict(game.generator.named_parameters()), **dict(game.generator.named_buffers())}
        state = {official: own[ours].detach() for ours, official in official_names(game.generator).items()}
        torch.save(state, tmp_path / "G_ema.pth")
        assert read(tmp_path / "G_ema.pth").system == "biggan"
        run = import_run(tmp_path / "G_ema.pth", tmp_path / "run")
        (checkpoint,) = (run.path / "checkpoints").iterdir()
        again: Any = run.game_at(checkpoint, averaged=False)
        assert again.recipe.latent == 12 and again.recipe.attention == (16,) and again.classes == 3
        z, label = game.draw_latents(3), [0, 1, 2]
        torch.testing.assert_close(again.sample(3, z=z, label=label), game.sample(3, z=z, label=label))

    def test_a_discriminator_s_file(self) -> None:
        from saddlepoint.pretrained.biggan import from_biggan, is_biggan

        game = stirred(build("biggan", "cifar", width=2, latent=8, classes=3, wide=False, d_singular_values=2))
        D = game.discriminator
        own = {**dict(D.named_parameters()), **dict(D.named_buffers())}
        state = {"module." + official: own[ours].detach() for ours, official in official_names(D).items()}
        assert is_biggan(state) and not is_biggan({"linear.weight": torch.zeros(1)}) and not is_biggan([1])
        again: Any = pretrained.load("biggan", from_biggan(state).live)
        assert not again.recipe.wide and again.recipe.d_singular_values == 2
        x, label = images(3, 32, 3), torch.tensor([0, 1, 2])
        torch.testing.assert_close(again.discriminator.eval()(x, label), D.eval()(x, label))


def test_all_norms_are_of_one_kind() -> None:
    kinds = {type(m) for n, m in small().generator.named_modules() if n.rpartition(".")[2] in ("bn1", "bn2")}
    assert kinds == {ConditionalNorm} and isinstance(small().generator.blocks, nn.ModuleList)
