"""Settings that the systems from images to images share: data of two domains, networks, schedule."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Literal

import tyro

from saddlepoint.recipes.base import ImageRecipe, Optimizer

ADAM = Optimizer(lr=2e-4, betas=(0.5, 0.999))


@dataclass(frozen=True)
class TranslationRecipe(ImageRecipe):
    """From domain a to domain b (and back): see `saddlepoint.data.paired` for what the data may be."""

    data: Annotated[str, tyro.conf.Suppress] = "glyphs"
    """What to train on: a set's name, a folder or a zip with two domains."""
    batch: int = 1
    """Images of each domain per move."""
    mirror: bool = True
    """Show each image mirrored half of the time, a pair together."""
    ema_half_life_kimg: float = 0.0
    """Half-life of the running average of the generators that samples are drawn from; 0 is off, as published."""
    input_channels: int = 0
    """Channels of domain a; 0 takes the data's. (--channels is domain b's.)"""
    load_size: int = 0
    """Bring images to this side first and cut the resolution out at random, a pair at the same place; 0: no cutting."""
    direction: Literal["a-to-b", "b-to-a"] = "a-to-b"
    """b-to-a exchanges the domains."""
    network: Literal["resnet", "unet"] = "resnet"
    """Residual generator, or U-Net with skips."""
    blocks: int = 9
    """Residual blocks (resnet)."""
    downs: int = 0
    """Halvings of the U-Net, at least 5; 0 takes log2 of the resolution, at most 8 (unet)."""
    width: int = 64
    """Feature maps next to the image (ngf)."""
    norm: Literal["instance", "batch", "none"] = "instance"
    """Normalisation of both players."""
    test_norm: Literal["image", "running"] = "image"
    """What batch norm normalises by when it translates: each image's own statistics, as published, or running ones."""
    dropout: bool = False
    """Dropout in the generator's inner layers, also when it translates: the map's only noise."""
    padding: Literal["reflect", "replicate", "zero"] = "reflect"
    """Padding in the residual blocks (resnet)."""
    d_network: Literal["patch", "pixel"] = "patch"
    """What judges: patches of n_layers, or single pixels."""
    d_width: int = 64
    """The discriminator's feature maps next to the image (ndf)."""
    n_layers: int = 3
    """Convolutions of stride 2 in the discriminator: patches of 16, 34, 70, 142 pixels with 1, 2, 3, 4 (patch)."""
    gan_mode: Literal["lsgan", "vanilla", "wgangp"] = "lsgan"
    """Squared error against 1 and 0, cross entropy, or Wasserstein."""
    gradient_penalty: float = 0.0
    """lambda of E(|grad D| - 1)^2 between reals and fakes; the published models have none, wgangp wants 10."""
    init: Literal["normal", "xavier", "kaiming", "orthogonal"] = "normal"
    """First weights."""
    init_gain: float = 0.02
    """Their standard deviation (normal) or gain (xavier, orthogonal)."""
    g: Annotated[Optimizer, tyro.conf.arg(name="g")] = field(default_factory=lambda: ADAM)
    """The generators' moves."""
    d: Annotated[Optimizer, tyro.conf.arg(name="d")] = field(default_factory=lambda: ADAM)
    """The discriminators' moves."""
    lr_policy: Literal["linear", "step", "cosine", "constant"] = "linear"
    """How the learning rates fall: linear after hold_kimg, to a tenth every decay_kimg (step), or over hold_kimg
    (cosine)."""
    hold_kimg: float = 0.0
    """How long the rates stay (linear), or half a period (cosine)."""
    decay_kimg: float = 0.0
    """How long they then take to 0 (linear; 0 is no decay), or the length of a step (step)."""
    epoch_kimg: float = 0.0
    """The rates change once in so many kimg, as in published code; 0 lets them glide."""

    data_module = "saddlepoint.data.paired"
    paired = False  # class attribute: whether the two images of an example belong together
    min_resolution = 32
    domains = ("a", "b")  # class attribute: the columns of the data that the system reads

    @property
    def halvings(self) -> int:
        """Downsamplings of the U-Net."""
        return self.downs or max(5, min(8, self.resolution.bit_length() - 1))


def officially(kimg_per_epoch: float, epochs: int = 100, decay: int = 100) -> dict[str, float]:
    """Length and schedule of `epochs` epochs at full rate and `decay` on the way to 0."""
    return {
        "kimg": (epochs + decay) * kimg_per_epoch,
        "hold_kimg": epochs * kimg_per_epoch,
        "decay_kimg": decay * kimg_per_epoch,
        "epoch_kimg": kimg_per_epoch,
    }
