"""The one interface: what every extractor promises, extraction of many images, and what the errors say."""

from __future__ import annotations

import sys
import types
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from saddlepoint.data import open_set
from saddlepoint.errors import UserError
from saddlepoint.metrics import lite, trunks
from saddlepoint.metrics.extractors import EXTRACTORS, Extractor, automatic, chosen, extract, features, parse_resize

RANDOM = features("random-conv")


def images(count: int, *shape: int, seed: int = 0) -> Tensor:
    return torch.rand(count, *shape, generator=torch.Generator().manual_seed(seed)) * 2 - 1


# ---- what every extractor promises
@pytest.fixture(scope="module", params=["random-conv", "pixels-pca64", "efficientnet-lite0"])
def extractor(request: pytest.FixtureRequest) -> Extractor:
    if request.param == "efficientnet-lite0":
        pytest.importorskip(lite.PACKAGE)
    return features(request.param, images(100, 1, 16, 16) if request.param == "pixels-pca64" else None)


def test_float32_per_image_without_gradients(extractor: Extractor) -> None:
    x = images(5, 1, 16, 16, seed=1).requires_grad_(True)
    found = extractor(x)
    assert found.shape == (5, extractor.dimensions) and found.dtype == torch.float32 and not found.requires_grad
    torch.testing.assert_close(found[3:4], extractor(x[3:4]), rtol=1e-4, atol=1e-4)
    assert extractor(x[:0].detach()).shape == (0, extractor.dimensions)


def test_rounds_to_bytes_first(extractor: Extractor) -> None:
    x = images(2, 1, 16, 16, seed=2)
    as_bytes = ((x * 127.5 + 128).clamp(0, 255).byte().float() / 127.5 - 1).clone()
    assert torch.equal(extractor(x), extractor(as_bytes))
    assert torch.equal(extractor(x.double()), extractor(x))


def test_provenance_is_of_the_weights(extractor: Extractor) -> None:
    record = extractor.provenance()
    assert {"extractor", "extractor_identity", "resize", "extractor_dtype", "input"} <= set(record)
    assert record["extractor"] == extractor.name and "@sha256:" in extractor.identity
    if extractor.name != "pixels-pca64":
        assert features(extractor.name).identity == extractor.identity


# ---- random-conv and pixels-pca64
def test_random_conv_is_the_same_everywhere_and_changes_with_the_seed() -> None:
    """PCG64 makes the weights; these numbers were written down once."""
    first = trunks.RandomConv(0).convs[0].weight[0, 0, 0]
    drawn = np.random.Generator(np.random.PCG64(0)).standard_normal(3) * np.sqrt(2 / 27)
    np.testing.assert_allclose(first.numpy(), drawn, rtol=1e-6)
    assert RANDOM.identity == "random-conv-0@sha256:73294ee04252f52b"
    assert features("random-conv", 1).identity != RANDOM.identity
    with pytest.raises(UserError, match="seed"):
        features("random-conv", "one")


def test_random_conv_keeps_signals_at_their_size_and_sees_layout() -> None:
    x = torch.randn(4, 3, 64, 64, generator=torch.Generator().manual_seed(3)).clamp(-1, 1)
    sizes = [h.square().mean().sqrt().item() for h in trunks.RandomConv().stages(x)]
    assert all(0.3 < size < 2 for size in sizes)
    bar = torch.full((1, 1, 32, 32), -1.0)
    bar[..., :8] = 1
    assert (RANDOM(bar)[:, 64:] - RANDOM(bar.flip(3))[:, 64:]).abs().max() > 0.1


@pytest.mark.parametrize("count", [100, 300])  # fewer images than pixels, and more
def test_pca_is_numpys(count: int) -> None:
    x = images(count, 1, 12, 12)
    extractor = features("pixels-pca64", x)
    rounded = (x * 127.5 + 128).byte().double() / 127.5 - 1
    flat = rounded.flatten(1).numpy()
    flat = flat - flat.mean(0)
    values, vectors = np.linalg.eigh(flat.T @ flat)
    found = extractor(x).double().numpy()
    np.testing.assert_allclose(np.abs(found), np.abs(flat @ vectors[:, ::-1][:, :64]), atol=2e-4)
    np.testing.assert_allclose((found**2).sum(0), values[::-1][:64], rtol=1e-3)  # in falling order
    assert features("pixels-pca64", x.numpy()).identity == extractor.identity
    assert features("pixels-pca64", images(count, 1, 12, 12, seed=5)).identity != extractor.identity


def test_pca_refuses_what_it_cannot_fit() -> None:
    extractor = features("pixels-pca64", "digits")
    assert extractor.provenance()["fitted_on"] == 1618
    with pytest.raises(UserError, match=r"fitted on \[1, 8, 8\]"):
        extractor(images(2, 1, 9, 9))
    with pytest.raises(UserError, match="more than 64 images"):
        features("pixels-pca64", images(60, 1, 8, 8))
    with pytest.raises(UserError, match="reference images"):
        features("pixels-pca64")


def test_pca_of_resized_images_takes_any_size() -> None:
    extractor = features("pixels-pca64", images(80, 3, 20, 24), resize="bicubic-16")
    assert extractor(images(2, 3, 31, 9)).shape == (2, 64)


# ---- many images
@given(st.lists(st.integers(1, 9), min_size=1, max_size=6), st.integers(1, 12), st.booleans())
@settings(max_examples=20)
def test_pieces_and_batches_do_not_matter(pieces: list[int], batch: int, labelled: bool) -> None:
    x = images(sum(pieces), 1, 8, 8)
    parts = x.split(pieces)
    source = [(part, None) for part in parts] if labelled else parts
    seen: list[tuple[int, int | None]] = []
    found = extract(RANDOM, iter(source), batch=batch, progress=lambda *at: seen.append(at))
    np.testing.assert_allclose(found, RANDOM(x).numpy(), rtol=1e-4, atol=1e-5)
    steps = [a[0] - b[0] for a, b in zip(seen, [(0, None), *seen], strict=False)]
    assert seen[-1] == (len(x), None) and steps[:-1] == [batch] * (len(steps) - 1) and 0 < steps[-1] <= batch


def test_sets_bytes_and_tensors_are_one() -> None:
    whole = open_set("digits:test")
    x = torch.from_numpy(np.array(whole.images)).float() / 127.5 - 1
    from_set = extract(RANDOM, whole, batch=50)
    assert from_set.dtype == np.float32 and from_set.shape == (179, 128)
    np.testing.assert_array_equal(from_set, extract(RANDOM, np.array(whole.images), batch=50))
    np.testing.assert_array_equal(from_set, extract(RANDOM, x, batch=50))
    totals: list[int | None] = []
    extract(RANDOM, x, batch=100, progress=lambda done, total: totals.append(total))
    assert totals == [179, 179]


def test_nothing_to_extract_is_told() -> None:
    with pytest.raises(UserError, match="no images"):
        extract(RANDOM, [])
    with pytest.raises(UserError, match="batch 0"):
        extract(RANDOM, images(1, 1, 8, 8), batch=0)


# ---- errors
def test_unknown_names_and_missing_parts() -> None:
    with pytest.raises(UserError, match="did you mean 'inception-2015'"):
        features("inception-2016")
    with pytest.raises(UserError, match=r"no logits.*classifier"):
        RANDOM.logits(images(1, 1, 8, 8))
    with pytest.raises(UserError, match=r"vgg16-397923af\.pth"):
        features("vgg16")
    with pytest.raises(UserError, match="NaN"):
        RANDOM(torch.full((1, 1, 8, 8), float("nan")))
    with pytest.raises(UserError, match="cannot be changed"):
        features("classifier", "digits", resize="bicubic-16")


@pytest.mark.parametrize("resize", ["bicubic", "bicubic-7", "bicubic-x", "cubic-64", "none-64", "-64", ""])
def test_impossible_resizes(resize: str) -> None:
    with pytest.raises(UserError, match="bicubic-128"):
        parse_resize(resize, "random-conv")


def test_resizes_are_part_of_the_record() -> None:
    resized = features("random-conv", resize="bicubic-16")
    assert resized.provenance() != RANDOM.provenance() and resized.identity == RANDOM.identity
    assert not torch.allclose(resized(images(1, 1, 32, 32)), RANDOM(images(1, 1, 32, 32)))
    assert torch.equal(resized(images(1, 1, 16, 16)), RANDOM(images(1, 1, 16, 16)))


# ---- chosen for a set
def test_automatic_choice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    grey = open_set("digits", resolution=16)
    assert automatic(grey, "digits:test") == ("classifier", "digits")
    assert automatic(grey, "somewhere") == ("classifier", grey)
    colour = open_set("digits", channels=3)
    monkeypatch.setattr(lite, "PACKAGE", "json")  # an installed one
    assert automatic(colour)[0] == "efficientnet-lite0"
    monkeypatch.setattr(lite, "PACKAGE", "no_such_package_of_weights")
    assert automatic(colour)[0] == "random-conv"
    assert chosen("pixels-pca64", open_set("digits")).identity == features("pixels-pca64", "digits").identity
    with pytest.raises(UserError, match="auto"):
        chosen("auto", grey, weights="x.pth")


# ---- other libraries, by a stand-in with their interface
class Vision(nn.Module):
    """As a model of transformers: pixel_values -> last_hidden_state, or image features."""

    def __init__(self, width: int) -> None:
        super().__init__()
        torch.manual_seed(width)
        self.patch = nn.Conv2d(3, width, 16, 16)
        self.config = types.SimpleNamespace(vision_config=types.SimpleNamespace(image_size=48))

    def forward(self, pixel_values: Tensor) -> types.SimpleNamespace:
        tokens = self.patch(pixel_values).flatten(2).transpose(1, 2)
        return types.SimpleNamespace(last_hidden_state=torch.cat([tokens.mean(1, keepdim=True), tokens], 1))

    def get_image_features(self, pixel_values: Tensor) -> Tensor:
        return self.patch(pixel_values).mean((2, 3))


@pytest.fixture
def library(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Stands in for transformers; returns the names that models were asked for by."""
    asked: list[str] = []

    def model(name: str) -> Vision:
        asked.append(name)
        if name == "absent":
            raise OSError("absent is not a local folder")
        return Vision(8)

    maker = types.SimpleNamespace(from_pretrained=model)
    module = types.ModuleType("transformers")
    module.__dict__.update(AutoModel=maker, CLIPModel=maker)
    monkeypatch.setitem(sys.modules, "transformers", module)
    return asked


def test_dinov2_is_the_class_token_of_normalised_pixels(library: list[str]) -> None:
    extractor = features("dinov2", "some/model")
    assert library == ["some/model"] and extractor.resize == "bicubic-224" and extractor.dimensions == 8
    grey = torch.full((1, 1, 20, 20), 127 / 127.5 - 1)
    mean, deviation = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    flat = ((127 / 255 - mean) / deviation).view(1, 3, 1, 1).expand(1, 3, 16, 16)
    torch.testing.assert_close(extractor(grey), Vision(8).patch(flat).flatten(1).detach(), rtol=1e-3, atol=1e-4)


def test_clip_has_unit_length_and_the_models_side(library: list[str]) -> None:
    extractor = features("clip", "some/model")
    assert extractor.resize == "bicubic-48"
    torch.testing.assert_close(extractor(images(3, 3, 20, 20)).norm(dim=1), torch.ones(3))
    assert features("clip", "other", resize="tf-64").resize == "tf-64"
    with pytest.raises(UserError, match="openai/clip"):
        features("clip")
    with pytest.raises(UserError, match=r"'absent'.*not a local folder"):
        features("clip", "absent")


def test_libraries_that_are_not_installed_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    for module, name, pip in (
        ("transformers", "dinov2", "transformers"),
        ("open_clip", "open-clip", "open_clip_torch"),
    ):
        monkeypatch.setitem(sys.modules, module, None)
        with pytest.raises(UserError, match=f"pip install {pip}"):
            features(name, "x@y")


def test_open_clip_by_its_interface(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str, str]] = []

    class Model(Vision):
        visual = types.SimpleNamespace(image_size=(32, 32))
        encode_image = Vision.get_image_features

    def create_model(architecture: str, pretrained: str) -> Model:
        asked.append((architecture, pretrained))
        return Model(8)

    module = types.ModuleType("open_clip")
    module.__dict__["create_model"] = create_model
    monkeypatch.setitem(sys.modules, "open_clip", module)
    extractor = features("open-clip", "ViT-B-32@file.pt")
    assert asked == [("ViT-B-32", "file.pt")] and extractor.resize == "bicubic-32"
    torch.testing.assert_close(extractor(images(2, 1, 9, 9)).norm(dim=1), torch.ones(2))
    with pytest.raises(UserError, match="ARCHITECTURE@FILE"):
        features("open-clip", "ViT-B-32")


def test_vgg16_reads_torchvisions_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every layer of 4096 made 8 wide, or the file would have half a gigabyte."""

    class Narrow(trunks.VGG16):
        def __init__(self) -> None:
            nn.Module.__init__(self)
            self.features = trunks.Trunk("vgg", 32).features
            layers = [nn.Linear(16 * 49, 8), nn.ReLU(), nn.Identity(), nn.Linear(8, 8), nn.ReLU(), nn.Identity()]
            self.classifier = nn.Sequential(*layers, nn.Linear(8, 1000))

    torch.manual_seed(0)
    network = Narrow()
    assert {"features.28.weight", "classifier.0.weight", "classifier.3.bias", "classifier.6.weight"} <= set(
        network.state_dict()
    )
    torch.save(network.state_dict(), tmp_path / "vgg.pth")
    monkeypatch.setattr(trunks, "VGG16", Narrow)
    extractor = features("vgg16", tmp_path / "vgg.pth", resize="none")
    x = images(2, 3, 32, 32)
    mean = torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1)
    deviation = torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1)
    hidden = network.features(((x * 127.5 + 128).byte() / 255 - mean) / deviation)
    hidden = nn.functional.adaptive_avg_pool2d(hidden, 7).flatten(1)
    hidden = network.classifier[3](network.classifier[0](hidden).relu()).relu()
    found, logits = extractor.both(x)
    torch.testing.assert_close(found, hidden.detach(), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(logits, network.classifier[6](hidden).detach(), rtol=1e-4, atol=1e-5)


def test_the_table_says_what_each_needs() -> None:
    assert set(EXTRACTORS) >= {
        "inception-2015",
        "efficientnet-lite0",
        "classifier",
        "random-conv",
        "pixels-pca64",
        "dinov2",
    }
    assert all(entry.summary and entry.weights for entry in EXTRACTORS.values())
