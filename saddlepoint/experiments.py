"""The pathologies of GAN training, run: mode collapse, vanishing gradients, oscillation. Plain numbers and points come
back, for tests, tables and figures; nothing is drawn here.

Everything goes through the same games, engine and operators as any other training.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from saddlepoint import api, recipes
from saddlepoint.data import toys
from saddlepoint.errors import unknown
from saddlepoint.metrics.modes import SAMPLES, ModeCoverage, mode_coverage

if TYPE_CHECKING:
    from saddlepoint.engine import Training

Array = NDArray[np.float64]


def training(preset: str = "", data: str = "", **overrides: Any) -> Training:
    """A toy game in training, without a run folder: `.play()` plays a round, `.game` is the game."""
    from saddlepoint.engine import Training
    from saddlepoint.systems import build

    recipe = api.prepared(recipes.recipe("toy", preset, **overrides), data)
    return Training(build(recipe), recipe, toys.source(recipe))


def drawn(made: Training, n: int = SAMPLES, seed: int = 0) -> Array:
    """n points of the generator (averaged, if the recipe says so), [n, dimensions]: a pure function of the seed."""
    return np.asarray(made.average.game().sample(n, seed=seed).double().cpu().numpy())


# ---- mode collapse: Metz et al. 2017 (arXiv:1611.02163), figure 2
@dataclass(frozen=True)
class Moment:
    """The generator's coverage after so many rounds."""

    round: int
    coverage: ModeCoverage

    @property
    def leading(self) -> int:
        """The mode that most samples are nearest to."""
        return int(np.argmax(self.coverage.nearest))

    @property
    def leading_share(self) -> float:
        """Share of samples nearest to it: 1/8 for an even ring, 1 when the generator has collapsed."""
        return max(self.coverage.nearest) / self.coverage.samples


@dataclass(frozen=True)
class ModeCollapse:
    """One training on the ring, watched. `cpu_seconds` are this process'."""

    steps: int
    seed: int
    rounds: int
    moments: tuple[Moment, ...]
    snapshots: dict[int, Array] = field(repr=False)
    """Round -> points [n, 2]: the pictures of the strip."""
    target: Array = field(repr=False)
    """Points of the data, [n, 2]: the strip's last picture."""
    cpu_seconds: float = 0.0

    @property
    def hops(self) -> int:
        """How often the generator moved: from one moment to the next, both with more than half of all samples at one
        mode, that mode changed.
        """
        held = [m.leading if m.leading_share > 0.5 else -1 for m in self.moments]
        return sum(a != b for a, b in itertools.pairwise(held) if a >= 0 and b >= 0)

    @property
    def final(self) -> ModeCoverage:
        """Coverage after the last round."""
        return self.moments[-1].coverage


COLLAPSE: Mapping[str, Any] = {"batch": 256, "g.lr": 5e-4, "d.lr": 5e-4}
"""Where `mode_collapse` leaves the published settings (preset metz: batch 512, both rates 1e-4, 25,000 rounds): five
times the rates, less than a fifth of the rounds. The two rates must stay near each other: a generator that moves ten
times faster than the discriminator outruns the replies it foresees, and hops at K = 10 too.
"""


def mode_collapse(
    steps: int = 10,
    seed: int = 0,
    *,
    rounds: int = 4000,
    every: int = 250,
    pictures: int = 6,
    samples: int = SAMPLES,
    **overrides: Any,
) -> ModeCollapse:
    """Train on the ring of eight Gaussians with a generator that foresees `steps` steps of the discriminator; 0 is the
    plain GAN. Its coverage is measured every `every` rounds, and `pictures` snapshots are kept, the first at round 0.

    overrides: settings of the toy recipe's preset "metz". On one core steps=0 takes about 20 seconds, steps=10 about
    two minutes.
    """
    made = training("metz", **{**COLLAPSE, **overrides, "unroll_steps": steps, "seed": seed})
    target = toys.of_recipe(made.recipe)
    shots = {round(i * rounds / max(pictures - 1, 1)) for i in range(pictures)}
    moments, snapshots = [], {}
    started = time.process_time()
    for number in range(rounds + 1):
        if number % every == 0 or number in shots or number == rounds:
            points = drawn(made, samples)
            moments.append(Moment(number, mode_coverage(points, target.centres, target.sigma)))
            if number in shots:
                snapshots[number] = points
        if number < rounds:
            made.play()
    real = target.points(0, samples, seed)
    return ModeCollapse(steps, seed, rounds, tuple(moments), snapshots, real, time.process_time() - started)


# ---- vanishing gradients: Arjovsky and Bottou 2017 (arXiv:1701.04862), figure 2
def only(made: Training, player: str, moves: int) -> None:
    """Let one player move this often while the others keep their weights."""
    for _ in range(moves):
        made.table.begin()
        gradients, _ = made.table.measure(player, made.table.draw("data"))
        made.table.write(player, gradients)
        made.table.end()


@dataclass(frozen=True)
class VanishingGradients:
    """What the generator gets to learn from as the discriminator gets better; one value per entry of `moves`."""

    moves: tuple[int, ...]
    """Moves of the discriminator against the fixed generator."""
    value: tuple[float, ...]
    """V(d, g) = E log d(x) + E log(1 - d(g(z))) on points that it was not trained on."""
    accuracy: tuple[float, ...]
    """Share of those points that it judges right."""
    saturating: tuple[float, ...]
    """Euclidean norm of the generator's gradient of E log(1 - d(g(z)))."""
    nonsaturating: tuple[float, ...]
    """The same for -E log d(g(z))."""

    @property
    def jsd_bound(self) -> tuple[float, ...]:
        """1/2 V + log 2: a lower bound of the Jensen-Shannon divergence, reached by the optimal discriminator."""
        return tuple(0.5 * v + float(np.log(2)) for v in self.value)


def vanishing_gradients(
    seed: int = 0,
    *,
    moves: int = 1000,
    generator_rounds: int = 0,
    times: int = 16,
    samples: int = 2048,
    **overrides: Any,
) -> VanishingGradients:
    """Hold the generator, train the discriminator towards its optimum, and measure what each generator loss gives.

    generator_rounds: rounds of ordinary play before. times: how many measurements, at numbers of moves that grow
    geometrically from 0 to `moves`. overrides: settings of the preset "tiny", whose penalty is off here.
    """
    import torch

    from saddlepoint.objectives import minimax_generator, nonsaturating_generator

    made = training("tiny", **{"penalty.r1": 0.0, **overrides, "seed": seed})
    for _ in range(generator_rounds):
        made.play()
    game: Any = made.game
    real = torch.from_numpy(toys.of_recipe(made.recipe).points(0, samples, seed + 1)).to(made.dtype)
    z = game.draw_latents(samples, seed)
    weights = tuple(game.generator.parameters())
    found: dict[str, list[float]] = {name: [] for name in ("value", "accuracy", "saturating", "nonsaturating")}
    at = sorted({0, *(int(n) for n in np.geomspace(1, max(moves, 1), times - 1).round())})
    done = 0
    for number in at:
        only(made, "discriminator", number - done)
        done = number
        on_real, on_fake = game.discriminator(real), game.discriminator(game.generator(z))
        losses = {"saturating": minimax_generator(on_fake), "nonsaturating": nonsaturating_generator(on_fake)}
        for name, loss in losses.items():
            gradients = torch.autograd.grad(loss.mean(), weights, retain_graph=True)
            found[name].append(float(torch.nn.utils.get_total_norm(gradients)))
        value = minimax_generator(on_fake).mean() - nonsaturating_generator(on_real).mean()
        found["value"].append(float(value.detach()))
        found["accuracy"].append(float(torch.cat([on_real > 0, on_fake < 0]).float().mean()))
    return VanishingGradients(tuple(at), **{name: tuple(values) for name, values in found.items()})


# ---- WGAN figure 2: Arjovsky et al. 2017 (arXiv:1701.07875)
@dataclass(frozen=True)
class TwoGaussians:
    """Real N(-5, 1), fake N(5, 1), and what is trained to tell them apart, on a grid x."""

    x: Array
    real: Array
    """Density of the data."""
    fake: Array
    """Density of the samples."""
    discriminator: Array
    """d(x) = s(logit) after training by cross entropy."""
    discriminator_slope: Array
    """d'(x)."""
    optimal: Array
    """d*(x) = p / (p + q) = 1 / (1 + exp(10 x))."""
    critic: Array
    """f(x) of the critic, divided by its steepest slope on the grid: 1-Lipschitz there."""
    critic_slope: Array
    estimate: float
    """E f(real) - E f(fake) of that f: a lower bound of W1 on the grid."""
    penalty: str
    """How the critic was kept Lipschitz: "clip" or "gradient"."""

    w1: float = 10.0
    jsd: float = 0.693146
    """Of the two densities, in closed form and by quadrature."""


def two_gaussians(
    penalty: str = "clip", seed: int = 0, *, moves: int = 1500, batch: int = 256, **overrides: Any
) -> TwoGaussians:
    """Train a discriminator and a critic on two fixed Gaussians ten standard deviations apart.

    The discriminator ends with a cliff between them and flat ground elsewhere: nothing to learn from at the fakes. The
    critic is a ramp. penalty: "clip" (weights within 0.1) or "gradient" (WGAN-GP). Networks: two hidden layers of 64.
    """
    if penalty not in ("clip", "gradient"):
        raise unknown("penalty", penalty, ("clip", "gradient"))
    made = _between(seed, batch, {**overrides})
    lipschitz: dict[str, Any] = {"clip": 0.1} if penalty == "clip" else {"penalty.gradient_penalty": 1.0}
    critic = _between(seed, batch, {"objective": "wasserstein", **lipschitz, **overrides})
    only(made, "discriminator", moves)
    only(critic, "discriminator", moves)
    x = np.linspace(-8, 8, 401)
    d, d_slope = _on_grid(made, x)
    f, f_slope = _on_grid(critic, x)
    steepest = float(np.abs(f_slope).max()) or 1.0
    real, fake = (np.exp(-0.5 * (x - m) ** 2) / np.sqrt(2 * np.pi) for m in (-5.0, 5.0))
    s = 1 / (1 + np.exp(-d))
    estimate = float(((real - fake) * f).sum() * (x[1] - x[0])) / steepest
    optimal = 1 / (1 + np.exp(10 * x))
    return TwoGaussians(
        x, real, fake, s, s * (1 - s) * d_slope, optimal, f / steepest, f_slope / steepest, estimate, penalty
    )


def _between(seed: int, batch: int, overrides: Mapping[str, Any]) -> Training:
    """Players on N(-5, 1), where the generator is z + 5."""
    import torch

    from saddlepoint.engine import Training
    from saddlepoint.systems import build

    settings = {"latent": 1, "hidden": (), "d_hidden": (64, 64), "penalty.r1": 0.0, "dimensions": 1}
    recipe = recipes.recipe(
        "toy", "tiny", data="gaussian-1d", **{**settings, "batch": batch, "seed": seed, **overrides}
    )
    game: Any = build(recipe)
    with torch.no_grad():
        game.generator.layers[0].weight.fill_(1.0)
        game.generator.layers[0].bias.fill_(5.0)
    target = toys.PointSet("left", "N(-5, 1)", 5.0, 1.0, ((-1.0,),))
    return Training(game, recipe, toys.Points(target, seed))


def _on_grid(made: Training, x: Array) -> tuple[Array, Array]:
    """The discriminator's output and its slope at points of the line."""
    import torch

    game: Any = made.game
    points = torch.from_numpy(x).to(made.dtype).unsqueeze(1).requires_grad_()
    values = game.discriminator(points)
    (slope,) = torch.autograd.grad(values.sum(), points)
    return values.detach().double().numpy(), slope[:, 0].double().numpy()


# ---- oscillation
METHODS: Mapping[str, Mapping[str, Any]] = {
    "unregularised": {},
    "wgan-clip": {"objective": "wasserstein", "clip": 0.1, "d.steps": 5},
    "wgan-gp": {"objective": "wasserstein", "penalty.gradient_penalty": 1.0, "d.steps": 5},
    "instance-noise": {"instance_noise": 0.3},
    "r1": {"penalty.r1": 1.0},
    "r2": {"penalty.r2": 1.0},
    "consensus": {"operator": "consensus", "operator_strength": 1.0},
}
"""What a method changes in a toy recipe without penalties: the columns of the comparison in the 2018 paper."""


def method(name: str) -> dict[str, Any]:
    """The settings of this method. UserError for an unknown one."""
    if name not in METHODS:
        raise unknown("method", name, METHODS)
    return {"penalty.r1": 0.0, **METHODS[name]}


@dataclass(frozen=True)
class Oscillation:
    """The mean of the samples through a training on one Gaussian at (1, 0), simultaneous gradient steps."""

    method: str
    rounds: tuple[int, ...]
    mean: Array
    """Mean of the samples [times, 2]."""
    slope: Array
    """The discriminator's gradient at the data's centre [times, 2]: the opponent's half of the orbit."""

    @property
    def distance(self) -> Array:
        """How far the mean is from the data's, [times]."""
        return np.linalg.norm(self.mean - np.array([1.0, 0.0]), axis=1)

    @property
    def amplitude(self) -> float:
        """Root mean square of that distance over the last quarter: 0 for a method that converges."""
        late = self.distance[-max(1, len(self.rounds) // 4) :]
        return float(np.sqrt((late**2).mean()))

    @property
    def crossings(self) -> int:
        """How often the mean has passed the data's along the first axis: twice a turn."""
        side = np.sign(self.mean[:, 0] - 1)
        side = side[side != 0]
        return int((side[1:] != side[:-1]).sum())


def oscillation(
    name: str = "unregularised", seed: int = 0, *, rounds: int = 600, times: int = 200, **overrides: Any
) -> Oscillation:
    """Train small players by simultaneous gradient steps on one Gaussian beside the origin, and watch the mean.

    Without a penalty the generator swings past the data again and again, as the Dirac-GAN does; with one it settles.
    name: of METHODS. overrides: settings of the toy recipe.
    """
    import torch

    from saddlepoint.engine import Training
    from saddlepoint.systems import build

    sgd = {"kind": "sgd", "lr": 0.1, "momentum": 0.0}
    base = {"operator": "simultaneous", "g": sgd, "d": sgd, "latent": 2, "hidden": (16,), "d_hidden": (16,)}
    settings = {**base, "activation": "tanh", "batch": 128, "seed": seed, **method(name), **overrides}
    recipe = recipes.recipe("toy", "tiny", data="gaussian", **settings)
    target = toys.PointSet("beside", "one Gaussian at (1, 0)", 1.0, 0.1, ((1.0, 0.0),))
    made = Training(build(recipe), recipe, toys.Points(target, seed))
    game: Any = made.game
    z, centre = game.draw_latents(256, seed), torch.tensor([[1.0, 0.0]], requires_grad=True)
    at = sorted({round(i * rounds / (times - 1)) for i in range(times)})
    means, slopes, done = [], [], 0
    for number in at:
        for _ in range(number - done):
            made.play()
        done = number
        means.append(game.sample(len(z), z=z).mean(0).double().numpy())
        slopes.append(torch.autograd.grad(game.discriminator(centre).sum(), centre)[0][0].double().numpy())
    return Oscillation(name, tuple(at), np.stack(means), np.stack(slopes))
