"""What decides an edited picture, as plain values: `PictureRecipe`. `render` makes its images from a run, a pure
function; `Picture.save` writes them with the recipe in the PNG's metadata, and `read` finds it again.

The order is always the same: latents, path in z, mapping, path in w, truncation, mixing, edits, images. Whatever is not
a function of the checkpoint and a seed (a projected w, noise images, a direction) stands in the recipe by content.
"""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import json
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import torch
from torch import Tensor

from saddlepoint.editing import styles
from saddlepoint.editing.spaces import Maps, Space, space
from saddlepoint.errors import UserError

if TYPE_CHECKING:
    from saddlepoint.runs import Run

KEY = "saddlepoint"  # of the PNG's text
LARGEST = 1 << 26  # bytes of an array in a recipe
Code: TypeAlias = tuple[int, int]  # (seed, row): row r of what `sample --seed` draws


@dataclass(frozen=True, eq=False)
class Edit:
    """A move by `strength` times `deviation` along `vector` [size] in these layers. deviation: of w along it."""

    name: str
    vector: Tensor
    layers: tuple[int, ...]
    strength: float = 1.0
    deviation: float = 1.0

    def __call__(self, ws: Tensor, factor: float = 1.0) -> Tensor:
        return styles.moved(ws, self.vector, self.strength * self.deviation * factor, self.layers)


@dataclass(frozen=True)
class Way:
    """A path through the latents: see `styles.path`. space: w, z (straight) or slerp (in z)."""

    space: str = "w"
    steps: int = 8
    loop: bool = False
    frames: bool = False


@dataclass(frozen=True, eq=False)
class Mix:
    """Styles of other latents in some layers: for a grid of all pairs, or (grid=False) for image i those of i."""

    codes: tuple[Code, ...]
    layers: tuple[int, ...]
    label: tuple[int, ...] = ()
    grid: bool = True


@dataclass(frozen=True, eq=False)
class Sweep:
    """Each direction at each strength: a row for each image and direction."""

    edits: tuple[Edit, ...]
    strengths: tuple[float, ...]


@dataclass(frozen=True, eq=False)
class PictureRecipe:
    """All that decides a picture besides the checkpoint.

    codes: latents as (seed, row), or z [n, latent] or w [n, layers or 1, size] by content. label: classes, one each.
    truncation: several make a row for each image. noise: const, random (from noise_seed), none, or images by content.
    beside: images uint8 [n, H, W, C] that stand first in the rows (what was projected).
    """

    codes: tuple[Code, ...] = ()
    z: Tensor | None = None
    w: Tensor | None = None
    label: tuple[int, ...] = ()
    way: Way | None = None
    truncation: tuple[float, ...] = (1.0,)
    cutoff: int | None = None
    mix: Mix | None = None
    edits: tuple[Edit, ...] = ()
    sweep: Sweep | None = None
    noise: str | Maps = "const"
    noise_seed: int = 0
    beside: Tensor | None = None
    columns: int = 0
    cell: int = 96


# ---- from a recipe to images
def render(source: Any, recipe: PictureRecipe) -> Tensor:
    """The images [n, C, H, W] in [-1, 1] of a recipe; source: a run, a game or its space.

    A grid of mixed styles has the sources in its first row and column and white in the corner. UserError for what this
    system does not have.
    """
    at = space(source)
    _check(at, recipe)
    with torch.no_grad():
        ws, labels = _base(at, recipe)
        if recipe.truncation != (1.0,):
            ws = torch.cat([at.truncated(ws, psi, recipe.cutoff) for psi in recipe.truncation], 1)
            ws = ws.view(-1, at.layers, at.size)  # a row of psi for each image
            labels = [y for y in labels for _ in recipe.truncation]
        mix, columns = recipe.mix, 0
        if mix is not None:
            ws, labels, columns = _mixed(at, recipe, mix, ws, labels)
        for edit in recipe.edits:
            ws = edit(ws)
        if recipe.sweep is not None:
            edits, strengths = recipe.sweep.edits, recipe.sweep.strengths
            ws = torch.stack([edit(ws, factor) for edit in edits for factor in strengths], 1).flatten(0, 1)
            labels = [y for y in labels for _ in range(len(edits) * len(strengths))]
        noise = recipe.noise
        if not isinstance(noise, str):
            noise = {name: _repeated(_own(x, at), len(ws)) for name, x in noise.items()}
        images = at.images(ws, label=labels if at.classes else None, noise=noise, seed=recipe.noise_seed)
    if columns:
        images = torch.cat([torch.ones_like(images[:1]), images])
        images = torch.cat([images[:columns], _rows(images[columns:], columns)])
    return images if recipe.beside is None else _beside(images, recipe.beside)


def _own(x: Tensor, at: Space) -> Tensor:
    """In torch's own memory: how a tensor that was read is aligned decides the last bits of a product with it."""
    return x.to(at.device, at.dtype).clone(memory_format=torch.contiguous_format)


def _check(at: Space, recipe: PictureRecipe) -> None:
    given = [name for name in ("codes", "z", "w") if getattr(recipe, name) is not None and len(getattr(recipe, name))]
    if len(given) != 1:
        raise UserError("a picture starts from seeds, from z or from w: give one of them.")
    expanding = [len(recipe.truncation) > 1, recipe.mix is not None and recipe.mix.grid, recipe.sweep is not None]
    if sum(expanding) > 1:
        raise UserError("several truncations, a grid of mixed styles and a sweep are pictures of their own.")
    if recipe.mix is not None and at.layers < 2:
        raise UserError(f"{at.system} has no styles to mix: it has no mapping network.")
    labels = len(recipe.label)
    if labels and not at.classes:
        raise UserError(f"this {at.system} knows no classes: leave the label out.")
    wrong = [y for y in recipe.label if not 0 <= y < at.classes]
    if wrong:
        raise UserError(f"there is no class {wrong[0]}: the classes are 0 to {at.classes - 1}.")
    for edit in (*recipe.edits, *(recipe.sweep.edits if recipe.sweep else ())):
        if edit.vector.shape != (at.size,) or any(not 0 <= layer < at.layers for layer in edit.layers):
            raise UserError(
                f"direction {edit.name!r} is of another network: it has {len(edit.vector)} numbers for layers up to "
                f"{max(edit.layers, default=0)}; this {at.system} takes {at.size}, layers 0 to {at.layers - 1}."
            )
    if recipe.way is not None:
        styles.check_path_space(recipe.way.space)


def classes_of(at: Space, codes: Sequence[Code], n: int, label: Sequence[int] = ()) -> list[int]:
    """A class for each of n images: those given, in turn, or (as `game.sample`) the classes in turn of the rows."""
    if not at.classes:
        return [0] * n
    if label:
        return [label[i % len(label)] for i in range(n)]
    return [(codes[i][1] if codes else i) % at.classes for i in range(n)]


def _base(at: Space, recipe: PictureRecipe) -> tuple[Tensor, list[int]]:
    """Styles of the recipe's latents and of the path through them, and a class for each."""
    way, w = recipe.way, recipe.w
    if w is not None:
        if w.ndim != 3 or w.shape[1] not in (1, at.layers) or w.shape[2] != at.size:
            raise UserError(
                f"w is {list(w.shape)}; expected [n, {at.layers} or 1, {at.size}]: it is of another network."
            )
        ws = _own(w, at).expand(-1, at.layers, -1)
        labels = classes_of(at, (), len(ws), recipe.label)
    else:
        z = at.draw(recipe.codes) if recipe.z is None else _own(recipe.z, at)
        labels = classes_of(at, recipe.codes, len(z), recipe.label)
        if way is not None and way.space != "w":
            keys = len(z)
            z = styles.path(z, way.steps, spherical=way.space == "slerp", loop=way.loop, frames=way.frames)
            labels, way = _along(labels, keys, len(z), way), None
        ws = at.styles(z, labels if at.classes else None)
    if way is not None:
        if way.space != "w":
            raise UserError("a path in z starts from seeds or z, not from w.")
        keys = len(ws)
        ws = styles.path(ws, way.steps, loop=way.loop, frames=way.frames)
        labels = _along(labels, keys, len(ws), way)
    return ws, labels


def _along(labels: list[int], keys: int, n: int, way: Way) -> list[int]:
    """The class of each point of a path: that of the key where its part begins."""
    return [labels[min(i // way.steps, keys - 1)] for i in range(n)]


def _mixed(at: Space, recipe: PictureRecipe, mix: Mix, ws: Tensor, labels: list[int]) -> tuple[Tensor, list[int], int]:
    """Styles, classes, and the columns of a grid: the other sources, then each row's own source and its mixtures."""
    if not mix.codes:
        raise UserError("mixing takes other seeds, one or more.")
    their = classes_of(at, mix.codes, len(mix.codes), mix.label)
    others = at.styles(at.draw(mix.codes), their if at.classes else None)
    others = at.truncated(others, recipe.truncation[0], recipe.cutoff)
    if not mix.grid:
        index = torch.arange(len(ws), device=ws.device) % len(others)
        return styles.mixed(ws, others[index], mix.layers), labels, 0
    rows = [torch.cat([w[None], styles.mixed(w.expand_as(others), others, mix.layers)]) for w in ws]
    return torch.cat([others, *rows]), [*their, *(y for y in labels for _ in range(1 + len(others)))], 1 + len(others)


def _rows(images: Tensor, columns: int) -> Tensor:
    return images[: len(images) // columns * columns]


def _repeated(maps: Tensor, n: int) -> Tensor:
    """Noise images of the base, for each of the images made from it."""
    if len(maps) == 1:
        return maps
    if n % len(maps):
        raise UserError(f"{len(maps)} sets of noise images for {n} images: give noise='const' with a path.")
    return maps.repeat_interleave(n // len(maps), 0)


def _beside(images: Tensor, beside: Tensor) -> Tensor:
    """Each row of images with its picture first."""
    first = (beside.to(images) / 127.5 - 1).permute(0, 3, 1, 2)  # [rows, C, H, W]
    if first.shape[1:] != images.shape[1:] or len(images) % len(first):
        raise UserError(f"pictures beside are {list(first.shape)}; the images are {list(images.shape)}.")
    rows = images.unflatten(0, (len(first), -1))
    return torch.cat([first.unsqueeze(1), rows], 1).flatten(0, 1)


def columns_of(recipe: PictureRecipe) -> int:
    """Columns of the picture; 0: about square."""
    if recipe.columns:
        return recipe.columns
    extra = int(recipe.beside is not None)
    if recipe.sweep is not None:
        return len(recipe.sweep.strengths) + extra
    if recipe.mix is not None and recipe.mix.grid:
        return 1 + len(recipe.mix.codes)
    if len(recipe.truncation) > 1:
        return len(recipe.truncation) + extra
    if recipe.way is not None and not recipe.way.frames:
        return recipe.way.steps
    return 2 * extra


# ---- pictures
@dataclass(frozen=True, eq=False)
class Picture:
    """Images [n, C, H, W] in [-1, 1], what decided them, and of which run they are (empty for a game without one)."""

    images: Tensor
    recipe: PictureRecipe
    provenance: Mapping[str, Any]

    def notes(self) -> dict[str, str]:
        """The PNG's text."""
        return {KEY: json.dumps({**self.provenance, "picture": to_json(self.recipe)})}

    def save(self, path: str | Path, *, fps: float = 30.0) -> Path:
        """Write a grid (.png), or a film of the images in their order (.gif, .mp4), whole or not at all."""
        from saddlepoint import pictures
        from saddlepoint.editing import films

        path = Path(path).expanduser()
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"cannot write {path}: {error.strerror or error}.") from error
        if films.is_film(path):
            films.save(self.images, path, fps=fps, cell=self.recipe.cell, note=self.notes()[KEY])
        else:
            films.refuse_suffix(path)
            columns = columns_of(self.recipe)
            pictures.save(self.images, path, columns=columns, cell=self.recipe.cell, notes=self.notes())
        return path


def make(source: Any, recipe: PictureRecipe) -> Picture:
    """The picture of a recipe, with where it comes from. source: a run, a `Source`, or a game."""
    if hasattr(source, "checkpoints"):
        source = open_source(source)
    images = render(source.space if isinstance(source, Source) else source, recipe)
    return Picture(images, recipe, source.provenance if isinstance(source, Source) else {})


@dataclass(frozen=True, eq=False)
class Source:
    """One checkpoint of a run, ready to edit."""

    space: Space
    provenance: Mapping[str, Any]


def open_source(run: Run, checkpoint: Path | None = None, device: torch.device | str = "cpu") -> Source:
    """A run's checkpoint (None: the newest whole one) as a source of pictures that can be made again."""
    folder = run.latest(("game", "average"))[0] if checkpoint is None else checkpoint
    return Source(space(run.game_at(folder).to(device)), provenance(run, folder, device))


def provenance(run: Run, folder: Path, device: torch.device | str = "cpu") -> dict[str, Any]:
    """Run, clock, fingerprint of the weights, and what the numbers also depend on."""
    return {
        "run": run.path.name, "clock": int(folder.name), "weights": fingerprint(folder),
        "device": torch.device(device).type, "torch": torch.__version__,
    }  # fmt: skip


def fingerprint(folder: Path) -> str:
    """Of a checkpoint's weights, live and averaged; from the checksums in its state.json."""
    from saddlepoint.runs import CheckpointError

    try:
        files = json.loads((folder / "state.json").read_text())["files"]
        named = {name: files[name] for name in ("game.safetensors", "average.safetensors") if name in files}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"checkpoint {folder} has no readable state.json ({error}).") from error
    return hashlib.blake2b(json.dumps(named, sort_keys=True).encode(), digest_size=8).hexdigest()


# ---- as JSON
def to_json(recipe: PictureRecipe) -> dict[str, Any]:
    """Plain values; what equals its default is left out."""
    default = PictureRecipe()
    fields = [f.name for f in dataclasses.fields(PictureRecipe)]
    return {name: _plain(getattr(recipe, name)) for name in fields if _differs(recipe, default, name)}


def _differs(recipe: PictureRecipe, default: PictureRecipe, name: str) -> bool:
    value, usual = getattr(recipe, name), getattr(default, name)
    return isinstance(value, Tensor) or type(value) is not type(usual) or bool(value != usual)


def _plain(value: Any) -> Any:
    if isinstance(value, Tensor):
        array = np.ascontiguousarray(value.detach().cpu().numpy())
        text = base64.b64encode(zlib.compress(array.tobytes(), 9)).decode()
        return {"array": text, "shape": list(array.shape), "dtype": str(array.dtype)}
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: _plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {"maps": {name: _plain(x) for name, x in value.items()}}
    if isinstance(value, tuple):
        return [_plain(x) for x in value]
    return value


def from_json(values: Mapping[str, Any]) -> PictureRecipe:
    """The recipe of `to_json`. Raises ValueError, KeyError or TypeError for anything else."""
    if not isinstance(values, Mapping):
        raise TypeError("it is not a table")
    given = dict(values)
    unknown_names = set(given) - {f.name for f in dataclasses.fields(PictureRecipe)}
    if unknown_names:
        raise ValueError(f"unknown entries {sorted(unknown_names)}")
    for name in ("z", "w", "beside"):
        if given.get(name) is not None:
            given[name] = _array(given[name])
    if "codes" in given:
        given["codes"] = _codes(given["codes"])
    for name, kind in (("label", int), ("truncation", float)):
        if name in given:
            given[name] = tuple(kind(x) for x in given[name])
    if given.get("way") is not None:
        given["way"] = Way(**given["way"])
    if given.get("mix") is not None:
        mix = given["mix"]
        given["mix"] = Mix(_codes(mix["codes"]), _ints(mix["layers"]), _ints(mix["label"]), bool(mix["grid"]))
    if "edits" in given:
        given["edits"] = tuple(_edit(x) for x in given["edits"])
    if given.get("sweep") is not None:
        sweep = given["sweep"]
        strengths = tuple(float(x) for x in sweep["strengths"])
        given["sweep"] = Sweep(tuple(_edit(x) for x in sweep["edits"]), strengths)
    if isinstance(given.get("noise"), Mapping):
        given["noise"] = {str(name): _array(x) for name, x in dict(given["noise"]["maps"]).items()}
    return PictureRecipe(**given)


def _edit(x: Mapping[str, Any]) -> Edit:
    layers = _ints(x["layers"])
    return Edit(str(x["name"]), _array(x["vector"]), layers, float(x["strength"]), float(x["deviation"]))


def _ints(x: Sequence[Any]) -> tuple[int, ...]:
    return tuple(int(i) for i in x)


def _codes(x: Sequence[Any]) -> tuple[Code, ...]:
    return tuple((int(seed), int(row)) for seed, row in x)


def _array(x: Mapping[str, Any]) -> Tensor:
    kind = np.dtype(str(x["dtype"]))
    shape = _ints(x["shape"])
    size = int(np.prod(shape, dtype=object)) * kind.itemsize if shape else kind.itemsize
    if kind.name not in ("float32", "float64", "uint8") or min(shape, default=1) < 0 or size > LARGEST:
        raise ValueError(f"an array of {kind.name} {list(shape)}")
    content = zlib.decompressobj().decompress(base64.b64decode(x["array"], validate=True), size + 1)
    if len(content) != size:
        raise ValueError(f"an array of {list(shape)} with {len(content)} bytes")
    return torch.from_numpy(np.frombuffer(content, kind).reshape(shape).copy())
