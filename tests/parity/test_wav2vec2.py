"""wav2vec 2.0 against tensors recorded from the original: features, quantiser, logits, losses, gradients."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from w2v.config import build_config, float_tuple
from w2v.criterions.wav2vec_criterion import Wav2VecCriterion, Wav2VecCriterionConfig
from w2v.functional.codebook import codebook_index
from w2v.models.wav2vec2 import Wav2Vec2Config, Wav2Vec2Model
from w2v.types import AudioBatch, ContrastiveOutput, Loss

SETS = ("w2v2_base", "w2v2_large")
RUNS = ("eval_pad", "train_pad", "train_nopad_noweights")
VARIANTS = ("cross3", "cross_only", "codebook2")


def record(golden: Path, name: str) -> dict[str, Any]:
    return torch.load(golden / f"{name}.pt", weights_only=True)


def make(recorded: dict[str, Any], *, original_padding: bool, **overrides: Any) -> Wav2Vec2Model:
    values = {**recorded["config"], "original_padding": original_padding, **overrides}
    model = Wav2Vec2Model.build(build_config(Wav2Vec2Config, values, "recorded"))
    model.load_state_dict(recorded["state_dict"])
    assert isinstance(model, Wav2Vec2Model)
    return model


def flat_negatives(indices: Tensor, num_negatives: int) -> Tensor:
    """Turn (B, M * K) of the recording into our (B, M, K); both count through the (B * M) targets."""
    return indices.view(indices.shape[0], -1, num_negatives)


def clip_major(logits: Tensor) -> Tensor:
    """Turn the recording's (1 + K, B, M) into our (B * M, 1 + K)."""
    return logits.permute(1, 2, 0).flatten(0, 1)


def run_recorded(
    recorded: dict[str, Any], run: dict[str, Any], *, original_padding: bool
) -> tuple[Wav2Vec2Model, ContrastiveOutput, Loss]:
    model = make(recorded, original_padding=original_padding)
    model.train(run["train_mode"])
    model.set_num_updates(run["num_updates"])
    all_lengths = torch.tensor(recorded["lengths"])
    output = model(
        recorded["source"],
        all_lengths if run["uses_padding_mask"] else None,
        seed=1,
        mask_indices=recorded["mask_indices"],
        negative_indices=flat_negatives(run["neg_idxs"], recorded["config"]["num_negatives"]),
        gumbel_noise=run["gumbel_noise"],
    )
    weights = None if run["loss_weights"] is None else float_tuple(run["loss_weights"])
    keys = ("prob_perplexity", "code_perplexity", "temp")
    criterion = Wav2VecCriterion(Wav2VecCriterionConfig(infonce=True, loss_weights=weights, log_keys=keys))
    batch = AudioBatch(recorded["source"], all_lengths, torch.arange(len(all_lengths)), seed=1)
    return model, output, criterion(output, batch)


def modes(run: str) -> list[bool]:
    """Padded cases are compared under the original's padding rule, others under both."""
    return [True] if run.endswith("_pad") else [True, False]


@pytest.mark.parametrize("run_name", RUNS)
@pytest.mark.parametrize("name", SETS)
def test_logits_and_losses(golden: Path, name: str, run_name: str) -> None:
    recorded = record(golden, name)
    run = recorded["runs"][run_name]
    for original_padding in modes(run_name):
        _, output, loss = run_recorded(recorded, run, original_padding=original_padding)
        torch.testing.assert_close(output.logits, clip_major(run["logits_NplusOne_B_M"]), rtol=1e-5, atol=1e-5)
        assert loss.value.item() == pytest.approx(run["loss_sum"].item(), rel=1e-5)
        assert loss.sample_size == run["sample_size"]
        for key, value in run["log"].items():
            if key in loss.sums:
                assert float(loss.sums[key]) == pytest.approx(value, rel=1e-5), key
        sums = {key: float(value) for key, value in loss.sums.items()}
        sums.update(loss=loss.value.item(), sample_size=float(loss.sample_size))
        values = Wav2VecCriterion.summarize(sums)
        assert values["loss"] == pytest.approx(run["logged_loss_bits"], rel=1e-5)
        assert values["accuracy"] == pytest.approx(run["log"]["correct"] / run["log"]["count"])
        parts = [key for key in run["log"] if key.startswith("loss_")]
        assert [key for key in values if key.startswith("loss_")] == parts
        for key in parts:
            assert values[key] == pytest.approx(run["log"][key] / run["sample_size"] / math.log(2), rel=1e-5)


@pytest.mark.parametrize("run_name", RUNS)
@pytest.mark.parametrize("name", SETS)
def test_gradients(golden: Path, name: str, run_name: str) -> None:
    recorded = record(golden, name)
    run = recorded["runs"][run_name]
    for original_padding in modes(run_name):
        model, _, loss = run_recorded(recorded, run, original_padding=original_padding)
        loss.value.backward()
        parameters = dict(model.named_parameters())
        assert {key for key, parameter in parameters.items() if parameter.grad is not None} == set(run["grads"])
        for key, expected in run["grads"].items():
            gradient = parameters[key].grad
            assert gradient is not None
            # A bias of keys shifts all scores of a query alike: its true gradient is 0, what is left is rounding.
            scale = run["grads"][key.replace("k_proj.bias", "k_proj.weight")]
            atol = 1e-5 * scale.abs().max().item()
            torch.testing.assert_close(gradient, expected, rtol=1e-4, atol=atol, msg=lambda m, k=key: f"{k}: {m}")


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("name", SETS)
def test_other_negatives(golden: Path, name: str, variant: str) -> None:
    recorded = record(golden, name)
    case = recorded["negative_variants"][variant]
    model = make(recorded, original_padding=True, **case["overrides"]).eval()
    config, (num_clips, _) = model.config, case["neg_idxs"].shape
    codebook = None
    if case["codebook_rows"] is not None:
        # The recording counts through (K', B, M).
        rows = case["codebook_rows"].view(config.codebook_negatives, num_clips, -1)
        codebook = rows.permute(1, 2, 0)
    padded = any(run["uses_padding_mask"] for run in recorded["runs"].values())
    output = model(
        recorded["source"],
        torch.tensor(recorded["lengths"]) if padded else None,
        seed=1,
        mask_indices=recorded["mask_indices"],
        negative_indices=flat_negatives(case["neg_idxs"], config.num_negatives + config.cross_sample_negatives),
        codebook_indices=codebook,
    )
    torch.testing.assert_close(output.logits, clip_major(case["logits_NplusOne_B_M"]), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", SETS)
@torch.no_grad()
def test_convolutions(golden: Path, name: str) -> None:
    recorded = record(golden, name)
    model = make(recorded, original_padding=True).eval()
    frames = model.feature_extractor(recorded["source"], None)
    torch.testing.assert_close(frames.transpose(1, 2), recorded["conv_features"], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(model.layer_norm(frames), recorded["features_ln"], rtol=1e-5, atol=1e-5)
    assert frames.square().mean().item() == pytest.approx(recorded["features_pen"].item(), rel=1e-5)


@pytest.mark.parametrize("name", SETS)
@torch.no_grad()
def test_extracted_features_of_a_padded_batch(golden: Path, name: str) -> None:
    recorded = record(golden, name)
    expected = recorded["extract_padded"]
    model = make(recorded, original_padding=True).eval()
    features = model.extract_features(recorded["source"], torch.tensor(recorded["lengths"]), with_layers=True)
    assert features.lengths is not None
    assert features.lengths.tolist() == (~expected["padding_mask"]).sum(dim=1).tolist()
    torch.testing.assert_close(features.features, expected["x"], rtol=1e-5, atol=1e-5)
    for layer, expected_layer in zip(features.layers, expected["layers"], strict=True):
        torch.testing.assert_close(layer, expected_layer, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("original_padding", [True, False])
@pytest.mark.parametrize("name", SETS)
@torch.no_grad()
def test_extracted_features_of_one_clip(golden: Path, name: str, original_padding: bool) -> None:
    recorded = record(golden, name)
    expected = recorded["extract_nopad"]
    model = make(recorded, original_padding=original_padding).eval()
    features = model.extract_features(recorded["source"][:1], None, with_layers=True)
    torch.testing.assert_close(features.features, expected["x"], rtol=1e-5, atol=1e-5)
    for layer, expected_layer in zip(features.layers, expected["layers"], strict=True):
        torch.testing.assert_close(layer, expected_layer, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", SETS)
@torch.no_grad()
def test_quantizer_in_evaluation(golden: Path, name: str) -> None:
    recorded = record(golden, name)
    expected = recorded["quantizer_eval"]
    quantizer = make(recorded, original_padding=True).eval().quantizer
    assert quantizer is not None
    assert quantizer.num_vars == expected["num_vars"]
    quantized = quantizer(recorded[expected["input"]])
    torch.testing.assert_close(quantized.x, expected["x"], rtol=1e-5, atol=1e-6)
    assert torch.equal(quantized.codes, expected["targets"])
    assert torch.equal(codebook_index(quantized.codes, quantizer.vars_per_group), expected["codebook_index"])
    assert quantized.prob_perplexity.item() == pytest.approx(expected["prob_perplexity"].item(), rel=1e-5)
    assert quantized.code_perplexity.item() == pytest.approx(expected["code_perplexity"].item(), rel=1e-5)
