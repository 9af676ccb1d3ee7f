"""`saddlepoint import` and `saddlepoint export`: published files in, our runs out."""

from __future__ import annotations

import shlex
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from saddlepoint.cli.forms import Switch, parse


@dataclass(frozen=True)
class Import:
    """Make a run of a published file, which samples, is evaluated and goes on training.

    NVIDIA's pickles (stylegan2-ada-pytorch, stylegan3, and the TensorFlow ones of ProGAN, StyleGAN and StyleGAN2),
    checkpoints of rosinality/stylegan2-pytorch, and what `saddlepoint export --format nvidia` writes. Nothing in the
    file is run. Published weights have licences of their own: those of NVIDIA are for non-commercial use.
    """

    file: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="FILE")]
    """The published file."""
    out: str = ""
    """Run folder; without it runs/NAME."""
    data: str = ""
    """What training is to go on with: the name of a set, a folder or a zip. Sampling needs none."""
    batch: int = 0
    """Examples a round when training goes on; 0 takes the system's own."""
    overwrite: Switch = False
    """Replace the run that is in --out."""


@dataclass(frozen=True)
class Export:
    """Write a run's networks for other programs, its averaged generator first of all.

    safetensors: the tensors of the averaged game by our names, the recipe in the metadata. onnx: the averaged generator
    with z (and w's noise images, and a label) as inputs, any batch. nvidia: the official names and layouts, G, D and
    G_ema, as .safetensors (which `import` reads back) or .pt.
    """

    run: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="RUN")]
    """The run folder."""
    format: Literal["safetensors", "onnx", "nvidia"] = "safetensors"
    """What to write."""
    out: str = ""
    """The file; without it the run's name with the format's ending."""
    checkpoint: str = ""
    """Kimg of the checkpoint, its folder, or best; without it the newest."""


def import_(argv: list[str]) -> int:
    """Make a run of a published file."""
    chosen = parse(Import, argv, prog="saddlepoint import")
    folder = Path(chosen.out or Path("runs") / Path(chosen.file).stem)
    from saddlepoint.pretrained.importing import import_run

    run = import_run(
        chosen.file,
        folder,
        data=chosen.data,
        batch=chosen.batch,
        overwrite=chosen.overwrite,
        command=shlex.join(["saddlepoint", "import", *argv]),
        tell=print,
    )
    place = shlex.quote(str(run.path))
    print(f"  run     {run.path}")
    print(f"  sample  saddlepoint sample {place} --n 16 --seed 0 --out grid.png")
    if chosen.data:
        print(f"  go on   saddlepoint resume {place} --kimg 100")
    return 0


def export(argv: list[str]) -> int:
    """Write a run's networks for other programs."""
    chosen = parse(Export, argv, prog="saddlepoint export")
    from saddlepoint.api import load
    from saddlepoint.exporting import ENDINGS, export_run

    run = load(chosen.run)
    out = Path(chosen.out or run.path.name + ENDINGS[chosen.format][0]).expanduser()
    said = export_run(run, chosen.format, out, checkpoint=run.checkpoint(chosen.checkpoint))
    for line in said:
        print(line, file=sys.stderr)
    print(out)
    return 0
