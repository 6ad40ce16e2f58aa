"""Files that would run code, or eat time and memory: all are refused in one line, and nothing of them happens."""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from scripts import load_script

from w2v.checkpoint.torch_file import read_torch_file
from w2v.convert import read_model_file
from w2v.errors import W2vError
from w2v.inference.load import load_model

SECONDS = 1.0
MEGABYTES = 300


TRICKS: Any = load_script(Path(__file__).with_name("hostile_files.py"))
NAMES = sorted(TRICKS.hostile(Path("marker")))
EVENTS = ("os.system", "subprocess.Popen", "os.exec", "os.posix_spawn", "socket.connect", "ctypes.dlopen", "pty.spawn")
FOREIGN = {"fairseq", "omegaconf", "antigravity", "this", "webbrowser", "runpy", "pty", "dill", "cloudpickle"}

_seen: list[str] = []
_is_watching = False


def _watch(event: str, _: Any) -> None:
    if _is_watching and event.startswith(EVENTS):
        _seen.append(event)


sys.addaudithook(_watch)


@pytest.fixture
def watched() -> Iterator[list[str]]:
    """Events of the interpreter that nothing here may cause, and modules that nothing here may import."""
    global _is_watching
    _seen.clear()
    before = set(sys.modules)
    _is_watching = True
    yield _seen
    _is_watching = False
    assert not _seen
    assert not (set(sys.modules) - before) & FOREIGN


def refused(path: Path) -> None:
    """Check that `path` is refused in one line, within a second and without eating memory."""
    for open_it in (read_model_file, load_model):
        memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        start = time.process_time()  # of this process: the machine may be busy with others
        message = ""
        try:
            open_it(path)
        except W2vError as e:
            message = str(e)
        assert time.process_time() - start < SECONDS
        assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - memory) / 1024 < MEGABYTES
        # What is plain data may be looked at, and is refused where a model would be built of it.
        assert message or open_it is read_model_file
        assert len(message) < 1500
        assert "\n" not in message


def test_there_are_enough_tricks() -> None:
    assert len(NAMES) >= 80


@pytest.mark.parametrize("name", NAMES)
def test_hostile_files(tmp_path: Path, watched: list[str], name: str) -> None:
    marker = tmp_path / "it-ran"
    content = TRICKS.hostile(marker)[name]
    path = tmp_path / "checkpoint.pt"
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        content(path)
    refused(path)
    assert not marker.exists()
    assert {p.name for p in tmp_path.iterdir()} == {"checkpoint.pt"}


@pytest.mark.parametrize("name", sorted(TRICKS.hostile_folders()))
def test_hostile_folders(tmp_path: Path, watched: list[str], name: str) -> None:
    for file, content in TRICKS.hostile_folders()[name].items():
        (tmp_path / file).write_bytes(content)
    refused(tmp_path)


@pytest.mark.parametrize("content", [b"", b"\xff" * 100, b"\x08\x00\x00\x00\x00\x00\x00\x00{}      ", b"PK\x03\x04"])
def test_hostile_safetensors(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "x.safetensors").write_bytes(content)
    refused(tmp_path / "x.safetensors")


def test_a_checkpoint_cannot_name_a_plugin_to_run(tmp_path: Path) -> None:
    marker, plugin = tmp_path / "it-ran", tmp_path / "plugin.py"
    plugin.write_text(f"open({str(marker)!r}, 'w')\n")
    path = tmp_path / "x.pt"
    path.write_bytes(TRICKS.own_with(common={"user_dir": str(plugin)}, model={"_name": "its_model"}))
    with pytest.raises(W2vError, match=f"--user-dir {plugin}"):
        load_model(path)
    assert not marker.exists()


def test_refusals_name_what_was_found(tmp_path: Path) -> None:
    path = tmp_path / "x.pt"
    for name, wanted in {
        "os.system": "os.system", "getattr chain": "builtins.getattr", "torch.jit": "TorchScript",
        "zip bomb": "compressed", "numpy object scalar": "'O8'", "path traversal": "../../../tmp/evil",
    }.items():  # fmt: skip
        content = TRICKS.hostile(tmp_path / "m")[name]
        path.write_bytes(content) if isinstance(content, bytes) else content(path)
        with pytest.raises(W2vError, match=wanted):
            read_model_file(path)


@pytest.mark.parametrize("new_format", [True, False])
def test_harmless_files_of_torch_are_read_as_torch_reads_them(tmp_path: Path, new_format: bool) -> None:
    base = torch.arange(24.0)
    state = {
        "f32": base, "view": base[4:16].view(3, 4).t(), "f16": base.half(), "bf16": base.bfloat16(), "i64": base.long(),
        "bool": base > 3, "scalar": torch.tensor(2.5), "none": torch.empty(0), "none2": torch.empty(3, 0, 2),
        "parameter": torch.nn.Parameter(base.clone()), "u8": base.byte(), "f64": base.double(),
    }  # fmt: skip
    linear = torch.nn.Linear(3, 2).state_dict()  # an OrderedDict with `_metadata`
    content = {
        "state": state,
        "linear": linear,
        "list": [1, -2.5, None, True, "x", b"y", (1, 2)],
        "big": 2**62,
        "set": {1},
    }
    path = tmp_path / "x.pt"
    torch.save(content, path, _use_new_zipfile_serialization=new_format)
    found = read_torch_file(path)
    assert list(found) == list(content)
    for name, tensor in {**state, **linear}.items():
        other = {**found["state"], **found["linear"]}[name]
        assert other.dtype == tensor.dtype
        assert other.stride() == tensor.stride()
        assert torch.equal(other, tensor)
    assert (found["list"], found["big"], found["set"]) == (content["list"], 2**62, {1})
    assert found["state"]["view"].untyped_storage().data_ptr() == found["state"]["f32"].untyped_storage().data_ptr()
    found["state"]["f32"].zero_()  # a private copy: the file stays as it is
    assert torch.equal(read_torch_file(path)["state"]["f32"], base)


@pytest.mark.parametrize("new_format", [True, False])
def test_cut_short_at_any_place(tmp_path: Path, new_format: bool) -> None:
    path = tmp_path / "x.pt"
    torch.save({"model": {"w": torch.arange(100.0)}}, path, _use_new_zipfile_serialization=new_format)
    whole = path.read_bytes()
    for stop in range(0, len(whole), max(1, len(whole) // 60)):
        path.write_bytes(whole[:stop])
        with pytest.raises(W2vError):
            read_torch_file(path)
