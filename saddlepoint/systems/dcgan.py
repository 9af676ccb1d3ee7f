"""DCGAN: Unsupervised Representation Learning with Deep Convolutional GANs (Radford, Metz, Chintala 2015, arXiv:1511.06434).

Official code: Newmu/dcgan_code (Theano). Where we differ:
- the official generator and discriminator each use every other minibatch; here both move in a round, on a minibatch each
  (draws="data"), which is the same schedule counted in pairs;
- batch norm keeps running statistics for sampling; batch_statistics=True samples with the batch's own, as the official code;
- eps of batch norm is 1e-5 (official 1e-8, which float32 variances below 1e-8 cannot use).
"""

from __future__ import annotations

import itertools
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from saddlepoint.errors import UserError
from saddlepoint.game import Game, Move, Player, Round, Terms, keyed_generator
from saddlepoint.layers.normalisation import BatchNorm
from saddlepoint.objectives import objective
from saddlepoint.penalties import judge
from saddlepoint.recipes.dcgan import DCGANRecipe


def levels(resolution: int) -> int:
    """Number of halvings from the image to 4x4; the resolution must be a power of two from 8 on."""
    if resolution < 8 or resolution & (resolution - 1):
        lower = 1 << max(3, resolution.bit_length() - 1)
        raise UserError(f"dcgan needs a resolution that is a power of two from 8 on, not {resolution}; nearest: {lower}.")
    return resolution.bit_length() - 3


class UpConv(nn.Module):
    """Transposed convolution, stride 2, no bias: [N, C, H, W] -> [N, C', 2H, 2W].

    The usual output_padding has no third derivative, which the spectrum of a penalised game needs; a larger output, cropped, has.
    """

    def __init__(self, inputs: int, outputs: int, kernel: int) -> None:
        super().__init__()
        self.padding = (kernel - 1) // 2
        self.weight = nn.Parameter(torch.empty(inputs, outputs, kernel, kernel))

    def forward(self, x: Tensor) -> Tensor:
        y = F.conv_transpose2d(x, self.weight, stride=2, padding=self.padding - 1)
        return y[:, :, 1 : 1 + 2 * x.shape[2], 1 : 1 + 2 * x.shape[3]]


class Generator(nn.Module):
    """z [N, latent] -> image [N, C, R, R] in (-1, 1). Linear to 4x4, then doublings; BN and ReLU between, tanh at the end."""

    def __init__(self, resolution: int, channels: int, latent: int, width: int, kernel: int) -> None:
        super().__init__()
        self.latent = latent
        widths = [width * 2**i for i in reversed(range(levels(resolution)))]
        self.widest = widths[0]
        self.project = nn.Linear(latent, self.widest * 16, bias=False)
        self.norm = BatchNorm(self.widest * 16)  # over all 16 positions separately, as the official code
        self.ups = nn.ModuleList(UpConv(a, b, kernel) for a, b in itertools.pairwise([*widths, channels]))
        self.norms = nn.ModuleList(BatchNorm(w) for w in widths[1:])

    def forward(self, z: Tensor) -> Tensor:
        x = F.relu(self.norm(self.project(z))).view(-1, self.widest, 4, 4)  # [N, C, 4, 4]
        for up, norm in zip(self.ups[:-1], self.norms, strict=True):
            x = F.relu(norm(up(x)))
        return torch.tanh(self.ups[-1](x))


class Discriminator(nn.Module):
    """Image [N, C, R, R] -> logit [N]. Halvings to 4x4 with BN (not in the first) and leaky ReLU, then one linear unit."""

    def __init__(self, resolution: int, channels: int, width: int, kernel: int) -> None:
        super().__init__()
        widths = [width * 2**i for i in range(levels(resolution))]
        self.convs = nn.ModuleList(
            nn.Conv2d(a, b, kernel, stride=2, padding=kernel // 2, bias=False)
            for a, b in itertools.pairwise([channels, *widths])
        )
        self.norms = nn.ModuleList([nn.Identity(), *(BatchNorm(w) for w in widths[1:])])
        self.judge = nn.Linear(widths[-1] * 16, 1, bias=False)

    def activations(self, x: Tensor) -> list[Tensor]:
        """Outputs of all convolutional layers, [N, C_i, H_i, W_i]."""
        found = []
        for conv, norm in zip(self.convs, self.norms, strict=True):
            x = F.leaky_relu(norm(conv(x)), 0.2)
            found.append(x)
        return found

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.judge(self.activations(x)[-1].flatten(1)).squeeze(1)
        return logits

    def features(self, x: Tensor, grid: int = 4) -> Tensor:
        """All layers' activations max-pooled to grid x grid, flattened and joined, [N, sum C_i grid^2] (section 5.1)."""
        return torch.cat([F.adaptive_max_pool2d(a, min(grid, a.shape[-1])).flatten(1) for a in self.activations(x)], 1)


@torch.no_grad()
def initialise(module: nn.Module) -> None:
    """Weights N(0, 0.02), batch norm gains N(1, 0.02), offsets 0 (section 4)."""
    for layer in module.modules():
        if isinstance(layer, nn.Linear | nn.Conv2d | UpConv):
            layer.weight.normal_(0, 0.02)
        elif isinstance(layer, BatchNorm) and layer.weight is not None:
            layer.weight.normal_(1, 0.02)


class DCGAN(Game):
    """The discriminator minimises BCE on real and fake (their sum), the generator the non-saturating loss (section 3)."""

    averaged = ("generator",)
    couples = frozenset({"batch-norm"})

    def __init__(self, recipe: DCGANRecipe) -> None:
        super().__init__()
        self.recipe = recipe
        self.objective = objective(recipe.objective)
        self.generator = Generator(recipe.resolution, recipe.channels, recipe.latent, recipe.width, recipe.kernel)
        self.discriminator = Discriminator(recipe.resolution, recipe.channels, recipe.width, recipe.kernel)
        initialise(self)
        for layer in self.generator.modules():
            if isinstance(layer, BatchNorm):
                layer.batch_statistics = recipe.batch_statistics
        self.players = (
            Player("discriminator", self.discriminator, self.discriminator_loss, steps=recipe.d.steps),
            Player("generator", self.generator, self.generator_loss, steps=recipe.g.steps),
        )

    def latent(self, round: Round) -> Tensor:
        """z [N, latent]: uniform on [-1, 1] or standard normal."""
        if self.recipe.prior == "normal":
            return round.normal("z", self.recipe.latent)
        return 2 * round.uniform("z", self.recipe.latent) - 1

    def discriminator_loss(self, round: Round) -> Terms:
        fake = self.generator(self.latent(round))
        judged = judge(self.discriminator, round["image"], fake, round, self.recipe.penalty)
        return {"gan": self.objective.discriminator(judged.real, judged.fake).mean(), **judged.penalties}

    def generator_loss(self, round: Round) -> Terms:
        fake = self.discriminator(self.generator(self.latent(round)))
        real = self.discriminator(round["image"]) if self.objective.uses_real_in_generator else None
        return {"gan": self.objective.generator(fake, real).mean()}

    def moves(self, step: int) -> list[Move]:
        return [Move(m.player, self.recipe.draws if m.player == "generator" else "data") for m in super().moves(step)]

    # ---- use
    def draw_latents(self, n: int, seed: int = 0) -> Tensor:
        """n latents [n, latent] from the prior, a pure function of the seed."""
        generator = keyed_generator(self.device, "sample", seed)
        shape = (n, self.recipe.latent)
        if self.recipe.prior == "normal":
            return torch.randn(shape, generator=generator, device=self.device)
        return 2 * torch.rand(shape, generator=generator, device=self.device) - 1

    def sample(self, n: int, seed: int = 0, *, z: Tensor | None = None, batch: int = 256, **controls: Any) -> Tensor:
        """n images in [-1, 1], [n, C, R, R], from the seed or from latents z [n, latent]."""
        z = self.draw_latents(n, seed) if z is None else z
        with self.evaluating():
            return torch.cat([self.generator(part) for part in z.split(batch)])
