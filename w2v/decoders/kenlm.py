"""Beam search with an n-gram model (`--w2l-decoder kenlm`).

Our own search where numba compiles it; else flashlight-text's, where that is installed; else our own in numpy. Only
flashlight-text and kenlm read KenLM's binaries.

With a model over words the search is bound to a lexicon; with a model over units it is free.
"""

from __future__ import annotations

import logging

from w2v.data.dictionary import Dictionary
from w2v.decoders import compiled_search
from w2v.decoders.base import DecoderConfig, register_decoder
from w2v.decoders.beam_decoder import BeamDecoder, build_search, model_path
from w2v.decoders.beam_search import SearchOptions
from w2v.decoders.flashlight_search import FlashlightSearch, ModelWords, import_flashlight
from w2v.decoders.search_space import plan_search
from w2v.lm.ngram_model import open_ngram_model
from w2v.lm.vocabulary import is_binary

logger = logging.getLogger(__name__)


@register_decoder("kenlm", DecoderConfig)
class KenlmDecoder(BeamDecoder):
    """Lexicon or lexicon-free beam search with an n-gram model; scores are to base 10.

    Raises:
        ConfigError: `--lm-model` or a file is missing; lexicon, language model and dictionary do not fit.
        DataError: a file is malformed.
        MissingPackageError: the model is a KenLM binary, and neither ufal-flashlight-text nor ufal-kenlm is installed.
    """

    def __init__(self, config: DecoderConfig, dictionary: Dictionary, symbol: str | None = "letter") -> None:
        super().__init__(config, dictionary, symbol)
        path = model_path(config, "an ARPA file or a KenLM binary")
        options = SearchOptions.from_config(config)
        is_compiled = compiled_search.is_installed() and _is_arpa(path)
        flashlight = None if is_compiled else import_flashlight()
        if flashlight is not None:
            self.space = plan_search(config, dictionary, ModelWords(path))
            self.search = FlashlightSearch(flashlight, options, path, self.space)
        else:
            if not is_compiled:
                logger.info("flashlight-text is not installed: w2v's own beam search takes its place")
            model = open_ngram_model(path, "--lm-model")
            self.space = plan_search(config, dictionary, model)
            self.search = build_search(options, model, self.space)


def _is_arpa(path: str) -> bool:
    try:
        return not is_binary(path)
    except OSError:
        return False  # whichever search opens it says what is wrong
