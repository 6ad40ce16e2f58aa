"""Data sets of real files: crops, padding, labels that never shift, and files that cannot be read."""

from __future__ import annotations

import logging
import pickle

import numpy as np
import pytest
import soundfile
import torch
from torch.nn import functional as F

from w2v.data import dataset as dataset_module
from w2v.data.dataset import AudioDataset, ReadReport
from w2v.data.dictionary import Dictionary
from w2v.data.labels import read_labels
from w2v.data.manifest import make_manifest
from w2v.errors import DataError

SIZES = [4000, 1200, 9000, 2500, 6000]
LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"


@pytest.fixture
def folder(tmp_path):
    """Clips of noise as float WAV; clip i has i + 1 labels, all of them the letter number i."""
    write_clips(tmp_path, SIZES)
    return tmp_path


def write_clips(folder, sizes):
    for i, size in enumerate(sizes):
        samples = np.random.default_rng(i).uniform(-0.5, 0.5, size).astype(np.float32)
        soundfile.write(str(folder / f"{i}.wav"), samples, 16000, subtype="FLOAT")
    lines = [" ".join(LETTERS[i % 26] * (1 + i % 7)) for i in range(len(sizes))]
    (folder / "train.ltr").write_text("\n".join(lines) + "\n")


def make(folder, labels=False, sizes=SIZES, **options):
    manifest = make_manifest(str(folder), [f"{i}.wav" for i in range(len(sizes))], sizes, "train.tsv")
    dictionary = Dictionary.from_symbols(list(LETTERS))
    given = read_labels(folder / "train.ltr", len(sizes), dictionary) if labels else None
    return AudioDataset(manifest, given, **options)


def clip(folder, index):
    return torch.from_numpy(soundfile.read(str(folder / f"{index}.wav"), dtype="float32")[0])


def windows(samples, row):
    """Return the starts at which `row` occurs in `samples`."""
    return torch.nonzero((samples.unfold(0, len(row), 1) == row).all(dim=1)).flatten().tolist()


def test_crops_to_the_shortest(folder):
    batch = make(folder).batch([0, 2, 3], seed=5)
    assert batch.source.shape == (3, 2500)
    assert batch.lengths.tolist() == [2500] * 3
    assert batch.indices.tolist() == [0, 2, 3]
    assert (batch.seed, batch.is_padded, batch.targets) == (5, False, None)
    for row, index in enumerate([0, 2, 3]):
        assert len(windows(clip(folder, index), batch.source[row])) == 1


def test_crops_to_max_sample_size_and_follows_the_seed(folder):
    dataset = make(folder, max_sample_size=2000)
    assert dataset.lengths.tolist() == [2000, 1200, 2000, 2000, 2000]
    assert dataset.sizes.tolist() == SIZES
    first = dataset.batch([0, 2, 4], seed=1)
    assert first.source.shape == (3, 2000)
    assert torch.equal(first.source, pickle.loads(pickle.dumps(dataset)).batch(np.array([0, 2, 4]), seed=1).source)
    assert not torch.equal(first.source, dataset.batch([0, 2, 4], seed=2).source)
    example = dataset.example(2, np.random.default_rng(0))
    assert len(example.source) == 2000
    assert len(dataset.example(2).source) == 9000


def test_crops_are_uniform(folder):
    dataset = make(folder, max_sample_size=8997)
    counts = np.zeros(4)
    for seed in range(200):
        row = dataset.batch([2], seed).source[0]
        counts[windows(clip(folder, 2), row)[0]] += 1
    # Chi-square with three degrees of freedom; 16.3 is exceeded once in a thousand.
    assert ((counts - 50) ** 2 / 50).sum() < 16.3


def test_pads_to_the_longest(folder):
    batch = make(folder, pad=True).batch([0, 2, 3], seed=5)
    assert batch.source.shape == (3, 9000)
    assert batch.lengths.tolist() == [4000, 9000, 2500]
    assert batch.is_padded
    for row, index in enumerate([0, 2, 3]):
        padded = F.pad(clip(folder, index), (0, 9000 - SIZES[index]))
        assert torch.equal(batch.source[row], padded)


def test_padding_with_max_sample_size(folder):
    batch = make(folder, pad=True, max_sample_size=3000).batch([0, 2, 3], seed=5)
    assert batch.source.shape == (3, 3000)
    assert batch.lengths.tolist() == [3000, 3000, 2500]


def test_normalizes_whole_clips_before_cropping(folder):
    dataset = make(folder, normalize=True, max_sample_size=1000)
    row = dataset.batch([2], seed=1).source[0]
    whole = F.layer_norm(clip(folder, 2), (9000,))
    assert min((whole.unfold(0, 1000, 1) - row).abs().amax(dim=1)) < 1e-6


def test_labels_follow_their_clips(folder):
    dataset = make(folder, labels=True, min_sample_size=2000, max_sample_size=8000)
    assert (dataset.num_too_short, dataset.num_too_long, dataset.num_skipped) == (1, 1, 2)
    assert dataset.rows.tolist() == [0, 3, 4]
    assert dataset.name(1) == "3.wav"
    batch = dataset.batch([2, 0, 1], seed=1)
    # Row i of the manifest has i + 1 times letter number i, whose id is i + 4; 1 pads.
    assert batch.targets.tolist() == [[8] * 5, [4, 1, 1, 1, 1], [7, 7, 7, 7, 1]]
    assert batch.target_lengths.tolist() == [5, 1, 4]
    for row, index in enumerate([4, 0, 3]):
        assert torch.equal(batch.source[row, : SIZES[index]], clip(folder, index))
    assert batch.lengths.tolist() == [6000, 4000, 2500]


def test_refusals(folder):
    with pytest.raises(DataError, match="all 5 clips are dropped: 5 are under --min-sample-size 10000"):
        make(folder, min_sample_size=10000)
    with pytest.raises(DataError, match="has 5 lines, but its manifest lists 4"):
        make(folder, labels=True, sizes=SIZES[:4])
    labels = make(folder, labels=True).labels
    with pytest.raises(DataError, match=r"train.ltr: 5 entries for the 4 clips of train.tsv"):
        AudioDataset(make_manifest(str(folder), ["0.wav"] * 4, [1] * 4, "train.tsv"), labels)
    with pytest.raises(DataError, match="does not exist"):
        make(folder / "none")


def test_an_unreadable_clip_is_replaced_and_named_once(folder, caplog):
    (folder / "1.wav").write_bytes(b"noise")
    dataset = make(folder, labels=True)
    with caplog.at_level(logging.WARNING):
        batch = dataset.batch([0, 1, 4], seed=1)
        again = dataset.batch([0, 1, 4], seed=1)
    # Clip 2 is longer than the batch was planned for, so the next one that fits takes the place.
    assert batch.indices.tolist() == [0, 3, 4]
    assert batch.targets[1].tolist() == [7, 7, 7, 7, 1]
    assert torch.equal(batch.source[1, :2500], clip(folder, 3))
    assert torch.equal(batch.source, again.source)
    assert list(dataset.bad) == [1]
    assert [record.message for record in caplog.records] == [
        f"unreadable, replaced by another clip (1 so far): {folder / '1.wav'}: "
        "not readable as audio: Format not recognised"
    ]
    with pytest.raises(DataError, match=r"1.wav: not readable as audio"):
        make(folder, replace_unreadable=False).batch([0, 1], seed=1)


def test_too_many_unreadable_clips_stop_the_run(folder, monkeypatch):
    write_clips(folder, [1000] * 20)
    for index in (3, 7, 8, 12):
        (folder / f"{index}.wav").unlink()
    dataset = make(folder, sizes=[1000] * 20)
    for _ in range(3):
        dataset.batch(list(range(20)), seed=1)  # four bad ones are too few to judge by
    (folder / "13.wav").unlink()
    with pytest.raises(DataError, match=r"^5 of 20 clips .* more than 1% \(--max-bad\); the last one: .*13.wav"):
        dataset.batch(list(range(20)), seed=1)
    for index in range(20):
        (folder / f"{index}.wav").unlink(missing_ok=True)
    with pytest.raises(DataError, match="no clip can be read; the last one"):
        dataset.batch([0], seed=1)
    monkeypatch.setattr(dataset_module, "MAX_TRIES", 10)
    with pytest.raises(DataError, match="10 clips in a row are unreadable"):
        dataset.batch([0], seed=1)


@pytest.mark.parametrize(("share", "stops"), [(0.007, False), (0.02, True), (0.5, True)])
def test_one_per_cent_is_meant_of_the_whole_data_set(folder, share, stops):
    """Bad clips come together, as clips of one length do: below the limit, no order of the clips ends a run."""
    dataset = make(folder, sizes=[1000] * 20000)
    for seed in range(20):
        is_bad = np.zeros(20000, dtype=bool)
        is_bad[np.random.default_rng(seed).permutation(20000)[: round(share * 20000)]] = True
        if not stops:
            is_bad[:200] = np.arange(200) % 5 == 0
        dataset.bad, dataset.num_read = {}, 0
        stopped = None
        for start in range(0, 20000, 100):
            bad = {start + int(i): "reason" for i in np.flatnonzero(is_bad[start : start + 100])}
            try:
                dataset.record(ReadReport(num_read=100, bad=bad))
            except DataError:
                stopped = start
                break
        assert (stopped is not None) == stops
        if share == 0.5:
            assert stopped == 0  # a folder that is broken throughout is noticed at once


@pytest.mark.parametrize("pad", [False, True])
def test_a_manifest_that_lies_about_lengths(folder, caplog, pad):
    dataset = make(folder, sizes=[3000] * 5, pad=pad)
    with caplog.at_level(logging.WARNING):
        batch = dataset.batch([0, 2, 4], seed=1)
        dataset.batch([0, 2, 4], seed=1)
    # Cropping stays inside the budget that the manifest promised; padding keeps the audio.
    assert batch.source.shape == ((3, 9000) if pad else (3, 3000))
    assert len(caplog.records) == 1
    assert "0.wav: holds 4000 samples, its manifest says 3000" in caplog.text


def test_clips_without_samples(folder):
    soundfile.write(str(folder / "1.wav"), np.zeros(0), 16000)
    with pytest.raises(DataError, match=r"1.wav: holds 0 samples, need at least 1"):
        make(folder).example(1)
    batch = make(folder, labels=True, replace_unreadable=False).batch([0, 1], seed=1)
    assert batch.lengths.tolist() == [4000, 0]


def test_odd_files_in_training(data, tmp_path, caplog):
    """Training over every odd file ends in batches, each clip read or replaced."""
    paths = sorted(str(path.relative_to(data)) for path in (data / "odd").rglob("*") if path.is_file())
    manifest = make_manifest(str(data), paths, [20000] * len(paths), "odd.tsv")
    dataset = AudioDataset(manifest, resample=True, max_sample_size=20000)
    reads = 0
    for index in range(len(dataset)):
        batch, report = dataset.load([index], seed=1)
        assert torch.isfinite(batch.source).all()
        assert batch.source.shape[1] > 0
        reads += report.num_read - len(report.bad)
    assert reads == len(dataset)


def test_padding_to_a_file_much_longer_than_its_manifest_says(folder, caplog):
    """A batch planned for a second must not be padded to hours; a clip that is only a little off stays."""
    soundfile.write(str(folder / "1.wav"), np.zeros(40000), 16000)
    dataset = make(folder, labels=True)
    batch = dataset.batch([0, 1, 2], seed=1)
    assert batch.source.shape == (3, 9000)
    assert batch.indices.tolist() == [0, 2, 2]
    assert "1.wav: holds 40000 samples, its manifest says 1200, and its batch has room for 9000" in caplog.text
    soundfile.write(str(folder / "1.wav"), np.zeros(9600), 16000)
    assert dataset.batch([0, 1, 2], seed=1).source.shape == (3, 9600)


def test_replacement_by_a_longer_clip_where_there_is_no_other(folder):
    write_clips(folder, [1000, 50000])
    (folder / "0.wav").write_bytes(b"")
    dataset = make(folder, labels=True, sizes=[1000, 50000])
    assert dataset.batch([0], seed=1).indices.tolist() == [1]
    assert list(dataset.bad) == [0]


@pytest.mark.parametrize("normalize", [False, True])
def test_clips_of_hours_are_cropped_alike_and_held_one_at_a_time(folder, monkeypatch, normalize):
    dataset = make(folder, max_sample_size=3000, normalize=normalize)
    expected = dataset.batch([0, 2, 3, 4], seed=5)
    reads = []
    example = AudioDataset.example
    monkeypatch.setattr(AudioDataset, "example", lambda self, index, *rest: reads.append(index) or example(self, index))
    monkeypatch.setattr(dataset_module, "LONG_CLIP", 5000)
    found = dataset.batch([0, 2, 3, 4], seed=5)
    assert torch.equal(found.source, expected.source)
    assert torch.equal(found.lengths, expected.lengths)
    assert reads == [0, 2, 3, 4, 2, 4]
