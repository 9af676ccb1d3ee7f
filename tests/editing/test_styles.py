"""Arithmetic on styles, truncation, mixing, interpolation: facts that hold for every weight."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from saddlepoint import editing
from saddlepoint.editing import styles
from saddlepoint.editing.recipes import Edit, PictureRecipe, render
from saddlepoint.errors import UserError
from tests.editing.helpers import game_of

MAPPED = ("stylegan1", "stylegan2", "stylegan3")


@pytest.fixture(scope="module")
def game() -> Callable[[str], Any]:
    made: dict[str, Any] = {}

    def of(system: str) -> Any:
        if system not in made:
            made[system] = game_of(system, "tiny-t" if system == "stylegan3" else "tiny")
        return made[system]

    return of


# ---- tensors
@settings(max_examples=30)
@given(st.integers(2, 12), st.integers(0, 10_000), st.floats(0.05, 20.0))
def test_slerp_keeps_the_length_and_turns_evenly(size: int, seed: int, length: float) -> None:
    draw = torch.Generator().manual_seed(seed)
    a, b = (length * torch.nn.functional.normalize(x, dim=0) for x in torch.randn(2, size, generator=draw).double())
    points = styles.slerp(a, b, torch.linspace(0, 1, 9).double())
    assert torch.equal(points[0], a)
    assert torch.equal(points[-1], b)
    whole = math.acos(max(-1.0, min(1.0, float(a @ b) / length**2)))
    if math.sin(whole) > 1e-3:
        assert torch.allclose(points.norm(dim=1), torch.full((9,), length).double(), rtol=1e-6)
        cosines = (points[1:] * points[:-1]).sum(1) / length**2
        assert torch.allclose(cosines.clamp(-1, 1).acos(), torch.full((8,), whole / 8).double(), atol=1e-5)


def test_slerp_of_a_right_angle_by_hand() -> None:
    middle = styles.slerp(torch.tensor([2.0, 0.0]), torch.tensor([0.0, 2.0]), torch.tensor([0.5]))
    assert torch.allclose(middle, torch.full((1, 2), math.sqrt(2)))


def test_slerp_of_parallel_and_opposite_latents_is_the_straight_line() -> None:
    a, t = torch.tensor([1.0, 2.0]), torch.tensor([0.0, 0.25, 1.0])
    for b in (3 * a, -a):
        assert torch.allclose(styles.slerp(a, b, t), torch.lerp(a, b, t[:, None]))


def test_paths_for_pictures_and_for_films() -> None:
    keys = torch.tensor([[0.0], [4.0], [6.0]])
    assert styles.path(keys, 3)[:, 0].tolist() == [0, 2, 4, 4, 5, 6]
    assert styles.path(keys, 2, frames=True)[:, 0].tolist() == [0, 2, 4, 5, 6]
    looped = styles.path(keys, 2, frames=True, loop=True)[:, 0].tolist()
    assert looped == [0, 2, 4, 5, 6, 3]  # the first follows the last
    for wrong in ((keys[:1], 4), (keys, 1)):
        with pytest.raises(UserError, match="two latents or more"):
            styles.path(*wrong)


def test_mixed_and_moved_touch_only_their_layers() -> None:
    base, other = torch.zeros(2, 5, 3), torch.ones(2, 5, 3)
    assert styles.mixed(base, other, (1, 4)).sum((0, 2)).tolist() == [0, 6, 0, 0, 6]
    moved = styles.moved(base, torch.tensor([1.0, 0.0, -2.0]), torch.tensor([1.0, 3.0]), (2,))
    assert moved[:, 2].tolist() == [[1, 0, -2], [3, 0, -6]]
    assert moved[:, [0, 1, 3, 4]].abs().sum() == 0


# ---- truncation
@pytest.mark.parametrize("system", MAPPED)
def test_truncation_one_is_the_sample_and_zero_the_mean_whatever_the_seed(
    system: str, game: Callable[[str], Any]
) -> None:
    g = game(system)
    made = editing.truncate(g, (1.0, 0.6, 0.0), "0:0-2").images.unflatten(0, (3, 3))  # [seeds, psi, C, H, W]
    assert torch.allclose(made[:, 0], g.sample(3, 0), atol=1e-4)
    assert torch.allclose(made[:, 1], g.sample(3, 0, truncation=0.6), atol=1e-4)
    assert torch.allclose(made[0, 2].expand_as(made[:, 2]), made[:, 2], atol=1e-4)
    assert not torch.allclose(made[0, 1], made[1, 1], atol=1e-3)
    again = editing.truncate(g, 0.0, "9:4").images
    assert torch.allclose(again[0], made[0, 2], atol=1e-4)


def test_a_plain_picture_equals_sample_bit_for_bit(game: Callable[[str], Any]) -> None:
    for system in MAPPED:
        expected = game(system).sample(4, 3, truncation=0.7)
        assert torch.equal(editing.truncate(game(system), 0.7, "3:0-3").images, expected)


def test_cutoff_truncates_the_first_layers(game: Callable[[str], Any]) -> None:
    g = game("stylegan2")
    expected = g.sample(2, 0, truncation=0.5, cutoff=2)
    assert torch.equal(editing.truncate(g, 0.5, "0:0-1", cutoff=2).images, expected)


# ---- mixing
@pytest.mark.parametrize("system", MAPPED)
def test_no_layer_mixed_is_the_row_and_every_layer_the_column(system: str, game: Callable[[str], Any]) -> None:
    g = game(system)
    rows, columns = g.sample(2, 0), g.sample(3, 1)
    for layers, expect in (([], rows[:, None].expand(-1, 3, -1, -1, -1)), ("all", columns.expand(2, -1, -1, -1, -1))):
        made = editing.mix(g, "0:0-1", "1:0-2", layers).images.unflatten(0, (3, 4))  # [1 + rows, 1 + columns, C, H, W]
        assert made[0, 0].eq(1).all()  # white
        assert torch.allclose(made[0, 1:], columns, atol=1e-5)
        assert torch.allclose(made[1:, 0], rows, atol=1e-5)
        assert torch.allclose(made[1:, 1:], expect, atol=1e-5)


def test_mixing_equals_the_systems_own(game: Callable[[str], Any]) -> None:
    g = game("stylegan2")
    z = [g.draw_latents(1, seed) for seed in (4, 5)]
    made = editing.mix(g, 5, 4, "0-2", grid=False).images
    assert torch.allclose(made, g.mix(z[0], z[1], 3), atol=1e-6)
    pairs = editing.mix(g, (5, 6), 4, "0-2", grid=False).images
    assert torch.allclose(pairs[:1], made, atol=1e-4)


def test_ranges_of_layers() -> None:
    at = editing.space(game_of("stylegan2"))
    assert at.layers == 6
    assert [at.layers_of(name) for name in ("coarse", "middle", "fine")] == [(0, 1), (2, 3), (4, 5)]
    assert at.layers_of("fine, 0-1,3") == (0, 1, 3, 4, 5)
    assert at.layers_of([5, 2]) == (5, 2)
    at.layers = 18  # 1024x1024, as in the paper
    assert [len(at.layers_of(name)) for name in ("coarse", "middle", "fine")] == [4, 4, 10]
    with pytest.raises(UserError, match="did you mean 'coarse'"):
        at.layers_of("corse")
    with pytest.raises(UserError, match="layers 0 to 17, not 18"):
        at.layers_of("3-18")


# ---- interpolation
@pytest.mark.parametrize("system", [*MAPPED, "dcgan", "wgan-gp", "progan"])
def test_interpolation_begins_and_ends_at_its_latents(system: str, game: Callable[[str], Any]) -> None:
    g = game(system)
    ends = torch.cat([g.sample(1, 0), g.sample(1, 1), g.sample(1, 2)])
    for space in ("w", "z", "slerp"):
        made = editing.interpolate(g, (0, 1, 2), 4, space=space).images
        assert made.shape[0] == 8
        assert torch.allclose(made[[0, 3, 4, 7]], ends[[0, 1, 1, 2]], atol=1e-5)
        assert not torch.allclose(made[1], made[0], atol=1e-4)


def test_straight_in_w_is_not_straight_in_z(game: Callable[[str], Any]) -> None:
    g = game("stylegan2")
    made = {space: editing.interpolate(g, (0, 1), 3, space=space).images[1] for space in ("w", "z")}
    w = g.mapped(0, z=torch.cat([g.draw_latents(1, 0), g.draw_latents(1, 1)]))
    assert torch.allclose(made["w"], g.sample(0, w=w.mean(0, keepdim=True))[0], atol=1e-5)
    assert not torch.allclose(made["w"], made["z"], atol=1e-3)


# ---- edits and conditions
def _edit(at: Any, strength: float, layers: tuple[int, ...], seed: int = 0) -> Edit:
    vector = torch.randn(at.size, generator=torch.Generator().manual_seed(seed))
    return Edit("x", vector / vector.norm(), layers, strength)


def test_edits_of_strength_zero_change_nothing_and_edits_commute(game: Callable[[str], Any]) -> None:
    g = game("stylegan2")
    at = editing.space(g)
    plain = g.sample(2, 0)

    def images(*edits: Edit) -> Tensor:
        return render(g, PictureRecipe(codes=((0, 0), (0, 1)), edits=edits))

    assert torch.equal(images(_edit(at, 0.0, (0, 1))), plain)
    assert torch.equal(images(_edit(at, 2.0, ())), plain)
    a, b = _edit(at, 2.0, (0, 1, 2)), _edit(at, -1.0, (1, 4), 1)
    assert torch.allclose(images(a, b), images(b, a), atol=1e-5)
    assert not torch.allclose(images(a), plain, atol=1e-3)


def test_classes_follow_the_rows_of_the_seed() -> None:
    g = game_of("stylegan2", conditional=True, classes=3)
    assert torch.equal(editing.truncate(g, 0.7, "0:0-4").images, g.sample(5, 0, truncation=0.7))
    chosen = editing.truncate(g, 1.0, "0:0-1", label=(2, 1)).images
    assert torch.equal(chosen, g.sample(2, 0, label=[2, 1]))
    plain = game_of("dcgan", conditional=True, classes=3)
    ends = torch.cat([plain.sample(1, 0, label=2), plain.sample(1, 1, label=2)])
    made = editing.interpolate(plain, (0, 1), 3, label=2).images
    assert torch.allclose(made[[0, 2]], ends, atol=1e-5)
    with pytest.raises(UserError, match="the classes are 0 to 2"):
        editing.truncate(g, 1.0, label=3)


# ---- refusals
def test_seeds_in_words() -> None:
    assert editing.codes("3, 0:5,7-8") == ((3, 0), (0, 5), (7, 0), (8, 0))
    assert editing.codes("2:1-3") == ((2, 1), (2, 2), (2, 3))
    assert editing.codes([4, (1, 6)]) == ((4, 0), (1, 6))
    for wrong in ("x", "3-1", "1:", "0:0-99999999", "", []):
        with pytest.raises(UserError):
            editing.codes(wrong)


def test_what_a_system_does_not_have_is_refused(game: Callable[[str], Any]) -> None:
    dcgan = game("dcgan")
    for call, words in (
        (lambda: editing.truncate(dcgan, 0.5), "no truncation"),
        (lambda: editing.mix(dcgan, layers="all"), "no styles to mix"),
        (lambda: editing.interpolate(dcgan, noise="none"), "no noise inputs"),
        (lambda: editing.interpolate(game("stylegan3"), noise="random"), "no noise inputs"),
        (lambda: editing.interpolate(dcgan, space="y"), "Choices: slerp, w, z"),
        (lambda: editing.truncate(dcgan, 1.0, label=1), "knows no classes"),
        (lambda: editing.truncate(game("stylegan2"), 1.0, noise="nnoe"), "did you mean 'none'"),
        (lambda: editing.truncate(game("stylegan2"), w=torch.zeros(1, 4, 64)), "another network"),
        (lambda: editing.mix(game("stylegan2"), truncation=(1.0, 0.5)), "pictures of their own"),
        (lambda: render(dcgan, PictureRecipe()), "give one of them"),
        (lambda: editing.space(game_of("dcgan").generator), "'game'"),
    ):
        with pytest.raises((UserError, AttributeError), match=words):
            call()
