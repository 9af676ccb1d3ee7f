"""Convolutional pieces that several systems share."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from saddlepoint import tracking
from saddlepoint.errors import UserError
from saddlepoint.layers.normalisation import BatchNorm


def halvings(resolution: int, system: str, smallest: int = 8) -> int:
    """Number of halvings from the image to 4x4. UserError unless the resolution is a power of two from smallest on."""
    if resolution < smallest or resolution & (resolution - 1):
        below = 1 << max(smallest.bit_length() - 1, max(resolution, 1).bit_length() - 1)
        near = below if resolution - below <= 2 * below - resolution else 2 * below
        raise UserError(
            f"{system} needs a resolution that is a power of two from {smallest} on, not {resolution}; nearest: {near}."
        )
    return resolution.bit_length() - 3


class UpConv(nn.Module):
    """Transposed convolution of stride 2: [N, C, H, W] -> [N, C', 2H, 2W], or cropped to `size` at the lower right.

    Kernels from 3 on; padding (kernel - 1) // 2 and the output_padding that doubles the size. That output_padding has
    no third derivative in torch, so under analysis a larger output is cropped instead: same values, a third slower. Up
    to four output channels (images) are made by a dense 3x3 convolution for each of the four sub-pixels, which has all
    derivatives and takes 0.7 (bf16, NHWC) to 0.9 (fp32) of the time of a transposed convolution that thin.
    """

    def __init__(self, inputs: int, outputs: int, kernel: int, *, bias: bool = False) -> None:
        super().__init__()
        self.padding = (kernel - 1) // 2
        self.weight = nn.Parameter(torch.empty(inputs, outputs, kernel, kernel))
        self.bias = nn.Parameter(torch.zeros(outputs)) if bias else None
        nn.init.normal_(self.weight, 0, 0.02)

    def forward(self, x: Tensor, size: int = 0) -> Tensor:
        height, width = (size, size) if size else (2 * x.shape[2], 2 * x.shape[3])
        if self.weight.shape[1] <= 4 and self.weight.shape[-1] <= 5:
            return self.by_sub_pixels(x)[:, :, :height, :width]
        if tracking.wants_any_order():
            y = F.conv_transpose2d(x, self.weight, self.bias, stride=2, padding=self.padding - 1)
            return y[:, :, 1 : 1 + height, 1 : 1 + width]
        missing = 2 + 2 * self.padding - self.weight.shape[-1]  # 1 for odd kernels, 0 for even ones
        y = F.conv_transpose2d(x, self.weight, self.bias, stride=2, padding=self.padding, output_padding=missing)
        return y[:, :, :height, :width] if size else y

    def by_sub_pixels(self, x: Tensor) -> Tensor:
        """out[2m + a] = sum_j x[m - j] w[2j + a + p], a in {0, 1}: a convolution to 4 C' channels, then a shuffle."""
        inputs, outputs, kernel, _ = self.weight.shape
        before = 2 - self.padding
        w = F.pad(self.weight, (before, 6 - kernel - before) * 2)  # [C, C', 6, 6]
        w = w.view(inputs, outputs, 3, 2, 3, 2).permute(1, 3, 5, 0, 2, 4).flip(4, 5)  # [C', 2, 2, C, 3, 3]
        bias = None if self.bias is None else self.bias.repeat_interleave(4)
        return F.pixel_shuffle(F.conv2d(x, w.reshape(4 * outputs, inputs, 3, 3), bias, padding=1), 2)


@torch.no_grad()
def normal_initialisation(module: nn.Module, std: float = 0.02) -> None:
    """Weights N(0, std), batch norm gains N(1, std), offsets and biases 0 (Radford et al. 2015, section 4)."""
    for layer in module.modules():
        if isinstance(layer, nn.Linear | nn.Conv2d | nn.ConvTranspose2d | UpConv):
            layer.weight.normal_(0, std)
            if layer.bias is not None:
                layer.bias.zero_()
        elif isinstance(layer, BatchNorm) and layer.weight is not None:
            layer.weight.normal_(1, std)


@torch.no_grad()
def fan_uniform_(weight: Tensor, fan_in: float, fan_out: float, gain: float) -> None:
    """Uniform with standard deviation sqrt(gain / (fan_in + fan_out)): gain 2 is Glorot's, 4 the one before a ReLU."""
    bound = (3 * gain / (fan_in + fan_out)) ** 0.5
    weight.uniform_(-bound, bound)
