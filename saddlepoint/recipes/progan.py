"""Settings and presets of ProGAN (Karras, Aila, Laine and Lehtinen 2018, arXiv:1710.10196)."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Annotated, Literal

import tyro

from saddlepoint.recipes.base import Optimizer, Penalty
from saddlepoint.recipes.growing import GrowingRecipe, moves

SUMMARY = "ProGAN (2018): networks that grow from 4x4 to the full resolution, each new one faded in"


@dataclass(frozen=True)
class ProGANRecipe(GrowingRecipe):
    """Progressive growing of GANs."""

    objective: Literal["nonsaturating", "minimax", "least-squares", "hinge", "wasserstein", "relativistic"] = (
        "wasserstein"
    )
    """What the two players play for."""
    penalty: Penalty = field(default_factory=lambda: Penalty(gradient_penalty=10.0, drift=0.001))
    """Penalties on the discriminator."""
    slope: float = 1.0
    """The gradient norm that the gradient penalty asks for; its weight is divided by the square of it."""
    latent: int = 512
    """Dimensions of z, standard normal."""
    normalise_latents: bool = True
    """Divide z (with the class, where there is one) by its root mean square."""
    pixel_norm: bool = True
    """Divide every pixel of the generator's maps by its root mean square over the channels."""
    pixel_norm_eps: float = 1e-8
    """Added to that mean square."""
    leak: float = 0.2
    """Slope of the leaky ReLU below zero; 0 is a plain ReLU."""
    equalised: bool = True
    """Equalised learning rates; without, the scale of a layer is in its first weights."""
    fused: bool = True
    """The discriminator halves inside its convolutions, before the leaky ReLU; without, after it (as in the paper)."""
    stddev_group: int = 4
    """Samples of a group for the minibatch deviation; 1 is off."""
    conditional: bool = False
    """Class-conditional generator, and a classifier beside the score (AC-GAN). Needs labels."""
    class_weight: float = 1.0
    """Weight of the classifier's cross entropy, on reals and fakes (conditional)."""
    port: Annotated[Literal["official", "zoo"], tyro.conf.Suppress] = "official"
    """zoo: the networks of facebookresearch/pytorch_GAN_zoo, for its published weights."""
    depths: Annotated[tuple[int, ...], tyro.conf.Suppress] = (0,)
    """Channels at 4, 8, ... pixels one by one; 0 takes fmap_base and fmap_max."""
    g: Annotated[Optimizer, tyro.conf.arg(name="g")] = field(default_factory=moves)
    """The generator's moves."""
    d: Annotated[Optimizer, tyro.conf.arg(name="d")] = field(default_factory=moves)
    """The discriminator's moves."""

    def widths(self) -> list[int]:
        return list(self.depths) if self.depths[0] else super().widths()


HALF_LIFE = 0.6931471805599453 / 0.0010005003335835335  # steps: 0.999^k = 1/2


def tiny() -> ProGANRecipe:
    """Minutes on two CPU cores: narrow networks, four resolutions up to 32 pixels."""
    return ProGANRecipe(
        fmap_base=384, fmap_max=64, latent=64, kimg=88, stable_kimg=12, fade_kimg=12, batch=16,
        batches=(32, 32, 16, 16), g=moves(2e-3), d=moves(2e-3), ema_half_life_kimg=1, precision="bf16",
        channels_last=True,
    )  # fmt: skip


def paper() -> ProGANRecipe:
    """1024 pixels as in the paper: batches of 16 down to 3, 800 + 800 kimg a resolution, learning rate 0.001."""
    return ProGANRecipe(
        resolution=1024, channels=3, mirror=True, batch=16, batches=(16, 16, 16, 16, 16, 16, 14, 6, 3), kimg=19000,
        stable_kimg=800, fade_kimg=800, ema_half_life_kimg=0.016 * HALF_LIFE, ema_ramp=0, fused=False,
    )  # fmt: skip


def tf_1gpu() -> ProGANRecipe:
    """The official TensorFlow code on one GPU: 600 + 600 kimg a resolution, batches of 128 down to 4."""
    return replace(
        paper(), batches=(128, 128, 128, 64, 32, 16, 8, 4, 4), lr_factors=(1.0,) * 8 + (1.5,), kimg=12000,
        stable_kimg=600, fade_kimg=600, fused=True, batch=4, ema_half_life_kimg=0.004 * HALF_LIFE,
    )  # fmt: skip


def tf_8gpu() -> ProGANRecipe:
    """The official TensorFlow code on eight GPUs: batches of 512 down to 32, learning rates up to 0.003."""
    return replace(
        tf_1gpu(), batches=(512, 256, 128, 64, 32), lr_factors=(1.0,) * 5 + (1.5, 2.0, 3.0, 3.0), batch=32,
        ema_half_life_kimg=0.032 * HALF_LIFE,
    )  # fmt: skip


def cifar() -> ProGANRecipe:
    """CIFAR-10: 32 pixels, and a gradient norm of 750 instead of 1; the length is ours."""
    return replace(paper(), resolution=32, mirror=False, slope=750.0, batches=(0,), kimg=12000)


PRESETS = {
    "tiny": tiny,
    "paper": paper,
    "1024": paper,
    "tf-1gpu": tf_1gpu,
    "tf-8gpu": tf_8gpu,
    "cifar": cifar,
}
