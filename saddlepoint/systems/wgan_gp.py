"""WGAN-GP: Improved Training of Wasserstein GANs (Gulrajani et al. 2017, arXiv:1704.00028).

An optimal critic has gradient norm one almost everywhere between paired reals and fakes (proposition 1), so a penalty
on (|grad f| - 1)^2 there replaces WGAN's clipping. Official code: igul222/improved_wgan_training (TensorFlow 1).
Where we differ:
- padding of strided convolutions is symmetric (TensorFlow's SAME is not, which shifts maps by half a pixel);
- the official loop moves the generator before the critic but skips it at first; here the critic is first, and
  head_start=1 gives it the same extra round;
- the gated, tanh and constant-width generators of its ablations, the toy networks and the 1-D
  convolutions over characters are left out.
"""

from __future__ import annotations

from functools import partial
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from saddlepoint.errors import UserError
from saddlepoint.game import Move, Player, Round, Stage, Terms
from saddlepoint.layers.convolution import halvings
from saddlepoint.layers.latent import Label, LatentGame, Prior, chosen_labels, in_parts
from saddlepoint.layers.normalisation import BatchNorm, LayerNorm
from saddlepoint.layers.residual import (
    GLOROT,
    Bottleneck,
    ConditionalBatchNorm,
    FirstBlock,
    Norm,
    ResidualBlock,
    conv,
    linear,
    normalised,
    up_conv,
)
from saddlepoint.objectives import objective
from saddlepoint.penalties import judge
from saddlepoint.recipes.wgan_gp import WGANGPRecipe
from saddlepoint.schedules import linear_decay


def identity(channels: int) -> nn.Module:
    return nn.Identity()


def generator_norm(recipe: WGANGPRecipe) -> Norm:
    """What normalises the generator's blocks."""
    if recipe.norm == "none":
        return identity
    return partial(ConditionalBatchNorm, classes=recipe.classes) if recipe.conditional else BatchNorm


def critic_norm(recipe: WGANGPRecipe) -> Norm:
    return LayerNorm if recipe.critic_norm == "layer" else identity


# ---- DCGAN-like networks: MNIST, CIFAR and `tiny`
def sides(resolution: int) -> list[int]:
    """Sides of the maps from at most 4 up to the image, each half of the next, rounded up: 28 -> [4, 7, 14, 28]."""
    if resolution < 8 or resolution % 4:
        near = max(8, 4 * round(resolution / 4))
        raise UserError(
            f"wgan-gp needs a resolution that is a multiple of 4 from 8 on, not {resolution}; nearest: {near}."
        )
    found = [resolution]
    while found[0] > 4:
        found.insert(0, -(-found[0] // 2))
    return found


class ConvGenerator(nn.Module):
    """z [N, latent] -> image [N, C, R, R]: linear, 5x5 transposed convolutions (cropped to odd sides), squashed."""

    def __init__(self, recipe: WGANGPRecipe) -> None:
        super().__init__()
        self.sides = sides(recipe.resolution)
        self.unit_range = recipe.unit_range
        widths = [recipe.width * 2**i for i in reversed(range(len(self.sides) - 1))]
        self.maps = widths[0]
        self.first = linear(recipe.latent, self.maps * self.sides[0] ** 2)
        self.ups = nn.ModuleList(up_conv(a, b, 5) for a, b in pairwise([*widths, recipe.channels]))
        norm = BatchNorm if recipe.norm == "batch" else identity
        self.norm = norm(self.maps * self.sides[0] ** 2)  # per unit, as officially
        self.norms = nn.ModuleList(norm(n) for n in widths[1:])

    def forward(self, z: Tensor, label: Tensor | None = None) -> Tensor:
        x = F.relu(self.norm(self.first(z))).view(-1, self.maps, self.sides[0], self.sides[0])  # [N, C, 4, 4]
        for up, norm, side in zip(self.ups[:-1], self.norms, self.sides[1:], strict=False):
            x = F.relu(norm(up(x, side)))
        x = self.ups[-1](x, self.sides[-1])
        return torch.sigmoid(x) if self.unit_range else torch.tanh(x)


class Critic(nn.Module):
    """features [N, D] of an image, f(x) [N] from them, and class logits [N, K] where the game is conditional."""

    def __init__(self, features: int, classes: int = 0) -> None:
        super().__init__()
        self.output = linear(features, 1)
        self.classifier = linear(features, classes) if classes else None

    def features(self, x: Tensor) -> Tensor:
        raise NotImplementedError

    def forward(self, x: Tensor) -> Tensor:
        return self.output(self.features(x)).squeeze(1)

    def both(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """f(x) [N] and class logits [N, K] from one forward pass."""
        if self.classifier is None:
            raise UserError("this critic has no classifier; use conditional=True.")
        h = self.features(x)
        return self.output(h).squeeze(1), self.classifier(h)


class ConvCritic(Critic):
    """Image [N, C, R, R] -> f(x) [N]: 5x5 convolutions of stride 2, leaky ReLU, no norm, one linear unit."""

    def __init__(self, recipe: WGANGPRecipe) -> None:
        steps = sides(recipe.resolution)
        widths = [recipe.critic_width * 2**i for i in range(len(steps) - 1)]
        super().__init__(widths[-1] * steps[0] ** 2)
        self.convs = nn.ModuleList(conv(a, b, 5, stride=2) for a, b in pairwise([recipe.channels, *widths]))

    def features(self, x: Tensor) -> Tensor:
        for layer in self.convs:
            x = F.leaky_relu(layer(x), 0.2)
        return x.flatten(1)


# ---- residual networks
class BlockGenerator(nn.Module):
    """z [N, latent] -> image [N, C, R, R] in (-1, 1): linear to 4x4, blocks that double, norm, convolution, tanh."""

    def __init__(self, recipe: WGANGPRecipe, widths: list[int], *, first_bias: bool) -> None:
        super().__init__()
        self.maps, norm = widths[0], generator_norm(recipe)
        self.first = linear(recipe.latent, self.maps * 16)
        self.blocks = nn.ModuleList(ResidualBlock(a, b, norm, "up", first_bias=first_bias) for a, b in pairwise(widths))
        self.norm = BatchNorm(widths[-1]) if recipe.norm == "batch" else identity(0)  # never conditional
        # Only the CIFAR code leaves the last convolution at Glorot's initialisation.
        gain = GLOROT if recipe.network == "resnet" else 2 * GLOROT
        self.output = conv(widths[-1], recipe.channels, 3, gain=gain)

    def forward(self, z: Tensor, label: Tensor | None = None) -> Tensor:
        x = self.first(z).view(-1, self.maps, 4, 4)  # [N, C, 4, 4]
        for block in self.blocks:
            x = block(x, label)
        return torch.tanh(self.output(F.relu(normalised(self.norm, x, label))))


class ResNetCritic(Critic):
    """CIFAR: a first block and blocks that halve down to 8x8, two plain blocks, ReLU, mean over the image, linear."""

    def __init__(self, recipe: WGANGPRecipe) -> None:
        width, norm = recipe.critic_width, critic_norm(recipe)
        super().__init__(width, recipe.classes if recipe.conditional else 0)
        downs = max(0, halvings(recipe.resolution, "wgan-gp") - 2)
        blocks: list[nn.Module] = [FirstBlock(recipe.channels, width)]
        blocks += [ResidualBlock(width, width, norm, "down") for _ in range(downs)]
        blocks += [ResidualBlock(width, width, norm) for _ in range(2)]
        self.blocks = nn.Sequential(*blocks)

    def features(self, x: Tensor) -> Tensor:
        return F.relu(self.blocks(x)).mean((2, 3))


class GoodCritic(Critic):
    """64x64: convolution, blocks that halve and widen down to 4x4, linear on what is left."""

    def __init__(self, recipe: WGANGPRecipe) -> None:
        widths = good_widths(recipe.critic_width, recipe.resolution)[::-1]
        super().__init__(widths[-1] * 16)
        self.first = conv(recipe.channels, widths[0], 3, gain=GLOROT)
        norm = critic_norm(recipe)
        self.blocks = nn.Sequential(*(ResidualBlock(a, b, norm, "down", first_bias=False) for a, b in pairwise(widths)))

    def features(self, x: Tensor) -> Tensor:
        return self.blocks(self.first(x)).flatten(1)


def good_widths(width: int, resolution: int) -> list[int]:
    """Channels from 4x4 to the image, 512, 512, 256, 128, 64 for width 64 at 64x64."""
    levels = halvings(resolution, "wgan-gp")
    return [width * 2 ** max(0, levels - max(i, 1)) for i in range(levels + 1)]


def bottlenecks(widths: list[int], counts: list[int], norm: Norm, resample: Any) -> nn.Sequential:
    """counts[i] plain blocks of widths[i], with a resampling block between two levels."""
    blocks: list[nn.Module] = []
    for level, (width, count) in enumerate(zip(widths, counts, strict=True)):
        blocks += [Bottleneck(widths[level - 1], width, norm, resample)] if level else []
        blocks += [Bottleneck(width, width, norm) for _ in range(count)]
    return nn.Sequential(*blocks)


def deep_widths(width: int, resolution: int) -> tuple[list[int], list[int]]:
    """Channels and numbers of plain blocks from 4x4 up: 512 ... 32 and 6, 6, 6, 6, 5 for width 64 at 64x64."""
    levels = halvings(resolution, "wgan-gp")
    return [width * 2**levels // 2 ** (i + 1) for i in range(levels + 1)], [6] * levels + [5]


class DeepGenerator(nn.Module):
    """101 layers at 64x64: bottlenecks with residuals scaled by 0.3; tanh(x / 5)."""

    def __init__(self, recipe: WGANGPRecipe) -> None:
        super().__init__()
        widths, counts = deep_widths(recipe.width, recipe.resolution)
        self.maps = widths[0]
        self.first = linear(recipe.latent, self.maps * 16)
        self.blocks = bottlenecks(widths, counts, BatchNorm if recipe.norm == "batch" else identity, "up")
        self.output = conv(widths[-1], recipe.channels, 1, gain=GLOROT)

    def forward(self, z: Tensor, label: Tensor | None = None) -> Tensor:
        return torch.tanh(self.output(self.blocks(self.first(z).view(-1, self.maps, 4, 4))) / 5)


class DeepCritic(Critic):
    """101 layers at 64x64, mirrored; f(x) / 5."""

    def __init__(self, recipe: WGANGPRecipe) -> None:
        widths, counts = deep_widths(recipe.critic_width, recipe.resolution)
        super().__init__(widths[0] * 16)
        self.first = conv(recipe.channels, widths[-1], 1, gain=GLOROT)
        self.blocks = bottlenecks(widths[::-1], counts[::-1], critic_norm(recipe), "down")

    def features(self, x: Tensor) -> Tensor:
        return self.blocks(self.first(x)).flatten(1) / 5


def build(recipe: WGANGPRecipe) -> tuple[nn.Module, Critic]:
    """The generator and the critic of this recipe."""
    if recipe.conditional and recipe.network != "resnet":
        raise UserError(f"wgan-gp is conditional with network=resnet only, not {recipe.network}.")
    if recipe.conditional and not recipe.classes:
        raise UserError("conditional wgan-gp needs labelled images, and these have no labels; use conditional=False.")
    if recipe.unit_range and recipe.network != "conv":
        raise UserError(f"wgan-gp has a sigmoid output with network=conv only, not {recipe.network}.")
    if recipe.network == "conv":
        return ConvGenerator(recipe), ConvCritic(recipe)
    if recipe.network == "resnet":
        widths = [recipe.width] * (halvings(recipe.resolution, "wgan-gp") + 1)
        return BlockGenerator(recipe, widths, first_bias=True), ResNetCritic(recipe)
    if recipe.network == "good":
        widths = good_widths(recipe.width, recipe.resolution)
        return BlockGenerator(recipe, widths, first_bias=False), GoodCritic(recipe)
    return DeepGenerator(recipe), DeepCritic(recipe)


class WGANGP(LatentGame):
    """The critic minimises E f(G(z)) - E f(x) + lambda E (|grad f(xhat)| - 1)^2, the generator -E f(G(z)) (eq. 3)."""

    averaged = ("generator",)

    def __init__(self, recipe: WGANGPRecipe) -> None:
        super().__init__()
        self.recipe = recipe
        self.objective = objective(recipe.objective)
        self.term = "wasserstein" if recipe.objective == "wasserstein" else "gan"
        self.prior = Prior(recipe.latent, "normal")
        self.generator, self.critic = build(recipe)
        self.couples = frozenset({"batch-norm"} if recipe.norm == "batch" else ())
        self.players = (
            Player("critic", self.critic, self.critic_loss, steps=recipe.d.steps),
            Player("generator", self.generator, self.generator_loss, steps=recipe.g.steps),
        )

    def stage(self, clock: int) -> Stage:
        decay = linear_decay(clock, self.recipe.hold_kimg, self.recipe.decay_kimg)
        return Stage(settings={name: {"lr": decay * o.lr} for name, o in self.recipe.optimizers().items()})

    def moves(self, step: int) -> list[Move]:
        """d.steps critic moves on new images, then, unless the critic has its head start, the generator."""
        critic = [Move("critic", "data")] * self.recipe.d.steps
        return critic + [Move("generator", "noise")] * (self.recipe.g.steps if step >= self.recipe.head_start else 0)

    # ---- what the players see
    def real(self, round: Round) -> Tensor:
        """Images as the critic sees them, [N, C, R, R]."""
        x = round["image"]
        if self.recipe.dequantise:  # 2 (v / 256 - 1/2) + U(0, 1/128) for pixel values v = 127.5 (x + 1)
            x = (x + 1) * (255 / 256) - 1 + round.uniform("dequantise", *x.shape[1:]) / 128
        return (x + 1) / 2 if self.recipe.unit_range else x

    def fakes(self, round: Round) -> tuple[Tensor, Tensor | None]:
        """The generator's own batch, g_batches times the critic's, and the random classes that it was given."""
        parts, recipe = range(self.recipe.g_batches), self.recipe
        z = torch.cat([self.prior.of(round, f"z{i or ''}") for i in parts])
        label = None
        if recipe.conditional:
            label = torch.cat([(round.uniform(f"label{i or ''}") * recipe.classes).long() for i in parts])
        return self.generator(z, label), label

    # ---- the game
    def critic_loss(self, round: Round) -> Terms:
        real, label = self.real(round), round["label"] if self.recipe.conditional else None
        fake = self.generator(self.prior.of(round), label)
        if label is None:
            judged = judge(self.critic, real, fake, round, self.recipe.penalty)
        else:  # one forward pass on the reals for the critic's value and the classifier
            value, logits = self.critic.both(real)
            judged = judge(lambda x: value if x is real else self.critic(x), real, fake, round, self.recipe.penalty)
        terms = {self.term: self.objective.discriminator(judged.real, judged.fake).mean()}
        round.note("wasserstein_estimate", judged.real.mean() - judged.fake.mean())
        if label is not None:
            terms["class"] = self.recipe.class_weight * F.cross_entropy(logits, label)
            round.note("class_accuracy", (logits.argmax(1) == label).float().mean())
        return {**terms, **judged.penalties}

    def generator_loss(self, round: Round) -> Terms:
        x, label = self.fakes(round)
        if label is None:
            fake, terms = self.critic(x), {}
        else:
            fake, logits = self.critic.both(x)
            terms = {"class": self.recipe.class_weight_g * F.cross_entropy(logits, label)}
        real = None
        if self.objective.uses_real_in_generator:
            real = self.critic(self.real(round)).repeat(self.recipe.g_batches)
        return {self.term: self.objective.generator(fake, real).mean(), **terms}

    # ---- use
    def sample(
        self,
        n: int,
        seed: int = 0,
        *,
        z: Tensor | None = None,
        label: Label = None,
        batch: int = 256,
    ) -> Tensor:
        """n images in [-1, 1], [n, C, R, R], from the seed or from latents z [n, latent].

        label (conditional): one class for all, one each, or None for the classes in turn.
        """
        z = self.draw_latents(n, seed) if z is None else z
        given = (z,)
        if self.recipe.conditional:
            given = (z, chosen_labels(label, len(z), self.recipe.classes, self.device))  # type: ignore[assignment]
        with self.evaluating():
            x = in_parts(self.generator, *given, batch=batch)
        return 2 * x - 1 if self.recipe.unit_range else x
