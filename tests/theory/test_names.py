"""What `saddlepoint.theory` offers: every name is there, and naming them loads nothing."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from saddlepoint import theory


@pytest.mark.parametrize("name", theory.__all__)
def test_every_name_is_there(name: str) -> None:
    assert getattr(theory, name).__module__.startswith("saddlepoint.theory")
    assert name in dir(theory)


def test_the_two_lists_and_the_imports_for_type_checkers_are_the_same() -> None:
    tree = ast.parse(Path(theory.__file__).read_text())
    found = {a.name: n.module for n in ast.walk(tree) if isinstance(n, ast.ImportFrom) and n.level for a in n.names}
    assert found == theory._HOME
    assert sorted(found) == sorted(theory.__all__)
    assert len(set(theory.__all__)) == len(theory.__all__)


def test_the_package_alone_loads_neither_torch_nor_scipy() -> None:
    heavy = "{'torch', 'scipy', 'numpy'}"
    code = f"import sys, saddlepoint.theory as t\nassert 'kl' in dir(t)\nassert not {heavy} & {{*sys.modules}}"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'spectre'"):
        _ = theory.spectre
