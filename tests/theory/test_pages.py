"""The numbers worked out on the theory's pages are those that the code gives."""

from __future__ import annotations

import doctest
from pathlib import Path

import pytest

PAGES = Path(__file__).parents[2] / "docs" / "theory"


@pytest.mark.parametrize("page", sorted(p.name for p in PAGES.glob("*.md") if ">>>" in p.read_text(encoding="utf-8")))
def test_worked_numbers(page: str) -> None:
    failed, attempted = doctest.testfile(
        str(PAGES / page), module_relative=False, optionflags=doctest.NORMALIZE_WHITESPACE, encoding="utf-8"
    )
    assert attempted > 5 and not failed


def test_there_are_such_pages() -> None:
    assert ">>>" in (PAGES / "divergences.md").read_text(encoding="utf-8")
