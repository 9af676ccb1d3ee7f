"""Losses at other weights, and optimizers as differentiable functions: steps that are taken in thought.

A `Stepper` maps weights and gradients to the next weights and remembers its moments from one call to the next; no
tensor is written to, so a later loss can be differentiated through any number of steps. torch's optimizers cannot do
this: they write in place. Same formulas as torch.optim, except for a tiny constant inside Adam's and RMSProp's roots:
sqrt has an infinite derivative at 0, where a dead unit's second moment is.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

import torch
from torch import Tensor
from torch.func import functional_call

from saddlepoint.errors import UserError
from saddlepoint.game import Game, Round, Terms

Weights: TypeAlias = list[Tensor]
Stepper: TypeAlias = Callable[[Sequence[Tensor], Sequence[Tensor | None]], Weights]
TINY = 1e-16  # inside roots; far below any second moment that matters, and a normal number in float32


class Elsewhere:
    """A game's losses at other weights than its own, which stay in place.

    Keys are `id`s of parameters, since one of them may have several names: a weight used in two modules, or a module
    reachable by two paths. (torch's own tying of weights swaps the second kind twice and leaves the wrong tensor.)
    """

    def __init__(self, game: Game) -> None:
        self.game = game
        self.names: dict[int, list[str]] = {}
        seen: set[tuple[int, str]] = set()
        for path, module in game.named_modules(remove_duplicate=False):
            for name, parameter in module.named_parameters(recurse=False):
                if (id(module), name) not in seen:
                    seen.add((id(module), name))
                    self.names.setdefault(id(parameter), []).append(f"{path}.{name}" if path else name)

    def loss(self, player: str, round: Round, weights: Mapping[int, Tensor]) -> Terms:
        """The player's terms with these weights in place of the game's; weights that are not named are the game's."""
        replaced = {name: tensor for key, tensor in weights.items() for name in self.names[key]}
        terms: Terms = functional_call(self.game, replaced, (player, round), tie_weights=False)
        return terms


def gradient_steps(lr: float) -> Stepper:
    """w - lr g."""

    def step(weights: Sequence[Tensor], gradients: Sequence[Tensor | None]) -> Weights:
        return [w if g is None else w - lr * g for w, g in zip(weights, gradients, strict=True)]

    return step


def continued(optimizer: torch.optim.Optimizer, parameters: Sequence[Tensor]) -> Stepper:
    """The steps that `optimizer` would take from its *present* moments and step count, which stay as they are.

    parameters: the weights in the order in which the stepper will be given them. SGD (with momentum), Adam, AdamW and
    RMSProp, with weight decay, as the engine builds them; UserError for others.
    """
    rule = RULES.get(type(optimizer))
    if rule is None:
        known = ", ".join(kind.__name__ for kind in RULES)
        raise UserError(f"no differentiable form of {type(optimizer).__name__}; there are {known}.")
    groups = {id(p): group for group in optimizer.param_groups for p in group["params"]}
    settings = [groups[id(p)] for p in parameters]
    states: list[dict[str, Any]] = [
        {k: v.detach() if isinstance(v, Tensor) else v for k, v in optimizer.state.get(p, {}).items()}
        for p in parameters
    ]

    def step(weights: Sequence[Tensor], gradients: Sequence[Tensor | None]) -> Weights:
        return [
            w if g is None else rule(w, g, state, group)
            for w, g, state, group in zip(weights, gradients, states, settings, strict=True)
        ]

    return step


def _sgd(w: Tensor, g: Tensor, state: dict[str, Any], group: Mapping[str, Any]) -> Tensor:
    g = _decayed(w, g, group)
    if group["momentum"]:
        before = state.get("momentum_buffer")
        state["momentum_buffer"] = g = g if before is None else group["momentum"] * before + g
    return w - group["lr"] * g


def _adam(w: Tensor, g: Tensor, state: dict[str, Any], group: Mapping[str, Any]) -> Tensor:
    return _moments(w, _decayed(w, g, group), state, group)


def _adamw(w: Tensor, g: Tensor, state: dict[str, Any], group: Mapping[str, Any]) -> Tensor:
    return _moments(w * (1 - group["lr"] * group["weight_decay"]), g, state, group)


def _moments(w: Tensor, g: Tensor, state: dict[str, Any], group: Mapping[str, Any]) -> Tensor:
    beta1, beta2 = group["betas"]
    step = state["step"] = float(state.get("step", 0.0)) + 1
    first = state["exp_avg"] = beta1 * state.get("exp_avg", 0.0) + (1 - beta1) * g
    second = state["exp_avg_sq"] = beta2 * state.get("exp_avg_sq", 0.0) + (1 - beta2) * g.square()
    root = (second + TINY).sqrt() / (1 - beta2**step) ** 0.5 + group["eps"]
    return w - group["lr"] / (1 - beta1**step) * first / root


def _rmsprop(w: Tensor, g: Tensor, state: dict[str, Any], group: Mapping[str, Any]) -> Tensor:
    g = _decayed(w, g, group)
    alpha = group["alpha"]
    second = state["square_avg"] = alpha * state.get("square_avg", 0.0) + (1 - alpha) * g.square()
    direction = g / ((second + TINY).sqrt() + group["eps"])
    if group["momentum"]:
        direction = state["momentum_buffer"] = group["momentum"] * state.get("momentum_buffer", 0.0) + direction
    return w - group["lr"] * direction


def _decayed(w: Tensor, g: Tensor, group: Mapping[str, Any]) -> Tensor:
    """The gradient with its L2 term."""
    return g + group["weight_decay"] * w if group["weight_decay"] else g


RULES: dict[type[torch.optim.Optimizer], Callable[[Tensor, Tensor, dict[str, Any], Mapping[str, Any]], Tensor]] = {
    torch.optim.SGD: _sgd,
    torch.optim.Adam: _adam,
    torch.optim.AdamW: _adamw,
    torch.optim.RMSprop: _rmsprop,
}
