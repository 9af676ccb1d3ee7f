"""Edits of label maps and what a run makes of them: `saddlepoint paint` from Python.

    change_of   "tree@10,20" or "lake@0,40,64,24" -> a Change        edited   a map and its objects after a change
    paint       a run, a map and changes -> the pictures before and after, in one style

A change fills the connected region at a point (four neighbours, of one class and one object), or a rectangle. What is
filled becomes part of an object of its new class that it touches, else an object of its own; all other objects keep
their numbers, and so their looks.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from saddlepoint import inputs, translation
from saddlepoint.errors import UserError, nearest

if TYPE_CHECKING:
    from PIL import Image
    from torch import Tensor

    from saddlepoint.runs import Run
    from saddlepoint.systems.translation import Translator

CHANGE = re.compile(r"(?P<kind>.+)@(?P<x>\d+),(?P<y>\d+)(?:,(?P<w>\d+),(?P<h>\d+))?")
FEATURE = re.compile(r"(?P<x>\d+),(?P<y>\d+)=(?P<pick>\d+)")
VOID = 255  # the id of don't care


@dataclass(frozen=True)
class Change:
    """A class to put at (x, y), pixels from the top left: into the region there, or a rectangle of w x h from there."""

    kind: int
    x: int
    y: int
    w: int = 0
    h: int = 0


@dataclass(frozen=True, eq=False)
class Painted:
    """Maps as class ids and objects [H, W], and pictures [C, H, W] in [-1, 1], before and after the changes."""

    label: tuple[NDArray[np.int32], NDArray[np.int32]]
    instance: tuple[NDArray[np.int32] | None, NDArray[np.int32] | None]
    picture: tuple[Tensor, Tensor]
    colours: NDArray[np.uint8]  # [256, 3], of the ids
    names: tuple[str, ...] = ()
    notes: Mapping[str, Any] = field(default_factory=dict)

    def strip(self) -> Tensor:
        """Map before, picture before, map after, picture after: [4, 3, H, W] in [-1, 1]."""
        import torch

        cells = []
        for label, picture in zip(self.label, self.picture, strict=True):
            shown = torch.from_numpy(self.colours[label & 255]).movedim(2, 0).float() / 127.5 - 1
            cells += [shown, picture.expand(3, -1, -1) if len(picture) == 1 else picture[:3]]
        return torch.stack(cells)

    def shares(self) -> list[tuple[int, str, float, float]]:
        """(id, name, share of the pixels before, after) of every class that is there."""
        known = {**dict(enumerate(self.names)), VOID: "don't care"}
        return [
            (int(kind), known.get(kind, ""), *(float((label == kind).mean()) for label in self.label))  # type: ignore[misc]
            for kind in np.union1d(*self.label)
        ]


# ---- words
def change_of(word: str, names: Sequence[str], classes: int, dont_care: bool = False) -> Change:
    """The change that a user means: CLASS@X,Y or CLASS@X,Y,W,H, the class by name or id."""
    found = CHANGE.fullmatch(word)
    if not found:
        raise UserError(
            f"--change {word!r} is not understood; expected CLASS@X,Y for the region at a point or CLASS@X,Y,W,H for a "
            "rectangle, in pixels from the top left, such as tree@10,20."
        )
    x, y, w, h = (int(found[part] or 0) for part in ("x", "y", "w", "h"))
    if found["w"] is not None and not (w and h):
        raise UserError(f"--change {word!r}: the rectangle has no pixels; width and height are 1 or more.")
    return Change(kind_of(found["kind"], names, classes, dont_care), x, y, w, h)


def kind_of(word: str, names: Sequence[str], classes: int, dont_care: bool = False) -> int:
    """The id of a class by its name or number. UserError with the nearest."""
    if word.isdigit():
        kind = int(word)
        if kind < classes or (dont_care and kind in (VOID, classes)):
            return kind
        more = f", and {VOID} is don't care" if dont_care else ""
        raise UserError(f"there is no class {kind}: the classes are 0 to {classes - 1}{more}; nearest: {classes - 1}.")
    known = {name.lower(): i for i, name in enumerate(names)}
    if word.lower() in known:
        return known[word.lower()]
    if not names:
        raise UserError(
            f"the classes of this run have no names, so {word!r} says nothing; give a number, 0 to {classes - 1}."
        )
    near = nearest(word.lower(), known)
    hint = f"; did you mean {names[known[near]]!r}?" if near else "."
    raise UserError(f"unknown class {word!r}{hint} Classes: {', '.join(f'{n} ({i})' for i, n in enumerate(names))}.")


def feature_of(word: str) -> tuple[int, int, int]:
    """(x, y, number of the centre) of X,Y=CLUSTER."""
    found = FEATURE.fullmatch(word)
    if not found:
        raise UserError(f"--feature {word!r} is not understood; expected X,Y=CLUSTER, such as 10,20=3.")
    return int(found["x"]), int(found["y"]), int(found["pick"])


def names_of(run: Run) -> tuple[str, ...]:
    """The names of the classes, as the run's data have them; nothing where they have none or are not here."""
    from saddlepoint.data.paired import find

    try:
        return find(run.recipe.data).label_names
    except (UserError, OSError):
        return ()


# ---- maps
def edited(
    label: NDArray[np.int32], instance: NDArray[np.int32] | None, change: Change, merge: bool = False
) -> tuple[NDArray[np.int32], NDArray[np.int32] | None]:
    """(class ids, objects) [H, W] after a change, copies. UserError for a point outside.

    merge: all objects of its new class that a filled region touches become one with it, as objects are that are nothing
    but connected regions.
    """
    region = _region(label, instance, change)
    made = label.copy()
    made[region] = change.kind
    if instance is None:
        return made, None
    objects = instance.copy()
    touched = _touched(label, instance, region, change.kind)
    number = touched[0] if touched else int(instance.max()) + 1
    if merge:
        objects[np.isin(objects, touched)] = number
    objects[region] = number
    return made, objects


def _region(label: NDArray[np.int32], instance: NDArray[np.int32] | None, change: Change) -> NDArray[np.bool_]:
    """The pixels [H, W] that a change is about."""
    from scipy import ndimage

    inside(label, change.x, change.y)
    if change.w:
        region = np.zeros(label.shape, np.bool_)
        region[change.y : change.y + change.h, change.x : change.x + change.w] = True
        return region
    same = label == label[change.y, change.x]
    if instance is not None:
        same &= instance == instance[change.y, change.x]
    parts, _ = ndimage.label(same)
    found: NDArray[np.bool_] = parts == parts[change.y, change.x]
    return found


def _touched(label: NDArray[np.int32], instance: NDArray[np.int32], region: NDArray[np.bool_], kind: int) -> list[int]:
    """The objects of a class that a region touches, the one that it touches most first."""
    from scipy import ndimage

    around = ndimage.binary_dilation(region) & ~region & (label == kind)
    numbers, counts = np.unique(instance[around], return_counts=True)
    return [int(number) for number in numbers[np.argsort(-counts, kind="stable")]]


def inside(label: NDArray[np.int32], x: int, y: int) -> None:
    """UserError for a point that is not in the map."""
    height, width = label.shape
    if x >= width or y >= height:
        near = f"{min(x, width - 1)},{min(y, height - 1)}"
        raise UserError(
            f"the point {x},{y} is outside the map of {width}x{height} pixels (width x height); nearest: {near}."
        )


# ---- pictures
def paint(
    run: Run,
    source: str,
    changes: Sequence[str] = (),
    *,
    features: Sequence[str] = (),
    index: int = 0,
    instances: str = "",
    style: str = "",
    seed: int = 0,
    checkpoint: str = "",
    device: str = "cpu",
    resolution: str = "",
) -> Painted:
    """What a run makes of a label map before and after changes (in their order), in the same style.

    source, instances, style: as `translation.translate` takes them; index: which map of a set or folder. features:
    X,Y=CLUSTER each, the object there gets that centre of its class (pix2pixhd with features). Where a run knows
    objects and no instance maps are given, connected regions of a class are objects. UserError for a run without label
    maps, unknown classes, points outside and an index that is not there.
    """
    import torch

    from saddlepoint.data.options import Options
    from saddlepoint.data.pixels import ImageError

    refuse_without_maps(run)
    game: Any = translation.translator(run, checkpoint, device)
    names = names_of(run)
    dont_care = bool(getattr(game.recipe, "dont_care", False))
    wanted = [change_of(word, names, game.classes, dont_care) for word in changes]
    picks = [feature_of(word) for word in features]
    if picks and not getattr(game.recipe, "features", 0):
        raise UserError(f"this {game.recipe.system} has no features of objects; pix2pixhd with --features 3 has.")
    look = translation.looks(game, seed, style)[0].options
    picture = _picked(game, source, instances, index)
    try:
        options = Options.parse(resolution or None, None, "crop", "white")
        given = translation.read(game, picture, 0, options, regions=False)
    except ImageError as error:
        raise UserError(f"{picture.name} {error}.") from error
    label = given.x.numpy()
    objects = None
    if "instance" in game.takes:
        objects = inputs.regions(label) if given.objects is None else given.objects.numpy()
    maps = [(label, objects)]
    for change in wanted:
        maps.append(edited(*maps[-1], change, merge=given.objects is None))
    chosen: dict[int, int] = {}
    for x, y, pick in picks:
        inside(label, x, y)
        place = maps[-1][0] if game.recipe.label_features else maps[-1][1]
        assert place is not None
        chosen[int(place[y, x])] = pick
    made = []
    for number, (ids, numbers) in enumerate((maps[0], maps[-1])):
        more: dict[str, Any] = {} if numbers is None else {"instance": torch.from_numpy(numbers)}
        if chosen and number:
            more["choose"] = chosen
        made.append(translation.whole_or_tiled(game, torch.from_numpy(ids), {**more, **look}))
    colours = game.colours(torch.arange(256)[None, None])[0, :, 0].T  # [256, 3]
    return Painted(
        (label, maps[-1][0]), (objects, maps[-1][1]), (made[0], made[1]),
        ((colours.float() + 1) * 127.5).round().clamp(0, 255).to(torch.uint8).cpu().numpy(), names,
        {"input": source, "index": index, "map": digest(label), "changes": list(changes), "features": list(features),
         "instances": instances, "style": style, "seed": seed, "resolution": resolution},
    )  # fmt: skip


def refuse_without_maps(run: Run) -> None:
    """UserError for a run whose inputs are no label maps, with the command that fits."""
    from saddlepoint.recipes.translation import TranslationRecipe

    recipe: Any = run.recipe
    if not isinstance(recipe, TranslationRecipe):
        raise UserError(
            f"{run.path} is a {recipe.system}, which makes pictures from noise: its pictures are edited with "
            "`saddlepoint edit`. gaugan and pix2pixhd trained on label maps can be painted with."
        )
    takes = getattr(recipe, "domains", ("a",))[0]
    if takes != "label":
        raise UserError(
            f"{run.path} is a {recipe.system} that takes pictures and has no label maps: change a picture in any "
            "program and give it to `saddlepoint translate`. gaugan and pix2pixhd trained on label maps can be painted "
            "with."
        )


def _picked(game: Translator, source: str, instances: str, index: int) -> inputs.Picture:
    """Number `index` of the maps that the source names; without instance maps regions will do."""
    found = list(inputs.found(game, source, instances=instances or inputs.REGIONS * ("instance" in game.takes)))
    if not 0 <= index < len(found):
        raise UserError(f"{source!r} has {len(found)} label maps; --index is 0 to {len(found) - 1}, not {index}.")
    return found[index]


def digest(label: NDArray[np.int32]) -> str:
    """A fingerprint of a map's ids and shape."""
    return hashlib.blake2b(repr(label.shape).encode() + label.astype("<i4").tobytes(), digest_size=8).hexdigest()


def map_image(ids: NDArray[np.int32], colours: NDArray[np.uint8] | None = None) -> Image.Image:
    """A map as an image that holds the ids: a palette image in their colours, or 16 bits where they are above 255 or
    no colours are given. UserError for ids that a PNG cannot hold.
    """
    from PIL import Image

    if ids.min(initial=0) < 0 or ids.max(initial=0) > 65535:
        raise UserError(f"ids from {ids.min()} to {ids.max()} do not fit into a PNG; expected 0 to 65535.")
    if colours is None or ids.max(initial=0) > 255:
        return Image.fromarray(ids.astype(np.uint16))
    image = Image.fromarray(ids.astype(np.uint8), "P")
    image.putpalette(colours.tobytes())
    return image
