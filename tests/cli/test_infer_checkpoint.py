"""`w2v-infer` on a real checkpoint, against the model called on one clip after another."""

from __future__ import annotations

import itertools
import os
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from toy_speech import call

from w2v.checkpoint.file import save_checkpoint
from w2v.config import to_plain
from w2v.data.audio import normalize
from w2v.data.dictionary import Dictionary
from w2v.inference.emission_file import EmissionFile
from w2v.models.wav2vec2_config import Wav2Vec2EncoderConfig
from w2v.models.wav2vec_ctc import Wav2VecCtc, Wav2VecCtcConfig
from w2v_cli import infer
from w2v_cli.cpu import speed_on

soundfile = pytest.importorskip("soundfile")

REPOSITORY = Path(__file__).resolve().parents[2]
ASSETS = REPOSITORY / "tests" / "assets"
RATE = 16000
LENGTHS = [9000, 16000, 200, 12345, 5]
SYMBOLS = ["|", "A", "B", "C"]


@pytest.fixture
def clips(tmp_path: Path) -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    lines = [str(tmp_path)]
    waves = []
    for row, length in enumerate(LENGTHS):
        wave = (rng.normal(size=length) * 0.1 + 0.05).astype(np.float32)
        soundfile.write(tmp_path / f"{row}.wav", wave, RATE, subtype="FLOAT")
        lines.append(f"{row}.wav\t{length}")
        waves.append(wave)
    (tmp_path / "test.tsv").write_text("\n".join(lines) + "\n")
    (tmp_path / "test.ltr").write_text("A B |\n" * len(LENGTHS))
    return waves


@pytest.fixture
def model(tmp_path: Path) -> Wav2VecCtc:
    torch.manual_seed(3)
    encoder = Wav2Vec2EncoderConfig(
        encoder_layers=2, encoder_embed_dim=16, encoder_ffn_embed_dim=32, encoder_attention_heads=2, conv_pos=8,
        conv_pos_groups=4, conv_feature_layers=((8, 10, 5), (8, 3, 4), (8, 3, 4)), extractor_mode="layer_norm",
    )  # fmt: skip
    model = Wav2VecCtc.build(Wav2VecCtcConfig(), num_classes=4 + len(SYMBOLS), pretrained_config=encoder).eval()
    # Large random weights: the output follows the input, and both change from frame to frame.
    for name, parameter in model.named_parameters():
        if name.endswith("proj.weight"):
            torch.nn.init.normal_(parameter, std=1.0)
    # Marks that no text holds are never the answer.
    model.w2v_encoder.proj.bias.data[1:4] = -100.0
    config = {
        "common": {}, "dataset": {}, "distributed_training": {}, "optimization": {}, "checkpoint": {},
        "task": {"_name": "audio_pretraining", "data": "gone", "labels": "ltr", "normalize": True},
        "model": {"_name": "wav2vec_ctc", **to_plain(model.config)},
        "criterion": {"_name": "ctc"}, "optimizer": {"_name": "adam"}, "lr_scheduler": {"_name": "fixed"},
    }  # fmt: skip
    symbols = Dictionary.from_symbols(SYMBOLS).symbols
    state = {"config": config, "model": model.state_dict(), "task": {"dictionary": symbols}}
    save_checkpoint(tmp_path / "checkpoint_best.pt", state)
    return model


@torch.no_grad()
def greedy(model: Wav2VecCtc, wave: np.ndarray) -> list[str]:
    if len(wave) < 200:
        return []
    symbols = Dictionary.from_symbols(SYMBOLS).symbols
    scores = model(torch.from_numpy(normalize(wave))[None], None, 0).logits[0]
    return [symbols[label] for label, _ in itertools.groupby(scores.argmax(-1).tolist()) if label]


def test_published_command_on_a_checkpoint(
    tmp_path: Path, clips: list[np.ndarray], model: Wav2VecCtc, capsys: pytest.CaptureFixture[str]
) -> None:
    command = (
        f"{tmp_path} --task audio_pretraining --nbest 1 --path {tmp_path}/checkpoint_best.pt --gen-subset test "
        f"--results-path {tmp_path}/out --w2l-decoder viterbi --criterion ctc --labels ltr --max-tokens 4000000 "
        "--post-process letter --cpu"
    )
    assert infer.main(command.split()) == 0
    order = sorted(range(len(LENGTHS)), key=lambda row: -LENGTHS[row])
    expected = {row: greedy(model, wave) for row, wave in enumerate(clips)}
    assert len({tuple(units) for units in expected.values()}) == len(LENGTHS)  # or the test would show nothing
    units = (tmp_path / "out" / "hypo.units-checkpoint_best.pt-test.txt").read_text().splitlines()
    assert units == [f"{' '.join(expected[row])} (None-{row})" for row in order]
    words = (tmp_path / "out" / "hypo.word-checkpoint_best.pt-test.txt").read_text().splitlines()
    assert words == [f"{''.join(expected[row]).replace('|', ' ').strip()} (None-{row})" for row in order]
    assert "WER: " in capsys.readouterr().out


def test_normalize_must_be_as_in_training(
    tmp_path: Path, clips: list[np.ndarray], model: Wav2VecCtc, capsys: pytest.CaptureFixture[str]
) -> None:
    command = [str(tmp_path), "--path", f"{tmp_path}/checkpoint_best.pt", "--num-workers", "0", "--cpu", "--quiet"]
    assert infer.main([*command, "--normalize"]) == 0
    capsys.readouterr()
    assert infer.main([*command, "--no-normalize"]) == 2
    assert "--no-normalize: " in capsys.readouterr().err


def test_published_kenlm_command_without_a_lexicon(
    tmp_path: Path, clips: list[np.ndarray], model: Wav2VecCtc, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("flashlight.lib.text")
    binary = Path(__file__).resolve().parent.parent / "assets" / "lm" / "words.probing.bin"
    command = (
        f"{tmp_path} --task audio_pretraining --nbest 1 --path {tmp_path}/checkpoint_best.pt --gen-subset test "
        f"--results-path {tmp_path}/out --w2l-decoder kenlm --lm-model {binary} --lm-weight 2 --word-score -1 "
        "--sil-weight 0 --criterion ctc --labels ltr --max-tokens 4000000 --post-process letter"
    )
    assert infer.main(command.split()) == 0
    lines = (tmp_path / "out" / "hypo.word-checkpoint_best.pt-test.txt").read_text().splitlines()
    words = {word for line in lines for word in line.split()[:-1]}
    assert words
    assert words <= {"A", "B", "AB"}
    assert "spelled 3 words" in capsys.readouterr().out


def test_cached_emissions_are_those_of_the_model(tmp_path: Path, clips: list[np.ndarray], model: Wav2VecCtc) -> None:
    command = [str(tmp_path), "--num-workers", "0", "--cpu", "--ctm", "--batch-size", "1"]
    emissions = ["--dump-emissions", f"{tmp_path}/new/e.safetensors"]
    direct = ["--path", f"{tmp_path}/checkpoint_best.pt", "--results-path", f"{tmp_path}/direct", *emissions]
    assert infer.main([*command, *direct]) == 0
    file = EmissionFile(tmp_path / "new" / "e.safetensors")
    # 10, 3 and 3 samples wide, 5, 4 and 4 apart: a frame sees 10 + 2 * 5 + 2 * 20 samples, its middle 80 of them alone.
    assert (file.info.stride, file.info.offset) == (80, (60 - 80) / 2)
    assert [file.num_samples(f"{row}.wav") for row in range(len(LENGTHS))] == LENGTHS
    for row, wave in enumerate(clips):
        if len(wave) > RATE // 10:  # shorter ones are padded, which changes the rounding
            with torch.no_grad(), speed_on(torch.device("cpu")):  # these weights amplify rounding a hundredfold
                alone = model(torch.from_numpy(normalize(wave))[None], None, 0).logits[0].log_softmax(-1)
            torch.testing.assert_close(file.log_probs(f"{row}.wav"), alone)
    for row in range(len(LENGTHS)):
        (tmp_path / f"{row}.wav").unlink()
    (tmp_path / "checkpoint_best.pt").unlink()
    cached = ["--load-emissions", f"{tmp_path}/new/e.safetensors", "--results-path", f"{tmp_path}/cached"]
    assert infer.main([*command, *cached]) == 0
    assert contents(tmp_path / "cached") == contents(tmp_path / "direct")


def test_two_ranks_write_what_one_writes(tmp_path: Path, clips: list[np.ndarray], model: Wav2VecCtc) -> None:
    command = [
        *(str(tmp_path), "--path", f"{tmp_path}/checkpoint_best.pt", "--cpu", "--batch-size", "2"),
        *("--ctm", "--trn", "--bootstrap", "50", "--w2l-decoder", "kenlm", "--lm-model", str(ASSETS / "lm/words.arpa")),
        *("--beam", "20", "--nbest", "3", "--decode-workers", "1", "--num-workers", "0"),
    ]  # fmt: skip
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        one = call(
            infer.main, [*command, "--results-path", tmp_path / "one", "--dump-emissions", tmp_path / "one" / "e"]
        )
    finally:
        torch.set_num_threads(threads)
    assert one.code == 0, one.err
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    # What torchrun sets.
    meeting = {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    environment = {**os.environ, **meeting, "PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"}
    files = ["--results-path", str(tmp_path / "two"), "--dump-emissions", str(tmp_path / "two" / "e")]
    ranks = [
        subprocess.Popen(
            [sys.executable, "-m", "w2v_cli.infer", *command, *files], stdout=subprocess.PIPE, text=True,
            env={**environment, "RANK": str(rank), "LOCAL_RANK": str(rank)},
        )
        for rank in range(2)
    ]  # fmt: skip
    said = [rank.communicate(timeout=120)[0] for rank in ranks]
    assert [rank.returncode for rank in ranks] == [0, 0]
    scores = [[line for line in text.splitlines() if "WER" in line] for text in (one.out, *said)]
    assert len(scores[0]) == 2
    assert scores[1:] == [scores[0], []]
    assert len(contents(tmp_path / "one")) == 10
    assert contents(tmp_path / "two") == contents(tmp_path / "one")


def contents(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir()}


def test_a_missing_checkpoint_is_one_line(
    tmp_path: Path, clips: list[np.ndarray], capsys: pytest.CaptureFixture[str]
) -> None:
    assert infer.main([str(tmp_path), "--path", "none.pt"]) == 2
    assert "none.pt: there is no such checkpoint" in capsys.readouterr().err
