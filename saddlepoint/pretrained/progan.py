"""Published weights of ProGAN: the official networks (TensorFlow names and layouts) and the GAN zoo's.

Official: tkarras/progressive_growing_of_gans, e.g. "G/8x8/Conv0_up/weight". Convolutions are stored [k, k, in, out]
(Conv0_up: [k, k, out, in], and turned by 180 degrees, since it is a transposed convolution), dense layers [in, out];
"ToRGB_lod0" is the one at full resolution. Weights keep their raw scale. GAN zoo: facebookresearch/pytorch_GAN_zoo,
torch's own layouts, e.g. "G/scaleLayers.0.1.module.weight".
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from torch import Tensor

from saddlepoint import recipes
from saddlepoint.errors import unknown
from saddlepoint.pretrained.placing import place
from saddlepoint.pretrained.tensorflow import conv, dense, flat, same, transposed_conv
from saddlepoint.recipes.progan import ProGANRecipe
from saddlepoint.systems import build
from saddlepoint.systems.progan import ProGAN

Named = tuple[str, Callable[[Tensor], Tensor]]  # our name, and how a tensor of theirs becomes ours

# The official constructors' arguments, and those of the losses, as settings of a recipe.
OFFICIAL = {
    "num_channels": "channels",
    "resolution": "resolution",
    "label_size": "classes",
    "fmap_base": "fmap_base",
    "fmap_decay": "fmap_decay",
    "fmap_max": "fmap_max",
    "latent_size": "latent",
    "normalize_latents": "normalise_latents",
    "use_wscale": "equalised",
    "use_pixelnorm": "pixel_norm",
    "pixelnorm_epsilon": "pixel_norm_eps",
    "fused_scale": "fused",
    "mbstd_group_size": "stddev_group",
    "wgan_lambda": "penalty.gradient_penalty",
    "wgan_epsilon": "penalty.drift",
    "wgan_target": "slope",
    "cond_weight": "class_weight",
}
ZOO = {
    "dimLatent": "latent",
    "dimLatentVector": "latent",
    "dimOutput": "channels",
    "dimInput": "channels",
    "leakyReluLeak": "leak",
    "leakyness": "leak",
    "normalization": "pixel_norm",
    "perChannelNormalization": "pixel_norm",
    "equalizedlR": "equalised",
    "lambdaGP": "penalty.gradient_penalty",
    "epsilonD": "penalty.drift",
}
# What says nothing about the networks that are built here.
PASSED_OVER = {
    "dtype", "structure", "is_template_graph", "minibatch_size", "initBiasToZero", "baseLearningRate", "lossMode",
    "learning_rate", "formatLayerType", "generationActivation",
}  # fmt: skip


def load(state: Mapping[str, Tensor], **config: Any) -> ProGAN:
    """A ProGAN with these weights in place; see `saddlepoint.pretrained.load`.

    state: tensors by their official names, those of the generator behind "G/", those of the discriminator behind "D/"
    (or "G.", "D."); without such a prefix, of the one network whose names they are. config: the constructors'
    arguments, flat or as the mappings G_kwargs and D_kwargs; for the GAN zoo's networks (depthScale0 says so) also
    `scales`, the channels of the scales that were added. lod, alpha: where the game stands; 0 is fully grown.
    """
    parts = _by_network(state)
    given = flat(config)
    zoo = "depthScale0" in given or any("module" in name for part in parts.values() for name in part)
    recipe = _zoo_recipe(given, parts) if zoo else _official_recipe(given, parts)
    game: ProGAN = build(recipe)  # type: ignore[assignment]
    for prefix, part in parts.items():
        network = game.generator if prefix == "G" else game.discriminator
        levels = len(game.generator.to_rgb)
        named = _zoo_name if zoo else _official_name
        every = _zoo_names(prefix, levels) if zoo else _official_names(prefix, levels, recipe.fused)
        theirs = {named(name, levels)[0]: name for name in every}
        found = {}
        for name, tensor in part.items():
            ours, turn = named(name, levels)
            found[ours], theirs[ours] = turn(tensor), name
        where = f"the {'generator' if prefix == 'G' else 'discriminator'} of progan"
        place(network, found, where=where, optional=lambda n: n == "lod", theirs=theirs)
    if "lod" in given or "alpha" in given:
        for network in (game.generator, game.discriminator):
            network.lod.fill_(float(given.get("lod", given.get("alpha", 0.0))))
    return game


def _by_network(state: Mapping[str, Tensor]) -> dict[str, dict[str, Tensor]]:
    """{"G": {name: tensor}, "D": ...}, prefixes taken off."""
    parts: dict[str, dict[str, Tensor]] = {}
    bare = {name for name in state if not re.match(r"(Gs?|D)[./]", name)}
    marks = {"D"} if any("romRGB" in name or "groupScaleZero" in name for name in bare) else {"G"}
    for name, tensor in state.items():
        prefix = marks.copy().pop() if name in bare else name[0]
        parts.setdefault(prefix, {})[name if name in bare else re.sub(r"^(Gs?|D)[./]", "", name)] = tensor
    return parts


def _official_recipe(given: Mapping[str, Any], parts: Mapping[str, Mapping[str, Tensor]]) -> ProGANRecipe:
    names = {name for part in parts.values() for name in part}
    rgb = sorted(int(n.split("lod")[1].split("/")[0]) for n in names if re.match(r"(To|From)RGB_lod\d+/weight", n))
    plain = any(re.fullmatch(r"\d+x\d+/Conv1/weight", n) for n in parts.get("D", {}))
    settings: dict[str, Any] = {"resolution": 4 << (rgb[-1] if rgb else 0), "fused": not plain}
    for network, name, axis in (("G", "ToRGB_lod0/weight", 3), ("D", "FromRGB_lod0/weight", 2)):
        if (tensor := parts.get(network, {}).get(name)) is not None and tensor.ndim == 4:
            settings["channels"] = tensor.shape[axis]
    settings |= _renamed(given, OFFICIAL)
    if given.get("use_leakyrelu") is False:
        settings["leak"] = 0.0
    settings["conditional"] = settings.get("classes", 0) > 0
    if not settings.get("latent"):  # as many as 4x4 maps would have at twice the width
        base, widest = settings.get("fmap_base", 8192), settings.get("fmap_max", 512)
        settings["latent"] = min(int(base), widest)
    return _recipe(settings)


def _recipe(settings: Mapping[str, Any]) -> ProGANRecipe:
    """Fully grown, as published weights are."""
    made: ProGANRecipe = recipes.recipe("progan", "tf-1gpu", **settings)  # type: ignore[assignment]
    return replace(made, start=made.resolution)


def _zoo_recipe(given: Mapping[str, Any], parts: Mapping[str, Mapping[str, Tensor]]) -> ProGANRecipe:
    any_part = next(iter(parts.values()))
    depths = [any_part[n].shape[1 if "toRGB" in n else 0] for n in _rgb_names(any_part)]
    if "depthScale0" in given and "scales" in given:
        depths = [given["depthScale0"], *given["scales"]]
    settings: dict[str, Any] = {"resolution": 2 << len(depths), "depths": tuple(depths), "port": "zoo", "channels": 3}
    settings |= _renamed(given, ZOO, ("depthScale0", "scales", "sizeDecisionLayer"))
    if "latent" not in settings and "formatLayer.module.weight" in any_part:
        settings["latent"] = any_part["formatLayer.module.weight"].shape[1]
    for name in ("miniBatchNormalization", "miniBatchStdDev"):
        if given.get(name) is False:
            settings["stddev_group"] = 1
    settings["normalise_latents"] = settings.get("pixel_norm", True)
    return _recipe(settings)


def _rgb_names(part: Mapping[str, Tensor]) -> list[str]:
    return sorted(n for n in part if re.fullmatch(r"(to|from)RGBLayers\.\d+\.module\.weight", n))


def _renamed(given: Mapping[str, Any], table: Mapping[str, str], others: tuple[str, ...] = ()) -> dict[str, Any]:
    """The recipe's settings among the official arguments; an unknown argument is an error."""
    read = {"use_leakyrelu", "lod", "alpha", "miniBatchNormalization", "miniBatchStdDev", *others}
    known = {*table, *PASSED_OVER, *read}
    for name in given:
        if name not in known:
            raise unknown("argument of progan's networks", name, known)
    return {table[name]: value for name, value in given.items() if name in table and value is not None}


# ---- names
def _official_name(name: str, levels: int) -> Named:
    """An official name as ours; a name that is not theirs stays as it is, and is complained about later."""
    if rgb := re.fullmatch(r"(ToRGB|FromRGB)_lod(\d+)/(weight|bias)", name):
        kind = "to_rgb" if rgb[1] == "ToRGB" else "from_rgb"
        return f"{kind}.{levels - 1 - int(rgb[2])}.{rgb[3]}", conv
    if first := re.fullmatch(r"4x4/(Dense|Conv|Dense0|Dense1)/(weight|bias)", name):
        layer = {"Dense": "first", "Conv": "conv", "Dense0": "hidden", "Dense1": "output"}[first[1]]
        if (layer, first[2]) == ("first", "bias"):
            return "first_bias", same
        return f"{layer}.{first[2]}", conv if layer == "conv" else dense
    if block := re.fullmatch(r"(\d+)x\1/(Conv0|Conv1|Conv0_up|Conv1_down)/(weight|bias)", name):
        index = int(block[1]).bit_length() - 4  # 8x8 is the first block
        turn = transposed_conv if block[2] == "Conv0_up" else conv
        return f"blocks.{index}.{block[2][:5].lower()}.{block[3]}", turn
    return name, same


def _zoo_name(name: str, levels: int) -> Named:
    plain = name.replace(".module.", ".")
    for pattern, ours in (
        (r"(to|from)RGBLayers\.(\d+)\.", r"\1_rgb.\2."),
        (r"scaleLayers\.(\d+)\.(\d+)\.", r"blocks.\1.conv\2."),
        (r"formatLayer\.", "first."),
        (r"groupScale0\.0\.", "conv."),
        (r"groupScaleZero\.0\.", "conv."),
        (r"groupScaleZero\.1\.", "hidden."),
        (r"decisionLayer\.", "output."),
    ):
        plain = re.sub(f"^{pattern}", ours, plain)
    return plain, same


def _official_names(network: str, levels: int, fused: bool) -> list[str]:
    """All names of a network, so that a missing tensor can be called by the one it should have had."""
    if network == "G":
        layers = ["4x4/Dense", "4x4/Conv", *(f"ToRGB_lod{k}" for k in range(levels))]
        convs = ("Conv0_up" if fused else "Conv0", "Conv1")
    else:
        layers = ["4x4/Conv", "4x4/Dense0", "4x4/Dense1", *(f"FromRGB_lod{k}" for k in range(levels))]
        convs = ("Conv0", "Conv1_down" if fused else "Conv1")
    layers += [f"{4 << i}x{4 << i}/{name}" for i in range(1, levels) for name in convs]
    return [f"{layer}/{kind}" for layer in layers for kind in ("weight", "bias")]


def _zoo_names(network: str, levels: int) -> list[str]:
    if network == "G":
        layers = ["formatLayer", "groupScale0.0", *(f"toRGBLayers.{k}" for k in range(levels))]
    else:
        layers = [
            "groupScaleZero.0",
            "groupScaleZero.1",
            "decisionLayer",
            *(f"fromRGBLayers.{k}" for k in range(levels)),
        ]
    layers += [f"scaleLayers.{i}.{j}" for i in range(levels - 1) for j in (0, 1)]
    return [f"{layer}.module.{kind}" for layer in layers for kind in ("weight", "bias")]
