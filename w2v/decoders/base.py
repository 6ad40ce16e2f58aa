"""What every decoder offers, its options, and the registry behind `--w2l-decoder`.

A decoder gets log-probabilities and gives back readings. It knows nothing of models, audio or references.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from w2v.config import arg, build_config, check_range
from w2v.data.dictionary import Dictionary
from w2v.data.post_process import post_process
from w2v.errors import ConfigError
from w2v.lm.language_model import LanguageModel
from w2v.registry import Registry
from w2v.types import Hypothesis


@dataclass(frozen=True)
class DecoderConfig:
    """Options of all built-in decoders, under the names of the original's `infer.py`."""

    w2l_decoder: str = arg(
        "viterbi",
        help="viterbi: best symbol of each frame; kenlm: beam search with an n-gram model; fairseqlm: a neural one",
    )
    kenlm_model: str | None = arg(
        None,
        help="ARPA file or KenLM binary, or for fairseqlm a checkpoint; over words or units",
        aliases=("--lm-model",),
    )
    lexicon: str | None = arg(
        None, help="lines 'WORD W O R D |' (default: the model's words, spelled letter by letter)"
    )
    unit_lm: bool = arg(False, help="the language model is over units, not words (default: seen from its words)")
    # Differs from the original of October 2020, where another option group's default of 0 silently wins, so that a
    # language model has no effect until it is weighed; 0.2 is what its own group and all later versions say.
    lm_weight: float = arg(
        0.2, help="weight of the language model's log-probability: to base 10, or natural with fairseqlm"
    )
    word_score: float = arg(1.0, help="added for each word")
    unk_weight: float = arg(-math.inf, help="added for each word outside the lexicon; -inf: there are none")
    sil_weight: float = arg(0.0, help="added for each frame of silence (`|`)")
    beam: int = arg(5, help="hypotheses kept per frame")
    beam_threshold: float = arg(25.0, help="drop hypotheses whose score is this far below the best")
    beam_size_token: float = arg(100, help="symbols tried per frame and hypothesis")
    nbest: int = arg(1, help="readings returned per clip; a search may find fewer")
    rescore_lm: str | None = arg(
        None, help="language model of any kind that puts the --nbest readings into a new order", metavar="FILE"
    )
    rescore_weight: float = arg(0.5, help="weight of its log-probability of the whole sentence")
    rescore_word_score: float = arg(0.0, help="added for each word when rescoring")
    rescore_replaces_lm: bool = arg(False, help="leave out the score of --lm-model when rescoring (default: keep it)")

    def __post_init__(self) -> None:
        check_range(self, 1, math.inf, "beam", "beam_size_token", "nbest")
        check_range(self, 0, math.inf, "beam_threshold")
        if self.rescore_lm is not None and (self.nbest < 2 or self.w2l_decoder == "viterbi"):
            raise ConfigError(
                "--rescore-lm chooses among readings: give --nbest 50, say, and a beam search (--w2l-decoder kenlm)"
            )
        for name in ("lm_weight", "word_score", "sil_weight", "rescore_weight", "rescore_word_score"):
            if not math.isfinite(getattr(self, name)):
                raise ConfigError(f"--{name.replace('_', '-')} must be a finite number, got {getattr(self, name)}")


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

    def decode(self, log_probs: Tensor, lengths: Tensor) -> list[list[Hypothesis]]:
        """Return the readings of each clip, best first: at most `nbest`, at least one.

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
