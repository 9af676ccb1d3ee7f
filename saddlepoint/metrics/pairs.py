"""Do the two images of a generated pair show the same? For games of two domains (CoGAN).

Pixels: the true transformation of g1(z), rounded to black and white, against g2(z): the share of equal pixels (the
pixel agreement ratio of Liu and Tuzel 2016, section 5). Most pixels of any two digits agree, so the same share between
strangers, T(g1(z)) and g2(z'), is measured beside it.

Classes: how often two classifiers, one for each domain, see the same class in both images of a pair, and in strangers.
A transformation that can be undone is undone, and one classifier sees both.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from saddlepoint.data.domains import TRANSFORMS, second_of
from saddlepoint.errors import UserError
from saddlepoint.metrics.classifier import Classifier, classifier

if TYPE_CHECKING:
    from saddlepoint.data.sets import ImageSet
    from saddlepoint.runs import Run

UNDONE_BY = {"negative": "negative"}


@dataclass(frozen=True)
class PairScores:
    """Shares from 0 to 1; `strangers` is what images of two different latents reach. nan: there is nothing to ask."""

    n: int
    pixels: float
    pixels_of_strangers: float
    classes: float
    classes_of_strangers: float
    accuracy: tuple[float, float]  # of the two classifiers on images that they were not trained on

    def as_dict(self) -> dict[str, Any]:
        """Plain values."""
        return dataclasses.asdict(self)


def pixel_agreement(a: Tensor, b: Tensor, transform: str) -> float:
    """Share of pixels of T(a) and b, [N, C, H, W] in [-1, 1], that are on the same side of the middle grey."""
    return float(((TRANSFORMS[transform](a) > 0) == (b > 0)).float().mean())


def class_agreement(a: Tensor, b: Tensor, judges: tuple[Classifier, Classifier]) -> float:
    """Share of images whose classes, each seen by its domain's classifier, are the same."""
    return float((classes(a, judges[0]) == classes(b, judges[1])).float().mean())


@torch.no_grad()
def classes(images: Tensor, judge: Classifier) -> Tensor:
    """The likeliest class of each image in [-1, 1], int64 [N]."""
    found = [judge.network.logits(judge.network(judge.prepared(part))).argmax(1) for part in images.split(500)]
    return torch.cat(found)


def score_pairs(run: Run, n: int = 1000, seed: int = 0, *, checkpoint: str = "") -> PairScores:
    """How well the pairs of a run agree. UserError for a run of one domain only."""
    recipe: Any = run.recipe
    if not hasattr(recipe, "second"):
        raise UserError(f"{recipe.system} has one domain, so it has no pairs; systems with two: cogan.")
    game = run.game_at(run.checkpoint(checkpoint))
    a, b = (game.sample(n, seed, domain=domain) for domain in ("a", "b"))
    second, accuracy = second_of(recipe), (math.nan, math.nan)
    pixels, same = [math.nan] * 2, [math.nan] * 2
    strangers = b.roll(1, 0)
    if second in TRANSFORMS:
        pixels = [pixel_agreement(a, other, second) for other in (b, strangers)]
    if recipe.classes:
        judges = _judges(recipe, second)
        accuracy = (judges[0].accuracy, judges[1].accuracy)
        if second in UNDONE_BY:
            b, strangers = (TRANSFORMS[UNDONE_BY[second]](x) for x in (b, strangers))
        same = [class_agreement(a, other, judges) for other in (b, strangers)]
    return PairScores(n, pixels[0], pixels[1], same[0], same[1], accuracy)


def _judges(recipe: Any, second: str) -> tuple[Classifier, Classifier]:
    from saddlepoint.data.domains import opened

    first = classifier(recipe.data)
    if second in UNDONE_BY:
        return first, first
    if second in TRANSFORMS:
        return first, classifier(transformed(opened(recipe, recipe.data), second))
    return first, classifier(second)


def transformed(images: ImageSet, transform: str) -> ImageSet:
    """The set with every image transformed, in bytes."""
    from saddlepoint.pictures import to_uint8

    parts = np.array_split(images.images, max(1, len(images) // 5000))
    made = [to_uint8(TRANSFORMS[transform](torch.from_numpy(np.array(p)) / 127.5 - 1)) for p in parts]
    pixels = np.ascontiguousarray(np.concatenate(made).transpose(0, 3, 1, 2))  # [N, C, H, W]
    facts = dataclasses.replace(images.facts, name=f"{images.facts.name}-{transform}")
    return dataclasses.replace(images, images=pixels, facts=facts)
