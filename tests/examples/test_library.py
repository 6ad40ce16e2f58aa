"""The examples of `docs/library.md` run, in order, and say what they should."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch

from w2v_cli.transcribe_flags import parse_flags

REPOSITORY = Path(__file__).resolve().parents[2]
TEXT = (REPOSITORY / "docs/library.md").read_text(encoding="utf-8")
README = (REPOSITORY / "README.md").read_text(encoding="utf-8")


def test_examples_run(data: Path, digits_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for package in ("av", "sklearn", "lightning", "accelerate"):
        pytest.importorskip(package)
    from media import write_media

    monkeypatch.chdir(tmp_path)
    shutil.copy(digits_model, "model.pt")
    clip = soundfile.read(data / "digits_valid_seen/george/vs_george_00000.flac", dtype="float32")[0]
    write_media(Path("talk.m4a"), clip, 16000, "aac", 44100, "stereo")
    soundfile.write("other.wav", clip, 16000)
    Path("clips").mkdir()
    for path in sorted((data / "digits_valid_seen").glob("*/*.flac"))[::14]:
        soundfile.write(f"clips/{path.parent.name}_{path.stem}.wav", *soundfile.read(path, frames=8000))
    talk = torch.from_numpy(clip)[None]
    names: dict[str, Any] = {}
    for example in re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL):
        exec(compile(example, "docs/library.md", "exec"), names)
    assert names["talk"].text == names["again"].text == "FOUR TWO NINE"
    assert [found.text for found in names["both"]] == ["FOUR TWO NINE"] * 2
    assert names["heard"] == "FOUR TWO NINE"
    assert Path("talk.srt").read_text(encoding="utf-8") == names["talk"].srt()
    assert names["context"].shape[0] == names["block"].shape[0] == len(clip) // 320
    assert np.isfinite(names["context"]).all()
    assert names["probe"].score(names["vectors"], names["speakers"]) == 1.0
    assert names["trainer"].global_step == 2
    assert names["frames"].dtype == torch.bfloat16
    with torch.no_grad():
        torch.testing.assert_close(torch.jit.load("frames.pt")(talk[:, :9000]), names["plain"](talk[:, :9000]))


@pytest.mark.parametrize("text", [TEXT, README], ids=["library", "readme"])
def test_commands_parse(text: str) -> None:
    lines = [line.split("w2v-transcribe ", 1)[1] for line in text.splitlines() if "w2v-transcribe model.pt" in line]
    lines = [line for line in lines if "`" not in line]
    assert lines
    for line in lines:
        assert parse_flags(line.split("#")[0].split()).what.model == "model.pt"


def test_the_readme_shows_the_same_lines() -> None:
    (first, *_) = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)
    shown = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    assert first in shown
