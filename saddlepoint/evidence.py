"""What a run folder holds that `saddlepoint.diagnosis` can judge by: the log, scores, stored samples, checkpoints.

gathered     everything that is there already, in a second or so
varieties    how different the samples of each stored grid are, beside the real images of the same count
held_out     D's logits on training and on held-out images at the newest checkpoint, computed and stored when asked for
spectrum     the newest checkpoint's spectrum, likewise
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from saddlepoint.diagnosis import Evidence, HeldOut, Measured, Variety
from saddlepoint.errors import UserError
from saddlepoint.recipes import gamma
from saddlepoint.recipes.base import ImageRecipe, Recipe
from saddlepoint.runs import CheckpointError, Run, write_json

if TYPE_CHECKING:
    import torch

    from saddlepoint.game import Game, Player, Round
    from saddlepoint.theory.report import Progress

Images = NDArray[np.float64]  # [N, H, W, C] in [-1, 1]
CELL, COUNT = 64, 64  # of the stored grids


def gathered(run: Run) -> Evidence:
    """Everything that the folder says by itself."""
    from saddlepoint.report import words

    recipe = run.recipe
    objective = str(getattr(recipe, "objective", ""))
    meaning = words.meaning(recipe.system, objective)
    levels = (None, None) if meaning is None else tuple(v and v[0] for v in (meaning.first, meaning.second))
    augment, penalty = getattr(recipe, "augment", None), getattr(recipe, "penalty", None)
    return Evidence(
        kimg=run.clock / 1000,
        goal=recipe.kimg,
        objective=objective,
        log=run.log(),
        undecided=(levels[0], levels[1]),
        pictures=tuple(varieties(run)),
        scores=tuple(measured(run)),
        augment_target=augment.target if augment is not None and augment.operations else 0.0,
        r1=getattr(penalty, "r1", 0.0),
        gamma=gamma.remark(recipe),
        clip=float(getattr(recipe, "clip", 0.0)),
        at_clip=share_at_clip(run),
        failure=_failure(run),
        held_out=_stored_gap(run),
        spectrum=stored_spectrum(run),
    )


def _failure(run: Run) -> str:
    values = _read(run.path / "failure" / "round.json")
    return str(values.get("error", "a round was not finite.")) if values else ""


def _read(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


# ---- scores
def measured(run: Run) -> Iterator[Measured]:
    """Every score of the averaged weights on the run's own data, from training and from evaluations made later."""
    for line in (*run.scores(), *run.evaluations()):
        identity = line.get("record", {}).get("judged", {})
        clock = line.get("clock", identity.get("clock"))
        if not isinstance(clock, int) or identity.get("averaged") is False:
            continue
        for name, score in line.get("scores", {}).items():
            record = score.get("record", {})
            value = score.get("value")
            if value is None:
                continue
            yield Measured(
                clock / 1000, str(record.get("metric", name)), name, float(value), _number(score.get("error")),
                _number(score.get("floor")), str(score.get("better", "lower")), json.dumps(record, sort_keys=True),
            )  # fmt: skip


def _number(value: Any) -> float:
    return math.nan if value is None else float(value)


# ---- stored samples
def varieties(run: Run) -> Iterator[Variety]:
    """Of every stored grid of images, oldest first; nothing for points and for runs without real images to compare."""
    recipe, folder = run.recipe, run.path / "samples"
    real = cells(folder / "real.png", recipe)
    if real is None:
        return
    before: Images | None = None
    for path in sorted(p for p in folder.glob("*.png") if p.stem.isdigit()):
        found = cells(path, recipe)
        if found is not None:
            yield variety(found, real, before, int(path.stem) / 1000)
            before = found


def variety(samples: Images, real: Images, before: Images | None = None, kimg: float = 0.0) -> Variety:
    """Distances are root mean squares over pixels. samples, real, before: [N, H, W, C] in [-1, 1]."""
    reference = shrunk(real, samples.shape[1:3])
    spread, nearest, _ = _distances(reference, 0.0)
    if not spread > 0:
        return Variety(kimg, math.nan, math.nan, 0.0)
    near = float(np.quantile(_nearest(reference), 0.05)) / 4
    own_spread, own_nearest, repeated = _distances(samples, near)
    change = math.nan
    if before is not None and len(before) == len(samples):
        change = float(np.sqrt(((samples - shrunk(before, samples.shape[1:3])) ** 2).mean())) / spread
    ratio = own_nearest / nearest if nearest > 0 else math.nan
    return Variety(kimg, own_spread / spread, ratio, repeated, change)


def _pairwise(x: Images) -> Images:
    flat = x.reshape(len(x), -1)
    squares = (flat**2).sum(1)
    return np.sqrt(np.maximum(squares[:, None] + squares - 2 * flat @ flat.T, 0) / flat.shape[1])


def _nearest(x: Images) -> Images:
    distance = _pairwise(x)
    np.fill_diagonal(distance, np.inf)
    found: Images = distance.min(1)
    return found


def _distances(x: Images, near: float) -> tuple[float, float, float]:
    """(mean over pairs, median to the nearest other one, share with another one within `near`)."""
    nearest = _nearest(x)
    mean = float(_pairwise(x)[np.triu_indices(len(x), 1)].mean())
    return mean, float(np.median(nearest)), float((nearest <= near).mean())


def shrunk(x: Images, shape: Sequence[int]) -> Images:
    """Block means, or each pixel repeated, where one shape is a multiple of the other: [N, H, W, C]."""
    height, width = shape
    n, h, w, c = x.shape
    if h >= height:
        return x.reshape(n, height, h // height, width, w // width, c).mean((2, 4))
    return x.repeat(height // h, 1).repeat(width // w, 2)


def cells(path: Path, recipe: Recipe) -> Images | None:
    """The images of a stored grid, [N, H, W, C] in [-1, 1]; None where it is not a grid of this recipe's images.

    A growing run's early grids hold smaller images; the picture's own size tells which.
    """
    if not isinstance(recipe, ImageRecipe) or not recipe.resolution or not path.is_file():
        return None
    try:
        with Image.open(path) as image:
            pixels = np.asarray(image.convert(image.mode if image.mode in ("L", "RGB", "RGBA") else "RGB"))
    except (OSError, ValueError):
        return None
    pixels = pixels[..., None] if pixels.ndim == 2 else pixels
    columns = math.ceil(math.sqrt(COUNT))
    height, width = recipe.shape
    while min(height, width) >= 2:
        scale = max(1, round(CELL / max(height, width)))
        step_y, step_x = (height + 1) * scale, (width + 1) * scale
        gap = scale
        if pixels.shape[:2] == (step_y * columns - gap, step_x * columns - gap):
            found = [
                pixels[
                    r * step_y : r * step_y + height * scale : scale, q * step_x : q * step_x + width * scale : scale
                ]
                for r in range(columns)
                for q in range(columns)
            ]
            return np.stack(found).astype(np.float64) / 127.5 - 1
        height, width = height // 2, width // 2
    return None


# ---- checkpoints
def share_at_clip(run: Run) -> float | None:
    """Share of a clipped critic's weights that are on the bound, at the newest checkpoint; None without clipping."""
    bound = float(getattr(run.recipe, "clip", 0.0) or 0.0)
    if not bound or not run.checkpoints():
        return None
    try:
        _, tensors, _ = run.latest(("game",))
    except CheckpointError:
        return None
    heads = ("game/critic.", "game/discriminator.")
    weights = [t for name, t in tensors.items() if name.startswith(heads) and t.is_floating_point()]
    total = sum(t.numel() for t in weights)
    return sum(int((t.abs() >= bound * (1 - 1e-6)).sum()) for t in weights) / total if total else None


def _stored_gap(run: Run) -> HeldOut | None:
    values = _read(run.path / "analysis" / "held-out.json")
    try:
        return HeldOut(**values) if values else None
    except TypeError:
        return None


def held_out(run: Run, n: int = 500, seed: int = 0) -> HeldOut:
    """D's logits on n training and n held-out images (the test split of the run's named set), live weights, no
    augmentation; also stored in RUN/analysis/held-out.json.

    Raises UserError where no image is held out, and for games whose discriminator's real and generated calls cannot be
    told apart.
    """
    from saddlepoint.data import SETS
    from saddlepoint.metrics import judged

    recipe = run.recipe
    base, _, split = recipe.data.partition(":")
    if not isinstance(recipe, ImageRecipe) or base not in SETS or split not in ("", "train"):
        raise UserError(
            f"{run.path}: --held-out needs a run trained on the training split of a named set ({', '.join(SETS)}), "
            f"whose test split it has not seen; this one is on {recipe.data or 'no images'}."
        )
    game, clock = run.game_at(None, averaged=False), run.clock
    stage = game.stage(clock)
    if stage.resolution not in (None, recipe.resolution):
        raise UserError(f"{run.path} has not grown to {recipe.resolution} pixels yet; --held-out needs it to.")
    seen, unseen = (judged.training_data(run, seed=seed, spec=f"{base}:{name}") for name in ("train", "test"))
    count = min(n, len(seen), len(unseen))
    parts: dict[str, list[torch.Tensor]] = {"train": [], "held_out": [], "fake": []}
    pairs = zip(seen.chunks(count, seed), unseen.chunks(count, seed), strict=True)
    for (a, a_label), (b, b_label) in pairs:
        found = logits(game, {"image": a, "label": a_label}, {"image": b, "label": b_label}, clock)
        for name, values in found.items():
            parts[name].append(values)
    import torch

    train, other, fake = (torch.cat(parts[name]).double() for name in ("train", "held_out", "fake"))
    error = math.hypot(*(float(v.std()) / math.sqrt(len(v)) for v in (train, other)))
    result = HeldOut(
        clock / 1000, count, float(train.mean()), float(other.mean()), float(fake.mean()),
        float(train.sign().mean()), float(other.sign().mean()), error,
    )  # fmt: skip
    (run.path / "analysis").mkdir(exist_ok=True)
    write_json(run.path / "analysis" / "held-out.json", dataclasses.asdict(result))
    return result


def logits(
    game: Game, a: Mapping[str, torch.Tensor | None], b: Mapping[str, torch.Tensor | None], clock: int = 0
) -> dict[str, torch.Tensor]:
    """{"train", "held_out", "fake"}: what the discriminator says of images a, of images b, and of samples, [N] each.

    It works for any game: the discriminator's loss is evaluated on a, on b, and on a with other random numbers. A call
    whose output changes with the numbers judges samples, one that changes with the images only judges real ones.
    """
    from saddlepoint.layers.augment import Controller

    for module in game.modules():
        if isinstance(module, Controller):
            module.p.zero_()  # a game of our own: without augmentation
    player = next((p for p in game.players if not p.name.startswith("generator")), None)
    if player is None:
        raise UserError(f"{type(game).__name__} has no discriminator.")
    given = [{k: v for k, v in batch.items() if v is not None} for batch in (a, b)]
    first, second, third = (
        _judgements(game, player, game.round(batch, draw=draw, clock=clock))
        for batch, draw in ((given[0], 1), (given[1], 1), (given[0], 2))
    )
    import torch

    real = [(x, y) for x, y, z in zip(first, second, third, strict=True) if torch.equal(x, z) and not torch.equal(x, y)]
    fake = [x for x, z in zip(first, third, strict=True) if not torch.equal(x, z)]
    if not real or not fake:
        raise UserError(
            f"{type(game).__name__}'s discriminator judges real images and samples in one call or under noise, so its "
            "logits on held-out images cannot be told."
        )
    return {"train": real[0][0], "held_out": real[0][1], "fake": fake[0]}


def _judgements(game: Game, player: Player, round: Round) -> list[torch.Tensor]:
    """One number a sample, call by call, while the player's adversarial loss is evaluated: [N] each.

    What the player's own module returns, or where games call parts of it, what those of its layers return that have one
    number a sample.
    """
    import torch

    whole: list[torch.Tensor] = []
    parts: list[torch.Tensor] = []

    def keep(module: torch.nn.Module, inputs: Any, output: Any) -> None:
        first = output[0] if isinstance(output, tuple) else output
        if isinstance(first, torch.Tensor) and first.ndim and first.numel() == len(first) > 1:
            (whole if module in player.modules else parts).append(first.detach().flatten())

    hooks = [inner.register_forward_hook(keep) for module in player.modules for inner in module.modules()]
    try:
        with game.untouched():
            game.loss(player, round.asking(frozenset({"gan", "wasserstein"})))
    finally:
        for hook in hooks:
            hook.remove()
    return whole or parts


def stored_spectrum(run: Run) -> dict[str, Any] | None:
    """The newest checkpoint that `saddlepoint analyse` or `report --spectrum` has looked at."""
    found = []
    for place in ("analysis.json", "newest/analysis.json"):
        found += [p for p in _read(run.path / "analysis" / place).get("checkpoints", []) if isinstance(p, dict)]
    return max(found, key=lambda point: float(point["kimg"]), default=None)


def spectrum(run: Run, batch: int = 64, progress: Progress | None = None) -> None:
    """Compute the newest checkpoint's spectrum into RUN/analysis/newest, unless it is there. Minutes for networks."""
    stored = stored_spectrum(run)
    if stored is not None and float(stored["kimg"]) == run.clock / 1000:
        return
    from saddlepoint.figures import analysis

    analysis.write(
        list(analysis.along(run, last=True, batch=batch, progress=progress)), run.path / "analysis" / "newest"
    )
