"""`saddlepoint translate` and `paint` with label maps: ids, objects, styles, looks that are kept, edits."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from saddlepoint import appearances, inputs, painting, recipes, translation
from saddlepoint.cli import main
from saddlepoint.engine import Training
from saddlepoint.errors import UserError
from saddlepoint.runs import Run, create, save_checkpoint
from saddlepoint.systems import build

SIDE = 32
NAMES = ("sky", "sea", "grass", "tree")
GAUGAN: dict[str, Any] = {
    "resolution": SIDE, "channels": 3, "input_channels": 3, "width": 2, "width_max": 8, "hidden": 4, "d_width": 4,
    "n_layers": 2, "latent": 6, "labels": 4, "levels": 0, "batch": 2, "ema_half_life_kimg": 0.0, "instances": True,
    "init_gain": 2.0,
}  # fmt: skip
HD: dict[str, Any] = {
    "resolution": SIDE, "channels": 3, "width": 4, "d_width": 4, "n_layers": 1, "downs": 1, "blocks": 1, "e_width": 4,
    "e_downs": 1, "batch": 2, "ema_half_life_kimg": 0.0, "labels": 4, "instances": True, "features": 2,
    "init_gain": 0.2,
}  # fmt: skip


def scene(index: int, side: int = SIDE) -> tuple[Any, Any, Any]:
    """(label, instance, photo): sky over sea, a lawn and two trees that touch each other."""
    label, instance = np.zeros((side, side), np.uint8), np.zeros((side, side), np.uint16)
    label[side // 2 :] = 1
    label[3 * side // 4 :] = 2
    for n in range(2):
        label[side // 4 : side // 2, (n + 1) * side // 4 : (n + 2) * side // 4] = 3
    instance[:] = label
    instance[side // 4 : side // 2, side // 2 : 3 * side // 4] = 3001
    colours = np.random.default_rng(index).integers(0, 255, (4, 3))
    return label, instance, colours[label].astype(np.uint8)


def write(folder: Path, count: int = 4, side: int = SIDE) -> Path:
    for name in ("label", "inst", "img"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    for index in range(count):
        label, instance, photo = scene(index, side)
        image = Image.fromarray(label, "P")
        image.putpalette([200 - v for v in range(12)])  # the colours say nothing
        image.save(folder / "label" / f"{index}.png")
        Image.fromarray(instance).save(folder / "inst" / f"{index}.png")
        Image.fromarray(photo).save(folder / "img" / f"{index}.png")
    (folder / "classes.txt").write_text("\n".join(NAMES))
    return folder


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("data") / "scenes")


def made(path: Path, system: str, settings: dict[str, Any]) -> Run:
    recipe = recipes.recipe(system, "tiny", **settings)
    torch.manual_seed(0)
    create(path, recipe)
    save_checkpoint(path / "checkpoints" / "000000000000", *Training(build(recipe), recipe).state())
    return Run(path)


@pytest.fixture(scope="module")
def gaugan(tmp_path_factory: pytest.TempPathFactory, data: Path) -> Run:
    return made(tmp_path_factory.mktemp("runs") / "gaugan", "gaugan", {**GAUGAN, "data": str(data)})


@pytest.fixture
def hd(tmp_path: Path, data: Path) -> Run:
    return made(tmp_path / "hd", "pix2pixhd", {**HD, "data": str(data)})


def pixels(path: Path) -> Tensor:
    with Image.open(path) as image:
        return torch.from_numpy(np.array(image)).movedim(2, 0).float() / 127.5 - 1


class TestTranslate:
    def test_a_folder_with_objects_and_photos(self, gaugan: Run, data: Path, tmp_path: Path) -> None:
        outcome = translation.translate(gaugan, str(data), tmp_path / "out", seed=5)
        assert [path.name for path in outcome.written] == ["0.png", "1.png", "2.png", "3.png"]
        label, instance, _ = scene(1)
        game: Any = gaugan.game
        ids, objects = torch.from_numpy(label).long()[None], torch.from_numpy(instance.astype(np.int32))[None]
        expected = game.translate(ids, instance=objects, seed=5)[0]
        assert torch.allclose(pixels(outcome.written[1]), expected, atol=0.006)
        assert not torch.allclose(expected, game.translate(ids, seed=5)[0], atol=0.006)  # the edge between the trees
        assert set(outcome.scores) == {"output", "stranger"}  # a map is no picture that could be the output

    def test_plain_maps_in_their_own_sizes_and_without_instances(self, gaugan: Run, tmp_path: Path) -> None:
        for name, (height, width) in {"a": (40, 48), "b/c": (33, 20)}.items():
            path = tmp_path / "maps" / f"{name}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(np.full((height, width), 3, np.uint8)).save(path)
        outcome = translation.translate(gaugan, str(tmp_path / "maps"), tmp_path / "out", tile=32)
        with Image.open(tmp_path / "out" / "a.png") as first, Image.open(tmp_path / "out" / "b" / "c.png") as second:
            assert first.size == (48, 40) and second.size == (20, 33)
        assert not outcome.scores
        single = translation.translate(gaugan, str(tmp_path / "maps" / "a.png"), tmp_path / "one")
        assert [path.name for path in single.written] == ["a.png"]

    def test_ids_that_are_no_class_are_named_and_can_be_left_out(
        self, gaugan: Run, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        maps = tmp_path / "maps"
        maps.mkdir()
        for name, top in (("good", 3), ("bad", 9)):
            Image.fromarray(np.array([[0, 1], [2, top]], np.uint16)).save(maps / f"{name}.png")
        words = ["translate", str(gaugan.path), "--input", str(maps), "--out", str(tmp_path / "out")]
        assert main(words) == 2
        said = capsys.readouterr().err
        assert "bad.png has the id 9 on 1 of 4 pixels; the classes are 0 to 3; nearest: 3" in said
        assert main([*words, "--on-error", "skip", "--resolution", "32"]) == 0
        assert [path.name for path in (tmp_path / "out").iterdir()] == ["good.png"]

    def test_styles_by_seed_and_of_a_picture(self, gaugan: Run, data: Path, tmp_path: Path) -> None:
        game: Any = gaugan.game
        label = str(data / "label" / "0.png")
        several = translation.translate(gaugan, label, tmp_path / "several", styles=3, style="4")
        assert [path.name for path in several.written] == ["0-0.png", "0-1.png", "0-2.png"]
        one = translation.translate(gaugan, label, tmp_path / "one", style="5")
        assert torch.equal(pixels(one.written[0]), pixels(several.written[1]))
        assert not torch.equal(pixels(several.written[0]), pixels(several.written[1]))
        photo = data / "img" / "3.png"
        painted = translation.translate(gaugan, label, tmp_path / "like", style=str(photo))
        z = game.style_of(pixels(photo)[None])
        expected = game.translate(torch.from_numpy(scene(0)[0]).long()[None], style=z)[0]
        assert torch.allclose(pixels(painted.written[0]), expected, atol=0.006)

    @pytest.mark.parametrize(
        ("words", "said"),
        [
            (["--style", "nowhere.png"], "nowhere.png"),
            (["--features", "3"], "no features of objects"),
            (["--instances", "{data}/img"], "has colours"),
            (["--styles", "-1"], "0 or more"),
        ],
    )
    def test_what_cannot_be_is_said(
        self, gaugan: Run, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], words: list[str], said: str
    ) -> None:
        words = [word.replace("{data}", str(data)) for word in words]
        source = str(data / "label")
        assert main(["translate", str(gaugan.path), "--input", source, "--out", str(tmp_path / "o"), *words]) == 2
        assert said in capsys.readouterr().err


class TestAppearances:
    def test_they_are_found_once_kept_and_found_anew_for_other_weights(
        self, hd: Run, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        folder = hd.checkpoints()[0]
        first = translation.translate(hd, str(data), tmp_path / "a", features=1)
        assert "once for this checkpoint" in capsys.readouterr().err and (folder / appearances.FILE).is_file()
        again = translation.translate(Run(hd.path), str(data), tmp_path / "b", features=1)
        other = translation.translate(Run(hd.path), str(data), tmp_path / "c", features=2)
        assert "finding" not in capsys.readouterr().err
        assert torch.equal(pixels(first.written[0]), pixels(again.written[0]))
        assert not torch.equal(pixels(first.written[0]), pixels(other.written[0]))
        known = Run(hd.path).game
        assert int(known.centres_known.sum()) > 0  # type: ignore[operator]
        state = json.loads((folder / "state.json").read_text())
        state["files"]["game.safetensors"] = "0" * 32  # as if other weights had been written
        (folder / "state.json").write_text(json.dumps(state))
        assert appearances._kept(folder) is None

    def test_the_examples_are_whole_and_never_mirrored(self, data: Path, tmp_path: Path) -> None:
        run = made(tmp_path / "mirrored", "pix2pixhd", {**HD, "mirror": True, "load_size": 40, "data": str(data)})
        found = torch.cat([batch["image"] for batch in appearances._examples(run)])
        stored = {tuple(scene(index)[2].transpose(2, 0, 1).ravel().tolist()) for index in range(4)}
        pictures = ((found + 1) * 127.5).round().to(torch.uint8)
        assert {tuple(picture.flatten().tolist()) for picture in pictures} == stored

    def test_training_ends_with_them_and_they_go_out_with_the_run(self, data: Path, tmp_path: Path) -> None:
        from safetensors.torch import load_file

        from saddlepoint import api, exporting

        recipe = recipes.recipe("pix2pixhd", "tiny", **{**HD, "data": str(data), "kimg": 0.004})
        run = api.train(recipe, out=tmp_path / "run", device="cpu", progress=False)
        kept = run.checkpoints()[-1] / appearances.FILE
        assert kept.is_file() and int(run.game.centres_known.sum()) > 0  # type: ignore[operator]
        exporting.export_run(run, "safetensors", tmp_path / "run.safetensors")
        assert int(load_file(tmp_path / "run.safetensors")["centres_known"].sum()) > 0
        longer = api.resume(run.path, kimg=0.008, device="cpu", progress=False)
        assert (longer.checkpoints()[-1] / appearances.FILE).is_file()

    def test_without_data_it_is_said(self, tmp_path: Path, data: Path) -> None:
        run = made(tmp_path / "lost", "pix2pixhd", {**HD, "data": str(tmp_path / "gone/")})
        with pytest.raises(UserError, match="no looks of objects yet, and finding them needs its training data"):
            translation.translate(run, str(data), tmp_path / "out")

    def test_objects_are_asked_for(self, hd: Run, data: Path, tmp_path: Path) -> None:
        with pytest.raises(UserError, match=r"--instances regions takes every connected region"):
            translation.translate(hd, str(data / "label"), tmp_path / "out")
        named = translation.translate(hd, str(data / "label"), tmp_path / "a", instances=str(data / "inst"))
        beside = translation.translate(hd, str(data), tmp_path / "b")
        assert torch.equal(pixels(named.written[2]), pixels(beside.written[2]))
        assert len(translation.translate(hd, str(data / "label"), tmp_path / "c", instances="regions").written) == 4


class TestMaps:
    def test_regions_by_hand(self) -> None:
        label = np.array([[0, 0, 1, 0], [2, 0, 1, 0], [0, 2, 2, 1]])
        assert inputs.regions(label).tolist() == [[0, 0, 3, 1], [5, 0, 3, 1], [2, 6, 6, 4]]

    def test_resizing_mixes_nothing(self) -> None:
        from saddlepoint.data.options import Options

        label = np.array([[0, 40_000], [7, 255]], np.uint16)
        for options in (Options(), Options(5, 7, fit="crop"), Options(64, 64, fit="crop")):
            found = inputs.ids(Image.fromarray(label), options)
            assert set(found.unique().tolist()) == {0, 7, 255, 40_000} and found.dtype == torch.int32

    def test_a_point_fills_its_region_and_a_rectangle_itself(self) -> None:
        label = np.array([[0, 1, 0], [0, 1, 0]], np.int32)
        made, _ = painting.edited(label, None, painting.Change(2, 0, 1))
        assert made.tolist() == [[2, 1, 0], [2, 1, 0]]
        made, _ = painting.edited(label, None, painting.Change(2, 1, 0, 9, 1))
        assert made.tolist() == [[0, 2, 2], [0, 1, 0]] and label.max() == 1

    def test_a_filled_region_joins_an_object_of_its_class_or_is_a_new_one(self) -> None:
        label = np.array([[0, 1, 2, 1]], np.int32)
        objects = np.array([[7, 3, 5, 4]], np.int32)
        _, found = painting.edited(label, objects, painting.Change(1, 2, 0))
        assert found is not None and found.tolist() == [[7, 3, 3, 4]]
        _, found = painting.edited(label, objects, painting.Change(1, 2, 0), merge=True)
        assert found is not None and found.tolist() == [[7, 3, 3, 3]]
        _, found = painting.edited(label, objects, painting.Change(3, 2, 0))
        assert found is not None and found.tolist() == [[7, 3, 8, 4]]
        two = np.array([[1, 1]], np.int32), np.array([[1, 2]], np.int32)  # one region of two objects
        assert painting.edited(*two, painting.Change(0, 0, 0))[0].tolist() == [[0, 1]]

    def test_words(self) -> None:
        assert painting.change_of("Tree@3,4", NAMES, 4) == painting.Change(3, 3, 4)
        assert painting.change_of("2@0,0,5,6", NAMES, 4) == painting.Change(2, 0, 0, 5, 6)
        assert painting.change_of("255@1,1", (), 4, dont_care=True).kind == 255
        for word, said in (
            ("tre@1,1", "did you mean 'tree'"), ("9@1,1", "classes are 0 to 3; nearest: 3"), ("tree@1", "CLASS@X,Y"),
            ("tree@1,1,0,4", "no pixels"),
        ):  # fmt: skip
            with pytest.raises(UserError, match=said):
                painting.change_of(word, NAMES, 4)
        with pytest.raises(UserError, match="have no names"):
            painting.change_of("tree@1,1", (), 4)


class TestPaint:
    def test_a_strip_with_its_recipe_and_a_map_that_can_be_fed_back(
        self, gaugan: Run, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        words = [
            "paint",
            str(gaugan.path),
            "--input",
            str(data),
            "--index",
            "2",
            "--out",
            str(tmp_path / "p.png"),
            "--cell",
            "0",
        ]
        changes = ["--change", "tree@2,2", "--change", "1@0,28,8,4", "sky@0,28", "--style", "3"]
        assert main([*words, *changes, "--save-map", str(tmp_path / "map.png")]) == 0
        said = capsys.readouterr().out
        assert "tree" in said and str(tmp_path / "map-instances.png") in said
        with Image.open(tmp_path / "p.png") as image:
            notes = json.loads(image.info["saddlepoint"])
            assert image.size == (4 * SIDE + 3, SIDE)
        assert notes["painted"]["changes"] == ["tree@2,2", "1@0,28,8,4", "sky@0,28"] and notes["clock"] == 0
        with Image.open(tmp_path / "map.png") as image:
            assert image.mode == "P" and np.asarray(image)[0, 0] == 3 and np.asarray(image)[30, 2] == 0
        assert main([*words[:3], str(tmp_path / "map.png"), "--instances", str(tmp_path / "map-instances.png"),
                     "--style", "3", "--only", "--out", str(tmp_path / "again.png")]) == 0  # fmt: skip
        after = pixels(tmp_path / "p.png")[:, :, 3 * SIDE + 3 :]
        assert torch.equal(pixels(tmp_path / "again.png"), after)
        assert not torch.equal(pixels(tmp_path / "p.png")[:, :, SIDE + 1 : 2 * SIDE + 1], after)
        assert (
            main(["sample", str(gaugan.path), "--like", str(tmp_path / "p.png"), "--out", str(tmp_path / "l.png")]) == 2
        )
        assert "`saddlepoint paint` made it" in capsys.readouterr().err

    def test_one_objects_look_is_chosen_and_the_others_stay(self, hd: Run, data: Path) -> None:
        pictures = [
            painting.paint(hd, str(data), features=[f"{x},{SIDE // 4}={pick}"]).picture
            for x, pick in ((SIDE // 4, 0), (SIDE // 4, 1), (SIDE // 2, 1))
        ]
        assert all(torch.equal(before, pictures[0][0]) for before, _ in pictures)
        assert not torch.equal(pictures[0][1], pictures[1][1]) and not torch.equal(pictures[1][1], pictures[2][1])
        with pytest.raises(UserError, match=r"object 3 has \d+ appearances .*no number 99"):
            painting.paint(hd, str(data), features=[f"{SIDE // 4},{SIDE // 4}=99"])

    def test_maps_without_objects_get_their_regions(self, hd: Run, data: Path) -> None:
        found = painting.paint(hd, str(data / "label" / "0.png"), ["sea@0,0"])
        assert found.instance[0] is not None and len(np.unique(found.instance[0])) == 4  # the two trees are one
        assert (
            found.instance[1] is not None and len(np.unique(found.instance[1])) == 3
        )  # sky became sea, and they touch
        assert found.shares()[0][1:3] == ("sky", 0.375) and found.shares()[0][3] == 0

    @pytest.mark.parametrize(
        ("words", "said"),
        [
            (["--change", "tree@40,2"], "outside the map of 32x32 pixels (width x height); nearest: 31,2"),
            (["--change", "sae@1,1"], "did you mean 'sea'"),
            (["--feature", "1,1=0"], "no features of objects"),
            (["--style", "{data}/gone.png"], "gone.png"),
            (["--index", "9"], "--index is 0 to 3"),
            (["--out", "x.jpg"], "ends in .png"),
        ],
    )
    def test_what_cannot_be_is_said(
        self, gaugan: Run, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], words: list[str], said: str
    ) -> None:
        words = [word.replace("{data}", str(data)) for word in words]
        out = [] if "--out" in words else ["--out", str(tmp_path / "x.png")]
        assert main(["paint", str(gaugan.path), "--input", str(data), *out, *words]) == 2
        assert said in capsys.readouterr().err

    def test_runs_without_maps_or_styles_are_told_what_fits(self, hd: Run, data: Path, tmp_path: Path) -> None:
        with pytest.raises(UserError, match=r"has no style encoder.*--features SEED"):
            painting.paint(hd, str(data), style="3")
        create(tmp_path / "noise", recipes.recipe("dcgan", resolution=32, channels=1))
        with pytest.raises(UserError, match="`saddlepoint edit`"):
            painting.paint(Run(tmp_path / "noise"), str(data))
        create(tmp_path / "pictures", recipes.recipe("pix2pix", "tiny", resolution=32, channels=3, input_channels=3))
        with pytest.raises(UserError, match="`saddlepoint translate`"):
            painting.paint(Run(tmp_path / "pictures"), str(data))


class TestClasses:
    def test_a_segmenter_is_asked_and_its_limits_stand_beside(
        self,
        gaugan: Run,
        data: Path,
        tmp_path: Path,
        capsys: pytest.CaptureFixture[str],
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        from saddlepoint.metrics import segmentation, translated

        monkeypatch.setattr(segmentation, "PIXELS", 20_000)
        monkeypatch.setattr(segmentation, "HELD_OUT", 2)
        monkeypatch.setenv("SADDLEPOINT_CACHE", str(tmp_path / "cache"))
        assert main(["translate", str(gaugan.path), "--input", str(data), "--out", str(tmp_path / "out")]) == 0
        said = capsys.readouterr().out
        assert "mIoU" in said and "real pictures of other maps" in said
        kept = json.loads((tmp_path / "out" / "distances.json").read_text())["classes"]
        assert set(kept) == {"output", "ceiling", "floor", "segmenter"} and set(kept["output"]["iou"]) <= set(NAMES)
        assert main(["evaluate", str(gaugan.path), "--against", str(data), "--device", "cpu", "--json", "--quiet"]) == 0
        found = json.loads(capsys.readouterr().out)["scores"]
        assert found["miou"]["value"] == pytest.approx(kept["output"]["miou"], abs=1e-6)
        assert found["miou"]["floor"] == pytest.approx(kept["ceiling"]["miou"], abs=1e-6)
        assert translated.picks(gaugan.recipe) == "miou"

    def test_it_can_be_left_out_and_what_keeps_it_away_is_told(self, gaugan: Run, data: Path, tmp_path: Path) -> None:
        assert not translation.translate(gaugan, str(data), tmp_path / "a", segment=False).classes
        told = translation.translate(gaugan, str(data), tmp_path / "b", resolution="16")
        assert "a segmenter needs at least 10" in told.notes[0] and told.scores
