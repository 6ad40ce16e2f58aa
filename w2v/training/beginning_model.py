"""The model from which a run begins: `--finetune-from-model`, or `--restore-file` with a file of any kind.

Architecture, `--normalize` and `--sample-rate` follow from it, so that no command has to repeat them. Weights are read
when training starts.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from w2v.checkpoint.file import load_checkpoint
from w2v.checkpoint.start import LAST
from w2v.checkpoint.torch_file import read_torch_file
from w2v.config.yaml_file import ConfigFile
from w2v.convert import ModelFile, read_model_file
from w2v.convert.model_file import check_rate
from w2v.errors import ConfigError
from w2v.models import MODELS
from w2v.registry import Entry


@dataclass(frozen=True)
class BeginningModel:
    """A model from which a run begins: `--finetune-from-model`, or `--restore-file` with a file that is named.

    Attributes:
        flag: which of the two.
        path: the model.
        file: what it says of itself.
    """

    flag: str
    path: str
    file: ModelFile

    def layer(self) -> ConfigFile:
        """Return its architecture, and how it takes audio, as a layer of options."""
        model = {name: value for name, value in self.file.config["model"].items() if value is not None}
        model["_name"] = self.file.name
        task = self.file.config["task"]
        audio: dict[str, Any] = {name: task[name] for name in ("sample_rate", "normalize_epsilon") if name in task}
        sections: dict[str, dict[str, Any]] = {"model": model, "task": {"normalize": self.file.normalize, **audio}}
        places = {(part, name): f"{self.flag} {self.path}" for part, values in sections.items() for name in values}
        return ConfigFile("", sections, places)

    def check(self, entry: Entry[Any], task: Any) -> None:
        """Check that the run trains a model of this kind.

        Args:
            entry: the model that it trains.
            task: options of its task.

        Raises:
            ConfigError: it trains another, or treats audio in another way.
        """
        normalize = getattr(task, "normalize", None)
        name = self.file.name
        if entry.name != name and not _same_class(entry, name):
            hint = "; --w2v-path takes its encoder" if entry.name == "wav2vec_ctc" else ""
            raise ConfigError(f"{self.flag} {self.path} is a model of --arch {name}, this run has {entry.name}{hint}")
        if normalize is not None and normalize != self.file.normalize:
            with_or_without = "with" if self.file.normalize else "without"
            raise ConfigError(
                f"{self.flag} {self.path} was trained {with_or_without} --normalize; train it {with_or_without}, too"
            )
        check_rate(self.flag, self.path, self.file, getattr(task, "sample_rate", None))


def _same_class(entry: Entry[Any], name: str) -> bool:
    return name in MODELS.names() and MODELS.get(name).cls is entry.cls


def beginning_model(finetune: str | None, restore: str | None, save_dir: str) -> BeginningModel | None:
    """Read what a run begins from, without its tensors' content.

    Args:
        finetune: `--finetune-from-model`.
        restore: `--restore-file`, where it names another file than the run's own last one.
        save_dir: `--save-dir`; its last checkpoint stands in for a model that is gone when the run resumes.

    Raises:
        CheckpointError: the file cannot be read.
    """
    path, flag = (finetune, "--finetune-from-model") if finetune else (restore, "--restore-file")
    if not path or path == LAST:
        return None
    last = Path(save_dir) / LAST
    found = str(last) if not Path(path).exists() and last.is_file() else path
    return BeginningModel(flag, path, read_model_file(found))


def is_run_of_ours(path: str) -> bool:
    """Whether a file holds the state of a run of w2v: all else is a model, whose weights alone can be taken."""
    return is_ours(path) and "optimizer" in read_torch_file(Path(path))


def is_ours(path: str) -> bool:
    """Whether a file is a checkpoint of w2v, with the state of a run or without."""
    if Path(path).is_dir() or Path(path).suffix == ".safetensors":
        return False
    content = read_torch_file(Path(path))
    return isinstance(content, dict) and "format_version" in content


def read_weights(path: str) -> dict[str, Any]:
    """Read tensors and symbols of a model of any kind; of a file of ours every byte is verified.

    Raises:
        CheckpointError: it cannot be read.
    """
    if is_ours(path):
        return load_checkpoint(Path(path))
    file = read_model_file(path)
    # Symbols that were guessed, or found in another file, say nothing about this run's dictionary.
    symbols = file.symbols if file.symbols_from == "the checkpoint" else None
    return {"model": file.state, "task": {"dictionary": symbols}}
