"""What a beam search runs over: the words and their spellings, and how the language model writes them.

Whether the language model is over words or units, and in which case, is decided here for all searches.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from w2v.data.dictionary import SPECIALS, Dictionary
from w2v.data.text import WORD_END
from w2v.decoders.base import DecoderConfig
from w2v.errors import ConfigError
from w2v.lm.lexicon import LOWEST_COVERAGE, Lexicon, choose_case, derive_lexicon, read_lexicon

logger = logging.getLogger(__name__)

UNKNOWN = "<unk>"
Case = Callable[[str], str]


class Vocabulary(Protocol):
    """Which words a language model holds; every `LanguageModel` is one."""

    @property
    def path(self) -> str: ...
    @property
    def words(self) -> Sequence[str] | None: ...
    def contains(self, word: str) -> bool: ...


@dataclass(frozen=True)
class SearchSpace:
    """The words that can be found.

    Attributes:
        silence: the symbol of silence.
        units: all symbols as the language model writes them.
        is_unit_lm: the language model is over units, not words.
        words: words to show, `<unk>` among them; empty where any sequence of units may be found.
        entries: the same words as the language model writes them.
        spellings: the symbols of each spelling.
        spelled: the word of each spelling, as a place in `words`.
    """

    silence: int
    units: Sequence[str]
    is_unit_lm: bool
    words: Sequence[str]
    entries: Sequence[str]
    spellings: Sequence[tuple[int, ...]]
    spelled: Sequence[int]

    @property
    def unknown(self) -> int:
        """The word that stands for all that is not in the lexicon."""
        return self.entries.index(UNKNOWN)


def plan_search(config: DecoderConfig, dictionary: Dictionary, vocabulary: Vocabulary) -> SearchSpace:
    """Decide what is searched.

    Raises:
        ConfigError: lexicon, language model and dictionary do not fit, or the lexicon is missing.
        DataError: the lexicon is malformed.
    """
    case = _asked_unit_case(config, dictionary, vocabulary)
    is_unit_lm = case is not None
    silence = silence_index(dictionary)
    units = [*SPECIALS, *map(case or str, dictionary.symbols[len(SPECIALS) :])]
    if len(set(units)) < len(units):
        units = list(dictionary.symbols)
    if is_unit_lm and config.lexicon is None:
        return SearchSpace(silence, units, True, [], [], [], [])
    lexicon = _load_lexicon(config, dictionary, vocabulary)
    case = str if is_unit_lm else _word_case(config, list(lexicon), vocabulary)
    # Two words of the lexicon may be one for the language model (`Us`, `US`): the first one is shown.
    shown: dict[str, str] = {}
    for word in lexicon:
        shown.setdefault(case(word), word)
    shown.setdefault(UNKNOWN, UNKNOWN)
    places = {entry: place for place, entry in enumerate(shown)}
    columns = {symbol: column for column, symbol in enumerate(dictionary.symbols)}
    spelled = dict.fromkeys(
        (tuple(columns[symbol] for symbol in spelling), places[case(word)])
        for word, spellings in lexicon.items()
        for spelling in spellings
    )
    return SearchSpace(
        silence,
        units,
        is_unit_lm,
        words=list(shown.values()),
        entries=list(shown),
        spellings=[spelling for spelling, _ in spelled],
        spelled=[place for _, place in spelled],
    )


def silence_index(dictionary: Dictionary) -> int:
    """Return the symbol that stands for silence: `|`, else `<sep>`, else the end of the sentence.

    Follows the later versions. That of 2020 took the blank, which inserts spurious words wherever `|` is held over
    several frames.
    """
    for symbol in (WORD_END, "<sep>"):
        if symbol in dictionary.symbols:
            return dictionary.index(symbol)
    return dictionary.eos


def unit_case(dictionary: Dictionary, vocabulary: Vocabulary) -> Case | None:
    """Return how a language model over the units of a dictionary writes them; None where it is over words.

    It is over units if all its words are units; where a binary does not list them, if all units are its words.
    """
    for case in (str, str.upper, str.lower):
        units = {case(unit) for unit in dictionary.symbols[len(SPECIALS) :]}
        is_over_units = (
            all(map(vocabulary.contains, units)) if vocabulary.words is None else units.issuperset(vocabulary.words)
        )
        if is_over_units:
            return case
    return None


def _asked_unit_case(config: DecoderConfig, dictionary: Dictionary, vocabulary: Vocabulary) -> Case | None:
    if config.unit_lm:
        units = dictionary.symbols[len(SPECIALS) :]
        choice = choose_case(units, vocabulary.contains)
        if choice.share < LOWEST_COVERAGE:
            raise ConfigError(f"--unit-lm: only {choice.share:.0%} of the dictionary's units are in {vocabulary.path}")
        return choice.case
    if config.lexicon is not None:
        return None
    case = unit_case(dictionary, vocabulary)
    if case is not None:
        logger.info("%s is a model over units (seen from its words): search without a lexicon", vocabulary.path)
    return case


def _load_lexicon(config: DecoderConfig, dictionary: Dictionary, vocabulary: Vocabulary) -> Lexicon:
    if config.lexicon is not None:
        return read_lexicon(config.lexicon, dictionary.symbols)
    if vocabulary.words is None:
        raise ConfigError(
            f"--lm-model {vocabulary.path} was built without its words; give --lexicon, or the .arpa it was built from"
        )
    return derive_lexicon(vocabulary.words, dictionary.symbols, vocabulary.path)


def _word_case(config: DecoderConfig, words: list[str], vocabulary: Vocabulary) -> Case:
    """Return how to write the lexicon's words for the language model.

    Raises:
        ConfigError: in no case are half of the words in the language model.
    """
    choice = choose_case(words, vocabulary.contains)
    if choice.share < LOWEST_COVERAGE:
        missing = next(word for word in words if not vocabulary.contains(choice.case(word)))
        raise ConfigError(
            f"--lexicon {config.lexicon} and --lm-model {vocabulary.path} do not fit: only {choice.share:.0%} of "
            f"the lexicon's words are in the model ({missing!r} is not); for a model over units give --unit-lm"
        )
    logger.info(
        "%s holds %.0f %% of the lexicon's %d words%s", vocabulary.path, 100 * choice.share, len(words), choice.note
    )
    return choice.case
