"""Networks from images to images: residual and U-Net generators, patch and pixel discriminators, and what they need.

Module names and their order are those of the official code (junyanz/pytorch-CycleGAN-and-pix2pix), so that published
files load as they are. What differs: dropout takes its numbers from the round, instance norm can take statistics that
several tiles of one picture share, and nothing is written during a forward pass.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from saddlepoint.errors import UserError, unknown
from saddlepoint.layers import normalisation
from saddlepoint.layers.dense import dropout
from saddlepoint.objectives import at_least_float32
from saddlepoint.tracking import wants_any_order

Noise = Callable[..., Tensor]  # (name, *shape) -> uniform numbers [N, *shape]
Norm = Literal["instance", "batch", "none"]
NORMS = ("instance", "batch", "none")
GENERATORS = ("resnet-9", "resnet-6", "unet-256", "unet-128")
DISCRIMINATORS = ("basic", "n-layers", "pixel")
GAN_MODES = ("lsgan", "vanilla", "wgangp")
INITS = ("normal", "xavier", "kaiming", "orthogonal")

_noise: ContextVar[Noise | None] = ContextVar("noise", default=None)


# ---- dropout that the round decides
@contextmanager
def dropping(noise: Noise | None) -> Iterator[None]:
    """Dropout inside takes its numbers from `noise`; with None it is off."""
    token = _noise.set(noise)
    try:
        yield
    finally:
        _noise.reset(token)


class Dropout(nn.Module):
    """Drop elements with probability 1/2 where `dropping` gives numbers: also at test time, as pix2pix does."""

    def __init__(self, name: str, keep: float = 0.5) -> None:
        super().__init__()
        self.name, self.keep = name, keep

    def forward(self, x: Tensor) -> Tensor:
        noise = _noise.get()
        return x if noise is None else dropout(x, noise(f"dropout.{self.name}", *x.shape[1:]), self.keep)


# ---- normalisation
class Enough(Exception):  # noqa: N818, a signal and no error
    """The norm layer whose statistics are wanted has been seen: the rest of a tile need not be computed."""


class Shared:
    """Statistics that the tiles of one picture share, so that no seam shows where each would have its own.

    One pass over the tiles finds the statistics of one layer, in the order of the network: those before it are exact
    by then. A layer without shared statistics takes each tile's own. (To guess a layer's statistics while those before
    it still change is worse than no sharing: the guesses fit no tile.)

        again = True
        while again:
            for tile in tiles:
                shared.place(rows, columns)
                with suppress(Enough):
                    network(tile)       # comes to its end in the last pass, when all is known
            again = shared.next_pass()
    """

    def __init__(self) -> None:
        self.fixed: dict[int, tuple[Tensor, Tensor]] = {}
        self.found: tuple[int, Tensor, Tensor, int] | None = None  # layer, sum, sum of squares, pixels
        self.searching = True
        self.rows, self.columns = (0.0, 1.0), (0.0, 1.0)

    def next_pass(self, search: bool = True) -> bool:
        """Fix what the last pass found; search: for one layer more. False where it found none: it was the last."""
        if self.found is None:
            return False
        layer, total, squares, count = self.found
        mean = total / count
        self.fixed[layer] = mean, (squares / count - mean.square()).clamp_min(0)
        self.found, self.searching = None, search
        return True

    def place(self, rows: tuple[float, float], columns: tuple[float, float]) -> None:
        """The part of the next tile that counts, as shares of its height and width: no pixel counts twice."""
        self.rows, self.columns = rows, columns

    def normalise(self, layer: nn.Module, x: Tensor, eps: float) -> Tensor:
        """(x - mean) / sqrt(var + eps) with the shared statistics, or each tile's own; `Enough` where the layer is the
        one that is searched for.
        """
        if id(layer) in self.fixed:
            mean, var = (t.to(x.dtype).view(1, -1, 1, 1) for t in self.fixed[id(layer)])
            return (x - mean) * (var + eps).rsqrt()
        if not self.searching:
            return torch.zeros_like(x) if x.shape[2] * x.shape[3] == 1 else F.instance_norm(x, eps=eps)
        top, bottom = (round(share * x.shape[2]) for share in self.rows)
        left, right = (round(share * x.shape[3]) for share in self.columns)
        wide = x[:, :, top:bottom, left:right].double()
        _, total, squares, count = self.found or (0, 0.0, 0.0, 0)
        more = wide.sum((0, 2, 3)), wide.square().sum((0, 2, 3)), wide.numel() // x.shape[1]
        self.found = id(layer), total + more[0], squares + more[1], count + more[2]
        raise Enough


_shared: ContextVar[Shared | None] = ContextVar("shared", default=None)


@contextmanager
def sharing(statistics: Shared | None) -> Iterator[None]:
    """Norm layers inside take these statistics."""
    token = _shared.set(statistics)
    try:
        yield
    finally:
        _shared.reset(token)


class InstanceNorm(nn.Module):
    """(x - mean) / sqrt(var + eps) with mean and biased variance over the pixels of each map; no weights.

    x: [N, C, H, W]. Ulyanov, Vedaldi, Lempitsky 2016 (arXiv:1607.08022).
    """

    def __init__(self, channels: int, eps: float = 1e-5) -> None:
        super().__init__()
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        shared = _shared.get()
        if shared is not None:
            return shared.normalise(self, x, self.eps)
        if x.shape[2] * x.shape[3] == 1:  # torch refuses; the limit of one pixel is its own mean
            return torch.zeros_like(x)
        if wants_any_order():  # the kernel's third derivative is wrong, as batch norm's is
            var, mean = torch.var_mean(x, (2, 3), correction=0, keepdim=True)
            return (x - mean) * (var + self.eps).rsqrt()
        return F.instance_norm(x, eps=self.eps)


class BatchNorm(normalisation.BatchNorm):
    """Batch norm that at test time may take each image's own statistics: what the paper does with batches of one.

    per_image: in evaluation, instance statistics instead of the running ones.
    """

    per_image = False

    def forward(self, x: Tensor) -> Tensor:
        if self.training or not self.per_image:
            return super().forward(x)
        shared = _shared.get()
        one_pixel = x.shape[2] * x.shape[3] == 1
        if shared is not None:
            y = shared.normalise(self, x, self.eps)
        else:
            y = torch.zeros_like(x) if one_pixel else F.instance_norm(x, eps=self.eps)
        assert self.weight is not None and self.bias is not None
        return y * self.weight.view(1, -1, 1, 1) + self.bias.view(1, -1, 1, 1)


def norm_layer(kind: str, channels: int) -> nn.Module:
    """The norm of this kind; "none" keeps its place in the official numbering."""
    if kind not in NORMS:
        raise unknown("norm", kind, NORMS)
    if kind == "none":
        return nn.Identity()
    return InstanceNorm(channels) if kind == "instance" else BatchNorm(channels)


# ---- generators
def padding_layers(kind: str, width: int) -> tuple[list[nn.Module], int]:
    """(a layer that pads, what is left for the convolution to pad)."""
    if kind == "zero":
        return [], width
    layers = {"reflect": nn.ReflectionPad2d, "replicate": nn.ReplicationPad2d}
    if kind not in layers:
        raise unknown("padding", kind, [*layers, "zero"])
    return [layers[kind](width)], 0


class ResnetBlock(nn.Module):
    """x + norm(conv(dropout(relu(norm(conv x))))), 3x3, no activation after the sum."""

    def __init__(self, channels: int, norm: str, use_dropout: bool, padding_type: str, name: str) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for second in (False, True):
            pad, left = padding_layers(padding_type, 1)
            conv = nn.Conv2d(channels, channels, 3, padding=left, bias=norm == "instance")
            layers += [*pad, conv, norm_layer(norm, channels)]
            if not second:
                layers += [nn.ReLU(), *([Dropout(name)] if use_dropout else [])]
        self.conv_block = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv_block(x)


class ResnetGenerator(nn.Module):
    """c7s1-ngf, two convolutions of stride 2, residual blocks, two transposed convolutions, c7s1-out, tanh.

    x [N, in, H, W] -> [N, out, H, W] in [-1, 1]; H and W become the next multiple of 4. (Johnson et al. 2016 as
    CycleGAN uses it, arXiv:1703.10593, appendix.)
    """

    multiple = 4

    def __init__(
        self,
        input_nc: int,
        output_nc: int,
        ngf: int = 64,
        norm: str = "batch",
        use_dropout: bool = False,
        n_blocks: int = 9,
        padding_type: str = "reflect",
    ) -> None:
        super().__init__()
        bias = norm == "instance"
        layers: list[nn.Module] = [nn.ReflectionPad2d(3), nn.Conv2d(input_nc, ngf, 7, bias=bias)]
        layers += [norm_layer(norm, ngf), nn.ReLU()]
        for width in (ngf, 2 * ngf):
            down = nn.Conv2d(width, 2 * width, 3, stride=2, padding=1, bias=bias)
            layers += [down, norm_layer(norm, 2 * width), nn.ReLU()]
        layers += [ResnetBlock(4 * ngf, norm, use_dropout, padding_type, str(i)) for i in range(n_blocks)]
        for width in (4 * ngf, 2 * ngf):
            up = nn.ConvTranspose2d(width, width // 2, 3, stride=2, padding=1, output_padding=1, bias=bias)
            layers += [up, norm_layer(norm, width // 2), nn.ReLU()]
        layers += [nn.ReflectionPad2d(3), nn.Conv2d(ngf, output_nc, 7), nn.Tanh()]
        self.model = nn.Sequential(*layers)
        # What a pixel of the output sees to either side: 3 at the image, 1 at 1/1 and 2 at 1/2 on the way down, the
        # blocks' 2 x 4 pixels each, at most 4 + 2 on the way up, 3 at the end.
        self.reach = 3 + 1 + 2 + 8 * n_blocks + 4 + 2 + 3

    def forward(self, x: Tensor, noise: Noise | None = None) -> Tensor:
        with dropping(noise):
            return self.model(x)


class UnetBlock(nn.Module):
    """One level of the U-Net: down, what is inside, up; cat(x, block(x)) unless it is the outermost."""

    def __init__(
        self,
        outer: int,
        inner: int,
        inside: nn.Module | None,
        norm: str,
        *,
        input_nc: int = 0,
        outermost: bool = False,
        use_dropout: bool = False,
        name: str = "",
    ) -> None:
        super().__init__()
        self.outermost = outermost
        bias = norm == "instance"
        down = nn.Conv2d(input_nc or outer, inner, 4, stride=2, padding=1, bias=bias)
        wide = inner if inside is None else 2 * inner
        up = nn.ConvTranspose2d(wide, outer, 4, stride=2, padding=1, bias=bias or outermost)
        layers: list[nn.Module]
        if outermost:
            assert inside is not None
            layers = [down, inside, nn.ReLU(), up, nn.Tanh()]
        elif inside is None:
            layers = [nn.LeakyReLU(0.2), down, nn.ReLU(), up, norm_layer(norm, outer)]
        else:
            layers = [nn.LeakyReLU(0.2), down, norm_layer(norm, inner), inside, nn.ReLU(), up, norm_layer(norm, outer)]
            layers += [Dropout(name)] if use_dropout else []
        self.model = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        return self.model(x) if self.outermost else torch.cat([x, self.model(x)], 1)


class UnetGenerator(nn.Module):
    """The U-Net of pix2pix (arXiv:1611.07004, section 6.1): num_downs 4x4 convolutions of stride 2 and back, skips.

    x [N, in, H, W] -> [N, out, H, W] in [-1, 1]; H and W are multiples of 2^num_downs. Channels ngf x (1, 2, 4, 8, 8,
    ...). The num_downs - 5 levels around the innermost have dropout.
    """

    def __init__(
        self,
        input_nc: int,
        output_nc: int,
        num_downs: int,
        ngf: int = 64,
        norm: str = "batch",
        use_dropout: bool = False,
    ) -> None:
        super().__init__()
        if num_downs < 5:
            raise UserError(f"the U-Net has at least 5 downsamplings, not {num_downs}; nearest: 5.")
        self.multiple = 2**num_downs
        self.reach = 3 * self.multiple  # more than a tile should overlap by; the skips carry what is near
        block = UnetBlock(8 * ngf, 8 * ngf, None, norm)
        for i in range(num_downs - 5):
            block = UnetBlock(8 * ngf, 8 * ngf, block, norm, use_dropout=use_dropout, name=str(i))
        for outer in (4 * ngf, 2 * ngf, ngf):
            block = UnetBlock(outer, 2 * outer, block, norm)
        self.model = UnetBlock(output_nc, ngf, block, norm, input_nc=input_nc, outermost=True)

    def forward(self, x: Tensor, noise: Noise | None = None) -> Tensor:
        if x.shape[2] % self.multiple or x.shape[3] % self.multiple:
            sides = [max(1, -(-side // self.multiple)) * self.multiple for side in x.shape[2:]]
            raise UserError(
                f"this U-Net needs sides that are multiples of {self.multiple}, not {x.shape[2]}x{x.shape[3]}; "
                f"nearest above: {sides[0]}x{sides[1]}."
            )
        with dropping(noise):
            return self.model(x)


# ---- discriminators
class NLayerDiscriminator(nn.Module):
    """PatchGAN: every logit judges one patch; 70x70 pixels with n_layers 3 (16, 34, 142 with 1, 2, 4).

    x [N, in, H, W] -> logits [N, 1, h, w]. 4x4 convolutions: n_layers of stride 2, two of stride 1.
    """

    def __init__(self, input_nc: int, ndf: int = 64, n_layers: int = 3, norm: str = "batch") -> None:
        super().__init__()
        bias = norm != "batch"
        layers: list[nn.Module] = [nn.Conv2d(input_nc, ndf, 4, stride=2, padding=1), nn.LeakyReLU(0.2)]
        for n in range(1, n_layers + 1):
            before, after = ndf * min(2 ** (n - 1), 8), ndf * min(2**n, 8)
            conv = nn.Conv2d(before, after, 4, stride=2 if n < n_layers else 1, padding=1, bias=bias)
            layers += [conv, norm_layer(norm, after), nn.LeakyReLU(0.2)]
        layers += [nn.Conv2d(ndf * min(2**n_layers, 8), 1, 4, padding=1)]
        self.model = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        return self.model(x)


class PixelDiscriminator(nn.Module):
    """1x1 convolutions: every pixel is judged by its colour alone. x [N, in, H, W] -> logits [N, 1, H, W]."""

    def __init__(self, input_nc: int, ndf: int = 64, norm: str = "batch") -> None:
        super().__init__()
        bias = norm == "instance"
        self.net = nn.Sequential(
            nn.Conv2d(input_nc, ndf, 1),
            nn.LeakyReLU(0.2),
            nn.Conv2d(ndf, 2 * ndf, 1, bias=bias),
            norm_layer(norm, 2 * ndf),
            nn.LeakyReLU(0.2),
            nn.Conv2d(2 * ndf, 1, 1, bias=bias),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)


def init_weights(module: nn.Module, kind: str = "normal", gain: float = 0.02) -> None:
    """First weights of every convolution and linear layer, biases 0; batch norm's weights N(1, gain)."""
    if kind not in INITS:
        raise unknown("init", kind, INITS)
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d | nn.Linear):
            if kind == "normal":
                nn.init.normal_(layer.weight, 0.0, gain)
            elif kind == "xavier":
                nn.init.xavier_normal_(layer.weight, gain=gain)
            elif kind == "kaiming":
                nn.init.kaiming_normal_(layer.weight, a=0, mode="fan_in")
            else:
                nn.init.orthogonal_(layer.weight, gain=gain)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
        elif isinstance(layer, normalisation.BatchNorm) and layer.weight is not None and layer.bias is not None:
            nn.init.normal_(layer.weight, 1.0, gain)
            nn.init.zeros_(layer.bias)


# ---- objectives of the official code
def criterion(mode: str, logits: Tensor, real: bool) -> Tensor:
    """Mean over batch and patches of what these logits cost when they should say "real" (or "fake").

    lsgan: (D - target)^2 with targets 1 and 0; vanilla: binary cross entropy with logits; wgangp: -D or D.
    """
    if mode not in GAN_MODES:
        raise unknown("gan_mode", mode, GAN_MODES)
    logits = at_least_float32(logits)
    if mode == "lsgan":
        return (logits - float(real)).square().mean()
    if mode == "vanilla":
        return F.softplus(-logits if real else logits).mean()
    return -logits.mean() if real else logits.mean()


# ---- the pool of past fakes
def from_pool(
    stored: Tensor, count: Tensor, fake: Tensor, numbers: Tensor, first: int = 0
) -> tuple[Tensor, Tensor, Tensor]:
    """What the discriminator is shown, the pool and its count afterwards (Shrivastava et al. 2017, arXiv:1612.07828).

    stored: [K, C, H, W] of which `count` are filled. fake: the fakes first, first + 1, ... of the global batch.
    numbers: uniform [total, 2] for the *global* batch, the coin and the place. While there is room a fake is stored and
    shown; then with probability 1/2 it is shown, else one from the pool is, and it takes that one's place. Fakes of one
    batch meet the pool as it was before the batch (at batch 1 that is the official order), so a batch may be cut in
    parts: the returned pool is scaled so that its *mean* over the parts is the new pool.
    """
    size, total, own = len(stored), len(numbers), len(fake)
    fake = fake.to(stored.dtype)
    place = torch.arange(total, device=stored.device)
    filled = count.long()
    filling = filled + place < size
    slot = torch.where(filling, filled + place, (numbers[:, 1] * size).long().clamp(max=size - 1))
    swap = ~filling & (numbers[:, 0] > 0.5) & (slot < filled)
    nobody = torch.full((size,), -1, device=stored.device)
    writer = torch.where(filling | swap, place, nobody[:1])
    owner = nobody.scatter_reduce(0, slot.clamp(max=size - 1), writer, "amax")  # of two, the later one stays
    mine = slice(first, first + own)
    wide = (-1, 1, 1, 1)
    shown = torch.where(swap[mine].view(wide), stored[slot[mine].clamp(max=size - 1)], fake)
    here = ((owner >= first) & (owner < first + own)).view(wide)
    written = fake[(owner - first).clamp(0, own - 1)] * (total // own)
    kept = torch.where((owner < 0).view(wide), stored, torch.zeros_like(stored))
    return shown, torch.where(here, written, kept), (count + total).clamp(max=size)
