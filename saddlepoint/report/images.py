"""Pictures inside a page: PNG in base64, made smaller until they fit a budget."""

from __future__ import annotations

import base64
import io
import json
import math
from html import escape
from pathlib import Path

from PIL import Image


def embedded(image: Image.Image, budget: int, alt: str) -> str:
    """An <img> that holds the picture itself, in at most about `budget` bytes of PNG."""
    content, size = fitting(image, budget)
    data = base64.b64encode(content).decode()
    smooth = "" if size == image.size else ' class="smooth"'
    return f'<img{smooth} alt="{escape(alt)}" width="{size[0]}" height="{size[1]}" src="data:image/png;base64,{data}">'


def fitting(image: Image.Image, budget: int) -> tuple[bytes, tuple[int, int]]:
    """(PNG of at most `budget` bytes, its size): the picture as it is, or scaled down as little as that takes."""
    image = image.convert("RGB") if image.mode not in ("L", "RGB", "RGBA") else image
    scaled = image
    content = _png(scaled)
    while len(content) > budget and max(scaled.size) > 32:
        factor = max(0.5, min(0.9, 0.97 * math.sqrt(budget / len(content))))
        scaled = image.resize(
            (max(16, round(scaled.width * factor)), max(16, round(scaled.height * factor))), Image.Resampling.LANCZOS
        )
        content = _png(scaled)
    return content, scaled.size


def _png(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def opened(path: Path) -> Image.Image:
    """A picture from a file."""
    with Image.open(path) as image:
        return image.copy()


def corner(path: Path, cells: int = 4) -> Image.Image:
    """The first `cells` x `cells` pictures of a sample grid; a picture that is no such grid comes back whole.

    The grid's metadata say how many pictures it holds, hence how many columns; its width says where they are.
    """
    image = opened(path)
    text = image.info.get("saddlepoint", "{}")
    try:
        n = int(json.loads(text).get("n", 0))
    except (ValueError, AttributeError):
        n = 0
    columns = math.ceil(math.sqrt(n))
    rows = math.ceil(n / columns) if n else 0
    if columns <= cells or rows <= cells or image.width * rows != image.height * columns:
        return image
    gap = -image.width % columns or columns
    pitch = (image.width + gap) // columns
    return image.crop((0, 0, cells * pitch - gap, cells * pitch - gap))
