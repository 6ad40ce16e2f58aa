"""Training on shards: the weights of the run on files, to the bit, whatever happens to server, process and ranks."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from clip_files import manifest_program
from fault_server import fault_server
from scripts import load_script
from toy_speech import call, prepare, pretraining

from w2v.checkpoint import load_checkpoint
from w2v.shards import remote
from w2v_cli import train

SCRIPT = Path(__file__).resolve().parents[2] / "benchmarks/random_kills.py"


@pytest.fixture(scope="module")
def script() -> ModuleType:
    return load_script(SCRIPT)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Any]]:
    """The same clips as files, as shards on the disk, and as the same shards on a server that often fails."""
    folder = tmp_path_factory.mktemp("shards")
    found: dict[str, Any] = {"files": prepare(folder, 40), "tars": folder / "tars", "server": folder / "server"}
    for split in ("train", "valid"):
        code, _, err = manifest_program(
            found["files"] / f"{split}.tsv", "--shards", found["tars"], "--shard-size", "300K"
        )
        assert code == 0, err
    with fault_server(found["tars"]) as served:
        found["server"].mkdir()
        found["served"] = served
        served.faults.extend([503, None, None, "reset", None, "short", None, None, None, 503] * 2)
        for path in found["tars"].iterdir():
            if path.suffix != ".tar":
                lines = path.read_text().splitlines()
                text = "\n".join([served.url, *lines[1:]] if path.name in ("train.tsv", "valid.tsv") else lines)
                (found["server"] / path.name).write_text(text + "\n")
        yield found


def test_runs_on_shards_that_are_killed_end_like_the_run_on_files(
    data: dict[str, Any], tmp_path: Path, script: ModuleType
) -> None:
    counts = script.torment("wav2vec2", data["files"], tmp_path, 2, random.Random(4), data["server"])
    assert counts["kills"] == 2
    assert counts["ends compared"] >= 1


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return dict(load_checkpoint(folder / "checkpoint_last.pt")["model"])


def test_resumed_after_an_outage_and_with_another_number_of_ranks(
    data: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remote, "sleep", lambda seconds: None)
    common = ["--max-tokens", 60000, "--disable-validation", "--save-interval-updates", 2]
    one = [*common, "--update-freq", 2]
    two = [*common, "--update-freq", 1, "--distributed-world-size", 2]
    runs = [("files", one, 4, "a"), ("server", two, 2, "b"), ("server", one, 4, "b")]
    for kind, options, updates, name in runs:
        if updates == 4 and kind == "server":
            data["served"].faults.extend([503] * 1000)
            found = call(train.main, pretraining(data[kind], tmp_path / name, *options, "--max-update", updates))
            assert found.code == 3
            assert "gave up after 8 tries to read the shard http://127.0.0.1" in found.err
            data["served"].faults.clear()
        found = call(train.main, pretraining(data[kind], tmp_path / name, *options, "--max-update", updates))
        assert found.code == 0, found.err
    ours, theirs = weights(tmp_path / "b"), weights(tmp_path / "a")
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
