"""What a masked language model knows: how often each token occurs, and how well hidden ones are told, by position."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from w2v.array_types import FloatArray, IntArray
from w2v.config.sections import DatasetConfig
from w2v.data.dictionary import SPECIALS
from w2v.inference.load import LoadedModel
from w2v.models.roberta import RobertaModel
from w2v.tasks.masked_lm import MaskedLmTask


@dataclass(frozen=True)
class TokenSurvey:
    """Sums over hidden tokens.

    Attributes:
        counts: (V,) how often each token occurs in the text.
        predicted: (T,) hidden tokens at each position of an item, `<s>` at 0.
        losses: (T,) sums of their negative log-probabilities, in nats.
    """

    counts: IntArray
    predicted: IntArray
    losses: FloatArray

    @property
    def perplexity(self) -> float:
        """Of all hidden tokens."""
        return float(np.exp(self.losses.sum() / max(self.predicted.sum(), 1)))

    @property
    def used(self) -> FloatArray:
        """Shares of the tokens that occur, the most frequent first."""
        shares = np.sort(self.counts[self.counts > 0])[::-1] / max(self.counts.sum(), 1)
        return np.asarray(shares, dtype=np.float64)

    def by_position(self, width: int) -> list[tuple[int, int, float]]:
        """Return first position, hidden tokens, and perplexity of each stretch of `width` positions that has any."""
        found = []
        for start in range(0, len(self.predicted), width):
            count = int(self.predicted[start : start + width].sum())
            if count:
                found.append((start, count, float(np.exp(self.losses[start : start + width].sum() / count))))
        return found


@torch.no_grad()
def survey_tokens(loaded: LoadedModel, folder: Path, split: str, *, max_tokens: int, max_batches: int) -> TokenSurvey:
    """Ask a masked language model for the hidden tokens of a split, under the masks of its validation.

    Args:
        loaded: the model, on its device.
        folder: with the tokens of the split.
        split: its name.
        max_tokens: padded tokens per batch.
        max_batches: most batches.

    Raises:
        DataError: there are no such tokens, or none that fits the model.
    """
    model: Any = loaded.model
    trained: Any = loaded.task
    assert isinstance(model, RobertaModel)
    task = MaskedLmTask(dataclasses.replace(trained.config, data=str(folder)), trained.seed)
    task.load_state_dict(trained.state_dict())
    task.limit_positions(model.max_positions)
    dataset = DatasetConfig(num_workers=0, max_tokens=max_tokens, skip_invalid_size_inputs_valid_test=True)
    losses, predicted = np.zeros(model.max_positions), np.zeros(model.max_positions, dtype=np.int64)
    device = next(model.parameters()).device
    batches = task.valid_batches(split, dataset)
    for _, batch in zip(range(max_batches), batches):
        places = np.nonzero((batch.targets != model.pad).numpy())[1]
        output = model(batch.source.to(device), batch.lengths, batch.seed, batch.targets)
        np.add.at(losses, places, -output.log_probs.double().cpu().numpy())
        np.add.at(predicted, places, 1)
    items = task.load_dataset(split)
    tokens = items.sentences.tokens.astype(np.int64) - items.sentences.shift
    counts = np.bincount(tokens, minlength=model.num_words)
    counts[: len(SPECIALS)] = 0  # no tokens of speech
    return TokenSurvey(counts, predicted, losses)
