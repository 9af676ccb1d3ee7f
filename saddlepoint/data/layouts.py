"""Folders and zips of examples with several pictures, in the arrangements of the official repositories.

    trainA/ trainB/ (testA/ testB/)              two collections without pairs (CycleGAN)
    A/ B/, or A/train/ B/train/                  pairs: the same names in both
    train_A/ train_B/                            pairs (pix2pixHD without labels)
    pictures, or train/ and test/ of them        pairs: a and b side by side in every file (pix2pix)
    label/ inst/ img/, or train_label/ ...       label maps, instances and photos (pix2pixHD, SPADE); inst/ may lack

All may also lie in train/ and test/, or in one more folder around everything. Names need to agree up to their suffix
and the endings that Cityscapes gives them. classes.txt beside the folders names the classes of label maps, one a line.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path

from PIL import Image

from saddlepoint.errors import UserError

from . import pixels
from .catalog import Facts, existing_path
from .files import Listing, Source, _list_folder, _list_zip, _open, _root, _survey
from .options import Options
from .paired import MAPS, Column, Layout
from .pixels import ImageError

PHASES = {"train": ("train",), "test": ("test", "val"), "all": ("train", "test", "val")}
ROLES = {
    "label": "label", "labels": "label", "inst": "instance", "instance": "instance", "instances": "instance",
    "img": "image", "image": "image", "images": "image",
}  # fmt: skip
ENDINGS = ("_gtFine_labelIds", "_gtFine_instanceIds", "_leftImg8bit", "_gtFine_labelTrainIds")
HEADERS = 100  # that are read to know a column's shape


def find(path: str, split: str) -> Layout:
    """The layout of a folder or zip. Raises UserError that lists what is there where no arrangement fits."""
    place = existing_path(path)
    spec = path if split == "train" else f"{path}:{split}"
    listing, stamp = _list_folder(place) if place.is_dir() else _zip(place)
    names = listing.images()
    if not names:
        raise UserError(f"{spec!r} holds no images.")
    root = _outside(_root(names))
    for phase in (split,) if split != "train" else ("train", ""):
        columns, paired = arranged(names, root, phase)
        if columns:
            break
    else:
        raise _strange(spec, names, root, split)
    lacking = {"a", "b"} - set(columns) if "a" in columns or "b" in columns else {"image"} - set(columns)
    if lacking:
        raise UserError(_incomplete(spec, columns, sorted(lacking)))
    halves = columns["a"] is columns["b"] if "a" in columns else False
    made = tuple(
        _column(listing, stamp, spec, name, files, half=name if halves else "") for name, files in columns.items()
    )
    tops = {name: _top(files) for name, files in columns.items()}
    label_names = _class_names(listing, root) if "label" in columns else ()

    def held_out() -> Layout | None:
        if split != "train":
            return None
        try:
            return find(path, "test")
        except UserError:
            return None

    return Layout(spec, made, paired, lambda name: key_of(name, tops), held_out, label_names)


def _class_names(listing: Listing, root: str) -> tuple[str, ...]:
    """The lines of classes.txt beside the folders, or nothing."""
    name = f"{root}classes.txt" if f"{root}classes.txt" in listing.files else "classes.txt"
    if name not in listing.files:
        return ()
    try:
        lines = listing.fetch(name, -1).decode("utf-8-sig").splitlines()
    except (OSError, ImageError, UnicodeDecodeError) as error:
        raise UserError(f"{name!r} beside the label maps is no list of names, one a line: {error}.") from error
    return tuple(line.strip() for line in lines if line.strip())


def _zip(place: Path) -> tuple[Listing, str]:
    stat = place.stat()
    return _list_zip(place), repr((str(place.resolve()), stat.st_size, stat.st_mtime_ns))


def _outside(root: str) -> str:
    """The folder around everything, also where only one of the folders that are meant is there."""
    name = root.rstrip("/").rpartition("/")[2].lower()
    phase, _, role = name.rpartition("_")
    known = re.fullmatch(r"((train|test|val)_?)?[ab]|train|test|val", name) or (
        role in ROLES and phase in ("", *PHASES["all"])
    )
    return root[: len(root.rstrip("/")) - len(name)] if known else root


# ---- which arrangement
def arranged(names: Sequence[str], root: str, phase: str) -> tuple[dict[str, list[str]], bool]:
    """({column: its files}, whether they are pairs) of one phase; nothing where no arrangement has it."""
    for one in PHASES.get(phase, ("",)):
        for rule in (_beside_each_other, _in_phases):
            found, paired = rule(names, root, one)
            if found:
                return found, paired
    return {}, True


def _under(names: Sequence[str], folder: str) -> list[str]:
    return [name for name in names if name.startswith(folder)]


def _folders(names: Sequence[str], root: str) -> dict[str, str]:
    """{folder below the root in lower case: as it is written}."""
    return {top.lower(): top for name in names if "/" in name[len(root) :] for top in [name[len(root) :].split("/")[0]]}


def _beside_each_other(names: Sequence[str], root: str, phase: str) -> tuple[dict[str, list[str]], bool]:
    """trainA trainB, train_A train_B, train_label train_inst train_img: folders with the phase in their names; or A B
    and label inst img, with or without a folder for the phase inside.
    """
    folders, found = _folders(names, root), dict[str, list[str]]()
    paired = True
    for lower, top in folders.items():
        inside = f"{root}{top}/"
        if phase and re.fullmatch(rf"{phase}[ab]", lower):
            found[lower[-1]], paired = _under(names, inside), False
        elif phase and re.fullmatch(rf"{phase}_[ab]", lower):
            found[lower[-1]] = _under(names, inside)
        elif phase and lower.startswith(f"{phase}_") and lower[len(phase) + 1 :] in ROLES:
            found[ROLES[lower[len(phase) + 1 :]]] = _under(names, inside)
        elif lower in ("a", "b") or lower in ROLES:
            files = _of_phase(names, inside, phase)
            if files:
                found[ROLES.get(lower, lower)] = files
    return {name: found[name] for name in ("a", "b", "label", "instance", "image") if found.get(name)}, paired


def _of_phase(names: Sequence[str], inside: str, phase: str) -> list[str]:
    """The files of a phase in A/ or label/: in the folder of the phase, or all where there are no such folders."""
    phases = {top for top in _folders(names, inside) if top in ("train", "test", "val")}
    if phase:
        return _under(names, f"{inside}{phase}/")
    return [] if phases else _under(names, inside)


def _in_phases(names: Sequence[str], root: str, phase: str) -> tuple[dict[str, list[str]], bool]:
    """train/ with another arrangement or with pictures side by side in it; or pictures side by side at the root."""
    folders = _folders(names, root)
    if phase:
        if phase not in folders:
            return {}, True
        inside = f"{root}{folders[phase]}/"
        found, paired = _beside_each_other(_under(names, inside), inside, "")
        files = _under(names, inside)
        return (found, paired) if found else ({"a": files, "b": files}, True)
    if folders:
        return {}, True
    files = list(names)
    return {"a": files, "b": files}, True


def _strange(spec: str, names: Sequence[str], root: str, split: str) -> UserError:
    folders = sorted(_folders(names, root).values())
    there = f"the folders {', '.join(folders[:8])}" if folders else f"{len(names)} images"
    part = f" for {split!r}" if split != "train" else ""
    return UserError(
        f"{spec!r} has {there}; expected{part} trainA/ and trainB/ (two collections), A/ and B/ (pairs of "
        "equal names), label/ and img/ (with inst/ or without), or both side by side in every file, alone or in train/."
    )


def _incomplete(spec: str, columns: Mapping[str, list[str]], lacking: Sequence[str]) -> str:
    there = ", ".join(f"{name} ({_top(files)})" for name, files in columns.items())
    top = _top(next(iter(columns.values())))
    near = {"a": re.sub(r"[bB]/$", "A/", top), "b": re.sub(r"[aA]/$", "B/", top)}.get(lacking[0], "img/")
    return f"{spec!r} has {there} but nothing for {' and '.join(lacking)}; expected a folder {near!r} beside it."


# ---- keys
def _top(files: Sequence[str]) -> str:
    """The folder that all these files are in, with its slash."""
    return _root(files)


def key_of(name: str, tops: Mapping[str, str]) -> str:
    """The part of a file name that partners share: below the column's folder, without suffix and known endings."""
    inside = max((top for top in tops.values() if name.startswith(top)), key=len, default="")
    stem = name[len(inside) :]
    stem = stem.rpartition(".")[0] or stem
    for ending in ENDINGS:
        stem = stem.removesuffix(ending)
    return stem


# ---- columns
def _column(listing: Listing, stamp: str, spec: str, name: str, files: list[str], half: str) -> Column:
    maps = name in MAPS

    def read(index: int) -> Image.Image:
        image = _open(listing, files[index])
        return _half(image, half) if half else image

    @lru_cache(1)
    def facts() -> Facts:
        step = -(-len(files) // HEADERS)
        seen = _survey(listing, files[::step])
        seen["width"] = seen["width"] // 2 if half else seen["width"]
        if maps:
            seen |= {"channels": 4, "transparent": False}
        return Facts(name=spec, count=len(files), origin=Path(spec).name, labels_from="", **seen)

    def load(options: Options) -> Source:
        return Source(facts(), files, read, maps=maps)

    return Column(name, f"{stamp} {_top(files)} {name} {half}", load, facts)


def _half(image: Image.Image, side: str) -> Image.Image:
    """The left ("a") or right ("b") half of two pictures side by side. Raises ImageError for what cannot be two."""
    image = pixels.decode(image)
    if image.width % 2:
        raise ImageError(f"is {image.width} pixels wide; two pictures side by side have an even width")
    if image.width < image.height:
        raise ImageError(f"is {image.height}x{image.width}, higher than wide; expected two pictures side by side")
    middle = image.width // 2
    return image.crop((0, 0, middle, image.height) if side == "a" else (middle, 0, image.width, image.height))
