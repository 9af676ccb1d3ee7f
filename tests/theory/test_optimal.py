"""The discriminator played out: V at d*, the bound every other d proves, estimates from data, saturation."""

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
from torch import nn
from torch.nn.functional import softplus

from saddlepoint.errors import UserError
from saddlepoint.theory import optimal
from saddlepoint.theory.distributions import Grid, Piecewise, Samples
from saddlepoint.theory.divergences import gaussian_jsd, jsd
from saddlepoint.theory.optimal import (
    OptimalDiscriminator,
    classifier_discriminator,
    game_value,
    jsd_lower_bound,
    minimax_identity,
    optimal_discriminator,
    value,
)
from saddlepoint.theory.transport import worked_example

LOG4 = math.log(4)
x = np.linspace(-9, 9, 361)
densities = arrays(float, 25, elements=st.floats(0, 1)).filter(lambda v: v.sum() > 0.1)
axis = np.linspace(0, 1, 25)


def normal(mean: float, std: float = 1.0) -> D.Normal:
    return D.Normal(torch.tensor(mean, dtype=torch.float64), torch.tensor(std, dtype=torch.float64))


# --------------------------------------------------------------------------------------------------------- V and d*
@settings(max_examples=50, deadline=None)
@given(densities, densities)
def test_minimax_identity_on_random_densities(a: np.ndarray, b: np.ndarray) -> None:
    p, q = Grid(axis, a, normalise=True), Grid(axis, b, normalise=True)
    found = minimax_identity(p, q)
    assert found.error < 1e-12
    assert -LOG4 - 1e-12 <= found.value <= 1e-12


@settings(max_examples=50, deadline=None)
@given(densities, densities, arrays(float, 25, elements=st.floats(0.01, 0.99)))
def test_no_discriminator_beats_the_optimal_one(a: np.ndarray, b: np.ndarray, d: np.ndarray) -> None:
    p, q = Grid(axis, a, normalise=True), Grid(axis, b, normalise=True)
    assert value(d, p, q) <= value(optimal_discriminator(p, q), p, q) + 1e-12
    assert jsd_lower_bound(d, p, q) <= jsd(p, q) + 1e-12


def test_pointwise_optimum_of_a_log_y_plus_b_log_1_minus_y() -> None:
    y = np.linspace(1e-4, 1 - 1e-4, 99_999)
    for a, b in ((1, 1), (0.2, 0.7), (3, 0.01)):
        assert y[np.argmax(a * np.log(y) + b * np.log(1 - y))] == pytest.approx(a / (a + b), abs=1e-4)


def test_value_at_equality_and_at_disjoint_supports() -> None:
    p = normal(0.0)
    assert value(0.5, p, p) == pytest.approx(-1.386294, abs=1e-6)
    assert value(optimal_discriminator(p, p), p, p) == pytest.approx(-LOG4, abs=1e-9)
    apart = worked_example()
    assert value(optimal_discriminator(*apart), *apart) == pytest.approx(0, abs=1e-12)
    assert value(lambda z: (z < 4.5) | (z > 8), *apart) == pytest.approx(0, abs=1e-12)
    assert value(lambda z: (z > 4.5) & (z < 8), *apart) == -math.inf


@pytest.mark.parametrize(
    ("p", "q"),
    [
        (normal(0.0), normal(2.0)),
        (Piecewise.sum_of((1, 0, 1)), Piecewise.sum_of((0.5, 0.5, 2.5))),
        (normal(0.0), D.Laplace(torch.tensor(1.0).double(), torch.tensor(1.0).double())),
        (D.Poisson(2.0), D.Poisson(4.0)),
    ],
    ids=["normal", "piecewise", "laplace", "poisson"],
)
def test_minimax_identity_on_densities_of_every_kind(p: object, q: object) -> None:
    assert minimax_identity(p, q).error < 1e-9


def test_discriminator_of_two_gaussians_is_the_logistic_of_the_sheet() -> None:
    d = optimal_discriminator(normal(-5.0), normal(5.0))
    assert isinstance(d, OptimalDiscriminator)
    points = np.linspace(-6, 6, 25)
    np.testing.assert_allclose(d(points), 1 / (1 + np.exp(10 * points)), rtol=1e-9)
    np.testing.assert_allclose(d.logit(points), -10 * points, atol=1e-9)
    functions = optimal_discriminator(stats.norm(-5).pdf, stats.norm(5).pdf)
    np.testing.assert_allclose(functions(points), d(points), rtol=1e-9)


def test_on_a_grid_it_is_an_array_too_and_a_half_where_nothing_is() -> None:
    p, q = (Grid(x, stats.norm.pdf(x, m, 0.5)) for m in (-1, 1))
    d = optimal_discriminator(p, q)
    np.testing.assert_allclose(np.asarray(d), p.density / (p.density + q.density), atol=1e-12)
    assert value(np.asarray(d) * 0.98 + 0.01, p, q) < value(d, p, q)
    assert d(np.array([100.0])) == [0.5]
    assert d(0.0).shape == ()
    plane = Grid((axis, axis), np.ones((25, 25)))
    assert np.asarray(optimal_discriminator(plane, plane)).shape == (25, 25)


def test_general_form_holds_the_gan_and_the_wasserstein_critic() -> None:
    p, q = normal(0.0), normal(1.5)
    d = optimal_discriminator(p, q)
    assert game_value(d.logit, p, q) == pytest.approx(2 * jsd(p, q) - LOG4, abs=1e-9)
    assert game_value(lambda z: -z, p, q, f=lambda t: t) == pytest.approx(1.5, abs=1e-9)  # E_p t - E_q t


def test_value_of_a_torch_module_and_of_samples() -> None:
    network = nn.Sequential(nn.Linear(2, 1), nn.Sigmoid())
    rng = np.random.default_rng(0)
    real, fake = rng.normal(size=(50, 2)), rng.normal(size=(70, 2))
    with torch.no_grad():
        d = [network(torch.from_numpy(v).float()).double() for v in (real, fake)]
    assert value(network, real, fake) == pytest.approx(float(d[0].log().mean() + (1 - d[1]).log().mean()), rel=1e-6)
    assert value(0.5, real, D.MultivariateNormal(torch.zeros(2), torch.eye(2)), draws=10) == pytest.approx(-LOG4)


# ------------------------------------------------------------------------------------------------ estimates from data
def test_a_discriminator_trained_on_two_densities_approaches_d_star() -> None:
    p, q = normal(0.0), normal(1.5, 0.7)
    d = classifier_discriminator(p, q)
    bulk = np.linspace(-2, 3, 200)
    exact = optimal_discriminator(p, q)
    assert np.abs(d(bulk) - exact(bulk)).max() < 0.02
    assert value(d, p, q) <= 2 * jsd(p, q) - LOG4 + 1e-9
    assert jsd_lower_bound(d, p, q) == pytest.approx(jsd(p, q), abs=1e-3)
    assert jsd_lower_bound(d, p, q) <= jsd(p, q)
    assert d.held_out is None


def test_logistic_regression_finds_the_slope_of_two_gaussians() -> None:
    rng = np.random.default_rng(0)
    real, fake = rng.normal(size=(4000, 1)), rng.normal(size=(4000, 1)) + 1
    d = optimal_discriminator(real, fake, estimate="classifier", hidden=(), steps=400, lr=0.05)
    points = np.array([-1.0, 0, 0.5, 1, 2])
    np.testing.assert_allclose(d.logit(points), 0.5 - points, atol=0.25)
    assert isinstance(d, optimal.ClassifierDiscriminator)
    assert d.held_out is not None
    proved = d.held_out.value / 2 + math.log(2)
    assert abs(proved - gaussian_jsd(1)) < 3 * d.held_out.standard_error
    again = classifier_discriminator(real, fake, hidden=(), steps=400, lr=0.05)
    assert again.value == d.value
    assert classifier_discriminator(real, fake, hidden=(), steps=400, lr=0.05, seed=1).value != d.value


def test_held_out_value_exposes_a_discriminator_that_has_learnt_by_heart() -> None:
    rng = np.random.default_rng(0)
    real, fake = rng.normal(size=(40, 8)), rng.normal(size=(40, 8))  # the same distribution: JSD = 0
    d = classifier_discriminator(real, fake, hidden=(64,), steps=300)
    assert d.value > -0.2  # it looks almost perfect where it was trained
    assert d.held_out is not None
    assert d.held_out.value < -LOG4  # and proves nothing on fresh samples


def test_kernel_estimate_approaches_d_star() -> None:
    rng = np.random.default_rng(0)
    d = optimal_discriminator(rng.normal(size=4000), Samples(rng.normal(size=3000) + 1))
    points = np.linspace(-1.5, 2.5, 40)
    assert np.abs(d(points) - optimal_discriminator(normal(0.0), normal(1.0))(points)).max() < 0.08
    plane = optimal_discriminator(rng.normal(size=(500, 2)), rng.normal(size=(500, 2)) + np.array([4, 0]))
    assert plane(np.array([[-1.0, 0], [5, 0]])).round(1).tolist() == [1, 0]


# --------------------------------------------------------------------------------------------------------- saturation
def test_saturation_figures_of_the_sheet_and_autograd() -> None:
    assert float(optimal.saturating_gradient(-10)) == pytest.approx(-4.54e-5, rel=1e-3)
    assert float(optimal.non_saturating_gradient(-10)) == pytest.approx(-0.99995, abs=1e-5)
    t = torch.linspace(-12, 12, 49, dtype=torch.float64, requires_grad=True)
    table = optimal.generator_gradients(t)
    for name, loss in (("saturating", -softplus(t)), ("non_saturating", softplus(-t))):
        np.testing.assert_allclose(table[f"{name}_loss"], loss.detach().numpy(), atol=1e-12)
        (slope,) = torch.autograd.grad(loss.sum(), t, retain_graph=True)
        np.testing.assert_allclose(table[f"{name}_gradient"], slope.numpy(), atol=1e-12)
    np.testing.assert_allclose(optimal.saturating_gradient([-800.0, 800.0]), [0, -1])


def test_a_perfect_discriminator_halts_the_saturating_generator() -> None:
    shift = torch.tensor(8.0, dtype=torch.float64, requires_grad=True)
    z = torch.randn(200, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    logit = 0.5 * shift.detach() ** 2 - shift.detach() * (z + shift)  # of d* at q = N(8, 1), p = N(0, 1), frozen
    saturating, non_saturating = (
        float(torch.autograd.grad(loss.mean(), shift, retain_graph=True)[0].abs())
        for loss in (-softplus(logit), softplus(-logit))
    )
    assert saturating < 1e-3
    assert non_saturating == pytest.approx(8, rel=1e-3)


# ------------------------------------------------------------------------------------------------------ refused inputs
@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: value(lambda z: 3 * z, [1.0], [2.0]), "probabilities"),
        (lambda: value(np.ones(3) / 2, [1.0], [2.0]), "must be Grids"),
        (lambda: value(lambda z: z * math.nan, [1.0], [2.0]), "1 of them NaN"),
        (lambda: optimal_discriminator([0.0], [1.0], estimate="clasifier"), "did you mean 'classifier'"),
        (lambda: optimal_discriminator(normal(0.0), normal(1.0)).values, "not on a grid"),
        (lambda: optimal_discriminator(*(Grid(np.linspace(0, 1, n), np.ones(n)) for n in (3, 4))), "different grids"),
    ],
)
def test_inputs_that_cannot_be_used_are_named(make: object, message: str) -> None:
    with pytest.raises(UserError, match=message):
        make()  # type: ignore[operator]
