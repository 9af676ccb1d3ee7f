"""StyleGAN2 (Karras et al. 2020, arXiv:1912.04958), also for limited data (Karras et al. 2020, arXiv:2006.06676).

A mapping network turns z into w; w scales the weights of every convolution of the generator. No progressive growing:
images of all resolutions are summed, the discriminator is residual. R1 and the regularisation of path lengths are
evaluated in some rounds only. Official code: NVlabs/stylegan2 (TensorFlow), NVlabs/stylegan2-ada-pytorch. Where we
differ:
- "half the batch" for path lengths is every second sample of the global batch, not the first half of what a device
  holds, and the mean of the lengths is that of all devices: the same numbers however a batch is cut;
- minibatch standard deviations take the largest group that divides the batch, where the official code refuses;
- labels of generated images are those of the real batch, which are as good a draw from the data's labels as any other;
- a gradient that is not finite ends the run with the round that made it, where the official code replaces it by 0;
- convolutions run in float32 or, under autocast, in bfloat16, whose range needs no rescaling of weights and styles.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterable
from functools import partial
from itertools import pairwise
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from saddlepoint import distributed
from saddlepoint.errors import UserError
from saddlepoint.game import Move, Player, Round, Stage, Terms, keyed_generator
from saddlepoint.layers.augment import Augmentation
from saddlepoint.layers.equalised import EqualisedConv2d, EqualisedLinear, MinibatchStd, pixel_norm
from saddlepoint.layers.latent import Label, LatentGame, Prior, chosen_labels, line
from saddlepoint.layers.modulated import modulated_conv2d
from saddlepoint.layers.resample import bias_act, conv2d_resample, downsample2d, setup_filter, upsample2d
from saddlepoint.objectives import at_least_float32, objective
from saddlepoint.penalties import judge, slope, zero_centred
from saddlepoint.recipes.stylegan2 import ConvolutionSettings, MappingSettings, StyleGAN2Recipe
from saddlepoint.tracking import in_a_move, track

Noise = Callable[..., Tensor] | Literal["const", "none"]  # a callable takes a layer's name, 1, its height and its width
Architecture = Literal["skip", "resnet", "orig"]
Taps = tuple[float, ...]
TAPS: Taps = (1.0, 3.0, 3.0, 1.0)
HALF = math.sqrt(0.5)  # both branches of a residual sum, so that it keeps their variance


def sizes(resolution: int, base: tuple[int, int] = (4, 4), system: str = "stylegan2") -> list[tuple[int, int]]:
    """Heights and widths of the blocks, from the base up to the image: its longer side is the resolution."""
    longer = max(base)
    levels = max(1, round(math.log2(max(resolution, 1) / longer)))
    if min(base) < 1 or longer * 2**levels != resolution:
        raise UserError(
            f"{system} with a first block of {base[0]}x{base[1]} makes images whose longer side is {longer} times a "
            f"power of two from 2 on, not {resolution}; nearest: {longer * 2**levels}."
        )
    return [(base[0] * 2**i, base[1] * 2**i) for i in range(levels + 1)]


def widths(levels: int, channel_base: int, channel_max: int) -> list[int]:
    """Feature maps of the blocks: min(channel_base / r, channel_max) at r = 4, 8, ..."""
    return [max(1, min(channel_base // (4 * 2**i), channel_max)) for i in range(levels)]


def one_hot(label: Tensor | None, classes: int) -> Tensor | None:
    """Class numbers [N] as one row each, [N, classes]; rows of any kind are taken as they are."""
    if not classes:
        return None
    if label is None:
        raise UserError(f"this network is class-conditional: give a label for each sample, 0 to {classes - 1}.")
    return label if label.is_floating_point() else F.one_hot(label, classes).to(torch.get_default_dtype())


# ---- mapping
class Mapping(nn.Module):
    """z [N, latent] and a label -> w [N, copies, style], or [N, style] where copies is 0.

    z is brought to unit root mean square, the label is embedded and then brought there as well; then fully connected
    layers with a learning rate of their own (section 2 of arXiv:1812.04948, table 1 of 2006.06676). latent=0: the label
    only, as in the discriminator. decay: of the running mean of w, tracked in training mode; None has none.
    """

    average: Tensor

    def __init__(
        self,
        latent: int,
        classes: int,
        style: int,
        *,
        copies: int = 0,
        settings: MappingSettings = MappingSettings(),  # noqa: B008 (frozen)
        decay: float | None = 0.995,
    ) -> None:
        super().__init__()
        self.latent, self.classes, self.copies, self.decay = latent, classes, copies, decay
        self.activation = settings.activation
        embedding = (settings.embedding or style) if classes else 0
        self.embed = EqualisedLinear(classes, embedding) if classes else None
        units = [latent + embedding, *[settings.width or style] * (settings.layers - 1), style]
        self.layers = nn.ModuleList(EqualisedLinear(a, b, multiplier=settings.multiplier) for a, b in pairwise(units))
        if decay is not None:
            self.register_buffer("average", torch.zeros(style))

    def forward(
        self,
        z: Tensor | None,
        label: Tensor | None = None,
        *,
        truncation: float = 1.0,
        cutoff: int | None = None,
        tracked: bool = True,
    ) -> Tensor:
        """truncation: w' = mean + truncation (w - mean), in the first `cutoff` copies only where that is given.

        tracked: False leaves the running mean alone, as for the second latents of style mixing.
        """
        device = next(self.parameters()).device.type
        with torch.autocast(device, enabled=False):  # a few small products; bfloat16 would blur every style
            w = self._mapped(z, one_hot(label, self.classes))
        if self.decay is not None and self.training and tracked:
            track(self.average, w.mean(0), 1 - self.decay)
        if not self.copies:
            return w
        copies = w.unsqueeze(1).expand(-1, self.copies, -1)  # [N, copies, style]
        if truncation == 1:
            return copies
        kept = self.copies if cutoff is None else cutoff
        centred = torch.lerp(self.average.to(copies.dtype), copies[:, :kept], truncation)
        return torch.cat([centred, copies[:, kept:]], 1)

    def _mapped(self, z: Tensor | None, label: Tensor | None) -> Tensor:
        parts = []
        if self.latent and z is not None:
            if z.ndim != 2 or z.shape[1] != self.latent:
                raise UserError(f"latents are [N, {self.latent}] here, not {list(z.shape)}.")
            parts.append(pixel_norm(z))
        if self.embed is not None and label is not None:
            parts.append(pixel_norm(self.embed(label.to(self.embed.weight.dtype))))
        x = torch.cat(parts, 1)
        for layer in self.layers:
            x = bias_act(layer(x), None, self.activation)
        return x


# ---- generator
class StyledConv(nn.Module):
    """Modulated convolution, noise, bias, nonlinearity; doubles the resolution with up=2 (figure 2c of 1912.04958)."""

    noise_image: Tensor
    filter: Tensor

    def __init__(
        self,
        name: str,
        inputs: int,
        outputs: int,
        style: int,
        size: tuple[int, int],
        *,
        up: int = 1,
        kernel: int = 3,
        noise: bool = True,
        settings: ConvolutionSettings,
    ) -> None:
        super().__init__()
        self.name, self.size, self.up = name, size, up
        self.activation, self.clamp = settings.activation, settings.clamp
        self.affine = EqualisedLinear(style, inputs, bias_start=1.0)
        self.weight = nn.Parameter(torch.randn(outputs, inputs, kernel, kernel))
        self.bias = nn.Parameter(torch.zeros(outputs))
        self.noise_strength = nn.Parameter(torch.zeros(())) if noise else None
        if noise:
            self.register_buffer("noise_image", torch.randn(size))
        self.register_buffer("filter", setup_filter(settings.taps) if up > 1 else None, persistent=False)

    def forward(self, x: Tensor, w: Tensor, noise: Noise, *, gain: float = 1.0, fused: bool = False) -> Tensor:
        with torch.autocast(w.device.type, enabled=False):
            styles = self.affine(w)
        before, after = gains(self.activation, gain, x)
        values = self._noise(noise)
        x = modulated_conv2d(
            x,
            self.weight,
            styles,
            values if values is None else values * before,
            up=self.up,
            padding=self.weight.shape[-1] // 2,
            resample_filter=self.filter,
            flip_weight=self.up == 1,  # the official code convolves where it doubles and correlates elsewhere
            fused=fused,
            gain=before,
        )
        return bias_act(x, self.bias * before, self.activation, gain=after, clamp=limit(self.clamp, gain))

    def _noise(self, noise: Noise) -> Tensor | None:
        if self.noise_strength is None or noise == "none":
            return None
        values = self.noise_image if isinstance(noise, str) else noise(self.name, 1, *self.size)
        return values * self.noise_strength


class ToImage(nn.Module):
    """1x1 modulated convolution to the image's channels, without demodulation; linear."""

    def __init__(self, inputs: int, outputs: int, style: int, clamp: float) -> None:
        super().__init__()
        self.clamp, self.scale = clamp, 1 / math.sqrt(inputs)
        self.affine = EqualisedLinear(style, inputs, bias_start=1.0)
        self.weight = nn.Parameter(torch.randn(outputs, inputs, 1, 1))
        self.bias = nn.Parameter(torch.zeros(outputs))

    def forward(self, x: Tensor, w: Tensor, *, fused: bool = False) -> Tensor:
        with torch.autocast(w.device.type, enabled=False):
            styles = self.affine(w) * self.scale
        x = modulated_conv2d(x, self.weight, styles, demodulate=False, fused=fused)
        return at_least_float32(bias_act(x, self.bias, "linear", clamp=limit(self.clamp, 1.0)))


def gains(activation: str, gain: float, x: Tensor) -> tuple[float, float]:
    """The gains before and after a nonlinearity: its own (sqrt 2 for leaky ReLU of slope 0.2) times `gain`.

    Piecewise linear ones commute with a positive factor. Under autocast it goes before them, into weights, bias and
    noise, where it costs nothing; after them it is one more pass over all activations, and another one in each
    derivative. In full precision it stays where the official code has it: the second derivatives of minibatch
    deviations are so sensitive that weights rounded in another order move them by 2e-5 of their size.
    """
    total = (math.sqrt(2) if activation in ("lrelu", "relu", "swish") else 1.0) * gain
    early = activation in ("lrelu", "relu", "linear") and torch.is_autocast_enabled(x.device.type)
    return (total, 1.0) if early else (1.0, total)


def limit(clamp: float, gain: float) -> float | None:
    """A branch that is scaled is clamped to a scaled magnitude."""
    return clamp * gain if clamp else None


class SynthesisBlock(nn.Module):
    """One resolution: a constant or a doubling convolution, a second one, and what the architecture adds."""

    filter: Tensor

    def __init__(
        self,
        name: str,
        inputs: int,
        outputs: int,
        style: int,
        size: tuple[int, int],
        channels: int,
        *,
        last: bool,
        noise: bool,
        settings: ConvolutionSettings,
    ) -> None:
        super().__init__()
        make = partial(StyledConv, style=style, size=size, noise=noise, settings=settings)
        self.const = None if inputs else nn.Parameter(torch.randn(outputs, *size))
        self.conv0 = make(f"{name}.conv0", inputs, outputs, up=2) if inputs else None
        self.conv1 = make(f"{name}.conv1", outputs, outputs)
        residual = settings.architecture == "resnet" and inputs > 0
        self.skip = EqualisedConv2d(inputs, outputs, 1, bias=False) if residual else None
        drawn = last or settings.architecture == "skip"
        self.to_image = ToImage(outputs, channels, style, settings.clamp) if drawn else None
        self.register_buffer("filter", setup_filter(settings.taps), persistent=False)

    @property
    def styles(self) -> int:
        """Copies of w that the convolutions take; the image's layer takes the next one, which the next block shares."""
        return 1 if self.conv0 is None else 2

    def forward(
        self, x: Tensor | None, image: Tensor | None, ws: Tensor, noise: Noise, fused: bool = False
    ) -> tuple[Tensor, Tensor | None]:
        """x [N, C, H/2, W/2], image [N, channels, H/2, W/2], ws [N, 2 or 3, style] -> x and image of twice the size."""
        layer = iter(ws.unbind(1))
        if self.conv0 is None or x is None:
            assert self.const is not None
            x = self.const.unsqueeze(0).expand(ws.shape[0], -1, -1, -1)  # [N, C, H, W]
            x = self.conv1(x, next(layer), noise, fused=fused)
        elif self.skip is not None:
            past = conv2d_resample(x, self.skip.scaled().to(x.dtype), self.filter, up=2) * HALF
            x = self.conv0(x, next(layer), noise, fused=fused)
            x = past + self.conv1(x, next(layer), noise, gain=HALF, fused=fused)
        else:
            x = self.conv0(x, next(layer), noise, fused=fused)
            x = self.conv1(x, next(layer), noise, fused=fused)
        image = None if image is None else upsample2d(image, self.filter)
        if self.to_image is not None:
            y = self.to_image(x, next(layer), fused=fused)
            image = y if image is None else image + y
        return x, image


class Synthesis(nn.Module):
    """ws [N, copies, style] -> image [N, channels, H, W], one block per resolution (figure 7 of 1912.04958)."""

    def __init__(
        self,
        style: int,
        resolution: int,
        channels: int,
        *,
        settings: ConvolutionSettings = ConvolutionSettings(),  # noqa: B008 (frozen)
        noise: bool = True,
        base: tuple[int, int] = (4, 4),
    ) -> None:
        super().__init__()
        steps = sizes(resolution, base)
        maps = widths(len(steps), settings.channel_base, settings.channel_max)
        self.blocks = nn.ModuleDict()
        for level, (before, size, outputs) in enumerate(zip([0, *maps], steps, maps, strict=False)):
            name, last = f"b{4 * 2**level}", level == len(steps) - 1
            self.blocks[name] = SynthesisBlock(
                name, before, outputs, style, size, channels, last=last, noise=noise, settings=settings
            )
        self.copies = sum(block.styles for block in self.each()) + 1

    def each(self) -> Iterable[SynthesisBlock]:
        return self.blocks.values()  # type: ignore[return-value]

    def forward(self, ws: Tensor, *, noise: Noise = "const", fused: bool = False) -> Tensor:
        """noise: "const" (the stored images), "none", or a function of (layer, 1, H, W) that gives [N, 1, H, W]."""
        if ws.ndim != 3 or ws.shape[1] != self.copies:
            raise UserError(f"styles are [N, {self.copies}, w] here, not {list(ws.shape)}.")
        x: Tensor | None = None
        image: Tensor | None = None
        first = 0
        for block in self.each():
            length = block.styles + (block.to_image is not None)
            x, image = block(x, image, ws[:, first : first + length], noise, fused)
            first += block.styles
        assert image is not None
        return image


class Generator(nn.Module):
    """(z [N, latent], label) -> image [N, channels, H, W]; `mapping` and `synthesis` are its two halves."""

    def __init__(
        self,
        latent: int,
        classes: int,
        style: int,
        resolution: int,
        channels: int,
        *,
        map_settings: MappingSettings = MappingSettings(),  # noqa: B008 (frozen)
        settings: ConvolutionSettings = ConvolutionSettings(),  # noqa: B008
        noise: bool = True,
        base: tuple[int, int] = (4, 4),
        decay: float = 0.995,
    ) -> None:
        super().__init__()
        self.synthesis = Synthesis(style, resolution, channels, settings=settings, noise=noise, base=base)
        self.mapping = Mapping(
            latent, classes, style, copies=self.synthesis.copies, settings=map_settings, decay=decay
        )  # fmt: skip

    def forward(
        self,
        z: Tensor,
        label: Tensor | None = None,
        *,
        truncation: float = 1.0,
        cutoff: int | None = None,
        noise: Noise = "const",
        fused: bool = False,
    ) -> Tensor:
        ws = self.mapping(z, label, truncation=truncation, cutoff=cutoff)
        image: Tensor = self.synthesis(ws, noise=noise, fused=fused)
        return image


# ---- discriminator
class Conv(EqualisedConv2d):
    """Equalised convolution, filtered and halved with down=2, with bias and nonlinearity."""

    filter: Tensor

    def __init__(
        self,
        inputs: int,
        outputs: int,
        kernel: int,
        *,
        down: int = 1,
        bias: bool = True,
        activation: str = "linear",
        clamp: float = 0.0,
        taps: Taps = TAPS,
    ) -> None:
        super().__init__(inputs, outputs, kernel, bias=bias)
        self.down, self.activation, self.clamp = down, activation, clamp
        self.register_buffer("filter", setup_filter(taps) if down > 1 else None, persistent=False)

    def forward(self, x: Tensor, gain: float = 1.0) -> Tensor:
        before, after = gains(self.activation, gain, x)
        weight, padding = (self.weight * (self.scale * before)).to(x.dtype), self.weight.shape[-1] // 2
        bias = None if self.bias is None else self.bias * before
        x = conv2d_resample(x, weight, self.filter, down=self.down, padding=padding)
        return bias_act(x, bias, self.activation, gain=after, clamp=limit(self.clamp, gain))


class DiscriminatorBlock(nn.Module):
    """One resolution down: (features, image) -> the same at half the size (figure 7)."""

    filter: Tensor

    def __init__(
        self, inputs: int, middle: int, outputs: int, channels: int, settings: ConvolutionSettings
    ) -> None:  # fmt: skip
        super().__init__()
        make = partial(Conv, activation=settings.activation, clamp=settings.clamp, taps=settings.taps)
        reads = not inputs or settings.architecture == "skip"
        self.from_image = make(channels, middle, 1) if reads else None
        self.conv0 = make(middle, middle, 3)
        self.conv1 = make(middle, outputs, 3, down=2)
        residual = settings.architecture == "resnet"
        self.skip = Conv(middle, outputs, 1, down=2, bias=False, taps=settings.taps) if residual else None
        self.pyramid = settings.architecture == "skip"
        self.register_buffer("filter", setup_filter(settings.taps), persistent=False)

    def forward(self, x: Tensor | None, image: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """x: [N, C, H, W] or nothing yet, image: [N, channels, H, W] while it is still read."""
        if self.from_image is not None and image is not None:
            y = self.from_image(image)
            x = y if x is None else x + y
            image = downsample2d(image, self.filter) if self.pyramid else None
        if self.skip is None:
            return self.conv1(self.conv0(x)), image
        return self.skip(x, gain=HALF) + self.conv1(self.conv0(x), gain=HALF), image


class Epilogue(nn.Module):
    """Features of the smallest resolution -> logits [N]: minibatch deviations, convolution, two linear layers.

    Class-conditional: <features, mapped label> / sqrt(their number) (projection, Miyato and Koyama 2018).
    """

    def __init__(
        self,
        inputs: int,
        size: tuple[int, int],
        channels: int,
        projection: int,
        *,
        group: int,
        features: int,
        settings: ConvolutionSettings,
    ) -> None:
        super().__init__()
        make = partial(Conv, activation=settings.activation)
        # Officially this one is not clamped.
        self.from_image = make(channels, inputs, 1) if settings.architecture == "skip" else None
        self.stddev = MinibatchStd(group, features) if features else None
        self.conv = make(inputs + features, inputs, 3, clamp=settings.clamp)
        self.dense = EqualisedLinear(inputs * size[0] * size[1], inputs)
        self.output = EqualisedLinear(inputs, projection or 1)
        self.activation, self.projection = settings.activation, projection

    def forward(self, x: Tensor, image: Tensor | None, target: Tensor | None) -> Tensor:
        """x [N, C, h, w], target [N, projection] -> [N]. In float32: the few numbers that decide."""
        with torch.autocast(x.device.type, enabled=False):
            x = at_least_float32(x)
            if self.from_image is not None and image is not None:
                x = x + self.from_image(at_least_float32(image))
            x = self.conv(x if self.stddev is None else self.stddev(x))
            x = self.output(bias_act(self.dense(x.flatten(1)), None, self.activation))  # [N, 1 or projection]
            if target is not None:
                return (x * target).sum(1) / math.sqrt(self.projection)
            return x.squeeze(1)


class Discriminator(nn.Module):
    """(image [N, channels, H, W], label) -> logits [N].

    resolution: the longer side. projection: dimensions in which features and mapped label are compared (0: the feature
    maps of the smallest block). group, features: of the minibatch standard deviation (layers/equalised.py); features=0
    leaves it out. frozen: the first so many layers keep their weights (Freeze-D, Mo et al. 2020, arXiv:2002.10964).
    """

    def __init__(
        self,
        resolution: int,
        channels: int,
        *,
        classes: int = 0,
        settings: ConvolutionSettings = ConvolutionSettings("resnet"),  # noqa: B008 (frozen)
        map_settings: MappingSettings = MappingSettings(),  # noqa: B008
        projection: int = 0,
        group: int = 4,
        features: int = 1,
        base: tuple[int, int] = (4, 4),
        frozen: int = 0,
    ) -> None:
        super().__init__()
        steps = sizes(resolution, base)
        maps = widths(len(steps), settings.channel_base, settings.channel_max)
        projection = (projection or maps[0]) if classes else 0
        self.blocks = nn.ModuleDict()
        for level in range(len(steps) - 1, 0, -1):
            inputs = 0 if level == len(steps) - 1 else maps[level]
            block = DiscriminatorBlock(inputs, maps[level], maps[level - 1], channels, settings)
            self.blocks[f"b{4 * 2**level}"] = block
        self.mapping = Mapping(0, classes, projection, settings=map_settings, decay=None) if classes else None
        self.epilogue = Epilogue(
            maps[0], steps[0], channels, projection, group=group, features=features, settings=settings
        )
        for layer in self.layers()[:frozen]:
            layer.requires_grad_(False)

    def layers(self) -> list[Conv]:
        """The blocks' convolutions in the official order, from the image on: what Freeze-D counts."""
        return [layer for block in self.blocks.values() for layer in block.children() if isinstance(layer, Conv)]

    def forward(self, image: Tensor, label: Tensor | None = None) -> Tensor:
        x: Tensor | None = None
        rest: Tensor | None = image
        for block in self.blocks.values():
            x, rest = block(x, rest)
        target = None if self.mapping is None else self.mapping(None, label)
        logits: Tensor = self.epilogue(x, rest, target)
        return logits


# ---- the game
MAIN = frozenset({"gan", "r2", "gradient_penalty", "dragan", "drift"})


class StyleGAN2(LatentGame):
    """G minimises softplus(-D(G(z))) plus path lengths, D softplus(D(G(z))) + softplus(-D(x)) plus R1."""

    averaged = ("generator",)
    path_length_mean: Tensor

    def __init__(self, recipe: StyleGAN2Recipe) -> None:
        super().__init__()
        self.recipe = recipe
        self.objective = objective(recipe.objective)
        self.prior = Prior(recipe.latent, "normal")
        if recipe.conditional and not recipe.classes:
            raise UserError("conditional stylegan2 needs labelled images, and these have none; use conditional=False.")
        self.classes = recipe.classes if recipe.conditional else 0
        self.generator = self.make_generator()
        self.discriminator = self.make_discriminator()
        self.augment = Augmentation(recipe.augment)
        self.register_buffer("path_length_mean", torch.zeros(()))
        self.couples = frozenset(
            name
            for name, on in (("minibatch-stddev", recipe.stddev_features), ("path-length", recipe.path_length))
            if on
        )
        self.players = (
            Player("generator", self.generator, self.generator_loss, steps=recipe.g.steps),
            Player("discriminator", self.discriminator, self.discriminator_loss, steps=recipe.d.steps),
        )

    def make_generator(self) -> Generator:
        r = self.recipe
        return Generator(
            r.latent, self.classes, r.w, r.resolution, r.channels, map_settings=r.g_map, settings=r.g_net,
            noise=r.noise, base=r.base, decay=r.w_average_decay,
        )  # fmt: skip

    def make_discriminator(self) -> Discriminator:
        r = self.recipe
        return Discriminator(
            r.resolution, r.channels, classes=self.classes, settings=r.d_net, map_settings=r.d_map,
            projection=r.projection, group=r.stddev_group, features=r.stddev_features, base=r.base,
            frozen=r.freeze_d,
        )  # fmt: skip

    # ---- schedule
    def stage(self, clock: int) -> Stage:
        """Adam's settings corrected for lazy regularisation (appendix B of 1912.04958).

        A term that takes a step of its own every k rounds makes k + 1 steps of k. With c = k / (k + 1), the rate lr c
        and the decays beta^c leave the distance travelled and the memory, counted in rounds, as they were. The official
        code corrects by the interval alone, also where the term's weight is 0.
        """
        settings: dict[str, dict[str, Any]] = {}
        for name, every in (("generator", self.recipe.path_every), ("discriminator", self.recipe.r1_every)):
            move = self.recipe.optimizers()[name]
            c = every / (every + 1) if every else 1.0
            settings[name] = {"lr": move.lr * c}
            if move.kind in ("adam", "adamw"):
                settings[name]["betas"] = (move.betas[0] ** c, move.betas[1] ** c)
        return Stage(settings=settings)

    def moves(self, step: int) -> list[Move]:
        """The official order: G, its path lengths when they are due, D, its R1 when it is due; new numbers for each."""
        r = self.recipe
        order = [Move("generator", "noise", frozenset({"gan"}) if r.path_every else None)] * r.g.steps
        if r.path_every and r.path_length and step % r.path_every == 0:
            order.append(Move("generator", "noise", frozenset({"path_length"})))
        order += [Move("discriminator", "noise", MAIN if r.r1_every else None)] * r.d.steps
        if r.r1_every and r.penalty.r1 and step % r.r1_every == 0:
            order.append(Move("discriminator", "noise", frozenset({"r1"})))
        return [order[0]._replace(draw="data"), *order[1:]]

    def advance(self, step: int, clock: int) -> None:
        self.augment.advance(step, self.recipe.batch)

    # ---- what the players see
    def label(self, round: Round) -> Tensor | None:
        return round["label"] if self.classes else None

    def styles(self, round: Round, rows: slice, name: str = "") -> Tensor:
        """ws [N, copies, style] of new latents; with probability `style_mixing`, from a random layer on, of others.

        One coin and one layer for all samples, as officially.
        """
        label = self.label(round)
        label = label if label is None else label[rows]
        mapping, copies = self.generator.mapping, self.generator.mapping.copies
        ws: Tensor = mapping(self.prior.of(round, f"{name}z")[rows], label)
        if not self.recipe.style_mixing:
            return ws
        coin, where = round.common(f"{name}mix"), round.common(f"{name}mix.layer")
        cutoff = torch.where(coin < self.recipe.style_mixing, 1 + (where * (copies - 1)).floor(), copies)
        others = mapping(self.prior.of(round, f"{name}z2")[rows], label, tracked=False)
        early = torch.arange(copies, device=ws.device) < cutoff  # [copies]
        return torch.where(early[:, None], ws, others)

    def fakes(self, round: Round) -> Tensor:
        """Generated images [N, C, H, W] with new noise."""
        noise = lambda name, *shape: round.normal(f"noise.{name}", *shape)  # noqa: E731
        images: Tensor = self.generator.synthesis(self.styles(round, slice(None)), noise=noise)
        return images

    def judged(self, round: Round, name: str) -> Callable[[Tensor], Tensor]:
        """The discriminator as a function of images, with this round's labels and augmentation."""
        return lambda images: self.discriminator(self.augment(images, round, name), self.label(round))

    # ---- the game
    def generator_loss(self, round: Round) -> Terms:
        terms: Terms = {}
        if round.asks("gan"):
            logits = self.judged(round, "fake")(self.fakes(round))
            real = None
            if self.objective.uses_real_in_generator:
                real = self.judged(round, "real")(round["image"])
            terms["gan"] = self.objective.generator(logits, real).mean()
        gain = round.lazy(max(1, self.recipe.path_every), "path_length")
        if gain and self.recipe.path_length:
            terms["path_length"] = gain * self.recipe.path_length * self.path_penalty(round)
        return terms

    def path_penalty(self, round: Round) -> Tensor:
        """E (|J^T y|_2 - a)^2, y ~ N(0, I) / sqrt(HW), a the running mean of the lengths (eq. 4 of 1912.04958).

        The length of a sample is the root of the mean over layers of |d(G(w) y)/dw|^2. As in the official code the mean
        that the lengths are compared with holds this batch's share, so its gradient flows; what is stored does not.
        """
        every = self.recipe.path_shrink
        rows = slice(-round.first % every, None, every)  # every second sample of the *global* batch
        own = len(range(round.size)[rows])
        # A micro-batch without one takes part with weight 0 (but in the running mean of w), since all processes add up.
        rows = rows if own else slice(0, 1)
        lengths = path_lengths(partial(self.numbered, round, rows), self.styles(round, rows, "path."))
        total, count = (lengths if own else 0 * lengths).sum(), lengths.new_tensor(float(own))
        if in_a_move():
            total, count = distributed.mean(total), distributed.mean(count)
        if not count:
            return total
        mean = total / count
        reference = torch.lerp(self.path_length_mean, mean, self.recipe.path_decay)
        track(self.path_length_mean, mean, self.recipe.path_decay)
        round.note("path_length_mean", mean)
        share = own * round.total / (round.size * -(-round.total // every))  # 1 unless a batch is cut unevenly
        return share * (lengths - reference).square().mean()

    def numbered(self, round: Round, rows: slice, ws: Tensor) -> Tensor:
        """sum over pixels and samples of G(w) y: its gradient by w is J^T y."""
        noise = lambda name, *shape: round.normal(f"path.noise.{name}", *shape)[rows]  # noqa: E731
        images = self.generator.synthesis(ws, noise=noise)
        y = round.normal("path.y", *images.shape[1:])[rows] / math.sqrt(images[0, 0].numel())
        return (images * y).sum()

    def discriminator_loss(self, round: Round) -> Terms:
        terms: Terms = {}
        real, penalty, every = round["image"], self.recipe.penalty, self.recipe.r1_every
        if any(round.asks(name) for name in MAIN):
            weights = penalty if not every else dataclasses.replace(penalty, r1=0.0)
            critics = self.judged(round, "real"), self.judged(round, "fake")
            judged = judge(critics[0], real, self.fakes(round), round, weights, fake_critic=critics[1])
            terms["gan"] = self.objective.discriminator(judged.real, judged.fake).mean()
            terms |= judged.penalties
            self.augment.observe(judged.real, round)
        gain = round.lazy(every, "r1") if every else 0.0
        if gain and penalty.r1:
            # by the images before augmentation
            _, squared = slope(self.judged(round, "real"), real, mixed=penalty.mixed)
            terms["r1"] = gain * penalty.r1 * zero_centred(squared).mean()
        return terms

    # ---- use
    def mapped(
        self,
        n: int,
        seed: int = 0,
        *,
        z: Tensor | None = None,
        label: Label = None,
        truncation: float = 1.0,
        cutoff: int | None = None,
    ) -> Tensor:
        """ws [n, copies, style] of latents z [n, latent] or of the seed; see `sample`."""
        z = self.draw_latents(n, seed) if z is None else z
        labels = chosen_labels(label, len(z), self.classes, self.device) if self.classes else None
        with self.evaluating():
            ws: Tensor = self.generator.mapping(z, labels, truncation=truncation, cutoff=cutoff)
        return ws

    def sample(
        self,
        n: int,
        seed: int = 0,
        *,
        z: Tensor | None = None,
        w: Tensor | None = None,
        label: Label = None,
        truncation: float = 1.0,
        cutoff: int | None = None,
        noise: Literal["const", "random", "none"] = "const",
        batch: int = 64,
    ) -> Tensor:
        """n images, clamped to [-1, 1], [n, C, H, W], from the seed, from latents z [n, latent] or from styles w.

        w: [n, style], or [n, copies, style] with styles of their own for each layer (style mixing).
        label (conditional): one class for all, one each, or None for the classes in turn. truncation: 1 is off, 0 the
        average image; cutoff: in the first so many layers only. noise: the stored images, new ones from the seed, or
        none.
        """
        if noise not in ("const", "random", "none"):
            raise UserError(f"noise is const, random or none, not {noise!r}.")
        if w is None:
            ws = self.mapped(n, seed, z=z, label=label, truncation=truncation, cutoff=cutoff)
        else:
            ws = w if w.ndim == 3 else w.unsqueeze(1).expand(-1, self.generator.mapping.copies, -1)
        images = []
        with self.evaluating():
            for first in range(0, len(ws), batch):
                part = ws[first : first + batch]
                given: Noise = partial(_fresh, part, seed, first) if noise == "random" else noise
                images.append(self.generator.synthesis(part, noise=given))
        if not images:
            return torch.empty(0, self.recipe.channels, *self.recipe.shape)
        return torch.cat(images).clamp(-1, 1)

    def mix(self, coarse: Tensor, fine: Tensor, layer: int, **controls: Any) -> Tensor:
        """Images with the styles of latents `coarse` [n, latent] in the first `layer` layers, then those of `fine`."""
        early, late = self.mapped(0, z=coarse, **controls), self.mapped(0, z=fine, **controls)
        return self.sample(0, w=torch.cat([early[:, :layer], late[:, layer:]], 1))

    def interpolate_classes(self, z: Tensor, first: int, second: int, steps: int = 8, **controls: Any) -> Tensor:
        """Images [steps, C, H, W] of one latent z [latent] along the line in w between what two classes make of it."""
        if not self.classes:
            return super().interpolate_classes(z, first, second, steps, **controls)  # says why not
        styles = {name: controls.pop(name) for name in ("truncation", "cutoff") if name in controls}
        ends = self.mapped(0, z=z.expand(2, -1), label=[first, second], **styles)  # [2, copies, style]
        return self.sample(0, w=line(ends[0], ends[1], steps), **controls)

    def interpolate(  # type: ignore[override]
        self, start: Tensor, end: Tensor, steps: int = 8, *, space: Literal["w", "z"] = "w"
    ) -> Tensor:
        """Images [steps, C, H, W] along the straight line between two latents [latent], in w or in z."""
        if space == "z":
            return self.sample(0, z=line(start, end, steps))
        ends = self.mapped(0, z=torch.stack([start, end]))[:, 0]  # [2, style]
        return self.sample(0, w=line(ends[0], ends[1], steps))


def path_lengths(numbered: Callable[[Tensor], Tensor], ws: Tensor) -> Tensor:
    """sqrt(mean over layers of |d numbered / d w|^2) per sample, [N]; ws: [N, copies, style]. Differentiable."""
    gradient = torch.func.grad(numbered)(ws)
    # The root of an exact 0 (an image that does not depend on w) has no derivative.
    return (gradient.square().sum(2).mean(1) + 1e-24).sqrt()


def _fresh(ws: Tensor, seed: int, first: int, name: str, *shape: int) -> Tensor:
    """Noise [N, *shape] for samples first, first + 1, ...; each row a pure function of (seed, its number, layer)."""
    rows = [
        torch.randn(shape, generator=keyed_generator(ws.device, "noise", seed, first + i, name), device=ws.device)
        for i in range(len(ws))
    ]
    return torch.stack(rows).to(ws.dtype)
