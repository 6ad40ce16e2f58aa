"""What was said in a recording, and when: the result of transcribing, of aligning and of listening live.

All times are seconds from the beginning of the file, whole milliseconds, sorted and disjoint; see `spans`. All
confidences lie in [0, 1] and have one definition, `CONFIDENCE`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from w2v.errors import ConfigError
from w2v.inference.annotations import ctm, textgrid, tsv
from w2v.inference.spans import Span, milliseconds, one_line, tidy_times
from w2v.inference.subtitles import SubtitleStyle, cues, srt, vtt

CONFIDENCE = "mean over symbols of the mean probability over each symbol's frames; of a text, the mean over its words"


@dataclass(frozen=True, slots=True)
class Char:
    """One symbol that was heard.

    Attributes:
        text: as it is spelled.
        start: in seconds.
        end: in seconds.
        confidence: mean probability over its frames.
    """

    text: str
    start: float
    end: float
    confidence: float


@dataclass(frozen=True, slots=True)
class Word:
    """One word.

    Attributes:
        text: as it is written.
        start: in seconds.
        end: in seconds.
        confidence: mean over its symbols.
        chars: its symbols; empty where they are not known.
        interpolated: its times come from its neighbours, not from the audio (`w2v-align`).
    """

    text: str
    start: float
    end: float
    confidence: float
    chars: tuple[Char, ...] = ()
    interpolated: bool = False


@dataclass(frozen=True, slots=True)
class Segment:
    """Words between two pauses, or of one line of a text.

    Attributes:
        words: at least one.
        min_window_score: ctc-segmentation's score of the segment, where it was computed (`w2v-align`).
    """

    words: tuple[Word, ...]
    min_window_score: float | None = None

    @property
    def text(self) -> str:
        return " ".join(word.text for word in self.words)

    @property
    def start(self) -> float:
        return self.words[0].start

    @property
    def end(self) -> float:
        return self.words[-1].end

    @property
    def confidence(self) -> float:
        return _mean(word.confidence for word in self.words)


@dataclass(frozen=True, slots=True)
class Transcript:
    """What was said in one recording.

    Attributes:
        file: its name as the caller gave it.
        duration: in seconds.
        segments: in order; none where nothing was said.
        model: name of the model.
        sample_rate: of the model, in Hz.
        has_padded_words: whether words were widened to the middle of the pauses around them (`--pad-words`).
    """

    file: str
    duration: float
    segments: tuple[Segment, ...]
    model: str = ""
    sample_rate: int = 16000
    has_padded_words: bool = False

    @property
    def words(self) -> tuple[Word, ...]:
        return tuple(word for segment in self.segments for word in segment.words)

    @property
    def chars(self) -> tuple[Char, ...]:
        return tuple(char for word in self.words for char in word.chars)

    @property
    def text(self) -> str:
        return " ".join(segment.text for segment in self.segments)

    @property
    def confidence(self) -> float:
        """Mean over words; 0 where there are none."""
        return _mean(word.confidence for word in self.words)

    def txt(self) -> str:
        """Return the text, one segment a line."""
        return "".join(f"{segment.text}\n" for segment in self.segments)

    def json(self) -> str:
        """Return everything, as JSON."""
        return "".join(self.json_parts())

    def json_parts(self) -> Iterator[str]:
        """Yield `json` segment by segment: as plain data, hours of words take ten times the memory of the text."""
        yield from json_parts(self._facts(), map(segment_json, self.segments))

    def as_dict(self) -> dict[str, Any]:
        """Return everything, as plain data; seconds have three decimals, confidences four."""
        return {**self._facts(), "segments": [segment_as_dict(segment) for segment in self.segments]}

    def _facts(self) -> dict[str, Any]:
        """Return what is known of the whole."""
        return {
            "file": self.file,
            "duration": round(self.duration, 3),
            "model": self.model,
            "sample_rate": self.sample_rate,
            "text": self.text,
            "confidence": round(self.confidence, 4),
            "confidence_is": CONFIDENCE,
            **({"padded_words": True} if self.has_padded_words else {}),
        }

    def srt(self, style: SubtitleStyle | None = None) -> str:
        """Return SubRip subtitles."""
        return srt(self.cues(style))

    def vtt(self, style: SubtitleStyle | None = None) -> str:
        """Return WebVTT subtitles."""
        return vtt(self.cues(style))

    def ctm(self) -> str:
        """Return the words as NIST's CTM."""
        return ctm(self.file, ((_span(word), word.confidence) for word in self.words))

    def textgrid(self, *, with_chars: bool = False) -> str:
        """Return Praat's TextGrid with a tier `words` and, if asked for, a tier `chars`."""
        tiers = {"words": [_span(word) for word in self.words]}
        if with_chars:
            tiers["chars"] = [_span(char) for char in self.chars]
        return textgrid(tiers, milliseconds(self.duration))

    def tsv(self) -> str:
        """Return a table of segments."""
        return tsv(Span(part.text, milliseconds(part.start), milliseconds(part.end)) for part in self.segments)

    def cues(self, style: SubtitleStyle | None = None) -> list[Span]:
        """Return the subtitles as spans of milliseconds."""
        words = ([_span(word) for word in segment.words] for segment in self.segments)
        return cues(words, style or SubtitleStyle())


Writer = Callable[[Transcript, SubtitleStyle], str]

FORMATS: dict[str, Writer] = {
    "txt": lambda transcript, style: transcript.txt(),
    "json": lambda transcript, style: transcript.json(),
    "srt": Transcript.srt,
    "vtt": Transcript.vtt,
    "ctm": lambda transcript, style: transcript.ctm(),
    "textgrid": lambda transcript, style: transcript.textgrid(),
    "tsv": lambda transcript, style: transcript.tsv(),
}
ENDINGS = {name: "TextGrid" if name == "textgrid" else name for name in FORMATS}


def read_formats(value: Any) -> tuple[str, ...]:
    """Parse `txt,srt` or `all`, for a flag.

    Raises:
        ValueError: a format is unknown.
    """
    names = tuple(FORMATS) if value == "all" else tuple(value.split(",") if isinstance(value, str) else value)
    for name in names:
        if name not in FORMATS:
            raise ValueError(f"must be formats of {', '.join(FORMATS)}, parted by commas, or all, got {name!r}")
    return names


def render(transcript: Transcript, name: str, style: SubtitleStyle | None = None) -> str:
    """Return a transcript as a file of one of `FORMATS`.

    Raises:
        ConfigError: there is no such format.
    """
    if name not in FORMATS:
        raise ConfigError(f"no format {name!r}; there are {', '.join(FORMATS)}")
    return FORMATS[name](transcript, style or SubtitleStyle())


def tidy(segments: Iterable[Segment], duration: float, start: float = 0.0) -> tuple[Segment, ...]:
    """Return segments whose times keep the rules of `spans.tidy_times`, and whose words hold no line breaks.

    Words without text, and segments without words, are left out.

    Args:
        segments: with times in seconds as they were found.
        duration: of the audio, in seconds: no time is beyond it.
        start: no time is before it.
    """
    kept = [replace(part, words=tuple(word for word in part.words if one_line(word.text))) for part in segments]
    words = [word for segment in kept for word in segment.words]
    times = iter(tidy_times(((word.start, word.end) for word in words), milliseconds(duration), milliseconds(start)))
    tidied = (replace(part, words=tuple(_tidy_word(word, *next(times)) for word in part.words)) for part in kept)
    return tuple(segment for segment in tidied if segment.words)


def _tidy_word(word: Word, start: int, end: int) -> Word:
    times = tidy_times([(char.start, char.end) for char in word.chars], end, start)
    chars = tuple(
        replace(char, start=first / 1000, end=last / 1000, confidence=_clamped(char.confidence))
        for char, (first, last) in zip(word.chars, times, strict=True)
    )
    return replace(
        word,
        text=one_line(word.text),
        start=start / 1000,
        end=end / 1000,
        confidence=_clamped(word.confidence),
        chars=chars,
    )


def segment_as_dict(segment: Segment) -> dict[str, Any]:
    """Return a segment as plain data, as it stands in `Transcript.json` and in the events of `w2v-live`."""
    plain = {
        "start": round(segment.start, 3),
        "end": round(segment.end, 3),
        "text": segment.text,
        "confidence": round(segment.confidence, 4),
        "words": [word_as_dict(word) for word in segment.words],
    }
    if segment.min_window_score is not None:
        plain["min_window_score"] = round(segment.min_window_score, 4)
    return plain


def segment_json(segment: Segment) -> str:
    """Return a segment as its lines in `Transcript.json`."""
    return "    " + _as_json(segment_as_dict(segment)).replace("\n", "\n    ")


def json_parts(facts: dict[str, Any], segments: Iterable[str]) -> Iterator[str]:
    """Yield the parts of `Transcript.json`.

    Args:
        facts: what is known of the whole; its `segments`, if there, are not looked at.
        segments: `segment_json` of each.
    """
    head, _, _ = _as_json({**facts, "segments": []}).rpartition("[]")
    yield f"{head}["
    between = "\n"
    for text in segments:
        yield f"{between}{text}"
        between = ",\n"
    yield "]\n}\n" if between == "\n" else "\n  ]\n}\n"


def _as_json(plain: dict[str, Any]) -> str:
    return json.dumps(plain, ensure_ascii=False, allow_nan=False, indent=2)


def word_as_dict(word: Word) -> dict[str, Any]:
    """Return a word as plain data."""
    chars = [{"char": char.text, **_measures(char)} for char in word.chars]
    return {"word": word.text, **_measures(word), "interpolated": word.interpolated, "chars": chars}


def _measures(part: Char | Word) -> dict[str, float]:
    return {
        "start": round(part.start, 3),
        "end": round(part.end, 3),
        "confidence": round(part.confidence, 4),
    }


def _span(part: Word | Char) -> Span:
    return Span(part.text, milliseconds(part.start), milliseconds(part.end))


def _mean(values: Iterable[float]) -> float:
    found: Sequence[float] = list(values)
    return sum(found) / len(found) if found else 0.0


def _clamped(confidence: float) -> float:
    """Return a confidence in [0, 1]: a mean of probabilities may exceed 1 by rounding; NaN is no confidence."""
    return min(max(confidence, 0.0), 1.0) if confidence == confidence else 0.0
