"""R3GAN: The GAN is dead; long live the GAN! (Huang, Gokaslan, Kuleshov and Tompkin 2024, arXiv:2501.05441).

A discriminator that only has to rank each real image above the fake paired with it does not let modes go, and R1 with
R2 makes that game converge locally (sections 2 and 3); with both, plain residual networks of grouped convolutions need
no normalisation, no styles and no tricks. Official code: brownvc/R3GAN (PyTorch). Where we differ:
- under autocast all layers of a forward pass without a penalty run in bfloat16, and those with one in float32; the
  official code runs the layers of the highest resolutions in bfloat16 everywhere (here `--penalty.mixed`);
- biases are added by the convolutions, which saves a pass over the activations.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from saddlepoint.errors import UserError
from saddlepoint.game import Move, Player, Round, Stage, Terms
from saddlepoint.layers.augment import GROUPS, Augmentation
from saddlepoint.layers.convolution import halvings
from saddlepoint.layers.latent import Label, LatentGame, Prior, chosen_labels
from saddlepoint.layers.resample import downsample2d, setup_filter, upsample2d
from saddlepoint.objectives import objective
from saddlepoint.penalties import judge
from saddlepoint.recipes.r3gan import R3GANRecipe
from saddlepoint.systems.stylegan2 import one_hot

SLOPE = 0.2  # of leaky ReLU


def kernel_of(taps: Sequence[float]) -> Tensor:
    """The resampling filter [k + 1, k + 1]: the taps convolved with (1, 1), as an outer product of sum 1."""
    row = [a + b for a, b in zip([*taps, 0.0], [0.0, *taps], strict=True)]
    return setup_filter(row, separable=False)


def half_cosine(clock: int, start: float, end: float, kimg: float) -> float:
    """From start to end along half a period of a cosine over kimg, and constant after; kimg = 0 is the end at once."""
    if kimg <= 0:
        return end
    passed = min(1.0, clock / (1000 * kimg))
    return start + 0.5 * (1 - math.cos(math.pi * passed)) * (end - start)


def plan(recipe: R3GANRecipe) -> list[tuple[int, int, int]]:
    """(feature maps, groups, blocks) per resolution, from 4x4 up."""
    levels = halvings(recipe.resolution, "r3gan") + 1
    for name in ("widths", "groups"):
        given = len(getattr(recipe, name))
        if given not in (0, levels):
            raise UserError(f"{name} needs a number for each of the {levels} resolutions from 4x4 up, not {given}.")
    if not recipe.blocks or recipe.kernel % 2 == 0:
        raise UserError(f"r3gan needs blocks and an odd kernel, not {recipe.blocks} and {recipe.kernel}.")
    widths = recipe.widths or tuple(min(recipe.channel_base // 2 ** (i + 2), recipe.channel_max) for i in range(levels))
    middle = [width * recipe.expansion for width in widths]
    groups = recipe.groups or tuple(max(1, width // recipe.group) for width in middle)
    for width, count in zip(middle, groups, strict=True):
        if width < 1 or width % count:
            near = next(n for n in range(min(count, max(width, 1)), 0, -1) if width % n == 0)
            raise UserError(f"{width} channels cannot be dealt out to {count} groups; nearest: {near}.")
    blocks = [recipe.blocks[min(i, len(recipe.blocks) - 1)] for i in range(levels)]
    return list(zip(widths, groups, blocks, strict=True))


def started(layer: Any, gain: float = 1.0) -> Any:
    """The layer with normal weights of std gain / sqrt(fan in) and biases of 0."""
    nn.init.normal_(layer.weight, 0.0, gain / math.sqrt(layer.weight[0].numel()))
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
    return layer


def conv1x1(inputs: int, outputs: int) -> nn.Conv2d:
    layer: nn.Conv2d = started(nn.Conv2d(inputs, outputs, 1, bias=False))
    return layer


# ---- layers
class Block(nn.Module):
    """[N, width, H, W] -> the same: x + conv3(lrelu(conv2(lrelu(conv1(x))))), with conv2 grouped and wider.

    The last convolution starts at 0, so a block starts as the identity; the others are scaled down by the fourth root
    of the number of blocks, so that all of them together move the output as one would (Zhang et al. 2019, Fixup,
    arXiv:1901.09321).

    torch's own grouped convolution is the fast form, with second derivatives too: CPU milliseconds of one thread for a
    penalty's gradient by the weights, 32 images of 128 channels in 8 groups at 16x16: 41, as a dense block-diagonal
    kernel 150, as matrices of unfolded patches 163; NHWC as NCHW; in bfloat16 25.
    """

    def __init__(self, width: int, groups: int, total: int, expansion: int = 2, kernel: int = 3) -> None:
        super().__init__()
        middle, gain = width * expansion, math.sqrt(2 / (1 + SLOPE**2)) * total**-0.25
        self.conv1 = started(nn.Conv2d(width, middle, 1), gain)
        self.conv2 = started(nn.Conv2d(middle, middle, kernel, padding=kernel // 2, groups=groups), gain)
        self.conv3 = started(nn.Conv2d(middle, width, 1, bias=False), 0.0)

    def forward(self, x: Tensor) -> Tensor:
        h = F.leaky_relu(self.conv2(F.leaky_relu(self.conv1(x), SLOPE)), SLOPE)
        return x + self.conv3(h)


class Up(nn.Module):
    """Twice the resolution: a 1x1 convolution where the width changes, then the filter."""

    kernel: Tensor

    def __init__(self, inputs: int, outputs: int, taps: Sequence[float]) -> None:
        super().__init__()
        self.conv = nn.Identity() if inputs == outputs else conv1x1(inputs, outputs)
        self.register_buffer("kernel", kernel_of(taps), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        return upsample2d(self.conv(x), self.kernel)


class Down(nn.Module):
    """Half the resolution: the filter, then a 1x1 convolution where the width changes."""

    kernel: Tensor

    def __init__(self, inputs: int, outputs: int, taps: Sequence[float]) -> None:
        super().__init__()
        self.conv = nn.Identity() if inputs == outputs else conv1x1(inputs, outputs)
        self.register_buffer("kernel", kernel_of(taps), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.conv(downsample2d(x, self.kernel))
        return y


def stage(recipe: R3GANRecipe, width: int, groups: int, count: int, total: int) -> nn.Sequential:
    """The residual blocks of one resolution."""
    return nn.Sequential(*(Block(width, groups, total, recipe.expansion, recipe.kernel) for _ in range(count)))


# ---- networks
class Generator(nn.Module):
    """z [N, latent] and a class -> image [N, C, R, R]: learned 4x4 maps, blocks, up, ..., a 1x1 convolution; linear."""

    def __init__(self, recipe: R3GANRecipe, classes: int) -> None:
        super().__init__()
        self.classes, levels = classes, plan(recipe)
        widths, total = [width for width, _, _ in levels], sum(count for _, _, count in levels)
        self.embed = started(nn.Linear(classes, recipe.embedding, bias=False)) if classes else None
        self.basis = nn.Parameter(torch.randn(widths[0], 4, 4))
        self.first = started(nn.Linear(recipe.latent + (recipe.embedding if classes else 0), widths[0], bias=False))
        self.ups = nn.ModuleList(Up(a, b, recipe.taps) for a, b in pairwise(widths))
        self.stages = nn.ModuleList(stage(recipe, *level, total) for level in levels)
        self.output = conv1x1(widths[-1], recipe.channels)

    def forward(self, z: Tensor, label: Tensor | None = None) -> Tensor:
        given = one_hot(label, self.classes)
        if self.embed is not None and given is not None:
            z = torch.cat([z, self.embed(given.to(z.dtype))], 1)
        x = self.basis * self.first(z)[:, :, None, None]  # [N, C, 4, 4]
        x = self.stages[0](x)
        for up, blocks in zip(self.ups, self.stages[1:], strict=True):
            x = blocks(up(x))
        image: Tensor = self.output(x)
        return image


class Discriminator(nn.Module):
    """Image [N, C, R, R] and a class -> logit [N]: the generator backwards; then one 4x4 filter per map, and linear.

    With classes the last layer has as many outputs as the class' vector, and the logit is their product.
    """

    def __init__(self, recipe: R3GANRecipe, classes: int) -> None:
        super().__init__()
        self.classes, levels = classes, plan(recipe)[::-1]
        widths, total = [width for width, _, _ in levels], sum(count for _, _, count in levels)
        size = (recipe.projection or widths[-1]) if classes else 1
        self.first = conv1x1(recipe.channels, widths[0])
        self.stages = nn.ModuleList(stage(recipe, *level, total) for level in levels)
        self.downs = nn.ModuleList(Down(a, b, recipe.taps) for a, b in pairwise(widths))
        self.basis = started(nn.Conv2d(widths[-1], widths[-1], 4, groups=widths[-1], bias=False))
        self.output = started(nn.Linear(widths[-1], size, bias=False))
        self.embed = started(nn.Linear(classes, size, bias=False), 1 / math.sqrt(size)) if classes else None

    def layers(self) -> list[nn.Module]:
        """Convolutions from the image on, as Freeze-D counts them."""
        parts: list[nn.Module] = [self.first, self.stages[0]]
        for down, blocks in zip(self.downs, self.stages[1:], strict=True):
            parts += [down, blocks]
        return [m for part in [*parts, self.basis] for m in part.modules() if isinstance(m, nn.Conv2d)]

    def forward(self, x: Tensor, label: Tensor | None = None) -> Tensor:
        x = self.first(x)
        for blocks, down in zip(self.stages[:-1], self.downs, strict=True):
            x = down(blocks(x))
        x = self.stages[-1](x)
        # The depthwise 4x4 convolution without padding is a weighted sum per map.
        x = self.output((x * self.basis.weight.squeeze(1)).sum((2, 3)))  # [N, size]
        given = one_hot(label, self.classes)
        if self.embed is not None and given is not None:
            return (x * self.embed(given.to(x.dtype))).sum(1)
        return x.squeeze(1)


class R3GAN(LatentGame):
    """D minimises softplus(D(G(z)) - D(x)) + gamma/2 (|grad D(x)|^2 + |grad D(G(z))|^2), G softplus(D(x) - D(G(z)))."""

    averaged = ("generator",)

    def __init__(self, recipe: R3GANRecipe) -> None:
        super().__init__()
        if recipe.conditional and not recipe.classes:
            raise UserError("conditional r3gan needs labelled images, and these have none; use conditional=False.")
        self.recipe = recipe
        self.objective = objective(recipe.objective)
        self.prior = Prior(recipe.latent, "normal")
        self.classes = recipe.classes if recipe.conditional else 0
        self.generator = Generator(recipe, self.classes)
        self.discriminator = Discriminator(recipe, self.classes)
        self.augment = Augmentation(recipe.augment)
        for name in GROUPS["color"]:
            self.augment.pipe.multipliers[name] *= recipe.augment_colour
        self.players = (
            Player("discriminator", self.discriminator, self.discriminator_loss, steps=recipe.d.steps),
            Player("generator", self.generator, self.generator_loss, steps=recipe.g.steps),
        )

    # ---- schedule
    def stage(self, clock: int) -> Stage:
        """Learning rates, Adam's second decay and the average's half-life along half a cosine (appendix)."""
        late = self.recipe.late
        settings: dict[str, dict[str, Any]] = {}
        for name, move in self.recipe.optimizers().items():
            settings[name] = {"lr": half_cosine(clock, move.lr, late.lr * move.lr, late.kimg)}
            if move.kind in ("adam", "adamw"):
                settings[name]["betas"] = (move.betas[0], half_cosine(clock, move.betas[1], late.beta2, late.kimg))
        half_life = half_cosine(clock, 0.0, self.recipe.ema_half_life_kimg, late.kimg)
        return Stage(settings=settings, half_life_kimg=half_life)

    def gamma(self, clock: int) -> float:
        """What the penalties' weights are multiplied with."""
        return half_cosine(clock, 1.0, self.recipe.late.gamma, self.recipe.late.kimg)

    def moves(self, step: int) -> list[Move]:
        """Either player moves on images and latents of its own, as officially."""
        r = self.recipe
        return [Move("discriminator", "data")] * r.d.steps + [Move("generator", "data")] * r.g.steps

    def advance(self, step: int, clock: int) -> None:
        settings, late = self.recipe.augment, self.recipe.late
        self.augment.advance(step, self.recipe.batch)
        if not settings.target:
            self.augment.controller.p.fill_(half_cosine(clock, settings.p, late.augment, late.kimg))

    # ---- what the players see
    def label(self, round: Round) -> Tensor | None:
        return round["label"] if self.classes else None

    def fakes(self, round: Round) -> Tensor:
        images: Tensor = self.generator(self.prior.of(round), self.label(round))
        return images

    def judged(self, round: Round, name: str) -> Callable[[Tensor], Tensor]:
        """The discriminator as a function of images, with this round's labels and augmentation."""
        return lambda images: self.discriminator(self.augment(images, round, name), self.label(round))

    # ---- the game
    def discriminator_loss(self, round: Round) -> Terms:
        penalty, gamma = self.recipe.penalty, self.gamma(round.clock)
        weights = dataclasses.replace(penalty, r1=gamma * penalty.r1, r2=gamma * penalty.r2)
        critics = self.judged(round, "real"), self.judged(round, "fake")
        # The penalties are on the slope by the images as they were before augmentation.
        judged = judge(critics[0], round["image"], self.fakes(round), round, weights, fake_critic=critics[1])
        self.augment.observe(judged.real - judged.fake, round)
        return {"gan": self.objective.discriminator(judged.real, judged.fake).mean(), **judged.penalties}

    def generator_loss(self, round: Round) -> Terms:
        fake, real = self.judged(round, "fake")(self.fakes(round)), None
        if self.objective.uses_real_in_generator:
            real = self.judged(round, "real")(round["image"])
        return {"gan": self.objective.generator(fake, real).mean()}

    # ---- use
    def sample(
        self,
        n: int,
        seed: int = 0,
        *,
        z: Tensor | None = None,
        label: Label = None,
        batch: int = 64,
    ) -> Tensor:
        """n images, clamped to [-1, 1], [n, C, R, R], from the seed or from latents z [n, latent].

        label (conditional): one class for all, one each, or None for the classes in turn.
        """
        z = self.draw_latents(n, seed) if z is None else z
        labels = chosen_labels(label, len(z), self.classes, self.device) if self.classes else None
        images = []
        with self.evaluating():
            for rows in torch.arange(len(z), device=z.device).split(batch):
                images.append(self.generator(z[rows], None if labels is None else labels[rows]))
        if not images:
            return z.new_empty(0, self.recipe.channels, *self.recipe.shape)
        return torch.cat(images).clamp(-1, 1)
