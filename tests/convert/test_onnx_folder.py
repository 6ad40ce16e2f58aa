"""Folders for onnx-asr: its own loader, resampler and decoder give our text; padding counts nowhere."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from w2v.convert import read_model_file
from w2v.convert.onnx_folder import vocabulary, write_onnx_folder
from w2v.data.audio import normalize
from w2v.inference.load import LoadedModel, load_model
from w2v_cli import convert

pytest.importorskip("onnx", reason="onnx is not installed")
runtime = pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
LENGTHS = (16000, 9001, 400, 5123)


def session(path: Path) -> Any:
    return runtime.InferenceSession(str(path), providers=["CPUExecutionProvider"])


def clips(lengths: Sequence[int], seed: int = 1) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    return [(0.1 * rng.standard_normal(length) + 0.03).astype(np.float32) for length in lengths]


def padded(waves: Sequence[np.ndarray], *, noise: float) -> np.ndarray:
    """Return (B, S); what lies past the end of a clip is noise, which must not count."""
    rng = np.random.default_rng(2)
    batch = noise * rng.standard_normal((len(waves), max(map(len, waves)))).astype(np.float32)
    for row, wave in zip(batch, waves, strict=True):
        row[: len(wave)] = wave
    return batch.astype(np.float32)


def ours(loaded: LoadedModel, wave: np.ndarray, *, normalized: bool, epsilon: float) -> torch.Tensor:
    samples = normalize(wave, epsilon) if normalized else wave
    with torch.inference_mode():
        return torch.log_softmax(loaded.model(torch.from_numpy(samples)[None], None, 0).logits[0], dim=-1)


@pytest.mark.parametrize("name", ["ctc_base", "ctc_large"])
def test_a_padded_batch_is_its_clips(golden: Path, tmp_path: Path, name: str) -> None:
    """Log-probabilities of each clip are those of our model for the clip alone; frames past its end are blank."""
    path = golden / "checkpoints/g3_cfg" / f"{name}.pt"
    file, loaded = read_model_file(path), load_model(path)
    write_onnx_folder(tmp_path / "x", loaded.model, file, ("fp16", "int8"))
    config = json.loads((tmp_path / "x/config.json").read_text())
    assert (config["model_type"], config["subsampling_factor"]) == ("wav2vec2-ctc", 320)
    waves = clips(LENGTHS)
    lengths = np.array(LENGTHS, np.int64)
    inputs = {"input_values": padded(waves, noise=0.5), "input_lengths": lengths}
    epsilon = file.config["task"].get("normalize_epsilon", 1e-5)
    expected = [ours(loaded, wave, normalized=file.normalize, epsilon=epsilon) for wave in waves]
    for form, close, agree in (("", 1e-4, 1.0), (".fp16", 0.05, 0.95), (".int8", 0.6, 0.8)):
        (found,) = session(tmp_path / f"x/model{form}.onnx").run(["logprobs"], inputs)
        assert found.dtype == np.float32
        for row, want in zip(found, expected, strict=True):
            true = row[: len(want)]
            # Log-probabilities far from the best symbol's are of no interest in fewer bits.
            places = want > (-20 if form else -1e9)
            assert np.abs(true - want.numpy())[places.numpy()].max() < close, form
            assert (true.argmax(-1) == want.numpy().argmax(-1)).mean() >= agree, form
            assert (row[len(want) :].argmax(-1) == 0).all()
            assert np.isfinite(row).all()


class _Wav2Vec2Ctc:
    """The model type `wav2vec2-ctc`: in onnx-asr's repository since July 2026, but not in 0.12.0, its newest release.

    What it does there, from the parts that 0.12.0 has.
    """

    @staticmethod
    def register(monkeypatch: pytest.MonkeyPatch) -> None:
        from onnx_asr import loader
        from onnx_asr.asr import _AsrWithCtcDecoding

        if hasattr(loader, "Wav2Vec2Ctc"):
            return

        class Wav2Vec2Ctc(_AsrWithCtcDecoding):
            _preprocessor_name = "identity"

            @property
            def _subsampling_factor(self) -> int:
                return int(self.config.get("subsampling_factor", 320))

            def __init__(self, model_files: dict[str, Path], factory: Any, options: Any) -> None:
                super().__init__(model_files, factory, options)
                self._model = runtime.InferenceSession(model_files["model"], **options)

            @staticmethod
            def _get_model_files(quantization: str | None = None) -> dict[str, str]:
                return {"model": f"model{'?' + quantization if quantization else ''}.onnx", "vocab": "vocab.txt"}

            def _encode(self, waves: Any, lengths: Any) -> Any:
                inputs = {"input_values": waves, "input_lengths": lengths.astype(np.int64)}
                (found,) = self._model.run(["logprobs"], inputs)
                return found, np.minimum(lengths // self._subsampling_factor + 1, found.shape[1])

        real = loader.Resolver

        def resolver(types: dict[str, Any], *arguments: Any, **options: Any) -> Any:
            return real({**types, "wav2vec2-ctc": Wav2Vec2Ctc}, *arguments, **options)

        monkeypatch.setattr(loader, "Resolver", resolver)


def test_onnx_asr_writes_our_text(
    digits_model: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Real speech through `load_model` of onnx-asr, in a batch of several lengths, against `w2v.transcribe`."""
    onnx_asr = pytest.importorskip("onnx_asr", reason="onnx-asr is not installed")
    import soundfile

    import w2v

    assert convert.main([str(digits_model), str(tmp_path / "x"), "--to", "onnx", "--formats", "fp16,int8"]) == 0
    capsys.readouterr()
    _Wav2Vec2Ctc.register(monkeypatch)
    files = sorted((data / "digits_valid_unseen").rglob("*.wav"))[:4]
    files = files or sorted((data / "digits_valid_unseen").rglob("*.flac"))[:4]
    waves = [soundfile.read(file, dtype="float32")[0] for file in files]
    expected = [found.text for found in w2v.transcribe([str(file) for file in files], model=str(digits_model))]
    assert any(expected)
    for quantization, least in ((None, 4), ("fp16", 4), ("int8", 3)):
        theirs = onnx_asr.load_model("wav2vec2-ctc", tmp_path / "x", quantization=quantization)
        found = theirs.recognize(waves, sample_rate=16000)
        assert sum(a == b for a, b in zip(found, expected, strict=True)) >= least, (quantization, found, expected)
    assert convert.main(["--inspect", str(tmp_path / "x")]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "input: input_lengths (batch) int64" in lines
    assert "output: logprobs (batch, frames, " in "\n".join(lines)
    assert sum(line.startswith("kind: ONNX") for line in lines) == 3


@pytest.mark.parametrize(
    ("symbols", "post_process", "expected"),
    [
        (["|", "A", "B"], "letter", ["\u2581", "A", "B"]),
        (["\u2581the", "cat"], "sentencepiece", ["\u2581the", "cat"]),
        (["_the", "cat"], "wordpiece", ["\u2581the", "cat"]),
        (["AH", "B"], "letter", ["\u2581AH", "\u2581B"]),
        (["AH", "B"], "none", ["\u2581AH", "\u2581B"]),
    ],
)
def test_word_marks(golden: Path, symbols: list[str], post_process: str, expected: list[str]) -> None:
    import dataclasses

    file = read_model_file(golden / "checkpoints/g3_cfg/ctc_base.pt")
    specials = ["<s>", "<pad>", "</s>", "<unk>"]
    config = {**file.config, "criterion": {"post_process": post_process}}
    lines = vocabulary(dataclasses.replace(file, symbols=specials + symbols, config=config)).splitlines()
    assert lines[:4] == ["<blk> 0", "<pad> 1", "</s> 2", "<unk> 3"]
    assert lines[4:] == [f"{name} {number}" for number, name in enumerate(expected, 4)]


def test_what_onnx_asr_cannot_open_is_said(golden: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    encoder = golden / "checkpoints/g3_cfg/w2v2_base.pt"
    assert convert.main([str(encoder), str(tmp_path / "x"), "--to", "onnx"]) == 2
    assert "name a file that ends in .onnx" in capsys.readouterr().err
    assert not (tmp_path / "x").exists()
    assert convert.main([str(encoder), str(tmp_path / "x.onnx"), "--to", "onnx"]) == 0
    capsys.readouterr()
    assert convert.main(["--inspect", str(tmp_path / "x.onnx")]) == 0
    assert "output: features (batch, frames, " in capsys.readouterr().out
    (tmp_path / "y.onnx").write_bytes(b"\xff" * 50)
    assert convert.main(["--inspect", str(tmp_path / "y.onnx")]) == 2
    assert "damaged or no ONNX file" in capsys.readouterr().err
