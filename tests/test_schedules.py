from __future__ import annotations

import pytest

from saddlepoint.schedules import linear_decay, ramp


def test_linear_decay_holds_then_falls_to_zero() -> None:
    values = [linear_decay(clock, 2, 4) for clock in (0, 2000, 3000, 4000, 6000, 9000)]
    assert values == pytest.approx([1, 1, 0.75, 0.5, 0, 0])
    assert linear_decay(10**9, 2, 0) == 1


def test_ramp_is_linear_between_its_ends() -> None:
    assert [ramp(c, 0.5, 0.7, 2) for c in (0, 500, 1000, 2000, 5000)] == pytest.approx([0.5, 0.55, 0.6, 0.7, 0.7])
    assert ramp(0, 0.5, 0.7, 0) == 0.7
