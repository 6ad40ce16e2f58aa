"""`docs/hubert.md`: its commands run one after the other, small, and its files are what it says."""

from __future__ import annotations

import json
import re
import shlex
import shutil
from importlib import import_module
from pathlib import Path

import pytest
from toy_speech import call, prepare

from w2v.checkpoint.file import load_checkpoint
from w2v.inference.load import load_model

pytest.importorskip("soundfile")
pytest.importorskip("sklearn")

TEXT = (Path(__file__).resolve().parents[2] / "docs/hubert.md").read_text(encoding="utf-8")
ENCODER = [
    *("--conv-feature-layers", "[(16, 10, 5), (16, 8, 4), (16, 4, 4), (16, 4, 4)]", "--encoder-layers", "6"),
    *("--encoder-embed-dim", "16", "--encoder-ffn-embed-dim", "32", "--encoder-attention-heads", "4"),
    *("--conv-pos", "16", "--conv-pos-groups", "4", "--final-dim", "8", "--min-sample-size", "4000"),
]
TRAIN = [
    *("--cpu", "--no-bf16", "--num-workers", "0", "--max-tokens", "64000", "--batch-audio", "4s"),
    *("--max-update", "2", "--no-epoch-checkpoints"),
]
KMEANS = ["--n-init", "2", "--max-iter", "5", "--quiet"]
SMALL: dict[str, list[str]] = {
    "round1": [*ENCODER, *TRAIN, "--warmup-updates", "1"],
    "round2": [*ENCODER, *TRAIN, "--warmup-updates", "1"],
    "ft": [*TRAIN, "--warmup-steps", "1", "--hold-steps", "1", "--decay-steps", "1"],
    "--mfcc": [*KMEANS, "-K", "20"],
    "--model": [*KMEANS, "-K", "10", "--percent", "0.5", "--cpu"],
}


def test_commands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = prepare(tmp_path / "toy", 12)
    monkeypatch.chdir(tmp_path)
    for file in data.glob("*.km*"):  # the page makes its own
        file.unlink()
    shutil.copytree(data, "DATA")
    shutil.copytree(data, "LABELS")
    block = re.findall(r"```sh\n(.*?)```", TEXT, re.DOTALL)[0]
    commands = [shlex.split(line, comments=True) for line in block.splitlines()]
    commands = [words for words in commands if words and words[0] != "pip"]
    assert [words[0] for words in commands] == ["w2v-kmeans", "w2v-train", "w2v-kmeans", "w2v-train", "w2v-train"]
    for program, *words in commands:
        more = next(flags for name, flags in SMALL.items() if name in words)
        outcome = call(import_module(f"w2v_cli.{program.removeprefix('w2v-')}").main, [*words, *more])
        assert outcome.code == 0, f"{program} {words}: {outcome.err}"
    for folder, classes, rate in (("DATA", 20, 100), ("KM", 10, 50)):
        files = {"kmeans.npz", "train.km", "valid.km", "train.km.json", "dict.km.txt"}
        assert files <= {path.name for path in Path(folder).iterdir()}
        header = json.loads(Path(folder, "train.km.json").read_text())
        assert header["label_rate"] == rate
        assert len(Path(folder, "dict.km.txt").read_text().splitlines()) == classes
    rounds = [load_model(f"{name}/checkpoint_last.pt") for name in ("round1", "round2")]
    # Classes, and the four symbols that every dictionary has.
    assert [len(loaded.model.state_dict()["label_embs_concat"]) for loaded in rounds] == [24, 14]
    # Fine-tuning began with the second round, whose encoder it has moved by two updates.
    tuned, before = load_checkpoint(Path("ft/checkpoint_last.pt"))["model"], rounds[1].model.state_dict()
    key = "encoder.layers.5.fc1.weight"
    moved = next((value - before[key]).abs().max() for name, value in tuned.items() if name.endswith(key))
    assert float(moved) < 0.01
