"""What a language model is over, judged by its words; and lexicons derived with pieces."""

from __future__ import annotations

import itertools
import logging
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from w2v.data.dictionary import Dictionary
from w2v.decoders import DecoderConfig
from w2v.decoders.search_space import plan_search, unit_case
from w2v.errors import ConfigError
from w2v.lm.lexicon import SCHEMES, PieceScheme, derive_lexicon, find_scheme, spell_with_pieces

LETTERS = list("|ETAONIHSRDLUMWCFGYPBVK'XJQZ")
DICTIONARY = Dictionary.from_symbols(LETTERS)
WORDS = ["THE", "CAT", "SAT", "DOG", "A", "I"]


@dataclass
class Words:
    """A vocabulary; `listed`: whether it tells its words."""

    held: list[str]
    listed: bool = True
    path: str = "model"
    words: list[str] | None = field(init=False)

    def __post_init__(self) -> None:
        self.words = self.held if self.listed else None

    def contains(self, word: str) -> bool:
        return word in self.held


OVER_UNITS = {
    "letters": LETTERS,
    "lower case": [letter.lower() for letter in LETTERS],
    "one foreign letter": [*LETTERS, "É"],
    "digits, too": [*LETTERS, *"0123456789"],
    "mostly foreign letters": [*LETTERS, *map(chr, range(0x430, 0x490))],
    "few letters": list("|ONETWS"),
    "without the mark, nearly all": [*LETTERS[1:], "É"],
    "a foreign word": [*LETTERS, "WORD"],
}
OVER_WORDS = {
    "words": WORDS,
    "one line of letters": [*WORDS, *(f"W{i}" for i in range(100)), "|", "C", "A", "F"],
    "all letters, and the mark, among many words": [*LETTERS, *(f"W{i}" for i in range(300))],
    "nothing": [],
}


@pytest.mark.parametrize("name", OVER_UNITS)
def test_a_model_over_units_is_seen(name: str, caplog: pytest.LogCaptureFixture) -> None:
    vocabulary = Words(OVER_UNITS[name])
    assert unit_case(DICTIONARY, vocabulary) is not None
    with caplog.at_level(logging.INFO):
        found = plan_search(DecoderConfig(w2l_decoder="kenlm"), DICTIONARY, vocabulary)
        asked = plan_search(DecoderConfig(w2l_decoder="kenlm", unit_lm=True), DICTIONARY, vocabulary)
    assert found == asked
    assert found.is_unit_lm
    assert not found.words
    foreign = sum(word.upper() not in LETTERS for word in OVER_UNITS[name])
    if foreign:
        assert f"{foreign} symbols of model are not in the dictionary and left out" in caplog.text


@pytest.mark.parametrize("name", OVER_WORDS)
def test_a_model_over_words_is_seen(name: str) -> None:
    assert unit_case(DICTIONARY, Words(OVER_WORDS[name])) is None


@pytest.mark.parametrize(("held", "is_over_units"), [(LETTERS, True), (LETTERS[1:], False), (WORDS, False)])
def test_a_model_that_does_not_list_its_words(held: list[str], is_over_units: bool) -> None:
    assert (unit_case(DICTIONARY, Words(held, listed=False)) is not None) == is_over_units


def test_phones_and_pieces_are_units() -> None:
    phones = Dictionary.from_symbols(["h#", "sh", "iy", "hh"])
    assert unit_case(phones, Words(["h#", "sh", "iy", "hh"])) is not None
    assert unit_case(phones, Words(["SHE", "HE"])) is None


EXAMPLES = [
    (["\u2581", "\u2581the", "\u2581c", "at", "t", "a", "h", "e"], ["\u2581the", "\u2581c at", "\u2581 h at"]),
    (["the", "c@@", "at", "h@@", "a@@", "t"], ["the", "c@@ at", "h@@ at"]),
    (["the_EOW", "c", "at_EOW", "h", "a", "t_EOW"], ["the_EOW", "c at_EOW", "h at_EOW"]),
    (["the</w>", "c", "at</w>", "h", "a"], ["the</w>", "c at</w>", "h at</w>"]),
    (["the", "c", "##at", "h", "##a", "##t"], ["the", "c ##at", "h ##at"]),
    (["_the", "_c", "at", "_h", "a", "t"], ["_the", "_c at", "_h at"]),
]


@pytest.mark.parametrize(("pieces", "spellings"), EXAMPLES)
def test_words_are_spelled_with_pieces(pieces: list[str], spellings: list[str]) -> None:
    symbols = Dictionary.from_symbols(pieces).symbols
    lexicon = derive_lexicon(["THE", "CAT", "HAT", "DOG"], symbols, "model")
    assert [" ".join(found[0]) for found in lexicon.values()] == spellings


@settings(max_examples=60)
@given(word=st.text("ab", min_size=1, max_size=5), pieces=st.sets(st.text("ab", min_size=1, max_size=3), max_size=6),
       scheme=st.sampled_from(SCHEMES))  # fmt: skip
def test_as_few_pieces_as_can_be(word: str, pieces: set[str], scheme: PieceScheme) -> None:
    def carried(part: str, first: bool, last: bool) -> str:
        text = (scheme.before if first else scheme.inner_before) + part
        return text + (scheme.after if last else scheme.inner_after)

    held = {carried(piece, *ends) for piece in pieces for ends in itertools.product((True, False), repeat=2)}
    cuts = itertools.chain.from_iterable(itertools.combinations(range(1, len(word)), n) for n in range(len(word)))
    fewest = None
    for cut in cuts:
        parts = [word[i:j] for i, j in itertools.pairwise([0, *cut, len(word)])]
        spelled = [carried(part, i == 0, i == len(parts) - 1) for i, part in enumerate(parts)]
        if held.issuperset(spelled):
            fewest = len(parts)
            break
    found = spell_with_pieces(word, frozenset(held), scheme)
    assert (None if found is None else len(found)) == fewest


def test_symbols_that_spell_nothing_ask_for_a_lexicon() -> None:
    symbols = Dictionary.from_symbols(["h#", "sh", "iy", "d", "a", "o", "g"]).symbols
    assert find_scheme(symbols) is None
    with pytest.raises(ConfigError, match=r"no letters \('h#'\).*w2v-infer --lexicon"):
        derive_lexicon(["dog", "a"], symbols, "model")
