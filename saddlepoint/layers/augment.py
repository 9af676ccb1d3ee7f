"""Adaptive discriminator augmentation (Karras et al. 2020, arXiv:2006.06676).

Whatever the discriminator sees, real or generated, is first augmented, each operation applied to each sample with
probability p. While p < 1 such a corruption is invertible in distribution, so the generator does not learn it. The
`Controller` raises p while the discriminator overfits and lowers it while it does not.

    Pipe order: flip, quarter turn, integer shift | scale, turn, aniso, turn, shift | one resampling of the image
                | brightness, contrast, luma flip, hue, saturation: one 4x4 matrix | bands | noise | cut-out

All of it is differentiable twice in the image, as R1 needs. Official code: NVlabs/stylegan2-ada-pytorch.
Where we differ:
- the margin of reflected pixels is the maximum over the *global* batch, not over what one process holds, so that
  micro-batches and processes agree;
- images up to 256 pixels are resampled by dense matrices, one per axis, which hold the reflection too: several
  times as fast on a CPU as padding and filtering, because derivatives of thin convolutions are slow there;
- any number of channels: with 3 or 4 the colour operations act on the first three (alpha is left alone), else on each
  channel as if it were grey, which hue and saturation leave as it is. Geometry, noise and cut-out act on all channels;
- images smaller than the band filter are reflected as often as it takes; officially they are refused;
- with p = 0 the image is returned untouched; officially it is resampled, to within 3e-5.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Protocol

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from saddlepoint import tracking
from saddlepoint.errors import UserError, unknown
from saddlepoint.game import Round
from saddlepoint.layers.resample import upfirdn2d, upsample2d
from saddlepoint.recipes.base import Augment

GROUPS: Mapping[str, tuple[str, ...]] = {
    "blit": ("xflip", "rotate90", "xint"),
    "geom": ("scale", "rotate", "aniso", "xfrac"),
    "color": ("brightness", "contrast", "lumaflip", "hue", "saturation"),
    "filter": ("imgfilter",),
    "noise": ("noise",),
    "cutout": ("cutout",),
}
OPERATIONS: tuple[str, ...] = tuple(name for names in GROUPS.values() for name in names)
SETS: Mapping[str, tuple[str, ...]] = {
    **GROUPS,
    "bg": OPERATIONS[:7],
    "bgc": OPERATIONS[:12],
    "bgcf": OPERATIONS[:13],
    "bgcfn": OPERATIONS[:14],
    "bgcfnc": OPERATIONS,
}
STRENGTHS: Mapping[str, float] = {
    "xint_max": 0.125,  # of the side
    "scale_std": 0.2,  # of log2
    "rotate_max": 1.0,  # of half a turn
    "aniso_std": 0.2,
    "xfrac_std": 0.125,  # of the side
    "brightness_std": 0.2,
    "contrast_std": 0.5,  # of log2
    "hue_max": 1.0,  # of half a turn
    "saturation_std": 1.0,  # of log2
    "imgfilter_std": 1.0,  # of log2
    "noise_std": 0.1,
    "cutout_size": 0.5,  # of the side
}
# Daubechies' least asymmetric wavelet of order 6 and the one of order 2: low-pass filters with sum sqrt(2).
SYM6 = (
    0.015404109327027373, 0.0034907120842174702, -0.11799011114819057, -0.048311742585633, 0.4910559419267466,
    0.787641141030194, 0.3379294217276218, -0.07263752278646252, -0.021060292512300564, 0.04472490177066578,
    0.0017677118642428036, -0.007800708325034148,
)  # fmt: skip
SYM2 = (-0.12940952255092145, 0.22414386804185735, 0.836516303737469, 0.48296291314469025)
EXPECTED_POWER = (10 / 13, 1 / 13, 1 / 13, 1 / 13)  # of a photograph's bands, from low to high
MARGIN = len(SYM6) // 4  # pixels that filtering may reach beyond the image
DENSE = 256  # pixels along a side up to which dense matrices resample and filter


# ---- where the numbers come from
class Numbers(Protocol):
    """What draws for the pipe: a `Round` in training; a `Tape` or a `Percentile` where they are given."""

    def uniform(self, name: str, *shape: int) -> Tensor:
        """[N, *shape], uniform in [0, 1)."""

    def normal(self, name: str, *shape: int) -> Tensor:
        """[N, *shape], standard normal."""


class Tape:
    """Recorded draws, handed out one after the other in the order of the pipe, whatever they are called."""

    def __init__(self, draws: Iterable[Tensor]) -> None:
        self.draws = iter(draws)

    def uniform(self, name: str, *shape: int) -> Tensor:
        drawn = next(self.draws, None)
        if drawn is None:
            raise UserError(f"the tape of recorded draws ends before {name!r}.")
        if drawn[0].numel() != math.prod(shape):
            raise UserError(f"the tape has {list(drawn.shape)} where {name!r} needs [N, {', '.join(map(str, shape))}].")
        return drawn.reshape(len(drawn), *shape)

    normal = uniform


@dataclasses.dataclass(frozen=True)
class Percentile:
    """Every operation applied, its number at the quantile q in (0, 1) of its distribution, for n samples.

    As in the official debugging mode normal numbers are erfinv(2q - 1), the quantile over sqrt(2) (for the size of the
    noise, which is positive, erfinv(q)), and the second of the two rotations does nothing. noise: the noise itself,
    [n, C, H, W]; without it, the same standard normal numbers in every call.
    """

    q: float
    n: int
    noise: Tensor | None = None

    def uniform(self, name: str, *shape: int) -> Tensor:
        never = name.endswith("rotate.after.on")
        return torch.full((self.n, *shape), float(never) if name.endswith(".on") else self.q)

    def normal(self, name: str, *shape: int) -> Tensor:
        if name.endswith("noise.field"):
            fixed = torch.Generator().manual_seed(0)
            return torch.randn(self.n, *shape, generator=fixed) if self.noise is None else self.noise
        return torch.erfinv(torch.full((self.n, *shape), self.q if name.endswith(".noise") else 2 * self.q - 1))


@dataclasses.dataclass(frozen=True)
class _Draws:
    """The draws of one call: `name` before every number's, `p` times a multiplier as the chance of every operation."""

    numbers: Numbers
    name: str
    p: Tensor
    like: Tensor

    def uniform(self, name: str, *shape: int) -> Tensor:
        return self.numbers.uniform(f"{self.name}.{name}", *shape).to(self.like)

    def normal(self, name: str, *shape: int) -> Tensor:
        return self.numbers.normal(f"{self.name}.{name}", *shape).to(self.like)

    def gated(self, name: str, chance: float | Tensor, value: Tensor, neutral: float) -> Tensor:
        """`value` with probability `chance`, else `neutral`; one decision per sample, so all [N, ...] alike."""
        on = self.uniform(f"{name}.on", *(1,) * (value.ndim - 1)) < chance
        return torch.where(on, value, value.new_full((), neutral))


# ---- matrices
def _matrix(like: Tensor, *rows: Sequence[Tensor | float]) -> Tensor:
    """Rows of numbers and per-sample numbers [N] -> [N, r, c]."""
    full = [[e if isinstance(e, Tensor) else like.new_full((), e) for e in row] for row in rows]
    return torch.stack([torch.stack([e.expand(len(like)) for e in row], 1) for row in full], 1)


def _shift(x: Tensor, y: Tensor) -> Tensor:
    return _matrix(x, [1, 0, x], [0, 1, y], [0, 0, 1])


def _scale(x: Tensor, y: Tensor) -> Tensor:
    return _matrix(x, [x, 0, 0], [0, y, 0], [0, 0, 1])


def _turn(angle: Tensor) -> Tensor:
    c, s = angle.cos(), angle.sin()
    return _matrix(angle, [c, -s, 0], [s, c, 0], [0, 0, 1])


def _hue(angle: Tensor) -> Tensor:
    """Rotation about the axis of greys (Rodrigues) as [N, 4, 4]."""
    c, s = angle.cos(), angle.sin()
    same, ahead, behind = c + (1 - c) / 3, (1 - c) / 3 - s / math.sqrt(3), (1 - c) / 3 + s / math.sqrt(3)
    return _matrix(
        angle, [same, ahead, behind, 0], [behind, same, ahead, 0], [ahead, behind, same, 0], [0, 0, 0, 1]
    )  # fmt: skip


def _reflected(index: Tensor, side: int) -> Tensor:
    """Positions on an axis that is mirrored at its first and last pixel, as often as it takes."""
    period = max(2 * (side - 1), 1)
    folded = index.remainder(period)
    return torch.minimum(folded, period - folded) if side > 1 else torch.zeros_like(index)


def _upsampling(side: int, before: int, after: int, taps: Tensor) -> Tensor:
    """[2P, side]: an axis reflected to P = before + side + after pixels, then doubled by the filter `taps`."""
    padded, length = before + side + after, len(taps)
    at = torch.arange(2 * padded, device=taps.device)[:, None]
    tap = at + (length - 2) // 2 - 2 * torch.arange(padded, device=taps.device)  # which tap reaches from where
    double = 2 * taps[tap.clamp(0, length - 1)] * ((tap >= 0) & (tap < length))
    source = _reflected(torch.arange(-before, side + after, device=taps.device), side)
    return taps.new_zeros(2 * padded, side).index_add_(1, source, double)


def _downsampling(side: int, taps: Tensor) -> Tensor:
    """[side, 2 (side + 2 MARGIN)]: halved by the mirrored filter, the margin cut off."""
    length = len(taps)
    at = torch.arange(side, device=taps.device)[:, None]
    cut = 2 * MARGIN - (length - 1) // 2
    tap = torch.arange(2 * (side + 2 * MARGIN), device=taps.device) - 2 * at - cut
    return taps[tap.clamp(0, length - 1)] * ((tap >= 0) & (tap < length))


def filter_bank() -> np.ndarray:
    """[4, 43]: band-pass filters of an octave each, from low to high; they add up to the identity."""
    low = np.asarray(SYM2)
    high = low * (-1.0) ** np.arange(len(low))
    low2, high2 = np.convolve(low, low[::-1]) / 2, np.convolve(high, high[::-1]) / 2
    bank = np.eye(4, 1)
    for band in range(1, 4):
        spread = np.zeros((4, 2 * bank.shape[1] - 1))
        spread[:, ::2] = bank
        bank = np.stack([np.convolve(row, low2) for row in spread])
        middle = (bank.shape[1] - len(high2)) // 2
        bank[band, middle : middle + len(high2)] += high2
    return bank


# ---- the pipe
class AugmentPipe(nn.Module):
    """Images [N, C, H, W] -> images augmented with probability p, of the same shape.

    operations: a set ("bgc", the default of the paper; see SETS) or operations separated by commas. settings, by their
    official names: multipliers of p (xflip=1, imgfilter=0.5) and strengths (scale_std=0.2, cutout_size=0.5; see
    STRENGTHS). imgfilter_bands: multiplier of each band's chance.
    Raises UserError for a set, operation or setting that is not known.
    """

    def __init__(
        self, operations: str = "", *, imgfilter_bands: Sequence[float] = (1, 1, 1, 1), **settings: float
    ) -> None:
        super().__init__()
        self.multipliers = dict.fromkeys(OPERATIONS, 0.0) | dict.fromkeys(chosen(operations), 1.0)
        self.strengths = dict(STRENGTHS)
        self.bands = tuple(float(b) for b in imgfilter_bands)
        for name, value in settings.items():
            if name not in self.multipliers and name not in STRENGTHS:
                raise unknown("setting of the augmentation", name, [*OPERATIONS, *STRENGTHS])
            (self.multipliers if name in self.multipliers else self.strengths)[name] = float(value)
        taps, bank = torch.tensor(SYM6, dtype=torch.float64), torch.from_numpy(filter_bank())
        self.register_buffer("Hz_geom", (taps / taps.sum()).float(), persistent=False)
        self.register_buffer("Hz_fbank", bank.float(), persistent=False)
        self.Hz_geom: Tensor
        self.Hz_fbank: Tensor

    def extra_repr(self) -> str:
        return ", ".join(f"{name}={m:g}" for name, m in self.multipliers.items() if m)

    def wants(self, *operations: str) -> bool:
        """Is any of these switched on?"""
        return any(self.multipliers[name] > 0 for name in operations)

    def forward(self, x: Tensor, p: Tensor | float, numbers: Numbers, name: str = "augment") -> Tensor:
        """x [N, C, H, W], float, augmented; the numbers are those called `name` in `numbers`.

        Two calls in one round need two names. Always in float32 or float64, also under autocast.
        """
        if not self.wants(*OPERATIONS) or float(p) == 0:
            return x
        with torch.autocast(x.device.type, enabled=False):
            like = x if x.dtype == torch.float64 else x.float()
            own = _Draws(numbers, name, torch.as_tensor(p).to(like), like)
            everyone, rows = own, slice(None)
            if isinstance(numbers, Round):
                if len(x) != numbers.size:
                    raise UserError(f"{len(x)} images to augment in a round of {numbers.size} samples; expected equal.")
                whole = dataclasses.replace(numbers, first=0, size=numbers.total)
                everyone, rows = dataclasses.replace(own, numbers=whole), slice(numbers.first, numbers.first + len(x))
            return self._applied(like, own, everyone, rows)

    def _applied(self, x: Tensor, own: _Draws, everyone: _Draws, rows: slice) -> Tensor:
        """everyone: draws for the global batch, of which x holds `rows`."""
        channels, height, width = x.shape[1:]
        G = self.geometry(everyone, height, width)
        C = self.colour(everyone, coloured=channels in (3, 4))
        if G is not None:
            x = self.resample(x, G[rows], margins(G, height, width))
        if C is not None:
            x = recolour(x, C[rows])
        if self.wants("imgfilter"):
            x = filtered(x, self.gains(everyone)[rows] @ self.Hz_fbank.to(x))
        if self.wants("noise"):
            x = x + self.noise_size(everyone)[rows] * own.normal("noise.field", *x.shape[1:])
        if self.wants("cutout"):
            x = x * self.window(everyone, height, width)[rows]
        return x

    def _maybe(self, draws: _Draws, name: str, value: Tensor, neutral: float) -> Tensor:
        return draws.gated(name, draws.p * self.multipliers[name], value, neutral)

    def _octaves(self, draws: _Draws, name: str, *shape: int) -> Tensor:
        """A factor 2^N(0, std) with the chance of the operation, else 1."""
        factor = torch.exp2(draws.normal(name, *shape) * self.strengths[f"{name}_std"])
        return self._maybe(draws, name, factor, 1)

    # ---- the matrices
    def geometry(self, draws: _Draws, height: int, width: int) -> Tensor | None:
        """[N, 3, 3]: where in the image, in pixels from its middle, a pixel of the result looks. None: nowhere else."""
        G: list[Tensor] = []
        if self.wants("xflip"):
            i = self._maybe(draws, "xflip", (draws.uniform("xflip") * 2).floor(), 0)
            G.append(_scale(1 / (1 - 2 * i), torch.ones_like(i)))
        if self.wants("rotate90"):
            i = self._maybe(draws, "rotate90", (draws.uniform("rotate90") * 4).floor(), 0)
            G.append(_turn(i * (math.pi / 2)))
        if self.wants("xint"):
            t = (draws.uniform("xint", 2) * 2 - 1) * self.strengths["xint_max"]
            x, y = self._maybe(draws, "xint", t, 0).unbind(1)
            G.append(_shift(-(x * width).round(), -(y * height).round()))
        if self.wants("scale"):
            s = self._octaves(draws, "scale")
            G.append(_scale(1 / s, 1 / s))
        # Two rotations, one on either side of the anisotropic scale: together they happen with the operation's chance.
        half = 1 - (1 - self.multipliers["rotate"] * draws.p).clamp(0, 1).sqrt()
        if self.wants("rotate"):
            G.append(_turn(self._angle(draws, "rotate", half)))
        if self.wants("aniso"):
            s = self._octaves(draws, "aniso")
            G.append(_scale(1 / s, s))
        if self.wants("rotate"):
            G.append(_turn(self._angle(draws, "rotate.after", half)))
        if self.wants("xfrac"):
            t = draws.normal("xfrac", 2) * self.strengths["xfrac_std"]
            x, y = self._maybe(draws, "xfrac", t, 0).unbind(1)
            G.append(_shift(-x * width, -y * height))
        return _product(G)

    def _angle(self, draws: _Draws, name: str, chance: Tensor) -> Tensor:
        angle = (draws.uniform(name) * 2 - 1) * (math.pi * self.strengths["rotate_max"])
        return draws.gated(name, chance, angle, 0)

    def colour(self, draws: _Draws, coloured: bool = True) -> Tensor | None:
        """[N, 4, 4], acting on (r, g, b, 1). None: nothing to do. The last row is not used and officially not 0 0 0 1
        under saturation; neither is it here.
        """
        C: list[Tensor] = []  # the first acts first
        grey = draws.like.new_tensor([1, 1, 1, 0]) / math.sqrt(3)
        along, one = torch.outer(grey, grey), torch.eye(4).to(draws.like)
        if self.wants("brightness"):
            b = draws.normal("brightness") * self.strengths["brightness_std"]
            b = self._maybe(draws, "brightness", b, 0)
            C.append(_matrix(b, [1, 0, 0, b], [0, 1, 0, b], [0, 0, 1, b], [0, 0, 0, 1]))
        if self.wants("contrast"):
            c = self._octaves(draws, "contrast")
            C.append(_matrix(c, [c, 0, 0, 0], [0, c, 0, 0], [0, 0, c, 0], [0, 0, 0, 1]))
        if self.wants("lumaflip"):
            i = self._maybe(draws, "lumaflip", (draws.uniform("lumaflip", 1, 1) * 2).floor(), 0)
            C.append(one - 2 * along * i)
        if self.wants("hue") and coloured:
            angle = (draws.uniform("hue") * 2 - 1) * (math.pi * self.strengths["hue_max"])
            C.append(_hue(self._maybe(draws, "hue", angle, 0)))
        if self.wants("saturation") and coloured:
            C.append(along + (one - along) * self._octaves(draws, "saturation", 1, 1))
        return _product(C[::-1])

    # ---- the pixels
    def resample(self, x: Tensor, G: Tensor, margin: tuple[int, int, int, int]) -> Tensor:
        """x [N, C, H, W] looked up at G [N, 3, 3]: reflected by `margin` (left, top, right, bottom), doubled, looked up
        bilinearly with zeros outside, halved.
        """
        n, channels, height, width = x.shape
        left, top, right, bottom = margin
        wide, high = 2 * (left + width + right), 2 * (top + height + bottom)
        out_wide, out_high = 2 * (width + 2 * MARGIN), 2 * (height + 2 * MARGIN)
        # From pixels about the middle of the image to those of the doubled, padded one, then to grid_sample's [-1, 1].
        one = G.new_ones(1)
        G = _shift(one * ((left - right) / 2), one * ((top - bottom) / 2)) @ G
        G = _scale(2 * one, 2 * one) @ G @ _scale(one / 2, one / 2)
        G = _shift(-one / 2, -one / 2) @ G @ _shift(one / 2, one / 2)
        G = _scale(2 / wide * one, 2 / high * one) @ G @ _scale(out_wide / 2 * one, out_high / 2 * one)
        grid = F.affine_grid(G[:, :2], [n, channels, out_high, out_wide], align_corners=False)
        taps = self.Hz_geom.to(x)
        if max(height, width) > DENSE:
            return _resampled_by_filters(x, grid, margin, taps)
        doubled = _upsampling(height, top, bottom, taps) @ x @ _upsampling(width, left, right, taps).T
        seen = F.grid_sample(doubled, grid, mode="bilinear", padding_mode="zeros", align_corners=False)
        return _downsampling(height, taps) @ seen @ _downsampling(width, taps).T

    def gains(self, draws: _Draws) -> Tensor:
        """[N, 4]: amplification of the bands, each renormalised to the power that a photograph has."""
        power = draws.like.new_tensor(EXPECTED_POWER)
        gains = torch.ones(1, 1).to(draws.like)
        for band, multiplier in enumerate(self.bands):
            octaves = draws.normal(f"imgfilter.{band}") * self.strengths["imgfilter_std"]
            chance = self.multipliers["imgfilter"] * draws.p * multiplier
            factor = draws.gated(f"imgfilter.{band}", chance, torch.exp2(octaves), 1)
            bands = torch.where(torch.arange(4, device=factor.device) == band, factor[:, None], 1.0)  # [N, 4]
            gains = gains * bands / (power * bands.square()).sum(1, keepdim=True).sqrt()
        return gains

    def noise_size(self, draws: _Draws) -> Tensor:
        """[N, 1, 1, 1]: standard deviation of the noise."""
        size = draws.normal("noise", 1, 1, 1).abs() * self.strengths["noise_std"]
        return self._maybe(draws, "noise", size, 0)

    def window(self, draws: _Draws, height: int, width: int) -> Tensor:
        """[N, 1, H, W]: 0 in a rectangle, 1 outside."""
        like = draws.like
        on = draws.uniform("cutout.on", 1, 1, 1) < draws.p * self.multipliers["cutout"]
        size = torch.where(on, like.new_full((), self.strengths["cutout_size"]), like.new_zeros(()))  # [N, 1, 1, 1]
        middle = draws.uniform("cutout", 2, 1, 1, 1)
        x = (torch.arange(width).to(like) + 0.5) / width
        y = (torch.arange(height).to(like)[:, None] + 0.5) / height
        outside = ((x - middle[:, 0]).abs() >= size / 2) | ((y - middle[:, 1]).abs() >= size / 2)
        return outside.to(like)


def chosen(operations: str) -> tuple[str, ...]:
    """The operations that "bgc", "blit,color" or "xflip, cutout" name. Raises UserError for an unknown name."""
    found: list[str] = []
    for word in filter(None, (part.strip() for part in operations.split(","))):
        if word not in SETS and word not in OPERATIONS:
            raise unknown("augmentation", word, [*SETS, *OPERATIONS])
        found += SETS.get(word, (word,))
    return tuple(dict.fromkeys(found))


def _product(matrices: Sequence[Tensor]) -> Tensor | None:
    """The first times the second times ..., [N, r, r]; None where there are none."""
    found: Tensor | None = None
    for matrix in matrices:
        found = matrix if found is None else found @ matrix
    return found


def margins(G: Tensor, height: int, width: int) -> tuple[int, int, int, int]:
    """Pixels (left, top, right, bottom) that the corners of an image reach beyond it under any of G [N, 3, 3], and what
    the filters need; at most what one reflection can give.
    """
    x, y = (width - 1) / 2, (height - 1) / 2
    corners = G.new_tensor([[-x, -y, 1], [x, -y, 1], [x, y, 1], [-x, y, 1]])
    seen = (G @ corners.T)[:, :2].transpose(0, 1).flatten(1)  # [2, 4 N]
    reach = torch.cat([-seen, seen]).amax(1)  # left, top, right, bottom
    beyond = reach + G.new_tensor([2 * MARGIN - x, 2 * MARGIN - y] * 2)
    beyond = beyond.clamp(min=0).minimum(G.new_tensor([width - 1.0, height - 1.0] * 2)).ceil()
    left, top, right, bottom = (int(side) for side in beyond.tolist())
    return left, top, right, bottom


def _resampled_by_filters(x: Tensor, grid: Tensor, margin: tuple[int, int, int, int], taps: Tensor) -> Tensor:
    """`AugmentPipe.resample` for large images, where dense matrices would cost the cube of the side."""
    left, top, right, bottom = margin
    doubled = upsample2d(F.pad(x, [left, right, top, bottom], mode="reflect"), taps, up=2)
    seen = F.grid_sample(doubled, grid, mode="bilinear", padding_mode="zeros", align_corners=False)
    before, after = (len(taps) - 1) // 2 - 2 * MARGIN, (len(taps) - 2) // 2 - 2 * MARGIN
    return upfirdn2d(seen, taps, down=2, padding=(before, after, before, after), flip=True)


def recolour(x: Tensor, C: Tensor) -> Tensor:
    """C [N, 4, 4] on the colours of x [N, C, H, W]; on each channel as grey, by the mean row, where C is not 3 or 4."""
    if x.shape[1] in (3, 4):
        n, _, height, width = x.shape
        mixed = torch.baddbmm(C[:, :3, 3:], C[:, :3, :3], x[:, :3].reshape(n, 3, -1)).view(n, 3, height, width)
        return mixed if x.shape[1] == 3 else torch.cat([mixed, x[:, 3:]], 1)
    row = C[:, :3].mean(1)[:, None, None, :]  # [N, 1, 1, 4]
    return x * row[..., :3].sum(3, keepdim=True) + row[..., 3:]


def filtered(x: Tensor, taps: Tensor) -> Tensor:
    """x [N, C, H, W] correlated along both axes with the odd filter of its sample, taps [N, T]; edges are reflected."""
    n, channels, height, width = x.shape
    if max(height, width) <= DENSE:
        return _banded(taps, height)[:, None] @ x @ _banded(taps, width)[:, None].mT
    half = taps.shape[1] // 2
    each = taps.repeat_interleave(channels, 0)[:, None]  # [N C, 1, T]
    padded = F.pad(x, [half] * 4, mode="reflect").flatten(0, 1)[None]  # [1, N C, H, W]
    y = F.conv2d(F.conv2d(padded, each[:, :, None], groups=n * channels), each[..., None], groups=n * channels)
    return y.view(x.shape)


def _banded(taps: Tensor, side: int) -> Tensor:
    """[N, side, side]: correlation with taps [N, T] on a reflected axis."""
    half = taps.shape[1] // 2
    reach = torch.arange(side, device=taps.device)[:, None] + torch.arange(-half, half + 1, device=taps.device)
    index = _reflected(reach, side).expand(len(taps), -1, -1)  # [N, side, T]
    weights = taps[:, None].expand(-1, side, -1)
    return taps.new_zeros(len(taps), side, side).scatter_add(2, index, weights)


# ---- how strongly
class Controller(nn.Module):
    """p, and what moves it: r = E[sign D(x)] on real images is 0 where D cannot tell them and 1 where it has learned
    them by heart (section 3.1, eq. 1).

    Every `every` rounds p += sign(r - target) images / (1000 kimg), with the images of these rounds, so p takes `kimg`
    thousand images from 0 to 1; clamped to [0, 1], while the official code lets it grow beyond 1. target=0 keeps p as
    it is. r is the mean over the rounds since the last change, of the moves in which D plays its main loss (officially
    the moves of the lazy penalty count once more). Both are buffers: a resumed run goes on with them.
    """

    def __init__(self, p: float = 0.0, *, target: float = 0.6, every: int = 4, kimg: float = 500.0) -> None:
        super().__init__()
        if not 0 <= p <= 1:
            raise UserError(f"the augmentation's p is {p:g}; expected a probability from 0 to 1.")
        if target and (every < 1 or kimg <= 0):
            raise UserError(f"p moves every {every} rounds over {kimg:g} kimg; expected both above 0, or target 0.")
        self.target, self.every, self.kimg = target, every, kimg
        self.register_buffer("p", torch.tensor(float(p)))
        self.register_buffer("sign", torch.zeros(()))
        self.p: Tensor
        self.sign: Tensor

    def observe(self, logits: Tensor, round: Round) -> None:
        """In D's loss: its logits on (augmented) real images. Nothing is written before the move is committed."""
        signs = logits.sign().float().mean()
        round.note("augment.sign", signs)
        round.note("augment.p", self.p)
        if self.target:  # the k-th of the window counts 1/k, so the first forgets the window before
            tracking.track(self.sign, signs, 1 / (round.step % self.every + 1))

    def advance(self, step: int, batch: int) -> None:
        """From `Game.advance`: `step` rounds have been played, the last ones with `batch` images each."""
        if self.target and step % self.every == 0:
            change = (self.sign - self.target).sign() * (batch * self.every / (1000 * self.kimg))
            self.p.add_(change).clamp_(0, 1)

    def extra_repr(self) -> str:
        return f"target={self.target:g}, every={self.every}, kimg={self.kimg:g}" if self.target else "fixed"


class Augmentation(nn.Module):
    """The pipe and its controller as a recipe describes them: what a game holds, outside its averaged modules.

    In the losses `self.augment(x, round, "real")` around everything that D sees and `self.augment.observe(logits,
    round)` on its main loss; in `Game.advance` `self.augment.advance(step, batch)`.
    """

    def __init__(self, settings: Augment) -> None:
        super().__init__()
        self.pipe = AugmentPipe(settings.operations)
        self.controller = Controller(settings.p, target=settings.target, every=settings.every, kimg=settings.kimg)
        self.active = self.pipe.wants(*OPERATIONS)

    def forward(self, x: Tensor, round: Round, name: str) -> Tensor:
        """x [N, C, H, W] as D should see it; `name` tells the calls of one round apart."""
        return self.pipe(x, self.controller.p, round, f"augment.{name}") if self.active else x

    def observe(self, logits: Tensor, round: Round) -> None:
        """D's logits on real images."""
        if self.active:
            self.controller.observe(logits, round)

    def advance(self, step: int, batch: int) -> None:
        """After a round of `batch` images."""
        if self.active:
            self.controller.advance(step, batch)
