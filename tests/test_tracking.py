from __future__ import annotations

import threading

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from saddlepoint import tracking
from saddlepoint.tracking import Tracked, collecting, commit, in_a_move, silence, track


def test_outside_a_move_nothing_happens() -> None:
    buffer = torch.ones(3)
    track(buffer, torch.zeros(3), 0.5)
    assert buffer.tolist() == [1, 1, 1]
    with collecting() as ledger:
        pass
    assert ledger == []  # and nothing was remembered either


def test_the_ledger_keeps_the_order_of_the_calls_and_the_buffer_is_untouched() -> None:
    a, b = torch.zeros(2), torch.zeros(2)
    with collecting() as ledger:
        track(a, torch.ones(2), 0.1)
        track(b, torch.full((2,), 2.0), 0.2)
        track(a, torch.full((2,), 3.0), 0.3)
    assert [(e.buffer is a, float(e.statistic[0]), e.rate) for e in ledger] == [
        (True, 1, 0.1),
        (False, 2, 0.2),
        (True, 3, 0.3),
    ]
    assert not a.any()
    assert not b.any()


def test_an_inner_ledger_or_silence_hides_from_the_outer_one() -> None:
    buffer = torch.zeros(1)
    with collecting() as outer:
        with collecting() as inner:
            track(buffer, torch.ones(1), 0.5)
        with silence():
            track(buffer, torch.ones(1), 0.5)
        assert len(inner) == 1
        assert outer == []
        track(buffer, torch.ones(1), 0.5)
    assert len(outer) == 1


def test_a_ledger_is_closed_by_an_error_too() -> None:
    with pytest.raises(RuntimeError), collecting():
        raise RuntimeError
    with collecting() as ledger:
        pass
    track(torch.zeros(1), torch.ones(1), 1.0)
    assert ledger == []


def test_a_statistic_leaves_its_graph_behind() -> None:
    w = torch.ones(2, requires_grad=True)
    with collecting() as ledger:
        track(torch.zeros(2), w * 2, 0.5)
    assert not ledger[0].statistic.requires_grad


@given(
    start=st.floats(-5, 5),
    steps=st.lists(st.tuples(st.floats(-5, 5), st.floats(0, 1)), max_size=6),
)
def test_commit_is_the_exponential_average_in_order(start: float, steps: list[tuple[float, float]]) -> None:
    buffer = torch.tensor([start], dtype=torch.float64)
    commit([Tracked(buffer, torch.tensor([value], dtype=torch.float64), rate) for value, rate in steps])
    expected = start
    for value, rate in steps:
        expected = (1 - rate) * expected + rate * value
    assert buffer.item() == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize(
    ("statistic", "buffer"),
    [(torch.bfloat16, torch.float32), (torch.float32, torch.float64), (torch.float64, torch.float32)],
)
def test_commit_casts_to_the_buffer(statistic: torch.dtype, buffer: torch.dtype) -> None:
    running = torch.zeros(2, dtype=buffer)
    commit([Tracked(running, torch.full((2,), 2.0, dtype=statistic), 0.25)])
    assert running.dtype == buffer
    assert running.tolist() == [0.5, 0.5]


def test_a_whole_rate_replaces_the_buffer_exactly() -> None:
    buffer = torch.tensor([1e8, -3.0])
    commit([Tracked(buffer, torch.tensor([0.1, 0.3]), 1.0)])
    assert torch.equal(buffer, torch.tensor([0.1, 0.3]))


def test_in_a_move_only_inside_and_only_in_this_thread() -> None:
    assert not in_a_move()
    seen: list[bool] = []
    with tracking.a_move():
        assert in_a_move()
        thread = threading.Thread(target=lambda: seen.append(in_a_move()))
        thread.start()
        thread.join()
    assert not in_a_move()
    assert seen == [False]
    with pytest.raises(RuntimeError), tracking.a_move():
        raise RuntimeError
    assert not in_a_move()
