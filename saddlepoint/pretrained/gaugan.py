"""Official weights of GauGAN (NVlabs/SPADE) in our game: names, options, and what a file tells of both.

A released file (latest_net_G.pth) is the bare state dict of one network: generator, discriminators and encoder are
recognised by their names. Pass several with "G.", "D." and "E." before their names, and VGG19's weights of the
perceptual term with "VGG.". Options that are not given are read off the tensors where they show there, else they are
the official defaults.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from saddlepoint import recipes
from saddlepoint.errors import UserError, unknown
from saddlepoint.layers.spectral import SpectralNorm
from saddlepoint.layers.vgg import VGG19
from saddlepoint.pretrained.placing import place
from saddlepoint.recipes.gaugan import DOUBLINGS, GauGANRecipe
from saddlepoint.systems.gaugan import GauGAN

PARTS = {"G": "generator", "D": "discriminator", "E": "encoder"}

# Official options -> settings of ours that take the value as it is.
PLAIN = {
    "ngf": "width", "ndf": "d_width", "z_dim": "latent", "output_nc": "channels", "label_nc": "labels",
    "contain_dontcare_label": "dont_care", "crop_size": "resolution", "load_size": "load_size",
    "aspect_ratio": "aspect", "num_upsampling_layers": "upsampling", "num_D": "scales", "n_layers_D": "n_layers",
    "lambda_feat": "feature_matching", "lambda_vgg": "vgg_weight", "lambda_kld": "kld", "gan_mode": "criterion",
    "use_vae": "encoder", "init_type": "init", "init_variance": "init_gain", "batchSize": "batch",
    "nhidden": "hidden",
}  # fmt: skip
WORDED = (
    "norm_G", "norm_D", "norm_E", "no_instance", "no_ganFeat_loss", "no_vgg_loss", "lr", "beta1", "beta2", "no_TTUR",
    "niter", "niter_decay", "no_flip", "netG", "netD", "netD_subarch", "netE", "semantic_nc", "dataset_mode",
    "D_steps_per_G", "optimizer",
)  # fmt: skip
IGNORED = (
    "isTrain", "continue_train", "nef", "name", "model", "phase", "preprocess_mode", "gpu_ids", "checkpoints_dir",
    "dataroot", "serial_batches", "nThreads", "max_dataset_size", "load_from_opt_file", "cache_filelist_write",
    "cache_filelist_read", "display_winsize", "which_epoch", "display_freq", "print_freq", "save_latest_freq",
    "save_epoch_freq", "no_html", "debug", "tf_log", "results_dir", "how_many", "label_dir", "image_dir",
    "instance_dir", "no_pairing_check", "coco_no_portraits",
)  # fmt: skip
ONLY = {
    "netG": ("spade",), "netD": ("multiscale",), "netD_subarch": ("n_layer",), "netE": ("conv",), "optimizer": ("adam",)
}  # fmt: skip
DATASETS: dict[str, dict[str, Any]] = {
    "coco": {"labels": 182, "dont_care": True, "instances": True, "resolution": 256, "load_size": 286},
    "ade20k": {"labels": 150, "dont_care": True, "instances": False, "resolution": 256, "load_size": 286},
    "cityscapes": {"labels": 35, "instances": True, "resolution": 512, "aspect": 2.0, "load_size": 512},
    "facades": {"labels": 13, "instances": False, "resolution": 256, "load_size": 286},
    "custom": {},
}
SEEN_MAPS = {184: "coco", 151: "ade20k", 36: "cityscapes"}  # channels of the released files' maps


def load(state: Mapping[str, Tensor], **config: Any) -> GauGAN:
    """A GauGAN with these weights: "G.", "D.", "E." and "VGG." names, or one network alone.

    config: the official training options by their names (label_nc, no_instance, num_upsampling_layers, use_vae, ...),
    and nhidden, the width inside SPADE. UserError names unknown options and tensors that do not fit.
    """
    from saddlepoint.systems import build

    found = split(state)
    vgg = found.pop("VGG")
    game = build(recipe_of(found, config))
    assert isinstance(game, GauGAN)
    for part, tensors in found.items():
        if tensors and part == "E" and not game.recipe.encoder:
            raise UserError("there are weights of an encoder (E.), but use_vae is off.")
        if tensors:
            fill(game.get_submodule(PARTS[part]), tensors, f"{part} of gaugan")
    if vgg:
        game.vgg = VGG19(vgg, "VGG of gaugan")
    return game


def split(state: Mapping[str, Tensor]) -> dict[str, dict[str, Tensor]]:
    """{G, D, E, VGG: official names -> tensors}; a bare file is recognised by its names."""
    found: dict[str, dict[str, Tensor]] = {part: {} for part in (*PARTS, "VGG")}
    for name, tensor in state.items():
        bare = name.removeprefix("weights/").removeprefix("module.")
        match = re.match(r"^(?:net)?(G|D|E|VGG|vgg)[./](.*)$", bare)
        if match:
            found[match[1].upper()][match[2].removeprefix("module.")] = tensor
        elif bare.startswith("discriminator_"):
            found["D"][bare] = tensor
        elif re.match(r"^(layer\d|fc_mu\.|fc_var\.)", bare):
            found["E"][bare] = tensor
        elif re.match(r"^(features|slice\d)\.", bare):
            found["VGG"][bare] = tensor
        else:
            found["G"][bare] = tensor
    return found


def fill(network: nn.Module, tensors: Mapping[str, Tensor], where: str) -> None:
    """Put one network's tensors into place: weight_orig, weight_u, weight_v are weight, u0, v0 of a spectral layer."""
    spectral = {n for n, layer in network.named_modules() if isinstance(layer, SpectralNorm)}
    ours: dict[str, Tensor] = {}
    theirs: dict[str, str] = {}
    for name, tensor in tensors.items():
        layer, _, last = name.rpartition(".")
        if last == "num_batches_tracked":
            continue
        own = name
        if layer in spectral:
            own = f"{layer}.{ {'weight_orig': 'weight', 'weight_u': 'u0', 'weight_v': 'v0'}.get(last, last) }"
            tensor = tensor.unsqueeze(0) if last in ("weight_u", "weight_v") else tensor
        ours[own], theirs[own] = tensor, name
    for own, _ in [*network.named_parameters(), *network.named_buffers()]:
        layer, _, last = own.rpartition(".")
        if layer in spectral and last in ("weight", "u0", "v0"):
            official = {"weight": "weight_orig", "u0": "weight_u", "v0": "weight_v"}[last]
            theirs.setdefault(own, f"{layer}.{official}")
    place(network, ours, where=where, optional=lambda n: n.rpartition(".")[2] == "sv0", theirs=theirs)
    with torch.no_grad():
        for name in spectral:
            one = network.get_submodule(name)
            assert isinstance(one, SpectralNorm)
            matrix = one.weight.flatten(1)
            one.get_buffer("sv0").copy_(((one.get_buffer("u0") @ matrix) * one.get_buffer("v0")).sum().reshape(1))


# ---- options
def recipe_of(found: Mapping[str, Mapping[str, Tensor]], config: Mapping[str, Any]) -> GauGANRecipe:
    """The recipe that says the same as official options and these tensors."""
    for name in config:
        if name not in (*PLAIN, *WORDED, *IGNORED):
            raise unknown("option of gaugan's official code", name, [*PLAIN, *WORDED])
    for name, choices in ONLY.items():
        if name in config and str(config[name]).lower() not in choices:
            raise unknown(name, str(config[name]), choices)
    values: dict[str, Any] = {
        "data": "", "channels": 3, "input_channels": 1, "resolution": 256, "load_size": 286, "batch": 1,
        "upsampling": "normal", "levels": 0,
    }  # fmt: skip
    values |= read_off(found, config)
    if "dataset_mode" in config:
        if config["dataset_mode"] not in DATASETS:
            raise unknown("dataset_mode", str(config["dataset_mode"]), DATASETS)
        values |= DATASETS[config["dataset_mode"]]
    given = {PLAIN[name]: value for name, value in config.items() if name in PLAIN}
    values |= given | worded(config)
    if "resolution" not in given:
        values |= start_size(found, values)
    if isinstance(values["resolution"], int) and isinstance(values.get("load_size"), int):
        values["load_size"] = max(values["load_size"], values["resolution"])
    made = recipes.with_overrides(GauGANRecipe(system="gaugan", preset="paper"), values)
    assert isinstance(made, GauGANRecipe)
    agreeing(made, config)
    return made


def agreeing(recipe: GauGANRecipe, config: Mapping[str, Any]) -> None:
    """UserError where semantic_nc is given and is not what the other options make."""
    maps = recipe.labels + recipe.dont_care + recipe.instances
    if config.get("semantic_nc", maps) != maps:
        raise UserError(
            f"semantic_nc is {config['semantic_nc']}, but label_nc {recipe.labels}, contain_dontcare_label "
            f"{recipe.dont_care} and no_instance {not recipe.instances} make {maps}."
        )


def worded(config: Mapping[str, Any]) -> dict[str, Any]:
    """Settings from the official options that are not settings of ours word for word."""
    values: dict[str, Any] = {}
    if "norm_G" in config:
        values |= generator_norm(str(config["norm_G"]))
    for option, letter in (("norm_D", "d"), ("norm_E", "e")):
        if option in config:
            kind = str(config[option])
            name = kind.removeprefix("spectral").replace("sync", "").strip("_") or "none"
            if name not in ("instance", "batch", "none"):
                raise unknown(option, kind, ["spectralinstance", "spectralbatch", "spectralnone", "instance", "batch"])
            values |= {f"{letter}_norm": name, f"{letter}_spectral": kind.startswith("spectral")}
    if "no_instance" in config:
        values["instances"] = not config["no_instance"]
    if config.get("no_ganFeat_loss"):
        values["feature_matching"] = 0.0
    if config.get("no_vgg_loss"):
        values["vgg_weight"] = 0.0
    if "no_flip" in config:
        values["mirror"] = not config["no_flip"]
    lr, betas = float(config.get("lr", 2e-4)), (float(config.get("beta1", 0.0)), float(config.get("beta2", 0.9)))
    rates = (lr, lr) if config.get("no_TTUR") else (lr / 2, 2 * lr)
    values["g"], values["d"] = ({"lr": rate, "betas": betas, "kind": "adam"} for rate in rates)
    values["d"]["steps"] = int(config.get("D_steps_per_G", 1))
    return values


def generator_norm(kind: str) -> dict[str, Any]:
    """spectralspadesyncbatch3x3, spadeinstance5x5, ..."""
    match = re.fullmatch(r"(spectral)?spade(syncbatch|sync_batch|batch|instance)(\d+)x(\d+)", kind)
    if match is None or match[3] != match[4]:
        choices = [
            f"{s}spade{n}{k}" for s in ("spectral", "") for n in ("syncbatch", "instance") for k in ("3x3", "5x5")
        ]
        raise unknown("norm_G", kind, choices)
    norm = "instance" if match[2] == "instance" else "batch"
    return {"g_spectral": bool(match[1]), "norm": norm, "kernel": int(match[3])}


# ---- what the tensors say
def read_off(found: Mapping[str, Mapping[str, Tensor]], config: Mapping[str, Any]) -> dict[str, Any]:
    """Widths, norms and channels as far as they show."""
    values: dict[str, Any] = {"encoder": bool(found["E"])}
    values |= dict(of_discriminator(found["D"]))
    values |= dict(of_encoder(found["E"]))
    values |= dict(of_generator(found["G"]))
    maps = values.pop("maps", 0)
    if not maps and "inputs" in values:
        maps = values["inputs"] - int(config.get("output_nc", values.get("channels", 3)))
    values.pop("inputs", None)
    maps = int(config.get("semantic_nc", maps))
    if not maps or "label_nc" in config or "dataset_mode" in config:  # official defaults for what is not given
        return {"labels": 182, "instances": True, **values}
    if maps in SEEN_MAPS and not {"contain_dontcare_label", "no_instance"} & set(config):
        kind = DATASETS[SEEN_MAPS[maps]]
        return {**values, **{k: kind[k] for k in ("labels", "dont_care", "instances", "aspect") if k in kind}}
    extra = int(bool(config.get("contain_dontcare_label"))) + int(not config.get("no_instance", True))
    return {**values, "labels": maps - extra, "instances": not config.get("no_instance", True)}


def of_generator(tensors: Mapping[str, Tensor]) -> Iterator[tuple[str, Any]]:
    if "conv_img.weight" in tensors:
        out, last = tensors["conv_img.weight"].shape[:2]
        yield "channels", out
        most = any(n.startswith("up_4.") for n in tensors)
        yield "width", 2 * last if most else last
        if most:
            yield "upsampling", "most"
    shared = tensors.get("head_0.norm_0.mlp_shared.0.weight")
    if shared is not None:
        yield from {"hidden": shared.shape[0], "maps": shared.shape[1], "kernel": shared.shape[2]}.items()
        yield "norm", "batch" if "head_0.norm_0.param_free_norm.running_mean" in tensors else "instance"
        yield "g_spectral", "head_0.conv_0.weight_orig" in tensors
    fc = tensors.get("fc.weight")
    if fc is not None:
        yield "encoder", fc.ndim == 2
        if fc.ndim == 2:
            yield "latent", fc.shape[1]


def of_discriminator(tensors: Mapping[str, Tensor]) -> Iterator[tuple[str, Any]]:
    first = tensors.get("discriminator_0.model0.0.weight")
    if first is None:
        return
    yield from {"d_width": first.shape[0], "inputs": first.shape[1]}.items()
    scales = {m[1] for n in tensors if (m := re.match(r"^discriminator_(\d{1,3})\.", n))}
    yield "scales", max(1, len(scales))
    layers = {m[1] for n in tensors if (m := re.match(r"^discriminator_0\.model(\d{1,3})\.", n))}
    yield "n_layers", max(1, len(layers) - 1)
    yield from norms(tensors, "discriminator_0.model1.0", "d")


def of_encoder(tensors: Mapping[str, Tensor]) -> Iterator[tuple[str, Any]]:
    if "fc_mu.weight" not in tensors:
        return
    yield "latent", tensors["fc_mu.weight"].shape[0]
    yield "width", max(1, tensors["fc_mu.weight"].shape[1] // 128)
    yield from norms(tensors, "layer1", "e")


def norms(tensors: Mapping[str, Tensor], layer: str, letter: str) -> Iterator[tuple[str, Any]]:
    """Norm and spectral norm of a convolution that may have a norm beside it."""
    within = {n[len(layer) + 1 :] for n in tensors if n.startswith(f"{layer}.")}
    if not within:
        return
    yield f"{letter}_spectral", bool({"0.weight_orig", "weight_orig"} & within)
    if "1.running_mean" in within:
        yield f"{letter}_norm", "batch"
    else:
        yield f"{letter}_norm", "instance" if {"0.weight_orig", "0.weight"} & within else "none"


def start_size(found: Mapping[str, Mapping[str, Tensor]], values: Mapping[str, Any]) -> dict[str, Any]:
    """The resolution that a style start's rows speak of."""
    fc = found["G"].get("fc.weight")
    if fc is None or fc.ndim != 2 or values.get("upsampling") not in DOUBLINGS:
        return {}
    pixels, aspect = fc.shape[0] // max(1, 16 * int(values.get("width", 64))), float(values.get("aspect", 1.0))
    wide = round(math.sqrt(pixels * aspect)) if aspect > 0 else 0
    return {"resolution": wide << DOUBLINGS[values["upsampling"]]} if wide else {}
