"""Folders and zips of images: what is in them, their labels, and reading one image at a time."""

from __future__ import annotations

import json
import os
import re
import zipfile
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from PIL import Image

from saddlepoint.errors import UserError

from . import pixels
from .catalog import Facts
from .pixels import ImageError

SUFFIXES = {".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff"}
HEADER = 1 << 18  # bytes that hold the header of most images, a JPEG's EXIF included
LARGEST_FILE = 1 << 30  # bytes, unpacked; a zip can promise any number
Problem = tuple[str, str]  # (file name, what is wrong with it)


def shown(name: str) -> str:
    """A file name that can be printed and stored whatever bytes it is made of."""
    return name.encode("utf-8", "backslashreplace").decode()


@dataclass
class Source:
    """Images that can be read one at a time; `read` decodes no pixels yet and raises ImageError for a bad file."""

    facts: Facts
    names: Sequence[str]
    read: Callable[[int], Image.Image]
    labels: list[int] | None = None
    captions: list[list[str]] | None = None  # per image, any number of sentences
    tags: list[list[str]] | None = None
    problems: list[Problem] = field(default_factory=list)  # found before any image is read
    ignored: dict[str, int] = field(default_factory=dict)  # other files, by suffix
    fixed: bool = False  # all images are known to have the shape in `facts`
    maps: bool = False  # not pictures but whole numbers: classes, instances


@dataclass
class Listing:
    """The files of a folder or zip: names with forward slashes, in sorted order."""

    files: list[str]
    fetch: Callable[[str, int], bytes]  # (name, most bytes; -1 for all, which checks a zip's CRC too)
    doubled: list[str] = field(default_factory=list)

    def images(self) -> list[str]:
        """The names of the images; hidden files and the folders that macOS leaves behind are not among them."""
        return [name for name in self.files if _suffix(name) in SUFFIXES and not _hidden(name)]


def _suffix(name: str) -> str:
    """The lower-case suffix with its dot, or ""; pathlib takes seconds for what a large zip holds."""
    _, dot, suffix = name.rpartition("/")[2].rpartition(".")
    return (dot + suffix).lower()


def _hidden(name: str) -> bool:
    return name.startswith((".", "__MACOSX/")) or "/." in name or "/__MACOSX/" in name


def locate(path: Path, spec: str) -> tuple[str, Callable[[], Source]]:
    """A text that changes when the folder or zip does, and a function that reads its list of files."""
    if not path.is_dir():
        stat = path.stat()
        return repr((str(path.resolve()), stat.st_size, stat.st_mtime_ns)), lambda: open_files(
            _list_zip(path), path, spec
        )
    listing, stamps = _list_folder(path)
    return f"{path.resolve()} {stamps}", lambda: open_files(listing, path, spec)


def _list_folder(path: Path) -> tuple[Listing, str]:
    """What a folder holds, and a text that changes with the name, size or time of any file."""
    found: list[tuple[str, int, int]] = []
    for folder, _, names in os.walk(path):
        for name in names:
            place = Path(folder, name)
            try:
                stat = place.stat()
                size, time = stat.st_size, stat.st_mtime_ns
            except OSError:  # a broken link: reading it will say so
                size = time = -1
            found.append((place.relative_to(path).as_posix(), size, time))
    found.sort()

    def fetch(name: str, most: int) -> bytes:
        with (path / name).open("rb") as file:
            if os.fstat(file.fileno()).st_size > LARGEST_FILE:
                raise ImageError(f"is larger than {LARGEST_FILE >> 20} MiB")
            return file.read(most)

    return Listing([name for name, _, _ in found], fetch), repr(found)


def _list_zip(path: Path) -> Listing:
    """What a zip holds; nothing is unpacked. Raises UserError when it cannot be read."""
    try:
        archive = zipfile.ZipFile(path)
    except (zipfile.BadZipFile, OSError, NotImplementedError, ValueError) as error:
        raise UserError(f"{str(path)!r} cannot be read as a zip: {error}.") from error
    members = {info.filename: info for info in archive.infolist() if not info.is_dir()}
    times = Counter(info.filename for info in archive.infolist())

    def fetch(name: str, most: int) -> bytes:
        if members[name].file_size > LARGEST_FILE:
            raise ImageError(f"would unpack to more than {LARGEST_FILE >> 20} MiB")
        with archive.open(name) as file:
            return file.read(most)

    return Listing(sorted(members), fetch, sorted(name for name, count in times.items() if count > 1))


def _open(listing: Listing, name: str, most: int = -1) -> Image.Image:
    """One image of a listing, from its first `most` bytes. Raises ImageError."""
    try:
        data = listing.fetch(name, most)
    except ImageError:
        raise
    except Exception as error:  # zipfile raises a dozen kinds for damaged, encrypted and unknown members
        raise ImageError(f"cannot be read: {error}") from error
    return pixels.open_image(data)


def _json(listing: Listing, name: str) -> dict[str, Any]:
    """A JSON object beside the images, {} when there is none. Raises UserError when it is something else."""
    if name not in listing.files:
        return {}
    try:
        content = json.loads(listing.fetch(name, -1))
    except Exception as error:
        raise UserError(f"{name!r} beside the images is not readable JSON: {error}.") from error
    if not isinstance(content, dict):
        raise UserError(f"{name!r} beside the images holds a {type(content).__name__}; expected an object.")
    return content


def _root(names: Sequence[str]) -> str:
    """The folder that all images are in, with a slash at its end, or ""."""
    parents = {name.rpartition("/")[0] for name in names}
    root = "" if "" in parents else os.path.commonpath(parents)
    return root and root + "/"


def _stated_labels(pairs: Any, base: str, names: Sequence[str]) -> tuple[dict[str, int], list[Problem]]:
    """Labels as dataset.json states them, by full name, and what is wrong with the statement."""
    labels: dict[str, int] = {}
    problems: list[Problem] = []
    known = set(names)
    if not isinstance(pairs, list):
        raise UserError(
            f"'labels' in dataset.json is a {type(pairs).__name__}; expected null or a list of [file, class number]."
        )
    for pair in pairs:
        good = isinstance(pair, list) and len(pair) == 2 and isinstance(pair[0], str)
        if not good or type(pair[1]) is not int or pair[1] < 0:
            raise UserError(f"dataset.json has the label entry {pair!r}; expected [file name, class number from 0].")
        name = base + pair[0].replace("\\", "/")
        if name in labels:
            same = "the same class" if labels[name] == pair[1] else f"classes {labels[name]} and {pair[1]}"
            problems.append((name, f"is labelled more than once in dataset.json, with {same}; the first counts"))
        elif name not in known:
            problems.append((name, "is labelled in dataset.json but not there"))
        labels.setdefault(name, pair[1])
    return labels, problems


def _folder_labels(names: Sequence[str], root: str) -> tuple[dict[str, int], tuple[str, ...], str]:
    """Labels from the first folder below the root, their names, and where they come from."""
    tops = [name[len(root) :].split("/")[0] if "/" in name[len(root) :] else "" for name in names]
    classes = sorted(set(tops) - {""})
    if not classes:
        return {}, (), "no labels: no sub-folders and no dataset.json"
    if "" in tops:
        return {}, (), "no labels: some images lie in sub-folders and some do not"
    if all(re.fullmatch(r"\d{5}", name) for name in classes):
        return {}, (), "no labels: numbered sub-folders without dataset.json"
    number = {name: index for index, name in enumerate(classes)}
    labels = {name: number[top] for name, top in zip(names, tops, strict=True)}
    return labels, tuple(shown(name) for name in classes), "sub-folders"


def _survey(listing: Listing, names: Sequence[str]) -> dict[str, Any]:
    """By the headers of images: the commonest size, and whether sizes are mixed, some have colour or transparency."""
    sizes: Counter[tuple[int, int]] = Counter()
    grey, transparent = True, False
    for name in names:
        try:
            try:
                image = _open(listing, name, HEADER)
            except ImageError:  # TIFF and WebP may need more
                image = _open(listing, name)
            sizes[pixels.size_of(image)] += 1
            grey = grey and pixels.is_grey(image)
            transparent = transparent or image.has_transparency_data
        except ImageError:  # named when the set is read
            continue
    height, width = sizes.most_common(1)[0][0] if sizes else (0, 0)
    channels = 1 if grey else 3
    return {"height": height, "width": width, "channels": channels, "transparent": transparent, "mixed": len(sizes) > 1}


def open_files(listing: Listing, path: Path, spec: str, most_headers: int = 0) -> Source:
    """A folder or zip as a Source. Raises UserError when it holds no image or its dataset.json is malformed.

    The commonest size and the channels come from the headers of all images, or of `most_headers` spread over the set.
    """
    names = images = listing.images()
    if not names:
        raise UserError(f"{spec!r} holds no images; expected files ending in {', '.join(sorted(SUFFIXES))}.")
    root = _root(names)
    base = "" if "dataset.json" in listing.files or f"{root}dataset.json" not in listing.files else root
    stated, extra = _json(listing, f"{base}dataset.json"), _json(listing, f"{base}saddlepoint.json")
    problems: list[Problem] = [(name, "is in the zip more than once; the last counts") for name in listing.doubled]
    label_names: tuple[str, ...] = tuple(map(str, extra.get("label_names") or ()))
    origin = "dataset.json"
    if stated.get("labels"):
        labels, wrong = _stated_labels(stated["labels"], base, names)
        problems += wrong + [(name, "has no label in dataset.json") for name in names if name not in labels]
        names = [name for name in names if name in labels]
    elif stated:
        labels, origin = {}, "no labels: dataset.json has none"
    else:
        labels, label_names, origin = _folder_labels(names, root)
    step = -(-len(names) // most_headers) if most_headers else 1  # rounded up
    seen = _survey(listing, names[::step])
    if extra.get("channels") in (1, 3, 4):
        seen["channels"] = extra["channels"]
    classes = max(max(labels.values(), default=-1) + 1, len(label_names) if labels else 0)
    facts = Facts(
        name=spec,
        count=len(names),
        classes=classes,
        label_names=label_names if len(label_names) == classes else tuple(map(str, range(classes))),
        captions=bool(extra.get("captions")),
        licence=str(extra.get("licence", "")),
        attribution=str(extra.get("attribution", "")),
        origin=str(extra.get("origin", path.name)),
        labels_from=origin,
        **seen,
    )
    return Source(
        facts,
        names,
        lambda index: _open(listing, names[index]),
        labels=[labels[name] for name in names] if labels else None,
        captions=_texts(extra, "captions", base, names),
        tags=_texts(extra, "tags", base, names),
        problems=[(shown(name), reason) for name, reason in problems],
        ignored=_ignored(listing, images, base),
    )


def _ignored(listing: Listing, images: Sequence[str], base: str) -> dict[str, int]:
    """How many files of which suffix are neither images nor ours."""
    ours = {base + name for name in ("dataset.json", "saddlepoint.json", "ATTRIBUTION.txt")}
    rest = sorted(set(listing.files) - set(images) - ours)
    return dict(Counter("hidden " * _hidden(name) + (_suffix(name) or "no suffix") for name in rest))


def _texts(extra: dict[str, Any], key: str, base: str, names: Sequence[str]) -> list[list[str]] | None:
    """Per image the sentences under `key` of saddlepoint.json: {file name: sentence or list of them}."""
    table = extra.get(key)
    if not table:
        return None
    if not isinstance(table, dict):
        raise UserError(f"{key!r} in saddlepoint.json is a {type(table).__name__}; expected texts by file name.")
    found = [table.get(name[len(base) :], []) for name in names]
    return [[str(text)] if isinstance(text, str) else [str(part) for part in text] for text in found]


def glance(path: Path, spec: str) -> Facts:
    """The facts of a folder or zip from its list of files and the headers of a hundred images."""
    listing = _list_folder(path)[0] if path.is_dir() else _list_zip(path)
    return open_files(listing, path, spec, most_headers=100).facts
