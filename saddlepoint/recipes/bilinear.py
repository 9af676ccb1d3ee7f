"""Settings of the bilinear game, the linear part of every zero-sum GAN near its equilibrium."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated

import tyro

from saddlepoint.recipes.base import Optimizer, Recipe

SUMMARY = "Bilinear game: L = m theta.psi, pure rotation; extragradient and optimism converge, plain steps never"


@dataclass(frozen=True)
class BilinearRecipe(Recipe):
    """L(theta, psi) = m <theta, psi>: the generator minimises it, the discriminator maximises it."""

    m: float = 1.0
    """Strength of the coupling; the eigenvalues are plus and minus i m."""
    dimensions: int = 1
    """Weights of each player."""
    start: tuple[float, float] = (1.0, 1.0)
    """First value of every weight of theta, and of psi."""
    g: Annotated[Optimizer, tyro.conf.arg(name="g")] = field(default_factory=Optimizer)
    """The generator's moves."""
    d: Annotated[Optimizer, tyro.conf.arg(name="d")] = field(default_factory=Optimizer)
    """The discriminator's moves."""

    def optimizers(self) -> dict[str, Optimizer]:
        return {"generator": self.g, "discriminator": self.d}


def plain() -> BilinearRecipe:
    """Gradient steps of 0.2, 500 rounds, the generator first."""
    sgd = Optimizer(kind="sgd", lr=0.2)
    return BilinearRecipe(batch=1, kimg=0.5, ema_half_life_kimg=0, g=sgd, d=sgd)


PRESETS = {"plain": plain}
