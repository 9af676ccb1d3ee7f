"""DCGAN: Unsupervised Representation Learning with Deep Convolutional GANs (Radford et al. 2015, arXiv:1511.06434).

Official code: Newmu/dcgan_code (Theano). Where we differ:
- the official generator and discriminator each use every other minibatch; here both move in a round, on a minibatch
  each (draws="data"): the same schedule counted in pairs, but with the discriminator first;
- batch norm keeps running statistics for sampling; batch_statistics=True samples with the batch's own, as officially;
- eps of batch norm is 1e-5 (official 1e-8, which float32 variances below 1e-8 cannot use);
- the decay of the conditional variant's learning rate falls with every image, not once per epoch.
What the paper does with a trained DCGAN (latent arithmetic, features for a classifier) is in `dcgan_uses`.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from saddlepoint.errors import UserError
from saddlepoint.game import Move, Player, Round, Stage, Terms
from saddlepoint.layers.augment import Augmentation
from saddlepoint.layers.convolution import UpConv, halvings, normal_initialisation
from saddlepoint.layers.latent import Label, LatentGame, Prior, chosen_labels, dtype_of, in_parts
from saddlepoint.layers.normalisation import BatchNorm
from saddlepoint.objectives import objective
from saddlepoint.penalties import judge
from saddlepoint.recipes.dcgan import DCGANRecipe
from saddlepoint.schedules import linear_decay


def same_conv(inputs: int, outputs: int, kernel: int, stride: int = 1) -> nn.Conv2d:
    """Convolution without bias that keeps the resolution, or halves it with stride 2."""
    return nn.Conv2d(inputs, outputs, kernel, stride=stride, padding=kernel // 2, bias=False)


class Generator(nn.Module):
    """z [N, latent] -> image [N, C, R, R] in (-1, 1): linear to 4x4, doublings with BN and ReLU, tanh."""

    def __init__(self, recipe: DCGANRecipe) -> None:
        super().__init__()
        kernel, doubled = recipe.kernel, recipe.convs == 2
        widths = [recipe.width * 2**i for i in reversed(range(halvings(recipe.resolution, "dcgan")))]
        self.widest = widths[0]
        self.project = nn.Linear(recipe.latent, self.widest * 16, bias=False)
        self.norm = BatchNorm(self.widest * 16)  # over all 16 positions separately, as the official code
        layers: list[nn.Module] = []
        outputs: list[int] = []
        for before, after in itertools.pairwise([*widths, recipe.channels]):
            layers.append(UpConv(before, before if doubled else after, kernel))
            layers += [same_conv(before, after, kernel)] if doubled else []
            outputs += [before, after] if doubled else [after]
        self.layers = nn.ModuleList(layers)
        self.norms = nn.ModuleList(BatchNorm(n) for n in outputs[:-1])

    def forward(self, z: Tensor) -> Tensor:
        x = F.relu(self.norm(self.project(z))).view(-1, self.widest, 4, 4)  # [N, C, 4, 4]
        for layer, norm in zip(self.layers[:-1], self.norms, strict=True):
            x = F.relu(norm(layer(x)))
        return torch.tanh(self.layers[-1](x))


class Discriminator(nn.Module):
    """Image [N, C, R, R] -> logit [N]: halvings to 4x4 with BN (not in the first) and leaky ReLU, one linear unit."""

    def __init__(self, recipe: DCGANRecipe) -> None:
        super().__init__()
        widths = [recipe.width * 2**i for i in range(halvings(recipe.resolution, "dcgan"))]
        layers: list[nn.Module] = []
        outputs: list[int] = []
        for before, after in itertools.pairwise([recipe.channels, *widths]):
            if recipe.convs == 2:
                layers.append(same_conv(before, after, recipe.kernel))
                outputs.append(after)
            layers.append(same_conv(outputs[-1] if outputs else before, after, recipe.kernel, stride=2))
            outputs.append(after)
        self.layers = nn.ModuleList(layers)
        self.norms = nn.ModuleList([nn.Identity(), *(BatchNorm(n) for n in outputs[1:])])
        self.judge = nn.Linear(widths[-1] * 16, 1, bias=False)

    def activations(self, x: Tensor) -> list[Tensor]:
        """Outputs of all convolutional layers, [N, C_i, H_i, W_i]."""
        found = []
        for layer, norm in zip(self.layers, self.norms, strict=True):
            x = F.leaky_relu(norm(layer(x)), 0.2)
            found.append(x)
        return found

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.judge(self.activations(x)[-1].flatten(1)).squeeze(1)
        return logits

    def features(self, x: Tensor, grid: int = 4) -> Tensor:
        """All layers' activations max-pooled to grid x grid, flattened, joined: [N, sum C_i grid^2] (section 5.1)."""
        return torch.cat([F.adaptive_max_pool2d(a, min(grid, a.shape[-1])).flatten(1) for a in self.activations(x)], 1)


# ---- the conditional networks of the appendix: y at every layer, batch norm without gain and offset
def joined(x: Tensor, y: Tensor) -> Tensor:
    """The one-hot class [N, K] appended to units [N, C] or, as constant maps, to channels [N, C, H, W]."""
    return torch.cat([x, y if x.ndim == 2 else y[:, :, None, None].expand(-1, -1, *x.shape[2:])], 1)


class ConditionalGenerator(nn.Module):
    """(z [N, latent], y [N, K]) -> image in (0, 1): two dense layers to R/4, two doublings, sigmoid."""

    def __init__(self, recipe: DCGANRecipe) -> None:
        super().__init__()
        classes, self.side, self.width = recipe.classes, quarter(recipe.resolution), recipe.width
        maps = 2 * self.width * self.side**2
        self.first = nn.Linear(recipe.latent + classes, recipe.dense, bias=False)
        self.second = nn.Linear(recipe.dense + classes, maps, bias=False)
        self.third = UpConv(2 * self.width + classes, self.width, recipe.kernel)
        self.output = UpConv(self.width + classes, recipe.channels, recipe.kernel)
        self.norms = nn.ModuleList(BatchNorm(n, affine=False) for n in (recipe.dense, maps, self.width))

    def forward(self, z: Tensor, y: Tensor) -> Tensor:
        h = F.relu(self.norms[0](self.first(joined(z, y))))
        h = F.relu(self.norms[1](self.second(joined(h, y)))).view(-1, 2 * self.width, self.side, self.side)
        h = F.relu(self.norms[2](self.third(joined(h, y))))  # [N, width, R/2, R/2]
        return torch.sigmoid(self.output(joined(h, y)))


class ConditionalDiscriminator(nn.Module):
    """(image in [0, 1], y [N, K]) -> logit [N]: two halvings, one dense layer, one linear unit."""

    def __init__(self, recipe: DCGANRecipe) -> None:
        super().__init__()
        classes, width, side = recipe.classes, recipe.width, quarter(recipe.resolution)
        self.first = same_conv(recipe.channels + classes, width, recipe.kernel, stride=2)
        self.second = same_conv(width + classes, 2 * width, recipe.kernel, stride=2)
        self.third = nn.Linear(2 * width * side**2 + classes, recipe.dense, bias=False)
        self.judge = nn.Linear(recipe.dense + classes, 1, bias=False)
        self.norms = nn.ModuleList(BatchNorm(n, affine=False) for n in (2 * width, recipe.dense))

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        h = F.leaky_relu(self.first(joined(x, y)), 0.2)
        h = F.leaky_relu(self.norms[0](self.second(joined(h, y))), 0.2)  # [N, 2 width, R/4, R/4]
        h = F.leaky_relu(self.norms[1](self.third(joined(h.flatten(1), y))), 0.2)
        logits: Tensor = self.judge(joined(h, y)).squeeze(1)
        return logits


def quarter(resolution: int) -> int:
    """A quarter of the resolution, which must be a multiple of 4 from 8 on."""
    if resolution < 8 or resolution % 4:
        near = max(8, 4 * round(resolution / 4))
        raise UserError(
            f"conditional dcgan needs a resolution that is a multiple of 4, not {resolution}; nearest: {near}."
        )
    return resolution // 4


class DCGAN(LatentGame):
    """The discriminator minimises the sum of BCE on real and fake, the generator the non-saturating loss."""

    averaged = ("generator",)
    couples = frozenset({"batch-norm"})

    def __init__(self, recipe: DCGANRecipe) -> None:
        super().__init__()
        if recipe.conditional and not recipe.classes:
            raise UserError("conditional dcgan needs labelled images, and these have no labels; use conditional=False.")
        self.recipe = recipe
        self.objective = objective(recipe.objective)
        self.prior = Prior(recipe.latent, recipe.prior)
        self.generator = ConditionalGenerator(recipe) if recipe.conditional else Generator(recipe)
        self.discriminator = ConditionalDiscriminator(recipe) if recipe.conditional else Discriminator(recipe)
        self.augment = Augmentation(recipe.augment) if recipe.augment.operations else None
        normal_initialisation(self)
        for layer in self.generator.modules():
            if isinstance(layer, BatchNorm):
                layer.batch_statistics = recipe.batch_statistics
        self.players = (
            Player("discriminator", self.discriminator, self.discriminator_loss, steps=recipe.d.steps),
            Player("generator", self.generator, self.generator_loss, steps=recipe.g.steps),
        )

    def stage(self, clock: int) -> Stage:
        decay = linear_decay(clock, self.recipe.hold_kimg, self.recipe.decay_kimg)
        return Stage(settings={name: {"lr": decay * o.lr} for name, o in self.recipe.optimizers().items()})

    def moves(self, step: int) -> list[Move]:
        return [Move(m.player, self.recipe.draws if m.player == "generator" else "data") for m in super().moves(step)]

    def advance(self, step: int, clock: int) -> None:
        if self.augment:
            self.augment.advance(step, self.recipe.batch)

    def given(self, round: Round) -> tuple[Tensor, ...]:
        """What both players are told: nothing, or the class as a one-hot row [N, K]; fakes take the reals' classes."""
        return (self.one_hot(round["label"]),) if self.recipe.conditional else ()

    def one_hot(self, label: Tensor) -> Tensor:
        return label if label.ndim == 2 else F.one_hot(label, self.recipe.classes).to(dtype_of(self))

    def real(self, round: Round) -> Tensor:
        """Images as the discriminator sees them: the conditional networks work in [0, 1]."""
        return (round["image"] + 1) / 2 if self.recipe.conditional else round["image"]

    def judged(self, round: Round, name: str) -> Callable[[Tensor], Tensor]:
        """The discriminator as a function of images, with this round's classes and augmentation (in [-1, 1])."""
        y, unit = self.given(round), self.recipe.conditional

        def judged(x: Tensor) -> Tensor:
            if self.augment:
                x = self.augment(2 * x - 1 if unit else x, round, name)
                x = (x + 1) / 2 if unit else x
            logits: Tensor = self.discriminator(x, *y)
            return logits

        return judged

    def discriminator_loss(self, round: Round) -> Terms:
        fake = self.generator(self.prior.of(round), *self.given(round))
        on_real, on_fake = self.judged(round, "real"), self.judged(round, "fake")
        judged = judge(on_real, self.real(round), fake, round, self.recipe.penalty, fake_critic=on_fake)
        if self.augment:
            self.augment.observe(judged.real, round)
        return {"gan": self.objective.discriminator(judged.real, judged.fake).mean(), **judged.penalties}

    def generator_loss(self, round: Round) -> Terms:
        fake, real = self.generator(self.prior.of(round), *self.given(round)), None
        if self.objective.uses_real_in_generator:
            real = self.judged(round, "real")(self.real(round))
        return {"gan": self.objective.generator(self.judged(round, "fake")(fake), real).mean()}

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
        with self.evaluating():
            if not self.recipe.conditional:
                return in_parts(self.generator, z, batch=batch)
            y = self.one_hot(chosen_labels(label, len(z), self.recipe.classes, self.device))
            return 2 * in_parts(self.generator, z, y, batch=batch) - 1
