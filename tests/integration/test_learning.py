"""Every kind of model learns: on a toy language the loss falls well below where it began, and below chance.

Sizes are tiny and runs are short; oracle is chance, ln(1 + K) for one positive among K negatives, in bits.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
from toy_speech import ADAM, COMMON, call, prepare, pretraining

from w2v_cli import train

pytest.importorskip("soundfile")

WAV2VEC = [
    "--arch", "wav2vec", "--criterion", "wav2vec", "--infonce", "--num-negatives", 10, "--prediction-steps", 4,
    "--conv-feature-layers", "[(32, 10, 5), (32, 8, 4), (32, 4, 4)]",
    "--conv-aggregator-layers", "[(32, 2, 1), (32, 3, 1), (32, 4, 1)]", "--skip-connections-agg", "--log-compression",
    "--vq-vars", 16, "--lr", 0.003, "--max-tokens", 96000, "--max-sample-size", 12000, "--max-update", 60,
    "--log-interval", 10, "--disable-validation", *ADAM, *COMMON,
]  # fmt: skip
# The share of chance that the loss must fall below, and further flags. Gumbel noise makes for a slow start.
KINDS: dict[str, tuple[float, list[Any]]] = {
    "wav2vec": (0.8, []),
    "gumbel": (0.95, ["--vq-type", "gumbel", "--combine-groups", "--log-keys", "temp"]),
    "kmeans": (0.8, ["--vq-type", "kmeans", "--loss-weights", "[1]"]),
    "gru": (0.8, ["--aggregator", "gru", "--gru-dim", 32]),
}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return prepare(tmp_path_factory.mktemp("learning"), 120)


@pytest.mark.parametrize("kind", KINDS)
def test_wav2vec(kind: str, data: Path, tmp_path: Path) -> None:
    share, more = KINDS[kind]
    outcome = call(train.main, [data, "--save-dir", tmp_path, *WAV2VEC, *more])
    assert outcome.code == 0, outcome.err
    curve = [line.get("loss_0", line["loss"]) for line in outcome.lines("train_inner")]
    assert curve[-1] < share * math.log2(1 + 10)
    assert curve[-1] < share * curve[0]


@pytest.mark.parametrize(
    "more",
    [
        [],
        ["--extractor-mode", "default"],
        ["--layer-norm-first", "--encoder-layerdrop", 0.2],
        ["--no-quantize-targets", "--loss-weights", "[10]", "--log-keys", ""],
        ["--quantize-input", "--same-quantizer", "--latent-dim", 32],
        ["--no-infonce"],
        ["--enable-padding", "--max-sample-size", 16000],
    ],
    ids=lambda more: more[0].lstrip("-") if more else "plain",
)
def test_wav2vec2(more: list[Any], data: Path, tmp_path: Path) -> None:
    """Forty updates do not reach far below chance here; but the loss must fall, and stay finite."""
    command = pretraining(data, tmp_path, "--max-update", 40, "--max-tokens", 80000, "--disable-validation", *more)
    outcome = call(train.main, command)
    assert outcome.code == 0, outcome.err
    curve = [line["loss"] for line in outcome.lines("train_inner")]
    assert len(curve) == 4
    assert curve[-1] < 0.75 * curve[0]
