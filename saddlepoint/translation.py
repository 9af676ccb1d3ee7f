"""Pictures of a folder, a zip or a named set into the other domain of a trained translator, one file each.

translate   a run and pictures -> a folder of PNGs, and how far they are from the truth where it is known
distances   outputs against true partners, with the input itself and strangers' partners as what to beat
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from saddlepoint.errors import UserError, nearest
from saddlepoint.runs import write_bytes, write_json

if TYPE_CHECKING:
    from PIL import Image
    from torch import Tensor

    from saddlepoint.runs import Run
    from saddlepoint.systems.translation import Translator

WHOLE = 2048 * 1024  # pixels of a picture that is translated in one piece where no tile is given
TILE = 1024
DIRECTIONS = ("a-to-b", "b-to-a")


@dataclass(frozen=True)
class Picture:
    """A picture to translate: its name below the output folder, and how to read it as RGB, grey or with alpha."""

    name: str
    read: Callable[[], Image.Image]
    truth: Callable[[], Image.Image] | None = None


@dataclass(frozen=True)
class Outcome:
    """What became of the pictures. scores: see `distances`; empty without truth."""

    written: list[Path]
    problems: list[tuple[str, str]]
    scores: dict[str, dict[str, float]]


def translate(
    run: Run,
    source: str,
    out: str | Path,
    *,
    truth: str = "",
    direction: str = "a-to-b",
    checkpoint: str = "",
    device: str = "cpu",
    batch: int = 8,
    resolution: str = "",
    tile: int = 0,
    overlap: int = -1,
    passes: int = 2,
    seed: int = 0,
    on_error: str = "refuse",
    progress: Callable[[int, int], None] | None = None,
) -> Outcome:
    """Translate every picture of `source` into `out`, under the same names, as PNG in its own size.

    source: a folder or zip of pictures, one picture, or a named set with two domains ("maps:test"), whose true partners
    are then compared with. truth: a folder with the true partners by name. resolution: bring pictures to this size
    first. tile: side of the tiles that pictures are cut into; 0 cuts those above 2048x1024 pixels into tiles of 1024.
    Raises UserError for a run that does not translate, an unknown direction, no pictures, unreadable ones (on_error
    "refuse"; "skip" lists them) and missing partners.
    """
    game = translator(run, checkpoint, device, direction)
    pictures = list(found(source, truth, direction, game.recipe))
    check_names(pictures)
    folder = Path(out).expanduser()
    if folder.exists() and not folder.is_dir():
        raise UserError(f"--out {str(folder)!r} is a file; name a folder.")
    folder.mkdir(parents=True, exist_ok=True)
    work = _Work(game, folder, direction, batch, resolution, tile, overlap, passes, seed, on_error)
    for count, picture in enumerate(pictures, 1):
        work.add(picture)
        if progress:
            progress(count, len(pictures))
    work.flush()
    scores = distances(work.compared) if len(work.compared) > 1 else {}
    if scores:
        about = {"run": str(run.path), "source": source, "direction": direction, "pictures": len(work.compared)}
        write_json(folder / "distances.json", {**about, "scores": scores})
    return Outcome(work.written, work.problems, scores)


def translator(run: Run, checkpoint: str = "", device: str = "cpu", direction: str = "a-to-b") -> Translator:
    """The run's averaged game. UserError where it does not translate, or not in this direction."""
    from saddlepoint.api import choose_device
    from saddlepoint.errors import unknown
    from saddlepoint.recipes.translation import TranslationRecipe

    if not isinstance(run.recipe, TranslationRecipe):
        raise UserError(
            f"{run.path} is a {run.recipe.system}, which makes pictures from noise: draw from it with "
            "`saddlepoint sample`. pix2pix and cyclegan translate."
        )
    game: Any = run.game_at(run.checkpoint(checkpoint)).to(choose_device(device))
    if direction not in game.directions:
        raise unknown(f"direction of {run.recipe.system}", direction, game.directions)
    made: Translator = game
    return made


# ---- pictures
def found(source: str, truth: str, direction: str, recipe: Any) -> Iterator[Picture]:
    """The pictures that `source` names."""
    from saddlepoint.data.pair_catalog import PAIRS
    from saddlepoint.data.paired import split_of

    if split_of(source)[0] in PAIRS:
        if truth:
            raise UserError(f"the set {source!r} knows its true partners: leave --truth out.")
        yield from _of_set(source, direction, recipe)
        return
    partners = {_stem(name): read for name, read in _of_files(truth)} if truth else None
    for name, read in _of_files(source):
        stem = _stem(name)
        if partners is not None and stem not in partners:
            near = nearest(stem, partners)
            raise UserError(
                f"{name} of {source!r} has no partner in {truth!r}{f'; {near} is nearest' if near else ''}."
            )
        yield Picture(stem + ".png", read, None if partners is None else partners[stem])


def _stem(name: str) -> str:
    return name.rpartition(".")[0] or name


def _of_files(path: str) -> Iterator[tuple[str, Callable[[], Image.Image]]]:
    """(name, how to read it) of one picture, or of those of a folder or zip in the order of their names."""
    from saddlepoint.data import files, pixels
    from saddlepoint.data.catalog import existing_path

    place = Path(path).expanduser()
    if place.is_file() and place.suffix.lower() in files.SUFFIXES:
        yield place.name, lambda: pixels.decode(pixels.open_image(place.read_bytes()))
        return
    if place.is_file() and place.suffix.lower() != ".zip":
        raise UserError(f"{path!r} is no picture in a known format; expected {', '.join(sorted(files.SUFFIXES))}.")
    place = existing_path(path)
    listing = files._list_folder(place)[0] if place.is_dir() else files._list_zip(place)
    names = listing.images()
    if not names:
        raise UserError(f"{path!r} holds no pictures.")
    root = files._root(names)
    for name in names:
        yield name[len(root) :], lambda name=name: pixels.decode(files._open(listing, name))  # type: ignore[misc]


def _of_set(spec: str, direction: str, recipe: Any) -> Iterator[Picture]:
    """The pictures of a named set at the run's resolution, with their true partners where they have some."""
    from PIL import Image

    from saddlepoint.data.paired import find, open_items

    swapped = (recipe.direction == "b-to-a") != (direction == "b-to-a")
    first, second = ("b", "a") if swapped else ("a", "b")
    layout = find(spec)
    items = open_items(
        layout, ("a", "b"), resolution=recipe.shape, fit=recipe.fit, background=recipe.background
    )  # fmt: skip

    def image(name: str, index: int) -> Image.Image:
        array = items.take(name, np.array([index]))[0]  # [C, H, W]
        return Image.fromarray(array[0] if len(array) == 1 else array.transpose(1, 2, 0))

    columns = list(items.columns)
    count = len(items) if items.paired else len(items.columns[first])
    for n in range(count):
        a = int(items.rows[n, columns.index(first)]) if items.rows is not None else n
        b = int(items.rows[n, columns.index(second)]) if items.rows is not None else -1
        name = items.names[n] if items.paired else items.columns[first].names[n].partition("/")[2]
        read_truth = (lambda b=b: image(second, b)) if b >= 0 else None
        yield Picture(f"{name}.png", lambda a=a: image(first, a), read_truth)  # type: ignore[misc]


def check_names(pictures: Sequence[Picture]) -> None:
    """Refuse two pictures that would be written to one file, and names that leave the folder."""
    seen: dict[str, int] = {}
    for index, picture in enumerate(pictures):
        if seen.setdefault(picture.name, index) != index:
            raise UserError(f"two pictures would be written as {picture.name!r}; give them different names.")
        if ".." in Path(picture.name).parts or Path(picture.name).is_absolute():
            raise UserError(f"the name {picture.name!r} leads out of the output folder.")


# ---- work
class _Work:
    """Reads pictures, groups those of one size into batches, translates and writes them."""

    def __init__(
        self, game: Translator, folder: Path, direction: str, batch: int, resolution: str, tile: int, overlap: int,
        passes: int, seed: int, on_error: str,
    ) -> None:  # fmt: skip
        from saddlepoint.data.options import Options

        self.game, self.folder, self.direction = game, folder, direction
        self.batch, self.tile, self.overlap, self.passes = max(1, batch), tile, overlap, passes
        self.seed, self.on_error = seed, on_error
        self.options = Options.parse(resolution or None, None, "crop", "white")
        forward = direction == "a-to-b"
        self.channels = (game.inputs, game.outputs) if forward else (game.outputs, game.inputs)
        self.waiting: list[tuple[Picture, Tensor]] = []
        self.written: list[Path] = []
        self.problems: list[tuple[str, str]] = []
        self.compared: list[tuple[Tensor, Tensor, Tensor]] = []  # (output, truth, input)

    def add(self, picture: Picture) -> None:
        """Read a picture; translate when a batch is full, when its size differs, or at once where it needs tiles."""
        from saddlepoint.data.pixels import ImageError

        try:
            x = self.tensor(picture.read(), self.channels[0])
        except ImageError as error:
            if self.on_error == "refuse":
                raise UserError(f"{picture.name} {error}; leave it out with --on-error skip.") from error
            self.problems.append((picture.name, str(error)))
            return
        if self.waiting and self.waiting[0][1].shape != x.shape:
            self.flush()
        high, wide = x.shape[1:]
        side = self.tile or (TILE if high * wide > WHOLE else 0)
        if side and max(high, wide) > side:
            self.flush()
            y = self.game.translate_tiled(
                x, tile=side, overlap=self.overlap, passes=self.passes, direction=self.direction, seed=self.seed
            )  # fmt: skip
            self.write(picture, x, y)
            return
        self.waiting.append((picture, x))
        if len(self.waiting) == self.batch:
            self.flush()

    def tensor(self, image: Image.Image, channels: int) -> Tensor:
        """float [C, H, W] in [-1, 1], transparency on white."""
        import torch

        from saddlepoint.data import pixels

        options = self.options
        if not options.height:
            options = dataclasses.replace(options, height=image.height, width=image.width)
        array = pixels.to_pixels(image, dataclasses.replace(options, channels=channels))
        return torch.from_numpy(array).float().div_(127.5).sub_(1)

    def flush(self) -> None:
        """Translate what waits."""
        import torch

        if not self.waiting:
            return
        x = torch.stack([one for _, one in self.waiting])
        made = self.game.translate(x, direction=self.direction, seed=self.seed, batch=self.batch)
        for (picture, one), y in zip(self.waiting, made, strict=True):
            self.write(picture, one, y)
        self.waiting = []

    def write(self, picture: Picture, x: Tensor, y: Tensor) -> None:
        """The PNG, whole or not at all; and the three pictures kept for comparison where the truth is known."""
        from saddlepoint import pictures

        path = self.folder / picture.name
        path.parent.mkdir(parents=True, exist_ok=True)
        write_bytes(path, pictures.png(pictures.picture(y[None])))
        self.written.append(path)
        if picture.truth is not None:
            truth = self.tensor(picture.truth(), self.channels[1])
            if truth.shape != y.shape:
                raise UserError(f"{picture.name} is {y.shape[1]}x{y.shape[2]}, its true partner {truth.shape[1:]}.")
            self.compared.append((y.float().cpu(), truth, x))


# ---- how far from the truth
def distances(compared: Sequence[tuple[Tensor, Tensor, Tensor]]) -> dict[str, dict[str, float]]:
    """{"output" | "input" | "stranger": {"l1", "l1_error", "psnr", "ssim"}} of (output, truth, input) in [-1, 1].

    l1: mean absolute difference on a scale from 0 to 1, with its standard error over pictures; psnr in decibels.
    "input" is the identity map, what a translator that does nothing would get; "stranger" the true partner of another
    picture, what one that ignores its input would.
    """
    others = [compared[(i + len(compared) // 2) % len(compared)][1] for i in range(len(compared))]
    found = {"output": [_scores(y, t) for y, t, _ in compared]}
    if all(x.shape[0] in (1, t.shape[0]) for _, t, x in compared):
        found["input"] = [_scores(x.expand_as(t), t) for _, t, x in compared]
    if all(o.shape == t.shape for o, (_, t, _) in zip(others, compared, strict=True)):
        found["stranger"] = [_scores(o, t) for o, (_, t, _) in zip(others, compared, strict=True)]
    return {name: _mean(rows) for name, rows in found.items()}


def _scores(y: Tensor, truth: Tensor) -> dict[str, float]:
    from saddlepoint.metrics.similarity import ssim_of_pairs

    difference = (y - truth).double()
    square = float(difference.square().mean())
    return {
        "l1": float(difference.abs().mean()) / 2,
        "psnr": 10 * math.log10(4 / max(square, 1e-10)),
        "ssim": float(ssim_of_pairs(y[None], truth[None].to(y.dtype), shrink=True)),
    }


def _mean(rows: Sequence[dict[str, float]]) -> dict[str, float]:
    found = {name: float(np.mean([row[name] for row in rows])) for name in rows[0]}
    found["l1_error"] = float(np.std([row["l1"] for row in rows], ddof=1) / math.sqrt(len(rows)))
    return {name: float(f"{value:.5g}") for name, value in found.items()}


def as_text(scores: dict[str, dict[str, float]]) -> str:
    """The scores as JSON on one line each."""
    return "\n".join(f"{name}: {json.dumps(values)}" for name, values in scores.items())
