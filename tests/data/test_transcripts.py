"""Tables of transcripts: what is read by name, what is refused with its line, and which clip a row belongs to."""

from __future__ import annotations

import codecs
import gzip
import json
import unicodedata

import pytest

from w2v.data.kaldi import read_segments
from w2v.data.transcripts import Columns, Row, clip_id, match, read_table, read_textgrid
from w2v.errors import DataError


def write(tmp_path, text, name="t.tsv"):
    path = tmp_path / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return str(path)


def rows(tmp_path, text, name="t.tsv", **options):
    return [(row.name, row.text) for row in read_table(write(tmp_path, text, name), **options).rows]


COMMON_VOICE = (
    "client_id\tpath\tsentence\tup_votes\tdown_votes\tage\n"
    'a1\tcommon_voice_1.mp3\t"Quoted" text\t2\t0\t\nb2\tcommon_voice_2.mp3\tplain\t2\t0\ttwenties\n'
)


@pytest.mark.parametrize(
    ("text", "name", "expected"),
    [
        ("a.wav\tONE TWO\n\nb.wav\tTHREE\n", "t.tsv", [("a.wav", "ONE TWO"), ("b.wav", "THREE")]),
        (COMMON_VOICE, "t.tsv", [("common_voice_1.mp3", '"Quoted" text'), ("common_voice_2.mp3", "plain")]),
        ("Text\tFile Name\nONE\ta.wav\n", "t.tsv", [("a.wav", "ONE")]),
        ('path,sentence\na.wav,"one, two ""three"""\n', "t.csv", [("a.wav", 'one, two "three"')]),
        ("wav_filename,wav_filesize,transcript\na.wav,9,one\n", "t.txt", [("a.wav", "one")]),
        (codecs.BOM_UTF8 + b"path\ttext\na.wav\tONE\n", "t.tsv", [("a.wav", "ONE")]),
        ("a.wav\tONE\r\nb.wav\tTWO\r\n", "t.tsv", [("a.wav", "ONE"), ("b.wav", "TWO")]),
        ("Path;Sentence\r\na.wav;one, two\r\n", "t.csv", [("a.wav", "one, two")]),
        ('PATH,SENTENCE\na.wav,"one\ntwo"\n', "t.csv", [("a.wav", "one\ntwo")]),
        ('file|raw|Normalized-Text\na.wav|1 "one"|one\n', "t.csv", [("a.wav", "one")]),
        (
            'path\tsentence\na.wav\t"He said ""no"" to me"\nb.wav\t"No."\n',
            "t.tsv",
            [("a.wav", 'He said "no" to me'), ("b.wav", '"No."')],
        ),
        ('"path"\t"sentence"\n"a.wav"\t"ONE ""TWO"""\n', "t.tsv", [("a.wav", 'ONE "TWO"')]),
        ("a.wav \tONE\n", "t.tsv", [("a.wav", "ONE")]),
        ("a.wav\tcommas, and more, of them\n", "t.tsv", [("a.wav", "commas, and more, of them")]),
        ("", "t.tsv", []),
    ],
)
def test_columns_are_read_by_their_names(tmp_path, text, name, expected):
    assert rows(tmp_path, text, name) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("u1 HELLO THERE\nu2\nu3\tTABS  TOO\n", [("u1", "HELLO THERE"), ("u2", ""), ("u3", "TABS  TOO")]),
        ("id\tpath\ttext\nu1\ta.wav\tONE\n", [("u1", "ONE")]),
        ("path\ttext\na/u1.mp3\tONE\n", [("a/u1.mp3", "ONE")]),
        ("id|raw|text\nu1|1|one\n", [("u1", "one")]),
    ],
)  # fmt: skip
def test_ids(tmp_path, text, expected):
    assert rows(tmp_path, text, by_id=True) == expected


@pytest.mark.parametrize(
    ("text", "name", "message"),
    [
        ("a.wav\tONE\tTWO\n", "t.tsv", "t.tsv:1: must be path TAB TEXT, got 3 columns"),
        ("a.wav\tONE\nb.wav\n", "t.tsv", "t.tsv:2: must be path TAB TEXT, got 1 columns"),
        ("utt1 ONE\n", "t.txt", "lines of `id text` go with --by-id"),
        ("a.wav,ONE\n", "t.csv", "t.csv:1: the header names no column of paths"),
        ("path\tsentence\na.wav\n", "t.tsv", "t.tsv:2: must have the 2 columns of its header, got 1"),
        ("id\ttext\nu1\tONE\n", "t.tsv", "--by-id reads ids"),
        ('path,text\na.wav,"one\n', "t.csv", "t.csv:2: is no CSV"),
        ("a.wav|one|one\n", "t.csv", "got 1 columns in 'a.wav|one|one'"),
        ("a.wav|one|one\n", "t.csv", "columns parted by '|' need a header such as `path|text`"),
        ("a.wav;one\n", "t.csv", "columns parted by ';' need a header such as `path;text`"),
        ('{"audio_filepath": "a.wav", "text": "one"}\n', "t.json", "t.json:1: must be path TAB TEXT, got 1 columns in"),
        ("path\ttext\ttext\na.wav\tONE\tone\n", "t.tsv", "t.tsv:1: the header names the column 'text' twice"),
    ],
)
def test_anything_else_is_named_with_its_line(tmp_path, text, name, message):
    with pytest.raises(DataError) as caught:
        read_table(write(tmp_path, text, name))
    assert message in str(caught.value)


TWO_TEXTS = "path\tsentence\ttext\tage\na.wav\tOne.\tone\t7\n"
LJSPEECH = 'LJ1|He said "10"|he said ten\nLJ2|Dr. X, "yes|doctor x\n'
NAMED_LJSPEECH = "id|raw|norm\n" + LJSPEECH


@pytest.mark.parametrize(
    ("text", "options", "columns", "expected"),
    [
        (TWO_TEXTS, {}, Columns(text="text"), [("a.wav", "one")]),
        (TWO_TEXTS, {}, Columns(text="Sentence"), [("a.wav", "One.")]),
        (TWO_TEXTS, {}, Columns(text="3"), [("a.wav", "one")]),
        (TWO_TEXTS, {}, Columns(text="age"), [("a.wav", "7")]),
        (TWO_TEXTS, {}, Columns("age", "text"), [("7", "one")]),
        ("clip\tsaid\na\tONE\n", {}, Columns("clip", "said"), [("a", "ONE")]),
        ("path,file,text\na,b,ONE\n", {}, Columns("file"), [("b", "ONE")]),
        ("path,text,Text\na,one,ONE\n", {}, Columns(text="Text"), [("a", "ONE")]),
        ("text,path,words\nONE,a,1\n", {}, Columns(), [("a", "ONE")]),  # `words` may be a count
        ("label,path\nONE,a\n", {}, Columns(), [("a", "ONE")]),
        (LJSPEECH, {"by_id": True}, Columns(text="3"), [("LJ1", "he said ten"), ("LJ2", "doctor x")]),
        (LJSPEECH, {"by_id": True}, Columns(text="2"), [("LJ1", 'He said "10"'), ("LJ2", 'Dr. X, "yes')]),
        (NAMED_LJSPEECH, {"by_id": True}, Columns(text="norm"), [("LJ1", "he said ten"), ("LJ2", "doctor x")]),
        (NAMED_LJSPEECH, {"by_id": True}, Columns(text="3"), [("LJ1", "he said ten"), ("LJ2", "doctor x")]),
        ("9\ta.wav\tOne.\tone\n", {}, Columns("2", "4"), [("a.wav", "one")]),  # FLEURS
        ('a.wav,"one, two"\n', {}, Columns(text="2"), [("a.wav", "one, two")]),
        ('"a.wav"\t"He said ""no"""\n', {}, Columns(), [("a.wav", 'He said "no"')]),
        ("#path\ttext\na.wav\tONE\n", {}, Columns(), [("a.wav", "ONE")]),
        ("sep=;\npath;text\na.wav;ONE\n", {}, Columns(), [("a.wav", "ONE")]),  # Excel
    ],
)
def test_columns_that_are_chosen(tmp_path, text, options, columns, expected):
    assert rows(tmp_path, text, columns=columns, **options) == expected


def test_which_columns_are_read_is_said(tmp_path):
    table = read_table(write(tmp_path, COMMON_VOICE))
    assert (
        "t.tsv: paths are read from its column 'path', texts from 'sentence'; not read: client_id, up" in table.columns
    )
    table = read_table(write(tmp_path, TWO_TEXTS), columns=Columns(text="text"))
    assert "texts from 'text'; not read: sentence, age" in table.columns
    assert read_table(write(tmp_path, "a.wav\tONE\n")).columns == ""


@pytest.mark.parametrize(
    ("text", "options", "message"),
    [
        (TWO_TEXTS, {}, "t.tsv:1: the header names several columns of texts: sentence, text; choose one"),
        ("transcript,normalized_text,path\nA,a,x\n", {}, "texts: transcript, normalized_text; .*--text-column"),
        ("file,path,text\na,b,ONE\n", {}, "several columns of paths: file, path; .* --path-column NAME"),
        ("id,utt_id,text\na,b,ONE\n", {"by_id": True}, "several columns of ids: id, utt_id"),
        (TWO_TEXTS, {"columns": Columns(text="norm")}, r"t.tsv:1: has no column 'norm' \(--text-column\)"),
        (TWO_TEXTS, {"columns": Columns(text="9")}, "--text-column 9: the header names no such column, got path"),
        ("path|text\na|ONE\n", {"columns": Columns("clip")}, "has no column 'clip' .--path-column. beside"),
        # Each wrong flag is named, and no other.
        (TWO_TEXTS, {"columns": Columns("clip", "text")}, "t.tsv:1: has no column 'clip' .--path-column. beside"),
        (TWO_TEXTS, {"columns": Columns("clip", "norm")},
         "has no column 'clip' .--path-column. and no column 'norm' .--text-column. beside"),
        (LJSPEECH, {"columns": Columns("4", "5")}, "has no column '4' .--path-column. and no column '5' .--text"),
        (TWO_TEXTS, {"columns": Columns("8", "9")}, "--path-column 8, --text-column 9: the header names no such"),
        (TWO_TEXTS, {"columns": Columns("8", "text")}, "1: --path-column 8: the header names no such"),
        ("wave,said\na,b\n", {"name": "t.csv"}, "no column of paths .* and none of texts .*--path-column and --text-"),
        ('[\n{"path": "a"}]\n', {}, "t.tsv:1: .*of lines of JSON a table is made by jq"),
        ('{"path": "a", "text": "b"}\n', {"by_id": True}, "t.tsv:1: .*of lines of JSON a table is made by jq"),
        (TWO_TEXTS.replace("\n", "\r"), {}, r"t.tsv:1: lines of the file of transcripts end in CR alone; tr '"),
        (gzip.compress(TWO_TEXTS.encode(), mtime=0), {}, "t.tsv:1: the file of transcripts .* a gzip file; gunzip -c"),
        (b"PK\3\4\24\0\6\0", {"name": "t.xlsx"}, "t.xlsx:1: .* or a table of a spreadsheet; save it as text"),
        ("path\ttext\na\tcaf\xe9\n".encode("latin1"), {}, "t.tsv:2: .* got byte 0xe9; iconv -f"),
        ("[" + '{"a": 1},' * 20_000 + "]", {}, "t.tsv:1: .*of lines of JSON a table"),  # a cell too long for CSV
        ("# of May\na\tONE\n", {}, "t.tsv:1: .*; comments are not read: take them out"),
        ('File type = "ooTextFile"\n', {}, "t.tsv:1: .*read by --textgrid TIER"),
        ("1\n00:00 --> 00:01\nONE\n", {"name": "t.srt"}, "t.srt:1: .*; subtitles are not read: .*--segments"),
        ("path\ttext\n".encode("utf-16"), {}, "t.tsv:1: the file of transcripts must be UTF-8 text, got UTF-16; iconv"),
        ("path,said\na,b\n", {"name": "t.csv"}, "t.csv:1: .*names no column of texts .*; w2v-labels --text-column"),
        (LJSPEECH, {"by_id": True}, "t.tsv:1: .*or --text-column NUMBER"),
        (LJSPEECH, {"columns": Columns(text="4")}, r"t.tsv:1: has no column '4' \(--text-column\)"),
        (LJSPEECH, {"columns": Columns(text="1")}, "must be two numbers from 1 to 3, got 1 and 1"),
        (LJSPEECH + "LJ3|three\n", {"columns": Columns(text="3")}, "t.tsv:3: must have the 3 columns of line 1, got 2"),
        ("u1 ONE\n", {"by_id": True, "columns": Columns(text="text")}, "t.tsv:1: has no column 'text'"),
    ],
)  # fmt: skip
def test_columns_that_are_not_clear(tmp_path, text, options, message):
    with pytest.raises(DataError, match=message):
        rows(tmp_path, text, **options)


def test_names_are_compared_in_composed_form():
    stored = [unicodedata.normalize("NFD", name) for name in ("José.flac", "김민.flac")]
    assert stored[0] != "José.flac"
    found = match([Row("김민.flac", "TWO", ""), Row("./José.flac", "ONE", "")], stored, "/r")
    assert [row and row.text for row in found.by_clip] == ["ONE", "TWO"]
    assert not found.unused


@pytest.mark.parametrize(
    ("names", "table", "expected", "short"),
    [
        (["a/x.wav"], ["/root/a/x.wav"], ["/root/a/x.wav"], False),
        (["a/x.wav", "y.wav"], ["y.wav", "x.wav"], [None, "y.wav"], False),
        (["clips/x.mp3", "clips/y.mp3"], ["y.mp3", "x.mp3"], ["x.mp3", "y.mp3"], True),
        (["x.wav"], ["/elsewhere/of/others/x.wav"], ["/elsewhere/of/others/x.wav"], True),
        (["a/x.wav", "b/x.wav"], ["x.wav"], [None, None], False),
        (["x.wav"], ["a/x.wav", "b/x.wav"], [None], False),
        (["a/x.wav"], ["C:\\data\\a\\x.wav"], ["C:/data/a/x.wav"], True),
        (["a/x.wav", "y.wav"], ["a\\x.wav", "y.wav"], ["a/x.wav", "y.wav"], False),
        (["a\\x.wav"], ["a\\x.wav"], ["a\\x.wav"], False),
    ],
)
def test_paths_first_then_file_names_where_they_are_clear(names, table, expected, short):
    found = match([Row(name, name, "") for name in table], names, "/root")
    assert [row and row.name for row in found.by_clip] == expected
    assert found.by_file_name is short


def test_ids_are_file_names_without_their_ending(tmp_path):
    names = ["spk/u-1.flac", "u.2.opus", "plain"]
    found = match([Row(name, name, "") for name in ("u.2", "plain", "u-1", "u-9")], names, "/r", by_id=True)
    assert [row and row.name for row in found.by_clip] == ["u-1", "u.2", "plain"]
    assert found.unused == ["u-9"]
    assert clip_id("a/84-121-0000.flac") == "84-121-0000"
    assert clip_id("spk1.utt2") == "spk1.utt2"  # an id; no kind of audio ends so
    with pytest.raises(DataError, match=r"id, a space and a text, got 'u1\|1 one\|one'; .* header such as `id\|text`"):
        read_table(write(tmp_path, "u1|1 one|one\n"), by_id=True)
    with pytest.raises(DataError, match=r"the clips a/x\.wav and b/x\.wav have the same id 'x'"):
        match([], ["a/x.wav", "b/x.wav"], "/r", by_id=True)


def test_two_texts_for_one_name_are_refused():
    two = [Row("a.wav", "ONE", "t:1"), Row("./a.wav", "TWO", "t:2")]
    with pytest.raises(DataError, match=r"t:2: '\./a\.wav' has another text in t:1"):
        match(two, ["a.wav"], "/r")
    with pytest.raises(DataError, match="t:3: has no path"):
        match([Row(" ", "ONE", "t:3")], ["a.wav"], "/r")


def test_kaldi_segments(tmp_path):
    path = write(tmp_path, "u1 rec 0.5 2\n\nu2 rec 2.25 -1\n", "segments")
    assert [(s.name, s.recording, s.start, s.end) for s in read_segments(path)] == [
        ("u1", "rec", 0.5, 2.0), ("u2", "rec", 2.25, None),
    ]  # fmt: skip
    for line in ("u rec 1", "u rec one 2", "u rec 2 1", "u rec -1 2", "u rec 1 2 3", "u rec nan 2", "u rec 1 inf"):
        with pytest.raises(DataError, match="segments:1: must"):
            read_segments(write(tmp_path, line + "\n", "segments"))


def test_segments_that_are_none(tmp_path):
    with pytest.raises(DataError, match=r"segments:1: must be .*; channels \(a fifth column\) are not read"):
        read_segments(write(tmp_path, "u1 rec 0 1 2\n", "segments"))
    with pytest.raises(DataError, match=r"segments:3: the utterance 'u1' is in .*segments:1 already"):
        read_segments(write(tmp_path, "u1 rec 0 1\nu2 rec 1 2\nu1 rec 2 3\n", "segments"))
    with pytest.raises(DataError, match="holds no segments"):
        read_segments(write(tmp_path, "\n", "segments"))


def test_textgrids_of_the_reference(golden):
    cases = json.loads((golden / "people/formats/words.json").read_text())
    for name, case in cases.items():
        found = read_textgrid(str(golden / f"people/formats/{name}.TextGrid"))
        assert [(round(s * 1000), round(e * 1000), text) for s, e, text in found] == [
            (start, end, text) for text, start, end in case["tidy"]
        ]


SHORT = (
    'File type = "ooTextFile"\nObject class = "TextGrid"\n\n0\n2\n<exists>\n3\n'
    '"TextTier"\n"events"\n0\n2\n1\n0.5\n"click 7"\n'
    '"IntervalTier"\n"phones"\n0\n2\n1\n0\n2\n"p1"\n'
    '"IntervalTier"\n"words"\n0\n2\n3\n0\n0.5\n""\n0.5\n1.5\n"say ""hi"" [1]"\n1.5\n2\n" "\n'
)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_short_textgrid(tmp_path, encoding):
    path = write(tmp_path, SHORT.encode(encoding), "t.TextGrid")
    assert read_textgrid(path) == [(0.5, 1.5, 'say "hi" [1]')]
    assert read_textgrid(path, "phones") == [(0.0, 2.0, "p1")]
    with pytest.raises(DataError, match="no tier of intervals 'other' with --textgrid NAME, got phones, words"):
        read_textgrid(path, "other")


@pytest.mark.parametrize("text", ["", "words", SHORT[:150], SHORT.replace('"words"\n0\n2\n3', '"words"\n0\n2\n"x"')])
def test_no_textgrid(tmp_path, text):
    with pytest.raises(DataError, match="is no TextGrid"):
        read_textgrid(write(tmp_path, text, "t.TextGrid"))
