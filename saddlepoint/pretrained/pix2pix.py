"""Official weights of pix2pix (junyanz/pytorch-CycleGAN-and-pix2pix) in our game: see `pretrained.translation`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from saddlepoint.pretrained import translation
from saddlepoint.systems.pix2pix import Pix2Pix


def load(state: Mapping[str, Tensor], **config: Any) -> Pix2Pix:
    """A pix2pix with these weights: "G." and "D." names, or a released generator alone.

    config: the official training options by their names (netG, netD, norm, no_dropout, lambda_L1, gan_mode, ...).
    """
    game = translation.load("pix2pix", {"G": "generator", "D": "discriminator"}, state, config)
    assert isinstance(game, Pix2Pix)
    return game
