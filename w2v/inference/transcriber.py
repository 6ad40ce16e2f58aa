"""A model that transcribes recordings: windows to log-probabilities, to parts, to words with times.

Everything that says words in time goes through here: `w2v.transcribe`, `w2v-transcribe` and `w2v-live`, so that they
say the same. A transcriber holds no state between calls, and may be used by several threads.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import count

import numpy as np
import torch
from torch.nn.utils.rnn import pad_sequence

from w2v.data import silero
from w2v.data.level_detector import LevelDetector
from w2v.data.post_process import readable
from w2v.data.speech_segments import SpeechModel
from w2v.decoders import Decoder
from w2v.errors import ConfigError, DataError
from w2v.inference.emission_file import EmissionInfo
from w2v.inference.emissions import clip_log_probs
from w2v.inference.encode import conv_stack
from w2v.inference.load import LoadedModel
from w2v.inference.recording import ArrayRecording, Recording, Samples
from w2v.inference.recording_reader import End, Item, RecordingReader
from w2v.inference.result import Char, Segment, Transcript, Word, tidy
from w2v.inference.transcribe_options import TranscribeConfig
from w2v.inference.units import Frames, Unit, UnitCutter
from w2v.inference.windows import Window, window_grid
from w2v.inference.word_times import WordTime, word_gaps, word_times
from w2v.types import Emissions, Hypothesis

GPU_TOKENS, CPU_TOKENS = 8_000_000, 640_000
WHOLE = 960_000  # samples: where the window is endless, longer recordings are searched for speech
# Parts that are decoded alone, in seconds: cut in a pause of half a second after 20 s, in any pause after a minute.
SHORTEST_UNIT, LONGEST_UNIT, UNIT_PAUSE = 20.0, 60.0, 0.5

Decode = Callable[[Iterator[Emissions]], Iterator[tuple[Emissions, list[list[Hypothesis]]]]]
"""Decodes batches in order; `w2v_cli.decode_workers.decode` does so on all cores."""

Heard = Callable[[Sequence[Segment]], None]


@dataclass(frozen=True)
class Failure:
    """A recording that cannot be transcribed.

    Attributes:
        file: its name.
        reason: why not, in one line.
    """

    file: str
    reason: str


@dataclass
class _Job:
    """What is known of a recording that is being transcribed."""

    name: str
    cutter: UnitCutter | None = None
    num_waiting: int = 0
    last: float = 0.0
    segments: list[Segment] = field(default_factory=list)
    end: End | None = None

    @property
    def is_done(self) -> bool:
        return self.end is not None and not self.num_waiting


@dataclass(frozen=True)
class Transcriber:
    """A model, a decoder, and how recordings are cut for them.

    Attributes:
        loaded: a model fine-tuned with CTC.
        info: what its emissions have in common.
        decoder: turns log-probabilities into words.
        config: how recordings are cut.
        device: where the model computes.
        half: number format of autocast; None: float32.
        num_threads: recordings read at once.
    """

    loaded: LoadedModel
    info: EmissionInfo
    decoder: Decoder
    config: TranscribeConfig = field(default_factory=TranscribeConfig)
    device: torch.device = field(default_factory=partial(torch.device, "cpu"))
    half: torch.dtype | None = None
    num_threads: int = 2
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def __post_init__(self) -> None:
        if not self.info.stride:
            raise ConfigError(f"the model {self.info.model} does not tell when its frames are")
        self.loaded.model.to(self.device).eval()
        self._reader()  # says now what cannot be

    def transcripts(
        self, recordings: Iterable[Recording], decode: Decode | None = None, heard: Heard | None = None
    ) -> Iterator[Transcript | Failure]:
        """Yield the transcript of each recording in the order given, as soon as it and those before it are ready.

        Args:
            recordings: what is transcribed.
            decode: decodes batches; None: this thread does.
            heard: is told the segments of the recording whose turn it is, as soon as they are ready.
        """
        ready: dict[int, _Job] = {}
        told = following = 0
        for number, job in self._progress(recordings, decode):
            ready[number] = job
            while following in ready:
                job = ready[following]
                if heard is not None:
                    heard(job.segments[told:])
                    told = len(job.segments)
                if not job.is_done:
                    break
                yield self._result(ready.pop(following))
                told, following = 0, following + 1

    def segments(self, recording: Recording) -> Iterator[Segment]:
        """Yield the segments of one recording as soon as they are ready.

        Raises:
            DataError: it cannot be read.
        """
        for _, job in self._progress([recording], None):
            yield from job.segments
            job.segments.clear()
            if job.end is not None and job.end.num_samples is None:
                raise DataError(job.end.reason)

    def utterance(self, samples: Samples, start: float = 0.0) -> tuple[Segment, ...]:
        """Return the segments of samples (S,) at the model's rate, without speech detection.

        Args:
            samples: an utterance.
            start: its first second in its stream; times are counted from there.
        """
        units = self._read(samples)
        batch = self._emissions(units, list(range(len(units))))
        job, offset = _Job("", last=start), round(start * self.info.sample_rate)
        for (_, unit), hypotheses in zip(units, self._decode(batch), strict=True):
            moved = Unit(unit.offset + offset, unit.first, unit.log_probs)
            self._add(job, moved, hypotheses[0])
        return tuple(job.segments)

    def frames(self, samples: Samples) -> Frames:
        """Return the log-probabilities (T, V) of samples (S,) at the model's rate, without speech detection."""
        empty = np.zeros((0, len(self.info.symbols)), np.float32)
        return np.concatenate([empty, *(unit.log_probs for _, unit in self._read(samples))])

    def decoded(self, frames: Frames, first: int) -> tuple[Segment, ...]:
        """Return the segments of frames (T, V), the first of which begins at sample `first` of its stream."""
        if not len(frames):
            return ()
        unit = Unit(first, 0, frames)
        ((hypothesis, *_),) = self._decode(self._emissions([(0, unit)], [0]))
        job = _Job("", last=first / self.info.sample_rate)
        self._add(job, unit, hypothesis)
        return tuple(job.segments)

    def pauses(self, frames: Frames) -> list[tuple[int, int]]:
        """Return the pauses between words of frames (T, V): frame after a word, first frame of the next one."""
        return word_gaps(frames, self.decoder.dictionary, self.info.post_process)

    def _read(self, samples: Samples) -> list[tuple[int, Unit]]:
        """Run the model over samples without speech detection."""
        reader = self._reader(detects=False)
        items = [Item(0, "", part) for part in reader.read(ArrayRecording(samples, self.info.sample_rate))]
        return list(self._units(items, {0: _Job("")}))

    def _result(self, job: _Job) -> Transcript | Failure:
        assert job.end is not None
        if job.end.num_samples is None:
            return Failure(job.name, job.end.reason)
        duration = round(job.end.num_samples / self.info.sample_rate, 3)
        return Transcript(job.name, duration, tuple(job.segments), self.info.model, self.info.sample_rate)

    def _progress(self, recordings: Iterable[Recording], decode: Decode | None) -> Iterator[tuple[int, _Job]]:
        """Yield a recording each time segments were added to it, and once when it is done."""
        jobs: dict[int, _Job] = {}
        units: dict[int, tuple[int, Unit]] = {}
        decode = decode or (lambda batches: ((batch, self._decode(batch)) for batch in batches))
        for batch, readings in decode(self._computed(recordings, jobs, units)):
            for row, hypotheses in zip(batch.rows, readings, strict=True):
                number, unit = units.pop(row)
                job = jobs[number]
                self._add(job, unit, hypotheses[0])
                job.num_waiting -= 1
                if not job.is_done:
                    yield number, job
            yield from _taken(jobs)
        yield from _taken(jobs)

    def _computed(
        self, recordings: Iterable[Recording], jobs: dict[int, _Job], units: dict[int, tuple[int, Unit]]
    ) -> Iterator[Emissions]:
        """Yield what is to be decoded; `jobs` and `units` say whose it is."""
        rows = count()
        for items in self._reader().batches(recordings):
            for item in items:
                jobs.setdefault(item.number, _Job(item.name))
            found = list(self._units(items, jobs))
            for item in items:
                if isinstance(item.part, End):
                    jobs[item.number].end = item.part
            numbered = {next(rows): unit for unit in found}
            for number, _ in found:
                jobs[number].num_waiting += 1
            units.update(numbered)
            yield self._emissions(found, list(numbered))

    def _units(self, items: list[Item], jobs: dict[int, _Job]) -> Iterator[tuple[int, Unit]]:
        """Run the model over the windows of a batch; yield the parts that are complete."""
        windows = [(item.number, item.part) for item in items if isinstance(item.part, Window)]
        if not windows:
            return
        samples = [window.samples for _, window in windows]
        frames = clip_log_probs(self.loaded.model, samples, self.device, self.half, self.info)
        for (number, window), found in zip(windows, frames, strict=True):
            job = jobs[number]
            kept = found[window.skip : window.skip + window.keep]
            job.cutter = job.cutter or self._cutter(window.offset)
            yield from ((number, unit) for unit in job.cutter.push(kept, is_last=window.is_last) if len(unit.log_probs))
            if window.is_last:
                job.cutter = None

    def _cutter(self, offset: int) -> UnitCutter:
        seconds = self.info.sample_rate / self.info.stride
        shortest, longest, pause = (round(part * seconds) for part in (SHORTEST_UNIT, LONGEST_UNIT, UNIT_PAUSE))

        return UnitCutter(self.pauses, offset, shortest, longest, pause)

    def _emissions(self, units: list[tuple[int, Unit]], rows: list[int]) -> Emissions:
        parts = [torch.from_numpy(np.ascontiguousarray(unit.log_probs)) for _, unit in units]
        lengths = torch.tensor([len(part) for part in parts], dtype=torch.int64)
        log_probs = pad_sequence(parts, batch_first=True) if parts else torch.zeros(0, 0, len(self.info.symbols))
        return Emissions(rows, (lengths * self.info.stride).tolist(), log_probs, lengths)

    def _decode(self, batch: Emissions) -> list[list[Hypothesis]]:
        if not batch.rows:
            return []
        with self._lock:  # a search keeps tables of its own
            return self.decoder.decode(batch.log_probs, batch.lengths)

    def _add(self, job: _Job, unit: Unit, hypothesis: Hypothesis) -> None:
        """Add the words of a part to its recording, tidied: no time before the words before, or beyond its samples."""
        info = self.info
        log_probs = torch.from_numpy(np.ascontiguousarray(unit.log_probs))
        start = (unit.offset + unit.first * info.stride) / info.sample_rate
        words = [
            _word(time, start, info)
            for time in word_times(hypothesis, log_probs, self.decoder.dictionary, info.post_process)
        ]
        field_of_last = 2 * info.offset + info.stride  # samples that the last frame sees
        end = start + ((len(log_probs) - 1) * info.stride + field_of_last) / info.sample_rate
        found = tidy(_segments(words, self.config.max_pause), end, max(job.last, start))
        if found:
            job.last = found[-1].end
        job.segments += found

    def _reader(self, *, detects: bool = True) -> RecordingReader:
        info, config = self.info, self.config
        # By default no model is refused: detectors hear 16 kHz alone.
        is_deaf = config.vad == "auto" and info.sample_rate != LevelDetector.sample_rate
        vad = "none" if is_deaf or not detects else config.vad
        grid = window_grid(conv_stack(self.loaded.model), info.sample_rate, config.window, config.context)
        on_gpu = self.device.type != "cpu"
        return RecordingReader(
            sample_rate=info.sample_rate,
            normalize=self.loaded.task.config.normalize,
            normalize_epsilon=self.loaded.task.config.normalize_epsilon,
            grid=grid,
            new_detector=new_detector(vad, info.sample_rate),
            rule=config.speech_rule,
            max_tokens=config.max_tokens or (GPU_TOKENS if on_gpu else CPU_TOKENS),
            num_threads=self.num_threads,
            whole_below=(grid.size or WHOLE) if config.vad == "auto" else 0,
        )


def new_detector(kind: str, sample_rate: int) -> Callable[[], SpeechModel] | None:
    """Return what makes a detector; None: there is none.

    Raises:
        ConfigError: the detectors need another sample rate.
        MissingPackageError: silero is not installed.
    """
    if kind == "none":
        return None
    if sample_rate != LevelDetector.sample_rate:
        raise ConfigError(
            f"--vad {kind} needs a model of {LevelDetector.sample_rate} Hz, this one has {sample_rate} Hz"
        )
    if kind == "silero":
        silero.SileroModel()  # says now what is not installed
    is_silero = kind == "silero" or (kind == "auto" and silero.is_installed())
    return silero.SileroModel if is_silero else LevelDetector


def _taken(jobs: dict[int, _Job]) -> Iterator[tuple[int, _Job]]:
    """Yield the recordings that are done, and forget them."""
    for number in [number for number, job in jobs.items() if job.is_done]:
        yield number, jobs.pop(number)


def _word(time: WordTime, start: float, info: EmissionInfo) -> Word:
    """Return a word whose frames are counted from second `start`."""

    def seconds(frame: int) -> float:
        return start + info.seconds(frame)

    chars = []
    for symbol in time.symbols:
        text = readable(symbol.symbol.strip("|▁"))
        if text:
            chars.append(Char(text, seconds(symbol.start), seconds(symbol.end), symbol.confidence))
    # One that is nothing but special symbols has no text then, and `tidy` leaves it out.
    return Word(readable(time.word), seconds(time.start), seconds(time.end), time.confidence, tuple(chars))


def _segments(words: list[Word], max_pause: float) -> list[Segment]:
    """Part words where a pause is longer than `max_pause` seconds."""
    parts: list[list[Word]] = []
    for word in words:
        if not parts or word.start - parts[-1][-1].end > max_pause:
            parts.append([])
        parts[-1].append(word)
    return [Segment(tuple(part)) for part in parts]
