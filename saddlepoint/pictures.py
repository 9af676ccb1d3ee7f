"""Pictures of samples: grids of images and scatters of points, as PNG files with where they came from in their
metadata.
"""

from __future__ import annotations

import io
import math
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, PngImagePlugin
from torch import Tensor

from saddlepoint.runs import write_bytes


def to_uint8(images: Tensor) -> NDArray[np.uint8]:
    """Images in [-1, 1], [N, C, H, W], to bytes [N, H, W, C]: round(127.5 x + 127.5), clipped."""
    bytes_ = (images.detach().float().cpu() * 127.5 + 127.5).round().clamp(0, 255).to(torch.uint8)
    array: NDArray[np.uint8] = bytes_.permute(0, 2, 3, 1).contiguous().numpy()  # [N, H, W, C]
    return array


def grid(images: Tensor, columns: int = 0, gap: int = 1, cell: int = 0) -> Image.Image:
    """One picture of images [N, C, H, W] in [-1, 1], row by row.

    columns: 0 makes it about square. gap: pixels of white between images. cell: images smaller than this many pixels
    are enlarged by whole factors (nearest neighbour, so that pixels stay what they are).
    """
    array = to_uint8(images)
    n, height, width, channels = array.shape
    columns = min(n, columns or math.ceil(math.sqrt(n)))
    rows = math.ceil(n / columns)
    scale = max(1, round(cell / max(height, width))) if cell else 1
    array = array.repeat(scale, 1).repeat(scale, 2)
    height, width = height * scale, width * scale
    gap = gap * scale if scale > 1 else gap
    canvas = np.full(((height + gap) * rows - gap, (width + gap) * columns - gap, channels), 255, np.uint8)
    for index, image in enumerate(array):
        top, left = index // columns * (height + gap), index % columns * (width + gap)
        canvas[top : top + height, left : left + width] = image
    return Image.fromarray(canvas[:, :, 0] if channels == 1 else canvas)


def png(image: Image.Image, notes: Mapping[str, str] | None = None) -> bytes:
    """The picture as PNG bytes with text notes (run, seed, settings) in its metadata."""
    info = PngImagePlugin.PngInfo()
    for key, value in (notes or {}).items():
        info.add_itxt(key, value)
    buffer = io.BytesIO()
    image.save(buffer, "PNG", pnginfo=info, optimize=True)
    return buffer.getvalue()


def picture(samples: Tensor, columns: int = 0, cell: int = 0) -> Image.Image:
    """A grid of images [N, C, H, W], or a scatter of points [N, 2]."""
    return grid(samples, columns, cell=cell) if samples.ndim == 4 else scatter(samples)


def scatter(points: Tensor, size: int = 480, extent: float = 0.0) -> Image.Image:
    """Points [N, 2] as dots on white; the picture spans [-extent, extent] in both axes (0: 1.1 times the farthest
    point).
    """
    xy = points.detach().float().cpu().numpy()
    extent = extent or 1.1 * float(np.abs(xy).max() or 1.0)
    canvas = np.full((size, size), 255, np.uint8)
    pixel = ((xy / extent + 1) / 2 * (size - 1)).round().astype(int)
    inside = ((pixel >= 1) & (pixel < size - 1)).all(1)
    for column, row in pixel[inside]:
        patch = canvas[size - 2 - row : size + 1 - row, column - 1 : column + 2]
        patch[:] = (patch * 0.55).astype(np.uint8)
    return Image.fromarray(canvas)


def save(
    samples: Tensor, path: str | Path, *, columns: int = 0, cell: int = 0, notes: Mapping[str, str] | None = None
) -> None:
    """Write a PNG of samples, whole or not at all."""
    write_bytes(Path(path), png(picture(samples, columns, cell), notes))
