"""From names to scores: `score("runs/first", "fashion-mnist")` is `saddlepoint evaluate` from Python.

Also the same during training: `Evaluations` scores the running average every so many images and keeps the best
checkpoint.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from saddlepoint.engine import Training, due
from saddlepoint.errors import UserError
from saddlepoint.metrics import evaluation, judged, translated
from saddlepoint.metrics.evaluation import DEFAULT, Against, Evaluation, Progress
from saddlepoint.metrics.scores import Score, from_dict, improves
from saddlepoint.observers import Checkpoints
from saddlepoint.operators import Report
from saddlepoint.recipes.base import ImageRecipe
from saddlepoint.runs import Run, write_bytes, write_json

if TYPE_CHECKING:
    import torch

    from saddlepoint.data.paired import Items
    from saddlepoint.metrics.extractors import Extractor
    from saddlepoint.recipes.base import Recipe

SAMPLES = 5000
POINTS = 2500  # of toy games: the convention of mode coverage
W1_POINTS = 2048


def score(
    what: str | Path,
    against: str = "",
    metrics: Sequence[str] = DEFAULT,
    *,
    features: str = "auto",
    weights: str | None = None,
    n: int = 0,
    reference: int = 0,
    seed: int = 0,
    checkpoint: str = "",
    averaged: bool = True,
    controls: Mapping[str, Any] | None = None,
    resolution: str = "",
    floor: bool = True,
    device: torch.device | str = "cpu",
    progress: Progress | None = None,
) -> Evaluation:
    """Score a run, a folder, a zip or a set against real images (of a run: its own data where `against` is empty).

    metrics: see evaluation.METRICS. features, weights: see `metrics.features`. n: samples, 0 for SAMPLES or half of
    the real images. reference: real images to compare with, 0 for all but those of the floor. A run's evaluation is
    appended to its evaluations.jsonl. Raises UserError for anything that cannot be scored, with the reason.
    """
    path = Path(what).expanduser()
    run = Run(path) if (path / "recipe.json").is_file() else None
    if run is not None and not isinstance(run.recipe, ImageRecipe):
        found = score_points(run, n=n, seed=seed, checkpoint=checkpoint, averaged=averaged)
        _remember(run, found)
        return found
    if run is not None and run.recipe.data_module == "saddlepoint.data.paired":
        if controls:
            raise UserError(f"{what} translates pictures: it has no truncation.")
        found = translated.score_run(
            run, against, translated.chosen_metrics(run.recipe, metrics, DEFAULT), n=n, seed=seed,
            checkpoint=checkpoint, averaged=averaged, device=str(device), progress=progress,
        )  # fmt: skip
        _remember(run, found)
        return found
    given = _judged(what, run, seed, checkpoint, averaged, str(device), resolution, controls or {})
    if run is None and not against:
        raise UserError(f"{what}: name the real images to score it against: --against DATA.")
    real = real_images(run, given, against, seed)
    if isinstance(given, judged.Samples):
        given = judged.Samples(given.game, given.name, given.identity, given.controls, real.labels())
    limit = given.limit()
    count = n or min(SAMPLES, len(real) // 2, limit or SAMPLES)
    names = [name for name in metrics if name != "ppl"]
    extractor = None
    if evaluation.families(names) and any(
        evaluation.METRICS[f].needs & {evaluation.FEATURES, evaluation.LOGITS} for f in evaluation.families(names)
    ):
        extractor = extractor_for(features, real, weights=weights, device=str(device), progress=progress)
    found = evaluation.evaluate(
        given, Against.split(real, count, reference), names, extractor, n=count, seed=seed, floor=floor,
        unseen=_unseen(run, real, names, against), progress=progress, distributed=True,
    )  # fmt: skip
    if "ppl" in metrics:
        found = _with_path_length(found, given, count, seed, progress)
    if run is not None:
        _remember(run, found)
    return found


def _unseen(run: Run | None, real: judged.Images, names: Sequence[str], against: str) -> judged.Images | None:
    """Real images that no training has seen: the test split of a run's named set. Wanted for memorisation only."""
    if "memorisation" not in evaluation.families(names):
        return None
    from saddlepoint.data import SETS

    base, _, split = real.name.partition(":")
    if run is None or against or base not in SETS or split not in ("", "train"):
        raise UserError(
            "memorisation compares the nearest training image of samples and of unseen real images, so it needs a run "
            f"that was trained on the training split of a named set ({', '.join(SETS)}), judged against its own data."
        )
    return judged.training_data(run, spec=f"{base}:test")


def _with_path_length(
    found: Evaluation, given: judged.Samples | judged.Images, n: int, seed: int, progress: Progress | None
) -> Evaluation:
    """The evaluation with a run's perceptual path length: in z and, where there is one, in w, full and end."""
    import inspect

    import torch

    from saddlepoint.metrics.paths import path_length
    from saddlepoint.metrics.perceptual import perceptual

    if not isinstance(given, judged.Samples):
        raise UserError(f"{given.name}: ppl follows a generator's paths, so it is for runs.")
    game = given.game
    parameters = inspect.signature(game.sample).parameters
    if "z" not in parameters or given.conditional():
        raise UserError(f"{given.name}: ppl needs an unconditional generator that takes latents.")
    distance = perceptual(_distance_for(game), device=game.device)
    size = game.draw_latents(1, 0).shape[1]  # type: ignore[operator]

    def sampler(count: int, random: torch.Generator) -> torch.Tensor:
        return torch.randn(count, size, generator=random).to(game.device)

    paths: list[tuple[str, dict[str, Any]]] = [(f"z, {where}", {"where": where}) for where in ("full", "end")]
    mapping = getattr(getattr(game, "generator", None), "mapping", None)
    if mapping is not None and "w" in parameters:
        for where in ("full", "end"):
            paths.append((f"w, {where}", {"space": "w", "mapping": mapping, "where": where}))
    scores = dict(found.scores)
    for name, how in paths:

        def images(latents: torch.Tensor, key: str = "w" if "mapping" in how else "z") -> torch.Tensor:
            return game.sample(len(latents), seed, **{key: latents})

        tell = None if progress is None else evaluation.telling(progress, f"path length ({name})")
        value = path_length(images, sampler, distance, samples=n, seed=seed, progress=tell, **how)
        label = f"PPL[{name}; {distance.name}]"
        record = {"metric": "ppl", "path": name, "distance": str(distance.identity), "samples": n, "seed": seed}
        scores[label] = Score(label, float(value), value.standard_error or float("nan"), better="lower", record=record)
    return Evaluation(found.judged, scores, found.record, found.seconds, found.extra)


def _distance_for(game: Any) -> str:
    """The perceptual distance that needs no download: EfficientNet-Lite0 in colour, a random network else."""
    import importlib.util

    from saddlepoint.metrics import lite

    colour = getattr(getattr(game, "recipe", None), "channels", 1) == 3
    return "lite0" if colour and importlib.util.find_spec(lite.PACKAGE) is not None else "random-conv"


def _judged(
    what: str | Path,
    run: Run | None,
    seed: int,
    checkpoint: str,
    averaged: bool,
    device: str,
    resolution: str,
    controls: Mapping[str, Any],
) -> judged.Samples | judged.Images:
    """What the name means."""
    if run is not None:
        folder = run.checkpoint(checkpoint)
        return judged.Samples.of_run(run, folder, averaged=averaged, device=device, **controls)
    for name, value in (("checkpoint", checkpoint), ("truncation", controls)):
        if value:
            raise UserError(f"--{name} is for runs; {what} is not one.")
    from saddlepoint.data.options import parse_resolution

    shape = parse_resolution(resolution) if resolution else None
    return judged.opened(what, shape=shape, seed=seed)


def real_images(run: Run | None, given: judged.Samples | judged.Images, against: str, seed: int) -> judged.Images:
    """The real images in the shape of what is judged. Their order is keyed by the seed."""
    if run is not None:
        return judged.training_data(run, seed=seed, spec=against)
    assert isinstance(given, judged.Images)
    facts = given.images.facts
    return judged.opened(against, shape=(facts.height, facts.width), channels=facts.channels, seed=seed)


def extractor_for(
    name: str,
    real: judged.Images,
    *,
    weights: str | None = None,
    device: str = "cpu",
    progress: Progress | None = None,
) -> Extractor:
    """The extractor of that name; auto: the best that needs no download for these images.

    Grey labelled sets have their own classifier, trained here in a minute and kept; other images EfficientNet-Lite0
    from its package, or without it a random convolutional network.
    """
    from saddlepoint.data.named import cache_folder
    from saddlepoint.data.sets import locked
    from saddlepoint.metrics import classifier, extractors

    kind, given = (
        extractors.automatic(real.images, real.name) if name == "auto" and weights is None else (name, weights)
    )
    if kind != "classifier":
        return extractors.chosen(name, real.images, real.name, weights=weights, device=device)
    given = given or extractors.automatic(real.images, real.name)[1] or real.images
    tell = None if progress is None else evaluation.telling(progress, f"training a classifier of {real.name}")
    cache_folder().mkdir(parents=True, exist_ok=True)
    with locked(cache_folder() / ".classifier.lock"):  # two that ask at once shall not both train it
        classifier.classifier(given, progress=tell)
    return extractors.features("classifier", given, device=device)


def _remember(run: Run, found: Evaluation) -> None:
    """A line in the run's evaluations.jsonl; a folder that cannot be written keeps nobody from the result."""
    from saddlepoint import distributed

    if distributed.rank() != 0:
        return
    try:
        with (run.path / "evaluations.jsonl").open("a") as file:
            file.write(json.dumps(found.as_dict(), allow_nan=False) + "\n")
    except OSError:
        return


# ---- points
def score_points(
    run: Run, *, n: int = 0, seed: int = 0, checkpoint: str = "", averaged: bool = True, game: Any = None
) -> Evaluation:
    """Mode coverage and exact W1 of a toy run's samples, with W1's floor between two draws of the data."""
    import numpy as np

    from saddlepoint.data import toys
    from saddlepoint.metrics.modes import mode_coverage
    from saddlepoint.theory import w1

    recipe = run.recipe
    if recipe.data_module != "saddlepoint.data.toys":
        raise UserError(f"{recipe.system} has neither images nor points to score; see saddlepoint analyse.")
    started = time.perf_counter()
    target = toys.of_recipe(recipe)
    folder = None if game is not None else run.checkpoint(checkpoint)
    made = game if game is not None else run.game_at(folder, averaged=averaged)
    count = n or POINTS
    points = made.sample(count, seed).double().cpu().numpy()
    if not np.isfinite(points).all():
        raise UserError(f"{run.path}: samples are not finite.")
    real = target.points(0, 2 * W1_POINTS, seed + 1)
    few = min(count, W1_POINTS)
    clock = int((folder or run.latest(("game",))[0]).name) if game is None else -1
    record: dict[str, Any] = {"samples": count, "reference": f"{recipe.data}: its exact distribution", "seed": seed}
    scores = {
        "w1": Score(
            "w1", float(w1(points[:few], real[:few])), floor=float(w1(real[few : 2 * few], real[:few])),
            better="lower", record={**record, "metric": "w1", "points": few},
        )
    }  # fmt: skip
    extra: dict[str, Any] = {}
    if target.modes > 1:
        found = mode_coverage(points, target.centres, target.sigma)
        truth = mode_coverage(target.points(0, count, seed + 2), target.centres, target.sigma)
        for name in ("modes", "modes_20", "modes_1_percent", "high_quality", "kl"):
            value, floor = float(getattr(found, name)), float(getattr(truth, name))
            better = "lower" if name == "kl" else "higher"
            scores[name] = Score(name, value, floor=floor, better=better, record={**record, "metric": name})  # type: ignore[arg-type]
        extra["modes"] = found.as_dict()
    name = f"{run.path.name} at {clock / 1000:g} kimg" if clock >= 0 else run.path.name
    identity = {"run": run.path.name, "system": recipe.system, "clock": clock, "averaged": averaged}
    return Evaluation(name, scores, {**record, "judged": identity}, time.perf_counter() - started, extra)


# ---- during training
class Evaluations:
    """A line in scores.jsonl every `recipe.evaluate_every` kimg; the best checkpoint so far is kept, see best.json.

    Runs on every process: each takes its share of the samples. Only the first has a run to write to.
    """

    def __init__(self, run: Run | None, path: Path, training: Training, checkpoints: Checkpoints | None) -> None:
        self.run, self.path, self.checkpoints = run, path, checkpoints
        self.recipe: Recipe = training.recipe
        self.every = training.recipe.evaluate_every * 1000
        self.clock = training.counters.clock
        self.scored = -1
        self.best: Score | None = None
        self.parts: tuple[Against, Extractor | None] | None = None
        self.pairs: Items | None = None  # of translators
        if run is not None:
            self._take_up(run)

    def _take_up(self, run: Run) -> None:
        """On resume: what was scored after the checkpoint will be scored again."""
        lines = [line for line in run.scores() if line["clock"] <= self.clock]
        if (run.path / "scores.jsonl").exists():
            write_bytes(run.path / "scores.jsonl", "".join(json.dumps(line) + "\n" for line in lines).encode())
        for line in lines:
            value = from_dict(line["scores"][line["picks"]])
            self.best = value if improves(value, self.best) else self.best

    def __call__(self, training: Training, report: Report) -> None:
        clock = training.counters.clock
        if due(clock, clock - self.clock, self.every):
            self.evaluate(training)
        self.clock = clock

    def finish(self, training: Training) -> None:
        if self.scored != training.counters.clock:
            self.evaluate(training)

    def evaluate(self, training: Training) -> None:
        """Score the averaged weights as they are now."""
        self.scored = training.counters.clock
        found, picks = self.measured(training)
        if self.run is None or found is None:
            return
        clock, value = training.counters.clock, found.scores[picks]
        line = {"clock": clock, "kimg": clock / 1000, "picks": picks, **found.as_dict()}
        with (self.path / "scores.jsonl").open("a") as file:
            file.write(json.dumps(line, allow_nan=False) + "\n")
        if not improves(value, self.best):
            return
        self.best = value
        if self.checkpoints is not None and self.checkpoints.written != clock:
            self.checkpoints.write(training)
        write_json(self.path / "best.json", {"clock": clock, "metric": picks, "value": value.value})
        if self.checkpoints is not None:
            self.checkpoints.prune()

    def measured(self, training: Training) -> tuple[Evaluation | None, str]:
        """(scores, the name of the one that picks the best)."""
        recipe, game = self.recipe, training.average.game()
        if not isinstance(recipe, ImageRecipe):
            if self.run is None:
                return None, ""
            wanted = recipe.evaluate_metric if recipe.evaluate_metric not in ("auto", "modes") else ""
            found = score_points(self.run, n=recipe.evaluate_n, game=game)
            return found, wanted or ("modes_1_percent" if "modes" in found.scores else "w1")
        if recipe.data_module == "saddlepoint.data.paired":
            return self._translated(training) if self.run is not None else (None, "")
        metric = "fd" if recipe.evaluate_metric == "auto" else recipe.evaluate_metric
        if self.parts is None:
            self.parts = self._prepared(recipe, metric, str(training.device))
        against, extractor = self.parts
        name = f"{self.path.name} at {training.counters.clock / 1000:g} kimg"
        identity = {"run": self.path.name, "system": recipe.system, "clock": training.counters.clock}
        real = against.reference.labels()
        given = judged.Samples(game, name, identity, {}, real)
        metrics = [metric, *(("dc",) if evaluation.FAMILY[metric] == "fd" else ())]
        found = evaluation.evaluate(
            given, against, metrics, extractor, n=recipe.evaluate_n, floor=True, distributed=True
        )
        return found, next(name for name, s in found.scores.items() if s.record["metric"] == metric)

    def _translated(self, training: Training) -> tuple[Evaluation, str]:
        """Distances of the averaged game's outputs to held-out partners."""
        recipe, clock, game = self.recipe, training.counters.clock, training.average.game()
        self.pairs = self.pairs or translated.held_out(recipe)
        identity = {"run": self.path.name, "system": recipe.system, "clock": clock}
        name = f"{self.path.name} at {clock / 1000:g} kimg"
        found = translated.score(game, self.pairs, name, identity, n=recipe.evaluate_n)  # type: ignore[arg-type]
        return found, translated.picks(recipe)

    def _prepared(self, recipe: ImageRecipe, metric: str, device: str) -> tuple[Against, Extractor | None]:
        real = judged.opened(
            recipe.data, shape=judged.shape_of(recipe), channels=recipe.channels, fit=recipe.fit,
            background=recipe.background, on_error=recipe.on_error,
        )  # fmt: skip
        needs = evaluation.METRICS[evaluation.FAMILY[metric]].needs
        wanted = bool(needs & {evaluation.FEATURES, evaluation.LOGITS})
        extractor = extractor_for(recipe.evaluate_features, real, device=device) if wanted else None
        return Against.split(real, recipe.evaluate_n, min(10_000, len(real) - recipe.evaluate_n)), extractor
