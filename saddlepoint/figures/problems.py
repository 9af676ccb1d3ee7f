"""Chapter 2 of the gallery, and WGAN's figure 2: what goes wrong, from trainings through the engine."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from saddlepoint.errors import UserError
from saddlepoint.figures import style
from saddlepoint.figures.picture import Picture
from saddlepoint.figures.style import DATA, EDGE, JUDGE, MODEL, PURPLE, SOFT
from saddlepoint.theory.optimal import generator_gradients

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Array = style.Array
RECORDED = Path(__file__).with_name("mode_collapse.json")


# ---- mode collapse
def record(results: str | Path, seed: int = 0, out: Path = RECORDED) -> list[str]:
    """Keep one seed of benchmarks/results/mode_collapse.json beside this module, for the picture; names of the cells.

    The trainings take minutes, the picture must not.
    """
    from saddlepoint.runs import write_bytes

    path = Path(results)
    if not path.is_file():
        raise UserError(f"there are no results at {path}; `python benchmarks/mode_collapse.py` makes them.")
    cells = {k: v for k, v in json.loads(path.read_text()).items() if v["seed"] == seed}
    lines = ",\n".join(f"{json.dumps(k)}: {json.dumps(v, separators=(',', ':'))}" for k, v in cells.items())
    write_bytes(out, f"{{\n{lines}\n}}\n".encode())
    return list(cells)


@style.in_style
def mode_collapse(*, quick: bool = False) -> Picture:
    """The strip: samples of a plain GAN on a ring of eight Gaussians through training; with K = 10 where recorded."""
    from saddlepoint.data.toys import point_set
    from saddlepoint.metrics.modes import mode_coverage

    cells = sorted(json.loads(RECORDED.read_text()).values(), key=lambda cell: int(cell["steps"]))
    ring = point_set("ring")
    figure = style.slide()
    grid = figure.add_gridspec(len(cells) + 1, 1, height_ratios=[*[1.0] * len(cells), 0.95 if len(cells) > 1 else 1.5])
    found: dict[str, Any] = {}
    for row, cell in enumerate(cells):
        line = grid[row].subgridspec(1, len(cell["snapshots"]) + 1, wspace=0.03)
        pictures = [
            *((f"round {int(n):,}", points) for n, points in cell["snapshots"].items()),
            ("data", cell["target"]),
        ]
        for column, (name, packed) in enumerate(pictures):
            ax = figure.add_subplot(line[column])
            _heat(ax, np.array(packed) / 100, DATA if name == "data" else MODEL)
            if row == 0:
                ax.set_title(name, fontsize=14, pad=5)
            if column == 0:
                ax.set_ylabel(f"$K={cell['steps']}$", fontsize=18)
        again = mode_coverage(np.array(list(cell["snapshots"].values())[-1]) / 100, ring.centres, ring.sigma)
        late = [m for m in cell["moments"] if m["round"] >= cell["rounds"] / 2]
        found[f"K={cell['steps']}"] = {
            "rounds": cell["rounds"], "seed": cell["seed"], "hops": cell["hops"], "cpu_seconds": cell["cpu_seconds"],
            "modes_at_end": cell["moments"][-1]["modes"], "nearest_at_end": cell["moments"][-1]["nearest"],
            "modes_of_the_stored_points": again.modes, "round": [m["round"] for m in cell["moments"]],
            "modes": [m["modes"] for m in cell["moments"]],
            "high_quality": [m["high_quality"] for m in cell["moments"]],
            "largest_share": [max(m["nearest"]) / m["samples"] for m in cell["moments"]],
            "leading_mode": [int(np.argmax(m["nearest"])) for m in cell["moments"]],
            "largest_share_later": float(np.mean([max(m["nearest"]) / m["samples"] for m in late])),
        }  # fmt: skip
    _leaders(figure.add_subplot(grid[len(cells)]), found)
    plain = found["K=0"]
    told = [
        f"K = {k[2:]}: the fullest mode holds {100 * v['largest_share_later']:.0f} % of all samples on average "
        f"over the second half, and it changes {v['hops']} times in {v['rounds']:,} rounds"
        for k, v in found.items()
    ]
    return Picture(
        figure,
        {
            "cells": found,
            "settings": "saddlepoint.experiments.COLLAPSE",
            "command": "python benchmarks/mode_collapse.py",
        },
        r"f_K(\theta,\phi)=f(\theta,\phi^{K}), \quad \phi^{k+1}=\phi^{k}+\eta \nabla_{\phi} f(\theta,\phi^{k})",
        "Against a discriminator that is not at its optimum, the best a generator can do is to put everything on the "
        "one point that is "
        "taken for real most: it drops all other modes, and moves on when the discriminator has caught up. A "
        "generator that "
        "foresees $K$ steps of the discriminator has no reason to.",
        "; ".join(told) + f". (Seed {plain['seed']}; an even ring has 12.5 %. Trained beforehand by "
        "python benchmarks/mode_collapse.py, which has all seeds.)",
        "The paper's strip shows one run and counts nothing. The released notebook spaces its eight angles so that "
        "two modes coincide; "
        "here there are eight.",
    )


def _heat(ax: Axes, points: Array, colour: str) -> None:
    from matplotlib.colors import LinearSegmentedColormap
    from scipy.ndimage import gaussian_filter

    edges = np.linspace(-3, 3, 121)
    heat = gaussian_filter(np.histogram2d(points[:, 1], points[:, 0], bins=(edges, edges))[0], 2.6)
    colours = LinearSegmentedColormap.from_list("one", ["#ffffff", colour, "#2a1500" if colour == MODEL else "#00202f"])
    ax.imshow(heat, origin="lower", cmap=colours, vmax=float(heat.max()), extent=(-3, 3, -3, 3))
    ax.set(xticks=[], yticks=[])
    for spine in ax.spines.values():
        spine.set(visible=True, color=EDGE)


def _leaders(ax: Axes, found: dict[str, Any]) -> None:
    """Share of the fullest mode through training."""
    for (name, cell), colour in zip(found.items(), (MODEL, JUDGE, PURPLE), strict=False):
        ax.plot(cell["round"], cell["largest_share"], "o-", color=colour, ms=5, lw=2, label=f"${name}$")
        if len(found) == 1:
            for n, share, mode in zip(cell["round"], cell["largest_share"], cell["leading_mode"], strict=True):
                ax.text(n, share + 0.05, str(mode + 1), ha="center", fontsize=11, color=SOFT)
    ax.axhline(1 / 8, color=EDGE, lw=1.4, zorder=0)
    last = max(cell["rounds"] for cell in found.values())
    ax.text(last, 1 / 8 - 0.03, "an even ring", ha="right", va="top", fontsize=13, color=SOFT)
    ax.set(ylim=(0, 1.13), yticks=[0, 0.5, 1], xlabel="round", xlim=(-60, 1.01 * last))
    ax.set_title(
        "share of samples at the fullest mode" + (" (its number above)" if len(found) == 1 else ""), fontsize=15
    )
    if len(found) > 1:
        ax.legend(loc="center right", ncols=2)


# ---- vanishing gradients
@style.in_style
def vanishing_gradients(*, quick: bool = False) -> Picture:
    """Both generator losses' slopes in the logit, and gradient norms as a discriminator is trained to its optimum."""
    from saddlepoint.experiments import vanishing_gradients as measure

    t = np.linspace(-10, 6, 161)
    curves = generator_gradients(t)
    result = measure(moves=60 if quick else 1000, times=7 if quick else 16, samples=512 if quick else 2048)
    at_minus_ten = {k: float(v[0]) for k, v in generator_gradients([-10.0]).items()}
    numbers: dict[str, Any] = {
        "logit": t, **curves, "at_logit_minus_10": at_minus_ten, "moves": result.moves, "value": result.value,
        "accuracy": result.accuracy, "saturating": result.saturating, "nonsaturating": result.nonsaturating,
        "jsd_bound": result.jsd_bound,
    }  # fmt: skip
    figure = style.slide()
    left, right = figure.subplots(1, 2)
    left.plot(t, -curves["saturating_gradient"], color=MODEL, lw=3)
    left.plot(t, -curves["non_saturating_gradient"], color=DATA, lw=3)
    left.axvspan(-10, -4, color=EDGE, alpha=0.35, lw=0)
    style.note(left, -7, 0.5, "sure of\na fake", ha="center", color=SOFT, bbox=None)
    left.text(2.0, 0.72, "saturating\n" r"$\log(1-d)$", color=MODEL, fontsize=16)
    left.text(-9.7, 0.9, r"non-saturating $-\log d$", color=DATA, fontsize=16)
    left.set(
        xlim=(-10, 6),
        ylim=(0, 1.05),
        yticks=[0, 0.5, 1],
        xticks=[-10, -5, 0, 5],
        xlabel="logit $t$ of a fake, $d=\\mathrm{sigmoid}(t)$",
    )
    left.set_title("size of each loss's slope in the logit")
    value = np.maximum(-np.array(result.value), 1e-9)
    right.loglog(value, result.saturating, "o-", color=MODEL, ms=7)
    right.loglog(value, result.nonsaturating, "s-", color=DATA, ms=7)
    right.invert_xaxis()
    right.axvline(math.log(4), color=EDGE, lw=1.4, zorder=0)
    right.set(xlabel=r"$-V(d,g)$:  a better discriminator to the right $\rightarrow$")
    right.set_title("norm of the generator's gradient, measured")
    low = min(result.saturating)
    right.text(0.56, 0.24, "saturating", color=MODEL, fontsize=16, ha="right", transform=right.transAxes)
    right.text(0.97, 0.82, "non-saturating", color=DATA, fontsize=16, ha="right", transform=right.transAxes)
    right.text(math.log(4) * 0.93, low, r" $\log 4$", color=SOFT, fontsize=14)
    first, last = result.saturating[0], result.saturating[-1]
    return Picture(
        figure,
        numbers,
        r"\frac{d}{dt} \log(1-\sigma(t))=-\sigma(t) \to 0, \quad \frac{d}{dt}(-\log \sigma(t))=-(1-\sigma(t)) \to -1 "
        r"\quad (t \to -\infty)",
        r"The better the discriminator, the closer $V$ is to 0 and the less the saturating loss tells the generator: "
        r"with a perfect one its "
        "gradient is zero and learning halts. The non-saturating loss has the same fixed points and keeps its slope.",
        f"At logit -10 the slopes are {-at_minus_ten['saturating_gradient']:.3g} and "
        f"{-at_minus_ten['non_saturating_gradient']:.5f}. A discriminator trained "
        f"against a fixed generator for {result.moves[-1]:,} moves (the ring of eight Gaussians; accuracy "
        f"{100 * result.accuracy[0]:.0f} % to "
        f"{100 * result.accuracy[-1]:.0f} %, $V$ = {result.value[0]:.3f} to {result.value[-1]:.2g}) takes the "
        f"saturating gradient's norm from "
        f"{first:.3g} to {last:.2g}, the other's from {result.nonsaturating[0]:.3g} to {result.nonsaturating[-1]:.3g}.",
    )


# ---- WGAN figure 2
@style.in_style
def wgan_figure_2(*, quick: bool = False) -> Picture:
    """Two Gaussians far apart: a trained discriminator saturates, trained critics are ramps."""
    from saddlepoint.experiments import two_gaussians

    how = {"moves": 120 if quick else 1500, "batch": 64 if quick else 256}
    result, penalised = two_gaussians("clip", **how), two_gaussians("gradient", **how)
    x = result.x
    at_fakes = np.abs(x - 5) <= 1
    clipped, smooth = (each.critic - float(np.interp(0.0, x, each.critic)) for each in (result, penalised))
    numbers: dict[str, Any] = {
        "x": x, "real": result.real, "fake": result.fake,
        "discriminator": result.discriminator, "optimal": result.optimal,
        "discriminator_slope": result.discriminator_slope, "critic": clipped, "critic_slope": result.critic_slope,
        "penalised_critic": smooth, "penalised_critic_slope": penalised.critic_slope,
        "estimate_of_w1": result.estimate, "estimate_of_w1_penalised": penalised.estimate,
        "w1": result.w1, "jsd": result.jsd,
        "largest_discriminator_slope_at_fakes": float(np.abs(result.discriminator_slope[at_fakes]).max()),
        "smallest_critic_slope_at_fakes": float(np.abs(result.critic_slope[at_fakes]).min()),
        "smallest_penalised_critic_slope_at_fakes": float(np.abs(penalised.critic_slope[at_fakes]).min()),
        "crosses_one_half_at": float(x[np.argmin(np.abs(result.discriminator - 0.5))]),
    }  # fmt: skip
    figure = style.slide()
    left, right = figure.subplots(1, 2, width_ratios=[1.35, 1])
    style.density(left, x, result.real, DATA)
    style.density(left, x, result.fake, MODEL)
    left.plot(x, result.discriminator, color=JUDGE, lw=3)
    left.plot(x, -clipped / 10, color=PURPLE, lw=3)
    left.plot(x, -smooth / 10, color=PURPLE, lw=2.4, ls=(0, (5, 2)))
    left.axhline(0, color=EDGE, lw=1, zorder=0)
    left.text(-5, 0.43, "real", color=DATA, ha="center", fontsize=16)
    left.text(3.6, 0.43, "fake", color=MODEL, ha="center", fontsize=16)
    left.text(-0.4, 0.9, "discriminator", color=JUDGE, fontsize=16, ha="right")
    left.text(0.6, -0.34, "critics, drawn as $-f/10$:\nclipped (solid),\ngradient penalty (dashed)", color=PURPLE,
              fontsize=15, va="center", linespacing=1.3)  # fmt: skip
    left.set(xlim=(-8, 8), ylim=(-0.84, 1.06), yticks=[-0.5, 0, 0.5, 1], xticks=[-5, 0, 5], xlabel="$x$")
    left.set_title("what each has learned")
    floor = 1e-12
    right.semilogy(x, np.abs(result.discriminator_slope), color=JUDGE, lw=3)
    right.semilogy(x, np.abs(result.critic_slope), color=PURPLE, lw=3)
    right.semilogy(x, np.abs(penalised.critic_slope), color=PURPLE, lw=2.4, ls=(0, (5, 2)))
    right.axvspan(3, 7, color=MODEL, alpha=0.1, lw=0)
    right.text(5, 10 ** (-2.2), "fakes are here", color=MODEL, ha="center", fontsize=14)
    right.text(-7.7, 3.2, "critics", color=PURPLE, fontsize=16)
    right.text(0, 1e-9, "discriminator", color=JUDGE, fontsize=16, ha="center")
    right.set(xlim=(-8, 8), ylim=(floor, 60), xticks=[-5, 0, 5], yticks=[1, 1e-4, 1e-8, 1e-12], xlabel="$x$")
    right.set_title("size of the slope in $x$")
    return Picture(
        figure,
        numbers,
        r"p=N(-5,1), \quad q=N(5,1), \quad d^{*}(x)=\frac{1}{1+e^{10x}}, \quad W_1=10, \quad \text{JSD}=0.693146",
        "A discriminator trained to its optimum is flat where the fakes are: nothing to learn from. A critic kept "
        "Lipschitz, by clipping its weights or by a penalty on its gradient, has a slope there, and it points at the "
        "data.",
        f"At the fakes (4 to 6) the discriminator's slope is at most "
        f"{numbers['largest_discriminator_slope_at_fakes']:.1e}, the clipped critic's at least "
        f"{numbers['smallest_critic_slope_at_fakes']:.2f} of its steepest, the penalised one's "
        f"{numbers['smallest_penalised_critic_slope_at_fakes']:.2f}. Scaled to be 1-Lipschitz the clipped critic "
        f"certifies $W_1$ of at least {result.estimate:.2f} and the penalised one {penalised.estimate:.2f} (true: "
        f"{result.w1:g}; mass beyond 8 is left out): clipping spends its slope where there is no data. The "
        f"discriminator crosses 1/2 at {numbers['crosses_one_half_at']:.2f}.",
        "The paper's picture draws its critic lower on the data than on the samples: the released code minimises "
        "$f$(real) - $f$(fake). "
        "Here $f$ is high on data; drawn is $-f/10$.",
    )
