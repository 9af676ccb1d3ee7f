from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from saddlepoint.errors import UserError
from saddlepoint.game import Game
from saddlepoint.layers.convolution import UpConv, fan_uniform_, halvings, normal_initialisation
from saddlepoint.layers.normalisation import BatchNorm


@pytest.mark.parametrize("kernel", [3, 4, 5, 7])
@pytest.mark.parametrize("outputs", [2, 6])  # few channels go by sub-pixels
@pytest.mark.parametrize("analysis", [False, True])
@pytest.mark.parametrize("bias", [False, True])
def test_up_conv_is_the_transposed_convolution(kernel: int, outputs: int, analysis: bool, bias: bool) -> None:
    torch.manual_seed(0)
    ours = UpConv(3, outputs, kernel, bias=bias).double()
    theirs = nn.ConvTranspose2d(3, outputs, kernel, 2, (kernel - 1) // 2, output_padding=kernel % 2, bias=bias).double()
    with torch.no_grad():
        theirs.weight.copy_(ours.weight)
        if bias:
            theirs.bias.copy_(ours.bias.normal_())
    x = torch.randn(2, 3, 4, 5, dtype=torch.float64)
    if analysis:
        with Game().untouched():
            y = ours(x)
    else:
        y = ours(x)
    torch.testing.assert_close(y, theirs(x), rtol=0, atol=1e-12)
    square = x[..., :4]
    torch.testing.assert_close(ours(square, 7), theirs(square)[:, :, :7, :7], rtol=0, atol=1e-12)


@pytest.mark.parametrize("outputs", [1, 6])
def test_up_conv_has_a_third_derivative_under_analysis(outputs: int) -> None:
    layer, x = UpConv(2, outputs, 5).double(), torch.randn(1, 2, 2, 2, dtype=torch.float64, requires_grad=True)
    with Game().untouched():
        y = layer(x).tanh().square().sum()
        for _ in range(3):
            (gradient,) = torch.autograd.grad(y, x, create_graph=True)
            y = gradient.tanh().sum()
    assert gradient.abs().max() > 0


@pytest.mark.parametrize(("resolution", "expected"), [(8, 1), (32, 3), (64, 4), (1024, 8)])
def test_halvings_lead_to_four(resolution: int, expected: int) -> None:
    assert halvings(resolution, "test") == expected and resolution >> expected == 4


@pytest.mark.parametrize(("resolution", "near"), [(1, 8), (9, 8), (12, 8), (13, 16), (48, 32), (100, 128)])
def test_other_resolutions_are_errors_that_name_the_nearest(resolution: int, near: int) -> None:
    with pytest.raises(UserError, match=rf"test needs .* not {resolution}; nearest: {near}\."):
        halvings(resolution, "test")


def test_initialisations() -> None:
    net = nn.Sequential(nn.Conv2d(40, 50, 3), UpConv(50, 40, 4, bias=True), BatchNorm(4000), nn.Linear(100, 100))
    normal_initialisation(net, std=0.5)
    assert all(m.weight.std().item() == pytest.approx(0.5, rel=0.03) for m in net)
    assert net[2].weight.mean().item() == pytest.approx(1, abs=0.03)
    assert all(torch.all(m.bias == 0) for m in net)
    weight = torch.empty(100_000)
    fan_uniform_(weight, 30, 10, 4.0)
    std = math.sqrt(4 / 40)
    assert weight.std().item() == pytest.approx(std, rel=0.01)
    assert weight.abs().max().item() == pytest.approx(math.sqrt(3) * std, rel=0.01)
