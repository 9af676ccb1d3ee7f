"""Evaluating: images that are judged, against real ones, by chosen metrics, with floors, errors and a full record.

    reference   real images, all but those of the floor (or as many as asked for)
    judged      n samples of a run, or n images of a folder, zip or set
    floor       n real images that are not in the reference, measured in the same way

Every image passes the extractor once; features of real images are kept in the cache under the hash of their pixels.
Several processes (torchrun) share the chunks of what is judged.
"""

from __future__ import annotations

import hashlib
import math
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from saddlepoint.errors import UserError, unknown
from saddlepoint.metrics.judged import CHUNK, Images, Judged
from saddlepoint.metrics.scores import Better, Score

if TYPE_CHECKING:
    from saddlepoint.metrics.arrays import Estimate
    from saddlepoint.metrics.extractors import Extractor

Progress = Callable[[str, int, int], None]  # (what is being done, done, of)
GROUPS = 10  # of the jackknife
SPILL = 1 << 28  # bytes from which features live in a temporary file instead of memory
KNOWN = "6726825d"  # how the SHA-256 of the published state dict begins
FORMAT = 1  # raised when the same pixels and extractor would give other features


@dataclass(frozen=True)
class Collected:
    """What was kept of n images, row by row in the order of their chunks."""

    features: NDArray[np.float32] | None = None  # [n, D]
    logits: NDArray[np.float32] | None = None  # [n, K]
    pixels: NDArray[np.uint8] | None = None  # [n, C, H, W]
    labels: NDArray[np.int64] | None = None  # [n]


@dataclass(frozen=True)
class Given:
    """What a metric computes from. reference and judged hold what its `needs` name."""

    reference: Collected
    judged: Collected
    seed: int
    progress: Callable[[int, int], None] | None = None
    unseen: Collected | None = None
    """Real images that the training has not seen (memorisation)."""


@dataclass(frozen=True)
class Metric:
    """A family of numbers that are computed together."""

    values: Mapping[str, Better]
    """Names of the numbers, and which way is better."""
    needs: frozenset[str]
    """Of "features", "logits", "pixels", "labels"."""
    compute: Callable[[Given], Mapping[str, Estimate | float]]
    summary: str
    floor: bool = True
    """Does it make sense for real against real?"""


@dataclass(frozen=True)
class Evaluation:
    """What `evaluate` found: scores by name, and where they come from."""

    judged: str
    scores: Mapping[str, Score]
    record: Mapping[str, Any]
    seconds: float = 0.0
    extra: Mapping[str, Any] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            "judged": self.judged,
            "scores": {name: score.as_dict() for name, score in self.scores.items()},
            "record": dict(self.record),
            "seconds": round(self.seconds, 2),
            **self.extra,
        }


# ---- the metrics
def _features(given: Given) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    assert given.reference.features is not None and given.judged.features is not None
    return given.reference.features, given.judged.features


def _as_many(given: Given) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Features of as many real images as are judged: neighbourhoods shrink with the count, so equal ones are used."""
    x, y = _features(given)
    return x[: len(y)], y


def _fd(given: Given) -> dict[str, Estimate]:
    from saddlepoint.metrics.arrays import Estimate
    from saddlepoint.metrics.frechet import Moments, frechet_from_moments

    x, y = _features(given)
    reference = Moments.of(x)
    groups = [Moments.of(part) for part in np.array_split(y, GROUPS)]
    value = frechet_from_moments(reference, merged(groups))
    left_out = []
    for i in range(GROUPS):
        left_out.append(frechet_from_moments(reference, merged(groups[:i] + groups[i + 1 :])))
        if given.progress:
            given.progress(i + 1, GROUPS)
    return {"fd": Estimate(value, jackknife_error(left_out), method=f"delete-a-group jackknife, {GROUPS} groups")}


def merged(groups: Sequence[Any]) -> Any:
    """The moments of all groups together."""
    from saddlepoint.metrics.frechet import Moments

    total = Moments(groups[0].dimensions)
    for group in groups:
        total.merge(group)
    return total


def jackknife_error(left_out: Sequence[float]) -> float:
    """Standard error from values that each leave one of g equal groups out: sqrt((g - 1) / g sum (v - mean)^2)."""
    values = np.asarray(left_out, np.float64)
    return float(np.sqrt((len(values) - 1) / len(values) * ((values - values.mean()) ** 2).sum()))


def jackknifed(measure: Callable[[Any], float], y: Any, groups: int = GROUPS) -> Estimate:
    """measure(y) with the error of leaving out one of `groups` groups of rows of y at a time."""
    from saddlepoint.metrics.arrays import Estimate

    parts = np.array_split(np.arange(len(y)), groups)
    left_out = [measure(np.delete(y, part, axis=0)) for part in parts]
    return Estimate(measure(y), jackknife_error(left_out), method=f"delete-a-group jackknife, {groups} groups")


def _share(value: float, count: int) -> Estimate:
    """A share of `count` independent samples with its binomial error."""
    from saddlepoint.metrics.arrays import Estimate

    return Estimate(value, math.sqrt(max(value * (1 - value), 0.0) / count), method="binomial")


def _kd(given: Given) -> dict[str, Estimate | float]:
    from saddlepoint.metrics.kernel import kernel_distance

    x, y = _features(given)
    size = min(1000, len(x), len(y))
    return {"kd": kernel_distance(x, y, estimator="subset", subset_size=size, seed=given.seed, progress=given.progress)}


def _infinity(given: Given) -> dict[str, Estimate | float]:
    from saddlepoint.metrics.arrays import Estimate
    from saddlepoint.metrics.frechet import frechet_infinity

    x, y = _features(given)
    found = frechet_infinity(x, y, seed=given.seed, progress=given.progress)
    return {"fd-infinity": Estimate(found.value, found.standard_error, method="straight line in 1/N")}


def _cmmd(given: Given) -> dict[str, Estimate | float]:
    from saddlepoint.metrics.kernel import cmmd

    x, y = _as_many(given)
    return {"cmmd": cmmd(x, y, progress=given.progress)}


def _precision_recall(given: Given) -> dict[str, Estimate | float]:
    from saddlepoint.metrics.neighbours import precision_recall

    x, y = _as_many(given)
    found = precision_recall(x, y, k=3, progress=given.progress)
    return {"precision": _share(found.precision, len(y)), "recall": _share(found.recall, len(x))}


def _density_coverage(given: Given) -> dict[str, Estimate | float]:
    from saddlepoint.metrics.neighbours import density_coverage

    x, y = _as_many(given)
    found = density_coverage(x, y, k=5, progress=given.progress)
    return {"density": found.density, "coverage": _share(found.coverage, len(x))}


def _inception(given: Given) -> dict[str, Estimate | float]:
    from saddlepoint.metrics.classes import inception_score

    assert given.judged.logits is not None
    return {"is": inception_score(given.judged.logits, splits=10)}


def _pixels(values: Collected) -> Any:
    import torch

    assert values.pixels is not None
    return torch.from_numpy(np.ascontiguousarray(values.pixels))


def _swd(given: Given) -> dict[str, Estimate | float]:
    from saddlepoint.metrics.sliced import laplacian_swd

    x, y = _pixels(given.reference), _pixels(given.judged)
    count = min(len(x), len(y))
    return {"swd": laplacian_swd(x[:count], y[:count], seed=given.seed, progress=given.progress).value}


def _ms_ssim(given: Given) -> dict[str, Estimate | float]:
    from saddlepoint.metrics.similarity import ms_ssim_diversity

    return {"ms-ssim": ms_ssim_diversity(_pixels(given.judged), seed=given.seed, progress=given.progress)}


def _two_sample(given: Given) -> dict[str, Estimate | float]:
    from saddlepoint.metrics.two_sample import two_sample_test

    x, y = _as_many(given)
    return {"c2st": two_sample_test(x, y, seed=given.seed).accuracy}


def _labelled(given: Given) -> dict[str, Estimate | float]:
    from saddlepoint.metrics.labelled import gan_train_test

    if given.reference.labels is None or given.judged.labels is None:
        raise UserError("gan-train and gan-test need labels on both sides: a labelled set and a conditional run.")
    x, y = _features(given)
    found = gan_train_test(y, given.judged.labels, x, given.reference.labels)
    return {"gan-train": found.gan_train, "gan-test": found.gan_test}


def _memorisation(given: Given) -> dict[str, Estimate | float]:
    from saddlepoint.metrics.memorisation import copying_test, duplicates

    x, y = _features(given)
    if given.unseen is None or given.unseen.features is None:
        raise UserError("memorisation needs real images that the training has not seen.")
    test = copying_test(x, given.unseen.features, y, seed=given.seed, progress=given.progress)
    return {"c_t": test.value, "nearer": test.nearer, "duplicates": duplicates(y).value}


FEATURES, LOGITS, PIXELS, LABELS = "features", "logits", "pixels", "labels"
METRICS: dict[str, Metric] = {
    "fd": Metric({"fd": "lower"}, frozenset({FEATURES}), _fd, "Frechet distance (FID on the 2015 Inception network)"),
    "kd": Metric({"kd": "lower"}, frozenset({FEATURES}), _kd, "kernel distance (KID on the 2015 Inception network)"),
    "fd-infinity": Metric(
        {"fd-infinity": "lower"}, frozenset({FEATURES}), _infinity,
        "Frechet distance extrapolated to infinitely many samples",
    ),
    "cmmd": Metric(
        {"cmmd": "lower"}, frozenset({FEATURES}), _cmmd, "1,000 times the MMD with a Gaussian kernel, made for CLIP"
    ),
    "pr": Metric(
        {"precision": "higher", "recall": "higher"}, frozenset({FEATURES}), _precision_recall,
        "precision and recall of k-nearest-neighbour manifolds, k = 3",
    ),
    "dc": Metric(
        {"density": "higher", "coverage": "higher"}, frozenset({FEATURES}), _density_coverage,
        "density and coverage, k = 5",
    ),
    "is": Metric({"is": "higher"}, frozenset({LOGITS}), _inception, "Inception score of the extractor's classes"),
    "swd": Metric({"swd": "lower"}, frozenset({PIXELS}), _swd, "sliced Wasserstein distance of Laplacian patches"),
    "ms-ssim": Metric(
        {"ms-ssim": "neither"}, frozenset({PIXELS}), _ms_ssim,
        "mean MS-SSIM of pairs of samples: higher than the floor means less variety",
    ),
    "c2st": Metric(
        {"c2st": "lower"}, frozenset({FEATURES}), _two_sample, "accuracy of telling judged from real; 0.5 is chance"
    ),
    "labels": Metric(
        {"gan-train": "higher", "gan-test": "higher"}, frozenset({FEATURES, LABELS}), _labelled,
        "accuracy of a classifier trained on samples and tested on real images, and the reverse",
    ),
    "memorisation": Metric(
        {"c_t": "neither", "nearer": "neither", "duplicates": "lower"}, frozenset({FEATURES}), _memorisation,
        "are samples nearer to training images than unseen ones are? C_T below -3 says copies; nearer is 0.5 by chance",
        floor=False,
    ),
}  # fmt: skip
FAMILY = {value: name for name, metric in METRICS.items() for value in metric.values}
DEFAULT = ("fd", "kd", "pr", "dc")


def families(names: Sequence[str]) -> list[str]:
    """The metrics that a user names by family ("pr") or by number ("recall"); UserError names the nearest."""
    found = []
    for name in names:
        if name not in METRICS and name not in FAMILY:
            raise unknown("metric", name, [*METRICS, *FAMILY])
        found.append(name if name in METRICS else FAMILY[name])
    return list(dict.fromkeys(found))


def called(value: str, extractor: Extractor | None) -> str:
    """How a number is called: the extractor is named with it, except for FID, KID and IS of the published 2015 network.

    That is: its file by name or hash, with its own resize. Anything else is no FID.
    """
    if extractor is None:  # no features in it
        return value.upper() if value == "swd" else value
    official = extractor.name == "inception-2015" and extractor.resize == "tf"
    source = extractor.source
    if official and ("2015-12-05" in source.get("file", "") or source.get("sha256", "").startswith(KNOWN)):
        short = {"fd": "FID", "kd": "KID", "is": "IS", "fd-infinity": "FID-infinity"}
        if value in short:
            return short[value]
    return f"{value.upper() if value in ('fd', 'kd', 'is') else value}[{extractor.name}]"


# ---- collecting
def collect(
    judged: Judged,
    n: int,
    seed: int,
    extractor: Extractor | None,
    needs: frozenset[str],
    progress: Progress | None = None,
    *,
    distributed: bool = False,
) -> Collected:
    """What the metrics need of n images, each passed through the extractor once.

    distributed: every process takes its share of the chunks, and all get everything.
    """
    from saddlepoint import distributed as processes

    share = (processes.rank(), processes.world_size()) if distributed else (0, 1)
    chunks: dict[int, dict[str, NDArray[Any]]] = {}
    store = _Store()
    done = 0
    for position, (images, labels) in enumerate(judged.chunks(n, seed, share=share)):
        index = position * share[1] + share[0]
        found: dict[str, NDArray[Any]] = {}
        if extractor is not None and LOGITS in needs:
            for name, tensor in zip((FEATURES, LOGITS), extractor.both(images), strict=True):
                found[name] = tensor.cpu().numpy()
        elif extractor is not None and FEATURES in needs:
            found[FEATURES] = extractor(images).cpu().numpy()
        if PIXELS in needs:
            found[PIXELS] = ((images + 1) * 127.5).round().clamp(0, 255).byte().cpu().numpy()
        if labels is not None:
            found[LABELS] = labels.cpu().numpy()
        if share[1] > 1:
            chunks[index] = found
        else:
            store.append(found, n)
        done += len(images) * share[1]
        if progress:
            progress(f"features of {judged.name}" if extractor else judged.name, min(done, n), n)
    if share[1] > 1:
        for everyone in processes.gathered(chunks):
            chunks |= everyone
        for index in sorted(chunks):
            store.append(chunks[index], n)
    return store.collected()


class _Store:
    """Rows that grow: in memory, or beyond SPILL bytes in a temporary file."""

    def __init__(self) -> None:
        self.arrays: dict[str, NDArray[Any]] = {}
        self.filled: dict[str, int] = {}
        self.files: list[Any] = []

    def append(self, rows: Mapping[str, NDArray[Any]], n: int) -> None:
        for name, part in rows.items():
            if name not in self.arrays:
                shape = (n, *part.shape[1:])
                if math.prod(shape) * part.itemsize > SPILL:
                    file = tempfile.TemporaryFile()  # noqa: SIM115 - lives as long as the array
                    self.files.append(file)
                    self.arrays[name] = np.memmap(file, part.dtype, "w+", shape=shape)
                else:
                    self.arrays[name] = np.empty(shape, part.dtype)
                self.filled[name] = 0
            start = self.filled[name]
            self.arrays[name][start : start + len(part)] = part
            self.filled[name] = start + len(part)

    def collected(self) -> Collected:
        return Collected(**{name: array[: self.filled[name]] for name, array in self.arrays.items()})


def of_reference(
    images: Images, extractor: Extractor | None, needs: frozenset[str], progress: Progress | None = None
) -> Collected:
    """What the metrics need of real images; features and logits come from the cache where they were computed before."""
    wanted = needs & {FEATURES, LOGITS}
    if extractor is None or not wanted:
        return collect(images, len(images), 0, None, needs, progress)
    kept = {name: _cached(images, extractor, name) for name in wanted}
    if any(array is None for array in kept.values()):
        found = collect(images, len(images), 0, extractor, wanted, progress)
        kept = {name: getattr(found, name) for name in wanted}
        for name, array in kept.items():
            if array is not None:
                _keep(images, extractor, name, array)
    rest = collect(images, len(images), 0, None, needs - wanted, None) if needs - wanted else Collected()
    return Collected(kept.get(FEATURES), kept.get(LOGITS), rest.pixels, images.labels())


def _place(images: Images, extractor: Extractor, name: str) -> Path:
    from saddlepoint.data.named import cache_folder

    key = f"{FORMAT} {images.digest()} {extractor.identity} {extractor.resize} {name}"
    return cache_folder() / "features" / f"{hashlib.sha256(key.encode()).hexdigest()[:32]}.npy"


def _cached(images: Images, extractor: Extractor, name: str) -> NDArray[np.float32] | None:
    path = _place(images, extractor, name)
    try:
        found: NDArray[np.float32] = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError):
        return None
    return found if len(found) == len(images) else None


def _keep(images: Images, extractor: Extractor, name: str, array: NDArray[np.float32]) -> None:
    import io

    from saddlepoint.runs import write_bytes

    path = _place(images, extractor, name)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        buffer = io.BytesIO()
        np.save(buffer, np.asarray(array))
        write_bytes(path, buffer.getvalue())
    except (OSError, UserError):  # a cache that cannot be written costs time, not the result
        return


# ---- the whole
@dataclass(frozen=True)
class Against:
    """Real images, split: what is judged is held against `reference`; `held_out` gives the floor."""

    reference: Images
    held_out: Images

    @classmethod
    def split(cls, images: Images, n: int, reference: int = 0) -> Against:
        """held_out: min(n, a half); reference: all others, or as many of them as asked for."""
        if len(images) < 20:
            raise UserError(f"{images.name} has {len(images)} images; scores need at least 20 real ones.")
        held = min(n, len(images) // 2)
        left = len(images) - held
        if reference > left:
            raise UserError(
                f"--reference {reference:,}: {images.name} has {len(images):,} images, of which {held:,} are kept out "
                f"of the reference for the floor; at most {left:,}, or fewer samples."
            )
        return cls(images.part(held, reference or left), images.part(0, held))


def evaluate(
    judged: Judged,
    against: Against,
    metrics: Sequence[str] = DEFAULT,
    extractor: Extractor | None = None,
    *,
    n: int = 0,
    seed: int = 0,
    floor: bool = True,
    unseen: Images | None = None,
    progress: Progress | None = None,
    distributed: bool = False,
) -> Evaluation:
    """Scores of n images of `judged` (0: as many as there are held-out real ones) against real ones.

    metrics: names of METRICS or of their numbers. extractor: for metrics that need features. floor: measure real
    against real as well. Raises UserError for unknown metrics, too few images, a missing extractor.
    """
    started = time.perf_counter()
    chosen = families(metrics)
    needs = frozenset().union(*(METRICS[name].needs for name in chosen))
    if needs & {FEATURES, LOGITS} and extractor is None:
        raise UserError(f"{', '.join(chosen)} need features: give an extractor.")
    limit = judged.limit()
    n = n or min(len(against.held_out), limit or len(against.held_out))
    if limit is not None and n > limit:
        raise UserError(f"{judged.name} has {limit:,} images; {n:,} are wanted.")
    if n < 20:
        raise UserError(f"{judged.name}: {n} images are too few for scores; at least 20.")
    reference = of_reference(against.reference, extractor, needs, progress)
    found = collect(judged, n, seed, extractor, needs, progress, distributed=distributed)
    held = of_reference(against.held_out, extractor, needs, progress) if floor else None
    others = of_reference(unseen, extractor, needs, progress) if unseen is not None else None
    record = {
        **(extractor.provenance() if extractor is not None and needs & {FEATURES, LOGITS} else {}),
        "samples": n,
        "reference": f"{against.reference.name}: {len(against.reference):,} images",
        "reference_pixels": against.reference.digest(),
        "chunk": CHUNK,
        "seed": seed,
        "floor_samples": len(against.held_out),
    }
    scores: dict[str, Score] = {}
    for name in chosen:
        metric = METRICS[name]
        tell = None if progress is None else telling(progress, name)
        values = metric.compute(Given(reference, found, seed, tell, others))
        floors = metric.compute(Given(reference, held, seed, tell)) if held is not None and metric.floor else {}
        for value, better in metric.values.items():
            label = called(value, extractor if metric.needs & {FEATURES, LOGITS} else None)
            scores[label] = Score(
                label, float(values[value]), _error(values[value]),
                float(floors.get(value, math.nan)), _error(floors.get(value)), better, {**record, "metric": value},
            )  # fmt: skip
    whole = {**record, "judged": dict(judged.identity)}
    return Evaluation(judged.name, scores, whole, time.perf_counter() - started)


def _error(value: Any) -> float:
    found = getattr(value, "standard_error", None)
    return math.nan if found is None else float(found)


def telling(progress: Progress, name: str) -> Callable[[int, int], None]:
    """Progress of one metric as progress of the whole."""
    return lambda done, of: progress(name, done, of)
