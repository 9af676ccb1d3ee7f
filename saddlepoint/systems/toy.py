"""Toy games: dense players on points of the plane or the line, where theory and pathologies can be watched.

Networks and settings of three papers' 2-D experiments (see the presets): Metz et al. 2017 (arXiv:1611.02163, mode
collapse on a ring), Mescheder et al. 2017 (arXiv:1705.10461, consensus), Gulrajani et al. 2017 (arXiv:1704.00028).
Where we differ:
- the released notebook of Metz et al. spaces eight angles over [0, 2 pi] with both ends, so that two of its modes
  coincide; our ring has eight distinct ones;
- official code for WGAN-GP's toy divides the ring by 1.414, we by the square root of 2.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from saddlepoint.game import Player, Round, Terms
from saddlepoint.layers.latent import LatentGame, Prior, in_parts
from saddlepoint.objectives import objective
from saddlepoint.penalties import clip, judge
from saddlepoint.recipes.toy import ToyRecipe

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": F.relu,
    "leaky-relu": partial(F.leaky_relu, negative_slope=0.2),
    "tanh": torch.tanh,
    "softplus": F.softplus,
}
INITIALISATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "orthogonal": nn.init.orthogonal_,
    "he": partial(nn.init.kaiming_uniform_, nonlinearity="relu"),
    "xavier": nn.init.xavier_uniform_,
}


class Dense(nn.Module):
    """[N, sizes[0]] -> [N, sizes[-1]]: linear layers, a nonlinearity between them; the input is times `scale`."""

    def __init__(self, sizes: list[int], activation: str, *, scale: float = 1.0) -> None:
        super().__init__()
        self.activation = ACTIVATIONS[activation]
        self.scale = scale
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise(sizes))

    def forward(self, x: Tensor) -> Tensor:
        if self.scale != 1:
            x = x * self.scale
        for layer in self.layers[:-1]:
            x = self.activation(layer(x))
        return self.layers[-1](x)

    @torch.no_grad()
    def initialise(self, kind: str, gain: float) -> None:
        """Weights of this kind times the gain, biases 0; "torch" leaves torch's own."""
        for layer in self.layers:
            assert isinstance(layer, nn.Linear)
            if kind in INITIALISATIONS:
                INITIALISATIONS[kind](layer.weight).mul_(gain)
                layer.bias.zero_()


class Discriminator(Dense):
    """x [N, dimensions] -> logit [N]."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x).squeeze(1)


class Toy(LatentGame):
    """The game of `recipe.objective` with `recipe.penalty`; the discriminator moves first."""

    averaged = ("generator",)

    def __init__(self, recipe: ToyRecipe) -> None:
        super().__init__()
        self.recipe = recipe
        self.objective = objective(recipe.objective)
        self.prior = Prior(recipe.latent, recipe.prior)
        self.generator = Dense([recipe.latent, *recipe.hidden, recipe.dimensions], recipe.activation)
        self.discriminator = Discriminator(
            [recipe.dimensions, *recipe.d_hidden, 1], recipe.activation, scale=recipe.d_scale
        )
        for network in (self.generator, self.discriminator):
            network.initialise(recipe.initialisation, recipe.gain)
        project = partial(clip, tuple(self.discriminator.parameters()), recipe.clip) if recipe.clip else None
        if project is not None:
            project()
        self.players = (
            Player("discriminator", self.discriminator, self.discriminator_loss, steps=recipe.d.steps, project=project),
            Player("generator", self.generator, self.generator_loss, steps=recipe.g.steps),
        )

    def fake(self, round: Round) -> Tensor:
        """G(z), [N, dimensions]."""
        made: Tensor = round.once("generator", "fake", lambda: self.generator(self.prior.of(round)))
        return made

    def seen(self, x: Tensor, round: Round, name: str) -> Tensor:
        """x as the discriminator sees it: with instance noise."""
        if not self.recipe.instance_noise:
            return x
        return x + self.recipe.instance_noise * round.normal(name, self.recipe.dimensions)

    def discriminator_loss(self, round: Round) -> Terms:
        real = self.seen(round["point"], round, "noise.real")
        fake = self.seen(self.fake(round), round, "noise.fake")
        judged = judge(self.discriminator, real, fake, round, self.recipe.penalty)
        return {"gan": self.objective.discriminator(judged.real, judged.fake).mean(), **judged.penalties}

    def generator_loss(self, round: Round) -> Terms:
        fake = self.discriminator(self.seen(self.fake(round), round, "noise.fake"))
        real = None
        if self.objective.uses_real_in_generator:
            real = self.discriminator(self.seen(round["point"], round, "noise.real"))
        return {"gan": self.objective.generator(fake, real).mean()}

    # ---- use
    def sample(self, n: int, seed: int = 0, *, z: Tensor | None = None, batch: int = 4096) -> Tensor:
        """n points [n, dimensions], from the seed or from latents z [n, latent]."""
        z = self.draw_latents(n, seed) if z is None else z
        with self.evaluating():
            return in_parts(self.generator, z, batch=batch)
