"""The decoder that flags ask for, with a rescoring model around it where there is one."""

from __future__ import annotations

from w2v.data.dictionary import Dictionary
from w2v.decoders.base import DECODERS, Decoder, DecoderConfig, OpenLanguageModel
from w2v.decoders.rescoring import RescoringDecoder
from w2v.lm.ngram_model import open_ngram_model


def build_decoder(
    config: DecoderConfig,
    dictionary: Dictionary,
    symbol: str | None = "letter",
    language_model: OpenLanguageModel = open_ngram_model,
) -> Decoder:
    """Build the decoder that `config.w2l_decoder` names.

    Args:
        config: the options.
        dictionary: the labels.
        symbol: `--post-process`.
        language_model: opens the models of `fairseqlm` and `--rescore-lm`; by itself the decoder opens n-gram models.

    Raises:
        RegistryError: no such decoder.
        ConfigError: a file is missing, or does not fit the dictionary.
        DataError: a file is malformed.
        MissingPackageError: the decoder needs a package that is not installed.
    """
    kind = DECODERS.get(config.w2l_decoder).cls
    more = {"language_model": language_model} if kind.needs_language_model else {}
    decoder = kind(config, dictionary, symbol, **more)
    if config.rescore_lm is None:
        return decoder
    return RescoringDecoder(decoder, language_model(config.rescore_lm))
