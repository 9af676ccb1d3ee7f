"""The one idea of this library: everything is a game.

A *game* has named players; each player has parameters and a loss. A *round* is one frozen draw of everything random.
Given a round, a loss is a deterministic function of the weights, so the vector field v = (-grad of each player's loss
with respect to its own parameters) is well defined, and training, analysis and resuming all speak of the same function.

    Round    what is random: images, labels, latents, masks      Player   name, parameters, loss: Round -> named terms
    Stage    what the schedule says at this moment               Game     the players in their order of play

Three rules keep this exact and fast. A loss contains no detach, no no_grad, no backward and no step: gradients are
asked for one player's parameters only. Everything is computed before anything is written. A loss reads like its
formula.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

from saddlepoint import tracking
from saddlepoint.errors import UserError, unknown
from saddlepoint.facade import also_callable

also_callable(__name__, "saddlepoint.api:game")

Terms = dict[str, Tensor]
Draw = Literal["data", "noise", "same"]


@dataclass(frozen=True)
class Stage:
    """What the schedule says at one moment of the clock. A pure function of the clock, so nothing of it is ever saved.

    batch, resolution: None leaves the recipe's. fade: weight of the newest resolution, 0 to 1. settings: *absolute*
    optimizer values per player, e.g. {"generator": {"lr": 1e-4}}. era: an integer that grows where the optimizers start
    afresh. half_life_kimg: of the running average; None leaves the recipe's.
    """

    batch: int | None = None
    resolution: int | None = None
    fade: float = 1.0
    era: int = 0
    settings: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    half_life_kimg: float | None = None


class Move(NamedTuple):
    """One move of an alternating schedule: who moves, on what draw, and which terms (None: all of its loss).

    draw: "data" takes new examples and new numbers, "noise" new numbers on the same examples, "same" the very same
    round.
    """

    player: str
    draw: Draw = "data"
    terms: frozenset[str] | None = None


_generators = threading.local()


def keyed_generator(device: torch.device, *key: object) -> torch.Generator:
    """A generator seeded by a key. One object per thread and device is re-seeded, which costs microseconds."""
    store = _generators.__dict__.setdefault("store", {})
    generator: torch.Generator | None = store.get(device)
    if generator is None:
        generator = store[device] = torch.Generator(device=device)
    digest = hashlib.blake2b(repr(key).encode(), digest_size=8).digest()
    return generator.manual_seed(int.from_bytes(digest, "little") >> 1)


@dataclass(frozen=True, eq=False)
class Round:
    """One frozen draw of everything random, or the part of it that one micro-batch or one process sees.

    Numbers are keyed by (seed, draw, name) and drawn for the *global* batch of `total` samples, then sliced to the
    `size` samples that begin at `first`. Micro-batches, processes and a resumed run therefore see what one
    uninterrupted process would see. A process that takes its share in micro-batches has its slice of each of them:
    `pieces` equal pieces, total / pieces samples apart, so that the micro-batches of all processes together are those
    of one. `step` counts rounds played (lazy terms are due by it), `clock` counts images seen (schedules).
    """

    batch: Mapping[str, Tensor]
    seed: int = 0
    draw: int = 0
    step: int = 0
    clock: int = 0
    stage: Stage = field(default_factory=Stage)
    first: int = 0
    size: int = 1
    total: int = 1
    pieces: int = 1
    terms: frozenset[str] | None = None
    analysis: bool = True
    player: str = ""
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    dtype: torch.dtype = torch.float32
    notes: dict[str, list[Tensor]] = field(default_factory=dict, repr=False)
    kept: dict[tuple[str, int], tuple[str, Any]] | None = field(default=None, repr=False)
    foresight: tuple[str, dict[tuple[str, int], Any]] | None = field(default=None, repr=False)
    numbers: dict[tuple[object, ...], Tensor] = field(default_factory=dict, repr=False)

    # ---- the examples
    def __getitem__(self, name: str) -> Tensor:
        try:
            return self.batch[name]
        except KeyError:
            raise UserError(
                f"this round has no {name!r}: the data give {', '.join(self.batch) or 'nothing'}. "
                f"A set with {name}s is needed here."
            ) from None

    def __contains__(self, name: str) -> bool:
        return name in self.batch

    # ---- the numbers
    def normal(self, name: str, *shape: int) -> Tensor:
        """Standard normal numbers [size, *shape], one row per sample."""
        return self._rows("normal", name, shape, torch.randn)

    def uniform(self, name: str, *shape: int) -> Tensor:
        """Uniform numbers in [0, 1), [size, *shape], one row per sample."""
        return self._rows("uniform", name, shape, torch.rand)

    def common(self, name: str, *shape: int) -> Tensor:
        """Uniform numbers in [0, 1) of this shape that all samples of the global batch share."""
        return self._drawn("common", name, shape, torch.rand)

    def _rows(self, kind: str, name: str, shape: tuple[int, ...], fill: Callable[..., Tensor]) -> Tensor:
        numbers = self._drawn(kind, name, (self.total, *shape), fill)
        length = self.size // self.pieces
        if self.pieces > 1:
            numbers = numbers.unflatten(0, (self.pieces, -1))  # [pieces, total / pieces, *shape]
            return numbers[:, self.first : self.first + length].flatten(0, 1)
        return numbers[self.first : self.first + length]

    def _drawn(self, kind: str, name: str, shape: tuple[int, ...], fill: Callable[..., Tensor]) -> Tensor:
        key = (self.seed, self.draw, kind, name, shape, self.dtype)
        if key in self.numbers:
            return self.numbers[key]
        generator = keyed_generator(self.device, self.seed, self.draw, name)
        # Always drawn in float32, so that a float64 analysis looks at the same round.
        numbers = fill(shape, generator=generator, device=self.device, dtype=torch.float32).to(self.dtype)
        if self.analysis:  # an analysis evaluates one round hundreds of times
            self.numbers[key] = numbers
        return numbers

    # ---- which terms, and how strongly
    def asks(self, term: str) -> bool:
        """Is this term wanted in this move?"""
        return self.terms is None or term in self.terms

    def asking(self, terms: frozenset[str] | None) -> Round:
        """The same draw, asked for these terms only."""
        return self if terms == self.terms else dataclasses.replace(self, terms=terms)

    def lazy(self, every: int, term: str) -> float:
        """Gain of a lazily evaluated term: `every` in the rounds where it is due, 0 in the others, 1 under analysis."""
        if not self.asks(term):
            return 0.0
        if self.analysis:  # otherwise a spectrum would depend on the round that was picked
            return 1.0
        return float(every) if self.step % every == 0 else 0.0

    # ---- what a loss may leave behind
    def note(self, name: str, value: Tensor) -> None:
        """Log a value that is not minimised (an accuracy, a weight, a sign). It never enters a gradient."""
        self.notes.setdefault(name, []).append(value.detach())

    def keep(self, name: str, fn: Callable[[], Any]) -> Any:
        """A forward pass that two players share: the first to move computes it, a later one receives the values,
        detached.

        With the generator first this is also fidelity: the discriminator then judges the fake that was made *before*
        the generator's step, as published code does. Off under analysis and look-ahead, where cross derivatives must
        stay.
        """
        if self.kept is None:
            return fn()
        key = (name, self.first)
        owner, value = self.kept.get(key, ("", None))
        if owner and owner != self.player:
            return value
        value = fn()
        self.kept[key] = (self.player, _detached(value))
        return value

    def once(self, player: str, name: str, fn: Callable[[], Any]) -> Any:
        """A forward pass that depends on one player's weights only. While that player thinks ahead (the unrolled
        operator) its opponents' losses ask for it again and again: it is made once, with its graph. Elsewhere: fn().
        """
        if self.foresight is None or self.foresight[0] != player:
            return fn()
        made, key = self.foresight[1], (name, self.first)
        if key not in made:
            made[key] = fn()
        return made[key]

    # ---- parts of a round
    def part(self, first: int, size: int) -> Round:
        """The samples first ... first + size - 1 of this round's own samples, as a round of its own."""
        batch = {name: tensor[first : first + size] for name, tensor in self.batch.items()}
        length = self.size // self.pieces
        piece, offset = divmod(first, length)
        if offset + size > length and self.pieces > 1:
            raise ValueError(f"samples {first}+{size} lie in several of the round's pieces of {length}")
        start = self.first + piece * (self.total // self.pieces) + offset if self.pieces > 1 else self.first + first
        return dataclasses.replace(self, batch=batch, first=start, size=size, pieces=1)

    def split(self, n: int) -> tuple[Round, ...]:
        """n micro-batches of equal size. Their mean loss is this round's loss unless the game couples a batch."""
        if n == 1:
            return (self,)
        if self.size % n:
            raise UserError(f"a batch of {self.size} cannot be split into {n} equal micro-batches.")
        length = self.size // n
        return tuple(self.part(i * length, length) for i in range(n))


def _detached(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.detach()
    if isinstance(value, Mapping):
        return {name: _detached(item) for name, item in value.items()}
    return tuple(_detached(item) for item in value)


class Player:
    """A named player: the modules it owns and the loss that it minimises.

    loss: Round -> {term name: scalar}, each *already weighted*; their sum in this order is what the player minimises,
    the names are what is logged. An empty dict says that the player sits this round out (unlike a zero loss, which lets
    Adam coast).
    project: called after every step of the player, e.g. weight clipping. steps: moves per round in the default order of
    play.
    """

    def __init__(
        self,
        name: str,
        modules: nn.Module | Sequence[nn.Module],
        loss: Callable[[Round], Terms],
        *,
        steps: int = 1,
        project: Callable[[], None] | None = None,
    ) -> None:
        self.name = name
        self.modules = (modules,) if isinstance(modules, nn.Module) else tuple(modules)
        self.loss = loss
        self.steps = steps
        self.project = project
        # Built once: walking the modules costs more than a move of a small game.
        unique = {id(p): p for module in self.modules for p in module.parameters() if p.requires_grad}
        self.parameters: tuple[nn.Parameter, ...] = tuple(unique.values())

    def __repr__(self) -> str:
        return f"Player({self.name!r}, {sum(p.numel() for p in self.parameters):,} parameters)"


class Game(nn.Module):
    """Players in their order of play, with all state in buffers. Subclasses set `players` at the end of `__init__`.

    averaged: names of submodules whose running average is what users sample from. couples: what in the losses ties the
    samples of a batch together ("batch-norm", "minibatch-stddev", ...); only an empty set promises that micro-batches
    equal the batch.
    """

    averaged: tuple[str, ...] = ()
    couples: frozenset[str] = frozenset()
    players: tuple[Player, ...] = ()

    def player(self, name: str) -> Player:
        for player in self.players:
            if player.name == name:
                return player
        raise unknown("player", name, [p.name for p in self.players])

    def loss(self, player: str | Player, round: Round) -> Terms:
        """The named terms that this player minimises on this round, already weighted, in order of summation."""
        mover = self.player(player) if isinstance(player, str) else player
        terms = mover.loss(round if round.player == mover.name else dataclasses.replace(round, player=mover.name))
        return terms if round.terms is None else {k: v for k, v in terms.items() if k in round.terms}

    def forward(self, player: str, round: Round) -> Terms:
        """Same as `loss`: a game called through torch.func.functional_call is its loss at other weights."""
        return self.loss(player, round)

    def stage(self, clock: int) -> Stage:
        """The schedule at `clock` images seen; a pure function."""
        return Stage()

    def moves(self, step: int) -> Sequence[Move]:
        """The alternating order of play in round `step`: players in turn, the first on new data, later ones on new
        noise.
        """
        return [
            Move(player.name, "data" if position == 0 else "noise")
            for position, player in enumerate(self.players)
            for _ in range(player.steps)
        ]

    def advance(self, step: int, clock: int) -> None:
        """Called after every round, with all state committed and the counters moved on. A game may write its own
        buffers here, as a function of buffers (equal on all processes) and these counters: a level that sampling needs,
        an augmentation's probability.
        """

    def prepare(self, images: Tensor) -> None:
        """Called once, before the first round, with up to a thousand real images (e.g. to fit an output bias)."""

    def sample(self, n: int, seed: int = 0, *args: Any, **controls: Any) -> Tensor:
        """n samples, a pure function of the weights and the seed. Images: float in [-1, 1], [n, C, H, W]."""
        raise UserError(f"{type(self).__name__} does not sample.")

    def round(
        self,
        batch: Mapping[str, Tensor] | None = None,
        seed: int = 0,
        *,
        size: int | None = None,
        draw: int = 0,
        step: int = 0,
        clock: int = 0,
    ) -> Round:
        """A round for analysis, on the game's device and precision. Without examples `size` says how many samples to
        draw.
        """
        reference = next((p for p in self.parameters() if p.is_floating_point()), torch.zeros(()))
        given = {
            name: t.to(reference.device, reference.dtype if t.is_floating_point() else None)
            for name, t in (batch or {}).items()
        }
        lengths = {len(t) for t in given.values()}
        if len(lengths) > 1:
            raise UserError(f"the batch's tensors differ in length: { {k: len(v) for k, v in given.items()} }.")
        n = lengths.pop() if lengths else (size or 1)
        return Round(
            given,
            seed=seed,
            draw=draw,
            step=step,
            clock=clock,
            stage=self.stage(clock),
            size=n,
            total=n,
            device=reference.device,
            dtype=reference.dtype,
        )

    @contextmanager
    def untouched(self, *, any_order: bool = True) -> Iterator[None]:
        """Evaluate inside and find every buffer as it was: for library layers that write while they compute.

        any_order: layers take the form that has derivatives of every order, where their fast form has not.
        """
        saved = [(buffer, buffer.clone()) for buffer in self.buffers()]
        try:
            with tracking.silence(), tracking.any_order() if any_order else contextlib.nullcontext():
                yield
        finally:
            with torch.no_grad():
                for buffer, value in saved:
                    buffer.copy_(value)

    @contextmanager
    def evaluating(self) -> Iterator[None]:
        """Evaluation mode without gradients: what `sample` runs in."""
        modes = [(module, module.training) for module in self.modules()]
        self.eval()
        try:
            with torch.no_grad():
                yield
        finally:
            for module, training in modes:
                module.training = training

    @property
    def device(self) -> torch.device:
        return next((p.device for p in self.parameters()), torch.device("cpu"))
