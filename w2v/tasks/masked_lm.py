"""Learning tokens that are hidden: a language model of speech on the codes of vq-wav2vec, or of any other tokens.

DATA holds `dict.txt` and, of each split, the text that `w2v-tokenize` writes (`train.src`, a line per clip) or the
binarised files of fairseq-preprocess (`train.bin` and `train.idx`).
"""

from __future__ import annotations

import logging
import math
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from w2v.config import arg, check_range, str_tuple
from w2v.config.sections import DatasetConfig
from w2v.data.batch_sampler import BatchPlan, plan_order, shortest_first
from w2v.data.binarized_file import TokenFile, read_token_file
from w2v.data.dictionary import MASK, SPECIALS, Dictionary
from w2v.data.masked_dataset import SHORTEN_METHODS, ItemSpec, MaskedTokenDataset
from w2v.data.token_blocks import BREAK_MODES
from w2v.data.token_masks import TokenMaskSpec, replacement_weights
from w2v.data.token_text import read_token_text
from w2v.errors import ConfigError, DataError
from w2v.models.base import W2vModel
from w2v.registry import Entry
from w2v.tasks.base import register_task
from w2v.tasks.batches import data_digest, text_digest
from w2v.tasks.text_task import TextTask
from w2v.types import IntArray

logger = logging.getLogger(__name__)

DICTIONARY_FILE = "dict.txt"
BINARY = ("", ".None-None")
"""What fairseq-preprocess puts after the name of a split, with and without --only-source."""
TEXT = (".src", ".txt", "")
IMPLEMENTATIONS = ("raw", "lazy", "cached", "mmap")
_AT_DEFAULT = "accepted at its default"


@dataclass(frozen=True)
class MaskedLmTaskConfig:
    """Where tokens are, how they become items, and what is hidden; names and defaults are the original's."""

    data: str = arg(help="folder with dict.txt, train.src or train.bin, valid.src or valid.bin", positional=True)
    sample_break_mode: str = arg(
        "complete",
        help="none: fill items whatever lines do; complete: as many whole lines as fit; complete_doc: the same within "
        "documents, which empty lines part; eos: one line",
        choices=BREAK_MODES,
    )
    tokens_per_sample: int = arg(512, help="tokens per item, <s> counted; with --sample-break-mode eos lines decide")
    mask_prob: float = arg(0.15, help="share of tokens to predict, before spans overlap")
    leave_unmasked_prob: float = arg(0.1, help="share of the predicted tokens that is shown as it is")
    random_token_prob: float = arg(0.1, help="share of the predicted tokens that is replaced by a random one")
    freq_weighted_replacement: bool = arg(False, help="random tokens come as often as in dict.txt, not equally often")
    mask_whole_words: bool = arg(False, help="not carried: tokens of speech are no parts of words")
    mask_multiple_length: int = arg(1, help="tokens per span that is hidden; 10 in the recipes of speech")
    mask_stdev: float = arg(0.0, help="standard deviation of that length; 0: all spans are equal")
    shorten_method: str = arg(
        "none",
        help="cut lines to --tokens-per-sample first: their beginning, or a random part, the same one in all epochs",
        choices=SHORTEN_METHODS,
    )
    shorten_data_split_list: tuple[str, ...] = arg(
        (), help="splits that --shorten-method holds for, separated by commas (default: all)", parse=str_tuple
    )
    dataset_impl: str | None = arg(
        None, help="kind of the files; it is seen in their first bytes, and need not be given", choices=IMPLEMENTATIONS
    )
    include_target_tokens: bool = arg(False, help=_AT_DEFAULT)
    include_index: bool = arg(True, help=_AT_DEFAULT)
    skip_masking: bool = arg(False, help=_AT_DEFAULT)
    d2v2_multi: bool = arg(False, help=_AT_DEFAULT)

    def __post_init__(self) -> None:
        check_range(self, 2, math.inf, "tokens_per_sample")
        check_range(self, 1, math.inf, "mask_multiple_length")
        check_range(self, 0, math.inf, "mask_stdev")
        check_range(self, 0, 1, "leave_unmasked_prob", "random_token_prob")
        if not 0 < self.mask_prob < 1:
            raise ConfigError(f"--mask-prob must lie between 0 and 1, got {self.mask_prob}")
        if self.random_token_prob + self.leave_unmasked_prob > 1:
            raise ConfigError(
                "--random-token-prob and --leave-unmasked-prob must be at most 1 together, got "
                f"{self.random_token_prob} and {self.leave_unmasked_prob}"
            )
        if self.mask_whole_words:
            raise ConfigError("--mask-whole-words is not supported: it needs a dictionary of parts of words")
        for name in ("include_target_tokens", "skip_masking", "d2v2_multi"):
            if getattr(self, name):
                raise ConfigError(f"--{name.replace('_', '-')} is not supported: it belongs to data2vec; leave it out")


@register_task("masked_lm", MaskedLmTaskConfig)
class MaskedLmTask(TextTask):
    """Batches of tokens, some of them hidden, and the dictionary."""

    config: MaskedLmTaskConfig

    def __init__(self, config: MaskedLmTaskConfig, seed: int = 1) -> None:
        super().__init__(config, seed)
        self._datasets: dict[str, MaskedTokenDataset] = {}
        self._max_positions = config.tokens_per_sample

    def read_dictionary(self) -> Dictionary:
        """Read the tokens of `dict.txt`, with `<mask>` as the last one."""
        return Dictionary.from_file(self._folder() / DICTIONARY_FILE).with_mask()

    # ------------------------------------------------------------------------------------------ data

    def load_dataset(self, split: str) -> MaskedTokenDataset:
        if split not in self._datasets:
            sentences = self._read(split)
            items = MaskedTokenDataset(sentences, self._items(split), self._masks(), self.seed)
            logger.info(
                "%s: %d tokens in %d lines, %d items", sentences.path, sentences.sizes.sum(), len(sentences), len(items)
            )
            self._datasets[split] = items
        return self._datasets[split]

    def limit_positions(self, max_positions: int) -> None:
        """Leave out items of more tokens, for a model that was built elsewhere."""
        self._max_positions = max_positions

    def _folder(self) -> Path:
        if os.pathsep in self.config.data and not Path(self.config.data).exists():
            raise ConfigError(
                f"data: several folders are not supported, got {self.config.data}; join their files in one folder"
            )
        return Path(self.config.data)

    def _read(self, split: str) -> TokenFile:
        folder = self._folder()
        if self.config.dataset_impl != "raw":
            for ending in BINARY:
                if (folder / f"{split}{ending}.idx").is_file():
                    return self._checked(read_token_file(folder / f"{split}{ending}"))
        for ending in TEXT:
            if (folder / f"{split}{ending}").is_file():
                return read_token_text(str(folder / f"{split}{ending}"), self.dictionary)
        raise DataError(
            f"{folder}: there is neither {split}.src nor {split}.idx with {split}.bin; w2v-tokenize writes the first"
        )

    def _checked(self, sentences: TokenFile) -> TokenFile:
        largest = int(sentences.tokens.max(initial=0)) - sentences.shift
        if largest >= len(self.dictionary):
            raise DataError(
                f"{sentences.path}: holds the token {largest}, {DICTIONARY_FILE} has {len(self.dictionary)} with <mask>"
                "; is it of another dictionary?"
            )
        return sentences

    def _items(self, split: str) -> ItemSpec:
        config = self.config
        chosen = config.shorten_data_split_list
        shorten = config.shorten_method if not chosen or split in chosen else "none"
        return ItemSpec(config.sample_break_mode, config.tokens_per_sample, shorten)

    def _masks(self) -> TokenMaskSpec:
        config, dictionary = self.config, self.dictionary
        counts = np.array(dictionary.counts) if config.freq_weighted_replacement else None
        return TokenMaskSpec(
            prob=config.mask_prob,
            leave_prob=config.leave_unmasked_prob,
            random_prob=config.random_token_prob,
            length=config.mask_multiple_length,
            stdev=config.mask_stdev,
            mask=dictionary.index(MASK),
            pad=dictionary.pad,
            weights=replacement_weights(len(dictionary), len(SPECIALS), counts),
        )

    def _fitting(self, split: str, order: IntArray, *, refuse: bool) -> IntArray:
        """Return an order of items without those that are longer than the model's table of positions."""
        items = self.load_dataset(split)
        fits = items.sizes[order] <= self._max_positions
        num_long = int((~fits).sum())
        if not num_long:
            return order
        longest = int(order[np.argmax(items.sizes[order])])
        said = f"{num_long} items of more than --max-positions {self._max_positions} tokens; the longest has "
        if refuse or not fits.any():
            hint = "; give --skip-invalid-size-inputs-valid-test, or more positions" if refuse else ""
            raise DataError(f"{split}: {said}{items.sizes[longest]}: {items.name(longest)}{hint}")
        logger.warning("%s: left out %s%d", split, said, items.sizes[longest])
        return order[fits]

    def plan(
        self, split: str, max_tokens: int | None, batch_size: int | None, dataset: DatasetConfig, *, is_valid: bool
    ) -> BatchPlan:
        if max_tokens is None and batch_size is None:
            raise ConfigError("--task masked_lm needs --max-tokens (padded tokens per batch) or --batch-size")
        items = self.load_dataset(split)
        # Shortest first, ties as the original drew them when it loaded the data of epoch 1.
        order = shortest_first(items.sizes, self.seed + 1)
        refuse = is_valid and not dataset.skip_invalid_size_inputs_valid_test
        return plan_order(
            self._fitting(split, order, refuse=refuse),
            items.sizes,
            max_tokens=max_tokens,
            batch_size=batch_size,
            multiple=dataset.required_batch_size_multiple,
            name_of=items.name,
            refuse_long=refuse,
            unit="tokens",
        )

    # ------------------------------------------------------------------------------------------ model

    def build_model(self, entry: Entry[W2vModel], config: Any) -> W2vModel:
        """Build the model for the dictionary.

        Raises:
            ConfigError: it is no masked language model.
        """
        if entry.cls.reads != "masked text":
            raise ConfigError(f"--task masked_lm needs a masked language model (--arch roberta_base), got {entry.name}")
        if getattr(config, "encoder_normalize_before", False):
            logger.warning(
                "--encoder-normalize-before: norms come before attention and feed-forward, as in the original since "
                "2021; that of 2020 ignored the flag"
            )
        model = entry.cls.build(
            config, num_words=len(self.dictionary), pad=Dictionary.pad, max_positions=self.config.tokens_per_sample
        )
        self._max_positions = getattr(model, "max_positions", self._max_positions)
        return model

    def digest(self) -> dict[str, str]:
        found = {f"tokens {split}": data_digest(items.sentences.tokens) for split, items in self._datasets.items()}
        return {**found, "dictionary": text_digest(self.dictionary.symbols)}
