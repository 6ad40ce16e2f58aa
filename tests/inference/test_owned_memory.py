"""A loaded model owns its memory: what is written to its file neither ends the program nor changes the model."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from every_model import make

import w2v
from w2v.checkpoint.file import save_checkpoint
from w2v.config import to_plain

# In one process of its own, which takes long to start: a bus error ends it.
PROGRAM = """
import shutil, sys, torch, w2v
from pathlib import Path
from w2v.checkpoint.file import load_checkpoint
original, path = sys.argv[1:]
source = torch.sin(torch.arange(4000.0))[None]
content = torch.load(original, weights_only=False)
for how in ("state_dict", "checkpoint", "other", "empty", "in place", "in place, mapped", "resumed"):
    shutil.copyfile(original, path)
    model = w2v.load_model(path, mmap="mapped" in how).model
    before = model.extract_features(source).features
    if how == "state_dict":
        torch.save(model.state_dict(), path)
        saved = torch.load(path)
    elif how == "checkpoint":
        torch.save({**content, "model": model.state_dict()}, path)
        saved = torch.load(path, weights_only=False)["model"]
    elif how == "other":
        torch.save({}, path)
    elif how == "empty":
        open(path, "wb").close()
    elif how == "resumed":
        state = load_checkpoint(Path(path))
        open(path, "wb").close()
        assert all(torch.equal(state["model"][name], t) for name, t in content["model"].items()), how
    else:
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.zero_()
        model = w2v.load_model(path).model
    assert torch.equal(model.extract_features(source).features, before), how
    assert how not in ("state_dict", "checkpoint") or all(torch.equal(saved[n], t) for n, t in content["model"].items())
    print(how)
"""


def write(path: Path, name: str = "wav2vec2") -> None:
    model = make(name)
    config = {
        "common": {}, "dataset": {}, "distributed_training": {}, "optimization": {}, "checkpoint": {},
        "task": {"_name": "audio_pretraining", "data": "gone"},
        "model": {"_name": "wav2vec" if "vq" in name else name, **to_plain(model.config)},  # type: ignore[arg-type]
        "criterion": {"_name": "wav2vec"}, "optimizer": {"_name": "adam"}, "lr_scheduler": {"_name": "fixed"},
    }  # fmt: skip
    save_checkpoint(path, {"config": config, "model": model.state_dict(), "task": {}})


def test_its_file_may_be_written(tmp_path: Path) -> None:
    write(tmp_path / "model.pt")
    command = [sys.executable, "-c", PROGRAM, str(tmp_path / "model.pt"), str(tmp_path / "copy.pt")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, f"after {done.stdout.split()}: {done.returncode} {done.stderr}"


@pytest.mark.parametrize("name", ["vq_kmeans", "wav2vec2"])
def test_mapped_or_not_the_numbers_are_the_same(tmp_path: Path, name: str) -> None:
    write(tmp_path / "model.pt", name)
    source = torch.randn(1, 3000)
    features = [
        w2v.load_model(tmp_path / "model.pt", mmap=mmap).model.extract_features(source).features
        for mmap in (False, True)
    ]
    assert torch.equal(*features)
    own = w2v.load_model(tmp_path / "model.pt").model.state_dict()
    # Each tensor by itself: no window on something larger that would be kept, and saved, whole.
    assert all(t.untyped_storage().nbytes() == t.numel() * t.element_size() for t in own.values())
