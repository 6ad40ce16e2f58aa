"""Decoders against the recorded runs of the original (its later version, whose silence is `|`)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn.utils.rnn import pad_sequence

from w2v.data.dictionary import Dictionary
from w2v.decoders import DecoderConfig, build_decoder
from w2v.decoders.search_space import silence_index
from w2v.inference.load import load_language_model
from w2v.scoring import WerScorer
from w2v.types import Hypothesis

RUNS = "runs_head_silence_is_bar.pt"
RECORDED_NBEST = ("viterbi", "kenlm")


@pytest.fixture(params=["flashlight", "own"])
def backend(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    if request.param == "own":
        monkeypatch.setattr("w2v.decoders.kenlm.import_flashlight", lambda: None)
    else:
        pytest.importorskip("flashlight.lib.text")
    return str(request.param)


def config_of(run: dict[str, Any], folder: Path, **changes: Any) -> DecoderConfig:
    options = {**run["options"], **changes}
    for name in ("kenlm_model", "lexicon"):
        if options.get(name):
            options[name] = str(folder / options[name])
    return DecoderConfig(w2l_decoder=run["decoder"], **options)


def decode(config: DecoderConfig, recorded: dict[str, Any], dictionary: Dictionary) -> list[list[Hypothesis]]:
    emissions = recorded["emissions"]
    lengths = torch.tensor([len(rows) for rows in emissions])
    # Frames of padding that would win every frame if they were read.
    batch = pad_sequence(emissions, batch_first=True, padding_value=5.0)
    return build_decoder(config, dictionary, language_model=load_language_model).decode(batch, lengths)


@pytest.fixture(scope="module")
def recorded(golden: Path) -> dict[str, Any]:
    return torch.load(golden / "decoder" / RUNS, weights_only=True)


@pytest.fixture(scope="module")
def dictionary(golden: Path, recorded: dict[str, Any]) -> Dictionary:
    loaded = Dictionary.from_file(golden / "decoder" / "dict.ltr.txt")
    assert loaded.symbols == recorded["symbols"]
    return loaded


def recorded_runs(recorded: dict[str, Any]) -> list[dict[str, Any]]:
    runs = [run for run in recorded["runs"] if run["decoder"] in RECORDED_NBEST]
    assert runs
    return runs


@pytest.mark.usefixtures("backend")
def test_recorded_runs(golden: Path, recorded: dict[str, Any], dictionary: Dictionary) -> None:
    for run in recorded_runs(recorded):
        if run["silence_index"] is not None:
            assert silence_index(dictionary) == run["silence_index"]
        found = decode(config_of(run, golden / "decoder"), recorded, dictionary)
        scorer = WerScorer()
        for ours, theirs, reference in zip(found, run["hypos"], recorded["references"], strict=True):
            assert len(ours) == len(theirs)
            for mine, other in zip(ours, theirs, strict=True):
                assert mine.tokens == other["tokens"]
                assert " ".join(mine.words) == other["text"]
                if run["decoder"] == "kenlm":  # the original scores every best path with 0
                    assert mine.words == other["words"]
                    assert mine.score == pytest.approx(other["score"], abs=1e-4)
            scorer.add(reference, " ".join(ours[0].words))
        assert scorer.score() == pytest.approx(run["wer"])


def test_recorded_runs_with_a_transformer(golden: Path, recorded: dict[str, Any], dictionary: Dictionary) -> None:
    runs = [run for run in recorded["runs"] if run["decoder"] == "fairseqlm"]
    assert runs
    for run in runs:
        found = decode(config_of(run, golden / "decoder"), recorded, dictionary)
        for ours, theirs in zip(found, run["hypos"], strict=True):
            assert [h.tokens for h in ours] == [h["tokens"] for h in theirs]
            assert [h.words for h in ours] == [h["words"] for h in theirs]
            assert [h.score for h in ours] == pytest.approx([h["score"] for h in theirs], rel=1e-5)


def test_rescoring_gives_sentences_what_fusing_gives_them(
    golden: Path, recorded: dict[str, Any], dictionary: Dictionary
) -> None:
    run = next(run for run in recorded["runs"] if run["decoder"] == "fairseqlm")
    first = next(run for run in recorded["runs"] if run["decoder"] == "kenlm")
    transformer = config_of(run, golden / "decoder", beam=50)
    rescored = config_of(first, golden / "decoder", beam=50, nbest=10, rescore_lm=transformer.kenlm_model)
    compared = 0
    for fused, nbest in zip(
        decode(transformer, recorded, dictionary), decode(rescored, recorded, dictionary), strict=True
    ):
        for reading in nbest:
            if reading.words == fused[0].words:
                assert reading.scores["rescore"] == pytest.approx(fused[0].scores["lm"], rel=1e-5)
                compared += 1
    assert compared > len(recorded["emissions"]) / 2


@pytest.mark.usefixtures("backend")
def test_a_derived_lexicon_equals_the_recorded_one(
    golden: Path, recorded: dict[str, Any], dictionary: Dictionary
) -> None:
    for run in recorded_runs(recorded):
        if run["decoder"] != "kenlm":
            continue
        found = decode(config_of(run, golden / "decoder", lexicon=None), recorded, dictionary)
        for ours, theirs in zip(found, run["hypos"], strict=True):
            assert [h.words for h in ours] == [h["words"] for h in theirs]
            assert [h.score for h in ours] == pytest.approx([h["score"] for h in theirs], abs=1e-4)


@pytest.mark.usefixtures("backend")
def test_score_is_the_sum_of_its_parts(golden: Path, recorded: dict[str, Any], dictionary: Dictionary) -> None:
    run = next(run for run in recorded["runs"] if run["decoder"] == "kenlm")
    config = config_of(run, golden / "decoder", sil_weight=0.0)
    for hypotheses in decode(config, recorded, dictionary):
        best = hypotheses[0]
        total = (
            best.scores["emission"]
            + config.lm_weight * best.scores["lm"]
            + config.word_score * len(best.words)
        )  # fmt: skip
        assert best.score == pytest.approx(total, abs=1e-4)


@pytest.mark.usefixtures("backend")
def test_a_model_in_the_other_case_reads_the_same(
    golden: Path, recorded: dict[str, Any], dictionary: Dictionary, tmp_path: Path
) -> None:
    run = next(run for run in recorded["runs"] if run["decoder"] == "kenlm")
    text = (golden / "decoder" / run["options"]["kenlm_model"]).read_text()
    (tmp_path / "lower.arpa").write_text(text.lower())
    expected = [h[0]["text"] for h in run["hypos"]]
    for lexicon in (None, str(golden / "decoder" / run["options"]["lexicon"])):
        config = config_of(run, golden / "decoder", kenlm_model=str(tmp_path / "lower.arpa"), lexicon=lexicon)
        found = decode(config, recorded, dictionary)
        assert [" ".join(h[0].words) for h in found] == expected
