"""Official weights of the 2018 GANs with R1 (LMescheder/GAN_stability) in our game.

A released file is a dictionary with generator, discriminator and generator_test (the average); pass the tensors with
"G." and "D." before their names, or "avg." for the average, which is taken for the generator where there is no "G.".
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from saddlepoint import recipes
from saddlepoint.errors import UserError, unknown
from saddlepoint.pretrained.placing import place
from saddlepoint.recipes.base import Optimizer, Penalty
from saddlepoint.recipes.gan_r1 import half_life_kimg
from saddlepoint.systems.gan_r1 import GANR1

# The official constructors' arguments and training settings, as settings of our recipe.
OFFICIAL = {
    "z_dim": "latent", "nlabels": "classes", "size": "resolution", "embed_size": "embedding", "nfilter": "width",
    "nfilter_max": "width_max", "batch_size": "batch",
}  # fmt: skip
TRAINING = ("gan_type", "reg_type", "reg_param", "optimizer", "lr", "model_average_beta", "d_steps")
REGULARISERS = ("real", "fake", "real_fake", "wgangp", "none")
FIRST = {"embedding": "embed", "fc": "first", "conv_img": "output"}  # the generator's, by their official names
LAST = {"conv_img": "first", "fc": "output"}  # the discriminator's
CONVS = {"conv_0": "conv1", "conv_1": "conv2", "conv_s": "shortcut"}


def load(state: Mapping[str, Tensor], **config: Any) -> GANR1:
    """A gan-r1 with these weights; see `saddlepoint.pretrained.load`.

    config: the constructors' arguments (z_dim, nlabels, size, embed_size, nfilter, nfilter_max), and of the training
    settings gan_type, reg_type, reg_param, optimizer, lr, d_steps, batch_size and model_average_beta. The official
    WGAN drives its critic down on reals; with gan_type="wgan" its last layer changes sign, so that ours goes up.
    """
    parts = split(state)
    network = "resnet2" if any(re.match(r"resnet_\d", n) for part in parts.values() for n in part) else "resnet"
    game = GANR1(recipe_of(config, network))
    if parts["G"]:
        fill(game.generator, parts["G"], FIRST, "the generator of gan-r1")
    if parts["D"]:
        mirror = config.get("gan_type") == "wgan"
        tensors = {n: -t if mirror and n.startswith("fc.") else t for n, t in parts["D"].items()}
        fill(game.discriminator, tensors, LAST, "the discriminator of gan-r1")
    return game


def split(state: Mapping[str, Tensor]) -> dict[str, dict[str, Tensor]]:
    """{"G": ..., "D": ...} of official names without prefixes; without any, embedding.weight tells the generator."""
    parts: dict[str, dict[str, Tensor]] = {"G": {}, "D": {}, "avg": {}, "": {}}
    for name, tensor in state.items():
        match = re.match(r"^(G|D|avg)[./](.*)$", name.removeprefix("weights/"))
        key, rest = (match[1], match[2]) if match else ("", name.removeprefix("weights/"))
        parts[key][rest.removeprefix("module.")] = tensor
    if parts[""]:
        parts["G" if "embedding.weight" in parts[""] else "D"].update(parts[""])
    return {"G": parts["G"] or parts["avg"], "D": parts["D"]}


def official_name(name: str, network: str, layers: Mapping[str, str]) -> str:
    """Our name -> the official one: "levels.1.0.conv1.weight" is "resnet.2.conv_0.weight" or "resnet_1_0.conv_0..."."""
    if match := re.match(r"^levels\.(\d+)\.(\d+)\.(\w+)\.(\w+)$", name):
        level, block, conv, kind = match.groups()
        place_ = f"resnet.{2 * int(level)}" if network == "resnet" else f"resnet_{level}_{block}"
        return f"{place_}.{next(k for k, v in CONVS.items() if v == conv)}.{kind}"
    layer, kind = name.split(".")
    return f"{next(k for k, v in layers.items() if v == layer)}.{kind}"


def fill(module: nn.Module, tensors: Mapping[str, Tensor], layers: Mapping[str, str], where: str) -> None:
    """Put official tensors into a player's module."""
    network = "resnet2" if any(re.match(r"resnet_\d", name) for name in tensors) else "resnet"
    theirs = {name: official_name(name, network, layers) for name, _ in module.named_parameters()}
    named = {ours: tensors[official] for ours, official in theirs.items() if official in tensors}
    known = set(theirs.values())
    rest = {name: tensor for name, tensor in tensors.items() if name not in known}
    place(module, {**named, **rest}, where=where, theirs=theirs)


def recipe_of(config: Mapping[str, Any], network: str) -> Any:
    """The recipe that says the same as official settings."""
    for name in config:
        if name not in (*OFFICIAL, *TRAINING):
            raise unknown("option of gan-r1's official code", name, [*OFFICIAL, *TRAINING])
    if "size" not in config:
        raise UserError("size is needed to build gan-r1: the resolution that the official networks were made for.")
    values: dict[str, Any] = {"nlabels": 1, "embed_size": 256, "z_dim": 256, "nfilter": 64}
    values["nfilter_max"] = 512 if network == "resnet" else 16 * int(config.get("nfilter", 64))
    values = {OFFICIAL[k]: int(v) for k, v in {**values, **config}.items() if k in OFFICIAL}
    recipe = recipes.recipe("gan-r1", "lsun-256", **values, network=network, conditional=values["classes"] > 1)
    move = optimizer(str(config.get("optimizer", "rmsprop")), float(config.get("lr", 1e-4)))
    batch = values.get("batch", 64)
    return recipes.with_overrides(
        recipe,
        {
            "objective": objective(str(config.get("gan_type", "standard"))),
            "penalty": penalty(str(config.get("reg_type", "real")), float(config.get("reg_param", 10.0))),
            "g": move,
            "d": move,
            "d.steps": int(config.get("d_steps", 1)),
            "ema_half_life_kimg": half_life_kimg(float(config.get("model_average_beta", 0.999)), batch),
        },
    )


def objective(kind: str) -> str:
    """gan_type as the name of our objective."""
    names = {"standard": "nonsaturating", "wgan": "wasserstein"}
    if kind not in names:
        raise unknown("gan_type", kind, names)
    return names[kind]


def penalty(kind: str, weight: float) -> Penalty:
    """reg_type and reg_param: zero-centred penalties have no factor 1/2 there."""
    if kind not in REGULARISERS:
        raise unknown("reg_type", kind, REGULARISERS)
    if kind == "wgangp":
        return Penalty(gradient_penalty=weight)
    return Penalty(
        r1=2 * weight if kind in ("real", "real_fake") else 0.0,
        r2=2 * weight if kind in ("fake", "real_fake") else 0.0,
    )


def optimizer(kind: str, lr: float) -> Optimizer:
    """The official optimizers: rmsprop, adam and sgd."""
    if kind not in ("rmsprop", "adam", "sgd"):
        raise unknown("optimizer", kind, ("rmsprop", "adam", "sgd"))
    return Optimizer(kind, lr=lr, betas=(0.0, 0.99), alpha=0.99, eps=1e-8)  # type: ignore[arg-type]
