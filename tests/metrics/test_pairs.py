from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from saddlepoint import recipes
from saddlepoint.data import open_set
from saddlepoint.data.domains import edges
from saddlepoint.errors import UserError
from saddlepoint.metrics.classifier import classifier
from saddlepoint.metrics.pairs import class_agreement, pixel_agreement, score_pairs, transformed
from saddlepoint.systems import build
from tests.systems.builders import images


def test_true_pairs_agree_in_every_pixel_and_contrary_ones_in_none() -> None:
    x = images(4).clamp(-0.9, 0.9) + 0.01
    assert pixel_agreement(x, -x, "negative") == 1 and pixel_agreement(x, x, "negative") == 0
    assert pixel_agreement(x, edges(x), "edges") == 1
    half = torch.cat([-x[:2], x[2:]])
    assert pixel_agreement(x, half, "negative") == 0.5


def test_a_transformed_set_has_the_transformed_bytes() -> None:
    found = open_set("digits")
    negative = transformed(found, "negative")
    assert np.array_equal(negative.images, 255 - found.images)
    assert negative.facts.name == "digits-negative" and negative.labels is found.labels


def test_a_classifier_agrees_with_itself_and_not_with_strangers() -> None:
    found = open_set("digits")
    judge = classifier(found, seen=6000)
    x = torch.from_numpy(found.images[:200].copy()) / 127.5 - 1
    assert class_agreement(x, x, (judge, judge)) == 1
    assert class_agreement(x, x.roll(1, 0), (judge, judge)) < 0.4


class FakeRun:
    """A run whose generators are perfect: domain b is the negative of domain a."""

    def __init__(self, **changes: Any) -> None:
        self.recipe = recipes.recipe("cogan", resolution=16, channels=1, width=8, data="digits", second="negative")
        self.recipe = recipes.with_overrides(self.recipe, changes)
        self.game = build(self.recipe)

    def checkpoint(self, wanted: str) -> None:
        return None

    def game_at(self, checkpoint: None) -> Any:
        def sample(n: int, seed: int, domain: str) -> torch.Tensor:
            x = self.game.sample(n, seed)
            return x if domain == "a" else -x

        return SimpleNamespace(sample=sample)


def test_a_perfect_couple_has_a_perfect_score() -> None:
    found = score_pairs(FakeRun(), n=20)  # type: ignore[arg-type]
    assert found.pixels == 1 and found.pixels_of_strangers < 1
    assert math.isnan(found.classes) and found.as_dict()["n"] == 20, "no labels, no classes"


def test_one_domain_has_no_pairs() -> None:
    with pytest.raises(UserError, match="one domain"):
        score_pairs(SimpleNamespace(recipe=recipes.recipe("dcgan")))  # type: ignore[arg-type]
