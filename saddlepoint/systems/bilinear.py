"""The bilinear game L(theta, psi) = m <theta, psi>, followed field v = (-m psi, m theta): the linear part of a zero-sum
GAN at an equilibrium without curvature. Simultaneous steps spiral out, alternating ones circle, and methods beyond
plain gradients (extragradient, optimism, consensus, negative momentum) converge; Gidel et al. 2019 (arXiv:1802.10551),
section 2, and 2019 (arXiv:1807.04740). No official code. In float64.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from saddlepoint.errors import UserError
from saddlepoint.game import Game, Player, Round, Terms
from saddlepoint.recipes.bilinear import BilinearRecipe


class Bilinear(Game):
    """theta and psi, [dimensions] each."""

    averaged = ("generator",)

    def __init__(self, recipe: BilinearRecipe) -> None:
        super().__init__()
        self.recipe = recipe
        if recipe.dimensions < 1:
            raise UserError(f"bilinear needs dimensions >= 1, not {recipe.dimensions}.")
        theta, psi = (torch.full((recipe.dimensions,), float(x), dtype=torch.float64) for x in recipe.start)
        self.generator = nn.ParameterDict({"theta": nn.Parameter(theta)})
        self.discriminator = nn.ParameterDict({"psi": nn.Parameter(psi)})
        self.players = (
            Player("generator", self.generator, self.generator_loss, steps=recipe.g.steps),
            Player("discriminator", self.discriminator, self.discriminator_loss, steps=recipe.d.steps),
        )

    def value(self) -> Tensor:
        """L(theta, psi) = m <theta, psi>."""
        return self.recipe.m * (self.generator["theta"] * self.discriminator["psi"]).sum()

    def generator_loss(self, round: Round) -> Terms:
        return {"value": self.value()}

    def discriminator_loss(self, round: Round) -> Terms:
        return {"value": -self.value()}

    def sample(self, n: int, seed: int = 0, **controls: Any) -> Tensor:
        """theta, n times, [n, dimensions]."""
        return self.generator["theta"].detach().expand(n, -1).clone()
