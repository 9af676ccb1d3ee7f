"""Chapter 4 of the gallery, first part: fields, discrete steps and flows of linear games, with their eigenvalues."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from saddlepoint import recipes
from saddlepoint.figures import style
from saddlepoint.figures.picture import Animation, Picture
from saddlepoint.figures.style import DATA, EDGE, INK, JUDGE, MODEL, SKY, SOFT

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from saddlepoint.game import Game

Array = style.Array
SPIRAL = (0.0, -1.0, 1.0, -0.7)  # v = (-psi, theta - 0.7 psi), row by row


def linear_game(jacobian: tuple[float, ...], start: tuple[float, float] = (1.0, 1.0)) -> Game:
    """The quadratic game whose field is v = J w."""
    from saddlepoint.systems import build

    return build(recipes.recipe("quadratic", jacobian=jacobian, start=start))


def played(system: str, rounds: int, **settings: Any) -> Array:
    """Weights before the first round and after each, [rounds + 1, 2], through the engine."""
    from saddlepoint.engine import Training
    from saddlepoint.systems import build
    from saddlepoint.theory.flows import orbit

    recipe = recipes.recipe(system, **settings)
    return orbit(Training(build(recipe), recipe), rounds).weights


def complex_text(z: complex, digits: int = 3) -> str:
    """-0.15 + 0.477 i, for mathtext."""
    if abs(z.imag) < 5e-10:
        return f"{z.real:.{digits}g}"
    real = f"{z.real:.{digits}g}" if abs(z.real) > 5e-10 else ""
    size = f"{abs(z.imag):.{digits}g}"
    return rf"{real}\pm {'' if size == '1' else size + chr(92) + ','}i"


# ---- three fields
FIELDS = (
    (r"$-\nabla L,\ \ L=\frac{1}{2}\|v\|^2$", "conservative", (-1.0, 0.0, 0.0, -1.0), DATA),
    (r"$v=(-\psi,\ \theta)$", "non-conservative", (0.0, -1.0, 1.0, 0.0), MODEL),
    (r"$v-0.6\,\nabla L$", "combined", (-0.6, -1.0, 1.0, -0.6), JUDGE),
)


@style.in_style
def vector_fields(*, quick: bool = False) -> Picture:
    """The gradient field of L = |v|^2/2, the rotation v, and their combination, each with a trajectory."""
    from saddlepoint.theory.fields import jacobian, vector_field
    from saddlepoint.theory.flows import flow
    from saddlepoint.theory.spectra import split

    figure = style.slide()
    axes = figure.subplots(1, 3)
    found: list[dict[str, Any]] = []
    paths = []
    rotation = linear_game(FIELDS[1][2])
    J_v = jacobian(rotation, rotation.round()).numpy()
    for ax, (title, kind, matrix, colour) in zip(axes, FIELDS, strict=True):
        game = linear_game(matrix)
        J = jacobian(game, game.round()).numpy()
        path = flow(game, start=(1.5, 0.9), time=2 * math.pi, points=61 if quick else 241).weights
        points = style.lattice(2, 8 if quick else 10)
        style.arrows(ax, points, points @ J.T)
        ax.plot(*path.T, color=colour, lw=3)
        ax.plot(*path[0], "o", color=INK, ms=8)
        style.plane(ax, 2, ticks=(-2, 0, 2))
        ax.set_title(f"{title}\n{kind}", linespacing=1.6)
        values = np.linalg.eigvals(J).astype(complex)
        ax.text(0.5, -0.22, rf"$\lambda={complex_text(values[0])}$", transform=ax.transAxes, ha="center", fontsize=18)
        share = split(J).rotation
        ax.text(0.5, -0.34, f"rotation share {share:.3f}", transform=ax.transAxes, ha="center", fontsize=14, color=SOFT)
        at = vector_field(game, game.round()).flat.numpy()
        found.append({"kind": kind, "jacobian": J, "eigenvalues": values, "curl": J[1, 0] - J[0, 1],
                      "rotation_share": share, "v_at_1_1": at, "end_of_path": path[-1]})  # fmt: skip
        paths.append(path)
    energy = -J_v.T @ J_v  # -grad of 1/2 |v|^2 is -J^T v = -J^T J w
    numbers = {"fields": found, "minus_gradient_of_half_v_squared": energy, "combined": J_v + 0.6 * energy}
    return Picture(
        figure,
        numbers,
        r"v=(-\nabla_{\theta} L,\nabla_{\phi} L), \quad v \text{ is conservative } \iff v' \text{ is symmetric } \iff "
        r"\frac{\partial v_2}{\partial \theta}-\frac{\partial v_1}{\partial \psi}=0",
        "A gradient field leads downhill and comes to rest. The field that two players follow is no gradient field: "
        "it may "
        r"circle for ever. Consensus optimisation adds $-\gamma \nabla \frac{1}{2} \Vert v \Vert^2$, which bends the "
        r"circle into a spiral.",
        f"Curl {found[0]['curl']:g}, {found[1]['curl']:g}, {found[2]['curl']:g}; share of rotation in the Jacobian "
        f"{', '.join(format(f['rotation_share'], '.3f') for f in found)}. After one turn the rotation is back where "
        f"it began, at "
        f"distance {math.hypot(*paths[1][-1]) / math.hypot(*paths[1][0]):.9f} of its first; the spiral has shrunk to "
        f"{math.hypot(*paths[2][-1]) / math.hypot(*paths[2][0]):.5f} (exp(-0.6·2π) = {math.exp(-1.2 * math.pi):.5f}).",
        r"The lecture sets two animations side by side as conservative and non-conservative. The left one's own title "
        r"says "
        r"$v-0.6 \nabla L$ (eigenvalues $-0.6 \pm i$, a spiral): it is the combination, here on the right; the "
        r"conservative "
        "field is on the left.",
        animation=_walking(paths, 24 if quick else 40),
    )


def _walking(paths: list[Array], frames: int) -> Animation:
    figure = style.slide(11, 4.6)
    axes = figure.subplots(1, 3)
    lines = []
    for ax, (title, kind, matrix, colour) in zip(axes, FIELDS, strict=True):
        points = style.lattice(2)
        style.arrows(ax, points, points @ np.array(matrix).reshape(2, 2).T)
        style.plane(ax, 2, ticks=(-2, 0, 2))
        ax.set_title(f"{title}\n{kind}", fontsize=15, linespacing=1.6)
        (line,) = ax.plot([], [], color=colour, lw=3)
        (dot,) = ax.plot([], [], "o", color=INK, ms=9)
        lines.append((line, dot))

    def draw(i: int) -> None:
        for path, (line, dot) in zip(paths, lines, strict=True):
            end = max(1, round((len(path) - 1) * i / (frames - 1)))
            line.set_data(*path[: end + 1].T)
            dot.set_data(path[end : end + 1, 0], path[end : end + 1, 1])

    return Animation(figure, draw, frames)


# ---- discrete steps
@style.in_style
def discrete_steps(*, quick: bool = False) -> Picture:
    """v = (-psi, theta - 0.7 psi) with steps of 1 and of 0.5: trajectories and where the eigenvalues lie."""
    from saddlepoint.theory.fields import jacobian
    from saddlepoint.theory.spectra import step_bound

    game = linear_game(SPIRAL)
    J = jacobian(game, game.round()).numpy()
    values = np.linalg.eigvals(J).astype(complex)
    values = values[np.argsort(-values.imag)]
    figure = style.slide()
    grid = figure.add_gridspec(2, 3, width_ratios=[1, 1, 1.1])
    runs: dict[str, Any] = {}
    for row, (h, preset, rounds, colour) in enumerate(((1.0, "one", 13, MODEL), (0.5, "half", 60, JUDGE))):
        path = played("quadratic", rounds, preset=preset, start=(0.35, 0.0) if h == 1 else (1.6, 0.0))
        radius = float(np.abs(1 + h * values).max())
        runs[f"{h:g}"] = {
            "path": path, "multipliers": 1 + h * values, "radius": radius, "squared_radius": radius**2,
            "growth_per_round": float((np.linalg.norm(path[-1]) / np.linalg.norm(path[0])) ** (1 / rounds)),
            "rounds_per_turn": float(2 * math.pi / abs(np.angle(1 + h * values[0]))),
        }  # fmt: skip
        _steps(figure.add_subplot(grid[row, 0]), J, path, h, colour)
        _unit_circle(figure.add_subplot(grid[row, 1]), 1 + h * values, h, radius, colour)
    _discs(figure.add_subplot(grid[:, 2]), values)
    numbers = {"jacobian": J, "eigenvalues": values, "largest_stable_step": step_bound(values), "steps": runs}
    return Picture(
        figure,
        numbers,
        r"F_h(w)=w+h v(w), \quad |1+h\lambda|<1 \iff h<\frac{2|\Re \lambda|}{|\lambda|^2}",
        r"Simultaneous steps converge if and only if every eigenvalue of $v'$ lies in the disc of centre $-1/h$ and "
        r"radius $1/h$: "
        "the larger the imaginary part, the smaller the step must be.",
        f"$|1+h\\lambda|^2$ is {runs['1']['squared_radius']:.4f} at h = 1 (diverges, "
        f"{runs['1']['rounds_per_turn']:.2f} steps a turn) and "
        f"{runs['0.5']['squared_radius']:.4f} at h = 0.5 (converges); the largest stable step is "
        f"{numbers['largest_stable_step']:.6f}.",
        "The lecture says that eigenvalues fit into the disc if and only if h is small enough. That holds where all "
        "real parts are "
        "negative; with a real part of 0 or more no step is small enough.",
    )


def _steps(ax: Axes, J: Array, path: Array, h: float, colour: str) -> None:
    points = style.lattice(2)
    style.arrows(ax, points, points @ J.T)
    ax.plot(*path.T, "-", color=colour, lw=1.6)
    ax.plot(*path.T, "o", color=colour, ms=5.5)
    ax.plot(*path[0], "o", color=INK, ms=8, zorder=6)
    style.plane(ax, 2, ticks=(-2, 0, 2))
    ax.set_title(f"$h={h:g}$: {'diverges' if h == 1 else 'converges'}", color=colour)


def _unit_circle(ax: Axes, multipliers: Any, h: float, radius: float, colour: str) -> None:
    from matplotlib.patches import Circle

    ax.add_patch(Circle((0, 0), 1, fc=SKY, alpha=0.18, ec="none"))
    ax.add_patch(Circle((0, 0), 1, fc="none", ec=SOFT, lw=1.4))
    style.plane(ax, 1.5, x="Re", y="Im", ticks=(-1, 0, 1))
    ax.plot(multipliers.real, multipliers.imag, "o", color=colour, ms=11, zorder=5)
    ax.set_title(rf"$|1+h\lambda|={radius:.3f}$", color=colour)


def _discs(ax: Axes, values: Any) -> None:
    from matplotlib.patches import Circle

    for h, colour in ((0.5, JUDGE), (1.0, MODEL)):
        ax.add_patch(Circle((-1 / h, 0), 1 / h, fc=colour, alpha=0.13, ec="none"))
        ax.add_patch(Circle((-1 / h, 0), 1 / h, fc="none", ec=colour, lw=2))
    ax.axhline(0, color=EDGE, lw=1, zorder=0)
    ax.axvline(0, color=SOFT, lw=1.2, zorder=0)
    ax.plot(values.real, values.imag, "o", color=INK, ms=11, zorder=5)
    ax.text(values[0].real - 0.2, values[0].imag + 0.14, r"$\lambda$", fontsize=20, ha="right")
    ax.text(values[0].real - 0.2, -values[0].imag - 0.42, r"$\bar\lambda$", fontsize=20, ha="right")
    ax.text(-1.0, 0.12, "$h=1$", color=MODEL, fontsize=17, ha="center")
    ax.text(-2.9, 0.12, "$h=0.5$", color=JUDGE, fontsize=17, ha="center")
    ax.set(
        xlim=(-4.3, 0.9),
        ylim=(-2.4, 2.4),
        aspect="equal",
        xticks=[-4, -2, 0],
        yticks=[-2, 0, 2],
        xlabel="Re",
        ylabel="Im",
    )
    ax.set_title("discs that $\\lambda$ must lie in")


# ---- continuous time
@style.in_style
def continuous_flow(*, quick: bool = False) -> Picture:
    """The same field with its damping turned round: one flow diverges, the other converges."""
    from saddlepoint.theory.fields import jacobian
    from saddlepoint.theory.flows import flow

    figure = style.slide()
    grid = figure.add_gridspec(2, 3, width_ratios=[1, 1, 0.85], height_ratios=[2.1, 1])
    plane = figure.add_subplot(grid[0, 2])
    plane.axvspan(-2, 0, color=SKY, alpha=0.18, lw=0)
    style.plane(plane, 1.5, x="Re", y="Im", ticks=(-1, 0, 1))
    plane.set_title(r"eigenvalues of $v'$")
    plane.text(-0.75, -1.36, "converges", ha="center", fontsize=14, color=SOFT)
    radii = figure.add_subplot(grid[1, :])
    cases: dict[str, Any] = {}
    for column, (name, damping, colour) in enumerate((("diverges", -0.3, MODEL), ("converges", 0.7, JUDGE))):
        game = linear_game((0.0, -1.0, 1.0, -damping))
        J = jacobian(game, game.round()).numpy()
        values = np.linalg.eigvals(J).astype(complex)
        time = 12.0
        found = flow(game, start=(0.3, 0.0) if damping < 0 else (1.8, 0.0), time=time, points=121 if quick else 481)
        ax = figure.add_subplot(grid[0, column])
        points = style.lattice(2)
        style.arrows(ax, points, points @ J.T)
        ax.plot(*found.weights.T, color=colour, lw=3)
        ax.plot(*found.weights[0], "o", color=INK, ms=8)
        style.plane(ax, 2, ticks=(-2, 0, 2))
        ax.set_title(f"{name}: " + rf"$\lambda={complex_text(values[0])}$", color=colour)
        plane.plot(values.real, values.imag, "o", color=colour, ms=11, zorder=5)
        turn = 2 * math.pi / abs(values[0].imag)
        later = flow(game, start=(1.0, 0.0), time=turn, points=3).distances()
        rate = math.log(later[-1]) / turn
        cases[name] = {
            "jacobian": J,
            "eigenvalues": values,
            "times": found.times,
            "distances": found.distances(),
            "rate_over_a_turn": rate,
        }
        radii.semilogy(found.times, found.distances(), color=colour)
        radii.semilogy(
            found.times,
            found.distances()[0] * np.exp(values[0].real * found.times),
            color=colour,
            lw=1.3,
            ls=(0, (4, 3)),
        )
    radii.set(
        xlim=(0, 12), xlabel="time $t$", title=r"distance to the equilibrium (dashed: $e^{\,\mathrm{Re}(\lambda)\,t}$)"
    )
    return Picture(
        figure,
        {"cases": cases},
        r"\frac{d w}{d t}=v(w) \text{ converges near } w^{*} \iff \Re \lambda<0 \text{ for every eigenvalue } \lambda "
        r"\text{ of } v'(w^{*})",
        "In continuous time only the real parts count; the imaginary parts make the path turn. What a step size can "
        "spoil is "
        "seen in discrete time only.",
        f"Over one whole turn the flows grow at the rates {cases['diverges']['rate_over_a_turn']:.9f} and "
        f"{cases['converges']['rate_over_a_turn']:.9f}; the "
        f"real parts are {cases['diverges']['eigenvalues'][0].real:.9f} and "
        f"{cases['converges']['eigenvalues'][0].real:.9f}.",
    )
