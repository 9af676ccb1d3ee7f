"""Image sets: named ones, any folder, any zip in the layout of NVIDIA's dataset_tool; and streams of batches from them.

Names are resolved when first used, so importing this package loads neither torch nor Pillow. Zips are built by
`saddlepoint.data.build.build`.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .catalog import SETS, Entry, Facts, describe
    from .options import Options
    from .report import Report, format_report, inspect
    from .sets import ImageSet, open_set
    from .stream import Stream

__all__ = [
    "SETS",
    "Entry",
    "Facts",
    "ImageSet",
    "Options",
    "Report",
    "Stream",
    "describe",
    "format_report",
    "inspect",
    "open_set",
]

_HOME = {
    "SETS": "catalog",
    "Entry": "catalog",
    "Facts": "catalog",
    "ImageSet": "sets",
    "Options": "options",
    "Report": "report",
    "Stream": "stream",
    "describe": "catalog",
    "format_report": "report",
    "inspect": "report",
    "open_set": "sets",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{_HOME[name]}", __name__), name)


def __dir__() -> list[str]:
    return __all__
