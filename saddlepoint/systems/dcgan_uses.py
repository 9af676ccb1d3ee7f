"""What one does with a trained DCGAN (Radford et al. 2015, sections 5 and 6, appendix): latent algebra and features.

Everything takes a game (or anything with a `.game`, such as a run) and returns images in [-1, 1] or plain numbers. Left
out: guided backpropagation and the window-dropout experiment, which needs hand-drawn boxes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from saddlepoint import tracking
from saddlepoint.errors import UserError
from saddlepoint.game import Game, keyed_generator
from saddlepoint.layers.latent import line
from saddlepoint.layers.normalisation import BatchNorm

COSTS = (1e-4, 2e-4, 5e-4, 1e-3, 2e-3, 5e-3, 1e-2)
Labelled = tuple[Tensor, Tensor]  # images [N, C, R, R] in [-1, 1], labels [N]


def _game(run_or_game: Any) -> Any:
    return run_or_game if isinstance(run_or_game, Game) else run_or_game.game


# ---- latent algebra
def interpolate(run_or_game: Any, z: Tensor, steps: int = 9, **controls: Any) -> Tensor:
    """Images between successive latents z [k, latent], [k - 1, steps, C, R, R]; lines include their ends (figure 4)."""
    path = torch.cat([line(a, b, steps) for a, b in pairwise(z)])
    images: Tensor = _game(run_or_game).sample(len(path), z=path, **controls)
    return images.unflatten(0, (len(z) - 1, steps))


def arithmetic(
    run_or_game: Any, a: Tensor, b: Tensor, c: Tensor, *, spread: float = 0.25, seed: int = 0, **controls: Any
) -> Tensor:
    """Images [9, C, R, R] of y = mean(a) - mean(b) + mean(c), y itself in the centre (index 4) of 3x3 (figure 7).

    a, b, c: latents of exemplars of three concepts, [m, latent] each; three of them suffice, single ones are unstable.
    The eight others are y + U(-spread, spread).
    """
    game = _game(run_or_game)
    y = a.mean(0) - b.mean(0) + c.mean(0)
    generator = keyed_generator(y.device, "arithmetic", seed)
    noise = spread * (2 * torch.rand((9, len(y)), generator=generator, device=y.device) - 1).to(y)
    noise[4] = 0
    images: Tensor = game.sample(9, z=y + noise, **controls)
    return images


def pixel_arithmetic(run_or_game: Any, a: Tensor, b: Tensor, c: Tensor, **controls: Any) -> Tensor:
    """The control: the same sum over the exemplars' images, clamped to [-1, 1], [C, R, R] (figure 7)."""
    game = _game(run_or_game)
    means = [game.sample(len(z), z=z, **controls).mean(0) for z in (a, b, c)]
    return (means[0] - means[1] + means[2]).clamp(-1, 1)


def turn(
    run_or_game: Any,
    z: Tensor,
    start: Tensor,
    end: Tensor,
    weights: Sequence[float] = (0, 0.25, 0.5, 0.75, 1),
    **controls: Any,
) -> Tensor:
    """Images [N, len(weights), C, R, R] of z + w (mean(end) - mean(start)): the paper's turn vector (figure 8).

    z: [N, latent]; start, end: latents of exemplars looking one way and the other, [m, latent] (the paper takes four).
    """
    direction = end.mean(0) - start.mean(0)
    moved = torch.stack([z + w * direction for w in weights], 1)  # [N, W, latent]
    images: Tensor = _game(run_or_game).sample(moved.flatten(0, 1).shape[0], z=moved.flatten(0, 1), **controls)
    return images.unflatten(0, moved.shape[:2])


# ---- the discriminator as a feature extractor
@contextmanager
def statistics_of(network: nn.Module, images: Tensor, batch: int = 128) -> Iterator[None]:
    """Inside, batch norm uses the mean of the statistics of `images`' batches, as the official SVHN code does.

    While training the discriminator saw reals and fakes in separate batches, so its running statistics mix the two.
    """
    layers = [m for m in network.modules() if isinstance(m, BatchNorm)]
    buffers = [buffer for layer in layers for buffer in (layer.running_mean, layer.running_var)]
    saved, modes = [buffer.clone() for buffer in buffers], [(m, m.training) for m in network.modules()]
    network.eval()
    try:
        with torch.no_grad(), tracking.collecting() as ledger:
            for layer in layers:
                layer.batch_statistics = True
            for part in images.split(batch):
                if len(part) > 1:
                    network(part)
            for layer in layers:
                layer.batch_statistics = False
            for buffer in buffers:
                found = [entry.statistic for entry in ledger if entry.buffer is buffer]
                buffer.copy_(torch.stack(found).mean(0))
        yield
    finally:
        with torch.no_grad():
            for buffer, value in zip(buffers, saved, strict=True):
                buffer.copy_(value)
        for layer in layers:
            layer.batch_statistics = False
        for module, training in modes:
            module.training = training


def features(run_or_game: Any, images: Tensor, batch: int = 128) -> Tensor:
    """The discriminator's features of images [N, C, R, R], [N, D]: every layer max-pooled to 4x4 (section 5.1)."""
    discriminator = _game(run_or_game).discriminator
    if not hasattr(discriminator, "features"):
        raise UserError(f"{type(discriminator).__name__} has no features; the unconditional dcgan networks have.")
    with torch.no_grad():
        return torch.cat([discriminator.features(part) for part in images.split(batch)])


class Classification(NamedTuple):
    """Share of the test set classified correctly, the chosen cost C, and the accuracy of every C on held-out labels."""

    accuracy: float
    cost: float
    validation: dict[float, float]


def classify_features(
    run_or_game: Any, train: Labelled, test: Labelled, *, costs: Sequence[float] = COSTS, held_out: float = 0.2
) -> Classification:
    """A linear L2-SVM on the discriminator's features (section 5): fit on `train`, judged on `test`.

    C is the best of `costs` on the last `held_out` share of the training images; then all are fitted. Batch norm
    uses the training images' statistics.
    """
    from sklearn.svm import LinearSVC

    game = _game(run_or_game)
    with statistics_of(game.discriminator, train[0]):
        x, x_test = (features(game, images).double().cpu().numpy() for images in (train[0], test[0]))
    y, y_test = train[1].cpu().numpy(), test[1].cpu().numpy()
    kept = len(x) - int(held_out * len(x))

    def fitted(cost: float, n: int) -> Any:
        return LinearSVC(C=cost, random_state=0).fit(x[:n], y[:n])

    validation = {cost: float(fitted(cost, kept).score(x[kept:], y[kept:])) for cost in costs}
    best = max(validation, key=lambda cost: validation[cost])
    return Classification(float(fitted(best, len(x)).score(x_test, y_test)), best, validation)


def balanced(labels: Tensor, per_class: int, seed: int = 0) -> Tensor:
    """Indices of `per_class` random examples of every class, shuffled (the paper: 100 of each of ten)."""
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(labels), generator=generator)
    chosen = torch.cat([order[labels.cpu()[order] == k][:per_class] for k in labels.unique().cpu()])
    return chosen[torch.randperm(len(chosen), generator=generator)]


def nearest_neighbour_accuracy(samples: Labelled, real: Labelled, batch: int = 256) -> tuple[float, float]:
    """Share of real images whose closest *generated* image has their label, and its mean distance (appendix).

    samples: images of a conditional generator with the labels they were made for; distances in pixels scaled to [0, 1].
    """
    x = (samples[0].flatten(1) + 1) / 2
    squares = x.square().sum(1)
    found, distances = [], []
    for part in ((real[0].flatten(1) + 1) / 2).split(batch):
        index = (squares - 2 * part @ x.T).argmin(1)
        found.append(samples[1][index])
        distances.append((part - x[index]).norm(dim=1))
    right = (torch.cat(found) == real[1]).double().mean()
    return float(right), float(torch.cat(distances).mean())
