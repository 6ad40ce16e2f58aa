"""What every decoder offers, and the registry behind `--w2l-decoder`.

A decoder gets log-probabilities and gives back hypotheses. It knows nothing of models, audio or references.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar

from torch import Tensor

from w2v.config import build_config
from w2v.config.decoding import DecoderConfig as DecoderConfig
from w2v.data.dictionary import Dictionary
from w2v.data.post_process import post_process
from w2v.lm.language_model import LanguageModel
from w2v.registry import Registry
from w2v.types import Hypothesis


def wer_args_config(wer_args: tuple[str, str | None, float, float], num_symbols: int) -> DecoderConfig:
    """Return the options of `--wer-args`, beam search during validation, as in the original.

    Args:
        wer_args: language model, lexicon or None, LM weight, word score.
        num_symbols: size of the label dictionary.

    Raises:
        ConfigError: a weight that is no number.
    """
    model, lexicon, lm_weight, word_score = wer_args
    return build_config(
        DecoderConfig,
        dict(
            w2l_decoder="kenlm",
            kenlm_model=model,
            lexicon=lexicon,
            lm_weight=lm_weight,
            word_score=word_score,
            beam=50,
            beam_size_token=min(50, num_symbols),
            beam_threshold=min(50, num_symbols),
        ),
        "--wer-args",
    )


OpenLanguageModel = Callable[[str], LanguageModel]
"""Opens a language model of any kind; `w2v.inference.load.load_language_model` is such."""


class Decoder:
    """Base class of decoders.

    Args:
        config: the options.
        dictionary: the labels that the columns of the log-probabilities stand for; the blank is column 0.
        symbol: `--post-process`, for decoders whose words come from the labels.

    Attributes:
        needs_language_model: the class takes one more argument, an `OpenLanguageModel`.
    """

    needs_language_model: ClassVar[bool] = False

    def __init__(self, config: DecoderConfig, dictionary: Dictionary, symbol: str | None = "letter") -> None:
        self.config = config
        self.dictionary = dictionary
        self.symbol = symbol

    def reweighed(self, config: DecoderConfig) -> Decoder:
        """Return a decoder with the options of `config`, which differ in weights alone.

        By default it is built anew; decoders that open files share them instead.
        """
        return type(self)(config, self.dictionary, self.symbol)

    def decode(self, log_probs: Tensor, lengths: Tensor) -> list[list[Hypothesis]]:
        """Return the hypotheses of each clip, best first: at most `nbest`, at least one.

        Args:
            log_probs: (B, T, V) float32 log-probabilities on the CPU.
            lengths: (B,) true frames per clip; frames beyond are never read.
        """
        raise NotImplementedError

    def words(self, tokens: list[int]) -> list[str]:
        """Return the words that labels spell."""
        return post_process(self.dictionary.string(tokens), self.symbol).split()


DECODERS: Registry[Decoder] = Registry("decoder", "--w2l-decoder", Decoder)
register_decoder = DECODERS.register
