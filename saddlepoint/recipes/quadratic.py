"""Settings of the quadratic game: any linear vector field whose diagonal blocks are symmetric."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated

import tyro

from saddlepoint.recipes.base import Optimizer, Recipe

SUMMARY = "Quadratic game: v = J w for a matrix of your choice, from pure potential to pure rotation"


@dataclass(frozen=True)
class QuadraticRecipe(Recipe):
    """Two players with quadratic losses, so that the followed field is v = J w."""

    jacobian: tuple[float, ...] = (0.0, -1.0, 1.0, -0.7)
    """J row by row. The block of each player's own weights must be symmetric, or it is no player's gradient."""
    first: int = 1
    """How many of the weights are the generator's."""
    start: tuple[float, ...] = (1.0, 1.0)
    """First weights, the generator's before the discriminator's."""
    g: Annotated[Optimizer, tyro.conf.arg(name="g")] = field(default_factory=Optimizer)
    """The generator's moves."""
    d: Annotated[Optimizer, tyro.conf.arg(name="d")] = field(default_factory=Optimizer)
    """The discriminator's moves."""

    def optimizers(self) -> dict[str, Optimizer]:
        return {"generator": self.g, "discriminator": self.d}


def spiral(step: float = 0.5) -> QuadraticRecipe:
    """v = (-psi, theta - 0.7 psi): simultaneous steps diverge at 1 and converge at 0.5; the edge is at 0.7."""
    sgd = Optimizer(kind="sgd", lr=step)
    return QuadraticRecipe(batch=1, kimg=0.1, operator="simultaneous", ema_half_life_kimg=0, g=sgd, d=sgd)


def half() -> QuadraticRecipe:
    """Steps of 0.5: converges."""
    return spiral(0.5)


def one() -> QuadraticRecipe:
    """Steps of 1: diverges."""
    return spiral(1.0)


PRESETS = {"half": half, "one": one}
