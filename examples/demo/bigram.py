"""A bigram language model of a few sentences, in ARPA form, for the demo's beam search.

Dirichlet smoothing: p(w | h) = (c(h, w) + K p(w)) / (c(h) + K). A pair that was never seen then gets exactly
K / (c(h) + K) times p(w), which is what ARPA calls the backoff weight of h, so the file needs no further normalising.
Larger texts want real n-gram estimation; this is not it.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

PRIOR = 20.0  # K, in words: how often a history must be seen to be believed more than single words are
START, END, UNKNOWN = "<s>", "</s>", "<unk>"


def write_bigrams(sentences: Iterable[str], path: Path) -> None:
    """Estimate a model from sentences of space-separated words and write it to `path`.

    Args:
        sentences: one per item.
        path: ARPA file to write.
    """
    words: Counter[str] = Counter()
    pairs: Counter[tuple[str, str]] = Counter()
    for sentence in sentences:
        tokens = [*sentence.split(), END]
        words.update(tokens)
        pairs.update(zip([START, *tokens], tokens))
    histories: Counter[str] = Counter()
    for (history, _), count in pairs.items():
        histories[history] += count
    # One count is set aside for words that were never seen.
    total = sum(words.values()) + 1
    unigrams = {UNKNOWN: 1 / total, **{word: count / total for word, count in sorted(words.items())}}

    lines = ["\\data\\", f"ngram 1={len(unigrams) + 1}", f"ngram 2={len(pairs)}", "", "\\1-grams:"]
    for word, probability in {START: 10.0**-99, **unigrams}.items():
        backoff = math.log10(PRIOR / (histories[word] + PRIOR))
        ending = "" if word == END else f"\t{backoff:.6f}"
        lines.append(f"{math.log10(probability):.6f}\t{word}{ending}")
    lines += ["", "\\2-grams:"]
    for (history, word), count in sorted(pairs.items()):
        probability = (count + PRIOR * unigrams[word]) / (histories[history] + PRIOR)
        lines.append(f"{math.log10(probability):.6f}\t{history} {word}")
    path.write_text("\n".join([*lines, "", "\\end\\", ""]), encoding="utf-8")
