"""Models of HuBERT as recorded from the original, and how close to it a tensor has to be."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from w2v.config import build_config
from w2v.models.hubert import HubertConfig, HubertModel
from w2v.types import MaskedPredictionOutput

OF_THE_TASK = ("label_rate", "required_seq_len_multiple")


def make(case: dict[str, Any], *, original_padding: bool = True) -> HubertModel:
    values = {name: value for name, value in case["config"].items() if name not in OF_THE_TASK}
    config = build_config(HubertConfig, {**values, "original_padding": original_padding}, "recorded")
    model = HubertModel.build(
        config,
        num_classes=case["num_classes"],
        label_rate=case["config"]["label_rate"],
        sample_rate=case["sample_rate"],
    )
    assert model.labels_per_frame == case["feat2tar_ratio"]
    model.load_state_dict(case["state_dict"])
    return model.train()


def lengths_of(case: dict[str, Any]) -> Tensor | None:
    lengths = torch.as_tensor(case["lengths"])
    return lengths if (lengths < case["source"].shape[1]).any() else None


def forward(model: HubertModel, case: dict[str, Any]) -> MaskedPredictionOutput:
    channels = case.get("mask_channel_indices")
    output = model(
        case["source"],
        lengths_of(case),
        seed=1,
        frame_labels=[labels.long() for labels in case["target_list"]],
        mask_indices=case["mask_indices"],
        mask_channel_indices=channels,
    )
    assert isinstance(output, MaskedPredictionOutput)
    return output


def close(found: Tensor, expected: Tensor, relative: float = 1e-5) -> None:
    """Compare to a share of the largest entry."""
    finite = expected[expected.isfinite()]
    scale = float(finite.abs().max()) if finite.numel() else 0.0
    torch.testing.assert_close(found, expected, rtol=relative, atol=relative * scale)
