"""A GAN on 500 images with and without adaptive augmentation: how much of the held-out images is covered.

    python benchmarks/ada.py [--system stylegan2] [--data fashion-mnist] [--images 500] [--kimg 200] [--resolution 16]
                             [--r1 0.02] [--operations bgc] [--target 0.3] [--ada-kimg 100] [--variants none ada]
                             [--seeds 2] [--results FILE] [--work FOLDER] [--grids FOLDER]

The 500 training images are drawn from the training split by the seed; both variants of a seed see the same ones. The
recipe is `tiny`, of stylegan2 without path lengths, which cost time and change nothing here, and with R1 weaker than
usual, since with the preset's 0.2 its discriminator hardly begins to know 500 images by heart in so short a time.
Coverage, density, precision and recall (k = 5) are those of 2,000 samples of the averaged generator against up to 5,000
images of the test split, at six times of the training. `floor` is the 500 training images against the same: what
learning them by heart would give, if 2,000 samples were these alone. Grey sets with labels are judged by a classifier
of the whole set, sets in colour by efficientnet-lite0.

ADA's pipe is --operations. Its default target here, a mean sign of 0.3 on real images, is below the paper's 0.6, which
stylegan2's small discriminator does not reach in so short a training: p stays at 0 there. --ada-kimg is how many
thousand images p takes from 0 to 1: 500 in the paper.

A finished cell (data, variant, seed) is stored at once, and a later call makes only what is missing; a training that
was interrupted goes on from its checkpoint. One torch thread.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from pathlib import Path
from typing import Any

from saddlepoint.runs import Run, write_bytes

RESULTS = Path(__file__).parent / "results" / "ada.json"
SAMPLES, HELD_OUT, K, POINTS = 2000, 5000, 5, 6
SHOWN = ("coverage", "density", "precision", "recall")
FIXED = {"augment.operations": "bgc", "augment.p": 0.2, "augment.target": 0.0}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--system", default="stylegan2", choices=["stylegan2", "dcgan"])
    parser.add_argument("--data", nargs="+", default=["fashion-mnist"])
    parser.add_argument("--variants", nargs="+", default=["none", "ada"], choices=["none", "ada", "fixed", "blit"])
    parser.add_argument("--images", type=int, default=500)
    parser.add_argument("--kimg", type=float, default=200)
    parser.add_argument("--resolution", type=int, default=16)
    parser.add_argument("--r1", type=float, default=0.02)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--ada-kimg", type=float, default=100)
    parser.add_argument("--target", type=float, default=0.3)
    parser.add_argument("--operations", default="bgc", help="those of the variant ada")
    parser.add_argument("--set", nargs="+", default=[], metavar="KEY=NUMBER", help="other settings of both variants")
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--work", type=Path, default=Path("runs/ada"))
    parser.add_argument("--grids", type=Path, help="write a grid of samples of every cell into this folder")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--only-show", action="store_true")
    chosen = parser.parse_args()
    cells: dict[str, Any] = json.loads(chosen.results.read_text()) if chosen.results.exists() else {}
    for seed in range(chosen.seeds):  # seed by seed, so that an unfinished table compares equals
        for data in chosen.data:
            for variant in chosen.variants:
                key = f"{variant} seed{seed} {setting(data, chosen)}"
                if key in cells or chosen.only_show:
                    continue
                print(f"{key} ...", file=sys.stderr, flush=True)
                run = trained(data, variant, seed, chosen)
                cells[key] = cell(run, data, variant, seed, chosen)
                store(chosen.results, cells)
                if chosen.grids:
                    grid(run, chosen.grids / f"ada-{data}-{variant}-{seed}.png")
    for data in chosen.data:
        print(table(cells, setting(data, chosen)), end="\n\n")


def setting(data: str, chosen: argparse.Namespace) -> str:
    """What the cells of one table have in common."""
    words = [f"{chosen.images} images of {data}", f"{chosen.resolution} px", f"R1 {chosen.r1:g}"]
    words = words if chosen.system == "stylegan2" else [chosen.system, *words]
    pipe = [] if chosen.operations == "bgc" else [f"pipe {chosen.operations}"]
    return ", ".join([*words, *chosen.set, *pipe, f"{chosen.kimg:g} kimg"])


def store(path: Path, cells: dict[str, Any]) -> None:
    """One line a cell, whole or not at all."""
    lines = ",\n".join(f"{json.dumps(k)}: {json.dumps(v)}" for k, v in sorted(cells.items()))
    path.parent.mkdir(parents=True, exist_ok=True)
    write_bytes(path, f"{{\n{lines}\n}}\n".encode())


# ---- training
def few(data: str, count: int, side: int, seed: int, work: Path) -> Path:
    """A folder of `count` images of the training split as square PNG files, without labels: made once."""
    from PIL import Image

    from saddlepoint.data import Stream, open_set

    folder = work / "data" / f"{data}-{count}-{side}-{seed}"
    images = open_set(data, resolution=side)
    folder.mkdir(parents=True, exist_ok=True)
    for index in Stream(images, seed).places(0, count)[0]:
        pixels = images.images[index]  # [C, H, W]
        image = Image.fromarray(pixels[0] if len(pixels) == 1 else pixels.transpose(1, 2, 0))
        image.save(folder / f"{index:06d}.png")
    return folder


def trained(data: str, variant: str, seed: int, chosen: argparse.Namespace) -> Run:
    """The run of a cell, trained now or before."""
    import torch

    import saddlepoint as sp

    torch.set_num_threads(1)
    pipe = (chosen.operations, chosen.ada_kimg, chosen.target) if variant == "ada" else ()
    words = (chosen.system, data, variant, seed, chosen.images, chosen.resolution, chosen.r1, *chosen.set, *pipe)
    folder = chosen.work / "-".join(map(str, words))
    if (folder / "recipe.json").exists():
        run = sp.load(folder)
        if run.clock < chosen.kimg * 1000:
            run = sp.resume(folder, device=chosen.device, progress=False)
        return run
    steered = {"augment.kimg": chosen.ada_kimg, "augment.target": chosen.target}
    settings: dict[str, Any] = {
        "none": {},
        "ada": {"augment.operations": chosen.operations, **steered},
        "fixed": FIXED,
        "blit": {"augment.operations": "blit", **steered},
    }[variant]
    pace = {"checkpoint_kimg": chosen.kimg / POINTS, "keep_checkpoints": POINTS, "samples_kimg": chosen.kimg / POINTS}
    size = {
        "resolution": chosen.resolution,
        "kimg": chosen.kimg,
        "penalty.r1": chosen.r1,
        "batch": chosen.batch,
        **({"path_length": 0.0} if chosen.system == "stylegan2" else {}),
        **{key: json.loads(value) for key, value in (word.split("=") for word in chosen.set)},
    }
    recipe = sp.recipe(chosen.system, "tiny", seed=seed, **size, **pace, **settings)
    few_images = str(few(data, chosen.images, chosen.resolution, seed, chosen.work))
    return sp.train(recipe, few_images, out=folder, device=chosen.device, progress=False)


# ---- judging
def cell(run: Run, data: str, variant: str, seed: int, chosen: argparse.Namespace) -> dict[str, Any]:
    """Scores of a run at its checkpoints, as plain values."""
    from saddlepoint.data import open_set
    from saddlepoint.metrics.extractors import chosen as extractor_for

    training, held = (open_set(name, resolution=chosen.resolution) for name in (data, f"{data}:test"))
    extractor = extractor_for("auto", training, data, device=chosen.device)
    reference = features(extractor, held, HELD_OUT)
    few_images = open_set(run.recipe.data)
    points = []
    for folder in run.checkpoints():
        game = run.game_at(folder).to(chosen.device)
        points.append({"kimg": int(folder.name) / 1000, **scores(reference, of_samples(extractor, game))})
    log = run.log()
    return {
        "data": data, "variant": variant, "seed": seed, "setting": setting(data, chosen), "target": chosen.target,
        "held_out": len(reference), "samples": SAMPLES, "extractor": extractor.identity, "points": points,
        "floor": scores(reference, features(extractor, few_images, chosen.images)),
        "p": float(run.game.augment.controller.p) if variant != "none" else 0.0,  # type: ignore[union-attr, arg-type]
        "cpu_seconds": log[-1].get("cpu_seconds"), "weights": run.environment["weights"],
        "torch": run.environment["torch"],
    }  # fmt: skip


def features(extractor: Any, images: Any, most: int) -> Any:
    """[N, D] of up to `most` images of a set, spread over it by a seed."""
    import torch

    from saddlepoint.data import Stream

    stream, count = Stream(images, seed=0), min(most, len(images))
    parts = [
        extractor(stream(first, min(250, count - first), 0, min(250, count - first))["image"]).cpu()
        for first in range(0, count, 250)
    ]
    return torch.cat(parts)


def of_samples(extractor: Any, game: Any) -> Any:
    """[SAMPLES, D] of images that the game draws."""
    import torch

    return torch.cat([extractor(game.sample(250, seed)).cpu() for seed in range(SAMPLES // 250)])


def scores(reference: Any, found: Any) -> dict[str, float]:
    from saddlepoint.metrics import manifolds

    return {name: float(value) for name, value in manifolds(reference, found, k=K)._asdict().items()}


def grid(run: Run, path: Path) -> None:
    """64 samples as a picture without metadata."""
    from saddlepoint.pictures import picture, png

    path.parent.mkdir(parents=True, exist_ok=True)
    write_bytes(path, png(picture(run.sample(64, seed=0), columns=16, cell=48)))


# ---- the table
def table(cells: dict[str, Any], at: str) -> str:
    """Markdown: a row for each variant, mean over seeds and half their range, at the end of the training."""
    found = [c for c in cells.values() if c["setting"] == at]
    if not found:
        return f"nothing measured yet: {at}"
    first = found[0]
    lines = [
        f"| {at} | {' | '.join(SHOWN)} | best coverage at | p | CPU minutes |",
        f"|---|{'---|' * (len(SHOWN) + 3)}",
    ]
    for variant in dict.fromkeys(c["variant"] for c in found):
        rows = [c for c in found if c["variant"] == variant]
        values = [spread([c["points"][-1][name] for c in rows]) for name in SHOWN]
        best = [max(c["points"], key=lambda point: point["coverage"])["kimg"] for c in rows]
        minutes = [c["cpu_seconds"] / 60 for c in rows if c["cpu_seconds"]]
        lines.append(
            f"| {variant} ({len(rows)} seeds) | {' | '.join(values)} | {', '.join(f'{b:g}' for b in best)} kimg "
            f"| {spread([c['p'] for c in rows])} | {spread(minutes) if minutes else ''} |"
        )
    floor = [spread([c["floor"][name] for c in found]) for name in SHOWN]
    lines.append(f"| the training images themselves | {' | '.join(floor)} | | | |")
    lines.append(
        f"\n{first['samples']:,} samples against {first['held_out']:,} held-out images, k = {K}; features "
        f"{first['extractor']}. Mean over seeds ± half their range, at the end of the training."
    )
    return "\n".join(lines)


def spread(values: list[float]) -> str:
    """Mean ± half the range."""
    half = (max(values) - min(values)) / 2
    return f"{statistics.mean(values):.3g} ± {half:.2g}" if len(values) > 1 else f"{values[0]:.3g}"


if __name__ == "__main__":
    main()
