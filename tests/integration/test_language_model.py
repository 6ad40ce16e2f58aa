"""Language models are trained by the shared trainer: to the entropy of their text, and to the bit after a restart."""

from __future__ import annotations

import gzip
import math
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from toy_speech import ADAM, COMMON, call

from w2v.checkpoint.file import load_checkpoint
from w2v.inference.load import load_language_model, load_model
from w2v_cli import lm, train

LETTERS = "ABCD"
END = len(LETTERS)
# From each letter, and from the beginning (the last row): how likely each letter is, and the end (the last column).
CHAIN = np.array([
    [0.1, 0.6, 0.2, 0.0, 0.1],
    [0.0, 0.1, 0.7, 0.1, 0.1],
    [0.3, 0.0, 0.1, 0.4, 0.2],
    [0.8, 0.1, 0.0, 0.0, 0.1],
    [0.4, 0.3, 0.2, 0.1, 0.0],
])  # fmt: skip
SIZES = [
    "--decoder-embed-dim", 32, "--decoder-ffn-embed-dim", 64, "--decoder-layers", 2, "--decoder-attention-heads", 4,
]  # fmt: skip
TRAINING = [
    "--task", "language_modeling", "--arch", "transformer_lm", "--criterion", "cross_entropy", *SIZES,
    "--sample-break-mode", "eos", "--tokens-per-sample", 64, "--max-tokens", 1024, "--lr", 0.005, "--clip-norm", 0,
    "--lr-scheduler", "inverse_sqrt", "--warmup-updates", 30, "--log-interval", 5, *ADAM, *COMMON,
]  # fmt: skip


def walk(rng: np.random.Generator) -> list[int]:
    path = [END]
    while len(path) == 1 or path[-1] != END:
        path.append(int(rng.choice(END + 1, p=CHAIN[path[-1]])))
    return path


def write(path: Path, count: int, seed: int) -> float:
    """Write sentences of the chain; return the bits per word, ends included, that the chain itself needs for them."""
    rng = np.random.default_rng(seed)
    paths = [walk(rng) for _ in range(count)]
    text = "".join(" ".join(LETTERS[i] for i in steps[1:-1]) + "\n" for steps in paths)
    path.write_bytes(gzip.compress(text.encode()) if path.suffix == ".gz" else text.encode())
    bits = [-math.log2(CHAIN[a, b]) for steps in paths for a, b in pairwise(steps)]
    return sum(bits) / len(bits)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("text")
    write(folder / "train.txt.gz", 1500, seed=1)
    (folder / "bits").write_text(str(write(folder / "valid.txt", 300, seed=2)))
    return folder


def run(data: Path, save_dir: Path, *more: Any) -> Any:
    outcome = call(train.main, [data, "--save-dir", save_dir, *TRAINING, *more])
    assert outcome.code == 0, outcome.err
    return outcome


def test_a_chain_is_learnt_to_its_entropy(data: Path, tmp_path: Path) -> None:
    outcome = run(data, tmp_path, "--max-update", 160, "--share-decoder-input-output-embed", "--dropout", 0)
    line = outcome.lines("valid")[-1]
    entropy = float((data / "bits").read_text())
    assert entropy - 0.01 < line["valid_loss"] < entropy + 0.04
    assert line["valid_ppl"] == pytest.approx(2 ** line["valid_loss"], abs=0.01)
    # The program that measures perplexities takes the checkpoint as it is, dictionary and all.
    measured = call(lm.main, [data / "valid.txt", "--perplexity", "--lm", tmp_path / "checkpoint_last.pt"])
    assert measured.code == 0, measured.err
    found = float(measured.out.splitlines()[0].split("\t")[1])
    assert found == pytest.approx(line["valid_ppl"], rel=2e-3)
    model = load_language_model(tmp_path / "checkpoint_last.pt")
    assert sorted(model.words or ()) == list(LETTERS)
    states = np.array([model.start()])
    likely = model.score(states, np.array([model.index("A")]))[0]
    assert np.exp(likely)[0] == pytest.approx(CHAIN[END, 0], abs=0.05)


ADAPTIVE = [
    "--criterion", "adaptive_loss", "--adaptive-input", "--adaptive-input-cutoff", "5,7",
    "--adaptive-softmax-cutoff", "5,7", "--adaptive-input-factor", 2, "--adaptive-softmax-factor", 2,
    "--adaptive-softmax-dropout", 0.1, "--tie-adaptive-weights", "--tie-adaptive-proj",
]  # fmt: skip


@pytest.mark.parametrize("more", [[], ADAPTIVE], ids=["plain", "adaptive"])
def test_a_run_in_two_parts_is_one_run(data: Path, tmp_path: Path, more: list[Any]) -> None:
    more = [*more, "--decoder-layerdrop", 0.2, "--attention-dropout", 0.1, "--activation-dropout", 0.1,
            "--sample-break-mode", "complete", "--disable-validation"]  # fmt: skip
    run(data, tmp_path / "one", *more, "--max-update", 14)
    run(data, tmp_path / "two", *more, "--max-update", 6)
    run(data, tmp_path / "two", *more, "--max-update", 14, "--num-workers", 1)
    states = [load_checkpoint(tmp_path / name / "checkpoint_last.pt") for name in ("one", "two")]
    assert states[0]["trainer"]["num_updates"] == states[1]["trainer"]["num_updates"] == 14
    for name, tensor in states[0]["model"].items():
        assert torch.equal(tensor, states[1]["model"][name]), name


def test_letters_and_a_dictionary_file(data: Path, tmp_path: Path) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    (folder / "train.txt").write_text("AB BA\nBAB\n" * 40)
    (folder / "valid.txt").write_text("BA AB\n")
    (folder / "dict.txt").write_text("| 5\nA 3\nB 3\nC 0\n")
    more = ["--unit", "letter", "--max-update", 4, "--add-bos-token", "--decoder-learned-pos", "--sentence-avg"]
    run(folder, tmp_path / "run", *more)
    loaded = load_model(tmp_path / "run/checkpoint_last.pt")
    assert loaded.task.dictionary.symbols[4:] == ["|", "A", "B", "C"]  # type: ignore[attr-defined]
    model = load_language_model(tmp_path / "run/checkpoint_last.pt")
    assert np.isfinite(model.sentence_scores(["BA|AB|"])).all()


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--character-embeddings"], "--character-embeddings is not carried; a model over letters: --unit letter"),
        (["--train-subset", "none"], "there is neither none.txt nor none.txt.gz"),
        (["--criterion", "ctc"], "--criterion ctc needs wav2vec_ctc"),
        (["--max-target-positions", "1"], "all samples are longer than --max-target-positions 1"),
        (["--adaptive-softmax-cutoff", "9"], "--adaptive-softmax-cutoff must be rising numbers up to the 8 words"),
        (["--decoder-attention-heads", "5"], "--decoder-attention-heads must divide --decoder-embed-dim 32"),
        (["--tie-adaptive-weights"], "--tie-adaptive-weights needs --adaptive-input"),
        (["--max-tokens", "None"], "--task language_modeling needs --max-tokens"),
    ],
)
def test_what_does_not_fit(data: Path, tmp_path: Path, more: list[str], message: str) -> None:
    outcome = call(train.main, [data, "--save-dir", tmp_path, *TRAINING, "--max-update", 1, *more])
    assert outcome.code == 2
    assert message in outcome.err
    assert "Traceback" not in outcome.err


def test_a_model_of_audio_is_refused(data: Path, tmp_path: Path) -> None:
    flags = ["--task", "language_modeling", "--arch", "wav2vec2", "--criterion", "wav2vec", "--lr", 1]
    outcome = call(train.main, [data, "--save-dir", tmp_path, *flags, "--max-tokens", 99, *COMMON])
    assert outcome.code == 2
    assert "--task language_modeling needs a language model (--arch transformer_lm), got wav2vec2" in outcome.err
