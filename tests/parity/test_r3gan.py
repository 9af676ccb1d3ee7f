"""R3GAN against tensors of the official code (brownvc/R3GAN)."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from saddlepoint import pretrained
from saddlepoint.engine import Training
from saddlepoint.layers.resample import downsample2d, setup_filter, upsample2d
from saddlepoint.pretrained.r3gan import PARTS, official_names, recipe_of
from saddlepoint.systems.r3gan import R3GAN, Block, kernel_of
from tests.parity.official import Official
from tests.systems.builders import count

VARIANTS = ["cond", "uncond"]


class Case(Official):
    set = "r3gan"


def parameters(module: Any) -> dict[str, Tensor]:
    """Parameters by their official names."""
    names = official_names(module)
    return {f"Model.{names[name]}": p for name, p in module.named_parameters()}


def scalar(output: Tensor) -> Tensor:
    """What the recorded gradients are of: sum(output cos(0.7 flat index))."""
    index = torch.arange(output.numel(), dtype=torch.float64).view(output.shape)
    return (output * torch.cos(0.7 * index).to(output.dtype)).sum()


# ---- networks
@pytest.mark.parametrize("variant", VARIANTS)
def test_generator(parity: Path, variant: str) -> None:
    case = Case(parity, "generator")
    game: Any = pretrained.load("r3gan", case.part(f"weights/{variant}/"), **case.config["variants"][variant])
    G, c = game.generator, case.tensors.get(f"in/{variant}.c")
    stages: list[Tensor] = []
    for blocks in G.stages:
        blocks.register_forward_hook(lambda m, i, o: stages.append(o))
    image = G(case[f"in/{variant}.z"], c)
    case.close(f"out/{variant}.img", image)
    for number, found in enumerate(stages):
        case.close(f"out/{variant}.stage{number}", found)
    case.close(f"out/{variant}.img_batch1", G(case[f"in/{variant}.z"][:1], None if c is None else c[:1]))
    own = parameters(G)
    names = case.config["grad_names"][variant]
    for name, gradient in zip(names, torch.autograd.grad(scalar(image), [own[n] for n in names]), strict=True):
        case.close(f"grad/{variant}.{name}", gradient)


@pytest.mark.parametrize("variant", VARIANTS)
def test_discriminator(parity: Path, variant: str) -> None:
    case = Case(parity, "discriminator")
    game: Any = pretrained.load("r3gan", case.part(f"weights/{variant}/"), **case.config["variants"][variant])
    D, c = game.discriminator, case.tensors.get(f"in/{variant}.c")
    stages: list[Tensor] = []
    for layer in [*D.downs, D.output]:
        layer.register_forward_hook(lambda m, i, o: stages.append(o))
    x = case[f"in/{variant}.img"].clone().requires_grad_()
    logits = D(x, c)
    case.close(f"out/{variant}.logits", logits)
    for number, found in enumerate(stages):
        case.close(f"out/{variant}.stage{number}", found)
    case.close(f"out/{variant}.logits_batch1", D(x[:1], None if c is None else c[:1]))
    own = parameters(D)
    names = case.config["grad_names"][variant]
    found_ = torch.autograd.grad(scalar(logits), [x, *(own[n] for n in names)])
    for name, gradient in zip(["img", *names], found_, strict=True):
        case.close(f"grad/{variant}.{name}", gradient)


# ---- operations
def resampled(kind: str, x: Tensor, f: Tensor) -> Tensor:
    """The official resamplers by their names; the in-place ones trade channels for pixels and filter there."""
    if kind == "InterpolativeUpsampler":
        return upsample2d(x, f)
    if kind == "InterpolativeDownsampler":
        return downsample2d(x, f)
    pad = (f.shape[0] - 1) // 2
    around = F.pad(x, (pad,) * 4) if kind == "InplaceDownsampler" else F.pad(F.pixel_shuffle(x, 2), (pad,) * 4)
    channels = around.shape[1]
    y = F.conv2d(around, f.flip((0, 1)).expand(channels, 1, *f.shape), groups=channels)
    return F.pixel_unshuffle(y, 2) if kind == "InplaceDownsampler" else y


class TestOperations:
    @pytest.mark.parametrize("index", range(4))
    @pytest.mark.parametrize("kind", ["Upsampler", "Downsampler"])
    def test_interpolating_resamplers(self, parity: Path, kind: str, index: int) -> None:
        case, name = Case(parity, "ops"), f"Interpolative{kind}"
        option = case.config["resamplers"][index]
        kernel = kernel_of(option["Filter"])
        case.close(f"out/{name}.{index}.Kernel", kernel)
        x = case[f"in/x{option['x']}"].clone().requires_grad_()
        y = resampled(name, x, kernel)
        case.close(f"out/{name}.{index}.y", y)
        case.close(f"grad/{name}.{index}.x", torch.autograd.grad(scalar(y), x)[0])

    @pytest.mark.parametrize("index", [0, 2, 3])
    @pytest.mark.parametrize("kind", ["Upsampler", "Downsampler"])
    def test_in_place_resamplers_are_pixel_shuffles_and_a_filter(self, parity: Path, kind: str, index: int) -> None:
        """Not used by any released network; built here from the same filter and torch's shuffles."""
        case, name = Case(parity, "ops"), f"Inplace{kind}"
        option = case.config["resamplers"][index]
        kernel = setup_filter(option["Filter"], separable=False)
        case.close(f"out/{name}.{index}.Kernel", kernel)
        x = case[f"in/x{option['x']}"]
        if kind == "Upsampler":
            x = torch.cat([x] * (4 // min(4, x.shape[1])), 1)[:, :4]
        x = x.clone().requires_grad_()
        y = resampled(name, x, kernel)
        case.close(f"out/{name}.{index}.y", y)
        case.close(f"grad/{name}.{index}.x", torch.autograd.grad(scalar(y), x)[0])

    def test_biased_activation(self, parity: Path) -> None:
        case = Case(parity, "ops")
        bias = case["in/bias"]
        case.close("out/biased_activation.2d", F.leaky_relu(case["in/a2"] + bias, 0.2))
        case.close("out/biased_activation.4d", F.leaky_relu(case["in/a4"] + bias.view(1, -1, 1, 1), 0.2))

    def test_block(self, parity: Path) -> None:
        case = Case(parity, "ops")
        options = case.config["ResidualBlock"]
        block = Block(options["InputChannels"], options["Cardinality"], 5, options["ExpansionFactor"])
        block.load_state_dict({ours: case[f"weights/block/{official}"] for ours, official in PARTS.items()})
        x = case["in/xb"].clone().requires_grad_()
        y = block(x)
        case.close("out/block.y", y)
        gradients = torch.autograd.grad(scalar(y), [x, block.conv2.weight])
        case.close("grad/block.x", gradients[0])
        case.close("grad/block.w2", gradients[1])


# ---- losses
def test_losses(parity: Path) -> None:
    case = Case(parity, "losses")
    config = {k: case.config[k] for k in ("G_kwargs", "D_kwargs", "gamma")}
    game: Any = pretrained.load("r3gan", case.part("weights/"), **config)
    round = game.round({"image": case["in/real"], "label": case["in/c"]})
    round.numbers[0, 0, "normal", "z", (3, 10), torch.float32] = case["in/z"]
    for player, letter in (("discriminator", "D"), ("generator", "G")):
        terms = game.loss(player, round)
        assert float(terms["gan"]) == pytest.approx(float(case[f"out/{letter}.adversarial"].mean()), rel=1e-5)
        for name in ("R1", "R2") if letter == "D" else ():
            expected = 0.5 * case.config["gamma"] * float(case[f"out/D.{name}"].mean())
            assert float(terms[name.lower()]) == pytest.approx(expected, rel=case.tolerance)
        own = parameters(game.get_submodule(player))
        names = [n for n in case.config["grad_names"] if f"grad/{letter}.{n}" in case.tensors]
        total = case.config["scale"] * sum(terms.values())
        found = torch.autograd.grad(total, [own[n] for n in names])
        for name, gradient in zip(names, found, strict=True):
            case.close(f"grad/{letter}.{name}", gradient)


# ---- training
def test_two_iterations_in_the_official_order(parity: Path) -> None:
    case = Case(parity, "train_step")
    game: Any = pretrained.load("r3gan", case.part("weights/"), **case.config)
    recipe = dataclasses.replace(game.recipe, accumulate=2, late=dataclasses.replace(game.recipe.late, kimg=0.004))
    game.recipe = recipe
    training = Training(game, recipe)
    for iteration in range(2):
        training.table.begin()
        assert training.optimizers["generator"].param_groups[0]["betas"] == (0.0, case.config["beta2"][iteration])
        for player, letter in (("discriminator", "D"), ("generator", "G")):
            label = f"{letter}{iteration}"
            batch = {"image": case[f"in/real_img.{label}"], "label": case[f"in/real_c.{label}"]}
            round = game.round(batch, clock=training.counters.clock)
            round.numbers[0, 0, "normal", "z", (4, 6), torch.float32] = case[f"in/z.{label}"]
            gradients, terms = training.table.measure(player, round)
            reported = {"gan": (f"{letter}/loss", 1.0)}
            if letter == "D":
                gain = 0.5 * case.config["gamma"]
                reported |= {"r1": ("r1_penalty", gain), "r2": ("r2_penalty", gain)}
            assert terms.keys() == reported.keys()
            for term, (name, gain) in reported.items():
                micro = [case[f"out/it{iteration}.{letter}.micro{m}.Loss/{name}"].mean() for m in range(2)]
                assert float(terms[term]) == pytest.approx(gain * float(sum(micro)) / 2, rel=case.tolerance)
            own = parameters(game.get_submodule(player))
            for name, gradient in zip(own, gradients, strict=True):
                case.close(f"grad/it{iteration}.{letter}.{name}", gradient)
            training.table.write(player, gradients)
            for key in case.part(f"out/after_it{iteration}/{letter}/"):
                # Adam's first steps make a full one of a gradient that is a rounding error.
                case.close(f"out/after_it{iteration}/{letter}/{key}", own[key], absolute=1e-6)
        training.counters.clock += 4
        training.average.update(4, training.counters.clock, case.config["ema_nimg"] / 1000)
    averaged = parameters(training.average.game().get_submodule("generator"))
    for key in case.part("out/G_ema/"):
        case.close(f"out/G_ema/{key}", averaged[key])
    assert float(case["out/ema_beta"]) == pytest.approx(0.5 ** (4 / 20))


# ---- published networks
def test_published_networks(parity: Path) -> None:
    published = json.loads((parity / "r3gan" / "published.json").read_text())["configurations"]
    for options in published.values():
        config = {k: options[k] for k in ("G_kwargs", "D_kwargs")}
        with torch.device("meta"):
            game = R3GAN(recipe_of(config, {"generator": {}, "discriminator": {}}))
        for letter, module in (("G", game.generator), ("D", game.discriminator)):
            assert count(module) == options[f"{letter}_parameters"]
            shapes = {name: list(p.shape) for name, p in parameters(module).items()}
            if tensors := options.get(f"{letter}_tensors"):
                assert shapes == {k: v for k, v in tensors.items() if not k.endswith("Resampler.Kernel")}
