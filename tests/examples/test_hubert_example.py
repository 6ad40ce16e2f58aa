"""The HuBERT example: all of it at toy size in this process, and none of it twice."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from digit_packs import link_few_clips
from scripts import load_script, run_in_process

SCRIPT = Path(__file__).resolve().parents[2] / "examples" / "hubert" / "compare.py"
TOY = [
    *("--minutes", "0.3", "--labelled-minutes", "0.2", "--seeds", "4", "--updates", "2", "2", "2"),
    *("--finetune-updates", "2"),
]


@pytest.mark.slow
def test_all_of_it_at_toy_size(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("sklearn")
    module = load_script(SCRIPT)
    called = run_in_process(module, monkeypatch)
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
