"""Product quantisation with a Gumbel softmax (wav2vec 2.0, section 2; vq-wav2vec, section 3.1).

The arithmetic is in `w2v.functional.codebook`. Shared by wav2vec 2.0 and vq-wav2vec.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from w2v.functional.autocast import at_least_float32
from w2v.functional.codebook import (
    code_perplexity,
    gumbel_noise,
    gumbel_probabilities,
    look_up,
    prob_perplexity,
    straight_through_lookup,
)


@dataclass(frozen=True)
class Quantized:
    """Quantised frames.

    Attributes:
        x: (B, T, D) chosen entries, the groups side by side.
        codes: (B, T, G) int64 in [0, V).
        prob_perplexity: scalar, of the averaged softmax.
        code_perplexity: scalar, of the chosen codes.
    """

    x: Tensor
    codes: Tensor
    prob_perplexity: Tensor
    code_perplexity: Tensor


class GumbelVectorQuantizer(nn.Module):
    """Choose one entry per group for every frame.

    Args:
        dim: width C of the input.
        num_vars: V, entries per group.
        temperature: (start, end, decay); the temperature after u updates is max(start x decay ** u, end).
        groups: G.
        combine_groups: all groups share one codebook.
        vq_dim: width D of the output, divisible by G.
        weight_proj_depth: linear layers between input and logits; inner ones are `weight_proj_factor` x C wide.
        weight_proj_factor: see above.
        activation: between those layers.
    """

    def __init__(
        self,
        dim: int,
        num_vars: int,
        temperature: tuple[float, float, float],
        groups: int,
        *,
        combine_groups: bool,
        vq_dim: int,
        weight_proj_depth: int = 1,
        weight_proj_factor: int = 2,
        activation: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self.groups = groups
        self.combine_groups = combine_groups
        self.vars_per_group = num_vars
        self.temperature = temperature
        self.current_temperature = temperature[0]
        self.vars = nn.Parameter(torch.rand(1, num_vars * (1 if combine_groups else groups), vq_dim // groups))
        if weight_proj_depth > 1:
            widths = [dim] + [dim * weight_proj_factor] * (weight_proj_depth - 1)
            blocks: list[nn.Module] = [
                nn.Sequential(nn.Linear(before, after), activation or nn.ReLU())
                for before, after in itertools.pairwise(widths)
            ]
            self.weight_proj: nn.Module = nn.Sequential(*blocks, nn.Linear(widths[-1], groups * num_vars))
        else:
            linear = nn.Linear(dim, groups * num_vars)
            nn.init.normal_(linear.weight, mean=0.0, std=1.0)
            nn.init.zeros_(linear.bias)
            self.weight_proj = linear

    @property
    def num_vars(self) -> int:
        """G x V, the largest perplexity there can be."""
        return self.groups * self.vars_per_group

    def set_num_updates(self, num_updates: int) -> None:
        """Cool down. The temperature follows updates, not forward calls, so accumulation does not speed it up."""
        start, end, decay = self.temperature
        self.current_temperature = max(start * decay**num_updates, end)

    def entries(self) -> Tensor:
        """Return the codebook as (G, V, D / G), in float32 at least."""
        entries = at_least_float32(self.vars).view(-1, self.vars_per_group, self.vars.shape[-1])
        return entries.expand(self.groups, -1, -1)

    def forward(
        self,
        x: Tensor,
        *,
        noise: Tensor | None = None,
        generator: torch.Generator | None = None,
        sample: bool = True,
    ) -> Quantized:
        """Quantise (B, T, C) frames.

        In training the softmax of noisy logits decides (Gumbel softmax), with its gradient (straight-through). In
        evaluation the largest logit decides, and no gradient flows into the choice, as in the original.

        Args:
            x: (B, T, C).
            noise: (B * T * G, V) Gumbel samples to use instead of drawing; only in training.
            generator: source of the noise; needed in training where `noise` is None.
            sample: False for features: the largest logit decides in training, too, and its softmax gives the gradient,
                in evaluation, too.
        """
        # Frames are independent of each other here: clips and time become one dimension N = B * T.
        num_clips, num_frames, _ = x.shape
        # (B, T, C) -> (B * T, G, V)
        logits = at_least_float32(self.weight_proj(x.flatten(0, 1)))
        logits = logits.view(num_clips * num_frames, self.groups, self.vars_per_group)
        hard_codes = codes = logits.argmax(dim=-1)  # (B * T, G)
        soft: Tensor | None = None
        if self.training and sample:
            if noise is None:
                if generator is None:
                    raise ValueError("a quantizer in training mode needs noise or a generator")
                noise = gumbel_noise(tuple(logits.shape), generator=generator)
            # (N, G, V); the colder, the closer to a choice of one, and the larger its gradient's variance
            soft = gumbel_probabilities(logits, noise.view_as(logits), self.current_temperature)
            codes = soft.argmax(dim=-1)
        elif not sample and torch.is_grad_enabled() and logits.requires_grad:
            # Differs from the original, where features carry no gradient into what comes before the codebook.
            soft = gumbel_probabilities(logits, torch.zeros_like(logits), self.current_temperature)
        # (G, V, D / G), in float32: differences between codewords are small against their size
        entries = self.entries()
        quantized = look_up(codes, entries) if soft is None else straight_through_lookup(soft, codes, entries)
        return Quantized(
            x=quantized.view(num_clips, num_frames, self.groups * self.vars.shape[-1]).type_as(x),
            codes=codes.view(num_clips, num_frames, self.groups),
            prob_perplexity=prob_perplexity(logits),
            code_perplexity=code_perplexity(hard_codes, self.vars_per_group),
        )
