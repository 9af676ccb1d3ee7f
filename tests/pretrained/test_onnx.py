"""The exported generator runs elsewhere with the same images: style systems and DCGAN, noise as inputs, any batch."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from saddlepoint import exporting
from saddlepoint.errors import UserError
from saddlepoint.game import Game
from saddlepoint.systems import build
from tests.pretrained.test_importing import made


def _made(system: str) -> Game:
    if system == "dcgan":
        from saddlepoint import recipes

        return build(recipes.recipe("dcgan", resolution=16, channels=1, width=8, latent=4)).eval()
    if system == "stylegan3-r":
        return made("stylegan3", kernel=1, radial=True, blur_sigma=2.0)
    if system == "stylegan2-conditional":
        return made("stylegan2", conditional=True, classes=3)
    return made(system)


SYSTEMS = ("dcgan", "progan", "stylegan1", "stylegan2", "stylegan2-conditional", "stylegan3", "stylegan3-r")
QUICK = ("dcgan", "progan")


@pytest.mark.parametrize("system", SYSTEMS)
def test_the_program_is_the_generator(system: str) -> None:
    """What is exported, run by torch: the samples of the game, for every batch."""
    game = _made(system)
    module, inputs = exporting.program(game)
    for n in (1, 3):
        z = game.draw_latents(n, 4)  # type: ignore[operator]
        given = {**inputs, "z": z}
        if "label" in inputs:
            given["label"] = torch.arange(n) % 3
        with torch.no_grad():
            found = module(*given.values())
        torch.testing.assert_close(found, game.sample(n, 4), atol=1e-5, rtol=0)


@pytest.mark.parametrize("system", [s if s in QUICK else pytest.param(s, marks=pytest.mark.slow) for s in SYSTEMS])
def test_onnx_makes_the_same_images(system: str, tmp_path: Path) -> None:
    for package in ("onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(package, reason=f"{package} is not installed: pip install 'saddlepoint[onnx]'")
    import onnxruntime

    game = _made(system)
    said = exporting.to_onnx(game, tmp_path / "g.onnx")
    assert "any batch" in said[0]
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(tmp_path / "g.onnx", options, providers=["CPUExecutionProvider"])
    _, inputs = exporting.program(game)
    assert [i.name for i in session.get_inputs()] == list(inputs)
    for n in (1, 2, 5):
        given = {name: t.numpy() for name, t in inputs.items()}
        given["z"] = game.draw_latents(n, 9).numpy()  # type: ignore[operator]
        if "label" in given:
            given["label"] = np.arange(n) % 3
        (found,) = session.run(None, given)
        assert np.abs(found - game.sample(n, 9).numpy()).max() < 1e-4
    noise = [name for name in inputs if name not in ("z", "label")]
    if noise:  # another noise image is another picture
        given[noise[-1]] = given[noise[-1]] + 1.0
        assert np.abs(session.run(None, given)[0] - found).max() > 1e-4


def test_without_the_packages_it_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"pip install 'saddlepoint\[onnx\]'"):
        exporting.to_onnx(_made("dcgan"), tmp_path / "g.onnx")
    assert not list(tmp_path.iterdir())


def test_official_options_are_plain_json() -> None:
    for system in ("progan", "stylegan1", "stylegan2", "stylegan3"):
        config = exporting.official(made(system))[1]
        assert json.loads(json.dumps(config)) == config
