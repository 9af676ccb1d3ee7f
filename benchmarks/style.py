"""Seconds per training step of StyleGAN2 and StyleGAN3 against the plain formulation, on the same weights and batch.

    python benchmarks/style.py [--repeats 3] [--threads 1] [--only stylegan3:tiny-t ...] [--json FILE]

Plain: a grouped convolution with weights of each sample's own; resampling by writing the zeros, padding, and the full
two-dimensional filter, in NCHW and float32; torch differentiates all of it. Ours: as the presets are, in both
precisions. What is printed are medians of CPU seconds (of all threads), which another program on the machine moves less
than the clock on the wall; each variant runs in a process of its own, whose peak memory is its own.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import multiprocessing
import platform
import resource
import statistics
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

import saddlepoint.layers.resample as resample
from saddlepoint import recipes
from saddlepoint.engine import Training
from saddlepoint.systems import build

SYSTEMS = ("stylegan2:tiny", "stylegan3:tiny-t", "stylegan3:tiny-r")
VARIANTS = {"plain": "fp32", "ours fp32": "fp32", "ours bf16": "bf16"}


# ---- the plain formulation
def plain_upfirdn2d(
    x: Tensor, f: Tensor | None, up: Any = 1, down: Any = 1, padding: Any = 0, flip: bool = False, gain: float = 1.0
) -> Tensor:
    """Zeros, padding, the whole two-dimensional filter at the high rate, then every down-th sample."""
    (ux, uy), (dx, dy), (x0, x1, y0, y1) = resample.pair(up, "up"), resample.pair(down, "down"), resample.sides(padding)
    n, c, height, width = x.shape
    f = x.new_ones(1, 1) if f is None else f.to(x.dtype)
    f = torch.outer(f, f) if f.ndim == 1 else f
    f = gain * (f if flip else f.flip((0, 1)))
    x = F.pad(x[:, :, :, None, :, None], (0, ux - 1, 0, 0, 0, uy - 1)).reshape(n, c, height * uy, width * ux)
    x = F.pad(x, [max(p, 0) for p in (x0, x1, y0, y1)])
    x = x[:, :, max(-y0, 0) : x.shape[2] + min(y1, 0), max(-x0, 0) : x.shape[3] + min(x1, 0)]
    return F.conv2d(x, f.expand(c, 1, *f.shape), groups=c)[:, :, ::dy, ::dx]


def plain_modulated_2(
    x: Tensor, weight: Tensor, styles: Tensor, noise: Tensor | None = None, *args: Any, **options: Any
) -> Tensor:
    from saddlepoint.layers.modulated import modulated_conv2d

    return modulated_conv2d(x, weight, styles, noise, *args, **{**options, "fused": True})


def plain_modulated_3(
    x: Tensor, weight: Tensor, styles: Tensor, demodulate: bool = True, padding: Any = 0, input_gain: Any = None
) -> Tensor:
    n, inputs, height, width = x.shape
    if demodulate:
        weight = weight * weight.square().mean((1, 2, 3), keepdim=True).rsqrt()
        styles = styles * styles.square().mean().rsqrt()
    w = weight * styles[:, None, :, None, None]  # [N, O, I, k, k]
    if demodulate:
        w = w * (w.square().sum((2, 3, 4), keepdim=True) + 1e-8).rsqrt()
    if input_gain is not None:
        w = w * input_gain.expand(n, inputs)[:, None, :, None, None]
    y = F.conv2d(x.reshape(1, n * inputs, height, width), w.flatten(0, 1), padding=padding, groups=n)
    return y.view(n, -1, *y.shape[2:])


def make_plain() -> None:
    """Put the plain formulation in the place of ours, in this process."""
    import saddlepoint.systems.stylegan2 as two
    import saddlepoint.systems.stylegan3 as three

    resample.upfirdn2d = plain_upfirdn2d
    two.modulated_conv2d = plain_modulated_2  # type: ignore[attr-defined]
    three.modulated_conv2d = plain_modulated_3


# ---- what is timed
def prepared(system: str, precision: str, plain: bool) -> tuple[Training, dict[str, Callable[[], object]]]:
    """A training and its parts, by name."""
    name, preset = system.split(":")
    recipe: Any = recipes.recipe(name, preset, channels=1, precision=precision)
    recipe = dataclasses.replace(recipe, resolution=recipe.resolution or 32, channels_last=not plain)
    torch.manual_seed(0)
    game: Any = build(recipe)
    x = torch.randn(recipe.batch, 1, recipe.resolution, recipe.resolution).clamp(-1, 1)
    training = Training(game, recipe, lambda *a: {"image": x})
    training.play()
    training.table.begin()
    parts: dict[str, Callable[[], object]] = {}
    for label, player, terms in (
        ("G", "generator", {"gan"}),
        ("path length", "generator", {"path_length"}),
        ("D", "discriminator", {"gan"}),
        ("R1", "discriminator", {"r1"}),
    ):
        if label == "path length" and not recipe.path_length:
            continue
        round = dataclasses.replace(game.round({"image": x}, seed=1), terms=frozenset(terms), analysis=False)
        parts[label] = partial(training.table.measure, player, round)
    parts["samples"] = lambda: game.sample(recipe.batch, seed=0)
    return training, parts


def measured(system: str, variant: str, repeats: int, threads: int) -> dict[str, Any]:
    """Median CPU seconds of each part, of a round averaged over what is lazy, and memory."""
    torch.set_num_threads(threads)
    if variant == "plain":
        make_plain()
    training, parts = prepared(system, VARIANTS[variant], variant == "plain")
    seconds: dict[str, float] = {}
    for label, run in parts.items():
        run()
        times = []
        for _ in range(repeats):
            start = time.process_time()
            run()
            times.append(time.process_time() - start)
        seconds[label] = statistics.median(times)
    recipe: Any = training.recipe
    together = seconds["G"] + seconds["D"] + seconds["R1"] / max(1, recipe.r1_every)
    together += seconds.get("path length", 0.0) / max(1, recipe.path_every)
    seconds["round"] = together
    return {
        "system": system,
        "variant": variant,
        "batch": recipe.batch,
        "resolution": recipe.resolution,
        "seconds": seconds,
        "samples_per_second": recipe.batch / seconds["samples"],
        "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--only", nargs="*", default=SYSTEMS, choices=SYSTEMS)
    parser.add_argument("--json", type=Path, help="write the numbers here")
    options = parser.parse_args()
    rows = []
    context = multiprocessing.get_context("spawn")
    for system in options.only:
        plain = 0.0
        for variant in VARIANTS:
            with context.Pool(1) as pool:
                row = pool.apply(measured, (system, variant, options.repeats, options.threads))
            plain = plain or row["seconds"]["round"]
            row["times_as_fast"] = plain / row["seconds"]["round"]
            rows.append(row)
            parts = "  ".join(f"{k} {v:.3f}" for k, v in row["seconds"].items())
            print(
                f"{system:17s} {variant:10s} {parts}  {row['samples_per_second']:.0f} samples/s  "
                f"{row['peak_mb']:.0f} MB  {row['times_as_fast']:.2f}x",
                flush=True,
            )
    if options.json:
        about = {"torch": torch.__version__, "threads": options.threads, "machine": platform.processor()}
        options.json.write_text(json.dumps({"about": about, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
