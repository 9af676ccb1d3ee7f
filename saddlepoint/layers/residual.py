"""Residual blocks of WGAN-GP's networks (Gulrajani et al. 2017, arXiv:1704.00028), and class-conditional batch norm.

Upsampling repeats pixels before the first convolution (the paper says before the second), downsampling averages after
the last. Convolutions start uniform: std sqrt(4 / (fan in + fan out)) on the residual path, sqrt(2 / ...) on shortcuts.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch.nn.functional as F
from torch import Tensor, nn

from saddlepoint.layers.convolution import UpConv, fan_uniform_
from saddlepoint.layers.normalisation import BatchNorm
from saddlepoint.layers.spectral import ClassTable

Resample = Literal["", "up", "down"]
Norm = Callable[[int], nn.Module]
HE, GLOROT = 4.0, 2.0


def conv(inputs: int, outputs: int, kernel: int, *, stride: int = 1, bias: bool = True, gain: float = HE) -> nn.Conv2d:
    """Convolution that keeps the resolution (or divides it by the stride, rounding up), officially initialised."""
    layer = nn.Conv2d(inputs, outputs, kernel, stride=stride, padding=kernel // 2, bias=bias)
    fan_uniform_(layer.weight, inputs * kernel**2, outputs * kernel**2 / stride**2, gain)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
    return layer


def up_conv(inputs: int, outputs: int, kernel: int) -> UpConv:
    """Transposed convolution of stride 2 with bias, in the official initialisation."""
    layer = UpConv(inputs, outputs, kernel, bias=True)
    fan_uniform_(layer.weight, inputs * kernel**2 / 4, outputs * kernel**2, HE)
    return layer


def linear(inputs: int, outputs: int) -> nn.Linear:
    """Dense layer in Glorot's initialisation."""
    layer = nn.Linear(inputs, outputs)
    fan_uniform_(layer.weight, inputs, outputs, GLOROT)
    nn.init.zeros_(layer.bias)
    return layer


def doubled(x: Tensor) -> Tensor:
    """Each pixel repeated 2x2: [N, C, H, W] -> [N, C, 2H, 2W]."""
    return F.interpolate(x, scale_factor=2, mode="nearest")


def halved(x: Tensor) -> Tensor:
    """Mean over 2x2 pixels: [N, C, H, W] -> [N, C, H/2, W/2]."""
    return F.avg_pool2d(x, 2)


class ConditionalBatchNorm(nn.Module):
    """Batch norm with a gain and an offset of its own for every class (de Vries et al. 2017, arXiv:1707.00683)."""

    def __init__(self, channels: int, classes: int) -> None:
        super().__init__()
        self.norm = BatchNorm(channels, affine=False)
        self.gain, self.offset = ClassTable(classes, channels), ClassTable(classes, channels)
        nn.init.ones_(self.gain.weight)
        nn.init.zeros_(self.offset.weight)

    def forward(self, x: Tensor, label: Tensor) -> Tensor:
        shape = (len(x), -1, *[1] * (x.ndim - 2))
        return self.gain(label).view(shape) * self.norm(x) + self.offset(label).view(shape)


def normalised(norm: nn.Module, x: Tensor, label: Tensor | None) -> Tensor:
    """norm(x), with the class where the layer asks for one."""
    return norm(x, label) if isinstance(norm, ConditionalBatchNorm) else norm(x)


class ResidualBlock(nn.Module):
    """[N, inputs, H, W] -> [N, outputs, H', W']: x -> shortcut(x) + conv(relu(norm(conv(relu(norm(x)))))).

    first_bias: the CIFAR networks have one in their first convolution, the 64x64 networks have not. The shortcut is the
    identity where nothing changes, else a resampled 1x1 convolution.
    """

    def __init__(
        self, inputs: int, outputs: int, norm: Norm, resample: Resample = "", *, first_bias: bool = True
    ) -> None:
        super().__init__()
        middle = inputs if resample == "down" else outputs
        self.resample = resample
        self.norm1, self.norm2 = norm(inputs), norm(middle)
        self.conv1 = conv(inputs, middle, 3, bias=first_bias)
        self.conv2 = conv(middle, outputs, 3)
        same = inputs == outputs and not resample
        self.shortcut = nn.Identity() if same else conv(inputs, outputs, 1, gain=GLOROT)

    def forward(self, x: Tensor, label: Tensor | None = None) -> Tensor:
        h = F.relu(normalised(self.norm1, x, label))
        h = self.conv1(doubled(h) if self.resample == "up" else h)
        h = self.conv2(F.relu(normalised(self.norm2, h, label)))
        if self.resample == "down":
            return self.shortcut(halved(x)) + halved(h)  # a 1x1 convolution and a mean commute
        return doubled(self.shortcut(x)) + h if self.resample == "up" else self.shortcut(x) + h


class FirstBlock(nn.Module):
    """A critic's first block: image [N, C, H, W] -> [N, outputs, H/2, W/2], without activation or norm on the image."""

    def __init__(self, channels: int, outputs: int) -> None:
        super().__init__()
        self.conv1 = conv(channels, outputs, 3)
        self.conv2 = conv(outputs, outputs, 3)
        self.shortcut = conv(channels, outputs, 1, gain=GLOROT)

    def forward(self, x: Tensor) -> Tensor:
        return self.shortcut(halved(x)) + halved(self.conv2(F.relu(self.conv1(x))))


class Bottleneck(nn.Module):
    """Block of the 101-layer networks: x -> shortcut(x) + 0.3 norm(1x1 (relu(3x3 (relu(1x1 (relu(x)))))))."""

    def __init__(self, inputs: int, outputs: int, norm: Norm, resample: Resample = "") -> None:
        super().__init__()
        self.resample = resample
        stride = 2 if resample == "down" else 1
        self.conv1 = conv(inputs, inputs // 2, 1)
        up = resample == "up"
        self.middle = up_conv(inputs // 2, outputs // 2, 3) if up else conv(inputs // 2, outputs // 2, 3, stride=stride)
        self.conv2 = conv(outputs // 2, outputs, 1, bias=False)
        self.norm = norm(outputs)
        if inputs == outputs and not resample:
            self.shortcut: nn.Module = nn.Identity()
        else:  # upwards, four maps for each output are dealt out to 2x2 pixels
            self.shortcut = conv(inputs, outputs * (4 if up else 1), 1, stride=stride, gain=GLOROT)

    def forward(self, x: Tensor) -> Tensor:
        h = self.middle(F.relu(self.conv1(F.relu(x))))
        h = self.norm(self.conv2(F.relu(h)))
        shortcut = self.shortcut(x)
        return (F.pixel_shuffle(shortcut, 2) if self.resample == "up" else shortcut) + 0.3 * h
