"""Curves read back: equal from log, events and checkpoints; starts joined by update; NaN kept."""

from __future__ import annotations

import math
import os
from pathlib import Path

import pytest
from toy_speech import call, prepare, pretraining

from w2v.errors import DataError
from w2v.training.curves import Point, join_starts, read_reference, read_run, reference_names, write_points
from w2v_cli import train


def series(points: list[Point], data: str, quantity: str) -> dict[int, float]:
    return {point.update: point.value for point in points if (point.data, point.quantity) == (data, quantity)}


def line(tag: str, update: int, **values: float | str) -> str:
    prefix = "" if tag == "train_inner" else f"{tag}_"
    inside = ", ".join(f'"{prefix}{name}": "{value}"' for name, value in {**values, "num_updates": update}.items())
    return f'2026-01-01 00:00:00 | INFO | {tag} | {{"epoch": 1, "update": 0.5, {inside}}}\n'


def test_starts_are_joined_by_update(tmp_path: Path) -> None:
    # Killed after update 300, begun again from the checkpoint at 150: 200 and 300 were done twice.
    log = tmp_path / "train.log"
    first = [line("train_inner", update, loss=update) for update in (100, 200, 300)]
    second = [line("train_inner", update, loss=-update) for update in (200, 300, 400)]
    log.write_text("".join([*first[:2], line("valid", 200, wer=50), *first[2:], *second]), encoding="utf-8")
    points = read_run(log)
    assert series(points, "train", "loss") == {100: 100, 200: -200, 300: -300, 400: -400}
    assert series(points, "valid", "wer") == {200: 50}


def test_a_later_start_with_other_intervals_replaces_all_from_its_first_update_on() -> None:
    points = [Point("r", "train", "loss", update, 1.0) for update in (100, 200, 300, 400, 250, 350)]
    assert [point.update for point in join_starts(points)] == [100, 200, 250, 350]


def test_numbers_of_starts_decide_and_not_the_times_of_files(tmp_path: Path) -> None:
    """As after a copy of the logs; and the number of a start is no curve."""
    for start, updates in ((1, (100, 200, 300)), (2, (200, 250))):
        lines = [line("train_inner", update, loss=10 * start + update, start=start) for update in updates]
        (tmp_path / f"{9 - start}.log").write_text("".join(lines), encoding="utf-8")
        os.utime(tmp_path / f"{9 - start}.log", (1000 - start, 1000 - start))
    points = read_run(tmp_path)
    assert series(points, "train", "loss") == {100: 110, 200: 220, 250: 270}
    assert {point.quantity for point in points} == {"loss"}


def test_values_that_are_not_finite_are_kept_and_broken_lines_passed_over(tmp_path: Path) -> None:
    log = tmp_path / "run.log"
    cut = line("train_inner", 40, loss=1)[:-9]
    log.write_text(
        line("train_inner", 10, loss=5) + line("train_inner", 20, loss="nan") + "anything else\n"
        + line("train_inner", 30, loss="inf") + line("train", 30, loss=9) + cut,
        encoding="utf-8",
    )  # fmt: skip
    found = series(read_run(log), "train", "loss")
    assert list(found) == [10, 20, 30]
    assert math.isnan(found[20])
    assert found[30] == math.inf


def test_a_table_is_read_as_it_was_written(tmp_path: Path) -> None:
    points = [Point("a", "train", "loss", 10, 0.5), Point("a", "valid", "wer", 20, math.inf)]
    write_points(tmp_path / "t.csv", points)
    assert read_run(tmp_path / "t.csv") == points


@pytest.mark.parametrize("content", ["", "no log\n", "\x00\x01\x02"])
def test_what_holds_no_curves_is_refused_in_one_line(tmp_path: Path, content: str) -> None:
    path = tmp_path / "train.log"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(DataError, match="holds no curves"):
        read_run(path)
    with pytest.raises(DataError, match="no run"):
        read_run(tmp_path / "absent")
    with pytest.raises(DataError, match="no reference curve 'x'; there are digits_20min"):
        read_reference("x")


def test_reference_curves_fall(tmp_path: Path) -> None:
    for name in reference_names():
        loss = series(read_reference(name), "train", "loss")
        values = list(loss.values())
        assert list(loss) == sorted(loss)
        assert min(values[-5:]) < 0.9 * values[0]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with a log, TensorBoard events and a checkpoint every three updates."""
    pytest.importorskip("soundfile")
    folder = tmp_path_factory.mktemp("run")
    data = prepare(folder, 12)
    command = pretraining(data, folder / "save", "--max-update", 6, "--log-interval", 1, "--max-tokens", 30000,
                          "--save-interval-updates", 3, "--validate-interval-updates", 3,
                          "--tensorboard-logdir", folder / "events")  # fmt: skip
    done = call(train.main, command)
    assert done.code == 0, done.err
    (folder / "save" / "train.log").write_text(done.out, encoding="utf-8")
    return folder


def test_log_and_events_tell_the_same(run: Path) -> None:
    pytest.importorskip("tensorboardX")
    log, events = read_run(run / "save"), read_run(run / "events")
    for data, quantity in (("train", "loss"), ("train", "code_perplexity"), ("valid", "loss"), ("valid", "accuracy")):
        expected = series(log, data, quantity)
        assert len(expected) >= 2
        found = series(events, data, quantity)
        assert list(found) == list(expected)
        assert list(found.values()) == pytest.approx(list(expected.values()), rel=1e-5)


def test_checkpoints_tell_averages_of_the_updates_in_between(run: Path, tmp_path: Path) -> None:
    for path in (run / "save").glob("checkpoint*.pt"):
        (tmp_path / path.name).symlink_to(path)
    found = series(read_run(tmp_path), "train", "loss")
    logged = series(read_run(run / "save" / "train.log"), "train", "loss")
    sizes = series(read_run(run / "save" / "train.log"), "train", "ntokens")
    assert {3, 6} <= set(found)
    for first, last in zip([0, *found], found):
        updates = range(first + 1, last + 1)
        tokens = [sizes[update] for update in updates]
        mean = sum(logged[update] * size for update, size in zip(updates, tokens)) / sum(tokens)
        assert found[last] == pytest.approx(mean, abs=2e-3)  # the log is rounded to three digits


def test_an_event_file_that_a_kill_cut_short_gives_what_it_holds(run: Path, tmp_path: Path) -> None:
    pytest.importorskip("tensorboardX")
    (whole,) = (run / "events" / "train_inner").glob("events.out.tfevents.*")
    folder = tmp_path / "train_inner"
    folder.mkdir()
    content = whole.read_bytes()
    (folder / whole.name).write_bytes(content[: len(content) - 5])
    found, expected = (series(read_run(path), "train", "loss") for path in (tmp_path, run / "events"))
    assert expected.items() >= found.items()
    assert len(found) >= 4
