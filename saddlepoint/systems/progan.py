"""ProGAN: Progressive Growing of GANs for Improved Quality, Stability, and Variation (Karras, Aila, Laine and Lehtinen
2018, arXiv:1710.10196).

Both networks begin at 4x4; layers for twice the resolution are added again and again, each faded in. Weights are scaled
at run time, the generator's pixels are normalised, and the discriminator sees how much the samples of a batch differ.
Official code: tkarras/progressive_growing_of_gans (TensorFlow 1). Where we differ:
- the running average moves after a round and by images, not together with the discriminator's step and by steps;
- the schedule is read every round, not every fourth; Adam's epsilon is bias-corrected (TensorFlow's is not);
- a gradient that is not finite stops the run with an error, where the official code skips that step in silence;
- a convolution with its upsampling is one transposed convolution in every resolution: the same function;
- the generator's classes are those of the round's images (the official code draws other ones from the data).
`port="zoo"` is the other implementation in use, facebookresearch/pytorch_GAN_zoo, which is another network.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from saddlepoint.errors import UserError
from saddlepoint.game import Player, Round, Terms
from saddlepoint.layers.equalised import EqualisedConv2d, EqualisedLinear, pixel_norm
from saddlepoint.layers.growing import (
    ROOT2,
    Growing,
    GrowingDiscriminator,
    GrowingGame,
    deviation,
    enlarged,
    image_at,
    up_conv,
)
from saddlepoint.layers.latent import Label, Prior, chosen_labels, in_parts
from saddlepoint.objectives import at_least_float32, objective
from saddlepoint.penalties import between, judge, one_sided, slope, two_sided
from saddlepoint.recipes.growing import Level
from saddlepoint.recipes.progan import ProGANRecipe


class Epilogue(nn.Module):
    """Leaky ReLU, then pixel norm."""

    def __init__(self, recipe: ProGANRecipe) -> None:
        super().__init__()
        self.leak, self.normalised, self.eps = recipe.leak, recipe.pixel_norm, recipe.pixel_norm_eps

    def forward(self, x: Tensor) -> Tensor:
        x = F.leaky_relu(x, self.leak)
        return pixel_norm(x, self.eps) if self.normalised else x


class Doubling(nn.Module):
    """[N, inputs, H, W] -> [N, outputs, 2H, 2W]: nearest x2, convolution, epilogue, convolution, epilogue."""

    def __init__(self, inputs: int, outputs: int, epilogue: Epilogue) -> None:
        super().__init__()
        self.conv0 = EqualisedConv2d(inputs, outputs, 3, gain=ROOT2)
        self.conv1 = EqualisedConv2d(outputs, outputs, 3, gain=ROOT2)
        self.epilogue = epilogue

    def forward(self, x: Tensor) -> Tensor:
        x = self.epilogue(up_conv(x, self.conv0.scaled(), self.conv0.offset()))
        return self.epilogue(self.conv1(x))


class Generator(Growing):
    """z [N, latent] (and a class) -> image [N, C, R, R]; linear output, about [-1, 1] but not bounded."""

    def __init__(self, recipe: ProGANRecipe) -> None:
        super().__init__(recipe)
        widths, inputs = recipe.widths(), recipe.latent + (recipe.classes if recipe.conditional else 0)
        self.classes = recipe.classes if recipe.conditional else 0
        self.normalised, self.eps = recipe.normalise_latents, recipe.pixel_norm_eps
        # A bias for every channel, not for every pixel (the GAN zoo has the latter).
        self.first = EqualisedLinear(inputs, widths[0] * 16, gain=ROOT2 / 4, bias=recipe.port == "zoo")
        self.first_bias = nn.Parameter(torch.zeros(widths[0])) if recipe.port == "official" else None
        self.conv = EqualisedConv2d(widths[0], widths[0], 3, gain=ROOT2)
        self.epilogue = Epilogue(recipe)
        self.blocks = nn.ModuleList(Doubling(a, b, self.epilogue) for a, b in pairwise(widths))
        self.to_rgb = nn.ModuleList(EqualisedConv2d(w, recipe.channels, 1) for w in widths)

    def at(self, level: Level, z: Tensor, label: Tensor | None = None) -> Tensor:
        """Images at the level's own resolution, [N, C, r, r]. label: class numbers [N] or one-hot rows [N, classes]."""
        if self.classes:
            if label is None:
                raise UserError("this generator is conditional: a class for every latent is needed.")
            z = torch.cat([z, one_hot(label, self.classes).to(z.dtype)], 1)
        z = pixel_norm(z, self.eps) if self.normalised else z
        x = self.first(z).view(z.shape[0], -1, 4, 4)  # [N, C, 4, 4]
        x = x if self.first_bias is None else x + self.first_bias.view(1, -1, 1, 1)
        x = self.epilogue(self.conv(self.epilogue(x)))
        return image_at(level, x, list(self.blocks), list(self.to_rgb))

    def forward(self, z: Tensor, label: Tensor | None = None, lod: float | None = None) -> Tensor:
        """Images at full resolution, their pixels repeated where the networks are smaller; lod None: as training is."""
        return enlarged(self.at(self.level(lod), z, label), self.resolution)


class Discriminator(GrowingDiscriminator):
    """Image [N, C, R, R] -> score [N], and class logits [N, K] where the game is conditional."""

    def __init__(self, recipe: ProGANRecipe) -> None:
        outputs = 1 + (recipe.classes if recipe.conditional else 0)
        zoo = recipe.port == "zoo"
        super().__init__(
            recipe,
            outputs,
            widths=recipe.widths() if recipe.depths[0] else (),
            slope=recipe.leak,
            fused=recipe.fused and not zoo,
            deviation=ConsecutiveStd(recipe.stddev_group) if zoo else deviation(recipe.stddev_group),
        )
        self.blends_first = not zoo

    def level(self, lod: float | None = None) -> Level:
        level = super().level(lod)
        if not self.blends_first and level.fade == 1 and level.resolution < self.resolution:
            return Level(2 * level.resolution, 0.0)  # the zoo's alpha = 1, which at 8x8 is not the level below
        return level

    def both_at(self, level: Level, x: Tensor) -> tuple[Tensor, Tensor]:
        """Scores [N] and class logits [N, K]."""
        out = self.at(level, x)
        return out[:, 0], out[:, 1:]

    def both(self, x: Tensor, lod: float | None = None) -> tuple[Tensor, Tensor]:
        return self.both_at(self.level(lod), x)

    def forward(self, x: Tensor, lod: float | None = None) -> Tensor:
        return self.both(x, lod)[0]


def one_hot(label: Tensor, classes: int) -> Tensor:
    """Class numbers [N] as rows of zeros and a one; rows [N, classes] stay as they are."""
    return label if label.ndim == 2 else F.one_hot(label, classes)


# ---- the GAN zoo's networks
class ConsecutiveStd(nn.Module):
    """The GAN zoo's minibatch deviation: groups of consecutive samples (all, where `group` does not divide the batch),
    unbiased variance, zeros for a single sample. Appends one channel to [N, C, H, W].
    """

    def __init__(self, group: int = 4) -> None:
        super().__init__()
        self.group, self.features = group, 1

    def forward(self, x: Tensor) -> Tensor:
        n, channels, height, width = x.shape
        size = min(self.group, n)
        size = n if n % size else size
        if size == 1:
            return torch.cat([x, x.new_zeros(n, 1, height, width)], 1)
        groups = x.reshape(n // size, size, channels, height, width)
        spread = (groups.var(1) + 1e-8).sqrt().mean((1, 2, 3))  # [N/G]
        maps = spread.repeat_interleave(size).view(n, 1, 1, 1).expand(-1, -1, height, width)
        return torch.cat([x, maps], 1)


def equalised_layers(*networks: nn.Module) -> Iterator[EqualisedConv2d | EqualisedLinear]:
    for network in networks:
        for module in network.modules():
            if isinstance(module, EqualisedConv2d | EqualisedLinear):
                yield module


def as_zoo(*networks: nn.Module) -> None:
    """Scales of the GAN zoo: sqrt(2 / fan_in) in every layer, the last ones included, and for the biases too."""
    for layer in equalised_layers(*networks):
        layer.scale = layer.bias_scale = math.sqrt(2 / layer.weight[0].numel())


def not_equalised(*networks: nn.Module) -> None:
    """Put every layer's scale into its first weights."""
    for layer in equalised_layers(*networks):
        with torch.no_grad():
            layer.weight.mul_(layer.scale)
        layer.scale = layer.bias_scale = 1.0


# ---- the game
class ProGAN(GrowingGame):
    """The discriminator minimises E D(G(z)) - E D(x) + lambda E(|grad D(xhat)| - 1)^2 + epsilon E D(x)^2, the generator
    -E D(G(z)) (appendix A.1); with labels both also a classifier's cross entropy.
    """

    generator: Generator
    discriminator: Discriminator

    def __init__(self, recipe: ProGANRecipe) -> None:
        super().__init__()
        if recipe.conditional and not recipe.classes:
            raise UserError(
                "conditional progan needs labelled images, and these have no labels; use conditional=False."
            )
        self.recipe: ProGANRecipe = recipe
        self.objective = objective(recipe.objective)
        self.term = "wasserstein" if recipe.objective == "wasserstein" else "gan"
        self.prior = Prior(recipe.latent, "normal")
        self.generator, self.discriminator = Generator(recipe), Discriminator(recipe)
        if recipe.port == "zoo":
            as_zoo(self.generator, self.discriminator)
        if not recipe.equalised:
            not_equalised(self.generator, self.discriminator)
        self.couples = frozenset({"minibatch-stddev"} if recipe.stddev_group > 1 else ())
        self.players = (
            Player("discriminator", self.discriminator, self.discriminator_loss, steps=recipe.d.steps),
            Player("generator", self.generator, self.generator_loss, steps=recipe.g.steps),
        )

    def fakes(self, round: Round) -> tuple[Tensor, Tensor | None]:
        """Images at the round's level, and the classes that they were made for."""
        label = round["label"] if self.recipe.conditional else None
        return self.generator.at(self.level_of(round), self.prior.of(round), label), label

    def discriminator_loss(self, round: Round) -> Terms:
        level, recipe = self.level_of(round), self.recipe
        real, (fake, label) = self.reals(round), self.fakes(round)
        real_score, real_logits = self.discriminator.both_at(level, real)
        fake_score, fake_logits = self.discriminator.both_at(level, fake)

        def critic(x: Tensor) -> Tensor:
            known = {id(real): real_score, id(fake): fake_score}
            return known[id(x)] if id(x) in known else self.discriminator.both_at(level, x)[0]

        judged = judge(critic, real, fake, round, replace(recipe.penalty, gradient_penalty=0.0))
        terms = {self.term: self.objective.discriminator(judged.real, judged.fake).mean()}
        if recipe.penalty.gradient_penalty and round.asks("gradient_penalty"):
            points = between(real, at_least_float32(fake), round.uniform("mix"))
            _, squared = slope(critic, points, mixed=recipe.penalty.mixed)
            sided = one_sided if recipe.penalty.one_sided else two_sided
            # lambda / s^2 (|grad| - s)^2 for a slope of s
            terms["gradient_penalty"] = recipe.penalty.gradient_penalty * sided(squared / recipe.slope**2).mean()
        terms |= judged.penalties
        if label is not None:
            cost = cross_entropy(real_logits, label) + cross_entropy(fake_logits, label)
            terms["class"] = recipe.class_weight * cost
            kinds = one_hot(label, recipe.classes).argmax(1)
            round.note("class_accuracy", (real_logits.argmax(1) == kinds).float().mean())
        round.note("wasserstein_estimate", real_score.mean() - fake_score.mean())
        return terms

    def generator_loss(self, round: Round) -> Terms:
        level = self.level_of(round)
        x, label = self.fakes(round)
        fake, logits = self.discriminator.both_at(level, x)
        real = None
        if self.objective.uses_real_in_generator:
            real = self.discriminator.both_at(level, self.reals(round))[0]
        terms = {self.term: self.objective.generator(fake, real).mean()}
        if label is not None:
            terms["class"] = self.recipe.class_weight * cross_entropy(logits, label)
        return terms

    # ---- use
    def sample(
        self,
        n: int,
        seed: int = 0,
        *,
        z: Tensor | None = None,
        label: Label = None,
        lod: float | None = None,
        batch: int = 64,
    ) -> Tensor:
        """n images, cut to [-1, 1], [n, C, R, R], from the seed or from latents z [n, latent].

        label (conditional): one class for all, one each, or None for the classes in turn. lod: level of detail (0 full
        resolution, 1 half of it, ...); None takes what training has reached. Lower levels have their pixels repeated.
        """
        z = self.draw_latents(n, seed) if z is None else z
        given = [z]
        if self.recipe.conditional:
            given.append(chosen_labels(label, len(z), self.recipe.classes, self.device))
        with self.evaluating():
            return in_parts(lambda *part: self.generator(*part, lod=lod), *given, batch=batch).clamp(-1, 1)


def cross_entropy(logits: Tensor, label: Tensor) -> Tensor:
    """Mean cross entropy of class numbers [N] or one-hot rows [N, classes]."""
    return F.cross_entropy(at_least_float32(logits), label if label.ndim == 1 else label.to(logits.dtype))
