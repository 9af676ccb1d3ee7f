"""What the systems from images to images share: building networks, the schedule, translating pictures of any size.

A translator draws nothing from noise, so `sample` needs pictures to begin with: a game keeps a few held-out examples of
its data in buffers, which a checkpoint carries.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import pairwise, product
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from saddlepoint.errors import UserError, unknown
from saddlepoint.game import Game, Round, Stage, keyed_generator
from saddlepoint.layers.latent import dtype_of
from saddlepoint.layers.translation import (
    BatchNorm,
    Enough,
    NLayerDiscriminator,
    Noise,
    PixelDiscriminator,
    ResnetGenerator,
    Shared,
    UnetGenerator,
    init_weights,
    sharing,
)
from saddlepoint.penalties import Critic, between, slope, two_sided
from saddlepoint.recipes.translation import TranslationRecipe
from saddlepoint.schedules import epoch_factor, linear_decay

EXAMPLES = 16  # held-out pictures that a game keeps to show what it does
SOFT = 32  # pixels over which neighbouring tiles blend


def build_generator(recipe: TranslationRecipe, inputs: int, outputs: int) -> nn.Module:
    """The generator that the recipe describes, with its first weights."""
    made: nn.Module
    if recipe.network == "unet":
        made = UnetGenerator(inputs, outputs, recipe.halvings, recipe.width, recipe.norm, recipe.dropout)
    else:
        made = ResnetGenerator(
            inputs, outputs, recipe.width, recipe.norm, recipe.dropout, recipe.blocks, recipe.padding
        )  # fmt: skip
    init_weights(made, recipe.init, recipe.init_gain)
    return made


def build_discriminator(recipe: TranslationRecipe, inputs: int) -> nn.Module:
    """The discriminator that the recipe describes, with its first weights. UserError where no patch fits the image."""
    made: nn.Module
    if recipe.d_network == "pixel":
        made = PixelDiscriminator(inputs, recipe.d_width, recipe.norm)
    else:
        side = recipe.resolution
        for _ in range(recipe.n_layers):
            side = side // 2
        if side < 3:
            fits = max(1, (recipe.resolution // 3).bit_length() - 1)
            raise UserError(
                f"a patch discriminator of n_layers={recipe.n_layers} finds no patch in images of "
                f"{recipe.resolution} pixels; nearest: n_layers={fits}, or d_network=pixel."
            )
        made = NLayerDiscriminator(inputs, recipe.d_width, recipe.n_layers, recipe.norm)
    init_weights(made, recipe.init, recipe.init_gain)
    return made


def gradient_penalty(critic: Critic, real: Tensor, fake: Tensor, round: Round, weight: float, name: str) -> Tensor:
    """lambda E(|grad D(xhat)| - 1)^2 with xhat between reals and fakes, one place per pair (WGAN-GP, eq. 3)."""
    _, squared = slope(critic, between(real, fake.to(real.dtype), round.uniform(name)))
    return weight * two_sided(squared).mean()


class Translator(Game):
    """A game whose generators take pictures. Subclasses have `way(direction)`: the generator of a direction."""

    directions: tuple[str, ...] = ("a-to-b",)
    classes = 0  # of the label maps that it takes; 0 where it takes pictures
    objects_needed = False  # whether "instance" must be given where `takes` has it
    examples_a: Tensor
    examples_b: Tensor
    examples_known: Tensor

    def __init__(self, recipe: TranslationRecipe) -> None:
        super().__init__()
        self.recipe = recipe
        self.inputs, self.outputs = recipe.input_channels or recipe.channels, recipe.channels
        self.couples = frozenset({"batch-norm"} if recipe.norm == "batch" else ())
        side = recipe.shape
        self.register_buffer("examples_a", torch.zeros(EXAMPLES, self.inputs, *side, dtype=torch.uint8))
        self.register_buffer("examples_b", torch.zeros(EXAMPLES, self.outputs, *side, dtype=torch.uint8))
        self.register_buffer("examples_known", torch.zeros(2, dtype=torch.int64))  # how many; whether they are pairs

    def way(self, direction: str) -> nn.Module:
        """The generator of a direction."""
        raise NotImplementedError

    @property
    def takes(self) -> tuple[str, ...]:
        """What an input of `translate` consists of: "a", a picture, or "label", a map of class ids [N, H, W]; and
        "instance", ids of objects, which it is then given by that name.
        """
        return ("a",)

    def colours(self, label: Tensor) -> Tensor:
        """Class ids [N, H, W] in the colours that its sample pictures have, [N, 3, H, W] in [-1, 1]."""
        raise UserError(f"this {self.recipe.system} takes pictures and has no label maps.")

    def stage(self, clock: int) -> Stage:
        factor = factor_at(self.recipe, clock)
        return Stage(settings={name: {"lr": factor * o.lr} for name, o in self.recipe.optimizers().items()})

    # ---- examples to show
    def meet(self, source: Any) -> None:
        """Keep the first held-out examples of the data, or the first of all where nothing is held out."""
        held_out = getattr(source, "held_out", lambda: None)() or source
        count = min(EXAMPLES, len(held_out) if hasattr(held_out, "__len__") else EXAMPLES)
        batch: Mapping[str, Tensor] = held_out(0, count, 0, count)
        if "a" not in batch or "b" not in batch:
            return
        with torch.no_grad():
            for own, images in ((self.examples_a, batch["a"]), (self.examples_b, batch["b"])):
                own[:count] = (images * 127.5 + 127.5).round().clamp(0, 255).to(own)
            self.examples_known.copy_(torch.tensor([count, int(getattr(held_out, "paired", False))]))

    def examples(self, direction: str = "a-to-b") -> tuple[Tensor, Tensor | None]:
        """(inputs, true outputs or None): the kept examples in [-1, 1], [E, C, H, W]; none before training."""
        count, paired = (int(v) for v in self.examples_known)
        a, b = (t[:count].to(dtype_of(self)) / 127.5 - 1 for t in (self.examples_a, self.examples_b))
        first, second = (a, b) if direction == "a-to-b" else (b, a)
        return first, second if paired else None

    def inputs_for(self, n: int, seed: int, direction: str) -> Tensor:
        """n pictures to translate: the kept examples in an order keyed by the seed, or smooth noise where none are."""
        known, _ = self.examples(direction)
        if len(known):
            order = torch.randperm(len(known), generator=keyed_generator(torch.device("cpu"), "examples", seed))
            return known[order.to(known.device).repeat(-(-n // len(known)))[:n]]
        channels = self.inputs if direction == "a-to-b" else self.outputs
        rows = [
            torch.rand(channels, 4, 4, generator=keyed_generator(torch.device("cpu"), "inputs", seed, i))
            for i in range(n)
        ]
        small = (2 * torch.stack(rows) - 1).to(self.device, dtype_of(self))
        return F.interpolate(small, self.recipe.shape, mode="bilinear")

    # ---- use
    def sample(
        self, n: int, seed: int = 0, *, image: Tensor | None = None, direction: str = "a-to-b", batch: int = 16
    ) -> Tensor:
        """n pictures in [-1, 1]: translations of `image` [n, C, H, W], or of kept examples in an order that the seed
        decides.
        """
        x = self.inputs_for(n, seed, direction) if image is None else image[:n]
        return self.translate(x, direction=direction, seed=seed, batch=batch)

    def translate(self, x: Tensor, *, direction: str = "a-to-b", seed: int = 0, batch: int = 16) -> Tensor:
        """Pictures [N, C, H, W] in [-1, 1] of any size to pictures of the same size in the other domain.

        They are padded by reflection to sides that the network takes, and cut again. Dropout, where the recipe has it,
        is keyed by the seed and the picture's number. UserError for an unknown direction or other channels.
        """
        if direction not in self.directions:
            raise unknown("direction", direction, self.directions)
        network = self.way(direction)
        channels = self.inputs if direction == "a-to-b" else self.outputs
        if x.ndim != 4 or x.shape[1] != channels:
            raise UserError(f"this direction takes pictures [N, {channels}, H, W], not {list(x.shape)}.")
        multiple = int(getattr(network, "multiple", 1))
        made = []
        with self.evaluating(), self._test_norm():
            for first in range(0, len(x), batch):
                part = x[first : first + batch].to(self.device, dtype_of(self))
                made.append(cut(network(padded(part, multiple), self._noise(seed, first, len(part))), part))
        return torch.cat(made) if made else x.new_zeros(0, self.outputs, *x.shape[2:])

    def translate_tiled(
        self,
        x: Tensor,
        *,
        tile: int,
        overlap: int = -1,
        passes: int = -1,
        direction: str = "a-to-b",
        seed: int = 0,
    ) -> Tensor:
        """One large picture [C, H, W] to [C', H, W], tile by tile, so that memory is a tile's.

        overlap: of neighbouring tiles in pixels; -1 takes twice as far as an output pixel sees and a little to blend
        over, at most half a tile: then nothing of a tile's own border is used. Norm layers share their statistics: each
        of `passes` passes over the tiles before the last, which goes as far as that layer, makes one more exact; -1 is
        a pass for every layer, 0 lets every tile have its own.
        """
        if direction not in self.directions:
            raise unknown("direction", direction, self.directions)
        network, noise = self.way(direction), self._noise(seed, 0, 1)
        multiple = int(getattr(network, "multiple", 1))

        def make(row: Span, column: Span) -> Tensor:
            part = x[None, :, row.start : row.stop, column.start : column.stop]
            y: Tensor = network(padded(part.to(self.device, dtype_of(self)), multiple), noise)
            return y

        channels = self.outputs if direction == "a-to-b" else self.inputs
        return self._in_tiles(make, network, x.shape[1:], channels, tile=tile, overlap=overlap, passes=passes)

    def _in_tiles(
        self, make: Callable[[Span, Span], Tensor], network: nn.Module, sides: Sequence[int], channels: int, *,
        tile: int, overlap: int, passes: int,
    ) -> Tensor:  # fmt: skip
        """Tiles put together, [channels, H, W]. make: (rows, columns) of a tile -> what the network makes of it,
        [1, channels, h, w], its sides brought to multiples.
        """
        multiple, reach = int(getattr(network, "multiple", 1)), int(getattr(network, "reach", 0))
        tile = max(2 * multiple, tile // multiple * multiple)
        least = 2 * reach + 2 * multiple  # cores end at multiples, so a tile may have that much less than its half
        overlap = min(tile // 2, least + SOFT if overlap < 0 else overlap)
        soft = min(SOFT, overlap - 2 * reach if overlap > 2 * reach else overlap // 2)
        rows, columns = (spans(side, tile, overlap, multiple) for side in sides)
        shared = Shared() if passes and not self._running_norm() else None
        made = torch.zeros(channels, *sides)
        with self.evaluating(), self._test_norm(), sharing(shared):
            again = True
            while again:
                for row, column in product(rows, columns):
                    if shared is not None:
                        shared.place(row.inside(multiple), column.inside(multiple))
                    high, wide = row.stop - row.start, column.stop - column.start
                    with suppress(Enough):  # before the last pass
                        y = make(row, column)[0, :, :high, :wide].float().cpu()
                        weight = row.weight(high, soft)[:, None] * column.weight(wide, soft)
                        made[:, row.start : row.stop, column.start : column.stop] += weight * y
                passes -= 1
                again = shared is not None and shared.next_pass(search=passes != 0)
        return made

    def _running_norm(self) -> bool:
        """Whether the norms' statistics do not depend on the picture."""
        return self.recipe.norm == "none" or (self.recipe.norm == "batch" and self.recipe.test_norm == "running")

    def _noise(self, seed: int, first: int, count: int) -> Noise | None:
        if not self.recipe.dropout:
            return None

        def uniform(name: str, *shape: int) -> Tensor:
            keys = [("translate", seed, first + i, name) for i in range(count)]
            return torch.stack(
                [torch.rand(shape, generator=keyed_generator(self.device, *k), device=self.device) for k in keys]
            )

        return uniform

    @contextmanager
    def _test_norm(self) -> Iterator[None]:
        """Batch norm by each image's own statistics inside, if the recipe says so."""
        layers = [m for m in self.modules() if isinstance(m, BatchNorm)]
        before = [layer.per_image for layer in layers]
        for layer in layers:
            layer.per_image = self.recipe.test_norm == "image"
        try:
            yield
        finally:
            for layer, was in zip(layers, before, strict=True):
                layer.per_image = was

    def show(self, rows: int = 8) -> tuple[Tensor, int]:
        """(pictures [.., 3 or 1, H, W], columns) for a grid: input | output | truth, or input | output | there and back
        where the truth is not known; two examples a row.
        """
        cells: list[Tensor] = []
        for direction in self.directions:
            x, truth = self.examples(direction)
            x = x if len(x) else self.inputs_for(4, 0, direction)
            x = x[: 2 * rows // len(self.directions)]
            y = self.translate(x, direction=direction)
            back = "b-to-a" if direction == "a-to-b" else "a-to-b"
            columns = [x, y]
            if truth is not None:
                columns.append(truth[: len(x)])
            elif back in self.directions:
                columns.append(self.translate(y, direction=back))
            cells += [column[i] for i in range(len(x)) for column in columns]
            count = len(columns)
        most = max(cell.shape[0] for cell in cells)
        return torch.stack([cell.expand(most, -1, -1) if len(cell) == 1 else cell for cell in cells]), 2 * count


def factor_at(recipe: TranslationRecipe, clock: int) -> float:
    """The learning rates' factor: in steps of epoch_kimg, or gliding."""
    kimg, every = clock / 1000, recipe.epoch_kimg
    if recipe.lr_policy == "linear" and not recipe.decay_kimg:
        return 1.0
    if recipe.lr_policy == "linear" and not every:
        return linear_decay(clock, recipe.hold_kimg, recipe.decay_kimg)
    unit = every or 1.0
    epoch = round(kimg / unit, 9) if not every else clock // round(1000 * every)
    return max(
        0.0,
        epoch_factor(
            recipe.lr_policy,
            epoch,
            max(recipe.hold_kimg / unit, 1e-9),
            recipe.decay_kimg / unit,
            lr_decay_iters=max(recipe.decay_kimg / unit, 1e-9),
        ),
    )


@dataclass(frozen=True)
class Span:
    """One axis of a tile: start and stop in the picture; the core, low to high, that counts for statistics, at
    multiples and in no other tile; left and right, where it blends into its neighbours, the middles of the overlaps.
    """

    start: int
    stop: int
    low: int
    high: int
    left: int
    right: int
    first: bool
    last: bool

    def inside(self, multiple: int) -> tuple[float, float]:
        """The core as shares of the tile's length once it is a multiple; the last one has the padding as well."""
        length = -(-(self.stop - self.start) // multiple) * multiple
        return (self.low - self.start) / length, 1.0 if self.last else (self.high - self.start) / length

    def weight(self, length: int, soft: int) -> Tensor:
        """[length]: 1 inside, 0 beyond, linear over `soft` pixels around left and right; tiles add up to 1 if soft is
        less than their overlap.
        """
        place = torch.arange(self.start, self.start + length) + 0.5
        width = max(soft, 1e-3)
        up = torch.ones(length) if self.first else ((place - self.left) / width + 0.5).clamp(0, 1)
        down = torch.ones(length) if self.last else ((self.right - place) / width + 0.5).clamp(0, 1)
        return up + down - 1  # what ends here is exactly what begins in the next tile


def spans(side: int, tile: int, overlap: int, multiple: int = 1) -> list[Span]:
    """Tiles along one axis: neighbours overlap by `overlap` or more; starts and cores are multiples."""
    starts = [0]
    step = max(multiple, (tile - overlap) // multiple * multiple)
    while starts[-1] + tile < side:
        starts.append(min(starts[-1] + step, -(-(side - tile) // multiple) * multiple))
    middles = [(a + tile + b) // 2 for a, b in pairwise(starts)]
    lows = [0, *(middle // multiple * multiple for middle in middles)]
    highs, final = [*lows[1:], side], len(starts) - 1
    ends = zip(starts, lows, highs, [0, *middles], [*middles, side], strict=True)
    return [
        Span(start, min(start + tile, side), low, high, left, right, i == 0, i == final)
        for i, (start, low, high, left, right) in enumerate(ends)
    ]


def strange_ids(label: Tensor, classes: int, dont_care: bool = False) -> str:
    """What is wrong with a label map's ids, as the end of the sentence "NAME ..."; empty for 0 ... classes - 1 (and,
    with dont_care, 255 and `classes`).
    """
    fine = (label >= 0) & (label < classes)
    if dont_care:
        fine |= (label == 255) | (label == classes)
    if bool(fine.all()):
        return ""
    ids = label[~fine].unique().tolist()
    shown = ", ".join(map(str, ids[:8])) + (f" and {len(ids) - 8} more" if len(ids) > 8 else "")
    few = f"; nearest: {min(max(ids[0], 0), classes - 1)}" if len(ids) == 1 else ""
    more = ", and 255, which is don't care" if dont_care else ""
    return (
        f"has the id{'s' * (len(ids) > 1)} {shown} on {int((~fine).sum())} of {label.numel()} pixels; the classes are "
        f"0 to {classes - 1}{more}{few}"
    )


def padded(x: Tensor, multiple: int) -> Tensor:
    """x [N, C, H, W] reflected (or, where it is too small for that, repeated) on to sides that are multiples."""
    down, right = (-x.shape[2] % multiple, -x.shape[3] % multiple)
    if not down and not right:
        return x
    mode = "reflect" if down < x.shape[2] and right < x.shape[3] else "replicate"
    return F.pad(x, (0, right, 0, down), mode=mode)


def cut(y: Tensor, like: Tensor) -> Tensor:
    """The part of y that belongs to the unpadded picture."""
    return y[:, :, : like.shape[2], : like.shape[3]]


def named_uniform(round: Round, use: str) -> Noise:
    """The round's uniform numbers, with names of this use of the network."""
    return lambda name, *shape: round.uniform(f"{use}.{name}", *shape)
