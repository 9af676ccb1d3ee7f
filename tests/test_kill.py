"""kill -9 at random instants of training and saving: resume ends with the uninterrupted run's weights, bit for bit."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

import saddlepoint as sp

# Tiny rounds and a checkpoint every few of them, so that a kill often falls into the writing of one.
SCRIPT = """
import sys, saddlepoint as sp, torch
torch.set_num_threads(1)
if sys.argv[2] == "train":
    sp.train(sp.recipe("dcgan", "tiny", resolution=8, width=8, batch=32, checkpoint_kimg=0.128, precision="fp32"),
             "digits", sys.argv[1], kimg={kimg}, progress=False, device="cpu")
else:
    sp.resume(sys.argv[1], progress=False, device="cpu")
"""
KIMG = 12


def start(path: Path, mode: str) -> subprocess.Popen[bytes]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", SCRIPT.replace("{kimg}", str(KIMG)), str(path), mode]
    return subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL)


@pytest.mark.slow
def test_ten_kills_leave_the_uninterrupted_weights(tmp_path: Path) -> None:
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    assert start(whole, "train").wait() == 0
    reference = sp.load(whole).latest()[1]

    process, kills, rng = start(killed, "train"), 0, random.Random(0)
    while kills < 10:
        before = sp.load(killed).clock if (killed / "recipe.json").exists() else 0
        while process.poll() is None:  # let it get past a checkpoint, so that the kills advance through the run
            if (killed / "recipe.json").exists() and sp.load(killed).clock > before + 512:
                break
            time.sleep(0.01)
        if process.poll() is not None:
            break
        time.sleep(rng.random() * 0.15)
        process.send_signal(signal.SIGKILL)
        process.wait()
        kills += 1
        process = start(killed, "resume")
    assert process.wait() == 0
    assert kills == 10, "the run ended before it was killed ten times: make it longer"

    run = sp.load(killed)
    assert run.clock == sp.load(whole).clock
    tensors = run.latest()[1]
    assert tensors.keys() == reference.keys()
    assert all(torch.equal(tensors[name], reference[name]) for name in reference)
    assert not list((killed / "checkpoints").glob(".*.tmp"))
    ticks = [line["clock"] for line in run.log()]
    assert ticks == sorted(set(ticks)), "a tick of the log stands twice"
