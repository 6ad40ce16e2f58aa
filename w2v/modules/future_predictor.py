"""Projections of the context into the future, and their similarities with positives and negatives.

wav2vec, Schneider et al. 2019, section 2.2 (the affine transformations h_k and the products inside the loss). The
binary and the InfoNCE loss on top of these logits live in `criterions/wav2vec_criterion`.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from w2v.functional.dropout import Dropout
from w2v.functional.future_prediction import future_logits, prediction_rows
from w2v.modules.bare import is_bare


class FuturePredictor(nn.Module):
    """One affine projection per prediction step.

    Args:
        context_dim: channels of the context.
        target_dim: channels C of the targets.
        steps: number of future frames predicted from each context frame (`--prediction-steps`).
        offset: frames between a context frame and its first target (`--offset`).
        dropout: on the projections (`--dropout`).
    """

    def __init__(self, context_dim: int, target_dim: int, steps: int, offset: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.steps = steps
        self.offset = offset
        # In the original's shape, (context_dim, target_dim, 1, steps); `project` uses its parameters.
        self.project_to_steps = nn.ConvTranspose2d(context_dim, target_dim, (1, steps))
        self.dropout = Dropout(dropout)

    def forward(self, context: Tensor, targets: Tensor, negatives: Tensor, frames: Tensor) -> Tensor:
        """Return the logits of all predictions of the batch, the positive in column 0.

        Args:
            context: (B, context_dim, T).
            targets: (B, C, T).
            negatives: (B, T, K) flat positions `clip * T + frame` into the targets, for each target frame.
            frames: (B,) int64 true frames per clip, on the CPU.

        Returns:
            (N, 1 + K), ordered by clip, then target frame, then step.
        """
        clips, _, num_frames = targets.shape
        rows = prediction_rows(frames, num_frames, self.offset, self.steps).to(targets.device, non_blocking=True)
        if num_frames <= self.offset:
            return targets.new_zeros(0, 1 + negatives.shape[2])
        # Candidate 0 of each target frame is the frame itself.
        own = torch.arange(clips * num_frames, device=targets.device).view(clips, num_frames, 1)
        choice = torch.cat([own, negatives], dim=2)[:, self.offset :]
        # (B, C, T) -> (B * T, C) -> (B, T', 1 + K, C): gathered once, for all steps
        flat = targets.transpose(1, 2).flatten(0, 1)
        candidates = flat.index_select(0, choice.flatten()).view(*choice.shape, -1)
        return future_logits(self.project(context), candidates, rows)

    def project(self, context: Tensor) -> Tensor:
        """Return the projections by target frame.

        Args:
            context: (B, context_dim, T).

        Returns:
            (B, T - offset, steps, C): entry (b, t, k) is projection k of context frame t - k, whose target is frame
            t + offset; where t < k there is no such frame, and the entry has no meaning.
        """
        num_targets = context.shape[2] - self.offset
        if not is_bare(self.project_to_steps, nn.ConvTranspose2d):
            return self._project_by_call(context, num_targets)
        # Shifting the context before the product saves moving the projections, which are `steps` times as large.
        # (B, C', T) -> (B, steps - 1 + T, C')
        padded = F.pad(context.transpose(1, 2), (0, 0, self.steps - 1, 0))
        # (C', C, 1, steps) -> steps x (C, C')
        weights = self.project_to_steps.weight.squeeze(2).permute(2, 1, 0).contiguous().unbind(0)
        projections = [
            F.linear(padded[:, self.steps - 1 - step :][:, :num_targets], weight, self.project_to_steps.bias)
            for step, weight in enumerate(weights)
        ]
        stacked: Tensor = self.dropout(torch.stack(projections, dim=2))
        return stacked

    def _project_by_call(self, context: Tensor, num_targets: int) -> Tensor:
        """Return what `project` does, by calling the layer: for hooks and for what changes its weight."""
        # (B, C', T) -> (B, C, T, steps) -> steps x (B, T, C)
        by_step = self.project_to_steps(context.unsqueeze(-1)).permute(3, 0, 2, 1).unbind(0)
        shifted = [F.pad(part, (0, 0, step, 0))[:, :num_targets] for step, part in enumerate(by_step)]
        result: Tensor = self.dropout(torch.stack(shifted, dim=2))
        return result
