"""W1 of saddlepoint.theory against SciPy and POT: the same number, and the ratio of times.

    python benchmarks/transport.py [--samples 1000000] [--points 2048] [--repeats 7] [--threads 1] [--json FILE]

Two problems: samples on the line (equal sizes, and a quarter fewer on one side) against
`scipy.stats.wasserstein_distance` and POT's `ot.wasserstein_1d`; equal point sets in the plane and in ten dimensions
against POT's network simplex `ot.emd2` and SciPy's `linear_sum_assignment`, every side computing its own distances.
`numpy.sort` of both samples is listed because no exact method on the line can avoid it.

Methods run interleaved (A B C ... A B C ...), so that a machine whose speed drifts drifts for all of them. Times are
medians of CPU seconds; ratios are medians of the ratios taken repeat by repeat (above 1: slower than saddlepoint).
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from scipy.spatial.distance import cdist
from scipy.stats import wasserstein_distance

from saddlepoint.theory.transport import w1

Method = Callable[[], float]


def on_the_line(ot: Any, n: int, m: int) -> dict[str, Method]:
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=n), 0.5 + 1.5 * rng.normal(size=m)
    return {
        "saddlepoint w1": lambda: w1(a, b),
        "numpy.sort of both": lambda: float(np.sort(a)[0] + np.sort(b)[0]),
        "scipy wasserstein_distance": lambda: float(wasserstein_distance(a, b)),
        "POT wasserstein_1d": lambda: float(ot.wasserstein_1d(a, b, p=1)),
    }


def between_points(ot: Any, n: int, dim: int, assignment: bool) -> dict[str, Method]:
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(n, dim)), rng.normal(size=(n, dim)) + 1

    def plain_assignment() -> float:
        cost = cdist(x, y)
        return float(cost[linear_sum_assignment(cost)].mean())

    methods: dict[str, Method] = {
        "saddlepoint w1": lambda: w1(x, y),
        "POT emd2": lambda: float(ot.emd2([], [], cdist(x, y), numItermax=10**8)),
    }
    return methods | ({"scipy linear_sum_assignment": plain_assignment} if assignment else {})


def measure(problem: str, methods: dict[str, Method], repeats: int) -> list[dict[str, Any]]:
    """Every method once to warm up, then `repeats` interleaved rounds."""
    values = {name: play() for name, play in methods.items()}
    times: dict[str, list[float]] = {name: [] for name in methods}
    for _ in range(repeats):
        for name, play in methods.items():
            began = time.process_time()
            play()
            times[name].append(time.process_time() - began)
    ours = times["saddlepoint w1"]
    return [
        {
            "problem": problem,
            "method": name,
            "value": None if "sort" in name else values[name],
            "cpu_seconds": statistics.median(t),
            "ratio_to_saddlepoint": statistics.median(a / b for a, b in zip(t, ours, strict=True)),
        }
        for name, t in times.items()
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, default=1_000_000)
    parser.add_argument("--points", type=int, default=2048)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--without-assignment", action="store_true", help="leave out SciPy's plain assignment (slow)")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    import ot  # POT; importing it takes seconds

    n, k, assignment = args.samples, args.points, not args.without_assignment
    problems = {
        f"line, {n:,} and {n:,}": on_the_line(ot, n, n),
        f"line, {n:,} and {n * 3 // 4:,}": on_the_line(ot, n, n * 3 // 4),
        f"plane, {k:,} and {k:,}": between_points(ot, k, 2, assignment),
        f"10 dimensions, {k:,} and {k:,}": between_points(ot, k, 10, assignment),
    }
    rows = [row for name, methods in problems.items() for row in measure(name, methods, args.repeats)]
    cpu = f"{platform.machine()}, {torch.backends.cpu.get_cpu_capability()}"
    print(f"{cpu}, {args.threads} thread(s), medians of {args.repeats}, numpy {np.__version__}, POT {ot.__version__}")
    print(f"{'problem':34}{'method':30}{'value':>22}{'CPU s':>10}{'ratio':>9}")
    for row in rows:
        value = "" if row["value"] is None else f"{row['value']:.15f}"
        times = f"{row['cpu_seconds']:10.3f}{row['ratio_to_saddlepoint']:9.2f}"
        print(f"{row['problem']:34}{row['method']:30}{value:>22}{times}")
    if args.json:
        partial = args.json.with_suffix(".tmp")
        partial.write_text(json.dumps({"rows": rows, "repeats": args.repeats, "threads": args.threads}, indent=2))
        partial.replace(args.json)


if __name__ == "__main__":
    main()
