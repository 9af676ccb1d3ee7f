"""Official networks of pix2pix and CycleGAN (junyanz/pytorch-CycleGAN-and-pix2pix): names, options, and what a file
tells of both.

A released file is a bare state dict of one network. Pass several with "G." and "D." (pix2pix) or "G_A.", "G_B.", "D_A."
and "D_B." before their names; a file alone, without prefix, is recognised. Options that are not given are read off the
tensors where they show there, else they are the official defaults.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from torch import Tensor

from saddlepoint import recipes
from saddlepoint.errors import unknown
from saddlepoint.pretrained.placing import place
from saddlepoint.recipes.translation import TranslationRecipe
from saddlepoint.systems.translation import Translator

# Official options -> settings of ours that take the value as it is.
PLAIN = {
    "input_nc": "input_channels", "output_nc": "channels", "ngf": "width", "ndf": "d_width", "norm": "norm",
    "gan_mode": "gan_mode", "init_type": "init", "init_gain": "init_gain", "load_size": "load_size",
    "crop_size": "resolution", "batch_size": "batch", "use_dropout": "dropout", "n_blocks": "blocks",
    "num_downs": "downs", "padding_type": "padding", "lr_policy": "lr_policy",
}  # fmt: skip
CYCLEGAN = {"lambda_A": "lambda_a", "lambda_B": "lambda_b", "lambda_identity": "identity", "pool_size": "pool"}
PIX2PIX = {"lambda_L1": "l1"}
WORDED = (
    "netG", "netD", "n_layers_D", "no_dropout", "no_flip", "direction", "lr", "beta1", "eval", "n_epochs",
    "n_epochs_decay", "epoch_count", "lr_decay_iters",
)  # fmt: skip
IGNORED = ("isTrain", "model", "name", "preprocess", "dataset_mode", "lambda_gp", "constant", *CYCLEGAN, *PIX2PIX)
LARGEST = 512  # blocks and halvings that a file may claim


def load(system: str, parts: Mapping[str, str], state: Mapping[str, Tensor], config: Mapping[str, Any]) -> Translator:
    """The game of `system` with these weights; parts: its networks (official name -> ours), the generator first."""
    from saddlepoint.systems import build

    found = split(system, parts, state)
    recipe = recipe_of(system, found, config)
    game = build(recipe)
    assert isinstance(game, Translator)
    for part, tensors in found.items():
        if tensors:
            fill(game, parts[part], tensors, f"{part} of {system}")
    return game


def split(system: str, parts: Iterable[str], state: Mapping[str, Tensor]) -> dict[str, dict[str, Tensor]]:
    """{network: official names -> tensors}; a bare file is a generator or a discriminator by its names."""
    found: dict[str, dict[str, Tensor]] = {part: {} for part in parts}
    generator, discriminator = (next(part for part in found if part.startswith(kind)) for kind in "GD")
    bare: dict[str, Tensor] = {}
    for name, tensor in state.items():
        match = re.match(r"^(?:net)?([GD](?:_[A-Za-z]+)?)[./](.*)$", name.removeprefix("weights/"))
        if match is None:
            bare[name.removeprefix("weights/").removeprefix("module.")] = tensor
            continue
        part = {"G": generator, "D": discriminator}.get(match[1], match[1])
        if part not in found:
            raise unknown(f"network of {system}", match[1], found)
        found[part][match[2].removeprefix("module.")] = tensor
    if bare:
        judges = any(n.startswith("net.") or (n == "model.0.weight" and bare[n].ndim == 4) for n in bare)
        found[discriminator if judges else generator].update(bare)
    return found


def fill(game: Translator, part: str, tensors: Mapping[str, Tensor], where: str) -> None:
    """Put the tensors of one network into place. Statistics that old instance norms kept are left."""
    module = game.get_submodule(part)
    own = {name for name, _ in [*module.named_parameters(), *module.named_buffers()]}
    stale = ("running_mean", "running_var", "num_batches_tracked")
    place(module, {n: t for n, t in tensors.items() if n in own or n.split(".")[-1] not in stale}, where=where)


# ---- options
def recipe_of(system: str, found: Mapping[str, Mapping[str, Tensor]], config: Mapping[str, Any]) -> TranslationRecipe:
    """The recipe that says the same as official options and these tensors."""
    table = {**PLAIN, **(CYCLEGAN if system == "cyclegan" else PIX2PIX)}
    for name in config:
        if name not in (*table, *WORDED, *IGNORED):
            raise unknown(f"option of {system}'s official code", name, [*table, *WORDED])
    values: dict[str, Any] = {"channels": 3, "input_channels": 3, "resolution": 256, "load_size": 286}
    values |= {"network": "resnet", "blocks": 9} if system == "cyclegan" else {"network": "unet", "downs": 8}
    values |= seen_in(system, found)
    values |= worded(config)
    values |= {table[name]: value for name, value in config.items() if name in table}
    settings = {
        "lr": float(config.get("lr", 2e-4)), "betas": (float(config.get("beta1", 0.5)), 0.999), "kind": "adam",
    }  # fmt: skip
    made = recipes.recipe(system, "paper", **{**values, "g": settings, "d": settings})
    assert isinstance(made, TranslationRecipe)
    return made


def worded(config: Mapping[str, Any]) -> dict[str, Any]:
    """Settings from the official options that are not settings of ours word for word."""
    values: dict[str, Any] = {}
    if "netG" in config:
        values |= generator_called(str(config["netG"]))
    if "netD" in config:
        kinds = {"basic": ("patch", 3), "n_layers": ("patch", int(config.get("n_layers_D", 3))), "pixel": ("pixel", 3)}
        if config["netD"] not in kinds:
            raise unknown("netD", str(config["netD"]), kinds)
        values["d_network"], values["n_layers"] = kinds[config["netD"]]
    elif "n_layers_D" in config:
        values["n_layers"] = int(config["n_layers_D"])
    if "no_dropout" in config:
        values["dropout"] = not config["no_dropout"]
    if "no_flip" in config:
        values["mirror"] = not config["no_flip"]
    if "direction" in config:
        ways = {"AtoB": "a-to-b", "BtoA": "b-to-a"}
        if config["direction"] not in ways:
            raise unknown("direction", str(config["direction"]), ways)
        values["direction"] = ways[config["direction"]]
    if config.get("eval"):
        values |= {"test_norm": "running", "dropout": False}
    return values


def generator_called(name: str) -> dict[str, Any]:
    """resnet_9blocks, resnet_6blocks, unet_256, unet_128, or another number."""
    if match := re.match(r"^resnet_(\d{1,3})blocks\b", name):
        return {"network": "resnet", "blocks": int(match[1])}
    if (match := re.match(r"^unet_(\d{1,4})\b", name)) and (side := int(match[1])).bit_count() == 1:
        return {"network": "unet", "downs": side.bit_length() - 1}
    raise unknown("netG", name, ["resnet_9blocks", "resnet_6blocks", "unet_256", "unet_128"])


def seen_in(system: str, found: Mapping[str, Mapping[str, Tensor]]) -> dict[str, Any]:
    """What the tensors say of the networks they belong to."""
    values: dict[str, Any] = {}
    for part, tensors in found.items():
        if not tensors:
            continue
        if part.startswith("G"):
            seen = of_generator(tensors)
            if part == "G_B" and "input_channels" in seen:
                seen["input_channels"], seen["channels"] = seen["channels"], seen["input_channels"]
            values = {**seen, **values}
        else:
            values = {**of_discriminator(tensors), **values}
    return values


def norm_of(tensors: Mapping[str, Tensor], first_bias: str, plain: str) -> str:
    """The norm of a network: batch norm has weights of one axis, otherwise the biases tell instance norm."""
    if any(t.ndim == 1 and n.endswith(".weight") for n, t in tensors.items()):
        return "batch"
    return "instance" if first_bias in tensors else plain


def of_generator(tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    """Architecture and widths of a generator."""
    wide = {n: t for n, t in tensors.items() if t.ndim == 4}
    if "model.model.0.weight" in wide and "model.model.3.weight" in wide:
        first, last = wide["model.model.0.weight"], wide["model.model.3.weight"]
        downs = max(n.split(".").count("model") for n in wide) - 1
        norm = norm_of(tensors, "model.model.0.bias", "none")
        values = {"network": "unet", "downs": min(downs, LARGEST), "norm": norm}
        return {**values, "width": len(first), "input_channels": first.shape[1], "channels": last.shape[1]}
    if "model.1.weight" not in wide:
        return {}
    first = wide["model.1.weight"]
    numbers = {int(match[1]) for n in wide if (match := re.match(r"^model\.(\d{1,6})\.conv_block\.", n))}
    heads = [int(match[1]) for n in wide if (match := re.match(r"^model\.(\d{1,6})\.weight$", n))]
    values = {"network": "resnet", "blocks": min(len(numbers), LARGEST), "width": len(first)}
    values |= {"norm": norm_of(tensors, "model.1.bias", "none")}
    values |= {"input_channels": first.shape[1], "channels": len(wide[f"model.{max(heads)}.weight"])}
    inside = sorted(int(n.split(".")[3]) for n in wide if n.startswith(f"model.{min(numbers, default=0)}.conv_block."))
    layouts: dict[tuple[int, ...], tuple[str, bool]]
    layouts = {(1, 5): ("reflect", False), (1, 6): ("reflect", True), (0, 3): ("zero", False), (0, 4): ("zero", True)}
    if tuple(inside) in layouts:  # replicate has reflect's numbers
        values["padding"], values["dropout"] = layouts[tuple(inside)]
    return values


def of_discriminator(tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    """Kind and widths of a discriminator."""
    wide = {n: t for n, t in tensors.items() if t.ndim == 4}
    if "net.0.weight" in wide:
        norm = norm_of(tensors, "net.2.bias", "none")
        return {"d_network": "pixel", "d_width": len(wide["net.0.weight"]), "norm": norm}
    if "model.0.weight" not in wide:
        return {}
    count = max(1, len(wide) - 2)
    return {"d_network": "patch", "n_layers": count, "d_width": len(wide["model.0.weight"])}
