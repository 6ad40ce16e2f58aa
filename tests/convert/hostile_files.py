"""Makes files that try to run code, to eat memory or to keep the reader busy. Every one must be refused."""

from __future__ import annotations

import io
import json
import pickle
import struct
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

MAGIC = 0x1950A86A20F9469CFC6C


def archive(data: bytes, **more: bytes) -> bytes:
    """Return a file of `torch.save` whose pickle is `data`."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as writer:
        writer.writestr("archive/data.pkl", data)
        writer.writestr("archive/byteorder", b"little")
        for name, content in more.items():
            writer.writestr(f"archive/data/{name.removeprefix('s')}", content)
        writer.writestr("archive/version", b"3\n")
    return file.getvalue()


def text(value: str) -> bytes:
    return b"X" + struct.pack("<I", len(value.encode())) + value.encode()


def call(name: str, *arguments: bytes) -> bytes:
    """Return a pickle that calls `module name` with pickled arguments."""
    return b"\x80\x02c" + name.replace(" ", "\n").encode() + b"\n(" + b"".join(arguments) + b"tR."


def inner(data: bytes) -> bytes:
    """Strip a pickle's head and end, to put it inside another one."""
    return data[2:-1]


def attribute(module: str, *names: str) -> bytes:
    """Pickle `getattr(getattr(module, a), b)`, after import_module."""
    value = inner(call("importlib import_module", text(module)))
    for name in names:
        value = b"cbuiltins\ngetattr\n(" + value + text(name) + b"tR"
    return value


def checkpoint_with(value: bytes) -> bytes:
    """A fairseq checkpoint whose `args` is the pickled `value`."""
    state = text("model") + b"}" + text("w") + inner(TENSOR) + b"s"
    return b"\x80\x02}(" + text("args") + value + state + b"u."


def tensor(numel: int, size: tuple[int, ...], stride: tuple[int, ...], offset: int = 0, key: str = "0") -> bytes:
    def number(value: int) -> bytes:
        return b"\x8a\x09" + value.to_bytes(9, "little", signed=True)

    storage = b"(" + text("storage") + b"ctorch\nFloatStorage\n" + text(key) + text("cpu") + number(numel) + b"tQ"
    sizes = b"".join(b"(" + b"".join(number(n) for n in numbers) + b"t" for numbers in (size, stride))
    head = b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n(" + storage + number(offset) + sizes
    return head + b"\x89ccollections\nOrderedDict\n)RtR."


TENSOR = tensor(2, (2,), (1,))


def legacy(*pickles: bytes, rest: bytes = b"") -> bytes:
    return b"".join(pickles) + rest


def dumps(value: Any) -> bytes:
    return pickle.dumps(value, protocol=2)


def namespace(**options: Any) -> bytes:
    """Pickle `argparse.Namespace(**options)`."""
    return b"cargparse\nNamespace\n)\x81" + inner(dumps(options)) + b"b"


def nested_lists(depth: int) -> bytes:
    return b"\x80\x02" + b"]" * depth + b"a" * (depth - 1) + b"."


def doubling(levels: int, opcode: bytes) -> bytes:
    """A value of 2 ** levels nodes, each level holding the one below twice."""
    return (
        b"\x80\x02"
        + opcode
        + b"".join(b"2\x86" if opcode == b")" else b"q\x01(h\x01h\x01l" for _ in range(levels))
        + b"."
    )


def scripted(path: Path) -> None:
    torch.jit.save(torch.jit.script(torch.nn.Linear(2, 2)), str(path))


def compressed(path: Path) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as writer:
        writer.writestr("archive/data.pkl", bytes(400_000_000))


def named(*names: str) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as writer:
        for name in names:
            writer.writestr(name, dumps({"model": {}}))
    return file.getvalue()


def tar() -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=tarfile.USTAR_FORMAT) as writer:
        for name in ("sys_info", "pickle", "storages"):
            content = call("os system", text("true"))
            info = tarfile.TarInfo(name)
            info.size = len(content)
            writer.addfile(info, io.BytesIO(content))
    return file.getvalue()


def many_records() -> bytes:
    end = struct.pack("<4s4H2LH", b"PK\x05\x06", 0, 0, 65534, 65534, 0, 4, 0)
    return b"PK\x03\x04" + bytes(40) + end


def own_with(**options: Any) -> bytes:
    """A checkpoint of our own format."""
    config = {"task": {"_name": "audio_pretraining", "data": "."}, "model": {"_name": "wav2vec2"}, **options}
    state = text("model") + b"}" + text("w") + inner(TENSOR) + b"s"
    return archive(
        b"\x80\x02}(" + text("format_version") + b"K\x01" + text("config") + inner(dumps(config)) + state + b"u.",
        s0=bytes(8),
    )


def fairseq_with(**options: Any) -> bytes:
    args = {"arch": "wav2vec2", "task": "audio_pretraining", "criterion": "wav2vec", **options}
    return archive(checkpoint_with(namespace(**args)), s0=bytes(8))


def hostile(marker: Path) -> dict[str, bytes | Callable[[Path], None]]:
    """Return the content of each file, or what writes it; if any of it runs, `marker` appears."""
    shell = text(f"touch {marker}")
    python = text(f"open({str(marker)!r}, 'w')")
    command = inner(dumps(["touch", str(marker)]))
    calls = {
        "os.system": call("os system", shell),
        "posix.system": call("posix system", shell),
        "nt.system": call("nt system", shell),
        "subprocess.Popen": call("subprocess Popen", command),
        "subprocess.check_output": call("subprocess check_output", command),
        "pty.spawn": call("pty spawn", command),
        "builtins.eval": call("builtins eval", python),
        "__builtin__.eval": call("__builtin__ eval", python),
        "builtins.exec": call("builtins exec", python),
        "builtins.compile": call("builtins compile", python, text("x"), text("exec")),
        "builtins.__import__": call("builtins __import__", text("this")),
        "builtins.open": call("builtins open", text(str(marker)), text("w")),
        "builtins.bytearray": call("builtins bytearray", b"\x8a\x06\x00\x00\x00\x00\x00\x10"),
        "getattr chain": b"\x80\x02" + attribute("os", "system") + b"(" + shell + b"tR.",
        "operator.attrgetter": b"\x80\x02"
        + inner(call("operator attrgetter", text("system")))
        + b"("
        + attribute("os")
        + b"tR.",
        "operator.methodcaller": call("operator methodcaller", text("system"), shell),
        "functools.partial": call("functools partial", b"cos\nsystem\n", shell),
        "functools.reduce": call("functools reduce", b"cos\nsystem\n", inner(dumps([1, 2]))),
        "runpy": call("runpy _run_code", python, b"}"),
        "importlib": call("importlib import_module", text("antigravity")),
        "ctypes": call("ctypes CDLL", text("libc.so.6")),
        "webbrowser": call("webbrowser open", text("http://localhost/")),
        "socket": call("socket create_connection", inner(dumps(("localhost", 9)))),
        "code object": call("types CodeType", inner(dumps(tuple(range(16))))),
        "function": call("types FunctionType", b"N", b"}"),
        "marshal": call("marshal loads", inner(dumps("x"))),
        "nested pickle": call("pickle loads", inner(dumps(call("os system", shell).decode("latin1")))),
        "cloudpickle": call("cloudpickle.cloudpickle _builtin_type", text("CodeType")),
        "dill": call("dill._dill _create_function", b"N"),
        "joblib": call("joblib.numpy_pickle load", text("x")),
        "copyreg.__newobj__": call("copyreg __newobj__", b"cos\nsystem\n"),
        "copyreg._reconstructor": call("copyreg _reconstructor", b"cos\nsystem\n", b"cbuiltins\nobject\n", b"N"),
        "sys.modules": b"\x80\x02csys\nmodules\n.",
        "numpy objects": call("numpy.core.multiarray _reconstruct", b"cnumpy\nndarray\n", b"(K\x00t", text("b")),
        "numpy object scalar": call("numpy.core.multiarray scalar", inner(call("numpy dtype", text("O8"))), text("x")),
        "numpy runstring": call("numpy.testing._private.utils runstring", python, b"}"),
        "torch.load": call("torch load", text("other.pt")),
        "nested archive": call("torch.storage _load_from_bytes", inner(dumps("PK"))),
        "torch.hub": call("torch.hub load", text("evil/repo"), text("model")),
        "torch.jit.load": call("torch.jit load", text("x")),
        "torch module": b"\x80\x02ctorch.nn.modules.linear\nLinear\n)\x81}b.",
        "a function of fairseq": call("fairseq.utils import_user_module", text("x")),
        "a class of fairseq called": call("fairseq.data.dictionary Dictionary"),
        "a class behind an enum": call("fairseq.dataclass.utils Enum", b"}"),
        "omegaconf.load": call("omegaconf OmegaConf.load", text("x")),
        "a name with dots": b"\x80\x04\x8c\x0bcollections\x8c\x14OrderedDict.fromkeys\x93)R.",
        "stack global": b"\x80\x04\x8c\x02os\x8c\x06system\x93" + b"(" + shell + b"tR.",
        "inst": b"(" + shell + b"ios\nsystem\n.",
        "obj": b"(cos\nsystem\n" + shell + b"o.",
        "newobj_ex": b"\x80\x04cos\nsystem\n" + b"(" + shell + b"t}\x92.",
        "extension registry": b"\x80\x02\x82\x01.",
        "persistent id as text": b"Pos.system\n.",
        "state of a tensor": b"\x80\x02" + inner(TENSOR) + b"}b.",
    }
    bombs = {
        "memo at 2**31": b"\x80\x02Nr\xff\xff\xff\x7f" + b"Nr\x00\x00\x00\x7f" + b".",
        "bytes of 2**40": b"\x80\x04\x8e\x00\x00\x00\x00\x00\x01\x00\x00x.",
        "text of 2**40": b"\x80\x04\x8d\x00\x00\x00\x00\x00\x01\x00\x00x.",
        "bytearray of 2**40": b"\x80\x05\x96\x00\x00\x00\x00\x00\x01\x00\x00x.",
        "frame of 2**40": b"\x80\x04\x95\x00\x00\x00\x00\x00\x01\x00\x00",
        "a number of a million bytes": b"\x80\x02\x8b\x40\x42\x0f\x00" + b"\x7f" * 1_000_000 + b".",
        "a number of a million digits": b"L" + b"9" * 1_000_000 + b"L\n.",
        "lists in lists": nested_lists(100_000),
        "keys that take ages to hash": b"\x80\x02}(" + inner(doubling(100, b")")) + b"Nu.",
        "a million opcodes": b"\x80\x02" + b"N0" * 1_000_000 + b"N.",
        "marks": b"\x80\x02" + b"(" * 100_000 + b"t" * 100_000 + b".",
        "a doubling configuration": checkpoint_with(inner(doubling(200, b"]"))),
        "a configuration that holds itself": checkpoint_with(b"}q\x01(" + text("a") + b"h\x01u"),
        "unfinished": b"\x80\x02}(" + text("model"),
        "stack underflow": b"\x80\x02R.",
    }
    shapes = {
        "a tensor larger than its storage": tensor(2, (3,), (1,)),
        "a tensor that repeats its storage": tensor(2, (2**40,), (0,)),
        "a tensor behind its storage": tensor(2, (1,), (1,), offset=2**40),
        "a negative stride": tensor(2, (2,), (-1,)),
        "a storage larger than its record": tensor(2**40, (1,), (1,)),
        "a storage that is not there": tensor(2, (2,), (1,), key="../../etc/passwd"),
    }
    files: dict[str, bytes | Callable[[Path], None]] = {name: archive(data) for name, data in calls.items()}
    files |= {f"{name}, in args": archive(checkpoint_with(inner(calls[name])), s0=bytes(8)) for name in ("os.system",)}
    files |= {name: archive(data, s0=bytes(8)) for name, data in {**bombs, **shapes}.items()}
    files |= {
        "bare pickle": call("os system", shell),
        "old format, first pickle": legacy(call("os system", shell), dumps(1001)),
        "old format, system": legacy(dumps(MAGIC), dumps(1001), call("os system", shell)),
        "old format, main pickle": legacy(dumps(MAGIC), dumps(1001), dumps({}), call("os system", shell)),
        "old format, keys": legacy(dumps(MAGIC), dumps(1001), dumps({}), dumps({}), call("os system", shell)),
        "old format, large storage": legacy(
            dumps(MAGIC), dumps(1001), dumps({}), tensor(2**40, (1,), (1,)), dumps(["0"])
        ),
        "tar of old torch": tar(),
        "torch.jit": scripted,
        "zip bomb": compressed,
        "path traversal": named("archive/data.pkl", "../../../tmp/evil"),
        "absolute path": named("archive/data.pkl", "/etc/evil"),
        "two pickles": named("a/data.pkl", "b/data.pkl"),
        "many records": many_records(),
        "truncated": archive(dumps({"a": 1}))[:200],
        "wrong magic": b"GIF89a" + bytes(1000),
        "zeros": bytes(100_000),
        "empty": b"",
        "layers that are a program": fairseq_with(conv_feature_layers=f"__import__('os').system('touch {marker}')"),
        "layers without an end": fairseq_with(conv_feature_layers="[(512, 10, 5)] * 10 ** 9"),
        "a thousand million layers": fairseq_with(encoder_layers=10**9),
        "blocks without an end": own_with(model={"_name": "wav2vec2", "encoder_layers": 10**9}),
        "a width without an end": own_with(model={"_name": "wav2vec2", "encoder_embed_dim": 2**60}),
        "a model of another project": fairseq_with(arch="hubert"),
        "odd types": own_with(model={"_name": ["x"]}),
        "sections that are none": own_with(task=3),
        "a later format": archive(dumps({"format_version": 10**6})),
    }
    return files


def hostile_folders() -> dict[str, dict[str, bytes]]:
    """Return Hugging Face folders by name: file name -> content."""
    config = json.dumps({"model_type": "wav2vec2", "architectures": ["Wav2Vec2Model"]}).encode()
    header = json.dumps({"w": {"dtype": "F32", "shape": [2**40], "data_offsets": [0, 2**42]}}).encode()
    return {
        "pickled weights": {"config.json": config, "pytorch_model.bin": archive(call("os system", text("true")))},
        "no weights": {"config.json": config},
        "weights elsewhere": {
            "config.json": config,
            "pytorch_model.bin.index.json": json.dumps({"weight_map": {"w": "../../x.bin"}}).encode(),
        },
        "deep json": {"config.json": b"[" * 100_000},
        "json that is a list": {"config.json": b"[]"},
        "another architecture": {"config.json": config.replace(b"Wav2Vec2Model", b"HubertModel")},
        "code of its own": {
            "config.json": config.replace(b"Wav2Vec2Model", b"Evil"), "evil.py": b"raise SystemExit",
        },
        "huge header": {"config.json": config, "model.safetensors": struct.pack("<Q", 2**60) + b"{}"},
        "huge tensor": {"config.json": config, "model.safetensors": struct.pack("<Q", len(header)) + header},
    }  # fmt: skip
