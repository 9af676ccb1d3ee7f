"""Two domains without pairs: one set of images halved, the second half transformed; or two sets. No torch until used.

Image 0, 2, 4, ... of the set are domain a's, image 1, 3, 5, ... are transformed for domain b, so no image is in both.
Each domain has its own order, keyed by the seed.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

from saddlepoint.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

    from saddlepoint.data.sets import ImageSet
    from saddlepoint.data.stream import Stream
    from saddlepoint.recipes.base import ImageRecipe, Recipe

OTHER_ORDER = 0x5ECD  # the seed's offset of domain b's stream


def negative(x: Tensor) -> Tensor:
    """The negative of images [N, C, H, W] in [-1, 1]: -x, which is 255 - v in bytes."""
    return -x


def edges(x: Tensor) -> Tensor:
    """Outlines of images [N, C, H, W] in [-1, 1]: the maximum over 3x3 pixels minus the image, both in [0, 1]."""
    import torch.nn.functional as F

    v = (x + 1) / 2
    return 2 * (F.max_pool2d(v, 3, stride=1, padding=1) - v) - 1


TRANSFORMS: dict[str, Callable[[Tensor], Tensor]] = {"negative": negative, "edges": edges}


class Domains:
    """Two streams as one source: {"image": domain a's, "second": domain b's, "label": domain a's where it has some}."""

    def __init__(self, first: Stream, second: Stream, transform: Callable[[Tensor], Tensor] | None = None) -> None:
        self.first, self.second, self.transform = first, second, transform

    def __call__(
        self, cursor: int, total: int, first: int, length: int, resolution: int | None = None
    ) -> dict[str, Tensor]:
        """Examples first ... first + length - 1 of the batch of `total` pairs of strangers that begins at `cursor`."""
        batch = self.first(cursor, total, first, length, resolution)
        other = self.second(cursor, total, first, length, resolution)["image"]
        return {**batch, "second": self.transform(other) if self.transform else other}


def halves(images: ImageSet) -> tuple[ImageSet, ImageSet]:
    """The images of even and of odd index, as two sets without a copy of the pixels."""
    return _every_other(images, 0), _every_other(images, 1)


def _every_other(images: ImageSet, start: int) -> ImageSet:
    def of(values: Any) -> Any:
        return None if values is None else values[start::2]

    part = {name: of(getattr(images, name)) for name in ("images", "labels", "captions", "tags", "names")}
    facts = dataclasses.replace(images.facts, count=len(part["names"]))
    return dataclasses.replace(images, facts=facts, **part)


# ---- for recipes of two domains
def second_of(recipe: Recipe) -> str:
    """What the recipe says about domain b. UserError for what is neither a transformation nor a set of images."""
    from saddlepoint.data.catalog import existing_path, named

    second = str(getattr(recipe, "second", ""))
    if second not in TRANSFORMS and named(second) is None:
        try:
            existing_path(second)
        except UserError as error:
            raise UserError(f"second: {error} Or a transformation: {', '.join(TRANSFORMS)}.") from None
    return second


def resolve(recipe: Recipe) -> Recipe:
    """The recipe with resolution, channels and classes from the data of domain a."""
    from saddlepoint import recipes
    from saddlepoint.data.catalog import describe

    second_of(recipe)
    return recipes.resolve(recipe, describe(recipe.data))


def source(recipe: Recipe) -> Domains:
    """The two streams that a recipe trains on."""
    from saddlepoint.data.stream import Stream
    from saddlepoint.recipes.base import ImageRecipe

    if not isinstance(recipe, ImageRecipe):
        raise UserError(f"{recipe.system} has no images, so it has no two domains of them.")
    second, images = second_of(recipe), opened(recipe, recipe.data)
    a, b = halves(images) if second in TRANSFORMS else (images, opened(recipe, second))
    return Domains(
        Stream(a, seed=recipe.seed, mirror=recipe.mirror),
        Stream(b, seed=recipe.seed + OTHER_ORDER, mirror=recipe.mirror),
        TRANSFORMS.get(second),
    )


def opened(recipe: ImageRecipe, spec: str) -> ImageSet:
    from saddlepoint.data.sets import open_set

    return open_set(
        spec, resolution=recipe.shape, channels=recipe.channels, fit=recipe.fit, background=recipe.background,
        on_error=recipe.on_error,
    )  # fmt: skip
