"""Precision, recall, density, coverage: prdc and double loops as oracles; ties, duplicates, lattices, far clusters."""

from __future__ import annotations

import contextlib
import io
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.distance import cdist

from saddlepoint.metrics import density_coverage, manifolds, nearest_neighbours, neighbours, precision_recall


def by_prdc(x: Any, y: Any, k: int) -> tuple[float, ...]:
    from prdc import compute_prdc

    with contextlib.redirect_stdout(io.StringIO()):
        found = compute_prdc(x.astype(np.float64), y.astype(np.float64), k)
    return tuple(float(found[name]) for name in ("precision", "recall", "density", "coverage"))


def by_hand(x: Any, y: Any, k: int) -> tuple[float, ...]:
    """All distances; closed balls for the first two, open ones for the others."""
    xx, yy, xy = (cdist(a, b, "sqeuclidean") for a, b in ((x, x), (y, y), (x, y)))
    r_x, r_y = np.sort(xx, axis=1)[:, k, None], np.sort(yy, axis=1)[:, k]
    open_ = xy < r_x
    return (xy <= r_x).any(0).mean(), (xy <= r_y).any(1).mean(), open_.sum() / k / len(y), open_.any(1).mean()


@pytest.mark.parametrize(
    ("n", "m", "d", "k", "dtype"),
    [(700, 900, 64, 5, "d"), (1100, 300, 2, 3, "d"), (300, 2200, 200, 5, "f"), (40, 50, 5, 10, "f"), (9, 9, 1, 7, "d")],
)
def test_equals_prdc(n: int, m: int, d: int, k: int, dtype: str) -> None:
    """No ties here, so open and closed balls agree. Sizes cross the edges of blocks."""
    rng = np.random.default_rng(n)
    x, y = rng.normal(size=(n, d)).astype(dtype), (0.9 * rng.normal(size=(m, d)) + 0.1).astype(dtype)
    expected = by_prdc(x, y, k)
    assert manifolds(x, y, k) == pytest.approx(expected, rel=1e-12)
    assert precision_recall(x, y, k) == pytest.approx(expected[:2], rel=1e-12)
    assert density_coverage(x, y, k) == pytest.approx(expected[2:], rel=1e-12)


def test_the_floor_of_one_distribution() -> None:
    """Coverage of equal distributions is 1 - 2^-k and density 1 in the mean; precision and recall below 1."""
    found = [manifolds(*np.random.default_rng(seed).normal(size=(2, 1000, 8)), k=5) for seed in range(8)]
    precision, recall, density, coverage = np.mean(found, axis=0)
    assert density == pytest.approx(1, abs=0.01) and coverage == pytest.approx(1 - 2**-5, abs=0.004)
    assert precision == pytest.approx(0.946, abs=0.012) and recall == pytest.approx(0.946, abs=0.012)


def test_all_generated_on_one_real_point() -> None:
    x = np.random.default_rng(0).normal(size=(500, 8))
    x[0] += 20  # in nobody else's ball
    y = np.tile(x[:1], (500, 1))
    assert precision_recall(x, y) == (1, 1 / 500)
    assert density_coverage(x, y, k=5) == (1 / 5, 1 / 500)


def test_balls_are_closed_for_precision_and_open_for_density() -> None:
    x, y = np.array([[0.0], [1.0], [2.0], [3.0]]), np.array([[4.0], [-1.0], [50.0]])
    # k = 1: all radii of x are 1; y = 4 and y = -1 lie on the edge of the balls of 3 and 0.
    assert precision_recall(x, y, k=1).precision == pytest.approx(2 / 3)
    assert density_coverage(x, y, k=1) == (0, 0)
    # radii of y are 5, 5, 46: every x is within 5 of a y.
    assert precision_recall(x, y, k=1).recall == 1


LATTICES = {
    "bits": lambda rng, n: rng.integers(0, 2, (n, 11)),
    "three values": lambda rng, n: rng.integers(0, 3, (n, 14)),
    "one-hot": lambda rng, n: np.eye(40)[rng.integers(0, 40, n)],
    "duplicates": lambda rng, n: rng.normal(size=(30, 5)).round(3)[rng.integers(0, 30, n)],
}


@pytest.mark.parametrize("name", LATTICES)
def test_ties_everywhere_are_counted_exactly(name: str) -> None:
    rng = np.random.default_rng(1)
    x, y = LATTICES[name](rng, 500).astype(np.float64), LATTICES[name](rng, 400).astype(np.float64)
    assert manifolds(x, y, 5) == pytest.approx(by_hand(x, y, 5), rel=1e-12)
    assert manifolds(x.astype("f"), np.concatenate([x, x]).astype("f"), 3) == pytest.approx(
        by_hand(*(v.astype("f").astype("d") for v in (x, np.concatenate([x, x]))), 3), rel=1e-12
    )


def test_tight_clusters_far_apart_survive_single_precision() -> None:
    """Distances inside a cluster are a millionth of its place: float32 alone would see noise."""
    rng = np.random.default_rng(2)
    centres = 1000 * rng.normal(size=(10, 50))
    x, y = (centres[rng.integers(0, 10, n)] + 1e-3 * rng.normal(size=(n, 50)) for n in (600, 500))
    assert manifolds(x, y, 5) == pytest.approx(by_hand(x, y, 5), rel=1e-12)


def test_bounds_hold_and_are_tight_enough() -> None:
    rng = np.random.default_rng(3)
    x, y = (torch.from_numpy(rng.normal(size=(n, 300)) * rng.uniform(0.01, 30, (n, 1))) for n in (200, 150))
    a, b = (neighbours.Cloud.of(v, x.mean(0)) for v in (x, y))
    true = torch.cdist(x, y) ** 2
    low = neighbours.lower_bounds(a, b, slice(0, 200), slice(0, 150)).double()
    gap = neighbours.slack(a, b, torch.arange(200)[:, None], torch.arange(150))
    assert (low <= true * (1 + 1e-12)).all() and (low + gap >= true * (1 - 1e-12)).all()
    assert (gap <= 1e-4 * (a.norms[:, None] + b.norms)).all()


def test_few_distances_are_computed_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    """The bound leaves open a few pairs in ten thousand; else the speed is gone."""
    pairs = 0
    exact = neighbours.exact

    def counted(a: Any, b: Any, i: Any, j: Any) -> Any:
        nonlocal pairs
        pairs += len(i)
        return exact(a, b, i, j)

    monkeypatch.setattr(neighbours, "exact", counted)
    x, y = np.random.default_rng(4).normal(size=(2, 1500, 128)).astype("f")
    manifolds(x, y, 5)
    assert pairs < 3 * 1500**2 * 0.002


def test_blocks_do_not_change_the_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    x, y = np.random.default_rng(5).normal(size=(2, 130, 6))
    expected = manifolds(x, y, 4)
    monkeypatch.setattr(neighbours, "ROWS", 16)
    monkeypatch.setattr(neighbours, "COLUMNS", 24)
    assert manifolds(x, y, 4) == expected


@settings(max_examples=30)
@given(seed=st.integers(0, 10**6), n=st.integers(8, 40), m=st.integers(8, 40), k=st.integers(1, 7), grid=st.booleans())
def test_equals_the_double_loop_and_is_invariant(seed: int, n: int, m: int, k: int, grid: bool) -> None:
    rng = np.random.default_rng(seed)
    x, y = (rng.integers(-3, 4, (v, 3)).astype(float) if grid else rng.normal(size=(v, 3)) for v in (n, m))
    x[0] = 9  # never all alike
    expected = by_hand(x, y, k)
    assert manifolds(x, y, k) == pytest.approx(expected, rel=1e-12)
    moved = (x[rng.permutation(n)] * 4 + 8, y[rng.permutation(m)] * 4 + 8)  # exact in binary
    assert manifolds(*moved, k) == pytest.approx(expected, rel=1e-12)


# --------------------------------------------------------------------------------------------------------- neighbours
def test_nearest_neighbours_equal_all_distances() -> None:
    rng = np.random.default_rng(6)
    x, y = rng.normal(size=(1500, 20)), rng.normal(size=(70, 20))
    found = nearest_neighbours(y, x, k=3)
    d = cdist(y, x)
    np.testing.assert_array_equal(found.index, np.argsort(d, axis=1)[:, :3])
    np.testing.assert_allclose(found.distance, np.sort(d, axis=1)[:, :3], rtol=1e-12)
    itself = nearest_neighbours(x[40:50], x)
    assert (itself.distance == 0).all() and (itself.index[:, 0] == np.arange(40, 50)).all()


def test_equal_reference_rows_count_once_and_the_first_is_named() -> None:
    x = np.array([[0.0, 0], [5, 5], [0, 0], [1, 0]])
    found = nearest_neighbours(np.array([[0.1, 0]]), x, k=2)
    assert found.index.tolist() == [[0, 3]]


def test_neighbours_on_a_lattice_and_in_clusters() -> None:
    rng = np.random.default_rng(7)
    for x, y in (
        (rng.integers(0, 2, (900, 12)).astype(float), rng.integers(0, 2, (50, 12)) + 0.25),
        (1e4 + rng.normal(size=(400, 30)) * 1e-3, 1e4 + rng.normal(size=(30, 30)) * 1e-3),
    ):
        found = nearest_neighbours(y, x, k=4)
        expected = np.sort(cdist(y, np.unique(x, axis=0)), axis=1)[:, :4]
        np.testing.assert_allclose(found.distance, expected, rtol=1e-9)
        at = np.linalg.norm(x[found.index[:, 2]] - y, axis=1)
        np.testing.assert_allclose(at, found.distance[:, 2], rtol=1e-12)
