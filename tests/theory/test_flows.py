"""Flows against closed forms; linear maps of operators against the engine that plays them; bounds from both sides."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.linalg import expm

from saddlepoint import recipes
from saddlepoint.engine import Training
from saddlepoint.errors import UserError
from saddlepoint.game import Game
from saddlepoint.systems import build
from saddlepoint.theory import (
    Rule,
    classify,
    dense_spectrum,
    flow,
    largest_stable_step,
    multipliers,
    orbit,
    update_matrix,
)

TWO = {"generator": 1, "discriminator": 1}
ROTATION = np.array([[0.0, -1.0], [1.0, 0.0]])


def game_of(system: str, **settings: Any) -> Game:
    return build(recipes.recipe(system, **settings))


def training(system: str, h: float | tuple[float, float], **settings: Any) -> Training:
    g, d = h if isinstance(h, tuple) else (h, h)
    recipe = recipes.recipe(system, **{"g.lr": g, "d.lr": d, **settings})
    return Training(build(recipe), recipe)


def radius(matrix: np.ndarray) -> float:
    return float(abs(np.linalg.eigvals(matrix)).max())


# ---- continuous
@pytest.mark.parametrize("method", ["DOP853", "RK45", "LSODA", "RK4"])
def test_a_linear_flow_is_the_matrix_exponential(method: str) -> None:
    J = [-0.5, -1.0, 2.0, 1.0, -0.2, 0.0, 0.3, 0.0, -0.1]
    game = game_of("quadratic", jacobian=tuple(J), first=1, start=(1.0, -2.0, 0.5))
    before = {k: v.clone() for k, v in game.state_dict().items()}
    path = flow(game, time=3.0, points=4, method=method, steps=600)  # type: ignore[arg-type]
    expected = [expm(t * np.array(J).reshape(3, 3)) @ [1.0, -2.0, 0.5] for t in (0, 1, 2, 3)]
    np.testing.assert_allclose(path.weights, expected, rtol=1e-7, atol=1e-8)
    np.testing.assert_allclose(path.times, [0, 1, 2, 3])
    assert all(torch.equal(v, before[k]) for k, v in game.state_dict().items())
    assert path.player("discriminator").shape == (4, 2)


def test_runge_kutta_has_order_four() -> None:
    game = game_of("bilinear")
    error = [abs(flow(game, time=2.0, points=2, method="RK4", steps=n).distances()[-1] - 2**0.5) for n in (20, 40)]
    # The radius of a pure rotation is one order better than the point: h^6 / 144 a step.
    assert error[0] / error[1] == pytest.approx(2**5, rel=0.05)
    ends = [flow(game, time=2.0, points=2, method="RK4", steps=n).weights[-1] for n in (20, 40)]
    exact = expm(2 * ROTATION) @ [1.0, 1.0]
    assert np.linalg.norm(ends[0] - exact) / np.linalg.norm(ends[1] - exact) == pytest.approx(2**4, rel=0.05)


@pytest.mark.parametrize("method", ["DOP853", "RK4"])
def test_the_continuous_dirac_gan_stays_on_its_circle(method: str) -> None:
    path = flow(game_of("dirac"), time=20.0, points=31, method=method, steps=1020)  # type: ignore[arg-type]
    assert np.ptp(path.distances() ** 2) < 1e-9
    assert np.ptp(path.weights[:, 0]) > 2  # and it moves


def test_the_non_saturating_flow_creeps_in_as_root_eight_over_t() -> None:
    path = flow(game_of("dirac", method="nonsaturating"), time=400.0, points=3, rtol=1e-6, atol=1e-8)
    assert path.distances()[-1] == pytest.approx(0.1407, abs=5e-5)
    assert path.distances()[-1] == pytest.approx(math.sqrt(8 / 400), rel=0.01)


def test_the_energy_of_the_non_saturating_flow_falls_at_its_rate() -> None:
    """d(r^2)/dt = -2 t tanh(t/2) with t = theta psi."""
    game = game_of("dirac", method="nonsaturating", start=(1.1, 0.7))
    path = flow(game, time=1e-3, points=2)
    t = 1.1 * 0.7
    assert np.diff(path.distances() ** 2)[0] / 1e-3 == pytest.approx(-2 * t * math.tanh(t / 2), rel=1e-2)


def test_wgan_gp_ends_on_a_limit_cycle_from_inside_and_from_outside() -> None:
    """d(r^2)/dt = 2 lambda |psi| (g0 - |psi|); amplitudes theta 1.327, psi 1.288 for lambda 0.7, g0 1."""
    for start in ((1.1, 0.0), (1.6, 0.0)):
        path = flow(game_of("dirac", method="wgan-gp"), time=24.0, points=481, start=start, method="RK4", steps=480)
        late = path.weights[-150:]  # more than one turn
        assert abs(late[:, 0]).max() == pytest.approx(1.327, abs=2e-3)
        assert abs(late[:, 1]).max() == pytest.approx(1.288, abs=2e-3)
        assert path.distances()[-150:].min() > 1.2


def test_flow_refuses_what_it_cannot_follow() -> None:
    game = game_of("dirac")
    with pytest.raises(UserError, match="positive time"):
        flow(game, time=-1.0)
    with pytest.raises(UserError, match=r"start has shape \[3\] for a game of 2 weights"):
        flow(game, start=[1.0, 2.0, 3.0])
    with pytest.raises(UserError, match="did you mean 'RK45'"):
        flow(game, method="RK454")  # type: ignore[arg-type]
    with pytest.raises(UserError, match="unknown player 'critic'"):
        flow(game, time=0.1, points=2).player("critic")


def test_a_small_step_follows_the_flow_and_half_the_step_halves_the_error() -> None:
    exact = flow(game_of("dirac", method="r1"), time=2.0, points=2).weights[-1]
    errors = []
    for n in (40, 80):
        path = orbit(training("dirac", 2.0 / n, method="r1", operator="simultaneous"), n)
        assert path.weights.shape == (n + 1, 2)
        errors.append(np.linalg.norm(path.weights[-1] - exact))
    assert errors[0] / errors[1] == pytest.approx(2, rel=0.05)


# ---- linear maps
def random_game(seed: int, sizes: tuple[int, int]) -> tuple[np.ndarray, dict[str, Any]]:
    """A Jacobian whose own blocks are symmetric, and the settings of its quadratic game."""
    n = sum(sizes)
    J = np.random.default_rng(seed).standard_normal((n, n))
    for block in (slice(0, sizes[0]), slice(sizes[0], n)):
        J[block, block] = (J[block, block] + J[block, block].T) / 2
    return J, {"jacobian": tuple(J.reshape(-1).tolist()), "first": sizes[0], "start": (1.0,) * n}


CASES: list[tuple[Rule, dict[str, Any]]] = [
    (Rule("simultaneous"), {}),
    (Rule("alternating"), {"operator": "alternating"}),
    (Rule("alternating", moves=("generator", "generator", *3 * ("discriminator",))), {"g.steps": 2, "d.steps": 3}),
    (Rule("extragradient"), {"operator": "extragradient"}),
    (Rule("optimistic"), {"operator": "optimistic"}),
    (Rule("consensus", gamma=0.7), {"operator": "consensus", "operator_strength": 0.7}),
    (Rule("simultaneous", momentum=-0.3), {"g.momentum": -0.3, "d.momentum": -0.3}),
    (Rule("alternating", momentum=0.4), {"operator": "alternating", "g.momentum": 0.4, "d.momentum": 0.4}),
    (
        Rule("alternating", moves=("generator", *2 * ("discriminator",)), momentum=-0.5),
        {"operator": "alternating", "d.steps": 2, "g.momentum": -0.5, "d.momentum": -0.5},
    ),
]


@settings(max_examples=6)
@given(
    seed=st.integers(0, 10**6),
    sizes=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    h=st.tuples(st.floats(0.01, 0.8), st.floats(0.01, 0.8)),
)
@pytest.mark.parametrize(("rule", "how"), CASES, ids=lambda value: getattr(value, "operator", None))
def test_the_engine_plays_the_linear_map(
    rule: Rule, how: dict[str, Any], seed: int, sizes: tuple[int, int], h: tuple[float, float]
) -> None:
    J, game = random_game(seed, sizes)
    operator = "alternating" if "g.steps" in how else "simultaneous"
    run = training("quadratic", h, **{"operator": operator, **game, **how})
    blocks = dict(zip(TWO, sizes, strict=True))
    M = update_matrix(J, dict(zip(TWO, h, strict=True)), rule, blocks)
    w = np.ones(sum(sizes))
    # Memory: optimistic play begins with two equal points, momentum with an empty buffer; the first step is plain.
    state = w if len(M) == len(w) else np.concatenate([w, w if rule.operator == "optimistic" else 0 * w])
    path = orbit(run, 4).weights
    expected = [w]
    if rule.operator == "optimistic":  # d_0 stands for d_(-1)
        plain = update_matrix(J, dict(zip(TWO, h, strict=True)), Rule("simultaneous"), blocks)
        state = np.concatenate([plain @ w, w])
        expected.append(state[: len(w)])
    while len(expected) < 5:
        state = M @ state
        expected.append(state[: len(w)])
    np.testing.assert_allclose(path, expected, rtol=1e-9, atol=1e-9)


@given(seed=st.integers(0, 10**6), h=st.floats(0.01, 2.0), momentum=st.floats(-0.9, 0.9))
def test_eigenvalues_alone_give_the_multipliers(seed: int, h: float, momentum: float) -> None:
    J = np.random.default_rng(seed).standard_normal((4, 4))
    for rule in (Rule(), Rule("extragradient"), Rule("optimistic"), Rule(momentum=momentum)):
        found = multipliers(np.linalg.eigvals(J), h, rule)
        expected = np.linalg.eigvals(update_matrix(J, h, rule, {"a": 2, "b": 2}))
        assert len(found) == len(expected)
        distance = abs(found[:, None] - expected[None])
        assert max(distance.min(0).max(), distance.min(1).max()) < 1e-6


def test_rules_that_do_not_exist() -> None:
    with pytest.raises(UserError, match="did you mean 'consensus'"):
        Rule("consensu")
    with pytest.raises(UserError, match="momentum has a linear map for simultaneous and alternating play"):
        Rule("extragradient", momentum=0.1)
    with pytest.raises(UserError, match="unknown player 'critic'"):
        update_matrix(ROTATION, 0.1, Rule("alternating", moves=("critic",)), TWO)
    with pytest.raises(UserError, match="a Jacobian of shape"):
        update_matrix(np.eye(3), 0.1, Rule(), TWO)


# ---- step bounds, each stable just inside and unstable just outside
def dirac_matrix(gamma: float = 0.0) -> np.ndarray:
    return np.array([[0.0, -0.5], [0.5, -gamma]])


def turns(n_g: int, n_d: int) -> tuple[str, ...]:
    return ("generator",) * n_g + ("discriminator",) * n_d


def check_bound(J: np.ndarray, rule: Rule, bound: float, tolerance: float = 1e-3) -> None:
    """The edge lies at `bound`, to its printed digits: inside it contracts or circles, outside it grows."""
    found = largest_stable_step(J, rule, TWO)
    assert found == pytest.approx(bound, abs=tolerance)
    assert radius(update_matrix(J, 0.999 * found, rule, TWO)) < 1 + 1e-9
    assert radius(update_matrix(J, 1.001 * found, rule, TWO)) > 1 + 1e-9


@pytest.mark.parametrize(("n_g", "n_d"), [(1, 1), (1, 5), (2, 3)])
def test_alternating_vanilla_is_on_the_unit_circle_up_to_its_bound(n_g: int, n_d: int) -> None:
    rule, bound = Rule("alternating", moves=turns(n_g, n_d)), 4 / math.sqrt(n_g * n_d)
    check_bound(dirac_matrix(), rule, bound, 1e-9)
    for h in (0.1 * bound, 0.9 * bound):
        found = abs(np.linalg.eigvals(update_matrix(dirac_matrix(), h, rule, TWO)))
        np.testing.assert_allclose(found, 1, atol=1e-12)
    assert classify(dense_spectrum(dirac_matrix(), TWO), 0.9 * bound, "alternating", moves=turns(n_g, n_d)).verdict == (
        "circles"
    )


@pytest.mark.parametrize("h", [1e-3, 0.2, 3.0])
def test_simultaneous_vanilla_always_grows(h: float) -> None:
    result = classify(dense_spectrum(dirac_matrix(), TWO), h)
    assert (result.verdict, result.largest_step) == ("diverges", 0)
    assert result.radius**2 == pytest.approx(1 + h * h / 4)


@pytest.mark.parametrize(
    ("gamma", "simultaneous", "alternating", "five"),
    [
        (0.1, 0.4, 3.620, 1.770),
        (0.3, 1.2, 2.976, 2.408),
        (1.0, 4.0, 1.657, 1.907),
        (2.0, 1.0718, 0.944, 0.988),
        (3.0, 0.6863, 0.649, 0.663),
    ],
)
def test_bounds_of_r1(gamma: float, simultaneous: float, alternating: float, five: float) -> None:
    J, a = dirac_matrix(gamma), 0.5
    exact = gamma / a**2 if gamma <= 2 * a else (gamma - math.sqrt(gamma**2 - 4 * a**2)) / a**2
    assert exact == pytest.approx(simultaneous, abs=5e-5)
    check_bound(J, Rule(), exact, 1e-6)
    assert (math.sqrt(gamma**2 + 4 * a**2) - gamma) / a**2 == pytest.approx(alternating, abs=5e-4)
    check_bound(J, Rule("alternating"), (math.sqrt(gamma**2 + 4 * a**2) - gamma) / a**2, 1e-6)
    check_bound(J, Rule("alternating", moves=turns(1, 5)), five, 5e-4)


@settings(max_examples=40)
@given(gamma=st.floats(0.05, 4.0), h=st.floats(0.01, 5.0), n=st.integers(1, 6))
def test_alternating_r1_with_any_number_of_discriminator_steps(gamma: float, h: float, n: int) -> None:
    """M = [[1, -h a], [s a, rho^n - s h a^2]]; stable iff 0 < h gamma < 2 and 2 (1 + rho^n) > s h a^2."""
    a, rho = 0.5, 1 - h * gamma
    s = (1 - rho**n) / gamma
    M = update_matrix(dirac_matrix(gamma), h, Rule("alternating", moves=turns(1, n)), TWO)
    np.testing.assert_allclose(M, [[1, -h * a], [s * a, rho**n - s * h * a**2]], rtol=1e-9, atol=1e-9)
    margin = min(2 - h * gamma, 2 * (1 + rho**n) - s * h * a**2)
    if abs(margin) > 1e-6 and abs(1 - rho**n) > 1e-9:
        assert (radius(M) < 1) == (margin > 0)


@pytest.mark.parametrize(("gamma", "bound"), [(0.3, 0.587), (1.0, 1.6), (5.0, 1.379), (10.0, 0.769)])
def test_bounds_of_consensus(gamma: float, bound: float) -> None:
    assert 2 * gamma / (1 + gamma**2 / 4) == pytest.approx(bound, abs=5e-4)
    check_bound(dirac_matrix(), Rule("consensus", gamma=gamma), 2 * gamma / (1 + gamma**2 / 4), 1e-6)
    # On a pure rotation the symplectic adjustment is the same map.
    np.testing.assert_allclose(
        update_matrix(dirac_matrix(), 0.3, Rule("symplectic", gamma=gamma), TWO),
        update_matrix(dirac_matrix(), 0.3, Rule("consensus", gamma=gamma), TWO),
    )


def test_the_symplectic_adjustment_leaves_games_of_gradients_alone() -> None:
    J = np.array([[-1.0, 0.4], [0.4, -2.0]])
    np.testing.assert_allclose(update_matrix(J, 0.3, Rule("symplectic", gamma=5.0), TWO), np.eye(2) + 0.3 * J)


@pytest.mark.parametrize("m", [0.5, 1.0, 4.0])
def test_extragradient_and_optimism_on_the_bilinear_game(m: float) -> None:
    check_bound(m * ROTATION, Rule("extragradient"), 1 / m, 1e-6)
    check_bound(m * ROTATION, Rule("optimistic"), 1 / math.sqrt(3) / m, 1e-6)
    for rule, mu, best in ((Rule("extragradient"), 0.707, 0.866), (Rule("optimistic"), 0.5, 0.717)):
        radii = [radius(update_matrix(m * ROTATION, h / m, rule, TWO)) for h in np.linspace(0.05, 0.56, 103)]
        assert radius(update_matrix(m * ROTATION, mu / m, rule, TWO)) == pytest.approx(best, abs=1e-2)
        assert min(radii) > best - 1e-2
    for rule, mu in ((Rule("extragradient"), 1.01), (Rule("optimistic"), 0.58)):
        assert classify(dense_spectrum(m * ROTATION, TWO), mu / m, rule.operator).verdict == "diverges"


@pytest.mark.parametrize(("beta", "bound"), [(-0.5, 1.0), (-0.3, 1.4), (-0.1, 1.8)])
def test_negative_momentum_in_alternating_play(beta: float, bound: float) -> None:
    check_bound(ROTATION, Rule("alternating", momentum=beta), bound, 1e-6)


@pytest.mark.parametrize("beta", [0.1, 0.5, 0.9])
def test_positive_momentum_never_converges(beta: float) -> None:
    assert largest_stable_step(ROTATION, Rule("alternating", momentum=beta), TWO) == 0


@pytest.mark.parametrize("beta", [-0.9, -0.5, -0.1, 0.1, 0.5, 0.9])
def test_no_momentum_saves_simultaneous_play(beta: float) -> None:
    assert largest_stable_step(ROTATION, Rule("simultaneous", momentum=beta), TWO) == 0


def test_a_game_that_stands_still_takes_any_step() -> None:
    assert largest_stable_step(np.zeros((2, 2)), Rule("alternating"), TWO) == math.inf
