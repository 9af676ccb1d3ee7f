from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import pytest

from saddlepoint.data import SETS, Facts, describe, open_set
from saddlepoint.data.options import Options, parse_resolution
from saddlepoint.errors import UserError


def test_named_facts_need_neither_torch_nor_pillow_nor_data():
    code = (
        "import sys, json; from saddlepoint.data import describe; f = describe('fashion-mnist', resolution=32);"
        "print(json.dumps([f.count, f.shape, [m for m in ('torch', 'PIL', 'numpy', 'sklearn') if m in sys.modules]]))"
    )
    env = {"PYTHONPATH": str(Path(__file__).parents[2]), "SADDLEPOINT_CACHE": "/nowhere"}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == [60000, [1, 32, 32], []]


def test_describing_a_folder_loads_no_torch(pictures: Path):
    code = (
        "import sys; from saddlepoint.data import describe; print(describe(sys.argv[1]).shape, 'torch' in sys.modules)"
    )
    env = {"PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run([sys.executable, "-c", code, pictures], env=env, capture_output=True, text=True, check=True)
    assert done.stdout == "(3, 6, 6) False\n"


@pytest.mark.parametrize("spec", ["digits", "digits:train", "digits:test", "digits:all"])
@pytest.mark.parametrize("options", [{}, {"resolution": 32}, {"resolution": "9x12", "channels": 3, "fit": "resize"}])
def test_what_is_described_is_what_is_opened(spec: str, options: dict[str, object]):
    images = open_set(spec, **options)
    assert dataclasses.replace(images.facts, origin="") == dataclasses.replace(describe(spec, **options), origin="")
    assert images.images.shape == (images.facts.count, *images.facts.shape)


def test_a_table_entry_is_complete():
    for name, entry in SETS.items():
        facts = entry.facts()
        assert name == entry.name and facts.classes == len(set(facts.label_names)) > 1
        assert all((entry.summary, entry.obtain, facts.licence, facts.attribution)), name
        assert entry.facts("all").count == facts.count + entry.facts("test").count


@pytest.mark.parametrize(
    ("spec", "hint"),
    [
        ("digts", "'digits'"),
        ("fashion_mnist:test", "'fashion-mnist'"),
        ("digits:tset", "'digits:test'"),
        ("nothing-like-it-at-all-xyz", "Sets: digits"),
    ],
)
def test_unknown_names_are_told_the_nearest(spec: str, hint: str):
    with pytest.raises(UserError, match=r".*") as caught:
        describe(spec)
    assert repr(spec.partition(":")[2] if spec == "digits:tset" else spec) in str(caught.value)
    assert hint in str(caught.value)


def test_a_mistyped_path_is_told_its_neighbour(pictures: Path):
    with pytest.raises(UserError, match=r"did you mean '.*pictures'"):
        describe(pictures.with_name("picturs"))
    (pictures / "one.txt").write_text("x")
    with pytest.raises(UserError, match=r"neither a folder nor a \.zip"):
        describe(pictures / "one.txt")


@pytest.mark.parametrize(
    ("given", "size"),
    [(None, (0, 0)), (64, (64, 64)), ("64", (64, 64)), ("64x48", (64, 48)), ("64X48", (64, 48)), ((2, 3), (2, 3))],
)
def test_resolutions(given: object, size: tuple[int, int]):
    assert parse_resolution(given) == size


@pytest.mark.parametrize("given", [0, -1, "x", "64x", "1x2x3", "big", 10**6, 3.5, (1, 2, 3)])
def test_impossible_resolutions(given: object):
    with pytest.raises(UserError, match=r"resolution is .*expected"):
        parse_resolution(given)


@pytest.mark.parametrize(
    ("options", "word"),
    [({"channels": 2}, "1 .grey"), ({"fit": "padd"}, "'pad'"), ({"background": "whit"}, "'white'")],
)
def test_impossible_options(options: dict[str, object], word: str):
    with pytest.raises(UserError, match=word):
        Options.parse(**options)


def test_preparation_is_said_in_words():
    assert describe("fashion-mnist", resolution=32).preparation == (
        "padded from 28x28 to 32x32, not resampled; background black"
    )
    assert describe("digits", resolution=32).preparation == "resized from 8x8 to 32x32, Lanczos filter"
    assert describe("noto", resolution="64x48", channels=4).preparation == "drawn at 48 px; transparency kept"


@pytest.mark.parametrize(
    ("native", "resolution", "fit", "background"),
    [
        ({"height": 28, "channels": 1}, 32, "pad", "black"),
        ({"height": 28, "channels": 1}, 28, "pad", "black"),
        ({"height": 8, "channels": 1}, 32, "crop", "black"),
        ({"height": 28, "channels": 1}, 16, "crop", "black"),
        ({"height": 28, "channels": 1, "transparent": True}, 32, "pad", "white"),  # dark signs on nothing stay visible
        ({"height": 28, "channels": 3}, 32, "crop", "white"),
        ({"height": 64, "channels": 3, "vector": True, "transparent": True}, "64x48", "pad", "white"),
    ],
)
def test_what_auto_means(native: dict[str, int], resolution: int | str, fit: str, background: str):
    facts = Facts("test", 2, width=native["height"], **native)
    settled = Options.parse(resolution).settled(facts)
    assert (settled.fit, settled.background) == (fit, background)
    given = Options.parse(resolution, 4, "stretch", "grey").settled(facts)
    assert (given.channels, given.fit, given.background) == (4, "stretch", "grey")
