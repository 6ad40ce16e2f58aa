"""Our beam search against flashlight-text's, on noisy emissions of a made-up language; alone, in batches, compiled."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any
from unittest import mock

import numpy as np
import pytest
import torch
from noisy_emissions import noisy_log_probs
from torch import Tensor

from w2v.data.dictionary import Dictionary
from w2v.decoders import DecoderConfig, build_decoder, compiled_search
from w2v.decoders.beam_decoder import BeamDecoder
from w2v.functional.ctc_path import best_paths
from w2v.lm.arpa import write_arpa
from w2v.lm.kneser_ney import estimate
from w2v.lm.ngram_counts import count_ngrams
from w2v.lm.ngram_model import open_ngram_model
from w2v.types import FloatArray, Hypothesis, IntArray

LETTERS = "ETAOINSHRDLU"
DICTIONARY = Dictionary.from_symbols(["|", *LETTERS])
NUM_CLIPS = 40


def sentences(count: int, seed: int) -> list[str]:
    """Return sentences of 300 made-up words, each of which is followed by few others."""
    shapes = np.random.default_rng(0)
    words = sorted({"".join(shapes.choice(list(LETTERS), shapes.integers(1, 8))) for _ in range(300)})
    following = shapes.integers(0, len(words), (len(words), 6))
    rng = np.random.default_rng(seed)
    found = []
    for _ in range(count):
        line = [int(rng.integers(len(words)))]
        while len(line) < 3 or rng.random() < 0.8:
            line.append(int(following[line[-1], rng.integers(6)] if rng.random() < 0.9 else rng.integers(len(words))))
        found.append(" ".join(words[i] for i in line))
    return found


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Models over words and letters, and three lexicons."""
    folder = tmp_path_factory.mktemp("language")
    lines = sentences(2000, seed=1)
    texts = {"words": lines, "letters": [" ".join(line.replace(" ", "|")) + " |" for line in lines]}
    for name, order in (("words", 3), ("letters", 5)):
        counts = count_ngrams(["".join(f"{line}\n" for line in texts[name]).encode()], order)
        write_arpa(str(folder / f"{name}.arpa"), estimate(counts))
    words = sorted({word for line in lines for word in line.split()})
    (folder / "lexicon").write_text("".join(f"{word} {' '.join(word)} |\n" for word in words))
    (folder / "open").write_text("".join(f"{word} {' '.join(word)}\n" for word in words))
    # Many words of the same spelling, some of them with two; flashlight takes six at most.
    spelled = [[word, " ".join(word[:2])] for word in words]
    kept = [pair for i, pair in enumerate(spelled) if sum(pair[1] == other for _, other in spelled[:i]) < 5]
    (folder / "homophones").write_text(
        "".join(f"{word} {start} |\n{word} {' '.join(word)} |\n" for word, start in kept)
    )
    return {path.stem: str(path) for path in folder.iterdir()}


@pytest.fixture(scope="module")
def emissions() -> tuple[Tensor, Tensor]:
    return noisy_log_probs(sentences(NUM_CLIPS, seed=2), DICTIONARY.symbols, seed=3)


def decode(options: dict[str, Any], files: dict[str, str], emissions: tuple[Tensor, Tensor]) -> list[list[Hypothesis]]:
    given = dict(kenlm_model="words", lm_weight=1.5, word_score=-0.5, beam=20, nbest=5, w2l_decoder="kenlm")
    given = {key: files.get(str(value), value) for key, value in {**given, **options}.items()}
    return build_decoder(DecoderConfig(**given), DICTIONARY).decode(*emissions)


@pytest.fixture
def own_search(monkeypatch: pytest.MonkeyPatch) -> Iterator[pytest.MonkeyPatch]:
    with monkeypatch.context() as patch:
        patch.setattr("w2v.decoders.kenlm.import_flashlight", lambda: None)
        yield patch


OPTIONS: dict[str, dict[str, Any]] = {
    "lexicon": {},
    "few symbols": dict(beam_size_token=4, sil_weight=0.6),
    "low threshold": dict(beam_threshold=6.0, beam=100),
    "unknown words": dict(unk_weight=-6.0),
    "no weight": dict(lm_weight=0.0, word_score=1.5),
    "negative weight": dict(lm_weight=-0.3, word_score=1.0),
    "words without an end": dict(lexicon="open"),
    "homophones": dict(lexicon="homophones", beam=60),
    "letters": dict(kenlm_model="letters", sil_weight=-0.3),
    "letters, few symbols": dict(kenlm_model="letters", beam_size_token=5),
    "letters in a lexicon": dict(kenlm_model="letters", unit_lm=True, lexicon="lexicon"),
    "letters in a lexicon, unknown words": dict(
        kenlm_model="letters", unit_lm=True, lexicon="lexicon", unk_weight=-4.0
    ),
}


@pytest.mark.parametrize("name", OPTIONS)
def test_readings_are_those_of_flashlight(
    name: str, files: dict[str, str], emissions: tuple[Tensor, Tensor], request: pytest.FixtureRequest
) -> None:
    pytest.importorskip("flashlight.lib.text")
    theirs = decode(OPTIONS[name], files, emissions)
    request.getfixturevalue("own_search")
    ours = decode(OPTIONS[name], files, emissions)
    # Where scores tie, either order will do.
    same = 0
    for mine, other in zip(ours, theirs, strict=True):
        assert [h.score for h in mine] == pytest.approx([h.score for h in other], abs=1e-4)
        same += (mine[0].words, mine[0].tokens) == (other[0].words, other[0].tokens)
        for one, two in zip(mine, other, strict=True):
            if one.tokens == two.tokens and one.words == two.words:
                assert one.scores == pytest.approx(two.scores, abs=1e-4)
                assert one.timesteps == two.timesteps
    assert same >= 0.99 * NUM_CLIPS
    assert any(len(h) > 1 for h in ours)


@pytest.mark.parametrize("name", OPTIONS)
def test_what_is_compiled_finds_the_same(
    name: str, files: dict[str, str], emissions: tuple[Tensor, Tensor], own_search: pytest.MonkeyPatch
) -> None:
    # Run as plain Python: 50 frames of two clips.
    clips = list(OPTIONS).index(name) + torch.tensor([0, 20])
    some = emissions[0][clips, :50], emissions[1][clips].clamp(max=50)
    expected = decode(OPTIONS[name], files, some)
    own_search.setattr(compiled_search, "is_installed", lambda: True)
    search = mock.Mock(side_effect=compiled_search.search)
    own_search.setattr(compiled_search, "compiled", lambda: search)
    own_search.setattr("w2v.decoders.kenlm.import_flashlight", None)  # numba comes first
    own_search.setattr("w2v.decoders.beam_search.NUMBERS_AT_ONCE", 300)
    with np.errstate(over="ignore"):
        assert decode(OPTIONS[name], files, some) == expected
    assert search.call_count > len(clips)  # several blocks of frames


@pytest.mark.slow
@pytest.mark.parametrize("name", ["unknown words", "homophones", "letters"])
def test_machine_code_finds_the_same(
    name: str, files: dict[str, str], emissions: tuple[Tensor, Tensor], own_search: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("numba")
    expected = decode(OPTIONS[name], files, emissions)
    own_search.setattr(compiled_search, "is_installed", lambda: True)
    assert decode(OPTIONS[name], files, emissions) == expected


def test_the_language_is_hidden_from_the_best_path_alone(
    files: dict[str, str], emissions: tuple[Tensor, Tensor], own_search: pytest.MonkeyPatch
) -> None:
    said = [line.split() for line in sentences(NUM_CLIPS, seed=2)]
    greedy = ["".join(DICTIONARY.symbols[token] for token in path.tokens) for path in best_paths(*emissions)]
    assert sum(text.replace("|", " ").split() == words for text, words in zip(greedy, said, strict=True)) < 2
    found = decode(dict(beam=100), files, emissions)
    assert sum(nbest[0].words == words for nbest, words in zip(found, said, strict=True)) > NUM_CLIPS / 2


@pytest.mark.parametrize("options", [{}, dict(kenlm_model="letters")], ids=["lexicon", "letters"])
def test_company_changes_nothing(
    options: dict[str, Any],
    files: dict[str, str],
    emissions: tuple[Tensor, Tensor],
    own_search: pytest.MonkeyPatch,
) -> None:
    log_probs, lengths = emissions[0][:8], emissions[1][:8].clone()
    lengths[2:5] = torch.tensor([0, 1, 2])
    together = decode(options, files, (log_probs, lengths))
    for i, length in enumerate(lengths.tolist()):
        assert decode(options, files, (log_probs[i : i + 1, :length], lengths[i : i + 1])) == together[i : i + 1]
    own_search.setattr("w2v.decoders.beam_search.MOST_HYPOTHESES", 60)
    assert decode(options, files, (log_probs, lengths)) == together


def test_any_model_can_be_fused(
    files: dict[str, str], emissions: tuple[Tensor, Tensor], own_search: pytest.MonkeyPatch
) -> None:
    assert decode(dict(w2l_decoder="fairseqlm"), files, emissions) == decode({}, files, emissions)


@pytest.mark.parametrize("weight", [0.0, 1.5])
def test_what_the_model_rules_out_is_never_said(
    weight: float, files: dict[str, str], emissions: tuple[Tensor, Tensor]
) -> None:
    model = open_ngram_model(files["words"])
    some = {word for word in model.words or () if "E" in word}
    forbidden = [model.index(word) for word in some]
    score = model.score

    def strict_score(states: IntArray, words: IntArray) -> tuple[FloatArray, IntArray]:
        scores, after = score(states, words)
        return np.where(np.isin(words, forbidden), -np.inf, scores), after

    model.score = strict_score  # type: ignore[method-assign]
    options = DecoderConfig(w2l_decoder="fairseqlm", kenlm_model="given", lm_weight=weight, beam=20, nbest=5)
    decoder = build_decoder(options, DICTIONARY, language_model=lambda path: model)
    assert isinstance(decoder, BeamDecoder)
    found = decoder.decode(emissions[0][:8], emissions[1][:8])
    said = {word for nbest in found for hypothesis in nbest for word in hypothesis.words}
    assert said
    assert not said & some
    assert all(np.isfinite(hypothesis.score) for nbest in found for hypothesis in nbest)


@pytest.mark.parametrize("is_compiled", [False, True], ids=["numpy", "compiled"])
def test_impossible_emissions_are_an_empty_reading(
    is_compiled: bool, files: dict[str, str], own_search: pytest.MonkeyPatch
) -> None:
    own_search.setattr(compiled_search, "is_installed", lambda: is_compiled)
    own_search.setattr(compiled_search, "compiled", lambda: compiled_search.search)
    for options in ({}, dict(kenlm_model="letters")):
        nothing = torch.full((2, 4, len(DICTIONARY)), -torch.inf)
        nothing[0] = 0.0
        with np.errstate(over="ignore"):
            found = decode(options, files, (nothing, torch.tensor([4, 4])))
        assert np.isfinite(found[0][0].score)
        assert [(hypothesis.tokens, hypothesis.score) for hypothesis in found[1]] == [([], -np.inf)]
