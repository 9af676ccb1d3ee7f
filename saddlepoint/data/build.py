"""Building a zip in the layout of NVIDIA's dataset_tool, in a way that a kill at any instant costs one image.

The zip holds 00000/img00000000.png and so on (a thousand per folder, stored, since PNG is compressed already) and
dataset.json with {"labels": [[file name, class number], ...] or null}. What that tool does not write: saddlepoint.json
(label names, captions, tags, licence, origin, options, original file names) and ATTRIBUTION.txt.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import struct
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, BinaryIO

from PIL import Image

from saddlepoint.errors import UserError, unknown

from .catalog import Facts
from .files import Source, shown
from .options import Options, Resolution
from .pixels import Pixels
from .report import Report, format_report, inspect
from .sets import ON_ERROR, check_count, examples, locate, locked, refuse

__all__ = ["build", "format_report", "inspect"]


def member_name(index: int) -> str:
    """The name that dataset_tool gives to image `index`."""
    return f"{index // 1000:05d}/img{index:08d}.png"


def _member(name: str) -> zipfile.ZipInfo:
    """A stored file with a fixed date and mode, so that the same images give the same bytes."""
    info = zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0))
    info.external_attr = 0o644 << 16
    return info


def _png(pixels: Pixels) -> bytes:
    """uint8 [C, H, W] as a PNG; lossless."""
    buffer = io.BytesIO()
    image = Image.fromarray(pixels[0] if len(pixels) == 1 else pixels.transpose(1, 2, 0))
    image.save(buffer, "PNG", compress_level=4)
    return buffer.getvalue()


def _recover(file: BinaryIO) -> list[zipfile.ZipInfo]:
    """The whole images at the start of an unfinished zip; cuts off what follows them and leaves the file at its end.

    A zip's table of contents is written last, so the images are found by walking the local headers (APPNOTE.TXT 4.3.7).
    """
    found: list[zipfile.ZipInfo] = []
    end = file.seek(0)
    while len(header := file.read(30)) == 30:
        signature, _, _, _, _, _, crc, size, _, name_length, extra_length = struct.unpack("<4s5H3L2H", header)
        name = file.read(name_length)
        file.read(extra_length)
        data = file.read(size) if signature == b"PK\3\4" and name == member_name(len(found)).encode() else b""
        if len(data) != size or size == 0 or zlib.crc32(data) != crc:
            break
        info = _member(name.decode())
        info.header_offset, info.CRC, info.file_size, info.compress_size = end, crc, size, size
        found.append(info)
        end = file.tell()
    file.seek(end)
    file.truncate()
    return found


class _Journal:
    """Lines beside the unfinished zip: what it is built from, then every image left out, in order."""

    def __init__(self, path: Path, key: str) -> None:
        self.path, self.key = path, key

    def read(self) -> list[tuple[int, str]] | None:
        """(index, reason) of the images left out so far, or None when there is no journal of this very build."""
        try:
            lines = self.path.read_text().split("\n")[:-1]  # a torn last line is one that was not written
            if json.loads(lines[0]) != self.key:
                return None
            return [(int(index), str(reason)) for index, reason in map(json.loads, lines[1:])]
        except (OSError, ValueError, IndexError, TypeError):
            return None

    def start(self, left_out: list[tuple[int, str]]) -> None:
        self.path.write_text("")
        self.add(self.key, *left_out)

    def add(self, *lines: str | tuple[int, str]) -> None:
        """On the disk before the next image is: a lost line would shift all that follow."""
        with self.path.open("a") as file:
            file.write("".join(json.dumps(line) + "\n" for line in lines))
            file.flush()
            os.fsync(file.fileno())


def _resumed(file: BinaryIO, journal: _Journal) -> tuple[list[zipfile.ZipInfo], list[int], list[tuple[int, str]]]:
    """(members in the zip, index of the source image of each, images left out) of a build that was interrupted."""
    left_out = journal.read()
    if left_out is None:
        file.seek(0)
        file.truncate()
        left_out = []
    members = _recover(file)
    skipped = dict(left_out)
    kept: list[int] = []
    index = 0
    while len(kept) < len(members) or index in skipped:
        if index not in skipped:
            kept.append(index)
        index += 1
    left_out = [(i, reason) for i, reason in left_out if i < index]
    journal.start(left_out)
    return members, kept, left_out


def build(
    source: str | Path,
    out_zip: str | Path,
    *,
    resolution: Resolution = None,
    channels: int | None = None,
    fit: str = "auto",
    background: str = "auto",
    on_error: str = "refuse",
    resume: bool = True,
    overwrite: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> Report:
    """Build `out_zip` from a named set, a folder or another zip; the options are those of `open_set`.

    The work lies in OUT.partial and OUT.partial.log until it is whole. A later call with the same source and options
    goes on where that ended (resume=False starts again), and the finished bytes are the same as without interruption.
    A second process that builds the same zip waits for the first.
    Raises UserError: `out_zip` is there already and not to be overwritten, or is no .zip; the disk is full; and all
    that `open_set` raises.
    """
    options = Options.parse(resolution, channels, fit, background)
    if on_error not in ON_ERROR:
        raise unknown("on_error", on_error, ON_ERROR)
    out = Path(out_zip).expanduser()
    if out.suffix.lower() != ".zip":
        raise UserError(f"the output {str(out)!r} does not end in .zip; did you mean {str(out) + '.zip'!r}?")
    located = locate(source)
    key = hashlib.sha256(f"{located.key} {options} {on_error}".encode("utf-8", "backslashreplace")).hexdigest()
    partial = out.with_name(out.name + ".partial")
    journal = _Journal(out.with_name(out.name + ".partial.log"), key)
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with locked(out.with_name(out.name + ".lock"), remove=True):
            if out.exists() and not overwrite:
                raise UserError(f"{str(out)!r} is there already; remove it, choose another name or say overwrite.")
            if not resume:
                journal.path.unlink(missing_ok=True)
            partial.touch()
            with partial.open("r+b") as file:
                report = _write(file, journal, located.load(options), options, located.spec, on_error, progress)
                file.flush()
                os.fsync(file.fileno())
            report = replace(report, out=str(out), out_bytes=partial.stat().st_size)
            partial.replace(out)
            journal.path.unlink(missing_ok=True)
    except OSError as error:
        raise UserError(f"{str(out)!r} cannot be written: {error}. Call again to go on.") from error
    return report


def _write(
    file: BinaryIO,
    journal: _Journal,
    source: Source,
    options: Options,
    spec: str,
    on_error: str,
    progress: Callable[[int, int], None] | None,
) -> Report:
    """Fill the unfinished zip up to its end. Raises UserError on problems when refusing; then nothing stays behind."""
    members, kept, left_out = _resumed(file, journal)
    stop = on_error == "refuse" and bool(source.problems or left_out)
    with zipfile.ZipFile(file, "w") as archive:  # begins where `file` stands
        archive.filelist.extend(members)
        archive.NameToInfo.update({info.filename: info for info in members})
        for index, found in examples(source, options, len(kept) + len(left_out)):
            if isinstance(found, str):
                left_out.append((index, found))
                journal.add((index, found))
                stop = stop or on_error == "refuse"
            elif not stop:
                archive.writestr(_member(member_name(len(kept))), _png(found))
                file.flush()
                kept.append(index)
            if progress:
                progress(index + 1, len(source.names))
        problems = source.problems + [(shown(source.names[index]), reason) for index, reason in left_out]
        try:
            if stop:
                raise refuse(problems, spec)
            check_count(len(kept), spec, problems)
        except UserError:
            journal.path.unlink(missing_ok=True)
            Path(file.name).unlink(missing_ok=True)
            raise
        facts = replace(options.applied(source.facts), count=len(kept), mixed=False)
        for name, text in _papers(source, facts, kept, spec, options).items():
            archive.writestr(_member(name), text)
    labels = Counter(source.labels[index] for index in kept) if source.labels else Counter()
    return Report(
        facts,
        found=len(source.names),
        used=len(kept),
        sizes={f"{facts.height}x{facts.width}": len(kept)},
        label_counts={facts.label_names[label]: labels[label] for label in range(facts.classes)},
        problems=problems,
        ignored=source.ignored,
    )


def _papers(source: Source, facts: Facts, kept: list[int], spec: str, options: Options) -> dict[str, str]:
    """The three text files of the zip."""

    def per_image(values: Any) -> Any:
        return {member_name(n): values[index] for n, index in enumerate(kept)} if values else None

    labels = per_image(source.labels)
    about = {
        "source": Path(spec).name,
        "origin": facts.origin,
        "licence": facts.licence,
        "attribution": facts.attribution,
        "channels": facts.channels,
        "options": asdict(options),
        "preparation": facts.preparation,
        "label_names": facts.label_names,
        "captions": per_image(source.captions),
        "tags": per_image(source.tags),
        "files": per_image([shown(name) for name in source.names]),
    }
    credit = f"{facts.attribution or 'unknown'}\nLicence: {facts.licence or 'unknown'}\nFrom: {facts.origin}\n"
    return {
        "dataset.json": json.dumps({"labels": [list(pair) for pair in labels.items()] if labels else None}),
        "saddlepoint.json": json.dumps(about),
        "ATTRIBUTION.txt": f"{credit}Images: {facts.preparation}\n",
    }
