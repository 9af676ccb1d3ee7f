"""Theory that runs: distances between distributions, optimal discriminators, and the numerics of games.

Distances    kl, jsd, tv, w1 and their bounds, plans and dual potentials    divergences, transport, optimal
Numerics     vector_field, jacobian, spectrum, classify, decompose, flow    fields, spectra, flows
Reports      local_convergence                                              report

Names are imported when they are asked for: the package itself loads neither torch nor SciPy.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .divergences import bounds, estimate, jsd, kl, tv
    from .fields import Field, Linearisation, jacobian, jvp, linearised, vector_field, vjp
    from .flows import Rule, Trajectory, flow, largest_stable_step, multipliers, orbit, update_matrix
    from .optimal import optimal_discriminator, value
    from .report import Report, local_convergence
    from .spectra import (
        Classification,
        Decomposition,
        Spectrum,
        classify,
        decompose,
        dense_spectrum,
        largest_step,
        preconditioner,
        spectrum,
        split,
        step_bound,
    )
    from .transport import w1, w1_dual, w1_entropic, w1_plan, w1_sliced, worked_example

_HOME = {
    "Classification": "spectra",
    "Decomposition": "spectra",
    "Field": "fields",
    "Linearisation": "fields",
    "Report": "report",
    "Rule": "flows",
    "Spectrum": "spectra",
    "Trajectory": "flows",
    "bounds": "divergences",
    "classify": "spectra",
    "decompose": "spectra",
    "dense_spectrum": "spectra",
    "estimate": "divergences",
    "flow": "flows",
    "jacobian": "fields",
    "jsd": "divergences",
    "jvp": "fields",
    "kl": "divergences",
    "largest_stable_step": "flows",
    "largest_step": "spectra",
    "linearised": "fields",
    "local_convergence": "report",
    "multipliers": "flows",
    "optimal_discriminator": "optimal",
    "orbit": "flows",
    "preconditioner": "spectra",
    "spectrum": "spectra",
    "split": "spectra",
    "step_bound": "spectra",
    "tv": "divergences",
    "update_matrix": "flows",
    "value": "optimal",
    "vector_field": "fields",
    "vjp": "fields",
    "w1": "transport",
    "w1_dual": "transport",
    "w1_entropic": "transport",
    "w1_plan": "transport",
    "w1_sliced": "transport",
    "worked_example": "transport",
}
__all__ = [
    "Classification",
    "Decomposition",
    "Field",
    "Linearisation",
    "Report",
    "Rule",
    "Spectrum",
    "Trajectory",
    "bounds",
    "classify",
    "decompose",
    "dense_spectrum",
    "estimate",
    "flow",
    "jacobian",
    "jsd",
    "jvp",
    "kl",
    "largest_stable_step",
    "largest_step",
    "linearised",
    "local_convergence",
    "multipliers",
    "optimal_discriminator",
    "orbit",
    "preconditioner",
    "spectrum",
    "split",
    "step_bound",
    "tv",
    "update_matrix",
    "value",
    "vector_field",
    "vjp",
    "w1",
    "w1_dual",
    "w1_entropic",
    "w1_plan",
    "w1_sliced",
    "worked_example",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f".{_HOME[name]}", __name__), name)


def __dir__() -> list[str]:
    return __all__
