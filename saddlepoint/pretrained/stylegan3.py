"""Official StyleGAN3 weights (NVlabs/stylegan3) in our game: names, constructor options."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from saddlepoint.errors import UserError
from saddlepoint.game import Game
from saddlepoint.pretrained.stylegan2 import (
    BLOCK,
    DISCRIMINATOR,
    EPILOGUE,
    GROUPS,
    LOOP,
    LOSS,
    NAMES,
    PASSED_OVER,
    REMARKS,
    convolutions,
    fill,
    mapping_settings,
    refuse_unknown,
    split,
    trained,
)
from saddlepoint.pretrained.stylegan2 import MAPPING as LABEL_MAPPING
from saddlepoint.recipes.stylegan2 import ConvolutionSettings
from saddlepoint.recipes.stylegan3 import StyleGAN3Recipe

# Options of the official generator -> fields of the recipe.
SYNTHESIS = {
    "num_layers": "layers", "num_critical": "critical", "first_cutoff": "first_cutoff",
    "first_stopband": "first_stopband", "last_stopband_rel": "last_stopband", "margin_size": "margin",
    "output_scale": "output_scale", "conv_kernel": "kernel", "filter_size": "filter_taps",
    "lrelu_upsampling": "oversampling", "use_radial_filters": "radial", "magnitude_ema_beta": "magnitude_decay",
}  # fmt: skip
WIDTHS = ("channel_base", "channel_max", "conv_clamp")
SHAPES = ("z_dim", "c_dim", "w_dim", "img_resolution", "img_channels", "mapping_kwargs")
MAPPING = ("num_layers", "lr_multiplier", "w_avg_beta")
BLUR = {"blur_init_sigma": "blur_sigma", "blur_fade_kimg": "blur_fade_kimg"}
IGNORED = (*PASSED_OVER, "pl_no_weight_grad")  # a way to compute the same penalty
REMARKED = (*REMARKS, "layer_names", "cur_nimg")

GENERATOR_NAMES = (
    (r"^synthesis\.layers\.", "synthesis."),
    (r"\.magnitude$", ".magnitude_ema"),
    (r"^synthesis\.input\.frequencies$", "synthesis.input.freqs"),
    *NAMES,
)


def load(state: Mapping[str, Tensor], **config: Any) -> Game:
    """The game with these weights.

    state: official names, "G." or "G/" before those of the generator, "D." before those of the discriminator ("G_ema."
    is taken for the generator where it is given); without either all are the generator's, or the discriminator's.
    config: the official constructors' options as G_kwargs and D_kwargs, or directly for the player that the state
    holds; loss_kwargs, G_opt_kwargs, D_opt_kwargs, batch_size, D_reg_interval, ema_kimg and ema_rampup set the recipe.
    A player without weights is new. Filters are taken as they are given; without them they are designed anew.
    """
    from saddlepoint.systems.stylegan3 import StyleGAN3

    found = split(state)
    game = StyleGAN3(recipe_of(config, only_discriminator=bool(found["discriminator"]) and not found["generator"]))
    for name, rules in (("generator", GENERATOR_NAMES), ("discriminator", NAMES)):
        if tensors := found[name]:
            fill(game.get_submodule(name), tensors, rules, f"the {name} of stylegan3")
    return game


def recipe_of(config: Mapping[str, Any], only_discriminator: bool = False) -> StyleGAN3Recipe:
    """The recipe that says the same as official options."""
    generator = (*SHAPES, *WIDTHS, *SYNTHESIS)
    refuse(config, (*generator, *DISCRIMINATOR, *GROUPS, *LOOP, *IGNORED, *REMARKED), "")
    g, d = dict(config.get("G_kwargs") or {}), dict(config.get("D_kwargs") or {})
    g |= g.pop("synthesis_kwargs", None) or {}
    flat = {k: v for k, v in config.items() if k in {*generator, *DISCRIMINATOR}}
    if only_discriminator:
        d = {**flat, **d}
        g = {**{k: flat[k] for k in ("c_dim", "img_resolution", "img_channels") if k in flat}, **g}
    else:
        g = {**flat, **g}
    refuse(g, (*generator, *IGNORED), "G_kwargs.")
    refuse(d, (*DISCRIMINATOR, *IGNORED), "D_kwargs.")
    shared = {**{k: d[k] for k in ("c_dim", "img_resolution", "img_channels") if k in d}, **g}
    for name in ("img_resolution", "img_channels"):
        if name not in shared:
            raise UserError(f"{name} is needed to build stylegan3; it is an option of the official constructors.")
    recipe = StyleGAN3Recipe(
        system="stylegan3",
        resolution=int(shared["img_resolution"]),
        channels=int(shared["img_channels"]),
        classes=int(shared.get("c_dim") or 0),
        conditional=bool(shared.get("c_dim")),
        latent=int(g.get("z_dim", 512)),
        w=int(g.get("w_dim", 512)),
        **_generator(g),
        **_discriminator(d, g),
    )
    return _trained(recipe, config)


def _generator(g: Mapping[str, Any]) -> dict[str, Any]:
    mapping = dict(g.get("mapping_kwargs") or {})
    refuse(mapping, MAPPING, "G mapping_kwargs.")
    kinds = {field.name: type(getattr(StyleGAN3Recipe(), field.name)) for field in dataclasses.fields(StyleGAN3Recipe)}
    values = {ours: kinds[ours](g[theirs]) for theirs, ours in SYNTHESIS.items() if theirs in g}
    return {
        "magnitude_decay": 0.999,
        **values,
        "g_map": dataclasses.replace(StyleGAN3Recipe().g_map, **_mapped(mapping)),
        "w_average_decay": float(mapping.get("w_avg_beta", 0.998)),
        "g_net": ConvolutionSettings(
            channel_base=int(g.get("channel_base", 32768)),
            channel_max=int(g.get("channel_max", 512)),
            clamp=float(g.get("conv_clamp", 256) or 0),
        ),
    }


def _mapped(mapping: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "layers": int(mapping.get("num_layers", 2)),
        "multiplier": float(mapping.get("lr_multiplier", 0.01)),
    }


def _discriminator(d: Mapping[str, Any], g: Mapping[str, Any]) -> dict[str, Any]:
    blocks, epilogue = dict(d.get("block_kwargs") or {}), dict(d.get("epilogue_kwargs") or {})
    labels = dict(d.get("mapping_kwargs") or {})
    refuse(blocks, (*BLOCK, *IGNORED), "block_kwargs.")
    refuse(epilogue, EPILOGUE, "epilogue_kwargs.")
    refuse(labels, LABEL_MAPPING, "D mapping_kwargs.")
    if epilogue.get("activation", blocks.get("activation", "lrelu")) != blocks.get("activation", "lrelu"):
        raise UserError("the discriminator has one activation here: give the same in block_kwargs and epilogue_kwargs.")
    # A player that the file does not hold is as wide as the other one.
    shape = {} if d else {k: g[k] for k in ("channel_base", "channel_max") if k in g}
    group = epilogue.get("mbstd_group_size", 4)
    return {
        "d_net": convolutions({"conv_clamp": 256, **shape, **d, **blocks}, "resnet"),
        "d_map": mapping_settings(labels),
        "projection": int(d.get("cmap_dim") or 0),
        "stddev_group": 0 if group is None else int(group),
        "stddev_features": int(epilogue.get("mbstd_num_channels", 1)),
        "freeze_d": int(blocks.get("freeze_layers", 0)),
    }


def _trained(recipe: StyleGAN3Recipe, config: Mapping[str, Any]) -> StyleGAN3Recipe:
    """The recipe with what the official loss and loop were given."""
    loss = dict(config.get("loss_kwargs") or {})
    refuse(loss, (*LOSS, *BLUR, "r1_gamma", *IGNORED), "loss_kwargs.")
    blur = {ours: float(loss.pop(theirs)) for theirs, ours in BLUR.items() if theirs in loss}
    kept = {k: v for k, v in loss.items() if k not in IGNORED}
    regular = trained(recipe, {**config, "loss_kwargs": kept})
    assert isinstance(regular, StyleGAN3Recipe)
    return dataclasses.replace(regular, **blur)  # type: ignore[arg-type]


def refuse(options: Mapping[str, Any], known: Any, where: str) -> None:
    """UserError for an option that the official constructors do not have."""
    refuse_unknown(options, set(known), where)
