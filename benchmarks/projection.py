"""How far a trained StyleGAN can re-generate pictures: its own, others of its data, and pictures of another kind.

    python benchmarks/projection.py RUN [--steps 400] [--seeds 6] [--images 6] [--outside mnist-5k:test] [--only-draw]

recovery   generated images are projected to W, and the true w is known: |w - w*| over the steps, plainly and as the
           images see it. Once with the noise images left as they are and small steps, once as the command does it
held out   images of the test split and of another set are projected to W, to W+, to W+ without noise images, and to W+
           of a generator with fresh weights, which has learned nothing. Distances over the steps, and beside them those
           of random samples and of the nearest training image

One thread, two to four CPU-minutes for the tiny preset at 32 pixels. --only-draw draws the curves from the results.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from saddlepoint.runs import write_bytes

RESULTS = Path(__file__).parent / "results" / "projection.json"
WAYS = {  # name -> space, noise images too, fresh weights
    "W": ("w", True, False),
    "W+": ("w+", True, False),
    "W+, noise images fixed": ("w+", False, False),
    "W+, noise images fixed, untrained": ("w+", False, True),
}
POINTS = 50  # of a curve in the results


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", nargs="?", type=Path)
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--seeds", type=int, default=6, help="generated images, the first of the seeds 1, 2, ...")
    parser.add_argument("--images", type=int, default=6, help="of each set, the first of each class in turn")
    parser.add_argument("--outside", default="mnist-5k:test")
    parser.add_argument("--rate", type=float, default=0.02, help="of the recovery with small steps")
    parser.add_argument("--out", type=Path, default=Path("docs/images"))
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--only-draw", action="store_true")
    chosen = parser.parse_args()
    if chosen.only_draw:
        found = json.loads(chosen.results.read_text())
    elif chosen.run is None:
        parser.error("name a run, or --only-draw")
    else:
        found = measured(chosen)
        chosen.results.parent.mkdir(parents=True, exist_ok=True)
        write_bytes(chosen.results, (json.dumps(found, indent=None, separators=(",", ":")) + "\n").encode())
    path = chosen.out / "projection.png"
    draw(found).savefig(path, dpi=80, metadata={"Software": None})
    print(path)


def measured(chosen: argparse.Namespace) -> dict[str, Any]:
    import saddlepoint as sp
    from saddlepoint.editing import open_source, space
    from saddlepoint.pictures import grid, png
    from saddlepoint.systems import build

    torch.set_num_threads(1)
    began = time.process_time()
    run = sp.load(chosen.run)
    at = open_source(run).space
    torch.manual_seed(0)
    fresh = space(build(run.recipe).eval())
    found: dict[str, Any] = {"run": at.system, "kimg": run.clock / 1000, "data": run.recipe.data, "steps": chosen.steps}
    found["recovery"] = recovery(at, chosen.seeds, chosen.steps, chosen.rate)
    sets = {name: real(name, run.recipe, chosen.images) for name in (f"{run.recipe.data}:test", chosen.outside)}
    targets = torch.cat(list(sets.values()))
    found["sets"] = list(sets)
    found["references"] = references(at, run.recipe, targets, len(sets))
    found["held_out"], shown = {}, [targets]
    for name, (where, noise, untrained) in WAYS.items():
        found["held_out"][name], images = held_out(
            fresh if untrained else at, targets, where, noise, chosen.steps, len(sets)
        )
        shown.append(images)
        print(f"{name}: {found['held_out'][name]['final']}", flush=True)
    path = chosen.out / "projection-images.png"
    write_bytes(path, png(grid(torch.cat(shown), len(targets), cell=48)))
    print(path)
    found["cpu_seconds"] = round(time.process_time() - began, 1)
    return found


# ---- generated images
def recovery(at: Any, seeds: int, steps: int, rate: float) -> dict[str, Any]:
    """|w - w*| over the steps, in deviations of w, and in those of what the images make of w."""
    from saddlepoint.editing import project

    styles = at.styles(at.draw([(seed, 0) for seed in range(1, 1 + seeds)]))
    targets, known = at.images(styles), styles[:, 0]
    drawn = at.styles(at.game.draw_latents(4000, 0))[:, 0]
    metric = seen(at, drawn[:16])  # [size, size]
    away = drawn - drawn.mean(0)
    usual = (away @ metric * away).sum(1).mean().sqrt()
    found: dict[str, Any] = {}
    for name, options in (("small steps", {"rate": rate, "noise": False}), ("default", {})):
        watched: list[Tensor] = []

        def watch(step: int, w: Tensor, watched: list[Tensor] = watched) -> None:
            left = w[:, 0] - known
            watched.append((left @ metric * left).sum(1).clamp_min(0).sqrt() / usual)

        start = time.process_time()
        made = project(at, targets, "w", steps=steps, known=known, samples=4000, watch=watch, **options)  # type: ignore[arg-type]
        assert made.errors is not None
        found[name] = {
            "options": options, "distance": made.distance, "cpu_seconds": round(time.process_time() - start, 1),
            "w": curves(made.errors), "seen": curves(torch.stack(watched)), "first": rounded(made.distances[0]),
            "final": rounded(made.final),
        }  # fmt: skip
        ends = found[name]
        print(f"{name}: |w - w*| {mean_of(ends['w'], 0):.3g} to {mean_of(ends['w'], -1):.3g} deviations, as the images "
              f"see it {mean_of(ends['seen'], 0):.3g} to {mean_of(ends['seen'], -1):.3g}", flush=True)  # fmt: skip
    variance = torch.linalg.eigvals(metric.double() @ torch.cov(drawn.t().double())).real.sort(descending=True).values
    found["shares"] = rounded((variance.cumsum(0) / variance.sum())[:16])
    return found


@torch.no_grad()
def seen(at: Any, ws: Tensor, step: float = 1e-2) -> Tensor:
    """E J^T J [size, size], J the Jacobian of the images by w, by differences: the metric in which images see w."""
    total = ws.new_zeros(at.size, at.size)
    moves = torch.cat([torch.zeros(1, at.size), step * torch.eye(at.size)])
    for w in ws:
        y = at.synthesise((w + moves)[:, None].expand(-1, at.layers, -1)).flatten(1)
        slope = (y[1:] - y[:1]) / step  # [size, pixels]
        total += slope @ slope.t() / len(ws)
    return total


# ---- real images
def real(spec: str, recipe: Any, count: int) -> Tensor:
    """Images [count, C, H, W], one of each class in turn."""
    from saddlepoint.data import open_set

    found = open_set(spec, resolution=recipe.resolution, channels=recipe.channels)
    assert found.labels is not None
    classes = sorted({int(y) for y in found.labels[:2000]})
    places = [[i for i, y in enumerate(found.labels[:2000]) if y == c] for c in classes]
    order = [places[i % len(classes)][i // len(classes)] for i in range(count)]
    return torch.from_numpy(found.images[order].copy()).float() / 127.5 - 1


def rmse(x: Tensor, y: Tensor) -> Tensor:
    """Root of the mean squared difference as a share of the range of values, [n]."""
    return (x.clamp(-1, 1) - y).square().mean((1, 2, 3)).sqrt() / 2


class Watched:
    """The command's distance for these images, which also keeps the pixels' own."""

    def __init__(self, channels: int) -> None:
        from saddlepoint.editing.projection import default_distance
        from saddlepoint.metrics.perceptual import perceptual

        self.measure = perceptual(default_distance(channels))
        self.name = str(self.measure.identity)
        self.pixels: list[Tensor] = []

    def __call__(self, x: Tensor, y: Tensor) -> Tensor:
        self.pixels.append(rmse(x.detach(), y))
        made: Tensor = self.measure(x, y)
        return made


def held_out(at: Any, targets: Tensor, where: str, noise: bool, steps: int, sets: int) -> tuple[dict[str, Any], Tensor]:
    """Distances of each set over the steps, and the images found."""
    from saddlepoint.editing import project

    distance, start = Watched(targets.shape[1]), time.process_time()
    made = project(at, targets, where, steps=steps, distance=distance, noise=noise, samples=4000)
    numbers = made.w[0].numel() + sum(x[0].numel() for x in made.noise.values())
    pixels, seconds = torch.stack(distance.pixels), time.process_time() - start
    return {
        "distance": made.distance, "numbers": numbers, "final": split(made.final, sets),
        "pixel_final": split(pixels[-1], sets), "cpu_seconds_each": round(seconds / len(targets), 2),
        "curve": [curves(x) for x in made.distances.chunk(sets, 1)],
        "pixel_curve": [curves(x) for x in pixels[:-1].chunk(sets, 1)],
    }, made.images  # fmt: skip


def references(at: Any, recipe: Any, targets: Tensor, sets: int, count: int = 256) -> dict[str, Any]:
    """What random samples, the best of them, and the nearest training image are away."""
    from saddlepoint.data import open_set

    measure = Watched(targets.shape[1])
    samples = at.images(at.styles(at.game.draw_latents(count, 12345)))
    train = open_set(recipe.data, resolution=recipe.resolution, channels=recipe.channels).images
    near = []
    for target in targets:
        apart = torch.cat([
            rmse(torch.from_numpy(train[i : i + 5000].copy()).float() / 127.5 - 1, target)
            for i in range(0, len(train), 5000)
        ])  # fmt: skip
        near.append(torch.from_numpy(train[int(apart.argmin())].copy()).float() / 127.5 - 1)
    each = torch.stack([measure(samples, t.expand_as(samples)) for t in targets])  # [targets, samples]
    pixels = torch.stack([rmse(samples, t) for t in targets])
    nearest = torch.stack(near)
    return {
        "random sample": {"distance": split(each.mean(1), sets), "pixels": split(pixels.mean(1), sets)},
        f"best of {count} samples": {"distance": split(each.amin(1), sets), "pixels": split(pixels.amin(1), sets)},
        "nearest training image": {
            "distance": split(measure(nearest, targets), sets), "pixels": split(rmse(nearest, targets), sets),
        },
    }  # fmt: skip


# ---- numbers
def rounded(x: Tensor) -> list[float]:
    return [float(f"{v:.4g}") for v in x.tolist()]


def curves(x: Tensor) -> dict[str, Any]:
    """At some of the steps: [steps, n] -> {step, each}."""
    index = sorted({round(i * (len(x) - 1) / (POINTS - 1)) for i in range(POINTS)})
    return {"step": index, "each": [rounded(x[i]) for i in index]}


def split(x: Tensor, sets: int) -> list[float]:
    """The mean of each set."""
    return rounded(torch.stack([part.mean() for part in x.chunk(sets)]))


def mean_of(curve: dict[str, Any], index: int) -> float:
    return float(torch.tensor(curve["each"][index]).mean())


# ---- the picture
def draw(found: dict[str, Any]) -> Any:
    from saddlepoint.figures.style import MODEL, SOFT, slide, styled

    with styled():
        figure = slide(16.0, 5.0)
        left, middle, right = figure.subplots(1, 3)
        small = found["recovery"]["small steps"]
        for key, colour, label in (("w", SOFT, "plainly"), ("seen", MODEL, "as the images see it")):
            step, each = small[key]["step"], torch.tensor(small[key]["each"])
            left.plot(step, each.numpy(), color=colour, lw=0.8, alpha=0.5)
            left.plot(step, each.mean(1).numpy(), color=colour, label=label)
        left.set(xlabel="steps", ylabel="|w − true w|, deviations", title="generated images", ylim=(0, None))
        left.legend()
        draw_held_out(middle, found, "curve", "distance", "distance")
        draw_held_out(right, found, "pixel_curve", "pixels", "RMSE of pixels")
        middle.set_ylim(bottom=middle.get_ylim()[0] / 3)
        middle.legend(fontsize=11, loc="lower left")
    return figure


def draw_held_out(ax: Any, found: dict[str, Any], curve: str, line: str, label: str) -> None:
    """Means of each set over the steps (the second dashed), and what random samples and training images are away."""
    from saddlepoint.figures.style import DATA, INK, JUDGE, MODEL, ORANGE, SOFT

    looks = ((DATA, 2.0), (MODEL, 4.0), (JUDGE, 1.6), (SOFT, 2.0))  # two lie on each other
    for (name, way), (colour, width) in zip(found["held_out"].items(), looks, strict=True):
        for place, points in enumerate(way[curve]):
            mean = torch.tensor(points["each"]).mean(1).numpy()
            key = name if place == 0 else "_"
            ax.plot(points["step"], mean, color=colour, ls="-" if place == 0 else "--", lw=width, label=key)
    for name, colour in (("random sample", INK), ("nearest training image", ORANGE)):
        values = found["references"][name][line]
        for place, value in enumerate(values):
            ax.axhline(value, color=colour, lw=1.2, ls=":" if place == 0 else (0, (1, 5)))
        ax.annotate(name, (found["steps"], values[0]), ha="right", va="bottom", color=colour, fontsize=11)
    inside, outside = (name.partition(":")[0] for name in found["sets"])
    ax.set(xlabel="steps", ylabel=label, yscale="log", title=f"{inside}, and {outside} (dashed)")


if __name__ == "__main__":
    main()
