"""The Inception network of 2015-12-05 that the Frechet Inception distance is defined with (Heusel et al. 2017,
arXiv:1706.08500), as layers of our own, and the files its weights are published in.

It is not torchvision's: 1008 classes; the average pools of the A, C and first E blocks leave padding out of the mean;
the second E block pools by maximum (probably a slip of 2015, and now part of the definition); batch norm with
eps 1e-3 and without a scale. Three files hold the same numbers:

pytorch-fid     pt_inception-2015-12-05-6726825d.pth         torchvision's names; these are ours too
torch-fidelity  weights-inception-2015-12-05-6726825d.pth    the same
NVIDIA          inception-2015-12-05.pt                      a TorchScript archive with the graph's names

The eight digits are the beginning of the file's SHA-256. None of the files can be shipped here. `read_state` accepts
any of the three by what is in it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from saddlepoint.errors import UserError
from saddlepoint.metrics.foreign import read
from saddlepoint.metrics.resize import Resize, clean_bicubic, pytorch_bilinear, tf_bilinear

SIDE, FEATURES, CLASSES = 299, 2048, 1008
KNOWN = "6726825d"  # the SHA-256 of pytorch-fid's and of torch-fidelity's file begins with it
FILES = (
    "pt_inception-2015-12-05-6726825d.pth (release fid_weights of mseitzer/pytorch-fid)",
    "weights-inception-2015-12-05-6726825d.pth (release v0.2.0 of toshas/torch-fidelity)",
    "inception-2015-12-05.pt (metrics of NVlabs/stylegan2-ada-pytorch)",
)


class Unit(nn.Module):
    """Convolution without bias, batch norm (eps 1e-3), ReLU."""

    def __init__(self, inputs: int, layer: Layer) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, layer.width, layer.kernel, layer.stride, layer.padding, bias=False)
        self.bn = nn.BatchNorm2d(layer.width, eps=1e-3)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.bn(self.conv(x)))


@dataclass(frozen=True)
class Layer:
    """One unit: its name in torchvision's state dict and in the graph of 2015, below the block."""

    name: str
    graph: str
    width: int
    kernel: tuple[int, int] = (1, 1)
    stride: int = 1
    same: bool = True  # padded to keep the size

    @property
    def padding(self) -> tuple[int, int]:
        return (self.kernel[0] // 2, self.kernel[1] // 2) if self.same else (0, 0)


@dataclass(frozen=True)
class Fork:
    """Two units on the same input, side by side."""

    left: Layer
    right: Layer


Step: TypeAlias = "Layer | Fork | str"  # a string is a pool: "average", "maximum" (both stride 1) or "halve"
Branch: TypeAlias = "tuple[Step, ...]"


def _layer(name: str, graph: str, width: int, height: int = 1, across: int = 1, *, halve: bool = False) -> Layer:
    return Layer(name, graph, width, (height, across), 2 if halve else 1, not halve)


def block_a(pooled: int) -> tuple[Branch, ...]:
    """35x35: 1x1; 5x5; two 3x3; pool."""
    return (
        (_layer("branch1x1", "conv", 64),),
        (_layer("branch5x5_1", "tower/conv", 48), _layer("branch5x5_2", "tower/conv_1", 64, 5, 5)),
        (
            _layer("branch3x3dbl_1", "tower_1/conv", 64),
            _layer("branch3x3dbl_2", "tower_1/conv_1", 96, 3, 3),
            _layer("branch3x3dbl_3", "tower_1/conv_2", 96, 3, 3),
        ),
        ("average", _layer("branch_pool", "tower_2/conv", pooled)),
    )


def block_b() -> tuple[Branch, ...]:
    """35x35 to 17x17."""
    return (
        (_layer("branch3x3", "conv", 384, 3, 3, halve=True),),
        (
            _layer("branch3x3dbl_1", "tower/conv", 64),
            _layer("branch3x3dbl_2", "tower/conv_1", 96, 3, 3),
            _layer("branch3x3dbl_3", "tower/conv_2", 96, 3, 3, halve=True),
        ),
        ("halve",),
    )


def block_c(width: int) -> tuple[Branch, ...]:
    """17x17: 1x1; 7x7 in two parts; twice 7x7 in four parts; pool."""
    return (
        (_layer("branch1x1", "conv", 192),),
        (
            _layer("branch7x7_1", "tower/conv", width),
            _layer("branch7x7_2", "tower/conv_1", width, 1, 7),
            _layer("branch7x7_3", "tower/conv_2", 192, 7, 1),
        ),
        (
            _layer("branch7x7dbl_1", "tower_1/conv", width),
            _layer("branch7x7dbl_2", "tower_1/conv_1", width, 7, 1),
            _layer("branch7x7dbl_3", "tower_1/conv_2", width, 1, 7),
            _layer("branch7x7dbl_4", "tower_1/conv_3", width, 7, 1),
            _layer("branch7x7dbl_5", "tower_1/conv_4", 192, 1, 7),
        ),
        ("average", _layer("branch_pool", "tower_2/conv", 192)),
    )


def block_d() -> tuple[Branch, ...]:
    """17x17 to 8x8."""
    return (
        (_layer("branch3x3_1", "tower/conv", 192), _layer("branch3x3_2", "tower/conv_1", 320, 3, 3, halve=True)),
        (
            _layer("branch7x7x3_1", "tower_1/conv", 192),
            _layer("branch7x7x3_2", "tower_1/conv_1", 192, 1, 7),
            _layer("branch7x7x3_3", "tower_1/conv_2", 192, 7, 1),
            _layer("branch7x7x3_4", "tower_1/conv_3", 192, 3, 3, halve=True),
        ),
        ("halve",),
    )


def block_e(pool: str) -> tuple[Branch, ...]:
    """8x8: 1x1; 1x3 beside 3x1; the same after a 3x3; pool."""
    return (
        (_layer("branch1x1", "conv", 320),),
        (
            _layer("branch3x3_1", "tower/conv", 384),
            Fork(
                _layer("branch3x3_2a", "tower/mixed/conv", 384, 1, 3),
                _layer("branch3x3_2b", "tower/mixed/conv_1", 384, 3, 1),
            ),
        ),
        (
            _layer("branch3x3dbl_1", "tower_1/conv", 448),
            _layer("branch3x3dbl_2", "tower_1/conv_1", 384, 3, 3),
            Fork(
                _layer("branch3x3dbl_3a", "tower_1/mixed/conv", 384, 1, 3),
                _layer("branch3x3dbl_3b", "tower_1/mixed/conv_1", 384, 3, 1),
            ),
        ),
        (pool, _layer("branch_pool", "tower_2/conv", 192)),
    )


# (name in torchvision, name in the graph, the unit or the branches), in order; a string is a pool.
PLAN: tuple[tuple[str, str, Layer | tuple[Branch, ...] | str], ...] = (
    ("Conv2d_1a_3x3", "conv", _layer("", "", 32, 3, 3, halve=True)),
    ("Conv2d_2a_3x3", "conv_1", Layer("", "", 32, (3, 3), same=False)),
    ("Conv2d_2b_3x3", "conv_2", _layer("", "", 64, 3, 3)),
    ("pool_1", "pool0", "halve"),
    ("Conv2d_3b_1x1", "conv_3", _layer("", "", 80)),
    ("Conv2d_4a_3x3", "conv_4", Layer("", "", 192, (3, 3), same=False)),
    ("pool_2", "pool1", "halve"),
    ("Mixed_5b", "mixed", block_a(32)),
    ("Mixed_5c", "mixed_1", block_a(64)),
    ("Mixed_5d", "mixed_2", block_a(64)),
    ("Mixed_6a", "mixed_3", block_b()),
    ("Mixed_6b", "mixed_4", block_c(128)),
    ("Mixed_6c", "mixed_5", block_c(160)),
    ("Mixed_6d", "mixed_6", block_c(160)),
    ("Mixed_6e", "mixed_7", block_c(192)),
    ("Mixed_7a", "mixed_8", block_d()),
    ("Mixed_7b", "mixed_9", block_e("average")),
    ("Mixed_7c", "mixed_10", block_e("maximum")),
)


def pool(x: Tensor, kind: str) -> Tensor:
    """3x3: the average without the padding or the maximum, of stride 1; or the maximum of stride 2, unpadded."""
    if kind == "average":
        return F.avg_pool2d(x, 3, 1, 1, count_include_pad=False)
    return F.max_pool2d(x, 3, 2) if kind == "halve" else F.max_pool2d(x, 3, 1, 1)


class Mixed(nn.Module):
    """Branches on one input, their outputs joined along the channels."""

    def __init__(self, inputs: int, branches: tuple[Branch, ...]) -> None:
        super().__init__()
        self.branches, self.width = branches, 0
        for branch in branches:
            width = inputs
            for step in branch:
                if isinstance(step, str):
                    continue
                fork = (step.left, step.right) if isinstance(step, Fork) else (step,)
                for layer in fork:
                    self.add_module(layer.name, Unit(width, layer))
                width = sum(layer.width for layer in fork)
            self.width += width

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([self._along(branch, x) for branch in self.branches], 1)

    def _along(self, branch: Branch, x: Tensor) -> Tensor:
        for step in branch:
            if isinstance(step, str):
                x = pool(x, step)
            elif isinstance(step, Fork):
                x = torch.cat([self.get_submodule(step.left.name)(x), self.get_submodule(step.right.name)(x)], 1)
            else:
                x = self.get_submodule(step.name)(x)
        return x


class Inception2015(nn.Module):
    """Pixels [N, 3, 299, 299], about -1..1 -> features [N, 2048], the mean of the last 8x8 map; `fc` -> 1008 logits.

    23,850,960 parameters with the batch norms' scales, which are one in every published file.
    """

    def __init__(self) -> None:
        super().__init__()
        width = 3
        for name, _, what in PLAN:
            if isinstance(what, Layer):
                self.add_module(name, Unit(width, what))
                width = what.width
            elif not isinstance(what, str):
                block = Mixed(width, what)
                self.add_module(name, block)
                width = block.width
        self.fc = nn.Linear(width, CLASSES)

    def stages(self, x: Tensor) -> dict[str, Tensor]:
        """Every intermediate map by its name, and "features"."""
        found = {}
        for name, _, what in PLAN:
            x = pool(x, what) if isinstance(what, str) else self.get_submodule(name)(x)
            found[name] = x
        return {**found, "features": x.mean((2, 3))}

    def forward(self, x: Tensor) -> Tensor:
        for name, _, what in PLAN:
            x = pool(x, what) if isinstance(what, str) else self.get_submodule(name)(x)
        return x.mean((2, 3))

    def logits(self, features: Tensor, *, bias: bool = False) -> Tensor:
        """[N, 1008]; the Inception score of the official code leaves the bias out."""
        return F.linear(features, self.fc.weight, self.fc.bias if bias else None)


# ---- what goes in
def official_scale(x: Tensor) -> Tensor:
    """0..255 -> (x - 128) / 128."""
    return (x - 128) / 128


def unit_scale(x: Tensor) -> Tensor:
    """0..255 -> 2 x / 255 - 1, as pytorch-fid, which resizes after the division."""
    return 2 * x - 1


PREPARATIONS: dict[str, tuple[Resize, bool]] = {  # resize, and whether values are divided by 255 before it
    "tf": (tf_bilinear, False),
    "pytorch": (pytorch_bilinear, True),
    "clean": (clean_bicubic, False),
}


def prepared(pixels: Tensor, resize: str = "tf") -> Tensor:
    """Pixels 0..255 [N, 3, H, W] in float32 -> the network's input, as one of the three published codes makes it."""
    if resize not in PREPARATIONS:
        from saddlepoint.errors import unknown

        raise unknown("resize of inception-2015", resize, PREPARATIONS)
    function, unit = PREPARATIONS[resize]
    return unit_scale(function(pixels / 255, SIDE)) if unit else official_scale(function(pixels, SIDE))


# ---- what is read
def _units() -> dict[str, str]:
    """Unit in the graph of 2015 with everything joined by underscores -> our unit."""
    names = {}
    for name, graph, what in PLAN:
        if isinstance(what, Layer):
            names[graph] = name
        elif not isinstance(what, str):
            steps = [step for branch in what for step in branch if not isinstance(step, str)]
            for step in steps:
                for layer in (step.left, step.right) if isinstance(step, Fork) else (step,):
                    names[f"{graph}_{layer.graph}".replace("/", "_")] = f"{name}.{layer.name}"
    return names


_SCRIPTED = {"weight": "conv.weight", "beta": "bn.bias", "mean": "bn.running_mean", "var": "bn.running_var"}


def from_graph_names(found: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """NVIDIA's names ("layers.mixed_9.tower_1_mixed_conv.beta") -> ours. Batch norms have no scale there: ones."""
    units, state = _units(), {}
    for name, tensor in found.items():
        head, _, last = name.rpartition(".")
        unit = units.get(re.sub(r"[./]", "_", head.removeprefix("layers.")))
        if unit is None or last not in _SCRIPTED:
            state[name] = tensor
            continue
        state[f"{unit}.{_SCRIPTED[last]}"] = tensor
        if last == "beta":
            state.setdefault(f"{unit}.bn.weight", torch.ones_like(tensor))
    for name in ("weight", "bias"):
        if f"output.{name}" in state:
            state[f"fc.{name}"] = state.pop(f"output.{name}")
    return state


def read_state(path: str | Path) -> dict[str, Tensor]:
    """Our names -> float32 tensors from any of the three published files. Raises UserError, FileNotFoundError."""
    found = read(path)
    if any(name.startswith("layers.") for name in found):
        found = from_graph_names(found)
    return {
        name: tensor.float()
        for name, tensor in found.items()
        if not name.endswith("num_batches_tracked") and not name.startswith("AuxLogits.")
    }


def load(path: str | Path) -> tuple[Inception2015, dict[str, Tensor]]:
    """(network in evaluation mode with the weights of a file, the weights by our names).

    Raises UserError naming the tensors that do not fit.
    """
    state = read_state(path)
    if state.get("fc.weight", torch.empty(0)).shape == (1000, FEATURES):
        raise UserError(
            f"{str(path)!r} has 1000 classes: it is torchvision's Inception v3, not the network of 2015-12-05, whose "
            f"1008 classes define the Frechet Inception distance. Expected one of: {'; '.join(FILES)}."
        )
    network = Inception2015()
    place_state(network, state, "the Inception network of 2015-12-05")
    return network.eval().requires_grad_(False), state


def place_state(network: nn.Module, state: Mapping[str, Tensor], where: str) -> None:
    """`state` into `network`, every misfit named; batch counters need not be there."""
    from saddlepoint.pretrained.placing import place

    place(network, state, where=where, optional=lambda name: name.endswith("num_batches_tracked"))
