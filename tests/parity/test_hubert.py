"""HuBERT against tensors recorded from the original: features, logits, losses, gradients."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from recorded_hubert import close, forward, lengths_of, make
from torch import Tensor

from w2v.config import build_config
from w2v.criterions.hubert import HubertCriterion, HubertCriterionConfig
from w2v.models.hubert import HubertModel
from w2v.types import ClassLogits, FrameLabelBatch, Loss

CASES = range(7)


@pytest.fixture(scope="module")
def recorded(golden: Path) -> list[dict[str, Any]]:
    cases: list[dict[str, Any]] = torch.load(golden / "beyond/hubert.pt", weights_only=True)["cases"]
    assert len(cases) == len(CASES)
    return cases


def run(case: dict[str, Any], number: int) -> tuple[HubertModel, Loss]:
    model = make(case)
    values = {name: value for name, value in case["runs"][number]["criterion"].items() if value is not None}
    criterion = HubertCriterion(build_config(HubertCriterionConfig, values, "recorded"))
    lengths = torch.as_tensor(case["lengths"])
    batch = FrameLabelBatch(case["source"], lengths, torch.arange(len(lengths)), seed=1)
    return model, criterion(forward(model, case), batch)


@pytest.mark.parametrize("number", CASES)
def test_logits(recorded: list[dict[str, Any]], number: int) -> None:
    case = recorded[number]
    output = forward(make(case), case)

    def compare(found: list[ClassLogits], expected: list[Tensor | None]) -> None:
        assert len(found) == len([part for part in expected if part is not None])
        for scores, logits in zip(found, expected):
            assert logits is not None
            assert torch.equal(scores.logits.isinf(), logits.isinf())
            close(scores.logits, logits)

    compare(output.masked, case["logits_m"])
    compare(output.unmasked, case["logits_u"])
    close(output.penalties["features_pen"], case["features_pen"])
    mask = case["mask_indices"] & ~case["padding_mask_frames"]
    for scores, labels in zip(output.masked, case["aligned_target_list"]):
        assert torch.equal(scores.labels, labels[mask].long())


@pytest.mark.parametrize("number", CASES)
def test_losses_and_gradients(recorded: list[dict[str, Any]], number: int) -> None:
    case = recorded[number]
    for index, expected in enumerate(case["runs"]):
        model, loss = run(case, index)
        assert loss.value.item() == pytest.approx(float(expected["loss"]), rel=1e-5)
        assert loss.sample_size == expected["sample_size"]
        log = expected["log"]
        assert log["loss"] == pytest.approx(loss.value.item(), rel=1e-5)
        for name, value in log.items():
            if name not in ("loss", "sample_size"):
                assert float(loss.sums[name]) == pytest.approx(value, rel=1e-5), name
        sums = {name: float(value) for name, value in loss.sums.items()}
        sums |= {"loss": loss.value.item(), "sample_size": float(loss.sample_size)}
        values = HubertCriterion.summarize(sums)
        assert values["loss"] == pytest.approx(expected["logged_loss_bits"], rel=1e-5)
        for name in [name for name in log if name.startswith("correct_")]:
            assert values[name] == log[name] / log[name.replace("correct", "count")]
        loss.value.backward()
        parameters = dict(model.named_parameters())
        with_gradients = {name for name, parameter in parameters.items() if parameter.grad is not None}
        assert with_gradients == set(expected["grads"])
        assert parameters.keys() - with_gradients == set(expected["no_grad_names"])
        for name, gradient in expected["grads"].items():
            # A bias of keys shifts all scores of a query alike: its true gradient is 0, what is left is rounding.
            scale = expected["grads"][name.replace("k_proj.bias", "k_proj.weight")].abs().max().item()
            torch.testing.assert_close(
                parameters[name].grad, gradient, rtol=1e-4, atol=1e-4 * scale, msg=lambda m, n=name: f"{n}: {m}"
            )


@pytest.mark.parametrize("number", CASES)
@torch.no_grad()
def test_encoder(recorded: list[dict[str, Any]], number: int) -> None:
    from w2v.models.wav2vec2_encoder import Masks

    case = recorded[number]
    model = make(case)
    source, lengths = case["source"], lengths_of(case)
    width = min(labels.shape[1] for labels in case["target_list"])
    frames = model._trimmed(model.frames(source, lengths), source, lengths, width)
    assert frames.size == case["frames"]
    assert frames.per_clip(len(source)) == (~case["padding_mask_frames"]).sum(dim=1).tolist()
    channels = case.get("mask_channel_indices")
    masks = Masks(case["mask_indices"].numpy(), None if channels is None else channels.numpy())
    encoded = model.encode(source, lengths, frames, masks)
    close(encoded.latent.transpose(1, 2), case["conv_features_BCT"])
    true = ~case["padding_mask_frames"]
    close(encoded.context[true], case["masked_encoder_output_BTD"][true])


@pytest.mark.parametrize("number", CASES)
@torch.no_grad()
def test_features_of_every_layer(recorded: list[dict[str, Any]], number: int) -> None:
    case = recorded[number]
    model = make(case).eval()
    lengths = torch.as_tensor(case["lengths"])
    found = model.extract_features(case["source"], lengths, with_layers=True)
    true = ~case["extract_features_padding_mask"]
    assert found.lengths is not None
    assert found.lengths.tolist() == true.sum(dim=1).tolist()
    for layer, expected in zip([*found.layers, found.features], case["extract_features_layers"], strict=True):
        close(layer[true], expected[true])
    for original_padding in (True, False):
        alone = make(case, original_padding=original_padding).eval()
        clip = case["source"][:1, : int(lengths[0])]
        close(alone.extract_features(clip).features, case["extract_features_first_alone"])
