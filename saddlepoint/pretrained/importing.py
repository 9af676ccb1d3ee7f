"""A published file as a run of ours, which samples, is evaluated and goes on training.

read         a file -> Published: which system, its options, its tensors by their official names
import_run   the same as a run folder: recipe.json and a checkpoint at 0 kimg with game, average and optimizers
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from saddlepoint.errors import UserError
from saddlepoint.pretrained import LOADERS, biggan, load, nvidia, pickles, rosinality
from saddlepoint.pretrained.published import Published, counted

if TYPE_CHECKING:
    from saddlepoint.game import Game
    from saddlepoint.recipes.base import Recipe
    from saddlepoint.runs import Run

MEAN_OF = 4096  # latents whose mean w stands in for one that the file does not have
OFFICIAL = "saddlepoint.official"  # the key of our own account in a safetensors file's metadata
KNOWN = (
    "a pickle of NVIDIA's stylegan2-ada-pytorch or stylegan3 or of its TensorFlow predecessors, a checkpoint of "
    "rosinality/stylegan2-pytorch, a state dict of BigGAN-PyTorch or of the published biggan-deep, or a file of "
    "`saddlepoint export --format nvidia`"
)
READERS: tuple[tuple[Callable[[Any], bool], Callable[[Any], Published]], ...] = (
    (nvidia.is_torch, nvidia.from_torch),
    (nvidia.is_tensorflow, nvidia.from_tensorflow),
    (rosinality.is_rosinality, rosinality.from_rosinality),
    (biggan.is_biggan, biggan.from_biggan),
)


def read(file: str | Path) -> Published:
    """What a published file holds. Nothing in it is run (see `saddlepoint.pretrained.pickles`).

    Raises FileNotFoundError, and UserError for what is refused or of no known kind.
    """
    path = Path(file).expanduser()
    if not path.is_file():
        raise UserError(f"there is no file {str(path)!r}.")
    if path.suffix == ".safetensors":
        return _exported(path)
    found = pickles.read_pickle(path)
    for fits, reader in (*READERS, (_is_exported, _from_exported)):
        if fits(found):
            try:
                return reader(found)
            except UserError as error:
                raise UserError(f"{str(path)!r} cannot be imported: {error}") from error
    raise UserError(f"{str(path)!r} is none of the files that are known here: {KNOWN}.")


def _exported(path: Path) -> Published:
    """Official names and options in safetensors, as our own export writes them."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "pt") as file:
            notes = (file.metadata() or {}).get(OFFICIAL, "{}")
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
    except (SafetensorError, ValueError, OSError) as error:
        raise UserError(f"{str(path)!r} is not a readable safetensors file: {error}.") from error
    return _by_our_account(notes, tensors, repr(str(path)))


def _is_exported(found: Any) -> bool:
    return isinstance(found, dict) and isinstance(found.get(OFFICIAL), str)


def _from_exported(found: Mapping[str, Any]) -> Published:
    """The same as three state dicts and the account in a .pt."""
    parts = {name: found[name] for name in ("G", "D", "G_ema") if isinstance(found.get(name), Mapping)}
    tensors = {f"{name}.{key}": t for name, part in parts.items() for key, t in pickles.walk(part)}
    return _by_our_account(found[OFFICIAL], tensors, f"{OFFICIAL} in it")


def _by_our_account(text: str, tensors: Mapping[str, Tensor], where: str) -> Published:
    try:
        notes = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{where} does not say what it holds ({error}).") from error
    if not isinstance(notes, dict) or notes.get("system") not in LOADERS or not isinstance(notes.get("config"), dict):
        raise UserError(f"{where} does not say what it holds; expected {KNOWN}.")
    average = {"G." + n.removeprefix("G_ema."): t for n, t in tensors.items() if n.startswith("G_ema.")}
    live = {n: t for n, t in tensors.items() if not n.startswith("G_ema.")}
    return Published(
        origin="an export of saddlepoint",
        system=notes["system"],
        live=live,
        average=average,
        config=notes["config"],
        said=(counted("read", tensors),),
    )


def import_run(
    file: str | Path,
    out: str | Path,
    *,
    data: str = "",
    batch: int = 0,
    overwrite: bool = False,
    command: str = "",
    tell: Callable[[str], None] = lambda line: None,
) -> Run:
    """A run of a published file. data: what training goes on with (its channels and classes must be the networks').

    The optimizers begin anew, as in the official code, which does not save them; the average does not ramp up, and a
    blur that fades in at the start of a training is off. batch: examples a round (0: the system's default). tell: is
    given the account line by line. Raises UserError, and then no run was made.
    """
    from saddlepoint import runs
    from saddlepoint.engine import Training
    from saddlepoint.systems import build

    published = read(file)
    folder = Path(out)
    runs.refuse_occupied(folder, overwrite=overwrite)
    live = load(published.system, published.live, **published.config)
    recipe = recipe_for(live, data=data, batch=batch)
    game = build(recipe)
    game.load_state_dict(live.state_dict())  # what the recipe changes is none of its shapes
    training = Training(game, recipe)
    averaged = live
    if published.average:
        averaged = load(published.system, published.average, **published.config)
    for line in (f"{Path(file).name}: {published.origin}, {published.system}", *published.said):
        tell(line)
    if not any(name.startswith("D") for name in published.live):
        tell("the discriminator is new: training goes on with one that has seen nothing")
    parts = _parts(averaged, game.averaged)
    if not published.style_mean:
        tell(f"no mean of w in the file: measured over {MEAN_OF:,} latents")
        parts["generator.mapping.average"] = _mean_style(averaged)
        game.get_buffer("generator.mapping.average").copy_(_mean_style(live))
    training.average.load(parts)
    tensors, values = training.state()
    run = runs.create(folder, recipe, overwrite=overwrite, command=command, weights=_weights(game))
    record = {"file": Path(file).name, "origin": published.origin, "account": list(published.said)}
    runs.write_json(run.path / "environment.json", {**run.environment, "imported": record})
    runs.save_checkpoint(run.path / "checkpoints" / f"{0:012d}", tensors, values)
    return runs.Run(run.path)


def recipe_for(game: Game, *, data: str = "", batch: int = 0) -> Recipe:
    """The recipe that an imported game goes on with: as it says itself, on `data`, past the start of a training."""
    from saddlepoint import api, recipes

    own: Any = game.recipe
    preset = own.preset or next(iter(recipes.presets(own.system)))  # what `train --dry-run` compares settings with
    changes: dict[str, Any] = {"preset": preset, "ema_ramp": 0.0}
    if hasattr(own, "blur_sigma"):
        changes["blur_sigma"] = 0.0
    if batch:
        changes["batch"] = batch
    recipe: Recipe = dataclasses.replace(own, **changes)
    if not data:
        return recipe.with_intervals()
    prepared = api.prepared(recipe, data)
    theirs, ours = getattr(prepared, "classes", 0), getattr(own, "classes", 0)
    if getattr(own, "conditional", False) and theirs != ours:
        raise UserError(f"{data} has {theirs} classes, the networks in the file know {ours}.")
    return prepared.with_intervals()


def _parts(game: Game, averaged: tuple[str, ...]) -> dict[str, Tensor]:
    """The averaged modules' tensors by their names in the game."""
    return {
        f"{name}.{key}": tensor.detach().clone()
        for name in averaged
        for key, tensor in game.get_submodule(name).state_dict().items()
    }


@torch.no_grad()
def _mean_style(game: Game) -> Tensor:
    """The mean of w over latents of seed 0, in evaluation mode."""
    latents: Tensor = game.draw_latents(MEAN_OF, 0)  # type: ignore[operator]
    mapping = game.eval().get_submodule("generator.mapping")
    return torch.cat([mapping(part, truncation=1.0)[:, 0] for part in latents.split(256)]).mean(0)


def _weights(game: Game) -> dict[str, int]:
    return {player.name: sum(p.numel() for p in player.parameters) for player in game.players}
