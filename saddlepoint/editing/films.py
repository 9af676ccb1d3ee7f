"""Images in their order as a film: .mp4 by imageio (the extra `video`), .gif by Pillow. The recipe goes along as the
file's comment; a film is compressed, so it is not made again bit for bit, its images are.
"""

from __future__ import annotations

import importlib.util
import io
import os
from pathlib import Path
from typing import Any

from torch import Tensor

from saddlepoint.errors import UserError, nearest

FILMS = (".mp4", ".gif")
SUFFIXES = (".png", *FILMS)


def is_film(path: Path) -> bool:
    return path.suffix.lower() in FILMS


def refuse_suffix(path: Path) -> None:
    """UserError for what cannot be written."""
    if path.suffix.lower() not in SUFFIXES:
        near = nearest(path.suffix, SUFFIXES) or ".png"
        raise UserError(
            f"{str(path)!r} ends in {path.suffix!r}; did you mean {str(path.with_suffix(near))!r}? "
            f"Endings: {', '.join(SUFFIXES)}."
        )
    if path.is_dir():
        raise UserError(f"{str(path)!r} is a folder; name a file.")
    if path.suffix.lower() == ".mp4":
        missing = [name for name in ("imageio", "av") if importlib.util.find_spec(name) is None]
        if missing:
            raise UserError(f"an mp4 needs {' and '.join(missing)}: pip install 'saddlepoint[video]', or write a .gif.")


def save(images: Tensor, path: Path, *, fps: float = 30.0, cell: int = 0, note: str = "") -> None:
    """Images [n, C, H, W] in [-1, 1] at so many a second, whole or not at all. cell: see `pictures.grid`."""
    from saddlepoint import pictures
    from saddlepoint.runs import write_bytes

    refuse_suffix(path)
    if not 0 < fps <= 240:
        raise UserError(f"fps is {fps:g}; expected 1 to 240 images a second.")
    frames = [pictures.grid(image[None], cell=cell).convert("RGB") for image in images]
    if path.suffix.lower() == ".gif":
        buffer = io.BytesIO()
        # A GIF counts hundredths of a second; most viewers slow down what is below two of them.
        given: dict[str, Any] = {"duration": max(20, round(100 / fps) * 10), "loop": 0, "comment": note.encode()}
        frames[0].save(buffer, "GIF", save_all=True, append_images=frames[1:], **given)
        write_bytes(path, buffer.getvalue())
    else:
        _mp4(frames, path, fps, note)


def _mp4(frames: list[Any], path: Path, fps: float, note: str) -> None:
    """H.264; sides are even there, so an odd one repeats its last row or column."""
    import imageio.v3 as iio
    import numpy as np

    temporary = path.with_name(f".{path.stem}.{os.getpid()}.tmp.mp4")
    height, width = frames[0].height, frames[0].width
    try:
        with iio.imopen(temporary, "w", plugin="pyav") as film:
            film.init_video_stream("libx264", fps=max(1, round(fps)))
            film.container_metadata["comment"] = note
            for frame in frames:
                film.write_frame(np.pad(np.asarray(frame), ((0, height % 2), (0, width % 2), (0, 0)), mode="edge"))
        temporary.replace(path)
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror or error}.") from error
    finally:
        temporary.unlink(missing_ok=True)
