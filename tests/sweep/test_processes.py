"""Several processes play every system as one process does: the same weights after the same rounds."""

from __future__ import annotations

import dataclasses
import functools
import itertools
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from saddlepoint import distributed, recipes

from .test_sweep import small, training

SYSTEMS = recipes.systems()
PARTS = (1, 2)  # micro-batches in every process
TOLERANCE = 2e-4  # of the largest weight, after two rounds; sums over other groupings of samples, then Adam


def smooth(system: str) -> recipes.Recipe:
    """The sweep's small recipe with plain steps: Adam's first steps turn rounding of tiny gradients into full steps."""
    recipe = small(system)
    plain = {"kind": "sgd", "lr": 0.01, "momentum": 0.0}
    names = {f.name for f in dataclasses.fields(recipe)} & {"g", "d"}
    return recipes.with_overrides(recipe, dict.fromkeys(names, plain))


def play(folder: Path) -> None:
    """Two rounds of every system, whole and in micro-batches; process 0 writes the weights and how far the processes
    are apart.
    """
    torch.set_num_threads(1)
    distributed.start(torch.device("cpu"))
    for system, accumulate in itertools.product(SYSTEMS, PARTS):
        made = training(dataclasses.replace(smooth(system), accumulate=accumulate))
        for _ in range(2):
            made.play()
        apart = distributed.disagreement([*made.game.parameters(), *made.game.buffers()])
        if distributed.rank() == 0:
            state = {k: v.clone().contiguous() for k, v in made.game.state_dict().items()}
            save_file({**state, "apart": torch.tensor(apart)}, folder / f"{system}-{accumulate}.safetensors")
    distributed.barrier()
    distributed.stop()
    distributed.leave(0)


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Callable[[int], Path]:
    """Number of processes -> the folder of what they wrote; each number is played once."""

    @functools.cache
    def launched(processes: int) -> tuple[Path, subprocess.CompletedProcess[str]]:
        folder = tmp_path_factory.mktemp(f"processes{processes}")
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
        root = Path(__file__).parents[2]
        code = ["-m", "tests.sweep.test_processes", str(folder)]
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(root)}
        launch = [*command, *code]
        done = subprocess.run(launch, cwd=root, env=environment, capture_output=True, text=True, timeout=1800)
        return folder, done

    def played(processes: int) -> Path:
        folder, done = launched(processes)
        assert done.returncode == 0, done.stderr[-3000:]
        return folder

    return played


@pytest.mark.parametrize("accumulate", PARTS)
@pytest.mark.parametrize("processes", [2, pytest.param(4, marks=pytest.mark.slow)])
@pytest.mark.parametrize("system", SYSTEMS)
def test_several_processes_equal_one(
    system: str, processes: int, accumulate: int, results: Callable[[int], Path]
) -> None:
    """Also in micro-batches, also where something ties their samples together: they have the same members."""
    one, more = (load_file(results(n) / f"{system}-{accumulate}.safetensors") for n in (1, processes))
    assert one.keys() == more.keys()
    assert float(more["apart"]) == 0.0, "the processes hold different weights or buffers"
    scale = max(float(v.abs().max()) for v in one.values())
    worst = {k: float((one[k] - more[k]).abs().max()) for k in one}
    assert max(worst.values()) <= TOLERANCE * scale, max(worst, key=lambda k: worst[k])


if __name__ == "__main__":
    play(Path(sys.argv[1]))
