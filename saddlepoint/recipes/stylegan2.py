"""Settings and presets of StyleGAN2 (Karras et al. 2020, arXiv:1912.04958; with ADA: arXiv:2006.06676)."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Literal

import tyro

from saddlepoint.recipes.base import AdversarialRecipe, Augment, Optimizer, Penalty

SUMMARY = "StyleGAN2 (2020): styles modulate convolutions; residual discriminator, path length regularisation"

Activation = Literal["lrelu", "relu", "linear", "tanh", "sigmoid", "elu", "selu", "softplus", "swish"]


@dataclass(frozen=True)
class MappingSettings:
    """A mapping network: fully connected layers with a small learning rate."""

    layers: int = 8
    """Fully connected layers."""
    width: int = 0
    """Units of the hidden layers; 0 takes those of the output."""
    embedding: int = 0
    """Units of the label's embedding; 0 takes those of the output."""
    multiplier: float = 0.01
    """Learning rate of these layers relative to the rest."""
    activation: Activation = "lrelu"
    """Nonlinearity."""


@dataclass(frozen=True)
class ConvolutionSettings:
    """The convolutional part of a player."""

    architecture: Literal["skip", "resnet", "orig"] = "skip"
    """skip: images of all resolutions are summed (or read); resnet: residual blocks; orig: a plain stack."""
    channel_base: int = 32768
    """Feature maps at resolution r: channel_base / r."""
    channel_max: int = 512
    """... but never more than this."""
    clamp: float = 0.0
    """Clamp every convolution's output to this magnitude; 0 is off (256 officially, with half precision)."""
    taps: tuple[float, ...] = (1.0, 3.0, 3.0, 1.0)
    """The resampling filter, normalised to sum 1 when it is used."""
    activation: Activation = "lrelu"
    """Nonlinearity."""


@dataclass(frozen=True)
class StyleGAN2Recipe(AdversarialRecipe):
    """Style-based generator with modulated convolutions."""

    penalty: Penalty = field(default_factory=lambda: Penalty(r1=10.0))
    """Penalties on the discriminator. r1 is evaluated lazily, the others every round."""
    latent: int = 512
    """Dimensions of z, standard normal."""
    w: int = 512
    """Dimensions of w, the output of the mapping network."""
    conditional: bool = False
    """Class-conditional mapping and a projection discriminator. Needs labels."""
    g_map: Annotated[MappingSettings, tyro.conf.arg(name="g-map")] = field(default_factory=MappingSettings)
    """From z (and the label) to w."""
    g_net: Annotated[ConvolutionSettings, tyro.conf.arg(name="g-net")] = field(default_factory=ConvolutionSettings)
    """From w to the image."""
    d_net: Annotated[ConvolutionSettings, tyro.conf.arg(name="d-net")] = field(
        default_factory=lambda: ConvolutionSettings("resnet")
    )
    """From the image to features."""
    d_map: Annotated[MappingSettings, tyro.conf.arg(name="d-map")] = field(default_factory=MappingSettings)
    """From the label to the vector that features are compared with (conditional)."""
    projection: int = 0
    """Dimensions of that vector; 0 takes the discriminator's feature maps at its smallest resolution."""
    stddev_group: int = 4
    """Samples whose spread the discriminator sees together; 0 is the whole batch."""
    stddev_features: int = 1
    """Feature maps that tell it of the spread; 0 is none."""
    noise: bool = True
    """A noise image is added after each of the generator's convolutions."""
    base: tuple[int, int] = (4, 4)
    """Height and width of the first block; every further block doubles them, up to the resolution (the longer side)."""
    style_mixing: float = 0.9
    """Probability that a batch takes its later styles from second latents."""
    w_average_decay: float = 0.995
    """Decay, per move, of the running mean of w that truncation pulls towards."""
    r1_every: int = 16
    """The R1 penalty is evaluated every so many rounds, that much stronger; 0 is every round, within the loss."""
    path_every: int = 4
    """The same for path length regularisation."""
    path_length: float = 2.0
    """Weight of path length regularisation; 0 is off."""
    path_decay: float = 0.01
    """Share of a batch in the running mean of path lengths."""
    path_shrink: int = 2
    """Path lengths are measured on every so-manieth sample of the batch."""
    augment: Annotated[Augment, tyro.conf.arg(name="augment")] = field(default_factory=Augment)
    """Augmentation of what the discriminator sees, adaptive or fixed."""

    @property
    def shape(self) -> tuple[int, int]:
        """(height, width) of the images: the base, doubled until its longer side is the resolution."""
        height, width = self.base
        return self.resolution * height // max(self.base), self.resolution * width // max(self.base)

    def holding(self, height: int, width: int) -> int:
        """The smallest resolution of at least two blocks whose images hold height x width."""
        doublings = 1
        while self.base[0] << doublings < height or self.base[1] << doublings < width:
            doublings += 1
        return max(self.base) << doublings


def _adam(lr: float) -> Optimizer:
    return Optimizer(lr=lr, betas=(0.0, 0.99), eps=1e-8)


def _published(
    resolution: int, batch: int, gamma: float, lr: float, ema_kimg: float, *, channel_base: int = 32768,
    map_layers: int = 8, kimg: float = 25000, **settings: object,
) -> StyleGAN2Recipe:  # fmt: skip
    """What the official configurations have in common: RGB, 512 feature maps at most, no ramp of the average."""
    values: dict[str, object] = {
        "d_net": ConvolutionSettings("resnet", channel_base=channel_base), "ema_ramp": 0.0, **settings
    }  # fmt: skip
    return StyleGAN2Recipe(
        resolution=resolution, channels=3, batch=batch, kimg=kimg, penalty=Penalty(r1=gamma), g=_adam(lr), d=_adam(lr),
        ema_half_life_kimg=ema_kimg, g_map=MappingSettings(layers=map_layers),
        g_net=ConvolutionSettings("skip", channel_base=channel_base), **values,  # type: ignore[arg-type]
    )  # fmt: skip


def f_1024() -> StyleGAN2Recipe:
    """1024x1024, configuration F of the paper: 30 and 29 million parameters."""
    return _published(1024, 32, 10, 2e-3, 10)


def e_1024() -> StyleGAN2Recipe:
    """1024x1024, configuration E: half the feature maps from 64x64 on."""
    return _published(1024, 32, 10, 2e-3, 10, channel_base=16384)


def paper_256() -> StyleGAN2Recipe:
    """256x256, as in the paper on limited data: half the feature maps, groups of 8."""
    return _published(256, 64, 1, 2.5e-3, 20, channel_base=16384, stddev_group=8)


def paper_512() -> StyleGAN2Recipe:
    """512x512, as in the paper on limited data."""
    return _published(512, 64, 0.5, 2.5e-3, 20, stddev_group=8)


def paper_1024() -> StyleGAN2Recipe:
    """1024x1024, as in the paper on limited data: configuration F with a weaker penalty."""
    return _published(1024, 32, 2, 2e-3, 10)


def cifar(conditional: bool = False) -> StyleGAN2Recipe:
    """32x32, tuned for CIFAR-10: plain discriminator, groups of 32, no path lengths, no style mixing."""
    return _published(
        32, 64, 0.01, 2.5e-3, 500, map_layers=2, kimg=100000, stddev_group=32, path_length=0.0, style_mixing=0.0,
        ema_ramp=0.05, d_net=ConvolutionSettings("orig"), conditional=conditional,
    )  # fmt: skip


def cifar_labels() -> StyleGAN2Recipe:
    """The same, class-conditional."""
    return cifar(conditional=True)


def auto_256() -> StyleGAN2Recipe:
    """256x256 on one device by the official rule of thumb: gamma 0.0002 r^2 / batch, two mapping layers."""
    return _auto(256)


def auto_512() -> StyleGAN2Recipe:
    """512x512 on one device by the same rule."""
    return _auto(512)


def auto_1024() -> StyleGAN2Recipe:
    """1024x1024 on one device by the same rule."""
    return _auto(1024)


def _auto(resolution: int) -> StyleGAN2Recipe:
    """The rule for one device: batch min(4096 / r, 32), gamma 0.0002 r^2 / batch, half-life 10 kimg per 32 images."""
    batch = max(min(4096 // resolution, 32), 1)
    return _published(
        resolution, batch, 0.0002 * resolution**2 / batch, 2e-3 if resolution >= 1024 else 2.5e-3, batch * 10 / 32,
        channel_base=32768 if resolution >= 512 else 16384, map_layers=2, stddev_group=min(batch, 4), ema_ramp=0.05,
    )  # fmt: skip


def tiny() -> StyleGAN2Recipe:
    """Minutes on two CPU cores at 32x32: 16 to 64 feature maps, two mapping layers, small batches, long steps.

    An equalised layer moves by about lr sqrt(fan-in) a step, so layers a tenth as wide bear twice the learning rate.
    """
    return StyleGAN2Recipe(
        latent=64, w=64, batch=16, kimg=80, penalty=Penalty(r1=0.2), g=_adam(5e-3), d=_adam(5e-3),
        g_map=MappingSettings(layers=2), d_map=MappingSettings(layers=2),
        g_net=ConvolutionSettings("skip", channel_base=512, channel_max=64),
        d_net=ConvolutionSettings("resnet", channel_base=512, channel_max=64),
        style_mixing=0.5, path_every=8, ema_half_life_kimg=2.0, precision="bf16", channels_last=True,
    )  # fmt: skip


PRESETS = {
    "tiny": tiny,
    "paper": f_1024,
    "f-1024": f_1024,
    "e-1024": e_1024,
    "paper-256": paper_256,
    "paper-512": paper_512,
    "paper-1024": paper_1024,
    "cifar": cifar,
    "cifar-labels": cifar_labels,
    "auto-256": auto_256,
    "auto-512": auto_512,
    "auto-1024": auto_1024,
}
