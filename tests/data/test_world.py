"""Procedural scenes: the same for the same numbers, and true in all that they say about themselves."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from saddlepoint.data import world
from saddlepoint.data.pair_catalog import SCENERY
from saddlepoint.data.paired import open_items
from saddlepoint.errors import UserError

HOUSE = [SCENERY.index(name) for name in ("house", "roof", "window")]


def test_a_scene_is_a_function_of_seed_split_and_index() -> None:
    one, again = world.scene(3, 32), world.scene(3, 32)
    for name in ("image", "label", "instance", "sketch"):
        assert np.array_equal(getattr(one, name), getattr(again, name))
    assert one.image.shape == (32, 32, 3) and one.label.shape == one.instance.shape == one.sketch.shape == (32, 32)
    for other in (world.scene(4, 32), world.scene(3, 32, "test"), world.scene(3, 32, seed=1)):
        assert not np.array_equal(one.label, other.label)
    assert world.scene(3, (24, 48)).image.shape == (24, 48, 3)


def test_the_look_of_a_land_is_free_and_its_maps_do_not_tell_it() -> None:
    looks = [world.scene(5, 32, season=season, light=light) for season in world.SEASONS for light in world.LIGHTS]
    assert [(s.season, s.light) for s in looks] == [(a, b) for a in world.SEASONS for b in world.LIGHTS]
    for one in looks[1:]:
        assert np.array_equal(one.label, looks[0].label) and np.array_equal(one.instance, looks[0].instance)
        assert np.array_equal(one.sketch, looks[0].sketch) and one.counts == looks[0].counts
    means = np.array([s.image.mean((0, 1)) for s in looks])
    apart = np.abs(means[:, None] - means[None]).max(-1)[~np.eye(len(looks), dtype=bool)]
    assert apart.min() > 0.5 and apart.max() > 80  # of 255; night and snow at noon


def test_maps_agree_with_each_other_at_every_size() -> None:
    seen = set[int]()
    for index in range(40):
        drawn = world.drawing(index, (32, 32), "train")
        label, instance = drawn.label(), drawn.instance()
        seen |= set(label.ravel().tolist())
        assert np.array_equal(label == 0, instance == 0)  # the sky, and nothing else
        for one in np.unique(instance):
            found = set(label[instance == one].tolist())
            assert len(found) == 1 or found <= set(HOUSE)  # only a house has several classes
    assert seen == set(range(len(SCENERY)))
    small, large = (world.drawing(7, (side, side), "train").label() for side in (64, 128))
    assert (large[::2, ::2] == small).mean() > 0.93


def test_the_sketch_is_dark_where_objects_end_and_white_inside() -> None:
    for index in (0, 1, 2):
        one = world.scene(index, 64)
        ends = one.instance[:, 1:] != one.instance[:, :-1]
        darker = np.minimum(one.sketch[:, 1:], one.sketch[:, :-1])
        assert (darker[ends] < 160).mean() > 0.97
        assert np.median(one.sketch) == 255


def test_counts_and_captions_say_what_can_be_seen() -> None:
    for index in range(12):
        one = world.scene(index, 64)
        for kind, classes in (("house", HOUSE), ("cloud", [1]), ("boat", [15])):
            numbers, areas = np.unique(one.instance[np.isin(one.label, classes)], return_counts=True)
            assert one.counts[kind] == (areas >= world.SEEN).sum(), (index, kind, numbers)
        for kind in ("house", "tree", "boat"):
            n = one.counts[kind]
            words = f"{world.NUMBERS[n]} {kind}" + "s" * (n != 1)
            assert (words in one.caption) == (n > 0), one.caption
        assert ("by the sea" in one.caption) == (one.counts["sea"] == 1)
        assert len(one.captions) == 4 and one.captions[0] == one.caption
        told = world.facts(index)
        assert (told.captions, told.counts) == (one.captions, one.counts)


def test_counts_do_not_depend_on_the_size() -> None:
    assert world.scene(9, 40).counts == world.scene(9, 64).counts == world.scene(9, 96).counts


def test_named_set_has_captions_and_tags_by_index(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(world, "COUNTS", {"train": 5, "test": 3})
    monkeypatch.setenv("SADDLEPOINT_CACHE", str(tmp_path))
    names = ("a", "label", "instance", "b")
    train, test = (open_items(spec, names, resolution=32) for spec in ("world", "world:test"))
    assert (len(train), len(test)) == (5, 3) and train.label_names == SCENERY
    one = world.scene(2, 32)
    place = train.names.index("train-0002")
    assert np.array_equal(train.take("b", np.array([place]))[0].transpose(1, 2, 0), one.image)
    assert np.array_equal(train.take("label", np.array([place]))[0], one.label)
    assert np.array_equal(train.take("instance", np.array([place]))[0], one.instance)
    assert np.array_equal(train.take("a", np.array([place]))[0, 0], one.sketch)
    pictures = train.columns["b"]
    assert pictures.captions is not None and pictures.captions[place] == list(one.captions)
    assert pictures.tags is not None and pictures.tags[place][:2] == [one.season, one.light]
    assert set(pictures.tags[place][2:]) == {f"{n} {kind}" for kind, n in one.counts.items() if n}


def test_nothing_is_in_both_parts() -> None:
    train, test = (set(world.members(split)) for split in ("train", "test"))
    assert (len(train), len(test)) == (4000, 400) and not train & test
    assert set(world.members("all")) == train | test


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ({"season": "sumer"}, "summer"),
        ({"light": "dawn"}, "dusk"),
        ({"split": "all"}, "train"),
        ({"index": -1}, "count from 0"),
        ({"size": 4}, "8 or more"),
    ],
)
def test_what_is_not_there_is_named(how: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message):
        world.scene(**({"index": 0} | how))  # type: ignore[arg-type]
