"""The segmenter: scores by hand and against scikit-learn, learning, its cache, and what stands beside a score."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.metrics import jaccard_score

from saddlepoint.errors import UserError
from saddlepoint.metrics import segmentation

COLOURS = np.array([[200, 40, 40], [40, 200, 40], [40, 40, 200]], np.float32)
PIXELS = 16 * 16 * 16 * 60  # sixty steps


def test_scores_by_hand() -> None:
    """a: 1 hit of 2 true and 2 found, IoU 1/3; b: 1 hit, 2 true, 2 found, IoU 1/3; c is nowhere; 255 counts nothing."""
    true, found = np.array([[0, 0], [1, 1], [255, 255]]), np.array([[0, 1], [1, 0], [0, 1]])
    made = segmentation.scores(true, found, ("a", "b", "c"))
    assert made == {
        "miou": pytest.approx(1 / 3),
        "accuracy": 0.5,
        "iou": {"a": pytest.approx(1 / 3), "b": pytest.approx(1 / 3)},
    }
    wrongly = segmentation.scores(np.array([0, 0, 0, 1]), np.array([0, 0, 2, 1]), ("a", "b", "c"))
    assert wrongly["iou"] == {"a": pytest.approx(2 / 3), "b": 1.0, "c": 0.0}  # found where it is not: it counts
    strange = segmentation.scores(torch.tensor([1, 0]), torch.tensor([1, 9]), ("a", "b"))
    assert strange["accuracy"] == 0.5 and strange["iou"] == {"a": 0.0, "b": 1.0}  # 9 is no class: b is not found there


def test_scores_are_those_of_scikit_learn() -> None:
    draw = np.random.default_rng(0)
    true, found = draw.integers(0, 5, (3, 20, 20)), draw.integers(0, 5, (3, 20, 20))
    made = segmentation.scores(true, found, "abcde")
    expected = jaccard_score(true.ravel(), found.ravel(), average=None)
    assert list(made["iou"].values()) == pytest.approx(expected.tolist())
    assert made["miou"] == pytest.approx(expected.mean()) and made["accuracy"] == (true == found).mean()


def test_scores_refuse_what_cannot_be_compared() -> None:
    with pytest.raises(UserError, match="same shape"):
        segmentation.scores(np.zeros((2, 4, 4)), np.zeros((2, 4, 5)), ("a",))
    with pytest.raises(UserError, match="no pixel has a class"):
        segmentation.scores(np.full((2, 2), 255), np.zeros((2, 2)), ("a", "b"))


@pytest.fixture(scope="module")
def strips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sixty noisy pictures 16x16 of two of three colours, side by side or one above the other, with their maps."""
    place, draw = tmp_path_factory.mktemp("strips"), np.random.default_rng(1)
    for name in ("label", "img"):
        (place / name).mkdir()
    for index in range(60):
        label = np.empty((16, 16), np.uint8)
        cut, (a, b) = draw.integers(4, 12), draw.permutation(3)[:2]
        label[:cut], label[cut:] = a, b
        label = label.T if index % 2 else label
        image = COLOURS[label] + draw.normal(0, 15, (16, 16, 3))
        Image.fromarray(label).save(place / "label" / f"{index:02d}.png")
        Image.fromarray(image.clip(0, 255).astype(np.uint8)).save(place / "img" / f"{index:02d}.png")
    (place / "classes.txt").write_text("red\ngreen\nblue\n")
    return place


@pytest.fixture(scope="module")
def judge(strips: Path) -> segmentation.Segmenter:
    return segmentation.segmenter(str(strips), 16, pixels=PIXELS)


def test_it_learns_and_knows_how_well(judge: segmentation.Segmenter) -> None:
    assert judge.names == ("red", "green", "blue") and (judge.trained_on, judge.held_out) == (54, 6)
    assert judge.on_real["accuracy"] > 0.9 and judge.facts()["held_out_is"] == "every 10th example"
    flat = torch.from_numpy(COLOURS / 127.5 - 1)[:, :, None, None].expand(3, 3, 16, 16)
    found = judge.classify(flat)
    assert [int(found[i].flatten().mode().values) for i in range(3)] == [0, 1, 2]
    assert judge.classify(torch.nn.functional.interpolate(flat, (32, 24))).shape == (3, 32, 24)


def test_it_is_kept_by_its_data_and_settings(
    judge: segmentation.Segmenter, strips: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained: list[int] = []

    def train(data: segmentation.Maps, classes: int, *, seed: int, **_: Any) -> segmentation.SmallUNet:
        trained.append(seed)
        return segmentation.SmallUNet(3, classes).eval()

    monkeypatch.setattr(segmentation, "train", train)
    again = segmentation.segmenter(str(strips), 16, pixels=PIXELS)
    assert (again.identity, again.on_real) == (judge.identity, judge.on_real) and not trained
    segmentation.segmenter(str(strips), 16, pixels=PIXELS, seed=7)
    assert trained == [7]
    kept = sorted(segmentation._cache().glob("*.safetensors"), key=lambda path: path.stat().st_mtime)[-1]
    kept.write_bytes(kept.read_bytes()[:1000])  # damaged: made again
    segmentation.segmenter(str(strips), 16, pixels=PIXELS, seed=7)
    assert trained == [7, 7]


def test_training_is_a_function_of_the_seed() -> None:
    draw = np.random.default_rng(2)
    data = segmentation.Maps(draw.integers(0, 256, (8, 3, 8, 8), np.uint8), draw.integers(0, 2, (8, 8, 8)))
    first, again, other = (segmentation.train(data, 2, seed=seed, pixels=1).state_dict() for seed in (0, 0, 1))
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["output.weight"], other["output.weight"])


def test_a_score_has_its_ceiling_floor_and_judge_beside_it(judge: segmentation.Segmenter, strips: Path) -> None:
    held = segmentation._parts(str(strips), 16, 3, {})[1]
    real, labels = torch.from_numpy(held.pixels()), torch.from_numpy(held.labels)
    found = segmentation.judged(str(strips), real, labels, pixels=PIXELS)
    assert found["output"] == found["ceiling"] and found["ceiling"]["accuracy"] == judge.on_real["accuracy"]
    assert found["floor"]["accuracy"] < found["ceiling"]["accuracy"] - 0.2
    assert found["segmenter"] == judge.facts()
    grey = segmentation.judged(str(strips), torch.zeros_like(real), labels, real=real, pixels=PIXELS)
    assert grey["output"]["accuracy"] < 0.8 and grey["ceiling"] == found["ceiling"]
