"""Copying, duplicates, two-sample and labelled tests: calibrated where nothing is wrong, decisive else."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from scipy import stats

from saddlepoint.errors import UserError
from saddlepoint.metrics import copying_test, duplicates, gan_train_test, two_sample_test
from saddlepoint.metrics.memorisation import _mann_whitney


def normal(seed: int, *shape: int) -> Any:
    return np.random.default_rng(seed).normal(size=shape)


# ------------------------------------------------------------------------------------------------------------- copies
def test_z_is_scipys_mann_whitney_with_ties() -> None:
    rng = np.random.default_rng(0)
    for q, p in (
        (rng.normal(size=80), rng.normal(size=50)),
        (rng.integers(0, 5, 90) * 1.0, rng.integers(0, 6, 40) * 1.0),
    ):
        z, nearer = _mann_whitney(q, p)
        expected = stats.mannwhitneyu(q, p, alternative="less", method="asymptotic", use_continuity=False)
        assert stats.norm.cdf(z) == pytest.approx(expected.pvalue, rel=1e-9)
        assert nearer == pytest.approx(1 - expected.statistic / (len(q) * len(p)))


def test_an_honest_generator_scores_a_standard_normal_z() -> None:
    scores = [copying_test(*normal(seed, 3, 120, 4)).value for seed in range(60)]
    assert abs(np.mean(scores)) < 0.5 and 0.7 < np.std(scores) < 1.7  # dependence through shared neighbours


def test_copies_are_found_and_shown() -> None:
    train, held_out, honest = normal(1, 3, 400, 5)
    copies = train[:100] + 0.01 * normal(2, 100, 5)
    mixed = np.concatenate([honest[:300], copies])
    found = copying_test(train, held_out, mixed)
    assert found.value < -4 and found.p_copying < 1e-4 and found.nearer > 0.55 and found.median_ratio < 1
    assert set(found.closest(100)) == set(range(300, 400))
    np.testing.assert_array_equal(found.generated.index[found.closest(1), 0], found.closest(1) - 300)
    far = copying_test(train, held_out, 2 * honest)
    assert far.value > 5 and far.p_copying > 0.99 and far.median_ratio > 1


def test_cells_find_copying_that_hides_in_one_region() -> None:
    rng = np.random.default_rng(3)
    places = np.array([[0.0, 0], [50, 0], [0, 50]])
    train, held_out, honest = (places[np.arange(300) % 3] + rng.normal(size=(300, 2)) for _ in range(3))
    made = 1.3 * (honest - places[np.arange(300) % 3]) + places[np.arange(300) % 3]  # a little too wide elsewhere
    made[::3] = train[::3]  # and copies in the first place
    found = copying_test(train, held_out, made, cells=3)
    assert len(found.cells) == 3 and min(found.cells) < -8 and max(found.cells) > -1
    with pytest.raises(UserError, match="fewer cells"):
        copying_test(train, held_out[:2], made[:2], cells=200)


def test_duplicates_by_hand() -> None:
    x = np.array([[0.0, 0], [0, 0], [3, 4], [3, 4.5], [9, 9]])
    assert (duplicates(x).value, duplicates(x).exact, duplicates(x).distinct) == (0.4, 0.4, 4)
    assert duplicates(x, radius=0.5).value == 0.8 and duplicates(x, radius=0.49).value == 0.4
    assert duplicates(x, radius=100).value == 1 and duplicates(np.ones((4, 2))).distinct == 1
    assert duplicates(np.array([[0.0], [-0.0]])).exact == 1


# --------------------------------------------------------------------------------------------------------- two samples
@pytest.mark.parametrize("classifier", ["logistic", "nearest"])
def test_p_values_are_uniform_under_one_distribution(classifier: Any) -> None:
    found = [two_sample_test(*normal(seed, 2, 60, 3), classifier, permutations=99, seed=seed) for seed in range(60)]
    assert np.mean([f.value for f in found]) == pytest.approx(0.5, abs=0.03)
    p = np.array([f.p_value for f in found])
    assert (p < 0.05).mean() < 0.15 and 0.35 < p.mean() < 0.7


def test_a_shift_is_found_with_the_accuracy_of_the_best_rule() -> None:
    x, y = normal(4, 2, 3000, 2)
    y[:, 0] += 1
    found = two_sample_test(x, y)
    assert abs(found.accuracy - stats.norm.cdf(0.5)) < 4 * found.accuracy.standard_error
    assert found.p_value < 1e-20 and found.tested == 3000
    assert found.accuracy == pytest.approx((found.real + found.generated) / 2)
    unequal = two_sample_test(x, y[:100])
    assert unequal.tested == 100


def test_nearest_neighbours_tell_spread_from_copies() -> None:
    x = normal(5, 300, 3)
    thin = two_sample_test(x, 0.05 * normal(6, 300, 3), "nearest")
    assert thin.generated > 0.95 and thin.p_value < 0.01
    copies = two_sample_test(x, x, "nearest")  # every point has its twin in the other sample
    assert copies.value == 0 and copies.p_value == 1


# ------------------------------------------------------------------------------------------------------------ labelled
def classes(seed: int, n: int, spread: float = 1.0) -> tuple[Any, Any]:
    rng = np.random.default_rng(seed)
    labels = np.arange(n) % 3
    return 4 * np.eye(3)[labels] + spread * rng.normal(size=(n, 3)), labels


def test_a_perfect_generator_reaches_the_ceiling() -> None:
    found = gan_train_test(*classes(0, 900), *classes(1, 900), *classes(2, 900))
    assert found.real > 0.95 and abs(found.gan_train - found.real) < 0.02 and abs(found.gan_test - found.real) < 0.02
    assert found.missing == () and set(found.recall_train) == {0, 1, 2}
    assert found.gan_train == pytest.approx(np.mean(list(found.recall_train.values())))


def test_wrong_labels_lower_both_and_a_missing_class_only_gan_train() -> None:
    x, labels = classes(0, 900)
    real, held = classes(1, 900), classes(2, 900)
    swapped = gan_train_test(x, (labels + 1) % 3, *real, *held)
    assert swapped.gan_train < 0.1 and swapped.gan_test < 0.1
    kept = labels != 2
    lacking = gan_train_test(x[kept], labels[kept], *real, *held)
    assert (
        lacking.missing == (2,) and lacking.recall_train[2] == 0 and lacking.gan_train == pytest.approx(0.65, abs=0.03)
    )
    assert lacking.gan_test > 0.95 and set(lacking.recall_test) == {0, 1}
    collapsed = gan_train_test(4 * np.eye(3)[labels] + 1e-3 * x, labels, *real, *held)
    assert collapsed.gan_test == 1  # blind to variety


def test_any_classifier_and_no_test_set() -> None:
    from sklearn.neighbors import KNeighborsClassifier

    found = gan_train_test(*classes(0, 300), *classes(1, 300), classifier=KNeighborsClassifier)
    assert found.classifier == "KNeighborsClassifier" and found.real > 0.9 and found.value > 0.9
    with pytest.raises(UserError, match="one class only"):
        gan_train_test(classes(0, 30)[0], np.zeros(30), *classes(1, 30))
    with pytest.raises(UserError, match=r"shape \[29\]"):
        gan_train_test(classes(0, 30)[0], np.zeros(29), *classes(1, 30))
    with pytest.raises(UserError, match="no class numbers"):
        gan_train_test(classes(0, 30)[0], np.full(30, 0.5), *classes(1, 30))
