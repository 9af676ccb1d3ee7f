"""Precision and recall, density and coverage, and exact nearest neighbours: everything that asks who is close to whom.

Improved precision and recall (Kynkaanniemi et al. 2019, arXiv:1904.06991): precision is the share of y inside the union
of balls around the points of x, each as large as the distance to its k-th neighbour in x; recall the same with x and y
exchanged. Density and coverage (Naeem et al. 2020, arXiv:2002.09797): density counts in how many balls of x each y
lies, over k; coverage is the share of balls of x that hold a y. Balls are closed (<=) in the former, open (<) in the
latter, as in the official codes; a k-th neighbour is never the point itself.

No N x M matrix is kept. Distances come in blocks as |a|^2 + |b|^2 - 2 a.b with the product in float32 and a rigorous
bound of its rounding; comparisons that the bound leaves open (about one in ten thousand) are settled by float64
differences. So the counts are those of exact arithmetic at half its cost. Memory beyond the features: some 50 MB.
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from saddlepoint.errors import UserError
from saddlepoint.metrics.arrays import Progress, check_count, feature_pair, numpy_of

ROWS, COLUMNS = 1024, 2048  # of a block of distances: 8 MB
SPARE = 8  # neighbours kept beyond the k-th, so that rounding cannot lose it
PAIRS = 1 << 20  # numbers in one gather of exact differences


class PrecisionRecall(NamedTuple):
    """Shares, 0 to 1."""

    precision: float
    recall: float


class DensityCoverage(NamedTuple):
    """density is about 1 and coverage about 1 - 2^-k where both samples come from one distribution."""

    density: float
    coverage: float


class Manifolds(NamedTuple):
    """All four for one k."""

    precision: float
    recall: float
    density: float
    coverage: float


def precision_recall(x: Any, y: Any, k: int = 3, *, progress: Progress | None = None) -> PrecisionRecall:
    """Share of y in the balls of x, and of x in the balls of y; closed balls to the k-th neighbour.

    x: reference [N, D], y: generated [M, D], N and M above k. Counts depend on N and M: compare equal ones only. Cost:
    about (N^2/2 + M^2/2 + N M) 2 D flops. Raises UserError where k is not below both counts.
    """
    return PrecisionRecall(*_manifolds(x, y, k, progress, of_y=True)[:2])


def density_coverage(x: Any, y: Any, k: int = 5, *, progress: Progress | None = None) -> DensityCoverage:
    """Mean number of balls of x around each y, over k; share of balls of x with a y inside; open balls.

    x: reference [N, D] with N above k, y: generated [M, D].
    """
    return DensityCoverage(*_manifolds(x, y, k, progress, of_y=False)[2:])


def manifolds(x: Any, y: Any, k: int = 5, *, progress: Progress | None = None) -> Manifolds:
    """`precision_recall` and `density_coverage` for one k in one pass over the distances."""
    return _manifolds(x, y, k, progress, of_y=True)


def _manifolds(x: Any, y: Any, k: int, progress: Progress | None, of_y: bool) -> Manifolds:
    first, second = feature_pair(x, y)
    check_count("k", k, 1)
    for name, side in (("x", first), ("y", second)) if of_y else (("x", first),):
        if k >= len(side):
            raise UserError(f"k is {k} and {name} has {len(side)} samples; expected k below the number of samples.")
    centre = centre_of(first)
    a, b = Cloud.of(first, centre), Cloud.of(second, centre)
    work = Work(progress, len(tiles(a, a)) + len(tiles(b, b)) * of_y + len(tiles(a, b)))
    radius_a = kth_distances(a, k, work)
    radius_b = kth_distances(b, k, work) if of_y else torch.full_like(b.norms, -1.0)
    return _count(a, b, radius_a, radius_b, k, work)


# ----------------------------------------------------------------------------------------------------- points in space
@dataclass(frozen=True)
class Cloud:
    """Distinct points, how often each occurs, and what distances in float32 need."""

    rows: Tensor  # [U, D], distinct, in the order of first appearance
    weights: Tensor  # [U] int64, on the CPU
    first: NDArray[np.intp]  # [U], row of the first appearance
    inverse: NDArray[np.intp]  # [N], the distinct row of each row
    centre: Tensor  # [D] of the dtype of rows, shared with the other cloud
    norms: Tensor  # [U] float64, squared distances to the centre

    @classmethod
    def of(cls, x: Tensor, centre: Tensor) -> Cloud:
        first, inverse, weights = distinct(x)
        rows = x if len(first) == len(x) else x[torch.from_numpy(first).to(x.device)]
        norms = torch.empty(len(rows), dtype=torch.float64, device=x.device)
        for start in range(0, len(rows), ROWS):
            part = rows[start : start + ROWS].double() - centre.double()  # not rounded: the float64 pass relies on it
            norms[start : start + ROWS] = part.square().sum(dim=1)
        if not bool(torch.isfinite(norms).all()) or float(norms.max()) > 1e36:
            raise UserError("distances between these features overflow; scale them down.")
        return cls(rows, torch.from_numpy(weights), first, inverse, centre, norms)

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def count(self) -> int:
        return len(self.inverse)

    def centred(self, start: int, stop: int, dtype: torch.dtype) -> Tensor:
        """Rows start..stop around the centre: distances do not change, and rounding errors shrink."""
        if dtype == self.rows.dtype:
            return self.rows[start:stop] - self.centre
        return (self.rows[start:stop].double() - self.centre.double()).to(dtype)


def centre_of(x: Tensor) -> Tensor:
    """About the middle of x [N, D], to subtract: no result depends on where it is."""
    return x[:ROWS].double().mean(dim=0).to(x.dtype)


def distinct(x: Tensor) -> tuple[NDArray[np.intp], NDArray[np.intp], NDArray[np.int64]]:
    """First appearance [U] of each distinct row, the distinct row of each row [N], and how often each occurs [U].

    Rows are told apart by a 128-bit hash of their bytes: a collapsed generator's duplicates would otherwise tie
    everywhere.
    """
    seen: dict[bytes, int] = {}
    first: list[int] = []
    inverse = np.empty(len(x), dtype=np.intp)
    for start in range(0, len(x), ROWS):
        block = np.ascontiguousarray(numpy_of(x[start : start + ROWS])) + 0.0  # no negative zeros
        for row, values in enumerate(block, start):
            number = seen.setdefault(hashlib.blake2b(values.data, digest_size=16).digest(), len(seen))
            if number == len(first):
                first.append(row)
            inverse[row] = number
    return np.asarray(first, dtype=np.intp), inverse, np.bincount(inverse, minlength=len(first)).astype(np.int64)


def _unit(dtype: torch.dtype, device: torch.device) -> float:
    """Unit roundoff of a matrix product: of float32, unless the user allowed faster and coarser ones."""
    if dtype == torch.float64:
        return 2.0**-53
    coarse = {"highest": 2.0**-24, "high": 2.0**-10, "medium": 2.0**-7}[torch.get_float32_matmul_precision()]
    return 2.0**-24 if device.type == "cpu" else coarse  # on the CPU NumPy multiplies, always in float32


def _coefficient(a: Cloud, dtype: torch.dtype) -> float:
    """c with |computed - true| <= c (|a|^2 + |b|^2) for squared distances: D + 2 roundings of the product's sum, and
    2 |a| |b| <= |a|^2 + |b|^2; the 16 cover centring, norms and the three additions.
    """
    return 1.01 * (a.rows.shape[1] + 16) * _unit(dtype, a.rows.device)


def lower_bounds(a: Cloud, b: Cloud, i: slice, j: slice, dtype: torch.dtype = torch.float32) -> Tensor:
    """Numbers [I, J] not above the squared distances; `slack` above them are numbers not below."""
    p, q = a.centred(i.start, i.stop, dtype), b.centred(j.start, j.stop, dtype)
    p *= -2
    if p.device.type == "cpu":  # NumPy's BLAS is a fifth faster than torch's here
        block = torch.from_numpy(np.matmul(p.numpy(), q.numpy().T))
    else:
        block = p @ q.T
    c = _coefficient(a, dtype)
    block += ((1 - c) * a.norms[i]).to(dtype)[:, None]
    block += ((1 - c) * b.norms[j]).to(dtype)
    return block


def slack(a: Cloud, b: Cloud, i: Tensor, j: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    """2 c (|a_i|^2 + |b_j|^2): from a lower bound to an upper one."""
    return 2 * _coefficient(a, dtype) * (a.norms[i] + b.norms[j])


def exact(a: Cloud, b: Cloud, i: Tensor, j: Tensor) -> Tensor:
    """Squared distances of the pairs (i, j) [P] in float64 by differences: symmetric and repeatable."""
    found = np.empty(len(i))
    step = max(1, PAIRS // a.rows.shape[1])
    for start in range(0, len(i), step):
        part = slice(start, start + step)
        difference = numpy_of(a.rows[i[part]]).astype(np.float64)
        difference -= numpy_of(b.rows[j[part]])
        found[part] = np.einsum("ij,ij->i", difference, difference)
    return torch.from_numpy(found).to(a.norms.device)


class Work:
    """Counts blocks for a progress callback."""

    def __init__(self, progress: Progress | None, total: int) -> None:
        self.progress, self.total, self.done = progress, total, 0

    def step(self) -> None:
        self.done += 1
        if self.progress:
            self.progress(self.done, self.total)


def tiles(a: Cloud, b: Cloud) -> list[tuple[slice, slice]]:
    """Blocks that cover all pairs; of a cloud with itself, square ones on and above the diagonal."""
    columns = ROWS if a is b else COLUMNS
    return [
        (slice(i, min(i + ROWS, len(a))), slice(j, min(j + columns, len(b))))
        for i in range(0, len(a), ROWS)
        for j in range(i if a is b else 0, len(b), columns)
    ]


# ---------------------------------------------------------------------------------------------------- k-th neighbours
class _Nearest:
    """Running list of the m smallest lower bounds [U, m] of each row, and whose they are."""

    def __init__(self, a: Cloud, m: int) -> None:
        device = a.rows.device
        self.bounds = torch.full((len(a), m), math.inf, device=device)  # [U, m]
        self.index = torch.zeros((len(a), m), dtype=torch.int64, device=device)  # [U, m]

    def take(self, rows: slice, block: Tensor, offset: int) -> None:
        m = self.bounds.shape[1]
        values, index = block.topk(min(m, block.shape[1]), dim=1, largest=False, sorted=False)
        values = torch.cat([self.bounds[rows], values], dim=1)
        index = torch.cat([self.index[rows], index + offset], dim=1)
        self.bounds[rows], best = values.topk(m, dim=1, largest=False, sorted=False)
        self.index[rows] = index.gather(1, best)


def _gather_nearest(a: Cloud, b: Cloud, m: int, work: Work) -> _Nearest:
    """The m points of b with the smallest lower bounds for every point of a; never the point itself if b is a."""
    found = _Nearest(a, m)
    for i, j in tiles(a, b):
        block = lower_bounds(a, b, i, j)
        if a is b and i.start == j.start:
            block.fill_diagonal_(math.inf)
        found.take(i, block, j.start)
        if a is b and j.start > i.start:
            found.take(j, block.T.contiguous(), i.start)
        work.step()
    return found


def kth_distances(a: Cloud, k: int, work: Work | None = None) -> Tensor:
    """Squared distance [U] of every point to its k-th neighbour among all others, duplicates counted; exact."""
    work = work or Work(None, 0)
    if len(a) == 1:
        work.step()
        return torch.zeros(1, dtype=torch.float64, device=a.norms.device)
    weights = a.weights.to(a.norms.device)
    need = k - (weights - 1)  # neighbours to find beside a point's own duplicates at distance 0
    m = min(len(a) - 1, k + SPARE)
    near = _gather_nearest(a, a, m, work)
    rows = torch.arange(len(a), device=a.norms.device)
    low = near.bounds.double()
    high = low + slack(a, a, rows[:, None], near.index)
    radius, limit = _settle(a, a, rows, near.index, low, high, weights[near.index], need)
    if m < len(a) - 1:  # was anything left out that may be nearer?
        crowded = (low.max(dim=1).values <= limit) & (need > 0)
        _from_scratch(a, a, rows[crowded], need, radius)
    return radius


def _settle(
    a: Cloud, b: Cloud, rows: Tensor, index: Tensor, low: Tensor, high: Tensor, weights: Tensor, need: Tensor
) -> tuple[Tensor, Tensor]:
    """The need-th smallest squared distance [R] (points counted `weights` times) of candidates index [R, m] with bounds
    low and high; and an upper bound of it, for those who have to know that no candidate is missing.
    """
    above, below = _weighted_kth(high, weights, need), _weighted_kth(low, weights, need)
    open_ = (low <= above[:, None]) & (high >= below[:, None]) & (need > 0)[:, None] & torch.isfinite(low)
    r, c = open_.nonzero(as_tuple=True)
    values = low.clone()
    values[r, c] = exact(a, b, rows[r], index[r, c])
    return _weighted_kth(values, weights, need), above


def _weighted_kth(values: Tensor, weights: Tensor, need: Tensor) -> Tensor:
    """Smallest v [R] such that entries up to v weigh at least need; 0 where need is not above 0."""
    ordered, order = values.sort(dim=1)
    reached = weights.gather(1, order).cumsum(dim=1) >= need[:, None]
    found = ordered.gather(1, reached.int().argmax(dim=1, keepdim=True))[:, 0]
    return torch.where(need > 0, found, 0.0)


def _from_scratch(a: Cloud, b: Cloud, rows: Tensor, need: Tensor, radius: Tensor) -> None:
    """Radii of rows whose neighbourhoods float32 cannot resolve (lattices, tight clusters far from the centre)."""
    if not len(rows):
        return
    every = torch.arange(len(b), device=rows.device)
    weights = b.weights.to(rows.device)
    step = max(1, PAIRS // len(b))
    for part in rows.split(step):
        some = _only(a, part)
        low = _row_bounds(some, b)
        high = low + slack(some, b, torch.arange(len(part), device=rows.device)[:, None], every, torch.float64)
        if a is b:
            low.scatter_(1, part[:, None], math.inf)
            high.scatter_(1, part[:, None], math.inf)
        index, weight = every.expand(len(part), -1), weights.expand(len(part), -1)
        radius[part] = _settle(a, b, part, index, low, high, weight, need[part])[0]


def _row_bounds(some: Cloud, b: Cloud) -> Tensor:
    """`lower_bounds` of a few points to all of b [R, U], by float64 products over blocks of b."""
    columns = (slice(j, min(j + ROWS, len(b))) for j in range(0, len(b), ROWS))
    return torch.cat([lower_bounds(some, b, slice(0, len(some)), j, torch.float64) for j in columns], dim=1)


def _only(a: Cloud, rows: Tensor) -> Cloud:
    """The chosen points of a cloud, as a cloud."""
    chosen = rows.cpu()
    numbers = np.arange(len(rows))
    return Cloud(a.rows[rows], a.weights[chosen], a.first[chosen.numpy()], numbers, a.centre, a.norms[rows])


# -------------------------------------------------------------------------------------------------------- inside balls
def _count(a: Cloud, b: Cloud, radius_a: Tensor, radius_b: Tensor, k: int, work: Work) -> Manifolds:
    """Compare all distances with both radii; only pairs that may be inside a ball leave their block."""
    device = a.norms.device
    weight_a, weight_b = a.weights.to(device), b.weights.to(device)
    balls = radius_b.to(device)
    precise = torch.zeros(len(b), dtype=torch.bool, device=device)
    recalled, covered = (torch.zeros(len(a), dtype=torch.bool, device=device) for _ in range(2))
    density = 0
    for i, j in tiles(a, b):
        p, q, d = _near_pairs(a, b, i, j, radius_a, balls)
        precise[q[d <= radius_a[p]]] = True
        recalled[p[d <= balls[q]]] = True
        inside = d < radius_a[p]
        covered[p[inside]] = True
        density += int((weight_a[p[inside]] * weight_b[q[inside]]).sum())
        work.step()
    n, m = a.count, b.count
    precision, recall, coverage = (
        int(weight[hit].sum()) / total
        for weight, hit, total in ((weight_b, precise, m), (weight_a, recalled, n), (weight_a, covered, n))
    )
    return Manifolds(precision, recall, density / (k * m), coverage)


def _near_pairs(a: Cloud, b: Cloud, i: slice, j: slice, r_a: Tensor, r_b: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Pairs (p, q) of a block that may lie within r_a[p] or r_b[q], with squared distances that compare with both
    radii as the true ones do.
    """
    block = lower_bounds(a, b, i, j)
    up = 1 + 2.0**-20  # radii rounded to float32 must not shrink
    near = block <= (r_a[i] * up).float()[:, None]
    near |= block <= (r_b[j] * up).float()
    p, q = near.nonzero(as_tuple=True)
    low = block[p, q].double()
    p, q = p + i.start, q + j.start
    d, open_ = _compare(low, low + slack(a, b, p, q), r_a[p], r_b[q])
    if int(open_.sum()) > PAIRS // 16:  # many open pairs: a product in float64 settles nearly all of them
        low = lower_bounds(a, b, i, j, torch.float64)[p - i.start, q - j.start]
        d, open_ = _compare(low, low + slack(a, b, p, q, torch.float64), r_a[p], r_b[q])
    d[open_] = exact(a, b, p[open_], q[open_])
    return p, q, d


def _compare(low: Tensor, high: Tensor, r_a: Tensor, r_b: Tensor) -> tuple[Tensor, Tensor]:
    """A stand-in for each distance, and whether a radius lies between its bounds so that it has to be computed."""
    open_ = (low <= r_a) & (high >= r_a)
    open_ |= (low <= r_b) & (high >= r_b)
    return low.clone(), open_


# ---------------------------------------------------------------------------------------------------------- neighbours
@dataclass(frozen=True)
class Neighbours:
    """The nearest reference points of every query, nearest first."""

    distance: NDArray[np.float64]  # [M, k]
    index: NDArray[np.intp]  # [M, k] rows of the reference; of equal ones the first


def nearest_neighbours(query: Any, reference: Any, k: int = 1, *, progress: Progress | None = None) -> Neighbours:
    """The k nearest distinct rows of reference [N, D] for each row of query [M, D], Euclidean, exact, blockwise.

    Raises UserError where the reference has fewer than k distinct rows.
    """
    x, y = feature_pair(reference, query)
    centre = centre_of(x)
    a, b = Cloud.of(y, centre), Cloud.of(x, centre)
    return nearest_in(a, b, k, Work(progress, len(tiles(a, b))))


def nearest_in(a: Cloud, b: Cloud, k: int, work: Work | None = None) -> Neighbours:
    """`nearest_neighbours` of the points of a among those of b; among the others where b is a."""
    others = len(b) - (a is b)
    if not 1 <= k <= others:
        raise UserError(f"k is {k} and the reference has {others} distinct samples; expected k from 1 to that.")
    m = min(others, k + SPARE)
    near = _gather_nearest(a, b, m, work or Work(None, 0))
    rows = torch.arange(len(a), device=a.norms.device)
    d = exact(a, b, rows.repeat_interleave(m), near.index.flatten()).view(len(a), m)
    d, order = d.sort(dim=1, stable=True)
    index = near.index.gather(1, order)[:, :k]
    d = d[:, :k].contiguous()
    if m < others:
        for row in rows[near.bounds.double().max(dim=1).values <= d[:, -1]]:
            d[row], index[row] = _row_from_scratch(a, b, row, k)
    back = torch.from_numpy(a.inverse).to(d.device)
    return Neighbours(numpy_of(d.sqrt()[back]), b.first[numpy_of(index[back])])


def _row_from_scratch(a: Cloud, b: Cloud, row: Tensor, k: int) -> tuple[Tensor, Tensor]:
    every = torch.arange(len(b), device=row.device)
    low = _row_bounds(_only(a, row[None]), b)[0]
    high = low + slack(a, b, row, every, torch.float64)
    if a is b:
        low[row] = high[row] = math.inf
    candidates = every[low <= high.kthvalue(k).values]
    d, order = exact(a, b, row.expand(len(candidates)), candidates).sort(stable=True)
    return d[:k], candidates[order[:k]]
