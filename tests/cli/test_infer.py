"""`w2v-infer`: files, order, scores and messages, with a model whose output is written into the audio.

Every 100 samples of a clip hold one value, which is the label that the model reads there; silence is the blank.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from w2v.data.dictionary import Dictionary
from w2v.types import CtcOutput, Features
from w2v_cli import emission_source, infer

soundfile = pytest.importorskip("soundfile")

RATE = 1000
FRAME = 100
DICTIONARY = Dictionary.from_symbols(["|", *"ABCDEFGH"])
ARPA = Path(__file__).resolve().parent.parent / "assets" / "lm" / "words.arpa"

CLIPS = ["AB|A|", "A|", "BA|AB|BAB|A|", "", "B|BB|"]
LABELS = ["AB|A|", "B|", "BA|AB|BAB|", "A|", "B|B|"]
# Longest first: the order of the batches, and so of all lines.
ORDER = [2, 4, 0, 1, 3]
TEXTS = ["AB A", "A", "BA AB BAB A", "", "B BB"]


class WrittenInAudio(nn.Module):
    """Reads labels off amplitudes; fails if it is given a batch without one frame, as convolutions do."""

    reads = "audio"

    def __init__(self) -> None:
        super().__init__()
        self.batches: list[tuple[int, ...]] = []

    def forward(self, source: Tensor, lengths: Tensor | None, seed: int) -> CtcOutput:
        assert not self.training
        frames = source[:, : source.shape[1] // FRAME * FRAME].reshape(len(source), -1, FRAME)[:, :, FRAME // 2]
        if not frames.shape[1]:
            raise RuntimeError("no frame")
        labels = (frames * 64).round().long()
        self.batches.append(tuple(source.shape))
        full = torch.full((len(source),), source.shape[1])
        # A bias that softmax removes: decoders get log-probabilities.
        logits = 20.0 * nn.functional.one_hot(labels, len(DICTIONARY)).float() + 3.0
        return CtcOutput(logits, (full if lengths is None else lengths) // FRAME)


def write_clip(path: Path, text: str, tail: int = 0) -> int:
    labels = [label for letter in text for label in (DICTIONARY.index(letter), DICTIONARY.index(letter), 0)]
    samples = np.concatenate([np.repeat(np.array(labels, dtype=np.float32) / 64, FRAME), np.zeros(tail)])
    soundfile.write(path, samples.astype(np.float32), RATE, subtype="FLOAT")
    return len(samples)


def units(text: str) -> str:
    return " ".join(text)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    lines = [str(tmp_path)]
    for row, text in enumerate(CLIPS):
        # The fourth clip is shorter than a frame.
        lines.append(f"clip{row}.wav\t{write_clip(tmp_path / f'clip{row}.wav', text, tail=30)}")
    (tmp_path / "test.tsv").write_text("\n".join(lines) + "\n")
    (tmp_path / "test.ltr").write_text("".join(f"{units(text)}\n" for text in LABELS))
    return tmp_path


@pytest.fixture
def model(monkeypatch: pytest.MonkeyPatch) -> WrittenInAudio:
    model = WrittenInAudio()
    options = SimpleNamespace(
        normalize=False, normalize_epsilon=1e-5, sample_rate=RATE, labels="ltr", resample=False, channel=None
    )
    loaded = SimpleNamespace(
        path="checkpoint_best.pt",
        model=model,
        task=SimpleNamespace(dictionary=DICTIONARY, config=options),
        config={"criterion": {"_name": "ctc", "post_process": "letter"}},
    )

    def load(path: str, *, overrides: Any = None, user_dir: str | None = None, **_: Any) -> Any:
        loaded.arguments = (path, overrides, user_dir)
        return loaded

    monkeypatch.setattr(emission_source, "load_model", load)
    model.loaded = loaded  # type: ignore[assignment]
    return model


Program = Callable[..., tuple[int, dict[str, list[str]]]]


@pytest.fixture
def program(folder: Path, model: WrittenInAudio) -> Program:
    """Return a function that runs `w2v-infer` as published, and gives its exit code and the files' lines."""

    def run(*flags: str) -> tuple[int, dict[str, list[str]]]:
        command = [
            str(folder), "--task", "audio_pretraining", "--nbest", "1", "--path", "save/checkpoint_best.pt",
            "--gen-subset", "test", "--results-path", str(folder / "out"), "--w2l-decoder", "viterbi",
            "--criterion", "ctc", "--labels", "ltr", "--max-tokens", "4000000", "--post-process", "letter",
            "--num-workers", "0", *flags,
        ]  # fmt: skip
        code = infer.main(command)
        files = sorted((folder / "out").glob("*")) if (folder / "out").is_dir() else []
        return code, {file.name: file.read_text().split("\n")[:-1] for file in files}

    return run


def test_files_lines_and_score(program: Program, capsys: pytest.CaptureFixture[str]) -> None:
    code, files = program()
    assert code == 0
    name = "checkpoint_best.pt-test.txt"
    assert files == {
        f"hypo.word-{name}": [f"{TEXTS[row]} (None-{row})" for row in ORDER],
        f"hypo.units-{name}": [f"{units(CLIPS[row])} (None-{row})" for row in ORDER],
        f"ref.word-{name}": [f"{LABELS[row].replace('|', ' ').strip()} (None-{row})" for row in ORDER],
        f"ref.units-{name}": [f"{units(LABELS[row])} (None-{row})" for row in ORDER],
    }
    assert files[f"hypo.word-{name}"][-1] == " (None-3)"
    printed = capsys.readouterr().out
    # A for B; A too many; A missing; BB for B.
    assert "WER: 44.44 % (2 sub, 1 ins, 1 del in 9 words of 5 sentences)" in printed
    assert "test: 5 clips" in printed
    assert "audio-seconds per second" in printed


def test_batches_change_nothing(program: Program, model: WrittenInAudio) -> None:
    _, together = program()
    assert len(model.batches) == 1
    _, alone = program("--batch-size", "1", "--num-workers", "2")
    assert len(model.batches) == 1 + len(CLIPS)
    assert together == alone


def test_kenlm_with_several_readings(program: Program, folder: Path) -> None:
    pytest.importorskip("flashlight.lib.text")
    code, files = program(
        "--w2l-decoder", "kenlm", "--lm-model", str(ARPA), "--lm-weight", "2", "--word-score", "-1",
        "--sil-weight", "0", "--nbest", "3", "--beam", "50", "--beam-threshold", "200",
    )  # fmt: skip
    assert code == 0
    lines = [line.split("\t") for line in files["nbest-checkpoint_best.pt-test.txt"]]
    words = files["hypo.word-checkpoint_best.pt-test.txt"]
    assert words[ORDER.index(0)] == "AB A (None-0)"
    assert [f"{text} (None-{row})" for row, rank, _, text in lines if rank == "1"] == words
    assert {rank for _, rank, _, _ in lines} == {"1", "2", "3"}
    for row in map(str, ORDER):
        scores = [float(score) for number, _, score, _ in lines if number == row]
        assert scores == sorted(scores, reverse=True)
    # The lexicon comes from the model's words, so no other word comes out.
    assert {word for _, _, _, text in lines for word in text.split()} <= {"A", "B", "AB"}


def test_without_labels_and_without_a_folder(
    program: Program, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "test.ltr").unlink()
    code, files = program()
    assert (code, len(files)) == (0, 2)
    assert "transcripts are not scored" in capsys.readouterr().out
    assert infer.main([str(folder), "--path", "x.pt", "--num-workers", "0"]) == 0
    captured = capsys.readouterr()
    assert captured.out == "".join(f"clip{row}.wav\t{TEXTS[row]}\n" for row in ORDER)
    assert "5 clips" in captured.err


def test_long_and_unreadable_clips_keep_their_place(
    program: Program, folder: Path, model: WrittenInAudio, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "clip0.wav").write_bytes(b"no audio")
    code, files = program("--max-tokens", "2000")
    assert code == 1  # what is missing is counted and named, all others are there
    expected = {row: "" if row == 0 else TEXTS[row] for row in ORDER}
    assert files["hypo.word-checkpoint_best.pt-test.txt"] == [f"{expected[row]} (None-{row})" for row in ORDER]
    assert model.batches[0][0] == 1
    said = capsys.readouterr().out
    assert "clip2.wav: 3630 samples do not fit into --max-tokens 2000; the clip is a batch of its own" in said
    assert "clip0.wav" in said
    assert "1 of 5 clips are unreadable" in said


def test_a_clip_without_sound_is_named(program: Program, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    soundfile.write(folder / "clip0.wav", np.zeros(0), 16000)
    code, files = program()
    assert code == 1
    expected = sorted(f"{TEXTS[row] if row else ''} (None-{row})" for row in ORDER)
    assert sorted(files["hypo.word-checkpoint_best.pt-test.txt"]) == expected
    said = capsys.readouterr().out
    assert f"too short for the model, its transcript is empty: {folder / 'clip0.wav'}: 0 samples, one frame" in said
    assert "1 of 5 clips are unreadable" in said


def test_shards_share_the_clips(program: Program, folder: Path) -> None:
    for shard in ("0", "1"):
        _, files = program("--batch-size", "2", "--num-shards", "2", "--shard-id", shard)
    words = [files[f"{shard}_hypo.word-checkpoint_best.pt-test.txt"] for shard in (0, 1)]
    assert sorted(words[0] + words[1]) == sorted(f"{TEXTS[row]} (None-{row})" for row in ORDER)
    assert len(words[0]) == 3


def test_clips_of_equal_length_come_in_the_order_of_the_original(program: Program, folder: Path) -> None:
    for row in range(len(CLIPS)):
        write_clip(folder / f"clip{row}.wav", "AB|")
    names = "\n".join(f"clip{row}.wav\t900" for row in range(len(CLIPS)))
    (folder / "test.tsv").write_text(f"{folder}\n{names}\n")
    _, files = program()
    # Its dataset: lexsort of (a permutation, the lengths), reversed, under numpy seed 1.
    expected = np.lexsort([np.random.RandomState(1).permutation(len(CLIPS)), [900] * len(CLIPS)])[::-1]
    rows = [line.split("None-")[1][:-1] for line in files["hypo.word-checkpoint_best.pt-test.txt"]]
    assert rows == [str(row) for row in expected]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--beem", "5"], "unknown flag --beem; did you mean --beam?"),
        (["--w2l-decoder", "kenlmm"], "--w2l-decoder: unknown decoder 'kenlmm'"),
        (["--w2l-decoder", "kenlm"], "needs --lm-model"),
        (["--gen-subset", "none"], "none.tsv"),
        (["--normalize"], "was trained without --normalize"),
        (["--shard-id", "1"], "--shard-id"),
        (["--fp16", "--bf16"], "exclude each other"),
        (["--model-overrides", "[1]"], "--model-overrides: must be {'name': value, ...}"),
        (["--scoring", "wor"], "did you mean 'wer'"),
        (["--dump-emissions", "x.npy"], "name it .safetensors"),
        (["--load-emissions", "x.npy"], "cannot read the emissions x.npy"),
        (["--load-emissions", "x", "--dump-emissions", "y"], "exclude each other"),
        (["--dump-features", "x.npy"], "w2v-infer has no --dump-features: w2v-featurize writes"),
        (["--ctm"], "--ctm: the model checkpoint_best.pt does not tell when"),
        (["--per-speaker", "--speaker-from", "nobody"], "--speaker-from must be parent, prefix:MARK or a file"),
        (["--scoring", "bleu", "--bootstrap", "100"], "--bootstrap is for error rates"),
        (["--decode-workers", "-1"], "--decode-workers must be at least 0"),
        (["--beam", "0"], "--beam must"),
        (["--path", "a.pt:b.pt"], "--path takes one checkpoint"),
    ],
)
def test_bad_flags_are_one_line(
    program: Program, capsys: pytest.CaptureFixture[str], flags: list[str], message: str
) -> None:
    assert program(*flags)[0] == 2
    lines = [line for line in capsys.readouterr().err.split("\n") if line]
    assert len(lines) == 1
    assert message in lines[0]


def test_results_that_cannot_be_written(program: Program, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "file").touch()
    assert program("--results-path", str(folder / "file" / "out"))[0] == 2
    assert "--results-path: cannot write to" in capsys.readouterr().err


def test_a_model_without_labels_or_without_ctc(
    program: Program, model: WrittenInAudio, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(model, "forward", lambda source, lengths, seed: Features(source[:, :, None], lengths))
    assert program()[0] == 2
    assert "WrittenInAudio is no CTC model" in capsys.readouterr().err
    model.loaded.task.dictionary = None  # type: ignore[union-attr]
    assert program()[0] == 2
    assert "was not fine-tuned with --labels" in capsys.readouterr().err


@pytest.mark.usefixtures("quick_half")
def test_number_formats_and_overrides_reach_the_model(program: Program, model: WrittenInAudio) -> None:
    _, expected = program()
    for flags in (["--bf16"], ["--fp16", "--model-overrides", "{'layerdrop': 0.0}"]):
        assert program(*flags)[1] == expected
    assert model.loaded.arguments == ("save/checkpoint_best.pt", {"layerdrop": 0.0}, None)  # type: ignore[union-attr]
