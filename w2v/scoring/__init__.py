"""Scores of transcripts, found by `--scoring`. Importing this package registers the built-in ones."""

from w2v.scoring.base import SCORERS, Scorer, ScorerConfig, build_scorer, register_scorer
from w2v.scoring.bleu import BleuScorer
from w2v.scoring.ctc_errors import count_errors
from w2v.scoring.error_rate import CerScorer, WerScorer

__all__ = [
    "SCORERS",
    "BleuScorer",
    "CerScorer",
    "Scorer",
    "ScorerConfig",
    "WerScorer",
    "build_scorer",
    "count_errors",
    "register_scorer",
]
