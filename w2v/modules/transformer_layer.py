"""One transformer block, and which blocks LayerDrop leaves out; encoders and decoders are stacks of such blocks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from w2v.functional.dropout import dropout
from w2v.functional.gelu_linear import gelu_linear
from w2v.modules.bare import is_bare
from w2v.modules.multihead_attention import Memory, MultiheadAttention
from w2v.rng import numpy_generator


def _gelu_tanh(x: Tensor) -> Tensor:
    return F.gelu(x, approximate="tanh")


def _identity(x: Tensor) -> Tensor:
    return x


ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "gelu": F.gelu,
    "gelu_accurate": _gelu_tanh,
    "gelu_fast": _gelu_tanh,
    "linear": _identity,
    "relu": F.relu,
    "tanh": torch.tanh,
}


@dataclass(frozen=True)
class StackSpec:
    """Sizes and rates of a stack of blocks; the options of the same names."""

    layers: int
    embed_dim: int
    ffn_embed_dim: int
    attention_heads: int
    activation_fn: str
    dropout: float
    attention_dropout: float
    activation_dropout: float
    layer_norm_first: bool
    layerdrop: float


class TransformerLayer(nn.Module):
    """One block: attention and feed-forward, each with a residual and a norm before or after it."""

    def __init__(self, spec: StackSpec) -> None:
        super().__init__()
        self.spec = spec
        self.activation = ACTIVATIONS[spec.activation_fn]
        self.self_attn = MultiheadAttention(spec.embed_dim, spec.attention_heads, spec.attention_dropout)
        self.self_attn_layer_norm = nn.LayerNorm(spec.embed_dim)
        self.fc1 = nn.Linear(spec.embed_dim, spec.ffn_embed_dim)
        self.fc2 = nn.Linear(spec.ffn_embed_dim, spec.embed_dim)
        self.final_layer_norm = nn.LayerNorm(spec.embed_dim)

    def forward(
        self, x: Tensor, attend_to: Tensor | None, *, is_causal: bool = False, memory: Memory | None = None
    ) -> Tensor:
        """Return (B, T, C); arguments as in `MultiheadAttention.forward`."""
        if self.spec.layer_norm_first:
            # Pre-norm, of the large models: the residual path has no norm, and trains at any depth.
            x = x + self._attention(self.self_attn_layer_norm(x), attend_to, is_causal, memory)
            return x + self._feed_forward(self.final_layer_norm(x))
        # Post-norm, of the base model: the norm follows the sum, so residuals pass through every norm.
        x = self.self_attn_layer_norm(x + self._attention(x, attend_to, is_causal, memory))
        result: Tensor = self.final_layer_norm(x + self._feed_forward(x))
        return result

    def _attention(self, x: Tensor, attend_to: Tensor | None, is_causal: bool, memory: Memory | None) -> Tensor:
        x = self.self_attn(x, attend_to, is_causal=is_causal, memory=memory)
        return dropout(x, self.spec.dropout, self.training)

    def _feed_forward(self, x: Tensor) -> Tensor:
        # (B, T, C) -> (B, T, C'), four times as wide in the recipes
        x = self.fc1(x)
        activation_dropout = self.spec.activation_dropout if self.training else 0.0
        # (B, T, C') is the widest tensor of a block: here it is kept once for the backward pass instead of twice.
        if self.activation is F.gelu and activation_dropout == 0 and is_bare(self.fc2, nn.Linear):
            x = gelu_linear(x, self.fc2.weight, self.fc2.bias)
        else:
            x = self.fc2(dropout(self.activation(x), activation_dropout, self.training))
        return dropout(x, self.spec.dropout, self.training)


class BlockStack(nn.Module):
    """Blocks one after the other, some of which LayerDrop leaves out in training (Fan et al. 2020).

    Subclasses make `layers`, and go through them as `_kept_layers` says.

    Args:
        spec: `layerdrop` is the probability of leaving out a block.
    """

    layers: nn.ModuleList

    def __init__(self, spec: StackSpec) -> None:
        super().__init__()
        self.layerdrop = spec.layerdrop
        self._num_updates: int | None = None

    def set_num_updates(self, num_updates: int) -> None:
        """Let the draw follow from this count until the next call, or until `train` or `eval` is called.

        A training loop that tells it before every update leaves out the same blocks on all ranks and in all
        micro-batches of the update, and again after a restart.
        """
        self._num_updates = num_updates

    def train(self, mode: bool = True) -> BlockStack:
        """Set the mode as torch does, and forget the count: one told when a model was loaded says nothing of a loop."""
        self._num_updates = None
        return super().train(mode)

    def _kept_layers(self) -> list[bool]:
        """Draw the blocks of a forward pass: anew at each call where no count was told.

        Differs from the original, which draws from numpy's global generator, so that a resumed run drops other
        blocks.
        """
        number = len(self.layers)
        if not self.training or self.layerdrop == 0:
            return [True] * number
        # On the CPU both: the host must know which blocks to run, and would wait for a GPU's draw.
        if self._num_updates is None:
            draws = torch.rand(number).tolist()
        else:
            draws = numpy_generator("layerdrop", self._num_updates).random(number).tolist()
        return [draw > self.layerdrop for draw in draws]
