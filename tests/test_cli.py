"""The command: what it parses, what it refuses and how, what it leaves behind, and that its help needs no torch."""

from __future__ import annotations

import dataclasses
import importlib
import json
import os
import re
import shlex
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import saddlepoint as sp
from saddlepoint import api, pictures, recipes
from saddlepoint.cli import COMMANDS, EXAMPLES, main
from saddlepoint.cli.data import Build, Inspect
from saddlepoint.cli.edit import TASKS
from saddlepoint.cli.evaluate import Evaluate
from saddlepoint.cli.exchange import Export, Import
from saddlepoint.cli.forms import known, parse
from saddlepoint.cli.lab import Analyse, Figures
from saddlepoint.cli.paint import Paint
from saddlepoint.cli.sample import Sample
from saddlepoint.cli.show import List, Report
from saddlepoint.cli.train import Resume, Train
from saddlepoint.cli.translate import Translate
from saddlepoint.data.options import BACKGROUNDS, FITS
from saddlepoint.data.sets import ON_ERROR
from saddlepoint.recipes import settings
from saddlepoint.recipes.base import Recipe
from saddlepoint.runs import Run

SMALL = ["--width", "8", "--latent", "4", "--batch", "16", "--resolution", "8", "--precision", "fp32"]
Capture = pytest.CaptureFixture[str]


@pytest.fixture(autouse=True)
def _plain(monkeypatch: pytest.MonkeyPatch) -> None:
    """A terminal without colours, and no processes of torchrun."""
    monkeypatch.setenv("COLUMNS", "110")
    monkeypatch.setenv("NO_COLOR", "1")
    for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    path = tmp_path_factory.mktemp("runs") / "first"
    intervals = ["--kimg", "0.064", "--checkpoint-kimg", "0.032"]
    assert main(["train", "dcgan", "--out", str(path), "--quiet", *intervals, *SMALL]) == 0
    return Run(path)


def refused(capsys: Capture, *words: str) -> str:
    """What the command says when it refuses: one line on standard error, exit status 2, nothing else."""
    assert main(list(words)) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.endswith("\n")
    assert err.count("\n") == 1
    assert err.startswith("saddlepoint: ")
    return err.removeprefix("saddlepoint: ").strip()


def printed(capsys: Capture, *words: str, status: int = 0) -> str:
    assert main(list(words)) == status
    return capsys.readouterr().out


# ---- starting up
DRY = ("--dry-run", "--measure-seconds", "0")  # the plan only
LIGHT = (
    ["--help"], ["--version"], ["list"], ["list", "presets"], ["train", "--help"], ["train", "dcgan", "--help"],
    ["train", "dcgan", "--data", "digits", *DRY], ["sample", "--help"], ["data", "build", "--help"],
    ["train", "dcgan", "--learning-rate", "1"],
)  # fmt: skip


def test_help_list_and_dry_run_import_nothing_heavy(tmp_path: Path) -> None:
    heavy = ["torch", "numpy", "rich", "sklearn", "scipy", "matplotlib", "PIL", "safetensors"]
    code = f"""
import sys
from saddlepoint.cli import main
for words in {LIGHT}:
    status = main(words)
    assert status == (2 if "1" in words else 0), (words, status)
    found = [name for name in {heavy} if name in sys.modules]
    assert not found, (words, found)
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert list(tmp_path.iterdir()) == []


def test_python_m_saddlepoint_is_the_command() -> None:
    done = subprocess.run([sys.executable, "-m", "saddlepoint", "--version"], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, f"saddlepoint {sp.__version__}\n")


def test_every_command_of_the_table_is_there(capsys: Capture) -> None:
    overview = printed(capsys, "--help")
    for name, command in COMMANDS.items():
        module, _, function = command.target.partition(":")
        assert callable(getattr(importlib.import_module(module), function))
        assert re.search(rf"^  {name} +{re.escape(command.summary)}$", overview, re.MULTILINE)
        assert "usage: saddlepoint" in printed(capsys, *name.split(), "--help")


def test_no_command_shows_the_usage_and_is_an_error(capsys: Capture) -> None:
    assert "usage: saddlepoint COMMAND" in printed(capsys, status=2)
    assert "data build" in printed(capsys, "data", status=2)
    assert "data build" in printed(capsys, "data", "--help")
    assert "dcgan" in printed(capsys, "train", status=2)


# ---- the flags of train
def form_of(system: str, preset: str = "") -> Train[Recipe]:
    base = recipes.recipe(system, preset)
    return Train(recipe=base, preset=base.preset, data=api.default_data(base))


def parsed(form: Train[Recipe], words: list[str]) -> Train[Recipe]:
    kind: Any = Train
    made: Train[Recipe] = parse(kind[type(form.recipe)], words, prog="x", default=form)
    return made


@pytest.mark.parametrize("system", recipes.systems())
def test_help_shows_exactly_the_flags_that_we_know(system: str, capsys: Capture) -> None:
    """What suggestions are made from is what tyro accepts, in every system."""
    text = printed(capsys, "train", system, "--help")
    lines = [line.strip("│ ").rstrip() for line in text.splitlines()]
    shown = {
        flag for line in lines if line.startswith("-") for flag in re.findall(r"--[a-z][\w.-]*", line.split("  ")[0])
    }
    assert shown - {"--help"} == set(known(Train, form_of(system)))
    for preset in recipes.presets(system):
        assert re.search(rf"^  {preset} +\S", text, re.MULTILINE)


def test_help_shows_the_values_of_the_preset(capsys: Capture) -> None:
    def default(text: str) -> str:
        found = re.search(r"--batch INT.*?default:[\s│]*(\d+)\)", text, re.DOTALL)
        assert found
        return found[1]

    assert default(printed(capsys, "train", "dcgan", "--help")) == str(sp.recipe("dcgan").batch)
    for words in (["--preset", "paper"], ["--preset=paper"]):
        assert default(printed(capsys, "train", "dcgan", *words, "--help")) == str(sp.recipe("dcgan", "paper").batch)


def other(value: Any, choices: tuple[str, ...]) -> Any:
    """Another value of the same kind."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, str):
        return next((choice for choice in choices if choice != value), f"{value}x")
    if isinstance(value, tuple):
        return tuple(other(v, ()) for v in value)
    if choices:  # a Literal of numbers
        return next(int(choice) for choice in choices if int(choice) != value)
    return value + 1 if isinstance(value, int) else value / 2 + 0.125


@pytest.mark.parametrize("system", recipes.systems())
def test_every_setting_has_a_flag_that_reaches_it(system: str) -> None:
    form = form_of(system)
    flags, words = known(Train, form), []
    wanted = {p: other(v, flags[settings.flag(p)].choices) for p, v in settings.flat(form.recipe).items()}
    for path, value in wanted.items():
        words += [settings.flag(path, value), *([] if isinstance(value, bool) else settings.shown(value).split())]
    assert settings.flat(parsed(form, words).recipe) == wanted
    path, value = next(item for item in reversed(wanted.items()) if not isinstance(item[1], bool))
    one = settings.flat(parsed(form, [settings.flag(path), *settings.shown(value).split()]).recipe)
    assert one == {**settings.flat(form.recipe), path: value}


@pytest.mark.parametrize("system", recipes.systems())
def test_the_command_of_a_recipe_gives_it_again(system: str) -> None:
    """For every preset, with some values changed: the line that a report prints parses to the same recipe."""
    for preset in recipes.presets(system):
        changes = {"kimg": 12.5, "seed": 7, "keep_checkpoints": 9, "samples_kimg": 3.0}
        base = sp.recipe(system, preset, **changes)
        if system in ("dcgan", "wgan", "wgan-gp", "gan"):
            base = recipes.with_overrides(base, {"d.lr": 1.25e-5, "d.betas": (0.25, 0.75), "penalty.one_sided": True})
        recipe = api.prepared(base, api.default_data(base)).with_intervals()
        words = shlex.split(settings.command(recipe, "runs/a b", settings.native_facts(recipe)))
        assert words[:3] == ["saddlepoint", "train", system]
        named = words[words.index("--preset") + 1] if "--preset" in words else ""
        chosen = parsed(form_of(system, named), words[3:])
        assert chosen.out == "runs/a b"
        again = api.prepared(chosen.recipe, chosen.data).with_intervals()
        assert again == recipe
        scope: dict[str, Any] = {}
        lines = settings.python_lines(recipe, "", settings.native_facts(recipe)).replace("sp.train(", "dict(recipe=")
        exec("\n".join(line for line in lines.replace("recipe=recipe", "made=recipe").splitlines()[:-1]), scope)
        data = scope["run"].get("data", "")
        assert api.prepared(scope["recipe"], data).with_intervals() == recipe


@pytest.mark.parametrize(
    "words",
    [
        ["--operator", "extragradient", "--d.lr", "1e-3", "--d.betas", "0", "0.9", "--penalty.r1=0.5", "--mirror"],
        ["--operator", "consensus", "--operator-strength", "3", "--accumulate", "2", "--objective", "hinge"],
        ["--d.kind", "rmsprop", "--d.alpha", "0.9", "--precision", "bf16", "--no-channels-last", "--seed", "-1"],
    ],
)
def test_flags_reach_the_training(words: list[str], monkeypatch: pytest.MonkeyPatch, run: Run) -> None:
    seen: dict[str, Any] = {}

    def fake(recipe: Recipe, **rest: Any) -> Run:
        seen.update(recipe=recipe, **rest)
        return run

    monkeypatch.setattr(api, "train", fake)
    more = ["--out", "x", "--device", "cpu", "--overwrite", "--tensorboard", "--quiet", "--kimg", "0.064"]
    assert main(["train", "dcgan", "--data", "digits:test", *words, *more]) == 0
    form = parsed(form_of("dcgan"), words)
    expected = api.prepared(dataclasses.replace(form.recipe, kimg=0.064), "digits:test").with_intervals()
    assert seen.pop("recipe") == expected
    assert seen == {"out": "x", "device": "cpu", "overwrite": True, "progress": False, "tensorboard": True}


ROOT = Path(__file__).parents[1]
FORMS: dict[str, Any] = {
    "resume": Resume, "sample": Sample, "report": Report, "list": List, "data build": Build, "data inspect": Inspect,
    "evaluate": Evaluate, "analyse": Analyse, "figures": Figures, "import": Import, "export": Export,
    "translate": Translate, "paint": Paint,
}  # fmt: skip


def examples() -> list[str]:
    """Every command line in the README, in the command's page and in the command's own help."""
    blocks = [EXAMPLES]
    for page in ("README.md", "docs/how-to/command.md", "docs/how-to/editing.md", "docs/how-to/published-weights.md",
                 "docs/how-to/translation.md"):  # fmt: skip
        blocks += re.findall(r"```sh\n(.*?)```", (ROOT / page).read_text(), re.DOTALL)
    lines = [line.partition("#")[0] for block in blocks for line in block.splitlines()]
    return sorted({line.partition("saddlepoint ")[2].strip() for line in lines if "saddlepoint " in line})


def test_there_are_examples_to_check() -> None:
    assert len(examples()) > 15
    assert {line.split()[0] for line in examples()} >= {
        "train", "resume", "sample", "list", "data", "evaluate", "analyse", "figures", "import", "export",
    }  # fmt: skip


@pytest.mark.parametrize("line", examples())
def test_command_lines_in_the_documentation_are_valid(line: str) -> None:
    words = shlex.split(line)
    if words[0] == "train":
        words = words if not words[1].startswith("-") else ["train", recipes.DEFAULT, *words[1:]]
        preset = words[words.index("--preset") + 1] if "--preset" in words else ""
        recipe = parsed(form_of(words[1], preset), words[2:]).recipe
        settings.check(recipe)
        settings.refuse_unread(recipe)
    else:
        if words[0] == "edit":  # RUN stands before the task
            parse(TASKS[words[2]].form, [words[1], *words[3:]], prog="x")
            return
        length = 2 if words[0] == "data" else 1
        parse(FORMS[" ".join(words[:length])], words[length:], prog="x")


def test_train_without_a_system_is_the_default(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    monkeypatch.chdir(tmp_path)
    words = ["--data", "digits", "--kimg", "3", "--dry-run", "--measure-seconds", "0"]
    assert printed(capsys, "train", *words) == printed(capsys, "train", recipes.DEFAULT, *words)


# ---- refusals
@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("trian", "unknown command 'trian'; did you mean 'train'?"),
        ("--versoin", "did you mean '--version'?"),
        ("data bild digits", "unknown command of data 'bild'; did you mean 'build'?"),
        ("train dcgna", "unknown system 'dcgna'; did you mean 'dcgan'?"),
        ("train --data digits dcgan", "the system comes first"),
        ("train dcgan --preset tny", "unknown preset of dcgan 'tny'; did you mean 'tiny'?"),
        ("train dcgan --data digit", "'digit' is not the name of a set, a folder or a .zip; did you mean 'digits'?"),
        ("train dcgan --data digits:tset", "did you mean 'digits:test'?"),
        ("train dcgan --learning-rate 1", "unknown flag --learning-rate; did you mean --g.lr or --d.lr?"),
        ("train dcgan --lr=1", "unknown flag --lr; did you mean --g.lr or --d.lr?"),
        ("train dcgan --d.learning_rate 1", "unknown flag --d.learning_rate; did you mean --d.lr?"),
        ("train dcgan --d.batas 0 1", "did you mean --d.betas?"),
        ("train dcgan --batch-size 3", "did you mean --batch?"),
        ("train dcgan --epochs 3", "did you mean --kimg?"),
        ("train dcgan --n-critic 3", "did you mean --d.steps?"),
        ("train dcgan --keep-checkpoint 3", "did you mean --keep-checkpoints?"),
        ("train dcgan --system wgan", "unknown flag --system"),
        ("train dcgan --classes 3", "unknown flag --classes"),
        ("train dcgan --no-overwrite", "did you mean --overwrite?"),
        ("train dcgan --objective hinje", "unknown value of --objective 'hinje'; did you mean 'hinge'?"),
        ("train dcgan --d.kind=adma", "unknown value of --d.kind 'adma'; did you mean 'adam'?"),
        ("train dcgan --device gpu", "unknown value of --device 'gpu'; did you mean 'cpu'?"),
        ("train dcgan --kimg many", "--kimg takes a number, not 'many'."),
        ("train dcgan --batch 1.5", "--batch takes a whole number, not '1.5'."),
        ("train dcgan --d.betas 0.5", "--d.betas takes 2 values."),
        ("train dcgan --kimg", "--kimg takes a value."),
        ("train dcgan digits", "unexpected digits: every value follows its flag."),
        (
            "train dcgan --mirror yes",
            "--mirror takes no value, so 'yes' is not understood. --no-mirror switches it off.",
        ),
        ("train dcgan --kimg -1", "kimg is -1; expected more than 0."),
        ("train dcgan --kimg nan", "kimg is nan; expected a finite number."),
        ("train dcgan --d.betas 0 1", "d.betas is 0 1; expected a decay: at least 0 and less than 1."),
        ("train dcgan --g.lr -1", "g.lr is -1; expected 0 or more."),
        ("train dcgan --channels 2", "channels is 2; expected 1 (grey), 3 (RGB), 4 (RGBA), or 0"),
        ("train dcgan --accumulate 3", "nearest: 63 or 66."),
        ("sample", "saddlepoint sample needs RUN; see saddlepoint sample --help"),
        ("data build", "saddlepoint data build needs SOURCE and --out; see saddlepoint data build --help"),
        ("data build digits --out x.zip --fit streched", "did you mean 'stretch'?"),
        ("data build digits --out x.tar", "does not end in .zip"),
        ("data build digits --out x.zip --resolution big", "resolution is 'big'; expected a side"),
        ("list sistems", "unknown choice 'sistems'; did you mean 'systems'?"),
        ("resume nowhere", "there is no run at nowhere."),
        ("report nowhere", "there is no run at nowhere."),
        ("sample nowhere --out x.png", "there is no run at nowhere."),
        ("sample nowhere --out x.jpeg", "--out ends in '.jpeg'; did you mean 'x.png'?"),
        ("sample nowhere --n 0", "--n is 0; expected 1 or more."),
    ],
)
def test_refusals_name_the_input_and_the_nearest_valid_one(
    line: str, said: str, capsys: Capture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert said in refused(capsys, *line.split())
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("line", "flag", "reader"),
    [
        ("--operator-strength 3", "--operator-strength 3", "--operator consensus or --operator symplectic"),
        ("--operator optimistic --unroll-steps 3", "--unroll-steps 3", "--operator unrolled"),
        ("--no-unroll-through", "--unroll-through no", "--operator unrolled"),
        ("--d.alpha 0.9", "--d.alpha 0.9", "--d.kind rmsprop"),
        ("--g.momentum 0.9", "--g.momentum 0.9", "--g.kind sgd or --g.kind rmsprop"),
        ("--d.kind sgd --d.betas 0 0.9", "--d.betas 0 0.9", "--d.kind adam or --d.kind adamw"),
        ("--d.kind sgd --d.eps 1e-3", "--d.eps 0.001", "--d.kind rmsprop"),
        ("--operator consensus --d.steps 2", "--d.steps 2", "--operator alternating"),
        ("--operator simultaneous --draws data", "--draws data", "--operator alternating"),
        ("--penalty.one-sided", "--penalty.one-sided yes", "--penalty.gradient-penalty or --penalty.dragan above 0"),
        ("--ema-half-life-kimg 0 --ema-ramp 0.5", "--ema-ramp 0.5", "--ema-half-life-kimg above 0"),
    ],
)
def test_a_setting_that_nothing_reads_is_refused(line: str, flag: str, reader: str, capsys: Capture) -> None:
    said = refused(capsys, "train", "dcgan", "--dry-run", *line.split())
    assert said.startswith(f"{flag} would change nothing: it is read by ")
    assert reader in said


@pytest.mark.parametrize(
    "line",
    [
        "--operator consensus --operator-strength 3",
        "--d.kind rmsprop --d.alpha 0.9 --d.momentum 0.5",
        "--d.kind sgd --d.momentum -0.5",
        "--penalty.one-sided --penalty.dragan 1",
        "--unroll-steps 5",  # the preset's value: no harm
        "--operator extragradient",
    ],
)
def test_settings_that_are_read_are_not_refused(line: str, capsys: Capture) -> None:
    printed(capsys, "train", "dcgan", *DRY, *line.split())


def test_a_wrong_setting_is_told_before_the_preset_is_blamed(capsys: Capture) -> None:
    """wgan's preset moves its critic three times: another operator passes over that, but nobody typed it."""
    printed(capsys, "train", "wgan", *DRY, "--operator", "extragradient")


# ---- dry run and list
@pytest.mark.parametrize("system", recipes.systems())
def test_a_dry_run_of_every_preset_shows_every_setting(
    system: str, capsys: Capture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for preset in recipes.presets(system):
        text = printed(capsys, "train", system, "--preset", preset, *DRY)
        rows = re.findall(r"^  (--\S+) ", text, re.MULTILINE)
        assert sorted(rows) == sorted(map(settings.flag, settings.flat(sp.recipe(system, preset))))
    assert list(tmp_path.iterdir()) == []


def test_a_dry_run_says_what_would_be(capsys: Capture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs" / "wgan-digits-000").mkdir(parents=True)
    line = "train wgan --data digits --dry-run --measure-seconds 0 --kimg 9.6 --batch 32 --d.steps 3 --resolution 16"
    text = printed(capsys, *line.split())
    assert "digits: 1,618 images, 16x16 grey, 10 classes; resized from 8x8 to 16x16, Lanczos filter" in text
    assert (
        "9.6 kimg: about 100 rounds of 96 images, 5.93 passes over the data" in text
    )  # 9,600 / (3 * 32); 9,600 / 1,618
    assert "runs/wgan-digits-001 (nothing is written now)" in text
    assert "CC-BY-4.0" in text
    values = {row[0]: row[1:] for row in map(str.split, text.splitlines()) if row and row[0].startswith("--")}
    assert values["--kimg"] == ["9.6", "*", "preset:", "600"]
    assert values["--resolution"] == ["16", "*", "preset:", "from", "the", "data"]
    assert values["--channels"] == ["1", "from", "the", "data"]
    assert values["--samples-kimg"] == ["0.96", "automatic"]
    assert values["--d.betas"] == ["0.5", "0.999", "not", "read"]
    assert values["--d.steps"] == ["3", "*", "preset:", "2"]
    assert sorted(p.name for p in tmp_path.rglob("*")) == ["runs", "wgan-digits-000"]


def test_list_names_everything(capsys: Capture) -> None:
    everything = printed(capsys, "list")
    for system in recipes.systems():
        assert re.search(rf"^  {system} +{re.escape(recipes.summary(system)[:20])}", everything, re.MULTILINE)
    for name in sp.data.SETS:
        assert re.search(rf"^  {name} ", everything, re.MULTILINE)
    presets = printed(capsys, "list", "presets")
    for system in recipes.systems():
        for preset in recipes.presets(system):
            assert settings.preset_summary(system, preset), f"{system}'s preset {preset} has no docstring"
            assert preset in presets
    assert "fashion-mnist" not in printed(capsys, "list", "systems")
    assert "wgan-gp" not in printed(capsys, "list", "data")


# ---- train, resume
def test_train_says_where_everything_is(tmp_path: Path, capsys: Capture) -> None:
    path = tmp_path / "a run"
    assert main(["train", "dcgan", "--data", "digits", "--kimg", "0.032", "--out", str(path), *SMALL]) == 0
    out, err = capsys.readouterr()
    assert f"run     {path}\n" in out
    assert "img/s" in err  # progress, in plain lines without a terminal
    report = re.search(r"report  (.*)", out)
    assert report
    assert Path(report[1]).is_file()
    for head in ("sample", "go on"):
        line = re.search(rf"{head} +saddlepoint (.*)", out)
        assert line
        assert main(shlex.split(line[1].replace("grid.png", str(tmp_path / "grid.png")))) == 0
    assert (tmp_path / "grid.png").is_file()
    assert Run(path).clock == 64
    assert Run(path).recipe.kimg == 0.064


def test_quiet_is_quiet(run: Run, capsys: Capture, tmp_path: Path) -> None:
    assert main(["train", "dcgan", "--quiet", "--kimg", "0.016", "--out", str(tmp_path / "run"), *SMALL]) == 0
    assert main(["resume", str(tmp_path / "run"), "--kimg", "0.032", "--quiet"]) == 0
    assert capsys.readouterr() == ("", "")


def test_an_existing_run_is_not_replaced_by_accident(run: Run, capsys: Capture) -> None:
    before = run.clock
    for more in ([], ["--dry-run"]):
        said = refused(capsys, "train", "dcgan", "--out", str(run.path), "--kimg", "0.016", *more, *SMALL)
        assert "holds a run already" in said
        assert "--overwrite" in said
    assert Run(run.path).clock == before
    assert "nothing is written" in printed(capsys, "train", "dcgan", "--out", str(run.path), "--overwrite", *DRY)
    assert Run(run.path).clock == before


def test_ctrl_c_writes_a_checkpoint_and_says_how_to_go_on(
    tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    from saddlepoint.observers import Log

    written, path = Log.write, tmp_path / "run"

    def interrupt(self: Any, training: Any) -> None:
        written(self, training)
        if training.counters.clock >= 48:
            signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(Log, "write", interrupt)
    words = ["train", "dcgan", "--out", str(path), "--kimg", "1.6", "--log-kimg", "0.016", *SMALL]
    assert main(words) == 130
    out, err = capsys.readouterr()
    monkeypatch.undo()
    assert "report" not in out
    line = re.search(r"stopped at 0\.048 kimg\. Go on with: saddlepoint (.*)", err)
    assert line
    assert Run(path).clock == 48
    assert (path / "report.html").is_file()
    assert main([*shlex.split(line[1]), "--kimg", "0.08", "--quiet"]) == 0
    assert Run(path).clock == 80


def test_an_interrupt_outside_of_training_is_one_line(capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: object) -> str:
        raise KeyboardInterrupt

    monkeypatch.setattr("saddlepoint.cli.show.systems", interrupt)
    assert main(["list"]) == 130
    assert capsys.readouterr().err == "saddlepoint: interrupted.\n"


def test_a_round_that_is_not_finite_is_kept_and_told(tmp_path: Path, capsys: Capture) -> None:
    path = tmp_path / "run"
    words = ["--kimg", "1", "--d.kind", "sgd", "--d.lr", "1e30", "--quiet", "--out", str(path), *SMALL]
    assert main(["train", "dcgan", *words]) == 3
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    assert re.match(r"saddlepoint: the gradient of player '\w+' is not finite in round \d+ \(", err)
    assert f"The round is saved in {path / 'failure'}" in err
    game, player, round = Run(path).failure()
    terms = game.loss(player, round)
    total = torch.stack(list(terms.values())).sum()
    gradients = torch.autograd.grad(total, game.player(player).parameters, allow_unused=True)
    assert not all(g is None or bool(torch.isfinite(g).all()) for g in gradients)
    assert "This run stopped" in (path / "report.html").read_text()


def test_other_arithmetic_errors_are_ours_and_keep_their_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    def bug() -> str:
        raise ZeroDivisionError

    monkeypatch.setattr("saddlepoint.cli.show.systems", bug)
    with pytest.raises(ZeroDivisionError):
        main(["list"])


def test_a_closed_pipe_is_no_error() -> None:
    code = "import sys; from saddlepoint.cli import main; sys.exit(main(['list']))"
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout is not None
    process.stdout.close()
    assert process.wait() == 0
    assert process.stderr is not None
    assert process.stderr.read() == b""


# ---- sample
def test_sample_writes_what_the_run_samples(run: Run, tmp_path: Path, capsys: Capture) -> None:
    expected = run.sample(6, seed=2)
    for name in ("x.png", "x.npz", "x.npy", "x.safetensors", "folder"):
        out = tmp_path / "deep" / name
        assert printed(capsys, "sample", str(run.path), "--n", "6", "--seed", "2", "--out", str(out)) == f"{out}\n"
    folder = tmp_path / "deep"
    bytes_ = pictures.to_uint8(expected)  # [N, H, W, C]
    assert np.array_equal(np.load(folder / "x.npz")["arr_0"], bytes_)
    assert np.array_equal(np.load(folder / "x.npy"), expected.numpy())
    from safetensors import safe_open

    with safe_open(folder / "x.safetensors", "pt") as file:
        assert torch.equal(file.get_tensor("samples"), expected)
        notes = json.loads(file.metadata()["saddlepoint"])
    assert notes.items() >= {"run": run.path.name, "clock": 64, "seed": 2, "n": 6}.items()
    singles = sorted((folder / "folder").iterdir())
    assert [p.name for p in singles] == [f"{i:06d}.png" for i in range(6)]
    for path, image in zip(singles, bytes_, strict=True):
        assert np.array_equal(np.asarray(Image.open(path)), image[:, :, 0])
    with Image.open(folder / "x.png") as grid:
        assert json.loads(grid.info["saddlepoint"])["clock"] == 64
        # 8 pixels enlarged 12 times to 96; gaps of 12; 3 columns, 2 rows
        assert grid.size == (3 * 108 - 12, 2 * 108 - 12)
        corner = np.asarray(grid)[:96, :96]
    assert np.array_equal(corner[::12, ::12], bytes_[0, :, :, 0])


def test_sample_columns_cells_and_checkpoints(run: Run, tmp_path: Path, capsys: Capture) -> None:
    out = tmp_path / "x.png"
    words = ["sample", str(run.path), "--n", "4", "--out", str(out), "--columns", "4", "--cell", "0"]
    printed(capsys, *words)
    newest = np.asarray(Image.open(out))
    assert newest.shape == (8, 4 * 9 - 1)
    first = run.checkpoints()[0]
    grids = []
    for named in ("0.032", first.name, str(first)):
        printed(capsys, *words, "--checkpoint", named)
        grids.append(np.asarray(Image.open(out)))
    assert all(np.array_equal(grids[0], grid) for grid in grids)
    assert not np.array_equal(grids[0], newest)
    said = refused(capsys, *words, "--checkpoint", "0.03")
    assert "did you mean '0.032'? There are (in kimg): 0.032, 0.064." in said


def test_sample_refuses_places_that_are_something_else(run: Run, tmp_path: Path, capsys: Capture) -> None:
    (tmp_path / "file").write_text("mine")
    (tmp_path / "folder.png").mkdir()
    assert "is a file without a suffix" in refused(capsys, "sample", str(run.path), "--out", str(tmp_path / "file"))
    assert "is a folder" in refused(capsys, "sample", str(run.path), "--out", str(tmp_path / "folder.png"))
    assert "cannot write" in refused(capsys, "sample", str(run.path), "--out", str(tmp_path / "file" / "x.png"))
    assert (tmp_path / "file").read_text() == "mine"


# ---- data
def test_data_build_and_inspect(tmp_path: Path, capsys: Capture) -> None:
    out, sheet = tmp_path / "d.zip", tmp_path / "sheet.png"
    words = ["data", "build", "digits:test", "--out", str(out), "--resolution", "16", "--channels", "3"]
    assert "179 usable images" in printed(capsys, *words)
    facts = sp.data.describe(str(out))
    assert (facts.count, facts.shape, facts.classes) == (179, (3, 16, 16), 10)
    assert "is there already" in refused(capsys, *words)
    assert printed(capsys, *words, "--overwrite", "--quiet") == ""
    text = printed(capsys, "data", "inspect", str(out), "--sheet", str(sheet))
    assert "16x16: 179" in text
    assert Image.open(sheet).width > 600


def test_the_choices_of_data_build_are_the_library_s() -> None:
    flags = known(Build)
    assert flags["--fit"].choices == FITS
    assert flags["--background"].choices == tuple(BACKGROUNDS)
    assert flags["--on-error"].choices == ON_ERROR


# ---- several processes
def test_only_the_first_process_prints(capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert main(["list"]) == 0
    assert main(["train", "dcgna"]) == 2
    assert capsys.readouterr() == ("", "")
    monkeypatch.setenv("RANK", "2")
    monkeypatch.setenv("LOCAL_RANK", "0")  # the first process of a second machine tells what is wrong there
    assert main(["list"]) == 0
    assert main(["train", "dcgna"]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert "did you mean 'dcgan'?" in err


@pytest.mark.slow
def test_torchrun_trains_one_run_and_refuses_with_one_line(tmp_path: Path) -> None:
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    words = [*launch, "saddlepoint", "train", "dcgan", "--data", "digits", "--kimg", "0.064", *SMALL]
    done = subprocess.run(words, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert [p.name for p in (tmp_path / "runs").iterdir()] == ["dcgan-digits-000"]
    assert Run(tmp_path / "runs" / "dcgan-digits-000").clock == 64
    assert done.stdout.count("report  ") == 1
    words += ["--out", "runs/dcgan-digits-000"]
    again = subprocess.run(words, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert again.returncode != 0
    assert again.stderr.count("holds a run already") == 1
    assert "UserError" not in again.stderr


def test_sample_takes_classes_by_number_and_name(tmp_path: Path, capsys: Capture) -> None:
    path = tmp_path / "conditional"
    settings_ = {"batch": 8, "width": 4, "latent": 4, "resolution": 16, "conditional": True, "dense": 8}
    made = sp.train(sp.recipe("dcgan", **settings_), "digits", out=path, kimg=0.016, progress=False)
    for label, expected in (("3", [3] * 4), ("1, 7", [1, 7, 1, 7]), ("all", [y for y in range(10) for _ in range(4)])):
        out = tmp_path / "x.npy"
        printed(capsys, "sample", str(path), "--n", "4", "--label", label, "--out", str(out))
        assert np.array_equal(np.load(out), made.sample(len(expected), label=expected).numpy())
    between = tmp_path / "between.npy"
    printed(capsys, "sample", str(path), "--n", "2", "--label", "3..7", "--columns", "5", "--out", str(between))
    z = made.game.draw_latents(2, 0)
    rows = [made.game.interpolate_classes(row, 3, 7, 5) for row in z]
    assert np.array_equal(np.load(between), torch.cat(rows).numpy())
    one, two = tmp_path / "one.png", tmp_path / "two.png"
    printed(capsys, "sample", str(path), "--n", "2", "--label", "3..7", "--out", str(one))
    printed(capsys, "sample", str(path), "--like", str(one), "--out", str(two))
    assert one.read_bytes() == two.read_bytes()
    for words, message in (
        (["--label", "3..4..5"], "names 3 classes"),
        (["--label", "11"], "nearest: 9"),
        (["--label", "elefant"], "unknown class 'elefant'"),
        (["--truncation", "0.5"], "dcgan has no truncation"),
        (["--checkpoint", "best"], "without --evaluate-every"),
    ):
        assert message in refused(capsys, "sample", str(path), *words)


def test_sample_refuses_a_class_where_there_are_none(run: Run, capsys: Capture) -> None:
    assert "knows no classes" in refused(capsys, "sample", str(run.path), "--label", "1")
