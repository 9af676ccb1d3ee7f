"""From pictures to files: NAME.png or .svg, NAME.json, NAME.gif, and index.html with everything in one page.

The page embeds the still pictures and the animations, so that it can be moved and opened alone, without any network.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from html import escape
from itertools import groupby
from pathlib import Path
from typing import NamedTuple

from saddlepoint.errors import UserError, unknown
from saddlepoint.figures import FIGURES, make
from saddlepoint.figures.formulas import mathml, prose
from saddlepoint.figures.picture import FORMATS, Picture, animated, plain, rendered
from saddlepoint.runs import write_bytes

MIME = {"png": "image/png", "svg": "image/svg+xml", "gif": "image/gif"}
CSS = """
:root { color-scheme: light; }
* { box-sizing: border-box; }
body { margin: 0; background: #f4f5f7; color: #1b1f24;
  font: 17px/1.6 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; }
main { max-width: 1020px; margin: 0 auto; padding: 48px 24px 80px; }
h1 { font-size: 38px; line-height: 1.15; letter-spacing: -.015em; margin: 0 0 8px; }
h2 { font-size: 26px; margin: 72px 0 0; letter-spacing: -.01em; }
h3 { font-size: 20px; margin: 0 0 2px; }
.lead { color: #5d6673; max-width: 68ch; margin: 0; }
nav { margin: 28px 0 0; columns: 3 260px; font-size: 15px; }
nav div { break-inside: avoid; margin-bottom: 14px; }
nav b { display: block; }
nav a { color: #0072b2; text-decoration: none; display: block; }
section { background: #fff; border: 1px solid #dfe2e7; border-radius: 12px; padding: 22px 26px 24px; margin: 26px 0 0; }
section img { width: 100%; height: auto; display: block; margin: 14px 0 4px; }
section img.moving { border-top: 1px solid #eceef1; padding-top: 10px; max-width: 860px; margin: 14px auto 4px; }
math { font-size: 1.06em; }
math[display=block] { font-size: 1.22em; margin: 16px 0; overflow-x: auto; overflow-y: hidden; padding: 2px 0; }
p { margin: 10px 0; max-width: 78ch; }
.tag { display: inline-block; min-width: 86px; font-size: 13px; font-weight: 600; letter-spacing: .02em;
  color: #5d6673; }
.measured .tag { color: #00724f; } .correction .tag { color: #b04a00; }
.correction { border-left: 4px solid #e69f00; padding-left: 14px; margin-left: -18px; }
.files { font-size: 14px; color: #5d6673; margin-bottom: 0; }
.files a { color: #0072b2; }
footer { margin-top: 56px; color: #5d6673; font-size: 14px; }
@media print { section { break-inside: avoid; } body { background: #fff; } }
"""


class Made(NamedTuple):
    """What the page needs of a picture once it is written: the picture may be forgotten."""

    name: str
    formula: str
    claim: str
    measured: str
    correction: str
    files: tuple[Path, ...]


def write(name: str, picture: Picture, out: Path, format: str = "png") -> list[Path]:
    """The picture, its numbers and its animation into the folder `out`; their paths, the picture's first."""
    contents = {f"{name}.{format}": rendered(picture, format), f"{name}.json": _numbers(name, picture)}
    if picture.animation is not None:
        contents[f"{name}.gif"] = animated(picture.animation)
    _folder(out)
    for file, content in contents.items():
        write_bytes(out / file, content)
    return [out / file for file in contents]


def _numbers(name: str, picture: Picture) -> bytes:
    """What the figure shows, as JSON, with the command that makes it again."""
    values = {"figure": name, "command": f"saddlepoint figures {name}", **plain(picture.numbers)}
    return (json.dumps(values, indent=1, ensure_ascii=False, allow_nan=False) + "\n").encode()


def _folder(out: Path) -> None:
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot write pictures into {out}: {error.strerror or error}.") from error


def gallery(
    out: Path,
    *,
    format: str = "png",
    quick: bool = False,
    only: tuple[str, ...] = (),
    progress: Callable[[str], None] | None = None,
) -> Path:
    """Make the pictures named in `only` (all of them if empty) and the page; returns index.html."""
    if format not in FORMATS:
        raise unknown("format", format, FORMATS)
    for name in only:
        if name not in FIGURES:
            raise unknown("figure", name, FIGURES)
    _folder(out)
    made = []
    for name in FIGURES:
        if only and name not in only:
            continue
        if progress is not None:
            progress(name)
        picture = make(name, quick=quick)
        files = tuple(write(name, picture, out, format))
        made.append(Made(name, picture.formula, picture.claim, picture.measured, picture.correction, files))
    index = out / "index.html"
    write_bytes(index, page(made, quick=quick).encode())
    return index


def page(made: list[Made], *, quick: bool = False) -> str:
    """The gallery as one HTML file: a section per picture, in the lecture's order, grouped by chapter."""
    chapters = [(title, list(group)) for title, group in groupby(made, key=lambda each: FIGURES[each.name].chapter)]
    links = "".join(
        f"<div><b>{escape(title)}</b>"
        + "".join(f'<a href="#{each.name}">{escape(FIGURES[each.name].title)}</a>' for each in group)
        + "</div>"
        for title, group in chapters
    )
    body = "".join(f"<h2>{escape(title)}</h2>" + "".join(map(section, group)) for title, group in chapters)
    how = "saddlepoint figures all --quick" if quick else "saddlepoint figures all"
    note = " (quick: coarser grids and much shorter trainings)" if quick else ""
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>The theory of GANs in pictures</title><style>{CSS}</style></head><body><main>"
        "<h1>The theory of GANs in pictures</h1>"
        '<p class="lead">Every picture with its formula, what it claims, and the numbers measured while it was drawn, '
        "which confirm the claim or correct it. Blue is data, vermilion the generator, green the discriminator.</p>"
        f"<nav>{links}</nav>{body}"
        f"<footer>Made by <code>{how}</code>{note}. The numbers behind each picture are in the JSON file beside "
        f"it.</footer>"
        "</main></body></html>\n"
    )


def section(each: Made) -> str:
    """One picture: title, formula, images, claim, measurement, correction, files."""
    title = FIGURES[each.name].title
    images = "".join(
        f'<img{" class=moving" if path.suffix == ".gif" else ""} alt="{escape(title)}" src="{embedded(path)}">'
        for path in each.files
        if path.suffix != ".json"
    )
    words = [
        ("claim", "Claim", each.claim),
        ("measured", "Measured", each.measured),
        ("correction", "Corrected", each.correction),
    ]
    told = "".join(
        f'<p class="{kind}"><span class="tag">{tag}</span>{prose(text)}</p>' for kind, tag, text in words if text
    )
    files = " · ".join(f'<a href="{path.name}">{path.name}</a>' for path in each.files)
    return (
        f'<section id="{each.name}"><h3>{escape(title)}</h3>{mathml(each.formula, display=True)}{images}{told}'
        f'<p class="files">{files}</p></section>'
    )


def embedded(path: Path) -> str:
    """The file as a data: address."""
    return f"data:{MIME[path.suffix[1:]]};base64,{base64.b64encode(path.read_bytes()).decode()}"
