"""A toy language for tests: a letter is a chord of 80 ms, a word ends in a gap, voices differ in pitch and loudness.

Written as a folder of clips with transcripts, so that the programs can be run on it from the manifest on.
"""

from __future__ import annotations

import contextlib
import io
import json
import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

RATE = 16000
LETTER = 1280  # samples: four frames of 20 ms
GAP = 960
WORDS = ("AB", "BA", "CAD", "DAB", "ACE", "BED", "DECA", "EBB")
CONV = "[(32, 10, 5)] + [(32, 8, 4)] + [(32, 4, 4)] * 2"
PITCHES = {"A": 300.0, "B": 520.0, "C": 850.0, "D": 1300.0, "E": 2000.0}


def speak(words: Sequence[str], rng: np.random.Generator) -> np.ndarray:
    """Return the samples of a sentence in a voice of its own."""
    voice, loudness = rng.uniform(0.97, 1.03), rng.uniform(0.1, 0.3)
    parts = [np.zeros(GAP)]
    for word in words:
        for letter in word:
            time = np.arange(LETTER) / RATE
            tone = np.sin(2 * np.pi * PITCHES[letter] * voice * time) + 0.5 * np.sin(
                2 * np.pi * 2.5 * PITCHES[letter] * voice * time
            )
            parts.append(loudness * np.hanning(LETTER) * tone)
        parts.append(np.zeros(GAP))
    sentence = np.concatenate(parts)
    return (sentence + rng.normal(size=len(sentence)) * 0.003).astype(np.float32)


def write_corpus(folder: Path, num_clips: int, seed: int, num_words: tuple[int, int] = (2, 4)) -> dict[str, str]:
    """Write `num_clips` clips and `transcripts.tsv` below `folder`; return path -> text."""
    import soundfile

    rng = np.random.default_rng(seed)
    texts: dict[str, str] = {}
    for number in range(num_clips):
        words = [WORDS[i] for i in rng.integers(len(WORDS), size=int(rng.integers(num_words[0], num_words[1] + 1)))]
        name = f"speaker{number % 3}/{number:03d}.wav"
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(folder / name, speak(words, rng), RATE)
        texts[name] = " ".join(words)
    lines = [f"{name}\t{text}" for name, text in texts.items()]
    (folder / "transcripts.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return texts


@dataclass(frozen=True)
class Outcome:
    """What a program said, and how it ended."""

    code: int
    out: str
    err: str

    def lines(self, tag: str) -> list[dict[str, Any]]:
        """Return the JSON lines of a tag, numbers read."""
        marked = [line.split(f"| {tag} | ", 1)[1] for line in self.out.splitlines() if f"| {tag} | " in line]
        return [{key: float(value) for key, value in json.loads(line).items()} for line in marked if line[0] == "{"]


@contextlib.contextmanager
def kept_logging() -> Iterator[None]:
    """Give the root logger back its handlers: a program replaces them."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    try:
        yield
    finally:
        root.handlers, root.level = handlers, level


def call(main: Callable[[list[str]], int], arguments: Sequence[Any]) -> Outcome:
    """Call a program's `main` in this process."""
    out, err = io.StringIO(), io.StringIO()
    with kept_logging(), contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = main([str(argument) for argument in arguments])
    return Outcome(code, out.getvalue(), err.getvalue())


def prepare(
    folder: Path, num_clips: int, seed: int = 1, *, num_words: tuple[int, int] = (2, 4), valid_percent: float = 0.1
) -> Path:
    """Write clips, manifests, labels and dictionary below `folder`; return the folder for `w2v-train`."""
    from w2v_cli import labels, manifest

    write_corpus(folder / "audio", num_clips, seed, num_words)
    data = folder / "data"
    command = [folder / "audio", "--dest", data, "--ext", "wav", "--valid-percent", valid_percent, "--sorted"]
    listed = call(manifest.main, command)
    assert listed.code == 0, listed.err
    for split in ("train", "valid"):
        command = [data / f"{split}.tsv", "--output-dir", data, "--output-name", split]
        command += ["--transcripts", folder / "audio" / "transcripts.txt"]
        labelled = call(labels.main, [*command, *(["--dict"] if split == "train" else [])])
        assert labelled.code == 0, labelled.err
        write_classes(data, split)
    return data


def write_classes(data: Path, split: str, name: str = "km", *, rate: int = 100, classes: int = 6) -> None:
    """Write the class of each 10 ms of a split, by its loudest pitch, and `dict.km.txt`."""
    import soundfile

    root, *clips = (data / f"{split}.tsv").read_text(encoding="utf-8").splitlines()
    width, lines = RATE // rate, []
    for clip in clips:
        samples = soundfile.read(Path(root) / clip.split("\t")[0])[0]
        frames = samples[: len(samples) // width * width].reshape(-1, width)
        bins = np.abs(np.fft.rfft(frames, axis=1)).argmax(axis=1)
        lines.append(" ".join(map(str, np.minimum(bins // 3, classes - 1))) + "\n")
    (data / f"{split}.{name}").write_text("".join(lines), encoding="utf-8")
    (data / f"dict.{name}.txt").write_text("".join(f"{i} 1\n" for i in range(classes)), encoding="utf-8")


COMMON = ["--cpu", "--num-workers", 0, "--log-format", "json", "--no-epoch-checkpoints"]
ADAM = ["--optimizer", "adam", "--adam-betas", "(0.9, 0.98)", "--adam-eps", 1e-6]


def pretraining(data: Path, save_dir: Path, *more: Any) -> list[Any]:
    """Return arguments of `w2v-train` that pretrain a tiny wav2vec 2.0; `more` wins."""
    return [
        data, "--save-dir", save_dir, "--arch", "wav2vec2", "--criterion", "wav2vec", "--infonce",
        "--quantize-targets", "--loss-weights", "[0.1, 10]", "--log-keys", '["prob_perplexity","code_perplexity"]',
        "--extractor-mode", "layer_norm", "--conv-feature-layers", CONV, "--encoder-layers", 2,
        "--encoder-embed-dim", 48, "--encoder-ffn-embed-dim", 96, "--encoder-attention-heads", 4, "--final-dim", 32,
        "--latent-vars", 16, "--conv-pos", 16, "--conv-pos-groups", 4, "--num-negatives", 20, "--mask-length", 4,
        "--lr", 0.002, "--lr-scheduler", "polynomial_decay", "--warmup-updates", 20, "--total-num-update", 400,
        "--max-tokens", 160000, "--max-sample-size", 12000, "--max-update", 40, "--log-interval", 10,
        *ADAM, *COMMON, *more,
    ]  # fmt: skip


def finetuning(data: Path, save_dir: Path, pretrained: Path, *more: Any) -> list[Any]:
    """Return arguments of `w2v-train` that fine-tune it for CTC; `more` wins."""
    return [
        data, "--save-dir", save_dir, "--arch", "wav2vec_ctc", "--criterion", "ctc", "--labels", "ltr",
        "--w2v-path", pretrained, "--zero-infinity", "--sentence-avg", "--best-checkpoint-metric", "wer",
        "--feature-grad-mult", 1.0, "--lr", 0.002, "--lr-scheduler", "tri_stage", "--warmup-steps", 30,
        "--hold-steps", 180, "--decay-steps", 100, "--final-lr-scale", 0.05, "--max-tokens", 80000,
        "--max-update", 300, "--log-interval", 20, "--validate-after-updates", 150, *ADAM, *COMMON, *more,
    ]  # fmt: skip
