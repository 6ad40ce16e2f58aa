"""The HuBERT example: all of it at toy size in this process, and none of it twice."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
from pathlib import Path

import pytest
from digit_packs import link_few_clips
from scripts import load_script
from toy_speech import call

SCRIPT = Path(__file__).resolve().parents[2] / "examples" / "hubert" / "compare.py"
TOY = [
    *("--minutes", "0.3", "--labelled-minutes", "0.2", "--seeds", "4", "--updates", "2", "2", "2"),
    *("--finetune-updates", "2"),
]


@pytest.mark.slow
def test_all_of_it_at_toy_size(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("sklearn")
    module = load_script(SCRIPT)
    called: list[str] = []

    def in_process(self: object, program: str, *arguments: str | Path, log: Path | None = None) -> None:
        words = [str(argument) for argument in arguments]
        called.append(program)
        if not program.startswith("w2v-"):
            subprocess.run([sys.executable, program, *words], check=True, capture_output=True)
            return
        done = call(importlib.import_module(f"w2v_cli.{program.removeprefix('w2v-')}").main, words)
        assert done.code == 0, done.err

    monkeypatch.setattr(module.Run, "call", in_process)
    monkeypatch.setattr(module, "PROBED", range(5, 6))
    packs, folder = link_few_clips(data, tmp_path / "data"), tmp_path / "run"
    monkeypatch.setattr(sys, "argv", ["compare.py", "--data", str(packs), "--folder", str(folder), *TOY])
    assert module.main() == 0
    content = json.loads((folder / "results.json").read_text(encoding="utf-8"))
    rows = {row["model"]: row for row in content["results"]}
    assert list(rows) == ["wav2vec2", "hubert", "scratch"]
    assert rows["scratch"]["cpu"] == 0  # of pretraining
    stages = ("k-means of MFCC", "round1-4", "k-means of layer-4", "hubert-4")
    assert rows["hubert"]["cpu"] == pytest.approx(sum(content["seconds"][stage]["cpu"] for stage in stages))
    assert {key for key in rows["hubert"] if key.startswith("probe")} == {"probe, block 2", "probe, block 3"}
    assert all(row["WER unseen, kenlm"] > 0 for row in rows.values())  # after two updates
    before = len(called)
    assert module.main() == 0
    assert len(called) == before
