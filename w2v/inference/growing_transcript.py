"""A transcript that grows: what was rendered once is not rendered again, so that hours of it are written quickly."""

from __future__ import annotations

from collections.abc import Sequence

from w2v.inference.result import Segment, Transcript, json_parts, render, segment_json
from w2v.inference.spans import Span
from w2v.inference.subtitles import SubtitleStyle, srt, vtt


class GrowingTranscript:
    """Segments in the order in which they were said.

    Args:
        file: name of what is heard.
        style: of subtitles.
        model: name of the model.
        sample_rate: of the model, in Hz.
    """

    def __init__(self, file: str, style: SubtitleStyle, model: str, sample_rate: int) -> None:
        self.file, self.style, self.model, self.sample_rate = file, style, model, sample_rate
        self._segments: list[Segment] = []
        self._texts: list[str] = []
        self._jsons: list[str] = []
        self._cues: list[Span] = []
        self._confidence, self._num_words = 0.0, 0  # sum over words, and their number

    def add(self, segments: Sequence[Segment]) -> None:
        """Take the segments that follow."""
        self._segments += segments
        for segment in segments:
            self._texts.append(segment.text)
            self._jsons.append(segment_json(segment))
            for word in segment.words:
                self._confidence += word.confidence
                self._num_words += 1
        self._cues += self._transcript(segments, 0.0).cues(self.style)

    def render(self, name: str, duration: float) -> str:
        """Return a file of one of `result.FORMATS` for `duration` seconds, as `Transcript` renders it."""
        if name == "txt":
            return "".join(f"{text}\n" for text in self._texts)
        if name in ("srt", "vtt"):
            return (srt if name == "srt" else vtt)(self._cues)
        if name == "json" and self._jsons:
            facts = self._transcript((), duration).as_dict()
            confidence = round(self._confidence / self._num_words, 4)
            return "".join(json_parts({**facts, "text": " ".join(self._texts), "confidence": confidence}, self._jsons))
        return render(self._transcript(self._segments, duration), name, self.style)

    def _transcript(self, segments: Sequence[Segment], duration: float) -> Transcript:
        return Transcript(self.file, duration, tuple(segments), self.model, self.sample_rate)
