"""How sure is a score, and what would real data score? Intervals and floors for any metric of two samples.

Metrics of neighbours, and Frechet distances in many dimensions, are biased by duplicates, which a bootstrap makes.
Subsets without replacement make none, so they are the default here. Both hold the training of the generator fixed:
the spread between training seeds is another, usually larger, matter.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from saddlepoint.errors import UserError, unknown
from saddlepoint.metrics.arrays import Estimate, Progress, check_count, feature_matrix, feature_pair

Metric = Callable[[Tensor, Tensor], Any]


@dataclass(frozen=True)
class Interval:
    """A score with a confidence interval for the samples drawn."""

    value: float
    """The metric on all samples."""
    low: float
    high: float
    standard_error: float
    level: float
    values: tuple[float, ...] = field(repr=False)
    """The metric on each resample; on subsets biased as fewer samples are."""


def interval(
    metric: Metric,
    x: Any,
    y: Any,
    *,
    kind: Literal["subset", "bootstrap"] = "subset",
    repeats: int = 50,
    level: float = 0.95,
    both: bool = False,
    seed: int = 0,
    progress: Progress | None = None,
) -> Interval:
    """A confidence interval of metric(x, y) over the choice of y [M, D], or of x [N, D] too (`both`).

    metric: a function of two tensors that gives one number, for instance `lambda x, y: precision_recall(x, y).recall`.
    "subset": delete-half jackknife; the spread over halves drawn without replacement is the standard error of the
    whole (Shao and Wu 1989), and the interval is normal around the value. "bootstrap": rows drawn with replacement;
    the interval is value - (percentiles - their mean), free of the bootstrap's bias.
    """
    a, b = feature_pair(x, y, minimum=4)
    check_count("repeats", repeats, 2)
    if not 0 < level < 1:
        raise UserError(f"level is {level}; expected a probability between 0 and 1.")
    if kind not in ("subset", "bootstrap"):
        raise unknown("kind", kind, ("subset", "bootstrap"))
    rng = np.random.default_rng(seed)
    value, values = _number(metric(a, b)), []
    for done in range(1, repeats + 1):
        values.append(_number(metric(_drawn(a, kind, rng) if both else a, _drawn(b, kind, rng))))
        if progress:
            progress(done, repeats)
    found = np.asarray(values)
    error = float(found.std(ddof=1))
    if kind == "bootstrap":
        tails = np.quantile(found - found.mean(), [(1 - level) / 2, (1 + level) / 2])
        return Interval(value, float(value - tails[1]), float(value - tails[0]), error, level, tuple(values))
    from scipy.special import ndtri

    reach = float(ndtri((1 + level) / 2)) * error
    return Interval(value, value - reach, value + reach, error, level, tuple(values))


def _drawn(x: Tensor, kind: str, rng: np.random.Generator) -> Tensor:
    rows = rng.integers(len(x), size=len(x)) if kind == "bootstrap" else rng.permutation(len(x))[: len(x) // 2]
    return x[torch.from_numpy(rows).to(x.device)]


def _number(found: Any) -> float:
    try:
        value = float(getattr(found, "value", found))
    except (TypeError, ValueError):
        raise UserError(
            f"the metric gives {type(found).__name__}; expected one number: choose one, as in "
            "lambda x, y: precision_recall(x, y).recall."
        ) from None
    if not np.isfinite(value):
        raise UserError(f"the metric gives {value}; expected a finite number.")
    return value


def floor(
    metric: Metric,
    real: Any,
    sizes: tuple[int, int] | None = None,
    *,
    repeats: int = 1,
    seed: int = 0,
    progress: Progress | None = None,
) -> Estimate:
    """metric(real, real): disjoint random parts of real data of the given sizes; what a perfect generator would score.

    sizes: (reference, generated) counts, default two halves. A fair floor has the counts of the score it stands beside.
    repeats: random partitions to average; they share the data, so their spread underestimates the error.
    """
    x = feature_matrix("real", real, minimum=4, varied=True)
    n, m = sizes or (len(x) // 2, len(x) // 2)
    check_count("repeats", repeats, 1)
    if n < 1 or m < 1 or n + m > len(x):
        raise UserError(f"sizes ask for {n} + {m} samples and real has {len(x)}; disjoint parts need their sum.")
    rng, values = np.random.default_rng(seed), []
    for done in range(1, repeats + 1):
        rows = torch.from_numpy(rng.permutation(len(x))[: n + m]).to(x.device)
        values.append(_number(metric(x[rows[:n]], x[rows[n:]])))
        if progress:
            progress(done, repeats)
    error = float(np.std(values, ddof=1)) if repeats > 1 else None
    return Estimate(float(np.mean(values)), error, tuple(values), f"real against real, {n} against {m}")
