"""A small classifier that is trained on a labelled set in about a minute and kept: the offline extractor for digits,
garments and other sets that look nothing like ImageNet.

Three 3x3 convolutions of 16, 32 and 32 channels with batch norm, ReLU and pooling, a hidden layer of 128 units (the
features), and logits. AdamW under one cycle of the learning rate (Smith and Topin 2019, arXiv:1708.07120). It sees
what it was trained for: distances between its features are about what tells the classes apart. So its accuracy on
images that it was not trained on belongs to every score that it makes, and is part of the provenance.

Training is a function of the images, the labels and the seed, and the result is kept under their hash in the cache
folder. Two kinds of processors can differ in the last bits, and bfloat16 is used where the processor has it; the
identity is the hash of the weights, so such classifiers are never mistaken for one another.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from saddlepoint.errors import UserError
from saddlepoint.metrics.foreign import fingerprint
from saddlepoint.metrics.resize import bicubic, to_channels

if TYPE_CHECKING:
    from saddlepoint.data import ImageSet

CODE = 1  # raised when the same data and seed would give another classifier
FEATURES = 128
LARGEST = 32  # sides; larger images are reduced
BATCH, LEARNING_RATE, DECAY = 128, 4e-3, 0.02
EPOCHS, FEWEST, MOST = 4, 60_000, 240_000  # images seen in training: EPOCHS x the set, within these
HELD_OUT = 10  # one image in so many, where a set has no test images
Progress = Callable[[int, int], None]  # (images seen, images in all)


class SmallNet(nn.Module):
    """Images [N, C, side, side] in [-1, 1] -> features [N, 128]; `logits` -> [N, classes]."""

    def __init__(self, channels: int, side: int, classes: int, width: int = 16) -> None:
        super().__init__()
        self.pools = 2 if side >= 14 else 1
        widths = (channels, width, 2 * width, 2 * width)
        pairs = list(pairwise(widths))
        self.convs = nn.ModuleList(nn.Conv2d(a, b, 3, padding=1, bias=False) for a, b in pairs)
        self.norms = nn.ModuleList(nn.BatchNorm2d(b) for _, b in pairs)
        self.hidden = nn.Linear(2 * width * 16, FEATURES)
        self.output = nn.Linear(FEATURES, classes)

    def stages(self, x: Tensor) -> list[Tensor]:
        """Maps after each convolution."""
        found: list[Tensor] = []
        for index, (conv, norm) in enumerate(zip(self.convs, self.norms, strict=True)):
            x = F.max_pool2d(x, 2) if 0 < index <= self.pools else x
            x = F.relu(norm(conv(x)))
            found.append(x)
        return found

    def forward(self, x: Tensor) -> Tensor:
        x = F.adaptive_avg_pool2d(self.stages(x)[-1], 4)  # [N, C, 4, 4]
        return F.relu(self.hidden(x.flatten(1)))

    def logits(self, features: Tensor) -> Tensor:
        return self.output(features)


@dataclass(frozen=True)
class Classifier:
    """A trained network and what is known about it. accuracy: share of `held_out` images that it was not trained on."""

    network: SmallNet
    identity: str
    data: str
    accuracy: float
    trained_on: int
    held_out: int
    held_out_is: str
    channels: int
    side: int

    def prepared(self, images: Tensor) -> Tensor:
        """Images in [-1, 1] of any size, grey or colour -> what the network was trained on."""
        images = to_channels(images, self.channels)
        if images.shape[-2:] == (self.side, self.side):
            return images
        return bicubic((images + 1) * 127.5, self.side) / 127.5 - 1

    def facts(self) -> dict[str, Any]:
        """For the provenance of a score."""
        names = ("data", "accuracy", "trained_on", "held_out", "held_out_is")
        return {name: getattr(self, name) for name in names}


@dataclass(frozen=True, eq=False)
class Labelled:
    """Images uint8 [N, C, H, W] and their labels [N]."""

    images: NDArray[np.uint8]
    labels: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.images)

    def digest(self) -> str:
        found = hashlib.sha256(repr((self.images.shape, len(self.labels))).encode())
        for start in range(0, len(self), 4096):
            found.update(np.ascontiguousarray(self.images[start : start + 4096]).data)
        found.update(np.ascontiguousarray(self.labels, np.int64).data)
        return found.hexdigest()


# ---- training
def has_bfloat16() -> bool:
    """Does the processor compute in bfloat16? Elsewhere it would be emulated, slowly."""
    flags = Path("/proc/cpuinfo")
    return flags.is_file() and "avx512_bf16" in flags.read_text()


def _initial(network: nn.Module, draw: np.random.Generator) -> None:
    """Weights from PCG64, normal with variance 2 / fan-in; biases zero."""
    with torch.no_grad():
        for module in network.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                shape = tuple(module.weight.shape)
                values = draw.standard_normal(shape) * np.sqrt(2 / np.prod(shape[1:]))
                module.weight.copy_(torch.from_numpy(values))
                if module.bias is not None:
                    module.bias.zero_()


def train(
    data: Labelled, classes: int, side: int, *, seed: int = 0, seen: int | None = None, progress: Progress | None = None
) -> SmallNet:
    """A classifier of `data`, a function of the images, the labels and the seed. seen: images shown to it in all."""
    count = len(data)
    total = min(max(EPOCHS * count, FEWEST), MOST) if seen is None else seen
    steps = max(1, total // BATCH)
    draw = np.random.Generator(np.random.PCG64(seed))
    network = SmallNet(data.images.shape[1], side, classes)
    _initial(network, draw)
    network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimizer = torch.optim.AdamW(network.parameters(), LEARNING_RATE, weight_decay=DECAY)
    cycle = torch.optim.lr_scheduler.OneCycleLR(optimizer, LEARNING_RATE, total_steps=steps)
    order = np.concatenate([draw.permutation(count) for _ in range(-(-steps * BATCH // count))])
    labels = torch.from_numpy(data.labels)
    low = has_bfloat16()
    for step in range(steps):
        chosen = order[step * BATCH : (step + 1) * BATCH]
        x = _pixels(data.images[chosen], side).contiguous(memory_format=torch.channels_last)
        with torch.autocast("cpu", torch.bfloat16, enabled=low):
            logits = network.logits(network(x))
        optimizer.zero_grad()
        F.cross_entropy(logits.float(), labels[torch.from_numpy(chosen)]).backward()
        optimizer.step()
        cycle.step()
        if progress:
            progress((step + 1) * BATCH, steps * BATCH)
    return network.eval().requires_grad_(False)


def _pixels(images: NDArray[np.uint8], side: int) -> Tensor:
    """uint8 -> [-1, 1], resized where needed."""
    x = torch.from_numpy(np.array(images)).float()
    return (x if x.shape[-2:] == (side, side) else bicubic(x, side)) / 127.5 - 1


@torch.no_grad()
def accuracy(network: SmallNet, data: Labelled, side: int) -> float:
    """Share of the images whose largest logit is their label."""
    right = 0
    for start in range(0, len(data), 500):
        logits = network.logits(network(_pixels(data.images[start : start + 500], side)))
        right += int((logits.argmax(1) == torch.from_numpy(data.labels[start : start + 500])).sum())
    return right / len(data)


# ---- the sets, and what is kept
def classifier(
    data: str | Path | ImageSet = "fashion-mnist",
    *,
    seed: int = 0,
    seen: int | None = None,
    cache: bool = True,
    progress: Progress | None = None,
) -> Classifier:
    """The classifier of a labelled set, trained when it is not in the cache.

    data: the name of a set, a folder with classes, a zip, or an opened set. A named set's test images measure the
    accuracy; in any other every tenth image is held out for it. seen: images shown in training, by default four times
    the set within 60,000 and 240,000. Raises UserError for a set without at least two classes.
    """
    name, train_set, test_set, held_out_is = _split(data)
    classes = int(train_set.labels.max()) + 1
    side = min(LARGEST, *train_set.images.shape[-2:])
    about = {"code": CODE, "seed": seed, "seen": seen, "side": side, "data": train_set.digest()}
    key = hashlib.sha256(json.dumps(about | {"test": test_set.digest()}).encode()).hexdigest()[:24]
    file = _cache() / f"{key}.safetensors"
    network = SmallNet(train_set.images.shape[1], side, classes)
    measured = _kept(file, network) if cache else None
    if measured is None:
        network = train(train_set, classes, side, seed=seed, seen=seen, progress=progress)
        measured = accuracy(network, test_set, side)
        if cache:
            _keep(file, network, measured)
    state = {n: t for n, t in network.state_dict().items() if not n.endswith("num_batches_tracked")}
    return Classifier(
        network=network.eval().requires_grad_(False),
        identity=f"classifier-{name}@sha256:{fingerprint(state)[:16]}",
        data=name,
        accuracy=measured,
        trained_on=len(train_set),
        held_out=len(test_set),
        held_out_is=held_out_is,
        channels=train_set.images.shape[1],
        side=side,
    )


def _split(data: str | Path | ImageSet) -> tuple[str, Labelled, Labelled, str]:
    """(name, training images, held-out images, what these are)."""
    from saddlepoint.data import SETS, ImageSet, open_set

    whole = data if isinstance(data, ImageSet) else open_set(data)
    name = whole.facts.name if isinstance(data, ImageSet) else str(data)
    train = _labelled(whole, name)
    if not isinstance(data, ImageSet) and name in SETS:
        return name, train, _labelled(open_set(f"{name}:test"), name), f"{name}:test"
    last = np.arange(len(train)) % HELD_OUT == HELD_OUT - 1
    parts = (Labelled(np.ascontiguousarray(train.images[w]), train.labels[w]) for w in (~last, last))
    kept, tested = parts
    if not len(tested):
        raise UserError(f"{name!r} has {len(train)} images; a classifier needs at least {HELD_OUT}.")
    return Path(name).name or "data", kept, tested, f"every {HELD_OUT}th image"


def _labelled(found: ImageSet, name: str) -> Labelled:
    if found.labels is None or len(np.unique(found.labels)) < 2:
        count = 0 if found.labels is None else len(np.unique(found.labels))
        raise UserError(
            f"{name!r} has {count} classes; the extractor 'classifier' is trained on labels and needs at least two. "
            f"Without labels: 'efficientnet-lite0' (colour) or 'random-conv'."
        )
    if found.images.shape[1] not in (1, 3):
        raise UserError(f"{name!r} has {found.images.shape[1]} channels; a classifier takes 1 or 3: open it with 3.")
    return Labelled(found.images, np.asarray(found.labels, np.int64))


def _cache() -> Path:
    from saddlepoint.data.named import cache_folder

    return cache_folder() / "classifiers"


def _kept(file: Path, network: SmallNet) -> float | None:
    """Load a kept classifier into `network`; its accuracy, or None when there is none or it is damaged."""
    from safetensors import SafetensorError, safe_open

    if not file.is_file():
        return None
    try:
        with safe_open(file, "pt") as kept:
            about: Mapping[str, str] = kept.metadata() or {}
            network.load_state_dict({name: kept.get_tensor(name) for name in kept.keys()})  # noqa: SIM118
            return float(about["accuracy"])
    except (SafetensorError, OSError, RuntimeError, KeyError, ValueError):
        return None


def _keep(file: Path, network: SmallNet, measured: float) -> None:
    """Write beside and rename, so that no half of a file is ever found."""
    from safetensors.torch import save

    state = {name: tensor.contiguous() for name, tensor in network.state_dict().items()}
    data = save(state, metadata={"accuracy": repr(measured)})
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=file.parent, prefix=".new-", delete=False) as scratch:
            try:
                scratch.write(data)
                scratch.flush()
                os.fsync(scratch.fileno())
                Path(scratch.name).rename(file)
            except BaseException:
                Path(scratch.name).unlink(missing_ok=True)
                raise
    except OSError as error:
        raise UserError(
            f"the cache {str(file.parent)!r} cannot be written: {error}. Set SADDLEPOINT_CACHE to a folder with room."
        ) from error
