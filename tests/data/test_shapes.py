"""Images that are not square, from a folder through a zip and the stream to a recipe."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from saddlepoint import api, recipes
from saddlepoint.data import Stream, describe, inspect, open_set
from saddlepoint.data.build import build
from saddlepoint.errors import UserError
from saddlepoint.recipes.base import ImageRecipe
from saddlepoint.recipes.settings import shown_facts


@dataclass(frozen=True)
class Postcards(ImageRecipe):
    """A recipe of images three quarters as high as wide."""

    @property
    def shape(self) -> tuple[int, int]:
        return 3 * self.resolution // 4, self.resolution


@pytest.fixture
def postcards(tmp_path: Path) -> Path:
    """A folder of nine RGB images 24 high and 32 wide."""
    folder = tmp_path / "postcards"
    folder.mkdir()
    for index in range(9):
        noise = np.random.default_rng(index).integers(0, 256, (24, 32, 3), np.uint8)
        Image.fromarray(noise).save(folder / f"{index}.png")
    return folder


def test_a_zip_keeps_the_shape(postcards: Path, tmp_path: Path, cache: Path) -> None:
    report = build(postcards, tmp_path / "cards.zip")
    assert report.sizes == {"24x32": 9} and (report.facts.height, report.facts.width) == (24, 32)
    assert inspect(tmp_path / "cards.zip").sizes == {"24x32": 9}
    found = open_set(tmp_path / "cards.zip")
    assert found.images.shape == (9, 3, 24, 32)
    assert np.array_equal(found.images, open_set(postcards, resolution=(24, 32)).images)


def test_other_shapes_are_fitted_by_height_and_width(postcards: Path, tmp_path: Path, cache: Path) -> None:
    build(postcards, tmp_path / "small.zip", resolution="12x16")
    small = open_set(tmp_path / "small.zip")
    assert (
        small.images.shape == (9, 3, 12, 16) and "12x16" in open_set(postcards, resolution=(12, 16)).facts.preparation
    )
    assert open_set(postcards, resolution=(32, 24), fit="crop").images.shape == (9, 3, 32, 24)
    assert open_set(postcards, resolution=16).images.shape == (9, 3, 16, 16)


def test_a_stream_halves_and_mirrors_them(postcards: Path, cache: Path) -> None:
    images = open_set(postcards)
    full, half = Stream(images, seed=1)(0, 4, 0, 4), Stream(images, seed=1)(0, 4, 0, 4, resolution=12)
    assert full["image"].shape == (4, 3, 24, 32) and half["image"].shape == (4, 3, 12, 16)
    means = full["image"].unflatten(2, (12, 2)).unflatten(4, (16, 2)).mean((3, 5))
    assert torch.allclose(half["image"], means, atol=1e-6)
    mirrored = Stream(images, seed=1, mirror=True)(0, 9, 0, 9)["image"]
    plain = Stream(images, seed=1)(0, 9, 0, 9)["image"]
    flipped = [torch.equal(a, b.flip(2)) for a, b in zip(mirrored, plain, strict=True)]
    kept = [torch.equal(a, b) for a, b in zip(mirrored, plain, strict=True)]
    assert any(flipped) and any(kept) and all(a != b for a, b in zip(flipped, kept, strict=True))
    with pytest.raises(UserError, match="24x32"):
        Stream(images, seed=1)(0, 4, 0, 4, resolution=9)


def test_a_recipe_asks_for_its_own_shape(postcards: Path, cache: Path) -> None:
    recipe = Postcards(system="dcgan", preset="tiny", data=str(postcards))
    facts = describe(postcards)
    assert (facts.height, facts.width) == (24, 32)
    resolved = recipes.resolve(recipe, facts)
    assert isinstance(resolved, Postcards) and resolved.resolution == 32 and resolved.shape == (24, 32)
    shown = shown_facts(resolved)
    assert shown is not None and (shown.height, shown.width) == (24, 32) and "size as stored" in shown.preparation
    source = api._source(resolved)
    assert source is not None and source(0, 2, 0, 2)["image"].shape == (2, 3, 24, 32)


def test_systems_of_squares_fit_them_into_a_square(postcards: Path, cache: Path) -> None:
    recipe = api.prepared(recipes.recipe("dcgan"), str(postcards))
    assert isinstance(recipe, ImageRecipe) and recipe.shape == (32, 32)
    source = api._source(recipe)
    assert source is not None and source(0, 2, 0, 2)["image"].shape == (2, 3, 32, 32)
    with pytest.raises(UserError, match="resolution takes int"):
        recipes.recipe("dcgan", resolution=(24, 32))


def test_a_resolution_holds_the_data_on_both_sides() -> None:
    assert Postcards().holding(24, 32) == 32
    assert Postcards().holding(25, 32) == 64
    assert Postcards().holding(3, 3) == 8
    assert ImageRecipe().holding(24, 33) == 64


def test_stylegan2_trains_and_samples_on_a_zip_of_them(postcards: Path, tmp_path: Path, cache: Path) -> None:
    build(postcards, tmp_path / "cards.zip")
    narrow = {"g_net.channel_base": 64, "g_net.channel_max": 8, "d_net.channel_base": 64, "d_net.channel_max": 8}
    recipe = recipes.recipe(
        "stylegan2", "tiny", base=(3, 4), latent=8, w=8, batch=4, kimg=0.008, precision="fp32", **narrow,
        **{"augment.operations": "bgc", "augment.p": 0.5},
    )  # fmt: skip
    training = api._training(api.prepared(recipe, str(tmp_path / "cards.zip")), torch.device("cpu"))
    assert isinstance(training.recipe, ImageRecipe) and training.recipe.shape == (24, 32)
    training.play()
    images = training.average.game().sample(3)
    assert images.shape == (3, 3, 24, 32) and torch.isfinite(images).all()
