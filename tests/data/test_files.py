from __future__ import annotations

import json
import os
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from saddlepoint.data import describe, open_set
from saddlepoint.errors import UserError


def label(folder: Path, pairs: object) -> Path:
    (folder / "dataset.json").write_text(json.dumps({"labels": pairs}))
    return folder


@pytest.fixture
def flat(tmp_path: Path, picture) -> Path:
    """Four images side by side."""
    folder = tmp_path / "flat"
    folder.mkdir()
    for index in range(4):
        picture(index).save(folder / f"{index}.png")
    return folder


def zipped(folder: Path, inside: str = "") -> Path:
    path = folder.with_suffix(".zip")
    with zipfile.ZipFile(path, "w") as archive:
        for file in sorted(folder.rglob("*")):
            archive.write(file, inside + file.relative_to(folder).as_posix())
    return path


@pytest.mark.parametrize("inside", [None, "", "deep/er/"])
def test_labels_from_sub_folders(pictures: Path, inside: str | None):
    images = open_set(pictures if inside is None else zipped(pictures, inside), cache=False)
    assert images.facts.label_names == ("Käfer-甲虫", "cat", "dog") and images.facts.classes == 3
    assert images.labels is not None and np.bincount(images.labels).tolist() == [4, 4, 4]
    for name, number, pixels in zip(images.names, images.labels, images.images, strict=True):
        assert images.facts.label_names[number] in name
        original = np.asarray(Image.open(pictures / name.removeprefix(inside or "")))
        assert np.array_equal(pixels.transpose(1, 2, 0), original)


@pytest.mark.parametrize("as_zip", [False, True])
def test_labels_from_dataset_json(flat: Path, as_zip: bool):
    label(flat, [["3.png", 7], ["0.png", 0], ["1.png", 0], ["2.png", 2]])
    images = open_set(zipped(flat) if as_zip else flat, cache=False)
    assert dict(zip(images.names, images.labels.tolist(), strict=True)) == {
        "0.png": 0, "1.png": 0, "2.png": 2, "3.png": 7,
    }  # fmt: skip
    assert images.facts.classes == 8 and images.facts.labels_from == "dataset.json"


def test_dataset_json_with_no_labels_overrides_sub_folders(pictures: Path):
    images = open_set(label(pictures, None), cache=False)
    assert images.labels is None and images.facts.classes == 0


def test_numbered_or_mixed_sub_folders_are_no_classes(flat: Path, picture):
    (flat / "00000").mkdir()
    picture(9).save(flat / "00000" / "9.png")
    assert "some do not" in describe(flat).labels_from
    for index in range(4):
        (flat / f"{index}.png").rename(flat / "00000" / f"{index}.png")
    (flat / "00001").mkdir()
    picture(8).save(flat / "00001" / "8.png")
    images = open_set(flat, cache=False)
    assert images.labels is None and "numbered" in images.facts.labels_from and len(images) == 6


def test_faulty_labels_are_each_named(flat: Path):
    label(flat, [["0.png", 0], ["0.png", 1], ["1.png", 1], ["1.png", 1], ["gone.png", 1], ["2.png", 0]])
    with pytest.raises(UserError, match="4 problems"):
        open_set(flat, cache=False)
    images = open_set(flat, cache=False, on_error="skip")
    assert images.names == ["0.png", "1.png", "2.png"] and images.labels.tolist() == [0, 1, 0]
    reasons = dict(images.problems)
    assert "classes 0 and 1" in reasons["0.png"] and "the same class" in reasons["1.png"]
    assert "not there" in reasons["gone.png"] and "no label" in reasons["3.png"]


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("{", "JSON"),
        ("[1]", "list"),
        ('{"labels": {"0.png": 1}}', "expected null or a list"),
        ('{"labels": [["0.png", "cat"]]}', "cat"),
        ('{"labels": [["0.png", [0.5, 1]]]}', "0.5"),
        ('{"labels": [["0.png", -1]]}', "-1"),
        ('{"labels": [["0.png", true]]}', "True"),
    ],
)
def test_a_malformed_dataset_json_is_refused(flat: Path, text: str, word: str):
    (flat / "dataset.json").write_text(text)
    with pytest.raises(UserError, match=word):
        open_set(flat, cache=False)


def test_other_files_are_no_problem_and_hidden_ones_no_images(flat: Path, picture):
    (flat / "README.txt").write_text("hello")
    (flat / "__MACOSX").mkdir()
    picture(5).save(flat / "__MACOSX" / "x.png")
    picture(6).save(flat / ".hidden.png")
    images = open_set(flat, cache=False)
    assert len(images) == 4 and not images.problems


def test_every_bad_file_is_named_once(flat: Path, broken):
    for name, (data, _) in broken.items():
        (flat / name).write_bytes(data)
    (flat / "loose.png").symlink_to(flat / "nowhere")
    with pytest.raises(UserError) as caught:
        open_set(flat, cache=False, resolution=6)
    images = open_set(flat, cache=False, resolution=6, on_error="skip")
    assert images.names == ["0.png", "1.png", "2.png", "3.png"]
    assert sorted(name for name, _ in images.problems) == sorted([*broken, "loose.png"])
    for name, (_, word) in broken.items():
        assert word in dict(images.problems)[name] and name in str(caught.value)


def test_mixed_sizes_need_a_resolution(flat: Path, picture):
    picture(7, 9, 5).save(flat / "wide.png")
    with pytest.raises(UserError, match=r"wide\.png is 5x9, the commonest size 6x6; give a resolution"):
        open_set(flat, cache=False)
    rest = open_set(flat, cache=False, on_error="skip")
    assert len(rest) == 4 and rest.facts.preparation == "size as stored" and not rest.facts.mixed
    fitted = open_set(flat, cache=False, resolution="4x8")
    assert fitted.images.shape == (5, 3, 4, 8) and not fitted.facts.mixed and describe(flat).mixed
    assert fitted.facts.preparation == "fitted from various sizes to 4x8 by 'crop', Lanczos filter"


def test_grey_and_colour_together_are_colour(flat: Path, picture):
    picture(7, mode="L").save(flat / "grey.png")
    images = open_set(flat, cache=False)
    assert images.facts.channels == describe(flat).channels == 3
    grey = images.images[images.names.index("grey.png")]
    assert np.array_equal(grey[0], grey[1]) and np.array_equal(grey[0], grey[2])


def test_dark_signs_on_nothing_stay_visible(tmp_path: Path):
    sign = np.zeros((6, 6, 2), np.uint8)
    sign[2:4, :, 1] = 255  # opaque black; the rest is transparent black
    for index in range(2):
        Image.fromarray(sign, "LA").save(tmp_path / f"{index}.png")
    images = open_set(tmp_path, cache=False)
    assert images.facts.shape == (1, 6, 6) and describe(tmp_path).transparent
    assert images.images[0, 0, :, 0].tolist() == [255, 255, 0, 0, 255, 255]


@pytest.mark.parametrize("kind", ["jpg", "webp", "bmp", "gif", "tiff", "PNG"])
def test_kinds_of_files(tmp_path: Path, kind: str):
    for index, shade in enumerate((50, 200)):
        Image.new("RGB", (8, 8), (shade,) * 3).save(tmp_path / f"{index}.{kind}")
    images = open_set(tmp_path, cache=False)
    assert np.abs(images.images.astype(int) - np.array([50, 200])[:, None, None, None]).max() <= 2
    assert images.facts.shape == describe(tmp_path).shape == (3, 8, 8)


def test_nothing_or_too_little(tmp_path: Path, picture):
    folder = tmp_path / "few"
    folder.mkdir()
    with pytest.raises(UserError, match="holds no images"):
        open_set(folder)
    picture().save(folder / "one.png")
    (folder / "two.png").write_bytes(b"")
    with pytest.raises(UserError, match=r"1 usable image; expected at least 2.\s+two.png is empty"):
        open_set(folder, on_error="skip")


def test_a_zip_that_is_damaged(flat: Path):
    path = zipped(flat)
    data = bytearray(path.read_bytes())
    with zipfile.ZipFile(path) as archive:
        second = archive.infolist()[1]
    data[second.header_offset + 60] ^= 255
    path.write_bytes(data)
    images = open_set(path, cache=False, on_error="skip")
    assert len(images) == 3 and images.problems[0][0] == second.filename and "CRC" in images.problems[0][1]
    path.write_bytes(data[: len(data) // 2])
    with pytest.raises(UserError, match="cannot be read as a zip"):
        open_set(path)


def test_a_name_that_is_in_the_zip_twice(flat: Path, recwarn):
    path = zipped(flat)
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("0.png", (flat / "3.png").read_bytes())
    images = open_set(path, cache=False, on_error="skip")
    assert images.problems == [("0.png", "is in the zip more than once; the last counts")]
    assert len(images) == 4 and np.array_equal(images.images[0], images.images[3])


def test_a_zip_that_promises_too_much(flat: Path, monkeypatch):
    monkeypatch.setattr("saddlepoint.data.files.LARGEST_FILE", 150)
    (flat / "big.png").write_bytes((flat / "0.png").read_bytes() + b"\0" * 200)
    sizes = {path.name: path.stat().st_size for path in flat.iterdir()}
    good = [name for name, size in sizes.items() if size <= 150]
    for spec in (flat, zipped(flat)):
        if len(good) >= 2:
            assert dict(open_set(spec, cache=False, on_error="skip").problems)["big.png"].count("MiB") == 1
        else:
            with pytest.raises(UserError, match="MiB"):
                open_set(spec, cache=False, on_error="skip")


def test_captions_and_tags_from_saddlepoint_json(flat: Path):
    about = {
        "captions": {"0.png": "a cat", "1.png": ["a dog", "an animal"]},
        "tags": {"0.png": ["pet"]},
        "licence": "CC0",
    }
    (flat / "saddlepoint.json").write_text(json.dumps(about))
    images = open_set(flat, cache=False)
    assert images.captions == [["a cat"], ["a dog", "an animal"], [], []]
    assert images.tags == [["pet"], [], [], []] and images.facts.licence == "CC0" and images.facts.captions


@pytest.mark.skipif(os.name != "posix", reason="only POSIX file names are bytes")
def test_a_name_that_is_no_utf8(flat: Path, cache: Path):
    name = os.fsdecode(b"caf\xe9.png")
    (flat / "0.png").rename(flat / name)
    (flat / os.fsdecode(b"bad\xff.png")).write_bytes(b"")
    images = open_set(flat, on_error="skip")
    assert len(images) == 4 and images.problems == [("bad\\udcff.png", "is empty (0 bytes)")]
    assert "caf\\udce9.png" in images.names
