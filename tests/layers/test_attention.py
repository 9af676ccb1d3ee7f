from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from saddlepoint.layers.attention import SelfAttention
from saddlepoint.layers.spectral import Spectral


def layer(channels: int = 8, gamma: float = 0.7) -> SelfAttention:
    torch.manual_seed(0)
    made = SelfAttention(channels).double()
    with torch.no_grad():
        made.gamma.fill_(gamma)
    return made


def test_the_formula_position_by_position() -> None:
    made, x = layer(), torch.randn(2, 8, 4, 6).double()
    theta, phi, g, o = (part.weight[:, :, 0, 0] for part in (made.theta, made.phi, made.g, made.o))
    keys = F.max_pool2d(torch.einsum("oc,nchw->nohw", phi, x), 2).flatten(2)
    values = F.max_pool2d(torch.einsum("oc,nchw->nohw", g, x), 2).flatten(2)
    expected = x.clone()
    for n in range(2):
        for i in range(4):
            for j in range(6):
                share = torch.softmax((theta @ x[n, :, i, j]) @ keys[n], 0)
                expected[n, :, i, j] += 0.7 * (o @ (values[n] @ share))
    torch.testing.assert_close(made(x), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("channels", [8, 64, 256])
def test_parameters(channels: int) -> None:
    with torch.device("meta"):
        made = SelfAttention(channels, Spectral())
    assert sum(p.numel() for p in made.parameters()) == 1.25 * channels**2 + 1  # 81,921 at 256 maps


def test_it_starts_as_the_identity_and_only_gamma_moves_at_first() -> None:
    made, x = layer(gamma=0.0), torch.randn(2, 8, 4, 4).double()
    y = made(x)
    assert torch.equal(y, x)
    gradients = dict(
        zip(
            [name for name, _ in made.named_parameters()],
            torch.autograd.grad((y**3).sum(), list(made.parameters())),
            strict=True,
        )
    )
    assert gradients.pop("gamma") != 0
    assert all(not g.any() for g in gradients.values())


def test_weights_sum_to_one_and_are_even_on_a_constant_image() -> None:
    made = layer()
    shares = made.weights(torch.randn(2, 8, 4, 6).double())
    assert shares.shape == (2, 24, 6)
    torch.testing.assert_close(shares.sum(2), torch.ones(2, 24).double())
    torch.testing.assert_close(made.weights(torch.ones(1, 8, 4, 4).double()), torch.full((1, 16, 4), 0.25).double())


def test_queries_do_not_see_each_other() -> None:
    """Turning the image over in blocks of 2x2 permutes keys and queries alike, so the answer is turned over as well."""
    made, x = layer(), torch.randn(1, 8, 4, 4).double()
    turned = x.flip(2, 3)
    torch.testing.assert_close(made(turned), made(x).flip(2, 3))


def test_few_maps_have_one_query_at_least() -> None:
    assert SelfAttention(4)(torch.randn(1, 4, 2, 2)).shape == (1, 4, 2, 2)
