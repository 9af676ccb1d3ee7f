"""Checkpoints of rosinality/stylegan2-pytorch: {g_ema, g, d, latent_avg, ...}, StyleGAN2 under other names.

The same networks in another layout: one list of convolutions counted through all resolutions, kernels with an axis of
samples before them, noise images in a list of their own, and the discriminator counted from the image. Widths are
read off the shapes. A checkpoint of a training has no mean of w; it is measured when a run is made of it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from saddlepoint.errors import UserError
from saddlepoint.pretrained.pickles import shown
from saddlepoint.pretrained.published import Published, counted, under

PLAYERS = ("g_ema", "g", "d")
KERNELS = re.compile(r"(^|\.)(kernel|blur\.kernel)$")  # resampling filters, made anew here
LAYER = {
    "conv.weight": "weight", "conv.modulation.weight": "affine.weight", "conv.modulation.bias": "affine.bias",
    "noise.weight": "noise_strength", "activate.bias": "bias",
}  # fmt: skip
IMAGE = {
    "conv.weight": "weight", "conv.modulation.weight": "affine.weight", "conv.modulation.bias": "affine.bias",
    "bias": "bias",
}  # fmt: skip
BLOCK = {
    "conv1.0.weight": "conv0.weight", "conv1.1.bias": "conv0.bias", "conv2.1.weight": "conv1.weight",
    "conv2.2.bias": "conv1.bias", "skip.1.weight": "skip.weight",
}  # fmt: skip
END = {
    "final_conv.0.weight": "b4.conv.weight", "final_conv.1.bias": "b4.conv.bias",
    "final_linear.0.weight": "b4.fc.weight", "final_linear.0.bias": "b4.fc.bias",
    "final_linear.1.weight": "b4.out.weight", "final_linear.1.bias": "b4.out.bias",
}  # fmt: skip


def is_rosinality(found: Any) -> bool:
    return isinstance(found, dict) and any(
        isinstance(part := found.get(name), Mapping) and ("input.input" in part or "final_linear.1.weight" in part)
        for name in PLAYERS
    )


def from_rosinality(found: Mapping[str, Any]) -> Published:
    """What the checkpoint holds. Raises UserError for a part that is no state dict, and widths that are another rule's.

    The public layout's `to_rgbs.i.upsample.kernel`, `blur.kernel` are filters and not read, nor are the optimizers.
    """
    parts = {name: _state(found[name], name) for name in PLAYERS if found.get(name) is not None}
    generators = {name: _generator(parts[name]) for name in ("g", "g_ema") if name in parts}
    if not generators:
        raise UserError("this checkpoint holds no generator: expected g_ema or g.")
    any_generator = next(iter(generators.values()))
    mean = found.get("latent_avg")
    for state in generators.values():
        style = state["mapping.fc0.weight"].shape[0]
        state["mapping.w_avg"] = mean.reshape(-1) if isinstance(mean, Tensor) else torch.zeros(style)
    judge = _discriminator(parts["d"]) if "d" in parts else {}
    said = [counted(f"read {name}", parts[name]) for name in parts]
    said += [f"not in the file: {name}" for name in PLAYERS if name not in parts]
    left = [shown(name) for name in found if name not in (*PLAYERS, "latent_avg")]
    said += [f"not read: {', '.join(left)}"] * bool(left)
    average = generators.get("g_ema", {})
    return Published(
        origin="a checkpoint of rosinality/stylegan2-pytorch",
        system="stylegan2",
        live={**under("G", generators.get("g", average)), **under("D", judge)},
        average=under("G", average),
        config=_config(any_generator),
        style_mean=isinstance(mean, Tensor),
        said=tuple(said),
    )


def _state(part: Any, where: str) -> dict[str, Tensor]:
    if not isinstance(part, Mapping) or not all(isinstance(k, str) and isinstance(v, Tensor) for k, v in part.items()):
        raise UserError(f"{where} is no state dict: expected names and tensors.")
    return {name: tensor.float() for name, tensor in part.items() if not KERNELS.search(name)}


def _generator(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The official names. What has no such name keeps its own, and is complained about where it is placed."""
    turned: dict[str, Tensor] = {}
    for name, tensor in state.items():
        ours = name
        if found := re.fullmatch(r"style\.(\d+)\.(weight|bias)", name):
            ours = f"mapping.fc{int(found[1]) - 1}.{found[2]}"  # style.0 normalises
        elif name == "input.input":
            ours, tensor = "synthesis.b4.const", _without(tensor, 4)
        elif found := re.fullmatch(r"noises\.noise_(\d+)", name):
            level, second = divmod(int(found[1]) + 1, 2)
            ours = f"synthesis.b{4 << level}.conv{second}.noise_const"
            tensor = _without(_without(tensor, 4), 3)
        elif found := re.fullmatch(r"(conv1|convs\.(\d+))\.(.+)", name):
            level, second = (0, 1) if found[2] is None else (int(found[2]) // 2 + 1, int(found[2]) % 2)
            if found[3] in LAYER:
                ours = f"synthesis.b{4 << min(level, 16)}.conv{second}.{LAYER[found[3]]}"
        elif found := re.fullmatch(r"(to_rgb1|to_rgbs\.(\d+))\.(.+)", name):
            level = 0 if found[2] is None else int(found[2]) + 1
            if found[3] in IMAGE:
                ours = f"synthesis.b{4 << min(level, 16)}.torgb.{IMAGE[found[3]]}"
        if ours.endswith((".conv0.weight", ".conv1.weight", ".torgb.weight")):
            tensor = _without(tensor, 5)
        elif ours.endswith(".noise_strength"):
            tensor = tensor.reshape(()) if tensor.numel() == 1 else tensor
        elif ours.endswith("torgb.bias"):
            tensor = tensor.reshape(-1)
        turned[ours] = tensor
    for needed in ("mapping.fc0.weight", "synthesis.b4.const", "synthesis.b4.torgb.weight"):
        if needed not in turned:
            raise UserError(f"the generator in this checkpoint has no {needed} under any name that is known.")
    return turned


def _without(tensor: Tensor, rank: int) -> Tensor:
    """A first axis of one sample taken off."""
    return tensor[0] if tensor.ndim == rank and tensor.shape[0] == 1 else tensor


def _discriminator(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """convs.0 reads the image, convs.1 is the block of the full resolution, the last one that of 8x8."""
    last = max((int(f[1]) for name in state if (f := re.match(r"convs\.(\d+)\.", name))), default=0)
    turned = {}
    for name, tensor in state.items():
        ours = END.get(name, name)
        if found := re.fullmatch(r"convs\.0\.(0\.weight|1\.bias)", name):
            ours = f"b{8 << min(last - 1, 16)}.fromrgb.{found[1][2:]}"
        elif (found := re.fullmatch(r"convs\.(\d+)\.(.+)", name)) and found[2] in BLOCK:
            ours = f"b{8 << min(last - int(found[1]), 16)}.{BLOCK[found[2]]}"
        turned[ours] = tensor
    return turned


def _config(generator: Mapping[str, Tensor]) -> dict[str, Any]:
    """Sizes, as the shapes tell them."""
    sides = sorted(int(f[1]) for n in generator if (f := re.fullmatch(r"synthesis\.b(\d+)\.conv1\.weight", n)))
    widths = {side: generator[f"synthesis.b{side}.conv1.weight"].shape[0] for side in sides}
    most = max(widths.values())
    narrow = [side for side in sides if widths[side] < most]
    base = widths[narrow[0]] * narrow[0] if narrow else most * sides[-1]
    for side, width in widths.items():
        if width != min(base // side, most):
            raise UserError(f"{width} feature maps at {side}x{side} are not min({base} / {side}, {most}).")
    layers = [name for name in generator if re.fullmatch(r"mapping\.fc\d+\.weight", name)]
    style, latent = generator["mapping.fc0.weight"].shape
    shared = {"img_resolution": sides[-1], "img_channels": generator["synthesis.b4.torgb.weight"].shape[0]}
    stack = {"channel_base": base, "channel_max": most}
    return {
        "G_kwargs": {
            **shared, "z_dim": latent, "w_dim": style, "mapping_kwargs": {"num_layers": len(layers)},
            "synthesis_kwargs": stack,
        },
        "D_kwargs": {**shared, **stack},
    }  # fmt: skip
