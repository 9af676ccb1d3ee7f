"""SAGAN: Self-Attention Generative Adversarial Networks (Zhang et al. 2018, arXiv:1805.08318).

Residual networks with class-conditional batch norm against a projection discriminator, hinge loss, spectral norm in
both players, a faster discriminator instead of more of its steps, and one layer in each in which distant positions see
each other. Official code: brain-research/self-attention-gan (TensorFlow). Where we differ:
- the vectors of the power iteration are constants of the gradient, as in every PyTorch code; there it flows through;
- they move on once a move, in each player's own moves and the other's; there D's rest while it sees fakes;
- Adam's beta2 is the paper's 0.9; the code leaves TensorFlow's 0.999;
- 1x1 convolutions of shortcuts stand on the side of the resampling that is cheaper: the same function;
- batch statistics are those of the whole batch; there each of four machines has its own 64 images.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from itertools import pairwise
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from saddlepoint.errors import UserError, unknown
from saddlepoint.game import Player, Round, Terms
from saddlepoint.layers.attention import SelfAttention
from saddlepoint.layers.conditional import ConditionalNorm
from saddlepoint.layers.convolution import halvings
from saddlepoint.layers.latent import Label, LatentGame, Prior, chosen_labels, dtype_of, in_parts
from saddlepoint.layers.normalisation import BatchNorm
from saddlepoint.layers.residual import doubled, halved
from saddlepoint.layers.spectral import Spectral, SpectralConv2d, SpectralEmbedding, SpectralLinear
from saddlepoint.objectives import objective
from saddlepoint.penalties import judge
from saddlepoint.recipes.sagan import SAGANRecipe


def level_widths(width: int, levels: int) -> list[int]:
    """Feature maps from 4x4 up: 1024, 1024, 512, 256, 128, 64 for width 64 and five doublings."""
    return [width * 2 ** (levels - max(i, 1)) for i in range(levels + 1)]


class UpBlock(nn.Module):
    """[N, inputs, H, W] -> [N, outputs, 2H, 2W]: norm, ReLU, pixels doubled, conv, norm, ReLU, conv, plus shortcut."""

    def __init__(self, inputs: int, outputs: int, classes: int, spectral: Spectral, momentum: float) -> None:
        super().__init__()
        norm = partial(ConditionalNorm, classes=classes) if classes else BatchNorm
        self.norm1, self.norm2 = norm(inputs, momentum=momentum), norm(outputs, momentum=momentum)
        self.conv1 = SpectralConv2d(inputs, outputs, 3, spectral)
        self.conv2 = SpectralConv2d(outputs, outputs, 3, spectral)
        self.shortcut = SpectralConv2d(inputs, outputs, 1, spectral)

    def forward(self, x: Tensor, label: Tensor | None) -> Tensor:
        given = () if label is None else (label,)
        h = self.conv1(doubled(F.relu(self.norm1(x, *given))))
        return doubled(self.shortcut(x)) + self.conv2(F.relu(self.norm2(h, *given)))


class Generator(nn.Module):
    """z [N, latent] and classes [N] -> image [N, C, R, R] in (-1, 1). classes of floating point [N, K] are weights."""

    def __init__(self, recipe: SAGANRecipe, classes: int) -> None:
        super().__init__()
        spectral, momentum = Spectral(on=recipe.spectral_g), 1 - recipe.norm_decay
        widths = level_widths(recipe.width, halvings(recipe.resolution, "sagan"))
        self.maps, self.conditional = widths[0], bool(classes)
        self.first = SpectralLinear(recipe.latent, 16 * self.maps, spectral)
        self.blocks = nn.ModuleList(UpBlock(a, b, classes, spectral, momentum) for a, b in pairwise(widths))
        places = {8 * 2**i: width for i, width in enumerate(widths[1:])}
        self.attention = attention_layers(sides(recipe), places, spectral)
        self.norm = BatchNorm(widths[-1], momentum=momentum / 10)  # the code's decay 0.9999 beside 0.999
        self.output = SpectralConv2d(widths[-1], recipe.channels, 3, spectral)

    def forward(self, z: Tensor, label: Tensor | None) -> Tensor:
        label = label if self.conditional else None
        x = self.first(z).view(-1, self.maps, 4, 4)  # [N, C, 4, 4]
        for block in self.blocks:
            x = attended(self.attention, block(x, label))
        return torch.tanh(self.output(F.relu(self.norm(x))))


class DownBlock(nn.Module):
    """[N, inputs, H, W] -> [N, outputs, H/2, W/2]: ReLU, conv, ReLU, conv, mean of 2x2, plus shortcut.

    raw: the first block, without ReLU on the image. last: nothing is halved, the shortcut is the identity.
    """

    def __init__(self, inputs: int, outputs: int, spectral: Spectral, *, raw: bool = False, last: bool = False) -> None:
        super().__init__()
        self.raw, self.last = raw, last
        self.conv1 = SpectralConv2d(inputs, outputs, 3, spectral)
        self.conv2 = SpectralConv2d(outputs, outputs, 3, spectral)
        self.shortcut = nn.Identity() if last else SpectralConv2d(inputs, outputs, 1, spectral)

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv2(F.relu(self.conv1(x if self.raw else F.relu(x))))
        return x + h if self.last else self.shortcut(halved(x)) + halved(h)


class Discriminator(nn.Module):
    """Image [N, C, R, R] and classes [N] -> logit [N] = linear(h) + <e_y, h>, h the sum of the last maps' ReLU."""

    def __init__(self, recipe: SAGANRecipe, classes: int) -> None:
        super().__init__()
        spectral = Spectral(on=recipe.spectral_d)
        levels = halvings(recipe.resolution, "sagan")
        widths = [recipe.channels, *level_widths(recipe.critic_width, levels)[:0:-1]]
        blocks = [DownBlock(a, b, spectral, raw=i == 0) for i, (a, b) in enumerate(pairwise(widths))]
        self.blocks = nn.ModuleList([*blocks, DownBlock(widths[-1], widths[-1], spectral, last=True)])
        places = {recipe.resolution // 2 ** (i + 1): width for i, width in enumerate(widths[1:])}
        self.attention = attention_layers(sides(recipe), places, spectral)
        self.output = SpectralLinear(widths[-1], 1, spectral)
        self.embed = SpectralEmbedding(classes, widths[-1], spectral) if classes else None

    def features(self, x: Tensor) -> Tensor:
        """h [N, D]: the sum, not the mean, over the last maps."""
        for block in self.blocks:
            x = block(x) if block.last else attended(self.attention, block(x))
        return F.relu(x).sum((2, 3))

    def forward(self, x: Tensor, label: Tensor | None) -> Tensor:
        h = self.features(x)
        logits: Tensor = self.output(h).squeeze(1)
        return logits if self.embed is None or label is None else logits + (self.embed(label) * h).sum(1)


def sides(recipe: SAGANRecipe) -> tuple[int, ...]:
    """Where attention is wanted. UserError for a side that neither player's maps have."""
    there = [4 * 2**i for i in range(halvings(recipe.resolution, "sagan") + 1)]
    wanted = tuple(side or min(32, recipe.resolution // 2) for side in recipe.attention)
    for side in wanted:
        if side not in there:
            near = min(there, key=lambda each: abs(each - side))
            raise UserError(f"no maps of sagan are {side}x{side}: {', '.join(map(str, there))}; nearest: {near}.")
    return wanted


def attention_layers(wanted: Sequence[int], places: dict[int, int], spectral: Spectral) -> nn.ModuleDict:
    """A layer for each side of this player's maps that is wanted; places: side -> feature maps."""
    return nn.ModuleDict({str(side): SelfAttention(places[side], spectral) for side in places if side in wanted})


def attended(layers: nn.ModuleDict, x: Tensor) -> Tensor:
    """x through the self-attention that stands at its resolution, if there is one."""
    side = str(x.shape[-1])
    y: Tensor = layers[side](x) if side in layers else x
    return y


@torch.no_grad()
def initialise(module: nn.Module) -> None:
    """Glorot's uniform weights, biases 0; class tables of the norms stay at gain 1, offset 0."""
    for layer in module.modules():
        if isinstance(layer, SpectralConv2d | SpectralLinear | SpectralEmbedding):
            nn.init.xavier_uniform_(layer.weight)
            if getattr(layer, "bias", None) is not None:
                nn.init.zeros_(layer.bias)  # type: ignore[arg-type]


class Attention(NamedTuple):
    """images: float [N, C, R, R]. weights: [N, H, W, H/2, W/2], how much each position takes from each pooled one."""

    images: Tensor
    weights: Tensor


class SAGAN(LatentGame):
    """D minimises max(0, 1 - D(x, y)) + max(0, 1 + D(G(z, c), c)), G minimises -D(G(z, c), c) (section 3)."""

    averaged = ("generator",)
    couples = frozenset({"batch-norm"})

    def __init__(self, recipe: SAGANRecipe) -> None:
        super().__init__()
        self.recipe = recipe
        self.objective = objective(recipe.objective)
        self.prior = Prior(recipe.latent, "normal")
        self.classes = recipe.classes if recipe.conditional else 0
        self.generator = Generator(recipe, self.classes)
        self.discriminator = Discriminator(recipe, self.classes)
        initialise(self)
        self.players = (
            Player("discriminator", self.discriminator, self.discriminator_loss, steps=recipe.d.steps),
            Player("generator", self.generator, self.generator_loss, steps=recipe.g.steps),
        )

    # ---- what the players see
    def real_label(self, round: Round) -> Tensor | None:
        return round["label"] if self.classes else None

    def fake_label(self, round: Round) -> Tensor | None:
        """Classes of the fakes [N]: uniform, or those of the round's real images."""
        if not self.classes or self.recipe.labels == "data":
            return self.real_label(round)
        return (round.uniform("label") * self.classes).long()

    def fakes(self, round: Round) -> tuple[Tensor, Tensor | None]:
        """Generated images [N, C, R, R] and their classes."""
        label = self.fake_label(round)
        return self.generator(self.prior.of(round), label), label

    # ---- the game
    def discriminator_loss(self, round: Round) -> Terms:
        y = self.real_label(round)
        fake, c = self.fakes(round)
        judged = judge(
            lambda x: self.discriminator(x, y), round["image"], fake, round, self.recipe.penalty,
            fake_critic=lambda x: self.discriminator(x, c),
        )  # fmt: skip
        return {"gan": self.objective.discriminator(judged.real, judged.fake).mean(), **judged.penalties}

    def generator_loss(self, round: Round) -> Terms:
        x, c = self.fakes(round)
        fake, real = self.discriminator(x, c), None
        if self.objective.uses_real_in_generator:
            real = self.discriminator(round["image"], self.real_label(round))
        return {"gan": self.objective.generator(fake, real).mean()}

    # ---- use
    def given(self, z: Tensor, label: Label) -> Tensor:
        """The classes of len(z) samples, int64 [n], or weights of the classes [n, K]."""
        return chosen_labels(label, len(z), max(1, self.classes), self.device, dtype_of(self))

    def sample(
        self,
        n: int,
        seed: int = 0,
        *,
        z: Tensor | None = None,
        label: Label = None,
        batch: int = 64,
    ) -> Tensor:
        """n images in (-1, 1), [n, C, R, R], from the seed or from latents z [n, latent].

        label: one class for all, one each, None for the classes in turn, or weights of the classes [n, K].
        """
        z = self.draw_latents(n, seed) if z is None else z
        with self.evaluating():
            return in_parts(self.generator, z, self.given(z, label), batch=batch)

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
        maps, where attention stands at more than one (0: the first).
        """
        player = self.generator if images is None else self.discriminator
        layers = player.attention
        if not len(layers):
            raise UserError("this player of this sagan has no attention: train with --attention 16, say.")
        name = str(side or next(iter(layers)))
        if name not in layers:
            raise unknown("side of attended maps", name, list(layers))
        with looking(layers[name]) as seen:
            if images is None:
                images = self.sample(n, seed, z=z, label=label)
            else:
                with self.evaluating():
                    self.discriminator.features(images.to(self.device))
        a = torch.cat(seen)  # [N, HW, HW/4]
        h = int(name)
        return Attention(images, a.view(-1, h, h, h // 2, h // 2))


@contextmanager
def looking(layer: nn.Module) -> Iterator[list[Tensor]]:
    """Collect the attention weights of every forward pass inside."""
    seen: list[Tensor] = []
    handle = layer.register_forward_pre_hook(lambda layer, inputs: seen.append(layer.weights(*inputs)))
    try:
        yield seen
    finally:
        handle.remove()


def attention_pictures(found: Attention, points: Sequence[tuple[float, float]], *, dim: float = 0.35) -> Tensor:
    """For each image: itself with the query points marked, then for each point what it looks at, [N (1 + P), 3, R, R].

    points: (y, x) from 0 to 1. The image is dimmed to `dim` of its brightness and lit in the point's colour where it
    looks, in proportion to the largest weight.
    """
    colours = torch.tensor([[1.0, 0.4, 0.0], [0.0, 0.8, 0.6], [0.35, 0.6, 1.0], [1.0, 0.85, 0.1], [0.9, 0.4, 0.7]])
    images, weights = (found.images.float().cpu() + 1) / 2, found.weights.float().cpu()
    side, r = weights.shape[1], images.shape[-1]
    images = images[:, :1].expand(-1, 3, -1, -1) if images.shape[1] == 1 else images[:, :3]  # [N, 3, R, R]
    marked, made = images.clone(), []
    for p, (y, x) in enumerate(points):
        colour = colours[p % len(colours)].view(3, 1, 1)
        row, column = (min(int(v * side), side - 1) for v in (y, x))
        look = weights[:, row, column].unsqueeze(1)  # [N, 1, H/2, W/2]
        look = F.interpolate(look / look.amax((2, 3), keepdim=True), r, mode="bilinear", align_corners=False)
        made.append(torch.lerp(dim * images, colour.expand_as(images), look))
        step = r // side
        for each in (marked, made[-1]):
            each[:, :, row * step : (row + 1) * step, column * step : (column + 1) * step] = colour
    return 2 * torch.stack([marked, *made], 1).flatten(0, 1) - 1
