"""report.html: one file, small, well formed, with everything in it; and the charts it draws."""

from __future__ import annotations

import base64
import io
import json
import math
import re
import shutil
import xml.etree.ElementTree as ET
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from PIL import Image

import saddlepoint as sp
from saddlepoint import recipes
from saddlepoint.objectives import OBJECTIVES
from saddlepoint.recipes import settings
from saddlepoint.report import charts, page, words, write_report
from saddlepoint.report.charts import Line, Mark, chart, log_ticks, number, ticks
from saddlepoint.report.images import corner, fitting
from saddlepoint.runs import Run, create, write_json

VOID = {"meta", "img", "br", "path", "rect"}
SVG = "{http://www.w3.org/2000/svg}"


class Page(HTMLParser):
    """What a browser would see: balanced tags, attributes, text by tag."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.attributes: list[tuple[str, str, str]] = []
        self.text: dict[str, list[str]] = {}
        self.feed(text)
        assert self.open == [], f"never closed: {self.open}"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.attributes += [(tag, name, value or "") for name, value in attrs]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.attributes += [(tag, name, value or "") for name, value in attrs]

    def handle_endtag(self, tag: str) -> None:
        assert self.open, f"</{tag}> closes nothing"
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if data.strip():
            self.text.setdefault(self.open[-1] if self.open else "", []).append(data)

    def images(self) -> list[Image.Image]:
        found = [value for tag, name, value in self.attributes if (tag, name) == ("img", "src")]
        return [Image.open(io.BytesIO(base64.b64decode(src.partition("base64,")[2]))) for src in found]


SMALL = {"width": 8, "latent": 4, "batch": 16, "resolution": 8, "precision": "fp32", "channels_last": False}


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Run:
    recipe = sp.recipe("dcgan", kimg=0.16, **SMALL, **{"penalty.r1": 0.5, "d.lr": 1e-3})
    return sp.train(recipe, "digits", tmp_path_factory.mktemp("runs") / "first", progress=False, device="cpu")


@pytest.fixture
def run(finished: Run, tmp_path: Path) -> Run:
    return Run(shutil.copytree(finished.path, tmp_path / "first"))


def made_up(path: Path, log: list[dict[str, Any]], data: str = "digits", **changes: Any) -> Run:
    """A run folder without a training."""
    recipe = sp.recipe("dcgan", data=data, **{**SMALL, "channels": 1, **changes}).with_intervals()
    run = create(path, recipe)
    (run.path / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in log))
    return run


def line(clock: int, **terms: float) -> dict[str, Any]:
    """A line of the log; generator__gan is written for generator/gan."""
    always = {"clock": clock, "kimg": clock / 1000, "step": clock // 16, "seconds": clock / 100}
    return {**always, "images_per_second": 100.0, **{k.replace("__", "/"): v for k, v in terms.items()}}


# ---- the page
def test_training_leaves_a_report_and_it_can_be_written_again(run: Run) -> None:
    path = run.path / "report.html"
    assert path.is_file()
    path.unlink()
    assert write_report(run) == path
    assert path.read_text() == page(run)


def test_it_asks_nothing_of_any_network(run: Run) -> None:
    text = page(run)
    for tag, name, value in Page(text).attributes:
        if name in ("src", "href", "srcset", "action", "data", "poster", "xlink:href"):
            assert value.startswith("data:"), f"<{tag} {name}={value[:60]}>"
    assert not re.search(r"@import|<script|<link|<iframe|url\((?!#)", text)


def test_it_has_the_samples_over_time_beside_real_images(run: Run) -> None:
    found = Page(page(run))
    grids = sorted(p for p in (run.path / "samples").glob("*.png") if p.stem.isdigit())
    images = found.images()
    assert len(images) == 2 + len(grids)
    for image, file in zip(images[:2], (grids[-1], run.path / "samples" / "real.png"), strict=True):
        assert np.array_equal(np.asarray(image), np.asarray(Image.open(file)))
    labels = [text for text in found.text["figcaption"] if re.fullmatch(r"[\d.]+ kimg", text)]
    assert [float(label.split()[0]) for label in labels] == [int(p.stem) / 1000 for p in grids]
    assert labels[0] == "0 kimg"


def test_it_has_a_curve_for_every_term_with_what_it_means(run: Run) -> None:
    found, names = Page(page(run)), {name for line in run.log() for name in line}
    assert {"discriminator/gan", "discriminator/r1", "generator/gan", "gradient_norm.generator"} <= names
    headings = [text for text in found.text["h3"] if not text.endswith("? ")]  # those are questions with verdicts
    assert headings[:4] == ["Losses (nonsaturating)", "R1 penalty", "Gradient norms", "Speed"]
    text = page(run)
    assert len(re.findall(r'<path class="line', text)) == 2 + 1 + 2 + 1
    assert "2 log 2 ≈ 1.386" in text
    for svg in re.findall(r"<svg.*?</svg>", text):
        root = ET.fromstring(svg.replace("<svg ", '<svg xmlns="http://www.w3.org/2000/svg" '))
        labels = [element.text for element in root.iter(f"{SVG}text")]
        assert "kimg (thousand images)" in labels
        assert {"loss (nats)", "loss", "norm (log scale)", "images per second"} & set(labels)


def test_it_marks_what_differs_from_the_preset(run: Run) -> None:
    text = page(run)
    changed = dict(re.findall(r'<tr class="changed"><td>(\S+)</td><td>[^<]+ <small>preset: ([^<]+)</small>', text))
    assert changed.keys() == {*SMALL, "kimg", "penalty.r1", "d.lr"} - {"resolution"}
    assert (changed["kimg"], changed["d.lr"], changed["penalty.r1"]) == ("240", "0.0002", "0")
    rows = re.findall(r'<tr class="\w*"><td>([\w.]+)</td>', text)
    assert set(settings.flat(run.recipe)) <= set(rows)


def test_it_has_the_lines_that_make_it_again(run: Run) -> None:
    blocks = [block for block in Page(page(run)).text["pre"] if "sp." not in block]
    command = settings.command(run.recipe, str(run.path), settings.native_facts(run.recipe))
    assert command in blocks
    assert "--penalty.r1 0.5" in command
    assert "--resolution" not in command  # it is what the data decide


def test_it_has_data_environment_and_checkpoints(run: Run) -> None:
    cells = Page(page(run)).text["td"]
    facts = sp.data.describe("digits")
    for expected in (facts.licence, facts.attribution, run.environment["torch"], "1,618"):
        assert expected in cells
    for folder in run.checkpoints():
        size = sum(file.stat().st_size for file in folder.iterdir()) / 1e6
        assert cells[cells.index(f"{int(folder.name) / 1000:g} kimg") + 1] == f"{size:,.2f} MB"


def test_a_run_that_is_not_at_its_end_says_how_to_go_on(run: Run) -> None:
    assert "This run is at" not in page(run)
    values = json.loads((run.path / "recipe.json").read_text())
    write_json(run.path / "recipe.json", {**values, "kimg": 8.0})
    text = page(Run(run.path))
    assert f"This run is at {run.clock / 1000:g} of 8 kimg" in text
    assert f"saddlepoint resume {run.path}" in text


def test_a_failed_round_is_the_first_thing_told(run: Run) -> None:
    (run.path / "failure").mkdir()
    write_json(run.path / "failure" / "round.json", {"error": "the gradient of 'd' is not finite & more."})
    text = page(run)
    assert "This run stopped: the gradient of &#x27;d&#x27; is not finite &amp; more." in text
    assert text.index("This run stopped") < text.index("<h2>Samples")


def test_names_of_files_cannot_break_the_page(tmp_path: Path) -> None:
    folder = tmp_path / 'a<b>"&c'
    folder.mkdir()
    for shade in (10, 200):
        Image.new("L", (8, 8), shade).save(folder / f"{shade}.png")
    run = made_up(tmp_path / "<i>run", [line(16, discriminator__gan=1.0)], data=str(folder))
    text = page(run)
    Page(text)
    assert "<b>" not in text
    assert "<i>run" not in text
    assert "DCGAN on a&lt;b&gt;&quot;&amp;c" in text


def test_data_that_are_gone_are_told_not_fatal(tmp_path: Path) -> None:
    run = made_up(tmp_path / "run", [line(16, discriminator__gan=1.0)], data=str(tmp_path / "gone"))
    text = page(run)
    assert "is not the name of a set, a folder or a .zip" in text
    assert "Settings" in text


def test_a_run_that_has_not_begun_has_a_report(tmp_path: Path) -> None:
    text = page(made_up(tmp_path / "run", []))
    Page(text)
    assert "There are none yet." in text
    assert "<svg" not in text


def test_values_that_are_not_finite_leave_gaps(tmp_path: Path) -> None:
    values = [1.0, 2.0, math.nan, 3.0, math.inf, 4.0]
    log = [line(16 * (i + 1), generator__gan=v) for i, v in enumerate(values)]
    text = page(made_up(tmp_path / "run", log))
    path = re.search(r'<path class="line l0"[^>]* d="([^"]*)"', text)
    assert path
    assert "nan" not in path[1]
    assert "inf" not in path[1]
    assert path[1].count("M") == 3  # 1 2 | 3 | 4


def test_it_stays_small_whatever_the_pictures_are(tmp_path: Path) -> None:
    """Noise does not compress: a grid takes 1 MB, and there are 15 of them."""
    log = [line(16 * i, discriminator__gan=1.0, generator__gan=0.5) for i in range(1, 3000)]
    run = made_up(tmp_path / "run", log, resolution=64, channels=3)
    rng = np.random.default_rng(0)
    noise = Image.fromarray(rng.integers(0, 256, (600, 600, 3), dtype=np.uint8))
    noise.save(run.path / "samples" / "real.png", compress_level=0)
    for clock in range(14):
        shutil.copy(run.path / "samples" / "real.png", run.path / "samples" / f"{clock:012d}.png")
    path = write_report(run)
    assert path.stat().st_size < 3_000_000
    images = Page(path.read_text()).images()
    assert len(images) == 2 + 12
    assert min(image.width for image in images[:2]) >= 400


def test_every_objective_and_penalty_has_its_words() -> None:
    from saddlepoint.penalties import judge

    assert words.OBJECTIVES.keys() == OBJECTIVES.keys()
    terms = set(re.findall(r'terms\["(\w+)"\]', Path(judge.__code__.co_filename).read_text()))
    assert terms
    assert terms <= words.TERMS.keys()


@pytest.mark.parametrize("name", OBJECTIVES)
def test_the_dashed_lines_are_the_losses_of_an_undecided_discriminator(name: str) -> None:
    """It gives every image the same logit: the one that minimises its own loss, by the objective's own functions."""
    import torch

    logits = torch.linspace(-3, 3, 601, dtype=torch.float64)  # 0 and 1/2 are among them
    objective, meaning = OBJECTIVES[name], words.OBJECTIVES[name]
    first = objective.discriminator(logits, logits)
    best = int((first - 1e-9 * (logits == 0)).argmin())
    assert meaning.first is not None
    assert float(first[best]) == pytest.approx(meaning.first[0], abs=1e-12)
    if meaning.second is not None:
        second = objective.generator(logits[best], logits[best])
        assert float(second) == pytest.approx(meaning.second[0], abs=1e-12)


@pytest.mark.parametrize("objective", ["nonsaturating", "minimax"])
def test_the_2014_game_s_lines_are_its_own_losses(objective: str) -> None:
    """Its discriminator minimises half the cross entropy: log 2 where it is undecided, not 2 log 2."""
    meaning = words.meaning("gan", objective)
    assert meaning is not None
    assert meaning.first is not None
    game = sp.game("gan", data="digits", objective=objective, resolution=8, keep_input=1.0, keep_hidden=1.0)
    import torch

    with torch.no_grad():
        for parameter in game.discriminator.parameters():
            parameter.zero_()
    terms = game.loss("discriminator", game.round({"image": torch.rand(4, 1, 8, 8)}))
    assert float(terms["gan"].detach()) == pytest.approx(meaning.first[0], rel=1e-6)
    generator = float(game.loss("generator", game.round({"image": torch.rand(4, 1, 8, 8)}))["gan"].detach())
    assert meaning.second is not None
    assert generator == pytest.approx(meaning.second[0], rel=1e-6)


@pytest.mark.parametrize("system", recipes.systems())
def test_the_name_of_every_system_is_short(system: str) -> None:
    from saddlepoint.report import system_name

    assert 2 < len(system_name(system)) < 25


# ---- pictures
def test_the_corner_of_a_grid_is_cut_between_pictures(finished: Run) -> None:
    file = finished.path / "samples" / "real.png"
    grid = np.asarray(Image.open(file))
    noted = max((finished.path / "samples").glob("0*.png"))
    cut = np.asarray(corner(noted))
    whole = np.asarray(Image.open(noted))
    pitch = (whole.shape[0] + 8) // 8  # 64 pixels and a gap of 8
    assert pitch == 72
    assert np.array_equal(cut, whole[: 4 * pitch - 8, : 4 * pitch - 8])
    assert grid.shape == whole.shape


def test_a_picture_that_is_no_grid_is_not_cut(tmp_path: Path) -> None:
    Image.new("L", (100, 40), 7).save(tmp_path / "x.png")
    assert corner(tmp_path / "x.png").size == (100, 40)


@given(st.integers(20, 300), st.integers(20, 300), st.sampled_from([2000, 10_000, 10**7]))
def test_a_picture_fits_its_budget_and_keeps_its_shape(width: int, height: int, budget: int) -> None:
    rng = np.random.default_rng(width * height)
    image = Image.fromarray(rng.integers(0, 256, (height, width, 3), dtype=np.uint8))
    content, size = fitting(image, budget)
    assert len(content) <= budget or max(size) <= 32
    if budget == 10**7:
        assert size == image.size
        assert np.array_equal(np.asarray(Image.open(io.BytesIO(content))), np.asarray(image))
    if min(size) > 16:
        assert size[0] / size[1] == pytest.approx(width / height, rel=0.1)


# ---- charts
@given(st.floats(-1e6, 1e6), st.floats(1e-6, 1e6), st.integers(3, 8))
def test_ticks_are_round_and_inside(low: float, span: float, count: int) -> None:
    assume(span > 1e-6 * abs(low))  # below, neighbouring floats are the limit, not the ticks
    high = low + span
    found = ticks(low, high, count)
    assert 1 <= len(found) <= 2 * count + 1
    assert all(low - 1e-6 * span <= tick <= high + 1e-6 * span for tick in found)
    if len(found) > 1:
        step = found[1] - found[0]
        mantissa = step / 10 ** math.floor(math.log10(step) + 1e-6)
        assert min(abs(mantissa - m) for m in (1, 2, 5, 10)) < 1e-2 * max(1, abs(low) / span * 1e-3)


def test_ticks_by_hand() -> None:
    assert ticks(0, 1) == pytest.approx([0, 0.2, 0.4, 0.6, 0.8, 1])
    assert ticks(0.3, 40, 6) == [10, 20, 30, 40]
    assert log_ticks(0.02, 0.6) == pytest.approx([0.02, 0.05, 0.1, 0.2, 0.5])
    assert log_ticks(0.5, 2000) == [1, 10, 100, 1000]
    assert [number(v) for v in (0, 0.25, -3, 1500, 25_000, 0.001, 2.5e-7, 3e9)] == [
        "0", "0.25", "−3", "1,500", "25k", "1e−3", "2.5e−7", "3e9",
    ]  # fmt: skip


def points(svg: str, colour: int = 0) -> list[tuple[float, float]]:
    path = re.search(rf'<path class="line l{colour}"[^>]* d="([^"]*)"', svg)
    assert path
    return [(float(x), float(y)) for x, y in re.findall(r"[ML](\S+?) ([^ML]+)", path[1])]


def drawn(ys: list[float], **more: Any) -> str:
    return chart([Line("a", list(range(len(ys))), ys)], key="k", x_label="x", y_label="y", **more)


def test_a_chart_puts_points_where_they_belong() -> None:
    found = points(drawn([0.0, 1.0, 0.5]))
    left, right, bottom = charts.LEFT, charts.WIDTH - charts.RIGHT, charts.HEIGHT - charts.BOTTOM
    assert [x for x, _ in found] == pytest.approx([left, (left + right) / 2, right], abs=0.1)
    assert found[0][1] == pytest.approx(bottom, abs=0.1)  # the axis begins at 0
    assert found[2][1] == pytest.approx((found[0][1] + found[1][1]) / 2, abs=0.1)
    assert found[1][1] > charts.TOP


def test_a_logarithmic_chart_is_even_in_ratios() -> None:
    ys = [y for _, y in points(drawn([1.0, 10.0, 100.0], log=True))]
    assert ys[0] - ys[1] == pytest.approx(ys[1] - ys[2], abs=0.2)
    assert len(points(drawn([1.0, 0.0, 100.0, -3.0], log=True))) == 2


def test_one_wild_value_does_not_flatten_the_rest() -> None:
    rng = np.random.default_rng(0)
    usual = list(rng.uniform(1, 2, 300))
    ys = [y for _, y in points(drawn([*usual[:150], 1e6, *usual[150:]]))]
    inside = sorted(ys[:150] + ys[151:])
    assert inside[-1] - inside[0] > 0.5 * (charts.HEIGHT - charts.TOP - charts.BOTTOM)
    assert ys[150] < charts.TOP


def test_marks_are_drawn_when_they_are_near() -> None:
    near = drawn([0.4, 0.6, 0.5], marks=[Mark(0.7, "here")])
    assert "here" in near
    assert "here" not in drawn([0.4, 0.6, 0.5], marks=[Mark(70.0, "here")])


def test_a_long_line_is_thinned_by_means() -> None:
    found = points(drawn([float(i % 2) for i in range(4000)]))
    assert len(found) == charts.POINTS
    assert max(y for _, y in found) - min(y for _, y in found) < 0.2


@given(st.lists(st.floats(allow_nan=True, allow_infinity=True), max_size=30), st.booleans())
def test_a_chart_is_well_formed_for_any_values(values: list[float], log: bool) -> None:
    svg = drawn(values, log=log, marks=[Mark(0.5, "<&>")] if not log else [])
    root = ET.fromstring(svg)
    for element in root.iter():
        for value in element.attrib.values():
            assert "nan" not in value
            assert "inf" not in value
