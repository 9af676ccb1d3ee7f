"""KL, JSD, TV: numbers by hand, the sheet's table, torch as oracle, bounds with their equality cases."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import stats
from torch import distributions as D

from saddlepoint.errors import UserError
from saddlepoint.theory import divergences as dv
from saddlepoint.theory.distributions import Density, Grid, Piecewise, Samples
from saddlepoint.theory.divergences import estimate, jsd, kl, tv
from saddlepoint.theory.transport import w1

LOG2 = math.log(2)


def normal(mean: float, std: float = 1.0) -> D.Normal:
    return D.Normal(torch.tensor(mean, dtype=torch.float64), torch.tensor(std, dtype=torch.float64))


def coin(share: float) -> Samples:
    return Samples([0.0, 1.0], [1 - share, share])


densities = arrays(float, 12, elements=st.floats(0, 1)).filter(lambda v: v.sum() > 0.1)
edges = np.linspace(-1, 2, 13)


# ---------------------------------------------------------------------------------------------- values by hand
@pytest.mark.parametrize(("distance", "expected"), [(1, 0.111421), (2, 0.336831), (4, 0.632720), (10, 0.693146)])
def test_gaussian_table_of_the_sheet(distance: float, expected: float) -> None:
    p, q = normal(0), normal(distance)
    assert round(dv.gaussian_jsd(distance), 6) == expected
    assert jsd(p, q) == pytest.approx(dv.gaussian_jsd(distance), abs=1e-12)
    assert kl(p, q) == pytest.approx(distance**2 / 2, abs=1e-12)
    assert kl(p, q, analytic=False) == pytest.approx(distance**2 / 2, rel=1e-9)
    assert w1(p, q) == pytest.approx(distance, abs=1e-9)


def test_three_ways_to_give_a_gaussian_agree() -> None:
    x = np.linspace(-10, 12, 4001)
    as_grid = [Grid(x, stats.norm.pdf(x, m)) for m in (0, 1)]
    as_own = [
        Density(1, lambda z, m=m: stats.norm.logpdf(z[:, 0], m), lambda n, s: np.empty(0), edges=x) for m in (0, 1)
    ]
    for p, q in (as_grid, as_own, [as_grid[0], normal(1.0)], [normal(0.0), as_own[1]]):
        assert jsd(p, q) == pytest.approx(dv.gaussian_jsd(1), abs=1e-6)
        assert kl(p, q) == pytest.approx(0.5, abs=1e-6)
        assert tv(p, q) == pytest.approx(dv.gaussian_tv(1), abs=1e-6)


def test_two_dimensional_grid() -> None:
    x, y = np.linspace(-8, 9, 120), np.linspace(-8, 9, 131)
    p, q = (Grid((x, y), np.outer(stats.norm.pdf(x, m), stats.norm.pdf(y, m))) for m in (0, 1))
    assert kl(p, q) == pytest.approx(1.0, abs=1e-9)
    assert jsd(p, q) == pytest.approx(dv.gaussian_jsd(math.sqrt(2)), abs=1e-6)
    independent = D.Independent(D.Normal(torch.ones(2), torch.ones(2)), 1)
    assert kl(p, independent) == pytest.approx(1.0, abs=1e-5)


def test_coins_by_hand() -> None:
    p, q = coin(0.25), coin(0.75)
    m = 0.5
    assert tv(p, q, estimator="atoms") == pytest.approx(0.5, abs=1e-15)
    assert kl(p, q, estimator="atoms") == pytest.approx(0.5 * math.log(3), abs=1e-15)
    half = 0.25 * math.log(0.25 / m) + 0.75 * math.log(0.75 / m)
    assert jsd(p, q, estimator="atoms") == pytest.approx(half, abs=1e-15)


def test_piecewise_by_hand() -> None:
    p, q = Piecewise.sum_of((1, 0, 1)), Piecewise.sum_of((0.5, 0, 2))
    assert kl(p, q) == pytest.approx(LOG2, abs=1e-12)
    assert kl(q, p) == math.inf
    assert tv(p, q) == pytest.approx(0.5, abs=1e-12)
    by_hand = 0.5 * math.log(1 / 0.75) + 0.5 * (0.5 * math.log(0.5 / 0.75) + 0.5 * math.log(0.5 / 0.25))
    assert jsd(p, q) == pytest.approx(by_hand, abs=1e-12)
    overlapping = Piecewise.sum_of((0.5, 0, 1), (0.25, 0, 2))
    assert overlapping.heights.tolist() == [0.75, 0.25]


@pytest.mark.parametrize("distance", [0.0, 0.5, 3.0, 1e6])
def test_disjoint_supports_are_log_2_apart_at_any_distance(distance: float) -> None:
    p, q = Piecewise.sum_of((1, 0, 1)), Piecewise.sum_of((1, 1 + distance, 2 + distance))
    assert jsd(p, q) == pytest.approx(LOG2, abs=1e-12)
    assert tv(p, q) == pytest.approx(1, abs=1e-12)
    assert kl(p, q) == kl(q, p) == math.inf
    assert w1(p, q) == pytest.approx(1 + distance, rel=1e-12)  # and W1 does see how far


def test_kl_is_infinite_exactly_when_mass_is_missed() -> None:
    x = np.linspace(0, 1, 101)
    p, q = Grid(x, np.ones(101)), Grid(x, np.where(x > 0.5, 1.0, 0.0), normalise=True)
    assert kl(p, q) == math.inf
    assert math.isfinite(kl(q, p))
    assert math.isfinite(jsd(p, q))


# -------------------------------------------------------------------------------------- torch distributions, as oracle
@pytest.mark.parametrize(
    ("p", "q"),
    [
        (D.Exponential(1.0), D.Exponential(3.0)),
        (D.Gamma(0.5, 1.0), D.Gamma(0.7, 2.0)),  # densities infinite at 0
        (D.Beta(0.5, 0.5), D.Beta(2.0, 3.0)),
        (D.Cauchy(0.0, 1.0), D.Cauchy(1.0, 2.0)),  # no mean
        (D.LogNormal(0.0, 1.0), D.LogNormal(1.0, 2.0)),
        (D.Uniform(0.0, 1.0), D.Uniform(-1.0, 2.0)),
        (D.Laplace(0.0, 1.0), D.Normal(0.0, 1.0)),
        (D.Exponential(1.0), D.Normal(0.0, 1.0)),
        (D.Gumbel(0.0, 1.0), D.Normal(0.0, 1.0)),
        (D.Bernoulli(0.3), D.Bernoulli(0.7)),
        (D.Poisson(2.0), D.Poisson(3.0)),
        (D.Geometric(0.3), D.Geometric(0.5)),
        (D.Categorical(torch.tensor([0.2, 0.8])), D.Categorical(torch.tensor([0.5, 0.5]))),
    ],
    ids=lambda d: type(d).__name__,
)
def test_quadrature_against_registered_closed_forms(p: D.Distribution, q: D.Distribution) -> None:
    registered, ours = estimate("kl", p, q), estimate("kl", p, q, analytic=False)
    assert registered.method == "analytic" != ours.method
    assert ours.value == pytest.approx(registered.value, rel=3e-6)  # torch's parameters are in single precision
    assert ours.standard_error == 0


def test_mixtures_with_narrow_far_and_bounded_components() -> None:
    weights = D.Categorical(torch.tensor([0.3, 0.7], dtype=torch.float64))
    spike = D.MixtureSameFamily(
        weights, D.Normal(torch.tensor([-50.0, 3.0]).double(), torch.tensor([1e-3, 2.0]).double())
    )
    slabs = D.MixtureSameFamily(
        weights, D.Uniform(torch.tensor([0.0, 3.0]).double(), torch.tensor([1.0, 4.0]).double())
    )
    by_hand = Piecewise.sum_of((0.3, 0, 1), (0.7, 3, 4))
    assert tv(slabs, by_hand) == pytest.approx(0, abs=1e-9)
    assert kl(slabs, Piecewise.sum_of((0.25, 0, 4))) == pytest.approx(
        0.3 * math.log(1.2) + 0.7 * math.log(2.8), abs=1e-9
    )
    assert tv(spike, normal(3, 2)) == pytest.approx(0.3, abs=1e-9)


def test_monte_carlo_states_an_error_that_covers_the_truth() -> None:
    p = D.Independent(D.Normal(torch.zeros(3), torch.ones(3)), 1)
    q = D.MultivariateNormal(torch.ones(3), torch.eye(3))
    for name, truth in (("kl", 1.5), ("tv", dv.gaussian_tv(3**0.5)), ("jsd", dv.gaussian_jsd(3**0.5))):
        found = estimate(name, p, q, analytic=False, draws=20_000)  # type: ignore[arg-type]
        assert found.method == "Monte Carlo"
        assert 0 < found.standard_error < 0.05
        assert abs(found.value - truth) < 4 * found.standard_error
    assert kl(p, q, analytic=False, seed=3) == kl(p, q, analytic=False, seed=3) != kl(p, q, analytic=False, seed=4)


def test_drawing_leaves_the_global_random_state_alone() -> None:
    p = D.Independent(D.Normal(torch.zeros(2), torch.ones(2)), 1)
    before = torch.get_rng_state()
    jsd(p, p, draws=100)
    assert torch.equal(before, torch.get_rng_state())


# ------------------------------------------------------------------------------------------------------------ samples
def test_kernel_estimate_against_scipy_and_against_the_truth() -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(400, 2)) @ np.array([[1.0, 0.5], [0.0, 0.3]])
    weights = rng.random(400)
    points = rng.normal(size=(50, 2))
    theirs = stats.gaussian_kde(x.T, weights=weights).logpdf(points.T)
    ours = Samples(x, weights, normalise=True).kernel().log_density(points)
    np.testing.assert_allclose(ours, theirs, rtol=1e-10)
    a, b = rng.normal(size=3000), rng.normal(size=3000) + 1
    assert jsd(a, b) == pytest.approx(dv.gaussian_jsd(1), abs=0.02)
    assert kl(a, b) == pytest.approx(0.5, abs=0.1)
    assert jsd(a, normal(1.0)) == pytest.approx(dv.gaussian_jsd(1), abs=0.02)


def test_samples_as_atoms_and_as_kernels_differ_as_they_should() -> None:
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=200), rng.normal(size=200)
    assert jsd(a, b, estimator="atoms") == pytest.approx(LOG2)  # two draws share no point
    assert jsd(a, b) < 0.03
    assert jsd([0, 1, 1, 2], [2, 1, 0, 1], estimator="atoms") == 0


# ------------------------------------------------------------------------------------------------------------- bounds
def by_name(p: object, q: object, **how: object) -> dict[str, dv.Inequality]:
    return {b.name: b for b in dv.bounds(p, q, **how)}  # type: ignore[arg-type]


@settings(max_examples=40, deadline=None)
@given(densities, densities)
def test_every_bound_holds_on_random_densities(a: np.ndarray, b: np.ndarray) -> None:
    p, q = Piecewise(edges, a, normalise=True), Piecewise(edges, b, normalise=True)
    assert all(bound.holds() for bound in dv.bounds(p, q))
    assert 0 <= jsd(p, q) + 1e-12 <= LOG2 + 2e-12
    assert jsd(p, q) == pytest.approx(jsd(q, p), abs=1e-12)
    assert tv(p, q) == pytest.approx(np.abs(p.heights - q.heights).sum() * 0.25 / 2, abs=1e-12)
    middle = Piecewise(edges, (p.heights + q.heights) / 2)
    assert jsd(p, q) == pytest.approx((kl(p, middle) + kl(q, middle)) / 2, abs=1e-9)


@settings(max_examples=25, deadline=None)
@given(densities, densities, densities)
def test_tv_and_root_jsd_are_metrics(a: np.ndarray, b: np.ndarray, c: np.ndarray) -> None:
    p, q, r = (Piecewise(edges, v, normalise=True) for v in (a, b, c))
    assert tv(p, r) <= tv(p, q) + tv(q, r) + 1e-12
    root = [math.sqrt(max(jsd(*pair), 0)) for pair in ((p, r), (p, q), (q, r))]
    assert root[0] <= root[1] + root[2] + 1e-6  # root of the Jensen-Shannon divergence (Endres & Schindelin 2003)
    assert jsd(p, p) == pytest.approx(0, abs=1e-12)


def test_equality_cases_of_the_bounds() -> None:
    shared = Piecewise.sum_of((0.5, 0, 1), (0.5, 1, 2)), Piecewise.sum_of((0.5, 0, 1), (0.5, 2, 3))
    assert by_name(*shared)["JSD <= log 2 * TV"].tight  # p = q or one of them 0, and TV only 1/2
    assert not by_name(*shared)["TV^2/2 <= JSD"].tight
    ends = Samples([0.0, 4.0, 10.0], [0.2, 0.3, 0.5]), Samples([0.0, 4.0, 10.0], [0.6, 0.3, 0.1])
    found = by_name(*ends, estimator="atoms")["W1 <= diam * TV"]
    assert found.tight
    assert found.left == pytest.approx(4.0)
    for epsilon in (1e-2, 1e-3):
        near = by_name(coin(0.5 + epsilon), coin(0.5 - epsilon), estimator="atoms")
        for name in ("TV <= sqrt(KL/2)", "TV^2/2 <= JSD"):
            assert near[name].left / near[name].right == pytest.approx(1, abs=10 * epsilon**2)
            assert near[name].left < near[name].right  # nearly, never quite
    same = by_name(coin(0.3), coin(0.3), estimator="atoms")
    assert all(bound.tight for bound in same.values())
    assert dv.support_diameter(normal(0), normal(1)) == math.inf


# -------------------------------------------------------------------------------------------- closed forms of Gaussians
@settings(max_examples=10, deadline=None)
@given(st.floats(-3, 3), st.floats(0.3, 3), st.floats(0.3, 3))
def test_gaussian_closed_forms_against_quadrature(mean: float, s: float, t: float) -> None:
    p, q = normal(0, s), normal(mean, t)
    assert kl(p, q, analytic=False) == pytest.approx(dv.gaussian_kl(0, s, mean, t), abs=1e-8)
    assert w1(p, q) == pytest.approx(dv.gaussian_w1(0, s, mean, t), abs=1e-6)
    assert tv(normal(0, s), normal(mean, s)) == pytest.approx(dv.gaussian_tv(abs(mean), s), abs=1e-8)


# ------------------------------------------------------------------------------------------------------ refused inputs
def test_mass_other_than_one_is_refused_by_name() -> None:
    with pytest.raises(UserError, match="mass 2"):
        Piecewise.sum_of((1, 5, 7))  # the lecture's printed q
    assert Piecewise.sum_of((1, 5, 7), normalise=True).heights.tolist() == [0.5]
    x = np.linspace(-8, 8, 401)
    with pytest.raises(UserError, match=r"mass 0\.99864"):
        Grid(x, stats.norm.pdf(x, -5))
    assert float(
        (lambda g: (g.density * g.cells).sum())(Grid(x, stats.norm.pdf(x, -5), normalise=True))
    ) == pytest.approx(1)
    with pytest.raises(UserError, match=r"mass 1\.5"):
        Samples([0, 1], [1, 0.5])
    with pytest.raises(UserError, match="on this grid"):
        jsd(Grid(x, stats.norm.pdf(x)), normal(-5.0))
    unresolved = Density(
        1, lambda z: stats.norm.logpdf(z[:, 0], 0, 1e-3), lambda n, s: np.empty(0), edges=np.array([-1.0, 1])
    )
    with pytest.raises(UserError, match="do not resolve"):
        tv(unresolved, unresolved)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: kl("abc", [0.0]), "cannot read a distribution from str"),
        (lambda: kl([0.0, math.nan], [0.0]), "1 of 2 values are NaN"),
        (lambda: kl(np.zeros((3, 2)), np.zeros(3)), "2 dimensions and q in 1"),
        (lambda: jsd(np.zeros(5), np.ones(5)), "covariance is singular"),
        (lambda: jsd([0.0], normal(0), estimator="atoms"), "samples on both sides"),
        (lambda: jsd([0.0], [1.0], estimator="kernal"), "did you mean 'kernel'"),
        (lambda: estimate("jds", [0.0], [1.0]), "did you mean 'jsd'"),
        (lambda: kl(D.Normal(torch.zeros(2), 1.0), normal(0)), "Independent"),
        (lambda: tv(D.Bernoulli(0.5), normal(0)), "discrete and the other is not"),
        (lambda: Grid(np.arange(3.0), np.ones(4)), "axes ask for"),
        (lambda: Grid(np.array([0.0, 0.0, 1.0]), np.ones(3)), "strictly increasing"),
        (lambda: Piecewise([0, 1], [-1.0]), "non-negative"),
        (lambda: Piecewise.sum_of((1, 2, 1)), "a < b"),
        (lambda: Samples(np.zeros((0, 2))), "n > 0"),
        (lambda: jsd(*(Grid(np.linspace(0, 1, n), np.ones(n)) for n in (11, 12))), "different grids"),
    ],
)
def test_inputs_that_cannot_be_used_are_named(make: object, message: str) -> None:
    with pytest.raises(UserError, match=message):
        make()  # type: ignore[operator]
