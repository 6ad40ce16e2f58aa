"""Context network: convolutional positions and transformer blocks (wav2vec 2.0, section 2).

Frames stay (B, T, C) throughout. `layer_norm_first` is the pre-norm variant of the large models.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from w2v.functional.dropout import dropout
from w2v.functional.padding import is_padded, padding_mask
from w2v.modules.adapted_layer import AdaptedLayer
from w2v.modules.autograd import checkpointed, with_zero_grads
from w2v.modules.chunking import chunked
from w2v.modules.positional_conv import positional_convs
from w2v.modules.transformer_layer import BlockStack, StackSpec, TransformerLayer


@dataclass(frozen=True)
class TransformerSpec(StackSpec):
    """Sizes and rates of the context network; the options of the same names."""

    conv_pos: int
    conv_pos_groups: int
    pos_conv_depth: int = 1
    adapter_attn_dim: int = 0
    checkpoint_activations: bool = False


def _block(spec: TransformerSpec) -> TransformerLayer:
    return AdaptedLayer(spec, spec.adapter_attn_dim) if spec.adapter_attn_dim else TransformerLayer(spec)


class TransformerEncoder(BlockStack):
    """Positions, then blocks, with LayerDrop."""

    def __init__(self, spec: TransformerSpec) -> None:
        super().__init__(spec)
        self.spec = spec
        self.pos_conv = positional_convs(spec.embed_dim, spec.conv_pos, spec.conv_pos_groups, spec.pos_conv_depth)
        self.layers = nn.ModuleList(_block(spec) for _ in range(spec.layers))
        self.layer_norm = nn.LayerNorm(spec.embed_dim)
        for module in self.layers.modules():
            if isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, mean=0.0, std=0.02)
                nn.init.zeros_(module.bias)

    def forward(
        self, x: Tensor, lengths: Tensor | None, *, with_layers: bool = False, last: int | None = None
    ) -> tuple[Tensor, list[Tensor]]:
        """Return (B, T, C) contexts, and the output of each block if asked for.

        Args:
            x: (B, T, C) projected features.
            lengths: (B,) int64 valid frames per clip, CPU; None where all are valid.
            with_layers: keep what each block returns (before the last norm).
            last: compute only so many blocks; the contexts are then of no use.
        """
        # One draw for all parts of a batch: a part that is computed again in the backward pass must not draw anew.
        kept = self._kept_layers()[:last]
        if with_layers:
            layers: list[Tensor] = []
            return self._run(x, lengths, kept, layers), layers
        return chunked(lambda x, lengths: self._run(x, lengths, kept, None), x, lengths), []

    def _positions(self, x: Tensor, padding: Tensor | None) -> Tensor:
        """Return (B, T, C) positions; of several convolutions, none sees what another one makes of padding."""
        if self.spec.pos_conv_depth == 1 or padding is None:
            positions: Tensor = self.pos_conv(x)
            return positions
        for block in self.pos_conv:
            # Differs from data2vec, whose second convolution reads frames beyond the end of a clip.
            x = block(x).masked_fill(padding, 0.0)
        return x

    def _run(self, x: Tensor, lengths: Tensor | None, kept: Sequence[bool], layers: list[Tensor] | None) -> Tensor:
        """Return contexts of all blocks in `kept`; what each returns goes into `layers`, if there is such a list."""
        attend_to = padding = None
        if lengths is not None and is_padded(lengths, x.shape[1]):
            # (B, T) -> (B, T, 1): positions are a convolution, which must see zeros beyond the end of a clip
            padding = padding_mask(lengths, x.shape[1], x.device)[:, :, None]
            x = x.masked_fill(padding, 0.0)
            # (B, 1, 1, T). A clip without frames looks at one of padding: a softmax over nothing is nan.
            attend_to = ~padding_mask(lengths.clamp(min=1), x.shape[1], x.device)[:, None, None]
        x = x + self._positions(x, padding)
        if not self.spec.layer_norm_first:
            x = self.layer_norm(x)
        x = dropout(x, self.spec.dropout, self.training)
        for layer, is_kept in zip(self.layers, kept):
            if is_kept:
                x = checkpointed(layer, x, attend_to, wanted=self.spec.checkpoint_activations)
            else:
                # Or DistributedDataParallel would wait for the gradients of a block that did not run.
                x = with_zero_grads(x, layer.parameters())
            if layers is not None:
                layers.append(x)
        if self.spec.layer_norm_first:
            x = self.layer_norm(x)
        return x
