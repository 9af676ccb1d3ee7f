"""Vector fields and Jacobians: formulas by hand, finite differences, two ways of differentiating against each other."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from saddlepoint import recipes
from saddlepoint.average import Average
from saddlepoint.errors import UserError
from saddlepoint.game import Game, Player, Round, Terms
from saddlepoint.systems import build
from saddlepoint.theory.fields import Coordinates, jacobian, jvp, linearised, vector_field, vjp
from tests.games import Holder, Small, bilinear, set_weights, spiral


def dirac(**settings: object) -> Game:
    return build(recipes.recipe("dirac", **settings))


def small(**settings: object) -> tuple[Small, Round]:
    """A double precision network game with R1, and a round on its data."""
    game = Small(lazy=2, **settings).double()  # type: ignore[arg-type]
    return game, game.round(spiral(0, 12, 0, 12), seed=1)


def finite_differences(game: Game, round: Round, f: Callable[[], Tensor], h: float = 1e-5) -> Tensor:
    """df/dw column by column, central differences; f: () -> [n]."""
    coordinates = Coordinates(game)
    at, columns = coordinates.weights(), []
    for i in range(coordinates.size):
        step = torch.zeros_like(at)
        step[i] = h
        values = []
        for sign in (1, -1):
            coordinates.write(at + sign * step)
            values.append(f())
        columns.append((values[0] - values[1]) / (2 * h))
    coordinates.write(at)
    return torch.stack(columns, -1)


# ---- the field
def test_the_field_of_the_dirac_gan_is_the_papers_with_its_sign() -> None:
    game = dirac(start=(0.8, -1.3))
    field = vector_field(game, game.round())
    slope = 1 / (1 + math.exp(0.8 * -1.3))  # f'(t) = sigmoid(-t)
    torch.testing.assert_close(field.flat, torch.tensor([1.3 * slope, 0.8 * slope]).double(), rtol=0, atol=1e-7)
    assert field.norm == pytest.approx(slope * math.hypot(0.8, 1.3))
    assert field.energy == pytest.approx(0.5 * field.norm**2)


def test_the_field_is_what_a_simultaneous_step_follows() -> None:
    game, round = small()
    field = vector_field(game, round)
    for player in game.players:
        loss = sum(game.loss(player, round).values())
        own = torch.autograd.grad(loss, player.parameters)
        for v, g, p in zip(field.by_player[player.name], own, player.parameters, strict=True):
            assert v.shape == p.shape
            torch.testing.assert_close(v, -g, rtol=0, atol=0)
    joined = torch.cat([v.reshape(-1) for parts in field.by_player.values() for v in parts])
    assert torch.equal(joined, field.flat)


def test_a_player_that_sits_out_stands_still() -> None:
    game, round = small(start=100)
    field = vector_field(game, round)
    assert all(not v.any() for v in field.by_player["discriminator"])
    assert all(v.any() for v in field.by_player["generator"])
    J = jacobian(game, round)
    block = Coordinates(game).blocks["discriminator"]
    assert not J[block].any()
    assert J[Coordinates(game).blocks["generator"], block].any()


class Shared(Game):
    """Two players that own the same weight: L_1 = w^2 a, L_2 = w b^2."""

    def __init__(self) -> None:
        super().__init__()
        self.w, self.a, self.b = (torch.nn.Parameter(torch.tensor(x, dtype=torch.float64)) for x in (2.0, 3.0, 5.0))
        self.players = (
            Player("first", [Holder(self.w), Holder(self.a)], self.first),
            Player("second", [Holder(self.b), Holder(self.w)], self.second),
        )

    def first(self, round: Round) -> Terms:
        return {"value": self.w**2 * self.a}

    def second(self, round: Round) -> Terms:
        return {"value": self.w * self.b**2}


def test_a_shared_weight_appears_once_and_feels_both_players() -> None:
    game = Shared()
    field = vector_field(game, game.round())
    assert field.flat.tolist() == [-(2 * 2 * 3 + 25), -4, -2 * 2 * 5]  # w, a, b
    assert Coordinates(game).blocks == {"first": slice(0, 2), "second": slice(2, 3)}
    expected = [[-2 * 3, -2 * 2, -2 * 5], [-2 * 2, 0, 0], [-2 * 5, 0, -2 * 2]]
    assert jacobian(game, game.round()).tolist() == expected


def test_an_averaged_twin_whose_weights_ask_for_no_gradients_has_a_field_too() -> None:
    game, round = small()
    twin = Average(game, half_life=10).twin
    asking = {n: p.requires_grad for n, p in twin.named_parameters()}
    assert not all(asking.values())
    torch.testing.assert_close(vector_field(twin, round).flat, vector_field(game, round).flat, rtol=0, atol=0)
    torch.testing.assert_close(jacobian(twin, round), jacobian(game, round), rtol=0, atol=0)
    assert {n: p.requires_grad for n, p in twin.named_parameters()} == asking


def test_lazy_terms_count_once_whatever_the_step() -> None:
    game = Small(lazy=4).double()
    batch = spiral(0, 8, 0, 8)
    J = [jacobian(game, game.round(batch, seed=1, step=step)) for step in (0, 1, 4)]
    assert torch.equal(J[0], J[1]) and torch.equal(J[0], J[2])
    without = jacobian(Small(lazy=0).double(), game.round(batch, seed=1))
    assert not torch.allclose(J[0], without)


# ---- the Jacobian
@pytest.mark.parametrize("mode", ["plain", "norm", "norm in evaluation"])
def test_the_jacobian_is_the_derivative_of_the_field(mode: str) -> None:
    game, round = small(norm=mode != "plain")
    game.train(mode != "norm in evaluation")
    expected = finite_differences(game, round, lambda: vector_field(game, round).flat)
    torch.testing.assert_close(jacobian(game, round), expected, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("chunk", [1, 7, 1000])
def test_the_jacobian_does_not_depend_on_how_many_rows_are_computed_at_once(chunk: int) -> None:
    game, round = small(norm=True)
    torch.testing.assert_close(jacobian(game, round, chunk=chunk), jacobian(game, round), rtol=1e-12, atol=1e-14)


@settings(max_examples=10)
@given(seed=st.integers(0, 10**6), norm=st.booleans(), training=st.booleans())
def test_products_are_those_of_the_matrix_and_of_forward_mode(seed: int, norm: bool, training: bool) -> None:
    game, round = small(norm=norm, seed=seed)
    game.train(training)
    draw = torch.Generator().manual_seed(seed)
    J = jacobian(game, round)
    u, w = (torch.randn(len(J), generator=draw, dtype=torch.float64) for _ in range(2))
    scale = float(J.norm())
    with linearised(game, round) as linear:
        forward, back = linear.jvp(u), linear.vjp(w)
        assert float((w @ forward - back @ u).abs()) < 1e-12 * scale * float(u.norm() * w.norm())
        again = linear.jvp(u)
    assert torch.equal(forward, again)
    torch.testing.assert_close(forward, J @ u, rtol=0, atol=1e-12 * scale)
    torch.testing.assert_close(back, J.T @ w, rtol=0, atol=1e-12 * scale)
    torch.testing.assert_close(jvp(game, round, u), J @ u, rtol=0, atol=1e-12 * scale)
    torch.testing.assert_close(vjp(game, round, w), J.T @ w, rtol=0, atol=1e-12 * scale)


def test_transposed_product_with_the_field_is_the_gradient_of_its_energy() -> None:
    game, round = small(norm=True)
    expected = finite_differences(game, round, lambda: 0.5 * vector_field(game, round).flat.square().sum())
    with linearised(game, round) as linear:
        torch.testing.assert_close(linear.energy_gradient(), expected, rtol=1e-6, atol=1e-7)
        assert torch.equal(linear.v, vector_field(game, round).flat)


class ZeroSum(Small):
    """The same networks, playing for one value."""

    def generator_loss(self, round: Round) -> Terms:
        return {"value": -torch.stack(list(super().discriminator_loss(round).values())).sum()}


def test_a_zero_sum_game_has_antisymmetric_coupling_and_symmetric_blocks() -> None:
    game = ZeroSum(lazy=1).double()
    J = jacobian(game, game.round(spiral(0, 12, 0, 12), seed=1))
    g, d = Coordinates(game).blocks.values()
    torch.testing.assert_close(J[g, d], -J[d, g].T, rtol=0, atol=1e-13)
    for block in (g, d):
        torch.testing.assert_close(J[block, block], J[block, block].T, rtol=0, atol=1e-13)
    assert J[g, d].abs().max() > 1e-3 and J[d, d].abs().max() > 1e-3


@pytest.mark.parametrize("training", [True, False])
def test_analysis_leaves_no_trace(training: bool) -> None:
    game, round = small(norm=True, pool=6)
    game.train(training)
    before = {k: (v.clone(), v._version) for k, v in game.state_dict(keep_vars=True).items()}
    vector_field(game, round)
    jacobian(game, round)
    jvp(game, round, torch.ones(Coordinates(game).size).double())
    for name, value in game.state_dict(keep_vars=True).items():
        assert torch.equal(value, before[name][0]), name
    assert all(p.grad is None and p.requires_grad for p in game.parameters())
    assert game.training is training


def test_a_linear_loss_has_no_second_derivative_and_no_error() -> None:
    game = bilinear(3.0)
    set_weights(game, [1.0, 2.0])
    assert jacobian(game, game.round()).tolist() == [[0.0, -3.0], [3.0, 0.0]]
    constant = Shared()
    with torch.no_grad():
        assert vjp(constant, constant.round(), torch.tensor([0.0, 0.0, 0.0])).tolist() == [0.0, 0.0, 0.0]


def test_wrong_sizes_are_named() -> None:
    game, round = small()
    size = Coordinates(game).size
    with pytest.raises(UserError, match=rf"shape \[3\] for a game of {size} weights"):
        vjp(game, round, torch.zeros(3))
    with pytest.raises(UserError, match=r"spectrum\(\) and linearised\(\) need no matrix"):
        jacobian(game, round, limit=10)


@pytest.mark.parametrize("penalty", [{}, {"penalty.r1": 1.0, "penalty.r2": 0.5}, {"penalty.gradient_penalty": 10.0}])
def test_both_ways_agree_on_a_convolutional_game_with_batch_norm_and_penalties(penalty: dict[str, float]) -> None:
    recipe = recipes.recipe("dcgan", width=4, latent=8, resolution=8, channels=1, precision="fp32", **penalty)
    game = build(recipe).double()
    round = game.round({"image": torch.rand(6, 1, 8, 8, generator=torch.Generator().manual_seed(0)) * 2 - 1}, seed=2)
    u = torch.randn(Coordinates(game).size, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    with linearised(game, round) as linear:
        forward, back = linear.jvp(u), linear.vjp(u)
    scale = float(forward.norm())
    torch.testing.assert_close(jvp(game, round, u), forward, rtol=0, atol=1e-11 * scale)
    h = 1e-6 / float(u.norm())
    coordinates = Coordinates(game)
    at = coordinates.weights()
    ends = []
    for sign in (1, -1):
        coordinates.write(at + sign * h * u)
        ends.append(vector_field(game, round).flat)
    assert float(((ends[0] - ends[1]) / (2 * h) - forward).norm()) < 1e-4 * scale
    assert float((u @ forward - u @ back).abs()) < 1e-10 * scale * float(u.norm())
