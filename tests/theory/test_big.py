"""The matrix-free spectrum of a DCGAN of more than 500,000 weights."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from saddlepoint import recipes
from saddlepoint.engine import Training
from saddlepoint.systems import build
from saddlepoint.theory import decompose, jvp, spectrum


def images(cursor: int, total: int, first: int, length: int, resolution: int | None = None) -> dict[str, torch.Tensor]:
    """Waves whose direction depends on the example."""
    i = torch.arange(cursor + first, cursor + first + length, dtype=torch.float32)[:, None, None]
    x, y = torch.meshgrid(torch.linspace(0, 6, 32), torch.linspace(0, 6, 32), indexing="ij")
    return {"image": torch.sin(torch.cos(i) * x + torch.sin(i) * y + i).unsqueeze(1)}


@pytest.mark.slow
def test_six_leading_eigenvalues_of_a_trained_dcgan() -> None:
    recipe = recipes.recipe("dcgan", resolution=32, channels=1, batch=16, precision="fp32")
    run = Training(build(recipe), recipe, images)
    for _ in range(30):
        run.play()
    game = run.game.train()
    assert sum(p.numel() for player in game.players for p in player.parameters) == 651_392
    round = game.round(images(0, 8, 0, 8), 0, size=8)
    found = spectrum(game, round, 6, tolerance=1e-3)
    assert len(found.eigenvalues) in (6, 7)
    assert found.relative_residuals.max() < 1e-2
    assert found.products < 200
    # A second way, forward over reverse, agrees that these are eigenvectors.
    assert found.vectors is not None
    x, z = found.vectors[:, 0], found.eigenvalues[0]
    parts = [jvp(game, round, torch.from_numpy(np.ascontiguousarray(p))).double().numpy() for p in (x.real, x.imag)]
    assert np.linalg.norm(parts[0] + 1j * parts[1] - z * x) < 1e-2 * abs(z)
    shares = decompose(game, round, probes=2)
    assert 0 < shares.rotation < 1 and shares.error > 0
