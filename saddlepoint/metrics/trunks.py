"""The networks under perceptual distances: VGG16, AlexNet and SqueezeNet 1.1 in torchvision's names, and a network of
random convolutions that needs no training and no file.

A trunk returns a list of maps, tapped after the last ReLU of each stage, where Zhang et al. (2018, arXiv:1801.03924)
tap theirs.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Fire(nn.Module):
    """SqueezeNet's block: 1x1 down to `squeeze` channels, then 1x1 beside 3x3, each with a ReLU."""

    def __init__(self, inputs: int, squeeze: int, expand: int) -> None:
        super().__init__()
        self.squeeze = nn.Conv2d(inputs, squeeze, 1)
        self.expand1x1 = nn.Conv2d(squeeze, expand, 1)
        self.expand3x3 = nn.Conv2d(squeeze, expand, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.squeeze(x))
        return torch.cat([F.relu(self.expand1x1(x)), F.relu(self.expand3x3(x))], 1)


@dataclass(frozen=True)
class Plan:
    """layers: (width, kernel, stride, padding) of a convolution with its ReLU, (squeeze, expand) of a Fire block, or
    "pool"; one entry may be two modules, and modules are numbered as in torchvision. taps: modules after which the
    maps are taken. file: torchvision's name of the weights, whose digits begin their SHA-256.
    """

    layers: tuple[tuple[int, int, int, int] | tuple[int, int] | str, ...]
    taps: tuple[int, ...]
    file: str
    pool: tuple[int, bool] = (2, False)  # kernel, and whether sizes are rounded up; stride 2


def _three(width: int) -> tuple[int, int, int, int]:
    return width, 3, 1, 1


PLANS: dict[str, Plan] = {
    "vgg": Plan(
        layers=(
            *(_three(64),) * 2, "pool", *(_three(128),) * 2, "pool", *(_three(256),) * 3, "pool",
            *(_three(512),) * 3, "pool", *(_three(512),) * 3, "pool",
        ),
        taps=(3, 8, 15, 22, 29),
        file="vgg16-397923af.pth",
    ),
    "alex": Plan(
        layers=((64, 11, 4, 2), "pool", (192, 5, 1, 2), "pool", _three(384), _three(256), _three(256), "pool"),
        taps=(1, 4, 7, 9, 11),
        file="alexnet-owt-7be5be79.pth",
        pool=(3, False),
    ),
    "squeeze": Plan(
        layers=(
            (64, 3, 2, 0), "pool", (16, 64), (16, 64), "pool", (32, 128), (32, 128), "pool", (48, 192), (48, 192),
            (64, 256), (64, 256),
        ),
        taps=(1, 4, 7, 9, 10, 11, 12),
        file="squeezenet1_1-b8a52dc0.pth",
        pool=(3, True),
    ),
}  # fmt: skip


class Trunk(nn.Module):
    """Normalised pixels [N, 3, H, W] -> the maps at the taps. narrower: divides every width, for tests."""

    def __init__(self, name: str, narrower: int = 1) -> None:
        super().__init__()
        plan = PLANS[name]
        self.taps, modules, width = plan.taps, list[nn.Module](), 3
        for layer in plan.layers:
            if isinstance(layer, str):
                modules.append(nn.MaxPool2d(plan.pool[0], 2, ceil_mode=plan.pool[1]))
            elif len(layer) == 2:
                squeeze, expand = (n // narrower for n in layer)
                modules.append(Fire(width, squeeze, expand))
                width = 2 * expand
            else:
                wide, kernel, stride, padding = layer
                modules += [nn.Conv2d(width, wide // narrower, kernel, stride, padding), nn.ReLU()]
                width = wide // narrower
        self.features = nn.Sequential(*modules)

    def forward(self, x: Tensor) -> list[Tensor]:
        found = []
        for index, module in enumerate(self.features):
            if index > self.taps[-1]:
                break
            x = module(x)
            if index in self.taps:
                found.append(x)
        return found


class VGG16(nn.Module):
    """The whole classifier: pixels [N, 3, 224, 224] -> the second hidden layer [N, 4096] after its ReLU, which
    improved precision and recall were defined with (Kynkaanniemi et al. 2019, arXiv:1904.06991); `logits` -> [N, 1000].
    """

    def __init__(self) -> None:
        super().__init__()
        self.features = Trunk("vgg").features
        hidden = [nn.Linear(512 * 49, 4096), nn.ReLU(), nn.Identity(), nn.Linear(4096, 4096), nn.ReLU(), nn.Identity()]
        self.classifier = nn.Sequential(*hidden, nn.Linear(4096, 1000))  # dropout's places are Identity

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier[:-1](F.adaptive_avg_pool2d(self.features(x), 7).flatten(1))

    def logits(self, features: Tensor) -> Tensor:
        return self.classifier[-1](features)


def trunk_state(found: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The convolutions of a state dict of torchvision ("features.0.weight") or of lpips ("net.slice1.0.weight")."""
    state = {}
    for name, tensor in found.items():
        match = re.fullmatch(r"(?:features|(?:net\.)?slice\d+)\.(\d+\..+)", name)
        if match:
            state[f"features.{match[1]}"] = tensor.float()
    return state


# ---- no file and no training
class RandomConv(nn.Module):
    """Pixels in [-1, 1], [N, 3, H, W] -> features [N, 128] of four random 3x3 convolutions, each with a leaky ReLU
    and from the second on of stride 2: spatial means of the first three (16, 24, 24), and the last one's 16 channels
    in four quarters (64), so that something of the layout stays.

    Weights are normal with variance 2 / fan-in, so signals keep their size; biases are normal / 4, or a grey image
    would meet only kernels through the origin. They come from NumPy's PCG64, so they are the same everywhere. Random
    features are what Naeem et al. (2020, arXiv:2002.09797) advise where the data look nothing like ImageNet.
    """

    WIDTHS = (16, 24, 24, 16)

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        draw = np.random.Generator(np.random.PCG64(seed))
        self.convs, width = nn.ModuleList(), 3
        for index, wide in enumerate(self.WIDTHS):
            conv = nn.Conv2d(width, wide, 3, stride=1 + (index > 0), padding=1, padding_mode="replicate")
            weight = draw.standard_normal((wide, width, 3, 3)) * np.sqrt(2 / (9 * width))
            bias = draw.standard_normal(wide) / 4
            with torch.no_grad():
                conv.weight.copy_(torch.from_numpy(weight))
                assert conv.bias is not None
                conv.bias.copy_(torch.from_numpy(bias))
            self.convs.append(conv)
            width = wide
        self.requires_grad_(False)

    def stages(self, x: Tensor) -> list[Tensor]:
        found = []
        for conv in self.convs:
            x = F.leaky_relu(conv(x), 0.2)
            found.append(x)
        return found

    def forward(self, x: Tensor) -> Tensor:
        maps = self.stages(x)
        means = [h.mean((2, 3)) for h in maps[:-1]]
        return torch.cat([*means, F.adaptive_avg_pool2d(maps[-1], 2).flatten(1)], 1)
