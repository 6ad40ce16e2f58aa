"""Decoders, found by `--w2l-decoder`. Importing this package registers the built-in ones."""

from w2v.decoders.base import DECODERS, Decoder, DecoderConfig, register_decoder, wer_args_config
from w2v.decoders.build import build_decoder
from w2v.decoders.fairseqlm import FairseqLmDecoder
from w2v.decoders.kenlm import KenlmDecoder
from w2v.decoders.rescoring import RescoringDecoder
from w2v.decoders.viterbi import ViterbiDecoder

__all__ = [
    "DECODERS",
    "Decoder",
    "DecoderConfig",
    "FairseqLmDecoder",
    "KenlmDecoder",
    "RescoringDecoder",
    "ViterbiDecoder",
    "build_decoder",
    "register_decoder",
    "wer_args_config",
]
