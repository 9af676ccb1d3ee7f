"""`saddlepoint edit` writes pictures that `saddlepoint sample --like` makes again bit for bit, or refuses."""

from __future__ import annotations

import importlib.util
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, PngImagePlugin

from saddlepoint import editing
from saddlepoint.cli import main
from saddlepoint.editing import again, films
from saddlepoint.editing.recipes import Edit, Mix, PictureRecipe, Sweep, Way, from_json, to_json
from saddlepoint.errors import UserError
from saddlepoint.runs import Run
from tests.editing.helpers import add_checkpoint, game_of, run_of

Capture = pytest.CaptureFixture[str]


@pytest.fixture(autouse=True)
def _plain(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_COLOR", "1")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return run_of(tmp_path_factory.mktemp("runs") / "style", "stylegan2")


def refused(capsys: Capture, *words: object) -> str:
    assert main([str(word) for word in words]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    return err


def remade(run: Run, picture: Path, capsys: Capture) -> None:
    """`sample --like` gives the same file, byte by byte."""
    out = picture.with_name(f"again-{picture.name}")
    assert main(["sample", str(run.path), "--like", str(picture), "--out", str(out)]) == 0
    captured = capsys.readouterr()
    assert captured.err == ""
    assert captured.out.endswith(f"{out}\n")
    assert out.read_bytes() == picture.read_bytes()


# ---- the same again
def test_truncation_mixing_and_an_edit_in_one_picture(run: Run, tmp_path: Path, capsys: Capture) -> None:
    out, kept = tmp_path / "all.png", tmp_path / "kept.safetensors"
    found = editing.directions(run, "attribute", attribute="contrast", samples=60, layers="fine")
    editing.save_directions(found, kept)
    edits = ["--edit", "sefa:1=2.5@middle", f"{kept}:contrast=-1"]
    words = ["apply", "--seeds", "3:0-2", "8", "--truncation", "0.7", "--mix", "5", "6:1", "--layers", "coarse", *edits]
    words += ["--columns", "4"]
    assert main(["edit", str(run.path), *words, "--out", str(out)]) == 0
    remade(run, out, capsys)
    assert Image.open(out).width == 4 * Image.open(out).height + 3 * 6  # gaps of 6 pixels: images enlarged 6 times
    at, sefa = editing.space(run), editing.directions(run, count=2, layers="middle")[1]
    ws = at.truncated(at.styles(at.draw([(3, 0), (3, 1), (3, 2), (8, 0)])), 0.7)
    other = at.truncated(at.styles(at.draw([(5, 0), (6, 1)])), 0.7)
    ws[:, :2] = other[[0, 1, 0, 1]][:, :2]
    ws[:, 2:4] += 2.5 * sefa.deviation * sefa.vector
    ws[:, 4:] -= found[0].deviation * found[0].vector
    numbers = tmp_path / "x.npy"
    assert main(["sample", str(run.path), "--like", str(out), "--out", str(numbers)]) == 0
    assert np.allclose(np.load(numbers), run.sample(4, w=ws).numpy(), atol=1e-4)


@pytest.mark.parametrize(
    "words",
    [
        "truncate --seeds 0:0-1 4 --psi 1 0.5 0 --cutoff 4 --cell 0",
        "mix --rows 0:0-1 --columns 1:0-2 --layers 1,4-5 --truncation 0.5 --noise none",
        "interpolate --seeds 0 1 2 --steps 3 --space slerp --loop --noise random",
        "directions --count 2 --strengths -2 0 2 --seeds 0:0-1 --truncation 0.8 --samples 50",
    ],
)
def test_every_task_is_made_again(words: str, run: Run, tmp_path: Path, capsys: Capture) -> None:
    out = tmp_path / "picture.png"
    assert main(["edit", str(run.path), *words.split(), "--out", str(out)]) == 0
    remade(run, out, capsys)


def test_a_projection_its_edits_and_its_files(run: Run, tmp_path: Path, capsys: Capture) -> None:
    target = tmp_path / "target.png"
    Image.fromarray(np.arange(900, dtype=np.uint32).reshape(30, 30).astype(np.uint8)).save(target)
    out, kept, curve = tmp_path / "p.png", tmp_path / "p.safetensors", tmp_path / "curve.png"
    quick = ["--steps", "4", "--distance", "multiscale", "--samples", "50", "--quiet"]
    words = ["project", target, "--seeds", "3", "--space", "w+", "--out", out, "--curve", curve, *quick]
    assert main([str(word) for word in ("edit", run.path, *words)]) == 0
    assert "multiscale-laplacian-l1 in w+:" in capsys.readouterr().out
    assert Image.open(curve).size == (960, 540)
    remade(run, out, capsys)
    moved = tmp_path / "moved.png"
    words = ["apply", "--latents", kept, "--edit", "sefa:0=3@fine", "--out", moved]
    assert main([str(word) for word in ("edit", run.path, *words)]) == 0
    remade(run, moved, capsys)
    found = editing.load_projection(kept)
    made = again.read(moved)
    assert made.notes["picture"]["w"]["shape"] == [2, 6, 64]
    assert set(made.notes["picture"]["noise"]["maps"]) == set(found.noise)


def test_samples_grids_and_single_pictures(run: Run, tmp_path: Path, capsys: Capture) -> None:
    grid, folder = tmp_path / "grid.png", tmp_path / "folder"
    words = ["sample", str(run.path), "--n", "5", "--seed", "4", "--truncation", "0.6"]
    assert main([*words, "--columns", "5", "--cell", "40", "--out", str(grid)]) == 0
    assert main([*words, "--out", str(folder)]) == 0
    remade(run, grid, capsys)
    remade(run, folder / "000003.png", capsys)


def test_directions_from_a_file_and_systems_without_w(tmp_path: Path, capsys: Capture) -> None:
    run = run_of(tmp_path / "plain", "dcgan")
    out, kept = tmp_path / "d.png", tmp_path / "d.safetensors"
    words = [
        "directions",
        "--method",
        "attribute",
        "--attribute",
        "width",
        "--samples",
        "60",
        "--save",
        kept,
        "--out",
        out,
    ]
    assert main([str(word) for word in ("edit", run.path, *words)]) == 0
    assert "told rightly on held-out latents" in capsys.readouterr().out
    remade(run, out, capsys)
    moved = tmp_path / "m.png"
    assert main([str(word) for word in ("edit", run.path, "apply", "--edit", f"{kept}:width=-2", "--out", moved)]) == 0
    remade(run, moved, capsys)
    assert (
        main([str(x) for x in ("edit", run.path, "project", "--seeds", "2", "--steps", "2", "--quiet", "--out", out)])
        == 0
    )
    remade(run, out, capsys)
    film = tmp_path / "film.gif"
    assert main([str(x) for x in ("edit", run.path, "interpolate", "--seeds", "0", "1", "--loop", "--out", film)]) == 0
    with Image.open(film) as gif:
        assert gif.n_frames == 16
        assert json.loads(gif.info["comment"])["picture"]["way"]["loop"] is True


def test_an_older_checkpoint_is_found_again(run: Run, tmp_path: Path, capsys: Capture) -> None:
    copy = Run(shutil.copytree(run.path, tmp_path / "renamed"))
    out = tmp_path / "x.png"
    assert main(["edit", str(copy.path), "truncate", "--out", str(out)]) == 0
    add_checkpoint(copy, game_of("stylegan2", seed=1), 3000)
    remade(copy, out, capsys)
    remade(run, out, capsys)  # the same weights under another name
    newest = tmp_path / "y.png"
    assert main(["edit", str(copy.path), "truncate", "--out", str(newest)]) == 0
    capsys.readouterr()
    assert "has no such checkpoint: it may be another run" in refused(capsys, "sample", run.path, "--like", newest)


# ---- refusals
def test_pictures_of_others_are_refused(run: Run, tmp_path: Path, capsys: Capture) -> None:
    out = tmp_path / "x.png"
    assert main(["sample", str(run.path), "--out", str(out)]) == 0
    capsys.readouterr()
    other = run_of(tmp_path / "other", "stylegan2", seed=5)
    assert "it is another run" in refused(capsys, "sample", other.path, "--like", out)
    Image.open(out).save(tmp_path / "bare.png")
    assert "carries no recipe" in refused(capsys, "sample", run.path, "--like", tmp_path / "bare.png")
    (tmp_path / "text.png").write_text("text")
    assert "not a picture" in refused(capsys, "sample", run.path, "--like", tmp_path / "text.png")
    assert "there is no picture" in refused(capsys, "sample", run.path, "--like", tmp_path / "none.png")
    words = ("sample", run.path, "--like", out, "--n", 3, "--truncation", 0.5)
    assert "leave --n and --truncation out" in refused(capsys, *words)


@pytest.mark.parametrize(
    "change",
    [
        "text", {"picture": 3}, {"picture": {"x": 1}}, {"picture": {"codes": [[0]]}}, {"picture": {}},
        {"picture": {"w": {"array": "eJw=", "shape": [1, 1, 64], "dtype": "float32"}}},
        {"picture": {"w": {"array": "", "shape": [1 << 40], "dtype": "float32"}}},
        {"picture": {"w": {"array": "", "shape": [1], "dtype": "object"}}},
        {"picture": {"codes": [[0, 0]], "noise": {"maps": 1}}}, {"clock": "x"}, {"run": 3}, {"seed": "x"}, {"n": None},
    ],
)  # fmt: skip
def test_damaged_recipes_are_refused(change: Any, run: Run, tmp_path: Path, capsys: Capture) -> None:
    out = tmp_path / "x.png"
    assert main(["sample", str(run.path), "--n", "1", "--out", str(out)]) == 0
    capsys.readouterr()
    notes = again.read(out).notes
    info = PngImagePlugin.PngInfo()
    info.add_itxt("saddlepoint", change if isinstance(change, str) else json.dumps({**notes, **change}))
    Image.open(out).save(out, pnginfo=info)
    before = sorted(tmp_path.iterdir())
    assert str(out) in refused(capsys, "sample", run.path, "--like", out, "--out", tmp_path / "y.png")
    assert sorted(tmp_path.iterdir()) == before


def test_pixels_that_have_become_others_are_told(run: Run, tmp_path: Path, capsys: Capture) -> None:
    out = tmp_path / "x.png"
    assert main(["sample", str(run.path), "--n", "1", "--out", str(out)]) == 0
    with Image.open(out) as image:
        info = PngImagePlugin.PngInfo()
        info.add_itxt("saddlepoint", image.info["saddlepoint"])
        image.point(lambda v: v ^ 1).save(tmp_path / "y.png", pnginfo=info)
    capsys.readouterr()
    words = ["sample", str(run.path), "--like", str(tmp_path / "y.png"), "--out", str(tmp_path / "z.png")]
    assert main(words) == 0
    assert "not the same to the bit" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("", "needs RUN and a task: truncate,"),
        ("mxi", "unknown task of edit 'mxi'; did you mean 'mix'?"),
        ("mix --layer coarse", "did you mean --layers?"),
        ("mix --layers corse", "did you mean 'coarse'?"),
        ("truncate --out x.jpg", "ends in .png"),
        ("interpolate --out x.avi", "ends in .png or .gif or .mp4"),
        ("apply --edit sefa", "such as sefa:0=2@middle"),
        ("apply --edit sefa:x=1", "have numbers, from 0"),
        ("apply --edit sefa:0=1@99", "layers 0 to 5, not 99"),
        ("apply --edit attribute:glow=1", "unknown attribute"),
        ("apply --edit nowhere.safetensors:0=1", "no file of directions"),
        ("apply --latents nowhere.safetensors", "no projection"),
        ("apply --seeds x", "names no latent"),
        ("apply --label 3", "knows no classes"),
        ("project", "nothing to project"),
        ("project nowhere.png", "there is no picture"),
        ("project --seeds 0 --space z", "projected to w or w+"),
        ("truncate --checkpoint 5", "has no checkpoint '5'; did you mean '2'?"),
    ],
)
def test_the_command_refuses_in_one_line(words: str, said: str, run: Run, capsys: Capture) -> None:
    assert said in refused(capsys, "edit", run.path, *words.split())


def test_an_mp4_without_its_packages_names_the_extra(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"needs imageio and av: pip install 'saddlepoint\[video\]'"):
        films.refuse_suffix(tmp_path / "x.mp4")


def test_help_names_every_task(capsys: Capture) -> None:
    assert main(["edit", "--help"]) == 0
    text = capsys.readouterr().out
    assert all(f"  {task} " in text for task in ("truncate", "interpolate", "mix", "directions", "apply", "project"))
    assert main(["edit", "mix", "--help"]) == 0
    assert "--layers" in capsys.readouterr().out


# ---- recipes as JSON
def test_recipes_survive_json() -> None:
    vector = torch.arange(3.0)
    edit = Edit("e", vector, (1, 2), -2.0, 0.5)
    recipe = PictureRecipe(
        codes=((1, 2),), label=(3,), way=Way("slerp", 4, True, False), truncation=(0.5, 1.0), cutoff=3,
        mix=Mix(((4, 0),), (0, 1), (2,), False), edits=(edit,), sweep=Sweep((edit, edit), (-1.0, 1.0)),
        noise={"a": torch.randn(1, 1, 4, 4)}, noise_seed=3, columns=2,
        beside=torch.zeros(1, 2, 2, 1, dtype=torch.uint8),
    )  # fmt: skip
    text = json.dumps(to_json(recipe))
    back = from_json(json.loads(text))
    assert json.dumps(to_json(back)) == text
    assert torch.equal(back.edits[0].vector, vector)
    assert (back.way, back.truncation, back.codes, back.cutoff) == (recipe.way, (0.5, 1.0), ((1, 2),), 3)
    assert to_json(PictureRecipe()) == {}


def test_a_recipe_of_a_game_without_a_run_is_kept_but_cannot_be_traced(tmp_path: Path) -> None:
    path = editing.truncate(game_of("stylegan2"), 0.5).save(tmp_path / "x.png")
    with pytest.raises(UserError, match="recipe"):
        again.read(path)
