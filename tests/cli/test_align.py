"""`w2v-align`: pairs, corpora, files, exit codes, clips; on emissions of an imagined model, and on speech."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from joined_digits import RATE, JoinedDigits, join_digits
from spoken_emissions import INFO, spoken
from toy_speech import Outcome, call, finetuning, pretraining

from w2v.data.dictionary import Dictionary
from w2v.data.labels import read_labels
from w2v.data.manifest import read_manifest
from w2v.errors import ConfigError
from w2v.inference.emission_file import EmissionWriter
from w2v.inference.text_alignment import TextAligner
from w2v_cli import align, train
from w2v_cli.transcript_files import stems_of

soundfile = pytest.importorskip("soundfile")

SENTENCES = ["the quick brown fox", "jumps over the lazy dog", "while seven wizards", "quietly hum an old tune"]


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    """A manifest, its words, and emissions in which they were said; no audio."""
    clips = [spoken(sentence.upper().split(), seed)[0] for seed, sentence in enumerate(SENTENCES)]
    names = [f"speaker/{number}.wav" for number in range(len(clips))]
    sizes = [len(clip) * 320 + 80 for clip in clips]
    rows = [f"{name}\t{size}\n" for name, size in zip(names, sizes, strict=True)]
    (tmp_path / "test.tsv").write_text(f"{tmp_path}\n{''.join(rows)}")
    (tmp_path / "test.wrd").write_text("".join(f"{sentence}\n" for sentence in SENTENCES))
    with EmissionWriter(tmp_path / "emissions.safetensors", INFO, names) as writer:
        for name, size, clip in zip(names, sizes, clips, strict=True):
            writer.add(name, size, torch.from_numpy(clip))
    return tmp_path


def aligned(folder: Path, *more: Any) -> Outcome:
    return call(align.main, [folder / "emissions.safetensors", folder / "test.tsv", "--cpu", "--num-workers", 0, *more])


def test_words_of_a_corpus_on_stdout(corpus: Path) -> None:
    """P20, P21: CTM in the order of the manifest, nothing else on stdout."""
    done = aligned(corpus)
    assert done.code == 0, done.err
    lines = [line.split() for line in done.out.splitlines()]
    assert [line[4] for line in lines] == " ".join(SENTENCES).split()
    assert [line[0] for line in lines[:4]] == ["0"] * 4
    assert all(0 <= float(line[5]) <= 1 for line in lines)


def test_files_in_all_formats(corpus: Path) -> None:
    """P8, P20: every format, a tier of characters, one segment a line; pauses are empty intervals."""
    done = aligned(corpus, "--output-dir", corpus / "out")
    assert done.code == 0, done.err
    assert done.out == ""
    endings = ("txt", "json", "srt", "vtt", "ctm", "TextGrid", "tsv")
    found = sorted(str(path.relative_to(corpus / "out")) for path in (corpus / "out").rglob("*") if path.is_file())
    assert found == sorted(f"speaker/{number}.{ending}" for number in range(4) for ending in endings)
    document = json.loads((corpus / "out/speaker/1.json").read_text())
    assert document["text"] == SENTENCES[1]
    assert document["file"] == "speaker/1.wav"
    assert [word["interpolated"] for word in document["segments"][0]["words"]] == [False] * 5
    assert document["segments"][0]["min_window_score"] < 0
    grid = (corpus / "out/speaker/1.TextGrid").read_text()
    assert 'name = "words"' in grid
    assert 'name = "chars"' in grid
    assert 'text = ""' in grid


def test_a_run_that_was_stopped_goes_on(corpus: Path) -> None:
    """P8, P21."""
    out = ["--output-dir", corpus / "out", "--output-format", "ctm,json"]
    assert aligned(corpus, *out).code == 0
    before = {path: path.stat().st_mtime_ns for path in (corpus / "out").rglob("*.*")}
    (corpus / "out/speaker/2.json").unlink()
    done = aligned(corpus, *out)
    assert "3 of 4 recordings are done already" in done.err
    after = {path: path.stat().st_mtime_ns for path in (corpus / "out").rglob("*.*")}
    assert after.keys() == before.keys()
    assert {path.name for path in after if after[path] != before[path]} == {"2.json"}
    assert aligned(corpus, *out, "--overwrite").code == 0
    again = {path: path.stat().st_mtime_ns for path in (corpus / "out").rglob("*.*")}
    assert all(again[path] != after[path] for path in after)


def test_a_bad_pair_does_not_stop_the_others(corpus: Path) -> None:
    """P15, P21: each with one line, the count at the end, exit code 1."""
    lines = [*SENTENCES]
    lines[1], lines[2] = "bb " * 400, " * "
    (corpus / "test.wrd").write_text("".join(f"{line}\n" for line in lines))
    done = aligned(corpus)
    assert done.code == 1
    assert {line.split()[0] for line in done.out.splitlines()} == {"0", "3"}
    assert "are too few for a text of 1200 symbols with 400 equal neighbours, which needs 1600" in done.err
    assert "the text has no words" in done.err
    assert "2 recordings could not be aligned" in done.err
    (corpus / "test.wrd").write_text("one line\n")
    refused = aligned(corpus)
    assert refused.code == 2
    assert "1 lines, but" in refused.err


def test_a_text_that_was_not_said(corpus: Path) -> None:
    """P18: exit code 3 once the files are written, with the cause; another script has its own."""
    wrong = [*SENTENCES]
    wrong[0], wrong[3] = "zebras vex my judge", "тихо мычат старую песню"
    (corpus / "test.wrd").write_text("".join(f"{line}\n" for line in wrong))
    done = aligned(corpus, "--output-dir", corpus / "out", "--output-format", "json")
    assert done.code == 3
    assert len(list((corpus / "out").rglob("*.json"))) == 4
    assert "0.wav: its text was not heard" in done.err
    assert "it is the text of another recording" in done.err
    assert "lacks 20 of its 20 letters" in done.err
    assert "the texts of 2 recordings were not heard" in done.err
    words = json.loads((corpus / "out/speaker/3.json").read_text())["segments"][0]["words"]
    assert [word["word"] for word in words] == wrong[3].split()
    assert all(word["interpolated"] for word in words)
    assert aligned(corpus, "--min-confidence", 0).code == 0


def test_what_is_said_of_a_single_recording(corpus: Path) -> None:
    """P16, P18: characters without a symbol once with counts, the weakest stretch, exit code 2 for what cannot be."""
    rows = (corpus / "test.tsv").read_text().splitlines(keepends=True)
    (corpus / "test.tsv").write_text("".join(rows[:2]))
    (corpus / "test.wrd").write_text("THE quick, brown... zebra fox\n")
    done = aligned(corpus)
    assert done.code == 0, done.err
    assert done.err.count("characters that the dictionary lacks") == 1
    assert "'.' 3, ',' 1" in done.err
    assert "weakest stretch" in done.err
    assert done.err.rstrip().split("weakest stretch")[1].count("zebra") == 1
    assert "5 words, confidence 0." in done.err
    (corpus / "test.wrd").write_text("a" * 500 + "\n")
    refused = aligned(corpus)
    assert refused.code == 2
    assert refused.err.splitlines()[-1].startswith(f"{Path(sys.argv[0]).name.removesuffix('.py')}: error: ")
    assert "499 equal neighbours" in refused.err


def test_workers_change_nothing(corpus: Path) -> None:
    """P21."""
    alone = aligned(corpus, "--output-format", "json")
    together = aligned(corpus, "--output-format", "json", "--num-workers", 2)
    assert alone.out == together.out
    assert alone.out.count('"file"') == 4


def test_speed_on_cached_emissions() -> None:
    """P21: 100 times real time on a core; it is above a thousand."""
    clips = [spoken(" ".join(SENTENCES).upper().split() * 2, seed)[0] for seed in range(30)]
    aligner, text = TextAligner(INFO), [" ".join(SENTENCES * 2)]
    begin = time.process_time()
    for clip in clips:
        aligner.align(clip, len(clip) * 320, text)
    seconds = time.process_time() - begin
    assert sum(map(len, clips)) * 0.02 / seconds > 100


def test_names_of_files() -> None:
    """P8."""
    assert stems_of(["a/x.wav", "b/x.wav", "y.flac"]) == ["a/x", "b/x", "y"]
    assert stems_of(["x.wav", "x.mp3", "y.wav"]) == ["x.wav", "x.mp3", "y"]
    for names in (["x.wav", "x.wav"], ["x.wav", "x.mp3", "x.wav.flac"]):
        with pytest.raises(ConfigError):
            stems_of(names)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--output-format", "srt,vtt"], "--output-format srt,vtt needs --output-dir"),
        (["--output-format", "doc"], "must be formats of txt, json"),
        (["--min-confidence", 2], "--min-confidence"),
        (["--star", "everywhere"], "everywhere"),
        (["--fp16", "--bf16"], "exclude each other"),
    ],
)
def test_flags_that_do_not_go(corpus: Path, more: list[Any], message: str) -> None:
    done = aligned(corpus, *more)
    assert done.code == 2
    assert message in done.err
    assert "Traceback" not in done.err


def test_a_folder_of_clips_is_made_first(corpus: Path) -> None:
    """What is in its way is said before anything is aligned; without any clip, the reason is said and not its lists."""
    done = aligned(corpus, "--split", corpus / "test.wrd")
    assert done.code == 2
    assert f"--split: cannot make the folder {corpus / 'test.wrd'}" in done.err
    assert done.err.count("\n") == 1
    rows = (corpus / "test.tsv").read_text().splitlines(keepends=True)
    (corpus / "test.tsv").write_text("".join(rows[:2]))
    (corpus / "test.wrd").write_text("a" * 500 + "\n")
    refused = aligned(corpus, "--split", corpus / "clips")
    assert refused.code == 2
    assert "499 equal neighbours" in refused.err


def test_help_needs_no_torch() -> None:
    """P10."""
    code = "import sys; sys.modules['torch'] = None; from w2v_cli import align; align.main(['--help'])"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    assert "--split FOLDER" in ran.stdout


# On real speech.


@pytest.fixture(scope="module")
def digits(data: Path) -> JoinedDigits:
    return join_digits(data, max_clips=12)


@pytest.fixture(scope="module")
def pairs(digits: JoinedDigits, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pairs")
    soundfile.write(folder / "talk.wav", digits.samples, RATE, subtype="PCM_16")
    (folder / "talk.txt").write_text("\n".join(digits.lines) + "\n")
    return folder


def test_digits_are_where_they_were_said(pairs: Path, digits_model: Path, digits: JoinedDigits) -> None:
    """Starts lie within the word: CTC hears a word when it has heard its first sound, 80 ms late in the median."""
    done = call(align.main, [digits_model, pairs / "talk.wav", "--cpu"])
    assert done.code == 0, done.err
    words = [line.split() for line in done.out.splitlines()]
    assert [word[4] for word in words] == " ".join(digits.lines).split()
    starts = np.array([float(word[2]) for word in words])
    late = starts - digits.starts
    assert abs(np.median(late)) < 0.12
    assert np.quantile(np.abs(late), 0.95) < 0.3
    assert np.mean((starts > digits.starts - 0.05) & (starts < digits.ends)) > 0.97


def test_another_rate_and_two_channels(pairs: Path, digits_model: Path, digits: JoinedDigits, tmp_path: Path) -> None:
    pytest.importorskip("soxr")
    plain = call(align.main, [digits_model, pairs / "talk.wav", "--cpu"])
    doubled = np.repeat(digits.samples, 2)
    soundfile.write(tmp_path / "talk.flac", np.stack([doubled, doubled], axis=1), 2 * RATE)
    done = call(align.main, [digits_model, tmp_path / "talk.flac", pairs / "talk.txt", "--cpu"])
    assert done.code == 0, done.err
    a, b = ([float(line.split()[2]) for line in outcome.out.splitlines()] for outcome in (plain, done))
    assert np.mean(np.abs(np.array(a) - b) <= 0.021) > 0.95


def test_a_folder_of_pairs(pairs: Path, digits_model: Path, digits: JoinedDigits, tmp_path: Path) -> None:
    """P21: `.txt` and `.lab`; what is no audio, and a text that is too long, are named and left out before any work."""
    (tmp_path / "a").mkdir()
    short = digits.samples[: int(digits.ends[2] * RATE)]
    words = digits.lines[0].split()[:3]
    for name, text in (
        ("a/one.wav", " ".join(words)),
        ("two.wav", " ".join(words).lower()),
        ("long.wav", "FIVE " * 99),
    ):
        soundfile.write(tmp_path / name, short, RATE, subtype="PCM_16")
        (tmp_path / name).with_suffix(".lab" if name == "two.wav" else ".txt").write_text(text)
    (tmp_path / "broken.wav").write_bytes(b"RIFF no audio")
    (tmp_path / "broken.txt").write_text("ONE")
    (tmp_path / "lonely.wav").write_bytes(b"")
    done = call(
        align.main, [digits_model, tmp_path, "--cpu", "--output-dir", tmp_path / "out", "--output-format", "ctm"]
    )
    assert done.code == 1
    assert "2 recordings could not be aligned" in done.err
    assert "broken.wav" in done.err
    assert "are too few for a text of" in done.err
    assert sorted(str(path.relative_to(tmp_path / "out")) for path in (tmp_path / "out").rglob("*.ctm")) == [
        "a/one.ctm", "two.ctm",
    ]  # fmt: skip
    upper, lower = ((tmp_path / f"out/{name}.ctm").read_text().split() for name in ("a/one", "two"))
    assert upper[3::6] == lower[3::6]
    assert upper[5::6] == lower[5::6]
    assert lower[4::6] == [word.lower() for word in words]


def test_no_text(pairs: Path, digits_model: Path, tmp_path: Path) -> None:
    soundfile.write(tmp_path / "x.wav", np.zeros(RATE), RATE)
    for arguments, message in (
        ([tmp_path / "x.wav"], "no text"),
        ([tmp_path], "holds no recording with"),
        ([tmp_path / "x.wav", tmp_path / "none.txt"], "cannot read the text"),
        ([tmp_path / "none.wav", pairs / "talk.txt"], "none.wav"),
    ):
        done = call(align.main, [digits_model, *arguments, "--cpu"])
        assert done.code == 2
        assert message in done.err
        assert "Traceback" not in done.err


def test_clips_to_train_on(pairs: Path, digits_model: Path, digits: JoinedDigits, tmp_path: Path) -> None:
    """`--split`: clips hold their words, lists agree, `w2v-train` takes them, a second run does nothing."""
    lines = [*digits.lines]
    lines[4] = f"NINE NINE NINE NINE NINE {lines[4]}"  # not said
    lines[7] = f"{lines[7]} 42"  # cannot be spelled
    (tmp_path / "talk.txt").write_text("\n".join(lines))
    out = tmp_path / "clips"
    command = [digits_model, pairs / "talk.wav", tmp_path / "talk.txt", "--cpu", "--split", out, "--max-seconds", 8]
    done = call(align.main, command)
    assert done.code == 0, done.err
    manifest = read_manifest(out / "train.tsv")
    symbols = Dictionary.from_file(out / "dict.ltr.txt")
    labels = read_labels(out / "train.ltr", len(manifest), symbols)
    assert labels.num_unknown == 0
    words = (out / "train.wrd").read_text().splitlines()
    assert len(words) == len(manifest) >= 4
    whole = soundfile.read(pairs / "talk.wav", dtype="int16")[0]
    text = " ".join(digits.lines)
    for row, line in enumerate(words):
        clip = soundfile.read(manifest.path(row), dtype="int16")[0]
        assert len(clip) == manifest.sizes[row] <= 8 * RATE
        place = whole.tobytes().find(clip.tobytes()) // 2
        assert place >= 0
        # Each clip holds the words whose recordings lie in it.
        middles = (digits.starts + digits.ends) / 2
        inside = (middles > place / RATE) & (middles < (place + len(clip)) / RATE)
        assert line.split() == [word for word, is_in in zip(text.split(), inside, strict=True) if is_in]
    rejects = [line.split("\t") for line in (out / "rejects.tsv").read_text().splitlines()]
    assert rejects[0] == ["file", "start", "end", "confidence", "reason", "text"]
    reasons = " ".join(row[4] for row in rejects[1:])
    assert "not heard" in reasons
    assert "cannot be spelled" in reasons
    assert any("42" in row[5] for row in rejects)
    assert sum(map(len, map(str.split, words))) + sum(len(row[5].split()) for row in rejects[1:]) == len(
        " ".join(lines).split()
    )
    again = call(align.main, command)
    assert "1 of 1 recordings are done already" in again.err
    assert (out / "train.wrd").read_text().splitlines() == words
    no_validation = ["--disable-validation", "--max-update", 1]
    pretrained = call(train.main, pretraining(out, tmp_path / "pre", *no_validation))
    assert pretrained.code == 0, pretrained.err
    command = finetuning(out, tmp_path / "fine", tmp_path / "pre/checkpoint_last.pt", *no_validation)
    tuned = call(train.main, [*command, "--max-tokens", 200_000])
    assert tuned.code == 0, tuned.err


def test_clips_of_a_wrong_text_and_of_a_name_that_is_no_utf8(
    pairs: Path, digits_model: Path, digits: JoinedDigits, tmp_path: Path
) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    name = os.fsdecode(b"na\xefve")
    for stem, text in ((name, "\n".join(digits.lines)), ("wrong", "TWENTY HOUSES WERE BUILT HERE")):
        (folder / f"{stem}.WAV").write_bytes((pairs / "talk.wav").read_bytes())
        (folder / f"{stem}.txt").write_text(text)
    out = tmp_path / "clips"
    done = call(align.main, [digits_model, folder, "--cpu", "--split", out, "--num-workers", 0])
    assert done.code == 3
    assert "wrong.WAV: its text was not heard" in done.err
    manifest = read_manifest(out / "train.tsv")
    assert len(manifest) > 0
    assert all(os.path.exists(manifest.path(row)) and name in manifest.name(row) for row in range(len(manifest)))
    rejects = (out / "rejects.tsv").read_bytes().decode("utf-8", "surrogateescape").splitlines()[1:]
    assert "TWENTY HOUSES WERE BUILT HERE" in " ".join(line.split("\t")[5] for line in rejects if "wrong" in line)
    assert all(line.split("\t")[4] == "text not heard" for line in rejects if "wrong" in line)


def test_two_processes_share_a_corpus(corpus: Path) -> None:
    """P21: the same files from one process and from two of torchrun's."""
    command = ["-m", "w2v_cli.align", str(corpus / "emissions.safetensors"), str(corpus / "test.tsv"), "--cpu"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(align.__file__).parents[1])}

    def launch(begin: list[str], out: str) -> subprocess.CompletedProcess[str]:
        arguments = [*begin, *command, "--output-dir", str(corpus / out), "--output-format", "json"]
        return subprocess.run(
            [sys.executable, *arguments], env=environment, capture_output=True, text=True, check=False
        )

    alone = launch([], "alone")
    assert alone.returncode == 0, alone.stderr
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    together = launch(torchrun, "together")
    assert together.returncode == 0, together.stderr
    assert together.stderr.count("4 recordings aligned") == 1
    files = sorted((corpus / "alone").rglob("*.json"))
    assert len(files) == 4
    for file in files:
        assert (corpus / "together" / file.relative_to(corpus / "alone")).read_text() == file.read_text()
