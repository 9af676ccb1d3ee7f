"""BigGAN and BigGAN-deep (Brock, Donahue and Simonyan 2018, arXiv:1809.11096).

SAGAN made large: classes enter through one shared vector into every batch norm, the latent too, weights are orthogonal
at first and spectrally normalised, and at the end latents are truncated: less variety for more fidelity. Official code
of the first author: ajbrock/BigGAN-PyTorch. Where we differ:
- running statistics and spectral vectors move once a move, not once per micro-batch; over several processes the batch
  statistics are those of the global batch, where the official code has each device's own;
- the average is of weights; its spectral vectors are the live ones, its batch statistics are measured anew, and for
  truncated latents once more for each truncation (standing statistics);
- the weight of the orthogonal penalty is the paper's beta; the official code's is twice as large for the same effect;
- under bf16 the repetition of pixels is folded into the convolution that follows, a mean over 2x2 pixels into the one
  before it: 4x4 kernels of stride 2, the same function at less than half of the multiplications;
- data without classes are one class.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import partial
from itertools import pairwise
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from saddlepoint.errors import UserError
from saddlepoint.game import Player, Round, Stage, Terms
from saddlepoint.layers.attention import SelfAttention
from saddlepoint.layers.conditional import (
    ConditionalNorm,
    TabulatedBatchNorm,
    batch_norm,
    standing,
    standing_statistics,
    truncated,
)
from saddlepoint.layers.latent import Label, LatentGame, Prior, chosen_labels, dtype_of, in_parts
from saddlepoint.layers.residual import doubled, halved
from saddlepoint.layers.spectral import (
    ClassTable,
    Spectral,
    SpectralConv2d,
    SpectralEmbedding,
    SpectralLinear,
    followed,
    settled,
    singular_values,
)
from saddlepoint.objectives import at_least_float32, objective
from saddlepoint.penalties import judge, orthogonal
from saddlepoint.recipes.biggan import BigGANRecipe
from saddlepoint.systems.sagan import Attention, looking

# Units of feature maps per resolution (tables 4 to 9): the generator's from 4x4 up, the discriminator's blocks'.
UNITS = {
    64: (16, 16, 8, 4, 2),
    128: (16, 16, 8, 4, 2, 1),
    256: (16, 16, 8, 8, 4, 2, 1),
    512: (16, 16, 8, 8, 4, 2, 1, 1),
}
D_UNITS = {
    64: (1, 2, 4, 8, 16),
    128: (1, 2, 4, 8, 16, 16),
    256: (1, 2, 4, 8, 8, 16, 16),
    512: (1, 1, 2, 4, 8, 8, 16, 16),
}
STATISTICS_BATCH = 64  # latents in each batch of standing statistics


# ---- plans
class Step(NamedTuple):
    """A block: maps in and out, whether it changes the resolution, and whether attention follows it."""

    inputs: int
    outputs: int
    resample: bool = False
    attention: bool = False


def doublings(recipe: BigGANRecipe) -> int:
    """From the first maps to the image."""
    found = round(math.log2(max(recipe.resolution, 1) / recipe.base)) if recipe.base > 0 else 0
    if found < 1 or recipe.base * 2**found != recipe.resolution:
        near = max(recipe.base, 1) * 2 ** max(found, 1)
        raise UserError(
            f"biggan needs a resolution of {recipe.base} times a power of two, from {2 * recipe.base} on, not "
            f"{recipe.resolution}; nearest: {near}."
        )
    return found


def maps(recipe: BigGANRecipe, width: int, *, down: bool = False) -> list[int]:
    """Feature maps per resolution from the first maps up; down: of the discriminator's blocks, from the image on."""
    levels = doublings(recipe)
    if recipe.width_max:
        tapered = [min(width * 2**i, recipe.width_max) for i in range(levels + 1)]
        return tapered if down else tapered[::-1]
    if levels <= 3:  # the discriminator halves twice at most
        return [4 * width] * (min(2, levels) + 2 if down else levels + 1)
    table = D_UNITS if down else UNITS
    if 4 * 2**levels not in table:
        raise UserError(
            f"there are no published widths for {recipe.resolution}x{recipe.resolution}: give width_max, the largest "
            "number of maps."
        )
    return [width * n for n in table[4 * 2**levels]]


def generator_steps(recipe: BigGANRecipe) -> list[Step]:
    """The generator's blocks, from the first maps up."""
    if recipe.layout:
        return _laid_out(recipe)
    steps, side, own = [], recipe.base, maps(recipe, recipe.width)
    depth = recipe.depth if recipe.network == "deep" else 1
    for a, b in pairwise(own):
        side *= 2
        steps += [Step(a, a)] * (depth - 1)
        steps.append(Step(a, b, True, side in recipe.attention))
    return steps


def _laid_out(recipe: BigGANRecipe) -> list[Step]:
    """`layout` as blocks."""
    steps: list[Step] = []
    for word in recipe.layout:
        numbers = word.removesuffix(":up").split(":")
        if word == "attention" and steps:
            steps[-1] = steps[-1]._replace(attention=True)
        elif len(numbers) == 2 and all(n.isdigit() and int(n) > 0 for n in numbers):
            a, b = (recipe.width * int(n) for n in numbers)
            steps.append(Step(a, b, word.endswith(":up")))
        else:
            raise UserError(f'layout has {word!r}; expected "16:8", "16:8:up", or "attention" after a block.')
    fits = all(a.outputs == b.inputs for a, b in pairwise(steps))
    if not fits or sum(step.resample for step in steps) != doublings(recipe):
        raise UserError(
            f"layout {' '.join(recipe.layout)!r} does not lead from {recipe.base}x{recipe.base} to {recipe.resolution}x"
            f"{recipe.resolution} with each block taking what the one before puts out."
        )
    return steps


def discriminator_levels(recipe: BigGANRecipe) -> list[list[Step]]:
    """The discriminator's blocks by level, from the image down; the deep one has a convolution before them."""
    own, deep = maps(recipe, recipe.d_width or recipe.width, down=True), recipe.network == "deep"
    small = doublings(recipe) <= 3 and not recipe.width_max
    halvings = min(2, doublings(recipe)) if small else doublings(recipe)
    pairs = list(pairwise(own if deep else [recipe.channels, *own]))
    side, found = recipe.resolution, []
    for level, (a, b) in enumerate(pairs):
        down = level < halvings
        side = side // 2 if down else side
        attends = (16 if recipe.official_sides and small else side) in recipe.d_attention
        depth = (recipe.d_depth or recipe.depth) if deep else 1
        steps = [Step(a, b, down), *[Step(b, b)] * (depth - 1)]
        found.append([*steps[:-1], steps[-1]._replace(attention=attends)])
    if not recipe.projection and len(found) > 1:  # the class' planes
        first = found[1][0]
        found[1][0] = first._replace(inputs=first.inputs + planes(recipe, found[0][-1].outputs))
    return found


def planes(recipe: BigGANRecipe, beside: int) -> int:
    """Maps that say the class to a discriminator without projection, beside those of the image."""
    return min(recipe.embedding, beside)


# ---- blocks
def widened(weight: Tensor) -> Tensor:
    """3x3 kernels [O, I, 3, 3] -> 4x4: their full convolution with 2x2 ones."""
    return (
        F.pad(weight, (0, 1, 0, 1))
        + F.pad(weight, (1, 0, 0, 1))
        + F.pad(weight, (0, 1, 1, 0))
        + F.pad(weight, (1, 0, 1, 0))
    )


def upward(conv: SpectralConv2d, x: Tensor) -> Tensor:
    """conv(doubled(x)) for a 3x3 convolution; under autocast as one transposed 4x4 convolution, which has 4/9 of the
    multiplications (in float32 the official order keeps the official rounding).
    """
    if not torch.is_autocast_enabled(x.device.type):
        y: Tensor = conv(doubled(x))
        return y
    weight = widened(conv.normalised().flip(2, 3)).transpose(0, 1)  # [I, O, 4, 4]
    return F.conv_transpose2d(x, weight, conv.bias, stride=2, padding=1)


def downward(conv: SpectralConv2d, x: Tensor) -> Tensor:
    """halved(conv(x)) for a 3x3 convolution; under autocast as one 4x4 convolution of stride 2."""
    if not torch.is_autocast_enabled(x.device.type):
        return halved(conv(x))
    return F.conv2d(x, 0.25 * widened(conv.normalised()), conv.bias, stride=2, padding=1)


class Unconditional(nn.Module):
    """Batch norm with learned gain and offset, called as `ConditionalNorm` is."""

    def __init__(self, channels: int, eps: float, biased: bool, tables: int = 0) -> None:
        super().__init__()
        self.norm = batch_norm(channels, eps=eps, biased=biased, tables=tables)

    def forward(self, x: Tensor, label: Tensor | None = None, vector: Tensor | None = None) -> Tensor:
        y: Tensor = self.norm(x)
        return y


Norm = Callable[[int], nn.Module]


class GBlock(nn.Module):
    """[N, a, H, W] -> [N, b, 2H, 2W]: shortcut + conv(relu(norm(conv(up(relu(norm(x))))))); 1x1 shortcut."""

    def __init__(self, step: Step, norm: Norm, spectral: Spectral) -> None:
        super().__init__()
        self.up = step.resample
        self.conv1 = SpectralConv2d(step.inputs, step.outputs, 3, spectral)
        self.conv2 = SpectralConv2d(step.outputs, step.outputs, 3, spectral)
        learned = step.inputs != step.outputs or step.resample
        self.conv_sc = SpectralConv2d(step.inputs, step.outputs, 1, spectral) if learned else nn.Identity()
        self.bn1, self.bn2 = norm(step.inputs), norm(step.outputs)

    def forward(self, x: Tensor, label: Tensor | None, vector: Tensor | None) -> Tensor:
        h = F.relu(self.bn1(x, label, vector))
        h = upward(self.conv1, h) if self.up else self.conv1(h)
        h = self.conv2(F.relu(self.bn2(h, label, vector)))
        x = self.conv_sc(x)  # a 1x1 convolution and a repetition commute
        return h + (doubled(x) if self.up else x)


class DeepGBlock(nn.Module):
    """[N, a, H, W] -> [N, b, H', W'] through a/4 maps: 1x1, [up] 3x3, 3x3, 1x1; the shortcut drops maps from b on."""

    def __init__(self, step: Step, norm: Norm, spectral: Spectral) -> None:
        super().__init__()
        self.up, self.outputs, hidden = step.resample, step.outputs, max(1, step.inputs // 4)
        self.conv1 = SpectralConv2d(step.inputs, hidden, 1, spectral)
        self.conv2 = SpectralConv2d(hidden, hidden, 3, spectral)
        self.conv3 = SpectralConv2d(hidden, hidden, 3, spectral)
        self.conv4 = SpectralConv2d(hidden, step.outputs, 1, spectral)
        self.bn1, self.bn2, self.bn3, self.bn4 = norm(step.inputs), norm(hidden), norm(hidden), norm(hidden)
        if step.outputs > step.inputs:
            raise UserError(f"a deep block of the generator drops maps: {step.inputs} cannot become {step.outputs}.")

    def forward(self, x: Tensor, label: Tensor | None, vector: Tensor | None) -> Tensor:
        h = self.conv1(F.relu(self.bn1(x, label, vector)))
        h = F.relu(self.bn2(h, label, vector))
        h = upward(self.conv2, h) if self.up else self.conv2(h)
        h = self.conv3(F.relu(self.bn3(h, label, vector)))
        h = self.conv4(F.relu(self.bn4(h, label, vector)))
        x = x[:, : self.outputs]
        return h + (doubled(x) if self.up else x)


class DBlock(nn.Module):
    """[N, a, H, W] -> [N, b, H', W']: shortcut + [down] conv(relu(conv(relu(x)))); the first block takes x as it is."""

    def __init__(self, step: Step, spectral: Spectral, *, wide: bool, first: bool) -> None:
        super().__init__()
        hidden = step.outputs if wide else step.inputs
        self.down, self.first = step.resample, first
        self.conv1 = SpectralConv2d(step.inputs, hidden, 3, spectral)
        self.conv2 = SpectralConv2d(hidden, step.outputs, 3, spectral)
        learned = step.inputs != step.outputs or step.resample
        self.conv_sc = SpectralConv2d(step.inputs, step.outputs, 1, spectral) if learned else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        h = F.relu(self.conv1(x if self.first else F.relu(x)))
        if self.down:
            return downward(self.conv2, h) + self.conv_sc(halved(x))  # a 1x1 convolution and a mean commute
        h = self.conv2(h) + self.conv_sc(x)
        return h


class DeepDBlock(nn.Module):
    """[N, a, H, W] -> [N, b, H', W'] through b/4 maps: 1x1, 3x3, 3x3, [down] 1x1, each after relu.

    The shortcut is the mean over 2x2 where maps are halved, and a 1x1 convolution makes the maps that are new.
    """

    def __init__(self, step: Step, spectral: Spectral) -> None:
        super().__init__()
        self.down, hidden = step.resample, max(1, step.outputs // 4)
        self.conv1 = SpectralConv2d(step.inputs, hidden, 1, spectral)
        self.conv2 = SpectralConv2d(hidden, hidden, 3, spectral)
        self.conv3 = SpectralConv2d(hidden, hidden, 3, spectral)
        self.conv4 = SpectralConv2d(hidden, step.outputs, 1, spectral)
        new, self.kept = step.outputs - step.inputs, min(step.inputs, step.outputs)
        self.conv_sc = SpectralConv2d(step.inputs, new, 1, spectral) if new > 0 else None

    def forward(self, x: Tensor) -> Tensor:
        h = F.relu(self.conv3(F.relu(self.conv2(F.relu(self.conv1(F.relu(x)))))))
        if self.down:
            h, x = halved(h), halved(x)
        h, kept = self.conv4(h), x[:, : self.kept]
        return h + (kept if self.conv_sc is None else torch.cat([kept, self.conv_sc(x)], 1))


# ---- networks
def followed_by_attention(block: nn.Module, step: Step, spectral: Spectral) -> nn.ModuleList:
    """A block, and attention over its maps where the plan says so; named as officially, blocks.3.0 and blocks.3.1."""
    return nn.ModuleList([block, *([SelfAttention(step.outputs, spectral)] if step.attention else [])])


class Generator(nn.Module):
    """z [N, latent] and a class -> image [N, C, R, R] in (-1, 1).

    label: classes int64 [N], or weights of the classes [N, K], whose vectors (or norms) are mixed.
    """

    def __init__(self, recipe: BigGANRecipe, classes: int) -> None:
        super().__init__()
        steps, spectral = generator_steps(recipe), spectral_of(recipe, "generator")
        self.deep, self.base, self.channels = recipe.network == "deep", recipe.base, recipe.channels
        self.hierarchical, self.class_norm = recipe.hierarchical, recipe.class_norm
        slots = len(steps) + 1 if recipe.hierarchical and not self.deep else 1
        self.chunk = recipe.latent // slots
        if not self.chunk:
            raise UserError(
                f"latent is {recipe.latent}; expected at least {slots}: a dimension for each of so many parts."
            )
        self.latent = self.chunk * slots
        beside = recipe.shared or not recipe.class_norm  # is there one vector of the class?
        self.shared = ClassTable(classes, recipe.embedding) if beside else None
        own = self.chunk if recipe.hierarchical else 0
        size = own + (recipe.embedding if recipe.shared and recipe.class_norm else 0)
        first = self.chunk + (recipe.embedding if self.first_sees_class else 0)
        norm = self._norms(recipe, size, classes, spectral)
        self.linear = SpectralLinear(first, steps[0].inputs * recipe.base**2, spectral)
        kind = DeepGBlock if self.deep else GBlock
        self.blocks = nn.ModuleList(followed_by_attention(kind(s, norm, spectral), s, spectral) for s in steps)
        last, tables = steps[-1].outputs, recipe.truncation_tables
        self.output_norm: nn.Module = nn.Identity()
        if recipe.output_norm:
            self.output_norm = batch_norm(last, eps=recipe.output_eps, biased=recipe.biased_norm, tables=tables)
        self.output = SpectralConv2d(last, last if recipe.wide_output else recipe.channels, 3, spectral)
        for layer in self.modules():
            if isinstance(layer, TabulatedBatchNorm):
                layer.swapped = recipe.swapped_tables

    @property
    def first_sees_class(self) -> bool:
        """Is the class' vector beside z in the first layer?"""
        return self.shared is not None and (not self.class_norm or (self.deep and self.hierarchical))

    def _norms(self, recipe: BigGANRecipe, size: int, classes: int, spectral: Spectral) -> Norm:
        """What normalises the blocks."""
        rows = classes if recipe.class_norm and not recipe.shared else 0
        tables = recipe.truncation_tables
        if not rows and not size and recipe.norm == "batch":
            return partial(Unconditional, eps=recipe.norm_eps, biased=recipe.biased_norm, tables=tables)
        return partial(
            ConditionalNorm, classes=rows, size=size, spectral=spectral, style=recipe.norm, eps=recipe.norm_eps,
            biased=recipe.biased_norm, tables=tables,
        )  # fmt: skip

    def parts(self, z: Tensor, label: Tensor) -> tuple[Tensor, list[Tensor | None]]:
        """What the first layer sees [N, ...], and the vector of each block's norms [N, size]."""
        y = None if self.shared is None else self.shared(label).to(z.dtype)
        chunks = z.split(self.chunk, 1)
        in_norms = y if self.class_norm else None
        first = chunks[0] if y is None or not self.first_sees_class else torch.cat([y, chunks[0]], 1)
        if not self.hierarchical:
            return first, [in_norms] * len(self.blocks)
        own = [z] * len(self.blocks) if self.deep else chunks[1:]
        return first, [each if in_norms is None else torch.cat([in_norms, each], 1) for each in own]

    def forward(self, z: Tensor, label: Tensor) -> Tensor:
        first, vectors = self.parts(z, label)
        x = self.linear(first).view(len(z), -1, self.base, self.base)  # [N, C, 4, 4]
        for layers, vector in zip(self.blocks, vectors, strict=True):
            assert isinstance(layers, nn.ModuleList)
            x = layers[0](x, label, vector)
            for attention in layers[1:]:
                x = attention(x)
        x = self.output(F.relu(self.output_norm(x)))
        return torch.tanh(x[:, : self.channels])


class Discriminator(nn.Module):
    """Image [N, C, R, R] and a class -> logit [N]: blocks, relu, *sum* over positions, linear + <vector, features>."""

    def __init__(self, recipe: BigGANRecipe, classes: int) -> None:
        super().__init__()
        levels, spectral, deep = discriminator_levels(recipe), spectral_of(recipe, "discriminator"), recipe.network
        self.projection = recipe.projection
        self.input_conv: nn.Module = nn.Identity()
        if deep == "deep":
            self.input_conv = SpectralConv2d(recipe.channels, levels[0][0].inputs, 3, spectral)
        self.blocks = nn.ModuleList()
        for i, level in enumerate(levels):
            if deep == "deep":
                blocks: list[nn.Module] = [DeepDBlock(step, spectral) for step in level]
            else:
                blocks = [DBlock(step, spectral, wide=recipe.wide, first=i == 0) for step in level]
            last = followed_by_attention(blocks[-1], level[-1], spectral)
            self.blocks.append(nn.ModuleList([*blocks[:-1], *last]))
        features = levels[-1][-1].outputs
        size = features if recipe.projection else planes(recipe, levels[0][-1].outputs)
        self.linear = SpectralLinear(features, 1, spectral)
        self.embed = SpectralEmbedding(classes, size, spectral)

    def layers(self) -> list[nn.Module]:
        """Convolutions from the image on, as Freeze-D counts them."""
        parts = [self.input_conv, *self.blocks]
        return [m for part in parts for m in part.modules() if isinstance(m, nn.Conv2d)]

    def features(self, x: Tensor, label: Tensor) -> Tensor:
        """Sums over positions [N, D]."""
        x = self.input_conv(x)
        for i, level in enumerate(self.blocks):
            assert isinstance(level, nn.ModuleList)
            if i == 1 and not self.projection:
                told = self.embed(label).to(x.dtype)[:, :, None, None].expand(-1, -1, *x.shape[2:])
                x = torch.cat([x, told], 1)
            for layer in level:
                x = layer(x)
        return at_least_float32(F.relu(x)).sum((2, 3))

    def forward(self, x: Tensor, label: Tensor) -> Tensor:
        h = self.features(x, label)
        with torch.autocast(h.device.type, enabled=False):  # bf16 would round a logit to one part in 256
            logit: Tensor = self.linear(h).squeeze(1)
            return logit + (self.embed(label) * h).sum(1) if self.projection else logit


def spectral_of(recipe: BigGANRecipe, player: str) -> Spectral:
    """How a network's weights are normalised."""
    values, steps, on = recipe.singular_values, recipe.power_iterations, recipe.spectral_g
    if player == "discriminator":
        values, steps, on = recipe.d_singular_values or values, recipe.d_power_iterations or steps, recipe.spectral_d
    return Spectral(on, values, steps, recipe.spectral_eps, stored=recipe.stored_vectors)


@torch.no_grad()
def initialise(module: nn.Module, kind: str) -> None:
    """Weights of convolutions, linear layers and tables; biases stay as torch makes them."""
    starts: dict[str, Callable[[Tensor], Tensor]] = {
        "orthogonal": nn.init.orthogonal_,
        "normal": partial(nn.init.normal_, std=0.02),
        "glorot": nn.init.xavier_uniform_,
    }
    if any(p.is_meta for p in module.parameters()):
        return
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear | nn.Embedding):
            starts[kind](layer.weight)
    settled(module)


# ---- the game
class BigGAN(LatentGame):
    """D minimises max(0, 1 - D(x, y)) + max(0, 1 + D(G(z, c), c)), G -D(G(z, c), c) + beta |W W^T off diagonal|^2."""

    averaged = ("generator",)

    def __init__(self, recipe: BigGANRecipe) -> None:
        super().__init__()
        self.recipe = recipe
        self.objective = objective(recipe.objective)
        self.classes = recipe.classes if recipe.conditional else 0
        self.generator = Generator(recipe, max(1, self.classes))
        self.discriminator = Discriminator(recipe, max(1, self.classes))
        initialise(self, recipe.initial)
        self.prior = Prior(self.generator.latent, "normal")
        normed = recipe.norm == "batch" or recipe.output_norm
        self.couples = frozenset({"batch-norm"}) if normed else frozenset()
        self._standing: dict[float, tuple[int | None, list[tuple[Tensor, Tensor]]]] = {}
        self.players = (
            Player("discriminator", self.discriminator, self.discriminator_loss, steps=recipe.d.steps),
            Player("generator", self.generator, self.generator_loss, steps=recipe.g.steps),
        )

    def stage(self, clock: int) -> Stage:
        """The average is the generator itself at first."""
        return Stage(half_life_kimg=0.0 if clock < 1000 * self.recipe.ema_start_kimg else None)

    # ---- what the players see
    def label(self, round: Round, *, fake: bool) -> Tensor:
        """Classes [N] of the reals, or those that the generator is asked for."""
        if not self.classes:
            return torch.zeros(round.size, dtype=torch.int64, device=round.device)
        if fake and self.recipe.labels == "uniform":
            return (self.classes * round.uniform("class")).long().clamp(max=self.classes - 1)
        return round["label"]

    def fakes(self, round: Round, label: Tensor) -> Tensor:
        images: Tensor = self.generator(self.prior.of(round), label)
        return images

    def judged(self, label: Tensor) -> Callable[[Tensor], Tensor]:
        """The discriminator as a function of images of these classes."""
        return lambda images: self.discriminator(images, label)

    # ---- the game
    def discriminator_loss(self, round: Round) -> Terms:
        y, c = self.label(round, fake=False), self.label(round, fake=True)
        judged = judge(
            self.judged(y), round["image"], self.fakes(round, c), round, self.recipe.penalty, fake_critic=self.judged(c)
        )
        terms = {"gan": self.objective.discriminator(judged.real, judged.fake).mean(), **judged.penalties}
        if self.recipe.orthogonal_d and round.asks("orthogonal"):
            terms["orthogonal"] = self.recipe.orthogonal_d * orthogonal(matrices(self.discriminator))
        self.monitor(round, "discriminator")
        return terms

    def generator_loss(self, round: Round) -> Terms:
        c = self.label(round, fake=True)
        fake, real = self.judged(c)(self.fakes(round, c)), None
        if self.objective.uses_real_in_generator:
            real = self.judged(self.label(round, fake=False))(round["image"])
        terms = {"gan": self.objective.generator(fake, real).mean()}
        if self.recipe.orthogonal and round.asks("orthogonal"):
            terms["orthogonal"] = self.recipe.orthogonal * orthogonal(matrices(self.generator))
        self.monitor(round, "generator")
        return terms

    def monitor(self, round: Round, player: str) -> None:
        """Log the largest singular value of all layers and of the first: they explode before a collapse (section 4)."""
        layers = followed(self.get_submodule(player))
        round.note(f"singular_value.{player}", singular_values(self.get_submodule(player)).max())
        round.note(f"singular_value.{player}.first", layers[0].get_buffer("sv0").squeeze(0))

    # ---- use
    def draw_latents(self, n: int, seed: int = 0, truncation: float = 1.0) -> Tensor:
        """n latents [n, latent], a pure function of the seed and (smoothly) of the truncation: see `truncate`."""
        z = self.prior.draw(n, seed, self.device, dtype_of(self))
        return truncate(z, truncation, self.recipe.truncate)

    def sample(
        self,
        n: int,
        seed: int = 0,
        *,
        z: Tensor | None = None,
        label: Label = None,
        truncation: float = 1.0,
        standing: bool = True,
        batch: int = 64,
    ) -> Tensor:
        """n images in (-1, 1), [n, C, R, R], from the seed or from latents z [n, latent], which are taken as they are.

        label: one class for all, one each, or None for the classes in turn; 2.25 is three quarters of class 2 and a
        quarter of 3; or weights of all classes, float [K] or [n, K]. truncation: 1 is off; below, latents stay within
        +-2 times it, and the norms use statistics of such latents: standing ones, or those of the published tables.
        standing: without, the running statistics of training (where there are no tables).
        """
        z = self.draw_latents(n, seed, truncation) if z is None else z
        classes = self.classes_of(label, len(z))
        with self.evaluating(), self.truncated(truncation if standing or self.recipe.truncation_tables else 1.0):
            if not len(z):
                return z.new_empty(0, self.recipe.channels, *self.recipe.shape)
            return in_parts(self.generator, z, classes, batch=batch)

    def classes_of(self, label: Label, n: int) -> Tensor:
        """What `sample` takes as label, for the generator: classes int64 [n], or weights of the classes [n, K]."""
        return chosen_labels(label, n, max(1, self.classes), self.device, dtype_of(self))

    def truncated(self, truncation: float) -> ExitStack:
        """Inside, the generator's norms use the statistics of latents truncated so."""
        stack = ExitStack()
        if self.recipe.truncation_tables:
            stack.enter_context(truncated(self.generator, truncation))
        elif truncation < 1 and self.recipe.standing and self.couples:
            stack.enter_context(standing(self.standing_statistics(truncation)))
        return stack

    def standing_statistics(self, truncation: float) -> list[tuple[Tensor, Tensor]]:
        """Mean statistics of the norms over `standing` batches of truncated latents, all classes in turn; remembered
        until a weight changes.
        """
        version = hash(tuple((id(t), t._version) for t in (*self.generator.parameters(), *self.generator.buffers())))
        known, found = self._standing.get(truncation, (None, []))
        if known != version:
            found = standing_statistics(self.generator, self._passes(truncation))
            self._standing = {truncation: (version, found)}
        return found

    def _passes(self, truncation: float) -> Iterator[None]:
        for seed in range(self.recipe.standing):
            z = self.draw_latents(STATISTICS_BATCH, seed, truncation)
            self.generator(z, self.classes_of(None, STATISTICS_BATCH))
            yield

    def attention(
        self,
        n: int = 8,
        seed: int = 0,
        *,
        z: Tensor | None = None,
        label: Label = None,
        images: Tensor | None = None,
        side: int = 0,
    ) -> Attention:
        """Where the positions of a generated image look; with `images` [n, C, R, R], where the discriminator looks.

        weights[i, y, x] is what position (y, x) of image i takes from each 2x2 of positions; it sums to 1. side: of the
        maps, where several attend (0: the largest). `sagan.attention_pictures` draws what is found.
        """
        player = self.generator if images is None else self.discriminator
        found: dict[int, Tensor] = {}
        with ExitStack() as stack:
            layers = [layer for layer in player.modules() if isinstance(layer, SelfAttention)]
            looked = [stack.enter_context(looking(layer)) for layer in layers]
            if images is None:
                images = self.sample(n, seed, z=z, label=label)
            else:
                classes = self.classes_of(label, len(images))
                with self.evaluating():
                    self.discriminator(images.to(self.device), classes)
        for seen in looked:
            a = torch.cat(seen)  # [N, HW, HW/4]
            h = math.isqrt(a.shape[1])
            found[h] = a.view(-1, h, h, h // 2, h // 2)
        if not found or (side and side not in found):
            raise UserError(f"no maps of side {side or 'any'} attend here; there are: {sorted(found) or 'none'}.")
        return Attention(images, found[side or max(found)])


def matrices(module: nn.Module) -> list[Tensor]:
    """Weights of two axes and more, but for the generator's shared vectors."""
    left = getattr(module, "shared", None)
    own = None if left is None else left.weight
    return [p for p in module.parameters() if p.ndim >= 2 and p is not own]


def truncate(z: Tensor, truncation: float, kind: str = "threshold") -> Tensor:
    """Standard normal numbers as truncated ones, each a smooth increasing function of its own.

    threshold: normal within +-2 truncation, as if numbers beyond were drawn again (section 3.1): with F the normal
    distribution on that range, z -> F^-1(Phi(z)); 1 and more leaves z as it is. scale: truncation times normal numbers
    within +-2, as the published modules are used. Raises UserError for a negative truncation.
    """
    if truncation < 0:
        raise UserError(f"truncation is {truncation:g}; expected 0 or more: 1 is off.")
    if kind == "threshold" and truncation >= 1:
        return z
    bound = 2.0 if kind == "scale" else 2.0 * truncation
    if bound == 0:
        return torch.zeros_like(z)
    inside = torch.erf(z.double() / math.sqrt(2)) * math.erf(bound / math.sqrt(2))
    x = math.sqrt(2) * torch.erfinv(inside)
    return (x * truncation if kind == "scale" else x).clamp(-2 * truncation, 2 * truncation).to(z.dtype)
