"""The systems: one file per paper. `build` turns a recipe into its game."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

from saddlepoint.facade import also_callable
from saddlepoint.recipes import SYSTEMS
from saddlepoint.recipes.base import AdversarialRecipe, ImageRecipe

if TYPE_CHECKING:
    import torch

    from saddlepoint.game import Game
    from saddlepoint.recipes.base import Recipe

also_callable(__name__, "saddlepoint.recipes:systems")


def build(recipe: Recipe, device: torch.device | str = "cpu") -> Game:
    """The untrained game of a resolved recipe; its weights are a pure function of recipe.seed.

    device="meta" builds the shapes without memory.
    """
    import torch

    from saddlepoint.errors import UserError

    if isinstance(recipe, ImageRecipe) and not (recipe.resolution and recipe.channels):
        raise UserError(
            f"{recipe.system} needs a resolution and channels: name the data (data='digits') or give "
            "resolution=32, channels=3."
        )
    module, _, name = SYSTEMS[recipe.system].game.partition(":")
    kind = getattr(importlib.import_module(module), name)
    if torch.device(device).type == "meta":
        with torch.device("meta"):
            game: Game = kind(recipe)
        return _frozen(game, recipe)
    with torch.random.fork_rng(devices=[]):  # weights are made on the CPU: the same on every device
        torch.manual_seed(recipe.seed)
        game = kind(recipe)
    return _frozen(game, recipe).to(device)


def _frozen(game: Game, recipe: Recipe) -> Game:
    if isinstance(recipe, AdversarialRecipe) and recipe.freeze_d:
        from saddlepoint.transfer import freeze

        freeze(game, recipe.freeze_d)
    return game
