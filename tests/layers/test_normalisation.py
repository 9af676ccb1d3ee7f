from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from saddlepoint import tracking
from saddlepoint.layers.normalisation import BatchNorm, LayerNorm

SHAPES = [(6, 3), (4, 3, 2, 5), (4, 3, 2, 3, 2)]


def pair(shape: tuple[int, ...], dtype: torch.dtype = torch.float64) -> tuple[BatchNorm, nn.Module, Tensor]:
    """Ours and torch's layer with the same gains, and an input."""
    torch.manual_seed(0)
    kinds = {2: nn.BatchNorm1d, 4: nn.BatchNorm2d, 5: nn.BatchNorm3d}
    ours, theirs = BatchNorm(3).to(dtype), kinds[len(shape)](3).to(dtype)
    with torch.no_grad():
        for layer in (ours, theirs):
            layer.weight.copy_(torch.tensor([0.5, -1.0, 2.0]))
            layer.bias.copy_(torch.tensor([0.1, 0.2, -0.3]))
    return ours, theirs, torch.randn(shape, dtype=dtype) * 3 + 1


@pytest.mark.parametrize("shape", SHAPES)
def test_training_and_running_statistics_are_torchs(shape: tuple[int, ...]) -> None:
    ours, theirs, x = pair(shape)
    for step in range(3):
        with tracking.collecting() as ledger:
            y = ours(x * (step + 1))
        before = ours.running_mean.clone()
        torch.testing.assert_close(y, theirs(x * (step + 1)), rtol=0, atol=1e-12)
        assert torch.equal(ours.running_mean, before)  # nothing is written before the commit
        tracking.commit(ledger)
        torch.testing.assert_close(ours.running_mean, theirs.running_mean, rtol=0, atol=1e-12)
        torch.testing.assert_close(ours.running_var, theirs.running_var, rtol=0, atol=1e-12)
    torch.testing.assert_close(ours.eval()(x), theirs.eval()(x), rtol=0, atol=1e-12)


def test_evaluation_tracks_nothing_and_batch_statistics_override_it() -> None:
    ours, theirs, x = pair(SHAPES[1])
    ours.eval()
    with tracking.collecting() as ledger:
        ours(x)
    assert ledger == []
    ours.batch_statistics = True
    torch.testing.assert_close(ours(x), theirs(x))


@pytest.mark.parametrize("affine", [True, False])
def test_first_and_second_derivatives(affine: bool) -> None:
    torch.manual_seed(0)
    layer = BatchNorm(2, affine=affine).double()
    x = torch.randn(3, 2, 2, 2, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(layer, (x,))
    assert torch.autograd.gradgradcheck(layer, (x,))
    if affine:
        at = lambda x, w, b: torch.func.functional_call(layer, {"weight": w, "bias": b}, (x,))  # noqa: E731
        assert torch.autograd.gradgradcheck(at, (x, layer.weight, layer.bias))


def test_the_form_for_several_processes_is_the_same_function() -> None:
    """With one process it must agree with torch's kernel in values, statistics and two orders of derivative."""
    ours, theirs, x = pair(SHAPES[1])
    x.requires_grad_()
    y, mean, var, count = ours._in_steps(x, 1)
    torch.testing.assert_close(y, theirs(x), rtol=0, atol=1e-12)
    torch.testing.assert_close(mean, x.mean([0, 2, 3]))
    torch.testing.assert_close(var, x.var([0, 2, 3], correction=0))
    assert count == 40
    c = torch.randn_like(y)
    derivatives = []
    for out in (y, theirs(x)):
        (first,) = torch.autograd.grad((c * out.sin()).sum(), x, create_graph=True)
        derivatives.append((first, *torch.autograd.grad(first.square().sum(), (x,))))
    for a, b in zip(*derivatives, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-11)


def third_derivative(f: Any, x: Tensor) -> Tensor:
    """Along fixed directions, so that an error in any order shows."""
    u, c = torch.sin(torch.arange(x.numel(), dtype=x.dtype)).view_as(x), torch.cos(x.detach())
    value = (c * f(x).sin()).sum()
    for _ in range(3):
        (gradient,) = torch.autograd.grad(value, x, create_graph=True)
        value = (gradient * u).sum()
    return gradient.detach()


@pytest.mark.parametrize("shape", SHAPES)
def test_third_derivatives_of_an_analysis_are_right(shape: tuple[int, ...]) -> None:
    """A penalty on a gradient, differentiated by a spectrum: torch's kernel for batch norm gets it wrong."""
    ours, theirs, x = pair(shape)
    x.requires_grad_()

    def by_hand(x: Tensor) -> Tensor:
        axes, channel = [0, *range(2, x.ndim)], (1, 3, *[1] * (x.ndim - 2))
        centred = x - x.mean(axes, keepdim=True)
        scaled = centred / (centred.square().mean(axes, keepdim=True) + 1e-5).sqrt()
        return scaled * ours.weight.view(channel) + ours.bias.view(channel)

    expected = third_derivative(by_hand, x)
    with tracking.any_order(), tracking.collecting() as ledger:
        torch.testing.assert_close(third_derivative(ours, x), expected, rtol=1e-9, atol=1e-11)
    assert [entry.buffer for entry in ledger] == [ours.running_mean, ours.running_var]
    assert (third_derivative(theirs, x) - expected).norm() > 0.01 * expected.norm()  # else the detour may go


def test_third_derivatives_of_layer_norm() -> None:
    torch.manual_seed(0)
    layer, x = LayerNorm(3).double(), torch.randn(4, 3, 2, 2, dtype=torch.float64, requires_grad=True)

    def by_hand(x: Tensor) -> Tensor:
        centred = x - x.mean([1, 2, 3], keepdim=True)
        return centred / (centred.square().mean([1, 2, 3], keepdim=True) + 1e-5).sqrt()

    torch.testing.assert_close(third_derivative(layer, x), third_derivative(by_hand, x), rtol=1e-9, atol=1e-11)


def test_bf16_autocast_keeps_float32_statistics() -> None:
    ours, _, x = pair((64, 3, 4, 4), torch.float32)
    for tracked in (ours, lambda x: ours._in_steps(x, 1)[0]):
        with torch.autocast("cpu", dtype=torch.bfloat16), tracking.collecting() as ledger:
            y = tracked(x.bfloat16())
        assert y.dtype == torch.bfloat16
        torch.testing.assert_close(y.float(), ours(x), rtol=0.05, atol=0.05)
        for entry in ledger:
            assert entry.statistic.dtype == torch.float32
            assert entry.statistic.isfinite().all()


def test_small_variances_are_recovered_from_the_kernel() -> None:
    layer = BatchNorm(1)
    x = torch.randn(256, 1, generator=torch.Generator().manual_seed(0)) * 1e-3  # variance 1e-6, a tenth of eps
    with tracking.collecting() as ledger:
        layer(x)
    assert ledger[1].statistic.item() == pytest.approx(x.var().item(), rel=1e-3)


def test_one_value_per_channel_is_finite() -> None:
    layer = BatchNorm(3)
    with tracking.collecting() as ledger:
        y = layer(torch.randn(1, 3))
    assert y.abs().max() < 1e-3
    assert ledger[1].statistic.abs().max() < 1e-8


def test_nothing_is_written_under_torch_func() -> None:
    layer, x = BatchNorm(2).double(), torch.randn(4, 2, dtype=torch.float64)
    jacobian = torch.func.jacrev(layer)(x)
    assert jacobian.shape == (4, 2, 4, 2)
    assert not layer.running_mean.any()


@pytest.mark.parametrize("shape", [(5, 4), (5, 4, 3, 2)])
def test_layer_norm_by_hand(shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    layer = LayerNorm(4).double()
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([1.0, 2.0, 3.0, 4.0]))
        layer.bias.copy_(torch.tensor([0.0, 1.0, 0.0, -1.0]))
    x = torch.randn(shape, dtype=torch.float64)
    channel = (1, 4, *[1] * (len(shape) - 2))
    axes = list(range(1, len(shape)))
    mean, var = x.mean(axes, keepdim=True), x.var(axes, correction=0, keepdim=True)
    expected = (x - mean) / (var + 1e-5).sqrt() * layer.weight.view(channel) + layer.bias.view(channel)
    torch.testing.assert_close(layer(x), expected)
    assert sum(p.numel() for p in layer.parameters()) == 8  # per channel, not per element


def test_layer_norm_does_not_mix_samples() -> None:
    layer, x = LayerNorm(4), torch.randn(3, 4, 2, 2)
    changed = x.clone()
    changed[1] *= 7
    same = (layer(x) == layer(changed)).flatten(1).all(1)
    assert same.tolist() == [True, False, True]
