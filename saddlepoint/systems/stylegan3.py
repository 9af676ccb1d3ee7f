"""StyleGAN3, alias-free generative adversarial networks (Karras et al. 2021, arXiv:2106.12423).

Feature maps are samples of continuous signals. Whatever leaks absolute pixel coordinates is gone: Fourier features
with a learned motion take the place of the learned constant, margins that of padding, and each nonlinearity works at a
higher sampling rate between two low-pass filters, so that nothing aliases. Details then move with the object that they
belong to. T: equivariant to translation; R: 1x1 kernels and radially symmetric filters, equivariant to rotation too.
The discriminator and the loss are StyleGAN2's. Official code: NVlabs/stylegan3. Where we differ:
- the running mean square of a layer's input is that of all devices and micro-batches;
- a gradient that is not finite ends the run, labels of fakes are those of the real batch (as in our StyleGAN2);
- no half precision by layer: float32, or bfloat16 by autocast everywhere but in the input and the styles;
- a motion of the image is given as it is meant (`sample(translate=..., rotate=...)`); the official buffer, which
  holds its inverse, is kept beside it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from saddlepoint import distributed
from saddlepoint.errors import UserError
from saddlepoint.game import Round
from saddlepoint.layers.equalised import EqualisedLinear
from saddlepoint.layers.latent import Label
from saddlepoint.layers.resample import SQRT2, filter2d, filtered_lrelu
from saddlepoint.objectives import at_least_float32
from saddlepoint.recipes.stylegan2 import ConvolutionSettings
from saddlepoint.recipes.stylegan3 import StyleGAN3Recipe
from saddlepoint.systems.stylegan2 import Mapping, StyleGAN2
from saddlepoint.tracking import in_a_move, track

EPS = 1e-8


# ---- filters
def kaiser_beta(taps: int, width: float, rate: float) -> float:
    """Shape of the Kaiser window for a transition band of `width` at sampling rate `rate` (section 3.1, appendix C).

    Attenuation A = 2.285 (taps - 1) pi width / (rate / 2) + 7.95 dB, then Kaiser's formula for beta(A).
    """
    a = 2.285 * (taps - 1) * math.pi * width / (rate / 2) + 7.95
    if a > 50:
        return 0.1102 * (a - 8.7)
    return 0.5842 * (a - 21) ** 0.4 + 0.07886 * (a - 21) if a > 21 else 0.0


def low_pass(taps: int, cutoff: float, width: float, rate: float, radial: bool = False) -> Tensor | None:
    """A windowed ideal low-pass filter with gain 1 at frequency 0, float32; one tap is no filter (None).

    Separable: sinc(2 fc x) times Kaiser's window, [taps]. radial: J1(2 pi fc r) / (pi r), the ideal filter of a disc,
    times the window along both axes, [taps, taps]. x, r: in units of 1 / fc, tap spacing 1 / rate.
    """
    if taps == 1:
        return None
    x: NDArray[Any] = (np.arange(taps) - (taps - 1) / 2) / rate
    window = np.kaiser(taps, kaiser_beta(taps, width, rate))
    if not radial:
        f = np.sinc(2 * cutoff * x) * window
    else:
        from scipy.special import j1

        r = np.hypot(*np.meshgrid(x, x))
        centre = r == 0  # only with an odd number of taps; the limit is pi fc^2 / pi
        r[centre] = 1
        f = np.where(centre, math.pi * cutoff**2, j1(2 * math.pi * cutoff * r) / r) / math.pi
        f = f * np.outer(window, window)
    return torch.as_tensor(f / f.sum(), dtype=torch.float32)


# ---- the plan of the layers
@dataclass(frozen=True)
class Band:
    """A signal: samples per image, cutoff and half the transition band in cycles per image, samples per side."""

    rate: int
    cutoff: float
    half_width: float
    size: int


@dataclass(frozen=True)
class LayerPlan:
    """Everything that decides a layer: the signals it reads and writes, channels, filters and padding."""

    name: str
    source: Band
    target: Band
    inputs: int
    outputs: int
    kernel: int
    to_image: bool
    critical: bool
    radial: bool
    up: int
    down: int
    up_taps: int
    down_taps: int

    @property
    def rate(self) -> int:
        """Samples per image while the nonlinearity is evaluated."""
        return self.source.rate * self.up

    @property
    def padding(self) -> tuple[int, int]:
        """Before and after each axis at the high rate: crops what the full convolution and the margins have too much.

        (size_out - 1) down + 1 samples at the high rate are wanted; up and down filters shorten by their taps - 1.
        """
        total = (self.target.size - 1) * self.down + 1 - (self.source.size + self.kernel - 1) * self.up
        total += self.up_taps + self.down_taps - 2
        before = (total + self.up) // 2
        return before, total - before

    def up_filter(self) -> Tensor | None:
        return low_pass(self.up_taps, self.source.cutoff, 2 * self.source.half_width, self.rate)

    def down_filter(self) -> Tensor | None:
        return low_pass(self.down_taps, self.target.cutoff, 2 * self.target.half_width, self.rate, self.radial)


def bands(recipe: StyleGAN3Recipe) -> list[Band]:
    """The signal after each layer (section 3.2, appendix C): cutoffs and stopbands grow geometrically up to the
    critical layers; the sampling rate is the next power of two that holds the stopband, at most the image's.
    """
    n, resolution = recipe.layers, recipe.resolution
    growing = n - recipe.critical
    if growing < 1 or recipe.critical < 0:
        raise UserError(
            f"stylegan3 needs more layers than critical ones, not layers={n} and critical={recipe.critical}."
        )
    e = np.minimum(np.arange(n + 1) / growing, 1)
    cutoffs = recipe.first_cutoff * (resolution / 2 / recipe.first_cutoff) ** e
    stopbands = recipe.first_stopband * (resolution / 2 * recipe.last_stopband / recipe.first_stopband) ** e
    rates = np.exp2(np.ceil(np.log2(np.minimum(2 * stopbands, resolution))))
    half_widths = np.maximum(stopbands, rates / 2) - cutoffs
    sizes = rates + 2 * recipe.margin
    sizes[-2:] = resolution
    rows = zip(rates, cutoffs, half_widths, sizes, strict=True)
    return [Band(int(rate), float(cutoff), float(half), int(size)) for rate, cutoff, half, size in rows]


def plan(recipe: StyleGAN3Recipe) -> list[LayerPlan]:
    """All layers, the last one makes the image."""
    signals, net, n = bands(recipe), recipe.g_net, recipe.layers
    maps = [round(min(net.channel_base / 2 / band.cutoff, net.channel_max)) for band in signals]
    maps[-1] = recipe.channels
    made = []
    for i, target in enumerate(signals):
        source, to_image, critical = signals[max(i - 1, 0)], i == n, i >= n - recipe.critical
        rate = max(source.rate, target.rate) * (1 if to_image else recipe.oversampling)
        up, down = round(rate / source.rate), round(rate / target.rate)
        taps = [recipe.filter_taps * f if f > 1 and not to_image else 1 for f in (up, down)]
        layer = LayerPlan(
            f"L{i}_{target.size}_{maps[i]}", source, target, maps[max(i - 1, 0)], maps[i],
            1 if to_image else recipe.kernel, to_image, critical, recipe.radial and not critical, up, down, *taps,
        )  # fmt: skip
        made.append(layer)
    return made


# ---- generator
class FourierInput(nn.Module):
    """Fourier features of a plane that w turns and shifts (section 3.2, "flow"): [N, channels, height, width].

    Frequencies within the disc of radius `bandwidth`, phases and the user's transform are buffers. x(p) =
    sin(2 pi (f . M p + phase)) with M = R(r) T(-t) M_user, (r, t) an affine function of w, faded out where the moved
    frequency exceeds what the sampling rate carries; then a square matrix over the channels.
    """

    frequencies: Tensor
    phases: Tensor
    transform: Tensor

    def __init__(self, style: int, channels: int, size: tuple[int, int], rate: float, bandwidth: float) -> None:
        super().__init__()
        self.size, self.rate, self.bandwidth = size, rate, bandwidth  # size: (width, height)
        g = torch.randn(channels, 2)
        radius = g.norm(dim=1, keepdim=True)  # exp(-radius^2 / 4) |f| makes it nearly uniform in the disc
        self.weight = nn.Parameter(torch.randn(channels, channels))
        self.affine = EqualisedLinear(style, 4)
        nn.init.zeros_(self.affine.weight)
        assert self.affine.bias is not None
        with torch.no_grad():
            self.affine.bias[0] = 1.0  # no rotation, no shift
        self.register_buffer("transform", torch.eye(3))
        self.register_buffer("frequencies", g / radius * torch.exp(-radius.square() / 4) * bandwidth)
        self.register_buffer("phases", torch.rand(channels) - 0.5)

    def forward(self, w: Tensor, transform: Tensor | None = None) -> Tensor:
        """w [N, style]; transform: [3, 3] or [N, 3, 3] instead of the buffer, the inverse of the image's motion."""
        # Copies: buffers may be put back (Game.untouched) before the graph that has read them is differentiated
        frequencies = self.frequencies.clone()
        given = self.transform.clone() if transform is None else transform
        with torch.autocast(w.device.type, enabled=False):
            motion = self.motion(at_least_float32(w)) @ given  # [N, 3, 3]
            f = frequencies @ motion[:, :2, :2]  # [N, C, 2]
            phases = self.phases + (frequencies @ motion[:, :2, 2:]).squeeze(2)  # [N, C]
            span = self.rate / 2 - self.bandwidth
            amplitudes = (1 - (f.norm(dim=2) - self.bandwidth) / span).clamp(0, 1)  # [N, C]
            x = torch.tensordot(self.grid(f), f, ([2], [2])).permute(2, 0, 1, 3)  # [N, H, W, C]
            x = torch.sin(2 * math.pi * (x + phases[:, None, None])) * amplitudes[:, None, None]
            x = F.linear(x, self.weight / math.sqrt(len(self.weight)))
        return x.permute(0, 3, 1, 2)

    def motion(self, w: Tensor) -> Tensor:
        """R(r) T(-t) of each style, [N, 3, 3]; (cos, sin, x, y), all four divided by |(cos, sin)|."""
        t = self.affine(w)
        cos, sin, x, y = (t / t[:, :2].norm(dim=1, keepdim=True)).unbind(1)
        zero, one = torch.zeros_like(cos), torch.ones_like(cos)
        turned = torch.stack([cos, -sin, zero, sin, cos, zero, zero, zero, one], 1).view(-1, 3, 3)
        moved = torch.stack([one, zero, -x, zero, one, -y, zero, zero, one], 1).view(-1, 3, 3)
        return turned @ moved

    def grid(self, like: Tensor) -> Tensor:
        """(x, y) of the pixels' centres, in images, 0 in the middle, [H, W, 2]; the margins lie beyond +-1/2."""
        width, height = self.size
        x = (torch.arange(width, device=like.device, dtype=like.dtype) + 0.5 - width / 2) / self.rate
        y = (torch.arange(height, device=like.device, dtype=like.dtype) + 0.5 - height / 2) / self.rate
        return torch.stack([x[None, :].expand(height, -1), y[:, None].expand(-1, width)], 2)


def modulated_conv2d(
    x: Tensor,
    weight: Tensor,
    styles: Tensor,
    demodulate: bool = True,
    padding: int | tuple[int, int] = 0,
    input_gain: Tensor | None = None,
) -> Tensor:
    """Modulated convolution of StyleGAN3: StyleGAN2's on weights and styles of unit mean square, times an input gain.

    x: [N, I, H, W]; weight: [O, I, k, k]; styles: [N, I]; input_gain: a number, [I] or [N, I], applied after
    demodulation. With demodulation each output's weights and the styles (over all samples) are first brought to mean
    square 1, which matters only to half precision: the factors cancel but for the 1e-8 under the root.
    As in layers/modulated.py the activations are scaled, not the weights, so that the convolution is dense.
    """
    with torch.autocast(x.device.type, enabled=False):
        w, s = at_least_float32(weight), at_least_float32(styles)
        if demodulate:
            w = w * w.square().mean((1, 2, 3), keepdim=True).rsqrt()
            s = s * s.square().mean().rsqrt()
            scale = (s.square() @ w.square().sum((2, 3)).t() + EPS).rsqrt()  # [N, O]
        into = s if input_gain is None else s * input_gain
    x = x * into.to(x.dtype)[:, :, None, None]
    y = F.conv2d(x, w.to(x.dtype), padding=padding)
    return y * scale.to(y.dtype)[:, :, None, None] if demodulate else y


class SynthesisLayer(nn.Module):
    """Modulated convolution, then bias and leaky ReLU between two filters (figure 4b); the last one is linear."""

    up_filter: Tensor | None
    down_filter: Tensor | None
    magnitude: Tensor

    def __init__(self, plan: LayerPlan, style: int, clamp: float, decay: float) -> None:
        super().__init__()
        self.plan, self.clamp, self.decay = plan, clamp, decay
        self.affine = EqualisedLinear(style, plan.inputs, bias_start=1.0)
        self.weight = nn.Parameter(torch.randn(plan.outputs, plan.inputs, plan.kernel, plan.kernel))
        self.bias = nn.Parameter(torch.zeros(plan.outputs))
        self.register_buffer("magnitude", torch.ones(()))
        self.register_buffer("up_filter", plan.up_filter())
        self.register_buffer("down_filter", plan.down_filter())

    def forward(self, x: Tensor, w: Tensor, tracked: bool = False) -> Tensor:
        """x [N, inputs, size, size], w [N, style]; tracked: move the running mean square of x first."""
        with torch.autocast(w.device.type, enabled=False):
            styles = self.affine(w) * (1 / math.sqrt(self.plan.inputs) if self.plan.to_image else 1.0)
        x = modulated_conv2d(
            x, self.weight, styles, not self.plan.to_image, self.plan.kernel - 1, self.input_gain(x, tracked)
        )
        linear = self.plan.to_image
        return filtered_lrelu(
            x, self.up_filter, self.down_filter, self.bias, self.plan.up, self.plan.down, self.plan.padding * 2,
            gain=1.0 if linear else SQRT2, slope=1.0 if linear else 0.2, clamp=self.clamp or None,
        )  # fmt: skip

    def input_gain(self, x: Tensor, tracked: bool) -> Tensor:
        """1 / sqrt(E x^2), the mean running along (section 3.2): it takes the place of normalising the data itself.

        Officially the mean moves before it is used, so the pass that moves it already sees it moved.
        """
        if not tracked:
            return self.magnitude.rsqrt()
        square = at_least_float32(x).square().mean()
        square = distributed.mean(square) if in_a_move() else square
        track(self.magnitude, square, 1 - self.decay)
        return torch.lerp(self.magnitude, square.to(self.magnitude.dtype), 1 - self.decay).rsqrt()


class Synthesis(nn.Module):
    """ws [N, layers + 2, style] -> image [N, channels, R, R]: the input, the layers, the image's layer."""

    def __init__(self, recipe: StyleGAN3Recipe) -> None:
        super().__init__()
        if recipe.base != (4, 4):
            raise UserError(f"stylegan3 makes square images from a first block of (4, 4), not {recipe.base}.")
        if (recipe.g_net.architecture, recipe.g_net.taps, recipe.g_net.activation) != _ONLY:
            raise UserError("stylegan3's generator has one architecture: of g_net only channels and clamp can be set.")
        layers, decay = plan(recipe), recipe.magnitude_decay or 0.5 ** (recipe.batch / 20_000)
        first = layers[0]
        self.channels, self.output_scale, self.copies = recipe.channels, recipe.output_scale, len(layers) + 1
        side = (first.source.size, first.source.size)
        self.input = FourierInput(recipe.w, first.inputs, side, first.source.rate, first.source.cutoff)
        make = partial(SynthesisLayer, style=recipe.w, clamp=recipe.g_net.clamp, decay=decay)
        self.layers = nn.ModuleDict({layer.name: make(layer) for layer in layers})

    def forward(self, ws: Tensor, *, transform: Tensor | None = None, tracked: bool = False) -> Tensor:
        """transform: see FourierInput. tracked: move the layers' running mean squares."""
        if ws.ndim != 3 or ws.shape[1] != self.copies:
            raise UserError(f"styles are [N, {self.copies}, w] here, not {list(ws.shape)}.")
        x = self.input(ws[:, 0], transform)
        for layer, w in zip(self.layers.values(), ws[:, 1:].unbind(1), strict=True):
            x = layer(x, w, tracked)
        return at_least_float32(x) * self.output_scale


_DEFAULT = ConvolutionSettings()
_ONLY = (_DEFAULT.architecture, _DEFAULT.taps, _DEFAULT.activation)


class QuietMapping(Mapping):
    """StyleGAN2's mapping network, whose running mean of w moves only when it is told to."""

    def forward(
        self,
        z: Tensor | None,
        label: Tensor | None = None,
        *,
        truncation: float = 1.0,
        cutoff: int | None = None,
        tracked: bool = False,
    ) -> Tensor:
        return super().forward(z, label, truncation=truncation, cutoff=cutoff, tracked=tracked)


class Generator(nn.Module):
    """(z [N, latent], label) -> image [N, channels, R, R]; `mapping` and `synthesis` are its two halves."""

    def __init__(self, recipe: StyleGAN3Recipe, classes: int) -> None:
        super().__init__()
        self.synthesis = Synthesis(recipe)
        self.mapping = QuietMapping(
            recipe.latent, classes, recipe.w, copies=self.synthesis.copies, settings=recipe.g_map,
            decay=recipe.w_average_decay,
        )  # fmt: skip

    def forward(
        self,
        z: Tensor,
        label: Tensor | None = None,
        *,
        truncation: float = 1.0,
        cutoff: int | None = None,
        transform: Tensor | None = None,
        tracked: bool = False,
    ) -> Tensor:
        ws = self.mapping(z, label, truncation=truncation, cutoff=cutoff, tracked=tracked)
        image: Tensor = self.synthesis(ws, transform=transform, tracked=tracked)
        return image


# ---- the game
def blur(images: Tensor, sigma: float) -> Tensor:
    """Images [N, C, H, W] through 2^-(k / sigma)^2, |k| <= 3 sigma, normalised, along both axes."""
    reach = math.floor(3 * sigma)
    if reach < 1:
        return images
    k = torch.arange(-reach, reach + 1, device=images.device, dtype=torch.float32)
    f = torch.exp2(-(k / sigma).square())
    return filter2d(images, f / f.sum())


class StyleGAN3(StyleGAN2):
    """StyleGAN2's game with another generator: no noise, no style mixing, no path lengths as published."""

    recipe: StyleGAN3Recipe
    generator: Generator  # type: ignore[assignment]

    def __init__(self, recipe: StyleGAN3Recipe) -> None:
        super().__init__(recipe)
        self.couples = self.couples | {"input-magnitude"}

    def make_generator(self) -> Generator:  # type: ignore[override]
        return Generator(self.recipe, self.classes)

    # ---- what the players see
    def fakes(self, round: Round) -> Tensor:
        """Generated images [N, C, H, W]. Running means move in the discriminator's passes only, as officially."""
        mapping, tracked = self.generator.mapping, round.player == "discriminator"
        ws = self.styles(round, slice(None))
        if tracked:  # the first copy is never one of mixed styles
            track(mapping.average, ws[:, 0].mean(0), 1 - self.recipe.w_average_decay)
        images: Tensor = self.generator.synthesis(ws, tracked=tracked)
        return images

    def numbered(self, round: Round, rows: slice, ws: Tensor) -> Tensor:
        images = self.generator.synthesis(ws)
        y = round.normal("path.y", *images.shape[1:])[rows] / math.sqrt(images[0, 0].numel())
        return (images * y).sum()

    def sigma(self, clock: int) -> float:
        """Blur of all that the discriminator sees after `clock` images, in pixels; none for a game that was trained
        before.
        """
        r = self.recipe
        if r.init_from or not r.blur_sigma or r.blur_fade_kimg <= 0:
            return 0.0
        return r.blur_sigma * max(1 - clock / (1000 * r.blur_fade_kimg), 0.0)

    def judged(self, round: Round, name: str) -> Any:
        judge, sigma = super().judged(round, name), self.sigma(round.clock)
        return lambda images: judge(blur(images, sigma))

    # ---- use
    def sample(  # type: ignore[override]
        self,
        n: int,
        seed: int = 0,
        *,
        z: Tensor | None = None,
        w: Tensor | None = None,
        label: Label = None,
        truncation: float = 1.0,
        cutoff: int | None = None,
        translate: tuple[float, float] = (0.0, 0.0),
        rotate: float = 0.0,
        transform: Tensor | None = None,
        batch: int = 64,
    ) -> Tensor:
        """n images, clamped to [-1, 1], [n, C, H, W], from the seed, from latents z [n, latent] or from styles w.

        w: [n, style], or [n, copies, style] with styles of their own for each layer (style mixing).
        label (conditional): one class for all, one each, or None for the classes in turn. truncation: 1 is off, 0 the
        average image; cutoff: in the first so many layers only. translate: in image widths, right and down; rotate: in
        degrees, counter-clockwise, about the middle, before the translation; transform: any motion of the plane as a
        matrix [3, 3] or one each [n, 3, 3], in image widths from the middle, instead of the two.
        """
        if w is None:
            ws = self.mapped(n, seed, z=z, label=label, truncation=truncation, cutoff=cutoff)
        else:
            ws = w if w.ndim == 3 else w.unsqueeze(1).expand(-1, self.generator.synthesis.copies, -1)
        matrices = inverse(transform, translate, rotate).to(ws.device, ws.dtype).expand(len(ws), 3, 3)
        images = []
        with self.evaluating():
            for part, matrix in zip(_parts(ws, batch), _parts(matrices, batch), strict=True):
                images.append(
                    self.generator.synthesis(part, transform=self.generator.synthesis.input.transform @ matrix)
                )
        if not images:
            return torch.empty(0, self.recipe.channels, *self.recipe.shape)
        return torch.cat(images).clamp(-1, 1)


def inverse(transform: Tensor | None, translate: tuple[float, float], rotate: float) -> Tensor:
    """The inverse of a motion of the image as the input takes it, float64 [..., 3, 3]."""
    if transform is None:
        angle = math.radians(rotate)
        (x, y), cos, sin = translate, math.cos(angle), math.sin(angle)
        transform = torch.tensor([[cos, sin, x], [-sin, cos, y], [0.0, 0.0, 1.0]], dtype=torch.float64)
    elif rotate or any(translate):
        raise UserError("give either transform or translate and rotate, not both.")
    if transform.shape[-2:] != (3, 3):
        raise UserError(f"transform is a matrix [3, 3] or one for each sample, not {list(transform.shape)}.")
    return torch.linalg.inv(transform.double())


def _parts(x: Tensor, length: int) -> Iterator[Tensor]:
    return (x[first : first + length] for first in range(0, len(x), length))
