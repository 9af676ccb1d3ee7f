"""Equivariance of a generator: does its image move as its input moves? In decibels, the higher the better.

EQ-T, EQ-T_frac and EQ-R of Karras et al. 2021 (arXiv:2106.12423, appendix E): the input's transform moves the image;
the untransformed image is moved after the fact by the best filters there are; the two are compared as a peak
signal-to-noise ratio for a range of 2, where both are valid. An image that hardly varies scores high whatever the
network does, so compare like with like: untrained networks look better than trained ones.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from saddlepoint.errors import UserError
from saddlepoint.game import Game, keyed_generator
from saddlepoint.layers.resample import filter2d, upsample2d

Moved = tuple[Tensor, Tensor]  # images [N, C, H, W], and where they are valid: ones and zeros [1, 1, H, W]


@dataclass(frozen=True)
class Equivariance:
    """Decibels, of n samples; nan where no pixel was valid."""

    eq_t: float
    """Translation by whole pixels."""
    eq_t_frac: float
    """Translation by any amount."""
    eq_r: float
    """Rotation by any angle."""
    n: int


# ---- windows and filters
def lanczos(x: Tensor, a: float) -> Tensor:
    """sinc(x / a) for |x| < a, else 0."""
    return torch.where(x.abs() < a, torch.sinc(x / a), torch.zeros_like(x))


def rotation(angle: float) -> Tensor:
    """Rotation by `angle` radians, [3, 3]; x to the right, y down, so that it goes counter-clockwise."""
    cos, sin = math.cos(angle), math.sin(angle)
    return torch.tensor([[cos, sin, 0.0], [-sin, cos, 0.0], [0.0, 0.0, 1.0]])


def band_limit(
    matrix: Tensor,
    a: int = 3,
    amax: int = 16,
    aflt: int = 64,
    up: int = 4,
    cutoff_in: float = 1.0,
    cutoff_out: float = 1.0,
) -> Tensor:
    """The filter that keeps what fits into the pixel grid before and after a linear motion, [2 amax up - 1] squared.

    matrix: input coordinates to output coordinates, [>= 2, >= 2]. The ideal filter is the convolution of the two grids'
    sincs, its window that of their Lanczos windows of `a` lobes. Evaluated on `aflt` pixels around, kept up to `amax`,
    at `up` samples a pixel. Each of the up^2 phases is normalised to the same sum.
    """
    if not a <= amax < aflt:
        raise UserError(f"a band-limit filter needs a <= amax < aflt, not {a}, {amax} and {aflt}.")
    taps = torch.arange(1 - aflt * up, aflt * up, dtype=torch.float32) / up
    taps = taps.roll(1 - aflt * up)  # 0 first, as the Fourier transform has it
    y_in, x_in = torch.meshgrid(taps, taps, indexing="ij")
    x_out, y_out = (torch.stack([x_in, y_in], 2) @ matrix[:2, :2].float().t()).unbind(2)

    def convolved(one: Tensor, other: Tensor) -> Tensor:
        return torch.fft.ifftn(torch.fft.fftn(one) * torch.fft.fftn(other)).real

    ideal = convolved(
        torch.sinc(x_in * cutoff_in) * torch.sinc(y_in * cutoff_in),
        torch.sinc(x_out * cutoff_out) * torch.sinc(y_out * cutoff_out),
    )
    window = convolved(lanczos(x_in, a) * lanczos(y_in, a), lanczos(x_out, a) * lanczos(y_out, a))
    cut = (aflt - amax) * up
    f = (ideal * window).roll((aflt * up - 1,) * 2, (0, 1))[cut:-cut, cut:-cut]
    f = F.pad(f, (0, 1, 0, 1)).view(2 * amax, up, 2 * amax, up)
    f = f / f.sum((0, 2), keepdim=True) / up**2
    return f.view(2 * amax * up, 2 * amax * up)[:-1, :-1]


# ---- images that move
def shifted(x: Tensor, right: float, down: float) -> Moved:
    """Moved by whole pixels, the nearest to (right, down) in image sizes; zeros come in."""
    height, width = x.shape[2:]
    # Python rounds halves to even, as torch does
    i, j = round(right * width), round(down * height)
    y, mask = torch.zeros_like(x), x.new_zeros(1, 1, height, width)
    if abs(i) < width and abs(j) < height:
        into = (..., slice(max(j, 0), height + min(j, 0)), slice(max(i, 0), width + min(i, 0)))
        y[into] = x[..., max(-j, 0) : height + min(-j, 0), max(-i, 0) : width + min(-i, 0)]
        mask[into] = 1
    return y, mask


def shifted_between(x: Tensor, right: float, down: float, a: int = 3) -> Moved:
    """Moved by (right, down) in image sizes through Lanczos filters of `a` lobes; valid where no border was read."""
    height, width = x.shape[2:]
    i, j = math.floor(right * width), math.floor(down * height)
    before = a - 1
    taps = torch.arange(2 * a, device=x.device, dtype=x.dtype) - before
    fx, fy = (
        torch.sinc(taps - part) * torch.sinc((taps - part) / a) for part in (right * width - i, down * height - j)
    )
    around = filter2d(x, (fx / fx.sum())[None, :], (before, a, 0, 0))
    around = filter2d(around, (fy / fy.sum())[:, None], (0, 0, before, a))
    y, mask = torch.zeros_like(x), x.new_zeros(1, 1, height, width)
    columns, rows = (max(i - before, 0), min(i + a, 0) + width), (max(j - before, 0), min(j + a, 0) + height)
    if columns[0] < columns[1] and rows[0] < rows[1]:
        y[..., rows[0] : rows[1], columns[0] : columns[1]] = around[
            ...,
            max(before - j, 0) : height + before + a + min(-j - a, 0),
            max(before - i, 0) : width + before + a + min(-i - a, 0),
        ]
    columns, rows = (max(i + a, 0), min(i - before, 0) + width), (max(j + a, 0), min(j - before, 0) + height)
    if columns[0] < columns[1] and rows[0] < rows[1]:
        mask[..., rows[0] : rows[1], columns[0] : columns[1]] = 1
    return y, mask


def moved(x: Tensor, matrix: Tensor, up: int = 4, **window: Any) -> Moved:
    """Moved by an affine matrix [3, 3] (translation in image sizes): filtered, upsampled, read off bilinearly."""
    n, _, height, width = x.shape
    f = band_limit(matrix, up=up, **window).to(x)
    reach = f.shape[0] // 2
    theta = torch.linalg.inv(matrix.double())
    theta[:2, 2] *= 2
    theta[0, 2] += 1 / up / width
    theta[1, 2] += 1 / up / height
    theta[0] *= width / (width + reach / up * 2)  # the filtered image is larger by its reach on each side
    theta[1] *= height / (height + reach / up * 2)
    grid = F.affine_grid(theta[None, :2].to(x), [1, 1, height, width], align_corners=False)
    large = upsample2d(x, f, up, padding=reach)
    y = F.grid_sample(large, grid.expand(n, -1, -1, -1), "bilinear", "zeros", align_corners=False)
    mask = torch.zeros_like(large[:1, :1])
    mask[..., 2 * reach + 1 : -2 * reach - 1, 2 * reach + 1 : -2 * reach - 1] = 1
    return y, F.grid_sample(mask, grid, "nearest", "zeros", align_corners=False)


def rotated(x: Tensor, angle: float, a: int = 3, **window: Any) -> Moved:
    """Rotated by `angle` radians, counter-clockwise."""
    return moved(x, rotation(angle), a=a, amax=2 * a, **window)


def pseudo_rotated(x: Tensor, angle: float, a: int = 3, **window: Any) -> Moved:
    """What a rotation by `angle` would leave of the frequencies, without the rotation."""
    f = band_limit(rotation(-angle), a=a, amax=2 * a, up=1, **window).to(x)
    reach = f.shape[0] // 2
    mask = x.new_zeros(1, 1, *x.shape[2:])
    mask[..., reach:-reach, reach:-reach] = 1
    return filter2d(x, f), mask


# ---- the measure
def equivariance(
    game: Game | Callable[[Tensor, Tensor], Tensor],
    n: int = 1000,
    *,
    seed: int = 0,
    batch: int = 16,
    translate: float = 0.125,
    rotate: float = 1.0,
    latent: int = 0,
    numbers: Callable[..., Tensor] | None = None,
) -> Equivariance:
    """EQ-T, EQ-T_frac and EQ-R of n samples; 50,000 in the paper.

    game: one whose synthesis takes `transform` (StyleGAN3), or a function of latents z [N, latent] and the inverse of
    the image's motion [3, 3] that gives images [N, C, H, W]; then `latent` says how many dimensions z has. Each batch
    has one motion of each kind: translations uniform up to `translate` image sizes along each axis, rotations
    uniform up to `rotate` times pi. numbers: where z and motions come from, ("normal" or "uniform", *shape) -> tensor.
    """
    images, size = _of_game(game) if isinstance(game, Game) else (game, latent)
    if size < 1:
        raise UserError("equivariance of a function of latents needs latent=, the dimensions of z.")
    draw = numbers or _drawn(seed)
    errors, weights = [0.0] * 3, [0.0] * 3
    for first in range(0, n, batch):
        z = draw("normal", min(batch, n - first), size)
        for kind, (squared, mask) in enumerate(_compared(images, z, draw, translate, rotate)):
            errors[kind] += float((squared * mask).double().sum())
            weights[kind] += float(mask.double().sum()) * squared.shape[0] * squared.shape[1]
    eq_t, eq_t_frac, eq_r = (_decibels(e, w) for e, w in zip(errors, weights, strict=True))
    return Equivariance(eq_t, eq_t_frac, eq_r, n)


def _compared(
    images: Callable[[Tensor, Tensor], Tensor], z: Tensor, draw: Callable[..., Tensor], translate: float, rotate: float
) -> list[Moved]:
    """Squared errors [N, C, H, W] and their mask for the three kinds of motion."""
    still = images(z, torch.eye(3))
    side = still.shape[-1]
    pairs = []
    for whole in (True, False):
        t = (draw("uniform", 2) * 2 - 1) * translate
        t = (t * side).round() / side if whole else t
        back = torch.eye(3)
        back[:2, 2] = -t
        x, y = t.tolist()
        reference, mask = shifted(still, x, y) if whole else shifted_between(still, x, y)
        pairs.append(((reference - images(z, back)).square(), mask))
    angle = float((draw("uniform") * 2 - 1) * (rotate * math.pi))
    reference, mask = rotated(still, angle)
    turned, valid = pseudo_rotated(images(z, rotation(-angle)), angle)
    return [*pairs, ((reference - turned).square(), mask * valid)]


def _decibels(error: float, weight: float) -> float:
    if not weight:
        return math.nan
    return 20 * math.log10(2) - 10 * math.log10(error / weight) if error else math.inf


def _drawn(seed: int) -> Callable[..., Tensor]:
    generator = keyed_generator(torch.device("cpu"), "equivariance", seed)
    generator = torch.Generator().set_state(generator.get_state())  # the keyed one is re-seeded by whoever asks next
    fills = {"normal": torch.randn, "uniform": torch.rand}
    return lambda kind, *shape: fills[kind](shape, generator=generator)


def _of_game(game: Game) -> tuple[Callable[[Tensor, Tensor], Tensor], int]:
    """Images of latents under a motion, and the dimensions of the latents."""
    generator: Any = getattr(game, "generator", None)
    if not hasattr(getattr(generator, "synthesis", None), "input"):
        raise UserError(
            f"{type(game).__name__} has no input that can be moved: stylegan3 has one; for another generator give a "
            "function of latents and the inverse of the image's motion."
        )

    def images(z: Tensor, transform: Tensor) -> Tensor:
        classes = int(getattr(game, "classes", 0))
        label = torch.arange(len(z), device=game.device) % classes if classes else None
        with game.evaluating():
            made: Tensor = generator(z.to(game.device), label, transform=transform.to(game.device))
        return made.float()

    return images, generator.mapping.latent
