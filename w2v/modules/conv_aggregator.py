"""The causal convolutions of wav2vec 1 and vq-wav2vec that mix latent frames into a context.

wav2vec, Schneider et al. 2019, section 2.1 (context network), and the GRU that the original offers in its place.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from torch import Tensor, nn

from w2v.functional.conv_spec import ConvLayer
from w2v.functional.dropout import Dropout
from w2v.modules.norms import ACTIVATIONS, GroupNorm, NormedConv


class ConvAggregator(nn.Module):
    """Causal convolutions: frame t of the context sees latent frames up to t.

    Args:
        layers: (width, kernel, 1) of each convolution.
        input_dim: channels of the latent frames.
        dropout: after each convolution.
        skip_connections: add the input of each layer, through a 1x1 convolution where widths differ.
        residual_scale: such a sum is multiplied by the square root of this.
        affine: whether group norms have a gain and a bias.
        conv_bias: whether convolutions have a bias.
        zero_pad: pad on the left with zeros instead of copies of the first frame.
        activation: `relu` or `gelu`.
    """

    def __init__(
        self,
        layers: Sequence[ConvLayer],
        input_dim: int,
        *,
        dropout: float = 0.0,
        skip_connections: bool = False,
        residual_scale: float = 0.5,
        affine: bool = True,
        conv_bias: bool = True,
        zero_pad: bool = False,
        activation: str = "relu",
    ) -> None:
        super().__init__()
        self.skip_connections = skip_connections
        self.residual_scale = math.sqrt(residual_scale)
        self.conv_layers = nn.ModuleList()
        self.residual_proj = nn.ModuleList()
        for width, kernel, _ in layers:
            # kernel - 1 frames on the left alone: no frame of the future is seen.
            pad = nn.ConstantPad1d((kernel - 1, 0), 0.0) if zero_pad else nn.ReplicationPad1d((kernel - 1, 0))
            conv = nn.Conv1d(input_dim, width, kernel, bias=conv_bias)
            norm = GroupNorm(1, width, affine=affine)
            self.conv_layers.append(NormedConv(pad, conv, Dropout(dropout), norm, ACTIVATIONS[activation]()))
            needs_projection = skip_connections and input_dim != width
            self.residual_proj.append(nn.Conv1d(input_dim, width, 1, bias=False) if needs_projection else nn.Identity())
            input_dim = width

    def forward(self, features: Tensor, frames: Tensor | None = None) -> Tensor:
        """Return the context.

        Args:
            features: (B, C, T) latent frames.
            frames: (B,) int64 true frames per clip, on the CPU; None where no clip is padded.

        Returns:
            (B, C', T). Frames beyond a clip's own length are without meaning.
        """
        for layer, project in zip(self.conv_layers, self.residual_proj, strict=True):
            residual = features
            # (B, C, T) -> (B, C', T); T stays
            features = layer(features, frames)
            if self.skip_connections:
                features = (features + project(residual)) * self.residual_scale
        return features


class GruAggregator(nn.Sequential):
    """One unidirectional GRU layer over the latent frames (`--aggregator gru`).

    Args:
        input_dim: channels of the latent frames.
        dim: width of the context (`--gru-dim`).
    """

    def __init__(self, input_dim: int, dim: int) -> None:
        # Place 1 is part of the parameter names in checkpoints; 0 and 2 were transpositions.
        super().__init__(nn.Identity(), nn.GRU(input_dim, dim, batch_first=True), nn.Identity())

    def forward(self, features: Tensor, frames: Tensor | None = None) -> Tensor:
        """Return the context (B, dim, T) of latent frames (B, C, T). Causal, so padding on the right is harmless."""
        # (B, C, T) -> (B, T, C) -> (B, T, dim)
        context, _ = self[1](features.transpose(1, 2))
        context_first: Tensor = context.transpose(1, 2)
        return context_first
