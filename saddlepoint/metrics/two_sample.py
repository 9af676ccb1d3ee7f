"""Classifier two-sample tests: can a classifier of fixed capacity tell generated features from real ones?

Lopez-Paz and Oquab 2017 (arXiv:1610.06545): train on one half, test on the other; under P = Q the accuracy is 1/2.
Xu et al. 2018 (arXiv:1806.07755): the leave-one-out accuracy of the nearest neighbour, whose two halves say more than
their mean: real near 1 and generated near 0 is scattered mass, both near 1 is a different place, both below 1/2 copies.
"""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from saddlepoint.errors import UserError, unknown
from saddlepoint.metrics.arrays import Estimate, Progress, check_count, feature_pair, numpy_of
from saddlepoint.metrics.neighbours import Cloud, Work, centre_of, nearest_in, tiles

PENALTY = 1.0  # C of the logistic regression, on standardised features
ITERATIONS = 200


@dataclass(frozen=True)
class TwoSample:
    """What a classifier that tells real from generated reached."""

    accuracy: Estimate
    """Share of test samples told right; 0.5 is chance, 1 is full separation."""
    p_value: float
    """Probability of an accuracy this high if both samples had one distribution."""
    real: float
    """Share of real samples that are called real."""
    generated: float
    """Share of generated samples that are called generated."""
    tested: int
    classifier: str

    @property
    def value(self) -> float:
        return float(self.accuracy)


def two_sample_test(
    x: Any,
    y: Any,
    classifier: Literal["logistic", "nearest"] = "logistic",
    *,
    permutations: int = 1000,
    seed: int = 0,
    progress: Progress | None = None,
) -> TwoSample:
    """Tell y [M, D] from x [N, D]; the larger sample is cut at random to the size of the smaller.

    "logistic": L2-penalised logistic regression (C = 1, standardised features) trained on a random half, tested on the
    other; exact binomial p-value. "nearest": leave-one-out nearest neighbour; p-value by `permutations` of the labels
    on the fixed neighbour graph. Raises UserError for fewer than 8 samples of either kind.
    """
    first, second = feature_pair(x, y, minimum=8)
    rng = np.random.default_rng(seed)
    n = min(len(first), len(second))
    first, second = (v[torch.from_numpy(rng.permutation(len(v))[:n]).to(v.device)] for v in (first, second))
    if classifier == "logistic":
        return _logistic(first, second, rng)
    if classifier == "nearest":
        check_count("permutations", permutations, 1)
        return _nearest(first, second, permutations, rng, progress)
    raise unknown("classifier", classifier, ("logistic", "nearest"))


def _logistic(x: Tensor, y: Tensor, rng: np.random.Generator) -> TwoSample:
    half = len(x) // 2
    a, b = numpy_of(x), numpy_of(y)  # already shuffled
    labels = np.repeat([0, 1], [half, half])
    model = LogisticRegression().fit(np.concatenate([a[:half], b[:half]]), labels)
    called_real, called_made = (model.predict(v[half:]) == label for v, label in ((a, 0), (b, 1)))
    right = np.concatenate([called_real, called_made])
    count, n = int(right.sum()), len(right)
    from scipy.stats import binom

    p = float(binom.sf(count - 1, n, 0.5))
    accuracy = _accuracy(count / n, n, f"logistic regression, {2 * half} to train and {n} to test")
    return TwoSample(accuracy, p, float(called_real.mean()), float(called_made.mean()), n, "logistic")


def _accuracy(share: float, n: int, method: str) -> Estimate:
    return Estimate(share, math.sqrt(share * (1 - share) / n), (), method)


class LogisticRegression:
    """Multinomial logistic regression on standardised features: convex, so of fixed capacity and without a seed.

    Stopping after ITERATIONS steps of L-BFGS is part of the definition, no reason for a warning.
    """

    def fit(self, X: Any, y: Any) -> LogisticRegression:
        from sklearn import linear_model
        from sklearn.exceptions import ConvergenceWarning
        from sklearn.pipeline import make_pipeline
        from sklearn.preprocessing import StandardScaler

        self.model = make_pipeline(StandardScaler(), linear_model.LogisticRegression(C=PENALTY, max_iter=ITERATIONS))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            self.model.fit(X, y)
        return self

    def predict(self, X: Any) -> Any:
        return self.model.predict(X)


def _nearest(x: Tensor, y: Tensor, permutations: int, rng: np.random.Generator, progress: Progress | None) -> TwoSample:
    both = torch.cat([x, y])
    order = rng.permutation(len(both))  # ties between duplicates go to either kind
    label = np.repeat([0, 1], [len(x), len(y)])[order]
    nearest = _nearest_other(both[torch.from_numpy(order).to(both.device)], progress)
    same = label[nearest] == label
    observed = int(same.sum())
    drawn = [
        int((shuffled[nearest] == shuffled).sum()) for shuffled in (rng.permutation(label) for _ in range(permutations))
    ]
    p = (1 + sum(count >= observed for count in drawn)) / (1 + permutations)
    n = len(label)
    accuracy = Estimate(
        observed / n, float(np.std(drawn)) / n, (), "leave-one-out nearest neighbour; error under P = Q"
    )
    return TwoSample(accuracy, p, float(same[label == 0].mean()), float(same[label == 1].mean()), n, "nearest")


def _nearest_other(z: Tensor, progress: Progress | None) -> NDArray[np.intp]:
    """For each row the nearest other row; among duplicates the next of them."""
    cloud = Cloud.of(z, centre_of(z))
    if len(cloud) == 1:
        raise UserError("all features of x and y are the same; there is nothing to tell apart.")
    found = nearest_in(cloud, cloud, 1, Work(progress, len(tiles(cloud, cloud)))).index[:, 0]
    for group in np.flatnonzero(cloud.weights.numpy() > 1):
        members = np.flatnonzero(cloud.inverse == group)
        found[members] = np.roll(members, -1)
    return found
