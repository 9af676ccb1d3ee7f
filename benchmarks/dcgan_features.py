"""DCGAN's discriminator as a feature extractor (section 5 of its paper): a linear SVM on 1,000 labels.

    python benchmarks/dcgan_features.py RUN [--data fashion-mnist] [--draws 3]

Accuracy on 2,000 test images of a linear SVM on the features of a trained discriminator, of a random one of the same
shape (the paper's own control idea), and on raw pixels, for several draws of 100 labels per class.
"""

from __future__ import annotations

import argparse

import torch
from torch import Tensor

import saddlepoint as sp
from saddlepoint.data import open_set
from saddlepoint.systems import build
from saddlepoint.systems import dcgan_uses as uses


def labelled(spec: str, resolution: int, channels: int, count: int) -> tuple[Tensor, Tensor]:
    """The first `count` images in [-1, 1], [N, C, R, R], and their labels [N]."""
    images = open_set(spec, resolution=resolution, channels=channels)
    if images.labels is None:
        raise SystemExit(f"{spec} has no labels.")
    x = torch.from_numpy(images.images[:count].copy()).float() / 127.5 - 1
    return x, torch.from_numpy(images.labels[:count].copy())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run")
    parser.add_argument("--data", default="fashion-mnist")
    parser.add_argument("--draws", type=int, default=3)
    args = parser.parse_args()
    from sklearn.svm import LinearSVC

    run = sp.load(args.run)
    side, channels = run.recipe.resolution, run.recipe.channels  # type: ignore[attr-defined]
    images, labels = labelled(args.data, side, channels, 20000)
    test = labelled(f"{args.data}:test", side, channels, 2000)
    untrained = build(run.recipe)
    print(f"{'draw':>4}{'trained':>10}{'random':>10}{'pixels':>10}")
    for seed in range(args.draws):
        chosen = uses.balanced(labels, 100, seed)
        train = (images[chosen], labels[chosen])
        accuracy = [uses.classify_features(game, train, test).accuracy for game in (run, untrained)]
        pixels = LinearSVC(C=1e-3).fit(train[0].flatten(1).numpy(), train[1].numpy())
        accuracy.append(float(pixels.score(test[0].flatten(1).numpy(), test[1].numpy())))
        print(f"{seed:4}" + "".join(f"{100 * a:9.1f}%" for a in accuracy), flush=True)


if __name__ == "__main__":
    main()
