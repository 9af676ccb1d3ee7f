"""Networks of GauGAN: spatially-adaptive normalisation, the generator made of it, style encoder, discriminators.

Module names are those of the official code (NVlabs/SPADE), but for a spectrally normalised weight, which is `weight`,
`u0` and `v0` here and `weight_orig`, `weight_u` and `weight_v` there. Park, Liu, Wang, Zhu 2019 (arXiv:1903.07291).
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from saddlepoint.errors import UserError, unknown
from saddlepoint.layers import normalisation
from saddlepoint.layers.label_maps import edges, one_hot
from saddlepoint.layers.spectral import Spectral, SpectralConv2d
from saddlepoint.layers.translation import InstanceNorm
from saddlepoint.objectives import at_least_float32

UPSAMPLINGS = {"normal": 5, "more": 6, "most": 7}  # doublings from the start to the image
NORMS = ("batch", "instance", "none")
CRITERIA = ("hinge", "ls", "original", "w")
SPECTRAL = Spectral(stored=True)  # one power iteration a forward pass in training, stored vectors in evaluation
ENCODED = 256  # side that the encoder brings images to

Features = list[list[Tensor]]  # [scale][layer]: the discriminators' outputs, the logits last


# ---- label maps
def semantics(
    label: Tensor, classes: int, *, dont_care: bool = False, borders: Tensor | None = None, dtype: torch.dtype
) -> Tensor:
    """What the networks see of a label map [N, H, W]: one-hot [N, classes + dont_care + 1, H, W], the edges last.

    dont_care: pixels of id 255 (or `classes`) have a class of their own. borders: ids whose edges are seen too; None is
    no such channel. UserError names ids that are no class.
    """
    seg = one_hot(label, classes, dtype, dont_care=dont_care)
    return seg if borders is None else torch.cat([seg, edges(borders, dtype)], 1)


def steps_of(picture: Tensor, levels: int) -> Tensor:
    """Which of `levels` equal steps of brightness every value of a picture in [-1, 1] lies in, whole numbers."""
    return ((picture + 1) * (levels / 2)).floor().long().clamp(0, levels - 1)


def posterised(picture: Tensor, levels: int) -> Tensor:
    """A label map [N, H, W] from a picture [N, C, H, W] in [-1, 1]: each channel cut into `levels` equal steps,
    id = sum_c step_c levels^c.
    """
    weight = levels ** torch.arange(picture.shape[1], device=picture.device)
    return (steps_of(picture, levels) * weight.view(1, -1, 1, 1)).sum(1)


# ---- normalisation
def plain_norm(kind: str, channels: int, affine: bool = False) -> nn.Module:
    """The norm without weights inside SPADE; or beside a convolution, where batch norm has weights."""
    if kind not in NORMS:
        raise unknown("norm", kind, NORMS)
    if kind == "none":
        return nn.Identity()
    return InstanceNorm(channels) if kind == "instance" else normalisation.BatchNorm(channels, affine=affine)


class SPADE(nn.Module):
    """norm(x) (1 + gamma(seg)) + beta(seg): scale and shift for every pixel, by a small network from the map (eq. 1).

    x [N, C, h, w], seg [N, S, H, W] of any size (resized to the nearest pixel) -> [N, C, h, w].
    """

    def __init__(self, channels: int, maps: int, hidden: int = 128, kernel: int = 3, norm: str = "batch") -> None:
        super().__init__()
        self.param_free_norm = plain_norm(norm, channels)
        around = kernel // 2
        self.mlp_shared = nn.Sequential(nn.Conv2d(maps, hidden, kernel, padding=around), nn.ReLU())
        self.mlp_gamma = nn.Conv2d(hidden, channels, kernel, padding=around)
        self.mlp_beta = nn.Conv2d(hidden, channels, kernel, padding=around)

    def forward(self, x: Tensor, seg: Tensor) -> Tensor:
        a = self.mlp_shared(F.interpolate(seg, x.shape[2:], mode="nearest"))
        return self.param_free_norm(x) * (1 + self.mlp_gamma(a)) + self.mlp_beta(a)


def conv(
    inputs: int, outputs: int, kernel: int, spectral: bool, *, stride: int = 1, padding: int | None = None,
    bias: bool = True,
) -> nn.Module:  # fmt: skip
    """A convolution, spectrally normalised or not."""
    around = kernel // 2 if padding is None else padding
    if spectral:
        return SpectralConv2d(inputs, outputs, kernel, SPECTRAL, stride=stride, padding=around, bias=bias)
    return nn.Conv2d(inputs, outputs, kernel, stride=stride, padding=around, bias=bias)


def normed(inputs: int, outputs: int, kernel: int, spectral: bool, norm: str, stride: int, padding: int) -> nn.Module:
    """A convolution and its norm; with a norm it has no bias."""
    layer = conv(inputs, outputs, kernel, spectral, stride=stride, padding=padding, bias=norm == "none")
    return layer if norm == "none" else nn.Sequential(layer, plain_norm(norm, outputs, affine=True))


class SpadeResBlock(nn.Module):
    """shortcut + conv(lrelu(SPADE(conv(lrelu(SPADE x))))); where widths differ the shortcut is conv1x1(SPADE x)."""

    def __init__(
        self, inputs: int, outputs: int, maps: int, hidden: int = 128, kernel: int = 3, norm: str = "batch",
        spectral: bool = True,
    ) -> None:  # fmt: skip
        super().__init__()
        middle = min(inputs, outputs)
        self.learned = inputs != outputs
        self.conv_0 = conv(inputs, middle, 3, spectral)
        self.conv_1 = conv(middle, outputs, 3, spectral)
        self.norm_0 = SPADE(inputs, maps, hidden, kernel, norm)
        self.norm_1 = SPADE(middle, maps, hidden, kernel, norm)
        if self.learned:
            self.conv_s = conv(inputs, outputs, 1, spectral, bias=False)
            self.norm_s = SPADE(inputs, maps, hidden, kernel, norm)

    def forward(self, x: Tensor, seg: Tensor) -> Tensor:
        shortcut = self.conv_s(self.norm_s(x, seg)) if self.learned else x
        y = self.conv_0(F.leaky_relu(self.norm_0(x, seg), 0.2))
        return shortcut + self.conv_1(F.leaky_relu(self.norm_1(y, seg), 0.2))


# ---- networks
class SpadeGenerator(nn.Module):
    """seg [N, S, H, W] and z [N, latent] (or, with latent = 0, the map alone) -> image [N, out, h 2^n, w 2^n].

    start: (h, w) of the first maps; n: 5, 6 or 7 doublings ("normal", "more", "most"). Widths 16 16 16 8 4 2 1 (and
    1/2 with "most") times `width`, none above width_max (0: no limit, as published).
    """

    def __init__(
        self, maps: int, outputs: int = 3, width: int = 64, *, start: tuple[int, int] = (8, 8),
        upsampling: str = "normal", latent: int = 0, hidden: int = 128, kernel: int = 3, norm: str = "batch",
        spectral: bool = True, width_max: int = 0,
    ) -> None:  # fmt: skip
        super().__init__()
        if upsampling not in UPSAMPLINGS:
            raise unknown("upsampling", upsampling, UPSAMPLINGS)
        self.start, self.upsampling, self.latent = start, upsampling, latent
        self.multiple = 2 ** UPSAMPLINGS[upsampling]

        def wide(times: int) -> int:
            return min(times * width, width_max) if width_max else times * width

        def block(inputs: int, outputs: int) -> SpadeResBlock:
            return SpadeResBlock(inputs, outputs, maps, hidden, kernel, norm, spectral)

        self.top = wide(16)
        self.fc: nn.Module
        if latent:
            self.fc = nn.Linear(latent, self.top * start[0] * start[1])
        else:
            self.fc = nn.Conv2d(maps, self.top, 3, padding=1)
        self.head_0, self.G_middle_0, self.G_middle_1 = (block(self.top, self.top) for _ in range(3))
        self.up_0, self.up_1 = block(self.top, wide(8)), block(wide(8), wide(4))
        self.up_2, self.up_3 = block(wide(4), wide(2)), block(wide(2), wide(1))
        last = wide(1)
        if upsampling == "most":
            self.up_4 = block(last, max(1, last // 2))
            last = max(1, last // 2)
        self.conv_img = nn.Conv2d(last, outputs, 3, padding=1)
        # How far an output pixel sees from given first maps: the map that modulates the first block, two pixels in
        # each block, the last convolution.
        cells = {"normal": (1, 2, 2, 4, 8, 16, 32), "more": (1, 2, 4, 8, 16, 32, 64)}
        factors = cells.get(upsampling, (1, 2, 4, 8, 16, 32, 64, 128))
        self.reach = 2 * (kernel // 2) * self.multiple + sum(2 * self.multiple // f for f in factors) + 1

    def first(self, seg: Tensor, z: Tensor | None, start: tuple[int, int]) -> Tensor:
        """The first maps [N, top, h, w]."""
        if not self.latent:
            return self.fc(F.interpolate(seg, start, mode="nearest"))
        if z is None or z.shape != (len(seg), self.latent):
            shape = "none" if z is None else list(z.shape)
            raise UserError(f"this generator takes styles [{len(seg)}, {self.latent}], not {shape}.")
        x = self.fc(z).unflatten(1, (self.top, *self.start))
        return x if start == self.start else F.interpolate(x, start, mode="nearest")

    def forward(self, seg: Tensor, z: Tensor | None = None, start: tuple[int, int] | None = None) -> Tensor:
        """start: other sides of the first maps than the network's own, for pictures of another size."""
        return self.paint(self.first(seg, z, start or self.start), seg)

    def paint(self, x: Tensor, seg: Tensor) -> Tensor:
        """First maps [N, top, h, w] and seg [N, S, h 2^n, w 2^n] -> image [N, out, h 2^n, w 2^n]."""
        x = self.head_0(x, seg)
        x = self.G_middle_0(up(x), seg)
        x = self.G_middle_1(x if self.upsampling == "normal" else up(x), seg)
        blocks = [self.up_0, self.up_1, self.up_2, self.up_3]
        for block in [*blocks, self.up_4] if self.upsampling == "most" else blocks:
            x = block(up(x), seg)
        return torch.tanh(self.conv_img(F.leaky_relu(x, 0.2)))


def up(x: Tensor) -> Tensor:
    """Twice the sides, each pixel repeated."""
    return F.interpolate(x, scale_factor=2.0, mode="nearest")


class StyleEncoder(nn.Module):
    """Images [N, C, H, W] -> (mu, logvar) [N, latent] each of their style; they are resized to 256x256 first.

    Six 3x3 convolutions of stride 2. (The official code leaves the sixth out for crops below 256 and then fails.)
    """

    def __init__(
        self, inputs: int = 3, width: int = 64, latent: int = 256, norm: str = "instance", spectral: bool = True,
        width_max: int = 0,
    ) -> None:  # fmt: skip
        super().__init__()
        most = min(8 * width, width_max or 8 * width)
        widths = [inputs, *(min(times * width, most) for times in (1, 2, 4, 8, 8, 8))]
        for index in range(6):
            layer = normed(widths[index], widths[index + 1], 3, spectral, norm, 2, 1)
            self.add_module(f"layer{index + 1}", layer)
        self.fc_mu, self.fc_var = (nn.Linear(most * 16, latent) for _ in range(2))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        if x.shape[2:] != (ENCODED, ENCODED):
            x = F.interpolate(x, (ENCODED, ENCODED), mode="bilinear")
        for index in range(6):
            x = F.leaky_relu(self.get_submodule(f"layer{index + 1}")(x), 0.2)
        x = x.flatten(1)
        return self.fc_mu(x), self.fc_var(x)


class PatchDiscriminator(nn.Module):
    """[N, S + C, H, W] -> outputs of all layers, the logits [N, 1, h, w] last. 4x4 convolutions padded by 2."""

    def __init__(
        self, inputs: int, width: int = 64, n_layers: int = 4, norm: str = "instance", spectral: bool = True
    ) -> None:
        super().__init__()
        self.count = n_layers + 1
        self.model0 = nn.Sequential(nn.Conv2d(inputs, width, 4, stride=2, padding=2), nn.LeakyReLU(0.2))
        wide = width
        for n in range(1, n_layers):
            before, wide = wide, min(2 * wide, 512)
            layer = normed(before, wide, 4, spectral, norm, 1 if n == n_layers - 1 else 2, 2)
            self.add_module(f"model{n}", nn.Sequential(layer, nn.LeakyReLU(0.2)))
        self.add_module(f"model{n_layers}", nn.Sequential(nn.Conv2d(wide, 1, 4, padding=2)))

    def forward(self, x: Tensor) -> list[Tensor]:
        found = []
        for n in range(self.count):
            x = self.get_submodule(f"model{n}")(x)
            found.append(x)
        return found


class MultiscaleDiscriminator(nn.Module):
    """Patch discriminators on the image and on halves of it: [scale, layer], see `PatchDiscriminator`."""

    def __init__(
        self, inputs: int, width: int = 64, n_layers: int = 4, scales: int = 2, norm: str = "instance",
        spectral: bool = True,
    ) -> None:  # fmt: skip
        super().__init__()
        self.scales = scales
        for scale in range(scales):
            self.add_module(f"discriminator_{scale}", PatchDiscriminator(inputs, width, n_layers, norm, spectral))

    def forward(self, x: Tensor) -> Features:
        found = []
        for scale in range(self.scales):
            if scale:
                x = F.avg_pool2d(x, 3, stride=2, padding=1, count_include_pad=False)
            found.append(self.get_submodule(f"discriminator_{scale}")(x))
        return found


# ---- objectives
def verdict(criterion: str, logits: Tensor, real: bool, generator: bool = False) -> Tensor:
    """What logits [N, ...] of one scale cost that should say "real" (or "fake"), a mean.

    hinge: max(0, 1 - D) or max(0, 1 + D), for the generator -D; ls: squared error against 1 or 0; original: cross
    entropy; w: -D or D.
    """
    if criterion not in CRITERIA:
        raise unknown("criterion", criterion, CRITERIA)
    logits = at_least_float32(logits)
    if criterion == "hinge":
        return -logits.mean() if generator else F.relu(1 - logits if real else 1 + logits).mean()
    if criterion == "ls":
        return (logits - float(real)).square().mean()
    if criterion == "original":
        return F.softplus(-logits if real else logits).mean()
    return -logits.mean() if real else logits.mean()


def over_scales(criterion: str, features: Features, real: bool, generator: bool = False) -> Tensor:
    """`verdict` of every scale's logits, averaged."""
    return torch.stack([verdict(criterion, scale[-1], real, generator) for scale in features]).mean()


def feature_matching(fake: Features, real: Features) -> Tensor:
    """1/K sum over K scales and their layers but the last of mean |fake - real|."""
    terms = [
        (at_least_float32(a) - at_least_float32(b)).abs().mean()
        for ours, theirs in zip(fake, real, strict=True)
        for a, b in zip(ours[:-1], theirs[:-1], strict=True)
    ]
    return torch.stack(terms).sum() / len(fake)


def divergence(mu: Tensor, logvar: Tensor) -> Tensor:
    """KL(N(mu, e^logvar) || N(0, 1)) of each sample, [N, latent] twice -> [N]."""
    mu, logvar = at_least_float32(mu), at_least_float32(logvar)
    return 0.5 * (mu.square() + logvar.exp() - 1 - logvar).sum(1)


def starts(resolution: int, aspect: float, upsampling: str) -> tuple[int, int]:
    """(h, w) of the first maps for pictures `resolution` wide and resolution / aspect high."""
    if upsampling not in UPSAMPLINGS:
        raise unknown("upsampling", upsampling, UPSAMPLINGS)
    wide = resolution >> UPSAMPLINGS[upsampling]
    return (max(1, round(wide / aspect)) if math.isfinite(aspect) and aspect > 0 else 0), wide
