"""GAN: Generative Adversarial Nets (Goodfellow et al. 2014, arXiv:1406.2661).

Official code: goodfeli/adversarial (Pylearn2; the paper prints no sizes, its yaml files do). Images come and go in
[-1, 1] as everywhere in this library; inside, both players see flat vectors [N, C R R]: images in [0, 1], or
contrast-normalised ones.
Where we differ:
- momentum and learning rate are read off the clock (Pylearn2 changes them once per epoch and once per update);
- dropout masks come from the round's numbers, so that micro-batches drop what one batch would drop. Masks stay on while
  the generator moves, and differ between reals and fakes, as officially;
- the second stage of the face model (two more layers under a trained generator, 22 epochs) is left out.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from saddlepoint.errors import UserError
from saddlepoint.game import Player, Round, Stage, Terms
from saddlepoint.layers.dense import Maxout, MaxoutConv, dropout, limit_norms, sparse, spread
from saddlepoint.layers.latent import LatentGame, Prior, in_parts
from saddlepoint.objectives import objective
from saddlepoint.penalties import judge
from saddlepoint.recipes.gan import GANRecipe
from saddlepoint.schedules import ramp

Drop = Callable[[Tensor, int], Tensor]  # (input of a layer, number of the layer) -> what dropout leaves of it

CONTRAST = 55.0  # Euclidean norm of a contrast-normalised image; 55 / sqrt(3072) is about 1 per element


def contrast_normalised(x: Tensor) -> Tensor:
    """Each row [N, D] minus its mean, scaled to norm 55 (a constant row becomes 0): Pylearn2's gcn=55."""
    centred = x - x.mean(1, keepdim=True)
    return centred * (CONTRAST / centred.norm(dim=1, keepdim=True).clamp_min(1e-6))


def unfolded_side(resolution: int) -> int:
    """Side b of the maps that a 5x5 transposed convolution of stride 3 turns into the image: resolution = 3 b + 2."""
    b = round((resolution - 2) / 3)
    if b < 1 or 3 * b + 2 != resolution:
        raise UserError(
            f"gan with network=conv needs a resolution 3 b + 2 (8, 32, 50, 128, ...), not {resolution}; "
            f"nearest: {3 * max(b, 1) + 2}."
        )
    return b


class Generator(nn.Module):
    """z [N, latent] -> x [N, pixels]: ReLU, then ReLU or sigmoid, then sigmoid ("unit") or linear ("contrast")."""

    def __init__(self, recipe: GANRecipe) -> None:
        super().__init__()
        first, second = recipe.hidden
        pixels = recipe.channels * recipe.resolution**2
        self.unit, self.sigmoid = recipe.pixels == "unit", recipe.second == "sigmoid"
        self.first = nn.Linear(recipe.latent, first)
        self.output: nn.Linear | Unfold
        if recipe.network == "conv":
            self.output = Unfold(second, recipe.resolution, recipe.channels)
            second = self.output.inputs
            nn.init.uniform_(self.output.weight, -recipe.g_irange_out, recipe.g_irange_out)
        else:
            self.output = nn.Linear(second, pixels)
            if recipe.g_sparse_out:
                sparse(self.output, recipe.g_sparse_out)
            else:
                spread(self.output, recipe.g_irange_out)
        self.second = nn.Linear(first, second)
        spread(self.first, recipe.g_irange)
        spread(self.second, recipe.g_irange, recipe.g_bias)

    def forward(self, z: Tensor) -> Tensor:
        h = self.second(F.relu(self.first(z)))
        y = self.output(torch.sigmoid(h) if self.sigmoid else F.relu(h))
        return torch.sigmoid(y) if self.unit else y


class Unfold(nn.Module):
    """[N, maps b b] -> [N, C R R]: transposed convolution 5x5 of stride 3 with a bias of its own for every pixel."""

    def __init__(self, units: int, resolution: int, channels: int) -> None:
        super().__init__()
        self.side = unfolded_side(resolution)
        self.maps = max(1, units // self.side**2)
        self.inputs = self.maps * self.side**2
        self.weight = nn.Parameter(torch.empty(self.maps, channels, 5, 5))
        self.bias = nn.Parameter(torch.zeros(channels * resolution**2))

    def forward(self, x: Tensor) -> Tensor:
        maps = x.view(-1, self.maps, self.side, self.side)  # [N, maps, b, b]
        return F.conv_transpose2d(maps, self.weight, stride=3).flatten(1) + self.bias


class Discriminator(nn.Module):
    """x [N, pixels] -> logit [N]: (convolutions and) two layers of maxout units, then one linear unit."""

    def __init__(self, recipe: GANRecipe) -> None:
        super().__init__()
        self.shape = (recipe.channels, recipe.resolution, recipe.resolution)
        layers: list[nn.Module] = []
        width = math.prod(self.shape)
        if recipe.network == "conv":
            layers += [
                MaxoutConv(recipe.channels, 32, 8, padding=4, pool=4, stride=2),
                MaxoutConv(32, 32, 8, padding=3, pool=4, stride=2),
                MaxoutConv(32, 192, 5, padding=3, pool=2, stride=2),
            ]
            side = recipe.resolution
            for layer in layers:
                side = layer.side(side)  # type: ignore[operator]
            width = 192 * side**2
            layers.append(Maxout(width, recipe.units[1], recipe.pieces))
        else:
            for units in recipe.units:
                layers.append(Maxout(width, units, recipe.pieces))
                width = units
        self.layers = nn.ModuleList(layers)
        self.judge = nn.Linear(recipe.units[1], 1)
        for module in self.modules():
            if isinstance(module, nn.Linear | nn.Conv2d):
                spread(module, recipe.d_irange)

    def forward(self, x: Tensor, drop: Drop | None = None) -> Tensor:
        drop = drop or (lambda h, layer: h)
        h = x.view(-1, *self.shape) if isinstance(self.layers[0], MaxoutConv) else x
        for number, layer in enumerate(self.layers):
            h = layer(drop(h if isinstance(layer, MaxoutConv) else h.flatten(1), number))
        logits: Tensor = self.judge(drop(h, len(self.layers))).squeeze(1)
        return logits


class GAN(LatentGame):
    """d maximises V(d, g) = E log d(x) + E log(1 - d(g(z))) (eq. 1); g minimises it or, in practice, -E log d(g(z))."""

    averaged = ("generator",)

    def __init__(self, recipe: GANRecipe) -> None:
        super().__init__()
        self.recipe = recipe
        self.objective = objective(recipe.objective)
        self.prior = Prior(recipe.latent, recipe.prior, bound=math.sqrt(3))
        self.generator = Generator(recipe)
        self.discriminator = Discriminator(recipe)
        self.players = (
            Player(
                "discriminator", self.discriminator, self.discriminator_loss, steps=recipe.d.steps,
                project=self._projection(self.discriminator),
            ),
            Player(
                "generator", self.generator, self.generator_loss, steps=recipe.g.steps,
                project=self._projection(self.generator),
            ),
        )  # fmt: skip

    def _projection(self, player: nn.Module) -> Callable[[], None] | None:
        weights = tuple(m.weight for m in player.modules() if isinstance(m, nn.Linear))
        return partial(limit_norms, weights, self.recipe.max_norm) if self.recipe.max_norm else None

    def stage(self, clock: int) -> Stage:
        """Absolute learning rates and momenta at this clock."""
        recipe, batches = self.recipe, clock / self.recipe.batch
        settings: dict[str, dict[str, float]] = {}
        for name, optimizer in recipe.optimizers().items():
            decayed = optimizer.lr / recipe.lr_factor**batches
            settings[name] = {"lr": max(decayed, min(recipe.lr_least, optimizer.lr))}
            if recipe.momentum_kimg and optimizer.kind in ("sgd", "rmsprop"):
                settings[name]["momentum"] = ramp(clock, optimizer.momentum, recipe.momentum_end, recipe.momentum_kimg)
        return Stage(settings=settings)

    # ---- the data's side
    def inside(self, image: Tensor) -> Tensor:
        """Images [N, C, R, R] in [-1, 1] as the players see them, [N, C R R]."""
        x = (image.flatten(1) + 1) / 2
        return x if self.recipe.pixels == "unit" else contrast_normalised(x)

    def outside(self, x: Tensor) -> Tensor:
        """Back to images in [-1, 1]. Contrast normalisation forgets mean and scale: the largest value becomes 1."""
        if self.recipe.pixels == "unit":
            x = 2 * x - 1
        else:
            x = x / x.abs().amax(1, keepdim=True).clamp_min(1e-6)
        return x.view(-1, self.recipe.channels, self.recipe.resolution, self.recipe.resolution)

    def prepare(self, images: Tensor) -> None:
        """Before the first round: fit the output's bias to `images` [N, C, R, R], if the recipe says so."""
        if self.recipe.marginals and self.recipe.pixels == "unit":
            self.fit_marginals(images)

    def fit_marginals(self, images: Tensor) -> None:
        """Output bias <- logit of each pixel's mean over images [N, C, R, R] in [-1, 1], kept in [1e-7, 1 - 1e-7]."""
        with torch.no_grad():
            bias = self.generator.output.bias
            mean = ((images.double() + 1) / 2).flatten(1).mean(0).clamp(1e-7, 1 - 1e-7)
            bias.copy_(torch.logit(mean).to(bias))

    # ---- the game
    def dropping(self, round: Round, who: str) -> Drop:
        """Dropout masks for this round's reals or fakes."""
        keep_input, keep_hidden = self.recipe.keep_input, self.recipe.keep_hidden

        def drop(h: Tensor, layer: int) -> Tensor:
            keep = keep_hidden if layer else keep_input
            return h if keep >= 1 else dropout(h, round.uniform(f"drop.{who}.{layer}", *h.shape[1:]), keep)

        return drop

    def discriminator_loss(self, round: Round) -> Terms:
        on_real = partial(self.discriminator, drop=self.dropping(round, "real"))
        on_fake = partial(self.discriminator, drop=self.dropping(round, "fake"))
        real, fake = self.inside(round["image"]), self.generator(self.prior.of(round))
        judged = judge(on_real, real, fake, round, self.recipe.penalty, fake_critic=on_fake)
        round.note("false_negatives", (judged.real < 0).float().mean())
        round.note("false_positives", (judged.fake > 0).float().mean())
        # The code trains 1/2 (BCE + BCE); the other objectives carry their own scale.
        half = 0.5 if self.recipe.objective in ("nonsaturating", "minimax") else 1.0
        return {"gan": half * self.objective.discriminator(judged.real, judged.fake).mean(), **judged.penalties}

    def generator_loss(self, round: Round) -> Terms:
        fake = self.discriminator(self.generator(self.prior.of(round)), self.dropping(round, "fake"))
        real = None
        if self.objective.uses_real_in_generator:
            real = self.discriminator(self.inside(round["image"]), self.dropping(round, "real"))
        return {"gan": self.objective.generator(fake, real).mean()}

    # ---- use
    def sample(self, n: int, seed: int = 0, *, z: Tensor | None = None, batch: int = 256) -> Tensor:
        """n images in [-1, 1], [n, C, R, R], from the seed or from latents z [n, latent]."""
        z = self.draw_latents(n, seed) if z is None else z
        with self.evaluating():
            return self.outside(in_parts(self.generator, z, batch=batch))


# ---- evaluation as in the paper
class ParzenEstimate(NamedTuple):
    """Mean log-likelihood of the test set in nats, its standard error, and the chosen width of the kernels."""

    mean: float
    standard_error: float
    sigma: float


def parzen(centres: Tensor, x: Tensor, sigma: float, batch: int = 500) -> Tensor:
    """log p(x) [N] under isotropic Gaussians on `centres`.

    log p(x) = logmeanexp_i(-|x - s_i|^2 / (2 sigma^2)) - D log(sigma sqrt(2 pi)).
    centres, x: [M, ...] and [N, ...], flattened to D dimensions, in the scale in which sigma is meant. In float64.
    """
    s, points = centres.flatten(1).double(), x.flatten(1).double()
    squares, constant = s.square().sum(1), s.shape[1] * math.log(sigma * math.sqrt(2 * math.pi))
    found = []
    for part in points.split(batch):
        distance = (part.square().sum(1, keepdim=True) - 2 * part @ s.T + squares).clamp_min(0)  # [n, M]
        found.append(torch.logsumexp(-distance / (2 * sigma**2), 1) - math.log(len(s)) - constant)
    return torch.cat(found)


def parzen_log_likelihood(
    samples: Tensor, validation: Tensor, test: Tensor, sigmas: Tensor | None = None
) -> ParzenEstimate:
    """The paper's figure of merit: Parzen windows on samples, all three sets images in [-1, 1], measured in [0, 1].

    sigma: the best of logspace(-1, 0, 10) on the first 1,000 validation images. The paper takes 10,000 samples. A
    historical measure with high variance that can rank k-means centres above real data (Theis et al. 2016,
    arXiv:1511.01844): a warning says so.
    """
    warnings.warn(
        "Parzen window log-likelihoods are of historical interest: they can rank bad samples above real data.",
        stacklevel=2,
    )
    samples, validation, test = ((images + 1) / 2 for images in (samples, validation[:1000], test))
    candidates = torch.logspace(-1, 0, 10) if sigmas is None else sigmas
    sigma = max((float(s) for s in candidates), key=lambda s: float(parzen(samples, validation, s).mean()))
    values = parzen(samples, test, sigma)
    return ParzenEstimate(float(values.mean()), float(values.std(correction=0)) / math.sqrt(len(values)), sigma)


def nearest_examples(samples: Tensor, training: Tensor, batch: int = 256) -> tuple[Tensor, Tensor]:
    """Index of each sample's closest training image and their Euclidean distance, [N] each (figure 2, last column)."""
    x = training.flatten(1)
    squares = x.square().sum(1)
    found = [(squares - 2 * part @ x.T).argmin(1) for part in samples.flatten(1).split(batch)]
    index = torch.cat(found)
    return index, (samples.flatten(1) - x[index]).norm(dim=1)
