"""The ground the library stands on: metadata, lock files, Makefile, documentation frame, and what may not be in it."""

from __future__ import annotations

import ast
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).parents[1]
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
LOCKS = ("requirements.lock", "requirements-nodeps.lock")
# torchvision does not load beside torch's CPU build, and neither does what imports it.
BANNED = {"torchvision", "lpips", "torch_fidelity", "piq", "timm"}


def pins(lock: str) -> dict[str, Version]:
    lines = [line for line in (ROOT / lock).read_text().splitlines() if line and not line.startswith("#")]
    assert all(re.fullmatch(r"[\w.-]+==[\w.]+", line) for line in lines), lines
    return {canonicalize_name(name): Version(version) for name, version in (ln.split("==") for ln in lines)}


def tracked(*patterns: str) -> list[Path]:
    """Files that git keeps and that exist; skips where this is no git checkout."""
    if not (ROOT / ".git").exists() or shutil.which("git") is None:
        pytest.skip("not a git checkout")
    listing = subprocess.run(
        ["git", "ls-files", "-z", "--", *patterns], cwd=ROOT, capture_output=True, text=True, check=True
    )
    return [path for name in listing.stdout.split("\0") if name and (path := ROOT / name).is_file()]


# --- packaging ----------------------------------------------------------------------------------------------------


def test_lock_satisfies_what_the_project_asks_for() -> None:
    locked = pins("requirements.lock")
    extras = PROJECT["optional-dependencies"]
    wanted = [Requirement(line) for line in (*PROJECT["dependencies"], *extras["dev"], *extras["docs"], *extras["log"])]
    assert {"torch", "numpy", "scikit-learn"} <= {requirement.name for requirement in wanted}
    for requirement in wanted:
        version = locked.get(canonicalize_name(requirement.name))
        assert version is not None, f"{requirement.name} is not in requirements.lock"
        assert version in requirement.specifier, f"{requirement} does not admit the locked {version}"


def test_locks_hold_plain_pins_once() -> None:
    first, second = (pins(lock) for lock in LOCKS)
    assert not first.keys() & second.keys()
    assert {"triton", "pip", "saddlepoint"}.isdisjoint(first)
    assert not [name for name in first if name.startswith("nvidia")], "the CUDA build's packages are the index's choice"


def test_every_dependency_has_a_lower_bound() -> None:
    lines = [*PROJECT["dependencies"], *chain.from_iterable(PROJECT["optional-dependencies"].values())]
    assert [line for line in lines if ">=" not in line] == []


def test_metadata() -> None:
    assert PROJECT["license"] == "MIT"
    assert (ROOT / "LICENSE").read_text().startswith("MIT License\n\nCopyright (c) 2026 The saddlepoint authors\n")
    assert PROJECT["requires-python"] == ">=3.11"
    assert (ROOT / "saddlepoint" / "py.typed").is_file()
    assert (ROOT / PROJECT["readme"]).is_file()
    module, _, function = PROJECT["scripts"]["saddlepoint"].partition(":")
    source = ROOT.joinpath(*module.split(".")).with_suffix(".py").read_text()
    names = {node.name for node in ast.parse(source).body if isinstance(node, ast.FunctionDef)}
    imported = {
        alias.asname or alias.name
        for node in ast.parse(source).body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    assert function in names | imported


def test_every_folder_of_the_package_is_a_package() -> None:
    folders = {path.parent for path in (ROOT / "saddlepoint").rglob("*.py")}
    assert [folder.name for folder in folders if not (folder / "__init__.py").is_file()] == []


def test_version_is_the_same_everywhere() -> None:
    import saddlepoint

    assert saddlepoint.__version__ == PROJECT["version"]


def test_importing_the_package_imports_nothing_heavy() -> None:
    heavy = ["torch", "matplotlib", "sklearn", "scipy", "gradio", "tensorboard", "PIL"]
    code = f"import sys, saddlepoint; print(*[name for name in {heavy} if name in sys.modules])"
    found = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert found.stdout.split() == []


# --- what may not be in the tree ----------------------------------------------------------------------------------


def imported_packages(source: str) -> Iterator[str]:
    """First components of everything imported, `import_module("...")` with a literal name included."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module.partition(".")[0]
        elif isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant):
            called = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            if called in {"import_module", "__import__", "importorskip"}:
                yield str(node.args[0].value).partition(".")[0]


def test_nothing_imports_torchvision() -> None:
    sources = [*(ROOT / "saddlepoint").rglob("*.py"), *tracked("*.py")]
    guilty = {path for path in sources if BANNED & set(imported_packages(path.read_text()))}
    assert guilty == set()
    assert not BANNED & {name.replace("-", "_") for lock in LOCKS for name in pins(lock)}


def test_the_search_for_imports_sees_every_form() -> None:
    source = """
        import a.b
        def f():
            from c.d import e
            importlib.import_module("g.h"); __import__("i")
        from . import j
    """
    assert set(imported_packages("if True:\n" + source)) == {"a", "c", "g", "i"}


def test_no_registry_host_and_no_machine_path_is_tracked() -> None:
    hosts = re.compile(r"https?://[^\s\"'<>)]*(registry|pythonhosted|pypi\.org|pytorch\.org/whl|npmjs)")
    paths = re.compile(r"(?<![\w.~}$-])/(work|tmp|opt|root)/\w")
    guilty = []
    for file in tracked():
        data = file.read_bytes()
        if b"\0" in data or file == Path(__file__):
            continue
        text = data.decode()
        for pattern in (hosts, paths):
            guilty += [f"{file.relative_to(ROOT)}: {match[0]}" for match in pattern.finditer(text)]
    assert guilty == []


def test_pictures_in_the_documentation_are_small() -> None:
    kinds = ("png", "jpg", "jpeg", "gif", "webp", "svg", "mp4")
    size = {path.relative_to(ROOT): path.stat().st_size for path in tracked(*(f"docs/*.{kind}" for kind in kinds))}
    assert {path: n for path, n in size.items() if n >= 200_000} == {}
    assert sum(size.values()) < 10_000_000


# --- documentation ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def hooks() -> ModuleType:
    spec = importlib.util.spec_from_file_location("saddlepoint_docs_hooks", ROOT / "docs" / "gen" / "hooks.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_pages_named_in_the_navigation_exist(hooks: ModuleType) -> None:
    nav = yaml.safe_load((ROOT / "mkdocs.yml").read_text())["nav"]
    named = [page for page in hooks.listed(nav) if not page.endswith("/*")]
    assert "index.md" in named
    assert [page for page in named if not (ROOT / "docs" / page).is_file()] == []


def test_navigation_globs_take_the_rest_of_a_folder(hooks: ModuleType) -> None:
    nav = ["a.md", {"S": ["s/two.md", "s/*"]}, {"None": ["none/*"]}, {"R": ["api/*"]}]
    pages = ["a.md", "s/three.md", "s/one.md", "s/two.md", "api/p.x.md", "api/p.md", "api/game.md"]
    assert hooks.expand(nav, pages) == [
        "a.md",
        {"S": ["s/two.md", "s/one.md", "s/three.md"]},
        {"R": [{"game": "api/game.md"}, {"p": [{"p": "api/p.md"}, {"x": "api/p.x.md"}]}]},
    ]


def test_reference_lists_public_modules(hooks: ModuleType, tmp_path: Path) -> None:
    for name in ("__init__", "__main__", "game", "_private", "layers/__init__", "layers/norm"):
        path = tmp_path / "saddlepoint" / f"{name}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    assert sorted(hooks.modules(tmp_path)) == ["game", "layers", "layers.norm"]


def test_formulas_become_mathml_and_broken_ones_are_told(hooks: ModuleType) -> None:
    problems: list[tuple[str, str]] = []
    page = (
        r'<p><span class="arithmatex">\(a &lt; b\)</span> <div class="arithmatex">\[\frac{1}{2}\]</div>'
        r'<span class="arithmatex">\(\nonsense x\)</span></p>'
    )
    out = hooks.mathml(page, lambda formula, reason: problems.append((formula, reason)))
    assert "<mi>a</mi><mo>&lt;</mo><mi>b</mi>" in out
    assert '<math display="block"><mfrac><mn>1</mn><mn>2</mn></mfrac></math>' in out
    assert "arithmatex" not in out
    assert [formula for formula, _ in problems] == [r"\nonsense x"]


# --- Makefile -----------------------------------------------------------------------------------------------------

FAKE_PYTHON = """#!/bin/sh
case "$*" in
    "-c "*) exit ${FAKE_OLD:-0} ;;
    "-m venv "*) echo "venv" >> "$FAKE_LOG"; mkdir -p "$3/bin" && cp "$0" "$3/bin/python" ;;
    *) echo "$*" >> "$FAKE_LOG"; case "$*" in *"${FAKE_FAILS:-never}"*) exit 7 ;; esac ;;
esac
"""


class Workshop:
    """The project's Makefile and locks in their own folder, with a Python that only writes down what it is asked."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.log = folder / "log"
        for name in ("Makefile", "pyproject.toml", *LOCKS):
            shutil.copy(ROOT / name, folder)
        (folder / "python").write_text(FAKE_PYTHON)
        (folder / "python").chmod(0o755)

    def make(
        self, python: str = "./python", target: str = ".venv/.ready", **environment: str
    ) -> tuple[int, list[str], str]:
        """(exit status, what Python was asked, make's own words)"""
        self.log.write_text("")
        clean = {k: v for k, v in os.environ.items() if not k.startswith("MAKE") and k != "MFLAGS"}
        done = subprocess.run(
            ["make", f"PYTHON={python}", target],
            cwd=self.folder,
            env=clean | {"FAKE_LOG": str(self.log)} | environment,
            capture_output=True,
            text=True,
        )
        return done.returncode, self.log.read_text().splitlines(), done.stderr


@pytest.fixture
def workshop(tmp_path: Path) -> Workshop:
    if shutil.which("make") is None:
        pytest.skip("make is not installed")
    return Workshop(tmp_path)


def test_make_installs_torch_first_and_only_once(workshop: Workshop) -> None:
    status, asked, _ = workshop.make()
    assert status == 0
    assert asked[0] == "venv"
    assert asked[1].endswith(f"install torch=={pins('requirements.lock')['torch']}")
    assert [line for line in asked if "requirements-nodeps.lock" in line and "--no-deps" in line]
    assert asked[-1].endswith("-e .")
    assert workshop.make() == (0, [], "")


def test_make_follows_a_changed_lock_without_a_new_environment(workshop: Workshop) -> None:
    workshop.make()
    lock = workshop.folder / "requirements.lock"
    later = lock.stat().st_mtime + 60
    os.utime(lock, (later, later))
    status, asked, _ = workshop.make()
    assert status == 0
    assert asked and "venv" not in asked


def test_make_starts_over_after_an_interrupted_installation(workshop: Workshop) -> None:
    status, asked, _ = workshop.make(FAKE_FAILS="-r requirements.lock")
    assert status != 0
    assert not (workshop.folder / ".venv" / ".ready").exists()
    (workshop.folder / ".venv" / "leftover").touch()
    status, asked, _ = workshop.make()
    assert status == 0
    assert asked[0] == "venv"
    assert not (workshop.folder / ".venv" / "leftover").exists()


def test_make_keeps_the_environment_when_only_the_package_does_not_build(workshop: Workshop) -> None:
    status, _, _ = workshop.make(FAKE_FAILS="-e .")
    assert status != 0
    assert not (workshop.folder / ".venv" / ".ready").exists()
    status, asked, _ = workshop.make()
    assert status == 0
    assert "venv" not in asked


@pytest.mark.parametrize("python", ["", "no-such-python"])
def test_make_says_that_python_is_missing(workshop: Workshop, python: str) -> None:
    status, asked, words = workshop.make(python)
    assert status != 0
    assert asked == []
    assert "needs Python 3.11 or newer" in words
    assert not (workshop.folder / ".venv").exists()


def test_make_refuses_an_old_python(workshop: Workshop) -> None:
    status, asked, words = workshop.make(FAKE_OLD="1")
    assert status != 0
    assert asked == []
    assert "needs Python 3.11 or newer" in words


@pytest.mark.parametrize(
    ("formula", "link", "complaint"),
    [
        (r"\frac{1}{2}", "systems/gan.md", ""),
        (r"\nonsense", "systems/gan.md", r"index.md: the formula '\\nonsense' does not parse"),
        ("x", "systems/gun.md", "systems/gun.md"),
    ],
)
def test_make_docs_fails_on_a_broken_formula_or_link(
    workshop: Workshop, hooks: ModuleType, formula: str, link: str, complaint: str
) -> None:
    root = workshop.folder
    for name in ("mkdocs.yml", "docs/gen/hooks.py"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, root / name)
    for page in hooks.listed(yaml.safe_load((root / "mkdocs.yml").read_text())["nav"]):
        if not page.endswith("/*"):
            (root / "docs" / page).parent.mkdir(exist_ok=True)
            (root / "docs" / page).write_text("# A page\n")
    (root / "docs" / "index.md").write_text(f"# Home\n\n${formula}$ and [a link]({link})\n")
    workshop.make()
    mkdocs = root / ".venv" / "bin" / "mkdocs"
    mkdocs.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m mkdocs "$@"\n')
    mkdocs.chmod(0o755)
    status, _, words = workshop.make(target="docs")
    assert (status != 0) == bool(complaint), words
    assert complaint in words
    assert (root / "site" / "systems" / "gan.html").is_file() or complaint
