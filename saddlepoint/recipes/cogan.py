"""Settings and presets of CoGAN (Liu and Tuzel 2016, arXiv:1606.07536)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from saddlepoint.recipes.base import AdversarialRecipe, Optimizer

SUMMARY = "CoGAN (2016): two domains, one latent code; shared weights make pairs though none was ever seen"


@dataclass(frozen=True)
class CoGANRecipe(AdversarialRecipe):
    """Coupled GANs: domain a is what --data names, domain b what --second says. kimg and batch count each domain's."""

    second: str = "edges"
    """Domain b: negative or edges of the images that domain a does not see (every other one), or another set, folder or
    zip."""
    network: Literal["digits", "faces"] = "digits"
    """digits: the released networks for 28x28. faces: the strided ones for powers of two (128x128 in the paper)."""
    latent: int = 100
    """Dimensions of z."""
    prior: Literal["normal", "uniform"] = "normal"
    """z standard normal (the released PyTorch code) or uniform on [-1, 1] (the paper's Caffe code)."""
    width: int = 1024
    """Feature maps of the generator at 4x4; halved with every doubling of the resolution."""
    critic_widths: tuple[int, int, int] = (20, 50, 500)
    """digits: feature maps of the discriminator's two convolutions, and the size of its code."""
    critic_width: int = 32
    """faces: feature maps of the discriminator's first layer; its dense layer has 64 times as many units."""
    own_g: int = 1
    """The generators' last layers that each domain has for itself; all others are shared."""
    own_d: int = 1
    """The discriminators' first layers that each domain has for itself."""
    class_weight: float = 0.0
    """Weight of the cross entropy of a classifier on the discriminators' shared code, for domain a's labels: domain
    adaptation. 0 is no classifier."""
    feature_weight: float = 0.0
    """Weight of the mean squared difference of the two codes of a generated pair, summed over their entries."""

    data_module = "saddlepoint.data.domains"


def _adam() -> Optimizer:
    return Optimizer(lr=2e-4, betas=(0.5, 0.999), weight_decay=5e-4)


def mnist() -> CoGANRecipe:
    """28x28 digits and edges: 5,000 rounds of 64 images of each domain."""
    return CoGANRecipe(resolution=28, batch=64, kimg=320, g=_adam(), d=_adam(), ema_half_life_kimg=0)


def negative() -> CoGANRecipe:
    """28x28 digits and their negatives, otherwise as mnist."""
    return replace(mnist(), second="negative")


def adaptation() -> CoGANRecipe:
    """A classifier for domain b learnt from domain a's labels: 10,000 rounds. Name domain b's images with --second."""
    return replace(mnist(), kimg=640, second="digits", class_weight=10.0, feature_weight=0.01)


def faces_128() -> CoGANRecipe:
    """128x128 faces, the larger networks; the domains (blond or not, ...) come as --data and --second."""
    adam = Optimizer(lr=2e-4, betas=(0.5, 0.999), weight_decay=1e-4)
    return CoGANRecipe(
        resolution=128, channels=3, network="faces", prior="uniform", batch=128, kimg=3200, g=adam, d=adam,
        own_g=2, own_d=2, ema_half_life_kimg=0,
    )  # fmt: skip


def tiny() -> CoGANRecipe:
    """Minutes on one CPU core: the same at 28x28, 256 to 32 feature maps in the generator, averaged."""
    adam = Optimizer(lr=5e-4, betas=(0.5, 0.999), weight_decay=5e-4)
    return CoGANRecipe(
        resolution=28, width=256, latent=64, batch=32, kimg=60, g=adam, d=adam, ema_half_life_kimg=1.0,
        precision="bf16", channels_last=True,
    )  # fmt: skip


PRESETS = {
    "tiny": tiny,
    "paper": mnist,
    "mnist": mnist,
    "negative": negative,
    "adaptation": adaptation,
    "faces-128": faces_128,
}
