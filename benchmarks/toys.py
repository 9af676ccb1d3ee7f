"""Methods against point sets by exact W1: the comparison on 2-D toys in the appendix of "Which training methods for
GANs do actually converge?" (Mescheder, Geiger, Nowozin 2018, arXiv:1801.04406), measured by us.

    python benchmarks/toys.py [--methods ...] [--targets ...] [--seeds 3] [--rounds 4000] [--results FILE] [--only-show]

W1 is exact, between 2,048 samples of the generator and 2,048 points of the data, and is the mean of three measurements
400 and 200 rounds before the end and at the end: with constant rates nothing comes to rest. "data" is W1 between two
draws of the data: no generator can be expected to do better. Every method gets the same networks (two hidden layers of
64, leaky ReLU), Adam with 1e-3 and betas (0, 0.99), batches of 64 and the same number of generator steps; Wasserstein
critics take five steps to one. What a method adds is in `saddlepoint.experiments.METHODS`. No rate was tuned for
any of them. Every finished cell is stored at once, and a later call makes only what is missing.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from pathlib import Path
from typing import Any

from saddlepoint.data.toys import point_set
from saddlepoint.experiments import METHODS
from saddlepoint.runs import write_bytes

RESULTS = Path(__file__).parent / "results" / "toys.json"
TARGETS = ("gaussian", "segment", "circle", "four-segments")
POINTS = 2048


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--methods", nargs="+", default=["data", *METHODS], choices=["data", *METHODS])
    parser.add_argument("--targets", nargs="+", default=list(TARGETS))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--rounds", type=int, default=4000)
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--only-show", action="store_true")
    chosen = parser.parse_args()
    cells: dict[str, Any] = json.loads(chosen.results.read_text()) if chosen.results.exists() else {}
    for seed in range(chosen.seeds):  # seed by seed, so that an unfinished table compares equals
        for target in chosen.targets:
            for method in chosen.methods:
                key = f"{method} {target} seed{seed} rounds{0 if method == 'data' else chosen.rounds}"
                if key in cells or chosen.only_show:
                    continue
                cells[key] = cell(method, target, seed, chosen.rounds)
                chosen.results.parent.mkdir(parents=True, exist_ok=True)
                lines = ",\n".join(f"{json.dumps(k)}: {json.dumps(v)}" for k, v in sorted(cells.items()))
                write_bytes(chosen.results, f"{{\n{lines}\n}}\n".encode())
                print(f"{key}: W1 {cells[key]['w1']:.4f}, {cells[key]['cpu_seconds']:.1f} CPU s", flush=True)
    print(table(cells, chosen.methods, chosen.targets, chosen.rounds))


def cell(method: str, target: str, seed: int, rounds: int) -> dict[str, Any]:
    """Train once and measure; plain values."""
    import torch

    from saddlepoint import experiments
    from saddlepoint.theory import w1

    torch.set_num_threads(1)
    real = point_set(target).points(0, POINTS, seed=1000 + seed)
    if method == "data":
        again = point_set(target).points(0, POINTS, seed=2000 + seed)
        return {"w1": float(f"{w1(again, real):.5g}"), "cpu_seconds": 0.0}
    adam = {"lr": 1e-3, "betas": (0.0, 0.99)}
    networks = {
        "latent": 16,
        "hidden": (64, 64),
        "d_hidden": (64, 64),
        "activation": "leaky-relu",
        "batch": 64,
        "ema_half_life_kimg": 0.0,
    }
    settings = {**networks, "g": adam, "d": adam, **experiments.method(method)}
    training = experiments.training("tiny", target, seed=seed, **settings)
    found, seconds = [], 0.0
    for moment in (rounds - 400, rounds - 200, rounds):
        started = time.process_time()
        while training.counters.step < moment:
            training.play()
        seconds += time.process_time() - started
        found.append(w1(experiments.drawn(training, POINTS, seed), real))
    return {
        "w1": float(f"{statistics.mean(found):.5g}"),
        "last": float(f"{found[-1]:.5g}"),
        "cpu_seconds": round(seconds, 2),
    }


def table(cells: dict[str, Any], methods: list[str], targets: list[str], rounds: int) -> str:
    """Mean W1 over the seeds and their standard deviation, in Markdown; the number of seeds where it is not three."""
    lines = ["| method | " + " | ".join(targets) + " |", "|---" * (len(targets) + 1) + "|"]
    for method in methods:
        row = f"| {method} |"
        for target in targets:
            start, end = f"{method} {target} seed", f" rounds{0 if method == 'data' else rounds}"
            values = [v["w1"] for k, v in cells.items() if k.startswith(start) and k.endswith(end)]
            spread = f" ± {statistics.stdev(values):.3f}" if len(values) > 1 else ""
            few = f" ({len(values)})" if values and len(values) != 3 else ""
            row += f" {statistics.mean(values):.3f}{spread}{few} |" if values else " - |"
        lines.append(row)
    return "\n".join(lines)


if __name__ == "__main__":
    main()
