"""`saddlepoint sample`."""

from __future__ import annotations

import inspect
import io
import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from saddlepoint.cli.forms import parse
from saddlepoint.errors import UserError, nearest, unknown

if TYPE_CHECKING:
    from torch import Tensor

    from saddlepoint.game import Game
    from saddlepoint.recipes.base import Recipe

SUFFIXES = (".png", ".npy", ".npz", ".safetensors")


@dataclass(frozen=True)
class Sample:
    """Draw samples from a run: a pure function of its checkpoint and the seed.

    What --out ends in decides what is written: .png a grid; .npz uint8 [N, H, W, C] as arr_0, which evaluation scripts
    of other projects read; .npy or .safetensors the floats in [-1, 1], [N, C, H, W]; no suffix a folder of single PNGs.
    """

    run: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="RUN")]
    """The run folder."""
    n: int = 16
    """How many."""
    seed: int = 0
    """Decides which."""
    label: str = ""
    """Class of conditional systems: number or name, several with commas; all draws --n of every class, a row each."""
    truncation: float = 1.0
    """psi of systems that have a mean to be pulled to: below 1 fewer accidents and less variety."""
    out: str = "samples.png"
    """File or folder to write; a file of that name is replaced."""
    columns: int = 0
    """Columns of the grid; 0 makes it about square."""
    cell: int = 96
    """Smaller images are enlarged by whole factors to about this many pixels in the grid; 0 leaves them as they are."""
    checkpoint: str = ""
    """Kimg of the checkpoint, its folder, or best (see --evaluate-every of train); without it the newest."""
    device: str = "cpu"
    """Where to compute: cpu, cuda, mps or auto. Another device draws other numbers."""


def sample(argv: list[str]) -> int:
    """Draw samples and write them."""
    chosen = parse(Sample, argv, prog="saddlepoint sample")
    out = Path(chosen.out).expanduser()
    _refuse(chosen, out)
    from saddlepoint.api import choose_device, load

    run = load(chosen.run)
    folder = run.checkpoint(chosen.checkpoint)
    device = choose_device(chosen.device)
    game = (run.game if folder is None else run.game_at(folder)).to(device)
    given = controls(game, run.recipe, chosen)
    count = len(given["label"]) if isinstance(given.get("label"), list) else chosen.n
    samples = game.sample(count, chosen.seed, **given)
    notes = {"run": run.path.name, "clock": int((folder or run.checkpoints()[-1]).name), "seed": chosen.seed}
    columns = chosen.columns or (chosen.n if chosen.label == "all" else 0)
    write(samples, out, {**notes, "n": count, **given}, columns=columns, cell=chosen.cell)
    print(out)
    return 0


def _refuse(chosen: Sample, out: Path) -> None:
    """What can be said before torch is imported."""
    if chosen.n < 1:
        raise UserError(f"--n is {chosen.n}; expected 1 or more.")
    if chosen.columns < 0 or chosen.cell < 0:
        raise UserError("--columns and --cell are 0 or more.")
    if out.suffix and out.suffix.lower() not in SUFFIXES:
        near = nearest(out.suffix, SUFFIXES) or ".png"
        raise UserError(
            f"--out ends in {out.suffix!r}; did you mean {str(out.with_suffix(near))!r}? "
            f"Endings: {', '.join(SUFFIXES)}, or none for a folder of single images."
        )
    if out.suffix and out.is_dir():
        raise UserError(f"--out {str(out)!r} is a folder; name a file, or a folder without a suffix.")
    if not out.suffix and out.exists() and not out.is_dir():
        raise UserError(f"--out {str(out)!r} is a file without a suffix: name a folder, or add one of {SUFFIXES}.")


def controls(game: Game, recipe: Recipe, chosen: Sample) -> dict[str, Any]:
    """What the flags ask of `game.sample` besides n and seed. UserError for what this system does not have."""
    known = inspect.signature(game.sample).parameters
    given: dict[str, Any] = {}
    if chosen.truncation != 1.0:
        if "truncation" not in known:
            raise UserError(f"{recipe.system} has no truncation: leave --truncation out.")
        given["truncation"] = chosen.truncation
    if chosen.label:
        classes = int(getattr(recipe, "classes", 0))
        if "label" not in known or not classes or not getattr(recipe, "conditional", True):
            raise UserError(f"this {recipe.system} knows no classes: leave --label out, or train a conditional one.")
        if chosen.label == "all":
            given["label"] = [y for y in range(classes) for _ in range(chosen.n)]
        else:
            named = [_class_of(word.strip(), classes, recipe) for word in chosen.label.split(",")]
            given["label"] = [named[i % len(named)] for i in range(chosen.n)]
    return given


def _class_of(word: str, classes: int, recipe: Recipe) -> int:
    """The number of a class that a user names."""
    if word.lstrip("-").isdigit():
        number = int(word)
        if not 0 <= number < classes:
            near = min(max(number, 0), classes - 1)
            raise UserError(f"there is no class {number}: the classes are 0 to {classes - 1}; nearest: {near}.")
        return number
    from saddlepoint.data import describe

    names = {name.lower(): i for i, name in enumerate(describe(recipe.data).label_names)}
    if word.lower() not in names:
        raise unknown("class", word, [*names, "all"])
    return names[word.lower()]


def write(samples: Tensor, out: Path, notes: dict[str, Any], *, columns: int = 0, cell: int = 0) -> None:
    """Write samples in the form that the suffix of `out` asks for, whole or not at all."""
    import numpy as np

    from saddlepoint import pictures
    from saddlepoint.runs import write_bytes

    text = {"saddlepoint": json.dumps(notes)}
    images = samples.ndim == 4
    try:
        (out.parent if out.suffix else out).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot write {out}: {error.strerror or error}.") from error
    if out.suffix.lower() == ".png":
        pictures.save(samples, out, columns=columns, cell=cell, notes=text)
    elif out.suffix.lower() == ".safetensors":
        from safetensors.torch import save

        write_bytes(out, save({"samples": samples.detach().float().cpu().contiguous()}, text))
    elif out.suffix:
        buffer = io.BytesIO()
        if out.suffix.lower() == ".npz":
            np.savez_compressed(buffer, pictures.to_uint8(samples) if images else samples.cpu().numpy())
        else:
            np.save(buffer, samples.detach().float().cpu().numpy())
        write_bytes(out, buffer.getvalue())
    elif images:
        for index, image in enumerate(samples):
            pictures.save(image[None], out / f"{index:06d}.png", notes={**text, "index": str(index)})
    else:
        raise UserError("samples that are no images cannot be single PNGs: use .png for a scatter, .npy for numbers.")
