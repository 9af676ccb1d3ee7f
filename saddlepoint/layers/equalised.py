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

from saddlepoint import distributed
from saddlepoint.tracking import in_a_move


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
        self.bias_scale = multiplier

    def offset(self) -> Tensor | None:
        """The bias as it is used."""
        return self.bias if self.bias is None or self.bias_scale == 1 else self.bias * self.bias_scale

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight * self.scale, self.offset())

    def extra_repr(self) -> str:
        return f"{self.weight.shape[1]}, {self.weight.shape[0]}, scale={self.scale:.4g}, multiplier={self.multiplier:g}"


class EqualisedConv2d(nn.Module):
    """Convolution with weights c W, c = gain / sqrt(inputs kernel^2); zero padding keeps the resolution."""

    def __init__(self, inputs: int, outputs: int, kernel: int, *, gain: float = 1.0, bias: bool = True) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(outputs, inputs, kernel, kernel))
        self.bias = nn.Parameter(torch.zeros(outputs)) if bias else None
        self.scale = gain / math.sqrt(inputs * kernel**2)
        self.bias_scale = 1.0  # other implementations scale it too

    def offset(self) -> Tensor | None:
        """The bias as it is used."""
        return self.bias if self.bias is None or self.bias_scale == 1 else self.bias * self.bias_scale

    def scaled(self) -> Tensor:
        """The weights as they are used, [outputs, inputs, kernel, kernel]."""
        return self.weight * self.scale

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.scaled(), self.offset(), padding=self.weight.shape[-1] // 2)

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
        n, _, height, width = x.shape
        processes = distributed.world_size() if in_a_move() else 1
        total = n * processes
        size = min(self.group or total, total)
        size = next(g for g in range(size, 0, -1) if total % g == 0)
        variance = self._over_processes(x, total, size) if processes > 1 else self._variance(x, size)
        spread = (variance + 1e-8).sqrt().mean((2, 3, 4))  # [groups, features]
        own = (torch.arange(n, device=x.device) + distributed.rank() * n) % len(spread) if processes > 1 else None
        rows = spread.repeat(size, 1) if own is None else spread[own]  # [N, features]
        maps = rows[:, :, None, None].expand(-1, -1, height, width)
        return torch.cat([x, maps.to(x.dtype)], 1)

    def _variance(self, x: Tensor, size: int) -> Tensor:
        """Variance inside each group, [groups, features, C / features, H, W]."""
        n, channels, height, width = x.shape
        parts = x.reshape(size, n // size, self.features, channels // self.features, height, width)
        # Not Tensor.var: its second derivative, which R1 needs, loses two more digits.
        return (parts - parts.mean(0)).square().mean(0)

    def _over_processes(self, x: Tensor, total: int, size: int) -> Tensor:
        """The same where each process holds a slice of the batch: two sums per group are exchanged, with gradients, so
        that several processes are one batch. (The official code lets every GPU form its own groups.)
        """
        n, channels, height, width = x.shape
        groups = total // size
        index = (torch.arange(n, device=x.device) + distributed.rank() * n) % groups
        member = F.one_hot(index, groups).to(x.dtype).t()  # [groups, n]
        share = distributed.world_size() / size
        flat = x.flatten(1)
        mean = distributed.mean(member @ flat) * share  # [groups, C H W]
        variance = distributed.mean(member @ (flat - mean[index]).square()) * share
        return variance.view(groups, self.features, channels // self.features, height, width)
