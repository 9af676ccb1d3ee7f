"""Settings and presets of GauGAN (Park, Liu, Wang, Zhu 2019, arXiv:1903.07291)."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Annotated, Any, Literal

import tyro

from saddlepoint.recipes.base import Optimizer
from saddlepoint.recipes.translation import TranslationRecipe

SUMMARY = "GauGAN (2019): pictures from painted label maps, the style from another picture (SPADE)"
DOUBLINGS = {"normal": 5, "more": 6, "most": 7}


@dataclass(frozen=True)
class GauGANRecipe(TranslationRecipe):
    """From label maps to pictures: the data have label maps (label/ img/, and inst/), or --levels makes them."""

    labels: int = 0
    """Classes of the label maps (label_nc); 0 takes the data's names of classes, or what --levels makes."""
    levels: int = 0
    """Where the data have no label maps, make them of the input pictures: each channel cut into so many steps of
    brightness."""
    dont_care: bool = False
    """Pixels of id 255 have a class of their own; without, they are refused."""
    instances: bool = False
    """The networks see edges too: between instances, or between classes where the data have no instances."""
    encoder: bool = False
    """Learn a style encoder (a VAE): the picture starts from a style vector instead of the map."""
    latent: int = 256
    """Length of the style vector (z_dim)."""
    upsampling: Literal["normal", "more", "most"] = "normal"
    """5, 6 or 7 doublings from the first maps to the picture."""
    aspect: float = 1.0
    """Width over height; the resolution is the width."""
    hidden: int = 128
    """Width of the small networks inside SPADE."""
    kernel: int = 3
    """Side of their convolutions; odd."""
    width_max: int = 0
    """Most feature maps anywhere in generator and encoder; 0 is no limit, as published."""
    norm: Literal["instance", "batch", "none"] = "batch"
    """What SPADE modulates: synchronised batch norm as published; instance norm does not couple a batch."""
    d_norm: Literal["instance", "batch", "none"] = "instance"
    """Normalisation in the discriminators."""
    e_norm: Literal["instance", "batch", "none"] = "instance"
    """Normalisation in the encoder."""
    g_spectral: bool = True
    """Spectral norm on the generator's convolutions (not inside SPADE)."""
    d_spectral: bool = True
    """Spectral norm on the discriminators' convolutions but the first and the last."""
    e_spectral: bool = True
    """Spectral norm on the encoder's convolutions."""
    scales: int = 2
    """Discriminators: on the picture, on its half, ... (num_D)."""
    n_layers: int = 4
    """Layers of each discriminator before its logits (n_layers_D)."""
    criterion: Literal["hinge", "ls", "original", "w"] = "hinge"
    """Hinge, squared error, cross entropy or Wasserstein (gan_mode)."""
    feature_matching: float = 10.0
    """Weight of the distance between the discriminators' features of fake and real."""
    vgg: str = ""
    """File with torchvision's weights of VGG19 for the perceptual term, or lite0 for EfficientNet-Lite0 in its place;
    without it there is no such term."""
    vgg_weight: float = 10.0
    """Weight of the perceptual term, where there is --vgg."""
    kld: float = 0.05
    """Weight of the styles' divergence from the normal distribution, summed over the batch (encoder)."""
    init: Literal["normal", "xavier", "kaiming", "orthogonal"] = "xavier"
    """First weights."""
    g: Annotated[Optimizer, tyro.conf.arg(name="g")] = field(
        default_factory=lambda: Optimizer(lr=1e-4, betas=(0.0, 0.9))
    )
    """The moves of generator and encoder."""
    d: Annotated[Optimizer, tyro.conf.arg(name="d")] = field(
        default_factory=lambda: Optimizer(lr=4e-4, betas=(0.0, 0.9))
    )
    """The discriminators' moves."""

    network: Annotated[Literal["resnet", "unet"], tyro.conf.Suppress] = "resnet"
    blocks: Annotated[int, tyro.conf.Suppress] = 0
    downs: Annotated[int, tyro.conf.Suppress] = 0
    test_norm: Annotated[Literal["image", "running"], tyro.conf.Suppress] = "running"
    dropout: Annotated[bool, tyro.conf.Suppress] = False
    padding: Annotated[Literal["reflect", "replicate", "zero"], tyro.conf.Suppress] = "zero"
    d_network: Annotated[Literal["patch", "pixel"], tyro.conf.Suppress] = "patch"
    gan_mode: Annotated[Literal["lsgan", "vanilla", "wgangp"], tyro.conf.Suppress] = "lsgan"
    gradient_penalty: Annotated[float, tyro.conf.Suppress] = 0.0
    lr_policy: Annotated[Literal["linear", "step", "cosine", "constant"], tyro.conf.Suppress] = "linear"

    paired = True
    optional = ("instance",)

    @property
    def domains(self) -> tuple[str, ...]:  # type: ignore[override]
        """The columns of the data that are read."""
        if self.levels:
            return "a", "b"
        return ("label", "instance", "image") if self.instances else ("label", "image")

    @property
    def shape(self) -> tuple[int, int]:
        """(height, width): what doubling the first maps gives."""
        doublings = DOUBLINGS[self.upsampling]
        high = round((self.resolution >> doublings) / self.aspect) if self.aspect > 0 else 0
        return high << doublings, self.resolution >> doublings << doublings

    def for_maps(self, classes: int) -> GauGANRecipe:
        """The same for data with label maps of `classes` named classes (0: unknown): they are read, none are made."""
        return replace(self, levels=0)

    def optimizers(self) -> dict[str, Optimizer]:
        return {"generator": self.g, "discriminator": self.d}


def _epochs(kimg: float, hold: int, decay: int) -> dict[str, Any]:
    """Length and schedule of so many epochs at full rate and on the way to 0."""
    return {
        "kimg": kimg * (hold + decay), "hold_kimg": kimg * hold, "decay_kimg": kimg * decay, "epoch_kimg": kimg
    }  # fmt: skip


def coco() -> GauGANRecipe:
    """COCO-Stuff at 256x256: 182 classes, don't care, edges of instances: 97 million parameters, 100 epochs."""
    return GauGANRecipe(
        resolution=256, load_size=286, labels=182, dont_care=True, instances=True, batch=32,
        **_epochs(118.287, 100, 0),
    )  # fmt: skip


def ade20k() -> GauGANRecipe:
    """ADE20K at 256x256: 150 classes and don't care, no instances; 100 epochs and 100 on the way to 0."""
    return GauGANRecipe(resolution=256, load_size=286, labels=150, dont_care=True, batch=32, **_epochs(20.21, 100, 100))


def cityscapes() -> GauGANRecipe:
    """Cityscapes at 512x256: 35 classes, edges of instances, 6 doublings; 100 epochs and 100 on the way to 0."""
    return GauGANRecipe(
        resolution=512, aspect=2.0, upsampling="more", labels=35, instances=True, batch=16,
        **_epochs(2.975, 100, 100),
    )  # fmt: skip


def coco_vae() -> GauGANRecipe:
    """COCO-Stuff with the style encoder: 113 million parameters and 10 million of the encoder."""
    return replace(coco(), encoder=True)


def ade20k_vae() -> GauGANRecipe:
    """ADE20K with the style encoder."""
    return replace(ade20k(), encoder=True)


def cityscapes_vae() -> GauGANRecipe:
    """Cityscapes with the style encoder."""
    return replace(cityscapes(), encoder=True)


def tiny_map() -> GauGANRecipe:
    """The small one without encoder: the picture follows from the map alone."""
    return GauGANRecipe(
        resolution=64, levels=2, width=16, width_max=128, hidden=32, d_width=16, n_layers=3, batch=4, kimg=12,
        hold_kimg=8, decay_kimg=4, ema_half_life_kimg=0.5, precision="bf16", channels_last=True,
    )  # fmt: skip


def tiny() -> GauGANRecipe:
    """Minutes on CPU cores at 64x64: widths 16 to 128, hidden 32, with the style encoder; maps made of the inputs where
    the data have none. The encoder has no norms: instance norm takes out how bright and of what colour a picture is,
    which it then learns from borders alone, in many more steps than these.
    """
    return replace(tiny_map(), encoder=True, latent=64, e_norm="none", e_spectral=False)


PRESETS = {
    "tiny": tiny,
    "tiny-map": tiny_map,
    "paper": coco,
    "coco": coco,
    "ade20k": ade20k,
    "cityscapes": cityscapes,
    "coco-vae": coco_vae,
    "ade20k-vae": ade20k_vae,
    "cityscapes-vae": cityscapes_vae,
    "paper-vae": coco_vae,
}
