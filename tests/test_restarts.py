"""torchrun starts killed processes again; the run goes on, also with another number of processes."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import saddlepoint as sp

# The process of rank 1 kills itself once there is a checkpoint, at its first start only.
WORKER = """
import os, signal, sys, threading, time
from pathlib import Path

def strike(out):
    while not any(out.glob("checkpoints/0*")):
        time.sleep(0.005)
    os.kill(os.getpid(), signal.SIGKILL)

if os.environ["RANK"] == "1" and os.environ["TORCHELASTIC_RESTART_COUNT"] == "0":
    threading.Thread(target=strike, args=(Path(sys.argv[1]),), daemon=True).start()
from saddlepoint.cli import main
from saddlepoint.distributed import leave
leave(main(sys.argv[2:]))
"""
TRAIN = "train dcgan --data digits --resolution 8 --width 4 --latent 4 --batch 16 --precision fp32"
TRAIN += " --g.kind sgd --d.kind sgd"  # Adam magnifies rounding where gradients are tiny
KIMG = 6.4


def words(out: Path, kimg: float) -> list[str]:
    return [*TRAIN.split(), "--kimg", str(kimg), "--checkpoint-kimg", "0.16", "--out", str(out), "--overwrite"]


def torchrun(processes: int, *arguments: str) -> subprocess.CompletedProcess[str]:
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parents[1])}
    return subprocess.run([*launcher, *arguments], env=environment, capture_output=True, text=True, timeout=600)


@pytest.mark.slow
def test_a_killed_process_costs_nothing_and_the_run_goes_on_with_one_process(tmp_path: Path) -> None:
    script, out = tmp_path / "worker.py", tmp_path / "killed"
    script.write_text(WORKER)
    done = torchrun(2, "--max-restarts=1", str(script), str(out), *words(out, KIMG))
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stderr.count("the process of rank 1 died") == 1
    assert "torchrun starts all again (restart 1 of 1) and the run goes on from there" in done.stderr
    assert f"started again: {out} goes on from" in done.stderr
    whole = sp.train(sp.load(out).recipe, out=tmp_path / "whole", progress=False, device="cpu", overwrite=True)
    for path, recipe_kimg in ((out, 2 * KIMG), (whole.path, 2 * KIMG)):
        sp.resume(path, kimg=recipe_kimg, progress=False, device="cpu")
    ours, theirs = sp.load(out).latest()[1], sp.load(whole.path).latest()[1]
    assert ours.keys() == theirs.keys()
    for name, value in theirs.items():  # one process throughout, against two that died, were restarted, became one
        torch.testing.assert_close(ours[name], value, rtol=1e-3, atol=1e-4, msg=lambda m, name=name: f"{name}: {m}")
