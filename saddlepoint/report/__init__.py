"""report.html: a run at a glance, in one file that asks nothing of any network.

What its records say about it, samples beside real images, how they came about, curves with what they mean, every
setting with what was changed, the data and their licence, where it was made, and the lines that make it again.
"""

from __future__ import annotations

import json
import re
import shlex
import statistics
from collections.abc import Iterator, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

import saddlepoint
from saddlepoint import recipes
from saddlepoint.diagnosis import Finding, diagnose
from saddlepoint.errors import UserError
from saddlepoint.evidence import gathered
from saddlepoint.recipes.base import ImageRecipe, Recipe
from saddlepoint.recipes.settings import (
    command,
    groups,
    native_facts,
    python_lines,
    remarks,
    shown,
    shown_facts,
)
from saddlepoint.report import words
from saddlepoint.report.charts import Line, Mark, chart
from saddlepoint.report.images import corner, embedded, opened
from saddlepoint.report.style import CSS
from saddlepoint.runs import Run, write_bytes

if TYPE_CHECKING:
    from saddlepoint.data.catalog import Facts

STRIP = 12  # at most so many pictures in the strip
PLAIN = ("clock", "kimg", "step", "seconds", "cpu_seconds", "images_per_second")  # not curves of their own
Log = Sequence[Mapping[str, Any]]


def write_report(run: Run) -> Path:
    """Write RUN/report.html from what is in the folder; returns its path. UserError when it cannot be written."""
    path = run.path / "report.html"
    write_bytes(path, page(run).encode())
    return path


def page(run: Run) -> str:
    """The whole page."""
    recipe, log = run.recipe, run.log()
    facts, native, missing = facts_of(recipe)
    body = "\n".join(
        part
        for part in (
            heading(run, recipe, log, facts),
            findings(diagnose(gathered(run))) if log else "",
            samples(run, recipe),
            scores(run, recipe),
            curves(recipe, log),
            again(run, recipe, native),
            settings(recipe, native),
            origins(run, recipe, facts, missing),
            f"<footer>Written by saddlepoint {saddlepoint.__version__}. Curves are read from log.jsonl, pictures from "
            "samples/, both in the run folder.</footer>",
        )
        if part
    )
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title(recipe))}</title><style>{CSS}</style></head>\n<body><main>\n{body}\n</main></body></html>\n"
    )


def facts_of(recipe: Recipe) -> tuple[Facts | None, Facts | None, str]:
    """What is known of the data as they were shown and as they are, or why it cannot be said any more."""
    try:
        return shown_facts(recipe), native_facts(recipe), ""
    except UserError as error:
        return None, None, str(error)


# ---- heading
def system_name(system: str) -> str:
    """As the paper writes it: what its summary begins with."""
    return re.split(r" \(|:", recipes.summary(system))[0]


def things_of(recipe: Recipe) -> str:
    """What the data are."""
    return "images" if isinstance(recipe, ImageRecipe) else "points"


def title(recipe: Recipe) -> str:
    name = system_name(recipe.system)
    return f"{name} on {Path(recipe.data).name}" if recipe.data else name


def heading(run: Run, recipe: Recipe, log: Log, facts: Facts | None) -> str:
    things = things_of(recipe)
    rows = [("Shown", f"{run.clock / 1000:,.4g}", f"thousand {things}")]
    if log:
        rows.append(("Time", *_time(float(log[-1]["seconds"]))))
        rows.append(("Speed", f"{statistics.median(line['images_per_second'] for line in log):,.0f}", f"{things}/s"))
    if facts is not None:
        colours = {1: "grey", 3: "RGB", 4: "RGBA"}.get(facts.channels, f"{facts.channels} channels")
        rows.append(("Images", f"{facts.height}×{facts.width}", colours))
    rows += [(name.capitalize(), _count(n), "weights") for name, n in run.environment.get("weights", {}).items()]
    cells = "".join(
        f"<div><dt>{escape(a)}</dt><dd>{escape(b)} <small>{escape(c)}</small></dd></div>" for a, b, c in rows
    )
    return (
        f'<p class="kicker">saddlepoint run · {escape(run.path.name)} · preset {escape(recipe.preset)}</p>'
        f"<h1>{escape(title(recipe))}</h1><p>{escape(recipes.summary(recipe.system))}.</p>"
        f'{"".join(alerts(run, recipe))}<dl class="figures">{cells}</dl>'
    )


def alerts(run: Run, recipe: Recipe) -> Iterator[str]:
    """What a reader must know first: a round that was not finite, a run that is not at its end."""
    failure = run.path / "failure" / "round.json"
    if failure.is_file():
        what = json.loads(failure.read_text()).get("error", "a round was not finite.")
        line = f"saddlepoint.load({str(run.path)!r}).failure()"
        yield f'<p class="alert">This run stopped: {escape(what)} The round is kept: <code>{escape(line)}</code></p>'
    elif run.clock < round(recipe.kimg * 1000):
        line = f"saddlepoint resume {shlex.quote(str(run.path))}"
        yield (
            f'<p class="alert">This run is at {run.clock / 1000:g} of {recipe.kimg:g} kimg. '
            f"Go on with <code>{escape(line)}</code></p>"
        )


def _count(n: int) -> str:
    return f"{n / 1e6:.3g} M" if n >= 1e6 else f"{n / 1e3:.3g} k" if n >= 1e4 else f"{n:,}"


def _time(seconds: float) -> tuple[str, str]:
    """(number of the larger unit, rest): ("1 h", "10 min"), ("5 min", "3 s"), ("27 s", "")."""
    whole = round(seconds)
    hours, minutes, rest = whole // 3600, whole // 60 % 60, whole % 60
    if hours:
        return f"{hours} h", f"{minutes} min"
    return (f"{minutes} min", f"{rest} s") if minutes else (f"{rest} s", "")


# ---- findings
def findings(found: Sequence[Finding]) -> str:
    """What the records say, a box for each question: the verdict, what it rests on, what to try."""
    boxes = "".join(_finding(finding) for finding in found)
    return (
        "<h2>How it is doing</h2><p class=soft>Judged from what was logged and stored; each verdict with its numbers. "
        f'Thresholds are conventions, no proofs.</p><div class="findings">{boxes}</div>'
    )


def _finding(finding: Finding) -> str:
    evidence = "".join(f"<li>{escape(fact.text)}</li>" for fact in finding.evidence)
    advice = "".join(f"<li>{escape(text)}</li>" for text in finding.advice)
    return (
        f'<section class="finding {finding.level}"><h3>{escape(finding.question)} '
        f"<strong>{escape(finding.verdict)}</strong></h3>"
        f"<p>{escape(finding.says)}</p>"
        f"{f'<ul>{evidence}</ul>' if evidence else ''}{f'<p>What to try:</p><ul>{advice}</ul>' if advice else ''}"
        "</section>"
    )


# ---- samples
def samples(run: Run, recipe: Recipe) -> str:
    grids = sorted(p for p in (run.path / "samples").glob("*.png") if p.stem.isdigit())
    if not grids:
        return "<h2>Samples</h2><p>There are none yet.</p>"
    real = run.path / "samples" / "real.png"
    last = int(grids[-1].stem) / 1000
    weights = "running average of the generator" if recipe.ema_half_life_kimg else "generator as it was"
    pictures = [_figure(grids[-1], f"Samples after {last:g} kimg; {weights}, seed 0.")]
    if real.is_file():
        pictures.append(_figure(real, f"Real {things_of(recipe)}, as they were shown in training."))
    parts = [f'<h2>Samples</h2><div class="pair">{"".join(pictures)}</div>']
    if len(grids) > 1:
        keep = sorted({round(i * (len(grids) - 1) / (STRIP - 1)) for i in range(STRIP)})
        small = corner if isinstance(recipe, ImageRecipe) else opened
        strip = "".join(
            f"<figure>{embedded(small(grids[i]), 60_000, '')}"
            f"<figcaption>{int(grids[i].stem) / 1000:.3g} kimg</figcaption></figure>"
            for i in keep
        )
        parts.append(
            "<h2>How they came about</h2><p class=soft>The same latents at every point of the training; "
            f'kimg are thousands of real {things_of(recipe)} shown.</p><div class="strip" tabindex="0">{strip}</div>'
        )
    return "".join(parts)


def _figure(path: Path, caption: str) -> str:
    return f"<figure>{embedded(opened(path), 640_000, caption)}<figcaption>{escape(caption)}</figcaption></figure>"


# ---- scores
def scores(run: Run, recipe: Recipe) -> str:
    """Curves of what was measured in training, each with its floor, and the evaluations made afterwards."""
    measured, later = run.scores(), run.evaluations()
    if not measured and not later:
        return ""
    parts = ["<h2>Scores</h2>"]
    if measured:
        best = run.best()
        kept = f" The best of them is kept: {int(best.name) / 1000:g} kimg." if best is not None else ""
        about = f"<p class=soft>{escape(_measured_how(measured[-1]))} Dashed: real against real.{kept}</p>"
        parts.append(f'{about}<div class="charts">{"".join(_score_panels(measured, recipe))}</div>')
    parts += [_evaluation(line) for line in later[-3:]]
    return "".join(parts)


def _measured_how(line: Mapping[str, Any]) -> str:
    """The record in a sentence."""
    record = line.get("record", {})
    features = f"features {record['extractor_identity']}, " if "extractor_identity" in record else ""
    return f"{record.get('samples', 0):,} samples against {record.get('reference', '?')}, {features}seed 0."


def _score_panels(measured: Log, recipe: Recipe) -> Iterator[str]:
    names = list(dict.fromkeys(name for line in measured for name in line["scores"]))
    for index, name in enumerate(names):
        found = [(line["kimg"], line["scores"][name]) for line in measured if name in line["scores"]]
        points = [(x, score["value"]) for x, score in found if score["value"] is not None]
        floor = found[-1][1]["floor"]
        marks = [] if floor is None else [Mark(floor, f"floor {floor:.3g}")]
        title_, text = words.SCORES.get(found[-1][1]["record"].get("metric", name), (name, ""))
        line = Line(name, [x for x, _ in points], [y for _, y in points], 2)
        svg = chart([line], key=f"s{index}", x_label=f"kimg (thousand {things_of(recipe)})", y_label=name, marks=marks)
        yield _panel(title_, text, svg, [])


def _evaluation(line: Mapping[str, Any]) -> str:
    """A table of one evaluation, with the floor beside."""
    from saddlepoint.metrics.scores import from_dict
    from saddlepoint.metrics.scores import shown as with_error

    found = [from_dict(values) for values in line["scores"].values()]
    rows = "".join(
        f"<tr><td>{escape(s.name)}</td><td>{with_error(s.value, s.error)}</td>"
        f"<td>{with_error(s.floor, s.floor_error)}</td></tr>"
        for s in found
    )
    return (
        f"<h3>Evaluated: {escape(str(line['judged']))}</h3><p class=soft>{escape(_measured_how(line))}</p>"
        f"<table><tr><td></td><td>value ± standard error</td><td>floor: real against real</td></tr>{rows}</table>"
    )


# ---- curves
def curves(recipe: Recipe, log: Log) -> str:
    if not log:
        return ""
    charts = "".join(_panels(recipe, log))
    return (
        "<h2>Curves</h2><p class=soft>Each point is a mean over the rounds since the last line of log.jsonl.</p>"
        f'<div class="charts">{charts}</div>'
    )


def _panels(recipe: Recipe, log: Log) -> Iterator[str]:
    """A panel for the adversarial losses, one for every other term, gradient norms, notes, speed."""
    names = list(dict.fromkeys(name for line in log for name in line if name not in PLAIN))
    players = list(dict.fromkeys(name.partition("/")[0] for name in names if "/" in name))
    terms = list(dict.fromkeys(name.partition("/")[2] for name in names if "/" in name))
    things, number = things_of(recipe), iter(range(1000))

    def drawn(lines: Sequence[Line], y_label: str, marks: Sequence[Mark] = (), log: bool = False) -> str:
        x_label = f"kimg (thousand {things})"
        return chart(lines, key=f"c{next(number)}", x_label=x_label, y_label=y_label, marks=marks, log=log)

    for term in sorted(terms, key=lambda t: t not in ("gan", "wasserstein")):
        lines = [line for i, p in enumerate(players) if (line := _line(log, f"{p}/{term}", p, i)).xs]
        objective = str(getattr(recipe, "objective", ""))
        if term in ("gan", "wasserstein") and (meaning := words.meaning(recipe.system, objective)):
            svg = drawn(lines, meaning.unit, _undecided(meaning, lines))
            yield _panel(f"Losses ({objective})", meaning.text, svg, lines)
        else:
            heading, text = words.TERMS.get(term, (f"Term “{term}”", "Weighted as it was minimised."))
            yield _panel(heading, text, drawn(lines, "loss"), lines)
    norms = [line for i, p in enumerate(players) if (line := _line(log, f"gradient_norm.{p}", p, i)).xs]
    if norms:
        yield _panel(*words.GRADIENTS, drawn(norms, "norm (log scale)", log=True), norms)
    for name in names:
        if "/" not in name and not name.startswith("gradient_norm."):
            plain = (name.replace("_", " ").capitalize(), "Noted by the game, not minimised.", "value")
            heading, text, unit = words.NOTES.get(name, plain)
            yield _panel(heading, text, drawn([_line(log, name, heading, 2)], unit), [])
    speed = _line(log, "images_per_second", "speed", 2)
    median = statistics.median(speed.ys)
    svg = drawn([speed], f"{things} per second", [Mark(median, f"median {median:,.0f}")])
    yield _panel(*words.SPEED, svg, [])


def _undecided(meaning: words.Meaning, lines: Sequence[Line]) -> list[Mark]:
    """Where the losses are when the discriminator cannot tell real from fake."""
    marks: list[Mark] = []
    for line in lines:
        value = meaning.second if line.name == "generator" else meaning.first
        if value is not None and value[0] not in [mark.value for mark in marks]:
            who = f"{line.name}: " if meaning.first != meaning.second else ""
            marks.append(Mark(value[0], f"{who}{value[1]}", line.colour if who else -1))
    return marks


def _line(log: Log, name: str, label: str, colour: int) -> Line:
    found = [(float(line["kimg"]), float(line[name])) for line in log if name in line]
    return Line(label, [x for x, _ in found], [y for _, y in found], colour % 6)


def _panel(heading: str, text: str, svg: str, lines: Sequence[Line]) -> str:
    keys = "".join(f'<li class="l{line.colour}">{escape(line.name)}</li>' for line in lines)
    legend = f'<ul class="legend">{keys}</ul>' if keys else ""
    return f'<section class="panel"><h3>{escape(heading)}</h3>{legend}{svg}<p>{escape(text)}</p></section>'


# ---- making it again
def again(run: Run, recipe: Recipe, facts: Facts | None) -> str:
    line = command(recipe, str(run.path), facts)
    typed = run.environment.get("command", "")
    as_typed = ""
    if typed and typed != line:
        as_typed = f"<p class=soft>As it was typed:</p><pre>{escape(typed)}</pre>"
    lines = python_lines(recipe, str(run.path), facts)
    return (
        f"<h2>Make it again</h2><pre>{escape(line)}</pre>{as_typed}<p class=soft>The same from Python:</p>"
        f"<pre>{escape(lines)}</pre><p class=soft>On the same processor, with the same versions and number of threads "
        "and processes, the weights come out equal bit for bit.</p>"
    )


# ---- settings
def settings(recipe: Recipe, facts: Facts | None) -> str:
    noted = remarks(recipe, facts)
    sections = []
    for name, values in groups(recipe):
        rows = []
        for path, value in values.items():
            kind, note = noted.get(path, ("", ""))
            rows.append(_row(path, shown(value), note, kind))
        heading = system_name(name) if name == recipe.system else name.capitalize()
        sections.append(f"<section><h3>{escape(heading)}</h3><table>{''.join(rows)}</table></section>")
    count = sum(kind == "changed" for kind, _ in noted.values())
    changes = f"● marks what differs from the preset ({count}). " if count else "All as in the preset. "
    return (
        f"<h2>Settings</h2><p class=soft>Preset {escape(recipe.preset)}. {changes}Faint ones are not read by the kinds "
        f'that were chosen.</p><div class="columns">{"".join(sections)}</div>'
    )


def _row(name: str, value: str, note: str = "", kind: str = "") -> str:
    small = f" <small>{escape(note)}</small>" if note else ""
    return f'<tr class="{kind}"><td>{escape(name)}</td><td>{escape(value)}{small}</td></tr>'


# ---- data, environment, checkpoints
def origins(run: Run, recipe: Recipe, facts: Facts | None, missing: str) -> str:
    parts = [("Data", list(_data_rows(recipe, facts, missing)))]
    parts.append(
        (
            "Environment",
            [
                (k, str(v))
                for k, v in run.environment.items()
                if v not in (None, "") and k not in ("command", "weights")
            ],
        )
    )
    parts.append(("Checkpoints", list(_checkpoint_rows(run))))
    sections = "".join(
        f"<section><h3>{name}</h3><table>{''.join(_row(a, b) for a, b in rows)}</table></section>"
        for name, rows in parts
        if rows
    )
    return f'<h2>Where it comes from</h2><div class="columns">{sections}</div>'


def _data_rows(recipe: Recipe, facts: Facts | None, missing: str) -> Iterator[tuple[str, str]]:
    if recipe.data:
        yield "set", recipe.data
    if missing:
        yield "now", missing
    if facts is None:
        return
    yield "images", f"{facts.count:,}"
    yield "shape", " × ".join(map(str, facts.shape)) + " (channels, height, width)"
    yield "prepared", facts.preparation
    if facts.classes:
        names = ", ".join(facts.label_names[:20]) + (" ..." if len(facts.label_names) > 20 else "")
        yield "classes", f"{facts.classes}: {names}" if names else str(facts.classes)
    for name, value in (
        ("licence", facts.licence),
        ("attribution", facts.attribution),
        ("obtained from", facts.origin),
    ):
        if value:
            yield name, value


def _checkpoint_rows(run: Run) -> Iterator[tuple[str, str]]:
    for folder in run.checkpoints():
        size = sum(file.stat().st_size for file in folder.iterdir() if file.is_file())
        yield f"{int(folder.name) / 1000:g} kimg", f"{size / 1e6:,.2f} MB"
