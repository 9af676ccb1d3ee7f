"""Looking at a set: counts, sizes, modes, labels, duplicates, problems, and a contact sheet."""

from __future__ import annotations

import contextlib
import hashlib
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from saddlepoint.errors import UserError

from . import pixels
from .catalog import Facts
from .files import Problem, Source, shown
from .options import Options
from .pixels import ImageError
from .sets import locate

ROW = 10  # images in a row of a contact sheet
MOST_CLASSES = 16  # a sheet has a row per class up to this many


@dataclass(frozen=True)
class Report:
    """What `inspect` found or `build` did. Counts are of images; sizes are "height x width" in pixels."""

    facts: Facts
    found: int
    used: int
    sizes: dict[str, int] = field(default_factory=dict)
    modes: dict[str, int] = field(default_factory=dict)  # Pillow's names, with the number of frames if several
    label_counts: dict[str, int] = field(default_factory=dict)
    duplicates: list[list[str]] = field(default_factory=list)  # names of images with the same pixels
    problems: list[Problem] = field(default_factory=list)
    ignored: dict[str, int] = field(default_factory=dict)  # files that are no images, by suffix
    out: str = ""
    out_bytes: int = 0


def inspect(
    spec: str | Path, sheet: str | Path | None = None, progress: Callable[[int, int], None] | None = None
) -> Report:
    """Decode every image of a named set, folder or zip and report what is there; with `sheet`, also draw a PNG.

    The sheet shows a row per class (up to 16 classes) or up to a hundred images, evenly spread over the set.
    Raises UserError for a set that cannot be opened at all; bad images are listed in `.problems`.
    """
    located = locate(spec)
    source = located.load(Options())
    rows = _chosen(source)
    chosen = {index for _, row in rows for index in row}
    thumbs: dict[int, Image.Image] = {}
    sizes: Counter[str] = Counter()
    modes: Counter[str] = Counter()
    same: dict[bytes, list[str]] = defaultdict(list)
    problems = list(source.problems)
    good: list[int] = []
    for index, name in enumerate(source.names):
        try:
            image = source.read(index)
            frames = getattr(image, "n_frames", 1)
            modes[image.mode + (f" (first of {frames} frames)" if frames > 1 else "")] += 1
            decoded = pixels.decode(image)
            sizes[f"{decoded.height}x{decoded.width}"] += 1
            key = f"{decoded.mode} {decoded.size} ".encode() + decoded.tobytes()
            same[hashlib.blake2b(key, digest_size=16).digest()].append(shown(name))
            good.append(index)
            if index in chosen:
                thumbs[index] = _thumbnail(decoded, source.facts)
        except ImageError as error:
            problems.append((shown(name), str(error)))
        if progress:
            progress(index + 1, len(source.names))
    if sheet is not None:
        _draw(rows, thumbs, Path(sheet).expanduser())
    labels = Counter(source.labels[index] for index in good) if source.labels else Counter()
    return Report(
        replace(source.facts, count=len(good)),
        found=len(source.names),
        used=len(good),
        sizes=dict(sizes.most_common()),
        modes=dict(modes.most_common()),
        label_counts={name: labels[number] for number, name in enumerate(source.facts.label_names)},
        duplicates=[names for names in same.values() if len(names) > 1],
        problems=problems,
        ignored=source.ignored,
    )


def _chosen(source: Source) -> list[tuple[str, Sequence[int]]]:
    """(title, indices) of the rows of the contact sheet."""

    def spread(indices: Sequence[int], count: int) -> list[int]:
        return [indices[int(place)] for place in np.linspace(0, len(indices) - 1, min(count, len(indices)))]

    names = source.facts.label_names
    if source.labels and len(names) <= MOST_CLASSES:
        members: dict[int, list[int]] = defaultdict(list)
        for index, label in enumerate(source.labels):
            members[label].append(index)
        return [(names[label], spread(members[label], ROW)) for label in sorted(members)]
    every = spread(range(len(source.names)), ROW * ROW)
    return [("", every[start : start + ROW]) for start in range(0, len(every), ROW)]


def _thumbnail(image: Image.Image, facts: Facts, side: int = 64) -> Image.Image:
    """`image` inside a square of `side` pixels, small ones enlarged by whole numbers so that their pixels show."""
    times = side // max(image.size)
    if times > 1:
        image = image.resize((image.width * times, image.height * times), Image.Resampling.NEAREST)
    fit = "pad" if times else "resize"
    options = Options(side, side, 3, fit, Options().settled(facts).background)
    return Image.fromarray(pixels.to_pixels(image, options).transpose(1, 2, 0))


def _draw(rows: list[tuple[str, Sequence[int]]], thumbs: dict[int, Image.Image], path: Path, step: int = 68) -> None:
    """The thumbnails in rows with their titles on the left, as a PNG; bad images leave a gap."""
    margin = 8 + 7 * max((len(title) for title, _ in rows), default=0) if any(title for title, _ in rows) else 4
    sheet = Image.new("RGB", (margin + step * ROW, step * len(rows) + 4), (96, 96, 96))
    for y, (title, row) in enumerate(rows):
        plain = title.encode("latin-1", "replace").decode("latin-1")  # all that Pillow's own font can write
        ImageDraw.Draw(sheet).text((6, y * step + step // 2 - 5), plain, fill="white")
        for x, index in enumerate(row):
            if index in thumbs:
                sheet.paste(thumbs[index], (margin + x * step, 4 + y * step))
    scratch = path.with_name(path.name + ".tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        sheet.save(scratch, "PNG")
        scratch.replace(path)
    except OSError as error:
        with contextlib.suppress(OSError):
            scratch.unlink()
        raise UserError(f"the contact sheet {str(path)!r} cannot be written: {error}.") from error


def format_report(report: Report) -> str:
    """A report as text to print."""
    facts = report.facts
    lines = [f"{facts.name}: {report.used} usable images" + f" of {report.found}" * (report.used != report.found)]
    lines += [
        f"  {title:<11} {_counts(table)}"
        for title, table in (("sizes", report.sizes), ("modes", report.modes))
        if table
    ]
    lines.append(f"  labels      {facts.classes or 'none'} ({facts.labels_from})")
    lines += [f"    {name:<20} {count}" for name, count in report.label_counts.items()]
    if facts.licence or facts.attribution:
        lines.append(f"  licence     {facts.licence}; {facts.attribution}")
    if report.ignored:
        lines.append(f"  not images  {_counts(report.ignored)}")
    if report.duplicates:
        extra = sum(len(names) - 1 for names in report.duplicates)
        lines.append(f"  duplicates  {extra} images repeat another's pixels:")
        lines += _few([" = ".join(names[:4]) + " ..." * (len(names) > 4) for names in report.duplicates])
    lines.append(f"  problems    {len(report.problems) or 'none'}")
    lines += _few([f"{name} {reason}" for name, reason in report.problems], 20)
    if report.out:
        lines.append(f"  written     {report.out}, {report.out_bytes / 1e6:.1f} MB; {facts.preparation}")
    return "\n".join(lines)


def _counts(table: dict[str, int]) -> str:
    listed = ", ".join(f"{name}: {count}" for name, count in list(table.items())[:8])
    return listed + (f", and {len(table) - 8} more kinds" if len(table) > 8 else "")


def _few(lines: list[str], most: int = 5) -> list[str]:
    return [f"    {line}" for line in lines[:most]] + [f"    and {len(lines) - most} more"] * (len(lines) > most)
