"""Settings and presets of the first GAN (Goodfellow et al. 2014, arXiv:1406.2661)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from saddlepoint.recipes.base import AdversarialRecipe, Optimizer

SUMMARY = "GAN (2014): the original; dense networks with maxout and dropout, and the game analysis"


@dataclass(frozen=True)
class GANRecipe(AdversarialRecipe):
    """The generative adversarial nets of 2014."""

    network: Literal["dense", "conv"] = "dense"
    """dense: fully connected players. conv: a transposed convolution ends the generator, maxout convolutions judge."""
    latent: int = 100
    """Dimensions of z."""
    prior: Literal["uniform", "normal"] = "uniform"
    """z uniform on [-sqrt 3, sqrt 3], which has unit variance, or standard normal."""
    hidden: tuple[int, int] = (1200, 1200)
    """Units of the generator's two hidden layers (conv: the second is folded into maps)."""
    second: Literal["relu", "sigmoid"] = "relu"
    """Nonlinearity of the generator's second hidden layer; the first is always relu."""
    units: tuple[int, int] = (240, 240)
    """Maxout units of the discriminator's two hidden layers (conv: the second number, after the convolutions)."""
    pieces: int = 5
    """Affine pieces of a dense maxout unit; one piece is a linear unit."""
    pixels: Literal["unit", "contrast"] = "unit"
    """What both players see: images in [0, 1] and a sigmoid output, or contrast-normalised ones and a linear output."""
    marginals: bool = True
    """Start the output's bias at the logit of each pixel's mean over the data (pixels=unit)."""
    keep_input: float = 0.8
    """Share of the discriminator's inputs that dropout keeps; 1 is no dropout."""
    keep_hidden: float = 0.5
    """Share of its hidden units that dropout keeps; 1 is no dropout."""
    g_irange: float = 0.05
    """The generator's weights start uniform on plus or minus this."""
    g_irange_out: float = 0.05
    """The same for its output layer."""
    g_sparse_out: int = 0
    """Start each output unit with this many normal weights and the rest at zero instead; 0 is off."""
    g_bias: float = 0.0
    """First bias of the second hidden layer."""
    d_irange: float = 0.005
    """The discriminator's weights start uniform on plus or minus this."""
    max_norm: float = 0.0
    """Largest Euclidean norm of a unit's incoming weights, in both players; 0 is no limit."""
    lr_factor: float = 1.0
    """Learning rates are divided by this for every batch of real images ..."""
    lr_least: float = 1e-6
    """... until they are this."""
    momentum_end: float = 0.0
    """Where a momentum that changes ends (sgd, rmsprop)."""
    momentum_kimg: float = 0.0
    """How long momentum takes from the optimizer's value to momentum_end; 0 keeps the optimizer's."""

    min_resolution = 2


def _published(lr: float, batch: int, kimg: float, epoch_kimg: float, **settings: object) -> GANRecipe:
    """Momentum 0.5 to 0.7 over 250 epochs, learning rate divided by 1.000004 per update."""
    sgd = Optimizer(kind="sgd", lr=lr, momentum=0.5)
    schedule = {"lr_factor": 1.000004, "momentum_end": 0.7, "momentum_kimg": 250 * epoch_kimg}
    return GANRecipe(batch=batch, kimg=kimg, g=sgd, d=sgd, ema_half_life_kimg=0, **schedule, **settings)  # type: ignore[arg-type]


def mnist() -> GANRecipe:
    """MNIST as released; the code never stops by itself, 250 epochs are where the momentum's ramp ends."""
    return _published(0.1, 100, 12500, 50, resolution=28, channels=1)


def tfd() -> GANRecipe:
    """Toronto faces, 48x48, first stage: 50 epochs of 98,058 unlabelled images."""
    return _published(
        0.05, 100, 4903, 98.058, resolution=48, channels=1, prior="normal", hidden=(8000, 8000), second="sigmoid",
        units=(1200, 1200), g_bias=-2.0, g_sparse_out=100, max_norm=1.9365,
    )  # fmt: skip


def cifar() -> GANRecipe:
    """CIFAR-10, fully connected."""
    return _published(
        0.025, 100, 10000, 40, resolution=32, channels=3, prior="normal", hidden=(8000, 8000), second="sigmoid",
        units=(1600, 1600), pixels="contrast", marginals=False, g_irange_out=0.5,
    )  # fmt: skip


def cifar_conv() -> GANRecipe:
    """CIFAR-10, convolutional discriminator and "deconvolutional" generator."""
    return _published(
        0.004, 128, 10000, 40, resolution=32, channels=3, prior="normal", network="conv", hidden=(8000, 8000),
        second="sigmoid", units=(0, 500), pixels="contrast", marginals=False,
    )  # fmt: skip


def tiny() -> GANRecipe:
    """Minutes on two CPU cores: narrow layers, Adam, averaged generator."""
    adam = Optimizer(lr=1e-3, betas=(0.5, 0.999))
    return GANRecipe(
        latent=64, hidden=(256, 256), units=(128, 128), pieces=3, batch=100, kimg=1000, g=adam, d=adam,
        ema_half_life_kimg=5,
    )  # fmt: skip


PRESETS = {"tiny": tiny, "paper": mnist, "mnist": mnist, "tfd": tfd, "cifar": cifar, "cifar-conv": cifar_conv}
