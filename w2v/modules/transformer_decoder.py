"""The stack of a Transformer language model: word vectors and positions, blocks that look back, one softmax.

Parameter names are the original's (`decoder.embed_tokens.weight`, `decoder.layers.0.self_attn.k_proj.weight`, ...).
Shared weights exist once: under the name of the embeddings.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from w2v.functional.dropout import dropout
from w2v.modules.adaptive_input import AdaptiveInput
from w2v.modules.adaptive_softmax import AdaptiveSoftmax
from w2v.modules.autograd import with_zero_grads
from w2v.modules.multihead_attention import Memory
from w2v.modules.transformer_layer import BlockStack, StackSpec, TransformerLayer
from w2v.modules.word_softmax import WordSoftmax


def sinusoid(positions: Tensor, dim: int) -> Tensor:
    """Return (..., dim) float32: sines in the first half, cosines in the second, a zero at the end if `dim` is odd.

    Differs from the paper, as fairseq does: frequencies end at exactly 1 / 10000, and sines and cosines do not
    alternate.

    Args:
        positions: (...) whole numbers.
        dim: width, at least 4.
    """
    half = dim // 2
    frequencies = torch.exp(torch.arange(half, device=positions.device) * (-math.log(10000) / (half - 1)))
    angles = positions.float().unsqueeze(-1) * frequencies
    parts = [angles.sin(), angles.cos()]
    if dim % 2:
        parts.append(torch.zeros_like(angles[..., :1]))
    return torch.cat(parts, dim=-1)


@dataclass(frozen=True)
class DecoderSpec(StackSpec):
    """Sizes and rates of a decoder.

    Attributes:
        num_words: V.
        pad: the word that stands for padding. Positions are counted from the number after it, as in the original.
        input_dim: width of word vectors.
        output_dim: width of contexts before the softmax.
        max_positions: largest number of words in a sample, for learned positions.
        learned_positions: train the vectors of positions; otherwise they are sinusoids.
        no_positions: use none.
        scale_embedding: multiply word vectors by the root of `embed_dim`.
        embedding_norm: a norm after words and positions.
        final_norm: a norm after the last block, where norms come first.
        share_embeddings: the softmax uses the word vectors.
        input_cutoff: bands of adaptive inputs; none: plain embeddings.
        input_factor: how much narrower each band is.
        softmax_cutoff: bands of the adaptive softmax; none: a plain one.
        softmax_factor: how much narrower each band is.
        softmax_dropout: dropout in the adaptive softmax.
        tie_weights: the adaptive softmax uses the vectors of the adaptive inputs.
        tie_projections: and their projections.
    """

    num_words: int
    pad: int
    input_dim: int
    output_dim: int
    max_positions: int
    learned_positions: bool = False
    no_positions: bool = False
    scale_embedding: bool = True
    embedding_norm: bool = False
    final_norm: bool = True
    share_embeddings: bool = False
    input_cutoff: tuple[int, ...] = ()
    input_factor: float = 4.0
    softmax_cutoff: tuple[int, ...] = ()
    softmax_factor: float = 4.0
    softmax_dropout: float = 0.0
    tie_weights: bool = False
    tie_projections: bool = False


class TransformerDecoder(BlockStack):
    """Contexts of words from the words before."""

    def __init__(self, spec: DecoderSpec) -> None:
        super().__init__(spec)
        self.spec = spec
        width = spec.embed_dim
        self.embed_scale = math.sqrt(width) if spec.scale_embedding else 1.0
        self.embed_tokens: nn.Embedding | AdaptiveInput
        if spec.input_cutoff:
            self.embed_tokens = AdaptiveInput(
                spec.num_words, spec.pad, spec.input_dim, width, spec.input_cutoff, spec.input_factor
            )
        else:
            self.embed_tokens = _embedding(spec.num_words, spec.input_dim, spec.pad)
        is_narrow = not spec.input_cutoff and spec.input_dim != width
        self.project_in_dim = nn.Linear(spec.input_dim, width, bias=False) if is_narrow else None
        learned = spec.learned_positions and not spec.no_positions
        self.embed_positions = _embedding(spec.max_positions + spec.pad + 1, width, spec.pad) if learned else None
        self.layernorm_embedding = nn.LayerNorm(width) if spec.embedding_norm else None
        self.layers = nn.ModuleList(_layer(spec) for _ in range(spec.layers))
        self.layer_norm = nn.LayerNorm(width) if spec.layer_norm_first and spec.final_norm else None
        is_projected = spec.output_dim != width and not spec.tie_weights
        self.project_out_dim = nn.Linear(width, spec.output_dim, bias=False) if is_projected else None
        self.output_projection: WordSoftmax | None = None
        self.adaptive_softmax: AdaptiveSoftmax | None = None
        self._build_softmax()
        for projection in (self.project_in_dim, self.project_out_dim):
            if projection is not None:
                nn.init.xavier_uniform_(projection.weight)

    def _build_softmax(self) -> None:
        spec, words = self.spec, self.embed_tokens
        if spec.softmax_cutoff:
            self.adaptive_softmax = AdaptiveSoftmax(
                spec.num_words,
                spec.output_dim,
                spec.softmax_cutoff,
                factor=spec.softmax_factor,
                dropout=spec.softmax_dropout,
                tied=words if spec.tie_weights and isinstance(words, AdaptiveInput) else None,
                tie_projections=spec.tie_projections,
            )
        else:
            tied = words if spec.share_embeddings and isinstance(words, nn.Embedding) else None
            self.output_projection = WordSoftmax(spec.num_words, spec.output_dim, tied)

    @property
    def softmax(self) -> WordSoftmax | AdaptiveSoftmax:
        """The output layer, of whichever kind."""
        softmax = self.adaptive_softmax or self.output_projection
        assert softmax is not None
        return softmax

    def forward(self, words: Tensor) -> Tensor:
        """Return (B, T, C) contexts: what is known after each word and those before it.

        Args:
            words: (B, T). Rows may be padded on the right: nothing before the padding looks at it.
        """
        x = self._embed(words, torch.arange(words.shape[1], device=words.device))
        for layer, is_kept in zip(self.layers, self._kept_layers(), strict=True):
            x = layer(x, None, is_causal=True) if is_kept else with_zero_grads(x, layer.parameters())
        return self._finish(x)

    def step(self, words: Tensor, positions: Tensor, memories: Sequence[Memory], attend_to: Tensor | None) -> Tensor:
        """Return (N, C) contexts after one more word each.

        Args:
            words: (N,) the new words.
            positions: (N,) how many words are before each.
            memories: per block, keys and values of the words before.
            attend_to: (N, 1, 1, T) bool, true where a row has a word; the new ones are last. None: everywhere.
        """
        # (N,) -> (N, 1, C): one new position; those before are in `memories`
        x = self._embed(words, positions).unsqueeze(1)
        for layer, memory in zip(self.layers, memories, strict=True):
            x = layer(x, attend_to, memory=memory)
        return self._finish(x).squeeze(1)

    def _embed(self, words: Tensor, positions: Tensor) -> Tensor:
        # (B, T) -> (B, T, C); scaled by the root of C, so that words are as loud as positions
        x: Tensor = self.embed_scale * self.embed_tokens(words)
        if self.project_in_dim is not None:
            x = self.project_in_dim(x)
        if self.embed_positions is not None:
            # Beyond what was trained, the last position stands for all that follow.
            x = x + self.embed_positions(positions.clamp(max=self.spec.max_positions - 1) + self.spec.pad + 1)
        elif not self.spec.no_positions:
            x = x + sinusoid(positions + self.spec.pad + 1, self.spec.embed_dim).to(x.dtype)
        if self.layernorm_embedding is not None:
            x = self.layernorm_embedding(x)
        return dropout(x, self.spec.dropout, self.training)

    def _finish(self, x: Tensor) -> Tensor:
        if self.layer_norm is not None:
            x = self.layer_norm(x)
        return x if self.project_out_dim is None else self.project_out_dim(x)


def _embedding(num_words: int, dim: int, pad: int) -> nn.Embedding:
    embedding = nn.Embedding(num_words, dim, padding_idx=pad)
    nn.init.normal_(embedding.weight, mean=0.0, std=dim**-0.5)
    nn.init.zeros_(embedding.weight[pad])
    return embedding


def _layer(spec: StackSpec) -> TransformerLayer:
    layer = TransformerLayer(spec)
    attention = layer.self_attn
    for projection in (attention.q_proj, attention.k_proj, attention.v_proj):
        nn.init.xavier_uniform_(projection.weight, gain=1 / math.sqrt(2))
    nn.init.xavier_uniform_(attention.out_proj.weight)
    nn.init.zeros_(attention.out_proj.bias)
    return layer
