"""Operators F_h: how one round of play changes the weights. Every operator trains every game.

With xi_p the gradient of player p's loss with respect to its own weights, the vector field that training follows is v =
-xi. An operator sees the game only through a *table*: it draws rounds, measures gradients (means over micro-batches and
processes), and writes. Everything that depends on the old weights is measured before anything is written.

    simultaneous    every player moves on the same weights              F_h(w) = w + h v(w)
    alternating     one player after the other, k moves each            the schedule of moves is data: Game.moves(step)
    extragradient   look ahead, then move with the gradients found there    F_h(w) = w + h v(w + h v(w))
    consensus       descend on |v|^2 as well                            F_h(w) = w + h (v - gamma grad 1/2 |v|^2)
    optimistic      the step twice, less the one before it              F_h(w) = w + 2 h v(w) - h v(w_before)
    symplectic      damp the rotation, leave the potential alone        F_h(w) = w + h (v + lambda A v), A = (J - J^T)/2
    unrolled        one player foresees k steps of the others           its loss is taken at their weights after k steps

Two time-scales are two learning rates, negative momentum is an optimizer's setting: both go with any operator.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from functools import partial
from typing import Protocol

import torch
from torch import Tensor

from saddlepoint import distributed, tracking
from saddlepoint.errors import UserError, unknown
from saddlepoint.game import Draw, Game, Player, Round, Terms
from saddlepoint.inner import Elsewhere, Stepper

Gradients = Sequence[Tensor | None]
Report = dict[str, Terms]
Turn = Callable[[list[Tensor]], list[Tensor]]


class Table(Protocol):
    """The engine's door for operators. `step` counts rounds played; `memory` is what an operator remembers
    (checkpointed).
    """

    memory: dict[str, Tensor]

    @property
    def step(self) -> int: ...

    def draw(self, kind: Draw = "data", last: Round | None = None) -> Round:
        """A round: "data" on new examples, "noise" on the examples of `last` with new numbers, "same" `last` itself."""

    def measure(
        self, player: str, round: Round, loss: Callable[[Round], Terms] | None = None
    ) -> tuple[Gradients, Terms]:
        """Mean gradient of the player's loss over micro-batches and processes, and its terms. `loss` overrides the
        game's.
        """

    def vjp(self, round: Round, vectors: Mapping[str, Gradients]) -> dict[str, Gradients]:
        """J^T u with J the Jacobian of the gradient field xi: for u = xi it is the gradient of 1/2 |xi|^2."""

    def jvp(self, round: Round, vectors: Mapping[str, Gradients]) -> dict[str, Gradients]:
        """J u, with the same J."""

    def stepper(self, player: str) -> Stepper:
        """The player's optimizer as a differentiable function, from its present moments."""

    def write(self, player: str, gradients: Gradients, turn: Turn | None = None) -> None:
        """Guard, optimizer step, projection, running statistics. No gradients: the player sits out. turn: maps the
        optimizer's step (one tensor per weight tensor) to the step that is made instead, before the projection.
        """

    def trial(self, gradients: Mapping[str, Gradients]) -> AbstractContextManager[None]:
        """Inside, the weights are those after these steps; at the end weights, optimizers and buffers are as before."""


Operator = Callable[[Game, Table], Report]


def simultaneous(game: Game, table: Table) -> Report:
    """All players move at once: v is measured at one point, then written. Mescheder et al. 2017 (arXiv:1705.10461),
    alg. 1.
    """
    round = table.draw("data")
    measured = {player.name: table.measure(player.name, round) for player in game.players}
    for name, (gradients, _) in measured.items():
        table.write(name, gradients)
    return {name: terms for name, (_, terms) in measured.items()}


def alternating(game: Game, table: Table) -> Report:
    """Players move in turn, each seeing what the one before did: Goodfellow et al. 2014, algorithm 1, and most GANs
    since.
    """
    report: Report = {}
    round: Round | None = None
    for move in game.moves(table.step):
        round = table.draw(move.draw, round)
        asked = round.asking(move.terms)
        gradients, terms = table.measure(move.player, asked)
        table.write(move.player, gradients)
        report[move.player] = {**report.get(move.player, {}), **terms}
    return report


def extragradient(game: Game, table: Table) -> Report:
    """Korpelevich 1976; Gidel et al. 2019 (arXiv:1802.10551): the gradients at the extrapolated point move the old
    weights.

    With Adam both half-steps use the same moments, and these advance once a round: the look-ahead's are thrown away.
    (The published ExtraAdam advances them in both half-steps.)
    """
    round = table.draw("data")
    ahead = {player.name: table.measure(player.name, round) for player in game.players}
    with table.trial({name: gradients for name, (gradients, _) in ahead.items()}):
        there = {player.name: table.measure(player.name, round)[0] for player in game.players}
    for name, gradients in there.items():
        table.write(name, gradients)
    return {name: terms for name, (_, terms) in ahead.items()}


def consensus(game: Game, table: Table, gamma: float = 10.0) -> Report:
    """Every player also descends on gamma/2 |xi|^2. Mescheder et al. 2017 (arXiv:1705.10461), algorithm 2.

    The gradient of 1/2 |xi|^2 is J^T xi with xi the *mean* field, so it is exact under micro-batches and processes (the
    mean of per-part penalties is not). On noisy rounds it stays biased: E|xi|^2 is not |E xi|^2 (section 6 of the
    paper).
    """
    round = table.draw("data")
    measured = {player.name: table.measure(player.name, round) for player in game.players}
    pull = table.vjp(round, {name: gradients for name, (gradients, _) in measured.items()})
    for name, (gradients, _) in measured.items():
        if gradients:  # one that sits out is not pulled either
            table.write(name, added(gradients, pull[name], gamma))
    return {name: terms for name, (_, terms) in measured.items()}


def optimistic(game: Game, table: Table) -> Report:
    """Step 2 d_t - d_(t-1), with d the optimizer's own steps. Daskalakis et al. 2018 (arXiv:1711.00141), algorithm 1.

    With plain SGD that is optimistic gradient descent, w + 2 h v_t - h v_(t-1); with Adam optimistic Adam: its moments
    see the gradients as they are, its step is turned. The first round takes the plain step. One step per player is
    remembered.
    """
    round = table.draw("data")
    measured = {player.name: table.measure(player.name, round) for player in game.players}
    for name, (gradients, _) in measured.items():
        table.write(name, gradients, partial(_twice_less_last, table.memory, f"optimistic/{name}"))
    return {name: terms for name, (_, terms) in measured.items()}


def _twice_less_last(memory: dict[str, Tensor], key: str, steps: list[Tensor]) -> list[Tensor]:
    """2 d_t - d_(t-1); d_t is what the next round will find in memory."""
    last = [memory.get(f"{key}/{i}", step) for i, step in enumerate(steps)]
    memory.update({f"{key}/{i}": step for i, step in enumerate(steps)})
    return [step + (step - before) for step, before in zip(steps, last, strict=True)]


def symplectic(game: Game, table: Table, strength: float = 1.0, align: bool = True) -> Report:
    """Symplectic gradient adjustment: xi + lambda A^T xi with A = (J - J^T)/2, J = xi'. Balduzzi et al. 2018
    (arXiv:1802.05642), algorithm 1.

    align: lambda's sign is that of <xi, J^T xi> <A^T xi, J^T xi> / P + 1/10 over all P weights: towards stable fixed
    points, away from unstable ones. In a game of gradients A = 0 and nothing is adjusted.
    """
    round = table.draw("data")
    measured = {player.name: table.measure(player.name, round) for player in game.players}
    xi = {name: gradients for name, (gradients, _) in measured.items()}
    pulled, pushed = table.vjp(round, xi), table.jvp(round, xi)
    adjustment = {
        name: [_half_difference(a, b) for a, b in zip(pulled[name], pushed[name], strict=True)] for name in xi
    }
    if align:
        weights = sum(p.numel() for player in game.players for p in player.parameters)
        agreement = _inner(xi, pulled) * _inner(adjustment, pulled) / weights
        strength = strength if agreement + 0.1 >= 0 else -strength
    for name, gradients in xi.items():
        if gradients:
            table.write(name, added(gradients, adjustment[name], strength))
    return {name: terms for name, (_, terms) in measured.items()}


def _half_difference(a: Tensor | None, b: Tensor | None) -> Tensor | None:
    """(a - b) / 2, where None stands for zero."""
    if a is None:
        return None if b is None else -0.5 * b
    return 0.5 * a if b is None else 0.5 * (a - b)


def _inner(u: Mapping[str, Gradients], v: Mapping[str, Gradients]) -> float:
    """<u, v> over all players, where None stands for zero; a player that sits out has nothing to add."""
    pairs = [(a, b) for name in u if u[name] for a, b in zip(u[name], v[name], strict=True)]
    return sum(float((a * b).sum()) for a, b in pairs if a is not None and b is not None)


def unrolled(game: Game, table: Table, steps: int = 5, through: bool = True) -> Report:
    """The generator minimises its loss at the others' weights after `steps` steps of *their* optimizers; then everyone
    moves once, on the same round. Metz et al. 2017 (arXiv:1611.02163), eq. 3-5 and figure 1.

    through: with the gradient through those steps, which tells the generator how the others will react; without, they
    just move first in thought. The leader is the player named "generator", else the first. Costs `steps` further
    evaluations of the others' losses, kept in memory where the gradient goes through them; with micro-batches as often
    as there are any, since every part needs the steps of the whole batch.
    """
    round = table.draw("data")
    leader = leading(game)
    others = {p.name: partial(table.stepper, p.name) for p in game.players if p.name != leader}
    foreseeing = unrolled_loss(game, leader, others, steps, through, whole=round)
    measured = {
        player.name: table.measure(player.name, round, foreseeing if player.name == leader else None)
        for player in game.players
    }
    for name, (gradients, _) in measured.items():
        table.write(name, gradients)
    return {name: terms for name, (_, terms) in measured.items()}


def leading(game: Game) -> str:
    """The player that unrolls: "generator" where there is one, else the first."""
    names = [player.name for player in game.players]
    return "generator" if "generator" in names else names[0]


def unrolled_loss(
    game: Game,
    leader: str,
    steppers: Mapping[str, Callable[[], Stepper]],
    steps: int,
    through: bool = True,
    *,
    whole: Round | None = None,
) -> Callable[[Round], Terms]:
    """The leader's loss where every player in `steppers` has taken `steps` steps; a loss like any other, so it can be
    measured, and analysed (`theory.jacobian(..., losses={leader: ...})`).

    f_K(w) = L_leader(w_leader, w_others^K), w_others^(k+1) = w_others^k - step(grad L_others(w_leader, w_others^k)),
    on one fixed round. through=False keeps the first term of its gradient only: the steps are constants then. The
    players themselves keep their weights. whole: the round of the steps, where the loss is asked for parts of it.
    Raises UserError for a negative number of steps, and for a round of analysis with through=False: constants that
    change with the weights have no place in a Jacobian.
    """
    elsewhere = Elsewhere(game)
    followers = [game.player(name) for name in steppers]
    if steps < 0:
        raise UserError(f"unrolling takes 0 steps or more, not {steps}.")

    def loss(round: Round) -> Terms:
        if not steps:
            return game.loss(leader, round)
        if round.analysis and not through:
            raise UserError("an unrolled loss is analysed with through=True: without, its steps count as constants.")
        every = round if whole is None else whole
        ahead: tuple[str, dict[tuple[str, int], object]] = (leader, {})  # its own forward passes are made once
        parts = dataclasses.replace(every, kept=None, notes={}, foresight=ahead).split(every.size // round.size)
        # A step's penalty is differentiated three times.
        exact = tracking.any_order() if through else contextlib.nullcontext()
        with tracking.silence(), exact:  # a shared forward was made at other weights, and nothing of this is logged
            weights = _foreseen(elsewhere, followers, steppers, parts, steps, through)
        with tracking.collecting() as ledger:
            terms = elsewhere.loss(leader, dataclasses.replace(round, foresight=ahead), weights)
        theirs = {id(b) for player in followers for module in player.modules for b in module.buffers()}
        for entry in ledger:  # statistics of a player at weights that it will never have are dropped
            if id(entry.buffer) not in theirs:
                tracking.track(*entry)
        return terms

    return loss


def _foreseen(
    elsewhere: Elsewhere,
    followers: Sequence[Player],
    steppers: Mapping[str, Callable[[], Stepper]],
    parts: Sequence[Round],
    steps: int,
    through: bool,
) -> dict[int, Tensor]:
    """The followers' weights after `steps` simultaneous steps, by the `id` of the weight."""
    step = {player.name: steppers[player.name]() for player in followers}
    # Under analysis the weights ask for gradients themselves, and the steps start from them.
    originals = {id(p): p for player in followers for p in player.parameters}
    weights: dict[int, Tensor] = {
        key: p if p.requires_grad and through else p.detach().requires_grad_() for key, p in originals.items()
    }
    start = weights
    for _ in range(steps):
        ahead = dict(weights)
        for player in followers:
            keys = [id(p) for p in player.parameters]
            losses = [elsewhere.loss(player.name, part, weights) for part in parts]
            if not losses[0]:
                continue
            terms = [t for loss in losses for t in loss.values()]
            total = torch.stack([t.float() if t.dtype.itemsize < 4 else t for t in terms]).sum() / len(parts)
            own = [weights[key] for key in keys]
            gradients = torch.autograd.grad(total, own, create_graph=through, allow_unused=True)
            if tracking.in_a_move():
                gradients = tuple(g if g is None else distributed.mean(g) for g in gradients)
            ahead.update(zip(keys, step[player.name](own, gradients), strict=True))
        weights = ahead if through else {k: w.detach().requires_grad_() for k, w in ahead.items()}
    if through:
        return weights
    return {k: originals[k] + (w - start[k]).detach() for k, w in weights.items()}


OPERATORS: dict[str, Operator] = {
    "alternating": alternating,
    "simultaneous": simultaneous,
    "extragradient": extragradient,
    "consensus": consensus,
    "optimistic": optimistic,
    "symplectic": symplectic,
    "unrolled": unrolled,
}


def operator(name: str, strength: float = 0.0, *, unroll_steps: int = 5, unroll_through: bool = True) -> Operator:
    """The operator of this name. strength: gamma of consensus or lambda of symplectic, 0 takes the usual 10 or 1;
    unroll_steps, unroll_through: of unrolled. They mean nothing to the others.
    """
    if name not in OPERATORS:
        raise unknown("operator", name, OPERATORS)
    if name == "consensus":
        return partial(consensus, gamma=strength or 10.0)
    if name == "symplectic":
        return partial(symplectic, strength=strength or 1.0)
    if name == "unrolled":
        return partial(unrolled, steps=unroll_steps, through=unroll_through)
    return OPERATORS[name]


def added(gradients: Gradients, others: Gradients, scale: float) -> list[Tensor | None]:
    """gradients + scale * others, where None stands for zero (a parameter that the loss does not touch)."""
    result: list[Tensor | None] = []
    for g, other in zip(gradients, others, strict=True):
        if g is None or other is None:
            result.append(g if other is None else scale * other)
        else:
            result.append(torch.add(g, other, alpha=scale))
    return result
