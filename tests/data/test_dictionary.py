"""Dictionary files, label files and post-processing, against recorded cases and by-hand readings."""

from __future__ import annotations

import itertools
from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from w2v.data import text_blocks
from w2v.data.dictionary import SPECIALS, Dictionary, write_dictionary
from w2v.data.labels import Labels, read_labels
from w2v.data.post_process import post_process
from w2v.errors import DataError


def test_dictionary_of_the_recipes(golden):
    dictionary = Dictionary.from_file(golden / "dict.ltr.txt")
    expected = [line.rsplit(" ", 1)[0] for line in (golden / "dict.ltr.txt").read_text().splitlines()]
    assert dictionary.symbols == [*SPECIALS, *expected]
    assert (dictionary.bos, dictionary.pad, dictionary.eos, dictionary.unk) == (0, 1, 2, 3)
    assert dictionary.index(expected[0]) == 4
    assert dictionary.encode("ZZZ " + " ".join(expected)) == [3, *range(4, len(dictionary))]
    assert dictionary.string([0, 4, 1, 3, 2]) == f"{expected[0]} <pad> <unk>"
    assert Dictionary.from_symbols(dictionary.symbols) == Dictionary.from_symbols(expected) == dictionary


def test_overwriting(tmp_path):
    path = tmp_path / "dict.txt"
    path.write_text("# 1\na 2 #fairseq:overwrite\na 9 #fairseq:overwrite\n<s> 1 #fairseq:overwrite\n")
    dictionary = Dictionary.from_file(path)
    assert dictionary.symbols[4:] == ["#", "a", "a", "<s>"]
    assert dictionary.index("a") == 6
    assert dictionary.index("<s>") == 7
    assert dictionary.bos == 0


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "lists no symbols"),
        (b"a 1\nb\n", ":2: must be a symbol, a space and a count, got 'b'"),
        (b"a 1\nb x\n", ":2: must be a symbol, a space and a count"),
        (b"a 1\nb --3\n", ":2: must be a symbol, a space and a count, got 'b --3'"),
        (b"a\t1\n", ":1: must be a symbol, a space and a count"),
        ("a \uff13\n".encode(), ":1: must be a symbol, a space and a count"),
        (b"a 1\rb 2\r", ":1: lines of the dictionary end in CR alone"),
        (
            b"<s> 1\n<pad> 1\na 1\n",
            ":1: '<s>' is in the four special symbols already, which no dictionary lists; leave",
        ),
        (b"a 1\n\n", ":2: must be a symbol, a space and a count, got an empty line"),
        (b"a 1\nb 1\na 1\n", ":3: 'a' is in line 1 already"),
        (b"a 1\nE  162\n", ":2: a symbol must not hold white space, got 'E ' in 'E  162'"),
        (b"a b 3\n", ":1: a symbol must not hold white space, got 'a b'"),
        (b"a\t 3\n", ":1: a symbol must not hold white space"),
        (b" a 3\n", ":1: a symbol must not hold white space"),
        ("\u00a0a 3\n".encode(), ":1: a symbol must not hold white space"),
        (b"<unk> 1\n", ":1: '<unk>' is in the four special symbols already"),
        (b"a 1\n\xff 1\n", ":2: the dictionary must be UTF-8 text, got byte 0xff"),
    ],
)
def test_broken_dictionaries(tmp_path, content, message):
    (tmp_path / "dict.txt").write_bytes(content)
    with pytest.raises(DataError) as error:
        Dictionary.from_file(tmp_path / "dict.txt")
    assert message in str(error.value)


def test_missing_dictionary(tmp_path):
    with pytest.raises(DataError, match=r"cannot read the dictionary .*: No such file"):
        Dictionary.from_file(tmp_path / "none.txt")
    with pytest.raises(DataError, match="holds 'a' twice"):
        Dictionary.from_symbols(["a", "b", "a"])


def test_written_order(tmp_path):
    write_dictionary(tmp_path / "d.txt", {"B": 2, "A": 2, "|": 7, "C": 1})
    assert (tmp_path / "d.txt").read_text() == "| 7\nA 2\nB 2\nC 1\n"


def test_labels(tmp_path):
    dictionary = Dictionary.from_symbols(["|", "A", "B"])
    path = tmp_path / "train.ltr"
    path.write_bytes(b"A B |\r\n  B   A Q |\nQ Z\x0cA")
    labels = read_labels(path, 3, dictionary)
    assert [labels[i].tolist() for i in range(3)] == [[5, 6, 4], [6, 5, 3, 4], [3, 3, 5]]
    assert labels.unknown == {"Q": 2, "Z": 1}
    assert labels.num_unknown == 3
    assert labels.unknown_warning() == (
        f"{path}: 3 of 10 symbols are not in the dictionary and become <unk>: 'Q' (2), 'Z' (1)"
    )
    taken = labels.take(np.array([2, 0]))
    assert [taken[i].tolist() for i in range(2)] == [[3, 3, 5], [5, 6, 4]]
    path.write_text("A\nB\nA\n")
    assert read_labels(path, 3, dictionary).unknown_warning() is None


def test_labels_that_do_not_fit(tmp_path):
    dictionary = Dictionary.from_symbols(["A"])
    path = tmp_path / "train.ltr"
    path.write_text("A\nA\n")
    with pytest.raises(DataError, match=r"train.ltr: has 2 lines, but its manifest lists 3 clips"):
        read_labels(path, 3, dictionary)
    path.write_text("A\n\nA\n")
    with pytest.raises(DataError, match=r"train.ltr:2: must hold symbols"):
        read_labels(path, 3, dictionary)
    with pytest.raises(DataError, match="cannot read the label file"):
        read_labels(tmp_path / "none.ltr", 3, dictionary)


@pytest.mark.parametrize(("line", "symbol"), [("<s> A </s>", "<s>"), ("A <pad>", "<pad>"), ("A A </s>", "</s>")])
def test_special_symbols_are_no_labels(tmp_path, line, symbol):
    path = tmp_path / "train.ltr"
    path.write_text(f"A A\n{line}\nA\n")
    with pytest.raises(DataError, match=rf"train\.ltr:2: must not hold '{symbol}', which has a meaning of its own"):
        read_labels(path, 3, Dictionary.from_symbols(["A"]))


def test_the_name_of_the_unknown_symbol_is_unknown(tmp_path):
    (tmp_path / "x.ltr").write_text("A <unk> Q\n")
    assert read_labels(tmp_path / "x.ltr", 1, Dictionary.from_symbols(["A"])).unknown == {"<unk>": 1, "Q": 1}


def test_labels_of_another_dictionary(tmp_path):
    def labels(text, symbols):
        (tmp_path / "x.ltr").write_text(text)
        return read_labels(tmp_path / "x.ltr", 1, Dictionary.from_symbols(symbols))

    labels("A B Q |\n", ["A", "B", "|"]).check_known()
    with pytest.raises(DataError, match=r"2 of 4 symbols are not in the dictionary"):  # words that nobody spelled
        labels("AB | BA |\n", ["A", "B", "|"]).check_known()
    with pytest.raises(DataError, match=r"4 of 6 symbols are not in the dictionary .*: write both with w2v-labels"):
        labels("a b ' a b |\n", ["A", "B", "'", "|"]).check_known()
    with pytest.raises(
        DataError, match=r"lacks '\|', which ends each word here: .* wer would be 100; add the line '\| 1'"
    ):
        labels("A B A |\n", ["A", "B"]).check_known()


@pytest.mark.parametrize("name", ["ctc_base.pt", "ctc_large.pt"])
def test_post_process_cases(golden, name):
    cases = torch.load(golden / name, weights_only=True)["post_process_cases"]
    assert cases
    for case in cases:
        assert post_process(case["sentence"], case["symbol"]) == case["result"], case


letters = st.lists(st.sampled_from(["|", "A", "é", "音", "Q", "<unk>", "two", "\ufeff"]), min_size=1, max_size=5)
blank = st.sampled_from([" ", "  ", "\t", "\u00a0", "\u2028", "\x1c", "\x0c"])


@settings(max_examples=50)
@given(st.lists(st.tuples(letters, blank), min_size=1, max_size=6), st.sampled_from(["\n", "\r\n"]), st.booleans())
def test_labels_equal_a_reader_of_one_line_at_a_time(tmp_path_factory, rows, end, is_ended):
    dictionary = Dictionary.from_symbols(["|", "A", "é", "音", "two"])
    lines = [space + space.join(symbols) for symbols, space in rows]
    path = tmp_path_factory.mktemp("labels") / "x.ltr"
    path.write_bytes((end.join(lines) + end * is_ended).encode())
    for size in (1, 1 << 22):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(text_blocks, "BLOCK_BYTES", size)
            labels = read_labels(path, len(lines), dictionary)
        assert [labels[row].tolist() for row in range(len(lines))] == [dictionary.encode(line) for line in lines]
        lacking = Counter(symbol for line in lines for symbol in line.split() if dictionary.index(symbol) == 3)
        assert labels.unknown == lacking


@given(st.lists(st.lists(st.sampled_from("AB|"), min_size=1, max_size=7), min_size=1, max_size=6))
def test_frames_needed_by_enumeration(tmp_path_factory, rows):
    path = tmp_path_factory.mktemp("labels") / "x.ltr"
    path.write_text("".join(f"{' '.join(row)}\n" for row in rows))
    labels = read_labels(path, len(rows), Dictionary.from_symbols(["|", "A", "B"]))
    expected = [len(row) + sum(a == b for a, b in itertools.pairwise(row)) for row in rows]
    assert labels.frames_needed().tolist() == expected


@given(st.lists(st.lists(st.sampled_from([4, 5, 6]), max_size=4), max_size=6))
def test_frames_needed_where_clips_are_empty(rows):
    """A model may hear nothing in a clip."""
    offsets = np.cumsum([0, *map(len, rows)], dtype=np.int64)
    labels = Labels(np.array([symbol for row in rows for symbol in row], dtype=np.int32), offsets)
    expected = [len(row) + sum(a == b for a, b in itertools.pairwise(row)) for row in rows]
    assert labels.frames_needed().tolist() == expected
