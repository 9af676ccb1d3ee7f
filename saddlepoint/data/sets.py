"""Opening a set of images: every image brought to one shape, once, and kept as memory-mapped bytes in the cache."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import math
import os
import shutil
import tempfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from saddlepoint.errors import UserError, unknown

from . import files, named, pixels, shards
from .catalog import Facts, existing_path, shard_paths
from .catalog import named as named_set
from .classes import chosen_classes, pick
from .files import Problem, Source, shown
from .options import Options, Resolution
from .pixels import ImageError, Pixels

Progress = Callable[[int, int], None]  # (images done, images in all)
ON_ERROR = ("refuse", "skip")
FORMAT = 1  # raised when the same source would give other bytes
CHECKED = 1 << 28  # bytes up to which a cached set is checked whole: about 0.2 s


@dataclass(frozen=True, eq=False)
class ImageSet:
    """Images of one shape in memory-mapped bytes, or in shards (`shards.Streamed`, decoded when they are asked for).

    All per-image lists have the length of `images`.
    """

    images: NDArray[np.uint8]  # [N, C, H, W]
    labels: NDArray[np.int64] | None  # [N]
    captions: Sequence[list[str]] | None
    tags: Sequence[list[str]] | None
    names: Sequence[str]
    facts: Facts
    problems: list[Problem]  # (file name, what is wrong with it): all that was skipped or is doubtful

    def __len__(self) -> int:
        return len(self.images)


@dataclass(frozen=True)
class Located:
    """A set that has been found but not read: `key` changes whenever the data do."""

    spec: str
    key: str
    load: Callable[[Options], Source]


def locate(spec: str | Path) -> Located:
    """Find a named set, folder or zip. Raises UserError for what is not there."""
    text = str(spec)
    if picked := chosen_classes(text):
        whole, classes = locate(picked[0]), picked[1]
        return Located(text, f"{whole.key} @ {classes}", lambda options: pick(whole.load(options), classes, picked[0]))
    found = named_set(text)
    if found:
        key, load = named.locate(*found)
        return Located(text, f"{text} {key}", load)
    if (paths := shard_paths(text)) is not None:
        return Located(text, shards.key(paths), lambda options: shards.source(paths, text))
    key, read = files.locate(existing_path(text), text)
    return Located(text, key, lambda options: read())


def examples(source: Source, options: Options, start: int = 0) -> Iterator[tuple[int, Pixels | str]]:
    """(index, uint8 [C, H, W] or what is wrong with the image) for every image from `start`."""
    same_size = not source.fixed and not options.height  # no resolution was given
    options = options.settled(source.facts)
    for index in range(start, len(source.names)):
        try:
            image = source.read(index)
            height, width = pixels.size_of(image)
            if same_size and (height, width) != (options.height, options.width):
                common = f"{options.height}x{options.width}"
                raise ImageError(f"is {height}x{width}, the commonest size {common}; give a resolution to fit all to")
            yield index, (pixels.to_planes if source.maps else pixels.to_pixels)(image, options)
        except ImageError as bad:
            yield index, str(bad)


def refuse(problems: list[Problem], spec: str) -> UserError:
    """The error that names what is wrong: all counted, the first ten spelled out."""
    listed = "\n".join(f"  {name} {reason}" for name, reason in problems[:10])
    more = f"\n  and {len(problems) - 10} more" if len(problems) > 10 else ""
    return UserError(
        f"{spec!r} has {len(problems)} problem{'s' * (len(problems) != 1)}:\n{listed}{more}\n"
        f"Repair these files, or leave them out with on_error 'skip'."
    )


def check_count(good: int, spec: str, problems: list[Problem]) -> None:
    """Raises UserError when fewer than two images are left."""
    if good < 2:
        listed = "".join(f"\n  {name} {reason}" for name, reason in problems[:10])
        raise UserError(f"{spec!r} has {good} usable image{'s' * (good != 1)}; expected at least 2.{listed}")


def _convert(source: Source, options: Options, spec: str, sink: BinaryIO, progress: Progress | None) -> dict[str, Any]:
    """Write the pixels of every good image to `sink`; returns all else about the set, ready for JSON."""
    problems = list(source.problems)
    kept: list[int] = []
    check = 0
    for index, found in examples(source, options):
        if isinstance(found, str):
            problems.append((shown(source.names[index]), found))
        else:
            data = found.tobytes()
            check = zlib.crc32(data, check)
            sink.write(data)
            kept.append(index)
        if progress:
            progress(index + 1, len(source.names))
    check_count(len(kept), spec, problems)

    def of(values: Any) -> Any:
        return None if values is None else [values[index] for index in kept]

    return {
        "format": FORMAT,
        "facts": asdict(replace(options.applied(source.facts), count=len(kept), mixed=False)),
        "names": [shown(name) for name in of(source.names)],
        "labels": of(source.labels),
        "captions": of(source.captions),
        "tags": of(source.tags),
        "problems": problems,
        "crc32": check,
    }


def _shape(about: dict[str, Any]) -> tuple[int, int, int, int]:
    facts = about["facts"]
    return facts["count"], facts["channels"], facts["height"], facts["width"]


def _assembled(images: NDArray[np.uint8], about: dict[str, Any]) -> ImageSet:
    facts = Facts(**{**about["facts"], "label_names": tuple(about["facts"]["label_names"])})
    labels = None if about["labels"] is None else np.asarray(about["labels"], np.int64)
    problems = [(name, reason) for name, reason in about["problems"]]
    return ImageSet(images, labels, about["captions"], about["tags"], about["names"], facts, problems)


@contextlib.contextmanager
def locked(path: Path, remove: bool = False) -> Iterator[None]:
    """Holds a lock on `path` among processes; does nothing where there is no flock (then the last writer wins)."""
    try:
        import fcntl
    except ImportError:
        yield
        return
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        try:
            yield
        finally:
            if remove:
                path.unlink(missing_ok=True)


def _read_cached(folder: Path) -> ImageSet | None:
    """The set in a cache folder, or None when there is none or it is damaged.

    Up to CHECKED bytes the checksum is compared; beyond that only the size, because reading all at every start would
    cost more than it saves.
    """
    try:
        about = json.loads((folder / "about.json").read_text())
        size = math.prod(_shape(about))
        images = np.memmap(folder / "images.u8", np.uint8, "r", shape=_shape(about))
        whole = (folder / "images.u8").stat().st_size == size and about["format"] == FORMAT
        if not whole or (size <= CHECKED and zlib.crc32(images.data) != about["crc32"]):
            return None
        return _assembled(images, about)
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _write_cached(folder: Path, source: Source, options: Options, spec: str, progress: Progress | None) -> None:
    """Convert into a temporary folder beside `folder`, then rename: nothing half-written is ever found."""
    scratch = Path(tempfile.mkdtemp(prefix=".new-", dir=folder.parent))
    try:
        with (scratch / "images.u8").open("wb") as file:
            about = _convert(source, options, spec, file, progress)
            file.flush()
            os.fsync(file.fileno())
        with (scratch / "about.json").open("w") as file:
            json.dump(about, file)
            file.flush()
            os.fsync(file.fileno())
        if folder.exists():  # damaged
            folder.rename(scratch / "old")
        scratch.rename(folder)
        shutil.rmtree(folder / "old", ignore_errors=True)
    except BaseException:
        shutil.rmtree(scratch, ignore_errors=True)
        raise


def open_set(
    spec: str | Path,
    *,
    resolution: Resolution = None,
    channels: int | None = None,
    fit: str = "auto",
    background: str = "auto",
    on_error: str = "refuse",
    cache: bool = True,
    progress: Progress | None = None,
) -> ImageSet:
    """A named set ("digits", "fashion-mnist:test"), a folder, a .zip or tar shards as uint8 images of one shape.

    Shards (a .tar, "train-{000..009}.tar", a folder of them) are not converted but read where they lie (`shards`).

    resolution: 64, "64", "64x48" (height x width) or (64, 48); None keeps the images' own size, which must then be one.
    channels: 1, 3 or 4; None keeps what the images have, with transparency composited on `background`.
    fit, background: see Options. Resizing is Lanczos, antialiased; facts.preparation says what was done.
    on_error: "refuse" raises one UserError naming every kind of problem; "skip" leaves the bad images out and lists
        them in `.problems`.
    cache: converted once and memory-mapped from $SADDLEPOINT_CACHE or ~/.cache/saddlepoint; safe among processes; a
        damaged copy is made again. False converts into memory.
    progress: called with (images done, images in all) while converting.
    Raises UserError: unknown set, impossible option, no or fewer than 2 images, problems when refusing, cache not
    writable.
    """
    options = Options.parse(resolution, channels, fit, background)
    if on_error not in ON_ERROR:
        raise unknown("on_error", on_error, ON_ERROR)
    text = str(spec)
    if not chosen_classes(text) and named_set(text) is None and (paths := shard_paths(text)) is not None:
        found = _streamed(paths, text, options, on_error, cache, progress)
        if found.problems and on_error == "refuse":
            raise refuse(found.problems, text)
        return found
    located = locate(spec)
    found = converted(located, options, cache=cache, progress=progress)
    if found.problems and on_error == "refuse":
        raise refuse(found.problems, located.spec)
    return found


def converted(located: Located, options: Options, *, cache: bool = True, progress: Progress | None = None) -> ImageSet:
    """A located set in the shape of `options`, from the cache or into it; what is wrong with it is in `.problems`."""
    if cache:
        return _through_cache(located, options, progress)
    memory = io.BytesIO()
    about = _convert(located.load(options), options, located.spec, memory, progress)
    return _assembled(np.frombuffer(memory.getbuffer(), np.uint8).reshape(_shape(about)), about)


def _streamed(
    paths: Sequence[Path], spec: str, options: Options, on_error: str, cache: bool, progress: Progress | None
) -> ImageSet:
    """Shards are not converted: an index of them is kept. Skipping needs to know the broken ones: all are decoded."""
    images, labels, captions, names, facts, problems = shards.opened(
        paths, spec, options, on_error == "skip", cache, progress
    )
    check_count(len(images), spec, problems)
    return ImageSet(images, labels, captions, None, names, facts, problems)


def _through_cache(located: Located, options: Options, progress: Progress | None) -> ImageSet:
    sets = named.cache_folder() / "sets"
    digest = hashlib.sha256(f"{FORMAT} {located.key} {options}".encode("utf-8", "backslashreplace")).hexdigest()[:24]
    stem = "".join(c if c.isascii() and (c.isalnum() or c in "-_") else "-" for c in Path(located.spec).name)[:40]
    folder = sets / f"{stem}-{digest}"
    found = _read_cached(folder)
    if found is not None:
        return found
    try:
        sets.mkdir(parents=True, exist_ok=True)
        with locked(sets / f".{folder.name}.lock"):
            found = _read_cached(folder)  # another process may have made it meanwhile
            if found is None:
                _write_cached(folder, located.load(options), options, located.spec, progress)
                found = _read_cached(folder)
    except OSError as error:
        raise UserError(
            f"the cache {str(sets)!r} cannot be written: {error}. Set SADDLEPOINT_CACHE to a folder with room, or open "
            f"the set with cache=False."
        ) from error
    if found is None:
        raise UserError(f"the cache {str(folder)!r} was damaged while it was written; is the disk in order?")
    return found
