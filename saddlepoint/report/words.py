"""What each curve means, in a sentence or two, for the objective that was played."""

from __future__ import annotations

import math
from typing import NamedTuple

LOG2 = math.log(2)


class Meaning(NamedTuple):
    """The unit of a loss, its values where the discriminator cannot tell real from fake, what a reader may conclude.

    first, second: (value, how it is written) for the discriminator and the generator.
    """

    unit: str
    first: tuple[float, str] | None
    second: tuple[float, str] | None
    text: str


_CROSS_ENTROPY = (
    "Cross entropy. When the discriminator cannot tell real from fake, its loss −E log D(x) − E log(1 − D(G(z))) is "
    "2 log 2 ≈ 1.386; it falls towards 0 as it wins. "
)
OBJECTIVES: dict[str, Meaning] = {
    "nonsaturating": Meaning(
        "loss (nats)",
        (2 * LOG2, "2 log 2"),
        (LOG2, "log 2"),
        _CROSS_ENTROPY + "The generator's −E log D(G(z)) is then log 2 ≈ 0.693 and grows as it is found out. "
        "The two say who is ahead, not how good the samples are.",
    ),
    "minimax": Meaning(
        "loss (nats)",
        (2 * LOG2, "2 log 2"),
        (-LOG2, "−log 2"),
        _CROSS_ENTROPY
        + "The generator's E log(1 − D(G(z))) is then −log 2 ≈ −0.693; it saturates at 0 when every fake "
        "is found out, where its gradient vanishes.",
    ),
    "least-squares": Meaning(
        "loss (squared logits)",
        (0.25, "1/4"),
        (0.125, "1/8"),
        "Least squares to the targets 1 (real) and 0 (fake). An undecided discriminator says 1/2 everywhere: its loss "
        "is then 1/4 and the generator's 1/8.",
    ),
    "hinge": Meaning(
        "loss (logit margin)",
        (2.0, "2"),
        None,
        "Hinge: the discriminator pays for real images below +1 and fakes above −1, so an undecided one (0 everywhere) "
        "pays 2. The generator's loss is minus the mean score of its fakes; its level alone means little.",
    ),
    "wasserstein": Meaning(
        "loss (critic's units)",
        (0.0, "0"),
        None,
        "The critic's loss is minus its estimate of the Wasserstein distance, in units of its Lipschitz constant: it "
        "rises towards 0 as the samples come closer to the data. This curve does follow quality, as long as the critic "
        "is trained well. The generator's loss is minus the mean score of its fakes and has no zero point.",
    ),
    "relativistic": Meaning(
        "loss (nats)",
        (LOG2, "log 2"),
        (LOG2, "log 2"),
        "Relativistic pairing: each real image should outscore the fake beside it. Undecided, both players' losses are "
        "log 2 ≈ 0.693.",
    ),
}
_HALVED = Meaning(
    "loss (nats)",
    (LOG2, "log 2"),
    (LOG2, "log 2"),
    "Cross entropy, the discriminator's halved as in the 2014 code. When it cannot tell real from fake both losses are "
    "log 2 ≈ 0.693; its own falls towards 0 as it wins. The two say who is ahead, not how good the samples are.",
)

TERMS: dict[str, tuple[str, str]] = {
    "r1": (
        "R1 penalty",
        "γ/2 E|∇D(x)|² on real images, weighted as it was minimised: how steep the discriminator is there.",
    ),
    "r2": ("R2 penalty", "γ/2 E|∇D(G(z))|² on fakes, weighted as it was minimised."),
    "gradient_penalty": (
        "Gradient penalty",
        "λ E(|∇D| − 1)² between reals and fakes, weighted as it was minimised; 0 would be a slope of one everywhere.",
    ),
    "dragan": ("DRAGAN penalty", "λ E(|∇D| − 1)² around the data, weighted as it was minimised."),
    "drift": ("Drift penalty", "ε E D(x)², which keeps the critic's free constant near zero."),
}
# What a game notes: title, text, unit of the axis.
NOTES: dict[str, tuple[str, str, str]] = {
    "wasserstein_estimate": (
        "Critic's estimate of the distance",
        "E f(x) − E f(G(z)), in units of the critic's Lipschitz constant; falls as the samples near the data.",
        "distance",
    ),
    "false_negatives": (
        "False negatives",
        "Share of real images that the discriminator takes for fakes; 1/2 by guessing.",
        "share",
    ),
    "false_positives": (
        "False positives",
        "Share of fakes that the discriminator takes for real; 1/2 by guessing.",
        "share",
    ),
    "class_accuracy": ("Class accuracy", "Share of real images whose class the critic's second head names.", "share"),
}
# What is measured on samples, by the number's plain name: title, text.
SCORES: dict[str, tuple[str, str]] = {
    "fd": (
        "Frechet distance",
        "Between Gaussians fitted to features of samples and of real images; lower is better. Comparable only at the "
        "same extractor, resize and counts.",
    ),
    "kd": (
        "Kernel distance",
        "Unbiased squared MMD of features with a cubic kernel; lower is better, may fall below 0.",
    ),
    "is": (
        "Inception score",
        "Sharp and varied classes of the extractor; higher is better. It never sees real images.",
    ),
    "precision": ("Precision", "Share of samples inside the real images' manifold: quality, not variety."),
    "recall": ("Recall", "Share of real images inside the samples' manifold: variety."),
    "density": ("Density", "How many real neighbourhoods a sample falls into, over k: quality; 1 for real images."),
    "coverage": (
        "Coverage",
        "Share of real images that have a sample in their neighbourhood: variety; modes that are "
        "dropped are missing here.",
    ),
    "swd": ("Sliced Wasserstein distance", "Of patches of the Laplacian pyramid, times 1,000; lower is better."),
    "ms-ssim": (
        "MS-SSIM of pairs",
        "How alike two samples are on average; above the real images' value: less variety.",
    ),
    "modes": ("Modes", "Modes of the mixture with at least one sample of high quality."),
    "modes_20": ("Modes with 20 samples", "Modes of the mixture with at least 20 samples of high quality."),
    "modes_1_percent": ("Modes with 1 %", "Modes of the mixture with at least one in a hundred of all samples."),
    "high_quality": ("High quality", "Share of samples within three standard deviations of a mode's centre."),
    "kl": ("KL from even modes", "KL divergence of the samples' histogram over modes from the uniform one, in nats."),
    "w1": ("Exact W1", "Earth mover's distance between samples and points of the data."),
}
GRADIENTS = (
    "Gradient norms",
    "Euclidean norm of the gradient that moved each player, over all of its weights. A norm that grows without bound "
    "announces a round that is not finite; one near 0 a player that has stopped learning.",
)
SPEED = (
    "Speed",
    "Examples shown to the player that moves first, counted from one log line to the next; sample grids and "
    "checkpoints written in between are part of it.",
)


def meaning(system: str, objective: str) -> Meaning | None:
    """What the adversarial losses of a run mean; None where we cannot say."""
    if system == "gan" and objective == "nonsaturating":
        return _HALVED
    if system == "gan" and objective == "minimax":
        return _HALVED._replace(second=(-LOG2, "−log 2"), text=_HALVED.text.replace(
            "both losses are log 2 ≈ 0.693", "its loss is log 2 ≈ 0.693 and the generator's −log 2"))  # fmt: skip
    return OBJECTIVES.get(objective)
