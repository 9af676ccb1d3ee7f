"""How well made pictures show what their label maps say: the protocol of pix2pixHD and SPADE, with a small segmenter.

A network that finds the classes of every pixel is trained on real pictures of the training part, then looks at made
pictures; its answer is compared with the maps that they were made from (Wang et al. 2018, arXiv:1711.11585, section
4.1; Park et al. 2019, arXiv:1903.07291, section 4). The papers take large published segmenters, which know street
scenes and COCO; here a small U-Net is trained for the set at hand in about a minute of one core and kept in the cache.

It makes mistakes on real pictures too, and some classes cannot be seen in a picture at all. So no score stands alone:
beside it are what real held-out pictures of the same maps get (the ceiling), what real pictures of other maps get (the
floor), and the segmenter's accuracy on real pictures that it was not trained on.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from saddlepoint.errors import UserError
from saddlepoint.metrics.classifier import Labelled, Progress, _initial, has_bfloat16
from saddlepoint.metrics.foreign import fingerprint
from saddlepoint.metrics.resize import to_channels

if TYPE_CHECKING:
    from saddlepoint.data.options import Resolution
    from saddlepoint.data.paired import ItemSet, Layout

CODE = 1  # raised when the same data and seed would give another segmenter
WIDTHS = (24, 40, 56)
LARGEST = 128  # sides; larger pictures are reduced
BATCH, LEARNING_RATE, DECAY = 16, 4e-3, 0.02
PIXELS = 50_000_000  # seen in training: 12,000 pictures of 64x64
HELD_OUT = 10  # one picture in so many, where a set has no held-out part
Ids = NDArray[np.int64]
Scores = dict[str, Any]


# ---- the network
class Block(nn.Module):
    """Two 3x3 convolutions with batch norm and ReLU."""

    def __init__(self, given: int, width: int) -> None:
        super().__init__()
        self.first, self.second = (nn.Conv2d(n, width, 3, padding=1, bias=False) for n in (given, width))
        self.norms = nn.ModuleList(nn.BatchNorm2d(width) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.norms[0](self.first(x)))
        return F.relu(self.norms[1](self.second(x)))


class SmallUNet(nn.Module):
    """Pictures [N, C, H, W] in [-1, 1] -> logits [N, classes, H, W]; H and W are multiples of 8.

    It works on blocks of 2x2 pixels, halves twice, and comes back with skips: 40 million multiplications at 64x64.
    """

    def __init__(self, channels: int, classes: int, widths: tuple[int, int, int] = WIDTHS) -> None:
        super().__init__()
        a, b, c = widths
        self.down = nn.ModuleList([Block(4 * channels, a), Block(a, b), Block(b, c)])
        self.up = nn.ModuleList([Block(c + b, b), Block(b + a, a)])
        self.output = nn.Conv2d(a, 4 * classes, 1)

    def forward(self, x: Tensor) -> Tensor:
        fine = self.down[0](F.pixel_unshuffle(x, 2))
        middle = self.down[1](F.max_pool2d(fine, 2))
        coarse = self.down[2](F.max_pool2d(middle, 2))
        middle = self.up[0](torch.cat([F.interpolate(coarse, scale_factor=2.0), middle], 1))
        fine = self.up[1](torch.cat([F.interpolate(middle, scale_factor=2.0), fine], 1))
        return F.pixel_shuffle(self.output(fine), 2)


@dataclass(frozen=True)
class Segmenter:
    """A trained network and what is known about it. on_real: its `scores` on pictures that it was not trained on."""

    network: SmallUNet
    identity: str
    data: str
    names: tuple[str, ...]
    channels: int
    shape: tuple[int, int]
    trained_on: int
    held_out: int
    held_out_is: str
    on_real: Scores

    @torch.no_grad()
    def classify(self, images: Tensor, batch: int = 64) -> Tensor:
        """The class of every pixel, int64 [N, H, W], on the CPU, of pictures [N, C, H, W] in [-1, 1] of any size."""
        found = []
        for part in images.split(batch):
            x = _sized(to_channels(part.float().cpu(), self.channels), self.shape)
            logits = self.network(x.contiguous(memory_format=torch.channels_last)).float()
            if logits.shape[-2:] != images.shape[-2:]:
                logits = F.interpolate(logits, tuple(images.shape[-2:]), mode="bilinear")
            found.append(logits.argmax(1))
        return torch.cat(found)

    def facts(self) -> dict[str, Any]:
        """For the provenance of a score: who judged, and how well it knows real pictures."""
        names = ("identity", "data", "trained_on", "held_out", "held_out_is")
        real = {name: self.on_real[name] for name in ("accuracy", "miou")}
        return {name: getattr(self, name) for name in names} | real


def _sized(x: Tensor, shape: tuple[int, int]) -> Tensor:
    """Pictures brought to `shape`, averaged where they shrink."""
    if tuple(x.shape[-2:]) == shape:
        return x
    return F.interpolate(x, shape, mode="bilinear", antialias=True)


# ---- scores
def scores(true: Tensor | NDArray[Any], found: Tensor | NDArray[Any], names: Sequence[str]) -> Scores:
    """{"miou", "accuracy", "iou": {name: ...}} of ids `found` against `true`, both [..., H, W].

    Over all pixels of all pictures whose true id is a class (0 ... len(names) - 1): accuracy is the share that is
    right, the IoU of a class is hits / (hits + missed + wrongly found). Classes that are in neither are in no mean.
    Raises UserError for different shapes and where no pixel has a class.
    """
    a, b = (np.asarray(ids.cpu() if isinstance(ids, Tensor) else ids).astype(np.int64) for ids in (true, found))
    if a.shape != b.shape:
        raise UserError(f"true ids are {a.shape}, found ones {b.shape}; expected the same shape.")
    count = len(names)
    counted = (a >= 0) & (a < count)
    if not counted.any():
        raise UserError(f"no pixel has a class: the true ids are not among 0 to {count - 1}.")
    a, b = a[counted], b[counted]
    b = np.where((b >= 0) & (b < count), b, count)  # an answer that is no class is only wrong
    table = np.bincount(a * (count + 1) + b, minlength=count * (count + 1)).reshape(count, count + 1)
    hits = np.diag(table[:, :count]).astype(np.float64)
    union = table.sum(1) + table[:, :count].sum(0) - hits
    iou = {name: float(h / u) for name, h, u in zip(names, hits, union, strict=True) if u > 0}
    return {"miou": float(np.mean(list(iou.values()))), "accuracy": float(hits.sum() / len(a)), "iou": iou}


def judged(
    spec: str | Layout,
    pictures: Tensor,
    labels: Tensor,
    *,
    real: Tensor | None = None,
    seed: int = 0,
    progress: Progress | None = None,
    **options: Any,
) -> dict[str, Any]:
    """What the segmenter of a set says of pictures [N, C, H, W] made from `labels` [N, H, W].

    real: the true pictures of the same maps; without, those of the set's held-out part, with their own maps. Returns
    {"output", "ceiling", "floor", "segmenter"}: `scores` of the pictures, of real ones, of real ones of other maps, and
    what is known about the segmenter. options: of `segmenter`.
    """
    size = int(labels.shape[-2]), int(labels.shape[-1])
    judge = segmenter(spec, size, seed=seed, progress=progress, **options)
    maps = labels
    if real is None:
        held = _parts(spec, size, judge.channels, options)[1]
        real, maps = torch.from_numpy(held.pixels()), torch.from_numpy(held.labels)
    found = judge.classify(real)
    away = max(1, len(found) // 2)
    return {
        "output": scores(labels, judge.classify(pictures), judge.names),
        "ceiling": scores(maps, found, judge.names),
        "floor": scores(maps, found.roll(away, 0), judge.names),
        "segmenter": judge.facts(),
    }


# ---- data
@dataclass(frozen=True, eq=False)
class Maps(Labelled):
    """Pictures uint8 [N, C, H, W] and their label maps [N, H, W]."""

    def pixels(self) -> NDArray[np.float32]:
        return (self.images / np.float32(127.5) - 1).astype(np.float32)


def _labelled(items: ItemSet) -> Maps:
    assert items.rows is not None  # label maps and pictures are paired in every layout
    place = {name: position for position, name in enumerate(items.columns)}
    labels = items.take("label", items.rows[:, place["label"]]).astype(np.int64)
    return Maps(items.take("image", items.rows[:, place["image"]]), labels)


def _parts(
    spec: str | Layout, resolution: Resolution, channels: int, options: Mapping[str, Any]
) -> tuple[Maps, Maps, str, tuple[str, ...]]:
    """(training part, held-out part, what that is, names of the classes)."""
    from saddlepoint.data.paired import find, open_items, split_of

    layout = find(split_of(spec)[0]) if isinstance(spec, str) else spec
    known = {name: options[name] for name in ("fit", "background", "on_error") if name in options}

    def opened(where: Layout) -> Maps:
        wanted = {"image": channels or layout.column("image").facts().channels}  # as in training: converted once
        return _labelled(open_items(where, ("label", "image"), resolution=resolution, channels=wanted, **known))

    train, other = opened(layout), layout.held_out()
    names = layout.label_names
    if not names:
        ids = np.unique(train.labels)
        count = int(options.get("labels") or 0) or int(ids[ids != 255].max(initial=0)) + 1
        names = tuple(str(i) for i in range(count))
    if other is not None:
        return train, opened(other), other.spec, names
    last = np.arange(len(train)) % HELD_OUT == HELD_OUT - 1
    kept, held = (Maps(train.images[w], train.labels[w]) for w in (~last, last))
    if not len(held):
        raise UserError(f"{layout.spec!r} has {len(train)} examples; a segmenter needs at least {HELD_OUT}.")
    return kept, held, f"every {HELD_OUT}th example", names


# ---- training
def train(
    data: Maps, classes: int, *, seed: int = 0, pixels: int = PIXELS, progress: Progress | None = None
) -> SmallUNet:
    """A segmenter of `data`, a function of the pictures, the maps and the seed, from about `pixels` pixels.

    Cross entropy over the pixels that have a class, rare classes a little heavier (share of the pixels to the power of
    -0.3); half of the pictures mirrored; AdamW under one cycle of the learning rate.
    """
    count, area = len(data), data.images.shape[2] * data.images.shape[3]
    steps = max(20, pixels // (area * BATCH))
    draw = np.random.Generator(np.random.PCG64(seed))
    network = SmallUNet(data.images.shape[1], classes)
    _initial(network, draw)
    network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimizer = torch.optim.AdamW(network.parameters(), LEARNING_RATE, weight_decay=DECAY)
    cycle = torch.optim.lr_scheduler.OneCycleLR(optimizer, LEARNING_RATE, total_steps=steps)
    order = np.concatenate([draw.permutation(count) for _ in range(-(-steps * BATCH // count))])
    mirrored = draw.integers(0, 2, len(order)).astype(bool)
    weight = _weights(data.labels, classes)
    for step in range(steps):
        part = slice(step * BATCH, (step + 1) * BATCH)
        x, label = _batch(data, order[part], mirrored[part])
        label = torch.where((label >= 0) & (label < classes), label, -1)
        with torch.autocast("cpu", torch.bfloat16, enabled=has_bfloat16()):
            logits = network(x.contiguous(memory_format=torch.channels_last))
        optimizer.zero_grad()
        F.cross_entropy(logits.float(), label, weight, ignore_index=-1).backward()
        optimizer.step()
        cycle.step()
        if progress:
            progress((step + 1) * BATCH, steps * BATCH)
    return network.eval().requires_grad_(False)


def _weights(labels: NDArray[np.int64], classes: int) -> Tensor:
    counts = np.bincount(labels[(labels >= 0) & (labels < classes)].ravel(), minlength=classes)[:classes]
    share = np.maximum(counts / max(1, counts.sum()), 1e-4)
    return torch.from_numpy(share**-0.3 / (share**0.7).sum()).float()  # one on the mean over pixels


def _batch(data: Maps, chosen: NDArray[Any], mirrored: NDArray[np.bool_]) -> tuple[Tensor, Tensor]:
    images, labels = data.images[chosen], data.labels[chosen]
    images[mirrored], labels[mirrored] = images[mirrored][..., ::-1], labels[mirrored][..., ::-1]
    return torch.from_numpy(images).float() / 127.5 - 1, torch.from_numpy(labels)


def segmenter(
    spec: str | Layout,
    resolution: Resolution,
    *,
    seed: int = 0,
    pixels: int = PIXELS,
    channels: int = 0,
    labels: int = 0,
    cache: bool = True,
    progress: Progress | None = None,
    **options: Any,
) -> Segmenter:
    """The segmenter of a set with label maps, trained on its real pictures when it is not in the cache.

    spec: as for training; its held-out part, else every tenth example, measures it. resolution: of the pictures to be
    judged; above 128 pixels the segmenter looks at reduced ones. pixels: seen in training, 50 million by default, about
    a minute of one core. labels: how many classes maps without names have; 0 counts. options: fit, background, on_error
    of `open_items`. progress: called with (pictures seen, pictures in all). Raises UserError for data without label
    maps.
    """
    shape = _shape(resolution)
    options |= {"labels": labels}
    kept, held, held_is, names = _parts(spec, shape, channels, options)
    name = spec if isinstance(spec, str) else spec.spec
    about = {"code": CODE, "seed": seed, "pixels": pixels, "classes": len(names), "data": kept.digest()}
    key = hashlib.sha256(json.dumps(about | {"held": held.digest()}).encode()).hexdigest()[:24]
    network = SmallUNet(kept.images.shape[1], len(names))
    file = _cache() / f"{key}.safetensors"
    on_real = _kept(file, network) if cache else None
    if on_real is None:
        network = train(kept, len(names), seed=seed, pixels=pixels, progress=progress)
    state = {n: t for n, t in network.state_dict().items() if not n.endswith("num_batches_tracked")}
    made = Segmenter(
        network.eval().requires_grad_(False), f"segmenter-{Path(name).name}@sha256:{fingerprint(state)[:16]}", name,
        names, kept.images.shape[1], shape, len(kept), len(held), held_is, on_real or {},
    )  # fmt: skip
    if on_real is None:
        found = made.classify(torch.from_numpy(held.pixels()))
        made.on_real.update(scores(held.labels, found, names))
        if cache:
            _keep(file, network, made.on_real)
    return made


def _shape(resolution: Resolution) -> tuple[int, int]:
    """The segmenter's own size: the pictures' up to 128 pixels, a multiple of 8."""
    from saddlepoint.data.options import parse_resolution

    height, width = parse_resolution(resolution)
    if not height:
        raise UserError("a segmenter needs the resolution of the pictures that it will judge, such as 64.")
    factor = min(1.0, LARGEST / max(height, width))
    return tuple(max(8, round(side * factor / 8) * 8) for side in (height, width))  # type: ignore[return-value]


# ---- what is kept
def _cache() -> Path:
    from saddlepoint.data.named import cache_folder

    return cache_folder() / "segmenters"


def _kept(file: Path, network: SmallUNet) -> Scores | None:
    """Load a kept segmenter into `network`; its scores on real pictures, or None without one or where it is damaged."""
    from safetensors import SafetensorError, safe_open

    with contextlib.suppress(SafetensorError, OSError, RuntimeError, KeyError, ValueError, TypeError):
        if file.is_file():
            with safe_open(file, "pt") as kept:
                found: Scores = json.loads((kept.metadata() or {})["on_real"])
                network.load_state_dict({name: kept.get_tensor(name) for name in kept.keys()})  # noqa: SIM118
                return found if {"miou", "accuracy", "iou"} <= found.keys() else None
    return None


def _keep(file: Path, network: SmallUNet, on_real: Scores) -> None:
    """Write beside and rename, so that no half of a file is ever found."""
    from safetensors.torch import save

    from saddlepoint.runs import write_bytes

    state = {name: tensor.contiguous() for name, tensor in network.state_dict().items()}
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        write_bytes(file, save(state, metadata={"on_real": json.dumps(on_real)}))
    except OSError as error:
        raise UserError(
            f"the cache {str(file.parent)!r} cannot be written: {error}. Set SADDLEPOINT_CACHE to a folder with room."
        ) from error
