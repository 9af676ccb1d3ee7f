"""`saddlepoint analyse`: what it says of runs whose spectra are known in closed form, and of a small network."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import saddlepoint as sp
from saddlepoint.cli import lab, main
from saddlepoint.figures import analysis
from saddlepoint.runs import Run


@pytest.fixture(scope="module")
def dirac(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """R1 with gamma 1: after 500 rounds at the equilibrium to rounding."""
    out = tmp_path_factory.mktemp("runs") / "dirac"
    settings = {"method": "r1", "gamma": 0.6, "checkpoint_kimg": 0.25, "keep_checkpoints": 9}
    return sp.train("dirac", out=out, progress=False, device="cpu", **settings)


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Run:
    out = tmp_path_factory.mktemp("runs") / "toy"
    settings = {
        "hidden": (6,),
        "d_hidden": (6,),
        "latent": 2,
        "batch": 16,
        "checkpoint_kimg": 0.08,
        "keep_checkpoints": 9,
    }
    return sp.train("toy", out=out, kimg=0.16, progress=False, device="cpu", ema_half_life_kimg=0.1, **settings)


def test_dirac_has_its_closed_form_spectrum_at_the_last_checkpoint(dirac: Run) -> None:
    points = list(analysis.along(dirac))
    assert [point.kimg for point in points] == [0.25, 0.5]
    last = points[-1]
    z = last.report.leading.eigenvalues
    assert sorted(z.imag) == pytest.approx([-0.4, 0.4], abs=1e-4)  # -gamma/2 +- sqrt(gamma^2/4 - 1/4)
    assert z.real == pytest.approx([-0.3, -0.3], abs=1e-4)
    assert last.report.simultaneous_step == pytest.approx(2.4, abs=1e-3)  # gamma / a^2
    assert last.own_radius == pytest.approx(abs(1 + 0.2 * complex(-0.3, 0.4)), abs=1e-4)  # SGD with 0.2
    assert last.report.continuous.verdict == "converges"


def test_live_weights_are_looked_at(toy: Run) -> None:
    folder = toy.checkpoints()[-1]
    live, averaged = toy.game_at(folder, averaged=False), toy.game_at(folder)
    difference = [
        float((a - b).detach().abs().max())
        for a, b in zip(live.generator.parameters(), averaged.generator.parameters(), strict=True)
    ]
    assert max(difference) > 0
    point = next(analysis.along(toy, last=True, batch=16))
    from saddlepoint import api
    from saddlepoint.theory import jacobian

    source = api._source(toy.recipe)
    assert source is not None
    game = live.double().train()
    J = jacobian(game, game.round(source(0, 16, 0, 16), 0)).numpy()
    np.testing.assert_allclose(
        np.abs(point.report.leading.eigenvalues),
        np.sort(np.abs(np.linalg.eigvals(J)))[::-1][: len(point.report.leading.eigenvalues)],
        rtol=1e-9,
    )


def test_the_command_prints_plots_and_saves(toy: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["analyse", str(toy.path), "--k", "4", "--batch", "16", "--out", str(tmp_path / "a")]) == 0
    out = capsys.readouterr().out
    assert "0.08 kimg" in out
    assert "rotation share" in out
    assert "stable plain step" in out
    assert Image.open(tmp_path / "a" / "analysis.png").size == (1600, 900)
    values = json.loads((tmp_path / "a" / "analysis.json").read_text())["checkpoints"]
    assert [v["kimg"] for v in values] == [0.08, 0.16]
    assert all(0 <= v["rotation_share"] <= 1 for v in values)
    assert len(values[0]["leading"]["eigenvalues"]) in (4, 5)
    assert not (toy.path / "analysis").exists()


def test_one_checkpoint_into_the_run_folder(dirac: Run, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["analyse", str(dirac.path), "--checkpoints", "last"]) == 0
    assert (dirac.path / "analysis" / "analysis.png").is_file()
    assert "0.5 kimg" in capsys.readouterr().out


def test_precision_is_chosen_by_size_and_single_agrees_with_double(toy: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    double = next(analysis.along(toy, last=True, batch=16))
    monkeypatch.setattr(analysis, "DOUBLE", 10)
    single = next(analysis.along(toy, last=True, batch=16))
    assert (double.precision, single.precision) == ("double", "single")
    np.testing.assert_allclose(
        np.abs(single.report.leading.eigenvalues), np.abs(double.report.leading.eigenvalues), rtol=1e-4
    )
    assert next(analysis.along(toy, last=True, batch=16, precision="double")).precision == "double"
    with pytest.raises(sp.UserError, match="did you mean 'double'"):
        next(analysis.along(toy, precision="doubel"))


def test_games_without_a_matrix_tell_how_far_they_are() -> None:
    from saddlepoint.theory import local_convergence
    from tests.games import Small, spiral

    game, told = Small().double(), []
    local_convergence(
        game, game.round(spiral(0, 8, 0, 8)), 2, dense=0, probes=3, progress=lambda *now: told.append(now)
    )
    parts = [part for part, _, _ in told]
    assert sorted(set(parts), key=parts.index) == ["largest", "rightmost", "rotation"]
    counts = [done for part, done, _ in told if part == "largest"]
    assert counts == list(range(1, len(counts) + 1))
    assert told[-1] == ("rotation", 6, 6)


@pytest.mark.parametrize("live", [False, True])
def test_the_line_of_progress_states_what_is_left(live: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    class Stream(io.StringIO):
        def isatty(self) -> bool:
            return live

    now = [0.0]
    monkeypatch.setattr(lab.time, "perf_counter", lambda: now[0])
    stream = Stream()
    watch = lab.Watch(stream)
    for done in range(1, 11):
        now[0] += 100.0 if done == 1 else 2.0  # the first builds the graph
        watch("largest", done, 30)
    said = [line for line in stream.getvalue().replace("\r\x1b[K", "\n").split("\n") if line]
    assert len(said) == (7 if live else 1)
    # 26 of the largest are left after four, then 75 rightmost, 30 of the optimizers' own steps and 16 of rotation.
    assert said[0] == "  largest: 4 products of 2 s; about 294 s left for this checkpoint"


def test_refusals(tmp_path: Path, dirac: Run, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["analyse", str(tmp_path / "none")]) == 2
    assert main(["analyse", str(dirac.path), "--k", "0"]) == 2
    assert "--k is 0" in capsys.readouterr().err
