"""Chapter 4 of the gallery, second part: the Dirac-GAN under every method, played through the engine."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from saddlepoint import recipes
from saddlepoint.figures import style
from saddlepoint.figures.dynamics import complex_text, played
from saddlepoint.figures.picture import Animation, Picture
from saddlepoint.figures.style import DATA, EDGE, INK, JUDGE, MODEL, ORANGE, PURPLE, SKY, SOFT

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Array = style.Array
STEP, ROUNDS = 0.2, 500
# title -> settings of the recipe; in the order of the grid
METHODS: dict[str, dict[str, Any]] = {
    "GAN": {"method": "minimax"},
    "non-saturating": {"method": "nonsaturating"},
    "WGAN, clip 1": {"method": "wasserstein", "clip": 1.0},
    "WGAN-GP": {"method": "wgan-gp", "slope_weight": 0.7, "slope": 1.0},
    "instance noise, 0.7": {"method": "instance-noise", "sigma": 0.7},
    r"R1, $\gamma=0.3$": {"method": "r1", "gamma": 0.3},
    r"R1, $\gamma=1$": {"method": "r1", "gamma": 1.0},
    r"R1 + R2, $\gamma=0.3$": {"method": "r1+r2", "gamma": 0.3},
    r"consensus, $\gamma=1$": {"method": "consensus", "gamma": 1.0},
    r"non-sat. + R1, 0.3": {"method": "nonsaturating+r1", "gamma": 0.3},
}


def _field(settings: dict[str, Any], points: Array) -> Array:
    """v at points [n, 2], from the game's own losses."""
    import torch

    from saddlepoint.systems import build
    from saddlepoint.theory.fields import Coordinates, vector_field

    game = build(recipes.recipe("dirac", **settings))
    round, coordinates, found = game.round(), Coordinates(game), []
    for point in points:
        coordinates.write(torch.from_numpy(point))
        found.append(vector_field(game, round).flat.numpy())
    return np.array(found)


@style.in_style
def dirac_trajectories(*, quick: bool = False) -> Picture:
    """Ten methods, each from (1, 1) with steps of 0.2: simultaneous and alternating play over the field."""
    rounds = 60 if quick else ROUNDS
    figure = style.slide()
    axes = figure.subplots(2, 5)
    points = style.lattice(2, 6 if quick else 10)
    found: dict[str, Any] = {}
    for ax, (title, settings) in zip(axes.flat, METHODS.items(), strict=True):
        paths = {kind: played("dirac", rounds, operator=kind, **settings) for kind in ("simultaneous", "alternating")}
        style.arrows(ax, points, _field(settings, points), cell=4 / math.sqrt(len(points)), colour="#b4bbc6")
        ax.plot(*paths["simultaneous"].T, color=MODEL, lw=1.3)
        ax.plot(*paths["alternating"].T, color=DATA, lw=1.3)
        ax.plot(1, 1, "o", color=INK, ms=6, zorder=6)
        style.plane(ax, 2)
        ax.set(xlabel="", ylabel="")
        # On a linear discriminator R1 and R2 are the same term, gamma/2 psi^2.
        shown = title.replace("R1,", "R1 or R2,") if settings == {"method": "r1", "gamma": 0.3} else title
        ax.set_title(shown, fontsize=14, pad=6)
        ends = {kind: float(np.linalg.norm(path[-1])) for kind, path in paths.items()}
        for place, (kind, colour) in enumerate((("simultaneous", MODEL), ("alternating", DATA))):
            ax.text(0.27 + 0.46 * place, -0.1, _distance(ends[kind]), color=colour, fontsize=13, ha="center",
                    transform=ax.transAxes)  # fmt: skip
        found[title] = {"settings": settings, "distance": ends, "path": {k: _thinned(p) for k, p in paths.items()}}
    axes[1, 0].set(xlabel=r"$\theta$")
    axes[1, 0].set_ylabel(r"$\psi$", rotation=0)
    axes[1, 0].xaxis.set_label_coords(0.97, 0.47)
    axes[1, 0].yaxis.set_label_coords(0.56, 0.9)
    _coloured_title(figure, rounds)
    gan, ns, r1 = (found[name]["distance"] for name in ("GAN", "non-saturating", r"R1, $\gamma=0.3$"))
    return Picture(
        figure,
        {"step_size": STEP, "rounds": rounds, "start": [1.0, 1.0], "methods": found},
        r"L(\theta,\psi)=f(\psi \theta)+f(0), \quad f(t)=-\log(1+e^{-t}), \quad p=\delta_0, \quad D(x)=\psi x",
        "The smallest GAN: data at 0, a generator that puts one point at $\\theta$, a linear discriminator. Without "
        "regularisation "
        "it does not converge; instance noise, R1, R2 and consensus optimisation do; WGAN and WGAN-GP do not.",
        f"Distance after {rounds} rounds, simultaneous and alternating: GAN {gan['simultaneous']:.3f} and "
        f"{gan['alternating']:.3f}, "
        f"non-saturating {ns['simultaneous']:.3f} and {ns['alternating']:.3f} (it creeps: $r=\\sqrt{{8/t}}$), R1 with "
        f"$\\gamma=0.3$ "
        f"{r1['simultaneous']:.1e} and {r1['alternating']:.1e}.",
        "The released notebook's consensus gradient has a factor 1/2 on one term, where the gradient of half the "
        "squared norm has "
        "1; played here is the exact one. Both have the same linear part at the equilibrium.",
        animation=_live(
            {k: found[k]["path"]["alternating"] for k in ("GAN", "WGAN, clip 1", r"R1, $\gamma=0.3$")}, rounds, quick
        ),
    )


def _distance(r: float) -> str:
    return f"{r:.3f}" if r > 5e-4 else "< 1e-12" if r < 1e-12 else f"{r:.0e}".replace("e-0", "e-")


def _thinned(path: Array) -> Array:
    """Every round at first, where it moves most, then every fourth."""
    return np.concatenate([path[:60], path[60::4]])


def _coloured_title(figure: Any, rounds: int) -> None:
    figure.set_layout_engine("constrained", rect=(0, 0.035, 1, 0.905))
    figure.text(0.5, 0.955, f"Dirac-GAN: {rounds} rounds with $h={STEP}$ from (1, 1)", ha="center", fontsize=18)
    figure.text(0.355, 0.018, "simultaneous", color=MODEL, ha="center", fontsize=15)
    figure.text(0.47, 0.018, "alternating", color=DATA, ha="center", fontsize=15)
    figure.text(0.535, 0.018, "(numbers: last distance to the equilibrium)", color=SOFT, fontsize=15)


def _live(paths: dict[str, Array], rounds: int, quick: bool) -> Animation:
    """Above the trajectory, below what it means: the data's bar at 0, the generator's at theta, D as a line."""
    frames = 16 if quick else 60
    figure = style.slide(11, 6.4)
    axes = figure.subplots(2, 3, height_ratios=[1.55, 1])
    parts = []
    for column, (title, settings) in enumerate((name, METHODS[name]) for name in paths):
        top, low = axes[0, column], axes[1, column]
        points = style.lattice(2, 6 if quick else 10)
        style.arrows(top, points, _field(settings, points), cell=4 / math.sqrt(len(points)), colour="#b4bbc6")
        style.plane(top, 2, ticks=(-2, 0, 2))
        top.set_title(title)
        low.bar([0], [1], width=0.12, color=DATA)
        bar = low.bar([1], [1], width=0.12, color=MODEL)[0]
        low.axhline(0, color=EDGE, lw=1, zorder=0)
        low.set(xlim=(-2, 2), ylim=(-1.5, 1.5), yticks=[], xticks=[-2, 0, 2], xlabel="$x$")
        low.spines["left"].set_visible(False)
        parts.append((top.plot([], [], color=DATA, lw=2)[0], top.plot([], [], "o", color=INK, ms=9)[0], bar,
                      low.plot([], [], color=JUDGE, lw=3)[0]))  # fmt: skip
    figure.set_layout_engine("constrained", rect=(0.01, 0.07, 0.98, 0.92))
    for x, text, colour in ((0.3, "data", DATA), (0.42, "generator", MODEL), (0.58, "discriminator $\\psi x$", JUDGE)):
        figure.text(x, 0.02, text, color=colour, fontsize=16)

    def draw(i: int) -> None:
        for path, (line, dot, bar, judge) in zip(paths.values(), parts, strict=True):
            end = min(2 * i, len(path) - 1)
            theta, psi = path[end]
            line.set_data(*path[: end + 1].T)
            dot.set_data([theta], [psi])
            bar.set_x(theta - 0.06)
            judge.set_data([-2, 2], [-2 * psi, 2 * psi])

    return Animation(figure, draw, frames)


# ---- spectra
SPECTRA: dict[str, tuple[dict[str, Any], str, str]] = {
    "GAN": ({"method": "minimax"}, INK, "o"),
    "WGAN": ({"method": "wasserstein"}, SOFT, "s"),
    "instance noise, 0.7": ({"method": "instance-noise", "sigma": 0.7}, ORANGE, "^"),
    r"R1, $\gamma=0.3$": ({"method": "r1", "gamma": 0.3}, SKY, "v"),
    r"R1, $\gamma=1$": ({"method": "r1", "gamma": 1.0}, DATA, "D"),
    r"R1, $\gamma=2$": ({"method": "r1", "gamma": 2.0}, PURPLE, "P"),
    r"R1 + R2, $\gamma=0.3$": ({"method": "r1+r2", "gamma": 0.3}, MODEL, "X"),
    r"consensus, $\gamma=1$": ({"method": "consensus", "gamma": 1.0}, JUDGE, "*"),
}


@style.in_style
def dirac_spectra(*, quick: bool = False) -> Picture:
    """Eigenvalues at the equilibrium by method, and the spectral radius of both ways of play against the step size."""
    from saddlepoint.systems import build
    from saddlepoint.systems.dirac import eigenvalues
    from saddlepoint.theory.fields import jacobian
    from saddlepoint.theory.flows import Rule, largest_stable_step, update_matrix

    figure = style.slide()
    left, right = figure.subplots(1, 2, width_ratios=[1, 1.08])
    left.axvspan(-2.2, 0, color=SKY, alpha=0.13, lw=0)
    left.axhline(0, color=EDGE, lw=1, zorder=0)
    left.axvline(0, color=SOFT, lw=1.2, zorder=0)
    steps = np.linspace(0.01, 4.6, 60 if quick else 240)
    blocks = {"generator": 1, "discriminator": 1}
    found: dict[str, Any] = {}
    for name, (settings, colour, mark) in SPECTRA.items():
        recipe = recipes.recipe("dirac", start=(0.0, 0.0), **settings)
        game = build(recipe)
        J = jacobian(game, game.round()).numpy()
        exact: Any = np.array(eigenvalues(recipe))  # type: ignore[arg-type]
        z = np.linalg.eigvals(J).astype(complex)
        left.plot(z.real, z.imag, mark, color=colour, ms=13 if mark == "*" else 10, label=name, zorder=4)
        radius = {k: [float(np.abs(np.linalg.eigvals(update_matrix(J, h, Rule(k), blocks))).max()) for h in steps]
                  for k in ("simultaneous", "alternating")}  # fmt: skip
        if name != "WGAN":
            right.plot(steps, radius["simultaneous"], color=colour, lw=2.2)
        found[name] = {
            "settings": settings, "eigenvalues": z, "closed_form": exact, "jacobian": J,
            "error": float(max(min(abs(a - b) for b in exact) for a in z)),
            "largest_stable_step": {
                k: largest_stable_step(J, Rule(k), blocks) for k in ("simultaneous", "alternating")
            },
        }  # fmt: skip
    right.axhline(1, color=SOFT, lw=1.4, zorder=0)
    right.text(2.72, 1.012, "stable below 1", fontsize=14, color=SOFT)
    right.set(xlim=(0, 4.6), ylim=(0.4, 1.6), xlabel="step size $h$", xticks=range(5), yticks=[0.5, 1, 1.5])
    right.set_title(r"simultaneous play: $\max|1+h\lambda|$")
    left.set(xlim=(-2.15, 0.45), ylim=(-1.3, 1.3), xlabel="Re", ylabel="Im", xticks=[-2, -1, 0], yticks=[-1, 0, 1])
    left.set_title("eigenvalues of $v'$ at the equilibrium")
    left.legend(loc="upper left", fontsize=12.5, handletextpad=0.2, borderpad=0.1, labelspacing=0.35)
    worst = max(f["error"] for f in found.values())
    r1 = {g: found[rf"R1, $\gamma={g}$"]["largest_stable_step"] for g in ("0.3", "1", "2")}
    return Picture(
        figure,
        {"step_sizes": steps, "methods": found},
        r"v'(0,0)=\left( \text{GAN: } \pm \frac{i}{2}, \quad \text{R1: } -\frac{\gamma}{2} \pm "
        r"\sqrt{\frac{\gamma^2}{4}-\frac{1}{4}}, \quad \text{noise: } -\frac{\sigma^2}{4} \pm "
        r"\sqrt{\frac{\sigma^4}{16}-\frac{1}{4}}, \quad \text{consensus: } -\frac{\gamma}{4} \pm \frac{i}{2} \right)",
        "Eigenvalues on the imaginary axis circle; methods that converge move them to the left. How far to the left, "
        "against how "
        "much rotation is left, decides which step sizes are stable.",
        f"Eigenvalues of the Jacobian by automatic differentiation agree with the closed forms to {worst:.1e}. "
        f"Largest stable step of "
        f"simultaneous play under R1 with $\\gamma$ = 0.3, 1, 2: "
        f"{', '.join(format(r1[g]['simultaneous'], '.4f') for g in r1)}; of "
        f"alternating play: {', '.join(format(r1[g]['alternating'], '.4f') for g in r1)}. The plain GAN has none in "
        f"simultaneous play, and circles "
        f"in alternating play up to {found['GAN']['largest_stable_step']['alternating']:.4f}. "
        "Two time-scales alone do not help simultaneous play: $|\\lambda|^2=1+h_g h_d/4$ exceeds 1 for any two steps. "
        "WGAN-GP is not "
        "in the picture: its field is not differentiable at the equilibrium.",
    )


# ---- the strength of R1
@style.in_style
def gamma_sweep(*, quick: bool = False) -> Picture:
    """R1's eigenvalues as gamma grows from 0 to 3 f'(0), exact, measured, and as the lecture prints them."""
    from saddlepoint.systems import build
    from saddlepoint.systems.dirac import as_printed_in_the_lecture, eigenvalues
    from saddlepoint.theory.fields import jacobian

    def exact(gamma: float) -> tuple[complex, complex]:
        return eigenvalues(recipes.recipe("dirac", method="r1", gamma=float(gamma)))  # type: ignore[arg-type]

    gammas = np.linspace(0, 1.5, 61 if quick else 301)
    true = np.array([exact(g) for g in gammas])
    printed = np.array([as_printed_in_the_lecture(g) for g in gammas])
    probes = np.array([0.0, 0.3, 0.6, 0.9, 1.1, 1.3, 1.5])
    measured = []
    for gamma in probes:
        game = build(recipes.recipe("dirac", method="r1", gamma=float(gamma), start=(0.0, 0.0)))
        z = np.linalg.eigvals(jacobian(game, game.round()).numpy()).astype(complex)
        measured.append(z[np.lexsort((-z.real, -z.imag))])
    dots = np.array(measured)
    expected = np.array([exact(g) for g in probes])
    agree = gammas[(np.abs(true - printed).max(1) < 1e-9) & (gammas > 0)]
    numbers: dict[str, Any] = {
        "gamma": gammas, "eigenvalues": true, "as_printed": printed, "measured_at": probes, "measured": dots,
        "largest_error": float(np.abs(dots - expected).max()), "gamma_where_printed_agrees": agree,
        "at_gamma_2": {"true": exact(2.0), "printed": as_printed_in_the_lecture(2.0)},
        "at_gamma_0.3": {"true": exact(0.3), "printed": as_printed_in_the_lecture(0.3)},
    }  # fmt: skip
    figure = style.slide()
    left, right = figure.subplots(1, 2, width_ratios=[1, 1.1])
    _paths(left, true, printed, dots)
    _parts(right, gammas, true, printed, probes, dots)
    t3, p3 = exact(0.3)[0], as_printed_in_the_lecture(0.3)[0]
    return Picture(
        figure,
        numbers,
        r"\lambda_{1,2}=-\frac{\gamma}{2} \pm \sqrt{\frac{\gamma^2}{4}-f'(0)^2}, \quad f'(0)=\frac{1}{2}",
        r"R1 damps the rotation. The two eigenvalues meet at $-1/2$ where $\gamma=2 f'(0)=1$, the fastest; beyond, "
        r"one of them creeps "
        "back to 0 and convergence slows down again.",
        f"Eigenvalues of the Jacobian by automatic differentiation at seven $\\gamma$ agree with this formula to "
        f"{numbers['largest_error']:.0e}. At $\\gamma$ = 1.5 they are {true[-1, 0].real:.4f} and "
        f"{true[-1, 1].real:.4f}.",
        f"The lecture prints $\\sqrt{{\\gamma/4-f'(0)^2}}$. That agrees only at $\\gamma$ = "
        f"{', '.join(f'{g:g}' for g in agree)}: at 0.3 it gives "
        f"${complex_text(p3, 4)}$ where ${complex_text(t3, 4)}$ is true, at 2 it gives -0.5 and -1.5 where "
        f"{exact(2.0)[0].real:.4f} and {exact(2.0)[1].real:.4f} are. The paper has $\\gamma^2/4$. (The released code "
        f"labels the end of its "
        "sweep two critical gammas; it is one and a half.)",
    )


def _paths(ax: Axes, true: Any, printed: Any, dots: Any) -> None:
    ax.axvspan(-2, 0, color=SKY, alpha=0.13, lw=0)
    ax.axhline(0, color=EDGE, lw=1, zorder=0)
    ax.axvline(0, color=SOFT, lw=1.2, zorder=0)
    for branch in range(2):
        ax.plot(printed[:, branch].real, printed[:, branch].imag, color=MODEL, lw=2.2, ls=(0, (4, 2.5)), zorder=2,
                label="as the lecture prints it" if branch == 0 else None)  # fmt: skip
        ax.plot(true[:, branch].real, true[:, branch].imag, color=DATA, lw=3, zorder=3,
                label="true" if branch == 0 else None)  # fmt: skip
    ax.plot(dots.real.ravel(), dots.imag.ravel(), "o", color=INK, ms=7, zorder=4, label="measured Jacobians")
    ax.annotate(r"$\gamma=1$: both at $-\frac{1}{2}$", (-0.5, 0), xytext=(-1.22, 0.27), fontsize=15,
                arrowprops={"arrowstyle": "-|>", "color": SOFT, "lw": 1.5})  # fmt: skip
    ax.text(0.03, 0.5, r"$\gamma=0$", fontsize=14, va="center")
    for z in true[-1]:
        ax.text(z.real, -0.075, f"{z.real:.3f}", fontsize=13, ha="center", color=DATA)
    ax.set(
        xlim=(-1.45, 0.25), ylim=(-0.65, 0.85), xlabel="Re", ylabel="Im", xticks=[-1, -0.5, 0], yticks=[-0.5, 0, 0.5]
    )
    ax.set_title(r"eigenvalues, $\gamma$ from 0 to 1.5")
    ax.legend(loc="upper left", fontsize=13, labelspacing=0.3)


def _parts(ax: Axes, gammas: Array, true: Any, printed: Any, probes: Array, dots: Any) -> None:
    for values, colour, look in ((printed, MODEL, (0, (4, 2.5))), (true, DATA, "-")):
        for branch in range(2):
            ax.plot(gammas, values[:, branch].real, color=colour, ls=look, lw=2.8)
            ax.plot(gammas, np.abs(values[:, branch].imag), color=colour, ls=look, lw=1.6, alpha=0.8)
    ax.plot(probes, dots.real[:, 0], "o", color=INK, ms=7, zorder=5, clip_on=False)
    ax.plot(probes, dots.real[:, 1], "o", color=INK, ms=7, zorder=5, clip_on=False)
    ax.plot(probes, np.abs(dots.imag[:, 0]), "o", color=INK, ms=7, zorder=5, clip_on=False)
    ax.axvline(1, color=EDGE, lw=1.4, zorder=0)
    ax.axhline(0, color=EDGE, lw=1, zorder=0)
    ax.text(0.07, 0.53, r"$|\mathrm{Im}\,\lambda|$", fontsize=17, color=INK)
    ax.text(0.12, -0.28, r"$\mathrm{Re}\,\lambda$", fontsize=17, color=INK)
    ax.text(0.985, -1.32, "critical", fontsize=14, color=SOFT, ha="right")
    ax.set(xlim=(0, 1.5), ylim=(-1.4, 0.65), xlabel=r"$\gamma$", xticks=[0, 0.5, 1, 1.5], yticks=[-1, -0.5, 0, 0.5])
    ax.set_title(r"real and imaginary parts against $\gamma$")
