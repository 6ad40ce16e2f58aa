"""`w2v-segment`: cut long recordings at pauses into clips for training, as stretches of the files or as files.

Recordings are read block by block, so that a day of audio needs no more memory than a minute. What has been cut is
noted down recording by recording: the same command continues a run that was stopped.
"""

from __future__ import annotations

import json
import math
import os
import random
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import as_completed
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from w2v.config import ArgumentParser, arg, build_config, check_range, str_tuple
from w2v.data.audio import audio_blocks, audio_info, read_audio
from w2v.data.audio_files import list_audio
from w2v.data.audio_time import audio_time
from w2v.data.cuts import ClipLimits, plan_clips
from w2v.data.flac_file import write_flac
from w2v.data.level_detector import LevelDetector
from w2v.data.manifest import is_listable, stretch_name, write_manifest
from w2v.data.silero import SileroModel
from w2v.data.speech_segments import SpeechModel, SpeechRule, SpeechSegmenter
from w2v.errors import ConfigError, DataError
from w2v.files import make_folder, write_atomically
from w2v_cli.file_pool import file_pool
from w2v_cli.main import run

PROGRAM = "w2v-segment"
RECORD = ".w2v-segment.scan"  # in --dest: what has been cut so far
DETECTION_RATE = 16000
LEVEL_WINDOW = 512  # samples at that rate: 32 ms
DETECTORS = ("level", "silero")
BIN = 5  # seconds of the histogram
LONG_PAUSE, TOO_SHORT, NO_SPEECH = "long pauses", "clips that are too short", "recordings without speech"


@dataclass(frozen=True)
class SegmentConfig:
    """Which recordings are cut, how, and where clips go."""

    root: str = arg(help="folder with recordings, searched with all its folders", positional=True)
    dest: str = arg(help="folder to write train.tsv, valid.tsv and rejects.tsv to; made where it is missing")
    valid_percent: float = arg(0.01, help="share of clips that go to valid.tsv, from 0 to 1 (a fraction)")
    ext: tuple[str, ...] | None = arg(
        None,
        help="endings to look for, separated by commas, in any case (default: all kinds of audio)",
        parse=str_tuple,
    )
    vad: str = arg(
        "level",
        help="level: louder than the quiet of the last 10 s; silero: silero-vad, knows speech",
        choices=DETECTORS,
    )
    min_seconds: float = arg(10.0, help="clips aim at this length at least")
    max_seconds: float = arg(30.0, help="no clip is longer")
    least_seconds: float = arg(2.0, help="drop what is shorter than this between two long pauses")
    max_pause: float = arg(2.0, help="a longer pause, in seconds, is never part of a clip")
    sample_rate: int = arg(16000, help="rate of training, in Hz, at which lengths are counted")
    resample: bool = arg(
        False, help="take other rates and several channels; train with --resample (not needed with --write-files)"
    )
    channel: int | None = arg(None, help="take this channel alone, from 1; train with the same --channel")
    write_files: bool = arg(False, help="write each clip as a FLAC file of its own below --dest, instead of offsets")
    seed: int = arg(42, help="seed of the split")
    jobs: int | None = arg(None, help="recordings cut at once (default: one per core)")

    def __post_init__(self) -> None:
        check_range(self, 0, 1, "valid_percent")
        check_range(self, 1, math.inf, "sample_rate", "jobs", "channel")
        check_range(self, 0, math.inf, "least_seconds", "max_pause")
        if not 0 < self.min_seconds <= self.max_seconds:
            raise ConfigError(
                f"--min-seconds must be above 0 and at most --max-seconds, got {self.min_seconds}, {self.max_seconds}"
            )

    @property
    def limits(self) -> ClipLimits:
        """Lengths in samples of the detector."""
        seconds = (self.min_seconds, self.max_seconds, self.least_seconds, self.max_pause, 0.1)
        return ClipLimits(*(round(value * DETECTION_RATE) for value in seconds))

    @property
    def takes_any_format(self) -> bool:
        """Whether rates and channels are brought to what training needs."""
        return self.resample or self.write_files


@dataclass
class Cut:
    """What became of one recording.

    Attributes:
        path: relative to the root.
        seconds: its length.
        rows: name in the manifest and samples at `--sample-rate`, of each clip.
        dropped: reason -> seconds.
        reason: why it cannot be used; empty where it can.
        stamp: when the file was changed last, in seconds.
    """

    path: str
    seconds: float = 0.0
    rows: list[tuple[str, int]] = field(default_factory=list)
    dropped: dict[str, float] = field(default_factory=dict)
    reason: str = ""
    stamp: float = 0.0


def main(argv: Sequence[str] | None = None) -> int:
    """Run `w2v-segment`."""
    return run(lambda: segment(_parse(argv)))


def _parse(argv: Sequence[str] | None) -> SegmentConfig:
    parser = ArgumentParser(prog=PROGRAM, description="Cut long recordings at pauses into clips for training.")
    parser.add_config(SegmentConfig, "options")
    return build_config(SegmentConfig, parser.parse(sys.argv[1:] if argv is None else argv), PROGRAM)


def segment(config: SegmentConfig) -> int:
    """Cut all recordings, write manifests, and report.

    Raises:
        DataError: there is nothing to cut, or nothing can be written.
    """
    root = os.path.realpath(config.root)
    if not os.path.isdir(root):
        if os.path.exists(root):
            raise DataError(f"{config.root} is not a folder; give the folder that holds the recordings")
        raise DataError(f"no folder {config.root}")
    listing = list_audio(root, config.ext)
    files = sorted(os.path.relpath(path, root) for path in listing.files)
    if not files:
        raise DataError(f"no audio files below {config.root}; {'; '.join(listing.report()) or 'it is empty'}")
    dest = Path(config.dest)
    make_folder(dest, "--dest")
    if config.vad == "silero":
        SileroModel()  # a missing package is said here, once
    record = CutRecord(dest / RECORD, f"{root!r} {_what_matters(config)}")
    cuts = _cut_all(config, root, files, record)
    _write_lists(config, root, cuts)
    record.remove()
    print("\n".join([*_report(config, cuts), *listing.report()]), flush=True)
    return 0


def _what_matters(config: SegmentConfig) -> dict[str, Any]:
    """Return the options on which cuts depend."""
    return {
        name: value for name, value in asdict(config).items() if name not in ("root", "jobs", "seed", "valid_percent")
    }


# ---------------------------------------------------------------------------------------------- one recording


def cut_recording(config: SegmentConfig, root: str, path: str) -> Cut:
    """Cut one recording; never raises for what is wrong with the file."""
    if not is_listable(path):
        return Cut(path, reason="its name holds a tab or a line break")
    full = os.path.join(root, path)
    try:
        info = audio_info(full)
        clips, total, dropped = _find_clips(config, full)
        cut = Cut(path, total / DETECTION_RATE, dropped=dropped)
        cut.rows = _write_clips(config, full, path, clips) if config.write_files else []
        for start, end in clips if not config.write_files else ():
            # Offsets and frames count in samples of the file, lengths in samples of training.
            first, last = (place * info.sample_rate // DETECTION_RATE for place in (start, end))
            samples = (last - first) * config.sample_rate // info.sample_rate
            cut.rows.append((stretch_name(path, first, last - first), samples))
    except DataError as e:
        return Cut(path, reason=" ".join(str(e).removeprefix(f"{full}: ").split()))
    return cut


def _find_clips(config: SegmentConfig, full: str) -> tuple[list[tuple[int, int]], int, dict[str, float]]:
    """Return clips in samples at 16 kHz, the length of the recording, and seconds dropped by reason."""
    model: SpeechModel = SileroModel() if config.vad == "silero" else LevelDetector()
    # A level says less than a model: shorter pauses within a word are no ends.
    rule = SpeechRule(min_silence=0.3 if config.vad == "level" else 0.1, pad=0.0)
    segmenter = SpeechSegmenter(rule, model.window, model.sample_rate)
    speech: list[tuple[int, int]] = []
    levels: list[npt.NDArray[np.float32]] = []
    total, rest = 0, np.zeros(0, np.float32)
    blocks = audio_blocks(full, DETECTION_RATE, resample=config.takes_any_format, channel=config.channel)
    for block in blocks:
        speech += segmenter.push(model.push(block))
        total += len(block)
        rest = np.concatenate([rest, block])
        whole = len(rest) // LEVEL_WINDOW * LEVEL_WINDOW
        levels.append(np.square(rest[:whole]).reshape(-1, LEVEL_WINDOW).mean(axis=1))
        rest = rest[whole:]
    speech += [*segmenter.push(model.finish()), *segmenter.finish(total)]
    clips = plan_clips(speech, total, config.limits, _Quietest(np.concatenate(levels or [np.zeros(0, np.float32)])))
    kept = [(start, end) for start, end in clips if end - start >= config.limits.least]
    short = sum(end - start for start, end in clips) - sum(end - start for start, end in kept)
    pauses = total - sum(end - start for start, end in clips)
    reasons = {LONG_PAUSE if clips else NO_SPEECH: pauses, TOO_SHORT: short}
    return kept, total, {reason: count / DETECTION_RATE for reason, count in reasons.items() if count}


class _Quietest:
    """Finds the quietest place between two samples, from the levels of windows."""

    def __init__(self, levels: npt.NDArray[np.float32]) -> None:
        # Three windows, 96 ms: a pause rather than the closure of a consonant.
        self._levels = np.convolve(levels, np.ones(3) / 3, mode="same") if len(levels) else levels

    def __call__(self, start: int, end: int) -> int:
        first, last = start // LEVEL_WINDOW, max(end // LEVEL_WINDOW, start // LEVEL_WINDOW + 1)
        part = self._levels[first:last]
        return (first + int(part.argmin())) * LEVEL_WINDOW + LEVEL_WINDOW // 2 if len(part) else (start + end) // 2


def _write_clips(config: SegmentConfig, full: str, path: str, clips: list[tuple[int, int]]) -> list[tuple[str, int]]:
    info = audio_info(full)
    rows = []
    for number, (start, end) in enumerate(clips):
        first, last = (place * info.sample_rate // DETECTION_RATE for place in (start, end))
        samples = read_audio(
            full, config.sample_rate, resample=True, channel=config.channel, start=first, frames=last - first
        )
        name = f"{path}/{number:05d}.flac"
        target = Path(config.dest) / "clips" / name
        try:
            write_flac(target, samples.clip(-1, 1), config.sample_rate)
        except OSError as e:  # no fault of the recording, so no reason to reject it
            raise ConfigError(f"--dest: cannot write {target}: {e.strerror or e}") from e
        rows.append((name, len(samples)))
    return rows


# ---------------------------------------------------------------------------------------------- all recordings


class CutRecord:
    """What has been cut so far, a JSON line per recording; made with other options, it is begun anew.

    Raises:
        DataError: the file cannot be written.
    """

    def __init__(self, path: Path, key: str) -> None:
        self._path = path
        self.known: dict[str, Cut] = {}
        head = json.dumps(key) + "\n"
        try:
            lines = path.read_text(errors="surrogateescape").splitlines(keepends=True) if path.exists() else []
            if lines[:1] == [head]:
                self._read(lines[1:])
            write_atomically(path, head.encode())
            self._file = open(path, "a", errors="surrogateescape")  # noqa: SIM115 (closed by `remove`)
        except OSError as e:
            raise DataError(f"cannot write {path}: {e.strerror or e}") from e

    def add(self, cut: Cut) -> None:
        """Note down a recording; one that could not be used is looked at again."""
        if not cut.reason:
            self._file.write(json.dumps(asdict(cut)) + "\n")
            self._file.flush()

    def remove(self) -> None:
        """Remove the file: all is cut."""
        self._file.close()
        self._path.unlink(missing_ok=True)

    def _read(self, lines: list[str]) -> None:
        for line in lines:
            try:
                cut = Cut(**json.loads(line))
                cut.rows = [(name, samples) for name, samples in cut.rows]
            except (ValueError, TypeError):
                continue  # the last line may be torn
            self.known[cut.path] = cut


def _cut_all(config: SegmentConfig, root: str, files: list[str], record: CutRecord) -> list[Cut]:
    """Return what became of each recording, in the order of the files, with a bar on a terminal."""
    from tqdm import tqdm

    known = {path: cut for path, cut in record.known.items() if cut.stamp == _stamp(root, path)}
    done = {path: known[path] for path in files if path in known}
    if done:
        print(f"{PROGRAM}: continuing after {len(done)} of {len(files)} recordings", file=sys.stderr)
    for cut in done.values():
        record.add(cut)
    rest = [path for path in files if path not in done]
    # disable=None: no bar where stderr is not a terminal.
    bar: Any = tqdm(total=len(files), initial=len(done), unit=" recordings", disable=None, leave=False)
    with bar:
        for cut in _cuts(config, root, rest):
            cut.stamp = _stamp(root, cut.path)
            done[cut.path] = cut
            record.add(cut)
            bar.update()
    return [done[path] for path in files]


def _stamp(root: str, path: str) -> float:
    try:
        return os.stat(os.path.join(root, path)).st_mtime
    except OSError:
        return -1.0


def _cuts(config: SegmentConfig, root: str, files: list[str]) -> Iterator[Cut]:
    """Yield recordings as they are done; the largest files begin, so that no core waits for a long one at the end."""
    jobs = min(config.jobs or os.cpu_count() or 1, len(files))
    if jobs <= 1:
        yield from (cut_recording(config, root, path) for path in files)
        return
    by_size = sorted(files, key=lambda path: -_size(os.path.join(root, path)))
    with file_pool(jobs, "recordings") as pool:
        futures = [pool.submit(cut_recording, config, root, path) for path in by_size]
        for future in as_completed(futures):
            yield future.result()


def _size(path: str) -> int:
    try:
        return os.path.getsize(path)
    except OSError:
        return 0


# ---------------------------------------------------------------------------------------------- results


def _write_lists(config: SegmentConfig, root: str, cuts: list[Cut]) -> None:
    dest = Path(config.dest)
    rejects = [f"{cut.path}\t{cut.reason}\n" for cut in cuts if cut.reason]
    write_atomically(dest / "rejects.tsv", os.fsencode("".join(rejects)))
    rows = [row for cut in cuts for row in cut.rows]
    if not rows:
        first = f"; the first reason in {dest / 'rejects.tsv'}: {rejects[0].rstrip()}" if rejects else ""
        raise DataError(f"no clips: {_dropped(cuts)}{first}")
    is_valid = draw_split(len(rows), config.valid_percent, config.seed)
    folder = str(dest.resolve() / "clips") if config.write_files else root
    for split, wanted in (("train", False), ("valid", True)):
        chosen = [row for row, valid in zip(rows, is_valid, strict=True) if valid == wanted]
        write_manifest(dest / f"{split}.tsv", folder, [name for name, _ in chosen], [samples for _, samples in chosen])


def draw_split(count: int, valid_percent: float, seed: int) -> list[bool]:
    """Return which of `count` clips go to valid.tsv: one draw each, and at least one where there are several."""
    generator = random.Random(seed)
    draws = [generator.random() for _ in range(count)]
    # As in `w2v-manifest`, which splits as the original does.
    is_valid = [draw <= valid_percent for draw in draws]
    if valid_percent > 0 and count > 1 and not any(is_valid):
        is_valid[draws.index(min(draws))] = True
    return is_valid


def _dropped(cuts: list[Cut]) -> str:
    dropped: Counter[str] = Counter()
    for cut in cuts:
        dropped.update(cut.dropped)
    return "; ".join(f"{audio_time(seconds)} of {reason}" for reason, seconds in dropped.most_common()) or "none"


def _report(config: SegmentConfig, cuts: list[Cut]) -> list[str]:
    used = [cut for cut in cuts if not cut.reason]
    lengths = [samples / config.sample_rate for cut in cuts for _, samples in cut.rows]
    total = sum(cut.seconds for cut in used)
    lines = [
        f"{len(used)} recordings, {audio_time(total)}; rejects.tsv: {len(cuts) - len(used)} files",
        f"kept {audio_time(sum(lengths))} ({100 * sum(lengths) / max(total, 1e-9):.0f} %) in {len(lengths)} clips",
        f"dropped: {_dropped(cuts)}",
        "lengths of clips:",
    ]
    bins = Counter(int(length // BIN) for length in lengths)
    most = max(bins.values())
    for number in range(max(bins) + 1):
        bar = "#" * math.ceil(40 * bins[number] / most)
        lines.append(f"  {number * BIN:>3} to {(number + 1) * BIN:>3} s {bins[number]:>8}  {bar}".rstrip())
    return lines


if __name__ == "__main__":
    sys.exit(main())
