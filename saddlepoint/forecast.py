"""How long a run will take, how much memory and disk: a few of its rounds are played before it starts.

lazies, kinds, stretches   which rounds differ in cost, and how often each kind comes: arithmetic on the recipe
measure                    plays a warm-up and a few timed rounds of every kind, on the device, at the real shapes
forecast                   measure in a process of its own, so that its peak memory is that of a training, a round
                           that never ends can be stopped, and nothing is written to any run folder
"""

from __future__ import annotations

import dataclasses
import json
import math
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from saddlepoint.errors import UserError
from saddlepoint.recipes.base import Recipe

if TYPE_CHECKING:
    from saddlepoint.engine import Training
    from saddlepoint.game import Stage

ROUNDS = 3  # timed, of each kind
START = 120.0  # seconds that loading torch and the data may take before they count as stuck
POINTS = 256  # moments of the schedule that are looked at


@dataclass(frozen=True)
class Stretch:
    """A part of the run with one batch and one resolution: a moment in its middle, and its share of all images."""

    clock: int
    share: float
    batch: int
    resolution: int


@dataclass(frozen=True)
class Timing:
    """One kind of round in one stretch: median seconds, images it shows, its share of the stretch's rounds."""

    stretch: int
    share: float
    seconds: float
    images: int
    rounds: int


@dataclass(frozen=True)
class Forecast:
    """seconds: all rounds of the run; grids: seconds for its pictures of samples. complete: every kind of round was
    timed, else the time is that of the part which was. bytes: peak memory, one checkpoint.
    """

    device: str
    threads: int
    images_per_second: float
    seconds: float
    grids: float
    peak_bytes: int
    checkpoint_bytes: int
    rounds: int
    kinds: int
    complete: bool


# ---- what there is to time
def lazies(recipe: Recipe) -> tuple[int, ...]:
    """Periods of the terms that are evaluated every so many rounds."""
    found = {
        value
        for field in dataclasses.fields(recipe)
        if field.name.endswith("_every") and isinstance(value := getattr(recipe, field.name), int) and value > 1
    }
    return tuple(sorted(found))


def kinds(periods: tuple[int, ...]) -> list[tuple[int, float]]:
    """[(a step of this kind, its share of all rounds)]: rounds in which the same lazy terms are due cost the same."""
    whole = math.lcm(*periods) if periods else 1
    steps: dict[tuple[bool, ...], list[int]] = {}
    for step in range(whole):
        steps.setdefault(tuple(step % p == 0 for p in periods), []).append(step)
    return [(found[0], len(found) / whole) for found in steps.values()]


def stretches(stage: Callable[[int], Stage], recipe: Recipe) -> list[Stretch]:
    """The parts of the schedule that differ in batch or resolution, those with most images first."""
    goal = round(recipe.kimg * 1000)
    clocks: dict[tuple[int, int], list[int]] = {}
    for i in range(POINTS):
        clock = int((i + 0.5) * goal / POINTS)
        now = stage(clock)
        key = (now.batch or recipe.batch, now.resolution or int(getattr(recipe, "resolution", 0)))
        clocks.setdefault(key, []).append(clock)
    found = [Stretch(c[len(c) // 2], len(c) / POINTS, *key) for key, c in clocks.items()]
    return sorted(found, key=lambda s: (-s.share, -s.resolution))


# ---- timing
def measure(
    training: Training,
    budget: float,
    *,
    now: Callable[[], float] = time.perf_counter,
    wait: Callable[[], None] = lambda: None,
    rounds: int = ROUNDS,
) -> Iterator[Timing]:
    """Play each stretch's rounds of all kinds in turn, up to `rounds` times, until `budget` seconds are over.

    Before, one round in which everything is due warms up: it allocates and fills the caches. Whatever was begun gets
    one timed round of each kind. wait: returns when the device has done what it was given.
    """
    started = now()
    chosen = kinds(lazies(training.recipe))
    counters = training.counters

    def play(clock: int, step: int) -> tuple[float, int]:
        counters.clock, counters.step = clock, step
        before = now()
        training.play()
        wait()
        return now() - before, counters.clock - clock

    for place, stretch in enumerate(stretches(training.game.stage, training.recipe)):
        if place and now() - started > budget:
            return
        play(stretch.clock, 0)
        took: dict[int, list[tuple[float, int]]] = {step: [] for step, _ in chosen}
        for attempt in range(rounds):
            if attempt and now() - started > budget:
                break
            for step in took:
                took[step].append(play(stretch.clock, step))
        for step, share in chosen:
            seconds, images = zip(*took[step], strict=True)
            yield Timing(place, share, statistics.median(seconds), images[0], len(seconds))


def total(timings: list[Timing], parts: list[Stretch], goal: int, count: int) -> tuple[float, bool]:
    """(seconds for `goal` images, whether all `count` kinds of all stretches were timed).

    Of a stretch: its kinds' mean seconds over their mean images, each by its share. A stretch that was not timed counts
    like the mean of those that were.
    """
    paces = []
    for place, stretch in enumerate(parts):
        found = [t for t in timings if t.stretch == place]
        images = sum(t.share * t.images for t in found)
        if images:
            paces.append((stretch.share, sum(t.share * t.seconds for t in found) / images))
    known = sum(share for share, _ in paces)
    pace = sum(share * each for share, each in paces) / known
    return goal * pace, len(timings) == count * len(parts)


def played(recipe: Recipe, device: str, budget: float) -> Forecast:
    """The forecast, measured in this process."""
    import torch

    from saddlepoint import api

    place = api.choose_device(device)
    cuda = place.type == "cuda"
    training = api._training(recipe, place)
    wait = torch.cuda.synchronize if cuda else lambda: None
    _tell({"ready": True})
    found: list[Timing] = []
    for timing in measure(training, budget, wait=wait):
        found.append(timing)
        _tell({"rounds": sum(t.rounds for t in found)})
    parts, goal = stretches(training.game.stage, recipe), round(recipe.kimg * 1000)
    seconds, complete = total(found, parts, goal, len(kinds(lazies(recipe))))
    before = time.perf_counter()
    with torch.no_grad():
        training.average.game().sample(64, seed=0)
    wait()
    grid = (time.perf_counter() - before) * (1 + recipe.kimg / recipe.samples_kimg)
    size = sum(t.numel() * t.element_size() for t in training.state()[0].values())
    peak = torch.cuda.max_memory_reserved() if cuda else peak_memory()
    return Forecast(
        str(place), torch.get_num_threads(), goal / seconds, seconds, grid, peak, size,
        sum(t.rounds for t in found), len(found), complete,
    )  # fmt: skip


def peak_memory() -> int:
    """The most bytes of memory that this process has held; what its parent held does not count."""
    try:
        status = Path("/proc/self/status").read_text()
        return int(next(line for line in status.splitlines() if line.startswith("VmHWM")).split()[1]) * 1024
    except (OSError, StopIteration):
        import resource

        most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return most if sys.platform == "darwin" else most * 1024


# ---- in a process of its own
def forecast(recipe: Recipe, device: str = "auto", budget: float = 30.0) -> Forecast | str:
    """The forecast of a recipe whose data are resolved, or why there is none, in a sentence.

    budget: seconds to play for; a round that is not over after twice that is stopped.
    """
    from saddlepoint import recipes

    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        return "Not measured: with several processes, ask in one and divide."
    asked = json.dumps({"recipe": recipes.to_json(recipe), "device": device, "budget": budget})
    command = [sys.executable, "-m", "saddlepoint.forecast"]
    child = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        out, errors = child.communicate(asked, timeout=START + 2 * budget)
    except subprocess.TimeoutExpired:
        child.kill()
        out, errors = child.communicate()
        return _stopped(out, recipe, budget)
    said = _said(out)
    if "forecast" in said:
        return Forecast(**said["forecast"])
    if "error" in said:
        return f"Not measured: {said['error']}"
    if child.returncode < 0:
        return f"Not measured: the process was killed by signal {-child.returncode}; 9 says that memory ran out."
    last = errors.strip().splitlines()[-1:] or [f"exit status {child.returncode}"]
    return f"Not measured: {last[0]}"


def _said(out: str) -> dict[str, Any]:
    """All that the process has told."""
    found: dict[str, Any] = {}
    for line in out.splitlines():
        try:
            values = json.loads(line)
        except ValueError:
            continue
        if isinstance(values, Mapping):
            found |= values
    return found


def _stopped(out: str, recipe: Recipe, budget: float) -> str:
    said = _said(out)
    if not said.get("ready"):
        return f"Not measured: torch and the data were not ready after {START + 2 * budget:.0f} s."
    if said.get("rounds"):
        return f"Not measured: another kind of round was not over after {2 * budget:.0f} s."
    hours = recipe.kimg * 1000 / recipe.batch * 2 * budget / 3600
    return (
        f"Measured: not one round was over after {2 * budget:.0f} s. At that pace {recipe.kimg:g} kimg take more than "
        f"{hours:,.0f} h; the memory was not measured."
    )


def _tell(values: Mapping[str, Any]) -> None:
    print(json.dumps(values), flush=True)


def main() -> int:
    """A recipe in JSON on standard input; what was measured, line by line, on standard output."""
    from saddlepoint import recipes

    asked = json.loads(sys.stdin.read())
    recipe = recipes.from_json(asked["recipe"])
    try:
        _tell({"forecast": dataclasses.asdict(played(recipe, asked["device"], asked["budget"]))})
    except UserError as error:
        _tell({"error": str(error)})
    except (MemoryError, RuntimeError) as error:
        if "memory" not in str(error).lower():
            raise
        _tell({"error": f"memory ran out: {str(error).splitlines()[0]}"})
    return 0


# ---- for people
def size(count: float) -> str:
    """12.3 MB, 4.56 GB."""
    return f"{count / 1e9:.3g} GB" if count >= 1e9 else f"{count / 1e6:.3g} MB"


def span(seconds: float) -> str:
    """12 s, 5 min, 2 h 10 min, 3 days 4 h."""
    minutes = round(seconds / 60)
    if seconds < 90:
        return f"{seconds:.0f} s"
    if minutes < 60:
        return f"{minutes} min"
    if minutes < 48 * 60:
        return f"{minutes // 60} h {minutes % 60} min"
    return f"{minutes // 1440} days {minutes // 60 % 24} h"


def rows(found: Forecast, recipe: Recipe) -> list[list[str]]:
    """(heading, text) for the command."""
    whose = "of this process" if found.device == "cpu" else f"of {found.device}"
    kept = recipe.keep_checkpoints + bool(recipe.evaluate_every)
    rest = "" if found.complete else "; the time for measuring was over before all stages were timed"
    scores = "; scores in training (--evaluate-every) come on top" if recipe.evaluate_every else ""
    threads = f" with {found.threads} thread{'' if found.threads == 1 else 's'}" if found.device == "cpu" else ""
    how = f"{found.rounds} rounds, kinds of different cost apart, after a warm-up, on {found.device}{threads}, just now"
    return [
        ["measured", how + rest],
        ["speed", f"{found.images_per_second:,.3g} images/s, lazy terms and stages by their share"],
        ["time", f"{span(found.seconds + found.grids)} for {recipe.kimg:g} kimg{scores}"],
        ["memory", f"{size(found.peak_bytes)} at the peak {whose}"],
        [
            "disk",
            f"{size(kept * found.checkpoint_bytes)}: {kept} checkpoints of {size(found.checkpoint_bytes)} are kept",
        ],
    ]


if __name__ == "__main__":
    sys.exit(main())
