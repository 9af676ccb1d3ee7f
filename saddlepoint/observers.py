"""What watches a training: log.jsonl, the progress line, sample grids, checkpoints, TensorBoard.

They see the training after every round and never change it; only process 0 has observers that write.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from saddlepoint import pictures
from saddlepoint.engine import Training, due
from saddlepoint.errors import UserError
from saddlepoint.operators import Report
from saddlepoint.runs import Run, save_checkpoint, write_bytes

POINTS = 2000  # in a picture of points


class Means:
    """Running means of terms and notes, kept as tensors so that no round waits for the device."""

    def __init__(self) -> None:
        self.sums: dict[str, Tensor] = {}
        self.counts: dict[str, int] = {}

    def add(self, training: Training, report: Report) -> None:
        values = {f"{player}/{name}": term for player, terms in report.items() for name, term in terms.items()}
        values |= {name: torch.stack(found).mean() for name, found in training.table.notes.items()}
        for name, value in values.items():
            self.sums[name] = self.sums[name] + value.detach() if name in self.sums else value.detach().clone()
            self.counts[name] = self.counts.get(name, 0) + 1

    def take(self) -> dict[str, float]:
        """The means since the last call."""
        means = {name: float(total) / self.counts[name] for name, total in self.sums.items()}
        self.sums, self.counts = {}, {}
        return means


class Log:
    """A line in log.jsonl every `every` images: clock, step, seconds, CPU seconds, images per second, means of terms.

    On resume the lines after the checkpoint are dropped (they will be written again) and the seconds go on.
    """

    def __init__(
        self, run: Run, every: float, training: Training, echoes: Sequence[Callable[[dict[str, Any]], None]] = ()
    ):
        self.path, self.every, self.echoes = run.path / "log.jsonl", every, echoes
        clock = training.counters.clock
        lines = [line for line in run.log() if line["clock"] <= clock]
        self.before = float(lines[-1]["seconds"]) if lines else 0.0
        self.cpu_before = (float(lines[-1]["cpu_seconds"]) if lines else 0.0) - time.process_time()
        if self.path.exists():
            write_bytes(self.path, "".join(json.dumps(line) + "\n" for line in lines).encode())
        self.means = Means()
        self.started = self.last_time = time.perf_counter()
        self.last_clock = self.seen = clock

    def __call__(self, training: Training, report: Report) -> None:
        self.means.add(training, report)
        clock = training.counters.clock
        if due(clock, clock - self.seen, self.every):
            self.write(training)
        self.seen = clock

    def write(self, training: Training) -> None:
        now, clock = time.perf_counter(), training.counters.clock
        line = {
            "clock": clock,
            "kimg": round(clock / 1000, 6),
            "step": training.counters.step,
            "seconds": round(self.before + now - self.started, 3),
            "cpu_seconds": round(self.cpu_before + time.process_time(), 2),
            "images_per_second": round((clock - self.last_clock) / max(now - self.last_time, 1e-9), 2),
            **{name: float(f"{value:.6g}") for name, value in self.means.take().items()},
        }
        self.last_time, self.last_clock = now, clock
        try:
            with self.path.open("a") as file:
                file.write(json.dumps(line) + "\n")
        except OSError as error:
            raise UserError(f"cannot write {self.path}: {error.strerror or error}.") from error
        for echo in self.echoes:
            echo(line)

    def finish(self, training: Training) -> None:
        if self.means.counts:
            self.write(training)


class Samples:
    """A picture of samples on fixed seeds every `every` images: samples/CLOCK.png, averaged weights."""

    def __init__(self, run: Run, every: float, count: int = 64, cell: int = 64) -> None:
        self.run, self.every, self.count, self.cell = run, every, count, cell
        self.seen = -1

    def __call__(self, training: Training, report: Report) -> None:
        clock = training.counters.clock
        if self.seen >= 0 and due(clock, clock - self.seen, self.every):
            self.write(training)
        self.seen = clock

    def write(self, training: Training) -> None:
        clock = training.counters.clock
        path = self.run.path / "samples" / f"{clock:012d}.png"
        show = getattr(training.average.game(), "show", None)
        if show is not None:  # a translator's pictures: input, output, truth
            images, columns = show()
            notes = {"saddlepoint": json.dumps({"run": self.run.path.name, "clock": clock})}
            pictures.save(images, path, columns=columns, cell=self.cell, notes=notes)
            return
        real = self._real(training)
        points = real is not None and real.ndim == 2  # a cloud of them, with the data's behind it
        count = len(real) if real is not None and points else self.count
        samples = training.average.game().sample(count, seed=0)
        notes = {"saddlepoint": json.dumps({"run": self.run.path.name, "clock": clock, "seed": 0, "n": count})}
        pictures.save(samples, path, cell=self.cell, notes=notes, behind=real if points else None)

    def write_real(self, training: Training) -> None:
        """samples/real.png: the first images that the training will see, to hold the samples against."""
        real = self._real(training)
        if real is not None:
            pictures.save(real, self.run.path / "samples" / "real.png", cell=self.cell)

    def _real(self, training: Training) -> Tensor | None:
        """The first examples: as many as samples are shown, or POINTS where they are points."""
        if training.source is None:
            return None
        batch = training.source(0, self.count, 0, self.count)
        real = next(part for part in batch.values() if part.ndim != 3)  # no map of classes or objects
        return real if real.ndim > 2 else next(iter(training.source(0, POINTS, 0, POINTS).values()))

    def finish(self, training: Training) -> None:
        if not (self.run.path / "samples" / f"{training.counters.clock:012d}.png").exists():
            self.write(training)


class Checkpoints:
    """A checkpoint every `every` images, and at the end; the last `keep` stay, and the best where there are scores."""

    def __init__(self, run: Run, every: float, keep: int) -> None:
        self.run, self.every, self.keep = run, every, max(1, keep)
        self.seen = self.written = -1

    def __call__(self, training: Training, report: Report) -> None:
        clock = training.counters.clock
        if self.seen >= 0 and due(clock, clock - self.seen, self.every):
            self.write(training)
        self.seen = clock

    def write(self, training: Training) -> None:
        training.average.game()  # brings the averaged buffers (batch statistics) up to date
        self.written = training.counters.clock
        save_checkpoint(self.run.path / "checkpoints" / f"{self.written:012d}", *training.state())
        for folder in self.run.checkpoints():
            if int(folder.name) > self.written:  # damaged, or this resume would have begun with it
                shutil.rmtree(folder, ignore_errors=True)
        self.prune()
        for leftover in (self.run.path / "checkpoints").glob(".*.tmp"):  # of a process that was killed while writing
            if f".{os.getpid()}." not in leftover.name:
                shutil.rmtree(leftover, ignore_errors=True)

    def prune(self) -> None:
        """Remove all but the latest `keep` and the best."""
        best = self.run.best()
        for folder in self.run.checkpoints()[: -self.keep]:
            if folder != best:
                shutil.rmtree(folder, ignore_errors=True)

    def finish(self, training: Training) -> None:
        if self.written != training.counters.clock:
            self.write(training)


class TensorBoard:
    """The log's lines as TensorBoard scalars under RUN/tensorboard (optional extra `log`)."""

    def __init__(self, folder: Path) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise UserError("TensorBoard is not installed: pip install 'saddlepoint[log]'.") from error
        self.writer = SummaryWriter(str(folder))

    def echo(self, line: dict[str, Any]) -> None:
        for name, value in line.items():
            if name not in ("clock", "kimg", "step", "seconds", "cpu_seconds"):
                self.writer.add_scalar(name, value, line["clock"])
        self.writer.flush()


class Progress:
    """One live line: kimg, images per second, time left, loss terms. Without a terminal: a plain line every tenth."""

    def __init__(self, goal: int, start: int) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
        from rich.progress import Progress as Bar

        self.goal, self.start, self.seen = goal, start, start
        console = Console(stderr=True)
        self.live = console.is_terminal
        self.terms = ""
        self.speed = 0.0
        self.bar = Bar(
            TextColumn("{task.fields[kimg]}"),
            BarColumn(bar_width=24),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            TextColumn("{task.fields[terms]}"),
            console=console,
            disable=not self.live,
        )
        self.task = self.bar.add_task("", total=goal - start, kimg="", terms="")
        if self.live:
            self.bar.start()
        self.last = time.perf_counter()

    def echo(self, line: dict[str, Any]) -> None:
        """A new line of the log: show its terms."""
        self.speed = line["images_per_second"]
        terms = {k: v for k, v in line.items() if "/" in k}
        self.terms = "  ".join([f"{self.speed:,.0f} img/s", *(f"{k} {v:.3g}" for k, v in terms.items())])
        if not self.live and due(line["clock"], line["clock"] - self.seen, max(self.goal / 10, 1)):
            left = max(0, self.goal - line["clock"]) / max(self.speed, 1e-9)
            print(f"{line['kimg']:9.1f} kimg  {self.terms}  {left:,.0f} s left", file=sys.stderr, flush=True)
        if not self.live:
            self.seen = line["clock"]

    def __call__(self, training: Training, report: Report) -> None:
        if not self.live or time.perf_counter() - self.last < 0.2:
            return
        self.last = time.perf_counter()
        clock = training.counters.clock
        kimg = f"{clock / 1000:,.1f}/{self.goal / 1000:,.1f} kimg"
        self.bar.update(self.task, completed=clock - self.start, kimg=kimg, terms=self.terms)

    def finish(self, training: Training) -> None:
        self.close()

    def close(self) -> None:
        """Give the terminal back."""
        if self.live:
            self.bar.stop()
