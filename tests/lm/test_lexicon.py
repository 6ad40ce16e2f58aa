"""Words of language models in every file format, and lexicons read or derived from them."""

from __future__ import annotations

import gzip
import logging
from pathlib import Path

import pytest

from w2v.errors import ConfigError, DataError
from w2v.lm.lexicon import derive_lexicon, read_lexicon
from w2v.lm.vocabulary import read_vocabulary

ASSETS = Path(__file__).resolve().parent.parent / "assets" / "lm"
SYMBOLS = ["<s>", "<pad>", "</s>", "<unk>", "|", *"ABCDEFGHIJKLMNOPQRSTUVWXYZ'"]


@pytest.mark.parametrize("name", ["words.arpa", "words.probing.bin", "words.trie.bin"])
def test_words_of_all_formats(name: str) -> None:
    assert sorted(read_vocabulary(str(ASSETS / name), "--lm-model") or []) == ["A", "AB", "B"]


def test_words_of_a_gzipped_file_and_of_a_binary_without_them(tmp_path: Path) -> None:
    with gzip.open(tmp_path / "words.arpa.gz", "wb") as file:
        file.write((ASSETS / "words.arpa").read_bytes())
    assert read_vocabulary(str(tmp_path / "words.arpa.gz"), "--lm-model") == ["A", "B", "AB"]
    assert read_vocabulary(str(ASSETS / "words.nameless.bin"), "--lm-model") is None


def test_words_are_those_of_kenlm() -> None:
    kenlm = pytest.importorskip("kenlm")
    model = kenlm.Model(str(ASSETS / "words.trie.bin"))
    assert all(word in model for word in read_vocabulary(str(ASSETS / "words.trie.bin"), "--lm-model") or [])


def test_damaged_models(tmp_path: Path) -> None:
    path = tmp_path / "model"
    binary = (ASSETS / "words.trie.bin").read_bytes()
    for content, message in [
        (binary[:60], "cut short"),
        (binary[:-3], "expected 6 words"),
        (b"\\data\\\nngram 1=1\n\n\\1-grams:\n-1 one two three\n", "model:5: a 1-gram is"),
        (b"\\data\\\n", "no 1-grams"),
        (b"\xff\xfe\xff", "no ARPA file"),
        (b"\x1f\x8b\x00\x00", "damaged gzip file"),
    ]:
        path.write_bytes(content)
        with pytest.raises(DataError, match=message):
            read_vocabulary(str(path), "--lm-model")


def test_reads_tabs_and_spaces_and_several_spellings(tmp_path: Path) -> None:
    path = tmp_path / "lexicon"
    path.write_text("ONE\tO N E |\nA A |\n\nA E Y |\nA A |\n")
    assert read_lexicon(str(path), SYMBOLS) == {
        "ONE": [["O", "N", "E", "|"]],
        "A": [["A", "|"], ["E", "Y", "|"]],
    }


def test_bad_lines_are_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "lexicon"
    path.write_text("ONE O N E |\nTWO T w O |\n")
    with pytest.raises(DataError, match=r"lexicon:2: 'TWO' is spelled with 'w', not in the dictionary, which has 'W'"):
        read_lexicon(str(path), SYMBOLS)
    path.write_text("ONE\n")
    with pytest.raises(DataError, match=r"lexicon:1: 'ONE' has no spelling"):
        read_lexicon(str(path), SYMBOLS)
    path.write_text("\n")
    with pytest.raises(DataError, match="empty"):
        read_lexicon(str(path), SYMBOLS)
    path.write_text("ONE O N E\n")
    with caplog.at_level(logging.WARNING):
        read_lexicon(str(path), SYMBOLS)
    assert "1 spellings do not end in '|'" in caplog.text


def test_derived_spellings_follow_the_case_of_the_dictionary(caplog: pytest.LogCaptureFixture) -> None:
    words = ["one", "it's", "naïve"]
    with caplog.at_level(logging.INFO):
        lexicon = derive_lexicon(words, SYMBOLS, "model.arpa")
    assert lexicon == {"ONE": [list("ONE|")], "IT'S": [list("IT'S|")]}
    assert "2 words" in caplog.text
    assert "in upper case (1 left out" in caplog.text
    # A dictionary without the end of a word: plain letters.
    assert derive_lexicon(["AB"], [*SYMBOLS[:4], "A", "B"], "model.arpa") == {"AB": [["A", "B"]]}


def test_a_model_that_cannot_be_spelled_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"0% of its words can be spelled .*'один' needs 'о'"):
        derive_lexicon(["один", "два", "три"], SYMBOLS, "model.arpa")
