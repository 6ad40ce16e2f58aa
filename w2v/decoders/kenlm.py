"""Beam search with an n-gram model, through flashlight-text (`--w2l-decoder kenlm`).

With a model over words the search is bound to a lexicon; with a model over units it is free. The score of a reading is
sum of frame log-probabilities + lm_weight * log10 P(words, </s>) + word_score * words + sil_weight * silent frames.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Sequence
from functools import cached_property
from types import SimpleNamespace
from typing import Any

from torch import Tensor

from w2v.data.dictionary import Dictionary
from w2v.decoders.base import Decoder, DecoderConfig, register_decoder
from w2v.errors import ConfigError, DataError, MissingPackageError
from w2v.functional.best_path import BLANK
from w2v.lm.lexicon import LOWEST_COVERAGE, WORD_END, Lexicon, choose_case, derive_lexicon, read_lexicon
from w2v.lm.vocabulary import read_vocabulary
from w2v.types import Hypothesis

logger = logging.getLogger(__name__)

NUM_SPECIAL_SYMBOLS = 4
UNKNOWN = "<unk>"


@register_decoder("kenlm", DecoderConfig)
class KenlmDecoder(Decoder):
    """Lexicon or lexicon-free beam search with KenLM.

    Raises:
        ConfigError: `--lm-model` or a file is missing; lexicon, language model and dictionary do not fit.
        DataError: a file is malformed.
        MissingPackageError: flashlight-text or kenlm is not installed.
    """

    def __init__(self, config: DecoderConfig, dictionary: Dictionary, symbol: str | None = "letter") -> None:
        super().__init__(config, dictionary, symbol)
        if config.kenlm_model is None:
            raise ConfigError("--w2l-decoder kenlm needs --lm-model FILE (an ARPA file or a KenLM binary)")
        self._flashlight = _import_flashlight()
        self.lm = LanguageModelWords(config.kenlm_model)
        self.silence = silence_index(dictionary)
        self.is_unit_lm, case = self._decide_units()
        self._output_words: list[str] = []
        if self.is_unit_lm and config.lexicon is None:
            self._search = self._build_free_search(case)
        else:
            lexicon = self._load_lexicon()
            self._search = self._build_lexicon_search(lexicon, case)

    def decode(self, log_probs: Tensor, lengths: Tensor) -> list[list[Hypothesis]]:
        return [self._decode_clip(log_probs[i, : int(length)].float().contiguous()) for i, length in enumerate(lengths)]

    def _decode_clip(self, log_probs: Tensor) -> list[Hypothesis]:
        num_frames, num_symbols = log_probs.shape
        if num_frames == 0:
            return [Hypothesis(tokens=[], words=[], score=0.0)]
        results = self._search.decode(log_probs.data_ptr(), num_frames, num_symbols)
        if not results:
            return [Hypothesis(tokens=[], words=[], score=-math.inf)]
        return [self._hypothesis(result, num_frames) for result in results[: self.config.nbest]]

    def _hypothesis(self, result: Any, num_frames: int) -> Hypothesis:
        tokens, timesteps = _collapse(result.tokens, num_frames)
        if self._output_words:
            words = [self._output_words[index] for index in result.words if index >= 0]
        else:
            words = self.words(tokens)
        scores = {"emission": result.emittingModelScore, "lm": result.lmScore}
        return Hypothesis(tokens=tokens, words=words, score=result.score, scores=scores, timesteps=timesteps)

    # ------------------------------------------------------------------------------------------ building

    def _decide_units(self) -> tuple[bool, Callable[[str], str]]:
        """Return whether the language model is over units, and how to write a unit for it."""
        units = self.dictionary.symbols[NUM_SPECIAL_SYMBOLS:]
        if self.config.unit_lm:
            choice = choose_case(units, self.lm.contains)
            if choice.share < LOWEST_COVERAGE:
                raise ConfigError(f"--unit-lm: only {choice.share:.0%} of the dictionary's units are in {self.lm.path}")
            return True, choice.case
        if self.config.lexicon is None:
            for case in (str, str.upper, str.lower):
                if self.lm.is_over({case(unit) for unit in units}):
                    logger.info(
                        "%s is a model over units (seen from its words): search without a lexicon", self.lm.path
                    )
                    return True, case
        return False, str

    def _load_lexicon(self) -> Lexicon:
        if self.config.lexicon is not None:
            return read_lexicon(self.config.lexicon, self.dictionary.symbols)
        if self.lm.words is None:
            raise ConfigError(
                f"--lm-model {self.lm.path} was built without its words; give --lexicon, or the .arpa it was built from"
            )
        return derive_lexicon(self.lm.words, self.dictionary.symbols, self.lm.path)

    def _build_lexicon_search(self, lexicon: Lexicon, unit_case: Callable[[str], str]) -> Any:
        """Put the lexicon into a prefix tree whose nodes know the best unigram score below them."""
        flashlight = self._flashlight
        case = str if self.is_unit_lm else self._choose_word_case(list(lexicon))
        # Two words of the lexicon may be one for the language model (`Us`, `US`): the first one is shown.
        shown: dict[str, str] = {}
        for word in lexicon:
            shown.setdefault(case(word), word)
        shown.setdefault(UNKNOWN, UNKNOWN)
        indices = {word: index for index, word in enumerate(shown)}
        self._output_words = list(shown.values())
        if self.is_unit_lm:
            lm = self._load_lm(self._unit_entries(unit_case))
        else:
            lm = self._load_lm(list(indices))
        tree = flashlight.Trie(len(self.dictionary), self.silence)
        start = lm.start(False)
        columns = {symbol: index for index, symbol in enumerate(self.dictionary.symbols)}
        for word, spellings in lexicon.items():
            index = indices[case(word)]
            score = 0.0 if self.is_unit_lm else lm.score(start, index)[1]
            for spelling in spellings:
                tree.insert([columns[symbol] for symbol in spelling], index, score)
        tree.smear(flashlight.SmearingMode.MAX)
        options = flashlight.LexiconDecoderOptions(
            word_score=self.config.word_score, unk_score=self.config.unk_weight, **self._common_options()
        )
        return flashlight.LexiconDecoder(options, tree, lm, self.silence, BLANK, indices[UNKNOWN], [], self.is_unit_lm)

    def _build_free_search(self, unit_case: Callable[[str], str]) -> Any:
        options = self._flashlight.LexiconFreeDecoderOptions(**self._common_options())
        lm = self._load_lm(self._unit_entries(unit_case))
        return self._flashlight.LexiconFreeDecoder(options, lm, self.silence, BLANK, [])

    def _common_options(self) -> dict[str, Any]:
        return dict(
            beam_size=self.config.beam,
            beam_size_token=int(self.config.beam_size_token),
            beam_threshold=self.config.beam_threshold,
            lm_weight=self.config.lm_weight,
            sil_score=self.config.sil_weight,
            log_add=False,
            criterion_type=self._flashlight.CriterionType.CTC,
        )

    def _unit_entries(self, case: Callable[[str], str]) -> list[str]:
        """Return the units as the language model writes them, in the order of the columns."""
        symbols = self.dictionary.symbols
        entries = [case(unit) for unit in symbols]
        return entries if len(set(entries)) == len(entries) else list(symbols)

    def _choose_word_case(self, words: list[str]) -> Callable[[str], str]:
        """Return how to write the lexicon's words for the language model.

        Raises:
            ConfigError: in no case are half of the words in the language model.
        """
        choice = choose_case(words, self.lm.contains)
        if choice.share < LOWEST_COVERAGE:
            missing = next(word for word in words if not self.lm.contains(choice.case(word)))
            raise ConfigError(
                f"--lexicon {self.config.lexicon} and --lm-model {self.lm.path} do not fit: only {choice.share:.0%} of "
                f"the lexicon's words are in the model ({missing!r} is not); for a model over units give --unit-lm"
            )
        logger.info(
            "%s holds %.0f %% of the lexicon's %d words%s", self.lm.path, 100 * choice.share, len(words), choice.note
        )
        return choice.case

    def _load_lm(self, entries: Sequence[str]) -> Any:
        # flashlight's own helper walks an unordered map, so the columns of a unit model would be shuffled.
        numbered = self._flashlight.WordNumbers(list(entries))
        if numbered.contains(UNKNOWN):
            numbered.set_default_index(numbered.get_index(UNKNOWN))
        try:
            return self._flashlight.KenLM(self.lm.path, numbered)
        except RuntimeError as e:
            reason = " ".join(str(e).split("\n")[-1].split())
            raise DataError(f"--lm-model {self.lm.path} cannot be read by KenLM: {reason}") from e


class LanguageModelWords:
    """Which words a language model holds, whatever its file format."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.words = read_vocabulary(path, "--lm-model")
        self._known = None if self.words is None else frozenset(self.words)

    def contains(self, word: str) -> bool:
        """Tell whether the model knows `word`."""
        return word in self._known if self._known is not None else word in self._model

    def is_over(self, units: set[str]) -> bool:
        """Tell whether the model's words are units; of a binary without words: whether all units are its words."""
        if self._known is not None:
            return self._known <= units
        return all(self.contains(unit) for unit in units)

    @cached_property
    def _model(self) -> Any:
        try:
            import kenlm
        except ImportError as e:
            raise MissingPackageError("kenlm", "kenlm", "a KenLM binary without its words") from e
        try:
            return kenlm.Model(self.path)
        except OSError as e:
            raise DataError(f"--lm-model {self.path} cannot be read by KenLM: {' '.join(str(e).split())}") from e


def silence_index(dictionary: Dictionary) -> int:
    """Return the symbol that stands for silence: `|`, else `<sep>`, else the end of the sentence.

    Follows the later versions. That of 2020 took the blank, which inserts spurious words wherever `|` is held over
    several frames.
    """
    for symbol in (WORD_END, "<sep>"):
        if symbol in dictionary.symbols:
            return dictionary.index(symbol)
    return dictionary.eos


def _collapse(path: Sequence[int], num_frames: int) -> tuple[list[int], list[int]]:
    """Return tokens without repetitions and blanks, and the frame of each.

    flashlight puts one silence before the first frame and one after the last; as in the original they stay in the
    tokens, and their frames are the nearest real ones.
    """
    starts = [i for i, token in enumerate(path) if token != BLANK and (i == 0 or token != path[i - 1])]
    return [path[i] for i in starts], [min(max(i - 1, 0), num_frames - 1) for i in starts]


def _import_flashlight() -> SimpleNamespace:
    """Return one namespace with the parts of flashlight-text that are used here."""
    try:
        from flashlight.lib.text import decoder
        from flashlight.lib.text.decoder.kenlm import KenLM
        from flashlight.lib.text.dictionary import Dictionary as WordNumbers
    except ImportError as e:
        raise MissingPackageError("flashlight-text", "kenlm", "--w2l-decoder kenlm") from e
    return SimpleNamespace(
        KenLM=KenLM,
        WordNumbers=WordNumbers,
        Trie=decoder.Trie,
        SmearingMode=decoder.SmearingMode,
        CriterionType=decoder.CriterionType,
        LexiconDecoder=decoder.LexiconDecoder,
        LexiconDecoderOptions=decoder.LexiconDecoderOptions,
        LexiconFreeDecoder=decoder.LexiconFreeDecoder,
        LexiconFreeDecoderOptions=decoder.LexiconFreeDecoderOptions,
    )
