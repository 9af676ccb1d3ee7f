"""A score and its record. Two scores may be compared only if their records say that they measured the same way.

What makes published numbers incomparable is never in the number: another extractor, another resize, another count,
another reference. Here each score carries all of it, and refuses.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from saddlepoint.errors import UserError

Better = Literal["lower", "higher", "neither"]


@dataclass(frozen=True)
class Score:
    """One number with its uncertainty, its floor, and the record of how it was measured.

    error: standard error over the judged samples (the reference is taken as it is); interval: value -+ 1.96 error.
    floor: the same number for real images that are not in the reference, as many as were judged; no generator should
    be expected to pass it. record: extractor, resize, counts, seed, reference, version of the formula.
    """

    name: str
    value: float
    error: float = math.nan
    floor: float = math.nan
    floor_error: float = math.nan
    better: Better = "lower"
    record: Mapping[str, Any] = field(default_factory=dict)

    @property
    def interval(self) -> tuple[float, float]:
        """value -+ 1.96 standard errors (nan where there is no error)."""
        return self.value - 1.96 * self.error, self.value + 1.96 * self.error

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON; a number that was not measured is null."""
        plain = {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in asdict(self).items()}
        low, high = self.interval
        return {**plain, "interval": [low, high] if math.isfinite(low) else None}


def from_dict(values: Mapping[str, Any]) -> Score:
    """What `as_dict` wrote."""
    known: dict[str, Any] = {k: math.nan if v is None else v for k, v in values.items() if k != "interval"}
    return Score(**known)


def differences(a: Score, b: Score) -> list[str]:
    """What was measured differently, in words; empty for scores that may be compared."""
    found = [] if a.name == b.name else [f"metric: {a.name} and {b.name}"]
    for key in dict.fromkeys([*a.record, *b.record]):
        left, right = a.record.get(key), b.record.get(key)
        if left != right:
            found.append(f"{key}: {left} and {right}")
    return found


def difference(a: Score, b: Score) -> tuple[float, float]:
    """(a - b, its standard error, as of independent samples). UserError when they were not measured the same way."""
    wrong = differences(a, b)
    if wrong:
        raise UserError(f"these scores cannot be compared; they differ in {'; '.join(wrong)}.")
    return a.value - b.value, math.hypot(a.error, b.error)


def improves(a: Score, b: Score | None) -> bool:
    """Is a better than b (or the first)? UserError when they cannot be compared, or the metric has no direction."""
    if a.better == "neither":
        raise UserError(f"{a.name} has no better or worse; choose another metric to pick the best by.")
    if b is None:
        return math.isfinite(a.value)
    change, _ = difference(a, b)
    return change < 0 if a.better == "lower" else change > 0


def table(rows: Mapping[str, Mapping[str, Score]]) -> list[list[str]]:
    """Lines of cells: a heading, a line for each judged thing, and the floor; columns are metrics.

    Raises UserError if one column holds scores that cannot be compared.
    """
    columns = list(dict.fromkeys(name for scores in rows.values() for name in scores))
    lines = [["", *(f"{c} {arrow(rows, c)}" for c in columns)]]
    floors: dict[str, Score] = {}
    for judged, scores in rows.items():
        for name, score in scores.items():
            if name in floors:
                difference(score, floors[name])
            floors.setdefault(name, score)
        lines.append([judged, *(shown(scores[c].value, scores[c].error) if c in scores else "" for c in columns)])
    if any(math.isfinite(s.floor) for s in floors.values()):
        cells = [shown(floors[c].floor, floors[c].floor_error) if c in floors else "" for c in columns]
        lines.append(["floor: real against real", *cells])
    return lines


def arrow(rows: Mapping[str, Mapping[str, Score]], name: str) -> str:
    """Which way is better."""
    better = next(scores[name].better for scores in rows.values() if name in scores)
    return {"lower": "↓", "higher": "↑", "neither": ""}[better]


def shown(value: float, error: float = math.nan) -> str:
    """A value with as many digits as its error leaves: 12.31 ± 0.20."""
    if not math.isfinite(value):
        return "–"
    if not math.isfinite(error) or error <= 0:
        return f"{value:.4g}"
    digits = max(0, 1 - math.floor(math.log10(error)))
    return f"{value:.{digits}f} ± {error:.{digits}f}"
