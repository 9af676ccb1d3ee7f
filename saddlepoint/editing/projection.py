"""Projection: the latent whose image is closest to a given one.

The projector of StyleGAN2 (Karras et al. 2020, arXiv:1912.04958, appendix D): from the mean of w, Adam on w and on all
noise images, w perturbed by noise that dies out, a perceptual distance, and a penalty that keeps noise images noise:

    sum over noise images and their halvings down to 8x8 of (E n_xy n_(x-1)y)^2 + (E n_xy n_x(y-1))^2

W is one w for all layers; W+ (Abdal et al. 2019, arXiv:1904.03189) one for each, which comes closer to any image and
leaves what the generator has learned. Systems without a mapping network are projected to z, from the best of some
draws.
The official distance is LPIPS on VGG16; without its weights another one stands in, and is named in the result.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor

from saddlepoint.editing.recipes import Picture, PictureRecipe, make
from saddlepoint.editing.spaces import Space
from saddlepoint.editing.tasks import where
from saddlepoint.errors import UserError, unknown
from saddlepoint.game import keyed_generator

Distance: TypeAlias = Callable[[Tensor, Tensor], Tensor]  # two batches of images -> [n]
Told: TypeAlias = Callable[[int, int, float], None]  # (step, steps, mean distance)
Watch: TypeAlias = Callable[[int, Tensor], None]  # (step, w [n, layers or 1, size])
SPACES = ("w", "w+", "z")
LARGEST = 256  # images are reduced to this side before they are compared


@dataclass(frozen=True, eq=False)
class Projection:
    """What was found for n targets.

    w: [n, layers or 1, size], z of systems without w. noise: layer -> [n, 1, H, W], empty where it was not optimised.
    images: [n, C, H, W]. distances: [steps, n], of the perturbed w; final: [n], of the images. errors: [steps, n],
    |w - known| in deviations of w, where the truth was given. distance: the name of what was measured.
    """

    w: Tensor
    noise: dict[str, Tensor]
    images: Tensor
    targets: Tensor
    distances: Tensor
    final: Tensor
    errors: Tensor | None
    space: str
    distance: str
    label: tuple[int, ...]
    seconds: float

    def recipe(self, *, beside: bool = True, **more: Any) -> PictureRecipe:
        """The recipe of the images found, w and noise by content; more: fields of `PictureRecipe`, such as edits.

        beside: put each target first in its row.
        """
        from saddlepoint.pictures import to_uint8

        first = torch.from_numpy(to_uint8(self.targets)) if beside else None
        return PictureRecipe(
            w=None if self.space == "z" else self.w, z=self.w[:, 0] if self.space == "z" else None, label=self.label,
            noise=self.noise or "const", beside=first, **more,
        )  # fmt: skip

    def picture(self, source: Any, **more: Any) -> Picture:
        """Targets and what was found, side by side."""
        return make(source, self.recipe(**more))

    def facts(self) -> dict[str, Any]:
        """Plain values: what was measured."""
        return {
            "space": self.space, "distance": self.distance, "steps": len(self.distances), "seconds": self.seconds,
            "label": self.label, "final": self.final.tolist(), "distances": self.distances.tolist(),
            "errors": None if self.errors is None else self.errors.tolist(),
        }  # fmt: skip

    def save(self, path: str | Path) -> Path:
        """Write w, noise, targets and what was measured as safetensors."""
        from safetensors.torch import save

        from saddlepoint.runs import write_bytes

        path = Path(path).expanduser()
        path.parent.mkdir(parents=True, exist_ok=True)
        tensors = {"w": self.w, "images": self.images, "targets": self.targets}
        tensors |= {f"noise/{name}": x for name, x in self.noise.items()}
        content = {name: x.detach().cpu().contiguous().clone() for name, x in tensors.items()}
        write_bytes(path, save(content, {"projection": json.dumps(self.facts())}))
        return path


def load_projection(path: str | Path) -> Projection:
    """A projection from its file. UserError for anything else."""
    from safetensors import SafetensorError, safe_open

    path = Path(path).expanduser()
    if not path.is_file():
        raise UserError(f"there is no projection at {path}.")
    try:
        with safe_open(path, "pt") as file:
            facts = json.loads((file.metadata() or {})["projection"])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no mapping)
        noise = {name.removeprefix("noise/"): x for name, x in tensors.items() if name.startswith("noise/")}
        errors = None if facts["errors"] is None else torch.tensor(facts["errors"])
        return Projection(
            tensors["w"], noise, tensors["images"], tensors["targets"], torch.tensor(facts["distances"]),
            torch.tensor(facts["final"]), errors, str(facts["space"]), str(facts["distance"]),
            tuple(int(y) for y in facts["label"]), float(facts["seconds"]),
        )  # fmt: skip
    except (SafetensorError, OSError, KeyError, ValueError, TypeError) as error:
        raise UserError(f"{path} is not a projection ({error}).") from error


# ---- the pieces
def learning_rate(t: float, rate: float = 0.1) -> float:
    """Of step t in [0, 1): up over the first twentieth, a cosine down over the last quarter."""
    down = 0.5 - 0.5 * math.cos(math.pi * min(1.0, (1 - t) / 0.25))
    return rate * down * min(1.0, t / 0.05)


def perturbation(t: float, deviation: float) -> float:
    """Deviation of the noise on w at t in [0, 1): a twentieth of w's own, gone after three quarters."""
    return 0.05 * deviation * max(0.0, 1 - t / 0.75) ** 2


def noise_penalty(maps: Sequence[Tensor]) -> Tensor:
    """Squared correlation of noise images [n, 1, H, W] with themselves shifted by a pixel, over their pyramids, [n]."""
    total = maps[0].new_zeros(len(maps[0])) if maps else torch.zeros(1)
    for noise in maps:
        x = noise
        while True:
            for axis in (3, 2):
                total = total + (x * x.roll(1, axis)).mean((1, 2, 3)).square()
            if min(x.shape[2:]) <= 8:
                break
            x = F.avg_pool2d(x, 2)
    return total


def normalised(noise: Tensor) -> Tensor:
    """Each image brought to mean 0 and mean square 1."""
    x = noise - noise.mean((2, 3), keepdim=True)
    return x * x.square().mean((2, 3), keepdim=True).clamp_min(1e-12).rsqrt()


def reduced(images: Tensor) -> Tensor:
    """Images above 256 pixels reduced to them by areas, as before the official distance."""
    side = max(images.shape[-2:])
    if side <= LARGEST:
        return images
    return F.interpolate(images, [max(1, n * LARGEST // side) for n in images.shape[-2:]], mode="area")


def default_distance(channels: int) -> str:
    """The perceptual distance that needs no download: EfficientNet-Lite0 in colour where its package is installed,
    else Laplacian pyramids.
    """
    import importlib.util

    from saddlepoint.metrics import lite

    return "lite0" if channels == 3 and importlib.util.find_spec(lite.PACKAGE) is not None else "multiscale"


# ---- projection
def project(
    source: Any,
    targets: Tensor,
    space: str = "",
    *,
    steps: int = 1000,
    distance: str | Distance = "auto",
    noise: bool = True,
    rate: float = 0.1,
    noise_weight: float = 1e5,
    samples: int = 10_000,
    label: Sequence[int] | int = (),
    known: Tensor | None = None,
    seed: int = 0,
    progress: Told | None = None,
    watch: Watch | None = None,
) -> Projection:
    """The latents of images: targets [n, C, H, W] or [C, H, W] in [-1, 1], n at once, each as if it were alone.

    space: "w" (the default of systems that have one), "w+", or "z" (the others'). distance: a name of
    `metrics.perceptual` or a function of two batches; "auto" the one that needs no download. noise: optimise the noise
    images too. known [n, size]: the true w, to measure how far it is. progress: called after each step. watch: is
    shown w before each.
    UserError for targets of another shape, and for spaces that the system does not have.
    """
    at = where(source)
    targets = _targets(at, targets)
    space = space or ("w" if at.mapped else "z")
    _refuse(at, space, steps, label)
    named, measure = _distance(distance, targets.shape[1], at.device)
    labels = [label] if isinstance(label, int) else list(label)
    classes = [labels[i % len(labels)] for i in range(len(targets))] if labels else None
    began = time.perf_counter()
    mean, deviation = _statistics(at, samples, seed, classes)
    search = _Search(at, targets, space, measure, classes, seed)
    search.begin(mean, noise)
    found, errors = search.run(steps, deviation, rate, noise_weight, known, progress, watch)
    w = search.w.detach()
    maps = {name: x.detach() for name, x in search.noise.items()}
    ws = w.expand(-1, at.layers, -1)
    images = at.images(ws, label=classes, noise=maps or "const")
    with torch.no_grad():
        final = measure(reduced(images), reduced(targets)).float().cpu()
    return Projection(
        w, maps, images, targets, found, final, errors, space, named, tuple(classes or ()),
        time.perf_counter() - began,
    )  # fmt: skip


class _Search:
    """The state of an optimisation: w and the noise images."""

    def __init__(
        self, at: Space, targets: Tensor, space: str, measure: Distance, classes: list[int] | None, seed: int
    ) -> None:
        self.at, self.targets, self.space, self.measure = at, reduced(targets), space, measure
        self.classes, self.seed = classes, seed
        self.noise: dict[str, Tensor] = {}
        prior = getattr(at.game, "prior", None)
        self.bound = prior.bound if not at.mapped and prior is not None and prior.kind == "uniform" else math.inf

    def normal(self, *shape: int, key: object) -> Tensor:
        """The same numbers for each target, so that it does not matter which others are projected with it."""
        generator = keyed_generator(self.at.device, "projection", self.seed, key)
        return torch.randn(shape, generator=generator, device=self.at.device).to(self.at.dtype)

    def begin(self, mean: Tensor, noise: bool) -> None:
        n, at = len(self.targets), self.at
        copies = at.layers if self.space == "w+" else 1
        first = mean.expand(n, -1) if at.mapped else self.best()
        self.w = first[:, None].repeat(1, copies, 1).detach().requires_grad_(True)
        for name, (height, width) in at.noise_shapes().items() if noise else ():
            start = self.normal(1, 1, height, width, key=name)
            self.noise[name] = start.repeat(n, 1, 1, 1).requires_grad_(True)

    def best(self, draws: int = 128) -> Tensor:
        """The drawn z whose image is closest to each target, [n, latent]: from 0 a network without w goes nowhere."""
        z = self.at.game.draw_latents(draws, self.seed)
        found = []
        with torch.no_grad():
            for i, target in enumerate(self.targets):
                label = [self.classes[i]] * draws if self.classes else None
                images = reduced(self.at.images(z.unsqueeze(1), label=label))
                parts = [self.measure(x, target.expand_as(x)) for x in images.split(32)]
                found.append(z[torch.cat(parts).argmin()])
        return torch.stack(found)

    def run(
        self,
        steps: int,
        deviation: float,
        rate: float,
        weight: float,
        known: Tensor | None,
        progress: Told | None,
        watch: Watch | None = None,
    ) -> tuple[Tensor, Tensor | None]:
        """Distances and errors of each step, [steps, n]."""
        variables = [self.w, *self.noise.values()]
        adam = torch.optim.Adam(variables, lr=rate, betas=(0.9, 0.999))
        found, errors = [], []
        with self.at.differentiable():
            for step in range(steps):
                t = step / steps
                for group in adam.param_groups:
                    group["lr"] = learning_rate(t, rate)
                shake = perturbation(t, deviation) * self.normal(1, *self.w.shape[1:], key=step)
                distances = self.measure(self.images(self.w + shake), self.targets)
                loss = distances.sum()
                if self.noise:
                    loss = loss + weight * noise_penalty(list(self.noise.values())).sum()
                for variable, slope in zip(variables, torch.autograd.grad(loss, variables), strict=True):
                    variable.grad = slope
                found.append(distances.detach().float().cpu())
                if watch:
                    watch(step, self.w.detach().clone())
                if known is not None:
                    errors.append(self.error(known, deviation))
                adam.step()
                self.project()
                if progress:
                    progress(step + 1, steps, float(found[-1].mean()))
        return torch.stack(found), torch.stack(errors) if errors else None

    def images(self, w: Tensor) -> Tensor:
        ws = w.expand(-1, self.at.layers, -1)
        return reduced(self.at.synthesise(ws, self.noise or None, self.classes))

    def project(self) -> None:
        """Noise images stay normalised; z of a uniform prior stays in its cube."""
        with torch.no_grad():
            for x in self.noise.values():
                x.copy_(normalised(x))
            if math.isfinite(self.bound):
                self.w.clamp_(-self.bound, self.bound)

    def error(self, known: Tensor, deviation: float) -> Tensor:
        away = self.w.detach() - known.to(self.w)[:, None]  # [n, copies, size]
        return (away.norm(dim=2).mean(1) / max(deviation, 1e-12)).float().cpu()


def _statistics(at: Space, samples: int, seed: int, classes: list[int] | None) -> tuple[Tensor, float]:
    """Mean of w [size] over so many latents and sqrt(E |w - mean|^2); of z where there is no w."""
    if samples < 2:
        raise UserError(f"samples is {samples}; expected 2 or more.")
    z = at.game.draw_latents(samples, seed)
    label = [classes[i % len(classes)] if classes else i % at.classes for i in range(samples)] if at.classes else None
    w = torch.cat([
        at.styles(z[first : first + 1024], label[first : first + 1024] if label else None)[:, 0]
        for first in range(0, samples, 1024)
    ]) if at.mapped else z  # fmt: skip
    mean = w.mean(0)
    return mean, float((w - mean).square().sum(1).mean().sqrt())


def _targets(at: Space, targets: Tensor) -> Tensor:
    targets = targets if targets.ndim == 4 else targets.unsqueeze(0)
    recipe = at.game.recipe
    height, width = getattr(recipe, "shape", (recipe.resolution, recipe.resolution))
    wanted = (recipe.channels, height, width)
    if targets.ndim != 4 or tuple(targets.shape[1:]) != wanted or not len(targets):
        raise UserError(f"targets are {list(targets.shape)}; expected [n, {', '.join(map(str, wanted))}] in [-1, 1].")
    return targets.detach().to(at.device, at.dtype)


def _refuse(at: Space, space: str, steps: int, label: Sequence[int] | int) -> None:
    if space not in SPACES:
        raise unknown("space", space, SPACES)
    if (space == "z") == at.mapped:
        near = "w or w+" if at.mapped else "z"
        raise UserError(f"{at.system} is projected to {near}, not to {space!r}.")
    if steps < 1:
        raise UserError(f"steps is {steps}; expected 1 or more.")
    labels = [label] if isinstance(label, int) else list(label)
    wrong = [y for y in labels if not 0 <= y < at.classes]
    if wrong:
        known = f"the classes are 0 to {at.classes - 1}" if at.classes else "this one knows no classes"
        raise UserError(f"there is no class {wrong[0]}: {known}.")
    if at.classes and not at.mapped and not labels:
        raise UserError(f"this {at.system} is conditional: give the class of the image as label.")


def _distance(distance: str | Distance, channels: int, device: torch.device) -> tuple[str, Distance]:
    if not isinstance(distance, str):
        return str(getattr(distance, "name", "given")), distance
    from saddlepoint.metrics.perceptual import perceptual

    name = default_distance(channels) if distance == "auto" else distance
    made = perceptual(name, device=device)
    return str(getattr(made, "identity", name)), made


def read_target(path: str | Path, height: int, width: int, channels: int) -> Tensor:
    """A picture file as a target [C, H, W] in [-1, 1]: its middle in the wanted shape, resized by Lanczos."""
    import numpy as np
    from PIL import Image, ImageOps

    path = Path(path).expanduser()
    try:
        with Image.open(path) as image:
            whole = ImageOps.exif_transpose(image).convert("L" if channels == 1 else "RGB")
    except FileNotFoundError as error:
        raise UserError(f"there is no picture at {path}.") from error
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise UserError(f"{path} is not a picture that can be read ({error}).") from error
    if whole.size != (width, height):
        whole = ImageOps.fit(whole, (width, height), Image.Resampling.LANCZOS)
    array = np.asarray(whole, np.float32).reshape(height, width, channels)
    return torch.from_numpy(array / 127.5 - 1).permute(2, 0, 1).contiguous()
