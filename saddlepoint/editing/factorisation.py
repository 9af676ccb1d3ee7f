"""Directions in w along which an image changes in one respect.

Closed-form factorisation (Shen and Zhou 2021, arXiv:2007.06600): what a layer makes of w is an affine map, y = A w + b,
so moving by n changes y by A n whatever w is; the n of length one that change it most are the eigenvectors of A^T A
with the largest eigenvalues. From labels (Shen et al. 2020, arXiv:1907.10786): the normal of the hyperplane between w
of images with a property and w of images without it.

A direction is a unit vector with the standard deviation of w along it, so that strength 3 means three of those in every
network; both are kept by content in a file of directions and in every picture's recipe.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from saddlepoint.editing.recipes import Edit
from saddlepoint.editing.spaces import Layers, Space
from saddlepoint.editing.tasks import where
from saddlepoint.errors import UserError, unknown

METHODS = ("factorise", "labels", "attribute")
# Of the support vector machine. Strong regularisation: with 0.1 a thousand noisy labels are fitted by a normal along
# which w hardly varies, so that images hardly change however far they are moved.
SVM_C = 3e-4
Judge = Callable[[Tensor], Tensor]  # images [n, C, H, W] -> a number each


@dataclass(frozen=True, eq=False)
class Direction:
    """A unit vector [size], the deviation of w along it, its layers, and how it was found.

    value: the eigenvalue, or the accuracy on latents that the hyperplane was not fitted to.
    """

    name: str
    vector: Tensor
    deviation: float
    layers: tuple[int, ...]
    value: float
    method: str

    def at(self, strength: float = 1.0, layers: tuple[int, ...] | None = None) -> Edit:
        """The edit that moves by so many deviations, in other layers if they are given."""
        return Edit(self.name, self.vector, self.layers if layers is None else layers, strength, self.deviation)


def directions(
    source: Any,
    method: str = "factorise",
    *,
    count: int = 5,
    layers: Layers = "all",
    normalised: bool = True,
    labels: Tensor | Judge | None = None,
    names: Sequence[str] = (),
    attribute: str | Judge = "brightness",
    samples: int = 1000,
    seed: int = 0,
) -> list[Direction]:
    """Directions of a run or game.

    method: "factorise" gives the first `count` of the matrices of these layers; "labels" one for each class, from class
    numbers [samples] of the seed's images or a function that judges images (for a run's own classes: `by_classifier`);
    "attribute" one, between the upper and the lower third of a number that is measured on images (see ATTRIBUTES).
    """
    at = where(source)
    chosen = at.layers_of(layers)
    if method not in METHODS:
        raise unknown("method", method, METHODS)
    ws = _drawn(at, samples, seed)
    if method == "factorise":
        return factorised(at, chosen, count, ws, normalised=normalised)
    if method == "attribute":
        judge = attribute if callable(attribute) else ATTRIBUTES.get(attribute)
        if judge is None:
            raise unknown("attribute", str(attribute), ATTRIBUTES)
        name = attribute if isinstance(attribute, str) else "attribute"
        values = _judged(at, ws, judge)
        low, high = values.quantile(1 / 3), values.quantile(2 / 3)
        kept = (values <= low) | (values >= high)
        return [supervised(ws[kept], values[kept] >= high, name=name, layers=chosen, spread=ws)]
    if labels is None:
        raise UserError("method 'labels' takes labels: class numbers of the images, or a function that judges images.")
    found = (labels if isinstance(labels, Tensor) else _judged(at, ws, labels)).long()
    if found.shape != (len(ws),):
        raise UserError(f"{len(found)} labels for {len(ws)} latents; expected one each.")
    classes = [int(y) for y in found.unique() if 5 <= int((found == y).sum()) <= len(found) - 5]
    if not classes:
        raise UserError("the labels do not tell the images apart: no class has 5 images within and 5 outside.")
    called = {y: names[y] if y < len(names) else f"class {y}" for y in classes}
    return [supervised(ws, found == y, name=called[y], layers=chosen) for y in classes]


# ---- closed form
def factorised(
    at: Space, layers: Sequence[int], count: int, ws: Tensor | None = None, *, normalised: bool = True
) -> list[Direction]:
    """The first eigenvectors of A^T A, A the matrices of these layers one below the other.

    normalised: rows of length one, as in the official code (arXiv:2007.06600 has none of it); layers then weigh by
    their number of channels. The sign is free: here the largest component is positive. UserError where `count` is not
    in 1 to size or the layers have no matrix.
    """
    matrices = [weight.double() for layer, weight in at.affines() if layer in set(layers)]
    if not matrices:
        raise UserError(f"no matrix reads the styles of layers {list(layers)}: choose others.")
    if not 1 <= count <= at.size:
        raise UserError(f"count is {count}; expected 1 to {at.size} directions.")
    A = torch.cat(matrices).cpu()
    if normalised:
        A = A / A.norm(dim=1, keepdim=True).clamp_min(1e-12)
    values, vectors = torch.linalg.eigh(A.t() @ A)
    ws = _drawn(at, 1000, 0) if ws is None else ws
    found = []
    for index in range(count):
        n = vectors[:, -1 - index]
        n = (n * torch.sign(n[n.abs().argmax()])).float()
        name, value = f"sefa {index}", float(values[-1 - index])
        found.append(Direction(name, n, _deviation(ws, n), tuple(layers), value, "factorise"))
    return found


# ---- from labels
def supervised(
    ws: Tensor, positive: Tensor, *, name: str, layers: Sequence[int], spread: Tensor | None = None
) -> Direction:
    """The normal of the hyperplane between ws [n, size] with and without a property (bool [n]), towards those with it.

    A linear support vector machine, as in arXiv:1907.10786; on coordinates divided by their deviation, since w's differ
    in scale, and both classes weigh the same. Every fifth w is held out, `value` is the share of both classes that is
    told rightly there. spread: the w whose deviation counts (default: these).
    """
    from sklearn.svm import LinearSVC

    x, y = ws.detach().double().cpu(), positive.cpu().bool()
    scale = x.std(0).clamp_min(1e-12)
    held = torch.arange(len(x)) % 5 == 4
    if y[~held].all() or not y[~held].any():
        raise UserError(f"{name}: all images are on one side, so there is no direction to it.")
    machine = LinearSVC(C=SVM_C, dual=False, class_weight="balanced", max_iter=5000)
    machine.fit(((x - x.mean(0)) / scale)[~held].numpy(), y[~held].numpy())
    n = torch.from_numpy(machine.coef_[0]) / scale
    n = (n / n.norm()).float()
    told = torch.from_numpy(machine.predict(((x - x.mean(0)) / scale)[held].numpy()))
    right = [
        float((told == y[held])[y[held] == side].double().mean()) for side in (True, False) if (y[held] == side).any()
    ]
    value = sum(right) / len(right) if right else float("nan")
    return Direction(name, n, _deviation(ws if spread is None else spread, n), tuple(layers), value, "labels")


def by_classifier(data: Any) -> tuple[Judge, tuple[str, ...]]:
    """A judge that names the class of images, and the classes' names: the classifier of a labelled set."""
    from saddlepoint.data import describe
    from saddlepoint.metrics.classifier import classifier

    found = classifier(data)

    def judge(images: Tensor) -> Tensor:
        with torch.no_grad():
            return found.network.logits(found.network(found.prepared(images.cpu()))).argmax(1)

    try:
        names = tuple(describe(data).label_names)
    except (UserError, AttributeError):
        names = ()
    return judge, names


def _brightness(images: Tensor) -> Tensor:
    return images.mean((1, 2, 3))


def _contrast(images: Tensor) -> Tensor:
    return images.mean(1).flatten(1).std(1)


def _symmetry(images: Tensor) -> Tensor:
    return -(images - images.flip(3)).abs().mean((1, 2, 3))


def _width(images: Tensor) -> Tensor:
    """Spread of the bright pixels from left to right, in image widths."""
    mass = (images.mean(1) + 1).clamp_min(0).sum(1)  # [n, W]
    share = mass / mass.sum(1, keepdim=True).clamp_min(1e-6)
    x = torch.linspace(-0.5, 0.5, images.shape[3], device=images.device)
    mean = (share * x).sum(1, keepdim=True)
    return (share * (x - mean).square()).sum(1).sqrt()


ATTRIBUTES: dict[str, Judge] = {
    "brightness": _brightness,
    "contrast": _contrast,
    "symmetry": _symmetry,
    "width": _width,
}


def _drawn(at: Space, samples: int, seed: int) -> Tensor:
    """w [samples, size] of a seed's latents (classes in turn where the system has them)."""
    if samples < 10:
        raise UserError(f"samples is {samples}; expected 10 or more.")
    z = at.game.draw_latents(samples, seed)
    return at.styles(z, [i % at.classes for i in range(samples)] if at.classes else None)[:, 0]


def _judged(at: Space, ws: Tensor, judge: Judge) -> Tensor:
    parts = []
    for first in range(0, len(ws), 64):
        part = ws[first : first + 64].unsqueeze(1).expand(-1, at.layers, -1)
        label = [i % at.classes for i in range(first, first + len(part))] if at.classes else None
        parts.append(judge(at.images(part, label=label)).detach().cpu())
    return torch.cat(parts)


def _deviation(ws: Tensor, n: Tensor) -> float:
    return float((ws.detach().double().cpu() @ n.double()).std())


# ---- files
def save_directions(found: Sequence[Direction], path: str | Path) -> Path:
    """Write directions as safetensors: vectors [n, size], the rest in its metadata."""
    from safetensors.torch import save

    from saddlepoint.runs import write_bytes

    path = Path(path).expanduser()
    about = [{"name": d.name, "deviation": d.deviation, "layers": d.layers, "value": d.value, "method": d.method}
             for d in found]  # fmt: skip
    path.parent.mkdir(parents=True, exist_ok=True)
    write_bytes(path, save({"vectors": torch.stack([d.vector for d in found])}, {"directions": json.dumps(about)}))
    return path


def load_directions(path: str | Path) -> list[Direction]:
    """Directions from a file of `save_directions`. UserError for anything else."""
    from safetensors import SafetensorError, safe_open

    path = Path(path).expanduser()
    if not path.is_file():
        raise UserError(f"there is no file of directions at {path}.")
    try:
        with safe_open(path, "pt") as file:
            about, vectors = json.loads((file.metadata() or {})["directions"]), file.get_tensor("vectors")
        return [
            Direction(str(a["name"]), v, float(a["deviation"]), tuple(int(x) for x in a["layers"]), float(a["value"]),
                      str(a["method"]))
            for a, v in zip(about, vectors, strict=True)
        ]  # fmt: skip
    except (SafetensorError, OSError, KeyError, ValueError, TypeError) as error:
        raise UserError(f"{path} is not a file of directions ({error}).") from error


def named(found: Sequence[Direction], word: str) -> Direction:
    """The direction of this name or number."""
    if word.isdigit() and int(word) < len(found):
        return found[int(word)]
    by_name = {d.name: d for d in found}
    if word not in by_name:
        raise unknown("direction", word, [*by_name, *map(str, range(len(found)))])
    return by_name[word]
