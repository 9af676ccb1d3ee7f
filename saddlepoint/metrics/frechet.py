"""The Frechet distance between Gaussians fitted to features, ||m_x - m_y||^2 + tr(S_x + S_y - 2 (S_x S_y)^(1/2)).

The formula of Dowson and Landau (1982) that Heusel et al. 2017 (arXiv:1706.08500) put on Inception features and named
FID. On other features it is a Frechet distance, not an FID: who prints it names the extractor.

The trace term needs no matrix square root. With S_x = F F' it is the sum of the square roots of the eigenvalues of
the symmetric F' S_y F (official code: a Schur-based square root of the unsymmetric S_x S_y, an order of magnitude
slower, and complex by rounding). Where a covariance is singular, as it must be for N <= D, F is the N x D matrix of
centred samples itself and the term the sum of singular values of F_x' F_y: nothing is regularised, nothing is lost.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from saddlepoint.errors import UserError
from saddlepoint.metrics.arrays import (
    ROWS,
    Progress,
    check_count,
    feature_matrix,
    feature_pair,
    numpy_of,
    refuse_memory,
)

Array = NDArray[np.float64]


class Moments:
    """Count, mean and covariance of a stream of features, in float64 and in constant memory.

    `add` takes batches in any order, `merge` what another process counted (Chan et al. 1983: means and scatter
    matrices combine exactly, without the cancellation of sums of squares).
    """

    def __init__(self, dimensions: int) -> None:
        check_count("dimensions", dimensions, 1)
        refuse_memory(24.0 * dimensions**2, f"a covariance of {dimensions} features", "use fewer features")
        self.count = 0
        self.mean: Array = np.zeros(dimensions)
        self._upper: Array = np.zeros((dimensions, dimensions), order="F")  # BLAS adds to one triangle in place

    @classmethod
    def of(cls, x: Any, progress: Progress | None = None) -> Moments:
        """The moments of features [N, D], passed over in blocks."""
        features = feature_matrix("x", x)
        made = cls(features.shape[1])
        for start in range(0, len(features), ROWS):
            made._add(features[start : start + ROWS])
            if progress:
                progress(min(start + ROWS, len(features)), len(features))
        return made

    @classmethod
    def of_stream(cls, batches: Iterable[Any]) -> Moments:
        """The moments of an iterable of feature batches [n, D]."""
        made: Moments | None = None
        for batch in batches:
            features = feature_matrix("batch", batch)
            made = made or cls(features.shape[1])
            made.add(features)
        if made is None:
            raise UserError("the stream of features is empty; expected at least one batch.")
        return made

    @property
    def dimensions(self) -> int:
        return len(self.mean)

    @property
    def scatter(self) -> Array:
        """sum (x - mean)(x - mean)' [D, D]; the covariance before its division."""
        return np.triu(self._upper) + np.triu(self._upper, 1).T

    def add(self, batch: Any) -> Moments:
        """Take in features [n, D]."""
        features = feature_matrix("batch", batch)
        if features.shape[1] != self.dimensions:
            raise UserError(f"batch has {features.shape[1]} features; expected {self.dimensions} as before.")
        return self._add(features)

    def _add(self, features: Tensor) -> Moments:
        from scipy.linalg.blas import dsyrk

        n, total = len(features), self.count + len(features)
        x = np.empty((n + 1, self.dimensions))
        x[:n] = numpy_of(features)
        mean = x[:n].mean(axis=0)
        x[:n] -= mean
        shift = mean - self.mean
        x[n] = shift * np.sqrt(self.count * n / total)  # Chan's correction is one more row of the product
        self._upper = dsyrk(1.0, x.T, beta=1.0, c=self._upper, overwrite_c=True)  # + x' x, half of it
        self.mean, self.count = self.mean + shift * (n / total), total
        return self

    def merge(self, other: Moments) -> Moments:
        """Take in what `other` counted."""
        if other.dimensions != self.dimensions:
            raise UserError(f"the other moments have {other.dimensions} features; expected {self.dimensions}.")
        return self._combine(other.count, other.mean, other.scatter) if other.count else self

    def _combine(self, count: int, mean: Array, scatter: Array) -> Moments:
        total = self.count + count
        shift = mean - self.mean
        self._upper += scatter
        if self.count:
            self._upper += np.outer(shift, shift * (self.count * count / total))
        self.mean = self.mean + shift * (count / total)
        self.count = total
        return self

    def covariance(self, ddof: int = 1) -> Array:
        """scatter / (N - ddof): ddof 1 as numpy.cov and most codes, 0 as NVIDIA's."""
        if self.count <= ddof:
            raise UserError(f"{self.count} samples have no covariance with ddof {ddof}; expected at least {ddof + 1}.")
        scatter = self.scatter
        if not np.isfinite(np.trace(scatter)):
            raise UserError("the covariance of these features overflows; scale them down.")
        scatter /= self.count - ddof
        return scatter

    def to_arrays(self) -> dict[str, Array]:
        """Plain arrays, ready for `numpy.savez`."""
        return {"count": np.array(self.count), "mean": self.mean, "scatter": self.scatter}

    @classmethod
    def from_arrays(cls, arrays: Any) -> Moments:
        """What `to_arrays` gave, or `mu` and `sigma` of other tools' statistics (and `n`, if they say)."""
        names = set(getattr(arrays, "files", None) or arrays)
        if {"count", "mean", "scatter"} <= names:
            mean, scatter, count = (np.asarray(arrays[k], np.float64) for k in ("mean", "scatter", "count"))
        elif {"mu", "sigma"} <= names:
            mean, scatter = (np.asarray(arrays[k], np.float64) for k in ("mu", "sigma"))
            count = np.asarray(arrays["n"] if "n" in names else 2)  # n = 2: scatter / (n - 1) is sigma again
            scatter = scatter * (int(count) - 1)
        else:
            raise UserError(f"statistics hold {sorted(names)}; expected count, mean and scatter, or mu and sigma.")
        if mean.ndim != 1 or scatter.shape != (len(mean), len(mean)):
            raise UserError(f"statistics have shapes {mean.shape} and {scatter.shape}; expected [D] and [D, D].")
        if not (np.isfinite(mean).all() and np.isfinite(scatter).all()):
            raise UserError("statistics hold NaN or infinite values.")
        made = cls(len(mean))
        made.count, made.mean, made._upper = int(count), mean, np.asfortranarray(scatter)
        return made


def frechet_distance(x: Any, y: Any, *, ddof: int = 1, progress: Progress | None = None) -> float:
    """||m_x - m_y||^2 + tr(S_x + S_y - 2 (S_x S_y)^(1/2)) between features, or `Moments`, x and y. Not below 0.

    x, y: [N, D] and [M, D], or Moments (any mixture). ddof: covariances over N - ddof, 1 as the official code, 0 as
    NVIDIA's. Exact also for N < D. Biased upwards by about C / N: compare equal counts only, see `frechet_infinity`.
    Cost: 2 N D^2 for the covariances and about 10 D^3; for N, M < D the smaller 2 N M D. Units: squared features.
    """
    if isinstance(x, Moments) or isinstance(y, Moments):
        a, b = _as_moments("x", x, progress), _as_moments("y", y, progress)
        return frechet_from_moments(a, b, ddof=ddof)
    first, second = feature_pair(x, y, minimum=1 + ddof)
    if min(len(first), len(second)) > first.shape[1]:
        n, total = len(first), len(first) + len(second)
        a = Moments.of(first, progress and (lambda done, _: progress(done, total)))
        b = Moments.of(second, progress and (lambda done, _: progress(n + done, total)))
        return frechet_from_moments(a, b, ddof=ddof)
    return _low_rank(first, second, ddof, progress)


def frechet_from_moments(x: Moments, y: Moments, *, ddof: int = 1) -> float:
    """`frechet_distance` of two `Moments`."""
    if x.dimensions != y.dimensions:
        raise UserError(f"x has {x.dimensions} features and y {y.dimensions}; expected the same extractor on both.")
    s_x, s_y = x.covariance(ddof), y.covariance(ddof)
    return _assemble(x.mean, y.mean, float(np.trace(s_x)), float(np.trace(s_y)), trace_of_root(s_x, s_y))


def _as_moments(name: str, values: Any, progress: Progress | None) -> Moments:
    if isinstance(values, Moments):
        return values
    return Moments.of(feature_matrix(name, values, minimum=2), progress)


def _assemble(mean_x: Array, mean_y: Array, trace_x: float, trace_y: float, root: float) -> float:
    with np.errstate(over="ignore", invalid="ignore"):
        value = float(((mean_x - mean_y) ** 2).sum()) + trace_x + trace_y - 2 * root
    if not np.isfinite(value):
        raise UserError("the Frechet distance of these features overflows; scale them down.")
    return max(0.0, value)  # below 0 by rounding only, of the order 1e-12 of the traces


def _low_rank(x: Tensor, y: Tensor, ddof: int, progress: Progress | None) -> float:
    """From the samples themselves, where at least one side has no more of them than features."""
    d = x.shape[1]
    rows = [min(len(v), d) for v in (x, y)]
    refuse_memory(8.0 * (2 * sum(rows) * d + rows[0] * rows[1]), f"features of {d} dimensions", "use fewer of either")
    (mean_x, trace_x, a), (mean_y, trace_y, b) = (_side(v, ddof, progress) for v in (x, y))
    return _assemble(mean_x, mean_y, trace_x, trace_y, _nuclear_norm(a, b))


def _side(x: Tensor, ddof: int, progress: Progress | None) -> tuple[Array, float, Array]:
    """Mean [D], trace of the covariance, and F [r, D] with F' F the covariance."""
    if len(x) > x.shape[1]:
        moments = Moments.of(x, progress)
        covariance = moments.covariance(ddof)
        return moments.mean, float(np.trace(covariance)), _factor(covariance)
    rows = numpy_of(x).astype(np.float64)
    mean = rows.mean(axis=0)
    rows -= mean
    rows /= np.sqrt(len(rows) - ddof)
    with np.errstate(over="ignore"):
        return mean, float(np.einsum("ij,ij->", rows, rows)), rows


def trace_of_root(s_x: Array, s_y: Array) -> float:
    """tr (S_x S_y)^(1/2) of symmetric positive semidefinite matrices [D, D].

    Cholesky of S_y = L L' and the eigenvalues of L' S_x L; where that fails, or its small eigenvalues are lost in
    rounding (an error e in an eigenvalue near 0 is sqrt(e) in its root), by singular values of factors of both.
    """
    from scipy.linalg import eigvalsh
    from scipy.linalg.lapack import dpotrf, dsygst

    # LAPACK reads columns first: the transposes of symmetric matrices are the same numbers without a copy. Reducing
    # and then asking for eigenvalues only takes two thirds of the generalised solver's time.
    factor, failed = dpotrf(np.ascontiguousarray(s_y).T, lower=1, clean=0)
    if failed:
        return _nuclear_norm(_factor(s_x), _factor(s_y))
    reduced, _ = dsygst(np.ascontiguousarray(s_x).T, factor, itype=2, lower=1)
    eigenvalues = eigvalsh(reduced, lower=True, driver="ev", overwrite_a=True, check_finite=False)
    noise = 4 * np.finfo(np.float64).eps * float(eigenvalues[-1])
    if noise <= 0:
        return 0.0
    root = float(np.sqrt(np.clip(eigenvalues, 0, None)).sum())
    lost = np.minimum(np.sqrt(noise), noise / np.sqrt(np.clip(eigenvalues, noise, None))).sum()
    return root if lost < 1e-7 * root else _nuclear_norm(_factor(s_x), _factor(s_y))


def _factor(s: Array) -> Array:
    """F [r, D] with F' F = S, r the numerical rank: Cholesky's where S is clearly regular, else of its eigenvectors."""
    try:
        upper = np.linalg.cholesky(s).T
        pivots = np.diag(upper)
        if pivots.min() > 1e-6 * pivots.max():
            return np.ascontiguousarray(upper)
    except np.linalg.LinAlgError:
        pass
    values, vectors = np.linalg.eigh(s)
    kept = values > len(s) * np.finfo(np.float64).eps * max(float(values[-1]), 0.0)
    return np.ascontiguousarray((vectors[:, kept] * np.sqrt(values[kept])).T)


def _nuclear_norm(a: Array, b: Array) -> float:
    """Sum of the singular values of A B' = tr (A'A B'B)^(1/2)."""
    if 0 in (len(a), len(b)):
        return 0.0
    return float(torch.linalg.svdvals(torch.from_numpy(a @ b.T)).sum())


# ------------------------------------------------------------------------------------------- what infinitely many give
@dataclass(frozen=True)
class FrechetInfinity:
    """The straight line FD(N) = value + slope / N through distances at several sample counts N."""

    value: float
    """The intercept: what the distance tends to for N to infinity. May fall below 0 by the error of the fit."""
    standard_error: float
    """Of the intercept, from the residuals. The points share samples, so it is a lower bound."""
    slope: float
    """C in the bias C / N."""
    residual: float
    """Root mean square of the residuals, in units of the distance."""
    sizes: tuple[int, ...]
    distances: tuple[float, ...]


def frechet_infinity(
    x: Any,
    y: Any,
    *,
    points: int = 15,
    smallest: int | None = None,
    ddof: int = 1,
    seed: int = 0,
    progress: Progress | None = None,
) -> FrechetInfinity:
    """Extrapolate the Frechet distance to infinitely many generated samples (Chong and Forsyth 2020, 1911.07023).

    x: reference features [N, D] or Moments, used whole. y: generated features [M, D]; the distance is taken at
    `points` counts from `smallest` (default: 5,000, or a tenth of M where that is fewer) to M and fitted against
    1/N. Subsets are the beginnings of one permutation drawn by `seed`, so their moments cost one pass (the paper draws
    each afresh). The reference's own bias stays. Cost: `points` trace terms.
    """
    reference = x if isinstance(x, Moments) else Moments.of(feature_matrix("x", x, minimum=2, varied=True))
    generated = feature_matrix("y", y)
    if generated.shape[1] != reference.dimensions:
        raise UserError(f"x has {reference.dimensions} features and y {generated.shape[1]}; expected the same.")
    total = len(generated)
    low = smallest if smallest is not None else (5000 if total >= 10_000 else total // 10)
    check_count("points", points, 3)
    if not low >= 2 or total - low < points - 1:
        raise UserError(f"y has {total} samples, too few for {points} counts from {low} on.")
    sizes = np.linspace(low, total, points).astype(int)
    order = torch.from_numpy(np.random.default_rng(seed).permutation(total)).to(generated.device)
    grown, distances = Moments(generated.shape[1]), []
    for done, size in enumerate(sizes, 1):
        for start in range(grown.count, size, ROWS):
            grown._add(generated[order[start : min(start + ROWS, size)]])
        distances.append(frechet_from_moments(reference, grown, ddof=ddof))
        if progress:
            progress(done, points)
    return _line(sizes, np.asarray(distances))


def _line(sizes: NDArray[Any], distances: Array) -> FrechetInfinity:
    design = np.stack([np.ones(len(sizes)), 1 / sizes], axis=1)
    (value, slope), *_ = np.linalg.lstsq(design, distances, rcond=None)
    residuals = distances - design @ (value, slope)
    variance = float(residuals @ residuals) / (len(sizes) - 2)
    error = float(np.sqrt(variance * np.linalg.inv(design.T @ design)[0, 0]))
    return FrechetInfinity(
        float(value),
        error,
        float(slope),
        float(np.sqrt(np.mean(residuals**2))),
        tuple(int(n) for n in sizes),
        tuple(float(d) for d in distances),
    )
