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
NEARLY_ALL = 0.9
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

    Judged by shares, because a single foreign line in the text of either kind proves nothing. It is over units where
    nearly all its words are units; where it holds the word mark, half of them, or single characters of any script.
    Of a binary that does not list its words, the units must be words, the word mark among them.
    """
    units = dictionary.symbols[len(SPECIALS) :]
    return next((case for case in (str, str.upper, str.lower) if _is_over_units(units, case, vocabulary)), None)


def _is_over_units(symbols: Sequence[str], case: Case, vocabulary: Vocabulary) -> bool:
    units = {case(symbol) for symbol in symbols}
    holds_mark = WORD_END in units and vocabulary.contains(WORD_END)
    if not units or (WORD_END in units and not holds_mark and vocabulary.words is None):
        return False
    words = vocabulary.words
    if words is None:
        return sum(map(vocabulary.contains, units)) >= (NEARLY_ALL if holds_mark else 1.0) * len(units)
    share = sum(word in units for word in words) / max(len(words), 1)
    if share >= NEARLY_ALL or (holds_mark and share >= LOWEST_COVERAGE):
        return True
    # Letters of other languages may outnumber those of the dictionary.
    single = sum(len(word) == 1 or word in units for word in words) / max(len(words), 1)
    known = sum(map(vocabulary.contains, units)) / len(units)
    return holds_mark and single >= NEARLY_ALL and known >= LOWEST_COVERAGE


def _note_foreign_units(dictionary: Dictionary, case: Case, vocabulary: Vocabulary) -> None:
    """Say which symbols model and dictionary do not have in common."""
    units = {case(symbol) for symbol in dictionary.symbols[len(SPECIALS) :]}
    foreign = [word for word in vocabulary.words or () if word not in units]
    missing = [unit for unit in sorted(units) if not vocabulary.contains(unit)]
    for what, symbols in (
        ("symbols of %s are not in the dictionary and left out", foreign),
        ("symbols of the dictionary are not in %s and count as <unk>", missing),
    ):
        if symbols:
            shown = ", ".join(map(repr, symbols[:5])) + (", ..." if len(symbols) > 5 else "")
            logger.info(f"%d {what}: %s", len(symbols), vocabulary.path, shown)


def _asked_unit_case(config: DecoderConfig, dictionary: Dictionary, vocabulary: Vocabulary) -> Case | None:
    case = unit_case(dictionary, vocabulary) if config.unit_lm or config.lexicon is None else None
    if config.unit_lm and case is None:
        # The user knows better than the shares, as long as most units are in the model.
        choice = choose_case(dictionary.symbols[len(SPECIALS) :], vocabulary.contains)
        if choice.share < LOWEST_COVERAGE:
            raise ConfigError(f"--unit-lm: only {choice.share:.0%} of the dictionary's units are in {vocabulary.path}")
        case = choice.case
    elif case is not None and not config.unit_lm:
        logger.info("%s is a model over units (seen from its words): search without a lexicon", vocabulary.path)
    if case is not None:
        _note_foreign_units(dictionary, case, vocabulary)
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
