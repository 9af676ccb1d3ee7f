"""What the tests of the systems share: a game from a preset, parameter counts, batches of images."""

from __future__ import annotations

import importlib
from typing import Any

import torch
from torch import Tensor, nn

from saddlepoint import recipes
from saddlepoint.engine import Training
from saddlepoint.game import Game


def build(system: str, preset: str = "tiny", *, seed: int = 0, device: str = "cpu", **overrides: Any) -> Any:
    """The game of this preset; where preset and overrides say nothing: one channel, 16x16."""
    recipe = recipes.recipe(system, preset, **overrides)
    given = {"resolution": recipe.resolution or 16, "channels": recipe.channels or 1}  # type: ignore[attr-defined]
    module, _, name = recipes.SYSTEMS[system].game.partition(":")
    torch.manual_seed(seed)
    with torch.device(device):
        return getattr(importlib.import_module(module), name)(recipes.with_overrides(recipe, given))


def count(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def counts(system: str, preset: str, **overrides: Any) -> tuple[int, int]:
    """Parameters of the generator and of its opponent, counted without memory."""
    game = build(system, preset, device="meta", **overrides)
    opponent = next(p for p in game.players if p.name != "generator")
    return count(game.generator), sum(p.numel() for p in opponent.parameters)


def images(
    n: int, resolution: int = 16, channels: int = 1, seed: int = 0, dtype: torch.dtype = torch.float32
) -> Tensor:
    """Images [n, C, R, R] in [-1, 1] with some structure: a bright bar each, at a random place and angle."""
    generator = torch.Generator().manual_seed(seed)
    numbers = torch.rand(3, n, 1, 1, generator=generator)
    y, x = torch.meshgrid(*[torch.linspace(-1, 1, resolution)] * 2, indexing="ij")
    angle = torch.pi * numbers[0]
    distance = (x * angle.cos() + y * angle.sin() - numbers[1] + 0.5).abs()
    pictures = 2 * torch.exp(-((distance / 0.3) ** 2)) * (0.5 + 0.5 * numbers[2]) - 1  # [n, R, R]
    return pictures.unsqueeze(1).expand(-1, channels, -1, -1).to(dtype).contiguous()


def train(game: Game, batch: dict[str, Tensor], rounds: int = 1) -> Training:
    """Play rounds on one batch over and over."""

    def source(cursor: int, total: int, first: int, length: int, resolution: int | None = None) -> dict[str, Tensor]:
        return {name: tensor[first : first + length] for name, tensor in batch.items()}

    recipe = recipes.with_overrides(game.recipe, {"batch": len(next(iter(batch.values()))), "precision": "fp32"})
    training = Training(game, recipe, source)
    for _ in range(rounds):
        training.play()
    return training
