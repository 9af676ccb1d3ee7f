"""PSNR, SSIM, MS-SSIM against scikit-image and torchmetrics, gradients, and diversity's limits."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from scipy import ndimage

from saddlepoint.errors import UserError
from saddlepoint.metrics import ms_ssim, ms_ssim_diversity, psnr, similarity, ssim


def pairs(n: int, channels: int, height: int, width: int) -> tuple[Any, Any]:
    rng = np.random.default_rng(height)
    x = np.clip(ndimage.gaussian_filter(rng.normal(size=(n, channels, height, width)), (0, 0, 2, 2)) * 4, -1, 1)
    return x, np.clip(x + 0.15 * rng.normal(size=x.shape), -1, 1)


@pytest.mark.parametrize("shape", [(3, 3, 32, 32), (2, 1, 28, 40), (1, 3, 300, 11), (1, 1, 270, 400)])
def test_ssim_and_psnr_equal_scikit_image_and_torchmetrics(shape: tuple[int, int, int, int]) -> None:
    from skimage.metrics import peak_signal_noise_ratio, structural_similarity
    from torchmetrics.functional.image import structural_similarity_index_measure

    x, y = pairs(*shape)
    expected = [
        structural_similarity(
            a, b, channel_axis=0, data_range=2, gaussian_weights=True, use_sample_covariance=False, sigma=1.5
        )
        for a, b in zip(x, y, strict=True)
    ]
    assert ssim(x, y) == pytest.approx(np.mean(expected), abs=1e-12)
    assert ssim(x.astype("f"), y.astype("f")) == pytest.approx(np.mean(expected), abs=1e-5)
    padded = structural_similarity_index_measure(torch.from_numpy(x), torch.from_numpy(y), data_range=2.0)
    assert ssim(x, y, border="reflect") == pytest.approx(float(padded), abs=1e-12)
    noise = [peak_signal_noise_ratio(a, b, data_range=2) for a, b in zip(x, y, strict=True)]
    assert psnr(x, y) == pytest.approx(np.mean(noise), rel=1e-12)


def test_ms_ssim_equals_torchmetrics() -> None:
    from torchmetrics.functional.image import multiscale_structural_similarity_index_measure

    x, y = pairs(2, 3, 180, 200)
    expected = multiscale_structural_similarity_index_measure(torch.from_numpy(x), torch.from_numpy(y), data_range=2.0)
    assert ms_ssim(x, y, border="reflect") == pytest.approx(float(expected), abs=1e-7)
    assert ms_ssim(x, x) == pytest.approx(1) and ms_ssim(x, -x) < 0.2
    assert 0 < ms_ssim(x, y) < 1
    single = (1.0,)
    assert ms_ssim(x, y, weights=single) == pytest.approx(ssim(x, y), rel=1e-10)


def test_closed_forms() -> None:
    x = np.full((2, 1, 16, 16), 0.5)
    y = np.full((2, 1, 16, 16), 0.1)
    c1 = (0.01 * 2) ** 2
    assert ssim(x, y) == pytest.approx((2 * 0.5 * 0.1 + c1) / (0.5**2 + 0.1**2 + c1))
    assert psnr(x, y) == pytest.approx(10 * np.log10(4 / 0.16)) and psnr(x, x) == np.inf
    bytes_x, bytes_y = np.full((1, 1, 16, 16), 255, np.uint8), np.zeros((1, 1, 16, 16), np.uint8)
    assert psnr(bytes_x, bytes_y) == pytest.approx(0)  # [-1, 1] after all


def test_differentiable_and_strips_are_seamless(monkeypatch: pytest.MonkeyPatch) -> None:
    x, y = (torch.from_numpy(v).requires_grad_() for v in pairs(1, 1, 12, 13))
    assert torch.autograd.gradcheck(similarity.ssim_of_pairs, (x, y))
    a, b = pairs(1, 1, 90, 70)
    whole = ssim(a, b)
    monkeypatch.setattr(similarity, "STRIP", 13)
    assert ssim(a, b) == pytest.approx(whole, rel=1e-12)


def test_small_images_are_refused_or_shrink_the_window() -> None:
    x, y = pairs(2, 1, 64, 64)
    with pytest.raises(UserError, match="needs 176"):
        ms_ssim(x, y)
    assert 0 < ms_ssim(x, y, shrink=True) < 1
    with pytest.raises(UserError, match="at least 11 x 11"):
        ssim(x[..., :10], y[..., :10])
    with pytest.raises(UserError, match="in pairs"):
        ssim(x, y[:1])
    with pytest.raises(UserError, match="data_range is 0"):
        psnr(x, y, data_range=0)


def test_diversity_of_one_image_repeated_is_one_and_of_noise_is_low() -> None:
    rng = np.random.default_rng(0)
    one = np.repeat(pairs(1, 3, 32, 32)[0], 6, axis=0)
    assert ms_ssim_diversity(one, 20) == pytest.approx(1)
    varied = pairs(12, 3, 32, 32)[0]
    alike = 0.8 * varied[:1] + 0.2 * varied
    found = ms_ssim_diversity(alike, 60, seed=1)
    assert ms_ssim_diversity(varied, 60) < 0.5 * found < 0.5 and found == ms_ssim_diversity(alike, 60, seed=1)
    two_modes = np.concatenate([one, -one])
    share = 6 * 6 * 2 / (12 * 11)  # of pairs from different modes
    across = similarity.ms_ssim_of_pairs(torch.from_numpy(one[:1]), torch.from_numpy(-one[:1]), shrink=True)
    expected = 1 - share * (1 - float(across))
    mixed = ms_ssim_diversity(two_modes, 2000)
    assert abs(mixed - expected) < 4 * mixed.standard_error
    with pytest.raises(UserError, match="at least 2"):
        ms_ssim_diversity(one[:1])
    assert ms_ssim_diversity(rng.uniform(-1, 1, (4, 1, 8, 8)), 5) < 1  # fewer scales
