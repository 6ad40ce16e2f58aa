"""Times, subtitles and files of a transcript, against recorded files and independent readers."""

from __future__ import annotations

import io
import itertools
import json
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from w2v.inference.growing_transcript import GrowingTranscript
from w2v.inference.result import FORMATS, Char, Segment, Transcript, Word, read_formats, render, tidy
from w2v.inference.spans import Span, milliseconds, tidy_times, with_pauses
from w2v.inference.subtitles import SubtitleStyle, cues

UNBROKEN = SubtitleStyle(max_line_width=0)


@pytest.fixture(scope="session")
def formats(golden: Path) -> Path:
    return golden / "people/formats"


@pytest.fixture(scope="session")
def cases(formats: Path) -> dict[str, dict]:
    return json.loads((formats / "words.json").read_text(encoding="utf-8"))


def transcript_of(name: str, case: dict) -> Transcript:
    words = [Word(word["word"], word["start"], word["end"], word["confidence"]) for word in case["words"]]
    segments = [Segment(tuple(words[first:end])) for first, end in case["segments"]]
    return Transcript(f"some/folder/{name}.wav", case["duration"], tidy(segments, case["duration"]))


def each_word(transcript: Transcript) -> Transcript:
    segments = tuple(Segment((word,)) for word in transcript.words)
    return Transcript(transcript.file, transcript.duration, segments)


def test_times_are_tidied_as_recorded(cases):
    for name, case in cases.items():
        words = transcript_of(name, case).words
        assert [[w.text, milliseconds(w.start), milliseconds(w.end)] for w in words] == case["tidy"], name
        intervals = with_pauses([Span(*row) for row in case["tidy"]], milliseconds(case["duration"]))
        assert [[i.start, i.end, i.text] for i in intervals] == case["intervals"], name


@pytest.mark.parametrize("ending", ["txt", "srt", "vtt", "TextGrid", "ctm", "tsv"])
def test_files_are_those_recorded(cases, formats, ending):
    for name, case in cases.items():
        transcript = transcript_of(name, case)
        recorded = (formats / f"{name}.{ending}").read_bytes()
        assert render(transcript, ending.lower(), UNBROKEN).encode() == recorded, name
        if ending in ("srt", "vtt"):
            recorded = (formats / f"{name}.words.{ending}").read_bytes()
            assert render(each_word(transcript), ending, UNBROKEN).encode() == recorded, name


def test_json_holds_everything():
    word = Word("HÉ", 0.5, 0.9004, 0.87654, (Char("H", 0.5, 0.6, 1.0000001), Char("É", 0.7, 0.9, 0.5)))
    transcript = Transcript("a.wav", 2.0, tidy([Segment((word,))], 2.0), "m.pt", 16000)
    plain = json.loads(transcript.json())
    assert "É" in transcript.json()  # not escaped
    assert plain["segments"][0]["words"] == [
        {
            "word": "HÉ",
            "start": 0.5,
            "end": 0.9,
            "confidence": 0.8765,
            "interpolated": False,
            "chars": [
                {"char": "H", "start": 0.5, "end": 0.6, "confidence": 1.0},
                {"char": "É", "start": 0.7, "end": 0.9, "confidence": 0.5},
            ],
        }
    ]
    assert {key: plain[key] for key in ("file", "duration", "model", "sample_rate", "text", "confidence")} == {
        "file": "a.wav", "duration": 2.0, "model": "m.pt", "sample_rate": 16000, "text": "HÉ", "confidence": 0.8765
    }  # fmt: skip
    assert "mean probability" in plain["confidence_is"]
    nothing = json.loads(Transcript("a.wav", 0.0, ()).json())
    assert (nothing["text"], nothing["confidence"], nothing["segments"]) == ("", 0.0, [])


seconds = st.floats(-1, 12, allow_nan=False)


@given(st.lists(st.tuples(seconds, seconds), max_size=40), st.integers(0, 10_000))
def test_tidied_times_are_sorted_disjoint_and_inside(times, last):
    found = tidy_times(times, last)
    assert len(found) == len(times)
    done = 0
    for start, end in found:
        assert done <= start <= end <= last
        assert start < end or len(times) > last
        done = end
    assert tidy_times([(start / 1000, end / 1000) for start, end in found], last) == found


def test_tidied_words_keep_their_symbols_inside():
    chars = tuple(Char(letter, 1.0 + k / 50, 1.2 + k / 50, float("nan")) for k, letter in enumerate("long"))
    words = (Word(" long\nword ", 1.0, 1.5, 1.2, chars), Word("\t", 1.1, 1.2, 1.0), Word("next", 1.05, 1.3, -0.1))
    (segment,) = tidy([Segment(words), Segment((Word(" ", 0, 1, 1),))], 2.0)
    assert [(w.text, w.start, w.end, w.confidence) for w in segment.words] == [
        ("long word", 1.0, 1.05, 1.0), ("next", 1.05, 1.3, 0.0)
    ]  # fmt: skip
    places = [(c.start, c.end) for c in segment.words[0].chars]
    assert places == [(1.0, 1.02), (1.02, 1.04), (1.04, 1.049), (1.049, 1.05)]
    assert all(char.confidence == 0 for char in segment.words[0].chars)


def spans_of(text: str, word: int = 300, gap: int = 20) -> list[Span]:
    return [Span(t, k * (word + gap), k * (word + gap) + word) for k, t in enumerate(text.split())]


def test_two_lines_the_longer_one_below():
    text = "the quick brown fox jumps over the lazy dog and runs away"
    (cue,) = cues([spans_of(text)], SubtitleStyle(max_cue_seconds=20))
    upper, lower = cue.text.split("\n")
    assert (upper, lower) == ("the quick brown fox jumps over", "the lazy dog and runs away") or len(upper) <= len(
        lower
    )
    assert max(len(upper), len(lower)) <= 42
    # A break one word later would make the upper line the longer one.
    moved = f"{upper} {lower.split()[0]}"
    assert len(moved) > len(lower) - len(lower.split()[0]) - 1


def fits(words: list[Span], style: SubtitleStyle) -> bool:
    """Whether words fit into one cue: all ways to break them into lines are tried."""
    if words[-1].end - words[0].start > 1000 * style.max_cue_seconds:
        return False
    places = range(1, len(words))
    for count in range(style.max_line_count):
        for breaks in itertools.combinations(places, count):
            edges = [0, *breaks, len(words)]
            lines = [" ".join(w.text for w in words[i:j]) for i, j in itertools.pairwise(edges)]
            if max(map(len, lines)) <= style.max_line_width:
                return True
    return False


@settings(max_examples=60)
@given(
    st.lists(st.tuples(st.integers(1, 14), st.integers(0, 1300)), min_size=1, max_size=9),
    st.integers(8, 40),
    st.integers(1, 3),
    st.sampled_from([1.5, 7.0]),
)
def test_cues_are_the_best_of_all_ways(sizes, width, count, longest):
    words, now = [], 0
    for size, gap in sizes:
        words.append(Span("x" * size, now, now + 40 * size))
        now += 40 * size + gap
    style = SubtitleStyle(max_line_width=width, max_line_count=count, max_cue_seconds=longest)
    pauses = [after.start - before.end > 1000 for before, after in itertools.pairwise(words)]
    costs = []
    for cuts in itertools.product([False, True], repeat=len(pauses)):
        edges = [0, *(i for i, cut in enumerate(cuts, 1) if cut), len(words)]
        parts = [words[i:j] for i, j in itertools.pairwise(edges)]
        if all(cut >= pause for cut, pause in zip(cuts, pauses, strict=True)) and all(
            len(part) == 1 or fits(part, style) for part in parts
        ):
            costs.append((sum(len(part) == 1 for part in parts), len(parts)))
    found = cues([words], style)
    parts = [cue.text.split() for cue in found]
    assert [word for part in parts for word in part] == [word.text for word in words]
    assert (sum(len(part) == 1 for part in parts), len(parts)) == min(costs)
    starts, ends = {word.start for word in words}, {word.end for word in words}
    for cue in found:
        assert cue.start in starts
        assert cue.end in ends
        lines = cue.text.split("\n")
        assert len(lines) == 1 or max(map(len, lines)) <= width
        assert len(lines) <= count


def test_no_word_stands_alone_in_the_last_cue():
    words = spans_of(" ".join(["seven77"] * 11), gap=20)  # ten fill a cue of two lines
    found = cues([words], SubtitleStyle())
    assert [len(cue.text.split()) for cue in found] in ([5, 6], [6, 5])


def test_a_long_word_is_a_cue_of_its_own():
    words = spans_of(f"before {'x' * 60} after that")
    assert [cue.text for cue in cues([words], SubtitleStyle())] == ["before", "x" * 60, "after that"]


def test_formats_of_a_flag():
    assert read_formats("all") == tuple(FORMATS)
    assert read_formats("txt,srt") == ("txt", "srt")
    with pytest.raises(ValueError, match="got 'docx'"):
        read_formats("txt,docx")


@pytest.fixture(scope="session")
def readable(cases) -> list[Transcript]:
    return [transcript_of(name, case) for name, case in cases.items()]


def test_independent_readers_find_the_same_subtitles(readable):
    webvtt = pytest.importorskip("webvtt")
    for transcript in readable:
        expected = [(cue.text.split(), cue.start, cue.end) for cue in transcript.cues()]
        for cue in expected:
            cue[0][:] = [word.replace("-->", "->") for word in cue[0]]
        srt = io.StringIO(transcript.srt())
        found = webvtt.from_buffer(srt, format="srt") if expected else []
        assert [(c.raw_text.split(), _ms(c.start), _ms(c.end)) for c in found] == expected
        found = webvtt.from_buffer(io.StringIO(transcript.vtt()), format="vtt")
        assert [(_ms(c.start), _ms(c.end)) for c in found] == [cue[1:] for cue in expected]


def _ms(clock: str) -> int:
    hours, minutes, rest = clock.replace(",", ".").split(":")
    return (int(hours) * 60 + int(minutes)) * 60_000 + round(1000 * float(rest))


def test_an_independent_reader_finds_the_same_grid(readable, tmp_path):
    textgrid = pytest.importorskip("praatio.textgrid")
    for transcript in readable:
        path = tmp_path / "a.TextGrid"
        path.write_text(transcript.textgrid(with_chars=True), encoding="utf-8")
        grid = textgrid.openTextgrid(str(path), includeEmptyIntervals=False)
        entries = grid.getTier("words").entries
        assert [(e.label, e.start, e.end) for e in entries] == [(w.text, w.start, w.end) for w in transcript.words]


@pytest.mark.parametrize("num_segments", [0, 1, 3])
def test_json_by_segments_is_the_whole_at_once(num_segments: int) -> None:
    """Oracle: the encoder of the standard library, given everything."""
    word = Word('a "quoted"\\n{}[]é', 0.1, 0.2, 0.5, (Char("a", 0.1, 0.15, 0.5),))
    segments = tuple(Segment((word,) * (n + 1), 0.25 if n else None) for n in range(num_segments))
    for padded in (False, True):
        found = Transcript("f[].wav", 3.0, segments, "m", 16000, padded)
        assert found.json() == json.dumps(found.as_dict(), ensure_ascii=False, allow_nan=False, indent=2) + "\n"


def test_json_of_hours_takes_little_memory() -> None:
    word = Word("WORD", 0.1, 0.2, 0.5, tuple(Char(c, 0.1, 0.15, 0.5) for c in "WORD"))
    found = Transcript("f.wav", 9000.0, (Segment((word,) * 20),) * 500)
    tracemalloc.start()
    try:
        size = sum(map(len, found.json_parts()))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert size > 4_000_000
    assert peak < size / 10


@pytest.mark.parametrize("name", FORMATS)
def test_a_growing_transcript_is_rendered_as_a_whole_one(name):
    """P31: whatever was added when, and when nothing was said."""
    rng = np.random.default_rng(5)
    segments, time = [], 0.0
    for _ in range(12):
        words = []
        for text in ["it's", "<seven>", '"eight"', "a", "--> b", "é"][: rng.integers(1, 7)]:
            time += float(rng.choice([0.125, 1.5]))
            words.append(Word(text, time, time + 0.1, float(rng.uniform()), (Char("x", time, time + 0.05, 0.5),)))
        segments.append(Segment(tuple(words)))
    growing = GrowingTranscript("talk.wav", SubtitleStyle(), "m", 16000)
    for size in (0, 1, 4, 12):
        growing.add(segments[len(growing._segments) : size])
        whole = Transcript("talk.wav", 99.5, tuple(segments[:size]), "m", 16000)
        assert growing.render(name, 99.5) == render(whole, name, SubtitleStyle())
