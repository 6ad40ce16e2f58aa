"""What a checkpoint of any kind says, in one form: options and tensors under the original's names, plain data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

ENCODER = "wav2vec2_encoder"
CTC = "wav2vec_ctc"
PRETRAINING = "wav2vec2"
HUBERT = "hubert"
LANGUAGE_MODEL = "transformer_lm"
"""Names of language models begin with this."""
MASKED_MODEL = "roberta"
"""Names of masked language models begin with this."""


@dataclass(frozen=True)
class ModelFile:
    """A model on disk.

    Attributes:
        path: the file or folder.
        kind: what wrote it, in words.
        config: options by section; at least `task` and `model`, each with `_name`.
        state: tensors of the model by name; they may lie in the file (mapped): copy what is kept.
        symbols: the labels of a CTC model, or the words or tokens of a language model, the four specials first.
        symbols_from: where they were found, in words.
        num_updates: how long it was trained.
        notes: what was filled in, left out or assumed.
        score: the best validation of the run, in words; empty where nothing tells of one.
    """

    path: str
    kind: str
    config: dict[str, dict[str, Any]]
    state: Mapping[str, Tensor]
    symbols: list[str] | None = None
    symbols_from: str = ""
    num_updates: int = 0
    notes: list[str] = field(default_factory=list)
    score: str = ""

    @property
    def name(self) -> str:
        """The model's name, as `--arch` takes it."""
        return str(self.config["model"]["_name"])

    @property
    def normalize(self) -> bool:
        """Whether its input has zero mean and unit variance per clip."""
        return bool(self.config["task"].get("normalize", False))
