"""NVIDIA's pickles: of stylegan2-ada-pytorch and stylegan3, and those of the TensorFlow years (ProGAN, StyleGAN,
StyleGAN2).

The PyTorch ones hold {G, D, G_ema, augment_pipe, training_set_kwargs} of objects that carry their own source, which is
not run here: an object is its attributes, among them the constructor's options (_init_kwargs) and the tensors
(_parameters, _buffers, _modules). The TensorFlow ones hold (G, D, Gs), each with its variables by name, its options
(static_kwargs) and its parts (components).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from saddlepoint.errors import UserError
from saddlepoint.pretrained import progan, stylegan1
from saddlepoint.pretrained.pickles import DEEPEST, Record, plain, shown
from saddlepoint.pretrained.published import Published, counted, options, under
from saddlepoint.pretrained.tensorflow import conv, dense, same

PLAYERS = ("G", "D", "G_ema")
MOST_MODULES = 20_000
TF_KINDS = ("dnnlib.tflib.network.Network", "tfutil.Network")


def is_torch(found: Any) -> bool:
    return isinstance(found, dict) and any(isinstance(found.get(name), Record) for name in PLAYERS)


def is_tensorflow(found: Any) -> bool:
    return (
        isinstance(found, tuple | list) and len(found) == 3 and all(getattr(f, "kind", "") in TF_KINDS for f in found)
    )


# ---- PyTorch
def from_torch(found: Mapping[str, Any]) -> Published:
    """What a pickle of stylegan2-ada-pytorch or stylegan3 holds. Raises UserError where it is none of these."""
    networks = {name: found[name] for name in PLAYERS if isinstance(found.get(name), Record)}
    tensors = {name: dict(_state(network, name)) for name, network in networks.items()}
    generator = tensors.get("G") or tensors.get("G_ema")
    if not generator:
        raise UserError("this pickle holds no generator: expected G or G_ema beside D.")
    if "synthesis.input.freqs" in generator:
        system = "stylegan3"
    elif "synthesis.b4.const" in generator:
        system = "stylegan2"
    else:
        raise UserError("the generator in this pickle is neither stylegan2's nor stylegan3's: no synthesis.b4.const.")
    config: dict[str, Any] = {}
    for names, group in ((("G_ema", "G"), "G_kwargs"), (("D",), "D_kwargs")):
        network = next((networks[name] for name in names if name in networks), None)
        if network is not None:
            if network.get("_init_args"):
                raise UserError(f"{group[0]} was made with options that are not named; expected named ones.")
            config[group] = options(network.get("_init_kwargs") or {}, group)
    said = [counted(f"read {name}", part) for name, part in tensors.items()]
    said += [f"not in the file: {name}" for name in PLAYERS if name not in networks]
    said += [f"not read: {shown(name)}" for name in found if name not in PLAYERS and found[name] is not None]
    return Published(
        origin="a pickle of NVIDIA's PyTorch code",
        system=system,
        live={**under("G", generator), **under("D", tensors.get("D", {}))},
        average=under("G", tensors.get("G_ema", {})),
        config=config,
        said=tuple(said),
    )


def _state(network: Record, where: str) -> Iterator[tuple[str, Tensor]]:
    """The state dict of a module as its attributes tell it."""
    left = [MOST_MODULES]

    def inside(module: Any, prefix: str, depth: int) -> Iterator[tuple[str, Tensor]]:
        left[0] -= 1
        if depth > DEEPEST or left[0] < 0 or not isinstance(module, Mapping):
            raise UserError(f"{where}.{shown(prefix)} is no module of a network.")
        hidden = module.get("_non_persistent_buffers_set") or ()
        for group in ("_parameters", "_buffers"):
            for name, value in _mapping(module, group, where).items():
                if isinstance(value := plain(value), np.ndarray):
                    value = torch.from_numpy(value)
                if isinstance(value, Tensor) and name not in hidden:
                    yield f"{prefix}{name}", value.detach()
        for name, child in _mapping(module, "_modules", where).items():
            if child is not None:
                yield from inside(child, f"{prefix}{shown(name)}.", depth + 1)

    return inside(network, "", 0)


def _mapping(module: Mapping[str, Any], group: str, where: str) -> Mapping[str, Any]:
    found = module.get(group) or {}
    if not isinstance(found, Mapping) or not all(isinstance(name, str) for name in found):
        raise UserError(f"{group} of {where} is a {shown(found)}; expected a mapping of names.")
    return found


# ---- TensorFlow
def from_tensorflow(found: Sequence[Record]) -> Published:
    """What a pickle (G, D, Gs) of ProGAN's, StyleGAN's or StyleGAN2's official code holds."""
    whole = [dict(_variables(network)) for network in found]
    kwargs = [options(network.get("static_kwargs") or {}, "static_kwargs") for network in found]
    names = set(whole[0]) | set(whole[2])
    if any(name.endswith("/mod_weight") for name in names):
        return _stylegan2(whole, kwargs)
    if any("/StyleMod/" in name for name in names):
        system, known = "stylegan1", {*stylegan1.OFFICIAL, *stylegan1.PASSED_OVER, *stylegan1.FIXED, "fused_scale"}
        whole = [{re.sub(r"^(mapping|synthesis)/", r"G_\1/", n): t for n, t in part.items()} for part in whole]
    elif "4x4/Dense/weight" in names:
        system, known = "progan", {*progan.OFFICIAL, *progan.PASSED_OVER, "use_leakyrelu"}
    else:
        raise UserError("the networks in this pickle are not ProGAN's, StyleGAN's or StyleGAN2's.")
    config: dict[str, Any] = {}
    dropped: set[str] = set()
    for given in (kwargs[2], kwargs[1]):  # what both have is the same, but for the widths' names
        dropped |= {k for k in given if k not in known}
        config |= {k: v for k, v in given.items() if k in known and k not in config}
    said = _account(whole) + [f"options passed over: {', '.join(sorted(map(shown, dropped)))}"] * bool(dropped)
    return Published(
        origin=f"a pickle of the official TensorFlow code of {system}",
        system=system,
        live={**under("G", whole[0]), **under("D", whole[1])},
        average=under("G", whole[2]),
        config=config,
        said=tuple(said),
    )


def _account(whole: Sequence[Mapping[str, Tensor]]) -> list[str]:
    return [counted(f"read {name}", part) for name, part in zip(("G", "D", "Gs"), whole, strict=True)]


def _variables(network: Any, depth: int = 0) -> Iterator[tuple[str, Tensor]]:
    """Variables of a network and, behind "NAME/", of its parts."""
    if not isinstance(network, Mapping) or depth > 4:
        raise UserError("a part of a network in this pickle is no network.")
    for entry in network.get("variables") or ():
        if not (isinstance(entry, tuple | list) and len(entry) == 2 and isinstance(entry[0], str)):
            raise UserError("a network in this pickle lists its variables in a form that is not known.")
        value = plain(entry[1])
        if isinstance(value, bool | int | float):
            value = np.asarray(value, np.float32)
        if not isinstance(value, np.ndarray):
            raise UserError(f"the variable {shown(entry[0])} is a {shown(value)}; expected an array.")
        yield entry[0], torch.from_numpy(np.ascontiguousarray(value)).reshape(value.shape)
    parts = network.get("components") or {}
    if not isinstance(parts, Mapping):
        raise UserError("a network in this pickle lists its parts in a form that is not known.")
    for name, part in parts.items():
        yield from ((f"{name}/{inner}", value) for inner, value in _variables(part, depth + 1))


Named = tuple[str, Callable[[Tensor], Tensor]]


def _flipped(t: Tensor) -> Tensor:
    """Kernels of transposed convolutions, which the official conversion turns by 180 degrees."""
    return conv(t.flip(0, 1)) if t.ndim == 4 else t


def _first(t: Tensor) -> Tensor:
    """[1, C, H, W] -> [C, H, W]."""
    return t[0] if t.ndim == 4 else t


def _image(t: Tensor) -> Tensor:
    """[1, 1, H, W] -> [H, W]."""
    return t[0, 0] if t.ndim == 4 else t


def _raised(t: Tensor) -> Tensor:
    """TensorFlow's styles start at 0 and add 1 at run time."""
    return t + 1


LAYER: dict[str, Named] = {
    "weight": ("weight", conv),
    "bias": ("bias", same),
    "noise_strength": ("noise_strength", same),
    "mod_weight": ("affine.weight", dense),
    "mod_bias": ("affine.bias", _raised),
}
LAYERS = {"Conv": "conv1", "Conv0_up": "conv0", "Conv1": "conv1", "ToRGB": "torgb", "Skip": "skip"}


def generator_name(name: str) -> Named:
    """A variable of StyleGAN2's generator as the tensor that it is in the PyTorch code."""
    if name == "dlatent_avg":
        return "mapping.w_avg", same
    if found := re.fullmatch(r"mapping/Dense(\d+)/(weight|bias)", name):
        return f"mapping.fc{found[1]}.{found[2]}", dense
    if found := re.fullmatch(r"mapping/LabelEmbed/(weight|bias)", name):
        return f"mapping.embed.{found[1]}", dense
    if name == "synthesis/4x4/Const/const":
        return "synthesis.b4.const", _first
    if found := re.fullmatch(r"synthesis/noise(\d+)", name):
        level, second = divmod(int(found[1]) + 1, 2)
        return f"synthesis.b{4 << level}.conv{second if level else 1}.noise_const", _image
    if found := re.fullmatch(r"synthesis/(\d+)x\1/(Conv|Conv0_up|Conv1|ToRGB|Skip)/(\w+)", name):
        ours, turn = LAYER.get(found[3], (found[3], same))
        turn = _flipped if found[3] == "weight" and found[2] in ("Conv0_up", "Skip") else turn
        return f"synthesis.b{found[1]}.{LAYERS[found[2]]}.{ours}", turn
    return name, same


def discriminator_name(name: str) -> Named:
    if found := re.fullmatch(r"4x4/(Conv|Dense0)/(weight|bias)", name):
        layer = {"Conv": "conv", "Dense0": "fc"}[found[1]]
        return f"b4.{layer}.{found[2]}", conv if layer == "conv" else dense
    if found := re.fullmatch(r"Output/(weight|bias)", name):
        return f"b4.out.{found[1]}", dense
    if found := re.fullmatch(r"(\d+)x\1/(FromRGB|Conv0|Conv1_down|Conv1|Skip)/(weight|bias)", name):
        return f"b{found[1]}.{found[2].lower().removesuffix('_down')}.{found[3]}", conv
    if found := re.fullmatch(r"LabelEmbed/(weight|bias)", name):
        return f"mapping.embed.{found[1]}", dense
    if found := re.fullmatch(r"Mapping(\d+)/(weight|bias)", name):
        return f"mapping.fc{found[1]}.{found[2]}", dense
    return name, same


SHARED = {"num_channels": "img_channels", "resolution": "img_resolution", "label_size": "c_dim"}
STACK = {
    "fmap_max": "channel_max", "architecture": "architecture", "resample_kernel": "resample_filter",
    "conv_clamp": "conv_clamp", "nonlinearity": "activation",
}  # fmt: skip
MAPPING = {
    "mapping_layers": "num_layers", "mapping_fmaps": "layer_features", "mapping_lrmul": "lr_multiplier",
    "dlatent_avg_beta": "w_avg_beta", "mapping_nonlinearity": "activation",
}  # fmt: skip
LATENT = {"latent_size": "z_dim", "dlatent_size": "w_dim"}
EPILOGUE = {"mbstd_group_size": "mbstd_group_size", "mbstd_num_features": "mbstd_num_channels"}
# Without a bearing on the networks that are built here, or at the one value that they have.
SILENT = {
    "func_name", "name", "dtype", "num_fp16_res", "fused_modconv", "use_noise", "randomize_noise", "structure",
    "truncation_psi", "truncation_cutoff", "style_mixing_prob", "normalize_latents", "fmap_base", "fmap_decay",
    "fmap_min", "is_template_graph", "force_clean_graph",
}  # fmt: skip


def _stylegan2(whole: Sequence[Mapping[str, Tensor]], kwargs: Sequence[Mapping[str, Any]]) -> Published:
    """StyleGAN2 of the TensorFlow code, under the names of the PyTorch code."""
    parts, left = [], []
    for player, (part, rename) in enumerate(
        zip(whole, (generator_name, discriminator_name, generator_name), strict=True)
    ):
        turned = {}
        for name, tensor in part.items():
            if re.search(r"(^|/)(lod|resample_filter|pl_mean\w*|augment\w*)$", name):
                left.append(name)
                continue
            ours, turn = rename(name)
            turned[ours] = turn(tensor).float()
        if player != 1:  # officially an option, where it is off there is no such variable
            turned.setdefault("mapping.w_avg", torch.zeros(turned["mapping.fc0.bias"].shape[0]))
        parts.append(turned)
    g, d = kwargs[2], kwargs[1]
    shared = {theirs: g.get(ours, d.get(ours)) for ours, theirs in SHARED.items() if ours in {**g, **d}}
    shared = {**_read_off(parts[2]), **shared}
    noise = any(name.endswith(".noise_strength") for name in parts[2])
    config = {
        "G_kwargs": {
            **shared, **_renamed(g, LATENT), "mapping_kwargs": _renamed(g, MAPPING),
            "synthesis_kwargs": {**_stack(g), "use_noise": noise},
        },
        "D_kwargs": {**shared, **_discriminator(d)},
    }  # fmt: skip
    known = {*SHARED, *STACK, *MAPPING, *LATENT, *EPILOGUE, *SILENT}
    dropped = sorted({shown(name) for given in kwargs for name in given if name not in known})
    said = [counted(f"read {name}", part) for name, part in zip(("G", "D", "Gs"), parts, strict=True)]
    said += [f"not read: {', '.join(map(shown, left))}"] * bool(left)
    said += [f"options passed over: {', '.join(dropped)}"] * bool(dropped)
    return Published(
        origin="a pickle of the official TensorFlow code of stylegan2",
        system="stylegan2",
        live={**under("G", parts[0]), **under("D", parts[1])},
        average=under("G", parts[2]),
        config=config,
        said=tuple(said),
    )


def _read_off(generator: Mapping[str, Tensor]) -> dict[str, Any]:
    """Resolution and channels, as the tensors tell them."""
    sides = [int(found[1]) for name in generator if (found := re.match(r"synthesis\.b(\d+)\.", name))]
    if not sides:
        raise UserError("the generator in this pickle has no blocks.")
    images = [tensor for name, tensor in generator.items() if name.endswith("torgb.weight")]
    return {"img_resolution": max(sides), "img_channels": images[0].shape[0] if images else 3}


def _renamed(given: Mapping[str, Any], names: Mapping[str, str]) -> dict[str, Any]:
    return {theirs: given[ours] for ours, theirs in names.items() if given.get(ours) is not None}


def _stack(given: Mapping[str, Any]) -> dict[str, Any]:
    """Widths: the TensorFlow code counts from blocks of half the resolution, so its base is half the other's."""
    return {**_renamed(given, STACK), "channel_base": 2 * int(given.get("fmap_base", 16 << 10))}


def _discriminator(given: Mapping[str, Any]) -> dict[str, Any]:
    stack = _stack(given)
    blocks = {name: stack.pop(name) for name in ("activation", "resample_filter") if name in stack}
    epilogue = {**{"mbstd_group_size": 4}, **_renamed(given, EPILOGUE)}
    if "activation" in blocks:
        epilogue["activation"] = blocks["activation"]
    return {**stack, "block_kwargs": blocks, "epilogue_kwargs": epilogue}
