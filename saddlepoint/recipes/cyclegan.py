"""Settings and presets of CycleGAN (Zhu et al. 2017, arXiv:1703.10593)."""

from __future__ import annotations

from dataclasses import dataclass

from saddlepoint.recipes.base import Optimizer
from saddlepoint.recipes.translation import TranslationRecipe, officially

SUMMARY = "CycleGAN (2017): between two collections without pairs, held together by going there and back"
HORSES = 1.334  # kimg in an epoch of horse2zebra: as many as the larger collection has


@dataclass(frozen=True)
class CycleGANRecipe(TranslationRecipe):
    """Unpaired translation."""

    lambda_a: float = 10.0
    """Weight of |F(G(x)) - x|, the cycle that begins in domain a."""
    lambda_b: float = 10.0
    """Weight of |G(F(y)) - y|, the cycle that begins in domain b."""
    identity: float = 0.5
    """Weight of |G(y) - y| and |F(x) - x| relative to the cycles'; the domains must have equal channels. 0 is off."""
    pool: int = 50
    """Past fakes that the discriminators may be shown instead of the newest; 0 is none."""

    def optimizers(self) -> dict[str, Optimizer]:
        return {"generators": self.g, "discriminators": self.d}


def resnet_9() -> CycleGANRecipe:
    """256x256, 9 residual blocks: 11 million parameters each way, 200 epochs of horse2zebra, batches of one."""
    return CycleGANRecipe(resolution=256, load_size=286, **officially(HORSES))  # type: ignore[arg-type]


def resnet_6() -> CycleGANRecipe:
    """128x128, 6 residual blocks: 8 million parameters each way."""
    return CycleGANRecipe(resolution=128, load_size=143, blocks=6, **officially(HORSES))  # type: ignore[arg-type]


def unet_256() -> CycleGANRecipe:
    """256x256 with pix2pix's U-Net of 8 halvings."""
    return CycleGANRecipe(
        resolution=256, load_size=286, network="unet", **officially(HORSES)  # type: ignore[arg-type]
    )  # fmt: skip


def unet_128() -> CycleGANRecipe:
    """128x128 with the U-Net of 7 halvings."""
    return CycleGANRecipe(
        resolution=128, load_size=143, network="unet", **officially(HORSES)  # type: ignore[arg-type]
    )  # fmt: skip


def tiny() -> CycleGANRecipe:
    """A quarter of an hour on one CPU core at 64x64: 3 residual blocks, 16 to 64 maps, patches of 34 pixels."""
    return CycleGANRecipe(
        resolution=64, width=16, blocks=3, d_width=16, n_layers=2, batch=4, kimg=10, hold_kimg=6, decay_kimg=4,
        ema_half_life_kimg=0.2, precision="bf16", channels_last=True,
    )  # fmt: skip


PRESETS = {
    "tiny": tiny,
    "paper": resnet_9,
    "resnet-9": resnet_9,
    "resnet-6": resnet_6,
    "unet-256": unet_256,
    "unet-128": unet_128,
}
