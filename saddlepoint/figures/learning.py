"""Chapter 1 of the gallery, continued: a GAN on the line that is watched while it learns, and one on digits."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.special import ndtri

from saddlepoint.figures import style
from saddlepoint.figures.picture import Animation, Picture
from saddlepoint.figures.style import DATA, EDGE, INK, JUDGE, MODEL, SOFT
from saddlepoint.theory.distributions import Grid
from saddlepoint.theory.divergences import jsd, tv
from saddlepoint.theory.optimal import optimal_discriminator
from saddlepoint.theory.transport import w1

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Array = style.Array
X = np.linspace(-5, 7, 361)
P = np.exp(-(X**2) / 2) / math.sqrt(2 * math.pi)
DIGITS = 1797
NOISE = np.asarray(ndtri((np.arange(400) + 0.5) / 400))  # one z per equal slice of probability


# ---- the four panels
def _training(seed: int = 0) -> Any:
    """Normal noise of one dimension, small tanh networks; the generator starts narrow and away from the data."""
    import torch

    from saddlepoint.experiments import training

    made = training(
        "tiny", "gaussian-1d", latent=1, hidden=(16, 16), d_hidden=(32, 32), activation="tanh", batch=128, seed=seed,
        g={"lr": 5e-4, "betas": (0.5, 0.9)}, d={"lr": 2e-3, "betas": (0.5, 0.9), "steps": 2}, **{"penalty.r1": 0.05},
    )  # fmt: skip
    generator: Any = made.game.generator
    z = torch.from_numpy(NOISE).float()[:, None]
    with torch.no_grad():
        out = generator(z)[:, 0]
        turn = torch.sign((z[:, 0] * out).mean()) * 0.5 / out.std()
        generator.layers[-1].weight.mul_(turn)
        generator.layers[-1].bias.fill_(2.5)
    return made


def _look(made: Any) -> dict[str, Any]:
    """q from the map itself, d, and d* for that q."""
    import torch

    game = made.game
    with torch.no_grad():
        out = game.generator(torch.from_numpy(NOISE).float()[:, None])[:, 0].double().numpy()
        logit = game.discriminator(torch.from_numpy(X).float()[:, None]).double().numpy()
    q = _pushed(out) + 1e-12
    p, model = Grid(X, P, normalise=True), Grid(X, q, normalise=True)
    best = np.asarray(optimal_discriminator(p, model))
    d = 1 / (1 + np.exp(-logit))
    bulk = p.density + model.density > 0.05
    return {
        "round": made.counters.step, "map": out, "q": model.density, "d": d, "optimal_d": best,
        "jsd": jsd(p, model), "w1": w1(p, model), "tv": tv(p, model),
        "largest_distance_to_optimal_d": float(np.abs(d - best)[bulk].max()),
    }  # fmt: skip


def _pushed(out: Array, width: float = 0.12) -> Array:
    """Density of the generator's points, one per equal slice of noise, blurred by `width`."""
    return np.asarray(
        np.exp(-(((X[:, None] - out) / width) ** 2) / 2).sum(1) / (len(out) * width * math.sqrt(2 * math.pi))
    )


@style.in_style
def learning_process(*, quick: bool = False) -> Picture:
    """Densities, discriminator, and the map from noise to data at four moments of one training."""
    rounds = 60 if quick else 600
    at = sorted({round(rounds * (i / (15 if quick else 47)) ** 2) for i in range(16 if quick else 48)})
    made, seen = _training(), []
    for number in range(rounds + 1):
        if number in at:
            seen.append(_look(made))
        if number < rounds:
            made.play()
    chosen = [seen[i] for i in _moments(seen)]
    figure = style.slide()
    grid = figure.add_gridspec(3, 4, height_ratios=[2.0, 1.0, 1.05])
    for column, (look, letter) in enumerate(zip(chosen, "abcd", strict=True)):
        top, low = figure.add_subplot(grid[0, column]), figure.add_subplot(grid[1, column])
        _densities(top, look)
        _map(low, look["map"])
        top.set_title(f"({letter})  round {look['round']:,}")
        if column == 0:
            top.text(-1.9, 0.33, "$p$", color=DATA, fontsize=18)
            top.text(2.6, 0.86, "$q$", color=MODEL, fontsize=18)
            top.text(-3.8, 0.68, "$d$", color=JUDGE, fontsize=18)
            top.text(-3.8, 1.03, "$d^*$", color=SOFT, fontsize=18)
    ax = figure.add_subplot(grid[2, :])
    steps = np.array([look["round"] for look in seen])
    jsds = np.array([look["jsd"] for look in seen])
    ax.plot(steps, jsds, color=INK, lw=2.4)
    for look, letter in zip(chosen, "abcd", strict=True):
        ax.plot(look["round"], look["jsd"], "o", color=MODEL, ms=9, zorder=5, clip_on=False)
        ax.annotate(
            letter, (look["round"], look["jsd"]), xytext=(7, 7), textcoords="offset points", fontsize=15, color=MODEL
        )
    ax.set(xlim=(-0.01 * rounds, rounds * 1.02), ylim=(0, 0.78), yticks=[0, 0.3, 0.6], xlabel="round")
    ax.set_ylabel(r"$\mathrm{JSD}(p\,\|\,q)$")
    first, last = seen[0], seen[-1]
    kept = ("round", "q", "d", "optimal_d", "jsd", "w1", "tv", "largest_distance_to_optimal_d")
    return Picture(
        figure,
        {
            "x": X,
            "p": P,
            "moments": [{k: look[k] for k in kept} for look in chosen],
            "round": steps,
            "jsd": jsds,
            "w1": [look["w1"] for look in seen],
            "z": NOISE[::16],
            "map": [look["map"][::16] for look in chosen],
        },
        r"\min_{\theta} \max_{\phi} V(\phi,\theta), \quad q \to p, \quad d \to \frac{p}{p+q} \to \frac{1}{2}",
        "The discriminator (green) learns where data (blue) and samples (orange) differ; the generator moves its "
        "samples to where the "
        "discriminator is higher, by bending its map from the noise $z$ to $x$ (lines below). In the end $q=p$ and "
        "$d=1/2$.",
        f"A real training of two small networks through the engine, {rounds:,} rounds: JSD from {first['jsd']:.3f} to "
        f"{last['jsd']:.4f}, W1 from "
        f"{first['w1']:.3f} to {last['w1']:.3f}; at the end $d$ lies between "
        f"{last['d'][(X > -2) & (X < 2)].min():.2f} and "
        f"{last['d'][(X > -2) & (X < 2)].max():.2f} for |x| < 2, at most {last['largest_distance_to_optimal_d']:.2f} "
        f"from "
        "$p/(p+q)$ (dashed) where there is mass.",
        animation=_film(seen),
    )


def _moments(seen: list[dict[str, Any]]) -> list[int]:
    """The start; when the discriminator has found its answer; half way; the end."""
    jsds = np.array([look["jsd"] for look in seen])
    half = int(np.argmax(jsds < 0.5 * jsds[0])) or len(seen) // 2
    return [0, max(1, half // 2), max(half, 2), len(seen) - 1]


def _densities(ax: Axes, look: dict[str, Any]) -> None:
    style.density(ax, X, P, DATA)
    style.density(ax, X, look["q"], MODEL)
    ax.plot(X, look["optimal_d"], color=SOFT, lw=1.5, ls=(0, (4, 2.5)))
    ax.plot(X, look["d"], color=JUDGE, lw=2.6)
    ax.set(xlim=(-4, 5), ylim=(0, 1.08), yticks=[0, 0.5, 1], xticks=[])


def _map(ax: Axes, out: Array) -> None:
    ax.plot(np.stack([NOISE[8::16], out[8::16]]), [[0], [1]], color=SOFT, lw=1.2)
    ax.plot(out[8::16], np.ones(len(out[8::16])), "^", color=MODEL, ms=5, zorder=3)
    for level, name in ((0, "$z$"), (1, "$x$")):
        ax.axhline(level, color=EDGE, lw=1.4, zorder=0)
        ax.text(-4.1, level, name, fontsize=15, va="center", ha="right")
    ax.set(xlim=(-4, 5), ylim=(-0.15, 1.15), xticks=[], yticks=[])
    ax.spines[["left", "bottom"]].set_visible(False)


def _film(seen: list[dict[str, Any]]) -> Animation:
    figure = style.slide(9.6, 6.0)
    top, low = figure.subplots(2, 1, height_ratios=[2.3, 1])

    def draw(i: int) -> None:
        top.clear()
        low.clear()
        _densities(top, seen[i])
        _map(low, seen[i]["map"])
        top.set_title(f"round {seen[i]['round']:,}", loc="right")
        top.text(-3.8, 1.1, "data", color=DATA, fontsize=15)
        top.text(-2.9, 1.1, "samples", color=MODEL, fontsize=15)
        top.text(-1.5, 1.1, "discriminator", color=JUDGE, fontsize=15)

    return Animation(figure, draw, len(seen), fps=8)


# ---- digits
@style.in_style
def results(*, quick: bool = False) -> Picture:
    """Samples of the 2014 GAN on digits of 8 x 8 pixels through training, with the nearest training images."""
    import torch

    from saddlepoint import api, recipes
    from saddlepoint.engine import Training
    from saddlepoint.systems import build

    recipe = api.prepared(recipes.recipe("gan", "tiny", resolution=8, seed=0), "digits")
    source = api._source(recipe)
    game = build(recipe)
    made = Training(game, recipe, source)
    assert source is not None
    real = source(0, DIGITS, 0, DIGITS)["image"]  # each once: all that there are
    game.prepare(real[:1000])
    rounds = 30 if quick else 3000
    at = [0, rounds // 8, rounds // 3, rounds]
    shown: list[tuple[int, Array]] = []
    for number in range(rounds + 1):
        if number in at:
            shown.append((number, _images(made.average.game().sample(32, seed=1))))
        if number < rounds:
            made.play()
    final = torch.from_numpy(shown[-1][1]).flatten(1)
    data = torch.from_numpy(_images(real)).flatten(1)
    gaps = torch.cdist(final, data).numpy()
    least, nearest = gaps.min(1), gaps.argmin(1)
    among = torch.cdist(data[:200], data)
    among[torch.arange(200), torch.arange(200)] = float("inf")
    numbers = {
        "rounds": at, "images_seen": made.counters.clock, "samples_to_nearest_real": least,
        "mean_distance_to_nearest_real": float(least.mean()),
        "mean_distance_between_real_neighbours": float(among.amin(1).mean()),
        "parameters": {p.name: sum(w.numel() for w in p.parameters) for p in game.players},
        "nearest": nearest,
    }  # fmt: skip
    figure = style.slide()
    axes = figure.subplots(1, 5, width_ratios=[37, 37, 37, 37, 10])
    for ax, (number, images) in zip(axes[:4], shown, strict=True):
        _sheet(ax, images, 4)
        ax.set_title(f"round {number:,}")
    _sheet(axes[4], _images(real)[nearest[3::4]], 1, DATA)
    axes[4].set_title("nearest", fontsize=14, color=DATA)
    return Picture(
        figure,
        numbers,
        r"x=g(z;\theta), \quad z \sim p(z)",
        "Samples of the generator for the same noise as it learns. The last column shows the training image nearest "
        "to the sample left of "
        "it: the generator makes digits of its own, it has not memorised some.",
        f"The 2014 GAN with {sum(numbers['parameters'].values()):,} weights on scikit-learn's digits "
        f"({made.counters.clock:,} images seen, "
        f"{rounds:,} rounds). A sample's nearest real image is {numbers['mean_distance_to_nearest_real']:.2f} away on "
        f"average (pixels from 0 to 1), a real "
        f"one's {numbers['mean_distance_between_real_neighbours']:.2f}. No score is given: "
        "the Parzen estimates that the paper prints say little about samples.",
    )


def _images(x: Any) -> Array:
    """[N, 1, H, W] in [-1, 1] to [N, H, W] in [0, 1]."""
    return np.asarray(((x[:, 0] + 1) / 2).clamp(0, 1).cpu().numpy())


def _sheet(ax: Axes, images: Array, columns: int, colour: str = EDGE) -> None:
    rows = len(images) // columns
    high, wide = images.shape[1:]
    sheet = np.ones((rows * (high + 1) + 1, columns * (wide + 1) + 1)) * 0.55
    for i, image in enumerate(images[: rows * columns]):
        y, x = divmod(i, columns)
        sheet[y * (high + 1) + 1 : (y + 1) * (high + 1), x * (wide + 1) + 1 : (x + 1) * (wide + 1)] = image
    ax.imshow(sheet, cmap="gray", vmin=0, vmax=1, interpolation="nearest")
    ax.set(xticks=[], yticks=[])
    for spine in ax.spines.values():
        spine.set(visible=True, color=colour, lw=2)
