"""Small pictures made on the spot, and a cache of their own for tests that look into it."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

Picture = Callable[..., Image.Image]


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache."""
    monkeypatch.setenv("SADDLEPOINT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def picture() -> Picture:
    """picture(seed, width, height, mode): random pixels."""

    def make(seed: int = 0, width: int = 6, height: int = 6, mode: str = "RGB") -> Image.Image:
        bands = len(Image.new(mode, (1, 1)).getbands())
        noise = np.random.default_rng(seed).integers(0, 256, (height, width, bands), np.uint8)
        return Image.fromarray(noise[:, :, 0] if bands == 1 else noise, mode if mode in ("CMYK", "LA") else None)

    return make


@pytest.fixture
def pictures(tmp_path: Path, picture: Picture) -> Path:
    """A folder of twelve RGB images 6x6 in three sub-folders, one of them with a name beyond ASCII."""
    for index in range(12):
        folder = tmp_path / "pictures" / ("cat", "dog", "Käfer-甲虫")[index % 3]
        folder.mkdir(parents=True, exist_ok=True)
        picture(index).save(folder / f"{index:02d}.png")
    return tmp_path / "pictures"


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">L", len(data)) + kind + data + struct.pack(">L", zlib.crc32(kind + data))


@pytest.fixture
def broken(picture: Picture) -> dict[str, tuple[bytes, str]]:
    """By file name: bytes that are no usable image, and a word of the reason that must be given."""
    buffer = io.BytesIO()
    picture(1, 40, 40).save(buffer, "PNG")
    png = buffer.getvalue()
    place = png.index(b"IDAT") + 30
    floats = io.BytesIO()
    Image.fromarray(np.ones((6, 6), np.float32)).save(floats, "TIFF")
    bomb = b"\x89PNG\r\n\x1a\n" + _chunk(b"IHDR", struct.pack(">LLBBBBB", 100_000, 100_000, 8, 2, 0, 0, 0))
    bomb += _chunk(b"IDAT", zlib.compress(b"\0" * 100)) + _chunk(b"IEND", b"")
    return {
        "zero.png": (b"", "empty"),
        "text.png": (b"this is no picture\n" * 10, "not an image"),
        "cut.png": (png[: len(png) // 2], "cannot be decoded"),
        "flipped.png": (png[:place] + bytes([png[place] ^ 255]) + png[place + 1 :], "cannot be decoded"),
        "header.png": (png[:20], "cannot be opened"),
        "bomb.png": (bomb, "exceeds limit"),
        "float.tif": (floats.getvalue(), "mode F"),
    }
