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


def picture(samples: Tensor, columns: int = 0, cell: int = 0, behind: Tensor | None = None) -> Image.Image:
    """A grid of images [N, C, H, W], or a scatter of points [N, 1 or 2]."""
    return grid(samples, columns, cell=cell) if samples.ndim == 4 else scatter(samples, behind=behind)


def scatter(points: Tensor, size: int = 480, extent: float = 0.0, behind: Tensor | None = None) -> Image.Image:
    """Points [N, 2] as dots on white; the picture spans [-extent, extent] in both axes. Points of the line [N, 1] are
    piled up.

    extent: 0 takes 1.1 times the farthest point, with `behind` 1.3 times the farthest of those. behind: other points,
    such as the data's, faint and orange under the first.
    """
    clouds = [(behind, (1.0, 0.85, 0.7)), (points, (0.55, 0.55, 0.7))] if behind is not None else [(points, (0.55,))]
    arrays = [(cloud.detach().float().cpu().numpy(), np.array(ink)) for cloud, ink in clouds]
    farthest = float(np.abs(np.nan_to_num(arrays[0][0], posinf=0, neginf=0)).max(initial=0)) or 1.0
    extent = extent or (1.3 if behind is not None else 1.1) * farthest
    canvas = np.full((size, size, 3 if behind is not None else 1), 255, np.uint8)
    for xy, ink in arrays:
        xy = np.nan_to_num(_piled(xy[:, 0], extent) if xy.shape[1] == 1 else xy, nan=2 * extent)
        pixel = ((xy.clip(-2 * extent, 2 * extent) / extent + 1) / 2 * (size - 1)).round().astype(int)
        inside = ((pixel >= 1) & (pixel < size - 1)).all(1)
        for column, row in pixel[inside]:
            patch = canvas[size - 2 - row : size + 1 - row, column - 1 : column + 2]
            patch[:] = (patch * ink).astype(np.uint8)
    return Image.fromarray(canvas if behind is not None else canvas[:, :, 0])


def _piled(x: NDArray[np.float32], extent: float, bins: int = 96) -> NDArray[np.float32]:
    """Points of the line as a histogram made of dots, [N] -> [N, 2]."""
    place = np.floor((np.nan_to_num(x) / extent).clip(-1, 1) * bins / 2)
    order = np.argsort(place, kind="stable")
    _, first, counts = np.unique(place[order], return_index=True, return_counts=True)
    level = np.empty(len(x))
    level[order] = np.arange(len(x)) - np.repeat(first, counts)
    return np.stack([x, extent * (1.8 * level / counts.max(initial=1) - 0.9)], 1).astype(np.float32)


def save(
    samples: Tensor,
    path: str | Path,
    *,
    columns: int = 0,
    cell: int = 0,
    notes: Mapping[str, str] | None = None,
    behind: Tensor | None = None,
) -> None:
    """Write a PNG of samples, whole or not at all."""
    write_bytes(Path(path), png(picture(samples, columns, cell, behind), notes))
