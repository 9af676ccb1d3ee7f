"""How good a generator is, in numbers: one module per family of measures.

Mode coverage of mixtures with known centres    mode_coverage, expected_share    modes

Names are imported when they are asked for: the package itself loads nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

_NAMES = {
    "modes": ("ModeCoverage", "expected_share", "mode_coverage"),
}
_HOME = {name: module for module, names in _NAMES.items() for name in names}
__all__ = ["ModeCoverage", "expected_share", "mode_coverage"]

if TYPE_CHECKING:
    from saddlepoint.metrics.modes import ModeCoverage, expected_share, mode_coverage


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
