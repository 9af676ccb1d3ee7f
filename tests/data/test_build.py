from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from saddlepoint.data import build as build_module
from saddlepoint.data import describe, open_set
from saddlepoint.data.build import build
from saddlepoint.errors import UserError

ROOT = Path(__file__).parents[2]


def left(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.fixture
def out(tmp_path: Path) -> Path:
    """A zip to be built, in a folder of its own."""
    return tmp_path / "out" / "set.zip"


class Stop(BaseException):
    """Stands for Ctrl-C."""


def stop_at(count: int):
    def progress(done: int, total: int) -> None:
        if done == count:
            raise Stop

    return progress


def test_the_layout_is_dataset_tools(pictures: Path, out: Path):
    """As its reader expects: PNGs anywhere, dataset.json at the root, labels by name with forward slashes."""
    build(pictures, out)
    with zipfile.ZipFile(out) as archive:
        assert archive.testzip() is None
        names = archive.namelist()
        assert names[:2] == ["00000/img00000000.png", "00000/img00000001.png"]
        assert names[12:] == ["dataset.json", "saddlepoint.json", "ATTRIBUTION.txt"]
        assert all(info.compress_type == zipfile.ZIP_STORED for info in archive.infolist())
        labels = dict(json.loads(archive.read("dataset.json"))["labels"])
        assert list(labels) == names[:12] and sorted(labels.values()) == [0] * 4 + [1] * 4 + [2] * 4
        with archive.open(names[0]) as file:
            assert Image.open(file).mode == "RGB"
    assert left(out.parent) == ["set.zip"]


def test_a_thousand_images_per_folder():
    assert build_module.member_name(999) == "00000/img00000999.png"
    assert build_module.member_name(1000) == "00001/img00001000.png"
    assert build_module.member_name(12_345_678) == "12345/img12345678.png"


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_pixels_labels_and_credits_survive(pictures: Path, out: Path, channels: int):
    about = {"licence": "CC0", "attribution": "the authors", "captions": {"cat/00.png": ["a noise"]}}
    (pictures / "saddlepoint.json").write_text(json.dumps(about))
    build(pictures, out, channels=channels, resolution="5x7")
    before, after = open_set(pictures, channels=channels, resolution="5x7", cache=False), open_set(out, cache=False)
    assert np.array_equal(before.images, after.images) and np.array_equal(before.labels, after.labels)
    assert before.captions == after.captions and not after.problems
    for name in ("count", "shape", "classes", "label_names", "captions", "licence", "attribution"):
        assert getattr(before.facts, name) == getattr(after.facts, name) == getattr(describe(out), name), name
    with zipfile.ZipFile(out) as archive:
        assert "CC0" in archive.read("ATTRIBUTION.txt").decode()
        files = json.loads(archive.read("saddlepoint.json"))["files"]
    assert files["00000/img00000000.png"] == before.names[0]


def test_a_named_set_brings_its_licence(out: Path):
    report = build("digits:test", out, resolution=16)
    images = open_set(out, cache=False)
    assert len(images) == report.used == 179 and images.facts.label_names == tuple("0123456789")
    assert images.facts.licence.startswith("CC-BY-4.0") and images.facts.channels == 1
    assert np.array_equal(images.images, open_set("digits:test", resolution=16, cache=False).images)
    assert report.label_counts == {str(n): int(c) for n, c in enumerate(np.bincount(images.labels))}


def test_a_set_without_labels_says_null(tmp_path: Path, picture, out: Path):
    (tmp_path / "flat").mkdir()
    for index in range(2):
        picture(index).save(tmp_path / "flat" / f"{index}.png")
    build(tmp_path / "flat", out)
    with zipfile.ZipFile(out) as archive:
        assert json.loads(archive.read("dataset.json")) == {"labels": None}
    assert open_set(out, cache=False).labels is None


KILLED = """
import os, signal, sys
from saddlepoint.data.build import build
def progress(done, total):
    if done == int(sys.argv[3]):
        os.kill(os.getpid(), signal.SIGKILL)
build(sys.argv[1], sys.argv[2], on_error="skip", progress=progress)
"""


@pytest.mark.parametrize("at", [1, 6, 14])
def test_killed_and_resumed_gives_the_same_bytes(pictures: Path, out: Path, tmp_path: Path, at: int):
    (pictures / "cat" / "05.png").write_bytes(b"")
    (pictures / "dog" / "zz.png").write_bytes(b"no picture")
    whole = build(pictures, tmp_path / "whole.zip", on_error="skip")
    killed = subprocess.run([sys.executable, "-c", KILLED, str(pictures), str(out), str(at)], cwd=ROOT, check=False)
    assert killed.returncode == -signal.SIGKILL
    assert not out.exists() and "set.zip.partial" in left(out.parent)
    seen: list[int] = []
    report = build(pictures, out, on_error="skip", progress=lambda n, total: seen.append(n))
    assert seen == list(range(at + 1, 15))  # goes on where it was killed
    assert out.read_bytes() == (tmp_path / "whole.zip").read_bytes() and left(out.parent) == ["set.zip"]
    assert (report.used, report.problems, report.label_counts) == (whole.used, whole.problems, whole.label_counts)
    assert len(report.problems) == 2


def test_a_build_torn_at_any_byte_is_resumed(pictures: Path, out: Path, tmp_path: Path):
    build(pictures, tmp_path / "whole.zip")
    whole = (tmp_path / "whole.zip").read_bytes()
    with pytest.raises(Stop):
        build(pictures, out, progress=stop_at(9))
    partial, log = out.with_name("set.zip.partial"), out.with_name("set.zip.partial.log")
    torn, journal = partial.read_bytes(), log.read_bytes()
    for length in range(0, len(torn) + 1, 61):
        partial.write_bytes(torn[:length] + b"\0" * (length % 3))  # a file system may leave zeros at the end
        log.write_bytes(journal)
        build(pictures, out)
        assert out.read_bytes() == whole, length
        out.unlink()
    assert length > 1000


def test_a_torn_or_foreign_journal_means_a_new_start(pictures: Path, out: Path, tmp_path: Path):
    build(pictures, tmp_path / "whole.zip")
    for text in ("", "{", '"another build"\n', '"another build"\n[0, "bad"]\n'):
        with pytest.raises(Stop):
            build(pictures, out, progress=stop_at(5))
        out.with_name("set.zip.partial.log").write_text(text)
        seen: list[int] = []
        build(pictures, out, progress=lambda n, total, seen=seen: seen.append(n))
        assert len(seen) == 12 and out.read_bytes() == (tmp_path / "whole.zip").read_bytes()
        out.unlink()


@pytest.mark.parametrize("change", ["options", "files", "no resume"])
def test_other_options_or_files_are_not_mixed_in(pictures: Path, out: Path, tmp_path: Path, picture, change: str):
    with pytest.raises(Stop):
        build(pictures, out, progress=stop_at(5))
    options = {"channels": 1} if change == "options" else {"resume": False} if change == "no resume" else {}
    if change == "files":
        picture(77).save(pictures / "cat" / "00.png", compress_level=0)
    seen: list[int] = []
    build(pictures, out, progress=lambda n, total: seen.append(n), **options)
    build(pictures, tmp_path / "whole.zip", **options)
    assert len(seen) == 12 and out.read_bytes() == (tmp_path / "whole.zip").read_bytes()


def test_refused_builds_leave_nothing(pictures: Path, out: Path):
    (pictures / "cat" / "05.png").write_bytes(b"")
    (pictures / "dog" / "06.png").write_bytes(b"x")
    with pytest.raises(UserError, match="2 problems") as caught:
        build(pictures, out)
    assert "cat/05.png is empty" in str(caught.value) and left(out.parent) == []
    shutil.rmtree(pictures / "dog")
    shutil.rmtree(pictures / "Käfer-甲虫")
    for path in list(pictures.glob("cat/*"))[1:]:
        path.write_bytes(b"")
    with pytest.raises(UserError, match="expected at least 2"):
        build(pictures, out, on_error="skip")
    assert left(out.parent) == []


@pytest.mark.parametrize("at", [2, 6, 9, 14])
def test_a_refused_build_is_refused_when_resumed(pictures: Path, out: Path, at: int):
    (pictures / "cat" / "05.png").write_bytes(b"")
    (pictures / "dog" / "zz.png").write_bytes(b"x")
    with pytest.raises(Stop):
        build(pictures, out, progress=stop_at(at))
    with pytest.raises(UserError, match="2 problems"):
        build(pictures, out)
    assert left(out.parent) == []


def test_outputs_that_cannot_be(pictures: Path, out: Path):
    with pytest.raises(UserError, match=r"set.tar.zip"):
        build(pictures, out.with_name("set.tar"))
    build(pictures, out)
    stamp = out.read_bytes()
    with pytest.raises(UserError, match="already"):
        build("digits", out)
    assert out.read_bytes() == stamp
    build(pictures, out, overwrite=True, channels=1)
    assert out.read_bytes() != stamp
    with pytest.raises(UserError, match="cannot be written"):
        build(pictures, out / "inside" / "set.zip")


def test_a_full_disk_keeps_what_was_done(pictures: Path, out: Path, monkeypatch: pytest.MonkeyPatch):
    real, count = build_module._png, []

    def png(pixels: np.ndarray) -> bytes:
        count.append(1)
        if len(count) == 8:
            raise OSError(28, "No space left on device")
        return real(pixels)

    monkeypatch.setattr(build_module, "_png", png)
    with pytest.raises(UserError, match=r"No space left on device. Call again to go on"):
        build(pictures, out)
    seen: list[int] = []
    build(pictures, out, progress=lambda n, total: seen.append(n))
    assert seen[0] == 8 and len(open_set(out, cache=False)) == 12
