"""Items of a masked language model, and batches of them (`--task masked_lm`).

The mask of an item follows from (seed, epoch, number of the item) alone: it is the same on any number of workers and
ranks and after a restart. Differs from the original, whose caches sometimes serve the mask of the epoch before.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from w2v.data.batch_sampler import PaddingStats, padding_stats
from w2v.data.binarized_file import TokenFile
from w2v.data.dataset import BatchDataset
from w2v.data.dictionary import Dictionary
from w2v.data.token_blocks import token_blocks
from w2v.data.token_masks import Generator, TokenMaskSpec, mask_tokens, stream_seed
from w2v.errors import DataError
from w2v.rng import seed_from
from w2v.types import IntArray, TextBatch

SHORTEN_METHODS = ("none", "truncate", "random_crop")
_EPOCH_SHIFT = 40


@dataclass(frozen=True)
class ItemSpec:
    """How sentences become items; the options of the same names."""

    sample_break_mode: str
    tokens_per_sample: int
    shorten_method: str = "none"


class MaskedTokenDataset(BatchDataset):
    """Blocks of tokens with masks.

    Args:
        sentences: the tokens.
        items: how they become items.
        masks: what is hidden.
        seed: `--seed`.

    Attributes:
        sizes: (N,) tokens per item, `<s>` included.

    Raises:
        DataError: no item comes of the sentences.
    """

    def __init__(self, sentences: TokenFile, items: ItemSpec, masks: TokenMaskSpec, seed: int) -> None:
        self.sentences = sentences
        self.items = items
        self.masks = masks
        self.seed = seed
        sizes = sentences.sizes
        if items.shorten_method != "none":
            sizes = np.minimum(sizes, items.tokens_per_sample)
        try:
            # One token of each item is the `<s>` before it.
            self._blocks = token_blocks(sizes, items.sample_break_mode, items.tokens_per_sample - 1)
        except DataError as e:
            raise DataError(f"{sentences.path}: {e}") from e
        if not len(self._blocks):
            raise DataError(f"{sentences.path}: holds no sentences")
        self.sizes: IntArray = self._blocks.sizes + 1

    def __len__(self) -> int:
        return len(self.sizes)

    def name(self, index: int) -> str:
        """Return the words for an item in messages: the line of its first sentence."""
        return f"{self.sentences.path}: the item that begins in sentence {int(self._blocks.first[index]) + 1}"

    def waste(self, batches: Sequence[IntArray]) -> PaddingStats:
        """Return what an epoch of `batches` wastes."""
        return padding_stats(batches, self.sizes, pad=True)

    def batch_seed(self, seed: int, epoch: int | str, number: int) -> int:
        """Return the seed of a batch, with the epoch in its upper bits; a validation has the masks of epoch 1."""
        trained = epoch if isinstance(epoch, int) else 1
        return (trained << _EPOCH_SHIFT) + seed_from(seed, epoch, number) % (1 << _EPOCH_SHIFT)

    def item(self, index: int) -> IntArray:
        """Return the (n,) tokens of an item before masks, `<s>` first."""
        blocks = self._blocks
        rows = range(int(blocks.first[index]), int(blocks.last[index]) + 1)
        # Whole sentences, from which the block is cut: most blocks are whole sentences themselves.
        stream = np.concatenate([self._sentence(row) for row in rows])
        start = int(blocks.offsets[index])
        tokens = stream[start : start + int(blocks.sizes[index])]
        for forbidden, symbol in ((self.masks.mask, "<mask>"), (self.masks.pad, "<pad>")):
            if (tokens == forbidden).any():
                raise DataError(f"{self.name(index)} holds {symbol}, which has a meaning of its own")
        return np.insert(tokens, 0, Dictionary.bos)

    def masked_item(self, index: int, epoch: int) -> tuple[npt.NDArray[np.integer], npt.NDArray[np.integer]]:
        """Return what the model sees of an item in an epoch, and what it is to predict, both (n,)."""
        return mask_tokens(self.item(index), self.masks, self.generator(stream_seed(self.seed, epoch, index)))

    @staticmethod
    def generator(seed: int) -> Generator:
        """Return what an item's draws come from: numpy's legacy generator, as in the original until 2022."""
        return np.random.RandomState(seed)

    def batch(self, indices: Sequence[int] | IntArray, seed: int) -> TextBatch:
        """Return a batch; it depends on `indices` and `seed` alone."""
        chosen = np.array(indices, dtype=np.int64)
        epoch = seed >> _EPOCH_SHIFT
        sizes = self.sizes[chosen]
        source = np.full((len(chosen), int(sizes.max())), self.masks.pad, dtype=np.int64)
        targets = source.copy()
        for place, index in enumerate(chosen.tolist()):
            size = sizes[place]
            source[place, :size], targets[place, :size] = self.masked_item(index, epoch)
        return TextBatch(
            source=torch.from_numpy(source),
            targets=torch.from_numpy(targets),
            lengths=torch.from_numpy(sizes),
            indices=torch.from_numpy(chosen),
            seed=seed,
        )

    def _sentence(self, row: int) -> IntArray:
        tokens = self.sentences.sentence(row)
        limit = self.items.tokens_per_sample
        if self.items.shorten_method == "none" or len(tokens) <= limit:
            return tokens
        start = 0
        if self.items.shorten_method == "random_crop":
            # As in the original: the epoch does not come here, so a sentence keeps its crop; the last start is never
            # drawn.
            start = np.random.RandomState(stream_seed(self.seed, 0, row)).randint(0, len(tokens) - limit)
        return tokens[start : start + limit]
