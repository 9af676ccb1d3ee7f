"""The earth mover's distance W1(p, q) = min over couplings of E|x - y| = max over 1-Lipschitz f of E_p f - E_q f.

On the line the monotone coupling is optimal, so W1 is the integral of |Q_p - Q_q| over quantile levels, or of |F_p -
F_q| over x; samples, grids and piecewise-constant densities are exact, torch distributions are binned finely first.
Between weighted point sets in n dimensions W1 is an assignment problem or a linear programme, solved to optimality
and proved by its dual. `w1_dual` returns the maximiser f with the certificate. Entropic and sliced estimates state
their error. Distances are Euclidean. Units: those of x.

Sources: Villani, "Topics in Optimal Transportation", 2003, theorems 1.14 and 2.18; Arjovsky et al. 2017
(arXiv:1701.07875); Cuturi 2013 (arXiv:1306.0895); Altschuler et al. 2017 (arXiv:1705.09634); Feydy et al. 2019
(arXiv:1810.08278).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from scipy.optimize import linear_sum_assignment, linprog
from scipy.sparse import coo_array
from scipy.spatial.distance import cdist

from saddlepoint.errors import UserError, unknown
from saddlepoint.theory.distributions import (
    Array,
    Density,
    Distribution,
    Grid,
    Piecewise,
    Samples,
    gauss_nodes,
    pair,
)
from saddlepoint.theory.divergences import Estimate

Index: TypeAlias = npt.NDArray[np.intp]
Mask: TypeAlias = npt.NDArray[np.bool_]

LARGEST_PROBLEM = 40_000_000  # pairs of points in an exact or entropic problem: 0.3 GB for each of a few matrices


def w1(p: Any, q: Any, *, method: Literal["exact", "entropic", "sliced"] = "exact", **options: Any) -> float:
    """W1(p, q); for the options of method "entropic" and "sliced", and their errors, see `w1_entropic` and `w1_sliced`.

    p, q: Grid (as the atoms of its quadrature), Piecewise, samples (weighted or not, of any sizes) or, in 1-D and
    finite discrete cases, torch distributions. A million samples on the line cost their sorting. Raises UserError for
    densities in more than one dimension, for infinite means, and for exact problems of more than 4e7 pairs.
    """
    if method == "entropic":
        return w1_entropic(p, q, **options).value
    if method == "sliced":
        return w1_sliced(p, q, **options).value
    if method != "exact":
        raise unknown("W1 method", method, ("exact", "entropic", "sliced"))
    first, second = pair(p, q)
    if first.dim > 1:
        x, a, y, b = _difference(first, second)
        i, j, mass = solve(x, a, y, b)
        return float(mass @ np.linalg.norm(x[i] - y[j], axis=1))
    if isinstance(first, Samples) and isinstance(second, Samples) and first.weights is None and second.weights is None:
        return _w1_sorted(np.sort(first.x[:, 0]), np.sort(second.x[:, 0]))
    return monotone_plan(as_line(first), as_line(second)).cost


def w1_plan(p: Any, q: Any) -> LinePlan | Array:
    """An optimal coupling: on the line the monotone one, as segments; between point sets a matrix [n, m] of masses."""
    first, second = pair(p, q)
    if first.dim == 1:
        return monotone_plan(as_line(first), as_line(second))
    (x, a), (y, b) = as_points(first), as_points(second)
    plan = np.zeros((len(x), len(y)))
    i, j, mass = solve(x, a, y, b)
    plan[i, j] = mass
    return plan


def worked_example() -> tuple[Piecewise, Piecewise]:
    """The lecture's densities, p = 1/4 1_[1,2] + 1/4 1_[3,4] + 1/2 1_[9,10] and q = 1/2 1_[5,7], with W1 = 3.

    The lecture prints q = 1_[5,7], of mass 2; its figure draws the height 1/2 used here.
    """
    return Piecewise.sum_of((0.25, 1, 2), (0.25, 3, 4), (0.5, 9, 10)), Piecewise.sum_of((0.5, 5, 7))


# ------------------------------------------------------------------------------------------------------- on the line
@dataclass(frozen=True)
class Line:
    """A distribution on the line as ordered parts: mass[i] spread evenly over [start[i], end[i]], or at that point."""

    start: Array
    end: Array
    mass: Array


def as_line(p: Distribution) -> Line:
    """The parts of a 1-D distribution. Densities of torch are binned into 16 parts per quadrature cell, which moves
    W1 by about 1e-7 of their scale."""
    if isinstance(p, Piecewise):
        used = p.heights > 0
        return Line(p.edges[:-1][used], p.edges[1:][used], p.mass[used] / p.mass.sum())
    if isinstance(p, Density) and p.edges is not None:
        return _binned(p, p.edges)
    x, mass = as_points(p)
    order = np.argsort(x[:, 0])
    points = x[order, 0]
    return Line(points, points, mass[order])


def _binned(p: Density, edges: Array) -> Line:
    fine = np.interp(np.arange(16 * (len(edges) - 1) + 1) / 16, np.arange(len(edges)), edges)
    fine = np.unique(fine)
    x, weight = gauss_nodes(fine)
    mass = (np.exp(p.log_density(x[:, None])) * weight).reshape(-1, 4).sum(axis=1)
    if not abs(mass.sum() - 1) < 1e-6:
        raise UserError(
            f"quadrature finds mass {mass.sum():.9g}, not 1: its cells do not resolve the density; "
            "give Grid(x, density) or samples."
        )
    middle = (fine[1:] + fine[:-1]) / 2
    moment, reach = mass * np.abs(middle), float(np.abs(fine).max())
    half = float(np.subtract(*np.interp([0.75, 0.25], np.cumsum(mass), middle)))  # the interquartile range
    if reach > 1e6 * half and moment[np.abs(middle) > reach / 10].sum() > 1e-3 * moment.sum():
        raise UserError("the distribution has no finite mean, so W1 to it is infinite or undefined.")
    used = mass > 0
    return Line(fine[:-1][used], fine[1:][used], mass[used] / mass.sum())


@dataclass(frozen=True)
class LinePlan:
    """The monotone coupling: mass[k] moves evenly from source[k] = [x0, x1] onto target[k] = [y0, y1], in order."""

    mass: Array
    source: Array
    target: Array

    @property
    def cost(self) -> float:
        """sum of mass * mean |x - y|, where x - y runs linearly from one end of a segment to the other."""
        shift = self.source - self.target
        return float(self.mass @ mean_abs(shift[:, 0], shift[:, 1]))


def mean_abs(a: Array, b: Array) -> Array:
    """Mean of |linear function| from a to b: |a + b|/2, or (a^2 + b^2) / (2|a| + 2|b|) if the sign changes."""
    total = np.abs(a) + np.abs(b)
    with np.errstate(invalid="ignore", divide="ignore"):
        crossing = (a * a + b * b) / (2 * total)
    return np.where(np.sign(a) * np.sign(b) < 0, crossing, total / 2)


def monotone_plan(p: Line, q: Line) -> LinePlan:
    """Cut both at the union of their cumulative masses: between two cuts, both quantile functions are linear."""
    lines = [Line(*(part[line.mass > 0] for part in (line.start, line.end, line.mass))) for line in (p, q)]
    ends = []
    for line in lines:  # without empty cells, which rounding at the end could pick, and divide by
        cumulative = np.cumsum(line.mass)
        cumulative /= cumulative[-1]
        ends.append(cumulative)
    cuts = np.concatenate([[0.0], np.sort(np.concatenate(ends), kind="stable")])  # a merge of two sorted runs
    cuts = cuts[np.concatenate([[True], np.diff(cuts) > 0])]
    middle = (cuts[1:] + cuts[:-1]) / 2
    sides = []
    for line, end in zip(lines, ends, strict=True):
        part = np.minimum(np.searchsorted(end, middle), len(end) - 1)
        begin, width = np.concatenate([[0.0], end[:-1]])[part], np.diff(end, prepend=0.0)[part]
        share = np.clip((np.stack([cuts[:-1], cuts[1:]], axis=1) - begin[:, None]) / width[:, None], 0, 1)
        low, high = line.start[part, None], line.end[part, None]
        sides.append(low + share * (high - low))
    return LinePlan(np.diff(cuts), *sides)


def _w1_sorted(a: Array, b: Array) -> float:
    """W1 of sorted unweighted samples; of unequal sizes n, m by the whole-number levels i m and j n, free of
    rounding."""
    n, m = len(a), len(b)
    if n == m:
        difference = np.subtract(a, b)
        return float(np.abs(difference, out=difference).mean())
    levels = np.sort(np.concatenate([np.arange(1, n + 1) * m, np.arange(1, m + 1) * n]), kind="stable")
    width = np.diff(levels, prepend=0)
    low = levels - width
    i, j = np.minimum(low // m, n - 1), np.minimum(low // n, m - 1)
    return float(width @ np.abs(a[i] - b[j])) / (n * m)


# ------------------------------------------------------------------------------------------------ between point sets
def as_points(p: Distribution) -> tuple[Array, Array]:
    """Points [n, dim] and masses [n] of an atomic distribution: samples, grid, finite discrete torch distribution."""
    if isinstance(p, Samples):
        return p.x, p.mass
    if isinstance(p, Grid):
        mass = (p.density * p.cells).ravel()
        return p.points, mass / mass.sum()
    if isinstance(p, Density) and p.atoms is not None:
        mass = np.exp(p.log_density(p.atoms))
        return p.atoms, mass / mass.sum()
    kind = type(p.torch or p).__name__ if isinstance(p, Density) else type(p).__name__
    raise UserError(f"W1 of {kind} has no points to move; draw samples of it, or give Grid((x, y), density).")


def _difference(p: Distribution, q: Distribution) -> tuple[Array, Array, Array, Array]:
    """Points and masses to move. W1 depends on p - q alone (its dual does), so on a shared grid common mass is taken
    out; the masses left are TV(p, q) on each side."""
    (x, a), (y, b) = as_points(p), as_points(q)
    if isinstance(p, Grid) and isinstance(q, Grid) and p.same_axes(q):
        a, b = np.maximum(a - b, 0), np.maximum(b - a, 0)
        if not (a.any() and b.any()):
            return x[:1], np.zeros(1), y[:1], np.zeros(1)
    return x[a > 0], a[a > 0], y[b > 0], b[b > 0]


def solve(x: Array, a: Array, y: Array, b: Array) -> tuple[Index, Index, Array]:
    """An optimal coupling of masses a [n] at x [n, dim] with b [m] at y: indices i, j and masses of its entries."""
    return _solve(_costs(x, y), a, b)[:3]


def _costs(x: Array, y: Array) -> Array:
    if len(x) * len(y) > LARGEST_PROBLEM:
        raise UserError(
            f"W1 between {len(x)} and {len(y)} points needs {len(x) * len(y):.3g} distances, more than "
            f"{LARGEST_PROBLEM:.0e}; take a subsample, or method='sliced'."
        )
    return cdist(x, y)


def _solve(cost: Array, a: Array, b: Array, dual: bool = False) -> tuple[Index, Index, Array, Array]:
    """The coupling; with `dual`, also g [m] such that u_i = min_j(cost_ij - g_j) and g prove it optimal."""
    total = float(a.sum())
    if total <= 1e-15:
        empty = np.zeros(0, dtype=np.intp)
        return empty, empty, np.zeros(0), np.zeros(len(b))
    a, b = a / total, b / b.sum()
    u, g = warm_duals(cost, a, b)
    if len(a) == len(b) and np.ptp(a) == 0 and np.ptp(b) == 0:
        reduced = cost - u[:, None]
        g = reduced.min(axis=0)
        reduced -= g
        i, j = linear_sum_assignment(reduced)  # Jonker-Volgenant
        return i, j, np.full(len(i), total / len(i)), _exact_duals(cost, j, g) if dual else g
    i, j, mass, g = _linear_programme(cost, a, b, u, g)
    return i, j, total * mass, g


def warm_duals(cost: Array, a: Array, b: Array) -> tuple[Array, Array]:
    """Rough potentials (u, g) from ten Sinkhorn rounds, in single precision, at each of a falling series of
    temperatures.

    Subtracting them from the costs changes no optimum, but leaves an exact solver little to do: on 2,048 shifted
    Gaussian points in the plane the assignment then takes a tenth of its time.
    """
    u, g = np.zeros(len(a), dtype=np.float32), np.zeros(len(b), dtype=np.float32)
    if cost.max() > 0 and min(cost.shape) >= 64:
        single = cost.astype(np.float32)
        for temperature in _falling(float(cost.max()) / 4, float(cost.mean()) / 10_000, factor=0.5):
            u, g = _scale(u, g, single, a, b, temperature, rounds=10)
    return u.astype(np.float64), g.astype(np.float64)


def _falling(start: float, end: float, factor: float) -> list[float]:
    """start, factor * start, ... down to exactly `end`."""
    steps = max(0, math.ceil(math.log(end / start) / math.log(factor)))
    return [start * factor**k for k in range(steps)] + [end]


def _scale(u: Any, g: Any, cost: Any, a: Array, b: Array, temperature: float, rounds: int) -> tuple[Any, Any]:
    """Sinkhorn rounds on the kernel exp((u + g - cost) / temperature), the scalings then absorbed into the potentials;
    in the precision of `cost`, whose smallest number keeps dividends off zero."""
    kernel = u[:, None] + g
    kernel -= cost
    kernel /= cost.dtype.type(temperature)
    np.exp(np.minimum(kernel, 60, out=kernel), out=kernel)
    a, b, tiny = a.astype(cost.dtype), b.astype(cost.dtype), np.finfo(cost.dtype).tiny * 1e8
    left, right = np.ones_like(u), np.ones_like(g)
    with np.errstate(all="ignore"):
        for _ in range(rounds):
            left = a / np.maximum(kernel @ right, tiny)
            right = b / np.maximum(left @ kernel, tiny)
        grown = [v + cost.dtype.type(temperature) * np.log(s) for v, s in ((u, left), (g, right))]
    return np.nan_to_num(grown[0], posinf=0, neginf=0), np.nan_to_num(grown[1], posinf=0, neginf=0)


def _exact_duals(cost: Array, j: Index, g: Array) -> Array:
    """Potentials g of the optimal assignment i -> j_i: h = -g must satisfy h[j_i] - h[k] <= cost[i, k] - cost[i,
    j_i], a system of difference constraints, solved by Bellman-Ford from the rough g. Most rounds look at the 16
    tightest constraints of each row only; it ends when none of all n^2 is violated by more than rounding."""
    rows, h, rounding = np.arange(len(j))[:, None], -g, 1e-15 * float(cost.max())
    rise = cost - cost[rows, j[:, None]]
    while True:
        priced = h + rise
        if (h[j] - priced.min(axis=1)).max() <= rounding:
            return -h
        near = np.argpartition(priced, min(16, len(j) - 1), axis=1)[:, :16]
        step, fall = rise[rows, near], math.inf
        while fall > rounding:
            lower = np.minimum(h[j], (h[near] + step).min(axis=1))
            fall = float((h[j] - lower).max())
            h[j] = lower


def _linear_programme(cost: Array, a: Array, b: Array, u: Array, g: Array) -> tuple[Index, Index, Array, Array]:
    """Weighted points: min sum P cost with marginals a, b, by column generation.

    HiGHS sees only promising pairs; its duals then price every pair, and those with negative reduced cost are added.
    It ends when there are none: the optimum of the whole problem, not of the part.
    """
    n = len(a)
    active = _staircase(a, b)
    _activate(active, cost - u[:, None] - g, 8, math.inf)
    precise = {"primal_feasibility_tolerance": 1e-10, "dual_feasibility_tolerance": 1e-10, "presolve": False}
    tolerance = 1e-12 * max(float(cost.max()), 1e-300)
    unit = 1000.0  # the solver's tolerances are absolute. Its presolve calls some of these problems infeasible
    while True:
        i, j = np.nonzero(active)
        one, at = np.ones(2 * len(i)), np.arange(len(i))
        marginals = coo_array((one, (np.concatenate([i, n + j]), np.concatenate([at, at])))).tocsc()
        found = linprog(
            cost[i, j], A_eq=marginals, b_eq=unit * np.concatenate([a, b]), method="highs-ipm", options=precise
        )
        if found.x is None:
            raise RuntimeError(f"HiGHS did not solve the transport problem: {found.message}")
        u, g = found.eqlin.marginals[:n], found.eqlin.marginals[n:]
        reduced = cost - u[:, None] - g
        reduced[active] = 0
        if reduced.min() >= -tolerance:
            used = found.x > 0
            return i[used], j[used], found.x[used] / unit, g
        _activate(active, reduced, 4, -tolerance)


def _staircase(a: Array, b: Array) -> Mask:
    """The pairs of the north-west corner rule, [n, m] of bool: with them alone the problem has a solution."""
    ends = [np.cumsum(v) / v.sum() for v in (a, b)]
    cuts = np.unique(np.concatenate([[0.0], *ends]))
    middle = (cuts[1:] + cuts[:-1]) / 2
    i, j = (np.minimum(np.searchsorted(end, middle), len(end) - 1) for end in ends)
    active = np.zeros((len(a), len(b)), dtype=bool)
    active[i, j] = True
    return active


def _activate(active: Mask, reduced: Array, count: int, below: float) -> None:
    """Switch on the `count` cheapest pairs of every row and column whose reduced cost is under `below`."""
    for axis in (0, 1):
        count_here = min(count, reduced.shape[axis])
        best = np.take(np.argpartition(reduced, count_here - 1, axis=axis), np.arange(count_here), axis=axis)
        chosen = np.take_along_axis(active, best, axis) | (np.take_along_axis(reduced, best, axis) < below)
        np.put_along_axis(active, best, chosen, axis)


# ------------------------------------------------------------------------------------------- Kantorovich-Rubinstein
@dataclass(frozen=True)
class Potential:
    """A 1-Lipschitz f with E_p f - E_q f = W1(p, q), and the certificate that it is optimal.

    On the line f is linear between `knots` [k] with `values` [k], constant outside; in n dimensions f(x) =
    min_k(values_k + |x - knots_k|). primal: cost of a coupling, an upper bound; dual: E_p f - E_q f, a lower bound by
    construction; `gap` is their difference. lipschitz: largest slope measured. f is unique up to a constant at best;
    here E_p f + E_q f = 0.
    """

    knots: Array
    values: Array
    primal: float
    dual: float
    lipschitz: float

    @property
    def gap(self) -> float:
        return self.primal - self.dual

    def __call__(self, x: Any) -> Array:
        """f at x: any shape on the line, [..., dim] in n dimensions."""
        at = np.asarray(x.detach().cpu() if isinstance(x, torch.Tensor) else x, dtype=np.float64)
        if self.knots.ndim == 1:
            return np.asarray(np.interp(at, self.knots, self.values))
        return _lower_envelope(at.reshape(-1, at.shape[-1]), self.knots, self.values).reshape(at.shape[:-1])


def w1_dual(p: Any, q: Any) -> Potential:
    """The Kantorovich-Rubinstein potential: what a perfect WGAN critic is, up to a constant.

    On the line f' = sign(F_q - F_p); between point sets the dual of the assignment or linear programme, extended to
    all of space by f(x) = min_j(f_j + |x - y_j|) (McShane). Inputs and errors as in `w1`.
    """
    first, second = pair(p, q)
    return _line_potential(first, second) if first.dim == 1 else _point_potential(first, second)


def _line_potential(p: Distribution, q: Distribution) -> Potential:
    a, b = as_line(p), as_line(q)
    knots = np.unique(np.concatenate([a.start, a.end, b.start, b.end]))
    at_left, at_right = (_cdf(b, knots, side) - _cdf(a, knots, side) for side in ("right", "left"))
    left, right = at_left[:-1], at_right[1:]  # F_q - F_p at both ends of each interval, where it is linear
    noise = 1e-14  # rounding of a sum of masses
    left, right = (np.where(np.abs(v) < noise, 0.0, v) for v in (left, right))
    turn = np.flatnonzero(left * right < 0)
    roots = knots[turn] + np.diff(knots)[turn] * left[turn] / (left[turn] - right[turn])
    slope = np.sign(left + right)
    inner = np.insert(slope, turn, np.sign(left[turn]))
    inner[turn + 1 + np.arange(len(turn))] = np.sign(right[turn])
    every = np.insert(knots, turn + 1, roots)
    values = np.concatenate([[0.0], np.cumsum(inner * np.diff(every))])
    e_p, e_q = (_expectation(line, every, values) for line in (a, b))
    centred = values - (e_p + e_q) / 2
    return Potential(every, centred, monotone_plan(a, b).cost, e_p - e_q, _steepest(every[:, None], values))


def _cdf(line: Line, x: Array, side: Literal["left", "right"]) -> Array:
    """F at x: its limit from the right for side "right", from the left for "left" (they differ at points with mass)."""
    total = np.concatenate([[0.0], np.cumsum(line.mass)])
    total /= total[-1]
    whole = np.searchsorted(line.end, x, side=side)
    part = np.minimum(whole, len(line.mass) - 1)
    width = line.end[part] - line.start[part]
    with np.errstate(invalid="ignore", divide="ignore"):
        share = np.where(width > 0, np.clip((x - line.start[part]) / width, 0, 1), 0.0)
    return np.where(whole == len(line.mass), 1.0, total[whole] + share * (total[part + 1] - total[part]))


def _expectation(line: Line, knots: Array, values: Array) -> float:
    """E f for f linear between knots: the antiderivative of f over each part (at a point, f itself)."""
    area = np.concatenate([[0.0], np.cumsum(np.diff(knots) * (values[1:] + values[:-1]) / 2)])

    def antiderivative(x: Array) -> Array:
        k = np.clip(np.searchsorted(knots, x, side="right") - 1, 0, max(len(knots) - 2, 0))
        return area[k] + (x - knots[k]) * (values[k] + np.interp(x, knots, values)) / 2

    width = line.end - line.start
    with np.errstate(invalid="ignore", divide="ignore"):
        spread = (antiderivative(line.end) - antiderivative(line.start)) / width
    return float(line.mass @ np.where(width > 0, spread, np.interp(line.start, knots, values)))


def _point_potential(p: Distribution, q: Distribution) -> Potential:
    x, a, y, b = _difference(p, q)
    cost = _costs(x, y)
    i, j, mass, g = _solve(cost, a, b, dual=True)
    return certified(-g, x, a, y, b, primal=float(mass @ cost[i, j]))


def certified(h: Array, x: Array, a: Array, y: Array, b: Array, primal: float) -> Potential:
    """f(z) = min_j(h_j + |z - y_j|): 1-Lipschitz whatever h [m] is, so its dual value is a true lower bound."""
    f_x, f_y = _lower_envelope(x, y, h), _lower_envelope(y, y, h)
    e_p, e_q = float(a @ f_x), float(b @ f_y)
    shift = (e_p + e_q) / 2 / max(float(a.sum()), 1e-300)
    return Potential(y, f_y - shift, primal, e_p - e_q, _steepest(np.concatenate([x, y]), np.concatenate([f_x, f_y])))


def _lower_envelope(x: Array, knots: Array, values: Array) -> Array:
    """min_k(values_k + |x - knots_k|) at x [n, dim], in blocks of 4 million distances."""
    rows = max(1, 4_000_000 // len(knots))
    blocks = (x[k : k + rows] for k in range(0, len(x), rows))
    return np.concatenate([(cdist(block, knots) + values).min(axis=1) for block in blocks])


def _steepest(x: Array, f: Array) -> float:
    """Largest |f(x) - f(y)| / |x - y| over pairs of (at most 2,048 evenly taken) points further apart than rounding."""
    step = -(-len(x) // 2048)
    x, f = x[::step], f[::step]
    distance = cdist(x, x)
    apart = distance > 1e-6 * max(float(distance.max()), 1e-300)
    return float((np.abs(f[:, None] - f)[apart] / distance[apart]).max()) if apart.any() else 0.0


# -------------------------------------------------------------------------------------------------- entropic and sliced
@dataclass(frozen=True)
class Entropic:
    """Entropic estimate of W1 with its error: lower <= W1 <= upper always (a feasible potential and a feasible plan).

    value: sum P cost of the regularised plan; or the debiased divergence S = OT(p,q) - OT(p,p)/2 - OT(q,q)/2, OT with
    the entropy in it, which is 0 iff p = q but may fall below `lower` (S is not a transport cost).
    marginal_violation: |P 1 - a|_1 + |P' 1 - b|_1. epsilon: temperature in units of x.
    """

    value: float
    lower: float
    upper: float
    epsilon: float
    marginal_violation: float
    iterations: int
    plan: Array


def w1_entropic(
    p: Any,
    q: Any,
    *,
    epsilon: float | None = None,
    debias: bool = False,
    iterations: int = 2000,
    tolerance: float = 1e-6,
) -> Entropic:
    """Sinkhorn's algorithm in the log domain on min <P, cost> + epsilon KL(P || a b'), temperature falling to epsilon.

    epsilon: default 2 % of the mean distance. Stops when the plan's marginals are within `tolerance` (L1) or after
    `iterations`. The upper bound is the cost of the plan rounded to exact marginals (Altschuler et al. 2017,
    algorithm 2).
    """
    first, second = pair(p, q)
    (x, a), (y, b) = ((points[mass > 0], mass[mass > 0]) for points, mass in (as_points(first), as_points(second)))
    cost = _costs(x, y)
    if epsilon is None:
        epsilon = max(0.02 * float(cost.mean()), 1e-300)
    if not epsilon > 0:
        raise UserError(f"epsilon must be positive; got {epsilon:g}.")
    u, g, plan, used = sinkhorn(cost, a, b, epsilon, iterations, tolerance)
    feasible = _rounded(plan, a, b)
    value = float((plan * cost).sum())
    if debias:
        value = float(a @ (u - epsilon * np.log(a)) + b @ (g - epsilon * np.log(b)))
        value -= sum(_self_transport(_costs(z, z), m, epsilon, iterations, tolerance) for z, m in ((x, a), (y, b))) / 2
    violation = float(np.abs(plan.sum(axis=1) - a).sum() + np.abs(plan.sum(axis=0) - b).sum())
    upper = float((feasible * cost).sum())
    lower = float(a @ _lower_envelope(x, y, -g) - b @ _lower_envelope(y, y, -g))
    return Entropic(value, lower, upper, epsilon, violation, used, plan)


def sinkhorn(
    cost: Array, a: Array, b: Array, epsilon: float, iterations: int, tolerance: float
) -> tuple[Array, Array, Array, int]:
    """Potentials u [n], g [m], the plan exp((u + g - cost) / epsilon) [n, m], and the iterations spent at epsilon.

    Log-domain steps, each followed by up to 50 rounds of scalings of the kernel they leave, which cost a fiftieth of
    one and are absorbed into the potentials (stabilised scaling, Schmitzer 2019, arXiv:1610.06519). Masses must be
    positive.
    """
    u, g = np.zeros(len(a)), np.zeros(len(b))
    for temperature in _falling(max(float(cost.max()), epsilon), epsilon, factor=0.7):
        u, g = _log_step(g, cost, a, b, temperature)
    used, rounds = 1, 50
    while True:
        plan = np.exp((u[:, None] + g - cost) / epsilon)
        if used >= iterations or np.abs(plan.sum(axis=1) - a).sum() < tolerance:
            return u, g, plan, used
        rounds = min(rounds, max(iterations - used - 1, 0))
        u, g = _log_step(_scale(u, g, cost, a, b, epsilon, rounds)[1], cost, a, b, epsilon)
        used += rounds + 1


def _self_transport(cost: Array, a: Array, epsilon: float, iterations: int, tolerance: float) -> float:
    """Optimal value for a onto itself: one potential, whose averaged fixed point converges fast (Feydy et al. 2019)."""
    log_a, c = torch.from_numpy(np.log(a)), torch.from_numpy(cost)
    u = torch.zeros_like(log_a)
    for _ in range(iterations):
        new = -epsilon * torch.logsumexp(log_a + (u - c) / epsilon, dim=1)
        u, change = (u + new) / 2, float((u - new).abs().max())
        if change < tolerance * epsilon:
            break
    return 2 * float(torch.exp(log_a) @ u)


def _log_step(g: Array, cost: Array, a: Array, b: Array, temperature: float) -> tuple[Array, Array]:
    """u from g so that the rows are right, then g from u so that the columns are."""
    log_a, log_b, c = np.log(a), np.log(b), torch.from_numpy(cost)
    to_rows = torch.logsumexp((torch.from_numpy(g) - c) / temperature, dim=1).numpy()
    u = temperature * (log_a - to_rows)
    to_columns = torch.logsumexp((torch.from_numpy(u)[:, None] - c) / temperature, dim=0).numpy()
    return u, temperature * (log_b - to_columns)


def _rounded(plan: Array, a: Array, b: Array) -> Array:
    """A plan with marginals a and b near `plan`: scale rows and columns down, spread what is missing as a product."""
    with np.errstate(divide="ignore", invalid="ignore"):
        plan = plan * np.nan_to_num(np.minimum(1, a / plan.sum(axis=1)))[:, None]
        plan = plan * np.nan_to_num(np.minimum(1, b / plan.sum(axis=0)))
    rows, columns = a - plan.sum(axis=1), b - plan.sum(axis=0)
    missing = float(rows.sum())
    return plan + np.outer(rows, columns) / missing if missing > 1e-300 else plan


def w1_sliced(p: Any, q: Any, *, directions: int = 256, seed: int = 0) -> Estimate:
    """Sliced W1: the mean of W1 between projections on random unit directions, with its standard error over them.

    A lower bound of W1 in the mean, exact on the line. A shift by t gives |t| E|theta_1| (2/pi |t| in the plane).
    """
    first, second = pair(p, q)
    (x, a), (y, b) = as_points(first), as_points(second)
    theta = np.random.default_rng(seed).normal(size=(directions, first.dim))
    theta /= np.linalg.norm(theta, axis=1, keepdims=True)
    uniform = np.ptp(a) == 0 and np.ptp(b) == 0
    weights = (None, None) if uniform else (a, b)
    values = np.array([w1(Samples(x @ t, weights[0]), Samples(y @ t, weights[1])) for t in theta])
    error = float(values.std(ddof=1)) / math.sqrt(directions)
    return Estimate(float(values.mean()), error, f"sliced, {directions} directions")
