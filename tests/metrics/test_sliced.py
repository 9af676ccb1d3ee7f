"""Sliced Wasserstein distances against POT and SciPy; Laplacian patches against a plain pyramid."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage, stats

from saddlepoint.errors import UserError
from saddlepoint.metrics import laplacian_swd, sliced_wasserstein
from saddlepoint.metrics.sliced import laplacian_level


@pytest.mark.parametrize("p", [1, 2, 3])
@pytest.mark.parametrize("m", [120, 77])
def test_equals_pot_on_the_same_directions(p: int, m: int) -> None:
    import ot

    rng = np.random.default_rng(p)
    x, y, theta = rng.normal(size=(120, 9)), 0.5 + 2 * rng.normal(size=(m, 9)), rng.normal(size=(9, 30))
    theta /= np.linalg.norm(theta, axis=0)
    expected = ot.sliced_wasserstein_distance(x, y, projections=theta, p=p)
    assert sliced_wasserstein(x, y, directions=theta, p=p) == pytest.approx(expected, rel=1e-10)


@settings(max_examples=25)
@given(n=st.integers(1, 30), m=st.integers(1, 30), seed=st.integers(0, 10**6))
def test_one_direction_equals_scipy(n: int, m: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    x, y = rng.normal(size=(n, 1)), rng.normal(size=(m, 1))
    found = sliced_wasserstein(x, y, directions=[[1.0]])
    assert found == pytest.approx(stats.wasserstein_distance(x[:, 0], y[:, 0]), rel=1e-9, abs=1e-12)


def test_a_shift_has_its_closed_form_and_the_error_is_honest() -> None:
    rng = np.random.default_rng(0)
    x, shift = rng.normal(size=(50, 3)), np.array([3.0, 0, 4.0])
    found = sliced_wasserstein(x, x + shift, 4000)
    assert abs(found - 5 / 2) < 4 * found.standard_error  # E |theta_1| = 1/2 in space
    squared = sliced_wasserstein(x, x + shift, 4000, p=2)
    assert abs(squared - 5 / np.sqrt(3)) < 4 * squared.standard_error
    several = [sliced_wasserstein(x, x + shift, 100, seed=s) for s in range(60)]
    assert several[0].standard_error == pytest.approx(np.std(several), rel=0.3)
    assert sliced_wasserstein(x, x[::-1]) == pytest.approx(0, abs=1e-15)
    assert sliced_wasserstein(2 * x, 2 * x + shift) == pytest.approx(sliced_wasserstein(x, x + shift / 2) * 2)


# ------------------------------------------------------------------------------------------------------------ patches
def plain_pyramid(image: Any) -> list[Any]:
    """Laplacian levels of one channel, by SciPy."""
    taps = np.outer([1, 4, 6, 4, 1], [1, 4, 6, 4, 1]) / 256
    levels, current = [], image
    while min(current.shape) // 2 >= 16:
        down = ndimage.convolve(current, taps, mode="mirror")[::2, ::2]
        wide = np.zeros_like(current)
        wide[::2, ::2] = down
        levels.append(current - ndimage.convolve(wide, 4 * taps, mode="mirror"))
        current = down
    return [*levels, current]


def test_the_pyramid_is_the_plain_one() -> None:
    images = np.random.default_rng(1).normal(size=(2, 3, 64, 64))
    for level in range(3):
        found = laplacian_level(torch.from_numpy(images), level, last=level == 2)
        for n, c in ((0, 0), (1, 2)):
            np.testing.assert_allclose(found[n, c], plain_pyramid(images[n, c])[level], atol=1e-12)


def smooth(images: Any, sigma: float) -> Any:
    return ndimage.gaussian_filter(images, (0, 0, sigma, sigma)).astype(np.float32)


def test_it_tells_at_which_scale_texture_is_wrong() -> None:
    rng = np.random.default_rng(2)
    x, other = (smooth(rng.normal(size=(48, 1, 64, 64)), 1.5) for _ in range(2))
    floor = laplacian_swd(x, other, patches=32, repeats=1)
    assert list(floor.levels) == [64, 32, 16] and floor.patches == 48 * 32
    assert floor == pytest.approx(np.mean(list(floor.levels.values())))
    fine = laplacian_swd(x, other + 0.15 * rng.normal(size=other.shape), patches=32, repeats=1)
    assert fine.levels[64] > 2 * floor.levels[64] and fine.levels[16] < 1.5 * floor.levels[16]
    again = laplacian_swd(x, other, patches=32, repeats=1)
    assert again == floor and again.levels == floor.levels
    assert laplacian_swd(3 * x + 1, other, patches=32, repeats=1) == pytest.approx(float(floor), rel=1e-4)


def test_sizes_that_do_not_halve_or_are_too_small_are_refused() -> None:
    for size, words in ((15, "at least 16"), (34, "do not halve"), (33, "do not halve")):
        images = np.random.default_rng(3).normal(size=(4, 1, size, size))
        if size == 34:  # 34 -> 17: one halving is fine
            assert list(laplacian_swd(images, images, patches=4, repeats=1).levels) == [34, 17]
            continue
        with pytest.raises(UserError, match=words):
            laplacian_swd(images, images)
    with pytest.raises(UserError, match="constant at level 0"):
        laplacian_swd(np.zeros((4, 1, 16, 16)), np.zeros((4, 1, 16, 16)), patches=2)
    with pytest.raises(UserError, match="equally many"):
        laplacian_swd(np.zeros((4, 1, 16, 16)), np.zeros((3, 1, 16, 16)))
