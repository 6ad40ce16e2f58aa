"""Models, found by `--arch`. Importing this package registers the built-in ones."""

from w2v.models import hubert as _hubert
from w2v.models import roberta as _roberta
from w2v.models import transformer_lm as _transformer_lm
from w2v.models import wav2vec as _wav2vec
from w2v.models import wav2vec2 as _wav2vec2
from w2v.models import wav2vec2_encoder as _wav2vec2_encoder
from w2v.models import wav2vec_ctc as _wav2vec_ctc
from w2v.models.base import MODELS, W2vModel, draw_seed, register_model, register_model_architecture

__all__ = ["MODELS", "W2vModel", "draw_seed", "register_model", "register_model_architecture"]

_BUILT_IN = (_hubert, _roberta, _transformer_lm, _wav2vec, _wav2vec2, _wav2vec2_encoder, _wav2vec_ctc)
