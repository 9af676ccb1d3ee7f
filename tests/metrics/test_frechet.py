"""The Frechet distance: closed forms, SciPy's matrix square root and torchmetrics as oracles, singular covariances."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest
import scipy.linalg
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from saddlepoint.errors import UserError
from saddlepoint.metrics import Moments, frechet_distance, frechet_from_moments, frechet_infinity
from saddlepoint.metrics.frechet import trace_of_root


def by_sqrtm(x: Any, y: Any, ddof: int = 1) -> float:
    a, b = (np.cov(v, rowvar=False, ddof=ddof) for v in (x, y))
    root = scipy.linalg.sqrtm(a @ b)
    return float(((x.mean(0) - y.mean(0)) ** 2).sum() + np.trace(a) + np.trace(b) - 2 * np.trace(root).real)


def normal(seed: int, n: int, d: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return rng.normal(size=(n, d)) * np.linspace(0.2, 2, d) + rng.normal(size=d)


def exactly(mean: np.ndarray, root: np.ndarray) -> Moments:
    """Moments of a Gaussian with this mean and covariance root root'."""
    return Moments.from_arrays({"mu": mean, "sigma": root @ root.T})


def test_agrees_with_the_matrix_square_root() -> None:
    x, y = normal(0, 500, 40), normal(1, 400, 40)
    assert frechet_distance(x, y) == pytest.approx(by_sqrtm(x, y), rel=1e-10)
    assert frechet_distance(x, y, ddof=0) == pytest.approx(by_sqrtm(x, y, 0), rel=1e-10)


def test_agrees_with_torchmetrics() -> None:
    from torchmetrics.image.fid import FrechetInceptionDistance

    class Given(torch.nn.Module):
        """A feature network that hands its input on."""

        num_features = 12

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x.flatten(1).double()

    x, y = normal(2, 300, 12), normal(3, 200, 12)
    metric = FrechetInceptionDistance(feature=Given(), normalize=True, input_img_size=(12, 1, 1)).set_dtype(
        torch.float64
    )
    for features, real in ((x, True), (y, False)):
        metric.update(torch.from_numpy(features).view(len(features), 12, 1, 1), real=real)
    assert frechet_distance(x, y) == pytest.approx(float(metric.compute()), rel=1e-6)


def test_closed_forms_of_gaussians() -> None:
    d = 9
    rng = np.random.default_rng(4)
    root, shift = rng.normal(size=(d, d)), rng.normal(size=d)
    same = frechet_from_moments(exactly(np.zeros(d), root), exactly(shift, root))
    assert same == pytest.approx(shift @ shift, rel=1e-9)
    isotropic = frechet_from_moments(exactly(shift, 3 * np.eye(d)), exactly(shift, 0.5 * np.eye(d)))
    assert isotropic == pytest.approx(d * 2.5**2, rel=1e-12)
    a, b = rng.uniform(0.1, 2, (2, d))  # commuting covariances
    assert frechet_from_moments(exactly(shift, np.diag(a)), exactly(shift, np.diag(b))) == pytest.approx(
        ((a - b) ** 2).sum(), rel=1e-10
    )


@pytest.mark.parametrize(("n", "m"), [(20, 300), (300, 20), (20, 15), (30, 30), (2, 2)])
def test_fewer_samples_than_features_are_exact(n: int, m: int) -> None:
    """Rotated into the span of the samples, nothing is singular: the distance there is the same."""
    x, y = normal(5, n, 64), normal(6, m, 64)
    basis = np.linalg.svd(np.concatenate([x, y]), full_matrices=False)[2]
    a, b = (v - v.mean(0) for v in (x @ basis.T, y @ basis.T))
    root = np.linalg.svd(a @ b.T, compute_uv=False).sum() / np.sqrt((n - 1) * (m - 1))
    expected = ((x.mean(0) - y.mean(0)) ** 2).sum() + x.var(0, ddof=1).sum() + y.var(0, ddof=1).sum() - 2 * root
    assert frechet_distance(x, y) == pytest.approx(expected, rel=1e-10)
    through_covariances = frechet_from_moments(Moments.of(x), Moments.of(y))
    assert through_covariances == pytest.approx(expected, rel=1e-6)
    assert frechet_distance(x, x) <= 1e-10 * np.trace(np.cov(x.T))


def test_rank_deficient_and_ill_conditioned() -> None:
    x, y = normal(7, 300, 20), normal(8, 300, 20)
    for v in (x, y):
        v[:, 5] = 0  # a dead feature
        v[:, 7] = v[:, 3] + v[:, 4]
    kept = np.delete(np.arange(20), [5])
    assert frechet_distance(x, y) == pytest.approx(frechet_distance(x[:, kept], y[:, kept]), rel=1e-9)
    scales = np.logspace(0, -9, 20)
    a, b = exactly(np.zeros(20), np.diag(scales)), exactly(np.zeros(20), np.diag(2 * scales))
    assert frechet_from_moments(a, b) == pytest.approx((scales**2).sum(), rel=1e-9)
    assert frechet_distance(x, x) <= 1e-6 * np.trace(np.cov(x.T))
    assert trace_of_root(np.zeros((3, 3)), np.eye(3)) == 0


def test_points_have_the_distance_of_points() -> None:
    x = np.stack([np.zeros(4), np.zeros(4) + 1e-300])
    assert frechet_distance(x, np.full((3, 4), 2.0)) == pytest.approx(16)


@settings(max_examples=25)
@given(seed=st.integers(0, 10**6), scale=st.floats(0.01, 100), n=st.integers(3, 40), m=st.integers(3, 40))
def test_invariances(seed: int, scale: float, n: int, m: int) -> None:
    rng = np.random.default_rng(seed)
    x, y = rng.normal(size=(n, 6)), 0.5 * rng.normal(size=(m, 6)) + 1
    rotation, shift = np.linalg.qr(rng.normal(size=(6, 6)))[0], rng.normal(size=6)
    d = frechet_distance(x, y)
    assert frechet_distance(y, x) == pytest.approx(d, rel=1e-8)
    assert frechet_distance(x[rng.permutation(n)], y) == pytest.approx(d, rel=1e-8)
    assert frechet_distance(x @ rotation + shift, y @ rotation + shift) == pytest.approx(d, rel=1e-7)
    assert frechet_distance(scale * x, scale * y) == pytest.approx(scale**2 * d, rel=1e-8)


# --------------------------------------------------------------------------------------------------------- streaming
def test_streamed_moments_equal_numpy_in_any_order_and_across_processes() -> None:
    x = normal(9, 1000, 15) + 1e4  # far from 0: sums of squares would lose half the digits
    parts = np.split(x, [1, 7, 300, 301, 650])
    orders = [Moments.of(x), Moments.of_stream(parts), Moments.of_stream(parts[::-1])]
    one, two = Moments.of_stream(parts[:3]), Moments.of_stream(parts[3:])
    orders.append(Moments(15).merge(one).merge(two).merge(Moments(15)))
    for found in orders:
        assert found.count == 1000
        np.testing.assert_allclose(found.mean, x.mean(0), rtol=1e-12)
        np.testing.assert_allclose(found.covariance(), np.cov(x.T), rtol=1e-8, atol=1e-8)
    np.testing.assert_allclose(one.covariance(ddof=0), np.cov(x[:300].T, ddof=0), atol=1e-8)


def test_moments_survive_a_file_and_read_other_tools_statistics() -> None:
    x, y = normal(10, 100, 5), normal(11, 90, 5)
    file = io.BytesIO()
    np.savez(file, **Moments.of(x).to_arrays())
    file.seek(0)
    back = Moments.from_arrays(np.load(file))
    assert frechet_distance(back, y) == pytest.approx(frechet_distance(x, y), rel=1e-12) and back.count == 100
    foreign = Moments.from_arrays({"mu": x.mean(0), "sigma": np.cov(x.T)})
    assert frechet_distance(foreign, y) == pytest.approx(frechet_distance(x, y), rel=1e-12)
    with pytest.raises(UserError, match="expected count, mean and scatter"):
        Moments.from_arrays({"mean": x.mean(0)})
    with pytest.raises(UserError, match="x has 5 features and y 4"):
        frechet_distance(back, y[:, :4])
    with pytest.raises(UserError, match="no covariance"):
        Moments.of(x[:1]).covariance()
    with pytest.raises(UserError, match="stream of features is empty"):
        Moments.of_stream([])


# ------------------------------------------------------------------------------------------------------ extrapolation
def test_infinity_removes_the_bias_of_finite_samples() -> None:
    """A standard normal against itself: FD(N) is about C / N, and the line meets 0."""
    rng = np.random.default_rng(12)
    d = 20
    exact = Moments.from_arrays({"mu": np.zeros(d), "sigma": np.eye(d)})
    y = rng.normal(size=(8000, d))
    found = frechet_infinity(exact, y, seed=1)
    assert len(found.sizes) == 15 and found.sizes[0] == 800 and found.sizes[-1] == 8000
    assert found.distances[-1] == pytest.approx(frechet_distance(exact, y), rel=1e-9)
    # mean: d / N; covariance: (d^2 + d) / (4 N) to first order, from tr (I - S^(1/2))^2
    assert found.slope == pytest.approx(d + (d * d + d) / 4, rel=0.25)
    assert abs(found.value) < 0.25 * found.distances[-1]
    assert found.residual < 0.1 * found.distances[0]
    assert found == frechet_infinity(exact, y, seed=1) != frechet_infinity(exact, y, seed=2)
