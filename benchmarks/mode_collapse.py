"""Mode collapse on the ring of eight Gaussians: a plain GAN (K = 0) against one whose generator foresees K steps of the
discriminator (Metz et al. 2017, arXiv:1611.02163), over several seeds.

    python benchmarks/mode_collapse.py [--steps 0 10] [--seeds 5] [--rounds 4000] [--results FILE] [--strip PNG]

Every finished cell (K, seed) is written to the results file at once, and a later call makes only what is missing: the
table can be made in pieces. `--only-show` trains nothing. The settings are those of `saddlepoint.experiments.COLLAPSE`.
"""

from __future__ import annotations

import argparse
import json
import statistics
from pathlib import Path
from typing import Any

import numpy as np

from saddlepoint.runs import write_bytes

RESULTS = Path(__file__).parent / "results" / "mode_collapse.json"
KEPT = 500  # points of a snapshot that are stored, in hundredths


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, nargs="+", default=[0, 10], help="values of K")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--rounds", type=int, default=4000)
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--strip", type=Path, help="write the strip of all finished cells as a PNG")
    parser.add_argument("--strip-seeds", type=int, nargs="+", help="only these seeds in the strip")
    parser.add_argument("--only-show", action="store_true")
    chosen = parser.parse_args()
    cells: dict[str, Any] = json.loads(chosen.results.read_text()) if chosen.results.exists() else {}
    for seed in range(chosen.seeds):  # seed by seed, so that an unfinished table compares equals
        for steps in chosen.steps:
            key = f"K{steps}-seed{seed}-rounds{chosen.rounds}"
            if key in cells or chosen.only_show:
                continue
            cells[key] = trained(steps, seed, chosen.rounds)
            chosen.results.parent.mkdir(parents=True, exist_ok=True)
            store(chosen.results, cells)
            print(row(cells[key]), flush=True)
    found = [cell for cell in cells.values() if cell["rounds"] == chosen.rounds and cell["steps"] in chosen.steps]
    print(table(found))
    if chosen.strip:
        strip([c for c in found if chosen.strip_seeds is None or c["seed"] in chosen.strip_seeds], chosen.strip)


def store(path: Path, cells: dict[str, Any]) -> None:
    """One line a cell, whole or not at all."""
    lines = ",\n".join(f"{json.dumps(k)}: {json.dumps(v, separators=(',', ':'))}" for k, v in cells.items())
    write_bytes(path, f"{{\n{lines}\n}}\n".encode())


def trained(steps: int, seed: int, rounds: int) -> dict[str, Any]:
    """One cell, as plain values."""
    import torch

    from saddlepoint.experiments import mode_collapse

    torch.set_num_threads(1)
    result = mode_collapse(steps, seed, rounds=rounds)
    return {
        "steps": steps,
        "seed": seed,
        "rounds": rounds,
        "hops": result.hops,
        "cpu_seconds": round(result.cpu_seconds, 1),
        "moments": [{"round": m.round, **_short(m.coverage.as_dict())} for m in result.moments],
        "snapshots": {str(n): _packed(points) for n, points in result.snapshots.items()},
        "target": _packed(result.target),
    }


def _short(values: dict[str, Any]) -> dict[str, Any]:
    return {k: float(f"{v:.4g}") if isinstance(v, float) else v for k, v in values.items()}


def _packed(points: Any) -> list[list[int]]:
    return np.clip(np.rint(100 * points[:KEPT]), -9999, 9999).astype(int).tolist()  # type: ignore[no-any-return]


# ---- the table
def leading(moment: dict[str, Any]) -> float:
    """Share of samples nearest to the mode that has most of them."""
    return float(max(moment["nearest"]) / moment["samples"])


def row(cell: dict[str, Any]) -> str:
    last, later = cell["moments"][-1], cell["moments"][len(cell["moments"]) // 2 :]
    held = statistics.mean(leading(m) for m in later)
    spread = statistics.mean(sum(n >= 0.01 * m["samples"] for n in m["nearest"]) for m in later)
    return (
        f"{cell['steps']:3d} {cell['seed']:5d} {last['modes']:7d} {last['modes_20']:7d} {last['modes_1_percent']:7d} "
        f"{100 * last['high_quality']:8.1f} {last['kl']:7.3f} {cell['hops']:5d} {100 * held:9.1f} {spread:9.1f} "
        f"{cell['cpu_seconds']:8.0f}"
    )


def table(cells: list[dict[str, Any]]) -> str:
    """Coverage after the last round; hops over the whole run; the last three over the second half of the run."""
    head = "  K  seed  modes>=1    >=20   >=1 %   good %      KL  hops  largest %  held modes  CPU s"
    return "\n".join([head, *(row(c) for c in sorted(cells, key=lambda c: (c["steps"], c["seed"])))])


# ---- the strip
def strip(cells: list[dict[str, Any]], path: Path) -> None:
    """A row of pictures per cell: density of samples through training, the data at the end."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt
    from scipy.ndimage import gaussian_filter

    cells = sorted(cells, key=lambda c: (c["steps"], c["seed"]))
    columns = [*cells[0]["snapshots"], "target"]
    size = (1.25 * len(columns), 1.3 * len(cells))
    figure, axes = plt.subplots(len(cells), len(columns), figsize=size, squeeze=False, layout="constrained")
    edges = np.linspace(-3, 3, 121)
    for number, (line, cell) in enumerate(zip(axes, cells, strict=True)):
        pictures = [*cell["snapshots"].items(), ("target", cell["target"])]
        for axis, (name, packed) in zip(line, pictures, strict=True):
            points = np.array(packed) / 100
            density = gaussian_filter(np.histogram2d(points[:, 1], points[:, 0], bins=(edges, edges))[0], 3)
            axis.imshow(density, origin="lower", cmap="Greens", vmax=0.9 * density.max())
            axis.set(xticks=[], yticks=[])
            if number == 0:
                axis.set_title("data" if name == "target" else f"round {name}", fontsize=8)
        line[0].set_ylabel(f"K = {cell['steps']}, seed {cell['seed']}", fontsize=7)
    figure.savefig(path, dpi=130, metadata={"Software": None})
    print(path)


if __name__ == "__main__":
    main()
