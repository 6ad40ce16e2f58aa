"""A model from outside: masked frames are predicted by two recurrent layers instead of a transformer.

Everything but the context network is w2v's: convolutions, masks, negatives, logits. Its output is a
`ContrastiveOutput`, so the criterions `wav2vec` and `wav2vec_smoothed` both take it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from w2v.config import arg, check_range
from w2v.functional.contrastive import Candidates, contrastive_logits, vector_identity
from w2v.functional.conv_spec import ConvLayer, conv_layers, frame_lengths
from w2v.functional.masking import MaskSpec, masked_positions, sample_mask
from w2v.functional.negatives import sample_negatives
from w2v.models import W2vModel, draw_seed, register_model, register_model_architecture
from w2v.modules.conv_feature_extractor import ConvFeatureExtractor
from w2v.rng import numpy_generator, torch_generator
from w2v.types import ContrastiveOutput


@dataclass(frozen=True)
class ShallowConfig:
    """Every field is a flag of `w2v-train --arch wav2vec2_shallow`."""

    conv_feature_layers: tuple[ConvLayer, ...] = arg(
        conv_layers("[(256, 10, 5)] + [(256, 4, 4)] * 3"),
        help="convolutions as a list of (channels, kernel, stride)",
        parse=conv_layers,
    )
    context_dim: int = arg(256, help="width of the recurrent layers, both directions together")
    mask_prob: float = arg(0.65, help="share of frames aimed at by masks, before overlaps")
    mask_length: int = arg(10, help="length of masked spans, in frames")
    num_negatives: int = arg(50, help="negatives from the same clip")

    def __post_init__(self) -> None:
        check_range(self, 0, 1, "mask_prob")
        check_range(self, 1, math.inf, "mask_length", "num_negatives")
        check_range(self, 2, math.inf, "context_dim")


@register_model("wav2vec2_shallow", ShallowConfig)
class ShallowModel(W2vModel):
    """Convolutions, a mask, a bidirectional GRU; targets are the unmasked frames themselves."""

    def __init__(self, config: ShallowConfig, **context: Any) -> None:
        super().__init__()
        self.config = config
        # Frames that `w2v-featurize --layer` can write, and `extract_features` return.
        self.layers = ("z", "c")
        width = config.conv_feature_layers[-1][0]
        self.feature_extractor = ConvFeatureExtractor(config.conv_feature_layers, "layer_norm", conv_bias=False)
        self.mask_emb = nn.Parameter(torch.rand(width))
        self.context = nn.GRU(width, config.context_dim // 2, num_layers=2, batch_first=True, bidirectional=True)
        self.final_proj = nn.Linear(config.context_dim // 2 * 2, width)

    def forward(self, source: Tensor, lengths: Tensor | None = None, seed: int | None = None) -> ContrastiveOutput:
        """Predict the masked frames; every draw follows from `seed`."""
        source, lengths = self.check_clips(source, lengths)
        seed = draw_seed(seed, training=self.training)
        features = self.feature_extractor(source, lengths)
        frames = None if lengths is None else self._frames(lengths)
        rows, positions = (torch.from_numpy(found) for found in self._masked(features, frames, seed))
        mask = torch.zeros(features.shape[:2], dtype=torch.bool)
        mask[rows[:, None], positions] = True
        mask, rows, positions = (plan.to(source.device) for plan in (mask, rows, positions))
        context = self._context(torch.where(mask[:, :, None], self.mask_emb.to(features.dtype), features), frames)
        # (B, T, C) -> (B', M, C): the masked frames of the clips that have any
        predictions = self.final_proj(context[rows[:, None], positions])
        targets = features[rows[:, None], positions]
        # What all frames of a clip share says nothing about any of them, and would rule the cosine.
        targets = targets - targets.mean(dim=1, keepdim=True)
        negatives = sample_negatives(
            *positions.shape, self.config.num_negatives, 0, generator=torch_generator(source.device, seed, "negatives")
        )
        candidates = Candidates(targets, vector_identity(targets))
        logits = contrastive_logits(predictions, candidates, negatives, 0.1, cross_sample=False)
        return ContrastiveOutput(logits, penalties={"features_pen": features.float().pow(2).mean()})

    def layer_frames(
        self, source: Tensor, lengths: Tensor | None, names: set[str]
    ) -> tuple[dict[str, Tensor], Tensor | None]:
        """Compute `z`, the convolutions' frames, and `c`, the recurrent layers'; `extract_features` calls this."""
        frames = None if lengths is None else self._frames(lengths)
        found = {"z": self.feature_extractor(source, lengths)}  # (B, S) -> (B, T, C)
        if "c" in names:
            found["c"] = self._context(found["z"], frames)
        return found, frames

    def _context(self, x: Tensor, frames: Tensor | None) -> Tensor:
        if frames is None:
            return self.context(x)[0]
        # Packed, so that the backward direction begins at the end of each clip, not of the batch.
        packed = pack_padded_sequence(x, frames.clamp(min=1), batch_first=True, enforce_sorted=False)
        return pad_packed_sequence(self.context(packed)[0], batch_first=True, total_length=x.shape[1])[0]

    def _masked(self, features: Tensor, frames: Tensor | None, seed: int) -> tuple[Any, Any]:
        num_clips, num_frames = features.shape[:2]
        sizes = [num_frames] * num_clips if frames is None else frames.tolist()
        spec = MaskSpec(self.config.mask_prob, self.config.mask_length, min_masks=2)
        return masked_positions(sample_mask(sizes, num_frames, spec, rng=numpy_generator(seed, "mask")))

    def _frames(self, lengths: Tensor) -> Tensor:
        frames: Any = frame_lengths(lengths, self.config.conv_feature_layers)
        return frames


@register_model_architecture("wav2vec2_shallow", "wav2vec2_shallow_tiny")
def tiny() -> dict[str, Any]:
    """Return what the preset changes: sizes for a first try on a laptop."""
    return {"conv_feature_layers": conv_layers("[(32, 10, 5)] + [(32, 4, 4)] * 3"), "context_dim": 32}
