"""The curves of a run, read back from what it left: its log, its TensorBoard events, or its checkpoints.

Read this when numbers of several runs, or of one run with several starts, are to be compared.

A run that was stopped and resumed does some updates twice. Here a series is joined by update: a later start replaces
what an earlier one logged from the same update on, so that every update counts once.
"""

from __future__ import annotations

import csv
import json
import struct
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from w2v.checkpoint.file import load_checkpoint
from w2v.config import build_config
from w2v.criterions import CRITERIONS
from w2v.errors import CheckpointError, DataError, MissingPackageError, W2vError
from w2v.tasks.sources import source_values
from w2v.training.metrics import Window

TRAIN = "train"
LOG_ENDINGS = (".log", ".txt", ".out", ".json", ".jsonl")
EVENT_FILES = "events.out.tfevents.*"
REFERENCES = Path(__file__).with_name("reference_curves")

_RECORD_HEAD = struct.Struct("<QI")  # length, checksum of the length
_CHECKSUM = 4


class Point(NamedTuple):
    """One value of one curve.

    Attributes:
        run: name of the run.
        data: `train` for averages over updates, else the validation subset.
        quantity: name of the value in the log (`loss`, `wer`, ...).
        update: number of updates done.
        value: may be nan or infinite: that is what happened.
    """

    run: str
    data: str
    quantity: str
    update: int
    value: float


def read_run(path: str | Path, name: str | None = None) -> list[Point]:
    """Read the curves of a run.

    Args:
        path: a log of `--log-format json` (ours or the original's), a file of TensorBoard events, a table written by
            `write_points`, a checkpoint, or a folder. In a folder, logs come before events, and events before
            checkpoints: the first kind that holds values is taken.
        name: what the run is called; None: the name of the file or folder.

    Raises:
        DataError: nothing is there, or nothing in it holds values of a run.
    """
    path = Path(path)
    name = name or (path.stem if path.is_file() else path.resolve().name)
    if path.is_file():
        points = _read_file(path, name)
    elif path.is_dir():
        points = _read_folder(path, name)
    else:
        raise DataError(f"no run {path}: neither a file nor a folder")
    if not points:
        raise DataError(
            f"{path}: holds no curves: no lines of --log-format json, no TensorBoard events, no checkpoint of w2v-train"
        )
    return points


def reference_names() -> list[str]:
    """Return the names of the curves that come with this package: those of the recipes in `examples/`."""
    return sorted(path.stem for path in REFERENCES.glob("*.csv"))


def read_reference(name: str) -> list[Point]:
    """Read a shipped curve.

    Raises:
        DataError: there is none of that name.
    """
    if name not in reference_names():
        raise DataError(f"no reference curve {name!r}; there are {', '.join(reference_names())}")
    return read_run(REFERENCES / f"{name}.csv", name)


def write_points(path: Path, points: Iterable[Point]) -> None:
    """Write points as a table of comma-separated values, one line each."""
    with open(path, "w", encoding="utf-8", newline="", errors="replace") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(Point._fields)
        writer.writerows(points)


def join_starts(points: Iterable[Point]) -> list[Point]:
    """Join what several starts of a run logged: a point replaces all earlier ones of its series from its update on.

    Args:
        points: in the order in which they were logged.
    """
    series: dict[tuple[str, str, str], list[Point]] = {}
    for point in points:
        kept = series.setdefault(point[:3], [])
        while kept and kept[-1].update >= point.update:
            kept.pop()
        kept.append(point)
    return [point for kept in series.values() for point in kept]


def _read_file(path: Path, name: str) -> list[Point]:
    if ".tfevents." in path.name:
        return join_starts(_read_events([path], name))
    if path.suffix == ".csv":
        return list(_read_table(path, name))
    with open(path, "rb") as file:
        is_checkpoint = file.read(4).startswith((b"PK\x03\x04", b"\x80"))
    return _read_checkpoints([path], name) if is_checkpoint else join_starts(_in_order(_read_log(path, name)))


def _read_folder(folder: Path, name: str) -> list[Point]:
    logs = [path for path in folder.iterdir() if path.is_file() and path.suffix in LOG_ENDINGS]
    points = join_starts(_in_order(line for path in sorted(logs, key=_age) for line in _read_log(path, name)))
    if not points:
        points = join_starts(_read_events(sorted(folder.rglob(EVENT_FILES)), name))
    return points or _read_checkpoints(sorted(folder.glob("checkpoint*.pt")), name)


def _age(path: Path) -> tuple[float, str]:
    return path.stat().st_mtime, path.name


def _in_order(numbered: Iterable[tuple[int, Point]]) -> list[Point]:
    """Return points by the number of the start that logged them, whatever the files' times say."""
    return [point for _, point in sorted(numbered, key=lambda item: item[0])]  # stable: lines keep their order


def _read_log(path: Path, name: str) -> Iterator[tuple[int, Point]]:
    """Yield the values of `date | INFO | tag | {...}` lines, with the number of their start (0: there is none).

    A line that a kill cut short is passed over.
    """
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            for line in file:
                head, found, text = line.rstrip().rpartition(" | {")
                if not found:
                    continue
                try:
                    values = json.loads("{" + text)
                except json.JSONDecodeError:
                    continue
                start = int(_number(values.pop("start", 0)) or 0)
                for point in _logged(name, head.rpartition(" | ")[2], values):
                    yield start, point
    except OSError as e:
        raise DataError(f"cannot read the log {path}: {e.strerror or e}") from e


def _logged(name: str, tag: str, values: Mapping[str, Any]) -> Iterator[Point]:
    """Yield the points of one line of the log; `train`, the average of an epoch, is left to `train_inner`."""
    prefix = "" if tag == "train_inner" else f"{tag}_"
    update = _number(values.get(f"{prefix}num_updates"))
    if update is None or tag == TRAIN:
        return
    data = TRAIN if tag == "train_inner" else tag
    for key, text in values.items():
        value = _number(text)
        known = key.startswith(prefix) and key not in ("epoch", "update", f"{prefix}num_updates")
        if known and value is not None:
            yield Point(name, data, key.removeprefix(prefix), int(update), value)


def _number(text: Any) -> float | None:
    try:
        return float(text)
    except (TypeError, ValueError):
        return None


def _read_table(path: Path, name: str) -> Iterator[Point]:
    try:
        with open(path, encoding="utf-8", newline="") as file:
            for number, row in enumerate(csv.DictReader(file), 2):
                try:
                    place = int(row["update"])
                    yield Point(row.get("run") or name, row["data"], row["quantity"], place, float(row["value"]))
                except (KeyError, TypeError, ValueError) as e:
                    raise DataError(f"{path}:{number}: must hold run,data,quantity,update,value") from e
    except (OSError, UnicodeDecodeError, csv.Error) as e:
        raise DataError(f"cannot read the table {path}: {' '.join(str(e).split())}") from e


def _read_events(paths: Iterable[Path], name: str) -> Iterator[Point]:
    """Yield the scalars of event files in the order of their times; their folder is the tag of the log."""
    found: list[tuple[float, Point]] = []
    for path in paths:
        data = path.parent.name
        if data == TRAIN:
            continue  # averages of epochs
        data = TRAIN if data == "train_inner" else data
        for event in _events(path):
            for value in event.summary.value:
                if value.HasField("simple_value"):
                    point = Point(name, data, value.tag, int(event.step), float(value.simple_value))
                    found.append((float(event.wall_time), point))
    found.sort(key=lambda item: item[0])  # stable: equal times keep the order of the file
    return (point for _, point in found)


def _events(path: Path) -> Iterator[Any]:
    """Yield the records of a TensorBoard file; what a kill left half written at the end is passed over."""
    try:
        from tensorboardX.proto.event_pb2 import Event
    except ImportError as e:
        raise MissingPackageError("tensorboardX", "tensorboard", f"reading {path}") from e
    from google.protobuf.message import DecodeError

    try:
        size = path.stat().st_size
        with open(path, "rb") as file:
            while len(head := file.read(_RECORD_HEAD.size)) == _RECORD_HEAD.size:
                length, _ = _RECORD_HEAD.unpack(head)
                if file.tell() + length + _CHECKSUM > size:
                    return
                data = file.read(length)
                file.seek(_CHECKSUM, 1)
                try:
                    yield Event.FromString(data)
                except DecodeError as e:
                    raise DataError(f"{path}: holds something else than TensorBoard events") from e
    except OSError as e:
        raise DataError(f"cannot read the events {path}: {e.strerror or e}") from e


def _read_checkpoints(paths: Iterable[Path], name: str) -> list[Point]:
    """Return what checkpoints of one run tell: they hold running totals, whose differences are averages in between.

    Coarse, and better than nothing: one point per checkpoint, at its update, over the updates since the one before.
    """
    found: dict[int, tuple[Window, dict[str, Any]]] = {}
    for path in paths:
        try:
            state = load_checkpoint(path)
            now = state["metrics"]["now"]
            update = int(state["trainer"]["num_updates"])
        except (CheckpointError, KeyError, TypeError):
            continue  # of another program, or without a state of training
        found[update] = (Window(dict(now["sums"]), dict(now["steps"])), state["config"])
    points: list[Point] = []
    before = Window({}, {})
    for update, (now_window, config) in sorted(found.items()):
        points += _averages(name, update, before.since(now_window), config)
        before = now_window
    return points


def _averages(name: str, update: int, window: Window, config: Mapping[str, Any]) -> Iterator[Point]:
    sums, steps = window.sums, window.steps
    if not steps.get("updates"):
        return
    try:
        section = config["criterion"]
        entry = CRITERIONS.get(section["_name"])
        criterion = entry.cls(build_config(entry.config, {**entry.overrides, **section}, "section criterion"))
    except (W2vError, KeyError, TypeError):
        return  # the criterion of a plugin that is not loaded
    loss = {"loss": steps.get("loss", 0.0), "sample_size": steps.get("sample_size", 0.0)}
    values = {**criterion.summarize({**loss, **sums}), **source_values(sums), "gnorm": window.average("gnorm")}
    for quantity, value in values.items():
        if quantity not in ("ntokens", "nsentences"):
            yield Point(name, TRAIN, quantity, update, float(value))
