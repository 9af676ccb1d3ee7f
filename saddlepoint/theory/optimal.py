"""The GAN game with the discriminator played out: its value, the optimal discriminator, and when it saturates.

    V(d, p, q) = E_p[log d(x)] + E_q[log(1 - d(x))]     d maximises, the generator's q minimises
    d*(x) = p(x) / (p(x) + q(x))                        pointwise: a log y + b log(1 - y) is maximal at y = a / (a + b)
    V(d*, p, q) = 2 JSD(p||q) - log 4                   between -log 4 (iff p = q) and 0 (iff disjoint supports)
    V(d, p, q) / 2 + log 2 <= JSD(p||q)                 for every other d: what a trained discriminator proves

Sources: Goodfellow et al. 2014 (arXiv:1406.2661), equation 1, proposition 1, theorem 1; Arjovsky & Bottou 2017
(arXiv:1701.04862) for saturation; Mescheder et al. 2018 (arXiv:1801.04406), equation 1, for the form with f(t).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import numpy as np
import torch
from torch import nn

from saddlepoint.errors import UserError, unknown
from saddlepoint.theory.distributions import (
    Array,
    Density,
    Distribution,
    Grid,
    Piecewise,
    Samples,
    as_array,
    gauss_nodes,
    pair,
)
from saddlepoint.theory.divergences import LOG2, Estimate, estimate, log_ratio

LOG4 = 2 * LOG2
Points: TypeAlias = tuple[Array, Array]  # points [n, dim] and their masses [n]
Function: TypeAlias = "Callable[[Any], Any] | float | Array"


# ------------------------------------------------------------------------------------------------------ value function
def value(d: Function, p: Any, q: Any, *, draws: int = 65_536, seed: int = 0) -> float:
    """V(d, p, q) = E_p[log d] + E_q[log(1 - d)], with d in [0, 1]. Source: Goodfellow et al. 2014, equation 1.

    d: a function of points ([n] on the line, [n, dim] otherwise), a torch module, one number, or its values on the
    common grid of p and q. p, q: Grid, Piecewise, samples (their means) or torch distributions. UserError if d leaves
    [0, 1].
    """
    if isinstance(d, OptimalDiscriminator | ClassifierDiscriminator):
        return game_value(d.logit, p, q, draws=draws, seed=seed)  # far out, d and 1 - d round to 0 and 1; logits do not
    (x_p, mass_p), (x_q, mass_q) = expectation_points(p, q, draws, seed)
    real, fake = values_at(d, p, x_p), values_at(d, q, x_q)
    if min(real.min(), fake.min()) < 0 or max(real.max(), fake.max()) > 1:
        raise UserError(
            f"d takes values from {min(real.min(), fake.min()):g} to {max(real.max(), fake.max()):g}; "
            "probabilities in [0, 1] are expected (for logits use game_value)."
        )
    with np.errstate(divide="ignore"):
        return float(mass_p @ np.log(real) + mass_q @ np.log1p(-fake))


def game_value(
    logit: Function, p: Any, q: Any, f: Callable[[Array], Array] | None = None, *, draws: int = 65_536, seed: int = 0
) -> float:
    """The general form E_p[f(t(x))] + E_q[f(-t(x))] of a discriminator's logit t (large on real data), to be maximised.

    f(t) = -log(1 + exp(-t)), the default, gives V(sigmoid(t)); f(t) = t gives the Wasserstein critic's E_p t - E_q t.
    Mescheder et al. 2018, equation 1, write it with the opposite sign of t: E_q[f(D)] + E_p[f(-D)].
    """
    (x_p, mass_p), (x_q, mass_q) = expectation_points(p, q, draws, seed)
    apply = log_sigmoid if f is None else f
    return float(mass_p @ apply(values_at(logit, p, x_p)) + mass_q @ apply(-values_at(logit, q, x_q)))


def log_sigmoid(t: Array) -> Array:
    """-log(1 + exp(-t)), without overflow."""
    return np.asarray(-np.logaddexp(0, -t))


def expectation_points(p: Any, q: Any, draws: int = 65_536, seed: int = 0) -> tuple[Points, Points]:
    """Points [n, dim] and masses [n] under p and under q: of samples themselves, of densities their quadrature or
    draws."""
    first, second = pair(p, q)
    if isinstance(first, Samples) and isinstance(second, Samples):
        return (first.x, first.mass), (second.x, second.mass)
    if not (isinstance(first, Samples) or isinstance(second, Samples)):
        both = log_ratio(first, second, draws=draws, seed=seed)
        return (both.x_p, both.mass_p), (both.x_q, both.mass_q)
    return _own_points(first, draws, seed), _own_points(second, draws, seed)


def _own_points(p: Distribution, draws: int, seed: int) -> Points:
    if isinstance(p, Samples):
        return p.x, p.mass
    alone = log_ratio(p, p, draws=draws, seed=seed)
    return alone.x_p, alone.mass_p


def values_at(d: Function, p: Any, x: Array) -> Array:
    """d at points x [n, dim] of p, [n]: an array is read at the grid points that carry mass of p."""
    if isinstance(d, nn.Module):
        weight = next(d.parameters(), torch.zeros(()))
        with torch.no_grad():
            return _numbers(d(torch.from_numpy(x).to(weight)), len(x))
    if callable(d):
        return _numbers(d(x[:, 0] if x.shape[1] == 1 else x), len(x))
    array = as_array(d, "d")
    if array.ndim == 0:
        return np.full(len(x), float(array))
    if not isinstance(p, Grid) or array.shape != p.density.shape:
        raise UserError(
            f"d is an array of shape {array.shape}: p and q must be Grids with densities of that shape; "
            "give a function otherwise."
        )
    return np.asarray(array[p.density * p.cells > 0])


def _numbers(out: Any, n: int) -> Array:
    """What a function returned, as [n] floats; infinite logits are meant (p or q is 0 there), NaN is not."""
    array = np.asarray(out.detach().cpu() if isinstance(out, torch.Tensor) else out, dtype=np.float64).reshape(-1)
    if len(array) not in (1, n) or np.isnan(array).any():
        raise UserError(f"d gave {len(array)} values, {np.isnan(array).sum()} of them NaN, at {n} points.")
    return np.broadcast_to(array, (n,))


def _rows(points: Array, dim: int) -> tuple[int, ...]:
    """The shape of one number per point: points on the line may come as [...] or as [..., 1] with two axes or more."""
    return points.shape if dim == 1 and (points.ndim < 2 or points.shape[-1] != 1) else points.shape[:-1]


# -------------------------------------------------------------------------------------------- optimal discriminator
@dataclass(frozen=True)
class OptimalDiscriminator:
    """d*(x) = p / (p + q), from points [n] on the line ([n, dim] otherwise) to [n]; 1/2 where neither has mass.

    On a common grid `values` (also `np.asarray(d)`) are d* at its points. `logit` is log p - log q.
    """

    log_p: Callable[[Array], Array]
    log_q: Callable[[Array], Array]
    dim: int = 1
    grid: Grid | None = None

    def logit(self, x: Any) -> Array:
        points = as_array(x, "points")
        flat = points.reshape(-1, self.dim)
        log_p, log_q = self.log_p(flat), self.log_q(flat)
        neither = np.isneginf(log_p) & np.isneginf(log_q)
        with np.errstate(invalid="ignore"):
            t = np.where(neither, 0.0, log_p - log_q)
        return t.reshape(_rows(points, self.dim))

    def __call__(self, x: Any) -> Array:
        return np.exp(log_sigmoid(self.logit(x)))

    @property
    def values(self) -> Array:
        if self.grid is None:
            raise UserError("this discriminator is not on a grid; call it at points.")
        return self(self.grid.points).reshape(self.grid.density.shape)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Any:
        return np.asarray(self.values, dtype=dtype)


def optimal_discriminator(
    p: Any, q: Any, *, estimate: Literal["kernel", "classifier"] = "kernel", **options: Any
) -> OptimalDiscriminator | ClassifierDiscriminator:
    """d* = p / (p + q): exact for densities (Grid, Piecewise, torch distributions, plain density functions),
    estimated for samples by Gaussian kernels ("kernel") or by training a classifier on the GAN loss ("classifier",
    see its options).

    Source: Goodfellow et al. 2014, proposition 1.
    """
    if estimate == "classifier":
        return classifier_discriminator(p, q, **options)
    if estimate != "kernel":
        raise unknown("estimate of the optimal discriminator", estimate, ("kernel", "classifier"))
    if _is_function(p) and _is_function(q):
        return OptimalDiscriminator(_log_of(p), _log_of(q))
    first, second = (d.kernel() if isinstance(d, Samples) else d for d in pair(p, q))
    grid = next((d for d in (first, second) if isinstance(d, Grid)), None)
    if isinstance(first, Grid) and isinstance(second, Grid) and not first.same_axes(second):
        raise UserError("p and q are on different grids; evaluate both densities on one grid.")
    return OptimalDiscriminator(first.log_density, second.log_density, first.dim, grid)


def _is_function(p: Any) -> bool:
    return callable(p) and not isinstance(p, Grid | Piecewise | Samples | Density | torch.distributions.Distribution)


def _log_of(density: Callable[[Array], Array]) -> Callable[[Array], Array]:
    def log_density(x: Array) -> Array:
        with np.errstate(divide="ignore"):
            return np.log(as_array(density(x[:, 0]), "density"))

    return log_density


@dataclass(frozen=True)
class Minimax:
    """Both sides of V(d*, p, q) = 2 JSD(p||q) - log 4, computed separately."""

    value: float
    predicted: float

    @property
    def error(self) -> float:
        return abs(self.value - self.predicted)


def minimax_identity(p: Any, q: Any) -> Minimax:
    """Theorem 1 of Goodfellow et al. 2014 on given densities: V at p/(p+q) against the divergence's own quadrature."""
    return Minimax(value(optimal_discriminator(p, q), p, q), 2 * estimate("jsd", p, q).value - LOG4)


def jsd_lower_bound(d: Function, p: Any, q: Any, **how: int) -> float:
    """V(d, p, q)/2 + log 2 <= JSD(p||q): what any discriminator proves, with equality at d*; an estimate on samples."""
    return value(d, p, q, **how) / 2 + LOG2


# ------------------------------------------------------------------------------------------ classifiers, from data
@dataclass(frozen=True)
class ClassifierDiscriminator:
    """A classifier trained on the GAN loss, standing for d*. `value` is V where it was trained; `held_out` V on
    samples it never saw (an honest lower bound: held_out.value / 2 + log 2 <= JSD, up to its standard error), None
    for densities."""

    network: nn.Module
    centre: Array
    scale: Array
    value: float
    held_out: Estimate | None

    def logit(self, x: Any) -> Array:
        points = as_array(x, "points")
        flat = (points.reshape(-1, len(self.centre)) - self.centre) / self.scale
        with torch.no_grad():
            t = self.network(torch.from_numpy(flat)).numpy()
        return np.asarray(t.reshape(_rows(points, len(self.centre))))

    def __call__(self, x: Any) -> Array:
        return np.exp(log_sigmoid(self.logit(x)))


def classifier_discriminator(
    p: Any,
    q: Any,
    *,
    hidden: tuple[int, ...] = (32, 32),
    steps: int = 800,
    lr: float = 1e-2,
    weight_decay: float = 0.0,
    held_out_share: float = 0.25,
    seed: int = 0,
) -> ClassifierDiscriminator:
    """Maximise V over a network: hidden=() is logistic regression, otherwise a tanh MLP. Deterministic by seed
    (float64).

    Samples: full-batch Adam with a cosine schedule, on all but `held_out_share` of each set. Densities: the same on the
    quadrature of V itself, so the only error left is the network's.
    """
    first, second = pair(p, q)
    rng = np.random.default_rng(seed)
    (train_p, test_p), (train_q, test_q) = (
        _split(points, held_out_share if isinstance(each, Samples) else 0.0, rng)
        for points, each in zip(_training_points(first, second, seed), (first, second), strict=True)
    )
    x = np.concatenate([train_p[0], train_q[0]])
    masses = np.stack([np.concatenate([train_p[1], 0 * train_q[1]]), np.concatenate([0 * train_p[1], train_q[1]])])
    if np.array_equal(train_p[0], train_q[0]):  # one quadrature for both: half the work
        x, masses = train_p[0], np.stack([train_p[1], train_q[1]])
    mass = masses.mean(axis=0)
    centre = mass @ x
    scale = np.sqrt(mass @ (x - centre) ** 2)
    scale = np.where(scale > 0, scale, 1.0)
    network = _mlp(len(centre), hidden, seed)
    reached = _maximise(network, (x - centre) / scale, masses, steps, lr, weight_decay)
    fitted = ClassifierDiscriminator(network, centre, scale, reached, None)
    if not (len(test_p[0]) > 1 and len(test_q[0]) > 1):
        return fitted
    return ClassifierDiscriminator(network, centre, scale, reached, _held_out(fitted, test_p, test_q))


def _training_points(p: Distribution, q: Distribution, seed: int) -> tuple[Points, Points]:
    """Samples and grids as they are; other 1-D densities on 512 nodes where they carry mass; 8,192 draws in n-D."""
    (x_p, m_p), (x_q, m_q) = expectation_points(p, q, 8192, seed)
    if p.dim > 1 or any(
        isinstance(each, Samples | Grid) or (isinstance(each, Density) and each.edges is None) for each in (p, q)
    ):
        return (x_p, m_p), (x_q, m_q)
    used = np.concatenate([x[m > 1e-12] for x, m in ((x_p, m_p), (x_q, m_q))])
    x, weight = gauss_nodes(np.linspace(used.min(), used.max(), 257), 2)
    masses = [np.exp(each.log_density(x[:, None])) * weight for each in (p, q)]  # type: ignore[union-attr]
    return (x[:, None], masses[0] / masses[0].sum()), (x[:, None], masses[1] / masses[1].sum())


def _split(points: Points, share: float, rng: np.random.Generator) -> tuple[Points, Points]:
    """Training part and held-out part, each of mass 1."""
    x, mass = points
    order = rng.permutation(len(x)) if share else np.arange(len(x))
    cut = len(x) - int(share * len(x))
    parts = [(x[k], mass[k] / max(mass[k].sum(), 1e-300)) for k in (order[:cut], order[cut:])]
    return parts[0], parts[1]


def _mlp(dim: int, hidden: tuple[int, ...], seed: int) -> nn.Sequential:
    """dim - hidden (tanh) - 1 in float64, initialised from the seed alone; a straight Linear for hidden = ()."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        layers: list[nn.Module] = []
        for width in hidden:
            layers += [nn.Linear(dim, width, dtype=torch.float64), nn.Tanh()]
            dim = width
        return nn.Sequential(*layers, nn.Linear(dim, 1, dtype=torch.float64), nn.Flatten(0))


def _maximise(network: nn.Module, x: Array, masses: Array, steps: int, lr: float, weight_decay: float) -> float:
    """Full-batch Adam on -V = E_p softplus(-t) + E_q softplus(t) at points x [n, dim], masses [2, n]; returns V."""
    points, (real, fake) = torch.from_numpy(x), torch.from_numpy(masses)
    optimizer = torch.optim.Adam(network.parameters(), lr=lr)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)

    def negative_value() -> torch.Tensor:
        t = network(points)
        return real @ nn.functional.softplus(-t) + fake @ nn.functional.softplus(t)

    for _ in range(steps):
        optimizer.zero_grad()
        loss = negative_value()
        if weight_decay:
            loss = loss + weight_decay * torch.stack([w.square().sum() for w in network.parameters()]).sum()
        loss.backward()
        optimizer.step()
        schedule.step()
    with torch.no_grad():
        return -float(negative_value())


def _held_out(d: ClassifierDiscriminator, real: Points, fake: Points) -> Estimate:
    total, variance = 0.0, 0.0
    for sign, (x, mass) in ((1, real), (-1, fake)):
        terms = log_sigmoid(sign * d.logit(x))
        mean = float(mass @ terms)
        total += mean
        variance += float(mass**2 @ (terms - mean) ** 2)
    return Estimate(total, math.sqrt(variance), "held-out samples")


# ------------------------------------------------------------------------------------------------------- saturation
def saturating_gradient(logit: Any) -> Array:
    """d/dt log(1 - sigmoid(t)) = -sigmoid(t): vanishes as d grows sure that the sample is fake (t -> -inf)."""
    return -np.exp(log_sigmoid(as_array(logit, "logit")))


def non_saturating_gradient(logit: Any) -> Array:
    """d/dt -log sigmoid(t) = -(1 - sigmoid(t)): tends to -1 as t -> -inf. Same sign and fixed points as saturating."""
    return -np.exp(log_sigmoid(-as_array(logit, "logit")))


def generator_gradients(logit: Any) -> dict[str, Array]:
    """Both generator losses and their slopes in the logit t of a fake, for drawing them side by side."""
    t = as_array(logit, "logit")
    return {
        "saturating_loss": log_sigmoid(-t),
        "saturating_gradient": saturating_gradient(t),
        "non_saturating_loss": -log_sigmoid(t),
        "non_saturating_gradient": non_saturating_gradient(t),
    }
