"""Run folders: what a training leaves behind, and what it goes on from.

    runs/NAME/
      recipe.json         every setting                     environment.json   versions, threads, machine, command
      log.jsonl           one line a tick: the record       samples/*.png      grids on fixed seeds
      scores.jsonl        what was measured on the way      best.json          which checkpoint scored best
      evaluations.jsonl   what `saddlepoint evaluate` found
      checkpoints/CLOCK/  state.json and safetensors        report.html        everything at a glance, self-contained

A checkpoint is safetensors plus JSON, no pickle. It is written under a temporary name, flushed to the disk and renamed,
so a folder under checkpoints/ is whole or it is not there; its checksums tell if the disk disagreed later.
"""

from __future__ import annotations

import hashlib
import inspect
import json
import os
import platform
import shutil
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from saddlepoint import recipes
from saddlepoint.errors import UserError, nearest, unknown
from saddlepoint.recipes.base import Recipe

if TYPE_CHECKING:
    from torch import Tensor

    from saddlepoint.game import Game, Round

FORMAT = 1
GROUPS = ("game", "average", "optimizer", "memory")


class CheckpointError(UserError):
    """A checkpoint that cannot be read. The message names the file and what is wrong with it."""


# ---- writing without leaving anything half-written
@contextmanager
def _explained(path: Path) -> Iterator[None]:
    """Turn the disk's errors into one sentence."""
    try:
        yield
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror or error}. What was there before is intact.") from error


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file whole or not at all: temporary name, flush, rename."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with _explained(path):
        try:
            with temporary.open("wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)


def write_json(path: Path, values: Any) -> None:
    write_bytes(path, (json.dumps(values, indent=2, ensure_ascii=False) + "\n").encode())


def _sync(folder: Path) -> None:
    """Make a rename inside this folder survive a power cut (not every file system lets a folder be opened)."""
    if os.name == "posix":
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


# ---- checkpoints
def save_checkpoint(folder: Path, tensors: Mapping[str, Tensor], values: Mapping[str, Any]) -> Path:
    """Write `folder` (a path under checkpoints/) with one safetensors file per group and state.json."""
    from safetensors.torch import save

    temporary = folder.with_name(f".{folder.name}.{os.getpid()}.tmp")
    with _explained(folder):
        try:
            temporary.mkdir(parents=True)
            files = {}
            for group in GROUPS:
                part = {k.partition("/")[2]: v for k, v in tensors.items() if k.startswith(group + "/")}
                if part:
                    content = save({k: v.detach().cpu().contiguous().clone() for k, v in part.items()})
                    write_bytes(temporary / f"{group}.safetensors", content)
                    files[f"{group}.safetensors"] = hashlib.blake2b(content, digest_size=16).hexdigest()
            write_json(temporary / "state.json", {"format": FORMAT, "files": files, **values})
            _sync(temporary)
            if folder.exists():
                shutil.rmtree(folder)
            temporary.replace(folder)
            _sync(folder.parent)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
    return folder


def read_checkpoint(folder: Path, groups: tuple[str, ...] = GROUPS) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors ("group/name") and values of a checkpoint, its checksums verified."""
    from safetensors import SafetensorError
    from safetensors.torch import load

    try:
        values = json.loads((folder / "state.json").read_text())
        files = values.pop("files")
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"checkpoint {folder} has no readable state.json ({error}).") from error
    if values.pop("format", None) != FORMAT:
        raise CheckpointError(f"checkpoint {folder} is of another format than {FORMAT}.")
    tensors: dict[str, Tensor] = {}
    for name, digest in files.items():
        group = name.removesuffix(".safetensors")
        if group not in groups:
            continue
        try:
            content = (folder / name).read_bytes()
        except OSError as error:
            raise CheckpointError(f"checkpoint {folder} lacks {name} ({error.strerror}).") from error
        if hashlib.blake2b(content, digest_size=16).hexdigest() != digest:
            raise CheckpointError(f"{folder / name} is damaged: its checksum does not match ({len(content):,} bytes).")
        try:
            tensors |= {f"{group}/{k}": v for k, v in load(content).items()}
        except SafetensorError as error:
            raise CheckpointError(f"{folder / name} is not a safetensors file ({error}).") from error
    return tensors, values


# ---- a run
class Run:
    """A run folder: `.recipe`, `.sample(n, seed)`, `.game`, `.log()`, `.checkpoints()`."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        if not (self.path / "recipe.json").is_file():
            raise _no_run(self.path)

    def __repr__(self) -> str:
        return f"Run({str(self.path)!r}, {self.recipe.system}, {self.clock / 1000:g} kimg)"

    @cached_property
    def recipe(self) -> Recipe:
        return recipes.from_json(json.loads((self.path / "recipe.json").read_text()))

    @cached_property
    def environment(self) -> dict[str, Any]:
        file = self.path / "environment.json"
        return json.loads(file.read_text()) if file.exists() else {}

    def log(self) -> list[dict[str, Any]]:
        """The lines of log.jsonl; a line cut off by a power cut is passed over."""
        return _lines(self.path / "log.jsonl")

    def checkpoints(self) -> list[Path]:
        """Checkpoint folders, oldest first."""
        folder = self.path / "checkpoints"
        return sorted(p for p in folder.iterdir() if p.name.isdigit()) if folder.is_dir() else []

    def scores(self) -> list[dict[str, Any]]:
        """The lines of scores.jsonl: what was measured in training (`--evaluate-every`)."""
        return _lines(self.path / "scores.jsonl")

    def evaluations(self) -> list[dict[str, Any]]:
        """What `saddlepoint evaluate` found, in the order in which it was asked."""
        return _lines(self.path / "evaluations.jsonl")

    def best(self) -> Path | None:
        """The checkpoint with the best score so far, or None where nothing was scored."""
        try:
            clock = json.loads((self.path / "best.json").read_text())["clock"]
        except (OSError, ValueError, KeyError, TypeError):
            return None
        folder = self.path / "checkpoints" / f"{int(clock):012d}"
        return folder if folder.is_dir() else None

    def checkpoint(self, wanted: str = "") -> Path | None:
        """The checkpoint folder that a user means by kimg, folder name, path or "best"; None for the newest."""
        if not wanted:
            return None
        if wanted == "best":
            best = self.best()
            if best is None:
                raise UserError(f"{self.path} has no best checkpoint: it was trained without --evaluate-every.")
            return best
        found = {f"{int(folder.name) / 1000:g}": folder for folder in self.checkpoints()}
        for kimg, folder in found.items():
            if wanted in (kimg, folder.name) or Path(wanted).absolute() == folder.absolute():
                return folder
        if not found:
            raise UserError(f"{self.path} has no checkpoint yet.")
        try:
            near = min(found, key=lambda kimg: abs(float(kimg) - float(wanted)))
        except ValueError:
            near = nearest(wanted, found) or list(found)[-1]
        raise UserError(
            f"{self.path} has no checkpoint {wanted!r}; did you mean {near!r}? There are (in kimg): {', '.join(found)}."
        )

    @property
    def clock(self) -> int:
        """Images seen at the latest checkpoint."""
        found = self.checkpoints()
        return int(found[-1].name) if found else 0

    def latest(self, groups: tuple[str, ...] = GROUPS) -> tuple[Path, dict[str, Tensor], dict[str, Any]]:
        """The newest checkpoint that is whole. A damaged one is named on standard error and passed over."""
        errors = []
        for folder in reversed(self.checkpoints()):
            try:
                return folder, *read_checkpoint(folder, groups)
            except CheckpointError as error:
                print(f"passing over a checkpoint: {error}", file=sys.stderr)
                errors.append(str(error))
        raise CheckpointError(f"{self.path} has no whole checkpoint. " + " ".join(errors))

    @cached_property
    def game(self) -> Game:
        """The game of the newest whole checkpoint with its averaged weights, in evaluation mode."""
        return self.game_at(None)

    def game_at(self, checkpoint: Path | None, *, averaged: bool = True) -> Game:
        """The averaged game of one checkpoint (None: the newest whole one). averaged=False: the live weights, which
        training goes on from and which a spectrum is about.
        """
        from saddlepoint.average import load_averaged, restore
        from saddlepoint.systems import build

        groups = ("game", "average")
        found = self.latest(groups) if checkpoint is None else (checkpoint, *read_checkpoint(checkpoint, groups))
        folder, tensors, _ = found
        game = build(self.recipe)
        restore(game, {k.removeprefix("game/"): v for k, v in tensors.items() if k.startswith("game/")})
        if averaged:
            load_averaged(game, {k.removeprefix("average/"): v for k, v in tensors.items() if k.startswith("average/")})
        if getattr(self.recipe, "features", 0):
            from saddlepoint.appearances import attach

            attach(game, self, folder, make=False)
        return game.eval()

    def sample(self, n: int, seed: int = 0, **controls: Any) -> Tensor:
        """n samples, a pure function of the checkpoint and the seed. Images: float in [-1, 1], [n, C, H, W]."""
        known = [name for name in inspect.signature(self.game.sample).parameters if name not in ("n", "seed")]
        for name in controls:
            if name not in known:
                raise unknown(f"control of {self.recipe.system}'s samples", name, known)
        return self.game.sample(n, seed, **controls)

    def failure(self) -> tuple[Game, str, Round]:
        """The round that was not finite: (game, player, round), so that game.loss(player, round) shows it again."""
        from saddlepoint.failures import read_failure

        return read_failure(self)


def _lines(file: Path) -> list[dict[str, Any]]:
    lines = []
    for line in file.read_text().splitlines() if file.exists() else []:
        try:
            lines.append(json.loads(line))
        except json.JSONDecodeError:
            continue
    return lines


def _no_run(path: Path) -> UserError:
    if not path.exists():
        siblings = [p.name for p in path.parent.iterdir()] if path.parent.is_dir() else []
        near = nearest(path.name, siblings)
        hint = f" Did you mean {path.parent / near}?" if near else ""
        return UserError(f"there is no run at {path}.{hint}")
    return UserError(f"{path} is not a run folder: it has no recipe.json.")


def source_of(place: str | Path) -> tuple[Run, Path | None]:
    """The run, and the checkpoint in it if one was named: RUN or RUN/checkpoints/CLOCK. UserError if not there."""
    path = Path(place)
    if path.parent.name != "checkpoints":
        return Run(path), None
    run = Run(path.parent.parent)
    if path not in run.checkpoints():
        found = ", ".join(folder.name for folder in run.checkpoints()) or "none"
        raise UserError(f"there is no checkpoint at {path}; there are: {found}.")
    return run, path


def refuse_occupied(path: Path, *, overwrite: bool = False) -> None:
    """UserError if no new run may be made here: there is one to be kept, a file, or a folder with something else."""
    if path.exists() and not path.is_dir():
        raise UserError(f"cannot make a run at {path}: a file of that name is there.")
    if (path / "recipe.json").exists():
        if not overwrite:
            raise UserError(
                f"{path} holds a run already: go on with `saddlepoint resume {path}`, choose another --out, "
                "or replace it with --overwrite."
            )
    elif path.is_dir() and not _barely_begun(path):
        raise UserError(f"{path} is not empty and not a run: choose another --out.")


def _barely_begun(path: Path) -> bool:
    """Is a folder empty, or left by a process that died while it made a run there (recipe.json comes last)?"""
    names = {p.name for p in path.iterdir() if not (p.name.startswith(".") and p.name.endswith(".tmp"))}
    inside = [p for name in ("samples", "checkpoints") if (path / name).is_dir() for p in (path / name).iterdir()]
    return not names or (names == {"environment.json", "samples", "checkpoints"} and not inside)


def launched() -> tuple[str, int] | None:
    """(id of the launch, how often its processes have been started again) under torchrun; None without it."""
    name = os.environ.get("TORCHELASTIC_RUN_ID")
    return None if name is None else (name, int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")))


def create(
    path: str | Path,
    recipe: Recipe,
    *,
    overwrite: bool = False,
    command: str = "",
    weights: Mapping[str, int] | None = None,
) -> Run:
    """A new run folder. An existing run is kept unless `overwrite`; anything else in the way is never removed.

    command, weights (player -> number of them): for the reader, in environment.json.
    """
    path = Path(path)
    refuse_occupied(path, overwrite=overwrite)
    if (path / "recipe.json").exists():
        for name in ("checkpoints", "samples", "failure", "analysis"):
            shutil.rmtree(path / name, ignore_errors=True)
        for name in (
            "log.jsonl",
            "scores.jsonl",
            "best.json",
            "evaluations.jsonl",
            "report.html",
            "recipe.json",
            "environment.json",
        ):
            (path / name).unlink(missing_ok=True)
    with _explained(path):
        (path / "samples").mkdir(parents=True, exist_ok=True)
        (path / "checkpoints").mkdir(exist_ok=True)
    write_json(path / "environment.json", {**environment(command), "weights": dict(weights or {})})
    write_json(path / "recipe.json", recipes.to_json(recipe))
    return Run(path)


def environment(command: str = "") -> dict[str, Any]:
    """What a reader needs to know about where a run was made."""
    import numpy
    import torch

    import saddlepoint

    return {
        "saddlepoint": saddlepoint.__version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": numpy.__version__,
        "platform": platform.platform(),
        "processor": torch.backends.cpu.get_cpu_capability(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "cuda": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "processes": int(os.environ.get("WORLD_SIZE", "1")),
        "launch": (launched() or ("",))[0],
        "command": command,
    }
