"""What a checkpoint of any kind says, in one form: options and tensors under the original's names, plain data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from w2v.errors import ConfigError

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
        language: which one was read of a model of many languages, in words; empty of other models.
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
    language: str = ""

    @property
    def name(self) -> str:
        """The model's name, as `--arch` takes it."""
        return str(self.config["model"]["_name"])

    @property
    def sample_rate(self) -> int:
        """Samples per second of its input."""
        return int(self.config["task"].get("sample_rate") or 16000)

    @property
    def audio(self) -> str:
        """What it hears, in words."""
        return f"{self.sample_rate} Hz, {'normalised per clip' if self.normalize else 'as it is'}"

    @property
    def normalize(self) -> bool:
        """Whether its input has zero mean and unit variance per clip."""
        return bool(self.config["task"].get("normalize", False))


def count(value: Any) -> int:
    """Return a number of updates as a file holds it; 0 where that is none."""
    return value if type(value) is int and value >= 0 else 0


def check_rate(flag: str, path: str, file: ModelFile, sample_rate: int | None) -> None:
    """Check that a run gives a model audio of the rate that it was trained with.

    Args:
        flag: the flag that names the model.
        path: the model, as it was named.
        file: the model.
        sample_rate: of the run; None: it has no audio.

    Raises:
        ConfigError: it is another one.
    """
    if sample_rate is not None and sample_rate != file.sample_rate:
        raise ConfigError(
            f"{flag} {path} was trained on {file.sample_rate} Hz, this run has --sample-rate {sample_rate}; give "
            f"--sample-rate {file.sample_rate} (and --resample, if the recordings have another rate)"
        )
