from __future__ import annotations

import math

import pytest
import torch

from saddlepoint.errors import UserError
from saddlepoint.game import Round
from saddlepoint.layers.latent import Prior, chosen_labels, in_parts, line

CPU = torch.device("cpu")


def test_priors_have_their_moments_and_bounds() -> None:
    uniform, normal = Prior(50, "uniform", bound=math.sqrt(3)), Prior(50)
    for z in (uniform.draw(2000, 0, CPU), uniform.of(Round({}, size=2000, total=2000))):
        assert z.shape == (2000, 50)
        assert (z.mean().item(), z.std().item()) == pytest.approx((0, 1), abs=0.01)
        assert z.abs().max().item() == pytest.approx(math.sqrt(3), abs=1e-3)
    for z in (normal.draw(2000, 0, CPU), normal.of(Round({}, size=2000, total=2000))):
        assert (z.mean().item(), z.std().item()) == pytest.approx((0, 1), abs=0.01)
        assert 3.5 < z.abs().max().item() < 6


def test_draws_are_functions_of_the_seed_and_rounds_of_their_slice() -> None:
    prior = Prior(3)
    assert torch.equal(prior.draw(5, 1, CPU), prior.draw(5, 1, CPU))
    assert not torch.equal(prior.draw(5, 1, CPU), prior.draw(5, 2, CPU))
    assert prior.draw(2, 0, CPU, torch.float64).dtype == torch.float64
    whole = Round({}, size=8, total=8)
    assert torch.equal(prior.of(whole)[2:5], prior.of(whole.part(2, 3)))
    assert not torch.equal(prior.of(whole), prior.of(whole, "other"))


def test_a_line_has_its_ends_and_equal_steps() -> None:
    a, b = torch.zeros(2), torch.tensor([1.0, -2.0])
    torch.testing.assert_close(line(a, b, 5), torch.tensor([[0, 0], [0.25, -0.5], [0.5, -1], [0.75, -1.5], [1, -2]]))


def test_parts_make_the_whole() -> None:
    x, y = torch.randn(7, 2), torch.arange(7)
    torch.testing.assert_close(in_parts(lambda x, y: x * y[:, None], x, y, batch=3), x * y[:, None])


def test_labels() -> None:
    assert chosen_labels(None, 5, 3, CPU).tolist() == [0, 1, 2, 0, 1]
    assert chosen_labels(2, 3, 3, CPU).tolist() == [2, 2, 2]
    assert chosen_labels([2, 0], 2, 3, CPU).tolist() == [2, 0]
    assert chosen_labels(torch.tensor([1]), 1, 3, CPU).tolist() == [1]
    with pytest.raises(UserError, match="no class -1: the classes are 0 to 2; nearest: 0"):
        chosen_labels([0, -1], 2, 3, CPU)


def test_labels_between_classes_are_weights_of_all() -> None:
    found = chosen_labels([2.25, 0.0], 2, 4, CPU)
    torch.testing.assert_close(found, torch.tensor([[0, 0, 0.75, 0.25], [1, 0, 0, 0]]))
    assert chosen_labels(0.5, 3, 2, CPU, torch.float64).tolist() == 3 * [[0.5, 0.5]]
    weights = torch.tensor([0.2, 0.3, 0.5])
    assert torch.equal(chosen_labels(weights, 2, 3, CPU), weights.expand(2, 3))
    with pytest.raises(UserError, match="no class 4: the classes are 0 to 3; nearest: 3"):
        chosen_labels([3.5], 1, 4, CPU)
    with pytest.raises(UserError, match=r"weights of the classes are \[2, 4\] or \[4\], not \[2, 3\]"):
        chosen_labels(torch.ones(2, 3), 2, 4, CPU)
