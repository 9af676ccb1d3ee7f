"""Probability distributions as the theory takes them: a density on a grid (`Grid`), a piecewise-constant density
(`Piecewise`), samples (`Samples`, or just an array), a `torch.distributions` object, or a log-density of your own
(`Density`).

Each knows its dimension and its log-density (samples: that of their kernel estimate); `as_distribution` reads whatever
a function of `saddlepoint.theory` was given. Masses must be 1: another one is an error, not a silent division.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import InitVar, dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from scipy import stats
from scipy.interpolate import RegularGridInterpolator
from torch.distributions import Distribution as TorchDistribution

from saddlepoint.errors import UserError

Array: TypeAlias = npt.NDArray[np.float64]
ArrayLike: TypeAlias = "npt.ArrayLike | torch.Tensor"

MASS_TOLERANCE = 1e-6


# ------------------------------------------------------------------------------------------------ ways to give one
def as_array(x: ArrayLike, name: str = "samples") -> Array:
    """A float64 numpy array of `x` (list, array, tensor, on any device); UserError if it holds NaN or infinity."""
    raw = x.detach().cpu().numpy() if isinstance(x, torch.Tensor) else x
    array = np.asarray(raw, dtype=np.float64)
    bad = array.size - int(np.count_nonzero(np.isfinite(array)))
    if bad:
        raise UserError(f"{name}: {bad} of {array.size} values are NaN or infinite; finite numbers are expected.")
    return array


def checked_mass(kind: str, mass: float, normalise: bool) -> float:
    """The divisor that makes the mass 1; UserError naming the mass when it is not 1 and `normalise` is off."""
    if not mass > 0:
        raise UserError(f"{kind} has mass {mass:g}; a positive mass is expected.")
    if not normalise and abs(mass - 1) > MASS_TOLERANCE:
        raise UserError(f"{kind} has mass {mass:.9g}, not 1; pass normalise=True to divide by it.")
    return mass


def _non_negative(kind: str, values: Array) -> None:
    if values.size == 0 or values.min() < 0:
        raise UserError(
            f"{kind}: expected non-negative values, at least one; got {values.size}, "
            f"the smallest {values.min() if values.size else float('nan'):g}."
        )


def _increasing(kind: str, values: Array) -> None:
    if values.ndim != 1 or values.size < 2 or not (np.diff(values) > 0).all():
        raise UserError(f"{kind}: expected at least two strictly increasing numbers; got shape {values.shape}.")


@dataclass(frozen=True)
class Grid:
    """Density values on a grid: `x` of shape [n] with density [n], or axes (x, y) with density [n, m] at (x_i, y_j).

    Integrals are trapezoid sums, so the grid is also the atomic measure with mass density * cell at each point; W1 is
    that measure's. Raises UserError when the mass is not 1 (tolerance 1e-6); `normalise=True` divides by it.
    """

    x: Any
    density: Array
    normalise: InitVar[bool] = False

    def __post_init__(self, normalise: bool) -> None:
        axes = tuple(as_array(a, "Grid axis") for a in (self.x if isinstance(self.x, tuple) else (self.x,)))
        density = as_array(self.density, "Grid density")
        for axis in axes:
            _increasing("Grid axis", axis)
        if density.shape != tuple(len(a) for a in axes) or len(axes) > 2:
            raise UserError(f"Grid density has shape {density.shape}; the axes ask for {tuple(len(a) for a in axes)}.")
        _non_negative("Grid density", density)
        object.__setattr__(self, "x", axes if len(axes) > 1 else axes[0])
        mass = checked_mass("Grid density", float((density * self.cells).sum()), normalise)
        object.__setattr__(self, "density", density / mass if normalise else density)

    @property
    def axes(self) -> tuple[Array, ...]:
        return self.x if isinstance(self.x, tuple) else (self.x,)

    @property
    def dim(self) -> int:
        return len(self.axes)

    @property
    def cells(self) -> Array:
        """Trapezoid weights, the shape of the density."""
        widths = [np.convolve(np.diff(a), [0.5, 0.5]) for a in self.axes]
        return widths[0] if self.dim == 1 else np.multiply.outer(widths[0], widths[1])

    @property
    def points(self) -> Array:
        """All grid points, [n, dim], in the order of `density.ravel()`."""
        return np.stack([m.ravel() for m in np.meshgrid(*self.axes, indexing="ij")], axis=1)

    def log_density(self, x: Array) -> Array:
        """Log of the (bi)linear interpolation at x [n, dim]; -inf outside the grid."""
        inside = RegularGridInterpolator(self.axes, self.density, bounds_error=False, fill_value=0.0)
        return logarithm(np.asarray(inside(x)))

    def same_axes(self, other: Grid) -> bool:
        return self.dim == other.dim and all(map(np.array_equal, self.axes, other.axes))


@dataclass(frozen=True)
class Piecewise:
    """Piecewise-constant density on the line: `heights[i]` on [edges[i], edges[i+1]). Everything about it is exact.

    Raises UserError when the mass is not 1; `normalise=True` divides by it.
    """

    edges: Array
    heights: Array
    normalise: InitVar[bool] = False
    dim = 1

    def __post_init__(self, normalise: bool) -> None:
        edges, heights = as_array(self.edges, "Piecewise edges"), as_array(self.heights, "Piecewise heights")
        _increasing("Piecewise edges", edges)
        _non_negative("Piecewise heights", heights)
        if heights.shape != (len(edges) - 1,):
            raise UserError(f"Piecewise: {len(edges)} edges ask for {len(edges) - 1} heights; got {heights.shape}.")
        mass = checked_mass("Piecewise density", float(heights @ np.diff(edges)), normalise)
        object.__setattr__(self, "edges", edges)
        object.__setattr__(self, "heights", heights / mass if normalise else heights)

    @classmethod
    def sum_of(cls, *bars: tuple[float, float, float], normalise: bool = False) -> Piecewise:
        """The density sum_k height_k * 1_[a_k, b_k] from triples (height, a, b), as the lecture writes it."""
        if not bars or any(not b > a for _, a, b in bars):
            raise UserError(f"Piecewise.sum_of: expected triples (height, a, b) with a < b; got {bars}.")
        edges = np.unique([end for _, a, b in bars for end in (a, b)])
        middle = (edges[1:] + edges[:-1]) / 2
        heights = sum((h * ((a < middle) & (middle < b)) for h, a, b in bars), np.zeros(len(middle)))
        return cls(edges, heights, normalise=normalise)

    @property
    def mass(self) -> Array:
        """Mass of each piece, [k]."""
        return self.heights * np.diff(self.edges)

    def cdf(self, x: Array) -> Array:
        return np.interp(x, self.edges, np.concatenate([[0.0], np.cumsum(self.mass)]))

    def log_density(self, x: Array) -> Array:
        """log p at x [n, 1]; -inf outside the edges. On an edge, the piece to its right."""
        at = np.searchsorted(self.edges, x[:, 0], side="right") - 1
        inside = (x[:, 0] >= self.edges[0]) & (x[:, 0] <= self.edges[-1])
        return np.where(inside, logarithm(self.heights)[np.clip(at, 0, len(self.heights) - 1)], -np.inf)


@dataclass(frozen=True)
class Samples:
    """Samples [n] or [n, dim] (stored [n, dim]), with optional weights [n].

    Raises UserError when the weights' sum is not 1; `normalise=True` divides by it.
    """

    x: Array
    weights: Array | None = None
    normalise: InitVar[bool] = False

    def __post_init__(self, normalise: bool) -> None:
        x = as_array(self.x)
        if x.ndim not in (1, 2) or x.size == 0:
            raise UserError(f"samples: expected shape [n] or [n, dim], n > 0; got {x.shape}.")
        object.__setattr__(self, "x", x.reshape(len(x), -1))
        if self.weights is not None:
            weights = as_array(self.weights, "sample weights")
            _non_negative("sample weights", weights)
            if weights.shape != (len(x),):
                raise UserError(f"sample weights: expected shape {(len(x),)}; got {weights.shape}.")
            mass = checked_mass("sample weights", float(weights.sum()), normalise)
            object.__setattr__(self, "weights", weights / mass)

    @property
    def dim(self) -> int:
        return int(self.x.shape[1])

    @property
    def mass(self) -> Array:
        return np.full(len(self.x), 1 / len(self.x)) if self.weights is None else self.weights

    def kernel(self) -> Density:
        """Gaussian kernel density estimate, Scott's bandwidth n_eff^(-1/(dim+4)) times the sample covariance."""
        try:
            kde = stats.gaussian_kde(self.x.T, weights=self.weights)
        except (np.linalg.LinAlgError, ValueError) as error:
            raise UserError(
                f"samples: no kernel estimate of {self.x.shape[0]} points in {self.dim} dimensions whose "
                "covariance is singular; use estimator='atoms' or drop the constant directions."
            ) from error
        edges = None
        if self.dim == 1:
            width = float(np.sqrt(kde.covariance[0, 0]))
            low, high = self.x.min() - 12 * width, self.x.max() + 12 * width
            edges = np.linspace(low, high, min(20_000, math.ceil((high - low) / width)) + 1)
        return Density(
            self.dim,
            _kernel_log_density(self.x, self.mass, np.linalg.cholesky(kde.covariance)),
            lambda n, seed: np.asarray(kde.resample(n, seed=seed)).T,
            edges=edges,
        )


def _kernel_log_density(centres: Array, mass: Array, root: Array) -> Callable[[Array], Array]:
    """x -> log sum_i mass_i N(x; centre_i, root root'), as a log-sum-exp over blocks of at most 4 million pairs."""
    white = torch.from_numpy(np.linalg.solve(root, centres.T).T.copy())
    log_mass = torch.from_numpy(logarithm(mass))
    exactly = "donot_use_mm_for_euclid_dist"  # the matrix-product form loses the digits of close points
    constant = float(np.log(np.diag(root)).sum()) + centres.shape[1] / 2 * math.log(2 * math.pi)

    def log_density(x: Array) -> Array:
        points = torch.from_numpy(np.linalg.solve(root, x.T).T.copy())
        blocks = points.split(max(1, 4_000_000 // len(white)))
        squares = (torch.cdist(block, white, compute_mode=exactly).square() for block in blocks)
        return np.asarray(torch.cat([torch.logsumexp(log_mass - s / 2, dim=1) for s in squares]).numpy() - constant)

    return log_density


@dataclass(frozen=True)
class Density:
    """A distribution known by its log-density: what torch distributions and kernel estimates become.

    log_density maps [n, dim] to [n]; draw(n, seed) gives [n, dim]; `edges` are the cells of a 1-D quadrature that
    resolves the density; `atoms` [n, dim] are the points of a discrete distribution. Without either, expectations are
    Monte Carlo.
    """

    dim: int
    log_density: Callable[[Array], Array]
    draw: Callable[[int, int], Array]
    edges: Array | None = None
    atoms: Array | None = None
    torch: TorchDistribution | None = None


Distribution: TypeAlias = Grid | Piecewise | Samples | Density


def as_distribution(p: Any) -> Distribution:
    """`p` in one of the four forms: arrays, tensors and lists are samples, torch distributions become a `Density`."""
    if isinstance(p, Grid | Piecewise | Samples | Density):
        return p
    if isinstance(p, TorchDistribution):
        return _from_torch(p)
    if isinstance(p, np.ndarray | torch.Tensor | Sequence) and not isinstance(p, str):
        return Samples(p)  # type: ignore[arg-type]
    raise UserError(
        f"cannot read a distribution from {type(p).__name__}; give Grid(x, density), "
        "Piecewise(edges, heights), samples as an array, or a torch.distributions object."
    )


def pair(p: Any, q: Any) -> tuple[Distribution, Distribution]:
    """Both arguments as distributions of the same dimension."""
    first, second = as_distribution(p), as_distribution(q)
    if first.dim != second.dim:
        raise UserError(f"p lives in {first.dim} dimensions and q in {second.dim}; the same number is expected.")
    return first, second


# ------------------------------------------------------------------------------------------- torch distributions
def _from_torch(dist: TorchDistribution) -> Density:
    if tuple(dist.batch_shape) or len(dist.event_shape) > 1:
        raise UserError(
            f"{type(dist).__name__} has batch shape {tuple(dist.batch_shape)} and event shape "
            f"{tuple(dist.event_shape)}; one distribution over numbers or vectors is expected "
            "(torch.distributions.Independent turns batch axes into event axes)."
        )
    scalar = len(dist.event_shape) == 0

    def log_density(x: Array) -> Array:
        point = torch.from_numpy(x[:, 0]).to(like.device) if scalar else torch.from_numpy(x).to(like)
        return _masked_log_prob(dist, point).double().detach().cpu().numpy()

    def draw(n: int, seed: int) -> Array:
        return _seeded_sample(dist, n, seed).double().cpu().numpy().reshape(n, -1)

    like = _seeded_sample(dist, 1, 0)
    dim = 1 if scalar else int(dist.event_shape[0])
    support: Any = dist.support
    if support.is_discrete:
        return Density(dim, log_density, draw, atoms=_torch_atoms(dist, dim), torch=dist)
    return Density(dim, log_density, draw, edges=torch_edges(dist) if scalar else None, torch=dist)


def _torch_atoms(dist: TorchDistribution, dim: int) -> Array | None:
    """The points of a discrete distribution [n, dim]: all of them, or whole numbers up to 60 deviations (mass 1 - 1e-20
    for Poisson and geometric ones); None for vectors that torch cannot list."""
    if dist.has_enumerate_support:
        try:
            return dist.enumerate_support(expand=False).double().cpu().numpy().reshape(-1, dim)
        except NotImplementedError:
            return None
    if dim > 1:
        return None
    centre, scale = _centre_and_scale(dist)
    return np.arange(math.ceil(float(centre + 60 * scale)) + 60, dtype=np.float64)[:, None]


def _seeded_sample(dist: TorchDistribution, n: int, seed: int) -> torch.Tensor:
    """n draws that depend on the seed alone; the global random state is left as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return dist.sample(torch.Size((n,)))


def _masked_log_prob(dist: TorchDistribution, x: torch.Tensor) -> torch.Tensor:
    """log_prob with -inf outside the support, where torch raises; in a mixture, component by component (the support
    that torch states for a mixture is the intersection of its components')."""
    events = len(dist.event_shape)
    if isinstance(dist, torch.distributions.MixtureSameFamily):
        parts = _masked_log_prob(dist.component_distribution, x.unsqueeze(-1 - events))
        return torch.logsumexp(dist.mixture_distribution.logits + parts, dim=-1)
    support: Any = dist.support
    inside = support.check(x)
    allowed = _seeded_sample(dist, 1, 0)[0].to(x.dtype)
    safe = torch.where(inside.reshape(inside.shape + (1,) * events), x, allowed)
    return torch.where(inside, dist.log_prob(safe), -math.inf)


def torch_edges(dist: TorchDistribution) -> Array:
    """Cells that resolve a 1-D torch distribution: fine within 12 scales of its centre, then growing by 5 % out to 1e8
    scales, and shrinking geometrically towards finite ends of the support (densities may be infinite there)."""
    parts = dist.component_distribution if isinstance(dist, torch.distributions.MixtureSameFamily) else dist
    centre, scale = _centre_and_scale(parts)
    low = torch.as_tensor(getattr(parts.support, "lower_bound", -math.inf)).double().cpu()
    high = torch.as_tensor(getattr(parts.support, "upper_bound", math.inf)).double().cpu()
    tail = 12 * 1.05 ** np.arange(1, 328)
    steps = np.concatenate([-tail[::-1], np.arange(-768, 769) / 64, tail])
    shrink = 2.0 ** (-np.arange(240) / 4)
    found = []
    for c, s, lo, hi in np.stack(np.broadcast_arrays(centre, scale, low.numpy(), high.numpy())).reshape(4, -1).T:
        x = c + s * steps
        for end, inward in ((lo, 1), (hi, -1)):
            if np.isfinite(end):
                near = s * shrink[s * shrink > 1024 * np.spacing(abs(end))]
                x = np.concatenate([x, end + inward * near, [end]])
        found.append(x[(x >= lo) & (x <= hi)])
    return np.unique(np.concatenate(found))


def _centre_and_scale(dist: Any) -> tuple[Array, Array]:
    """Where a torch distribution (or each component) lies and how wide it is, by the first pair that is finite."""

    def finite(pair: Callable[[], tuple[Any, Any]]) -> tuple[Array, Array] | None:
        try:
            centre, scale = (torch.as_tensor(v).double().detach().cpu().numpy() for v in pair())
        except (NotImplementedError, AttributeError, RuntimeError):
            return None
        return (centre, scale) if np.isfinite(centre).all() and np.isfinite(scale).all() and (scale > 0).all() else None

    half, quarter = torch.tensor(0.5), torch.tensor(0.25)
    found = (
        finite(lambda: (dist.mean, dist.stddev))
        or finite(lambda: (dist.icdf(half), dist.icdf(1 - quarter) - dist.icdf(quarter)))
        or finite(lambda: (dist.loc, dist.scale))
        or finite(lambda: (0.0, dist.scale))
    )
    if found is None:
        raise UserError(
            f"{type(dist).__name__} states no finite mean and spread to place a quadrature by; give Grid(x, density)."
        )
    return found


# -------------------------------------------------------------------------------------------------------- numbers
def gauss_nodes(edges: Array, order: int = 4) -> tuple[Array, Array]:
    """Gauss-Legendre nodes and weights in every cell of `edges` [k+1]: two arrays [k * order]."""
    node, weight = np.polynomial.legendre.leggauss(order)
    half = np.diff(edges)[:, None] / 2
    return (edges[:-1, None] + half * (1 + node)).ravel(), (half * weight).ravel()


def logarithm(x: Array) -> Array:
    with np.errstate(divide="ignore"):
        return np.log(x)
