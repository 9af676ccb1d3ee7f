"""`saddlepoint translate`: names, sizes, tiles, true partners, and what is refused."""

from __future__ import annotations

import itertools
import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from saddlepoint import recipes, translation
from saddlepoint.cli import main
from saddlepoint.engine import Training
from saddlepoint.errors import UserError
from saddlepoint.layers.translation import InstanceNorm
from saddlepoint.runs import Run, create, save_checkpoint
from saddlepoint.systems import build
from saddlepoint.systems.translation import spans


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A CycleGAN on glyphs, untrained, with its checkpoint."""
    path = tmp_path_factory.mktemp("runs") / "one"
    recipe = recipes.recipe(
        "cyclegan", resolution=32, channels=1, input_channels=1, width=4, blocks=2, d_width=4, n_layers=1, pool=2
    )
    run = create(path, recipe)
    game = build(recipe)
    with torch.no_grad():
        for parameter in game.parameters():
            parameter.mul_(5.0)
    save_checkpoint(path / "checkpoints" / "000000000000", *Training(game, recipe).state())
    return Run(run.path)


def write(path: Path, size: tuple[int, int], value: int = 90) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = (np.add.outer(np.arange(size[1]), 3 * np.arange(size[0])) + value).astype(np.uint8)
    Image.fromarray(pixels).save(path)


def test_every_picture_keeps_its_name_and_size(run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sizes = {"a.png": (40, 30), "sub/b.jpg": (33, 64), "c.webp": (40, 30)}
    for name, size in sizes.items():
        write(tmp_path / "in" / name, size)
    out = tmp_path / "out"
    assert main(["translate", str(run.path), "--input", str(tmp_path / "in"), "--out", str(out)]) == 0
    assert "3 pictures in" in capsys.readouterr().out
    for name, size in sizes.items():
        with Image.open((out / name).with_suffix(".png")) as image:
            assert image.size == size and image.mode == "L"
    game: Any = run.game
    with Image.open(tmp_path / "in" / "a.png") as image:
        x = torch.from_numpy(np.array(image)).float()[None, None] / 127.5 - 1
    with Image.open(out / "a.png") as image:
        made = torch.from_numpy(np.array(image)).float() / 127.5 - 1
    assert torch.allclose(game.translate(x)[0, 0], made, atol=0.006)


def test_true_partners_are_compared_with(run: Run, tmp_path: Path) -> None:
    for n in range(3):
        write(tmp_path / "a" / f"{n}.png", (32, 32), 40 * n)
        write(tmp_path / "b" / f"{n}.png", (32, 32), 40 * n)
    outcome = translation.translate(run, str(tmp_path / "a"), tmp_path / "out", truth=str(tmp_path / "b"))
    assert outcome.scores["input"]["l1"] == 0 and outcome.scores["input"]["ssim"] == 1
    assert outcome.scores["output"]["l1"] > 0 and outcome.scores["stranger"]["l1"] > 0.05
    kept = json.loads((tmp_path / "out" / "distances.json").read_text())
    assert kept["scores"] == outcome.scores and kept["pictures"] == 3
    (tmp_path / "b" / "1.png").rename(tmp_path / "b" / "one.png")
    with pytest.raises(UserError, match=r"1\.png of .* has no partner"):
        translation.translate(run, str(tmp_path / "a"), tmp_path / "out", truth=str(tmp_path / "b"))


def test_distances_by_hand() -> None:
    def flat(value: float) -> Tensor:
        return torch.full((1, 12, 12), value)

    found = translation.distances([(flat(0.5), flat(0.0), flat(1.0)), (flat(1.0), flat(1.0), flat(0.0))])
    assert found["output"]["l1"] == 0.125 and found["input"]["l1"] == 0.5 and found["stranger"]["l1"] == 0.5
    assert found["input"]["psnr"] == pytest.approx(6.0206, abs=1e-3)
    assert found["output"]["l1_error"] == pytest.approx(0.125)


def test_a_named_set_and_the_way_back(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from saddlepoint.data import pairs

    monkeypatch.setattr(pairs, "_characters", lambda: tuple(chr(c) for c in range(65, 91)))
    monkeypatch.setenv("SADDLEPOINT_CACHE", str(tmp_path / "cache"))
    outcome = translation.translate(run, "glyphs:test", tmp_path / "out", direction="b-to-a")
    names = [f"U+{ord(c):04X}.png" for c in "ABCDEFGHIJKLMNOPQRSTUVWXYZ" if f"U+{ord(c):04X}" in pairs._kept(
        [f"U+{ord(c):04X}" for c in map(chr, range(65, 91))], "test")]  # fmt: skip
    assert [path.name for path in outcome.written] == names and len(names) > 1
    assert 0 < outcome.scores["input"]["l1"] < outcome.scores["stranger"]["l1"]


class TestTiles:
    def test_they_cover_everything_once_and_overlap(self) -> None:
        for side, (tile, overlap, multiple) in itertools.product(
            (5, 64, 65, 100, 129, 256, 1000), ((64, 16, 4), (64, 32, 32), (128, 64, 64), (96, 40, 1))
        ):
            found = spans(side, tile, overlap, multiple)
            total = torch.zeros(side)
            for span in found:
                assert span.start % multiple == 0 and span.stop - span.start <= tile
                assert span.low % multiple == 0 and span.start <= span.low <= span.high <= span.stop
                total[span.start : span.stop] += span.weight(span.stop - span.start, overlap - 1)
            assert torch.allclose(total, torch.ones(side), atol=1e-5)
            assert [s.low for s in found[1:]] == [s.high for s in found[:-1]] and found[-1].high == side
            assert all(a.stop - b.start >= overlap for a, b in pairwise(found))

    def test_seams_vanish_with_shared_statistics(self, run: Run) -> None:
        """Exact once every one of the 10 norm layers has had its pass."""
        game: Any = run.game
        generator = torch.Generator().manual_seed(0)
        x = F.interpolate(torch.rand(1, 1, 6, 9, generator=generator) * 2 - 1, (160, 240), mode="bicubic")
        x = x.clamp(-1, 1) * torch.linspace(0.1, 1, 240)
        whole = game.translate(x)[0]
        norms = sum(isinstance(m, InstanceNorm) for m in game.G_A.modules())
        error = {}
        for passes in (0, norms, -1):
            made = game.translate_tiled(x[0], tile=120, passes=passes)
            assert made.shape == whole.shape
            error[passes] = float((made - whole).abs().mean())
        assert error[norms] < 1e-3 < 0.01 * error[0] and error[-1] == error[norms], error

    def test_tiles_see_everything_they_need(self) -> None:
        """Without norms and with an overlap of twice a pixel's view tiles are exact; with less they are not."""
        game: Any = build(
            recipes.recipe(
                "cyclegan", resolution=32, channels=1, input_channels=1, width=2, blocks=1, d_width=2, n_layers=1,
                pool=0, norm="none", init_gain=0.3,
            )
        )  # fmt: skip
        x = torch.rand(1, 90, 260) * 2 - 1
        whole = game.translate(x[None])[0]
        assert torch.allclose(game.translate_tiled(x, tile=96), whole, atol=1e-4)
        assert float((game.translate_tiled(x, tile=96, overlap=8) - whole).abs().max()) > 1e-3


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--input", "nowhere"], "nowhere"),
        (["--input", "{in}", "--direction", "a-to-c"], "a-to-b"),
        (["--input", "{in}", "--batch", "0"], "--batch is 0"),
        (["--input", "{in}/bad.png"], "bad.png is not an image"),
        (["--input", "glyphs:test", "--truth", "{in}"], "leave --truth out"),
        (["--input", "{in}/notes.txt"], "no picture in a known format"),
    ],
)
def test_what_cannot_be_is_said(
    run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str], words: list[str], said: str
) -> None:
    write(tmp_path / "ok.png", (8, 8))
    (tmp_path / "bad.png").write_bytes(b"no picture")
    (tmp_path / "notes.txt").write_text("notes")
    words = [word.replace("{in}", str(tmp_path)) for word in words]
    assert main(["translate", str(run.path), *words, "--out", str(tmp_path / "out")]) == 2
    assert said in capsys.readouterr().err


def test_bad_pictures_can_be_left_out_and_are_named(
    run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write(tmp_path / "in" / "ok.png", (8, 8))
    (tmp_path / "in" / "bad.png").write_bytes(b"no picture")
    words = ["translate", str(run.path), "--input", str(tmp_path / "in"), "--out", str(tmp_path / "out")]
    assert main([*words, "--on-error", "skip"]) == 0
    assert "left out: bad.png is not an image" in capsys.readouterr().err
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["ok.png"]


def test_two_pictures_of_one_name_are_refused(run: Run, tmp_path: Path) -> None:
    write(tmp_path / "in" / "x.png", (8, 8))
    write(tmp_path / "in" / "x.jpg", (8, 8))
    with pytest.raises(UserError, match=r"two pictures would be written as 'x\.png'"):
        translation.translate(run, str(tmp_path / "in"), tmp_path / "out")


def test_a_generator_from_noise_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "other"
    create(path, recipes.recipe("dcgan", resolution=32, channels=1))
    with pytest.raises(UserError, match="from noise"):
        translation.translate(Run(path), "glyphs:test", tmp_path / "out")
