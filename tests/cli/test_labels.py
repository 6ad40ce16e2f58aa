"""`w2v-labels`: line i belongs to clip i, whatever is missing."""

from __future__ import annotations

from collections import Counter

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
    assert shown == (
        f"train.ltr, train.wrd: 3 lines; 1 texts have no clip in {corpus / 'train.tsv'}: 84/121/84-121-0001\n"
    )
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
        corpus, "7/5/7-5-0000.flac\tHOW ARE\tYOU ", "./84/121/84-121-0000.flac\tONE",
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
        (["x.flac A"], "t.tsv:1: must be path TAB TEXT, got 'x.flac A'"),
        (["x.flac\tA", "x.flac\tB"], "t.tsv:2: 'x.flac' has another text in an earlier line"),
        (["x.flac\tA|B"], "t.tsv:1: the text must not hold '|'"),
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
