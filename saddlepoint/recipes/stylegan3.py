"""Settings and presets of StyleGAN3 (Karras et al. 2021, arXiv:2106.12423)."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated

import tyro

from saddlepoint.recipes.base import Optimizer, Penalty
from saddlepoint.recipes.stylegan2 import ConvolutionSettings, MappingSettings, StyleGAN2Recipe

SUMMARY = "StyleGAN3 (2021): alias-free generator, equivariant to translation (t) and rotation (r)"


@dataclass(frozen=True)
class StyleGAN3Recipe(StyleGAN2Recipe):
    """Alias-free generator against StyleGAN2's discriminator."""

    g_map: Annotated[MappingSettings, tyro.conf.arg(name="g-map")] = field(
        default_factory=lambda: MappingSettings(layers=2)
    )
    """From z (and the label) to w."""
    g_net: Annotated[ConvolutionSettings, tyro.conf.arg(name="g-net")] = field(
        default_factory=lambda: ConvolutionSettings(clamp=256.0)
    )
    """From w to the image: feature maps of a layer with cutoff f, channel_base / (2 f); other entries do not apply."""
    d_net: Annotated[ConvolutionSettings, tyro.conf.arg(name="d-net")] = field(
        default_factory=lambda: ConvolutionSettings("resnet", clamp=256.0)
    )
    """From the image to features."""
    layers: int = 14
    """Layers of the generator before the one that makes the image."""
    critical: int = 2
    """The last so many of them sample at twice their cutoff, for sharp details; all others above that."""
    margin: int = 10
    """Samples beyond each border that every layer computes, so that the border is nowhere seen."""
    first_cutoff: float = 2.0
    """Cutoff of the first layer, in cycles per image."""
    first_stopband: float = 2.0**2.1
    """Frequency from which the first layer lets nothing pass, in cycles per image."""
    last_stopband: float = 2.0**0.3
    """The same for the last layer, in units of its cutoff, which is half the resolution."""
    kernel: int = 3
    """Side of the convolution kernels; 1 for equivariance to rotation."""
    radial: bool = False
    """Downsampling filters that look the same in all directions, for equivariance to rotation."""
    filter_taps: int = 6
    """Taps of the resampling filters per factor of resampling."""
    oversampling: int = 2
    """The nonlinearity is evaluated at so many times a layer's sampling rate."""
    output_scale: float = 0.25
    """What the image is multiplied by."""
    magnitude_decay: float = 0.0
    """Decay, per move of the discriminator, of the mean square of each layer's input; 0 is a half-life of 20 kimg."""
    blur_sigma: float = 0.0
    """At first the discriminator sees images blurred so much, in pixels; 0 is off."""
    blur_fade_kimg: float = 200.0
    """How long that takes to fade to nothing."""
    w_average_decay: float = 0.998
    """Decay, per move of the discriminator, of the running mean of w that truncation pulls towards."""
    style_mixing: float = 0.0
    """Probability that a batch takes its later styles from second latents."""
    path_length: float = 0.0
    """Weight of path length regularisation; 0 is off."""
    path_every: int = 0
    """Path lengths are regularised every so many rounds; 0 is every round, within the loss."""
    noise: tyro.conf.Suppress[bool] = False
    base: tyro.conf.Suppress[tuple[int, int]] = (4, 4)


def _published(
    resolution: int, gamma: float, *, rotation: bool, batch: int = 32, channel_base: int = 32768, d_lr: float = 2e-3,
) -> StyleGAN3Recipe:  # fmt: skip
    """What the official configurations have in common: RGB, mirrored images, 25 million of them.

    r: twice the feature maps, since kernels of one pixel are cheap, and a discriminator that begins with blurred
    images, before which the generator can learn to draw at all.
    """
    doubled, batches = 2 if rotation else 1, batch / 32
    return StyleGAN3Recipe(
        resolution=resolution, channels=3, batch=batch, kimg=25000, mirror=True, penalty=Penalty(r1=gamma),
        g=_adam(2.5e-3), d=_adam(d_lr), ema_half_life_kimg=10 * batches,
        g_net=ConvolutionSettings(channel_base=channel_base * doubled, channel_max=512 * doubled, clamp=256.0),
        d_net=ConvolutionSettings("resnet", channel_base=channel_base, clamp=256.0),
        kernel=1 if rotation else 3, radial=rotation, blur_sigma=10.0 if rotation else 0.0,
        blur_fade_kimg=200 * batches,
    )  # fmt: skip


def _adam(lr: float) -> Optimizer:
    return Optimizer(lr=lr, betas=(0.0, 0.99), eps=1e-8)


def t_1024() -> StyleGAN3Recipe:
    """1024x1024, translation: FFHQ and FFHQ-U."""
    return _published(1024, 32.8, rotation=False)


def r_1024() -> StyleGAN3Recipe:
    """1024x1024, translation and rotation: FFHQ and FFHQ-U."""
    return _published(1024, 32.8, rotation=True)


def t_512() -> StyleGAN3Recipe:
    """512x512, translation: AFHQv2."""
    return _published(512, 8.2, rotation=False)


def r_512() -> StyleGAN3Recipe:
    """512x512, translation and rotation: AFHQv2."""
    return _published(512, 16.4, rotation=True)


def t_256() -> StyleGAN3Recipe:
    """256x256, translation: the paper's ablations on FFHQ-U, half the feature maps."""
    return _published(256, 1.0, rotation=False, batch=64, channel_base=16384, d_lr=2.5e-3)


def r_256() -> StyleGAN3Recipe:
    """256x256, translation and rotation: the paper's ablations on FFHQ-U, half the feature maps."""
    return _published(256, 1.0, rotation=True, batch=64, channel_base=16384, d_lr=2.5e-3)


def _tiny(rotation: bool, channel_base: int, channel_max: int) -> StyleGAN3Recipe:
    """Minutes on two CPU cores at 16x16: six layers, narrow margins, longer steps, as in StyleGAN2's tiny."""
    return StyleGAN3Recipe(
        resolution=16, batch=16, kimg=50, latent=64, w=64, layers=6, margin=4, penalty=Penalty(r1=0.05),
        g=_adam(6e-3), d=_adam(5e-3), ema_half_life_kimg=2.0, precision="bf16", channels_last=True,
        d_map=MappingSettings(layers=2),
        g_net=ConvolutionSettings(channel_base=channel_base, channel_max=channel_max),
        d_net=ConvolutionSettings("resnet", channel_base=1024, channel_max=64),
        kernel=1 if rotation else 3, radial=rotation, blur_sigma=2.0 if rotation else 0.0,
        blur_fade_kimg=5.0, magnitude_decay=0.99,
    )  # fmt: skip


def tiny_t() -> StyleGAN3Recipe:
    """Translation, minutes on two CPU cores at 16x16."""
    return _tiny(False, 512, 32)


def tiny_r() -> StyleGAN3Recipe:
    """Translation and rotation, minutes on two CPU cores at 16x16."""
    return _tiny(True, 1024, 48)


PRESETS = {
    "tiny-t": tiny_t,
    "tiny-r": tiny_r,
    "t-1024": t_1024,
    "r-1024": r_1024,
    "t-512": t_512,
    "r-512": r_512,
    "t-256": t_256,
    "r-256": r_256,
}
