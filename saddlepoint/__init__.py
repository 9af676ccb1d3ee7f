"""Generative adversarial networks, from the one-parameter two-player game to image generators: one engine for all.

import saddlepoint as sp
run = sp.train("dcgan", data="digits", out="runs/first", kimg=100)
images = run.sample(16, seed=0)  # float tensor in [-1, 1]
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

# Names are imported when they are asked for, so that `import saddlepoint` and the command's help need no torch.
_HOME = {
    "game": "saddlepoint.api",
    "load": "saddlepoint.api",
    "resume": "saddlepoint.api",
    "train": "saddlepoint.api",
    "Run": "saddlepoint.runs",
    "UserError": "saddlepoint.errors",
    "presets": "saddlepoint.recipes",
    "recipe": "saddlepoint.recipes",
    "systems": "saddlepoint.recipes",
}
__all__ = ["Run", "UserError", "game", "load", "presets", "recipe", "resume", "systems", "train"]

if TYPE_CHECKING:
    from saddlepoint.api import game, load, resume, train
    from saddlepoint.errors import UserError
    from saddlepoint.recipes import presets, recipe, systems
    from saddlepoint.runs import Run


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(importlib.import_module(_HOME[name]), name)
    raise AttributeError(f"module 'saddlepoint' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
