"""The vector field of a game and its Jacobian, on one frozen round.

    v = -xi,  xi = (grad_p L_p) over the players p      the field that is *followed*: a player steps along +v
    J = v'(w)                                           J_ij = d v_i / d w_j

Coordinates are the weights of the players in their order of play, flattened and joined: [P]. Everything is evaluated
as the game stands: in training mode batch norm differentiates through the batch's statistics, after `game.eval()` it
uses the running ones as constants. No buffer, weight or gradient of the game is changed. Rounds made by `game.round`
are rounds of analysis: every lazily evaluated term has gain 1, and no forward pass is shared between players.

Mescheder, Nowozin, Geiger 2017 (arXiv:1705.10461), section 2; signs as there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from saddlepoint.errors import UserError
from saddlepoint.game import Game, Round, Terms
from saddlepoint.inner import Elsewhere

Losses = Mapping[str, Callable[[Round], Terms]]


class Coordinates:
    """How the weights of all players lie in one vector [P].

    blocks: player -> its slice. A weight that two players share appears once, in the block of the first of them, and
    the field there is the sum of both players' (each of them steps on it).
    """

    def __init__(self, game: Game) -> None:
        place: dict[int, int] = {}
        self.parameters: list[nn.Parameter] = []
        self.owned: dict[str, list[int]] = {}
        self.blocks: dict[str, slice] = {}
        end = 0
        for player in game.players:
            begin = end
            for parameter in player.parameters:
                if id(parameter) not in place:
                    place[id(parameter)] = len(self.parameters)
                    self.parameters.append(parameter)
                    end += parameter.numel()
            self.owned[player.name] = [place[id(p)] for p in player.parameters]
            self.blocks[player.name] = slice(begin, end)
        self.sizes = [p.numel() for p in self.parameters]
        self.size = end

    def flatten(self, tensors: Sequence[Tensor | None]) -> Tensor:
        """One vector [P] from one tensor per weight tensor; None stands for zeros."""
        return torch.cat(
            [
                (torch.zeros_like(p) if t is None else t.to(p.dtype)).reshape(-1).detach()
                for p, t in zip(self.parameters, tensors, strict=True)
            ]
        )

    def unflatten(self, flat: Tensor) -> list[Tensor]:
        """The inverse of `flatten`, in the weights' precision and on their device; UserError for a wrong size."""
        if flat.shape != (self.size,):
            raise UserError(f"a vector of shape {list(flat.shape)} for a game of {self.size} weights.")
        return [
            part.view(p.shape).to(p.device, p.dtype)
            for part, p in zip(flat.split(self.sizes), self.parameters, strict=True)
        ]

    def weights(self) -> Tensor:
        """The present weights, [P]."""
        return self.flatten(self.parameters)

    @torch.no_grad()
    def write(self, flat: Tensor) -> None:
        """Set the weights."""
        for parameter, value in zip(self.parameters, self.unflatten(flat), strict=True):
            parameter.copy_(value)


@dataclass(frozen=True, eq=False)
class Field:
    """v at the present weights. flat: [P]; by_player: the same values in the shapes of each player's weights."""

    flat: Tensor
    by_player: dict[str, tuple[Tensor, ...]]

    @property
    def norm(self) -> float:
        """|v|: 0 at a stationary point."""
        return float(self.flat.norm())

    @property
    def energy(self) -> float:
        """1/2 |v|^2, what consensus optimisation descends on."""
        return 0.5 * float(self.flat.double().square().sum())


class Linearisation:
    """v and its linear map J at the present weights on one round; made by `linearised`, usable inside its `with`.

    J u and J^T u cost one reverse pass each. The graph of v is built once, and so is that of the map d -> J^T d, which
    is linear in d: its own transpose is J u. On a DCGAN of 651,392 weights this took 0.8 times the time of forward
    over reverse without penalties, 1.1 times with R1, and about 150 MB more memory (32x32, batch 64, float32).
    """

    def __init__(self, game: Game, round: Round, losses: Losses | None = None) -> None:
        self.coordinates = Coordinates(game)
        self.field = _graph(game, self.coordinates, round, losses or {})
        self.v = self.coordinates.flatten(self.field)
        self.products = 0
        self._transposed: tuple[list[Tensor], list[Tensor | None]] | None = None

    def vjp(self, u: Tensor) -> Tensor:
        """J^T u, [P]. For u = v it is the gradient of 1/2 |v|^2."""
        self.products += 1
        given = self.coordinates.unflatten(u)
        live = [(v, part) for v, part in zip(self.field, given, strict=True) if v is not None and v.requires_grad]
        return self.coordinates.flatten(self._pull([v for v, _ in live], [part for _, part in live]))

    def jvp(self, u: Tensor) -> Tensor:
        """J u, [P]."""
        self.products += 1
        if self._transposed is None:
            live = [v for v in self.field if v is not None and v.requires_grad]
            dual = [torch.zeros_like(v, requires_grad=True) for v in live]
            self._transposed = dual, self._pull(live, dual, create_graph=True)
        dual, pulled = self._transposed
        given = self.coordinates.unflatten(u)
        used = [(t, part) for t, part in zip(pulled, given, strict=True) if t is not None and t.requires_grad]
        outputs, vectors = [t for t, _ in used], [part for _, part in used]
        found = torch.autograd.grad(outputs, dual, vectors, retain_graph=True, allow_unused=True) if used else ()
        results = iter(found)
        return self.coordinates.flatten(
            [next(results, None) if v is not None and v.requires_grad else None for v in self.field]
        )

    def energy_gradient(self) -> Tensor:
        """grad 1/2 |v|^2 = J^T v, [P]."""
        return self.vjp(self.v)

    def rows(self, chunk: int = 64) -> Tensor:
        """J as a matrix [P, P], row by row (J^T e_i), `chunk` rows in one batched reverse pass."""
        eye = torch.eye(self.coordinates.size, dtype=self.v.dtype, device=self.v.device)
        return torch.cat([self._rows(part) for part in eye.split(chunk)])

    def _rows(self, units: Tensor) -> Tensor:
        """One block of rows: J^T e for each row e of units [n, P]; [n, P]."""
        shapes = [p.shape for p in self.coordinates.parameters]
        parts = [u.view(-1, *s) for u, s in zip(units.split(self.coordinates.sizes, 1), shapes, strict=True)]
        live = [(v, part) for v, part in zip(self.field, parts, strict=True) if v is not None and v.requires_grad]
        pulled = self._pull([v for v, _ in live], [part for _, part in live], batched=True)
        return torch.cat(
            [
                (units.new_zeros(len(units), p.numel()) if t is None else t.reshape(len(units), -1))
                for t, p in zip(pulled, self.coordinates.parameters, strict=True)
            ],
            1,
        )

    def _pull(
        self, outputs: list[Tensor], vectors: list[Tensor], *, create_graph: bool = False, batched: bool = False
    ) -> list[Tensor | None]:
        if not outputs:
            return [None] * len(self.coordinates.parameters)
        return list(
            torch.autograd.grad(
                outputs,
                self.coordinates.parameters,
                vectors,
                retain_graph=True,
                create_graph=create_graph,
                allow_unused=True,
                is_grads_batched=batched,
            )
        )


@contextmanager
def linearised(game: Game, round: Round, *, losses: Losses | None = None) -> Iterator[Linearisation]:
    """Open the linearisation of v at the present weights; many products then share one forward pass.

    losses: player -> a loss to use instead of the game's (e.g. `operators.unrolled_loss`). Memory: the graph of a
    third derivative stays until the block ends.
    """
    with _awake(game), game.untouched(), torch.enable_grad():
        yield Linearisation(game, round, losses)


def vector_field(game: Game, round: Round, *, losses: Losses | None = None) -> Field:
    """v = (-grad of each player's loss with respect to its own weights), at the present weights on this round.

    A player that sits the round out, or a weight that its loss does not touch, has a zero there.
    """
    coordinates = Coordinates(game)
    with _awake(game), game.untouched(), torch.enable_grad():
        values = _graph(game, coordinates, round, losses or {}, keep=False)
    parts = [
        torch.zeros_like(p) if v is None else v.detach() for p, v in zip(coordinates.parameters, values, strict=True)
    ]
    by_player = {name: tuple(parts[i].detach() for i in owned) for name, owned in coordinates.owned.items()}
    return Field(coordinates.flatten(values), by_player)


def jacobian(game: Game, round: Round, *, losses: Losses | None = None, chunk: int = 64, limit: int = 10_000) -> Tensor:
    """J = v'(w) as a matrix [P, P] in the game's precision (float64 is advised: `game.double()`).

    Raises UserError above `limit` weights, where `spectrum` and `linearised` need no matrix.
    """
    size = Coordinates(game).size
    if size > limit:
        raise UserError(
            f"the Jacobian of {size:,} weights would have {size * size:,} entries; jacobian() goes up to {limit:,}: "
            "spectrum() and linearised() need no matrix."
        )
    with linearised(game, round, losses=losses) as linear:
        return linear.rows(chunk)


def jvp(game: Game, round: Round, u: Tensor) -> Tensor:
    """J u, [P], by forward over reverse differentiation: one product, with less memory than `linearised`.

    A second way, independent of the first; every layer of the game must have a forward derivative.
    """
    coordinates = Coordinates(game)
    elsewhere = Elsewhere(game)
    keys = [id(p) for p in coordinates.parameters]

    def field(weights: dict[int, Tensor]) -> list[Tensor]:
        values: list[Tensor] = [torch.zeros_like(w) for w in weights.values()]
        for player in game.players:

            def loss(own: dict[int, Tensor], name: str = player.name) -> Tensor:
                terms = elsewhere.loss(name, round, {**weights, **own})
                return total(terms) if terms else next(iter(own.values())).sum() * 0.0

            own = {keys[i]: weights[keys[i]] for i in coordinates.owned[player.name]}
            gradient = torch.func.grad(loss)(own)
            for i in coordinates.owned[player.name]:
                values[i] = values[i] - gradient[keys[i]]
        return values

    primals = {key: p.detach() for key, p in zip(keys, coordinates.parameters, strict=True)}
    tangents = dict(zip(keys, coordinates.unflatten(u), strict=True))
    with _awake(game), game.untouched(), torch.enable_grad():
        product: list[Tensor] = torch.func.jvp(field, (primals,), (tangents,))[1]
    return coordinates.flatten(product)


def vjp(game: Game, round: Round, u: Tensor) -> Tensor:
    """J^T u, [P]: one product. For u = v it is the gradient of 1/2 |v|^2."""
    with linearised(game, round) as linear:
        return linear.vjp(u)


# ---- the parts
def total(terms: Terms) -> Tensor:
    """What a player minimises: the sum of its terms in their order, as the engine sums them."""
    return torch.stack([t.float() if t.dtype.itemsize < 4 else t for t in terms.values()]).sum()


def _graph(
    game: Game, coordinates: Coordinates, round: Round, losses: Losses, keep: bool = True
) -> list[Tensor | None]:
    """v per weight tensor; None where it is zero. keep: with the graph that leads to it."""
    values: list[Tensor | None] = [None] * len(coordinates.parameters)
    for player in game.players:
        terms = losses[player.name](round) if player.name in losses else game.loss(player, round)
        if not terms:
            continue
        gradients = torch.autograd.grad(total(terms), player.parameters, create_graph=keep, allow_unused=True)
        for i, gradient in zip(coordinates.owned[player.name], gradients, strict=True):
            known = values[i]
            if gradient is not None:
                values[i] = -gradient if known is None else known - gradient
    return values


@contextmanager
def _awake(game: Game) -> Iterator[None]:
    """All weights of all players ask for gradients inside (an averaged twin's do not)."""
    asleep = [p for player in game.players for p in player.parameters if not p.requires_grad]
    try:
        for parameter in asleep:
            parameter.requires_grad_(True)
        yield
    finally:
        for parameter in asleep:
            parameter.requires_grad_(False)


def block_sizes(game: Game) -> dict[str, int]:
    """Player -> number of its weights, in the order of the coordinates."""
    return {name: block.stop - block.start for name, block in Coordinates(game).blocks.items()}
