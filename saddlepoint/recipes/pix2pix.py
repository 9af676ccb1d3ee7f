"""Settings and presets of pix2pix (Isola et al. 2017, arXiv:1611.07004)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from saddlepoint.recipes.base import Optimizer
from saddlepoint.recipes.translation import TranslationRecipe, officially

SUMMARY = "pix2pix (2016): learnt from pairs, a conditional GAN beside an L1 distance: edges to photos, maps to views"


@dataclass(frozen=True)
class Pix2PixRecipe(TranslationRecipe):
    """Paired translation."""

    network: Literal["resnet", "unet"] = "unet"
    """Residual generator, or U-Net with skips."""
    norm: Literal["instance", "batch", "none"] = "batch"
    """Normalisation of both players."""
    dropout: bool = True
    """Dropout in the generator's inner layers, also when it translates: the map's only noise."""
    gan_mode: Literal["lsgan", "vanilla", "wgangp"] = "vanilla"
    """Squared error against 1 and 0, cross entropy, or Wasserstein."""
    l1: float = 100.0
    """Weight of the mean absolute distance to the true image."""
    conditional: bool = True
    """The discriminator sees the input beside the image; without, the image alone."""

    paired = True

    def optimizers(self) -> dict[str, Optimizer]:
        return {"discriminator": self.d, "generator": self.g}


def unet_256() -> Pix2PixRecipe:
    """256x256, the U-Net of 8 halvings: 54 million parameters, 200 epochs of 400 pairs (facades), batches of one."""
    return Pix2PixRecipe(resolution=256, load_size=286, **officially(0.4))  # type: ignore[arg-type]


def unet_128() -> Pix2PixRecipe:
    """128x128 with 7 halvings: 42 million parameters."""
    return Pix2PixRecipe(resolution=128, load_size=143, **officially(0.4))  # type: ignore[arg-type]


def _resnet(blocks: int, resolution: int, load_size: int) -> Pix2PixRecipe:
    sizes = {"resolution": resolution, "load_size": load_size}
    return Pix2PixRecipe(network="resnet", blocks=blocks, **sizes, **officially(0.4))  # type: ignore[arg-type]


def resnet_9() -> Pix2PixRecipe:
    """256x256 with CycleGAN's generator of 9 residual blocks in place of the U-Net."""
    return _resnet(9, 256, 286)


def resnet_6() -> Pix2PixRecipe:
    """128x128 with 6 residual blocks in place of the U-Net."""
    return _resnet(6, 128, 143)


def tiny() -> Pix2PixRecipe:
    """Minutes on one CPU core at 64x64: a U-Net of 6 halvings, 16 to 128 maps, patches of 34 pixels, batches of 4."""
    return Pix2PixRecipe(
        resolution=64, width=16, d_width=16, n_layers=2, norm="instance", batch=4, kimg=48, hold_kimg=32, decay_kimg=16,
        ema_half_life_kimg=0.5,
    )  # fmt: skip


PRESETS = {
    "tiny": tiny,
    "paper": unet_256,
    "unet-256": unet_256,
    "unet-128": unet_128,
    "resnet-9": resnet_9,
    "resnet-6": resnet_6,
}
