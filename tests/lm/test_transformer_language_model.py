"""Scores with cached prefixes are those of whole sentences, in any order and any company."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from w2v.data.dictionary import Dictionary
from w2v.lm import transformer_language_model
from w2v.lm.language_model import LanguageModel
from w2v.lm.transformer_language_model import TransformerLanguageModel
from w2v.models.transformer_lm import TransformerLm, TransformerLmConfig

WORDS = [f"w{i}" for i in range(20)]
OPTIONS = {"decoder_embed_dim": 16, "decoder_ffn_embed_dim": 24, "decoder_layers": 2, "decoder_attention_heads": 4}
ADAPTIVE = {"adaptive_softmax_cutoff": (6, 12), "adaptive_softmax_factor": 2.0}


def build(add_bos: bool = False, unknown: float | None = -math.inf, **options: object) -> TransformerLanguageModel:
    torch.manual_seed(0)
    dictionary = Dictionary.from_symbols([*WORDS, "madeupword0000"])
    model = TransformerLm(TransformerLmConfig(**{**OPTIONS, **options}), len(dictionary), dictionary.pad, 16)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.3 * torch.randn_like(parameter)
    return TransformerLanguageModel(model.eval(), 2, dictionary, "x.pt", add_bos=add_bos, unknown=unknown)


def sentences(count: int = 12, longest: int = 9) -> list[list[str]]:
    rng = np.random.default_rng(1)
    return [rng.choice(WORDS, size=rng.integers(longest + 1)).tolist() for _ in range(count)]


@pytest.mark.parametrize("is_large", [False, True])
@pytest.mark.parametrize("add_bos", [False, True])
@pytest.mark.parametrize("options", [{}, ADAPTIVE, {"decoder_learned_pos": True}], ids=["plain", "adaptive", "learned"])
def test_step_by_step_is_the_whole_sentence(
    monkeypatch: pytest.MonkeyPatch, is_large: bool, add_bos: bool, options: dict[str, object]
) -> None:
    monkeypatch.setattr(transformer_language_model, "LARGE_VOCABULARY", 2 if is_large else 10**6)
    monkeypatch.setattr(transformer_language_model, "_PAST_AT_ONCE", 16)  # several forward passes per step
    model = build(add_bos, **options)
    texts = sentences()
    whole = model.sentence_scores(texts)
    np.testing.assert_allclose(LanguageModel.sentence_scores(model, texts), whole, rtol=1e-5)
    for text, score in zip(texts, whole, strict=True):
        np.testing.assert_allclose(model.sentence_scores([text]), [score], rtol=1e-5)


def test_whole_sentences_are_products_of_softmaxes() -> None:
    """By hand: one forward pass per word, over all that is before it."""
    model = build()
    lm: TransformerLm = model._model  # type: ignore[assignment]
    words = [model.index(word) for word in ("w3", "w19", "w3")]
    total, history = 0.0, [Dictionary.eos]
    for word in [*words, Dictionary.eos]:
        logits = lm.decoder.softmax.word_vectors() @ lm.decoder(torch.tensor([history]))[0, -1]
        total += logits.log_softmax(0)[word].item()
        history.append(word)
    assert model.sentence_scores([["w3", "w19", "w3"]])[0] == pytest.approx(total, rel=1e-5)


def test_every_prefix_is_computed_once() -> None:
    model = build()
    texts = [["w1", "w2", "w3"], ["w1", "w2", "w4"], ["w1", "w2"], ["w5"]]
    first = LanguageModel.sentence_scores(model, texts)
    assert model.num_computed == 6  # nothing, w1, w1 w2, w1 w2 w3, w1 w2 w4, w5
    np.testing.assert_array_equal(LanguageModel.sentence_scores(model, texts), first)
    assert model.num_computed == 6
    model.forget()
    np.testing.assert_allclose(LanguageModel.sentence_scores(model, texts[1:]), first[1:], rtol=1e-6)
    assert model.num_computed == 6 + 4  # the beginning is kept
    assert len(model._scores.rows) == 5


def test_equal_histories_are_equal_states() -> None:
    model = build()
    start = np.full(3, model.start())
    words = np.array([model.index(word) for word in ("w1", "w2", "w1")])
    _, states = model.score(start, words)
    assert states[0] == states[2] != states[1]
    empty = np.empty(0, dtype=np.int64)
    assert [len(part) for part in model.score(empty, empty)] == [0, 0]
    assert len(model.sentence_scores([])) == 0


def test_unknown_words() -> None:
    model = build()
    start, unknown = np.array([model.start()]), np.array([model.index("zzz")])
    assert unknown[0] == model.index("<unk>") == model.index("</s>")
    assert not any(map(model.contains, ("zzz", "<unk>", "</s>", "<pad>")))
    assert model.contains("w1")
    assert list(model.words) == WORDS  # no filler, no special symbol
    assert model.score(start, unknown)[0] == -math.inf
    assert np.isfinite(build(unknown=None).score(start, unknown)[0])
    assert np.isfinite(model.sentence_scores([["w1", "zzz"]])).all()
    assert np.exp(model.score(np.repeat(start, 25), np.arange(25))[0]).sum() < 1
    everything = build(unknown=None)
    assert np.exp(everything.score(np.repeat(start, 25), np.arange(25))[0]).sum() == pytest.approx(1, rel=1e-5)
