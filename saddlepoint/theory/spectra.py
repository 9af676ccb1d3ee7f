"""Eigenvalues of the Jacobian J of a game's vector field, and what they say about training near this point.

Continuous training dw/dt = v(w) converges locally iff every Re(lambda) < 0; a step of size h of an operator F_h iff
every eigenvalue of its linear map lies inside the unit circle (`flows.update_matrix`). For simultaneous steps that is

    |1 + h lambda| < 1   <=>   h < 2 |Re lambda| / |lambda|^2        for all lambda, all with Re(lambda) < 0:

lambda in the open disc of centre -1/h and radius 1/h. "Small enough a step" converges only if all real parts are
negative. Mescheder et al. 2017 (arXiv:1705.10461), lemma 4; 2018 (arXiv:1801.04406).

Small games get their whole spectrum from the matrix; a network of any size its leading eigenvalues from products J u by
Arnoldi's method (ARPACK through SciPy), each with its residual |J x - lambda x|, |x| = 1, recomputed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from scipy.sparse.linalg import ArpackNoConvergence, LinearOperator, eigs
from torch import Tensor

from saddlepoint.errors import UserError, unknown
from saddlepoint.game import Game, Round
from saddlepoint.theory.fields import Coordinates, Linearisation, Losses, block_sizes, linearised
from saddlepoint.theory.flows import Rule, StepSize, largest_stable_step, multipliers, update_matrix

Array: TypeAlias = npt.NDArray[np.float64]
Complex: TypeAlias = npt.NDArray[np.complex128]
Which = Literal["LM", "LR", "SR", "LI", "SM"]
Progress: TypeAlias = Callable[[int], None]  # told the number of products so far, after each

# What makes an eigenvalue come first.
ORDERS: dict[str, Callable[[Complex], Array]] = {
    "LM": lambda z: -np.abs(z),
    "LR": lambda z: -z.real,
    "SR": lambda z: z.real,
    "LI": lambda z: -np.abs(z.imag),
    "SM": lambda z: np.abs(z),
}


@dataclass(frozen=True, eq=False)
class Spectrum:
    """Eigenvalues of J (or of P J with a diagonal preconditioner P), the asked-for ones first.

    eigenvalues: complex [k]; residuals: |J x - lambda x| for unit x, [k]; which: what was asked for; size: number of
    weights; blocks: player -> number of its weights; products: J u that it took; jacobian: the matrix where there is
    one (then every question can be answered exactly); vectors: unit eigenvectors [P, k].
    """

    eigenvalues: Complex
    residuals: Array
    which: str
    size: int
    blocks: dict[str, int]
    products: int = 0
    jacobian: Array | None = field(default=None, repr=False)
    vectors: Complex | None = field(default=None, repr=False)

    @property
    def complete(self) -> bool:
        """Is the whole spectrum known?"""
        return self.jacobian is not None

    @property
    def all(self) -> Complex:
        """Every eigenvalue that is known: all of them for a matrix, else those found."""
        return self.eigenvalues if self.jacobian is None else np.linalg.eigvals(self.jacobian).astype(np.complex128)

    @property
    def rightmost(self) -> float:
        """Largest real part known: negative is locally convergent (in continuous time)."""
        return float(self.all.real.max())

    @property
    def steepest(self) -> float:
        """Largest |Im / Re| known: what makes steps small (Mescheder et al. 2017, section 3)."""
        z = self.all[np.abs(self.all) > 1e-12 * np.abs(self.all).max(initial=0.0)]
        return float(np.max(np.abs(z.imag) / np.maximum(np.abs(z.real), 1e-300), initial=0.0))

    @property
    def relative_residuals(self) -> Array:
        """Residuals over the largest |lambda| found, [k]."""
        return np.asarray(self.residuals / max(float(np.abs(self.eigenvalues).max(initial=0.0)), 1e-300))


def spectrum(
    game: Game,
    round: Round,
    k: int = 6,
    which: Which = "LM",
    *,
    preconditioner: Tensor | None = None,
    losses: Losses | None = None,
    tolerance: float = 1e-4,
    krylov: int = 0,
    dense: int = 512,
    seed: int = 0,
    restarts: int = 100,
    progress: Progress | None = None,
) -> Spectrum:
    """k leading eigenvalues of J at the present weights on this round.

    which: "LM" largest modulus; "LR" rightmost, which decides convergence; "SR" leftmost; "LI" largest imaginary part,
    picked from 4k (at least 24) of largest modulus, because ARPACK's own "LI" returns wrong members; "SM" smallest
    modulus, from the matrix only (networks with normalisation have many zeros, where Arnoldi never ends). Up to
    `dense` weights J is built and the answer is exact. preconditioner: the diagonal of P, [P], for the spectrum of P J
    (see `preconditioner`). tolerance: ARPACK's relative accuracy. krylov: vectors kept (0: 20, for LR and SR 60, or
    3k + 2 if more); memory P x krylov doubles. A complex pair counts twice and is never cut. Fewer than k come back if
    fewer converged in `restarts`; ArithmeticError if none did. progress: told of every product. Raises UserError for a
    k or `which` that cannot be had.

    A game in single precision is enough for residuals of 1e-5 of the largest, at a fraction of the time: convolutions
    in double precision have no fast code on processors.
    """
    if which not in ORDERS:
        raise unknown("part of the spectrum", which, ORDERS)
    if k < 1:
        raise UserError(f"spectrum needs k of at least 1, not {k}.")
    scale = None if preconditioner is None else preconditioner.detach().double().cpu().numpy()
    with linearised(game, round, losses=losses) as linear:
        size = linear.coordinates.size
        if scale is not None and scale.shape != (size,):
            raise UserError(f"a preconditioner of shape {list(scale.shape)} for a game of {size} weights.")
        blocks = block_sizes(game)
        if which == "SM" and size > dense:
            raise UserError(f"the smallest eigenvalues need the matrix; set dense to {size} or more to have it built.")
        if size <= max(dense, k + 2):
            J = linear.rows().double().cpu().numpy()
            return dense_spectrum(J if scale is None else scale[:, None] * J, blocks, k, which)
        products = _operator(linear, scale)
        return _arnoldi(products, k, which, tolerance, krylov, seed, restarts, blocks, progress)


def dense_spectrum(jacobian: npt.ArrayLike, blocks: Mapping[str, int], k: int = 6, which: Which = "LM") -> Spectrum:
    """The spectrum of a Jacobian that is known as a matrix [P, P]."""
    J = np.asarray(jacobian, dtype=np.float64)
    values, vectors = np.linalg.eig(J)
    values, vectors = values.astype(np.complex128), vectors.astype(np.complex128)
    first = _first(values, k, which)
    residuals = np.linalg.norm(J @ vectors[:, first] - vectors[:, first] * values[first], axis=0)
    return Spectrum(values[first], residuals, which, len(J), dict(blocks), len(J), J, vectors[:, first])


def _operator(linear: Linearisation, scale: Array | None) -> LinearOperator:
    """u -> P J u for SciPy, in double precision whatever the game's."""
    device = linear.v.device

    def product(u: Array) -> Array:
        Ju = linear.jvp(torch.from_numpy(np.ascontiguousarray(u).reshape(-1)).to(device)).double().cpu().numpy()
        return np.asarray(Ju if scale is None else scale * Ju)

    size = linear.coordinates.size
    return LinearOperator((size, size), matvec=product, dtype=np.float64)


def _arnoldi(
    J: LinearOperator, k: int, which: Which, tolerance: float, krylov: int, seed: int, restarts: int,
    blocks: dict[str, int], progress: Progress | None,
) -> Spectrum:  # fmt: skip
    size = J.shape[0]
    wanted = min(max(4 * k, 24) if which == "LI" else k, size - 2)
    usual = max(60 if which in ("LR", "SR") else 20, 3 * wanted + 2)
    kept = min(size, max(krylov or usual, wanted + 2))
    start = np.random.default_rng(seed).standard_normal(size)
    count = [0]

    def counted(u: Array) -> Array:
        count[0] += 1
        Ju = np.asarray(J.matvec(u))
        if progress is not None:
            progress(count[0])
        return Ju

    counting = LinearOperator(J.shape, matvec=counted, dtype=np.float64)
    order = "LM" if which == "LI" else which
    try:
        values, vectors = eigs(counting, wanted, which=order, ncv=kept, tol=tolerance, v0=start, maxiter=restarts)
    except ArpackNoConvergence as failure:
        values, vectors = failure.eigenvalues, failure.eigenvectors
        if not len(values):
            raise ArithmeticError(
                f"no eigenvalue converged in {count[0]} products; try a larger krylov (now {kept}) or tolerance."
            ) from None
    first = _first(values, k, which)
    values, vectors = values[first], vectors[:, first]
    residuals = _residuals(counted, values, vectors)
    return Spectrum(values, residuals, which, size, blocks, count[0], None, vectors)


def _first(values: Complex, k: int, which: str) -> npt.NDArray[np.intp]:
    """Indices of the first k in the order asked for, and of the other half of a pair that k would cut."""
    rank = ORDERS[which](values)
    # Members of a pair differ in the last bits: rounding keeps them together, the one above the axis first.
    close = np.round(rank / max(float(np.abs(values).max(initial=0.0)), 1e-300), 9)
    order = np.lexsort((-values.imag, -np.abs(values.imag), close))
    if k < len(values):
        last, following = values[order[k - 1]], values[order[k]]
        if last.imag > 0 and abs(following - last.conjugate()) <= 1e-6 * abs(last):
            k += 1
    return order[:k]


def _residuals(product: Callable[[Array], Array], values: Complex, vectors: Complex) -> Array:
    """|J x - lambda x| / |x| with fresh products; the second of a conjugate pair has the first one's."""
    found: list[float] = []
    for i, value in enumerate(values):
        pair = found and value.imag and abs(value - values[i - 1].conjugate()) <= 1e-9 * abs(value)
        if pair:
            found.append(found[-1])
            continue
        x = vectors[:, i]
        Jx = product(np.ascontiguousarray(x.real)) + (1j * product(np.ascontiguousarray(x.imag)) if value.imag else 0)
        found.append(float(np.linalg.norm(Jx - value * x) / np.linalg.norm(x)))
    return np.array(found)


def preconditioner(game: Game, optimizers: Mapping[str, torch.optim.Optimizer]) -> Tensor:
    """The diagonal of P, [P], at the optimizers' present second moments: a plain step w + P v is what they would do.

    Adam, AdamW: lr / (sqrt(v_hat) + eps); RMSProp: lr / (sqrt(v) + eps); SGD: lr. First moments and momentum are left
    out. The eigenvalues of P J are then those of a step of size 1. A weight without moments yet has its plain lr.
    """
    coordinates = Coordinates(game)
    parts: list[Tensor] = [torch.zeros_like(p) for p in coordinates.parameters]
    place = {id(p): i for i, p in enumerate(coordinates.parameters)}
    for optimizer in optimizers.values():
        for group in optimizer.param_groups:
            for p in group["params"]:
                parts[place[id(p)]] = torch.full_like(p, float(group["lr"])) / _denominator(optimizer, group, p)
    return coordinates.flatten(parts)


def _denominator(optimizer: torch.optim.Optimizer, group: Mapping[str, object], p: Tensor) -> Tensor:
    state = optimizer.state.get(p, {})
    second = state.get("exp_avg_sq", state.get("square_avg"))
    if second is None:
        return torch.ones_like(p)
    if "exp_avg_sq" in state:
        betas = group["betas"]
        assert isinstance(betas, Sequence)
        second = second / (1 - float(betas[1]) ** float(state["step"]))
    eps = group["eps"]
    assert isinstance(eps, float)
    return torch.as_tensor(second).sqrt() + eps


# ---- what it means
@dataclass(frozen=True, eq=False)
class Classification:
    """What happens near this point.

    verdict: "converges", "circles" (on the edge, rotating), "neutral" (on the edge, standing still) or "diverges".
    radius: largest |eigenvalue of F_h|; for the flow exp of the largest real part, per unit of time. multipliers: the
    eigenvalues of F_h (of exp(J) for the flow). largest_step: sup of stable step sizes, 0 if none, nan for the flow
    and for two time-scales. complete: False says that only the eigenvalues found were asked: "diverges" is then
    certain, "converges" speaks of these alone, and largest_step is an upper bound.
    """

    verdict: Literal["converges", "circles", "neutral", "diverges"]
    radius: float
    multipliers: Complex
    largest_step: float
    operator: str
    complete: bool


def classify(
    spectrum: Spectrum,
    step_size: StepSize = 1.0,
    operator: str = "simultaneous",
    *,
    moves: Sequence[str] = (),
    gamma: float = 1.0,
    momentum: float = 0.0,
    slack: float | None = None,
) -> Classification:
    """Converges, circles or diverges: a round of `operator` with this step size near the point of the spectrum.

    operator: "flow" (continuous time; the step size means nothing), "simultaneous", "alternating", "extragradient",
    "optimistic", "consensus", "symplectic". step_size: h, or player -> h. moves: names in the order of the moves of an
    alternating round, e.g. ("generator", *5 * ("discriminator",)). slack: how far from the unit circle still counts as
    on it; by default 1e-9, or for found eigenvalues their residual times the step, if more. For a Jacobian that was
    preconditioned with the learning rates use step_size=1.

    Alternating, consensus, symplectic and two time-scales need the whole Jacobian: UserError where it is not there.
    """
    if operator == "flow":
        return _of_flow(spectrum, 1e-9 if slack is None else slack)
    rule = Rule(operator, tuple(moves), gamma, momentum)
    if spectrum.jacobian is not None:
        M = update_matrix(spectrum.jacobian, step_size, rule, spectrum.blocks)
        found = np.linalg.eigvals(M).astype(np.complex128)
    elif isinstance(step_size, Mapping):
        raise UserError("two time-scales need the whole Jacobian, which this spectrum does not have.")
    else:
        found = multipliers(spectrum.eigenvalues, step_size, rule)
    if slack is None:
        doubt = 0.0 if spectrum.complete or isinstance(step_size, Mapping) else spectrum.residuals.max() * step_size
        slack = max(1e-9, float(doubt))
    radius = float(np.abs(found).max())
    largest = float("nan") if isinstance(step_size, Mapping) else largest_step(spectrum, rule)
    return Classification(_verdict(found, slack), radius, found, largest, operator, spectrum.complete)


def _verdict(found: Complex, slack: float) -> Literal["converges", "circles", "neutral", "diverges"]:
    radius = np.abs(found)
    if radius.max() > 1 + slack:
        return "diverges"
    edge = found[radius >= 1 - slack]
    if not len(edge):
        return "converges"
    # A turn too slow to be told from rounding is none: sqrt, because a defective pair splits by the root of an error.
    return "circles" if np.abs(edge.imag).max() > slack**0.5 or edge.real.min() < 0 else "neutral"


def _of_flow(spectrum: Spectrum, slack: float) -> Classification:
    z = spectrum.all
    verdict: Literal["converges", "circles", "neutral", "diverges"] = "converges"
    scale = slack * max(1.0, float(np.abs(z).max(initial=0.0)))
    if spectrum.rightmost > scale:
        verdict = "diverges"
    elif spectrum.rightmost >= -scale:
        verdict = "circles" if np.abs(z[z.real >= -scale].imag).max() > slack**0.5 else "neutral"
    with np.errstate(over="ignore"):  # a network's eigenvalues may be thousands: e to that is no number
        grown = np.exp(z)
        radius = float(np.exp(z.real.max()))
    return Classification(verdict, radius, grown, float("nan"), "flow", spectrum.complete)


def step_bound(eigenvalues: npt.ArrayLike) -> float:
    """sup of h with |1 + h lambda| < 1 for all: min 2 |Re lambda| / |lambda|^2, and 0 if some Re lambda >= 0."""
    z = np.atleast_1d(np.asarray(eigenvalues, dtype=np.complex128))
    if not len(z):
        return float("inf")
    if z.real.max() >= -1e-12 * np.abs(z).max():
        return 0.0
    return float((-2 * z.real / np.abs(z) ** 2).min())


def largest_step(spectrum: Spectrum, rule: Rule | str = "simultaneous") -> float:
    """sup of the stable step sizes of a rule, one step size for all players; from the eigenvalues found, an upper
    bound. nan where the rule needs a Jacobian that is not there.
    """
    rule = Rule(rule) if isinstance(rule, str) else rule
    if rule.operator == "simultaneous" and not rule.momentum:
        return step_bound(spectrum.all)
    if spectrum.jacobian is not None:
        return largest_stable_step(spectrum.jacobian, rule, spectrum.blocks)
    if rule.operator not in ("extragradient", "optimistic", "simultaneous"):
        return float("nan")
    # A normal matrix with these eigenvalues has the same bound, and pairs of them are 2x2 rotations.
    z = spectrum.eigenvalues
    blocks = [np.array([[x.real, -x.imag], [x.imag, x.real]]) for x in z]
    J = np.zeros((2 * len(z), 2 * len(z)))
    for i, block in enumerate(blocks):
        J[2 * i : 2 * i + 2, 2 * i : 2 * i + 2] = block
    return largest_stable_step(J, rule, {"all": len(J)})


# ---- potential and rotation
@dataclass(frozen=True)
class Decomposition:
    """J = S + A: S = (J + J^T)/2, the potential part (a Hessian where the field is conservative), A = (J - J^T)/2, the
    rotation.

    rotation: |A|_F^2 / |J|_F^2, in [0, 1]; 0 iff v is locally a gradient field. error: standard error of that share;
    0 where it is exact (probes = 0). symmetric, antisymmetric: |S|_F and |A|_F.
    """

    rotation: float
    error: float
    symmetric: float
    antisymmetric: float
    probes: int

    @property
    def potential(self) -> float:
        """|S|_F^2 / |J|_F^2 = 1 - rotation."""
        return 1.0 - self.rotation


def decompose(
    game: Game,
    round: Round,
    *,
    probes: int = 16,
    dense: int = 512,
    seed: int = 0,
    losses: Losses | None = None,
    progress: Progress | None = None,
) -> Decomposition:
    """Shares of potential and rotation in J; exact up to `dense` weights, else estimated without a matrix.

    Hutchinson: |A|_F^2 = E |A z|^2 for random signs z, with A z = (J z - J^T z)/2; S and A are orthogonal, so
    |J|_F^2 = |S|_F^2 + |A|_F^2. The error is that of a ratio of two means over `probes` vectors (two products each).
    """
    if probes < 2:
        raise UserError(f"decompose needs at least 2 probes for a standard error, not {probes}.")
    with linearised(game, round, losses=losses) as linear:
        size = linear.coordinates.size
        if size <= dense:
            return split(linear.rows().double().cpu().numpy())
        draw = torch.Generator().manual_seed(seed)
        pairs = []
        for _ in range(probes):
            signs = torch.randint(0, 2, (size,), generator=draw, dtype=torch.int8) * 2 - 1
            z = signs.to(linear.v.device, linear.v.dtype)
            forward, back = linear.jvp(z).double(), linear.vjp(z).double()
            pairs.append((float((forward + back).square().sum()) / 4, float((forward - back).square().sum()) / 4))
            if progress is not None:
                progress(2 * len(pairs))
    s, a = np.array(pairs).T
    share = float(a.mean() / (s.mean() + a.mean()))
    spread = (a - share * (s + a)).std(ddof=1) / (s.mean() + a.mean())
    return Decomposition(share, float(spread / np.sqrt(probes)), float(s.mean() ** 0.5), float(a.mean() ** 0.5), probes)


def split(jacobian: npt.ArrayLike) -> Decomposition:
    """Shares of potential and rotation in a matrix [P, P]."""
    J = np.asarray(jacobian, dtype=np.float64)
    s, a = np.linalg.norm((J + J.T) / 2), np.linalg.norm((J - J.T) / 2)
    whole = float(s**2 + a**2)
    return Decomposition(float(a**2) / whole if whole else 0.0, 0.0, float(s), float(a), 0)
