"""Operators F_h: how one round of play changes the weights. Every operator trains every game.

With xi_p the gradient of player p's loss with respect to its own weights, the vector field that training follows is v =
-xi. An operator sees the game only through a *table*: it draws rounds, measures gradients (means over micro-batches and
processes), and writes. Everything that depends on the old weights is measured before anything is written.

    simultaneous    every player moves on the same weights              F_h(w) = w + h v(w)
    alternating     one player after the other, k moves each            the schedule of moves is data: Game.moves(step)
    extragradient   look ahead, then move with the gradients found there    F_h(w) = w + h v(w + h v(w))
    consensus       descend on |v|^2 as well                            F_h(w) = w + h (v - gamma grad 1/2 |v|^2)
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from functools import partial
from typing import Protocol

import torch
from torch import Tensor

from saddlepoint.errors import unknown
from saddlepoint.game import Draw, Game, Round, Terms

Gradients = Sequence[Tensor | None]
Report = dict[str, Terms]


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

    def write(self, player: str, gradients: Gradients) -> None:
        """Guard, optimizer step, projection, running statistics. No gradients: the player sits out."""

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


OPERATORS: dict[str, Operator] = {
    "alternating": alternating,
    "simultaneous": simultaneous,
    "extragradient": extragradient,
    "consensus": consensus,
}


def operator(name: str, strength: float = 10.0) -> Operator:
    """The operator of this name; `strength` is consensus' gamma and means nothing to the others."""
    if name not in OPERATORS:
        raise unknown("operator", name, OPERATORS)
    return partial(consensus, gamma=strength) if name == "consensus" else OPERATORS[name]


def added(gradients: Gradients, others: Gradients, scale: float) -> list[Tensor | None]:
    """gradients + scale * others, where None stands for zero (a parameter that the loss does not touch)."""
    result: list[Tensor | None] = []
    for g, other in zip(gradients, others, strict=True):
        if g is None or other is None:
            result.append(g if other is None else scale * other)
        else:
            result.append(torch.add(g, other, alpha=scale))
    return result
