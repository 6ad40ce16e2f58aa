"""Beam searches with n-gram models, ours and flashlight-text's, against an exhaustive search over all paths.

And what they say about files that do not fit.
"""

from __future__ import annotations

import builtins
import functools
import itertools
import logging
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from w2v.data.dictionary import Dictionary
from w2v.decoders import DecoderConfig, KenlmDecoder, build_decoder, compiled_search, wer_args_config
from w2v.decoders.beam_search import BeamSearch
from w2v.errors import ConfigError, DataError, MissingPackageError
from w2v.types import Hypothesis

ASSETS = Path(__file__).resolve().parent.parent / "assets" / "lm"
WORDS, UNITS = str(ASSETS / "words.arpa"), str(ASSETS / "units.arpa")
DICTIONARY = Dictionary.from_symbols(["|", "A", "B"])
BAR = DICTIONARY.index("|")
USED = [0, BAR, DICTIONARY.index("A"), DICTIONARY.index("B")]
NUM_FRAMES = 6


# What is compiled runs as plain Python here; `test_beam_search` compares it with numpy in a few seconds.
@pytest.fixture(params=["flashlight", "own", pytest.param("compiled", marks=pytest.mark.slow)], autouse=True)
def backend(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    if request.param == "own":
        monkeypatch.setattr("w2v.decoders.kenlm.import_flashlight", lambda: None)
    elif request.param == "compiled":
        monkeypatch.setattr(compiled_search, "is_installed", lambda: True)
        monkeypatch.setattr(compiled_search, "compiled", lambda: compiled_search.search)
    else:
        pytest.importorskip("flashlight.lib.text")
    with np.errstate(over="ignore"):
        yield str(request.param)


def config(model: str | None = WORDS, **options: Any) -> DecoderConfig:
    exact: dict[str, Any] = dict(beam=100_000, beam_threshold=1e9, lm_weight=0.7, word_score=-0.4, sil_weight=-0.3)
    return DecoderConfig(w2l_decoder="kenlm", kenlm_model=model, **{**exact, **options})


def random_log_probs(seed: int, num_clips: int = 4) -> Tensor:
    scores = torch.full((num_clips, NUM_FRAMES, len(DICTIONARY)), -200.0)
    scores[:, :, USED] = 2 * torch.randn(
        num_clips, NUM_FRAMES, len(USED), generator=torch.Generator().manual_seed(seed)
    )
    return scores.log_softmax(-1)


def decode(options: DecoderConfig, log_probs: Tensor) -> list[list[Hypothesis]]:
    return build_decoder(options, DICTIONARY).decode(log_probs, torch.full((len(log_probs),), log_probs.shape[1]))


@functools.cache
def bigram_score(path: str | None, words: tuple[str, ...]) -> float:
    """Return log10 P(words, </s>) by a bigram ARPA file: with back-off where a pair is not in it."""
    found: dict[tuple[str, ...], list[float]] = {}
    for line in Path(path or "").read_text().splitlines():
        parts = line.split("\t")
        if len(parts) > 1:
            found[tuple(parts[1].split())] = [float(parts[0]), float(parts[2]) if len(parts) > 2 else 0.0]
    total = 0.0
    for pair in itertools.pairwise(("<s>", *words, "</s>")):
        total += found[pair][0] if pair in found else found[pair[:1]][1] + found[pair[1:]][0]
    return total


def exhaustive(log_probs: Tensor, options: DecoderConfig, over_units: bool) -> tuple[float, list[str]]:
    """Return the best score over all V^T paths, and its words. A silence before the first frame is given."""
    best = (-math.inf, [""])
    for path in itertools.product(USED, repeat=len(log_probs)):
        symbols = [symbol for symbol, _ in itertools.groupby((BAR, *path)) if symbol][1:]
        text = "".join(DICTIONARY.symbols[symbol] for symbol in symbols)
        words = text.replace("|", " ").split()
        if over_units:
            score = options.lm_weight * bigram_score(options.kenlm_model, tuple(text))
        elif (text and symbols[-1] != BAR) or any(word not in ("A", "B", "AB") for word in words):
            continue
        else:
            score = options.lm_weight * bigram_score(options.kenlm_model, tuple(words)) + options.word_score * len(
                words
            )
        score += sum(float(log_probs[t, symbol]) for t, symbol in enumerate(path))
        score += options.sil_weight * path.count(BAR)
        best = max(best, (score, words))
    return best


@pytest.mark.parametrize("seed", range(3))
def test_lexicon_search_finds_the_best_path(seed: int) -> None:
    log_probs = random_log_probs(seed)
    for found, rows in zip(decode(config(), log_probs), log_probs, strict=True):
        score, words = exhaustive(rows, config(), over_units=False)
        assert found[0].words == words
        assert found[0].score == pytest.approx(score, abs=1e-4)


@pytest.mark.parametrize("seed", range(3))
def test_free_search_with_a_unit_model_finds_the_best_path(seed: int) -> None:
    log_probs = random_log_probs(seed)
    options = config(UNITS)
    for found, rows in zip(decode(options, log_probs), log_probs, strict=True):
        score, words = exhaustive(rows, options, over_units=True)
        assert found[0].words == words
        assert found[0].score == pytest.approx(score, abs=1e-4)


def test_unit_model_is_seen_and_said(caplog: pytest.LogCaptureFixture) -> None:
    log_probs = random_log_probs(1)
    with caplog.at_level(logging.INFO):
        seen = decode(config(UNITS), log_probs)
    assert "model over units" in caplog.text
    assert decode(config(UNITS, unit_lm=True), log_probs) == seen
    assert decode(config(str(ASSETS / "units.trie.bin")), log_probs)[0][0].words == seen[0][0].words


def test_unit_model_with_a_lexicon_gives_words_of_the_lexicon(tmp_path: Path) -> None:
    (tmp_path / "lexicon").write_text("BA B A |\nB B |\n")
    options = config(UNITS, unit_lm=True, lexicon=str(tmp_path / "lexicon"), nbest=20)
    found = decode(options, random_log_probs(2, 8))
    assert {word for hypotheses in found for hypothesis in hypotheses for word in hypothesis.words} == {"BA", "B"}


@pytest.mark.parametrize("name", ["words.probing.bin", "words.trie.bin"])
def test_binary_reads_as_its_arpa_does(name: str) -> None:
    log_probs = random_log_probs(3)
    for ours, theirs in zip(decode(config(str(ASSETS / name)), log_probs), decode(config(), log_probs), strict=True):
        assert ours[0].words == theirs[0].words
        assert ours[0].score == pytest.approx(theirs[0].score, abs=1e-4)


def test_binary_without_words_asks_for_a_lexicon(tmp_path: Path) -> None:
    pytest.importorskip("kenlm")
    nameless = str(ASSETS / "words.nameless.bin")
    with pytest.raises(ConfigError, match=r"built without its words; give --lexicon"):
        decode(config(nameless), random_log_probs(0))
    (tmp_path / "lexicon").write_text("A A |\nB B |\nAB A B |\n")
    given = decode(config(nameless, lexicon=str(tmp_path / "lexicon")), random_log_probs(0))
    assert [h[0].words for h in given] == [h[0].words for h in decode(config(), random_log_probs(0))]


def test_readings_are_ordered_and_timesteps_point_at_their_tokens() -> None:
    log_probs = random_log_probs(4, num_clips=6)
    for row, hypotheses in enumerate(decode(config(nbest=5), log_probs)):
        assert 1 < len(hypotheses) <= 5
        assert [h.score for h in hypotheses] == sorted((h.score for h in hypotheses), reverse=True)
        for h in hypotheses:
            assert len(h.timesteps) == len(h.tokens)
            assert h.timesteps == sorted(h.timesteps)
            # All but the two silences that flashlight adds lie on a frame that is not impossible.
            inner = list(zip(h.tokens, h.timesteps, strict=True))[1:-1]
            assert all(log_probs[row, frame, token] > -100 for token, frame in inner)


def test_batching_changes_nothing_and_no_frames_are_an_empty_reading() -> None:
    log_probs = random_log_probs(5)
    lengths = torch.tensor([NUM_FRAMES, 3, 0, 1])
    decoder = build_decoder(config(), DICTIONARY)
    together = decoder.decode(log_probs, lengths)
    for i, length in enumerate(lengths.tolist()):
        assert together[i] == decoder.decode(log_probs[i : i + 1, :length], lengths[i : i + 1])[0]
    assert (together[2][0].tokens, together[2][0].words) == ([], [])


def test_unknown_words_come_out_where_they_are_allowed() -> None:
    log_probs = random_log_probs(6, 8)
    assert not any("<unk>" in h[0].words for h in decode(config(), log_probs))
    assert any("<unk>" in h[0].words for h in decode(config(unk_weight=20.0), log_probs))


def test_missing_files_and_values_name_the_flag(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="needs --lm-model"):
        build_decoder(config(None), DICTIONARY)
    with pytest.raises(ConfigError, match="--lm-model: no file"):
        build_decoder(config(str(tmp_path / "none.arpa")), DICTIONARY)
    with pytest.raises(ConfigError, match="--lexicon: no file"):
        build_decoder(config(lexicon=str(tmp_path / "none")), DICTIONARY)
    with pytest.raises(ConfigError, match="--beam must"):
        config(beam=0)
    with pytest.raises(ConfigError, match="--lm-weight must be a finite"):
        config(lm_weight=math.inf)


def test_lexicon_and_model_of_different_words_do_not_fit(tmp_path: Path) -> None:
    (tmp_path / "lexicon").write_text("A A |\nBB B B |\nBBB B B B |\n")
    with pytest.raises(ConfigError, match=r"do not fit: only 33% of .* \('BB' is not\)"):
        build_decoder(config(lexicon=str(tmp_path / "lexicon")), DICTIONARY)


def test_a_model_of_another_alphabet_does_not_fit() -> None:
    with pytest.raises(ConfigError, match=r"0% of its words can be spelled .*'A' needs 'A'"):
        build_decoder(config(), Dictionary.from_symbols(["|", "x", "y", "z"]))
    with pytest.raises(ConfigError, match=r"--unit-lm: only"):
        build_decoder(config(UNITS, unit_lm=True), Dictionary.from_symbols(["x", "y", "z"]))


def test_a_damaged_model_is_one_line(tmp_path: Path) -> None:
    damaged = tmp_path / "damaged.arpa"
    damaged.write_text(Path(WORDS).read_text().replace("ngram 2=8", "ngram 2=9"))
    with pytest.raises(DataError, match=r"cannot be read by KenLM|damaged.arpa:\d+: ") as caught:
        build_decoder(config(str(damaged)), DICTIONARY)
    assert "\n" not in str(caught.value)
    (tmp_path / "text").write_text("nothing of the kind")
    with pytest.raises(DataError, match="no ARPA file and no KenLM binary"):
        build_decoder(config(str(tmp_path / "text")), DICTIONARY)


def test_without_flashlight_our_own_search_is_used_and_said(backend: str, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        decoder = build_decoder(config(), DICTIONARY)
    assert isinstance(decoder, KenlmDecoder)
    assert isinstance(decoder.search, BeamSearch) == (backend != "flashlight")
    assert isinstance(decoder.search, compiled_search.CompiledLexiconSearch) == (backend == "compiled")
    assert ("flashlight-text is not installed" in caplog.text) == (backend == "own")


def test_without_any_package_a_binary_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    real_import = builtins.__import__

    def refuse(name: str, *args: Any, **kwargs: Any) -> Any:
        if name.startswith(("flashlight", "kenlm")):
            raise ImportError(name)
        return real_import(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", refuse)
    assert build_decoder(config(), DICTIONARY).decode(random_log_probs(0), torch.tensor([NUM_FRAMES] * 4))
    with pytest.raises(MissingPackageError, match=r'pip install "w2v\[kenlm\]"'):
        build_decoder(config(str(ASSETS / "words.trie.bin")), DICTIONARY)


def test_two_words_that_are_one_for_the_model_both_decode(tmp_path: Path) -> None:
    lower = tmp_path / "lower.arpa"
    lower.write_text(Path(WORDS).read_text().lower())
    (tmp_path / "lexicon").write_text("A A |\nB B |\nb B |\nAB A B |\n")
    found = decode(config(str(lower), lexicon=str(tmp_path / "lexicon")), random_log_probs(7))
    assert [h[0].words for h in found] == [h[0].words for h in decode(config(), random_log_probs(7))]


def test_wer_args_are_the_beam_search_of_validation() -> None:
    assert wer_args_config((WORDS, None, 2.0, -1.0), 32) == DecoderConfig(
        w2l_decoder="kenlm", kenlm_model=WORDS, lm_weight=2.0, word_score=-1.0, beam=50, beam_size_token=32.0,
        beam_threshold=32.0,
    )  # fmt: skip
    assert wer_args_config((WORDS, "lexicon", 0.0, 0.0), 200).beam_threshold == 50.0
