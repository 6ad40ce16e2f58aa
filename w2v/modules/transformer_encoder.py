"""Context network: convolutional positions and transformer blocks (wav2vec 2.0, section 2).

Frames stay (B, T, C) throughout. `layer_norm_first` is the pre-norm variant of the large models.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from w2v.functional.padding import is_padded, padding_mask
from w2v.modules.multihead_attention import MultiheadAttention
from w2v.modules.positional_conv import PositionalConv
from w2v.modules.touch import touch
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
class TransformerSpec:
    """Sizes and rates of the context network; the options of the same names."""

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
    conv_pos: int
    conv_pos_groups: int


class TransformerLayer(nn.Module):
    """One block: attention and feed-forward, each with a residual and a norm before or after it."""

    def __init__(self, spec: TransformerSpec) -> None:
        super().__init__()
        self.spec = spec
        self.activation = ACTIVATIONS[spec.activation_fn]
        self.self_attn = MultiheadAttention(spec.embed_dim, spec.attention_heads, spec.attention_dropout)
        self.self_attn_layer_norm = nn.LayerNorm(spec.embed_dim)
        self.fc1 = nn.Linear(spec.embed_dim, spec.ffn_embed_dim)
        self.fc2 = nn.Linear(spec.ffn_embed_dim, spec.embed_dim)
        self.final_layer_norm = nn.LayerNorm(spec.embed_dim)

    def forward(self, x: Tensor, attend_to: Tensor | None) -> Tensor:
        """Return (B, T, C); arguments as in `MultiheadAttention.forward`."""
        if self.spec.layer_norm_first:
            x = x + self._attention(self.self_attn_layer_norm(x), attend_to)
            return x + self._feed_forward(self.final_layer_norm(x))
        x = self.self_attn_layer_norm(x + self._attention(x, attend_to))
        result: Tensor = self.final_layer_norm(x + self._feed_forward(x))
        return result

    def _attention(self, x: Tensor, attend_to: Tensor | None) -> Tensor:
        return F.dropout(self.self_attn(x, attend_to), self.spec.dropout, self.training)

    def _feed_forward(self, x: Tensor) -> Tensor:
        x = F.dropout(self.activation(self.fc1(x)), self.spec.activation_dropout, self.training)
        return F.dropout(self.fc2(x), self.spec.dropout, self.training)


class TransformerEncoder(nn.Module):
    """Positions, then blocks, with LayerDrop."""

    def __init__(self, spec: TransformerSpec) -> None:
        super().__init__()
        self.spec = spec
        self.num_updates = 0
        self.pos_conv = nn.Sequential(PositionalConv(spec.embed_dim, spec.conv_pos, spec.conv_pos_groups))
        self.layers = nn.ModuleList(TransformerLayer(spec) for _ in range(spec.layers))
        self.layer_norm = nn.LayerNorm(spec.embed_dim)
        for module in self.layers.modules():
            if isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, mean=0.0, std=0.02)
                nn.init.zeros_(module.bias)

    def set_num_updates(self, num_updates: int) -> None:
        """Choose which blocks LayerDrop leaves out from now on."""
        self.num_updates = num_updates

    def forward(self, x: Tensor, lengths: Tensor | None, *, with_layers: bool = False) -> tuple[Tensor, list[Tensor]]:
        """Return (B, T, C) contexts, and the output of each block if asked for.

        Args:
            x: (B, T, C) projected features.
            lengths: (B,) int64 valid frames per clip, CPU; None where all are valid.
            with_layers: keep what each block returns (before the last norm).
        """
        attend_to = None
        if lengths is not None and is_padded(lengths, x.shape[1]):
            x = x.masked_fill(padding_mask(lengths, x.shape[1], x.device)[:, :, None], 0.0)
            # A clip without frames looks at one of padding: a softmax over nothing is nan.
            attend_to = ~padding_mask(lengths.clamp(min=1), x.shape[1], x.device)[:, None, None]
        x = x + self.pos_conv(x)
        if not self.spec.layer_norm_first:
            x = self.layer_norm(x)
        x = F.dropout(x, self.spec.dropout, self.training)
        layers = []
        for layer, is_kept in zip(self.layers, self._kept_layers(), strict=True):
            x = layer(x, attend_to) if is_kept else touch(x, layer.parameters())
            if with_layers:
                layers.append(x)
        if self.spec.layer_norm_first:
            x = self.layer_norm(x)
        return x, layers

    def _kept_layers(self) -> list[bool]:
        """Draw the blocks of this update.

        Differs from the original, which draws from numpy's global generator, so that a resumed run drops other
        blocks. Here all ranks and micro-batches of an update drop the same ones, as its equally seeded ranks do.
        """
        if not self.training or self.spec.layerdrop == 0:
            return [True] * len(self.layers)
        draws = numpy_generator("layerdrop", self.num_updates).random(len(self.layers))
        return [bool(draw > self.spec.layerdrop) for draw in draws]
