"""Convolutions from raw audio to latent frames (wav2vec 2.0, section 2).

Two modes: `default` normalises each channel over time after the first convolution only; `layer_norm` normalises the
channels of every frame after every convolution. Names of parameters are the original's.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from w2v.functional.conv_spec import ConvLayer, conv_length, receptive_field
from w2v.functional.strided_conv import prefers_products, strided_conv
from w2v.modules.autograd import checkpointed
from w2v.modules.bare import is_bare
from w2v.modules.norms import ChannelLayerNorm, TimeNorm

EXTRACTOR_MODES = ("default", "layer_norm")


class ConvBlock(nn.Module):
    """Convolution, optional norm, GELU. The first two are called `0` and `2`, as in the original."""

    def __init__(self, channels: int, layer: ConvLayer, norm: TimeNorm | ChannelLayerNorm | None, bias: bool) -> None:
        super().__init__()
        width, self.kernel, self.stride = layer
        conv = nn.Conv1d(channels, width, self.kernel, self.stride, bias=bias)
        nn.init.kaiming_normal_(conv.weight)
        self.add_module("0", conv)
        if norm is not None:
            self.add_module("2", norm)

    def frames(self, lengths: Tensor | None) -> Tensor | None:
        """Return the valid frames that it makes of so many; None: all are valid."""
        return None if lengths is None else conv_length(lengths, self.kernel, self.stride)

    @property
    def norm(self) -> nn.Module | None:
        """The norm, if there is one."""
        return self._modules.get("2")

    def forward(self, x: Tensor, lengths: Tensor | None) -> Tensor:
        """Return (B, C', T').

        Args:
            x: (B, C, T).
            lengths: (B,) int64 valid frames of the *result*, CPU; None where all are valid.
        """
        x = self.get_submodule("0")(x)
        return F.gelu(x if self.norm is None else self.norm(x, lengths))

    @property
    def is_bare(self) -> bool:
        """Whether `over_frames`, which takes the weights out of its parts, is as good as a call."""
        conv, norm = self.get_submodule("0"), self.norm
        parts = is_bare(self, ConvBlock) and is_bare(conv, nn.Conv1d)
        if isinstance(norm, ChannelLayerNorm):  # its inner norm is called
            return parts and is_bare(norm, ChannelLayerNorm)
        return parts and (norm is None or is_bare(norm, TimeNorm))

    def over_frames(self, x: Tensor, lengths: Tensor | None, *, gelu_first: bool) -> Tensor:
        """Return (B, T', C') of (B, T, C) through matrix products: all but GELU, which the next block does first."""
        conv, norm = self.get_submodule("0"), self.norm
        assert isinstance(conv, nn.Conv1d)
        x = strided_conv(x, conv.weight, conv.bias, self.stride, gelu_first=gelu_first)
        if norm is None:
            return x
        assert isinstance(norm, (TimeNorm, ChannelLayerNorm))
        return norm.over_frames(x, lengths)


class ConvFeatureExtractor(nn.Module):
    """Stack of unpadded convolutions.

    Args:
        layers: (channels, kernel, stride) of each convolution.
        mode: one of `EXTRACTOR_MODES`.
        conv_bias: give the convolutions a bias.
        checkpoint_activations: compute again in the backward pass instead of storing.
    """

    def __init__(
        self, layers: tuple[ConvLayer, ...], mode: str, conv_bias: bool, checkpoint_activations: bool = False
    ) -> None:
        super().__init__()
        self.checkpoint_activations = checkpoint_activations
        self.receptive_field = receptive_field(layers)
        self.conv_layers = nn.ModuleList()
        channels = 1
        for i, layer in enumerate(layers):
            norm: TimeNorm | ChannelLayerNorm | None = None
            if mode == "layer_norm":
                norm = ChannelLayerNorm(layer[0])
            elif i == 0:
                norm = TimeNorm(layer[0])
            self.conv_layers.append(ConvBlock(channels, layer, norm, conv_bias))
            channels = layer[0]

    def forward(self, source: Tensor, lengths: Tensor | None) -> Tensor:
        """Return (B, T, C) frames; those past a clip's end are finite but mean nothing.

        Args:
            source: (B, S) samples.
            lengths: (B,) int64 true samples per clip, CPU; None where padding counts as audio.
        """
        if source.shape[1] < self.receptive_field:
            # Too short for a single frame: the batch gets one frame that no clip owns.
            source = F.pad(source, (0, self.receptive_field - source.shape[1]))
        if not (prefers_products(source) and self._is_bare()):
            return checkpointed(self._by_channels, source, lengths, wanted=self.checkpoint_activations)
        # Clip by clip: these are the largest tensors of the model. One for each clip, they find room between others
        # where those of a batch would need memory of their own, in the backward pass, too.
        clips = [
            checkpointed(
                self._by_products,
                source[i : i + 1],
                None if lengths is None else lengths[i : i + 1],
                wanted=self.checkpoint_activations,
            )
            for i in range(len(source))
        ]
        return torch.cat(clips)

    def _is_bare(self) -> bool:
        # About 20 us for the seven blocks of the recipes; a step takes seconds.
        return all(isinstance(block, ConvBlock) and block.is_bare for block in self.conv_layers)

    def _by_channels(self, source: Tensor, lengths: Tensor | None) -> Tensor:
        x = source[:, None]  # (B, C, T)
        for block in self.conv_layers:
            assert isinstance(block, ConvBlock)
            lengths = block.frames(lengths)
            x = block(x, lengths)
        return x.transpose(1, 2)

    def _by_products(self, source: Tensor, lengths: Tensor | None) -> Tensor:
        x = source[:, :, None]  # (B, T, C)
        for i, block in enumerate(self.conv_layers):
            assert isinstance(block, ConvBlock)
            lengths = block.frames(lengths)
            x = block.over_frames(x, lengths, gelu_first=i > 0)
        return F.gelu(x)
