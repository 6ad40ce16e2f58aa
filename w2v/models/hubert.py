"""HuBERT: masked frames are told which class they belong to (Hsu et al. 2021, section 2).

The encoder is that of wav2vec 2.0; what differs is the target. Classes come from files (k-means over MFCC, then over
features of an earlier model), at a rate of their own, so nothing here can collapse. The loss is the criterion `hubert`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from w2v.config import arg, check_range, int_tuple
from w2v.errors import ConfigError
from w2v.functional.contrastive import class_logits
from w2v.functional.conv_spec import conv_layers, padded_frame_lengths, receptive_field, total_stride
from w2v.functional.padding import mean_square, padding_mask
from w2v.models.base import W2vModel, draw_seed, register_model, register_model_architecture
from w2v.models.wav2vec2_config import Wav2Vec2EncoderConfig
from w2v.models.wav2vec2_encoder import Frames, Wav2Vec2Encoder, layer_frames, layer_names
from w2v.types import BoolArray, ClassLogits, MaskedPredictionOutput


@dataclass(frozen=True)
class HubertConfig(Wav2Vec2EncoderConfig):
    """Options of HuBERT pretraining."""

    logit_temp: float = arg(0.1, help="divides the cosine similarities")
    dropout_features: float = arg(0.0, help="accepted for recipes of the original, where it has no effect")
    untie_final_proj: bool = arg(False, help="a projection of its own for each label set")
    target_glu: bool = arg(False, help="pass the vectors of the classes through a gated linear unit")
    skip_masked: bool = arg(False, help="predict no masked frames; then --pred-masked-weight must be 0")
    skip_nomask: bool = arg(False, help="predict masked frames alone; the others are else logged, at weight 0")
    num_classes: tuple[int, ...] | None = arg(
        None, help="classes of each label set; kept in checkpoints, normally told by the dictionaries", parse=int_tuple
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        check_range(self, 0, 1, "dropout_features")
        if not self.logit_temp > 0:
            raise ConfigError(f"--logit-temp must be greater than 0, got {self.logit_temp}")
        if self.quantize_input or self.quantize_targets:
            raise ConfigError("--arch hubert has no quantizer: leave out --quantize-input and --quantize-targets")


@register_model("hubert", HubertConfig)
class HubertModel(Wav2Vec2Encoder, W2vModel):
    """Encoder, a vector for each class, and the projection that is compared with them.

    Args:
        config: all options.
        num_classes: classes of each label set.
        labels_per_frame: labels in the time of one frame of the encoder: 2 at 100 Hz, 1 at 50 Hz.
    """

    def __init__(self, config: HubertConfig, num_classes: Sequence[int], labels_per_frame: float = 1.0) -> None:
        super().__init__(config)
        self.num_classes = list(num_classes)
        # Into the checkpoint, which then opens without the dictionaries.
        self.config = dataclasses.replace(config, num_classes=tuple(num_classes))
        self.labels_per_frame = labels_per_frame
        self.layers = layer_names(config)
        self.shortest_clip = receptive_field(config.conv_feature_layers)
        width = config.contrast_dim
        # One projection for all label sets, or one for each, side by side.
        sets = len(num_classes) if config.untie_final_proj else 1
        self.final_proj = nn.Linear(config.encoder_embed_dim, width * sets)
        self.target_glu = nn.Sequential(nn.Linear(width, 2 * width), nn.GLU()) if config.target_glu else None
        # (classes of all sets, D); uniform in [0, 1), as in the original
        self.label_embs_concat = nn.Parameter(torch.rand(sum(num_classes), width))

    @classmethod
    def build(cls, config: HubertConfig, **context: Any) -> HubertModel:
        """Build the model.

        Args:
            config: the options.
            context: `num_classes` of each label set, unless the options hold them; `label_rate` and `sample_rate`.

        Raises:
            ConfigError: the label sets are not known.
        """
        classes = context.get("num_classes") or config.num_classes
        if not classes or min(classes) < 1:
            raise ConfigError("--arch hubert needs --task hubert_pretraining, and its --labels: no classes are known")
        stride = total_stride(config.conv_feature_layers)
        ratio = context.get("label_rate", 1.0) * stride / context.get("sample_rate", stride)
        return cls(config, classes, ratio)

    def forward(
        self,
        source: Tensor,
        lengths: Tensor | None = None,
        seed: int | None = None,
        *,
        frame_labels: Sequence[Tensor] = (),
        label_lengths: Sequence[Tensor] = (),
        mask_indices: Tensor | None = None,
        mask_channel_indices: Tensor | None = None,
    ) -> MaskedPredictionOutput:
        """Mask, encode, and compare each frame with all classes of each label set.

        Args:
            source: (B, S) samples.
            lengths: (B,) int64 true samples per clip, CPU; None: no padding.
            seed: base of the masks; None: see `W2vModel`.
            frame_labels: per label set (B, L) int64.
            label_lengths: per label set (B,) int64 true labels, CPU; frames after them are not predicted.
            mask_indices: (B, T) bool to use instead of drawing.
            mask_channel_indices: (B, C) bool to use instead of drawing.

        Raises:
            ConfigError: there are no labels, or another number of sets than the model was built for.
        """
        source, lengths = self.check_clips(source, lengths)
        if len(frame_labels) != len(self.num_classes):
            raise ConfigError(f"the model has {len(self.num_classes)} label sets, got {len(frame_labels)}")
        frames = self._trimmed(self.frames(source, lengths), source, lengths, min(x.shape[1] for x in frame_labels))
        masks = self.draw_masks(len(source), frames, draw_seed(seed, training=self.training))
        masks = masks.replaced(mask_indices, mask_channel_indices)
        encoded = self.encode(source, lengths, frames, masks, scale_gradients=True)
        # (T,) label under each frame; float32, whose rounding decides at decimal rates, as in the original
        places = (torch.arange(frames.size).float() * self.labels_per_frame).long()
        known = self._predictable(len(source), frames, places, label_lengths)
        hidden = np.zeros_like(known) if masks.time is None else masks.time
        places = places.to(source.device, non_blocking=True)
        aligned = [labels.index_select(1, places).flatten() for labels in frame_labels]  # (B, L) -> (B * T,)

        def predict(chosen: BoolArray) -> list[ClassLogits]:
            return self._predict(encoded.context, chosen, aligned)

        # The order is the original's: gradient factor, penalty, norm. Under its padding rule, padding counts.
        counted = None if self.config.original_padding else frames.lengths
        return MaskedPredictionOutput(
            [] if self.config.skip_masked else predict(hidden & known),
            [] if self.config.skip_nomask else predict(~hidden & known),
            {"features_pen": mean_square(encoded.latent, counted)},
        )

    def layer_frames(
        self, source: Tensor, lengths: Tensor | None, names: set[str]
    ) -> tuple[dict[str, Tensor], Tensor | None]:
        """Compute `z`, blocks by number, and `c`."""
        return layer_frames(self, self.encode, source, lengths, names)

    def _trimmed(self, frames: Frames, source: Tensor, lengths: Tensor | None, num_labels: int) -> Frames:
        """Return the frames that have a label: labels may end a little sooner than the audio."""
        size = frames.size
        if self.labels_per_frame * size > num_labels:
            # At least one: a batch without any label then predicts nothing.
            size = max(int(num_labels / self.labels_per_frame), 1)
        if size == frames.size:
            return frames
        if frames.lengths is None:
            return Frames(size, None, is_cut=True)
        assert lengths is not None
        if self.config.original_padding:
            return Frames(size, padded_frame_lengths(lengths, source.shape[1], size), is_cut=True)
        return Frames(size, frames.lengths.clamp(max=size), is_cut=True)

    def _predictable(
        self, num_clips: int, frames: Frames, places: Tensor, label_lengths: Sequence[Tensor]
    ) -> BoolArray:
        """Return (B, T) bool, true where a frame is none of padding, and has a label; on the host."""
        known = torch.ones(num_clips, frames.size, dtype=torch.bool)
        if frames.lengths is not None:
            known &= ~padding_mask(frames.lengths, frames.size)
        for lengths in label_lengths:
            known &= places[None, :] < lengths[:, None]
        found: BoolArray = known.numpy()
        return found

    def _predict(self, context: Tensor, chosen: BoolArray, aligned: Sequence[Tensor]) -> list[ClassLogits]:
        """Return the logits of the frames (B, T) `chosen`, per label set, clip after clip."""
        # Chosen on the host, so that the device is not asked for a number. (N,)
        places = torch.from_numpy(np.flatnonzero(chosen)).to(context.device, non_blocking=True)
        # (B, T, C) -> (N, C) -> (N, D), or (N, D * sets)
        predictions = self.final_proj(context.flatten(0, 1).index_select(0, places))
        classes = self.label_embs_concat
        if self.target_glu is not None:
            classes = self.target_glu(classes)
        found = []
        for number, vectors in enumerate(torch.split(classes, self.num_classes)):
            width = vectors.shape[1]
            own = predictions[:, number * width : (number + 1) * width] if self.config.untie_final_proj else predictions
            labels = aligned[number].index_select(0, places)
            found.append(ClassLogits(class_logits(own, vectors, labels, self.config.logit_temp), labels))
        return found


LARGE: dict[str, Any] = {
    "extractor_mode": "layer_norm", "layer_norm_first": True, "encoder_layers": 24, "encoder_embed_dim": 1024,
    "encoder_ffn_embed_dim": 4096, "encoder_attention_heads": 16, "final_dim": 768, "encoder_layerdrop": 0.0,
    "dropout": 0.0, "attention_dropout": 0.0, "dropout_input": 0.0, "mask_prob": 0.8,
}  # fmt: skip
X_LARGE = {"encoder_layers": 48, "encoder_embed_dim": 1280, "encoder_ffn_embed_dim": 5120, "final_dim": 1024}
CONVOLUTIONS = {"conv_feature_layers": conv_layers("[(512,10,5)] + [(512,3,2)] * 4 + [(512,2,2)] * 2")}


@register_model_architecture("hubert", "hubert_base")
def hubert_base() -> dict[str, Any]:
    """Return what the base recipe of the original says."""
    return {
        **CONVOLUTIONS, "final_dim": 256, "mask_prob": 0.8, "encoder_layerdrop": 0.05, "dropout_input": 0.1,
        "dropout_features": 0.1, "feature_grad_mult": 0.1,
    }  # fmt: skip


@register_model_architecture("hubert", "hubert_large")
def hubert_large() -> dict[str, Any]:
    """Return what the large recipe of the original says."""
    return {**CONVOLUTIONS, **LARGE}


@register_model_architecture("hubert", "hubert_xlarge")
def hubert_xlarge() -> dict[str, Any]:
    """Return what the extra large recipe of the original says."""
    return {**CONVOLUTIONS, **LARGE, **X_LARGE}
