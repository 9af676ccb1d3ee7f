"""Tar shards: read where they lie, in any order, with every broken part named."""

from __future__ import annotations

import io
import itertools
import json
import os
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from saddlepoint.data import describe, inspect, open_set
from saddlepoint.data.build import build
from saddlepoint.data.catalog import braces, shard_paths
from saddlepoint.data.shards import Streamed, key_of
from saddlepoint.errors import UserError

Members = list[tuple[str, bytes]]


def png(value: int, height: int = 4, width: int = 4, mode: str = "L") -> bytes:
    """A picture whose first pixel is its number."""
    pixels = np.full((height, width), 200, np.uint8)
    pixels[0, 0] = value % 256
    buffer = io.BytesIO()
    Image.fromarray(pixels).convert(mode).save(buffer, "PNG")
    return buffer.getvalue()


def shard(path: Path, members: Members, form: int = tarfile.USTAR_FORMAT) -> Path:
    with tarfile.open(path, "w", format=form) as tar:
        for name, content in members:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return path


def sample(number: int, label: int | None = None) -> Members:
    made = [(f"{number:05d}.png", png(number))]
    return made if label is None else [*made, (f"{number:05d}.cls", str(label).encode())]


def samples(first: int, count: int) -> Members:
    """Numbered pictures of three classes."""
    return [member for n in range(first, first + count) for member in sample(n, n % 3)]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three shards of 5, 7 and 3 samples, numbered through."""
    place = tmp_path / "shards"
    place.mkdir()
    for index, (first, count) in enumerate([(0, 5), (5, 7), (12, 3)]):
        shard(place / f"train-{index:03d}.tar", samples(first, count))
    return place


def firsts(images: Any) -> list[int]:
    return np.asarray(images)[:, 0, 0, 0].tolist()


def test_images_labels_and_names_come_in_the_order_of_the_shards(folder: Path) -> None:
    found = open_set(folder)
    assert isinstance(found.images, Streamed)
    assert found.images.shape == (15, 1, 4, 4) and len(found) == 15
    assert firsts(found.images) == list(range(15))
    assert found.labels is not None and found.labels.tolist() == [n % 3 for n in range(15)]
    assert found.names[5] == "train-001.tar/00005.png"
    assert (found.facts.classes, found.facts.channels, found.problems) == (3, 1, [])


@pytest.mark.parametrize("place", [7, -1, slice(3, 11, 2), [14, 0, 7, 7], np.array([2, 1]), np.arange(15) % 2 == 0])
def test_it_is_indexed_as_an_array_is(folder: Path, place: Any) -> None:
    found = open_set(folder).images
    whole = np.asarray(found)
    assert np.array_equal(found[place], whole[place])
    assert np.array_equal(found[place, 0, 1:], whole[place, 0, 1:])
    assert found[place].dtype == np.uint8
    with pytest.raises(IndexError):
        found[15]


def test_shards_are_named_by_range_by_folder_and_alone(folder: Path) -> None:
    ranged = open_set(f"{folder}/train-{{000..002}}.tar")
    assert firsts(ranged.images) == list(range(15))
    assert firsts(open_set(f"{folder}/train-{{002,000}}.tar").images) == [12, 13, 14, 0, 1, 2, 3, 4]
    assert firsts(open_set(folder / "train-001.tar").images) == list(range(5, 12))
    with pytest.raises(UserError, match=r"train-003.tar' of .* is not there, nor are 1 more"):
        open_set(f"{folder}/train-{{000..004}}.tar")
    with pytest.raises(UserError, match="compressed"):
        open_set(folder / "train-000.tar.gz")


def test_braces_by_hand() -> None:
    assert braces("a{08..11}.tar") == ["a08.tar", "a09.tar", "a10.tar", "a11.tar"]
    assert braces("{x,y}{0..1}") == ["x0", "x1", "y0", "y1"]
    with pytest.raises(UserError, match="downwards"):
        braces("{3..1}")


def test_a_folder_with_images_or_folders_beside_a_tar_is_a_folder_of_images(folder: Path) -> None:
    assert shard_paths(str(folder)) is not None
    (folder / "one.png").write_bytes(png(1))
    assert shard_paths(str(folder)) is None
    assert shard_paths("digits") is None


def test_keys_end_at_the_first_dot_of_the_last_part() -> None:
    assert key_of("a.b/c.seg.PNG") == ("a.b/c", "seg.png")
    assert key_of("plain") == ("plain", "")


@given(order=st.permutations(range(15)), cuts=st.lists(st.integers(0, 15), max_size=3))
def test_any_order_and_any_cuts_give_the_same_images(
    tmp_path_factory: pytest.TempPathFactory, order: list[int], cuts: list[int]
) -> None:
    base = Path(os.environ["SADDLEPOINT_CACHE"]) / "any-order"
    if not base.exists():
        base.mkdir(parents=True)
        shard(base / "b.tar", samples(9, 6))
        shard(base / "a.tar", samples(0, 9))
    images = open_set(base).images
    edges = [0, *sorted(cuts), 15]
    parts = [images[np.array(order[a:b], np.int64)] for a, b in itertools.pairwise(edges)]
    assert firsts(np.concatenate(parts)) == order


def test_labels_and_captions_from_json_and_text(tmp_path: Path) -> None:
    first = json.dumps({"label": 4, "caption": "a dot", "tags": ["small", "grey"]}).encode()
    members = [("a.png", png(1)), ("a.json", first), ("b.png", png(2)), ("b.cls", b"1\n"), ("b.txt", b" two dots\n")]
    found = open_set(shard(tmp_path / "one.tar", members))
    assert found.labels is not None and found.labels.tolist() == [4, 1]
    assert found.captions == [["a dot"], ["two dots"]]
    assert found.facts.captions and found.facts.classes == 5


def test_without_labels_there_are_none(tmp_path: Path) -> None:
    found = open_set(shard(tmp_path / "one.tar", sample(0) + sample(1) + [("2.npy", b"x"), (".hidden", b"")]))
    assert found.labels is None and found.facts.classes == 0


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_long_and_foreign_names_in_every_tar_format(tmp_path: Path, form: int) -> None:
    long = "/".join(["f" * 40] * 3) + "/ä" if form != tarfile.USTAR_FORMAT else "plain"
    members = [(f"{long}{n}.png", png(n)) for n in range(3)]
    found = open_set(shard(tmp_path / "one.tar", members, form))
    assert firsts(found.images) == [0, 1, 2]
    assert found.names[2] == f"one.tar/{long}2.png"


def test_a_resolution_and_channels_are_applied_as_to_a_folder(tmp_path: Path) -> None:
    sizes = [(8, 8), (6, 9), (8, 8)]
    tar = shard(tmp_path / "one.tar", [(f"{n}.png", png(n, *size, "RGB")) for n, size in enumerate(sizes)])
    loose = tmp_path / "loose"
    loose.mkdir()
    for n, size in enumerate(sizes):
        (loose / f"{n}.png").write_bytes(png(n, *size, "RGB"))
    options: dict[str, Any] = {"resolution": 4, "channels": 1}
    a, b = open_set(tar, **options), open_set(loose, **options)
    assert np.array_equal(np.asarray(a.images), np.asarray(b.images))
    assert a.facts.preparation == b.facts.preparation and a.facts.shape == b.facts.shape
    assert describe(tar, **options).shape == a.facts.shape
    with pytest.raises(UserError, match=r"one.tar/1.png is 6x9, the commonest size 8x8"):
        open_set(tar)
    assert firsts(open_set(tar, on_error="skip").images) == [0, 2]


# ---- what is broken is named
def damaged(data: bytes) -> bytes:
    """A PNG with zeros among its compressed pixels; its header is whole."""
    at = data.index(b"IDAT") + 6
    return data[:at] + bytes(8) + data[at + 8 :]


BROKEN: dict[str, tuple[Members, str]] = {
    "two labels": ([("x.png", png(9)), ("x.cls", b"1"), ("x.json", b'{"label": 2}')], "x.png has the labels"),
    "no number": ([("x.png", png(9)), ("x.cls", b"cat")], "x.png has a .cls that cannot be read"),
    "negative": ([("x.png", png(9)), ("x.cls", b"-1")], "x.png has the labels"),
    "no label": ([("x.png", png(9))], "x.png has no label, and others have one"),
    "no JSON": ([("x.png", png(9)), ("x.json", b"{")], "x.png has a .json that cannot be read"),
    "two images": ([("x.png", png(9)), ("x.mask.png", png(9)), ("x.cls", b"1")], "x.png has 2 images"),
    "no image": ([("x.png", b"hello"), ("x.cls", b"1")], "x.png is not an image"),
    "empty": ([("x.png", b""), ("x.cls", b"1")], "x.png is empty"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_sample_is_refused_by_shard_and_member_or_left_out(tmp_path: Path, name: str) -> None:
    members, text = BROKEN[name]
    tar = shard(tmp_path / "one.tar", samples(0, 2) + members + samples(2, 2))
    with pytest.raises(UserError, match=f"one.tar/{text}"):
        open_set(tar)
    found = open_set(tar, on_error="skip")
    assert firsts(found.images) == [0, 1, 2, 3]
    assert len(found.problems) == 1


def test_damaged_pixels_are_named_when_they_are_reached_or_left_out_beforehand(tmp_path: Path) -> None:
    members = samples(0, 4)
    members[2] = (members[2][0], damaged(members[2][1]))
    tar = shard(tmp_path / "one.tar", members)
    images = open_set(tar).images  # decoding all to find out would read the whole set
    assert firsts(images[[0, 2, 3]]) == [0, 2, 3]
    with pytest.raises(UserError, match=r"one.tar/00001.png cannot be decoded.*--on-error skip"):
        images[[0, 1]]
    found = open_set(tar, on_error="skip")
    assert firsts(found.images) == [0, 2, 3]
    assert found.labels is not None and found.labels.tolist() == [0, 2, 0]
    assert [name for name, _ in found.problems] == ["one.tar/00001.png"]


def cut(data: bytes) -> bytes:
    """Inside the pixels of the third image."""
    return data[: data.index(b"00002.png") + 512 + 20]


def unfinished(data: bytes) -> bytes:
    """After the second sample, as a writer leaves it that was killed."""
    return data[: data.index(b"00002.png")]


def scrambled(data: bytes) -> bytes:
    at = data.index(b"00002.png")
    return data[: at + 100] + b"\xff" * 50 + data[at + 150 :]


@pytest.mark.parametrize(
    ("damage", "text"),
    [
        (cut, "is cut off inside '00002.png'"),
        (unfinished, "is cut off after '00001.cls', at byte"),
        (scrambled, "has a broken header after '00001.cls', at byte"),
        (lambda data: b"no tar at all" * 100, "is no tar"),
    ],
)
def test_a_broken_shard_is_named(tmp_path: Path, damage: Callable[[bytes], bytes], text: str) -> None:
    shard(tmp_path / "a.tar", samples(5, 3))
    broken = shard(tmp_path / "b.tar", samples(0, 4))
    broken.write_bytes(damage(broken.read_bytes()))
    with pytest.raises(UserError, match=f"b.tar {text}"):
        open_set(tmp_path)
    kept = firsts(open_set(tmp_path, on_error="skip").images)
    assert kept == ([5, 6, 7] if text == "is no tar" else [5, 6, 7, 0, 1])


def test_shards_without_images(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="holds no usable images in 1 shards"):
        open_set(shard(tmp_path / "one.tar", [("a.txt", b"x")]))


# ---- the index
def test_the_index_is_made_once_and_anew_when_a_shard_changes(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from saddlepoint.data import shards

    assert len(open_set(folder)) == 15
    made: list[Path] = []
    original = shards._samples
    monkeypatch.setattr(shards, "_samples", lambda path, problems: made.append(path) or original(path, problems))
    assert len(open_set(folder)) == 15 and not made
    shard(folder / "train-002.tar", samples(12, 4))
    assert firsts(open_set(folder).images) == list(range(16))
    assert len(made) == 3


def test_a_damaged_index_is_made_anew(folder: Path) -> None:
    found = open_set(folder)
    assert isinstance(found.images, Streamed)
    (found.images.index.folder / "records").write_bytes(b"short")
    assert firsts(open_set(folder).images) == list(range(15))


def test_without_the_cache_nothing_stays(folder: Path) -> None:
    found = open_set(folder, cache=False)
    assert isinstance(found.images, Streamed)
    place = found.images.index.folder
    assert place.is_dir() and firsts(found.images) == list(range(15))
    found.images.index.__dict__["kept"].cleanup()
    assert not place.exists()


def test_shards_are_inspected_and_built_like_any_set(folder: Path, tmp_path: Path) -> None:
    report = inspect(folder)
    assert (report.used, report.label_counts) == (15, {"0": 5, "1": 5, "2": 5})
    build(folder, tmp_path / "out.zip")
    zipped, streamed = open_set(tmp_path / "out.zip"), open_set(folder)
    assert np.array_equal(np.asarray(zipped.images), np.asarray(streamed.images))
    assert zipped.labels is not None and streamed.labels is not None
    assert zipped.labels.tolist() == streamed.labels.tolist()


def test_a_stream_over_shards_is_the_stream_over_the_same_images(folder: Path, tmp_path: Path) -> None:
    """Shuffled, mirrored, sliced for processes: nothing depends on where the images lie."""
    torch = pytest.importorskip("torch")
    from saddlepoint.data import Stream

    build(folder, tmp_path / "out.zip")
    a, b = (Stream(open_set(place), seed=3, mirror=True) for place in (folder, tmp_path / "out.zip"))
    for cursor, first in [(0, 0), (12, 4), (40, 2)]:
        one, two = a(cursor, 8, first, 4), b(cursor, 8, first, 4)
        assert torch.equal(one["image"], two["image"]) and torch.equal(one["label"], two["label"])
