"""GANs with R1: Which Training Methods for GANs do actually Converge? (Mescheder et al. 2018, arXiv:1801.04406).

The penalty gamma/2 E|grad D(x)|^2 on real data makes the game converge locally where its unregularised form circles for
ever (section 4), so that deep residual networks without any normalisation train at high resolutions. Official code:
LMescheder/GAN_stability (PyTorch). Where we differ:
- the code's reg_param has no factor 1/2: its 10 is gamma = 20 here;
- its WGAN has the other sign (the critic is driven down on reals); ours is its mirror image;
- the restart and the annealing of the learning rate, both off in every released configuration, are left out;
- labels of the generator's own batch are those of the discriminator's last one, with new latents.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from saddlepoint.errors import UserError
from saddlepoint.game import Player, Round, Terms
from saddlepoint.layers.convolution import halvings
from saddlepoint.layers.latent import Label, LatentGame, Prior, chosen_labels, in_parts, line
from saddlepoint.layers.residual import doubled
from saddlepoint.objectives import objective
from saddlepoint.penalties import judge
from saddlepoint.recipes.gan_r1 import GANR1Recipe

Levels = list[list[tuple[int, int]]]  # per resolution, the (inputs, outputs) of its blocks
SCALE = 0.1  # of every residual branch


def levels(recipe: GANR1Recipe) -> tuple[int, Levels]:
    """Side of the first maps, and the generator's blocks by resolution; the discriminator's are their mirror image."""
    if recipe.network == "resnet":
        doublings, start = halvings(recipe.resolution, "gan-r1"), 4
        most = recipe.width_max
    else:
        doublings, start = 5, recipe.resolution // 32
        most = min(recipe.width_max, 16 * recipe.width)
        if start < 1 or recipe.resolution % 32:
            near = max(32, 32 * round(recipe.resolution / 32))
            raise UserError(
                f"gan-r1 with network=resnet2 needs a resolution that is a multiple of 32, not {recipe.resolution}; "
                f"nearest: {near}."
            )
    widths = [min(recipe.width * 2**i, most) for i in reversed(range(doublings + 1))]
    if recipe.network == "resnet":
        return start, [[pair] for pair in zip(widths, [*widths[1:], widths[-1]], strict=True)]
    return start, [[(a, b), (b, b)] for a, b in zip([widths[0], *widths], widths, strict=False)]


def mirrored(blocks: Levels) -> Levels:
    """From the image down: everything in the other order and direction."""
    return [[(b, a) for a, b in reversed(level)] for level in reversed(blocks)]


class Block(nn.Module):
    """[N, inputs, H, W] -> [N, outputs, H, W]: shortcut(x) + 0.1 conv(lrelu(conv(lrelu(x)))), leaky with slope 0.2.

    The shortcut is the identity, or a 1x1 convolution without bias where the number of maps changes.
    """

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        middle = min(inputs, outputs)
        self.conv1 = nn.Conv2d(inputs, middle, 3, padding=1)
        self.conv2 = nn.Conv2d(middle, outputs, 3, padding=1)
        self.shortcut = nn.Identity() if inputs == outputs else nn.Conv2d(inputs, outputs, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv2(F.leaky_relu(self.conv1(F.leaky_relu(x, 0.2)), 0.2))
        return torch.add(self.shortcut(x), h, alpha=SCALE)


def stack(blocks: Levels) -> nn.ModuleList:
    """A sequence of blocks for each resolution."""
    return nn.ModuleList(nn.Sequential(*(Block(a, b) for a, b in level)) for level in blocks)


class Generator(nn.Module):
    """z [N, latent] and a class [N] -> image [N, C, R, R] in (-1, 1): linear, blocks, pixels repeated, tanh.

    The class' vector has length 1; a floating-point label [N, embedding] is taken for that vector before it is scaled.
    """

    def __init__(self, recipe: GANR1Recipe, labels: int) -> None:
        super().__init__()
        self.start, blocks = levels(recipe)
        self.embed = nn.Embedding(labels, recipe.embedding)
        self.first = nn.Linear(recipe.latent + recipe.embedding, blocks[0][0][0] * self.start**2)
        self.levels = stack(blocks)
        self.output = nn.Conv2d(recipe.width, recipe.channels, 3, padding=1)

    def forward(self, z: Tensor, label: Tensor) -> Tensor:
        vector = label if label.is_floating_point() else self.embed(label)
        vector = vector / torch.linalg.vector_norm(vector, dim=1, keepdim=True)
        x = self.first(torch.cat([z, vector], 1)).view(len(z), -1, self.start, self.start)  # [N, C, 4, 4]
        for index, level in enumerate(self.levels):
            x = level(doubled(x) if index else x)
        return torch.tanh(self.output(F.leaky_relu(x, 0.2)))


class Discriminator(nn.Module):
    """Image [N, C, R, R] and a class [N] -> logit [N]: the mirrored blocks, 3x3 means of stride 2, a logit per class.

    At the border the means count the padded zeros, as officially.
    """

    def __init__(self, recipe: GANR1Recipe, labels: int) -> None:
        super().__init__()
        start, blocks = levels(recipe)
        self.first = nn.Conv2d(recipe.channels, recipe.width, 3, padding=1)
        self.levels = stack(mirrored(blocks))
        self.output = nn.Linear(blocks[0][0][0] * start**2, labels)

    def forward(self, x: Tensor, label: Tensor) -> Tensor:
        x = self.first(x)
        for index, level in enumerate(self.levels):
            x = level(F.avg_pool2d(x, 3, stride=2, padding=1) if index else x)
        logits: Tensor = self.output(F.leaky_relu(x.flatten(1), 0.2))
        return logits.gather(1, label.unsqueeze(1)).squeeze(1)


class GANR1(LatentGame):
    """D minimises softplus(-D(x)) + softplus(D(G(z))) + gamma/2 |grad D(x)|^2, G softplus(-D(G(z))) (eq. 8)."""

    averaged = ("generator",)

    def __init__(self, recipe: GANR1Recipe) -> None:
        super().__init__()
        if recipe.conditional and not recipe.classes:
            raise UserError("conditional gan-r1 needs labelled images, and these have none; use conditional=False.")
        if recipe.conditional and recipe.embedding < 2:
            raise UserError(
                f"embedding={recipe.embedding} makes all classes alike, since their vectors are brought to length 1; "
                "nearest: embedding=2."
            )
        self.recipe = recipe
        self.objective = objective(recipe.objective)
        self.prior = Prior(recipe.latent, "normal")
        self.classes = recipe.classes if recipe.conditional else 0
        self.generator = Generator(recipe, max(1, self.classes))
        self.discriminator = Discriminator(recipe, max(1, self.classes))
        self.players = (
            Player("discriminator", self.discriminator, self.discriminator_loss, steps=recipe.d.steps),
            Player("generator", self.generator, self.generator_loss, steps=recipe.g.steps),
        )

    def label(self, round: Round) -> Tensor:
        """Classes [N]; without labels all are of one class."""
        return round["label"] if self.classes else torch.zeros(round.size, dtype=torch.int64, device=round.device)

    def fakes(self, round: Round) -> Tensor:
        images: Tensor = self.generator(self.prior.of(round), self.label(round))
        return images

    def judged(self, x: Tensor, label: Tensor) -> Tensor:
        logits: Tensor = self.discriminator(x, label)
        return logits

    # ---- the game
    def discriminator_loss(self, round: Round) -> Terms:
        label = self.label(round)
        judged = judge(lambda x: self.judged(x, label), round["image"], self.fakes(round), round, self.recipe.penalty)
        return {"gan": self.objective.discriminator(judged.real, judged.fake).mean(), **judged.penalties}

    def generator_loss(self, round: Round) -> Terms:
        label = self.label(round)
        fake, real = self.judged(self.fakes(round), label), None
        if self.objective.uses_real_in_generator:
            real = self.judged(round["image"], label)
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
        """n images in (-1, 1), [n, C, R, R], from the seed or from latents z [n, latent].

        label (conditional): one class for all, one each, None for the classes in turn, or vectors [n, embedding].
        """
        z = self.draw_latents(n, seed) if z is None else z
        if isinstance(label, Tensor) and label.is_floating_point():
            given = label.expand(len(z), -1)
        else:
            given = chosen_labels(label, len(z), max(1, self.classes), self.device)
        with self.evaluating():
            return in_parts(self.generator, z, given, batch=batch)

    def interpolate(  # type: ignore[override]
        self, start: Tensor, end: Tensor, steps: int = 8, *, label: Label = 0
    ) -> Tensor:
        """Images [steps, C, R, R] along the great circle between two latents [latent], all of one class."""
        t = torch.linspace(0, 1, steps, device=start.device, dtype=start.dtype)
        z = torch.cat([sphere(start[None], end[None], float(each)) for each in t])
        return self.sample(steps, z=z, label=label)

    def interpolate_classes(  # type: ignore[override]
        self, z: Tensor, first: int, second: int, steps: int = 8
    ) -> Tensor:
        """Images [steps, C, R, R] of one latent z [latent], from one class to another through their vectors."""
        ends = self.generator.embed(chosen_labels([first, second], 2, max(1, self.classes), self.device))
        ends = (ends / torch.linalg.vector_norm(ends, dim=1, keepdim=True)).detach()
        return self.sample(steps, z=z.expand(steps, -1), label=line(ends[0], ends[1], steps))


def sphere(start: Tensor, end: Tensor, t: float) -> Tensor:
    """(sin((1 - t) w) start + sin(t w) end) / sin w with w the angle between them; rows [N, D]."""
    cosine = F.cosine_similarity(start, end, dim=1).clamp(-1, 1).unsqueeze(1)
    angle = torch.acos(cosine)
    sine = torch.sin(angle)
    curved = (torch.sin((1 - t) * angle) * start + torch.sin(t * angle) * end) / sine
    return torch.where(sine > 1e-6, curved, torch.lerp(start, end, t))  # parallel rows have no circle of their own
