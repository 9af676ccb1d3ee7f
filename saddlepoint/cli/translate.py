"""`saddlepoint translate`."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import Annotated, Literal

import tyro

from saddlepoint.cli.forms import Switch, parse
from saddlepoint.cli.terminal import amount, table
from saddlepoint.errors import UserError


@dataclass(frozen=True)
class Translate:
    """Translate pictures with a trained pix2pix or CycleGAN: every picture of --input into --out, in its own size.

    With a named set as input ("maps:test"), or with --truth, the distances to the true partners are told as well.
    """

    run: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="RUN")]
    """The run folder."""
    input: str
    """A folder or zip of pictures, one picture, or a named set with two domains."""
    out: str
    """The folder to write PNGs into, under the names of the input; files of these names are replaced."""
    direction: Literal["a-to-b", "b-to-a"] = "a-to-b"
    """Which way; b-to-a with CycleGAN only."""
    truth: str = ""
    """A folder or zip with the true partners, by the same names: tells how far the output is from them."""
    resolution: str = ""
    """Bring pictures to this size first (64, or HEIGHTxWIDTH; scaled to cover, the middle cut out)."""
    batch: int = 8
    """Pictures of one size that are translated together."""
    tile: int = 0
    """Side of the tiles that large pictures are cut into; 0: tiles of 1024 for pictures above 2048x1024 pixels."""
    overlap: int = -1
    """Pixels by which tiles overlap; -1: as far as a pixel sees, at most a quarter of a tile."""
    passes: int = 2
    """Passes over the tiles in which norm layers agree on statistics; 0 is fastest and shows seams."""
    checkpoint: str = ""
    """Kimg of the checkpoint, its folder, or best; without it the newest."""
    seed: int = 0
    """Decides dropout's noise, where the run has it."""
    device: str = "cpu"
    """Where to compute: cpu, cuda, mps or auto."""
    on_error: Literal["refuse", "skip"] = "refuse"
    """Pictures that cannot be read: stop and name the first, or leave them out and name them all."""
    quiet: Switch = False
    """Print errors only."""


def translate(argv: list[str]) -> int:
    """Translate and write."""
    chosen = parse(Translate, argv, prog="saddlepoint translate")
    if chosen.batch < 1:
        raise UserError(f"--batch is {chosen.batch}; expected 1 or more.")
    if chosen.tile < 0 or chosen.passes < 0 or chosen.overlap < -1:
        raise UserError("--tile and --passes are 0 or more, --overlap is -1 or more.")
    from saddlepoint import translation
    from saddlepoint.api import load
    from saddlepoint.cli.data import _bar

    with _bar("translating", chosen.quiet) as progress:
        outcome = translation.translate(
            load(chosen.run),
            chosen.input,
            chosen.out,
            truth=chosen.truth,
            direction=chosen.direction,
            checkpoint=chosen.checkpoint,
            device=chosen.device,
            batch=chosen.batch,
            resolution=chosen.resolution,
            tile=chosen.tile,
            overlap=chosen.overlap,
            passes=chosen.passes,
            seed=chosen.seed,
            on_error=chosen.on_error,
            progress=progress,
        )
    for name, reason in outcome.problems:
        print(f"left out: {name} {reason}", file=sys.stderr)
    if not chosen.quiet:
        print(f"{amount(len(outcome.written), 'picture')} in {chosen.out}")
        if outcome.scores:
            print(scores_table(outcome.scores))
    return 0


NAMES = {"output": "translated", "input": "the input itself", "stranger": "another picture's partner"}


def scores_table(scores: dict[str, dict[str, float]]) -> str:
    """Distances to the true partners, a row for each thing that is compared with them."""
    rows = [["to the true partner", "L1 (0 to 1)", "PSNR", "SSIM"]]
    for name, found in scores.items():
        row = [f"{found['l1']:.4f} ± {found['l1_error']:.4f}", f"{found['psnr']:.2f} dB", f"{found['ssim']:.3f}"]
        rows.append([NAMES[name], *row])
    return table(rows)
