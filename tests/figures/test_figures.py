"""The pictures: the numbers behind each against closed forms, and that each shows something; the page; the command."""

from __future__ import annotations

import json
import math
import re
import subprocess
import sys
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image

from saddlepoint import figures
from saddlepoint.cli import main
from saddlepoint.errors import UserError
from saddlepoint.figures import pages
from saddlepoint.figures.formulas import mathml, prose
from saddlepoint.figures.picture import Picture, plain, rendered

LOG2, LOG4 = math.log(2), math.log(4)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Picture]]:
    """The quick gallery, made once, and the pictures in it."""
    kept: dict[str, Picture] = {}

    def keeping(name: str, *, quick: bool = False) -> Picture:
        kept[name] = figures.make(name, quick=quick)
        return kept[name]

    out = tmp_path_factory.mktemp("gallery")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pages, "make", keeping)
        figures.gallery(out, quick=True)
    return out, kept


@pytest.fixture(scope="module")
def numbers(made: tuple[Path, dict[str, Picture]]) -> dict[str, dict[str, Any]]:
    """What the JSON files hold."""
    return {name: json.loads((made[0] / f"{name}.json").read_text()) for name in figures.names()}


# ---- the table
def test_naming_the_pictures_imports_neither_matplotlib_nor_torch() -> None:
    code = (
        "import sys, saddlepoint.figures\nfrom saddlepoint.cli import main\nassert main(['figures', 'list']) == 0\n"
        "heavy = [m for m in ('matplotlib', 'torch', 'numpy', 'scipy') if m in sys.modules]\nassert not heavy, heavy"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert [line.split()[0] for line in done.stdout.splitlines() if line.startswith("  ")] == figures.names()


def test_chapters_are_not_interleaved() -> None:
    chapters = [entry.chapter for entry in figures.FIGURES.values()]
    assert sorted(set(chapters), key=chapters.index) == [
        c for i, c in enumerate(chapters) if i == 0 or chapters[i - 1] != c
    ]


def test_a_picture_is_a_function_of_the_package() -> None:
    assert figures.gamma_sweep is figures.function("gamma-sweep")
    with pytest.raises(AttributeError, match="gamma_swoop"):
        _ = figures.gamma_swoop


def test_unknown_names_and_formats_get_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="did you mean 'gamma-sweep'"):
        figures.make("gama-sweep")
    with pytest.raises(UserError, match="did you mean 'results'"):
        figures.gallery(tmp_path / "new", only=["result"])
    with pytest.raises(UserError, match="png, svg"):
        figures.gallery(tmp_path / "new", format="jpg")
    assert not (tmp_path / "new").exists()


# ---- what is drawn
@pytest.mark.parametrize("name", figures.names())
def test_every_picture_shows_something_and_says_what(name: str, made: tuple[Path, dict[str, Picture]]) -> None:
    out, pictures = made
    picture = pictures[name]
    axes = picture.figure.axes
    assert axes
    assert all(ax.has_data() or ax.texts for ax in axes), [ax.get_title() for ax in axes if not ax.has_data()]
    image = Image.open(out / f"{name}.png")
    assert image.size == (1600, 900)
    pixels = np.asarray(image.convert("L"), dtype=float)
    assert 0.003 < (pixels < 200).mean() < 0.75  # neither empty nor covered
    assert (pixels[[0, -1]] > 250).all()  # nothing touches the upper or lower edge
    assert (pixels[:, [0, -1]] > 250).all()
    assert len(picture.claim) > 60
    assert re.search(r"\d", picture.measured)
    assert "nan" not in picture.measured


@pytest.mark.parametrize("name", ["learning-process", "jsd-and-w1", "vector-fields", "dirac-trajectories"])
def test_what_the_lecture_animates_moves(name: str, made: tuple[Path, dict[str, Picture]]) -> None:
    path = made[0] / f"{name}.gif"
    film = Image.open(path)
    assert film.n_frames >= 12  # type: ignore[attr-defined]
    assert path.stat().st_size < 1_500_000
    first = np.asarray(film.convert("RGB"), dtype=int)
    film.seek(film.n_frames // 2)  # type: ignore[attr-defined]
    assert (np.abs(np.asarray(film.convert("RGB"), dtype=int) - first).max(2) > 60).mean() > 5e-4


def test_the_same_numbers_give_the_same_file() -> None:
    for format in ("png", "svg"):
        assert rendered(figures.make("dual-potential"), format) == rendered(figures.make("dual-potential"), format)
    with pytest.raises(UserError, match="pdf"):
        rendered(figures.make("dual-potential"), "pdf")


# ---- the numbers
def test_two_players(numbers: dict[str, dict[str, Any]]) -> None:
    assert numbers["two-player-diagram"]["value_at_d_one_half"] == pytest.approx(-LOG4, abs=1e-8)


def test_optimal_discriminator(numbers: dict[str, dict[str, Any]]) -> None:
    found = numbers["optimal-discriminator"]
    p, q, d = (np.array(found[k]) for k in ("p", "q", "d"))
    np.testing.assert_allclose(d, p / (p + q), atol=1e-7)
    assert found["largest_error"] < 1e-6
    assert found["values"][-1] == pytest.approx(-LOG4, abs=1e-7)
    assert np.all(np.diff(found["values"]) < 0)
    np.testing.assert_allclose(found["pointwise_maximum"], found["p_over_p_plus_q"], atol=2e-3)


def test_learning(numbers: dict[str, dict[str, Any]]) -> None:
    found = numbers["learning-process"]
    x, q = np.array(found["x"]), np.array(found["moments"][-1]["q"])
    assert np.trapezoid(q, x) == pytest.approx(1, abs=1e-6)
    assert found["moments"][0]["round"] == 0
    assert all(0 <= value <= LOG2 for value in found["jsd"])
    for moment in found["moments"]:  # the bounds of the divergences hold on what was measured
        assert moment["tv"] ** 2 / 2 - 1e-6 <= moment["jsd"] <= LOG2 * moment["tv"] + 1e-6
        p = np.array(found["p"])
        np.testing.assert_allclose(moment["optimal_d"], p / (p + np.array(moment["q"])), atol=1e-3)


def test_results(numbers: dict[str, dict[str, Any]]) -> None:
    found = numbers["results"]
    assert len(found["samples_to_nearest_real"]) == 32
    assert min(found["samples_to_nearest_real"]) > 0
    assert found["rounds"][-1] * 100 == found["images_seen"]


def test_mode_collapse(numbers: dict[str, dict[str, Any]]) -> None:
    plain_gan = numbers["mode-collapse"]["cells"]["K=0"]
    assert plain_gan["largest_share_later"] > 0.8
    assert len(set(plain_gan["leading_mode"])) > 3
    assert plain_gan["hops"] >= 5


def test_vanishing_gradients(numbers: dict[str, dict[str, Any]]) -> None:
    found = numbers["vanishing-gradients"]
    assert found["at_logit_minus_10"]["saturating_gradient"] == pytest.approx(-4.54e-5, rel=1e-3)
    assert found["at_logit_minus_10"]["non_saturating_gradient"] == pytest.approx(-0.99995, abs=1e-5)
    t = np.array(found["logit"])
    np.testing.assert_allclose(np.array(found["saturating_gradient"]), -1 / (1 + np.exp(-t)), atol=1e-8)
    shares = np.array(found["saturating"]) / np.array(found["nonsaturating"])
    assert shares[-1] < shares[0] / 3  # what is left for the saturating loss dwindles as d learns
    assert all(bound <= LOG2 for bound in found["jsd_bound"])


def test_jsd_and_w1(numbers: dict[str, dict[str, Any]]) -> None:
    found = numbers["jsd-and-w1"]
    expected = {"1": 0.111421, "2": 0.336831, "4": 0.632720, "10": 0.693146}
    assert found["jsd_at"] == {k: pytest.approx(v, abs=1e-6) for k, v in expected.items()}
    assert found["largest_error_of_w1"] < 1e-9
    assert found["slope_of_jsd_at"]["9"] < 1e-4 < found["slope_of_jsd_at"]["2"]


def test_worked_example_from_both_sides(numbers: dict[str, dict[str, Any]]) -> None:
    plan, dual = numbers["transport-plan"], numbers["dual-potential"]
    assert plan["cost"] == plan["w1"] == plan["monotone_plan"]["cost"] == pytest.approx(3, abs=1e-12)
    assert sum(move["cost"] for move in plan["moves"]) == pytest.approx(3)
    assert [move["shift"] for move in plan["moves"]] == [4, 2, 3]
    assert (dual["primal"], dual["dual"], dual["lipschitz"]) == (pytest.approx(3), pytest.approx(3), pytest.approx(1))
    assert (dual["mean_under_p"], dual["mean_under_q"]) == (pytest.approx(2), pytest.approx(-1))
    assert dual["largest_difference_to_the_lectures_f"] < 1e-12


def test_wgan_figure_2(numbers: dict[str, dict[str, Any]]) -> None:
    found = numbers["wgan-figure-2"]
    x = np.array(found["x"])
    np.testing.assert_allclose(found["optimal"], 1 / (1 + np.exp(np.clip(10 * x, -700, 700))), atol=1e-8)
    # A 1-Lipschitz function never proves more than W1; a penalty leaves more of it than clipping.
    assert found["estimate_of_w1"] < found["estimate_of_w1_penalised"] <= 10 + 1e-6
    d = np.array(found["discriminator"])
    assert d[x < -4].min() > 0.5 > d[x > 4].max()


def test_three_fields(numbers: dict[str, dict[str, Any]]) -> None:
    found = numbers["vector-fields"]
    gradient, rotation, both = found["fields"]
    assert [f["curl"] for f in found["fields"]] == [0, 2, 2]
    assert [f["rotation_share"] for f in found["fields"]] == pytest.approx([0, 1, 2 / 2.72])
    assert gradient["eigenvalues"] == [[-1, 0], [-1, 0]]
    assert sorted(z[1] for z in rotation["eigenvalues"]) == pytest.approx([-1, 1])
    assert [z[0] for z in both["eigenvalues"]] == pytest.approx([-0.6, -0.6])
    assert found["minus_gradient_of_half_v_squared"] == gradient["jacobian"]  # -J^T J of the rotation
    assert found["combined"] == both["jacobian"]
    assert rotation["end_of_path"] == pytest.approx([1.5, 0.9], abs=1e-8)
    assert both["end_of_path"] == pytest.approx(np.exp(-1.2 * math.pi) * np.array([1.5, 0.9]), abs=1e-8)


def test_discrete_steps(numbers: dict[str, dict[str, Any]]) -> None:
    found = numbers["discrete-steps"]
    assert found["steps"]["1"]["squared_radius"] == pytest.approx(1.3)
    assert found["steps"]["0.5"]["squared_radius"] == pytest.approx(0.9)
    assert found["steps"]["1"]["rounds_per_turn"] == pytest.approx(6.5, abs=0.05)
    assert found["largest_stable_step"] == pytest.approx(0.7)
    M = np.eye(2) + np.array(found["jacobian"])  # h = 1: what the engine played is M w
    path = np.array(found["steps"]["1"]["path"])
    np.testing.assert_allclose(path[1:], path[:-1] @ M.T, atol=1e-7)


def test_continuous_flow(numbers: dict[str, dict[str, Any]]) -> None:
    cases = numbers["continuous-flow"]["cases"]
    assert cases["diverges"]["rate_over_a_turn"] == pytest.approx(0.15, abs=1e-8)
    assert cases["converges"]["rate_over_a_turn"] == pytest.approx(-0.35, abs=1e-8)


def test_dirac_trajectories(numbers: dict[str, dict[str, Any]]) -> None:
    found = numbers["dirac-trajectories"]["methods"]
    assert len(found) == 10
    f = 1 / (1 + math.exp(1))  # f'(1) = sigmoid(-1), one simultaneous step of 0.2 from (1, 1)
    assert found["GAN"]["path"]["simultaneous"][1] == pytest.approx([1 - 0.2 * f, 1 + 0.2 * f], abs=1e-8)
    distance = {name: each["distance"]["simultaneous"] for name, each in found.items()}
    assert distance["GAN"] > math.sqrt(2) > distance[r"R1, $\gamma=0.3$"]
    assert distance[r"R1, $\gamma=1$"] < distance[r"R1, $\gamma=0.3$"]


@pytest.mark.slow
def test_dirac_distances_after_500_rounds() -> None:
    """The table of the numerics sheet: simultaneous, alternating."""
    found = figures.make("dirac-trajectories").numbers["methods"]
    for name, expected in {
        "GAN": (3.097, 1.421), "non-saturating": (0.640, 0.284), "WGAN, clip 1": (1.002, 1.024),
        "WGAN-GP": (1.802, 1.221),
        "instance noise, 0.7": (5.7e-5, 4.0e-6), r"R1, $\gamma=0.3$": (2.6e-6, 2.3e-7),
        r"consensus, $\gamma=1$": (2.6e-10, 1.8e-11), r"non-sat. + R1, 0.3": (2.2e-6, 1.5e-7),
    }.items():  # fmt: skip
        got = found[name]["distance"]
        assert (got["simultaneous"], got["alternating"]) == pytest.approx(expected, rel=0.03), name


def test_dirac_spectra(numbers: dict[str, dict[str, Any]]) -> None:
    found = numbers["dirac-spectra"]["methods"]
    assert max(each["error"] for each in found.values()) < 1e-7
    steps = {name: each["largest_stable_step"] for name, each in found.items()}
    assert steps["GAN"]["simultaneous"] == 0
    assert steps["GAN"]["alternating"] == pytest.approx(4, abs=1e-3)
    for name, simultaneous, alternating in (("0.3", 1.2, 2.976), ("1", 4.0, 1.657), ("2", 1.0718, 0.944)):
        got = steps[rf"R1, $\gamma={name}$"]
        assert (got["simultaneous"], got["alternating"]) == pytest.approx((simultaneous, alternating), abs=1e-3)
    assert steps[r"consensus, $\gamma=1$"]["simultaneous"] == pytest.approx(1.6, abs=1e-6)


def test_gamma_sweep(numbers: dict[str, dict[str, Any]]) -> None:
    found = numbers["gamma-sweep"]
    assert found["largest_error"] < 1e-7
    assert found["gamma_where_printed_agrees"] == [1]
    last = sorted(z[0] for z in found["eigenvalues"][-1])
    assert last == pytest.approx([-1.3090, -0.1910], abs=1e-4)
    assert found["at_gamma_2"]["printed"] == [[-0.5, 0], [-1.5, 0]]
    assert [z[0] for z in found["at_gamma_2"]["true"]] == pytest.approx([-0.1340, -1.8660], abs=1e-4)
    assert found["at_gamma_0.3"]["true"][0] == pytest.approx([-0.15, 0.4770], abs=1e-4)
    assert found["at_gamma_0.3"]["printed"][0] == pytest.approx([-0.15, 0.4183], abs=1e-4)


# ---- the page
def test_the_page_has_a_section_for_each_picture_and_needs_no_network(made: tuple[Path, dict[str, Picture]]) -> None:
    out, pictures = made
    page = (out / "index.html").read_text()
    assert re.findall(r'<section id="([^"]+)">', page) == figures.names()
    assert not re.search(r"https?:|//[a-z]|<script|@import|url\(", re.sub(r"base64,[^\"]+", "", page))
    assert page.count('src="data:image/png;base64,') == len(pictures)
    assert page.count('src="data:image/gif;base64,') == sum(p.animation is not None for p in pictures.values()) == 4
    for link in re.findall(r'href="([^"#]+)"', page):
        assert (out / link).is_file()
    assert set(re.findall(r'href="#([^"]+)"', page)) == set(figures.names())
    assert page.count("Corrected</span>") == sum(bool(p.correction) for p in pictures.values())


def test_formulas_of_all_pictures_are_well_formed(made: tuple[Path, dict[str, Picture]]) -> None:
    for picture in made[1].values():
        root = ElementTree.fromstring(mathml(picture.formula, display=True))
        assert root.tag == "math"
        for text in (picture.claim, picture.measured, picture.correction):
            ElementTree.fromstring(f"<p>{prose(text)}</p>")


def test_tex_becomes_mathml() -> None:
    assert mathml(r"x_1^2") == "<math><mrow><msubsup><mi>x</mi><mn>1</mn><mn>2</mn></msubsup></mrow></math>"
    assert "<mfrac><mrow><mi>a</mi></mrow><mrow><mn>2</mn></mrow></mfrac>" in mathml(r"\frac{a}{2}")
    assert "<mtext>\u00a0if and only if\u00a0</mtext>" in mathml(r"a \text{ if and only if } b")
    assert prose("$a<b$ & more") == f"{mathml('a<b')} &amp; more"
    for broken in (r"\nosuch", "{a", "a}", "x^", r"\frac{1}"):
        with pytest.raises(ValueError):
            mathml(broken)
    with pytest.raises(ValueError, match="missing"):
        prose("a $ b")


def test_numbers_become_plain_json() -> None:
    values = {"z": 1 + 2j, "a": np.array([1.0, float("nan")]), "n": np.int64(3), "yes": np.True_, "inf": math.inf}
    assert plain(values) == {"z": [1, 2], "a": [1, None], "n": 3, "yes": True, "inf": None}
    assert plain(1 / 3, digits=3) == 0.333


# ---- the command
def test_the_command_makes_one_picture(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["figures", "dual-potential", "--out", str(tmp_path / "new"), "--format", "svg"]) == 0
    assert capsys.readouterr().out.split() == [
        str(tmp_path / "new" / f"dual-potential.{end}") for end in ("svg", "json")
    ]
    ElementTree.parse(tmp_path / "new" / "dual-potential.svg")
    assert (
        json.loads((tmp_path / "new" / "dual-potential.json").read_text())["command"]
        == "saddlepoint figures dual-potential"
    )


def test_the_command_refuses_unknown_names_and_places(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["figures", "duel-potential"]) == 2
    assert "did you mean 'dual-potential'" in capsys.readouterr().err
    (tmp_path / "file").write_text("")
    assert main(["figures", "dual-potential", "--out", str(tmp_path / "file")]) == 2
    assert "cannot write pictures" in capsys.readouterr().err
