"""The Gumbel quantizer as vq-wav2vec uses it: channels before time, and padding left out of its statistics."""

from __future__ import annotations

import torch
from torch import Tensor

from w2v.functional.padding import is_padded, true_frames
from w2v.modules.gumbel_vector_quantizer import GumbelVectorQuantizer, Quantized


class LatentGumbelQuantizer(GumbelVectorQuantizer):
    """Choose codewords for latent frames (B, C, T); parameters and arithmetic are those of the base class."""

    def quantize(
        self,
        latent: Tensor,
        frames: Tensor | None = None,
        *,
        noise: Tensor | None = None,
        generator: torch.Generator | None = None,
    ) -> Quantized:
        """Quantise latent frames.

        Args:
            latent: (B, C, T).
            frames: (B,) int64 true frames per clip, on the CPU; None where no clip is padded.
            noise: (N * G, V) Gumbel samples for the N true frames, to use in training instead of drawing.
            generator: source of the noise; needed in training where `noise` is None.

        Returns:
            Frames (B, D, T), zero where padded, and codes (B, T, G).
        """
        # (B, C, T) -> (B, T, C)
        by_time = latent.transpose(1, 2)
        clips, num_frames, channels = by_time.shape
        if frames is None or not is_padded(frames, num_frames) or not frames.any():
            dense = self(by_time, noise=noise, generator=generator)
            return Quantized(dense.x.transpose(1, 2), dense.codes, dense.prob_perplexity, dense.code_perplexity)
        # (B, T, C) -> (1, N, C): only true frames draw noise and count in perplexities.
        rows = true_frames(frames, num_frames).to(latent.device, non_blocking=True)
        packed = self(by_time.reshape(-1, channels).index_select(0, rows)[None], noise=noise, generator=generator)
        # (1, N, D) -> (B * T, D) -> (B, D, T); index_copy, because N rows are known on the host
        total = clips * num_frames
        x = packed.x.new_zeros(total, packed.x.shape[2]).index_copy(0, rows, packed.x[0])
        codes = packed.codes.new_zeros(total, self.groups).index_copy(0, rows, packed.codes[0])
        return Quantized(
            x.view(clips, num_frames, -1).transpose(1, 2),
            codes.view(clips, num_frames, -1),
            packed.prob_perplexity,
            packed.code_perplexity,
        )

    def forward_idx(self, latent: Tensor) -> tuple[Tensor, Tensor]:
        """Return quantised frames (B, D, T) and codes (B, T, G) of latent frames (B, C, T); never with noise."""
        quantized: Quantized = self(latent.transpose(1, 2), sample=False)
        return quantized.x.transpose(1, 2), quantized.codes
