"""Values that run along with training: batch statistics, average latents, controllers.

A layer in training mode does not write its running values. It *tracks* them: the engine collects what was tracked
during one player's evaluation, averages it over micro-batches and processes, and commits it once, together with the
step of the weights. Evaluated anywhere else (analysis, look-ahead, sampling) a loss therefore leaves no trace.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import NamedTuple

import torch
from torch import Tensor


class Tracked(NamedTuple):
    """One statistic on its way into a buffer: buffer <- (1 - rate) buffer + rate statistic."""

    buffer: Tensor
    statistic: Tensor
    rate: float


_ledger: ContextVar[list[Tracked] | None] = ContextVar("ledger", default=None)


def track(buffer: Tensor, statistic: Tensor, rate: float) -> None:
    """Ask for `buffer <- (1 - rate) buffer + rate statistic` at the end of this move. Elsewhere nothing happens."""
    ledger = _ledger.get()
    if ledger is not None:
        ledger.append(Tracked(buffer, statistic.detach(), rate))


_moving: ContextVar[bool] = ContextVar("moving", default=False)


def in_a_move() -> bool:
    """True where the engine measures a move: every process evaluates the same loss, so layers may talk across
    processes.
    """
    return _moving.get()


@contextmanager
def a_move() -> Iterator[None]:
    """Marks the evaluation of a player's loss by all processes together."""
    token = _moving.set(True)
    try:
        yield
    finally:
        _moving.reset(token)


_any_order: ContextVar[bool] = ContextVar("any_order", default=False)


def wants_any_order() -> bool:
    """True under analysis, where a layer must take the form of itself that has derivatives of every order."""
    return _any_order.get()


@contextmanager
def any_order() -> Iterator[None]:
    """Marks an analysis: spectra and penalties on gradients differentiate a loss three times and more."""
    token = _any_order.set(True)
    try:
        yield
    finally:
        _any_order.reset(token)


@contextmanager
def collecting() -> Iterator[list[Tracked]]:
    """Collect what is tracked inside; the list fills in the order of the calls, equal for each micro-batch and rank."""
    ledger: list[Tracked] = []
    token = _ledger.set(ledger)
    try:
        yield ledger
    finally:
        _ledger.reset(token)


@contextmanager
def silence() -> Iterator[None]:
    """Drop what is tracked inside."""
    token = _ledger.set(None)
    try:
        yield
    finally:
        _ledger.reset(token)


def commit(entries: Sequence[Tracked]) -> None:
    """Write the collected statistics into their buffers, in order (two calls of one layer are two updates)."""
    with torch.no_grad():
        for buffer, statistic, rate in entries:
            buffer.lerp_(statistic.to(buffer.dtype), rate)
