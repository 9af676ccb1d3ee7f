"""The pictures of the theory, each computed anew: one function, one command, one file of numbers per picture.

    from saddlepoint import figures
    figures.names()                                  # in the order of the lecture
    picture = figures.make("gamma-sweep")            # picture.figure, picture.numbers, picture.claim, picture.measured
    figures.gallery("pictures/")                     # all of them, with index.html

Neither matplotlib nor torch is imported before a picture is made.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from saddlepoint.errors import unknown

if TYPE_CHECKING:
    from saddlepoint.figures.picture import Picture


class Entry(NamedTuple):
    """A picture before it is made: the chapter that it belongs to, its title, and the module with its function."""

    chapter: str
    title: str
    module: str


GAME, PROBLEMS, TRANSPORT, NUMERICS = (
    "Two players", "What goes wrong", "Wasserstein distance", "Does training converge?"
)  # fmt: skip

# The lecture's order. A function is called as its picture, with underscores.
FIGURES: dict[str, Entry] = {
    "two-player-diagram": Entry(GAME, "The two-player game", "game"),
    "optimal-discriminator": Entry(GAME, "Value function and optimal discriminator", "game"),
    "learning-process": Entry(GAME, "The learning process", "learning"),
    "results": Entry(GAME, "Results", "learning"),
    "mode-collapse": Entry(PROBLEMS, "Mode collapse", "problems"),
    "vanishing-gradients": Entry(PROBLEMS, "Vanishing gradients", "problems"),
    "jsd-and-w1": Entry(TRANSPORT, "Jensen-Shannon against Wasserstein", "transport"),
    "transport-plan": Entry(TRANSPORT, "The earth mover's plan", "transport"),
    "dual-potential": Entry(TRANSPORT, "The dual: a 1-Lipschitz potential", "transport"),
    "wgan-figure-2": Entry(TRANSPORT, "Saturating discriminator, linear critic", "problems"),
    "vector-fields": Entry(NUMERICS, "Conservative and non-conservative fields", "dynamics"),
    "discrete-steps": Entry(NUMERICS, "Discrete steps: h = 1 and h = 0.5", "dynamics"),
    "continuous-flow": Entry(NUMERICS, "Continuous time: divergence and convergence", "dynamics"),
    "dirac-trajectories": Entry(NUMERICS, "The Dirac-GAN under every method", "dirac"),
    "dirac-spectra": Entry(NUMERICS, "The Dirac-GAN's spectra", "dirac"),
    "gamma-sweep": Entry(NUMERICS, "The strength of R1", "dirac"),
}


def names() -> list[str]:
    """Names of all pictures, in the lecture's order."""
    return list(FIGURES)


def function(name: str) -> Callable[..., Picture]:
    """The function of a picture: quick=False -> Picture. UserError for an unknown name."""
    if name not in FIGURES:
        raise unknown("figure", name, FIGURES)
    module = importlib.import_module(f"saddlepoint.figures.{FIGURES[name].module}")
    made: Callable[..., Picture] = getattr(module, name.replace("-", "_"))
    return made


def make(name: str, *, quick: bool = False) -> Picture:
    """Compute and draw one picture. quick: fewer points and shorter trainings, in about a second each."""
    made = function(name)
    import torch

    # Players of a few units: a second thread costs twenty times what it saves where the cores are busy.
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return made(quick=quick)
    finally:
        torch.set_num_threads(threads)


def save(name: str, out: str | Path, *, format: str = "png", quick: bool = False) -> list[Path]:
    """One picture into a folder: NAME.png (or .svg), NAME.json and, where the lecture animates, NAME.gif."""
    from saddlepoint.figures.pages import write

    return write(name, make(name, quick=quick), Path(out), format)


def gallery(
    out: str | Path,
    *,
    format: str = "png",
    quick: bool = False,
    only: Iterable[str] = (),
    progress: Callable[[str], None] | None = None,
) -> Path:
    """All pictures into a folder, with index.html: one file that opens without any network. Returns its path."""
    from saddlepoint.figures.pages import gallery as build

    return build(Path(out), format=format, quick=quick, only=tuple(only), progress=progress)


def __getattr__(name: str) -> Any:
    if name.replace("_", "-") in FIGURES:
        return function(name.replace("_", "-"))
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *(name.replace("-", "_") for name in FIGURES)])
