"""Pickles of weights, read without running anything of theirs.

A pickle is a program: it names functions of installed modules and calls them. `Reader` walks its opcodes (protocols 2
to 5) with a stack of its own instead. What a pickle may name is a table, and what stands in the table are functions of
this module: tensors from torch's storages, numpy arrays, plain containers, and `Record`s, which are objects as the
mapping of their attributes, whatever class they were. A name outside the table ends the reading before its call.

Memory is bounded by the file: opcodes are counted, counts in the file are checked against the bytes that are there, and
all that is built from bytes draws on one allowance. Only numbers and short text are ever hashed.

    read_pickle   a pickle in a file of its own, as NVIDIA's are, or a file of torch.save, a zip or what was before it
    walk          the tensors in what was read, with their paths
"""

from __future__ import annotations

import io
import math
import pickletools
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
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
    "UntypedStorage": torch.uint8,
}
DTYPES = ("float64", "float32", "float16", "bfloat16", "int64", "int32", "int16", "int8", "uint8", "bool")
ZIP = b"PK\x03\x04"  # how torch.save's zips begin
LEGACY_MAGIC, LEGACY_PROTOCOL = 0x1950A86A20F9469CFC6C, 1001
MOST_OPCODES = 1_000_000  # a published pickle has some ten thousand
DEEPEST = 64  # nested containers; a file can refer to itself
MOST_VALUES = 1_000_000  # met when containers are walked: shared ones are walked each time
MOST_RANK = 16
SLACK = 64 << 20  # bytes that any file may take besides a multiple of its own
PER_CONTAINER, PER_CALL, PER_ITEM = 256, 1024, 100  # what they cost in bytes, generously
LONGEST_PATH = 4096  # of nested names
LONGEST_NAME = 120  # of a file's own words in a message
RECONSTRUCT = "_reconstruct_persistent_obj"
# Objects that weights are wrapped in: only their attributes are kept.
RECORDS = (
    ("dnnlib.util", "EasyDict"), ("dnnlib", "EasyDict"), ("dnnlib.tflib.network", "Network"), ("tfutil", "Network"),
    ("argparse", "Namespace"), ("torch.nn.modules.container", "ModuleList"),
    ("torch.nn.modules.container", "ModuleDict"), ("torch.nn.modules.container", "Sequential"),
    ("torch.nn.modules.linear", "Identity"),
)  # fmt: skip

Made = Callable[..., Any]
Find = Callable[[str, str], Any]


class Record(dict[str, Any]):
    """An object of a class that is not run: its attributes by name. kind: what the file calls its class."""

    kind: str = ""


class Kind(NamedTuple):
    """A class that the table admits as a `Record`."""

    name: str

    def __call__(self, *given: Any) -> Record:
        made = Record()
        made.kind = self.name
        return made


class RefusedError(UserError):
    """Something in a pickle that is not carried out."""


def shown(value: object) -> str:
    """A file's own word in one line of a message."""
    text = value if isinstance(value, str) else type(value).__name__
    text = text.encode("ascii", "backslashreplace").decode()
    text = "".join(c if c.isprintable() else "?" for c in text)
    return text if len(text) <= LONGEST_NAME else text[:LONGEST_NAME] + "..."


def refuse_name(module: str, name: str) -> RefusedError:
    return RefusedError(f"names {shown(module)}.{shown(name)}; only tensors, arrays, and plain containers are admitted")


# ---- the machine
_MARK = object()


class Reader:
    """A stack machine for one stream of pickles, which calls only what `find` returns.

    find(module, name): the value of a name, or raises RefusedError. persistent: of the stream's own references (torch's
    storages). size: bytes of the file, which all that is built is measured against.
    """

    def __init__(
        self, find: Find | None = None, persistent: Callable[[Any], Any] | None = None, *, size: int, depth: int = 0
    ) -> None:
        self.allowance = 4 * size + SLACK
        self.opcodes, self.depth, self.size = 0, depth, size
        self.find = find or table(self)
        self.persistent = persistent
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}

    def spend(self, bytes: int) -> None:
        """Draw on the allowance before memory is taken."""
        self.allowance -= bytes
        if self.allowance < 0:
            raise RefusedError("asks for more memory than a file of its size can need")

    def load(self, stream: BinaryIO) -> Any:
        """The object of the next pickle in the stream. Raises RefusedError, whatever is wrong with it."""
        self.stack, self.memo = [], {}
        try:
            for opcode, argument, _ in pickletools.genops(stream):
                self.opcodes += 1
                if self.opcodes > MOST_OPCODES:
                    raise RefusedError(f"has more than {MOST_OPCODES:,} opcodes")
                if opcode.name == "STOP":
                    return self._pop()
                action = ACTIONS.get(opcode.name)
                if action is None:
                    raise RefusedError(f"uses the opcode {opcode.name}, which weights have no need of")
                action(self, argument)
        except RefusedError:
            raise
        except RecursionError:
            raise RefusedError("is nested too deeply") from None
        except MemoryError:
            raise RefusedError("asks for more memory than there is") from None
        except Exception as error:  # a damaged pickle raises whatever it likes
            raise RefusedError(f"is damaged: {shown(str(error) or type(error).__name__)}") from error
        raise RefusedError("is damaged: it ends before its end")

    # ---- the stack
    def _pop(self) -> Any:
        if not self.stack or self.stack[-1] is _MARK:
            raise RefusedError("is damaged: it takes a value that is not there")
        return self.stack.pop()

    def _top(self) -> Any:
        if not self.stack or self.stack[-1] is _MARK:
            raise RefusedError("is damaged: it takes a value that is not there")
        return self.stack[-1]

    def _to_mark(self) -> list[Any]:
        for index in range(len(self.stack) - 1, -1, -1):
            if self.stack[index] is _MARK:
                found = self.stack[index + 1 :]
                del self.stack[index:]
                return found
        raise RefusedError("is damaged: a mark is missing")

    def push(self, value: Any) -> None:
        self.stack.append(value)

    def marked(self, _: Any) -> None:
        self.stack.append(_MARK)

    def drop(self) -> None:
        if not self.stack:
            raise RefusedError("is damaged: it takes a value that is not there")
        self.stack.pop()

    def drop_to_mark(self) -> None:
        self._to_mark()

    def take(self, count: int) -> list[Any]:
        values = [self._pop() for _ in range(count)]
        return values[::-1]

    def put(self, key: Any) -> None:
        self.memo[int(key)] = self._top()

    def memoize(self, _: Any) -> None:
        self.memo[len(self.memo)] = self._top()

    def get(self, key: Any) -> None:
        if int(key) not in self.memo:
            raise RefusedError("is damaged: it refers to a value that is not there")
        self.stack.append(self.memo[int(key)])

    # ---- containers
    def append(self, values: list[Any]) -> None:
        target = self._top()
        if type(target) is not list:
            raise RefusedError(f"appends to a {shown(target)}")
        target.extend(values)

    def set_items(self, values: list[Any]) -> None:
        target = self._top()
        if len(values) % 2:
            raise RefusedError("is damaged: a key has no value")
        if type(target) not in (dict, OrderedDict, Record):
            raise RefusedError(f"sets an item of a {shown(target)}")
        for key, value in zip(values[::2], values[1::2], strict=True):
            target[_key(key)] = value

    def add_items(self, values: list[Any]) -> None:
        target = self._top()
        if type(target) is not set:
            raise RefusedError(f"adds to a {shown(target)}")
        target.update(_key(value) for value in values)

    def contain(self, container: Any) -> None:
        self.spend(PER_CONTAINER)
        self.push(container)

    def dictionary(self, values: list[Any]) -> None:
        self.contain({})
        self.set_items(values)

    # ---- names and calls
    def name(self, module: Any, name: Any) -> None:
        if not (isinstance(module, str) and isinstance(name, str)):
            raise RefusedError("names something by other than words")
        self.push(self.find(module, name))

    def call(self) -> None:
        given, made = self._pop(), self._pop()
        if not isinstance(made, Kind | _Maker):
            raise RefusedError(f"calls a {shown(made)}")
        if type(given) is not tuple:
            raise RefusedError(f"calls with a {shown(given)} instead of a tuple")
        copied = sum(len(value) for value in given if isinstance(value, list | tuple | dict | set))
        self.spend(PER_CALL + PER_ITEM * copied)
        self.push(made(*given))

    def build(self) -> None:
        state, target = self._pop(), self._top()
        if isinstance(target, Record):
            parts = state if type(state) is tuple and len(state) == 2 else (state,)
            if not all(part is None or isinstance(part, dict) for part in parts):
                target["state"] = state
                return
            self.spend(PER_ITEM * sum(len(part or ()) for part in parts))
            for part in parts:
                target.update({_key(k): v for k, v in (part or {}).items()})
        elif isinstance(target, _Array):
            target.fill(state, self)
        elif isinstance(target, _Dtype):
            target.fill(state)
        elif isinstance(target, OrderedDict):
            if state and not isinstance(state, dict):  # `_metadata` of a state dict
                raise RefusedError("gives a dictionary a state of another kind")
        else:
            raise RefusedError(f"sets the state of a {shown(target)}")

    def refer(self, key: Any) -> None:
        if self.persistent is None:
            raise RefusedError("refers to storages outside of it, and there are none")
        self.push(self.persistent(key))


def _key(value: Any) -> Any:
    """Only scalars are hashed: a tuple of shared tuples takes for ever."""
    if value is None or type(value) in (str, int, float, bool, bytes):
        return value
    short = type(value) is tuple and len(value) <= MOST_RANK
    if short and all(v is None or type(v) in (str, int, float, bool) for v in value):
        return value
    raise RefusedError(f"uses a {shown(value)} as a key")


Action = Callable[[Reader, Any], None]


def _pushing(make: Callable[[Any], Any]) -> Action:
    return lambda reader, argument: reader.push(make(argument))


def _tuple(count: int) -> Action:
    return lambda reader, argument: reader.push(tuple(reader.take(count)))


def _named_on_stack(reader: Reader, _: Any) -> None:
    reader.name(*reader.take(2))


def _global(reader: Reader, argument: str) -> None:
    module, _, name = argument.partition(" ")
    reader.name(module, name)


def _new_with_keywords(reader: Reader, _: Any) -> None:
    keywords = reader._pop()
    if keywords:
        raise RefusedError("makes an object with keywords")
    reader.call()


ACTIONS: dict[str, Action] = {
    **{n: lambda reader, argument: None for n in ("PROTO", "FRAME")},
    **{n: _pushing(lambda a: a) for n in (
        "INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT", "BINSTRING",
        "SHORT_BINSTRING", "BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8", "STRING", "UNICODE",
        "SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8",
    )},
    "NONE": _pushing(lambda _: None),
    "NEWTRUE": _pushing(lambda _: True),
    "NEWFALSE": _pushing(lambda _: False),
    "EMPTY_LIST": lambda r, _: r.contain([]),
    "EMPTY_DICT": lambda r, _: r.contain({}),
    "EMPTY_SET": lambda r, _: r.contain(set()),
    "EMPTY_TUPLE": _pushing(lambda _: ()),
    "TUPLE1": _tuple(1),
    "TUPLE2": _tuple(2),
    "TUPLE3": _tuple(3),
    "MARK": Reader.marked,
    "POP": lambda r, _: r.drop(),
    "POP_MARK": lambda r, _: r.drop_to_mark(),
    "DUP": lambda r, _: r.push(r._top()),
    "TUPLE": lambda r, _: r.contain(tuple(r._to_mark())),
    "LIST": lambda r, _: r.contain(r._to_mark()),
    "DICT": lambda r, _: r.dictionary(r._to_mark()),
    "FROZENSET": lambda r, _: r.contain({_key(v) for v in r._to_mark()}),
    "APPEND": lambda r, _: r.append(r.take(1)),
    "APPENDS": lambda r, _: r.append(r._to_mark()),
    "SETITEM": lambda r, _: r.set_items(r.take(2)),
    "SETITEMS": lambda r, _: r.set_items(r._to_mark()),
    "ADDITEMS": lambda r, _: r.add_items(r._to_mark()),
    "PUT": Reader.put, "BINPUT": Reader.put, "LONG_BINPUT": Reader.put, "MEMOIZE": Reader.memoize,
    "GET": Reader.get, "BINGET": Reader.get, "LONG_BINGET": Reader.get,
    "GLOBAL": _global,
    "STACK_GLOBAL": _named_on_stack,
    "REDUCE": lambda r, _: r.call(),
    "NEWOBJ": lambda r, _: r.call(),
    "NEWOBJ_EX": _new_with_keywords,
    "BUILD": lambda r, _: r.build(),
    "BINPERSID": lambda r, _: r.refer(r._pop()),
    "PERSID": lambda r, argument: r.refer(argument),
}  # fmt: skip


# ---- what may be named
class _Maker:
    """One of our own functions, under a name that a pickle knows it by."""

    def __init__(self, function: Made) -> None:
        self.function = function

    def __call__(self, *given: Any) -> Any:
        return self.function(*given)


def maker(function: Made) -> Made:
    """A function that a table may hand to a pickle."""
    return _Maker(function)


def table(reader: Reader) -> Find:
    """What a pickle of weights may name."""
    known: dict[tuple[str, str], Any] = {
        ("torch._utils", "_rebuild_tensor_v2"): maker(rebuilt),
        ("torch._utils", "_rebuild_tensor"): maker(rebuilt),
        ("torch._utils", "_rebuild_parameter"): maker(lambda tensor, *rest: _tensor(tensor)),
        ("torch.storage", "_load_from_bytes"): maker(lambda data: _nested(data, reader)),
        ("torch", "Size"): maker(lambda sizes=(): tuple(sizes)),
        ("torch", "device"): maker(lambda *name: "cpu"),
        ("collections", "OrderedDict"): maker(_ordered),
        ("numpy", "ndarray"): _ARRAY,
        ("numpy", "dtype"): maker(lambda code, *rest: _Dtype(code)),
        ("_codecs", "encode"): maker(lambda text, code="latin1": _encoded(text, code, reader)),
        ("torch_utils.persistence", RECONSTRUCT): maker(lambda meta: _persistent(meta, reader)),
        ("copyreg", "__newobj__"): maker(lambda kind, *rest: _new(kind)),
        **{("torch", name): dtype for name, dtype in STORAGES.items()},
        **{("torch.storage", name): dtype for name, dtype in STORAGES.items()},
        **{("torch", name): getattr(torch, name) for name in DTYPES},
        **{(module, name): Kind(f"{module}.{name}") for module, name in RECORDS},
        **{(module, name): maker(kind) for module in ("builtins", "__builtin__") for name, kind in _PLAIN.items()},
    }
    for module in ("numpy.core", "numpy._core"):
        known[f"{module}.multiarray", "_reconstruct"] = maker(lambda *given: _Array())
        known[f"{module}.multiarray", "scalar"] = maker(_scalar)
        known[f"{module}.numeric", "_frombuffer"] = maker(lambda *given: _from_buffer(*given, reader=reader))

    def find(module: str, name: str) -> Any:
        if (module, name) not in known:
            raise refuse_name(module, name)
        return known[module, name]

    return find


_ARRAY = object()
_PLAIN: dict[str, Made] = {
    "set": lambda values=(): {_key(v) for v in values},
    "frozenset": lambda values=(): {_key(v) for v in values},
    "bytearray": lambda *given: given[0] if given and isinstance(given[0], bytes | bytearray) else b"",
    "bytes": lambda *given: given[0] if given and isinstance(given[0], bytes | bytearray) else b"",
}


def _new(kind: Any) -> Record:
    if not isinstance(kind, Kind):
        raise RefusedError(f"makes an object of a {shown(kind)}")
    return kind()


def _ordered(items: Any = ()) -> OrderedDict[Any, Any]:
    if type(items) not in (list, tuple):
        raise RefusedError(f"makes a dictionary of a {shown(items)}")
    if not all(type(item) in (list, tuple) and len(item) == 2 for item in items):
        raise RefusedError("makes a dictionary of other than pairs")
    return OrderedDict((_key(key), value) for key, value in items)


def _encoded(text: Any, code: Any, reader: Reader) -> bytes:
    if not isinstance(text, str) or code not in ("latin1", "latin-1"):
        raise RefusedError("encodes other than bytes as text")
    reader.spend(len(text))
    return text.encode("latin1")


def _persistent(meta: Any, reader: Reader) -> Record:
    """An object of NVIDIA's persistent classes: its class's name and its attributes; the source beside them is left."""
    if not isinstance(meta, dict) or meta.get("type") != "class" or not isinstance(meta.get("class_name"), str):
        raise RefusedError("has a persistent object that is none of a class")
    state = meta.get("state")
    if not isinstance(state, dict):
        raise RefusedError(f"has a persistent object whose state is a {shown(state)}")
    reader.spend(PER_ITEM * len(state))
    made = Record(state)
    made.kind = meta["class_name"]
    return made


# ---- tensors
def _tensor(value: Any) -> Tensor:
    if not isinstance(value, Tensor):
        raise RefusedError(f"makes a parameter of a {shown(value)}")
    return value


def _whole(values: Any) -> tuple[int, ...]:
    if type(values) not in (tuple, list) or not all(type(v) is int for v in values) or len(values) > MOST_RANK:
        raise RefusedError("has a shape that is none")
    return tuple(values)


def rebuilt(storage: Any, offset: Any, size: Any, stride: Any, *rest: Any) -> Tensor:
    """A view of a storage (a flat tensor). Refuses one that reaches beyond it, or has more numbers than it."""
    size, stride, (start,) = _whole(size), _whole(stride), _whole((offset,))
    if not isinstance(storage, Tensor) or storage.ndim != 1:
        raise RefusedError(f"makes a tensor of a {shown(storage)}")
    if len(size) != len(stride):
        raise RefusedError("has a tensor whose shape and strides do not fit")
    count = math.prod(size)
    last = start + sum((n - 1) * s for n, s in zip(size, stride, strict=True)) if count else start - 1
    if min((start, *size, *stride)) < 0 or count > storage.numel() or last >= storage.numel():
        raise RefusedError(f"has a tensor {list(size)} that reaches beyond its storage of {storage.numel()} numbers")
    return storage.as_strided(size, stride, start) if count else storage.new_empty(size)


def storage_of(data: bytes | memoryview, dtype: Any, numbers: Any, spend: Callable[[int], None]) -> Tensor:
    """A flat tensor of `numbers` numbers, which the bytes must hold."""
    if not isinstance(dtype, torch.dtype) or type(numbers) is not int or numbers < 0:
        raise RefusedError("has a storage of no known type")
    if len(data) != numbers * dtype.itemsize:
        raise RefusedError(f"declares a storage of {numbers} numbers and holds {len(data)} bytes of it")
    spend(len(data))
    return torch.frombuffer(bytearray(data), dtype=dtype) if data else torch.empty(0, dtype=dtype)


def reference(key: Any) -> tuple[torch.dtype, str, int]:
    """(type, name, numbers) of torch's reference to a storage."""
    if type(key) is not tuple or len(key) < 5 or key[0] != "storage" or not isinstance(key[1], torch.dtype):
        raise RefusedError("refers to something other than a storage")
    if not isinstance(key[2], str) or type(key[4]) is not int or any(part is not None for part in key[5:]):
        raise RefusedError("refers to a storage in a form that is not known")
    return key[1], key[2], key[4]


def _nested(data: Any, reader: Reader) -> Any:
    """The storage in bytes of torch.save, as tensors in a plain pickle have it."""
    if not isinstance(data, bytes | bytearray) or reader.depth:
        raise RefusedError("nests saved files in each other")
    inner = Reader(size=len(data), depth=reader.depth + 1)
    reader.spend(len(data))
    found = _legacy(io.BytesIO(data), inner, len(data))
    if not isinstance(found, Tensor):
        raise RefusedError("has a storage that is none")
    return found


def _legacy(stream: BinaryIO, reader: Reader, size: int, started: bool = False) -> Any:
    """torch.save's format before 1.6: magic, version, machine, object, names of storages, then their bytes in order.

    The object is read twice: once for the types of its storages, which follow it, and once with them in place.
    """
    if not started and not _is(reader.load(stream), LEGACY_MAGIC):
        raise RefusedError("is not a file of torch.save")
    machine = reader.load(stream) if _is(reader.load(stream), LEGACY_PROTOCOL) else None
    if not isinstance(machine, dict) or machine.get("little_endian") is not True:
        raise RefusedError("was saved in a version or byte order that is not known")
    start = stream.tell()
    dtypes: dict[str, tuple[torch.dtype, int]] = {}

    def note(key: Any) -> Tensor:
        dtype, name, numbers = reference(key)
        if dtypes.setdefault(name, (dtype, numbers)) != (dtype, numbers):
            raise RefusedError("declares one storage twice in different ways")
        return torch.empty(0, dtype=dtype)

    def passing(module: str, name: str) -> Any:
        found = usual(module, name)
        return maker(lambda *given: torch.empty(0)) if name.startswith("_rebuild") else found

    usual, reader.find, reader.persistent = reader.find, passing, note
    reader.load(stream)
    names = reader.load(stream)
    if type(names) is not list or not all(isinstance(n, str) for n in names) or set(names) != set(dtypes):
        raise RefusedError("lists other storages than it uses")
    storages = {}
    for name in names:
        dtype, numbers = dtypes[name]
        declared = int.from_bytes(stream.read(8), "little", signed=True)
        length = numbers * dtype.itemsize
        if declared != numbers or length > size:
            raise RefusedError(f"declares a storage of {numbers} numbers that is not there")
        storages[name] = storage_of(stream.read(length), dtype, numbers, reader.spend)
    reader.find, reader.persistent = usual, lambda key: storages[reference(key)[1]]
    stream.seek(start)
    return reader.load(stream)


# ---- numpy
class _Dtype:
    """A numpy dtype in the making."""

    def __init__(self, code: Any) -> None:
        if not isinstance(code, str) or len(code) > 3 or code[:1] not in tuple("biufc"):
            raise RefusedError(f"has an array of {shown(code)}, not of numbers")
        self.dtype = np.dtype(code)

    def fill(self, state: Any) -> None:
        order = state[1] if type(state) is tuple and len(state) > 1 else None
        if order not in ("<", ">", "|", "="):
            raise RefusedError("has an array of no known byte order")
        self.dtype = self.dtype.newbyteorder(order)


def _native(array: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    return array.astype(array.dtype.newbyteorder("="), copy=False)


def _array_of(data: Any, dtype: Any, shape: Any, order: str, reader: Reader | None) -> np.ndarray[Any, Any]:
    if not isinstance(dtype, _Dtype) or not isinstance(data, bytes | bytearray):
        raise RefusedError("has an array of other than numbers")
    sizes = _whole(shape)
    if min((0, *sizes)) < 0 or math.prod(sizes) * dtype.dtype.itemsize != len(data):
        raise RefusedError(f"declares an array {list(sizes)[:8]} and holds {len(data)} bytes of it")
    if reader is not None:
        reader.spend(len(data))
    return _native(np.frombuffer(bytearray(data), dtype=dtype.dtype).reshape(sizes, order="F" if order == "F" else "C"))


class _Array:
    """A numpy array in the making: empty until its state is set."""

    array: np.ndarray[Any, Any] | None = None

    def fill(self, state: Any, reader: Reader) -> None:
        if type(state) is not tuple or len(state) != 5:
            raise RefusedError("has an array in a form that is not known")
        _, shape, dtype, fortran, data = state
        self.array = _array_of(data, dtype, shape, "F" if fortran else "C", reader)


def _scalar(dtype: Any, data: Any = b"") -> Any:
    return _array_of(data, dtype, (), "C", None).item()


def _from_buffer(data: Any, dtype: Any, shape: Any, order: Any, *, reader: Reader) -> _Array:
    made = _Array()
    made.array = _array_of(data, dtype, shape, "F" if order == "F" else "C", reader)
    return made


# ---- files
def read_pickle(path: str | Path) -> Any:
    """The object of a pickle, or of a file of torch.save: tensors, arrays, numbers, text, containers and Records.

    Raises FileNotFoundError, and UserError with the file's name for anything that is not admitted or not whole.
    """
    path = Path(path).expanduser()
    if not path.is_file():
        raise FileNotFoundError(f"no file at {str(path)!r}.")
    try:
        size = path.stat().st_size
        with path.open("rb") as stream:
            if stream.read(len(ZIP)) == ZIP:
                return _zipped(path)
            stream.seek(0)
            reader = Reader(size=size)
            found = reader.load(stream)
            return _legacy(stream, reader, size, started=True) if _is(found, LEGACY_MAGIC) else found
    except RefusedError as error:
        raise UserError(f"{str(path)!r} is not read: it {error}. Nothing of it was run.") from error


def _is(value: Any, number: int) -> bool:
    return type(value) is int and value == number


def _zipped(path: Path) -> Any:
    """torch.save's zip: NAME/data.pkl, and NAME/data/KEY with the bytes of each storage, not compressed."""
    size = path.stat().st_size
    try:
        with zipfile.ZipFile(path) as archive:
            names = [n for n in archive.namelist() if n.count("/") == 1 and n.endswith("/data.pkl")]
            if len(names) != 1:
                raise RefusedError("is a zip, but not one of torch.save: it has no data.pkl")
            return archive_reader(archive, names[0].removesuffix("data.pkl"), size).load(
                io.BytesIO(member(archive, names[0], size))
            )
    except RefusedError:
        raise
    except (zipfile.BadZipFile, NotImplementedError, OSError, RuntimeError, EOFError, ValueError) as error:
        raise RefusedError(f"is a damaged zip: {shown(str(error))}") from error


def member(archive: zipfile.ZipFile, name: str, size: int) -> bytes:
    """A file of an archive, not compressed, as torch writes them: what it declares is what is there."""
    try:
        info = archive.getinfo(name)
    except KeyError:
        raise RefusedError(f"lacks its file {shown(name)}") from None
    if info.compress_type != zipfile.ZIP_STORED or info.file_size > size or info.compress_size != info.file_size:
        raise RefusedError(f"has a compressed file {shown(name)}, which torch.save does not write")
    return archive.read(info)


def archive_reader(archive: zipfile.ZipFile, root: str, size: int, extra: Mapping[Any, Any] | None = None) -> Reader:
    """A reader whose storages lie in an archive. extra: more names that it may meet -> what they stand for."""
    storages: dict[str, Tensor] = {}

    def fetch(key: Any) -> Tensor:
        dtype, name, numbers = reference(key)
        if name not in storages:
            data = member(archive, f"{root}data/{name}", size)
            if len(data) % dtype.itemsize:
                raise RefusedError(f"holds a storage of {len(data)} bytes, which are no numbers")
            storages[name] = storage_of(data, dtype, len(data) // dtype.itemsize, reader.spend)
        found = storages[name]
        if found.dtype != dtype or found.numel() != numbers:
            raise RefusedError(f"declares a storage of {numbers} numbers and holds {found.numel()}")
        return found

    reader = Reader(persistent=fetch, size=size)
    usual = reader.find

    def find(module: str, name: str) -> Any:
        for (prefix, wanted), value in (extra or {}).items():
            if module.startswith(prefix) and wanted in ("*", name):
                return value
        return usual(module, name)

    reader.find = find
    return reader


def plain(value: Any) -> Any:
    """An array that a reader made as a numpy array; everything else as it is."""
    return value.array if isinstance(value, _Array) else value


def walk(found: Any) -> Iterator[tuple[str, Tensor]]:
    """Every tensor in nested containers, with its path. Raises RefusedError for what refers to itself or never ends."""
    left = [MOST_VALUES]

    def inside(value: Any, prefix: str, depth: int) -> Iterator[tuple[str, Tensor]]:
        left[0] -= 1
        if depth > DEEPEST or left[0] < 0 or len(prefix) > LONGEST_PATH:
            raise RefusedError(f"has containers nested more than {DEEPEST} deep, or more than {MOST_VALUES:,} values")
        value = plain(value)
        if isinstance(value, Tensor):
            yield prefix, value.detach()
        elif isinstance(value, np.ndarray):
            yield prefix, torch.from_numpy(value)
        elif isinstance(value, Mapping):
            for name, item in value.items():
                yield from inside(item, f"{prefix}.{name}" if prefix else str(name), depth + 1)
        elif isinstance(value, list | tuple):
            for index, item in enumerate(value):
                yield from inside(item, f"{prefix}.{index}" if prefix else str(index), depth + 1)

    yield from inside(found, "", 0)
