"""From raw audio to contexts: what wav2vec 2.0 pretraining and CTC fine-tuning have in common (section 2).

Masks are planned on the host, so nothing here waits for the device. The encoder alone, without a head, is a model of
its own (`wav2vec2_encoder`): what Hugging Face publishes as `Wav2Vec2Model`. It gives features and is fine-tuned from.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NoReturn

import torch
from torch import Tensor, nn

from w2v.errors import ConfigError
from w2v.functional.conv_spec import frame_lengths, padded_frame_lengths
from w2v.functional.dropout import dropout
from w2v.functional.masking import sample_mask
from w2v.functional.padding import is_padded
from w2v.models.base import CONTEXT, W2vModel, register_model
from w2v.models.wav2vec2_config import Wav2Vec2EncoderConfig
from w2v.modules.autograd import grad_multiply, with_zero_grads
from w2v.modules.chunking import chunked
from w2v.modules.conv_feature_extractor import ConvFeatureExtractor
from w2v.modules.gumbel_vector_quantizer import GumbelVectorQuantizer, Quantized
from w2v.modules.transformer_encoder import TransformerEncoder
from w2v.rng import numpy_generator, torch_generator
from w2v.types import BoolArray


@dataclass(frozen=True)
class Frames:
    """Frames of a batch, known before anything is computed.

    Attributes:
        size: T, frames that the convolutions make of the padded batch, or fewer: those that are used.
        lengths: (B,) int64 valid frames per clip, CPU; None where all T are valid.
        is_cut: whether the convolutions make more frames than T.
    """

    size: int
    lengths: Tensor | None
    is_cut: bool = False

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

    def replaced(self, time: Tensor | None, channel: Tensor | None = None) -> Masks:
        """Return these masks with those that are given, of the same shapes, in their place."""
        return Masks(
            time=self.time if time is None else time.cpu().numpy(),
            channel=self.channel if channel is None else channel.cpu().numpy(),
        )


@dataclass(frozen=True)
class EncoderOutput:
    """What the encoder returns.

    Attributes:
        context: (B, T, C).
        latent: (B, T, F), the convolutions' output.
        features: (B, T, F) after the layer norm, before projection and masks: the targets' raw material.
        quantized: the quantised input, under `--quantize-input`.
        layers: (B, T, C) after each block, if asked for.
    """

    context: Tensor
    latent: Tensor
    features: Tensor
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
        # (C,), stands in every masked frame
        self.mask_emb = nn.Parameter(torch.rand(width))
        self.feature_extractor = ConvFeatureExtractor(
            config.conv_feature_layers, config.extractor_mode, config.conv_bias, config.checkpoint_activations
        )
        # By `requires_grad`: autograd then keeps nothing of the convolutions, which hold most of a step's memory.
        if config.feature_grad_mult == 0:
            self.feature_extractor.requires_grad_(False)
        self.post_extract_proj = nn.Linear(features, width) if features != width and not config.quantize_input else None
        self.input_quantizer: GumbelVectorQuantizer | None = None
        self.project_inp: nn.Linear | None = None
        if config.quantize_input:
            is_shared = config.same_quantizer and config.quantize_targets
            self.input_quantizer = config.quantizer(config.contrast_dim if is_shared else width)
            self.project_inp = nn.Linear(self.input_quantizer.groups * self.input_quantizer.vars.shape[-1], width)
        # Names as in the original: encoder.layers.0.self_attn.k_proj.weight, layer_norm.weight (before projection).
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
        if size == 0:
            size = 1  # the extractor makes one frame that no clip owns
            lengths = torch.full((num_clips,), num_samples) if lengths is None else lengths
        elif not is_padded(lengths, num_samples):
            return Frames(size, None)
        assert lengths is not None
        if self.encoder_config.original_padding:
            return Frames(size, padded_frame_lengths(lengths, num_samples, size))
        return Frames(size, frame_lengths(lengths, layers))

    def draw_masks(self, num_clips: int, frames: Frames, seed: int) -> Masks:
        """Draw the masks of a batch; a probability of 0 gives none."""
        config = self.encoder_config
        # One generator for time and channels, in this order: the draws are the original's.
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
        masks: Masks | None = None,
        seed: int | None = None,
        *,
        with_layers: bool = False,
        last: int | None = None,
        scale_gradients: bool | None = None,
    ) -> EncoderOutput:
        """Compute contexts.

        Args:
            source: (B, S) samples.
            lengths: (B,) int64 true samples per clip, CPU, or None.
            frames: what `frames` returned for them.
            masks: what to hide; None: nothing.
            seed: of the noise in the input's quantiser, in training; None: no noise.
            with_layers: keep the output of each block.
            last: compute only so many blocks; the contexts are then of no use.
            scale_gradients: multiply gradients that enter the convolutions by `--feature-grad-mult`; None: in training
                mode, so that gradients of features in evaluation are the true ones.
        """
        scale = self.training if scale_gradients is None else scale_gradients
        latent = self._latent(source, lengths, frames, scale_gradients=scale)
        # (B, T, F), each frame by itself
        features = self.layer_norm(latent)
        x, quantized = self._project(features, seed)  # (B, T, F) -> (B, T, C)
        x = dropout(x, self.encoder_config.dropout_input, self.training)
        # After the projection: masked frames hold one learned vector of the transformer's width.
        x = self._hide(x, masks or Masks())
        context, layers = self.encoder(x, frames.lengths, with_layers=with_layers, last=last)
        return EncoderOutput(context, latent, features, quantized, layers)

    # A part of another model is called, so that hooks see it; models that derive from this class have a loss.
    forward: Callable[..., Any] = encode

    def latent(self, source: Tensor, lengths: Tensor | None, frames: Frames) -> Tensor:
        """Return (B, T, F) frames of the convolutions; arguments as for `encode`."""
        return self._latent(source, lengths, frames, scale_gradients=self.training)

    def _latent(self, source: Tensor, lengths: Tensor | None, frames: Frames, *, scale_gradients: bool) -> Tensor:
        config = self.encoder_config
        # In the original's padding mode, padding is audio to the convolutions.
        exact = not config.original_padding and frames.lengths is not None
        source_lengths = lengths if exact and is_padded(lengths, source.shape[1]) else None
        latent = chunked(self.feature_extractor, source, source_lengths)  # (B, S) -> (B, T, F)
        if frames.is_cut:  # not by a comparison of sizes, which `torch.export` would take for a bound on the length
            latent = latent[:, : frames.size]
        # Differs from the original for a factor of 0, which freezes the convolutions when they are built: who sets
        # them free again gets their gradients.
        if scale_gradients and config.feature_grad_mult > 0:
            latent = grad_multiply(latent, config.feature_grad_mult)
        return latent

    def _project(self, features: Tensor, seed: int | None) -> tuple[Tensor, Quantized | None]:
        if self.input_quantizer is not None and self.project_inp is not None:
            sample = self.training and seed is not None
            generator = torch_generator(features.device, seed, "input_gumbel") if sample else None  # type: ignore[arg-type]
            quantized = self.input_quantizer(features, generator=generator, sample=sample)
            return self.project_inp(quantized.x), quantized
        if self.post_extract_proj is not None:
            return self.post_extract_proj(features), None
        return features, None

    def _hide(self, x: Tensor, masks: Masks) -> Tensor:
        """Put the mask embedding into masked frames of (B, T, C), and zeros into masked channels."""
        if masks.time is not None and masks.time.any():
            # (B, T) -> (B, T, 1) against (C,)
            time = torch.from_numpy(masks.time).to(x.device, non_blocking=True)
            x = torch.where(time[:, :, None], self.mask_emb.to(x.dtype), x)
        else:
            x = with_zero_grads(x, [self.mask_emb])
        if masks.channel is not None and masks.channel.any():
            # (B, C) -> (B, 1, C): the same channels in all frames of a clip
            channel = torch.from_numpy(masks.channel).to(x.device, non_blocking=True)
            x = x.masked_fill(channel[:, None, :], 0.0)
        return x


def layer_names(config: Wav2Vec2EncoderConfig) -> tuple[str, ...]:
    """Return `z`, the convolutions' frames; `1`, `2`, ...: what each block returns; `c`: the context."""
    return ("z", *(str(block) for block in range(1, config.encoder_layers + 1)), CONTEXT)


def layer_frames(
    encoder: Wav2Vec2Encoder,
    encode: Callable[..., EncoderOutput],
    source: Tensor,
    lengths: Tensor | None,
    names: set[str],
) -> tuple[dict[str, Tensor], Tensor | None]:
    """Compute what `W2vModel.layer_frames` asks for, and no block that is not needed for it.

    Args:
        encoder: the encoder.
        encode: its call, or its method `encode`, where the call is that of pretraining.
        source, lengths, names: as there.
    """
    frames = encoder.frames(source, lengths)
    blocks = [int(name) for name in names if name.isdecimal()]
    if not blocks and CONTEXT not in names:
        return {"z": encoder.latent(source, lengths, frames)}, frames.lengths
    # Blocks after the last one that is wanted are not computed: layer 6 of 12 runs half of them.
    last = None if CONTEXT in names else max(blocks)
    output = encode(source, lengths, frames, with_layers=bool(blocks), last=last)
    found = {CONTEXT: output.context, "z": output.latent}
    found |= {str(number): block for number, block in enumerate(output.layers, start=1)}
    return found, frames.lengths


@register_model("wav2vec2_encoder", Wav2Vec2EncoderConfig)
class Wav2Vec2EncoderModel(Wav2Vec2Encoder, W2vModel):
    """Encoder alone.

    Args:
        config: its options.
    """

    def __init__(self, config: Wav2Vec2EncoderConfig) -> None:
        super().__init__(config)
        self.config = config
        self.layers = layer_names(config)

    def forward(self, source: Tensor, lengths: Tensor | None = None, seed: int | None = None) -> NoReturn:
        """Refuse: there is no loss without a head.

        Raises:
            ConfigError: always.
        """
        raise ConfigError(
            "--arch wav2vec2_encoder has no head to train; take wav2vec2, or fine-tune wav2vec_ctc from it; "
            "features are given by extract_features"
        )

    def layer_frames(
        self, source: Tensor, lengths: Tensor | None, names: set[str]
    ) -> tuple[dict[str, Tensor], Tensor | None]:
        """Compute `z`, blocks by number, and `c`."""
        return layer_frames(self, self.encode, source, lengths, names)
