"""`saddlepoint edit`: pictures that carry their recipe, from a trained run."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, NamedTuple

import tyro

from saddlepoint.cli.forms import Switch, parse
from saddlepoint.cli.terminal import BOLD, styled, table
from saddlepoint.errors import UserError, unknown

if TYPE_CHECKING:
    from torch import Tensor

    from saddlepoint.editing.factorisation import Direction
    from saddlepoint.editing.projection import Projection
    from saddlepoint.editing.recipes import Edit, Picture, Source
    from saddlepoint.runs import Run

EDIT = re.compile(r"(?:(?P<source>.+):)?(?P<name>[^:=]+)=(?P<strength>[-+]?\d*\.?\d+)(?:@(?P<layers>.+))?")


# ---- forms
@dataclass(frozen=True)
class _Where:
    run: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="RUN")]
    """The run folder."""
    checkpoint: str = ""
    """Kimg of the checkpoint, its folder, or best; without it the newest."""
    device: str = "cpu"
    """Where to compute: cpu, cuda, mps or auto. Another device draws other numbers."""
    cell: int = 96
    """Smaller images are enlarged by whole factors to about this many pixels; 0 leaves them as they are."""
    label: str = ""
    """Class of conditional systems: number or name, several with commas for one each; else the classes in turn."""


@dataclass(frozen=True)
class _From(_Where):
    cutoff: int = -1
    """Truncate in the first so many layers only; -1 in all."""
    noise: Literal["const", "random", "none"] = "const"
    """Noise images of systems that have them: the stored ones, new ones, or none."""
    edit: tuple[str, ...] = ()
    """Moves that every image gets, NAME=STRENGTH@LAYERS each (the layers may be left out): sefa:2=3@middle by closed
    form, attribute:brightness=-2, or a file of directions, FILE.safetensors:2=3. Strength in deviations of w."""
    latents: str = ""
    """A projection's .safetensors to start from, instead of seeds."""


@dataclass(frozen=True)
class Truncate(_From):
    """Each image at several distances from the mean image: psi 1 is the image itself, 0 the mean."""

    seeds: tuple[str, ...] = ("0:0-3",)
    """Latents: seeds (3), rows of a seed as in `sample` (0:5), ranges (4-9, 0:0-7)."""
    psi: tuple[float, ...] = (1.0, 0.7, 0.5, 0.0)
    """A column each."""
    out: str = "truncation.png"
    """The picture to write."""


@dataclass(frozen=True)
class Interpolate(_From):
    """Images on the way from latent to latent: a row for each pair, or a film (.mp4 with the extra video, .gif)."""

    seeds: tuple[str, ...] = ("0:0-3",)
    """Latents: seeds (3), rows of a seed as in `sample` (0:5), ranges (4-9, 0:0-7)."""
    steps: int = 8
    """Images from one latent to the next: both among them in a picture; in a film the second opens the next part."""
    space: Literal["", "w", "z", "slerp"] = ""
    """Straight in w, straight in z, or on great circles in z; without it w where the system has one, else slerp."""
    loop: Switch = False
    """And back to the first."""
    fps: float = 30.0
    """Images a second of a film."""
    truncation: float = 1.0
    """psi."""
    out: str = "interpolation.png"
    """What to write; .mp4 and .gif are films."""


@dataclass(frozen=True)
class Mix(_From):
    """Images of the rows with the styles of the columns in some layers."""

    rows: tuple[str, ...] = ("0:0-3",)
    """Latents: seeds (3), rows of a seed as in `sample` (0:5), ranges (4-9, 0:0-7)."""
    columns: tuple[str, ...] = ("1:0-3",)
    """Latents whose styles are put in."""
    layers: str = "coarse"
    """Which: coarse, middle, fine, all, or numbers as 0-3,8."""
    truncation: float = 1.0
    """psi of both."""
    out: str = "mixing.png"
    """The picture to write."""


@dataclass(frozen=True)
class Directions(_From):
    """What images change along: find directions, show each as a row, and keep them in a file for --edit."""

    method: Literal["factorise", "labels", "attribute"] = "factorise"
    """Eigenvectors of the layers' matrices, hyperplanes between the classes that a classifier of the run's data sees,
    or one between images with much and with little of an attribute."""
    count: int = 5
    """How many eigenvectors."""
    attribute: str = "brightness"
    """brightness, contrast, symmetry or width."""
    data: str = ""
    """Labelled set that the classifier is trained on; without it the data of the run."""
    layers: str = "all"
    """Where they are looked for and applied: coarse, middle, fine, all, or numbers as 0-3,8."""
    samples: int = 1000
    """Images that are judged, and latents whose deviation is the unit of strength."""
    only: tuple[str, ...] = ()
    """Show these of them, by number or name."""
    strengths: tuple[float, ...] = (-3.0, -1.5, 0.0, 1.5, 3.0)
    """A column each, in deviations."""
    seeds: tuple[str, ...] = ("0:0",)
    """Latents that are moved; a row for each of them and each direction."""
    truncation: float = 1.0
    """psi."""
    save: str = ""
    """Keep the directions in this .safetensors."""
    out: str = "directions.png"
    """The picture to write."""


@dataclass(frozen=True)
class Apply(_From):
    """Images with edits, truncation and other images' styles, all in one."""

    seeds: tuple[str, ...] = ("0:0-3",)
    """Latents: seeds (3), rows of a seed as in `sample` (0:5), ranges (4-9, 0:0-7)."""
    truncation: float = 1.0
    """psi."""
    mix: tuple[str, ...] = ()
    """Latents whose styles are put in, one for each image in turn."""
    layers: str = "coarse"
    """Where --mix puts them."""
    columns: int = 0
    """Columns of the picture; 0 makes it about square."""
    out: str = "edited.png"
    """The picture to write."""


@dataclass(frozen=True)
class Project(_Where):
    """Find the latents of pictures, and write what they give beside them."""

    pictures: tyro.conf.Positional[tuple[str, ...]] = ()
    """Image files; their middle is taken in the run's shape."""
    seeds: tuple[str, ...] = ()
    """Project these generated images too, whose w is known."""
    space: Literal["", "w", "w+", "z"] = ""
    """One w, one w for each layer, or z of systems that have no w."""
    steps: int = 1000
    """Steps of Adam."""
    distance: str = "auto"
    """A distance of saddlepoint.metrics: lite0, multiscale, random-conv, classifier, lpips-vgg, ...; auto needs no
    download."""
    weights: str = ""
    """Weight file of distances whose weights are not in a package."""
    fixed_noise: Switch = False
    """Leave the noise images as they are."""
    rate: float = 0.1
    """Largest learning rate."""
    samples: int = 10_000
    """Latents for the mean of w and its deviation."""
    seed: int = 0
    """Of the noise that the search starts from."""
    save: str = ""
    """The latents and what was measured, a .safetensors for --latents; without it --out with that ending."""
    curve: str = ""
    """Draw distance against steps in this .png."""
    out: str = "projection.png"
    """The picture to write: each target with what was found."""
    quiet: Switch = False
    """No progress on standard error."""


# ---- tasks
def edit(argv: list[str]) -> int:
    """RUN, the task, its flags."""
    tasks = list(TASKS)
    if not argv or argv[0] in ("-h", "--help"):
        print(overview())
        return 0 if argv else 2
    named = next((i for i, word in enumerate(argv[:2]) if word in TASKS), None)
    if named is None:
        if len(argv) == 1 or argv[1].startswith("-"):
            raise UserError(f"saddlepoint edit needs RUN and a task: {', '.join(tasks)}; see saddlepoint edit --help")
        raise unknown("task of edit", argv[1], tasks)
    task = argv[named]
    form, function = TASKS[task]
    chosen = parse(form, [*argv[:named], *argv[named + 1 :]], prog=f"saddlepoint edit {task}")
    _refuse(chosen)
    for line in function(chosen):
        print(line)
    return 0


def overview() -> str:
    """`saddlepoint edit --help`."""
    rows = [
        [styled(name, BOLD), " ".join((task.form.__doc__ or "").split("\n\n")[0].split())]
        for name, task in TASKS.items()
    ]
    return (
        f"usage: saddlepoint edit RUN TASK ...\n\n{table(rows)}\n\n"
        "Every picture carries its recipe: saddlepoint sample RUN --like PICTURE --out FILE makes it again.\n"
        "saddlepoint edit TASK --help shows a task's flags."
    )


def _refuse(chosen: Any) -> None:
    """What can be said before torch is imported."""
    if chosen.cell < 0:
        raise UserError(f"--cell is {chosen.cell}; expected 0 or more.")
    if isinstance(chosen, Apply) and chosen.columns < 0:
        raise UserError(f"--columns is {chosen.columns}; expected 0 or more.")
    for word in getattr(chosen, "edit", ()):
        _parts(word)
    suffixes = (".png", ".gif", ".mp4") if isinstance(chosen, Interpolate) else (".png",)
    for name, allowed in (("out", suffixes), ("curve", (".png",)), ("save", (".safetensors",))):
        value = getattr(chosen, name, "")
        if value and Path(value).suffix.lower() not in allowed:
            raise UserError(f"--{name} is {value!r}; expected a name that ends in {' or '.join(allowed)}.")
    if isinstance(chosen, Interpolate) and chosen.out.lower().endswith(".mp4"):
        from saddlepoint.editing.films import refuse_suffix

        refuse_suffix(Path(chosen.out))
    if isinstance(chosen, Project) and not (chosen.pictures or chosen.seeds):
        raise UserError("nothing to project: name pictures, or --seeds for generated ones.")


def _source(chosen: _Where) -> tuple[Run, Source]:
    from saddlepoint.api import choose_device, load
    from saddlepoint.editing.recipes import open_source

    run = load(chosen.run)
    return run, open_source(run, run.checkpoint(chosen.checkpoint), choose_device(chosen.device))


def _labels(chosen: _Where, run: Run, source: Source) -> tuple[int, ...]:
    if not chosen.label:
        return ()
    from saddlepoint.cli.sample import class_of

    if not source.space.classes:
        raise UserError(f"this {run.recipe.system} knows no classes: leave --label out.")
    return tuple(class_of(word.strip(), source.space.classes, run.recipe) for word in chosen.label.split(","))


def _shared(chosen: _From, run: Run, source: Source) -> dict[str, Any]:
    """The fields of a recipe that every task takes."""
    given: dict[str, Any] = {
        "label": _labels(chosen, run, source), "cutoff": None if chosen.cutoff < 0 else chosen.cutoff,
        "noise": chosen.noise, "cell": chosen.cell, "edits": tuple(_edit(word, source) for word in chosen.edit),
    }  # fmt: skip
    psi = getattr(chosen, "truncation", 1.0)
    if psi != 1.0:
        given["truncation"] = (psi,)
    if chosen.latents:
        from saddlepoint.editing.projection import load_projection

        found = load_projection(chosen.latents)
        given["z" if found.space == "z" else "w"] = found.w[:, 0] if found.space == "z" else found.w
        if found.noise and not isinstance(chosen, (Interpolate, Mix)):
            given["noise"] = found.noise
        given["label"] = given["label"] or found.label
    return given


def _parts(word: str) -> re.Match[str]:
    found = EDIT.fullmatch(word)
    if not found:
        raise UserError(f"--edit {word!r} is not understood; expected NAME=STRENGTH@LAYERS, such as sefa:0=2@middle.")
    return found


def _edit(word: str, source: Source) -> Edit:
    """The edit that a word asks for, its direction found or read."""
    from saddlepoint.editing.factorisation import directions, load_directions, named

    parts = _parts(word)
    origin, name, layers = parts["source"] or "sefa", parts["name"], parts["layers"]
    chosen = source.space.layers_of(layers or "all")
    if origin == "sefa":
        if not name.isdigit():
            raise UserError(f"--edit {word!r}: directions in closed form have numbers, from 0.")
        direction = directions(source, count=int(name) + 1, layers=chosen)[-1]
    elif origin == "attribute":
        direction = directions(source, "attribute", attribute=name, layers=chosen)[0]
    else:
        direction = named(load_directions(origin), name)
    return direction.at(float(parts["strength"]), chosen if layers else None)


def _written(picture: Picture, out: str, **how: Any) -> list[str]:
    return [str(picture.save(Path(out), **how))]


def _truncate(chosen: Truncate) -> list[str]:
    from saddlepoint import editing

    run, source = _source(chosen)
    return _written(editing.truncate(source, chosen.psi, chosen.seeds, **_shared(chosen, run, source)), chosen.out)


def _interpolate(chosen: Interpolate) -> list[str]:
    from saddlepoint import editing

    run, source = _source(chosen)
    film = not chosen.out.lower().endswith(".png")
    more = _shared(chosen, run, source)
    made = editing.interpolate(
        source, chosen.seeds, chosen.steps, space=chosen.space, loop=chosen.loop, film=film, **more
    )
    return _written(made, chosen.out, fps=chosen.fps)


def _mix(chosen: Mix) -> list[str]:
    from saddlepoint import editing

    run, source = _source(chosen)
    more = _shared(chosen, run, source)
    return _written(editing.mix(source, chosen.rows, chosen.columns, chosen.layers, **more), chosen.out)


def _directions(chosen: Directions) -> list[str]:
    from saddlepoint import editing
    from saddlepoint.editing.factorisation import by_classifier, named

    run, source = _source(chosen)
    more: dict[str, Any] = {"samples": chosen.samples, "layers": chosen.layers, "count": chosen.count}
    if chosen.method == "labels":
        judge, names = by_classifier(chosen.data or run.recipe.data)
        more |= {"labels": judge, "names": names}
    found = editing.directions(source, chosen.method, attribute=chosen.attribute, **more)
    shown = [named(found, word) for word in chosen.only] or found
    made = editing.sweep(
        source, [d.at() for d in shown], chosen.strengths, chosen.seeds, **_shared(chosen, run, source)
    )
    lines = _written(made, chosen.out)
    if chosen.save:
        lines.append(str(editing.save_directions(found, chosen.save)))
    return [*lines, _table(found)]


def _table(found: list[Direction]) -> str:
    meaning = "eigenvalue" if found[0].method == "factorise" else "told rightly on held-out latents"
    rows = [[str(i), d.name, f"{meaning} {d.value:.3g}"] for i, d in enumerate(found)]
    return table(rows)


def _apply(chosen: Apply) -> list[str]:
    from saddlepoint import editing
    from saddlepoint.editing.recipes import make

    run, source = _source(chosen)
    more = _shared(chosen, run, source)
    if chosen.mix:
        made = editing.mix(source, chosen.seeds, chosen.mix, chosen.layers, grid=False, **more)
    else:
        made = make(source, editing.start(chosen.seeds, **more))
    recipe = dataclasses.replace(made.recipe, columns=chosen.columns)
    return _written(dataclasses.replace(made, recipe=recipe), chosen.out)


def _project(chosen: Project) -> list[str]:
    import torch

    from saddlepoint import editing
    from saddlepoint.metrics.perceptual import perceptual

    run, source = _source(chosen)
    at, label = source.space, _labels(chosen, run, source)
    recipe = at.game.recipe
    height, width = getattr(recipe, "shape", (recipe.resolution, recipe.resolution))
    targets = [editing.read_target(path, height, width, recipe.channels) for path in chosen.pictures]
    known = None
    if chosen.seeds:
        styles, classes = _styles_of(source, chosen.seeds, label)
        targets += list(at.images(styles, label=classes))
        known = None if chosen.pictures else styles[:, 0]
    distance: Any = chosen.distance
    if chosen.weights:
        distance = perceptual(chosen.distance, device=at.device, weights=chosen.weights)
    found = editing.project(
        source, torch.stack(targets), chosen.space, steps=chosen.steps, distance=distance, noise=not chosen.fixed_noise,
        rate=chosen.rate, samples=chosen.samples, label=label, known=known, seed=chosen.seed,
        progress=None if chosen.quiet else _progress(),
    )  # fmt: skip
    lines = _written(found.picture(source, cell=chosen.cell), chosen.out)
    lines.append(str(found.save(chosen.save or Path(chosen.out).with_suffix(".safetensors"))))
    if chosen.curve:
        lines.append(str(curve(found, Path(chosen.curve))))
    return [*lines, _summary(found)]


def _progress() -> Callable[[int, int, float], None]:
    from saddlepoint.cli.evaluate import Telling

    telling = Telling()
    return lambda done, of, distance: telling("projecting", done, of)


def _styles_of(source: Source, seeds: tuple[str, ...], label: tuple[int, ...]) -> tuple[Tensor, list[int] | None]:
    from saddlepoint.editing.recipes import classes_of
    from saddlepoint.editing.tasks import codes

    at, meant = source.space, codes(seeds)
    classes = classes_of(at, meant, len(meant), label) if at.classes else None
    return at.styles(at.draw(meant), classes), classes


def _summary(found: Projection) -> str:
    first, last = found.distances[0].mean(), found.final.mean()
    text = f"  {found.distance} in {found.space}: {first:.4g} at first, {last:.4g} after {len(found.distances):,} steps"
    text += f"; {found.seconds / len(found.final):.1f} s an image"
    if found.errors is not None:
        text += f"; |w - true w| {found.errors[0].mean():.3g} to {found.errors[-1].mean():.3g} deviations"
    return text


def curve(found: Projection, path: Path) -> Path:
    """Distance against steps, a line for each target and one for their mean, as a PNG."""
    import io

    from saddlepoint.figures.style import slide, styled
    from saddlepoint.runs import write_bytes

    with styled():
        figure = slide(8, 4.5)
        ax = figure.add_subplot()
        ax.plot(found.distances.numpy(), color="#9aa3af", lw=0.8, alpha=0.6)
        ax.plot(found.distances.mean(1).numpy(), color="#c2410c", lw=2, label="mean")
        name = found.distance.partition("@")[0]
        ax.set(
            xlabel="steps", ylabel=name, yscale="log", title=f"projection to {found.space}, {len(found.final)} images"
        )
        ax.legend()
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png", dpi=120, metadata={"Software": None})
    write_bytes(path, buffer.getvalue())
    return path


class Task(NamedTuple):
    """A task's flags, and what does it: the form -> lines to print."""

    form: Any
    function: Callable[[Any], list[str]]


TASKS: dict[str, Task] = {
    "truncate": Task(Truncate, _truncate),
    "interpolate": Task(Interpolate, _interpolate),
    "mix": Task(Mix, _mix),
    "directions": Task(Directions, _directions),
    "apply": Task(Apply, _apply),
    "project": Task(Project, _project),
}
