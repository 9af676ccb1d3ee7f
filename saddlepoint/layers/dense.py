"""Dense pieces of the 2014 networks: maxout, dropout from given numbers, initialisations, a norm constraint."""

from __future__ import annotations

from collections.abc import Iterable

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Maxout(nn.Module):
    """max_j (W_j x + b_j) over `pieces` affine maps, [N, inputs] -> [N, units] (Goodfellow 2013, arXiv:1302.4389)."""

    def __init__(self, inputs: int, units: int, pieces: int) -> None:
        super().__init__()
        self.units, self.pieces = units, pieces
        self.linear = nn.Linear(inputs, units * pieces)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x).unflatten(1, (self.units, self.pieces)).max(2).values


class MaxoutConv(nn.Module):
    """Convolution, maximum over `pieces` maps, max pooling: [N, C, H, W] -> [N, channels, H', W'].

    Windows of the pooling that hang over the lower right edge count, as in cuda-convnet (ceil_mode).
    """

    def __init__(
        self, inputs: int, channels: int, kernel: int, padding: int, pool: int, stride: int, pieces: int = 2
    ) -> None:
        super().__init__()
        self.channels, self.pieces, self.pool, self.stride = channels, pieces, pool, stride
        self.conv = nn.Conv2d(inputs, channels * pieces, kernel, padding=padding)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x).unflatten(1, (self.channels, self.pieces)).max(2).values  # [N, channels, H, W]
        return F.max_pool2d(y, self.pool, self.stride, ceil_mode=True)

    def side(self, side: int) -> int:
        """Side of the output for an input of this side."""
        side = side + 2 * int(self.conv.padding[0]) - self.conv.kernel_size[0] + 1
        return -(-(side - self.pool) // self.stride) + 1


def dropout(x: Tensor, numbers: Tensor, keep: float) -> Tensor:
    """Keep each element where its number in [0, 1) is below `keep`, scaled by 1 / keep (Srivastava et al. 2014).

    The numbers come from the round, so that micro-batches and processes drop what one batch would drop.
    """
    return x * ((numbers < keep).to(x.dtype) / keep)


@torch.no_grad()
def spread(layer: nn.Linear | nn.Conv2d, irange: float, bias: float = 0.0) -> None:
    """Weights uniform on [-irange, irange], constant bias: Pylearn2's `irange`."""
    layer.weight.uniform_(-irange, irange)
    if layer.bias is not None:
        layer.bias.fill_(bias)


@torch.no_grad()
def sparse(layer: nn.Linear, nonzero: int, bias: float = 0.0) -> None:
    """Each unit gets `nonzero` standard normal weights, the rest is zero (Martens 2010; Pylearn2's `sparse_init`)."""
    outputs, inputs = layer.weight.shape
    index = torch.rand(outputs, inputs, device=layer.weight.device).argsort(1)[:, :nonzero]
    values = torch.randn(index.shape, device=layer.weight.device, dtype=layer.weight.dtype)
    layer.weight.zero_().scatter_(1, index, values)
    layer.bias.fill_(bias)


@torch.no_grad()
def limit_norms(weights: Iterable[Tensor], largest: float) -> None:
    """Shrink each unit's incoming weights [outputs, inputs] to a Euclidean norm of at most `largest`, in place."""
    for weight in weights:
        norm = weight.norm(dim=1, keepdim=True)
        weight.mul_(norm.clamp(max=largest) / (norm + 1e-7))
