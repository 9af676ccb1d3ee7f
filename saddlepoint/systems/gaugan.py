"""GauGAN: Semantic Image Synthesis with Spatially-Adaptive Normalization (Park, Liu, Wang, Zhu 2019, arXiv:1903.07291).

A label map says what is where; normalisation layers that take scale and shift of every pixel from the map (SPADE) carry
it into every block, so that no norm washes it out. The generator starts from the small map, or from a style vector that
an encoder finds in a reference picture. Official code: NVlabs/SPADE. Where we differ:
- one step of the power iteration is made before training begins, so that an untrained network samples sensibly;
- statistics and spectral vectors are written once a move;
- the perceptual term needs VGG19's weights, which are given as a file, or takes EfficientNet-Lite0 in their place;
  without either there is no such term, and training says so once;
- where instances are asked for and the data have none, the edges are those between classes;
- a generator with a style start paints other sizes too, its first maps resized.
"""

from __future__ import annotations

import sys
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from saddlepoint import distributed
from saddlepoint.errors import UserError, unknown
from saddlepoint.game import Player, Round, Stage, Terms, keyed_generator
from saddlepoint.layers.label_maps import coloured, edges
from saddlepoint.layers.latent import Prior, dtype_of
from saddlepoint.layers.spade import (
    Features,
    MultiscaleDiscriminator,
    SpadeGenerator,
    StyleEncoder,
    divergence,
    feature_matching,
    over_scales,
    posterised,
    semantics,
    starts,
    steps_of,
)
from saddlepoint.layers.spectral import settled
from saddlepoint.layers.translation import init_weights
from saddlepoint.layers.vgg import VGG19, Lite0, read_vgg
from saddlepoint.recipes.gaugan import DOUBLINGS, GauGANRecipe
from saddlepoint.systems.translation import EXAMPLES, Span, Translator, cut, padded


class GauGAN(Translator):
    """Hinge loss over scales, feature matching, perceptual distance and the styles' divergence (section 3.2)."""

    averaged = ("generator",)
    recipe: GauGANRecipe
    examples_instance: Tensor

    def __init__(self, recipe: GauGANRecipe) -> None:
        checked(recipe)
        super().__init__(recipe)
        self.inputs = (recipe.input_channels or recipe.channels) if recipe.levels else 1
        self.classes = recipe.labels or (recipe.levels**self.inputs if recipe.levels else recipe.classes)
        if not self.classes:
            raise UserError(
                "gaugan does not know how many classes the label maps have: give --labels, or --levels 2 to make maps "
                "of ordinary pictures."
            )
        side = recipe.shape
        self.register_buffer("examples_a", torch.zeros(EXAMPLES, self.inputs, *side, dtype=torch.uint8))
        if "instance" in self.takes:
            self.register_buffer("examples_instance", torch.zeros(EXAMPLES, *side, dtype=torch.int32))
        batch_norms = [recipe.norm, recipe.d_norm, *([recipe.e_norm] if recipe.encoder else [])]
        self.couples = frozenset({"batch-norm"} if "batch" in batch_norms else ())
        maps = self.classes + recipe.dont_care + recipe.instances
        self.maps = maps
        self.generator = SpadeGenerator(
            maps, self.outputs, recipe.width, start=starts(recipe.resolution, recipe.aspect, recipe.upsampling),
            upsampling=recipe.upsampling, latent=recipe.latent if recipe.encoder else 0, hidden=recipe.hidden,
            kernel=recipe.kernel, norm=recipe.norm, spectral=recipe.g_spectral, width_max=recipe.width_max,
        )  # fmt: skip
        self.discriminator = MultiscaleDiscriminator(
            maps + self.outputs, recipe.d_width, recipe.n_layers, recipe.scales, recipe.d_norm, recipe.d_spectral
        )
        makers: list[nn.Module] = [self.generator]
        if recipe.encoder:
            self.encoder = StyleEncoder(
                self.outputs, recipe.width, recipe.latent, recipe.e_norm, recipe.e_spectral, recipe.width_max
            )
            makers.append(self.encoder)
        for network in (*makers, self.discriminator):
            init_weights(network, recipe.init, recipe.init_gain)
            settled(network, 1)
        self.prior = Prior(recipe.latent)
        self.vgg: VGG19 | Lite0 | None = None
        if recipe.vgg and recipe.vgg_weight and self.device.type != "meta":
            self.vgg = read_vgg(recipe.vgg)
        self.players = (
            Player("generator", makers, self.generator_loss, steps=recipe.g.steps),
            Player("discriminator", self.discriminator, self.discriminator_loss, steps=recipe.d.steps),
        )

    def stage(self, clock: int) -> Stage:
        """Both rates at their value for hold_kimg, then linearly to 0 over decay_kimg, once in epoch_kimg."""
        recipe = self.recipe
        unit = recipe.epoch_kimg
        kimg = clock // round(1000 * unit) * unit if unit else clock / 1000
        factor = 1 - max(0.0, kimg - recipe.hold_kimg) / recipe.decay_kimg if recipe.decay_kimg else 1.0
        return Stage(settings={n: {"lr": max(0.0, factor) * o.lr} for n, o in recipe.optimizers().items()})

    # ---- label maps
    @property
    def takes(self) -> tuple[str, ...]:
        """A picture with `levels`; else a label map, and objects where edges between them are seen. Where those are not
        given, the edges are those between classes.
        """
        if self.recipe.levels:
            return ("a",)
        return ("label", "instance") if self.recipe.instances else ("label",)

    def colours(self, label: Tensor) -> Tensor:
        return coloured(label)

    def label_of(self, x: Tensor) -> Tensor:
        """Label map [N, H, W]: of ids as they are, of grey pictures whose values 0 to 255 are ids, or, with `levels`,
        of pictures by their brightness.
        """
        if not x.is_floating_point():
            return x if x.ndim == 3 else x[:, 0]
        if self.recipe.levels:
            return posterised(x, self.recipe.levels)
        return (x[:, 0].float() * 127.5 + 127.5).round().long()

    def semantics(self, label: Tensor, instance: Tensor | None = None, *, dtype: torch.dtype) -> Tensor:
        """One-hot map with edges, [N, S, H, W]; UserError names ids that are no class."""
        recipe = self.recipe
        borders = (label if instance is None else instance) if recipe.instances else None
        return semantics(label, self.classes, dont_care=recipe.dont_care, borders=borders, dtype=dtype)

    def given(self, round: Round) -> tuple[Tensor, Tensor]:
        """(semantics [N, S, H, W], true pictures [N, C, H, W]) of a round."""
        recipe = self.recipe
        image = round["b"] if recipe.levels else round["image"] if "image" in round else round["b"]
        label = self.label_of(round["a"] if recipe.levels else round["label"])
        instance = round["instance"] if recipe.instances and "instance" in round else None
        return self.semantics(label, instance, dtype=image.dtype), image

    # ---- the game
    def fake(self, round: Round) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
        """(semantics, real, fake, divergence [N] of the styles or None)."""
        seg, real = self.given(round)
        if not self.recipe.encoder:
            return seg, real, self.generator(seg), None
        mu, logvar = self.encoder(real)
        z = mu + (0.5 * logvar).exp() * round.normal("style", self.recipe.latent)
        return seg, real, self.generator(seg, z), divergence(mu, logvar)

    def judge(self, seg: Tensor, fake: Tensor, real: Tensor) -> tuple[Features, Features]:
        """The discriminators' outputs for fake and real, both in one batch."""
        pairs = [torch.cat([seg, image.to(seg.dtype)], 1) for image in (fake, real)]
        found = self.discriminator(torch.cat(pairs))
        halves = [[layer.chunk(2) for layer in scale] for scale in found]
        first, second = ([[half[i] for half in scale] for scale in halves] for i in (0, 1))
        return first, second

    def generator_loss(self, round: Round) -> Terms:
        recipe = self.recipe
        seg, real, fake, kld = self.fake(round)
        on_fake, on_real = self.judge(seg, fake, real)
        terms = {"gan": over_scales(recipe.criterion, on_fake, True, generator=True)}
        if recipe.feature_matching and recipe.n_layers:
            terms["feature"] = recipe.feature_matching * feature_matching(on_fake, on_real)
        if self.vgg is not None:
            terms["vgg"] = recipe.vgg_weight * self.vgg.distance(rgb(fake), rgb(real))
        if kld is not None and recipe.kld:  # summed over the whole batch, of which this may be a part
            terms["kld"] = recipe.kld * round.total * kld.mean()
        return terms

    def discriminator_loss(self, round: Round) -> Terms:
        seg, real, fake, _ = self.fake(round)
        on_fake, on_real = self.judge(seg, fake, real)
        criterion = self.recipe.criterion
        return {"fake": over_scales(criterion, on_fake, False), "real": over_scales(criterion, on_real, True)}

    # ---- examples to show
    def meet(self, source: Any) -> None:
        """Keep the first held-out examples; say once that there is no perceptual term."""
        if self.vgg is None and self.recipe.vgg_weight and distributed.rank() == 0:
            print("note: no --vgg FILE and no --vgg lite0: this trains without the perceptual term.", file=sys.stderr)
        held_out = getattr(source, "held_out", lambda: None)() or source
        count = min(EXAMPLES, len(held_out) if hasattr(held_out, "__len__") else EXAMPLES)
        batch = held_out(0, count, 0, count)
        first = batch.get("a") if self.recipe.levels else batch.get("label")
        second = batch.get("image", batch.get("b"))
        if first is None or second is None:
            return
        with torch.no_grad():
            kept = (first * 127.5 + 127.5).round() if self.recipe.levels else first.unsqueeze(1)
            self.examples_a[:count] = kept.clamp(0, 255).to(self.examples_a)
            self.examples_b[:count] = (second * 127.5 + 127.5).round().clamp(0, 255).to(self.examples_b)
            if "instance" in self.takes:
                self.examples_instance[:count] = batch.get("instance", first).to(self.examples_instance)
            self.examples_known.copy_(torch.tensor([count, int(getattr(held_out, "paired", True))]))

    def given_for(self, n: int, seed: int | None = None) -> tuple[Tensor, Tensor | None]:
        """(label maps [n, H, W] or pictures, instances [n, H, W] or None): kept examples in an order that the seed
        decides (None: as they are), or large random patches where none are kept.
        """
        if self.recipe.levels:
            if seed is None and int(self.examples_known[0]):
                return self.examples()[0][:n], None
            return super().inputs_for(n, seed or 0, "a-to-b"), None
        cpu, count = torch.device("cpu"), int(self.examples_known[0])
        if count:
            order = torch.arange(count)
            if seed is not None:
                order = torch.randperm(count, generator=keyed_generator(cpu, "examples", seed))
            order = order.repeat(-(-n // count))[:n] if seed is not None else order[:n]
            label = self.examples_a[order.to(self.device), 0].long()
            objects = self.examples_instance[order.to(self.device)].long() if "instance" in self.takes else None
            return label, objects
        rows = [
            torch.randint(self.classes, (1, 4, 4), generator=keyed_generator(cpu, "inputs", seed or 0, i))
            for i in range(n)
        ]
        ids = F.interpolate(torch.stack(rows).float(), self.recipe.shape, mode="nearest")
        return ids[:, 0].long().to(self.device), None

    # ---- use
    def styles(self, n: int, seed: int = 0) -> Tensor | None:
        """n random styles [n, latent] from N(0, 1); None for a generator without them."""
        return self.prior.draw(n, seed, self.device, dtype_of(self)) if self.recipe.encoder else None

    def style_of(self, images: Tensor, seed: int | None = None) -> Tensor:
        """Styles [N, latent] of reference pictures [N, C, H, W] in [-1, 1]: mu, or with a seed mu + sigma eps, as the
        official code samples at inference too. UserError without encoder.
        """
        if not self.recipe.encoder:
            raise UserError("this gaugan has no style encoder: train one with --encoder.")
        with self.evaluating():
            mu, logvar = self.encoder(images.to(self.device, dtype_of(self)))
            return mu if seed is None else mu + (0.5 * logvar).exp() * self.prior.draw(
                len(mu), seed, self.device, mu.dtype
            )  # fmt: skip

    def sample(
        self, n: int, seed: int = 0, *, image: Tensor | None = None, direction: str = "a-to-b", batch: int = 16,
        style: Tensor | None = None, instance: Tensor | None = None,
    ) -> Tensor:  # fmt: skip
        """n pictures: of `image` (label maps, with `instance`) or of kept examples, each in a style of its own."""
        x, objects = self.given_for(n, seed) if image is None else (image[:n], instance)
        z = self.styles(len(x), seed) if style is None else style
        return self.translate(x, direction=direction, seed=seed, batch=batch, style=z, instance=objects)

    def translate(
        self,
        x: Tensor,
        *,
        direction: str = "a-to-b",
        seed: int = 0,
        batch: int = 16,
        style: Tensor | None = None,
        instance: Tensor | None = None,
    ) -> Tensor:
        """Label maps, ids [N, H, W] or pictures of them [N, C, H, W], of any size to pictures of the same size.

        style: [latent], [1, latent] or one each; None draws one for all by the seed, so that edits of a map keep the
        look. instance: ids of objects [N, H, W], whose edges are seen where the recipe has instances; None takes the
        classes'. Sides are made multiples by repeating or reflecting the border, and cut again.
        """
        label, borders = self._maps(x, instance, direction)
        z, made = self._styled(len(label), style, seed), []
        start = self._start(label)
        with self.evaluating():
            for first in range(0, len(label), batch):
                place = slice(first, first + batch)
                seg = self._seen(label[place], None if borders is None else borders[place])
                y = self.generator(padded(seg, self.generator.multiple), None if z is None else z[place], start)
                made.append(cut(y, seg))
        return torch.cat(made) if made else torch.zeros(0, self.outputs, *x.shape[-2:])

    def translate_tiled(
        self,
        x: Tensor,
        *,
        tile: int,
        overlap: int = -1,
        passes: int = -1,
        direction: str = "a-to-b",
        seed: int = 0,
        style: Tensor | None = None,
        instance: Tensor | None = None,
    ) -> Tensor:
        """One large label map [H, W] (or picture [C, H, W]) tile by tile, see `Translator.translate_tiled`.

        All tiles have one style. The edges between objects [H, W] and the first maps are those of the whole, so that a
        tile's border changes neither.
        """
        label, borders = self._maps(x[None], None if instance is None else instance[None], direction)
        high, wide = label.shape[1:]
        z, multiple = self._styled(1, style, seed), self.generator.multiple
        with self.evaluating():
            lines = None if borders is None else edges(borders)
            coarse = None if lines is None else lines[:, :, ::multiple, ::multiple]
            small = self._seen(label[:, ::multiple, ::multiple], None, coarse)
            begun = self.generator.first(small, z, self._start(label))  # [1, top, h, w]

        def make(row: Span, column: Span) -> Tensor:
            rows, columns = slice(row.start, row.stop), slice(column.start, column.stop)
            seg = self._seen(label[:, rows, columns], None, None if lines is None else lines[:, :, rows, columns])
            first, last = (row.start // multiple, column.start // multiple), (row.stop, column.stop)
            x = begun[:, :, first[0] : -(-last[0] // multiple), first[1] : -(-last[1] // multiple)]
            return self.generator.paint(x, padded(seg, multiple))

        return self._in_tiles(
            make, self.generator, (high, wide), self.outputs, tile=tile, overlap=overlap, passes=passes
        )  # fmt: skip

    def _start(self, label: Tensor) -> tuple[int, int]:
        """Sides of the first maps for label maps [N, H, W]."""
        multiple = self.generator.multiple
        return -(-label.shape[1] // multiple), -(-label.shape[2] // multiple)

    def _maps(self, x: Tensor, instance: Tensor | None, direction: str = "a-to-b") -> tuple[Tensor, Tensor | None]:
        """(class ids [N, H, W], ids whose edges are seen or None). UserError for what is no such input."""
        if direction not in self.directions:
            raise unknown("direction", direction, self.directions)
        if not x.is_floating_point() and self.recipe.levels:
            raise UserError("this gaugan makes its label maps of pictures (--levels): give it pictures, not ids.")
        if x.is_floating_point() and (x.ndim != 4 or x.shape[1] != self.inputs):
            raise UserError(f"this gaugan takes pictures [N, {self.inputs}, H, W], not {list(x.shape)}.")
        label = self.label_of(x)
        if label.ndim != 3:
            raise UserError(f"label maps are [N, H, W], not {list(x.shape)}.")
        if not self.recipe.instances:
            return label, None
        if instance is not None and instance.shape != label.shape:
            raise UserError(f"instance ids of {list(instance.shape)} for label maps {list(label.shape)}.")
        return label, label if instance is None else instance

    def _seen(self, label: Tensor, borders: Tensor | None, lines: Tensor | None = None) -> Tensor:
        """What the generator sees, [N, S, H, W]: of label maps and the ids whose edges count, or of known edges."""
        if lines is not None:
            found = semantics(
                label.to(self.device), self.classes, dont_care=self.recipe.dont_care, dtype=dtype_of(self)
            )
            return torch.cat([found, lines.to(found)], 1)
        borders = None if borders is None else borders.to(self.device)
        return self.semantics(label.to(self.device), borders, dtype=dtype_of(self))

    def _styled(self, n: int, style: Tensor | None, seed: int) -> Tensor | None:
        """Styles of n maps, [n, latent], as given or by the seed; None for a generator without them."""
        if style is None:
            z = self.styles(1, seed)
        elif not self.recipe.encoder:
            raise UserError("this gaugan has no styles: train one with --encoder.")
        else:
            z = style.to(self.device, dtype_of(self)).view(-1, style.shape[-1])
        if z is not None and (z.shape[1] != self.recipe.latent or len(z) not in (1, n)):
            raise UserError(
                f"styles are [{self.recipe.latent}], for all or one for each of {n} maps, not {list(z.shape)}."
            )
        return None if z is None else z.expand(n, -1)

    def show(self, rows: int = 8) -> tuple[Tensor, int]:
        """(pictures, columns) for a grid: map | output | truth, two examples a row. Classes are in colours, maps made
        of pictures in the middles of their steps.
        """
        known = int(self.examples_known[0])
        x, objects = self.given_for(min(known, 2 * rows) if known else 4)
        _, truth = self.examples()
        levels = self.recipe.levels
        seen = (2 * steps_of(x, levels) + 1) / levels - 1 if levels else self.colours(self.label_of(x))
        columns = [seen, self.sample(len(x), image=x, instance=objects)]
        if truth is not None:
            columns.append(truth[: len(x)])
        most = max(column.shape[1] for column in columns)
        cells = [column[i].to(columns[1]).expand(most, -1, -1) for i in range(len(x)) for column in columns]
        return torch.stack(cells), 2 * len(columns)


def rgb(image: Tensor) -> Tensor:
    """Three channels: grey repeated, further channels left out."""
    return image.expand(-1, 3, -1, -1) if image.shape[1] == 1 else image[:, :3]


def checked(recipe: GauGANRecipe) -> None:
    """UserError for settings that make no network, each with the nearest that does."""
    if not recipe.aspect > 0:
        raise UserError(f"aspect is width over height, not {recipe.aspect}; nearest: 1.")
    multiple = 1 << DOUBLINGS[recipe.upsampling]
    if recipe.resolution % multiple or not all(recipe.shape):
        near = max(1, round(recipe.resolution / multiple)) * multiple
        near = max(near, multiple * round(recipe.aspect)) if not all(recipe.shape) else near
        raise UserError(
            f"gaugan with upsampling={recipe.upsampling} makes pictures whose width is a multiple of {multiple}, not "
            f"{recipe.shape[0]}x{recipe.resolution}; nearest: resolution={near}."
        )
    if recipe.kernel % 2 == 0 or recipe.kernel < 1:
        raise UserError(f"kernel is an odd number, not {recipe.kernel}; nearest: {max(1, recipe.kernel - 1)}.")
    for name in ("scales", "n_layers", "hidden", "latent"):
        if getattr(recipe, name) < 1:
            raise UserError(f"{name} is at least 1, not {getattr(recipe, name)}; nearest: 1.")
