"""Similarity of images in pairs: PSNR, SSIM, MS-SSIM; and MS-SSIM between random pairs as a measure of diversity.

SSIM is Wang et al. 2004 (IEEE TIP 13): Gaussian window of 11 with sigma 1.5, c1 = (0.01 L)^2, c2 = (0.03 L)^2,
population (co)variances, mean over positions whose window lies inside the image, and over channels (scikit-image's
gaussian_weights=True, use_sample_covariance=False). border="reflect" pads instead, as torchmetrics does. MS-SSIM is
Wang et al. 2003 (Asilomar). Everything is differentiable torch; the float functions take the mean over the batch.
"""

from __future__ import annotations

from typing import Any, Literal, TypeAlias

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from saddlepoint.errors import UserError, unknown
from saddlepoint.metrics.arrays import Estimate, Progress, check_count, image_batch, image_pair, mean_of

Border: TypeAlias = Literal["valid", "reflect"]
WINDOW, SIGMA = 11, 1.5
MS_WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)
DATA_RANGE = 2.0  # of images in [-1, 1]
STRIP = 128  # columns that one banded matrix makes


def psnr(x: Any, y: Any, *, data_range: float = DATA_RANGE) -> float:
    """Mean over images of 10 log10(L^2 / mean squared error) in decibels; inf where two images are equal.

    x, y: [N, C, H, W] floats, or bytes, which become [-1, 1]; data_range L: 2 for [-1, 1].
    """
    a, b = image_pair(x, y)
    _check_range(data_range)
    error = (a - b).double().square().mean(dim=(1, 2, 3))
    return float((10 * torch.log10(data_range**2 / error)).mean())


def ssim(x: Any, y: Any, *, data_range: float = DATA_RANGE, border: Border = "valid") -> float:
    """Mean structural similarity of pairs of images, -1 to 1. Inputs as in `psnr`. See `ssim_of_pairs`."""
    a, b = image_pair(x, y)
    total = sum(
        float(ssim_of_pairs(p, q, data_range=data_range, border=border).double().sum()) for p, q in _parts(a, b)
    )
    return total / len(a)


def ms_ssim(
    x: Any,
    y: Any,
    *,
    data_range: float = DATA_RANGE,
    border: Border = "valid",
    weights: tuple[float, ...] = MS_WEIGHTS,
    shrink: bool = False,
) -> float:
    """Mean multi-scale structural similarity of pairs of images, 0 to 1. See `ms_ssim_of_pairs`."""
    a, b = image_pair(x, y)
    options: dict[str, Any] = {"data_range": data_range, "border": border, "weights": weights, "shrink": shrink}
    return sum(float(ms_ssim_of_pairs(p, q, **options).double().sum()) for p, q in _parts(a, b)) / len(a)


def _parts(a: Tensor, b: Tensor) -> list[tuple[Tensor, Tensor]]:
    """Batches of about a million numbers: the five filtered copies stay in the cache."""
    step = max(1, (1 << 20) // a[0].numel())
    return list(zip(a.split(step), b.split(step), strict=True))


def ssim_of_pairs(
    x: Tensor, y: Tensor, *, data_range: float = DATA_RANGE, border: Border = "valid", shrink: bool = False
) -> Tensor:
    """SSIM of each pair, [N]; differentiable in x and y [N, C, H, W] of one float dtype.

    shrink: images smaller than the window of 11 get a smaller one of the same shape; else they raise UserError.
    """
    _check_range(data_range)
    if border not in ("valid", "reflect"):
        raise unknown("border", border, ("valid", "reflect"))
    return _ssim_terms(x, y, data_range, border, shrink)[0]


def ms_ssim_of_pairs(
    x: Tensor,
    y: Tensor,
    *,
    data_range: float = DATA_RANGE,
    border: Border = "valid",
    weights: tuple[float, ...] = MS_WEIGHTS,
    shrink: bool = False,
) -> Tensor:
    """prod_j cs_j^w_j (contrast and structure at each of five scales), times luminance at the coarsest; [N].

    Scales halve by 2 x 2 means. Negative factors count as 0, as in torchmetrics. Five scales of 11 pixels need images
    of 176; shrink: smaller ones get smaller windows, as in the code of Karras et al. 2018. weights: fewer scales.
    """
    _check_range(data_range)
    side, scales = min(x.shape[-2:]), len(weights)
    need = (1 if shrink else WINDOW) * 2 ** (scales - 1)
    if side < need:
        raise UserError(
            f"images are {x.shape[-2]} x {x.shape[-1]}; MS-SSIM of {scales} scales needs {need}: give shrink=True or "
            "fewer weights."
        )
    found = torch.ones(len(x), dtype=x.dtype, device=x.device)
    for scale, weight in enumerate(weights):
        similarity, contrast = _ssim_terms(x, y, data_range, border, shrink)
        factor = similarity if scale == scales - 1 else contrast
        found = found * factor.clamp(min=0) ** weight
        if scale < scales - 1:
            x, y = F.avg_pool2d(x, 2), F.avg_pool2d(y, 2)
    return found


def _ssim_terms(x: Tensor, y: Tensor, data_range: float, border: Border, shrink: bool) -> tuple[Tensor, Tensor]:
    """Means over positions and channels of l * cs and of cs, each [N]; cs always without padding."""
    side = min(x.shape[-2:])
    if side < WINDOW and not shrink:
        raise UserError(f"images are {x.shape[-2]} x {x.shape[-1]}; SSIM's window needs at least {WINDOW} x {WINDOW}.")
    window = min(WINDOW, side)
    taps = _gaussian(window, SIGMA * window / WINDOW).to(x.device, x.dtype)
    pad = window // 2
    p, q = (F.pad(v, (pad, pad, pad, pad), mode="reflect") if border == "reflect" else v for v in (x, y))
    c1, c2 = (0.01 * data_range) ** 2, (0.03 * data_range) ** 2
    mean_x, mean_y, square_x, square_y, product = _blur(torch.stack([p, q, p * p, q * q, p * q]), taps)  # [N, C, h, w]
    both = mean_x * mean_y
    squares = mean_x * mean_x + mean_y * mean_y
    contrast = (2 * (product - both) + c2) / (square_x + square_y - squares + c2)
    similarity = (2 * both + c1) / (squares + c1) * contrast
    inner = contrast[..., pad:-pad, pad:-pad] if border == "reflect" and pad else contrast
    return similarity.mean(dim=(1, 2, 3)), inner.mean(dim=(1, 2, 3))


def _gaussian(window: int, sigma: float) -> Tensor:
    offset = torch.arange(window, dtype=torch.float64) - (window - 1) / 2
    taps = torch.exp(-(offset**2) / (2 * sigma**2))
    return taps / taps.sum()


def _blur(images: Tensor, taps: Tensor) -> Tensor:
    """Separable filter without padding over the last two axes of [5, N, C, H, W]."""
    return _along_rows(_along_rows(images, taps).transpose(-1, -2), taps).transpose(-1, -2)


def _along_rows(x: Tensor, taps: Tensor) -> Tensor:
    """Filter the last axis as a product with a banded matrix, in strips where it is long: 4 to 8 times faster on a CPU
    than a convolution over channels.
    """
    size, window = x.shape[-1], len(taps)
    kept = size - window + 1
    if size <= 3 * STRIP:
        return x @ _band(size, taps).T
    step = -(-kept // -(-kept // STRIP))
    x = F.pad(x, (0, -kept % step))
    found = x.unfold(-1, step + window - 1, step) @ _band(step + window - 1, taps).T  # [..., strips, step]
    return found.flatten(-2)[..., :kept]


def _band(size: int, taps: Tensor) -> Tensor:
    """[size - window + 1, size]: row i holds the taps from column i on."""
    rows = size - len(taps) + 1
    band = taps.new_zeros(rows, size)
    index = torch.arange(rows, device=taps.device)[:, None] + torch.arange(len(taps), device=taps.device)
    return band.scatter_(1, index, taps.expand(rows, -1))


def _check_range(data_range: float) -> None:
    if not (np.isfinite(data_range) and data_range > 0):
        raise UserError(f"data_range is {data_range}; expected the span of the images' values, 2 for [-1, 1].")


def ms_ssim_diversity(
    images: Any,
    pairs: int = 1000,
    *,
    seed: int = 0,
    data_range: float = DATA_RANGE,
    progress: Progress | None = None,
) -> Estimate:
    """Mean MS-SSIM of random pairs of different images [N, C, H, W] of one set: the lower, the more diverse.

    Odena et al. 2017 (arXiv:1610.09585, within a class) and Karras et al. 2018. Noise is diverse as well: compare with
    real images. Images below 176 pixels get shrunken windows, below 16 fewer scales (weights renormalised).
    """
    x = image_batch("images", images)
    check_count("pairs", pairs, 1)
    if len(x) < 2:
        raise UserError("images holds 1 image; diversity needs at least 2.")
    rng = np.random.default_rng(seed)
    first = rng.integers(len(x), size=pairs)
    second = (first + rng.integers(1, len(x), size=pairs)) % len(x)
    scales = min(5, int(np.log2(min(x.shape[-2:]))) + 1)
    weights = tuple(w / sum(MS_WEIGHTS[:scales]) for w in MS_WEIGHTS[:scales]) if scales < 5 else MS_WEIGHTS
    step, values = max(1, (1 << 20) // x[0].numel()), []
    for start in range(0, pairs, step):
        i, j = (torch.from_numpy(v[start : start + step]).to(x.device) for v in (first, second))
        values += ms_ssim_of_pairs(x[i], x[j], data_range=data_range, weights=weights, shrink=True).tolist()
        if progress:
            progress(min(start + step, pairs), pairs)
    found = mean_of(values, f"{pairs} random pairs")
    return Estimate(float(found), found.standard_error, (), found.method)
