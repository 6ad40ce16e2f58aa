"""Discrete BERT: fine-tuning for CTC on tokens of speech (Baevski, Auli, Mohamed 2019, arXiv 1911.03912).

A fixed quantizer turns audio into tokens, a masked language model reads them, one linear layer writes symbols.
Positions are learned, as in the released masked models; the paper's are a convolution.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from w2v.config import build_config, to_plain
from w2v.data.dictionary import Dictionary
from w2v.errors import ConfigError
from w2v.functional.conv_spec import receptive_field
from w2v.functional.dropout import dropout
from w2v.functional.masking import MaskSpec, sample_mask
from w2v.models.base import CONTEXT, MODELS, W2vModel, draw_seed, load_pretrained
from w2v.models.freezing import Freezing
from w2v.models.roberta import RobertaConfig
from w2v.models.token_features import TokenReader, read_tokens, token_table
from w2v.modules.sentence_encoder import SentenceEncoder
from w2v.rng import numpy_generator
from w2v.types import BoolArray, CtcOutput

BERT_PREFIX = "encoder.sentence_encoder."
NUM_TOKENS = "_num_tokens"
"""Key of the masked model's options that holds the size of its dictionary."""


class _TokenCtcEncoder(nn.Module):
    """The masked model and the output layer."""

    def __init__(self, encoder: SentenceEncoder, num_classes: int) -> None:
        super().__init__()
        self.sentence_encoder = encoder
        self.proj = nn.Linear(encoder.spec.embed_dim, num_classes)
        nn.init.xavier_uniform_(self.proj.weight)
        nn.init.zeros_(self.proj.bias)


class DiscreteBertCtc(W2vModel):
    """Quantizer, masked model and output layer.

    Args:
        config: the options of `--arch wav2vec_ctc`, with `w2v_args` and `bert_args` filled in.
        reader: from audio to tokens.
        encoder: the masked model.
        num_classes: symbols V, blank included.
    """

    def __init__(self, config: Any, reader: TokenReader, encoder: SentenceEncoder, num_classes: int) -> None:
        super().__init__()
        self.config = config
        self.conv_layers = reader.quantizer.conv_layers
        self.shortest_clip = receptive_field(self.conv_layers)
        self.layers = (*map(str, range(len(encoder.layers) + 1)), CONTEXT)
        self.reader = reader
        self.w2v_encoder = _TokenCtcEncoder(encoder, num_classes)
        self._freezing = Freezing()
        self.set_num_updates(0)

    @classmethod
    def build(cls, config: Any, **context: Any) -> DiscreteBertCtc:
        """Build the model.

        Args:
            config: the options of `--arch wav2vec_ctc`; `w2v_args` and `bert_args` are those of quantizer and masked
                model, `_num_tokens` in the second the size of its dictionary.
            context: `num_classes`; `pretrained_state` and `bert_state`, tensors of the two, and `bert_symbols`, the
                tokens; without them weights are random and the table of tokens is empty, to be loaded.

        Raises:
            ConfigError: the two models do not go together.
            CheckpointError: the tensors do not fit the options.
        """
        quantizer = _quantizer(config.w2v_args or {}, context.get("pretrained_state"))
        values = dict(config.bert_args or {})
        num_tokens = values.pop(NUM_TOKENS, None)
        if type(num_tokens) is not int or num_tokens < 1:
            raise ConfigError("--bert-args: lacks the size of the dictionary; give --bert-path")
        bert: Any = build_config(RobertaConfig, {**values, **_overrides(config)}, "--bert-args")
        encoder = SentenceEncoder(bert.encoder(num_tokens, Dictionary.pad, bert.max_positions or 512))
        groups, size = quantizer.codebook_size
        symbols = context.get("bert_symbols")
        table = (
            torch.zeros(size**groups, dtype=torch.int64) if symbols is None else token_table(symbols, (groups, size))
        )
        state = context.get("bert_state")
        if state is not None:
            own = {n.removeprefix(BERT_PREFIX): t for n, t in state.items() if n.startswith(BERT_PREFIX)}
            load_pretrained(encoder, own, "--bert-path")
        return cls(config, TokenReader(quantizer, table), encoder, context["num_classes"])

    def set_num_updates(self, num_updates: int) -> None:
        """Begin or end the freezing of the masked model, and pass on how many updates are done."""
        encoder = self.w2v_encoder.sentence_encoder
        encoder.set_num_updates(num_updates)
        self._freezing.until(self.config.freeze_finetune_updates, num_updates, encoder)

    def forward(
        self,
        source: Tensor,
        lengths: Tensor | None = None,
        seed: int | None = None,
        *,
        mask_indices: Tensor | None = None,
    ) -> CtcOutput:
        """Return scores of symbols per frame; spans of `<mask>` stand for tokens in training only.

        Args:
            source: (B, S) samples.
            lengths: (B,) int64 true samples per clip, CPU; None: no padding.
            seed: base of the masks; None: see `W2vModel`.
            mask_indices: (B, T) bool to use instead of drawing.
        """
        source, lengths = self.check_clips(source, lengths)
        seed = draw_seed(seed, training=self.training)
        tokens, frames = self.reader(source, lengths)
        if mask_indices is None and self.training and self.config.apply_mask and self.config.mask_prob > 0:
            mask_indices = torch.from_numpy(self.draw_masks(frames, tokens.shape[1], seed))
        return self.read(tokens, frames, mask_indices)

    def read(self, tokens: Tensor, frames: Tensor, mask_indices: Tensor | None = None) -> CtcOutput:
        """Return scores of symbols for the (B, T) tokens of clips of (B,) true frames; `mask_indices` are hidden."""
        if mask_indices is not None:
            # <mask> is the last token.
            mask = self.w2v_encoder.sentence_encoder.spec.num_tokens - 1
            tokens = tokens.masked_fill(mask_indices.to(tokens.device, non_blocking=True), mask)
        contexts = read_tokens(self.w2v_encoder.sentence_encoder, tokens, frames)[-1]
        # (B, T, C) -> (B, T, V)
        logits = self.w2v_encoder.proj(dropout(contexts, self.config.final_dropout, self.training))
        return CtcOutput(logits, frames)

    def draw_masks(self, frames: Tensor, size: int, seed: int) -> BoolArray:
        """Return (B, T) bool, spans of tokens to hide; they follow from the seed of the batch."""
        config = self.config
        spec = MaskSpec(
            config.mask_prob, config.mask_length, config.mask_selection, config.mask_other, config.no_mask_overlap
        )  # fmt: skip
        rng = numpy_generator(seed, "mask")
        hidden = np.zeros((len(frames), size), dtype=np.bool_)
        for row, length in enumerate(frames.tolist()):
            # Clip by clip: nothing here wants equal numbers of hidden tokens.
            hidden[row, :length] = sample_mask([length], length, spec, rng=rng)[0]
        return hidden

    def layer_frames(
        self, source: Tensor, lengths: Tensor | None, names: set[str]
    ) -> tuple[dict[str, Tensor], Tensor | None]:
        """Compute states of the masked model by number, and `c`, its contexts."""
        tokens, frames = self.reader(source, lengths)
        *states, contexts = read_tokens(self.w2v_encoder.sentence_encoder, tokens, frames)
        return {CONTEXT: contexts, **{str(number): state for number, state in enumerate(states)}}, frames


def bert_options(config: Any, num_tokens: int) -> dict[str, Any]:
    """Return the options of a masked model as a fine-tuned checkpoint keeps them."""
    return {**to_plain(config), NUM_TOKENS: num_tokens}


def _overrides(config: Any) -> dict[str, Any]:
    """Return the options that fine-tuning replaces."""
    names = ("dropout", "attention_dropout", "activation_dropout", "checkpoint_activations")
    return {**{name: getattr(config, name) for name in names}, "encoder_layerdrop": config.layerdrop}


def _quantizer(values: Mapping[str, Any], state: Mapping[str, Tensor] | None) -> W2vModel:
    name = values.get("_name", "wav2vec")
    entry = MODELS.get(name)
    if entry.cls.reads != "audio" or name == "wav2vec_ctc":
        raise ConfigError(f"--w2v-path: the model there is a {name}; --bert-path needs one that makes tokens")
    quantizer = entry.cls.build(build_config(entry.config, {**entry.overrides, **values}, "--w2v-args"))
    if quantizer.codebook_size == (0, 0):
        raise ConfigError("--w2v-path: the model there has no quantizer, and --bert-path reads tokens")
    if state is not None:
        load_pretrained(quantizer, state, "--w2v-path")
    return quantizer
