"""From raw audio to contexts: what wav2vec 2.0 pretraining and CTC fine-tuning have in common (section 2).

Masks are planned on the host, so nothing here waits for the device. The encoder alone, without a head, is a model of
its own (`wav2vec2_encoder`): what Hugging Face publishes as `Wav2Vec2Model`. It gives features and is fine-tuned from.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NoReturn

import torch
from torch import Tensor, nn

from w2v.errors import ConfigError
from w2v.functional.conv_spec import frame_lengths, padded_frame_lengths
from w2v.functional.dropout import dropout
from w2v.functional.masking import sample_mask
from w2v.functional.padding import is_padded, mean_square
from w2v.models.base import W2vModel, register_model
from w2v.models.wav2vec2_config import Wav2Vec2EncoderConfig
from w2v.modules.autograd import grad_multiply, with_zero_grads
from w2v.modules.chunking import chunked
from w2v.modules.conv_feature_extractor import ConvFeatureExtractor
from w2v.modules.gumbel_vector_quantizer import GumbelVectorQuantizer, Quantized
from w2v.modules.transformer_encoder import TransformerEncoder
from w2v.rng import numpy_generator, torch_generator
from w2v.types import BoolArray, Features


@dataclass(frozen=True)
class Frames:
    """Frames of a batch, known before anything is computed.

    Attributes:
        size: T, frames that the convolutions make of the padded batch.
        lengths: (B,) int64 valid frames per clip, CPU; None where all T are valid.
    """

    size: int
    lengths: Tensor | None

    def per_clip(self, num_clips: int) -> list[int]:
        """Return the valid frames of each clip."""
        return [self.size] * num_clips if self.lengths is None else self.lengths.tolist()


@dataclass(frozen=True)
class Masks:
    """What is hidden from the transformer; host arrays.

    Attributes:
        time: (B, T) bool, or None.
        channel: (B, C) bool, or None.
    """

    time: BoolArray | None = None
    channel: BoolArray | None = None


@dataclass(frozen=True)
class Encoded:
    """What the encoder returns.

    Attributes:
        context: (B, T, C).
        features: (B, T, F) after the layer norm, before projection and masks: the targets' raw material.
        features_pen: scalar, mean square of the convolutions' output.
        quantized: the quantised input, under `--quantize-input`.
        layers: (B, T, C) after each block, if asked for.
    """

    context: Tensor
    features: Tensor
    features_pen: Tensor
    quantized: Quantized | None = None
    layers: list[Tensor] = field(default_factory=list)


class Wav2Vec2Encoder(nn.Module):
    """Convolutions, projection, masks, transformer. Parameter names are the original's.

    Args:
        config: sizes and rates.
    """

    def __init__(self, config: Wav2Vec2EncoderConfig) -> None:
        super().__init__()
        self.encoder_config = config
        width, features = config.encoder_embed_dim, config.feature_dim
        self.mask_emb = nn.Parameter(torch.rand(width))
        self.feature_extractor = ConvFeatureExtractor(
            config.conv_feature_layers, config.extractor_mode, config.conv_bias, config.checkpoint_activations
        )
        if config.feature_grad_mult == 0:
            self.feature_extractor.requires_grad_(False)
        self.post_extract_proj = nn.Linear(features, width) if features != width and not config.quantize_input else None
        self.input_quantizer: GumbelVectorQuantizer | None = None
        self.project_inp: nn.Linear | None = None
        if config.quantize_input:
            is_shared = config.same_quantizer and config.quantize_targets
            self.input_quantizer = config.quantizer(config.contrast_dim if is_shared else width)
            self.project_inp = nn.Linear(self.input_quantizer.groups * self.input_quantizer.vars.shape[-1], width)
        self.encoder = TransformerEncoder(config.transformer)
        self.layer_norm = nn.LayerNorm(features)

    def set_num_updates(self, num_updates: int) -> None:
        """Pass on how many updates are done (LayerDrop, Gumbel temperature)."""
        self.encoder.set_num_updates(num_updates)
        if self.input_quantizer is not None:
            self.input_quantizer.set_num_updates(num_updates)

    def frames(self, source: Tensor, lengths: Tensor | None) -> Frames:
        """Count the frames of a batch.

        Args:
            source: (B, S); only its shape matters.
            lengths: (B,) int64 true samples per clip, CPU; None: no padding.
        """
        num_clips, num_samples = source.shape
        layers = self.encoder_config.conv_feature_layers
        size = frame_lengths(num_samples, layers)
        if lengths is None:
            lengths = torch.full((num_clips,), num_samples)
        if size > 0 and not is_padded(lengths, num_samples):
            return Frames(size, None)
        size = max(size, 1)  # the extractor makes one frame that no clip owns
        if self.encoder_config.original_padding:
            return Frames(size, padded_frame_lengths(lengths, num_samples, size))
        return Frames(size, frame_lengths(lengths, layers))

    def draw_masks(self, num_clips: int, frames: Frames, seed: int) -> Masks:
        """Draw the masks of a batch; a probability of 0 gives none."""
        config = self.encoder_config
        rng = numpy_generator(seed, "mask")
        time = channel = None
        if config.mask_prob > 0:
            time = sample_mask(frames.per_clip(num_clips), frames.size, config.time_mask, rng=rng)
        if config.mask_channel_prob > 0:
            width = config.encoder_embed_dim
            channel = sample_mask([width] * num_clips, width, config.channel_mask, rng=rng)
        return Masks(time, channel)

    def encode(
        self,
        source: Tensor,
        lengths: Tensor | None,
        frames: Frames,
        masks: Masks,
        seed: int,
        *,
        with_layers: bool = False,
    ) -> Encoded:
        """Compute contexts.

        Args:
            source: (B, S) samples.
            lengths: (B,) int64 true samples per clip, CPU, or None.
            frames: what `frames` returned for them.
            masks: what to hide.
            seed: of the noise in the input's quantiser.
            with_layers: keep the output of each block.
        """
        config = self.encoder_config
        features, features_pen = self._features(source, lengths, frames)
        x, quantized = self._project(features, seed)
        x = dropout(x, config.dropout_input, self.training)
        x = self._hide(x, masks)
        if with_layers:
            context, layers = self.encoder(x, frames.lengths, with_layers=True)
            return Encoded(context, features, features_pen, quantized, layers)
        context = chunked(lambda x, lengths: self.encoder(x, lengths)[0], x, frames.lengths)
        return Encoded(context, features, features_pen, quantized)

    def _features(self, source: Tensor, lengths: Tensor | None, frames: Frames) -> tuple[Tensor, Tensor]:
        """Return (B, T, F) normalised features, and the penalty on their size before the norm."""
        config = self.encoder_config
        # In the original's padding mode, padding is audio to the convolutions and to the penalty.
        exact = not config.original_padding and frames.lengths is not None
        source_lengths = lengths if exact and is_padded(lengths, source.shape[1]) else None
        with torch.set_grad_enabled(torch.is_grad_enabled() and config.feature_grad_mult > 0):
            features = chunked(self.feature_extractor, source, source_lengths)
        # The order is the original's: gradient factor, penalty, norm.
        if config.feature_grad_mult > 0:
            features = grad_multiply(features, config.feature_grad_mult)
        penalty = mean_square(features, frames.lengths if exact else None)
        return self.layer_norm(features), penalty

    def _project(self, features: Tensor, seed: int) -> tuple[Tensor, Quantized | None]:
        if self.input_quantizer is not None and self.project_inp is not None:
            generator = torch_generator(features.device, seed, "input_gumbel") if self.training else None
            quantized = self.input_quantizer(features, generator=generator)
            return self.project_inp(quantized.x), quantized
        if self.post_extract_proj is not None:
            return self.post_extract_proj(features), None
        return features, None

    def _hide(self, x: Tensor, masks: Masks) -> Tensor:
        """Put the mask embedding into masked frames of (B, T, C), and zeros into masked channels."""
        if masks.time is not None and masks.time.any():
            time = torch.from_numpy(masks.time).to(x.device, non_blocking=True)
            x = torch.where(time[:, :, None], self.mask_emb.to(x.dtype), x)
        else:
            x = with_zero_grads(x, [self.mask_emb])
        if masks.channel is not None and masks.channel.any():
            channel = torch.from_numpy(masks.channel).to(x.device, non_blocking=True)
            x = x.masked_fill(channel[:, None, :], 0.0)
        return x


@register_model("wav2vec2_encoder", Wav2Vec2EncoderConfig)
class Wav2Vec2EncoderModel(W2vModel, Wav2Vec2Encoder):
    """Encoder alone.

    Args:
        config: its options.
    """

    def __init__(self, config: Wav2Vec2EncoderConfig) -> None:
        Wav2Vec2Encoder.__init__(self, config)
        self.config = config

    def set_num_updates(self, num_updates: int) -> None:
        Wav2Vec2Encoder.set_num_updates(self, num_updates)

    def forward(self, source: Tensor, lengths: Tensor | None, seed: int) -> NoReturn:
        """Refuse: there is no loss without a head.

        Raises:
            ConfigError: always.
        """
        raise ConfigError(
            "--arch wav2vec2_encoder has no head to train; take wav2vec2, or fine-tune wav2vec_ctc from it"
        )

    def extract_features(self, source: Tensor, lengths: Tensor | None) -> Features:
        """Return the contexts of (B, S) samples, without masks."""
        frames = self.frames(source, lengths)
        return Features(self.encode(source, lengths, frames, Masks(), seed=0).context, frames.lengths)
