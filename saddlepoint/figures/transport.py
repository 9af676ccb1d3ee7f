"""Chapter 3 of the gallery: Jensen-Shannon against Wasserstein, and the worked example from both sides."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
from torch.distributions import Normal

from saddlepoint.figures import style
from saddlepoint.figures.picture import Animation, Picture
from saddlepoint.figures.style import DATA, EDGE, INK, JUDGE, MODEL, PURPLE, SOFT
from saddlepoint.theory.distributions import Piecewise
from saddlepoint.theory.divergences import gaussian_jsd
from saddlepoint.theory.transport import LinePlan, w1, w1_dual, w1_plan, worked_example

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Array = style.Array
LOG2 = math.log(2)
COLOURS = (MODEL, style.ORANGE, PURPLE)  # where the earth comes from


# ---- a mode that moves away
@style.in_style
def jsd_and_w1(*, quick: bool = False) -> Picture:
    """p = N(0, 1) against q = N(theta, 1): the JSD saturates, W1 is |theta|."""
    thetas = np.linspace(-10, 10, 41 if quick else 161)
    jsds = np.array([gaussian_jsd(abs(t)) for t in thetas])
    probes = np.array([-9.0, -4.0, -1.0, 0.0, 1.0, 4.0, 9.0])[:: 3 if quick else 1]
    measured = np.array([w1(Normal(0.0, 1.0), Normal(t, 1.0)) for t in probes.tolist()])
    w1s = np.abs(thetas)
    table = {f"{d:g}": gaussian_jsd(float(d)) for d in (1, 2, 4, 10)}
    slopes = {f"{d:g}": (gaussian_jsd(d + 1e-3) - gaussian_jsd(d - 1e-3)) / 2e-3 for d in (2.0, 6.0, 9.0)}
    numbers: dict[str, Any] = {
        "theta": thetas, "jsd": jsds, "w1_measured_at": probes, "w1_measured": measured, "log_2": LOG2,
        "jsd_at": table, "slope_of_jsd_at": slopes,
        "largest_error_of_w1": float(np.abs(measured - np.abs(probes)).max()),
    }  # fmt: skip
    figure = style.slide()
    grid = figure.add_gridspec(3, 2, width_ratios=[1, 1.15])
    left = [figure.add_subplot(grid[i, 0]) for i in range(3)]
    for ax, theta in zip(left, (1.0, 4.0, 9.0), strict=True):
        _two_modes(ax, theta)
        style.note(ax, -4.7, 0.3, rf"$\theta={theta:g}$", fontsize=18)
    left[0].set_title("data $p$ and model $q$, a distance $\\theta$ apart")
    left[0].text(-1.75, 0.26, "$p$", color=DATA, fontsize=20, ha="center")
    left[0].text(2.75, 0.26, "$q$", color=MODEL, fontsize=20, ha="center")
    right = grid[:, 1].subgridspec(2, 1, hspace=0.12)
    top, low = figure.add_subplot(right[0]), figure.add_subplot(right[1])
    _curves(top, low, thetas, jsds, w1s)
    for ax, values in ((top, jsds), (low, w1s)):
        ax.plot([1, 4, 9], np.interp([1, 4, 9], thetas, values), "o", color=INK, ms=9, zorder=5)
    return Picture(
        figure,
        numbers,
        r"\text{JSD}(p_0 \Vert p_{\theta}) \to \log 2, \quad W_1(p_0,p_{\theta})=|\theta|",
        r"Once $p$ and $q$ hardly overlap, the JSD is $\log 2$ at any distance and tells the generator nothing. The "
        "Wasserstein distance keeps its slope, however far apart they are.",
        f"Unit Gaussians at distance 1, 2, 4, 10: JSD {', '.join(f'{v:.6f}' for v in table.values())} ($\\log 2$ = "
        f"{LOG2:.6f}); its slope at distance 2 is {slopes['2']:.3f}, at 9 it is {slopes['9']:.1e}. W1 from the "
        f"densities alone differs from the distance by at most {numbers['largest_error_of_w1']:.1e}.",
        animation=_moving(thetas, jsds, w1s, 24 if quick else 48),
    )


def _two_modes(ax: Axes, theta: float) -> None:
    x = np.linspace(-5, 13, 500)
    for mean, colour in ((0.0, DATA), (theta, MODEL)):
        style.density(ax, x, np.exp(-((x - mean) ** 2) / 2) / math.sqrt(2 * math.pi), colour)
    ax.set(xlim=(-5, 12.5), ylim=(0, 0.46), yticks=[], xticks=[0, 5, 10])
    ax.spines["left"].set_visible(False)


def _curves(top: Axes, low: Axes, thetas: Array, jsds: Array, w1s: Array) -> None:
    top.axhline(LOG2, color=EDGE, lw=1.4, zorder=0)
    top.text(-9.8, LOG2 + 0.02, r"$\log 2$", color=SOFT, fontsize=15, va="bottom")
    top.plot(thetas, jsds, color=PURPLE, lw=3)
    low.plot(thetas, w1s, color=JUDGE, lw=3)
    top.set(ylim=(0, 0.84), xlim=(-10, 10), yticks=[0, 0.3, 0.6], xticks=range(-10, 11, 5))
    top.set_title(r"$\mathrm{JSD}(p\,\|\,q)$: flat beyond a few standard deviations", color=PURPLE)
    top.tick_params(labelbottom=False)
    low.set(ylim=(0, 10.6), xlim=(-10, 10), yticks=[0, 5, 10], xticks=range(-10, 11, 5), xlabel=r"$\theta$")
    low.set_title(r"$\mathrm{W}_1(p,q)=|\theta|$: a slope everywhere", color=JUDGE)


def _moving(thetas: Array, jsds: Array, w1s: Array, frames: int) -> Animation:
    """q passes over p, from one side to the other and back."""
    figure = style.slide(11, 6.2)
    grid = figure.add_gridspec(2, 2, height_ratios=[1, 1])
    ax = figure.add_subplot(grid[0, :])
    x = np.linspace(-13, 13, 700)
    style.density(ax, x, np.exp(-(x**2) / 2) / math.sqrt(2 * math.pi), DATA)
    ax.set(xlim=(-13, 13), ylim=(0, 0.46), yticks=[], xticks=[-10, -5, 0, 5, 10])
    ax.text(0, 0.42, "$p$", color=DATA, fontsize=20, ha="center")
    name = ax.text(0, 0.42, "$q$", color=MODEL, fontsize=20, ha="center")
    (line,) = ax.plot([], [], color=MODEL)
    top, low = figure.add_subplot(grid[1, 0]), figure.add_subplot(grid[1, 1])
    _curves(top, low, thetas, jsds, w1s)
    top.set(title=r"$\mathrm{JSD}(p\,\|\,q)$", xlabel=r"$\theta$")
    top.tick_params(labelbottom=True)
    low.set_title(r"$\mathrm{W}_1(p,q)$")
    dots = [each.plot([], [], "o", color=INK, ms=11)[0] for each in (top, low)]

    def draw(i: int) -> None:
        theta = -10 * math.cos(2 * math.pi * i / frames)
        line.set_data(x, np.exp(-((x - theta) ** 2) / 2) / math.sqrt(2 * math.pi))
        name.set_x(theta if abs(theta) > 0.9 else 0.9 * (1 if theta >= 0 else -1))
        for dot, values in zip(dots, (jsds, w1s), strict=True):
            dot.set_data([theta], [np.interp(theta, thetas, values)])

    return Animation(figure, draw, frames)


# ---- the worked example
# mass, from, onto: the lecture's plan moves each block of earth as it is
MOVES = ((0.25, (1.0, 2.0), (5.0, 6.0)), (0.25, (3.0, 4.0), (5.0, 6.0)), (0.5, (9.0, 10.0), (6.0, 7.0)))


@style.in_style
def transport_plan(*, quick: bool = False) -> Picture:
    """The lecture's p and q, and the cheapest way of making one from the other."""
    p, q = worked_example()
    plan = LinePlan(*(np.array(part) for part in zip(*MOVES, strict=True)))
    monotone = w1_plan(p, q)
    assert isinstance(monotone, LinePlan)
    moves = [{"mass": mass, "from": list(a), "onto": list(b), "shift": abs(b[0] - a[0]),
              "cost": mass * abs(b[0] - a[0])}
             for mass, a, b in MOVES]  # fmt: skip
    printed = Piecewise.sum_of((1.0, 5, 7), normalise=True)
    numbers: dict[str, Any] = {
        "moves": moves, "cost": plan.cost, "w1": w1(p, q), "mass_of_q_as_printed": 2.0,
        "w1_to_q_normalised": w1(p, printed),
        "monotone_plan": {"mass": monotone.mass, "from": monotone.source, "onto": monotone.target,
                          "cost": monotone.cost},
    }  # fmt: skip
    figure = style.slide()
    top, low = figure.subplots(2, 1, sharex=True)
    floors = (0.0, 0.25, 0.0)  # two blocks land on the same place
    for (mass, (a, b), (c, d)), floor, colour in zip(MOVES, floors, COLOURS, strict=True):
        _bar(top, a, b, 0.0, mass, colour)
        _bar(low, c, d, floor, floor + mass, colour)
        _carry(figure, top, low, (a + b) / 2, ((c + d) / 2, floor + mass / 2), colour)
        text = f"mass {mass:g}\nshift {abs(c - a):g}\ncost {mass * abs(c - a):g}"
        top.text((a + b) / 2, mass + 0.015, text, ha="center", va="bottom", fontsize=14, linespacing=1.25)
    for ax, name in ((top, "$p$"), (low, "$q$")):
        ax.set(xlim=(0, 11), ylim=(0, 0.62), yticks=[0, 0.25, 0.5], xticks=range(12))
        ax.text(0.12, 0.53, name, fontsize=26)
    figure.suptitle(
        r"$\mathrm{W}_1(p,q)=4\cdot\frac{1}{4}+2\cdot\frac{1}{4}+3\cdot\frac{1}{2}=" + f"{plan.cost:g}$", fontsize=22
    )
    return Picture(
        figure,
        numbers,
        r"W_1(p,q)=\inf_{\gamma \in \Pi(p,q)} \mathbb{E}_{(x,y) \sim \gamma}[\Vert x-y \Vert]=4 \cdot \frac{1}{4}+2 "
        r"\cdot \frac{1}{4}+3 \cdot \frac{1}{2}=3",
        r"The least work of moving $p$'s earth to where $q$ has it: mass times distance, by the best plan.",
        f"The plan drawn costs {plan.cost:.12g}; the one that keeps the order of all grains, found from the "
        f"distribution functions, costs "
        f"{monotone.cost:.12g} too, and the area between the functions is {numbers['w1']:.12g}: the best plan is not "
        f"unique, its cost is.",
        r"The lecture prints $q=1_{[5,7]}$, which has mass 2. Its own picture draws the height 1/2: with "
        r"$q=\frac{1}{2} 1_{[5,7]}$ the value is 3 as it says.",
    )


def _bar(ax: Axes, a: float, b: float, low: float, high: float, colour: str) -> None:
    ax.fill_between([a, b], low, high, color=colour, alpha=0.55, lw=0, zorder=2)
    ax.plot([a, a, b, b], [low, high, high, low], color=colour, lw=2, zorder=3)


def _carry(figure: Figure, top: Axes, low: Axes, start: float, end: tuple[float, float], colour: str) -> None:
    """An arrow from below the earth in the upper axes to where it lands in the lower ones."""
    from matplotlib.patches import ConnectionPatch

    figure.add_artist(
        ConnectionPatch(
            (start, 0.0), end, "data", "data", axesA=top, axesB=low, color=colour, lw=2.4, arrowstyle="-|>",
            mutation_scale=22, shrinkA=26, shrinkB=2, zorder=10,
        )
    )  # fmt: skip


@style.in_style
def dual_potential(*, quick: bool = False) -> Picture:
    """A 1-Lipschitz function that proves the plan optimal."""
    p, q = worked_example()
    found = w1_dual(p, q)
    shift = -1.5 - float(found(6.0))  # the free constant, chosen as in the lecture
    x = np.linspace(0.5, 10.5, 401)
    f = np.where((x >= 1) & (x <= 10), found(x) + shift, np.abs(x - 6) - 1.5)
    e_p, e_q = (_mean(found, each) + shift for each in (p, q))
    numbers = {
        "knots": found.knots, "values": found.values + shift, "primal": found.primal, "dual": found.dual,
        "gap": found.gap, "lipschitz": found.lipschitz, "mean_under_p": e_p, "mean_under_q": e_q,
        "largest_difference_to_the_lectures_f": float(np.abs(f - (np.abs(x - 6) - 1.5)).max()),
    }  # fmt: skip
    figure = style.slide()
    ax = figure.add_subplot()
    for each, colour, name, at in ((p, DATA, "$p$", 1.5), (q, MODEL, "$q$", 5.5)):
        for a, b, height in zip(each.edges[:-1], each.edges[1:], each.heights, strict=True):
            if height:
                _bar(ax, a, b, 0, height, colour)
        ax.text(at, (0.25 if name == "$p$" else 0.5) + 0.1, name, fontsize=24, color=colour, ha="center")
    ax.plot(x, f, color=JUDGE, lw=3.4, zorder=6)
    ax.axhline(0, color=SOFT, lw=1)
    for at, offset in ((1.0, (12, 6)), (6.0, (16, -9)), (10.0, (13, -12))):
        height = abs(at - 6) - 1.5
        ax.plot(at, height, "o", color=INK, ms=9, zorder=7)
        ax.annotate(f"${height:g}$", (at, height), xytext=offset, textcoords="offset points", fontsize=18)
    ax.text(2.6, 2.7, r"$f(x)=|x-6|-\frac{3}{2}$", color=JUDGE, fontsize=23)
    ax.set(xlim=(0, 11), ylim=(-2, 4), xticks=range(12), yticks=range(-2, 5), xlabel="$x$")
    ax.set_title(rf"$\mathbb{{E}}_p[f]-\mathbb{{E}}_q[f]={e_p:g}-({e_q:g})={found.dual:g}$", fontsize=22)
    return Picture(
        figure,
        numbers,
        r"W_1(p,q)=\sup_{\Vert f \Vert_L \le 1} \mathbb{E}_p[f(x)]-\mathbb{E}_q[f(x)], \quad f(x)=|x-6|-\frac{3}{2}",
        r"Any 1-Lipschitz $f$ gives a lower bound, any plan an upper bound. This $f$ gives what the plan costs, so "
        r"both are "
        "optimal (Kantorovich and Rubinstein). A WGAN's critic looks for this $f$.",
        f"The potential found gives {e_p:.12g} on $p$ and {e_q:.12g} on $q$: dual {found.dual:.12g}, primal "
        f"{found.primal:.12g}, gap "
        f"{found.gap:.1e}; its largest slope is {found.lipschitz:.12g}. It is the lecture's $f$ to "
        f"{numbers['largest_difference_to_the_lectures_f']:.0e}. The constant is free.",
    )


def _mean(f: Any, p: Piecewise) -> float:
    """E_p f for f linear between its knots and p constant between its edges: exact by trapezia."""
    x = np.unique(np.concatenate([f.knots, p.edges]))
    height = p.heights[np.clip(np.searchsorted(p.edges, (x[1:] + x[:-1]) / 2) - 1, 0, len(p.heights) - 1)]
    inside = ((x[1:] + x[:-1]) / 2 > p.edges[0]) & ((x[1:] + x[:-1]) / 2 < p.edges[-1])
    return float((np.diff(x) * (f(x[1:]) + f(x[:-1])) / 2 * height * inside).sum())
