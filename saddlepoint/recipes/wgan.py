"""Settings and presets of WGAN with weight clipping (Arjovsky, Chintala, Bottou 2017, arXiv:1701.07875)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from saddlepoint.recipes.base import AdversarialRecipe, Optimizer

SUMMARY = "WGAN (2017): a critic with clipped weights estimates the Wasserstein distance"


@dataclass(frozen=True)
class WGANRecipe(AdversarialRecipe):
    """Wasserstein GAN with weight clipping."""

    objective: Literal["nonsaturating", "minimax", "least-squares", "hinge", "wasserstein", "relativistic"] = (
        "wasserstein"
    )
    """What the two players play for."""
    clip: float = 0.01
    """Every weight of the critic is clipped to plus or minus this after each of its steps; 0 is off."""
    warmup_rounds: int = 25
    """In the first rounds the critic makes long_steps moves ..."""
    refresh_every: int = 500
    """... and in every round whose number is a multiple of this; 0 is never."""
    long_steps: int = 100
    """The critic's moves in those rounds; d.steps in all others."""
    generator: Literal["conv", "mlp"] = "conv"
    """conv: 4x4 transposed convolutions. mlp: four dense layers and no tanh."""
    critic: Literal["conv", "mlp"] = "conv"
    """conv: 4x4 convolutions. mlp: four dense layers."""
    generator_norm: Literal["batch", "none"] = "batch"
    """Normalisation in a convolutional generator."""
    critic_norm: Literal["batch", "layer", "none"] = "batch"
    """Normalisation in a convolutional critic. Clipping includes its gains, as officially."""
    latent: int = 100
    """Dimensions of z, standard normal."""
    width: int = 64
    """Generator: channels next to the image (conv), units of a hidden layer (mlp)."""
    critic_width: int = 64
    """The same for the critic."""
    extra_layers: int = 0
    """More 3x3 convolutions at half the resolution, in both convolutional players."""

    def optimizers(self) -> dict[str, Optimizer]:
        return {"critic": self.d, "generator": self.g}


def _rmsprop(lr: float = 5e-5, steps: int = 1) -> Optimizer:
    return Optimizer(kind="rmsprop", lr=lr, steps=steps)


def paper() -> WGANRecipe:
    """64x64 bedrooms as released: RMSProp 5e-5, five critic steps, batch 64; 25 epochs of 3,033,042 images."""
    return WGANRecipe(
        resolution=64, channels=3, kimg=75826, g=_rmsprop(), d=_rmsprop(steps=5), ema_half_life_kimg=0
    )  # fmt: skip


def no_norm() -> WGANRecipe:
    """No batch norm in either player (the released --noBN takes it from the generator only)."""
    return WGANRecipe(
        resolution=64, channels=3, kimg=75826, generator_norm="none", critic_norm="none", g=_rmsprop(),
        d=_rmsprop(steps=5), ema_half_life_kimg=0,
    )  # fmt: skip


def mlp() -> WGANRecipe:
    """A generator of four dense layers of 512 units against the convolutional critic (figure 7)."""
    return WGANRecipe(
        resolution=64, channels=3, kimg=75826, generator="mlp", width=512, g=_rmsprop(), d=_rmsprop(steps=5),
        ema_half_life_kimg=0,
    )  # fmt: skip


def tiny() -> WGANRecipe:
    """Ten minutes on two CPU cores; on Fashion-MNIST two critic steps and clip 0.03 did better than 5 and 0.01."""
    return WGANRecipe(
        width=32, critic_width=32, latent=64, kimg=600, g=_rmsprop(5e-4), d=_rmsprop(5e-4, steps=2), clip=0.03,
        warmup_rounds=0, refresh_every=0, precision="bf16", channels_last=True, ema_half_life_kimg=10,
    )  # fmt: skip


PRESETS = {"tiny": tiny, "paper": paper, "no-norm": no_norm, "mlp": mlp}
