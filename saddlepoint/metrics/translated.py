"""How far a translator's outputs are from the truth: distances on held-out pairs, beside what to beat.

    per_picture   L1, PSNR and SSIM of outputs against their true partners
    classes_in    mIoU and pixel accuracy: do the outputs show what their label maps say?
    score         a game on held-out pairs -> an Evaluation: `saddlepoint evaluate RUN`, and `--evaluate-every`
    held_out      the pairs that nothing was trained on; says what is possible where there are none

Two things are to be beaten: the input itself, what a translator that does nothing would get, and the true partner of
another picture, what one that ignores its input would. Both are in an evaluation's `extra["baselines"]`.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from saddlepoint.errors import UserError, unknown
from saddlepoint.metrics.evaluation import Evaluation, Progress
from saddlepoint.metrics.scores import Better, Score

if TYPE_CHECKING:
    from torch import Tensor

    from saddlepoint.data.paired import Items
    from saddlepoint.recipes.base import Recipe
    from saddlepoint.systems.translation import Translator

DISTANCES: dict[str, Better] = {"l1": "lower", "psnr": "higher", "ssim": "higher"}
CLASSES: dict[str, Better] = {"miou": "higher", "accuracy": "higher"}  # where there are label maps
METRICS = (*DISTANCES, *CLASSES)
BATCH = 8
BASELINES = {"input": "the input itself", "stranger": "another picture's partner"}


def per_picture(y: Tensor, truth: Tensor) -> dict[str, NDArray[np.float64]]:
    """{"l1", "psnr", "ssim"}: [N] each, of pictures [N, C, H, W] in [-1, 1].

    l1: mean absolute difference on a scale from 0 to 1; psnr in decibels, 10 log10(4 / mean squared difference).
    """
    from saddlepoint.metrics.similarity import ssim_of_pairs

    difference = (y - truth).double().flatten(1)
    square = difference.square().mean(1).clamp_min(1e-10)
    return {
        "l1": (difference.abs().mean(1) / 2).cpu().numpy(),
        "psnr": (10 * (4 / square).log10()).cpu().numpy(),
        "ssim": ssim_of_pairs(y, truth.to(y.dtype), shrink=True).double().cpu().numpy(),
    }


def classes_in(
    recipe: Recipe, pictures: Tensor, labels: Tensor, real: Tensor, progress: Progress | None = None
) -> dict[str, Any]:
    """{"output", "ceiling", "floor", "segmenter"} of pictures made from maps [N, H, W], see `segmentation.judged`.

    The segmenter is that of the recipe's training data, which takes about a minute where it is not kept. real: the true
    pictures of the maps.
    """
    from saddlepoint.metrics import segmentation

    settings: Any = recipe

    def tell(done: int, of: int) -> None:
        assert progress is not None
        progress(f"training a segmenter of {recipe.data}", done, of)

    return segmentation.judged(
        recipe.data, pictures, labels, real=real, channels=pictures.shape[1], pixels=segmentation.PIXELS,
        fit=settings.fit, background=settings.background, on_error=settings.on_error,
        progress=tell if progress else None,
    )  # fmt: skip


# ---- held-out pairs
def held_out(recipe: Recipe, against: str = "") -> Items:
    """The held-out pairs of a recipe's data, or those of another set: whole, not mirrored, in an order of their own.

    UserError where there are none, with what can be done instead.
    """
    from saddlepoint.data import paired

    settings: Any = recipe
    layout = paired.find(against) if against else paired.find(recipe.data).held_out()
    if layout is None:
        raise UserError(
            f"{recipe.data!r} holds nothing out, so there are no pairs that {recipe.system} was not trained on. Put "
            "some into test/ beside train/ (or testA/ testB/, A/test/ B/test/, test_label/ ...), or name others: "
            "`saddlepoint evaluate RUN --against PAIRS`."
        )
    called = {"a": "b", "b": "a"} if getattr(recipe, "direction", "a-to-b") == "b-to-a" else {}
    names = [called.get(name, name) for name in settings.domains]
    optional = getattr(recipe, "optional", ())
    chosen = [name for name in names if layout.has(name) or name not in optional]
    if not layout.paired:
        raise UserError(
            f"the pictures of {layout.spec!r} have no true partners, so no distance to the truth can be measured. "
            f"Possible: `saddlepoint translate RUN --input {layout.spec} --out OUT` and `saddlepoint evaluate OUT "
            f"--against FOLDER` with the other domain's pictures, or --truth FOLDER where somebody made true partners."
        )
    channels = {called.get("a", "a"): settings.input_channels, names[-1]: settings.channels}
    items = paired.open_items(
        layout, chosen, resolution=settings.shape, channels={k: v for k, v in channels.items() if v}, paired=True,
        labels=getattr(recipe, "labels", 0) or settings.classes, dont_care=getattr(recipe, "dont_care", None),
        fit=settings.fit, background=settings.background, on_error=settings.on_error,
    )  # fmt: skip
    return paired.Items(items, 0, called=called)


def check(recipe: Recipe) -> None:
    """UserError where scores are asked for in training that its data or its kind do not have."""
    translates = recipe.data_module == "saddlepoint.data.paired"
    if not recipe.evaluate_every or not translates:
        if recipe.evaluate_every and recipe.evaluate_metric in METRICS:
            raise UserError(
                f"--evaluate-metric {recipe.evaluate_metric} compares translated pictures with true ones; "
                f"{recipe.system} draws from noise. Nearest: fd."
            )
        return
    if recipe.evaluate_metric not in ("auto", *there_are(recipe)):
        raise unknown("metric of translators", recipe.evaluate_metric, ("auto", *there_are(recipe)))
    held_out(recipe)


def there_are(recipe: Recipe) -> tuple[str, ...]:
    """The metrics of a translator: those of classes where its inputs are label maps."""
    return METRICS if getattr(recipe, "domains", ("a",))[0] == "label" else tuple(DISTANCES)


def picks(recipe: Recipe) -> str:
    """What decides which checkpoint is best."""
    automatic = "miou" if "miou" in there_are(recipe) else "l1"
    return automatic if recipe.evaluate_metric == "auto" else recipe.evaluate_metric


def chosen_metrics(recipe: Recipe, metrics: Sequence[str], default: Sequence[str]) -> tuple[str, ...]:
    """What is asked for: all that there is where the usual metrics of images stand. UserError for others."""
    known = there_are(recipe)
    if tuple(metrics) == tuple(default):
        return known
    for name in metrics:
        if name not in known:
            raise unknown("metric of translators", name, known)
    return tuple(metrics)


# ---- scores
def score(
    game: Translator,
    pairs: Items,
    name: str,
    identity: Mapping[str, Any],
    metrics: Sequence[str] = (),
    *,
    n: int = 0,
    seed: int = 0,
    progress: Progress | None = None,
) -> Evaluation:
    """Outputs of the first n held-out inputs (0: all) against their true partners, in every direction of the game.

    GauGAN paints all in the seed's style. pix2pixHD's objects get looks by the seed; while no looks are known, as in
    training, those of the true photos, which the record says.
    """
    started = time.perf_counter()
    count = min(n or len(pairs), len(pairs))
    if count < 2:
        raise UserError(f"{pairs.items.spec!r} has {len(pairs)} pairs; expected at least 2 to compare strangers.")
    wanted = tuple(metrics) or there_are(game.recipe)
    scores: dict[str, Score] = {}
    extra: dict[str, Any] = {}
    baselines: dict[str, dict[str, Any]] = {}
    common: dict[str, Any] = {
        "samples": count, "reference": f"{pairs.items.spec}: true partners", "seed": seed,
        "resolution": f"{pairs.height}x{pairs.width}", "judged": dict(identity),
    }  # fmt: skip
    for direction in game.directions:
        rows, looks, kept = _rows(game, pairs, count, direction, seed, progress)
        told = {k: v for k, v in common.items() if k != "judged"} | ({"looks": looks} if looks else {})
        for metric in (name for name in wanted if name in DISTANCES):
            label = metric if direction == "a-to-b" else f"{metric} {direction}"
            record = {**told, "metric": metric, "direction": direction}
            for who, found in rows.items():
                one = _mean(label, found[metric], DISTANCES[metric], record)
                if who == "output":
                    scores[label] = one
                else:
                    baselines.setdefault(BASELINES[who], {})[label] = one.as_dict()
        if kept and set(wanted) & set(CLASSES):
            seen = classes_in(game.recipe, *kept, progress)
            for metric in (name for name in wanted if name in CLASSES):
                value, best, least = (seen[who][metric] for who in ("output", "ceiling", "floor"))
                about = {**told, "segmenter": seen["segmenter"]["identity"], "metric": metric}
                scores[metric] = Score(metric, value, floor=best, better=CLASSES[metric], record=about)
                other = Score(metric, least, better=CLASSES[metric], record=about)
                baselines.setdefault(BASELINES["stranger"], {})[metric] = other.as_dict()
            extra |= {"iou": seen["output"]["iou"], "segmenter": seen["segmenter"]}
    return Evaluation(name, scores, common, time.perf_counter() - started, {"baselines": baselines, **extra})


def _mean(name: str, values: NDArray[np.float64], better: Better, record: Mapping[str, Any]) -> Score:
    error = float(values.std(ddof=1) / math.sqrt(len(values)))
    return Score(name, float(values.mean()), error, better=better, record=record)


def _rows(
    game: Translator, pairs: Items, count: int, direction: str, seed: int, progress: Progress | None
) -> tuple[dict[str, dict[str, NDArray[np.float64]]], str, tuple[Tensor, Tensor, Tensor] | None]:
    """Of one direction ({"output" | "input" | "stranger": {metric: [count]}}, whose looks the objects had, and of label
    maps the outputs, the maps and the true pictures).
    """
    import torch

    parts: dict[str, list[dict[str, NDArray[np.float64]]]] = {}
    kept: list[tuple[Tensor, Tensor, Tensor]] = []
    looks = ""
    for first in range(0, count, BATCH):
        length = min(BATCH, count - first)
        batch = pairs(0, count, first, length)
        x, truth = _ends(batch, direction)
        given, looks = _given(game, batch, truth, seed)
        y = game.translate(x, direction=direction, **given).float().cpu()
        parts.setdefault("output", []).append(per_picture(y, truth))
        if x.ndim == 3:
            kept.append((y, x, truth))
        if x.ndim == 4 and x.shape[1] in (1, truth.shape[1]):
            parts.setdefault("input", []).append(per_picture(x.expand_as(truth), truth))
        others = _truths(pairs, count, (first + count // 2) % count, length, direction)
        parts.setdefault("stranger", []).append(per_picture(others, truth))
        if progress:
            progress(f"translating {direction}", first + length, count)
    rows = {who: {k: np.concatenate([part[k] for part in found]) for k in found[0]} for who, found in parts.items()}
    maps = [torch.cat(column) for column in zip(*kept, strict=True)]
    return rows, looks, (maps[0], maps[1], maps[2]) if maps else None


def _truths(pairs: Items, count: int, first: int, length: int, direction: str) -> Tensor:
    """True outputs first, first + 1, ... of `count`, from the beginning again after the last."""
    import torch

    here = min(length, count - first)
    found = [_ends(pairs(0, count, first, here), direction)[1]]
    if here < length:
        found.append(_ends(pairs(0, count, 0, length - here), direction)[1])
    return torch.cat(found)


def _ends(batch: Mapping[str, Tensor], direction: str) -> tuple[Tensor, Tensor]:
    """(inputs, true outputs) of a batch."""
    if "label" in batch:
        return batch["label"], batch["image"]
    return (batch["a"], batch["b"]) if direction == "a-to-b" else (batch["b"], batch["a"])


def _given(game: Any, batch: Mapping[str, Tensor], truth: Tensor, seed: int) -> tuple[dict[str, Any], str]:
    """The other arguments of `translate`, and whose looks the objects get."""
    given: dict[str, Any] = {"seed": seed}
    if "instance" in batch and "instance" in game.takes:
        given["instance"] = batch["instance"]
    if not getattr(game.recipe, "features", 0):
        return given, "by the seed" if getattr(game.recipe, "encoder", False) else ""
    if int(game.centres_known.sum()):
        return given, "by the seed"
    return {**given, "image": truth}, "of the true photos"


def score_run(
    run: Any,
    against: str = "",
    metrics: Sequence[str] = (),
    *,
    n: int = 0,
    seed: int = 0,
    checkpoint: str = "",
    averaged: bool = True,
    device: str = "cpu",
    progress: Progress | None = None,
) -> Evaluation:
    """A run's checkpoint on the held-out pairs of its data, or on those of another set."""
    pairs = held_out(run.recipe, against)
    folder = run.checkpoint(checkpoint) or run.latest(("game",))[0]
    game: Any = run.game_at(folder, averaged=averaged).to(device)
    if averaged:
        from saddlepoint.appearances import attach

        attach(game, run, folder)
    clock = int(folder.name)
    identity = {"run": run.path.name, "system": run.recipe.system, "clock": clock, "averaged": averaged}
    name = f"{run.path.name} at {clock / 1000:g} kimg"
    return score(game, pairs, name, identity, metrics, n=n, seed=seed, progress=progress)
