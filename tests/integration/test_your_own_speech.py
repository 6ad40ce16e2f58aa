"""Every command of docs/your_own_speech.md, in order, on real recordings: Hebrew yes/no, and LJSpeech at 22 kHz.

Small numbers stand behind the flags of training; everything else is as the page has it.
"""

from __future__ import annotations

import re
import shlex
import shutil
from pathlib import Path
from typing import Any

import pytest
from toy_speech import call

from w2v_cli import infer, labels, lm, manifest, segment, train

PAGE = Path(__file__).resolve().parents[2] / "docs" / "your_own_speech.md"
PROGRAMS = {
    "w2v-manifest": manifest.main, "w2v-segment": segment.main, "w2v-labels": labels.main, "w2v-train": train.main,
    "w2v-lm": lm.main, "w2v-infer": infer.main,
}  # fmt: skip
SMALL = [
    "--cpu",
    "--no-bf16",
    "--num-workers",
    "0",
    "--max-update",
    "2",
    "--max-tokens",
    "160000",
    "--batch-audio",
    "10s",
]
CONV = "[(16, 10, 5)] + [(16, 3, 2)] * 4 + [(16, 2, 2)] * 2"
NETWORK = [
    *("--conv-feature-layers", CONV, "--encoder-layers", "1", "--encoder-embed-dim", "32"),
    *("--encoder-ffn-embed-dim", "64", "--encoder-attention-heads", "2", "--conv-pos", "16", "--conv-pos-groups", "4"),
    *("--final-dim", "16", "--latent-vars", "8", "--num-negatives", "10"),
]


def commands() -> list[list[str]]:
    """Return the commands of the page, in order."""
    blocks = re.findall(r"^```sh\n(.*?)^```", PAGE.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
    return [shlex.split(line) for block in blocks for line in block.replace("\\\n", " ").splitlines()]


def small(words: list[str]) -> list[str]:
    """Return what makes a command of training short."""
    if words[0] != "w2v-train":
        return []
    if "ctc-1h" in words:
        return [*SMALL, "--mask-channel-length", "8", "--validate-after-updates", "0"]
    short = ["--warmup-updates", "1", "--min-sample-size", "8000"]
    return [*SMALL, *short, *(NETWORK if "base-1gpu" in words else ["--num-negatives", "10"])]


@pytest.fixture
def field(data: Path, golden: Any, tmp_path: Path) -> Path:
    """The folders and files that the page begins with."""
    rows = (data / "yesno_train" / "transcripts.tsv").read_text().splitlines()[:12]
    for folder in ("recordings", "transcribed"):
        (tmp_path / folder).mkdir()
    for row in rows:
        name = row.split("\t")[0]
        for folder in ("recordings", "transcribed"):
            shutil.copy(data / "yesno_train" / name, tmp_path / folder / name)
    for name in ("LJ001-0001.flac", "LJ001-0009.mp3"):
        shutil.copy(data / "ljspeech22k" / name, tmp_path / "recordings" / name)
    (tmp_path / "transcripts.tsv").write_text("\n".join(rows) + "\n")
    shutil.copy(golden / "checkpoints/g1_args/w2v2_base.pt", tmp_path / "MODEL")
    return tmp_path


def test_the_page_by_its_own_commands(field: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(field)
    run = commands()
    assert {words[0] for words in run} == set(PROGRAMS)
    for words in run:
        outcome = call(PROGRAMS[words[0]], [*words[1:], *small(words)])
        assert outcome.code == 0, (words, outcome.err)
    assert (field / "results").is_dir()
    assert list((field / "results").glob("hypo.word-*"))
    assert (field / "clips" / "train.tsv").is_file()
