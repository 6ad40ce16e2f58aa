"""All layers in one pass are those that `w2v-featurize` computes one by one; attention weights are those of blocks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from small_models import KINDS, small_trainer
from toy_speech import prepare, speak

from w2v.inference.activations import activations, frame_clock
from w2v.inference.attention import attention_span, attention_weights
from w2v.inference.encode import code_function, feature_function
from w2v.models.base import W2vModel
from w2v.modules.multihead_attention import MultiheadAttention


@pytest.fixture(scope="module")
def toy_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("soundfile")
    return prepare(tmp_path_factory.mktemp("toy"), 12)


@pytest.fixture(scope="module")
def models(toy_data: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, W2vModel]:
    folder = tmp_path_factory.mktemp("models")
    kinds = ("wav2vec", "gumbel", "kmeans", "wav2vec2", "ctc")
    return {
        kind: small_trainer(KINDS[kind], toy_data, folder / kind, torch.device("cpu")).model.eval() for kind in kinds
    }


@pytest.fixture(scope="module")
def clips() -> list[np.ndarray]:
    rng = np.random.default_rng(1)
    return [speak(words, rng) for words in (["AB"], ["CAD", "BED"], ["DECA"])]


@pytest.mark.parametrize("kind", ["wav2vec", "gumbel", "kmeans", "wav2vec2", "ctc"])
def test_layers_are_those_of_single_passes_and_do_not_depend_on_the_batch(
    models: dict[str, W2vModel], clips: list[np.ndarray], kind: str
) -> None:
    model = models[kind]
    together = activations(model, clips)
    for clip, found in zip(clips, together, strict=True):
        source = torch.from_numpy(clip)[None]
        for name, frames in found.layers.items():
            expected = feature_function(model, name)(source, None)[0][0].detach().numpy()
            np.testing.assert_allclose(frames, expected, atol=2e-5, err_msg=name)
        if found.codes is not None:
            expected_codes = code_function(model)(source, None)[0][0]
            assert found.codes.tolist() == expected_codes.tolist()
        if found.log_probs is not None:
            logits: Any = model(source, None, 0)
            np.testing.assert_allclose(
                found.log_probs, logits.logits[0].log_softmax(dim=-1).detach().numpy(), atol=2e-5
            )
    has = {name: found is not None for name, found in (("codes", together[0].codes), ("ctc", together[0].log_probs))}
    assert has == {"codes": kind in ("gumbel", "kmeans", "wav2vec2"), "ctc": kind == "ctc"}
    assert list(together[0].layers) == {
        "wav2vec": ["z", "c"], "gumbel": ["z", "q", "c"], "kmeans": ["z", "q", "c"],
        "wav2vec2": ["z", "1", "2", "c"], "ctc": ["z", "1", "2", "c"],
    }[kind]  # fmt: skip


@torch.inference_mode()
@pytest.mark.parametrize("kind", ["wav2vec2", "ctc"])
def test_attention_weights_mix_the_values_to_what_the_block_returns(
    models: dict[str, W2vModel], clips: list[np.ndarray], kind: str
) -> None:
    model = models[kind]
    kept: list[tuple[torch.Tensor, torch.Tensor]] = []
    blocks = [module for module in model.modules() if isinstance(module, MultiheadAttention)]
    handles = [block.register_forward_hook(lambda m, i, o: kept.append((i[0], o))) for block in blocks]
    found = attention_weights(model, clips[1])
    for handle in handles:
        handle.remove()
    assert len(found) == len(blocks) == 2
    for weights, block, (x, expected) in zip(found, blocks, kept, strict=True):
        np.testing.assert_allclose(weights.sum(axis=-1), 1, atol=1e-5)
        value = block.v_proj(x).unflatten(-1, (block.num_heads, -1)).transpose(1, 2)
        mixed = block.out_proj((torch.from_numpy(weights)[None] @ value).transpose(1, 2).flatten(2))
        torch.testing.assert_close(mixed, expected, atol=1e-5, rtol=1e-4)


def test_a_model_without_attention_has_none(models: dict[str, W2vModel], clips: list[np.ndarray]) -> None:
    assert attention_weights(models["wav2vec"], clips[0]) == []


def test_heads_that_look_at_themselves_or_anywhere_look_0_or_a_third_of_the_clip_far() -> None:
    size = 300
    weights = np.stack([np.eye(size), np.full((size, size), 1 / size)]).astype(np.float32)
    np.testing.assert_allclose(attention_span(weights), [0, (size**2 - 1) / (3 * size)], rtol=1e-4)


def test_frames_are_centred_on_what_they_see(models: dict[str, W2vModel]) -> None:
    clock = frame_clock(models["ctc"], 16000)
    assert (clock.stride, clock.step) == (320, 0.02)
    # The middle of frame t is the middle of samples 320 t .. 320 t + field - 1.
    assert clock.seconds(7.5) == pytest.approx((7 * 320 + clock.field / 2) / 16000)
