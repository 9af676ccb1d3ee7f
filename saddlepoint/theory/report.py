"""Local convergence of one checkpoint: everything that the spectrum says about training from here, in one object."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import torch

from saddlepoint.game import Game, Round
from saddlepoint.theory.fields import Losses, block_sizes, vector_field
from saddlepoint.theory.spectra import (
    Classification,
    Decomposition,
    Spectrum,
    Which,
    classify,
    decompose,
    largest_step,
    preconditioner,
    spectrum,
)

Progress: TypeAlias = Callable[[str, int, int], None]
"""Told after each product: the part of the work, its products so far, and how many it usually takes."""

USUAL = {"largest": 30, "rightmost": 75, "own steps": 30, "rotation": 16}
"""Products J u that each part took on a trained network: Krylov vectors, a restart or two, residuals; two a probe."""


@dataclass(frozen=True, eq=False)
class Report:
    """players: name -> number of weights. norm: |v|; at 0 the linear theory is about convergence, elsewhere it is about
    the field around this point. leading: largest |lambda|; rightmost: largest Re(lambda); stepping: leading eigenvalues
    of P J with the optimizers' own steps (None without optimizers). decomposition: potential and rotation.

    simultaneous_step, alternating_step: largest stable plain step, the same for all players; 0 where no step is stable;
    from the eigenvalues found, an upper bound (`exact` says); nan where it needs the whole Jacobian.
    """

    players: dict[str, int]
    norm: float
    leading: Spectrum
    rightmost: Spectrum
    decomposition: Decomposition
    continuous: Classification
    simultaneous_step: float
    alternating_step: float
    exact: bool
    stepping: Spectrum | None = None

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for json.dump; complex numbers as [re, im]; no number where there is none: None."""
        known = np.concatenate([self.leading.eigenvalues, self.rightmost.eigenvalues])
        return {
            "players": self.players,
            "weights": self.leading.size,
            "field_norm": self.norm,
            "leading": _plain(self.leading),
            "rightmost": _plain(self.rightmost),
            "preconditioned": _plain(self.stepping) if self.stepping else None,
            "largest_real_part": float(known.real.max()),
            "largest_ratio_im_re": max(self.leading.steepest, self.rightmost.steepest),
            "continuous": self.continuous.verdict,
            "largest_stable_step": {
                "simultaneous": _number(self.simultaneous_step),
                "alternating": _number(self.alternating_step),
                "exact": self.exact,
            },
            "rotation_share": self.decomposition.rotation,
            "rotation_share_error": self.decomposition.error,
        }

    def lines(self) -> list[str]:
        """The same for people."""
        whole = ", ".join(f"{name} {count:,}" for name, count in self.players.items())
        bound = "" if self.exact else "at most "
        error = f" +- {self.decomposition.error:.4f}" if self.decomposition.probes else ""
        steps = [f"simultaneous {_step(self.simultaneous_step, bound)}"]
        if not np.isnan(self.alternating_step):
            steps.append(f"alternating {_step(self.alternating_step, bound)}")
        found = [
            f"weights              {whole}",
            f"|v|                  {self.norm:.4g}",
            f"largest |lambda|     {_listed(self.leading)}",
            f"largest Re(lambda)   {_listed(self.rightmost)}",
            f"continuous time      {self.continuous.verdict}{'' if self.exact else ', judged by these'}",
            f"stable plain step    {'; '.join(steps)}",
            f"rotation share       {self.decomposition.rotation:.4f}{error}",
        ]
        if self.stepping is not None:
            radius = float(np.abs(1 + self.stepping.eigenvalues).max())
            found.append(f"at the optimizers' own steps: lambda {_listed(self.stepping)}; |1 + lambda| <= {radius:.4g}")
        return found


def local_convergence(
    game: Game,
    round: Round,
    k: int = 6,
    *,
    optimizers: Mapping[str, torch.optim.Optimizer] | None = None,
    probes: int = 8,
    dense: int = 512,
    tolerance: float = 1e-3,
    losses: Losses | None = None,
    seed: int = 0,
    progress: Progress | None = None,
) -> Report:
    """Report on a game at its present weights, on one round, in the game's own precision. See `spectrum` and
    `decompose` for what it costs; the rightmost eigenvalues take longest. optimizers: player -> optimizer, for the
    spectrum that they make of it. progress: told of every product, where there is no matrix.
    """
    shared: dict[str, Any] = {"dense": dense, "losses": losses, "seed": seed}

    def found(part: str, which: Which, P: torch.Tensor | None = None) -> Spectrum:
        told = _teller(progress, part, USUAL[part])
        return spectrum(game, round, k, which, preconditioner=P, tolerance=tolerance, progress=told, **shared)

    leading = found("largest", "LM")
    rightmost = found("rightmost", "LR")
    stepping = None if optimizers is None else found("own steps", "LM", preconditioner(game, optimizers))
    # The rightmost eigenvalues decide continuous convergence; both ends bound the step.
    return Report(
        players=block_sizes(game),
        norm=vector_field(game, round, losses=losses).norm,
        leading=leading,
        rightmost=rightmost,
        decomposition=decompose(
            game, round, probes=probes, progress=_teller(progress, "rotation", 2 * probes), **shared
        ),
        continuous=classify(rightmost, operator="flow"),
        simultaneous_step=min(largest_step(leading), largest_step(rightmost)),
        alternating_step=largest_step(leading, "alternating"),
        exact=leading.complete,
        stepping=stepping,
    )


def _teller(progress: Progress | None, part: str, usual: int) -> Callable[[int], None] | None:
    return None if progress is None else lambda done: progress(part, done, usual)


def _plain(found: Spectrum) -> dict[str, Any]:
    return {
        "which": found.which,
        "eigenvalues": [[float(z.real), float(z.imag)] for z in found.eigenvalues],
        "residuals": [float(r) for r in found.residuals],
        "products": found.products,
    }


def _number(x: float) -> float | None:
    return None if np.isnan(x) or np.isinf(x) else x


def _step(x: float, bound: str) -> str:
    return "none" if x == 0 else "any" if np.isinf(x) else f"{bound}{x:.4g}"


def _listed(found: Spectrum) -> str:
    shown = [f"{z.real:.4g}" if not z.imag else f"{z.real:.4g}{z.imag:+.4g}i" for z in found.eigenvalues]
    return f"{', '.join(shown)} (residual {found.relative_residuals.max():.1e})"
