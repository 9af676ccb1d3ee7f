"""Systems x data x seeds at an equal, stated budget of CPU time: one table of scores with floors.

    python benchmarks/compare.py [--systems dcgan wgan wgan-gp] [--data fashion-mnist] [--minutes 5] [--seeds 2]
                                 [--results FILE] [--work FOLDER] [--only-show]

Each cell trains one system's `tiny` preset ("SYSTEM:PRESET" names another, "SYSTEM+batch=16+penalty.r1=1" changes
settings) in a process of its own, with one torch thread, until it has used its budget of CPU seconds (building the
data, sample grids and checkpoints included; scoring not), and then scores 5,000 samples (half as many as there are
images, if that is less) of the averaged generator against all other real images, of which so many give the floor: the
same numbers for real against real. All cells of one data set are measured with the same extractor, counts and seed,
which the table names. A finished cell is stored at once and a later call makes only what is missing, so a run that was
interrupted goes on. Seeds differ in initial weights, order of the data and latents.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from saddlepoint.runs import Run, write_bytes

RESULTS = Path(__file__).parent / "results" / "compare.json"
SAMPLES = 5000
METRICS = ("fd", "kd", "pr", "dc")
SHOWN = ("fd", "kd", "precision", "recall", "density", "coverage")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--systems", nargs="+", default=["dcgan", "wgan", "wgan-gp"])
    parser.add_argument("--data", nargs="+", default=["fashion-mnist"])
    parser.add_argument("--minutes", type=float, default=5.0)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--work", type=Path, default=Path("runs/compare"))
    parser.add_argument("--only-show", action="store_true")
    parser.add_argument("--only-train", action="store_true", help="leave the scoring to a later call")
    parser.add_argument("--cell", nargs=4, help=argparse.SUPPRESS)  # a process of its own
    chosen = parser.parse_args()
    if chosen.cell:
        system, data, seed, minutes = chosen.cell
        run = trained(system, data, int(seed), float(minutes), chosen.work)
        print(json.dumps({} if chosen.only_train else cell(run)))
        return
    cells = filled(chosen)
    for data in chosen.data:
        print(table(cells, data, chosen.minutes))


def filled(chosen: argparse.Namespace) -> dict[str, Any]:
    """All cells; what is missing is made first, unless the caller only wants to see them."""
    cells = stored(chosen.results)
    for seed in range(chosen.seeds):  # seed by seed, so that an unfinished table compares equals
        for data in chosen.data:
            for system in chosen.systems:
                key = f"{system} {data} seed{seed} {chosen.minutes:g}min"
                if key in cells or chosen.only_show:
                    continue
                print(f"{key} ...", file=sys.stderr, flush=True)
                words = [system, data, str(seed), str(chosen.minutes), "--work", str(chosen.work)]
                found = in_a_process([*words, *(["--only-train"] if chosen.only_train else [])])
                if not found:
                    continue
                cells = {**stored(chosen.results), key: found}
                lines = ",\n".join(f"{json.dumps(k)}: {json.dumps(v)}" for k, v in sorted(cells.items()))
                chosen.results.parent.mkdir(parents=True, exist_ok=True)
                write_bytes(chosen.results, f"{{\n{lines}\n}}\n".encode())
    return cells


def stored(path: Path) -> dict[str, Any]:
    """The finished cells."""
    found: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
    return found


def in_a_process(words: list[str]) -> dict[str, Any]:
    """A cell in a process of its own, whose CPU time is then its own."""
    threads = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
    command = [sys.executable, __file__, "--cell", *words]
    done = subprocess.run(command, env={**os.environ, **threads}, stdout=subprocess.PIPE, check=True, text=True)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


class Budget:
    """Ends a training, as Ctrl-C would, when this process has used its CPU seconds."""

    def __init__(self, seconds: float) -> None:
        self.seconds, self.ended = seconds, False

    def __call__(self, training: Any, report: Any) -> None:
        if not self.ended and time.process_time() >= self.seconds:
            self.ended = True
            os.kill(os.getpid(), signal.SIGINT)

    def finish(self, training: Any) -> None:
        """Nothing to close."""


def trained(system: str, data: str, seed: int, minutes: float, work: Path) -> Run:
    """The run of a cell, trained now or before."""
    import saddlepoint as sp

    named, *changes = system.split("+")
    name, _, preset = named.partition(":")
    folder = work / "-".join([*map(plain, (system, data)), str(seed), f"{minutes:g}min"])
    if not finished(folder, minutes):
        recipe = sp.recipe(name, preset, **dict(map(setting, changes)))
        pace = max(recipe.kimg / 10, 1.0)  # grids and checkpoints as often as in the preset's own length
        sp.train(
            recipe, data, out=folder, kimg=1e6, seed=seed, device="cpu", progress=False, overwrite=True,
            samples_kimg=pace, checkpoint_kimg=pace, log_kimg=1.0, observers=[Budget(60 * minutes)],
        )  # fmt: skip
    return sp.load(folder)


def plain(name: str) -> str:
    """What a folder may be called."""
    return "".join(c if c.isalnum() or c in "._=" else "-" for c in name)


def setting(word: str) -> tuple[str, Any]:
    """KEY=VALUE with a JSON value, or a word: ("batch", 16), ("objective", "hinge"), ("attention", ())."""
    key, _, text = word.partition("=")
    try:
        value = json.loads(text)
    except json.JSONDecodeError:
        value = text
    return key, tuple(value) if isinstance(value, list) else value


def cell(run: Run) -> dict[str, Any]:
    """Score a run; plain values."""
    from saddlepoint.data import describe
    from saddlepoint.metrics.scoring import score

    found = score(run.path, metrics=METRICS, n=min(SAMPLES, describe(run.recipe.data).count // 2), seed=0)
    return {
        "kimg": run.clock / 1000,
        "cpu_seconds": run.log()[-1]["cpu_seconds"],
        "weights": run.environment["weights"],
        "torch": run.environment["torch"],
        "scores": {s.record["metric"]: s.as_dict() for s in found.scores.values()},
    }


def finished(folder: Path, minutes: float) -> bool:
    """Has the run in this folder used its budget?"""
    import saddlepoint as sp

    if not (folder / "recipe.json").exists():
        return False
    log = sp.load(folder).log()
    return bool(log) and log[-1]["cpu_seconds"] >= 60 * minutes - 5


def table(cells: dict[str, Any], data: str, minutes: float, names_of: Callable[[str], str] = str) -> str:
    """Markdown: a row for each system, mean over seeds and half their range; the floor below."""
    from saddlepoint.metrics.scores import difference, from_dict

    rows: dict[str, list[dict[str, Any]]] = {}
    for key, value in cells.items():
        system, on, _, length = key.split()
        if on == data and length == f"{minutes:g}min":
            rows.setdefault(system, []).append(value)
    if not rows:
        return f"nothing measured yet on {data} at {minutes:g} minutes"
    names = [name for name in SHOWN if name in next(iter(rows.values()))[0]["scores"]]
    first = {name: from_dict(next(iter(rows.values()))[0]["scores"][name]) for name in names}
    lines = [
        f"| {data}, {minutes:g} CPU minutes | images seen | {' | '.join(first[name].name for name in names)} |",
        f"|---|---|{'---|' * len(names)}",
    ]
    order = sorted(rows, key=lambda s: statistics.mean(c["scores"][names[0]]["value"] for c in rows[s]))
    for system in order:
        found = rows[system]
        for value in found:
            for name in names:
                difference(from_dict(value["scores"][name]), first[name])  # refuses what was measured differently
        values = [spread([c["scores"][name]["value"] for c in found]) for name in names]
        seen = statistics.mean(c["kimg"] for c in found)
        lines.append(f"| {names_of(system)} ({len(found)} seeds) | {seen:,.0f} k | {' | '.join(values)} |")
    lines.append(f"| floor: real against real | | {' | '.join(f'{first[n].floor:.4g}' for n in names)} |")
    record = first[names[0]].record
    lines.append(
        f"\n{record['samples']:,} samples against {record['reference']}; features "
        f"{record.get('extractor_identity', '?')}. Mean over seeds ± half their range; lower is better for distances, "
        "higher for the rest."
    )
    return "\n".join(lines)


def spread(values: list[float]) -> str:
    """Mean ± half the range."""
    half = (max(values) - min(values)) / 2
    return f"{statistics.mean(values):.4g} ± {half:.2g}" if len(values) > 1 else f"{values[0]:.4g}"


if __name__ == "__main__":
    main()
