"""Mode coverage: how much of a mixture of Gaussians a generator makes, counted sample by sample. No network, no torch.

The convention of VEEGAN (Srivastava et al. 2017, arXiv:1705.07761) and PacGAN (Lin et al. 2018, arXiv:1712.04086): draw
2,500 samples; a sample is *of high quality* within three standard deviations of its nearest centre; a mode counts as
covered from one such sample on. Stricter counts stand beside it, because one lucky sample in 2,500 is not a mode.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from saddlepoint.errors import UserError

Array = NDArray[np.float64]
SAMPLES = 2500  # what the published counts are made of
NEAR = 3.0  # standard deviations


@dataclass(frozen=True)
class ModeCoverage:
    """What `mode_coverage` counted. Shares are of all samples, 0 to 1."""

    samples: int
    of_modes: int
    modes: int
    """Modes with at least 1 high-quality sample."""
    modes_20: int
    """Modes with at least 20."""
    modes_1_percent: int
    """Modes with at least 1 % of all samples."""
    high_quality: float
    """Share of samples within three standard deviations of a centre; the mixture itself has `expected_share`."""
    kl: float
    """KL(histogram of high-quality samples over modes || uniform) in nats: 0 evenly, log K on one mode; NaN on none."""
    std_ratio: float
    """Spread of the high-quality samples inside modes, over that of the mixture cut at the same distance; NaN where no
    mode has two. Below 1 the modes are too thin.
    """
    counts: tuple[int, ...]
    """High-quality samples of each mode."""
    nearest: tuple[int, ...]
    """All samples by their nearest centre, however far: where the generator is, even when it makes nothing good."""

    def as_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON."""
        return {**asdict(self), "counts": list(self.counts), "nearest": list(self.nearest)}


def mode_coverage(points: Any, centres: Any, sigma: float, near: float = NEAR) -> ModeCoverage:
    """Count the modes of a mixture of equal isotropic Gaussians N(centre_k, sigma^2 I) that `points` cover.

    points: [N, d] samples of the generator, centres: [K, d]; arrays or CPU tensors. near: how many sigma are near.
    Raises UserError for shapes that do not fit, coinciding centres, or a sigma that is not above 0.
    """
    x, c = _matrix("points", points), _matrix("centres", centres)
    if x.shape[1] != c.shape[1]:
        raise UserError(f"points have {x.shape[1]} coordinates and centres {c.shape[1]}; expected the same number.")
    if not (math.isfinite(sigma) and sigma > 0):
        raise UserError(f"sigma is {sigma}; expected a standard deviation above 0.")
    if len(np.unique(c, axis=0)) < len(c):
        raise UserError("two centres coincide: their samples cannot be told apart.")
    n, k = len(x), len(c)
    finite: NDArray[np.bool_] = np.asarray(np.isfinite(x).all(1))  # the rest has no quality
    x = np.where(finite[:, None], x, 0.0)
    squared = (x**2).sum(1)[:, None] - 2 * x @ c.T + (c**2).sum(1)  # [N, K]
    nearest = np.where(finite, squared.argmin(1), 0)
    distance = np.linalg.norm(x - c[nearest], axis=1)  # exact, where the expanded square rounds
    good = finite & (distance <= near * sigma)
    counts = np.bincount(nearest[good], minlength=k)
    return ModeCoverage(
        samples=n,
        of_modes=k,
        modes=int((counts >= 1).sum()),
        modes_20=int((counts >= 20).sum()),
        modes_1_percent=int((counts >= 0.01 * n).sum()),
        high_quality=float(good.mean()),
        kl=_kl_to_uniform(counts),
        std_ratio=_spread(x[good], nearest[good], counts) / (sigma * cut_std(x.shape[1], near)),
        counts=tuple(int(count) for count in counts),
        nearest=tuple(int(count) for count in np.bincount(nearest, minlength=k)),
    )


def expected_share(dimensions: int = 2, near: float = NEAR) -> float:
    """Share of the mixture itself within `near` sigma of its centres (far apart): P(chi^2_d <= near^2).

    In the plane 1 - exp(-near^2 / 2), which is 98.89 % for 3 sigma.
    """
    from scipy.special import gammainc

    return float(gammainc(dimensions / 2, near**2 / 2))


def cut_std(dimensions: int = 2, near: float = NEAR) -> float:
    """Standard deviation per coordinate of N(0, I) cut to distances below `near`: 0.974 in the plane for 3."""
    from scipy.special import gammainc

    a, x = dimensions / 2, near**2 / 2
    return float(np.sqrt(gammainc(a + 1, x) / gammainc(a, x)))


def _matrix(name: str, values: Any) -> Array:
    array = np.asarray(values.detach().cpu() if hasattr(values, "detach") else values, dtype=np.float64)
    if array.ndim != 2 or 0 in array.shape:
        raise UserError(
            f"{name} have shape {list(array.shape)}; expected [how many, coordinates], at least one of each."
        )
    return array


def _kl_to_uniform(counts: NDArray[Any]) -> float:
    """sum_k h_k log(K h_k) of the normalised histogram, 0 log 0 = 0."""
    if not counts.sum():
        return math.nan
    h = counts[counts > 0] / counts.sum()
    return max(0.0, float((h * np.log(len(counts) * h)).sum()))


def _spread(x: Array, mode: NDArray[Any], counts: NDArray[Any]) -> float:
    """Pooled standard deviation per coordinate around each mode's own mean; NaN without a pair in one mode."""
    free = int((counts[counts > 0] - 1).sum())
    if free < 1:
        return math.nan
    sums = np.stack([np.bincount(mode, column, len(counts)) for column in x.T], 1)  # [K, d]
    means = sums / np.maximum(counts, 1)[:, None]
    return float(np.sqrt(((x - means[mode]) ** 2).sum() / (free * x.shape[1])))
