"""Settings and presets of WGAN-GP (Gulrajani et al. 2017, arXiv:1704.00028)."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Literal

from saddlepoint.recipes.base import AdversarialRecipe, Optimizer, Penalty

SUMMARY = "WGAN-GP (2017): a critic whose gradient norm is held at one; convolutional and residual networks"


@dataclass(frozen=True)
class WGANGPRecipe(AdversarialRecipe):
    """Wasserstein GAN with gradient penalty."""

    objective: Literal["nonsaturating", "minimax", "least-squares", "hinge", "wasserstein", "relativistic"] = (
        "wasserstein"
    )
    """What the two players play for."""
    penalty: Penalty = field(default_factory=lambda: Penalty(gradient_penalty=10.0))
    """Penalties on the critic."""
    network: Literal["conv", "resnet", "good", "resnet-101"] = "conv"
    """conv: like DCGAN. resnet: the CIFAR residual networks. good, resnet-101: those of the 64x64 experiments."""
    latent: int = 128
    """Dimensions of z, standard normal."""
    width: int = 64
    """Channels next to the image (conv, good), everywhere (resnet), or twice those next to the image (resnet-101)."""
    critic_width: int = 64
    """The same for the critic."""
    norm: Literal["batch", "none"] = "batch"
    """Normalisation in the generator."""
    critic_norm: Literal["none", "layer"] = "none"
    """Normalisation in the critic of good and resnet-101: never one that ties samples together."""
    unit_range: bool = False
    """The players see images in [0, 1], with a sigmoid output, instead of [-1, 1] with tanh (conv)."""
    conditional: bool = False
    """Class-conditional batch norm in the generator and a classifier beside the critic (resnet). Needs labels."""
    class_weight: float = 1.0
    """Weight of the classifier's cross entropy on reals in the critic's loss (conditional)."""
    class_weight_g: float = 0.1
    """Weight of its cross entropy on fakes in the generator's loss (conditional)."""
    dequantise: bool = False
    """Spread every pixel value evenly over its step of 1/128 (resnet's data)."""
    g_batches: int = 1
    """The generator moves on this many times the critic's batch."""
    head_start: int = 0
    """Rounds at the beginning in which only the critic moves."""
    hold_kimg: float = 0.0
    """How long the learning rates stay before they decay."""
    decay_kimg: float = 0.0
    """How long they then take to reach 0, linearly; 0 is no decay."""

    def optimizers(self) -> dict[str, Optimizer]:
        return {"critic": self.d, "generator": self.g}


def _adam(lr: float, beta1: float, steps: int = 1) -> Optimizer:
    return Optimizer(lr=lr, betas=(beta1, 0.9), steps=steps)


def _published(batch: int, kimg: float, lr: float, beta1: float, **settings: object) -> WGANGPRecipe:
    """Five critic steps a round, no average of the generator, the critic first."""
    g, d = _adam(lr, beta1), _adam(lr, beta1, steps=5)
    return WGANGPRecipe(
        batch=batch, kimg=kimg, g=g, d=d, ema_half_life_kimg=0, head_start=1, **settings  # type: ignore[arg-type]
    )  # fmt: skip


def mnist() -> WGANGPRecipe:
    """28x28: 200,000 generator steps of five critic steps on 50 images; no batch norm."""
    return _published(50, 50000, 1e-4, 0.5, resolution=28, channels=1, norm="none", unit_range=True)


def cifar_dcgan() -> WGANGPRecipe:
    """CIFAR-10 with DCGAN-like networks of width 128: 200,000 generator steps."""
    return _published(64, 64000, 1e-4, 0.5, resolution=32, channels=3, width=128, critic_width=128)


def cifar_resnet(conditional: bool = False) -> WGANGPRecipe:
    """CIFAR-10, residual: Adam 2e-4 with betas (0, 0.9), decaying to 0 over 100,000 generator steps."""
    return _published(
        64, 32000, 2e-4, 0.0, resolution=32, channels=3, network="resnet", width=128, critic_width=128,
        dequantise=True, g_batches=2, decay_kimg=32000, conditional=conditional,
    )  # fmt: skip


def cifar_resnet_labels() -> WGANGPRecipe:
    """The same with labels: the paper's best Inception score."""
    return cifar_resnet(conditional=True)


def good_64() -> WGANGPRecipe:
    """64x64, the residual networks that the code recommends: layer norm in the critic, 200,000 generator steps."""
    return _published(64, 64000, 1e-4, 0.0, resolution=64, channels=3, network="good", critic_norm="layer")


def resnet_101() -> WGANGPRecipe:
    """64x64, 101 layers in either player (figure 2, last column)."""
    return _published(64, 64000, 1e-4, 0.0, resolution=64, channels=3, network="resnet-101", critic_norm="layer")


def tiny() -> WGANGPRecipe:
    """Minutes on two CPU cores: narrow DCGAN-like networks."""
    return WGANGPRecipe(
        latent=64, width=32, critic_width=32, kimg=250, g=_adam(1e-3, 0.5), d=_adam(1e-3, 0.5, steps=2),
        precision="bf16", channels_last=True,
    )  # fmt: skip


def demo() -> WGANGPRecipe:
    """Two minutes on the embedded digits: 16x16, averaged longer, looked at more often."""
    return replace(
        tiny(), resolution=16, kimg=250, ema_half_life_kimg=2, samples_kimg=25, checkpoint_kimg=50
    )  # fmt: skip


PRESETS = {
    "tiny": tiny,
    "demo": demo,
    "paper": cifar_resnet,
    "cifar-resnet": cifar_resnet,
    "cifar-resnet-labels": cifar_resnet_labels,
    "mnist": mnist,
    "cifar-dcgan": cifar_dcgan,
    "good-64": good_64,
    "resnet-101": resnet_101,
}
