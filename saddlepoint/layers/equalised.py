"""Layers of the progressive-growing family: weights of unit variance that are scaled while they are used.

Equalised learning rate (Karras et al. 2018, arXiv:1710.10196, section 4.1): weights are stored as N(0, 1) and
multiplied by gain / sqrt(fan_in) at run time, so that Adam, whose step does not depend on a gradient's size, moves all
layers at the same relative speed. A learning-rate multiplier m (Karras et al. 2019, arXiv:1812.04948) stores them as
N(0, 1/m^2) and uses them times m: the same function, m times slower. Biases are not scaled by fan-in, only by m.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class EqualisedLinear(nn.Module):
    """y = x (c W)^T + m b, c = m gain / sqrt(inputs); W: [outputs, inputs]. bias_start: the first value of m b."""

    def __init__(
        self,
        inputs: int,
        outputs: int,
        *,
        gain: float = 1.0,
        multiplier: float = 1.0,
        bias: bool = True,
        bias_start: float = 0.0,
    ) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(outputs, inputs) / multiplier)
        self.bias = nn.Parameter(torch.full((outputs,), bias_start / multiplier)) if bias else None
        self.scale, self.multiplier = multiplier * gain / math.sqrt(inputs), multiplier

    def forward(self, x: Tensor) -> Tensor:
        bias = self.bias if self.bias is None or self.multiplier == 1 else self.bias * self.multiplier
        return F.linear(x, self.weight * self.scale, bias)

    def extra_repr(self) -> str:
        return f"{self.weight.shape[1]}, {self.weight.shape[0]}, scale={self.scale:.4g}, multiplier={self.multiplier:g}"


class EqualisedConv2d(nn.Module):
    """Convolution with weights c W, c = gain / sqrt(inputs kernel^2); zero padding keeps the resolution."""

    def __init__(self, inputs: int, outputs: int, kernel: int, *, gain: float = 1.0, bias: bool = True) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(outputs, inputs, kernel, kernel))
        self.bias = nn.Parameter(torch.zeros(outputs)) if bias else None
        self.scale = gain / math.sqrt(inputs * kernel**2)

    def scaled(self) -> Tensor:
        """The weights as they are used, [outputs, inputs, kernel, kernel]."""
        return self.weight * self.scale

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.scaled(), self.bias, padding=self.weight.shape[-1] // 2)

    def extra_repr(self) -> str:
        outputs, inputs, kernel, _ = self.weight.shape
        return f"{inputs}, {outputs}, kernel={kernel}, scale={self.scale:.4g}"


def pixel_norm(x: Tensor, eps: float = 1e-8) -> Tensor:
    """x / sqrt(mean over channels of x^2 + eps), at every pixel of [N, C, ...]."""
    return x * (x.square().mean(1, keepdim=True) + eps).rsqrt()


class MinibatchStd(nn.Module):
    """Append `features` channels that say how much the samples of a group differ (arXiv:1710.10196, section 3).

    Per group, feature part, channel and pixel the standard deviation over the group (biased, sqrt(var + 1e-8)), then
    its mean over the part's channels and all pixels: one number per group and part. A group holds the samples i,
    i + N/G, i + 2N/G, ..., as in the official code. G is the largest divisor of the batch up to `group` (the official
    code refuses batches that G does not divide). group=0: the whole batch.
    """

    def __init__(self, group: int = 4, features: int = 1) -> None:
        super().__init__()
        self.group, self.features = group, features

    def forward(self, x: Tensor) -> Tensor:
        n, channels, height, width = x.shape
        size = min(self.group or n, n)
        size = next(g for g in range(size, 0, -1) if n % g == 0)
        parts = x.reshape(size, n // size, self.features, channels // self.features, height, width)
        # Not Tensor.var: its second derivative, which R1 needs, loses two more digits.
        spread = ((parts - parts.mean(0)).square().mean(0) + 1e-8).sqrt().mean((2, 3, 4))  # [N/G, features]
        maps = spread.repeat(size, 1)[:, :, None, None].expand(-1, -1, height, width)
        return torch.cat([x, maps.to(x.dtype)], 1)
