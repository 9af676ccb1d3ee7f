"""What every recipe has: plain values that a command line can show and a run folder store. No torch here.

No unions, no optional dataclasses: a kind is a Literal, a weight of 0 is off. So every value stays one flat flag.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

import tyro

Hidden = Annotated[str, tyro.conf.Suppress]


@dataclass(frozen=True)
class Optimizer:
    """How one player moves."""

    kind: Literal["adam", "adamw", "rmsprop", "sgd"] = "adam"
    """Update rule."""
    lr: float = 2e-4
    """Learning rate."""
    betas: tuple[float, float] = (0.5, 0.999)
    """Decay of Adam's two moments (adam, adamw)."""
    alpha: float = 0.99
    """Decay of the second moment (rmsprop)."""
    momentum: float = 0.0
    """Heavy-ball momentum (sgd, rmsprop); may be negative for sgd."""
    eps: float = 1e-8
    """Added to the root of the second moment (adam, adamw, rmsprop)."""
    weight_decay: float = 0.0
    """L2 term added to the gradient (adam, rmsprop, sgd) or decoupled decay (adamw)."""
    steps: int = 1
    """Moves per round under the alternating operator."""


@dataclass(frozen=True)
class Penalty:
    """Penalties on the discriminator; a weight of 0 is off."""

    r1: float = 0.0
    """gamma of gamma/2 E|grad D(x)|^2 on reals (Mescheder et al. 2018)."""
    r2: float = 0.0
    """gamma of the same penalty on fakes."""
    gradient_penalty: float = 0.0
    """lambda of E(|grad D| - 1)^2 between reals and fakes (WGAN-GP)."""
    one_sided: bool = False
    """Punish only slopes above one (gradient_penalty and dragan)."""
    dragan: float = 0.0
    """lambda of E(|grad D| - 1)^2 around the data (DRAGAN)."""
    drift: float = 0.0
    """epsilon of E[D(x)^2], which fixes a critic's free constant (progressive growing)."""
    mixed: bool = False
    """Differentiate in the run's precision too, not in float32: faster, gradients of penalties a few per cent off."""


@dataclass(frozen=True)
class Augment:
    """Augmentation of all that the discriminator sees (Karras et al. 2020, arXiv:2006.06676)."""

    operations: str = ""
    """bg, bgc, bgcf, bgcfn, bgcfnc, or parts and operations with commas ("blit,color"); empty is off."""
    p: float = 0.0
    """Probability of each operation at the start; it stays there if the target is 0."""
    target: float = 0.6
    """Mean sign of D on real images that p is steered to; 0 leaves p as it is."""
    every: int = 4
    """p moves every so many rounds."""
    kimg: float = 500.0
    """Thousands of images in which p moves from 0 to 1."""


@dataclass(frozen=True)
class Recipe:
    """Everything that decides a training run. A run folder stores it as recipe.json."""

    system: Hidden = ""
    """Name in the table of systems."""
    preset: Hidden = ""
    """The preset that this recipe started from."""
    data: Annotated[str, tyro.conf.Suppress] = ""
    """What to train on: a set's name, a folder or a zip."""
    kimg: float = 100.0
    """Length: thousands of real images shown to the player that moves first."""
    batch: int = 64
    """Images per move, over all processes and micro-batches together."""
    seed: int = 0
    """Decides initial weights, order of the data and every random number."""
    init_from: str = ""
    """Start from the weights of another run (its folder or a checkpoint in it): what has the same name and shape."""
    operator: Literal[
        "alternating", "simultaneous", "extragradient", "consensus", "optimistic", "symplectic", "unrolled"
    ] = "alternating"
    """How a round of play changes the weights."""
    operator_strength: float = 0.0
    """gamma of consensus (0 takes 10) or lambda of symplectic (0 takes 1); other operators ignore it."""
    unroll_steps: int = 5
    """Steps of the other players that the generator foresees under operator=unrolled."""
    unroll_through: bool = True
    """Let the generator's gradient pass through those steps (unrolled); without, they just move first in thought."""
    accumulate: int = 1
    """Micro-batches per move: less memory, the same gradients unless the game couples a batch."""
    precision: Literal["fp32", "bf16"] = "fp32"
    """bf16: forward passes under autocast, penalties and weights in float32."""
    channels_last: bool = False
    """Memory layout NHWC; faster for dense convolutions, most of all in bf16."""
    ema_half_life_kimg: float = 0.5
    """Half-life of the running average of the generator that samples are drawn from; 0 is off."""
    ema_ramp: float = 0.05
    """Early on the half-life is at most this share of the images seen; 0 is no ramp."""
    log_kimg: float = 0.0
    """A line in log.jsonl every so many kimg; 0 is a hundred lines a run."""
    samples_kimg: float = 0.0
    """A sample grid every so many kimg; 0 is ten a run."""
    checkpoint_kimg: float = 0.0
    """A checkpoint every so many kimg; 0 is ten a run."""
    keep_checkpoints: int = 2
    """How many of the latest checkpoints to keep."""
    evaluate_every: float = 0.0
    """Scores every so many kimg, and the checkpoint with the best of them kept besides the latest; 0 is off."""
    evaluate_metric: Literal[
        "auto",
        "fd",
        "kd",
        "is",
        "precision",
        "recall",
        "density",
        "coverage",
        "swd",
        "ms-ssim",
        "modes",
        "l1",
        "psnr",
        "ssim",
        "miou",
        "accuracy",
    ] = "auto"
    """What is scored then and decides which is best: as in `saddlepoint evaluate`; auto is fd, modes on toys, l1 for
    systems that translate pictures, and miou for those that take label maps."""
    evaluate_features: str = "auto"
    """The extractor whose features are scored; auto is the best that needs no download for these data."""
    evaluate_n: int = 1000
    """How many samples are drawn for a score."""

    data_module = ""  # class attribute: the module with resolve(recipe) and source(recipe), for data other than images

    def optimizers(self) -> dict[str, Optimizer]:
        """Player name -> optimizer settings."""
        raise NotImplementedError

    def with_intervals(self) -> Recipe:
        """The same recipe with the automatic intervals written out, so that a longer resume keeps them."""
        return dataclasses.replace(
            self,
            log_kimg=self.log_kimg or self.kimg / 100,
            samples_kimg=self.samples_kimg or self.kimg / 10,
            checkpoint_kimg=self.checkpoint_kimg or self.kimg / 10,
        )


@dataclass(frozen=True)
class ImageRecipe(Recipe):
    """A recipe whose data are images. Zeros are filled in from the data when the recipe is resolved."""

    resolution: int = 0
    """Side of the square images (the longer one where a system makes others); 0 takes the smallest power of two that
    holds the data's (at least min_resolution)."""
    channels: int = 0
    """1 grey, 3 RGB, 4 RGBA; 0 takes the data's."""
    classes: Annotated[int, tyro.conf.Suppress] = 0
    """Number of classes in the data; 0 without labels."""
    mirror: bool = False
    """Show each image mirrored half of the time."""
    fit: Literal["auto", "pad", "resize", "crop"] = "auto"
    """How an image of another shape becomes square: see `saddlepoint data build --help`."""
    background: Literal["auto", "black", "grey", "white"] = "auto"
    """What transparent and padded pixels become; auto is white for art, black for grey images."""
    on_error: Literal["refuse", "skip"] = "refuse"
    """Files that cannot be read: refuse to train and name them, or skip them and say how many."""

    min_resolution = 8  # class attribute, not a setting: the smallest that the networks allow

    @property
    def shape(self) -> tuple[int, int]:
        """(height, width) of the images; a system whose images need not be square overrides it."""
        return self.resolution, self.resolution

    def holding(self, height: int, width: int) -> int:
        """The smallest resolution whose images hold height x width, from `min_resolution` on."""
        side = self.min_resolution
        while True:
            high, wide = dataclasses.replace(self, resolution=side).shape
            if high >= height and wide >= width:
                return side
            side *= 2


@dataclass(frozen=True)
class AdversarialRecipe(ImageRecipe):
    """A generator against a discriminator, with interchangeable objective and penalties."""

    objective: Literal["nonsaturating", "minimax", "least-squares", "hinge", "wasserstein", "relativistic"] = (
        "nonsaturating"
    )
    """What the two players play for."""
    penalty: Penalty = field(default_factory=Penalty)
    """Penalties on the discriminator."""
    g: Annotated[Optimizer, tyro.conf.arg(name="g")] = field(default_factory=Optimizer)
    """The generator's moves."""
    d: Annotated[Optimizer, tyro.conf.arg(name="d")] = field(default_factory=Optimizer)
    """The discriminator's (or critic's) moves."""
    freeze_d: int = 0
    """Freeze-D: the discriminator's first so many layers, from the image on, keep the weights they start from."""

    def optimizers(self) -> dict[str, Optimizer]:
        return {"discriminator": self.d, "generator": self.g}


def to_json(recipe: Recipe) -> dict[str, Any]:
    """Plain values, ready for json.dump."""
    return dataclasses.asdict(recipe)
