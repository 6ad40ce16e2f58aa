"""The original README's wav2vec and vq-wav2vec commands: as written, plus small numbers; then features and tokens.

Oracle: what the options must come to, by the flags' documented meaning; the files that must lie there in the end.
"""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from w2v.inference.feature_file import read_features
from w2v.inference.load import load_model
from w2v.models.wav2vec import Wav2VecConfig, Wav2VecModel
from w2v.training.options import parse_train_command
from w2v_cli.featurize import main as featurize
from w2v_cli.tokenize import main as tokenize
from w2v_cli.train import main as train

FEATURES_7 = "[(512, 10, 5), (512, 8, 4), (512, 4, 2), (512, 4, 2), (512, 4, 2), (512, 1, 1), (512, 1, 1)]"
FEATURES_8 = FEATURES_7.replace("]", ", (512, 1, 1)]")
AGGREGATOR = "[" + ", ".join(f"(512, {kernel}, 1)" for kernel in range(2, 14)) + "]"

# Lists are quoted, which the README forgot.
WAV2VEC = f"""
--save-dir /model/path --num-workers 6 --fp16 --max-update 400000 --save-interval 1 --no-epoch-checkpoints
--arch wav2vec --task audio_pretraining --lr 1e-06 --min-lr 1e-09 --optimizer adam --max-lr 0.005
--lr-scheduler cosine --conv-feature-layers '{FEATURES_7}' --conv-aggregator-layers '{AGGREGATOR}'
--skip-connections-agg --residual-scale 0.5 --log-compression --warmup-updates 500 --warmup-init-lr 1e-07
--criterion wav2vec --num-negatives 10 --max-sample-size 150000 --max-tokens 1500000
--skip-invalid-size-inputs-valid-test
"""
VQ = f"""
--save-dir /model/path --num-workers 6 --fp16 --max-update 400000 --save-interval 1 --no-epoch-checkpoints
--arch wav2vec --task audio_pretraining --lr 1e-06 --min-lr 1e-09 --optimizer adam --max-lr 1e-05
--lr-scheduler cosine --conv-feature-layers '{FEATURES_8}' --conv-aggregator-layers '{AGGREGATOR}'
--activation gelu --offset auto --skip-connections-agg --residual-scale 0.5
--log-keys '["prob_perplexity","code_perplexity","temp"]' --vq-groups 2 --vq-depth 2 --combine-groups --vq-vars 320
--vq-temp '(2,0.5,0.999995)' --prediction-steps 12 --warmup-updates 1000 --warmup-init-lr 1e-07 --criterion wav2vec
--num-negatives 10 --max-sample-size 150000 --max-tokens 300000 --cross-sample-negatives 0 --update-freq 1 --seed 2
--skip-invalid-size-inputs-valid-test
"""
RECIPES = {
    "wav2vec": WAV2VEC,
    "gumbel": VQ + " --vq-type gumbel",
    "kmeans": VQ + " --vq-type kmeans --loss-weights '[1]'",
}
SMALL = """
--conv-feature-layers '[(16, 10, 5), (16, 8, 4), (16, 4, 2), (16, 4, 2), (16, 4, 2), (16, 1, 1)]'
--conv-aggregator-layers '[(16, 2, 1), (16, 3, 1)]' --max-update 4 --warmup-updates 2 --num-workers 0
--max-sample-size 6000 --max-tokens 24000 --vq-vars 8 --log-format json --log-interval 1 --cpu
"""


@pytest.fixture(scope="module")
def speech(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with train.tsv and valid.tsv."""
    folder = tmp_path_factory.mktemp("speech")
    rng = np.random.default_rng(0)
    for split, count in (("train", 8), ("valid", 2)):
        (folder / split).mkdir()
        lines = [str(folder / split)]
        for number in range(count):
            length = 7000 + 500 * number
            soundfile.write(folder / split / f"{number}.wav", 0.1 * rng.normal(size=length), 16000)
            lines.append(f"{number}.wav\t{length}")
        (folder / f"{split}.tsv").write_text("\n".join(lines) + "\n")
    return folder


@pytest.mark.parametrize("name", RECIPES)
def test_the_command_means_what_it_meant(name: str) -> None:
    config = parse_train_command(["/manifest/path", *shlex.split(RECIPES[name])]).config
    model = config.model.config
    assert isinstance(model, Wav2VecConfig)
    assert model.conv_feature_layers[0] == (512, 10, 5)
    assert len(model.conv_feature_layers) == (7 if name == "wav2vec" else 8)
    assert [kernel for _, kernel, _ in model.conv_aggregator_layers] == list(range(2, 14))
    assert model.skip_connections_agg
    assert model.log_compression == (name == "wav2vec")
    assert model.offset_frames == 3
    assert model.vq_type == ("none" if name == "wav2vec" else name)
    assert config.optimization.lr == (1e-06,)
    assert config.lr_scheduler.config.max_lr == (0.005 if name == "wav2vec" else 1e-05)
    assert config.criterion.config.loss_weights == ((1.0,) if name == "kmeans" else None)


@pytest.mark.parametrize("name", RECIPES)
def test_from_the_command_to_features_and_tokens(
    name: str, speech: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = [*shlex.split(RECIPES[name]), *shlex.split(SMALL), "--save-dir", str(tmp_path / "model")]
    assert train([str(speech), *command]) == 0
    said = capsys.readouterr().out.splitlines()
    lines = [json.loads(line.split("| train_inner | ")[1]) for line in said if "| train_inner | " in line]
    assert lines[-1]["num_updates"] == "4"
    keys = {"gumbel": {"prob_perplexity", "code_perplexity", "temp"}, "kmeans": {"code_perplexity", "loss_1"}}
    assert keys.get(name, set()) <= lines[-1].keys()
    assert all(np.isfinite(float(line["loss"])) for line in lines)

    checkpoint = tmp_path / "model" / "checkpoint_last.pt"
    model = load_model(checkpoint).model
    assert isinstance(model, Wav2VecModel)
    features = ["-i", str(speech), "-o", str(tmp_path / "features"), "--model", str(checkpoint), "--format", "npy"]
    assert featurize([*features, "--split", "train", "valid", "--cpu"]) == 0
    samples, _ = soundfile.read(speech / "valid" / "1.wav", dtype="float32")
    with torch.no_grad():
        expected = model.extract_features(torch.from_numpy(samples)[None], None).features[0].numpy()
    written = read_features(tmp_path / "features" / "valid" / "1.npy")
    np.testing.assert_allclose(written, expected, rtol=1e-4, atol=1e-4)

    tokens = ["--data-dir", str(speech), "--output-dir", str(tmp_path / "tokens"), "--checkpoint", str(checkpoint)]
    assert tokenize([*tokens, "--splits", "train", "valid", "--cpu"]) == (2 if name == "wav2vec" else 0)
    if name != "wav2vec":
        lengths = [len(line.split()) for line in (tmp_path / "tokens" / "valid.src").read_text().splitlines()]
        assert lengths == [(length - 465) // 160 + 1 for length in (7000, 7500)]
        assert (tmp_path / "tokens" / "dict.txt").is_file()
