"""Texts become the numbers that plain loops over lines and words give, and samples cover them without a gap."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from w2v.data.dictionary import Dictionary
from w2v.data.text import BREAK_MODES, Text, build_dictionary, read_text
from w2v.data.text_dataset import TextDataset
from w2v.errors import DataError

EOS, UNK = Dictionary.eos, Dictionary.unk
LINES = ["THE CAT  SAT", "", "ON\u00a0THE MAT ", "\u00c9T\u00c9 THE"]


def write(path: Path, lines: list[str], *, packed: bool = False) -> str:
    content = "".join(f"{line}\n" for line in lines).encode()
    path.write_bytes(gzip.compress(content, mtime=0) if packed else content)
    return str(path)


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("unit", ["word", "letter"])
def test_reading_is_a_loop_over_lines(tmp_path: Path, unit: str, packed: bool) -> None:
    path = write(tmp_path / "train.txt", LINES, packed=packed)
    symbols = ["THE", "CAT", "MAT"] if unit == "word" else list("|THECAM")
    dictionary = Dictionary.from_symbols(symbols)
    wanted, ends = [EOS], []
    for line in LINES:
        words = line.split() if unit == "word" else [letter for word in line.split() for letter in [*word, "|"]]
        wanted += [*map(dictionary.index, words), EOS]
        ends.append(len(wanted) - 1)
    text = read_text(path, unit, dictionary)
    assert text.words.tolist() == wanted
    assert text.ends.tolist() == ends
    assert text.num_unknown == wanted.count(UNK)
    assert len(text) == len(wanted) - 1
    assert text.words.dtype == np.uint16


def test_dictionaries_are_counted(tmp_path: Path) -> None:
    path = write(tmp_path / "train.txt", ["B A C", "A <unk> B", "A D"])
    assert build_dictionary(path, "word").symbols[4:] == ["A", "B", "C", "D"]
    assert build_dictionary(path, "word", least_count=2).symbols[4:] == ["A", "B"]
    assert build_dictionary(path, "word", most_words=1).symbols[4:] == ["A"]
    letters = build_dictionary(write(tmp_path / "x.txt", ["AB BA", "B"]), "letter")
    assert letters.symbols[4:] == ["B", "|", "A"]
    with pytest.raises(DataError, match=r"no word is left"):
        build_dictionary(path, "word", least_count=9)


def test_what_is_refused(tmp_path: Path) -> None:
    dictionary = Dictionary.from_symbols(["A"])
    with pytest.raises(DataError, match=r"x.txt:2: a text must not hold '</s>', which"):
        read_text(write(tmp_path / "x.txt", ["A", "A </s>"]), "word", dictionary)
    with pytest.raises(DataError, match=r"x.txt:2: with --unit letter a text must not hold '\|'"):
        read_text(write(tmp_path / "x.txt", ["A", "A |"]), "letter", dictionary)
    with pytest.raises(DataError, match=r"x.txt: the text is empty"):
        read_text(write(tmp_path / "x.txt", []), "word", dictionary)
    (tmp_path / "x.txt").write_bytes(b"A\nB\xff\n")
    with pytest.raises(DataError, match=r"x.txt:2: must be UTF-8"):
        read_text(str(tmp_path / "x.txt"), "word", dictionary)
    with pytest.raises(DataError, match=r"cannot read the text .*none.txt"):
        read_text(str(tmp_path / "none.txt"), "word", dictionary)


sentences = st.lists(st.integers(1, 9), min_size=1, max_size=40)


def text_of(sizes: list[int]) -> Text:
    """Return sentences of the words 10, 11, ... of these sizes, their ends included."""
    words = np.arange(10, 10 + sum(sizes) + 1, dtype=np.int32)
    ends = np.cumsum(sizes)
    words[[0, *ends]] = EOS
    return Text(words, ends, 0)


@settings(max_examples=200)
@given(sizes=sentences, size=st.integers(1, 20), mode=st.sampled_from(BREAK_MODES))
def test_samples_cover_the_text(sizes: list[int], size: int, mode: str) -> None:
    starts, lengths = text_of(sizes).samples(mode, size)
    assert starts.tolist() == [0, *np.cumsum(lengths)[:-1].tolist()]
    assert lengths.sum() == sum(sizes)
    assert lengths.min() > 0
    if mode == "none":
        assert set(lengths[:-1].tolist()) <= {size}
        assert lengths[-1] <= size
    elif mode == "eos":
        assert lengths.tolist() == sizes
    else:
        assert lengths.tolist() == one_by_one(sizes, size)


def one_by_one(sizes: list[int], size: int) -> list[int]:
    samples = [0]
    for sentence in sizes:
        if samples[-1] and samples[-1] + sentence > size:
            samples.append(0)
        samples[-1] += sentence
    return samples


@settings(max_examples=60)
@given(sizes=sentences, size=st.integers(1, 20), mode=st.sampled_from(BREAK_MODES), add_bos=st.booleans())
def test_batches_are_windows(sizes: list[int], size: int, mode: str, add_bos: bool) -> None:
    text = text_of(sizes)
    data = TextDataset(text, mode, size, 15, add_bos=add_bos)
    starts, lengths = text.samples(mode, size)
    assert data.num_too_long == (lengths > 15).sum()
    starts, lengths = starts[lengths <= 15], lengths[lengths <= 15]
    if not len(data):
        return
    batch = data.batch(np.arange(len(data))[::-1], seed=5)
    assert batch.seed == 5
    assert batch.indices.tolist() == list(range(len(data)))[::-1]
    given_word = [Dictionary.bos] if add_bos else []
    for row, sample in enumerate(batch.indices.tolist()):
        window = text.words[starts[sample] : starts[sample] + lengths[sample] + 1].tolist()
        width = int(batch.lengths[row])
        assert batch.source[row, :width].tolist() == given_word + window[:-1]
        assert batch.targets[row, :width].tolist() == given_word + window[1:]
        assert set(batch.source[row, width:].tolist()) <= {Dictionary.pad}
    assert batch.num_tokens == batch.source.numel()
