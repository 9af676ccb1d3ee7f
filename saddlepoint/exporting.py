"""A run's networks for other programs: safetensors, ONNX, and the official names.

export_run   RUN as a file of one of FORMATS
official     a game's tensors under the official names and in their layouts, with the official options
to_onnx      the generator as an ONNX program: latents, noise images and labels in, images out, any batch
"""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from saddlepoint import recipes
from saddlepoint.errors import UserError, nearest, unknown
from saddlepoint.runs import Run, write_bytes

if TYPE_CHECKING:
    from saddlepoint.game import Game

ENDINGS = {"safetensors": (".safetensors",), "onnx": (".onnx",), "nvidia": (".safetensors", ".pt")}
OFFICIAL = "saddlepoint.official"
OPSET = 18


def export_run(run: Run, format: str, out: Path, checkpoint: Path | None = None) -> list[str]:
    """Write the run's newest (or another) checkpoint; returns what a reader should know, a line each.

    Raises UserError for an unknown format or ending, a system that the format does not know, and missing packages.
    """
    if format not in ENDINGS:
        raise unknown("format", format, ENDINGS)
    if out.suffix not in ENDINGS[format]:
        near = nearest(out.suffix, ENDINGS[format]) or ENDINGS[format][0]
        raise UserError(f"--out ends in {out.suffix!r}; {format} is written as {str(out.with_suffix(near))!r}.")
    if not out.parent.is_dir():
        raise UserError(f"there is no folder {str(out.parent)!r} to write {out.name} into.")
    game = run.game_at(checkpoint)
    if format == "safetensors":
        return _plain(run, game, out)
    if format == "onnx":
        return to_onnx(game, out)
    return _official(run, game, run.game_at(checkpoint, averaged=False), out)


def _saved(tensors: Mapping[str, Tensor], notes: Mapping[str, str]) -> bytes:
    from safetensors.torch import save

    return save({k: v.detach().cpu().contiguous().clone() for k, v in tensors.items()}, dict(notes))


def _plain(run: Run, game: Game, out: Path) -> list[str]:
    notes = {"saddlepoint.recipe": json.dumps(recipes.to_json(run.recipe)), "saddlepoint.clock": str(run.clock)}
    state = game.state_dict()
    write_bytes(out, _saved(state, notes))
    return [f"{len(state)} tensors, the generator's averaged; the recipe is in the metadata"]


# ---- official names
def _official(run: Run, averaged: Game, live: Game, out: Path) -> list[str]:
    g_ema, config = official(averaged)
    both, _ = official(live)
    parts = {
        "G_ema": {k[2:]: v for k, v in g_ema.items() if k.startswith("G.")},
        "G": {k[2:]: v for k, v in both.items() if k.startswith("G.")},
        "D": {k[2:]: v for k, v in both.items() if k.startswith("D.")},
    }
    notes = {OFFICIAL: json.dumps({"system": run.recipe.system, "config": config})}
    if out.suffix == ".pt":
        stream = io.BytesIO()
        states = {k: {n: t.detach().clone() for n, t in part.items()} for k, part in parts.items()}
        torch.save({**states, **notes}, stream)
        write_bytes(out, stream.getvalue())
    else:
        write_bytes(out, _saved({f"{k}.{n}": t for k, part in parts.items() for n, t in part.items()}, notes))
    return [f"{name}: {len(part)} tensors" for name, part in parts.items()]


def official(game: Game) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """("G." and "D." names -> tensors, options of the official constructors): `pretrained.load` turned round.

    Filters that official code makes itself are left out. Raises UserError for systems that have no official names
    here, and for shapes that the official networks cannot take.
    """
    recipe: Any = game.recipe  # type: ignore[attr-defined, unused-ignore]
    if getattr(recipe, "base", (4, 4)) != (4, 4):
        raise UserError(f"the official networks begin with 4x4, this {recipe.system} with {recipe.base}.")
    if recipe.system in ("stylegan2", "stylegan3"):
        return _torch_names(game, recipe.system), _torch_config(recipe)
    if recipe.system in ("stylegan1", "progan"):
        return _tensorflow_names(game, recipe), _tensorflow_config(recipe)
    raise UserError(f"{recipe.system} has no official names here; there are: progan, stylegan1, stylegan2, stylegan3.")


def _torch_names(game: Game, system: str) -> dict[str, Tensor]:
    import re

    from saddlepoint.pretrained import stylegan2, stylegan3

    rules = {"G": stylegan2.NAMES if system == "stylegan2" else stylegan3.GENERATOR_NAMES, "D": stylegan2.NAMES}
    found = {}
    for player, module in (("G", "generator"), ("D", "discriminator")):
        for name, tensor in game.get_submodule(module).state_dict().items():
            for pattern, replacement in rules[player]:
                name = re.sub(pattern, replacement, name)
            found[f"{player}.{name}"] = tensor
    return found


def _torch_config(recipe: Any) -> dict[str, Any]:
    """The options of StyleGAN2's and StyleGAN3's official constructors, losses and loops that say the same."""
    from saddlepoint.pretrained import stylegan2, stylegan3

    shared = {
        "c_dim": recipe.classes if recipe.conditional else 0,
        "img_resolution": recipe.resolution,
        "img_channels": recipe.channels,
    }
    g, d, latent = recipe.g_net, recipe.d_net, {"z_dim": recipe.latent, "w_dim": recipe.w}
    if recipe.system == "stylegan3":
        own = {theirs: getattr(recipe, ours) for theirs, ours in stylegan3.SYNTHESIS.items()}
        own["magnitude_ema_beta"] = recipe.magnitude_decay or 0.5 ** (recipe.batch / 20_000)
        mapping = {"num_layers": recipe.g_map.layers, "lr_multiplier": recipe.g_map.multiplier}
        generator = {**shared, **latent, **own, **_widths(g), "mapping_kwargs": mapping}
    else:
        stack = {**_widths(g), "architecture": g.architecture, "resample_filter": list(g.taps)}
        stack |= {"activation": g.activation, "use_noise": recipe.noise}
        generator = {**shared, **latent, "synthesis_kwargs": stack, "mapping_kwargs": _mapping(recipe.g_map)}
    generator["mapping_kwargs"]["w_avg_beta"] = recipe.w_average_decay
    discriminator = {
        **shared,
        **_widths(d),
        "architecture": d.architecture,
        "cmap_dim": recipe.projection or None,
        "block_kwargs": {"activation": d.activation, "resample_filter": list(d.taps), "freeze_layers": recipe.freeze_d},
        "mapping_kwargs": _mapping(recipe.d_map),
        "epilogue_kwargs": {
            "mbstd_group_size": recipe.stddev_group or None,
            "mbstd_num_channels": recipe.stddev_features,
            "activation": d.activation,
        },
    }
    loss = {theirs: getattr(recipe, ours) for theirs, ours in stylegan2.LOSS.items()}
    loop = {theirs: getattr(recipe, ours) for theirs, ours in stylegan2.LOOP.items()}
    movers = {
        f"{name}_opt_kwargs": {"lr": move.lr, "betas": list(move.betas), "eps": move.eps}
        for name, move in (("G", recipe.g), ("D", recipe.d))
    }
    return {
        "G_kwargs": generator, "D_kwargs": discriminator, "loss_kwargs": {**loss, "r1_gamma": recipe.penalty.r1},
        **loop, **movers,
    }  # fmt: skip


def _widths(net: Any) -> dict[str, Any]:
    return {"channel_base": net.channel_base, "channel_max": net.channel_max, "conv_clamp": net.clamp or None}


def _mapping(settings: Any) -> dict[str, Any]:
    return {
        "num_layers": settings.layers, "layer_features": settings.width or None,
        "embed_features": settings.embedding or None, "lr_multiplier": settings.multiplier,
        "activation": settings.activation,
    }  # fmt: skip


def _tensorflow_names(game: Game, recipe: Any) -> dict[str, Tensor]:
    """Every official variable, fetched from the tensor of ours that it is read into, its layout turned back."""
    from saddlepoint.pretrained import progan, stylegan1
    from saddlepoint.pretrained.tensorflow import conv, dense, same, transposed_conv

    back: dict[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]] = {
        same: same,
        dense: lambda t: t.t() if t.ndim == 2 else t,
        conv: lambda t: t.permute(2, 3, 1, 0) if t.ndim == 4 else t,
        transposed_conv: lambda t: t.flip(2, 3).permute(2, 3, 0, 1) if t.ndim == 4 else t,
        stylegan1._turned: lambda t: t.flip(2, 3).permute(2, 3, 1, 0) if t.ndim == 4 else t,
    }
    if getattr(recipe, "port", "") == "zoo":
        raise UserError("this progan is of the GAN zoo's shape, which the official networks do not have.")
    found = {}
    for player, module in (("G", "generator"), ("D", "discriminator")):
        own = game.get_submodule(module).state_dict()
        levels = recipe.resolution.bit_length() - 2
        if recipe.system == "progan":
            names = [
                (n, *progan._official_name(n, levels)) for n in progan._official_names(player, levels, recipe.fused)
            ]
        else:
            name_of = stylegan1._generator_name if player == "G" else stylegan1._discriminator_name
            names = [(n, *name_of(n, levels, stylegan1.FUSED_FROM)) for n in stylegan1._names(player, recipe)]
            if player == "G":
                names.append(("dlatent_avg", "w_avg", same))
        for theirs, ours, turn in names:
            found[f"{player}.{theirs}"] = back[turn](own[ours])
    return found


def _tensorflow_config(recipe: Any) -> dict[str, Any]:
    from saddlepoint.pretrained import progan, stylegan1

    names = progan.OFFICIAL if recipe.system == "progan" else stylegan1.OFFICIAL
    found = {}
    for theirs, path in names.items():
        value = recipe
        for part in path.split("."):
            value = getattr(value, part)
        found[theirs] = value
    if not recipe.conditional:
        found["label_size"] = 0
    return found


# ---- ONNX
class _Styled(nn.Module):
    """StyleGAN2's generator, its noise images as inputs."""

    def __init__(self, game: Any, noise: list[str]) -> None:
        super().__init__()
        self.generator, self.noise, self.conditional = game.generator, noise, game.recipe.conditional

    def forward(self, z: Tensor, *rest: Tensor) -> Tensor:
        label, images = (rest[0], rest[1:]) if self.conditional else (None, rest)
        named = dict(zip(self.noise, images, strict=True))
        ws = self.generator.mapping(z, label)
        if not self.noise:
            return self.generator.synthesis(ws).clamp(-1, 1)
        return self.generator.synthesis(ws, noise=lambda name, *shape: named[name]).clamp(-1, 1)


class _Adaptive(nn.Module):
    """StyleGAN's generator at full resolution, its noise images as inputs."""

    def __init__(self, game: Any, noise: list[str]) -> None:
        super().__init__()
        self.generator, self.noise, self.conditional = game.generator, noise, game.recipe.conditional
        self.level = game.generator.level(None)

    def forward(self, z: Tensor, *rest: Tensor) -> Tensor:
        label, images = (rest[0], rest[1:]) if self.conditional else (None, rest)
        w = self.generator.mapping(z, label)
        ws = self.generator.styles(w)
        found = (lambda layer, side: images[layer]) if self.noise else None
        return self.generator.synthesis.at(self.level, ws, found).clamp(-1, 1)


class _Direct(nn.Module):
    """A generator of latents (and labels)."""

    def __init__(self, game: Any) -> None:
        super().__init__()
        self.generator = game.generator
        lod = getattr(game.generator, "lod", None)  # a growing generator stays where it stands
        self.fixed = {} if lod is None else {"lod": float(lod)}

    def forward(self, z: Tensor, *label: Tensor) -> Tensor:
        return self.generator(z, *label, **self.fixed).clamp(-1, 1)


def noise_inputs(game: Any) -> dict[str, Tensor]:
    """The generator's constant noise images [1, 1, H, W] by their layers' names; none for systems without."""
    synthesis: Any = getattr(game.generator, "synthesis", None)
    if game.recipe.system == "stylegan2" and game.recipe.noise:
        layers = [m for m in synthesis.modules() if isinstance(getattr(m, "noise_image", None), Tensor)]
        return {layer.name: layer.noise_image[None, None] for layer in layers}
    if game.recipe.system == "stylegan1" and game.recipe.noise:
        return {f"noise{i}": synthesis.get_buffer(f"noise{i}") for i in range(synthesis.layers)}
    return {}


def program(game: Any) -> tuple[nn.Module, dict[str, Tensor]]:
    """(module, named example inputs) of the generator: z [N, latent], label [N] if conditional, noise [1, 1, H, W]."""
    recipe = game.recipe
    if not hasattr(game, "generator") or not hasattr(recipe, "latent"):
        raise UserError(f"{recipe.system} has no generator of latents that ONNX could run.")
    inputs: dict[str, Tensor] = {"z": game.draw_latents(2, 0)}
    if getattr(recipe, "conditional", False):
        inputs["label"] = torch.arange(2) % recipe.classes
    images = noise_inputs(game)
    if recipe.system in ("stylegan2", "stylegan3"):
        module: nn.Module = _Styled(game, list(images))
    elif recipe.system == "stylegan1":
        module = _Adaptive(game, list(images))
    else:
        module = _Direct(game)
    return module.eval(), {**inputs, **{name.replace(".", "_"): t for name, t in images.items()}}


def to_onnx(game: Game, out: Path) -> list[str]:
    """Write the generator as ONNX. The stored noise images are beside it in OUT.noise.safetensors where there are any.

    Raises UserError without the packages onnx and onnxscript, and where torch cannot trace the generator.
    """
    import importlib.util

    missing = [name for name in ("onnx", "onnxscript") if importlib.util.find_spec(name) is None]
    if missing:
        raise UserError(f"ONNX needs {' and '.join(missing)}: pip install 'saddlepoint[onnx]'.")
    module, inputs = program(game.eval())
    batch = torch.export.Dim("batch", min=1, max=1 << 16)
    shapes = [{0: batch} if name in ("z", "label") else None for name in inputs]
    first, *rest = shapes
    with torch.no_grad():
        traced = torch.export.export(
            module, tuple(inputs.values()), dynamic_shapes=(first, tuple(rest)) if rest else (first,), strict=False
        )
        made = torch.onnx.export(
            traced, dynamo=True, input_names=list(inputs), output_names=["images"], opset_version=OPSET, verbose=False
        )
    assert made is not None
    stream = made.model_proto.SerializeToString()
    write_bytes(out, stream)
    said = [f"inputs: {', '.join(f'{name} {list(t.shape)}' for name, t in inputs.items())}; any batch of z"]
    noise = {name: t for name, t in inputs.items() if name not in ("z", "label")}
    if noise:
        beside = out.with_suffix(".noise.safetensors")
        write_bytes(beside, _saved(noise, {}))
        said.append(f"the run's own noise images: {beside}")
    return said
