"""Theory that runs: distances between distributions, optimal discriminators, and the numerics of games.

Given as             Grid, Piecewise, Samples, Density, torch's             distributions
Distances            kl, jsd, tv, their bounds and Gaussian closed forms    divergences
Earth mover's        w1 with its plan, its dual and cheaper estimates       transport
Discriminators       value, optimal_discriminator, minimax_identity         optimal
Fields of games      vector_field, jacobian, jvp, vjp, linearised           fields
Paths                flow, orbit, update_matrix, largest_stable_step        flows
Eigenvalues          spectrum, classify, decompose                          spectra
Reports              local_convergence                                      report

Names are imported when they are asked for: the package itself loads neither torch nor SciPy.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .distributions import Density, Grid, Piecewise, Samples, as_distribution
    from .divergences import (
        Estimate,
        Inequality,
        LogRatio,
        bounds,
        estimate,
        gaussian_jsd,
        gaussian_kl,
        gaussian_tv,
        gaussian_w1,
        js,
        jsd,
        kl,
        log_ratio,
        support_diameter,
        tv,
    )
    from .fields import Coordinates, Field, Linearisation, jacobian, jvp, linearised, vector_field, vjp
    from .flows import Rule, Trajectory, flow, largest_stable_step, multipliers, orbit, update_matrix
    from .optimal import (
        ClassifierDiscriminator,
        Minimax,
        OptimalDiscriminator,
        classifier_discriminator,
        game_value,
        generator_gradients,
        jsd_lower_bound,
        minimax_identity,
        non_saturating_gradient,
        optimal_discriminator,
        saturating_gradient,
        value,
    )
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
    from .transport import Entropic, LinePlan, Potential, w1, w1_dual, w1_entropic, w1_plan, w1_sliced, worked_example

_HOME = {
    "Classification": "spectra",
    "ClassifierDiscriminator": "optimal",
    "Coordinates": "fields",
    "Decomposition": "spectra",
    "Density": "distributions",
    "Entropic": "transport",
    "Estimate": "divergences",
    "Field": "fields",
    "Grid": "distributions",
    "Inequality": "divergences",
    "LinePlan": "transport",
    "Linearisation": "fields",
    "LogRatio": "divergences",
    "Minimax": "optimal",
    "OptimalDiscriminator": "optimal",
    "Piecewise": "distributions",
    "Potential": "transport",
    "Report": "report",
    "Rule": "flows",
    "Samples": "distributions",
    "Spectrum": "spectra",
    "Trajectory": "flows",
    "as_distribution": "distributions",
    "bounds": "divergences",
    "classifier_discriminator": "optimal",
    "classify": "spectra",
    "decompose": "spectra",
    "dense_spectrum": "spectra",
    "estimate": "divergences",
    "flow": "flows",
    "game_value": "optimal",
    "gaussian_jsd": "divergences",
    "gaussian_kl": "divergences",
    "gaussian_tv": "divergences",
    "gaussian_w1": "divergences",
    "generator_gradients": "optimal",
    "jacobian": "fields",
    "js": "divergences",
    "jsd": "divergences",
    "jsd_lower_bound": "optimal",
    "jvp": "fields",
    "kl": "divergences",
    "largest_stable_step": "flows",
    "largest_step": "spectra",
    "linearised": "fields",
    "local_convergence": "report",
    "log_ratio": "divergences",
    "minimax_identity": "optimal",
    "multipliers": "flows",
    "non_saturating_gradient": "optimal",
    "optimal_discriminator": "optimal",
    "orbit": "flows",
    "preconditioner": "spectra",
    "saturating_gradient": "optimal",
    "spectrum": "spectra",
    "split": "spectra",
    "step_bound": "spectra",
    "support_diameter": "divergences",
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
    "ClassifierDiscriminator",
    "Coordinates",
    "Decomposition",
    "Density",
    "Entropic",
    "Estimate",
    "Field",
    "Grid",
    "Inequality",
    "LinePlan",
    "Linearisation",
    "LogRatio",
    "Minimax",
    "OptimalDiscriminator",
    "Piecewise",
    "Potential",
    "Report",
    "Rule",
    "Samples",
    "Spectrum",
    "Trajectory",
    "as_distribution",
    "bounds",
    "classifier_discriminator",
    "classify",
    "decompose",
    "dense_spectrum",
    "estimate",
    "flow",
    "game_value",
    "gaussian_jsd",
    "gaussian_kl",
    "gaussian_tv",
    "gaussian_w1",
    "generator_gradients",
    "jacobian",
    "js",
    "jsd",
    "jsd_lower_bound",
    "jvp",
    "kl",
    "largest_stable_step",
    "largest_step",
    "linearised",
    "local_convergence",
    "log_ratio",
    "minimax_identity",
    "multipliers",
    "non_saturating_gradient",
    "optimal_discriminator",
    "orbit",
    "preconditioner",
    "saturating_gradient",
    "spectrum",
    "split",
    "step_bound",
    "support_diameter",
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
