"""One map, many pictures: styles of GauGAN, looks of pix2pixHD's objects, on held-out examples.

    python benchmarks/looks.py RUN OUT.png [INDEX ...]

GauGAN: above, the pictures that lend their styles; in each row below a map, its true picture, and the map in each of
those styles. Printed, over all held-out examples: how near the mean colour of an output is to that of the picture that
lent the style, and to that of one that did not (RGB from 0 to 255). pix2pixHD with features: a map, its true picture,
the map with the true objects' looks, and with four draws of their classes' looks. Indices are places among the held-out
examples.
"""

from __future__ import annotations

import sys
from typing import Any

import torch
from torch import Tensor

import saddlepoint as sp
from saddlepoint.metrics.translated import held_out
from saddlepoint.pictures import picture

LENT, MAPS, DRAWS = 4, 5, 4


def main(run: str, out: str, *indices: str) -> None:
    torch.set_num_threads(1)
    opened = sp.load(run)
    game: Any = opened.game
    held = held_out(opened.recipe)
    every = held(0, len(held), 0, len(held))
    place = torch.tensor([int(word) for word in indices] or list(range(LENT + MAPS)))
    batch = {name: tensor[place] for name, tensor in every.items()}
    rows = styles(game, batch) if opened.recipe.system == "gaugan" else looks(game, batch)
    sheet = torch.cat([torch.stack(row) for row in rows])
    picture(sheet, columns=len(rows[0]), cell=96).quantize(256).save(out, optimize=True)
    if opened.recipe.system == "gaugan":
        report(game, every)


def styles(game: Any, batch: dict[str, Tensor]) -> list[list[Tensor]]:
    lent, label, truth = batch["image"][:LENT], batch["label"][LENT:], batch["image"][LENT:]
    blank = torch.ones_like(truth[0])
    objects = batch["instance"][LENT:] if "instance" in batch else None
    z = game.style_of(lent)
    made = [game.translate(label, style=z[i : i + 1], instance=objects) for i in range(LENT)]
    return [
        [blank, blank, *lent],
        *([game.colours(label)[j], truth[j], *(m[j] for m in made)] for j in range(len(label))),
    ]


def looks(game: Any, batch: dict[str, Tensor]) -> list[list[Tensor]]:
    label, instance, truth = batch["label"], batch["instance"], batch["image"]
    made = [game.translate(label, instance=instance, image=truth)]
    made += [game.translate(label, instance=instance, seed=seed) for seed in range(DRAWS)]
    return [[game.colours(label)[j], truth[j], *(m[j] for m in made)] for j in range(len(label))]


def report(game: Any, every: dict[str, Tensor]) -> None:
    """Mean colours: of the output against the lender's, the next picture's, and those of the map's own."""
    truth, objects = every["image"], every.get("instance")
    lent = truth.roll(-1, 0)
    made = game.translate(every["label"], style=game.style_of(lent), instance=objects)
    for words, other in (("that lent the style", lent), ("after that one", lent.roll(-1, 0)), ("of the map", truth)):
        apart = (made - other).mean((2, 3)).abs().mean() * 127.5
        print(f"mean colour of {len(made)} outputs and that of the picture {words}: {apart:.1f} of 255 apart")


if __name__ == "__main__":
    main(*sys.argv[1:])
