from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from saddlepoint import recipes
from saddlepoint.api import prepared
from saddlepoint.data import open_set
from saddlepoint.data.domains import TRANSFORMS, edges, halves, negative, source
from saddlepoint.errors import UserError


def test_the_edges_of_a_constant_image_are_nothing() -> None:
    for value in (-1.0, 0.3, 1.0):
        assert torch.equal(edges(torch.full((2, 1, 6, 6), value)), torch.full((2, 1, 6, 6), -1.0))


def test_the_edges_of_a_dot_surround_it() -> None:
    x = -torch.ones(1, 1, 5, 5)
    x[0, 0, 2, 2] = 1
    expected = -torch.ones(5, 5)
    expected[1:4, 1:4] = 1
    expected[2, 2] = -1  # dilation minus image: the dot itself is taken away
    assert torch.equal(edges(x)[0, 0], expected)


def test_a_negative_is_255_less_the_bytes() -> None:
    values = torch.arange(256.0).view(1, 1, 16, 16)
    assert torch.allclose((negative(values / 127.5 - 1) + 1) * 127.5, 255 - values, atol=1e-4)


def test_the_halves_share_no_image_and_lose_none() -> None:
    images = open_set("digits")
    a, b = halves(images)
    assert (len(a), len(b)) == (809, 809) and a.facts.count == 809
    assert sorted([*a.names, *b.names]) == sorted(images.names)
    assert np.array_equal(a.images, images.images[::2]) and np.array_equal(b.labels, images.labels[1::2])  # type: ignore[index]


@pytest.mark.parametrize("second", list(TRANSFORMS))
def test_no_image_is_ever_in_both_domains(second: str) -> None:
    recipe = prepared(recipes.recipe("cogan", resolution=8, second=second), "digits")
    stream = source(recipe)
    batch = stream(0, 809, 0, 809)  # an epoch of either half
    a, b = halves(open_set("digits"))
    of_a, of_b = ({image.tobytes() for image in part.images} for part in (a, b))
    shown = ((batch["image"] + 1) * 127.5).round().to(torch.uint8)
    assert {image.numpy().tobytes() for image in shown} == of_a and not of_a & of_b
    expected = TRANSFORMS[second](torch.from_numpy(b.images.copy()) / 127.5 - 1)
    assert torch.allclose(batch["second"].flatten(1).sum(1).sort()[0], expected.flatten(1).sum(1).sort()[0], atol=1e-3)


def test_either_domain_has_its_own_order_and_any_slice_can_be_had_again() -> None:
    recipe = prepared(recipes.recipe("cogan", resolution=8, second="digits"), "digits")
    stream = source(recipe)
    whole = stream(500, 16, 0, 16)
    assert not torch.equal(whole["image"], whole["second"])
    part = stream(500, 16, 4, 8)
    assert all(torch.equal(part[name], whole[name][4:12]) for name in ("image", "second", "label"))


def test_a_second_set_is_brought_to_the_first_ones_shape(tmp_path: Path) -> None:
    from PIL import Image

    for i in range(3):
        Image.new("RGB", (20, 20), (10 * i, 200, 30)).save(tmp_path / f"{i}.png")
    recipe = prepared(recipes.recipe("cogan", second=str(tmp_path)), "digits")
    batch = source(recipe)(0, 2, 0, 2)
    assert batch["second"].shape == batch["image"].shape == (2, 1, 28, 28)


def test_what_is_no_domain() -> None:
    with pytest.raises(UserError, match=r"did you mean 'digits'.*Or a transformation: negative, edges"):
        prepared(recipes.recipe("cogan", second="digit"), "digits")
