"""Continuous flow against discrete operators: the ODE dw/dt = v(w), and the linear map of one round of an operator F_h.

Near an equilibrium w* (v(w*) = 0) a round of play is w - w* -> M (w - w*), with M made from the Jacobian J of v and the
step size h. The round contracts iff all eigenvalues of M lie inside the unit circle. With H = diag of the players' step
sizes and A = (J - J^T)/2:

    simultaneous    M = I + H J                            alternating    M = product over the moves of (I + E_p H J)
    extragradient   M = I + H J (I + H J)                  optimistic     w+ = w + 2 H J w - H J w_before
    consensus       M = I + H (J - gamma J^T J)            symplectic     M = I + H (J + gamma A J)
    momentum        heavy ball with the players in turn or at once, as torch's SGD counts it

E_p keeps the coordinates of player p. Methods that remember (optimistic, momentum) act on pairs, so their M is twice as
large. Mescheder et al. 2017 (arXiv:1705.10461), 2018 (arXiv:1801.04406); Daskalakis et al. 2018 (arXiv:1711.00141);
Gidel et al. 2019 (arXiv:1802.10551, 1807.04740); Balduzzi et al. 2018 (arXiv:1802.05642).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal, Protocol, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from scipy.integrate import solve_ivp

from saddlepoint.errors import UserError, unknown
from saddlepoint.game import Game, Round
from saddlepoint.theory.fields import Coordinates, Losses, vector_field

Array: TypeAlias = npt.NDArray[np.float64]
LINEAR = ("simultaneous", "alternating", "extragradient", "optimistic", "consensus", "symplectic")


@dataclass(frozen=True, eq=False)
class Trajectory:
    """Weights along a path. times: [T] (time of the flow, or rounds); weights: [T, P]; blocks: player -> slice of P."""

    times: Array
    weights: Array
    blocks: dict[str, slice]

    def player(self, name: str) -> Array:
        """One player's weights, [T, P_p]."""
        if name not in self.blocks:
            raise unknown("player", name, self.blocks)
        return self.weights[:, self.blocks[name]]

    def distances(self, to: npt.ArrayLike = 0.0) -> Array:
        """Euclidean distance to a point (default: the origin), [T]."""
        return np.asarray(np.linalg.norm(self.weights - np.asarray(to, dtype=np.float64), axis=1))


# ---- continuous
def flow(
    game: Game,
    round: Round | None = None,
    *,
    time: float = 10.0,
    points: int = 201,
    start: Sequence[float] | npt.ArrayLike | None = None,
    method: Literal["DOP853", "RK45", "LSODA", "RK4"] = "DOP853",
    rtol: float = 1e-10,
    atol: float = 1e-12,
    steps: int = 0,
    losses: Losses | None = None,
) -> Trajectory:
    """Solve dw/dt = v(w) from the present weights, or from `start` [P], on one frozen round; the game stays as it is.

    time: end, in the units in which one step of size h lasts h. points: equally spaced, the start included. Adaptive
    methods are SciPy's with these tolerances; "RK4" takes `steps` equal classical Runge-Kutta steps in all (0: ten
    between any two points). float64 is advised: in float32 the tolerances cannot be met. Raises UserError for a
    time that is not positive, a start of another size, an unknown method.
    """
    if not time > 0 or points < 2:
        raise UserError(f"flow needs a positive time and at least 2 points, not time={time}, points={points}.")
    frozen = game.round({}, seed=0) if round is None else round
    coordinates = Coordinates(game)
    times = np.linspace(0.0, time, points)
    with _returning(game, coordinates):
        w = coordinates.weights().double().cpu().numpy() if start is None else np.asarray(start, dtype=np.float64)
        if w.shape != (coordinates.size,):
            raise UserError(f"start has shape {list(w.shape)} for a game of {coordinates.size} weights.")

        def v(_: float, at: Array) -> Array:
            coordinates.write(torch.from_numpy(np.array(at)))
            return np.asarray(vector_field(game, frozen, losses=losses).flat.double().cpu().numpy())

        weights = _runge_kutta(v, w, times, steps) if method == "RK4" else _adaptive(v, w, times, method, rtol, atol)
    return Trajectory(times, weights, coordinates.blocks)


def _adaptive(v: Any, w: Array, times: Array, method: str, rtol: float, atol: float) -> Array:
    if method not in ("DOP853", "RK45", "LSODA"):
        raise unknown("method", method, ("DOP853", "RK45", "LSODA", "RK4"))
    solved = solve_ivp(v, (0.0, times[-1]), w, method=method, t_eval=times, rtol=rtol, atol=atol)
    if not solved.success:
        raise ArithmeticError(f"the flow could not be followed beyond t = {solved.t[-1]:g}: {solved.message}")
    return np.asarray(solved.y.T, dtype=np.float64)


def _runge_kutta(v: Any, w: Array, times: Array, steps: int) -> Array:
    """Classical fourth-order steps of equal length."""
    between = -(-steps // (len(times) - 1)) or 10
    h = (times[1] - times[0]) / between
    path = [w]
    for _ in times[1:]:
        for _ in range(between):
            a = v(0.0, w)
            b = v(0.0, w + h / 2 * a)
            c = v(0.0, w + h / 2 * b)
            d = v(0.0, w + h * c)
            w = w + h / 6 * (a + 2 * b + 2 * c + d)
        path.append(w)
    return np.stack(path)


@contextmanager
def _returning(game: Game, coordinates: Coordinates) -> Iterator[None]:
    """Whatever is written to the weights inside, they are as before at the end."""
    saved = [p.detach().clone() for p in coordinates.parameters]
    try:
        yield
    finally:
        with torch.no_grad():
            for parameter, value in zip(coordinates.parameters, saved, strict=True):
                parameter.copy_(value)


# ---- discrete, through the engine
class Playing(Protocol):
    """What `orbit` needs of `engine.Training`."""

    @property
    def game(self) -> Game: ...

    def play(self) -> Any: ...


def orbit(training: Playing, rounds: int) -> Trajectory:
    """Play so many rounds and record the weights before the first and after each: [rounds + 1, P]. For small games."""
    coordinates = Coordinates(training.game)
    path = [coordinates.weights()]
    for _ in range(rounds):
        training.play()
        path.append(coordinates.weights())
    weights = torch.stack(path).double().cpu().numpy()
    return Trajectory(np.arange(rounds + 1, dtype=np.float64), weights, coordinates.blocks)


# ---- discrete, linearised
StepSize: TypeAlias = float | Mapping[str, float]


@dataclass(frozen=True)
class Rule:
    """How a round is played, for the linear theory.

    operator: see the table above. moves: players in the order of their moves (alternating; a player moves as often as
    it is named); empty: each once, in the order of the blocks. gamma: strength of consensus or of the symplectic
    adjustment (whose sign is plus here: chosen point by point it has no linear map). momentum: heavy ball, may be
    negative (simultaneous and alternating).
    """

    operator: str = "simultaneous"
    moves: tuple[str, ...] = ()
    gamma: float = 1.0
    momentum: float = 0.0

    def __post_init__(self) -> None:
        if self.operator not in LINEAR:
            raise unknown("operator", self.operator, LINEAR)
        if self.momentum and self.operator not in ("simultaneous", "alternating"):
            raise UserError(f"momentum has a linear map for simultaneous and alternating play, not {self.operator}.")


def update_matrix(jacobian: npt.ArrayLike, step_size: StepSize, rule: Rule, blocks: Mapping[str, int]) -> Array:
    """M: one round of play, linearised where J = `jacobian` [P, P]. [P, P], or [2P, 2P] for rules that remember.

    step_size: h, or player -> h (two time-scales). blocks: player -> number of weights, in the order of J's rows.
    """
    J = np.asarray(jacobian, dtype=np.float64)
    size = sum(blocks.values())
    if J.shape != (size, size):
        raise UserError(f"a Jacobian of shape {list(J.shape)} for blocks of {size} weights.")
    HJ = _steps(step_size, blocks)[:, None] * J
    eye = np.eye(size)
    if rule.momentum:
        return _with_momentum(HJ, rule, blocks)
    if rule.operator == "simultaneous":
        return np.asarray(eye + HJ)
    if rule.operator == "alternating":
        M = eye
        for player in _moves(rule, blocks):
            M = M + _rows_of(player, blocks)[:, None] * (HJ @ M)
        return np.asarray(M)
    if rule.operator == "extragradient":
        return np.asarray(eye + HJ @ (eye + HJ))
    if rule.operator == "optimistic":
        return np.block([[eye + 2 * HJ, -HJ], [eye, np.zeros_like(eye)]])
    H = _steps(step_size, blocks)[:, None]
    if rule.operator == "consensus":
        return np.asarray(eye + H * (J - rule.gamma * J.T @ J))
    return np.asarray(eye + H * (J + rule.gamma * 0.5 * (J - J.T) @ J))


def _with_momentum(HJ: Array, rule: Rule, blocks: Mapping[str, int]) -> Array:
    """On (w, b): a move of player p is b_p <- beta b_p + (H J w)_p, then w_p <- w_p + b_p."""
    size = len(HJ)
    eye, zero = np.eye(size), np.zeros((size, size))
    M = np.eye(2 * size)
    simultaneous = rule.operator == "simultaneous"
    for player in ("",) if simultaneous else _moves(rule, blocks):
        own = np.ones(size) if simultaneous else _rows_of(player, blocks)
        keep, move = np.diag(1 - own), np.diag(own)
        buffer = np.block([[eye, zero], [move @ HJ, keep + rule.momentum * move]])
        weights = np.block([[eye, move], [zero, eye]])
        M = weights @ buffer @ M
    return np.asarray(M)


def _steps(step_size: StepSize, blocks: Mapping[str, int]) -> Array:
    """Step size per weight, [P]."""
    if isinstance(step_size, Mapping):
        if set(step_size) != set(blocks):
            raise UserError(f"step sizes for {', '.join(step_size)}; the players are {', '.join(blocks)}.")
        return np.concatenate([np.full(n, float(step_size[player])) for player, n in blocks.items()])
    return np.full(sum(blocks.values()), float(step_size))


def _moves(rule: Rule, blocks: Mapping[str, int]) -> tuple[str, ...]:
    for player in rule.moves:
        if player not in blocks:
            raise unknown("player", player, blocks)
    return rule.moves or tuple(blocks)


def _rows_of(player: str, blocks: Mapping[str, int]) -> Array:
    """1 at the player's coordinates, 0 elsewhere, [P]."""
    return np.concatenate([np.full(n, float(name == player)) for name, n in blocks.items()])


def multipliers(eigenvalues: npt.ArrayLike, step_size: float, rule: Rule) -> npt.NDArray[np.complex128]:
    """Eigenvalues of M from eigenvalues of J alone, where that suffices: simultaneous play (also with momentum),
    extragradient, optimistic. Methods that remember have two for each.

    Raises UserError for the others: alternating play, consensus and the symplectic adjustment need the matrix.
    """
    z = step_size * np.atleast_1d(np.asarray(eigenvalues, dtype=np.complex128))
    if rule.operator == "simultaneous":
        return _roots(1 + rule.momentum + z, np.full_like(z, rule.momentum)) if rule.momentum else 1 + z
    if rule.operator == "extragradient":
        return np.asarray(1 + z * (1 + z))
    if rule.operator == "optimistic":
        return _roots(1 + 2 * z, z)
    raise UserError(
        f"{rule.operator} play needs the whole Jacobian, which a game of this size does not have as a matrix; "
        "simultaneous, extragradient and optimistic need eigenvalues only."
    )


def _roots(b: npt.NDArray[np.complex128], c: npt.NDArray[np.complex128]) -> npt.NDArray[np.complex128]:
    """Both roots of x^2 - b x + c, joined."""
    root = np.sqrt(b * b - 4 * c)
    return np.concatenate([(b + root) / 2, (b - root) / 2])


def largest_stable_step(
    jacobian: npt.ArrayLike, rule: Rule, blocks: Mapping[str, int], *, slack: float = 1e-9, points: int = 400
) -> float:
    """sup of h such that no eigenvalue of M is outside the unit circle for any smaller step; 0 if none is, inf if all.

    Scanned on a logarithmic grid from 1e-3 to 1e3 over the largest |eigenvalue of J|, then bisected. On the circle
    counts as stable (the alternating Dirac-GAN circles), up to `slack`.
    """
    J = np.asarray(jacobian, dtype=np.float64)
    largest = float(np.abs(np.linalg.eigvals(J)).max(initial=0.0))
    if largest == 0.0:
        return float("inf")

    def unstable(h: float) -> bool:
        return bool(np.abs(np.linalg.eigvals(update_matrix(J, h, rule, blocks))).max() > 1 + slack)

    below = 0.0
    for h in np.logspace(-3, 3, points) / largest:
        if unstable(h):
            return _bisected(unstable, below, float(h)) if below else 0.0
        below = float(h)
    return float("inf")


def _bisected(outside: Any, inside: float, out: float) -> float:
    while out - inside > 1e-12 * out:
        middle = (inside + out) / 2
        inside, out = (inside, middle) if outside(middle) else (middle, out)
        if middle in (inside, out) and out - inside <= np.spacing(out):
            break
    return inside
