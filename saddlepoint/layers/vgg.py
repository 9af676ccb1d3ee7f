"""The perceptual term of pix2pixHD and GauGAN: VGG19 up to relu5_1 from a file of the user's, or EfficientNet-Lite0.

Both are constants of a game: no parameter, nothing in a checkpoint. `distance(fake, real)` is the term.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from saddlepoint.errors import UserError
from saddlepoint.objectives import at_least_float32

WEIGHTS = (1 / 32, 1 / 16, 1 / 8, 1 / 4, 1.0)  # of relu1_1, relu2_1, relu3_1, relu4_1, relu5_1
CONVOLUTIONS = (0, 2, 5, 7, 10, 12, 14, 16, 19, 21, 23, 25, 28)  # torchvision's numbers in vgg19.features
TAPS = (0, 5, 10, 19, 28)  # the convolutions before the ReLUs that are looked at
POOLED = (5, 10, 19, 28)  # those that a 2x2 maximum comes before


class VGG19(nn.Module):
    """relu1_1, relu2_1, relu3_1, relu4_1, relu5_1 of VGG19, from pictures as they are, in [-1, 1] (as official).

    The weights are constants that a checkpoint does not carry. state: torchvision's names ("features.0.weight") or the
    official code's ("slice1.0.weight").
    """

    def __init__(self, state: Mapping[str, Tensor], where: str = "VGG19") -> None:
        super().__init__()
        found = {".".join(name.split(".")[-2:]): tensor for name, tensor in state.items() if "classifier" not in name}
        for i in CONVOLUTIONS:
            for part in ("weight", "bias"):
                if f"{i}.{part}" not in found:
                    raise UserError(f"{where} has no {i}.{part}; expected torchvision's vgg19 (features.{i}.{part}).")
                self.register_buffer(f"{part}{i}", found[f"{i}.{part}"].detach().clone().float(), persistent=False)

    def forward(self, x: Tensor) -> list[Tensor]:
        x, found = x.expand(-1, 3, -1, -1) if x.shape[1] == 1 else x, []
        for i in CONVOLUTIONS:
            x = F.max_pool2d(x, 2) if i in POOLED else x
            weight, bias = self.get_buffer(f"weight{i}"), self.get_buffer(f"bias{i}")
            x = F.relu(F.conv2d(x, weight.to(x.dtype), bias.to(x.dtype), padding=1))
            if i in TAPS:
                found.append(x)
        return found

    def distance(self, fake: Tensor, real: Tensor) -> Tensor:
        """The mean over a batch of pictures in [-1, 1]; see `perceptual`."""
        return perceptual(self(fake), self(real.to(fake.dtype)))


class Lite0(nn.Module):
    """LPIPS without heads on EfficientNet-Lite0, for those who have no file of VGG19: about 1 for pictures that have
    nothing in common. In float32, since it takes differences of unit vectors; about 5 ms of one core for 64x64 pixels.
    """

    def __init__(self) -> None:
        from saddlepoint.metrics.perceptual import lite0  # the metrics' own distance, only where it is asked for

        super().__init__()
        self.measure = as_constant(lite0())

    def distance(self, fake: Tensor, real: Tensor) -> Tensor:
        """mean_n mean_l mean_hw |a^_l - b^_l|^2, a^, b^ the maps with channels of unit length."""
        with torch.autocast(fake.device.type, enabled=False):
            a, b = (x.float().contiguous(memory_format=torch.channels_last) for x in (fake, real))
            found: Tensor = self.measure(a, b).mean()
        return found


def as_constant(module: nn.Module) -> nn.Module:
    """The same module with every parameter and buffer a buffer that checkpoints do not carry (in place)."""
    for part in module.modules():
        for name, tensor in [*part.named_parameters(recurse=False), *part.named_buffers(recurse=False)]:
            delattr(part, name)
            part.register_buffer(name, tensor.detach(), persistent=False)
    return module


def perceptual(fake: Iterable[Tensor], real: Iterable[Tensor]) -> Tensor:
    """sum_i w_i mean |fake_i - real_i| over VGG19's five maps, w = 1/32, 1/16, 1/8, 1/4, 1."""
    terms = [
        weight * (at_least_float32(a) - at_least_float32(b)).abs().mean()
        for weight, a, b in zip(WEIGHTS, fake, real, strict=True)
    ]
    return torch.stack(terms).sum()


def read_vgg(path: str) -> VGG19 | Lite0:
    """VGG19 from torchvision's file; for "lite0" the other network. UserError where there is none, or where the file
    holds something else.
    """
    if path == "lite0":
        return Lite0()
    place = Path(path).expanduser()
    if not place.is_file():
        raise UserError(
            f"vgg={path!r} is not a file; expected torchvision's vgg19-dcbb9e9d.pth, 'lite0' for "
            f"EfficientNet-Lite0 in its place, or '' to do without that term."
        )
    try:
        if place.suffix == ".safetensors":
            from safetensors.torch import load_file

            state = load_file(place)
        else:
            state = torch.load(place, map_location="cpu", weights_only=True)
    except Exception as error:
        raise UserError(
            f"vgg={path!r} cannot be read ({type(error).__name__}); expected vgg19-dcbb9e9d.pth."
        ) from error
    if not isinstance(state, Mapping) or not all(isinstance(t, Tensor) for t in state.values()):
        raise UserError(f"vgg={path!r} holds no mapping of names to tensors; expected vgg19-dcbb9e9d.pth.")
    return VGG19(state, where=path)
