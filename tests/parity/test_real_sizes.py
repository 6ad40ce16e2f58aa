"""Encoders at the sizes that are published, with random weights, against transformers: `W2V_SLOW=1`, minutes each."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from w2v.convert import read_model_file
from w2v.inference.load import build_model

LARGE: dict[str, Any] = {
    "hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16, "intermediate_size": 4096,
    "feat_extract_norm": "layer", "do_stable_layer_norm": True, "conv_bias": True,
}  # fmt: skip
# Sizes that are not named are those of transformers' classes, which are BASE.
GIVEN: list[tuple[str, str, dict[str, Any]]] = [
    ("hubert-base", "Hubert", {}),
    ("hubert-large", "Hubert", LARGE),
    ("data2vec-audio-base", "Data2VecAudio", {}),
    ("wav2vec2-large", "Wav2Vec2", LARGE),
    # An encoder of MMS is three times as wide; what is its own are adapters of 16.
    ("wav2vec2-large with adapters", "Wav2Vec2", {**LARGE, "adapter_attn_dim": 16}),
]


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize(("name", "family", "options"), GIVEN, ids=[name for name, _, _ in GIVEN])
@torch.no_grad()
def test_contexts_and_blocks(name: str, family: str, options: dict[str, Any], tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(1)
    theirs = getattr(transformers, f"{family}Model")(getattr(transformers, f"{family}Config")(**options)).eval()
    for module in theirs.modules():  # norms begin as ones and zeros, which would hide one in the place of another
        if isinstance(module, (torch.nn.LayerNorm, torch.nn.GroupNorm)) and module.weight is not None:
            module.weight.add_(0.1 * torch.randn_like(module.weight))
            module.bias.add_(0.1 * torch.randn_like(module.bias))
    theirs.save_pretrained(tmp_path)
    source = torch.randn(1, 3 * 16000)
    expected = theirs(source, output_hidden_states=True)
    contexts, blocks = expected.last_hidden_state, expected.hidden_states[1:-1]
    del theirs
    model = build_model(read_model_file(tmp_path)).model
    found = model.extract_features(source, with_layers=True)
    largest = (found.features - contexts).abs().max().item()
    inner = max((a - b).abs().max().item() for a, b in zip(found.layers, blocks, strict=False))
    print(f"\n{name}: contexts of {contexts.abs().max():.1f} at most differ by {largest:.1e}, blocks by {inner:.1e}")
    assert largest < 1e-4
    assert inner < 1e-4
