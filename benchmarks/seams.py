"""Do tiles show? Held-out pictures or maps of a trained translator, as a whole and in tiles, with several passes.

    python benchmarks/seams.py RUN [--side 512] [--tile 128] [--passes 0 1 2 4 8] [--count 4] [--picture FILE]

difference: mean |tiled - whole|, on the scale of 0 to 255. largest step: the excess of the mean step from one column
(or row) of pixels to the next over the same step in the whole, at the column where it is largest; a seam is a column
whose steps the whole does not have. `--picture` keeps whole, tiled with the fewest and tiled with the most passes.
"""

from __future__ import annotations

import argparse
import dataclasses
import time
from typing import Any

import torch
from torch import Tensor

import saddlepoint as sp
from saddlepoint.metrics.translated import held_out
from saddlepoint.pictures import picture


def steps(y: Tensor) -> Tensor:
    """Mean steps from each column, then each row, to the next, [W - 1 + H - 1], of pictures [C, H, W] of 0 to 255."""
    return torch.cat([(y[:, :, 1:] - y[:, :, :-1]).abs().mean((0, 1)), (y[:, 1:] - y[:, :-1]).abs().mean((0, 2))])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run")
    parser.add_argument("--side", type=int, default=512)
    parser.add_argument("--tile", type=int, default=128)
    parser.add_argument("--passes", type=int, nargs="+", default=[0, 1, 2, 4, 8])
    parser.add_argument("--count", type=int, default=4)
    parser.add_argument("--picture")
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    run = sp.load(chosen.run)
    game: Any = run.game
    recipe: Any = dataclasses.replace(run.recipe, resolution=chosen.side)  # type: ignore[call-arg]
    batch = held_out(recipe)(0, chosen.count, 0, chosen.count)
    inputs = batch["label" if recipe.domains[0] == "label" else "a"]
    found: dict[int, list[tuple[float, float, float]]] = {passes: [] for passes in chosen.passes}
    kept: list[Tensor] = []
    for i, x in enumerate(inputs):
        more = {"instance": batch["instance"][i : i + 1]} if "instance" in batch else {}
        whole = game.translate(x[None], **more)[0].float()
        shown = [whole]
        for passes in chosen.passes:
            begun = time.process_time()
            cut = {name: tensor[0] for name, tensor in more.items()}
            tiled = game.translate_tiled(x, tile=chosen.tile, passes=passes, **cut).float()
            seconds = time.process_time() - begun
            excess = steps(tiled * 127.5) - steps(whole * 127.5)
            found[passes].append((float((tiled - whole).abs().mean() * 127.5), float(excess.max()), seconds))
            shown.append(tiled)
        kept += [shown[0], shown[1], shown[-1]]
    print(f"{chosen.run}: {chosen.count} of {chosen.side}x{chosen.side} in tiles of {chosen.tile}")
    print("| passes | difference | largest step | CPU seconds a picture |\n|---|---|---|---|")
    for passes, rows in found.items():
        means = [sum(column) / len(rows) for column in zip(*rows, strict=True)]
        print(f"| {passes} | {means[0]:.2f} | {means[1]:.2f} | {means[2]:.1f} |")
    if chosen.picture:
        picture(torch.stack(kept), columns=3, cell=chosen.side).save(chosen.picture)


if __name__ == "__main__":
    main()
