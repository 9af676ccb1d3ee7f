"""Does the generator repeat its training data, or itself? Nearest neighbours, and a test against held-out data.

A sample close to a training image proves nothing by itself: real images have near neighbours too. The test of Meehan,
Chaudhuri and Dasgupta 2020 (arXiv:2004.05675) compares distances to the nearest training image, of generated and of
*held-out real* images, by the Mann-Whitney statistic: a generator that copies is nearer than reality would be.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from saddlepoint.errors import UserError
from saddlepoint.metrics.arrays import Progress, check_count, feature_matrix, feature_pair
from saddlepoint.metrics.neighbours import Cloud, Neighbours, Work, centre_of, nearest_in, nearest_neighbours, tiles

Array = NDArray[np.float64]


@dataclass(frozen=True)
class CopyingTest:
    """Distances to the nearest training sample: of generated against held-out samples."""

    value: float
    """C_T, a z-score: 0 where generated samples are as near to the training set as held-out ones, below about -3 where
    they are nearer (copies), above 3 where they are farther (underfitted). Mean over cells, weighted by held-out share.
    """
    p_copying: float
    """One-sided p-value of z being this low by chance, for one cell."""
    nearer: float
    """Probability that a generated sample is nearer to the training set than a held-out one (ties half)."""
    cells: tuple[float, ...]
    """z of each cell of the training set; one with cells = 1."""
    median_ratio: float
    """Median distance of generated samples over that of held-out ones; inf where the latter is 0."""
    generated: Neighbours = field(repr=False)
    """For each generated sample, its nearest training sample: for a picture of the closest pairs."""

    def closest(self, count: int) -> NDArray[np.intp]:
        """Rows of the generated samples nearest to training data, nearest first."""
        return np.argsort(self.generated.distance[:, 0], kind="stable")[:count]


def copying_test(
    train: Any,
    held_out: Any,
    generated: Any,
    *,
    cells: int = 1,
    least_share: float = 0.0,
    seed: int = 0,
    progress: Progress | None = None,
) -> CopyingTest:
    """C_T: are generated features nearer to `train` than `held_out` ones are? Each [N, D], of one extractor.

    cells: k-means cells of the training set (the paper's, from `seed`) that are tested one by one, so that copying in
    one region is not hidden by others; cells with a share of generated samples of at most `least_share`, or without
    two samples of either kind, are left out. z = (U - n m / 2) / s, with s corrected for ties (official code: shifted
    by 1/2, no ties).
    """
    reference, held = feature_pair(train, held_out, minimum=2)
    _, made = feature_pair(train, generated, minimum=2)
    check_count("cells", cells, 1, len(reference))
    near_held = nearest_neighbours(held, reference, progress=progress)
    near_made = nearest_neighbours(made, reference, progress=progress)
    d_held, d_made = near_held.distance[:, 0], near_made.distance[:, 0]
    scores, weights = _by_cell(reference, held, made, d_held, d_made, cells, least_share, seed)
    whole, nearer = _mann_whitney(d_made, d_held)
    value = float(np.average(scores, weights=weights)) if cells > 1 else whole
    middle = float(np.median(d_held))
    ratio = float(np.median(d_made)) / middle if middle > 0 else math.inf
    p = 0.5 * math.erfc(-whole / math.sqrt(2))
    return CopyingTest(value, p, nearer, tuple(scores), ratio, near_made)


def _by_cell(
    reference: torch.Tensor,
    held: torch.Tensor,
    made: torch.Tensor,
    d_held: Array,
    d_made: Array,
    cells: int,
    least_share: float,
    seed: int,
) -> tuple[list[float], list[float]]:
    if cells == 1:
        return [_mann_whitney(d_made, d_held)[0]], [1.0]
    from sklearn.cluster import KMeans

    means = KMeans(cells, n_init=4, random_state=seed).fit(reference.cpu().numpy())
    cell_held, cell_made = (means.predict(v.cpu().numpy().astype(means.cluster_centers_.dtype)) for v in (held, made))
    scores, weights = [], []
    for cell in range(cells):
        p, q = d_held[cell_held == cell], d_made[cell_made == cell]
        if min(len(p), len(q)) >= 2 and len(q) / len(d_made) > least_share:
            scores.append(_mann_whitney(q, p)[0])
            weights.append(len(p) / len(d_held))
    if not scores:
        raise UserError(f"none of {cells} cells holds two held-out and two generated samples; give fewer cells.")
    return scores, weights


def _mann_whitney(q: Array, p: Array) -> tuple[float, float]:
    """z of U = #{q > p} + #{q = p} / 2, and the share of pairs with q < p (ties half)."""
    n, m = len(p), len(q)
    both = np.concatenate([q, p])
    _, inverse, counts = np.unique(both, return_inverse=True, return_counts=True)
    ranks = (np.cumsum(counts) - (counts - 1) / 2)[inverse]  # mid-ranks
    u = float(ranks[:m].sum()) - m * (m + 1) / 2
    ties = float((counts.astype(np.float64) ** 3 - counts).sum())
    variance = n * m / 12 * (n + m + 1 - ties / ((n + m) * (n + m - 1)))
    z = (u - n * m / 2) / math.sqrt(variance) if variance > 0 else 0.0
    return z, 1 - u / (n * m)


@dataclass(frozen=True)
class Duplicates:
    """Samples that repeat other samples of the same set."""

    value: float
    """Share of samples with another one within the radius."""
    exact: float
    """Share of samples that equal another one."""
    distinct: int
    """Different samples."""
    radius: float


def duplicates(x: Any, radius: float = 0.0, *, progress: Progress | None = None) -> Duplicates:
    """How many of the features [N, D] repeat others: exactly, or within `radius` (Euclidean, in units of x).

    A radius that means something is a low quantile of `nearest_neighbours` between real samples.
    """
    features = feature_matrix("x", x, minimum=2)
    if not (math.isfinite(radius) and radius >= 0):
        raise UserError(f"radius is {radius}; expected a distance of at least 0.")
    cloud = Cloud.of(features, centre_of(features))
    repeated = cloud.weights.numpy()[cloud.inverse] > 1
    close = repeated
    if radius > 0 and len(cloud) > 1:
        near = nearest_in(cloud, cloud, 1, Work(progress, len(tiles(cloud, cloud))))
        close = repeated | (near.distance[:, 0] <= radius)
    return Duplicates(float(close.mean()), float(repeated.mean()), len(cloud), radius)
