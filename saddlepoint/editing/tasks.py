"""Truncation, interpolation and style mixing: from seeds to pictures.

Seeds may be given as numbers (the first row of what `sample` draws from that seed), as (seed, row), or in words: "3",
"0:5" (row 5 of seed 0), "0:0-7" and "4-9" (ranges), with commas. Latents z [n, latent] or w [n, layers or 1, size] may
stand in their place, in the recipe they are kept by content.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Any, TypeAlias

from torch import Tensor

from saddlepoint.editing.recipes import (
    Code,
    Edit,
    Mix,
    Picture,
    PictureRecipe,
    Source,
    Sweep,
    Way,
    make,
)
from saddlepoint.editing.spaces import Layers, Space, space
from saddlepoint.errors import UserError

Seeds: TypeAlias = int | str | Iterable[int | str | Code]
MOST = 4096


def codes(seeds: Seeds) -> tuple[Code, ...]:
    """(seed, row) of each latent that is meant."""
    if isinstance(seeds, (int, str)):
        seeds = [seeds]
    found: list[Code] = []
    for seed in seeds:
        if isinstance(seed, str):
            for word in filter(None, (part.strip() for part in seed.split(","))):
                found += _in_words(word)
        else:
            found.append((seed, 0) if isinstance(seed, int) else (int(seed[0]), int(seed[1])))
    if not found:
        raise UserError("no seed is named: give one or more, such as 0 or 0:0-7.")
    if len(found) > MOST:
        raise UserError(f"{len(found):,} latents for one picture; expected {MOST:,} at most.")
    return tuple(found)


def _in_words(word: str) -> list[Code]:
    parts = re.fullmatch(r"(?:(\d+):)?(\d+)(?:-(\d+))?", word)
    if not parts:
        raise UserError(
            f"{word!r} names no latent; expected a seed (3), a row of a seed (0:5), or a range (4-9, 0:0-7)."
        )
    first, last = int(parts[2]), int(parts[3] or parts[2])
    if last < first or last - first >= MOST:
        raise UserError(f"the range {word!r} is empty or too long; expected FIRST-LAST, at most {MOST:,} latents.")
    numbers = range(first, last + 1)
    return [(number, 0) for number in numbers] if parts[1] is None else [(int(parts[1]), row) for row in numbers]


def where(source: Any) -> Space:
    """The editing space of whatever pictures are made from."""
    return source.space if isinstance(source, Source) else space(source)


def start(
    seeds: Seeds = (), *, z: Tensor | None = None, w: Tensor | None = None, label: Sequence[int] | int = (), **more: Any
) -> PictureRecipe:
    """A recipe from seeds or latents; more: the other fields of `PictureRecipe`."""
    labels = (label,) if isinstance(label, int) else tuple(label)
    if w is not None and w.ndim == 2:
        w = w.unsqueeze(1)
    given = codes(seeds) if z is None and w is None else ()
    return PictureRecipe(codes=given, z=z, w=w, label=labels, **more)


def truncate(
    source: Any,
    psi: float | Sequence[float] = (1.0, 0.7, 0.5, 0.0),
    seeds: Seeds = "0:0-3",
    *,
    cutoff: int | None = None,
    **more: Any,
) -> Picture:
    """Images at each psi, a row for each latent: w' = mean + psi (w - mean) in the first `cutoff` layers (None: all).

    psi 1 leaves images as they are, 0 is the mean image whatever the seed; below 1 fewer accidents, less variety
    (section B of arXiv:1812.04948). source: a run, a game, or `open_source(run, checkpoint)`; more: see `start`.
    """
    values = (float(psi),) if isinstance(psi, (int, float)) else tuple(float(p) for p in psi)
    if not values:
        raise UserError("truncation takes at least one psi.")
    return make(source, start(seeds, truncation=values, cutoff=cutoff, **more))


def interpolate(
    source: Any,
    seeds: Seeds = (0, 1),
    steps: int = 8,
    *,
    space: str = "",
    loop: bool = False,
    film: bool = False,
    **more: Any,
) -> Picture:
    """Images on the way from latent to latent: straight in w, straight in z, or on great circles in z (slerp).

    space: w where there is one, else slerp. steps: images from one latent to the next; in a picture both are among
    them and each pair is a row, in a film (`film`) the second opens the next part. loop: back to the first.
    """
    chosen = space or ("w" if where(source).mapped or more.get("w") is not None else "slerp")
    way = Way(chosen, steps, loop, film)
    return make(source, start(seeds, way=way, **more))


def mix(
    source: Any,
    rows: Seeds = "0:0-3",
    columns: Seeds = "1:0-3",
    layers: Layers = "coarse",
    *,
    grid: bool = True,
    label: Sequence[int] | int = (),
    column_label: Sequence[int] | int = (),
    **more: Any,
) -> Picture:
    """Images of `rows` with the styles of `columns` in these layers (figure 3 of arXiv:1812.04948).

    layers: coarse, middle, fine, all, numbers as "0-3,8", or a sequence of them; none of them leaves the row's own
    image, all of them make the column's. grid: every pair, with the sources around it; else row i with column i.
    """
    at = where(source)
    theirs = (column_label,) if isinstance(column_label, int) else tuple(column_label)
    partner = Mix(codes(columns), at.layers_of(layers), theirs, grid)
    return make(source, start(rows, label=label, mix=partner, **more))


def sweep(
    source: Any,
    along: Edit | Sequence[Edit],
    strengths: Sequence[float] = (-3.0, -1.5, 0.0, 1.5, 3.0),
    seeds: Seeds = "0:0",
    **more: Any,
) -> Picture:
    """Images moved along each direction by each strength, a row for each latent and direction.

    along: `direction.at()` of what `directions` found.
    """
    many = (along,) if isinstance(along, Edit) else tuple(along)
    if not many or not strengths:
        raise UserError("a sweep takes one direction and one strength or more.")
    return make(source, start(seeds, sweep=Sweep(many, tuple(float(s) for s in strengths)), **more))
