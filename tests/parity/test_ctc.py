"""CTC fine-tuning against tensors recorded from the original: scores, losses, masks, freezing, gradients."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from rounding import rounding_of
from torch import Tensor

from w2v.config import build_config
from w2v.criterions.ctc import CtcCriterion, CtcCriterionConfig, ctc_loss
from w2v.models.wav2vec_ctc import Wav2VecCtc, Wav2VecCtcConfig
from w2v.types import AudioBatch

SETS = ("ctc_base", "ctc_large")


def record(golden: Path, name: str) -> dict[str, Any]:
    return torch.load(golden / f"{name}.pt", weights_only=True)


def make(recorded: dict[str, Any]) -> Wav2VecCtc:
    values = {**recorded["config"]["model"], "w2v_args": recorded["config"]["w2v"], "original_padding": True}
    config = build_config(Wav2VecCtcConfig, values, "recorded")
    model = Wav2VecCtc.build(config, num_classes=len(recorded["dict_symbols"]))
    model.load_state_dict(recorded["state_dict"])
    return model


def batch_of(recorded: dict[str, Any]) -> AudioBatch:
    lengths = torch.tensor(recorded["lengths"])
    indices = torch.arange(len(lengths))
    return AudioBatch(recorded["source"], lengths, indices, 1, recorded["target"], recorded["target_lengths"])


@pytest.mark.parametrize("name", SETS)
@torch.no_grad()
def test_scores_and_losses_in_evaluation(golden: Path, name: str) -> None:
    recorded = record(golden, name)
    batch = batch_of(recorded)
    model = make(recorded).eval()

    def scores(source: Tensor) -> dict[str, Tensor]:
        logits = model(source, batch.lengths, batch.seed).logits.transpose(0, 1)
        return {"encoder_out_TBV": logits, "log_probs_TBV": logits.log_softmax(dim=-1)}

    output = model(batch.source, batch.lengths, batch.seed)
    assert torch.equal(output.lengths, recorded["input_lengths"])
    rounding = rounding_of(scores, batch.source)
    for key, values in scores(batch.source).items():
        atol = max(1e-5, rounding[key])
        torch.testing.assert_close(values, recorded[key], rtol=1e-5, atol=atol)
    for i, expected in enumerate(recorded["per_utt_loss"].tolist()):
        rows = slice(i, i + 1)
        loss = ctc_loss(
            output.logits[rows], output.lengths[rows], recorded["target"][rows], recorded["target_lengths"][rows],
            zero_infinity=False,
        )  # fmt: skip
        assert loss.item() == pytest.approx(expected, rel=1e-5)
    for options, expected in recorded["eval_criterion"].items():
        flags = {key: value == "True" for key, value in (option.split("=") for option in options.split(","))}
        loss = CtcCriterion(CtcCriterionConfig(**flags))(output, batch)
        assert loss.value.item() == pytest.approx(expected["loss_sum"], rel=1e-5), options
        assert loss.sample_size == expected["sample_size"]
        assert loss.sums["ntokens"] == expected["log"]["ntokens"] == recorded["ntokens"]
        assert loss.sums["nsentences"] == expected["log"]["nsentences"]


@pytest.mark.parametrize("case", ["frozen_update_0", "unfrozen_update_5"])
@pytest.mark.parametrize("name", SETS)
def test_training_with_masks(golden: Path, name: str, case: str) -> None:
    recorded = record(golden, name)
    expected = recorded["train"][case]
    batch = batch_of(recorded)
    by_sentence = expected["sample_size"] == batch.num_items
    criterion = CtcCriterion(CtcCriterionConfig(zero_infinity=True, sentence_avg=by_sentence))
    masks = {"mask_indices": recorded["time_mask"], "mask_channel_indices": recorded["channel_mask"]}

    def train(source: Tensor) -> tuple[float, dict[str, Tensor]]:
        model = make(recorded).train()
        model.set_num_updates(expected["num_updates"])
        loss = criterion(model(source, batch.lengths, batch.seed, **masks), batch)
        loss.value.backward()
        return loss.value.item(), {key: p.grad for key, p in model.named_parameters() if p.grad is not None}

    loss, gradients = train(batch.source)
    assert loss == pytest.approx(expected["loss_sum"], rel=1e-5)
    assert set(gradients) == set(expected["params_with_grad"])
    rounding = rounding_of(lambda source: train(source)[1], batch.source)
    for key, gradient in expected["grads"].items():
        # A bias of keys shifts all scores of a query alike: its true gradient is 0, what is left is rounding.
        scale = expected["grads"][key.replace("k_proj.bias", "k_proj.weight")]
        atol = max(1e-5 * scale.abs().max().item(), rounding[key])
        torch.testing.assert_close(gradients[key], gradient, rtol=1e-4, atol=atol, msg=lambda m, k=key: f"{k}: {m}")
