"""Data and numbers divided over processes and micro-batches: every example once, the micro-batches of one process."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from saddlepoint import api, distributed, recipes, runs
from saddlepoint.data import ImageSet, Stream
from saddlepoint.data.catalog import Facts
from saddlepoint.engine import EngineTable
from saddlepoint.errors import UserError
from saddlepoint.game import Round
from tests.games import Small, training


def numbered(count: int) -> ImageSet:
    """Images that are told apart by their labels."""
    pixels = np.zeros((count, 1, 2, 2), np.uint8)
    facts = Facts("numbered", count, 2, 2, 1)
    return ImageSet(pixels, np.arange(count), None, None, [str(n) for n in range(count)], facts, [])


def drawn(rank: int, world: int, rounds: int, source: Any, batch: int, accumulate: int) -> list[Round]:
    """What process `rank` of `world` draws in its first rounds."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(distributed, "rank", lambda: rank)
        patch.setattr(distributed, "world_size", lambda: 1)  # nobody is there to be told the first weights
        made = training(Small(), source=source, batch=batch, accumulate=accumulate)
        patch.setattr(distributed, "world_size", lambda: world)
        table: EngineTable = made.table
        found = []
        for _ in range(rounds):
            table.begin()
            found.append(table.draw("data"))
            table.end()
        return found


@settings(max_examples=25)
@given(
    count=st.integers(2, 40),
    world=st.integers(1, 4),
    accumulate=st.integers(1, 3),
    length=st.integers(1, 3),
    seed=st.integers(0, 99),
)
def test_no_image_twice_in_an_epoch_over_all_processes(
    count: int, world: int, accumulate: int, length: int, seed: int
) -> None:
    batch = world * accumulate * length
    rounds = -(-2 * count // batch)
    stream = Stream(numbered(count), seed)
    every = [drawn(rank, world, rounds, stream, batch, accumulate) for rank in range(world)]
    seen: list[int] = []
    for index in range(rounds):  # in the order of one process: micro-batch by micro-batch, rank by rank
        for part in range(accumulate):
            for rank in range(world):
                piece = every[rank][index].split(accumulate)[part]
                seen += piece["label"].tolist()
    for epoch in range(len(seen) // count):
        assert sorted(seen[epoch * count : (epoch + 1) * count]) == list(range(count))


@settings(max_examples=25)
@given(world=st.integers(1, 4), accumulate=st.integers(1, 4), length=st.integers(1, 3))
def test_micro_batches_over_the_processes_are_those_of_one(world: int, accumulate: int, length: int) -> None:
    """Examples and numbers, whole and in parts."""
    batch = world * accumulate * length
    stream = Stream(numbered(50), 0)
    (one,) = drawn(0, 1, 1, stream, batch, accumulate)
    shares = [drawn(rank, world, 1, stream, batch, accumulate)[0] for rank in range(world)]
    for part, whole in enumerate(one.split(accumulate)):
        pieces = [share.split(accumulate)[part] for share in shares]
        assert torch.equal(torch.cat([p["label"] for p in pieces]), whole["label"])
        for draw in (lambda r: r.normal("z", 3), lambda r: r.uniform("u")):
            assert torch.equal(torch.cat([draw(p) for p in pieces]), draw(whole))
    for share in shares:  # a loss that sees the share as a whole finds its samples in the order of its parts
        parts = share.split(accumulate)
        assert torch.equal(share.normal("z", 3), torch.cat([p.normal("z", 3) for p in parts]))
        assert torch.equal(share["label"], torch.cat([p["label"] for p in parts]))


def test_a_part_across_two_pieces_is_refused() -> None:
    share = Round({}, first=1, size=4, total=8, pieces=2)
    assert (share.part(2, 2).first, share.part(3, 1).first, share.part(0, 2).first) == (5, 6, 1)
    with pytest.raises(ValueError, match="several of the round's pieces"):
        share.part(1, 2)


# ---- torchrun starts processes again
@pytest.fixture
def launch(monkeypatch: pytest.MonkeyPatch) -> Callable[[str, int], None]:
    def become(name: str, restarts: int) -> None:
        monkeypatch.setenv("TORCHELASTIC_RUN_ID", name)
        monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", str(restarts))
        monkeypatch.setenv("TORCHELASTIC_MAX_RESTARTS", "3")

    return become


def test_only_a_restart_of_the_same_launch_goes_on(
    tmp_path: Path, launch: Callable[[str, int], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    recipe = recipes.recipe("dirac")
    launch("a", 0)
    path = api.run_folder(None, recipe)
    runs.create(path, recipe)
    assert api.begun_before(path, recipe) is None  # the first start
    launch("b", 1)
    assert api.begun_before(path, recipe) is None  # another launch's run
    launch("a", 1)
    assert api.begun_before(path, recipe) == path
    assert api.begun_before(None, recipe) == path  # it had no name
    assert api.begun_before(path, recipes.with_overrides(recipe, {"seed": 5})) is None
    assert api.begun_before(tmp_path / "other", recipe) is None


def test_a_restart_after_the_end_is_no_error(tmp_path: Path, launch: Callable[[str, int], None]) -> None:
    run = api.train("dirac", out=tmp_path / "run", kimg=0.002, progress=False, device="cpu")
    with pytest.raises(UserError, match="has seen"):
        api.resume(run.path, progress=False)
    launch("a", 1)
    assert api.resume(run.path, progress=False, device="cpu").clock == run.clock


def test_a_folder_that_a_dying_process_left_is_taken(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    for name in ("samples", "checkpoints"):
        (folder / name).mkdir(parents=True)
    (folder / "environment.json").write_text("{}")
    (folder / ".recipe.json.123.tmp").write_text("{")
    runs.refuse_occupied(folder)
    (folder / "samples" / "mine.png").touch()
    with pytest.raises(UserError, match="not empty and not a run"):
        runs.refuse_occupied(folder)
