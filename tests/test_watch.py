"""A process that dies ends the others. This file is also the program that the processes run; it needs no torch."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from saddlepoint.watch import LOST, Watch

PATIENCE = 60.0  # seconds; what is waited for takes well under one


def agreement(folder: Path, rank: int, text: str) -> str:
    """Process 0's text through a file, instead of a collective call."""
    place = folder / "agreed"
    if rank == 0:
        place.with_suffix(".tmp").write_text(text)
        place.with_suffix(".tmp").replace(place)
    wait_for(place.exists)
    return place.read_text()


def wait_for(done: object) -> None:
    deadline = time.monotonic() + PATIENCE
    while not done():  # type: ignore[operator]
        if time.monotonic() > deadline:
            raise TimeoutError
        time.sleep(0.01)


def process(folder: Path, rank: int, world: int) -> None:
    """Join, say so, and do as the file called after this rank says."""
    watch = Watch(rank, world, lambda text: agreement(folder, rank, text))
    watch.advice = lambda: "Go on with: this."
    (folder / f"joined-{rank}").touch()
    order = folder / f"order-{rank}"
    wait_for(order.exists)
    if order.read_text() == "leave":
        watch.leave()
    if order.read_text() == "fail":
        watch.leave(ValueError("no\nroom"))
        sys.exit(7)
    if order.read_text() == "collective":  # a call that failed because of another process
        watch.settle(PATIENCE)
        sys.exit(8)


class Processes:
    """`world` processes that watch each other."""

    def __init__(self, folder: Path, world: int) -> None:
        self.folder = folder
        environment = {**os.environ, "MASTER_ADDR": "localhost", "PYTHONPATH": str(Path(__file__).parents[1])}
        self.all = [
            subprocess.Popen(
                [sys.executable, __file__, str(folder), str(rank), str(world)],
                env=environment,
                stderr=subprocess.PIPE,
                text=True,
            )
            for rank in range(world)
        ]
        wait_for(lambda: all((folder / f"joined-{rank}").exists() for rank in range(world)))
        time.sleep(0.3)  # for process 0 to have let the others in

    def order(self, rank: int, what: str) -> None:
        place = self.folder / f"order-{rank}"
        place.with_suffix(".tmp").write_text(what)
        place.with_suffix(".tmp").replace(place)

    def ended(self, rank: int) -> tuple[int, str]:
        """(exit status, standard error)"""
        _, stderr = self.all[rank].communicate(timeout=PATIENCE)
        return self.all[rank].returncode, stderr


@pytest.fixture
def three(tmp_path: Path) -> Iterator[Processes]:
    made = Processes(tmp_path, 3)
    yield made
    for one in made.all:
        with contextlib.suppress(ProcessLookupError):
            one.kill()
        one.communicate()


@pytest.mark.parametrize("victim", [0, 1, 2])
def test_one_that_is_killed_ends_the_others_with_one_message(three: Processes, victim: int) -> None:
    three.all[victim].send_signal(signal.SIGKILL)
    ends = {rank: three.ended(rank) for rank in range(3) if rank != victim}
    assert [status for status, _ in ends.values()] == [LOST, LOST]
    text = "".join(stderr for _, stderr in ends.values())
    assert text == (
        f"saddlepoint: the process of rank {victim} died (killed, or out of memory?), so all 3 end. Go on with: this.\n"
    )


def test_one_that_leaves_does_not(three: Processes) -> None:
    three.order(1, "leave")
    assert three.ended(1) == (0, "")
    time.sleep(0.5)
    assert [one.poll() for one in three.all] == [None, 0, None]
    three.order(0, "leave")  # the one that holds the connections
    assert three.ended(0) == (0, "")
    time.sleep(0.5)
    assert three.all[2].poll() is None
    three.order(2, "leave")
    assert three.ended(2) == (0, "")


def test_one_that_fails_is_named_by_the_others_with_its_error(three: Processes) -> None:
    three.order(0, "collective")
    three.order(2, "collective")
    time.sleep(0.2)
    three.order(1, "fail")
    assert three.ended(1) == (7, "")
    assert three.ended(0) == (
        LOST,
        "saddlepoint: the process of rank 1 stopped with an error (ValueError: no room), so all 3 end. "
        "Go on with: this.\n",
    )
    assert three.ended(2) == (LOST, "")


def test_when_all_fail_together_each_keeps_its_own_status(three: Processes) -> None:
    for rank in range(3):
        three.order(rank, "fail")
    assert [three.ended(rank) for rank in range(3)] == [(7, "")] * 3


if __name__ == "__main__":
    process(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
