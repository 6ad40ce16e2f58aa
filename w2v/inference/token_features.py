"""A quantizer and a masked language model on its tokens, as one model of audio."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from w2v.errors import ConfigError
from w2v.inference.encode import NO_QUANTIZER
from w2v.inference.load import LoadedModel
from w2v.models.roberta import RobertaModel
from w2v.models.token_features import TokenFeatures, TokenReader, token_table


def token_features(quantizer: LoadedModel, bert: LoadedModel, *, with_ends: bool = True) -> LoadedModel:
    """Return a model whose layers are those of the masked model, from `0` on; audio is read as the quantizer does.

    Args:
        quantizer: a vq-wav2vec, or another model with a codebook.
        bert: a masked language model that was trained on its tokens.
        with_ends: read tokens between `<s>` and `</s>`, as in training.

    Raises:
        ConfigError: one of the two is of another kind, or the tokens are no codes of this quantizer.
    """
    if not isinstance(bert.model, RobertaModel):
        raise ConfigError(f"--bert {bert.path} holds a {type(bert.model).__name__}; it must be a masked language model")
    if quantizer.model.codebook_size == (0, 0):
        raise ConfigError(NO_QUANTIZER)
    task: Any = bert.task
    reader = TokenReader(quantizer.model, token_table(task.dictionary.symbols, quantizer.model.codebook_size))
    model = TokenFeatures(reader, bert.model.encoder.sentence_encoder, with_ends=with_ends)
    return replace(quantizer, model=model.eval())
