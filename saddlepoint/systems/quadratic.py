"""The quadratic game: losses whose followed field is v = J w for a given matrix J.

    J = [[P, B], [C, Q]],  P and Q symmetric:   L_1 = -(1/2 x^T P x + x^T B y),   L_2 = -(1/2 y^T Q y + y^T C x)

B = -C^T is a zero-sum game; B = C^T a potential game (J symmetric: v is a gradient field). Every linear statement of
the theory can be tried here: (0, -1, 1, -0.7) is the lecture's field of the discrete steps h = 1 and h = 0.5;
(-0.6, -1, 1, -0.6) is v - 0.6 grad 1/2 |v|^2 of the pure rotation (Huszar 2017), eigenvalues -0.6 +- i. In float64.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from saddlepoint.errors import UserError
from saddlepoint.game import Game, Player, Round, Terms
from saddlepoint.recipes.quadratic import QuadraticRecipe


class Quadratic(Game):
    """x [n] and y [m], with J given row by row as a matrix [n + m, n + m]."""

    averaged = ("generator",)
    matrix: Tensor

    def __init__(self, recipe: QuadraticRecipe) -> None:
        super().__init__()
        self.recipe = recipe
        n, J, start = recipe.first, checked(recipe), torch.tensor(recipe.start, dtype=torch.float64)
        self.register_buffer("matrix", torch.tensor(J.tolist(), dtype=torch.float64))
        self.generator = nn.ParameterDict({"x": nn.Parameter(start[:n].clone())})
        self.discriminator = nn.ParameterDict({"y": nn.Parameter(start[n:].clone())})
        self.players = (
            Player("generator", self.generator, self.generator_loss, steps=recipe.g.steps),
            Player("discriminator", self.discriminator, self.discriminator_loss, steps=recipe.d.steps),
        )

    def _loss(self, own: Tensor, other: Tensor, rows: slice, others: slice) -> Tensor:
        J = self.matrix.clone()  # a graph that holds a buffer itself forbids restoring it
        P, B = J[rows, rows], J[rows, others]
        return -(0.5 * own @ P @ own + own @ B @ other)

    def generator_loss(self, round: Round) -> Terms:
        n = self.recipe.first
        return {"value": self._loss(self.generator["x"], self.discriminator["y"], slice(n), slice(n, None))}

    def discriminator_loss(self, round: Round) -> Terms:
        n = self.recipe.first
        return {"value": self._loss(self.discriminator["y"], self.generator["x"], slice(n, None), slice(n))}

    def sample(self, n: int, seed: int = 0, **controls: Any) -> Tensor:
        """x, n times, [n, first]."""
        return self.generator["x"].detach().expand(n, -1).clone()


def checked(recipe: QuadraticRecipe) -> npt.NDArray[np.float64]:
    """J as a matrix. Raises UserError for entries that make no square, or that are no game of gradients."""
    size = math.isqrt(len(recipe.jacobian))
    if size * size != len(recipe.jacobian) or size < 2:
        raise UserError(
            f"quadratic: jacobian has {len(recipe.jacobian)} entries; a square matrix is expected, row by row: "
            f"nearest {max(size, 2) ** 2}."
        )
    if len(recipe.start) != size or not 0 < recipe.first < size:
        raise UserError(
            f"quadratic: a {size}x{size} jacobian needs {size} numbers in start (got {len(recipe.start)}) and first "
            f"from 1 to {size - 1} (got {recipe.first})."
        )
    J = np.array(recipe.jacobian, dtype=np.float64).reshape(size, size)
    for name, block in (("generator", slice(recipe.first)), ("discriminator", slice(recipe.first, None))):
        own = J[block, block]
        if not np.array_equal(own, own.T):
            raise UserError(f"quadratic: the {name}'s own block {own.tolist()} is not symmetric: no loss has it.")
    return J
