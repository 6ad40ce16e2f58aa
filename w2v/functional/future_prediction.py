"""Index arithmetic of wav2vec's future prediction: which frames are predicted, against which negatives.

wav2vec (Schneider et al. 2019, section 2.2) projects the context of frame t once per step k and compares it with
the latent frame t + offset + k - 1, its positive, and with other frames, its negatives. The projections and their
parameters live in `modules/future_predictor`; the loss lives in the criterion.
"""

from __future__ import annotations

import torch
from torch import Tensor

from w2v.functional.padding import true_frames

# Draws are taken modulo the number of choices; out of 2**53 the bias is below one in 10**10.
DRAW_RANGE = 2**53


def prediction_rows(frames: Tensor, num_frames: int, offset: int, steps: int) -> Tensor:
    """Return the predictions that exist, as flat indices into (B, num_frames - offset, steps).

    Entry (b, t, k) stands for target frame `offset + t` predicted from context frame `t - k`. It exists where the
    context lies in the clip and the target is one of the clip's true frames.

    Args:
        frames: (B,) int64 true frames per clip, on the CPU.
        num_frames: width T of the batch in frames.
        offset: frames between the context and the target of the first step.
        steps: number of prediction steps K.

    Returns:
        (N,) int64, on the CPU, increasing.
    """
    shifted = torch.arange(max(num_frames - offset, 0))
    is_true = shifted + offset < frames.unsqueeze(1)
    has_context = shifted.unsqueeze(1) >= torch.arange(steps)
    # (B, T', 1) & (T', K) -> (B, T', K)
    return (is_true.unsqueeze(2) & has_context).flatten().nonzero().squeeze(1)


def future_logits(projections: Tensor, candidates: Tensor, rows: Tensor) -> Tensor:
    """Compare every projection with the candidates of its target frame (plain dot products, no temperature).

    One batched product over target frames serves all steps: a frame's candidates are read once.

    Args:
        projections: (B, T', K, C): for target frame t and step k, the projected context of frame t - k.
        candidates: (B, T', 1 + N, C): the positive and the negatives of each target frame.
        rows: (R,) flat indices into (B, T', K), as `prediction_rows` gives them.

    Returns:
        (R, 1 + N).
    """
    # (B, T', K, C) x (B, T', C, 1 + N) -> (B, T', K, 1 + N)
    products = torch.matmul(projections, candidates.transpose(2, 3))
    return products.flatten(0, 2).index_select(0, rows)


def sample_future_negatives(
    frames: Tensor,
    num_frames: int,
    num_negatives: int,
    cross_sample_negatives: int,
    sample_distance: int | None,
    *,
    generator: torch.Generator,
) -> Tensor:
    """Draw the negatives of every target frame, uniformly and with replacement.

    Differs from the original (`Wav2VecPredictionsModel.sample_negatives`), where the frame to be left out is
    misaligned, so that a negative may be the positive itself, where padding can be drawn, and where
    `--sample-distance` moves the draws of every clip but the first into other clips.

    Args:
        frames: (B,) int64 true frames per clip, on the CPU.
        num_frames: width T of the batch in frames.
        num_negatives: negatives from the same clip.
        cross_sample_negatives: negatives from all clips of the batch.
        sample_distance: draw in-clip negatives from this many first frames only; None: from all.
        generator: source of the draws; its device is where the result lies.

    Returns:
        (B, T, num_negatives + cross_sample_negatives) int64 flat positions `clip * T + frame`, the same-clip
        negatives first. Rows of padding frames hold valid positions without a meaning.
    """
    device = generator.device
    position = torch.arange(num_frames)
    size = (frames.shape[0], num_frames, num_negatives + cross_sample_negatives)
    draws = torch.randint(DRAW_RANGE, size, generator=generator, device=device)

    limit = frames if sample_distance is None else frames.clamp(max=sample_distance)
    # A target beyond the limit leaves nothing out; in a clip of one frame, which predicts nothing, the draw is void.
    choices = (limit.unsqueeze(1) - (position < limit.unsqueeze(1)).long()).clamp(min=1)
    # One choice fewer than frames; those from the target's own place on move up by one, over it.
    local = draws[..., :num_negatives] % choices.unsqueeze(2).to(device, non_blocking=True)
    local += local >= position.to(device).unsqueeze(1)
    starts = (torch.arange(frames.shape[0]) * num_frames).to(device, non_blocking=True)
    own_clip = (local + starts.view(-1, 1, 1)).clamp(max=size[0] * num_frames - 1)
    if not cross_sample_negatives:
        return own_clip

    positions = true_frames(frames, num_frames)
    total = positions.shape[0]
    # rank of (b, t) among the true frames of the batch
    rank = (frames.cumsum(0) - frames).unsqueeze(1) + torch.minimum(position, frames.unsqueeze(1) - 1)
    other = draws[..., num_negatives:] % max(total - 1, 1)
    other += other >= rank.to(device, non_blocking=True).unsqueeze(2)
    if total == 0:  # no clip has a frame: nothing is predicted, any position will do
        positions = torch.zeros(1, dtype=torch.long)
    any_clip = positions.to(device, non_blocking=True)[other.clamp(max=positions.shape[0] - 1)]
    return torch.cat([own_clip, any_clip], dim=2)
