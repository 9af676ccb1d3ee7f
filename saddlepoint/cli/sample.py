"""`saddlepoint sample`."""

from __future__ import annotations

import dataclasses
import inspect
import io
import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from saddlepoint.cli.forms import parse
from saddlepoint.errors import UserError, nearest, unknown
from saddlepoint.recipes.settings import flag

if TYPE_CHECKING:
    from torch import Tensor

    from saddlepoint.editing.again import Noted
    from saddlepoint.game import Game
    from saddlepoint.recipes.base import Recipe
    from saddlepoint.runs import Run

PATH = 8  # images from class to class
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
    """Class of conditional systems: number or name, several with commas; all draws --n of every class, a row each;
    Bag..Sandal goes from one class to another, a row for each of --n latents, --columns images long (8)."""
    truncation: float = 1.0
    """psi of systems that have a mean to be pulled to: below 1 fewer accidents and less variety."""
    domain: str = ""
    """Systems of two domains: a, b, or both, the images of a pair beside each other."""
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
    like: str = ""
    """Make this picture again, which this command or `saddlepoint edit` wrote: all else stands in its metadata."""


def sample(argv: list[str]) -> int:
    """Draw samples and write them."""
    chosen = parse(Sample, argv, prog="saddlepoint sample")
    out = Path(chosen.out).expanduser()
    _refuse(chosen, out)
    from saddlepoint.api import choose_device, load

    run = load(chosen.run)
    if chosen.like:
        again(run, chosen.like, out)
        print(out)
        return 0
    from saddlepoint.editing.recipes import provenance

    folder = run.checkpoint(chosen.checkpoint) or run.latest(("game", "average"))[0]
    device = choose_device(chosen.device)
    game = run.game_at(folder).to(device)
    given = controls(game, run.recipe, chosen)
    count = len(given["label"]) if isinstance(given.get("label"), list) else chosen.n
    columns = chosen.columns or (chosen.n if chosen.label == "all" else PATH if "between" in given else 0)
    samples = drawn(game, count, chosen.seed, columns, given)
    shown = {"columns": columns, "cell": chosen.cell}
    notes = {**provenance(run, folder, device), "seed": chosen.seed, "n": count, **given, **shown}
    write(samples, out, notes, columns=columns, cell=chosen.cell)
    print(out)
    return 0


def drawn(game: Game, n: int, seed: int, columns: int, given: dict[str, Any]) -> Tensor:
    """n samples; with "between", two classes, n rows of `columns` samples from one to the other."""
    import torch

    if "between" not in given:
        return game.sample(n, seed, **given)
    rest = {name: value for name, value in given.items() if name != "between"}
    draw: Any = game.draw_latents
    path: Any = game.interpolate_classes
    known = inspect.signature(draw).parameters  # of systems that truncate z
    latents = draw(n, seed, **{name: value for name, value in rest.items() if name in known})
    return torch.cat([path(z, *given["between"], columns, **rest) for z in latents])


def again(run: Run, picture: str, out: Path) -> None:
    """Make a picture again from what its metadata says, and tell where its pixels have become others.

    The same checkpoint, device and release of torch give the same bits. UserError for a picture without a recipe and
    for one of another run or checkpoint.
    """
    import torch

    from saddlepoint.editing.again import checkpoint_of, read

    noted = read(picture)
    notes = dict(noted.notes)
    folder = checkpoint_of(run, notes, picture)
    kind = str(notes.get("device", "cpu"))
    if kind != "cpu" and not getattr(torch, kind, torch.cuda).is_available():
        raise UserError(f"{picture} was made on {kind}, which is not here; another device draws other numbers.")
    try:
        samples, columns, cell = _made_again(run, folder, notes, kind)
        if noted.index is not None:
            samples = samples[noted.index : noted.index + 1]
            columns = cell = 0
    except UserError as error:
        raise UserError(f"the recipe in {picture} cannot be followed: {error}") from error
    except (ValueError, KeyError, TypeError, IndexError) as error:
        raise UserError(f"the recipe in {picture} cannot be followed ({type(error).__name__}: {error}).") from error
    write(samples, out, notes, columns=columns, cell=cell, index=noted.index)
    _compare(samples, columns, cell, noted, picture)


def _made_again(run: Run, folder: Path, notes: dict[str, Any], device: str) -> tuple[Tensor, int, int]:
    """Images, columns and cell size of a recipe."""
    if "picture" in notes:
        from saddlepoint.editing.recipes import columns_of, from_json, open_source, render

        recipe = from_json(notes["picture"])
        return render(open_source(run, folder, device).space, recipe), columns_of(recipe), recipe.cell
    if "painted" in notes:
        raise UserError("`saddlepoint paint` made it; its words are under 'painted' in the metadata.")
    game = run.game_at(folder).to(device)
    names = ("truncation", "label", "domain", "between")
    given: dict[str, Any] = {name: notes[name] for name in names if name in notes}
    columns = int(notes.get("columns", 0))
    samples = drawn(game, int(notes["n"]), int(notes["seed"]), columns, given)
    return samples, columns, int(notes.get("cell", 96))


def _compare(samples: Tensor, columns: int, cell: int, noted: Noted, picture: str) -> None:
    import sys

    import numpy as np
    import torch

    from saddlepoint import pictures

    made = np.asarray(pictures.picture(samples, columns, cell))
    if not np.array_equal(made, noted.pixels):
        versions = f"torch {noted.notes.get('torch', 'unknown')} there, {torch.__version__} here"
        print(f"{picture} is not the same to the bit ({versions}).", file=sys.stderr)


def _refuse(chosen: Sample, out: Path) -> None:
    """What can be said before torch is imported."""
    if chosen.like:
        usual = {f.name: f.default for f in dataclasses.fields(Sample) if f.name not in ("run", "out", "like")}
        given = [flag(name) for name, value in usual.items() if getattr(chosen, name) != value]
        if given:
            raise UserError(f"--like takes everything from the picture: leave {' and '.join(given)} out.")
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
    if chosen.domain:
        if "domain" not in known:
            raise UserError(f"{recipe.system} has one domain: leave --domain out.")
        given["domain"] = chosen.domain
    if chosen.label:
        classes = int(getattr(recipe, "classes", 0))
        if "label" not in known or not classes or not getattr(recipe, "conditional", True):
            raise UserError(f"this {recipe.system} knows no classes: leave --label out, or train a conditional one.")
        if ".." in chosen.label:
            if not hasattr(game, "interpolate_classes"):
                raise UserError(f"{recipe.system} has nothing between its classes: name one, or all.")
            ends = [class_of(word.strip(), classes, recipe) for word in chosen.label.split("..")]
            if len(ends) != 2:
                raise UserError(f"--label {chosen.label} names {len(ends)} classes; a path goes from one to another.")
            given["between"] = ends
        elif chosen.label == "all":
            given["label"] = [y for y in range(classes) for _ in range(chosen.n)]
        else:
            named = [class_of(word.strip(), classes, recipe) for word in chosen.label.split(",")]
            given["label"] = [named[i % len(named)] for i in range(chosen.n)]
    return given


def class_of(word: str, classes: int, recipe: Recipe) -> int:
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


def write(
    samples: Tensor, out: Path, notes: dict[str, Any], *, columns: int = 0, cell: int = 0, index: int | None = None
) -> None:
    """Write samples in the form that the suffix of `out` asks for, whole or not at all. index: of a single image among
    those that the notes are about.
    """
    import numpy as np

    from saddlepoint import pictures
    from saddlepoint.runs import write_bytes

    text = {"saddlepoint": json.dumps(notes)} | ({} if index is None else {"index": str(index)})
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
        for number, image in enumerate(samples):
            single = text | ({"index": str(number)} if index is None else {})
            pictures.save(image[None], out / f"{number:06d}.png", notes=single)
    else:
        raise UserError("samples that are no images cannot be single PNGs: use .png for a scatter, .npy for numbers.")
