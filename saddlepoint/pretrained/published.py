"""What a published file holds, once it has been read: the system, its options, and tensors by their official names."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from saddlepoint.errors import UserError
from saddlepoint.pretrained import pickles


@dataclass(frozen=True)
class Published:
    """live: "G." and "D." names of the players. average: "G." names of the averaged generator (empty: as `live`).

    config: what `saddlepoint.pretrained.load` takes besides. style_mean: whether the file has the mean of w, which
    truncation pulls to. said: what was read and what was left, a line each.
    """

    origin: str
    system: str
    live: Mapping[str, Tensor]
    average: Mapping[str, Tensor] = field(default_factory=dict)
    config: Mapping[str, Any] = field(default_factory=dict)
    style_mean: bool = True
    said: tuple[str, ...] = ()


def under(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {f"{prefix}.{name}": tensor for name, tensor in tensors.items()}


def counted(what: str, tensors: Mapping[str, Tensor]) -> str:
    """A line of the account: "G: 62 tensors, 30,370,060 numbers"."""
    return f"{what}: {len(tensors)} tensors, {sum(t.numel() for t in tensors.values()):,} numbers"


def options(value: Any, where: str, depth: int = 0) -> Any:
    """Constructor's options as plain values. Raises UserError for a tensor, bytes or another thing among them."""
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if depth < 8 and isinstance(value, Mapping) and len(value) < 256:
        return {str(name): options(item, f"{where}.{name}", depth + 1) for name, item in value.items()}
    if depth < 8 and isinstance(value, list | tuple) and len(value) < 256:
        return [options(item, where, depth + 1) for item in value]
    raise UserError(f"{pickles.shown(where)} is a {pickles.shown(value)}; expected a plain value.")
