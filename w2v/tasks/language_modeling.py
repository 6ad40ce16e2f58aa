"""Learning to say the next word of a text, or its next letter.

DATA holds `train.txt`, `valid.txt`, ... (or `.txt.gz`), and may hold `dict.txt`; where it does not, the dictionary is
counted from the training text. Either way it goes into the checkpoint.
"""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from w2v.config import arg, check_range
from w2v.config.sections import DatasetConfig
from w2v.data.batch_sampler import BatchPlan, plan_batches
from w2v.data.dictionary import Dictionary
from w2v.data.text import BREAK_MODES, UNITS, Text, build_dictionary, read_text
from w2v.data.text_dataset import TextDataset
from w2v.errors import ConfigError, DataError
from w2v.models.base import W2vModel
from w2v.registry import Entry
from w2v.tasks.base import register_task
from w2v.tasks.batches import data_digest, text_digest
from w2v.tasks.text_task import TextTask

logger = logging.getLogger(__name__)

DICTIONARY_FILE = "dict.txt"


@dataclass(frozen=True)
class LanguageModelingConfig:
    """Where the text is, and how it is cut into samples; names and defaults are the original's where it has them."""

    data: str = arg(help="folder with train.txt, valid.txt (or .txt.gz) and maybe dict.txt", positional=True)
    unit: str = arg("word", help="what the model says: words, or letters with | after each word", choices=UNITS)
    sample_break_mode: str = arg(
        "none",
        help="none: fill samples whatever sentences do; complete: as many whole sentences as fit; eos: one sentence",
        choices=BREAK_MODES,
    )
    tokens_per_sample: int = arg(1024, help="words per sample; with --sample-break-mode eos sentences decide")
    max_target_positions: int | None = arg(
        None, help="leave out samples of more words, and train so many positions (default: --tokens-per-sample)"
    )
    add_bos_token: bool = arg(False, help="begin each sample with <s>")
    thresholdsrc: int = arg(0, help="without dict.txt: leave words out of the dictionary that are rarer than this")
    nwordssrc: int = arg(-1, help="without dict.txt: keep the so many most frequent words; -1: all")

    def __post_init__(self) -> None:
        check_range(self, 1, math.inf, "tokens_per_sample", "max_target_positions")
        check_range(self, 0, math.inf, "thresholdsrc")
        check_range(self, -1, math.inf, "nwordssrc")

    @property
    def max_positions(self) -> int:
        """Most words that a sample may have."""
        return self.max_target_positions or self.tokens_per_sample


@register_task("language_modeling", LanguageModelingConfig)
class LanguageModelingTask(TextTask):
    """Batches of text, and the dictionary."""

    config: LanguageModelingConfig

    def __init__(self, config: LanguageModelingConfig, seed: int = 1) -> None:
        super().__init__(config, seed)
        self._datasets: dict[str, TextDataset] = {}

    def read_dictionary(self) -> Dictionary:
        """Read `dict.txt`, or count the words of `train.txt`."""
        file = Path(self.config.data) / DICTIONARY_FILE
        if file.is_file():
            return Dictionary.from_file(file)
        text = self._text_file("train")
        dictionary = build_dictionary(
            text, self.config.unit, least_count=self.config.thresholdsrc, most_words=self.config.nwordssrc
        )
        logger.info("the dictionary holds %d symbols, counted from %s", len(dictionary), text)
        return dictionary

    # ------------------------------------------------------------------------------------------ data

    def load_dataset(self, split: str) -> TextDataset:
        if split not in self._datasets:
            path = self._text_file(split)
            text = read_text(path, self.config.unit, self.dictionary)
            unknown = f", {100 * text.num_unknown / len(text):.2f} % unknown" if text.num_unknown else ""
            logger.info("%s: %d %ss in %d sentences%s", path, len(text), self.config.unit, len(text.ends), unknown)
            self._datasets[split] = self._cut(text, path)
        return self._datasets[split]

    def _cut(self, text: Text, path: str) -> TextDataset:
        config = self.config
        samples = TextDataset(
            text, config.sample_break_mode, config.tokens_per_sample, config.max_positions, add_bos=config.add_bos_token
        )
        if samples.num_too_long:
            logger.warning(
                "%s: left out %d samples of more than --max-target-positions %d words", path, samples.num_too_long,
                config.max_positions,
            )  # fmt: skip
        if not len(samples):
            raise DataError(f"{path}: all samples are longer than --max-target-positions {config.max_positions}")
        return samples

    def _text_file(self, split: str) -> str:
        names = [f"{split}.txt", f"{split}.txt.gz"]
        for name in names:
            if (Path(self.config.data) / name).is_file():
                return str(Path(self.config.data) / name)
        binary = Path(self.config.data) / f"{split}.bin"
        hint = f"; {binary} is a file of fairseq-preprocess, give the text it was made from" if binary.is_file() else ""
        raise DataError(f"{self.config.data}: there is neither {names[0]} nor {names[1]}{hint}")

    def plan(
        self, split: str, max_tokens: int | None, batch_size: int | None, dataset: DatasetConfig, *, is_valid: bool
    ) -> BatchPlan:
        samples = self.load_dataset(split)
        if max_tokens is None and batch_size is None:
            raise ConfigError("--task language_modeling needs --max-tokens (padded words per batch) or --batch-size")
        return plan_batches(
            samples.sizes,
            samples.sizes,
            seed=self.seed,
            max_tokens=max_tokens,
            batch_size=batch_size,
            multiple=dataset.required_batch_size_multiple,
            name_of=samples.name,
            unit="words",
        )

    # ------------------------------------------------------------------------------------------ model

    def build_model(self, entry: Entry[W2vModel], config: Any) -> W2vModel:
        """Build the model for the dictionary.

        Raises:
            ConfigError: it is no language model.
        """
        if entry.cls.reads != "text":
            raise ConfigError(
                f"--task language_modeling needs a language model (--arch transformer_lm), got {entry.name}"
            )
        return entry.cls.build(
            config, num_words=len(self.dictionary), pad=Dictionary.pad, max_positions=self.config.max_positions
        )

    def digest(self) -> dict[str, str]:
        found = {f"text {split}": data_digest(samples.text.words) for split, samples in self._datasets.items()}
        return {**found, "dictionary": text_digest(self.dictionary.symbols)}
