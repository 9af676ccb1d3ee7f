"""Scores refuse to be compared where they were not measured the same way."""

from __future__ import annotations

import json
import math

import pytest

from saddlepoint.errors import UserError
from saddlepoint.metrics.scores import Score, difference, differences, from_dict, improves, shown, table

RECORD = {"extractor": "cnn@1", "samples": 100, "reference": "digits@ab"}
A = Score("FD", 3.0, 0.3, 1.0, 0.1, "lower", RECORD)
B = Score("FD", 2.0, 0.4, 1.0, 0.1, "lower", RECORD)


def test_equal_records_are_compared_with_both_errors() -> None:
    assert difference(A, B) == pytest.approx((1.0, 0.5))  # a 3-4-5 triangle
    assert improves(B, A) and not improves(A, B) and improves(A, None)


@pytest.mark.parametrize("change", [{"extractor": "cnn@2"}, {"samples": 101}, {"seed": 3}])
def test_other_records_are_refused_by_name(change: dict[str, object]) -> None:
    other = Score("FD", 2.0, record={**RECORD, **change})
    (key,) = change
    assert [line.partition(":")[0] for line in differences(A, other)] == [key]
    with pytest.raises(UserError, match=key):
        difference(A, other)
    with pytest.raises(UserError, match=key):
        table({"a": {"FD": A}, "b": {"FD": other}})


def test_higher_may_be_better_and_neither_is_refused() -> None:
    low, high = (Score("coverage", v, better="higher", record=RECORD) for v in (0.4, 0.5))
    assert improves(high, low) and not improves(low, high)
    with pytest.raises(UserError, match="no better or worse"):
        improves(Score("x", 1.0, better="neither"), None)
    assert not improves(Score("FD", math.nan), None)


def test_json_and_back() -> None:
    for score in (A, Score("IS", 2.5, better="higher")):
        values = json.loads(json.dumps(score.as_dict(), allow_nan=False))
        again = from_dict(values)
        assert again.as_dict() == score.as_dict()
    assert A.as_dict()["interval"] == pytest.approx([3 - 0.588, 3 + 0.588])


def test_a_table_has_the_floor_below() -> None:
    lines = table({"one": {"FD": A}, "two": {"FD": B}})
    assert lines == [["", "FD ↓"], ["one", "3.00 ± 0.30"], ["two", "2.00 ± 0.40"],
                     ["floor: real against real", "1.00 ± 0.10"]]  # fmt: skip


def test_digits_follow_the_error() -> None:
    assert shown(12.3456, 0.0123) == "12.346 ± 0.012"
    assert shown(1234.5, 56.0) == "1234 ± 56"
    assert shown(0.5) == "0.5" and shown(math.nan) == "–"
