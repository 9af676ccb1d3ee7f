"""GAN-train and GAN-test: what generated labels are worth to a classifier (Shmelkov et al. 2018, arXiv:1807.09499).

GAN-train trains on generated samples and tests on real ones: low where samples are poor *or* miss part of a class.
GAN-test trains on real samples and tests on generated ones: low where samples do not show their label, and blind to
missing variety. The same classifier from real to real is the ceiling of the former. (Ravuri and Vinyals 2019 call
GAN-train the classification accuracy score.)
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from saddlepoint.errors import UserError
from saddlepoint.metrics.arrays import Estimate, feature_matrix, feature_pair, numpy_of
from saddlepoint.metrics.two_sample import LogisticRegression

Labels = NDArray[np.int64]


class Classifier(Protocol):
    """What a factory makes: scikit-learn's two methods, on arrays [N, D] and labels [N]."""

    def fit(self, X: Any, y: Any) -> Any: ...

    def predict(self, X: Any) -> Any: ...


@dataclass(frozen=True)
class LabelledScore:
    """Accuracies on test samples, 0 to 1, with binomial errors."""

    gan_train: Estimate
    """Trained on generated, tested on real."""
    gan_test: Estimate
    """Trained on real, tested on generated."""
    real: Estimate
    """Trained on real, tested on other real samples: the ceiling."""
    recall_train: dict[int, float]
    """Of GAN-train, by class of the real test samples."""
    recall_test: dict[int, float]
    """Of GAN-test, by class that was asked of the generator."""
    missing: tuple[int, ...]
    """Classes of the real samples that the generator has none of."""
    classifier: str

    @property
    def value(self) -> float:
        return float(self.gan_train)


def gan_train_test(
    generated: Any,
    generated_labels: Any,
    real: Any,
    real_labels: Any,
    test: Any = None,
    test_labels: Any = None,
    *,
    classifier: Callable[[], Classifier] | None = None,
    seed: int = 0,
) -> LabelledScore:
    """Features [N, D] (or flattened images) with labels [N], generated and real; `test`: real samples held out.

    Without `test` half of the real samples, drawn by `seed`, is it. classifier: makes an untrained one each time;
    default multinomial logistic regression on standardised features. Raises UserError for labels that do not fit, or
    fewer than two classes on a side that trains.
    """
    x, y = feature_pair(real, generated, minimum=4)
    real_x, made = numpy_of(x), numpy_of(y)
    label, made_label = (
        _labels("real_labels", real_labels, len(x)),
        _labels("generated_labels", generated_labels, len(y)),
    )
    if test is None:
        order = np.random.default_rng(seed).permutation(len(x))
        train_rows, test_rows = order[len(x) // 2 :], order[: len(x) // 2]
        held, held_label = real_x[test_rows], label[test_rows]
        real_x, label = real_x[train_rows], label[train_rows]
    else:
        other = feature_matrix("test", test)
        if other.shape[1] != x.shape[1]:
            raise UserError(f"test has {other.shape[1]} features and real {x.shape[1]}; expected the same extractor.")
        held, held_label = numpy_of(other), _labels("test_labels", test_labels, len(other))
    make = classifier or LogisticRegression
    name = getattr(classifier, "__name__", type(classifier).__name__) if classifier else "logistic regression"
    for side, values in (("generated_labels", made_label), ("real_labels", label)):
        if len(np.unique(values)) < 2:
            raise UserError(f"{side} holds one class only; a classifier needs at least two to train on.")
    from_made, from_real = _fitted(make, made, made_label), _fitted(make, real_x, label)
    right_train = np.asarray(from_made.predict(held)) == held_label
    right_test = np.asarray(from_real.predict(made)) == made_label
    ceiling = np.asarray(from_real.predict(held)) == held_label
    missing = np.setdiff1d(np.union1d(label, held_label), made_label)
    return LabelledScore(
        _accuracy(right_train, f"{name} on {len(made)} generated"),
        _accuracy(right_test, f"{name} on {len(real_x)} real"),
        _accuracy(ceiling, f"{name} on {len(real_x)} real"),
        _by_class(right_train, held_label),
        _by_class(right_test, made_label),
        tuple(int(c) for c in missing),
        name,
    )


def _labels(name: str, values: Any, count: int) -> Labels:
    if values is None:
        raise UserError(f"{name} is missing; expected {count} labels.")
    labels = np.asarray(values.detach().cpu() if hasattr(values, "detach") else values)
    if labels.shape != (count,):
        raise UserError(f"{name} has shape {list(labels.shape)}; expected one label for each of {count} samples.")
    if not (
        np.issubdtype(labels.dtype, np.number) and np.isfinite(labels).all() and (labels == np.round(labels)).all()
    ):
        raise UserError(f"{name} holds {labels.dtype} values that are no class numbers.")
    return labels.astype(np.int64)


def _fitted(make: Callable[[], Classifier], x: Any, labels: Labels) -> Classifier:
    model = make()
    model.fit(x, labels)
    return model


def _accuracy(right: NDArray[np.bool_], method: str) -> Estimate:
    share = float(right.mean())
    return Estimate(share, math.sqrt(share * (1 - share) / len(right)), (), method)


def _by_class(right: NDArray[np.bool_], labels: Labels) -> dict[int, float]:
    return {int(c): float(right[labels == c].mean()) for c in np.unique(labels)}
