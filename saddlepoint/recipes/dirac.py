"""Settings of the Dirac-GAN (Mescheder, Geiger, Nowozin 2018, arXiv:1801.04406, section 2)."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Literal

import tyro

from saddlepoint.recipes.base import Optimizer, Recipe

SUMMARY = "Dirac-GAN (2018): one weight per player, every method's spectrum in closed form"

Method = Literal[
    "minimax",
    "nonsaturating",
    "wasserstein",
    "wgan-gp",
    "instance-noise",
    "r1",
    "r2",
    "r1+r2",
    "consensus",
    "nonsaturating+r1",
]


@dataclass(frozen=True)
class DiracRecipe(Recipe):
    """The smallest GAN: a data set of one point at 0, a generator that puts a point at theta, D(x) = psi x."""

    method: Method = "minimax"
    """What the players play for. wgan-gp: Wasserstein with a penalty on the slope; nonsaturating+r1: both."""
    gamma: float = 1.0
    """Weight of r1, r2, r1+r2 (each) and consensus; 1 is critical damping for r1, so never look there only."""
    sigma: float = 0.7
    """Standard deviation of instance-noise, on reals and fakes."""
    clip: float = 1.0
    """wasserstein keeps psi in [-clip, clip]."""
    slope_weight: float = 0.7
    """lambda of wgan-gp's lambda/2 (|psi| - slope)^2."""
    slope: float = 1.0
    """The slope that wgan-gp asks for."""
    start: tuple[float, float] = (1.0, 1.0)
    """First theta and psi."""
    g: Annotated[Optimizer, tyro.conf.arg(name="g")] = field(default_factory=Optimizer)
    """The generator's moves."""
    d: Annotated[Optimizer, tyro.conf.arg(name="d")] = field(default_factory=Optimizer)
    """The discriminator's moves."""

    def optimizers(self) -> dict[str, Optimizer]:
        return {"generator": self.g, "discriminator": self.d}


def paper() -> DiracRecipe:
    """The official notebook: gradient steps of 0.2, 500 rounds, the generator first."""
    sgd = Optimizer(kind="sgd", lr=0.2)
    return DiracRecipe(batch=1, kimg=0.5, ema_half_life_kimg=0, g=sgd, d=sgd)


PRESETS = {"paper": paper}
