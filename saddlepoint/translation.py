"""Pictures or label maps through a trained translator, one file each: `saddlepoint translate` from Python.

translate   a run and a source -> a folder of PNGs, and how far they are from the truth where it is known
distances   outputs against true partners, with the input itself and strangers' partners as what to beat
looks       the styles that outputs are wanted in: by seeds, or of a reference picture

What a source may be is in `saddlepoint.inputs`.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from saddlepoint import inputs
from saddlepoint.errors import UserError
from saddlepoint.inputs import Picture, check_names
from saddlepoint.runs import write_bytes, write_json

if TYPE_CHECKING:
    from torch import Tensor

    from saddlepoint.data.options import Options
    from saddlepoint.runs import Run
    from saddlepoint.systems.translation import Translator

WHOLE = 2048 * 1024  # pixels of a picture that is translated in one piece where no tile is given
TILE = 1024
DIRECTIONS = ("a-to-b", "b-to-a")


@dataclass(frozen=True)
class Outcome:
    """What became of the pictures. scores: see `distances`; empty without truth. notes: what a reader should know.
    classes: of label maps, what a segmenter sees in the outputs, see `metrics.translated.classes_in`.
    """

    written: list[Path]
    problems: list[tuple[str, str]]
    scores: dict[str, dict[str, float]]
    notes: list[str] = field(default_factory=list)
    classes: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Look:
    """One look of the outputs: what is put behind their names, and the arguments that `translate` gets for it."""

    suffix: str
    options: dict[str, Any]


def translate(
    run: Run,
    source: str,
    out: str | Path,
    *,
    truth: str = "",
    instances: str = "",
    direction: str = "a-to-b",
    checkpoint: str = "",
    device: str = "cpu",
    batch: int = 8,
    resolution: str = "",
    tile: int = 0,
    overlap: int = -1,
    passes: int = -1,
    seed: int = 0,
    style: str = "",
    styles: int = 0,
    features: int = -1,
    on_error: str = "refuse",
    segment: bool = True,
    progress: Callable[[int, int], None] | None = None,
    tell: Callable[[str, int, int], None] | None = None,
) -> Outcome:
    """Translate every picture, or label map, of `source` into `out`, under the same names, as PNG in its own size.

    source: a folder or zip of pictures, one picture, a folder or zip in an arrangement of `data.layouts` (its part with
    ":test"), or a named set with two domains ("maps:test"), whose true partners are then compared with. truth,
    instances: folders with the true partners and the instance maps by name; instances="regions" makes every connected
    region an object. style: a seed or a reference picture (gaugan with encoder); features: the seed of the objects'
    looks (pix2pixhd with features); styles: so many outputs of every input, in different looks. segment: where truth is
    known, ask a segmenter of the run's data whether outputs show what their maps say. resolution: bring inputs to this
    size first. tile: side of the tiles that pictures are cut into; 0 cuts those above 2048x1024 pixels
    into tiles of 1024. Raises UserError for a run that does not translate, an unknown direction, no pictures,
    unreadable ones and label maps with ids that are no class (on_error "refuse"; "skip" lists them) and missing
    partners.
    """
    game = translator(run, checkpoint, device, direction)
    wanted = looks(game, seed, style, styles, features)
    pictures = list(inputs.found(game, source, truth=truth, instances=instances, direction=direction))
    check_names(pictures)
    folder = Path(out).expanduser()
    if folder.exists() and not folder.is_dir():
        raise UserError(f"--out {str(folder)!r} is a file; name a folder.")
    folder.mkdir(parents=True, exist_ok=True)
    work = _Work(game, folder, direction, batch, resolution, tile, overlap, passes, on_error, wanted, instances)
    for count, picture in enumerate(pictures, 1):
        work.add(picture)
        if progress:
            progress(count, len(pictures))
    work.flush()
    scores = distances(work.compared) if len(work.compared) > 1 else {}
    notes: list[str] = []
    classes: dict[str, Any] = {}
    if scores:
        about = {"run": str(run.path), "source": source, "direction": direction, "pictures": len(work.compared)}
        write_json(folder / "distances.json", {**about, "scores": scores})
        classes = _classes(game, work.compared, notes, tell) if segment else {}  # may take minutes
        if classes:
            write_json(folder / "distances.json", {**about, "scores": scores, "classes": classes})
    return Outcome(work.written, work.problems, scores, notes, classes)


def _classes(
    game: Translator, compared: Sequence[tuple[Tensor, Tensor, Tensor]], notes: list[str],
    tell: Callable[[str, int, int], None] | None,
) -> dict[str, Any]:  # fmt: skip
    """What a segmenter of the run's training data sees in outputs of label maps; a note where it cannot be asked."""
    import torch

    from saddlepoint.metrics.translated import classes_in

    if game.takes[0] != "label":
        return {}
    if len({truth.shape for _, truth, _ in compared}) > 1:
        notes.append("no mIoU: the pictures have several sizes; --resolution brings them to one.")
        return {}
    outputs, truths, maps = (torch.stack(column) for column in zip(*compared, strict=True))
    try:
        return classes_in(game.recipe, outputs, maps.long(), truths, tell)
    except UserError as error:
        notes.append(f"no mIoU: {error}")
        return {}


def translator(run: Run, checkpoint: str = "", device: str = "cpu", direction: str = "a-to-b") -> Translator:
    """The run's averaged game. UserError where it does not translate, or not in this direction."""
    from saddlepoint import appearances
    from saddlepoint.api import choose_device
    from saddlepoint.errors import unknown
    from saddlepoint.recipes.translation import TranslationRecipe

    if not isinstance(run.recipe, TranslationRecipe):
        raise UserError(
            f"{run.path} is a {run.recipe.system}, which makes pictures from noise: draw from it with "
            "`saddlepoint sample`. pix2pix, pix2pixhd, cyclegan and gaugan translate."
        )
    folder = run.checkpoint(checkpoint)
    game: Any = run.game_at(folder).to(choose_device(device))
    if direction not in game.directions:
        raise unknown(f"direction of {run.recipe.system}", direction, game.directions)
    made: Translator = game
    appearances.attach(made, run, folder)
    return made


# ---- looks
def looks(game: Translator, seed: int = 0, style: str = "", styles: int = 0, features: int = -1) -> list[Look]:
    """The looks that are asked for: one, or `styles` of them. UserError for what this system does not have."""
    system = game.recipe.system
    encoder, objects = bool(getattr(game.recipe, "encoder", False)), bool(getattr(game.recipe, "features", 0))
    if style and not encoder:
        other = "; its objects' looks are chosen with --features SEED" if objects else ""
        how = "train one with --encoder" if hasattr(game.recipe, "encoder") else "gaugan with --encoder has styles"
        raise UserError(f"this {system} has no style encoder, so --style means nothing to it: {how}{other}.")
    if features >= 0 and not objects:
        hint = "; --style SEED is what it has" if encoder else ""
        raise UserError(f"this {system} has no features of objects: pix2pixhd with --features 3 has{hint}.")
    if styles and not (encoder or objects):
        raise UserError(f"this {system} makes one picture of an input: leave --styles out.")
    number = style.lstrip("-").isdigit()
    reference = inputs.look_of(game, style) if style and not number else None
    start = int(style) if style and number else features if features >= 0 else seed
    return [
        Look(f"-{k}" if styles else "", _look(game, encoder, seed, start + k, reference, k))
        for k in range(styles or 1)
    ]  # fmt: skip


def _look(game: Any, encoder: bool, seed: int, number: int, reference: Tensor | None, k: int) -> dict[str, Any]:
    """The arguments of one look: of several after a reference picture, the first is its mean and the others drawn."""
    if not encoder:
        return {"seed": number}
    if reference is not None:
        return {"seed": seed, "style": game.style_of(reference, number if k else None)}
    return {"seed": seed, "style": game.styles(1, number)}


# ---- work
@dataclass(frozen=True)
class _Read:
    """An input that has been read. x: a picture [C, H, W] in [-1, 1] or class ids [H, W]; objects: ids [H, W]."""

    picture: Picture
    x: Tensor
    objects: Tensor | None


class _Work:
    """Reads inputs, groups those of one size into batches, translates and writes them."""

    def __init__(
        self, game: Translator, folder: Path, direction: str, batch: int, resolution: str, tile: int, overlap: int,
        passes: int, on_error: str, wanted: Sequence[Look], instances: str = "",
    ) -> None:  # fmt: skip
        from saddlepoint.data.options import Options

        self.game: Any = game
        self.folder, self.direction, self.wanted = folder, direction, wanted
        self.batch, self.tile, self.overlap, self.passes = max(1, batch), tile, overlap, passes
        self.on_error = on_error
        self.options = Options.parse(resolution or None, None, "crop", "white")
        self.regions = instances == inputs.REGIONS
        forward = direction == "a-to-b"
        self.channels = (game.inputs, game.outputs) if forward else (game.outputs, game.inputs)
        self.waiting: list[_Read] = []
        self.written: list[Path] = []
        self.problems: list[tuple[str, str]] = []
        self.compared: list[tuple[Tensor, Tensor, Tensor]] = []  # (output, truth, input)

    def add(self, picture: Picture) -> None:
        """Read a picture; translate when a batch is full, when its size differs, or at once where it needs tiles."""
        from saddlepoint.data.pixels import ImageError

        try:
            given = read(self.game, picture, self.channels[0], self.options, self.regions)
        except ImageError as error:
            if self.on_error == "refuse":
                raise UserError(f"{picture.name} {error}; leave it out with --on-error skip.") from error
            self.problems.append((picture.name, str(error)))
            return
        if self.waiting and self.waiting[0].x.shape != given.x.shape:
            self.flush()
        high, wide = given.x.shape[-2:]
        side = self.tile or (TILE if high * wide > WHOLE else 0)
        if side and max(high, wide) > side:
            self.flush()
            how = {"tile": side, "overlap": self.overlap, "passes": self.passes, "direction": self.direction}
            objects = {} if given.objects is None else {"instance": given.objects}
            for look in self.wanted:
                self.write(given, look, self.game.translate_tiled(given.x, **how, **objects, **look.options))
            return
        self.waiting.append(given)
        if len(self.waiting) == self.batch:
            self.flush()

    def flush(self) -> None:
        """Translate what waits."""
        import torch

        if not self.waiting:
            return
        x = torch.stack([one.x for one in self.waiting])
        known = [one.objects for one in self.waiting if one.objects is not None]
        objects = {"instance": torch.stack(known)} if known else {}
        for look in self.wanted:
            made = self.game.translate(x, direction=self.direction, batch=self.batch, **objects, **look.options)
            for one, y in zip(self.waiting, made, strict=True):
                self.write(one, look, y)
        self.waiting = []

    def write(self, given: _Read, look: Look, y: Tensor) -> None:
        """The PNG, whole or not at all; and the pictures kept for comparison where the truth is known."""
        from saddlepoint import pictures

        picture = given.picture
        path = self.folder / (picture.name.removesuffix(".png") + look.suffix + ".png")
        path.parent.mkdir(parents=True, exist_ok=True)
        write_bytes(path, pictures.png(pictures.picture(y[None])))
        self.written.append(path)
        if picture.truth is not None and look is self.wanted[0]:
            truth = inputs.tensor(picture.truth(), self.channels[1], self.options)
            if truth.shape != y.shape:
                raise UserError(f"{picture.name} is {y.shape[1]}x{y.shape[2]}, its true partner {truth.shape[1:]}.")
            self.compared.append((y.float().cpu(), truth, given.x))


def whole_or_tiled(game: Any, x: Tensor, options: dict[str, Any]) -> Tensor:
    """One input [C, H, W] or [H, W] through the game, in tiles where it is above WHOLE pixels; "instance" is [H, W]."""
    if x.shape[-2] * x.shape[-1] > WHOLE:
        made: Tensor = game.translate_tiled(x, tile=TILE, **options)
        return made
    batched = {**options, **({"instance": options["instance"][None]} if "instance" in options else {})}
    made = game.translate(x[None], **batched)[0].float().cpu()
    return made


def read(game: Translator, picture: Picture, channels: int, options: Options, regions: bool = False) -> _Read:
    """A picture or label map and its objects. Raises ImageError for what cannot be used, with the reason."""
    import torch

    from saddlepoint.data.pixels import ImageError
    from saddlepoint.systems.translation import strange_ids

    if game.takes[0] == "label":
        x = inputs.ids(picture.read(), options)
        wrong = strange_ids(x, game.classes, bool(getattr(game.recipe, "dont_care", False)))
        if wrong:
            raise ImageError(wrong)
    else:
        x = inputs.tensor(picture.read(), channels, options)
    objects = None
    if regions and game.takes[0] == "label":
        objects = torch.from_numpy(inputs.regions(x.numpy()))
    elif "instance" in game.takes and picture.instance is not None:
        objects = inputs.ids(picture.instance(), options)
        if objects.shape != x.shape[-2:]:
            sizes = "{}x{}, its instance map {}x{}".format(*x.shape[-2:], *objects.shape)
            raise ImageError(f"is {sizes}; expected the same size")
    return _Read(picture, x, objects)


# ---- how far from the truth
def distances(compared: Sequence[tuple[Tensor, Tensor, Tensor]]) -> dict[str, dict[str, float]]:
    """{"output" | "input" | "stranger": {"l1", "l1_error", "psnr", "ssim"}} of (output, truth, input) in [-1, 1].

    l1: mean absolute difference on a scale from 0 to 1, with its standard error over pictures; psnr in decibels.
    "input" is the identity map, what a translator that does nothing would get (none for label maps); "stranger" the
    true partner of another picture, what one that ignores its input would.
    """
    others = [compared[(i + len(compared) // 2) % len(compared)][1] for i in range(len(compared))]
    found = {"output": [_scores(y, t) for y, t, _ in compared]}
    if all(x.ndim == 3 and x.shape[0] in (1, t.shape[0]) for _, t, x in compared):
        found["input"] = [_scores(x.expand_as(t), t) for _, t, x in compared]
    if all(o.shape == t.shape for o, (_, t, _) in zip(others, compared, strict=True)):
        found["stranger"] = [_scores(o, t) for o, (_, t, _) in zip(others, compared, strict=True)]
    return {name: _mean(rows) for name, rows in found.items()}


def _scores(y: Tensor, truth: Tensor) -> dict[str, float]:
    from saddlepoint.metrics.translated import per_picture

    return {name: float(values[0]) for name, values in per_picture(y[None], truth[None]).items()}


def _mean(rows: Sequence[dict[str, float]]) -> dict[str, float]:
    found = {name: float(np.mean([row[name] for row in rows])) for name in rows[0]}
    found["l1_error"] = float(np.std([row["l1"] for row in rows], ddof=1) / math.sqrt(len(rows)))
    return {name: float(f"{value:.5g}") for name, value in found.items()}


def as_text(scores: dict[str, dict[str, float]]) -> str:
    """The scores as JSON on one line each."""
    return "\n".join(f"{name}: {json.dumps(values)}" for name, values in scores.items())
