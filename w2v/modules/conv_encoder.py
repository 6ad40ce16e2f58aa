"""The convolutions of wav2vec 1 and vq-wav2vec that turn samples into latent frames.

wav2vec, Schneider et al. 2019, section 2.1 (encoder network); not the extractor of wav2vec 2.0, which normalises,
activates and initialises differently (`conv_feature_extractor`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from w2v.functional.conv_spec import ConvLayer, conv_length, receptive_field
from w2v.functional.dropout import Dropout
from w2v.modules.norms import ACTIVATIONS, GroupNorm, NormedConv


class ConvEncoder(nn.Module):
    """Strided convolutions without bias, each followed by a group norm over channels and time.

    Args:
        layers: (width, kernel, stride) of each convolution.
        log_compression: return log(1 + |z|).
        skip_connections: add the input of a layer, thinned to the layer's frame rate, where widths agree.
        residual_scale: such a sum is multiplied by the square root of this.
        affine: whether group norms have a gain and a bias.
        activation: `relu` or `gelu`.
        dropout: after each convolution.
    """

    def __init__(
        self,
        layers: Sequence[ConvLayer],
        *,
        log_compression: bool = False,
        skip_connections: bool = False,
        residual_scale: float = 0.5,
        affine: bool = True,
        activation: str = "relu",
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.layers = tuple(layers)
        self.log_compression = log_compression
        self.skip_connections = skip_connections
        self.residual_scale = math.sqrt(residual_scale)
        self.conv_layers = nn.ModuleList()
        width_before = 1
        for width, kernel, stride in self.layers:
            conv = nn.Conv1d(width_before, width, kernel, stride=stride, bias=False)
            norm = GroupNorm(1, width, affine=affine)
            self.conv_layers.append(NormedConv(conv, Dropout(dropout), norm, ACTIVATIONS[activation]()))
            width_before = width

    def forward(self, source: Tensor, lengths: Tensor | None = None) -> Tensor:
        """Return latent frames z.

        Args:
            source: (B, S) samples.
            lengths: (B,) int64 true samples per clip, on the CPU; None where no clip is padded.

        Returns:
            (B, C, T) with T of at least 1. Frames beyond a clip's own length are without meaning.
        """
        missing = receptive_field(self.layers) - source.shape[1]
        if missing > 0:
            # Too short for a single frame: there is one, which belongs to no clip.
            lengths = torch.full((source.shape[0],), source.shape[1]) if lengths is None else lengths
            source = F.pad(source, (0, missing))
        # (B, S) -> (B, 1, S); then (B, C, T), T shrinking by each stride
        features = source.unsqueeze(1)
        for layer, (_, kernel, stride) in zip(self.conv_layers, self.layers, strict=True):
            residual = features if self.skip_connections else None
            # Known before the convolution: its norm must leave out the frames beyond.
            lengths = None if lengths is None else conv_length(lengths, kernel, stride)
            features = layer(features, lengths)
            if residual is not None and features.shape[1] == residual.shape[1]:
                # Differs from the original, which thins by the ratio of the two lengths, rounded down: the same for
                # all but very short inputs, where it depends on the padding.
                residual = residual[..., ::stride][..., : features.shape[2]]
                features = (features + residual) * self.residual_scale
        # Brings loud and quiet speakers closer together.
        return torch.log1p(features.abs()) if self.log_compression else features
