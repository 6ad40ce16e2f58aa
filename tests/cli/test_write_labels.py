"""`--write-labels`: files of one length that training takes, scores, filters, the table, and what training refuses."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from rank_processes import run_ranks
from torch.nn import functional as F
from toy_speech import Outcome, call

from w2v.data.dictionary import SPECIALS, Dictionary
from w2v.errors import DataError
from w2v.functional.edit_distance import edit_distance
from w2v.inference.emission_file import EmissionFile, EmissionInfo, EmissionWriter
from w2v.tasks.audio_pretraining import AudioPretrainingConfig, AudioPretrainingTask
from w2v_cli import infer, transcribe

SYMBOLS = [*SPECIALS, "|", *"ABCD"]
STRIDE, RATE = 320, 16000
TEXTS = ["AB BA", "ABBA", "", "CAD AB", "A B A B A B A B A B A B", "DAB", "BAD CAB", "A<unk>B", "ABC DAB"]
HEARD = ["AB BA", "ABBA", "", "CAD AD", "A B A B A B A B A B A B", "DAB", "BAD CAD", "A<unk>B", "BC DAB"]
SURE = [0.95, 0.9, 0.99, 0.5, 0.93, 0.8, 0.7, 0.9, 0.6]  # probability of the symbols of each clip
ENDINGS = (".tsv", ".ltr", ".wrd", ".conf", ".scores.tsv")


def units(text: str) -> list[str]:
    return [*text.replace(" ", "|").replace("<unk>", "?"), "|"] if text else []


def emissions_of(text: str, sure: float, seed: int) -> torch.Tensor:
    """Return (T, V) log-probabilities in which each symbol of a text is said once, others are noise."""
    ids = [SYMBOLS.index("<unk>" if unit == "?" else unit) for unit in units(text)]
    frames = [0, 0, *(frame for number in ids for frame in (number, number, 0))]
    noise = np.random.default_rng(seed).dirichlet(np.ones(len(SYMBOLS)), len(frames))
    rows = (1 - sure) * noise
    rows[np.arange(len(frames)), frames] += sure
    return torch.from_numpy(np.log(rows)).float()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    info = EmissionInfo("teacher.pt", SYMBOLS, "letter", "ltr", RATE, STRIDE, 0.0)
    names = [f"clip{number}.wav" for number in range(len(TEXTS))]
    lines = [str(tmp_path)]
    with EmissionWriter(tmp_path / "e.safetensors", info, names) as writer:
        for number, (name, text, sure) in enumerate(zip(names, HEARD, SURE, strict=True)):
            log_probs = emissions_of(text, sure, number)
            writer.add(name, len(log_probs) * STRIDE, log_probs)
            soundfile.write(tmp_path / name, np.zeros(len(log_probs) * STRIDE, np.float32), RATE)
            lines.append(f"{name}\t{len(log_probs) * STRIDE}")
    (tmp_path / "rest.tsv").write_text("\n".join([*lines, ""]))
    (tmp_path / "rest.ltr").write_text("".join(" ".join(units(text)) + "\n" for text in TEXTS))
    return tmp_path


Label = Callable[..., Outcome]


@pytest.fixture
def label(folder: Path) -> Label:
    """Return a function that runs `w2v-infer` on the emissions."""

    def run(*flags: object) -> Outcome:
        command = [folder, "--load-emissions", folder / "e.safetensors", "--gen-subset", "rest", "--quiet", *flags]
        return call(infer.main, command)

    return run


def lines_of(name: Path) -> dict[str, list[str]]:
    return {ending: Path(f"{name}{ending}").read_text().splitlines() for ending in ENDINGS}


KEPT = [0, 1, 3, 4, 5, 6, 8]  # without the empty one and the one with <unk>


def test_files_have_one_length_and_say_what_the_transcripts_say(folder: Path, label: Label) -> None:
    done = label("--write-labels", folder / "out/pseudo", "--results-path", folder / "results", "--ctm")
    assert done.code == 0, done.err
    files = lines_of(folder / "out/pseudo")
    root, *clips = files[".tsv"]
    assert root == str(folder)
    source = (folder / "rest.tsv").read_text().splitlines()[1:]
    assert clips == [source[row] for row in KEPT]
    assert files[".wrd"] == [HEARD[row] for row in KEPT]
    assert files[".ltr"] == [" ".join(units(HEARD[row])) for row in KEPT]
    assert {len(files[ending]) for ending in ENDINGS[1:]} == {len(KEPT)}
    hypotheses = (folder / "results/hypo.word-teacher.pt-rest.txt").read_text().splitlines()
    by_row = {int(line.rpartition("(None-")[2][:-1]): line.rpartition(" (None-")[0] for line in hypotheses}
    assert [by_row[row] for row in KEPT] == files[".wrd"]
    # The dictionary is the teacher's, number for number.
    assert Dictionary.from_file(folder / "out/dict.ltr.txt").symbols == SYMBOLS
    assert "kept 7 of 9 clips" in done.out
    assert "left out 1 clips" in done.out
    assert "nothing was heard" in done.out

    emissions = EmissionFile(folder / "e.safetensors")
    ctm = [line.split() for line in (folder / "results/hypo-teacher.pt-rest.ctm").read_text().splitlines()]
    for line, letters, conf in zip(files[".scores.tsv"], files[".ltr"], files[".conf"], strict=True):
        name, confidence, score, lm, agreed, entropy, count = line.split("\t")
        clip = emissions.log_probs(name)
        ids = [SYMBOLS.index(symbol) for symbol in letters.split()]
        loss = F.ctc_loss(clip, torch.tensor(ids), (len(clip),), (len(ids),), reduction="sum")
        assert float(score) == pytest.approx(-float(loss) / len(ids), abs=1e-4)
        words = [float(word[5]) for word in ctm if word[0].endswith(name.removesuffix(".wav"))]
        assert float(confidence) == pytest.approx(np.mean(words), abs=1e-3)
        assert (conf, lm, agreed, int(count)) == (confidence, "", "", len(ids))
        assert 0 <= float(entropy) <= 1


def test_batches_seeds_decoders_and_ranks_change_nothing(folder: Path, label: Label, tmp_path: Path) -> None:
    assert label("--write-labels", folder / "a/pseudo").code == 0
    assert label("--write-labels", folder / "b/pseudo", "--batch-size", 1, "--seed", 9).code == 0
    argv = [folder, "--load-emissions", folder / "e.safetensors", "--gen-subset", "rest", "--quiet", "--cpu"]
    (tmp_path / "said").mkdir()
    ranked = [*argv, "--write-labels", folder / "c/pseudo", "--batch-size", 2, "--results-path", folder / "r"]
    ended = run_ranks("w2v_cli.infer", [str(item) for item in ranked], 2, tmp_path / "said")
    assert [code for code, _ in ended] == [0, 0], ended
    for other in "bc":
        assert lines_of(folder / other / "pseudo") == lines_of(folder / "a/pseudo")
    lexicon = folder / "lexicon.txt"
    lexicon.write_text("".join(f"{word} {' '.join(word)} |\n" for word in sorted(set(" ".join(HEARD).split()))))
    (folder / "words.arpa").write_text(
        "\\data\\\nngram 1=5\nngram 2=1\n\n\\1-grams:\n"
        "-1.0\t<unk>\n-99\t<s>\t0\n-1.0\t</s>\n-1.0\tAB\t0\n-1.0\tBA\t0\n\n"
        "\\2-grams:\n-1.0\t<s> AB\n\n\\end\\\n"
    )
    beam = ["--w2l-decoder", "kenlm", "--lm-model", folder / "words.arpa", "--beam", 20, "--decode-workers", 0]
    done = label("--write-labels", folder / "d/pseudo", *beam, "--min-lm-score", -1.01)
    assert done.code == 0, done.err
    files = lines_of(folder / "d/pseudo")
    assert files[".wrd"][0] == "AB BA"
    assert files[".ltr"][0] == "A B | B A |"
    # Two words and the end, 0.1 each, in the model's own logarithm.
    assert float(files[".scores.tsv"][0].split("\t")[3]) == pytest.approx(-1.0, abs=1e-4)
    assert len({len(files[ending]) for ending in ENDINGS[1:]}) == 1


def test_filters_combine_and_each_clip_has_one_reason(folder: Path, label: Label) -> None:
    name = folder / "out/pseudo"
    flags = ["--min-confidence", 0.65, "--min-score", -0.15, "--max-loops", 2]
    done = label("--write-labels", name, *flags)
    assert done.code == 0
    everything = folder / "all/pseudo"
    label("--write-labels", everything)
    scores = [line.split("\t") for line in lines_of(everything)[".scores.tsv"]]
    wanted = []
    for row, values in zip(KEPT, scores, strict=True):
        grams = HEARD[row].split()
        loop = (
            max((grams[i : i + 4] == grams[j : j + 4]) for i in range(len(grams)) for j in [i + 2]) and len(grams) > 7
        )
        if not loop and float(values[1]) >= 0.65 and float(values[2]) >= -0.15:
            wanted.append(HEARD[row])
    assert lines_of(name)[".wrd"] == wanted
    assert 0 < len(wanted) < len(KEPT)
    record = json.loads((folder / "out/pseudo.labels.json").read_text())
    assert record["clips"] + sum(reason["clips"] for reason in record["left_out"].values()) == len(TEXTS)
    assert "above --max-loops 2" in record["left_out"]
    assert "below --min-confidence 0.65" in record["left_out"]
    assert record["hours"] + sum(r["hours"] for r in record["left_out"].values()) == pytest.approx(
        record["of_hours"], abs=1e-4
    )


def test_nothing_kept_is_exit_code_1_and_no_files(folder: Path, label: Label) -> None:
    done = label("--write-labels", folder / "out/pseudo", "--min-confidence", 1)
    assert done.code == 1
    assert "nothing is kept" in done.out
    assert not list((folder / "out").iterdir())


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--write-labels", "{folder}/rest"], "is the manifest that is read"),
        (["--write-labels", "{folder}/real"], "no model wrote it"),
        (["--write-labels", "{folder}/other/pseudo"], "only one of them has 'D'"),
        (["--write-labels", "{folder}"], "is a folder"),
        (["--write-labels", "{folder}/x", "--num-shards", "2", "--shard-id", "0"], "--num-shards parts them by hand"),
        (["--write-labels", "{folder}/x", "--min-lm-score", "-1"], "--min-lm-score needs a decoder with a language"),
        (["--min-score", "-1"], "--min-score filters labels: give --write-labels"),
        (["--write-labels", "{folder}/x", "--min-agreement", "m.pt@3"], "a share from 0 to 1"),
        (["--calibrate", "{folder}/real.tsv"], "--calibrate {folder}/real.tsv: needs {folder}/real.ltr"),
        (["--calibrate", "real"], "--calibrate must be a manifest NAME.tsv"),
    ],
)
def test_what_cannot_be_is_one_line(folder: Path, label: Label, flags: list[str], message: str) -> None:
    shutil.copy(folder / "rest.tsv", folder / "real.tsv")
    (folder / "other").mkdir()
    (folder / "other/dict.ltr.txt").write_text("| 1\nA 1\nB 1\nC 1\n")
    before = sorted(folder.rglob("*"))
    done = label(*(flag.format(folder=folder) for flag in flags))
    assert done.code == 2
    assert message.format(folder=folder) in done.err
    assert len([line for line in done.err.splitlines() if "WARNING" not in line]) == 1
    assert sorted(folder.rglob("*")) == before


def test_the_table_has_what_is_kept_at_each_threshold(folder: Path, label: Label) -> None:
    done = label("--calibrate", folder / "rest.tsv", "--min-confidence", 0.65)
    assert done.code == 0, done.err
    assert not (folder / "out").exists()
    label("--write-labels", folder / "all/pseudo")
    scores = {
        line.split("\t")[0]: float(line.split("\t")[1]) for line in lines_of(folder / "all/pseudo")[".scores.tsv"]
    }
    sizes = dict(line.split("\t") for line in (folder / "rest.tsv").read_text().splitlines()[1:])
    rows = [line.removeprefix("calibration: ").split() for line in done.out.splitlines()]
    first = next(number for number, row in enumerate(rows) if row[0] == "--min-confidence")
    table = rows[first + 1 : first + 11]
    assert len({row[0] for row in table}) > 5
    for least, share, _, wer, _ in table:
        kept = [name for name, value in scores.items() if value >= float(least)]
        numbers = [int(name[4]) for name in kept]
        errors = sum(edit_distance(TEXTS[n].replace("<unk>", "?").split(), HEARD[n].split()) for n in numbers)
        words = sum(len(TEXTS[n].split()) for n in numbers)
        seconds = sum(int(sizes[name]) for name in kept) / sum(map(int, sizes.values()))
        assert float(share) == pytest.approx(100 * seconds, abs=0.06)
        assert float(wer) == pytest.approx(100 * errors / words, abs=0.01)
    assert "with the filters given: kept" in done.out


# ---------------------------------------------------------------------------------------------- what training says


def task(folder: Path, **options: object) -> AudioPretrainingTask:
    values = {"data": str(folder), "labels": "ltr", **options}
    return AudioPretrainingTask(AudioPretrainingConfig(**values))  # type: ignore[arg-type]


@pytest.fixture
def labelled(folder: Path, label: Label) -> Path:
    assert label("--write-labels", folder / "out/pseudo").code == 0
    return folder / "out"


def test_training_takes_the_files_as_they_are(labelled: Path) -> None:
    clips = task(labelled).load_dataset("pseudo")
    assert clips.labels is not None
    assert [len(clips.labels[row]) for row in range(len(clips))] == [len(units(HEARD[row])) for row in KEPT]


def without(lines: list[str], place: int) -> list[str]:
    return [*lines[:place], *lines[place + 1 :]]


SHIFTS: dict[str, tuple[str, Callable[[list[str]], list[str]], str]] = {
    "shorter": (".ltr", lambda lines: lines[:-1], r"pseudo.ltr: has 6 lines, .* clip 7 has no line"),
    "longer": (".ltr", lambda lines: [*lines, "A |"], r"pseudo.ltr: has 8 lines, .* line 8 has no clip"),
    "shifted": (".ltr", lambda lines: [*without(lines, 1), "A |"], r"pseudo.ltr:2: has 7 symbols, .* tells of 5"),
    "foreign": (".ltr", lambda lines: [*lines[:2], "C A X | A D |", *lines[3:]], r"pseudo.ltr:3: .* dictionary: 'X'"),
    "clips": (".tsv", lambda lines: [*without(lines, 3), lines[1]], r"pseudo.scores.tsv:3: is of clip3.wav, but"),
    "scores": (".scores.tsv", lambda lines: lines[:-2], r"pseudo.scores.tsv: has 5 lines, but .* lists 7 clips"),
}


@pytest.mark.parametrize("kind", SHIFTS)
def test_labels_that_do_not_belong_to_their_clips(labelled: Path, kind: str) -> None:
    ending, change, message = SHIFTS[kind]
    path = labelled / f"pseudo{ending}"
    path.write_text("\n".join([*change(path.read_text().splitlines()), ""]))
    with pytest.raises(DataError, match=message):
        task(labelled).load_dataset("pseudo")


def test_another_rate_normalisation_or_dictionary(labelled: Path, folder: Path) -> None:
    record = labelled / "pseudo.labels.json"
    content = json.loads(record.read_text())
    for change, message in (
        ({"sample_rate": 8000}, "of a model of 8000 Hz, --sample-rate is 16000"),
        ({"normalize": True}, "a model with --normalize, unlike"),
        ({"symbols": [*SYMBOLS, "E"]}, "another dictionary: only one of them has 'E'"),
        ({"symbols": 3}, "does not tell of the model"),
    ):
        record.write_text(json.dumps({**content, **change}))
        with pytest.raises(DataError, match=message):
            task(labelled).load_dataset("pseudo")
    record.unlink()
    task(labelled).load_dataset("pseudo")
    # Beside labels of another folder: its dictionary is compared with ours.
    (folder / "mine").mkdir()
    (folder / "mine/dict.ltr.txt").write_text("| 1\nA 1\nB 1\n")
    with pytest.raises(DataError, match="is another dictionary than that of"):
        task(folder / "mine").load_dataset("../out/pseudo")


def test_an_empty_line_never_enters(labelled: Path) -> None:
    record, letters = labelled / "pseudo.labels.json", labelled / "pseudo.ltr"
    lines = letters.read_text().splitlines()
    letters.write_text("\n".join(["", *lines[1:], ""]))
    for _ in range(2):  # with the record, and as if people had written it
        with pytest.raises(DataError, match=r"pseudo.ltr:1: must hold symbols separated by spaces, got an empty line"):
            task(labelled).load_dataset("pseudo")
        record.unlink(missing_ok=True)


# ---------------------------------------------------------------------------------------------- recordings


def joined(data: Path, count: int) -> tuple[np.ndarray, Sequence[str]]:
    lines = (data / "digits_valid_seen/transcripts.tsv").read_text().splitlines()[:count]
    parts, texts = [], []
    for line in lines:
        name, text = line.split("\t")
        parts += [soundfile.read(data / "digits_valid_seen" / name, dtype="float32")[0], np.zeros(RATE)]
        texts.append(text)
    return np.concatenate(parts).astype(np.float32), texts


def test_recordings_come_out_as_clips(digits_model: Path, data: Path, tmp_path: Path) -> None:
    """A short recording is one clip, a long one is cut as `w2v-segment` does; the same model agrees with itself."""
    samples, texts = joined(data, 14)
    assert len(samples) > 35 * RATE
    soundfile.write(tmp_path / "long.wav", samples, RATE)
    (tmp_path / "below").mkdir()
    short, _ = joined(data, 1)
    soundfile.write(tmp_path / "below/short.flac", short, RATE)
    name = tmp_path / "out/pseudo"
    done = call(
        transcribe.main,
        [digits_model, tmp_path / "long.wav", tmp_path / "below", "--write-labels", name, "--cpu", "--quiet",
         "--min-agreement", f"{digits_model}@0.99"],
    )  # fmt: skip
    assert done.code == 0, done.err
    files = lines_of(name)
    root, *clips = files[".tsv"]
    assert root == str(tmp_path)
    assert [line.split("\t")[0].split(":")[0] for line in clips] == ["long.wav"] * (len(clips) - 1) + [
        "below/short.flac"
    ]
    assert len(clips) > 2
    assert all(int(line.split("\t")[1]) <= 30 * RATE for line in clips)
    assert {line.split("\t")[4] for line in files[".scores.tsv"]} == {"1.0000"}
    heard = " ".join(files[".wrd"][:-1]).split()
    assert edit_distance(heard, " ".join(texts).split()) < 0.3 * len(heard)
    clips_read = task(tmp_path / "out").load_dataset("pseudo")
    for index, line in enumerate(clips):
        assert len(clips_read.example(index).source) == int(line.split("\t")[1])
    record = json.loads((tmp_path / "out/pseudo.labels.json").read_text())
    assert (record["sample_rate"], record["normalize"], record["model"]) == (RATE, False, digits_model.name)
    assert math.isclose(record["hours"], sum(int(line.split("\t")[1]) for line in clips) / RATE / 3600, abs_tol=1e-4)
