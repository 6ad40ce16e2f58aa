"""The options of decoders. They stand here, below the decoders, so that a program's `--help` needs no torch."""

from __future__ import annotations

import math
from dataclasses import dataclass

from w2v.config import arg, check_range
from w2v.errors import ConfigError


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
        reads="file",
    )
    lexicon: str | None = arg(
        None, help="lines 'WORD W O R D |' (default: the model's words, spelled letter by letter)", reads="file"
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
    nbest: int = arg(1, help="hypotheses returned per clip; a search may find fewer")
    rescore_lm: str | None = arg(
        None,
        help="language model of any kind that puts the --nbest hypotheses into a new order",
        metavar="FILE",
        reads="file",
    )
    rescore_weight: float = arg(0.5, help="weight of its log-probability of the whole sentence")
    rescore_word_score: float = arg(0.0, help="added for each word when rescoring")
    rescore_replaces_lm: bool = arg(False, help="leave out the score of --lm-model when rescoring (default: keep it)")

    def __post_init__(self) -> None:
        check_range(self, 1, math.inf, "beam", "beam_size_token", "nbest")
        check_range(self, 0, math.inf, "beam_threshold")
        if self.rescore_lm is not None and (self.nbest < 2 or self.w2l_decoder == "viterbi"):
            raise ConfigError(
                "--rescore-lm chooses among hypotheses: give --nbest 50, say, and a beam search (--w2l-decoder kenlm)"
            )
        for name in ("lm_weight", "word_score", "sil_weight", "rescore_weight", "rescore_word_score"):
            if not math.isfinite(getattr(self, name)):
                raise ConfigError(f"--{name.replace('_', '-')} must be a finite number, got {getattr(self, name)}")
