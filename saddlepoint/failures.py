"""A round that was not finite, saved so that it can be looked at: weights, examples and counters of that very move."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from saddlepoint.errors import UserError
from saddlepoint.runs import Run, write_bytes, write_json

if TYPE_CHECKING:
    from saddlepoint.engine import NonFiniteError
    from saddlepoint.game import Game, Round


def write_failure(run: Run, game: Game, error: NonFiniteError) -> Path:
    """Write RUN/failure: the weights that the move was measured at (nothing of it was written) and its round."""
    from safetensors.torch import save

    folder = run.path / "failure"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    round = error.round
    write_bytes(
        folder / "game.safetensors", save({k: v.detach().cpu().contiguous() for k, v in game.state_dict().items()})
    )
    write_bytes(folder / "batch.safetensors", save({k: v.detach().cpu().contiguous() for k, v in round.batch.items()}))
    counters = {name: getattr(round, name) for name in ("seed", "draw", "step", "clock", "first", "size", "total")}
    write_json(folder / "round.json", {"player": error.player, "error": str(error), **counters})
    return folder


def read_failure(run: Run) -> tuple[Game, str, Round]:
    """(game, player, round) of the saved failure."""
    from safetensors.torch import load_file

    from saddlepoint.game import Round
    from saddlepoint.systems import build

    folder = run.path / "failure"
    if not (folder / "round.json").is_file():
        raise UserError(f"{run.path} has no saved failure: it never met a round that was not finite.")
    values = json.loads((folder / "round.json").read_text())
    player = values.pop("player")
    values.pop("error")
    game = build(run.recipe)
    game.load_state_dict(load_file(folder / "game.safetensors"))
    batch = load_file(folder / "batch.safetensors")
    return game.train(), player, Round(batch, stage=game.stage(values["clock"]), **values)
