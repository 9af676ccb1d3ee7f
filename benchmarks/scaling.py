"""Images per second and memory of training on 1, 2 and 4 processes and with accumulation; and what BigGAN would cost.

    python benchmarks/scaling.py [--processes 1 2 4] [--accumulate 1 2 4 8] [--seconds 10] [--json FILE]
    python benchmarks/scaling.py --project biggan 128 --batch 2048 --flops 1e14 [--json FILE]

The batch is the same in every row, so rows differ in how it is divided, not in what is trained: DCGAN tiny (batch norm
over all processes) and WGAN-GP tiny (no batch norm in the critic, five critic steps). Images are noise in memory, each
process has one thread. Processes beyond the number of cores share them. Memory is the peak of each process's resident
set, and how much of it came after the start of training (weights, moments, activations).

--project counts the operations of one round with torch.utils.flop_counter on the meta device (shapes, no values), at
two small batches (cost is linear in the batch), and multiplies: a projection, not a measurement. --flops is the rate in
operations a second at which it is turned into days; without it the rate is the one at which this machine trains DCGAN
tiny, counted in the same way.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch import Tensor

from saddlepoint import distributed, recipes
from saddlepoint.engine import Training
from saddlepoint.recipes.base import ImageRecipe, Recipe
from saddlepoint.systems import build

SYSTEMS = {
    "dcgan": {"preset": "tiny", "resolution": 32, "channels": 1},
    "wgan-gp": {"preset": "tiny", "resolution": 32, "channels": 1},
}
BATCH = 64


def noise(recipe: Recipe, count: int = 512) -> Any:
    """Images that cost nothing to make: slices of one array."""
    assert isinstance(recipe, ImageRecipe)
    shape = (recipe.channels, recipe.resolution, recipe.resolution)
    images = torch.rand(count, *shape, generator=torch.Generator().manual_seed(0)) * 2 - 1  # [N, C, H, W]

    def source(cursor: int, total: int, first: int, length: int, resolution: int | None = None) -> dict[str, Tensor]:
        batch = {"image": images[(torch.arange(length) + cursor + first) % count]}
        if isinstance(recipe, ImageRecipe) and recipe.classes:
            batch["label"] = (torch.arange(length) + cursor + first) % recipe.classes
        return batch

    return source


def peak() -> float:
    """Peak resident memory of this process in MB (1e6 bytes)."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6


def measure(system: str, accumulate: int, seconds: float, folder: Path) -> None:
    """One process of a row: play for some seconds, then write what was seen."""
    torch.set_num_threads(1)
    distributed.start(torch.device("cpu"))
    settings = dict(SYSTEMS[system])
    recipe = recipes.recipe(system, str(settings.pop("preset")), batch=BATCH, accumulate=accumulate, **settings)
    before = peak()
    training = Training(build(recipe), recipe, noise(recipe))
    training.play()
    distributed.barrier()
    began, start, rounds = time.perf_counter(), training.counters.clock, 0
    while not distributed.any_true(time.perf_counter() - began > seconds):
        training.play()
        rounds += 1
    spent = time.perf_counter() - began
    found = {
        "images_per_second": (training.counters.clock - start) / spent,
        "rounds": rounds,
        "peak_mb": peak(),
        "added_mb": peak() - before,
    }
    (folder / f"{distributed.rank()}.json").write_text(json.dumps(found))
    distributed.barrier()
    distributed.stop()
    distributed.leave(0)


def row(system: str, processes: int, accumulate: int, seconds: float) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
        words = [__file__, "--measure", system, "--accumulate", str(accumulate), "--seconds", str(seconds)]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        command = [*launcher, *words, "--folder", folder]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        if done.returncode:
            sys.exit(f"{system} on {processes}: {done.stderr[-2000:]}")
        found = [json.loads(p.read_text()) for p in sorted(Path(folder).glob("*.json"))]
    return {
        "system": system,
        "processes": processes,
        "accumulate": accumulate,
        "samples_in_memory": BATCH // processes // accumulate,
        "images_per_second": round(found[0]["images_per_second"], 1),
        "rounds": found[0]["rounds"],
        "peak_mb_per_process": round(max(one["peak_mb"] for one in found), 1),
        "added_mb_per_process": round(max(one["added_mb"] for one in found), 1),
    }


# ---- counted, not measured
def operations(recipe: Recipe) -> int:
    """Floating-point operations of one round (2 for a multiply and add), forward and backward of every move."""
    from torch.utils.flop_counter import FlopCounterMode

    game, source, total = build(recipe, "meta").train(), noise(recipe, 2), 0
    # torch has no generator and no autocast for the meta device, and tensors without values need none.
    with (
        mock.patch("saddlepoint.game.keyed_generator", lambda device, *key: None),
        mock.patch("torch.autocast", lambda *_, **__: contextlib.nullcontext()),
        mock.patch("torch.is_autocast_enabled", lambda *_: True),
    ):
        for move in game.moves(1):
            mover = game.player(move.player)
            own = {id(p) for p in mover.parameters}
            for parameter in game.parameters():  # as the engine does: other players' weights are constants
                parameter.requires_grad_(id(parameter) in own)
            round = game.round(source(0, recipe.batch, 0, recipe.batch), step=1)  # a step at which nothing lazy is due
            round = dataclasses.replace(round, analysis=False, terms=move.terms)
            with FlopCounterMode(display=False) as counter:
                terms = game.loss(mover, round)
                torch.autograd.grad(torch.stack(list(terms.values())).sum(), mover.parameters, allow_unused=True)
            total += int(counter.get_total_flops())
    return total


def per_image(system: str, preset: str, **overrides: Any) -> tuple[float, Recipe]:
    """(operations of a round for each image shown, recipe): the slope between two small batches."""
    base = recipes.recipe(system, preset, precision="fp32", channels_last=False, accumulate=1, **overrides)
    counted = [operations(recipes.with_overrides(base, {"batch": batch})) for batch in (8, 16)]
    return (counted[1] - counted[0]) / 8, base


def project(args: argparse.Namespace) -> dict[str, Any]:
    system, preset = args.project
    shape = {"resolution": args.resolution, "channels": 3, "classes": args.classes}
    each, _ = per_image(system, preset, **shape)
    rate, origin = args.flops, "as given"
    if not rate:
        reference, _ = per_image("dcgan", "tiny", resolution=32, channels=1)
        found = row("dcgan", 1, 1, args.seconds)
        rate, origin = reference * found["images_per_second"], "of DCGAN tiny on one thread of this machine"
    whole = each * args.batch
    return {
        "what": "a projection from counted operations; nothing of this was run",
        "command": f"python benchmarks/scaling.py --project {system} {preset} --batch {args.batch} "
        f"--resolution {args.resolution} --classes {args.classes} --rounds {args.rounds}"
        + (f" --flops {args.flops:g}" if args.flops else ""),
        "gflop_per_image_of_a_round": round(each / 1e9, 2),
        "tflop_per_round": round(whole / 1e12, 2),
        "rounds": args.rounds,
        "exaflop_in_all": round(whole * args.rounds / 1e18, 3),
        "operations_per_second": rate,
        "rate": origin,
        "seconds_per_round": round(whole / rate, 2),
        "days_in_all": round(whole * args.rounds / rate / 86400, 2),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--systems", nargs="+", default=list(SYSTEMS), choices=list(SYSTEMS))
    parser.add_argument("--processes", type=int, nargs="+", default=[1, 2, 4])
    parser.add_argument("--accumulate", type=int, nargs="+", default=[1, 2, 4, 8])
    parser.add_argument("--seconds", type=float, default=10)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--project", nargs=2, metavar=("SYSTEM", "PRESET"))
    parser.add_argument("--batch", type=int, default=2048)
    parser.add_argument("--resolution", type=int, default=128)
    parser.add_argument("--classes", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=100_000)
    parser.add_argument("--flops", type=float, default=0.0)
    parser.add_argument("--measure", help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.measure:
        measure(args.measure, args.accumulate[0], args.seconds, args.folder)
    if args.project:
        result = project(args)
        print(json.dumps(result, indent=2))
    else:
        rows = []
        for system in args.systems:
            for processes, accumulate in [*((n, 1) for n in args.processes), *((1, a) for a in args.accumulate[1:])]:
                rows.append(row(system, processes, accumulate, args.seconds))
                print(json.dumps(rows[-1]), flush=True)
        result = {
            "command": f"python benchmarks/scaling.py --seconds {args.seconds:g}",
            "machine": f"{platform.machine()}, {os.cpu_count()} cores, torch {torch.__version__}",
            "batch": BATCH,
            "rows": rows,
        }
    if args.json:
        args.json.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
