"""What every measure asks of its input, and what it gives back: checked features and images, numbers with their error.

A measure either computes or refuses with a reason. Features are float arrays or tensors [N, D] of any memory order;
NaN, infinities, images in place of features, too few samples and different D are told apart here, with their counts.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor

from saddlepoint.errors import UserError

Progress: TypeAlias = Callable[[int, int], None]
"""progress(done, of): called after each block of work, so that whoever waits can say how long."""

ROWS = 4096  # rows of a streaming pass


class Estimate(float):
    """A number that knows how uncertain it is. It is a float in every other respect."""

    standard_error: float | None
    """Standard error of the number, or None where one draw gives none."""
    parts: tuple[float, ...]
    """The values it is the mean of (splits, blocks, subsets, projections); empty where there is one only."""
    method: str
    """How it was found, in words."""

    def __new__(
        cls, value: float, standard_error: float | None = None, parts: tuple[float, ...] = (), method: str = ""
    ) -> Estimate:
        made = super().__new__(cls, value)
        made.standard_error, made.parts, made.method = standard_error, parts, method
        return made

    @property
    def value(self) -> float:
        """The number as a plain float."""
        return float(self)

    def __repr__(self) -> str:
        error = "" if self.standard_error is None else f" ± {self.standard_error:.2g}"
        return f"{float(self):.6g}{error}" + (f" ({self.method})" if self.method else "")


def mean_of(parts: list[float], method: str) -> Estimate:
    """The mean of `parts` with its standard error, std / sqrt(n)."""
    values = np.asarray(parts, dtype=np.float64)
    error = float(values.std(ddof=1) / np.sqrt(len(values))) if len(values) > 1 else None
    return Estimate(float(values.mean()), error, tuple(parts), method)


# ------------------------------------------------------------------------------------------------------------ features
def feature_matrix(name: str, values: Any, *, minimum: int = 1, varied: bool = False) -> Tensor:
    """`values` as a float32 or float64 tensor [N, D], where possible without a copy; half precision becomes float32.

    minimum: fewest rows that make sense. varied: refuse rows that are all alike, which no statistic of a reference
    set survives. Raises UserError, naming what is wrong and where.
    """
    x = as_tensor(name, values)
    if x.ndim != 2 or 0 in x.shape:
        more = "; take features of images first, or flatten them" if x.ndim > 2 else ""
        raise UserError(f"{name} has shape {list(x.shape)}; expected features [N, D]{more}.")
    if not x.is_floating_point():
        kind = str(x.dtype).removeprefix("torch.")
        raise UserError(f"{name} holds {kind}, as images or labels do; expected float features [N, D].")
    if len(x) < minimum:
        raise UserError(f"{name} has {len(x)} sample{'s' * (len(x) != 1)}; this measure needs at least {minimum}.")
    x = x if x.dtype in (torch.float32, torch.float64) else x.float()
    refuse_non_finite(name, x)
    if varied and len(x) > 1 and not bool((x[:64] != x[0]).any()) and not bool((x != x[0]).any()):
        raise UserError(
            f"{name} has the same features in all {len(x)} rows: the extractor or the data behind it is at fault."
        )
    return x


def feature_pair(x: Any, y: Any, *, minimum: int = 1, minimum_y: int | None = None) -> tuple[Tensor, Tensor]:
    """Reference features x [N, D] and generated ones y [M, D]: checked, of one dtype, on the device of x.

    x must vary; y may be one point, as a collapsed generator's is, and gets its bad score.
    """
    a = feature_matrix("x", x, minimum=minimum, varied=True)
    b = feature_matrix("y", y, minimum=minimum if minimum_y is None else minimum_y)
    if a.shape[1] != b.shape[1]:
        raise UserError(f"x has {a.shape[1]} features and y {b.shape[1]}; expected the same extractor on both sides.")
    dtype = torch.promote_types(a.dtype, b.dtype)
    return a.to(dtype), b.to(a.device, dtype)


def as_tensor(name: str, values: Any) -> Tensor:
    """A detached tensor that shares memory with `values` where it can."""
    if isinstance(values, Tensor):
        return values.detach()
    array = np.asarray(values)
    if array.dtype == object or array.dtype.kind in "USVMmc":
        raise UserError(f"{name} is {type(values).__name__} of {array.dtype}; expected numbers in an array or tensor.")
    if array.dtype == np.longdouble and array.dtype != np.float64:
        array = array.astype(np.float64)
    if any(stride < 0 for stride in array.strides) or not array.flags.writeable or not array.dtype.isnative:
        array = np.array(array, dtype=array.dtype.newbyteorder("="))  # what torch cannot share
    return torch.from_numpy(array)


def refuse_non_finite(name: str, x: Tensor) -> None:
    """UserError with the number of rows that hold NaN or infinity, and the first of them."""
    bad: list[Tensor] = []
    for start in range(0, len(x), ROWS):
        block = x[start : start + ROWS]
        finite = torch.isfinite(block)
        if not bool(finite.all()):
            bad.append((~finite.flatten(1).all(dim=1)).nonzero()[:, 0] + start)
    if bad:
        rows = torch.cat(bad)
        raise UserError(
            f"{name} holds NaN or infinite values in {len(rows)} of {len(x)} rows, the first in row {int(rows[0])}."
        )


def numpy_of(x: Tensor) -> np.ndarray[Any, Any]:
    """The values on the CPU."""
    return x.cpu().numpy()


# -------------------------------------------------------------------------------------------------------------- images
def image_batch(name: str, values: Any) -> Tensor:
    """Images as a float tensor [N, C, H, W]. Bytes 0..255 become [-1, 1]; floats stay as they are."""
    x = as_tensor(name, values)
    if x.ndim != 4 or 0 in x.shape:
        raise UserError(f"{name} has shape {list(x.shape)}; expected images [N, C, H, W].")
    if x.dtype == torch.uint8:
        return x.float().div_(127.5).sub_(1)
    if not x.is_floating_point():
        raise UserError(f"{name} holds {str(x.dtype).removeprefix('torch.')}; expected float images or bytes.")
    refuse_non_finite(name, x)
    return x if x.dtype in (torch.float32, torch.float64) else x.float()


def image_pair(x: Any, y: Any) -> tuple[Tensor, Tensor]:
    """Two batches of images of the same shape and dtype."""
    a, b = image_batch("x", x), image_batch("y", y)
    if a.shape != b.shape:
        raise UserError(f"x has shape {list(a.shape)} and y {list(b.shape)}; expected images in pairs.")
    dtype = torch.promote_types(a.dtype, b.dtype)
    return a.to(dtype), b.to(a.device, dtype)


# -------------------------------------------------------------------------------------------------------------- limits
def refuse_memory(needed: float, what: str, instead: str) -> None:
    """UserError where `needed` bytes are more than the memory that is free, before anything is allocated."""
    try:
        free = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_AVPHYS_PAGES")
    except (AttributeError, ValueError, OSError):  # a system that does not say
        return
    # The page cache counts as used here and gives way; half of all memory is always worth a try.
    limit = max(free, os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2)
    if needed > limit:
        raise UserError(f"{what} needs about {needed / 2**30:.1f} GiB and {limit / 2**30:.1f} are there; {instead}.")


def check_count(name: str, value: int, low: int, high: int | None = None) -> None:
    """UserError unless low <= value <= high."""
    if value < low or (high is not None and value > high):
        span = f"at least {low}" if high is None else f"from {low} to {high}"
        raise UserError(f"{name} is {value}; expected a whole number {span}.")
