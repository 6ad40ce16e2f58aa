"""The values that flow through the house, in the order in which they appear.

manifest line -> AudioExample -> AudioBatch -> model -> ContrastiveOutput | MaskedPredictionOutput | CtcOutput
-> criterion -> Loss.
In inference: CtcOutput -> Emissions -> decoder -> Hypothesis.
text -> TextBatch -> model -> LanguageModelOutput -> criterion -> Loss.
Shapes: B clips, S samples, T frames or words, C channels, V symbols, K negatives, N predictions.
`padding_mask` is always true where there is padding.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Protocol

import torch
from torch import Tensor

from w2v.array_types import BoolArray as BoolArray
from w2v.array_types import FloatArray as FloatArray
from w2v.array_types import IntArray as IntArray

BLANK = 0
"""Index of CTC's blank: the dictionary's `<s>`, as in the original."""


class Batch(Protocol):
    """What the trainer needs to know of a batch, whatever the task."""

    @property
    def seed(self) -> int: ...
    @property
    def indices(self) -> Tensor: ...
    @property
    def num_items(self) -> int: ...
    @property
    def num_tokens(self) -> int: ...
    def to(self, device: torch.device) -> Batch: ...


@dataclass(frozen=True)
class AudioExample:
    """One clip as the dataset returns it.

    Attributes:
        index: number of the clip in its data set: its line in the manifest, from 0, after dropping too short clips.
        source: (S,) float32 samples in [-1, 1], or normalised.
        targets: (L,) int64 label ids, if the dataset has labels.
    """

    index: int
    source: Tensor
    targets: Tensor | None = None


@dataclass(frozen=True)
class AudioBatch:
    """Clips of one micro-batch.

    Attributes:
        source: (B, S) float32, zero where padded.
        lengths: (B,) int64, true samples per clip. Stays on the CPU: masks are planned on the host, and reading
            a device tensor there would stall the step.
        indices: (B,) int64 numbers of the clips in their data set (lines of the manifest, after dropping); CPU.
        seed: base of every random draw made for this batch.
        targets: (B, L) int64 label ids, right-padded with `pad`.
        target_lengths: (B,) int64; CPU.
        starts: first sample of each row in its clip, where clips were cropped; what else belongs to them is cut alike.
    """

    source: Tensor
    lengths: Tensor
    indices: Tensor
    seed: int
    targets: Tensor | None = None
    target_lengths: Tensor | None = None
    starts: list[int] = field(default_factory=list)

    @property
    def num_items(self) -> int:
        return self.source.shape[0]

    @property
    def num_tokens(self) -> int:
        """Padded samples, the unit of `--max-tokens`."""
        return self.source.numel()

    @property
    def is_padded(self) -> bool:
        """Whether any clip is shorter than the batch is wide."""
        return bool((self.lengths < self.source.shape[1]).any())

    def to(self, device: torch.device) -> AudioBatch:
        """Return the batch with `source` and `targets` on `device` (copied without waiting where memory is pinned)."""
        targets = None if self.targets is None else self.targets.to(device, non_blocking=True)
        return replace(self, source=self.source.to(device, non_blocking=True), targets=targets)

    def pin_memory(self) -> AudioBatch:
        """Return the batch in page-locked memory (called by torch's loader)."""
        targets = None if self.targets is None else self.targets.pin_memory()
        return replace(self, source=self.source.pin_memory(), targets=targets)


@dataclass(frozen=True)
class FrameLabelBatch(AudioBatch):
    """Clips with class ids at a steady rate, of one label set or several (HuBERT).

    Attributes:
        frame_labels: per set (B, L) int64, right-padded with `pad`.
        label_lengths: per set (B,) int64 true labels; CPU.
    """

    frame_labels: tuple[Tensor, ...] = ()
    label_lengths: tuple[Tensor, ...] = ()

    def to(self, device: torch.device) -> FrameLabelBatch:
        """Return the batch with samples and labels on `device`."""
        labels = tuple(labels.to(device, non_blocking=True) for labels in self.frame_labels)
        return replace(self, source=self.source.to(device, non_blocking=True), frame_labels=labels)

    def pin_memory(self) -> FrameLabelBatch:
        """Return the batch in page-locked memory (called by torch's loader)."""
        labels = tuple(labels.pin_memory() for labels in self.frame_labels)
        return replace(self, source=self.source.pin_memory(), frame_labels=labels)


@dataclass(frozen=True)
class TextBatch:
    """Samples of text of one micro-batch. A word here is one entry of the dictionary, be it a letter.

    Attributes:
        source: (B, T) int64 words, right-padded; what a model reads.
        targets: (B, T) int64, the word after each, or of a masked language model the word itself where it is to be
            predicted and `<pad>` elsewhere; stays on the CPU, where the host sees which words are asked for.
        lengths: (B,) int64 true words per sample; CPU.
        indices: (B,) int64 numbers of the samples in their data set; CPU.
        seed: base of every random draw made for this batch.
    """

    source: Tensor
    targets: Tensor
    lengths: Tensor
    indices: Tensor
    seed: int

    @property
    def num_items(self) -> int:
        return self.source.shape[0]

    @property
    def num_tokens(self) -> int:
        """Padded words, the unit of `--max-tokens`."""
        return self.source.numel()

    def to(self, device: torch.device) -> TextBatch:
        """Return the batch with `source` on `device` (copied without waiting where memory is pinned)."""
        return replace(self, source=self.source.to(device, non_blocking=True))

    def pin_memory(self) -> TextBatch:
        """Return the batch with `source` in page-locked memory (called by torch's loader)."""
        return replace(self, source=self.source.pin_memory())


@dataclass(frozen=True)
class Features:
    """Frames of an encoder.

    Attributes:
        features: (B, T, C).
        lengths: (B,) int64 true frames per clip, on the CPU; None where every clip fills the batch.
        layers: (B, T, C) after each transformer block, where asked for.
    """

    features: Tensor
    lengths: Tensor | None
    layers: list[Tensor] = field(default_factory=list)


@dataclass(frozen=True)
class ContrastiveOutput:
    """Similarities of predictions with their positive and their negatives.

    Attributes:
        logits: (N, 1 + K); the positive is in column 0. A negative equal to its positive holds -inf.
        penalties: name -> scalar, in the order in which `--loss-weights` weighs them.
        stats: name -> scalar to be logged (`prob_perplexity`, `code_perplexity`, `temp`).
        negative_weight: weight of each negative in the binary loss (wav2vec `--balanced-classes`).
    """

    logits: Tensor
    penalties: dict[str, Tensor] = field(default_factory=dict)
    stats: dict[str, Tensor | float] = field(default_factory=dict)
    negative_weight: float = 1.0


@dataclass(frozen=True)
class ClassLogits:
    """Similarities of predictions with the classes of one label set.

    Attributes:
        logits: (N, 1 + C); the frame's own class is in column 0, and holds -inf among the C classes after it.
        labels: (N,) int64 own classes.
    """

    logits: Tensor
    labels: Tensor


@dataclass(frozen=True)
class MaskedPredictionOutput:
    """What HuBERT predicts for frames that were hidden, and for those that were not.

    Attributes:
        masked: per label set.
        unmasked: per label set; empty where they are left out.
        penalties: name -> scalar, in the order in which `--loss-weights` weighs them.
    """

    masked: list[ClassLogits]
    unmasked: list[ClassLogits]
    penalties: dict[str, Tensor] = field(default_factory=dict)


@dataclass(frozen=True)
class CtcOutput:
    """Unnormalised scores of symbols per frame.

    Attributes:
        logits: (B, T, V); the blank is symbol 0.
        lengths: (B,) int64 true frames per clip; CPU.
    """

    logits: Tensor
    lengths: Tensor


@dataclass(frozen=True)
class LanguageModelOutput:
    """How likely a language model held the words that came.

    Attributes:
        log_probs: (N,) natural log-probabilities of the true words of a batch, row after row, without padding.
    """

    log_probs: Tensor


@dataclass(frozen=True)
class Emissions:
    """What a decoder reads: log-probabilities of symbols for the clips of one batch, on the CPU.

    Attributes:
        rows: lines of the clips in their manifest, from 0.
        num_samples: samples per clip as they were decoded; 0: the clip could not be read.
        log_probs: (B, T, V) float32; the blank is symbol 0.
        lengths: (B,) int64 true frames per clip.
    """

    rows: list[int]
    num_samples: list[int]
    log_probs: Tensor
    lengths: Tensor

    def clip(self, place: int) -> Tensor:
        """Return the (T, V) true frames of one clip of the batch."""
        return self.log_probs[place, : int(self.lengths[place])]


Value = Tensor | float


@dataclass(frozen=True)
class ClipLosses:
    """The loss of a batch, clip by clip.

    Attributes:
        losses: (B,) on the device of the model.
        sizes: (B,) terms of each clip, whose sum is the batch's `sample_size`; CPU.
        sums: name -> (B,) numbers of `Loss.sums` that a clip's weight weighs, too; CPU.
    """

    losses: Tensor
    sizes: Tensor
    sums: dict[str, Tensor] = field(default_factory=dict)


@dataclass(frozen=True)
class Loss:
    """What a criterion returns.

    Attributes:
        value: scalar; a *sum* over `sample_size` terms, so that micro-batches and ranks can be added up.
        sample_size: number of terms; what the gradient is divided by. A python number or a scalar tensor.
        sums: name -> number; everything here may be added over micro-batches, ranks and updates.
            `Criterion.summarize` turns totals into the values that are logged.
        by_clip: the same clip by clip, where a criterion knows it: what `--subset-weights` weighs.
    """

    value: Tensor
    sample_size: Value
    sums: dict[str, Value] = field(default_factory=dict)
    by_clip: ClipLosses | None = None


@dataclass(frozen=True)
class Hypothesis:
    """One hypothesis for one clip.

    Attributes:
        tokens: label ids without blanks and repetitions.
        words: words, after `--post-process`.
        score: total score, larger is better.
        scores: parts of the score by name (`emission`, `lm`, ...).
        timesteps: first frame of each token; empty where the decoder does not know.
    """

    tokens: list[int]
    words: list[str]
    score: float
    scores: dict[str, float] = field(default_factory=dict)
    timesteps: list[int] = field(default_factory=list)
