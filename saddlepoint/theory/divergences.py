"""How far apart are two distributions? KL, Jensen-Shannon, total variation, and the inequalities between them and W1.

Distributions are given as in `distributions`: on a grid, piecewise constant, as samples, of torch, or by a log-density.
Every pair is brought to one small form, `LogRatio`: weighted points under p and under q, with r = log p/q at each. All
three divergences, and the value of the GAN game, are then expectations of a function of r:

    KL  = E_p[r]
    JSD = 1/2 E_p[log 2 - softplus(-r)] + 1/2 E_q[log 2 - softplus(r)]
    TV  = 1/2 E_p|tanh(r/2)| + 1/2 E_q|tanh(r/2)|                      (since |p - q| / (p + q) = |tanh(r/2)|)

Logarithms are natural, TV = 1/2 integral |p - q|, so 0 <= TV <= 1 and 0 <= JSD <= log 2. W1 is in `transport`.
Sources: Goodfellow et al. 2014 (arXiv:1406.2661), section 4; Lin, "Divergence measures based on the Shannon entropy",
IEEE Transactions on Information Theory, 1991.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, TypedDict, Unpack

import numpy as np
import torch
from scipy.spatial.distance import pdist

from saddlepoint.errors import UserError, unknown
from saddlepoint.theory.distributions import (
    MASS_TOLERANCE,
    Array,
    Density,
    Distribution,
    Grid,
    Piecewise,
    Samples,
    checked_mass,
    gauss_nodes,
    logarithm,
    pair,
)

Estimator = Literal["kernel", "atoms"]


class How(TypedDict, total=False):
    """Options of `estimate`, accepted by every divergence."""

    estimator: Estimator
    draws: int
    seed: int
    analytic: bool


LOG2 = math.log(2.0)


# ------------------------------------------------------------------------------- one form for every pair: log p/q
@dataclass(frozen=True)
class LogRatio:
    """Weighted points under p (x_p [n, dim], mass_p [n]) and under q, with r = log p(x)/q(x) at each ([n], [m])."""

    x_p: Array
    mass_p: Array
    r_p: Array
    x_q: Array
    mass_q: Array
    r_q: Array
    method: str
    random: bool = False

    def expectation(self, under_p: Callable[[Array], Array], under_q: Callable[[Array], Array]) -> Estimate:
        """E_p[under_p(r)] + E_q[under_q(r)], with the standard error of the mean when the points were drawn."""
        a, b = under_p(self.r_p), under_q(self.r_q)
        value = float(self.mass_p @ a + self.mass_q @ b)
        error = (
            math.sqrt(float(a.var(ddof=1)) / len(a) + float(b.var(ddof=1)) / len(b))
            if self.random and math.isfinite(value)
            else 0.0
        )
        return Estimate(value, error, self.method)


@dataclass(frozen=True)
class Estimate:
    """A number, the standard error of it (0 where nothing was drawn), and how it was found."""

    value: float
    standard_error: float
    method: str


def log_ratio(p: Any, q: Any, *, estimator: Estimator = "kernel", draws: int = 65_536, seed: int = 0) -> LogRatio:
    """log p/q at weighted points of both: on the common grid, by 1-D quadrature, or at `draws` random points.

    Samples become a Gaussian kernel density ("kernel"), or are taken as they are, as point masses ("atoms").
    """
    first, second = pair(p, q)
    if estimator not in ("kernel", "atoms"):
        raise unknown("estimator", estimator, ("kernel", "atoms"))
    kernels = isinstance(first, Samples) or isinstance(second, Samples)
    if estimator == "atoms" and kernels:
        if not (isinstance(first, Samples) and isinstance(second, Samples)):
            raise UserError("estimator='atoms' needs samples on both sides; point masses have no density.")
        return _atoms_ratio(first, second)
    first, second = (d.kernel() if isinstance(d, Samples) else d for d in (first, second))
    for grid in (first, second):
        if isinstance(grid, Grid):
            p_mass, q_mass = (_on_grid(d, grid) for d in (first, second))
            return _table(grid.points, p_mass, q_mass, "grid")
    discrete = [isinstance(d, Density) and d.atoms is not None for d in (first, second)]
    if any(discrete):
        if not all(discrete):
            raise UserError("one distribution is discrete and the other is not: they share no density.")
        points = np.unique(np.concatenate([d.atoms for d in (first, second)]), axis=0)  # type: ignore[union-attr]
        p_mass, q_mass = (np.exp(d.log_density(points)) for d in (first, second))
        return _table(points, p_mass, q_mass, "sum over atoms")
    p_cells, q_cells = first.edges, second.edges  # type: ignore[union-attr]
    if p_cells is not None and q_cells is not None:
        edges = np.unique(np.concatenate([p_cells, q_cells]))
        return _quadrature(first, second, edges, "kernel" if kernels else "quadrature")
    return _drawn(first, second, draws, seed, "kernel, Monte Carlo" if kernels else "Monte Carlo")


def _table(x: Array, p: Array, q: Array, method: str, r: Array | None = None) -> LogRatio:
    """LogRatio of masses p, q [n] at common points x [n, dim]."""
    with np.errstate(invalid="ignore"):
        ratio = logarithm(p) - logarithm(q) if r is None else r
    has_p, has_q = p > 0, q > 0
    return LogRatio(x[has_p], p[has_p], ratio[has_p], x[has_q], q[has_q], ratio[has_q], method)


def _atoms_ratio(p: Samples, q: Samples) -> LogRatio:
    points, index = np.unique(np.concatenate([p.x, q.x]), axis=0, return_inverse=True)
    halves = ((index.ravel()[: len(p.x)], p.mass), (index.ravel()[len(p.x) :], q.mass))
    first, second = (np.asarray(np.bincount(at, mass, len(points)), dtype=np.float64) for at, mass in halves)
    return _table(points, first, second, "atoms")


def _on_grid(p: Distribution, grid: Grid) -> Array:
    """Mass of p at each point of the grid, [n]: exact cell masses of a Piecewise, density * cell otherwise."""
    if isinstance(p, Grid):
        if not p.same_axes(grid):
            raise UserError("p and q are on different grids; evaluate both densities on one grid.")
        return (p.density * p.cells).ravel()
    if isinstance(p, Piecewise):
        (x,) = grid.axes
        mass = np.diff(p.cdf(np.concatenate([x[:1], (x[1:] + x[:-1]) / 2, x[-1:]])))
    else:
        mass = np.exp(p.log_density(grid.points)) * grid.cells.ravel()  # type: ignore[union-attr]
    checked_mass("the other distribution, on this grid,", float(mass.sum()), normalise=False)
    return np.asarray(mass)


def _quadrature(p: Distribution, q: Distribution, edges: Array, method: str) -> LogRatio:
    """Gauss-Legendre on cells, with an edge put where p = q: there |p - q| has its kink."""

    def ratio(x: Array) -> tuple[Array, Array, Array]:
        log_p, log_q = (d.log_density(x[:, None]) for d in (p, q))  # type: ignore[union-attr]
        with np.errstate(invalid="ignore"):
            return log_p, log_q, log_p - log_q

    middle = (edges[1:] + edges[:-1]) / 2
    r = ratio(middle)[2]
    side = np.where(np.isfinite(r), np.sign(r), 0)
    turn = np.flatnonzero(side[:-1] * side[1:] < 0)
    roots = middle[turn] - r[turn] * (middle[turn + 1] - middle[turn]) / (r[turn + 1] - r[turn])
    x, weight = gauss_nodes(np.unique(np.concatenate([edges, roots, middle[r == 0]])))
    log_p, log_q, r = ratio(x)
    mass_p, mass_q = np.exp(log_p) * weight, np.exp(log_q) * weight
    for name, mass in (("p", mass_p), ("q", mass_q)):
        if not abs(mass.sum() - 1) < MASS_TOLERANCE:
            raise UserError(
                f"quadrature finds mass {mass.sum():.9g} of {name}, not 1: its cells do not resolve it; "
                "give Grid(x, density) or samples."
            )
    return _table(x[:, None], mass_p, mass_q, method, r)


def _drawn(p: Distribution, q: Distribution, draws: int, seed: int, method: str) -> LogRatio:
    x_p, x_q = p.draw(draws, seed), q.draw(draws, seed + 1)  # type: ignore[union-attr]
    r_p, r_q = (p.log_density(x) - q.log_density(x) for x in (x_p, x_q))  # type: ignore[union-attr]
    mass = np.full(draws, 1 / draws)
    return LogRatio(x_p, mass, r_p, x_q, mass, r_q, method, random=True)


# -------------------------------------------------------------------------------------------------- the divergences
_IN_TERMS_OF_R: dict[str, tuple[Callable[[Array], Array], Callable[[Array], Array]]] = {
    "kl": (lambda r: r, lambda r: np.zeros_like(r)),
    "jsd": (lambda r: (LOG2 - np.logaddexp(0, -r)) / 2, lambda r: (LOG2 - np.logaddexp(0, r)) / 2),
    "tv": (lambda r: np.abs(np.tanh(r / 2)) / 2, lambda r: np.abs(np.tanh(r / 2)) / 2),
}


def estimate(
    divergence: Literal["kl", "jsd", "tv"],
    p: Any,
    q: Any,
    *,
    estimator: Estimator = "kernel",
    draws: int = 65_536,
    seed: int = 0,
    analytic: bool = True,
) -> Estimate:
    """A divergence with its standard error and the method used.

    KL between torch distributions uses torch's closed form where one is registered (`analytic`); 1-D densities use a
    quadrature (about 1e-9 for smooth ones); other torch distributions Monte Carlo with `draws` points of each.
    """
    if divergence not in _IN_TERMS_OF_R:
        raise unknown("divergence", divergence, _IN_TERMS_OF_R)
    first, second = pair(p, q)
    if (
        divergence == "kl"
        and analytic
        and isinstance(first, Density)
        and isinstance(second, Density)
        and first.torch is not None
        and second.torch is not None
    ):
        try:
            return Estimate(float(torch.distributions.kl_divergence(first.torch, second.torch)), 0.0, "analytic")
        except NotImplementedError:
            pass
    ratio = log_ratio(first, second, estimator=estimator, draws=draws, seed=seed)
    return ratio.expectation(*_IN_TERMS_OF_R[divergence])


def kl(p: Any, q: Any, **how: Unpack[How]) -> float:
    """Kullback-Leibler divergence KL(p||q) = integral p log(p/q), in nats; inf where q misses mass of p.

    p, q: Grid, Piecewise, samples, torch distributions or Density. Options: see `estimate`, which also gives the error.
    """
    return estimate("kl", p, q, **how).value


def jsd(p: Any, q: Any, **how: Unpack[How]) -> float:
    """Jensen-Shannon divergence 1/2 KL(p||m) + 1/2 KL(q||m), m = (p+q)/2, in nats: 0 iff p = q, log 2 iff disjoint."""
    return estimate("jsd", p, q, **how).value


js = jsd


def tv(p: Any, q: Any, **how: Unpack[How]) -> float:
    """Total variation 1/2 integral |p - q|: the largest difference of probability of any event; 1 iff disjoint."""
    return estimate("tv", p, q, **how).value


# ---------------------------------------------------------------------------------------------------- inequalities
@dataclass(frozen=True)
class Inequality:
    """left <= right, with the case where both are equal in words."""

    name: str
    left: float
    right: float
    equality: str

    def holds(self, tolerance: float = 1e-9) -> bool:
        return self.left <= self.right + tolerance

    @property
    def tight(self) -> bool:
        return math.isclose(self.left, self.right, rel_tol=1e-9, abs_tol=1e-9)


def bounds(p: Any, q: Any, **how: Unpack[How]) -> tuple[Inequality, ...]:
    """The inequalities between KL, JSD, TV and W1, with both sides measured on p and q (options: see `estimate`).

    Pinsker TV <= sqrt(KL/2); JSD <= log 2 * TV; TV^2/2 <= JSD (Pinsker on both halves); W1 <= diam * TV.
    """
    from saddlepoint.theory.transport import w1  # transport stands on this module

    variation, divergence, shannon = tv(p, q, **how), kl(p, q, **how), jsd(p, q, **how)
    diameter = support_diameter(p, q)
    reach = diameter * variation if variation > 0 else 0.0
    return (
        Inequality("TV <= sqrt(KL/2)", variation, math.sqrt(max(divergence, 0) / 2), "p = q; nearly, when p is near q"),
        Inequality("JSD <= log 2 * TV", shannon, LOG2 * variation, "almost everywhere p = q or one of them is 0"),
        Inequality("TV^2/2 <= JSD", variation**2 / 2, shannon, "p = q; nearly, for coins 1/2 +- epsilon"),
        Inequality("W1 <= diam * TV", w1(p, q), reach, "what differs sits at a diameter's two ends"),
    )


def support_diameter(p: Any, q: Any) -> float:
    """Diameter of the union of both supports; inf for densities on the line that are not Piecewise.

    Above 2,000 points in n dimensions the bounding box's diagonal, which is larger.
    """
    points = []
    for dist in pair(p, q):
        if isinstance(dist, Piecewise):
            used = dist.heights > 0
            points.append(np.concatenate([dist.edges[:-1][used], dist.edges[1:][used]])[:, None])
        elif isinstance(dist, Grid):
            points.append(dist.points[dist.density.ravel() > 0])
        elif isinstance(dist, Samples):
            points.append(dist.x[dist.mass > 0])
        elif dist.atoms is not None:
            points.append(dist.atoms)
        else:
            return math.inf
    every = np.concatenate(points)
    if len(every) > 2000 or every.shape[1] == 1:
        return float(np.linalg.norm(np.ptp(every, axis=0)))
    return float(pdist(every).max())


# ---------------------------------------------------------------------------------------- closed forms for Gaussians
def gaussian_kl(mean_p: float, std_p: float, mean_q: float, std_q: float) -> float:
    """KL(N(mean_p, std_p^2) || N(mean_q, std_q^2)); with unit deviations at distance d it is d^2/2."""
    return math.log(std_q / std_p) + (std_p**2 + (mean_p - mean_q) ** 2) / (2 * std_q**2) - 0.5


def gaussian_w1(mean_p: float, std_p: float, mean_q: float, std_q: float) -> float:
    """W1 = E|a + bZ|, a and b the differences of means and deviations (the coupling is affine); |a| if b = 0."""
    a, b = abs(mean_p - mean_q), abs(std_p - std_q)
    if b == 0:
        return a
    return b * math.sqrt(2 / math.pi) * math.exp(-((a / b) ** 2) / 2) + a * math.erf(a / (b * math.sqrt(2)))


def gaussian_tv(distance: float, std: float = 1.0) -> float:
    """TV of two Gaussians of equal deviation at `distance`: erf(distance / (2 sqrt 2 std))."""
    return math.erf(distance / (2 * math.sqrt(2) * std))


def gaussian_jsd(distance: float, std: float = 1.0) -> float:
    """JSD of two Gaussians of equal deviation at `distance`; it has no closed form: quadrature of the definition."""
    d = distance / std
    normal = torch.distributions.Normal
    zero, one = torch.zeros((), dtype=torch.float64), torch.ones((), dtype=torch.float64)
    return jsd(normal(zero, one), normal(zero + d, one))
