"""StyleGAN3 against tensors of the official PyTorch code (NVlabs/stylegan3)."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from saddlepoint import pretrained, recipes, tracking
from saddlepoint.engine import Training
from saddlepoint.game import Round
from saddlepoint.metrics import equivariance as eq
from saddlepoint.pretrained.stylegan3 import recipe_of
from saddlepoint.systems import build
from saddlepoint.systems.stylegan3 import FourierInput, LayerPlan, StyleGAN3, blur, low_pass, modulated_conv2d, plan
from tests.parity.official import Official


class Case(Official):
    set = "stylegan3"


def named(network: torch.nn.Module) -> dict[str, Tensor]:
    """Parameters and buffers by their official names."""
    rules = {
        r"^mapping\.layers\.(\d+)\.": r"mapping.fc\1.",
        r"^mapping\.average": "mapping.w_avg",
        r"^synthesis\.layers\.": "synthesis.",
        r"\.magnitude$": ".magnitude_ema",
        r"input\.frequencies": "input.freqs",
        r"^epilogue\.conv\.": "b4.conv.",
        r"^epilogue\.dense\.": "b4.fc.",
        r"^epilogue\.output\.": "b4.out.",
        r"^blocks\.": "",
        r"\.from_image\.": ".fromrgb.",
    }
    found = {}
    for name, tensor in [*network.named_parameters(), *network.named_buffers()]:
        for pattern, replacement in rules.items():
            name = re.sub(pattern, replacement, name)
        found[name] = tensor
    return found


def cotangent(y: Tensor) -> Tensor:
    return torch.cos(0.7 * torch.arange(y.numel(), dtype=torch.float64)).to(y.dtype).view(y.shape)


@pytest.mark.parametrize("name", ["generator_t", "generator_r"])
class TestGenerator:
    def made(self, parity: Path, name: str) -> tuple[Case, Any, Tensor | None]:
        case = Case(parity, name)
        game: Any = pretrained.load("stylegan3", case.part("weights/"), **case.config)
        return case, game.generator.eval(), case.tensors.get("in/c")

    def test_every_layer(self, parity: Path, name: str) -> None:
        case, G, c = self.made(parity, name)
        seen: dict[str, Tensor] = {}
        for key, layer in [("input", G.synthesis.input), *G.synthesis.layers.items()]:
            layer.register_forward_hook(lambda m, i, o, key=key: seen.__setitem__(key, o))
        assert list(G.synthesis.layers) == case.config["layer_names"]
        case.close("out/ws", G.mapping(case["in/z"], c))
        case.close("out/img", G(case["in/z"], c))
        for key, x in seen.items():
            case.close(f"out/x.{key}", x)

    def test_images(self, parity: Path, name: str) -> None:
        case, G, c = self.made(parity, name)
        z, ws = case["in/z"], case["out/ws"]
        case.close("out/ws_psi0.6_cutoff3", G.mapping(z, c, truncation=0.6, cutoff=3))
        case.close("out/img_psi0.6", G(z, c, truncation=0.6))
        case.close("out/img_batch1", G(z[:1], None if c is None else c[:1]))
        case.close("out/img_transformed_batch1", G.synthesis(ws[:1], transform=case["in/transform"]))

    def test_averages_move_before_they_are_used(self, parity: Path, name: str) -> None:
        case, G, c = self.made(parity, name)
        with tracking.collecting() as ledger:
            image = G.train()(case["in/z"], c, tracked=True)
        case.close("out/img_update_emas", image)
        assert float(G.mapping.average.abs().max()) > 0
        tracking.commit(ledger)
        found = named(G)
        for key in case.part("out/after_update_emas/"):
            case.close(f"out/after_update_emas/{key}", found[key])

    def test_gradients(self, parity: Path, name: str) -> None:
        case, G, _ = self.made(parity, name)
        ws = case["out/ws"].requires_grad_()
        image = G.synthesis(ws)
        scalar = (image * cotangent(image)).sum()
        case.close("out/scalar", scalar)
        tensors = {"ws": ws, **{n: named(G)[n] for n in case.config["grad_names"]}}
        for key, gradient in zip(tensors, torch.autograd.grad(scalar, list(tensors.values())), strict=True):
            case.close(f"grad/{key}", gradient)


def test_filter_designs(parity: Path) -> None:
    case = Case(parity, "filters")
    for i, design in enumerate(case.config["filters"]):
        f = low_pass(design["numtaps"], design["cutoff"], design["width"], design["fs"], design["radial"])
        assert (f is None) == (design["numtaps"] == 1)
        if f is not None:
            case.close(f"out/filter.{i:02d}", f)
    for i, sigma in enumerate(case.config["blur_sigma"]):
        impulse = torch.zeros(1, 1, 61, 61)
        impulse[..., 30, 30] = 1
        kernel = blur(impulse, sigma)[0, 0].sum(0)
        expected = case[f"out/blur.{i:02d}"]
        torch.testing.assert_close(kernel[30 - len(expected) // 2 :][: len(expected)], expected)
        assert float(kernel.sum()) == pytest.approx(1.0)


def test_the_input(parity: Path) -> None:
    case = Case(parity, "fourier_input")
    for variant, options in case.config["variants"].items():
        size = options["size"]
        width, height = (size, size) if isinstance(size, int) else size
        layer = FourierInput(
            options["w_dim"], options["channels"], (width, height), options["sampling_rate"], options["bandwidth"]
        )
        weights = case.part(f"weights/{variant}/")
        with torch.no_grad():
            for key, tensor in {**dict(layer.named_parameters()), **dict(layer.named_buffers())}.items():
                tensor.copy_(weights[key.replace("frequencies", "freqs")])
        w = case[f"in/{variant}.w"].requires_grad_()
        for transform in case.config["transforms"]:
            y = layer(w, case[f"in/transform.{transform}"])
            case.close(f"out/{variant}.{transform}.y", y)
            tensors = {"w": w, "weight": layer.weight, "affine.weight": layer.affine.weight}
            for key, g in zip(
                tensors, torch.autograd.grad((y * cotangent(y)).sum(), list(tensors.values())), strict=True
            ):
                case.close(f"grad/{variant}.{transform}.{key}", g)


@pytest.mark.parametrize("index", range(6))
def test_modulated_convolution(parity: Path, index: int) -> None:
    case, key = Case(parity, "ops"), f"modulated_conv2d.{index:02d}"
    op = next(op for op in case.config["ops"] if op["id"] == key)
    x, w, s = (case[f"in/{key}.{n}"].requires_grad_() for n in ("x", "w", "s"))
    padding = op["padding"] if isinstance(op["padding"], int) else tuple(op["padding"])
    y = modulated_conv2d(x, w, s, op["demodulate"], padding, case.tensors.get(f"in/{key}.input_gain"))
    case.close(f"out/{key}.y", y)
    gradients = torch.autograd.grad((y * cotangent(y)).sum(), (x, w, s), create_graph=True)
    for n, gradient in zip("xws", gradients, strict=True):
        case.close(f"grad/{key}.{n}", gradient)
    second = torch.autograd.grad(gradients[0].square().sum(), (w, s))
    for n, gradient in zip("ws", second, strict=True):
        case.close(f"grad/{key}.{n}.second", gradient)


# ---- one training step
class Tape(Round):
    """A round whose numbers are those that the official code was given."""

    def _drawn(self, kind: str, name: str, shape: tuple[int, ...], fill: Callable[..., Tensor]) -> Tensor:
        return self.numbers[(name,)]


def test_one_training_step_in_the_official_order(parity: Path) -> None:
    case = Case(parity, "train_step")
    game: Any = pretrained.load("stylegan3", case.part("weights/"), **case.config)
    training = Training(game, game.recipe)
    training.table.begin()
    moves, clock = game.moves(0), case.config["cur_nimg"]
    assert game.sigma(clock) == pytest.approx(1.2)
    assert [m.player for m in moves] == ["generator", "discriminator", "discriminator"]
    for phase, move in zip(("Gboth", "Dmain", "Dreg"), moves, strict=True):
        x = case["in/real_img"]
        round = Tape(
            {"image": x}, size=len(x), total=len(x), numbers={("z",): case[f"in/z.{phase}"]}, terms=move.terms,
            analysis=False, step=0, clock=clock,
        )  # fmt: skip
        network, letter = game.get_submodule(move.player), "G" if move.player == "generator" else "D"
        gradients, terms = training.table.measure(move.player, round)
        loss = {"Gboth": "Loss/G/loss", "Dmain": "Loss/D/loss", "Dreg": "Loss/D/reg"}[phase]
        gain = 16 if phase == "Dreg" else 1
        assert float(sum(terms.values())) == pytest.approx(gain * float(case[f"out/{phase}.{loss}"].mean()), rel=1e-4)
        parameters = {k: v for k, v in named(network).items() if isinstance(v, torch.nn.Parameter)}
        for name, gradient in zip(parameters, gradients, strict=True):
            key = f"grad/{phase}.{letter}/{name}"
            if key in case.tensors and gradient is not None:
                case.close(key, gradient)
            else:
                assert key not in case.tensors or not case[key].any(), key
        training.table.write(move.player, gradients)
        after = case.part(f"out/after_{phase}/{letter}/")
        assert after
        for key in after:
            case.close(f"out/after_{phase}/{letter}/{key}", named(network)[key])
    training.average.update(case.config["batch_size"], clock + case.config["batch_size"])
    averaged = named(training.average.game().get_submodule("generator"))
    for key in case.part("out/G_ema/"):
        case.close(f"out/G_ema/{key}", averaged[key])


# ---- the published networks, on no memory
def said(layer: LayerPlan) -> dict[str, Any]:
    return {
        "name": layer.name, "is_torgb": layer.to_image, "is_critically_sampled": layer.critical,
        "in_channels": layer.inputs, "out_channels": layer.outputs, "in_sampling_rate": layer.source.rate,
        "out_sampling_rate": layer.target.rate, "tmp_sampling_rate": layer.rate, "up_factor": layer.up,
        "down_factor": layer.down, "up_taps": layer.up_taps, "down_taps": layer.down_taps,
        "padding": [*layer.padding, *layer.padding],
    }  # fmt: skip


def test_published_layers(parity: Path) -> None:
    about = json.loads((parity / "stylegan3" / "layers_published.json").read_text())
    presets = 0
    for name, published in about["configurations"].items():
        layers = plan(recipe_of({"G_kwargs": published["G_kwargs"]}))
        for layer, expected in zip(layers, published["layers"], strict=True):
            found = said(layer)
            assert found | {k: expected[k] for k in found if k in expected} == found, (name, found, expected)
            assert len(found.keys() & expected.keys()) >= 10
            for key, side in (("in", layer.source), ("out", layer.target)):
                assert [side.size] * 2 == list(expected[f"{key}_size"])
                assert side.cutoff == pytest.approx(expected[f"{key}_cutoff"], rel=1e-12)
                assert side.half_width == pytest.approx(expected[f"{key}_half_width"], rel=1e-12)
        preset = re.sub(r"^stylegan3-|\s.*", "", name)
        recipe = dataclasses.replace(recipes.recipe("stylegan3", preset), system="stylegan3")
        if recipe.g_net.channel_base != published["G_kwargs"]["channel_base"]:  # type: ignore[attr-defined]
            continue
        presets += 1
        game = build(recipe, "meta")
        assert isinstance(game, StyleGAN3)
        counts = published["params"]
        synthesis, mapping = game.generator.synthesis, game.generator.mapping
        assert sum(p.numel() for p in game.generator.parameters()) == counts["total"]
        assert sum(p.numel() for p in mapping.parameters()) == counts["mapping"]
        assert sum(p.numel() for p in synthesis.parameters()) == counts["synthesis"]
        assert sum(b.numel() for b in game.generator.buffers()) == counts["buffers"]
        assert mapping.copies == published["num_ws"]
        if "D_params" in published:
            assert sum(p.numel() for p in game.discriminator.parameters()) == published["D_params"]
    assert presets >= 4


# ---- equivariance
def test_motions_of_images_and_their_masks(parity: Path) -> None:
    case = Case(parity, "equivariance")
    functions: dict[str, Callable[..., tuple[Tensor, Tensor]]] = {
        "apply_integer_translation": lambda x, o: eq.shifted(x, o["tx"], o["ty"]),
        "apply_fractional_translation": lambda x, o: eq.shifted_between(x, o["tx"], o["ty"]),
        "apply_fractional_rotation": lambda x, o: eq.rotated(x, o["angle"]),
        "apply_fractional_pseudo_rotation": lambda x, o: eq.pseudo_rotated(x, o["angle"]),
        "apply_affine_transformation": lambda x, o: eq.moved(x, torch.tensor(o["mat"]), **o["kw"]),
    }
    for op in case.config["ops"]:
        y, mask = functions[op["fn"]](case[f"in/{op['x']}"], op)
        case.close(f"out/{op['id']}.y", y)
        assert torch.equal(mask.expand(1, 1, *y.shape[2:]), case[f"out/{op['id']}.mask"]), op["id"]
    for design in case.config["filters"]:
        case.close(f"out/{design['id']}.filter", eq.band_limit(torch.tensor(design["mat"]), **design["kw"]))


def test_the_three_numbers(parity: Path) -> None:
    case = Case(parity, "equivariance")
    options = {"G_kwargs": case.config["G_kwargs"]}
    game: Any = pretrained.load("stylegan3", case.part("weights/"), **options)
    draws = [case[key] for key in sorted(case.tensors) if key.startswith("in/draw.metric.")]
    numbers = iter(draws)
    measured = eq.equivariance(
        game, case.config["metric"]["num_samples"], batch=case.config["metric"]["batch_size"],
        translate=case.config["metric"]["translate_max"], rotate=case.config["metric"]["rotate_max"],
        numbers=lambda kind, *shape: next(numbers),
    )  # fmt: skip
    assert next(numbers, None) is None
    for found, key in ((measured.eq_t, "eqt_int"), (measured.eq_t_frac, "eqt_frac"), (measured.eq_r, "eqr")):
        # 4 samples of a float32 network: rounding moves a PSNR of 50 dB by hundredths
        assert found == pytest.approx(float(case[f"out/psnr.{key}"]), abs=5e-3), key
