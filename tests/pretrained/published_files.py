"""Files in the structure of the published ones, written by classes of those names that exist while they are pickled."""

from __future__ import annotations

import contextlib
import io
import pickle
import re
import sys
import types
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

TRAP = "raise SystemExit('the source in the file was run')"


@contextlib.contextmanager
def foreign_modules() -> Iterator[dict[str, types.ModuleType]]:
    """Modules of the names that NVIDIA's pickles speak of; gone afterwards."""
    names = (
        "torch_utils", "torch_utils.persistence", "dnnlib", "dnnlib.util", "dnnlib.tflib", "dnnlib.tflib.network",
        "tfutil",
    )  # fmt: skip
    made = {name: types.ModuleType(name) for name in names}
    assert not set(made) & set(sys.modules)
    sys.modules.update(made)

    def rebuild(meta: Any) -> Any:
        raise AssertionError("called")

    rebuild.__module__, rebuild.__qualname__ = "torch_utils.persistence", "_reconstruct_persistent_obj"
    rebuild.__name__ = "_reconstruct_persistent_obj"
    made["torch_utils.persistence"]._reconstruct_persistent_obj = rebuild  # type: ignore[attr-defined]
    easy = type("EasyDict", (dict,), {"__module__": "dnnlib.util"})
    made["dnnlib.util"].EasyDict = easy  # type: ignore[attr-defined]
    for place in ("dnnlib.tflib.network", "tfutil"):
        made[place].Network = type("Network", (), {"__module__": place})  # type: ignore[attr-defined]
    try:
        yield made
    finally:
        for name in made:
            del sys.modules[name]


class Persistent:
    """An object that is pickled as NVIDIA's persistent classes are."""

    def __init__(self, rebuild: Any, name: str, state: dict[str, Any]) -> None:
        self.rebuild, self.name, self.state = rebuild, name, state

    def __reduce__(self) -> tuple[Any, ...]:
        meta = {"type": "class", "version": 6, "module_src": TRAP, "class_name": self.name, "state": self.state}
        return self.rebuild, (meta,)


def module(tensors: Mapping[str, Tensor], buffers: set[str], rebuild: Any, name: str, **more: Any) -> Persistent:
    """A persistent module with these tensors, in the modules that their names speak of."""
    parameters = {n: nn.Parameter(t) for n, t in tensors.items() if "." not in n and n not in buffers}
    own = {n: t for n, t in tensors.items() if "." not in n and n in buffers}
    children: dict[str, Any] = {}
    for first in dict.fromkeys(n.partition(".")[0] for n in tensors if "." in n):
        part = {n.partition(".")[2]: t for n, t in tensors.items() if n.startswith(first + ".")}
        children[first] = module(part, buffers, rebuild, first.capitalize())
    state = {
        "training": False, "_parameters": parameters, "_buffers": own, "_modules": children,
        "_non_persistent_buffers_set": set(), "_forward_hooks": {}, **more,
    }  # fmt: skip
    return Persistent(rebuild, name, state)


BUFFERS = {
    "w_avg", "noise_const", "resample_filter", "freqs", "phases", "transform", "magnitude_ema", "up_filter",
    "down_filter",
}  # fmt: skip


def nvidia_torch(
    players: Mapping[str, Mapping[str, Tensor]], options: Mapping[str, Mapping[str, Any]], protocol: int = 4
) -> bytes:
    """A pickle as stylegan2-ada-pytorch and stylegan3 write them."""
    with foreign_modules() as there:
        rebuild = there["torch_utils.persistence"]._reconstruct_persistent_obj
        easy = there["dnnlib.util"].EasyDict
        found: dict[str, Any] = {
            name: module(
                tensors, BUFFERS, rebuild, "Generator" if name != "D" else "Discriminator", _init_args=(),
                _init_kwargs=easy(options["D" if name == "D" else "G"]),
            )
            for name, tensors in players.items()
        }  # fmt: skip
        found["augment_pipe"] = None
        found["training_set_kwargs"] = easy(class_name="training.dataset.ImageFolderDataset", path="a.zip", seed=0)
        return pickle.dumps(found, protocol)


def network(
    there: Mapping[str, types.ModuleType], place: str, name: str, variables: Mapping[str, Any], **more: Any
) -> Any:
    made = there[place].Network()
    made.__dict__.update(
        version=4, name=name, build_module_src=TRAP, build_func_name=name,
        variables=[(key, np.asarray(value)) for key, value in variables.items()], **more,
    )  # fmt: skip
    return made


def tensorflow(
    g: Mapping[str, Tensor], d: Mapping[str, Tensor], kwargs: Mapping[str, Any], *, place: str, protocol: int = 3,
    average: Mapping[str, Tensor] | None = None,
) -> bytes:  # fmt: skip
    """A pickle (G, D, Gs) as the TensorFlow code writes them; names with "mapping/" or "synthesis/" are of parts."""
    with foreign_modules() as there:
        easy = there["dnnlib.util"].EasyDict

        def whole(name: str, variables: Mapping[str, Tensor]) -> Any:
            parts: dict[str, dict[str, Tensor]] = {"mapping": {}, "synthesis": {}}
            own = {}
            for key, value in variables.items():
                found = re.match(r"(?:G_)?(mapping|synthesis)/(.*)", key)
                (parts[found[1]] if found else own)[found[2] if found else key] = value
            components = easy(
                {k: network(there, place, k, v, static_kwargs=easy(), components=easy()) for k, v in parts.items() if v}
            )
            return network(there, place, name, own, static_kwargs=easy(kwargs), components=components)

        return pickle.dumps((whole("G", g), whole("D", d), whole("Gs", average or g)), protocol)


def legacy(thing: Any) -> bytes:
    """torch.save's format before 1.6."""
    stream = io.BytesIO()
    torch.save(thing, stream, _use_new_zipfile_serialization=False)
    return stream.getvalue()
