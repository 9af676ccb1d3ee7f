"""Published weights in our games: `load("stylegan2", state, ...)` takes the official names of the tensors.

One module per system translates names and layouts; `placing.place` puts the tensors where they belong and names every
one that is missing, superfluous or of another shape.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from saddlepoint.errors import UserError, unknown

if TYPE_CHECKING:
    from torch import Tensor

    from saddlepoint.game import Game

LOADERS: dict[str, str] = {
    "biggan": "saddlepoint.pretrained.biggan",
    "cyclegan": "saddlepoint.pretrained.cyclegan",
    "gan-r1": "saddlepoint.pretrained.gan_r1",
    "gaugan": "saddlepoint.pretrained.gaugan",
    "pix2pix": "saddlepoint.pretrained.pix2pix",
    "pix2pixhd": "saddlepoint.pretrained.pix2pixhd",
    "progan": "saddlepoint.pretrained.progan",
    "r3gan": "saddlepoint.pretrained.r3gan",
    "stylegan1": "saddlepoint.pretrained.stylegan1",
    "stylegan2": "saddlepoint.pretrained.stylegan2",
    "stylegan3": "saddlepoint.pretrained.stylegan3",
}


def load(system: str, state: Mapping[str, Tensor], **config: Any) -> Game:
    """The game of `system` with the official weights in place.

    state: official tensor names -> tensors, of the generator ("G." names), the discriminator ("D.") or both; a player
    that is not named keeps its initial weights. config: what the official constructors were given, by their names.
    Raises UserError for an unknown system, a value in `state` that is no tensor, and tensors that are missing, not
    known or of a wrong shape, each by its name.
    """
    import torch

    if system not in LOADERS:
        raise unknown("system with published weights", system, LOADERS)
    wrong = [name for name, value in state.items() if not isinstance(value, torch.Tensor)]
    if wrong:
        raise UserError(f"{wrong[0]!r} is a {type(state[wrong[0]]).__name__}; expected a mapping of names to tensors.")
    game: Game = importlib.import_module(LOADERS[system]).load(state, **config)
    return game
