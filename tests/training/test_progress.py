"""Log lines against those of the original, and the other ways of showing progress."""

from __future__ import annotations

import json
import logging
import struct
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from w2v.config.sections import CommonConfig
from w2v.errors import ConfigError, MissingPackageError
from w2v.training.metrics import Window, outlook, rounded
from w2v.training.progress import JsonProgress, Progress, SimpleProgress, TqdmProgress, build_progress, duration

VALUES = {"loss": 4.131, "num_updates": 40.0, "lr": 0.00025}


def test_lines_are_those_of_the_original(golden: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    compared = 0
    for path in sorted((golden / "checkpoints" / "logs").glob("*.log")):
        for line in path.read_text().splitlines():
            for tag in ("train_inner", "train", "valid"):
                _, marked, text = line.partition(f"| INFO | {tag} | ")
                if not marked or not text.startswith("{"):
                    continue
                values = {name: float(value) for name, value in json.loads(text).items() if isinstance(value, str)}
                given = json.loads(text)
                caplog.clear()
                if tag == "train_inner":
                    done = round((given["update"] - given["epoch"] + 1) * 1000)
                    JsonProgress().log_update(given["epoch"], done, 1000, rounded(values), {})
                else:
                    JsonProgress().log_summary(tag, given["epoch"], values)
                assert [(r.name, r.message) for r in caplog.records] == [(tag, text)]
                compared += 1
    assert compared > 0


def test_simple_lines(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    SimpleProgress().log_update(1, 40, 290, VALUES, {})
    SimpleProgress().log_summary("valid", 1, {"valid_loss": 4.0})
    assert [record.message for record in caplog.records] == [
        "epoch 001:     40 / 290 loss=4.131, num_updates=40, lr=0.00025",
        "epoch 001 | valid_loss 4",
    ]


def test_the_bar_shows_speed_time_and_error_rate(capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("tqdm")
    bar = TqdmProgress()
    bar.begin_epoch(2, 10, 3)
    bar.log_summary("dev", 2, {"dev_wer": 12.5, "dev_num_updates": 40})
    bar.log_update(2, 4, 10, VALUES, {"audio_s": 312.34, "eta": 3725.0})
    bar.advance()
    bar._bar.refresh()
    bar.close()
    text = capsys.readouterr().err
    for part in ("epoch 002", "loss=4.131", "audio=312s/s", "left=01:02:05", "valid_wer=12.5", "4/10"):
        assert part in text, part


def test_durations() -> None:
    assert [duration(s) for s in (5, 3725, 90_061)] == ["00:00:05", "01:02:05", "1d 01:01:01"]


def test_events_for_tensorboard(tmp_path: Path) -> None:
    pytest.importorskip("tensorboardX")
    common = CommonConfig(log_format="none", tensorboard_logdir=str(tmp_path))
    progress = build_progress(common, is_master=True)
    progress.log_update(1, 1, 2, VALUES, {})
    progress.log_summary("train", 1, {f"train_{name}": value for name, value in VALUES.items()})
    progress.log_summary("valid", 1, {"valid_loss": 1.0, "valid_num_updates": 40})
    progress.close()
    for tag in ("train_inner", "train", "valid"):
        (events,) = (tmp_path / tag).iterdir()
        assert b"loss" in events.read_bytes()


def test_a_missing_package_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorboardX", None)
    with pytest.raises(MissingPackageError, match=r"--tensorboard-logdir needs .*w2v\[tensorboard\]"):
        build_progress(CommonConfig(tensorboard_logdir=str(tmp_path)), is_master=True)


@pytest.mark.parametrize(
    ("options", "terminal", "expected"),
    [
        ({}, False, JsonProgress),
        ({}, True, TqdmProgress),
        ({"no_progress_bar": True}, True, SimpleProgress),
        ({"log_format": "tqdm"}, False, SimpleProgress),
        ({"log_format": "none"}, True, Progress),
    ],
)
def test_which_format(options: dict[str, Any], terminal: bool, expected: type, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: terminal)
    assert type(build_progress(CommonConfig(**options), is_master=True)) is expected
    assert type(build_progress(CommonConfig(**options), is_master=False)) is Progress


def test_what_a_killed_start_said_is_void_to_tensorboard(tmp_path: Path) -> None:
    """Events of updates after the checkpoint; a first start has none."""
    pytest.importorskip("tensorboardX")
    common = CommonConfig(log_format="none", tensorboard_logdir=str(tmp_path))
    for start, resumed, last in ((1, 0, 6), (2, 4, 6)):
        progress = build_progress(common, is_master=True)
        progress.begin_start(start, resumed)
        for update in range(resumed + 1, last + 1):
            progress.log_update(1, update, 10, {"loss": 3.0, "num_updates": update}, {})
        progress.close()
        time.sleep(1.1)  # files are named by the second
    assert events(tmp_path / "train_inner") == [*range(1, 7), "void from 5", 5, 6]


def events(folder: Path) -> list[Any]:
    """Return steps of losses and marks of new sessions, in the order of writing."""
    from tensorboardX.proto.event_pb2 import Event

    found: list[Any] = []
    for path in sorted(folder.glob("events*"), key=lambda path: path.stat().st_mtime_ns):
        blob, place = path.read_bytes(), 0
        while place < len(blob):
            (size,) = struct.unpack_from("<Q", blob, place)
            event = Event.FromString(blob[place + 12 : place + 12 + size])
            place += size + 16
            found += [event.step for value in event.summary.value if value.tag == "loss"]
            found += [f"void from {event.step}"] if event.HasField("session_log") else []
    return found


def test_json_lines_carry_the_number_of_the_start(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    progress = build_progress(CommonConfig(log_format="json"), is_master=True)
    progress.begin_start(3, 40)
    progress.log_update(1, 1, 10, {"loss": 3.0}, {})
    progress.log_summary("valid", 1, {"valid_loss": 3.0})
    assert [json.loads(message)["start"] for message in caplog.messages] == ["3", "3"]


class FakeTracker:
    """A package with wandb's interface, as far as it is used; it may refuse to begin, or to take numbers."""

    def __init__(self, *, fails_at: str = "") -> None:
        self.runs: list[dict[str, Any]] = []
        self.logged: list[tuple[int, dict[str, float]]] = []
        self.fails_at = fails_at
        self.finished = 0

    def init(self, **options: Any) -> FakeTracker:
        if self.fails_at == "init":
            raise RuntimeError("no API key\nconfigured")
        self.runs.append(options)
        return self

    def log(self, values: dict[str, float], step: int) -> None:
        if self.fails_at == "log":
            raise OSError("disk full")
        self.logged.append((step, values))

    def finish(self) -> None:
        self.finished += 1


def tracked(monkeypatch: pytest.MonkeyPatch, fake: FakeTracker, package: str = "wandb") -> Progress:
    monkeypatch.setitem(sys.modules, package, fake)  # type: ignore[arg-type]
    common = CommonConfig(log_format="json", wandb_project="speech", tracker=package)
    return build_progress(common, is_master=True, config={"checkpoint": {"save_dir": "runs/base"}, "common": {}})


@pytest.mark.parametrize("package", ["wandb", "trackio"])
def test_a_tracker_gets_what_the_log_gets(monkeypatch: pytest.MonkeyPatch, package: str) -> None:
    fake = FakeTracker()
    progress = tracked(monkeypatch, fake, package)
    assert not fake.runs  # a dry run begins no start
    progress.begin_start(2, 40)
    progress.log_update(1, 1, 2, VALUES, {"audio_s": 31.0, "eta": 60.0, "data_wait": 0.01})
    progress.log_summary("valid", 1, {"valid_loss": 1.0, "valid_num_updates": 40})
    progress.close()
    (run,) = fake.runs
    assert (run["project"], run["group"], run["name"]) == ("speech", "base", "base-start2")
    assert run["config"]["checkpoint"]["save_dir"] == "runs/base"
    extra = {"train_inner/audio_s": 31.0, "train_inner/eta": 60.0, "train_inner/data_wait": 0.01}
    assert fake.logged == [
        (40, {"train_inner/loss": 4.131, "train_inner/lr": 0.00025, **extra}),
        (40, {"valid/loss": 1.0}),
    ]
    assert fake.finished == 1


def test_a_tracker_that_fails_ends_no_training(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """It is refused at the start, and given up with one line later."""
    with pytest.raises(ConfigError, match=r"--wandb-project speech: wandb refuses: no API key configured; WANDB_MODE"):
        tracked(monkeypatch, FakeTracker(fails_at="init")).begin_start(1, 0)
    progress = tracked(monkeypatch, FakeTracker(fails_at="log"))
    progress.begin_start(1, 0)
    for _ in range(2):
        progress.log_update(1, 1, 2, VALUES, {})
    progress.close()
    assert [record.message for record in caplog.records if record.levelname == "WARNING"] == [
        "wandb takes no more numbers, training continues without it: disk full"
    ]
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(MissingPackageError, match=r"--wandb-project needs .*w2v\[wandb\]"):
        build_progress(CommonConfig(wandb_project="speech"), is_master=True)


def test_speed_time_left_and_wait_are_in_json_lines(caplog: pytest.LogCaptureFixture) -> None:
    """40 seconds, 8 of them waiting, for 4 updates of 100 s of audio; 6 updates are left."""
    caplog.set_level(logging.INFO)
    window = Window({}, {"seconds": 40.0, "updates": 4.0, "tokens": 6.4e6, "data_wait": 8.0})
    extra = outlook(window, updates_left=6, sample_rate=16000)
    assert extra == {"audio_s": 10.0, "eta": 60, "data_wait": 0.2}
    build_progress(CommonConfig(log_format="json"), is_master=True).log_update(1, 1, 10, {"loss": 3.0}, extra)
    line = json.loads(caplog.messages[-1])
    assert (line["audio_s"], line["eta"], line["data_wait"]) == ("10", "60", "0.2")
    assert outlook(window, updates_left=None, sample_rate=None) == {"data_wait": 0.2}
