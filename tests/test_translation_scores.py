"""Scores of translators on held-out pairs: `saddlepoint evaluate RUN` and `--evaluate-every`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from saddlepoint import api, recipes
from saddlepoint.cli import main
from saddlepoint.errors import UserError
from saddlepoint.metrics import translated
from saddlepoint.runs import Run

SIDE = 32
SMALL: dict[str, Any] = {
    "resolution": SIDE, "width": 2, "d_width": 4, "n_layers": 1, "batch": 2, "kimg": 0.008, "evaluate_every": 0.004,
    "load_size": 0, "blocks": 1,
}  # fmt: skip


def pairs(folder: Path, names: tuple[str, str] = ("A/{}", "B/{}")) -> Path:
    """b is the negative of a."""
    for part in ("train", "test"):
        for index in range(6):
            picture = np.random.default_rng(index).integers(0, 255, (4, 4), np.uint8).repeat(8, 0).repeat(8, 1)
            for name, array in zip(names, (picture, 255 - picture), strict=True):
                path = folder / name.format(part) / f"{index}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(array).save(path)
    return folder


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    data = pairs(tmp_path_factory.mktemp("data") / "negatives")
    recipe = recipes.recipe("cyclegan", "tiny", **{**SMALL, "data": str(data), "pool": 2})
    return api.train(recipe, out=tmp_path_factory.mktemp("runs") / "one", device="cpu", progress=False)


def test_training_is_scored_on_held_out_pairs_and_the_best_is_kept(run: Run) -> None:
    lines = run.scores()
    assert [line["clock"] for line in lines] == [4, 8] and {line["picks"] for line in lines} == {"l1"}
    assert set(lines[0]["scores"]) == {f"{m}{d}" for m in ("l1", "psnr", "ssim") for d in ("", " b-to-a")}
    best = min(lines, key=lambda line: line["scores"]["l1"]["value"])
    assert json.loads((run.path / "best.json").read_text())["clock"] == best["clock"]
    assert lines[0]["record"]["samples"] == 6 and ":test" in lines[0]["record"]["reference"]
    assert "l1" in (run.path / "report.html").read_text()


def test_the_command_tells_the_same_with_what_to_beat(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["evaluate", str(run.path), "--device", "cpu", "--json", "--quiet"]) == 0
    found = json.loads(capsys.readouterr().out)
    last = run.scores()[-1]["scores"]
    for name, score in found["scores"].items():
        assert score["value"] == pytest.approx(last[name]["value"], rel=1e-4)
    game: Any = run.game
    a = np.stack([np.asarray(Image.open(Path(run.recipe.data) / "A" / "test" / f"{i}.png")) for i in range(6)])
    x = torch.from_numpy(a).float()[:, None] / 127.5 - 1
    expected = float((game.translate(x) + x).abs().mean() / 2)  # the true partner is -x
    assert found["scores"]["l1"]["value"] == pytest.approx(expected, abs=1e-5)
    identity = found["baselines"]["the input itself"]["l1"]["value"]
    assert identity == pytest.approx(float(x.abs().mean()), abs=1e-5)
    assert main(["evaluate", str(run.path), "--device", "cpu", "--quiet", "--n", "3", "--metrics", "ssim"]) == 0
    shown = capsys.readouterr().out
    assert "another picture's partner" in shown and "the input itself" in shown and "3 samples against" in shown
    assert len(run.evaluations()) == 2


def test_strangers_are_other_pictures(run: Run) -> None:
    held = translated.held_out(run.recipe)
    truth = translated._truths(held, 6, 0, 6, "a-to-b")
    rolled = translated._truths(held, 6, 3, 6, "a-to-b")
    assert torch.equal(rolled, truth.roll(3, 0)) and not torch.equal(rolled[0], truth[0])


def test_distances_by_hand() -> None:
    y, truth = torch.zeros(2, 1, 12, 12), torch.full((2, 1, 12, 12), 0.5)
    truth[1] = 0.0
    found = translated.per_picture(y, truth)
    assert found["l1"].tolist() == [0.25, 0.0] and found["psnr"][0] == pytest.approx(12.0412, abs=1e-3)
    assert found["ssim"][1] == pytest.approx(1)


def test_what_is_possible_without_partners_is_said_before_training(tmp_path: Path) -> None:
    apart = pairs(tmp_path / "apart", ("{}A", "{}B"))
    recipe = recipes.recipe("cyclegan", "tiny", **{**SMALL, "data": str(apart), "pool": 2})
    with pytest.raises(UserError, match=r"have no true partners.*saddlepoint evaluate OUT --against"):
        api.train(recipe, out=tmp_path / "run", device="cpu", progress=False)
    assert not (tmp_path / "run").exists()
    whole = tmp_path / "whole"
    for index in range(3):
        for name in ("A", "B"):
            (whole / name).mkdir(parents=True, exist_ok=True)
            Image.new("L", (SIDE, SIDE), index).save(whole / name / f"{index}.png")
    recipe = recipes.recipe("pix2pix", "tiny", **{**SMALL, "data": str(whole)})
    with pytest.raises(UserError, match="holds nothing out"):
        api.train(recipe, out=tmp_path / "run", device="cpu", progress=False)


def test_metrics_of_another_kind_are_refused(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["evaluate", str(run.path), "--device", "cpu", "--metrics", "fd"]) == 2
    assert "unknown metric of translators 'fd'" in capsys.readouterr().err
    recipe = recipes.recipe("dcgan", evaluate_every=1.0, evaluate_metric="l1")
    with pytest.raises(UserError, match="draws from noise"):
        translated.check(recipe)
