"""Files that were changed at random are read, or refused in one line: some hundred of each kind, always the same.

`benchmarks/fuzz.py` makes and watches them; there, a million were tried.
"""

from __future__ import annotations

import signal
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scripts import load_script

from w2v.config import parse_literal
from w2v.config.yaml_file import read_config_file
from w2v.data.dictionary import Dictionary
from w2v.data.labels import read_labels
from w2v.data.manifest import read_manifest
from w2v.errors import W2vError
from w2v.lm.lexicon import read_lexicon

INPUTS = {"yaml": 15}
OTHERS = 300


FUZZ = load_script(Path(__file__).resolve().parents[2] / "benchmarks" / "fuzz.py")


@pytest.fixture(scope="module")
def readers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Any]]:
    sys.addaudithook(FUZZ._hook)  # silent but for the time of a reading
    before = signal.signal(signal.SIGVTALRM, FUZZ._too_slow)
    FUZZ.warm_up()
    yield FUZZ.readers(tmp_path_factory.mktemp("seeds"))
    signal.signal(signal.SIGVTALRM, before)


NAMES = [
    "literal", "manifest", "labels", "dictionary", "lexicon", "arpa", "vocabulary", "arpa.gz", "yaml", "yaml sections",
    "checkpoint", "model", "safetensors", "emissions", "features npy", "features", "audio",
]  # fmt: skip


def test_all_readers_are_tried(readers: dict[str, Any]) -> None:
    assert sorted(readers) == sorted(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_changed_files(readers: dict[str, Any], tmp_path: Path, name: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of python's parser, for literals
        counts, faults = FUZZ.fuzz(name, readers[name], INPUTS.get(name, OTHERS), 1, tmp_path)
    assert not faults
    assert counts["refused"] > 0
    assert sum(counts.values()) == INPUTS.get(name, OTHERS)


def test_what_is_watched_is_noticed(readers: dict[str, Any], tmp_path: Path) -> None:
    """The watch itself: each thing that no reader may do is a fault."""

    def refusing(message: str) -> Any:
        def read(path: str) -> None:
            raise W2vError(message.format(path=path))

        return read

    def spin(path: str) -> None:
        while True:
            pass

    for read, fault, has_lines in (
        (lambda path: exec("1"), "did exec", False),
        (lambda path: open(path + "x", "w").close(), "did open for writing", False),
        (lambda path: [][0], "IndexError", False),
        (spin, "took more than", False),
        (refusing("bad"), "does not name the file", False),
        (refusing("{path}: bad"), "names no line", True),
        (refusing(""), "refused in 1 lines of 0 characters", False),
    ):
        reader = FUZZ.Reader([b"x"], read, 1.0, has_lines=has_lines)
        with pytest.raises(FUZZ.FaultError, match=fault):
            FUZZ.examine(reader, str(tmp_path / "x"))
    assert FUZZ.examine(FUZZ.Reader([b"x"], refusing("{path}:3: bad"), 1.0, has_lines=True), "x") == "refused"


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.one_of(st.binary(max_size=200), st.text("\t\n\r\0 ab:&*[]{}'\"/.-19|é\u2028", max_size=80).map(str.encode)))
def test_anything_at_all(tmp_path: Path, content: bytes) -> None:
    """Inputs that hypothesis makes up, which end in one line, too."""
    path = tmp_path / "x"
    path.write_bytes(content)
    letters = Dictionary.from_symbols(["|", "a", "b"])
    for read in (
        read_manifest,
        Dictionary.from_file,
        lambda path: read_labels(path, 2, letters),
        lambda path: read_lexicon(str(path), letters.symbols),
        lambda path: read_config_file(str(path), ["a", "b"]),
    ):
        message = refusal(read, path, W2vError)
        assert not message or str(path) in message
        assert "\n" not in message
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert "\n" not in refusal(parse_literal, content.decode("utf-8", "replace"), ValueError)


def refusal(read: Callable[[Any], object], argument: object, kind: type[Exception]) -> str:
    try:
        read(argument)
    except kind as e:
        return str(e)
    return ""
