"""GANs with R1 against tensors of the official code (LMescheder/GAN_stability)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from saddlepoint import pretrained
from saddlepoint.engine import Training
from saddlepoint.objectives import objective
from saddlepoint.penalties import between, slope, two_sided
from saddlepoint.pretrained.gan_r1 import FIRST, LAST, official_name
from saddlepoint.systems.gan_r1 import sphere
from tests.parity.official import Official

PLAIN = ("z_dim", "nlabels", "size", "embed_size", "nfilter", "nfilter_max")
STEPS = ["train_step_standard_real_rmsprop", "train_step_standard_real_fake_adam", "train_step_wgan_wgangp_adam"]


class Case(Official):
    set = "gan_stability"

    def network(self) -> dict[str, Any]:
        return {k: v for k, v in self.config.items() if k in PLAIN}


def parameters(module: torch.nn.Module, network: str = "resnet") -> dict[str, torch.nn.Parameter]:
    """Parameters by their official names."""
    layers = FIRST if hasattr(module, "embed") else LAST
    return {official_name(name, network, layers): p for name, p in module.named_parameters()}


@pytest.mark.parametrize("network", ["resnet", "resnet2"])
class TestNetworks:
    def test_generator(self, parity: Path, network: str) -> None:
        case = Case(parity, f"{network}_generator")
        game: Any = pretrained.load("gan-r1", case.part("weights/"), **case.network())
        G = game.generator
        z = case["in/z"].clone().requires_grad_()
        image = G(z, case["in/y"])
        case.close("out/image", image)
        names = [k for k in case.part("grad/") if k != "z"]
        own = parameters(G, network)
        found = torch.autograd.grad((image * case["in/c"]).sum(), [z, *(own[n] for n in names)])
        for name, gradient in zip(["z", *names], found, strict=True):
            case.close(f"grad/{name}", gradient)
        case.close("out/image_from_vectors", G(case["in/z"], case["in/y_embed"]))
        assert torch.allclose(game.sample(3, z=case["in/z"], label=case["in/y"]), image, atol=1e-6)

    def test_discriminator(self, parity: Path, network: str) -> None:
        case = Case(parity, f"{network}_discriminator")
        D = pretrained.load("gan-r1", case.part("weights/"), **case.network()).get_submodule("discriminator")
        x = case["in/x"].clone().requires_grad_()
        logit = D(x, case["in/y"])
        case.close("out/logit", logit)
        names = [k for k in case.part("grad/") if k != "x"]
        own = parameters(D, network)
        found = torch.autograd.grad((logit * case["in/c"]).sum(), [x, *(own[n] for n in names)])
        for name, gradient in zip(["x", *names], found, strict=True):
            case.close(f"grad/{name}", gradient)


class TestPenaltiesAndLosses:
    def test_penalties(self, parity: Path) -> None:
        case = Case(parity, "penalties_and_losses")
        D = pretrained.load("gan-r1", case.part("weights/"), **case.network()).get_submodule("discriminator")
        weight, own = case.config["reg_param"], parameters(D)
        mixed = between(case["in/x_real"], case["in/x_fake"], case["in/eps"])
        for kind, x in (
            ("real", case["in/x_real"]),
            ("fake", case["in/x_fake"]),
            ("wgangp", mixed),
            ("wgangp0", mixed),
        ):
            _, squared = slope(lambda x: D(x, case["in/y"]), x)
            if f"out/grad2_{kind}" in case.tensors:
                case.close(f"out/grad2_{kind}", squared)
            penalty = weight * (two_sided(squared) if kind == "wgangp" else squared).mean()
            case.close(f"out/reg_{kind}", penalty)
            names = list(case.part(f"grad/reg_{kind}/"))
            for name, gradient in zip(names, torch.autograd.grad(penalty, [own[n] for n in names]), strict=True):
                case.close(f"grad/reg_{kind}/{name}", gradient)

    def test_losses_and_signs(self, parity: Path) -> None:
        case = Case(parity, "penalties_and_losses")
        logits = case["in/d_out"]
        # One side of the discriminator's loss at a time: the other side is where it vanishes.
        ours = objective("nonsaturating")
        case.close("out/loss_standard_target1", ours.discriminator(logits, torch.full_like(logits, -1e9)).mean())
        case.close("out/loss_standard_target0", ours.discriminator(torch.full_like(logits, 1e9), logits).mean())
        case.close("out/loss_standard_target1", ours.generator(logits, None).mean())
        mirrored, zero = objective("wasserstein"), torch.zeros_like(logits)
        case.close("out/loss_wgan_target1", mirrored.discriminator(-logits, zero).mean())
        case.close("out/loss_wgan_target0", mirrored.discriminator(zero, -logits).mean())

    def test_spherical_interpolation(self, parity: Path) -> None:
        case = Case(parity, "penalties_and_losses")
        case.close("out/sphere_0.3", sphere(case["in/z1"], case["in/z2"], 0.3))


@pytest.mark.parametrize("name", STEPS)
def test_training_step(parity: Path, name: str) -> None:
    case = Case(parity, name)
    weights = case.part("weights/")
    game: Any = pretrained.load("gan-r1", weights, **{**case.config, "batch_size": 3})
    training = Training(game, game.recipe)
    mirrored = case.config["gan_type"] == "wgan"  # our critic is the official one with its sign turned
    start = pretrained.load("gan-r1", {k.removeprefix("avg."): v for k, v in weights.items() if k.startswith("avg.")},
                            **{**case.config, "batch_size": 3})  # fmt: skip
    training.average.load({f"generator.{k}": v for k, v in start.get_submodule("generator").state_dict().items()})
    training.table.begin()
    for player, z, y in (("discriminator", "in/z_d", "in/y"), ("generator", "in/z_g", "in/y_g")):
        letter = player[0].upper()
        round = game.round({"image": case["in/x_real"], "label": case[y]})
        round.numbers[0, 0, "normal", "z", (3, 5), torch.float32] = case[z]
        round.numbers[0, 0, "uniform", "mix", (3,), torch.float32] = case["in/eps"]
        gradients, terms = training.table.measure(player, round)
        if player == "generator":
            case.close("out/gloss", terms["gan"])
        else:
            case.close("out/dloss", terms["gan"])
            case.close("out/reg", [*terms.values()][-1])  # with two penalties the official code reports the second
        own = parameters(game.get_submodule(player))
        found = {name: g for name, g in zip(own, gradients, strict=True) if g is not None}
        for key in case.part(f"grad/{letter}."):
            sign = -1 if mirrored and key.startswith("fc.") and letter == "D" else 1
            case.close(f"grad/{letter}.{key}", sign * found[key])
        training.table.write(player, gradients)
        for key in case.part(f"out/after/{letter}."):
            sign = -1 if mirrored and key.startswith("fc.") and letter == "D" else 1
            # RMSProp's and Adam's first steps turn a tiny gradient's rounding into a part of a step of 1e-4.
            case.close(f"out/after/{letter}.{key}", sign * own[key], absolute=3e-7)
    training.average.update(3, 3)
    averaged = parameters(training.average.game().get_submodule("generator"))
    for key in case.part("out/after/avg."):
        case.close(f"out/after/avg.{key}", averaged[key])
