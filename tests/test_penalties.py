from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from saddlepoint import tracking
from saddlepoint.game import Round
from saddlepoint.layers.normalisation import BatchNorm, LayerNorm
from saddlepoint.penalties import between, clip, judge, one_sided, perturbed, slope, two_sided, zero_centred
from saddlepoint.recipes.base import Penalty


def critic(*, norm: bool = False, seed: int = 0) -> nn.Sequential:
    """Images [N, 1, 4, 4] -> logits [N], smooth, in float64."""
    torch.manual_seed(seed)
    layers = [
        nn.Conv2d(1, 3, 3, padding=1),
        *([BatchNorm(3)] if norm else []),
        nn.Tanh(),
        nn.Flatten(),
        nn.Linear(48, 1),
    ]
    return nn.Sequential(*layers, nn.Flatten(0)).double()


def images(n: int = 4, seed: int = 1) -> Tensor:
    return torch.randn(n, 1, 4, 4, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def linear(w: Tensor) -> Any:
    return lambda x: x.flatten(1) @ w


# ---- the slope
def test_slopes_equal_a_loop_over_samples() -> None:
    D, x = critic(), images()
    logits, squared = slope(D, x)
    assert torch.equal(logits, D(x))
    for n in range(len(x)):
        one = x[n : n + 1].clone().requires_grad_()
        (gradient,) = torch.autograd.grad(D(one).sum(), one)
        assert squared[n].item() == pytest.approx(gradient.square().sum().item(), rel=1e-12)


def test_slope_needs_nothing_of_its_input_and_leaves_nothing_on_it() -> None:
    D, x = critic(), images()
    expected = slope(D, x)[1]
    for given_x in (x.clone().requires_grad_(), x.clone().requires_grad_() * 1):  # a leaf, and one with a history
        assert torch.equal(slope(D, given_x)[1], expected)
    with torch.no_grad():  # a held-out penalty
        assert torch.equal(slope(D, x)[1], expected)
    assert not x.requires_grad
    assert x.grad is None


def test_slope_takes_scalar_samples_in_columns_and_patch_logits() -> None:
    logits, squared = slope(lambda x: 3 * x.squeeze(1), torch.zeros(2, 1))
    assert logits.tolist() == [0, 0]
    assert squared.tolist() == [9, 9]
    patches, squared = slope(lambda x: 2 * x, torch.zeros(2, 1, 3, 3))  # every pixel is a logit: nine slopes of two
    assert patches.shape == (2, 1, 3, 3)
    assert squared.tolist() == [36, 36]


def test_slopes_are_in_float32_under_autocast_unless_told_to_be_mixed() -> None:
    D, x = critic().float(), images().float()

    def gradient(autocast: bool, mixed: bool) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            penalty = zero_centred(slope(D, x, mixed=mixed)[1]).mean()
        grads = torch.autograd.grad(penalty, list(D.parameters()), allow_unused=True, materialize_grads=True)
        return torch.cat([g.flatten() for g in grads])

    exact = gradient(autocast=False, mixed=False)
    assert torch.equal(gradient(autocast=True, mixed=False), exact)
    assert torch.equal(gradient(autocast=False, mixed=True), exact)
    coarse = gradient(autocast=True, mixed=True)
    assert coarse.dtype == torch.float32
    assert not torch.equal(coarse, exact)
    assert torch.cosine_similarity(coarse, exact, dim=0) > 0.99


def test_with_batch_norm_the_slope_is_the_batchs() -> None:
    D, x = critic(norm=True), images()
    probe = x.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(D(probe).sum(), probe)
    torch.testing.assert_close(slope(D, x)[1], gradient.square().flatten(1).sum(1))


def test_second_derivatives_reach_the_critics_parameters() -> None:
    D, x = critic(), images()
    names, values = zip(*D.named_parameters(), strict=True)

    def penalty(*weights: Tensor) -> Tensor:
        at = dict(zip(names, weights, strict=True))
        _, squared = slope(lambda x: torch.func.functional_call(D, at, (x,)), x)
        return two_sided(squared).mean() + zero_centred(squared).mean()

    assert torch.autograd.gradcheck(penalty, values)
    gradients = dict(zip(names, torch.autograd.grad(penalty(*values), values, allow_unused=True), strict=True))
    assert gradients["0.weight"].abs().max() > 0
    assert gradients["3.bias"] is None  # a constant does not change a slope


@pytest.mark.parametrize("norm", [False, True])
def test_penalties_can_themselves_be_penalised(norm: bool) -> None:
    D = critic(norm=norm)

    def penalty(weight: Tensor) -> Tensor:
        return slope(lambda x: torch.func.functional_call(D, {"0.weight": weight}, (x,)), images(2))[1].mean()

    with tracking.any_order():  # as in an analysis and in consensus' J^T v
        assert torch.autograd.gradgradcheck(penalty, (D[0].weight,), atol=1e-6)


def test_a_penalty_differentiates_into_the_fakes_too() -> None:
    D, w = critic(), torch.ones((), dtype=torch.float64, requires_grad=True)
    _, squared = slope(D, w * images())
    (gradient,) = torch.autograd.grad(squared.sum(), w)
    up, down = (slope(D, s * images())[1].sum() for s in (1 + 1e-6, 1 - 1e-6))
    assert gradient.item() == pytest.approx((up - down).item() / 2e-6, rel=1e-6)


# ---- closed forms
@given(w=st.lists(st.floats(-3, 3), min_size=4, max_size=4).filter(lambda w: sum(x * x for x in w) > 1e-3))
def test_linear_critic_pays_for_its_norm(w: list[float]) -> None:
    weight = torch.tensor(w, dtype=torch.float64, requires_grad=True)
    _, squared = slope(linear(weight), torch.randn(3, 1, 2, 2, dtype=torch.float64))
    norm = weight.detach().norm()
    penalty = two_sided(squared).mean()
    (gradient,) = torch.autograd.grad(penalty, weight, retain_graph=True)
    assert penalty.item() == pytest.approx((norm.item() - 1) ** 2, abs=1e-8)
    torch.testing.assert_close(gradient, 2 * (norm - 1) * weight.detach() / norm, rtol=1e-6, atol=1e-8)
    assert one_sided(squared).mean().item() == pytest.approx(max(0.0, norm.item() - 1) ** 2, abs=1e-8)
    assert zero_centred(squared).mean().item() == pytest.approx(norm.item() ** 2 / 2, abs=1e-12)


@given(
    gamma=st.integers(0, 2000).map(lambda i: i / 100),
    psi=st.integers(-500, 500).map(lambda i: i / 100),
    x=st.floats(-5, 5),
)
def test_r1_of_the_dirac_discriminator_has_gradient_gamma_psi(gamma: float, psi: float, x: float) -> None:
    weight = torch.tensor([psi], dtype=torch.float64, requires_grad=True)
    _, squared = slope(linear(weight), torch.tensor([[x]], dtype=torch.float64))
    (gradient,) = torch.autograd.grad(gamma * zero_centred(squared).mean(), weight)
    assert gradient.item() == gamma * psi  # exactly


@pytest.mark.parametrize("sided", [two_sided, one_sided, zero_centred])
def test_no_nan_where_the_slope_is_zero(sided: Any) -> None:
    weight = torch.zeros(4, requires_grad=True)
    _, squared = slope(linear(weight), torch.randn(3, 1, 2, 2))
    value = sided(squared).mean()
    (gradient,) = torch.autograd.grad(value, weight, create_graph=True)
    (second,) = torch.autograd.grad(gradient.sum(), weight, allow_unused=True)
    assert value.item() == pytest.approx(1.0 if sided is two_sided else 0.0, abs=1e-5)
    assert gradient.tolist() == [0, 0, 0, 0]
    assert second is None or second.isfinite().all()


def test_only_slopes_above_one_are_punished_one_sidedly() -> None:
    squared = torch.tensor([0.25, 1.0, 4.0], dtype=torch.float64)
    torch.testing.assert_close(two_sided(squared), torch.tensor([0.25, 0.0, 1.0]).double(), rtol=0, atol=1e-10)
    torch.testing.assert_close(one_sided(squared), torch.tensor([0.0, 0.0, 1.0]).double(), rtol=0, atol=1e-10)
    assert zero_centred(squared).tolist() == [0.125, 0.5, 2.0]


# ---- statistics and precision
def test_running_statistics_inside_a_slope_are_tracked_once_and_are_plain() -> None:
    D, x = critic(norm=True), images(6)
    with tracking.collecting() as outside:
        D(x)
    with tracking.collecting() as inside:
        slope(D, x)
    assert len(inside) == len(outside) == 2
    for entry, plain in zip(inside, outside, strict=True):
        assert entry.buffer is plain.buffer
        assert not entry.statistic.requires_grad
        assert not torch._C._functorch.is_functorch_wrapped_tensor(entry.statistic)
        torch.testing.assert_close(entry.statistic, plain.statistic, rtol=0, atol=1e-14)
    tracking.commit(inside)
    assert D[1].running_mean.isfinite().all()


def test_under_bf16_autocast_the_penalty_is_float32() -> None:
    D, x = critic().float(), images().float()
    expected_logits, expected = slope(D, x)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert D(x).dtype == torch.bfloat16  # the forward of the loss would be half precision
        logits, squared = slope(D, x)
        from_half = slope(D, x.bfloat16())[1]
    assert logits.dtype == squared.dtype == torch.float32
    assert torch.equal(logits, expected_logits)
    assert torch.equal(squared, expected)
    assert torch.equal(from_half, slope(D, x.bfloat16().float())[1])


# ---- points
@given(a=st.lists(st.floats(0, 1), min_size=3, max_size=3))
def test_points_between_real_and_fake(a: list[float]) -> None:
    real, fake, mix = images(3, 1), images(3, 2), torch.tensor(a, dtype=torch.float64)
    points = between(real, fake, mix)
    for n in range(3):  # one a per sample
        torch.testing.assert_close(points[n], real[n] + a[n] * (fake[n] - real[n]), rtol=0, atol=1e-12)


def test_dragan_points_lie_half_a_standard_deviation_up() -> None:
    real, noise, mix = images(5), torch.rand(5, 1, 4, 4).double(), torch.rand(5).double()
    points = perturbed(real, noise, mix)
    spread = math.sqrt(float((real - real.mean()).square().mean()))  # over all elements of the batch
    expected = real + mix.view(-1, 1, 1, 1) * 0.5 * spread * noise
    torch.testing.assert_close(points, expected, rtol=0, atol=1e-12)
    assert torch.equal(perturbed(real, noise, torch.zeros(5).double()), real)


@given(c=st.floats(1e-3, 2))
def test_clip_projects_and_is_idempotent(c: float) -> None:
    weights = [nn.Parameter(torch.linspace(-3, 3, 11)), nn.Parameter(torch.tensor(-0.5))]
    before = [w.detach().clone() for w in weights]
    clip(weights, c)
    for w, old in zip(weights, before, strict=True):
        assert torch.equal(w.detach(), old.clamp(-c, c))
        assert w.requires_grad
        assert w.grad_fn is None
    once = [w.detach().clone() for w in weights]
    clip(weights, c)
    assert all(torch.equal(w, old) for w, old in zip(weights, once, strict=True))


# ---- judge
@dataclass(frozen=True)
class Weights(Penalty):
    """Every penalty on, with weights that tell them apart."""

    r1: float = 0.3
    r2: float = 0.7
    gradient_penalty: float = 10.0
    dragan: float = 2.0
    drift: float = 0.001


def round_of(n: int = 4, **fields: Any) -> Round:
    return Round({}, size=n, total=n, dtype=torch.float64, **fields)


def test_judge_equals_the_same_written_out() -> None:
    D, real, fake, round = critic(), images(4, 1), images(4, 2), round_of()
    judged = judge(D, real, fake, round, Weights())

    def squared_slopes(x: Tensor) -> Tensor:
        x = x.clone().requires_grad_()
        (gradient,) = torch.autograd.grad(D(x).sum(), x, create_graph=True)
        return gradient.square().flatten(1).sum(1)

    a, b = (round.uniform(name).view(-1, 1, 1, 1) for name in ("mix", "dragan.mix"))
    around = real + b * 0.5 * real.std(correction=0) * round.uniform("dragan.noise", 1, 4, 4)
    by_hand = {
        "r1": 0.3 / 2 * squared_slopes(real).mean(),
        "r2": 0.7 / 2 * squared_slopes(fake).mean(),
        "gradient_penalty": 10 * (squared_slopes(real + a * (fake - real)).sqrt() - 1).square().mean(),
        "dragan": 2 * (squared_slopes(around).sqrt() - 1).square().mean(),
        "drift": 0.001 * D(real).square().mean(),
    }
    assert torch.equal(judged.real, D(real))
    assert torch.equal(judged.fake, D(fake))
    assert list(judged.penalties) == list(by_hand)
    weights = list(D.parameters())
    for name, expected in by_hand.items():
        torch.testing.assert_close(judged.penalties[name], expected, rtol=1e-9, atol=1e-12)
        ours, theirs = (
            torch.autograd.grad(value, weights, retain_graph=True, allow_unused=True)
            for value in (judged.penalties[name], expected)
        )
        for g, other in zip(ours, theirs, strict=True):
            assert (g is None) == (other is None) or not (g if other is None else other).any()
            if g is not None and other is not None:
                torch.testing.assert_close(g, other, rtol=1e-8, atol=1e-10)


def test_judge_measures_only_what_is_switched_on_and_asked_for() -> None:
    calls: list[int] = []
    D = critic()

    def counting(x: Tensor) -> Tensor:
        calls.append(len(x))
        return D(x)

    plain = judge(counting, images(4, 1), images(4, 2), round_of(), Penalty())
    assert plain.penalties == {}
    assert len(calls) == 2  # one pass each
    for name in ("r1", "r2", "gradient_penalty", "dragan", "drift"):
        asked = judge(D, images(4, 1), images(4, 2), round_of(terms=frozenset({name})), Weights())
        assert list(asked.penalties) == [name]
    calls.clear()
    judge(counting, images(4, 1), images(4, 2), round_of(terms=frozenset({"r1"})), Weights())
    assert len(calls) == 2  # R1 shares the pass with the logits


def test_judge_one_sided() -> None:
    flat = torch.full((16,), 0.01, dtype=torch.float64)
    for weights, expected in ((Weights(), (1 - 0.04) ** 2), (Weights(one_sided=True), 0.0)):
        terms = judge(linear(flat), images(4, 1), images(4, 2), round_of(), weights).penalties
        assert terms["gradient_penalty"].item() == pytest.approx(10 * expected, abs=1e-6)
        assert terms["dragan"].item() == pytest.approx(2 * expected, abs=1e-6)


def test_judge_can_look_at_fakes_with_another_critic() -> None:
    one, two = critic(seed=0), critic(seed=5)
    judged = judge(one, images(4, 1), images(4, 2), round_of(), Penalty(r2=2.0), fake_critic=two)
    assert torch.equal(judged.real, one(images(4, 1)))
    assert torch.equal(judged.fake, two(images(4, 2)))
    torch.testing.assert_close(judged.penalties["r2"], slope(two, images(4, 2))[1].mean())


def test_judge_in_micro_batches_is_judge() -> None:
    D, real, fake = critic(), images(4, 1), images(4, 2)
    whole = Round({"real": real, "fake": fake}, size=4, total=4, dtype=torch.float64)
    weights = Weights(dragan=0.0)  # whose standard deviation couples the batch
    expected = judge(D, real, fake, whole, weights).penalties
    parts = [judge(D, part["real"], part["fake"], part, weights).penalties for part in whole.split(2)]
    for name, value in expected.items():
        mean = (parts[0][name] + parts[1][name]) / 2
        torch.testing.assert_close(mean, value, rtol=1e-12, atol=0)


def test_drift_fixes_the_critics_constant_and_nothing_else_does() -> None:
    D = critic()

    def loss(weights: Penalty, constant: float) -> float:
        judged = judge(lambda x: D(x) + constant, images(4, 1), images(4, 2), round_of(), weights)
        return float((judged.fake - judged.real).mean().detach() + sum(judged.penalties.values()).detach())

    without = Weights(drift=0.0)
    assert loss(without, 100.0) == pytest.approx(loss(without, 0.0), abs=1e-9)
    assert loss(Weights(), 100.0) > loss(Weights(), 0.0) + 1


def test_layer_norm_keeps_samples_apart_under_a_penalty() -> None:
    torch.manual_seed(0)
    D = nn.Sequential(
        nn.Conv2d(1, 3, 3), LayerNorm(3), nn.Tanh(), nn.Flatten(), nn.Linear(12, 1), nn.Flatten(0)
    ).double()
    x = images(4)
    alone = torch.cat([slope(D, x[n : n + 1])[1] for n in range(4)])
    torch.testing.assert_close(slope(D, x)[1], alone, rtol=1e-10, atol=0)
