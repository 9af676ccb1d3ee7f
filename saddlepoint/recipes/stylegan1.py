"""Settings and presets of StyleGAN (Karras, Laine and Aila 2019, arXiv:1812.04948)."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Annotated, Literal

import tyro

from saddlepoint.recipes.base import Optimizer, Penalty
from saddlepoint.recipes.growing import GrowingRecipe, moves

SUMMARY = "StyleGAN (2018): a mapping network and styles at every layer, noise inputs, growing from 8x8"


@dataclass(frozen=True)
class StyleGAN1Recipe(GrowingRecipe):
    """StyleGAN, the first version."""

    objective: Literal["nonsaturating", "minimax", "least-squares", "hinge", "wasserstein", "relativistic"] = (
        "nonsaturating"
    )
    """What the two players play for."""
    penalty: Penalty = field(default_factory=lambda: Penalty(r1=10.0))
    """Penalties on the discriminator."""
    start: int = 8
    """Side of the first images; the networks begin at 4x4 whatever it is."""
    latent: int = 512
    """Dimensions of z, standard normal."""
    w: int = 512
    """Dimensions of w, what the mapping network makes of z."""
    mapping_layers: int = 8
    """Layers of the mapping network."""
    mapping_width: int = 0
    """Units of its hidden layers; 0 takes w."""
    mapping_lr: float = 0.01
    """Its learning rate, as a share of the generator's."""
    normalise_latents: bool = True
    """Divide z (with the class, where there is one) by its root mean square."""
    noise: bool = True
    """A noise input at every layer."""
    mixing: float = 0.9
    """Probability that a batch is made with two latents, one for the coarse layers, one for the fine ones."""
    w_decay: float = 0.995
    """What the average of w, towards which truncation pulls, keeps of its old value when the generator is evaluated."""
    stddev_group: int = 4
    """Samples of a group for the minibatch deviation; 1 is off."""
    stddev_features: int = 1
    """Channels of it."""
    conditional: bool = False
    """The class joins z, and the discriminator has an output for every class. Needs labels."""
    g: Annotated[Optimizer, tyro.conf.arg(name="g")] = field(default_factory=moves)
    """The generator's moves."""
    d: Annotated[Optimizer, tyro.conf.arg(name="d")] = field(default_factory=moves)
    """The discriminator's moves."""


def tiny() -> StyleGAN1Recipe:
    """Minutes on two CPU cores: three resolutions up to 32 pixels, narrow layers, which take longer steps."""
    return StyleGAN1Recipe(
        fmap_base=384, fmap_max=64, latent=64, w=64, mapping_layers=4, kimg=80, stable_kimg=10, fade_kimg=10, batch=16,
        batches=(32, 32, 16, 16), g=moves(5e-3), d=moves(5e-3), penalty=Penalty(r1=0.2), ema_half_life_kimg=1,
        precision="bf16", channels_last=True,
    )  # fmt: skip


def ffhq() -> StyleGAN1Recipe:
    """1024 pixels as published for FFHQ on eight GPUs: logistic loss with R1, batches of 512 down to 32."""
    return StyleGAN1Recipe(
        resolution=1024, channels=3, mirror=True, batch=32, batches=(512, 256, 128, 64, 32), kimg=25000,
        lr_factors=(1.0,) * 5 + (1.5, 2.0, 3.0, 3.0), ema_half_life_kimg=10, ema_ramp=0,
    )  # fmt: skip


def one_gpu() -> StyleGAN1Recipe:
    """The same on one GPU: batches of 128 down to 4."""
    return replace(ffhq(), batch=4, batches=(128, 128, 128, 64, 32, 16, 8, 4, 4))


def celebahq() -> StyleGAN1Recipe:
    """CelebA-HQ's alternative: WGAN-GP with drift as in ProGAN, learning rates up to 0.002."""
    return replace(
        ffhq(), objective="wasserstein", penalty=Penalty(gradient_penalty=10.0, drift=0.001),
        lr_factors=(1.0,) * 5 + (1.5, 2.0),
    )  # fmt: skip


PRESETS = {"tiny": tiny, "paper": ffhq, "1024": ffhq, "1024-1gpu": one_gpu, "celebahq-1024": celebahq}
