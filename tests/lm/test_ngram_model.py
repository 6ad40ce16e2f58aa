"""n-gram models: agreement with KenLM and with the definition of back-off, minimal states, and files that lie."""

from __future__ import annotations

import builtins
import contextlib
import gzip
import importlib.util
import random
import tracemalloc
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from w2v.data import text_blocks
from w2v.errors import ConfigError, DataError, MissingPackageError
from w2v.lm.arpa import read_arpa, write_arpa
from w2v.lm.kneser_ney import estimate
from w2v.lm.language_model import LanguageModel
from w2v.lm.ngram_counts import count_ngrams, read_texts
from w2v.lm.ngram_model import NgramModel, is_ngram_file, open_ngram_model
from w2v.lm.ngram_table import BackoffModel
from w2v.lm.perplexity import measure_perplexity

ASSETS = Path(__file__).resolve().parent.parent / "assets" / "lm"
WORDS = [f"w{i}" for i in range(30)]

# Pruned as other programs do it: `a b c` stays without `b c`, and some n-grams have no back-off weight.
GAPS = r"""
\data\
ngram 1=6
ngram 2=4
ngram 3=2

\1-grams:
-1.5 <s> -0.3
-0.7 </s>
-0.9 a -0.2
-0.8 b -0.4
-1.1 c
-0.6 <unk> -0.1

\2-grams:
-0.4 <s> a -0.25
-0.5 a b -0.15
-0.3 <s> b
-0.2 <unk> a -0.05

\3-grams:
-0.1 a b c
-0.35 <s> a b

\end\
"""


def random_text(seed: int, num_lines: int = 300) -> bytes:
    draw = random.Random(seed)
    weights = [1 / (i + 1) for i in range(len(WORDS))]
    lines = [" ".join(draw.choices(WORDS, weights, k=draw.choice([0, 1, 4, 9]))) for _ in range(num_lines)]
    return "".join(f"{line}\n" for line in lines).encode()


def random_sentences(words: Sequence[str], number: int = 1000) -> list[list[str]]:
    draw = random.Random(7)
    return [draw.choices([*words, "unheard", "of"], k=draw.randint(0, 12)) for _ in range(number)]


@pytest.fixture(scope="module", params=["1", "2", "3", "5", "4 pruned", "3 no <unk>", "gaps"])
def arpa(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("lm") / "model.arpa"
    kind = str(request.param)
    if kind == "gaps":
        path.write_text(GAPS)
        return path
    prune = (0, 0, 1) if "pruned" in kind else ()
    write_arpa(str(path), estimate(count_ngrams([random_text(3)], int(kind[0])), prune=prune))
    if "no <unk>" in kind:
        lines = path.read_text().replace("ngram 1=33", "ngram 1=32").splitlines(keepends=True)
        path.write_text("".join(line for line in lines if "<unk>" not in line))
    return path


class PlainBackoff:
    """The definition: the longest n-gram that is there, after the back-off weights of all longer contexts."""

    def __init__(self, path: Path) -> None:
        self.grams: dict[tuple[str, ...], tuple[float, float]] = {}
        order = 0
        for line in path.read_text().splitlines():
            if line.endswith("-grams:"):
                order = int(line[1])
            elif order and line and not line.startswith("\\"):
                fields = line.split()
                backoff = float(fields[order + 1]) if len(fields) > order + 1 else 0.0
                self.grams[tuple(fields[1 : order + 1])] = float(fields[0]), backoff
        self.order = order
        self.grams.setdefault(("<unk>",), (-100.0, 0.0))

    def score(self, history: tuple[str, ...], word: str) -> float:
        gram = (*history, word)
        if gram in self.grams:
            return self.grams[gram][0]
        return self.grams.get(history, (0.0, 0.0))[1] + self.score(history[1:], word)

    def sentence_score(self, words: Sequence[str]) -> float:
        known = ["<s>", *(word if (word,) in self.grams else "<unk>" for word in words), "</s>"]
        starts = (max(0, i - self.order + 1) for i in range(1, len(known)))
        return sum(self.score(tuple(known[s:i]), known[i]) for i, s in enumerate(starts, start=1))


def test_scores_are_those_of_the_definition(arpa: Path) -> None:
    model, plain = open_ngram_model(str(arpa)), PlainBackoff(arpa)
    sentences = random_sentences([word for (word, *rest) in plain.grams if not rest and "<" not in word], 200)
    expected = [plain.sentence_score(sentence) for sentence in sentences]
    np.testing.assert_allclose(model.sentence_scores(sentences), expected, atol=1e-9)


def tabbed(path: Path) -> Path:
    """Write the file as KenLM wants it, which is strict about tabs."""
    lines = []
    order = 0
    for line in path.read_text().splitlines():
        order = int(line[1]) if line.endswith("-grams:") else order
        fields = line.split()
        is_gram = order and fields and not line.startswith("\\")
        parts = [fields[0], " ".join(fields[1 : order + 1]), *fields[order + 1 :]] if is_gram else [line]
        lines.append("\t".join(parts))
    strict = path.with_suffix(".strict.arpa")
    strict.write_text("\n".join(lines) + "\n")
    return strict


def test_scores_and_states_are_kenlms(arpa: Path) -> None:
    kenlm = pytest.importorskip("kenlm")
    model = open_ngram_model(str(arpa))
    if len(read_arpa(str(arpa)).tables) == 1:
        pytest.skip("KenLM reads no models of single words")
    theirs = kenlm.Model(str(tabbed(arpa)))
    sentences = random_sentences(list(model.words or ()))
    expected = [theirs.score(" ".join(sentence)) for sentence in sentences]
    np.testing.assert_allclose(model.sentence_scores(sentences), expected, atol=1e-4, rtol=1e-6)
    pairs = set()
    for sentence in sentences:
        ours, before, after = np.array([model.start()]), kenlm.State(), kenlm.State()
        theirs.BeginSentenceWrite(before)
        for word in sentence:
            ours = model.score(ours, np.array([model.index(word)]))[1]
            theirs.BaseScore(before, word, after)
            before, after = after, kenlm.State()
            pairs.add((int(ours[0]), before))
    # One state of theirs for each of ours, and the other way round.
    assert len(pairs) == len({ours for ours, _ in pairs}) == len({theirs for _, theirs in pairs})


@pytest.mark.parametrize("name", ["words.trie.bin", "words.probing.bin", "words.nameless.bin", "units.trie.bin"])
def test_binaries_score_as_their_arpa_does(name: str) -> None:
    pytest.importorskip("kenlm")
    binary, text = open_ngram_model(str(ASSETS / name)), open_ngram_model(str(ASSETS / f"{name.split('.')[0]}.arpa"))
    sentences = random_sentences(["A", "B", "AB", "|"], 200)
    np.testing.assert_allclose(binary.sentence_scores(sentences), text.sentence_scores(sentences), atol=1e-5)
    assert [binary.contains(word) for word in ("A", "zz", "<unk>")] == [True, False, False]
    assert [text.contains(word) for word in ("A", "zz", "<unk>")] == [True, False, False]
    assert text.words is not None
    assert binary.words is None or set(binary.words) == set(text.words)
    states = [path_states(model, ["A", "B", "A", "zz", "A"]) for model in (binary, text)]
    assert len(set(zip(*states, strict=True))) == len(set(states[0])) == len(set(states[1]))
    binary.forget()
    np.testing.assert_allclose(binary.sentence_scores(sentences[:9]), text.sentence_scores(sentences[:9]), atol=1e-5)


def path_states(model: LanguageModel, words: Sequence[str]) -> list[int]:
    states = [np.array([model.start()])]
    for word in words:
        states.append(model.score(states[-1], np.array([model.index(word)]))[1])
    return [int(state[0]) for state in states[1:]]


def test_perplexity_is_that_of_the_words_one_by_one(arpa: Path) -> None:
    model = open_ngram_model(str(arpa))
    sentences = random_sentences(list(model.words or ()), 600)
    total = unknown_total = 0.0
    for sentence in sentences:
        state = np.array([model.start()])
        for word in sentence:
            score, state = model.score(state, np.array([model.index(word)]))
            total += score[0]
            unknown_total += 0.0 if model.contains(word) else score[0]
        total += model.finish(state)[0]
    text = "".join(f"{' '.join(sentence)}\n" for sentence in sentences).encode()
    cut = text.index(b"\n") + 1
    result = measure_perplexity(model, [text[:cut], text[cut:]])
    assert result.tokens == sum(map(len, sentences)) + len(sentences)
    assert result.unknown == sum(not model.contains(word) for sentence in sentences for word in sentence)
    assert result.with_unknown == pytest.approx(10 ** (-total / result.tokens))
    assert result.without_unknown == pytest.approx(10 ** ((unknown_total - total) / (result.tokens - result.unknown)))


def test_what_is_written_is_read_again(tmp_path: Path) -> None:
    model = estimate(count_ngrams(["é à\nà é x\n\u2028 é\n".encode(), random_text(1)], 3))
    for name in ("model.arpa", "model.arpa.gz"):
        write_arpa(str(tmp_path / name), model)
        again = read_arpa(str(tmp_path / name))
        assert again.vocabulary == model.vocabulary
        for ours, written in zip(again.tables, model.tables, strict=True):
            np.testing.assert_array_equal(ours.keys, written.keys)
            np.testing.assert_allclose(ours.log_probs, written.log_probs, rtol=1e-6)
            np.testing.assert_allclose(ours.backoffs, written.backoffs, rtol=1e-6, atol=1e-12)
    assert gzip.decompress((tmp_path / "model.arpa.gz").read_bytes()) == (tmp_path / "model.arpa").read_bytes()
    with pytest.raises(DataError, match="cannot write"):
        write_arpa(str(tmp_path / "none" / "model.arpa"), model)


@pytest.mark.parametrize("size", [1, 7, 100])
def test_blocks_of_any_size_give_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: int) -> None:
    text = tmp_path / "text"
    text.write_bytes(random_text(2, 40).rstrip(b"\n"))
    whole = estimate(count_ngrams(read_texts([str(text)]), 3))
    monkeypatch.setattr(text_blocks, "BLOCK_BYTES", size)
    write_arpa(str(tmp_path / "model"), estimate(count_ngrams(read_texts([str(text)]), 3)))
    again = read_arpa(str(tmp_path / "model"))
    assert again.vocabulary == whole.vocabulary
    for ours, expected in zip(again.tables, whole.tables, strict=True):
        np.testing.assert_allclose(ours.log_probs, expected.log_probs, rtol=1e-6)
    (tmp_path / "model").write_text(GAPS.replace("-0.5 a b", "-0.5 a d"))
    with pytest.raises(DataError, match=r"model:17: 'd' is not among the 1-grams"):
        read_arpa(str(tmp_path / "model"))
    text.write_text("a\nb\nc </s>\n")
    with pytest.raises(DataError, match=r"text:3: the word </s>"):
        count_ngrams(read_texts([str(text)]), 3)
    monkeypatch.setattr(text_blocks, "LONGEST_LINE", 50)
    text.write_text("a" * 60)
    with pytest.raises(DataError, match="has a line of more than 50 bytes"):
        count_ngrams(read_texts([str(text)]), 3)


def test_a_model_without_longer_n_grams_is_read(tmp_path: Path) -> None:
    write_arpa(str(tmp_path / "model"), estimate(count_ngrams([b"a b\n"], 3), prune=(0, 1)))
    assert [len(table) for table in read_arpa(str(tmp_path / "model")).tables] == [5, 0, 0]
    assert open_ngram_model(str(tmp_path / "model")).sentence_scores([["a"]])[0] < 0


def test_words_and_order_of_lines_do_not_matter(tmp_path: Path) -> None:
    path = tmp_path / "model.arpa"
    path.write_text(GAPS)
    swapped = GAPS.replace("-0.4 <s> a -0.25\n", "").replace("\n\\3-grams", "-0.4 <s> a -0.25\r\n\n\n\\3-grams")
    (tmp_path / "swapped.arpa").write_text("# a comment\n" + swapped, newline="")
    sentences = random_sentences(["a", "b", "c"], 100)
    scores = [open_ngram_model(str(tmp_path / name)).sentence_scores(sentences) for name in (path, "swapped.arpa")]
    np.testing.assert_array_equal(*scores)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("ngram 2=4", "ngram 2=5"), r"model:\d+: 4 2-grams, but .data. says 5"),
        (("ngram 2=4", "ngram 2=3"), r"model:\d+: more 2-grams than the 3 of .data."),
        (("ngram 1=6", f"ngram 1={2**60}"), r"model:\d+: 6 1-grams, but .data. says 1152921504606846976"),
        (("ngram 2=4", "ngram 3=4"), r"model:4: expected ngram 2=COUNT, got 'ngram 3=4'"),
        (("ngram 2=4", "ngram 2=-4"), r"model:4: expected ngram 2=COUNT"),
        (("-0.5 a b", "nan a b"), r"model:17: expected a finite number, got 'nan'"),
        (("-0.5 a b", "x a b"), r"model:17: expected a finite number, got 'x'"),
        (("-0.5 a b", "0.5 a b"), r"model:17: a log10 probability must be at most 0, got 0.5"),
        (("a b -0.15", "a b inf"), r"model:17: expected a finite number, got 'inf'"),
        (("-0.5 a b", "-0.5 a d"), r"model:17: 'd' is not among the 1-grams"),
        (("-0.5 a b -0.15", "-0.5 a b c -0.15"), r"model:17: a 2-gram is a number, 2 words"),
        (("-0.5 a b -0.15", "-0.5 a"), r"model:17: a 2-gram is a number, 2 words"),
        (("-0.3 <s> b", "-0.3 <s> a"), r"model:18: '<s> a' occurs twice"),
        (("-1.1 c", "-1.1 b"), r"model:12: the 1-gram 'b' occurs twice"),
        (("-0.1 a b c", "-0.1 b a c"), r"model:22: 'b a c' stands without its first words among the 2-grams"),
        (("\\3-grams:", "\\4-grams:"), r"model:21: expected .3-grams:, got"),
        (("\\end\\", ""), r"model:\d+: expected .end., the file ends"),
        (("\\end\\", "\\4-grams:"), r"model:25: expected .end., got"),
        (("<s> -0.3", "<x> -0.3"), r"model:16: '<s>' is not among the 1-grams"),
        (("\\data\\", "data"), r"model is no ARPA file"),
        (("ngram 1=6\nngram 2=4\nngram 3=2\n", ""), r"names no 1-grams"),
    ],
)  # fmt: skip
def test_malformed_files_are_one_line(tmp_path: Path, change: tuple[str, str], message: str) -> None:
    path = tmp_path / "model"
    content = GAPS.replace(*change)
    assert content != GAPS
    path.write_text(content)
    tracemalloc.start()
    with pytest.raises(DataError, match=message) as caught:
        open_ngram_model(str(path))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert "\n" not in str(caught.value)
    assert peak < 2**24


def test_files_cut_anywhere_or_changed_at_random_never_crash(tmp_path: Path) -> None:
    path = tmp_path / "model"
    content = GAPS.strip().encode()
    draw = random.Random(0)
    for _ in range(400):
        damaged = bytearray(content[: draw.randrange(len(content))] if draw.random() < 0.3 else content)
        for _ in range(draw.randrange(4)):
            if damaged:
                damaged[draw.randrange(len(damaged))] = draw.choice(b"\n\t \\-.09ab<\xff\0")
        path.write_bytes(bytes(damaged))
        with contextlib.suppress(DataError):
            assert np.isfinite(open_ngram_model(str(path)).sentence_scores([["a", "b"]])).all()


def test_not_utf8_and_a_model_without_sentences(tmp_path: Path) -> None:
    path = tmp_path / "model"
    path.write_bytes(GAPS.encode().replace(b"-1.1 c", b"-1.1 \xe9"))
    with pytest.raises(DataError, match=r"model:12: must be UTF-8 text, got byte 0xe9"):
        open_ngram_model(str(path))
    no_end = GAPS.replace("-0.7 </s>", "-0.7 <end>")
    path.write_text(no_end)
    with pytest.raises(DataError, match=r"model: the language model has no </s>"):
        open_ngram_model(str(path))


def test_opening_says_what_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match="--lm-model: no file"):
        open_ngram_model(str(tmp_path / "none"), "--lm-model")
    (tmp_path / "text").write_text("words\n")
    assert not is_ngram_file(str(tmp_path / "text"))
    assert is_ngram_file(str(ASSETS / "words.arpa"))
    assert is_ngram_file(str(ASSETS / "words.trie.bin"))
    (tmp_path / "cut.bin").write_bytes((ASSETS / "words.nameless.bin").read_bytes()[:200])
    if importlib.util.find_spec("kenlm"):
        with pytest.raises(DataError, match="cannot be read by KenLM"):
            open_ngram_model(str(tmp_path / "cut.bin"))
    real_import = builtins.__import__

    def refuse(name: str, *args: Any, **kwargs: Any) -> Any:
        if name == "kenlm":
            raise ImportError(name)
        return real_import(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", refuse)
    with pytest.raises(MissingPackageError, match=r'a KenLM binary needs .* pip install "w2v\[kenlm\]"'):
        open_ngram_model(str(ASSETS / "words.trie.bin"))
    assert isinstance(open_ngram_model(str(ASSETS / "words.arpa")), NgramModel)


def test_an_empty_model_needs_the_ends_of_sentences() -> None:
    with pytest.raises(DataError, match="has no <s>"):
        NgramModel("model", BackoffModel(["<unk>"], estimate(count_ngrams([b"\n"], 1)).tables[:1]))
