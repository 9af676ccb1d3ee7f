"""Foreign tensors: all named that do not fit, nothing written then."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from saddlepoint import pretrained
from saddlepoint.errors import UserError
from saddlepoint.pretrained.placing import place


def test_tensors_are_copied_by_name() -> None:
    layer = nn.BatchNorm1d(2)
    given = {"weight": torch.tensor([3.0, 4.0]), "bias": torch.tensor([5.0, 6.0]), "running_mean": torch.ones(2)}
    place(layer, given, where="a norm", optional=lambda n: n in ("running_var", "num_batches_tracked"))
    assert layer.weight.tolist() == [3, 4] and layer.bias.tolist() == [5, 6]
    assert layer.running_mean is not None and layer.running_mean.tolist() == [1, 1]


def test_every_misfit_is_named_and_nothing_is_written() -> None:
    layer = nn.Linear(2, 3)
    before = layer.weight.clone()
    with pytest.raises(UserError) as error:
        place(layer, {"weigth": torch.zeros(3, 2), "bias": torch.zeros(4)}, where="a layer", theirs={"bias": "b0"})
    text = str(error.value)
    assert "a layer" in text and "missing (1): weight" in text
    assert "weigth (did you mean weight?)" in text and "b0 is [4], expected [3]" in text
    assert torch.equal(layer.weight, before)


def test_an_unknown_system_names_the_nearest() -> None:
    with pytest.raises(UserError, match="stylegan2"):
        pretrained.load("stylegan-2", {})


def test_values_must_be_tensors() -> None:
    with pytest.raises(UserError, match="'a' is a list"):
        pretrained.load("stylegan2", {"a": [1.0]})  # type: ignore[dict-item]
