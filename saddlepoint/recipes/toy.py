"""Settings and presets of the toy games: dense players on points of the plane, where everything can be seen."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Annotated, Literal

import tyro

from saddlepoint.recipes.base import Optimizer, Penalty, Recipe

SUMMARY = "Toy games: dense players on 2-D points, for mode collapse, oscillation, operators and penalties"


@dataclass(frozen=True)
class ToyRecipe(Recipe):
    """A generator and a discriminator of a few dense layers, on points."""

    data: Annotated[str, tyro.conf.Suppress] = "ring"
    """What to train on: a point set."""
    ema_half_life_kimg: float = 0.0
    """Half-life of the running average of the generator that samples are drawn from; 0 is off."""
    objective: Literal["nonsaturating", "minimax", "least-squares", "hinge", "wasserstein", "relativistic"] = (
        "nonsaturating"
    )
    """What the two players play for."""
    penalty: Penalty = field(default_factory=Penalty)
    """Penalties on the discriminator."""
    clip: float = 0.0
    """Every weight of the discriminator is clipped to plus or minus this after each of its steps; 0 is off."""
    instance_noise: float = 0.0
    """Standard deviation of the Gaussian noise on whatever the discriminator sees, real or fake; 0 is off."""
    g: Annotated[Optimizer, tyro.conf.arg(name="g")] = field(default_factory=Optimizer)
    """The generator's moves."""
    d: Annotated[Optimizer, tyro.conf.arg(name="d")] = field(default_factory=Optimizer)
    """The discriminator's moves."""
    latent: int = 16
    """Dimensions of z."""
    prior: Literal["uniform", "normal"] = "normal"
    """z standard normal, or uniform on [-1, 1]."""
    hidden: tuple[int, ...] = (128, 128)
    """Units of the generator's hidden layers, as many numbers as layers."""
    d_hidden: tuple[int, ...] = (128, 128)
    """The same for the discriminator."""
    activation: Literal["relu", "leaky-relu", "tanh", "softplus"] = "relu"
    """Nonlinearity of both players' hidden layers."""
    d_scale: float = 1.0
    """The discriminator sees points multiplied by this."""
    initialisation: Literal["orthogonal", "he", "xavier", "torch"] = "orthogonal"
    """First weights. Biases start at 0, except torch's own."""
    gain: float = 1.0
    """Factor on orthogonal, he and xavier weights."""
    radius: float = 0.0
    """Size of the point set (a ring's radius, the farthest coordinate of a grid's centres); 0 is the set's own."""
    sigma: float = 0.0
    """Standard deviation of its Gaussians or of its noise; 0 is the set's own."""
    balanced: bool = False
    """Show a mixture's modes in turn instead of at random: each equally often in every batch."""
    dimensions: Annotated[int, tyro.conf.Suppress] = 2
    """Coordinates of a point; the data say."""

    data_module = "saddlepoint.data.toys"

    def optimizers(self) -> dict[str, Optimizer]:
        return {"discriminator": self.d, "generator": self.g}


def tiny() -> ToyRecipe:
    """Half a minute on one core: all eight modes of the ring with an R1 penalty, Adam and an averaged generator."""
    adam = Optimizer(lr=1e-3, betas=(0.5, 0.99))
    return ToyRecipe(batch=256, kimg=1000, g=adam, d=adam, penalty=Penalty(r1=0.1), ema_half_life_kimg=10.0)


def metz() -> ToyRecipe:
    """The ring of unrolled GANs (appendix A), K = 10: orthogonal weights of gain 0.8, one hidden layer against two."""
    adam = Optimizer(lr=1e-4, betas=(0.5, 0.999))
    return ToyRecipe(
        objective="minimax", operator="unrolled", unroll_steps=10, batch=512, kimg=12800, latent=256, d_hidden=(128,),
        d_scale=0.25, gain=0.8, g=adam, d=adam,
    )  # fmt: skip


def metz_notebook() -> ToyRecipe:
    """The released notebook of unrolled GANs, K = 5: tanh, radius 1, the generator's rate ten times the other's."""
    g, d = Optimizer(lr=1e-3, betas=(0.5, 0.999)), Optimizer(lr=1e-4, betas=(0.5, 0.999))
    return ToyRecipe(
        objective="minimax", operator="unrolled", unroll_steps=5, batch=512, kimg=12800, latent=256, activation="tanh",
        gain=1.4, radius=1.0, sigma=0.01, g=g, d=d,
    )  # fmt: skip


def numerics() -> ToyRecipe:
    """The ring of the numerics of GANs: four layers of 16 in both, RMSProp, consensus with gamma 10."""
    rmsprop = Optimizer(kind="rmsprop", lr=1e-4, alpha=0.9)
    return ToyRecipe(
        operator="consensus", operator_strength=10.0, batch=512, kimg=5120, latent=16, hidden=(16, 16, 16, 16),
        d_hidden=(16, 16, 16, 16), initialisation="xavier", radius=1.0, sigma=0.01, balanced=True, g=rmsprop, d=rmsprop,
    )  # fmt: skip


def wgan_gp() -> ToyRecipe:
    """The toy of WGAN-GP as released: three layers of 512, five critic steps, penalty 0.1, ring divided by sqrt 2."""
    g, d = Optimizer(lr=1e-4, betas=(0.5, 0.9)), Optimizer(lr=1e-4, betas=(0.5, 0.9), steps=5)
    return ToyRecipe(
        objective="wasserstein", penalty=Penalty(gradient_penalty=0.1), batch=256, kimg=6400, latent=2,
        hidden=(512, 512, 512), d_hidden=(512, 512, 512), initialisation="he", radius=math.sqrt(2),
        sigma=0.02 / math.sqrt(2), g=g, d=d,
    )  # fmt: skip


PRESETS = {
    "tiny": tiny,
    "ring": tiny,
    "metz": metz,
    "metz-notebook": metz_notebook,
    "numerics": numerics,
    "wgan-gp": wgan_gp,
}
