"""Padding and cropping from the plan, against the batches themselves; and what the published commands waste."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import soundfile

from w2v.data.batch_sampler import padding_stats, plan_batches
from w2v.data.dataset import AudioDataset
from w2v.data.manifest import make_manifest

RATE = 16000


@pytest.mark.parametrize("pad", [False, True])
@pytest.mark.parametrize("max_size", [None, 700])
def test_the_plan_and_the_batches_agree(tmp_path: Path, pad: bool, max_size: int | None) -> None:
    sizes = np.random.default_rng(3).integers(400, 1000, 40)
    for i, size in enumerate(sizes):
        soundfile.write(tmp_path / f"{i}.wav", np.full(size, 0.5), RATE)
    manifest = make_manifest(str(tmp_path), [f"{i}.wav" for i in range(40)], sizes)
    clips = AudioDataset(manifest, pad=pad, max_sample_size=max_size)
    plan = plan_batches(clips.sizes, clips.lengths, seed=1, max_tokens=6000, batch_size=None)
    batches = [clips.batch(indices, 1) for indices in plan.batches]
    tokens = [batch.num_tokens for batch in batches]
    heard = sum(int((batch.source != 0).sum()) for batch in batches)
    waste = clips.waste(plan.batches)
    assert waste.padding == pytest.approx(1 - heard / sum(tokens))
    assert waste.cropped == pytest.approx(1 - heard / sizes.sum())
    assert tokens[waste.largest] == max(tokens)
    assert (waste.padding > 0) == pad


def librispeech_like(rng: np.random.Generator) -> np.ndarray:
    """Return as many lengths as train-clean-100 has, with its mean and its longest clip, but spread more widely."""
    return (np.clip(rng.normal(12.7, 3.8, 28539), 1.4, 24.5) * RATE).astype(np.int64)


def test_the_published_commands_waste_little() -> None:
    sizes = librispeech_like(np.random.default_rng(1))
    tuning = plan_batches(sizes, sizes, seed=1, max_tokens=1_280_000, batch_size=None)
    assert padding_stats(tuning.batches, sizes, pad=True).padding < 0.03
    kept = sizes[sizes >= 32_000]
    for max_tokens, max_size in ((1_400_000, 250_000), (1_200_000, 320_000)):
        costs = np.minimum(kept, max_size)
        plan = plan_batches(kept, costs, seed=1, max_tokens=max_tokens, batch_size=None)
        assert padding_stats(plan.batches, kept, pad=False, max_size=max_size).cropped < 0.05
