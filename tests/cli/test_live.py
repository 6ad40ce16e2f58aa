"""`w2v-live` from its sources to events, text and files. Numbers P23 to P31 are the requirements that it is held to."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
import soundfile
from toy_speech import Outcome, call

import w2v
from w2v.data.audio_queue import AudioQueue
from w2v.errors import ConfigError, DataError
from w2v.inference.live import LiveEvent
from w2v.inference.result import ENDINGS
from w2v_cli import live, live_sources, transcribe
from w2v_cli.live_output import Figures, TextLines
from w2v_cli.live_sources import BLOCK, Source, paced

RATE = 16000
ON_CPU = ("--cpu", "--vad", "level")


@pytest.fixture(scope="module")
def model(golden: Path) -> Path:
    """A folder of Hugging Face with a random model."""
    return golden / "people/hf_stitch/layer"


@pytest.fixture(scope="module")
def speech(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Under six seconds: two clips of digits with silence around them, as 16-bit WAV."""
    clips = [data / "digits_valid_seen" / name for name in _names(data)[:2]]
    parts = [np.zeros(RATE // 2, np.float32)]
    for clip in clips:
        parts += [soundfile.read(clip, dtype="float32")[0][: 2 * RATE], np.zeros(RATE * 2 // 3, np.float32)]
    path = tmp_path_factory.mktemp("live") / "digits.wav"
    soundfile.write(path, np.concatenate(parts), RATE, subtype="PCM_16")
    return path


def _names(data: Path) -> list[str]:
    lines = (data / "digits_valid_seen/transcripts.tsv").read_text(encoding="utf-8").splitlines()
    return [line.split("\t")[0] for line in lines[1:]]


def run(model: Path, *arguments: object) -> Outcome:
    return call(live.main, [model, *arguments, *ON_CPU])


def events_of(done: Outcome) -> list[dict[str, Any]]:
    """Return the events of a run without what the clock tells."""
    return [{k: v for k, v in json.loads(line).items() if k != "latency"} for line in done.out.splitlines()]


class Pipe(io.RawIOBase):
    """Standard input that comes in pieces of the sizes in turn."""

    def __init__(self, content: bytes, sizes: tuple[int, ...]) -> None:
        self._stream, self._sizes, self._turn = io.BytesIO(content), sizes, 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        self._turn += 1
        part = self._stream.read(min(len(buffer), self._sizes[self._turn % len(self._sizes)]))
        buffer[: len(part)] = part
        return len(part)


def test_a_file_and_pipes_of_any_blocks_give_the_same_events(model, speech, monkeypatch):
    """P23, P25: a file, at two paces; a WAV file and raw samples from standard input, in odd numbers of bytes."""
    expected = events_of(run(model, speech, "--json"))
    assert [event["event"] for event in expected].count("final") >= 2
    assert {event["event"] for event in expected} == {"speech_start", "partial", "final", "end"}
    assert all(list(event) == list(expected[0]) for event in expected)
    samples = soundfile.read(speech, dtype="int16")[0].astype("<i2").tobytes()
    pipes = [
        (speech.read_bytes(), (3, 4001, 12), ()),
        (samples, (1, 7, 32003), ("--pcm", "s16le:16000:1")),
        (samples, (64000,), ("--pcm", "s16le:16000")),
    ]
    for content, sizes, flags in pipes:
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BufferedReader(Pipe(content, sizes), 1)))
        assert events_of(run(model, "-", "--json", *flags)) == expected
    assert events_of(run(model, speech, "--json", "--realtime")) == expected


def test_pace_is_that_of_the_speaker():
    """P23: no block before a microphone would have had it, and not later than the reader was ready."""
    now, slept = 100.0, []

    def sleep(seconds: float) -> None:
        nonlocal now
        slept.append(seconds)
        now += seconds

    done = 0
    blocks = paced([np.zeros(16000), np.zeros(100), np.zeros(3000)], 16000, lambda: now, sleep)
    for number, block in enumerate(blocks):
        done += len(block)
        assert len(block) <= BLOCK * 16000
        assert now == pytest.approx(100 + done / 16000 + (0.4 if number >= 30 else 0), abs=0.4)
        assert now >= 100 + done / 16000 - 1e-9
        if number == 3:
            now += 0.4  # the reader was busy
    assert done == 19100
    assert sum(slept) == pytest.approx(19100 / 16000 - 0.4)


def test_finals_are_what_the_other_program_says(digits_model, speech, tmp_path):
    """P25: word for word and time for time, from program to program."""
    done = run(digits_model, speech, "--json")
    finals = [event for event in events_of(done) if event["event"] == "final" and event["words"]]
    assert len(finals) >= 2
    samples = soundfile.read(speech, dtype="int16")[0]
    paths = []
    for event in finals:
        paths.append(tmp_path / f"{event['utterance']}.wav")
        soundfile.write(paths[-1], samples[round(event["start"] * RATE) : round(event["end"] * RATE)], RATE)
    lines = call(
        transcribe.main, [digits_model, *paths, "--cpu", "--output-format", "json", "--quiet"]
    ).out.splitlines()
    for event, line in zip(finals, lines, strict=True):
        words = [word for segment in json.loads(line)["segments"] for word in segment["words"]]
        moved = [(w["word"], round(w["start"] + event["start"], 3), round(w["end"] + event["start"], 3)) for w in words]
        assert [(w["word"], w["start"], w["end"]) for w in event["words"]] == moved
    assert "decoding took" in done.err
    assert "median" in done.err  # P29


def test_text_is_one_line_for_each_utterance(digits_model, speech):
    """P24: where no terminal is, finals alone, with duration and decoding time; nothing on stderr with --quiet."""
    done = run(digits_model, speech, "--quiet")
    texts = [e["text"] for e in events_of(run(digits_model, speech, "--json")) if e["event"] == "final"]
    rows = [line.split("\t") for line in done.out.splitlines()]
    assert [row[2] for row in rows] == [text for text in texts if text]
    assert all(0.3 < float(row[0].removesuffix("s")) < 10 and float(row[1].removesuffix("s")) > 0 for row in rows)
    assert done.err == ""


class Screen(io.StringIO):
    """A terminal that is 20 columns wide."""

    def isatty(self) -> bool:
        return True


def test_partials_are_redrawn_on_one_line_of_a_terminal(monkeypatch):
    """P24."""
    monkeypatch.setenv("COLUMNS", "20")
    monkeypatch.delenv("NO_COLOR", raising=False)
    screen = Screen()
    writer = TextLines(screen)
    writer.take(LiveEvent("speech_start", 1, 0.0, 0.0))
    writer.take(LiveEvent("partial", 1, 0.0, 1.0, text="ONE TWO", confirmed="ONE"))
    writer.take(LiveEvent("partial", 1, 0.0, 2.0, text="ONE TWO THREE FOUR FIVE", confirmed="ONE TWO"))
    writer.take(LiveEvent("final", 1, 0.0, 2.5, text="ONE TWO THREE", decode_seconds=0.25))
    clear = "\r\x1b[K"
    assert screen.getvalue() == (
        f"{clear}ONE\x1b[2m TWO\x1b[0m{clear}TWO\x1b[2m THREE FOUR FIVE\x1b[0m{clear}2.500s\t0.250s\tONE TWO THREE\n"
    )
    monkeypatch.setenv("NO_COLOR", "1")
    screen.truncate(0)
    screen.seek(0)
    writer.take(LiveEvent("partial", 1, 0.0, 1.0, text="ONE TWO", confirmed="ONE"))
    assert screen.getvalue() == f"{clear}ONE TWO"


def test_figures_of_the_end(capsys):
    """P28, P29: what was dropped is said at once and at the end; median and 95th percentile."""
    figures = Figures(quiet=False)
    for latency in np.linspace(0.0, 1.0, 101):
        figures.take(LiveEvent("final", 1, 0.0, 1.0, latency=float(latency), decode_seconds=0.01))
    figures.take(LiveEvent("dropped", 1, 5.0, 8.25, dropped_seconds=3.25))
    figures.take(LiveEvent("end", 101, 0.0, 60.0, dropped_seconds=3.25))
    dropped, end = capsys.readouterr().err.splitlines()
    assert "3.25 s of audio from 5.00 s on were dropped" in dropped
    assert "101 utterances in 60.0 s; decoding took 1.01 s; text came 0.50 s after speech" in end
    assert "95th percentile 0.95 s" in end
    assert "3.2 s dropped" in end


def test_a_session_is_written_in_every_format_and_kept(model, speech, tmp_path, monkeypatch):
    """P31: the files hold what the finals said; those of another session stay."""
    out = tmp_path / "out"
    done = run(model, speech, "--json", "--output-dir", out, "--output-format", "all")
    assert done.code == 0
    events = events_of(done)
    assert {path.name for path in out.iterdir()} == {f"digits.{ending}" for ending in ENDINGS.values()}
    written = json.loads((out / "digits.json").read_text(encoding="utf-8"))
    words = [word for segment in written["segments"] for word in segment["words"]]
    assert words == [word for event in events if event["event"] == "final" for word in event["words"]]
    assert written["duration"] == events[-1]["end"]
    kept = run(model, speech, "--output-dir", out)
    assert kept.code == 2
    assert "--overwrite" in kept.err
    assert kept.out == ""
    assert run(model, speech, "--output-dir", out, "--overwrite", "--output-format", "txt").code == 0

    def full(path: Path, content: bytes) -> None:
        raise DataError(f"cannot write {path}: No space left on device")

    monkeypatch.setattr("w2v_cli.transcript_files.write_atomically", full)
    failed = run(model, speech, "--json", "--output-dir", tmp_path / "full", "--quiet")
    assert failed.code == 1
    assert events_of(failed) == events
    assert set(failed.err.splitlines()) == {
        f"w2v-live: cannot write {tmp_path}/full/digits.txt: No space left on device"
    }


class FakeSound(ModuleType):
    """Stands for sounddevice: a stereo microphone of 48 kHz that is pulled out after its sound, or falls silent."""

    class PortAudioError(Exception):
        pass

    def __init__(self, samples: np.ndarray, *, falls_silent: bool) -> None:
        super().__init__("sounddevice")
        self.samples, self.falls_silent = samples, falls_silent
        self.default = SimpleNamespace(device=[1, 0])
        self.devices = [
            {"name": "Speaker", "max_input_channels": 0, "default_samplerate": 48000.0},
            {"name": "Desk microphone", "max_input_channels": 2, "default_samplerate": 48000.0},
        ]

    def query_devices(self, which: int | str | None = None, kind: str | None = None) -> Any:
        if kind is None:
            return self.devices
        if which not in (None, 1, "desk"):
            raise ValueError(f"No input device matching {which!r}")
        return self.devices[1]

    def InputStream(self, *, callback: Any, blocksize: int, **options: Any) -> Any:  # noqa: N802 - sounddevice's name
        assert (options["channels"], options["samplerate"], options["dtype"]) == (2, 48000, "float32")
        return FakeStream(self, callback, blocksize)


class FakeStream:
    def __init__(self, sound: FakeSound, callback: Any, size: int) -> None:
        self.sound, self.callback, self.size = sound, callback, size
        self.active = True

    def __enter__(self) -> FakeStream:
        threading.Thread(target=self._play, daemon=True).start()
        return self

    def __exit__(self, *error: object) -> None:
        pass

    def _play(self) -> None:
        for first in range(0, len(self.sound.samples), self.size):
            part = self.sound.samples[first : first + self.size]
            self.callback(np.stack([part, part], axis=1), len(part), None, SimpleNamespace(input_overflow=first == 0))
        self.active = self.sound.falls_silent


@pytest.mark.parametrize("falls_silent", [False, True])
def test_a_microphone_that_is_pulled_out(model, speech, tmp_path, monkeypatch, falls_silent):
    """P23, P30: its own rate is resampled; one line, exit code 1, and the transcript complete."""
    import soxr

    samples = soxr.resample(soundfile.read(speech, dtype="float32")[0], RATE, 48000)
    monkeypatch.setitem(sys.modules, "sounddevice", FakeSound(samples, falls_silent=falls_silent))
    monkeypatch.setattr(live_sources, "PATIENCE", 0.3)
    done = run(model, "--device", "desk", "--json", "--output-dir", tmp_path, "--quiet")
    assert done.code == 1
    overflow, gone = done.err.splitlines()
    assert "lost sound" in overflow
    assert "Desk microphone" in gone
    assert "gone" in gone
    events = events_of(done)
    assert [event["event"] for event in events].count("final") >= 2
    assert events[-1]["event"] == "end"
    # What is inside the resampler, 20 ms, goes with the device.
    assert events[-1]["end"] == pytest.approx(soundfile.info(speech).duration, abs=0.03)
    (written,) = tmp_path.glob("live-*.json")
    assert json.loads(written.read_text(encoding="utf-8"))["duration"] == events[-1]["end"]


def test_microphones_are_listed_and_named(model, monkeypatch):
    """P23."""
    monkeypatch.setitem(sys.modules, "sounddevice", FakeSound(np.zeros(0, np.float32), falls_silent=False))
    listed = call(live.main, ["--list-devices"])
    assert (listed.code, listed.out) == (0, "*   1  Desk microphone  (2 channels, 48000 Hz)\n")
    unknown = run(model, "--device", "kitchen")
    assert unknown.code == 2
    assert "--device kitchen" in unknown.err
    assert "--list-devices" in unknown.err


def test_no_portaudio_and_no_sounddevice_are_a_line(model, speech, monkeypatch):
    """P23: exit code 2; files are heard all the same."""

    class Missing:
        def find_spec(self, name: str, *rest: object) -> None:
            if name == "sounddevice":
                raise self.error

        def __init__(self, error: Exception) -> None:
            self.error = error

    monkeypatch.delitem(sys.modules, "sounddevice", raising=False)
    for error, word in ((OSError("PortAudio library not found"), "PortAudio"), (ImportError("none"), "w2v[live]")):
        monkeypatch.setattr(sys, "meta_path", [Missing(error), *sys.meta_path])
        for arguments in ([model], ["--list-devices"]):
            done = call(live.main, arguments)
            assert done.code == 2
            assert word in done.err
            assert len(done.err.splitlines()) == 1
    assert run(model, speech).code == 0


@pytest.mark.parametrize(
    ("flags", "word"),
    [
        (["--pcm", "s16le:16000"], "needs - as the source"),
        (["{speech}", "--device", "1"], "--device"),
        (["--realtime"], "--realtime"),
        (["{speech}", "--hang-over", "-1"], "--hang-over"),
        (["{speech}", "--max-utterance", "1"], "--max-utterance"),
        (["{speech}", "--vad", "none"], "--vad"),
        (["{speech}.not"], "No such file"),
    ],
)
def test_what_cannot_be_is_said_before_the_model_is_read(speech, flags, word):
    done = call(live.main, ["no_model.pt", *(flag.format(speech=speech) for flag in flags)])
    assert done.code == 2
    assert word in done.err
    assert len(done.err.splitlines()) == 1


def test_a_source_that_breaks_is_told_to_who_hears():
    def broken(sample_rate: int) -> Iterator[np.ndarray]:
        yield np.zeros(10, np.float32)
        raise ConfigError("broken")

    queue = AudioQueue(RATE)
    Source("s", True, broken).send(RATE, queue)
    assert queue.get(0) is not None
    with pytest.raises(ConfigError, match="broken"):
        queue.get(0)


def start(model: Path, *arguments: object) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "w2v_cli.live", model, "-", *arguments, "--json", *ON_CPU]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [str(part) for part in command],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment,
    )  # fmt: skip


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
@pytest.mark.timeout(120)
def test_signals(digits_model, speech, tmp_path, number):
    """P30: in the middle of an utterance, its final, and exit code 0. P31: a kill leaves what was final."""
    samples = soundfile.read(speech, dtype="int16")[0][: 6 * RATE]
    length = len(samples) + 2 * RATE
    process = start(digits_model, "--pcm", "s16le:16000", "--output-dir", tmp_path)
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(samples.tobytes() + samples[: 2 * RATE].tobytes())
    process.stdin.flush()
    events: list[dict[str, Any]] = []
    # Until nearly all of what is there was heard: an utterance that has not ended.
    while not (events and events[-1]["event"] == "partial" and events[-1]["end"] > length / RATE - 0.6):
        events.append(json.loads(process.stdout.readline()))
    begun = time.monotonic()
    process.send_signal(number)
    rest, errors = process.communicate(timeout=60)
    seconds = time.monotonic() - begun
    events += [json.loads(line) for line in rest.splitlines()]
    finals = [event for event in events if event["event"] == "final"]
    (path,) = tmp_path.glob("live-*.json")
    written = json.loads(path.read_text(encoding="utf-8"))
    words = [word for segment in written["segments"] for word in segment["words"]]
    assert words == [word for event in finals for word in event["words"]]
    assert words
    if number == signal.SIGKILL:
        assert process.returncode == -signal.SIGKILL
        assert written["duration"] == finals[-1]["end"]
        return
    assert process.returncode == 0, errors
    assert seconds < 10  # on a machine that is busy; the most of it is the end of the interpreter
    assert [event["event"] for event in events[-2:]] == ["final", "end"]
    assert events[-2]["end"] == events[-1]["end"] == round(length / RATE, 3)
    assert "utterances in" in errors.decode()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_while_the_pipe_is_silent_ends_the_utterance_at_once(model, speech, monkeypatch, number):
    """P30: within 2 s."""
    before = signal.getsignal(number)
    told: list[float] = []
    over = threading.Event()

    class Interrupted(Pipe):
        def readinto(self, buffer: Any) -> int:
            size = super().readinto(buffer)
            if not size:
                time.sleep(0.3)  # what was sent is heard by now
                told.append(time.monotonic())
                os.kill(os.getpid(), number)
                over.wait(30)
            return size

    content = soundfile.read(speech, dtype="int16")[0][: 2 * RATE].tobytes()
    piped = io.TextIOWrapper(io.BufferedReader(Interrupted(content, (8000,)), 1))
    monkeypatch.setattr(sys, "stdin", piped)
    done = run(model, "-", "--json", "--pcm", "s16le:16000", "--partial-interval", "0")
    assert time.monotonic() - told[0] < 2
    over.set()
    assert done.code == 0
    assert [event["event"] for event in events_of(done)] == ["speech_start", "final", "end"]
    assert events_of(done)[-1]["end"] == 2.0
    assert signal.getsignal(number) is before


def test_help_names_every_source(capsys):
    with pytest.raises(SystemExit):
        live.main(["--help"])
    text = capsys.readouterr().out
    assert all(word in text for word in ("--list-devices", "--realtime", "--pcm", "--pre-roll", "--hang-over"))
    assert w2v.LiveSession.__name__ == "LiveSession"
