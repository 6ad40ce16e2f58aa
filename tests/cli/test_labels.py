"""`w2v-labels`: line i belongs to clip i, whatever is missing."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from w2v.data.dictionary import Dictionary
from w2v.data.labels import read_labels
from w2v.data.manifest import read_manifest, write_manifest
from w2v.data.post_process import post_process
from w2v_cli.labels import main


@pytest.fixture
def corpus(tmp_path):
    """Clips of two LibriSpeech chapters, in no order."""
    for speaker, chapter, texts in (("84", "121", ["A CAT'S  HAT", "Nine", "SIX SIX"]), ("7", "5", ["ÉTÉ"])):
        folder = tmp_path / "audio" / speaker / chapter
        folder.mkdir(parents=True)
        lines = [f"{speaker}-{chapter}-{i:04d} {text}" for i, text in enumerate(texts)]
        (folder / f"{speaker}-{chapter}.trans.txt").write_text("\n".join(lines) + "\n")
    names = ["84/121/84-121-0002.flac", "7/5/7-5-0000.flac", "84/121/84-121-0000.flac"]
    write_manifest(tmp_path / "train.tsv", str(tmp_path / "audio"), names, [10, 20, 30])
    return tmp_path


def call(corpus, *options, name="train"):
    return main([str(corpus / "train.tsv"), "--output-dir", str(corpus / "out"), "--output-name", name, *options])


def read(corpus, name):
    return (corpus / "out" / name).read_text()


def transcripts(corpus, *lines):
    (corpus / "t.tsv").write_text("".join(f"{line}\n" for line in lines))
    return ["--transcripts", str(corpus / "t.tsv")]


def test_librispeech_as_the_original_writes_it(corpus, capsys):
    assert call(corpus, "--dict") == 0
    assert read(corpus, "train.wrd") == "SIX SIX\nÉTÉ\nA CAT'S HAT\n"
    assert read(corpus, "train.ltr") == "S I X | S I X |\nÉ T É |\nA | C A T ' S | H A T |\n"
    counts = Counter(read(corpus, "train.ltr").split())
    expected = sorted(counts, key=lambda symbol: (-counts[symbol], symbol))
    assert read(corpus, "dict.ltr.txt") == "".join(f"{symbol} {counts[symbol]}\n" for symbol in expected)
    shown = capsys.readouterr().out
    assert shown.startswith(
        f"train.ltr, train.wrd: 3 lines; 1 texts have no clip in {corpus / 'train.tsv'}: 84/121/84-121-0001\n"
    )
    assert "10 symbols, each an output of the model:\n|\t6\tend of a word\n" in shown
    assert "rare (fewer than 5 times): S I X" in shown
    dictionary = Dictionary.from_file(corpus / "out" / "dict.ltr.txt")
    labels = read_labels(corpus / "out" / "train.ltr", 3, dictionary)
    assert labels.num_unknown == 0
    for row, words in enumerate(read(corpus, "train.wrd").splitlines()):
        assert post_process(dictionary.string(labels[row]), "letter") == words


def test_clips_at_the_root(tmp_path):
    folder = tmp_path / "84" / "121"
    folder.mkdir(parents=True)
    (folder / "84-121.trans.txt").write_text("84-121-0000 HELLO\n")
    write_manifest(tmp_path / "train.tsv", str(folder), ["84-121-0000.a.flac"], [1])
    assert call(tmp_path) == 0
    assert read(tmp_path, "train.wrd") == "HELLO\n"


def test_any_file_of_transcripts(corpus, capsys):
    options = transcripts(
        corpus, "7/5/7-5-0000.flac\tHOW ARE  YOU ", "./84/121/84-121-0000.flac\tONE",
        "", "84/121/84-121-0002.flac\tTWO", "elsewhere.flac\tTHREE",
    )  # fmt: skip
    assert call(corpus, *options) == 0
    assert read(corpus, "train.wrd") == "TWO\nHOW ARE YOU\nONE\n"
    assert "1 texts have no clip" in capsys.readouterr().out
    assert not (corpus / "out" / "dict.ltr.txt").exists()


def test_a_clip_without_text_shifts_nothing(corpus, capsys):
    options = transcripts(corpus, "84/121/84-121-0002.flac\tTWO", "84/121/84-121-0000.flac\tONE", "7/5/7-5-0000.flac\t")
    assert call(corpus, *options) == 2
    shown = capsys.readouterr().err
    assert "train.tsv: 1 of 3 clips have no text: 7/5/7-5-0000.flac; --drop-missing leaves them out" in shown
    assert not (corpus / "out").exists()
    # Written over the manifest that is read, the labels could not be without the clip: both hints at once.
    assert main([str(corpus / "train.tsv"), "--output-dir", str(corpus), "--output-name", "train", *options]) == 2
    assert "--drop-missing leaves them out, with another --output-dir or --output-name" in capsys.readouterr().err
    assert call(corpus, *options, "--drop-missing", name="kept") == 0
    assert "without 1 clips that have no text: 7/5/7-5-0000.flac" in capsys.readouterr().out
    manifest = read_manifest(corpus / "out" / "kept.tsv")
    assert [manifest.name(row) for row in range(2)] == ["84/121/84-121-0002.flac", "84/121/84-121-0000.flac"]
    assert manifest.sizes.tolist() == [10, 30]
    assert read(corpus, "kept.wrd") == "TWO\nONE\n"
    assert len(read_manifest(corpus / "train.tsv")) == 3


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (
            ["x.flac A"],
            "t.tsv:1: must be path TAB TEXT, got 1 columns in 'x.flac A'; lines of `id text` go with --by-id",
        ),
        (["x.flac\tA", "x.flac\tB"], "t.tsv:2: 'x.flac' has another text in "),
        (["7/5/7-5-0000.flac\tA|B"], "t.tsv:1: the text must not hold '|'"),
        (["x.flac\tA"], "no path in it is one of the manifest's: the first clip of"),
        ([], "holds no texts"),
    ],
)
def test_one_line_and_exit_code_2(corpus, capsys, lines, message):
    assert call(corpus, *transcripts(corpus, *lines)) == 2
    shown = capsys.readouterr().err
    assert message in shown
    assert shown.count("\n") == 1


def test_missing_files(corpus, capsys):
    assert call(corpus, "--transcripts", str(corpus / "none.tsv")) == 2
    assert "cannot read the file of transcripts" in capsys.readouterr().err
    for path in (corpus / "audio").rglob("*.trans.txt"):
        path.unlink()
    assert call(corpus) == 2
    assert "no clip has a text in a *.trans.txt file beside it" in capsys.readouterr().err
    assert main([str(corpus / "none.tsv"), "--output-dir", "x", "--output-name", "y"]) == 2
    assert "cannot read the manifest" in capsys.readouterr().err
    assert main([str(corpus / "train.tsv"), "--output-name", "y"]) == 2
    assert "--output-dir is required" in capsys.readouterr().err


def test_real_transcripts(data, tmp_path):
    """The packs of real speech: every clip of a pack gets its own text back."""
    pack = data / "digits_train"
    expected = dict(line.split("\t") for line in (pack / "transcripts.tsv").read_text().splitlines())
    names = sorted(expected, reverse=True)
    write_manifest(tmp_path / "train.tsv", str(pack), names, [1] * len(names))
    assert call(tmp_path, "--transcripts", str(pack / "transcripts.tsv"), "--dict") == 0
    assert read(tmp_path, "train.wrd").splitlines() == [expected[name] for name in names]


# ------------------------------------------------------------------------------------------ other tables


NAMES = ["84/121/84-121-0002.flac", "7/5/7-5-0000.flac", "84/121/84-121-0000.flac"]


def test_columns_by_name_and_ids(corpus, capsys):
    table = corpus / "t.csv"
    table.write_text("path,sentence,age\n" + "".join(f'{name},"ONE, {i}",\n' for i, name in enumerate(NAMES)))
    assert call(corpus, "--transcripts", str(table), "--strip-punctuation") == 0
    assert read(corpus, "train.wrd") == "ONE 0\nONE 1\nONE 2\n"
    assert "digits (write numbers as words): 0 1 2" in capsys.readouterr().out
    table.write_text("84-121-0000 A\n7-5-0000 B B\n84-121-0002 C\n")
    assert call(corpus, "--transcripts", str(table), "--by-id") == 0
    assert read(corpus, "train.wrd") == "C\nB B\nA\n"
    assert call(corpus, *transcripts(corpus, *(f"{name[:-5].split('/')[-1]}\tA" for name in NAMES))) == 2
    assert "where ids stand in the place of paths" in capsys.readouterr().err
    # Clips that were converted: the table has the names of before, the ids are the same.
    converted = transcripts(corpus, *(f"{name.removesuffix('.flac')}.mp3\tA" for name in NAMES))
    assert call(corpus, *converted) == 2
    assert "paths end in another kind of audio, give --by-id" in capsys.readouterr().err
    assert call(corpus, *converted, "--by-id", name="converted") == 0
    assert read(corpus, "converted.wrd") == "A\nA\nA\n"


def test_what_may_be_no_words_is_said(corpus, capsys):
    """Marks of noise and pandas' word for a missing text are spelled like words, so they are named."""
    texts = ["ONE [noise] <NOISE>", "nan", "(door slams) [noise] <unk> TWO"]
    names = ["84/121/84-121-0002.flac", "7/5/7-5-0000.flac", "84/121/84-121-0000.flac"]
    options = transcripts(corpus, *[f"{name}\t{text}" for name, text in zip(names, texts, strict=True)])
    assert call(corpus, *options, "--strip-punctuation") == 0
    assert read(corpus, "train.wrd") == "ONE noise NOISE\nnan\ndoor slams noise TWO\n"
    printed = capsys.readouterr().out
    assert "words in brackets, spelled like others: [noise] (2), <NOISE> (1), (door slams) (1); where" in printed
    assert "whole texts that are 'nan', as programs write a missing one: 1, first in" in printed
    assert call(corpus, *transcripts(corpus, f"{names[0].upper()}\tONE", f"{names[1]}\tTWO")) == 2
    assert f"(1 texts have no clip: {names[0].upper()})" in capsys.readouterr().err


def test_which_column_is_read_is_printed_and_chosen(corpus, capsys):
    names = [read_manifest(corpus / "train.tsv").name(row) for row in range(len(read_manifest(corpus / "train.tsv")))]
    lines = [f"{name}\tRaw {n}.\tclean {'abc'[n % 3]}\n" for n, name in enumerate(names)]
    (corpus / "t.tsv").write_text("path\tsentence\ttext\n" + "".join(lines))
    assert call(corpus, "--transcripts", str(corpus / "t.tsv")) == 2
    assert (
        "several columns of texts: sentence, text; choose one with w2v-labels --text-column" in capsys.readouterr().err
    )
    assert call(corpus, "--transcripts", str(corpus / "t.tsv"), "--text-column", "text") == 0
    assert read(corpus, "train.wrd").splitlines() == [f"clean {'abc'[n % 3]}" for n in range(len(names))]
    assert "paths are read from its column 'path', texts from 'text'; not read: sentence" in capsys.readouterr().out
    (corpus / "t.tsv").write_text("".join(lines))
    assert call(corpus, "--transcripts", str(corpus / "t.tsv"), "--text-column", "3") == 0
    assert read(corpus, "train.wrd").startswith("clean a\n")
    assert call(corpus, "--text-column", "3") == 2
    assert "give that, too" in capsys.readouterr().err


def test_special_invisible_and_doubled_letters(corpus, capsys):
    texts = ["<s> CAF\u00c9 </s>", "A\u200fB\u00adC", "CAFE\u0301"]
    options = transcripts(corpus, *(f"{name}\t{text}" for name, text in zip(NAMES, texts)))
    assert call(corpus, *options) == 2
    assert "t.tsv:3: 'É' is written in two forms, U+0045 U+0301 here and U+00C9 elsewhere" in capsys.readouterr().err
    assert not (corpus / "out").exists()
    assert call(corpus, *options, "--nfc") == 0
    assert read(corpus, "train.wrd") == "CAF\u00c9\nABC\nCAF\u00c9\n"
    shown = capsys.readouterr().out
    for line in ("left out '<s>': 1 times, first in", "left out invisible U+200F RIGHT-TO-LEFT MARK: 1 times"):
        assert line in shown
    assert call(corpus, *options, "--lower", "--upper") == 2


def test_no_dictionary_and_no_manifest_is_overwritten(corpus, capsys):
    assert call(corpus, "--dict") == 0
    first = read(corpus, "dict.ltr.txt")
    other = transcripts(corpus, *(f"{name}\tZZ" for name in NAMES))
    assert call(corpus, "--dict", *other) == 2
    assert "dict.ltr.txt is there and lacks 'Z'; models that were trained with it need it" in capsys.readouterr().err
    assert call(corpus, *other, name="valid") == 0
    assert "dict.ltr.txt: lacks 'Z', which will be <unk>" in capsys.readouterr().out
    assert call(corpus, "--dict", name="again") == 0
    assert "dict.ltr.txt: is there with the same symbols, and stays as it is" in capsys.readouterr().out
    assert read(corpus, "dict.ltr.txt") == first
    before = (corpus / "train.tsv").read_bytes()
    arguments = [str(corpus / "train.tsv"), "--output-dir", str(corpus), "--output-name", "train", "--drop-missing"]
    assert main(arguments) == 0  # nothing is missing: the manifest stays
    assert (corpus / "train.tsv").read_bytes() == before
    assert main([*arguments, *transcripts(corpus, f"{NAMES[0]}\tONE")]) == 2
    assert "is the manifest that is read, and would be overwritten" in capsys.readouterr().err
    assert (corpus / "train.tsv").read_bytes() == before


# ------------------------------------------------------------------------------------------ stretches of recordings


@pytest.fixture
def recordings(tmp_path):
    """Two recordings of 3 s at 22.05 kHz, listed at 16 kHz."""
    soundfile = pytest.importorskip("soundfile")
    (tmp_path / "audio" / "b").mkdir(parents=True)
    names = ["a.wav", "b/c.wav"]
    for name in names:
        soundfile.write(tmp_path / "audio" / name, np.zeros(66150, dtype=np.float32), 22050)
    write_manifest(tmp_path / "train.tsv", str(tmp_path / "audio"), names, [48000, 48000])
    return tmp_path


def clips(folder):
    manifest = read_manifest(folder / "out" / "train.tsv")
    return [(manifest.name(row), int(manifest.sizes[row])) for row in range(len(manifest))]


def test_kaldi_segments(recordings, capsys):
    (recordings / "segments").write_text("u1 a 0.5 1.5\nu2 c 1 -1\nu3 a 2 2.5\n")
    (recordings / "text").write_text("u2 TWO\nu1 ONE ONE\nu9 NINE\n")
    options = ["--segments", str(recordings / "segments"), "--transcripts", str(recordings / "text")]
    assert call(recordings, *options) == 2
    assert "1 of 3 clips have no text: a.wav:44100:11025" in capsys.readouterr().err
    assert call(recordings, *options, "--drop-missing") == 0
    assert clips(recordings) == [("a.wav:11025:22050", 16000), ("b/c.wav:22050:44100", 32000)]
    assert read(recordings, "train.wrd") == "ONE ONE\nTWO\n"
    assert "1 texts have no clip" in capsys.readouterr().out
    (recordings / "segments").write_text("u1 a 3.5 4\n")
    assert call(recordings, *options) == 2
    assert "segments:1: begins at 3.5 s, behind the end of a.wav (3.000 s)" in capsys.readouterr().err
    (recordings / "segments").write_text("u1 a 500 1500\n")  # milliseconds
    assert call(recordings, *options) == 2
    assert "segments:1: begins at 500 s" in capsys.readouterr().err
    (recordings / "segments").write_text("u1 a 0 1500\n")
    assert call(recordings, *options) == 2
    assert "segments:1: ends at 1500 s, behind the end of a.wav (3.000 s); are its times" in capsys.readouterr().err
    (recordings / "segments").write_text("u1 a 2 3.4\n")  # rounded times, or a recording whose end was cut
    assert call(recordings, *options) == 0
    assert clips(recordings) == [("a.wav:44100:22050", 16000)]
    (recordings / "segments").write_text("u1 x 1 2\n")
    assert call(recordings, *options) == 2
    assert "segments:1: no recording of" in capsys.readouterr().err


def test_textgrids(recordings, capsys):
    intervals = '3\n0\n1\n""\n1\n2\n"ONE"\n2\n3\n"TWO"\n'
    grid = f'"ooTextFile"\n"TextGrid"\n0\n3\n<exists>\n1\n"IntervalTier"\n"said"\n0\n3\n{intervals}'
    (recordings / "audio" / "b" / "c.TextGrid").write_text(grid)
    assert call(recordings, "--textgrid", "said") == 0
    assert clips(recordings) == [("b/c.wav:22050:22050", 16000), ("b/c.wav:44100:22050", 16000)]
    assert read(recordings, "train.wrd") == "ONE\nTWO\n"
    assert "1 recordings have no TextGrid beside them: a.wav" in capsys.readouterr().out
    (recordings / "audio" / "b" / "c.TextGrid").rename(recordings / "audio" / "b" / "c.textgrid")
    assert call(recordings, "--textgrid", "said") == 0
    assert read(recordings, "train.wrd") == "ONE\nTWO\n"
    assert call(recordings, "--textgrid", "other") == 2
    assert "got said" in capsys.readouterr().err
    assert call(recordings, "--textgrid", "said", "--transcripts", "x") == 2
