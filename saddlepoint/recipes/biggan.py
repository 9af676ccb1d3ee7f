"""Settings and presets of BigGAN and BigGAN-deep (Brock, Donahue and Simonyan 2018, arXiv:1809.11096)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated, Literal

import tyro

from saddlepoint.recipes.base import AdversarialRecipe, Optimizer

SUMMARY = "BigGAN (2018): classes, attention, spectral norm, large batches; and latents truncated for fidelity"


@dataclass(frozen=True)
class BigGANRecipe(AdversarialRecipe):
    """Class-conditional residual networks with self-attention; every ingredient has a switch."""

    objective: Literal["nonsaturating", "minimax", "least-squares", "hinge", "wasserstein", "relativistic"] = "hinge"
    """What the two players play for."""
    network: Literal["biggan", "deep"] = "biggan"
    """biggan: one wide block per resolution. deep: `depth` bottleneck blocks, all of z beside the class in each."""
    width: int = 96
    """Unit of the generator's feature maps: 16 units at 4x4, 1 next to the image (4 throughout up to 32x32)."""
    d_width: int = 0
    """Unit of the discriminator's; 0 is the generator's."""
    width_max: int = 0
    """Above 0: maps are one unit next to the image and double with every halving up to this, in both networks."""
    depth: int = 2
    """Blocks per resolution (deep)."""
    d_depth: int = 0
    """... of the discriminator; 0 is the generator's."""
    layout: tuple[str, ...] = ()
    """The generator's blocks one by one instead, in units: "16:16", "16:8:up", or "attention"."""
    base: int = 4
    """Side of the first maps; every resolution doubles it."""
    latent: int = 120
    """Dimensions of z (rounded down to equal chunks, one for the first layer and one a block: biggan, hierarchical)."""
    hierarchical: bool = True
    """z in every block's norms, not only in the first layer: a chunk each (biggan), all of it (deep)."""
    conditional: bool = True
    """Class-conditional where the data have classes; data without are one class."""
    class_norm: bool = True
    """The class sets gain and offset of the generator's norms; without, it goes beside z into the first layer."""
    shared: bool = True
    """One vector per class for all norms; without, a table of gains and offsets in each."""
    embedding: int = 128
    """Dimensions of that vector."""
    projection: bool = True
    """The discriminator compares features with the class' vector; without, planes of it enter its second block."""
    labels: Literal["uniform", "data"] = "uniform"
    """Classes of the fakes: all alike often, or those of the batch of reals."""
    attention: tuple[int, ...] = (64,)
    """Sides of the generator's maps that attend to themselves; none where there is no such side."""
    d_attention: tuple[int, ...] = (64,)
    """... of the discriminator's, after a block halved them."""
    official_sides: bool = False
    """Up to 32x32, let the discriminator's maps all count as 16x16, as in the official table: four attention layers."""
    spectral_g: bool = True
    """Spectral norm on the generator's weights (never on the shared vectors)."""
    spectral_d: bool = True
    """Spectral norm on the discriminator's, its class vectors included."""
    singular_values: int = 1
    """How many of each weight's are followed; the largest one divides."""
    d_singular_values: int = 0
    """... of the discriminator's; 0 is as many."""
    power_iterations: int = 1
    """Steps of the power iteration per forward pass."""
    d_power_iterations: int = 0
    """... of the discriminator's; 0 is as many."""
    spectral_eps: float = 1e-12
    """Least length that its vectors are divided by."""
    norm: Literal["batch", "instance", "none"] = "batch"
    """What the generator's blocks are normalised by."""
    output_norm: bool = True
    """Batch norm before the image."""
    norm_eps: float = 1e-4
    """Added to the variance in the blocks."""
    output_eps: float = 1e-4
    """... before the image."""
    biased_norm: bool = False
    """Running variances without the factor n / (n - 1), as in the official code's own batch norm."""
    standing: int = 16
    """Batches of 64 whose mean statistics the norms use for truncated samples; 0 takes the running ones."""
    initial: Literal["orthogonal", "normal", "glorot"] = "orthogonal"
    """Initial weights: orthogonal rows or columns, N(0, 0.02), or Glorot's uniform."""
    orthogonal: float = 1e-4
    """beta of |W W^T off its diagonal|^2, summed over the generator's weights (not the shared vectors)."""
    orthogonal_d: float = 0.0
    """... over the discriminator's."""
    wide: bool = True
    """The discriminator's blocks have as many maps inside as they put out; without, as many as they take in."""
    truncate: Literal["threshold", "scale"] = "threshold"
    """Truncated latents are normal within +-2 times the truncation: cut off there, or cut off at 2 and scaled."""
    ema_start_kimg: float = 0.0
    """Until then the running average is the generator itself."""
    stored_vectors: Annotated[bool, tyro.conf.Suppress] = False
    """Spectral norm in evaluation from stored vectors, as in the published deep generators."""
    truncation_tables: Annotated[int, tyro.conf.Suppress] = 0
    """Running statistics for so many truncations, as in the published deep generators."""
    swapped_tables: Annotated[bool, tyro.conf.Suppress] = False
    """Interpolate between those with the two weights exchanged, as the code that published them does."""
    wide_output: Annotated[bool, tyro.conf.Suppress] = False
    """The last convolution has `width` maps, of which the image takes the first."""


def half_life_kimg(decay: float, images: int) -> float:
    """The half-life, in kimg, of an average that keeps `decay` of itself in every round of `images` images."""
    return images * math.log(0.5) / math.log(decay) / 1000


def _published(
    resolution: int, latent: int, lr: tuple[float, float] = (5e-5, 2e-4), **settings: object
) -> BigGANRecipe:
    """ImageNet at batch 2048: two discriminator steps a round, 150,000 rounds, an average of 0.9999 from 20,000 on."""
    g, d = (Optimizer(lr=rate, betas=(0.0, 0.999), eps=1e-8, steps=n) for rate, n in zip(lr, (1, 2), strict=True))
    return BigGANRecipe(
        resolution=resolution, channels=3, latent=latent, batch=2048, kimg=614400, g=g, d=d, spectral_eps=1e-6,
        ema_half_life_kimg=half_life_kimg(0.9999, 4096), ema_ramp=0.0, ema_start_kimg=81920,
        **settings,  # type: ignore[arg-type]
    )  # fmt: skip


def imagenet_128() -> BigGANRecipe:
    """128x128, 1000 classes: 70.4 and 88.0 million parameters, z of 6 x 20."""
    return _published(128, 120)


def imagenet_256() -> BigGANRecipe:
    """256x256, 1000 classes: z of 7 x 20."""
    return _published(256, 140)


def imagenet_512() -> BigGANRecipe:
    """512x512, 1000 classes: z of 8 x 16."""
    return _published(512, 128)


def deep_128() -> BigGANRecipe:
    """BigGAN-deep, 128x128: 50.2 and 34.6 million parameters, two bottleneck blocks a resolution."""
    return _published(128, 128, network="deep", width=128)


def deep_256() -> BigGANRecipe:
    """BigGAN-deep, 256x256; learning rate 2.5e-5 for both."""
    return _published(256, 128, (2.5e-5, 2.5e-5), network="deep", width=128)


def cifar() -> BigGANRecipe:
    """CIFAR-10, 32x32, as the official code's script: 256 maps throughout, no sharing, no attention, four D steps."""
    g, d = (Optimizer(lr=2e-4, betas=(0.0, 0.999), eps=1e-8, steps=steps) for steps in (1, 4))
    return BigGANRecipe(
        resolution=32, channels=3, width=64, latent=128, hierarchical=False, shared=False, attention=(), d_attention=(),
        batch=50, kimg=100000, g=g, d=d, norm_eps=1e-5, output_eps=1e-5, spectral_eps=1e-8, orthogonal=0.0,
        initial="normal", ema_half_life_kimg=half_life_kimg(0.9999, 200), ema_ramp=0.0, ema_start_kimg=200,
    )  # fmt: skip


def tiny() -> BigGANRecipe:
    """Minutes on two CPU cores at 32x32: 128 to 32 maps, attention at 16x16, every ingredient on."""
    g, d = (Optimizer(lr=lr, betas=(0.0, 0.999), eps=1e-6, steps=n) for lr, n in ((5e-4, 1), (1e-3, 2)))
    return BigGANRecipe(
        width=32, width_max=128, latent=80, embedding=32, attention=(16,), d_attention=(16,), batch=32,
        kimg=80, g=g, d=d, spectral_eps=1e-6, ema_half_life_kimg=2.0, precision="bf16", channels_last=True,
    )  # fmt: skip


PRESETS = {
    "tiny": tiny,
    "paper": imagenet_128,
    "128": imagenet_128,
    "256": imagenet_256,
    "512": imagenet_512,
    "deep-128": deep_128,
    "deep-256": deep_256,
    "cifar": cifar,
}
