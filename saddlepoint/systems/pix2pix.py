"""pix2pix: Image-to-Image Translation with Conditional Adversarial Networks (Isola et al. 2017, arXiv:1611.07004).

A generator learns the map x -> y from pairs. An L1 distance gives the low frequencies; a discriminator that judges the
pair (x, y) patch by patch gives the rest, and so acts as a learned loss. No noise vector: dropout is the only noise.
Official code: junyanz/pytorch-CycleGAN-and-pix2pix (PyTorch), phillipi/pix2pix (Torch). Where we differ:
- the generator's forward is made twice a round, once without a graph for the discriminator's move; batch norm's running
  values are written by the second one only, so they are the official ones;
- dropout's masks come from the round's numbers, so that both forwards have the same.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from saddlepoint import tracking
from saddlepoint.game import Move, Player, Round, Terms
from saddlepoint.layers.translation import criterion
from saddlepoint.recipes.pix2pix import Pix2PixRecipe
from saddlepoint.systems.translation import (
    Translator,
    build_discriminator,
    build_generator,
    gradient_penalty,
    named_uniform,
)


class Pix2Pix(Translator):
    """min_G max_D E log D(x, y) + E log(1 - D(x, G(x))) + lambda E|y - G(x)|_1 (eq. 1-4, non-saturating)."""

    averaged = ("generator",)
    recipe: Pix2PixRecipe

    def __init__(self, recipe: Pix2PixRecipe) -> None:
        super().__init__(recipe)
        self.generator = build_generator(recipe, self.inputs, self.outputs)
        self.discriminator = build_discriminator(recipe, self.outputs + (self.inputs if recipe.conditional else 0))
        self.players = (
            Player("discriminator", self.discriminator, self.discriminator_loss, steps=recipe.d.steps),
            Player("generator", self.generator, self.generator_loss, steps=recipe.g.steps),
        )

    def way(self, direction: str) -> nn.Module:
        return self.generator

    def moves(self, step: int) -> list[Move]:
        """The discriminator on new pairs, then the generator on the same ones."""
        d, g = self.recipe.d.steps, self.recipe.g.steps
        return [Move("discriminator", "data")] * d + [Move("generator", "same")] * g

    def fake(self, round: Round) -> Tensor:
        """G(x), [N, C, R, R]."""
        return self.generator(round["a"], named_uniform(round, "G") if self.recipe.dropout else None)

    def judge(self, x: Tensor, y: Tensor) -> Tensor:
        """Logits [N, 1, h, w] of D(x, y), or of D(y) where it sees no condition."""
        return self.discriminator(torch.cat([x, y.to(x.dtype)], 1) if self.recipe.conditional else y)

    def discriminator_loss(self, round: Round) -> Terms:
        x, y, mode = round["a"], round["b"], self.recipe.gan_mode
        with tracking.silence():
            fake = self.fake(round)
        on_fake = criterion(mode, self.judge(x, fake), False)
        on_real = criterion(mode, self.judge(x, y), True)
        terms = {"gan": 0.5 * (on_fake + on_real)}
        round.note("d_real", on_real)
        round.note("d_fake", on_fake)
        if self.recipe.gradient_penalty and round.asks("gradient_penalty"):
            weight = self.recipe.gradient_penalty
            terms["gradient_penalty"] = gradient_penalty(lambda v: self.judge(x, v), y, fake, round, weight, "mix")
        return terms

    def generator_loss(self, round: Round) -> Terms:
        x, y = round["a"], round["b"]
        fake = self.fake(round)
        terms = {"gan": criterion(self.recipe.gan_mode, self.judge(x, fake), True)}
        if self.recipe.l1:
            terms["l1"] = self.recipe.l1 * (fake.to(y.dtype) - y).abs().mean()
        return terms
