"""Examples of several pictures: which arrangements are understood, what belongs together, and batches of them."""

from __future__ import annotations

import dataclasses
import shutil
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from saddlepoint.data import pairs
from saddlepoint.data.options import Options
from saddlepoint.data.pair_catalog import PAIRS
from saddlepoint.data.paired import Items, find, match, open_items, split_of
from saddlepoint.data.pixels import from_planes, to_planes
from saddlepoint.errors import UserError


def picture(path: Path, value: int, size: tuple[int, int] = (8, 8)) -> None:
    """A picture of one grey value, with a bright column at its left so that flips and crops show; (width, height)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.full((size[1], size[0], 3), value, np.uint8)
    pixels[:, 0] = 250
    Image.fromarray(pixels).save(path)


def pairs_in(root: Path, a: str = "A", b: str = "B", count: int = 4, first: int = 0) -> Path:
    for n in range(first, first + count):
        picture(root / a / f"{n}.png", 10 * n)
        picture(root / b / f"{n}.png", 10 * n + 5)
    return root


class TestLayouts:
    @pytest.mark.parametrize(
        ("a", "b"), [("A", "B"), ("train_A", "train_B"), ("A/train", "B/train"), ("train/A", "train/B")]
    )
    def test_pairs_belong_together(self, tmp_path: Path, a: str, b: str) -> None:
        items = open_items(str(pairs_in(tmp_path / "set", a, b)))
        assert len(items) == 4 and items.paired
        batch = Items(items, seed=1)(0, 4, 0, 4)
        values = (batch["b"] - batch["a"])[:, 0, 0, 5] * 127.5
        assert torch.allclose(values, torch.full((4,), 5.0), atol=1e-3)

    def test_two_collections_have_no_pairs_and_may_differ_in_size(self, tmp_path: Path) -> None:
        pairs_in(tmp_path, "trainA", "trainB", 3)
        picture(tmp_path / "trainB" / "more.png", 200)
        items = open_items(str(tmp_path))
        assert not items.paired and len(items) == 4
        with pytest.raises(UserError, match=r"more\.png has no partner in a"):
            open_items(str(tmp_path), paired=True)
        assert len(open_items(str(tmp_path), paired=True, on_error="skip")) == 3

    def test_held_out_parts_are_found(self, tmp_path: Path) -> None:
        pairs_in(tmp_path, "trainA", "trainB", 3)
        pairs_in(tmp_path, "testA", "testB", 2, first=20)
        rest = find(str(tmp_path)).held_out()
        assert rest is not None and rest.spec.endswith(":test")
        assert {len(c) for c in open_items(rest).columns.values()} == {2}
        assert find(f"{tmp_path}:test").held_out() is None

    def test_side_by_side(self, tmp_path: Path) -> None:
        for n in range(3):
            wide = np.zeros((6, 16, 3), np.uint8)
            wide[:, 8:] = 100 + n
            (tmp_path / "train").mkdir(exist_ok=True)
            Image.fromarray(wide).save(tmp_path / "train" / f"{n}.png")
        items = open_items(str(tmp_path))
        assert items.columns["a"].images.shape == (3, 3, 6, 8)
        assert items.columns["a"].images.max() == 0 and items.columns["b"].images.min() == 100
        picture(tmp_path / "train" / "tall.png", 3, (6, 16))
        picture(tmp_path / "train" / "odd.png", 3, (17, 6))
        with pytest.raises(UserError, match=r"odd\.png is 17 pixels wide.*\n.*tall\.png is 16x6, higher than wide"):
            open_items(str(tmp_path))

    def test_label_maps_instances_and_photos(self, tmp_path: Path) -> None:
        for n in range(3):
            picture(tmp_path / "train_img" / f"town_{n}_leftImg8bit.png", n)
            for role, value in (("label", 7), ("inst", 26000 + n)):
                (tmp_path / f"train_{role}").mkdir(exist_ok=True)
                kind = {"label": "_gtFine_labelIds", "inst": "_gtFine_instanceIds"}[role]
                numbers = np.full((8, 8), value, np.uint16 if role == "inst" else np.uint8)
                numbers[:4] = 1
                Image.fromarray(numbers).save(tmp_path / f"train_{role}" / f"town_{n}{kind}.png")
        items = open_items(str(tmp_path), ("label", "instance", "image"), resolution=4)
        batch = Items(items, seed=0)(0, 3, 0, 3)
        assert batch["label"].dtype == torch.int64 and batch["label"].shape == (3, 4, 4)
        assert set(batch["label"].unique().tolist()) == {1, 7}, "classes are not mixed when a map is made smaller"
        assert set(batch["instance"].unique().tolist()) == {1, 26000, 26001, 26002}
        assert batch["image"].shape == (3, 3, 4, 4)

    def test_a_zip_is_a_folder(self, tmp_path: Path) -> None:
        pairs_in(tmp_path / "set")
        with zipfile.ZipFile(tmp_path / "set.zip", "w") as archive:
            for path in sorted((tmp_path / "set").rglob("*.png")):
                archive.write(path, path.relative_to(tmp_path).as_posix())
        assert len(open_items(str(tmp_path / "set.zip"))) == 4

    def test_what_is_wrong_is_named(self, tmp_path: Path) -> None:
        root = pairs_in(tmp_path / "set")
        (root / "B" / "2.png").rename(root / "B" / "two.png")
        picture(root / "B" / "3.png", 5, (8, 6))
        with pytest.raises(UserError) as caught:
            open_items(str(root), resolution=8)
        text = str(caught.value)
        assert "A/2.png has no partner in b" in text and "B/two.png has no partner in a" in text
        assert "B/3.png is 6x8, but its partner A/3.png is 8x8" in text
        kept = open_items(str(root), resolution=8, on_error="skip")
        assert kept.names == ["0", "1"] and len(kept.problems) == 3

    def test_a_missing_folder_is_named(self, tmp_path: Path) -> None:
        root = pairs_in(tmp_path / "set", "trainA", "trainB")
        shutil.rmtree(root / "trainB")
        with pytest.raises(UserError, match="trainB"):
            open_items(str(root))
        other = pairs_in(tmp_path / "other", "cats", "dogs")
        with pytest.raises(UserError, match="the folders cats, dogs; expected trainA/"):
            open_items(str(other))

    def test_names_of_sets(self) -> None:
        with pytest.raises(UserError, match="did you mean 'glyphs'"):
            find("glyph")
        with pytest.raises(UserError, match="splits: train, test, all"):
            find("glyphs:dev")
        assert split_of("a:b/c:test") == ("a:b/c", "test") and split_of("c:drive") == ("c:drive", "train")


class TestItems:
    @pytest.fixture
    def items(self, tmp_path: Path) -> Items:
        for n in range(7):
            picture(tmp_path / "A" / f"{n}.png", 20 * n, (12, 12))
            picture(tmp_path / "B" / f"{n}.png", 20 * n, (12, 12))
        return Items(open_items(str(tmp_path)), seed=5, mirror=True, crop=(8, 8))

    def test_partners_share_flip_and_crop(self, items: Items) -> None:
        batch = items(0, 28, 0, 28)
        assert torch.equal(batch["a"], batch["b"]) and batch["a"].shape == (28, 3, 8, 8)
        columns = (batch["a"][:, 0, 0] > 0.9).nonzero()[:, 1].unique()
        assert {0, 7} <= set(columns.tolist()), "the bright column is seen at the left, and flipped at the right"

    def test_a_batch_is_a_pure_function_of_its_place(self, items: Items) -> None:
        whole = items(0, 20, 0, 20)
        again = Items(items.items, seed=5, mirror=True, crop=(8, 8))
        parts = [again(12, 8, 4, 4), again(0, 12, 0, 6), again(0, 12, 6, 6), again(12, 8, 0, 4)]
        joined = torch.cat([parts[1]["a"], parts[2]["a"], parts[3]["a"], parts[0]["a"]])
        assert torch.equal(whole["a"], joined)

    def test_an_epoch_shows_every_pair_once(self, items: Items) -> None:
        index = items.places(7, 7)["a.index"]
        assert sorted(index.tolist()) == list(range(7))

    def test_without_pairs_the_first_cycles_and_the_second_is_drawn(self, tmp_path: Path) -> None:
        pairs_in(tmp_path, "trainA", "trainB", 3)
        for n in range(3, 6):
            picture(tmp_path / "trainA" / f"{n}.png", n)
        found = Items(open_items(str(tmp_path)), seed=0).places(0, 600)
        assert np.bincount(found["a.index"]).tolist() == [100] * 6
        counts = np.bincount(found["b.index"], minlength=3)
        assert counts.sum() == 600 and counts.min() > 150
        independent = np.corrcoef(found["a.index"], found["b.index"])[0, 1]
        assert abs(independent) < 0.15

    def test_domains_can_be_exchanged(self, items: Items) -> None:
        one = items(0, 3, 0, 3)
        other = Items(items.items, seed=5, mirror=True, crop=(8, 8), called={"a": "b", "b": "a"})(0, 3, 0, 3)
        assert torch.equal(one["a"], other["b"])

    def test_half_the_resolution(self, items: Items) -> None:
        whole, half = items(0, 3, 0, 3), items(0, 3, 0, 3, 4)
        assert torch.allclose(half["a"], torch.nn.functional.avg_pool2d(whole["a"], 2), atol=1e-5)
        with pytest.raises(UserError, match="over a power"):
            items(0, 3, 0, 3, 3)


def test_matching_by_hand() -> None:
    names = {"a": ["A/x.png", "A/y.png", "A/x.jpg"], "b": ["B/y.png", "B/x.png"]}
    rows, keys, problems = match(names, lambda name: name[2:].split(".")[0], {})
    assert keys == ["x", "y"] and rows.tolist() == [[0, 1], [1, 0]]
    assert problems == [("A/x.jpg", "has the name of A/x.png, which counts")]


def test_maps_survive_in_bytes() -> None:
    numbers = np.array([[0, 255], [256, 65535]], np.uint16)
    planes = to_planes(Image.fromarray(numbers), Options(4, 4, 4, "stretch", "black"))
    found = from_planes(planes)
    assert found[::2, ::2].tolist() == numbers.tolist() and set(found.flatten().tolist()) == set(
        numbers.flatten().tolist()
    )
    padded = from_planes(to_planes(Image.fromarray(numbers), Options(4, 4, 4, "pad", "black")))
    assert padded[0, 0] == 255 and padded[1:3, 1:3].tolist() == numbers.tolist()


class TestNamedSets:
    def test_glyphs_are_there_and_split_by_shape(self) -> None:
        train, test = (find(spec).columns[0].load(Options()).names for spec in ("glyphs", "glyphs:test"))
        entry = PAIRS["glyphs"]
        assert (len(train), len(test)) == entry.counts and not set(train) & set(test)
        bold, regular = (np.asarray(pairs.glyph("H", font, 32)) for font in reversed(pairs.FONTS))
        assert bold.mean() < regular.mean() - 5

    def test_every_entry_says_where_it_is_from(self) -> None:
        for entry in PAIRS.values():
            assert entry.licence and entry.attribution and entry.obtain
            assert len(entry.counts) == (2 if entry.paired else 3)

    def test_held_out_stripes_touch_no_training_tile(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(pairs, "_land", lambda: np.ones((2700, 5400), bool))
        pairs._tiles.cache_clear()
        held = {(x // pairs.STRIPE) for _, left in pairs._tiles("test") for x in (left, left + pairs.TILE - 1)}
        seen = {x // pairs.STRIPE for _, left in pairs._tiles("train") for x in range(left, left + pairs.TILE)}
        pairs._tiles.cache_clear()
        assert held == set(pairs.TESTED) and not held & seen

    def test_designers_share_no_emoji_in_training(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        package = tmp_path / "p.tgz"
        package.write_bytes(b"")
        drawing = pairs.Drawing("x", "<svg/>", "1f600")
        codes = {f"1f{n:03x}": dataclasses.replace(drawing, code=f"1f{n:03x}") for n in range(256, 556)}
        monkeypatch.setattr(pairs.named, "_package", lambda entry: package)
        monkeypatch.setattr(pairs, "_drawings", lambda name: codes)
        a, b = ([n[2:] for n in c.load(Options()).names] for c in find("noto-twemoji").columns)
        rest = [n[2:] for n in find("noto-twemoji:test").columns[1].load(Options()).names]
        assert a and b and rest and not (set(a) & set(b) | set(rest) & {*a, *b})
        assert len(a) + len(b) + len(rest) == 300
