"""How good a generator is, in numbers: one module per family of measures.

On features [N, D], reference first:
Frechet distance, streaming moments, FID-infinity    frechet_distance, Moments, frechet_infinity       frechet
Kernel distances                                     kernel_distance, cmmd                             kernel
Fidelity and variety                                 precision_recall, density_coverage, manifolds     neighbours
Classifiers                                          inception_score, two_sample_test, gan_train_test  (three modules)
Sliced distances                                     sliced_wasserstein, laplacian_swd                 sliced
Copies of training data                              copying_test, duplicates, nearest_neighbours      memorisation
Intervals and floors of any metric                   interval, floor                                   uncertainty
On images: psnr, ssim, ms_ssim, ms_ssim_diversity (similarity), lpips, perceptual_distance (perceptual); on a generator:
path_length (paths). Features of images: features (extractors). Mixtures with known centres: mode_coverage (modes).

Names are imported when they are asked for: the package itself loads nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

_NAMES = {
    "arrays": ("Estimate",),
    "classes": ("inception_score",),
    "extractors": ("features",),
    "frechet": (
        "FrechetInfinity",
        "Moments",
        "frechet_distance",
        "frechet_from_moments",
        "frechet_infinity",
    ),
    "kernel": (
        "cmmd",
        "kernel_distance",
    ),
    "labelled": (
        "LabelledScore",
        "gan_train_test",
    ),
    "memorisation": (
        "CopyingTest",
        "Duplicates",
        "copying_test",
        "duplicates",
    ),
    "modes": (
        "ModeCoverage",
        "expected_share",
        "mode_coverage",
    ),
    "neighbours": (
        "DensityCoverage",
        "Manifolds",
        "Neighbours",
        "PrecisionRecall",
        "density_coverage",
        "manifolds",
        "nearest_neighbours",
        "precision_recall",
    ),
    "paths": ("path_length",),
    "perceptual": (
        "lpips",
        "perceptual_distance",
    ),
    "similarity": (
        "ms_ssim",
        "ms_ssim_diversity",
        "psnr",
        "ssim",
    ),
    "sliced": (
        "LaplacianSWD",
        "laplacian_swd",
        "sliced_wasserstein",
    ),
    "two_sample": (
        "TwoSample",
        "two_sample_test",
    ),
    "uncertainty": (
        "Interval",
        "floor",
        "interval",
    ),
}
_HOME = {name: module for module, names in _NAMES.items() for name in names}
__all__ = [
    "CopyingTest",
    "DensityCoverage",
    "Duplicates",
    "Estimate",
    "FrechetInfinity",
    "Interval",
    "LabelledScore",
    "LaplacianSWD",
    "Manifolds",
    "ModeCoverage",
    "Moments",
    "Neighbours",
    "PrecisionRecall",
    "TwoSample",
    "cmmd",
    "copying_test",
    "density_coverage",
    "duplicates",
    "expected_share",
    "features",
    "floor",
    "frechet_distance",
    "frechet_from_moments",
    "frechet_infinity",
    "gan_train_test",
    "inception_score",
    "interval",
    "kernel_distance",
    "laplacian_swd",
    "lpips",
    "manifolds",
    "mode_coverage",
    "ms_ssim",
    "ms_ssim_diversity",
    "nearest_neighbours",
    "path_length",
    "perceptual_distance",
    "precision_recall",
    "psnr",
    "sliced_wasserstein",
    "ssim",
    "two_sample_test",
]

if TYPE_CHECKING:
    from saddlepoint.metrics.arrays import Estimate
    from saddlepoint.metrics.classes import inception_score
    from saddlepoint.metrics.extractors import features
    from saddlepoint.metrics.frechet import (
        FrechetInfinity,
        Moments,
        frechet_distance,
        frechet_from_moments,
        frechet_infinity,
    )
    from saddlepoint.metrics.kernel import cmmd, kernel_distance
    from saddlepoint.metrics.labelled import LabelledScore, gan_train_test
    from saddlepoint.metrics.memorisation import CopyingTest, Duplicates, copying_test, duplicates
    from saddlepoint.metrics.modes import ModeCoverage, expected_share, mode_coverage
    from saddlepoint.metrics.neighbours import (
        DensityCoverage,
        Manifolds,
        Neighbours,
        PrecisionRecall,
        density_coverage,
        manifolds,
        nearest_neighbours,
        precision_recall,
    )
    from saddlepoint.metrics.paths import path_length
    from saddlepoint.metrics.perceptual import lpips, perceptual_distance
    from saddlepoint.metrics.similarity import ms_ssim, ms_ssim_diversity, psnr, ssim
    from saddlepoint.metrics.sliced import LaplacianSWD, laplacian_swd, sliced_wasserstein
    from saddlepoint.metrics.two_sample import TwoSample, two_sample_test
    from saddlepoint.metrics.uncertainty import Interval, floor, interval


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
