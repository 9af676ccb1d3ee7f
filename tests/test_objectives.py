from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from saddlepoint import objectives
from saddlepoint.errors import UserError
from saddlepoint.objectives import OBJECTIVES, general, objective

LOGITS = [(-2.0, 3.0), (0.0, 0.0), (0.5, -0.25), (4.0, -4.0), (-1.0, -1.0)]  # (real, fake)


def s(t: float) -> float:
    return 1 / (1 + math.exp(-t))


# By hand, from the papers' formulas with explicit sigmoids and logarithms: real logit r, fake logit f.
DISCRIMINATOR: dict[str, Callable[[float, float], float]] = {
    "nonsaturating": lambda r, f: -math.log(s(r)) - math.log(1 - s(f)),
    "minimax": lambda r, f: -math.log(s(r)) - math.log(1 - s(f)),
    "least-squares": lambda r, f: ((r - 1) ** 2 + f**2) / 2,
    "hinge": lambda r, f: max(0.0, 1 - r) + max(0.0, 1 + f),
    "wasserstein": lambda r, f: f - r,
    "relativistic": lambda r, f: -math.log(s(r - f)),
}
GENERATOR: dict[str, Callable[[float, float], float]] = {
    "nonsaturating": lambda r, f: -math.log(s(f)),
    "minimax": lambda r, f: math.log(1 - s(f)),
    "least-squares": lambda r, f: (f - 1) ** 2 / 2,
    "hinge": lambda r, f: -f,
    "wasserstein": lambda r, f: -f,
    "relativistic": lambda r, f: -math.log(s(f - r)),
}
# Derivatives by hand: of D's loss with respect to (real, fake), of G's with respect to fake.
D_SLOPES: dict[str, Callable[[float, float], tuple[float, float]]] = {
    "nonsaturating": lambda r, f: (s(r) - 1, s(f)),
    "minimax": lambda r, f: (s(r) - 1, s(f)),
    "least-squares": lambda r, f: (r - 1, f),
    "hinge": lambda r, f: (-float(r < 1), float(f > -1)),
    "wasserstein": lambda r, f: (-1, 1),
    "relativistic": lambda r, f: (s(r - f) - 1, 1 - s(r - f)),
}
G_SLOPES: dict[str, Callable[[float, float], float]] = {
    "nonsaturating": lambda r, f: s(f) - 1,
    "minimax": lambda r, f: -s(f),
    "least-squares": lambda r, f: f - 1,
    "hinge": lambda r, f: -1,
    "wasserstein": lambda r, f: -1,
    "relativistic": lambda r, f: s(f - r) - 1,
}


def pair() -> tuple[Tensor, Tensor]:
    real, fake = torch.tensor(LOGITS, dtype=torch.float64).unbind(1)
    return real.requires_grad_(), fake.requires_grad_()


def test_every_objective_has_numbers_by_hand() -> None:
    assert set(OBJECTIVES) == set(DISCRIMINATOR) == set(GENERATOR)


@pytest.mark.parametrize("name", OBJECTIVES)
def test_values_by_hand(name: str) -> None:
    real, fake = pair()
    chosen = objective(name)
    expected_d = torch.tensor([DISCRIMINATOR[name](r, f) for r, f in LOGITS], dtype=torch.float64)
    expected_g = torch.tensor([GENERATOR[name](r, f) for r, f in LOGITS], dtype=torch.float64)
    torch.testing.assert_close(chosen.discriminator(real, fake), expected_d, rtol=0, atol=1e-12)
    torch.testing.assert_close(chosen.generator(fake, real), expected_g, rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", OBJECTIVES)
def test_derivatives_in_closed_form(name: str) -> None:
    real, fake = pair()
    chosen = objective(name)
    slopes = torch.autograd.grad(chosen.discriminator(real, fake).sum(), [real, fake])
    # (4, -4) and (-1, -1) lie beyond or on hinge's kinks; at fake = -1 exactly relu's derivative is 0 by convention.
    expected = torch.tensor([D_SLOPES[name](r, f) for r, f in LOGITS], dtype=torch.float64)
    torch.testing.assert_close(torch.stack(slopes, 1), expected, rtol=0, atol=1e-12)
    (slope,) = torch.autograd.grad(chosen.generator(fake, real).sum(), fake)
    torch.testing.assert_close(slope, torch.tensor([G_SLOPES[name](r, f) for r, f in LOGITS]).double())


def test_numbers_worked_out_on_paper() -> None:
    one, minus = torch.tensor([1.0]), torch.tensor([-1.0])
    bce = objective("nonsaturating")
    assert bce.discriminator(one, minus).item() == pytest.approx(2 * 0.313262, abs=1e-6)  # log(1 + 1/e) = 0.313262
    assert bce.generator(minus, None).item() == pytest.approx(1.313262, abs=1e-6)
    assert objective("minimax").generator(minus, None).item() == pytest.approx(-0.313262, abs=1e-6)
    assert objective("least-squares").discriminator(minus, one).item() == 2.5
    assert objective("hinge").discriminator(torch.tensor([0.25]), torch.tensor([0.5])).item() == 2.25
    assert objective("relativistic").discriminator(one, minus).item() == pytest.approx(0.126928, abs=1e-6)


def test_undecided_discriminator_pays_two_log_two() -> None:
    zero = torch.zeros(5)
    for name in ("nonsaturating", "minimax"):
        assert objective(name).discriminator(zero, zero).mean().item() == pytest.approx(2 * math.log(2))
    assert objective("relativistic").discriminator(zero, zero).mean().item() == pytest.approx(math.log(2))


def test_the_saturating_gradient_vanishes_where_the_other_tends_to_one() -> None:
    t = torch.tensor([-10.0], dtype=torch.float64, requires_grad=True)
    (saturating,) = torch.autograd.grad(objective("minimax").generator(t, None).sum(), t)
    (nonsaturating,) = torch.autograd.grad(objective("nonsaturating").generator(t, None).sum(), t)
    assert saturating.item() == pytest.approx(-4.53979e-5, rel=1e-5)
    assert nonsaturating.item() == pytest.approx(-0.9999546, abs=1e-7)
    assert nonsaturating.item() - saturating.item() == pytest.approx(-1 + 2 * 4.53979e-5, abs=1e-9)


@pytest.mark.parametrize("name", ["nonsaturating", "minimax"])
def test_cross_entropy_agrees_with_torch(name: str) -> None:
    real, fake = pair()
    loss = F.binary_cross_entropy_with_logits
    expected = loss(real, torch.ones_like(real), reduction="none") + loss(
        fake, torch.zeros_like(fake), reduction="none"
    )
    torch.testing.assert_close(objective(name).discriminator(real, fake), expected)


@pytest.mark.parametrize("name", OBJECTIVES)
def test_first_and_second_derivatives_by_finite_differences(name: str) -> None:
    torch.manual_seed(0)
    real, fake = (torch.randn(6, dtype=torch.float64).mul(2).requires_grad_() for _ in range(2))
    chosen = objective(name)
    for loss in (chosen.discriminator, lambda r, f: chosen.generator(f, r)):
        assert torch.autograd.gradcheck(loss, (real, fake))
        if name not in ("wasserstein", "hinge"):  # piecewise linear: the second derivative is zero, see below
            assert torch.autograd.gradgradcheck(loss, (real, fake))


@pytest.mark.parametrize("name", OBJECTIVES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_extreme_logits_stay_finite(name: str, dtype: torch.dtype) -> None:
    ends = torch.tensor([1e4, -1e4, 0.0])
    real, fake = (t.reshape(-1).to(dtype).requires_grad_() for t in torch.meshgrid(ends, ends, indexing="ij"))
    chosen = objective(name)
    for loss in (chosen.discriminator(real, fake), chosen.generator(fake, real)):
        slopes = torch.autograd.grad(loss.sum(), [real, fake], allow_unused=True)
        assert loss.isfinite().all()
        assert all(g.isfinite().all() for g in slopes if g is not None)


@pytest.mark.parametrize("name", OBJECTIVES)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64])
def test_promotes_to_at_least_float32_and_keeps_float64(name: str, dtype: torch.dtype) -> None:
    real, fake = (torch.randn(4).to(dtype) for _ in range(2))
    chosen, expected = objective(name), torch.promote_types(dtype, torch.float32)
    for loss, again in (
        (chosen.discriminator(real, fake), chosen.discriminator(real.to(expected), fake.to(expected))),
        (chosen.generator(fake, real), chosen.generator(fake.to(expected), real.to(expected))),
    ):
        assert loss.dtype == expected
        assert torch.equal(loss, again)  # computed there, not rounded there


@pytest.mark.parametrize("name", OBJECTIVES)
def test_any_shape_comes_back(name: str) -> None:
    real, fake = torch.randn(2, 3, 4, 4), torch.randn(2, 3, 4, 4)  # [N, C, H, W]: a patch discriminator's logits
    assert objective(name).discriminator(real, fake).shape == real.shape
    assert objective(name).generator(fake, real).shape == real.shape


@pytest.mark.parametrize(
    ("f", "name"), [(F.logsigmoid, "minimax"), (lambda t: t, "wasserstein"), (lambda t: -F.relu(1 - t), "hinge")]
)
def test_the_general_form_contains_minimax_and_wasserstein(f: Callable[[Tensor], Tensor], name: str) -> None:
    real, fake = pair()
    torch.testing.assert_close(
        general(f).discriminator(real, fake), objective(name).discriminator(real, fake), rtol=0, atol=1e-12
    )
    if name != "hinge":  # whose generator minimises -D(G(z)) instead of f(-D(G(z)))
        torch.testing.assert_close(
            general(f).generator(fake, None), objective(name).generator(fake, None), rtol=0, atol=1e-12
        )


@given(r=st.floats(-30, 30), t=st.floats(-30, 30))
def test_zero_sum_games_are_zero_sum_in_the_fake(r: float, t: float) -> None:
    real, fake = torch.tensor([r]).double(), torch.tensor([t]).double()
    for name in ("minimax", "wasserstein"):
        chosen = objective(name)
        on_fake = chosen.discriminator(real, fake) - chosen.discriminator(real, torch.zeros_like(fake))
        by_generator = chosen.generator(fake, None) - chosen.generator(torch.zeros_like(fake), None)
        assert (on_fake + by_generator).abs().item() < 1e-12


@given(r=st.floats(-30, 30), t=st.floats(-30, 30), c=st.floats(-5, 5))
def test_relativistic_and_wasserstein_ignore_a_common_shift(r: float, t: float, c: float) -> None:
    real, fake = torch.tensor([r]).double(), torch.tensor([t]).double()
    for name in ("relativistic", "wasserstein"):
        shifted = objective(name).discriminator(real + c, fake + c)
        torch.testing.assert_close(shifted, objective(name).discriminator(real, fake), rtol=0, atol=1e-10)


def test_the_optimal_discriminator_of_cross_entropy_is_p_over_p_plus_q() -> None:
    p, q = torch.tensor([0.7, 0.2, 0.05]).double(), torch.tensor([0.1, 0.2, 0.6]).double()
    t = torch.log(p / q).requires_grad_()  # logit of p / (p + q)
    value = (p * F.softplus(-t) + q * F.softplus(t)).sum()
    loss = objectives.cross_entropy_discriminator
    same = (p * loss(t, torch.full_like(t, -100.0)) + q * loss(torch.full_like(t, 100.0), t)).sum()
    torch.testing.assert_close(same, value)
    (slope,) = torch.autograd.grad(same, t)
    assert slope.abs().max().item() < 1e-12


def test_errors() -> None:
    with pytest.raises(UserError, match="did you mean 'wasserstein'"):
        objective("waserstein")
    with pytest.raises(ValueError, match="pass the reals' logits"):
        objective("relativistic").generator(torch.zeros(1), None)
    assert [o.name for o in OBJECTIVES.values() if o.uses_real_in_generator] == ["relativistic"]
