"""What tasks over text have in common: a dictionary, which goes into checkpoints, and batches of a split's items."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch

from w2v.config.sections import DatasetConfig
from w2v.criterions.base import Criterion
from w2v.data.batch_sampler import BatchPlan
from w2v.data.dictionary import Dictionary
from w2v.data.iterator import EpochIterator
from w2v.tasks.base import Task
from w2v.tasks.batches import train_epochs, valid_epoch
from w2v.types import Loss, TextBatch


class TextTask(Task):
    """Batches of text; a task derived from it says what its items are, and which of them share a batch (`plan`)."""

    def __init__(self, config: Any, seed: int = 1) -> None:
        super().__init__(config, seed)
        self._dictionary: Dictionary | None = None

    @property
    def dictionary(self) -> Dictionary:
        """The symbols: those of the data folder, or of a checkpoint."""
        if self._dictionary is None:
            self._dictionary = self.read_dictionary()
        return self._dictionary

    def read_dictionary(self) -> Dictionary:
        """Read or count the dictionary of the data folder.

        Raises:
            DataError: a file is missing or malformed.
        """
        raise NotImplementedError

    def plan(
        self, split: str, max_tokens: int | None, batch_size: int | None, dataset: DatasetConfig, *, is_valid: bool
    ) -> BatchPlan:
        """Return which items share a batch.

        Args:
            split: its name.
            max_tokens: symbols of a batch, padding counted; None: any number.
            batch_size: items of a batch; None: any number.
            dataset: the root section.
            is_valid: whether the batches are for validation.

        Raises:
            ConfigError: there is neither limit.
        """
        raise NotImplementedError

    def train_batches(self, split: str, dataset: DatasetConfig) -> EpochIterator:
        plan = self.plan(split, dataset.max_tokens, dataset.batch_size, dataset, is_valid=False)
        return train_epochs(self.load_dataset(split), plan, split, dataset, self.seed)

    def valid_batches(self, split: str, dataset: DatasetConfig) -> Iterator[TextBatch]:
        max_tokens = dataset.max_tokens_valid or dataset.max_tokens
        batch_size = dataset.batch_size_valid or dataset.batch_size
        plan = self.plan(split, max_tokens, batch_size, dataset, is_valid=True)
        return valid_epoch(self.load_dataset(split), plan, split, dataset, self.seed)

    def train_step(self, model: torch.nn.Module, criterion: Criterion, batch: TextBatch) -> Loss:
        loss: Loss = criterion(model(batch.source, batch.lengths, batch.seed, batch.targets), batch)
        return loss

    def state_dict(self) -> dict[str, Any]:
        return {"dictionary": list(self.dictionary.symbols)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._dictionary = Dictionary.from_symbols(state["dictionary"])
