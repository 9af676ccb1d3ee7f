from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from saddlepoint.errors import UserError
from saddlepoint.layers.modulated import demodulation, modulated_conv2d
from saddlepoint.layers.resample import setup_filter

TAPS = (1.0, 3.0, 3.0, 1.0)


def numbers(seed: int, *shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def by_samples(x: Tensor, w: Tensor, s: Tensor, padding: int, demodulate: bool) -> Tensor:
    """Equations 1 and 3 of arXiv:1912.04958, one sample and one output at a time."""
    images = []
    for sample, style in zip(x, s, strict=True):
        outputs = []
        for kernel in w:
            scaled = kernel * style[:, None, None]
            if demodulate:
                scaled = scaled / math.sqrt(float((scaled**2).sum()) + 1e-8)
            outputs.append(F.conv2d(sample[None], scaled[None], padding=padding)[0, 0])
        images.append(torch.stack(outputs))
    return torch.stack(images)


@settings(max_examples=25)
@given(
    st.integers(1, 3), st.integers(1, 4), st.integers(1, 4), st.sampled_from([1, 3]), st.booleans(), st.booleans(),
    st.integers(0, 10**6),
)  # fmt: skip
def test_it_is_a_loop_over_samples(
    n: int, inputs: int, outputs: int, kernel: int, demodulate: bool, fused: bool, seed: int
) -> None:
    x, w, s = (
        numbers(seed, n, inputs, 5, 4),
        numbers(seed + 1, outputs, inputs, kernel, kernel),
        numbers(seed + 2, n, inputs),
    )
    found = modulated_conv2d(x, w, s, padding=kernel // 2, demodulate=demodulate, fused=fused)
    assert torch.allclose(found, by_samples(x, w, s, kernel // 2, demodulate), atol=1e-10)


@pytest.mark.parametrize(("up", "down"), [(1, 1), (2, 1), (1, 2)])
@pytest.mark.parametrize("demodulate", [True, False])
def test_fused_equals_unfused_with_resampling_and_noise(up: int, down: int, demodulate: bool) -> None:
    x, w, s = (t.float() for t in (numbers(0, 3, 4, 8, 6), numbers(1, 5, 4, 3, 3), numbers(2, 3, 4)))
    noise = numbers(3, 3, 1, 8 * up // down, 6 * up // down).float()
    both = [
        modulated_conv2d(
            x, w, s, noise, up=up, down=down, padding=1, resample_filter=setup_filter(TAPS), demodulate=demodulate,
            flip_weight=up == 1, fused=fused,
        )
        for fused in (False, True)
    ]  # fmt: skip
    assert torch.allclose(*both, atol=1e-5 * float(both[0].abs().max()))
    assert both[0].shape[2:] == noise.shape[2:]
    without = modulated_conv2d(
        x, w, s, up=up, down=down, padding=1, resample_filter=setup_filter(TAPS), demodulate=demodulate,
        flip_weight=up == 1,
    )  # fmt: skip
    assert torch.allclose(both[0] - noise, without, atol=1e-4)


def test_upsampling_is_zero_insertion_convolution_and_filter() -> None:
    x, w, s = numbers(0, 2, 3, 4, 5), numbers(1, 4, 3, 3, 3), numbers(2, 2, 3)
    f = torch.tensor(TAPS, dtype=torch.float64) / 8
    found = modulated_conv2d(x, w, s, up=2, padding=1, resample_filter=torch.outer(f, f), flip_weight=False)
    sparse = torch.zeros(2, 3, 8, 10, dtype=torch.float64)
    sparse[:, :, ::2, ::2] = x
    coefficients = demodulation(w, s)[:, :, None, None]
    full = F.conv2d(sparse * s[:, :, None, None], w.flip(2, 3), padding=4) * coefficients  # more than is needed
    expected = F.conv2d(full, 4 * torch.outer(f, f).expand(4, 1, 4, 4), groups=4)
    # conv pads 1 at either side, the filter 2 before and 1 after: 3 before, of which one is left of the 4 above.
    assert torch.allclose(found, expected[:, :, 1:9, 1:11], atol=1e-10)


def test_downsampling_is_a_blur_and_a_convolution_of_stride_two() -> None:
    x, w, s = numbers(0, 2, 3, 6, 8), numbers(1, 4, 3, 3, 3), numbers(2, 2, 3)
    f = torch.tensor(TAPS, dtype=torch.float64) / 8
    found = modulated_conv2d(x, w, s, down=2, padding=1, resample_filter=torch.outer(f, f))
    blurred = F.conv2d(F.pad(x * s[:, :, None, None], (2, 2, 2, 2)), torch.outer(f, f).expand(3, 1, 4, 4), groups=3)
    expected = F.conv2d(blurred, w, stride=2) * demodulation(w, s)[:, :, None, None]
    assert torch.allclose(found, expected, atol=1e-10)


def test_upsampling_a_constant_keeps_it_in_the_interior() -> None:
    x, s = torch.full((1, 1, 6, 6), 3.0), torch.ones(1, 1)
    one = torch.ones(1, 1, 1, 1)
    y = modulated_conv2d(x, one, s, up=2, resample_filter=setup_filter(TAPS), demodulate=False)
    assert y.shape == (1, 1, 12, 12)
    assert torch.allclose(y[:, :, 1:-1, 1:-1], torch.tensor(3.0), atol=1e-6)


def test_the_output_of_unit_noise_has_unit_variance() -> None:
    x, w = numbers(0, 8, 32, 16, 16), numbers(1, 48, 32, 3, 3)
    s = 3 + 2 * numbers(2, 8, 32)
    y = modulated_conv2d(x, w, s)
    assert float(y.var()) == pytest.approx(1, abs=0.02)
    assert float(modulated_conv2d(x, w, s, demodulate=False).var()) > 1000


@pytest.mark.parametrize("fused", [False, True])
def test_the_size_of_a_style_does_not_matter_where_it_is_demodulated(fused: bool) -> None:
    x, w, s = numbers(0, 2, 3, 5, 5), numbers(1, 4, 3, 3, 3), numbers(2, 2, 3)
    larger = s * torch.tensor([[7.0], [0.3]])
    demodulated = [modulated_conv2d(x, w, t, padding=1, fused=fused) for t in (s, larger)]
    assert torch.allclose(*demodulated, atol=1e-6)  # 1e-8 under the root is all that differs
    plain = [modulated_conv2d(x, w, t, padding=1, demodulate=False, fused=fused) for t in (s, larger)]
    assert torch.allclose(plain[1], plain[0] * torch.tensor([7.0, 0.3])[:, None, None, None])


@pytest.mark.parametrize("up", [1, 2])
def test_first_and_second_derivatives(up: int) -> None:
    x, w, s = numbers(0, 2, 2, 3, 3), numbers(1, 2, 2, 3, 3), 1 + 0.3 * numbers(2, 2, 2)
    noise, f = numbers(3, 2, 1, 3 * up, 3 * up), setup_filter(TAPS).double()
    inputs = [t.requires_grad_() for t in (x, w, s, noise)]

    def layer(*t: Tensor) -> Tensor:
        return modulated_conv2d(*t, up=up, padding=1, resample_filter=f, flip_weight=up == 1)

    assert torch.autograd.gradcheck(layer, inputs)
    assert torch.autograd.gradgradcheck(layer, inputs)


def test_in_bfloat16_the_statistics_of_the_style_stay_in_float32() -> None:
    x, w, s = (t.float() for t in (numbers(0, 2, 64, 4, 4), numbers(1, 8, 64, 3, 3), 1 + numbers(2, 2, 64)))
    with torch.autocast("cpu", torch.bfloat16):
        scale, y = demodulation(w, s), modulated_conv2d(x, w, s, padding=1)
    assert y.dtype == torch.bfloat16
    assert scale.dtype == torch.float32 and torch.equal(scale, demodulation(w, s))
    exact = modulated_conv2d(x, w, s, padding=1)
    assert float((y.float() - exact).norm() / exact.norm()) < 0.01


def test_styles_that_do_not_fit_are_refused() -> None:
    x, w = torch.zeros(2, 3, 4, 4), torch.zeros(5, 3, 3, 3)
    with pytest.raises(UserError, match=r"styles \[2, 3\]"):
        modulated_conv2d(x, w, torch.ones(1, 3))
    with pytest.raises(UserError, match="weights"):
        modulated_conv2d(x, torch.zeros(5, 4, 3, 3), torch.ones(2, 3))
