"""Spelling: what people write, in the symbols that a dictionary has."""

from __future__ import annotations

import string

import pytest

from w2v.data.dictionary import Dictionary
from w2v.data.post_process import post_process
from w2v.inference.spelling import WILDCARD, SpelledWord, Speller

UPPER = [*string.ascii_uppercase, "'", "|"]


def shown(word: SpelledWord) -> str:
    return "".join("?" if symbol.label == WILDCARD else symbol.text or "|" for symbol in word.symbols)


def spelled(symbols: list[str], kind: str, line: str) -> list[str]:
    return [shown(word) for word in Speller(Dictionary.from_symbols(symbols), kind).spell([line]).lines[0]]


@pytest.mark.parametrize(
    ("written", "said"),
    [
        ("Hello, WORLD!", ["HELLO|", "WORLD|"]),
        ("don’t don‘t donʼt don't", ["DON'T|"] * 4),
        ("well-known and/or a—b", ["WELL|KNOWN|", "AND|OR|", "A|B|"]),
        ("caf\u00e9 cafe\u0301 na\u00efve", ["CAFE|", "CAFE|", "NAIVE|"]),
        ("\ufb01ne \uff21\uff22 stra\u00dfe", ["FINE|", "AB|", "STRASSE|"]),
        ("$13.60 1,000 Москва 你好", ["?|"] * 4),
        ("42nd COVID-19 B2B", ["?ND|", "COVID|?|", "B?B|"]),
        ("— ... \U0001f600 «»", ["", "", "", ""]),
        ("“quoted” (so)", ["QUOTED|", "SO|"]),
    ],
)
def test_letters(written: str, said: list[str]) -> None:
    """P16: case, apostrophes, dashes, accents; what sounds but cannot be spelled is a wildcard."""
    assert spelled(UPPER, "letter", written) == said


def test_case_follows_the_dictionary() -> None:
    assert spelled([*string.ascii_lowercase, "|"], "letter", "UPPER Lower") == ["upper|", "lower|"]
    both = [*string.ascii_letters, "|"]
    assert spelled(both, "letter", "McDonald") == ["McDonald|"]
    assert spelled([*"abcB", "|"], "letter", "ABB abb") == ["aBB|", "abb|"]
    # An alphabet with accents keeps them, however they were typed.
    assert spelled(["e", "\u00e9", "|"], "letter", "e\u0301 \u00c9") == ["\u00e9|", "\u00e9|"]


@pytest.mark.parametrize(
    ("symbols", "kind", "words"),
    [
        (["\u2581the", "re", "\u2581is", "\u2581", "t", "h", "e"], "sentencepiece", "there is he the"),
        (["_the", "re", "_is", "_", "h", "e"], "wordpiece", "there is he"),
        (["fo@@", "o@@", "d", "is", "o"], "@@ ", "food is foo"),
        (["a", "b_EOW", "c_EOW", "b"], "_EOW", "ab abb c"),
        (["one", "two"], "none", "one two"),
        ([*"ABC", "|"], "letter", "CAB A"),
    ],
)
def test_symbols_spell_the_words_that_they_come_from(symbols: list[str], kind: str, words: str) -> None:
    """The inverse of `--post-process`."""
    dictionary = Dictionary.from_symbols(symbols)
    (line,) = Speller(dictionary, kind).spell([words]).lines
    labels = [symbol.label for word in line for symbol in word.symbols]
    assert WILDCARD not in labels
    units = dictionary.string(labels)
    assert (post_process(units, kind) if kind != "none" else units).split() == words.split()
    for word in line:
        assert "".join(symbol.text for symbol in word.symbols) == word.text


def test_as_few_pieces_as_can_be() -> None:
    pieces = ["\u2581", "\u2581a", "b", "ab", "\u2581abc", "c"]
    speller = Speller(Dictionary.from_symbols(pieces), "sentencepiece")
    assert [symbol.text for symbol in speller.spell(["abc"]).lines[0][0].symbols] == ["abc"]
    assert [symbol.text for symbol in speller.spell(["abb"]).lines[0][0].symbols] == ["a", "b", "b"]
    # A letter without a piece is a wildcard; the mark before the word is written all the same.
    assert [symbol.label for symbol in speller.spell(["xc"]).lines[0][0].symbols] == [4, WILDCARD, 9]


def test_a_dictionary_without_a_word_mark() -> None:
    """Words where it has them, else its letters."""
    assert spelled(["one", "two", "o", "n"], "none", "ONE no") == ["one", "no"]
    assert spelled(["\u4f60", "\u597d"], "none", "\u4f60\u597d\u3002 \u597d") == ["\u4f60\u597d", "\u597d"]


def test_words_are_kept_as_written_and_what_is_missing_is_counted() -> None:
    """P16."""
    text = ["  $5 caf\u00e9, the * cat!  ", "", "   ", "<star> 5 – dogs"]
    spelling = Speller(Dictionary.from_symbols(UPPER), "letter").spell(text)
    assert [[word.text for word in line] for line in spelling.lines] == [line.split() for line in text if line.strip()]
    assert [word.text for line in spelling.lines for word in line if word.is_star] == ["*", "<star>"]
    assert dict(spelling.missing) == {"$": 1, "5": 2, "\u00e9": 1, ",": 1, "!": 1, "–": 1}
    assert (spelling.num_letters, spelling.num_spelled) == (16, 14)


def test_special_symbols_are_never_spelled() -> None:
    dictionary = Dictionary.from_symbols([*UPPER, "<noise>"])
    (line,) = Speller(dictionary, "letter").spell(["<unk> <s> <NOISE>"]).lines
    assert [shown(word) for word in line] == ["?UNK?|", "?S?|", "?NOISE?|"]
