from __future__ import annotations

import dataclasses
import random
from typing import Any

import numpy
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from saddlepoint import tracking
from saddlepoint.errors import UserError
from saddlepoint.game import Game, Move, Player, Round, Stage, keyed_generator
from tests.games import Dirac, Small, bilinear, spiral

CPU = torch.device("cpu")


def drawn(total: int = 12, **fields: Any) -> Round:
    """A round of the engine (not of an analysis) with a batch."""
    values = {"batch": {"x": torch.arange(total * 2.0).view(total, 2)}, "size": total, "total": total}
    return Round(**{"analysis": False, **values, **fields})


# ---- random numbers
@given(seed=st.integers(0, 2**40), draw=st.integers(0, 2**40), name=st.text(max_size=8))
def test_numbers_are_a_pure_function_of_their_key(seed: int, draw: int, name: str) -> None:
    a, b = (drawn(3, seed=seed, draw=draw).normal(name, 4) for _ in range(2))
    assert torch.equal(a, b)
    for other in (
        drawn(3, seed=seed + 1, draw=draw).normal(name, 4),
        drawn(3, seed=seed, draw=draw + 1).normal(name, 4),
        drawn(3, seed=seed, draw=draw).normal(name + "'", 4),
    ):
        assert not torch.equal(a, other)


@given(n=st.sampled_from([1, 2, 3, 4, 6, 12]), shape=st.lists(st.integers(1, 3), max_size=2))
def test_parts_of_a_round_see_the_numbers_of_the_whole(n: int, shape: list[int]) -> None:
    whole = drawn(12, seed=5, draw=7)
    parts = whole.split(n)
    assert [p.first for p in parts] == [i * 12 // n for i in range(n)]
    assert torch.equal(torch.cat([p["x"] for p in parts]), whole["x"])
    for draw in (Round.normal, Round.uniform):
        assert torch.equal(torch.cat([draw(p, "a", *shape) for p in parts]), draw(whole, "a", *shape))
    for part in parts:
        assert torch.equal(part.common("flip", 2), whole.common("flip", 2))


def test_a_part_of_a_part() -> None:
    whole = drawn(12)
    part = whole.part(6, 6).part(2, 3)
    assert (part.first, part.size, part.total) == (8, 3, 12)
    assert torch.equal(part["x"], whole["x"][8:11])
    assert torch.equal(part.normal("z", 2), whole.normal("z", 2)[8:11])


def test_asking_for_other_numbers_in_between_changes_nothing() -> None:
    alone = drawn().normal("z", 3)
    round = drawn()
    round.uniform("augment", 5)
    round.common("flip")
    assert torch.equal(round.normal("z", 3), alone)


def test_numbers_have_their_distribution_shape_and_type() -> None:
    round = drawn(4096, dtype=torch.float64, draw=3)
    z, u = round.normal("z", 4), round.uniform("u", 4)
    assert z.shape == u.shape == (4096, 4)
    assert z.dtype == u.dtype == torch.float64
    assert abs(z.mean().item()) < 0.03
    assert z.std().item() == pytest.approx(1, abs=0.03)
    assert 0 <= u.min().item() < u.max().item() < 1
    assert u.mean().item() == pytest.approx(0.5, abs=0.02)
    assert round.uniform("v").shape == (4096,)
    assert round.common("c").shape == ()


def test_float64_sees_the_same_round_as_float32() -> None:
    single, double = drawn(dtype=torch.float32), drawn(dtype=torch.float64)
    assert torch.equal(single.normal("z", 9).double(), double.normal("z", 9))


def test_the_users_generators_are_left_alone() -> None:
    torch.manual_seed(1)
    numpy.random.seed(1)
    random.seed(1)
    expected = torch.randn(3), numpy.random.rand(3), random.random()
    torch.manual_seed(1)
    numpy.random.seed(1)
    random.seed(1)
    drawn().normal("z", 3)
    drawn().common("c")
    assert torch.equal(torch.randn(3), expected[0])
    assert (numpy.random.rand(3) == expected[1]).all()
    assert random.random() == expected[2]


def test_an_analysis_draws_its_numbers_once_and_another_draw_anew() -> None:
    round = bilinear().round(size=4)
    assert round.analysis
    assert round.normal("z", 2).data_ptr() == round.normal("z", 2).data_ptr()
    later = dataclasses.replace(round, draw=1)
    reseeded = dataclasses.replace(round, seed=1)
    assert not torch.equal(later.normal("z", 2), round.normal("z", 2))
    assert not torch.equal(reseeded.normal("z", 2), round.normal("z", 2))
    assert torch.equal(later.normal("z", 2), dataclasses.replace(later, numbers={}).normal("z", 2))


def test_keyed_generator_depends_on_the_whole_key() -> None:
    def numbers(*key: object) -> list[float]:
        return torch.rand(2, generator=keyed_generator(CPU, *key)).tolist()

    keys = [(0,), (1,), ("0",), (0, 0), (0, "z"), ("z", 0), ("data", 0, 1), ("data", 1, 0)]
    assert len({tuple(numbers(*key)) for key in keys}) == len(keys)
    assert numbers("data", 3) == numbers("data", 3)


# ---- terms
@pytest.mark.parametrize("step", range(9))
def test_a_lazy_term_is_due_every_so_many_rounds(step: int) -> None:
    round = drawn(step=step)
    assert round.lazy(4, "r1") == (4.0 if step in (0, 4, 8) else 0.0)
    assert dataclasses.replace(round, analysis=True).lazy(4, "r1") == 1.0
    for asked, gain in ((frozenset({"gan"}), 0.0), (frozenset({"r1"}), 4.0 if step % 4 == 0 else 0.0)):
        assert round.asking(asked).lazy(4, "r1") == gain
        assert dataclasses.replace(round, analysis=True, terms=asked).lazy(4, "r1") == float("r1" in asked)


def test_asking_keeps_the_draw() -> None:
    round = drawn(draw=3)
    asked = round.asking(frozenset({"r1"}))
    assert asked.asks("r1")
    assert not asked.asks("gan")
    assert round.asks("gan")
    assert torch.equal(asked.normal("z", 2), round.normal("z", 2))
    assert asked.notes is round.notes
    assert round.asking(None) is round


def test_a_loss_is_filtered_by_the_terms_that_are_asked_for() -> None:
    game = Small(lazy=1)
    round = game.round(spiral(0, 4, 0, 4))
    assert list(game.loss("discriminator", round)) == ["real", "fake", "r1"]
    assert list(game.loss("discriminator", round.asking(frozenset({"r1", "fake"})))) == ["fake", "r1"]
    assert game.loss("discriminator", round.asking(frozenset({"other"}))) == {}


# ---- notes and shared forwards
def test_notes_are_collected_without_their_graph() -> None:
    round = drawn()
    w = torch.ones((), requires_grad=True)
    for part in round.split(2):
        part.note("seen", w * 2)
    assert [value.item() for value in round.notes["seen"]] == [2, 2]
    assert not round.notes["seen"][0].requires_grad


def test_keep_gives_a_later_player_the_first_ones_values() -> None:
    calls: list[int] = []
    w = torch.ones(2, requires_grad=True)

    def forward() -> dict[str, Any]:
        calls.append(1)
        return {"fake": w * len(calls), "pair": (w * 2, [w * 3])}

    round = drawn(kept={})
    generator, discriminator = (dataclasses.replace(round, player=name) for name in ("generator", "discriminator"))
    first = generator.keep("fakes", forward)
    second = discriminator.keep("fakes", forward)
    assert first["fake"].requires_grad
    assert not second["fake"].requires_grad
    assert not second["pair"][1][0].requires_grad
    assert torch.equal(first["fake"], second["fake"])
    assert len(calls) == 1
    generator.keep("fakes", forward)  # the owner moves again: new values, with their graph
    assert len(calls) == 2
    assert discriminator.keep("fakes", forward)["fake"].tolist() == [2, 2]
    assert discriminator.keep("others", forward)["fake"].requires_grad  # another name is another value
    part = round.part(6, 6)
    assert dataclasses.replace(part, player="discriminator").keep("fakes", forward)["fake"].requires_grad


def test_keep_is_off_under_analysis() -> None:
    game = Small(keep=True)
    round = game.round(spiral(0, 4, 0, 4))
    assert round.kept is None
    game.loss("generator", round)
    terms = game.loss("discriminator", round)
    gradients = torch.autograd.grad(terms["fake"], list(game.generator.parameters()))
    assert all(g.abs().max() > 0 for g in gradients)  # the cross derivatives are there


# ---- examples
def test_a_missing_part_of_the_batch_is_named() -> None:
    with pytest.raises(UserError, match=r"no 'label'.*give x"):
        drawn()["label"]
    assert "x" in drawn()
    assert "label" not in drawn()


@given(size=st.integers(1, 30), n=st.integers(1, 8))
def test_a_batch_splits_evenly_or_is_refused(size: int, n: int) -> None:
    round = drawn(size)
    if size % n:
        with pytest.raises(UserError, match=f"batch of {size} cannot be split into {n}"):
            round.split(n)
    else:
        assert [p.size for p in round.split(n)] == [size // n] * n


# ---- players and games
def test_a_player_owns_each_parameter_once() -> None:
    shared = nn.Linear(2, 2)
    player = Player("g", [shared, nn.Sequential(shared, nn.Linear(2, 1))], lambda round: {})
    assert [tuple(p.shape) for p in player.parameters] == [(2, 2), (2,), (1, 2), (1,)]
    assert repr(player) == "Player('g', 9 parameters)"


def test_an_unknown_player_is_an_error_with_the_nearest() -> None:
    with pytest.raises(UserError, match="did you mean 'discriminator'"):
        Small().player("discriminater")


def test_a_game_without_samples_says_so() -> None:
    with pytest.raises(UserError, match="Linear does not sample"):
        bilinear().sample(1)


def test_default_moves_and_stage() -> None:
    game = Small(steps=(1, 3), discriminator_first=True)
    assert game.moves(0) == [Move("discriminator", "data")] * 3 + [Move("generator", "noise")]
    assert Game().stage(10**6) == Stage()


def test_a_round_takes_the_games_precision_and_checks_lengths() -> None:
    game = Small().double()
    round = game.round({"x": torch.zeros(3, 2), "label": torch.arange(3)}, seed=4, draw=2, step=5, clock=9)
    assert round["x"].dtype == torch.float64
    assert round["label"].dtype == torch.int64
    assert (round.size, round.total, round.seed, round.draw, round.step, round.clock) == (3, 3, 4, 2, 5, 9)
    assert round.normal("z", 3).dtype == torch.float64
    assert game.round(size=7).normal("z", 1).shape == (7, 1)
    with pytest.raises(UserError, match="differ in length"):
        game.round({"x": torch.zeros(3, 2), "label": torch.zeros(4)})


def test_the_same_round_twice_gives_the_same_bits() -> None:
    game = Small(norm=True, lazy=2, pool=8)
    round = game.round(spiral(0, 8, 0, 8), seed=3)
    for player in game.players:
        once, again = (torch.stack(list(game.loss(player, round).values())) for _ in range(2))
        assert torch.equal(once, again)


def test_a_game_is_a_function_of_its_weights() -> None:
    game, other = Small(seed=0).double(), Small(seed=1).double()
    round = other.round(spiral(0, 6, 0, 6))
    elsewhere = torch.func.functional_call(game, dict(other.named_parameters()), ("discriminator", round))
    for name, term in other.loss("discriminator", round).items():
        torch.testing.assert_close(elsewhere[name], term, rtol=0, atol=0)


class Careless(Game):
    """A game with a library layer that writes while it computes."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3), nn.Linear(3, 1))
        self.players = (Player("only", self.net, self.loss_of),)

    def loss_of(self, round: Round) -> dict[str, Tensor]:
        return {"square": self.net(round["x"]).square().mean()}


def test_untouched_restores_what_a_library_layer_writes() -> None:
    game = Careless()
    before = {name: b.clone() for name, b in game.named_buffers()}
    round = game.round({"x": torch.randn(5, 2)})
    with game.untouched():
        terms = game.loss("only", round)
        gradients = torch.autograd.grad(terms["square"], list(game.parameters()))  # inside: the graph is still whole
        assert int(game.net[1].num_batches_tracked) == 1
    assert all(torch.equal(b, before[name]) for name, b in game.named_buffers())
    assert all(g.isfinite().all() for g in gradients)
    game.loss("only", round)
    assert int(game.net[1].num_batches_tracked) == 1  # without it, the layer does write


def test_untouched_restores_after_an_error_and_drops_statistics() -> None:
    game = Small()
    with tracking.collecting() as ledger, pytest.raises(RuntimeError), game.untouched():
        game.mean_w.fill_(7)
        tracking.track(game.mean_w, torch.ones(3), 1.0)
        raise RuntimeError
    assert not game.mean_w.any()
    assert ledger == []


def test_evaluating_restores_every_modules_own_mode() -> None:
    game = Small(norm=True)
    game.train()
    game.discriminator[1].eval()  # frozen statistics: a mode of its own
    with pytest.raises(RuntimeError), game.evaluating():
        assert not any(module.training for module in game.modules())
        assert not torch.is_grad_enabled()
        raise RuntimeError
    assert torch.is_grad_enabled()
    assert [m for m in game.modules() if not m.training] == [game.discriminator[1]]


def test_the_cross_derivatives_of_a_zero_sum_game_are_opposite() -> None:
    game = Dirac("minimax")
    round = game.round()
    g = sum(game.loss("generator", round).values())
    d = sum(game.loss("discriminator", round).values())
    (g_theta,) = torch.autograd.grad(g, game.theta, create_graph=True)
    (d_psi,) = torch.autograd.grad(d, game.psi, create_graph=True)
    (upper,) = torch.autograd.grad(g_theta.sum(), game.psi)
    (lower,) = torch.autograd.grad(d_psi.sum(), game.theta)
    assert upper.item() == pytest.approx(-lower.item(), abs=1e-14)
    assert upper.abs().item() > 0.1
