"""wav2vec 1 and vq-wav2vec against tensors recorded from the original: features, logits, losses, gradients.

Oracle: `w2v1*.pt` and `vq_*.pt` of the golden folder. All shapes and options are read from the files.
"""

from __future__ import annotations

from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from w2v.config import float_tuple
from w2v.criterions.wav2vec_criterion import Wav2VecCriterion, Wav2VecCriterionConfig
from w2v.models.wav2vec import Wav2VecConfig, Wav2VecModel
from w2v.types import AudioBatch, ContrastiveOutput

PLAIN = ("w2v1", "w2v1_zeropad_skipfeat")
QUANTIZED = ("vq_gumbel_combined", "vq_gumbel_separate", "vq_kmeans_combined", "vq_kmeans_separate")
RUNS = ("bce_train", "bce_eval", "infonce_train", "bce_balanced", "bce_cross")


def load(golden: Path, name: str) -> dict[str, Any]:
    path = golden / f"{name}.pt"
    if not path.is_file():
        pytest.skip(f"no file {path}")
    recorded: dict[str, Any] = torch.load(path, weights_only=True)
    return recorded


def build(recorded: dict[str, Any], **overrides: Any) -> Wav2VecModel:
    model = Wav2VecModel.build_model(recorded["config"])
    known = {item.name for item in fields(Wav2VecConfig)}
    overrides = {key: value for key, value in overrides.items() if key in known}
    if overrides:
        model = Wav2VecModel(replace(model.config, **overrides))
    model.load_state_dict(recorded["state_dict"])
    return model


def close(actual: Tensor, expected: Tensor, relative: float = 1e-5) -> None:
    """Compare relative to the largest recorded value."""
    assert actual.shape == expected.shape
    assert (actual.double() - expected.double()).abs().max() <= relative * expected.double().abs().max()


@pytest.mark.parametrize("name", PLAIN + QUANTIZED)
def test_features(golden: Path, name: str) -> None:
    recorded = load(golden, name)
    model = build(recorded).eval()
    assert model.config.offset_frames == recorded["offset"]
    with torch.no_grad():
        latent = model.extract_features(recorded["source"], None, layer="z")
        context = model.extract_features(recorded["source"], None)
    close(latent.features.transpose(1, 2), recorded["z"])
    close(context.features.transpose(1, 2), recorded["c"])


@pytest.mark.parametrize("name", QUANTIZED)
def test_quantizer(golden: Path, name: str) -> None:
    recorded = load(golden, name)
    expected = recorded["quantizer_eval"]
    model = build(recorded).eval()
    with torch.no_grad():
        x, codes = model.vector_quantizer.forward_idx(recorded["z"])
        assert torch.equal(model.extract_codes(recorded["source"], None)[0], expected["targets"])
        output = model(recorded["source"], None, seed=0)
    assert torch.equal(codes, expected["targets"])
    close(x, expected["x"])
    for key in ("prob_perplexity", "code_perplexity", "kmeans_loss", "num_vars", "temp"):
        assert (key in expected) == (key in output.stats)
        if key in expected:
            torch.testing.assert_close(
                torch.as_tensor(output.stats[key]), torch.as_tensor(expected[key]), rtol=1e-5, atol=0, check_dtype=False
            )


@pytest.mark.parametrize("run_name", RUNS)
@pytest.mark.parametrize("name", PLAIN + QUANTIZED)
def test_losses_and_gradients(golden: Path, name: str, run_name: str) -> None:
    recorded = load(golden, name)
    run = recorded["runs"][run_name]
    model = build(recorded, **run["overrides"]).train(run["train_mode"])
    model.set_num_updates(run["num_updates"])
    # (K, B, T) -> (B, T, K)
    negatives = run["neg_idxs_NBT"].permute(1, 2, 0)
    output = model(recorded["source"], None, seed=0, negative_indices=negatives, gumbel_noise=run["gumbel_noise"])
    infonce = run["overrides"]["infonce"] if "infonce" in run["overrides"] else recorded["config"]["infonce"]
    close(in_recorded_order(output.logits, recorded, infonce), run["logits"])

    weights = None if run["loss_weights"] is None else float_tuple(run["loss_weights"])
    keys = tuple(key for key in run["extra_net_output"])
    criterion = Wav2VecCriterion(Wav2VecCriterionConfig(infonce=infonce, loss_weights=weights, log_keys=keys))
    clips, samples = recorded["source"].shape
    batch = AudioBatch(recorded["source"], torch.full((clips,), samples), torch.arange(clips), 0)
    loss = criterion(output, batch)
    assert int(loss.sample_size) == run["sample_size"]
    torch.testing.assert_close(loss.value.detach(), run["loss_sum"], rtol=1e-5, atol=0)
    for key in ("loss_0", "loss_1", "correct", "count", "prob_perplexity", "code_perplexity", "temp"):
        assert (key in loss.sums) == (key in run["log"]), key
        if key == "correct" and key in run["log"]:
            # Which of two equal logits is the larger one is rounding, and another processor's may differ.
            undecided = num_undecided(output.logits.detach())
            assert abs(float(loss.sums[key]) - run["log"][key]) <= undecided < run["log"]["count"] / 10
        elif key in run["log"]:
            assert float(loss.sums[key]) == pytest.approx(run["log"][key], rel=1e-5), key
    check_weights(output, run, recorded, infonce)

    loss.value.backward()
    gradients = {key: parameter.grad for key, parameter in model.named_parameters(remove_duplicate=False)}
    for key, expected in run["grads"].items():
        gradient = gradients[key]
        assert gradient is not None, key
        close(gradient, expected, 1e-4)


def num_undecided(logits: Tensor) -> int:
    """Return how many positives equal their best negative up to the bound of `close`."""
    margin = logits[:, 0] - logits[:, 1:].max(dim=1).values
    return int((margin.abs() <= 1e-5 * logits.abs().max()).sum())


def in_recorded_order(logits: Tensor, recorded: dict[str, Any], infonce: bool) -> Tensor:
    """Sort our (clip, target, step) rows as the original does: by step, then (copy, clip, target) or (target, clip)."""
    clips, _, num_frames = recorded["z"].shape
    offset = recorded["offset"]
    steps = recorded["config"]["prediction_steps"]
    keys = [
        (step, clip, target)
        for clip in range(clips)
        for target in range(offset, num_frames)
        for step in range(steps)
        if target - offset - step >= 0
    ]
    assert logits.shape[0] == len(keys)
    if infonce:
        order = sorted(range(len(keys)), key=lambda row: (keys[row][0], keys[row][2], keys[row][1]))
        return logits[order]
    order = sorted(range(len(keys)), key=lambda row: keys[row])
    parts = []
    start = 0
    for step in range(steps):
        size = clips * (num_frames - offset - step)
        parts.append(logits[order[start : start + size]].t().flatten())
        start += size
    return torch.cat(parts)


def check_weights(output: ContrastiveOutput, run: dict[str, Any], recorded: dict[str, Any], infonce: bool) -> None:
    if run["target_weights"] is None:
        assert output.negative_weight == 1
        return
    ours = torch.full_like(output.logits, output.negative_weight)
    ours[:, 0] = 1
    torch.testing.assert_close(in_recorded_order(ours, recorded, infonce), run["target_weights"])
