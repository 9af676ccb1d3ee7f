"""Two and four gloo processes against one. This file is also the program that the processes run."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor

from saddlepoint import distributed, recipes
from saddlepoint.engine import NonFiniteError, Training
from saddlepoint.errors import UserError
from saddlepoint.game import Round, Stage, Terms
from saddlepoint.recipes.base import Optimizer
from saddlepoint.systems.dcgan import DCGAN
from tests.games import Small, same_bits, snapshot, spiral, training

ADAM = Optimizer(kind="adam", lr=0.02, betas=(0.5, 0.9))
ROUNDS = 3
WORLDS = (2, 4)


def pictures(cursor: int, total: int, first: int, length: int, resolution: int | None = None) -> dict[str, Tensor]:
    x = torch.rand(total, 1, 8, 8, generator=torch.Generator().manual_seed(cursor)) * 2 - 1  # [N, 1, 8, 8]
    return {"image": x[first : first + length]}


def small(
    seed: int, operator: str = "alternating", *, double: bool = False, recipe: Any = None, **game: Any
) -> Training:
    made = Small(seed=seed, **game)
    values = {"source": spiral, "batch": 8, "ema_half_life_kimg": 0.02, "operator_strength": 0.1} | (recipe or {})
    return training(made.double() if double else made, operator, ADAM, **values)


def dcgan(seed: int, *, double: bool = False, **overrides: Any) -> Training:
    sizes = {"resolution": 8, "channels": 1, "width": 4, "latent": 4, "batch": 8}
    plain = {"precision": "fp32", "channels_last": False, "operator_strength": 0.1}
    recipe = recipes.recipe("dcgan", **{**sizes, **plain, **overrides})
    torch.manual_seed(seed)
    made = DCGAN(recipe)  # type: ignore[arg-type]
    return Training(made.double() if double else made, recipe, pictures)


def schedule(clock: int) -> Stage:
    return Stage(batch=8 if clock < 8 else 4, era=int(clock >= 8), settings={"generator": {"lr": 0.01}})


SGD = {"kind": "sgd", "lr": 0.5}
# name: (how it is built from a seed, how far it may be from one process)
CASES: dict[str, tuple[Callable[[int], Training], float]] = {
    "no batch norm": (lambda seed: small(seed, lazy=2, keep=True, pool=16, steps=(1, 2)), 1e-6),
    "batch norm, float64": (lambda seed: small(seed, double=True, norm=True, lazy=1), 1e-9),
    "dcgan": (lambda seed: dcgan(seed, g=SGD, d=SGD), 1e-5),
    "dcgan with R1, Adam, float64": (lambda seed: dcgan(seed, double=True, penalty={"r1": 0.1}), 1e-7),
    "consensus through batch norm": (lambda seed: small(seed, "consensus", double=True, norm=True, lazy=1), 1e-9),
    "consensus on dcgan": (lambda seed: dcgan(seed, operator="consensus", double=True, g=SGD, d=SGD), 1e-9),
    "extragradient": (lambda seed: small(seed, "extragradient", double=True, norm=True, pool=16), 1e-9),
    "micro-batches in every process": (lambda seed: small(seed, pool=16, recipe={"accumulate": 2}), 1e-6),
    "micro-batches with batch norm": (
        lambda seed: small(seed, "extragradient", double=True, norm=True, keep=True, recipe={"accumulate": 2}),
        1e-9,
    ),
    "unrolled in micro-batches": (
        lambda seed: dcgan(seed, operator="unrolled", double=True, accumulate=2, g=SGD, d=SGD),
        1e-9,
    ),
    "a schedule": (lambda seed: small(seed, double=True, norm=True, keep=True, start=8, stages=schedule), 1e-9),
    "bf16, NHWC": (lambda seed: dcgan(seed, precision="bf16", channels_last=True), 0.05),
}


# ---- what each process does


class HalfBroken(Small):
    """Infinite for the first samples of the batch only: one process sees it, all must stop."""

    def generator_loss(self, round: Round) -> Terms:
        value = super().generator_loss(round)["gan"]
        return {"gan": value * float("inf") if round.first == 0 else value}


def primitives(rank: int, world: int) -> dict[str, Any]:
    nhwc = torch.full((2, 3, 2, 2), float(rank)).to(memory_format=torch.channels_last)
    wide, narrow = torch.full((2,), float(rank)).double(), torch.full((2, 2), float(rank)).t()
    distributed.mean_([nhwc, wide, narrow])
    sent = torch.arange(24.0).view(2, 3, 2, 2).to(memory_format=torch.channels_last) * (rank == 0)
    counter, flag = torch.tensor(7 * (rank == 0)), torch.tensor([rank == 0, False])
    distributed.broadcast_([sent, counter, flag])
    x = torch.tensor(0.3 + 0.2 * rank, dtype=torch.float64, requires_grad=True)
    loss = (rank + 1) * distributed.mean(x**3).sin() * x
    (first,) = torch.autograd.grad(loss, x, create_graph=True)
    (second,) = torch.autograd.grad(first**2 * x, x, create_graph=True)
    (third,) = torch.autograd.grad(second * (rank + 2), x)
    through_func = torch.func.grad(lambda x: (rank + 1) * distributed.mean(x**3).sin() * x)(x.detach())
    return {
        "rank": (distributed.rank(), distributed.world_size()),
        "mean_": (nhwc.unique().tolist(), wide.tolist(), narrow.unique().tolist(), wide.dtype == torch.float64),
        "broadcast_": (sent.flatten().tolist(), int(counter), flag.tolist()),
        "any_true": [distributed.any_true(rank == 1), distributed.any_true(False)],
        "disagreement": [distributed.disagreement([torch.ones(3)]), distributed.disagreement([torch.ones(3) * rank])],
        "derivatives": [float(first), float(second), float(third), float(through_func)],
    }


def failures() -> dict[str, str]:
    found = {}
    for name, run in {
        "not finite": training(HalfBroken(), source=spiral, batch=8),
        "not divisible": training(Small(), source=spiral, batch=6, accumulate=dist.get_world_size()),
    }.items():
        try:
            run.play()
        except (NonFiniteError, UserError) as error:
            found[name] = f"{type(error).__name__}: {error}"
    return found


def played(build: Callable[[int], Training], seed: int) -> dict[str, Any]:
    run = build(seed)
    start = run.game.state_dict()
    initial = {k: v.clone() for k, v in start.items()}
    for _ in range(ROUNDS):
        report = run.play()
    tensors, values = snapshot(run)
    own = [t.detach() for t in (*run.game.parameters(), *run.game.buffers(), *run.average.twin.parameters())]
    return {
        "initial": initial,
        "tensors": tensors,
        "values": values,
        "report": {f"{p}/{t}": v.detach() for p, terms in report.items() for t, v in terms.items()},
        "disagreement": distributed.disagreement(own),
    }


def process(rank: int, world: int, folder: Path) -> None:
    os.environ.update(RANK=str(rank), WORLD_SIZE=str(world), LOCAL_RANK=str(rank))
    torch.set_num_threads(1)
    distributed.start(torch.device("cpu"))
    found: dict[str, Any] = {"primitives": primitives(rank, world), "failures": failures()}
    for name, (build, _) in CASES.items():
        found[name] = played(build, seed=rank)  # every process begins elsewhere: process 0 decides
    torch.save(found, folder / f"{world}-{rank}.pt")
    distributed.stop()


def main(folder: Path) -> None:
    """Fork the processes of each world: torch is imported once."""
    for world in WORLDS:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(probe.getsockname()[1]))
        children = []
        for rank in range(world):
            child = os.fork()
            if child == 0:
                try:
                    process(rank, world, folder)
                except BaseException:
                    sys.excepthook(*sys.exc_info())
                    os._exit(1)
                os._exit(0)
            children.append(child)
        if any(os.waitpid(child, 0)[1] for child in children):
            sys.exit(f"a process of {world} failed")


# ---- the tests


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[int, list[dict[str, Any]]]:
    """World size -> what each of its processes found."""
    if not hasattr(os, "fork") or not dist.is_available() or not dist.is_gloo_available():
        pytest.skip("needs fork and gloo")
    folder = tmp_path_factory.mktemp("processes")
    root = Path(__file__).parents[1]
    clean = {k: v for k, v in os.environ.items() if k not in ("RANK", "WORLD_SIZE", "LOCAL_RANK")}
    environment = clean | {"PYTHONPATH": str(root), "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
    command = [sys.executable, __file__, str(folder)]
    done = subprocess.run(command, env=environment, cwd=root, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stderr[-4000:]
    return {
        world: [torch.load(folder / f"{world}-{rank}.pt", weights_only=True) for rank in range(world)]
        for world in WORLDS
    }


@pytest.fixture(scope="module")
def alone() -> dict[str, dict[str, Any]]:
    return {name: played(build, seed=0) for name, (build, _) in CASES.items()}


Found = dict[int, list[dict[str, Any]]]


@pytest.mark.parametrize("world", WORLDS)
@pytest.mark.parametrize("name", CASES)
def test_several_processes_play_the_game_of_one(found: Found, alone: dict[str, Any], name: str, world: int) -> None:
    first, one, tolerance = found[world][0][name], alone[name], CASES[name][1]
    assert first["values"] == one["values"]  # counters and era
    assert same_bits(first["initial"], one["initial"])  # process 0's weights, not each one's own
    moved = max(float((first["tensors"][f"game/{k}"] - v).abs().max()) for k, v in one["initial"].items() if v.numel())
    assert moved > 0.01
    assert first["tensors"].keys() == one["tensors"].keys()
    for key, value in one["tensors"].items():  # weights, running statistics, pool, average, moments
        torch.testing.assert_close(
            first["tensors"][key], value, rtol=tolerance, atol=tolerance, msg=lambda m, key=key: f"{key}: {m}"
        )
    for term, value in one["report"].items():
        torch.testing.assert_close(first["report"][term], value, rtol=10 * tolerance, atol=10 * tolerance)


@pytest.mark.parametrize("world", WORLDS)
@pytest.mark.parametrize("name", CASES)
def test_all_processes_hold_the_same_bits(found: Found, name: str, world: int) -> None:
    first = found[world][0][name]
    for other in found[world]:
        assert other[name]["disagreement"] == 0.0
        assert same_bits(other[name]["tensors"], first["tensors"])
        assert same_bits(other[name]["report"], first["report"])


@pytest.mark.parametrize("world", WORLDS)
def test_means_broadcasts_and_flags(found: Found, world: int) -> None:
    middle = (world - 1) / 2
    for rank, results in enumerate(found[world]):
        p = results["primitives"]
        assert p["rank"] == (rank, world)
        assert p["mean_"] == ([middle], [middle] * 2, [middle], True)
        assert p["broadcast_"] == ([float(i) for i in range(24)], 7, [True, False])
        assert p["any_true"] == [True, False]
        assert p["disagreement"] == [0.0, float(world - 1)]


@pytest.mark.parametrize("world", WORLDS)
def test_a_mean_over_processes_has_derivatives_of_any_order(found: Found, world: int) -> None:
    """Each process finds `world` times its share of the mean loss's derivative: the mean of these is the whole."""
    x = (0.3 + 0.2 * torch.arange(world, dtype=torch.float64)).requires_grad_()
    weight = torch.arange(world, dtype=torch.float64) + 1
    (first,) = torch.autograd.grad((weight * (x**3).mean().sin() * x).mean(), x, create_graph=True)
    first = first * world
    (second,) = torch.autograd.grad((first**2 * x).mean(), x, create_graph=True)
    second = second * world
    (third,) = torch.autograd.grad((second * (weight + 1)).mean(), x)
    expected = torch.stack([first, second, third * world, first], 1).tolist()
    for results, row in zip(found[world], expected, strict=True):
        assert results["primitives"]["derivatives"] == pytest.approx(row, rel=1e-12)


@pytest.mark.parametrize("world", WORLDS)
def test_one_process_that_fails_stops_all_and_a_bad_batch_is_refused(found: Found, world: int) -> None:
    for results in found[world]:
        assert results["failures"]["not finite"].startswith("NonFiniteError: the gradient of player 'generator'")
        refused = results["failures"]["not divisible"]
        assert f"a batch of 6 cannot be divided over {world} processes with {world} micro-batches each" in refused
        assert refused.endswith({2: "nearest: 4 or 8.", 4: "nearest: 16 or 16."}[world])


def test_alone_everything_is_the_identity() -> None:
    assert (distributed.rank(), distributed.world_size()) == (0, 1)
    x = torch.tensor([1.0, 2.0], requires_grad=True)
    assert distributed.mean(x) is x
    distributed.mean_([x.detach()])
    distributed.broadcast_([x.detach()])
    assert x.tolist() == [1, 2]
    assert distributed.any_true(True)
    assert not distributed.any_true(False)
    assert distributed.disagreement([x]) == 0
    assert distributed.start(torch.device("cpu")) == torch.device("cpu")
    distributed.stop()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
