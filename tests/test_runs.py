"""Run folders: whole or not there, whatever the disk does."""

from __future__ import annotations

import errno
import json
import os
import resource
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

import saddlepoint as sp
from saddlepoint import runs
from saddlepoint.errors import UserError
from saddlepoint.runs import CheckpointError, Run, create, read_checkpoint, save_checkpoint, write_bytes, write_json
from tests.games import same_bits

SMALL = {"width": 8, "latent": 4, "batch": 16, "precision": "fp32", "channels_last": False}


def recipe(**changes: object) -> sp.recipes.base.Recipe:
    return sp.recipe("dcgan", **{**SMALL, "resolution": 8, "channels": 1, "data": "digits", **changes})


def trained(path: Path, **changes: object) -> Run:
    settings = {"kimg": 0.096, "checkpoint_kimg": 0.032, "keep_checkpoints": 3, **changes}
    return sp.train(recipe(**settings), out=path, progress=False, device="cpu")


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run with checkpoints at 32, 64 and 96 images."""
    return trained(tmp_path_factory.mktemp("runs") / "finished")


@pytest.fixture
def run(finished: Run, tmp_path: Path) -> Run:
    """A copy of it, to be damaged."""
    return Run(shutil.copytree(finished.path, tmp_path / "run"))


def tensors() -> dict[str, Tensor]:
    return {
        "game/a.weight": torch.arange(6.0).view(2, 3).t(),  # not contiguous
        "game/steps": torch.tensor(7),
        "game/half": torch.tensor([1.5, float("inf")], dtype=torch.float16),
        "average/a.weight": torch.randn(2, 2, dtype=torch.float64),
        "optimizer/d/0/step": torch.tensor(3.0),
        "memory/none": torch.empty(0, 4),
    }


# ---- checkpoints
def test_a_checkpoint_comes_back_bit_for_bit(tmp_path: Path) -> None:
    saved, values = tensors(), {"counters": {"clock": 12}, "era": 1}
    read, told = read_checkpoint(save_checkpoint(tmp_path / "000000000012", saved, values))
    assert same_bits(read, saved)
    assert told == values
    assert sorted(p.name for p in (tmp_path / "000000000012").iterdir()) == [
        "average.safetensors", "game.safetensors", "memory.safetensors", "optimizer.safetensors", "state.json",
    ]  # fmt: skip
    assert [p.name for p in tmp_path.iterdir()] == ["000000000012"]


def test_only_the_groups_that_are_asked_for_are_read(tmp_path: Path) -> None:
    folder = save_checkpoint(tmp_path / "1", tensors(), {})
    (folder / "optimizer.safetensors").write_bytes(b"rubbish")
    read, _ = read_checkpoint(folder, ("game", "average"))
    assert {name.partition("/")[0] for name in read} == {"game", "average"}
    with pytest.raises(CheckpointError, match=r"optimizer\.safetensors is damaged"):
        read_checkpoint(folder)


def test_a_checkpoint_of_the_same_clock_is_replaced(tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "1", {"game/x": torch.zeros(2), "memory/y": torch.zeros(1)}, {})
    save_checkpoint(tmp_path / "1", {"game/x": torch.ones(2)}, {})
    assert same_bits(read_checkpoint(tmp_path / "1")[0], {"game/x": torch.ones(2)})


DAMAGE: dict[str, Callable[[Path], object]] = {
    "a truncated file": lambda folder: os.truncate(folder / "game.safetensors", 1000),
    "an empty file": lambda folder: os.truncate(folder / "optimizer.safetensors", 0),
    "a flipped bit": lambda folder: flip(folder / "average.safetensors"),
    "a missing file": lambda folder: (folder / "game.safetensors").unlink(),
    "a missing state": lambda folder: (folder / "state.json").unlink(),
    "a truncated state": lambda folder: os.truncate(folder / "state.json", 20),
    "an empty folder": lambda folder: [file.unlink() for file in folder.iterdir()],
    "a state of another version": lambda folder: (folder / "state.json").write_text('{"format": 99, "files": {}}'),
    "a state that is no table": lambda folder: (folder / "state.json").write_text("[1, 2]"),
    "a state that is a word": lambda folder: (folder / "state.json").write_text(chr(34) * 2),
}


def flip(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_checkpoint_is_named_and_passed_over(
    run: Run, damage: str, capsys: pytest.CaptureFixture[str]
) -> None:
    newest, before = run.checkpoints()[-1], run.checkpoints()[-2]
    expected = read_checkpoint(before)
    DAMAGE[damage](newest)
    folder, read, values = run.latest()
    assert folder == before
    assert same_bits(read, expected[0])
    assert values == expected[1]
    told = capsys.readouterr().err
    assert told.startswith("passing over a checkpoint: ")
    assert str(newest) in told
    assert told.count("\n") == 1


def test_a_run_without_any_whole_checkpoint_says_so(run: Run) -> None:
    for folder in run.checkpoints():
        (folder / "state.json").unlink()
    with pytest.raises(CheckpointError, match=r"has no whole checkpoint\. .*no readable state\.json") as caught:
        run.latest()
    assert all(str(folder) in str(caught.value) for folder in run.checkpoints())


def test_what_a_killed_process_left_is_no_checkpoint(run: Run) -> None:
    folder = run.path / "checkpoints"
    shutil.copytree(run.checkpoints()[0], folder / ".000000000128.99.tmp")
    (folder / "notes").mkdir()
    assert [p.name for p in run.checkpoints()] == ["000000000032", "000000000064", "000000000096"]
    assert run.clock == 96


@pytest.mark.parametrize("damage", ["a truncated file", "a missing state"])
def test_resume_plays_the_damaged_part_again(run: Run, finished: Run, damage: str) -> None:
    """The newest checkpoint, at the run's end, is damaged: resume needs no new length, and ends with the same bits."""
    DAMAGE[damage](run.checkpoints()[-1])
    resumed = sp.resume(run.path, progress=False, device="cpu")
    assert resumed.latest()[0].name == "000000000096"
    assert same_bits(resumed.latest()[1], finished.latest()[1])


def test_a_damaged_future_does_not_crowd_out_the_present(run: Run) -> None:
    """Keeping one checkpoint, the newest by name: if that is the damaged one, nothing would be left."""
    run.checkpoints()[0].rename(run.path / "checkpoints" / "000000000048")
    for folder in run.checkpoints()[1:]:
        (folder / "state.json").unlink()
    values = json.loads((run.path / "recipe.json").read_text())
    write_json(run.path / "recipe.json", {**values, "keep_checkpoints": 1, "kimg": 0.064})
    resumed = sp.resume(run.path, progress=False, device="cpu")
    assert [p.name for p in resumed.checkpoints()] == ["000000000064"]
    resumed.latest()


# ---- the disk
@contextmanager
def file_size_limit(size: int) -> Iterator[None]:
    """Every write beyond `size` bytes of a file fails, as it does on a full disk: a real failure of the system."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def listing(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def no_space(*_: object) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_a_full_disk_leaves_the_old_file_and_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_bytes(tmp_path / "file", b"old")
    monkeypatch.setattr(os, "fsync", no_space)
    with pytest.raises(UserError, match=r"cannot write .*file: No space left on device\. .* intact"):
        write_bytes(tmp_path / "file", b"new")
    assert listing(tmp_path) == {"file": b"old"}


def test_a_write_that_fails_half_way_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    write_bytes(tmp_path / "file", b"old")
    with file_size_limit(5000), pytest.raises(UserError, match=r"cannot write .*file: File too large"):
        write_bytes(tmp_path / "file", bytes(100_000))
    assert listing(tmp_path) == {"file": b"old"}
    write_bytes(tmp_path / "file", bytes(100_000))
    assert (tmp_path / "file").stat().st_size == 100_000


@pytest.mark.parametrize("calls", range(1, 8))
def test_a_checkpoint_that_cannot_be_written_leaves_no_trace(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, calls: int
) -> None:
    """The disk refuses the n-th flush, whichever it is: of a group's file, the state, the folder, its parent."""
    save_checkpoint(tmp_path / "1", tensors(), {})
    before, real, made = listing(tmp_path), os.fsync, []

    def sometimes(descriptor: int) -> None:
        made.append(descriptor)
        if len(made) == calls:
            no_space()
        real(descriptor)

    monkeypatch.setattr(os, "fsync", sometimes)
    with pytest.raises(UserError, match="No space left on device"):
        save_checkpoint(tmp_path / "2", tensors(), {"era": 1})
    monkeypatch.undo()
    after = listing(tmp_path)
    assert {name: content for name, content in after.items() if name.startswith("1/")} == before
    if calls < 7:
        assert after == before
    else:  # only the parent's flush came after the rename: what is there is whole
        assert read_checkpoint(tmp_path / "2")[1] == {"era": 1}
    assert not [p for p in tmp_path.iterdir() if p.name.startswith(".")]


def test_training_stops_with_one_sentence_when_a_checkpoint_does_not_fit(tmp_path: Path) -> None:
    """After two checkpoints no file may be as large as an optimizer's state: the third cannot be written."""
    path = tmp_path / "run"

    class Full:
        def __call__(self, training: object, report: object) -> None:
            found = Run(path).checkpoints()
            if len(found) == 2:
                largest = (found[0] / "optimizer.safetensors").stat().st_size
                resource.setrlimit(resource.RLIMIT_FSIZE, (largest - 1, before[1]))

        def finish(self, training: object) -> None:
            raise AssertionError("the training went on")

    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        with pytest.raises(UserError, match=r"cannot write .*checkpoints.*File too large") as caught:
            settings = {"kimg": 0.2, "checkpoint_kimg": 0.032, "keep_checkpoints": 3}
            sp.train(recipe(**settings), out=path, progress=False, device="cpu", observers=[Full()])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert "\n" not in str(caught.value)
    run = Run(path)
    assert [int(p.name) for p in run.checkpoints()] == [32, 64]
    assert not [p for p in path.rglob("*") if p.name.startswith(".")]
    for folder in run.checkpoints():
        read_checkpoint(folder)
    resumed = sp.resume(path, progress=False, device="cpu")  # there is room again
    assert resumed.clock == 208


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 600 kB; needs the right to mount one."""
    disk = tmp_path / "disk"
    disk.mkdir()
    if os.geteuid() != 0 or shutil.which("mount") is None:
        pytest.skip("only root can mount a small disk")
    mount = ["mount", "-t", "tmpfs", "-o", "size=600k", "tmpfs", str(disk)]
    if subprocess.run(mount, capture_output=True).returncode != 0:
        pytest.skip("this system lets nobody mount a small disk")
    try:
        yield disk
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def test_a_disk_that_is_really_full(small_disk: Path) -> None:
    settings = {"kimg": 0.4, "checkpoint_kimg": 0.032, "keep_checkpoints": 50}
    with pytest.raises(UserError, match="No space left on device") as caught:
        sp.train(recipe(**settings), out=small_disk / "run", progress=False, device="cpu")
    assert "\n" not in str(caught.value)
    run = Run(small_disk / "run")
    assert len(run.checkpoints()) >= 2, "the disk was full before the test began"
    assert not [p for p in run.path.rglob("*") if p.name.startswith(".")]
    clock = run.clock
    run.latest()
    values = json.loads((run.path / "recipe.json").read_text())
    shutil.rmtree(run.checkpoints()[0])
    write_json(run.path / "recipe.json", {**values, "keep_checkpoints": 2, "kimg": (clock + 64) / 1000})
    assert sp.resume(run.path, progress=False, device="cpu").clock == clock + 64


def test_a_folder_that_vanishes_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"cannot write .*gone.file: No such file or directory"):
        write_bytes(tmp_path / "gone" / "file", b"")


# ---- the folder
def test_create_writes_the_recipe_and_where_it_was_made(tmp_path: Path) -> None:
    run = create(tmp_path / "a" / "b", recipe(seed=5), command="saddlepoint train dcgan")
    assert run.recipe == recipe(seed=5)
    assert run.environment["command"] == "saddlepoint train dcgan"
    assert run.environment["torch"] == torch.__version__
    assert run.clock == 0
    assert run.log() == []


def test_an_existing_run_is_kept_unless_it_is_to_be_replaced(run: Run) -> None:
    before = listing(run.path)
    with pytest.raises(UserError, match="holds a run already: go on with `saddlepoint resume"):
        create(run.path, recipe())
    assert listing(run.path) == before
    (run.path / "notes.txt").write_text("mine")
    again = create(run.path, recipe(seed=1), overwrite=True)
    assert sorted(listing(run.path)) == ["environment.json", "notes.txt", "recipe.json"]
    assert again.recipe.seed == 1


def test_what_is_no_run_is_never_touched(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a.png").write_bytes(b"1")
    (tmp_path / "file").write_bytes(b"2")
    before = listing(tmp_path)
    for overwrite in (False, True):
        with pytest.raises(UserError, match="is not empty and not a run"):
            create(tmp_path / "photos", recipe(), overwrite=overwrite)
        with pytest.raises(UserError, match="a file of that name is there"):
            create(tmp_path / "file", recipe(), overwrite=overwrite)
    assert listing(tmp_path) == before
    (tmp_path / "empty").mkdir()
    assert create(tmp_path / "empty", recipe()).path == tmp_path / "empty"


def test_a_run_that_is_not_there_names_its_neighbour(run: Run, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"there is no run at .*runn\. Did you mean .*run\?"):
        Run(tmp_path / "runn")
    with pytest.raises(UserError, match=r"is not a run folder: it has no recipe\.json"):
        Run(tmp_path)
    with pytest.raises(UserError, match="there is no run at"):
        Run(tmp_path / "no" / "such" / "place")


def test_the_default_folder_is_the_first_free_one_and_is_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for number in (0, 1):
        run = sp.train(recipe(kimg=0.016), progress=False, device="cpu")
        assert run.path == Path(f"runs/dcgan-digits-00{number}")
        assert run.clock == 16


def test_a_bad_setting_is_told_before_a_folder_is_made(tmp_path: Path) -> None:
    for changes, message in (
        ({"kimg": -1.0}, "kimg is -1; expected more than 0"),
        ({"accumulate": 3}, r"a batch of 16 cannot be divided over 1 process\(es\) with 3 .* nearest: 15 or 18"),
        ({"resolution": 12}, "power of two"),
    ):
        with pytest.raises(UserError, match=message):
            sp.train(recipe(**changes), out=tmp_path / "run", progress=False, device="cpu")
    assert not (tmp_path / "run").exists()


# ---- the log
def test_a_line_cut_off_by_a_power_cut_is_passed_over(run: Run) -> None:
    whole = run.log()
    with (run.path / "log.jsonl").open("a") as file:
        file.write('{"clock": 112, "kimg": 0.1')
    assert run.log() == whole
    assert [line["clock"] for line in whole] == sorted({line["clock"] for line in whole})


def test_resume_drops_the_lines_after_the_checkpoint_and_goes_on_counting(run: Run) -> None:
    shutil.rmtree(run.checkpoints()[-1])  # now the newest is of 64 images; the log reaches to 96
    with (run.path / "log.jsonl").open("a") as file:
        file.write('{"clock": 96, "ki')
    before = run.log()
    resumed = sp.resume(run.path, kimg=0.128, progress=False, device="cpu")
    after = resumed.log()
    kept = [line for line in before if line["clock"] <= 64]
    assert kept
    assert after[: len(kept)] == kept
    clocks = [line["clock"] for line in after]
    assert clocks == sorted(set(clocks))
    assert clocks[-1] == 128
    assert len((run.path / "log.jsonl").read_text().splitlines()) == len(after)
    seconds = [line["seconds"] for line in after]
    assert seconds == sorted(seconds)


def test_resume_of_a_run_that_is_at_its_end_says_how_to_go_on(run: Run) -> None:
    with pytest.raises(UserError, match=r"has seen 0\.096 kimg already; --kimg is the total length"):
        sp.resume(run.path)
    with pytest.raises(UserError, match="give more than that"):
        sp.resume(run.path, kimg=0.05)
    assert run.recipe.kimg == 0.096


def test_a_longer_resume_keeps_the_intervals_and_stores_the_new_length(run: Run) -> None:
    old = run.recipe
    resumed = sp.resume(run.path, kimg=0.128, progress=False, device="cpu")
    assert resumed.recipe.kimg == 0.128
    assert (resumed.recipe.log_kimg, resumed.recipe.samples_kimg) == (old.log_kimg, old.samples_kimg)
    assert resumed.clock == 128


@given(st.binary(max_size=200), st.binary(max_size=200))
def test_write_bytes_replaces_the_whole_content(tmp_path_factory: pytest.TempPathFactory, a: bytes, b: bytes) -> None:
    folder = tmp_path_factory.mktemp("bytes")
    write_bytes(folder / "x", a)
    write_bytes(folder / "x", b)
    assert listing(folder) == {"x": b}


def test_samples_are_a_function_of_checkpoint_and_seed(run: Run) -> None:
    first = run.sample(5, seed=3)
    assert first.shape == (5, 1, 8, 8)
    assert first.abs().max() <= 1
    assert same_bits({"x": first}, {"x": Run(run.path).sample(5, seed=3)})
    assert not torch.equal(first, run.sample(5, seed=4))
    older = run.game_at(run.checkpoints()[0]).sample(5, seed=3)
    assert not torch.equal(first, older)


def test_the_format_of_checkpoints_is_in_every_state(run: Run) -> None:
    for folder in run.checkpoints():
        state = json.loads((folder / "state.json").read_text())
        assert state["format"] == runs.FORMAT
        assert set(state["files"]) == {p.name for p in folder.glob("*.safetensors")}
