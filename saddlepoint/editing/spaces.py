"""Where a system's images can be edited: its latents, its styles, the layers that read them, its noise images.

A *style* here is what the layers of a generator read, [n, layers, size]: w of a StyleGAN, one copy for each layer. A
system without a mapping network has one layer, which reads z. So truncation, mixing, directions and projection are
written once; what a system does not have is refused in one sentence.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, TypeAlias, cast

import torch
from torch import Tensor, nn

from saddlepoint.errors import UserError, unknown
from saddlepoint.game import Game
from saddlepoint.layers.latent import dtype_of

Maps: TypeAlias = Mapping[str, Tensor]  # a layer's name -> its noise images [n or 1, 1, height, width]
Layers: TypeAlias = str | Sequence[int]
RANGES = ("coarse", "middle", "fine", "all")
NOISES = ("const", "random", "none")


class Space:
    """The latents of a game without a mapping network: styles are z, [n, 1, latent]."""

    mapped = False

    def __init__(self, game: Game) -> None:
        self.game = cast(Any, game)
        self.system = str(getattr(getattr(game, "recipe", None), "system", type(game).__name__.lower()))
        if not hasattr(game, "draw_latents") or not hasattr(game, "generator"):
            raise UserError(f"{self.system} has no latents to edit.")
        recipe = self.game.recipe
        self.classes = int(getattr(recipe, "classes", 0)) if getattr(recipe, "conditional", False) else 0
        self.device, self.dtype = game.device, dtype_of(game)
        self.layers, self.size = 1, int(self.game.draw_latents(1, 0).shape[1])

    # ---- latents and styles
    def draw(self, codes: Sequence[tuple[int, int]]) -> Tensor:
        """Latents [n, latent] of (seed, row): those that `game.sample(row + 1, seed)` has in that row."""
        longest = {seed: max(row for s, row in codes if s == seed) + 1 for seed, _ in codes}
        drawn = {seed: self.game.draw_latents(rows, seed) for seed, rows in longest.items()}
        return torch.stack([drawn[seed][row] for seed, row in codes])

    def styles(self, z: Tensor, label: list[int] | None = None) -> Tensor:
        """Styles [n, layers, size] of latents [n, latent]."""
        return z.unsqueeze(1)

    @property
    def average(self) -> Tensor:
        """The mean style [size], which truncation pulls towards."""
        raise UserError(f"{self.system} has no truncation: it has no mapping network, so no mean of w.")

    def truncated(self, ws: Tensor, psi: float, cutoff: int | None = None) -> Tensor:
        """mean + psi (ws - mean) in the first `cutoff` layers (None: in all)."""
        if psi == 1:
            return ws
        below = torch.arange(self.layers, device=ws.device) < (self.layers if cutoff is None else cutoff)
        mean = self.average.to(ws)
        return torch.where(below[None, :, None], torch.lerp(mean, ws, psi), ws)  # exactly the mean at psi 0

    # ---- images
    def images(
        self,
        ws: Tensor,
        *,
        label: list[int] | None = None,
        noise: str | Maps = "const",
        seed: int = 0,
        batch: int | None = None,
    ) -> Tensor:
        """Images [n, C, H, W] in [-1, 1], as `game.sample` makes them."""
        if noise != "const":
            raise UserError(f"{self.system} has no noise inputs: leave noise out.")
        given: dict[str, Any] = {"label": label} if self.classes else {}
        made: Tensor = self.game.sample(len(ws), z=ws[:, 0], **_kept(batch=batch), **given)
        return made

    def synthesise(self, ws: Tensor, noise: Maps | None = None, label: list[int] | None = None) -> Tensor:
        """The same images, differentiable in ws and noise and not clamped."""
        generated = self._generated(ws[:, 0], label)
        return self._reading(label)(generated)

    def _generated(self, z: Tensor, label: list[int] | None) -> Tensor:
        given = [] if not self.classes else [torch.as_tensor(label, device=self.device)]
        if given and hasattr(self.game, "one_hot"):
            given = [self.game.one_hot(given[0])]
        made: Tensor = self.game.generator(z, *given)
        return made

    def _reading(self, label: list[int] | None) -> Callable[[Tensor], Tensor]:
        """How this system turns what its generator returns into images: found by comparing with `game.sample`."""
        if not hasattr(self, "_read"):
            z = self.game.draw_latents(2, 0)
            labels = [label[0] if label else 0] * 2 if self.classes else None
            with torch.no_grad():
                raw = self._generated(z, labels)
                wanted = self.images(z.unsqueeze(1), label=labels)
            ways: list[Callable[[Tensor], Tensor]] = [lambda x: x, lambda x: 2 * x - 1]
            if hasattr(self.game, "outside"):
                ways.insert(0, self.game.outside)
            fits = [way for way in ways if _same(way(raw), wanted)]
            if not fits:
                raise UserError(
                    f"{self.system}: its images cannot be differentiated by z, so nothing can be projected."
                )
            self._read = fits[0]
        return self._read

    def noise_shapes(self) -> dict[str, tuple[int, int]]:
        """Height and width of each noise image."""
        return {}

    def affines(self) -> list[tuple[int, Tensor]]:
        """(layer, A [outputs, size]) of each linear map that reads the style of a layer."""
        first = next((m for m in self.game.generator.modules() if getattr(m, "weight", None) is not None), None)
        found = getattr(first, "weight", None)
        weight = found.detach() if isinstance(found, Tensor) else torch.empty(0)
        if weight.ndim == 2 and weight.shape[1] == self.size:  # dense
            return [(0, weight)]
        if isinstance(first, nn.ConvTranspose2d) and weight.shape[0] == self.size:  # [in, out, k, k] on a 1x1 map
            return [(0, weight.flatten(1).t())]
        raise UserError(f"{self.system} has no layer that is a linear map of z; use method='labels' or 'attribute'.")

    # ---- layers
    def layers_of(self, words: Layers) -> tuple[int, ...]:
        """Layer numbers of a range in words: coarse, middle, fine, all, or numbers as 0-3,8.

        From 12 layers on (128 pixels) coarse are layers 0 to 3 and middle 4 to 7, as in figure 3 of arXiv:1812.04948
        (4x4 to 8x8, 16x16 to 32x32); smaller networks are cut into thirds.
        """
        if not isinstance(words, str):
            return self._checked(tuple(words), str(list(words)))
        cuts = (min(4, round(self.layers / 3)), min(8, round(2 * self.layers / 3)))
        known = {
            "coarse": range(cuts[0]), "middle": range(cuts[0], cuts[1]), "fine": range(cuts[1], self.layers),
            "all": range(self.layers),
        }  # fmt: skip
        found: set[int] = set()
        for word in filter(None, (part.strip() for part in words.split(","))):
            numbers = re.fullmatch(r"(\d+)(?:-(\d+))?", word)
            if numbers:
                found |= set(range(int(numbers[1]), int(numbers[2] or numbers[1]) + 1))
            elif word in known:
                found |= set(known[word])
            else:
                raise unknown("range of layers", word, (*RANGES, f"0-{self.layers - 1}"))
        return self._checked(tuple(sorted(found)), words)

    def _checked(self, layers: tuple[int, ...], said: str) -> tuple[int, ...]:
        wrong = [layer for layer in layers if not 0 <= layer < self.layers]
        if wrong:
            raise UserError(f"layers {said!r}: this {self.system} has layers 0 to {self.layers - 1}, not {wrong[0]}.")
        return layers

    @contextmanager
    def differentiable(self) -> Iterator[None]:
        """Evaluation mode, gradients on."""
        with self.game.evaluating(), torch.enable_grad():
            yield


class StyleSpace(Space):
    """What the systems with a mapping network share."""

    mapped = True

    def images(
        self,
        ws: Tensor,
        *,
        label: list[int] | None = None,
        noise: str | Maps = "const",
        seed: int = 0,
        batch: int | None = None,
    ) -> Tensor:
        if isinstance(noise, str):
            return self._sampled(ws, noise, seed, batch)
        parts = []
        with self.game.evaluating():
            for first in range(0, len(ws), batch or 64):
                rows = slice(first, first + (batch or 64))
                given = {name: x if len(x) == 1 else x[rows] for name, x in noise.items()}
                parts.append(self.synthesise(ws[rows], given))
        return torch.cat(parts).clamp(-1, 1)

    def _sampled(self, ws: Tensor, noise: str, seed: int, batch: int | None) -> Tensor:
        if noise not in NOISES:
            raise unknown("noise", noise, NOISES)
        made: Tensor = self.game.sample(len(ws), seed, w=ws, noise=noise, **_kept(batch=batch))
        return made


class Styles1(StyleSpace):
    """StyleGAN: two layers a resolution; those above the level that training has reached are not read."""

    def __init__(self, game: Game) -> None:
        super().__init__(game)
        generator = self.game.generator
        self.layers, self.size = int(generator.synthesis.layers), len(generator.w_avg)

    def styles(self, z: Tensor, label: list[int] | None = None) -> Tensor:
        made: Tensor = self.game.draw_styles(len(z), z=z, label=label)
        return made

    @property
    def average(self) -> Tensor:
        mean: Tensor = self.game.generator.w_avg
        return mean

    def synthesise(self, ws: Tensor, noise: Maps | None = None, label: list[int] | None = None) -> Tensor:
        from saddlepoint.layers.growing import enlarged

        generator = self.game.generator
        given = None if noise is None else lambda layer, side: noise[f"noise{layer}"]
        images = generator.synthesis.at(generator.level(), ws, given)
        made: Tensor = enlarged(images, self.game.recipe.resolution)
        return made

    def noise_shapes(self) -> dict[str, tuple[int, int]]:
        synthesis = self.game.generator.synthesis
        names = [f"noise{i}" for i in range(self.layers)] if synthesis.uses_noise else []
        return {name: tuple(synthesis.get_buffer(name).shape[-2:]) for name in names}

    def affines(self) -> list[tuple[int, Tensor]]:
        from saddlepoint.layers.growing import index_of

        generator = self.game.generator
        grown = generator.synthesis.blocks[: index_of(generator.level().resolution) + 1]
        return list(enumerate(_scaled(layer.style) for block in grown for layer in block.layers))


class Styles2(StyleSpace):
    """StyleGAN2: the image's layer of a resolution shares its style with the next convolution."""

    def __init__(self, game: Game) -> None:
        super().__init__(game)
        mapping = self.game.generator.mapping
        self.layers, self.size = int(mapping.copies), len(mapping.average)

    def styles(self, z: Tensor, label: list[int] | None = None) -> Tensor:
        made: Tensor = self.game.mapped(len(z), z=z, label=label)
        return made

    @property
    def average(self) -> Tensor:
        mean: Tensor = self.game.generator.mapping.average
        return mean

    def synthesise(self, ws: Tensor, noise: Maps | None = None, label: list[int] | None = None) -> Tensor:
        given: Any = "const" if noise is None else (lambda name, *shape: noise[name])
        made: Tensor = self.game.generator.synthesis(ws, noise=given)
        return made

    def _convolutions(self) -> list[Any]:
        blocks = self.game.generator.synthesis.each()
        return [conv for block in blocks for conv in (block.conv0, block.conv1) if conv is not None]

    def noise_shapes(self) -> dict[str, tuple[int, int]]:
        return {conv.name: conv.size for conv in self._convolutions() if conv.noise_strength is not None}

    def affines(self) -> list[tuple[int, Tensor]]:
        return [(index, _scaled(conv.affine)) for index, conv in enumerate(self._convolutions())]


class Styles3(Styles2):
    """StyleGAN3: the first style places the input, the others are the layers'; no noise."""

    def synthesise(self, ws: Tensor, noise: Maps | None = None, label: list[int] | None = None) -> Tensor:
        made: Tensor = self.game.generator.synthesis(ws)
        return made

    def _sampled(self, ws: Tensor, noise: str, seed: int, batch: int | None) -> Tensor:
        if noise != "const":
            raise UserError("stylegan3 has no noise inputs: leave noise out.")
        made: Tensor = self.game.sample(len(ws), w=ws, **_kept(batch=batch))
        return made

    def noise_shapes(self) -> dict[str, tuple[int, int]]:
        return {}

    def affines(self) -> list[tuple[int, Tensor]]:
        synthesis = self.game.generator.synthesis
        readers = [synthesis.input, *synthesis.layers.values()]
        return [(index, _scaled(reader.affine)) for index, reader in enumerate(readers)]


def space(source: Any) -> Space:
    """The editing space of a run or a game. UserError where there are no latents."""
    if isinstance(source, Space):
        return source
    game = source if isinstance(source, Game) else source.game
    from saddlepoint.systems.stylegan1 import StyleGAN1
    from saddlepoint.systems.stylegan2 import StyleGAN2
    from saddlepoint.systems.stylegan3 import StyleGAN3

    kinds: list[tuple[type, type[Space]]] = [(StyleGAN3, Styles3), (StyleGAN2, Styles2), (StyleGAN1, Styles1)]
    return next((made for kind, made in kinds if isinstance(game, kind)), Space)(game)


def _scaled(dense: Any) -> Tensor:
    """The matrix of an equalised dense layer as it is used."""
    weight: Tensor = dense.weight.detach() * dense.scale
    return weight


def _kept(**given: Any) -> dict[str, Any]:
    """What was given: the system's own default stays for the rest, so that images equal those of `game.sample`."""
    return {name: value for name, value in given.items() if value is not None}


def _same(a: Tensor, b: Tensor) -> bool:
    return a.shape == b.shape and torch.allclose(a.clamp(-1, 1), b, atol=1e-5)
