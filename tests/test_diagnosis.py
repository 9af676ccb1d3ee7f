"""Verdicts on made-up logs that are right by construction, on grids of known variety, on runs broken on purpose."""

from __future__ import annotations

import dataclasses
import json
import math
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import saddlepoint as sp
from saddlepoint import evidence, pictures, recipes
from saddlepoint.cli import main
from saddlepoint.diagnosis import (
    Evidence,
    HeldOut,
    Measured,
    Variety,
    balance,
    diagnose,
    lines,
    local,
    overfitting,
    progress,
    stability,
    trend,
    variety,
)
from saddlepoint.errors import UserError
from saddlepoint.recipes import gamma
from saddlepoint.report import page
from saddlepoint.runs import Run, create
from saddlepoint.systems import build

LOG2 = math.log(2)
SMALL = {"width": 8, "latent": 4, "batch": 16, "resolution": 8, "precision": "fp32", "channels_last": False}


def log(count: int = 40, **columns: float | Callable[[float], float]) -> list[dict[str, float]]:
    """Lines at 1 ... count kimg; a column is a number or a function of the share of the run that is over."""
    made = []
    for i in range(count):
        t = i / (count - 1)
        values = {k.replace("__", "/"): float(v(t) if callable(v) else v) for k, v in columns.items()}
        made.append({"kimg": float(i + 1), "clock": 1000 * (i + 1), **values})
    for line in made:
        for who in ("generator", "discriminator"):
            if f"norm_{who}" in line:
                line[f"gradient_norm.{who}"] = line.pop(f"norm_{who}")
    return made


USUAL: dict[str, Any] = {
    "discriminator__gan": 0.9, "generator__gan": 1.1, "norm_generator": 3.0, "norm_discriminator": 2.0
}  # fmt: skip


def given(count: int = 40, objective: str = "nonsaturating", **changes: Any) -> Evidence:
    fields = {f.name for f in dataclasses.fields(Evidence)}
    columns = {**USUAL, **{k: v for k, v in changes.items() if k not in fields}}
    made = Evidence(
        kimg=float(count), goal=float(count), objective=objective, log=log(count, **columns),
        undecided=(2 * LOG2, -LOG2 if objective == "minimax" else LOG2),
    )  # fmt: skip
    return dataclasses.replace(made, **{k: v for k, v in changes.items() if k in fields})


# ---- stability
def test_stable_is_stable_and_a_growing_gradient_is_not() -> None:
    assert stability(given()).verdict == "stable"
    found = stability(given(norm_generator=lambda t: math.exp(8 * t)))
    assert found.verdict == "blowing up"
    growth = next(fact for fact in found.evidence if "generator" in fact.what)
    # medians of exp(8 i / 39) over i = 0 ... 9 and 30 ... 39: the first is that of two middle values
    first = (math.exp(8 * 4 / 39) + math.exp(8 * 5 / 39)) / 2
    last = (math.exp(8 * 34 / 39) + math.exp(8 * 35 / 39)) / 2
    assert growth.value == pytest.approx(last / first)
    assert growth.kimg == 40


def test_values_that_are_not_finite_stop_it() -> None:
    found = stability(given(generator__gan=lambda t: math.nan if t == 1 else 1.0))
    assert (found.verdict, found.level) == ("stopped", "bad")
    assert "generator/gan is nan at 40 kimg" in found.evidence[0].text
    assert stability(given(failure="the gradient of player 'g' is not finite")).verdict == "stopped"


def test_nothing_is_said_of_a_log_that_is_too_short() -> None:
    for ask in (stability, balance, overfitting, progress, variety):
        found = ask(given(7))
        assert (found.verdict, found.level, found.evidence) == ("not enough evidence", "unknown", ())


# ---- variety
def images(n: int = 64, side: int = 8, seed: int = 0) -> Any:
    return np.random.default_rng(seed).uniform(-1, 1, (n, side, side, 1))


def test_variety_by_construction() -> None:
    real = images()
    same = evidence.variety(real, real)
    assert (same.spread, same.nearest, same.repeated) == (pytest.approx(1), pytest.approx(1), 0)
    one = evidence.variety(np.repeat(real[:1], 64, 0), real)
    assert one.spread == pytest.approx(0, abs=1e-6)
    assert one.repeated == 1
    pairs = evidence.variety(np.concatenate([real[:48], real[:16]]), real)
    assert pairs.repeated == 0.5  # 16 of them twice
    half = evidence.variety(real / 2, real, before=real)
    assert half.spread == pytest.approx(0.5)
    distance = np.sqrt(((real[:, None] - real[None]) ** 2).mean((2, 3, 4)))[np.triu_indices(64, 1)].mean()
    assert half.change == pytest.approx(np.sqrt(((real / 2) ** 2).mean()) / distance)


def grids(*spread: float, repeated: float = 0.0) -> tuple[Variety, ...]:
    return tuple(Variety(float(i), s, s, repeated) for i, s in enumerate(spread))


@pytest.mark.parametrize(
    ("found", "verdict"),
    [
        (grids(0.2, 0.5, 0.9, 1.0), "no"),
        (grids(0.2, 0.5, 0.9, 0.1), "collapsed"),
        (grids(0.2, 0.2, 0.2, 0.2), "collapsed"),
        (grids(1.3, 0.2, 0.25, 0.3), "not yet"),
        (grids(0.2, 0.2), "too early"),
        (grids(0.2, 0.5, 0.5), "in part"),
        (grids(0.9, 0.9, repeated=0.4), "in part"),
    ],
)
def test_collapse_is_told_from_the_stored_samples(found: tuple[Variety, ...], verdict: str) -> None:
    assert variety(given(pictures=found)).verdict == verdict


def test_a_collapse_names_the_moment_before_it() -> None:
    found = variety(given(pictures=grids(0.2, 0.8, 0.9, 0.1, 0.1)))
    assert found.says == "The samples have become alike: they were not at 2 kimg."
    assert "2 kimg" in found.advice[0]


def test_coverage_counts_against_its_floor() -> None:
    def scored(value: float) -> Evidence:
        m = Measured(9.0, "coverage", "coverage[x]", value, floor=0.9)
        return given(scores=(m,), pictures=grids(0.9, 0.9))

    assert variety(scored(0.5)).verdict == "no"
    missing = variety(scored(0.4))
    assert missing.verdict == "no, but it misses data"
    assert "coverage[x] 0.4, real against real 0.9, at 9 kimg" in [fact.text for fact in missing.evidence]


@pytest.mark.parametrize(("side", "other"), [(8, 8), (16, 16), (32, 32), (64, 64), (128, 128), (12, 16)])
def test_stored_grids_are_read_back(side: int, other: int, tmp_path: Path) -> None:
    recipe = recipes.recipe("stylegan2", "tiny", resolution=max(side, other), base=(3, 4) if side == 12 else (4, 4))
    assert recipe.shape == (side, other)  # type: ignore[attr-defined]
    made = torch.rand(64, 3, side, other, generator=torch.Generator().manual_seed(0)) * 2 - 1
    pictures.save(made, tmp_path / "a.png", cell=64)
    found = evidence.cells(tmp_path / "a.png", recipe)
    assert found is not None
    assert np.array_equal(((found + 1) * 127.5).round(), pictures.to_uint8(made))


def test_the_smaller_grids_of_a_growing_run_are_read_and_compared(tmp_path: Path) -> None:
    recipe = recipes.recipe("progan", "tiny", resolution=32)
    small = torch.rand(64, 1, 8, 8, generator=torch.Generator().manual_seed(0)) * 2 - 1
    large = small.repeat_interleave(4, 2).repeat_interleave(4, 3)
    for name, made in (("small", small), ("large", large)):
        pictures.save(made, tmp_path / f"{name}.png", cell=64)
    a, b = (evidence.cells(tmp_path / f"{name}.png", recipe) for name in ("small", "large"))
    assert a is not None
    assert b is not None
    assert np.allclose(evidence.shrunk(b, a.shape[1:3]), a)
    assert np.allclose(evidence.shrunk(a, b.shape[1:3]), b)
    assert evidence.variety(a, b).spread == pytest.approx(1)
    (tmp_path / "odd.png").write_bytes(b"no picture")
    assert evidence.cells(tmp_path / "odd.png", recipe) is None


# ---- balance
@pytest.mark.parametrize(
    ("changes", "verdict"),
    [
        ({}, "no"),
        ({"discriminator__gan": 0.01 * 2 * LOG2}, "saturated"),
        ({"discriminator__gan": 2 * LOG2, "generator__gan": LOG2}, "undecided"),
        ({"norm_generator": lambda t: 1e-4 if t > 0.7 else 3.0}, "vanished"),
        ({"norm_generator": 1e-9}, "vanished"),
        ({"objective": "minimax", "discriminator__gan": 0.2, "generator__gan": -0.02}, "saturated"),
        ({"objective": "minimax", "discriminator__gan": 1.0, "generator__gan": -0.5}, "no"),
        ({"clip": 0.01, "at_clip": 0.97}, "clipping"),
        ({"clip": 0.01, "at_clip": 0.04}, "no"),
    ],
)
def test_saturation(changes: dict[str, Any], verdict: str) -> None:
    found = balance(given(**changes))
    assert found.verdict == verdict
    assert found.evidence
    assert bool(found.advice) == (verdict != "no")


# ---- overfitting
@pytest.mark.parametrize(
    ("sign", "p", "verdict"),
    [(0.3, 0.2, "no"), (0.65, 0.3, "no"), (0.9, 0.3, "held back"), (0.95, 0.95, "overfits")],
)
def test_the_sign_of_overfitting(sign: float, p: float, verdict: str) -> None:
    made = given(augment_target=0.6)
    for line in made.log:
        line.update({"augment.sign": sign, "augment.p": p})  # type: ignore[attr-defined]
    found = overfitting(made)
    assert found.verdict == verdict
    assert found.evidence[0].value == sign


def test_the_gap_between_training_and_held_out_images() -> None:
    def seen(held: float, error: float = 0.05) -> Evidence:
        return given(held_out=HeldOut(10.0, 100, 2.0, held, -2.0, 1.0, 0.0, error))

    assert HeldOut(1, 1, 2.0, -1.0, -2.0, 1, 1, 0.1).ratio == 0.75  # (2 + 1) / (2 + 2)
    assert overfitting(seen(-1.0)).verdict == "overfits"
    assert overfitting(seen(0.8)).verdict == "a little"
    assert overfitting(seen(1.9)).verdict == "no"
    assert overfitting(seen(-1.0, error=2.0)).verdict == "no"  # within its error


def test_copies_come_first() -> None:
    m = Measured(5.0, "c_t", "c_t[x]", -4.0, better="neither")
    assert overfitting(given(scores=(m,))).verdict == "copies"


class Remembering(nn.Module):
    """A discriminator that knows bright images: the mean of each, exactly."""

    def forward(self, x: Tensor) -> Tensor:
        return x.mean((1, 2, 3))


def test_logits_are_told_apart_in_any_game() -> None:
    game = build(sp.recipe("dcgan", channels=1, **SMALL)).eval()
    game.discriminator = Remembering()
    player = game.player("discriminator")
    player.modules = (game.discriminator,)
    bright, dark = torch.full((6, 1, 8, 8), 0.75), torch.full((6, 1, 8, 8), -0.5)
    bright[0] += 0.125
    found = evidence.logits(game, {"image": bright}, {"image": dark})
    assert found["train"].tolist() == [0.875, 0.75, 0.75, 0.75, 0.75, 0.75]
    assert found["held_out"].tolist() == [-0.5] * 6
    assert len(found["fake"].unique()) == 6


@pytest.mark.parametrize("system", ["dcgan", "wgan", "wgan-gp", "progan", "stylegan1", "stylegan2", "r3gan"])
def test_logits_of_every_kind_of_discriminator(system: str) -> None:
    from tests.pretrained.test_importing import recipe as small

    if system in ("dcgan", "wgan", "wgan-gp"):
        recipe: Any = sp.recipe(system, channels=1, **SMALL)
    elif system == "r3gan":
        recipe = sp.recipe(system, "tiny", resolution=16, channels=1)
    else:
        recipe = small(system)
    side = recipe.resolution
    a, b = (torch.rand(4, 1, side, side, generator=torch.Generator().manual_seed(i)) for i in (0, 1))
    game = build(recipe).eval()
    with torch.no_grad():  # logits that begin at 0 would tell nothing
        for i, parameter in enumerate(game.parameters()):
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(i)))
    clock = round(recipe.kimg * 1000)
    game.advance(1, clock)
    found = evidence.logits(game, {"image": a}, {"image": b}, clock)
    assert all(len(values) == 4 and values.isfinite().all() for values in found.values())
    again = evidence.logits(game, {"image": b}, {"image": a}, clock)
    assert torch.equal(found["train"], again["held_out"])


# ---- progress
def scores(*values: float, error: float = 0.1, key: str = "") -> tuple[Measured, ...]:
    return tuple(Measured(10.0 * (i + 1), "fd", "FD[x]", v, error, 0.5, "lower", key) for i, v in enumerate(values))


@pytest.mark.parametrize(
    ("values", "verdict"),
    [
        ((9, 7, 5, 4), "improves"),
        ((9, 5, 4.05, 4.0), "level"),
        ((9, 4, 5, 7), "past its best"),
        ((9, 4, 4.2, 4.2), "level"),
        ((4.0, 3.0), "improves"),
        ((4.0,), "not enough evidence"),
    ],
)
def test_the_trend_of_a_score(values: tuple[float, ...], verdict: str) -> None:
    assert progress(given(scores=scores(*values))).verdict == verdict


def test_scores_that_were_measured_differently_are_not_compared() -> None:
    mixed = (*scores(9, 5, 3, key="a"), Measured(40.0, "fd", "FD[x]", 30.0, 0.1, key="b"))
    assert [m.value for m in trend(mixed, "fd")] == [9, 5, 3]
    assert progress(given(scores=mixed)).verdict == "improves"


def test_a_critics_estimate_speaks_where_nothing_was_scored() -> None:
    made = given(objective="wasserstein", wasserstein_estimate=lambda t: 10 * math.exp(-2 * t))
    assert progress(made).verdict == "probably"
    flat = given(objective="wasserstein", wasserstein_estimate=2.0)
    assert progress(flat).verdict == "not enough evidence"


def test_the_spectrum_in_words() -> None:
    point = {"kimg": 3.0, "largest_real_part": 0.2, "rotation_share": 0.8, "largest_stable_step": {"simultaneous": 0.0}}
    found = local(point)
    assert found.verdict == "unstable here"
    assert "no plain step is stable" in [fact.text for fact in found.evidence]
    calm = {**point, "largest_real_part": -0.1, "largest_stable_step": {"simultaneous": 0.25}}
    assert local(calm).verdict == "stable here"
    assert len(diagnose(given(spectrum=point))) == 1 + len(diagnose(given()))


# ---- gamma
def test_gamma_by_the_published_rules() -> None:
    assert gamma.suggested("stylegan2", 256, 32).value == pytest.approx(0.4096)  # the automatic configuration at 256
    for side, value in ((128, 0.5), (256, 2), (512, 8), (1024, 32)):  # the guide of StyleGAN3, batch 32
        assert gamma.suggested("stylegan3", side, 32).value == value
    assert gamma.of_recipe(recipes.recipe("dcgan", resolution=32)) is None
    text = gamma.remark(recipes.recipe("stylegan2", "tiny", resolution=32, batch=16, **{"penalty.r1": 10.0}))
    assert text.startswith("--penalty.r1 10 is outside 0.0032 to 0.051")
    assert "0.013 = 0.0002 32^2 / 16" in text
    assert "nothing is changed" in text


# ---- real runs
def trained(path: Path, system: str, **changes: Any) -> Run:
    return sp.train(sp.recipe(system, **changes), "digits", path, progress=False, device="cpu")


def verdicts(run: Run) -> dict[str, str]:
    return {finding.question: finding.verdict for finding in diagnose(evidence.gathered(run))}


def test_a_learning_rate_far_too_high_collapses(tmp_path: Path) -> None:
    found = verdicts(trained(tmp_path / "run", "gan", kimg=0.6, batch=32, **{"g.lr": 1.0, "d.lr": 1.0}))
    assert found["Has it collapsed?"] == "collapsed"
    assert found["Has it saturated?"] == "vanished"


def test_a_discriminator_far_too_fast_wins(tmp_path: Path) -> None:
    found = verdicts(trained(tmp_path / "run", "dcgan", kimg=1.6, **SMALL, **{"d.lr": 1.0, "g.lr": 1.0}))
    assert found["Has it saturated?"] in ("saturated", "vanished")
    assert found["Has it collapsed?"] != "no"


def test_clipping_that_is_far_too_tight_leaves_nothing(tmp_path: Path) -> None:
    run = trained(tmp_path / "run", "wgan", kimg=1.6, **SMALL, clip=1e-6, **{"d.lr": 1e-2})
    found = verdicts(run)
    assert found["Has it saturated?"] in ("clipping", "vanished")
    assert found["Does it still improve?"] == "not enough evidence"


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return trained(tmp_path_factory.mktemp("runs") / "first", "dcgan", kimg=0.32, **SMALL)


def test_the_command_and_the_page_say_it(finished: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = Run(shutil.copytree(finished.path, tmp_path / "first"))
    assert main(["report", str(run.path), "--held-out"]) == 0
    out = capsys.readouterr().out
    assert out.splitlines()[-1] == str(run.path / "report.html")
    plain = re.sub(r"\s+", " ", out)
    found = diagnose(evidence.gathered(run))
    for finding in found:
        assert f"{finding.question} {finding.verdict}. {finding.says}" in plain
        for fact in finding.evidence:
            assert fact.text in plain
    stored = json.loads((run.path / "analysis" / "held-out.json").read_text())
    assert stored["images"] == 179  # all of the digits' test split
    assert next(f for f in found if f.question == "Does it overfit?").evidence
    html = page(run)
    assert html.count('<section class="finding ') == len(found)
    assert all(line.strip() for line in lines(found))


def test_the_spectrum_is_computed_once_if_asked(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = sp.train(sp.recipe("dirac", kimg=0.2), "", tmp_path / "run", progress=False, device="cpu")
    assert main(["report", str(run.path), "--spectrum"]) == 0
    assert "What does its spectrum say?" in capsys.readouterr().out
    stored = (run.path / "analysis" / "newest" / "analysis.json").stat().st_mtime_ns
    evidence.spectrum(run)
    assert (run.path / "analysis" / "newest" / "analysis.json").stat().st_mtime_ns == stored
    point = evidence.stored_spectrum(run)
    assert point is not None
    assert point["kimg"] == run.clock / 1000


def test_held_out_needs_a_set_with_a_test_split(finished: Run, tmp_path: Path) -> None:
    run = Run(shutil.copytree(finished.path, tmp_path / "first"))
    (run.path / "recipe.json").write_text((run.path / "recipe.json").read_text().replace('"digits"', '"digits:all"'))
    with pytest.raises(UserError, match="training split of a named set"):
        evidence.held_out(Run(run.path))


@pytest.mark.parametrize("system", recipes.systems())
def test_a_run_that_has_hardly_begun_is_not_judged(system: str, tmp_path: Path) -> None:
    run = create(tmp_path / "run", recipes.recipe(system).with_intervals())
    assert set(verdicts(run).values()) == {"not enough evidence"}
