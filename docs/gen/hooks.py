"""What MkDocs does beyond reading Markdown: reference pages, globs in the navigation, formulas as MathML.

Formulas between dollar signs become MathML while the site is built. Every current browser draws MathML, so
the pages need neither KaTeX nor MathJax and work without a network. A formula that does not parse fails a
strict build.
"""

from __future__ import annotations

import html
import logging
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import math_core

PACKAGE = "saddlepoint"
FORMULA = re.compile(r'<(span|div) class="arithmatex">\\([(\[])(.*?)\\[)\]]</\1>', re.DOTALL)
log = logging.getLogger("mkdocs.hooks.saddlepoint")  # below "mkdocs": its warnings fail a strict build
tex = math_core.LatexToMathML(fancy_error=False)


def modules(root: Path) -> Iterator[str]:
    """Dotted names, below the package's own, of all its public modules: "game", "layers.norm", ..."""
    for path in sorted((root / PACKAGE).rglob("*.py")):
        parts = path.relative_to(root / PACKAGE).with_suffix("").parts
        name = parts[:-1] if parts[-1] == "__init__" else parts
        if name and not any(part.startswith("_") for part in name):
            yield ".".join(name)


def listed(nav: Any) -> Iterator[str]:
    """Every page or glob that a navigation tree names."""
    if isinstance(nav, str):
        yield nav
    elif nav is not None:
        for item in nav.values() if isinstance(nav, dict) else nav:
            yield from listed(item)


def expand(nav: list[Any], pages: Iterable[str]) -> list[Any]:
    """The navigation with each "folder/*" replaced by the folder's pages that are not named elsewhere.

    A section that is empty afterwards is left out. Reference pages get their module's name as a title and one
    level of nesting per package.
    """
    named = set(listed(nav))
    free = [page for page in sorted(pages) if page not in named]

    def items(entry: Any) -> Iterator[Any]:
        if isinstance(entry, str) and entry.endswith("/*"):
            found = [page for page in free if page.startswith(entry[:-1])]
            yield from by_package(found) if entry == "api/*" else found
        elif isinstance(entry, dict):
            ((title, inside),) = entry.items()
            if isinstance(inside, str):
                yield entry
            elif section := expand_all(inside):
                yield {title: section}
        else:
            yield entry

    def expand_all(entries: list[Any]) -> list[Any]:
        return [item for entry in entries for item in items(entry)]

    return expand_all(nav)


def by_package(pages: list[str]) -> list[Any]:
    """Pages "api/game.md", "api/layers.norm.md" as [{"game": ...}, {"layers": [{"norm": ...}]}]."""
    sections: dict[str, dict[str, str]] = {}
    for page in pages:
        package, _, module = page.removeprefix("api/").removesuffix(".md").partition(".")
        sections.setdefault(package, {})[module] = page
    plain = [{name: inside[""]} for name, inside in sections.items() if inside.keys() == {""}]
    nested = [
        {name: [{module or name: page} for module, page in inside.items()]}
        for name, inside in sections.items()
        if inside.keys() != {""}
    ]
    return [*plain, *nested]


def mathml(page: str, problem: Any) -> str:
    """The page's HTML with every formula as MathML; `problem(formula, reason)` is told of those that fail."""

    def convert(match: re.Match[str]) -> str:
        formula = html.unescape(match[3]).strip()
        try:
            return tex.convert_with_local_state(formula, displaystyle=match[2] == "[")
        except math_core.LatexError as error:
            problem(formula, str(error))
            return f"<code>{html.escape(formula)}</code>"

    return FORMULA.sub(convert, page)


def on_files(files: Any, config: Any) -> Any:
    """Add a reference page per module, then expand the navigation."""
    from mkdocs.structure.files import File

    root = Path(config["config_file_path"]).parent
    for name in modules(root):
        text = f"# `{PACKAGE}.{name}`\n\n::: {PACKAGE}.{name}\n"
        files.append(File.generated(config, f"api/{name}.md", content=text))
    pages = [file.src_uri for file in files.documentation_pages() if not file.src_uri.startswith("gen/")]
    config["nav"] = expand(config["nav"], pages)
    return files


def on_page_content(content: str, page: Any, config: Any, files: Any) -> str:
    """Formulas to MathML; a formula that does not parse is a warning that names its page."""

    def problem(formula: str, reason: str) -> None:
        log.warning("%s: the formula %r does not parse: %s", page.file.src_uri, formula, reason)

    return mathml(content, problem)
