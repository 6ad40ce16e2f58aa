"""Live speech: the same as offline, whatever the blocks; nothing lost, nothing doubled, bounded in time and memory."""

from __future__ import annotations

import json
import tracemalloc
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st
from recorded_sounds import recorded_sounds

import w2v
from w2v.data import silero
from w2v.data.audio_queue import AudioQueue
from w2v.inference.live import LiveEvent, LiveOptions, LiveSession, listen
from w2v.inference.result import Segment, Word
from w2v.inference.stable_prefix import StablePrefix

RATE = 16000
WITH_SILERO = pytest.mark.skipif(not silero.is_installed(), reason="silero-vad or onnxruntime is not installed")


class Stub:
    """Stands for a transcriber: hears a word in each quarter of a second, and tells `spend` how much it decoded."""

    def __init__(self, spend=lambda seconds: None):
        self.info = SimpleNamespace(sample_rate=RATE, stride=320)
        self.spend = spend

    def utterance(self, samples, start=0.0):
        self.spend(len(samples) / RATE)
        return self.decoded(np.zeros(len(samples) // 320), round(start * RATE))

    def frames(self, samples):
        self.spend(len(samples) / RATE)
        return np.zeros(len(samples) // 320)

    def decoded(self, frames, first):
        start, seconds = first / RATE, len(frames) * 0.02
        times = np.arange(0, seconds - 0.2, 0.25) + start
        words = tuple(Word(f"w{time:.2f}", time, time + 0.2, 1.0) for time in times)
        return (Segment(words),) if words else ()

    def pauses(self, frames):
        return []


class Detector:
    """Speech where `is_speech` of the number of the window says so."""

    window, sample_rate = 512, RATE

    def __init__(self, is_speech=lambda number: True):
        self.is_speech = is_speech
        self.number = -1

    def push(self, samples):
        assert len(samples) == 512
        self.number += 1
        return np.array([float(self.is_speech(self.number))], np.float32)


def run(session: LiveSession, samples: np.ndarray, sizes) -> list[LiveEvent]:
    """Feed samples in blocks of the sizes in turn."""
    events, done, turn = [], 0, 0
    while done < len(samples):
        size = sizes[turn % len(sizes)]
        events += session.feed(samples[done : done + size])
        done, turn = done + size, turn + 1
    return events + session.finish()


def measured_apart(events: list[LiveEvent]) -> list[dict]:
    """Return the events without what the clock tells."""
    return [{name: value for name, value in event.json().items() if name != "latency"} for event in events]


def finals_of(events: list[LiveEvent]) -> list[LiveEvent]:
    return [event for event in events if event.kind == "final"]


def words_of(words) -> list[tuple[str, int, int]]:
    return [(word.text, round(1000 * word.start), round(1000 * word.end)) for word in words]


@pytest.fixture(scope="module")
def recorded(golden: Path) -> dict:
    return json.loads((golden / "people/vad/segments.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def sounds(recorded: dict, data: Path) -> dict[str, np.ndarray]:
    return recorded_sounds(recorded, data)


@pytest.fixture(scope="module", params=["layer", "group"])
def random_model(request, golden: Path):
    """A random model, with normalised or plain samples."""
    return w2v.open_transcriber(golden / "people/hf_stitch" / request.param, device="cpu")


@pytest.fixture(scope="module")
def of_digits(digits_model: Path):
    return w2v.open_transcriber(digits_model, device="cpu")


def digits(data: Path, seconds: float, pause) -> np.ndarray:
    """Clips of spoken digits, `pause()` seconds of silence before each."""
    lines = (data / "digits_valid_seen/transcripts.tsv").read_text(encoding="utf-8").splitlines()
    parts: list[np.ndarray] = []
    for line in lines[1:]:
        clip = soundfile.read(data / "digits_valid_seen" / line.split("\t")[0], dtype="float32")[0]
        parts += [np.zeros(int(RATE * pause()), np.float32), clip]
        if sum(map(len, parts)) > seconds * RATE:
            break
    return np.concatenate(parts)[: round(seconds * RATE)]


@pytest.fixture(scope="module")
def spoken_digits(data: Path) -> np.ndarray:
    rng = np.random.default_rng(1)
    return digits(data, 25, lambda: rng.uniform(0.3, 2.0))


@pytest.mark.parametrize("vad", [pytest.param("silero", marks=WITH_SILERO), "level"])
def test_blocks_do_not_matter(sounds, random_model, vad):
    """P25: blocks of 1 ms to 1 s, odd ones too, give the same events."""
    samples = sounds["noise"][RATE // 2 : 7 * RATE + 77]
    options = LiveOptions(vad=vad, max_utterance=4, partial_interval=1)
    expected = measured_apart(run(LiveSession(random_model, options), samples, [len(samples)]))
    assert {event["event"] for event in expected} == {"speech_start", "partial", "final", "end"}
    for sizes in ([16], [16000], [1, 513, 7, 4096, 511]):
        assert measured_apart(run(LiveSession(random_model, options), samples, sizes)) == expected


def test_finals_are_what_offline_finds_in_the_same_samples(of_digits, spoken_digits):
    """P25: word for word, and time for time."""
    finals = finals_of(run(LiveSession(of_digits), spoken_digits, [1600]))
    assert sum(len(final.words) for final in finals) > 15
    for final in finals:
        first, last = round(final.start * RATE), round(final.end * RATE)
        offline = w2v.transcribe(spoken_digits[first:last], RATE, model=of_digits)
        shift = round(1000 * final.start)
        assert words_of(final.words) == [(text, s + shift, e + shift) for text, s, e in words_of(offline.words)]
        np.testing.assert_allclose(
            [word.confidence for word in final.words], [word.confidence for word in offline.words], atol=1e-4
        )


@WITH_SILERO
def test_utterances_begin_and_end_where_silero_vad_said(recorded, sounds):
    """P26: with the pre-roll before the first window of speech; the ends are known a hang-over later."""
    for name, samples in sounds.items():
        events = recorded["inputs"][name]["events"]["min_silence_300_pad_200"]
        found = run(LiveSession(Stub(), LiveOptions(vad="silero", max_utterance=40)), samples, [1600])
        starts = [place for kind, place, _ in events if kind == "start"]
        # Its end is the first quiet window + 200 ms; ours is what the next pre-roll cannot reach.
        ends = [max(fed - 3200, place - 3200 + 1600) for kind, place, fed in events if kind == "end"]
        ends += [len(samples)] * (len(starts) - len(ends))
        assert [event.start for event in found if event.kind == "speech_start"] == [s / RATE for s in starts]
        assert [(event.start, event.end) for event in finals_of(found)] == [
            (start / RATE, end / RATE) for start, end in zip(starts, ends, strict=True)
        ]


@WITH_SILERO
def test_the_onset_of_the_first_word_is_never_cut(of_digits, data):
    """P26: clips with 0.4 to 1.6 s of silence before each begin as they do when they are
    transcribed alone."""
    lines = (data / "digits_valid_seen/transcripts.tsv").read_text(encoding="utf-8").splitlines()[1:11]
    clips = [soundfile.read(data / "digits_valid_seen" / line.split("\t")[0], dtype="float32")[0] for line in lines]
    clips = [clip[: 3 * RATE // 2] for clip in clips]
    parts, places = [], []
    for clip, pause in zip(clips, np.linspace(0.4, 1.6, len(clips)), strict=True):
        parts += [np.zeros(int(pause * RATE), np.float32), clip]
        places.append((sum(map(len, parts)) - len(clip)) / RATE)
    session = LiveSession(of_digits, LiveOptions(partial_interval=0))
    words = [word for final in finals_of(run(session, np.concatenate(parts), [1600])) for word in final.words]
    for place, clip in zip(places, clips, strict=True):
        offline = w2v.transcribe(clip, RATE, model=of_digits).words[0]
        live = next(word for word in words if word.end > place)
        # Its onset: with other sound behind it, this model spells the end of a word otherwise now and then.
        assert live.text[:2] == offline.text[:2]
        assert live.start - place == pytest.approx(offline.start, abs=0.05)


@given(
    st.lists(st.integers(1, 40), min_size=1, max_size=12),
    st.floats(0, 1), st.floats(0, 1), st.integers(4, 12), st.integers(1, 9000),
)  # fmt: skip
@settings(max_examples=25)
def test_utterances_are_disjoint_and_hold_all_speech(runs, pre_roll, hang_over, longest, block):
    """P26: whatever the pauses and the options."""
    speech = [number % 2 == 1 for number, length in enumerate(runs) for _ in range(length)]
    samples = np.zeros(len(speech) * 512 - 100, np.float32)
    options = LiveOptions(pre_roll=pre_roll, hang_over=hang_over, max_utterance=longest)
    events = run(LiveSession(Stub(), options, detector=lambda: Detector(speech.__getitem__)), samples, [block])
    finals = finals_of(events)
    covered = np.zeros(len(samples), int)
    for final in finals:
        covered[round(final.start * RATE) : round(final.end * RATE)] += 1
        assert final.end - final.start <= longest + 0.1
    assert covered.max(initial=0) <= 1
    assert all(covered[n * 512 : (n + 1) * 512].all() for n, is_speech in enumerate(speech) if is_speech)
    words = [word for final in finals for word in final.words]
    assert all(a.end <= b.start for a, b in pairwise(words))
    assert [event.utterance for event in finals] == list(range(1, len(finals) + 1))


class SpelledModel:
    """Hears what samples spell: of every frame, the number of a symbol in hundredths.

    It hears nothing in the first and last `deaf` frames of a clip, so that a word is found only where the model is
    shown what lies around it.
    """

    def __init__(self, num_symbols: int, deaf: int) -> None:
        self.num_symbols, self.deaf = num_symbols, deaf

    def __call__(self, model, clips, device, half, info):
        found = []
        for clip in clips:
            symbols = np.rint(100 * clip[200 : len(clip) - 199 : 320]).astype(int)
            symbols[: self.deaf] = symbols[-self.deaf :] = 0
            log_probs = np.full((len(symbols), self.num_symbols), -20.0, np.float32)
            log_probs[np.arange(len(symbols)), symbols] = 0.0
            found.append(log_probs)
        return found


@pytest.mark.parametrize(("pause", "deaf"), [(0, 10), (14, 3)])
def test_speech_without_end_is_cut_without_a_lost_or_doubled_word(golden, monkeypatch, pause, deaf):
    """P26: five minutes without a silence that would end an utterance, word for word and time for time."""
    transcriber = w2v.open_transcriber(golden / "people/hf_stitch/group", device="cpu", window=0, vad="none")
    symbols = list(transcriber.info.symbols)
    monkeypatch.setattr("w2v.inference.transcriber.clip_log_probs", SpelledModel(len(symbols), deaf))
    rng = np.random.default_rng(3)
    letters = [n for n, symbol in enumerate(symbols) if len(symbol) == 1 and symbol.isalpha()]
    frames, quiet = [0] * 10, [True] * 10
    for number in range(700):
        for letter in rng.choice(letters, rng.integers(1, 6), replace=False):
            frames += [letter] * 2 + [0] * rng.integers(1, 3)
        rest = pause if pause and number % 20 == 9 else rng.integers(1, 4)
        quiet += [False] * (len(frames) - len(quiet)) + [rest == pause] * rest
        frames += [symbols.index("|")] + [0] * (rest - 1)
    frames += [0] * 12
    quiet += [False] * 13
    samples = np.repeat(np.array(frames) / 100, 320).astype(np.float32)
    expected = w2v.transcribe(samples, RATE, model=transcriber)
    assert len(expected.words) > 690
    # Of a pause of 14 frames at least 7 windows of speech detection are quiet: enough for a cut.
    detector = Detector(lambda number: not quiet[min((number * 512 + 256) // 320, len(quiet) - 1)])
    options = LiveOptions(max_utterance=12, hang_over=1.0, partial_interval=0)
    finals = finals_of(run(LiveSession(transcriber, options, detector=lambda: detector), samples, [8000]))
    assert len(finals) > len(samples) / RATE / 12
    found = [word for final in finals for word in final.words]
    assert words_of(found) == words_of(expected.words)
    for before, after in pairwise(finals):
        assert before.end == after.start


@given(st.lists(st.lists(st.sampled_from("abc"), max_size=6), max_size=12))
def test_confirmed_words_are_the_agreement_of_two_hypotheses_and_stay(texts):
    """P27: against LocalAgreement-2 written as it is said."""
    prefix, confirmed, before = StablePrefix(), [], []
    for text in texts:
        shown = [w.text for w in prefix.update([Word(t, k, k + 1, 1.0) for k, t in enumerate(text)])]
        now = [word.text for word in prefix.confirmed]
        assert now[: len(confirmed)] == confirmed
        assert shown[: len(now)] == now
        assert shown == now + text[len(now) :]  # words that last a second each lie where their number says
        agreed = 0
        while agreed < min(len(text), len(before)) and text[agreed] == before[agreed]:
            agreed += 1
        if text[: len(now)] == now and before[: len(now)] == now:
            assert len(now) == max(agreed, len(confirmed))
        confirmed, before = now, text


def test_partials_keep_their_prefix_and_never_follow_their_final(of_digits, spoken_digits):
    """P27, on real speech."""
    confirmed: list[str] = []
    number, is_open, shown = 0, False, set()
    for event in run(LiveSession(of_digits), spoken_digits, [800]):
        if event.kind == "speech_start":
            assert not is_open
            number, is_open, confirmed = number + 1, True, []
            assert event.utterance == number
        elif event.kind in ("partial", "final"):
            assert is_open
            assert event.utterance == number
        if event.kind == "partial":
            assert event.confirmed.split()[: len(confirmed)] == confirmed
            confirmed = event.confirmed.split()
            assert event.text.split()[: len(confirmed)] == confirmed
            shown.add(number)
        elif event.kind == "final":
            is_open = False
    assert not is_open
    assert len(shown) > 3


@pytest.mark.parametrize("cost", [0.001, 0.02, 0.1, 0.5, 3.0])
def test_partials_take_at_most_half_of_the_time(cost):
    """P27: a model that needs `cost` seconds for a second of audio, and utterances up to the cap."""
    spent, partials = 0.0, 0.0

    def spend(seconds):
        nonlocal spent
        spent += cost * seconds

    session = LiveSession(Stub(spend), detector=Detector, clock=lambda: spent)
    num_partials = 0
    for number in range(10 * 120):
        before = spent
        events = session.feed(np.zeros(1600, np.float32))
        num_partials += sum(event.kind == "partial" for event in events)
        if not any(event.kind == "final" for event in events):
            partials += spent - before
        # The first partial of all is made without knowing what it will cost.
        assert partials <= 0.5 * 0.1 * (number + 1) + cost
    assert num_partials > {0.001: 150, 0.02: 100, 0.1: 30}.get(cost, 0), num_partials


def test_finals_do_not_depend_on_the_clock(of_digits, spoken_digits):
    """P25: a machine that is too slow for partials gives the same finals."""
    time = iter(range(10**6))
    slow = run(LiveSession(of_digits, clock=lambda: float(next(time))), spoken_digits[: 15 * RATE], [1600])
    fast = run(LiveSession(of_digits), spoken_digits[: 15 * RATE], [1600])
    assert measured_apart(finals_of(slow)) == measured_apart(finals_of(fast))
    assert sum(e.kind == "partial" for e in slow) < sum(e.kind == "partial" for e in fast)


def test_a_decoder_three_times_slower_than_speech_drops_and_counts():
    """P28: ten minutes; the queue stays short, and what is heard and what is dropped are all that was said."""
    queue = AudioQueue(RATE)
    came = longest = 0.0

    def record(seconds):
        """Let time pass: a microphone writes a tenth of a second at a time."""
        nonlocal came, longest
        target = came + seconds
        while came + 0.1 <= target and came < 600:
            queue.put(np.zeros(1600, np.float32))
            came += 0.1
            longest = max(longest, queue.seconds)

    # Five seconds of speech, half a second without.
    session = LiveSession(
        Stub(lambda seconds: record(3 * seconds)), detector=lambda: Detector(lambda number: number % 172 < 156)
    )
    events: list[LiveEvent] = []
    while came < 599.95 or queue.seconds:
        if came < 599.95:
            record(0.1)
        piece = queue.get(0)
        if piece is None:
            continue
        if piece.dropped:
            events += session.skip(piece.dropped)
        events += session.feed(piece.samples, lag=queue.seconds)
        assert len(session._held) * 512 <= 21 * RATE
    events += session.finish()
    assert longest <= 30
    dropped = [event for event in events if event.kind == "dropped"]
    end = events[-1]
    assert end.kind == "end"
    assert end.end == pytest.approx(600, abs=0.1)
    assert end.dropped_seconds == pytest.approx(sum(event.dropped_seconds for event in dropped))
    assert 300 < end.dropped_seconds < 450  # two thirds of the speech
    assert all(event.end - event.start == pytest.approx(event.dropped_seconds) for event in dropped)
    heard = [(event.start, event.end) for event in events if event.kind in ("final", "dropped")]
    assert all(a[1] <= b[0] + 1e-9 for a, b in pairwise(heard))
    assert max(event.latency for event in finals_of(events)) < 30 + 3 * 5.5 + 1


def test_a_final_comes_a_hang_over_after_speech(of_digits, spoken_digits):
    """P29: all that is not decoding is the hang-over, rounded up to a window, and the window that shows it."""
    finals = finals_of(run(LiveSession(of_digits), spoken_digits, [1600]))[:-1]
    assert len(finals) > 3
    for final in finals:
        assert final.latency is not None
        assert 0.3 <= final.latency - final.decode_seconds <= 0.3 + 0.07


def test_memory_stays_flat():
    """Utterances of 3 s with pauses, then endless speech. `benchmarks/live.md` has the hour with a real model."""
    session = LiveSession(Stub(), detector=lambda: Detector(lambda number: number > 7_500 or number % 125 < 94))
    block = np.zeros(RATE, np.float32)
    tracemalloc.start()
    try:
        peaks = []
        for _ in range(4):  # 2 minutes each; speech does not end after the second
            tracemalloc.reset_peak()
            for _ in range(120):
                session.feed(block)
            peaks.append(tracemalloc.get_traced_memory()[1])
    finally:
        tracemalloc.stop()
    assert max(peaks) < 5e6
    assert peaks[1] < peaks[0] * 1.1
    assert peaks[3] < peaks[2] * 1.1


def test_listening_tells_the_last_final_whatever_ends_it():
    """P30: the end of input, a source that breaks, a stop."""
    samples = np.zeros(2 * RATE + 5, np.float32)
    for error, stop in ((None, False), (OSError("gone"), False), (None, True)):
        queue = AudioQueue(RATE)
        queue.put(samples)
        if not stop:
            queue.close(error)
        listening = listen(LiveSession(Stub(), detector=Detector), queue, is_stopped=lambda stop=stop: stop)
        events = [next(listening)]
        while events[-1].kind != "end":
            events.append(next(listening))
        with pytest.raises(StopIteration if error is None else OSError):
            next(listening)
        assert events[-2].kind == "final"
        assert events[-2].end == events[-1].end == len(samples) / RATE
