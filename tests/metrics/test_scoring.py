"""From names to scores: runs, folders, toys; during training; the command."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import saddlepoint as sp
from saddlepoint import pictures
from saddlepoint.cli import main
from saddlepoint.errors import UserError
from saddlepoint.metrics.scores import from_dict
from saddlepoint.metrics.scoring import score
from saddlepoint.runs import Run

SMALL: dict[str, Any] = {"width": 4, "latent": 4, "resolution": 16, "batch": 8, "log_kimg": 0.016}
RANDOM: dict[str, Any] = {"features": "random-conv", "metrics": ("fd", "dc")}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    folder = tmp_path_factory.mktemp("runs") / "small"
    return sp.train(sp.recipe("dcgan", **SMALL), "digits", out=folder, kimg=0.064, progress=False)


def test_a_run_is_scored_against_its_own_data(run: Run) -> None:
    found = score(run.path, n=200, **RANDOM)
    fd = found.scores["FD[random-conv]"]
    assert fd.value > fd.floor > 0 and fd.error > 0
    assert fd.record["samples"] == 200 and "digits" in fd.record["reference"]
    assert found.record["judged"]["clock"] == 64 and found.record["judged"]["system"] == "dcgan"
    again = score(run.path, n=200, **RANDOM)
    assert {k: s.value for k, s in again.scores.items()} == {k: s.value for k, s in found.scores.items()}
    assert [line["judged"] for line in run.evaluations()] == [found.judged] * 2


def test_samples_in_a_folder_score_as_in_the_run(run: Run, tmp_path: Path) -> None:
    """The same 200 images, drawn and rounded, once from the run and once from PNGs in a folder."""
    direct = score(run.path, n=200, **RANDOM)
    for i, image in enumerate(run.sample(200, 0)):  # chunk 0 of seed 0
        pictures.save(image[None], tmp_path / f"{i:04d}.png")
    files = score(tmp_path, "digits", n=200, **RANDOM)
    a, b = direct.scores["FD[random-conv]"], files.scores["FD[random-conv]"]
    assert b.value == pytest.approx(a.value, rel=1e-4)


def test_real_images_against_their_own_kind_are_at_the_floor() -> None:
    found = score("digits:test", "digits", n=170, **RANDOM)
    fd = found.scores["FD[random-conv]"]
    assert fd.value < 3 * fd.floor
    assert found.scores["coverage[random-conv]"].value > 0.85


@pytest.mark.parametrize(
    ("what", "words", "message"),
    [
        ("digits", {}, "--against DATA"),
        ("digts", {"against": "digits"}, "did you mean 'digits'"),
        ("digits", {"against": "digits", "checkpoint": "3"}, "--checkpoint is for runs"),
        ("digits", {"against": "digits", "features": "incepton"}, "unknown extractor"),
    ],
)
def test_what_cannot_be_scored_says_why(what: str, words: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        score(what, **words)


def test_a_control_that_a_system_lacks_is_named(run: Run) -> None:
    with pytest.raises(UserError, match="truncation"):
        score(run.path, controls={"truncation": 0.5}, **RANDOM)


def test_a_generator_has_path_lengths(run: Run) -> None:
    found = score(run.path, n=20, metrics=("ppl",))
    assert set(found.scores) == {"PPL[z, full; random-conv]", "PPL[z, end; random-conv]"}
    assert all(s.value > 0 and s.error > 0 for s in found.scores.values())
    with pytest.raises(UserError, match="is for runs"):
        score("digits:test", "digits", n=20, metrics=("ppl",))


# ---- points
def test_toys_are_scored_by_modes_and_exact_w1(tmp_path: Path) -> None:
    made = sp.train(sp.recipe("toy", batch=64), "ring", out=tmp_path / "toy", kimg=0.64, progress=False)
    found = score(made.path)
    assert found.scores["modes"].floor == 8 and 0 <= found.scores["modes"].value <= 8
    assert found.scores["high_quality"].floor == pytest.approx(0.9889, abs=0.01)
    assert found.scores["w1"].value > found.scores["w1"].floor > 0
    assert sum(found.extra["modes"]["nearest"]) == 2500


# ---- during training
def scored(folder: Path, **more: Any) -> Run:
    recipe = sp.recipe(
        "dcgan", evaluate_every=0.032, evaluate_features="random-conv", evaluate_n=60, keep_checkpoints=1,
        checkpoint_kimg=0.064, **SMALL,
    )  # fmt: skip
    return sp.train(recipe, "digits", out=folder, progress=False, **more)


def test_training_keeps_scores_and_the_best_checkpoint(tmp_path: Path) -> None:
    made = scored(tmp_path / "run", kimg=0.128)
    lines = made.scores()
    assert [line["clock"] for line in lines] == [32, 64, 96, 128]
    values = [from_dict(line["scores"][line["picks"]]) for line in lines]
    best = min(range(4), key=lambda i: values[i].value)
    folder = made.best()
    assert folder is not None and int(folder.name) == lines[best]["clock"]
    assert {int(p.name) for p in made.checkpoints()} == {128, lines[best]["clock"]}
    first = score(made.path, n=60, checkpoint="best", reference=values[0].record["floor_samples"] and 1558, **RANDOM)
    assert first.scores["FD[random-conv]"].value == pytest.approx(values[best].value, rel=1e-4)
    page = (made.path / "report.html").read_text()
    assert "Frechet distance" in page and "floor" in page


def test_a_resumed_run_has_the_scores_of_an_uninterrupted_one(tmp_path: Path) -> None:
    whole = scored(tmp_path / "whole", kimg=0.128)
    cut = scored(tmp_path / "cut", kimg=0.064)
    with (cut.path / "scores.jsonl").open("a") as file:  # what a killed process may leave: scores after its checkpoint
        file.write(json.dumps({**cut.scores()[-1], "clock": 96}) + "\n")
    again = sp.resume(cut.path, kimg=0.128, progress=False)
    plain = [{k: v for k, v in line.items() if k not in ("seconds", "judged", "record")} for line in whole.scores()]
    found = [{k: v for k, v in line.items() if k not in ("seconds", "judged", "record")} for line in again.scores()]
    assert found == plain
    a, b = (r.latest()[1] for r in (whole, again))
    assert a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


# ---- the command
def test_the_command_prints_a_table_and_json(run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["evaluate", str(run.path), "--n", "100", "--features", "random-conv", "--metrics", "fd", "recall"]
    out = tmp_path / "found.json"
    assert main([*words, "--json", "--out", str(out), "--quiet"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert json.loads(out.read_text()) == found
    score_ = found["scores"]["FD[random-conv]"]
    assert score_["interval"][0] < score_["value"] < score_["interval"][1] and score_["floor"] > 0
    assert set(found["scores"]) == {"FD[random-conv]", "precision[random-conv]", "recall[random-conv]"}
    assert main([*words, "--quiet"]) == 0
    table = capsys.readouterr().out
    assert "floor: real against real" in table and "100 samples against digits" in table


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["evaluate"], "needs RUN"),
        (["evaluate", "digits", "--against", "digits", "--metrics", "fdd"], "did you mean 'fd'"),
        (["evaluate", "digits", "--against", "digits", "--n", "-1"], "--n is -1"),
        (["evaluate", "digits", "--against", "digits", "--fetures", "x"], "did you mean --features"),
    ],
)
def test_the_command_refuses_with_one_line(words: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(words) == 2
    captured = capsys.readouterr()
    assert message in captured.err and captured.err.count("\n") == 1 and not captured.out


def test_labels_are_drawn_as_often_as_the_data_have_them(tmp_path: Path) -> None:
    from saddlepoint.metrics import judged

    made = sp.train(
        sp.recipe("dcgan", conditional=True, dense=8, **SMALL), "digits", out=tmp_path / "c", kimg=0.016, progress=False
    )
    labels = np.array([3] * 90 + [7] * 10)
    samples = judged.Samples(made.game, "c", {}, {}, labels)
    drawn = torch.cat([y for _, y in samples.chunks(400, 0) if y is not None]).numpy()
    assert set(drawn.tolist()) == {3, 7} and 0.8 < (drawn == 3).mean() < 0.97
    again = torch.cat([y for _, y in samples.chunks(400, 0) if y is not None]).numpy()
    assert np.array_equal(drawn, again)


@pytest.mark.slow
def test_two_processes_score_as_one(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    import os
    import subprocess
    import sys

    words = ["evaluate", str(run.path), "--samples", "450", "--features", "random-conv", "--metrics", "fd", "dc"]
    words += ["--json"]
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    done = subprocess.run(
        [*launcher, "-m", "saddlepoint", *words],
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    assert main([*words, "--quiet"]) == 0
    alone = json.loads(capsys.readouterr().out)
    both = json.loads(done.stdout)
    for name, values in alone["scores"].items():
        assert both["scores"][name]["value"] == pytest.approx(values["value"], rel=1e-6), name
    assert both["scores"]["FD[random-conv]"]["record"] == alone["scores"]["FD[random-conv]"]["record"]
