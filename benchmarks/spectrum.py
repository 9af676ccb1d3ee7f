"""Leading eigenvalues of a trained DCGAN of 651,392 weights, matrix-free; and of a small network against its matrix.

    python benchmarks/spectrum.py [RUN] [--k 6] [--batch 64] [--threads 1] [--double] [--results FILE]

RUN: a run folder; without one a DCGAN is trained first (Fashion-MNIST, 32x32, 120,000 images: three CPU-minutes).
Looked at are the last checkpoint's live weights on one frozen round of `batch` images, batch norm in training mode.
Stated for the 6 eigenvalues of largest modulus and the 6 rightmost: residuals |J x - lambda x| over the largest of
all |lambda|, products J u, CPU seconds. --double does the same in double precision and states the largest difference.

The small network is a toy game of 1,467 weights, trained for 300 rounds: Arnoldi's values against numpy's from the
whole matrix, relative to the largest.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

import saddlepoint as sp
from saddlepoint import api, experiments
from saddlepoint.data.toys import point_set
from saddlepoint.engine import Training
from saddlepoint.game import Game, Round
from saddlepoint.runs import Run, read_checkpoint, write_bytes
from saddlepoint.systems import build
from saddlepoint.theory import Spectrum, jacobian, spectrum

RESULTS = Path(__file__).parent / "results" / "spectrum.json"


def trained(folder: str) -> Run:
    """The run, or a new one."""
    if folder:
        return sp.load(folder)
    out = Path(tempfile.mkdtemp()) / "dcgan"
    return sp.train("dcgan", data="fashion-mnist", kimg=120, out=out)


def last(run: Run, batch: int, dtype: torch.dtype) -> tuple[Game, Round]:
    """The run's last checkpoint in this precision, and a round of its data."""
    source = api._source(run.recipe)
    assert source is not None
    training = Training(build(run.recipe), run.recipe, source)
    training.load(*read_checkpoint(run.checkpoints()[-1]))
    game = training.game.to(dtype).train()
    return game, game.round(source(0, batch, 0, batch), 0, size=batch, clock=training.counters.clock)


def measured(game: Game, round: Round, k: int) -> dict[str, Any]:
    """Both ends of the spectrum, with residuals and CPU time."""
    found: dict[str, Any] = {}
    for which, name in (("LM", "largest"), ("LR", "rightmost")):
        started = time.process_time()
        result: Spectrum = spectrum(game, round, k, which, tolerance=1e-3)  # type: ignore[arg-type]
        found[name] = {
            "eigenvalues": [[float(f"{z.real:.7g}"), float(f"{z.imag:.7g}")] for z in result.eigenvalues],
            "relative_residual": float(f"{result.residuals.max() / abs(found_largest(found, result)):.2g}"),
            "products": result.products,
            "cpu_seconds": float(f"{time.process_time() - started:.1f}"),
        }
    return found


def found_largest(found: dict[str, Any], result: Spectrum) -> float:
    """Largest |lambda| known: residuals are stated relative to it."""
    known = [abs(complex(*z)) for part in found.values() for z in part["eigenvalues"]]
    return max([*known, float(np.abs(result.eigenvalues).max())])


def small() -> dict[str, Any]:
    """Arnoldi against the dense spectrum of a trained toy game in double precision."""
    made = experiments.training("tiny", hidden=(24, 24), d_hidden=(24, 24), latent=4, activation="tanh", batch=64)
    for _ in range(300):
        made.play()
    game = made.game.double()
    round = game.round({"point": torch.from_numpy(point_set("ring").points(0, 64))}, 0, size=64)
    J = jacobian(game, round).numpy()
    exact = np.linalg.eigvals(J)
    worst = 0.0
    for which in ("LM", "LR"):
        found = spectrum(game, round, 6, which, dense=0, tolerance=1e-10)
        worst = max(worst, float(np.abs(found.eigenvalues[:, None] - exact).min(1).max()))
    return {"weights": len(J), "error": float(f"{worst / np.abs(exact).max():.2g}")}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", nargs="?", default="")
    parser.add_argument("--k", type=int, default=6)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--double", action="store_true")
    parser.add_argument("--results", type=Path, default=RESULTS)
    chosen = parser.parse_args()
    torch.set_num_threads(chosen.threads)
    against = small()
    print(
        f"small network, {against['weights']:,} weights: {against['error']:.1e} of the largest off the dense spectrum"
    )
    run = trained(chosen.run)
    game, round = last(run, chosen.batch, torch.float32)
    weights = sum(p.numel() for player in game.players for p in player.parameters)
    values: dict[str, Any] = {"weights": weights, "batch": chosen.batch, "threads": chosen.threads, "small": against}
    values["single"] = measured(game, round, chosen.k)
    if chosen.double:
        values["double"] = measured(*last(run, chosen.batch, torch.float64), chosen.k)
        largest = found_largest(values["double"], Spectrum(np.zeros(1, complex), np.zeros(1), "LM", 0, {}))
        values["single_off_double"] = max(
            abs(complex(*a) - complex(*b)) / largest
            for part in ("largest", "rightmost")
            for a, b in zip(values["single"][part]["eigenvalues"], values["double"][part]["eigenvalues"], strict=False)
        )
    print(f"{weights:,} weights, batch {chosen.batch}, {chosen.threads} thread(s)")
    for precision in ("single", "double"):
        for part, each in values.get(precision, {}).items():
            listed = ", ".join(f"{complex(*z):.6g}" for z in each["eigenvalues"])
            print(f"{precision} {part}: {listed}")
            print(
                f"  residual {each['relative_residual']:.1e}, {each['products']} products, {each['cpu_seconds']} CPU s"
            )
    chosen.results.parent.mkdir(parents=True, exist_ok=True)
    write_bytes(chosen.results, (json.dumps(values, indent=1) + "\n").encode())


if __name__ == "__main__":
    main()
