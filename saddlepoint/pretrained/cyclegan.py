"""Official weights of CycleGAN (junyanz/pytorch-CycleGAN-and-pix2pix) in our game: see `pretrained.translation`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from saddlepoint.pretrained import translation
from saddlepoint.systems.cyclegan import CycleGAN


def load(state: Mapping[str, Tensor], **config: Any) -> CycleGAN:
    """A cyclegan with these weights: "G_A.", "G_B.", "D_A." and "D_B." names, or one released generator alone, which
    becomes a -> b.

    config: the official training options by their names (netG, netD, n_layers_D, norm, ngf, ndf, lambda_A, ...).
    """
    game = translation.load("cyclegan", {name: name for name in ("G_A", "G_B", "D_A", "D_B")}, state, config)
    assert isinstance(game, CycleGAN)
    return game
