"""`w2v-infer tune`: where the best point is known, what it prints, and what it does when points fail."""

from __future__ import annotations

import dataclasses
import itertools
import math
import re
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from toy_speech import Outcome, call

from w2v.config import build_config
from w2v.data.dictionary import Dictionary
from w2v.decoders import DecoderConfig, build_decoder
from w2v.errors import ConfigError, DataError
from w2v.inference.emission_file import EmissionInfo, EmissionWriter
from w2v_cli import infer
from w2v_cli.tune import PER_ROUND, Point, TuneConfig, search, spread

DICTIONARY = Dictionary.from_symbols(["|", "A", "B"])
ARPA = Path(__file__).resolve().parents[1] / "assets" / "lm" / "words.arpa"
RANGES = {"lm_weight_range": "0,4", "word_score_range": (-3, 3), "sil_weight_range": "-0.5,-0.5"}


class Bowl:
    """A cost with its least value at a known place, and a hole where it cannot be computed."""

    best = (1.3, -1.1, -0.5)

    def __init__(self) -> None:
        self.points: list[Point] = []

    def __call__(self, point: Point) -> Future[tuple[float, str]]:
        self.points.append(point)
        future: Future[tuple[float, str]] = Future()
        if point[0] > 3:
            future.set_exception(DataError("too heavy"))
        else:
            cost = sum((value - best) ** 2 for value, best in zip(point, self.best, strict=True))
            future.set_result((cost, f"cost {cost:.3f}"))
        return future


def config(**values: Any) -> TuneConfig:
    return build_config(TuneConfig, {**RANGES, **values}, "x")


def test_it_closes_in_on_the_best_point() -> None:
    closest = []
    for seed in range(20):
        bowl = Bowl()
        trials = search(config(trials=64), (0.2, 1.0, 0.0), seed, bowl)
        assert [trial.point for trial in trials] == bowl.points
        assert len(trials) == 64
        assert bowl.points[0] == (0.2, 1.0, 0.0)
        costs = [trial.cost for trial in trials]
        closest.append((min(costs), min(costs[:32])))
        for lm_weight, word_score, sil_weight in bowl.points[1:]:
            assert 0 <= lm_weight <= 4
            assert -3 <= word_score <= 3
            assert sil_weight == -0.5
        failed = [trial for trial in trials if trial.point[0] > 3]
        assert failed
        assert all(math.isinf(trial.cost) and trial.summary == "failed: too heavy" for trial in failed)
    after, before = np.median(closest, axis=0)
    assert np.max(closest, axis=0)[0] < 0.1
    assert after < 0.1 * before


def test_points_follow_from_the_seed() -> None:
    runs = [search(config(trials=30), (1, 1, 1), seed, Bowl()) for seed in (1, 1, 2)]
    assert runs[0] == runs[1]
    assert runs[0] != runs[2]


@pytest.mark.parametrize("trials", [1, 2, 3, PER_ROUND, 25])
def test_as_many_points_as_asked_for(trials: int) -> None:
    bowl = Bowl()
    search(config(trials=trials), (1, 1, 1), 1, bowl)
    assert len(bowl.points) == trials


def test_spread_points_fill_every_part_of_every_range() -> None:
    points = np.array(spread([(0.0, 10.0), (-10.0, 0.0), (0.0, 20.0)], 10, np.random.default_rng(0)))
    parts = np.floor((points - [0, -10, 0]) / [1, 1, 2])
    for column in parts.T:
        assert sorted(column.tolist()) == list(range(10))


def test_bad_ranges_are_one_line() -> None:
    for value in ("1", "3,1", "0,inf", "a,b"):
        with pytest.raises(ConfigError, match="--lm-weight-range"):
            config(lm_weight_range=value)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Noisy emissions of sentences of A, B and AB."""
    generator = torch.Generator().manual_seed(2)
    rng = np.random.default_rng(2)
    info = EmissionInfo("m.pt", DICTIONARY.symbols, "letter", "ltr", 16000, 320, 40.0)
    texts = [" ".join(rng.choice(["A", "B", "AB"], size=4)) for _ in range(12)]
    names = [f"{number}.wav" for number in range(len(texts))]
    with EmissionWriter(tmp_path / "e", info, names) as writer:
        for name, text in zip(names, texts, strict=True):
            path = itertools.chain.from_iterable((DICTIONARY.index(c), 0) for c in f"{text} ".replace(" ", "|"))
            scores = 2.5 * torch.nn.functional.one_hot(torch.tensor(list(path)), len(DICTIONARY)).float()
            noisy = scores + torch.randn(scores.shape, generator=generator)
            writer.add(name, 320 * len(noisy), noisy.log_softmax(-1))
    (tmp_path / "test.tsv").write_text("/gone\n" + "".join(f"{name}\t{9000}\n" for name in names))
    (tmp_path / "test.ltr").write_text("".join(" ".join(f"{text} ".replace(" ", "|")) + "\n" for text in texts))
    return tmp_path


def tune(folder: Path, *flags: Any) -> Outcome:
    decoder = ["--w2l-decoder", "kenlm", "--lm-model", ARPA, "--lm-weight", 3, "--word-score", 2, "--beam", 20]
    return call(infer.main, ["tune", folder, "--load-emissions", folder / "e", *decoder, "--trials", 20, *flags])


def test_the_flags_it_prints_give_the_score_it_prints(folder: Path) -> None:
    found = tune(folder, "--decode-workers", 0)
    assert found.code == 0, found.err
    lines = found.out.splitlines()
    assert lines[0].split() == ["--lm-weight", "--word-score", "--sil-weight", "score"]
    scores = [float(re.search(r"WER: ([0-9.]+)", line)[1]) for line in lines[1:-1]]  # type: ignore[index]
    assert len(scores) == 20
    assert scores == sorted(scores)
    start = next(line for line in lines if line.split()[:3] == ["3", "2", "0"])
    assert scores[0] < float(start.split("WER: ")[1].split()[0])
    assert "20 of 20 points, best WER: " in found.err
    best = lines[-1].removeprefix("best: ").split()
    command = [folder, "--load-emissions", folder / "e", "--w2l-decoder", "kenlm", "--lm-model", ARPA, "--beam", 20]
    assert lines[1].split("  ")[-1] in call(infer.main, [*command, *best]).err


@pytest.mark.parametrize("workers", [0, 2])
def test_the_language_model_is_opened_once(folder: Path, monkeypatch: pytest.MonkeyPatch, workers: int) -> None:
    """By the first process; the points, and the processes that try them, share it."""
    from w2v_cli import tune as program

    opened = folder / "opened"

    def counted(*arguments: Any) -> Any:
        with opened.open("a") as file:
            file.write("x")
        return build_decoder(*arguments)

    monkeypatch.setattr(program, "build_decoder", counted)
    assert tune(folder, "--decode-workers", workers).code == 0
    assert opened.read_text() == "x"


@pytest.mark.parametrize("installed", [True, False], ids=["flashlight", "own"])
@pytest.mark.parametrize("lexicon", [True, False], ids=["words", "units"])
def test_a_reweighed_decoder_is_one_built_with_these_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, installed: bool, lexicon: bool
) -> None:
    from w2v.decoders import kenlm

    if not installed:
        monkeypatch.setattr(kenlm, "import_flashlight", lambda: None)
    elif kenlm.import_flashlight() is None:
        pytest.skip("flashlight-text is not installed")
    assets = ARPA.parent
    first = DecoderConfig(w2l_decoder="kenlm", kenlm_model=str(ARPA), lm_weight=3.0, word_score=2.0, beam=20, nbest=3)
    if not lexicon:
        first = dataclasses.replace(first, kenlm_model=str(assets / "units.arpa"))
    second = dataclasses.replace(first, lm_weight=0.7, word_score=-1.5, sil_weight=0.25)
    log_probs = torch.randn((4, 30, len(DICTIONARY)), generator=torch.Generator().manual_seed(1)).log_softmax(-1)
    lengths = torch.tensor([30, 12, 1, 25])
    decoder = build_decoder(first, DICTIONARY)
    before = decoder.decode(log_probs, lengths)
    found, expected = decoder.reweighed(second), build_decoder(second, DICTIONARY)
    assert found.decode(log_probs, lengths) == expected.decode(log_probs, lengths)
    assert decoder.decode(log_probs, lengths) == before


def test_processes_change_nothing(folder: Path) -> None:
    alone, several = (tune(folder, "--decode-workers", number).out for number in (0, 2))
    assert several == alone


def test_what_it_cannot_tune_is_one_line(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    command = ["tune", folder, "--load-emissions", folder / "e"]
    assert "viterbi has no weights" in call(infer.main, command).err
    assert "unknown flag --results-path" in tune(folder, "--results-path", "x").err
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert "leave torchrun out" in tune(folder).err
    monkeypatch.delenv("WORLD_SIZE")
    (folder / "test.ltr").unlink()
    assert "needs the labels of test" in tune(folder).err.splitlines()[-1]
