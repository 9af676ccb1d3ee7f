"""Editing: what people do with a trained generator.

    truncate        each image at several distances from the mean                    tasks
    interpolate     between latents, straight in w or z or on great circles in z     tasks
    mix             styles of other images in some layers, as a grid                 tasks
    project         the w (or z) whose image is closest to a given one               projection
    directions      what an image changes along: closed form, labels, attributes     factorisation
    sweep           images moved along directions                                    tasks

Each returns or makes a `Picture`: images with the recipe that `saddlepoint sample RUN --like FILE` follows again.
Sources are runs, games, or `open_source(run, checkpoint)`. Names are imported when they are asked for.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from saddlepoint.editing.factorisation import Direction, directions, load_directions, save_directions
    from saddlepoint.editing.projection import Projection, load_projection, project, read_target
    from saddlepoint.editing.recipes import Edit, Mix, Picture, PictureRecipe, Sweep, Way, make, open_source, render
    from saddlepoint.editing.spaces import Space, space
    from saddlepoint.editing.styles import mixed, moved, path, slerp
    from saddlepoint.editing.tasks import codes, interpolate, mix, start, sweep, truncate

_NAMES = {
    "factorisation": ("Direction", "directions", "load_directions", "save_directions"),
    "projection": ("Projection", "load_projection", "project", "read_target"),
    "recipes": ("Edit", "Mix", "Picture", "PictureRecipe", "Sweep", "Way", "make", "open_source", "render"),
    "spaces": ("Space", "space"),
    "styles": ("mixed", "moved", "path", "slerp"),
    "tasks": ("codes", "interpolate", "mix", "start", "sweep", "truncate"),
}
_HOME = {name: module for module, names in _NAMES.items() for name in names}
__all__ = [
    "Direction", "Edit", "Mix", "Picture", "PictureRecipe", "Projection", "Space", "Sweep", "Way", "codes",
    "directions", "interpolate", "load_directions", "load_projection", "make", "mix", "mixed", "moved", "open_source",
    "path", "project", "read_target", "render", "save_directions", "slerp", "space", "start", "sweep", "truncate",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(importlib.import_module(f"saddlepoint.editing.{_HOME[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
