"""Examples of several pictures: pairs, two collections without pairs, label maps with instances and photos.

An example is a mapping of names to pictures. Domains "a" and "b" (input and output of a translation) and "image" are
pictures, float32 [N, C, H, W] in [-1, 1]; "label" (classes) and "instance" (objects) are maps, int64 [N, H, W].

    Column     one of the pictures of every example, not read yet     Layout    the columns of a set, found by its spec
    ItemSet    the columns converted, and which belong together       Items     batches, a pure function of the cursor

A spec is the name of a set ("maps", "noto-twemoji:test") or the path of a folder or zip, with ":test" for its held-out
part; `saddlepoint.data.layouts` says which arrangements of folders are understood. Every column is converted and cached
like an ordinary set of images, so a column alone is nothing new. Torch is loaded when a batch is made.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from saddlepoint.errors import UserError, nearest, unknown

from . import pixels
from .catalog import SPLITS, Facts
from .files import Problem, Source, shown
from .options import Options, Resolution
from .pair_catalog import PAIRS
from .pixels import ImageError
from .sets import ON_ERROR, ImageSet, Located, Progress, converted, refuse

if TYPE_CHECKING:
    from torch import Tensor

    from saddlepoint.recipes.base import Recipe

MAPS = ("label", "instance")
ALIASES = {"image": "b"}  # a photo of a pair is an image as well


@dataclass(frozen=True)
class Column:
    """One picture of every example: `key` changes whenever the data do; `Layout.keyed` makes keys of `Source.names`."""

    name: str
    key: str
    load: Callable[[Options], Source]
    facts: Callable[[], Facts]


@dataclass(frozen=True)
class Layout:
    """The columns of a set. paired: pictures of the same key belong together. keyed: file name -> key.

    held_out: the same set's test part, None where it has none. label_names: of the classes in "label". aligned:
    partners are known to have the same shape.
    """

    spec: str
    columns: tuple[Column, ...]
    paired: bool = True
    keyed: Callable[[str], str] = str
    held_out: Callable[[], Layout | None] = lambda: None
    label_names: tuple[str, ...] = ()
    aligned: bool = False

    def column(self, name: str) -> Column:
        """The column of this name; "image" may be called "b". UserError naming those that there are."""
        for wanted in (name, ALIASES.get(name, name)):
            for column in self.columns:
                if column.name == wanted:
                    return dataclasses.replace(column, name=name)
        there = ", ".join(column.name for column in self.columns)
        raise UserError(f"{self.spec!r} has no {name!r}: its examples have {there}.")

    def has(self, name: str) -> bool:
        return any(column.name in (name, ALIASES.get(name)) for column in self.columns)


@dataclass(frozen=True, eq=False)
class ItemSet:
    """Converted columns. rows [N, columns]: where the pictures of example n are; None where nothing is paired."""

    spec: str
    columns: dict[str, ImageSet]
    rows: NDArray[np.int64] | None
    names: list[str]  # of the examples where they are paired
    problems: list[Problem]
    label_names: tuple[str, ...] = ()

    @property
    def paired(self) -> bool:
        return self.rows is not None

    def __len__(self) -> int:
        """Examples in one epoch: pairs, or the larger of the collections."""
        return len(self.rows) if self.rows is not None else max(len(c) for c in self.columns.values())

    def take(self, name: str, index: NDArray[np.int64]) -> NDArray[Any]:
        """Pictures of one column at these places of it: uint8 [N, C, H, W], or int32 [N, H, W] of a map."""
        found = self.columns[name].images[index]
        return pixels.from_planes(found) if name in MAPS else np.asarray(found)


# ---- finding and opening
def split_of(spec: str) -> tuple[str, str]:
    """("maps", "test") of "maps:test"; a path may have the suffix too."""
    name, colon, split = spec.rpartition(":")
    return (name, split) if colon and split in SPLITS and name else (spec, "train")


def find(spec: str) -> Layout:
    """The layout of a named set, folder or zip. Raises UserError for what is not there or is arranged otherwise."""
    from . import layouts, pairs

    name, split = split_of(str(spec))
    if name.partition(":")[0] in PAIRS:
        return pairs.layout(str(spec))
    if "/" not in name and not Path(name).expanduser().exists():
        near = nearest(name, PAIRS)
        hint = f"; did you mean {near!r}?" if near else "."
        raise UserError(
            f"{spec!r} is not the name of a set with two domains, a folder or a .zip{hint} Such sets: "
            f"{', '.join(PAIRS)} (each also with :test)."
        )
    return layouts.find(name, split)


def open_items(
    spec: str | Layout,
    names: Sequence[str] = ("a", "b"),
    *,
    resolution: Resolution = None,
    channels: Mapping[str, int] | None = None,
    paired: bool | None = None,
    fit: str = "auto",
    background: str = "auto",
    labels: int = 0,
    dont_care: bool | None = None,
    on_error: str = "refuse",
    cache: bool = True,
    progress: Progress | None = None,
) -> ItemSet:
    """The columns `names` of a set, brought to one shape; options as in `open_set`, channels by column.

    paired: True matches the columns' names, False ignores them, None does what the set is. Maps are fitted to the
    nearest pixel, never mixed. labels: how many classes the label maps have; 0 takes any id. dont_care: whether 255 is
    a class more; None where there is no such choice. on_error: "refuse" raises one UserError that names every file that
    is damaged, has no partner, whose partner has another shape, or whose map has an id that is no class; "skip" leaves
    those out and lists them in `.problems`.
    """
    if on_error not in ON_ERROR:
        raise unknown("on_error", on_error, ON_ERROR)
    layout = find(spec) if isinstance(spec, str) else spec
    columns = [layout.column(name) for name in names]
    together = layout.paired if paired is None else paired
    opened: dict[str, ImageSet] = {}
    problems = _misshapen(layout, columns) if together and cache and not layout.aligned else []
    shape = Options.parse(resolution, None, fit, background)
    fits = {shape.settled(column.facts()).fit for column in columns}
    if len(fits) > 1:  # partners must be fitted alike
        shape = dataclasses.replace(shape, fit="crop")
    for column in columns:
        wanted = None if column.name in MAPS else (channels or {}).get(column.name)
        options = dataclasses.replace(shape, channels=Options.parse(None, wanted).channels)
        located = Located(f"{Path(layout.spec).name}-{column.name}", column.key, column.load)
        found = opened[column.name] = converted(located, options, cache=cache, progress=progress)
        problems += [problem for problem in found.problems if problem not in problems]
        if column.name == "label" and labels:
            ids = _ids(found, f"{column.key} {options}" if cache else "")
            problems += strange_ids(found.names, ids, labels, dont_care)
    rows, keys = None, list[str]()
    if together:
        rows, keys, alone = match({n: s.names for n, s in opened.items()}, layout.keyed, dict(problems))
        problems += alone
        rows = _without(rows, keys, opened, dict(problems))
    if problems and on_error == "refuse":
        raise refuse(problems, layout.spec)
    if rows is not None and len(rows) < 2:
        raise UserError(
            f"{layout.spec!r} has {len(rows)} whole example{'s' * (len(rows) != 1)}; expected at least 2 with "
            f"{' and '.join(names)} of the same name."
        )
    return ItemSet(layout.spec, opened, rows, keys, problems, layout.label_names)


def match(
    names: Mapping[str, Sequence[str]], keyed: Callable[[str], str], excused: Mapping[str, str]
) -> tuple[NDArray[np.int64], list[str], list[Problem]]:
    """(rows [N, columns], keys, problems): files of the same key belong together; who has no partner is named.

    excused: files that are known to be wrong for another reason; their partners are left out without a word.
    """
    places = {column: {} for column in names}  # type: dict[str, dict[str, int]]
    problems: list[Problem] = []
    for column, files in names.items():
        for index, name in enumerate(files):
            first = places[column].setdefault(keyed(name), index)
            if first != index:
                problems.append((name, f"has the name of {files[first]}, which counts"))
    wrong = {keyed(name) for name in excused}
    keys = [key for key in next(iter(places.values())) if all(key in found for found in places.values())]
    whole = set(keys)
    for column, files in names.items():
        for key, index in places[column].items():
            if key in whole or key in wrong:
                continue
            lacking = [other for other in names if key not in places[other]]
            near = nearest(key, [k for k in places[lacking[0]] if k not in whole]) if len(problems) < 10 else None
            hint = f"; {names[lacking[0]][places[lacking[0]][near]]} is nearest" if near else ""
            problems.append((files[index], f"has no partner in {' and '.join(lacking)}{hint}"))
    rows = np.array([[found[key] for found in places.values()] for key in keys], np.int64).reshape(-1, len(names))
    return rows, keys, problems


def _without(
    rows: NDArray[np.int64], keys: list[str], opened: Mapping[str, ImageSet], wrong: Mapping[str, str]
) -> NDArray[np.int64]:
    """The rows whose files all have nothing wrong with them; `keys` are shortened alike."""
    columns = list(opened.values())
    good = [all(c.names[i] not in wrong for c, i in zip(columns, row, strict=True)) for row in rows]
    keys[:] = [key for key, keep in zip(keys, good, strict=True) if keep]
    return rows[np.array(good, bool)] if len(rows) else rows


def _misshapen(layout: Layout, columns: Sequence[Column]) -> list[Problem]:
    """Partners whose sides are not in the same proportion: found by the headers once, then remembered in the cache."""
    from .named import cache_folder

    digest = hashlib.sha256(repr([c.key for c in columns]).encode("utf-8", "backslashreplace")).hexdigest()[:24]
    known = cache_folder() / "sets" / f"partners-{digest}.json"
    try:
        return [(str(name), str(reason)) for name, reason in json.loads(known.read_text())]
    except (OSError, ValueError, TypeError):
        pass
    sources = [column.load(Options()) for column in columns]
    seen: dict[str, tuple[str, tuple[int, int]]] = {}
    problems: list[Problem] = []
    for source in sources:
        for index, name in enumerate(source.names):
            key = layout.keyed(name)
            try:
                size = pixels.size_of(source.read(index))
            except ImageError:  # named when it is converted
                continue
            other, sides = seen.setdefault(key, (name, size))
            if size[0] * sides[1] != size[1] * sides[0]:
                shape, theirs = f"{size[0]}x{size[1]}", f"{sides[0]}x{sides[1]}"
                problems.append((shown(name), f"is {shape}, but its partner {shown(other)} is {theirs}"))
    from saddlepoint.runs import write_json

    try:
        known.parent.mkdir(parents=True, exist_ok=True)
        write_json(known, problems)
    except (OSError, UserError):  # it is looked at again next time
        pass
    return problems


# ---- ids of label maps
def _ids(maps: ImageSet, key: str) -> list[list[int]]:
    """The ids of every map, ascending; looked for once, then remembered in the cache under `key` (not where it is "").

    About 30 microseconds for a map of 64x64.
    """
    from saddlepoint.runs import write_json

    from .named import cache_folder

    digest = hashlib.sha256(key.encode("utf-8", "backslashreplace")).hexdigest()[:24]
    known = cache_folder() / "sets" / f"ids-{digest}.json"
    if key:
        try:
            kept = json.loads(known.read_text())
            if len(kept) == len(maps):
                return [[int(v) for v in ids] for ids in kept]
        except (OSError, ValueError, TypeError):
            pass
    found = [ids_of(pixels.from_planes(np.asarray(image))) for image in maps.images]
    if key:
        with contextlib.suppress(OSError, UserError):  # it is looked at again next time
            write_json(known, found)
    return found


def ids_of(label: NDArray[Any]) -> list[int]:
    """The ids of a label map, ascending."""
    if label.size and int(label.min()) >= 0 and int(label.max()) < 1 << 16:  # counting is cheaper than sorting
        return [int(v) for v in np.flatnonzero(np.bincount(label.ravel()))]
    return [int(v) for v in np.unique(label)]


def strange_ids(
    names: Sequence[str], ids: Sequence[Sequence[int]], labels: int, dont_care: bool | None
) -> list[Problem]:
    """What is wrong with maps that hold an id that is no class: classes are 0 ... labels - 1.

    dont_care: True makes `labels` and 255 a class more, False could, None cannot.
    """
    taken = {pixels.VOID, labels} if dont_care else set[int]()
    wrong = [sorted(v for v in found if not 0 <= v < labels and v not in taken) for found in ids]
    highest = max((v for found in ids for v in found if v != pixels.VOID), default=0)
    problems: list[Problem] = []
    for name, strange in zip(names, wrong, strict=True):
        if not strange:
            continue
        shown = ", ".join(map(str, strange[:8])) + (f" and {len(strange) - 8} more" if len(strange) > 8 else "")
        what = "ids {}, which are no classes" if len(strange) > 1 else "id {}, which is no class"
        near = [f"--labels {highest + 1}"] if any(v != pixels.VOID and v >= 0 for v in strange) else []
        if pixels.VOID in strange:
            near += ["--dont-care for 255"] if dont_care is not None else []
            near += ["--fit crop where 255 comes from padding"]
        hint = f"; nearest: {', '.join(near)}" if near else ""
        problems.append((name, f"has the {what.format(shown)} (0 to {labels - 1} are){hint}"))
    return problems


# ---- batches
class Items:
    """The infinite sequence of epochs over an ItemSet, as `Stream` is over an ImageSet.

    Paired: every example once an epoch, in an order keyed by (seed, epoch); one flip and one place of the crop for all
    its pictures. Not paired: the first column cycles in such an order, the others are drawn at random, each picture
    with its own flip and crop; an epoch is the larger collection. crop: (height, width) cut out of the stored pictures.
    called: {name in the set: name in the batch}, to exchange domains.
    """

    def __init__(
        self,
        items: ItemSet,
        seed: int,
        *,
        mirror: bool = False,
        crop: tuple[int, int] | None = None,
        called: Mapping[str, str] | None = None,
        held_out: Callable[[], Items | None] = lambda: None,
    ) -> None:
        self.items, self.seed, self.mirror, self.crop = items, seed, mirror, crop
        self.called = dict(called or {})
        self.held_out = held_out
        self._epochs: dict[int, dict[str, NDArray[Any]]] = {}
        facts = next(iter(items.columns.values())).facts
        self.height, self.width = crop or (facts.height, facts.width)
        if self.height > facts.height or self.width > facts.width:
            raise UserError(
                f"{items.spec!r} is read at {facts.height}x{facts.width}, which is too small to cut "
                f"{self.height}x{self.width} out of it; make load_size at least {max(self.height, self.width)}, or 0."
            )

    @property
    def paired(self) -> bool:
        return self.items.paired

    def __len__(self) -> int:
        return len(self.items)

    def _epoch(self, epoch: int) -> dict[str, NDArray[Any]]:
        """Per column "NAME.index", "NAME.flip", "NAME.place" of every position of one epoch, each [N]."""
        known = self._epochs.get(epoch)
        if known is not None:
            return known
        from .stream import _words

        n, made = len(self), dict[str, NDArray[Any]]()
        order = np.argsort(_words(self.seed, epoch, 0, n), kind="stable").astype(np.int64)
        for position, (name, column) in enumerate(self.items.columns.items()):
            own = 0 if self.paired else position  # which keys decide about this column
            if self.items.rows is not None:
                index = self.items.rows[order, position]
            elif position == 0:
                index = order % len(column)
            else:
                index = (_words(self.seed, epoch, 16 * own, n) % np.uint64(len(column))).astype(np.int64)
            made[f"{name}.index"] = index
            made[f"{name}.flip"] = (_words(self.seed, epoch, 16 * own + 1, n) & np.uint64(1)).astype(np.bool_)
            made[f"{name}.place"] = _words(self.seed, epoch, 16 * own + 2, n)
        recent = list(self._epochs.items())[-1:]
        self._epochs = dict([*recent, (epoch, made)])  # one assignment, so threads may share a stream
        return made

    def places(self, start: int, length: int) -> dict[str, NDArray[Any]]:
        """What `_epoch` says of the positions start ... start + length - 1, across epochs."""
        found: dict[str, list[NDArray[Any]]] = {}
        while length > 0:
            epoch, offset = divmod(start, len(self))
            part = {k: v[offset : offset + length] for k, v in self._epoch(epoch).items()}
            for key, values in part.items():
                found.setdefault(key, []).append(values)
            taken = min(length, len(self) - offset)
            start, length = start + taken, length - taken
        return {key: np.concatenate(values) for key, values in found.items()}

    def __call__(
        self, cursor: int, total: int, first: int, length: int, resolution: int | None = None
    ) -> dict[str, Tensor]:
        """Examples first ... first + length - 1 of the global batch of `total` that begins at `cursor`.

        resolution: the height wanted, the stored one divided by a power of two: pictures are averaged over boxes, maps
        take every so-manieth pixel. ValueError for a slice outside the batch.
        """
        if cursor < 0 or first < 0 or length < 1 or first + length > total:
            raise ValueError(f"slice {first}+{length} of a batch of {total} at {cursor}: outside the batch")
        places, factor = self.places(cursor + first, length), self._factor(resolution)
        batch: dict[str, Tensor] = {}
        for name in self.items.columns:
            taken = self.items.take(name, places[f"{name}.index"])
            taken = _cropped(taken, places[f"{name}.place"], (self.height, self.width))
            if self.mirror:
                flips = places[f"{name}.flip"]
                taken[flips] = taken[flips][..., ::-1]
            batch[self.called.get(name, name)] = _tensor(taken, factor)
        return batch

    def _factor(self, resolution: int | None) -> int:
        factor = self.height // resolution if resolution and resolution > 0 else 1
        whole = factor * (resolution or self.height) == self.height and self.width % factor == 0
        if whole and factor & (factor - 1) == 0:
            return factor
        raise UserError(
            f"resolution {resolution} of examples of {self.height}x{self.width}; expected {self.height} over a power "
            f"of two."
        )


def _cropped(taken: NDArray[Any], words: NDArray[np.uint64], size: tuple[int, int]) -> NDArray[Any]:
    """[N, ..., h, w] cut out of [N, ..., H, W], each at a place that its word decides; always a copy."""
    down, right = taken.shape[-2] - size[0], taken.shape[-1] - size[1]
    if not down and not right:
        return taken.copy()
    tops = ((words >> np.uint64(32)) % np.uint64(down + 1)).astype(int)
    lefts = ((words & np.uint64(0xFFFFFFFF)) % np.uint64(right + 1)).astype(int)
    parts = zip(taken, tops, lefts, strict=True)
    return np.stack([t[..., top : top + size[0], left : left + size[1]] for t, top, left in parts])


def _tensor(taken: NDArray[Any], factor: int) -> Tensor:
    """Pictures as float32 in [-1, 1], maps as int64."""
    import torch

    if taken.dtype != np.uint8:
        return torch.from_numpy(taken[..., ::factor, ::factor].astype(np.int64))
    image = torch.from_numpy(np.ascontiguousarray(taken)).to(torch.float32)
    if factor > 1:
        image = torch.nn.functional.avg_pool2d(image, factor)
    return image.div_(127.5).sub_(1)


# ---- for recipes
def describe(recipe: Recipe, shaped: bool = False) -> Facts | None:
    """What is known of the recipe's data without opening them: domain b's shape and number.

    shaped: in the shape that the recipe asks for.
    """
    if not recipe.data:
        return None
    settings: Any = recipe
    found = dataclasses.replace(find(recipe.data).column(_main(recipe)).facts(), name=recipe.data)
    if not shaped:
        return found
    size, channels = settings.shape if settings.resolution else None, settings.channels or None
    return Options.parse(size, channels, settings.fit, settings.background).applied(found)


def _domains(recipe: Recipe) -> tuple[str, ...]:
    return tuple(getattr(recipe, "domains", ("a", "b")))


def _called(recipe: Recipe) -> dict[str, str]:
    """Domains are exchanged where the recipe goes from b to a."""
    return {"a": "b", "b": "a"} if getattr(recipe, "direction", "a-to-b") == "b-to-a" else {}


def _main(recipe: Recipe) -> str:
    """The column that the generator should make."""
    last = _domains(recipe)[-1]
    return _called(recipe).get(last, last)


def resolve(recipe: Recipe) -> Recipe:
    """The recipe with resolution, channels, input_channels and classes from its data, where they are open.

    A recipe that can read label maps (it has `for_maps`) reads those of data that have some.
    """
    from saddlepoint import recipes

    layout = find(recipe.data)
    for_maps = getattr(recipe, "for_maps", None)
    if for_maps is not None and layout.has("label"):
        recipe = for_maps(len(layout.label_names))
        stated: int = getattr(recipe, "labels", 0)
        if not stated and not layout.label_names:
            raise _uncounted(layout)
    known = describe(recipe)
    made = recipes.resolve(recipe, known)
    names = {f.name for f in dataclasses.fields(made)}
    values: dict[str, Any] = {"classes": len(layout.label_names)}
    if "input_channels" in names and not getattr(made, "input_channels", 0):
        first = _called(recipe).get("a", "a")
        read = layout.has(first) and "a" in _domains(recipe)
        values["input_channels"] = layout.column(first).facts().channels if read else 0
    return dataclasses.replace(made, **{k: v for k, v in values.items() if k in names})


def _uncounted(layout: Layout) -> UserError:
    """Label maps whose classes nobody has counted: what the first hundred hold."""
    found = set[int]()
    column = layout.column("label")
    source = column.load(Options())
    for index in range(0, len(source.names), -(-len(source.names) // 100)):
        try:
            image = source.read(index)
            height, width = pixels.size_of(image)
            options = dataclasses.replace(Options(), height=height, width=width, fit="crop")
            found |= set(ids_of(pixels.from_planes(pixels.to_planes(image, options))))
        except ImageError:  # named when it is converted
            continue
    last = max(found - {pixels.VOID}, default=0)
    void = f", and {pixels.VOID}" if pixels.VOID in found else ""
    return UserError(
        f"{layout.spec!r} has label maps of unknown classes: a hundred of them hold ids up to {last}{void}. Say how "
        f"many there are, --labels {last + 1} or more, or put their names into classes.txt beside the folders, one a "
        "line."
    )


def source(recipe: Recipe) -> Items:
    """The examples that a recipe trains on; `.held_out()` are those it shows, uncut and not mirrored."""
    settings: Any = recipe
    shape: tuple[int, int] = settings.shape
    load = getattr(recipe, "load_size", 0)
    enlarged = (load * shape[0] // max(shape), load * shape[1] // max(shape)) if load else shape
    called = _called(recipe)
    names = [called.get(name, name) for name in _domains(recipe)]
    channels = {called.get("a", "a"): getattr(recipe, "input_channels", 0), _main(recipe): settings.channels}
    layout = find(recipe.data)
    labels = getattr(recipe, "labels", 0) or settings.classes
    dont_care = getattr(recipe, "dont_care", None)

    def opened(where: Layout, size: tuple[int, int], paired: bool | None) -> ItemSet:
        chosen = [name for name in names if where.has(name) or name not in getattr(recipe, "optional", ())]
        return open_items(
            where, chosen, resolution=size, channels={k: v for k, v in channels.items() if v}, paired=paired,
            labels=labels, dont_care=dont_care, fit=settings.fit, background=settings.background,
            on_error=settings.on_error,
        )  # fmt: skip

    def held_out() -> Items | None:
        where = layout.held_out()
        return Items(opened(where, shape, None), 0, called=called) if where is not None else None

    items = opened(layout, enlarged, bool(getattr(recipe, "paired", True)))
    return Items(items, settings.seed, mirror=settings.mirror, crop=shape, called=called, held_out=held_out)
