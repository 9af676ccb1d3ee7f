"""What is judged, and what it is judged against: images in batches, with a record of exactly where they come from.

Everything here is a pure function of its identity: chunk j of a run's samples is drawn from the seed (seed, j), so
processes can share the work and no chunk depends on the size of a batch; a set's images are taken in an order keyed by
the seed. Images are rounded to 8 bits, as files of them would be.
"""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from saddlepoint.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor

    from saddlepoint.data import ImageSet
    from saddlepoint.game import Game
    from saddlepoint.runs import Run

CHUNK = 200  # samples drawn from one seed
STRIDE = 1_000_003  # between the seeds of two evaluations: a prime, so that their chunks do not meet


class Judged(Protocol):
    """Images that are judged. `name` is for the reader, `identity` for the record."""

    @property
    def name(self) -> str: ...

    @property
    def identity(self) -> Mapping[str, Any]: ...

    def limit(self) -> int | None:
        """How many images there are; None where they can be made."""

    def chunks(self, n: int, seed: int, *, share: tuple[int, int] = (0, 1)) -> Iterator[tuple[Tensor, Tensor | None]]:
        """(images float [b, C, H, W] in [-1, 1], labels int64 [b] or None), n images in all. share: (rank, world) for
        the chunks of one process of several.
        """


def rounded(images: Tensor) -> Tensor:
    """Images in [-1, 1] at 8 bits: floor(127.5 x + 128), clipped, as NVIDIA's metrics round; back in [-1, 1]."""
    import torch

    return (images.float() * 127.5 + 128).clamp(0, 255).to(torch.uint8).float().div_(127.5).sub_(1)


@dataclass(frozen=True)
class Samples:
    """A game's samples. controls: what `game.sample` is given besides (truncation, label, ...)."""

    game: Game
    name: str
    identity: Mapping[str, Any]
    controls: Mapping[str, Any] = field(default_factory=dict)
    labels: NDArray[np.int64] | None = None  # the data's, from which a conditional game's classes are drawn

    @classmethod
    def of_run(
        cls, run: Run, checkpoint: Path | None = None, *, averaged: bool = True, device: str = "cpu", **controls: Any
    ) -> Samples:
        """A run's samples at a checkpoint (None: the newest whole one)."""
        from saddlepoint.errors import unknown

        game = run.game_at(checkpoint, averaged=averaged).to(device)
        known = [name for name in inspect.signature(game.sample).parameters if name not in ("n", "seed", "batch", "z")]
        for name in controls:
            if name not in known:
                raise unknown(f"control of {run.recipe.system}'s samples", name, known)
        folder = checkpoint or run.latest(("game",))[0]
        identity = {
            "run": run.path.name,
            "system": run.recipe.system,
            "preset": run.recipe.preset,
            "clock": int(folder.name),
            "averaged": averaged and bool(run.recipe.ema_half_life_kimg),
            "controls": {k: str(v) for k, v in controls.items()},
        }
        return cls(game, f"{run.path.name} at {int(folder.name) / 1000:g} kimg", identity, controls)

    def limit(self) -> int | None:
        return None

    def conditional(self) -> bool:
        """Does the game take a class?"""
        return "label" in inspect.signature(self.game.sample).parameters and bool(
            getattr(getattr(self.game, "recipe", None), "classes", 0)
            and getattr(getattr(self.game, "recipe", None), "conditional", True)
        )

    def chunks(self, n: int, seed: int, *, share: tuple[int, int] = (0, 1)) -> Iterator[tuple[Tensor, Tensor | None]]:
        import torch

        rank, world = share
        drawn: NDArray[np.int64] | None = None
        if self.conditional() and "label" not in self.controls:  # the classes as often as the data have them
            classes = int(self.game.recipe.classes)  # type: ignore[union-attr, arg-type]
            pool = np.arange(classes) if self.labels is None else self.labels
            drawn = np.random.Generator(np.random.PCG64(seed)).choice(pool, n)
        for index, start in enumerate(range(0, n, CHUNK)):
            if index % world != rank:
                continue
            size = min(CHUNK, n - start)
            controls = dict(self.controls)
            label = None
            if drawn is not None:
                label = torch.from_numpy(drawn[start : start + size].astype(np.int64))
                controls["label"] = label
            elif self.conditional():
                label = torch.as_tensor(controls["label"]).expand(size)
            images = self.game.sample(size, seed * STRIDE + index, **controls)
            yield (rounded(images) if images.ndim == 4 else images.float()), label


@dataclass(frozen=True)
class Images:
    """Images of a set, in an order keyed by the seed, from position `first` of that order on."""

    images: ImageSet
    name: str
    identity: Mapping[str, Any]
    order: NDArray[np.int64]

    def limit(self) -> int | None:
        return len(self.order)

    def __len__(self) -> int:
        return len(self.order)

    def labels(self, n: int | None = None) -> NDArray[np.int64] | None:
        """Labels of the first n images."""
        return None if self.images.labels is None else self.images.labels[self.order[:n]]

    def part(self, start: int, length: int) -> Images:
        """Some of these images, in the same order."""
        return Images(self.images, self.name, self.identity, self.order[start : start + length])

    def chunks(
        self, n: int, seed: int = 0, *, share: tuple[int, int] = (0, 1)
    ) -> Iterator[tuple[Tensor, Tensor | None]]:
        import torch

        rank, world = share
        if n > len(self):
            raise UserError(f"{self.name} has {len(self):,} images, {n:,} are wanted.")
        for index, start in enumerate(range(0, n, CHUNK)):
            if index % world != rank:
                continue
            chosen = self.order[start : min(start + CHUNK, n)]
            pixels = torch.from_numpy(np.ascontiguousarray(self.images.images[chosen]))
            labels = None if self.images.labels is None else torch.from_numpy(self.images.labels[chosen])
            yield pixels.float().div_(127.5).sub_(1), labels

    def digest(self) -> str:
        """Hash of the pixels in this order: the key under which what was computed of them is kept."""
        found = hashlib.blake2b(repr(self.images.images.shape[1:]).encode(), digest_size=16)
        for start in range(0, len(self), 4096):
            found.update(self.images.images[self.order[start : start + 4096]].tobytes())
        return found.hexdigest()


def opened(
    spec: str | Path,
    *,
    shape: tuple[int, int] | None = None,
    channels: int | None = None,
    fit: str = "auto",
    background: str = "auto",
    on_error: str = "refuse",
    seed: int = 0,
) -> Images:
    """A named set, folder or zip as judged or reference images, in an order keyed by the seed."""
    from saddlepoint.data import Stream, open_set

    found = open_set(spec, resolution=shape, channels=channels, fit=fit, background=background, on_error=on_error)
    order, _ = Stream(found, seed).places(0, len(found))
    height, width = found.facts.height, found.facts.width
    identity = {"data": str(spec), "images": len(found), "shape": f"{found.facts.channels}x{height}x{width}"}
    identity |= {"prepared": found.facts.preparation}
    return Images(found, str(spec), identity, order)


def training_data(run: Run, *, seed: int = 0, spec: str = "") -> Images:
    """The data of a run (or another set) in the shape that its networks make."""
    from saddlepoint.recipes.base import ImageRecipe

    recipe = run.recipe
    if not isinstance(recipe, ImageRecipe):
        raise UserError(f"{recipe.system} makes no images; its runs are judged by --metrics modes.")
    return opened(
        spec or recipe.data,
        shape=shape_of(recipe),
        channels=recipe.channels,
        fit=recipe.fit,
        background=recipe.background,
        on_error=recipe.on_error,
        seed=seed,
    )


def shape_of(recipe: Any) -> tuple[int, int]:
    """(height, width) of a recipe's images."""
    found = getattr(recipe, "shape", None)
    return found if isinstance(found, tuple) else (recipe.resolution, recipe.resolution)
