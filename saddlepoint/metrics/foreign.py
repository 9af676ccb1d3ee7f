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
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from saddlepoint.errors import UserError
from saddlepoint.pretrained import pickles


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
                return _scripted(archive, root, path)
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
    try:
        tensors = dict(pickles.walk(found))
    except pickles.RefusedError as error:
        raise UserError(f"{name!r} is not a file of weights: it {error}.") from error
    if not tensors:
        raise UserError(f"{name!r} holds no tensors; expected a state dict.")
    return tensors


# ---- TorchScript
def _script_root(archive: zipfile.ZipFile) -> str | None:
    """The folder of a TorchScript archive: it has constants.pkl and code beside data.pkl. None for any other zip."""
    names = archive.namelist()
    roots = [name.removesuffix("data.pkl") for name in names if name.count("/") == 1 and name.endswith("/data.pkl")]
    scripted = [root for root in roots if f"{root}constants.pkl" in names]
    return scripted[0] if scripted else None


def _scripted(archive: zipfile.ZipFile, root: str, path: Path) -> dict[str, Tensor]:
    """The tensors of a TorchScript archive: its classes become their attributes, and nothing of it is compiled."""
    size = path.stat().st_size
    extra = {
        ("__torch__", "*"): pickles.Kind("__torch__"),
        **{
            ("torch.jit._pickle", f"build_{kind}list"): pickles.maker(list)
            for kind in ("int", "double", "bool", "tensor")
        },
        ("torch.jit._pickle", "restore_type_tag"): pickles.maker(lambda value, tag: value),
    }
    try:
        reader = pickles.archive_reader(archive, root, size, extra)
        return dict(pickles.walk(reader.load(io.BytesIO(pickles.member(archive, f"{root}data.pkl", size)))))
    except pickles.RefusedError as error:
        raise UserError(f"{str(path)!r} is not a readable TorchScript file: it {error}.") from error
