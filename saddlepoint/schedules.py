"""Schedules for `Game.stage`: pure functions of the clock, which counts images shown to the player that moves first."""

from __future__ import annotations

import math

from saddlepoint.errors import unknown


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


def epoch_factor(
    policy: str,
    epoch: float,
    n_epochs: float = 100,
    n_epochs_decay: float = 100,
    *,
    lr_decay_iters: float = 50,
    epoch_count: float = 1,
) -> float:
    """The learning rate's factor in an epoch (from 0), as image translation's published code schedules it.

    linear: 1 for n_epochs, then down so that the last of n_epochs_decay still has 1/(n_epochs_decay + 1). step: a tenth
    after every lr_decay_iters. cosine: (1 + cos(pi e / n_epochs))/2. constant: 1. epoch_count: the number that a
    resumed official run gives its first epoch.
    """
    if policy == "linear":
        return 1.0 - max(0.0, epoch + epoch_count - n_epochs) / (n_epochs_decay + 1)
    if policy == "step":
        return 0.1 ** int(epoch // lr_decay_iters)
    if policy == "cosine":
        return 0.5 * (1 + math.cos(math.pi * epoch / n_epochs))
    if policy == "constant":
        return 1.0
    raise unknown("learning-rate policy", policy, ["linear", "step", "cosine", "constant"])
