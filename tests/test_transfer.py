"""Starting from another run's weights, and freezing the discriminator's first layers."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest
import torch

import saddlepoint as sp
from saddlepoint.api import _training
from saddlepoint.errors import UserError
from saddlepoint.recipes.base import Recipe
from saddlepoint.runs import Run
from saddlepoint.systems import build
from saddlepoint.transfer import freeze, layers_from_image, start_from

SMALL = {"width": 8, "latent": 4, "batch": 16, "precision": "fp32", "channels_last": False, "kimg": 0.064}
CPU = torch.device("cpu")


def recipe(system: str = "dcgan", **changes: object) -> Recipe:
    return sp.recipe(system, **{**SMALL, "resolution": 8, "channels": 1, "data": "digits", **changes})


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run of four rounds with two checkpoints."""
    made = recipe(checkpoint_kimg=0.032, seed=5, ema_half_life_kimg=0.1)
    return sp.train(made, out=tmp_path_factory.mktemp("runs") / "source", progress=False, device="cpu")


def test_weights_buffers_and_average_are_taken(source: Run) -> None:
    training = _training(recipe(seed=9), CPU)
    taken = start_from(training, source.path)
    live = source.game_at(None, averaged=False).state_dict()
    averaged = source.game.state_dict()
    assert all(torch.equal(v, live[k]) for k, v in training.game.state_dict().items())
    assert any("running" in name or "mean" in name for name in taken.taken), "the generator's batch statistics"
    twin = training.average.twin.get_submodule("generator").state_dict()
    assert all(torch.equal(v, averaged[f"generator.{k}"]) for k, v in twin.items() if v.is_floating_point())
    weights = [k for k, _ in training.game.generator.named_parameters()]  # type: ignore[union-attr]
    assert any(not torch.equal(twin[k], live[f"generator.{k}"]) for k in weights), "the average is not the live weights"
    assert taken.weights == taken.all_weights and not (taken.absent or taken.misshapen or taken.unused)
    assert training.counters.clock == 0 and not any(o.state for o in training.optimizers.values())


def test_what_does_not_fit_is_named_and_stays(source: Run) -> None:
    training = _training(recipe(latent=6, resolution=16), CPU)
    before = {k: v.clone() for k, v in training.game.state_dict().items()}
    taken = start_from(training, source.path)
    after = training.game.state_dict()
    assert taken.taken and taken.misshapen and taken.absent
    kept = [name.split(" ")[0] for name in taken.misshapen] + list(taken.absent)
    assert all(torch.equal(after[name], before[name]) for name in kept)
    assert any("[6, " in text or ", 6" in text for text in taken.misshapen)
    twin = training.average.twin.state_dict()
    assert all(torch.equal(twin[name], before[name]) for name in kept)
    lines = "\n".join(taken.lines())
    assert f"{len(taken.misshapen)}" in lines and f"{taken.weights:,} of {taken.all_weights:,}" in lines


def test_a_checkpoint_can_be_named(source: Run) -> None:
    first = source.checkpoints()[0]
    training = _training(recipe(), CPU)
    assert start_from(training, first).kimg == 0.032
    live = source.game_at(first, averaged=False).state_dict()
    assert all(torch.equal(v, live[k]) for k, v in training.game.state_dict().items())
    with pytest.raises(UserError, match="no checkpoint at"):
        start_from(training, first.with_name("000000000007"))


def test_a_run_of_another_kind_or_none_is_refused(source: Run, tmp_path: Path) -> None:
    training = _training(sp.recipe("toy", preset=sp.presets("toy")[0]), CPU)
    with pytest.raises(UserError, match=r"nothing in .* fits: dcgan"):
        start_from(training, source.path)
    with pytest.raises(UserError, match="no run at"):
        sp.train(recipe(init_from=str(tmp_path / "nowhere")), out=tmp_path / "run", progress=False, device="cpu")
    assert not (tmp_path / "run").exists()


def test_a_run_says_where_it_started_and_resumes_without_its_source(
    source: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = shutil.copytree(source.path, tmp_path / "copy")
    settings = {"init_from": str(copy), "freeze_d": 1, "seed": 2, "checkpoint_kimg": 0.032}
    run = sp.train(recipe(**settings), out=tmp_path / "run", progress=False, device="cpu")
    assert "of" in capsys.readouterr().err.partition("kimg: ")[2]
    stored = json.loads((run.path / "environment.json").read_text())["init_from"]
    assert stored["run"] == str(copy) and stored["weights"] == stored["of_weights"] > 0
    assert run.recipe.init_from == str(copy)
    shutil.rmtree(copy)
    longer = sp.resume(run.path, kimg=0.128, progress=False, device="cpu")
    whole_settings = {**settings, "init_from": str(source.path), "kimg": 0.128}
    whole = sp.train(recipe(**whole_settings), out=tmp_path / "whole", progress=False, device="cpu")
    a, b = longer.game.state_dict(), whole.game.state_dict()
    assert longer.clock == whole.clock == 128 and all(torch.equal(a[k], b[k]) for k in a)
    first = layers_from_image(longer.game.discriminator)[0].weight  # type: ignore[arg-type]
    assert torch.equal(first, layers_from_image(source.game.discriminator)[0].weight)  # type: ignore[arg-type]


def test_the_average_starts_without_a_ramp(source: Run) -> None:
    assert _training(recipe(ema_ramp=0.05), CPU).average.ramp == 0.05
    assert _training(recipe(ema_ramp=0.05, init_from=str(source.path)), CPU).average.ramp == 0


def test_the_command_starts_from_a_run(source: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from saddlepoint.cli import main

    words = ["train", "dcgan", "--data", "digits", "--width", "8", "--latent", "4", "--batch", "16", "--kimg", "0.032"]
    words += ["--init-from", str(source.path), "--freeze-d", "2", "--out", str(tmp_path / "run"), "--quiet"]
    assert main([*words, "--dry-run", "--measure-seconds", "0"]) == 0
    shown = capsys.readouterr().out
    assert "--init-from" in shown and "--freeze-d" in shown and not (tmp_path / "run").exists()
    assert main([*words[:-5], "--init-from", str(tmp_path / "sauce"), "--dry-run"]) != 0
    assert os.fspath(tmp_path / "sauce") in capsys.readouterr().err


# ---- Freeze-D
def test_the_first_layers_leave_the_player_and_keep_their_weights() -> None:
    training = _training(recipe(freeze_d=1, resolution=16), CPU)
    judge = training.game.player("discriminator")
    whole = build(recipe(resolution=16)).player("discriminator")
    layers = layers_from_image(training.game.discriminator)  # type: ignore[arg-type]
    frozen = {id(p) for p in layers[0].parameters()}
    assert len(judge.parameters) == len(whole.parameters) - len(frozen)
    before = [layer.weight.clone() for layer in layers]  # type: ignore[operator]
    for _ in range(3):
        training.play()
    assert torch.equal(layers[0].weight, before[0])  # type: ignore[arg-type]
    assert not torch.equal(layers[1].weight, before[1])  # type: ignore[arg-type]
    assert not layers[0].weight.requires_grad  # type: ignore[union-attr]


def test_too_many_layers_are_refused() -> None:
    with pytest.raises(UserError, match=r"freeze_d is 99, but DCGAN has a discriminator of \d convolutions"):
        build(recipe(freeze_d=99))
    with pytest.raises(UserError, match="0 convolutions"):
        freeze(build(sp.recipe("quadratic")), 1)


def test_layers_say_their_own_order() -> None:
    class Judge(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.late, self.early = torch.nn.Conv2d(1, 1, 1), torch.nn.Conv2d(1, 1, 1)

        def layers(self) -> list[torch.nn.Module]:
            return [self.early, self.late]

    judge = Judge()
    assert layers_from_image(judge) == [judge.early, judge.late]
    assert layers_from_image(torch.nn.Sequential(judge.late, torch.nn.Flatten(), torch.nn.Linear(1, 1))) == [judge.late]


def test_style_based_discriminators_are_counted_from_the_image() -> None:
    from_image = [("stylegan2", "from_image"), ("progan", "from_rgb"), ("stylegan1", "from_rgb")]
    for system, first in from_image:
        judge = build(sp.recipe(system, resolution=16, channels=1), "meta").player("discriminator").modules[0]
        names = {id(module): name for name, module in judge.named_modules()}
        order = [names[id(layer)] for layer in layers_from_image(judge)]
        assert first in order[0] and order[1].endswith("conv0") and order[2].endswith("conv1")
        assert len(set(order)) == len(order)
        widths = [layer.weight.shape[-1] for layer in layers_from_image(judge)]  # type: ignore[union-attr]
        assert widths[:3] == [1, 3, 3]
