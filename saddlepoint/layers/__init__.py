"""Layers that two systems or more share. Names are imported when they are asked for."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .modulated import modulated_conv2d
    from .resample import (
        bias_act,
        conv2d_resample,
        downsample2d,
        filter2d,
        filtered_lrelu,
        setup_filter,
        upfirdn2d,
        upsample2d,
    )

__all__ = [
    "bias_act",
    "conv2d_resample",
    "downsample2d",
    "filter2d",
    "filtered_lrelu",
    "modulated_conv2d",
    "setup_filter",
    "upfirdn2d",
    "upsample2d",
]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    home = "modulated" if name == "modulated_conv2d" else "resample"
    return getattr(importlib.import_module(f"{__name__}.{home}"), name)
