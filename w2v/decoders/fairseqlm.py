"""Beam search with a Transformer language model fused in (`--w2l-decoder fairseqlm`).

The Transformer is asked for all hypotheses of all clips at once, and computes every prefix once.
"""

from __future__ import annotations

from w2v.data.dictionary import Dictionary
from w2v.decoders.base import DecoderConfig, OpenLanguageModel, register_decoder
from w2v.decoders.beam_decoder import BeamDecoder, build_search, model_path
from w2v.decoders.beam_search import SearchOptions
from w2v.decoders.search_space import plan_search
from w2v.lm.ngram_model import open_ngram_model


@register_decoder("fairseqlm", DecoderConfig)
class FairseqLmDecoder(BeamDecoder):
    """Lexicon or lexicon-free beam search with a neural language model; scores are natural logarithms.

    Differs from the original: no GPU is needed, the lexicon may be left out with a model over words, too, and the
    model's dictionary is read from the checkpoint where it holds one.

    Args:
        config: the options.
        dictionary: the labels.
        symbol: `--post-process`.
        language_model: opens `--lm-model`.

    Raises:
        ConfigError: `--lm-model` or a file is missing; lexicon, language model and dictionary do not fit.
        DataError: a file is malformed.
    """

    needs_language_model = True

    def __init__(
        self,
        config: DecoderConfig,
        dictionary: Dictionary,
        symbol: str | None = "letter",
        language_model: OpenLanguageModel = open_ngram_model,
    ) -> None:
        super().__init__(config, dictionary, symbol)
        model = language_model(model_path(config, "the checkpoint of a language model"))
        self.space = plan_search(config, dictionary, model)
        self.search = build_search(SearchOptions.from_config(config), model, self.space)
