"""`saddlepoint paint`: edits of label maps, before and after."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from saddlepoint.cli.forms import Switch, parse
from saddlepoint.cli.terminal import table
from saddlepoint.errors import UserError

if TYPE_CHECKING:
    from saddlepoint.painting import Painted

Words = Annotated[
    tuple[tuple[str, ...], ...], tyro.conf.UseAppendAction
]  # a flag given several times, or several words


@dataclass(frozen=True)
class Paint:
    """Change a label map and see what GauGAN or pix2pixHD makes of it: map before | picture before | map after |
    picture after, both pictures in the same style.

    Points are X,Y in pixels from the top left. A change fills the connected region at a point, or a rectangle.
    """

    run: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="RUN")]
    """The run folder."""
    input: str
    """A label map: a PNG of class ids (palette indices, 8 or 16 bits), or a set or folder of maps (see --index)."""
    out: str = "painted.png"
    """The picture to write."""
    change: Words = ()
    """CLASS@X,Y fills the region at a point, CLASS@X,Y,W,H a rectangle; the class by name or number, several in their
    order."""
    feature: Words = ()
    """pix2pixHD with features: X,Y=CLUSTER gives the object at that point centre number CLUSTER of its class."""
    style: str = ""
    """GauGAN with encoder: a seed, or a picture whose style is taken."""
    seed: int = 0
    """Decides the style, or the objects' looks, where no other is given."""
    instances: str = ""
    """The instance map, or a folder of them, where the input has none; without it connected regions are objects."""
    index: int = 0
    """Which map of a set or folder."""
    only: Switch = False
    """Write the picture after the changes alone."""
    save_map: str = ""
    """Write the changed map as a PNG of class ids, which --input takes; instances beside it, as NAME-instances.png."""
    cell: int = 256
    """Smaller maps and pictures are enlarged by whole factors to about this many pixels; 0 leaves them as they are."""
    resolution: str = ""
    """Bring the map to this size first (64, or HEIGHTxWIDTH)."""
    checkpoint: str = ""
    """Kimg of the checkpoint, its folder, or best; without it the newest."""
    device: str = "cpu"
    """Where to compute: cpu, cuda, mps or auto. Another device draws other numbers."""


def paint(argv: list[str]) -> int:
    """Change, draw and write."""
    chosen = parse(Paint, argv, prog="saddlepoint paint")
    _refuse(chosen)
    from saddlepoint import painting
    from saddlepoint.api import choose_device, load
    from saddlepoint.editing.recipes import provenance

    run = load(chosen.run)
    made = painting.paint(
        run,
        chosen.input,
        [word for words in chosen.change for word in words],
        features=[word for words in chosen.feature for word in words],
        index=chosen.index,
        instances=chosen.instances,
        style=chosen.style,
        seed=chosen.seed,
        checkpoint=chosen.checkpoint,
        device=chosen.device,
        resolution=chosen.resolution,
    )
    folder = run.checkpoint(chosen.checkpoint) or run.latest(("game",))[0]
    notes = {**provenance(run, folder, choose_device(chosen.device)), "painted": dict(made.notes)}
    for path in write(made, chosen, notes):
        print(path)
    rows = [[f"{kind}", name, f"{before:.1%}", f"{after:.1%}"] for kind, name, before, after in made.shares()]
    print(table([["class", "", "before", "after"], *rows]))
    return 0


def _refuse(chosen: Paint) -> None:
    """What can be said before torch is imported."""
    if chosen.cell < 0:
        raise UserError(f"--cell is {chosen.cell}; expected 0 or more.")
    for name, value in (("out", chosen.out), ("save-map", chosen.save_map)):
        if value and Path(value).suffix.lower() != ".png":
            raise UserError(f"--{name} is {value!r}; expected a name that ends in .png.")


def write(made: Painted, chosen: Paint, notes: dict[str, Any]) -> list[Path]:
    """The picture, its recipe in the metadata, and the maps that are to be kept."""
    from saddlepoint import pictures
    from saddlepoint.painting import map_image
    from saddlepoint.runs import write_bytes

    text = {"saddlepoint": json.dumps(notes)}
    out = Path(chosen.out).expanduser()
    images = made.picture[1][None] if chosen.only else made.strip()
    files = {out: pictures.png(pictures.grid(images, 4, cell=0 if chosen.only else chosen.cell), text)}
    if chosen.save_map:
        kept = Path(chosen.save_map).expanduser()
        files[kept] = pictures.png(map_image(made.label[1], made.colours))
        if made.instance[1] is not None:
            files[kept.with_name(f"{kept.stem}-instances.png")] = pictures.png(map_image(made.instance[1]))
    for path, content in files.items():
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"cannot write {path}: {error.strerror or error}.") from error
        write_bytes(path, content)
    return list(files)
