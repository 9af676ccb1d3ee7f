"""Official R3GAN weights (brownvc/R3GAN) in our game: names, constructor options, resampling kernels checked."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from saddlepoint import recipes
from saddlepoint.errors import UserError, unknown
from saddlepoint.pretrained.placing import place
from saddlepoint.systems.r3gan import R3GAN, Discriminator, Generator, kernel_of

BOTH = (
    "WidthPerStage", "CardinalityPerStage", "BlocksPerStage", "ExpansionFactor", "KernelSize", "ResamplingFilter",
    "ConditionEmbeddingDimension", "c_dim", "img_resolution",
)  # fmt: skip
GENERATOR = (*BOTH, "NoiseDimension")
LOOP = ("batch_size", "gamma", "lr", "beta2", "ema_nimg", "adam_eps")
# What says nothing of the networks: precision is a matter of our own recipe.
PASSED_OVER = ("FP16Stages", "class_name", "batch_gpu", "img_channels", "scale", "grad_names")
PARTS = {"conv1.weight": "LinearLayer1.Layer.weight", "conv1.bias": "NonLinearity1.Bias",
         "conv2.weight": "LinearLayer2.Layer.weight", "conv2.bias": "NonLinearity2.Bias",
         "conv3.weight": "LinearLayer3.Layer.weight"}  # fmt: skip


def load(state: Mapping[str, Tensor], **config: Any) -> R3GAN:
    """An r3gan with these weights; see `saddlepoint.pretrained.load`.

    state: official names, with or without "Model.", "G." (or "G_ema.", which is preferred) and "D." before those of
    the players. config: the constructors' options as G_kwargs and D_kwargs, or directly for the player that the state
    holds; batch_size, gamma, lr, beta2, ema_nimg and adam_eps set the recipe.
    """
    parts = split(state)
    game = R3GAN(recipe_of(config, parts))
    for name, tensors in parts.items():
        if tensors:
            fill(game.get_submodule(name), tensors, game.recipe.taps, f"the {name} of r3gan")
    return game


def split(state: Mapping[str, Tensor]) -> dict[str, dict[str, Tensor]]:
    """{"generator": ..., "discriminator": ...} of official names without prefixes."""
    parts: dict[str, dict[str, Tensor]] = {"G_ema": {}, "G": {}, "D": {}, "": {}}
    for name, tensor in state.items():
        match = re.match(r"^(G_ema|G|D)[./](.*)$", name.removeprefix("weights/"))
        key, rest = (match[1], match[2]) if match else ("", name.removeprefix("weights/"))
        parts[key][rest.removeprefix("Model.")] = tensor
    if parts[""]:
        judge = any(name.startswith("ExtractionLayer.") for name in parts[""])
        parts["D" if judge else "G"].update(parts[""])
    return {"generator": parts["G_ema"] or parts["G"], "discriminator": parts["D"]}


def official_names(module: Generator | Discriminator) -> dict[str, str]:
    """Our name of each parameter -> the official one, without "Model."."""
    backwards, names = isinstance(module, Discriminator), {}
    last = len(module.stages) - 1
    for name, _ in module.named_parameters():
        if match := re.match(r"^stages\.(\d+)\.(\d+)\.(.*)$", name):
            # In the generator layer 0 of a stage is the transition from the one before, in D the last layer is.
            number = int(match[2]) + (0 if backwards else 1)
            names[name] = f"MainLayers.{match[1]}.Layers.{number}.{PARTS[match[3]]}"
        elif match := re.match(r"^(ups|downs)\.(\d+)\.conv\.weight$", name):
            level = int(match[2]) + (0 if backwards else 1)
            number = _length(module, level) if backwards else 0
            names[name] = f"MainLayers.{level}.Layers.{number}.LinearLayer.Layer.weight"
        elif backwards:
            head = f"MainLayers.{last}.Layers.{_length(module, last)}"
            names[name] = {
                "first.weight": "ExtractionLayer.Layer.weight", "basis.weight": f"{head}.Basis.weight",
                "output.weight": f"{head}.LinearLayer.weight", "embed.weight": "EmbeddingLayer.weight",
            }[name]  # fmt: skip
        else:
            names[name] = {
                "output.weight": "AggregationLayer.Layer.weight", "basis": "MainLayers.0.Layers.0.Basis",
                "first.weight": "MainLayers.0.Layers.0.LinearLayer.weight", "embed.weight": "EmbeddingLayer.weight",
            }[name]  # fmt: skip
    return names


def _length(module: Generator | Discriminator, level: int) -> int:
    blocks = module.stages[level]
    assert isinstance(blocks, torch.nn.Sequential)
    return len(blocks)


def fill(module: Any, tensors: Mapping[str, Tensor], taps: Iterable[float], where: str) -> None:
    """Put official tensors into a player's module; refuse resampling kernels of another filter."""
    own = kernel_of(tuple(taps))
    for name, tensor in tensors.items():
        if name.endswith("Resampler.Kernel") and (
            tensor.shape != own.shape or not torch.allclose(tensor.to(own), own, atol=1e-5)
        ):
            raise UserError(f"{name} is not made from ResamplingFilter={list(taps)}: give the one that it was made of.")
    theirs = official_names(module)
    named = {ours: tensors[official] for ours, official in theirs.items() if official in tensors}
    known = set(theirs.values())
    rest = {n: t for n, t in tensors.items() if n not in known and not n.endswith("Resampler.Kernel")}
    place(module, {**named, **rest}, where=where, theirs=theirs, optional=lambda name: name.endswith("kernel"))


# ---- options
def recipe_of(config: Mapping[str, Any], parts: Mapping[str, Mapping[str, Tensor]]) -> Any:
    """The recipe that says the same as official options. The discriminator's stages are the generator's backwards."""
    known = (*GENERATOR, *LOOP, *PASSED_OVER, "G_kwargs", "D_kwargs")
    for name in config:
        if name not in known:
            raise unknown("option of r3gan's official code", name, known)
    flat = {k: v for k, v in config.items() if k in GENERATOR}
    g, d = dict(config.get("G_kwargs") or {}), dict(config.get("D_kwargs") or {})
    if flat:
        (d if parts["discriminator"] and not parts["generator"] else g).update(flat)
    for options, allowed in ((g, list(GENERATOR)), (d, list(BOTH))):
        for name in options:
            if name not in (*allowed, *PASSED_OVER):
                raise unknown("option of r3gan's official networks", name, allowed)
    found = _networks(g, d)
    tensors = [*parts["generator"].items(), *parts["discriminator"].items()]
    image = next((t for n, t in tensors if n.startswith(("AggregationLayer", "ExtractionLayer"))), None)
    if image is not None:
        found["channels"] = min(image.shape[:2])
    return recipes.recipe("r3gan", "ffhq-256", **found, **_training(config))


def _networks(g: Mapping[str, Any], d: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of both networks: those of the generator, else of the discriminator, backwards."""
    per_stage = ("WidthPerStage", "CardinalityPerStage", "BlocksPerStage")
    turned = {k: v[::-1] if k in per_stage else v for k, v in d.items()}
    for name in BOTH:
        if name in g and name in turned and g[name] != turned[name] and name != "ConditionEmbeddingDimension":
            raise UserError(
                f"{name} is {g[name]} in G_kwargs, but backwards in D_kwargs {turned[name]}; expected equal."
            )
    both = {**turned, **g}
    for name in (*per_stage, "img_resolution"):
        if name not in both:
            raise UserError(f"{name} is needed to build r3gan; it is an option of the official constructors.")
    classes = int(both.get("c_dim") or 0)
    return {
        "widths": tuple(both["WidthPerStage"]),
        "groups": tuple(both["CardinalityPerStage"]),
        "blocks": tuple(both["BlocksPerStage"]),
        "expansion": int(both.get("ExpansionFactor", 2)),
        "kernel": int(both.get("KernelSize", 3)),
        "taps": tuple(float(tap) for tap in both.get("ResamplingFilter", (1, 2, 1))),
        "latent": int(both.get("NoiseDimension", 64)),
        "resolution": int(both["img_resolution"]),
        "classes": classes,
        "conditional": classes > 0,
        "embedding": int(g.get("ConditionEmbeddingDimension") or 64),
        "projection": int(d.get("ConditionEmbeddingDimension") or 0),
    }


def _training(config: Mapping[str, Any]) -> dict[str, Any]:
    """What the official loop was given, held constant: the schedule's end is its beginning."""
    values: dict[str, Any] = {}
    for name, ours in (("batch_size", ("batch",)), ("gamma", ("penalty.r1", "penalty.r2")), ("lr", ("g.lr", "d.lr")),
                       ("adam_eps", ("g.eps", "d.eps"))):  # fmt: skip
        values |= dict.fromkeys(ours, config[name]) if name in config else {}
    if "gamma" in config or "lr" in config:
        values |= {"late.gamma": 1.0, "late.lr": 1.0}
    if "beta2" in config:  # one value, or that of the beginning and that of the end
        first, last = config["beta2"] if isinstance(config["beta2"], list | tuple) else (config["beta2"],) * 2
        values |= {"g.betas": (0.0, first), "d.betas": (0.0, first), "late.beta2": last}
    if "ema_nimg" in config:
        values["ema_half_life_kimg"] = config["ema_nimg"] / 1000
    return values
