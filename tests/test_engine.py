from __future__ import annotations

import contextlib
import dataclasses
import math
import os
import signal

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from saddlepoint import recipes
from saddlepoint.engine import NonFiniteError, Training, build_optimizer, due, fit
from saddlepoint.errors import UserError
from saddlepoint.game import Game, Move, Player, Round, Stage, Terms
from saddlepoint.operators import OPERATORS
from saddlepoint.recipes.base import Optimizer
from saddlepoint.systems.dcgan import DCGAN
from saddlepoint.tracking import track
from tests.games import Holder, Linear, Small, bilinear, same_bits, set_weights, snapshot, spiral, training, weights

ADAM = Optimizer(kind="adam", lr=0.02, betas=(0.5, 0.9))
OPTIMIZERS = {
    "adam": ADAM,
    "adamw": dataclasses.replace(ADAM, kind="adamw", weight_decay=0.1),
    "rmsprop": Optimizer(kind="rmsprop", lr=0.01, momentum=0.5),
    "sgd": Optimizer(kind="sgd", lr=0.1, momentum=-0.3),
}


def schedule(clock: int) -> Stage:
    """A batch that halves, an optimizer reset inside, a learning rate that decays."""
    return Stage(
        batch=8 if clock < 24 else 4,
        era=int(clock >= 16),
        settings={"generator": {"lr": 0.02 / (1 + clock)}} if clock < 28 else {},
    )


def everything(seed: int = 0) -> Small:
    """A game with all that a resumed run could forget."""
    return Small(seed=seed, norm=True, keep=True, lazy=2, pool=8, start=8, steps=(1, 2), stages=schedule)


def play(run: Training, rounds: int) -> Training:
    for _ in range(rounds):
        run.play()
    return run


def steps_taken(run: Training, player: str) -> set[float]:
    return {float(v["step"]) for v in run.optimizers[player].state.values()}


# ---- determinism and resuming


@pytest.mark.parametrize("name", OPERATORS)
def test_the_same_training_twice_gives_the_same_bits(name: str) -> None:
    one, two = (play(training(everything(), name, ADAM, source=spiral), 4) for _ in range(2))
    assert same_bits(snapshot(one)[0], snapshot(two)[0])
    assert not torch.equal(weights(one.game), weights(everything()))
    other = play(training(everything(), name, ADAM, source=spiral, seed=1), 4)
    assert not torch.equal(weights(other.game), weights(one.game))


@pytest.mark.parametrize("kind", OPTIMIZERS)
@pytest.mark.parametrize("name", OPERATORS)
def test_resuming_is_going_on_bit_for_bit(name: str, kind: str) -> None:
    """Through the batch change, the optimizers' reset, lazy rounds, the pool's filling and the end of `settings`."""

    def fresh(seed: int = 0) -> Training:
        return training(
            everything(seed), name, OPTIMIZERS[kind], source=spiral, ema_half_life_kimg=0.02, operator_strength=0.1
        )

    whole = fresh()
    saved = []
    for _ in range(8):
        saved.append(snapshot(whole))
        whole.play()
    end = snapshot(whole)
    assert end[1]["counters"]["clock"] > 28
    assert end[1]["era"] == 1
    for rounds_left in (6, 4, 1):
        resumed = fresh(seed=9)  # other weights, which loading must replace
        resumed.load(*saved[8 - rounds_left])
        play(resumed, rounds_left)
        assert snapshot(resumed)[1] == end[1]
        assert same_bits(snapshot(resumed)[0], end[0])


def test_loading_copies() -> None:
    run, other = (play(training(Small(seed=seed), optimizer=ADAM, source=spiral), 2) for seed in (0, 1))
    run.memory["m"] = torch.ones(2)
    other.load(*run.state())
    before, _ = snapshot(run)
    other.memory["m"] += 1
    play(other, 2)
    assert same_bits(snapshot(run)[0], before)


class Convolutions(Game):
    """One player with a 3x3 convolution: its weights and gradients may lie in memory in different orders."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Tanh(), nn.Conv2d(4, 2, 3))
        self.table = nn.Parameter(torch.randn(5, 7))
        self.players = (Player("only", [self.net, Holder(self.table)], self.loss_of),)

    def loss_of(self, round: Round) -> Terms:
        x = round["image"]
        return {"net": self.net(x).square().mean(), "table": (round.normal("u", 5) @ self.table).cos().mean()}


def pictures(cursor: int, total: int, first: int, length: int, resolution: int | None = None) -> dict[str, Tensor]:
    x = torch.randn(total, 3, 6, 6, generator=torch.Generator().manual_seed(cursor))  # [N, C, H, W]
    return {"image": x[first : first + length]}


@pytest.mark.parametrize("kind", ["adam", "adamw"])
def test_gradients_in_any_memory_layout_move_the_right_weights(kind: str) -> None:
    """torch's fused optimizers walk raw memory; autograd.grad promises no layout. Against the plain loop in torch."""
    run = training(Convolutions(), optimizer=OPTIMIZERS[kind], source=pictures, batch=4)
    reference = [p.detach().clone() for p in run.game.players[0].parameters]
    plain = (torch.optim.Adam if kind == "adam" else torch.optim.AdamW)(
        reference, lr=0.02, betas=(0.5, 0.9), weight_decay=OPTIMIZERS[kind].weight_decay, foreach=False, fused=False
    )
    for _ in range(3):
        run.table.begin()
        round = run.table.draw("data")
        gradients, _ = run.table.measure("only", round)
        turned = [  # the same numbers, stored last axis first
            None if g is None else g.permute(*reversed(range(g.ndim))).contiguous().permute(*reversed(range(g.ndim)))
            for g in gradients
        ]
        assert any(g is not None and g.stride() != p.stride() for g, p in zip(turned, reference, strict=True))
        for p, g in zip(reference, gradients, strict=True):
            p.grad = g
        plain.step()
        run.table.write("only", turned)
        run.table.end()
    for p, expected in zip(run.game.players[0].parameters, reference, strict=True):
        torch.testing.assert_close(p.detach(), expected, rtol=1e-6, atol=1e-7)


def test_resuming_with_channels_last_weights() -> None:
    """A checkpoint holds contiguous tensors; weights and moments in NHWC must find their own numbers in it."""

    def fresh() -> Training:
        return training(Convolutions(), optimizer=ADAM, source=pictures, batch=4, channels_last=True)

    whole = play(fresh(), 2)
    saved = snapshot(whole)
    play(whole, 2)
    resumed = fresh()
    resumed.load(*saved)
    play(resumed, 2)
    first = whole.game.net[0].weight
    assert first.is_contiguous(memory_format=torch.channels_last)
    assert not first.is_contiguous()
    assert same_bits(snapshot(resumed)[0], snapshot(whole)[0])
    nchw = play(training(Convolutions(), optimizer=ADAM, source=pictures, batch=4), 4)
    torch.testing.assert_close(weights(whole.game), weights(nchw.game), rtol=1e-5, atol=1e-6)


def test_play_leaves_the_users_generator_alone() -> None:
    run = training(everything(), "extragradient", ADAM, source=spiral, ema_half_life_kimg=0.02)
    before = torch.get_rng_state()
    play(run, 3)
    run.average.game().sample(3)
    assert torch.equal(torch.get_rng_state(), before)


# ---- micro-batches


@pytest.mark.parametrize("name", OPERATORS)
@pytest.mark.parametrize("parts", [2, 4])
def test_micro_batches_equal_the_batch(name: str, parts: int) -> None:
    def fresh(accumulate: int) -> Training:
        game = Small(keep=True, lazy=2, pool=16, steps=(1, 2))
        assert not game.couples
        return training(game, name, h=0.3, source=spiral, batch=8, accumulate=accumulate, operator_strength=0.5, seed=2)

    whole, split = fresh(1), fresh(parts)
    for _ in range(4):
        reports = [run.play() for run in (whole, split)]
        for player, terms in reports[0].items():
            for term, value in terms.items():
                torch.testing.assert_close(reports[1][player][term], value, rtol=1e-6, atol=1e-6)
    for key, value in snapshot(whole)[0].items():  # weights, average latent, pool
        torch.testing.assert_close(snapshot(split)[0][key], value, rtol=0, atol=1e-5 if name == "consensus" else 1e-6)
    assert whole.counters == split.counters


def test_consensus_over_micro_batches_is_exact() -> None:
    """Two passes: first the mean field, then the sum of J_i^T xi. The mean of per-part penalties is another thing."""
    runs = [
        training(
            Small(lazy=1).double(), "consensus", h=0.1, source=spiral, batch=8, accumulate=n, operator_strength=0.5
        )
        for n in (1, 4)
    ]
    for run in runs:
        play(run, 3)
    torch.testing.assert_close(weights(runs[1].game), weights(runs[0].game), rtol=0, atol=1e-12)
    naive = training(Small(lazy=1).double(), "consensus", h=0.1, source=spiral, batch=8, accumulate=4)
    naive.table.begin()
    round = naive.table.draw("data")
    whole_field = {p.name: naive.table.measure(p.name, round)[0] for p in naive.game.players}
    exact = naive.table.vjp(round, whole_field)["generator"][0]
    naive.recipe = dataclasses.replace(naive.recipe, accumulate=1)
    shares = []
    for part in round.split(4):
        field = {p.name: naive.table.measure(p.name, part)[0] for p in naive.game.players}
        shares.append(naive.table.vjp(part, field)["generator"][0])
    assert exact is not None
    assert (torch.stack(shares).mean(0) - exact).norm() > 0.01 * exact.norm()


def test_a_game_that_couples_its_batch_says_so() -> None:
    assert Small(norm=True).couples == {"batch-norm"}
    runs = [training(Small(norm=True), h=0.3, source=spiral, batch=8, accumulate=n) for n in (1, 2)]
    whole, split = (weights(play(run, 1).game) for run in runs)
    assert (whole - split).abs().max() > 1e-4


def test_a_batch_that_cannot_be_divided_is_refused_with_the_nearest() -> None:
    run = training(Small(), source=spiral, batch=10, accumulate=4)
    with pytest.raises(UserError, match=r"batch of 10 .* 1 processes with 4 micro-batches each; nearest: 8 or 12"):
        run.play()
    with pytest.raises(UserError, match="nearest: 4 or 4"):
        training(Small(), source=spiral, batch=3, accumulate=4).play()


# ---- the schedule


def test_a_new_era_clears_the_optimizers_once() -> None:
    run = training(Small(stages=lambda clock: Stage(era=clock // 16)), optimizer=ADAM, source=spiral, batch=8)
    taken = []
    for _ in range(6):
        run.play()
        taken.append(steps_taken(run, "generator") | steps_taken(run, "discriminator"))
    assert taken == [{1.0}, {2.0}] * 3


def test_settings_are_absolute_and_end_where_the_stage_ends() -> None:
    def stages(clock: int) -> Stage:
        return Stage(settings={"generator": {"lr": 0.5, "betas": (0.1, 0.2)}} if 8 <= clock < 24 else {})

    run = training(Small(stages=stages), optimizer=ADAM, source=spiral, batch=8)
    seen = []
    for _ in range(5):
        run.play()
        (group,) = run.optimizers["generator"].param_groups
        seen.append((group["lr"], group["betas"]))
        (other,) = run.optimizers["discriminator"].param_groups
        assert other["lr"] == 0.02
    assert seen == [(0.02, (0.5, 0.9)), *[(0.5, (0.1, 0.2))] * 2, *[(0.02, (0.5, 0.9))] * 2]


def test_a_stage_decides_batch_and_resolution_and_data_are_addressed_by_the_cursor() -> None:
    asked = []

    def source(cursor: int, total: int, first: int, length: int, resolution: int | None = None) -> dict[str, Tensor]:
        asked.append((cursor, total, first, length, resolution))
        return spiral(cursor, total, first, length)

    def stages(clock: int) -> Stage:
        return Stage(resolution=4) if clock < 16 else Stage(batch=4, resolution=8)

    run = play(training(Small(stages=stages), source=source, batch=8), 4)
    assert asked == [(0, 8, 0, 8, 4), (8, 8, 0, 8, 4), (16, 4, 0, 4, 8), (20, 4, 0, 4, 8)]
    assert dataclasses.astuple(run.counters) == (8, 24, 4, 24)


# ---- sitting out


@pytest.mark.parametrize("name", OPERATORS)
@pytest.mark.parametrize("first", [True, False])
def test_a_player_that_sits_out_is_not_written_and_does_not_coast(name: str, first: bool) -> None:
    run = training(Small(start=16, discriminator_first=first), name, ADAM, source=spiral, batch=8)
    before = {k: v.clone() for k, v in run.game.discriminator.state_dict().items()}
    report = play(run, 1).play()
    assert report["discriminator"] == {}
    assert same_bits({k: v.detach() for k, v in run.game.discriminator.state_dict().items()}, before)
    assert steps_taken(run, "discriminator") == set()
    assert steps_taken(run, "generator") == {2.0}
    assert run.counters.clock == 16  # the clock goes on, else the start would never come
    assert list(run.play()["discriminator"]) == ["real", "fake"]
    assert steps_taken(run, "discriminator") == {1.0}
    assert not same_bits({k: v.detach() for k, v in run.game.discriminator.state_dict().items()}, before)


def test_sitting_out_after_having_moved_leaves_the_moments() -> None:
    class OnAndOff(Small):
        def discriminator_loss(self, round: Round) -> Terms:
            return {} if round.step % 2 else super().discriminator_loss(round)

    run = play(training(OnAndOff(), optimizer=ADAM, source=spiral, batch=8), 1)
    moments = {k: v for k, v in snapshot(run)[0].items() if k.startswith(("optimizer/d", "game/d"))}
    run.play()
    after = {k: v for k, v in snapshot(run)[0].items() if k.startswith(("optimizer/d", "game/d"))}
    assert same_bits(moments, after)
    run.table.write("discriminator", ())  # nothing is nothing
    assert same_bits(moments, {k: v for k, v in snapshot(run)[0].items() if k in moments})


def test_a_zero_loss_is_something_else() -> None:
    class Coasting(Small):
        def discriminator_loss(self, round: Round) -> Terms:
            terms = super().discriminator_loss(round)
            return {k: 0 * v for k, v in terms.items()} if round.step else terms

    run = play(training(Coasting(), optimizer=ADAM, source=spiral, batch=8), 1)
    before = run.game.discriminator[0].weight.detach().clone()
    run.play()
    assert not torch.equal(run.game.discriminator[0].weight, before)


def test_parameters_that_a_loss_does_not_touch_stay() -> None:
    class Half(Game):
        def __init__(self) -> None:
            super().__init__()
            self.used, self.unused = nn.Linear(2, 1), nn.Linear(2, 1)
            self.players = (Player("p", [self.used, self.unused], lambda r: {"s": self.used(r["x"]).square().mean()}),)

    run = training(Half(), optimizer=dataclasses.replace(ADAM, weight_decay=1.0), source=spiral, batch=8)
    before = run.game.unused.weight.detach().clone()
    play(run, 2)
    assert torch.equal(run.game.unused.weight, before)
    assert set(run.optimizers["p"].state) == set(run.game.used.parameters())


# ---- what must not be written


class Breaking(Small):
    """Its discriminator's loss is infinite from a given round on."""

    def discriminator_loss(self, round: Round) -> Terms:
        terms = super().discriminator_loss(round)
        return terms | {"broken": terms["fake"] * (float("inf") if round.step >= 2 else 0.5)}


@pytest.mark.parametrize("name", ["alternating", "simultaneous"])
def test_a_gradient_that_is_not_finite_stops_the_move_unwritten(name: str) -> None:
    run = play(training(Breaking(pool=8), name, ADAM, source=spiral, batch=8), 2)
    before, _ = snapshot(run)
    with pytest.raises(
        NonFiniteError, match=r"player 'discriminator' is not finite in round 2 .*broken = inf"
    ) as caught:
        run.play()
    after, _ = snapshot(run)
    own = [k for k in before if "discriminator" in k or k in ("game/pool", "game/pushed")]
    assert same_bits({k: before[k] for k in own}, {k: after[k] for k in own})
    assert caught.value.player == "discriminator"
    assert caught.value.round.step == 2
    assert run.counters.step == 2
    terms = run.game.loss(caught.value.player, caught.value.round)  # the round shows it again
    assert not torch.stack(list(terms.values())).isfinite().all()
    assert all(p.requires_grad for p in run.game.parameters())


def test_nan_is_caught_too_and_an_error_thaws_the_other_player() -> None:
    class Nan(Small):
        def generator_loss(self, round: Round) -> Terms:
            return {"gan": super().generator_loss(round)["gan"] * float("nan")}

    with pytest.raises(NonFiniteError, match="gan = nan"):
        training(Nan(), source=spiral).play()

    class Raising(Small):
        def generator_loss(self, round: Round) -> Terms:
            raise RuntimeError

    run = training(Raising(), source=spiral)
    with pytest.raises(RuntimeError):
        run.play()
    assert all(p.requires_grad for p in run.game.parameters())


def test_a_move_costs_no_gradients_of_the_others() -> None:
    seen: dict[str, list[bool]] = {}

    class Watching(Small):
        def generator_loss(self, round: Round) -> Terms:
            seen["generator"] = [p.requires_grad for p in self.discriminator.parameters()]
            return super().generator_loss(round)

        def discriminator_loss(self, round: Round) -> Terms:
            seen["discriminator"] = [p.requires_grad for p in self.generator.parameters()]
            return super().discriminator_loss(round)

    run = play(training(Watching(), source=spiral), 1)
    assert not any(seen["generator"] + seen["discriminator"])
    assert all(p.requires_grad for p in run.game.parameters())
    run.operator = OPERATORS["consensus"]
    run.play()
    assert all(seen["generator"] + seen["discriminator"])  # the last look was J^T v, which needs the cross derivatives


# ---- shared forwards


def recorded(run: Training) -> list[tuple[str, Tensor]]:
    """(player, first fake) of every evaluation of a loss."""
    found: list[tuple[str, Tensor]] = []
    game = run.game
    assert isinstance(game, Small)
    inner = game.discriminator.forward

    def forward(x: Tensor) -> Tensor:
        found.append(("", x.detach().clone()))
        return inner(x)

    game.discriminator.forward = forward  # type: ignore[method-assign]
    return found


def fakes_of(game: Small, round: Round) -> Tensor:
    with game.untouched():
        return game.fake(round).detach()


@pytest.mark.parametrize("keep", [True, False])
def test_with_a_shared_forward_the_discriminator_judges_the_fake_from_before_the_step(keep: bool) -> None:
    order = [Move("generator", "data"), Move("discriminator", "same")]
    run = training(Small(keep=keep, order=order), h=0.5, source=spiral, batch=8)
    old = Small(keep=keep)  # same seed: the weights before
    old_draw = run.table
    seen = recorded(run)
    rounds: list[Round] = []
    draw = old_draw.draw
    old_draw.draw = lambda kind="data", last=None: rounds.append(draw(kind, last)) or rounds[-1]  # type: ignore[method-assign]
    run.play()
    before, after = fakes_of(old, rounds[0]), fakes_of(run.game, rounds[0])  # type: ignore[arg-type]
    judged = seen[-1][1]  # real is judged first, the fake last
    assert torch.equal(judged, before if keep else after)
    assert not torch.equal(before, after)


def test_a_shared_forward_is_not_shared_across_a_look_ahead() -> None:
    run = training(Small(keep=True), h=0.5, source=spiral, batch=8)
    game = run.game
    assert isinstance(game, Small)
    run.table.begin()
    round = run.table.draw("data")
    measured = {p.name: run.table.measure(p.name, round)[0] for p in game.players}
    here = fakes_of(game, round)
    seen = recorded(run)
    with run.table.trial(measured):
        there = fakes_of(game, round)
        run.table.measure("discriminator", round)  # alone, so that nobody has made the fake before
        assert torch.equal(seen[-1][1], there)
    run.table.measure("discriminator", round)
    assert torch.equal(seen[-1][1], here)
    assert not torch.equal(here, there)


@pytest.mark.parametrize("name", ["simultaneous", "extragradient", "consensus"])
def test_sharing_changes_no_operator_that_measures_at_one_point(name: str) -> None:
    shared, recomputed = (
        play(training(Small(keep=keep).double(), name, h=0.2, source=spiral, operator_strength=0.5), 3)
        for keep in (True, False)
    )
    torch.testing.assert_close(weights(shared.game), weights(recomputed.game), rtol=0, atol=1e-14)


# ---- statistics and notes


class Counting(Game):
    """Two players that track 1 and 2 at rate 1/2 in every evaluation."""

    count: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Parameter(torch.ones(1)), nn.Parameter(torch.ones(1))
        self.register_buffer("count", torch.zeros(1))
        self.players = tuple(
            Player(name, Holder(p), lambda round, p=p, v=v: self.loss_of(round, p, v))
            for name, p, v in (("a", self.a, 1.0), ("b", self.b, 2.0))
        )

    def loss_of(self, round: Round, parameter: Tensor, value: float) -> Terms:
        track(self.count, torch.full((1,), value), 0.5)
        round.note("value", torch.tensor(value))
        return {"square": (self.a * self.b).square().sum() + parameter.square().sum()}


@pytest.mark.parametrize("name", OPERATORS)
@pytest.mark.parametrize("accumulate", [1, 2])
def test_statistics_are_committed_once_per_move(name: str, accumulate: int) -> None:
    run = training(Counting(), name, h=0.01, batch=4, accumulate=accumulate)
    for total in (1.25, 1.25 * 1.25 - 1.25 * 0.25 * 1.25 + 0.0):
        run.play()
        if total == 1.25:
            assert run.game.count.item() == 1.25  # 0 -> 1/2 -> 5/4
    assert run.game.count.item() == pytest.approx((1.25 / 2 + 0.5) / 2 + 1)
    assert len(run.table.notes["value"]) == 2 * accumulate  # of this round, without look-aheads
    assert {float(v) for v in run.table.notes["value"]} == {1.0, 2.0}


def test_the_average_latent_follows_the_moves_exactly() -> None:
    run = training(Small(), h=0.3, source=spiral, batch=8)
    game = run.game
    assert isinstance(game, Small)
    expected = torch.zeros(3)
    for draw in (1, 2, 3, 4):
        if draw % 2:
            mapping = [p.detach().clone() for p in game.mapping.parameters()]
            z = Round({}, draw=draw, size=8, total=8).normal("z", 3)
            expected = torch.lerp(expected, nn.functional.linear(z, *mapping).mean(0), 0.25)
            run.play()
        else:  # the discriminator's move came after the generator's step
            z = Round({}, draw=draw, size=8, total=8).normal("z", 3)
            expected = torch.lerp(expected, game.mapping(z).mean(0).detach(), 0.25)
            torch.testing.assert_close(game.mean_w, expected, rtol=1e-5, atol=1e-6)


def test_gradient_norms_are_noted() -> None:
    run = training(bilinear(3.0), "simultaneous", h=0.1)
    set_weights(run.game, [2.0, -1.0])
    run.play()
    assert [n.item() for n in run.table.notes["gradient_norm.p0"]] == [3.0]
    assert [n.item() for n in run.table.notes["gradient_norm.p1"]] == [6.0]
    run.play()
    assert len(run.table.notes["gradient_norm.p0"]) == 1  # of this round only


def test_terms_are_means_of_the_micro_batches_and_carry_no_graph() -> None:
    run = training(Small(lazy=1), source=spiral, batch=8, accumulate=2)
    for terms in run.play().values():
        assert all(not term.requires_grad and term.shape == () for term in terms.values())


# ---- precision, optimizers, systems


@pytest.mark.parametrize("name", OPERATORS)
def test_bf16_keeps_weights_terms_and_statistics_in_float32(name: str) -> None:
    run = training(
        Small(norm=True, lazy=1, pool=8), name, ADAM, source=spiral, batch=8, precision="bf16", operator_strength=0.1
    )
    seen = recorded(run)
    for _ in range(4):
        report = run.play()
    values = [v for terms in report.values() for v in terms.values()]
    assert all(v.dtype == torch.float32 and v.isfinite() for v in values)
    assert all(p.dtype == torch.float32 and p.isfinite().all() for p in run.game.parameters())
    assert all(b.dtype == torch.float32 and b.isfinite().all() for b in run.game.buffers())
    assert torch.bfloat16 in {x.dtype for _, x in seen}  # the forward pass was half precision ...
    full = play(
        training(Small(norm=True, lazy=1, pool=8), name, ADAM, source=spiral, batch=8, operator_strength=0.1), 4
    )
    assert not torch.equal(weights(full.game), weights(run.game))
    assert (weights(full.game) - weights(run.game)).abs().max() < 0.2  # ... of the same game


@pytest.mark.parametrize("kind", OPTIMIZERS)
def test_optimizers_carry_their_settings(kind: str) -> None:
    settings = Optimizer(kind=kind, lr=3, betas=(0, 0.9), alpha=0.9, momentum=0.25, eps=1e-5, weight_decay=0.1)  # type: ignore[arg-type]
    (group,) = build_optimizer(settings, [nn.Parameter(torch.zeros(2))]).param_groups
    assert group["lr"] == 3.0
    assert group["weight_decay"] == 0.1
    if kind.startswith("adam"):
        assert group["betas"] == (0.0, 0.9)
        assert all(isinstance(beta, float) for beta in group["betas"])
        assert group["eps"] == 1e-5
    elif kind == "rmsprop":
        assert (group["alpha"], group["momentum"], group["eps"]) == (0.9, 0.25, 1e-5)
    else:
        assert group["momentum"] == 0.25


@pytest.mark.parametrize(("beta", "bound"), [(-0.5, 1.0), (-0.3, 1.4), (-0.1, 1.8)])
def test_negative_momentum_stabilises_alternating_play(beta: float, bound: float) -> None:
    """Gidel et al. 2019 (arXiv:1807.04740): on a bilinear game, up to h = 2 (1 + beta)."""
    grown = []
    for h in (0.97 * bound, 1.03 * bound):
        run = training(bilinear(), "alternating", Optimizer(kind="sgd", lr=h, momentum=beta))
        set_weights(run.game, [1.0, 1.0])
        play(run, 40)
        early = weights(run.game).norm().item()
        play(run, 120)
        grown.append(weights(run.game).norm().item() > early)
    assert grown == [False, True]


def test_float64_games_train_in_float64() -> None:
    run = play(training(Small().double(), optimizer=ADAM, source=spiral, batch=8), 2)
    assert all(p.dtype == torch.float64 for p in run.game.parameters())
    single = play(training(Small(), optimizer=ADAM, source=spiral, batch=8), 2)
    torch.testing.assert_close(weights(run.game).float(), weights(single.game), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("name", OPERATORS)
def test_dcgan_plays_under_every_operator(name: str) -> None:
    recipe = recipes.recipe(
        "dcgan",
        resolution=8,
        channels=1,
        width=4,
        latent=4,
        batch=4,
        operator=name,
        penalty={"r1": 0.1},
        operator_strength=0.1,
    )
    torch.manual_seed(0)

    def source(cursor: int, total: int, first: int, length: int, resolution: int | None = None) -> dict[str, Tensor]:
        images = torch.rand(total, 1, 8, 8, generator=torch.Generator().manual_seed(cursor)) * 2 - 1
        return {"image": images[first : first + length]}

    run = Training(DCGAN(recipe), recipe, source)  # type: ignore[arg-type]
    first = run.play()
    assert first["discriminator"]["gan"].item() == pytest.approx(2 * math.log(2), rel=0.1)  # undecided at first
    assert first["generator"]["gan"].item() == pytest.approx(math.log(2), rel=0.2)
    play(run, 2)
    assert all(t.isfinite().all() for t in snapshot(run)[0].values())
    assert run.game.sample(2).shape == (2, 1, 8, 8)


# ---- the loop around it


@given(batches=st.lists(st.integers(1, 50), min_size=1, max_size=40), every=st.floats(1, 120))
def test_something_due_is_done_once_for_each_multiple_that_was_crossed(batches: list[int], every: float) -> None:
    clock, count, crossed = 0, 0, set()
    for images in batches:
        before, clock = clock, clock + images
        count += due(clock, images, every)
        if int(clock // every) > int(before // every):
            crossed.add(int(clock // every))
    assert count == len(crossed)
    assert not due(clock, 10, 0)


class Watcher:
    """An observer that counts and may interrupt."""

    def __init__(self, kill_at: int | None = None) -> None:
        self.rounds, self.finished, self.kill_at = 0, 0, kill_at

    def __call__(self, run: Training, report: dict[str, Terms]) -> None:
        self.rounds += 1
        if self.rounds == self.kill_at:
            os.kill(os.getpid(), signal.SIGINT)

    def finish(self, run: Training) -> None:
        self.finished += 1


def test_fit_plays_to_its_goal() -> None:
    run, watcher = training(Small(), source=spiral, batch=8), Watcher()
    assert fit(run, 20, [watcher])
    assert (run.counters.clock, watcher.rounds, watcher.finished) == (24, 3, 1)
    assert fit(run, 20, [])  # already there
    assert run.counters.clock == 24


def test_an_interrupt_ends_after_a_whole_round() -> None:
    handler = signal.getsignal(signal.SIGINT)
    run, watcher = training(Small(), source=spiral, batch=8), Watcher(kill_at=2)
    assert not fit(run, 800, [watcher])
    assert (run.counters.clock, run.counters.step, watcher.finished) == (16, 2, 1)
    assert signal.getsignal(signal.SIGINT) is handler
    again = Watcher(kill_at=1)

    def impatient(run: Training, report: dict[str, Terms]) -> None:
        os.kill(os.getpid(), signal.SIGINT)

    impatient.finish = lambda run: None  # type: ignore[attr-defined]
    with pytest.raises(KeyboardInterrupt):
        fit(run, 800, [again, impatient])  # type: ignore[list-item]
    assert signal.getsignal(signal.SIGINT) is handler


def test_fit_finishes_nothing_after_an_error() -> None:
    run, watcher = training(Breaking(), source=spiral, batch=8), Watcher()
    with contextlib.suppress(NonFiniteError):
        fit(run, 800, [watcher])
    assert (watcher.rounds, watcher.finished) == (2, 0)


def test_a_supervised_game_is_a_game_of_one_player() -> None:
    """Least squares by gradient descent has a closed form."""
    matrix = torch.diag(torch.tensor([1.0, 0.5, 0.1]))
    for name in ("alternating", "simultaneous", "extragradient", "consensus"):
        run = training(Linear(matrix, [3]), name, h=1.0, operator_strength=0.5)
        set_weights(run.game, [1.0, 1.0, 1.0])
        play(run, 2)
        d = matrix.diagonal().double()
        factor = {"extragradient": 1 - d * (1 - d), "consensus": 1 - d - 0.5 * d * d}.get(name, 1 - d)
        torch.testing.assert_close(weights(run.game), factor**2, rtol=1e-6, atol=1e-7)


def test_a_second_player_that_is_not_finite_stops_a_joint_move_before_the_first_is_written() -> None:
    game = bilinear(1.0)
    made = training(game, operator="simultaneous")
    second = game.players[1]
    true_loss, second.loss = second.loss, lambda round: {name: v / 0 for name, v in true_loss(round).items()}
    before = [p.detach().clone() for p in game.parameters()]
    with pytest.raises(NonFiniteError, match=second.name):
        made.play()
    assert all(torch.equal(a, b) for a, b in zip(before, game.parameters(), strict=True))
