"""`saddlepoint translate`."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import tyro

from saddlepoint.cli.forms import Switch, parse
from saddlepoint.cli.terminal import DIM, amount, styled, table
from saddlepoint.errors import UserError


@dataclass(frozen=True)
class Translate:
    """Translate pictures or label maps with a trained pix2pix, pix2pixHD, CycleGAN or GauGAN: every one of --input into
    --out, in its own size.

    With a named set as input ("maps:test"), with the photos of a folder label/ inst/ img/, or with --truth, the
    distances to the true partners are told as well. `saddlepoint paint` shows what an edit of a label map does.
    """

    run: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="RUN")]
    """The run folder."""
    input: str
    """A folder or zip of pictures or label maps, one of them, a folder of pairs or label/ inst/ img/ (its part with
    :test), or a named set."""
    out: str
    """The folder to write PNGs into, under the names of the input; files of these names are replaced."""
    direction: Literal["a-to-b", "b-to-a"] = "a-to-b"
    """Which way; b-to-a with CycleGAN only."""
    truth: str = ""
    """A folder or zip with the true partners, by the same names: tells how far the output is from them."""
    instances: str = ""
    """A folder or zip with instance maps, by the same names, where the input has none; regions makes every connected
    region of a class an object."""
    style: str = ""
    """GauGAN with encoder: a seed, or a picture whose style is taken."""
    features: int = -1
    """pix2pixHD with features: the seed that decides the objects' looks; -1 takes --seed."""
    styles: int = 0
    """So many outputs of every input, in different styles or looks: NAME-0.png, NAME-1.png, ..."""
    resolution: str = ""
    """Bring inputs to this size first (64, or HEIGHTxWIDTH; scaled to cover, the middle cut out)."""
    batch: int = 8
    """Inputs of one size that are translated together."""
    tile: int = 0
    """Side of the tiles that large inputs are cut into; 0: tiles of 1024 for those above 2048x1024 pixels."""
    overlap: int = -1
    """Pixels by which tiles overlap; -1: twice as far as a pixel sees, at most half a tile."""
    passes: int = -1
    """Norm layers whose statistics the tiles share, each found by a pass over them; -1 is all of them, as if the
    picture were whole; 0 is fastest, and tiles differ in tone."""
    no_miou: Switch = False
    """Label maps with photos: do not ask a segmenter whether the outputs show their classes. (It is trained on the
    run's data for about a minute the first time.)"""
    checkpoint: str = ""
    """Kimg of the checkpoint, its folder, or best; without it the newest."""
    seed: int = 0
    """Decides the style where no other is given, and dropout's noise, where the run has it."""
    device: str = "cpu"
    """Where to compute: cpu, cuda, mps or auto."""
    on_error: Literal["refuse", "skip"] = "refuse"
    """Inputs that cannot be read, and label maps with ids that are no class: stop and name the first, or leave them out
    and name them all."""
    quiet: Switch = False
    """Print errors only."""


def translate(argv: list[str]) -> int:
    """Translate and write."""
    chosen = parse(Translate, argv, prog="saddlepoint translate")
    if chosen.batch < 1:
        raise UserError(f"--batch is {chosen.batch}; expected 1 or more.")
    if chosen.tile < 0 or chosen.passes < -1 or chosen.overlap < -1:
        raise UserError("--tile is 0 or more, --passes and --overlap are -1 or more.")
    if chosen.styles < 0 or chosen.features < -1:
        raise UserError("--styles and --features are 0 or more.")
    from saddlepoint import translation
    from saddlepoint.api import load
    from saddlepoint.cli.data import _bar
    from saddlepoint.cli.evaluate import Telling

    with _bar("translating", chosen.quiet) as progress:
        outcome = translation.translate(
            load(chosen.run),
            chosen.input,
            chosen.out,
            truth=chosen.truth,
            instances=chosen.instances,
            direction=chosen.direction,
            checkpoint=chosen.checkpoint,
            device=chosen.device,
            batch=chosen.batch,
            resolution=chosen.resolution,
            tile=chosen.tile,
            overlap=chosen.overlap,
            passes=chosen.passes,
            seed=chosen.seed,
            style=chosen.style,
            styles=chosen.styles,
            features=chosen.features,
            on_error=chosen.on_error,
            segment=not chosen.no_miou,
            progress=progress,
            tell=None if chosen.quiet else Telling(),
        )
    for name, reason in outcome.problems:
        print(f"left out: {name} {reason}", file=sys.stderr)
    for note in outcome.notes:
        print(f"note: {note}", file=sys.stderr)
    if not chosen.quiet:
        print(f"{amount(len(outcome.written), 'picture')} in {chosen.out}")
        if outcome.scores:
            print(scores_table(outcome.scores))
        if outcome.classes:
            print(classes_table(outcome.classes))
    return 0


def classes_table(found: dict[str, Any]) -> str:
    """What a segmenter sees in the outputs, in the real pictures of their maps and in those of other maps."""
    judge = found["segmenter"]
    rows = [["a segmenter sees the map's classes", "mIoU", "pixels"]]
    for who, name in (("output", "translated"), ("ceiling", "real pictures"), ("floor", "real pictures of other maps")):
        rows.append([name, f"{found[who]['miou']:.3f}", f"{found[who]['accuracy']:.1%}"])
    about = f"{judge['identity']}, trained on {judge['trained_on']:,} pictures of {judge['data']}"
    return f"{table(rows)}\n  {styled(about, DIM)}"


NAMES = {"output": "translated", "input": "the input itself", "stranger": "another picture's partner"}


def scores_table(scores: dict[str, dict[str, float]]) -> str:
    """Distances to the true partners, a row for each thing that is compared with them."""
    rows = [["to the true partner", "L1 (0 to 1)", "PSNR", "SSIM"]]
    for name, found in scores.items():
        row = [f"{found['l1']:.4f} ± {found['l1_error']:.4f}", f"{found['psnr']:.2f} dB", f"{found['ssim']:.3f}"]
        rows.append([NAMES[name], *row])
    return table(rows)
