"""RoBERTa over discrete tokens of speech (Liu et al. 2019; on the codes of vq-wav2vec: Baevski et al. 2019b).

It learns tokens that were hidden from it (`--task masked_lm`). Its contexts are features of speech
(`w2v-featurize --bert`), and an encoder that is fine-tuned with CTC (`discrete_bert.py`).
"""

from __future__ import annotations

import dataclasses
import logging
import math
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from w2v.config import arg, check_range
from w2v.errors import ConfigError
from w2v.models.base import W2vModel, register_model, register_model_architecture
from w2v.modules.sentence_encoder import MaskedTokenEncoder, SentenceSpec
from w2v.modules.transformer_layer import ACTIVATIONS
from w2v.types import LanguageModelOutput

logger = logging.getLogger(__name__)

_AT_DEFAULT = "accepted at its default"
_HEADS_ONLY = "accepted; it is for classification heads, which are not trained here"


@dataclass(frozen=True)
class RobertaConfig:
    """Options of the model; names and defaults are the original's."""

    encoder_layers: int = arg(12, help="number of blocks")
    encoder_embed_dim: int = arg(768, help="width of the blocks")
    encoder_ffn_embed_dim: int = arg(3072, help="width inside feed-forward layers")
    encoder_attention_heads: int = arg(12, help="attention heads per block")
    activation_fn: str = arg("gelu", help="activation inside feed-forward layers and head", choices=tuple(ACTIVATIONS))
    dropout: float = arg(0.1, help="dropout after embeddings, attention and feed-forward")
    attention_dropout: float = arg(0.1, help="dropout on attention weights")
    activation_dropout: float = arg(0.0, help="dropout inside feed-forward layers", aliases=("--relu-dropout",))
    encoder_layerdrop: float = arg(0.0, help="probability of skipping a block in an update")
    max_positions: int | None = arg(
        None, help="most tokens of an item, <s> and </s> counted; longer ones are left out (default: the task's)"
    )
    encoder_normalize_before: bool = arg(
        False,
        help="norms before attention and feed-forward, one after the last block (ignored by the original of 2020)",
    )
    layernorm_embedding: bool = arg(True, help="a norm after the embeddings; always on")
    untie_weights_roberta: bool = arg(False, help="the head has an output matrix of its own")
    checkpoint_activations: bool = arg(False, help="store less for the backward pass, and compute it again")
    pooler_activation_fn: str = arg("tanh", help=_HEADS_ONLY, choices=tuple(ACTIVATIONS))
    pooler_dropout: float = arg(0.0, help=_HEADS_ONLY)
    load_checkpoint_heads: bool = arg(False, help=_HEADS_ONLY)
    spectral_norm_classification_head: bool = arg(False, help=_AT_DEFAULT)
    encoder_layers_to_keep: str | None = arg(None, help=_AT_DEFAULT)
    quant_noise_pq: float = arg(0.0, help=_AT_DEFAULT)
    quant_noise_pq_block_size: int = arg(8, help=_AT_DEFAULT)
    quant_noise_scalar: float = arg(0.0, help=_AT_DEFAULT)
    min_params_to_wrap: int = arg(100_000_000, help=_AT_DEFAULT)
    mha_reg_scale_factor: float = arg(0.0, help=_AT_DEFAULT)
    ffn_reg_scale_factor: float = arg(0.0, help=_AT_DEFAULT)
    mha_heads_to_keep: int = arg(-1, help=_AT_DEFAULT)
    ffn_blocks_to_remove: int = arg(-1, help=_AT_DEFAULT)

    def __post_init__(self) -> None:
        check_range(
            self, 0, 1, "dropout", "attention_dropout", "activation_dropout", "encoder_layerdrop", "pooler_dropout"
        )
        check_range(
            self, 1, math.inf, "encoder_layers", "encoder_embed_dim", "encoder_ffn_embed_dim",
            "encoder_attention_heads", "max_positions",
        )  # fmt: skip
        if self.encoder_embed_dim % self.encoder_attention_heads:
            raise ConfigError(
                f"--encoder-attention-heads must divide --encoder-embed-dim {self.encoder_embed_dim}, "
                f"got {self.encoder_attention_heads}"
            )
        for item in dataclasses.fields(self):
            value = getattr(self, item.name)
            if item.metadata["help"] == _AT_DEFAULT and value != item.default:
                flag = "--" + item.name.replace("_", "-")
                raise ConfigError(f"{flag} {value} is not supported; leave it out, its default is {item.default}")
        if not self.layernorm_embedding:
            raise ConfigError("--no-layernorm-embedding is not supported: the embeddings always have their norm")

    def encoder(self, num_tokens: int, pad: int, max_positions: int) -> SentenceSpec:
        """Return the sizes of the encoder for a vocabulary."""
        return SentenceSpec(
            layers=self.encoder_layers,
            embed_dim=self.encoder_embed_dim,
            ffn_embed_dim=self.encoder_ffn_embed_dim,
            attention_heads=self.encoder_attention_heads,
            activation_fn=self.activation_fn,
            dropout=self.dropout,
            attention_dropout=self.attention_dropout,
            activation_dropout=self.activation_dropout,
            layer_norm_first=self.encoder_normalize_before,
            layerdrop=self.encoder_layerdrop,
            num_tokens=num_tokens,
            pad=pad,
            max_positions=max_positions,
            share_embeddings=not self.untie_weights_roberta,
            checkpoint_activations=self.checkpoint_activations,
        )


@register_model("roberta", RobertaConfig)
class RobertaModel(W2vModel):
    """Masked language model.

    Args:
        config: the options; `max_positions` is given.
        num_words: V, the size of the dictionary with `<mask>`.
        pad: the token that stands for padding.
    """

    reads = "masked text"

    def __init__(self, config: RobertaConfig, num_words: int, pad: int) -> None:
        super().__init__()
        assert config.max_positions is not None
        self.config = config
        self.num_words = num_words
        self.pad = pad
        self.max_positions: int = config.max_positions
        self.encoder = MaskedTokenEncoder(config.encoder(num_words, pad, config.max_positions))

    @classmethod
    def build(cls, config: Any, **context: Any) -> RobertaModel:
        """Build the model from its config and `num_words`, `pad` and `max_positions`, what the task takes for it.

        Raises:
            ConfigError: the task has no dictionary of tokens.
        """
        if "num_words" not in context:
            raise ConfigError("--arch roberta_base needs --task masked_lm")
        completed = dataclasses.replace(config, max_positions=config.max_positions or context["max_positions"])
        return cls(completed, context["num_words"], context["pad"])

    def set_num_updates(self, num_updates: int) -> None:
        self.encoder.sentence_encoder.set_num_updates(num_updates)

    def forward(self, source: Tensor, lengths: Tensor, seed: int, targets: Tensor) -> LanguageModelOutput:
        """Return how likely the hidden tokens are; only these go through the head.

        Args:
            source: (B, T) tokens, some of them hidden.
            lengths: (B,) int64 true tokens per row; CPU.
            seed: not used; dropout has torch's own.
            targets: (B, T) the token where it is to be predicted, else `pad`; CPU.
        """
        contexts, _ = self.encode(source, lengths)
        # (N,) on the host, where targets are: selecting waits for no device. N may be 0: gradients are zeros then.
        wanted = targets.flatten()
        chosen = (wanted != self.pad).nonzero().squeeze(1)
        # (B, T, C) -> (N, C)
        hidden = contexts.flatten(0, 1)[chosen.to(source.device, non_blocking=True)]
        answers = wanted[chosen].to(source.device, non_blocking=True)
        return LanguageModelOutput(self.encoder.log_likelihood(hidden, answers))

    def encode(
        self, tokens: Tensor, lengths: Tensor, *, with_layers: bool = False, last: int | None = None
    ) -> tuple[Tensor, list[Tensor]]:
        """Return (B, T, C) contexts, and L + 1 states if asked for; arguments as in `SentenceEncoder.forward`.

        Raises:
            DataError: a row is longer than the table of positions.
        """
        found: tuple[Tensor, list[Tensor]] = self.encoder.sentence_encoder(
            tokens, lengths, with_layers=with_layers, last=last
        )
        return found


@register_model_architecture("roberta", "roberta_base")
def roberta_base() -> dict[str, Any]:
    """Return the sizes of the published model on k-means codes."""
    return {
        "encoder_layers": 12,
        "encoder_embed_dim": 768,
        "encoder_ffn_embed_dim": 3072,
        "encoder_attention_heads": 12,
    }


@register_model_architecture("roberta", "roberta_large")
def roberta_large() -> dict[str, Any]:
    """Return the larger sizes."""
    return {
        "encoder_layers": 24,
        "encoder_embed_dim": 1024,
        "encoder_ffn_embed_dim": 4096,
        "encoder_attention_heads": 16,
    }
