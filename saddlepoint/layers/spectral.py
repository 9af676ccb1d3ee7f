"""Spectral normalisation with its state (Miyato et al. 2018, arXiv:1802.05957), in the form of BigGAN's code.

W / sigma(W), with W the weight as a matrix [outputs, rest] and sigma its largest singular value, found by one step of
the power iteration per forward pass from a vector u that runs along:

    v = u W / |u W|,    u' = v W^T / |v W^T|,    sigma = v W^T u'^T

The vectors are constants of the gradient, which is then exact in the limit: d sigma / dW = u'^T v. In training u and
the singular values are tracked and committed once a move; the official code writes them in every forward pass, so with
micro-batches it makes more steps. In evaluation the step is made as well, and not kept.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from saddlepoint.tracking import track


@dataclass(frozen=True)
class Spectral:
    """How a layer's weight is normalised.

    on: without, the singular values are followed (they tell a collapse) and the weight is left alone. values: how many
    singular values are followed, each orthogonal to those before; the first one divides. steps: power iterations per
    forward pass. eps: least length that a vector is divided by. stored: in evaluation sigma = u W v^T from the stored
    vectors without a step, as torch's own spectral norm has it.
    """

    on: bool = True
    values: int = 1
    steps: int = 1
    eps: float = 1e-12
    stored: bool = False


OFF = Spectral(on=False)


class SpectralNorm(nn.Module):
    """What the three layers below share: buffers u0, u1, ... [1, outputs], sv0, sv1, ... [1], and v0 [1, rest] if
    `stored`; `normalised()` is the weight to compute with.
    """

    weight: Tensor
    spectral: Spectral

    def follow(self, spectral: Spectral) -> None:
        """Register the state; call it where the weight exists."""
        self.spectral = spectral
        outputs, rest = self.weight.shape[0], self.weight[0].numel()
        for i in range(spectral.values):
            self.register_buffer(f"u{i}", torch.randn(1, outputs))
            self.register_buffer(f"sv{i}", torch.ones(1))
        if spectral.stored:
            self.register_buffer("v0", F.normalize(torch.randn(1, rest)))

    def normalised(self) -> Tensor:
        """The weight over its largest singular value, in float32 or better whatever autocast says."""
        with torch.autocast(self.weight.device.type, enabled=False):
            matrix = self.weight.flatten(1)  # [outputs, rest]
            if self.spectral.stored and not self.training:
                sigma = ((self.get_buffer("u0") @ matrix) * self.get_buffer("v0")).sum()
            else:
                if not (self.training or self.spectral.on):
                    return self.weight
                sigma = self._power_iteration(matrix)
            return self.weight / sigma if self.spectral.on else self.weight

    def _power_iteration(self, matrix: Tensor) -> Tensor:
        """The largest singular value, differentiable in the matrix; tracks vectors and values in training."""
        how = self.spectral
        kept = [self.get_buffer(f"u{i}") for i in range(how.values)]
        with torch.no_grad():
            fixed, us, vs = matrix.detach(), list(kept), list[Tensor]()
            for _ in range(how.steps if self.training else 1):
                vs = []
                for i, u in enumerate(us):
                    v = F.normalize(without(u @ fixed, vs), eps=how.eps)
                    us[i] = F.normalize(without(v @ fixed.T, us[:i]), eps=how.eps)
                    vs.append(v)
        sigma = ((us[0] @ matrix) * vs[0]).sum()
        if self.training:
            for i, (buffer, u, v) in enumerate(zip(kept, us, vs, strict=True)):
                value = sigma if i == 0 else ((u @ fixed) * v).sum()
                track(buffer, u, 1.0)
                track(self.get_buffer(f"sv{i}"), value.detach().reshape(1), 1.0)
            if how.stored:
                track(self.get_buffer("v0"), vs[0], 1.0)
        return sigma


def without(x: Tensor, directions: Iterable[Tensor]) -> Tensor:
    """x [1, D] less its part along each of these vectors [1, D], one after the other (Gram and Schmidt)."""
    for y in directions:
        x = x - (x * y).sum() / (y * y).sum() * y
    return x


class SpectralConv2d(nn.Conv2d, SpectralNorm):
    """Convolution that keeps the resolution unless told otherwise: [N, inputs, H, W] -> [N, outputs, H, W]."""

    def __init__(
        self,
        inputs: int,
        outputs: int,
        kernel: int,
        spectral: Spectral,
        *,
        stride: int = 1,
        padding: int | None = None,
        bias: bool = True,
    ) -> None:
        around = kernel // 2 if padding is None else padding
        super().__init__(inputs, outputs, kernel, stride=stride, padding=around, bias=bias)
        self.follow(spectral)

    def forward(self, x: Tensor) -> Tensor:
        return self._conv_forward(x, self.normalised(), self.bias)


class SpectralLinear(nn.Linear, SpectralNorm):
    """[N, inputs] -> [N, outputs]."""

    def __init__(self, inputs: int, outputs: int, spectral: Spectral, *, bias: bool = True) -> None:
        super().__init__(inputs, outputs, bias=bias)
        self.follow(spectral)

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.normalised(), self.bias)


class ClassTable(nn.Embedding):
    """A vector for each class: labels int64 [...] -> [..., size]; weights of the classes [N, K] -> their mixture."""

    def forward(self, label: Tensor) -> Tensor:
        return chosen_rows(self.weight, label)


class SpectralEmbedding(nn.Embedding, SpectralNorm):
    """A `ClassTable` whose whole table [K, size] is normalised as one matrix."""

    def __init__(self, classes: int, size: int, spectral: Spectral) -> None:
        super().__init__(classes, size)
        self.follow(spectral)

    def forward(self, label: Tensor) -> Tensor:
        return chosen_rows(self.normalised(), label)


def chosen_rows(table: Tensor, label: Tensor) -> Tensor:
    """Rows of a table [K, size] by label: whole numbers of any shape, or weights of the classes [N, K]."""
    return label.to(table.dtype) @ table if label.is_floating_point() else F.embedding(label, table)


def followed(module: nn.Module) -> list[SpectralNorm]:
    """The layers below `module` whose singular values are followed, in their order."""
    return [layer for layer in module.modules() if isinstance(layer, SpectralNorm)]


def singular_values(module: nn.Module) -> Tensor:
    """The largest singular value of each of these layers as last tracked, [layers]."""
    return torch.cat([layer.get_buffer("sv0") for layer in followed(module)])


@torch.no_grad()
def settled(module: nn.Module, steps: int = 15) -> None:
    """Bring the vectors of all layers below near their weights' singular vectors, as `steps` moves would."""
    for layer in followed(module):
        matrix = layer.weight.detach().flatten(1)
        u = layer.get_buffer("u0")
        for _ in range(steps):
            v = F.normalize(u @ matrix, eps=layer.spectral.eps)
            u = F.normalize(v @ matrix.T, eps=layer.spectral.eps)
        layer.get_buffer("u0").copy_(u)
        layer.get_buffer("sv0").copy_(((u @ matrix) * v).sum().reshape(1))
        if layer.spectral.stored:
            layer.get_buffer("v0").copy_(v)
