"""Arithmetic on styles [n, layers, size]: style mixing, paths between latents, moves along directions.

Pure functions of tensors. Which layers are coarse, middle and fine, and where the mean is, `spaces.Space` knows.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Literal, TypeAlias

import torch
from torch import Tensor

from saddlepoint.errors import UserError, unknown

PathSpace: TypeAlias = Literal["w", "z", "slerp"]
PATH_SPACES = ("w", "z", "slerp")


def mixed(base: Tensor, other: Tensor, layers: Sequence[int]) -> Tensor:
    """`base` [n, layers, size] with the styles of `other` in these layers (section 3.1 of arXiv:1812.04948)."""
    chosen = torch.zeros(base.shape[1], dtype=torch.bool, device=base.device)
    chosen[list(layers)] = True
    return torch.where(chosen[None, :, None], other, base)


def moved(ws: Tensor, vector: Tensor, strength: float | Tensor, layers: Sequence[int] | None = None) -> Tensor:
    """ws + strength vector in these layers (None: in all). vector: [size]; strength: one, or one each [n]."""
    layers = range(ws.shape[1]) if layers is None else layers
    chosen = torch.zeros(ws.shape[1], dtype=ws.dtype, device=ws.device)
    chosen[list(layers)] = 1.0
    amount = torch.as_tensor(strength, dtype=ws.dtype, device=ws.device).reshape(-1, 1, 1)
    return ws + amount * chosen[None, :, None] * vector.to(ws)


def slerp(a: Tensor, b: Tensor, t: Tensor) -> Tensor:
    """(sin((1 - t) o) a + sin(t o) b) / sin o, o the angle between a and b; [size], [size], [steps] -> [steps, size].

    Follows the great circle where both have the same length, which keeps normal latents as long as they usually are.
    The straight line where they point the same way, or opposite ones: there no circle is the shortest.
    """
    cosine = torch.dot(a, b) / (a.norm() * b.norm()).clamp_min(1e-12)
    angle = torch.acos(cosine.clamp(-1, 1))
    t = t.to(a).unsqueeze(1)
    if float(torch.sin(angle)) < 1e-4:
        return torch.lerp(a.unsqueeze(0), b.unsqueeze(0), t)
    # Each weight for itself: at both ends they are exactly 1 and 0.
    return torch.sin((1 - t) * angle) / torch.sin(angle) * a + torch.sin(t * angle) / torch.sin(angle) * b


def path(keys: Tensor, steps: int, *, spherical: bool = False, loop: bool = False, frames: bool = False) -> Tensor:
    """A path through keys [k, ...] in order, [m, ...].

    steps: points from a key to the next. frames=False: both ends included, each key that is passed is there twice, so
    that every pair makes a row; True: the second end belongs to the next pair, as in a film, and only the last key is
    added; with `loop` it leads back to the first key, which follows the last frame.
    """
    if len(keys) < 2 or steps < 2 - frames:
        raise UserError(
            f"a path takes two latents or more and {2 - frames} steps or more, not {len(keys)} and {steps}."
        )
    ends = torch.cat([keys, keys[:1]]) if loop else keys
    t = torch.arange(steps, device=keys.device, dtype=keys.dtype) / (steps if frames else steps - 1)
    parts = []
    for a, b in pairwise(ends):
        flat = slerp(a.flatten(), b.flatten(), t) if spherical else torch.lerp(a.flatten(), b.flatten(), t[:, None])
        parts.append(flat.view(len(t), *a.shape))
    if frames and not loop:
        parts.append(keys[-1:])
    return torch.cat(parts)


def check_path_space(word: str) -> None:
    if word not in PATH_SPACES:
        raise unknown("space of a path", word, PATH_SPACES)
