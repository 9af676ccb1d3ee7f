"""Adversarial objectives: pure functions of the discriminator's logits, one value per sample, differentiable to any
order.

Convention: a high logit means "real". With s the sigmoid, -log s(t) = softplus(-t) and -log(1 - s(t)) = softplus(t);
both are evaluated in that form, so no logarithm of zero can occur. Every function takes logits of any shape [N, ...]
and returns the same shape in at least float32; the caller averages. Both players *minimise* what is returned.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from saddlepoint.errors import unknown


def at_least_float32(x: Tensor) -> Tensor:
    """Promote half precision to float32; leave float32 and float64 alone (.float() would spoil float64 tests)."""
    return x.float() if x.dtype in (torch.bfloat16, torch.float16) else x


class Objective(NamedTuple):
    """A pair of losses. discriminator(real, fake) and generator(fake, real): logits [N, ...] -> loss per sample [N,
    ...].

    Most generators ignore `real`; the relativistic one needs it.
    """

    name: str
    discriminator: Callable[[Tensor, Tensor], Tensor]
    generator: Callable[[Tensor, Tensor | None], Tensor]
    uses_real_in_generator: bool = False


# ---- cross entropy: Goodfellow et al. 2014 (arXiv:1406.2661)
def cross_entropy_discriminator(real: Tensor, fake: Tensor) -> Tensor:
    """-log s(real) - log(1 - s(fake)): minus the value function V(d, g), eq. 1."""
    return F.softplus(-at_least_float32(real)) + F.softplus(at_least_float32(fake))


def minimax_generator(fake: Tensor, real: Tensor | None = None) -> Tensor:
    """log(1 - s(fake)), eq. 1: the saturating form. Its derivative -s(t) vanishes where the fake is recognised."""
    return -F.softplus(at_least_float32(fake))


def nonsaturating_generator(fake: Tensor, real: Tensor | None = None) -> Tensor:
    """-log s(fake), section 3: same fixed points, derivative -(1 - s(t)): tends to -1 where the fake is
    recognised.
    """
    return F.softplus(-at_least_float32(fake))


# ---- least squares: Mao et al. 2017 (arXiv:1611.04076), eq. 2 with a = 0, b = c = 1
def least_squares_discriminator(real: Tensor, fake: Tensor) -> Tensor:
    """1/2 (real - 1)^2 + 1/2 fake^2."""
    return 0.5 * (at_least_float32(real) - 1).square() + 0.5 * at_least_float32(fake).square()


def least_squares_generator(fake: Tensor, real: Tensor | None = None) -> Tensor:
    """1/2 (fake - 1)^2."""
    return 0.5 * (at_least_float32(fake) - 1).square()


# ---- hinge: Lim and Ye 2017 (arXiv:1705.02894), Miyato et al. 2018 (arXiv:1802.05957), eq. 16-17
def hinge_discriminator(real: Tensor, fake: Tensor) -> Tensor:
    """max(0, 1 - real) + max(0, 1 + fake)."""
    return F.relu(1 - at_least_float32(real)) + F.relu(1 + at_least_float32(fake))


# ---- Wasserstein: Arjovsky et al. 2017 (arXiv:1701.07875), eq. 2
def wasserstein_critic(real: Tensor, fake: Tensor) -> Tensor:
    """fake - real: the critic maximises E f(real) - E f(fake), so the sign turns."""
    return at_least_float32(fake) - at_least_float32(real)


def wasserstein_generator(fake: Tensor, real: Tensor | None = None) -> Tensor:
    """-fake."""
    return -at_least_float32(fake)


# ---- relativistic pairing: Jolicoeur-Martineau 2018 (arXiv:1807.00734); Huang et al. 2025 (arXiv:2501.05441), eq. 2
def relativistic_discriminator(real: Tensor, fake: Tensor) -> Tensor:
    """softplus(-(real - fake)): real n should outscore fake n of the same batch."""
    return F.softplus(at_least_float32(fake) - at_least_float32(real))


def relativistic_generator(fake: Tensor, real: Tensor | None = None) -> Tensor:
    """softplus(-(fake - real)): the discriminator's loss with the roles exchanged."""
    if real is None:
        raise ValueError("the relativistic generator loss compares fakes with reals: pass the reals' logits too.")
    return F.softplus(at_least_float32(real) - at_least_float32(fake))


# ---- general form: Nagarajan and Kolter 2017 (arXiv:1706.04156) and Mescheder et al. 2018 (arXiv:1801.04406), eq. 1
def general(f: Callable[[Tensor], Tensor], name: str = "general") -> Objective:
    """The zero-sum game with value E f(D(x)) + E f(-D(G(z))): the discriminator maximises it, the generator minimises.

    f(t) = -log(1 + exp(-t)) gives minimax, f(t) = t Wasserstein. The papers print it for -D ("high means fake"); only
    the name of the two sides differs.
    """

    def discriminator(real: Tensor, fake: Tensor) -> Tensor:
        return -f(at_least_float32(real)) - f(-at_least_float32(fake))

    def generator(fake: Tensor, real: Tensor | None = None) -> Tensor:
        return f(-at_least_float32(fake))

    return Objective(name, discriminator, generator)


OBJECTIVES: dict[str, Objective] = {
    objective.name: objective
    for objective in (
        Objective("nonsaturating", cross_entropy_discriminator, nonsaturating_generator),
        Objective("minimax", cross_entropy_discriminator, minimax_generator),
        Objective("least-squares", least_squares_discriminator, least_squares_generator),
        Objective("hinge", hinge_discriminator, wasserstein_generator),
        Objective("wasserstein", wasserstein_critic, wasserstein_generator),
        Objective("relativistic", relativistic_discriminator, relativistic_generator, uses_real_in_generator=True),
    )
}


def objective(name: str) -> Objective:
    """The objective of this name; an unknown name is an error that lists the choices."""
    if name not in OBJECTIVES:
        raise unknown("objective", name, OBJECTIVES)
    return OBJECTIVES[name]
