"""Point sets of known density, on the plane and on the line: the targets of toy games. No torch until points are drawn.

Every set is `radius` times a unit shape plus Gaussian noise of standard deviation `sigma`, so both can be chosen. Point
number i is a pure function of (seed, i): any slice of any batch can be had again, by any process, in any order.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from saddlepoint.errors import UserError, unknown

if TYPE_CHECKING:
    from torch import Tensor

    from saddlepoint.recipes.base import Recipe

Array = NDArray[np.float64]
Curve = Callable[[Array, Array], Array]  # (t, which) uniform in [0, 1), [n] each -> points of the unit shape [n, dims]


@dataclass(frozen=True)
class PointSet:
    """One target. With `unit_centres` it is a mixture of equal isotropic Gaussians, else noise around a curve."""

    name: str
    summary: str
    radius: float
    sigma: float
    unit_centres: tuple[tuple[float, ...], ...] = ()
    curve: Curve | None = None

    @property
    def dimensions(self) -> int:
        """Coordinates of a point."""
        return len(self.unit_centres[0]) if self.unit_centres else 2

    @property
    def modes(self) -> int:
        """Number of Gaussians; 0 for a curve."""
        return len(self.unit_centres)

    @property
    def centres(self) -> Array:
        """Centres of the Gaussians [modes, dimensions]; none for a curve."""
        return self.radius * np.array(self.unit_centres, dtype=np.float64).reshape(self.modes, self.dimensions)

    def points(self, first: int, n: int, seed: int = 0, *, balanced: bool = False) -> Array:
        """Points number first ... first + n - 1, [n, dimensions].

        balanced: mode i mod K instead of a random one, so that a batch of a multiple of K has each as often (mixtures).
        """
        place = np.arange(first, first + n, dtype=np.uint64)
        if self.curve is not None:
            shape = self.curve(_uniform(seed, 0, place), _uniform(seed, 1, place))
        else:
            mode = place % np.uint64(self.modes) if balanced else self.modes * _uniform(seed, 0, place)
            shape = np.array(self.unit_centres)[mode.astype(np.int64)]
        noise = [_normal(seed, 2 + axis, place) for axis in range(self.dimensions)]
        return np.asarray(self.radius * shape + self.sigma * np.stack(noise, 1))

    def density(self, points: Any) -> Array:
        """p(x) of a mixture at points [..., dimensions]. A curve's density has no closed form: UserError."""
        if not self.modes:
            raise UserError(f"{self.name} has no density in closed form; mixtures have: {', '.join(_mixtures())}.")
        x = np.asarray(points, dtype=np.float64)
        squared = ((x[..., None, :] - self.centres) ** 2).sum(-1)  # [..., modes]
        scale = self.modes * (2 * math.pi * self.sigma**2) ** (self.dimensions / 2)
        return np.asarray(np.exp(-squared / (2 * self.sigma**2)).sum(-1) / scale)


# ---- random numbers: point i's are a function of (seed, use, i) alone
def _uniform(seed: int, use: int, place: NDArray[np.uint64]) -> Array:
    """Uniform in [0, 1) with 53 bits, [n]."""
    from .stream import _mix  # loads torch

    key = np.zeros(1, np.uint64)
    for part in (seed & 0xFFFFFFFFFFFFFFFF, use):
        key = _mix(key ^ np.array([part], np.uint64))
    return np.asarray((_mix(key ^ _mix(place)) >> np.uint64(11)).astype(np.float64) * 2.0**-53)


def _normal(seed: int, axis: int, place: NDArray[np.uint64]) -> Array:
    """Standard normal by Box and Muller, [n]."""
    radius = np.sqrt(-2 * np.log1p(-_uniform(seed, 2 * axis, place)))
    return np.asarray(radius * np.cos(2 * np.pi * _uniform(seed, 2 * axis + 1, place)))


# ---- the unit shapes
def _ring(modes: int) -> tuple[tuple[float, float], ...]:
    """Distinct points at equal angles on the unit circle: the last is not the first again."""
    angles = [2 * math.pi * k / modes for k in range(modes)]
    return tuple((math.cos(a), math.sin(a)) for a in angles)


def _grid(side: int) -> tuple[tuple[float, float], ...]:
    """side x side points with coordinates evenly spaced from -1 to 1."""
    places = [2 * k / (side - 1) - 1 for k in range(side)]
    return tuple((x, y) for y in places for x in places)


def _roll(t: Array, which: Array) -> Array:
    """scikit-learn's swiss roll without its depth: angle 1.5 pi (1 + 2 t), as far from 0 as the angle says."""
    angle = 1.5 * np.pi * (1 + 2 * t)
    return np.stack([angle * np.cos(angle), angle * np.sin(angle)], 1) / (4.5 * np.pi)


def _segment(t: Array, which: Array) -> Array:
    return np.stack([2 * t - 1, np.zeros_like(t)], 1)


def _circle(t: Array, which: Array) -> Array:
    return np.stack([np.cos(2 * np.pi * t), np.sin(2 * np.pi * t)], 1)


def _four_segments(t: Array, which: Array) -> Array:
    """The sides of a square without its corners: four segments of length 1.2 at distance 1 from the middle."""
    along, turns = 0.6 * (2 * t - 1), np.floor(4 * which)
    c, s = np.cos(np.pi / 2 * turns), np.sin(np.pi / 2 * turns)
    return np.stack([c - s * along, s + c * along], 1)


_SETS = (
    PointSet("ring", "8 Gaussians on a circle of radius 2, standard deviation 0.02", 2.0, 0.02, _ring(8)),
    PointSet("grid", "25 Gaussians, spacing 2, standard deviation 0.05", 4.0, 0.05, _grid(5)),
    PointSet(
        "swiss-roll", "the swiss roll seen from above, divided by 7.5", 4.5 * math.pi / 7.5, 0.25 / 7.5, curve=_roll
    ),
    PointSet("gaussian", "one standard Gaussian of the plane", 1.0, 1.0, ((0.0, 0.0),)),
    PointSet("segment", "uniform on a segment of length 2, no noise", 1.0, 0.0, curve=_segment),
    PointSet("circle", "uniform on the unit circle, no noise", 1.0, 0.0, curve=_circle),
    PointSet("four-segments", "uniform on four sides of a square without corners", 1.0, 0.0, curve=_four_segments),
    PointSet("gaussian-1d", "one standard Gaussian of the line", 1.0, 1.0, ((0.0,),)),
    PointSet("mixture-1d", "two Gaussians of the line, standard deviation 0.25", 1.0, 0.25, ((-1.0,), (1.0,))),
)  # fmt: skip
SETS: dict[str, PointSet] = {item.name: item for item in _SETS}


def _mixtures() -> list[str]:
    return [item.name for item in _SETS if item.modes]


def point_set(name: str, *, radius: float = 0.0, sigma: float = 0.0) -> PointSet:
    """The set of this name; a radius or sigma above 0 replaces its own. UserError for an unknown name."""
    if name not in SETS:
        raise unknown("point set", name, SETS)
    for label, value in (("radius", radius), ("sigma", sigma)):
        if not (math.isfinite(value) and value >= 0):
            raise UserError(f"{label} of {name} is {value:g}; expected 0 (the set's own) or more.")
    return replace(SETS[name], radius=radius or SETS[name].radius, sigma=sigma or SETS[name].sigma)


BLOCK = 4096  # points made at once: one call of NumPy per block instead of ten per batch


class Points:
    """The stream of a point set: {"point": float32 [length, dimensions]}, a pure function of the cursor."""

    def __init__(self, target: PointSet, seed: int = 0, *, balanced: bool = False) -> None:
        self.target, self.seed, self.balanced = target, seed, balanced
        self._blocks: dict[int, NDArray[np.float32]] = {}

    def _block(self, index: int) -> NDArray[np.float32]:
        known = self._blocks.get(index)
        if known is None:
            points = self.target.points(index * BLOCK, BLOCK, self.seed, balanced=self.balanced)
            known = points.astype(np.float32)
            self._blocks = dict([*list(self._blocks.items())[-1:], (index, known)])  # one assignment: threads may share
        return known

    def __call__(
        self, cursor: int, total: int, first: int, length: int, resolution: int | None = None
    ) -> dict[str, Tensor]:
        """Points cursor + first ... of the sequence. `resolution` means nothing here. ValueError outside the batch."""
        import torch

        if cursor < 0 or first < 0 or length < 1 or first + length > total:
            raise ValueError(f"slice {first}+{length} of a batch of {total} at {cursor}: outside the batch")
        start, parts = cursor + first, []
        while length > 0:
            index, offset = divmod(start, BLOCK)
            parts.append(self._block(index)[offset : offset + length])
            start, length = start + len(parts[-1]), length - len(parts[-1])
        return {"point": torch.from_numpy(np.concatenate(parts))}  # a copy: the block stays what it is


# ---- for recipes whose data are points
def of_recipe(recipe: Recipe) -> PointSet:
    """The point set that a recipe names, in the size that it asks for."""
    return point_set(recipe.data, radius=getattr(recipe, "radius", 0.0), sigma=getattr(recipe, "sigma", 0.0))


def resolve(recipe: Recipe) -> Recipe:
    """The recipe with the number of coordinates filled in. UserError for an unknown set."""
    changes: dict[str, Any] = {"dimensions": of_recipe(recipe).dimensions}
    return dataclasses.replace(recipe, **changes)


def source(recipe: Recipe) -> Points:
    """The stream that a recipe trains on."""
    return Points(of_recipe(recipe), recipe.seed, balanced=bool(getattr(recipe, "balanced", False)))
