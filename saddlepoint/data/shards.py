"""Tar shards in the layout of webdataset, read where they lie: nothing is unpacked, and memory stays constant.

A shard holds samples as neighbouring members of one key (the name up to the first dot of its last part):
`a/0001.png`, `a/0001.cls` (class number), `a/0001.json` (label, caption, tags), `a/0001.txt` (caption). One pass over
the headers makes an index in the cache, of about 60 bytes and a name an image; after it each image is one read at a
known place, so that shuffling, slices for processes and resuming are as exact as for a set that is unpacked.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tarfile
import tempfile
import threading
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, BinaryIO, cast, overload

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from saddlepoint.errors import UserError

from . import pixels
from .catalog import Facts
from .files import LARGEST_FILE, SUFFIXES, Problem, Source, shown
from .options import Options
from .pixels import ImageError

FORMAT = 1  # raised when the same shards would give another index
HEADER = 1 << 14  # bytes that hold the header of most images
LARGEST_TEXT = 1 << 20  # bytes of a .cls, .json or .txt
OPEN = 64  # shards that are kept open
RECORD = np.dtype(
    [
        ("shard", "<u4"), ("offset", "<u8"), ("size", "<u8"), ("label", "<i8"), ("height", "<u4"), ("width", "<u4"),
        ("name", "<u8"), ("name_size", "<u4"), ("text", "<u8"), ("text_size", "<u4"),
    ]
)  # fmt: skip
Progress = Callable[[int, int], None]


# ---- reading the headers, once
@dataclass
class _Sample:
    """The members of one key: suffix (all after the first dot) -> (offset, size)."""

    key: str
    parts: dict[str, tuple[int, int]] = field(default_factory=dict)

    def images(self) -> list[str]:
        return [suffix for suffix in self.parts if "." + suffix.rpartition(".")[2] in SUFFIXES]


def key_of(name: str) -> tuple[str, str]:
    """(key, suffix in lower case) of a member's name."""
    folder, slash, base = name.rpartition("/")
    stem, _, suffix = base.partition(".")
    return folder + slash + stem, suffix.lower()


def _samples(path: Path, problems: list[Problem]) -> Iterator[_Sample]:
    """The samples of one shard in their order. A shard that is cut off or broken adds to `problems` and ends there."""
    size = path.stat().st_size
    sample, last = _Sample(""), ""
    try:
        with tarfile.open(path, "r:") as tar:
            while (member := tar.next()) is not None:
                tar.members.clear()  # type: ignore[attr-defined]  # tarfile would remember them all
                if member.offset_data + member.size > size:
                    problems.append((path.name, f"is cut off inside {member.name!r} (the file has {size:,} bytes)"))
                    if sample.key == key_of(member.name)[0]:
                        return  # its sample is lost with it
                    break
                last = member.name
                if not member.isfile() or "/." in f"/{last}":
                    continue
                key, suffix = key_of(last)
                if key != sample.key or suffix in sample.parts:
                    if sample.parts:
                        yield sample
                    sample = _Sample(key)
                sample.parts[suffix] = (member.offset_data, member.size)
            else:  # tarfile takes a header that it does not understand for the end
                with path.open("rb") as file:
                    file.seek(tar.offset)
                    block = file.read(512)
                if len(block) < 512 or any(block):
                    what = "has a broken header" if any(block) else "is cut off"
                    problems.append((path.name, f"{what} after {last!r}, at byte {tar.offset:,}"))
    except (tarfile.TarError, OSError, ValueError, EOFError) as error:
        problems.append((path.name, f"cannot be read after {last!r}: {error}" if last else f"is no tar: {error}"))
    if sample.parts:
        yield sample


def _label_and_texts(sample: _Sample, read: Callable[[int, int], bytes]) -> tuple[int, dict[str, list[str]]]:
    """(class number or -1, {"captions": [...], "tags": [...]}). Raises ImageError for what cannot be understood."""
    stated: dict[str, Any] = {}
    labels: dict[str, Any] = {}
    captions: list[str] = []
    for suffix in ("cls", "json", "txt"):
        if suffix not in sample.parts:
            continue
        if sample.parts[suffix][1] > LARGEST_TEXT:
            raise ImageError(f"has a .{suffix} of more than {LARGEST_TEXT >> 10} KiB")
        try:
            text = read(*sample.parts[suffix]).decode()
            if suffix == "cls":
                labels["cls"] = int(text)
            elif suffix == "txt":
                captions.append(text.strip())
            else:
                stated = json.loads(text)
                if not isinstance(stated, dict):
                    raise ValueError("expected an object")
        except ValueError as error:
            raise ImageError(f"has a .{suffix} that cannot be read: {error}") from error
    labels |= {name: stated[name] for name in ("label", "class", "cls") if stated.get(name) is not None}
    found = set(labels.values()) if all(type(v) is int and v >= 0 for v in labels.values()) else {-2}
    if len(found) > 1 or -2 in found:
        raise ImageError(f"has the labels {labels}; expected one class number from 0")
    for name in ("caption", "captions", "text"):
        captions += _texts(stated.get(name))
    texts = {"captions": captions, "tags": _texts(stated.get("tags"))}
    return next(iter(found), -1), {name: values for name, values in texts.items() if values}


def _texts(value: Any) -> list[str]:
    return [value] if isinstance(value, str) else [str(part) for part in value] if isinstance(value, list) else []


class _Writer:
    """The index while it is made: records, names and texts go to their files at once, counts stay."""

    def __init__(self, folder: Path) -> None:
        self.records, self.names, self.texts = ((folder / name).open("wb") for name in ("records", "names", "texts"))
        self.problems: list[Problem] = []
        self.ignored: Counter[str] = Counter()
        self.sizes: Counter[tuple[int, int]] = Counter()
        self.grey, self.transparent, self.captions, self.classes, self.count = True, False, False, 0, 0
        self.labelled = 0

    def add(self, shard: int, path: Path, sample: _Sample, read: Callable[[int, int], bytes]) -> None:
        """One sample; one that cannot be used is a problem instead."""
        images = sample.images()
        if not images:
            self.ignored.update("." + suffix for suffix in sample.parts)
            return
        name = f"{path.name}/{sample.key}.{images[0]}"
        offset, size = sample.parts[images[0]]
        try:
            if len(images) > 1:
                raise ImageError(f"has {len(images)} images ({', '.join(images)}); expected one")
            image = _glanced(lambda most: read(offset, min(size, most)), size)
            height, width = pixels.size_of(image)
            label, texts = _label_and_texts(sample, read)
        except ImageError as error:
            self.problems.append((shown(name), str(error)))
            return
        self.sizes[height, width] += 1
        self.grey = self.grey and pixels.is_grey(image)
        self.transparent = self.transparent or image.has_transparency_data
        self.classes, self.labelled = max(self.classes, label + 1), self.labelled + (label >= 0)
        self.captions = self.captions or "captions" in texts
        encoded, said = shown(name).encode(), json.dumps(texts).encode() if texts else b""
        places = (self.names.tell(), len(encoded), self.texts.tell(), len(said))
        record = (shard, offset, size, label, height, width, *places)
        self.records.write(np.array([record], RECORD).tobytes())
        self.names.write(encoded)
        self.texts.write(said)
        self.count += 1

    def finish(self, folder: Path) -> None:
        """Everything on the disk, about.json last."""
        for file in (self.records, self.names, self.texts):
            _close(file)
        height, width = self.sizes.most_common(1)[0][0] if self.sizes else (0, 0)
        about = {
            "format": FORMAT,
            "count": self.count,
            "labelled": self.labelled,
            "facts": {
                "height": height,
                "width": width,
                "channels": 1 if self.grey else 3,
                "classes": self.classes,
                "captions": self.captions,
                "transparent": self.transparent,
                "mixed": len(self.sizes) > 1,
            },
            "problems": self.problems,
            "ignored": dict(self.ignored),
        }
        with (folder / "about.json").open("wb") as file:
            file.write(json.dumps(about).encode())
            _close(file)


def _close(file: BinaryIO) -> None:
    file.flush()
    os.fsync(file.fileno())
    file.close()


def _glanced(read: Callable[[int], bytes], size: int) -> Image.Image:
    """An image, its header read; TIFF, WebP and EXIF may need more than the first bytes."""
    if size > LARGEST_FILE:
        raise ImageError(f"is larger than {LARGEST_FILE >> 20} MiB")
    try:
        return pixels.open_image(read(HEADER))
    except ImageError:
        return pixels.open_image(read(size))


# ---- the index
class Index:
    """Where every image of some shards is: memory-mapped records, and reading one image by its number."""

    def __init__(self, paths: Sequence[Path], spec: str, folder: Path) -> None:
        self.paths, self.spec, self.folder = list(paths), spec, folder
        about = json.loads((folder / "about.json").read_text())
        if about["format"] != FORMAT or (folder / "records").stat().st_size != about["count"] * RECORD.itemsize:
            raise ValueError("an index of another format")
        empty = not about["count"]
        self.records = np.zeros(0, RECORD) if empty else np.memmap(folder / "records", RECORD, "r")
        self.about = about
        self.problems: list[Problem] = [(name, reason) for name, reason in about["problems"]]
        self._files = _Files()

    def __len__(self) -> int:
        return len(self.records)

    def facts(self, count: int | None = None) -> Facts:
        """What is known of the shards; sizes are the commonest ones."""
        about = self.about["facts"]
        return Facts(
            name=self.spec,
            count=len(self) if count is None else count,
            label_names=tuple(map(str, range(about["classes"]))),
            origin=f"{len(self.paths)} tar shards",
            labels_from="the shards' .cls and .json" if about["classes"] else "no labels: no .cls, no label in .json",
            **about,
        )

    def name(self, index: int) -> str:
        """shard.tar/key.png"""
        return self._text("names", index, "name").decode()

    def texts(self, index: int) -> dict[str, list[str]]:
        """Captions and tags of an image."""
        found: dict[str, list[str]] = json.loads(self._text("texts", index, "text") or b"{}")
        return found

    def _text(self, file: str, index: int, column: str) -> bytes:
        record = self.records[index]
        return self._files.read(self.folder / file, int(record[column]), int(record[f"{column}_size"]))

    def read(self, index: int) -> Image.Image:
        """One image, its pixels not decoded yet. Raises ImageError."""
        record = self.records[index]
        size = int(record["size"])
        try:
            data = self._files.read(self.paths[int(record["shard"])], int(record["offset"]), size)
        except OSError as error:
            raise ImageError(f"cannot be read: {error.strerror or error}") from error
        if len(data) != size:
            raise ImageError(f"is cut off: {len(data):,} of {size:,} bytes are there")
        return pixels.open_image(data)

    def unlabelled(self) -> NDArray[np.bool_]:
        """Images without a label, where others have one; [N]."""
        part = 0 < self.about["labelled"] < len(self)
        return np.asarray(self.records["label"] < 0) if part else np.zeros(len(self), np.bool_)

    def broken(self, progress: Progress | None = None) -> dict[int, str]:
        """Images whose pixels cannot be decoded, and why: found by decoding all, once, and kept with the index."""
        place = self.folder / "broken.json"
        try:
            return {int(index): str(reason) for index, reason in json.loads(place.read_text())}
        except (OSError, ValueError):
            found: dict[int, str] = {}
        for index in range(len(self)):
            try:
                pixels.decode(self.read(index))
            except ImageError as error:
                found[index] = str(error)
            if progress:
                progress(index + 1, len(self))
        scratch = place.with_name(f".{place.name}.{os.getpid()}")
        with scratch.open("wb") as file:
            file.write(json.dumps(list(found.items())).encode())
            _close(file)
        scratch.replace(place)
        return found


class _Files:
    """Bytes at a place in a file; up to OPEN files stay open. Threads and forked processes may share it."""

    def __init__(self) -> None:
        self._open: OrderedDict[Path, BinaryIO] = OrderedDict()
        self._lock = threading.Lock()

    def read(self, path: Path, offset: int, size: int) -> bytes:
        with self._lock:
            file = self._open.get(path)
            if file is None:
                file = self._open[path] = cast(BinaryIO, path.open("rb", buffering=0))
            self._open.move_to_end(path)
            if len(self._open) > OPEN:
                self._open.popitem(last=False)[1].close()
            if hasattr(os, "pread"):  # no position that a forked process would move
                return _whole(lambda done: os.pread(file.fileno(), size - done, offset + done), size)
            file.seek(offset)
            return _whole(lambda done: file.read(size - done), size)


def _whole(read: Callable[[int], bytes], size: int) -> bytes:
    """Reads may be short; fewer bytes come back only at the end of the file."""
    found = read(0)
    while len(found) < size and (more := read(len(found))):
        found += more
    return found


def index(paths: Sequence[Path], spec: str, cache: bool = True) -> Index:
    """The index of these shards, from the cache or made now. Raises UserError when it cannot be written."""
    from .named import cache_folder
    from .sets import locked

    if not cache:
        kept = tempfile.TemporaryDirectory(prefix="saddlepoint-index-")
        found = _made(paths, spec, Path(kept.name) / "index")
        found.__dict__["kept"] = kept  # removed with the index
        return found
    stem = "".join(c if c.isascii() and (c.isalnum() or c in "-_") else "-" for c in Path(spec).name)[:40]
    folder = cache_folder() / "shards" / f"{stem}-{hashlib.sha256(key(paths).encode()).hexdigest()[:24]}"
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with locked(folder.with_name(f".{folder.name}.lock")):
            try:
                return Index(paths, spec, folder)
            except (OSError, ValueError, KeyError, TypeError):
                return _made(paths, spec, folder)
    except OSError as error:
        raise UserError(
            f"the index of {spec!r} cannot be written to {str(folder.parent)!r}: {error}. Set SADDLEPOINT_CACHE to a "
            f"folder with room, or open the set with cache=False."
        ) from error


def key(paths: Sequence[Path]) -> str:
    """A text that changes with any shard's name, size or time."""
    stats = [(path, path.stat()) for path in paths]
    return f"{FORMAT} " + repr([(str(path.resolve()), stat.st_size, stat.st_mtime_ns) for path, stat in stats])


def _made(paths: Sequence[Path], spec: str, folder: Path) -> Index:
    scratch = Path(tempfile.mkdtemp(prefix=".new-", dir=folder.parent))
    try:
        files, writer = _Files(), _Writer(scratch)
        for number, path in enumerate(paths):
            for sample in _samples(path, writer.problems):
                writer.add(number, path, sample, lambda offset, size, path=path: files.read(path, offset, size))  # type: ignore[misc]
        writer.finish(scratch)
        shutil.rmtree(folder, ignore_errors=True)  # damaged, or of another format
        scratch.rename(folder)
    except BaseException:
        shutil.rmtree(scratch, ignore_errors=True)
        raise
    return Index(paths, spec, folder)


# ---- as a set
Parts = tuple[
    NDArray[np.uint8], NDArray[np.int64] | None, Sequence[list[str]] | None, Sequence[str], Facts, list[Problem]
]


class Lazy(Sequence[Any]):
    """A list that is computed item by item; compares with lists."""

    def __init__(self, count: int, item: Callable[[int], Any]) -> None:
        self._count, self._item = count, item

    def __len__(self) -> int:
        return self._count

    @overload
    def __getitem__(self, place: int) -> Any: ...
    @overload
    def __getitem__(self, place: slice) -> list[Any]: ...
    def __getitem__(self, place: int | slice) -> Any:
        if isinstance(place, slice):
            return [self._item(i) for i in range(*place.indices(self._count))]
        return self._item(range(self._count)[place])

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and list(self) == list(other)

    __hash__ = None  # type: ignore[assignment]


class Streamed:
    """uint8 [N, C, H, W] whose images are read and decoded when they are asked for: `images[7]`, `images[order]`.

    Raises UserError that names the shard and the member where an image cannot be decoded.
    """

    dtype = np.dtype(np.uint8)
    ndim = 4

    def __init__(self, found: Index, kept: NDArray[np.int64] | None, options: Options, count: int) -> None:
        """kept: numbers of the images in the index, None for all. options: settled."""
        self.index, self.kept, self.options = found, kept, options
        self.shape = (count, options.channels, options.height, options.width)

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, place: Any) -> NDArray[np.uint8]:
        if isinstance(place, tuple):
            rest = place[1:] if isinstance(place[0], int | np.integer) else (slice(None), *place[1:])
            part: NDArray[np.uint8] = self[place[0]][rest]
            return part
        if isinstance(place, int | np.integer):
            return self._image(range(len(self))[int(place)])
        numbers = np.arange(len(self))[place]
        images = np.empty((len(numbers), *self.shape[1:]), np.uint8)
        for row, number in enumerate(numbers.tolist()):
            images[row] = self._image(number)
        return images

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        return self[:].astype(dtype or np.uint8, copy=False)

    def _image(self, number: int) -> NDArray[np.uint8]:
        if self.kept is not None:
            number = int(self.kept[number])
        try:
            return pixels.to_pixels(self.index.read(number), self.options)
        except ImageError as error:
            raise UserError(
                f"{self.index.name(number)} {error}. Repair the shard, or leave broken images out with --on-error skip."
            ) from error


def usable(
    found: Index, options: Options, check: bool, progress: Progress | None = None
) -> tuple[NDArray[np.int64] | None, list[Problem]]:
    """(numbers of the images that can be used, None for all; what is wrong with the others).

    check: decode every image once, so that those with damaged pixels are among the others.
    """
    bad: dict[int, str] = {}
    if not options.height and found.about["facts"]["mixed"]:
        height, width = options.settled(found.facts()).height, options.settled(found.facts()).width
        for number in np.flatnonzero((found.records["height"] != height) | (found.records["width"] != width)):
            one = found.records[number]
            bad[int(number)] = (
                f"is {one['height']}x{one['width']}, the commonest size {height}x{width}; "
                f"give a resolution to fit all to"
            )
    bad |= {int(number): "has no label, and others have one" for number in np.flatnonzero(found.unlabelled())}
    bad |= found.broken(progress) if check else {}
    problems = found.problems + [(found.name(number), reason) for number, reason in sorted(bad.items())]
    if not bad:
        return None, problems
    return np.setdiff1d(np.arange(len(found), dtype=np.int64), np.fromiter(bad, np.int64)), problems


def source(paths: Sequence[Path], spec: str) -> Source:
    """The shards as a Source: what `data build`, `data inspect` and conversion into memory read."""
    found = index(paths, spec)
    _refuse_empty(found)
    kept, problems = usable(found, Options(1, 1), check=False)
    number = (lambda i: i) if kept is None else (lambda i: int(kept[i]))
    count = len(found) if kept is None else len(kept)
    labels = np.asarray(found.records["label"] if kept is None else found.records["label"][kept])
    facts = found.facts(count)
    return Source(
        facts,
        Lazy(count, lambda i: found.name(number(i))),
        lambda i: found.read(number(i)),
        labels=labels.tolist() if facts.classes else None,
        captions=[found.texts(number(i)).get("captions", []) for i in range(count)] if facts.captions else None,
        problems=problems,
        ignored=found.about["ignored"],
    )


def opened(
    paths: Sequence[Path], spec: str, options: Options, check: bool, cache: bool, progress: Progress | None
) -> tuple[
    NDArray[np.uint8], NDArray[np.int64] | None, Sequence[list[str]] | None, Sequence[str], Facts, list[Problem]
]:
    """Images, labels, captions, names, facts and problems of shards; images are decoded when they are asked for."""
    found = index(paths, spec, cache)
    _refuse_empty(found)
    kept, problems = usable(found, options, check, progress)
    count = len(found) if kept is None else len(kept)
    number = (lambda i: i) if kept is None else (lambda i: int(kept[i]))
    facts = replace(options.applied(found.facts(count)), mixed=False)
    images = Streamed(found, kept, options.settled(found.facts()), count)
    labels = np.asarray(found.records["label"] if kept is None else found.records["label"][kept], np.int64)
    captions = Lazy(count, lambda i: found.texts(number(i)).get("captions", [])) if facts.captions else None
    names = Lazy(count, lambda i: found.name(number(i)))
    # All that anyone does with a set's images is to index them; Streamed answers as an array would.
    return cast(NDArray[np.uint8], images), labels if facts.classes else None, captions, names, facts, problems


def _refuse_empty(found: Index) -> None:
    if len(found):
        return
    listed = "".join(f"\n  {name} {reason}" for name, reason in found.problems[:10])
    raise UserError(
        f"{found.spec!r} holds no usable images in {len(found.paths)} shards; expected members such as 0001.png with "
        f"0001.cls.{listed}"
    )
