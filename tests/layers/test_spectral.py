from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from saddlepoint import tracking
from saddlepoint.layers.spectral import (
    OFF,
    ClassTable,
    Spectral,
    SpectralConv2d,
    SpectralEmbedding,
    SpectralLinear,
    settled,
    singular_values,
)


def played(layer: nn.Module, x: Tensor, times: int = 1) -> Tensor:
    """Forward passes whose state is committed, as by a move of the engine."""
    for _ in range(times):
        with tracking.collecting() as ledger:
            y: Tensor = layer(x)
        tracking.commit(ledger)
    return y


def layers(spectral: Spectral) -> list[tuple[nn.Module, Tensor]]:
    torch.manual_seed(0)
    return [
        (SpectralConv2d(3, 5, 3, spectral).double(), torch.randn(2, 3, 6, 5).double()),
        (SpectralLinear(4, 6, spectral).double(), torch.randn(2, 4).double()),
        (SpectralEmbedding(7, 4, spectral).double(), torch.tensor([0, 6, 3])),
    ]


@pytest.mark.parametrize("which", [0, 1, 2])
def test_the_weight_gets_norm_one_and_the_full_decomposition_agrees(which: int) -> None:
    layer, x = layers(Spectral(values=2))[which]
    played(layer, x, 200)
    exact = torch.linalg.svdvals(layer.weight.detach().flatten(1))
    assert torch.allclose(layer.get_buffer("sv0"), exact[:1], rtol=1e-6)
    assert torch.allclose(layer.get_buffer("sv1"), exact[1:2], rtol=1e-4)
    assert torch.linalg.svdvals(layer.normalised().detach().flatten(1))[0] == pytest.approx(1, abs=1e-6)


@pytest.mark.filterwarnings("ignore:.*spectral_norm.*deprecated")
def test_it_steps_as_torchs_first_spectral_norm() -> None:
    """nn.utils.spectral_norm; the one in nn.utils.parametrizations takes the half steps in another order."""
    layer, x = layers(Spectral())[1]
    theirs: nn.Module = nn.utils.spectral_norm(nn.Linear(4, 6).double())
    with torch.no_grad():
        theirs.get_parameter("weight_orig").copy_(layer.weight)
        theirs.get_parameter("bias").copy_(layer.get_parameter("bias"))
        theirs.get_buffer("weight_u").copy_(layer.get_buffer("u0")[0])
    for _ in range(3):
        a, b = played(layer, x), theirs(x)
        torch.testing.assert_close(a, b, rtol=0, atol=1e-10)
    (ours,) = torch.autograd.grad(a.square().sum(), layer.weight)
    (other,) = torch.autograd.grad(b.square().sum(), theirs.get_parameter("weight_orig"))
    torch.testing.assert_close(ours, other, rtol=0, atol=1e-10)


def test_nothing_is_written_before_the_commit_and_nothing_in_evaluation() -> None:
    layer, x = layers(Spectral())[0]
    before = {k: v.clone() for k, v in layer.state_dict().items()}
    layer(x)
    assert all(torch.equal(v, before[k]) for k, v in layer.state_dict().items())
    played(layer.eval(), x)
    assert all(torch.equal(v, before[k]) for k, v in layer.state_dict().items())
    played(layer.train(), x)
    assert not torch.equal(layer.get_buffer("u0"), before["u0"]) and not torch.equal(
        layer.get_buffer("sv0"), before["sv0"]
    )


def test_stored_vectors_are_taken_as_they_are_in_evaluation() -> None:
    layer, x = layers(Spectral(stored=True))[1]
    played(layer, x, 5)
    with torch.no_grad():
        layer.weight += 0.5 * torch.randn_like(layer.weight)  # the vectors belong to another weight now
    quotient = (layer.get_buffer("u0") @ layer.weight @ layer.get_buffer("v0").T).item()
    torch.testing.assert_close(layer.eval()(x), F.linear(x, layer.weight / quotient, layer.bias))


def test_off_leaves_the_weight_alone_and_follows_its_singular_value() -> None:
    layer, x = layers(OFF)[1]
    torch.testing.assert_close(played(layer, x, 100), F.linear(x, layer.weight, layer.bias))
    assert singular_values(layer)[0] == pytest.approx(
        float(torch.linalg.matrix_norm(layer.weight.detach(), 2)), rel=1e-6
    )


def test_settling_is_as_good_as_moves() -> None:
    one, x = layers(Spectral())[0]
    two, _ = layers(Spectral())[0]
    played(one, x, 15)
    settled(two, 15)
    assert torch.allclose(one.get_buffer("u0"), two.get_buffer("u0")) and torch.allclose(
        one.get_buffer("sv0"), two.get_buffer("sv0")
    )


def test_a_mixture_of_classes_is_the_mixture_of_their_rows() -> None:
    table = ClassTable(4, 3)
    rows = table(torch.tensor([1, 3]))
    mixed = table(torch.tensor([[0.0, 0.25, 0.0, 0.75]]))
    torch.testing.assert_close(mixed, 0.25 * rows[:1] + 0.75 * rows[1:])
    torch.testing.assert_close(table(F.one_hot(torch.tensor([1, 3]), 4).float()), rows)


def test_a_norm_of_bfloat16_is_a_norm_of_float32() -> None:
    layer = SpectralLinear(32, 16, Spectral())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        weight = layer.normalised()
    assert weight.dtype == torch.float32 and torch.equal(weight, layer.normalised())
