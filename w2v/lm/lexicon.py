"""Which spellings stand for which words: read from a file, or derived from the words of a language model.

A lexicon maps a word to its spellings, each a list of symbols of the label dictionary. Spellings end in `|` where
the dictionary has it: without it, the beam search would glue words together.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from w2v.data.dictionary import SPECIALS
from w2v.data.text import WORD_END
from w2v.data.text_file import read_lines
from w2v.errors import ConfigError, DataError

logger = logging.getLogger(__name__)

Lexicon = dict[str, list[list[str]]]
COVERAGE_SAMPLE = 1000
LOWEST_COVERAGE = 0.5


def read_lexicon(path: str, symbols: Sequence[str]) -> Lexicon:
    """Read lines of a word, white space, and its symbols separated by spaces (`ONE O N E |`).

    A word may stand on several lines with different spellings.

    Raises:
        ConfigError: no such file.
        DataError: a line without a spelling, or with a symbol that the dictionary lacks.
    """
    if not Path(path).is_file():
        raise ConfigError(f"--lexicon: no file {path}")
    known = frozenset(symbols)
    lexicon: Lexicon = {}
    num_open = 0
    for number, line in enumerate(read_lines(path, "lexicon"), 1):
        word, *spelling = line.split() or [""]
        if not word:
            continue
        if not spelling:
            raise DataError(f"{path}:{number}: {word!r} has no spelling; a line is 'WORD W O R D {WORD_END}'")
        unknown = next((symbol for symbol in spelling if symbol not in known), None)
        if unknown is not None:
            other = next((case for case in (unknown.upper(), unknown.lower()) if case in known), None)
            hint = f", which has {other!r}" if other else ""
            raise DataError(f"{path}:{number}: {word!r} is spelled with {unknown!r}, not in the dictionary{hint}")
        num_open += WORD_END in known and spelling[-1] != WORD_END
        spellings = lexicon.setdefault(word, [])
        if spelling not in spellings:
            spellings.append(spelling)
    if not lexicon:
        raise DataError(f"{path}: the lexicon is empty")
    if num_open:
        logger.warning("%s: %d spellings do not end in %r; such words run together", path, num_open, WORD_END)
    return lexicon


def derive_lexicon(words: Sequence[str], symbols: Sequence[str], path: str) -> Lexicon:
    """Spell words with the symbols of a dictionary, in its case.

    With letters, a word is its letters. With pieces of words (sentencepiece, wordpiece, `@@`, `_EOW`) it is as few
    pieces as can be, which is what their tokenizers prefer but need not do. Words that cannot be spelled are left out
    and counted.

    Args:
        words: words, such as those of a language model.
        symbols: symbols of the label dictionary.
        path: where they are from, for messages.

    Raises:
        ConfigError: fewer than half of the words can be spelled, or the symbols are no letters and no pieces.
    """
    known = frozenset(symbols)
    scheme = find_scheme(symbols)
    end = [WORD_END] if WORD_END in known else []
    if scheme is None and not end and any(len(symbol) > 1 for symbol in symbols[len(SPECIALS) :]):
        some = next(symbol for symbol in symbols[len(SPECIALS) :] if len(symbol) > 1)
        raise ConfigError(
            f"{path}: its words cannot be spelled with the dictionary: its symbols are no letters ({some!r}), and it "
            "has no word mark; write a lexicon of lines 'WORD SYMBOL SYMBOL ...' and give it to w2v-infer --lexicon"
        )

    def spell(word: str) -> list[str] | None:
        if scheme is not None:
            return spell_with_pieces(word, known, scheme)
        return [*word, *end] if known.issuperset(word) else None

    fitting = choose_case(words, lambda word: spell(word) is not None)
    if fitting.share < LOWEST_COVERAGE:
        bad = next(word for word in words if spell(fitting.case(word)) is None)
        letter = next((letter for letter in fitting.case(bad) if letter not in known), "other pieces")
        raise ConfigError(
            f"{path}: only {fitting.share:.0%} of its words can be spelled with the dictionary ({bad!r} needs "
            f"{letter!r}); give words of the same language and case, or a lexicon that spells them"
        )
    lexicon: Lexicon = {}
    for word in words:
        cased = fitting.case(word)
        spelling = spell(cased)
        if spelling is not None:
            lexicon.setdefault(cased, [spelling])
    logger.info(
        "spelled %d words of %s %s%s (%d left out: %s)",
        len(lexicon), path, "letter by letter" if scheme is None else "with as few pieces of the dictionary as can be",
        fitting.note, len(words) - len(lexicon),
        "letters outside the dictionary" if scheme is None else "no pieces spell them",
    )  # fmt: skip
    return lexicon


@dataclass(frozen=True)
class PieceScheme:
    """How pieces show where words begin or end: what the first, inner and last piece of a word carries.

    Attributes:
        before: put before a word; begins its first piece.
        inner_before: begins every piece but the first.
        inner_after: ends every piece but the last.
        after: put after a word; ends its last piece.
    """

    before: str = ""
    inner_before: str = ""
    inner_after: str = ""
    after: str = ""


SCHEMES = (
    PieceScheme(before="\u2581"),  # sentencepiece
    PieceScheme(inner_after="@@"),  # subword-nmt
    PieceScheme(after="_EOW"),
    PieceScheme(after="</w>"),
    PieceScheme(inner_before="##"),
    PieceScheme(before="_"),  # the original's wordpiece
)


def find_scheme(symbols: Sequence[str]) -> PieceScheme | None:
    """Return the scheme whose marks are in a dictionary; None for letters."""
    rest = symbols[len(SPECIALS) :]
    if WORD_END in symbols:
        return None
    for scheme in SCHEMES:
        begins, ends = scheme.before or scheme.inner_before, scheme.after or scheme.inner_after
        if any((begins and text.startswith(begins)) or (ends and text.endswith(ends)) for text in rest):
            return scheme
    return None


def spell_with_pieces(word: str, pieces: frozenset[str], scheme: PieceScheme) -> list[str] | None:
    """Return the fewest pieces that make a word, of equally many those with the longest beginnings; None: none do."""
    text = scheme.before + word + scheme.after
    # best[i]: pieces of text[i:]; from the end, so that of equal counts the longest first piece wins
    best: list[list[str] | None] = [*[None] * len(text), []]
    for start in reversed(range(len(text))):
        for end in range(len(text), start, -1):
            rest = best[end]
            piece = (scheme.inner_before if start else "") + text[start:end]
            piece += scheme.inner_after if end < len(text) else ""
            found = best[start]
            if rest is not None and piece in pieces and (found is None or len(rest) + 1 < len(found)):
                best[start] = [piece, *rest]
    return best[0]


@dataclass(frozen=True)
class CaseChoice:
    """Which change of case makes words fit, and the share of a sample of them that then do."""

    case: Callable[[str], str]
    share: float
    note: str


def choose_case(words: Sequence[str], fits: Callable[[str], bool]) -> CaseChoice:
    """Return no change of case where it fits half of the words; else the best of lower and upper case.

    The commonest reason for a language model that makes results worse is a lower-case model with an upper-case
    dictionary. About a thousand words, evenly spread, are looked at.
    """
    sample = words[:: len(words) // COVERAGE_SAMPLE + 1]
    choices = [CaseChoice(str, _share(sample, str, fits), "")]
    if choices[0].share < LOWEST_COVERAGE:
        choices.append(CaseChoice(str.upper, _share(sample, str.upper, fits), ", in upper case"))
        choices.append(CaseChoice(str.lower, _share(sample, str.lower, fits), ", in lower case"))
    return max(choices, key=lambda choice: choice.share)


def _share(words: Sequence[str], case: Callable[[str], str], fits: Callable[[str], bool]) -> float:
    return sum(fits(case(word)) for word in words) / max(len(words), 1)
