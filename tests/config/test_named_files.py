"""Files and models that flags name are looked for before torch is imported and before data are read."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import soundfile

from w2v.config import arg
from w2v.config.named_files import check_named_files
from w2v.errors import ConfigError


@dataclass(frozen=True)
class Options:
    model: str | None = arg(None, help="", reads="model")
    lexicon: str | None = arg(None, help="", reads="file")
    output: str | None = arg(None, help="")


@pytest.mark.parametrize(
    "name",
    ["facebook/wav2vec2-base", "facebook/wav2vec2-base@main", "https://host/x.pt", "hf://a/b", "wav2vec_small"],
)
def test_models_that_are_elsewhere(name: str) -> None:
    check_named_files(Options(model=name, output="nowhere"))


def test_what_is_here(tmp_path: Path) -> None:
    (tmp_path / "x.pt").touch()
    check_named_files(Options(model=str(tmp_path / "x.pt"), lexicon=str(tmp_path / "x.pt")), Options())
    check_named_files(Options(model=str(tmp_path), lexicon=os.devnull))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"model": "gone.pt"}, "--model gone.pt: there is no such checkpoint$"),
        ({"model": "runs/gone.pt"}, "--model runs/gone.pt: there is no such checkpoint$"),
        ({"model": "wav2vec_smal"}, "there is no such checkpoint; did you mean 'wav2vec_small'"),
        ({"model": "gone"}, "a name on the Hugging Face hub is OWNER/NAME"),
        ({"lexicon": "a/b"}, "--lexicon a/b: there is no such file"),
    ],
)
def test_what_is_missing(values: dict[str, str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        check_named_files(Options(**values))


def test_programs_look_before_torch_is_imported(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", np.zeros(1600, np.float32), 16000)
    commands = [
        ("transcribe", ["gone.pt", "a.wav"]),
        ("transcribe", ["a.wav", "a.wav", "--w2l-decoder", "kenlm", "--lm-model", "gone.arpa"]),
        ("live", ["gone.pt", "a.wav"]),
        ("live", ["gone.pt", "--serve"]),
        ("align", ["gone.pt", "a.wav"]),
        ("visualize", ["--checkpoint", "gone.pt", "--data-dir", "."]),
    ]
    code = (
        "import importlib, sys\n"
        f"for name, argv in {commands!r}:\n"
        "    assert importlib.import_module(f'w2v_cli.{name}').main(argv) == 2\n"
        "    assert 'torch' not in sys.modules, name\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[2])},
    )  # fmt: skip
    lines = done.stderr.splitlines()
    assert done.returncode == 0, done.stderr
    assert len(lines) == len(commands)
    assert all("gone." in line and "there is no such" in line for line in lines)
