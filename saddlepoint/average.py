"""The running average of a generator's weights, as a twin of the game.

Karras et al. 2018 (arXiv:1710.10196), section 4 of the appendix: samples are drawn from an exponential moving average.
The twin shares every parameter and buffer that is not averaged, so `twin.sample(...)` just works and the discriminator
is not doubled.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from saddlepoint import tracking
from saddlepoint.errors import UserError
from saddlepoint.game import Game
from saddlepoint.layers.normalisation import BatchNorm


class Average:
    """Exponential moving average with a half-life in images.

    half_life: images after which an old weight counts half. ramp: early on the half-life is at most ramp * images seen,
    so that the first random weights are forgotten soon; 0 is no ramp.
    """

    def __init__(self, game: Game, half_life: float, ramp: float = 0.0) -> None:
        self.live = game
        self.half_life, self.ramp = half_life, ramp
        names = game.averaged if half_life > 0 else ()
        own = {id(t) for name in names for t in _tensors(game.get_submodule(name))}
        holders = {id(m) for name in names for m in game.get_submodule(name).modules()}
        shared: dict[int, object] = {id(t): t for t in _tensors(game) if id(t) not in own}
        for module in game.modules():  # a module without averaged parts below it is shared whole
            if id(module) not in holders and not any(id(m) in holders for m in module.modules()):
                shared[id(module)] = module
        self.twin: Game = copy.deepcopy(game, shared) if names else game
        pairs = [(game.get_submodule(n), self.twin.get_submodule(n)) for n in names]
        self.live_weights: list[Tensor] = [p for live, _ in pairs for p in live.parameters()]
        self.weights: list[Tensor] = [p.requires_grad_(False) for _, twin in pairs for p in twin.parameters()]
        self.buffers = [(a, b) for live, twin in pairs for a, b in zip(live.buffers(), twin.buffers(), strict=True)]

    @torch.no_grad()
    def update(self, images: int, seen: int, half_life_kimg: float | None = None) -> None:
        """Move the average towards the live weights after `images` more images, `seen` in all.

        half_life_kimg: what a schedule says at this moment, instead of the recipe's.
        """
        if not self.weights:
            return
        half_life = self.half_life if half_life_kimg is None else 1000 * half_life_kimg
        half_life = min(half_life, self.ramp * seen) if self.ramp else half_life
        share = 1.0 - 0.5 ** (images / max(half_life, 1e-8))
        torch._foreach_lerp_(self.weights, self.live_weights, share)

    def game(self) -> Game:
        """The game to sample from: averaged weights, live buffers, batch statistics re-estimated for those weights."""
        with torch.no_grad():
            for live, own in self.buffers:
                own.copy_(live)
        if self.weights:
            settle(self.twin)
        return self.twin

    def state(self) -> dict[str, Tensor]:
        """The averaged tensors by their names in the game."""
        if not self.weights:
            return {}
        return {
            f"{name}.{key}": tensor
            for name in self.live.averaged
            for key, tensor in self.twin.get_submodule(name).state_dict().items()
        }

    def load(self, state: dict[str, Tensor]) -> None:
        """Put averaged tensors back."""
        load_averaged(self.twin, state)


def load_averaged(game: Game, state: dict[str, Tensor]) -> None:
    """Overwrite the averaged submodules of `game` with their average."""
    for name in game.averaged:
        part = {k.removeprefix(f"{name}."): v for k, v in state.items() if k.startswith(f"{name}.")}
        if part:
            restore(game.get_submodule(name), part)


def restore(module: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Put the saved tensors of a run into the network that its recipe makes. UserError names what does not fit."""
    own = module.state_dict()
    lacking, strange = sorted(own.keys() - state.keys()), sorted(state.keys() - own.keys())
    other = [
        f"{name} is {list(state[name].shape)} there, {list(tensor.shape)} here"
        for name, tensor in own.items()
        if name in state and state[name].shape != tensor.shape
    ]
    if lacking or strange or other:
        wrong = [*(f"{name} is not there" for name in lacking), *(f"{name} is not here" for name in strange), *other]
        more = f", and {len(wrong) - 4} more" if len(wrong) > 4 else ""
        raise UserError(
            f"the checkpoint does not fit the network that its recipe makes now: {'; '.join(wrong[:4])}{more}. "
            "It comes from another version of saddlepoint (environment.json says which), or its recipe.json was "
            "changed. Nearest: --init-from RUN begins a new run with the tensors that fit."
        )
    module.load_state_dict(state)


def _tensors(module: nn.Module) -> list[Tensor]:
    return [*module.parameters(), *module.buffers()]


def settle(game: Game, batches: int = 4, size: int = 128) -> None:
    """Re-estimate the batch statistics of the averaged submodules by sampling: BigGAN's standing statistics.

    Averaged weights see other activations than the live ones whose statistics were tracked. A pure function of the
    weights.
    """
    layers = [m for name in game.averaged for m in game.get_submodule(name).modules() if isinstance(m, BatchNorm)]
    layers = [layer for layer in layers if not layer.batch_statistics]
    if not layers:
        return
    try:
        for layer in layers:
            layer.batch_statistics = True
        collected: dict[int, tuple[Tensor, list[Tensor]]] = {}
        for seed in range(batches):
            with tracking.collecting() as ledger:
                game.sample(size, seed)
            for buffer, statistic, _ in ledger:
                collected.setdefault(id(buffer), (buffer, []))[1].append(statistic)
    finally:
        for layer in layers:
            layer.batch_statistics = False
    with torch.no_grad():
        for buffer, statistics in collected.values():
            buffer.copy_(torch.stack(statistics).mean(0))
