from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st

from saddlepoint.layers.dense import Maxout, MaxoutConv, dropout, limit_norms, sparse


def test_maxout_with_one_piece_is_linear() -> None:
    layer, x = Maxout(5, 3, 1), torch.randn(4, 5)
    torch.testing.assert_close(layer(x), x @ layer.linear.weight.T + layer.linear.bias)
    conv, image = MaxoutConv(2, 3, 3, 1, 1, 1, pieces=1), torch.randn(2, 2, 5, 5)
    torch.testing.assert_close(conv(image), conv.conv(image))


def test_maxout_is_the_largest_of_its_affine_pieces() -> None:
    layer, x = Maxout(5, 3, 4), torch.randn(6, 5)
    weight, bias = layer.linear.weight.view(3, 4, 5), layer.linear.bias.view(3, 4)
    expected = (torch.einsum("ni,uki->nuk", x, weight) + bias).amax(2)
    torch.testing.assert_close(layer(x), expected)


def test_maxout_is_differentiable_twice() -> None:
    torch.manual_seed(0)
    layer = Maxout(3, 2, 3).double()
    x = torch.randn(4, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: layer(x.tanh()), x)
    assert torch.autograd.gradgradcheck(lambda x: layer(x.tanh()), x)


@given(st.floats(0.1, 1.0))
def test_dropout_keeps_what_its_numbers_say_and_the_mean(keep: float) -> None:
    numbers = torch.linspace(0, 0.9999, 1000)
    kept = dropout(torch.ones(1000), numbers, keep)
    assert torch.equal(kept > 0, numbers < keep)
    assert abs(kept.mean().item() - 1) < 0.011  # one of a thousand, divided by at least 0.1


def test_sparse_initialisation_touches_so_many_inputs_of_every_unit() -> None:
    layer = torch.nn.Linear(40, 300)
    sparse(layer, 7, bias=-1.0)
    assert ((layer.weight != 0).sum(1) == 7).all()
    values = layer.weight[layer.weight != 0]
    assert abs(values.std().item() - 1) < 0.05
    assert (layer.weight != 0).any(0).all()  # no input is left out by design
    assert (layer.bias == -1).all()


def test_limit_norms_shrinks_only_what_is_too_long() -> None:
    weight = torch.tensor([[3.0, 4.0], [0.3, 0.4]])
    limit_norms([weight], 2.0)
    torch.testing.assert_close(weight, torch.tensor([[1.2, 1.6], [0.3, 0.4]]), rtol=0, atol=1e-6)
