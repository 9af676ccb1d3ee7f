"""Point sets: pure functions of (seed, position) with the shapes, modes and spreads that they claim."""

from __future__ import annotations

import math
import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from saddlepoint import api, recipes
from saddlepoint.data.toys import BLOCK, SETS, Points, point_set, source
from saddlepoint.errors import UserError

NAMES = list(SETS)


# ---- the sets
def test_the_ring_has_eight_distinct_centres_at_radius_two() -> None:
    ring = point_set("ring")
    assert ring.centres.shape == (8, 2) and ring.sigma == 0.02
    assert np.allclose(np.linalg.norm(ring.centres, axis=1), 2)
    apart = np.linalg.norm(ring.centres[:, None] - ring.centres[None], axis=2)
    neighbour = apart[~np.eye(8, dtype=bool)].min()  # the released notebook's ring has two coinciding modes
    assert neighbour == pytest.approx(4 * math.sin(math.pi / 8))


def test_the_grid_has_25_centres_two_apart() -> None:
    grid = point_set("grid")
    assert {tuple(c) for c in grid.centres.round(12)} == {(x, y) for x in range(-4, 5, 2) for y in range(-4, 5, 2)}
    assert grid.sigma == 0.05


def test_radius_and_sigma_replace_the_sets_own() -> None:
    small = point_set("ring", radius=1.0, sigma=0.01)
    assert np.allclose(small.centres, point_set("ring").centres / 2) and small.sigma == 0.01
    assert point_set("ring") == SETS["ring"]


@pytest.mark.parametrize("name", ["ring", "grid", "gaussian"])
def test_mixtures_have_even_modes_of_the_right_width(name: str) -> None:
    target = point_set(name)
    x = target.points(0, 10_000, seed=3)
    nearest = np.linalg.norm(x[:, None] - target.centres[None], axis=2).argmin(1)
    counts = np.bincount(nearest, minlength=target.modes)
    assert target.modes == 1 or stats.chisquare(counts).pvalue > 1e-4
    residual = (x - target.centres[nearest]) / target.sigma
    assert stats.kstest(residual.ravel(), "norm").pvalue > 1e-4
    assert abs(np.corrcoef(residual.T)[0, 1]) < 0.04


def test_on_the_line_points_follow_the_density() -> None:
    target, grid = point_set("mixture-1d"), np.linspace(-4, 4, 1601)
    cumulative = target.density(grid[:, None]).cumsum() * 0.005
    assert cumulative[-1] == pytest.approx(1, abs=1e-6)
    x = target.points(0, 10_000, seed=3)[:, 0]
    assert stats.kstest(x, lambda v: np.interp(v, grid, cumulative)).pvalue > 1e-4


def test_density_of_the_gaussian_is_scipys() -> None:
    x = np.array([[0.0, 0.0], [1.0, -2.0]])
    assert np.allclose(point_set("gaussian").density(x), stats.multivariate_normal(np.zeros(2)).pdf(x))
    with pytest.raises(UserError, match="closed form"):
        point_set("circle").density(x)


def test_curves_lie_where_they_say() -> None:
    n = 5000
    assert np.allclose(np.linalg.norm(point_set("circle").points(0, n), axis=1), 1)
    segment = point_set("segment").points(0, n)
    assert np.all(segment[:, 1] == 0) and stats.kstest(segment[:, 0], "uniform", args=(-1, 2)).pvalue > 1e-4
    four = np.abs(point_set("four-segments").points(0, n))
    assert np.allclose(four.max(1), 1) and four.min(1).max() <= 0.6
    signs = np.sign(point_set("four-segments").points(0, n))[np.arange(n), four.argmax(1)]
    sides, counts = np.unique(np.stack([four.argmax(1), signs], 1), axis=0, return_counts=True)
    assert len(sides) == 4 and stats.chisquare(counts).pvalue > 1e-4


def test_the_swiss_roll_is_scikit_learns_seen_from_above() -> None:
    from sklearn.datasets import make_swiss_roll

    ours = point_set("swiss-roll").points(0, 4000)
    theirs = make_swiss_roll(4000, noise=0.25, random_state=0)[0][:, [0, 2]] / 7.5
    for axis in range(2):
        assert stats.ks_2samp(ours[:, axis], theirs[:, axis]).pvalue > 1e-4
    assert stats.ks_2samp(*(np.linalg.norm(x, axis=1) for x in (ours, theirs))).pvalue > 1e-4


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"name": "rign"}, "did you mean 'ring'"),
        ({"name": "ring", "radius": -1.0}, "radius of ring is -1"),
        ({"name": "ring", "sigma": math.nan}, "sigma of ring is nan"),
    ],
)
def test_what_cannot_be_is_refused(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message):
        point_set(**arguments)  # type: ignore[arg-type]


# ---- the stream
@settings(max_examples=40)
@given(
    name=st.sampled_from(NAMES),
    cursor=st.integers(0, 3 * BLOCK),
    first=st.integers(0, 300),
    length=st.integers(1, 300),
    balanced=st.booleans(),
)
def test_any_slice_is_that_part_of_one_sequence(
    name: str, cursor: int, first: int, length: int, balanced: bool
) -> None:
    stream = Points(point_set(name), seed=5, balanced=balanced)
    got = stream(cursor, 600, first, length)["point"]
    whole = point_set(name).points(cursor + first, length, seed=5, balanced=balanced)
    assert got.dtype == torch.float32 and np.array_equal(got.numpy(), whole.astype(np.float32))


def test_writing_into_a_batch_does_not_change_the_sequence() -> None:
    stream = Points(point_set("ring"))
    first = stream(0, 8, 0, 8)["point"].clone()
    stream(0, 8, 0, 8)["point"].zero_()
    assert torch.equal(stream(0, 8, 0, 8)["point"], first)


def test_another_seed_is_another_sequence_and_positions_do_not_repeat() -> None:
    ring = point_set("gaussian")
    assert not np.isclose(ring.points(0, 100, 0), ring.points(0, 100, 1)).any()
    many = ring.points(0, 3 * BLOCK, 0)[:, 0]
    assert len(np.unique(many)) == len(many)
    assert abs(np.corrcoef(many[1:], many[:-1])[0, 1]) < 0.05


def test_balanced_batches_hold_every_mode_equally_often() -> None:
    ring = point_set("ring")
    x = Points(ring, balanced=True)(512, 512, 0, 512)["point"].numpy()
    nearest = np.linalg.norm(x[:, None] - ring.centres[None], axis=2).argmin(1)
    assert np.bincount(nearest, minlength=8).tolist() == [64] * 8


@pytest.mark.parametrize("bad", [(-1, 4, 0, 4), (0, 4, -1, 2), (0, 4, 0, 0), (0, 4, 2, 3)])
def test_a_slice_outside_the_batch_is_refused(bad: tuple[int, int, int, int]) -> None:
    with pytest.raises(ValueError, match="outside the batch"):
        Points(point_set("ring"))(*bad)


# ---- recipes
def test_a_recipe_gets_its_points() -> None:
    recipe = api.prepared(recipes.recipe("toy", "numerics", seed=4))
    stream = source(recipe)
    assert (stream.target.radius, stream.target.sigma, stream.seed, stream.balanced) == (1.0, 0.01, 4, True)
    line = api.prepared(recipes.recipe("toy"), "mixture-1d")
    assert line.dimensions == 1 and source(line)(0, 3, 0, 3)["point"].shape == (3, 1)  # type: ignore[attr-defined]
    with pytest.raises(UserError, match="swiss-roll"):
        api.prepared(recipes.recipe("toy"), "swiss-rol")


def test_the_table_needs_no_torch() -> None:
    code = "import sys; from saddlepoint.data.toys import SETS; assert SETS and 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
