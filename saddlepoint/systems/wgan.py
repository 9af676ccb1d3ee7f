"""WGAN: Wasserstein GAN (Arjovsky, Chintala, Bottou 2017, arXiv:1701.07875).

A critic f, not a classifier: max_f E f(x) - E f(G(z)) over K-Lipschitz f is K W1(p, q) (eq. 2-3); clipping bounds K.
Official code: martinarjovsky/WassersteinGAN (PyTorch). Where we differ:
- the official loop clips *before* each critic step, so that the generator meets a critic one unclipped step away; here
  clipping is a projection *after* the step (and once at the start), so that the generator meets a clipped one;
- the official critic averages over the batch inside the network, and its signs make it low on reals; here f is high on
  reals, which is the same game;
- 100 critic moves in the first 25 rounds and in every 500th are the code's, not the paper's.
"""

from __future__ import annotations

from functools import partial
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from saddlepoint.game import Move, Player, Round, Terms
from saddlepoint.layers.convolution import UpConv, halvings, normal_initialisation
from saddlepoint.layers.latent import LatentGame, Prior, in_parts
from saddlepoint.layers.normalisation import BatchNorm, LayerNorm
from saddlepoint.objectives import objective
from saddlepoint.penalties import clip, judge
from saddlepoint.recipes.wgan import WGANRecipe

NORMS: dict[str, type[nn.Module]] = {"batch": BatchNorm, "layer": LayerNorm}


def normalisation(kind: str, channels: int) -> nn.Module:
    return NORMS[kind](channels) if kind in NORMS else nn.Identity()


class Generator(nn.Module):
    """z [N, latent] -> image [N, C, R, R] in (-1, 1): 4x4 transposed convolutions, ReLU between, tanh at the end."""

    def __init__(self, recipe: WGANRecipe) -> None:
        super().__init__()
        widths = [recipe.width * 2**i for i in reversed(range(halvings(recipe.resolution, "wgan")))]
        layers: list[nn.Module] = [nn.ConvTranspose2d(recipe.latent, widths[0], 4, bias=False)]
        layers += [UpConv(a, b, 4) for a, b in pairwise(widths)]
        layers += [nn.Conv2d(widths[-1], widths[-1], 3, 1, 1, bias=False) for _ in range(recipe.extra_layers)]
        outputs = [*widths, *[widths[-1]] * recipe.extra_layers]
        self.layers = nn.ModuleList(layers)
        self.norms = nn.ModuleList(normalisation(recipe.generator_norm, n) for n in outputs)
        self.output = UpConv(widths[-1], recipe.channels, 4)

    def forward(self, z: Tensor) -> Tensor:
        x = z[:, :, None, None]  # [N, latent, 1, 1]
        for layer, norm in zip(self.layers, self.norms, strict=True):
            x = F.relu(norm(layer(x)))
        return torch.tanh(self.output(x))


class Critic(nn.Module):
    """Image [N, C, R, R] -> f(x) [N]: 4x4 convolutions of stride 2, leaky ReLU, no norm in the first, no bias."""

    def __init__(self, recipe: WGANRecipe) -> None:
        super().__init__()
        width, extra = recipe.critic_width, recipe.extra_layers
        widths = [width * 2**i for i in range(halvings(recipe.resolution, "wgan"))]
        layers: list[nn.Module] = [nn.Conv2d(recipe.channels, width, 4, 2, 1, bias=False)]
        layers += [nn.Conv2d(width, width, 3, 1, 1, bias=False) for _ in range(extra)]
        layers += [nn.Conv2d(a, b, 4, 2, 1, bias=False) for a, b in pairwise(widths)]
        outputs = [*[width] * extra, *widths[1:]]
        self.layers = nn.ModuleList(layers)
        self.norms = nn.ModuleList([nn.Identity(), *(normalisation(recipe.critic_norm, n) for n in outputs)])
        self.output = nn.Conv2d(widths[-1], 1, 4, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        for layer, norm in zip(self.layers, self.norms, strict=True):
            x = F.leaky_relu(norm(layer(x)), 0.2)
        return self.output(x).flatten()


class Dense(nn.Module):
    """Three hidden layers of ReLU and one linear layer, in torch's own initialisation, as the official MLPs."""

    def __init__(self, inputs: int, width: int, outputs: tuple[int, ...]) -> None:
        super().__init__()
        self.shape = outputs
        sizes = [inputs, width, width, width, int(torch.Size(outputs).numel())]
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise(sizes))

    def forward(self, x: Tensor) -> Tensor:
        x = x.flatten(1)
        for layer in self.layers[:-1]:
            x = F.relu(layer(x))
        return self.layers[-1](x).view(-1, *self.shape)


class WGAN(LatentGame):
    """The critic minimises E f(G(z)) - E f(x), the generator -E f(G(z)) (algorithm 1). Clipping keeps f Lipschitz."""

    averaged = ("generator",)

    def __init__(self, recipe: WGANRecipe) -> None:
        super().__init__()
        self.recipe = recipe
        self.objective = objective(recipe.objective)
        self.term = "wasserstein" if recipe.objective == "wasserstein" else "gan"
        self.prior = Prior(recipe.latent, "normal")
        shape = (recipe.channels, recipe.resolution, recipe.resolution)
        dense_g, dense_f = recipe.generator == "mlp", recipe.critic == "mlp"
        self.generator = Dense(recipe.latent, recipe.width, shape) if dense_g else Generator(recipe)
        pixels = recipe.channels * recipe.resolution**2
        self.critic = Dense(pixels, recipe.critic_width, ()) if dense_f else Critic(recipe)
        for module, dense in ((self.generator, dense_g), (self.critic, dense_f)):
            if not dense:
                normal_initialisation(module)
        self.couples = frozenset({"batch-norm"} if any(isinstance(m, BatchNorm) for m in self.modules()) else ())
        project = partial(clip, tuple(self.critic.parameters()), recipe.clip) if recipe.clip else None
        if project is not None:
            project()
        self.players = (
            Player("critic", self.critic, self.critic_loss, steps=recipe.d.steps, project=project),
            Player("generator", self.generator, self.generator_loss, steps=recipe.g.steps),
        )

    def moves(self, step: int) -> list[Move]:
        """d.steps critic moves on new images, long_steps of them in early and refreshing rounds; then the generator."""
        recipe = self.recipe
        long = step < recipe.warmup_rounds or (recipe.refresh_every > 0 and step % recipe.refresh_every == 0)
        critic = [Move("critic", "data")] * (recipe.long_steps if long else recipe.d.steps)
        return critic + [Move("generator", "noise")] * recipe.g.steps

    def critic_loss(self, round: Round) -> Terms:
        fake = self.generator(self.prior.of(round))
        judged = judge(self.critic, round["image"], fake, round, self.recipe.penalty)
        # The learning curve of figures 3 and 4: an estimate of K W1(p, q), with K unknown.
        round.note("wasserstein_estimate", judged.real.mean() - judged.fake.mean())
        return {self.term: self.objective.discriminator(judged.real, judged.fake).mean(), **judged.penalties}

    def generator_loss(self, round: Round) -> Terms:
        fake = self.critic(self.generator(self.prior.of(round)))
        real = self.critic(round["image"]) if self.objective.uses_real_in_generator else None
        return {self.term: self.objective.generator(fake, real).mean()}

    # ---- use
    def sample(self, n: int, seed: int = 0, *, z: Tensor | None = None, batch: int = 256) -> Tensor:
        """n images in [-1, 1], [n, C, R, R], from the seed or from latents z [n, latent] (an MLP's are clamped)."""
        z = self.draw_latents(n, seed) if z is None else z
        with self.evaluating():
            return in_parts(self.generator, z, batch=batch).clamp(-1, 1)
