"""Kernel distances against double sums, torchmetrics, and what unbiased means; the Inception score's closed forms."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from saddlepoint.metrics import cmmd, inception_score, kernel_distance


def double_sum(x: Any, y: Any, kernel: Any, biased: bool = False) -> float:
    """MMD^2 pair by pair."""
    xx, yy, xy = ([[kernel(a, b) for b in q] for a in p] for p, q in ((x, x), (y, y), (x, y)))
    total = 0.0
    for k in (xx, yy):
        n = len(k)
        pairs = [k[i][j] for i in range(n) for j in range(n) if biased or i != j]
        total += sum(pairs) / len(pairs)
    return total - 2 * float(np.mean(xy))


def cubic(a: Any, b: Any) -> float:
    return float((a @ b / len(a) + 1) ** 3)


def draw(seed: int, n: int, m: int, d: int, shift: float = 0.3) -> tuple[Any, Any]:
    rng = np.random.default_rng(seed)
    return rng.normal(size=(n, d)), rng.normal(size=(m, d)) + shift


@pytest.mark.parametrize("biased", [False, True])
def test_full_estimate_equals_the_double_sum(biased: bool) -> None:
    x, y = draw(0, 23, 31, 5)
    assert kernel_distance(x, y, biased=biased) == pytest.approx(double_sum(x, y, cubic, biased), rel=1e-10)
    quartic = kernel_distance(x, y, degree=4, gamma=0.7, coef=0.2, biased=biased)
    assert quartic == pytest.approx(double_sum(x, y, lambda a, b: (0.7 * a @ b + 0.2) ** 4, biased), rel=1e-10)
    linear = kernel_distance(x, y, degree=1, gamma=1.0, coef=0.0, biased=True)
    assert linear == pytest.approx(float(((x.mean(0) - y.mean(0)) ** 2).sum()), rel=1e-10)


def test_blocks_meet_at_their_edges() -> None:
    """More rows than a block holds, in both orders."""
    x, y = draw(1, 1100, 2100, 3)
    k = [((a @ b.T) / 3 + 1) ** 3 for a, b in ((x, x), (y, y), (x, y))]
    expected = sum((v.sum() - np.trace(v)) / (len(v) * (len(v) - 1)) for v in k[:2]) - 2 * k[2].mean()
    assert kernel_distance(x, y) == pytest.approx(expected, rel=1e-9)
    assert kernel_distance(x.astype("f"), y.astype("f")) == pytest.approx(expected, rel=1e-4)


def test_whole_subsets_agree_with_torchmetrics_and_blocks() -> None:
    from torchmetrics.image.kid import poly_mmd

    x, y = draw(2, 64, 64, 8)
    expected = float(poly_mmd(torch.from_numpy(x), torch.from_numpy(y)))
    assert kernel_distance(x, y) == pytest.approx(expected, rel=1e-9)
    whole = kernel_distance(x, y, estimator="subset", subset_size=64, subsets=3)
    assert whole == pytest.approx(expected, rel=1e-9) and whole.standard_error == pytest.approx(0, abs=1e-12)
    halves = kernel_distance(x, y, estimator="block", subset_size=32)
    assert len(halves.parts) == 2
    assert kernel_distance(x, y, estimator="block", subset_size=64, biased=True) == pytest.approx(
        float(kernel_distance(x, y, biased=True)), rel=1e-9
    )


def test_unbiased_and_its_error_is_honest() -> None:
    """Over many draws of one distribution the mean is 0, values fall below 0, and the spread is what was claimed."""
    same = [kernel_distance(*draw(seed, 60, 80, 4, shift=0)) for seed in range(300)]
    spread = np.std(same)
    assert abs(np.mean(same)) < 4 * spread / np.sqrt(300) and min(same) < 0
    blocks = [kernel_distance(*draw(s, 200, 200, 4), estimator="block", subset_size=25) for s in range(150)]
    claimed = np.sqrt(np.mean([b.standard_error**2 for b in blocks]))
    assert claimed == pytest.approx(np.std(blocks), rel=0.2)
    apart = [kernel_distance(*draw(s, 200, 200, 4, shift=1.0)) for s in range(150)]
    assert np.mean([v.standard_error for v in apart]) == pytest.approx(np.std(apart), rel=0.25)


def test_subsets_have_the_full_estimate_as_their_mean() -> None:
    x, y = draw(3, 150, 150, 6)
    found = kernel_distance(x, y, estimator="subset", subset_size=40, subsets=400)
    assert abs(found - kernel_distance(x, y)) < 4 * found.standard_error
    assert found == kernel_distance(x, y, estimator="subset", subset_size=40, subsets=400)


@settings(max_examples=20)
@given(seed=st.integers(0, 10**6))
def test_invariances(seed: int) -> None:
    x, y = draw(seed, 20, 30, 5)
    rng = np.random.default_rng(seed)
    rotation = np.linalg.qr(rng.normal(size=(5, 5)))[0]
    d = kernel_distance(x, y)
    assert kernel_distance(y, x) == pytest.approx(d, abs=1e-10)
    assert kernel_distance(x[rng.permutation(20)] @ rotation, y @ rotation) == pytest.approx(d, abs=1e-10)
    assert cmmd(x @ rotation + 5, y @ rotation + 5) == pytest.approx(float(cmmd(x, y)), abs=1e-8)


# --------------------------------------------------------------------------------------------------------------- CMMD
def test_cmmd_by_double_sum_and_zero_on_itself() -> None:
    x, y = draw(4, 21, 34, 6, shift=3)

    def gaussian(a: Any, b: Any) -> float:
        return float(np.exp(-((a - b) @ (a - b)) / 200))

    assert cmmd(x, y) == pytest.approx(1000 * double_sum(x, y, gaussian, biased=True), rel=1e-9)
    assert cmmd(x, x) == 0 and cmmd(x, x[::-1]) == pytest.approx(0, abs=1e-9)
    assert cmmd(x, x + 1e-3) > 0
    unit = [v / np.linalg.norm(v, axis=1, keepdims=True) for v in draw(5, 300, 300, 64)]
    assert cmmd(*(v.astype("f") for v in unit)) == pytest.approx(float(cmmd(*unit)), abs=1e-4)


# ---------------------------------------------------------------------------------------------------- Inception score
def test_score_of_even_one_hot_classes_is_their_number_and_of_one_answer_is_one() -> None:
    logits = 1e4 * np.eye(7)[np.arange(70) % 7]
    assert inception_score(logits, 1) == pytest.approx(7, rel=1e-12)
    assert inception_score(logits, 10) == pytest.approx(7, rel=1e-12)
    assert inception_score(np.tile([3.0, 1.0, -2.0], (50, 1))) == pytest.approx(1, rel=1e-12)
    assert inception_score(np.tile([1e30, -1e30], (50, 1))) == pytest.approx(1, rel=1e-12)


def test_score_agrees_with_torchmetrics_and_stays_in_bounds() -> None:
    from torchmetrics.image.inception import InceptionScore

    logits = np.random.default_rng(0).normal(size=(500, 12)) * 3
    network = torch.nn.Flatten()
    metric = InceptionScore(feature=network, splits=1)
    metric.update(torch.from_numpy(logits).view(500, 12, 1, 1))
    found = inception_score(logits, 1)
    assert found == pytest.approx(float(metric.compute()[0]), rel=1e-6) and 1 < found < 12
    shuffled = inception_score(logits, 5, seed=3)
    assert shuffled.standard_error == pytest.approx(np.std(shuffled.parts, ddof=1) / np.sqrt(5))
    assert inception_score(logits + 5, 5) == pytest.approx(float(inception_score(logits, 5)))  # softmax ignores it


def test_splits_are_the_official_ones() -> None:
    logits = np.random.default_rng(1).normal(size=(23, 4))
    p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    expected = []
    for i in range(5):
        part = p[i * 23 // 5 : (i + 1) * 23 // 5]
        expected.append(np.exp((part * (np.log(part) - np.log(part.mean(0)))).sum(1).mean()))
    assert inception_score(logits, 5).parts == pytest.approx(expected)
