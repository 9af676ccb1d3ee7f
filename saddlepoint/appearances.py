"""The looks that pix2pixHD's objects can have: K-means centres of the training set's features, kept with a checkpoint.

The encoder gives every object of a photo a few numbers. To draw a new photo of a map, each object takes the numbers of
one of its class's centres (section 3.4 of arXiv:1711.11585). They belong to one checkpoint's encoder, so they lie in
its folder, with the fingerprint of its weights; who replaces the weights has them made again.

attach   centres into a game: those that were kept, or new ones, which are kept then
keep     what `train` does at the end, so that the run needs its data no more
"""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from saddlepoint.errors import UserError
from saddlepoint.runs import write_bytes

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from saddlepoint.runs import Run

FILE = "appearances.safetensors"
PHOTOS = 3000  # of the training set at most: Cityscapes has 2,975
BATCH = 8


def attach(game: Any, run: Run, checkpoint: Path | None = None, *, make: bool = True) -> bool:
    """Put the checkpoint's centres into the game; whether it has some now. Nothing happens to games without features.

    checkpoint: None is the newest whole one. make: where none are kept, find them in the run's training data and keep
    them. Centres that came with the weights (imported files) stay. A folder that cannot be written keeps nobody from
    the result. Raises UserError where the data are needed and not there.
    """
    if not getattr(game.recipe, "features", 0) or not hasattr(game, "centres_known"):
        return False
    folder = checkpoint or run.latest(("game",))[0]
    kept = _kept(folder)
    if kept is not None:
        game.set_centres(kept)
    elif int(game.centres_known.sum()):
        return True
    elif make:
        print(f"finding the looks of objects in {run.recipe.data} (once for this checkpoint)", file=sys.stderr)
        _keep(folder, game.learn_centres(_examples(run)))
    return bool(int(game.centres_known.sum()))


def _examples(run: Run) -> Iterator[dict[str, Tensor]]:
    """Training examples, whole and not mirrored, at most PHOTOS in an order of their own."""
    from saddlepoint.data import paired

    recipe: Any = dataclasses.replace(run.recipe, mirror=False, load_size=0)  # type: ignore[call-arg]
    try:
        source = paired.source(recipe)
    except UserError as error:
        raise UserError(
            f"{run.path} has no looks of objects yet, and finding them needs its training data: {error}"
        ) from error
    count = min(len(source), PHOTOS)
    for first in range(0, count, BATCH):
        yield source(0, count, first, min(BATCH, count - first))


def keep(run: Run, device: torch.device | str = "cpu") -> None:
    """Find the looks for the newest checkpoint, unless they are kept; data that are gone are no error here."""
    game = run.game_at(None)
    try:
        attach(game.to(device), run)
    except UserError as error:
        print(f"note: {error}", file=sys.stderr)


def _fingerprint(folder: Path) -> str:
    """The checksums of the weights, live and averaged."""
    files = json.loads((folder / "state.json").read_text())["files"]
    return json.dumps({name: files.get(name) for name in ("game.safetensors", "average.safetensors")})


def _kept(folder: Path) -> dict[int, Tensor] | None:
    """{class: centres [K, F]} that were kept for these weights; None where there are none, or others'."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(str(folder / FILE), framework="pt") as file:
            if (file.metadata() or {}).get("weights") != _fingerprint(folder):
                return None
            return {int(name): file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (OSError, SafetensorError, ValueError, KeyError):
        return None


def _keep(folder: Path, centres: dict[int, Tensor]) -> None:
    from safetensors.torch import save

    content = save({str(kind): rows.contiguous() for kind, rows in centres.items()}, {"weights": _fingerprint(folder)})
    try:
        write_bytes(folder / FILE, content)
    except UserError as error:
        print(f"the looks of objects could not be kept: {error}", file=sys.stderr)
