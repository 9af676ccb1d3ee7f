from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from saddlepoint.data import format_report, inspect
from saddlepoint.data.report import Report
from saddlepoint.errors import UserError


def test_what_inspect_finds(pictures: Path, picture, broken, tmp_path: Path):
    Image.open(pictures / "cat" / "00.png").save(pictures / "dog" / "copy.bmp")  # another file, the same pixels
    picture(50, 4, 9, "L").save(pictures / "dog" / "tall.png")
    Image.new("RGB", (6, 6), "red").save(
        pictures / "cat" / "film.gif", save_all=True, append_images=[Image.new("RGB", (6, 6), "blue")]
    )
    (pictures / "notes.txt").write_text("x")
    for name, (data, _) in broken.items():
        (pictures / "cat" / name).write_bytes(data)
    seen: list[tuple[int, int]] = []
    report = inspect(pictures, progress=lambda n, total: seen.append((n, total)))
    assert (report.found, report.used, len(report.problems)) == (22, 15, 7) and seen[-1] == (22, 22)
    assert report.sizes == {"6x6": 14, "9x4": 1}
    assert report.modes["L"] == 1 and report.modes["P (first of 2 frames)"] == 1
    assert report.label_counts == {"Käfer-甲虫": 4, "cat": 5, "dog": 6}
    assert report.duplicates == [["cat/00.png", "dog/copy.bmp"]] and report.ignored == {".txt": 1}
    assert {name.removeprefix("cat/") for name, _ in report.problems} == set(broken)
    text = format_report(report)
    for part in ("15 usable images of 22", "6x6: 14", "cat/00.png = dog/copy.bmp", "cat/zero.png is empty", ".txt: 1"):
        assert part in text, part


def test_the_sheet_shows_the_images(tmp_path: Path):
    for index, shade in enumerate(("red", "lime")):
        (tmp_path / "set" / shade).mkdir(parents=True)
        for size in ((3, 3), (200, 100)):
            Image.new("RGB", size, shade).save(tmp_path / "set" / shade / f"{index}{size[0]}.png")
    inspect(tmp_path / "set", sheet=tmp_path / "new" / "sheet.png")
    sheet = np.asarray(Image.open(tmp_path / "new" / "sheet.png"))
    areas = {shade: (sheet == colour).all(-1).sum() for shade, colour in (("red", (255, 0, 0)), ("lime", (0, 255, 0)))}
    assert areas == {"red": 63 * 63 + 64 * 32, "lime": 63 * 63 + 64 * 32}
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["sheet.png"]


def test_a_sheet_that_cannot_be_written(pictures: Path):
    with pytest.raises(UserError, match="contact sheet"):
        inspect(pictures, sheet=pictures / "cat" / "00.png" / "sheet.png")


def test_named_sets_are_inspected_too():
    report = inspect("digits:test")
    assert report.used == sum(report.label_counts.values()) == 179 and report.sizes == {"8x8": 179}
    assert "CC-BY-4.0" in format_report(report) and "problems    none" in format_report(report)


def test_long_lists_are_cut_with_a_count():
    from saddlepoint.data import describe

    report = Report(describe("digits"), 100, 50, problems=[(f"{n}.png", "is bad") for n in range(50)])
    text = format_report(report)
    assert "19.png is bad" in text and "20.png" not in text and "and 30 more" in text and "problems    50" in text
