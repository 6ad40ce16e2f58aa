"""Span masks against the original's: draw for draw with its generator, and in distribution with ours."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from w2v.functional.masking import MaskSpec, sample_mask
from w2v.rng import numpy_generator


class LegacyGenerator:
    """numpy's legacy generator behind the names of the new one."""

    def __init__(self, seed: int) -> None:
        self.state = np.random.RandomState(seed)
        self.normal = self.state.normal
        self.poisson = self.state.poisson
        self.choice = self.state.choice
        self.integers = self.state.randint
        self.random = self.state.rand


def spec_of(config: dict[str, Any]) -> MaskSpec:
    return MaskSpec(
        prob=config["mask_prob"],
        length=config["mask_length"],
        selection=config["mask_type"],
        other=config["mask_other"],
        no_overlap=config.get("no_overlap", False),
        min_space=config["min_space"],
        min_masks=config["min_masks"],
    )


def sizes_of(row: dict[str, Any], recorded: dict[str, Any]) -> list[int]:
    num_clips, num_frames = row["config"]["shape"]
    if row["padding"]:
        return (~recorded["padding_mask"]).sum(dim=1).tolist()
    return [num_frames] * num_clips


def rows_with(golden: Path, key: str) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    recorded = torch.load(golden / "masks.pt", weights_only=True)
    return [row for row in recorded["rows"] if key in row], recorded


def test_same_draws_give_the_same_masks(golden: Path) -> None:
    rows, recorded = rows_with(golden, "mask")
    assert rows
    for row in rows:
        generator = LegacyGenerator(row["np_seed"])
        _, num_frames = row["config"]["shape"]
        mask = sample_mask(sizes_of(row, recorded), num_frames, spec_of(row["config"]), rng=generator)  # type: ignore[arg-type]
        assert np.array_equal(mask, np.asarray(row["mask"])), row["config"]
        assert generator.random() == row["rng_after"], row["config"]


def test_no_spans_mean_no_mask(golden: Path) -> None:
    rows, recorded = rows_with(golden, "error")
    for row in rows:
        generator = LegacyGenerator(row["np_seed"])
        _, num_frames = row["config"]["shape"]
        mask = sample_mask(sizes_of(row, recorded), num_frames, spec_of(row["config"]), rng=generator)  # type: ignore[arg-type]
        assert not mask.any()


def test_the_same_distribution(golden: Path) -> None:
    rows, recorded = rows_with(golden, "stats")
    assert rows
    for i, row in enumerate(rows):
        _, num_frames = row["config"]["shape"]
        rng = numpy_generator("masks", i)
        sizes, spec, stats = sizes_of(row, recorded), spec_of(row["config"]), row["stats"]
        draws = stats["draws"]
        masks = np.stack([sample_mask(sizes, num_frames, spec, rng=rng) for _ in range(draws)])
        counts = masks.sum(axis=2)
        assert (counts == counts[:, :1]).all() == stats["rows_equal"]
        # Five standard errors of a difference of two means over `draws` independent masks.
        error = 5 * np.sqrt(2 / draws)
        spread = max(stats["std_of_row_count"], counts.std(), 1e-9)
        expected_count = stats["mean_fraction"] * num_frames
        assert counts.mean() == pytest.approx(expected_count, abs=error * spread), row["config"]
        position = np.asarray(stats["position_mean"], dtype=np.float64)
        share = np.clip(position, 0.02, 0.98)
        deviation = np.abs(masks.mean(axis=(0, 1)) - position)
        # Rows of a batch are nearly independent of each other; one row's worth of draws is the safe count.
        assert (deviation < 1.2 * error * np.sqrt(share * (1 - share))).all(), row["config"]
