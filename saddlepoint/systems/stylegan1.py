"""StyleGAN: A Style-Based Generator Architecture for Generative Adversarial Networks (Karras, Laine and Aila 2019,
arXiv:1812.04948).

A mapping network turns z into w; a learned affine of w, the style, sets mean and scale of every channel after every
convolution of a synthesis network that starts from a learned constant. Noise inputs make what is random in an image.
Discriminator and growing are ProGAN's (`layers/growing.py`), the loss is the non-saturating one with R1.
Official code: NVlabs/stylegan (TensorFlow 1). Where we differ:
- one draw of mixing a batch, over all processes (one a GPU there; the paper says one an image);
- the running average moves after a round, not together with the discriminator's step, and the schedule is read every
  round, not every fourth; Adam's epsilon is bias-corrected (TensorFlow's is not);
- a gradient that is not finite stops the run with an error, where the official code skips that step in silence;
- the "traditional" options (no styles, a dense input instead of the constant, pixel norm) are left out.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from itertools import pairwise
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from saddlepoint.errors import UserError, unknown
from saddlepoint.game import Player, Round, Terms, keyed_generator
from saddlepoint.layers.equalised import EqualisedConv2d, EqualisedLinear, pixel_norm
from saddlepoint.layers.growing import (
    ROOT2,
    Growing,
    GrowingDiscriminator,
    GrowingGame,
    deviation,
    enlarged,
    image_at,
    index_of,
    up_conv,
)
from saddlepoint.layers.latent import Label, Prior, chosen_labels, dtype_of, line
from saddlepoint.layers.resample import filter2d, setup_filter
from saddlepoint.objectives import at_least_float32, objective
from saddlepoint.penalties import judge
from saddlepoint.recipes.growing import Level
from saddlepoint.recipes.stylegan1 import StyleGAN1Recipe
from saddlepoint.tracking import track, wants_any_order

Noise = Callable[[int, int], Tensor | None]  # (layer, side) -> noise [N or 1, 1, side, side], or None
NOISES = ("const", "random", "none")


class Blur(nn.Module):
    """[1, 2, 1] x [1, 2, 1] / 16 with zero padding, which darkens borders a little, as in the official code."""

    taps: Tensor

    def __init__(self) -> None:
        super().__init__()
        # One 3x3 pass: on a CPU faster than two of three taps.
        self.register_buffer("taps", setup_filter([1, 2, 1], separable=False), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        return filter2d(x, self.taps)


def adaptive_norm(x: Tensor, style: Tensor, eps: float = 1e-8) -> Tensor:
    """AdaIN: (y_s + 1) (x - mean) / sqrt(var + eps) + y_b for every sample and channel, biased variance (eq. 1; the
    official code adds the 1). x: [N, C, H, W], style: [N, 2 C], scales before shifts.
    """
    n, c, height, width = x.shape
    x, style = at_least_float32(x), at_least_float32(style)
    scale, shift = style[:, :c] + 1, style[:, c:]
    if wants_any_order():  # the kernel has no third derivative: see layers.normalisation.BatchNorm
        x = x - x.mean((2, 3), keepdim=True)
        x = x * (x.square().mean((2, 3), keepdim=True) + eps).rsqrt()
        return x * scale[:, :, None, None] + shift[:, :, None, None]
    rows = x.reshape(1, n * c, height, width)
    y = torch.native_batch_norm(rows, scale.reshape(-1), shift.reshape(-1), None, None, True, 0.0, eps)[0]
    return y.view(n, c, height, width)


class Mapping(nn.Module):
    """z [N, latent] (and a class) -> w [N, w]: normalised, then dense layers with leaky ReLU, at a lower rate."""

    def __init__(self, recipe: StyleGAN1Recipe) -> None:
        super().__init__()
        self.classes = recipe.classes if recipe.conditional else 0
        self.normalised = recipe.normalise_latents
        self.embedding = nn.Parameter(torch.randn(self.classes, recipe.latent)) if self.classes else None
        hidden = recipe.mapping_width or recipe.w
        widths = [recipe.latent * (2 if self.classes else 1)] + [hidden] * (recipe.mapping_layers - 1) + [recipe.w]
        self.layers = nn.ModuleList(
            EqualisedLinear(a, b, gain=ROOT2, multiplier=recipe.mapping_lr) for a, b in pairwise(widths)
        )

    def forward(self, z: Tensor, label: Tensor | None = None) -> Tensor:
        if self.embedding is not None:
            if label is None:
                raise UserError("this generator is conditional: a class for every latent is needed.")
            z = torch.cat([z, self.embedding[label] if label.ndim == 1 else label.to(z.dtype) @ self.embedding], 1)
        x = pixel_norm(z) if self.normalised else z
        with torch.autocast(x.device.type, enabled=False):
            for layer in self.layers:
                x = F.leaky_relu(layer(x), 0.2)
        return x


class Layer(nn.Module):
    """Convolution (`up`: after doubling, then blurred), noise, bias, leaky ReLU, AdaIN. inputs=0: no convolution."""

    def __init__(self, inputs: int, outputs: int, recipe: StyleGAN1Recipe, *, up: bool = False) -> None:
        super().__init__()
        self.conv = EqualisedConv2d(inputs, outputs, 3, gain=ROOT2, bias=False) if inputs else None
        self.blur = Blur() if up else None
        self.noise = nn.Parameter(torch.zeros(outputs)) if recipe.noise else None
        self.bias = nn.Parameter(torch.zeros(outputs))
        self.style = EqualisedLinear(recipe.w, 2 * outputs)

    def forward(self, x: Tensor, w: Tensor, noise: Tensor | None) -> Tensor:
        if self.conv is not None:
            x = self.conv(x) if self.blur is None else self.blur(up_conv(x, self.conv.scaled()))
        if noise is not None and self.noise is not None:
            x = x + noise * self.noise.view(1, -1, 1, 1)
        return adaptive_norm(F.leaky_relu(x + self.bias.view(1, -1, 1, 1), 0.2), self.style(w))


class Styled(nn.Module):
    """The two layers of a resolution, maps -> maps of twice the side (at 4x4: of the same)."""

    def __init__(self, first: Layer, second: Layer) -> None:
        super().__init__()
        self.layers = nn.ModuleList([first, second])

    def forward(self, x: Tensor, w: Tensor, noise: Noise, index: int) -> Tensor:
        for i, layer in enumerate(self.layers):
            x = layer(x, w[:, 2 * index + i], noise(2 * index + i, 4 << index))
        return x


class Synthesis(nn.Module):
    """w [N, layers, w] -> image [N, C, R, R]: two layers at 4x4, 8x8, ..., a linear 1x1 convolution to the image."""

    def __init__(self, recipe: StyleGAN1Recipe) -> None:
        super().__init__()
        widths = recipe.widths()
        self.constant = nn.Parameter(torch.ones(1, widths[0], 4, 4))
        self.blocks = nn.ModuleList([Styled(Layer(0, widths[0], recipe), Layer(widths[0], widths[0], recipe))])
        for a, b in pairwise(widths):
            self.blocks.append(Styled(Layer(a, b, recipe, up=True), Layer(b, b, recipe)))
        self.to_rgb = nn.ModuleList(EqualisedConv2d(width, recipe.channels, 1) for width in widths)
        self.uses_noise = recipe.noise
        for i in range(self.layers if recipe.noise else 0):
            side = 4 << i // 2
            self.register_buffer(f"noise{i}", torch.randn(1, 1, side, side))

    @property
    def layers(self) -> int:
        """Styles that it takes: 2 log2(R) - 2, 18 at 1024 pixels."""
        return 2 * len(self.blocks)

    def constant_noise(self, layer: int, side: int) -> Tensor | None:
        return self.get_buffer(f"noise{layer}") if self.uses_noise else None

    def at(self, level: Level, w: Tensor, noise: Noise | None = None) -> Tensor:
        """Images at the level's own resolution, [N, C, r, r]. noise None: the constant ones, as in every image."""
        given = (noise or self.constant_noise) if self.uses_noise else (lambda layer, side: None)
        x = self.blocks[0](self.constant.expand(w.shape[0], -1, -1, -1), w, given, 0)
        grown = [partial(block, w=w, noise=given, index=i) for i, block in enumerate(self.blocks) if i]
        return image_at(level, x, grown, list(self.to_rgb))


class Generator(Growing):
    """z [N, latent] (and a class) -> image [N, C, R, R]: `mapping`, then `synthesis`. w_avg: the running mean of w."""

    w_avg: Tensor

    def __init__(self, recipe: StyleGAN1Recipe) -> None:
        super().__init__(recipe)
        self.mapping, self.synthesis = Mapping(recipe), Synthesis(recipe)
        self.register_buffer("w_avg", torch.zeros(recipe.w))

    def styles(self, w: Tensor) -> Tensor:
        """One w [N, w] for all layers; w of every layer [N, layers, w] stay as they are."""
        if w.shape[-1] != len(self.w_avg) or (w.ndim == 3 and w.shape[1] != self.synthesis.layers):
            size, layers = len(self.w_avg), self.synthesis.layers
            raise UserError(f"w is {list(w.shape)}; expected [N, {size}] or [N, {layers}, {size}].")
        return w if w.ndim == 3 else w.unsqueeze(1).expand(-1, self.synthesis.layers, -1)

    def truncated(self, w: Tensor, psi: float, cutoff: int | None = None) -> Tensor:
        """w_avg + psi (w - w_avg) in the first `cutoff` layers (None: in all), [N, layers, w]."""
        w = self.styles(w)
        if psi == 1:
            return w
        below = torch.arange(w.shape[1], device=w.device) < (w.shape[1] if cutoff is None else cutoff)
        return torch.where(below[None, :, None], torch.lerp(self.w_avg.to(w.dtype), w, psi), w)

    def forward(
        self,
        z: Tensor,
        label: Tensor | None = None,
        lod: float | None = None,
        *,
        truncation: float = 1.0,
        cutoff: int | None = None,
        noise: Noise | None = None,
    ) -> Tensor:
        """Images at full resolution, their pixels repeated where the networks are smaller; lod None: as training is."""
        w = self.truncated(self.mapping(z, label), truncation, cutoff)
        return enlarged(self.synthesis.at(self.level(lod), w, noise), self.resolution)


class Discriminator(GrowingDiscriminator):
    """Image [N, C, R, R] (and its class) -> logit [N]. With classes there is an output for each (arXiv:1801.04406)."""

    def __init__(self, recipe: StyleGAN1Recipe) -> None:
        self.classes = recipe.classes if recipe.conditional else 0
        std = deviation(recipe.stddev_group, recipe.stddev_features)
        super().__init__(recipe, max(self.classes, 1), blur=Blur(), deviation=std)

    def logits_at(self, level: Level, x: Tensor, label: Tensor | None = None) -> Tensor:
        out = self.at(level, x)
        if not self.classes:
            return out[:, 0]
        if label is None:
            raise UserError("this discriminator is conditional: a class for every image is needed.")
        return (out * (label if label.ndim == 2 else F.one_hot(label, self.classes)).to(out.dtype)).sum(1)

    def forward(self, x: Tensor, label: Tensor | None = None, lod: float | None = None) -> Tensor:
        return self.logits_at(self.level(lod), x, label)


# ---- the game
class StyleGAN1(GrowingGame):
    """D minimises E softplus(D(G(z))) + E softplus(-D(x)) + gamma/2 E |grad D(x)|^2, G E softplus(-D(G(z)))."""

    generator: Generator
    discriminator: Discriminator

    def __init__(self, recipe: StyleGAN1Recipe) -> None:
        super().__init__()
        if recipe.conditional and not recipe.classes:
            raise UserError("conditional stylegan1 needs labelled images; use conditional=False.")
        self.recipe: StyleGAN1Recipe = recipe
        self.objective = objective(recipe.objective)
        self.term = "wasserstein" if recipe.objective == "wasserstein" else "gan"
        self.prior = Prior(recipe.latent, "normal")
        self.generator, self.discriminator = Generator(recipe), Discriminator(recipe)
        self.couples = frozenset({"minibatch-stddev"} if recipe.stddev_group > 1 else ())
        self.players = (
            Player("discriminator", self.discriminator, self.discriminator_loss, steps=recipe.d.steps),
            Player("generator", self.generator, self.generator_loss, steps=recipe.g.steps),
        )

    # ---- what the players see
    def styles(self, round: Round, label: Tensor | None) -> Tensor:
        """w of every layer [N, layers, w]; with probability `mixing` the layers from a random one on have another z."""
        w = self.generator.mapping(self.prior.of(round), label)
        track(self.generator.w_avg, w.mean(0), 1 - self.recipe.w_decay)  # before mixing, in either player's move
        ws = self.generator.styles(w)
        if self.recipe.mixing <= 0:
            return ws
        other = self.generator.styles(self.generator.mapping(self.prior.of(round, "z2"), label))
        used = 2 * (index_of(self.level_of(round).resolution) + 1)
        crossover = 1 + (round.common("crossover") * (used - 1)).floor()  # 1, ..., used - 1
        mixed = round.common("mixing") < self.recipe.mixing
        layers = torch.arange(ws.shape[1], device=ws.device)
        return torch.where((mixed & (layers >= crossover))[None, :, None], other, ws)

    def fakes(self, round: Round) -> tuple[Tensor, Tensor | None]:
        """Images at the round's level, and the classes that they were made for: those of the round's own images."""
        label = round["label"] if self.recipe.conditional else None

        def noise(layer: int, side: int) -> Tensor:
            return round.normal(f"noise{layer}", 1, side, side)

        return self.generator.synthesis.at(self.level_of(round), self.styles(round, label), noise), label

    # ---- the game
    def discriminator_loss(self, round: Round) -> Terms:
        real, (fake, label) = self.reals(round), self.fakes(round)
        level = self.level_of(round)
        judged = judge(lambda x: self.discriminator.logits_at(level, x, label), real, fake, round, self.recipe.penalty)
        terms = {self.term: self.objective.discriminator(judged.real, judged.fake).mean()}
        round.note("real_logit", judged.real.mean())
        round.note("fake_logit", judged.fake.mean())
        return {**terms, **judged.penalties}

    def generator_loss(self, round: Round) -> Terms:
        level = self.level_of(round)
        x, label = self.fakes(round)
        real = None
        if self.objective.uses_real_in_generator:
            real = self.discriminator.logits_at(level, self.reals(round), label)
        return {self.term: self.objective.generator(self.discriminator.logits_at(level, x, label), real).mean()}

    # ---- use
    def sample(
        self,
        n: int,
        seed: int = 0,
        *,
        z: Tensor | None = None,
        w: Tensor | None = None,
        label: Label = None,
        truncation: float = 1.0,
        cutoff: int | None = None,
        noise: Literal["const", "random", "none"] = "const",
        lod: float | None = None,
        batch: int = 64,
    ) -> Tensor:
        """n images, cut to [-1, 1], [n, C, R, R], from the seed, from latents z [n, latent], or from w [n, w] or
        [n, layers, w].

        label (conditional): one class for all, one each, or None for the classes in turn. truncation: psi, pulls w
        towards its mean in the first `cutoff` layers (None: in all). noise: the same in all images, drawn for each
        from the seed, or none. lod: level of detail (0 full resolution, 1 half of it); None: as training is.
        """
        if noise not in NOISES:
            raise unknown("noise", noise, NOISES)
        with self.evaluating():
            ws = self.draw_styles(n, seed, z=z, label=label) if w is None else self.generator.styles(w)
            ws = self.generator.truncated(ws, truncation, cutoff)
            level = self.generator.level(lod)
            parts = []
            for first in range(0, len(ws), batch):
                part = ws[first : first + batch]
                image = self.generator.synthesis.at(level, part, self._noise(noise, seed, first, len(part)))
                parts.append(enlarged(image, self.recipe.resolution))
            return torch.cat(parts).clamp(-1, 1)

    def draw_styles(
        self,
        n: int,
        seed: int = 0,
        *,
        z: Tensor | None = None,
        label: Label = None,
    ) -> Tensor:
        """w of every layer [n, layers, w] of n latents."""
        z = self.draw_latents(n, seed) if z is None else z
        labels = chosen_labels(label, len(z), self.recipe.classes, self.device) if self.recipe.conditional else None
        with self.evaluating():
            return self.generator.styles(self.generator.mapping(z, labels))

    def _noise(self, kind: str, seed: int, first: int, count: int) -> Noise | None:
        """What the layers see of noise; a random one is a function of the seed and the image's number."""
        if kind == "const":
            return None

        def draw(layer: int, side: int) -> Tensor | None:
            if kind == "none":
                return None
            rows = [
                torch.randn(1, side, side, generator=keyed_generator(self.device, "noise", seed, i, layer),
                            device=self.device)
                for i in range(first, first + count)
            ]  # fmt: skip
            return torch.stack(rows).to(dtype_of(self))

        return draw

    def mixed(self, coarse: Tensor, fine: Tensor, crossover: int) -> Tensor:
        """Styles [N, layers, w]: those of `coarse` in the layers before `crossover`, those of `fine` from it on."""
        first, second = self.generator.styles(coarse), self.generator.styles(fine)
        return torch.cat([first[:, :crossover], second[:, crossover:]], 1)

    def interpolate_classes(self, z: Tensor, first: int, second: int, steps: int = 8, **controls: Any) -> Tensor:
        """Images [steps, C, R, R] of one latent z [latent] along the line in w between what two classes make of it."""
        if not self.recipe.conditional:
            return super().interpolate_classes(z, first, second, steps, **controls)  # says why not
        w = self.draw_styles(2, z=z.expand(2, -1), label=[first, second])  # [2, layers, w]
        return self.sample(steps, w=line(w[0], w[1], steps), **controls)

    def interpolate(self, start: Tensor, end: Tensor, steps: int = 8) -> Tensor:  # type: ignore[override]
        """Images [steps, C, R, R] along the straight line in w between two latents z [latent]."""
        w = self.draw_styles(2, z=torch.stack([start, end]))[:, 0]
        return self.sample(steps, w=line(w[0], w[1], steps))
