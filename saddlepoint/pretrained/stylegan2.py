"""Official StyleGAN2-ADA weights (NVlabs/stylegan2-ada-pytorch) in our game: names, layouts, constructor options."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from saddlepoint.errors import UserError, nearest
from saddlepoint.game import Game
from saddlepoint.layers.resample import setup_filter
from saddlepoint.pretrained.placing import place
from saddlepoint.recipes.base import Optimizer, Penalty
from saddlepoint.recipes.stylegan2 import ConvolutionSettings, MappingSettings, StyleGAN2Recipe

GENERATOR = ("z_dim", "c_dim", "w_dim", "img_resolution", "img_channels", "mapping_kwargs", "synthesis_kwargs")
DISCRIMINATOR = (
    "c_dim", "img_resolution", "img_channels", "architecture", "channel_base", "channel_max", "conv_clamp", "cmap_dim",
    "block_kwargs", "mapping_kwargs", "epilogue_kwargs",
)  # fmt: skip
MAPPING = ("num_layers", "embed_features", "layer_features", "activation", "lr_multiplier", "w_avg_beta")
SYNTHESIS = (
    "channel_base", "channel_max", "architecture", "resample_filter", "conv_clamp", "use_noise", "activation"
)  # fmt: skip
BLOCK = ("activation", "resample_filter", "freeze_layers")
EPILOGUE = ("mbstd_group_size", "mbstd_num_channels", "activation")
LOSS = {
    "style_mixing_prob": "style_mixing", "pl_batch_shrink": "path_shrink", "pl_decay": "path_decay",
    "pl_weight": "path_length",
}  # fmt: skip
LOOP = {
    "batch_size": "batch", "G_reg_interval": "path_every", "D_reg_interval": "r1_every",
    "ema_kimg": "ema_half_life_kimg", "ema_rampup": "ema_ramp",
}  # fmt: skip
GROUPS = ("G_kwargs", "D_kwargs", "loss_kwargs", "opt_kwargs", "G_opt_kwargs", "D_opt_kwargs")
# Half precision and memory layout are a matter of our own recipe.
PASSED_OVER = ("num_fp16_res", "use_fp16", "fp16_channels_last", "fused_modconv_default", "class_name")
# What a record of official results says of itself, not of the networks.
REMARKS = ("grad_names", "ema_names", "gains", "pl_mean_before")

# Our names -> official ones.
NAMES = (
    (r"^mapping\.layers\.(\d+)\.", r"mapping.fc\1."),
    (r"^mapping\.average$", "mapping.w_avg"),
    (r"^synthesis\.blocks\.", "synthesis."),
    (r"\.to_image\.", ".torgb."),
    (r"\.noise_image$", ".noise_const"),
    (r"^epilogue\.conv\.", "b4.conv."),
    (r"^epilogue\.dense\.", "b4.fc."),
    (r"^epilogue\.output\.", "b4.out."),
    (r"^epilogue\.from_image\.", "b4.fromrgb."),
    (r"^blocks\.", ""),
    (r"\.from_image\.", ".fromrgb."),
)


def load(state: Mapping[str, Tensor], **config: Any) -> Game:
    """The game with these weights.

    state: official names, "G." or "G/" before those of the generator, "D." before those of the discriminator ("G_ema."
    is taken for the generator where it is given); without either, names like "synthesis." or "mapping.w_avg" say that
    all are the generator's. config: the official constructors' options as G_kwargs and D_kwargs, or directly for the
    player that the state holds; loss_kwargs, opt_kwargs, batch_size, G_reg_interval, D_reg_interval, ema_kimg and
    ema_rampup set the recipe. A player without weights is new, and of the other's shape where nothing is said.
    """
    from saddlepoint.systems.stylegan2 import StyleGAN2

    found = split(state)
    recipe = recipe_of(config, given=[name for name, tensors in found.items() if tensors])
    game = StyleGAN2(recipe)
    for name, taps in (("generator", recipe.g_net.taps), ("discriminator", recipe.d_net.taps)):
        if tensors := found[name]:
            filters(tensors, taps)
            fill(game.get_submodule(name), tensors, NAMES, f"the {name} of stylegan2")
    if "pl_mean_before" in config:
        game.path_length_mean.fill_(float(config["pl_mean_before"]))
    return game


def split(state: Mapping[str, Tensor]) -> dict[str, dict[str, Tensor]]:
    """{"generator": ..., "discriminator": ...} of official names without prefixes."""
    plain = {name.removeprefix("weights/"): tensor for name, tensor in state.items()}
    parts: dict[str, dict[str, Tensor]] = {"G": {}, "D": {}, "G_ema": {}, "": {}}
    for name, tensor in plain.items():
        match = re.match(r"^(G_ema|G|D)[./](.*)$", name)
        key, rest = (match[1], match[2]) if match else ("", name)
        parts[key][rest] = tensor
    generator = parts["G_ema"] or parts["G"]
    if parts[""]:
        if generator or parts["D"]:
            raise UserError(f"{next(iter(parts['']))!r} is of neither player: expected 'G.' or 'D.' before every name.")
        is_generator = any(n.startswith("synthesis.") or n == "mapping.w_avg" for n in parts[""])
        parts["G" if is_generator else "D"] = parts[""]
        generator = parts["G"]
    return {"generator": generator, "discriminator": parts["D"]}


def fill(module: torch.nn.Module, tensors: Mapping[str, Tensor], rules: Iterable[tuple[str, str]], where: str) -> None:
    """Put official tensors into `module`; rules: patterns that turn our names into the official ones, in order."""
    own = [*dict(module.named_parameters()), *dict(module.named_buffers())]
    theirs = {name: name for name in own}
    for pattern, replacement in rules:
        theirs = {ours: re.sub(pattern, replacement, official) for ours, official in theirs.items()}
    named = {ours: tensors[official] for ours, official in theirs.items() if official in tensors}
    known = set(theirs.values())
    rest = {name: t for name, t in tensors.items() if name not in known and not name.endswith("resample_filter")}
    place(module, {**named, **rest}, where=where, theirs=theirs, optional=lambda name: name.endswith("filter"))


def filters(tensors: Mapping[str, Tensor], taps: tuple[float, ...]) -> None:
    """Resampling filters are made anew from their taps; refuse a file that was trained with others."""
    own = setup_filter(taps)
    own = torch.outer(own, own) if own.ndim == 1 else own
    for name, tensor in tensors.items():
        if re.search(r"(^|\.)b\d+\.resample_filter$", name):  # layers that do not resample hold a default
            given = torch.outer(tensor, tensor) if tensor.ndim == 1 else tensor
            if given.shape != own.shape or not torch.allclose(given.to(own), own, atol=1e-5):
                raise UserError(
                    f"{name} is another filter than resample_filter={list(taps)}: give the one that it was made from."
                )


# ---- options
def recipe_of(config: Mapping[str, Any], given: Iterable[str] = ()) -> StyleGAN2Recipe:
    """The recipe that says the same as official options."""
    present = set(given)
    known = {*GENERATOR, *DISCRIMINATOR, *SYNTHESIS, *GROUPS, *LOOP, *PASSED_OVER, *REMARKS}
    refuse_unknown(config, known, "")
    flat = {k: v for k, v in config.items() if k in {*GENERATOR, *DISCRIMINATOR, *SYNTHESIS}}
    g, d = dict(config.get("G_kwargs") or {}), dict(config.get("D_kwargs") or {})
    if flat:
        shared = {k: v for k, v in flat.items() if k in ("c_dim", "img_resolution", "img_channels")}
        own = {k: v for k, v in flat.items() if k not in shared}
        if "mapping_kwargs" in own and len(present) == 2:
            raise UserError("mapping_kwargs is an option of both players: say G_kwargs={...} and D_kwargs={...}.")
        g, d = {**shared, **g}, {**shared, **d}
        if "generator" in present or not present:
            stack = {k: v for k, v in own.items() if k in SYNTHESIS}
            g |= {k: v for k, v in own.items() if k in GENERATOR}
            g["synthesis_kwargs"] = {**stack, **(g.get("synthesis_kwargs") or {})}
        if "discriminator" in present:
            d |= {k: v for k, v in own.items() if k in DISCRIMINATOR}
    return _recipe(g, d, config)


def _recipe(g: dict[str, Any], d: dict[str, Any], config: Mapping[str, Any]) -> StyleGAN2Recipe:
    refuse_unknown(g, {*GENERATOR, *PASSED_OVER}, "G_kwargs.")
    refuse_unknown(d, {*DISCRIMINATOR, *PASSED_OVER}, "D_kwargs.")
    both: dict[str, Any] = {k: d[k] for k in ("c_dim", "img_resolution", "img_channels") if k in d}
    both |= g
    for name in ("img_resolution", "img_channels"):
        if name not in both:
            raise UserError(f"{name} is needed to build stylegan2; it is an option of the official constructors.")
    classes = int(both.get("c_dim") or 0)
    synthesis, blocks = dict(g.get("synthesis_kwargs") or {}), dict(d.get("block_kwargs") or {})
    synthesis |= dict(synthesis.pop("block_kwargs", None) or {})
    epilogue, mapping = dict(d.get("epilogue_kwargs") or {}), dict(g.get("mapping_kwargs") or {})
    label_mapping = dict(d.get("mapping_kwargs") or {})
    refuse_unknown(synthesis, {*SYNTHESIS, *PASSED_OVER}, "synthesis_kwargs.")
    refuse_unknown(blocks, {*BLOCK, *PASSED_OVER}, "block_kwargs.")
    refuse_unknown(epilogue, EPILOGUE, "epilogue_kwargs.")
    refuse_unknown(mapping, MAPPING, "G mapping_kwargs.")
    refuse_unknown(label_mapping, MAPPING, "D mapping_kwargs.")
    if epilogue.get("activation", blocks.get("activation", "lrelu")) != blocks.get("activation", "lrelu"):
        raise UserError("the discriminator has one activation here: give the same in block_kwargs and epilogue_kwargs.")
    # A player that the file does not hold is as wide as the other one.
    source = synthesis or d
    shape: dict[str, Any] = {k: source[k] for k in ("channel_base", "channel_max") if k in source}
    own_width = "channel_base" in d or "channel_max" in d
    group = epilogue.get("mbstd_group_size", 4)
    recipe = StyleGAN2Recipe(
        system="stylegan2",
        resolution=int(both["img_resolution"]),
        channels=int(both["img_channels"]),
        classes=classes,
        conditional=classes > 0,
        latent=int(both.get("z_dim", 512)),
        w=int(both.get("w_dim", 512)),
        g_map=mapping_settings(mapping),
        d_map=mapping_settings(label_mapping),
        w_average_decay=float(mapping.get("w_avg_beta", 0.995)),
        g_net=convolutions({**shape, **synthesis}, "skip"),
        d_net=convolutions({**({} if own_width else shape), **d, **blocks}, "resnet"),
        noise=bool(synthesis.get("use_noise", True)),
        projection=int(d.get("cmap_dim") or 0),
        stddev_group=0 if group is None else int(group),
        stddev_features=int(epilogue.get("mbstd_num_channels", 1)),
        freeze_d=int(blocks.get("freeze_layers", 0)),
    )
    return trained(recipe, config)


def mapping_settings(options: Mapping[str, Any]) -> MappingSettings:
    return MappingSettings(
        layers=int(options.get("num_layers", 8)),
        width=int(options.get("layer_features") or 0),
        embedding=int(options.get("embed_features") or 0),
        multiplier=float(options.get("lr_multiplier", 0.01)),
        activation=options.get("activation", "lrelu"),
    )


def convolutions(options: Mapping[str, Any], architecture: Any) -> ConvolutionSettings:
    taps = options.get("resample_filter") or (1, 3, 3, 1)
    if any(isinstance(tap, list | tuple) for tap in taps):
        raise UserError(f"resample_filter is a row of taps here, not {taps!r}.")
    return ConvolutionSettings(
        architecture=options.get("architecture", architecture),
        channel_base=int(options.get("channel_base", 32768)),
        channel_max=int(options.get("channel_max", 512)),
        clamp=float(options.get("conv_clamp") or 0),
        taps=tuple(float(tap) for tap in taps),
        activation=options.get("activation", "lrelu"),
    )


def trained(recipe: StyleGAN2Recipe, config: Mapping[str, Any]) -> StyleGAN2Recipe:
    """The recipe with what the official loss and loop were given."""
    loss = dict(config.get("loss_kwargs") or {})
    refuse_unknown(loss, {*LOSS, "r1_gamma", *PASSED_OVER}, "loss_kwargs.")
    values: dict[str, Any] = {ours: loss[official] for official, ours in LOSS.items() if official in loss}
    values |= {ours: config[official] or 0 for official, ours in LOOP.items() if official in config}
    kinds = {k: type(getattr(recipe, k)) for k in values}
    values = {k: kinds[k](v) for k, v in values.items()}
    penalty = Penalty(r1=float(loss.get("r1_gamma", 10)))
    return dataclasses.replace(
        recipe,
        penalty=penalty,
        g=optimizer({**(config.get("opt_kwargs") or {}), **(config.get("G_opt_kwargs") or {})}),
        d=optimizer({**(config.get("opt_kwargs") or {}), **(config.get("D_opt_kwargs") or {})}),
        **values,
    )


def optimizer(options: Mapping[str, Any]) -> Optimizer:
    """Adam as officially given; by default that of configuration F."""
    refuse_unknown(options, {"lr", "betas", "eps", *PASSED_OVER}, "opt_kwargs.")
    betas = options.get("betas", (0.0, 0.99))
    return Optimizer(
        lr=float(options.get("lr", 2e-3)),
        betas=(float(betas[0]), float(betas[1])),
        eps=float(options.get("eps", 1e-8)),
    )


def refuse_unknown(options: Mapping[str, Any], known: Iterable[str], where: str) -> None:
    choices = sorted(known)
    for name in options:
        if name not in choices:
            near = nearest(name, choices)
            hint = f"; did you mean {near!r}?" if near else f". Known: {', '.join(choices)}."
            raise UserError(f"{where}{name} is not an option of stylegan2's official networks that is known here{hint}")
