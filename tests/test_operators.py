from __future__ import annotations

import cmath
import dataclasses
import math
from collections.abc import Sequence
from functools import partial
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from saddlepoint.errors import UserError
from saddlepoint.game import Game, Move
from saddlepoint.operators import OPERATORS, Table, added, operator
from saddlepoint.recipes.base import Optimizer
from tests.games import (
    Dirac,
    Linear,
    Small,
    bilinear,
    map_matrix,
    radius,
    same_bits,
    set_weights,
    snapshot,
    spiral,
    training,
    weights,
)

# ---- linear games: F_h is a matrix that can be written down


def block(matrix: Tensor, sizes: Sequence[int], player: int) -> Tensor:
    """The rows of `matrix` that belong to one player, others zero."""
    masked = torch.zeros_like(matrix)
    first = sum(sizes[:player])
    masked[first : first + sizes[player]] = matrix[first : first + sizes[player]]
    return masked


def expected_map(name: str, matrix: Tensor, sizes: Sequence[int], steps: Sequence[int], h: float) -> Tensor:
    """F_h of the game whose gradient field is `matrix` w."""
    one = torch.eye(len(matrix), dtype=torch.float64)
    if name == "simultaneous":
        return one - h * matrix
    if name == "extragradient":
        return one - h * matrix @ (one - h * matrix)
    if name == "consensus":
        return one - h * (matrix + 0.7 * matrix.T @ matrix)
    for player, n in enumerate(steps):
        for _ in range(n):
            one = (torch.eye(len(matrix), dtype=torch.float64) - h * block(matrix, sizes, player)) @ one
    return one


@settings(max_examples=8)
@given(
    seed=st.integers(0, 10**6),
    sizes=st.lists(st.integers(1, 3), min_size=1, max_size=3),
    h=st.floats(0.01, 1.0),
    n=st.integers(1, 3),
)
@pytest.mark.parametrize("name", ["alternating", "simultaneous", "extragradient", "consensus"])
def test_operators_on_any_linear_game_are_the_matrices_of_their_formulas(
    name: str, seed: int, sizes: list[int], h: float, n: int
) -> None:
    matrix = torch.randn(sum(sizes), sum(sizes), dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    own = torch.block_diag(*(torch.ones(k, k) for k in sizes)).bool()
    matrix = torch.where(own, (matrix + matrix.T) / 2, matrix)
    steps = [n, *[1] * (len(sizes) - 1)]
    run = training(Linear(matrix, sizes, steps), name, h=h, operator_strength=0.7)
    torch.testing.assert_close(map_matrix(run), expected_map(name, matrix, sizes, steps, h), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("h", [0.05, 0.5, 2.0])
def test_simultaneous_play_of_a_bilinear_game_grows_by_root_one_plus_h_squared(h: float) -> None:
    run = training(bilinear(), "simultaneous", h=h)
    set_weights(run.game, [0.6, -0.8])
    for step in range(1, 6):
        run.play()
        assert weights(run.game).norm().item() == pytest.approx((1 + h * h) ** (step / 2), rel=1e-12)


@pytest.mark.parametrize("h", [0.1, 1.0, 1.99])
def test_alternating_play_of_a_bilinear_game_stays_on_an_ellipse_up_to_two(h: float) -> None:
    run = training(bilinear(), "alternating", h=h)
    set_weights(run.game, [1.0, 1.0])
    x, y = weights(run.game).tolist()
    energy = x * x - h * x * y + y * y  # conserved exactly
    for _ in range(60):
        run.play()
        x, y = weights(run.game).tolist()
        assert x * x - h * x * y + y * y == pytest.approx(energy, rel=1e-9)
    assert radius(map_matrix(run)) == pytest.approx(1, abs=1e-9)


def test_alternating_play_of_a_bilinear_game_diverges_beyond_two() -> None:
    assert radius(map_matrix(training(bilinear(), "alternating", h=2.01))) > 1.1


@pytest.mark.parametrize("mu", [0.1, 0.5, 0.7071067811865476, 0.99, 1.01, 2.0])
def test_extragradient_radius(mu: float) -> None:
    found = radius(map_matrix(training(bilinear(2.0), "extragradient", h=mu / 2)))
    assert found == pytest.approx(abs(1 + 1j * mu - mu * mu), abs=1e-12)
    assert (found < 1) == (mu < 1)
    if mu == 0.7071067811865476:
        assert found == pytest.approx(math.sqrt(3) / 2, abs=1e-12)  # the best there is: .866


@pytest.mark.parametrize("gamma", [0.3, 1.0, 5.0, 10.0])
def test_consensus_step_bound(gamma: float) -> None:
    bound = 2 * gamma / (1 + gamma**2 / 4)  # h < 2 gamma / (1 + gamma^2 a^2), a = 1/2
    for factor in (0.999, 1.001):
        run = training(bilinear(0.5), "consensus", h=factor * bound, operator_strength=gamma)
        assert (radius(map_matrix(run)) < 1) == (factor < 1)


# ---- the Dirac-GAN: bounds and distances of the sheet


def dirac_radius(operator: str, h: float, **settings: Any) -> float:
    strength = settings.pop("strength", 10.0)
    run = training(Dirac(**settings), operator, h=h, operator_strength=strength)
    return radius(map_matrix(run, scale=1e-5))


@pytest.mark.parametrize(
    ("operator", "settings", "bound"),
    [
        ("alternating", {}, 4.0),
        ("alternating", {"steps": 5}, 4 / math.sqrt(5)),
        ("simultaneous", {"gamma": 0.1}, 0.4),
        ("simultaneous", {"gamma": 0.3}, 1.2),
        ("simultaneous", {"gamma": 1.0}, 4.0),
        ("simultaneous", {"gamma": 2.0}, 1.0718),
        ("simultaneous", {"gamma": 3.0}, 0.6863),
        ("alternating", {"gamma": 0.1}, 3.620),
        ("alternating", {"gamma": 0.3}, 2.976),
        ("alternating", {"gamma": 1.0}, 1.657),
        ("alternating", {"gamma": 2.0}, 0.944),
        ("alternating", {"gamma": 3.0}, 0.649),
        ("alternating", {"gamma": 1.0, "steps": 5}, 1.907),
        ("alternating", {"gamma": 3.0, "steps": 5}, 0.663),
        ("consensus", {"strength": 0.3}, 0.587),
        ("consensus", {"strength": 1.0}, 1.6),
        ("consensus", {"strength": 5.0}, 1.379),
        ("consensus", {"strength": 10.0}, 0.769),
    ],
)
def test_dirac_step_bounds(operator: str, settings: dict[str, Any], bound: float) -> None:
    below, above = (dirac_radius(operator, factor * bound, **settings) for factor in (0.998, 1.002))
    slack = 1e-7 if operator == "alternating" and "gamma" not in settings else 0.0  # on the circle, not inside
    assert below < 1 + slack
    assert above > 1 + 1e-5


@pytest.mark.parametrize("h", [0.01, 0.1, 1.0])
def test_dirac_without_penalty_always_diverges_when_simultaneous(h: float) -> None:
    assert dirac_radius("simultaneous", h) == pytest.approx(math.sqrt(1 + h * h / 4), abs=1e-8)


@pytest.mark.parametrize("gamma", [0.3, 2.0])
def test_dirac_spectrum_with_r1(gamma: float) -> None:
    """-gamma/2 +- sqrt(gamma^2/4 - 1/4), at two gammas where a misprinted gamma/4 would show."""
    run = training(Dirac(gamma=gamma), "simultaneous", h=0.1)
    found = torch.linalg.eigvals((map_matrix(run, 1e-5) - torch.eye(2)) / 0.1)
    root = cmath.sqrt(gamma**2 / 4 - 0.25)
    expected = sorted([-gamma / 2 + root, -gamma / 2 - root], key=lambda z: (z.real, z.imag))
    for z, other in zip(sorted(found.tolist(), key=lambda z: (z.real, z.imag)), expected, strict=True):
        assert z == pytest.approx(other, abs=1e-6)


@pytest.mark.parametrize(
    ("operator", "settings", "distance"),
    [
        ("simultaneous", {}, 3.097),
        ("alternating", {}, 1.421),
        ("alternating", {"kind": "nonsaturating"}, 0.284),
        ("alternating", {"kind": "wasserstein", "clipping": 1.0}, 1.024),
        ("simultaneous", {"gamma": 0.3}, 2.6e-6),
        ("consensus", {}, 2.6e-10),
    ],
)
def test_dirac_distances_after_500_rounds(operator: str, settings: dict[str, Any], distance: float) -> None:
    """h = .2, the generator first: the settings of the paper's published notebook.

    There a high D means "fake", here it means "real": the notebook's start (1, 1) is our (1, -1).
    """
    run = training(Dirac(**settings), operator, h=0.2, operator_strength=1.0)
    set_weights(run.game, [1.0, -1.0])
    for _ in range(500):
        run.play()
    found = weights(run.game).norm().item()
    assert found == pytest.approx(distance, abs=6e-4 if distance > 0.1 else 0, rel=0.03 if distance < 0.1 else 0)


# ---- consensus on a game that is not linear


def test_consensus_field_is_v_minus_gamma_jacobian_transposed_v() -> None:
    game = Small(lazy=1).double()
    run = training(game, "consensus", h=1.0, source=spiral, batch=8, operator_strength=0.7)
    run.table.begin()
    round = run.table.draw("data")

    def field(at: Tensor) -> Tensor:
        set_weights(game, at)
        measured = [run.table.measure(p.name, round)[0] for p in game.players]
        return torch.cat([g.reshape(-1) for gradients in measured for g in gradients if g is not None])

    w = weights(game)
    xi = field(w)
    n = len(w)
    probes = torch.randn(4, n, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    directions = [(field(w + 1e-5 * u) - field(w - 1e-5 * u)) / 2e-5 for u in probes]  # J u
    set_weights(game, w)
    measured = {p.name: run.table.measure(p.name, round)[0] for p in game.players}
    pulled = run.table.vjp(round, measured)
    transposed = torch.cat([g.reshape(-1) for p in game.players for g in pulled[p.name] if g is not None])
    for u, ju in zip(probes, directions, strict=True):  # <J u, xi> = <u, J^T xi>
        assert (ju @ xi).item() == pytest.approx((u @ transposed).item(), rel=1e-6)
    run = training(game, "consensus", h=1.0, source=spiral, batch=8, operator_strength=0.7)
    run.play()
    torch.testing.assert_close(weights(game), w - (xi + 0.7 * transposed), rtol=1e-9, atol=1e-12)


# ---- the table, seen by a spy


class Spy:
    """A table that writes down what an operator asks of it."""

    def __init__(self, table: Any) -> None:
        self.table, self.calls = table, []

    def __getattr__(self, name: str) -> Any:
        method = getattr(self.table, name)
        if name not in ("draw", "measure", "write", "vjp", "trial"):
            return method
        return lambda *args, **kwargs: self.calls.append((name, args)) or method(*args, **kwargs)

    def said(self, name: str) -> list[Any]:
        return [args[0] for call, args in self.calls if call == name]

    def order(self) -> list[str]:
        return [name for name, _ in self.calls]


def spied(game: Game, name: str, **recipe: Any) -> tuple[Any, Spy]:
    run = training(game, name, source=spiral, batch=8, **recipe)
    spy = Spy(run.table)
    play = run.operator
    run.operator = lambda game, table: play(game, spy)  # type: ignore[assignment]
    return run, spy


@pytest.mark.parametrize("name", ["simultaneous", "extragradient", "consensus"])
def test_everything_is_measured_before_anything_is_written(name: str) -> None:
    run, spy = spied(Small(), name)
    run.play()
    order = spy.order()
    assert order.index("write") > max(i for i, call in enumerate(order) if call != "write")
    assert spy.said("draw") == ["data"]
    assert spy.said("write") == ["generator", "discriminator"]


def test_moves_are_data() -> None:
    order = [
        Move("discriminator", "data"),
        Move("discriminator", "noise"),
        Move("generator", "noise"),
        Move("discriminator", "same", frozenset({"r1"})),
        Move("discriminator", "data"),
    ]
    run, spy = spied(Small(lazy=1, order=order, discriminator_first=True), "alternating")
    rounds: list[Any] = []
    draw = run.table.draw
    run.table.draw = lambda kind="data", last=None: rounds.append(draw(kind, last)) or rounds[-1]  # type: ignore[method-assign]
    report = run.play()
    assert spy.said("draw") == [move.draw for move in order]
    assert spy.said("write") == [move.player for move in order]
    first, noise, last_noise, same, fresh = rounds
    assert [r.draw for r in rounds] == [1, 2, 3, 3, 4]
    assert same is last_noise
    assert torch.equal(noise["x"], first["x"])
    assert not torch.equal(noise.normal("z", 3), first.normal("z", 3))
    assert not torch.equal(fresh["x"], first["x"])
    assert torch.equal(fresh["x"], spiral(8, 8, 0, 8)["x"])
    # draws: randomness; cursor: examples taken; clock: examples that the first player saw, each once
    assert dataclasses.astuple(run.counters) == (4, 16, 1, 16)
    assert set(report["discriminator"]) == {"real", "fake", "r1"}
    asked = [args[1].terms for name, args in spy.calls if name == "measure"]
    assert asked == [None, None, None, frozenset({"r1"}), None]


@pytest.mark.parametrize(("steps", "counters"), [((1, 1), (2, 8, 1, 8)), ((3, 2), (5, 24, 1, 24))])
def test_step_counts_of_two_players(steps: tuple[int, int], counters: tuple[int, ...]) -> None:
    run, spy = spied(Small(steps=steps), "alternating")
    run.play()
    assert spy.said("write") == ["generator"] * steps[0] + ["discriminator"] * steps[1]
    assert spy.said("draw") == ["data"] * steps[0] + ["noise"] * steps[1]
    assert dataclasses.astuple(run.counters) == counters


def test_alternating_reports_the_last_values_of_every_term() -> None:
    order = [Move("generator"), Move("discriminator", "same", frozenset({"fake"})), Move("discriminator", "same")]
    run, _ = spied(Small(order=order), "alternating")
    report = run.play()
    assert list(report) == ["generator", "discriminator"]
    assert list(report["discriminator"]) == ["fake", "real"]


def test_a_player_sees_what_the_one_before_did() -> None:
    run = training(Linear(torch.tensor([[0.0, 1.0], [1.0, 0.0]]), [1, 1]), "alternating", h=0.5)
    set_weights(run.game, [1.0, 2.0])
    report = run.play()
    assert report["p0"]["cross"].item() == 2.0  # x y at (1, 2)
    assert report["p1"]["cross"].item() == 0.0  # x has moved to 0
    assert weights(run.game).tolist() == [0.0, 2.0]


# ---- optimizers under extragradient, and look-ahead


ADAM = Optimizer(kind="adam", lr=0.05, betas=(0.5, 0.9))


@pytest.mark.parametrize(
    "optimizer", [ADAM, dataclasses.replace(ADAM, kind="adamw", weight_decay=0.1), Optimizer(kind="rmsprop", lr=0.01)]
)
def test_extragradient_advances_moments_once_and_equals_a_loop_by_hand(optimizer: Optimizer) -> None:
    run = training(Small(), "extragradient", optimizer, source=spiral, batch=8)
    by_hand = training(Small(), "simultaneous", optimizer, source=spiral, batch=8)
    for count in range(1, 4):
        run.play()
        table, game = by_hand.table, by_hand.game
        table.begin()
        round = table.draw("data")
        saved, _ = snapshot(by_hand)
        for name, gradients in {p.name: table.measure(p.name, round)[0] for p in game.players}.items():
            table.write(name, gradients)
        there = {p.name: table.measure(p.name, round)[0] for p in game.players}
        statistics = {name: value for name, value in by_hand.state()[0].items() if name == "game/mean_w"}
        kept = {name: value.clone() for name, value in statistics.items()}
        by_hand.load(saved, {"counters": dataclasses.asdict(by_hand.counters), "era": 0})
        for player in game.players:
            table.pending[player.name] = ([], round, {})
            table.write(player.name, there[player.name])
        game.mean_w.copy_(kept["game/mean_w"])
        table.end()
        ours, theirs = run.state()[0], by_hand.state()[0]
        assert same_bits({k: v.detach() for k, v in ours.items()}, {k: v.detach() for k, v in theirs.items()})
        assert float(ours["optimizer/generator/0/step"]) == count


@pytest.mark.parametrize("optimizer", [ADAM, Optimizer(kind="sgd", lr=0.1, momentum=0.9), Optimizer(kind="rmsprop")])
@pytest.mark.parametrize("rounds", [0, 2])
@pytest.mark.parametrize("fails", [False, True])
def test_a_trial_restores_weights_optimizers_and_buffers_bit_for_bit(
    optimizer: Optimizer, rounds: int, fails: bool
) -> None:
    run = training(Small(norm=True, pool=8, clipping=0.3), "simultaneous", optimizer, source=spiral, batch=8)
    for _ in range(rounds):
        run.play()
    with torch.no_grad():
        run.game.generator[0].weight[0, 0] = -0.0  # a zero has a sign
    before, _ = snapshot(run)
    run.table.begin()
    round = run.table.draw("data")
    measured = {p.name: run.table.measure(p.name, round)[0] for p in run.game.players}
    notes = len(run.table.notes["fooled"])

    def look() -> None:
        with run.table.trial(measured):
            assert not torch.equal(weights(run.game), at_first)
            assert run.game.discriminator[0].weight.abs().max() <= 0.3  # projected, as a step is
            for player in run.game.players:
                run.table.measure(player.name, round)
            run.game.mean_w.fill_(9.0)  # a library layer that writes
            if fails:
                raise RuntimeError

    at_first = weights(run.game)
    if fails:
        with pytest.raises(RuntimeError):
            look()
    else:
        look()
    assert same_bits(snapshot(run)[0], before)
    assert not run.table.on_trial
    assert len(run.table.notes["fooled"]) == notes  # what is noted in a look-ahead is not logged
    assert all(p.grad is None for p in run.game.parameters())


def test_a_trial_of_one_player_leaves_the_others() -> None:
    run = training(bilinear(), "simultaneous", h=0.5)
    set_weights(run.game, [1.0, 2.0])
    run.table.begin()
    gradients = (torch.tensor([4.0], dtype=torch.float64),)
    with run.table.trial({"p0": gradients, "p1": ()}):  # p1 sits out
        assert weights(run.game).tolist() == [-1.0, 2.0]
        with run.table.trial({"p0": gradients}):  # and they nest
            assert weights(run.game).tolist() == [-3.0, 2.0]
        assert weights(run.game).tolist() == [-1.0, 2.0]
        assert run.table.on_trial
    assert weights(run.game).tolist() == [1.0, 2.0]


# ---- names


def test_operators_by_name() -> None:
    assert {"alternating", "simultaneous", "extragradient", "consensus"} <= set(OPERATORS)
    assert operator("alternating") is OPERATORS["alternating"]
    chosen = operator("consensus", 3.0)
    assert isinstance(chosen, partial)
    assert chosen.keywords == {"gamma": 3.0}
    with pytest.raises(UserError, match="did you mean 'consensus'"):
        operator("concensus")


def test_added_treats_none_as_zero() -> None:
    a, b = torch.tensor([1.0]), torch.tensor([10.0])
    result = added([a, None, a, None], [b, b, None, None], 0.5)
    assert [None if r is None else r.item() for r in result] == [6.0, 5.0, 1.0, None]
    with pytest.raises(ValueError, match="zip"):
        added([a], [b, b], 1.0)


def test_a_custom_operator_needs_nothing_but_the_table() -> None:
    """Optimistic gradient descent in a few lines, from the outside: stable for h m < 1/sqrt(3), best .717 at 1/2."""

    def optimistic(game: Game, table: Table) -> dict[str, Any]:
        round = table.draw("data")
        measured = {p.name: table.measure(p.name, round) for p in game.players}
        for name, ((now,), _) in measured.items():
            assert now is not None
            before = table.memory.get(name, now)
            table.memory[name] = now.clone()
            table.write(name, [2 * now - before])
        return {name: terms for name, (_, terms) in measured.items()}

    def rate(mu: float) -> float:
        run = training(bilinear(), "simultaneous", h=mu)
        run.operator = optimistic
        set_weights(run.game, [1.0, 0.0])
        norms = []
        for _ in range(200):
            run.play()
            norms.append(weights(run.game).norm().item())
        return (norms[-1] / norms[-61]) ** (1 / 60)

    assert rate(0.5) == pytest.approx(1 / math.sqrt(2), abs=0.02)
    assert rate(0.57) < 1 < rate(0.59)
