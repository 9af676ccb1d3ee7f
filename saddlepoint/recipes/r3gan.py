"""Settings and presets of R3GAN (Huang et al. 2024, arXiv:2501.05441)."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Literal

import tyro

from saddlepoint.recipes.base import AdversarialRecipe, Augment, Optimizer, Penalty

SUMMARY = "R3GAN (2024): relativistic pairing, R1 and R2, plain grouped residual networks; nothing else"


@dataclass(frozen=True)
class Late:
    """What the schedule ends with: every value goes there along half a cosine over the first images, then stays."""

    kimg: float = 20000.0
    """How long that takes; 0 is from the beginning."""
    lr: float = 0.25
    """Factor of the learning rates."""
    gamma: float = 0.1
    """Factor of the penalties."""
    beta2: float = 0.99
    """Decay of Adam's second moment."""
    augment: float = 0.0
    """Probability of each augmentation, from augment.p on (where augment.target is 0)."""


@dataclass(frozen=True)
class R3GANRecipe(AdversarialRecipe):
    """Regularised relativistic GAN."""

    objective: Literal["nonsaturating", "minimax", "least-squares", "hinge", "wasserstein", "relativistic"] = (
        "relativistic"
    )
    """What the two players play for."""
    penalty: Penalty = field(default_factory=lambda: Penalty(r1=1.0, r2=1.0))
    """Penalties on the discriminator, at the start."""
    latent: int = 64
    """Dimensions of z, standard normal."""
    channel_base: int = 24576
    """Feature maps at resolution r: channel_base / r ..."""
    channel_max: int = 768
    """... but never more than this."""
    group: int = 16
    """Channels that each group of the 3x3 convolutions holds."""
    blocks: tuple[int, ...] = (2,)
    """Residual blocks per resolution, from 4x4 up; the last number holds for all further ones."""
    widths: tuple[int, ...] = ()
    """Feature maps per resolution, from 4x4 up, instead of channel_base and channel_max."""
    groups: tuple[int, ...] = ()
    """Groups per resolution, from 4x4 up, instead of `group`."""
    expansion: int = 2
    """The 3x3 convolutions hold this many times the feature maps of their block."""
    kernel: int = 3
    """Side of their kernels (odd)."""
    taps: tuple[float, ...] = (1.0, 2.0, 1.0)
    """The resampling filter, before it is convolved with (1, 1)."""
    conditional: bool = False
    """Class-conditional: the class beside z, a projection discriminator. Needs labels."""
    embedding: int = 64
    """Dimensions of the class' vector beside z."""
    projection: int = 0
    """Dimensions in which features and class are compared; 0 takes the feature maps at 4x4."""
    late: Annotated[Late, tyro.conf.arg(name="late")] = field(default_factory=Late)
    """Where the schedule ends. The running average's half-life goes from 0 to ema-half-life-kimg on the same way."""
    augment: Annotated[Augment, tyro.conf.arg(name="augment")] = field(default_factory=lambda: Augment(target=0.0))
    """Augmentation of what the discriminator sees; target 0 is the fixed schedule, another one adapts it."""
    augment_colour: float = 0.5
    """Chance of colour operations relative to the others."""


OPERATIONS = "blit,geom,color,cutout"


def _adam(lr: float = 2e-4) -> Optimizer:
    return Optimizer(lr=lr, betas=(0.0, 0.9), eps=1e-8)


def _published(
    resolution: int, batch: int, gamma: float, augment: float, ema_kimg: float, *, burn_in: float = 20000,
    kimg: float = 200000, lr: float = 0.25, **settings: object,
) -> R3GANRecipe:  # fmt: skip
    """What the released configurations have in common."""
    pipe = Augment(OPERATIONS if augment else "", target=0.0)
    return R3GANRecipe(
        resolution=resolution, channels=3, batch=batch, kimg=kimg, penalty=Penalty(r1=gamma, r2=gamma), g=_adam(),
        d=_adam(), ema_half_life_kimg=ema_kimg, ema_ramp=0.0, augment=pipe, mirror=bool(augment),
        late=Late(kimg=burn_in, lr=lr, augment=augment), **settings,  # type: ignore[arg-type]
    )  # fmt: skip


def stacked_mnist() -> R3GANRecipe:
    """32x32, three digits in one image: 1000 modes (table of the paper; not among the released configurations)."""
    return _published(32, 512, 1.0, 0.0, 500, burn_in=2000, kimg=10000, lr=1.0)


def cifar_10() -> R3GANRecipe:
    """32x32, class-conditional."""
    return _published(32, 512, 0.05, 0.55, 5000, kimg=250000, conditional=True)


def ffhq_64() -> R3GANRecipe:
    """64x64 faces."""
    return _published(64, 256, 2.0, 0.3, 500, kimg=100000)


def ffhq_256() -> R3GANRecipe:
    """256x256 faces."""
    return _published(256, 256, 150.0, 0.3, 500)


def imagenet_32() -> R3GANRecipe:
    """32x32, class-conditional, twice as wide."""
    return _imagenet(32, 0.5, 0.5)


def imagenet_64() -> R3GANRecipe:
    """64x64, class-conditional, twice as wide."""
    return _imagenet(64, 1.0, 0.4)


def _imagenet(resolution: int, gamma: float, augment: float) -> R3GANRecipe:
    return _published(
        resolution, 4096, gamma, augment, 50000, burn_in=200000, kimg=1000000, conditional=True,
        channel_base=1536 * resolution, channel_max=1536, group=32,
    )  # fmt: skip


def tiny() -> R3GANRecipe:
    """Minutes on two CPU cores at 32x32: one block a resolution, 16 to 128 feature maps, small batches, long steps.

    Blocks as wide inside as outside and penalties in bfloat16 take less than half the time of wider blocks in float32.
    """
    return R3GANRecipe(
        channel_base=512, channel_max=128, expansion=1, blocks=(1,), batch=16, kimg=100, g=_adam(2e-3), d=_adam(2e-3),
        penalty=Penalty(r1=0.3, r2=0.3, mixed=True), late=Late(kimg=100, lr=0.25, gamma=0.3, beta2=0.99),
        ema_half_life_kimg=2.0, ema_ramp=0.0, precision="bf16", channels_last=True,
    )  # fmt: skip


PRESETS = {
    "tiny": tiny,
    "paper": ffhq_256,
    "ffhq-256": ffhq_256,
    "ffhq-64": ffhq_64,
    "cifar-10": cifar_10,
    "imagenet-32": imagenet_32,
    "imagenet-64": imagenet_64,
    "stacked-mnist": stacked_mnist,
}
