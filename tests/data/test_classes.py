from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from saddlepoint.data import open_set
from saddlepoint.data.catalog import describe
from saddlepoint.data.classes import chosen_classes
from saddlepoint.errors import UserError


def test_a_spec_names_a_set_its_classes_and_a_split(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert chosen_classes("digits@3,8") == ("digits", ("3", "8"))
    assert chosen_classes("digits@3 , 8,3:all") == ("digits:all", ("3", "8"))
    assert chosen_classes("digits:test") is None
    assert chosen_classes("digits@") is None
    monkeypatch.chdir(tmp_path)
    (tmp_path / "me@home").mkdir()
    assert chosen_classes("me@home") is None  # a folder that is there is a folder
    assert chosen_classes("me@home@cats") == ("me@home", ("cats",))


def test_chosen_classes_are_those_images_in_their_order_and_numbered_anew() -> None:
    whole, some = open_set("digits:all", cache=False), open_set("digits@8,3:all", cache=False)
    assert whole.labels is not None
    expected = np.flatnonzero(np.isin(whole.labels, (3, 8)))
    assert np.array_equal(some.images, whole.images[expected])
    assert some.labels is not None
    assert np.array_equal(some.labels, (whole.labels[expected] == 3).astype(int))  # 8 was named first
    assert some.facts.label_names == ("8", "3")
    assert describe("digits@8,3:all") == some.facts
    one = open_set("digits@8:all", cache=False)
    assert (one.labels, one.facts.classes, len(one)) == (None, 0, int((whole.labels == 8).sum()))


def test_an_unknown_class_is_named_with_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"'digits' has no class 'eleven'.*Classes: 0, 1"):
        open_set("digits@eleven")
    with pytest.raises(UserError, match="no classes to choose"):
        open_set(str(photos(tmp_path)) + "@cats")


def photos(folder: Path) -> Path:
    from PIL import Image

    for index in range(3):
        Image.new("RGB", (8, 8), (index, 0, 0)).save(folder / f"{index}.png")
    return folder
