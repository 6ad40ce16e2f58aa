"""Samples of a text, and batches of them (`--task language_modeling`).

The source begins with the word before the sample, which is `</s>` at the beginning of a sentence; the targets are the
sample itself. Nothing is copied until a batch is made.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from w2v.data.batch_sampler import PaddingStats, padding_stats
from w2v.data.dataset import BatchDataset
from w2v.data.dictionary import Dictionary
from w2v.data.text import Text
from w2v.types import IntArray, TextBatch


class TextDataset(BatchDataset):
    """Samples of a text.

    Args:
        text: the words.
        break_mode: `--sample-break-mode`.
        tokens_per_sample: words per sample.
        max_size: leave out samples of more words.
        add_bos: begin source and targets of each sample with `<s>`.

    Attributes:
        sizes: (N,) words per sample, with `<s>` where it is added.
        num_too_long: samples that were left out.
    """

    def __init__(
        self, text: Text, break_mode: str, tokens_per_sample: int, max_size: int, *, add_bos: bool = False
    ) -> None:
        self.text = text
        self.add_bos = add_bos
        starts, sizes = text.samples(break_mode, tokens_per_sample)
        fits = sizes <= max_size
        self.num_too_long = int((~fits).sum())
        self.starts: IntArray = starts[fits]
        self.sizes: IntArray = sizes[fits] + add_bos

    def __len__(self) -> int:
        return len(self.starts)

    def name(self, index: int) -> str:
        """Return the words for a sample in messages."""
        return f"sample {index}"

    def waste(self, batches: Sequence[IntArray]) -> PaddingStats:
        """Return what an epoch of `batches` wastes."""
        return padding_stats(batches, self.sizes, pad=True)

    def batch(self, indices: Sequence[int] | IntArray, seed: int) -> TextBatch:
        """Return a batch; it depends on `indices` and `seed` alone."""
        chosen = np.array(indices, dtype=np.int64)
        sizes = self.sizes[chosen] - self.add_bos
        places = np.arange(sizes.max())
        inside = places < sizes[:, None]
        rows = np.where(inside, self.starts[chosen, None] + places, 0)
        # What comes after a word stands one place behind it.
        source, targets = (
            np.where(inside, self.text.words[rows + shift], Dictionary.pad).astype(np.int64) for shift in (0, 1)
        )
        if self.add_bos:
            source, targets = (np.insert(words, 0, Dictionary.bos, axis=1) for words in (source, targets))
        return TextBatch(
            source=torch.from_numpy(source),
            targets=torch.from_numpy(targets),
            lengths=torch.from_numpy(self.sizes[chosen]),
            indices=torch.from_numpy(chosen),
            seed=seed,
        )
