"""Projection finds what a generator made; its pieces by hand; what it refuses."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from saddlepoint import editing
from saddlepoint.editing import projection
from saddlepoint.editing.recipes import render
from saddlepoint.errors import UserError
from tests.editing.helpers import game_of


@pytest.fixture(scope="module")
def style() -> Any:
    return game_of("stylegan2", g_net={"channel_base": 128, "channel_max": 16}, w=16, latent=16)


# ---- the pieces
def test_learning_rate_and_perturbation_by_hand() -> None:
    assert projection.learning_rate(0.0) == 0
    assert projection.learning_rate(0.025) == pytest.approx(0.05)
    assert projection.learning_rate(0.05) == pytest.approx(0.1) == projection.learning_rate(0.75)
    assert projection.learning_rate(0.875) == pytest.approx(0.05)
    assert projection.learning_rate(1.0) == pytest.approx(0.0)
    assert [projection.perturbation(t, 4.0) for t in (0.0, 0.375, 0.75, 0.9)] == pytest.approx([0.2, 0.05, 0, 0])


def test_noise_penalty_by_hand() -> None:
    board = torch.ones(1, 1, 4, 4)
    board[..., ::2, ::2] = board[..., 1::2, 1::2] = -1  # neighbours always differ: both correlations are -1
    assert projection.noise_penalty([board]).tolist() == [2.0]
    stripes = torch.ones(1, 1, 16, 16)
    stripes[..., ::2] = -1  # columns alternate: -1 and 1 at 16x16; the halving is 0
    assert projection.noise_penalty([stripes]).tolist() == [2.0]
    flat = torch.ones(2, 1, 16, 16)
    assert projection.noise_penalty([flat, flat[..., :8, :8]]).tolist() == [6.0, 6.0]  # 2 at 16, 8 and 8


def test_noise_of_independent_numbers_costs_next_to_nothing() -> None:
    maps = projection.normalised(torch.randn(3, 1, 32, 32, generator=torch.Generator().manual_seed(0)) * 5 + 2)
    assert torch.allclose(maps.mean((1, 2, 3)), torch.zeros(3), atol=1e-6)
    assert torch.allclose(maps.square().mean((1, 2, 3)), torch.ones(3))
    assert float(projection.noise_penalty([maps]).max()) < 0.1


# ---- recovery
def test_w_of_a_generated_image_is_found(style: Any) -> None:
    at = editing.space(style)
    w = at.styles(at.draw([(5, 0), (5, 1)]))[:, 0]
    targets = style.sample(0, w=w)
    seen: list[torch.Tensor] = []
    found = editing.project(
        style, targets, steps=100, distance="multiscale", noise=False, samples=500, known=w,
        watch=lambda step, at_step: seen.append(at_step[:, 0]),
    )  # fmt: skip
    apart = (torch.stack(seen) - w).norm(dim=2)
    assert torch.allclose(found.errors / found.errors[0], apart / apart[0], rtol=1e-4)
    assert found.distances.shape == found.errors.shape == (100, 2)
    assert (found.final < 0.3 * found.distances[0]).all()
    assert (found.errors[-1] < 0.6 * found.errors[0]).all()
    quarters = found.distances.mean(1).view(4, 25).mean(1)
    assert (quarters.diff() < 0).all()
    assert torch.equal(found.images, style.sample(0, w=found.w[:, 0]))


def test_targets_are_projected_as_if_alone_and_the_seed_decides(style: Any) -> None:
    targets = style.sample(2, 8)
    how: dict[str, Any] = {"steps": 6, "distance": "multiscale", "samples": 100}
    both, one = editing.project(style, targets, **how), editing.project(style, targets[1], **how)
    assert torch.allclose(both.w[1:], one.w, atol=1e-5)
    assert torch.equal(one.w, editing.project(style, targets[1], **how).w)
    assert not torch.equal(one.w, editing.project(style, targets[1], seed=1, **how).w)


def test_w_plus_gives_layers_their_own_and_noise_stays_noise(style: Any) -> None:
    target = style.sample(1, 2)
    told: list[tuple[int, int, float]] = []
    found = editing.project(
        style, target, "w+", steps=30, distance="multiscale", samples=100, progress=lambda *x: told.append(x)
    )
    at = editing.space(style)
    assert found.w.shape == (1, at.layers, at.size)
    assert float((found.w[:, 0] - found.w[:, 1]).abs().max()) > 1e-3
    assert set(found.noise) == set(at.noise_shapes())
    for name, shape in at.noise_shapes().items():
        x = found.noise[name]
        assert tuple(x.shape) == (1, 1, *shape)
        assert float(x.mean()) == pytest.approx(0, abs=1e-5)
        assert float(x.square().mean()) == pytest.approx(1, abs=1e-4)
    assert [x[:2] for x in told] == [(i, 30) for i in range(1, 31)]
    assert float(found.final) < float(found.distances[0])


@pytest.mark.parametrize("system", ["dcgan", "wgan-gp", "progan"])
def test_systems_without_w_are_projected_to_z(system: str) -> None:
    game = game_of(system)
    target = game.sample(1, 77)
    found = editing.project(game, target, steps=40, distance="multiscale", samples=50)
    assert (found.space, found.noise) == ("z", {})
    assert float(found.final) < 0.8 * float(found.distances[0])
    assert torch.allclose(game.sample(1, z=found.w[:, 0]), found.images)
    if system == "dcgan":
        assert float(found.w.abs().max()) <= 1  # its prior is a cube


def test_stylegan1_and_stylegan3_are_projected_too() -> None:
    for system, preset, names in (("stylegan1", "tiny", 6), ("stylegan3", "tiny-t", 0)):
        game = game_of(system, preset)
        found = editing.project(game, game.sample(1, 3), steps=8, distance="multiscale", samples=50)
        assert len(found.noise) == names
        assert float(found.final) < float(found.distances[0])


# ---- files and pictures
def test_a_projection_is_kept_whole_and_its_picture_shows_both(style: Any, tmp_path: Path) -> None:
    targets = style.sample(2, 4)
    found = editing.project(style, targets, steps=3, distance="multiscale", samples=50)
    kept = editing.load_projection(found.save(tmp_path / "p.safetensors"))
    assert torch.equal(kept.w, found.w)
    assert torch.equal(kept.distances, found.distances)
    assert kept.facts() == found.facts()
    images = found.picture(style).images.unflatten(0, (2, 2))
    assert torch.equal(images[:, 1], found.images)
    assert torch.allclose(images[:, 0], targets, atol=1 / 254)
    plain = render(style, kept.recipe(beside=False))
    assert torch.equal(plain, found.images)


def test_pictures_are_read_in_the_runs_shape(tmp_path: Path) -> None:
    wide = np.zeros((20, 40, 3), np.uint8)
    wide[:, 10:30] = (255, 0, 0)
    Image.fromarray(wide).save(tmp_path / "wide.png")
    x = editing.read_target(tmp_path / "wide.png", 20, 20, 3)
    assert x.shape == (3, 20, 20)
    assert x[0].eq(1).all()
    assert x[1:].eq(-1).all()
    assert editing.read_target(tmp_path / "wide.png", 8, 8, 1).shape == (1, 8, 8)
    for name in ("none.png", "text.png"):
        (tmp_path / "text.png").write_text("no picture")
        with pytest.raises(UserError, match="picture"):
            editing.read_target(tmp_path / name, 8, 8, 1)


def test_large_images_are_compared_at_256() -> None:
    x = torch.arange(512.0).expand(1, 1, 512, 512)
    small = projection.reduced(x)
    assert small.shape == (1, 1, 256, 256)
    assert torch.equal(small[0, 0, 0, :3], torch.tensor([0.5, 2.5, 4.5]))
    assert projection.reduced(x[..., :200]).shape[-2:] == (256, 100)


def test_what_cannot_be_projected_is_refused(style: Any, tmp_path: Path) -> None:
    dcgan, target = game_of("dcgan"), torch.zeros(1, 16, 16)
    conditional = game_of("dcgan", conditional=True, classes=3)
    for game, args, more, words in (
        (style, (torch.zeros(3, 16, 16),), {}, r"expected \[n, 1, 16, 16\]"),
        (style, (target, "z"), {}, "w or w+"),
        (dcgan, (target, "w"), {}, "projected to z"),
        (style, (target, "v"), {}, "unknown space"),
        (style, (target,), {"steps": 0}, "1 or more"),
        (style, (target,), {"label": 1}, "knows no classes"),
        (conditional, (target,), {}, "give the class"),
        (style, (target,), {"distance": "lite9"}, "did you mean 'lite0'"),
    ):
        with pytest.raises(UserError, match=words.replace("w+", r"w\+")):
            editing.project(game, *args, **more)
    (tmp_path / "x.safetensors").write_bytes(b"x" * 100)
    with pytest.raises(UserError, match="not a projection"):
        editing.load_projection(tmp_path / "x.safetensors")
    assert math.isinf(projection._Search(editing.space(style), target[None], "w", None, None, 0).bound)  # type: ignore[arg-type]
