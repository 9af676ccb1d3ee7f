"""Sliced Wasserstein distances: sort what random directions see. On features, and on Laplacian patches of images.

`laplacian_swd` is the measure of Karras et al. 2018 (arXiv:1710.10196, section 5): 7 x 7 patches of each level of a
Laplacian pyramid, normalised per channel over the set, 4 x 128 directions, mean absolute difference of the sorted
projections, times 1,000. It needs no network and tells at which scale the texture is wrong.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from saddlepoint.errors import UserError
from saddlepoint.metrics.arrays import (
    Estimate,
    Progress,
    check_count,
    feature_pair,
    image_batch,
    numpy_of,
    refuse_memory,
)

PROJECTED = 1 << 22  # numbers in one block of projections
SWD_SCALE = 1000.0
NEIGHBOURHOOD = 7
LOWEST = 16  # resolution of the pyramid's last level
REPEATS, DIRECTIONS = 4, 128


def sliced_wasserstein(
    x: Any,
    y: Any,
    projections: int = 256,
    *,
    p: float = 1,
    seed: int = 0,
    directions: Any = None,
    progress: Progress | None = None,
) -> Estimate:
    """(mean over directions of W_p^p of the projected samples)^(1/p), features x [N, D] and y [M, D]; p >= 1.

    Directions are uniform on the sphere from `seed`, or given as unit vectors [D, L]. N and M may differ: the quantile
    functions are then compared exactly. The standard error is over directions. In D dimensions a shift by t gives |t|
    times the mean of |theta_1|, about sqrt(2 / (pi D)). Units: those of x. Cost: (N + M) L (D + log N), in blocks.
    """
    first, second = feature_pair(x, y)
    if not p >= 1:
        raise UserError(f"p is {p}; expected an exponent of at least 1.")
    theta = _directions(first.shape[1], projections, seed) if directions is None else _given(directions, first)
    theta = theta.to(first.device, first.dtype)
    step = max(1, PROJECTED // max(len(first), len(second)))
    powers = []
    for start in range(0, theta.shape[1], step):
        part = theta[:, start : start + step]
        powers.append(_projected_cost(first, second, part, p))
        if progress:
            progress(min(start + step, theta.shape[1]), theta.shape[1])
    costs = np.concatenate(powers)
    value = float(costs.mean() ** (1 / p))
    count = len(costs)
    # The delta method: d m^(1/p) = m^(1/p - 1) / p dm.
    error = float(costs.std(ddof=1) / np.sqrt(count)) if count > 1 else None
    if error is not None and p != 1:
        error = error * value / (p * costs.mean()) if value > 0 else 0.0
    return Estimate(value, error, (), f"{count} directions, p = {p:g}")


def _directions(dimensions: int, count: int, seed: int) -> Tensor:
    check_count("projections", count, 1)
    theta = np.random.default_rng(seed).standard_normal((dimensions, count))
    return torch.from_numpy(theta / np.linalg.norm(theta, axis=0))


def _given(directions: Any, x: Tensor) -> Tensor:
    theta = torch.as_tensor(directions, dtype=torch.float64)
    if theta.ndim != 2 or theta.shape[0] != x.shape[1] or not bool(torch.isfinite(theta).all()):
        raise UserError(f"directions have shape {list(theta.shape)}; expected finite [{x.shape[1]}, L].")
    return theta


def _projected_cost(x: Tensor, y: Tensor, theta: Tensor, p: float) -> NDArray[np.float64]:
    """W_p^p on the line for every direction [L]."""
    a, b = _sorted_projections(x, theta), _sorted_projections(y, theta)
    if a.shape != b.shape:
        return _unequal_cost(a, b, p)
    a -= b
    np.abs(a, out=a)
    if p == 2:
        np.multiply(a, a, out=a)
    elif p != 1:
        a **= p
    return np.asarray(a.mean(axis=1, dtype=np.float64))


def _sorted_projections(x: Tensor, theta: Tensor) -> NDArray[Any]:
    """[L, N], sorted along N. NumPy sorts with the CPU's vector instructions, torch without."""
    if x.device.type != "cpu":
        return numpy_of((theta.T @ x.T).sort(dim=1).values)
    values = np.matmul(theta.T.numpy(), x.numpy().T)
    values.sort(axis=1)
    return values


def _unequal_cost(a: NDArray[Any], b: NDArray[Any], p: float) -> NDArray[np.float64]:
    """Quantile functions are constant between the levels i / n and j / m; whole numbers i m, j n order them."""
    n, m = a.shape[1], b.shape[1]
    levels = np.unique(np.concatenate([np.arange(1, n + 1) * m, np.arange(1, m + 1) * n]))
    width = np.diff(levels, prepend=0)
    low = levels - width
    shift = np.abs(a[:, low // m] - b[:, low // n]).astype(np.float64)
    return np.asarray(shift**p @ width / (n * m))


# ------------------------------------------------------------------------------------------------------------- patches
class LaplacianSWD(Estimate):
    """1,000 times the sliced Wasserstein distance of patches: the mean over levels. The standard error is that of the
    random directions alone.
    """

    levels: dict[int, float]
    """By resolution, finest first. Large at the finest: wrong texture; at the coarsest: wrong structure."""
    patches: int
    """Patches of each set and level."""


def laplacian_swd(
    x: Any,
    y: Any,
    *,
    patches: int = 128,
    repeats: int = REPEATS,
    directions: int = DIRECTIONS,
    seed: int = 0,
    progress: Progress | None = None,
) -> LaplacianSWD:
    """Sliced Wasserstein distance of Laplacian patches, of images x and y [N, C, H, W] (floats of any range, or bytes).

    patches: per image and level (official: 128 of 16,384 images). Levels halve the resolution down to 16. Both sets
    need the same number of images. The value for real against real, the floor, depends on N; print it beside. Memory:
    one level's patches of both sets, 2 N patches 49 C floats. Raises UserError for sizes below 16 or that do not halve.
    """
    a, b = image_batch("x", x), image_batch("y", y)
    if a.shape != b.shape:
        raise UserError(f"x has shape {list(a.shape)} and y {list(b.shape)}; expected equally many images of one size.")
    n, channels, height, width = a.shape
    resolutions = _resolutions(height, width)
    check_count("patches", patches, 1)
    refuse_memory(
        2 * 4.0 * n * patches * NEIGHBOURHOOD**2 * channels, f"{n} x {patches} patches", "take fewer images or patches"
    )
    levels: dict[int, float] = {}
    errors = []
    for level, resolution in enumerate(resolutions):
        sets = [
            _patch_matrix(images, level, len(resolutions), patches, seed + 1 + k) for k, images in enumerate((a, b))
        ]
        values = []
        for repeat in range(repeats):
            drawn = _directions(sets[0].shape[1], directions, seed + 101 + repeat + repeats * level)
            values.append(sliced_wasserstein(sets[0], sets[1], directions=drawn))
            if progress:
                progress(level * repeats + repeat + 1, len(resolutions) * repeats)
        levels[resolution] = SWD_SCALE * float(np.mean(values))
        errors.append(SWD_SCALE * float(np.mean([v.standard_error or 0.0 for v in values])) / np.sqrt(repeats))
    parts = tuple(levels.values())
    error = float(np.linalg.norm(errors)) / len(parts)
    found = LaplacianSWD(float(np.mean(parts)), error, parts, f"{len(parts)} levels of {n * patches} patches")
    found.levels, found.patches = levels, n * patches
    return found


def _resolutions(height: int, width: int) -> list[int]:
    side, found = min(height, width), []
    while side >= LOWEST:
        found.append(side)
        if side // 2 >= LOWEST and (height % 2 or width % 2):
            raise UserError(
                f"images of {height} x {width} do not halve down to {LOWEST}; resize them to a power of two."
            )
        height, width, side = height // 2, width // 2, side // 2
    if not found:
        raise UserError(f"images are {height} x {width}; Laplacian patches need at least {LOWEST} x {LOWEST}.")
    return found


def _patch_matrix(images: Tensor, level: int, levels: int, patches: int, seed: int) -> Tensor:
    """Normalised patches [N patches, C 49] of one level of the pyramid, in batches of images."""
    rng = np.random.default_rng((seed, level))
    half, parts = NEIGHBOURHOOD // 2, []
    for start in range(0, len(images), 256):
        band = laplacian_level(images[start : start + 256].float().cpu(), level, last=level == levels - 1)
        n, _, height, width = band.shape
        image = torch.arange(n).repeat_interleave(patches)  # [P]
        top = torch.from_numpy(rng.integers(half, height - half, len(image))) - half
        left = torch.from_numpy(rng.integers(half, width - half, len(image))) - half
        offset = torch.arange(NEIGHBOURHOOD)
        rows, columns = (top[:, None] + offset)[:, :, None], (left[:, None] + offset)[:, None, :]
        parts.append(band.permute(0, 2, 3, 1)[image[:, None, None], rows, columns])  # [P, 7, 7, C]
    found = torch.cat(parts)
    axes = (0, 1, 2)
    found -= found.mean(dim=axes, dtype=torch.float64).float()
    spread = found.square().mean(dim=axes, dtype=torch.float64).sqrt().float()
    if not bool((spread > 0).all()):
        raise UserError(f"a channel of the images is constant at level {level}; its patches cannot be normalised.")
    found /= spread
    return found.flatten(1)


def laplacian_level(images: Tensor, level: int, *, last: bool) -> Tensor:
    """One level of the pyramid of images [N, C, H, W]: G_l - up(G_(l+1)), or G_l itself for the last."""
    for _ in range(level):
        images = _down(images)
    return images if last else images - _up(_down(images))


def _binomial(images: Tensor, gain: float) -> Tensor:
    """The separable filter (1, 4, 6, 4, 1) / 16 in both directions with mirrored edges, times gain."""
    channels = images.shape[1]
    taps = torch.tensor([1.0, 4.0, 6.0, 4.0, 1.0], dtype=images.dtype) / 16
    mirrored = F.pad(images, (2, 2, 2, 2), mode="reflect")
    kernel = taps.expand(channels, 1, 1, 5)
    rows = F.conv2d(mirrored, kernel, groups=channels)
    return F.conv2d(rows, gain * kernel.transpose(2, 3), groups=channels)


def _down(images: Tensor) -> Tensor:
    return _binomial(images, 1.0)[:, :, ::2, ::2]


def _up(images: Tensor) -> Tensor:
    n, channels, height, width = images.shape
    wide = images.new_zeros(n, channels, 2 * height, 2 * width)
    wide[:, :, ::2, ::2] = images
    return _binomial(wide, 4.0)
