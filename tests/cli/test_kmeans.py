"""`w2v-kmeans`: the line from clips to classes to HuBERT and back to classes of its own layer."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from small_models import HUBERT
from toy_speech import Outcome, call, prepare

from w2v.data.audio import read_audio
from w2v.data.manifest import read_manifest
from w2v.functional.mfcc import differences, mfcc
from w2v.inference.clustering import Clustering, load_clustering
from w2v.inference.load import load_model
from w2v.scoring.cluster_quality import ClusterQuality
from w2v_cli import kmeans, train

pytest.importorskip("soundfile")
pytest.importorskip("sklearn")
QUICK = ["--n-init", 2, "--max-iter", 10, "-K", 8, "--cpu", "--quiet"]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return prepare(tmp_path_factory.mktemp("kmeans"), 12)


def program(*arguments: object) -> Outcome:
    return call(kmeans.main, [str(argument) for argument in arguments])


@pytest.fixture(scope="module")
def labelled(data: Path) -> Outcome:
    ended = program(data, "--mfcc", *QUICK, "--output-dir", data / "mfcc")
    assert ended.code == 0, ended.err
    return ended


def test_classes_of_mfcc(data: Path, labelled: Outcome) -> None:
    centroids = load_clustering(data / "mfcc" / "kmeans.npz")
    assert centroids.about["label_rate"] == 100.0
    for split in ("train", "valid"):
        clips = read_manifest(data / f"{split}.tsv")
        lines = (data / "mfcc" / f"{split}.km").read_text().splitlines()
        for row, line in enumerate(lines):
            frames = mfcc(read_audio(clips.path(row), 16000))
            assert len(frames) == 1 + (clips.sizes[row] - 400) // 160
            distance = ((frames[:, None].astype(np.float64) - centroids.centroids) ** 2).sum(axis=2)
            assert [int(label) for label in line.split()] == distance.argmin(axis=1).tolist()
        header = json.loads((data / "mfcc" / f"{split}.km.json").read_text())
        assert header["kmeans"] == centroids.digest
        assert header["features"] == "mfcc"
        assert f"{split}: frames " in labelled.out
    assert (data / "mfcc" / "dict.km.txt").read_text() == "".join(f"{number} 1\n" for number in range(8))


def test_again_by_hand_and_in_parts(data: Path, labelled: Outcome, tmp_path: Path) -> None:
    """The same seed gives the same; applied to the same clips, the centroids give the same classes; a share is less."""
    train_km = (data / "mfcc" / "train.km").read_text()
    again = program(data, "--mfcc", *QUICK, "--output-dir", tmp_path / "again")
    assert again.out == labelled.out
    assert (tmp_path / "again" / "train.km").read_text() == train_km
    applied = program(
        data, "--mfcc", "--apply", data / "mfcc" / "kmeans.npz", "--quiet", "--output-dir", tmp_path / "b"
    )
    assert applied.code == 0, applied.err
    assert (tmp_path / "b" / "train.km").read_text() == train_km
    part = program(data, "--mfcc", *QUICK, "--percent", 0.2, "--seed", 3, "--output-dir", tmp_path / "c")
    assert part.code == 0, part.err
    clips = read_manifest(data / "train.tsv")
    rows = np.random.RandomState(3).choice(len(clips), int(np.ceil(0.2 * len(clips))), replace=False)
    about = load_clustering(tmp_path / "c" / "kmeans.npz").about
    assert about["num_frames"] == sum(1 + (size - 400) // 160 for size in clips.sizes[rows])


def test_two_rounds_of_hubert(data: Path, labelled: Outcome, tmp_path: Path) -> None:
    """Classes of MFCC train a model; classes of its layer train the next."""
    common = [
        "--optimizer",
        "adam",
        "--lr",
        0.003,
        "--max-update",
        2,
        "--num-workers",
        0,
        "--cpu",
        "--max-tokens",
        60000,
    ]
    first = call(train.main, [data, *HUBERT, *common, "--label-dir", data / "mfcc", "--save-dir", tmp_path / "one"])
    assert first.code == 0, first.err
    model = tmp_path / "one" / "checkpoint_last.pt"
    classes = tmp_path / "layer"
    ended = program(data, "--model", model, "--layer", 1, *QUICK, "--output-dir", classes)
    assert ended.code == 0, ended.err
    centroids = load_clustering(classes / "kmeans.npz")
    assert centroids.about["label_rate"] == 50.0
    clips = read_manifest(data / "valid.tsv")
    samples = torch.from_numpy(read_audio(clips.path(0), 16000))[None]
    frames = load_model(model).model.extract_features(samples, layer=1).features[0].detach().numpy()
    line = (classes / "valid.km").read_text().splitlines()[0]
    assert [int(label) for label in line.split()] == centroids.classes(frames).tolist()
    second = call(
        train.main,
        [data, *HUBERT, *common, "--label-dir", classes, "--label-rate", 50, "--save-dir", tmp_path / "two"],
    )
    assert second.code == 0, second.err
    wrong = program(data, "--mfcc", "--apply", classes / "kmeans.npz", "--output-dir", tmp_path / "three")
    assert wrong.code == 2
    assert "its centroids are of layer 1" in wrong.err


def test_feature_files_of_the_original(tmp_path: Path, golden: Path) -> None:
    recorded = torch.load(golden / "beyond/hubert.pt", weights_only=True)["kmeans"]
    clips, first = [clip.numpy() for clip in recorded["features"]], 0
    for number, size in enumerate(recorded["shards"]):
        some = clips[first : first + size]
        first += size
        stem = tmp_path / f"train_{number}_{len(recorded['shards'])}"
        np.save(stem.with_suffix(".npy"), np.concatenate(some))
        stem.with_suffix(".len").write_text("".join(f"{len(clip)}\n" for clip in some))
    row = recorded["rows"][-1]
    ended = program(
        tmp_path, "-K", row["n_clusters"], "--percent", row["percent"], "--n-init", row["n_init"],
        "--seed", row["seed"], "--label-rate", 100, "--quiet",
    )  # fmt: skip
    assert ended.code == 0, ended.err
    lines = [list(map(int, line.split())) for line in (tmp_path / "train.km").read_text().splitlines()]
    import sklearn

    if sklearn.__version__ == recorded["scikit_learn"]:
        assert lines == [list(labels) for labels in row["labels"]]
    assert [len(line) for line in lines] == [len(clip) for clip in clips]


def test_quality_by_hand(data: Path, labelled: Outcome, tmp_path: Path) -> None:
    quality = ClusterQuality(4)
    quality.add(np.array([0, 0, 1, 1, 2]), ["a", "a", "a", "b", "b"])
    values = quality.values()
    table = Counter([(0, "a"), (0, "a"), (1, "a"), (1, "b"), (2, "b")])
    p = {pair: count / 5 for pair, count in table.items()}
    x, y = {0: 0.4, 1: 0.4, 2: 0.2}, {"a": 0.6, "b": 0.4}
    mi = sum(share * np.log2(share / (x[c] * y[s])) for (c, s), share in p.items())
    entropy = -sum(share * np.log2(share) for share in y.values())
    assert values["mi"] == pytest.approx(mi)
    assert values["pnmi"] == pytest.approx(mi / entropy)
    assert values["phone_purity"] == pytest.approx(4 / 5)
    assert values["cluster_purity"] == pytest.approx(3 / 5)
    assert values["mean_run"] == pytest.approx(5 / 3)
    assert values["used_classes"] == 3
    # Against themselves, classes tell all; against words of a CTM, less.
    (data / "train.self").write_text((data / "mfcc" / "train.km").read_text())
    clips = read_manifest(data / "train.tsv")
    words = "".join(f"{Path(clips.name(row)).stem} 1 0.06 0.3 w{row % 2}\n" for row in range(len(clips)))
    (data / "train.ctm").write_text(words)
    apply = [data, "--mfcc", "--apply", data / "mfcc" / "kmeans.npz", "--split", "train", "--output-dir", tmp_path]
    own = program(*apply, "--quality", "self", "--quiet")
    assert "pnmi 1" in own.out.replace("pnmi 1\n", "pnmi 1")
    other = program(*apply, "--quality", "ctm", "--quiet")
    assert other.code == 0, other.err
    assert 0 < float(other.out.split("pnmi ")[1]) < 1


def test_differences_are_slopes() -> None:
    line = np.arange(9.0)[:, None] * [[2.0, -1.0]]
    np.testing.assert_allclose(differences(line)[2:-2], np.tile([[2.0, -1.0]], (5, 1)))
    np.testing.assert_allclose(differences(line)[0], np.array([0.0 * 0 + (1 * 2 + 2 * 4) / 10, -(1 + 4) / 10]))


def test_what_is_refused(data: Path, tmp_path: Path) -> None:
    import soundfile

    def said(*arguments: object) -> str:
        ended = program(*arguments)
        assert ended.code == 2
        assert len(ended.err.strip().splitlines()) == 1, ended.err
        return ended.err

    assert "needs --mfcc, or --model and --layer" in said(data)
    assert "--percent must be a share in (0, 1], or -1 for all" in said(data, "--mfcc", "--percent", 10)
    assert "-K 100000 needs at least as many frames" in said(
        data, "--mfcc", "-K", 100000, "--quiet", "--output-dir", tmp_path / "x"
    )
    (tmp_path / "kmeans.npz").write_bytes(b"no")
    assert "is no file of centroids" in said(
        data, "--mfcc", "--apply", tmp_path / "kmeans.npz", "--output-dir", tmp_path / "x"
    )
    soundfile.write(tmp_path / "short.wav", np.zeros(300), 16000)
    soundfile.write(tmp_path / "long.wav", np.zeros(4000), 16000)
    (tmp_path / "train.tsv").write_text(f"{tmp_path}\nshort.wav\t300\nlong.wav\t4000\n")
    err = said(tmp_path, "--mfcc", "-K", 1, "--quiet")
    assert "no classes of 1 clips" in err
    assert "300 samples, one frame needs 400" in err
    assert (tmp_path / "train.km").read_text().splitlines()[1] == " ".join(["0"] * 23)


def test_ties_go_to_the_first() -> None:
    clustering = Clustering(np.array([[1.0, 0], [-1, 0], [1, 0]], dtype=np.float32), {})
    assert clustering.classes(np.array([[0.0, 5], [2, 0], [-2, 0]], dtype=np.float32)).tolist() == [0, 0, 1]
