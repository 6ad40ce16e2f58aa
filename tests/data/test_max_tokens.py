"""`--max-tokens` is the most padded samples that a batch holds, from the plan to the tensor."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from w2v.data import dataset as module
from w2v.data.batch_sampler import plan_batches
from w2v.data.dataset import AudioDataset
from w2v.data.manifest import read_manifest


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("max_tokens")


@settings(max_examples=60)
@given(
    sizes=st.lists(st.integers(1, 400), min_size=1, max_size=40),
    max_tokens=st.integers(400, 3000),
    crop=st.one_of(st.none(), st.integers(1, 400)),
    pad=st.booleans(),
    multiple=st.integers(1, 9),
)
def test_no_batch_holds_more(
    folder: Path, sizes: list[int], max_tokens: int, crop: int | None, pad: bool, multiple: int
) -> None:
    lines = [f"{i}.wav\t{size}" for i, size in enumerate(sizes)]
    (folder / "train.tsv").write_text("\n".join([str(folder), *lines]) + "\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "read_audio", lambda path, *_, **__: np.ones(sizes[int(Path(path).stem)], np.float32))
        clips = AudioDataset(read_manifest(folder / "train.tsv"), max_sample_size=crop, pad=pad)
        plan = plan_batches(
            clips.sizes, clips.lengths, seed=1, max_tokens=max_tokens, batch_size=None, multiple=multiple,
            name_of=clips.name,
        )  # fmt: skip
        batches = [clips.batch(indices, 1) for indices in plan.batches]
    assert all(batch.num_tokens == batch.source.numel() <= max_tokens for batch in batches)
    assert sorted(i for batch in batches for i in batch.indices.tolist()) == list(range(len(sizes)))
    # Padding is counted: of two clips of one batch, the shorter one costs as much as the longer one.
    assert all(batch.num_tokens == batch.num_items * batch.source.shape[1] for batch in batches)
