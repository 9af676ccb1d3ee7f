from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from saddlepoint.data import describe, open_set, sets
from saddlepoint.data.build import build
from saddlepoint.errors import UserError

ROOT = Path(__file__).parents[2]


def folders(cache: Path) -> list[Path]:
    return sorted(path for path in (cache / "sets").iterdir() if not path.name.startswith("."))


@pytest.fixture
def conversions(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Grows by one with every conversion."""
    done: list[str] = []
    real = sets._convert

    def counted(*arguments):
        done.append(arguments[2])
        return real(*arguments)

    monkeypatch.setattr(sets, "_convert", counted)
    return done


def test_a_set_is_converted_once_and_memory_mapped(pictures: Path, cache: Path, conversions: list[str]):
    first, again = open_set(pictures), open_set(pictures)
    assert len(conversions) == 1 and isinstance(again.images, np.memmap) and not again.images.flags.writeable
    plain = open_set(pictures, cache=False)
    for images in (first, again):
        assert np.array_equal(images.images, plain.images) and np.array_equal(images.labels, plain.labels)
        assert (images.names, images.facts, images.problems) == (plain.names, plain.facts, plain.problems)


def test_other_options_and_other_files_are_other_entries(pictures: Path, cache: Path, picture, conversions: list[str]):
    open_set(pictures)
    open_set(pictures, channels=1)
    assert len(conversions) == 2
    picture(99).save(pictures / "cat" / "00.png")
    os.utime(pictures / "cat" / "00.png", ns=(1, 1))
    changed = open_set(pictures)
    assert len(conversions) == 3
    index = changed.names.index("cat/00.png")
    assert np.array_equal(changed.images[index].transpose(1, 2, 0), np.asarray(picture(99)))
    (pictures / "dataset.json").write_text('{"labels": null}')
    assert open_set(pictures).labels is None


def test_a_changed_zip_is_converted_again(pictures: Path, cache: Path, tmp_path: Path, conversions: list[str]):
    build(pictures, tmp_path / "set.zip")
    assert open_set(tmp_path / "set.zip").images.shape == (12, 3, 6, 6)
    open_set(tmp_path / "set.zip")
    build(pictures, tmp_path / "set.zip", overwrite=True, resolution=4)
    assert open_set(tmp_path / "set.zip").images.shape == (12, 3, 4, 4) and len(conversions) == 2


@pytest.mark.parametrize("damage", ["flip", "cut", "lengthen", "no pixels", "no about", "cut about", "other about"])
def test_a_damaged_copy_is_made_again(pictures: Path, cache: Path, damage: str, conversions: list[str]):
    images = np.array(open_set(pictures).images)
    (folder,) = folders(cache)
    data, about = folder / "images.u8", folder / "about.json"
    whole = data.read_bytes()
    if damage == "flip":
        data.write_bytes(whole[:50] + bytes([whole[50] ^ 1]) + whole[51:])
    elif damage in ("cut", "lengthen"):
        data.write_bytes(whole[:-7] if damage == "cut" else whole + b"\0")
    elif damage == "cut about":
        about.write_text(about.read_text()[:100])
    elif damage == "other about":
        about.write_text('{"facts": 3}')
    else:
        (data if damage == "no pixels" else about).unlink()
    assert np.array_equal(open_set(pictures).images, images) and len(conversions) == 2
    assert folders(cache) == [folder] and sorted(p.name for p in folder.iterdir()) == ["about.json", "images.u8"]


def test_skipping_and_refusing_share_one_copy(pictures: Path, cache: Path, conversions: list[str]):
    (pictures / "cat" / "bad.png").write_bytes(b"")
    assert len(open_set(pictures, on_error="skip")) == 12
    with pytest.raises(UserError, match=r"1 problem:\s+cat/bad.png is empty"):
        open_set(pictures)
    assert len(conversions) == 1


def test_many_problems_are_counted_and_the_first_ones_listed(pictures: Path):
    for index in range(14):
        (pictures / "cat" / f"bad{index:02d}.png").write_bytes(b"")
    with pytest.raises(UserError, match=r"14 problems:(\n.*is empty \(0 bytes\)){10}\n  and 4 more"):
        open_set(pictures, cache=False)


def test_nothing_stays_behind_when_converting_fails(pictures: Path, cache: Path, monkeypatch: pytest.MonkeyPatch):
    def full(*arguments):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(sets.os, "fsync", full)
    with pytest.raises(UserError, match=r"No space left on device.*SADDLEPOINT_CACHE"):
        open_set(pictures)
    assert folders(cache) == [] and not list((cache / "sets").glob(".new-*"))


def test_a_cache_that_cannot_be_written(pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("SADDLEPOINT_CACHE", str(tmp_path / "file"))
    with pytest.raises(UserError, match="cannot be written"):
        open_set(pictures)
    assert len(open_set(pictures, cache=False)) == 12


def test_processes_that_start_together_convert_once(pictures: Path, cache: Path):
    code = (
        "import sys; from saddlepoint.data import open_set; done = [];"
        "images = open_set(sys.argv[1], progress=lambda n, total: done.append(n));"
        "print(len(done), int(images.images.astype('int64').sum()))"
    )
    command = [sys.executable, "-c", code, str(pictures)]
    started = [subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    said = sorted(process.communicate()[0].split() for process in started)
    assert [done for done, _ in said] == ["0", "0", "12"] and len({total for _, total in said}) == 1
    assert len(folders(cache)) == 1


def test_progress_and_wrong_arguments(pictures: Path):
    seen: list[tuple[int, int]] = []
    open_set(pictures, cache=False, progress=lambda n, total: seen.append((n, total)))
    assert seen == [(n, 12) for n in range(1, 13)]
    with pytest.raises(UserError, match="did you mean 'skip'"):
        open_set(pictures, on_error="skipp")


def test_a_photo_is_filtered_before_it_is_shrunk(tmp_path: Path):
    """One-pixel stripes hold nothing that an eighth of the size can show: unfiltered they would alias to 0 or 255."""
    from PIL import Image

    stripes = np.tile(np.array([0, 255], np.uint8), (64, 32))
    for name in ("a.png", "b.png"):
        Image.fromarray(stripes).convert("RGB").save(tmp_path / name)
    images = open_set(tmp_path, resolution=8, cache=False)
    assert np.abs(images.images[:, :, :, 1:-1].astype(int) - 127.5).max() <= 3
    assert (
        "Lanczos" in images.facts.preparation
        and describe(tmp_path, resolution=8).preparation == images.facts.preparation
    )
