"""Runs that nobody trained: a checkpoint of fresh weights, in a second."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from saddlepoint import recipes, runs
from saddlepoint.game import Game
from saddlepoint.runs import Run
from saddlepoint.systems import build

SMALL = {"resolution": 16, "channels": 1}


def recipe_of(system: str, preset: str = "tiny", **overrides: Any) -> Any:
    return recipes.recipe(system, preset, **{**SMALL, **overrides})


def game_of(system: str, preset: str = "tiny", **overrides: Any) -> Any:
    """A fresh game, fully grown, whose noise is seen and whose mean of w is not 0."""
    return _marked(build(recipe_of(system, preset, **overrides))).eval()


def run_of(path: Path, system: str, preset: str = "tiny", clock: int = 2000, **overrides: Any) -> Run:
    """A run with one checkpoint of `game_of`."""
    recipe = recipe_of(system, preset, **overrides)
    run = runs.create(path, recipe)
    add_checkpoint(run, game_of(system, preset, **overrides), clock)
    return run


def add_checkpoint(run: Run, game: Game, clock: int) -> None:
    tensors = {f"game/{name}": x for name, x in game.state_dict().items()}
    runs.save_checkpoint(run.path / "checkpoints" / f"{clock:012d}", tensors, {"clock": clock})


def _marked(game: Game) -> Game:
    with torch.no_grad():
        for name, x in (*game.named_parameters(), *game.named_buffers()):
            if name.startswith("generator") and name.endswith(("noise_strength", ".noise")):
                x.fill_(0.2)
            if name == "generator.lod":
                x.fill_(0.0)  # fully grown
            if name in ("generator.mapping.average", "generator.w_avg"):
                x.copy_(torch.linspace(-0.3, 0.3, len(x)))
    return game
