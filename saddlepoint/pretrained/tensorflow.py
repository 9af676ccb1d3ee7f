"""Layouts of TensorFlow's weights, and the arguments of networks that were written in it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from saddlepoint.errors import UserError


def same(t: Tensor) -> Tensor:
    return t


def conv(t: Tensor) -> Tensor:
    """[k, k, in, out] -> [out, in, k, k]; biases stay as they are."""
    return t.permute(3, 2, 0, 1) if t.ndim == 4 else t


def transposed_conv(t: Tensor) -> Tensor:
    """[k, k, out, in] of a transposed convolution -> those of the convolution that it is, turned by 180 degrees."""
    return t.permute(2, 3, 0, 1).flip(2, 3) if t.ndim == 4 else t


def dense(t: Tensor) -> Tensor:
    """[in, out] -> [out, in]."""
    return t.t() if t.ndim == 2 else t


def flat(config: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of several networks (G_kwargs, D_kwargs) in one mapping; one name with two values is refused."""
    found: dict[str, Any] = {}
    for name, value in config.items():
        for key, item in (value if isinstance(value, Mapping) else {name: value}).items():
            if key in found and found[key] != item:
                raise UserError(f"{key} is {found[key]!r} for one network and {item!r} for the other.")
            found[key] = item
    return found
