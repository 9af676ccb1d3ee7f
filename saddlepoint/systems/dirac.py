"""The Dirac-GAN: the smallest game in which training methods differ (Mescheder, Geiger, Nowozin 2018,
arXiv:1801.04406, section 2 and appendices A to C).

The data are one point at 0, the generator puts a point at theta, and D(x) = psi x. With f(t) = -log(1 + exp(-t)),

    L(theta, psi) = E f(D(theta + e)) + E f(-D(e)),    the generator minimises L, the discriminator maximises it

(e = 0 except for instance noise). A high D means *fake* here, as in that paper; elsewhere in this library a high logit
means real, which only exchanges the names. Official code: the notebook of LMescheder/GAN_stability. Where we differ:
- the notebook's consensus field has 1/2 before the f' f'' term, where the gradient of 1/2 |v|^2 has 1; near the
  equilibrium both have the same linear part;
- instance noise is not sampled: its expectation is computed by Gauss-Hermite quadrature.
Everything is in float64.
"""

from __future__ import annotations

import cmath
from functools import partial
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from saddlepoint.errors import UserError, unknown
from saddlepoint.game import Game, Player, Round, Terms
from saddlepoint.penalties import clip, slope, zero_centred
from saddlepoint.recipes.dirac import DiracRecipe

NODES = 64  # of the quadrature: exact for polynomials up to degree 127


class Dirac(Game):
    """theta and psi, one number each, and the method of the recipe."""

    averaged = ("generator",)
    nodes: Tensor
    masses: Tensor

    def __init__(self, recipe: DiracRecipe) -> None:
        super().__init__()
        self.recipe = recipe
        if recipe.sigma < 0 or recipe.clip <= 0:
            raise UserError(f"dirac needs sigma >= 0 and clip > 0, not sigma={recipe.sigma}, clip={recipe.clip}.")
        theta, psi = (torch.tensor([float(value)], dtype=torch.float64) for value in recipe.start)
        self.generator = nn.ParameterDict({"theta": nn.Parameter(theta)})
        self.discriminator = nn.ParameterDict({"psi": nn.Parameter(psi)})
        nodes, masses = quadrature(recipe.sigma if recipe.method == "instance-noise" else 0.0)
        self.register_buffer("nodes", nodes)
        self.register_buffer("masses", masses)
        project = partial(clip, tuple(self.discriminator.parameters()), recipe.clip)
        self.players = (
            Player("generator", self.generator, self.generator_loss, steps=recipe.g.steps),
            Player(
                "discriminator", self.discriminator, self.discriminator_loss, steps=recipe.d.steps,
                project=project if recipe.method == "wasserstein" else None,
            ),
        )  # fmt: skip

    # ---- the players
    def judge(self, x: Tensor) -> Tensor:
        """D(x) = psi x: [N, 1] -> [N]."""
        return (self.discriminator["psi"] * x).squeeze(1)

    def reals(self) -> Tensor:
        """0 + e at the nodes of the noise, [N, 1]; a copy, since a graph that holds a buffer forbids restoring it."""
        return self.nodes.clone()

    def fakes(self) -> Tensor:
        """theta + e at the nodes, [N, 1]."""
        return self.generator["theta"] + self.nodes

    def f(self, t: Tensor) -> Tensor:
        """f(t) = -log(1 + exp(-t)); for the Wasserstein methods f(t) = t."""
        return t if self.recipe.method in ("wasserstein", "wgan-gp") else F.logsigmoid(t)

    def mean(self, values: Tensor) -> Tensor:
        """E over the noise of values [N] at its nodes."""
        return (self.masses.clone() * values).sum()

    def value(self) -> Tensor:
        """L(theta, psi)."""
        return self.mean(self.f(self.judge(self.fakes())) + self.f(-self.judge(self.reals())))

    def energy(self) -> Tensor:
        """1/2 |v|^2 = 1/2 (theta^2 + psi^2) f'(theta psi)^2 of the unregularised game, with f'(t) = sigmoid(-t)."""
        theta, psi = self.generator["theta"], self.discriminator["psi"]
        return 0.5 * ((theta.square() + psi.square()) * torch.sigmoid(-theta * psi).square()).sum()

    # ---- the game
    def generator_loss(self, round: Round) -> Terms:
        if self.recipe.method.startswith("nonsaturating"):
            return {"gan": -self.mean(self.f(-self.judge(self.fakes())))}
        terms = {"gan": self.value()}
        if self.recipe.method == "consensus":
            terms["consensus"] = self.recipe.gamma * self.energy()
        return terms

    def discriminator_loss(self, round: Round) -> Terms:
        method, gamma = self.recipe.method, self.recipe.gamma
        terms = {"gan": -self.value()}
        if method in ("r1", "r1+r2", "nonsaturating+r1"):
            terms["r1"] = gamma * self.mean(zero_centred(slope(self.judge, self.reals())[1]))
        if method in ("r2", "r1+r2"):
            terms["r2"] = gamma * self.mean(zero_centred(slope(self.judge, self.fakes())[1]))
        if method == "wgan-gp":  # |grad D| = |psi| everywhere; the derivative of |psi| at 0 is taken as 0
            excess = self.discriminator["psi"].abs().sum() - self.recipe.slope
            terms["gradient_penalty"] = 0.5 * self.recipe.slope_weight * excess.square()
        if method == "consensus":
            terms["consensus"] = gamma * self.energy()
        return terms

    def sample(self, n: int, seed: int = 0, **controls: Any) -> Tensor:
        """The generator's one point, n times, [n, 1]."""
        return self.generator["theta"].detach().expand(n, 1).clone()


def quadrature(sigma: float) -> tuple[Tensor, Tensor]:
    """Nodes [K, 1] and masses [K] with E h(e) = sum masses h(nodes) for e ~ N(0, sigma^2); one node at sigma 0."""
    if not sigma:
        return torch.zeros(1, 1, dtype=torch.float64), torch.ones(1, dtype=torch.float64)
    x, w = np.polynomial.hermite_e.hermegauss(NODES)
    return torch.from_numpy(sigma * x)[:, None], torch.from_numpy(w / w.sum())


def eigenvalues(recipe: DiracRecipe) -> tuple[complex, complex]:
    """Of v' at (0, 0), in closed form (lemmas 2.3 to 3.1 and appendix C), with a = f'(0) = 1/2, f''(0) = -1/4.

    They solve lambda^2 + d lambda + a^2 = 0 with damping d = gamma (r1 or r2), 2 gamma (both), sigma^2 / 2 (instance
    noise), 0 (none). Raises UserError for wgan-gp, whose field is not differentiable there.
    """
    a, gamma = 0.5, recipe.gamma
    if recipe.method == "wgan-gp":
        raise UserError("wgan-gp has no eigenvalues at (0, 0): its field is not differentiable there.")
    if recipe.method == "consensus":
        return complex(-gamma * a * a, a), complex(-gamma * a * a, -a)
    if recipe.method == "wasserstein":
        return 1j, -1j
    damping = {
        "minimax": 0.0, "nonsaturating": 0.0, "r1": gamma, "r2": gamma, "nonsaturating+r1": gamma, "r1+r2": 2 * gamma,
        "instance-noise": recipe.sigma**2 / 2,
    }  # fmt: skip
    if recipe.method not in damping:
        raise unknown("method", recipe.method, damping)
    root = cmath.sqrt((damping[recipe.method] / 2) ** 2 - a * a)
    return -damping[recipe.method] / 2 + root, -damping[recipe.method] / 2 - root


def as_printed_in_the_lecture(gamma: float) -> tuple[complex, complex]:
    """-gamma/2 +- sqrt(gamma/4 - f'(0)^2): R1's eigenvalues as the lecture prints them. Right for gamma = 1 only; the
    root is of gamma^2/4 - f'(0)^2 (see `eigenvalues`).
    """
    root = cmath.sqrt(gamma / 4 - 0.25)
    return -gamma / 2 + root, -gamma / 2 - root
