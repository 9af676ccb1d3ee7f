"""Schedules for `Game.stage`: pure functions of the clock, which counts images shown to the player that moves first."""

from __future__ import annotations


def linear_decay(clock: int, hold_kimg: float, decay_kimg: float) -> float:
    """1 for hold_kimg, then linearly down to 0 over decay_kimg; decay_kimg = 0 stays at 1 forever."""
    if decay_kimg <= 0:
        return 1.0
    return min(1.0, max(0.0, 1.0 - (clock / 1000 - hold_kimg) / decay_kimg))


def ramp(clock: int, start: float, end: float, kimg: float) -> float:
    """From start to end, linearly over kimg, and constant after; kimg = 0 is end from the beginning."""
    if kimg <= 0:
        return end
    return start + (end - start) * min(1.0, clock / (1000 * kimg))
