"""saddlepoint.metrics beside the established libraries, in one run, on the same features and images.

    OMP_NUM_THREADS=1 python benchmarks/metrics.py [--only NAME ...] [--scale 1.0] [--repeats 3] [--json FILE]

Problems, at scale 1:
    manifolds   precision, recall, density, coverage of 10,000 x 2,048 float32 features, k = 5   prdc
    trace       the Frechet distance of 2,048-dimensional covariances, of spectra that fall
                over four decades, and of 4,096 features                                         scipy.linalg.sqrtm
    moments     covariance of 10,000 x 2,048 float32 features, streamed                          numpy.cov
    kid         30 subsets of 1,000 of 2,048 features                                            torchmetrics
    is          Inception score of 20,000 x 1,008 logits, 10 splits                              torchmetrics
    ssim        64 pairs of 3 x 64 x 64 images, and 8 of 3 x 256 x 256                           torchmetrics
    ms-ssim     8 pairs of 3 x 256 x 256 images                                                  torchmetrics
    sliced      10,000 x 256 features, 100 directions, p = 2                                     POT

Every side runs in a forked process of its own, which draws the same data from a seed, warms up on a fiftieth of it, and
repeats (once only where one call takes over ten CPU seconds); reported are the least CPU seconds of all its threads,
and the peak of resident memory above what was in use before the call. Rows are stored as they come: `--json` with
`--only` adds to a file. A ratio above 1 says how much less CPU time saddlepoint takes. Values stand beside, to as many
digits as they should agree. Features are low-dimensional signal plus noise, as those of networks are.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import io
import json
import multiprocessing
import os
import platform
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

Call = Callable[[], Any]


def features(n: int, d: int, seed: int, shift: float = 0.0) -> np.ndarray:
    """[n, d] float32: 64 directions of falling strength, rectified, plus noise."""
    mix = np.random.default_rng(99).normal(size=(min(64, d), d)).astype(np.float32)
    rng = np.random.default_rng(seed)
    code = rng.normal(size=(n, len(mix))).astype(np.float32) * (np.arange(1, len(mix) + 1) ** -0.5).astype(np.float32)
    return np.maximum((code + np.float32(shift)) @ mix / 4 + 0.05 * rng.normal(size=(n, d)).astype(np.float32), 0)


def covariances(d: int) -> tuple[np.ndarray, np.ndarray]:
    """Two full-rank covariances with spectra that fall over four decades."""
    found = []
    for seed in (0, 1):
        rng = np.random.default_rng(seed)
        root = rng.normal(size=(2 * d, d)) * np.logspace(0, -2, d)
        root = root @ (np.eye(d) + 0.5 * rng.normal(size=(d, d)) / np.sqrt(d))
        found.append(root.T @ root / len(root))
    return found[0], found[1]


def images(n: int, side: int) -> tuple[Any, Any]:
    import torch

    x = torch.rand(n, 3, side, side, generator=torch.Generator().manual_seed(0)) * 2 - 1
    x = torch.nn.functional.avg_pool2d(x, 5, 1, 2)
    return x, (x + 0.1 * torch.randn(x.shape, generator=torch.Generator().manual_seed(1))).clamp(-1, 1)


# --------------------------------------------------------------------------------------------------------- the problems
def manifolds(side: str, scale: float) -> Call:
    n = int(10_000 * scale)
    x, y = features(n, 2048, 0), features(n, 2048, 1, 0.1)
    if side == "saddlepoint":
        from saddlepoint.metrics import manifolds as ours

        return lambda: [round(v, 4) for v in ours(x, y, 5)]
    from prdc import compute_prdc

    def theirs() -> Any:
        with contextlib.redirect_stdout(io.StringIO()):
            found = compute_prdc(x, y, 5)
        return [round(float(found[k]), 4) for k in ("precision", "recall", "density", "coverage")]

    return theirs


def trace(side: str, scale: float) -> Call:
    return _trace(side, *covariances(int(2048 * scale)))


def trace_of_features(side: str, scale: float) -> Call:
    d = int(2048 * scale)
    return _trace(side, *(np.cov(features(2 * d, d, seed, 0.1 * seed), rowvar=False) for seed in (0, 1)))


def _trace(side: str, a: np.ndarray, b: np.ndarray) -> Call:
    total = float(np.trace(a) + np.trace(b))
    if side == "saddlepoint":
        from saddlepoint.metrics.frechet import trace_of_root

        return lambda: round(total - 2 * trace_of_root(a, b), 5)
    from scipy.linalg import sqrtm

    return lambda: round(total - 2 * float(np.trace(sqrtm(a @ b)).real), 5)


def moments(side: str, scale: float) -> Call:
    x = features(int(10_000 * scale), 2048, 0)
    if side == "saddlepoint":
        from saddlepoint.metrics import Moments

        return lambda: round(float(np.trace(Moments.of(x).covariance())), 6)
    return lambda: round(float(np.trace(np.cov(x, rowvar=False))), 6)


def kid(side: str, scale: float) -> Call:
    n, subsets = int(1000 * scale), 30
    x, y = features(2 * n, 2048, 0), features(2 * n, 2048, 1, 0.1)
    if side == "saddlepoint":
        from saddlepoint.metrics import kernel_distance

        return lambda: round(float(kernel_distance(x, y, estimator="subset", subset_size=n, subsets=subsets)), 4)
    import torch
    from torchmetrics.image.kid import KernelInceptionDistance

    metric = KernelInceptionDistance(feature=torch.nn.Identity(), subsets=subsets, subset_size=n)
    metric.real_features, metric.fake_features = [torch.from_numpy(x)], [torch.from_numpy(y)]
    return lambda: round(_fresh(metric), 4)


def _fresh(metric: Any) -> float:
    """Computed anew: torchmetrics remembers."""
    metric._computed = None
    return float(metric.compute()[0])


def inception(side: str, scale: float) -> Call:
    logits = features(int(20_000 * scale), 1008, 0) * 4
    if side == "saddlepoint":
        from saddlepoint.metrics import inception_score

        return lambda: round(float(inception_score(logits, 10)), 3)
    import torch
    from torchmetrics.image.inception import InceptionScore

    metric = InceptionScore(feature=torch.nn.Identity(), splits=10)
    metric.features = [torch.from_numpy(logits)]
    return lambda: round(_fresh(metric), 3)


def similarity(side: str, n: int, size: int, *, scales: bool) -> Call:
    x, y = images(n, size)
    if side == "saddlepoint":
        from saddlepoint import metrics

        ours = metrics.ms_ssim if scales else metrics.ssim
        return lambda: round(ours(x, y, border="reflect"), 5)
    from torchmetrics.functional import image

    theirs = (
        image.multiscale_structural_similarity_index_measure if scales else image.structural_similarity_index_measure
    )
    return lambda: round(float(theirs(x, y, data_range=2.0)), 5)


def sliced(side: str, scale: float) -> Call:
    n = int(10_000 * scale)
    x, y = features(n, 256, 0), features(n, 256, 1, 0.1)
    theta = np.random.default_rng(2).normal(size=(256, 100)).astype(np.float32)
    theta /= np.linalg.norm(theta, axis=0)
    if side == "saddlepoint":
        from saddlepoint.metrics import sliced_wasserstein

        return lambda: round(float(sliced_wasserstein(x, y, directions=theta, p=2)), 5)
    import ot

    return lambda: round(float(ot.sliced_wasserstein_distance(x, y, projections=theta, p=2)), 5)


PROBLEMS: dict[str, tuple[str, Callable[[str, float], Call]]] = {
    "manifolds": ("prdc", manifolds),
    "trace": ("scipy sqrtm", trace),
    "trace, features": ("scipy sqrtm", trace_of_features),
    "moments": ("numpy.cov", moments),
    "kid": ("torchmetrics", kid),
    "is": ("torchmetrics", inception),
    "ssim 64": ("torchmetrics", lambda side, scale: similarity(side, max(1, int(64 * scale)), 64, scales=False)),
    "ssim 256": ("torchmetrics", lambda side, scale: similarity(side, max(1, int(8 * scale)), 256, scales=False)),
    "ms-ssim 256": ("torchmetrics", lambda side, scale: similarity(side, max(1, int(8 * scale)), 256, scales=True)),
    "sliced": ("POT", sliced),
}


# ------------------------------------------------------------------------------------------------------- the measuring
def resident_bytes(field: str) -> int:
    """VmRSS or VmHWM of this process, in bytes (Linux)."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field):
            return int(line.split()[1]) * 1024
    raise RuntimeError(f"no {field} in /proc/self/status")


def measured(name: str, side: str, scale: float, repeats: int, pipe: Any) -> None:
    """One side of one problem, in a process of its own."""
    make = PROBLEMS[name][1]
    make(side, 0.02)()
    call = make(side, scale)
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")  # forget the peak so far
    before, times = resident_bytes("VmRSS"), []
    value = None
    while len(times) < repeats and sum(times) < 10:
        began = time.process_time()
        value = call()
        times.append(time.process_time() - began)
    pipe.send({"value": value, "cpu_seconds": min(times), "peak_bytes": resident_bytes("VmHWM") - before})


def run(name: str, side: str, scale: float, repeats: int) -> dict[str, Any]:
    context = multiprocessing.get_context("fork")  # libraries are imported once, and shared
    here, there = context.Pipe(duplex=False)
    process = context.Process(target=measured, args=(name, side, scale, repeats, there))
    process.start()
    there.close()
    try:
        return dict(here.recv())
    except EOFError:
        raise SystemExit(f"{side} failed on {name!r}") from None
    finally:
        process.join()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=list(PROBLEMS), default=list(PROBLEMS))
    parser.add_argument("--scale", type=float, default=1.0, help="of the numbers of samples, or of dimensions in trace")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--json", type=Path, help="store the rows, e.g. benchmarks/results/metrics.json")
    chosen = parser.parse_args()
    for library in ("ot", "prdc", "scipy.linalg", "torchmetrics.functional.image", "torchmetrics.image"):
        importlib.import_module(library)
    warnings.simplefilter("ignore")
    print("| problem | beside | CPU s, theirs | CPU s, ours | ratio | peak MB, theirs | ours | value, theirs | ours |")
    print("|---|---|---|---|---|---|---|---|---|")
    for name in chosen.only:
        theirs, ours = (run(name, side, chosen.scale, chosen.repeats) for side in (PROBLEMS[name][0], "saddlepoint"))
        ratio = theirs["cpu_seconds"] / ours["cpu_seconds"]
        row = {"problem": name, "beside": PROBLEMS[name][0], "ratio": ratio, "theirs": theirs, "ours": ours}
        seconds = f"{theirs['cpu_seconds']:.3f} | {ours['cpu_seconds']:.3f} | {ratio:.1f}"
        memory = f"{theirs['peak_bytes'] / 1e6:.0f} | {ours['peak_bytes'] / 1e6:.0f}"
        print(
            f"| {name} | {PROBLEMS[name][0]} | {seconds} | {memory} | {theirs['value']} | {ours['value']} |", flush=True
        )
        if chosen.json:
            store(chosen.json, row, chosen)


def store(path: Path, row: dict[str, Any], chosen: argparse.Namespace) -> None:
    """Add a row to the file, in place of an older one of the same problem."""
    from importlib.metadata import version

    import torch

    from saddlepoint.runs import write_bytes

    packages = ("numpy", "scipy", "torch", "prdc", "torchmetrics", "POT")
    kept = json.loads(path.read_text())["rows"] if path.exists() else []
    rows = {old["problem"]: old for old in kept} | {row["problem"]: row}
    record = {
        "machine": f"{platform.machine()}, {torch.backends.cpu.get_cpu_capability()}",
        "threads": os.environ.get("OMP_NUM_THREADS", "all"),
        "repeats": chosen.repeats,
        "scale": chosen.scale,
        "versions": {name: version(name) for name in packages},
        "rows": [rows[name] for name in PROBLEMS if name in rows],
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    write_bytes(path, (json.dumps(record, indent=1) + "\n").encode())


if __name__ == "__main__":
    main()
