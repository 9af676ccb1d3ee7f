"""Spectra: Arnoldi against the dense answer, verdicts and step bounds against closed forms, shares of rotation."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from saddlepoint import recipes
from saddlepoint.engine import Training, build_optimizer
from saddlepoint.errors import UserError
from saddlepoint.game import Game, Round
from saddlepoint.recipes.base import Optimizer
from saddlepoint.systems import build
from saddlepoint.theory import (
    Spectrum,
    classify,
    decompose,
    dense_spectrum,
    jacobian,
    largest_step,
    local_convergence,
    preconditioner,
    spectrum,
    split,
    step_bound,
)
from tests.games import Small, spiral, training

TWO = {"generator": 1, "discriminator": 1}


def play(run: Training, rounds: int) -> Training:
    for _ in range(rounds):
        run.play()
    return run


def game_of(system: str, **settings: object) -> tuple[Game, Round]:
    game = build(recipes.recipe(system, **settings))
    return game, game.round({}, seed=0)


@pytest.fixture(scope="module")
def network() -> tuple[Small, Round, np.ndarray]:
    """A trained double precision network game with R1 (211 weights), a round of its data, its Jacobian."""
    run = play(training(Small(width=14, norm=True, lazy=1).double(), h=0.2, source=spiral, batch=16), 40)
    round = run.game.round(spiral(0, 32, 0, 32), seed=5)
    return run.game, round, jacobian(run.game, round).numpy()  # type: ignore[return-value]


def ordered(values: np.ndarray, which: str, k: int) -> np.ndarray:
    rank = {"LM": -abs(values), "LR": -values.real, "SR": values.real, "LI": -abs(values.imag), "SM": abs(values)}
    return values[np.argsort(rank[which], kind="stable")][:k]


# ---- Arnoldi
@pytest.mark.parametrize("which", ["LM", "LR", "SR", "LI"])
def test_arnoldi_finds_the_dense_spectrum_of_a_network(network: tuple[Small, Round, np.ndarray], which: str) -> None:
    game, round, J = network
    found = spectrum(game, round, 6, which, dense=0, tolerance=1e-10, krylov=60)  # type: ignore[arg-type]
    assert not found.complete and found.products > 0
    expected = ordered(np.linalg.eigvals(J), which, len(found.eigenvalues))
    # Pairs come in either order: compare as sets.
    distance = abs(found.eigenvalues[:, None] - expected[None]).min(1)
    assert len(found.eigenvalues) in (6, 7)
    assert distance.max() < 1e-6
    assert found.residuals.max() < 1e-6


def test_residuals_are_those_of_the_returned_vectors(network: tuple[Small, Round, np.ndarray]) -> None:
    game, round, J = network
    found = spectrum(game, round, 4, dense=0, tolerance=1e-2, krylov=12)
    assert found.vectors is not None
    x, z = found.vectors, found.eigenvalues
    residuals = np.linalg.norm(J @ x - x * z, axis=0) / np.linalg.norm(x, axis=0)
    np.testing.assert_allclose(found.residuals, residuals, rtol=1e-6, atol=1e-9)
    np.testing.assert_allclose(found.relative_residuals, residuals / abs(z).max(), rtol=1e-6, atol=1e-9)


def test_a_small_game_gets_all_that_there_is() -> None:
    game, round = game_of("dirac", method="r1", gamma=0.3)
    with torch.no_grad():
        for p in game.parameters():
            p.zero_()
    found = spectrum(game, round, k=6)
    assert found.complete and len(found.eigenvalues) == 2
    np.testing.assert_allclose(found.eigenvalues[0], -0.15 + 1j * math.sqrt(0.2275), atol=1e-12)
    assert found.blocks == TWO


@pytest.mark.parametrize("k", [1, 3])
def test_a_complex_pair_is_never_cut(k: int) -> None:
    J = np.array([[0.0, -3, 0, 0, 0], [3, 0, 0, 0, 0], [0, 0, 1, -2, 0], [0, 0, 2, 1, 0], [0, 0, 0, 0, 1]])
    found = dense_spectrum(J, {"all": 5}, k)
    np.testing.assert_allclose(found.eigenvalues, [3j, -3j, 1 + 2j, 1 - 2j][: k + 1], atol=1e-12)


@settings(max_examples=25)
@given(seed=st.integers(0, 10**6), n=st.integers(1, 8), which=st.sampled_from(["LM", "LR", "SR", "LI", "SM"]))
def test_the_order_is_the_one_asked_for(seed: int, n: int, which: str) -> None:
    J = np.random.default_rng(seed).standard_normal((n, n))
    found = dense_spectrum(J, {"all": n}, n, which)  # type: ignore[arg-type]
    expected = ordered(np.linalg.eigvals(J), which, n)
    rank = {"LM": abs, "LR": np.real, "SR": np.real, "LI": lambda z: abs(z.imag), "SM": abs}[which]
    np.testing.assert_allclose(rank(found.eigenvalues), rank(expected), atol=1e-8)
    assert found.residuals.max() < 1e-10


def test_single_precision_is_enough_for_the_leading_eigenvalues(network: tuple[Small, Round, np.ndarray]) -> None:
    game, _, J = network
    small = Small(width=14, norm=True, lazy=1)
    small.load_state_dict(game.state_dict())
    found = spectrum(small, small.round(spiral(0, 32, 0, 32), seed=5), 6, dense=0)
    assert found.relative_residuals.max() < 1e-3
    np.testing.assert_allclose(abs(found.eigenvalues), abs(ordered(np.linalg.eigvals(J), "LM", 6)), rtol=1e-4)


def test_preconditioned_with_adams_present_moments(network: tuple[Small, Round, np.ndarray]) -> None:
    run = play(training(Small(lazy=1).double(), optimizer=Optimizer(lr=0.01), source=spiral, batch=8), 5)
    diagonal = preconditioner(run.game, run.optimizers)
    values = []
    for player in run.game.players:
        for p in player.parameters:
            state = run.optimizers[player.name].state[p]
            values.append(0.01 / ((state["exp_avg_sq"] / (1 - 0.999**5)).sqrt() + 1e-8))
    expected = torch.cat([v.reshape(-1) for v in values])
    torch.testing.assert_close(diagonal, expected, rtol=1e-12, atol=0)
    round = run.game.round(spiral(0, 8, 0, 8), seed=1)
    PJ = expected[:, None].numpy() * jacobian(run.game, round).numpy()
    for dense in (0, 512):
        found = spectrum(run.game, round, 4, preconditioner=diagonal, dense=dense, tolerance=1e-10)
        np.testing.assert_allclose(
            abs(found.eigenvalues), abs(ordered(np.linalg.eigvals(PJ), "LM", len(found.eigenvalues))), rtol=1e-7
        )


@pytest.mark.parametrize("kind", ["sgd", "rmsprop", "adamw"])
def test_other_optimizers_as_preconditioners(kind: str) -> None:
    game = Small().double()
    optimizers = {p.name: build_optimizer(Optimizer(kind=kind, lr=0.1), p.parameters) for p in game.players}  # type: ignore[arg-type]
    assert torch.equal(preconditioner(game, optimizers), torch.full((65,), 0.1, dtype=torch.float64))
    for player in game.players:
        for p in player.parameters:
            p.grad = torch.full_like(p, 3.0)
        optimizers[player.name].step()
    scale = {"sgd": 0.1, "rmsprop": 0.1 / (math.sqrt(0.01 * 9) + 1e-8), "adamw": 0.1 / (3 + 1e-8)}[kind]
    torch.testing.assert_close(preconditioner(game, optimizers), torch.full((65,), scale).double(), rtol=1e-6, atol=0)


def test_questions_that_cannot_be_answered() -> None:
    game, round = game_of("dirac")
    with pytest.raises(UserError, match="did you mean 'LM'"):
        spectrum(game, round, which="LMM")  # type: ignore[arg-type]
    with pytest.raises(UserError, match=r"smallest eigenvalues need the matrix; .* dense to 2"):
        spectrum(game, round, 1, which="SM", dense=0)
    assert abs(spectrum(game, round, 1, which="SM").eigenvalues[0]) > 0
    with pytest.raises(UserError, match="k of at least 1, not 0"):
        spectrum(game, round, 0)
    with pytest.raises(UserError, match=r"shape \[3\] for a game of 2 weights"):
        spectrum(game, round, preconditioner=torch.ones(3))
    with pytest.raises(UserError, match="at least 2 probes"):
        decompose(game, round, probes=1)
    partial = Spectrum(np.array([-1 + 1j, -1 - 1j]), np.zeros(2), "LM", 1000, {"a": 500, "b": 500})
    with pytest.raises(UserError, match="alternating play needs the whole Jacobian"):
        classify(partial, 0.1, "alternating")
    with pytest.raises(UserError, match="two time-scales need the whole Jacobian"):
        classify(partial, {"a": 0.1, "b": 0.2})
    with pytest.raises(UserError, match="did you mean 'optimistic'"):
        classify(partial, 0.1, "optimist")
    with pytest.raises(UserError, match=r"step sizes for generator; the players are generator, discriminator"):
        classify(spectrum(game, round), {"generator": 0.1})


# ---- what it means
@pytest.mark.parametrize(
    ("J", "flow", "simultaneous", "alternating"),
    [
        ([[0, -1], [1, 0]], "circles", "diverges", "circles"),
        ([[-0.1, -1], [1, -0.1]], "converges", "converges", "converges"),
        ([[0.1, -1], [1, 0.1]], "diverges", "diverges", "diverges"),
        ([[-1, 0], [0, 0]], "neutral", "neutral", "neutral"),
        ([[-1, 0], [0, -25]], "converges", "diverges", "diverges"),
        ([[0, 0], [0, 0]], "neutral", "neutral", "neutral"),
        ([[-20, 0], [0, -1]], "converges", "circles", "circles"),  # 1 + h lambda = -1: back and forth for ever
    ],
)
def test_verdicts(J: list[list[float]], flow: str, simultaneous: str, alternating: str) -> None:
    found = dense_spectrum(J, TWO)
    assert classify(found, operator="flow").verdict == flow
    assert classify(found, 0.1).verdict == simultaneous
    assert classify(found, 0.1, "alternating").verdict == alternating


def test_the_lectures_discrete_steps() -> None:
    """v = (-psi, theta - 0.7 psi): |1 + h lambda|^2 = 1 - 0.7 h + h^2."""
    found = dense_spectrum([[0.0, -1.0], [1.0, -0.7]], TWO)
    for h, verdict in ((1.0, "diverges"), (0.5, "converges"), (0.701, "diverges"), (0.699, "converges")):
        result = classify(found, h)
        assert (result.verdict, result.radius**2) == (verdict, pytest.approx(1 - 0.7 * h + h * h))
    assert classify(found).largest_step == pytest.approx(0.7, rel=1e-12)


@given(
    real=st.floats(-10, -1e-3),
    imaginary=st.floats(0, 10),
    factor=st.sampled_from([0.99, 1.01]),
)
def test_the_bound_of_simultaneous_steps_is_sharp(real: float, imaginary: float, factor: float) -> None:
    z = complex(real, imaginary)
    h = step_bound([z, z.conjugate()])
    assert h == pytest.approx(2 * abs(real) / abs(z) ** 2)
    assert h == pytest.approx(1 / abs(real) * 2 / (1 + (imaginary / real) ** 2))  # the form in the 2017 paper
    assert (abs(1 + factor * h * z) < 1) == (factor < 1)


def test_no_step_is_small_enough_where_a_real_part_is_not_negative() -> None:
    assert step_bound([-1.0, 1e-3]) == 0 and step_bound([1j, -1j]) == 0
    assert step_bound([]) == math.inf


def test_two_time_scales_do_not_save_simultaneous_play() -> None:
    """|lambda|^2 = 1 + h_g h_d a^2 for the Dirac-GAN."""
    found = dense_spectrum([[0.0, -0.5], [0.5, 0.0]], TWO)
    result = classify(found, {"generator": 0.1, "discriminator": 0.4})
    assert result.verdict == "diverges" and math.isnan(result.largest_step)
    assert result.radius**2 == pytest.approx(1 + 0.1 * 0.4 * 0.25)


@pytest.mark.parametrize("operator", ["simultaneous", "extragradient", "optimistic"])
def test_an_incomplete_spectrum_is_judged_by_what_was_found(operator: str) -> None:
    whole = dense_spectrum([[-0.2, -1.0], [1.0, -0.2]], TWO)
    part = Spectrum(whole.eigenvalues, np.zeros(2), "LM", 1000, {"a": 1000})
    for h in (0.1, 0.3, 0.9, 1.5):
        a, b = classify(whole, h, operator), classify(part, h, operator)
        assert (a.verdict, a.complete, b.complete) == (b.verdict, True, False)
        assert a.radius == pytest.approx(b.radius, rel=1e-9)
        assert a.largest_step == pytest.approx(b.largest_step, rel=1e-6)
    assert math.isnan(largest_step(part, "alternating"))


def test_a_residual_is_doubt() -> None:
    doubtful = Spectrum(np.array([-0.01 + 0j]), np.array([0.05]), "LM", 1000, {"a": 1000})
    assert classify(doubtful, 1.0).verdict == "neutral"
    assert classify(doubtful, 1.0, slack=1e-9).verdict == "converges"


# ---- potential and rotation
def test_pure_potential_and_pure_rotation() -> None:
    assert split([[-1.0, 2.0], [2.0, -3.0]]).rotation == 0
    assert split([[0.0, 2.0], [-2.0, 0.0]]).rotation == 1
    mixed = split([[-1.0, -1.0], [1.0, -1.0]])
    assert (mixed.rotation, mixed.potential, mixed.error) == (0.5, 0.5, 0)
    assert (mixed.symmetric, mixed.antisymmetric) == (pytest.approx(math.sqrt(2)), pytest.approx(math.sqrt(2)))
    assert split([[0.0]]).rotation == 0


def test_the_estimated_share_is_within_its_errors(network: tuple[Small, Round, np.ndarray]) -> None:
    game, round, J = network
    exact = decompose(game, round)
    assert exact.probes == 0 and exact.rotation == split(J).rotation
    found = [decompose(game, round, probes=16, dense=0, seed=seed) for seed in range(8)]
    scores = np.array([(d.rotation - exact.rotation) / d.error for d in found])
    assert abs(scores).max() < 5 and 0.3 < scores.std() < 2.5
    sharp = decompose(game, round, probes=150, dense=0)
    assert sharp.rotation == pytest.approx(exact.rotation, abs=5 * sharp.error) and sharp.error < found[0].error
    assert sharp.antisymmetric == pytest.approx(exact.antisymmetric, rel=0.3)


# ---- the report
def test_the_report_of_a_closed_form_game() -> None:
    game, round = game_of("dirac", method="r1", gamma=0.3, start=(0.0, 0.0))
    report = local_convergence(game, round)
    assert report.norm == 0 and report.exact and report.continuous.verdict == "converges"
    assert report.simultaneous_step == pytest.approx(1.2, rel=1e-6)
    assert report.alternating_step == pytest.approx((math.sqrt(0.09 + 1) - 0.3) / 0.25, rel=1e-6)
    assert report.decomposition.rotation == pytest.approx(0.5 / (0.5 + 0.09))
    plain = json.loads(json.dumps(report.to_dict()))
    assert plain["largest_real_part"] == pytest.approx(-0.15)
    assert plain["largest_ratio_im_re"] == pytest.approx(math.sqrt(0.2275) / 0.15)
    assert any("simultaneous 1.2; alternating 2.976" in line for line in report.lines())


def test_the_report_of_a_network_with_its_optimizers() -> None:
    run = play(training(Small(norm=True, lazy=1).double(), optimizer=Optimizer(lr=1e-3), source=spiral, batch=8), 3)
    round = run.game.round(spiral(0, 8, 0, 8), seed=1)
    report = local_convergence(run.game, round, 3, optimizers=run.optimizers, dense=0, probes=4)
    assert not report.exact and report.stepping is not None and report.decomposition.probes == 4
    plain = json.loads(json.dumps(report.to_dict()))
    J = jacobian(run.game, round).numpy()
    assert plain["largest_real_part"] == pytest.approx(np.linalg.eigvals(J).real.max(), rel=1e-3)
    assert plain["largest_stable_step"]["alternating"] is None
    assert any(line.startswith("at the optimizers' own steps") for line in report.lines())
