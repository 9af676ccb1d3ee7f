"""Resizing as the published measures do it, each by its name: the same images give other scores under another of these.

tf             bilinear of TensorFlow 1: sample i lies at i * (in / out), no antialias. The 2017 code of the Frechet
               Inception distance resizes so, inside its graph; NVIDIA's file and torch-fidelity re-enact it.
pytorch        bilinear with half-pixel centres, no antialias: pytorch-fid.
clean          bicubic of Pillow per channel in float32, antialiased, clipped to 0..255, not rounded: clean-fid
               (Parmar et al. 2022, arXiv:2104.11222).
bicubic        antialiased bicubic in PyTorch: what Pillow computes up to rounding, on any device and differentiable.
none           as they are.

Values are 0..255 in float32 before and after.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from saddlepoint.errors import UserError, unknown

Resize = Callable[[Tensor, int], Tensor]  # (images [N, C, H, W], side) -> [N, C, side, side]


def rounded(images: Tensor) -> Tensor:
    """Images in [-1, 1] at 8 bits, as float32 0..255: floor(127.5 x + 128), clipped, as NVIDIA's metrics round."""
    return (images.float() * 127.5 + 128).clamp(0, 255).to(torch.uint8).float()


def _places(size: int, side: int, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """(lower index, upper index, weight of the upper one) for each of `side` samples of `size` pixels, TF1's way."""
    scale = torch.tensor(size / side, dtype=torch.float32, device=device)
    at = torch.arange(side, dtype=torch.float32, device=device) * scale
    lower = at.long().clamp_max(size - 1)  # at < size but for rounding
    return lower, (lower + 1).clamp_max(size - 1), at - lower.float()


def tf_bilinear(images: Tensor, side: int) -> Tensor:
    """TensorFlow 1's resize_bilinear(align_corners=False): asymmetric sampling, edges repeated, no antialias.

    In the order of its kernel (first along the row, then across): the same float32 numbers.
    """
    x = images.float()
    top, bottom, down = _places(x.shape[-2], side, x.device)
    left, right, along = _places(x.shape[-1], side, x.device)
    down = down[:, None]

    def row(index: Tensor) -> Tensor:  # [N, C, side, side]
        line = x[..., index, :]
        a, b = line[..., left], line[..., right]
        return a + (b - a) * along

    upper = row(top)
    return upper + (row(bottom) - upper) * down


def pytorch_bilinear(images: Tensor, side: int) -> Tensor:
    """Bilinear with half-pixel centres and no antialias: torch.nn.functional.interpolate as pytorch-fid calls it."""
    return F.interpolate(images.float(), (side, side), mode="bilinear", align_corners=False)


def clean_bicubic(images: Tensor, side: int) -> Tensor:
    """Pillow's bicubic per channel in float32, clipped to 0..255 and not rounded (clean-fid). Not differentiable."""
    from PIL import Image

    planes = images.detach().float().cpu().numpy().reshape(-1, *images.shape[-2:])
    found = np.empty((len(planes), side, side), np.float32)
    for index, plane in enumerate(planes):
        resized = Image.fromarray(np.ascontiguousarray(plane)).resize((side, side), Image.Resampling.BICUBIC)
        found[index] = np.asarray(resized).clip(0, 255)
    return torch.from_numpy(found).reshape(*images.shape[:2], side, side).to(images.device)


def bicubic(images: Tensor, side: int) -> Tensor:
    """Antialiased bicubic (a = -1/2, as Pillow), clipped to 0..255; differentiable."""
    if images.shape[-2:] == (side, side):
        return images
    found = F.interpolate(images, (side, side), mode="bicubic", align_corners=False, antialias=True)
    return found.clamp(0, 255)


def none(images: Tensor, side: int) -> Tensor:
    return images


RESIZES: dict[str, Resize] = {
    "tf": tf_bilinear,
    "pytorch": pytorch_bilinear,
    "clean": clean_bicubic,
    "bicubic": bicubic,
    "none": none,
}


def resizer(name: str) -> Resize:
    """The function of that name. Raises UserError for another."""
    if name not in RESIZES:
        raise unknown("resize", name, RESIZES)
    return RESIZES[name]


def check_images(images: Tensor) -> Tensor:
    """Images [N, C, H, W] with 1 or 3 channels in floating point, all finite; raises UserError for anything else."""
    if not isinstance(images, Tensor):
        raise UserError(f"images are a {type(images).__name__}; expected a tensor [N, C, H, W] in [-1, 1].")
    if images.ndim != 4 or images.shape[1] not in (1, 3) or 0 in images.shape[1:]:
        raise UserError(f"images of shape {list(images.shape)}; expected [N, C, H, W] with 1 or 3 channels.")
    if not images.is_floating_point():
        raise UserError(f"images are {images.dtype}; expected floating point in [-1, 1] (bytes x: x / 127.5 - 1).")
    if not torch.isfinite(images).all():
        raise UserError("images hold NaN or infinity; expected finite values in [-1, 1].")
    return images


def to_channels(images: Tensor, channels: int) -> Tensor:
    """Grey repeated to three channels; colour to grey by ITU-R 601 luma; [N, C, H, W] -> [N, channels, H, W]."""
    if images.shape[1] == channels:
        return images
    if channels == 3:
        return images.expand(-1, 3, -1, -1)
    luma = images.new_tensor([0.299, 0.587, 0.114]).view(1, 3, 1, 1)
    return (images * luma).sum(1, keepdim=True)
