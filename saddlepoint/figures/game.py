"""Chapter 1 of the gallery: two players, their value, and the best discriminator."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from saddlepoint.figures import style
from saddlepoint.figures.picture import Picture
from saddlepoint.figures.style import DATA, EDGE, INK, JUDGE, MODEL, SKY, SOFT
from saddlepoint.theory import optimal
from saddlepoint.theory.distributions import Grid
from saddlepoint.theory.divergences import jsd
from saddlepoint.theory.optimal import value

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Array = style.Array
LOG4 = math.log(4)


@style.in_style
def two_player_diagram(*, quick: bool = False) -> Picture:
    """The set-up: noise, generator, data, discriminator, and the way gradients come back."""
    p, q, _ = _mixture(201)
    numbers = {
        "value_at_d_one_half": value(0.5, p, q),
        "value_of_a_perfect_discriminator": 0.0,
        "minus_log_4": -LOG4,
    }
    figure = style.slide()
    ax = figure.add_subplot()
    ax.set(xlim=(0, 16), ylim=(0, 9))
    style.bare(ax)
    _box(ax, (2.0, 3.0), "noise\n" r"$z \sim p(z)$", SOFT)
    _box(ax, (5.6, 3.0), "generator\n" r"$g(z;\theta)$", MODEL, filled=True)
    _box(ax, (5.6, 6.6), "data\n" r"$x \sim p(x)$", DATA, filled=True)
    _box(ax, (10.6, 4.8), "discriminator\n" r"$d(x;\phi)$", JUDGE, filled=True)
    _box(ax, (14.3, 4.8), "real?\n" r"$d \in [0, 1]$", SOFT)
    _arrow(ax, (3.25, 3.0), (4.15, 3.0))
    _arrow(ax, (7.05, 6.4), (9.15, 5.3), DATA)
    _arrow(ax, (7.05, 3.25), (9.15, 4.35), MODEL)
    _arrow(ax, (12.05, 4.8), (13.05, 4.8))
    ax.text(8.25, 6.2, "real  $x$", color=DATA, fontsize=17, ha="left")
    ax.text(8.25, 3.25, r"fake  $g(z)$", color=MODEL, fontsize=17, ha="left", va="center")
    _back(ax, 13.8, 2.75, (10.6, 3.85), JUDGE, r"$+\nabla_{\!\phi}\,V$")
    _back(ax, 14.8, 1.0, (5.6, 2.05), MODEL, r"$-\nabla_{\!\theta}\,V$")
    ax.text(8, 8.45, r"$\min_{\theta}\;\max_{\phi}\;\;V(\phi,\theta)=\mathbb{E}_{x\sim p(x)}[\log d(x)]+"
            r"\mathbb{E}_{z\sim p(z)}[\log(1-d(g(z)))]$", fontsize=23, ha="center", va="center")  # fmt: skip
    return Picture(
        figure,
        numbers,
        r"\min_{\theta}\max_{\phi}\,V(\phi,\theta)=\mathbb{E}_{p(x)}[\log "
        r"d(x;\phi)]+\mathbb{E}_{p(z)}[\log(1-d(g(z;\theta);\phi))]",
        "A discriminator $d$ learns to tell data from samples of a generator $g$; the generator learns to be taken for "
        r"data. One value $V$, which $d$ raises along $\nabla_{\phi} V$ and $g$ lowers along $-\nabla_{\theta} V$.",
        f"A discriminator that always answers 1/2 has $V$ = {numbers['value_at_d_one_half']:.6f} whatever the "
        f"densities "
        "are: minus log 4, the value of the game at its solution. A perfect one has 0, the largest possible.",
    )


def _box(ax: Axes, at: tuple[float, float], text: str, colour: str, filled: bool = False) -> None:
    from matplotlib.patches import FancyBboxPatch

    wide, high = (2.9, 1.75) if filled else (2.5, 1.75)
    corner = (at[0] - wide / 2, at[1] - high / 2)
    shape = FancyBboxPatch(
        corner, wide, high, boxstyle="round,pad=0,rounding_size=0.22", lw=2.2, ec=colour,
        fc=(colour + "22") if filled else "#ffffff",
    )  # fmt: skip
    ax.add_patch(shape)
    ax.text(*at, text, ha="center", va="center", fontsize=19, linespacing=1.5, color=INK)


def _arrow(ax: Axes, start: tuple[float, float], end: tuple[float, float], colour: str = SOFT) -> None:
    look = {
        "arrowstyle": "-|>,head_length=0.55,head_width=0.28",
        "lw": 2.4,
        "color": colour,
        "shrinkA": 0,
        "shrinkB": 2,
    }
    ax.annotate("", xy=end, xytext=start, arrowprops=look)


def _back(ax: Axes, x: float, low: float, end: tuple[float, float], colour: str, text: str) -> None:
    """A gradient's way back: down from the answer, along, and up into the player."""
    ax.plot([x, x, end[0], end[0]], [3.85, low, low, end[1] - 0.4], color=colour, lw=2.4, ls=(0, (4, 2.5)))
    _arrow(ax, (end[0], end[1] - 0.45), end, colour)
    style.note(ax, (x + end[0]) / 2, low, text, color=colour, fontsize=21, ha="center", va="center",
               bbox={"boxstyle": "round,pad=0.3", "fc": style.PAPER, "ec": "none"})  # fmt: skip


# ---- the optimal discriminator
def _gaussian(x: Array, mean: float, std: float) -> Array:
    return np.asarray(np.exp(-(((x - mean) / std) ** 2) / 2) / (std * math.sqrt(2 * math.pi)))


def _mixture(points: int) -> tuple[Grid, Grid, Array]:
    """A density with two modes and a single Gaussian between them, on a grid."""
    x = np.linspace(-8, 8, points)
    p = Grid(x, 0.55 * _gaussian(x, -1.6, 0.7) + 0.45 * _gaussian(x, 1.6, 0.55), normalise=True)
    return p, Grid(x, _gaussian(x, 0.9, 1.1), normalise=True), x


@style.in_style
def optimal_discriminator(*, quick: bool = False) -> Picture:
    """Densities, d* = p/(p+q), the pointwise problem that gives it, and V along a way from q to p."""
    p, q, x = _mixture(401 if quick else 1601)
    d = np.asarray(optimal.optimal_discriminator(p, q))
    shares = np.linspace(0, 1, 6 if quick else 21)
    way = [Grid(x, (1 - s) * q.density + s * p.density, normalise=True) for s in shares]
    values = np.array([value(optimal.optimal_discriminator(p, each), p, each) for each in way])
    predicted = np.array([2 * jsd(p, each) - LOG4 for each in way])
    at = np.array([-1.6, 0.45, 2.6])
    a, b = (np.interp(at, x, each.density) for each in (p, q))
    y = np.linspace(0.001, 0.999, 999)
    payoff = a[:, None] * np.log(y) + b[:, None] * np.log1p(-y)
    numbers: dict[str, Any] = {
        "x": x[:: len(x) // 200], "p": p.density[:: len(x) // 200], "q": q.density[:: len(x) // 200],
        "d": d[:: len(x) // 200], "value": values[0], "two_jsd_minus_log_4": predicted[0],
        "largest_error": float(np.abs(values - predicted).max()), "share_of_p": shares, "values": values,
        "predicted": predicted, "points": at, "pointwise_maximum": y[payoff.argmax(1)], "p_over_p_plus_q": a / (a + b),
    }  # fmt: skip
    figure = style.slide()
    grid = figure.add_gridspec(1, 2, width_ratios=[1.65, 1])
    sides = grid[0].subgridspec(2, 1, hspace=0.03), grid[1].subgridspec(2, 1)
    top, low = figure.add_subplot(sides[0][0]), figure.add_subplot(sides[0][1])
    style.density(top, x, p.density, DATA, "data  $p$")
    style.density(top, x, q.density, MODEL, "model  $q$")
    low.plot(x, d, color=JUDGE, lw=3)
    low.axhline(0.5, color=EDGE, lw=1.2, zorder=0)
    marks = ("o", "s", "^")
    for mark, point, best in zip(marks, at, a / (a + b), strict=True):
        low.plot(point, best, mark, color=INK, ms=10, zorder=5)
        top.axvline(point, color=EDGE, lw=1.2, zorder=0)
        low.axvline(point, color=EDGE, lw=1.2, zorder=0)
    top.set(xlim=(-4, 4.5), ylim=(0, 0.41), yticks=[], title="two densities")
    top.tick_params(labelbottom=False)
    top.legend(loc="upper left")
    low.set(xlim=(-4, 4.5), ylim=(-0.03, 1.03), yticks=[0, 0.5, 1], xlabel="$x$")
    style.note(low, -3.8, 0.2, r"$d^*(x)=\dfrac{p(x)}{p(x)+q(x)}$", fontsize=20, color=JUDGE)
    _pointwise(figure.add_subplot(sides[1][0]), y, payoff, marks)
    _along(figure.add_subplot(sides[1][1]), shares, values, predicted)
    return Picture(
        figure,
        numbers,
        r"d^{*}(x)=\frac{p(x)}{p(x)+q(x)}, \quad V(d^{*},g)=2 \text{JSD}(p \Vert q)-\log 4",
        r"At each $x$ the discriminator maximises $p \log y+q \log(1-y)$, whose maximum is at $y=p/(p+q)$. With this "
        r"$d$ the "
        "generator's objective is a Jensen-Shannon divergence, smallest ($-\\log 4$) if and only if $q=p$.",
        f"Along a straight way from $q$ to $p$, $V$ at $d^{{*}}$ and $2 \\text{{JSD}}-\\log 4$, computed separately, "
        f"differ "
        f"by at most "
        f"{numbers['largest_error']:.1e}; the way ends at {values[-1]:.6f} ($-\\log 4$ = {-LOG4:.6f}).",
    )


def _pointwise(ax: Axes, y: Array, payoff: Array, marks: tuple[str, ...]) -> None:
    for mark, curve in zip(marks, payoff, strict=True):
        ax.plot(y, curve, color=SOFT, lw=2)
        ax.plot(y[curve.argmax()], curve.max(), mark, color=INK, ms=10)
    ax.set(ylim=(-1.3, 0.05), xlim=(0, 1), xticks=[0, 0.5, 1], yticks=[-1, 0], xlabel="answer $y$")
    ax.set_title(r"at one $x$:  $p\log y+q\log(1-y)$")


def _along(ax: Axes, shares: Array, values: Array, predicted: Array) -> None:
    ax.plot(shares, predicted, color=SKY, lw=7, alpha=0.45, label=r"$2\,\mathrm{JSD}-\log 4$")
    ax.plot(shares, values, color=INK, lw=2, label=r"$V(d^*)$")
    ax.axhline(-LOG4, color=EDGE, lw=1.2, zorder=0)
    ax.set(xlim=(0, 1), ylim=(-1.45, None), xticks=[0, 1], yticks=[-1.3, -1.2, -1.1, -1.0])
    ax.set_xticklabels(["$q$ as above", "$q=p$"])
    ax.set_title("value, as $q$ moves to $p$")
    ax.text(0.02, -LOG4 + 0.008, r"$-\log 4$", fontsize=14, color=SOFT)
    ax.legend(loc="upper right")
