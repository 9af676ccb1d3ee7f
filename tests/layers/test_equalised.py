from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from saddlepoint.layers.equalised import EqualisedConv2d, EqualisedLinear, MinibatchStd, pixel_norm
from saddlepoint.layers.growing import down_conv, up_conv
from saddlepoint.layers.residual import doubled, halved

ROOT2 = 2**0.5


# ---- equalised learning rate
@pytest.mark.parametrize("gain", [1.0, ROOT2, ROOT2 / 4])
def test_run_time_coefficients(gain: float) -> None:
    torch.manual_seed(0)
    dense, conv = EqualisedLinear(8, 3, gain=gain), EqualisedConv2d(4, 3, 3, gain=gain)
    assert dense.scale == pytest.approx(gain / 8**0.5) and conv.scale == pytest.approx(gain / 6)
    x, maps = torch.randn(5, 8), torch.randn(2, 4, 6, 6)
    assert dense.bias is not None and conv.bias is not None
    with torch.no_grad():
        dense.bias.fill_(0.5)
        conv.bias.fill_(-0.5)
    torch.testing.assert_close(dense(x), x @ dense.weight.t() * gain / 8**0.5 + 0.5)
    torch.testing.assert_close(conv(maps), F.conv2d(maps, conv.weight, padding=1) * gain / 6 - 0.5)


def test_weights_start_with_unit_variance_and_outputs_with_gain_squared() -> None:
    torch.manual_seed(0)
    conv = EqualisedConv2d(64, 64, 3, gain=ROOT2)
    assert float(conv.weight.detach().std()) == pytest.approx(1, rel=0.02)
    y = conv(torch.randn(4, 64, 16, 16))[..., 1:-1, 1:-1]
    assert float(y.detach().std()) == pytest.approx(ROOT2, rel=0.03)


@pytest.mark.parametrize("k", [0.25, 3.0])
def test_weights_times_k_and_gain_over_k_are_the_same_function(k: float) -> None:
    torch.manual_seed(0)
    x = torch.randn(3, 8)
    layer, other = EqualisedLinear(8, 4, gain=ROOT2), EqualisedLinear(8, 4, gain=ROOT2 / k)
    with torch.no_grad():
        other.weight.copy_(k * layer.weight)
    torch.testing.assert_close(layer(x), other(x))


def test_half_the_multiplier_with_twice_the_weights_is_the_same_function_half_as_fast() -> None:
    torch.manual_seed(0)
    x = torch.randn(3, 8)
    one, half = EqualisedLinear(8, 4, multiplier=0.02), EqualisedLinear(8, 4, multiplier=0.01)
    with torch.no_grad():
        for a, b in zip(one.parameters(), half.parameters(), strict=True):
            a.add_(torch.randn_like(a))
            b.copy_(2 * a)
    torch.testing.assert_close(one(x), half(x))
    gradients = [torch.autograd.grad(m(x).square().sum(), list(m.parameters())) for m in (one, half)]
    for a, b in zip(*gradients, strict=True):
        torch.testing.assert_close(b, a / 2)


def test_first_weights_and_biases_undo_the_multiplier() -> None:
    torch.manual_seed(0)
    layer = EqualisedLinear(64, 64, multiplier=0.01, bias_start=1.0)
    assert float(layer.weight.detach().std()) == pytest.approx(100, rel=0.05)
    assert layer.bias is not None and torch.allclose(layer.bias, torch.tensor(100.0))
    torch.testing.assert_close(layer(torch.zeros(1, 64)), torch.ones(1, 64))
    assert float(layer(torch.randn(256, 64)).detach().std()) == pytest.approx(1, rel=0.1)
    assert EqualisedLinear(4, 4, bias=False).bias is None


def test_bias_scale_scales_the_bias_only() -> None:
    for layer, x in ((EqualisedLinear(4, 2), torch.zeros(1, 4)), (EqualisedConv2d(4, 2, 3), torch.zeros(1, 4, 3, 3))):
        assert isinstance(layer, EqualisedLinear | EqualisedConv2d) and layer.bias is not None
        nn.init.constant_(layer.bias, 2.0)
        layer.bias_scale = 0.25
        assert torch.equal(layer(x), torch.full_like(layer(x), 0.5))


# ---- resampling convolutions
def test_one_transposed_convolution_is_nearest_then_convolution() -> None:
    torch.manual_seed(0)
    x, w, b = torch.randn(2, 3, 5, 4), torch.randn(6, 3, 3, 3), torch.randn(6)
    torch.testing.assert_close(up_conv(x, w, b), F.conv2d(doubled(x), w, b, padding=1), atol=1e-5, rtol=1e-5)


def test_one_strided_convolution_is_convolution_then_mean() -> None:
    torch.manual_seed(0)
    x, w, b = torch.randn(2, 3, 6, 8), torch.randn(6, 3, 3, 3), torch.randn(6)
    torch.testing.assert_close(down_conv(x, w, b), halved(F.conv2d(x, w, b, padding=1)), atol=1e-5, rtol=1e-5)


def test_resampling_convolutions_have_right_first_and_second_derivatives() -> None:
    torch.manual_seed(0)
    x = torch.randn(1, 2, 4, 4, dtype=torch.float64, requires_grad=True)
    w = torch.randn(2, 2, 3, 3, dtype=torch.float64, requires_grad=True)
    for function in (up_conv, down_conv):
        assert torch.autograd.gradcheck(function, (x, w))
        assert torch.autograd.gradgradcheck(function, (x, w))


# ---- pixel norm
@pytest.mark.parametrize("shape", [(3, 16), (2, 8, 4, 5)])
def test_pixel_norm_leaves_a_mean_square_of_one(shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    y = pixel_norm(5 * torch.randn(shape))
    torch.testing.assert_close(y.square().mean(1), torch.ones_like(y[:, 0]), atol=1e-6, rtol=1e-6)


def test_pixel_norm_of_zeros_is_zero_with_a_finite_gradient() -> None:
    x = torch.zeros(1, 4, 1, 1, requires_grad=True)
    (gradient,) = torch.autograd.grad(pixel_norm(x).sum(), x)
    assert torch.equal(gradient, torch.full_like(x, 1e4))  # 1 / sqrt(1e-8)


# ---- minibatch deviation
def test_deviation_by_hand_in_interleaved_groups() -> None:
    # Batch of 4 in groups of 2: {0, 2} and {1, 3}. Consecutive groups would give 5 and 0 the other way round.
    x = torch.tensor([0.0, 1.0, 10.0, 1.0]).view(4, 1, 1, 1)
    y = MinibatchStd(group=2)(x)
    assert y.shape == (4, 2, 1, 1) and torch.equal(y[:, :1], x)
    torch.testing.assert_close(y[:, 1, 0, 0], torch.tensor([5.0, 1e-4, 5.0, 1e-4]))


def test_deviation_is_the_mean_over_channels_and_pixels_of_biased_deviations() -> None:
    x = torch.zeros(2, 2, 1, 2)
    x[1, 0] = torch.tensor([2.0, 4.0])  # deviations 1 and 2 in channel 0, 0 in channel 1
    y = MinibatchStd(group=4)(x)
    torch.testing.assert_close(y[:, 2], torch.full((2, 1, 2), (1 + 2 + 1e-4 + 1e-4) / 4))
    two = MinibatchStd(group=4, features=2)(x)
    torch.testing.assert_close(two[0, 2:, 0, 0], torch.tensor([1.5, 1e-4]))


@pytest.mark.parametrize(("n", "group", "size"), [(8, 4, 4), (6, 4, 3), (7, 4, 1), (14, 4, 2), (3, 4, 3), (10, 0, 10)])
def test_groups_are_the_largest_divisor_of_the_batch(n: int, group: int, size: int) -> None:
    torch.manual_seed(0)
    x = torch.randn(n, 3, 2, 2)
    y = MinibatchStd(group)(x)[:, 3, 0, 0]
    for start in range(n // size):
        members = x[start :: n // size]
        expected = (members.var(0, correction=0) + 1e-8).sqrt().mean()
        assert len(members) == size
        torch.testing.assert_close(y[start :: n // size], expected.expand(size))


def test_equal_samples_have_a_deviation_of_the_constant() -> None:
    y = MinibatchStd()(torch.randn(1, 3, 4, 4).expand(8, -1, -1, -1))
    torch.testing.assert_close(y[:, 3], torch.full((8, 4, 4), 1e-4))


@given(st.permutations(range(4)))
def test_the_order_inside_a_group_does_not_matter(order: list[int]) -> None:
    x = torch.randn(8, 2, 3, 3, generator=torch.Generator().manual_seed(0))
    places = torch.arange(8)
    places[::2] = 2 * torch.tensor(order)  # the group of even samples
    torch.testing.assert_close(MinibatchStd()(x[places])[:, 2], MinibatchStd()(x)[:, 2])


def test_deviation_has_right_second_derivatives() -> None:
    x = torch.randn(4, 2, 2, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).requires_grad_()
    assert torch.autograd.gradgradcheck(MinibatchStd(2), (x,))


def test_slices_of_several_processes_are_one_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two processes with half of the batch each, played one after the other: the sums meet in a shared list."""
    from saddlepoint import distributed, tracking

    x = torch.randn(8, 4, 3, 3, generator=torch.Generator().manual_seed(0))
    whole = MinibatchStd(4, features=2)(x)
    sums: list[list[torch.Tensor]] = [[], []]

    def play(rank: int) -> torch.Tensor:
        calls = iter(range(9))

        def mean(part: torch.Tensor) -> torch.Tensor:
            call = next(calls)
            mine, other = sums[rank], sums[1 - rank]
            mine[call:] = [part]
            return (part + (other[call] if call < len(other) else part)) / 2

        monkeypatch.setattr(distributed, "world_size", lambda: 2)
        monkeypatch.setattr(distributed, "rank", lambda: rank)
        monkeypatch.setattr(distributed, "mean", mean)
        with tracking.a_move():
            return MinibatchStd(4, features=2)(x[4 * rank : 4 * rank + 4])

    for _ in range(3):  # until both have seen the other's first and second sums
        parts = [play(0), play(1)]
    torch.testing.assert_close(torch.cat(parts), whole)
