"""How strong R1 should be: what others found for a resolution and a batch. A suggestion that is printed, never applied.

The rule of thumb is that of StyleGAN2-ADA's automatic configuration (Karras et al. 2020, arXiv:2006.06676, and its
code): gamma = 0.0002 r^2 / batch, of gamma/2 E|grad D(x)|^2, r the images' side in pixels. The squared slope of one
logit by r^2 pixels grows with their number at equal contrast, hence r^2. StyleGAN3's guide to configurations starts
higher (0.5, 2, 8 and 32 at 128, 256, 512 and 1024 pixels, batch 32: (r/181)^2) and advises to try a half, a quarter,
twice and four times the value, and to keep what scores best.
"""

from __future__ import annotations

from typing import NamedTuple

from saddlepoint.recipes.base import ImageRecipe, Recipe
from saddlepoint.recipes.settings import shown

RULE = 0.0002
GUIDE = 2.0 / 256**2  # StyleGAN3, batch 32
FACTOR = 4


class Gamma(NamedTuple):
    """A suggestion for --penalty.r1: the value, the range worth trying, how it was found."""

    value: float
    low: float
    high: float
    source: str


def suggested(system: str, side: int, batch: int) -> Gamma:
    """gamma of gamma/2 E|grad D(x)|^2 for images of this side and this batch."""
    if system == "stylegan3":
        value = GUIDE * side**2 * 32 / batch
        how = f"2 ({side}/256)^2 32/{batch}, the scale of StyleGAN3's guide to configurations (batch 32 there)"
    else:
        value = RULE * side**2 / batch
        how = f"0.0002 {side}^2 / {batch}, the rule of StyleGAN2-ADA's automatic configuration"
    return Gamma(value, value / FACTOR, value * FACTOR, how)


def of_recipe(recipe: Recipe) -> Gamma | None:
    """The suggestion for a recipe with R1; None where there is no R1 or no resolution yet."""
    penalty = getattr(recipe, "penalty", None)
    if not isinstance(recipe, ImageRecipe) or not recipe.resolution or not getattr(penalty, "r1", 0.0):
        return None
    return suggested(recipe.system, recipe.resolution, recipe.batch)


def remark(recipe: Recipe) -> str:
    """The suggestion in a sentence beside what the recipe has; empty where there is no R1."""
    found = of_recipe(recipe)
    if found is None:
        return ""
    used = recipe.penalty.r1  # type: ignore[attr-defined]
    where = "inside" if found.low <= used <= found.high else "outside"
    also = " With R2 beside it, both count." if recipe.penalty.r2 else ""  # type: ignore[attr-defined]
    return (
        f"--penalty.r1 {shown(used)} is {where} {found.low:.2g} to {found.high:.2g}, the range worth trying around "
        f"{found.value:.2g} = {found.source}. Found on photographs, so a start and no law; nothing is changed.{also}"
    )
