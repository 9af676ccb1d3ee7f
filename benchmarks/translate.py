"""Time and memory of translating one picture or label map of 2048x1024, whole or in tiles of 512.

python benchmarks/translate.py SYSTEM PRESET whole|PASSES, with PASSES the number of passes in which tiles agree on
statistics. Weights are untrained: they change neither. gaugan and pix2pixhd get a label map of 12 classes.
"""

from __future__ import annotations

import resource
import sys
import time
from typing import Any

import torch

from saddlepoint import recipes
from saddlepoint.systems import build

CLASSES = 12


def peak() -> float:
    """Largest memory of this process so far, GB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6


def main(system: str, preset: str, mode: str) -> None:
    torch.set_num_threads(1)
    maps = {"gaugan": {"labels": CLASSES, "levels": 0}, "pix2pixhd": {"labels": CLASSES}}.get(
        system, {"input_channels": 3}
    )
    recipe: Any = recipes.recipe(system, preset, channels=3, **maps)
    game: Any = build(recipes.with_overrides(recipe, {"resolution": recipe.resolution or 64}))
    x = torch.rand(3, 1024, 2048) * 2 - 1
    if "labels" in maps:
        x = torch.randint(CLASSES, (16, 32)).repeat_interleave(64, 0).repeat_interleave(64, 1)
    before, begun = peak(), time.process_time()
    if mode == "whole":
        game.translate(x[None])
    else:
        game.translate_tiled(x, tile=512, passes=int(mode))
    seconds = time.process_time() - begun
    print(f"{system} {preset} {mode}: {seconds:.1f} CPU-seconds, peak {peak():.2f} GB, before {before:.2f} GB")


if __name__ == "__main__":
    main(*sys.argv[1:])
