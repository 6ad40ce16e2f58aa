"""Transformer language model over words or letters (Vaswani et al. 2017; Baevski and Auli 2019 for adaptive inputs).

It learns the next word from the words before (`--task language_modeling`). As a scorer for decoding it is wrapped by
`w2v.lm.transformer_language_model`, which caches what was computed for a prefix.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from w2v.config import arg, check_range, int_tuple
from w2v.errors import ConfigError
from w2v.functional.padding import true_frames
from w2v.models.base import W2vModel, register_model, register_model_architecture
from w2v.modules.multihead_attention import Memory
from w2v.modules.transformer_decoder import DecoderSpec, TransformerDecoder
from w2v.modules.transformer_layer import ACTIVATIONS
from w2v.types import LanguageModelOutput


@dataclass(frozen=True)
class TransformerLmConfig:
    """Options of the language model; names and defaults are the original's."""

    activation_fn: str = arg("relu", help="activation inside feed-forward layers", choices=tuple(ACTIVATIONS))
    dropout: float = arg(0.1, help="dropout after embeddings, attention and feed-forward")
    attention_dropout: float = arg(0.0, help="dropout on attention weights")
    activation_dropout: float = arg(0.0, help="dropout inside feed-forward layers", aliases=("--relu-dropout",))
    decoder_embed_dim: int = arg(512, help="width of the blocks")
    decoder_output_dim: int | None = arg(None, help="width before the softmax (default: --decoder-embed-dim)")
    decoder_input_dim: int | None = arg(None, help="width of word vectors (default: --decoder-embed-dim)")
    decoder_ffn_embed_dim: int = arg(2048, help="width inside feed-forward layers")
    decoder_layers: int = arg(6, help="number of blocks")
    decoder_attention_heads: int = arg(8, help="attention heads per block")
    # Differs from the original's later versions, where the plain name leaves it out and does not train well.
    decoder_normalize_before: bool = arg(True, help="norms before attention and feed-forward, not after")
    no_decoder_final_norm: bool = arg(False, help="no norm after the last block")
    adaptive_softmax_cutoff: tuple[int, ...] | None = arg(
        None, help="words at which bands of the adaptive softmax end, such as 20000,60000", parse=int_tuple
    )
    adaptive_softmax_dropout: float = arg(0.0, help="dropout in the adaptive softmax")
    adaptive_softmax_factor: float = arg(4.0, help="how much narrower each band is than the one before")
    no_token_positional_embeddings: bool = arg(False, help="use no positions")
    share_decoder_input_output_embed: bool = arg(False, help="use the word vectors in the softmax, too")
    character_embeddings: bool = arg(False, help="not carried: train over letters instead (--unit letter)")
    adaptive_input: bool = arg(False, help="narrower word vectors for rarer words")
    adaptive_input_factor: float = arg(4.0, help="how much narrower each band is than the one before")
    adaptive_input_cutoff: tuple[int, ...] | None = arg(
        None, help="words at which bands of adaptive inputs end, such as 20000,60000", parse=int_tuple
    )
    tie_adaptive_weights: bool = arg(False, help="let the adaptive softmax use the adaptive inputs' word vectors")
    tie_adaptive_proj: bool = arg(False, help="and their projections")
    decoder_learned_pos: bool = arg(False, help="train the vectors of positions; otherwise they are sinusoids")
    decoder_layerdrop: float = arg(0.0, help="probability of skipping a block in an update")
    layernorm_embedding: bool = arg(False, help="a norm after the embeddings")
    no_scale_embedding: bool = arg(False, help="do not multiply word vectors by the root of their width")

    def __post_init__(self) -> None:
        check_range(
            self, 0, 1, "dropout", "attention_dropout", "activation_dropout", "adaptive_softmax_dropout",
            "decoder_layerdrop",
        )  # fmt: skip
        check_range(
            self, 1, math.inf, "decoder_output_dim", "decoder_input_dim", "decoder_ffn_embed_dim", "decoder_layers",
            "decoder_attention_heads", "adaptive_softmax_factor", "adaptive_input_factor",
        )  # fmt: skip
        check_range(self, 4, math.inf, "decoder_embed_dim")
        self._check()

    def _check(self) -> None:
        if self.character_embeddings:
            raise ConfigError("--character-embeddings is not carried; a model over letters: --unit letter")
        if self.decoder_embed_dim % self.decoder_attention_heads:
            raise ConfigError(
                f"--decoder-attention-heads must divide --decoder-embed-dim {self.decoder_embed_dim}, "
                f"got {self.decoder_attention_heads}"
            )
        if self.adaptive_input != bool(self.adaptive_input_cutoff):
            raise ConfigError("--adaptive-input and --adaptive-input-cutoff go together; give both or none")
        same = (self.adaptive_input_cutoff, self.adaptive_input_factor, self.input_dim)
        if self.tie_adaptive_weights and (
            not self.adaptive_input
            or same != (self.adaptive_softmax_cutoff, self.adaptive_softmax_factor, self.output_dim)
        ):
            raise ConfigError(
                "--tie-adaptive-weights needs --adaptive-input, and equal cutoffs, factors and widths of inputs and "
                "softmax"
            )
        if self.tie_adaptive_proj and not (self.tie_adaptive_weights and self.output_dim == self.decoder_embed_dim):
            raise ConfigError(
                "--tie-adaptive-proj needs --tie-adaptive-weights, and --decoder-output-dim as --decoder-embed-dim"
            )
        shared = self.share_decoder_input_output_embed and not self.adaptive_softmax_cutoff
        if shared and (self.adaptive_input or self.input_dim != self.output_dim):
            raise ConfigError(
                "--share-decoder-input-output-embed needs plain embeddings, and --decoder-input-dim as "
                "--decoder-output-dim"
            )

    @property
    def input_dim(self) -> int:
        """Width of word vectors."""
        return self.decoder_input_dim or self.decoder_embed_dim

    @property
    def output_dim(self) -> int:
        """Width of contexts before the softmax."""
        return self.decoder_output_dim or self.decoder_embed_dim

    def decoder(self, num_words: int, pad: int, max_positions: int) -> DecoderSpec:
        """Return the sizes of the decoder for a vocabulary."""
        return DecoderSpec(
            layers=self.decoder_layers,
            embed_dim=self.decoder_embed_dim,
            ffn_embed_dim=self.decoder_ffn_embed_dim,
            attention_heads=self.decoder_attention_heads,
            activation_fn=self.activation_fn,
            dropout=self.dropout,
            attention_dropout=self.attention_dropout,
            activation_dropout=self.activation_dropout,
            layer_norm_first=self.decoder_normalize_before,
            layerdrop=self.decoder_layerdrop,
            num_words=num_words,
            pad=pad,
            input_dim=self.input_dim,
            output_dim=self.output_dim,
            max_positions=max_positions,
            learned_positions=self.decoder_learned_pos,
            no_positions=self.no_token_positional_embeddings,
            scale_embedding=not self.no_scale_embedding,
            embedding_norm=self.layernorm_embedding,
            final_norm=not self.no_decoder_final_norm,
            share_embeddings=self.share_decoder_input_output_embed,
            input_cutoff=self.adaptive_input_cutoff or (),
            input_factor=self.adaptive_input_factor,
            softmax_cutoff=self.adaptive_softmax_cutoff or (),
            softmax_factor=self.adaptive_softmax_factor,
            softmax_dropout=self.adaptive_softmax_dropout,
            tie_weights=self.tie_adaptive_weights,
            tie_projections=self.tie_adaptive_proj,
        )


@register_model("transformer_lm", TransformerLmConfig)
class TransformerLm(W2vModel):
    """Language model.

    Args:
        config: the options.
        num_words: V, the size of the dictionary.
        pad: the word that stands for padding.
        max_positions: `--max-target-positions`, for learned positions.
    """

    reads = "text"

    def __init__(self, config: TransformerLmConfig, num_words: int, pad: int, max_positions: int) -> None:
        super().__init__()
        self.config = config
        self.num_words = num_words
        self.decoder = TransformerDecoder(config.decoder(num_words, pad, max_positions))

    @classmethod
    def build(cls, config: Any, **context: Any) -> TransformerLm:
        """Build the model from its config, `num_words`, `pad` and `max_positions`.

        Raises:
            ConfigError: the task has no dictionary of words.
        """
        if "num_words" not in context:
            raise ConfigError("--arch transformer_lm needs --task language_modeling")
        return cls(config, **context)

    def set_num_updates(self, num_updates: int) -> None:
        self.decoder.set_num_updates(num_updates)

    def forward(self, source: Tensor, lengths: Tensor, seed: int, targets: Tensor) -> LanguageModelOutput:
        """Return how likely the targets are; scores of all words are never kept for all positions.

        Args:
            source: (B, T) words.
            lengths: (B,) int64 true words per row; CPU.
            seed: not used; dropout has torch's own.
            targets: (B, T) the word after each; CPU.
        """
        return LanguageModelOutput(self.log_likelihood(source, lengths, targets))

    def log_likelihood(self, source: Tensor, lengths: Tensor, targets: Tensor) -> Tensor:
        """Return (N,) natural log-probabilities of the true targets, row after row; arguments as in `forward`."""
        # (B, T) words -> (B, T, C); causal, so padding on the right changes no true context
        contexts = self.decoder(source)
        # (N,) on the host, where lengths and targets are: selecting waits for no device.
        chosen = true_frames(lengths, source.shape[1])
        # (B, T, C) -> (N, C)
        contexts = contexts.flatten(0, 1)[chosen.to(source.device, non_blocking=True)]
        return self.decoder.softmax.log_likelihood(contexts, targets.flatten()[chosen])

    # ------------------------------------------------------------------------------------------ scoring

    def step(self, words: Tensor, positions: Tensor, memories: Sequence[Memory], attend_to: Tensor | None) -> Tensor:
        """Return (N, C) contexts after one more word each; arguments as in `TransformerDecoder.step`."""
        return self.decoder.step(words, positions, memories, attend_to)

    def log_probs(self, contexts: Tensor) -> Tensor:
        """Return (N, V) float32 natural log-probabilities of all next words, for (N, C) contexts."""
        return self.decoder.softmax.log_probs(contexts)

    def normalizers(self, contexts: Tensor) -> Tensor:
        """Return (N, K), what `pick` needs to know of each context."""
        return self.decoder.softmax.normalizers(contexts)

    def pick(self, contexts: Tensor, normalizers: Tensor, words: Tensor) -> Tensor:
        """Return (N,) natural log-probabilities of one next word per context."""
        return self.decoder.softmax.pick(contexts, normalizers, words)


_BIG = {
    "decoder_layers": 12,
    "decoder_embed_dim": 1024,
    "decoder_ffn_embed_dim": 4096,
    "decoder_attention_heads": 16,
}


@register_model_architecture("transformer_lm", "transformer_lm_big")
def transformer_lm_big() -> dict[str, Any]:
    """Return the larger sizes."""
    return _BIG


@register_model_architecture("transformer_lm", "transformer_lm_baevski_wiki103")
@register_model_architecture("transformer_lm", "transformer_lm_wiki103")
def transformer_lm_wiki103() -> dict[str, Any]:
    """Return what Baevski and Auli trained on WikiText-103."""
    return {
        **_BIG,
        "decoder_layers": 16,
        "decoder_attention_heads": 8,
        "dropout": 0.3,
        "attention_dropout": 0.1,
        "activation_dropout": 0.1,
        "adaptive_input": True,
        "adaptive_input_cutoff": (20000, 60000),
        "adaptive_softmax_cutoff": (20000, 60000),
        "adaptive_softmax_dropout": 0.2,
        "tie_adaptive_weights": True,
        "tie_adaptive_proj": True,
        "no_decoder_final_norm": True,
    }


@register_model_architecture("transformer_lm", "transformer_lm_baevski_gbw")
@register_model_architecture("transformer_lm", "transformer_lm_gbw")
def transformer_lm_gbw() -> dict[str, Any]:
    """Return what Baevski and Auli trained on the billion-word benchmark; its cutoffs are given as flags."""
    return {
        **_BIG,
        "decoder_embed_dim": 512,
        "dropout": 0.1,
        "attention_dropout": 0.1,
        "no_decoder_final_norm": True,
    }


def _gpt(layers: int, width: int, heads: int) -> dict[str, Any]:
    return {
        "decoder_layers": layers,
        "decoder_embed_dim": width,
        "decoder_ffn_embed_dim": 4 * width,
        "decoder_attention_heads": heads,
        "dropout": 0.1,
        "attention_dropout": 0.1,
        "activation_fn": "gelu",
    }


@register_model_architecture("transformer_lm", "transformer_lm_gpt")
def transformer_lm_gpt() -> dict[str, Any]:
    """Return the sizes of GPT."""
    return _gpt(12, 768, 12)


@register_model_architecture("transformer_lm", "transformer_lm_gpt2_small")
def transformer_lm_gpt2_small() -> dict[str, Any]:
    """Return the sizes that the original calls so."""
    return _gpt(24, 1024, 16)


@register_model_architecture("transformer_lm", "transformer_lm_gpt2_medium")
def transformer_lm_gpt2_medium() -> dict[str, Any]:
    """Return the sizes that the original calls so."""
    return _gpt(36, 1280, 20)


@register_model_architecture("transformer_lm", "transformer_lm_gpt2_big")
def transformer_lm_gpt2_big() -> dict[str, Any]:
    """Return the sizes that the original calls so."""
    return _gpt(48, 1600, 25)
