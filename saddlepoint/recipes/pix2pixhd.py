"""Settings and presets of pix2pixHD (Wang et al. 2018, arXiv:1711.11585)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Annotated, Literal

import tyro

from saddlepoint.recipes.base import Optimizer
from saddlepoint.recipes.translation import TranslationRecipe, officially

SUMMARY = "pix2pixHD (2017): large photos from label maps, coarse to fine, with a feature for every object"
CITYSCAPES = 2.975  # kimg in an epoch: its training photos


@dataclass(frozen=True)
class Pix2PixHDRecipe(TranslationRecipe):
    """From label maps with instances (labels > 0), or from pictures (labels = 0), to photos."""

    labels: int = 0
    """Classes of the label maps (ids 0 ... labels - 1); 0 takes the data's, or translates pictures, as pix2pix does,
    where the data have no label maps."""
    instances: bool = False
    """Read a map of instance ids too and show its edges to both players."""
    aspect: int = 1
    """Width over height: 1 is square, 2 is Cityscapes; the resolution is the width."""
    network: Literal["global", "local"] = "global"  # type: ignore[assignment]
    """The global generator, or local enhancers around it for twice the size each."""
    downs: int = 4
    """Halvings in the global generator."""
    width: int = 64
    """Feature maps next to the image (ngf); with local enhancers the global generator has twice as many for each."""
    blocks: int = 9
    """Residual blocks of the global generator."""
    enhancers: int = 1
    """Local enhancers around the global generator (local)."""
    local_blocks: int = 3
    """Residual blocks of a local enhancer (local)."""
    fix_global_kimg: float = 0.0
    """Train only the outermost enhancer so long, then everything with fresh optimizers (local)."""
    features: int = 0
    """Numbers per object that an encoder finds in the photo and the generator is given; 0 is no encoder."""
    label_features: bool = False
    """The encoder averages over the pixels of a class, not of an instance."""
    e_width: int = 16
    """The encoder's feature maps next to the image (nef)."""
    e_downs: int = 4
    """Halvings in the encoder."""
    clusters: int = 10
    """Appearances per class that are kept to choose from: K-means over the features of the training set."""
    d_network: Annotated[Literal["patch", "pixel"], tyro.conf.Suppress] = "patch"
    """What judges: always patches."""
    scales: int = 2
    """Discriminators, each on a picture of half the size (num_D)."""
    gan_mode: Literal["lsgan", "vanilla"] = "lsgan"
    """Squared error against 1 and 0, or cross entropy."""
    gradient_penalty: Annotated[float, tyro.conf.Suppress] = 0.0
    """No gradient penalty here."""
    feature_matching: float = 10.0
    """Weight of the distance between the discriminators' features of the true and the made picture; 0 is off."""
    perceptual: float = 10.0
    """Weight of the distance in the features of --vgg; without that there is no such term."""
    vgg: str = ""
    """torchvision's file vgg19-dcbb9e9d.pth for the perceptual term, or lite0 for EfficientNet-Lite0 in its place;
    empty leaves the term out."""
    pool: int = 0
    """Past fakes that the discriminators may be shown instead of the newest; 0, as published, is none."""
    lr_policy: Literal["linear", "constant"] = "linear"
    """How the learning rates fall: linear after hold_kimg, or not."""
    direction: Literal["a-to-b", "b-to-a"] = "a-to-b"
    """b-to-a exchanges the domains (pictures only)."""

    paired = True
    optional = ()  # every column that is asked for must be there

    @property
    def domains(self) -> tuple[str, ...]:  # type: ignore[override]
        """The columns of the data that are read, the photo last."""
        maps = ("instance",) if self.instances else ()
        return ("label", *maps, "image") if self.labels else ("a", *maps, "b")

    @property
    def shape(self) -> tuple[int, int]:
        return self.resolution // self.aspect, self.resolution

    def for_maps(self, classes: int) -> Pix2PixHDRecipe:
        """The same for data with label maps of `classes` named classes (0: unknown)."""
        return replace(self, labels=self.labels or classes)

    def optimizers(self) -> dict[str, Optimizer]:
        return {"generator": self.g, "discriminator": self.d}


def cityscapes() -> Pix2PixHDRecipe:
    """1024x512 from 35 classes and instance edges: G1 of 183 million parameters, two discriminators, 200 epochs."""
    return Pix2PixHDRecipe(
        resolution=1024, aspect=2, channels=3, labels=35, instances=True, **officially(CITYSCAPES)  # type: ignore[arg-type]
    )  # fmt: skip


def cityscapes_features() -> Pix2PixHDRecipe:
    """The same with the encoder's 3 numbers per object."""
    return Pix2PixHDRecipe(
        resolution=1024, aspect=2, channels=3, labels=35, instances=True, features=3,
        **officially(CITYSCAPES),  # type: ignore[arg-type]
    )  # fmt: skip


def _large(features: int, fixed: int, load_size: int = 0, resolution: int = 2048) -> Pix2PixHDRecipe:
    return Pix2PixHDRecipe(
        resolution=resolution, load_size=load_size, aspect=2, channels=3, labels=35, instances=True, features=features,
        network="local", width=32, scales=3, fix_global_kimg=fixed * CITYSCAPES,
        **officially(CITYSCAPES, 50, 50),  # type: ignore[arg-type]
    )  # fmt: skip


def large() -> Pix2PixHDRecipe:
    """2048x1024: the local enhancer around G1 (--init-from a run at 1024x512), three discriminators, 100 epochs, in
    the first 10 of which only the enhancer learns.
    """
    return _large(0, 10)


def large_features() -> Pix2PixHDRecipe:
    """2048x1024 with the encoder's 3 numbers per object."""
    return _large(3, 10)


def large_12g() -> Pix2PixHDRecipe:
    """2048x1024 in less memory: pieces of 1024x512, only the enhancer for 20 epochs."""
    return _large(0, 20, 2048, 1024)


def tiny() -> Pix2PixHDRecipe:
    """Minutes on one CPU core at 64x64: 3 halvings, 3 blocks, 16 to 128 maps, two discriminators of 2 layers, batches
    of 4. Label maps where the data have some (--instances for their objects), else pictures.
    """
    return Pix2PixHDRecipe(
        resolution=64, width=16, downs=3, blocks=3, d_width=16, n_layers=2, e_width=8, e_downs=2, batch=4, kimg=18,
        hold_kimg=12, decay_kimg=6, ema_half_life_kimg=0.2, precision="bf16", channels_last=True,
    )  # fmt: skip


def tiny_features() -> Pix2PixHDRecipe:
    """The small one with 3 numbers per object; wants a set with instances."""
    return replace(tiny(), instances=True, features=3)


def tiny_local() -> Pix2PixHDRecipe:
    """128x128, a small enhancer around the small generator (--init-from a `tiny` run): 2 kimg alone, then together."""
    return Pix2PixHDRecipe(
        resolution=128, network="local", width=8, downs=3, blocks=3, local_blocks=2, d_width=16, n_layers=2, e_width=8,
        e_downs=2, batch=4, kimg=8, hold_kimg=6, decay_kimg=2, fix_global_kimg=2, ema_half_life_kimg=0.2,
    )  # fmt: skip


PRESETS = {
    "tiny": tiny,
    "tiny-features": tiny_features,
    "tiny-local": tiny_local,
    "paper": cityscapes,
    "cityscapes": cityscapes,
    "cityscapes-features": cityscapes_features,
    "cityscapes-1024p": large,
    "cityscapes-1024p-features": large_features,
    "cityscapes-1024p-12g": large_12g,
}
