"""Starting from what another run has learned, and keeping part of it: transfer learning and Freeze-D.

Two functions:
    start_from   weights of another run by name and shape, with an account of what was taken
    freeze       the discriminator's first layers keep their weights (Mo, Cho and Shin 2020, arXiv:2002.10964)
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from saddlepoint.errors import UserError
from saddlepoint.game import Game
from saddlepoint.runs import read_checkpoint, source_of

if TYPE_CHECKING:
    from saddlepoint.engine import Training

NAMED = 3  # tensors spelled out in a report; the rest is counted
JUDGES = ("discriminator", "critic")


@dataclass(frozen=True)
class Transfer:
    """What was taken from a run. Names are those of the game's tensors; weights counts numbers, not tensors."""

    source: str
    kimg: float
    taken: tuple[str, ...]
    weights: int  # numbers taken
    all_weights: int  # numbers that this game's players have
    absent: tuple[str, ...]  # here, but not in the run
    misshapen: tuple[str, ...]  # "name [8, 3] here, [4, 3] there"
    unused: tuple[str, ...]  # in the run, but not here

    def lines(self) -> list[str]:
        """The account for a reader."""
        every = len(self.taken) + len(self.absent) + len(self.misshapen)
        share = f"{len(self.taken)} of {every} tensors, {self.weights:,} of {self.all_weights:,} numbers"
        rest = {
            "of another shape": self.misshapen, "not in that run": self.absent, "only in that run": self.unused
        }  # fmt: skip
        return [f"from {self.source} at {self.kimg:g} kimg: {share}"] + [
            f"  {what} ({len(names)}): {', '.join(names[:NAMED])}{', ...' if len(names) > NAMED else ''}"
            for what, names in rest.items()
            if names
        ]

    def record(self) -> dict[str, Any]:
        """Plain values for environment.json."""
        return {
            "run": self.source, "kimg": self.kimg, "tensors": len(self.taken), "weights": self.weights,
            "of_weights": self.all_weights, "another_shape": list(self.misshapen), "absent": list(self.absent),
            "unused": list(self.unused),
        }  # fmt: skip


def start_from(training: Training, source: str | Path) -> Transfer:
    """Give the players of a new training the weights of another run, by name and shape; the average too.

    What belongs to a player or is averaged is taken, its buffers included (a generator's average latent). What belongs
    to the game alone is not: counters, the optimizers' moments, an augmentation's p, a running mean of a loss. Where
    the run has no average, the average starts at its live weights. Raises UserError if nothing fits.
    """
    run, folder = source_of(source)
    if folder is None:
        folder, tensors, values = run.latest(("game", "average"))
    else:
        tensors, values = read_checkpoint(folder, ("game", "average"))
    theirs = {k.removeprefix("game/"): v for k, v in tensors.items() if k.startswith("game/")}
    averaged = {k.removeprefix("average/"): v for k, v in tensors.items() if k.startswith("average/")}
    own = _owned(training.game)
    taken = [name for name, tensor in own.items() if name in theirs and theirs[name].shape == tensor.shape]
    if not taken:
        raise UserError(
            f"nothing in {source} fits: {run.recipe.system} ({run.recipe.preset}) and this {training.recipe.system} "
            "share no tensor of the same name and shape."
        )
    twin = _owned(training.average.twin)
    with torch.no_grad():
        for name in taken:
            own[name].copy_(theirs[name])
            if twin[name] is not own[name]:
                fits = name in averaged and averaged[name].shape == own[name].shape
                twin[name].copy_(averaged[name] if fits else theirs[name])
    return Transfer(
        source=str(source),
        kimg=values["counters"]["clock"] / 1000,
        taken=tuple(taken),
        weights=sum(own[name].numel() for name in taken),
        all_weights=sum(tensor.numel() for tensor in own.values()),
        absent=tuple(name for name in own if name not in theirs),
        misshapen=tuple(
            f"{name} {list(t.shape)} here, {list(theirs[name].shape)} there"
            for name, t in own.items()
            if name in theirs and theirs[name].shape != t.shape
        ),
        unused=tuple(name for name in theirs if name not in training.game.state_dict()),
    )


def _owned(game: Game) -> dict[str, Tensor]:
    """The tensors that belong to a player or to an averaged module, by their names in the game's state."""
    modules = [module for player in game.players for module in player.modules]
    modules += [game.get_submodule(name) for name in game.averaged]
    ids = {id(t) for module in modules for t in (*module.parameters(), *module.buffers())}
    return {name: t for name, t in game.state_dict(keep_vars=True).items() if id(t) in ids}


# ---- Freeze-D
def freeze(game: Game, layers: int) -> None:
    """Take the discriminator's first `layers` layers, from the image on, out of its player: they keep their weights.

    The order is that of `discriminator.layers()` where there is one (for the style-based systems the official order),
    else of its convolutions as they are registered. Raises UserError where there are not so many.
    """
    player = next((p for p in game.players if p.name in JUDGES), None)
    ordered = [] if player is None else [layer for module in player.modules for layer in layers_from_image(module)]
    if player is None or layers > len(ordered):
        raise UserError(
            f"freeze_d is {layers}, but {type(game).__name__} has "
            f"{f'a {player.name} of {len(ordered)} convolutions' if player else 'no discriminator'}."
        )
    for layer in ordered[:layers]:
        layer.requires_grad_(False)
    player.parameters = tuple(p for p in player.parameters if p.requires_grad)
    if not player.parameters:
        raise UserError(f"freeze_d is {layers}: nothing of the {player.name} would be left to train.")


def layers_from_image(module: nn.Module) -> list[nn.Module]:
    """The layers that Freeze-D counts, the one next to the image first."""
    own = getattr(module, "layers", None)
    if callable(own) and not isinstance(own, nn.Module):
        return list(own())
    return [m for m in module.modules() if isinstance(w := getattr(m, "weight", None), Tensor) and w.ndim == 4]
