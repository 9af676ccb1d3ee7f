"""The trained classifier: it learns, from a seed alone, is kept by its data, and says how well it does."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from saddlepoint.data import open_set
from saddlepoint.errors import UserError
from saddlepoint.metrics import classifier as trained
from saddlepoint.metrics import perceptual
from saddlepoint.metrics.extractors import chosen, extract, features


@pytest.fixture(scope="module")
def digits() -> trained.Classifier:
    return trained.classifier("digits", seen=15_000)


def test_reads_digits(digits: trained.Classifier) -> None:
    """Nine of ten held-out digits after a second of training; guessing is one of ten."""
    held_out = open_set("digits:test")
    assert digits.accuracy > 0.9
    assert (digits.trained_on, digits.held_out, digits.held_out_is) == (1618, len(held_out), "digits:test")
    x = torch.from_numpy(np.array(held_out.images)).float() / 127.5 - 1
    assert held_out.labels is not None
    found = digits.network.logits(digits.network(digits.prepared(x))).argmax(1).numpy()
    assert (found == held_out.labels).mean() == pytest.approx(digits.accuracy)


def test_a_function_of_data_and_seed() -> None:
    whole = open_set("digits")
    assert whole.labels is not None
    some = trained.Labelled(np.array(whole.images[:300]), whole.labels[:300])

    def state(seed: int, data: trained.Labelled = some) -> torch.Tensor:
        net = trained.train(data, 10, 8, seed=seed, seen=1280)
        return torch.cat([p.flatten() for p in net.parameters()])

    torch.manual_seed(5)  # the global generator is not read
    first = state(0)
    torch.manual_seed(6)
    assert torch.equal(first, state(0))
    assert not torch.equal(first, state(1))
    flipped = trained.Labelled(some.images, (some.labels + 1) % 10)
    assert not torch.equal(first, state(0, flipped))


def test_kept_under_its_data_and_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SADDLEPOINT_CACHE", str(tmp_path))
    calls: list[int] = []
    real = trained.train

    def counted(*arguments: object, **options: object) -> trained.SmallNet:
        calls.append(1)
        return real(*arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(trained, "train", counted)
    first = trained.classifier("digits", seen=2560)
    again = trained.classifier("digits", seen=2560)
    assert len(calls) == 1 and again.identity == first.identity and again.accuracy == first.accuracy
    assert trained.classifier("digits", seen=2560, seed=1).identity != first.identity and len(calls) == 2
    (kept, _) = sorted((tmp_path / "classifiers").glob("*.safetensors"), key=lambda file: file.stat().st_mtime)
    kept.write_bytes(kept.read_bytes()[:1000])  # damaged: trained again, and the same again
    assert trained.classifier("digits", seen=2560).identity == first.identity and len(calls) == 3
    monkeypatch.setattr(trained, "CODE", trained.CODE + 1)
    trained.classifier("digits", seen=2560)
    assert len(calls) == 4
    assert not list((tmp_path / "classifiers").glob(".new-*"))


def folder_of_classes(path: Path, count: int = 20, size: int = 40) -> Path:
    """Red and green noise, 40 x 40."""
    draw = np.random.default_rng(0)
    for label in range(2):
        (path / str(label)).mkdir(parents=True)
        for index in range(count):
            pixels = draw.integers(0, 100, (size, size, 3)).astype(np.uint8)
            pixels[..., label] += 100
            Image.fromarray(pixels).save(path / str(label) / f"{index}.png")
    return path


def test_any_labelled_folder_in_colour(tmp_path: Path) -> None:
    found = trained.classifier(folder_of_classes(tmp_path / "two"), seen=1280)
    assert (found.channels, found.side, found.held_out, found.trained_on) == (3, 32, 4, 36)
    assert found.held_out_is == "every 10th image" and found.accuracy == 1.0
    grey = torch.zeros(2, 1, 64, 48)
    assert found.prepared(grey).shape == (2, 3, 32, 32)


def test_sets_without_classes_are_refused(tmp_path: Path) -> None:
    folder = folder_of_classes(tmp_path / "two", count=6)
    with pytest.raises(UserError, match="random-conv"):
        trained.classifier(folder / "0")
    with pytest.raises(UserError, match="labelled set"):
        features("classifier")


def test_as_an_extractor(digits: trained.Classifier, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trained, "classifier", lambda data: digits)
    extractor = features("classifier", "digits")
    held_out = open_set("digits:test")
    found, logits = extract(extractor, held_out, logits=True)
    assert found.shape == (179, extractor.dimensions) == (179, 128) and logits.shape == (179, extractor.classes)
    assert held_out.labels is not None
    assert (logits.argmax(1) == held_out.labels).mean() == pytest.approx(digits.accuracy)
    assert extractor.provenance()["classifier_accuracy"] == digits.accuracy
    assert extractor.provenance()["resize"] == "bicubic-8"
    # A set at another resolution is still judged by the classifier of the named set.
    seen: list[object] = []
    monkeypatch.setattr(trained, "classifier", lambda data: seen.append(data) or digits)
    large = open_set("digits:test", resolution=16)
    assert chosen("auto", large, "digits:test").name == "classifier" and seen == ["digits"]
    chosen("classifier", large, "elsewhere")
    assert seen[1] is large


def test_as_a_perceptual_distance(digits: trained.Classifier, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trained, "classifier", lambda data, **options: digits)
    x = torch.from_numpy(np.array(open_set("digits:test").images[:8])).float() / 127.5 - 1
    distance = perceptual.perceptual("classifier", data="digits")
    assert distance(x, x).abs().max() == 0
    near, far = distance(x, x + 0.05), distance(x, x.roll(1, 0))
    assert (near < far).all() and distance.identity == digits.identity


@pytest.mark.slow
def test_fashion_mnist_in_a_minute() -> None:
    found = trained.classifier("fashion-mnist")
    assert found.accuracy > 0.90 and found.held_out == 10_000
