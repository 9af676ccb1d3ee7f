"""Settings and presets of SAGAN (Zhang, Goodfellow, Metaxas and Odena 2018, arXiv:1805.08318)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from saddlepoint.recipes.base import AdversarialRecipe, Optimizer

SUMMARY = "SAGAN (2018): self-attention, spectral norm in both players, class-conditional, hinge"


@dataclass(frozen=True)
class SAGANRecipe(AdversarialRecipe):
    """Self-attention GAN. Without labels in the data (or with no-conditional) it plays without classes."""

    objective: Literal["nonsaturating", "minimax", "least-squares", "hinge", "wasserstein", "relativistic"] = "hinge"
    """What the two players play for."""
    latent: int = 128
    """Dimensions of z, standard normal."""
    width: int = 64
    """Feature maps of the generator's layers next to the image; doubled with every halving of the resolution."""
    critic_width: int = 64
    """The same for the discriminator."""
    attention: tuple[int, ...] = (0,)
    """Sides of the maps behind which self-attention stands, in both players; 0 is half the image's, at most 32."""
    conditional: bool = True
    """Class-conditional batch norm and a projection discriminator, where the data have labels."""
    labels: Literal["uniform", "data"] = "uniform"
    """Classes of fakes: uniform, or those of the real batch, so that both have the data's distribution."""
    spectral_g: bool = True
    """Spectral normalisation of the generator."""
    spectral_d: bool = True
    """Spectral normalisation of the discriminator."""
    norm_decay: float = 0.999
    """How slowly batch norm's running statistics move; they are read in sampling only."""


def _adam(lr: float, beta2: float = 0.9) -> Optimizer:
    return Optimizer(lr=lr, betas=(0.0, beta2), eps=1e-8)


def imagenet_128() -> SAGANRecipe:
    """128x128, 1000 classes: attention at 32x32, 256 images a step, a million steps; no average of the generator."""
    return SAGANRecipe(
        resolution=128, channels=3, attention=(32,), batch=256, kimg=256000, g=_adam(1e-4), d=_adam(4e-4),
        ema_half_life_kimg=0,
    )  # fmt: skip


def tiny() -> SAGANRecipe:
    """Minutes on one CPU core at 32x32: an average of the generator, which the paper lacks."""
    return SAGANRecipe(
        latent=64, width=16, critic_width=16, batch=32, kimg=130, g=_adam(2e-4), d=_adam(8e-4),
        ema_half_life_kimg=2.0, norm_decay=0.9, precision="bf16", channels_last=True,
    )  # fmt: skip


PRESETS = {"tiny": tiny, "paper": imagenet_128, "128": imagenet_128}
