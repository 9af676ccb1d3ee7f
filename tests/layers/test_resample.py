"""Resampling against twins that loop, against closed forms and against the official operators."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file
from torch import Tensor

import saddlepoint.layers as layers
from saddlepoint.errors import UserError
from saddlepoint.layers.resample import (
    bias_act,
    conv2d_resample,
    downsample2d,
    filter2d,
    filtered_lrelu,
    setup_filter,
    upfirdn2d,
    upsample2d,
)


# ---- twins
def upfirdn_axis(x: np.ndarray, f: np.ndarray, up: int, down: int, before: int, after: int) -> np.ndarray:
    """One axis (the last), by its definition: zeros in between, padding, numpy's convolution, every down-th."""
    spread = np.zeros((*x.shape[:-1], x.shape[-1] * up))
    spread[..., ::up] = x
    spread = np.pad(spread, [(0, 0)] * (x.ndim - 1) + [(max(before, 0), max(after, 0))])
    spread = spread[..., max(-before, 0) : spread.shape[-1] - max(-after, 0)]
    return np.apply_along_axis(lambda row: np.convolve(row, f, "valid")[::down], -1, spread)


def twin(x: Tensor, f: Tensor, up: tuple[int, int], down: tuple[int, int], padding: tuple[int, ...]) -> Tensor:
    """Two axes, one after the other; a filter [kh, kw] as the sum of its rows."""
    x0, x1, y0, y1 = padding
    rows = [(f.numpy(), f.numpy())] if f.ndim == 1 else [(np.eye(len(f))[i], f[i].numpy()) for i in range(len(f))]
    total: Any = 0
    for fy, fx in rows:
        y = upfirdn_axis(x.numpy(), np.asarray(fx), up[0], down[0], x0, x1)
        total = total + upfirdn_axis(y.swapaxes(2, 3), fy, up[1], down[1], y0, y1).swapaxes(2, 3)
    return torch.from_numpy(np.asarray(total))


def numbers(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


small = st.integers(1, 3)


@given(st.data())
def test_upfirdn2d_is_its_definition(data: st.DataObject) -> None:
    up, down = data.draw(st.tuples(small, small)), data.draw(st.tuples(small, small))
    kx, ky = data.draw(st.integers(1, 9)), data.draw(st.integers(1, 9))
    separable = data.draw(st.booleans())
    f = numbers(kx, seed=1) if separable else numbers(ky, kx, seed=1)
    ky = kx if separable else ky
    height, width = data.draw(st.integers(1, 9)), data.draw(st.integers(1, 9))
    x0, y0 = data.draw(st.integers(-3, 9)), data.draw(st.integers(-3, 9))
    # whatever lies before, enough after it that one sample comes out
    x1 = data.draw(st.integers(-3, 9).map(lambda p: max(p, kx - x0 - width * up[0])))
    y1 = data.draw(st.integers(-3, 9).map(lambda p: max(p, ky - y0 - height * up[1])))
    x = numbers(data.draw(st.integers(1, 2)), data.draw(small), height, width)
    if data.draw(st.booleans()):
        x = x.contiguous(memory_format=torch.channels_last)
    flip = data.draw(st.booleans())
    expected = twin(x, f.flip(list(range(f.ndim))) if flip else f, up, down, (x0, x1, y0, y1)) * 1.5
    found = upfirdn2d(x, f, up, down, (x0, x1, y0, y1), flip=flip, gain=1.5)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


def test_signals_longer_than_a_block_are_resampled_alike() -> None:
    x, f = numbers(1, 2, 150, 333), numbers(12, seed=1)
    calls = [((2, 2), (1, 1), (9, 8, 9, 8)), ((1, 1), (2, 2), (0, 0, 3, -5)), ((4, 2), (3, 2), (7, 1, 2, 0))]
    for up, down, padding in calls:
        torch.testing.assert_close(upfirdn2d(x, f, up, down, padding), twin(x, f, up, down, padding))


@pytest.mark.parametrize("taps", [(6,), (4, 3)])
@pytest.mark.parametrize(("up", "down"), [(1, 1), (2, 1), (1, 2), (3, 2)])
def test_first_and_second_derivatives(taps: tuple[int, ...], up: int, down: int) -> None:
    x, f = numbers(1, 2, 5, 4).requires_grad_(), numbers(*taps, seed=1).requires_grad_()

    def function(x: Tensor, f: Tensor) -> Tensor:
        return upfirdn2d(x, f, up, down, (4, 1, -1, 5), gain=2.0).square()

    assert torch.autograd.gradcheck(function, (x, f))
    assert torch.autograd.gradgradcheck(function, (x, f))


def test_derivatives_of_filtered_lrelu_and_conv2d_resample() -> None:
    x, w, b = numbers(1, 2, 5, 4).requires_grad_(), numbers(3, 2, 3, 3, seed=1).requires_grad_(), numbers(2, seed=2)
    fu, fd = numbers(6, seed=3), numbers(4, 4, seed=4)

    def activation(x: Tensor, b: Tensor) -> Tensor:
        return filtered_lrelu(x, fu, fd, b, 2, 2, (4, 3, 2, 5), clamp=3.0).square()

    assert torch.autograd.gradcheck(activation, (x, b.requires_grad_()))
    assert torch.autograd.gradgradcheck(activation, (x, b))
    for up, down in [(2, 1), (1, 2)]:
        resampled = lambda x, w, up=up, down=down: conv2d_resample(x, w, fd, up, down, 1).square()  # noqa: E731
        assert torch.autograd.gradcheck(resampled, (x, w))
        assert torch.autograd.gradgradcheck(resampled, (x, w))


def test_third_derivatives_exist() -> None:
    x = numbers(1, 1, 4, 4).requires_grad_()
    y = filtered_lrelu(x, numbers(4), numbers(4), None, 2, 2, 2).pow(4).sum()
    for _ in range(3):
        (g,) = torch.autograd.grad(y, x, create_graph=True)
        y = g.square().sum()
    assert y.isfinite() and y > 0


def test_transforms_of_functions_go_through() -> None:
    x, t, f = numbers(2, 2, 5, 6), numbers(2, 2, 5, 6, seed=1), numbers(5, seed=2)

    def function(x: Tensor) -> Tensor:
        return upfirdn2d(x, f, 2, 3, (4, 1, -1, 5))

    def lone(x: Tensor) -> Tensor:
        return function(x[None])[0]

    assert torch.allclose(torch.func.jvp(function, (x,), (t,))[1], function(t))
    tracked = torch.func.jvp(lambda v: function(v).square().sum(), (x.clone().requires_grad_(),), (t,))[1]
    slope = torch.func.grad(lambda v: function(v).square().sum())(x)
    torch.testing.assert_close(tracked, (slope * t).sum())
    torch.testing.assert_close(torch.vmap(lone)(x), function(x))
    each = torch.vmap(torch.func.grad(lambda v: lone(v).square().sum()))(x)
    torch.testing.assert_close(each, slope)


def test_the_backward_pass_is_the_adjoint_and_keeps_the_type_under_autocast() -> None:
    x, f = numbers(1, 3, 7, 8).float().requires_grad_(), numbers(4, seed=2).float()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y = upfirdn2d(x, f, 2, padding=3)
    c = numbers(*y.shape, seed=3).float()
    (g,) = torch.autograd.grad(y, x, c)
    assert y.dtype == g.dtype == torch.float32
    t = numbers(*x.shape, seed=4).float()
    torch.testing.assert_close((g * t).sum(), (c * upfirdn2d(t, f, 2, padding=3)).sum())


# ---- closed forms
def test_a_constant_keeps_its_value_in_the_interior() -> None:
    f = setup_filter([1, 3, 3, 1])
    x = torch.full((1, 1, 16, 16), 3.0)
    for y in (filter2d(x, f), upsample2d(x, f), downsample2d(x, f), upsample2d(x, setup_filter([1] * 6), (3, 2))):
        torch.testing.assert_close(y[:, :, 3:-3, 3:-3], torch.full_like(y[:, :, 3:-3, 3:-3], 3.0))
    assert upsample2d(x, f, (3, 2)).shape == (1, 1, 32, 48) and downsample2d(x, f).shape == (1, 1, 8, 8)


def test_one_impulse_shows_the_filter() -> None:
    f = torch.tensor([1.0, 2.0, 3.0])
    x = torch.zeros(1, 1, 1, 5)
    x[..., 2] = 1
    across = f[None, :]
    assert upfirdn2d(x, across, padding=(1, 1, 0, 0)).flatten().tolist() == [0, 1, 2, 3, 0]
    assert upfirdn2d(x, across, padding=(1, 1, 0, 0), flip=True).flatten().tolist() == [0, 3, 2, 1, 0]


def test_setup_filter() -> None:
    torch.testing.assert_close(setup_filter([1, 2, 1]), torch.tensor([[1, 2, 1], [2, 4, 2], [1, 2, 1]]) / 16)
    assert setup_filter([1.0] * 8).shape == (8,) and setup_filter([1.0] * 7).shape == (7, 7)
    assert setup_filter([1, 1], separable=True, gain=4).tolist() == [1.0, 1.0]  # sqrt(4) per axis
    assert setup_filter(None).tolist() == [[1.0]]


def test_conv2d_resample_is_filter_convolve_filter() -> None:
    f, x = setup_filter([1, 3, 3, 1]).double(), numbers(2, 4, 6, 7)
    for up, down, groups, kernel in [
        (2, 1, 1, 3),
        (1, 2, 2, 3),
        (2, 2, 2, 3),
        (2, 1, 1, 1),
        (1, 2, 1, 1),
        (3, 1, 2, 3),
    ]:
        w = numbers(6, 4 // groups, kernel, kernel, seed=3)
        pad, fw = kernel // 2, 4
        around = [pad, pad]
        if up > 1:
            around = [around[0] + (fw + up - 1) // 2, around[1] + (fw - up) // 2]
        if down > 1:
            around = [around[0] + (fw - down + 1) // 2, around[1] + (fw - down) // 2]
        y = upfirdn2d(x, f if up > 1 else None, up, padding=around * 2, gain=up**2)
        y = torch.nn.functional.conv2d(y, w, groups=groups)
        y = upfirdn2d(y, f if down > 1 else None, down=down)
        torch.testing.assert_close(conv2d_resample(x, w, f, up, down, pad, groups), y)


def test_filters_of_any_number_of_taps_do_not_change_the_type() -> None:
    for kind in (torch.bfloat16, torch.float32, torch.float64):
        assert upfirdn2d(torch.ones(1, 1, 4, 4, dtype=kind), setup_filter([1, 1]), 2).dtype == kind


@pytest.mark.parametrize(
    ("call", "what"),
    [
        (lambda: upfirdn2d(torch.ones(1, 1, 3, 3), torch.ones(5)), "5 taps"),
        (lambda: upfirdn2d(torch.ones(3, 3), torch.ones(2)), r"\[N, C, H, W\]"),
        (lambda: upfirdn2d(torch.ones(1, 1, 3, 3), torch.ones(2), up=0), "up is 0"),
        (lambda: upfirdn2d(torch.ones(1, 1, 3, 3), torch.ones(2), padding=(1, 2, 3)), "padding"),
        (lambda: upfirdn2d(torch.ones(1, 1, 3, 3), torch.ones(1, 1, 1)), "filter"),
        (lambda: bias_act(torch.ones(1, 1), act="lerlu"), "lrelu"),
        (lambda: setup_filter([[1.0, 1.0]], separable=True), "separable"),
    ],
)
def test_errors_name_the_input(call: Any, what: str) -> None:
    with pytest.raises(UserError, match=what):
        call()


def test_the_package_offers_them() -> None:
    assert layers.upfirdn2d is upfirdn2d and layers.filtered_lrelu is filtered_lrelu
    with pytest.raises(AttributeError):
        _ = layers.upfirdn3d


# ---- official operators
def cotangent(y: Tensor) -> Tensor:
    return torch.cos(0.7 * torch.arange(y.numel(), dtype=torch.float64)).to(y.dtype).view(y.shape)


def case(folder: Path, system: str) -> tuple[list[dict[str, Any]], dict[str, Tensor], float]:
    about = json.loads((folder / system / "ops.json").read_text())
    tolerance = max(3 * about["tolerance"]["float32_vs_float64_max_rel"], 1e-5)
    return about["config"]["ops"], load_file(folder / system / "ops.safetensors"), tolerance


def official(op: dict[str, Any], given: dict[str, Tensor]) -> Tensor:
    """Our function for one recorded call."""
    kind, x = op["kind"], given.get("x")
    f = op.get("f")
    taps = None if f is None else torch.tensor(f, dtype=torch.float32)
    names = {"flip_filter": "flip", "normalize": "normalise"}
    rest = {"up", "down", "padding", "gain", "flip_filter", "flip_weight", "groups", "slope", "clamp"} & op.keys()
    options = {names.get(k, k): op[k] for k in rest}
    keywords = {names.get(k, k): v for k, v in op.get("kw", {}).items()}
    if kind == "setup_filter":
        return setup_filter(taps, **keywords)
    assert x is not None
    if kind == "upfirdn2d":
        return upfirdn2d(x, taps, **options)
    if kind == "resize":
        function: Any = {"filter2d": filter2d, "upsample2d": upsample2d, "downsample2d": downsample2d}[op["fn"]]
        return function(x, setup_filter(taps), **keywords)
    if kind == "conv2d_resample":
        return conv2d_resample(x, given["w"], setup_filter(taps), **options)
    if kind == "bias_act":
        return bias_act(x, given.get("b"), op["act"], op["alpha"], op["gain"], op["clamp"], op["dim"])
    return filtered_lrelu(x, given.get("fu"), given.get("fd"), given.get("b"), **options)


def compared(op: dict[str, Any], tensors: dict[str, Tensor]) -> Iterator[tuple[str, Tensor, Tensor]]:
    """(name, ours, official) of the output, its gradients and the second-order ones."""
    name = op["id"]
    given = {k.rsplit(".", 1)[1]: v.clone() for k, v in tensors.items() if k.startswith(f"in/{name}.")}
    slopes = {k.removeprefix(f"grad/{name}."): v for k, v in tensors.items() if k.startswith(f"grad/{name}.")}
    wanted = [k for k in given if k in slopes]
    for k in wanted:
        given[k].requires_grad_()
    y = official(op, given)
    yield f"{name}.y", y, tensors[f"out/{name}.y"]
    if not wanted:
        return
    first = torch.autograd.grad((y * cotangent(y)).sum(), [given[k] for k in wanted], create_graph=True)
    for k, g in zip(wanted, first, strict=True):
        yield f"{name}.{k}", g, slopes[k]
    seconds = [k for k in wanted if f"{k}.second" in slopes]
    if seconds:
        along = first[wanted.index("x")].square().sum()
        second = torch.autograd.grad(along, [given[k] for k in seconds])
        for k, g in zip(seconds, second, strict=True):
            yield f"{name}.{k}.second", g, slopes[f"{k}.second"]


@pytest.mark.parametrize("system", ["stylegan2", "stylegan3"])
def test_the_official_operators(parity: Path, system: str) -> None:
    ops, tensors, tolerance = case(parity, system)
    seen = set()
    for op in ops:
        if op["kind"] == "modulated_conv2d":
            continue
        seen.add(op["kind"])
        for name, ours, theirs in compared(op, tensors):
            error = float((ours.detach() - theirs).abs().max()) / max(float(theirs.abs().max()), 1e-3)
            assert ours.shape == theirs.shape and error <= tolerance, f"{name}: {error:.1e}"
    assert len(seen) == (5 if system == "stylegan2" else 1) and math.isfinite(tolerance)


@pytest.mark.parametrize("options", [{"gain": 0.0}, {"gain": -1.0}, {"clamp": -0.1}])
def test_a_filtered_leaky_relu_refuses_what_has_no_meaning(options: dict[str, float]) -> None:
    with pytest.raises(UserError, match="expected a gain above 0"):
        filtered_lrelu(torch.zeros(1, 1, 4, 4), **options)


def test_gain_comes_before_the_clamp_and_after_the_slope() -> None:
    x = torch.tensor([[[[-4.0, -1.0, 1.0, 4.0]]]])
    y = filtered_lrelu(x, gain=2.0, slope=0.5, clamp=3.0)
    torch.testing.assert_close(y, torch.tensor([[[[-3.0, -1.0, 2.0, 3.0]]]]))
