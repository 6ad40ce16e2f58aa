"""Scores of transcripts, found by `--scoring`. Importing this package registers the built-in ones."""

from w2v.scoring.base import SCORERS, Scorer, ScorerConfig, build_scorer, register_scorer, score_by_group
from w2v.scoring.ctc_errors import count_errors
from w2v.scoring.error_rate import CerScorer, ErrorRateScorer, WerScorer
from w2v.scoring.translation_scores import BleuScorer, ChrfScorer, TerScorer

__all__ = [
    "SCORERS",
    "BleuScorer",
    "CerScorer",
    "ChrfScorer",
    "ErrorRateScorer",
    "Scorer",
    "ScorerConfig",
    "TerScorer",
    "WerScorer",
    "build_scorer",
    "count_errors",
    "register_scorer",
    "score_by_group",
]
