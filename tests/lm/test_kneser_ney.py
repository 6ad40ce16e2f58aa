"""Kneser-Ney models: the formulas in plain python, sums of one, and what `lmplz` recorded."""

from __future__ import annotations

import gzip
import math
import random
from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from w2v.errors import ConfigError, DataError
from w2v.lm.kneser_ney import FALLBACK, adjusted_counts, estimate, estimate_discounts
from w2v.lm.ngram_counts import TextCounts, count_ngrams, read_texts
from w2v.lm.ngram_model import NgramModel
from w2v.lm.ngram_table import BackoffModel
from w2v.lm.perplexity import measure_perplexity

Gram = tuple[str, ...]


def counted(lines: Sequence[str], order: int) -> TextCounts:
    return count_ngrams(["".join(f"{line}\n" for line in lines).encode()], order)


def random_lines(seed: int, num_lines: int = 60, num_words: int = 12) -> list[str]:
    draw = random.Random(seed)
    words = [f"w{i}" for i in range(num_words)]
    weights = [1 / (i + 1) for i in range(num_words)]
    return [" ".join(draw.choices(words, weights, k=draw.choice([0, 1, 3, 9]))) for _ in range(num_lines)]


class PlainKneserNey:
    """Chen and Goodman (1998), with dictionaries."""

    def __init__(self, lines: Sequence[str], order: int, prune: Sequence[int]) -> None:
        self.order = order
        self.raw: dict[int, Counter[Gram]] = {n: Counter() for n in range(1, order + 1)}
        for line in lines:
            words = ["<s>", *line.split(), "</s>"]
            for n in range(1, order + 1):
                self.raw[n].update(tuple(words[i : i + n]) for i in range(len(words) - n + 1))
        del self.raw[1][("<s>",)]
        self.thresholds = [*prune, *[prune[-1] if prune else 0] * (order - len(prune))]
        self.counts = {n: self._adjust(n) for n in self.raw}
        self.discounts = {n: estimate_by_formula(list(self.counts[n].values())) for n in self.raw}
        self.followers: dict[Gram, list[Gram]] = defaultdict(list)
        for grams in self.raw.values():
            for gram in grams:
                self.followers[gram[:-1]].append(gram)
        self.vocabulary = ["<unk>", *(word for (word,) in self.raw[1] if self.keeps((word,)))]

    def _adjust(self, n: int) -> dict[Gram, int]:
        if n == self.order:
            return dict(self.raw[n])
        preceding: dict[Gram, set[str]] = defaultdict(set)
        for gram in self.raw[n + 1]:
            preceding[gram[1:]].add(gram[0])
        return {g: c if g[0] == "<s>" else len(preceding[g]) for g, c in self.raw[n].items()}

    def keeps(self, gram: Gram) -> bool:
        return gram == ("</s>",) or self.raw[len(gram)][gram] > self.thresholds[len(gram) - 1]

    def discount(self, gram: Gram) -> float:
        return self.discounts[len(gram)][min(self.counts[len(gram)].get(gram, 0), 3)]

    def backoff(self, context: Gram) -> float:
        grams = self.followers[context]
        if not grams:
            return 1.0
        n = len(context) + 1
        freed = sum(self.discount(g) if self.keeps(g) else self.counts[n][g] for g in grams)
        return freed / sum(self.counts[n][g] for g in grams)

    def probability(self, context: Gram, word: str) -> float:
        """Return p(word | context), interpolated down to the uniform distribution."""
        shorter = self.probability(context[1:], word) if context else 1 / len(self.vocabulary)
        gram = (*context, word)
        own = 0.0
        if gram in self.raw[len(gram)] and self.keeps(gram):
            total = sum(self.counts[len(gram)][g] for g in self.followers[context])
            own = (self.counts[len(gram)][gram] - self.discount(gram)) / total
        return own + self.backoff(context) * shorter


def estimate_by_formula(counts: Sequence[int]) -> list[float]:
    n = [counts.count(i) for i in range(5)]
    if 0 in n[1:4]:
        return [0.0, *FALLBACK]
    y = n[1] / (n[1] + 2 * n[2])
    amounts = [0.0, *(i - (i + 1) * y * n[i + 1] / n[i] for i in (1, 2, 3))]
    return amounts if min(amounts) >= 0 else [0.0, *FALLBACK]


@pytest.mark.parametrize("prune", [(), (0, 1), (0, 0, 2), (1,)])
@pytest.mark.parametrize("order", [1, 2, 3, 4])
def test_every_probability_is_the_formulas(order: int, prune: tuple[int, ...]) -> None:
    prune = prune[:order]
    for seed, num_lines in ((order, 60), (order + 10, 3)):
        lines = random_lines(seed, num_lines)
        plain = PlainKneserNey(lines, order, prune)
        model = estimate(counted(lines, order), prune=prune)
        assert sorted(model.vocabulary) == sorted(["<s>", *plain.vocabulary])
        for n, table in enumerate(model.tables, start=1):
            spelled = [tuple(model.vocabulary[word] for word in row) for row in model.spelled(n)]
            expected = {gram for gram in plain.raw[n] if plain.keeps(gram)} | (
                {("<s>",), ("<unk>",)} if n == 1 else set()
            )
            assert set(spelled) == expected
            for gram, log_prob, backoff in zip(spelled, table.log_probs, table.backoffs, strict=True):
                if gram != ("<s>",):
                    assert 10**log_prob == pytest.approx(plain.probability(gram[:-1], gram[-1]), rel=1e-9)
                if n < order and gram != ("<unk>",):
                    assert 10**backoff == pytest.approx(plain.backoff(gram), rel=1e-9)


def probabilities_after(model: NgramModel, vocabulary: Sequence[str], history: Sequence[str]) -> float:
    state = np.array([model.start()])
    for word in history:
        state = model.score(state, np.array([model.index(word)]))[1]
    next_words = np.array([model.index(word) for word in vocabulary if word != "<s>"])
    return float((10 ** model.score(np.repeat(state, len(next_words)), next_words)[0]).sum())


@settings(max_examples=40)
@given(st.integers(0, 10**6), st.integers(1, 6), st.lists(st.integers(0, 3), max_size=3))
def test_probabilities_sum_to_one(seed: int, order: int, prune: list[int]) -> None:
    lines = random_lines(seed, num_lines=seed % 40 + 1)
    limit = None if seed % 2 else {"w0", "w1", "w4"}
    model = estimate(counted(lines, order), prune=sorted(prune)[:order], limit=limit)
    scored = NgramModel("model", model)
    for line in lines[:5]:
        words = line.split()
        for end in range(len(words) + 1):
            assert probabilities_after(scored, model.vocabulary, words[:end]) == pytest.approx(1, abs=1e-9)


def test_n_grams_do_not_cross_sentences_and_empty_lines_are_sentences() -> None:
    counts = counted(["a b", "", "a"], 3)
    assert counts.vocabulary == ["<unk>", "<s>", "</s>", "a", "b"]
    model = estimate(counts)
    spelled = {" ".join(model.vocabulary[word] for word in row) for n in (2, 3) for row in model.spelled(n)}
    assert spelled == {"<s> a", "a b", "b </s>", "<s> </s>", "a </s>", "<s> a b", "a b </s>", "<s> a </s>"}
    adjusted = dict(zip(counts.vocabulary, adjusted_counts(counts.orders)[0].tolist(), strict=True))
    assert adjusted == {"<unk>": 0, "<s>": 0, "</s>": 3, "a": 1, "b": 1}


def test_small_texts_fall_back_and_say_so(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO"):
        estimate(counted(["a b c"], 2))
    assert "discounts 0.5 1 1.5; too few to estimate them, so the fallback" in caplog.text
    assert estimate_discounts(np.array([1, 1, 1, 2, 3]), 1, (0.1, 0.2, 0.3)).is_fallback is False
    assert estimate_discounts(np.array([1, 1, 1, 2]), 1, (0.1, 0.2, 0.3)).amounts == (0.0, 0.1, 0.2, 0.3)
    # One pair of three of a kind and many fours: the formula would take off less than nothing.
    assert estimate_discounts(np.array([1, 2, 3, *[4] * 50]), 1, (0.1, 0.2, 0.3)).is_fallback


def test_only_allowed_words_stay() -> None:
    model = estimate(counted(["a b c", "a c b", "b a"], 3), limit={"a", "b"})
    assert list(model.vocabulary) == ["<unk>", "<s>", "</s>", "a", "b"]
    assert len(model.tables[1]) == 6  # <s> a, <s> b, a b, b a, b </s>, a </s>


def test_bad_input_names_file_and_line(tmp_path: Path) -> None:
    for content, message in [
        (b"a b\nc <s> d\n", r"text:2: the word <s> has a meaning of its own"),
        (b"a b\n\xff\n", r"text:2: must be UTF-8 text, got byte 0xff"),
        (b"\x1f\x8b\x08\x00", r"text .* is a damaged gzip file"),
        (b"", r"the text has no line"),
    ]:
        (tmp_path / "text").write_bytes(content)
        with pytest.raises(DataError, match=message):
            count_ngrams(read_texts([str(tmp_path / "text")]), 2)
    with pytest.raises(DataError, match="cannot read the text"):
        count_ngrams(read_texts([str(tmp_path)]), 2)
    for prune in [(1, 0), (0, 0, 0)]:
        with pytest.raises(ConfigError, match="--prune: "):
            estimate(counted(["a"], 2), prune=prune)


def test_words_are_separated_as_in_kenlm(tmp_path: Path) -> None:
    # White space of Unicode is part of a word; several files are one text; the last line may lack its end.
    (tmp_path / "one").write_text("a\u00a0b\t c\r\n", encoding="utf-8")
    with gzip.open(tmp_path / "two", "wb") as file:
        file.write(b"c d\0e")
    counts = count_ngrams(read_texts([str(tmp_path / "one"), str(tmp_path / "two")]), 1)
    assert counts.vocabulary[3:] == ["a\u00a0b", "c", "d", "e"]
    assert counts.orders[0].counts.tolist() == [0, 2, 2, 1, 2, 1, 1]


# ------------------------------------------------------------------ recorded from lmplz and query (KenLM 0.3.0)

COUNTS = {2: (32926, 357761), 3: (32926, 357761, 732228), 4: (32926, 357761, 732228, 864520)}
PERPLEXITIES = {2: (396.594, 359.318), 3: (360.449, 326.000), 4: (354.143, 320.310)}
DISCOUNTS = {
    1: [(0.570341, 1.017, 1.54772)],
    2: [(0.768268, 1.08372, 1.38219), (0.778457, 1.10338, 1.39624)],
    3: [(0.886638, 1.21282, 1.37058), (0.895411, 1.23037, 1.38953)],
    4: [(0.961339, 1.41385, 1.6142)],
}


@pytest.fixture(scope="module")
def librispeech(data: Path) -> tuple[TextCounts, bytes]:
    """Counts of the training lines, and every 50th line."""
    path = data / "lm_text" / "librispeech_train_clean_100.txt.gz"
    if not path.is_file():
        pytest.skip(f"no file {path}")
    lines = gzip.decompress(path.read_bytes()).splitlines(keepends=True)
    return count_ngrams([b"".join(line for i, line in enumerate(lines, 1) if i % 50)], 4), b"".join(lines[49::50])


def cut(text: TextCounts, order: int) -> TextCounts:
    return TextCounts(text.vocabulary, text.orders[:order])


def check_perplexity(model: BackoffModel, held_out: bytes, with_unknown: float, without_unknown: float) -> None:
    result = measure_perplexity(NgramModel("model", model), [held_out])
    assert (result.unknown, result.tokens) == (239, 19512)
    assert result.with_unknown == pytest.approx(with_unknown, abs=5e-4)
    assert result.without_unknown == pytest.approx(without_unknown, abs=5e-4)


@pytest.mark.parametrize("order", [2, 3, 4])
def test_counts_discounts_and_perplexity_are_those_recorded(librispeech: tuple[TextCounts, bytes], order: int) -> None:
    text = cut(librispeech[0], order)
    for n, counts in enumerate(adjusted_counts(text.orders), start=1):
        amounts = estimate_discounts(counts, n, FALLBACK).amounts[1:]
        assert amounts == pytest.approx(DISCOUNTS[n][0 if n == order else -1], rel=1e-5)
    model = estimate(text)
    assert tuple(map(len, model.tables)) == COUNTS[order]
    check_perplexity(model, librispeech[1], *PERPLEXITIES[order])


def test_pruned_model_is_that_recorded(librispeech: tuple[TextCounts, bytes]) -> None:
    model = estimate(librispeech[0], prune=(0, 0, 1))
    assert [len(table) for table in model.tables] == [32926, 357761, 72206, 23254]
    check_perplexity(model, librispeech[1], 365.166, 330.674)


def test_lines_of_the_order_3_model_are_those_recorded(librispeech: tuple[TextCounts, bytes]) -> None:
    model = estimate(cut(librispeech[0], 3))
    for word, log_prob, backoff in [
        ("<unk>", -5.525022, 0), ("<s>", 0, -0.9954899), ("</s>", -1.6291834, 0), ("CHAPTER", -4.2859454, -0.18486778),
        ("ONE", -2.5962155, -0.49449384), ("IS", -2.369606, -0.49246913),
    ]:  # fmt: skip
        row = model.vocabulary.index(word)
        assert model.tables[0].log_probs[row] == pytest.approx(log_prob, abs=1e-6)
        assert model.tables[0].backoffs[row] == pytest.approx(backoff, abs=1e-6)
    assert math.isclose(float((10 ** model.tables[0].log_probs).sum()), 2)  # and <s>, which is never predicted
