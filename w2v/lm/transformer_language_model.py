"""Scores of a Transformer language model for a search: every prefix is computed once, one word at a time.

A state is a node of a prefix tree. Keys and values of its last word are kept with it, and so are the scores of all
next words; those that a search asks for together are computed together. Where the vocabulary is large, the context
and its normalisers are kept in place of the scores, of which a search asks for few.
Log-probabilities are natural, and a sentence begins after `</s>`, as in the original.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Protocol

import numpy as np
import torch
from torch import Tensor, nn

from w2v.array_types import FloatArray, IntArray
from w2v.data.dictionary import SPECIALS, Dictionary
from w2v.lm.language_model import LanguageModel
from w2v.lm.prefix_tree import NONE, PrefixTree, RowStore
from w2v.modules.multihead_attention import Memory

FILLER = re.compile(r"madeupword\d{4}")
"""Entries with which the original fills its dictionaries up to a multiple of 8."""

LARGE_VOCABULARY = 8192
"""From here on, the scores of all words would take more memory than keys and values."""
_PAST_AT_ONCE = 2**14
_SCORES_AT_ONCE = 2**26


class NextWordModel(Protocol):
    """What a model offers to be scored with; `w2v.models.transformer_lm.TransformerLm` is one."""

    def parameters(self) -> Iterator[nn.Parameter]: ...
    def log_likelihood(self, source: Tensor, lengths: Tensor, targets: Tensor) -> Tensor: ...
    def step(
        self, words: Tensor, positions: Tensor, memories: Sequence[Memory], attend_to: Tensor | None
    ) -> Tensor: ...
    def log_probs(self, contexts: Tensor) -> Tensor: ...
    def normalizers(self, contexts: Tensor) -> Tensor: ...
    def pick(self, contexts: Tensor, normalizers: Tensor, words: Tensor) -> Tensor: ...


class TransformerLanguageModel(LanguageModel):
    """A Transformer, as searches and rescoring see every language model.

    Args:
        model: in evaluation mode.
        num_layers: its blocks.
        dictionary: its words.
        path: the file it was read from.
        add_bos: whether samples began with `<s>` in training.
        unknown: what `score` gives for `<unk>`. By default it is impossible: so the original keeps unknown words out
            of its searches. None: the model's own value, which `sentence_scores` gives always.

    Attributes:
        path: the file it was read from.
        words: its vocabulary, without special symbols and fillers.
        num_computed: prefixes that went through the model so far.
    """

    def __init__(
        self, model: NextWordModel, num_layers: int, dictionary: Dictionary, path: str, *,
        add_bos: bool = False, unknown: float | None = -math.inf,
    ) -> None:  # fmt: skip
        self.path = path
        self.words = [word for word in dictionary.symbols[len(SPECIALS) :] if not FILLER.fullmatch(word)]
        self.num_computed = 0
        self._model = model
        self._dictionary = dictionary
        self._unknown = unknown
        self._device = next(model.parameters()).device
        self._context = [dictionary.bos, dictionary.eos] if add_bos else [dictionary.eos]
        self._keeps_contexts = len(dictionary) >= LARGE_VOCABULARY
        self._tree = PrefixTree(len(dictionary))
        # Prefixes are computed later than they come into the tree, if at all: their places in the stores.
        self._places = np.full(256, NONE, dtype=np.int64)
        self._keys = [RowStore() for _ in range(num_layers)]
        self._values = [RowStore() for _ in range(num_layers)]
        self._scores, self._normalizers = RowStore(), RowStore()
        self._start = NONE
        for word in self._context:
            self._start = int(self._tree.children(np.array([self._start]), np.array([word]))[0])

    def contains(self, word: str) -> bool:
        return word in self._dictionary and word not in SPECIALS

    def index(self, word: str) -> int:
        return self._dictionary.index(word) if self.contains(word) else self._dictionary.unk

    def start(self) -> int:
        return self._start

    def score(self, states: IntArray, words: IntArray) -> tuple[FloatArray, IntArray]:
        scores = self._log_probs(states, words)
        if self._unknown is not None:
            scores[words == self._dictionary.unk] = self._unknown
        return scores, self._tree.children(states, words)

    def finish(self, states: IntArray) -> FloatArray:
        return self._log_probs(states, np.full(len(states), self._dictionary.eos, dtype=np.int64))

    def forget(self) -> None:
        self._tree.truncate(len(self._context))
        self._places = self._places[:256].copy()
        self._places[len(self._context) :] = NONE
        # The first prefixes to be computed are those of the context.
        for store in (*self._keys, *self._values, self._scores, self._normalizers):
            store.truncate(len(self._context))

    @torch.no_grad()
    def sentence_scores(self, sentences: Sequence[Iterable[str]]) -> FloatArray:
        """Return (N,) log-probabilities of whole sentences, their end included, from padded batches.

        Args:
            sentences: the words of each; unknown ones get what the model gives to `<unk>`.
        """
        rows = [[self.index(word) for word in sentence] for sentence in sentences]
        order = sorted(range(len(rows)), key=lambda i: len(rows[i]))
        limit = max(_SCORES_AT_ONCE // max(len(self._dictionary), 4096), 1)
        totals = np.zeros(len(rows))
        while order:
            # From the longest one down, so that the first of a batch says how wide it is.
            count = max(limit // (len(rows[order[-1]]) + 1), 1)
            chosen, order = order[-count:], order[:-count]
            totals[chosen] = self._whole([rows[i] for i in chosen])
        return totals

    # ------------------------------------------------------------------------------------------ whole sentences

    def _whole(self, rows: list[list[int]]) -> FloatArray:
        before = len(self._context)
        sizes = np.array([before + len(row) for row in rows])
        words = np.full((len(rows), sizes.max() + 1), self._dictionary.pad, dtype=np.int64)
        for row, found in zip(words, rows, strict=True):
            row[: before + len(found) + 1] = [*self._context, *found, self._dictionary.eos]
        source, targets = torch.from_numpy(words[:, :-1]), torch.from_numpy(words[:, 1:])
        scores = self._model.log_likelihood(source.to(self._device), torch.from_numpy(sizes), targets)
        per_word = scores.double().cpu().numpy()
        starts = np.cumsum(sizes) - sizes
        # What is given (`</s>` after an added `<s>`) is not asked for.
        for given in range(before - 1):
            per_word[starts + given] = 0.0
        totals: FloatArray = np.add.reduceat(per_word, starts)
        return totals

    # ------------------------------------------------------------------------------------------ step by step

    @torch.no_grad()
    def _log_probs(self, states: IntArray, words: IntArray) -> FloatArray:
        """Return (N,) log-probabilities of words after states."""
        self._compute(np.unique(states))
        places = torch.from_numpy(self._places[states]).to(self._device)
        asked = torch.from_numpy(words).to(self._device)
        if self._keeps_contexts:
            found = self._model.pick(self._scores.rows[places], self._normalizers.rows[places], asked)
        else:
            found = self._scores.rows[places, asked]
        result: FloatArray = found.double().cpu().numpy()
        return result

    def _compute(self, states: IntArray) -> None:
        """Send states through the model that have not been there yet."""
        if len(self._places) < self._tree.size:
            grown = np.full(2 * self._tree.size, NONE, dtype=np.int64)
            grown[: len(self._places)] = self._places
            self._places = grown
        missing = states[self._places[states] == NONE]
        if not len(missing):
            return
        parents = self._tree.parents[missing]
        self._compute(np.unique(parents[parents != NONE]))
        paths = self._tree.paths(missing)
        count = max(_PAST_AT_ONCE // (paths.shape[1] + 1), 1)
        for first in range(0, len(missing), count):
            self._step(missing[first : first + count], paths[first : first + count])

    def _step(self, nodes: IntArray, paths: IntArray) -> None:
        """Compute (N,) nodes from (N, T) nodes above them."""
        has_word = paths != NONE
        past = torch.from_numpy(np.where(has_word, self._places[paths], 0)).to(self._device)
        attend_to = None
        if not has_word.all():
            visible = np.pad(has_word, ((0, 0), (0, 1)), constant_values=True)
            attend_to = torch.from_numpy(visible).to(self._device)[:, None, None]
        memories = [_Past(keys, values, past) for keys, values in zip(self._keys, self._values, strict=True)]
        contexts = self._model.step(
            torch.from_numpy(self._tree.words[nodes]).to(self._device),
            torch.from_numpy(has_word.sum(axis=1)).to(self._device),
            memories,
            attend_to,
        )
        self._places[nodes] = self._scores.size + np.arange(len(nodes))
        if self._keeps_contexts:
            self._scores.append(contexts)
            self._normalizers.append(self._model.normalizers(contexts))
        else:
            self._scores.append(self._model.log_probs(contexts))
        self.num_computed += len(nodes)


class _Past:
    """Keys and values of one block: those of the words before are fetched, those of the new ones are stored."""

    def __init__(self, keys: RowStore, values: RowStore, past: Tensor) -> None:
        self.keys, self.values, self.past = keys, values, past

    def extend(self, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """Return (N, H, T + 1, D) of the words before and the new ones, whose own are (N, H, 1, D)."""
        joined = []
        for store, new in ((self.keys, key), (self.values, value)):
            if self.past.shape[1]:
                # (N, T, H, D) -> (N, H, T, D)
                new = torch.cat([store.rows[self.past].transpose(1, 2), new], dim=2)
            joined.append(new)
            store.append(new[:, :, -1])
        return joined[0], joined[1]
