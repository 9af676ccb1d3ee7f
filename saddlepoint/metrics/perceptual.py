"""How different two images look: LPIPS with the published heads, and distances that need no download.

LPIPS (Zhang et al. 2018, arXiv:1801.03924, eq. 1): both images pass through a network trained on ImageNet; at every
tapped layer the channels of each pixel are scaled to unit length, squared differences are weighted by the head's
non-negative w_l, summed over channels and averaged over the image; the layers' values are added.

    d(x, y) = sum_l mean_hw sum_c w_lc (x^_lhwc - y^_lhwc)^2,   x^ = x / (|x|_2 + 1e-10) along the channels

Everything is differentiable in both images. The official package's square root has no derivative where all channels
of a pixel are zero; here that derivative is 0.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from saddlepoint.errors import UserError, unknown
from saddlepoint.metrics import trunks
from saddlepoint.metrics.foreign import fingerprint, read, read_member
from saddlepoint.metrics.resize import to_channels

EPSILON = 1e-10
SHIFT, SCALE = (-0.030, -0.088, -0.188), (0.458, 0.448, 0.450)  # of images in [-1, 1], since version 0.1
SMALLEST, LARGEST = 64, 256  # sides between which `lite0` looks at images
Stages = Callable[[Tensor], Sequence[Tensor]]


def unit(features: Tensor) -> Tensor:
    """Channels of every pixel scaled to length one, zeros left at zero: [N, C, H, W] -> the same."""
    return features / (torch.linalg.vector_norm(features, dim=1, keepdim=True) + EPSILON)


def layer_maps(a: Sequence[Tensor], b: Sequence[Tensor], heads: Sequence[Tensor] | None = None) -> list[Tensor]:
    """Weighted squared difference [N, 1, H, W] at each layer. heads: w_l as [1, C, 1, 1]; None: all ones."""
    differences = [(unit(x) - unit(y)).square() for x, y in zip(a, b, strict=True)]
    if heads is None:
        return [d.sum(1, keepdim=True) for d in differences]
    return [F.conv2d(d, w) for d, w in zip(differences, heads, strict=True)]


class PerceptualDistance(nn.Module):
    """d(x, y) >= 0 of images [N, C, H, W] in [-1, 1] -> [N].

    stages: images -> maps. heads: weights of the channels, or None for ones; then layers are averaged, not added.
    identity: name and hash of the weights.
    """

    def __init__(
        self, name: str, identity: str, network: nn.Module, stages: Stages, heads: Sequence[Tensor] | None = None
    ) -> None:
        super().__init__()
        self.name, self.identity, self.network, self.stages = name, identity, network, stages
        self.count = 0 if heads is None else len(heads)
        for index, head in enumerate(heads or ()):
            self.register_buffer(f"head{index}", head.reshape(1, -1, 1, 1))
        self.eval().requires_grad_(False)

    def layers(self, x: Tensor, y: Tensor) -> list[Tensor]:
        """The layers' maps [N, 1, h, w]."""
        check_pair(x, y)
        heads = [self.get_buffer(f"head{index}") for index in range(self.count)] if self.count else None
        return layer_maps(self.stages(x), self.stages(y), heads)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        values = torch.stack([d.mean((1, 2, 3)) for d in self.layers(x, y)])  # [L, N]
        return values.sum(0) if self.count else values.mean(0)

    def maps(self, x: Tensor, y: Tensor) -> Tensor:
        """Where the images differ: [N, 1, H, W], each layer resized bilinearly to the images and added up."""
        size = x.shape[-2:]
        resized = [F.interpolate(d, size, mode="bilinear", align_corners=False) for d in self.layers(x, y)]
        total = torch.stack(resized)
        return total.sum(0) if self.count else total.mean(0)


def check_pair(x: Tensor, y: Tensor) -> None:
    if x.ndim != 4 or x.shape != y.shape or x.shape[1] not in (1, 3):
        raise UserError(
            f"images of shapes {list(x.shape)} and {list(y.shape)}; expected the same shape [N, C, H, W] with 1 or 3 "
            f"channels, in [-1, 1]."
        )


# ---- LPIPS
def trunk_stages(
    trunk: nn.Module, x: Tensor, shift: Sequence[float] | None = SHIFT, scale: Sequence[float] = SCALE
) -> Sequence[Tensor]:
    """Images in [-1, 1] -> the trunk's maps. shift, scale: ImageNet's mean and deviation; None in version 0.0."""
    x = to_channels(x, 3)
    if shift is not None:
        x = (x - x.new_tensor(shift).view(1, 3, 1, 1)) / x.new_tensor(scale).view(1, 3, 1, 1)
    return trunk(x)


def read_heads(net: str, heads: str | Path | None = None, version: str = "0.1") -> list[Tensor]:
    """The heads w_l of "vgg", "alex" or "squeeze", [C] each.

    heads: a .pth file, a wheel of lpips 0.1.4, or a folder with v0.1/vgg.pth; None looks into the installed packages
    lpips and torchmetrics, which carry the same files. Raises UserError saying where they are published.
    """
    path = _installed_heads(net, version) if heads is None else Path(heads).expanduser()
    if path is None:
        raise UserError(
            f"lpips-{net} needs its linear heads, and neither lpips nor torchmetrics is installed: give the wheel of "
            f"lpips 0.1.4 (pip download --no-deps lpips==0.1.4) or its file weights/v{version}/{net}.pth as `heads`. "
            f"Without it: 'lite0' (colour), 'random-conv' or 'multiscale'."
        )
    if path.is_dir():
        path = path / f"v{version}" / f"{net}.pth"
    whole = path.suffix == ".whl"
    state = read_member(path, f"lpips/weights/v{version}/{net}.pth") if whole else read(path)
    found = [state[n].flatten() for n in sorted(state) if n.startswith("lin") and n.endswith("weight")]
    if len(found) != len(trunks.PLANS[net].taps):
        raise UserError(f"{str(path)!r} has {len(found)} heads; {net} has {len(trunks.PLANS[net].taps)} layers.")
    return found


def _installed_heads(net: str, version: str) -> Path | None:
    """The file in an installed package, found without importing it."""
    places = [("lpips", f"weights/v{version}/{net}.pth")]
    if version == "0.1":
        places.append(("torchmetrics", f"functional/image/lpips_models/{net}.pth"))
    for package, inside in places:
        spec = importlib.util.find_spec(package)
        for folder in (spec.submodule_search_locations or ()) if spec else ():
            if (Path(folder) / inside).is_file():
                return Path(folder) / inside
    return None


def lpips(
    net: str, weights: str | Path | None = None, heads: str | Path | None = None, *, version: str = "0.1"
) -> PerceptualDistance:
    """LPIPS with the trunk "vgg", "alex" or "squeeze".

    weights: torchvision's state dict of the trunk. heads: see `read_heads`. version: "0.1", or "0.0" without the
    scaling of the input. Raises UserError for what is missing or does not fit.
    """
    from saddlepoint.pretrained.placing import place

    if net not in trunks.PLANS:
        raise unknown("trunk of LPIPS", net, trunks.PLANS)
    if version not in ("0.0", "0.1"):
        raise unknown("version of LPIPS", version, ("0.0", "0.1"))
    if weights is None:
        file = trunks.PLANS[net].file
        raise UserError(
            f"lpips-{net} needs the trunk's weights: torchvision's {file} (its SHA-256 begins with "
            f"{file.partition('-')[2].removesuffix('.pth').rpartition('-')[2]}), given as `weights`. Without it: "
            f"'lite0' (colour), 'random-conv' or 'multiscale'."
        )
    trunk = trunks.Trunk(net)
    state = trunks.trunk_state(read(weights))
    place(trunk, state, where=f"the trunk of lpips-{net}")
    linear = read_heads(net, heads, version)
    every = {**state, **{f"lin{i}": w for i, w in enumerate(linear)}}
    identity = f"lpips-{net}-v{version}@sha256:{fingerprint(every)[:16]}"
    stages = partial(trunk_stages, trunk, shift=None if version == "0.0" else SHIFT)
    return PerceptualDistance(f"lpips-{net}", identity, trunk, stages, linear)


# ---- without a download
def within(x: Tensor, smallest: int = SMALLEST, largest: int = LARGEST) -> Tensor:
    """Images brought between two sides, shape kept: enlarged bilinearly, reduced with antialias."""
    short = min(x.shape[-2:])
    factor = smallest / short if short < smallest else largest / short if short > largest else 1.0
    if factor == 1.0:
        return x
    size = [max(1, round(n * factor)) for n in x.shape[-2:]]
    return F.interpolate(x, size, mode="bilinear", align_corners=False, antialias=factor < 1)


def lite0(weights: str | Path | None = None) -> PerceptualDistance:
    """EfficientNet-Lite0's maps of strides 2, 4, 8, 16, 16 as LPIPS without heads; images between 64 and 256 pixels.

    The offline default for colour. The weights come from the package of the extra `features`.
    """
    from saddlepoint.metrics import lite

    network, state = lite.load(weights)
    network = lite.fused(network)

    def stages(x: Tensor) -> list[Tensor]:
        return network.stages(lite.scaled((within(to_channels(x, 3)) + 1) * 127.5), 5)

    return PerceptualDistance("lite0", f"lite0@sha256:{fingerprint(state)[:16]}", network, stages)


def random_conv(seed: int = 0) -> PerceptualDistance:
    """Random convolutions as LPIPS without heads: no file, no training."""
    network = trunks.RandomConv(seed)
    identity = f"random-conv-{seed}@sha256:{fingerprint(network.state_dict())[:16]}"
    return PerceptualDistance("random-conv", identity, network, lambda x: network.stages(to_channels(x, 3)))


def classifier(data: Any = "fashion-mnist", **options: Any) -> PerceptualDistance:
    """The maps of a classifier trained on a labelled set, as LPIPS without heads. data, options: as in
    `saddlepoint.metrics.classifier.classifier`.
    """
    from saddlepoint.metrics import classifier as trained

    found = trained.classifier(data, **options)
    network = found.network

    def stages(x: Tensor) -> list[Tensor]:
        return network.stages(found.prepared(x))

    return PerceptualDistance("classifier", found.identity, network, stages)


class Multiscale(nn.Module):
    """Laplacian pyramids compared by L1, no network: sum over levels of mean |L_j(x) - L_j(y)|, which is
    sum_j 4^j |L_j(x) - L_j(y)|_1 per pixel (Bojanowski et al. 2018, arXiv:1707.05776, eq. 4). Levels down to 8 pixels.
    """

    name, identity = "multiscale", "multiscale-laplacian-l1"

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        check_pair(x, y)
        return torch.stack([level.abs().mean((1, 2, 3)) for level in laplacian(x - y)]).sum(0)  # linear in x - y


def _binomial(x: Tensor) -> Tensor:
    """Each channel filtered with (1, 4, 6, 4, 1) / 16 along both axes, edges repeated."""
    taps = x.new_tensor([1.0, 4.0, 6.0, 4.0, 1.0]) / 16
    count = x.shape[1]
    x = F.conv2d(F.pad(x, (2, 2, 0, 0), mode="replicate"), taps.view(1, 1, 1, 5).expand(count, 1, 1, 5), groups=count)
    return F.conv2d(
        F.pad(x, (0, 0, 2, 2), mode="replicate"), taps.view(1, 1, 5, 1).expand(count, 1, 5, 1), groups=count
    )


def laplacian(x: Tensor, smallest: int = 8) -> list[Tensor]:
    """Laplacian pyramid of [N, C, H, W]: band-pass levels, each half the size of the one before, and the rest."""
    levels = []
    while min(x.shape[-2:]) >= 2 * smallest:
        low = _binomial(x)[..., ::2, ::2]
        levels.append(x - F.interpolate(low, x.shape[-2:], mode="bilinear", align_corners=False))
        x = low
    return [*levels, x]


# ---- by name
DISTANCES: dict[str, Callable[..., nn.Module]] = {
    "lite0": lite0,
    "classifier": classifier,
    "random-conv": random_conv,
    "multiscale": Multiscale,
    "lpips-vgg": partial(lpips, "vgg"),
    "lpips-alex": partial(lpips, "alex"),
    "lpips-squeeze": partial(lpips, "squeeze"),
}


def perceptual(name: str = "lite0", *, device: str | torch.device = "cpu", **options: Any) -> nn.Module:
    """A distance by its name, a module of (x, y) with `name` and `identity`. options: of its function above
    (weights, heads, version of LPIPS; data of the classifier; seed of random-conv).
    """
    if name not in DISTANCES:
        raise unknown("perceptual distance", name, DISTANCES)
    return DISTANCES[name](**options).to(device)


def perceptual_distance(x: Tensor, y: Tensor, name: str = "lite0", **options: Any) -> Tensor:
    """d(x, y) [N] of images [N, C, H, W] in [-1, 1], differentiable. For many calls, build it once: `perceptual`."""
    distance: Tensor = perceptual(name, device=x.device, **options).to(x.dtype)(x, y)
    return distance
