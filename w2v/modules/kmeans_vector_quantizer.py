"""Quantisation to the nearest codeword, trained with the straight-through estimator and an online k-means loss.

vq-wav2vec, Baevski et al. 2019, section 3.2. The Gumbel quantizer is in `gumbel_vector_quantizer`.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from w2v.functional.autocast import at_least_float32
from w2v.functional.codebook import code_perplexity, look_up
from w2v.functional.padding import is_padded, true_frames
from w2v.modules.norms import GroupNorm

INITIAL_SCALE = 0.01


@dataclass(frozen=True)
class KmeansQuantized:
    """Quantised frames.

    Attributes:
        x: (B, C, T) nearest codewords, the groups one below the other.
        codes: (B, T, G) int64 in [0, V).
        code_perplexity: scalar, of the chosen codes.
        kmeans_loss: scalar, with the commitment term.
    """

    x: Tensor
    codes: Tensor
    code_perplexity: Tensor
    kmeans_loss: Tensor


class KmeansVectorQuantizer(nn.Module):
    """Project each group of channels, normalise it, and replace it by its nearest codeword.

    Args:
        dim: channels C of a frame, divisible by `groups`.
        num_vars: V, codewords per group.
        groups: G.
        combine_groups: all groups share one codebook.
        gamma: weight of the commitment term, which pulls frames to their codewords.
    """

    def __init__(self, dim: int, num_vars: int, groups: int, *, combine_groups: bool, gamma: float) -> None:
        super().__init__()
        self.num_vars = num_vars
        self.groups = groups
        self.gamma = gamma
        entries = torch.randn(num_vars, 1 if combine_groups else groups, dim // groups)
        self.embedding = nn.Parameter(INITIAL_SCALE * entries)
        self.projection = nn.Sequential(nn.Conv1d(dim, dim, 1, groups=groups, bias=False), GroupNorm(groups, dim))

    def entries(self) -> Tensor:
        """Return the codebook as (G, V, C / G), in float32 at least."""
        return at_least_float32(self.embedding).transpose(0, 1).expand(self.groups, -1, -1)

    def forward(self, latent: Tensor, frames: Tensor | None = None) -> KmeansQuantized:
        """Quantise latent frames.

        Args:
            latent: (B, C, T).
            frames: (B,) int64 true frames per clip, on the CPU; None where no clip is padded. Padding counts neither
                in the loss nor in the perplexity.
        """
        # A grouped 1 x 1 convolution and a norm per group: distances of all groups are on one scale.
        clips, channels, num_frames = latent.shape
        projected = self.projection[1](self.projection[0](latent), frames)
        # (B, C, T) -> (B * T, G, C / G)
        encoded = at_least_float32(projected).transpose(1, 2).reshape(clips * num_frames, self.groups, -1)
        # (G, V, C / G)
        entries = self.entries()
        codes = nearest(encoded.detach(), entries.detach())
        chosen = look_up(codes, entries)
        # The value of the codeword exactly, with the gradient of the frame.
        passed = chosen.detach() + (encoded - encoded.detach())

        counted_codes = codes
        if frames is not None and is_padded(frames, num_frames) and frames.any():
            rows = true_frames(frames, num_frames).to(latent.device, non_blocking=True)
            encoded, chosen, counted_codes = (part.index_select(0, rows) for part in (encoded, chosen, codes))
        # Codewords move to their frames; frames, gamma times as much, to their codewords.
        loss = F.mse_loss(chosen, encoded.detach()) + self.gamma * F.mse_loss(encoded, chosen.detach())
        return KmeansQuantized(
            x=passed.view(clips, num_frames, channels).transpose(1, 2).type_as(latent),
            codes=codes.view(clips, num_frames, self.groups),
            code_perplexity=code_perplexity(counted_codes, self.num_vars),
            kmeans_loss=loss,
        )

    def forward_idx(self, latent: Tensor) -> tuple[Tensor, Tensor]:
        """Return quantised frames (B, C, T) and codes (B, T, G) of latent frames (B, C, T)."""
        quantized = self(latent)
        return quantized.x, quantized.codes


def nearest(frames: Tensor, entries: Tensor) -> Tensor:
    """Return the (N, G) numbers of the codewords with the smallest Euclidean distance.

    |z - e|^2 = |z|^2 - 2 z.e + |e|^2, of which the first term is the same for all codewords: one matrix product
    instead of the original's (V, N, G, C / G) tensor of differences.

    Args:
        frames: (N, G, D), in float32 at least.
        entries: (G, V, D), of the same dtype.
    """
    with torch.autocast(frames.device.type, enabled=False):
        # (G, N, D) x (G, D, V) -> (G, N, V)
        products = torch.bmm(frames.transpose(0, 1), entries.transpose(1, 2))
        scores = products - 0.5 * entries.square().sum(dim=2).unsqueeze(1)
    return scores.argmax(dim=2).transpose(0, 1)
