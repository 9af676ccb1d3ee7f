"""What ProGAN's and StyleGAN's recipes share: networks that grow, and the schedule by which they do. No torch here."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

from saddlepoint.recipes.base import AdversarialRecipe, Optimizer


class Level(NamedTuple):
    """How far the networks have grown: the side of the images, and the weight of its newest layers, 0 to 1."""

    resolution: int
    fade: float = 1.0


@dataclass(frozen=True)
class GrowingRecipe(AdversarialRecipe):
    """A game whose images double in size while it is played."""

    start: int = 4
    """Side of the first images; the networks begin at 4x4 whatever it is."""
    stable_kimg: float = 600.0
    """How long every resolution is trained before the next one is faded in."""
    fade_kimg: float = 600.0
    """How long the next resolution takes to fade in."""
    batches: tuple[int, ...] = (0,)
    """Images per move at 4, 8, 16, ... pixels, the last one for all larger; 0 takes the recipe's batch."""
    lr_factors: tuple[float, ...] = (1.0,)
    """Both learning rates are multiplied by these at 4, 8, 16, ... pixels, the last one for all larger."""
    reset: bool = True
    """Start the optimizers afresh where a fade begins and where it ends."""
    fmap_base: int = 8192
    """Channels at 4x4 would be half of this, at 8x8 a quarter, ... but for fmap_max."""
    fmap_decay: float = 1.0
    """log2 of the factor by which channels shrink when the side doubles."""
    fmap_max: int = 512
    """Most channels of any layer."""

    def channels_of(self, stage: int) -> int:
        """nf(s) = min(fmap_base / 2^(s fmap_decay), fmap_max): maps of side 2^r have nf(r - 1) channels."""
        return min(int(self.fmap_base / 2 ** (stage * self.fmap_decay)), self.fmap_max)

    def widths(self) -> list[int]:
        """Channels of the maps at 4, 8, ... pixels up to the image's side."""
        return [self.channels_of(r - 1) for r in range(2, self.resolution.bit_length())]

    def lod(self, clock: int) -> float:
        """Level of detail after `clock` images: 0 is full resolution, 1 half of it; the part after the point is the
        weight of the coarser of two resolutions. Each phase is stable_kimg at a level, then fade_kimg to the next.
        """
        first = int(math.log2(self.resolution / min(self.start, self.resolution)))
        length = 1000 * (self.stable_kimg + self.fade_kimg)
        if length <= 0:
            return 0.0
        phase = int(clock // length)
        faded = max(clock - phase * length - 1000 * self.stable_kimg, 0) / (1000 * self.fade_kimg or 1)
        return max(first - phase - faded, 0.0)

    def level(self, lod: float) -> Level:
        """The same as a resolution, this one's or the larger of the two between which it fades, and a weight."""
        whole = math.floor(lod)
        return Level(self.resolution >> whole, 1.0 - (lod - whole))

    def at_side(self, values: tuple[float, ...], side: int) -> float:
        """The entry of a table for 4, 8, 16, ... pixels."""
        return values[min(side.bit_length() - 3, len(values) - 1)]


def moves(lr: float = 1e-3) -> Optimizer:
    """Adam as both papers have it."""
    return Optimizer(lr=lr, betas=(0.0, 0.99))
