"""What ProGAN and StyleGAN share: networks that grow from 4x4, their schedule, their discriminator.

Karras et al. 2018 (arXiv:1710.10196), sections 2 and 3, figure 2. All layers exist from the start. A `Level` says how
far the networks have grown: at fade < 1 the newest resolution is blended with the one below it, in the generator as
images, in the discriminator as maps after the first convolution, and in the real images. The official code counts
levels of detail instead (lod): 0 is the full resolution, 1.3 is 0.3 of the way from half to a quarter of it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from saddlepoint.errors import UserError
from saddlepoint.game import Round, Stage
from saddlepoint.layers.convolution import halvings
from saddlepoint.layers.equalised import EqualisedConv2d, EqualisedLinear, MinibatchStd
from saddlepoint.layers.latent import LatentGame
from saddlepoint.layers.residual import doubled, halved
from saddlepoint.recipes.growing import GrowingRecipe, Level

ROOT2 = 2**0.5


# ---- resampling inside a convolution
def _spread(w: Tensor) -> Tensor:
    """The sum of a kernel's four copies shifted by 0 or 1 pixel each way: [O, I, k, k] -> [O, I, k + 1, k + 1]."""
    w = F.pad(w, (1, 1, 1, 1))
    return w[..., 1:, 1:] + w[..., :-1, 1:] + w[..., 1:, :-1] + w[..., :-1, :-1]


def up_conv(x: Tensor, w: Tensor, bias: Tensor | None = None) -> Tensor:
    """Each pixel repeated 2x2, then a 3x3 convolution, as one transposed convolution: 16 products, not 36, for each
    of the input's pixels and pairs of channels. x: [N, I, H, W], w: [O, I, 3, 3] -> [N, O, 2H, 2W].
    """
    kernel = _spread(w.flip(2, 3)).transpose(0, 1)
    return F.conv_transpose2d(x, kernel, bias, stride=2, padding=1)


def down_conv(x: Tensor, w: Tensor, bias: Tensor | None = None) -> Tensor:
    """A 3x3 convolution, then the mean over 2x2 pixels, as one convolution of stride 2: [N, I, 2H, 2W] -> [N, O, H, W].

    The bias may come after the mean: it is the same for all pixels.
    """
    return F.conv2d(x, 0.25 * _spread(w), bias, stride=2, padding=1)


# ---- levels
def index_of(resolution: int) -> int:
    """0 for 4x4, 1 for 8x8, ..."""
    return resolution.bit_length() - 3


def shrunk(x: Tensor, resolution: int) -> Tensor:
    """Means over boxes of pixels, down to this resolution. UserError for images that are smaller than that."""
    side = x.shape[-1]
    if side < resolution or side % resolution:
        raise UserError(
            f"images of side {side} at a level of {resolution}: a power of two times {resolution} is needed."
        )
    return x if side == resolution else F.avg_pool2d(x, side // resolution)


def enlarged(x: Tensor, resolution: int) -> Tensor:
    """Every pixel repeated, up to this resolution."""
    return x if x.shape[-1] == resolution else F.interpolate(x, scale_factor=resolution // x.shape[-1], mode="nearest")


def faded(x: Tensor, fade: float) -> Tensor:
    """Images as they are while a resolution fades in: 1 - fade of them is the same image at half the resolution.

    Without this the discriminator would see a blend on fakes only (official code; the paper does not say it).
    """
    return x if fade >= 1 else torch.lerp(x, doubled(halved(x)), 1 - fade)


def image_at(
    level: Level, maps: Tensor, blocks: Sequence[Callable[[Tensor], Tensor]], to_rgb: Sequence[nn.Module]
) -> Tensor:
    """The blended image [N, C, R, R] from maps [N, C', 4, 4]; blocks: maps -> maps of twice the side."""
    index = index_of(level.resolution)
    before = maps
    for block in blocks[:index]:
        before, maps = maps, block(maps)
    image: Tensor = to_rgb[index](maps)
    if level.fade >= 1 or not index:
        return image
    return torch.lerp(image, doubled(to_rgb[index - 1](before)), 1 - level.fade)


class Growing(nn.Module):
    """A network with a level: `lod`, a buffer that training writes after every round, as in the official networks."""

    lod: Tensor

    def __init__(self, recipe: GrowingRecipe) -> None:
        super().__init__()
        self.resolution = recipe.resolution
        halvings(recipe.resolution, recipe.system or "a growing game")
        if recipe.start < 4 or recipe.start & (recipe.start - 1):
            near = max(4, 1 << (max(recipe.start, 1).bit_length() - 1))
            raise UserError(f"start is {recipe.start}; expected a power of two from 4 on; nearest: {near}.")
        self._level = recipe.level
        self.register_buffer("lod", torch.tensor(recipe.lod(0)))

    def level(self, lod: float | None = None) -> Level:
        """The level of this lod; None: the one that training has reached."""
        return self._level(float(self.lod) if lod is None else lod)


# ---- the discriminator
class Halving(nn.Module):
    """[N, inputs, 2H, 2W] -> [N, outputs, H, W]: convolution, leaky ReLU; convolution, mean over 2x2, leaky ReLU.

    fused=False: the mean comes after the leaky ReLU, which is another function (the paper's table; the official code
    without fused_scale). blur: what is applied before the second convolution (StyleGAN).
    """

    def __init__(self, inputs: int, outputs: int, *, slope: float, fused: bool, blur: nn.Module | None) -> None:
        super().__init__()
        self.conv0 = EqualisedConv2d(inputs, inputs, 3, gain=ROOT2)
        self.conv1 = EqualisedConv2d(inputs, outputs, 3, gain=ROOT2)
        self.slope, self.fused, self.blur = slope, fused, blur

    def forward(self, x: Tensor) -> Tensor:
        x = F.leaky_relu(self.conv0(x), self.slope)
        if self.blur is not None:
            x = self.blur(x)
        if not self.fused:
            return halved(F.leaky_relu(self.conv1(x), self.slope))
        return F.leaky_relu(down_conv(x, self.conv1.scaled(), self.conv1.offset()), self.slope)


class GrowingDiscriminator(Growing):
    """Image [N, C, R, R] -> `outputs` numbers [N, outputs]: the generator mirrored, minibatch deviation at 4x4, two
    dense layers; no normalisation.
    """

    def __init__(
        self,
        recipe: GrowingRecipe,
        outputs: int = 1,
        *,
        widths: Sequence[int] = (),
        slope: float = 0.2,
        fused: bool = True,
        blur: nn.Module | None = None,
        deviation: nn.Module | None = None,
    ) -> None:
        super().__init__(recipe)
        maps = list(widths) or recipe.widths()
        hidden = maps[0] if widths else recipe.channels_of(0)
        self.slope = slope
        self.blends_first = True
        self.from_rgb = nn.ModuleList(EqualisedConv2d(recipe.channels, m, 1, gain=ROOT2) for m in maps)
        self.blocks = nn.ModuleList(Halving(b, a, slope=slope, fused=fused, blur=blur) for a, b in pairwise(maps))
        self.deviation = deviation
        extra = 0 if deviation is None else getattr(deviation, "features", 1)
        self.conv = EqualisedConv2d(maps[0] + extra, maps[0], 3, gain=ROOT2)
        self.hidden = EqualisedLinear(maps[0] * 16, hidden, gain=ROOT2)
        self.output = EqualisedLinear(hidden, outputs)

    def layers(self) -> list[nn.Module]:
        """What Freeze-D counts: of each resolution, the highest first, from_rgb and the convolutions that follow."""
        found: list[nn.Module] = []
        for rgb, block in zip(reversed(self.from_rgb), [*reversed(self.blocks), None], strict=True):
            found += [rgb, *((self.conv,) if block is None else map(block.get_submodule, ("conv0", "conv1")))]
        return found

    def at(self, level: Level, x: Tensor) -> Tensor:
        """What it makes of images of the level's resolution (larger ones are averaged down), [N, outputs]."""
        return self.output(self.features_at(level, x))

    def features_at(self, level: Level, x: Tensor) -> Tensor:
        """The last hidden layer, [N, hidden]."""
        index, fade = index_of(level.resolution), level.fade
        x = shrunk(x, level.resolution)
        h = self._maps(x, index)
        if index:
            h = self.blocks[index - 1](h)
            if fade < 1 and (index > 1 or self.blends_first):  # the GAN zoo forgets to blend at 8x8
                h = torch.lerp(h, self._maps(halved(x), index - 1), 1 - fade)
        for block in reversed(self.blocks[: max(index - 1, 0)]):
            h = block(h)
        h = h if self.deviation is None else self.deviation(h)
        h = F.leaky_relu(self.conv(h), self.slope)
        return F.leaky_relu(self.hidden(h.flatten(1)), self.slope)

    def _maps(self, x: Tensor, index: int) -> Tensor:
        return F.leaky_relu(self.from_rgb[index](x), self.slope)


def deviation(group: int, features: int = 1) -> nn.Module | None:
    """The minibatch deviation of the official code, which is off for groups of one."""
    return MinibatchStd(group, features) if group > 1 else None


# ---- the game
class GrowingGame(LatentGame):
    """Schedule and levels; subclasses add the networks `generator` and `discriminator`, both `Growing`."""

    averaged = ("generator",)
    recipe: GrowingRecipe
    generator: nn.Module
    discriminator: nn.Module

    def stage(self, clock: int) -> Stage:
        """Resolution, fade, batch and learning rates at this moment; the optimizers start afresh (era) where a fade
        begins and where it ends.
        """
        recipe = self.recipe
        lod = recipe.lod(clock)
        level = recipe.level(lod)
        factor = recipe.at_side(recipe.lr_factors, level.resolution)
        ended = int(level.fade == 1)
        return Stage(
            batch=int(recipe.at_side(recipe.batches, level.resolution)) or None,
            resolution=level.resolution,
            fade=level.fade,
            era=2 * index_of(level.resolution) + ended if recipe.reset else 0,
            settings={name: {"lr": factor * o.lr} for name, o in recipe.optimizers().items()},
        )

    def advance(self, step: int, clock: int) -> None:
        """The level that `sample` and the networks by themselves use."""
        for network in (self.generator, self.discriminator):
            cast(Growing, network).lod.fill_(self.recipe.lod(clock))

    def level_of(self, round: Round) -> Level:
        return Level(round.stage.resolution or self.recipe.resolution, round.stage.fade)

    def reals(self, round: Round) -> Tensor:
        """The round's images at its level, blended with their own half resolution while it fades in."""
        level = self.level_of(round)
        return faded(shrunk(round["image"], level.resolution), level.fade)
