"""Long clips: windows that are joined give what the whole clip gives, as far as a frame sees."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import soundfile
import torch

from w2v.data.dictionary import Dictionary
from w2v.data.manifest import make_manifest
from w2v.inference import emissions as emit
from w2v.inference.emissions import ModelEmissions, emission_info
from w2v.models.wav2vec2_config import Wav2Vec2EncoderConfig
from w2v.models.wav2vec_ctc import Wav2VecCtc, Wav2VecCtcConfig

SYMBOLS = Dictionary.from_symbols(["|", "A", "B"])


@pytest.fixture
def model() -> Wav2VecCtc:
    """A model without attention: a frame sees some ten neighbours."""
    torch.manual_seed(3)
    encoder = Wav2Vec2EncoderConfig(
        encoder_layers=1, encoder_embed_dim=16, encoder_ffn_embed_dim=32, encoder_attention_heads=2, conv_pos=8,
        conv_pos_groups=4, conv_feature_layers=((8, 10, 5), (8, 3, 4), (8, 3, 4)), extractor_mode="layer_norm",
    )  # fmt: skip
    model = Wav2VecCtc.build(Wav2VecCtcConfig(), num_classes=len(SYMBOLS), pretrained_config=encoder).eval()
    for name, parameter in model.named_parameters():
        if "self_attn.out_proj" in name:
            torch.nn.init.zeros_(parameter)
        elif name.endswith("proj.weight"):
            torch.nn.init.normal_(parameter, std=1.0)
    return model


@pytest.mark.parametrize("sizes", [[50_000], [50_000, 9_000, 0, 100, 20_000]])
def test_windows_of_long_clips(
    model: Wav2VecCtc, sizes: list[int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(emit, "CONTEXT", 1600)
    rng = np.random.default_rng(0)
    for row, size in enumerate(sizes):
        soundfile.write(tmp_path / f"{row}.wav", rng.normal(size=size) * 0.1, 16000, subtype="FLOAT")
    manifest = make_manifest(str(tmp_path), [f"{row}.wav" for row in range(len(sizes))], sizes)
    task: Any = SimpleNamespace(
        sample_rate=16000, normalize=False, normalize_epsilon=1e-5, resample=False, channel=None, labels="ltr"
    )
    loaded: Any = SimpleNamespace(model=model, task=SimpleNamespace(config=task))
    widest: list[int] = []
    model.register_forward_pre_hook(lambda _, arguments: widest.append(arguments[0].shape[1]))

    def read(longest: int) -> Any:
        info = emission_info(loaded, "m", SYMBOLS, "letter")
        reader = ModelEmissions(loaded, info, torch.device("cpu"), None, 0, longest)
        widest.clear()
        return next(reader.read(manifest, [np.arange(len(sizes))]))

    whole = read(0)
    assert max(widest) == 50_000
    parts = read(8_000)
    assert max(widest) <= 16_000  # a tenth of a second is padded to a whole one
    assert parts.lengths.tolist() == whole.lengths.tolist()
    assert parts.num_samples == whole.num_samples == sizes
    for row in range(len(sizes)):
        torch.testing.assert_close(parts.clip(row), whole.clip(row), rtol=1e-4, atol=1e-4)
