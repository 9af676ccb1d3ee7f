"""W1: the worked example from both sides, SciPy and POT as oracles, metric properties, certificates, bounds."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import stats
from scipy.optimize import linear_sum_assignment
from scipy.spatial.distance import cdist
from torch import distributions as D

from saddlepoint.errors import UserError
from saddlepoint.theory.distributions import Grid, Piecewise, Samples
from saddlepoint.theory.transport import (
    LinePlan,
    solve,
    w1,
    w1_dual,
    w1_entropic,
    w1_plan,
    w1_sliced,
    warm_duals,
    worked_example,
)

numbers = st.floats(-5, 5, allow_subnormal=False)
clouds = st.integers(1, 9).flatmap(lambda n: arrays(float, n, elements=numbers))
heights = arrays(float, 8, elements=st.floats(0, 1)).filter(lambda v: v.sum() > 0.1)


def weights(rng: np.random.Generator, n: int, power: int = 1) -> np.ndarray:
    w = rng.random(n) ** power
    return np.asarray(w / w.sum())


def emd(x: np.ndarray, y: np.ndarray, a: np.ndarray | None = None, b: np.ndarray | None = None) -> float:
    ot = pytest.importorskip("ot")
    marginals = [[] if w is None else w for w in (a, b)]
    return float(ot.emd2(*marginals, cdist(x, y), numItermax=10**7))


# ------------------------------------------------------------------------------------------------ the worked example
def test_worked_example_is_three_from_both_sides_exactly() -> None:
    p, q = worked_example()
    f = w1_dual(p, q)
    assert w1(p, q) == 3.0
    assert (f.primal, f.dual, f.gap, f.lipschitz) == (3.0, 3.0, 0.0, 1.0)


def test_worked_example_plan_is_the_monotone_one_and_costs_what_the_lectures_does() -> None:
    plan = w1_plan(*worked_example())
    assert isinstance(plan, LinePlan)
    assert plan.mass.tolist() == [0.25, 0.25, 0.5]
    assert plan.source.tolist() == [[1, 2], [3, 4], [9, 10]]
    assert plan.target.tolist() == [[5, 5.5], [5.5, 6], [6, 7]]
    translation = LinePlan(plan.mass, plan.source, np.array([[5.0, 6], [5, 6], [6, 7]]))  # shifts 4, 2, 3
    assert plan.cost == translation.cost == 4 / 4 + 2 / 4 + 3 / 2


def test_worked_example_potential_is_the_distance_to_six() -> None:
    f = w1_dual(*worked_example())
    x = np.linspace(1, 10, 91)
    np.testing.assert_allclose(f(x) - f(6.0), np.abs(x - 6), atol=1e-12)
    lecture = f(x) - f(6.0) - 1.5
    assert lecture[0] == pytest.approx(3.5)
    assert lecture[-1] == pytest.approx(2.5)


def test_the_printed_q_of_mass_two_is_refused_and_its_normalised_form_is_the_figures() -> None:
    p, q = worked_example()
    assert w1(p, Piecewise.sum_of((1, 5, 7), normalise=True)) == w1(p, q)


# ----------------------------------------------------------------------------------------------------------- the line
@pytest.mark.parametrize(("n", "m"), [(1, 1), (7, 7), (7, 3), (1000, 1000), (1000, 701), (6, 4)])
def test_line_against_scipy(n: int, m: int) -> None:
    rng = np.random.default_rng(n + m)
    a, b = rng.normal(size=n), 0.5 + 2 * rng.normal(size=m)
    u, v = weights(rng, n), weights(rng, m)
    assert w1(a, b) == pytest.approx(stats.wasserstein_distance(a, b), abs=1e-13)
    assert w1(Samples(a, u), Samples(b, v)) == pytest.approx(stats.wasserstein_distance(a, b, u, v), abs=1e-13)
    plan = w1_plan(a, b)
    assert isinstance(plan, LinePlan)
    assert plan.cost == pytest.approx(w1(a, b), abs=1e-13)
    assert plan.mass.sum() == pytest.approx(1)


def test_ties_and_repeated_points_on_the_line() -> None:
    a, b = np.array([0, 0, 1, 1, 1.0]), np.array([0, 1.0])
    assert w1(a, b) == pytest.approx(0.1)
    assert w1_dual(a, b).gap == pytest.approx(0, abs=1e-15)
    assert w1([3.0], [3.0]) == 0 == w1_dual([3.0], [3.0]).dual


@settings(max_examples=60, deadline=None)
@given(clouds, clouds, clouds)
def test_metric_axioms(a: np.ndarray, b: np.ndarray, c: np.ndarray) -> None:
    assert w1(a, a) == 0
    assert w1(a, b) == pytest.approx(w1(b, a), abs=1e-13)
    assert w1(a, c) <= w1(a, b) + w1(b, c) + 1e-12


@settings(max_examples=60, deadline=None)
@given(clouds, clouds, st.floats(-100, 100), st.floats(0.01, 50))
def test_translation_and_scale(a: np.ndarray, b: np.ndarray, t: float, s: float) -> None:
    assert w1(a, a + t) == pytest.approx(abs(t), abs=1e-12)
    assert w1(a + t, b + t) == pytest.approx(w1(a, b), abs=1e-12)
    assert w1(-s * a, -s * b) == pytest.approx(s * w1(a, b), abs=1e-11)


@settings(max_examples=60, deadline=None)
@given(heights, heights, st.floats(-2, 2))
def test_piecewise_is_the_integral_of_the_cdf_difference(a: np.ndarray, b: np.ndarray, shift: float) -> None:
    edges = np.arange(9) / 3
    p, q = Piecewise(edges, a, normalise=True), Piecewise(edges * 0.7 + shift, b, normalise=True)
    x = np.linspace(-3, 5, 400_001)
    riemann = np.trapezoid(np.abs(p.cdf(x) - q.cdf(x)), x)
    assert w1(p, q) == pytest.approx(riemann, abs=1e-8)
    f = w1_dual(p, q)
    assert f.gap == pytest.approx(0, abs=1e-12)
    assert f.lipschitz <= 1 + 1e-9


@settings(max_examples=60, deadline=None)
@given(clouds, clouds, heights)
def test_the_dual_certifies_samples_weights_and_mixed_kinds(a: np.ndarray, b: np.ndarray, h: np.ndarray) -> None:
    p = Samples(a, np.arange(1, len(a) + 1), normalise=True)
    for q in (Samples(b), Piecewise(np.linspace(-4, 4, 9), h, normalise=True)):
        f = w1_dual(p, q)
        assert f.primal == pytest.approx(w1(p, q), abs=1e-12)
        assert f.gap == pytest.approx(0, abs=1e-11)
        assert f.lipschitz <= 1 + 1e-8
    samples = w1_dual(p, Samples(b))
    by_hand = float(p.mass @ samples(a) - samples(b).mean())
    assert by_hand == pytest.approx(w1(p, b), abs=1e-12)


def test_every_torch_distribution_on_the_line() -> None:
    standard = D.Normal(torch.tensor(0.0).double(), torch.tensor(1.0).double())
    assert w1(standard, D.Exponential(torch.tensor(1.0).double())) == pytest.approx(
        1.0, abs=1e-6
    )  # one is stochastically larger
    assert w1(D.Uniform(0.0, 1.0), D.Uniform(0.25, 0.75)) == pytest.approx(0.125, abs=1e-6)
    assert w1(D.Bernoulli(0.2), D.Bernoulli(0.9)) == pytest.approx(0.7, abs=1e-6)
    assert w1(D.Poisson(2.0), D.Poisson(5.0)) == pytest.approx(3.0, abs=1e-5)
    f = w1_dual(standard, D.Normal(torch.tensor(0.0).double(), torch.tensor(2.0).double()))
    assert f.gap == pytest.approx(0, abs=1e-9)
    assert f.primal == pytest.approx(math.sqrt(2 / math.pi), abs=1e-6)
    with pytest.raises(UserError, match="no finite mean"):
        w1(D.Cauchy(0.0, 1.0), standard)


def test_critic_of_two_shifted_densities_is_worth_the_shift() -> None:
    x = np.linspace(-20, 20, 4001)
    p, q = (Grid(x, stats.norm.pdf(x, m)) for m in (-5, 5))  # figure 2 of the WGAN paper
    f = w1_dual(p, q)
    assert f.dual == pytest.approx(10, abs=1e-9)
    slope = np.diff(f(np.linspace(-8, 8, 33))) / 0.5
    np.testing.assert_allclose(slope, -1, atol=1e-9)


# --------------------------------------------------------------------------------------------------------- point sets
@pytest.mark.parametrize(
    ("n", "dim", "shift"), [(1, 2, 0), (5, 3, 1), (63, 2, 1), (64, 2, 0), (300, 2, 3), (200, 10, 1)]
)
def test_equal_point_sets_are_an_assignment(n: int, dim: int, shift: float) -> None:
    rng = np.random.default_rng(n)
    x, y = rng.normal(size=(n, dim)), rng.normal(size=(n, dim)) + shift
    cost = cdist(x, y)
    i, j = linear_sum_assignment(cost)
    assert w1(x, y) == pytest.approx(cost[i, j].mean(), abs=1e-13)
    f = w1_dual(x, y)
    assert f.primal == pytest.approx(f.dual, abs=1e-12)
    assert f.dual == pytest.approx((f(x) - f(y)).mean(), abs=1e-12)
    assert f.lipschitz <= 1 + 1e-9
    plan = w1_plan(x, y)
    assert isinstance(plan, np.ndarray)
    np.testing.assert_allclose([plan.sum(0), plan.sum(1)], 1 / n, atol=1e-15)


@pytest.mark.parametrize(
    ("n", "m", "dim", "power"),
    [(1, 4, 2, 1), (5, 3, 2, 1), (120, 90, 2, 1), (150, 40, 3, 6), (30, 200, 2, 6), (80, 80, 5, 1)],
)
def test_weighted_point_sets_against_pot(n: int, m: int, dim: int, power: int) -> None:
    rng = np.random.default_rng(10 * n + m)
    x, y = 100 * rng.normal(size=(n, dim)), 100 * rng.normal(size=(m, dim)) + 30
    a, b = weights(rng, n, power), weights(rng, m, power)
    expected = emd(x, y, a, b)
    p, q = Samples(x, a), Samples(y, b)
    assert w1(p, q) == pytest.approx(expected, rel=1e-12)
    assert w1(x, y) == pytest.approx(emd(x, y), rel=1e-11)
    plan = w1_plan(p, q)
    assert isinstance(plan, np.ndarray)
    assert plan.min() >= 0
    np.testing.assert_allclose(plan.sum(axis=1), a, atol=1e-14)
    np.testing.assert_allclose(plan.sum(axis=0), b, atol=1e-14)
    f = w1_dual(p, q)
    assert f.gap == pytest.approx(0, abs=1e-10 * expected)
    assert f.lipschitz <= 1 + 1e-9


def test_lattices_with_ties_and_common_points() -> None:
    side = np.stack(np.meshgrid(np.arange(6.0), np.arange(6.0)), -1).reshape(-1, 2)
    assert w1(side, side + np.array([1, 0])) == pytest.approx(1, abs=1e-12)
    assert w1(side, np.concatenate([side, side])) == pytest.approx(0, abs=1e-12)
    f = w1_dual(side, side + np.array([0, 2]))
    assert f.gap == pytest.approx(0, abs=1e-12)
    assert w1_dual(side, side).dual == pytest.approx(0, abs=1e-14)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10**6), st.floats(-20, 20), st.floats(-20, 20))
def test_translation_of_a_cloud_in_the_plane(seed: int, s: float, t: float) -> None:
    x = np.random.default_rng(seed).normal(size=(12, 2))
    assert w1(x, x + np.array([s, t])) == pytest.approx(math.hypot(s, t), abs=1e-11)


def test_grids_in_the_plane_and_the_mass_they_share() -> None:
    x = np.linspace(-3, 3, 13)
    p, q = (Grid((x, x), np.outer(stats.norm.pdf(x, m), stats.norm.pdf(x)), normalise=True) for m in (-0.5, 0.5))
    points, a, b = p.points, (p.density * p.cells).ravel(), (q.density * q.cells).ravel()
    assert w1(p, q) == pytest.approx(emd(points, points, a, b), abs=1e-12)
    f = w1_dual(p, q)
    assert f.dual == pytest.approx(a @ f(points) - b @ f(points), abs=1e-12)
    assert f.gap == pytest.approx(0, abs=1e-12)
    assert w1(p, p) == 0


def test_the_potential_is_lipschitz_everywhere_not_only_at_the_points() -> None:
    rng = np.random.default_rng(0)
    f = w1_dual(rng.normal(size=(40, 2)), rng.normal(size=(30, 2)) + 2)
    a, b = 5 * rng.normal(size=(2, 2000, 2))
    assert (np.abs(f(a) - f(b)) / np.linalg.norm(a - b, axis=1)).max() <= 1 + 1e-12
    assert f(torch.zeros(3, 4, 2)).shape == (3, 4)


def test_warm_potentials_change_the_work_and_not_the_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(1)
    x, y, a = rng.normal(size=(100, 2)), rng.normal(size=(100, 2)) + 1, np.full(100, 0.01)
    warm = w1(x, y)
    u, g = warm_duals(cdist(x, y), a, a)
    assert a @ u + a @ g == pytest.approx(warm, rel=0.02)
    wrong = "saddlepoint.theory.transport.warm_duals"
    monkeypatch.setattr(wrong, lambda *_: (100 * rng.normal(size=100), rng.normal(size=100)))
    assert w1(x, y) == pytest.approx(warm, abs=1e-12)
    assert w1_dual(x, y).gap == pytest.approx(0, abs=1e-12)
    skewed = np.arange(1, 101) / 5050
    i, j, mass = solve(x, skewed, y, a)
    assert mass @ np.linalg.norm(x[i] - y[j], axis=1) == pytest.approx(emd(x, y, skewed, a), abs=1e-12)


# ------------------------------------------------------------------------------------------------ entropic and sliced
@pytest.mark.parametrize("epsilon", [1.0, 0.1, 0.02])
@pytest.mark.parametrize("iterations", [2, 500])
def test_entropic_bounds_bracket_the_exact_value(epsilon: float, iterations: int) -> None:
    rng = np.random.default_rng(0)
    p = Samples(rng.normal(size=(60, 2)), weights(rng, 60))
    q = Samples(rng.normal(size=(45, 2)) + 1, weights(rng, 45))
    exact = w1(p, q)
    found = w1_entropic(p, q, epsilon=epsilon, iterations=iterations)
    assert found.lower <= exact + 1e-12 <= found.upper + 2e-12
    assert found.epsilon == epsilon
    if iterations == 500:
        assert found.marginal_violation < 1e-3
        assert found.upper - found.lower < 3 * epsilon  # it tightens as the temperature falls


def test_entropic_plan_solves_the_regularised_problem() -> None:
    ot = pytest.importorskip("ot")
    rng = np.random.default_rng(3)
    x, y, a = rng.normal(size=(20, 2)), rng.normal(size=(30, 2)), weights(rng, 20)
    found = w1_entropic(Samples(x, a), y, epsilon=0.3, tolerance=1e-12)
    theirs = ot.sinkhorn(a, np.full(30, 1 / 30), cdist(x, y), 0.3, stopThr=1e-13, numItermax=10**4)
    np.testing.assert_allclose(found.plan, theirs, atol=1e-10)
    assert found.marginal_violation < 1e-10


def test_debiased_divergence_vanishes_between_equals_and_matches_its_definition() -> None:
    rng = np.random.default_rng(4)
    x, y = rng.normal(size=(25, 2)), rng.normal(size=(25, 2)) + 3
    options = {"epsilon": 0.5, "tolerance": 1e-10}
    assert w1(x, x, method="entropic", debias=True, **options) == pytest.approx(0, abs=1e-6)

    def regularised(s: np.ndarray, t: np.ndarray) -> float:
        found = w1_entropic(s, t, **options)
        return found.value + 0.5 * float((found.plan * np.log(found.plan * 25 * 25)).sum())

    expected = regularised(x, y) - regularised(x, x) / 2 - regularised(y, y) / 2
    assert w1(x, y, method="entropic", debias=True, **options) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("dim", [1, 2, 5])
def test_sliced_of_a_shift(dim: int) -> None:
    x = np.random.default_rng(dim).normal(size=(200, dim))
    t = np.full(dim, 3 / math.sqrt(dim))
    truth = 3 * math.gamma(dim / 2) / (math.sqrt(math.pi) * math.gamma((dim + 1) / 2))  # |t| E|theta_1|
    found = w1_sliced(x, x + t, directions=400, seed=1)
    assert abs(found.value - truth) <= 4 * found.standard_error + 1e-12
    assert found.value <= w1(x, x + t) + 1e-12


# ------------------------------------------------------------------------------------------------------ refused inputs
@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: w1([0.0], [1.0], method="sinkhorn"), "unknown W1 method 'sinkhorn'"),  # type: ignore[arg-type]
        (lambda: w1(np.zeros((7000, 2)), np.zeros((7000, 2))), "sliced"),
        (lambda: w1(*[D.MultivariateNormal(torch.zeros(2), torch.eye(2))] * 2), "draw samples"),
        (lambda: w1_entropic([0.0], [1.0], epsilon=-1), "epsilon must be positive"),
        (lambda: w1_entropic(*worked_example()), "Piecewise has no points"),
        (lambda: w1(np.zeros((2, 2)), np.zeros((2, 3))), "2 dimensions and q in 3"),
    ],
)
def test_inputs_that_cannot_be_used_are_named(make: object, message: str) -> None:
    with pytest.raises(UserError, match=message):
        make()  # type: ignore[operator]


def test_empty_cells_at_the_ends_of_a_grid_carry_nothing() -> None:
    x = np.linspace(-8, 8, 1601)
    p = np.where(np.abs(x + 5) < 1, 1.0, 0.0)
    q = np.where(np.abs(x - 5) < 1 / 3, 0.1, 0.0)  # cumulative masses end at 1 only to rounding
    found = w1(Grid(x, p, normalise=True), Grid(x, q, normalise=True))
    assert found == pytest.approx(10, abs=0.02)
