"""What is to be translated: pictures or label maps of a set, a folder, a zip or a file, with objects and true partners.

found     a source by its name -> its pictures, read when they are asked for
tensor    a picture as floats in [-1, 1]                    ids        a map as whole numbers, never mixed
regions   connected regions of a label map, as objects      look_of    a reference picture for an encoder of styles
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from saddlepoint.errors import UserError, nearest

if TYPE_CHECKING:
    from PIL import Image
    from torch import Tensor

    from saddlepoint.data.files import Listing
    from saddlepoint.data.options import Options
    from saddlepoint.systems.translation import Translator

REGIONS = "regions"  # in the place of instance maps: every connected region of a class is an object


@dataclass(frozen=True)
class Picture:
    """A picture or label map to translate: its name below the output folder, and how it, its true partner and its
    objects are read. Pictures are decoded, maps are as their files have them.
    """

    name: str
    read: Callable[[], Image.Image]
    truth: Callable[[], Image.Image] | None = None
    instance: Callable[[], Image.Image] | None = None


class File(NamedTuple):
    """A file of a folder, zip or set: its name without suffix, and how to read it."""

    stem: str
    read: Callable[[], Image.Image]


def found(game: Translator, source: str, *, truth: str = "", instances: str = "", direction: str = "a-to-b",
          ) -> Iterator[Picture]:  # fmt: skip
    """The pictures, or label maps where the game takes those, that `source` names.

    source: a named set, a folder or zip in an arrangement of `data.layouts` (both with ":test" for a part), a folder or
    zip of pictures in their own sizes, or one file. truth, instances: where true partners and instance maps lie, by the
    same names, where the source has none.
    """
    from saddlepoint.data.pair_catalog import PAIRS
    from saddlepoint.data.paired import split_of

    if split_of(source)[0].partition(":")[0] in PAIRS:
        if truth:
            raise UserError(f"the set {source!r} knows its true partners: leave --truth out.")
        pictures = _of_set(game, source, direction)
    else:
        pictures = _of_path(game, source, direction, truth)
    objects = "instance" in game.takes
    if instances and not objects:
        raise UserError(f"this {game.recipe.system} was trained without instances: leave --instances out.")
    others = _by_key(instances) if instances not in ("", REGIONS) else None
    for picture in pictures:
        if others is not None:
            picture = dataclasses.replace(picture, instance=_partner(picture.name, others, source, instances))
        if objects and picture.instance is None and not instances and game.objects_needed:
            raise UserError(
                f"this {game.recipe.system} was trained with instances, and {source!r} has none: name them by "
                "--instances FOLDER (or a folder inst/ beside label/); --instances regions takes every connected "
                "region of a class as an object."
            )
        yield picture


# ---- named sets
def _of_set(game: Translator, spec: str, direction: str) -> Iterator[Picture]:
    """The pictures of a named set at the run's resolution, with their true partners where they have some."""
    from PIL import Image

    from saddlepoint.data.paired import find, open_items

    recipe: Any = game.recipe
    layout = find(spec)
    first, second = _ends(game, direction)
    objects = "instance" in game.takes and layout.has("instance")
    wanted = [first, *(["instance"] if objects else []), *([second] if layout.has(second) else [])]
    items = open_items(
        layout, wanted, resolution=recipe.shape, fit=recipe.fit, background=recipe.background
    )  # fmt: skip
    columns, rows = list(items.columns), items.rows

    def image(name: str, index: int) -> Image.Image:
        array = items.take(name, np.array([index]))[0]  # [C, H, W], or [H, W] of a map
        if array.ndim == 2:
            return Image.fromarray(array.astype(np.int32))
        return Image.fromarray(array[0] if len(array) == 1 else array.transpose(1, 2, 0))

    def reader(name: str, n: int) -> Callable[[], Image.Image] | None:
        if name not in columns or (rows is None and name != first):
            return None
        index = n if rows is None else int(rows[n, columns.index(name)])
        return lambda: image(name, index)

    for n in range(len(items) if items.paired else len(items.columns[first])):
        name = items.names[n] if items.paired else items.columns[first].names[n].partition("/")[2]
        read = reader(first, n)
        assert read is not None
        yield Picture(f"{name}.png", read, reader(second, n), reader("instance", n))


def _ends(game: Translator, direction: str) -> tuple[str, str]:
    """The columns of the data that a direction goes from and to."""
    if game.takes[0] == "label":
        return "label", "image"
    swapped = (game.recipe.direction == "b-to-a") != (direction == "b-to-a")
    return ("b", "a") if swapped else ("a", "b")


# ---- folders, zips and files
def _of_path(game: Translator, source: str, direction: str, truth: str) -> Iterator[Picture]:
    """The files that a path means, in their own sizes."""
    columns = _arranged(source, *_ends(game, direction))
    partners = _by_key(truth) if truth else None
    if columns is None:
        files = list(_files(source, raw=game.takes[0] == "label"))
        columns = {"first": {_key(file.stem): file for file in files}}
        if len(columns["first"]) < len(files):  # of one name but for their suffixes: the writer refuses them
            columns = {"first": {str(n): file for n, file in enumerate(files)}}
    for key, file in columns["first"].items():
        name = file.stem + ".png"
        wanted = [*(["second"] if partners is None else []), *(["instance"] if "instance" in game.takes else [])]
        beside = {other: columns[other].get(key) for other in wanted if other in columns}
        lacking = [other for other, partner in beside.items() if partner is None]
        if lacking:
            where = " and ".join("the folder of " + ("instances" if o == "instance" else "photos") for o in lacking)
            raise UserError(f"{file.stem} of {source!r} has no partner in {where}.")
        readers = {other: partner.read for other, partner in beside.items() if partner is not None}
        if partners is not None:
            readers["second"] = _partner(name, partners, source, truth)
        yield Picture(name, file.read, readers.get("second"), readers.get("instance"))


def _arranged(source: str, first: str, second: str) -> dict[str, dict[str, File]] | None:
    """{"first" | "second" | "instance": {key: file}} of a folder or zip in an arrangement that has a column `first`.

    None where it has not: then all pictures are meant. Both halves of a file are two pictures only where a part is
    named ("pairs:test").
    """
    from saddlepoint.data import files, layouts
    from saddlepoint.data.catalog import existing_path
    from saddlepoint.data.paired import MAPS, split_of

    path, split = split_of(source)
    named = path != source
    place = Path(path).expanduser()
    if place.is_file() and place.suffix.lower() != ".zip":
        return None
    listing = _listing(existing_path(path))
    names = listing.images()
    if not names:
        raise UserError(f"{path!r} holds no pictures.")
    root = layouts._outside(files._root(names))
    columns: dict[str, list[str]] = {}
    for phase in (split,) if split != "train" else ("train", ""):
        columns, paired = layouts.arranged(names, root, phase)
        if first in columns:
            break
    halves = columns.get("a") is columns.get("b")
    if first not in columns or (first not in MAPS and halves and not named):
        if named:
            layouts.find(path, split).column(first)  # says what is there and what was expected
        return None
    tops = {name: layouts._top(found) for name, found in columns.items()}

    def read(name: str, column: str) -> Callable[[], Image.Image]:
        if halves and first not in MAPS:
            return lambda: layouts._half(files._open(listing, name), column)
        return _reader(listing, name, raw=column in MAPS)

    made: dict[str, dict[str, File]] = {}
    for role, column in (("first", first), ("second", second), ("instance", "instance")):
        if column in columns and (paired or role == "first"):
            made[role] = {
                layouts.key_of(name, tops): File(_stem(name[len(tops[column]) :]), read(name, column))
                for name in columns[column]
            }
    return made


def _listing(place: Path) -> Listing:
    from saddlepoint.data import files

    return files._list_folder(place)[0] if place.is_dir() else files._list_zip(place)


def _reader(listing: Listing, name: str, *, raw: bool) -> Callable[[], Image.Image]:
    from saddlepoint.data import files, pixels

    if raw:
        return lambda: files._open(listing, name)
    return lambda: pixels.decode(files._open(listing, name))


def _files(path: str, *, raw: bool = False) -> Iterator[File]:
    """One picture, or those of a folder or zip in the order of their names."""
    from saddlepoint.data import files, pixels
    from saddlepoint.data.catalog import existing_path

    place = Path(path).expanduser()
    if place.is_file() and place.suffix.lower() in files.SUFFIXES:
        if raw:
            yield File(place.stem, lambda: pixels.open_image(place.read_bytes()))
        else:
            yield File(place.stem, lambda: pixels.decode(pixels.open_image(place.read_bytes())))
        return
    if place.is_file() and place.suffix.lower() != ".zip":
        raise UserError(f"{path!r} is no picture in a known format; expected {', '.join(sorted(files.SUFFIXES))}.")
    listing = _listing(existing_path(path))
    names = listing.images()
    if not names:
        raise UserError(f"{path!r} holds no pictures.")
    root = files._root(names)
    for name in names:
        yield File(_stem(name[len(root) :]), _reader(listing, name, raw=raw))


def _stem(name: str) -> str:
    return name.rpartition(".")[0] or name


def _key(stem: str) -> str:
    """What partners' names share: without the endings of Cityscapes."""
    from saddlepoint.data.layouts import ENDINGS

    for ending in ENDINGS:
        stem = stem.removesuffix(ending)
    return stem


def _by_key(path: str) -> dict[str, File]:
    return {_key(file.stem): file for file in _files(path, raw=True)}


def _partner(name: str, partners: Mapping[str, File], source: str, where: str) -> Callable[[], Image.Image]:
    """How the partner of a picture is read; of single files the names do not matter."""
    from saddlepoint.data import files

    key = _key(name.removesuffix(".png"))
    if key not in partners:
        single = all(Path(p).expanduser().suffix.lower() in files.SUFFIXES for p in (source, where))
        if single and len(partners) == 1:
            return next(iter(partners.values())).read
        near = nearest(key, partners)
        hint = f"; {near} is nearest" if near else ""
        raise UserError(f"{name} of {source!r} has no partner in {where!r}{hint}.")
    return partners[key].read


def check_names(pictures: Sequence[Picture]) -> None:
    """Refuse two pictures that would be written to one file, and names that leave the folder."""
    seen: dict[str, int] = {}
    for index, picture in enumerate(pictures):
        if seen.setdefault(picture.name, index) != index:
            raise UserError(f"two pictures would be written as {picture.name!r}; give them different names.")
        if ".." in Path(picture.name).parts or Path(picture.name).is_absolute():
            raise UserError(f"the name {picture.name!r} leads out of the output folder.")


# ---- pixels
def tensor(image: Image.Image, channels: int, options: Options) -> Tensor:
    """float [C, H, W] in [-1, 1], transparency on white; in the picture's own size where the options have none."""
    import torch

    from saddlepoint.data import pixels

    image = pixels.decode(image)
    if not options.height:
        options = dataclasses.replace(options, height=image.height, width=image.width)
    array = pixels.to_pixels(image, dataclasses.replace(options, channels=channels))
    return torch.from_numpy(array).float().div_(127.5).sub_(1)


def ids(image: Image.Image, options: Options) -> Tensor:
    """int32 [H, W] of a map: palette images give their indices; resized to the nearest pixel, so nothing is mixed.

    Raises ImageError for colours that are not grey.
    """
    import torch

    from saddlepoint.data import pixels

    height, width = pixels.size_of(image)
    size = (options.height or height, options.width or width)
    if image.mode in ("P", "L", "I") and size == (image.height, image.width) == (height, width):
        return torch.from_numpy(np.asarray(image).astype(np.int32))  # a large map is not taken apart for nothing
    to = dataclasses.replace(options, height=size[0], width=size[1])
    return torch.from_numpy(pixels.from_planes(pixels.to_planes(image, to)))


def regions(label: NDArray[Any]) -> NDArray[np.int32]:
    """Connected regions of one class each, numbered from 0 in the order of their classes; four neighbours.

    label: class ids [H, W] -> ids of regions [H, W].
    """
    from scipy import ndimage

    made = np.zeros(label.shape, np.int32)
    count = 0
    for kind in np.unique(label):
        found, more = ndimage.label(label == kind)
        made[found > 0] = found[found > 0] + (count - 1)
        count += int(more)
    return made


def look_of(game: Translator, path: str) -> Tensor:
    """A reference picture [1, C, H, W] as the game was shown pictures in training: its middle, in the run's shape."""
    from saddlepoint.data.options import Options
    from saddlepoint.data.pixels import ImageError

    opened = list(_files(path))
    if len(opened) != 1:
        raise UserError(f"{path!r} holds {len(opened)} pictures; name one of them as the style.")
    options = Options.parse(game.recipe.shape, None, "crop", "white")
    try:
        return tensor(opened[0].read(), game.outputs, options)[None]
    except ImageError as error:
        raise UserError(f"{path} {error}.") from error
