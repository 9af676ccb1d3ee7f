"""What every measure refuses, and in which words; what it takes in any form."""

from __future__ import annotations

import pickle
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from saddlepoint import metrics
from saddlepoint.errors import UserError
from saddlepoint.metrics import arrays

Measure = Callable[[Any, Any], Any]
MEASURES: dict[str, Measure] = {
    "frechet_distance": metrics.frechet_distance,
    "kernel_distance": metrics.kernel_distance,
    "cmmd": metrics.cmmd,
    "precision_recall": metrics.precision_recall,
    "density_coverage": metrics.density_coverage,
    "sliced_wasserstein": metrics.sliced_wasserstein,
    "two_sample_test": lambda x, y: metrics.two_sample_test(x, y).accuracy,
    "nearest_neighbours": lambda x, y: metrics.nearest_neighbours(y, x).distance.sum(),
    "interval": lambda x, y: metrics.interval(metrics.frechet_distance, x, y, repeats=2).value,
}
every = pytest.mark.parametrize("measure", MEASURES.values(), ids=MEASURES)
rng = np.random.default_rng(0)
X, Y = rng.normal(size=(60, 7)), rng.normal(size=(50, 7)) + 0.3


@every
def test_nan_is_counted_and_placed(measure: Measure) -> None:
    bad = Y.copy()
    bad[[17, 30], 3] = np.nan
    bad[31, 0] = np.inf
    with pytest.raises(UserError, match=r"y holds NaN or infinite values in 3 of 50 rows, the first in row 17"):
        measure(X, bad)


@every
def test_other_things_than_features_are_told_apart(measure: Measure) -> None:
    with pytest.raises(UserError, match=r"x has 7 features and y 6"):
        measure(X, Y[:, :6])
    with pytest.raises(UserError, match=r"uint8, as images or labels do"):
        measure(X, np.zeros((50, 7), np.uint8))
    with pytest.raises(UserError, match=r"shape \[4, 3, 8, 8\].*take features of images first"):
        measure(X, np.zeros((4, 3, 8, 8)))
    with pytest.raises(UserError, match=r"y has shape \[0, 7\]"):
        measure(X, Y[:0])
    with pytest.raises(UserError, match=r"x is list of"):
        measure([["a", "b"]], Y)


@every
def test_a_constant_reference_is_refused_and_a_collapsed_generator_is_scored(measure: Measure) -> None:
    with pytest.raises(UserError, match=r"x has the same features in all 60 rows"):
        measure(np.ones((60, 7)), Y)
    assert np.isfinite(np.asarray(measure(X, np.ones((50, 7))))).all()


@every
def test_memory_order_precision_and_kind_of_array_do_not_matter(measure: Measure) -> None:
    expected = np.asarray(measure(X, Y), np.float64)
    read_only = Y[::-1][::-1].copy()
    read_only.setflags(write=False)
    forms: list[tuple[Any, Any]] = [
        (np.asfortranarray(X), np.asfortranarray(Y)),
        (torch.from_numpy(X), Y),
        (torch.from_numpy(X).requires_grad_(), torch.from_numpy(Y.T.copy()).T),
        (X, read_only),
        (X.astype(">f8"), np.repeat(Y, 2, axis=0)[::2]),
    ]
    for x, y in forms:
        assert np.asarray(measure(x, y), np.float64) == pytest.approx(expected, rel=1e-12)
    single = np.asarray(measure(X.astype(np.float32), Y.astype(np.float32)), np.float64)
    assert single == pytest.approx(expected, rel=2e-4, abs=2e-6)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: metrics.frechet_distance(X[:1], Y), "x has 1 sample; this measure needs at least 2"),
        (lambda: metrics.kernel_distance(X, Y[:1]), "y has 1 sample; this measure needs at least 2"),
        (lambda: metrics.kernel_distance(X, Y, estimator="subset", subset_size=51), "at most that"),
        (lambda: metrics.precision_recall(X[:3], Y, k=3), "k is 3 and x has 3 samples"),
        (lambda: metrics.precision_recall(X, Y[:3], k=3), "k is 3 and y has 3 samples"),
        (lambda: metrics.density_coverage(X[:5], Y, k=5), "k is 5 and x has 5 samples"),
        (lambda: metrics.density_coverage(X, Y, k=0), "k is 0"),
        (lambda: metrics.inception_score(X[:9], 10), "logits has 9 samples"),
        (lambda: metrics.inception_score(X[:, :1], 1), "at least 2"),
        (lambda: metrics.two_sample_test(X[:7], Y), "x has 7 samples"),
        (lambda: metrics.two_sample_test(X, Y, "logistc"), "did you mean 'logistic'"),  # type: ignore[arg-type]
        (lambda: metrics.nearest_neighbours(Y, X, k=61), "60 distinct samples"),
        (lambda: metrics.frechet_infinity(X, Y, points=60), "too few for 60 counts"),
        (lambda: metrics.floor(metrics.frechet_distance, X, (31, 30)), "31 \\+ 30 samples and real has 60"),
        (lambda: metrics.interval(metrics.precision_recall, X, Y), "expected one number"),
        (lambda: metrics.cmmd(X, Y, sigma=0), "sigma is 0"),
        (lambda: metrics.frechet_distance(1e200 * X, Y), "overflows"),
        (lambda: metrics.kernel_distance(1e150 * X, Y), "overflows"),
        (lambda: metrics.precision_recall(1e30 * X, Y), "overflow"),
        (lambda: metrics.Moments(10**7), "GiB"),
    ],
)
def test_one_image_too_few_and_other_refusals(call: Callable[[], Any], words: str) -> None:
    with pytest.raises(UserError, match=words):
        call()


def test_one_image_more_is_enough() -> None:
    metrics.frechet_distance(X[:2], Y[:2])
    metrics.kernel_distance(X[:2], Y[:2])
    metrics.precision_recall(X[:4], Y[:4], k=3)
    metrics.density_coverage(X[:6], Y[:1], k=5)
    metrics.inception_score(X[:10], 10)
    metrics.two_sample_test(X[:8], Y[:8])


@pytest.mark.parametrize(
    "measure",
    [
        metrics.frechet_distance,
        metrics.kernel_distance,
        metrics.precision_recall,
        metrics.density_coverage,
        metrics.sliced_wasserstein,
    ],
)
def test_progress_counts_up_to_its_total(measure: Callable[..., Any]) -> None:
    seen: list[tuple[int, int]] = []
    x, y = np.random.default_rng(1).normal(size=(2, 2500, 3))
    measure(x, y, progress=lambda done, of: seen.append((done, of)))
    assert seen[-1][0] == seen[-1][1]
    last = [of for _, of in seen]
    assert all(0 < done <= of for done, of in seen) and len(set(last)) == 1


def test_an_estimate_is_a_float_that_knows_its_error() -> None:
    found = arrays.mean_of([1.0, 2.0, 3.0], "three numbers")
    assert found == 2.0 and found.value + 1 == 3 and found.standard_error == pytest.approx(1 / np.sqrt(3))
    again = pickle.loads(pickle.dumps(found))
    assert (again, again.parts, again.method) == (2.0, (1.0, 2.0, 3.0), "three numbers")
    assert repr(found) == "2 ± 0.58 (three numbers)" and f"{found:.1f}" == "2.0"


def test_the_package_loads_nothing_until_it_is_asked() -> None:
    code = (
        "import sys, saddlepoint.metrics as m; assert not {'torch', 'numpy', 'scipy'} & set(sys.modules);"
        "m.inception_score; from saddlepoint.metrics import inception_score; assert callable(inception_score);"
        "assert not {'sklearn', 'matplotlib', 'scipy.stats'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_no_module_hides_a_name() -> None:
    modules = set(metrics._NAMES)
    assert not modules & set(metrics.__all__)
    assert sorted(metrics.__all__) == sorted(metrics._HOME)
