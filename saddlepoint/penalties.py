"""Penalties on a discriminator: functions of a function.

`slope(D, x)` differentiates the discriminator with torch.func, so a penalty shares the forward pass with the loss,
needs no requires_grad on a batch, works on reals, fakes and anything between, and can itself be differentiated to any
order.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import nullcontext
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from saddlepoint import tracking
from saddlepoint.game import Round, Terms
from saddlepoint.objectives import at_least_float32

Critic = Callable[[Tensor], Tensor]


def slope(critic: Critic, x: Tensor, *, mixed: bool = False) -> tuple[Tensor, Tensor]:
    """Logits and squared input-gradient norms |grad_x D(x)|^2, [N] each, from one forward pass.

    Where samples do not see each other the gradient of the summed logits is each sample's own; with batch normalisation
    in the discriminator it is the gradient of the batch, as in every published implementation. Runs in at least
    float32: under bfloat16 the second derivatives of a penalty lose up to 4 % of their direction, and an own float32
    forward keeps 0.2 %. mixed: leave autocast as it is around the call; about 1.6 times as fast in bfloat16.
    """

    def summed(x: Tensor) -> tuple[Tensor, tuple[Tensor, list[Tensor]]]:
        with tracking.collecting() as ledger:  # statistics leave a transformed function as outputs only
            logits = critic(x)
        entries.extend(ledger)
        return logits.sum(), (logits, [entry.statistic for entry in ledger])

    entries: list[tracking.Tracked] = []
    with nullcontext() if mixed else torch.autocast(x.device.type, enabled=False):
        gradient, (_, (logits, statistics)) = torch.func.grad_and_value(summed, has_aux=True)(at_least_float32(x))
    for entry, statistic in zip(entries, statistics, strict=True):
        tracking.track(entry.buffer, statistic, entry.rate)
    return logits, at_least_float32(gradient).square().flatten(1).sum(1)


def _norm(squared: Tensor) -> Tensor:
    """sqrt with a finite derivative at 0, where the plain square root gives NaN."""
    return (squared + 1e-12).sqrt()


def zero_centred(squared: Tensor) -> Tensor:
    """1/2 |grad D|^2 per sample: times gamma this is R1 on reals, R2 on fakes (Mescheder et al. 2018, eq. 8-9)."""
    return 0.5 * squared


def two_sided(squared: Tensor) -> Tensor:
    """(|grad D| - 1)^2 per sample (Gulrajani et al. 2017, eq. 3)."""
    return (_norm(squared) - 1).square()


def one_sided(squared: Tensor) -> Tensor:
    """max(0, |grad D| - 1)^2 per sample: only slopes above one are punished (Gulrajani et al. 2017, section 4)."""
    return torch.relu(_norm(squared) - 1).square()


def between(real: Tensor, fake: Tensor, mix: Tensor) -> Tensor:
    """real + a (fake - real), one a in [0, 1) per sample; mix: [N]."""
    return torch.lerp(real, fake, mix.view(-1, *[1] * (real.ndim - 1)))


def perturbed(real: Tensor, noise: Tensor, mix: Tensor, c: float = 0.5) -> Tensor:
    """DRAGAN's points: towards x + c std(X) u, u uniform per element (Kodali et al. 2017, arXiv:1705.07215, and their
    code).
    """
    return between(real, real + c * real.std(correction=0) * noise, mix)


def clip(parameters: Iterable[Tensor], c: float) -> None:
    """Project every weight onto [-c, c] in place: WGAN's Lipschitz constraint, a projection *after* a step, never in a
    loss.
    """
    with torch.no_grad():
        for parameter in parameters:
            parameter.clamp_(-c, c)


def orthogonal(weights: Iterable[Tensor], *, diagonal: bool = False) -> Tensor:
    """Sum over weights W [outputs, ...], flattened to [outputs, rest], of |W W^T off its diagonal|^2 (Frobenius).

    Rows are asked to be orthogonal, of whatever length (Brock et al. 2018, arXiv:1809.11096, eq. 3; printed for
    columns, in the code for rows). diagonal: of length 1 as well, |W W^T - I|^2. The official code adds half of the
    gradient that its nominal weight has: its 1e-4 is 5e-5 here. In float32 or better whatever autocast says.
    """
    found = []
    for weight in weights:
        with torch.autocast(weight.device.type, enabled=False):
            rows = weight.flatten(1)
            gram = rows @ rows.T
            own = torch.ones_like(gram).diagonal() if diagonal else gram.diagonal()
            found.append((gram - torch.diag(own)).square().sum())
    return torch.stack(found).sum()


class Weights(Protocol):
    """The weights of the penalties, as a recipe holds them; 0 switches a penalty off."""

    @property
    def r1(self) -> float: ...
    @property
    def r2(self) -> float: ...
    @property
    def gradient_penalty(self) -> float: ...
    @property
    def one_sided(self) -> bool: ...
    @property
    def dragan(self) -> float: ...
    @property
    def drift(self) -> float: ...
    @property
    def mixed(self) -> bool: ...


class Judgement(NamedTuple):
    """Logits on reals and fakes [N, ...], and the penalties, already weighted."""

    real: Tensor
    fake: Tensor
    penalties: Terms


def judge(
    critic: Critic, real: Tensor, fake: Tensor, round: Round, weights: Weights, *, fake_critic: Critic | None = None
) -> Judgement:
    """Let the discriminator judge a real and a fake batch, in two passes, with whatever penalties are switched on.

    R1: gamma/2 E|grad D(x)|^2, R2: the same on fakes; gradient penalty: lambda E(|grad D(xhat)| - 1)^2 between the two;
    DRAGAN: the same around the data; drift: epsilon E[D(x)^2] (Karras et al. 2018, arXiv:1710.10196, appendix A.1).
    fake_critic: where the discriminator draws other dropout masks for fakes.
    """
    on_fake = fake_critic or critic
    terms: Terms = {}
    if weights.r1 and round.asks("r1"):
        real_logits, squared = slope(critic, real, mixed=weights.mixed)
        terms["r1"] = weights.r1 * zero_centred(squared).mean()
    else:
        real_logits = critic(real)
    if weights.r2 and round.asks("r2"):
        fake_logits, squared = slope(on_fake, fake, mixed=weights.mixed)
        terms["r2"] = weights.r2 * zero_centred(squared).mean()
    else:
        fake_logits = on_fake(fake)
    sided = one_sided if weights.one_sided else two_sided
    if weights.gradient_penalty and round.asks("gradient_penalty"):
        points = between(real, at_least_float32(fake), round.uniform("mix"))
        _, squared = slope(critic, points, mixed=weights.mixed)
        terms["gradient_penalty"] = weights.gradient_penalty * sided(squared).mean()
    if weights.dragan and round.asks("dragan"):
        noise = round.uniform("dragan.noise", *real.shape[1:])
        points = perturbed(real, noise, round.uniform("dragan.mix"))
        _, squared = slope(critic, points, mixed=weights.mixed)
        terms["dragan"] = weights.dragan * sided(squared).mean()
    if weights.drift and round.asks("drift"):
        terms["drift"] = weights.drift * at_least_float32(real_logits).square().mean()
    return Judgement(real_logits, fake_logits, terms)
