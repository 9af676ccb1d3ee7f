"""Published weights of StyleGAN: NVlabs/stylegan (TensorFlow names, layouts), e.g. "G_synthesis/8x8/Conv0_up/weight".

Convolutions are stored [k, k, in, out], dense layers [in, out], "ToRGB_lod0" is the one at full resolution. From 128
pixels on the official code doubles and convolves in one transposed convolution ("auto"), whose kernel is turned by 180
degrees against that of the two steps, so those weights are turned here. Weights keep their raw scale: the multipliers
of learning rate and fan-in act at run time. The pickles themselves are read elsewhere; here is a mapping of tensors.
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
from saddlepoint.pretrained.tensorflow import conv, dense, flat, same
from saddlepoint.recipes.stylegan1 import StyleGAN1Recipe
from saddlepoint.systems import build
from saddlepoint.systems.stylegan1 import StyleGAN1

Named = tuple[str, Callable[[Tensor], Tensor]]

OFFICIAL = {
    "num_channels": "channels",
    "resolution": "resolution",
    "label_size": "classes",
    "fmap_base": "fmap_base",
    "fmap_decay": "fmap_decay",
    "fmap_max": "fmap_max",
    "latent_size": "latent",
    "dlatent_size": "w",
    "mapping_layers": "mapping_layers",
    "mapping_fmaps": "mapping_width",
    "mapping_lrmul": "mapping_lr",
    "normalize_latents": "normalise_latents",
    "use_noise": "noise",
    "mbstd_group_size": "stddev_group",
    "mbstd_num_features": "stddev_features",
    "style_mixing_prob": "mixing",
    "dlatent_avg_beta": "w_decay",
    "gamma": "penalty.r1",
}
PASSED_OVER = {
    "dtype", "structure", "is_template_graph", "truncation_psi", "truncation_cutoff", "truncation_psi_val",
    "truncation_cutoff_val", "randomize_noise", "dlatent_broadcast", "force_clean_graph",
}  # fmt: skip
# Options that exist in one form here; another value is another network.
FIXED = {
    "use_styles": True,
    "const_input_layer": True,
    "use_wscale": True,
    "use_pixel_norm": False,
    "use_instance_norm": True,
    "nonlinearity": "lrelu",
    "mapping_nonlinearity": "lrelu",
    "blur_filter": [1, 2, 1],
}
FUSED_FROM = 128  # pixels, with fused_scale="auto"


def load(state: Mapping[str, Tensor], **config: Any) -> StyleGAN1:
    """A StyleGAN with these weights in place; see `saddlepoint.pretrained.load`.

    state: tensors by their official names: "G_mapping/...", "G_synthesis/...", "dlatent_avg", and the discriminator's;
    a prefix "G/", "Gs/" or "D/" (or with a point) may stand before them. config: the official constructors' arguments,
    flat or as mappings; what is left out is read off the tensors. lod: where the game stands; 0 is fully grown.
    """
    parts = _by_network(state)
    given = flat(config)
    recipe = _recipe(given, parts)
    game: StyleGAN1 = build(recipe)  # type: ignore[assignment]
    fused = given.get("fused_scale", "auto")
    fused_from = FUSED_FROM if fused == "auto" else 8 if fused else 1 << 30
    levels = len(game.generator.synthesis.blocks)
    for prefix, part in parts.items():
        network = game.generator if prefix == "G" else game.discriminator
        name_of = _generator_name if prefix == "G" else _discriminator_name
        theirs = {name_of(name, levels, fused_from)[0]: name for name in _names(prefix, recipe)}
        found = {}
        for name, tensor in part.items():
            ours, turn = name_of(name, levels, fused_from)
            found[ours], theirs[ours] = turn(tensor), name
        where = f"the {'generator' if prefix == 'G' else 'discriminator'} of stylegan1"
        place(network, found, where=where, optional=_optional, theirs=theirs)
    if "lod" in given:
        for network in (game.generator, game.discriminator):
            network.lod.fill_(float(given["lod"]))
    return game


def _optional(name: str) -> bool:
    return name in ("lod", "w_avg") or name.endswith(".taps")


def _by_network(state: Mapping[str, Tensor]) -> dict[str, dict[str, Tensor]]:
    """{"G": {name: tensor}, "D": ...}, prefixes taken off; names without one are of one network, which they tell."""
    bare = [re.sub(r"^(Gs?|D)[./]", "", name) for name in state]
    loose_d = not any(name.startswith(("G_", "ToRGB")) or name == "dlatent_avg" for name in bare)
    parts: dict[str, dict[str, Tensor]] = {}
    for (name, tensor), plain in zip(state.items(), bare, strict=True):
        prefix = name[0] if plain != name else "D" if loose_d else "G"
        parts.setdefault(prefix, {})[plain] = tensor
    return parts


def _recipe(given: Mapping[str, Any], parts: Mapping[str, Mapping[str, Tensor]]) -> StyleGAN1Recipe:
    """Fully grown, as published weights are."""
    known = {*OFFICIAL, *PASSED_OVER, *FIXED, "fused_scale", "lod"}
    for name, value in given.items():
        if name not in known:
            raise unknown("argument of stylegan1's networks", name, known)
        if name in FIXED and value != FIXED[name]:
            raise unknown(f"value of {name}", str(value), [str(FIXED[name])])
    settings = _read_off(parts) | {OFFICIAL[k]: v for k, v in given.items() if k in OFFICIAL and v is not None}
    settings["conditional"] = settings.get("classes", 0) > 0
    made: StyleGAN1Recipe = recipes.recipe("stylegan1", "1024", **settings)  # type: ignore[assignment]
    return replace(made, start=made.resolution)


def _read_off(parts: Mapping[str, Mapping[str, Tensor]]) -> dict[str, Any]:
    """What the tensors say about the networks."""
    settings: dict[str, Any] = {}
    for part in parts.values():
        rgb = [int(found[1]) for name in part if (found := re.search(r"(?:To|From)RGB_lod(\d+)/weight$", name))]
        if rgb:
            settings["resolution"] = 4 << max(rgb)
    generator, discriminator = parts.get("G", {}), parts.get("D", {})
    if (t := generator.get("G_synthesis/ToRGB_lod0/weight")) is not None:
        settings["channels"] = t.shape[-1]
    elif (t := discriminator.get("FromRGB_lod0/weight")) is not None:
        settings["channels"] = t.shape[-2]
    layers = [n for n in generator if re.fullmatch(r"G_mapping/Dense\d+/weight", n)]
    if layers:
        settings["mapping_layers"] = len(layers)
        settings["w"] = generator[f"G_mapping/Dense{len(layers) - 1}/weight"].shape[-1]
        settings["mapping_width"] = generator["G_mapping/Dense0/weight"].shape[-1] if len(layers) > 1 else 0
        settings["latent"] = generator["G_mapping/Dense0/weight"].shape[0]
    if (t := generator.get("G_mapping/LabelConcat/weight")) is not None:
        settings["classes"], settings["latent"] = t.shape
    return settings


# ---- names
def _generator_name(name: str, levels: int, fused_from: int) -> Named:
    """An official name as ours; a name that is not theirs stays as it is, and is complained about later."""
    if name == "dlatent_avg":
        return "w_avg", same
    if name == "G_mapping/LabelConcat/weight":
        return "mapping.embedding", same
    if found := re.fullmatch(r"G_mapping/Dense(\d+)/(weight|bias)", name):
        return f"mapping.layers.{found[1]}.{found[2]}", dense
    if found := re.fullmatch(r"G_synthesis/noise(\d+)", name):
        return f"synthesis.noise{found[1]}", same
    if name == "G_synthesis/4x4/Const/const":
        return "synthesis.constant", same
    if found := re.fullmatch(r"G_synthesis/ToRGB_lod(\d+)/(weight|bias)", name):
        return f"synthesis.to_rgb.{levels - 1 - int(found[1])}.{found[2]}", conv
    if found := re.fullmatch(r"G_synthesis/(\d+)x\1/(Const|Conv|Conv0_up|Conv1)/(.+)", name):
        side, which = int(found[1]), 0 if found[2] in ("Const", "Conv0_up") else 1
        kinds: dict[str, Named] = {
            "Noise/weight": ("noise", same),
            "bias": ("bias", same),
            "StyleMod/weight": ("style.weight", dense),
            "StyleMod/bias": ("style.bias", same),
            "weight": ("conv.weight", _turned if found[2] == "Conv0_up" and side >= fused_from else conv),
        }
        if found[3] in kinds:
            ours, turn = kinds[found[3]]
            return f"synthesis.blocks.{side.bit_length() - 3}.layers.{which}.{ours}", turn
    return ("lod" if name.endswith("lod") else name), same


def _turned(t: Tensor) -> Tensor:
    return conv(t).flip(2, 3) if t.ndim == 4 else t


def _discriminator_name(name: str, levels: int, fused_from: int) -> Named:
    if found := re.fullmatch(r"FromRGB_lod(\d+)/(weight|bias)", name):
        return f"from_rgb.{levels - 1 - int(found[1])}.{found[2]}", conv
    if found := re.fullmatch(r"4x4/(Conv|Dense0|Dense1)/(weight|bias)", name):
        layer = {"Conv": "conv", "Dense0": "hidden", "Dense1": "output"}[found[1]]
        return f"{layer}.{found[2]}", conv if layer == "conv" else dense
    if found := re.fullmatch(r"(\d+)x\1/(Conv0|Conv1_down)/(weight|bias)", name):
        return f"blocks.{int(found[1]).bit_length() - 4}.{found[2][:5].lower()}.{found[3]}", conv
    return name, same


def _names(network: str, recipe: StyleGAN1Recipe) -> list[str]:
    """All official names of a network, so that a missing tensor can be called by the one it should have had."""
    levels = len(recipe.widths())
    sides = [4 << i for i in range(1, levels)]
    both = ("weight", "bias")
    if network == "D":
        layers = ["4x4/Conv", "4x4/Dense0", "4x4/Dense1", *(f"FromRGB_lod{k}" for k in range(levels))]
        layers += [f"{side}x{side}/{layer}" for side in sides for layer in ("Conv0", "Conv1_down")]
        return [f"{layer}/{kind}" for layer in layers for kind in both]
    names = [f"G_mapping/Dense{i}/{kind}" for i in range(recipe.mapping_layers) for kind in both]
    names += ["G_mapping/LabelConcat/weight"] if recipe.conditional else []
    names += [f"G_synthesis/ToRGB_lod{k}/{kind}" for k in range(levels) for kind in both]
    names += [f"G_synthesis/noise{i}" for i in range(2 * levels if recipe.noise else 0)]
    styled = ["weight", "bias", "StyleMod/weight", "StyleMod/bias", *(["Noise/weight"] if recipe.noise else [])]
    layers = ["4x4/Conv", *(f"{side}x{side}/{layer}" for side in sides for layer in ("Conv0_up", "Conv1"))]
    names += [f"G_synthesis/{layer}/{kind}" for layer in layers for kind in styled]
    return [*names, "G_synthesis/4x4/Const/const", *(f"G_synthesis/4x4/Const/{kind}" for kind in styled[1:])]
