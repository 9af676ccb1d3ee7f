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
    """n points of the generator [n, dimensions], a pure function of its weights and the seed."""
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


COLLAPSE: Mapping[str, Any] = {"batch": 256, "g.lr": 1e-3}
"""Where `mode_collapse` leaves the published settings (preset metz: batch 512, both rates 1e-4, 25,000 rounds): the
generator's rate is that of the released notebook. The effect is then there within 5,000 rounds.
"""


def mode_collapse(
    steps: int = 10,
    seed: int = 0,
    *,
    rounds: int = 5000,
    every: int = 250,
    pictures: int = 6,
    samples: int = SAMPLES,
    **overrides: Any,
) -> ModeCollapse:
    """Train on the ring of eight Gaussians with a generator that foresees `steps` steps of the discriminator; 0 is the
    plain GAN. Its coverage is measured every `every` rounds, and `pictures` snapshots are kept, the first at round 0.

    overrides: settings of the toy recipe's preset "metz". Takes about a minute per 5,000 rounds for steps=0 and five
    for steps=10 on one core.
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
