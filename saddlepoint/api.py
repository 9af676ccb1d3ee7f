"""The short functions that people call, and that the command calls: game, train, resume, load."""

from __future__ import annotations

import dataclasses
import importlib
import shlex
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from saddlepoint import recipes
from saddlepoint.errors import UserError, unknown
from saddlepoint.recipes import settings
from saddlepoint.recipes.base import ImageRecipe, Recipe
from saddlepoint.runs import CheckpointError, Run, create, launched, write_json

if TYPE_CHECKING:
    import torch

    from saddlepoint.engine import Observer, Source, Training
    from saddlepoint.game import Game
    from saddlepoint.transfer import Transfer


def load(path: str | Path) -> Run:
    """Open a run folder: `.sample(n, seed)`, `.game`, `.recipe`, `.log()`. Weights are read when they are asked for."""
    return Run(path)


def game(
    system: str, preset: str = "", *, data: str = "", device: torch.device | str = "cpu", **overrides: Any
) -> Game:
    """An untrained game. `data` decides resolution, channels and classes where the recipe leaves them open."""
    from saddlepoint.systems import build

    return build(prepared(recipes.recipe(system, preset, **overrides), data), device)


def prepared(recipe: Recipe, data: str = "") -> Recipe:
    """The recipe with its data named and everything that the data decide filled in. Imports no torch."""
    recipe = dataclasses.replace(recipe, data=data or recipe.data)
    if not recipe.data:
        return recipe
    if recipe.data_module:
        resolved: Recipe = importlib.import_module(recipe.data_module).resolve(recipe)
        return resolved
    from saddlepoint.data import describe

    return recipes.resolve(recipe, describe(recipe.data))


def train(
    recipe: Recipe | str,
    data: str = "",
    out: str | Path | None = None,
    *,
    kimg: float | None = None,
    seed: int | None = None,
    device: torch.device | str = "auto",
    overwrite: bool = False,
    progress: bool = True,
    tensorboard: bool = False,
    observers: Sequence[Observer] = (),
    **overrides: Any,
) -> Run:
    """Train a recipe (or a system's default preset) on data, into a run folder; returns the run.

    kimg: length in thousands of images. seed: of everything random. out: the run folder (default: runs/SYSTEM-DATA,
    numbered). Ctrl-C writes a checkpoint; `resume` goes on from it. Raises UserError for bad input, NonFiniteError for
    a failed round.
    """
    start = recipes.recipe(recipe) if isinstance(recipe, str) else recipe
    chosen = {"kimg": kimg, "seed": seed} | overrides
    asked: Recipe = recipes.with_overrides(start, {k: v for k, v in chosen.items() if v is not None})
    recipe = prepared(asked, data or asked.data or default_data(asked)).with_intervals()
    settings.check(recipe)
    with _session(device) as place:
        from saddlepoint import distributed

        begun = distributed.agreed(str(begun_before(out, recipe) or ""))
        if begun:  # by processes of this launch, which torchrun has started again
            return _gone_on(Run(begun), recipe, place, progress, tensorboard, observers)
        training = _training(recipe, place)
        taken = _started_from(training)
        run, problem = None, ""
        path = Path(distributed.agreed(str(run_folder(out, recipe))))
        if distributed.rank() == 0:
            try:
                run = _created(path, recipe, overwrite, training.game, taken)
            except UserError as error:
                problem = str(error)
        if problem := distributed.agreed(problem):  # all processes stop, not only the one that writes
            raise UserError(problem)
        return _fit(run, training, recipe, progress, tensorboard, observers, path)


def resume(
    path: str | Path,
    *,
    kimg: float | None = None,
    device: torch.device | str = "auto",
    progress: bool = True,
    tensorboard: bool = False,
    observers: Sequence[Observer] = (),
) -> Run:
    """Go on with a run from its newest whole checkpoint, bit for bit on the CPU that it was made on.

    kimg: the new *total* length; without it the run goes on to the length it was started with.
    """
    run = Run(path)
    recipe = to_go_on(run, kimg)
    with _session(device) as place:
        return _gone_on(run, recipe, place, progress, tensorboard, observers)


def _gone_on(
    run: Run,
    recipe: Recipe,
    place: torch.device,
    progress: bool,
    tensorboard: bool,
    observers: Sequence[Observer],
) -> Run:
    """Load the newest whole checkpoint and go on; returns at once where there is nothing left to do."""
    from saddlepoint import distributed

    training = _training(recipe, place)
    try:
        _, tensors, values = run.latest()
        training.load(tensors, values)
    except CheckpointError:
        if run.checkpoints():
            raise
        print(f"{run.path} has no checkpoint yet: starting from the beginning.", file=sys.stderr)
        _started_from(training)
    if distributed.restarts()[0] and distributed.rank() == 0:
        print(f"started again: {run.path} goes on from {training.counters.clock / 1000:g} kimg.", file=sys.stderr)
    distributed.barrier()  # a first checkpoint of process 0 must not be what a slower process loads
    if distributed.rank() == 0 and recipe != run.recipe:
        write_json(run.path / "recipe.json", recipes.to_json(recipe))
    return _fit(run, training, recipe, progress, tensorboard, observers, run.path)


def begun_before(out: str | Path | None, recipe: Recipe) -> Path | None:
    """The run that this very launch of torchrun began before one of its processes died; None at its first start."""
    launch = launched()
    if launch is None or launch[1] == 0:
        return None
    if out is not None:
        found = [Path(out)]
    else:
        first = run_folder(None, recipe)
        count = int(first.name.rpartition("-")[2])
        found = [first.with_name(f"{first.name[:-3]}{number:03d}") for number in reversed(range(count))]
    for path in found:
        if (path / "recipe.json").is_file():
            run = Run(path)
            if run.environment.get("launch") == launch[0] and run.recipe == recipe:
                return path
    return None


def to_go_on(run: Run, kimg: float | None = None) -> Recipe:
    """The run's recipe with a new total length (None: as it is). UserError when the run has seen that much already."""
    recipe = run.recipe if kimg is None else dataclasses.replace(run.recipe, kimg=float(kimg))
    launch = launched()
    if launch is not None and launch[1]:
        return recipe  # started again by torchrun: a process may have died when all was done
    clock = run.clock
    if recipe.kimg * 1000 <= clock:
        clock = int(run.latest()[0].name)  # the newest may be damaged: then its part is played again
    if recipe.kimg * 1000 <= clock:
        raise UserError(
            f"{run.path} has seen {clock / 1000:g} kimg already; --kimg is the total length: give more than that."
        )
    return recipe


def default_data(recipe: Recipe) -> str:
    """The embedded default set for recipes that train on images; nothing for games that need no data."""
    if isinstance(recipe, ImageRecipe) and recipe.data_module and recipe.data:
        return recipe.data  # a set with two domains
    return "digits" if isinstance(recipe, ImageRecipe) else ""


# ---- the parts
def _training(recipe: Recipe, device: torch.device) -> Training:
    from saddlepoint import distributed
    from saddlepoint.engine import Training
    from saddlepoint.systems import build

    if recipe.evaluate_every:
        from saddlepoint.metrics import translated

        translated.check(recipe)
    source = _source(recipe)
    made = build(recipe)
    if source is not None and hasattr(made, "meet"):  # a translator keeps held-out examples to show
        made.meet(source)  # type: ignore[operator]  # a method, which nn.Module's stubs do not know
    elif source is not None:  # before the training begins, so that the running average starts there too
        images = source(0, 1000, 0, 1000).get("image")
        if images is not None:
            made.prepare(images)
    if recipe.accumulate > 1 and made.couples and distributed.rank() == 0:
        print(
            f"note: {', '.join(sorted(made.couples))} ties the samples of a batch together, so {recipe.accumulate} "
            f"micro-batches of {recipe.batch // recipe.accumulate} are not quite one batch of {recipe.batch}.",
            file=sys.stderr,
        )
    return Training(made, recipe, source, device=device)


def _started_from(training: Training) -> Transfer | None:
    """The weights of the run that the recipe names put in place, with an account on standard error."""
    if not training.recipe.init_from:
        return None
    from saddlepoint import distributed
    from saddlepoint.transfer import start_from

    taken = start_from(training, training.recipe.init_from)
    if distributed.rank() == 0:
        print("\n".join(taken.lines()), file=sys.stderr)
    return taken


def _source(recipe: Recipe) -> Source | None:
    if not recipe.data:
        return None
    if recipe.data_module:
        source: Source = importlib.import_module(recipe.data_module).source(recipe)
        return source
    from saddlepoint import distributed
    from saddlepoint.data import Stream, open_set

    if not isinstance(recipe, ImageRecipe):
        raise UserError(f"{recipe.system} trains on images only when its recipe does; got data {recipe.data!r}.")
    images = open_set(
        recipe.data,
        resolution=recipe.shape,
        channels=recipe.channels,
        fit=recipe.fit,
        background=recipe.background,
        on_error=recipe.on_error,
        progress=_converting(recipe.data),
    )
    if images.problems and distributed.rank() == 0:
        name, reason = images.problems[0]
        print(f"{recipe.data}: {len(images.problems)} files were left out, first {name}: {reason}", file=sys.stderr)
    return Stream(images, seed=recipe.seed, mirror=recipe.mirror)


def _converting(spec: str) -> Callable[[int, int], None]:
    """A progress line for the first use of a large set, which is converted once and cached."""
    started = time.perf_counter()

    def show(done: int, total: int) -> None:
        seconds = time.perf_counter() - started
        if seconds > 2 and (done == total or done % max(total // 10, 1) == 0):
            left = seconds * (total - done) / done
            print(f"converting {spec}: {done:,} of {total:,} images, {left:.0f} s left", file=sys.stderr)

    return show


def _fit(
    run: Run | None,
    training: Training,
    recipe: Recipe,
    progress: bool,
    tensorboard: bool,
    extra: Sequence[Observer],
    path: Path,
) -> Run:
    from saddlepoint import distributed
    from saddlepoint.engine import NonFiniteError, fit
    from saddlepoint.failures import write_failure
    from saddlepoint.observers import Checkpoints, Log, Progress, Samples, TensorBoard
    from saddlepoint.report import write_report

    distributed.advise(lambda: _how_to_go_on(path))
    goal = round(recipe.kimg * 1000)
    bar = None
    watching: list[Observer] = []
    if run is not None and distributed.rank() == 0:
        bar = Progress(goal, training.counters.clock) if progress else None
        board = TensorBoard(run.path / "tensorboard") if tensorboard else None
        echoes = [item.echo for item in (bar, board) if item is not None]
        checkpoints = Checkpoints(run, recipe.checkpoint_kimg * 1000, recipe.keep_checkpoints)
        samples = Samples(run, recipe.samples_kimg * 1000)
        log = Log(run, recipe.log_kimg * 1000, training, echoes)
        if training.counters.clock == 0:
            samples.write_real(training)
            samples.write(training)
        watching = [log, samples, checkpoints, *([bar] if bar else [])]
    if recipe.evaluate_every:  # on every process: they share the samples
        from saddlepoint.metrics.scoring import Evaluations

        keeper = next((item for item in watching if isinstance(item, Checkpoints)), None)
        watching.append(Evaluations(run if distributed.rank() == 0 else None, path, training, keeper))
    try:
        finished = fit(training, goal, [*watching, *extra])
    except NonFiniteError as error:
        if run is not None and distributed.rank() == 0:
            folder = write_failure(run, training.game, error)
            error.add_note(
                f"The round is saved in {folder}: saddlepoint.load({str(run.path)!r}).failure() brings it back."
            )
            error.add_note(f"The last good checkpoint is {run.clock / 1000:g} kimg.")
            write_report(run)
        distributed.barrier()  # all have it, and process 0 is still writing
        raise
    finally:
        if bar is not None:
            bar.close()
    distributed.barrier()
    if run is not None and distributed.rank() == 0:
        features = bool(getattr(recipe, "features", 0))
        if finished and features:
            from saddlepoint import appearances

            appearances.keep(run, training.device)
        write_report(run)
        if not finished:
            print(
                f"stopped at {run.clock / 1000:g} kimg. Go on with: saddlepoint resume {shlex.quote(str(run.path))}",
                file=sys.stderr,
            )
    return Run(path)


def _how_to_go_on(path: Path) -> str:
    """The end of the message of a death: what is lost, and how the run goes on."""
    from saddlepoint import distributed

    saved = Run(path).clock if (path / "recipe.json").is_file() else 0
    kept = f"All up to the checkpoint at {saved / 1000:g} kimg is kept" if saved else "There was no checkpoint yet"
    done, allowed = distributed.restarts()
    if done < allowed:
        return f"{kept}; torchrun starts all again (restart {done + 1} of {allowed}) and the run goes on from there."
    words = f"torchrun --standalone --nproc-per-node {distributed.world_size()} -m saddlepoint resume"
    return f"{kept}. Go on with: {words} {shlex.quote(str(path))}"


def run_folder(out: str | Path | None, recipe: Recipe) -> Path:
    """The run folder: as given, or the first free runs/SYSTEM-DATA-N."""
    if out is not None:
        return Path(out)
    stem = "-".join(filter(None, [recipe.system, Path(recipe.data).stem.translate(str.maketrans(":", "-", "{}"))]))
    number = 0
    while (path := Path("runs") / f"{stem}-{number:03d}").exists():
        number += 1
    return path


def _created(path: Path, recipe: Recipe, overwrite: bool, game: Game, taken: Transfer | None) -> Run:
    command = (
        shlex.join(["saddlepoint", *sys.argv[1:]]) if Path(sys.argv[0]).stem in ("saddlepoint", "__main__") else ""
    )
    weights = {player.name: sum(p.numel() for p in player.parameters) for player in game.players}
    run = create(path, recipe, overwrite=overwrite, command=command, weights=weights)
    if taken is not None:
        write_json(run.path / "environment.json", {**run.environment, "init_from": taken.record()})
    return Run(run.path)


@contextmanager
def _session(device: torch.device | str) -> Iterator[torch.device]:
    """Choose the device and join the processes that torchrun started; leave them at the end."""
    from saddlepoint import distributed

    with distributed.session(choose_device(device)) as place:
        yield place


def choose_device(device: torch.device | str = "auto") -> torch.device:
    """cuda, then mps, then cpu for "auto"; an unavailable device is an error that names the available ones."""
    import torch

    available = ["cpu"]
    if torch.cuda.is_available():
        available.append("cuda")
    if torch.backends.mps.is_available():
        available.append("mps")
    if str(device) == "auto":
        return torch.device(next(d for d in ("cuda", "mps", "cpu") if d in available))
    try:
        place = torch.device(device)
    except RuntimeError:
        raise unknown("device", str(device), ["auto", *available]) from None
    if place.type not in (*available, "meta"):
        raise UserError(f"device {str(device)!r} is not available here; available: {', '.join(available)}.")
    return place
