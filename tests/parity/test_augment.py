"""The augmentation pipe against the official one, at fixed percentiles and with its recorded draws."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from saddlepoint.layers.augment import AugmentPipe, Percentile, Tape, _Draws

Case = tuple[dict[str, Any], dict[str, Tensor]]


@pytest.fixture(scope="module")
def case(parity: Path) -> Case:
    stem = parity / "stylegan2" / "ada"
    return json.loads(stem.with_suffix(".json").read_text()), load_file(stem.with_suffix(".safetensors"))


def near(found: Tensor, stored: Tensor, about: dict[str, Any], what: str) -> None:
    tolerance = max(3 * about["tolerance"]["float32_vs_float64_max_rel"], 1e-5)
    error = float((found.detach() - stored).abs().max()) / max(float(stored.abs().max()), 1e-3)
    assert error <= tolerance, f"{what}: {error:.2e}, allowed {tolerance:.2e}"


def test_the_filters_are_the_official_ones(case: Case) -> None:
    about, tensors = case
    pipe = AugmentPipe()
    near(pipe.Hz_geom, tensors["out/buffer.Hz_geom"], about, "sym6")
    near(pipe.Hz_fbank, tensors["out/buffer.Hz_fbank"], about, "bank")


def test_every_operation_at_fixed_percentiles(case: Case) -> None:
    about, tensors = case
    x = tensors["in/img_single"]
    n, _, height, width = x.shape
    checked = 0
    for single in about["config"]["singles"]:
        pipe, name = AugmentPipe(**single["kw"]), single["id"]
        numbers = Percentile(single["p"], n)
        draws = _Draws(numbers, "augment", torch.ones(()), x)
        for key, matrix in (("G_inv", pipe.geometry(draws, height, width)), ("C", pipe.colour(draws))):
            if (stored := tensors.get(f"out/{name}.{key}")) is not None:
                assert matrix is not None
                near(matrix[0], stored, about, f"{name}.{key}")
                checked += 1
        if (stored := tensors.get(f"out/{name}.y")) is not None:
            near(pipe(x, 1.0, numbers), stored, about, f"{name}.y")
            checked += 1
    assert checked == sum(key.startswith("out/") and "@" in key for key in tensors)


def test_whole_pipes_with_recorded_draws(case: Case) -> None:
    about, tensors = case
    for full in about["config"]["fulls"]:
        pipe, name = AugmentPipe(**full["kw"]), full["id"]
        tape = [tensors[key] for key in sorted(tensors) if key.startswith(f"in/draw.{name}.")]
        x = tensors[f"in/{full['img']}"].clone().requires_grad_()
        _, channels, height, width = x.shape
        draws = _Draws(Tape(tape), "augment", torch.tensor(full["p"]), x)
        G, C = pipe.geometry(draws, height, width), pipe.colour(draws, coloured=channels == 3)
        assert G is not None and C is not None
        near(G, tensors[f"out/{name}.G_inv"], about, f"{name}.G_inv")
        near(C, tensors[f"out/{name}.C"], about, f"{name}.C")
        left = Tape(tape)
        y = pipe(x, torch.tensor(full["p"]), left)
        assert next(left.draws, None) is None, "the official code draws more numbers than ours"
        near(y, tensors[f"out/{name}.y"], about, f"{name}.y")
        weights = torch.cos(0.7 * torch.arange(y.numel(), dtype=torch.float64)).float().view(y.shape)
        (gradient,) = torch.autograd.grad((y * weights).sum(), x)
        near(gradient, tensors[f"grad/{name}.images"], about, f"{name}.images")
