"""Rescoring (`--rescore-lm`): a second language model puts the hypotheses of a search into a new order.

Much cheaper than a search with the same model: it scores a few whole sentences per clip, all in one batch.
"""

from __future__ import annotations

import copy
import logging
from collections.abc import Sequence
from dataclasses import replace
from itertools import groupby

from torch import Tensor

from w2v.data.dictionary import SPECIALS
from w2v.data.text import WORD_END
from w2v.decoders.base import Decoder, DecoderConfig
from w2v.decoders.beam_decoder import BeamDecoder
from w2v.decoders.search_space import UNKNOWN, Case, unit_case
from w2v.errors import ConfigError
from w2v.lm.language_model import LanguageModel
from w2v.lm.lexicon import LOWEST_COVERAGE, choose_case
from w2v.types import Hypothesis

logger = logging.getLogger(__name__)


class RescoringDecoder(Decoder):
    """A decoder whose hypotheses are put into a new order by

        score + rescore_weight * log P(words, </s>) + rescore_word_score * words,

    where `score` is the first decoder's. With `--rescore-replaces-lm` its own language model's part,
    lm_weight * log P, is taken out first. The logarithm is the rescoring model's: natural for a Transformer, to base
    10 for n-grams. A model over units scores the units; words that it does not know count as `<unk>`.
    `Hypothesis.scores` gets `rescore`, the log-probability.

    Args:
        first: finds the hypotheses.
        model: the second language model.

    Raises:
        ConfigError: in no case are half of the words in the model.
    """

    def __init__(self, first: Decoder, model: LanguageModel) -> None:
        super().__init__(first.config, first.dictionary, first.symbol)
        self.first = first
        self.model = model
        self._unit_case = unit_case(first.dictionary, model)
        self._word_case = str if self._unit_case else self._choose_word_case()

    def reweighed(self, config: DecoderConfig) -> RescoringDecoder:
        other = copy.copy(self)
        other.config, other.first = config, self.first.reweighed(config)
        return other

    def decode(self, log_probs: Tensor, lengths: Tensor) -> list[list[Hypothesis]]:
        found = self.first.decode(log_probs, lengths)
        sentences = [self._sentence(hypothesis) for hypotheses in found for hypothesis in hypotheses]
        # Hypotheses that differ only in where their symbols lie are one sentence.
        places = {sentence: place for place, sentence in enumerate(dict.fromkeys(sentences))}
        scores = self.model.sentence_scores(list(places))
        self.model.forget()
        rows = iter(scores[[places[sentence] for sentence in sentences]].tolist())
        rescored = [[self._rescored(hypothesis, next(rows)) for hypothesis in hypotheses] for hypotheses in found]
        return [sorted(hypotheses, key=lambda hypothesis: -hypothesis.score) for hypotheses in rescored]

    def _rescored(self, hypothesis: Hypothesis, log_prob: float) -> Hypothesis:
        config = self.config
        score = hypothesis.score + config.rescore_weight * log_prob + config.rescore_word_score * len(hypothesis.words)
        if config.rescore_replaces_lm:
            score -= config.lm_weight * hypothesis.scores.get("lm", 0.0)
        return replace(hypothesis, score=score, scores={**hypothesis.scores, "rescore": log_prob})

    def _sentence(self, hypothesis: Hypothesis) -> tuple[str, ...]:
        """Return the words, or the units, as the model writes them."""
        if self._unit_case is None:
            return tuple(map(self._word_case, hypothesis.words))
        units = [self.dictionary.symbols[token] for token in hypothesis.tokens]
        if WORD_END not in self.dictionary.symbols:
            return tuple(map(self._unit_case, units))
        # As in label files: no silence in front, one after each word.
        words = (list(word) for is_end, word in groupby(units, key=WORD_END.__eq__) if not is_end)
        return tuple(self._unit_case(unit) for word in words for unit in [*word, WORD_END])

    def _choose_word_case(self) -> Case:
        words = self._first_words()
        if not words:  # a KenLM binary that does not list them, and any word may be found
            return str
        choice = choose_case(words, self.model.contains)
        if choice.share < LOWEST_COVERAGE:
            missing = next(word for word in words if not self.model.contains(choice.case(word)))
            raise ConfigError(
                f"--rescore-lm {self.model.path} does not fit: only {choice.share:.0%} of the lexicon's words are in "
                f"it ({missing!r} is not)"
            )
        logger.info("%s holds %.0f %% of the words%s", self.model.path, 100 * choice.share, choice.note)
        return choice.case

    def _first_words(self) -> Sequence[str]:
        """Return words that the first decoder can find: its lexicon's, else the model's as the labels write them."""
        if isinstance(self.first, BeamDecoder) and self.first.space.words:
            return [word for word in self.first.space.words if word != UNKNOWN]
        words = self.model.words or []
        letters = frozenset("".join(self.dictionary.symbols[len(SPECIALS) :]))
        fitting = choose_case(words, letters.issuperset)
        if words and fitting.share < LOWEST_COVERAGE:
            bad = next(word for word in words if not letters.issuperset(fitting.case(word)))
            raise ConfigError(
                f"--rescore-lm {self.model.path} does not fit: only {fitting.share:.0%} of its words can be spelled "
                f"with the dictionary ({bad!r} cannot)"
            )
        return [word for word in map(fitting.case, words) if letters.issuperset(word)]
