"""Perceptual path length: how much the image changes along a short step in latent space.

Karras et al. 2019 (arXiv:1812.04948, section 4.1): E d(G(path(t)), G(path(t + e))) / e^2 with d a perceptual distance
that is quadratic near 0 (LPIPS), e = 1e-4, over random pairs of latents and random t; the extreme 1 % on both sides
are left out. Distances other than LPIPS on VGG16 give another number: name them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, TypeAlias

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from saddlepoint.errors import UserError, unknown
from saddlepoint.metrics.arrays import Estimate, Progress, check_count

Images: TypeAlias = Callable[[Tensor], Tensor]  # latents [n, ...] -> images [n, C, H, W]
Sampler: TypeAlias = Callable[[int, torch.Generator], Tensor]  # (n, random numbers) -> latents z [n, ...]
Distance: TypeAlias = Callable[[Tensor, Tensor], Tensor]  # two batches of images -> [n]


def path_length(
    generator: Images,
    sampler: Sampler,
    distance: Distance,
    *,
    space: Literal["z", "w"] = "z",
    where: Literal["full", "end"] = "full",
    mapping: Images | None = None,
    samples: int = 10_000,
    epsilon: float = 1e-4,
    crop: Callable[[Tensor], Tensor] | None = None,
    largest: int | None = 256,
    trim: tuple[float, float] = (1.0, 99.0),
    batch: int = 16,
    seed: int = 0,
    progress: Progress | None = None,
) -> Estimate:
    """E d(G(p(t)), G(p(t + epsilon))) / epsilon^2, an `Estimate` with the error of the trimmed mean.

    generator: latents to images, deterministic (the same noise inputs for both ends: the pair comes as one batch of
    2n, first all starts, then all ends). space "z": spherical interpolation between z0 and z1; "w": straight lines
    between mapping(z0) and mapping(z1), which the generator then takes ("ppl2_wend" of NVIDIA's code is "w", "end",
    no crop). where: t uniform on [0, 1], or 0. crop: applied to images before `distance`, see `face_crop`. largest:
    images above are reduced by whole box means. trim: percentiles kept. epsilon must stay well above the rounding of
    the generator's dtype.
    """
    if space not in ("z", "w"):
        raise unknown("space", space, ("z", "w"))
    if where not in ("full", "end"):
        raise unknown("where", where, ("full", "end"))
    if space == "w" and mapping is None:
        raise UserError("paths in w need mapping=, the network from z to w.")
    check_count("samples", samples, 2)
    check_count("batch", batch, 1)
    if not epsilon > 0:
        raise UserError(f"epsilon is {epsilon}; expected a step above 0.")
    random = torch.Generator().manual_seed(seed)
    values: list[float] = []
    with torch.no_grad():
        while len(values) < samples:
            n = min(batch, samples - len(values))
            start, end = sampler(n, random), sampler(n, random)
            t = torch.rand(n, generator=random, dtype=torch.float64) * (where == "full")
            ends = torch.cat(_step(start, end, t, epsilon, mapping if space == "w" else None))
            first, second = _seen(generator(ends), crop, largest).chunk(2)
            values += (distance(first, second).double() / epsilon**2).flatten().tolist()
            if progress:
                progress(len(values), samples)
    return _trimmed(np.asarray(values), samples, trim, f"{space}, {where}, epsilon {epsilon:g}")


def _step(start: Tensor, end: Tensor, t: Tensor, epsilon: float, mapping: Images | None) -> tuple[Tensor, Tensor]:
    t = t.to(start.device, start.dtype if start.dtype == torch.float64 else torch.float32)
    t = t.view(-1, *[1] * (start.ndim - 1))
    if mapping is None:
        return slerp(start, end, t), slerp(start, end, t + epsilon)
    w0, w1 = mapping(torch.cat([start, end])).chunk(2)
    t = t.view(-1, *[1] * (w0.ndim - 1))
    return torch.lerp(w0, w1, t), torch.lerp(w0, w1, t + epsilon)


def slerp(a: Tensor, b: Tensor, t: Tensor) -> Tensor:
    """The great circle from a / |a| to b / |b| (last axis): unit vectors, as the official code."""
    a, b = F.normalize(a, dim=-1), F.normalize(b, dim=-1)
    cosine = (a * b).sum(dim=-1, keepdim=True).clamp(-1, 1)
    angle = t * torch.acos(cosine)
    across = F.normalize(b - cosine * a, dim=-1)
    return F.normalize(a * torch.cos(angle) + across * torch.sin(angle), dim=-1)


def face_crop(images: Tensor) -> Tensor:
    """The middle of aligned faces [N, C, H, W], as in the StyleGAN paper: rows 3/8 to 7/8, columns 2/8 to 6/8."""
    part = images.shape[-1] // 8
    return images[..., 3 * part : 7 * part, 2 * part : 6 * part]


def _seen(images: Tensor, crop: Callable[[Tensor], Tensor] | None, largest: int | None) -> Tensor:
    images = images if crop is None else crop(images)
    if largest is not None and images.ndim == 4 and (factor := images.shape[-2] // largest) > 1:
        images = F.avg_pool2d(images, factor)
    return images


def _trimmed(values: np.ndarray, samples: int, trim: tuple[float, float], method: str) -> Estimate:
    values = values[:samples]
    if not np.isfinite(values).all():
        bad = int((~np.isfinite(values)).sum())
        raise UserError(f"{bad} of {samples} path lengths are not finite; the generator or the distance is at fault.")
    low, high = np.percentile(values, trim[0], method="lower"), np.percentile(values, trim[1], method="higher")
    kept = values[(values >= low) & (values <= high)]
    # The error of a trimmed mean is that of values clipped to the limits, over the share kept (Tukey and McLaughlin).
    error = float(np.clip(values, low, high).std(ddof=1)) / (len(kept) / samples * np.sqrt(samples))
    return Estimate(float(kept.mean()), error, (), method)
