"""Small games that the tests of the core share: each isolates one thing that published systems need.

Linear      players whose gradient field is M w: every operator is then a matrix that can be written down
Dirac       the one-parameter GAN, locally linear with known spectra
Small       a two-dimensional GAN with switches: batch norm, shared forward, lazy R1, running mean, pool, schedule
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from saddlepoint.engine import Training
from saddlepoint.game import Game, Move, Player, Round, Stage, Terms, keyed_generator
from saddlepoint.layers.normalisation import BatchNorm
from saddlepoint.objectives import Objective, minimax_generator, nonsaturating_generator, objective
from saddlepoint.penalties import clip, slope, zero_centred
from saddlepoint.recipes.base import Optimizer, Recipe
from saddlepoint.tracking import track


@dataclass(frozen=True)
class ToyRecipe(Recipe):
    """A recipe whose optimizers are given per player; the running average is off."""

    settings: Mapping[str, Optimizer] = field(default_factory=dict)
    ema_half_life_kimg: float = 0.0

    def optimizers(self) -> dict[str, Optimizer]:
        return dict(self.settings)


def spiral(cursor: int, total: int, first: int, length: int, resolution: int | None = None) -> dict[str, Tensor]:
    """A source: example i lies on a noisy circle at i golden angles; a pure function of i."""
    i = torch.arange(cursor + first, cursor + first + length, dtype=torch.float64)
    radius = 1 + 0.2 * torch.sin(1.7 * i)
    x = torch.stack([radius * torch.cos(2.4 * i), radius * torch.sin(2.4 * i)], 1)
    return {"x": x.float()}


def training(
    game: Game,
    operator: str = "alternating",
    optimizer: Optimizer | Mapping[str, Optimizer] | None = None,
    *,
    h: float = 0.1,
    source: Any = None,
    **recipe: Any,
) -> Training:
    """A Training of `game`: plain gradient steps of size h unless an optimizer is given."""
    one = optimizer or Optimizer(kind="sgd", lr=h)
    settings = one if isinstance(one, Mapping) else {player.name: one for player in game.players}
    return Training(game, ToyRecipe(operator=operator, settings=settings, **recipe), source)


def weights(game: Game) -> Tensor:
    """All players' weights as one vector, in order of play."""
    return torch.cat([p.detach().reshape(-1) for player in game.players for p in player.parameters])


def set_weights(game: Game, values: Tensor | Sequence[float]) -> None:
    parameters = [p for player in game.players for p in player.parameters]
    flat = torch.as_tensor(values, dtype=parameters[0].dtype)
    with torch.no_grad():
        for parameter, part in zip(parameters, flat.split([p.numel() for p in parameters]), strict=True):
            parameter.copy_(part.view_as(parameter))


def map_matrix(run: Training, scale: float = 1.0) -> Tensor:
    """The matrix of F_h around 0, column by column: exact for linear games, the linearisation for a small scale."""
    n = len(weights(run.game))
    columns = []
    for i in range(n):
        set_weights(run.game, scale * torch.eye(n, dtype=torch.float64)[i])
        run.play()
        columns.append(weights(run.game) / scale)
    return torch.stack(columns, 1)


def radius(matrix: Tensor) -> float:
    """Spectral radius."""
    return float(torch.linalg.eigvals(matrix).abs().max())


class Linear(Game):
    """Player p minimises 1/2 w_p M_pp w_p + w_p sum_q M_pq w_q: its gradient is row block p of M w (M_pp symmetric)."""

    def __init__(self, matrix: Tensor, sizes: Sequence[int], steps: Sequence[int] | None = None) -> None:
        super().__init__()
        self.register_buffer("matrix", matrix.double())
        self.sizes = list(sizes)
        self.vectors = nn.ParameterList(nn.Parameter(torch.zeros(n, dtype=torch.float64)) for n in sizes)
        self.players = tuple(
            Player(f"p{i}", Holder(vector), partial(self.loss_of, i), steps=(steps or [1] * len(sizes))[i])
            for i, vector in enumerate(self.vectors)
        )

    def loss_of(self, i: int, round: Round) -> Terms:
        rows = self.matrix.split(self.sizes)[i]
        blocks = rows.split(self.sizes, 1)
        own = self.vectors[i]
        others = sum((blocks[j] @ self.vectors[j] for j in range(len(self.sizes)) if j != i), torch.zeros_like(own))
        return {"own": 0.5 * own @ blocks[i] @ own, "cross": own @ others}


class Holder(nn.Module):
    """A module around one parameter."""

    def __init__(self, parameter: nn.Parameter) -> None:
        super().__init__()
        self.parameter = parameter


def bilinear(m: float = 1.0, steps: Sequence[int] | None = None) -> Linear:
    """min over x, max over y of m x y: the gradient field is (m y, -m x)."""
    return Linear(torch.tensor([[0.0, m], [-m, 0.0]]), [1, 1], steps)


class Dirac(Game):
    """Data at 0, G puts its point at theta, D(x) = psi x (Mescheder et al. 2018, section 2). The generator moves first.

    clipping: projects psi onto [-c, c] after every step of the discriminator.
    """

    def __init__(
        self, kind: str | Objective = "minimax", *, gamma: float = 0.0, steps: int = 1, clipping: float = 0.0
    ) -> None:
        super().__init__()
        self.objective = objective(kind) if isinstance(kind, str) else kind
        self.gamma = gamma
        self.theta = nn.Parameter(torch.ones(1, 1, dtype=torch.float64))
        self.psi = nn.Parameter(torch.ones(1, 1, dtype=torch.float64))
        project = (lambda: clip([self.psi], clipping)) if clipping else None
        self.players = (
            Player("generator", Holder(self.theta), self.generator_loss),
            Player("discriminator", Holder(self.psi), self.discriminator_loss, steps=steps, project=project),
        )

    def discriminator(self, x: Tensor) -> Tensor:
        return (x @ self.psi).squeeze(1)  # [N]

    def generator_loss(self, round: Round) -> Terms:
        return {"gan": self.objective.generator(self.discriminator(self.theta), None).mean()}

    def discriminator_loss(self, round: Round) -> Terms:
        data, fake = torch.zeros_like(self.theta), self.discriminator(self.theta)
        if not self.gamma:
            return {"gan": self.objective.discriminator(self.discriminator(data), fake).mean()}
        real, squared = slope(self.discriminator, data)
        return {
            "gan": self.objective.discriminator(real, fake).mean(),
            "r1": self.gamma * zero_centred(squared).mean(),
        }


class Small(Game):
    """Generator z [N, 3] -> x [N, 2], discriminator x -> logit, tanh networks, weights a pure function of `seed`.

    norm: batch norm in both. keep: the fake is shared (generator first). lazy: R1 every so many rounds. pool: the
    discriminator sees fakes out of a pool of this many older ones. start: the discriminator sits out before this clock.
    stages: clock -> Stage. The mapping network's mean output runs along as StyleGAN's average latent.
    """

    averaged = ("generator",)
    mean_w: Tensor
    pool: Tensor
    pushed: Tensor

    def __init__(
        self,
        *,
        seed: int = 0,
        width: int = 5,
        norm: bool = False,
        keep: bool = False,
        lazy: int = 0,
        pool: int = 0,
        start: int = 0,
        steps: tuple[int, int] = (1, 1),
        discriminator_first: bool = False,
        stages: Callable[[int], Stage] | None = None,
        order: Sequence[Move] | None = None,
        clipping: float = 0.0,
    ) -> None:
        super().__init__()
        self.keep, self.lazy, self.start, self.stages, self.order = keep, lazy, start, stages, order
        self.couples = frozenset({"batch-norm"}) if norm else frozenset()
        self.mapping = nn.Linear(3, 3)
        layers = [nn.Linear(3, width), *([BatchNorm(width)] if norm else []), nn.Tanh(), nn.Linear(width, 2)]
        self.generator = nn.Sequential(self.mapping, *layers)
        self.discriminator = nn.Sequential(
            nn.Linear(2, width), *([BatchNorm(width)] if norm else []), nn.Tanh(), nn.Linear(width, 1), nn.Flatten(0)
        )
        self.register_buffer("mean_w", torch.zeros(3))
        self.register_buffer("pool", torch.zeros(pool, 2))
        self.register_buffer("pushed", torch.zeros(()))
        draw = keyed_generator(torch.device("cpu"), "small", seed)
        with torch.no_grad():
            for parameter in self.parameters():
                parameter.copy_(torch.randn(parameter.shape, generator=draw) * 0.5)
        project = (lambda: clip(self.discriminator.parameters(), clipping)) if clipping else None
        g = Player("generator", self.generator, self.generator_loss, steps=steps[0])
        d = Player("discriminator", self.discriminator, self.discriminator_loss, steps=steps[1], project=project)
        self.players = (d, g) if discriminator_first else (g, d)

    def fake(self, round: Round) -> Tensor:
        w = self.mapping(round.normal("z", 3))
        track(self.mean_w, w.mean(0), 0.25)
        return self.generator[1:](w)

    def generator_loss(self, round: Round) -> Terms:
        fake = round.keep("fake", lambda: self.fake(round)) if self.keep else self.fake(round)
        logits = self.discriminator(fake)
        round.note("fooled", (logits > 0).float().mean())
        return {"gan": nonsaturating_generator(logits).mean()}

    def discriminator_loss(self, round: Round) -> Terms:
        if round.clock < self.start:
            return {}
        fake = round.keep("fake", lambda: self.fake(round)) if self.keep else self.fake(round)
        seen = self.from_pool(fake, round) if len(self.pool) else fake
        terms: Terms = {}
        if gain := round.lazy(self.lazy, "r1") if self.lazy else 0.0:
            real, squared = slope(self.discriminator, round["x"])
            terms["r1"] = gain * 0.5 * zero_centred(squared).mean()
        else:
            real = self.discriminator(round["x"])
        return {
            "real": nonsaturating_generator(real).mean(),
            "fake": -minimax_generator(self.discriminator(seen)).mean(),
            **terms,
        }

    def from_pool(self, fake: Tensor, round: Round) -> Tensor:
        """Half of the samples come out of the committed pool. Pushes are written so that parts of a batch add up."""
        capacity = len(self.pool)
        slots = (torch.arange(round.first, round.first + round.size) + int(self.pushed)) % capacity
        old = (round.uniform("pool") < 0.5) & (self.pushed >= capacity)
        share = round.total / round.size  # a part's statistic counts size / total in the mean
        change = torch.zeros_like(self.pool).index_add(0, slots, fake.to(self.pool.dtype) - self.pool[slots])
        track(self.pool, self.pool + share * change, 1.0)
        track(self.pushed, self.pushed + round.total, 1.0)
        return torch.where(old[:, None], self.pool[slots].to(fake.dtype), fake)

    def stage(self, clock: int) -> Stage:
        return self.stages(clock) if self.stages else Stage()

    def moves(self, step: int) -> Sequence[Move]:
        return self.order or super().moves(step)

    def sample(self, n: int, seed: int = 0, **controls: Any) -> Tensor:
        z = torch.randn(n, 3, generator=keyed_generator(self.device, "sample", seed))
        with self.evaluating():
            return self.generator(z)


def snapshot(run: Training) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The training's state, cloned: what a checkpoint on disk would hold."""
    tensors, values = run.state()
    return {name: tensor.detach().clone().contiguous() for name, tensor in tensors.items()}, values


def same_bits(a: Mapping[str, Tensor], b: Mapping[str, Tensor]) -> bool:
    """Same names, shapes, types and bits."""
    return a.keys() == b.keys() and all(
        a[k].dtype == b[k].dtype and a[k].shape == b[k].shape and a[k].numpy().tobytes() == b[k].numpy().tobytes()
        for k in a
    )
