"""Settings and presets of the GAN with R1 (Mescheder, Geiger and Nowozin 2018, arXiv:1801.04406)."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Literal

from saddlepoint.recipes.base import AdversarialRecipe, Optimizer, Penalty

SUMMARY = "GAN-R1 (2018): deep residual networks without normalisation, which a penalty on real data makes converge"


@dataclass(frozen=True)
class GANR1Recipe(AdversarialRecipe):
    """Residual networks without normalisation, played with a zero-centred gradient penalty."""

    penalty: Penalty = field(default_factory=lambda: Penalty(r1=20.0))
    """Penalties on the discriminator. The official reg_param lacks the factor 1/2: its 10 is a gamma of 20."""
    network: Literal["resnet", "resnet2"] = "resnet"
    """resnet: a block per resolution from 4x4 on. resnet2: two each, five doublings from resolution / 32 on."""
    latent: int = 256
    """Dimensions of z, standard normal."""
    width: int = 64
    """Feature maps next to the image; doubled with every halving of the resolution."""
    width_max: int = 1024
    """... but never more than this."""
    embedding: int = 256
    """Dimensions of the class' vector beside z; one vector for all where the game is not conditional."""
    conditional: bool = False
    """Class-conditional: the generator sees the class, the discriminator has a logit for each. Needs labels."""


def half_life_kimg(decay: float, batch: int) -> float:
    """The half-life, in kimg, of an average that keeps `decay` of itself at every step of `batch` images."""
    return batch * math.log(0.5) / math.log(decay) / 1000


def _rmsprop(lr: float) -> Optimizer:
    return Optimizer("rmsprop", lr=lr, alpha=0.99, eps=1e-8)


def imagenet_128() -> GANR1Recipe:
    """128x128, 1000 classes (section 5): 101 and 108 million parameters; the released settings take Adam here."""
    adam = Optimizer("adam", lr=1e-4, betas=(0.0, 0.99), eps=1e-8)
    return GANR1Recipe(
        network="resnet2", resolution=128, channels=3, conditional=True, batch=128, kimg=57600, g=adam, d=adam,
        ema_half_life_kimg=half_life_kimg(0.999, 128), ema_ramp=0.0,
    )  # fmt: skip


def lsun_256() -> GANR1Recipe:
    """256x256, one LSUN category: 52 and 48 million parameters, RMSProp."""
    return GANR1Recipe(
        resolution=256, channels=3, embedding=1, batch=64, kimg=32000, g=_rmsprop(1e-4), d=_rmsprop(1e-4),
        ema_half_life_kimg=half_life_kimg(0.999, 64), ema_ramp=0.0,
    )  # fmt: skip


def celeba_hq_1024() -> GANR1Recipe:
    """1024x1024 faces: 19 and 17 million parameters, 16 feature maps next to the image."""
    return GANR1Recipe(
        resolution=1024, channels=3, embedding=1, width=16, width_max=512, batch=24, kimg=12000,
        g=_rmsprop(1e-4), d=_rmsprop(1e-4), ema_half_life_kimg=half_life_kimg(0.999, 24), ema_ramp=0.0,
    )  # fmt: skip


def tiny() -> GANR1Recipe:
    """Minutes on two CPU cores at 32x32: 16 to 128 feature maps, weaker R1 in bf16, longer steps."""
    return GANR1Recipe(
        width=16, width_max=128, latent=64, embedding=1, batch=32, kimg=150, penalty=Penalty(r1=0.1, mixed=True),
        g=_rmsprop(1e-3), d=_rmsprop(1e-3), ema_half_life_kimg=2.0, channels_last=True, precision="bf16",
    )  # fmt: skip


PRESETS = {
    "tiny": tiny,
    "paper": imagenet_128,
    "imagenet-128": imagenet_128,
    "lsun-256": lsun_256,
    "celeba-hq-1024": celeba_hq_1024,
}
