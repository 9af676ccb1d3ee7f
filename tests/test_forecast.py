"""What a run will take: the arithmetic on a made-up clock, and a measurement of a real recipe that writes nothing."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

import saddlepoint as sp
from saddlepoint import api, forecast, recipes
from saddlepoint.cli import main
from saddlepoint.engine import Counters
from saddlepoint.forecast import Stretch, Timing, kinds, lazies, measure, played, stretches, total
from saddlepoint.game import Stage

SMALL = {"width": 8, "latent": 4, "batch": 16, "resolution": 8, "precision": "fp32", "channels_last": False}


def test_lazy_terms_by_their_share() -> None:
    assert lazies(recipes.recipe("dcgan")) == ()
    assert lazies(recipes.recipe("stylegan2", "tiny", path_every=4, r1_every=16)) == (4, 16)
    assert lazies(recipes.recipe("stylegan2", "tiny", path_every=4, r1_every=0)) == (4,)  # 0: in every round
    assert kinds(()) == [(0, 1.0)]
    assert kinds((4, 16)) == [(0, 1 / 16), (1, 12 / 16), (4, 3 / 16)]
    assert kinds((3, 4)) == [(0, 1 / 12), (1, 6 / 12), (3, 3 / 12), (4, 2 / 12)]


@dataclass
class Played:
    """A training whose rounds take as long as they are said to, on a clock of its own."""

    recipe: Any
    cost: Callable[[int, int], float]
    stage: Callable[[int], Stage] = lambda clock: Stage()
    counters: Counters = field(default_factory=Counters)
    time: float = 0.0
    rounds: list[int] = field(default_factory=list)
    pending: float = 0.0

    @property
    def game(self) -> Played:
        return self

    def play(self) -> None:
        self.rounds.append(self.counters.step)
        self.pending += self.cost(self.counters.step, self.counters.clock)
        self.counters.clock += self.stage(self.counters.clock).batch or self.recipe.batch
        self.counters.step += 1

    def wait(self) -> None:
        """A device that works on while the host goes on."""
        self.time += self.pending
        self.pending = 0.0


def lasting(training: Played, budget: float = 1e9) -> tuple[float, bool]:
    timed = measure(training, budget, now=lambda: training.time, wait=training.wait)  # type: ignore[arg-type]
    parts = stretches(training.stage, training.recipe)
    goal = round(training.recipe.kimg * 1000)
    return total(list(timed), parts, goal, len(kinds(lazies(training.recipe))))


def test_the_time_to_the_end_counts_lazy_terms_by_their_share() -> None:
    recipe = recipes.recipe("stylegan2", "tiny", path_every=4, r1_every=16, batch=8, kimg=1.6)
    training = Played(recipe, lambda step, clock: 1.0 + 2.0 * (step % 4 == 0) + 4.0 * (step % 16 == 0))
    # 200 rounds of 8 images, each 1 s, every fourth 2 s more, every sixteenth 4 s more
    assert lasting(training) == (pytest.approx(200 * (1 + 2 / 4 + 4 / 16)), True)
    assert training.rounds == [0] + 3 * [0, 1, 4]


def test_the_warm_up_is_not_counted() -> None:
    training = Played(recipes.recipe("dcgan", batch=10, kimg=1.0), lambda step, clock: 1.0)
    slow = training.cost

    def cost(step: int, clock: int) -> float:
        return 50.0 if len(training.rounds) == 1 else slow(step, clock)

    training.cost = cost
    assert lasting(training) == (pytest.approx(100), True)


def growing(clock: int) -> Stage:
    return Stage(batch=20, resolution=8) if clock < 250 else Stage(batch=10, resolution=16)


def test_stages_count_by_their_share_of_the_images() -> None:
    recipe = recipes.recipe("dcgan", batch=10, kimg=1.0)
    training = Played(recipe, lambda step, clock: 1.0 if clock < 250 else 3.0, growing)
    parts = stretches(growing, recipe)
    assert [(p.share, p.batch, p.resolution) for p in parts] == [(0.75, 10, 16), (0.25, 20, 8)]
    assert all(growing(p.clock).resolution == p.resolution for p in parts)
    # 250 images in rounds of 20 and 1 s; 750 in rounds of 10 and 3 s
    assert lasting(training) == (pytest.approx(250 / 20 + 750 / 10 * 3), True)


def test_what_was_not_timed_is_said_and_counts_like_the_rest() -> None:
    training = Played(recipes.recipe("dcgan", batch=10, kimg=1.0), lambda step, clock: 3.0, growing)
    assert lasting(training, budget=1.0) == (pytest.approx(1000 / 10 * 3), False)
    assert len(training.rounds) == 2  # a warm-up and one: nothing is forecast from a warm-up alone
    found = [Timing(0, 1.0, 2.0, 10, 1)]
    assert total(found, [Stretch(0, 0.5, 10, 8), Stretch(9, 0.5, 10, 16)], 100, 1) == (20.0, False)


def test_a_real_recipe_is_measured_at_its_shapes() -> None:
    recipe = api.prepared(sp.recipe("dcgan", kimg=0.8, **SMALL), "digits").with_intervals()
    found = played(recipe, "cpu", 1e-9)  # one round takes longer than that anywhere
    assert (found.device, found.kinds, found.rounds, found.complete) == ("cpu", 1, 1, True)
    assert found.seconds == pytest.approx(800 / found.images_per_second)
    weights = sum(p.numel() for p in sp.game("dcgan", data="digits", **SMALL).parameters())
    assert found.checkpoint_bytes > 3 * 4 * weights  # the weights and two moments in float32, and the average
    assert found.peak_bytes > 50e6  # torch alone


def test_dry_run_says_what_it_measured_and_writes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    words = "train dcgan --data digits --kimg 0.8 --width 8 --latent 4 --batch 16 --device cpu --dry-run"
    assert main([*words.split(), "--measure-seconds", "1e-9"]) == 0
    out = capsys.readouterr().out
    assert "1 rounds, kinds of different cost apart, after a warm-up, on cpu" in " ".join(out.split())
    for heading in ("speed ", "time ", "memory ", "disk "):
        assert f"\n  {heading}" in out
    assert list(tmp_path.iterdir()) == []


def test_what_cannot_be_measured_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = recipes.recipe("dcgan", kimg=1.0)

    def child(code: str, start: float = 60.0) -> str:
        monkeypatch.setattr(forecast, "START", start)
        monkeypatch.setattr(forecast.sys, "executable", sys.executable)
        real = forecast.subprocess.Popen
        with monkeypatch.context() as patch:
            patch.setattr(forecast.subprocess, "Popen", lambda words, **how: real([sys.executable, "-c", code], **how))
            found = forecast.forecast(recipe, "cpu", 0.0)
        assert isinstance(found, str)
        return found

    assert "signal 9" in child("import os, signal; os.kill(os.getpid(), signal.SIGKILL)")
    assert child("raise SystemExit('no such thing')") == "Not measured: no such thing"
    assert child('print(\'{"error": "no data"}\')') == "Not measured: no data"
    assert "were not ready" in child("import time; time.sleep(60)", start=0.5)
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert "several processes" in child("")


def test_sizes_and_spans_for_people() -> None:
    assert [forecast.size(n) for n in (12_300_000, 4_560_000_000)] == ["12.3 MB", "4.56 GB"]
    assert [forecast.span(s) for s in (12, 300, 7800, 2 * 86400 + 3600 * 4)] == [
        "12 s",
        "5 min",
        "2 h 10 min",
        "2 days 4 h",
    ]
