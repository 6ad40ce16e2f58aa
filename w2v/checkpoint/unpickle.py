"""A reader of pickles that can build plain data and tensors, and nothing else.

Checkpoints of the original hold pickled `argparse.Namespace`, omegaconf nodes and classes of fairseq. Neither Python's
unpickler (it calls whatever a file names) nor torch's (its table is global and public) is used: this machine walks the
opcodes itself, looks every name up in the closed table below, imports nothing and calls nothing but the table's own
functions. Size, depth and number of opcodes are bounded. Files and storages are `torch_file`'s business.

Why not `torch.load(weights_only=True)`: it had CVE-2025-32434 (up to torch 2.5.1) and CVE-2026-24747 (up to 2.9.1).
This reader is as safe on every torch that we support.
"""

from __future__ import annotations

import functools
import math
import pickle
import re
import struct
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol, cast, overload

import numpy as np
import torch

MAX_OPCODES = 250_000
"""The state of 24 blocks with their optimizer takes 60,000; this many take a third of a second."""
MAX_INTEGER_BITS = 128
MAX_NODES = 200_000
MAX_DEPTH = 24
MAX_TEXT = 1_000_000


class UnsafePickleError(Exception):
    """A pickle names or does something that no checkpoint needs."""


@dataclass(frozen=True)
class Name:
    """A global name of the table: a type that is never instantiated, or a key of `_BUILDERS`."""

    path: str


@dataclass(eq=False)
class Record:
    """An object of a foreign class, as its attributes.

    Attributes:
        name: the class, such as `argparse.Namespace`.
        fields: attribute name -> value.
    """

    name: str
    fields: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class StorageKey:
    """What a pickle says of a tensor's storage: `key` names a record of the file."""

    dtype: torch.dtype
    key: str
    numel: int


Storage = Callable[[StorageKey], torch.UntypedStorage]
"""Finds a storage; raises `UnsafePickleError` where the file does not hold it."""

DTYPES = {
    "torch.FloatStorage": torch.float32, "torch.DoubleStorage": torch.float64, "torch.HalfStorage": torch.float16,
    "torch.BFloat16Storage": torch.bfloat16, "torch.LongStorage": torch.int64, "torch.IntStorage": torch.int32,
    "torch.ShortStorage": torch.int16, "torch.CharStorage": torch.int8, "torch.ByteStorage": torch.uint8,
    "torch.BoolStorage": torch.bool, "torch.storage.UntypedStorage": torch.uint8,
}  # fmt: skip
DTYPES |= {name.replace("torch.", "torch.cuda."): dtype for name, dtype in DTYPES.items() if name.count(".") == 1}

OMEGACONF = {
    f"omegaconf.{name}"
    for name in (
        "dictconfig.DictConfig", "listconfig.ListConfig", "base.Metadata", "base.ContainerMetadata",
        *(f"nodes.{kind}Node" for kind in ("Any", "String", "Integer", "Float", "Boolean", "Enum", "Path", "Bytes")),
    )
}  # fmt: skip
INERT_TYPES = {
    *(f"builtins.{kind}" for kind in ("dict", "list", "tuple", "int", "long", "float", "str", "unicode", "bool")),
    "builtins.object", "builtins.NoneType", "typing.Any", "typing.Optional", "typing.Union",
    *(f"numpy.{kind}{bits}" for kind in ("float", "int", "uint") for bits in (16, 32, 64)),
}  # fmt: skip
FAIRSEQ_CLASS = re.compile(r"fairseq(\.[a-z_0-9]+)+\.[A-Z]\w*")
FAIRSEQ_ENUM = re.compile(r"fairseq\.dataclass(\.[a-z_0-9]+)*\.[A-Z]\w*")
RENAMED = (("__builtin__.", "builtins."), ("copy_reg.", "copyreg."), ("numpy.core.", "numpy._core."))
# The dtypes of numbers; anything else ('O': python objects) is refused.
NUMPY_KINDS = re.compile(r"[fiub][1248]|\?")


def is_record(path: str) -> bool:
    """Say whether `path` is a class whose objects are read as `Record`."""
    return path == "argparse.Namespace" or path in OMEGACONF or FAIRSEQ_CLASS.fullmatch(path) is not None


# ------------------------------------------------------------------------------------------ builders


def _as_dict(*args: Any) -> dict[Any, Any]:
    pairs = args[0] if args and not isinstance(args[0], Name) else []
    if isinstance(pairs, dict):
        return dict(pairs)
    result: dict[Any, Any] = {}
    for pair in _sequence(pairs):
        key, value = _sequence(pair)
        result[_key(key)] = value
    return result


def _as_set(items: Any = ()) -> set[Any]:
    return {_key(item) for item in _sequence(items)}


def _encode(text: Any, encoding: Any = "latin1") -> bytes:
    if not isinstance(text, str) or encoding not in ("latin1", "ascii", "utf-8"):
        raise UnsafePickleError("a call of _codecs.encode with odd arguments")
    return text.encode(encoding, "replace")


def _reconstruct(cls: Any, base: Any, state: Any) -> Record:
    if not isinstance(cls, Name) or not is_record(cls.path):
        raise UnsafePickleError(f"an object of {_called(cls)}")
    return Record(cls.path)


def _numpy_dtype(code: Any, *_: Any) -> Record:
    if not isinstance(code, str) or not NUMPY_KINDS.fullmatch(code):
        raise UnsafePickleError(f"a numpy array or number of type {str(code)[:20]!r}")
    return Record("numpy.dtype", {"code": code})


def _numpy_scalar(dtype: Any, content: Any) -> Any:
    if not isinstance(dtype, Record) or dtype.name != "numpy.dtype" or not isinstance(content, bytes):
        raise UnsafePickleError("a numpy number of an odd kind")
    kind = np.dtype(dtype.fields["code"])
    if len(content) != kind.itemsize:
        raise UnsafePickleError("a numpy number of an odd size")
    return np.frombuffer(content, kind)[0].item()


def _size(sizes: Any = ()) -> tuple[Any, ...]:
    return tuple(_sequence(sizes))


def _device(*args: Any) -> str:
    return str(args[0])[:20] if args else "cpu"


_BUILDERS: dict[str, Callable[..., Any]] = {
    "collections.OrderedDict": _as_dict,
    "collections.defaultdict": lambda *args: _as_dict(*args[1:]),
    "collections.Counter": _as_dict,
    "builtins.set": _as_set,
    "builtins.frozenset": _as_set,
    "_codecs.encode": _encode,
    "copyreg._reconstructor": _reconstruct,
    "numpy.dtype": _numpy_dtype,
    "numpy._core.multiarray.scalar": _numpy_scalar,
    "torch.Size": _size,
    "torch.device": _device,
}
_TENSOR_BUILDERS = {
    "torch._utils._rebuild_tensor", "torch._utils._rebuild_tensor_v2", "torch._utils._rebuild_parameter",
}  # fmt: skip
_TORCH_DTYPES = {
    f"torch.{name}"
    for name in ("float16", "bfloat16", "float32", "float64", "int8", "int16", "int32", "int64", "uint8")
} | {"torch.bool"}


def _sequence(value: Any) -> Any:
    if not isinstance(value, (list, tuple)):
        raise UnsafePickleError(f"a sequence that is a {type(value).__name__}")
    return value


def _key(value: Any) -> Any:
    """Check a key of a dict: hashing nested tuples of a hostile file takes exponential time."""
    if isinstance(value, tuple) and all(isinstance(item, (str, int)) for item in value) and len(value) < 8:
        return value
    if value is not None and not isinstance(value, (str, int, bytes)):
        raise UnsafePickleError(f"a key that is a {type(value).__name__}")
    return value


def _called(value: Any) -> str:
    return value.path if isinstance(value, Name) else f"a {type(value).__name__}"


# ------------------------------------------------------------------------------------------ tensors


def _tensor(find: Storage, storage: Any, offset: Any, size: Any, stride: Any, *_: Any) -> torch.Tensor:
    """Build a tensor; every element must lie in the storage, and no two may share a place."""
    numbers = (offset, *_sequence(size), *_sequence(stride))
    if not isinstance(storage, StorageKey) or len(size) != len(stride) or len(size) > 8:
        raise UnsafePickleError("a tensor without a storage or a shape")
    if any(type(number) is not int or number < 0 for number in numbers):
        raise UnsafePickleError("a tensor of an odd shape")
    last = offset + sum((length - 1) * step for length, step in zip(size, stride, strict=True))
    if 0 in size and max(size) < 2**31:
        find(storage)
        return torch.empty(tuple(size), dtype=storage.dtype)
    if last >= storage.numel or math.prod(size) > storage.numel:
        raise UnsafePickleError("a tensor larger than its storage")
    return torch.empty(0, dtype=storage.dtype).set_(cast(Any, find(storage)), offset, tuple(size), tuple(stride))


def _storage_key(value: Any) -> StorageKey:
    """Read `('storage', type, key, location, numel[, view])`."""
    if (
        not isinstance(value, tuple)
        or len(value) not in (5, 6)
        or value[0] != "storage"
        or value[5:] not in ((), (None,))
    ):
        raise UnsafePickleError("a persistent id that is no storage")
    _, kind, key, _, numel = value[:5]
    if not isinstance(kind, Name) or kind.path not in DTYPES:
        raise UnsafePickleError(f"a storage of type {_called(kind)}")
    if not isinstance(key, str) or type(numel) is not int or not 0 <= numel < 2**48:
        raise UnsafePickleError("a storage of an odd size")
    return StorageKey(DTYPES[kind.path], key, numel)


# ------------------------------------------------------------------------------------------ machine


class _Mark:
    pass


_MARK = _Mark()
# Opcodes with an argument of fixed size.
_FIXED = {
    "BININT": "<i", "BININT1": "<B", "BININT2": "<H", "BINFLOAT": ">d", "BINPUT": "<B", "LONG_BINPUT": "<I",
    "BINGET": "<B", "LONG_BINGET": "<I", "PROTO": "<B", "FRAME": "<Q",
}  # fmt: skip
# Opcodes whose argument begins with its length.
_COUNTED = {
    "BINUNICODE": "<I", "SHORT_BINUNICODE": "<B", "BINUNICODE8": "<Q", "BINBYTES": "<I", "SHORT_BINBYTES": "<B",
    "BINBYTES8": "<Q", "BINSTRING": "<i", "SHORT_BINSTRING": "<B", "LONG1": "<B", "LONG4": "<i",
}  # fmt: skip
# Opcodes without an argument. Those of protocol 0, which are lines of text, are written by no version of torch.
_BARE = (
    "NONE", "NEWTRUE", "NEWFALSE", "MARK", "POP", "POP_MARK", "DUP", "MEMOIZE", "TUPLE", "EMPTY_TUPLE", "TUPLE1",
    "TUPLE2", "TUPLE3", "EMPTY_LIST", "LIST", "APPEND", "APPENDS", "EMPTY_DICT", "DICT", "SETITEM", "SETITEMS",
    "EMPTY_SET", "ADDITEMS", "STACK_GLOBAL", "BINPERSID", "REDUCE", "NEWOBJ", "BUILD",
)  # fmt: skip
_GLOBAL, _STOP = pickle.GLOBAL[0], pickle.STOP[0]


def _long(content: bytes) -> int:
    if len(content) * 8 > MAX_INTEGER_BITS:
        raise UnsafePickleError(f"a number of {len(content)} bytes")
    return int.from_bytes(content, "little", signed=True)


def _decoder(name: str) -> Callable[[bytes], Any]:
    if name.startswith("LONG"):
        return _long
    if name.endswith("BYTES") or name.endswith("BYTES8"):
        return bytes
    encoding = "utf-8" if "UNICODE" in name else "latin1"
    return lambda content: content.decode(encoding, "surrogatepass" if encoding == "utf-8" else "strict")


class Content(Protocol):
    """Bytes, or a mapped file."""

    def __len__(self) -> int: ...
    @overload
    def __getitem__(self, place: int) -> int: ...
    @overload
    def __getitem__(self, place: slice) -> bytes: ...
    def find(self, sub: bytes, start: int, stop: int, /) -> int: ...


class Unpickler:
    """Walks one pickle.

    Args:
        find: gives the storage of a tensor.
    """

    def __init__(self, find: Storage) -> None:
        self._find = find
        self._stack: list[Any] = []
        self._memo: dict[int, Any] = {}
        self._table: list[Any] = [None] * 256
        for name, layout in {**_FIXED, **_COUNTED, **dict.fromkeys(_BARE)}.items():
            decode = _decoder(name) if name in _COUNTED else None
            step = getattr(self, f"_op_{name.lower()}", self._stack.append)
            self._table[getattr(pickle, name)[0]] = (struct.Struct(layout) if layout else None, decode, step)

    def load(self, content: Content, place: int = 0) -> tuple[Any, int]:
        """Read the pickle that begins at `place`; return what it holds, and the place behind it.

        Raises:
            UnsafePickleError: it names something outside the table, or is damaged or beyond bounds.
        """
        try:
            place = self._run(content, place)
            result = self._pop()
        except (IndexError, KeyError) as e:
            raise UnsafePickleError("a pickle that is damaged") from e
        except (ValueError, TypeError, OverflowError, RecursionError, struct.error) as e:
            raise UnsafePickleError(f"a pickle that is damaged ({str(e)[:80]})") from e
        if self._stack:
            raise UnsafePickleError("a pickle that leaves something behind")
        self._memo.clear()
        return result, place

    def _run(self, content: Content, place: int) -> int:
        table, size = self._table, len(content)
        for _ in range(MAX_OPCODES):
            code = content[place]
            place += 1
            entry = table[code]
            if entry is None:
                if code == _STOP:
                    return place
                if code != _GLOBAL:
                    raise UnsafePickleError(f"the opcode {code:#x}")
                place = self._global(content, place)
                continue
            layout, decode, step = entry
            argument = None
            if layout is not None:
                (argument,) = layout.unpack_from(content, place)
                place += layout.size
                if decode is not None:
                    stop = place + argument
                    if not place <= stop <= size:
                        raise UnsafePickleError("a pickle that is cut short")
                    argument = decode(content[place:stop])
                    place = stop
            step(argument)
        raise UnsafePickleError(f"more than {MAX_OPCODES} opcodes")

    def _global(self, content: Content, place: int) -> int:
        """Read `module` and `name`, each a line."""
        middle = content.find(b"\n", place, place + 1000)
        end = content.find(b"\n", middle + 1, middle + 1001)
        if middle < 0 or end < 0:
            raise UnsafePickleError("a name without an end")
        self._stack.append(_look_up(content[place:middle].decode("utf-8"), content[middle + 1 : end].decode("utf-8")))
        return end + 1

    def _op_proto(self, _: Any) -> None:
        pass

    _op_frame = _op_proto

    def _op_none(self, _: Any) -> None:
        self._stack.append(None)

    def _op_newtrue(self, _: Any) -> None:
        self._stack.append(True)

    def _op_newfalse(self, _: Any) -> None:
        self._stack.append(False)

    def _pop(self) -> Any:
        value = self._stack.pop()
        if value is _MARK:
            raise UnsafePickleError("a pickle that is damaged")
        return value

    def _pop_to_mark(self) -> list[Any]:
        stack = self._stack
        for place in range(len(stack) - 1, -1, -1):
            if stack[place] is _MARK:
                items = stack[place + 1 :]
                del stack[place:]
                return items
        raise UnsafePickleError("a pickle that is damaged")

    # -------------------------------------------------------------------------------- memo and stack

    def _op_mark(self, _: Any) -> None:
        self._stack.append(_MARK)

    def _op_pop(self, _: Any) -> None:
        self._stack.pop()

    def _op_pop_mark(self, _: Any) -> None:
        self._pop_to_mark()

    def _op_dup(self, _: Any) -> None:
        self._stack.append(self._stack[-1])

    def _op_binput(self, number: Any) -> None:
        self._memo[number] = self._stack[-1]

    _op_long_binput = _op_binput

    def _op_memoize(self, _: Any) -> None:
        self._memo[len(self._memo)] = self._stack[-1]

    def _op_binget(self, number: Any) -> None:
        self._stack.append(self._memo[number])

    _op_long_binget = _op_binget

    # ------------------------------------------------------------------------------------ containers

    def _op_tuple(self, _: Any) -> None:
        self._stack.append(tuple(self._pop_to_mark()))

    def _op_empty_tuple(self, _: Any) -> None:
        self._stack.append(())

    def _op_tuple1(self, _: Any) -> None:
        self._stack.append((self._pop(),))

    def _op_tuple2(self, _: Any) -> None:
        second, first = self._pop(), self._pop()
        self._stack.append((first, second))

    def _op_tuple3(self, _: Any) -> None:
        third, second, first = self._pop(), self._pop(), self._pop()
        self._stack.append((first, second, third))

    def _op_empty_list(self, _: Any) -> None:
        self._stack.append([])

    def _op_list(self, _: Any) -> None:
        self._stack.append(self._pop_to_mark())

    def _op_append(self, _: Any) -> None:
        self._append([self._pop()])

    def _op_appends(self, _: Any) -> None:
        self._append(self._pop_to_mark())

    def _append(self, items: list[Any]) -> None:
        target = self._stack[-1]
        if not isinstance(target, list):
            raise UnsafePickleError("items for something that is no list")
        target.extend(items)

    def _op_empty_dict(self, _: Any) -> None:
        self._stack.append({})

    def _op_dict(self, _: Any) -> None:
        items = self._pop_to_mark()
        self._stack.append({})
        self._set(items)

    def _op_setitem(self, _: Any) -> None:
        value, key = self._pop(), self._pop()
        self._set([key, value])

    def _op_setitems(self, _: Any) -> None:
        self._set(self._pop_to_mark())

    def _set(self, items: list[Any]) -> None:
        target = self._stack[-1]
        if not isinstance(target, dict) or len(items) % 2:
            raise UnsafePickleError("items for something that is no dict")
        for place in range(0, len(items), 2):
            target[_key(items[place])] = items[place + 1]

    def _op_empty_set(self, _: Any) -> None:
        self._stack.append(set())

    def _op_additems(self, _: Any) -> None:
        items, target = self._pop_to_mark(), self._stack[-1]
        if not isinstance(target, set):
            raise UnsafePickleError("items for something that is no set")
        target.update(_key(item) for item in items)

    # ---------------------------------------------------------------------------- names and objects

    def _op_stack_global(self, _: Any) -> None:
        name, module = self._pop(), self._pop()
        if not isinstance(name, str) or not isinstance(module, str):
            raise UnsafePickleError("a name that is no text")
        self._stack.append(_look_up(module, name))

    def _op_binpersid(self, _: Any) -> None:
        self._stack.append(_storage_key(self._pop()))

    def _op_reduce(self, _: Any) -> None:
        arguments, name = self._pop(), self._pop()
        if not isinstance(name, Name) or not isinstance(arguments, tuple):
            raise UnsafePickleError(f"a call of {_called(name)}")
        self._stack.append(self._call(name.path, arguments))

    def _call(self, path: str, arguments: tuple[Any, ...]) -> Any:
        if path in _BUILDERS:
            return _BUILDERS[path](*arguments)
        if path == "torch._utils._rebuild_parameter":
            if not arguments or not isinstance(arguments[0], torch.Tensor):
                raise UnsafePickleError("a parameter that is no tensor")
            return arguments[0]
        if path in _TENSOR_BUILDERS:
            return _tensor(self._find, *arguments)
        if FAIRSEQ_ENUM.fullmatch(path) and len(arguments) == 1 and isinstance(arguments[0], (str, int)):
            return arguments[0]  # a member of an enum is its value
        raise UnsafePickleError(f"a call of {path}")

    def _op_newobj(self, _: Any) -> None:
        arguments, cls = self._pop(), self._pop()
        if not isinstance(cls, Name) or arguments != ():
            raise UnsafePickleError(f"an object of {_called(cls)}")
        if is_record(cls.path):
            self._stack.append(Record(cls.path))
        elif cls.path in ("collections.OrderedDict", "collections.defaultdict"):
            self._stack.append({})
        else:
            raise UnsafePickleError(f"an object of {cls.path}")

    def _op_build(self, _: Any) -> None:
        state, target = self._pop(), self._stack[-1]
        if isinstance(target, dict):
            return  # the `_metadata` that torch hangs on state dicts
        if not isinstance(target, Record):
            raise UnsafePickleError(f"a state for a {type(target).__name__}")
        if target.name == "numpy.dtype":
            if not isinstance(state, tuple) or len(state) < 2 or state[1] not in ("<", "|", "="):
                raise UnsafePickleError("a numpy number of an odd byte order")
            return
        for part in state if isinstance(state, tuple) else (state,):
            if isinstance(part, dict):
                target.fields.update({str(name): value for name, value in part.items()})
            elif part is not None:
                raise UnsafePickleError(f"a state of {target.name} that is a {type(part).__name__}")


@functools.lru_cache(maxsize=256)
def _look_up(module: str, name: str) -> Name:
    """Return the entry of the table.

    Raises:
        UnsafePickleError: there is none.
    """
    path = f"{module}.{name}"
    for old, new in RENAMED:
        if path.startswith(old):
            path = new + path.removeprefix(old)
    known = (
        path in _BUILDERS or path in _TENSOR_BUILDERS or path in DTYPES or path in INERT_TYPES or path in _TORCH_DTYPES
    )
    if not known and not is_record(path):
        raise UnsafePickleError(f"the name {path[:120]}")
    return Name(path)


# ------------------------------------------------------------------------------------------ plain data


def plain_data(value: Any) -> Any:
    """Turn what was unpickled into dicts, lists, text and numbers; tensors are refused.

    Namespaces, configurations of omegaconf and other objects become dicts (or their value); interpolations such as
    `${task.data}` stay text.

    Raises:
        UnsafePickleError: it is deeper or larger than any configuration.
    """
    return _Plain().read(value, 0)


class _Plain:
    def __init__(self) -> None:
        self.num_nodes = 0

    def read(self, value: Any, depth: int) -> Any:
        self.num_nodes += 1
        if depth > MAX_DEPTH or self.num_nodes > MAX_NODES:
            raise UnsafePickleError("a configuration that is too large or too deep")
        if isinstance(value, Record):
            return self._record(value, depth)
        if isinstance(value, dict):
            return {str(key)[:1000]: self.read(item, depth + 1) for key, item in value.items()}
        if isinstance(value, (list, tuple)):
            return [self.read(item, depth + 1) for item in value]
        if isinstance(value, (set, frozenset)):
            return [self.read(item, depth + 1) for item in sorted(value, key=str)]
        if isinstance(value, (str, bytes)) and len(value) > MAX_TEXT:
            raise UnsafePickleError(f"a text of {len(value)} characters in the configuration")
        if isinstance(value, bytes):
            return value.decode("latin1")
        if isinstance(value, Name):
            return value.path
        if value is None or isinstance(value, (str, int, float, bool)):
            return value
        raise UnsafePickleError(f"a {type(value).__name__} in the configuration")

    def _record(self, value: Record, depth: int) -> Any:
        if value.name in OMEGACONF:
            if "_content" in value.fields:
                return self.read(value.fields["_content"], depth + 1)
            return self.read(value.fields.get("_val"), depth + 1)
        return {name: self.read(item, depth + 1) for name, item in value.fields.items()}
