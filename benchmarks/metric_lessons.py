"""What the metrics see and what they miss, on real images whose damage is known. Three pictures and one JSON file.

    python benchmarks/metric_lessons.py [--data fashion-mnist] [--out docs/images] [--results FILE] [--only-draw]

damage    scores of real images that were blurred, covered with noise, robbed of classes, or mixed with another set's,
          at growing strength: which of them moves, and whether it moves one way
counts    the Frechet distance between two draws of the same real images against 1/N: its bias, and the straight line
          that FID-infinity draws through it
resize    the Frechet distance between images and themselves, shrunk and enlarged by different filters

All with one extractor, 4,000 images judged against 20,000 others; no generator is involved.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np

from saddlepoint.runs import write_bytes

RESULTS = Path(__file__).parent / "results" / "metric_lessons.json"
JUDGED, REFERENCE = 4000, 20_000
STRENGTHS = (0.0, 0.25, 0.5, 0.75, 1.0)
DAMAGE = {
    "blur": "Gaussian blur, σ = 2 px at 1",
    "noise": "Gaussian noise, σ = 0.5 at 1",
    "dropping": "classes missing, 8 of 10 at 1",
    "mixing": "with digits, half of all at 1",
}
SCORES = ("fd", "kd", "precision", "recall", "density", "coverage", "is", "swd")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="fashion-mnist")
    parser.add_argument("--features", default="auto")
    parser.add_argument("--out", type=Path, default=Path("docs/images"))
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--only-draw", action="store_true")
    chosen = parser.parse_args()
    found: dict[str, Any] = json.loads(chosen.results.read_text()) if chosen.only_draw else {}
    if not chosen.only_draw:
        found = measured(chosen.data, chosen.features)
        chosen.results.parent.mkdir(parents=True, exist_ok=True)
        write_bytes(chosen.results, (json.dumps(found, indent=1) + "\n").encode())
    for name, draw in (("damage", draw_damage), ("counts", draw_counts), ("resize", draw_resize)):
        path = chosen.out / f"metrics-{name}.png"
        draw(found).savefig(path, dpi=80, metadata={"Software": None})
        print(path)


# ---- measuring
def measured(data: str, features: str) -> dict[str, Any]:
    import torch

    from saddlepoint.metrics import evaluation, judged
    from saddlepoint.metrics.scoring import extractor_for
    from saddlepoint.metrics.sliced import laplacian_swd

    torch.set_num_threads(1)
    real = judged.opened(data, shape=(32, 32))
    extractor = extractor_for(features, real)
    against = evaluation.Against.split(real, JUDGED, REFERENCE)
    names = ["fd", "kd", "pr", "dc", "is"]
    needs = frozenset({evaluation.FEATURES, evaluation.LOGITS, evaluation.PIXELS})
    reference = evaluation.of_reference(against.reference, extractor, needs)
    curves: dict[str, list[dict[str, float]]] = {}
    for kind in DAMAGE:
        for strength in STRENGTHS:
            images = Damaged(against.held_out, kind, strength)
            got = evaluation.collect(images, JUDGED, 0, extractor, needs)
            values: dict[str, float] = {}
            given = evaluation.Given(reference, got, 0)
            for name in names:
                values |= {k: float(v) for k, v in evaluation.METRICS[name].compute(given).items()}
            pixels = [torch.from_numpy(np.array(side.pixels[:JUDGED])) for side in (reference, got)]
            values["swd"] = laplacian_swd(*pixels, patches=8).value  # 32,000 patches a side and level
            curves.setdefault(kind, []).append(values)
            print(kind, strength, {k: round(v, 4) for k, v in values.items()}, flush=True)
    return {
        "data": data, "extractor": extractor.identity, "judged": JUDGED, "reference": REFERENCE,
        "strengths": STRENGTHS, "damage": curves, "counts": counted(reference.features, extractor, real),
        "resize": resized(against, extractor, reference),
    }  # fmt: skip


class Damaged:
    """Real images, damaged; strength 0 leaves them as they are."""

    def __init__(self, images: Any, kind: str, strength: float) -> None:
        self.images, self.kind, self.strength = images, kind, strength
        self.name, self.identity = f"{kind} {strength:g}", {"damage": kind, "strength": strength}

    def limit(self) -> int:
        return len(self.images)

    def chunks(self, n: int, seed: int, *, share: tuple[int, int] = (0, 1)) -> Any:
        import torch

        from saddlepoint.metrics import judged

        source = self.images
        if self.kind == "dropping":  # more of the classes that are left, so that the count stays
            left = 10 - round(8 * self.strength)
            kept = source.order[np.isin(source.images.labels[source.order], np.arange(left))]
            source = judged.Images(source.images, source.name, source.identity, np.resize(kept, len(source)))
        others = judged.opened("mnist-5k", shape=(32, 32)) if self.kind == "mixing" else None
        for index, (images, labels) in enumerate(source.chunks(n, share=share)):
            generator = torch.Generator().manual_seed(index)
            if self.kind == "blur":
                images = blurred(images, 2.0 * self.strength)
            elif self.kind == "noise":
                images = images + 0.5 * self.strength * torch.randn(images.shape, generator=generator)
            elif others is not None:
                swap = round(0.5 * self.strength * len(images))
                places = np.arange(index * len(images), index * len(images) + swap) % len(others)
                digits = torch.from_numpy(others.images.images[others.order[places]]).float() / 127.5 - 1
                images = torch.cat([digits, images[swap:]])
            yield judged.rounded(images), labels


def blurred(images: Any, sigma: float) -> Any:
    """Gaussian blur with reflected borders."""
    import torch

    if sigma == 0:
        return images
    taps = torch.exp(-0.5 * (torch.arange(-7, 8) / sigma) ** 2)
    taps = taps / taps.sum()
    channels = images.shape[1]
    x = torch.nn.functional.pad(images, (7, 7, 7, 7), mode="reflect")
    x = torch.nn.functional.conv2d(x, taps.view(1, 1, 1, -1).expand(channels, 1, 1, 15), groups=channels)
    return torch.nn.functional.conv2d(x, taps.view(1, 1, -1, 1).expand(channels, 1, 15, 1), groups=channels)


def counted(features: Any, extractor: Any, real: Any) -> dict[str, Any]:
    """FD between disjoint draws of N real images each, and the line through FD of a growing draw."""
    from saddlepoint.metrics.frechet import frechet_distance, frechet_infinity

    half = len(features) // 2
    sizes = [100, 200, 400, 800, 1600, 3200, 6400, half]
    direct = []
    for size in sizes:
        draws = max(1, min(5, half // size))
        values = [
            frechet_distance(features[i * size : (i + 1) * size], features[half + i * size : half + (i + 1) * size])
            for i in range(draws)
        ]
        direct.append(float(np.mean(values)))
    line = frechet_infinity(features[:half], features[half:], smallest=500)
    return {
        "sizes": sizes, "fd": direct, "line_sizes": line.sizes, "line_fd": line.distances, "infinity": line.value,
        "infinity_error": line.standard_error, "slope": line.slope,
    }  # fmt: skip


def resized(against: Any, extractor: Any, reference: Any) -> dict[str, float]:
    """FD of real images that went down to half their side and back, by different filters, against untouched ones."""
    import torch
    from PIL import Image

    from saddlepoint.metrics.frechet import frechet_distance

    filters = {
        "untouched": None, "nearest": Image.Resampling.NEAREST, "bilinear": Image.Resampling.BILINEAR,
        "bicubic": Image.Resampling.BICUBIC, "Lanczos": Image.Resampling.LANCZOS,
    }  # fmt: skip
    found: dict[str, float] = {}
    for down in filters:
        rows = []
        for images, _ in against.held_out.chunks(JUDGED):
            if down != "untouched":
                bytes_ = ((images[:, 0] + 1) * 127.5).round().byte().numpy()
                small = [Image.fromarray(x).resize((16, 16), filters[down]) for x in bytes_]
                back = [np.asarray(x.resize((32, 32), Image.Resampling.BICUBIC)) for x in small]
                images = torch.from_numpy(np.stack(back)).float()[:, None] / 127.5 - 1
            rows.append(extractor(images).numpy())
        found[down] = frechet_distance(reference.features, np.concatenate(rows))
    return found


# ---- drawing
def draw_damage(found: dict[str, Any]) -> Any:
    from saddlepoint.figures.style import DATA, SOFT, slide, styled

    with styled():
        figure = slide(12.8, 16.0)
        axes = figure.subplots(len(SCORES), len(DAMAGE), sharex=True, sharey="row")
        for column, kind in enumerate(DAMAGE):
            for row, score in enumerate(SCORES):
                ax = axes[row][column]
                values = [v[score] for v in found["damage"][kind]]
                ax.plot(found["strengths"], values, "o-", color=DATA, ms=6)
                ax.axhline(values[0], color=SOFT, lw=1, ls="--", zorder=0)
                if column == 0:
                    ax.set_ylabel({"fd": "FD", "kd": "KD", "is": "IS", "swd": "SWD"}.get(score, score))
                if row == 0:
                    ax.set_title(kind + chr(10) + DAMAGE[kind].replace(", ", ",\n"), fontsize=13)
                if row == len(SCORES) - 1:
                    ax.set_xlabel("strength")
    return figure


def draw_counts(found: dict[str, Any]) -> Any:
    from saddlepoint.figures.style import DATA, MODEL, SOFT, slide, styled

    counts = found["counts"]
    with styled():
        figure = slide(12.8, 5.2)
        left, right = figure.subplots(1, 2)
        left.loglog(counts["sizes"], counts["fd"], "o-", color=DATA)
        left.set(xlabel="images on either side, N", ylabel="FD, real against real", title="Too few images: all bias")
        inverse = 1 / np.asarray(counts["line_sizes"], float)
        right.plot(inverse * 1000, counts["line_fd"], "o", color=DATA, label="FD of N images")
        ends = np.array([0, inverse.max()])
        right.plot(ends * 1000, counts["infinity"] + counts["slope"] * ends, color=MODEL, label="straight line in 1/N")
        right.axhline(0, color=SOFT, lw=1)
        right.set(xlabel="1000 / N", title=f"N → ∞: {counts['infinity']:.3g} ± {counts['infinity_error']:.1g}")
        right.legend()
    return figure


def draw_resize(found: dict[str, Any]) -> Any:
    from saddlepoint.figures.style import DATA, SOFT, slide, styled

    with styled():
        figure = slide(12.8, 4.6)
        ax = figure.subplots()
        names = [name for name in found["resize"] if name != "untouched"]
        bars = ax.barh(names, [found["resize"][n] for n in names], color=DATA, height=0.6)
        ax.bar_label(bars, fmt="%.3g", padding=5)
        floor = found["resize"]["untouched"]
        ax.axvline(floor, color=SOFT, ls="--", label=f"untouched: {floor:.3g}")
        ax.set(xlabel="FD against untouched images", title="The same images, halved by four filters and enlarged again")
        ax.invert_yaxis()
        ax.legend()
    return figure


if __name__ == "__main__":
    main()
