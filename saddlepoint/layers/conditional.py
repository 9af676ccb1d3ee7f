"""Norms whose gain and offset depend on a class, a vector, or both (de Vries et al. 2017, arXiv:1707.00683).

    y = norm(x) * (1 + gain(label, vector)) + offset(label, vector)

Two forms of either: a row of a table for each class (SAGAN, BigGAN without a shared embedding), a linear map of a
vector (BigGAN: the shared embedding of the class, with a part of the latent beside it), or their sum. Batch statistics
are those of `BatchNorm`: of the global batch in a move of several processes, with exact gradients.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from saddlepoint import tracking
from saddlepoint.errors import UserError, unknown
from saddlepoint.layers.normalisation import BatchNorm
from saddlepoint.layers.spectral import OFF, ClassTable, Spectral, SpectralLinear
from saddlepoint.tracking import track

Style = Literal["batch", "instance", "none"]


class Affine(nn.Module):
    """[N, channels] from a label, a vector [N, size], or the sum of both. Tables start at 0.

    label: classes int64 [N] or weights of them [N, K].
    """

    def __init__(
        self, channels: int, *, classes: int = 0, size: int = 0, spectral: Spectral = OFF, bias: bool = False
    ) -> None:
        super().__init__()
        self.table = ClassTable(classes, channels) if classes else None
        self.linear = SpectralLinear(size, channels, spectral, bias=bias) if size else None
        if self.table is not None:
            nn.init.zeros_(self.table.weight)

    def forward(self, label: Tensor | None, vector: Tensor | None) -> Tensor:
        found = []
        if self.table is not None and label is not None:
            found.append(self.table(label))
        if self.linear is not None and vector is not None:
            found.append(self.linear(vector))
        if not found:
            raise UserError(
                "a conditional norm needs a label where it has a table, a vector where it has a linear map."
            )
        return found[0] if len(found) == 1 else found[0] + found[1]


class ConditionalNorm(nn.Module):
    """Norm of [N, C, H, W] with gain 1 + gain(...) and an offset of each sample's own.

    classes: with a table over so many. size: with a linear map of a vector of so many dimensions (`bias`: and its own
    offset), spectrally normalised as `spectral` says. style: "batch", "instance" (each sample's own statistics in
    training, running ones in evaluation, as BigGAN's code has it) or "none". biased: the running variance is that of
    the batch, without n / (n - 1). tables: running statistics for so many truncations from 0 to 1.
    """

    def __init__(
        self,
        channels: int,
        *,
        classes: int = 0,
        size: int = 0,
        spectral: Spectral = OFF,
        bias: bool = False,
        style: Style = "batch",
        eps: float = 1e-5,
        momentum: float = 0.1,
        biased: bool = False,
        tables: int = 0,
    ) -> None:
        super().__init__()
        if style not in ("batch", "instance", "none"):
            raise unknown("style of a conditional norm", style, ("batch", "instance", "none"))
        self.norm: nn.Module = nn.Identity()
        if style == "batch":
            self.norm = batch_norm(channels, eps=eps, momentum=momentum, affine=False, biased=biased, tables=tables)
        elif style == "instance":
            self.norm = InstanceNorm(channels, eps=eps, momentum=momentum)
        self.gain = Affine(channels, classes=classes, size=size, spectral=spectral, bias=bias)
        self.offset = Affine(channels, classes=classes, size=size, spectral=spectral, bias=bias)

    def forward(self, x: Tensor, label: Tensor | None = None, vector: Tensor | None = None) -> Tensor:
        shape = (len(x), -1, *[1] * (x.ndim - 2))
        gain = 1 + self.gain(label, vector).view(shape)
        return torch.addcmul(self.offset(label, vector).view(shape).to(x.dtype), self.norm(x), gain.to(x.dtype))


class InstanceNorm(nn.Module):
    """(x - mean) / sqrt(var + eps) over each map of each sample in training; over running statistics in evaluation."""

    running_mean: Tensor
    running_var: Tensor

    def __init__(self, channels: int, *, eps: float = 1e-5, momentum: float = 0.1) -> None:
        super().__init__()
        self.eps, self.momentum = eps, momentum
        self.register_buffer("running_mean", torch.zeros(channels))
        self.register_buffer("running_var", torch.ones(channels))

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return F.batch_norm(x, self.running_mean, self.running_var, None, None, False, 0.0, self.eps)
        track(self.running_mean, x.mean((0, 2, 3)), self.momentum)
        track(self.running_var, x.var((2, 3)).mean(0), self.momentum)
        return F.instance_norm(x, eps=self.eps)


class TabulatedBatchNorm(BatchNorm):
    """Batch norm with running statistics for T truncations of the latents, 0 to 1 in equal steps: tables [T, C].

    In evaluation those at `truncation` are taken, interpolated linearly. swapped: with the two weights the wrong way
    round, as the port that published such tables has it. Training moves all rows alike.
    """

    def __init__(
        self,
        channels: int,
        tables: int,
        *,
        eps: float = 1e-5,
        momentum: float = 0.1,
        affine: bool = True,
        biased: bool = False,
    ) -> None:
        super().__init__(channels, eps=eps, momentum=momentum, affine=affine, biased=biased)
        self.truncation, self.swapped = 1.0, False
        self.running_mean = torch.zeros(tables, channels)
        self.running_var = torch.ones(tables, channels)

    def forward(self, x: Tensor) -> Tensor:
        if self.training or self.batch_statistics:
            return super().forward(x)
        mean, var = self.at(self.running_mean), self.at(self.running_var)
        return F.batch_norm(x, mean, var, self.weight, self.bias, False, 0.0, self.eps)

    def at(self, table: Tensor) -> Tensor:
        """The row [C] of this truncation."""
        part, whole = math.modf(self.truncation * (len(table) - 1))
        below = min(int(whole), len(table) - 1)
        if part < 1e-9 or below == len(table) - 1:
            return table[below]
        return torch.lerp(table[below], table[below + 1], 1 - part if self.swapped else part)


def batch_norm(
    channels: int, *, eps: float, momentum: float = 0.1, affine: bool = True, biased: bool = False, tables: int = 0
) -> BatchNorm:
    """Batch norm with one set of running statistics, or with one for each of several truncations."""
    if tables:
        return TabulatedBatchNorm(channels, tables, eps=eps, momentum=momentum, affine=affine, biased=biased)
    return BatchNorm(channels, eps=eps, momentum=momentum, affine=affine, biased=biased)


@contextmanager
def truncated(module: nn.Module, truncation: float) -> Iterator[None]:
    """Inside, tables of statistics below `module` are read at this truncation. UserError outside of 0 to 1."""
    layers = [layer for layer in module.modules() if isinstance(layer, TabulatedBatchNorm)]
    if layers and not 0 <= truncation <= 1:
        raise UserError(f"statistics are tabulated for a truncation from 0 to 1, not for {truncation:g}.")
    before = [layer.truncation for layer in layers]
    try:
        for layer in layers:
            layer.truncation = truncation
        yield
    finally:
        for layer, value in zip(layers, before, strict=True):
            layer.truncation = value


def standing_statistics(module: nn.Module, passes: Iterable[object]) -> list[tuple[Tensor, Tensor]]:
    """Mean batch statistics over forward passes: [(running buffer, what it should be), ...]; nothing is written.

    passes: an iterable that makes a forward pass of `module`, in evaluation mode, each time it is asked for the next
    element. Batch norms below use each batch's own statistics meanwhile (Brock et al. 2018, arXiv:1809.11096).
    """
    layers = [layer for layer in module.modules() if isinstance(layer, BatchNorm) and not layer.batch_statistics]
    collected: dict[int, tuple[Tensor, list[Tensor]]] = {}
    try:
        for layer in layers:
            layer.batch_statistics = True
        with tracking.collecting() as ledger, torch.no_grad():
            for _ in passes:
                pass
    finally:
        for layer in layers:
            layer.batch_statistics = False
    for buffer, statistic, _ in ledger:
        collected.setdefault(id(buffer), (buffer, []))[1].append(statistic)
    return [(buffer, torch.stack(found).mean(0)) for buffer, found in collected.values()]


@contextmanager
def standing(statistics: Iterable[tuple[Tensor, Tensor]]) -> Iterator[None]:
    """Inside, the running buffers hold these statistics; afterwards what they held before."""
    pairs = [(buffer, value, buffer.clone()) for buffer, value in statistics]
    with torch.no_grad():
        try:
            for buffer, value, _ in pairs:
                buffer.copy_(value)
            yield
        finally:
            for buffer, _, before in pairs:
                buffer.copy_(before)
