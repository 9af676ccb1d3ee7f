"""Equivariance, in decibels, of trained and untrained generators of StyleGAN3 beside one of StyleGAN2.

    python benchmarks/equivariance.py RUN [RUN ...] [--n 1000] [--results FILE] [--only-show]

Every run is measured twice: as trained, and as it was at the start (the same recipe's game, untrained). EQ-T, EQ-T frac
and EQ-R are those of `saddlepoint.metrics.equivariance`. StyleGAN2 has no input that moves: here its learned 4x4
constant is moved, read off bilinearly and continued beyond its border by its outermost values, while the noise images
stay (they are part of the network). An image that hardly varies scores high whatever the network does, so the standard
deviation of the images' pixels over latents stands beside the decibels. One torch thread.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from saddlepoint.runs import write_bytes

RESULTS = Path(__file__).parent / "results" / "equivariance.json"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="*", type=Path)
    parser.add_argument("--n", type=int, default=1000)
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--only-show", action="store_true")
    chosen = parser.parse_args()
    rows: dict[str, Any] = json.loads(chosen.results.read_text()) if chosen.results.exists() else {}
    for folder in [] if chosen.only_show else chosen.runs:
        for row in measured(folder, chosen.n):
            rows[f"{row['system']} {row['preset']} {row['kimg']:g} kimg"] = row
            print(row, file=sys.stderr, flush=True)
    lines = ",\n".join(f"{json.dumps(k)}: {json.dumps(v)}" for k, v in sorted(rows.items()))
    if not chosen.only_show:
        write_bytes(chosen.results, f"{{\n{lines}\n}}\n".encode())
    print("| generator | trained for | EQ-T | EQ-T frac | EQ-R | deviation of a pixel |\n|---|---|---|---|---|---|")
    for row in rows.values():
        print(
            f"| {row['system']} `{row['preset']}` | {row['kimg']:g} kimg | {row['eq_t']:.1f} | {row['eq_t_frac']:.1f} "
            f"| {row['eq_r']:.1f} | {row['deviation']:.2f} |"
        )


def measured(folder: Path, n: int) -> list[dict[str, Any]]:
    """A run's two rows."""
    import torch

    import saddlepoint as sp
    from saddlepoint.metrics.equivariance import equivariance
    from saddlepoint.systems import build

    torch.set_num_threads(1)
    run = sp.load(folder)
    torch.manual_seed(run.recipe.seed)
    rows = []
    for game, kimg in ((build(run.recipe), 0.0), (run.game, run.clock / 1000)):
        subject, size = (game, 0) if hasattr(game.generator.synthesis, "input") else of_constant(game)  # type: ignore[union-attr]
        found = equivariance(subject, n, latent=size)
        pixels = torch.cat([game.sample(64, seed) for seed in range(4)])  # type: ignore[operator]
        row = {"system": run.recipe.system, "preset": run.recipe.preset, "kimg": kimg, "data": run.recipe.data}
        rows.append({**row, **asdict(found), "deviation": float(pixels.std(0).mean()), "torch": torch.__version__})
    return rows


def of_constant(game: Any) -> tuple[Callable[..., Any], int]:
    """StyleGAN2's images of latents [N, latent] while its learned constant is moved, and the dimensions of z."""
    import torch
    import torch.nn.functional as F

    name, constant = next((k, v) for k, v in game.generator.named_parameters() if k.endswith(".const"))
    height, width = constant.shape[1:]

    def images(z: torch.Tensor, transform: torch.Tensor) -> torch.Tensor:
        theta = transform[None, :2].clone()
        theta[..., 2] *= 2  # affine_grid counts in half image sizes
        with game.evaluating():
            now = game.generator.get_parameter(name).detach()
            grid = F.affine_grid(theta, [1, 1, height, width], align_corners=False)
            there = F.grid_sample(now[None], grid, "bilinear", "border", align_corners=False)[0]
            made: torch.Tensor = torch.func.functional_call(game.generator, {name: there}, (z,))
        return made.float()

    return images, game.generator.mapping.latent


if __name__ == "__main__":
    main()
