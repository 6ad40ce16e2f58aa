"""Crops and labels of HuBERT's data set against batches recorded from the original."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from w2v.data import dataset
from w2v.data.batch_sampler import length_order
from w2v.data.dictionary import Dictionary
from w2v.data.frame_labels import FrameLabelDataset
from w2v.data.labels import read_labels
from w2v.data.manifest import read_manifest, write_manifest

soundfile = pytest.importorskip("soundfile")
ROWS = range(18)


@pytest.fixture(scope="module")
def recorded(golden: Path) -> dict[str, Any]:
    labels: dict[str, Any] = torch.load(golden / "beyond/hubert.pt", weights_only=True)["labels"]
    assert len(labels["rows"]) == len(ROWS)
    return labels


@pytest.fixture(scope="module")
def folder(recorded: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("hubert")
    names = []
    for number, clip in enumerate(recorded["clips_int16"]):
        names.append(f"{number}.wav")
        soundfile.write(folder / names[-1], clip.numpy(), 16000, subtype="PCM_16")
    write_manifest(folder / "train.tsv", str(folder), names, [len(clip) for clip in recorded["clips_int16"]])
    for rate, sets in recorded["labels"].items():
        for number, lines in enumerate(sets):
            text = "".join(" ".join(map(str, ids)) + "\n" for ids in lines)
            (folder / f"{rate}.{number}").write_text(text)
    return folder


class Recorded:
    """The original's generator, asked in our way."""

    def __init__(self, state: np.random.RandomState) -> None:
        self.state = state

    def integers(self, high: int) -> int:
        return int(self.state.randint(0, high))


@pytest.mark.parametrize("number", ROWS)
def test_batches(recorded: dict[str, Any], folder: Path, number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    row = recorded["rows"][number]
    options = dict(row["options"])
    rate = options.pop("label_rate")
    manifest = read_manifest(folder / "train.tsv")
    symbols = sorted({i for lines in recorded["labels"][str(rate)] for ids in lines for i in ids} - {999})
    dictionary = Dictionary.from_symbols([str(i) for i in range(max(symbols) + 1)])
    sets = [read_labels(folder / f"{rate}.{i}", len(manifest), dictionary) for i in (0, 1)]
    clips = FrameLabelDataset(manifest, sets, rate, pad=options.pop("pad_audio"), **options)
    assert clips.rows.tolist() == row["kept"]
    assert clips.sizes.tolist() == row["sizes"]
    assert clips.lengths.tolist() == row["batch_sizes_used_for_order"]
    assert length_order(clips.sizes, row["numpy_seed"]).tolist() == row["ordered_indices"]
    state = np.random.RandomState(row["numpy_seed"])
    state.permutation(len(clips))  # the draw of the order comes first
    monkeypatch.setattr(dataset, "numpy_generator", lambda *keys: Recorded(state))
    for expected in row["batches"]:
        batch, report = clips.load(expected["ids"], 1)
        assert not report.bad
        assert batch.starts == expected["starts"]
        assert batch.source.shape[1] == expected["size"]
        assert (expected["size"] - batch.lengths).tolist() == expected["padded_per_row"]
        for labels, lengths, ids, counts, tokens in zip(
            batch.frame_labels, batch.label_lengths, expected["target_list"], expected["target_lengths_list"],
            expected["ntokens_list"], strict=True,
        ):  # fmt: skip
            assert torch.equal(labels, ids.long())
            assert lengths.tolist() == list(counts)
            assert int(lengths.sum()) == tokens
        if expected["source_head"] is not None:
            head = expected["source_head"]
            torch.testing.assert_close(batch.source[:, : head.shape[-1]], head, rtol=1e-5, atol=1e-5)
