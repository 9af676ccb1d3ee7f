"""Normalisation layers that leave no trace while they compute.

torch's own batch norm writes its running statistics in place during the forward pass, once per micro-batch and process,
and fails under torch.func. Here they are tracked, and the engine commits them once per move.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from saddlepoint import distributed
from saddlepoint.tracking import in_a_move, track, wants_any_order


class BatchNorm(nn.Module):
    """Batch normalisation over all axes but the channel axis (Ioffe and Szegedy 2015, arXiv:1502.03167).

    x: [N, C] or [N, C, H, W]. y = weight (x - mean) / sqrt(var + eps) + bias, with the batch's mean and biased variance
    in training and the running ones in evaluation, unless `batch_statistics` is set (DCGAN's code never keeps
    population statistics). In a move of several processes the statistics are those of the global batch, with exact
    gradients. biased: the running variance is the batch's own too, without n / (n - 1).
    """

    running_mean: Tensor
    running_var: Tensor

    def __init__(
        self, channels: int, *, eps: float = 1e-5, momentum: float = 0.1, affine: bool = True, biased: bool = False
    ) -> None:
        super().__init__()
        self.eps, self.momentum, self.biased = eps, momentum, biased
        self.batch_statistics = False
        self.weight = nn.Parameter(torch.ones(channels)) if affine else None
        self.bias = nn.Parameter(torch.zeros(channels)) if affine else None
        self.register_buffer("running_mean", torch.zeros(channels))
        self.register_buffer("running_var", torch.ones(channels))

    def forward(self, x: Tensor) -> Tensor:
        if not (self.training or self.batch_statistics):
            return F.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias, False, 0.0, self.eps)
        together = in_a_move() and distributed.world_size() > 1
        if together or wants_any_order():
            y, mean, var, count = self._in_steps(x, distributed.world_size() if together else 1)
        else:
            y, mean, inverse_std = torch.native_batch_norm(x, self.weight, self.bias, None, None, True, 0.0, self.eps)
            var, count = inverse_std.pow(-2) - self.eps, x.numel() // x.shape[1]
        track(self.running_mean, mean, self.momentum)
        if not self.biased:  # as usual
            var = var * (count / max(count - 1, 1))
        track(self.running_var, var, self.momentum)
        return y

    def _in_steps(self, x: Tensor, processes: int) -> tuple[Tensor, Tensor, Tensor, int]:
        """Mean and variance over all processes' batches (equal sizes) in elementary steps, differentiable to any order.

        The kernel's third derivative, which a spectrum needs where a penalty runs through the layer, is wrong without a
        word (torch 2.13: its second one takes the batch's mean and deviation for constants). It is twice as fast.
        """
        axes = [0, *range(2, x.ndim)]
        wide = x.float() if x.dtype in (torch.bfloat16, torch.float16) else x
        shape = (1, -1, *[1] * (x.ndim - 2))
        mean = wide.mean(axes)
        mean = distributed.mean(mean) if processes > 1 else mean
        var = (wide - mean.view(shape)).square().mean(axes)
        var = distributed.mean(var) if processes > 1 else var
        y = (wide - mean.view(shape)) * (var + self.eps).rsqrt().view(shape)
        if self.weight is not None and self.bias is not None:
            y = y * self.weight.view(shape) + self.bias.view(shape)
        return y.to(x.dtype), mean, var, x.numel() // x.shape[1] * processes


class LayerNorm(nn.Module):
    """Layer normalisation over C, H, W of each sample with gain and offset per *channel*, as WGAN-GP's code has it.

    x: [N, C, H, W]. (torch's layer norm has a gain per element, its group norm with one group is this.)
    """

    def __init__(self, channels: int, eps: float = 1e-5) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        return F.group_norm(x, 1, self.weight, self.bias, self.eps)
