"""Modulated convolution: a style scales the weights, and what they give is brought back to unit variance.

Karras et al. 2020 (arXiv:1912.04958), section 2.2. Scaling the weights of one sample is the same as scaling what goes
into a dense convolution and what comes out of it, so no sample needs weights of its own.
"""

from __future__ import annotations

import torch
from torch import Tensor

from saddlepoint.errors import UserError
from saddlepoint.layers.resample import conv2d_resample
from saddlepoint.objectives import at_least_float32

EPS = 1e-8


def demodulation(weight: Tensor, styles: Tensor) -> Tensor:
    """1 / sqrt(sum over inputs and kernel of (s_i w_oik)^2 + 1e-8), [N, outputs] (eq. 3).

    The squared weights are summed over the kernel first: one small matrix product instead of [N, O, I, k, k] values.
    In float32 also under autocast, where a sum of some thousand squares would keep three digits.
    """
    with torch.autocast(weight.device.type, enabled=False):
        power = at_least_float32(weight).square().sum((2, 3))  # [outputs, inputs]
        return (at_least_float32(styles).square() @ power.t() + EPS).rsqrt()


def modulated_conv2d(
    x: Tensor,
    weight: Tensor,
    styles: Tensor,
    noise: Tensor | None = None,
    up: int = 1,
    down: int = 1,
    padding: int | tuple[int, int] | tuple[int, int, int, int] = 0,
    resample_filter: Tensor | None = None,
    demodulate: bool = True,
    flip_weight: bool = True,
    fused: bool = False,
    gain: float = 1.0,
) -> Tensor:
    """Convolution with the weights w''_noik = w'_noik / sqrt(sum_ik w'^2 + 1e-8), w'_noik = s_ni w_oik, plus noise.

    x: [N, I, H, W]; weight: [O, I, k, k]; styles: [N, I]; noise: anything that adds to the output. up, down,
    resample_filter: resampling by whole factors around the convolution (`conv2d_resample`). demodulate: False leaves
    w'. flip_weight: True correlates, as torch's convolutions do.
    fused: one grouped convolution with weights of each sample's own (eq. 1 and 3 as they are written) instead of a
    dense one between two scalings of the activations. Equal to rounding; on a CPU the dense form takes 0.6 to 1.0 of
    the time (forward and backward, 8 to 32 samples, 32 to 128 channels, NHWC, float32, bfloat16, one thread), and its
    memory does not grow with the batch's weights.
    gain: of the convolution, not of the noise; it costs nothing, since it scales styles or norms.
    UserError where the styles do not fit the input.
    """
    n, channels = x.shape[:2]
    if styles.shape != (n, channels) or weight.shape[1] != channels:
        raise UserError(
            f"{n} samples of {channels} channels need styles [{n}, {channels}] and weights [outputs, {channels}, k, k]"
            f"; given: {list(styles.shape)} and {list(weight.shape)}."
        )
    if fused:
        y = _fused(x, weight, styles, up, down, padding, resample_filter, demodulate, flip_weight) * gain
        return y if noise is None else y + noise.to(y.dtype)
    if not demodulate:
        styles = styles * gain
    x = x * styles.to(x.dtype)[:, :, None, None]
    y = conv2d_resample(
        x, weight.to(x.dtype), resample_filter, up=up, down=down, padding=padding, flip_weight=flip_weight
    )
    if demodulate:
        scale = (demodulation(weight, styles) * gain).to(y.dtype)[:, :, None, None]
        return y * scale if noise is None else torch.addcmul(noise.to(y.dtype), y, scale)
    return y if noise is None else y + noise.to(y.dtype)


def _fused(
    x: Tensor,
    weight: Tensor,
    styles: Tensor,
    up: int,
    down: int,
    padding: int | tuple[int, int] | tuple[int, int, int, int],
    resample_filter: Tensor | None,
    demodulate: bool,
    flip_weight: bool,
) -> Tensor:
    """One group per sample: x as [1, N I, H, W], weights as [N O, I, k, k]."""
    n, channels, height, width = x.shape
    outputs, _, kernel_h, kernel_w = weight.shape
    w = weight.unsqueeze(0) * styles.to(weight.dtype)[:, None, :, None, None]  # [N, O, I, k, k]
    if demodulate:
        w = w * (w.square().sum((2, 3, 4), keepdim=True) + EPS).rsqrt()
    y = conv2d_resample(
        x.reshape(1, n * channels, height, width),
        w.reshape(n * outputs, channels, kernel_h, kernel_w).to(x.dtype),
        resample_filter,
        up=up,
        down=down,
        padding=padding,
        groups=n,
        flip_weight=flip_weight,
    )
    return y.reshape(n, outputs, *y.shape[2:])
