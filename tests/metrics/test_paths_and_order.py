"""Path length in closed form, intervals and floors that cover, and scores that order what they must order."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from saddlepoint.errors import UserError
from saddlepoint.metrics import (
    cmmd,
    floor,
    frechet_distance,
    interval,
    kernel_distance,
    manifolds,
    path_length,
    sliced_wasserstein,
    two_sample_test,
)
from saddlepoint.metrics.paths import face_crop, slerp

A = torch.randn(6, 9, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def sampler(n: int, random: torch.Generator) -> Tensor:
    return torch.randn(n, 6, generator=random, dtype=torch.float64)


def squared(a: Tensor, b: Tensor) -> Tensor:
    return (a - b).square().flatten(1).sum(dim=1)


# -------------------------------------------------------------------------------------------------------- path length
@pytest.mark.parametrize("where", ["full", "end"])
@pytest.mark.parametrize("epsilon", [1e-2, 1e-4])
def test_linear_generator_in_w(where: Any, epsilon: float) -> None:
    """G(w) = A w: the mean of |A (w1 - w0)|^2 is 2 |A|^2 for independent standard normal w, for any step."""
    found = path_length(
        lambda w: w @ A, sampler, squared, space="w", mapping=lambda z: z, where=where, epsilon=epsilon,
        samples=4000, batch=500, trim=(0, 100),
    )  # fmt: skip
    assert abs(found - 2 * float(A.square().sum())) < 4 * found.standard_error


def test_linear_generator_on_the_sphere() -> None:
    """slerp moves at the angle's speed: for G = identity the length is E angle^2, the same everywhere on the path."""
    found = path_length(lambda z: z, sampler, squared, samples=3000, batch=500, trim=(0, 100))
    z = torch.randn(2, 200_000, 6, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    angle = torch.acos(torch.cosine_similarity(z[0], z[1], dim=-1))
    assert abs(found - float(angle.square().mean())) < 4 * found.standard_error


def test_both_ends_come_in_one_batch_trimmed_and_repeatable() -> None:
    shapes = []

    def generator(z: Tensor) -> Tensor:
        shapes.append(len(z))
        return (z @ A).view(-1, 1, 3, 3)

    seen: list[tuple[int, int]] = []
    options: dict[str, Any] = {"samples": 50, "batch": 16, "seed": 3, "progress": lambda *p: seen.append(p)}
    found = path_length(generator, sampler, squared, **options)
    assert shapes == [32, 32, 32, 4] and seen[-1] == (50, 50)
    assert found == path_length(generator, sampler, squared, **options)
    assert found < path_length(generator, sampler, squared, trim=(0, 100), **options) * 1.5
    outlier = path_length(
        lambda z: z, sampler, lambda a, b: squared(a, b).scatter(0, torch.tensor([0]), 1e9), samples=200, batch=200
    )
    assert outlier < 10  # one value in two hundred is cut


def test_crop_and_reduction_reach_the_distance() -> None:
    shapes = []

    def distance(a: Tensor, b: Tensor) -> Tensor:
        shapes.append(tuple(a.shape))
        return squared(a, b)

    def generator(z: Tensor) -> Tensor:
        return z[:, :1, None, None].expand(-1, 1, 64, 64)

    path_length(generator, sampler, distance, samples=4, batch=4, crop=face_crop)
    path_length(generator, sampler, distance, samples=4, batch=4, largest=16)
    assert shapes == [(4, 1, 32, 32), (4, 1, 16, 16)]
    t = torch.tensor([[0.0], [1.0]], dtype=torch.float64)
    a, b = sampler(2, torch.Generator()), sampler(2, torch.Generator().manual_seed(1))
    ends = slerp(a, b, t)
    torch.testing.assert_close(ends[0], a[0] / a[0].norm())
    torch.testing.assert_close(ends[1], b[1] / b[1].norm())


def test_path_length_refuses() -> None:
    with pytest.raises(UserError, match="did you mean 'full'"):
        path_length(lambda z: z, sampler, squared, where="ful")  # type: ignore[arg-type]
    with pytest.raises(UserError, match="mapping"):
        path_length(lambda z: z, sampler, squared, space="w")
    with pytest.raises(UserError, match="20 of 20 path lengths are not finite"):
        path_length(lambda z: z * torch.nan, sampler, squared, samples=20)


# -------------------------------------------------------------------------------------------------- intervals, floors
def mean_gap(x: Tensor, y: Tensor) -> float:
    return float((y.mean(dim=0) - x.mean(dim=0)).sum())


@pytest.mark.parametrize("kind", ["subset", "bootstrap"])
def test_intervals_have_the_error_of_the_mean_and_cover(kind: Any) -> None:
    x = np.random.default_rng(0).normal(size=(50, 1))
    centre = -float(x.mean())
    covered = []
    for seed in range(60):
        y = np.random.default_rng(seed + 1).normal(size=(80, 1))
        found = interval(mean_gap, x, y, kind=kind, repeats=60, seed=seed)
        covered.append(found.low <= centre <= found.high)
        if seed == 0:
            assert found.standard_error == pytest.approx(y.std(ddof=1) / np.sqrt(80), rel=0.3)
            assert found.low < found.value < found.high and len(found.values) == 60
    assert 0.85 <= np.mean(covered) <= 1


def test_both_sides_widen_the_interval() -> None:
    x, y = np.random.default_rng(1).normal(size=(2, 60, 1))
    one, two = (interval(mean_gap, x, y, both=both, repeats=300).standard_error for both in (False, True))
    assert two == pytest.approx(np.sqrt(2) * one, rel=0.25)


def test_the_floor_takes_disjoint_parts_of_the_sizes_asked_for() -> None:
    real = np.arange(100.0)[:, None]
    seen = []

    def metric(x: Tensor, y: Tensor) -> float:
        seen.append((set(x[:, 0].tolist()), set(y[:, 0].tolist())))
        return float(len(seen))

    found = floor(metric, real, (60, 30), repeats=3)
    assert found == 2 and found.parts == (1, 2, 3)
    for x, y in seen:
        assert len(x) == 60 and len(y) == 30 and not x & y
    assert seen[0] != seen[1]
    floor(metric, real)
    assert [len(s) for s in seen[-1]] == [50, 50]


# ----------------------------------------------------------------------------------------------------------- ordering
def digits() -> tuple[Any, Any]:
    """Real images that need no download: scikit-learn's 8 x 8 digits in [0, 1], two disjoint halves."""
    from sklearn.datasets import load_digits

    images = load_digits().images / 16
    order = np.random.default_rng(0).permutation(len(images))
    return images[order[:800]], images[order[800:1600]]


def damaged(images: Any, kind: str, amount: float) -> Any:
    from scipy import ndimage

    rng = np.random.default_rng(1)
    if kind == "blur":
        return ndimage.gaussian_filter(images, (0, amount, amount))
    if kind == "noise":
        return images + amount * rng.normal(size=images.shape)
    return np.where(
        rng.random((len(images), 1, 1)) < amount, images[rng.integers(0, 5, len(images))], images
    )  # collapse


def farther_from_chance(x: Any, y: Any) -> float:
    """Of both halves of the nearest neighbour's accuracy: their mean cannot see noise, which scatters y between x."""
    found = two_sample_test(x, y, "nearest", permutations=1)
    return max(found.real, found.generated)


SCORES: dict[str, Callable[[Any, Any], float]] = {
    "frechet": frechet_distance,
    "kernel": kernel_distance,
    "cmmd": lambda x, y: cmmd(x, y, sigma=2.0),
    "sliced": lambda x, y: sliced_wasserstein(x, y, 100),
    "two-sample": farther_from_chance,
}


@pytest.mark.parametrize("kind", ["blur", "noise", "collapse"])
@pytest.mark.parametrize("name", SCORES)
def test_distances_grow_with_the_damage(name: str, kind: str) -> None:
    real, other = digits()
    levels = {"blur": (0, 0.5, 0.8, 1.5), "noise": (0, 0.1, 0.25, 0.6), "collapse": (0, 0.3, 0.6, 0.95)}[kind]
    scores = [SCORES[name](real.reshape(800, 64), damaged(other, kind, a).reshape(800, 64)) for a in levels]
    slack = 0.02 if name == "two-sample" else 0.0  # saturates
    assert all(b > a - slack for a, b in itertools.pairwise(scores)) and scores[-1] > scores[0] + slack


def test_dropped_modes_lower_recall_and_coverage_but_not_precision() -> None:
    rng = np.random.default_rng(2)
    places = 10 * rng.normal(size=(10, 16))
    real = places[np.arange(1000) % 10] + rng.normal(size=(1000, 16))
    found = []
    for modes in (10, 6, 2):
        found.append(manifolds(real, places[np.arange(1000) % modes] + rng.normal(size=(1000, 16)), 5))
    precision, recall, density, coverage = np.transpose(found)
    assert (np.diff(recall) < -0.25).all() and (np.diff(coverage) < -0.25).all()
    assert (precision > precision[0] - 0.02).all() and (density > 0.9).all()
    assert coverage == pytest.approx([0.97, 0.6, 0.2], abs=0.04)
