"""The temperature of the Gumbel softmax against recorded schedules."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from w2v.modules.gumbel_vector_quantizer import GumbelVectorQuantizer


def test_temperature_follows_updates(golden: Path) -> None:
    runs = torch.load(golden / "gumbel_temperature.pt", weights_only=True)["runs"]
    for name, run in runs.items():
        start, end, decay = run["temp"]
        quantizer = GumbelVectorQuantizer(4, 2, (start, end, decay), 1, combine_groups=False, vq_dim=2)
        assert quantizer.current_temperature == start
        for num_updates, expected in zip(run["num_updates"], run["curr_temp"], strict=True):
            quantizer.set_num_updates(num_updates)
            assert quantizer.current_temperature == pytest.approx(expected, rel=1e-12), (name, num_updates)
