"""Evaluating: chunks that do not depend on how they are shared, floors, errors, caches, records."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from torch import Tensor

from saddlepoint.errors import UserError
from saddlepoint.metrics import evaluation, judged
from saddlepoint.metrics.evaluation import Against, collect, evaluate
from saddlepoint.metrics.scores import difference

FEATURES = frozenset({"features"})


class Corners:
    """An extractor that can be computed by hand: the means of the four quarters."""

    name, resize, identity = "corners", "none", "corners@1"
    source: ClassVar[dict[str, str]] = {}
    dimensions = 4

    def __init__(self) -> None:
        self.seen = 0

    def __call__(self, images: Tensor) -> Tensor:
        self.seen += len(images)
        return torch.nn.functional.adaptive_avg_pool2d(images.mean(1, keepdim=True), 2).flatten(1)

    def both(self, images: Tensor) -> tuple[Tensor, Tensor]:
        found = self(images)
        return found, 5 * found

    def provenance(self) -> dict[str, Any]:
        return {"extractor": self.identity, "resize": self.resize}


class Noise:
    """A game's stand-in: uniform images, brighter by `shift`."""

    name = "noise"

    def __init__(self, shift: float = 0.0) -> None:
        self.shift = shift
        self.identity = {"shift": shift}

    def limit(self) -> int | None:
        return None

    def chunks(self, n: int, seed: int, *, share: tuple[int, int] = (0, 1)) -> Iterator[tuple[Tensor, Tensor | None]]:
        for index, start in enumerate(range(0, n, judged.CHUNK)):
            if index % share[1] == share[0]:
                generator = torch.Generator().manual_seed(seed * 1000 + index)
                shape = (min(judged.CHUNK, n - start), 1, 8, 8)
                yield torch.rand(shape, generator=generator) * 0.5 + self.shift, None


@pytest.fixture(scope="module")
def digits() -> judged.Images:
    return judged.opened("digits")


@pytest.fixture
def extractor() -> Any:
    return Corners()


def test_rounding_is_that_of_eight_bits() -> None:
    images = torch.tensor([-1.2, -1.0, 0.0, 0.0039, 1.0, 1.5])
    assert torch.equal(((judged.rounded(images) + 1) * 127.5).round(), torch.tensor([0.0, 0, 128, 128, 255, 255]))


def test_real_images_are_taken_once_each_in_an_order_of_the_seed(digits: judged.Images) -> None:
    assert sorted(digits.order.tolist()) == list(range(len(digits)))
    assert not np.array_equal(digits.order, judged.opened("digits", seed=1).order)
    images = torch.cat([x for x, _ in digits.part(3, 7).chunks(7)])
    expected = torch.from_numpy(digits.images.images[digits.order[3:10]]).float() / 127.5 - 1
    assert torch.allclose(images, expected)
    with pytest.raises(UserError, match="7 images, 8"):
        list(digits.part(3, 7).chunks(8))


def test_shares_of_processes_are_the_whole() -> None:
    whole = [x for x, _ in Noise().chunks(950, 3)]
    parts = [[x for x, _ in Noise().chunks(950, 3, share=(rank, 2))] for rank in (0, 1)]
    assert len(whole) == 5 and [len(p) for p in parts] == [3, 2]
    assert all(torch.equal(whole[2 * i + r], x) for r in (0, 1) for i, x in enumerate(parts[r]))


def test_reference_and_floor_share_no_image(digits: judged.Images) -> None:
    split = Against.split(digits, 500)
    assert len(split.held_out) == 500 and len(split.reference) == len(digits) - 500
    assert not set(split.held_out.order) & set(split.reference.order)
    assert len(Against.split(digits, 5000).held_out) == len(digits) // 2
    with pytest.raises(UserError, match="at most"):
        Against.split(digits, 500, reference=len(digits))
    with pytest.raises(UserError, match="at least 20"):
        Against.split(digits.part(0, 19), 5)


def test_features_of_real_images_are_computed_once(digits: judged.Images, extractor: Any) -> None:
    images = digits.part(0, 300)
    first = evaluation.of_reference(images, extractor, FEATURES)
    assert extractor.seen == 300
    again = evaluation.of_reference(images, extractor, FEATURES)
    assert extractor.seen == 300 and np.array_equal(first.features, again.features)  # type: ignore[arg-type]
    evaluation.of_reference(digits.part(1, 300), extractor, FEATURES)
    assert extractor.seen == 600  # other pixels
    other = Corners()
    other.identity = "corners@2"
    evaluation.of_reference(images, other, FEATURES)  # type: ignore[arg-type]
    assert other.seen == 300


def test_large_collections_live_in_a_file(extractor: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    small = collect(Noise(), 450, 0, extractor, FEATURES)
    monkeypatch.setattr(evaluation, "SPILL", 100)
    large = collect(Noise(), 450, 0, extractor, FEATURES)
    assert isinstance(large.features, np.memmap) and not isinstance(small.features, np.memmap)
    assert np.array_equal(small.features, large.features)  # type: ignore[arg-type]


def test_the_jackknife_of_a_mean_is_its_standard_error() -> None:
    values = np.random.default_rng(0).normal(size=50)
    left_out = [np.delete(values, i).mean() for i in range(50)]
    assert evaluation.jackknife_error(left_out) == pytest.approx(values.std(ddof=1) / np.sqrt(50))
    found = evaluation.jackknifed(lambda y: float(y.mean()), values, groups=50)
    assert found.standard_error == pytest.approx(values.std(ddof=1) / np.sqrt(50))


def test_the_held_out_images_score_their_own_floor(digits: judged.Images, extractor: Any) -> None:
    against = Against.split(digits, 400)
    found = evaluate(against.held_out, against, ["fd", "kd", "pr", "dc"], extractor)
    assert set(found.scores) == {f"{n}[corners]" for n in ("FD", "KD", "precision", "recall", "density", "coverage")}
    for score in found.scores.values():
        assert score.value == pytest.approx(score.floor, abs=1e-9)
        assert score.record["samples"] == 400 and score.record["extractor"] == "corners@1"
    assert found.scores["coverage[corners]"].value > 0.9


def test_worse_images_score_worse(digits: judged.Images, extractor: Any) -> None:
    against = Against.split(digits, 400)
    near, far = (evaluate(Noise(shift), against, ["fd", "kd"], extractor, n=400) for shift in (-0.9, 0.4))
    for name in ("FD[corners]", "KD[corners]"):
        change, error = difference(far.scores[name], near.scores[name])
        assert change > 5 * error > 0
        assert near.scores[name].value > near.scores[name].floor


def test_scores_carry_what_they_were_measured_with(digits: judged.Images, extractor: Any) -> None:
    against = Against.split(digits, 400)
    a = evaluate(Noise(), against, ["fd"], extractor, n=400)
    b = evaluate(Noise(), against, ["fd"], extractor, n=390)
    c = evaluate(Noise(), Against.split(digits, 390), ["fd"], extractor, n=390)
    with pytest.raises(UserError, match="samples: 400 and 390"):
        difference(a.scores["FD[corners]"], b.scores["FD[corners]"])
    with pytest.raises(UserError, match="reference"):
        difference(b.scores["FD[corners]"], c.scores["FD[corners]"])


@pytest.mark.parametrize(
    ("metrics", "n", "message"),
    [
        (["fdi"], 0, "unknown metric 'fdi'; did you mean 'fd'"),
        (["fd"], 5, "too few"),
        (["labels"], 0, "labels on both"),
    ],
)
def test_what_cannot_be_scored_is_refused(
    digits: judged.Images, extractor: Any, metrics: list[str], n: int, message: str
) -> None:
    with pytest.raises(UserError, match=message):
        evaluate(Noise(), Against.split(digits, 400), metrics, extractor, n=n)


def test_a_set_has_no_more_images_than_it_has(digits: judged.Images, extractor: Any) -> None:
    with pytest.raises(UserError, match="50 images; 60"):
        evaluate(digits.part(0, 50), Against.split(digits, 400), ["fd"], extractor, n=60)
    with pytest.raises(UserError, match="give an extractor"):
        evaluate(digits.part(0, 50), Against.split(digits, 400), ["fd"])


def test_numbers_name_their_family() -> None:
    assert evaluation.families(["recall", "pr", "fd"]) == ["pr", "fd"]
    inception: Any = Corners()
    inception.name, inception.resize = "inception-2015", "tf"
    assert evaluation.called("fd", inception) == "FD[inception-2015]"  # anybody's weights in that network
    inception.source = {"file": "pt_inception-2015-12-05-6726825d.pth"}
    assert evaluation.called("fd", inception) == "FID" and evaluation.called("kd", inception) == "KID"
    assert evaluation.called("recall", inception) == "recall[inception-2015]"
    inception.source = {"file": "mine.pth", "sha256": "6726825d" + 56 * "0"}
    assert evaluation.called("is", inception) == "IS"
    inception.resize = "clean"
    assert evaluation.called("fd", inception) == "FD[inception-2015]"  # FID names the official resize


def test_every_metric_computes(digits: judged.Images, extractor: Any) -> None:
    against = Against.split(digits, 400)
    names = [name for name in evaluation.METRICS if name not in ("swd",)]  # 8x8 has no Laplacian level of 16
    unseen = judged.opened("digits:test")
    found = evaluate(against.held_out, against, names, extractor, n=400, unseen=unseen)
    values = {score.record["metric"]: score for score in found.scores.values()}
    assert set(values) == {v for name in names for v in evaluation.METRICS[name].values}
    assert all(np.isfinite(score.value) for score in values.values())
    assert values["c2st"].value < 0.6 and values["duplicates"].value < 0.1
    assert values["gan-train"].value == pytest.approx(values["gan-train"].floor)
    assert abs(values["c_t"].value) < 4 and 0.3 < values["nearer"].value < 0.7
    assert values["fd-infinity"].value < values["fd"].value


def test_copies_are_found(digits: judged.Images, extractor: Any) -> None:
    """Samples that are training images: far nearer to them than unseen images are."""
    against = Against.split(digits, 400)
    found = evaluate(
        against.reference.part(0, 300), against, ["memorisation"], extractor, unseen=judged.opened("digits:test")
    )
    assert found.scores["c_t[corners]"].value < -3 and found.scores["nearer[corners]"].value > 0.9


def test_progress_is_told(digits: judged.Images, extractor: Any) -> None:
    told: list[tuple[str, int, int]] = []
    evaluate(Noise(), Against.split(digits, 400), ["fd"], extractor, n=400, progress=lambda *t: told.append(t))
    assert ("features of noise", 400, 400) in told and told[-1] == ("fd", 10, 10)


def test_opened_folders_are_brought_to_one_shape(tmp_path: Path) -> None:
    from PIL import Image

    for i in range(3):
        Image.new("RGB", (10 + i, 10), (i * 40, 0, 0)).save(tmp_path / f"{i}.png")
    found = judged.opened(tmp_path, shape=(8, 8))
    assert found.images.images.shape == (3, 3, 8, 8) and found.identity["shape"] == "3x8x8"


def test_shares_of_a_set_and_of_a_game_are_the_whole(digits: judged.Images) -> None:
    import saddlepoint as sp

    game = sp.game("dcgan", resolution=16, channels=1, width=4, latent=4)
    for source in (digits, judged.Samples(game, "game", {})):
        whole = [x for x, _ in source.chunks(450, 0)]
        parts = [[x for x, _ in source.chunks(450, 0, share=(rank, 2))] for rank in (0, 1)]
        assert [len(p) for p in parts] == [2, 1] and sum(map(len, whole)) == 450
        assert all(torch.equal(whole[2 * i + r], x) for r in (0, 1) for i, x in enumerate(parts[r]))
