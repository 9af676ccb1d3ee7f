"""Batches from a set of images, as a pure function of the seed and of how many examples were taken before."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from saddlepoint.errors import UserError

from .sets import ImageSet

_MASK = (1 << 64) - 1


def _mix(x: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """The finaliser of SplitMix64 (Steele, Lea and Flood, 2014): a bijection of 64-bit words that scatters them.

    Our own, because NumPy promises no fixed stream of its permutations from one version to the next, and a resumed run
    must see the same images.
    """
    x = x + np.uint64(0x9E3779B97F4A7C15)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def _words(seed: int, epoch: int, use: int, count: int) -> NDArray[np.uint64]:
    """`count` random 64-bit words keyed by (seed, epoch, use)."""
    key = np.zeros(1, np.uint64)
    for part in (seed, epoch, use):
        key = _mix(key ^ np.array([part & _MASK], np.uint64))
    return _mix(key ^ _mix(np.arange(count, dtype=np.uint64)))


class Stream:
    """The infinite sequence of epochs over a set: each epoch is every image once, in an order keyed by (seed, epoch).

    `stream(cursor, total, first, length)` gives `length` examples from position cursor + first on, where cursor
    counts the examples taken before, total is the global batch, and (first, length) is the slice of it that this
    process or micro-batch needs. Nothing is remembered but two permutations, so any call can be repeated, made out of
    order or by another process.

    mirror: each position is flipped left to right with probability 1/2, keyed by (seed, position).
    """

    def __init__(self, images: ImageSet, seed: int, mirror: bool = False, device: str | torch.device = "cpu") -> None:
        self.images = images
        self.seed = seed
        self.mirror = mirror
        self.device = torch.device(device)
        self._epochs: dict[int, tuple[NDArray[np.int64], NDArray[np.bool_]]] = {}

    def __len__(self) -> int:
        """Examples in one epoch."""
        return len(self.images)

    def _epoch(self, epoch: int) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
        """(order, flips) of one epoch, each [N]."""
        known = self._epochs.get(epoch)
        if known is None:
            order = np.argsort(_words(self.seed, epoch, 0, len(self)), kind="stable").astype(np.int64)
            flips = (_words(self.seed, epoch, 1, len(self)) & np.uint64(1)).astype(np.bool_)
            known = order, flips
            recent = list(self._epochs.items())[-1:]
            self._epochs = dict([*recent, (epoch, known)])  # one assignment, so threads may share a stream
        return known

    def places(self, start: int, length: int) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
        """(index into the set, flipped or not) of the examples from position `start` on, each [length]."""
        found = []
        while length > 0:
            epoch, offset = divmod(start, len(self))
            order, flips = self._epoch(epoch)
            found.append((order[offset : offset + length], flips[offset : offset + length]))
            start, length = start + len(found[-1][0]), length - len(found[-1][0])
        return np.concatenate([order for order, _ in found]), np.concatenate([flips for _, flips in found])

    def __call__(
        self, cursor: int, total: int, first: int, length: int, resolution: int | None = None
    ) -> dict[str, Tensor]:
        """ "image": float32 [length, C, H, W] in [-1, 1], x / 127.5 - 1; and, with labels, "label": int64 [length].

        resolution: the height wanted, the stored one divided by a power of two: boxes of pixels are averaged.
        Raises UserError for a resolution that cannot be had so; ValueError for a slice outside the batch.
        """
        if cursor < 0 or first < 0 or length < 1 or first + length > total:
            raise ValueError(f"slice {first}+{length} of a batch of {total} at {cursor}: outside the batch")
        index, flips = self.places(cursor + first, length)
        pixels = self.images.images[index]  # [length, C, H, W]
        if self.mirror:
            pixels[flips] = pixels[flips, :, :, ::-1]
        image = torch.from_numpy(np.asarray(pixels)).to(self.device).to(torch.float32)
        factor = self._factor(resolution)
        if factor > 1:
            image = torch.nn.functional.avg_pool2d(image, factor)
        batch = {"image": image.div_(127.5).sub_(1)}
        if self.images.labels is not None:
            batch["label"] = torch.from_numpy(self.images.labels[index]).to(self.device)
        return batch

    def _factor(self, resolution: int | None) -> int:
        height, width = self.images.facts.height, self.images.facts.width
        factor = height // resolution if resolution and resolution > 0 else 1
        if resolution is None or (factor * resolution == height and width % factor == 0 and factor & (factor - 1) == 0):
            return factor
        raise UserError(
            f"resolution {resolution} of a stream of {height}x{width} images; expected {height} over a power of two."
        )
