"""Mode coverage: counted by hand, and on the mixture itself against closed forms."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from saddlepoint.data.toys import point_set
from saddlepoint.errors import UserError
from saddlepoint.metrics import expected_share, mode_coverage
from saddlepoint.metrics.modes import cut_std

SQUARE = np.array([[0.0, 0.0], [10.0, 0.0], [0.0, 10.0], [10.0, 10.0]])


def test_counts_by_hand() -> None:
    # 25 at mode 0, one at exactly 3 sigma from mode 1, one just beyond it, one nearest to mode 3 and far from it.
    points = np.concatenate([np.full((25, 2), 0.1), [[13.0, 0.0]], [[10.0, 3.001]], [[7.0, 7.0]]])
    found = mode_coverage(points, SQUARE, sigma=1.0)
    assert found.counts == (25, 1, 0, 0) and found.nearest == (25, 2, 0, 1)
    assert (found.samples, found.of_modes, found.modes, found.modes_20) == (28, 4, 2, 1)
    assert found.modes_1_percent == 2  # one of 28 is more than 1 %
    assert found.high_quality == pytest.approx(26 / 28)
    p = np.array([25, 1]) / 26
    assert found.kl == pytest.approx(float((p * np.log(4 * p)).sum()))
    assert found.std_ratio == pytest.approx(0, abs=1e-12)  # all 25 in one place


def test_one_mode_has_the_largest_divergence_and_an_even_spread_none() -> None:
    one = mode_coverage(np.zeros((50, 2)), SQUARE, 1.0)
    even = mode_coverage(np.repeat(SQUARE, 7, 0), SQUARE, 1.0)
    assert one.kl == pytest.approx(math.log(4)) and even.kl == 0


def test_spread_by_hand() -> None:
    # Two points at distance 1 around a mean: pooled variance per coordinate 2 * 0.25 / (1 * 2).
    found = mode_coverage([[0.5, 0.0], [-0.5, 0.0], [10.0, 10.0]], SQUARE, sigma=1.0)
    assert found.std_ratio == pytest.approx(math.sqrt(0.25) / cut_std())


def test_nothing_good_and_numbers_that_are_none() -> None:
    found = mode_coverage([[5.0, 5.0], [math.nan, 0.0], [math.inf, 0.0]], SQUARE, 0.1)
    assert found.modes == 0 and found.high_quality == 0
    assert math.isnan(found.kl) and math.isnan(found.std_ratio) and sum(found.nearest) == 3


@pytest.mark.parametrize("name", ["ring", "grid"])
def test_the_truth_scores_its_closed_forms(name: str) -> None:
    target, n = point_set(name), 40_000
    found = mode_coverage(target.points(0, n, seed=11), target.centres, target.sigma)
    share = 1 - math.exp(-4.5)
    assert expected_share() == pytest.approx(share) == pytest.approx(0.98889, abs=1e-5)
    assert abs(found.high_quality - share) < 4 * math.sqrt(share * (1 - share) / n)
    assert found.modes == found.modes_20 == found.modes_1_percent == target.modes
    assert 2 * n * found.kl < stats.chi2(target.modes - 1).ppf(1 - 1e-4)  # the likelihood ratio statistic
    assert abs(found.std_ratio - 1) < 4 / math.sqrt(4 * n)


@settings(max_examples=25)
@given(near=st.floats(0.5, 5), dimensions=st.integers(1, 6))
def test_closed_forms_of_the_cut_gaussian(near: float, dimensions: int) -> None:
    chi = stats.chi2(dimensions)
    assert expected_share(dimensions, near) == pytest.approx(chi.cdf(near**2))
    inside = chi.expect(lambda r: r, 0, near**2) / chi.cdf(near**2)
    assert cut_std(dimensions, near) == pytest.approx(math.sqrt(inside / dimensions), rel=1e-5)


def test_a_thinner_generator_has_a_smaller_ratio() -> None:
    ring = point_set("ring")
    thin = point_set("ring", sigma=ring.sigma / 2)
    found = mode_coverage(thin.points(0, 8000), ring.centres, ring.sigma)
    assert found.std_ratio == pytest.approx(0.5 / cut_std(), abs=0.02) and found.high_quality == 1


@settings(max_examples=25)
@given(st.permutations(range(8)))
def test_the_order_of_samples_and_of_modes_does_not_matter(order: list[int]) -> None:
    ring = point_set("ring")
    x = ring.points(0, 300)
    a = mode_coverage(x, ring.centres, ring.sigma)
    b = mode_coverage(x[::-1], ring.centres[order], ring.sigma)
    assert [a.counts[i] for i in order] == list(b.counts)
    assert (a.modes, a.high_quality) == (b.modes, b.high_quality)
    assert (a.kl, a.std_ratio) == pytest.approx((b.kl, b.std_ratio))


def test_tensors_and_arrays_are_the_same() -> None:
    ring = point_set("ring")
    x = ring.points(0, 100)
    assert mode_coverage(
        torch.from_numpy(x).requires_grad_(), torch.from_numpy(ring.centres), ring.sigma
    ) == mode_coverage(x, ring.centres, ring.sigma)


@pytest.mark.parametrize(
    ("points", "centres", "sigma", "message"),
    [
        (np.zeros((0, 2)), SQUARE, 1.0, r"points have shape \[0, 2\]"),
        (np.zeros(3), SQUARE, 1.0, r"points have shape \[3\]"),
        (np.zeros((3, 3)), SQUARE, 1.0, "3 coordinates and centres 2"),
        (np.zeros((3, 2)), np.zeros((2, 2)), 1.0, "coincide"),
        (np.zeros((3, 2)), SQUARE, 0.0, "sigma is 0"),
        (np.zeros((3, 2)), SQUARE, math.nan, "sigma is nan"),
    ],
)
def test_what_cannot_be_counted_is_refused(points: object, centres: object, sigma: float, message: str) -> None:
    with pytest.raises(UserError, match=message):
        mode_coverage(points, centres, sigma)


def test_plain_values_for_json() -> None:
    import json

    values = mode_coverage(np.zeros((5, 2)), SQUARE, 1.0).as_dict()
    assert json.loads(json.dumps(values)) == values and values["counts"] == [5, 0, 0, 0]
