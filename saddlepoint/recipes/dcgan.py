"""Settings and presets of DCGAN (Radford, Metz, Chintala 2015, arXiv:1511.06434)."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Literal

import tyro

from saddlepoint.recipes.base import AdversarialRecipe, Augment, Optimizer

SUMMARY = "DCGAN (2015): the first stable convolutional GAN; batch norm in both players"


@dataclass(frozen=True)
class DCGANRecipe(AdversarialRecipe):
    """Deep convolutional GAN."""

    latent: int = 100
    """Dimensions of z."""
    prior: Literal["uniform", "normal"] = "uniform"
    """z uniform on [-1, 1] (the paper) or standard normal."""
    width: int = 128
    """Channels of the layers next to the image (ngf = ndf); doubled with every halving of the resolution."""
    kernel: int = 5
    """Side of every convolution's kernel (odd)."""
    convs: Literal[1, 2] = 1
    """Convolutions per resolution: 2 adds one of stride 1 to each of stride 2."""
    conditional: bool = False
    """Give the class, one-hot, to every layer of both players: the appendix' MNIST networks. Needs labels."""
    dense: int = 1024
    """Units of the dense hidden layers of the conditional networks."""
    batch_statistics: bool = False
    """Sample with the batch's own statistics, as the official code does: an image then depends on its neighbours."""
    augment: Annotated[Augment, tyro.conf.arg(name="augment")] = field(default_factory=Augment)
    """Adaptive discriminator augmentation, for small sets: --augment.operations bgc."""
    draws: Literal["data", "noise"] = "data"
    """What the generator moves on: an own minibatch, as in the official code, or the discriminator's with new noise."""
    hold_kimg: float = 0.0
    """How long the learning rates stay before they decay."""
    decay_kimg: float = 0.0
    """How long they then take to reach 0, linearly; 0 is no decay."""


def paper() -> DCGANRecipe:
    """64x64 faces and bedrooms (section 4): 25 epochs of 350,000 faces, of which the discriminator sees half."""
    adam = Optimizer(lr=2e-4, betas=(0.5, 0.999), weight_decay=1e-5)
    return DCGANRecipe(
        resolution=64, channels=3, batch=128, kimg=4375, g=adam, d=adam, ema_half_life_kimg=0, batch_statistics=True
    )


def svhn() -> DCGANRecipe:
    """The released 32x32 variant: Gaussian z, 64 filters."""
    adam = Optimizer(lr=5e-4, betas=(0.5, 0.999))
    return DCGANRecipe(
        resolution=32, channels=3, width=64, prior="normal", batch=128, kimg=1000, g=adam, d=adam, ema_half_life_kimg=0
    )


def imagenet() -> DCGANRecipe:
    """The released 32x32 ImageNet variant whose features classify CIFAR-10: 3x3 kernels, two convolutions a level."""
    adam = Optimizer(lr=2e-4, betas=(0.5, 0.999))
    return DCGANRecipe(
        resolution=32, channels=3, latent=256, kernel=3, convs=2, batch=128, kimg=19000, g=adam, d=adam,
        ema_half_life_kimg=0, batch_statistics=True,
    )  # fmt: skip


def mnist() -> DCGANRecipe:
    """Conditional MNIST of the appendix: 100 epochs, then 100 of linear decay, of which d sees half; l2 2.5e-5."""
    adam = Optimizer(lr=2e-4, betas=(0.5, 0.999), weight_decay=2.5e-5)
    return DCGANRecipe(
        resolution=28, channels=1, width=64, conditional=True, batch=128, kimg=5000, hold_kimg=2500, decay_kimg=2500,
        g=adam, d=adam, ema_half_life_kimg=0, batch_statistics=True,
    )  # fmt: skip


def tiny() -> DCGANRecipe:
    """Minutes on two CPU cores: 32 filters, z of 64, bf16 in NHWC, averaged generator."""
    adam = Optimizer(lr=2e-4, betas=(0.5, 0.999))
    return DCGANRecipe(
        width=32, latent=64, batch=64, kimg=240, g=adam, d=adam, precision="bf16", channels_last=True, draws="noise"
    )


PRESETS = {"tiny": tiny, "paper": paper, "svhn": svhn, "imagenet": imagenet, "mnist-conditional": mnist}
