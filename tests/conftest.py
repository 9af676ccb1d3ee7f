"""What every test gets: one thread, a cache that is not the user's, no slow tests unless they were asked for."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

# Before torch or numpy is imported: thread pools are sized once.
for _variable in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ[_variable] = "1"
os.environ["MPLBACKEND"] = "Agg"

CACHE = "SADDLEPOINT_CACHE"
_own_cache = pytest.StashKey[str]()

# A deadline would be a timing in a test. In CI the examples are the same every time.
settings.register_profile("saddlepoint", deadline=None, derandomize="CI" in os.environ, print_blob=True)
settings.load_profile("saddlepoint")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--run-slow", action="store_true", help="run the tests marked slow as well")


def pytest_configure(config: pytest.Config) -> None:
    """Point the library's cache to one folder for this session; xdist's workers inherit it from the controller.

    SADDLEPOINT_TEST_CACHE names a folder that outlives the session, for those who run tests all day.
    """
    if hasattr(config, "workerinput"):
        return
    if kept := os.environ.get("SADDLEPOINT_TEST_CACHE"):
        os.environ[CACHE] = str(Path(kept).expanduser().absolute())
    else:
        os.environ[CACHE] = config.stash[_own_cache] = tempfile.mkdtemp(prefix="saddlepoint-tests-")


def pytest_unconfigure(config: pytest.Config) -> None:
    if folder := config.stash.get(_own_cache, None):
        shutil.rmtree(folder, ignore_errors=True)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave slow tests out, unless `--run-slow`, a `-m` that speaks of slow, or a test named on the command line."""
    named = any("::" in argument for argument in config.invocation_params.args)
    if config.getoption("--run-slow") or "slow" in config.getoption("-m") or named:
        return
    slow = [item for item in items if item.get_closest_marker("slow")]
    if slow:
        config.hook.pytest_deselected(items=slow)
        items[:] = [item for item in items if not item.get_closest_marker("slow")]


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """One torch thread in every test, whatever the test before it did."""
    if torch := sys.modules.get("torch"):
        torch.set_num_threads(1)
    yield


@pytest.fixture
def runs_dir(tmp_path: Path) -> Path:
    """An empty folder for runs."""
    folder = tmp_path / "runs"
    folder.mkdir()
    return folder


@pytest.fixture(scope="session")
def parity() -> Path:
    """The folder of tensors computed by the official implementations, from SADDLEPOINT_PARITY; skips without it."""
    folder = os.environ.get("SADDLEPOINT_PARITY")
    if not folder:
        pytest.skip("SADDLEPOINT_PARITY is not set: no tensors of the official implementations to compare with")
    if not Path(folder).is_dir():
        pytest.fail(f"SADDLEPOINT_PARITY names {folder!r}, which is not a folder")
    return Path(folder)
