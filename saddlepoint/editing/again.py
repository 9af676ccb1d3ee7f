"""A picture made again: its recipe is read from the PNG's metadata, the checkpoint found by its fingerprint."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from saddlepoint.editing.recipes import KEY, fingerprint
from saddlepoint.errors import UserError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from saddlepoint.runs import Run

TAKES = "A picture that `saddlepoint sample` or `saddlepoint edit` wrote has one, unless a program has stripped it."


@dataclass(frozen=True, eq=False)
class Noted:
    """A picture's text: what made it (`notes`), which image of it this file is (None: all), and its pixels."""

    notes: Mapping[str, Any]
    index: int | None
    pixels: NDArray[np.uint8]


def read(path: str | Path) -> Noted:
    """What a picture says of itself. UserError for a file that is no PNG or has no recipe."""
    from PIL import Image

    path = Path(path).expanduser()
    try:
        with Image.open(path) as image:
            image.load()  # text may stand behind the pixels
            text, pixels, kind = dict(image.info), np.array(image), image.format
    except FileNotFoundError as error:
        raise UserError(f"there is no picture at {path}.") from error
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise UserError(f"{path} is not a picture that can be read ({error}).") from error
    if kind != "PNG" or KEY not in text:
        raise UserError(f"{path} carries no recipe. {TAKES}")
    try:
        notes = json.loads(text[KEY])
        index = int(text["index"]) if "index" in text else None
        if not isinstance(notes, dict) or not isinstance(notes["run"], str) or int(notes["clock"]) < 0:
            raise ValueError("no run and clock")
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise UserError(f"the recipe in {path} cannot be read ({error}). {TAKES}") from error
    return Noted(notes, index, pixels)


def checkpoint_of(run: Run, notes: Mapping[str, Any], path: str | Path) -> Path:
    """The run's checkpoint that a picture was made from. UserError where the run does not have it."""
    clock, weights = int(notes["clock"]), notes.get("weights")
    at = {int(folder.name): folder for folder in run.checkpoints()}
    made = f"{path} was made by run {notes['run']!r} at {clock / 1000:g} kimg"
    if weights is None:
        raise UserError(f"{made}, without a fingerprint of its weights: that it is this run's cannot be told.")
    if clock in at and fingerprint(at[clock]) == weights:
        return at[clock]
    if clock in at:
        raise UserError(f"{made}; the weights of {run.path} at that point are others: it is another run.")
    have = ", ".join(f"{c / 1000:g}" for c in at) or "none"
    other = "" if notes["run"] == run.path.name else "it may be another run, or "
    raise UserError(f"{made}; {run.path} has no such checkpoint: {other}it was removed. There are (in kimg): {have}.")
