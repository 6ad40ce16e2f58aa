"""What joins data, model, criterion and decoding for one problem; the registry behind `--task`."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping
from typing import Any, ClassVar

import torch

from w2v.config.sections import DatasetConfig
from w2v.criterions.base import Criterion
from w2v.errors import CheckpointError
from w2v.models.base import W2vModel
from w2v.registry import Entry, Registry
from w2v.tasks.sources import Sources
from w2v.types import Loss


class Task:
    """Base class of tasks.

    Args:
        config: the task's own options.
        seed: `--seed`.

    Attributes:
        joins_subsets: `load_dataset` and `train_batches` take several names between commas.
        sources: how much the sets of a joined one count; set by `train_batches`; None: there is one set.
    """

    joins_subsets: ClassVar[bool] = False

    def __init__(self, config: Any, seed: int = 1) -> None:
        self.config = config
        self.seed = seed
        self.sources: Sources | None = None

    def load_dataset(self, split: str) -> Any:
        """Read the manifest (and labels) of `split`; repeated calls return the same dataset.

        Raises:
            DataError: a file is missing or malformed.
        """
        raise NotImplementedError

    def train_batches(self, split: str, dataset: DatasetConfig) -> Any:
        """Return the resumable epochs of a training split (`w2v.data.iterator.EpochIterator`)."""
        raise NotImplementedError

    def valid_batches(self, split: str, dataset: DatasetConfig) -> Iterable[Any]:
        """Return this rank's batches of a validation split: the same ones, with the same seeds, at every call."""
        raise NotImplementedError

    def prepare_validation(self, split: str, dataset: DatasetConfig, criterion: Criterion) -> None:
        """Meet before training whatever would stop a validation later, and with it the run.

        Raises:
            W2vError: a file is missing or does not fit.
        """
        self.valid_batches(split, dataset)

    def build_model(self, entry: Entry[W2vModel], config: Any) -> W2vModel:
        """Build the model, handing over what only the task knows."""
        return entry.cls.build(config)

    def train_step(self, model: torch.nn.Module, criterion: Criterion, batch: Any) -> Loss:
        """Return the loss of one micro-batch; the trainer goes backward from it."""
        raise NotImplementedError

    def valid_step(self, model: torch.nn.Module, criterion: Criterion, batch: Any) -> Loss:
        """Return the loss of one validation batch, with further sums (such as word errors)."""
        return self.train_step(model, criterion, batch)

    def summarize_valid(self, criterion: Criterion, sums: Mapping[str, float]) -> dict[str, float]:
        """Turn totals of `valid_step` into logged values."""
        return criterion.summarize(sums)

    def valid_value_names(self, criterion: Criterion) -> frozenset[str] | None:
        """Return the names of the values of a validation, as far as they are known beforehand; None: unknown."""
        return criterion.value_names()

    def digest(self) -> dict[str, str]:
        """Return what must be equal on all ranks, by name: a few characters that differ where the data do."""
        return {}

    def check_state(self, state: Mapping[str, Any]) -> None:
        """Check that a checkpoint's symbols have the numbers that they have here.

        Args:
            state: what `state_dict` returned when the checkpoint was written.

        Raises:
            CheckpointError: they have not; the first one that differs is named.
        """
        theirs, ours = state.get("dictionary"), self.state_dict().get("dictionary")
        if not theirs or not ours or theirs == ours:
            return
        pairs = itertools.zip_longest(theirs, ours)
        number, (before, now) = next((n, pair) for n, pair in enumerate(pairs) if pair[0] != pair[1])
        there, here = (repr(symbol) if symbol is not None else "missing" for symbol in (before, now))
        raise CheckpointError(
            f"the checkpoint was trained with another dictionary: symbol {number} is {there} there, {here} in the "
            f"data folder ({len(theirs)} and {len(ours)} symbols); put that dictionary back, or start anew in another "
            "--save-dir with --w2v-path"
        )

    def state_dict(self) -> dict[str, Any]:
        """Return what a checkpoint must hold to use the model without the data folder (the dictionary)."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over what `state_dict` returned."""


TASKS: Registry[Task] = Registry("task", "--task", Task)
register_task = TASKS.register
