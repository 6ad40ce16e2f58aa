"""Context network: convolutional positions and transformer blocks (wav2vec 2.0, section 2).

Frames stay (B, T, C) throughout. `layer_norm_first` is the pre-norm variant of the large models.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from w2v.functional.dropout import dropout
from w2v.functional.padding import is_padded, padding_mask
from w2v.modules.autograd import checkpointed, with_zero_grads
from w2v.modules.positional_conv import PositionalConv
from w2v.modules.transformer_layer import StackSpec, TransformerLayer, kept_layers


@dataclass(frozen=True)
class TransformerSpec(StackSpec):
    """Sizes and rates of the context network; the options of the same names."""

    conv_pos: int
    conv_pos_groups: int
    checkpoint_activations: bool = False


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
        x = dropout(x, self.spec.dropout, self.training)
        layers = []
        for layer, is_kept in zip(self.layers, self._kept_layers(), strict=True):
            if is_kept:
                x = checkpointed(layer, x, attend_to, wanted=self.spec.checkpoint_activations)
            else:
                x = with_zero_grads(x, layer.parameters())
            if with_layers:
                layers.append(x)
        if self.spec.layer_norm_first:
            x = self.layer_norm(x)
        return x, layers

    def _kept_layers(self) -> list[bool]:
        return kept_layers(self.spec, self.num_updates, training=self.training)
