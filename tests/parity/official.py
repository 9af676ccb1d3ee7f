"""One case of tensors that an official implementation computed, and how close is close."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, ClassVar

from safetensors.torch import load_file
from torch import Tensor


class Official:
    """The tensors of one case of a set, its options, and how close is close: three times what float32 itself is off."""

    set: ClassVar[str]
    least: ClassVar[float] = 1e-3  # below it errors are absolute

    def __init__(self, parity: Path, name: str) -> None:
        self.tensors = load_file(parity / self.set / f"{name}.safetensors")
        self.json = json.loads((parity / self.set / f"{name}.json").read_text())
        self.config: dict[str, Any] = self.json["config"]
        stated = self.json["tolerance"]
        worst = stated["against_float64"]["max_rel"] if "against_float64" in stated else None
        self.tolerance = max(1e-5, 3 * (stated["float32_vs_float64_max_rel"] if worst is None else worst))

    def __getitem__(self, name: str) -> Tensor:
        return self.tensors[name]

    def part(self, prefix: str) -> dict[str, Tensor]:
        """The tensors whose names begin with `prefix`, without it."""
        return {k.removeprefix(prefix): v for k, v in self.tensors.items() if k.startswith(prefix)}

    def close(self, name: str, found: Tensor | None, *, absolute: float = 0.0) -> None:
        expected = self.tensors[name]
        assert found is not None, name
        assert found.shape == expected.shape, (name, found.shape, expected.shape)
        error = float((found.detach() - expected).abs().max())
        scale = max(float(expected.abs().max()), self.least)
        assert error <= max(self.tolerance * scale, absolute), f"{name}: {error / scale:.2g} > {self.tolerance:.2g}"
