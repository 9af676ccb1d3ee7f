"""The engine: the loop that plays a game round after round.

Counters   four integers from which every random number, example and schedule follows; nothing else needs remembering
Training   a game with its optimizers, average and counters: `.play()` plays one round, `.state()` and `.load()` save it
train      a recipe into a run folder: draw, operator, average, observers
"""

from __future__ import annotations

import contextlib
import dataclasses
import signal
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

import torch
from torch import Tensor

from saddlepoint import distributed, tracking
from saddlepoint.average import Average, restore
from saddlepoint.errors import UserError
from saddlepoint.game import Draw, Game, Player, Round, Stage, Terms
from saddlepoint.inner import Stepper, continued
from saddlepoint.operators import Gradients, Operator, Report, Turn
from saddlepoint.operators import operator as operator_by_name
from saddlepoint.recipes.base import Optimizer, Recipe


class Source(Protocol):
    """Where examples come from: a pure function of the cursor, so it has no state to save."""

    def __call__(
        self, cursor: int, total: int, first: int, length: int, resolution: int | None = None
    ) -> dict[str, Tensor]:
        """Examples first ... first + length - 1 of the global batch of `total` that begins at `cursor`."""


class NonFiniteError(ArithmeticError):
    """A gradient that is not finite. Nothing of this move was written."""

    def __init__(self, player: str, round: Round, terms: Mapping[str, float]) -> None:
        values = ", ".join(f"{name} = {value:g}" for name, value in terms.items())
        super().__init__(f"the gradient of player {player!r} is not finite in round {round.step} ({values}).")
        self.player, self.round = player, round


@dataclass
class Counters:
    """draw: unique number of a draw (randomness). cursor: examples taken (data). step: rounds played (lazy terms).

    clock: images shown to the player that moves first (length, half-lives, schedules).
    """

    draw: int = 0
    cursor: int = 0
    step: int = 0
    clock: int = 0


def build_optimizer(settings: Optimizer, parameters: Sequence[Tensor]) -> torch.optim.Optimizer:
    """The optimizer that a recipe describes. Fused where torch has a fused form: same numbers to rounding, faster on
    CPU too.
    """
    lr, eps, decay = float(settings.lr), float(settings.eps), float(settings.weight_decay)
    if settings.kind in ("adam", "adamw"):
        kind = torch.optim.Adam if settings.kind == "adam" else torch.optim.AdamW
        betas = (float(settings.betas[0]), float(settings.betas[1]))
        return kind(parameters, lr=lr, betas=betas, eps=eps, weight_decay=decay, fused=_fusible(parameters))
    if settings.kind == "rmsprop":
        alpha, momentum = float(settings.alpha), float(settings.momentum)
        return torch.optim.RMSprop(
            parameters, lr=lr, alpha=alpha, eps=eps, weight_decay=decay, momentum=momentum, foreach=True
        )
    # torch's SGD refuses negative momentum, which the numerics of games have a use for: set it after the check.
    sgd = torch.optim.SGD(parameters, lr=lr, weight_decay=decay, foreach=True)
    for group in sgd.param_groups:
        group["momentum"] = float(settings.momentum)
    return sgd


def _fusible(parameters: Sequence[Tensor]) -> bool:
    return all(p.is_floating_point() and p.device.type in ("cpu", "cuda", "mps") for p in parameters)


class EngineTable:
    """The door for operators (see `operators.Table`): draws rounds, measures gradients, writes weights."""

    def __init__(self, training: Training) -> None:
        self.training = training
        self.game = training.game
        self.memory = training.memory
        self.pending: dict[str, tuple[list[tracking.Tracked], Round, Terms]] = {}
        self.notes: dict[str, list[Tensor]] = {}
        self.stage = Stage()
        self.total = 0
        self.uncounted: set[int] = set()
        self.on_trial = False

    # ---- one round of play
    @property
    def step(self) -> int:
        return self.training.counters.step

    def begin(self) -> None:
        """Read the schedule for this round and bring the optimizers in line with it."""
        training, counters = self.training, self.training.counters
        self.stage = self.game.stage(counters.clock)
        self.total = self.stage.batch or training.recipe.batch
        if self.stage.era != training.era:
            for optimizer in training.optimizers.values():
                optimizer.state.clear()
            training.era = self.stage.era
        for name, optimizer in training.optimizers.items():
            values = {**training.settings[name], **self.stage.settings.get(name, {})}
            for group in optimizer.param_groups:
                group.update(values)
        self.pending, self.notes, self.seen = {}, {}, 0
        self.uncounted.clear()

    def end(self) -> int:
        """Advance the counters; returns how many images the round has shown to the first player."""
        self.training.counters.step += 1
        self.training.counters.clock += self.seen
        return self.seen

    # ---- drawing
    def draw(self, kind: Draw = "data", last: Round | None = None) -> Round:
        if kind == "same" and last is not None:
            return last
        counters, training = self.training.counters, self.training
        counters.draw += 1
        if kind == "noise" and last is not None:
            return dataclasses.replace(last, draw=counters.draw, terms=None, kept={}, numbers={})
        share = self._share()
        # This process's slice of every micro-batch: what ties the samples of one together sees those of one process.
        pieces = training.recipe.accumulate if distributed.world_size() > 1 else 1
        first = distributed.rank() * (share // pieces)
        batch = self._examples(first, share // pieces, pieces)
        counters.cursor += self.total
        self.uncounted.add(counters.draw)
        return Round(
            batch,
            seed=training.recipe.seed,
            draw=counters.draw,
            step=counters.step,
            clock=counters.clock,
            stage=self.stage,
            first=first,
            size=share,
            total=self.total,
            pieces=pieces,
            analysis=False,
            device=training.device,
            dtype=training.dtype,
            notes=self.notes,
            kept={},
        )

    def _examples(self, first: int, length: int, pieces: int) -> dict[str, Tensor]:
        """`length` examples from position `first` of each of `pieces` equal parts of the global batch."""
        if self.training.source is None:
            return {}
        cursor, resolution = self.training.counters.cursor, self.stage.resolution
        starts = range(first, self.total, self.total // pieces)
        found = [self.training.source(cursor, self.total, start, length, resolution) for start in starts]
        batch = found[0] if pieces == 1 else {name: torch.cat([part[name] for part in found]) for name in found[0]}
        return {name: self._placed(tensor) for name, tensor in batch.items()}

    def _share(self) -> int:
        """Samples of this process; UserError where the batch cannot be divided."""
        parts = distributed.world_size() * self.training.recipe.accumulate
        if self.total % parts:
            below, above = self.total // parts * parts, (self.total // parts + 1) * parts
            raise UserError(
                f"a batch of {self.total} cannot be divided over {distributed.world_size()} processes with "
                f"{self.training.recipe.accumulate} micro-batches each; nearest: {below or above} or {above}."
            )
        return self.total // distributed.world_size()

    def _placed(self, tensor: Tensor) -> Tensor:
        dtype = self.training.dtype if tensor.is_floating_point() else None
        tensor = tensor.to(self.training.device, dtype, non_blocking=True)
        if self.training.recipe.channels_last and tensor.ndim == 4:
            tensor = tensor.contiguous(memory_format=torch.channels_last)
        return tensor

    # ---- measuring
    def measure(
        self, player: str, round: Round, loss: Callable[[Round], Terms] | None = None
    ) -> tuple[Gradients, Terms]:
        mover = self.game.player(player)
        if mover is self.game.players[0] and round.draw in self.uncounted and not self.on_trial:
            self.uncounted.discard(round.draw)
            self.seen += round.total  # also where it sits out: a start at some clock would never come otherwise
        evaluate = loss or partial(self.game.loss, mover)
        if self.on_trial:
            round = dataclasses.replace(round, kept=None, notes={})  # a shared forward was made at other weights
        parts = round.split(self.training.recipe.accumulate)
        mean = _Mean(len(parts))
        with self._only(mover), tracking.a_move():
            for part in parts:
                with self._watched() as ledger, self._autocast():
                    terms = evaluate(part)
                if not terms:
                    return (), {}
                total = torch.stack(
                    [term.float() if term.dtype.itemsize < 4 else term for term in terms.values()]
                ).sum()
                gradients: Gradients = torch.autograd.grad(total, mover.parameters, allow_unused=True)
                mean.add(gradients, terms, ledger)
        gradients, terms, entries = mean.over_processes()
        if not self.on_trial:
            self.pending[player] = (entries, round, terms)
        return gradients, terms

    def vjp(self, round: Round, vectors: Mapping[str, Gradients]) -> dict[str, Gradients]:
        parameters = [p for player in self.game.players for p in player.parameters]
        round = dataclasses.replace(round, kept=None, notes={})  # cross derivatives must stay
        parts = round.split(self.training.recipe.accumulate)
        mean = _Mean(len(parts))
        with self.game.untouched(), tracking.a_move():
            for part in parts:
                product = torch.zeros((), device=self.training.device)
                for name, field in self._fields(part).items():
                    for g, u in zip(field, vectors[name], strict=True):
                        if g is not None and u is not None and g.requires_grad:
                            product = product + (g * u).sum()
                pulled: Gradients = [None] * len(parameters)
                if product.requires_grad:
                    pulled = torch.autograd.grad(product, parameters, allow_unused=True)
                mean.add(pulled, {}, [])
        pulled, _, _ = mean.over_processes()
        return self._by_player(pulled)

    def jvp(self, round: Round, vectors: Mapping[str, Gradients]) -> dict[str, Gradients]:
        round = dataclasses.replace(round, kept=None, notes={})
        parts = round.split(self.training.recipe.accumulate)
        mean = _Mean(len(parts))
        with self.game.untouched(), tracking.a_move():
            for part in parts:
                mean.add(self._pushed(part, vectors), {}, [])
        pushed, _, _ = mean.over_processes()
        return self._by_player(pushed)

    def _pushed(self, round: Round, vectors: Mapping[str, Gradients]) -> Gradients:
        """J u on one part: d -> J^T d is linear, and J u is its transpose, so two reverse passes are enough."""
        fields = self._fields(round)
        flat = [g for player in self.game.players for g in fields.get(player.name, [None] * len(player.parameters))]
        given = [u for p in self.game.players for u in vectors[p.name] or [None] * len(p.parameters)]
        live = [i for i, g in enumerate(flat) if g is not None and g.requires_grad]
        outputs = [g for g in flat if g is not None and g.requires_grad]
        if not outputs:
            return [None] * len(flat)
        dual = [torch.zeros_like(g, requires_grad=True) for g in outputs]
        parameters = [p for player in self.game.players for p in player.parameters]
        pulled = torch.autograd.grad(outputs, parameters, dual, create_graph=True, allow_unused=True)
        pairs = [(t, u) for t, u in zip(pulled, given, strict=True) if t is not None and u is not None]
        pairs = [(t, u) for t, u in pairs if t.requires_grad]
        result: list[Tensor | None] = [None] * len(flat)
        if pairs:
            found = torch.autograd.grad([t for t, _ in pairs], dual, [u for _, u in pairs], allow_unused=True)
            for i, value in zip(live, found, strict=True):
                result[i] = value
        return result

    def _fields(self, round: Round) -> dict[str, Gradients]:
        """The gradient field of every player that does not sit out, with its graph."""
        fields: dict[str, Gradients] = {}
        for player in self.game.players:
            with self._autocast():
                terms = self.game.loss(player, round)
            if terms:
                total = torch.stack([t.float() if t.dtype.itemsize < 4 else t for t in terms.values()]).sum()
                fields[player.name] = torch.autograd.grad(
                    total, player.parameters, create_graph=True, allow_unused=True
                )
        return fields

    def _by_player(self, flat: Gradients) -> dict[str, Gradients]:
        split: dict[str, Gradients] = {}
        for player in self.game.players:
            split[player.name], flat = flat[: len(player.parameters)], flat[len(player.parameters) :]
        return split

    def stepper(self, player: str) -> Stepper:
        return continued(self.training.optimizers[player], self.game.player(player).parameters)

    @contextmanager
    def _only(self, mover: Player) -> Iterator[None]:
        """Other players' weights are constants of this move: no graph is kept for them, which saves memory."""
        frozen = [p for player in self.game.players if player is not mover for p in player.parameters]
        own = {id(p) for p in mover.parameters}
        frozen = [p for p in frozen if p.requires_grad and id(p) not in own]
        for parameter in frozen:
            parameter.requires_grad_(False)
        try:
            yield
        finally:
            for parameter in frozen:
                parameter.requires_grad_(True)

    @contextmanager
    def _watched(self) -> Iterator[list[tracking.Tracked]]:
        """Collect running statistics; a look-ahead's are dropped."""
        with tracking.silence() if self.on_trial else contextlib.nullcontext(), tracking.collecting() as ledger:
            yield ledger

    def _autocast(self) -> contextlib.AbstractContextManager[Any]:
        if self.training.recipe.precision == "bf16":
            return torch.autocast(self.training.device.type, dtype=torch.bfloat16)
        return contextlib.nullcontext()

    # ---- writing
    def write(self, player: str, gradients: Gradients, turn: Turn | None = None) -> None:
        if not gradients:
            return
        mover = self.game.player(player)
        entries, round, terms = self.pending.pop(player)
        norm = torch.nn.utils.get_total_norm([g for g in gradients if g is not None])
        # Players that were measured together are refused together, so that the weights saved with a failure are those
        # at which it was measured: this one by its gradient, those still waiting by their losses.
        failed = [] if torch.isfinite(norm) else [(player, round, terms)]
        failed += [(n, r, t) for n, (_, r, t) in self.pending.items() if not all(map(torch.isfinite, t.values()))]
        for name, where, found in failed:
            raise NonFiniteError(name, where, {term: float(value) for term, value in found.items()})
        self.notes.setdefault(f"gradient_norm.{player}", []).append(norm)
        self._step(mover, gradients, turn)
        tracking.commit(entries)

    def _step(self, mover: Player, gradients: Gradients, turn: Turn | None = None) -> None:
        before = [p.detach().clone() for p in mover.parameters] if turn else []
        for parameter, gradient in zip(mover.parameters, gradients, strict=True):
            parameter.grad = gradient if gradient is None else _laid_out_like(parameter, gradient)
        self.training.optimizers[mover.name].step()
        for parameter in mover.parameters:
            parameter.grad = None
        if turn is not None:
            with torch.no_grad():
                turned = turn([p - old for p, old in zip(mover.parameters, before, strict=True)])
                for parameter, old, step in zip(mover.parameters, before, turned, strict=True):
                    parameter.copy_(old + step)
        if mover.project is not None:
            mover.project()

    @contextmanager
    def trial(self, gradients: Mapping[str, Gradients]) -> Iterator[None]:
        movers = [self.game.player(name) for name, values in gradients.items() if values]
        weights: list[Tensor] = [p for mover in movers for p in mover.parameters]
        saved = [p.detach().clone() for p in weights]
        states = {mover.name: _copied(self.training.optimizers[mover.name]) for mover in movers}
        was, self.on_trial = self.on_trial, True
        try:
            for mover in movers:
                self._step(mover, gradients[mover.name])
            with self.game.untouched(any_order=False):
                yield
        finally:
            self.on_trial = was
            with torch.no_grad():
                torch._foreach_copy_(weights, saved)
            for name, state in states.items():
                self.training.optimizers[name].state.clear()
                self.training.optimizers[name].state.update(state)


def _laid_out_like(parameter: Tensor, values: Tensor) -> Tensor:
    """The same values in the parameter's memory layout.

    torch's fused optimizers walk raw memory and take equal layouts for granted; `autograd.grad` promises none (unlike
    `backward`), and a checkpoint holds contiguous tensors. Without this, weights in NHWC get each other's gradients.
    """
    if values.stride() == parameter.stride() or values.shape != parameter.shape:
        return values
    return torch.empty_like(parameter, dtype=values.dtype, requires_grad=False).copy_(values)


def _copied(optimizer: torch.optim.Optimizer) -> dict[Any, Any]:
    """An optimizer's state, cloned tensor by tensor (a deepcopy costs a quarter of a small game's gradients)."""
    return {
        parameter: {k: v.clone() if isinstance(v, Tensor) else v for k, v in values.items()}
        for parameter, values in optimizer.state.items()
    }


class _Mean:
    """Mean of gradients, terms and tracked statistics over micro-batches, then over processes."""

    def __init__(self, parts: int) -> None:
        self.parts = parts
        self.gradients: list[Tensor | None] = []
        self.terms: Terms = {}
        self.entries: list[tracking.Tracked] = []

    def add(self, gradients: Gradients, terms: Terms, entries: list[tracking.Tracked]) -> None:
        share = 1.0 / self.parts
        scaled = [g if g is None or self.parts == 1 else g * share for g in gradients]
        values = {name: term.detach() * share for name, term in terms.items()}
        statistics = [e._replace(statistic=e.statistic * share) for e in entries] if self.parts > 1 else entries
        if not self.gradients:
            self.gradients, self.terms, self.entries = scaled, values, statistics
            return
        self.gradients = [
            b if a is None else a if b is None else a + b for a, b in zip(self.gradients, scaled, strict=True)
        ]
        self.terms = {name: self.terms[name] + value for name, value in values.items()}
        self.entries = [
            a._replace(statistic=a.statistic + b.statistic) for a, b in zip(self.entries, statistics, strict=True)
        ]

    def over_processes(self) -> tuple[list[Tensor | None], Terms, list[tracking.Tracked]]:
        if distributed.world_size() > 1:
            self.terms = {name: value.clone() for name, value in self.terms.items()}
            self.entries = [e._replace(statistic=e.statistic.clone()) for e in self.entries]
            present = [g for g in self.gradients if g is not None]
            distributed.mean_([*present, *self.terms.values(), *(e.statistic for e in self.entries)])
        return self.gradients, self.terms, self.entries


class Training:
    """A game in training: optimizers, running average, counters. `play()` plays one round."""

    def __init__(
        self, game: Game, recipe: Recipe, source: Source | None = None, *, device: torch.device | str = "cpu"
    ) -> None:
        self.device = torch.device(device)
        self.recipe = recipe
        layout = torch.channels_last if recipe.channels_last else torch.preserve_format
        self.game: Game = game.to(self.device).to(memory_format=layout).train()  # type: ignore[call-overload]
        self.dtype = next((p.dtype for p in game.parameters()), torch.float32)
        self.source = source
        distributed.broadcast_([t.detach() for t in (*game.parameters(), *game.buffers())])
        settings = recipe.optimizers()
        self.optimizers = {p.name: build_optimizer(settings[p.name], p.parameters) for p in game.players}
        self.settings = {  # what a stage without settings returns to
            name: {k: v for k, v in optimizer.param_groups[0].items() if k != "params"}
            for name, optimizer in self.optimizers.items()
        }
        ramp = 0.0 if recipe.init_from else recipe.ema_ramp  # there are no random first weights to forget
        self.average = Average(game, recipe.ema_half_life_kimg * 1000, ramp)
        self.counters = Counters()
        self.era = game.stage(0).era
        self.memory: dict[str, Tensor] = {}
        self.operator: Operator = operator_by_name(
            recipe.operator,
            recipe.operator_strength,
            unroll_steps=recipe.unroll_steps,
            unroll_through=recipe.unroll_through,
        )
        self.table = EngineTable(self)

    def play(self) -> Report:
        """One round: schedule, operator, average. Returns the terms that each player minimised, as tensors."""
        self.table.begin()
        report = self.operator(self.game, self.table)
        images = self.table.end()
        with torch.no_grad():
            self.game.advance(self.counters.step, self.counters.clock)
        self.average.update(images, self.counters.clock, self.table.stage.half_life_kimg)
        return report

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Everything that a resumed run needs: tensors by name, and plain values."""
        tensors = {f"game/{k}": v for k, v in self.game.state_dict().items()}
        tensors |= {f"average/{k}": v for k, v in self.average.state().items()}
        tensors |= {f"memory/{k}": v for k, v in self.memory.items()}
        for name, optimizer in self.optimizers.items():
            for index, values in optimizer.state_dict()["state"].items():
                tensors |= {f"optimizer/{name}/{index}/{k}": v for k, v in values.items() if isinstance(v, Tensor)}
        return tensors, {"counters": dataclasses.asdict(self.counters), "era": self.era}

    def load(self, tensors: Mapping[str, Tensor], values: Mapping[str, Any]) -> None:
        """Go on from a saved state, bit for bit on the same machine."""
        part = partial(_part, tensors)
        restore(self.game, part("game"))
        self.average.load(part("average"))
        self.memory.clear()
        self.memory.update({k: v.clone() for k, v in part("memory").items()})
        for name, optimizer in self.optimizers.items():
            parameters = [p for group in optimizer.param_groups for p in group["params"]]
            states: dict[int, dict[str, Tensor]] = {}
            for key, tensor in part(f"optimizer/{name}").items():
                index, _, field = key.partition("/")
                states.setdefault(int(index), {})[field] = _laid_out_like(parameters[int(index)], tensor.clone())
            optimizer.load_state_dict({**optimizer.state_dict(), "state": states})
        self.counters = Counters(**values["counters"])
        self.era = values["era"]


def _part(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {k.removeprefix(prefix + "/"): v for k, v in tensors.items() if k.startswith(prefix + "/")}


class Observer(Protocol):
    """Something that watches a training: the log, the progress line, sample grids, checkpoints."""

    def __call__(self, training: Training, report: Report) -> None:
        """After every round."""

    def finish(self, training: Training) -> None:
        """Once, after the last round (also after an interrupt, not after an error)."""


def fit(training: Training, goal: int, observers: Sequence[Observer]) -> bool:
    """Play until `goal` images have been seen. Returns False if an interrupt (Ctrl-C, SIGTERM) ended it earlier."""
    with interruptible() as interrupted:
        while training.counters.clock < goal:
            report = training.play()
            for observer in observers:
                observer(training, report)
            if distributed.any_true(interrupted()):
                break
        for observer in observers:
            observer.finish(training)
    return training.counters.clock >= goal


@contextmanager
def interruptible() -> Iterator[Callable[[], bool]]:
    """Turn the first Ctrl-C or SIGTERM into a flag, so that a round ends whole; a second one ends at once."""
    received: list[int] = []

    def receive(signum: int, frame: Any) -> None:
        if received:
            raise KeyboardInterrupt
        received.append(signum)

    signals = (signal.SIGINT, signal.SIGTERM) if threading.current_thread() is threading.main_thread() else ()
    before = {s: signal.signal(s, receive) for s in signals}
    try:
        yield lambda: bool(received)
    finally:
        for s, handler in before.items():
            signal.signal(s, handler)


def due(clock: int, images: int, every: float) -> bool:
    """Did the last `images` images carry the clock over a multiple of `every`?"""
    return every > 0 and int(clock // every) > int((clock - images) // every)
