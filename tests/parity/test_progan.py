"""ProGAN against the official networks and losses, and against the GAN zoo's, which are another implementation."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from saddlepoint import pretrained
from saddlepoint.game import Round, Stage
from saddlepoint.layers.equalised import pixel_norm
from saddlepoint.pretrained.progan import _official_name, _zoo_name
from saddlepoint.recipes.growing import Level
from saddlepoint.systems.progan import ConsecutiveStd, ProGAN


class Case:
    """One file of official tensors; `close` compares with one of them within three times the stated tolerance."""

    def __init__(self, folder: Path, name: str) -> None:
        self.tensors = load_file(folder / "progan" / f"{name}.safetensors")
        self.config = json.loads((folder / "progan" / f"{name}.json").read_text())
        tolerance = self.config["tolerance"]["float32_vs_float64_max_rel"]
        self.tolerance = max(3 * tolerance, 1e-5)
        self.config = self.config["config"]

    def __getitem__(self, name: str) -> Tensor:
        return self.tensors[name]

    def weights(self, prefix: str = "") -> dict[str, Tensor]:
        start = f"weights/{prefix}"
        return {k.removeprefix(start): v for k, v in self.tensors.items() if k.startswith(start)}

    def close(self, name: str, ours: Tensor) -> None:
        theirs = self.tensors[name]
        assert ours.shape == theirs.shape, name
        error = (ours.detach() - theirs).abs().max() / max(float(theirs.abs().max()), 1e-3)
        assert float(error) <= self.tolerance, f"{name}: {float(error):.2e}"


def waves(x: Tensor) -> Tensor:
    """The scalar whose gradients the cases hold: sum of x cos(0.7 i)."""
    return (x.flatten() * torch.cos(0.7 * torch.arange(x.numel(), dtype=torch.float64)).to(x.dtype)).sum()


def official(network: nn.Module, levels: int, name: str) -> tuple[nn.Parameter, Any]:
    """The parameter of this official name, and how a gradient of ours turns into theirs."""
    ours, turn = _official_name(name, levels)
    parameter = network.get_parameter(ours)

    def back(gradient: Tensor) -> Tensor:
        if gradient.ndim == 2:
            return gradient.t()
        if gradient.ndim != 4:
            return gradient
        return (
            gradient.flip(2, 3).permute(2, 3, 0, 1)
            if name.endswith("Conv0_up/weight")
            else gradient.permute(2, 3, 1, 0)
        )

    assert turn(torch.zeros(back(parameter).shape)).shape == parameter.shape
    return parameter, back


@pytest.mark.parametrize("variant", ["fused", "plain"])
def test_official_generator(parity: Path, variant: str) -> None:
    case = Case(parity, "official_generator")
    game = pretrained.load("progan", case.weights(f"{variant}/"), **case.config["variants"][variant])
    assert isinstance(game, ProGAN)
    z, label = case["in/z"].requires_grad_(), case["in/labels"]
    for lod in case.config["lods"]:
        case.close(f"out/{variant}.lod{lod}.img", game.generator(z, label, lod=lod))
    total = waves(game.generator(z, label, lod=0.3))
    case.close(f"grad/{variant}.z", torch.autograd.grad(total, z, retain_graph=True)[0])
    for name in case.config["grad_names"][variant]:
        parameter, back = official(game.generator, 3, name)
        case.close(f"grad/{variant}.{name}", back(torch.autograd.grad(total, parameter, retain_graph=True)[0]))


@pytest.mark.parametrize("variant", ["fused", "plain"])
def test_official_discriminator(parity: Path, variant: str) -> None:
    case = Case(parity, "official_discriminator")
    game = pretrained.load("progan", case.weights(f"{variant}/"), **case.config["variants"][variant])
    assert isinstance(game, ProGAN)
    image = case["in/img"].requires_grad_()
    checked = 0
    for name in [n for n in case.tensors if n.startswith(f"out/{variant}.") and n.endswith("scores")]:
        start = name.removesuffix(".scores")
        lod, batch = start.split("lod")[1].split(".batch")
        score, logits = game.discriminator.both(image[: int(batch)], lod=float(lod))
        case.close(f"{start}.scores", score.unsqueeze(1))
        case.close(f"{start}.labels", logits)
        checked += 1
    assert checked == 7
    score, logits = game.discriminator.both(image, lod=0.3)
    total = waves(torch.cat([score.unsqueeze(1), logits], 1))
    case.close(f"grad/{variant}.img", torch.autograd.grad(total, image, retain_graph=True)[0])
    for name in case.config["grad_names"][variant]:
        parameter, back = official(game.discriminator, 3, name)
        case.close(f"grad/{variant}.{name}", back(torch.autograd.grad(total, parameter, retain_graph=True)[0]))


def a_round(game: ProGAN, batch: dict[str, Tensor], level: Level, numbers: dict[str, Tensor]) -> Round:
    """A round at this level whose random numbers are given; its images count as faded already."""
    game.reals = lambda round: round["image"]  # type: ignore[method-assign]
    made = dataclasses.replace(game.round(batch), stage=Stage(resolution=level.resolution, fade=level.fade))
    for name, values in numbers.items():
        kind = "uniform" if name == "mix" else "normal"
        made.numbers[(0, 0, kind, name, tuple(values.shape), values.dtype)] = values
    return made


def test_official_losses(parity: Path) -> None:
    case = Case(parity, "official_losses")
    game = pretrained.load("progan", case.weights(), **case.config)
    assert isinstance(game, ProGAN)
    assert game.recipe.conditional and float(game.generator.lod) == pytest.approx(0.3)
    level = game.generator.level(case.config["lod"])
    batch = {"image": case["in/reals"], "label": case["in/labels"]}
    numbers = {"z": case["in/draw.D.00.randn"], "mix": case["in/draw.D.01.rand"].flatten()}
    round = a_round(game, batch, level, numbers)
    terms = game.loss("discriminator", round)
    expected = {
        "wasserstein": (case["out/D.Loss/fake_scores"] - case["out/D.Loss/real_scores"]).mean(),
        "gradient_penalty": 10 * (case["out/D.Loss/mixed_norms"] - 1).square().mean(),
        "drift": 0.001 * case["out/D.Loss/epsilon_penalty"].mean(),
        "class": (case["out/D.Loss/label_penalty_reals"] + case["out/D.Loss/label_penalty_fakes"]).mean(),
    }
    assert terms.keys() == expected.keys()
    for name, value in expected.items():
        assert float(terms[name].detach()) == pytest.approx(float(value), rel=1e-5, abs=1e-6), name
    total = torch.stack(list(terms.values())).sum()
    assert float(total.detach()) == pytest.approx(float(case["out/D.loss_per_sample"].mean()), rel=1e-5)
    compare_gradients(case, "D", game.discriminator, total)

    draws = {"z": case["in/draw.G.00.randn"]}
    round = a_round(game, {"image": case["in/reals"], "label": case["in/gen_labels"]}, level, draws)
    total = torch.stack(list(game.loss("generator", round).values())).sum()
    assert float(total.detach()) == pytest.approx(float(case["out/G.loss_per_sample"].mean()), rel=1e-5)
    compare_gradients(case, "G", game.generator, total)


def compare_gradients(case: Case, player: str, network: nn.Module, total: Tensor) -> None:
    names = [n.removeprefix(f"grad/{player}.") for n in case.tensors if n.startswith(f"grad/{player}.")]
    assert len(names) > 10
    for name in names:
        parameter, back = official(network, 3, name)
        gradient = torch.autograd.grad(total, parameter, retain_graph=True, allow_unused=True)[0]
        gradient = torch.zeros_like(parameter) if gradient is None else gradient  # layers that are not reached
        case.close(f"grad/{player}.{name}", back(gradient))


# ---- the GAN zoo
@pytest.mark.parametrize("variant", ["one_scale", "two_scales"])
def test_zoo_generator(parity: Path, variant: str) -> None:
    case = Case(parity, "zoo_generator")
    config = case.config["variants"][variant]
    game = pretrained.load("progan", case.weights(f"{variant}/"), **config["kwargs"], scales=config["scales"])
    assert isinstance(game, ProGAN)
    z = case["in/z"].requires_grad_()
    for alpha in case.config["alphas"]:
        level = Level(game.recipe.resolution, 1 - alpha)
        case.close(f"out/{variant}.alpha{alpha}.img", game.generator.at(level, z))
    total = waves(game.generator(z, lod=0.3))
    case.close(f"grad/{variant}.z", torch.autograd.grad(total, z, retain_graph=True)[0])
    for name in case.config["grad_names"][variant]:
        parameter = game.generator.get_parameter(_zoo_name(name, 0)[0])
        case.close(f"grad/{variant}.{name}", torch.autograd.grad(total, parameter, retain_graph=True)[0])


@pytest.mark.parametrize("variant", ["one_scale", "two_scales"])
def test_zoo_discriminator(parity: Path, variant: str) -> None:
    case = Case(parity, "zoo_discriminator")
    config = case.config["variants"][variant]
    game = pretrained.load("progan", case.weights(f"{variant}/"), **config["kwargs"], scales=config["scales"])
    assert isinstance(game, ProGAN)
    image, checked = case[f"in/{variant}.img"].requires_grad_(), 0
    for name in [n for n in case.tensors if n.startswith(f"out/{variant}.") and n.endswith("scores")]:
        alpha, _, batch = name.removesuffix(".scores").split("alpha")[1].partition(".batch")
        level, x = Level(game.recipe.resolution, 1 - float(alpha)), image[: int(batch or 8)]
        case.close(name, game.discriminator.at(level, x))
        if not batch:
            case.close(name.replace("scores", "features"), game.discriminator.features_at(level, x))
        checked += 1
    assert checked == 6
    total = waves(game.discriminator.at(Level(game.recipe.resolution, 0.7), image))
    case.close(f"grad/{variant}.img", torch.autograd.grad(total, image, retain_graph=True)[0])
    for name in case.config["grad_names"][variant]:
        parameter = game.discriminator.get_parameter(_zoo_name(name, 0)[0])
        case.close(f"grad/{variant}.{name}", torch.autograd.grad(total, parameter, retain_graph=True)[0])


def test_zoo_pieces(parity: Path) -> None:
    case = Case(parity, "zoo_discriminator")
    maps = case["in/mb"]
    for n in (1, 2, 3, 5, 8):
        case.close(f"out/minibatch_stddev.batch{n}", ConsecutiveStd()(maps[:n])[:, -1:])
    case.close("out/pixel_norm", pixel_norm(maps))


def test_zoo_training_step(parity: Path) -> None:
    """One step of either player. The zoo sums over the batch where we average, so its gradients are 4 of ours."""
    case = Case(parity, "zoo_train_step")
    config = case.config
    game = pretrained.load("progan", case.weights(), **config["model"], scales=config["scales"], alpha=config["alpha"])
    assert isinstance(game, ProGAN)
    level, n = game.generator.level(), len(case["in/reals"])
    # The zoo mixes t real + (1 - t) fake, we real + t (fake - real).
    mix = 1 - case["in/draw.step.01.rand"].flatten()
    given = a_round(game, {"image": case["in/reals"]}, level, {"z": case["in/draw.step.00.randn"], "mix": mix})
    terms = game.loss("discriminator", given)
    case.close("out/lossD_Grad", n * terms["gradient_penalty"])
    case.close("out/lossD_Epsilon", n * terms["drift"])
    case.close("out/lossD", n * torch.stack(list(terms.values())).sum())
    step(case, "D", game.discriminator, n * torch.stack(list(terms.values())).sum())
    given = a_round(game, {"image": case["in/reals"]}, level, {"z": case["in/draw.step.02.randn"]})
    total = n * game.loss("generator", given)["wasserstein"]
    case.close("out/lossG_fake", total)
    before = {k: v.detach().clone() for k, v in game.generator.named_parameters()}
    step(case, "G", game.generator, total)
    for name in ("formatLayer.module.weight", "toRGBLayers.1.module.bias"):
        ours = _zoo_name(name, 0)[0]
        case.close(f"out/avgG/{name}", torch.lerp(before[ours], game.generator.get_parameter(ours).detach(), 0.001))


def step(case: Case, player: str, network: nn.Module, total: Tensor) -> None:
    """Compare gradients, take a step of Adam as the zoo does, compare the weights after it."""
    adam = torch.optim.Adam(network.parameters(), lr=0.001, betas=(0.0, 0.99), eps=1e-8)
    parameters = list(network.parameters())
    for parameter, gradient in zip(parameters, torch.autograd.grad(total, parameters, allow_unused=True), strict=True):
        parameter.grad = gradient
    reached = 0
    for name in case.weights(f"{player}/"):
        gradient = network.get_parameter(_zoo_name(name, 0)[0]).grad
        if gradient is not None:
            case.close(f"grad/{player}.{name}", gradient)
            reached += 1
    assert reached == sum(k.startswith(f"grad/{player}.") for k in case.tensors)
    adam.step()
    for name in case.weights(f"{player}/"):
        case.close(f"out/after/{player}/{name}", network.get_parameter(_zoo_name(name, 0)[0]).detach())
