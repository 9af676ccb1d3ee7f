"""Kill -9 of a random process of a training again and again: what is lost, and what the run ends with.

    python benchmarks/kills.py [--kills 20] [--processes 2] [--kimg 60] [--work FOLDER] [--json FILE]

The training is started once, by `torchrun --max-restarts`, which starts the processes again after each kill; nobody
resumes by hand. Each kill strikes a random rank at a random instant of playing or saving, once the run has got past the
checkpoint that it was at before. At the end the weights, optimizer moments and averages are compared bit by bit with
those of a run that nobody disturbed. The system is a tiny DCGAN (batch norm over the processes) on 8 x 8 digits.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import random
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

TINY = ["--resolution", "8", "--width", "8", "--batch", "32", "--precision", "fp32"]
TINY += ["--checkpoint-kimg", "0.128", "--samples-kimg", "1000"]


def work(folder: Path, words: list[str]) -> None:
    """One process: leave its number where the killer finds it, then be the command."""
    place = folder / f"rank-{os.environ['RANK']}"
    place.with_suffix(".tmp").write_text(str(os.getpid()))
    place.with_suffix(".tmp").replace(place)
    from saddlepoint.cli import main
    from saddlepoint.distributed import leave

    leave(main(words))


def started(folder: Path, out: Path, args: argparse.Namespace, restarts: int) -> subprocess.Popen[bytes]:
    folder.mkdir(parents=True)
    launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={args.processes}"]
    command = ["train", "dcgan", "--data", "digits", *TINY, "--kimg", str(args.kimg), "--out", str(out), "--quiet"]
    words = [*launcher, f"--max-restarts={restarts}", __file__, "--worker", str(folder), *command]
    with (folder / "stderr").open("wb") as stderr:
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        return subprocess.Popen([sys.executable, *words], env=environment, stderr=stderr)


def clock(out: Path) -> int:
    """Images seen at the newest checkpoint."""
    folder = out / "checkpoints"
    return max((int(p.name) for p in folder.iterdir() if p.name.isdigit()), default=0) if folder.is_dir() else 0


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def killed(
    folder: Path, out: Path, process: subprocess.Popen[bytes], before: int, world: int, rng: random.Random
) -> Any:
    """Wait for a new checkpoint, kill a random rank, wait until all are gone; None if the run ended first."""
    while clock(out) <= before or len(list(folder.glob("rank-?"))) < world:
        if process.poll() is not None:
            return None
        time.sleep(0.01)
    time.sleep(rng.random() * 0.3)
    pids = {int(p.name[5:]): int(p.read_text()) for p in folder.glob("rank-?")}
    rank = rng.randrange(world)
    for p in folder.glob("rank-?"):
        p.unlink()
    with contextlib.suppress(ProcessLookupError):
        os.kill(pids[rank], signal.SIGKILL)
    began = time.perf_counter()
    saving = any(out.glob("checkpoints/.*.tmp"))
    while any(alive(pid) for pid in pids.values()):
        time.sleep(0.01)
    ended = time.perf_counter() - began
    return {"rank": rank, "checkpoint": clock(out), "while_saving": saving, "all_ended_after_seconds": round(ended, 2)}


def compared(a: Path, b: Path) -> dict[str, Any]:
    """The newest checkpoints of two runs, tensor by tensor."""
    import torch

    import saddlepoint as sp

    (_, first, one), (_, second, two) = sp.load(a).latest(), sp.load(b).latest()
    same = first.keys() == second.keys() and all(torch.equal(first[k], second[k]) for k in first)
    worst = max(float((first[k].double() - second[k].double()).abs().max()) for k in first if first[k].numel())
    return {"tensors": len(first), "bit_for_bit": same, "largest_difference": worst, "counters_equal": one == two}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--kimg", type=float, default=60)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--work", type=Path)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    root = args.work or Path(tempfile.mkdtemp(prefix="kills-"))
    rng, found, before = random.Random(args.seed), [], 0
    process = started(root / "a", root / "killed", args, args.kills)
    for number in range(args.kills):
        one = killed(root / "a", root / "killed", process, before, args.processes, rng)
        if one is None:
            sys.exit(f"the run ended before kill {number + 1}: give a larger --kimg. {root / 'a' / 'stderr'}")
        found.append(one)
        before = one["checkpoint"]
        print(f"kill {number + 1:2}: {one}", flush=True)
    if process.wait():
        sys.exit(f"the run failed: {root / 'a' / 'stderr'}")
    if started(root / "b", root / "whole", args, 0).wait():
        sys.exit(f"the undisturbed run failed: {root / 'b' / 'stderr'}")
    ticks = [json.loads(line)["clock"] for line in (root / "killed" / "log.jsonl").read_text().splitlines()]
    result = {
        "command": f"python benchmarks/kills.py --kills {args.kills} --processes {args.processes} --kimg {args.kimg:g}",
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "system": "dcgan " + " ".join(TINY),
        "kills": found,
        "of_process_0": sum(one["rank"] == 0 for one in found),
        "while_saving": sum(one["while_saving"] for one in found),
        "all_ended_after_seconds": {
            "median": statistics.median(one["all_ended_after_seconds"] for one in found),
            "worst": max(one["all_ended_after_seconds"] for one in found),
        },
        "against_the_undisturbed_run": compared(root / "killed", root / "whole"),
        "each_tick_logged_once": ticks == sorted(set(ticks)),
    }
    print(json.dumps({k: v for k, v in result.items() if k != "kills"}, indent=2))
    if args.json:
        args.json.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    if sys.argv[1:2] == ["--worker"]:
        work(Path(sys.argv[2]), sys.argv[3:])
    main()
