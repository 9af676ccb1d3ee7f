"""Optimism, the symplectic adjustment, negative momentum, two time-scales and unrolling: recursions and gradients by
hand, through the engine's table."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from saddlepoint import recipes
from saddlepoint.engine import Training, build_optimizer
from saddlepoint.errors import UserError
from saddlepoint.game import Game, Player, Round, Terms
from saddlepoint.inner import Elsewhere, continued, gradient_steps
from saddlepoint.operators import leading, operator, symplectic, unrolled_loss
from saddlepoint.recipes.base import Optimizer
from saddlepoint.systems import build
from saddlepoint.theory import jacobian, linearised, orbit, vector_field
from tests.games import Linear, Small, bilinear, set_weights, snapshot, spiral, training, weights

ADAM = Optimizer(lr=0.01, betas=(0.5, 0.9))


def played(rounds: int, system: str = "dirac", **settings: Any) -> np.ndarray:
    recipe = recipes.recipe(system, **settings)
    return orbit(Training(build(recipe), recipe), rounds).weights


# ---- optimism
@settings(max_examples=10)
@given(seed=st.integers(0, 10**6), h=st.floats(0.01, 0.5))
def test_optimistic_gradient_descent_is_its_recursion(seed: int, h: float) -> None:
    matrix = torch.randn(3, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    matrix[1:, 1:] = (matrix[1:, 1:] + matrix[1:, 1:].T) / 2
    run = training(Linear(matrix, [1, 2]), "optimistic", h=h)
    set_weights(run.game, [1.0, -2.0, 0.5])
    before = w = weights(run.game)
    for round in range(6):
        run.play()
        g, last = matrix @ w, matrix @ (w if round == 0 else before)
        before, w = w, w - 2 * h * g + h * last
        torch.testing.assert_close(weights(run.game), w, rtol=1e-12, atol=1e-12)


def test_optimistic_adam_turns_adams_steps() -> None:
    """Daskalakis et al.: w - 2 lr d_t + lr d_(t-1), with d_t Adam's direction from the gradients as they are."""
    matrix = torch.tensor([[0.3, -1.0], [1.0, 0.2]], dtype=torch.float64)
    run = training(Linear(matrix, [1, 1]), "optimistic", ADAM)
    set_weights(run.game, [1.0, -2.0])
    w, m, v, last = weights(run.game), torch.zeros(2), torch.zeros(2), None
    for t in range(1, 8):
        run.play()
        g = matrix @ w
        m, v = 0.5 * m + 0.5 * g, 0.9 * v + 0.1 * g * g
        d = m / (1 - 0.5**t) / ((v / (1 - 0.9**t)).sqrt() + 1e-8)
        w = w - 0.01 * (2 * d - (d if last is None else last))
        last = d
        torch.testing.assert_close(weights(run.game), w, rtol=1e-10, atol=1e-12)


def test_optimism_goes_on_from_a_checkpoint_bit_for_bit() -> None:
    def fresh() -> Training:
        return training(Small(norm=True), "optimistic", ADAM, source=spiral, batch=8)

    whole = fresh()
    for _ in range(3):
        whole.play()
    saved = snapshot(whole)
    assert any(key.startswith("memory/optimistic/generator/") for key in saved[0])
    resumed, forgetful = fresh(), fresh()
    resumed.load(*saved)
    forgetful.load({k: v for k, v in saved[0].items() if not k.startswith("memory/")}, saved[1])
    for run in (whole, resumed, forgetful):
        run.play()
    assert torch.equal(weights(resumed.game), weights(whole.game))
    assert not torch.equal(weights(forgetful.game), weights(whole.game))


def test_optimism_turns_before_the_projection() -> None:
    run = training(Small(clipping=0.4), "optimistic", h=0.5, source=spiral, batch=8)
    for _ in range(4):
        run.play()
        assert all(p.abs().max() <= 0.4 for p in run.game.discriminator.parameters())
    moved = [v.abs().max() for k, v in run.memory.items() if "discriminator" in k]
    assert max(moved) > 0  # the optimizer's own step is remembered, not the clipped one


# ---- what converges where plain steps do not
@pytest.mark.parametrize(
    ("name", "inside", "outside", "how"),
    [
        ("optimistic", 0.57, 0.585, {}),
        ("extragradient", 0.98, 1.02, {}),
        ("symplectic", 0.95, 1.05, {"operator_strength": 1.0}),
        ("alternating", 0.95, 1.05, {"momentum": -0.5}),
        ("alternating", 1.35, 1.45, {"momentum": -0.3}),
        ("alternating", 1.75, 1.85, {"momentum": -0.1}),
    ],
)
def test_the_bilinear_game_converges_just_inside_and_not_just_outside(
    name: str, inside: float, outside: float, how: dict[str, float]
) -> None:
    """Edges at m = 1: OGDA 1/sqrt 3, extragradient 1, symplectic 2 l / (1 + l^2), negative momentum as tabled."""
    momentum, rest = how.get("momentum", 0.0), {k: v for k, v in how.items() if k != "momentum"}
    for h, converges in ((inside, True), (outside, False)):
        run = training(bilinear(), name, Optimizer(kind="sgd", lr=h, momentum=momentum), **rest)
        set_weights(run.game, [1.0, 1.0])
        path = orbit(run, 250).distances()
        assert (path[-20:].max() < 0.5 * path[:20].max()) == converges
        assert (path[-20:].max() > 2 * path[:20].max()) != converges


@pytest.mark.parametrize("name", ["simultaneous", "alternating"])
def test_two_learning_rates_alone_do_not_make_the_dirac_gan_converge(name: str) -> None:
    path = played(400, operator=name, start=(0.05, 0.1), **{"g.lr": 0.05, "d.lr": 0.2})
    growth = np.linalg.norm(path[-1] / [0.05**0.5, 0.2**0.5]) / np.linalg.norm(path[0] / [0.05**0.5, 0.2**0.5])
    # In these units the linear map is a rotation, times |lambda| = sqrt(1 + h_g h_d a^2) when simultaneous.
    expected = (1 + 0.05 * 0.2 / 4) ** 200 if name == "simultaneous" else 1.0
    assert growth == pytest.approx(expected, rel=0.05)


@pytest.mark.parametrize(
    ("name", "how"),
    [
        ("optimistic", {"g.lr": 0.8, "d.lr": 0.8}),
        ("symplectic", {}),
        ("unrolled", {"unroll_steps": 5}),
        ("alternating", {"g.lr": 1.0, "d.lr": 1.0, "g.momentum": -0.4, "d.momentum": -0.4}),
    ],
)
def test_each_brings_the_dirac_gan_home(name: str, how: dict[str, Any]) -> None:
    path = played(200, operator=name, start=(0.5, 0.5), **how)
    assert np.linalg.norm(path[-1]) < 0.02 * np.linalg.norm(path[0])


@pytest.mark.parametrize("h", [0.2, 0.8])
def test_and_plain_steps_do_not(h: float) -> None:
    plain = played(200, operator="alternating", start=(0.5, 0.5), **{"g.lr": h, "d.lr": h})
    assert np.linalg.norm(plain[-20:], axis=1).max() > 0.8 * np.linalg.norm(plain[0])


# ---- the symplectic adjustment
@settings(max_examples=10)
@given(seed=st.integers(0, 10**6), sizes=st.lists(st.integers(1, 3), min_size=1, max_size=3), align=st.booleans())
def test_the_symplectic_adjustment_is_its_formula(seed: int, sizes: list[int], align: bool) -> None:
    """xi + lambda A^T xi, A = (J - J^T)/2, with the sign of <xi, J^T xi> <A^T xi, J^T xi> / P + 1/10."""
    n, draw = sum(sizes), torch.Generator().manual_seed(seed)
    J = torch.randn(n, n, dtype=torch.float64, generator=draw)
    own = torch.block_diag(*(torch.ones(k, k) for k in sizes)).bool()
    J = torch.where(own, (J + J.T) / 2, J)
    run = training(Linear(J, sizes), h=0.3)
    w = torch.randn(n, dtype=torch.float64, generator=draw)
    set_weights(run.game, w)
    run.operator = lambda game, table: symplectic(game, table, 0.8, align)
    run.play()
    xi, A = J @ w, (J - J.T) / 2
    energy = J.T @ xi
    positive = not align or float((xi @ energy) * ((A.T @ xi) @ energy)) / n + 0.1 >= 0
    torch.testing.assert_close(weights(run.game), w - 0.3 * (xi + (0.8 if positive else -0.8) * A.T @ xi))


def test_alignment_turns_away_from_an_unstable_point() -> None:
    """J = [[-1, -4], [4, -1]] repels: there the adjustment has the other sign."""
    signs = []
    for corner in (-1.0, 1.0):
        J = torch.tensor([[corner, -4.0], [4.0, corner]])
        run = training(Linear(J, [1, 1]), "symplectic", h=0.1)
        set_weights(run.game, [1.0, 1.0])
        run.play()
        plain = torch.ones(2).double() - 0.1 * J.double() @ torch.ones(2).double()
        adjusted = (plain - weights(run.game)) / 0.1  # lambda A^T xi = -lambda * 4 rot(xi)
        xi = J.double() @ torch.ones(2).double()
        A = (J - J.T).double() / 2
        signs.append(float((adjusted @ (A.T @ xi)).sign()))
    assert signs == [-1.0, 1.0]


def test_games_of_gradients_are_left_alone() -> None:
    J = torch.tensor([[1.0, 0.4], [0.4, 2.0]])
    runs = [training(Linear(J, [1, 1]), name, h=0.1) for name in ("symplectic", "simultaneous")]
    for run in runs:
        set_weights(run.game, [1.0, -1.0])
        for _ in range(5):
            run.play()
    torch.testing.assert_close(weights(runs[0].game), weights(runs[1].game), rtol=0, atol=0)


@pytest.mark.parametrize("accumulate", [1, 4])
def test_the_tables_products_are_those_of_the_theory(accumulate: int) -> None:
    """J of xi = -v: both products change sign, and micro-batches change nothing."""
    run = training(
        Small(lazy=1, keep=True).double(), "symplectic", source=spiral, batch=8, accumulate=accumulate
    )  # fmt: skip
    run.table.begin()
    round = run.table.draw("data")
    draw = torch.Generator().manual_seed(0)
    u = {p.name: [torch.randn(q.shape, generator=draw).double() for q in p.parameters] for p in run.game.players}
    flat = torch.cat([t.reshape(-1) for parts in u.values() for t in parts])
    pushed, pulled = run.table.jvp(round, u), run.table.vjp(round, u)
    whole = run.game.round(round.batch, seed=round.seed, draw=round.draw)
    with linearised(run.game, whole) as linear:
        for found, expected in ((pushed, -linear.jvp(flat)), (pulled, -linear.vjp(flat))):
            joined = torch.cat([t.reshape(-1) for parts in found.values() for t in parts if t is not None])
            torch.testing.assert_close(joined, expected, rtol=0, atol=1e-12)


# ---- differentiable optimizers
@pytest.mark.parametrize(
    "how",
    [
        Optimizer(kind="sgd", lr=0.1),
        Optimizer(kind="sgd", lr=0.1, momentum=0.7, weight_decay=0.1),
        Optimizer(kind="sgd", lr=0.1, momentum=-0.3),
        Optimizer(kind="adam", lr=0.1, betas=(0.5, 0.9)),
        Optimizer(kind="adam", lr=0.1, betas=(0.0, 0.99), weight_decay=0.1),
        Optimizer(kind="adamw", lr=0.1, betas=(0.9, 0.99), weight_decay=0.1),
        Optimizer(kind="rmsprop", lr=0.1),
        Optimizer(kind="rmsprop", lr=0.1, momentum=0.5, weight_decay=0.1),
    ],
)
@pytest.mark.parametrize("warm", [0, 3])
def test_a_stepper_takes_the_optimizers_next_steps_and_leaves_it_as_it_was(how: Optimizer, warm: int) -> None:
    draw = torch.Generator().manual_seed(0)
    parameters = [nn.Parameter(torch.randn(s, dtype=torch.float64, generator=draw)) for s in ((3, 2), (4,))]
    optimizer = build_optimizer(how, parameters)

    def step(gradients: list[Tensor | None]) -> None:
        for p, g in zip(parameters, gradients, strict=True):
            p.grad = g
        optimizer.step()

    def drawn() -> list[Tensor | None]:
        return [torch.randn(p.shape, dtype=torch.float64, generator=draw) for p in parameters]

    for _ in range(warm):
        step(drawn())
    plan: list[list[Tensor | None]] = [drawn(), [drawn()[0], None], drawn()]  # a weight that is not touched stays
    before = {k: v.clone() for s in optimizer.state.values() for k, v in s.items() if isinstance(v, Tensor)}
    stepper, thought = continued(optimizer, parameters), [p.detach() for p in parameters]
    for gradients in plan:
        thought = stepper(thought, gradients)
    after = {k: v for s in optimizer.state.values() for k, v in s.items() if isinstance(v, Tensor)}
    assert before.keys() == after.keys() and all(torch.equal(after[k], before[k]) for k in before)
    for gradients in plan:
        step(gradients)
    torch.testing.assert_close(thought, [p.detach() for p in parameters], rtol=1e-9, atol=1e-10)


def test_unrolled_adam_is_finite_where_a_unit_is_dead() -> None:
    x = torch.zeros(2, dtype=torch.float64, requires_grad=True)
    parameters = [nn.Parameter(torch.ones(2, dtype=torch.float64))]
    stepper = continued(build_optimizer(Optimizer(lr=0.1), parameters), parameters)
    (w,) = stepper([parameters[0]], [torch.relu(x - 1) * x])
    (gradient,) = torch.autograd.grad(w.sum(), x)
    assert torch.isfinite(gradient).all()


def test_only_known_optimizers_are_differentiable() -> None:
    parameters = [nn.Parameter(torch.ones(2))]
    with pytest.raises(UserError, match="no differentiable form of Adagrad; there are SGD, Adam, AdamW, RMSprop"):
        continued(torch.optim.Adagrad(parameters), parameters)


class Paths(Game):
    """A module with two names and a weight in two modules: both have to be replaced once."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(2, 2, dtype=torch.float64), nn.Linear(2, 2, dtype=torch.float64)
        self.b.weight = self.a.weight
        self.net = nn.Sequential(self.a, self.b)
        self.players = (Player("one", self.net, lambda round: {"value": self.net(torch.ones(1, 2).double()).sum()}),)


def test_losses_elsewhere_leave_every_name_of_a_weight_as_it_was() -> None:
    game = Paths()
    parameters, round = game.players[0].parameters, game.round()
    assert len(parameters) == 3
    there = {id(p): p.detach() * 2 for p in parameters}
    found = float(Elsewhere(game).loss("one", round, there)["value"])
    assert [id(p) for p in game.net.parameters()] == [id(p) for p in parameters]
    assert game.b.weight is game.a.weight and game.net[0] is game.a
    with torch.no_grad():
        for p in parameters:
            p.mul_(2)
    assert found == pytest.approx(float(game.loss("one", round)["value"]), rel=1e-12)


# ---- unrolling
def minimax(**switches: Any) -> tuple[Small, Round]:
    """A network game in which the generator minimises what the discriminator maximises."""

    class ZeroSum(Small):
        def generator_loss(self, round: Round) -> Terms:
            return {"value": -torch.stack(list(self.discriminator_loss(round).values())).sum()}

    game = ZeroSum(seed=3, **switches).double()
    return game, dataclasses.replace(game.round(spiral(0, 8, 0, 8), seed=1), analysis=False)


def gradient(game: Game, loss: Callable[[Round], Terms], round: Round) -> Tensor:
    total = torch.stack(list(loss(round).values())).sum()
    found = torch.autograd.grad(total, game.player("generator").parameters)
    return torch.cat([g.reshape(-1) for g in found]).detach()


def d_loss(game: Game, round: Round) -> Tensor:
    return torch.stack(list(game.loss("discriminator", round).values())).sum()


def test_no_unrolled_steps_are_the_plain_game() -> None:
    game, round = minimax()
    steppers = {"discriminator": lambda: gradient_steps(0.3)}
    plain = gradient(game, lambda r: game.loss("generator", r), round)
    assert torch.equal(gradient(game, unrolled_loss(game, "generator", steppers, 0), round), plain)
    assert not torch.equal(gradient(game, unrolled_loss(game, "generator", steppers, 1), round), plain)
    runs = [
        training(Small(), name, ADAM, source=spiral, batch=8, unroll_steps=0) for name in ("unrolled", "simultaneous")
    ]
    for run in runs:
        run.play()
    assert torch.equal(weights(runs[0].game), weights(runs[1].game))


def test_one_unrolled_gradient_step_is_the_analytic_gradient() -> None:
    """df_1/dG = df/dG(G, D1) - eta (d^2 L_D / dG dD)^T df/dD(G, D1) with D1 = D - eta dL_D/dD, L_D = -f."""
    game, round = minimax()
    eta = 0.3
    found = gradient(game, unrolled_loss(game, "generator", {"discriminator": lambda: gradient_steps(eta)}, 1), round)
    g, d = game.player("generator").parameters, game.player("discriminator").parameters
    slope = torch.autograd.grad(d_loss(game, round), d, create_graph=True)
    saved = [p.detach().clone() for p in d]
    with torch.no_grad():
        for p, s in zip(d, slope, strict=True):
            p.sub_(eta * s)
    value = -d_loss(game, round)
    ahead = torch.autograd.grad(value, (*g, *d))
    first, u = ahead[: len(g)], ahead[len(g) :]
    with torch.no_grad():
        for p, s in zip(d, saved, strict=True):
            p.copy_(s)
    slope = torch.autograd.grad(d_loss(game, round), d, create_graph=True)
    mixed = torch.autograd.grad(slope, g, u)
    expected = torch.cat([(a - eta * b).reshape(-1) for a, b in zip(first, mixed, strict=True)])
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-13)
    cut = unrolled_loss(game, "generator", {"discriminator": lambda: gradient_steps(eta)}, 1, through=False)
    torch.testing.assert_close(
        gradient(game, cut, round), torch.cat([a.reshape(-1) for a in first]), rtol=1e-10, atol=1e-13
    )
    assert float((expected - torch.cat([a.reshape(-1) for a in first])).norm()) > 1e-3 * float(expected.norm())


@pytest.mark.parametrize(
    ("how", "switches"),
    [
        (Optimizer(kind="sgd", lr=0.3, momentum=0.5), {}),
        (Optimizer(lr=0.05, betas=(0.5, 0.9)), {}),
        # A penalty through batch norm is differentiated three times here, which torch's kernel gets wrong.
        (Optimizer(kind="sgd", lr=0.3), {"norm": True, "lazy": 200}),  # due in round 0, with a gain of 200
    ],
)
def test_the_unrolled_gradient_is_the_derivative_of_the_unrolled_loss(how: Optimizer, switches: dict[str, Any]) -> None:
    """Three steps of the discriminator's own optimizer, from its moments after two real ones; finite differences."""
    game, round = minimax(**switches)
    player = game.player("discriminator")
    optimizer = build_optimizer(how, player.parameters)
    for _ in range(2):
        for p, g in zip(player.parameters, torch.autograd.grad(d_loss(game, round), player.parameters), strict=True):
            p.grad = g
        optimizer.step()
        optimizer.zero_grad()
    loss = unrolled_loss(game, "generator", {"discriminator": lambda: continued(optimizer, player.parameters)}, 3)
    found, h = gradient(game, loss, round), 1e-5
    expected = []
    for parameter in game.player("generator").parameters:
        flat = parameter.detach().view(-1)
        for i in range(len(flat)):
            at, values = float(flat[i]), []
            for sign in (1, -1):
                flat[i] = at + sign * h
                values.append(float(loss(round)["value"].detach()))
            flat[i] = at
            expected.append((values[0] - values[1]) / (2 * h))
    torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.float64), rtol=1e-6, atol=2e-9)


@pytest.mark.parametrize("how", [Optimizer(kind="sgd", lr=0.2), ADAM])
def test_with_the_second_term_cut_it_is_steps_taken_and_taken_back(how: Optimizer) -> None:
    game, round = minimax()
    player = game.player("discriminator")
    optimizer = build_optimizer(how, player.parameters)
    steppers = {"discriminator": lambda: continued(optimizer, player.parameters)}
    found = gradient(game, unrolled_loss(game, "generator", steppers, 4, through=False), round)
    saved = [p.detach().clone() for p in player.parameters]
    for _ in range(4):
        for p, g in zip(player.parameters, torch.autograd.grad(d_loss(game, round), player.parameters), strict=True):
            p.grad = g
        optimizer.step()
        optimizer.zero_grad()
    expected = gradient(game, lambda r: game.loss("generator", r), round)
    with torch.no_grad():
        for p, s in zip(player.parameters, saved, strict=True):
            p.copy_(s)
    torch.testing.assert_close(found, expected, rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("through", [True, False])
@pytest.mark.parametrize("norm", [True, False])
def test_foreseen_steps_leave_the_discriminator_and_its_statistics_as_they_are(through: bool, norm: bool) -> None:
    run = training(
        Small(norm=norm, keep=True), "unrolled", ADAM, source=spiral, batch=8, unroll_steps=3, unroll_through=through
    )
    for _ in range(2):
        run.play()
    kept = {k: v.clone() for k, v in run.game.discriminator.state_dict().items()}
    moments = {k: v.clone() for k, v in snapshot(run)[0].items() if k.startswith("optimizer/discriminator")}
    run.table.begin()
    round = run.table.draw("data")
    foresee = unrolled_loss(
        run.game, "generator", {"discriminator": lambda: run.table.stepper("discriminator")}, 3, through
    )
    gradients, _ = run.table.measure("generator", round, foresee)
    mean = run.game.mean_w.clone()
    with torch.no_grad():
        w = run.game.mapping(round.normal("z", 3)).mean(0)
    run.table.write("generator", gradients)
    assert all(torch.equal(v, kept[k]) for k, v in run.game.discriminator.state_dict().items())
    now = {k: v for k, v in snapshot(run)[0].items() if k.startswith("optimizer/discriminator")}
    assert all(torch.equal(now[k], moments[k]) for k in moments)
    torch.testing.assert_close(run.game.mean_w, 0.75 * mean + 0.25 * w)  # the generator's own statistic counts, once


@pytest.mark.parametrize(
    ("steps", "expected"),
    [(0, (0.5j, -0.5j)), (5, (-0.25 + 0.4330j, -0.25 - 0.4330j)), (10, (-0.5, -0.5))],
)
def test_unrolling_damps_the_dirac_generator(steps: int, expected: tuple[complex, complex]) -> None:
    """J = [[-2 K eta a^2, -a], [a, 0]], a = 1/2, eta = 0.2."""
    game = build(recipes.recipe("dirac", start=(0.0, 0.0)))
    loss = unrolled_loss(game, "generator", {"discriminator": lambda: gradient_steps(0.2)}, steps)
    J = jacobian(game, game.round(), losses={"generator": loss}).numpy()
    np.testing.assert_allclose(J, [[-2 * steps * 0.2 / 4, -0.5], [0.5, 0]], atol=1e-12)
    found = sorted(np.linalg.eigvals(J), key=lambda z: -z.imag)
    np.testing.assert_allclose(found, expected, atol=1e-4)


def test_the_analysed_unrolled_field_is_what_the_operator_follows() -> None:
    recipe = recipes.recipe("dirac", operator="unrolled", unroll_steps=3, start=(0.7, -0.4))
    run = Training(build(recipe), recipe)
    loss = unrolled_loss(run.game, "generator", {"discriminator": lambda: gradient_steps(0.2)}, 3)
    before = weights(run.game)
    field = vector_field(run.game, run.game.round(), losses={"generator": loss}).flat
    run.play()
    torch.testing.assert_close(weights(run.game), before + 0.2 * field, rtol=1e-12, atol=1e-14)


def test_the_second_term_is_half_of_the_damping() -> None:
    """Without it v = -a (psi + K eta a theta): damping K eta a^2, half of that with it. Near 0, J w to first order."""
    small = 1e-6
    for through, damping in ((True, 2 * 4 * 0.2 / 4), (False, 4 * 0.2 / 4)):
        path = played(1, operator="unrolled", unroll_steps=4, unroll_through=through, start=(small, small))
        np.testing.assert_allclose((path[1] - path[0]) / 0.2 / small, [-0.5 - damping, 0.5], rtol=1e-5)


def test_the_leader_is_the_generator_or_the_first() -> None:
    assert leading(Small(discriminator_first=True)) == "generator"
    assert leading(bilinear()) == "p0"
    with pytest.raises(UserError, match="0 steps or more, not -1"):
        unrolled_loss(bilinear(), "p0", {}, -1)
    with pytest.raises(UserError, match="analysed with through=True"):
        unrolled_loss(bilinear(), "p0", {}, 1, through=False)(bilinear().round())


def test_operators_take_their_settings_from_the_recipe() -> None:
    assert operator("consensus").keywords == {"gamma": 10.0}  # type: ignore[attr-defined]
    assert operator("symplectic").keywords == {"strength": 1.0}  # type: ignore[attr-defined]
    assert operator("symplectic", 0.3).keywords == {"strength": 0.3}  # type: ignore[attr-defined]
    chosen = operator("unrolled", unroll_steps=7, unroll_through=False)
    assert chosen.keywords == {"steps": 7, "through": False}  # type: ignore[attr-defined]
    with pytest.raises(UserError, match="did you mean 'symplectic'"):
        operator("symplektic")


# ---- on images
@pytest.mark.parametrize(
    ("name", "how"),
    [
        ("optimistic", {}),
        ("symplectic", {}),
        ("unrolled", {"unroll_steps": 2}),
        ("unrolled", {"unroll_steps": 2, "unroll_through": False}),
        ("unrolled", {"unroll_steps": 2, "objective": "minimax", "penalty.r1": 1.0}),
        (
            "alternating",
            {"g.kind": "sgd", "d.kind": "sgd", "g.lr": 0.1, "d.lr": 0.1, "g.momentum": -0.3, "d.momentum": -0.3},
        ),
        ("alternating", {"d.lr": 4e-4, "g.lr": 1e-4}),
    ],
)
def test_all_of_them_train_a_dcgan(name: str, how: dict[str, Any]) -> None:
    def images(cursor: int, total: int, first: int, length: int, resolution: int | None = None) -> dict[str, Tensor]:
        i = torch.arange(cursor + first, cursor + first + length, dtype=torch.float32)
        return {"image": torch.sin(i[:, None, None, None] + torch.linspace(0, 3, 64).view(1, 1, 8, 8))}

    recipe = recipes.recipe(
        "dcgan", operator=name, resolution=8, channels=1, width=4, latent=4, batch=8, precision="fp32", **how
    )
    run = Training(build(recipe), recipe, images)
    before = {k: v.clone() for k, v in run.game.named_parameters()}
    for _ in range(3):
        report = run.play()
    assert all(math.isfinite(float(v)) for terms in report.values() for v in terms.values())
    for key, value in run.game.named_parameters():
        assert torch.isfinite(value).all() and not torch.equal(value, before[key]), key
    assert run.counters.clock == 24
