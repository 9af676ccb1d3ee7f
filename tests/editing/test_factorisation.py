"""Directions: closed form against NumPy's eigenvectors, hyperplanes against a known one, files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from saddlepoint import editing
from saddlepoint.editing.factorisation import ATTRIBUTES, factorised, named, supervised
from saddlepoint.errors import UserError
from tests.editing.helpers import game_of


@pytest.mark.parametrize("normalised", [True, False])
def test_closed_form_against_numpy(normalised: bool) -> None:
    game = game_of("stylegan2")
    convs = [game.generator.synthesis.blocks[b] for b in ("b4", "b8", "b16")]
    layers = [convs[0].conv1, convs[1].conv0, convs[1].conv1, convs[2].conv0, convs[2].conv1]
    chosen = [layer.affine.weight.detach().double().numpy() / 8 for layer in layers[1:3]]  # 64 inputs: scale 1 / 8
    A = np.concatenate(chosen)
    if normalised:
        A = A / np.linalg.norm(A, axis=1, keepdims=True)
    values, vectors = np.linalg.eigh(A.T @ A)
    found = editing.directions(game, count=4, layers="1-2", normalised=normalised, samples=50)
    assert [d.value for d in found] == pytest.approx(values[::-1][:4].tolist(), rel=1e-6)
    for i, d in enumerate(found):
        assert d.layers == (1, 2)
        assert float(d.vector.norm()) == pytest.approx(1, abs=1e-6)
        assert abs(float(d.vector.double() @ torch.from_numpy(vectors[:, -1 - i].copy()))) == pytest.approx(1, abs=1e-6)
        assert d.vector[d.vector.abs().argmax()] > 0


def test_the_first_direction_changes_the_styles_most() -> None:
    game = game_of("stylegan1")
    at = editing.space(game)
    A = torch.cat([weight for _, weight in at.affines()])
    first, *_, last = factorised(at, range(at.layers), at.size, normalised=False)
    others = torch.nn.functional.normalize(torch.randn(100, at.size), dim=1)
    assert (A @ first.vector).norm() >= (A @ others.T).norm(dim=0).max()
    assert (A @ last.vector).norm() <= (A @ others.T).norm(dim=0).min()


@pytest.mark.parametrize(("system", "preset"), [("stylegan1", "tiny"), ("stylegan2", "tiny"), ("stylegan3", "tiny-t")])
def test_affines_are_what_the_layers_compute(system: str, preset: str) -> None:
    game = game_of(system, preset)
    at = editing.space(game)
    seen: list[tuple[torch.Tensor, torch.Tensor]] = []
    dense = [m for n, m in game.generator.synthesis.named_modules() if n.endswith((".style", "affine"))]
    hooks = [m.register_forward_hook(lambda _, i, o: seen.append((i[0], o))) for m in dense]
    ws = at.styles(game.draw_latents(2, 0)) + torch.arange(at.layers)[None, :, None]
    at.images(ws)
    for hook in hooks:
        hook.remove()
    assert len(at.affines()) > 3
    for layer, A in at.affines():
        change = A @ (ws[1, layer] - ws[0, layer])
        outputs = [o for i, o in seen if torch.equal(i, ws[:, layer]) and o.shape[1] == len(A)]
        assert any(torch.allclose(o[1] - o[0], change, atol=1e-4) for o in outputs), layer


def test_the_hyperplane_of_a_known_direction_is_found() -> None:
    draw = torch.Generator().manual_seed(0)
    ws = torch.randn(2000, 12, generator=draw) * torch.linspace(0.5, 3, 12)
    normal = torch.randn(12, generator=draw)
    found = supervised(ws, ws @ normal > 0, name="x", layers=(0,))
    assert float(found.vector @ normal / normal.norm()) > 0.98
    assert found.value > 0.95
    assert found.deviation == pytest.approx(float((ws @ found.vector).std()), rel=1e-5)
    chance = supervised(ws, torch.rand(2000, generator=draw) > 0.5, name="x", layers=(0,))
    assert 0.35 < chance.value < 0.65


def test_noisy_labels_give_a_normal_along_which_w_varies() -> None:
    draw = torch.Generator().manual_seed(0)
    turn = torch.linalg.qr(torch.randn(64, 64, generator=draw)).Q
    parts = torch.randn(1000, 64, generator=draw) * torch.logspace(0.3, -1.5, 64)  # deviations 2 to 0.03
    seen = parts[:, 0] + torch.randn(1000, generator=draw)  # a classifier that errs
    found = supervised(parts @ turn, seen > 2.5, name="x", layers=(0,))
    assert found.value > 0.7
    assert found.deviation > 1.2  # 2 at most; a machine that fits the errors gives 0.7


def test_attributes_move_what_they_are_named_after() -> None:
    game = game_of("stylegan2")
    for name in ("brightness", "contrast"):
        (found,) = editing.directions(game, "attribute", attribute=name, samples=300)
        made = editing.sweep(game, found.at(), (-2.0, 0.0, 2.0), "5:0-5").images
        values = ATTRIBUTES[name](made).view(6, 3).mean(0)
        assert values[0] < values[1] < values[2]
        assert found.value > 0.6


def test_attributes_by_hand() -> None:
    x = -torch.ones(2, 1, 4, 8)
    x[0, :, :, 3:5], x[1, :, :, 0], x[1, :, :, 7] = 1, 1, 1
    assert ATTRIBUTES["brightness"](x).tolist() == [-0.5, -0.5]
    assert ATTRIBUTES["symmetry"](x).tolist() == [0, 0]
    assert ATTRIBUTES["width"](x).tolist() == pytest.approx([1 / 14, 0.5])


def test_labels_give_a_direction_for_each_class() -> None:
    game = game_of("dcgan")
    z = game.draw_latents(400, 0)
    labels = (z[:, 3] > 0).long() + (z[:, 3] > 0.5).long()
    found = editing.directions(game, "labels", labels=labels, names=("low", "mid", "high"), samples=400)
    assert [d.name for d in found] == ["low", "mid", "high"]
    assert int(found[2].vector.abs().argmax()) == 3
    assert float(found[2].vector[3]) > 0.8
    bright = editing.directions(game, "labels", labels=lambda x: (x.mean((1, 2, 3)) > x.mean()).long(), samples=100)
    assert [d.name for d in bright] == ["class 0", "class 1"]
    assert float(bright[0].vector @ bright[1].vector) == pytest.approx(-1, abs=0.02)


def test_directions_are_kept(tmp_path: Path) -> None:
    found = editing.directions(game_of("stylegan2"), count=3, samples=50)
    kept = editing.load_directions(editing.save_directions(found, tmp_path / "d.safetensors"))
    for a, b in zip(found, kept, strict=True):
        assert torch.equal(a.vector, b.vector)
        assert (a.name, a.deviation, a.layers, a.value, a.method) == (b.name, b.deviation, b.layers, b.value, b.method)
    assert named(kept, "2") is kept[2] is named(kept, "sefa 2")
    with pytest.raises(UserError, match="did you mean 'sefa"):
        named(kept, "sefa 9")
    (tmp_path / "x.safetensors").write_bytes(b"\x00")
    with pytest.raises(UserError, match="not a file of directions"):
        editing.load_directions(tmp_path / "x.safetensors")
    with pytest.raises(UserError, match="no file"):
        editing.load_directions(tmp_path / "y.safetensors")


def test_what_has_no_direction_is_refused() -> None:
    game: Any = game_of("stylegan2")
    for more, words in (
        ({"method": "factorize"}, "did you mean 'factorise'"),
        ({"count": 65}, "1 to 64"),
        ({"layers": "5"}, "no matrix"),
        ({"method": "labels"}, "takes labels"),
        ({"method": "labels", "labels": torch.zeros(20)}, "do not tell"),
        ({"method": "labels", "labels": torch.zeros(3)}, "one each"),
        ({"method": "attribute", "attribute": "bright"}, "did you mean 'brightness'"),
        ({"samples": 2}, "10 or more"),
    ):
        with pytest.raises(UserError, match=words):
            editing.directions(game, **{"samples": 20, **more})
    with pytest.raises(UserError, match="another network"):
        editing.sweep(game, editing.directions(game_of("dcgan", latent=8), samples=20)[0].at())
