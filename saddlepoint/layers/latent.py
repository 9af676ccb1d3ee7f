"""Latent codes: drawn from a round while training, from a seed while sampling."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from saddlepoint.errors import UserError
from saddlepoint.game import Game, Round, keyed_generator

Label = int | float | Sequence[float] | Tensor | None  # see `chosen_labels`


@dataclass(frozen=True)
class Prior:
    """The distribution of z: uniform on [-bound, bound] or standard normal, `size` independent dimensions."""

    size: int
    kind: Literal["uniform", "normal"] = "normal"
    bound: float = 1.0

    def of(self, round: Round, name: str = "z") -> Tensor:
        """z [N, size] from the round's numbers."""
        if self.kind == "normal":
            return round.normal(name, self.size)
        return self.bound * (2 * round.uniform(name, self.size) - 1)

    def draw(self, n: int, seed: int, device: torch.device, dtype: torch.dtype = torch.float32) -> Tensor:
        """z [n, size]; row i is a pure function of (seed, i), so a longer request begins with the shorter one."""
        rows = []
        for index in range(n):  # torch fills one long tensor in blocks: its beginning would depend on its length
            generator = keyed_generator(device, "sample", seed, index)
            fill = torch.randn if self.kind == "normal" else torch.rand
            rows.append(fill(self.size, generator=generator, device=device))
        z = torch.stack(rows) if rows else torch.empty(0, self.size, device=device)
        return (z if self.kind == "normal" else self.bound * (2 * z - 1)).to(dtype)


def dtype_of(game: Game) -> torch.dtype:
    """The precision of a game's weights."""
    return next((p.dtype for p in game.parameters() if p.is_floating_point()), torch.float32)


def line(start: Tensor, end: Tensor, steps: int) -> Tensor:
    """`steps` points on the straight line from start [...] to end [...], both included, [steps, ...]."""
    t = torch.linspace(0, 1, steps, device=start.device, dtype=start.dtype).view(-1, *[1] * start.ndim)
    return torch.lerp(start.unsqueeze(0), end.unsqueeze(0), t)


class LatentGame(Game):
    """A game whose generator makes samples of latents: `sample(n, seed, *, z=None, ...)` takes them as z."""

    prior: Prior

    def draw_latents(self, n: int, seed: int = 0) -> Tensor:
        """n latents [n, latent] from the prior, a pure function of the seed."""
        return self.prior.draw(n, seed, self.device, dtype_of(self))

    def interpolate(self, start: Tensor, end: Tensor, steps: int = 8, **controls: Any) -> Tensor:
        """Samples [steps, ...] along the straight line between two latents [latent]; controls as of `sample`.

        Where `sample` takes a label all are of class 0 unless it says otherwise: in turn, classes would hide the path.
        """
        if "label" in inspect.signature(self.sample).parameters:
            controls.setdefault("label", 0)
        return self.sample(steps, z=line(start, end, steps), **controls)

    def interpolate_classes(self, z: Tensor, first: int, second: int, steps: int = 8, **controls: Any) -> Tensor:
        """Samples [steps, ...] of one latent z [latent] from one class to another, in the weights of the classes.

        UserError for a game without classes; controls as of `sample`.
        """
        classes = int(getattr(self.recipe, "classes", 0))
        if "label" not in inspect.signature(self.sample).parameters or not getattr(self.recipe, "conditional", classes):
            raise UserError(f"this {type(self).__name__} knows no classes: there is nothing between them.")
        ends = F.one_hot(chosen_labels([first, second], 2, classes, z.device), classes).to(z.dtype)
        return self.sample(steps, z=z.expand(steps, -1), label=line(ends[0], ends[1], steps), **controls)


def chosen_labels(
    label: Label, n: int, classes: int, device: torch.device, dtype: torch.dtype = torch.float32
) -> Tensor:
    """Classes of n samples, int64 [n]: one number for all, one each, or (None) the classes in turn.

    Floating-point labels lie between classes and give weights of all, `dtype` [n, classes]: 2.25 is three quarters of
    class 2 and a quarter of 3; or the weights themselves, as a tensor [classes] or [n, classes].
    """
    if label is None:
        return torch.arange(n, device=device) % classes
    found = torch.as_tensor(label, device=device)
    if not found.is_floating_point():
        return _whole(found.long(), n, classes)
    found = found.to(dtype)
    if isinstance(label, Tensor) and found.ndim and found.shape[-1] == classes and found.ndim <= 2:
        return found.expand(n, classes)
    if found.ndim > 1:
        raise UserError(f"weights of the classes are [{n}, {classes}] or [{classes}], not {list(found.shape)}.")
    below, above = (_whole(side.long(), n, classes) for side in (found.floor(), found.ceil()))
    part = (found - found.floor()).expand(n).unsqueeze(1)
    return torch.lerp(F.one_hot(below, classes).to(dtype), F.one_hot(above, classes).to(dtype), part)


def _whole(found: Tensor, n: int, classes: int) -> Tensor:
    found = found.expand(n) if found.ndim == 0 else found
    if found.shape != (n,):
        raise UserError(f"label takes one class or {n} of them, not {found.numel()}.")
    wrong = [int(y) for y in found if not 0 <= int(y) < classes]
    if wrong:
        near = 0 if wrong[0] < 0 else classes - 1
        raise UserError(f"there is no class {wrong[0]}: the classes are 0 to {classes - 1}; nearest: {near}.")
    return found


def in_parts(generate: Callable[..., Tensor], *inputs: Tensor, batch: int = 256) -> Tensor:
    """generate(*inputs) in parts of at most `batch` samples, so that a large request needs no large memory."""
    return torch.cat([generate(*part) for part in zip(*(t.split(batch) for t in inputs), strict=True)])
