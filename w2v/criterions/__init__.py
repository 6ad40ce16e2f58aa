"""Losses, found by `--criterion`. Importing this package registers the built-in ones."""

from w2v.criterions import cross_entropy as _cross_entropy
from w2v.criterions import ctc as _ctc
from w2v.criterions import hubert as _hubert
from w2v.criterions import masked_lm as _masked_lm
from w2v.criterions import wav2vec_criterion as _wav2vec_criterion
from w2v.criterions.base import CRITERIONS, Criterion, register_criterion

__all__ = ["CRITERIONS", "Criterion", "register_criterion"]

_BUILT_IN = (_cross_entropy, _ctc, _hubert, _masked_lm, _wav2vec_criterion)
