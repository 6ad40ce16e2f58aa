"""The stack of a masked language model: token and position vectors, blocks that look both ways, a head over tokens.

Devlin et al. 2019 in the form of RoBERTa (Liu et al. 2019): learned positions, post-norm blocks, no segments.
Parameter names are the original's (`encoder.sentence_encoder.layers.0.self_attn.k_proj.weight`, ...). A shared output
matrix exists once, under the name of the embeddings.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from w2v.errors import DataError
from w2v.functional.dropout import dropout
from w2v.functional.padding import is_padded
from w2v.modules.autograd import checkpointed, with_zero_grads
from w2v.modules.transformer_layer import ACTIVATIONS, BlockStack, StackSpec, TransformerLayer

STD = 0.02
"""Standard deviation of all weights at the start."""


@dataclass(frozen=True)
class SentenceSpec(StackSpec):
    """Sizes and rates of an encoder of tokens.

    Attributes:
        num_tokens: V, `<mask>` included.
        pad: the token that stands for padding. Positions are counted from the number after it, as in the original.
        max_positions: most tokens of an item.
        share_embeddings: the head uses the vectors of tokens.
    """

    num_tokens: int
    pad: int
    max_positions: int
    share_embeddings: bool = True
    checkpoint_activations: bool = False


class SentenceEncoder(BlockStack):
    """Contexts of tokens."""

    def __init__(self, spec: SentenceSpec) -> None:
        super().__init__(spec)
        self.spec = spec
        width = spec.embed_dim
        self.embed_tokens = nn.Embedding(spec.num_tokens, width, padding_idx=spec.pad)
        self.embed_positions = nn.Embedding(spec.max_positions + spec.pad + 1, width, padding_idx=spec.pad)
        self.layers = nn.ModuleList(TransformerLayer(spec) for _ in range(spec.layers))
        self.emb_layer_norm = nn.LayerNorm(width)
        self.layer_norm = nn.LayerNorm(width) if spec.layer_norm_first else None

    def forward(
        self, tokens: Tensor, lengths: Tensor, *, with_layers: bool = False, last: int | None = None
    ) -> tuple[Tensor, list[Tensor]]:
        """Return (B, T, C) contexts and, if asked for, L + 1 states: before the blocks, and after each.

        Args:
            tokens: (B, T), padded on the right with `spec.pad`.
            lengths: (B,) int64 true tokens per row, CPU.
            with_layers: keep the states.
            last: compute only so many blocks; the contexts are then of no use.

        Raises:
            DataError: a row is longer than the table of positions.
        """
        if tokens.shape[1] > self.spec.max_positions:
            raise DataError(
                f"{tokens.shape[1]} tokens, with <s> and </s>, are more than the {self.spec.max_positions} positions "
                "of the model (--max-positions)"
            )
        padding = tokens == self.spec.pad
        x = self._embed(tokens, ~padding)
        attend_to = None
        if is_padded(lengths, tokens.shape[1]):
            # (B, T) -> (B, T, 1): as in the original, padding enters the blocks as zeros
            x = x.masked_fill(padding[:, :, None], 0.0)
            attend_to = ~padding[:, None, None]  # (B, 1, 1, T)
        states = [x] if with_layers else []
        for layer, is_kept in zip(self.layers, self._kept_layers()[:last]):
            if is_kept:
                x = checkpointed(layer, x, attend_to, wanted=self.spec.checkpoint_activations)
            else:
                x = with_zero_grads(x, layer.parameters())
            if with_layers:
                states.append(x)
        return (x if self.layer_norm is None else self.layer_norm(x)), states

    def _embed(self, tokens: Tensor, is_token: Tensor) -> Tensor:
        # (B, T): pad + 1 for the first token of a row; padding has the row of zeros
        positions = is_token.cumsum(dim=1) * is_token + self.spec.pad
        # (B, T) -> (B, T, C)
        x: Tensor = self.emb_layer_norm(self.embed_tokens(tokens) + self.embed_positions(positions))
        return dropout(x, self.spec.dropout, self.training)


class TokenHead(nn.Module):
    """From contexts to scores of all tokens: a layer, its norm, and the vectors of tokens."""

    def __init__(self, spec: SentenceSpec) -> None:
        super().__init__()
        self.activation = ACTIVATIONS[spec.activation_fn]
        self.dense = nn.Linear(spec.embed_dim, spec.embed_dim)
        self.layer_norm = nn.LayerNorm(spec.embed_dim)
        self.weight = None
        if not spec.share_embeddings:
            # The original's: a linear layer as torch makes it, and not like all the others.
            self.weight = nn.Linear(spec.embed_dim, spec.num_tokens, bias=False).weight
        self.bias = nn.Parameter(torch.zeros(spec.num_tokens))

    def forward(self, contexts: Tensor, vectors: Tensor) -> Tensor:
        """Return (N, V) scores of (N, C) contexts; `vectors` (V, C) are those of tokens, used where they are shared."""
        hidden = self.layer_norm(self.activation(self.dense(contexts)))
        return F.linear(hidden, vectors if self.weight is None else self.weight, self.bias)


class MaskedTokenEncoder(nn.Module):
    """Encoder and head, under the original's names."""

    def __init__(self, spec: SentenceSpec) -> None:
        super().__init__()
        self.sentence_encoder = SentenceEncoder(spec)
        self.lm_head = TokenHead(spec)
        for module in [*self.sentence_encoder.modules(), self.lm_head.dense]:
            if isinstance(module, (nn.Linear, nn.Embedding)):
                nn.init.normal_(module.weight, mean=0.0, std=STD)
            if isinstance(module, nn.Linear):
                nn.init.zeros_(module.bias)
            if isinstance(module, nn.Embedding):
                nn.init.zeros_(module.weight[spec.pad])

    def scores(self, contexts: Tensor) -> Tensor:
        """Return (N, V) scores of tokens for (N, C) contexts."""
        scores: Tensor = self.lm_head(contexts, self.sentence_encoder.embed_tokens.weight)
        return scores

    def log_likelihood(self, contexts: Tensor, targets: Tensor) -> Tensor:
        """Return (N,) float32 natural log-probabilities of the (N,) targets."""
        return -F.cross_entropy(self.scores(contexts).float(), targets, reduction="none")
