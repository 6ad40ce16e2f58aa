"""wav2vec 2.0 pretraining: masked frames must be told from other frames by their quantised features (sections 2, 3).

The encoder is `w2v.models.wav2vec2_encoder`; the loss over the logits is the criterion `wav2vec`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from w2v.config import arg, check_range
from w2v.errors import ConfigError
from w2v.functional.autocast import without_autocast
from w2v.functional.codebook import codebook_index, codes_of_index, look_up
from w2v.functional.contrastive import (
    Candidates,
    code_identity,
    contrastive_logits,
    vector_identity,
)
from w2v.functional.conv_spec import conv_layers, receptive_field
from w2v.functional.dropout import dropout
from w2v.functional.masking import equal_rows, masked_positions
from w2v.functional.negatives import sample_negatives, sample_negatives_everywhere
from w2v.functional.padding import mean_square
from w2v.models.base import W2vModel, draw_seed, register_model, register_model_architecture
from w2v.models.wav2vec2_config import Wav2Vec2EncoderConfig
from w2v.models.wav2vec2_encoder import EncoderOutput, Frames, Wav2Vec2Encoder, layer_frames, layer_names
from w2v.modules.gumbel_vector_quantizer import GumbelVectorQuantizer, Quantized
from w2v.rng import numpy_generator, torch_generator
from w2v.types import BoolArray, ContrastiveOutput


@dataclass(frozen=True)
class Wav2Vec2Config(Wav2Vec2EncoderConfig):
    """Options of wav2vec 2.0 pretraining."""

    logit_temp: float = arg(0.1, help="divides the cosine similarities")
    dropout_features: float = arg(0.0, help="dropout on the features that become targets")
    num_negatives: int = arg(100, help="negatives from the same clip")
    negatives_from_everywhere: bool = arg(False, help="take negatives from all frames, not from masked ones only")
    cross_sample_negatives: int = arg(0, help="further negatives from all clips of the batch")
    codebook_negatives: int = arg(0, help="further negatives from all combinations of codebook entries")
    target_glu: bool = arg(False, help="pass targets and negatives through a gated linear unit")

    def __post_init__(self) -> None:
        super().__post_init__()
        check_range(self, 0, 1, "dropout_features")
        check_range(self, 0, math.inf, "num_negatives", "cross_sample_negatives", "codebook_negatives")
        if self.num_negatives + self.cross_sample_negatives + self.codebook_negatives == 0:
            raise ConfigError("--num-negatives must be at least 1 without negatives of another kind, got 0")
        if not self.logit_temp > 0:
            raise ConfigError(f"--logit-temp must be greater than 0, got {self.logit_temp}")
        if self.codebook_negatives and not self.quantize_targets:
            raise ConfigError("--codebook-negatives needs --quantize-targets")
        if self.codebook_negatives and self.latent_groups * math.log2(self.latent_vars) > 62:
            raise ConfigError("--codebook-negatives needs --latent-vars ** --latent-groups below 2 ** 62")


@dataclass(frozen=True)
class _Targets:
    """Frames to be predicted, M in each of the clips that have any.

    Attributes:
        clips: (B',) int64 rows of those clips, CPU.
        positions: (B', M) int64 frames within their clips, on the device.
        flat: (B' * M,) int64 frames counted through the batch, on the device.
    """

    clips: Tensor
    positions: Tensor
    flat: Tensor

    def gather(self, frames: Tensor) -> Tensor:
        """Return (B', M, C) of (B, T, C)."""
        # (B, T, C) -> (B * T, C) -> (B' * M, C)
        chosen = frames.flatten(0, 1).index_select(0, self.flat)
        return chosen.view(*self.positions.shape, frames.shape[-1])


@register_model("wav2vec2", Wav2Vec2Config)
class Wav2Vec2Model(Wav2Vec2Encoder, W2vModel):
    """Encoder plus the heads of the contrastive task.

    Args:
        config: all options.
    """

    def __init__(self, config: Wav2Vec2Config) -> None:
        super().__init__(config)
        self.config = config
        self.layers = layer_names(config)
        self.shortest_clip = receptive_field(config.conv_feature_layers)
        if config.quantize_targets or config.quantize_input:
            self.codebook_size = (config.latent_groups, config.latent_vars)
        self.quantizer: GumbelVectorQuantizer | None = None
        target_dim = config.feature_dim
        if config.quantize_targets:
            is_shared = config.same_quantizer and self.input_quantizer is not None
            self.quantizer = self.input_quantizer if is_shared else config.quantizer(config.contrast_dim)
            target_dim = config.latent_dim or config.contrast_dim
        # Both sides of the loss meet in --final-dim channels.
        self.project_q = nn.Linear(target_dim, config.contrast_dim)
        self.target_glu: nn.Module | None = None
        if config.target_glu:
            self.target_glu = nn.Sequential(nn.Linear(config.contrast_dim, 2 * config.contrast_dim), nn.GLU())
        self.final_proj = nn.Linear(config.encoder_embed_dim, config.contrast_dim)

    def set_num_updates(self, num_updates: int) -> None:
        super().set_num_updates(num_updates)
        if self.quantizer is not None:
            self.quantizer.set_num_updates(num_updates)

    def forward(
        self,
        source: Tensor,
        lengths: Tensor | None = None,
        seed: int | None = None,
        *,
        mask_indices: Tensor | None = None,
        negative_indices: Tensor | None = None,
        codebook_indices: Tensor | None = None,
        gumbel_noise: Tensor | None = None,
    ) -> ContrastiveOutput:
        """Mask, encode, and compare each masked frame with its target and its negatives.

        Masks apply in evaluation too. Without masks (`--mask-prob 0`) all frames are predicted. A clip that is too
        short for a frame is left out.

        Args:
            source: (B, S) samples.
            lengths: (B,) int64 true samples per clip, CPU; None: no padding.
            seed: base of masks, negatives and Gumbel noise; None: see `W2vModel`.
            mask_indices: (B, T) bool to use instead of drawing; the same number in every row that has any.
            negative_indices: (B, M, K) int64 to use instead of drawing; see `sample_negatives`.
            codebook_indices: (B, M, K') int64 rows of the product codebook to use instead of drawing.
            gumbel_noise: (B * M * G, V) to use instead of drawing, in training.
        """
        source, lengths = self.check_clips(source, lengths)
        seed = draw_seed(seed, training=self.training)
        num_clips = source.shape[0]
        frames = self.frames(source, lengths)
        # Planned on the host before anything is computed: no index is read back from the device.
        masks = self.draw_masks(num_clips, frames, seed).replaced(mask_indices)
        # As recorded from the original, gradients of this loss are scaled in evaluation, too.
        encoded = self.encode(source, lengths, frames, masks, seed, scale_gradients=True)
        # M masked frames in each of the B' clips that have any; M is the same for all, so targets are one (B', M, F).
        targets = self._plan_targets(num_clips, frames, masks.time, seed, source.device)
        if negative_indices is None:
            negative_indices = self._draw_negatives(targets, frames, seed)
        # (B', M, F) -> (B', M, C): quantised where --quantize-targets, then projected
        positives, quantized = self._to_targets(targets.gather(encoded.features), gumbel_noise, seed, "gumbel")
        # Only masked frames go through the heads. (B', M, C)
        context = self.final_proj(targets.gather(encoded.context))
        further = None
        if self.config.codebook_negatives and quantized is not None:
            further = self._codebook_similarities(context, quantized.codes, codebook_indices, seed)
        # (B' * M, 1 + K) cosines over the temperature, the positive first
        logits = contrastive_logits(
            context,
            positives,
            negative_indices,
            self.config.logit_temp,
            candidates=self._all_frames(encoded, targets, seed) if self.config.negatives_from_everywhere else None,
            cross_sample=self.config.cross_sample_negatives > 0,
            further=further,
        )
        # The order is the original's: gradient factor, penalty, norm. Under its padding rule, padding counts.
        counted = None if self.config.original_padding else frames.lengths
        return self._output(logits, encoded, quantized, mean_square(encoded.latent, counted))

    def layer_frames(
        self, source: Tensor, lengths: Tensor | None, names: set[str]
    ) -> tuple[dict[str, Tensor], Tensor | None]:
        """Compute `z`, blocks by number, and `c`."""
        return layer_frames(self, self.encode, source, lengths, names)

    def codes_of(self, source: Tensor, lengths: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Compute the codes of the targets' quantizer, or of the input's where there is none."""
        frames = self.frames(source, lengths)
        quantizer = self.input_quantizer if self.quantizer is None else self.quantizer
        assert quantizer is not None  # `extract_codes` has asked
        quantized: Quantized = quantizer(self.layer_norm(self.latent(source, lengths, frames)), sample=False)
        return quantized.codes, frames.lengths

    def _plan_targets(
        self, num_clips: int, frames: Frames, mask: BoolArray | None, seed: int, device: torch.device
    ) -> _Targets:
        if mask is None:
            mask = equal_rows(frames.per_clip(num_clips), frames.size, rng=numpy_generator(seed, "targets"))
        clips, positions = masked_positions(mask)
        # Frame t of clip b is row b * T + t of the flattened batch.
        flat = torch.from_numpy((positions + clips[:, None] * mask.shape[1]).reshape(-1))
        return _Targets(
            torch.from_numpy(clips),
            torch.from_numpy(positions).to(device, non_blocking=True),
            flat.to(device, non_blocking=True),
        )

    def _to_targets(
        self, raw: Tensor, noise: Tensor | None, seed: int, key: str
    ) -> tuple[Candidates, Quantized | None]:
        """Return (B', M, C) targets of (B', M, F) features, and how they were quantised."""
        # On targets alone: the transformer has its own dropout (--dropout-input).
        raw = dropout(raw, self.config.dropout_features, self.training)
        if self.quantizer is None:
            vectors = self._project_targets(raw)
            return Candidates(vectors, vector_identity(vectors)), None
        generator = torch_generator(raw.device, seed, key) if self.training and noise is None else None
        quantized: Quantized = self.quantizer(raw, noise=noise, generator=generator)
        return Candidates(self._project_targets(quantized.x), code_identity(quantized.codes)), quantized

    def _all_frames(self, encoded: EncoderOutput, targets: _Targets, seed: int) -> Candidates:
        """Return all frames of the clips that hold targets, as candidates for negatives."""
        # Costs a quantisation of all T frames; only --negatives-from-everywhere pays it.
        rows = targets.clips.to(encoded.features.device, non_blocking=True)
        return self._to_targets(encoded.features.index_select(0, rows), None, seed, "gumbel_everywhere")[0]

    def _project_targets(self, x: Tensor) -> Tensor:
        x = self.project_q(x)
        return self.target_glu(x) if self.target_glu is not None else x

    def _draw_negatives(self, targets: _Targets, frames: Frames, seed: int) -> Tensor:
        config = self.config
        generator = torch_generator(targets.positions.device, seed, "negatives")
        num_clips, num_targets = targets.positions.shape
        if not config.negatives_from_everywhere:
            return sample_negatives(
                num_clips, num_targets, config.num_negatives, config.cross_sample_negatives, generator=generator
            )
        lengths = torch.full((num_clips,), frames.size) if frames.lengths is None else frames.lengths[targets.clips]
        return sample_negatives_everywhere(
            targets.positions,
            lengths.to(generator.device, non_blocking=True),
            frames.size,
            config.num_negatives,
            config.cross_sample_negatives,
            generator=generator,
        )

    def _codebook_similarities(self, context: Tensor, codes: Tensor, indices: Tensor | None, seed: int) -> Tensor:
        """Return (B, M, K') cosines with combinations of codebook entries, -inf where one is the target's own."""
        assert self.quantizer is not None
        num_vars, groups = self.quantizer.vars_per_group, self.quantizer.groups
        if indices is None:
            shape = (*context.shape[:2], self.config.codebook_negatives)
            generator = torch_generator(context.device, seed, "codebook_negatives")
            indices = torch.randint(num_vars**groups, shape, generator=generator, device=context.device)
        # (B, M, K') -> (B * M * K', G) -> (B, M, K', C)
        drawn = codes_of_index(indices.flatten(), num_vars, groups)
        vectors = look_up(drawn, self.quantizer.entries()).flatten(1)
        vectors = self._project_targets(vectors).view(*indices.shape, -1)
        with without_autocast(context.device):
            cosines = F.cosine_similarity(context.float()[:, :, None], vectors.float(), dim=-1)
        # A drawn combination may be the target's own; as -inf it counts for nothing.
        same = indices == codebook_index(codes, num_vars)[:, :, None]
        return cosines.masked_fill(same, -torch.inf)

    def _output(
        self, logits: Tensor, encoded: EncoderOutput, quantized: Quantized | None, features_pen: Tensor
    ) -> ContrastiveOutput:
        penalties: dict[str, Tensor] = {}
        stats: dict[str, Tensor | float] = {}
        quantizer = self.quantizer if quantized is not None else self.input_quantizer
        quantized = quantized or encoded.quantized
        if quantized is not None and quantizer is not None:
            num_vars = quantizer.num_vars
            penalties["diversity"] = (num_vars - quantized.prob_perplexity) / num_vars
            stats["prob_perplexity"] = quantized.prob_perplexity.detach()
            stats["code_perplexity"] = quantized.code_perplexity
            stats["temp"] = quantizer.current_temperature
        penalties["features_pen"] = features_pen
        return ContrastiveOutput(logits, penalties, stats)


@register_model_architecture("wav2vec2", "wav2vec2_large")
def wav2vec2_large() -> dict[str, Any]:
    """Return what the large recipe changes."""
    return {
        "quantize_targets": True,
        "conv_feature_layers": conv_layers("[(512, 10, 5)] + [(512, 3, 2)] * 4 + [(512, 2, 2)] * 2"),
        "encoder_layers": 24,
        "encoder_embed_dim": 1024,
        "encoder_ffn_embed_dim": 4096,
        "encoder_attention_heads": 16,
        "final_dim": 768,
        "latent_temp": (2.0, 0.1, 0.999995),
    }
