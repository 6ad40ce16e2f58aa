"""Speech transcribed while it is spoken: samples in, events out.

Time is counted in samples and never by the clock. What comes out does not depend on the sizes of the blocks in which
samples come, nor on their pace: a file gives the events that a microphone would give. The one exception is wanted: a
session that was given a clock, or is told that it lags behind, leaves partial hypotheses out. No final depends on that.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from w2v.data.audio_queue import AudioQueue
from w2v.data.speech_segments import SpeechEvents, SpeechModel, SpeechRule, Stretch
from w2v.inference.live_options import LiveOptions
from w2v.inference.result import Segment, Word, word_as_dict
from w2v.inference.stable_prefix import StablePrefix
from w2v.inference.transcriber import Transcriber, new_detector

Samples = npt.NDArray[np.float32]

SPEECH_START, PARTIAL, FINAL, DROPPED, END = "speech_start", "partial", "final", "dropped", "end"
# Partial hypotheses may take this share of the time, as the clock of the session has it.
PARTIAL_SHARE = 0.5
# The longer an utterance is, the rarer its partials: decoding it again and again would cost its length squared.
PARTIALS_PER_LENGTH = 16
# Seconds after the end of speech that belong to an utterance, also where the pre-roll is longer than the hang-over.
SHORTEST_TAIL = 0.1
# Seconds on both sides of a cut between two frames that only serve as context.
CONTEXT = 3.0
# Seconds of a pause in which an utterance that is too long may be cut: longer than the closure of a stop consonant.
SHORTEST_PAUSE = 0.2
# Seconds after which a stop is noticed, and seconds that the audio which waits then may still take.
POLL, LAST_WORDS = 0.1, 1.0


@dataclass(frozen=True, slots=True)
class LiveEvent:
    """What happened in a stream. Times are seconds from its beginning.

    Attributes:
        kind: `speech_start`, `partial` (an utterance so far), `final` (all of it; replaces what partials said),
            `dropped` (audio that nobody had time to hear) or `end`.
        utterance: its number, from 1; of `dropped` and `end`: how many there were.
        start: where the utterance, or what was dropped, begins.
        end: where it ends; of a partial: how much of it was heard.
        text: of a partial: the confirmed words, then those that may change.
        confirmed: the words that no later partial of this utterance changes.
        words: of the text, with times.
        latency: of a final: seconds from the end of speech to this event.
        dropped_seconds: of `dropped`: how much; of `end`: how much in all.
        segments: of a final: its words in segments, as in a `Transcript`.
        decode_seconds: of a partial or final: what decoding took, by the clock.
    """

    kind: str
    utterance: int
    start: float
    end: float
    text: str = ""
    confirmed: str = ""
    words: tuple[Word, ...] = ()
    latency: float | None = None
    dropped_seconds: float = 0.0
    segments: tuple[Segment, ...] = ()
    decode_seconds: float = 0.0

    def json(self) -> dict[str, Any]:
        """Return the event as plain data, the same keys for all kinds."""
        return {
            "event": self.kind,
            "utterance": self.utterance,
            "start": round(self.start, 3),
            "end": round(self.end, 3),
            "text": self.text,
            "confirmed": self.confirmed,
            "words": [word_as_dict(word) for word in self.words],
            "latency": None if self.latency is None else round(self.latency, 3),
            "dropped_seconds": round(self.dropped_seconds, 3),
        }


@dataclass
class _Utterance:
    """An utterance that has not ended. Places are samples of the stream.

    Attributes:
        number: from 1.
        start: where it begins.
        lead: samples before it that the model sees, but whose frames belong to the utterance before.
        begun: how much was heard when it was noticed.
        due: where the next partial hypothesis is due.
        pauses: short pauses so far, in which it may be cut.
        prefix: its words so far.
        spent: seconds that its partials took.
        shown: text and confirmed words of the last partial.
    """

    number: int
    start: int
    lead: int
    begun: int
    due: int
    pauses: list[Stretch] = field(default_factory=list)
    prefix: StablePrefix = field(default_factory=StablePrefix)
    spent: float = 0.0
    shown: tuple[str, str] = ("", "")


class LiveSession:
    """One stream of samples that is transcribed as it comes. Not for several threads at once.

    Args:
        transcriber: the model and its decoder; sessions may share one.
        options: how utterances are cut.
        detector: a fresh one that tells speech from other sound; None: as the options say.
        clock: seconds of computing time so far, such as `time.process_time`; partials that would take more than half
            of the time of the stream are left out. None: every partial that is due is made.

    Raises:
        ConfigError: the detector needs another sample rate than the model has.
        MissingPackageError: silero is not installed.
    """

    def __init__(
        self,
        transcriber: Transcriber,
        options: LiveOptions | None = None,
        *,
        detector: Callable[[], SpeechModel] | None = None,
        clock: Callable[[], float] | None = None,
    ) -> None:
        self.transcriber = transcriber
        self.options = options or LiveOptions()
        self.sample_rate = transcriber.info.sample_rate
        self.dropped_samples = 0
        self._new_detector = detector or new_detector(self.options.vad, self.sample_rate)
        self._rule = SpeechRule(self.options.vad_threshold, self.options.hang_over, pad=0.0)
        self._clock = clock
        self._speed = 0.0  # seconds of computing that a second of audio took last
        # To whole milliseconds, so that words have the times that they have in a file of the utterance alone.
        self._pre_roll = self._samples(round(self.options.pre_roll, 3))
        self._num_utterances = 0
        self._utterance: _Utterance | None = None
        self._now = 0  # the sample to come
        self._held: list[Samples] = []  # the samples before it, as far back as they may be needed
        self._first = 0  # the first of those
        self._rest: Samples = np.zeros(0, np.float32)  # less than a window
        self._listen(0)

    @property
    def seconds(self) -> float:
        """How much of the stream has been heard or dropped."""
        return (self._now + len(self._rest)) / self.sample_rate

    def feed(self, samples: Samples, lag: float = 0.0) -> list[LiveEvent]:
        """Take the next samples (S,) in [-1, 1], of any number; return what happened in them.

        Args:
            samples: at the model's rate.
            lag: seconds of audio that wait behind them. Partials are left out while it is more than
                `partial_interval`.
        """
        window = self._detector.window
        samples = np.concatenate([self._rest, samples], dtype=np.float32)
        whole = len(samples) // window * window
        self._rest = samples[whole:].copy()
        events: list[LiveEvent] = []
        for first in range(0, whole, window):
            part = samples[first : first + window].copy()
            # One window at a time, so that not even the last bit depends on the blocks.
            (probability,) = self._detector.push(part)
            events += self._step(part, float(probability), lag)
        return events

    def skip(self, num_samples: int) -> list[LiveEvent]:
        """Go on after samples that nobody had time to hear; what was heard before is an utterance of its own."""
        events = self._close()
        start = self._now
        self._now += num_samples
        self.dropped_samples += num_samples
        self._held, self._first = [], self._now
        self._listen(self._now)
        lost = num_samples / self.sample_rate
        return [*events, self._event(DROPPED, self._num_utterances, start, self._now, dropped_seconds=lost)]

    def finish(self) -> list[LiveEvent]:
        """Return the final of the utterance that was being spoken, if any, and the end of the stream."""
        events = self._close()
        lost = self.dropped_samples / self.sample_rate
        return [*events, self._event(END, self._num_utterances, 0, self._now, dropped_seconds=lost)]

    def _listen(self, first: int) -> None:
        """Begin to tell speech from other sound at sample `first`."""
        assert self._new_detector is not None
        self._detector = self._new_detector()
        self._speech = SpeechEvents(self._rule, self._detector.window, self.sample_rate)
        self._heard_from = self._earliest = first

    def _close(self) -> list[LiveEvent]:
        """Hear what is left of a window, and end the utterance."""
        rest, self._rest = self._rest, np.zeros(0, np.float32)
        events: list[LiveEvent] = []
        if len(rest):
            (probability,) = self._detector.push(np.pad(rest, (0, self._detector.window - len(rest))))
            events += self._step(rest, float(probability), 0.0)
        if self._utterance is not None:
            quiet = self._speech.quiet_since
            spoken = self._now if quiet is None else self._heard_from + quiet
            events.append(self._final(self._utterance, self._now, spoken, 0.0))
        return events

    def _step(self, samples: Samples, probability: float, lag: float) -> list[LiveEvent]:
        """Take one window."""
        first = self._now
        self._held.append(samples)
        self._now += len(samples)
        quiet = self._speech.quiet_since
        change = self._speech.push(probability)
        if change is not None and change[0] == "start":
            return [self._begin(max(first - self._pre_roll, self._earliest))]
        utterance = self._utterance
        if utterance is None:
            self._forget(self._now - self._pre_roll)
            return []
        if change is not None:
            # The pre-roll of the next utterance begins after this one, so that no sound belongs to two.
            spoken = self._heard_from + change[1]
            end = max(self._now - self._pre_roll, min(spoken + self._samples(SHORTEST_TAIL), self._now))
            return [self._final(utterance, max(end, utterance.start), spoken, lag)]
        if quiet is not None and self._speech.quiet_since is None:
            utterance.pauses.append(Stretch(self._heard_from + quiet, first))
        if self._now - utterance.start >= self._samples(self.options.max_utterance):
            return self._cut(utterance, lag)
        return self._partial(utterance, lag) if self._now >= utterance.due else []

    def _begin(self, start: int, lead: int = 0, pauses: Sequence[Stretch] = ()) -> LiveEvent:
        self._num_utterances += 1
        due = self._now + self._samples(self.options.partial_interval)
        later = [pause for pause in pauses if pause.start >= start]
        self._utterance = _Utterance(self._num_utterances, start, lead, self._now, due, later)
        self._forget(start - lead)
        return self._event(SPEECH_START, self._num_utterances, start, start)

    def _partial(self, utterance: _Utterance, lag: float) -> list[LiveEvent]:
        """Decode an utterance so far, if that may be; tell its text where it has changed."""
        length = self._now - utterance.start
        interval = self._samples(self.options.partial_interval)
        utterance.due = self._now + max(interval, length // PARTIALS_PER_LENGTH)
        cost = self._speed * (length + utterance.lead) / self.sample_rate
        earned = PARTIAL_SHARE * (self._now - utterance.begun) / self.sample_rate
        is_dear = self._clock is not None and utterance.spent + cost > earned
        if not interval or is_dear or lag > self.options.partial_interval:
            return []
        begun = time.perf_counter()
        segments = self._decode(utterance, self._now)
        utterance.spent += self._speed * (length + utterance.lead) / self.sample_rate
        words = utterance.prefix.update([word for segment in segments for word in segment.words])
        text, confirmed = _text(words), _text(utterance.prefix.confirmed)
        if not text or utterance.shown == (text, confirmed):
            return []
        utterance.shown = text, confirmed
        seconds = time.perf_counter() - begun
        return [
            self._event(
                PARTIAL, utterance.number, utterance.start, self._now,
                text=text, confirmed=confirmed, words=tuple(words), decode_seconds=seconds,
            )
        ]  # fmt: skip

    def _final(self, utterance: _Utterance, end: int, spoken: int, lag: float) -> LiveEvent:
        """End an utterance at sample `end`, after speech that ended at sample `spoken`."""
        begun = time.perf_counter()
        segments = self._decode(utterance, end)
        return self._ended(utterance, end, spoken, segments, time.perf_counter() - begun, lag)

    def _ended(
        self, utterance: _Utterance, end: int, spoken: int, segments: Sequence[Segment], seconds: float, lag: float
    ) -> LiveEvent:
        self._utterance, self._earliest = None, end
        text = " ".join(segment.text for segment in segments)
        words = tuple(word for segment in segments for word in segment.words)
        waited = (self._now - spoken) / self.sample_rate
        return self._event(
            FINAL, utterance.number, utterance.start, end, text=text, confirmed=text, words=words,
            latency=waited + lag + seconds, segments=tuple(segments), decode_seconds=seconds,
        )  # fmt: skip

    def _cut(self, utterance: _Utterance, lag: float) -> list[LiveEvent]:
        """End an utterance that is too long, and begin the next one where it ends.

        The cut lies in the longest pause of its second half. Without one, it lies between two frames, in the widest
        gap between words; what is decoded on either side was computed with context beyond the cut.
        """
        transcriber, stride = self.transcriber, self.transcriber.info.stride
        half = utterance.start + (self._now - utterance.start) // 2
        shortest = self._samples(SHORTEST_PAUSE)
        pauses = [pause for pause in utterance.pauses if pause.start >= half and pause.end - pause.start > shortest]
        if pauses:
            pause = max(pauses, key=lambda found: found.end - found.start)
            # A whole number of frames after the start: the frames of the next utterance continue these.
            cut = utterance.start + ((pause.start + pause.end) // 2 - utterance.start) // stride * stride
            event = self._final(utterance, cut, pause.start, lag)
            return [event, self._begin(cut, 0, utterance.pauses)]
        begun = time.perf_counter()
        first = utterance.start - utterance.lead
        frames = transcriber.frames(self._audio(first, self._now))[utterance.lead // stride :]
        context = self._samples(min(CONTEXT, self.options.max_utterance / 4)) // stride
        last = max(len(frames) - context, 1)
        place = _widest(transcriber.pauses(frames), len(frames) // 2, last)
        segments = transcriber.decoded(frames[:place], utterance.start)
        cut = utterance.start + place * stride
        event = self._ended(utterance, cut, cut, segments, time.perf_counter() - begun, lag)
        return [event, self._begin(cut, min(context, place) * stride, utterance.pauses)]

    def _decode(self, utterance: _Utterance, end: int) -> tuple[Segment, ...]:
        """Decode an utterance up to sample `end`, as `w2v-transcribe` decodes a file that holds just that."""
        transcriber = self.transcriber
        before = self._clock() if self._clock is not None else 0.0
        samples = self._audio(utterance.start - utterance.lead, end)
        if utterance.lead:
            frames = transcriber.frames(samples)[utterance.lead // transcriber.info.stride :]
            segments = transcriber.decoded(frames, utterance.start)
        else:
            segments = transcriber.utterance(samples, utterance.start / self.sample_rate)
        if self._clock is not None:
            self._speed = (self._clock() - before) * self.sample_rate / max(len(samples), 1)
        return segments

    def _audio(self, start: int, end: int) -> Samples:
        """Return the samples from `start` up to `end`."""
        return np.concatenate(self._held)[start - self._first : end - self._first]

    def _forget(self, first: int) -> None:
        """Forget the samples before `first`."""
        while self._held and self._first + len(self._held[0]) <= first:
            self._first += len(self._held.pop(0))

    def _samples(self, seconds: float) -> int:
        return round(seconds * self.sample_rate)

    def _event(self, kind: str, utterance: int, start: int, end: int, **more: Any) -> LiveEvent:
        return LiveEvent(kind, utterance, start / self.sample_rate, end / self.sample_rate, **more)


def listen(
    session: LiveSession, queue: AudioQueue, is_stopped: Callable[[], bool] = lambda: False
) -> Iterator[LiveEvent]:
    """Yield what happens in the audio of a queue, until its writer closes it or `is_stopped` says so.

    After a stop, what waits in the queue is still heard, for at most `LAST_WORDS` seconds; the rest counts as dropped.

    Raises:
        Exception: what the writer closed the queue with, after the last final and `end`.
    """
    error: Exception | None = None
    deadline = math.inf
    while not queue.is_done and time.monotonic() < deadline:
        if deadline == math.inf and is_stopped():
            queue.close()
            deadline = time.monotonic() + LAST_WORDS
        try:
            piece = queue.get(POLL)
        except Exception as e:  # raised below, when nothing is left to be said
            error = e
            break
        if piece is None:
            continue
        if piece.dropped:
            yield from session.skip(piece.dropped)
        yield from session.feed(piece.samples, 0.0 if queue.waits else queue.seconds)
    if lost := queue.drain():
        yield from session.skip(lost)
    yield from session.finish()
    if error is not None:
        raise error


def _text(words: Sequence[Word]) -> str:
    return " ".join(word.text for word in words)


def _widest(gaps: Sequence[tuple[int, int]], first: int, last: int) -> int:
    """Return the middle of the widest gap that lies between two frames; without one, the latter."""
    middles = [((end + start) // 2, start - end) for end, start in gaps]
    inside = [(width, middle) for middle, width in middles if first <= middle <= last]
    return max(inside)[1] if inside else last
