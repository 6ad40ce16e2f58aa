"""`POST /v1/audio/transcriptions` as OpenAI's clients send it: one recording in, its words out.

https://platform.openai.com/docs/api-reference/audio/createTranscription. What a CTC model cannot use (`model`,
`prompt`, `temperature`, `language`) is taken and has no effect; `stream` is refused.
"""

from __future__ import annotations

import math
import mmap
import os
import tempfile
import zlib
from collections.abc import Callable, Sequence
from pathlib import PurePath
from typing import TYPE_CHECKING, Any, BinaryIO

from w2v.inference.result import Segment, Transcript, render
from w2v.inference.subtitles import SubtitleStyle
from w2v_cli.serve.form import Field, Form, read_form, value_of, values_of
from w2v_cli.serve.http import HttpError, Response, as_json

if TYPE_CHECKING:
    from w2v.inference.transcriber import Transcriber

FORMATS = ("json", "text", "srt", "vtt", "verbose_json")
KINDS = {"text": "text/plain", "srt": "application/x-subrip", "vtt": "text/vtt"}


def transcription(
    upload: BinaryIO, kind: str, transcriber: Transcriber, style: SubtitleStyle, is_wanted: Callable[[], bool]
) -> Response:
    """Return the answer to a form with a recording.

    Args:
        upload: a file that holds the body of the request.
        kind: its Content-Type.
        transcriber: what turns recordings into words.
        style: of subtitles.
        is_wanted: whether there is still a client; asked while the recording is transcribed.

    Raises:
        HttpError: the form is not as it should be, or the recording cannot be read.
    """
    upload.flush()
    size = os.fstat(upload.fileno()).st_size
    if not size:
        raise HttpError(400, "The request has no body; send a form with the recording in the field file.")
    with mmap.mmap(upload.fileno(), size, access=mmap.ACCESS_READ) as data:
        form = read_form(data, kind)
        format, granularities = _wishes(data, form)
        file = _file(form)
        language = value_of(data, form, "language") or "unknown"
        transcript = _transcribe(data, file, transcriber, is_wanted)
    if format in KINDS:
        text = transcript.text + "\n" if format == "text" else render(transcript, format, style)
        return Response(text.encode(), f"{KINDS[format]}; charset=utf-8")
    if format == "verbose_json":
        return as_json(verbose(transcript, granularities, language))
    return as_json({"text": transcript.text, "usage": _usage(transcript)})


def as_error(error: HttpError) -> Response:
    """Return an answer in the form of OpenAI's errors."""
    kind = "server_error" if error.status >= 500 else "invalid_request_error"
    values = {"message": error.reason, "type": kind, "param": error.field, "code": None}
    return as_json({"error": values}, error.status)


def model_list(name: str) -> Response:
    """Return the answer to `GET /v1/models`: the one model that there is."""
    model = {"id": name, "object": "model", "created": 0, "owned_by": "w2v"}
    return as_json({"object": "list", "data": [model]})


def verbose(transcript: Transcript, granularities: Sequence[str], language: str) -> dict[str, Any]:
    """Return a transcript as `verbose_json`.

    Args:
        transcript: of the recording.
        granularities: `segment`, `word` or both.
        language: as the client named it; a CTC model does not tell.
    """
    values: dict[str, Any] = {
        "task": "transcribe",
        "language": language,
        "duration": round(transcript.duration, 3),
        "text": transcript.text,
        "usage": _usage(transcript),
    }
    if "word" in granularities:
        values["words"] = [
            {"word": word.text, "start": round(word.start, 3), "end": round(word.end, 3)} for word in transcript.words
        ]
    if "segment" in granularities:
        values["segments"] = [_segment(number, segment) for number, segment in enumerate(transcript.segments)]
    return values


def _segment(number: int, segment: Segment) -> dict[str, Any]:
    """Return a segment with the measures of Whisper, those without a meaning here at their neutral values."""
    text = segment.text.encode()
    return {
        "id": number,
        "start": round(segment.start, 3),
        "end": round(segment.end, 3),
        "text": segment.text,
        "avg_logprob": round(math.log(max(segment.confidence, 1e-10)), 4),
        "compression_ratio": round(len(text) / len(zlib.compress(text)), 4),
        "no_speech_prob": 0.0,
        "temperature": 0.0,
        "seek": 0,
        "tokens": [],
    }


def _usage(transcript: Transcript) -> dict[str, Any]:
    return {"type": "duration", "seconds": math.ceil(transcript.duration)}


def _wishes(data: mmap.mmap, form: Form) -> tuple[str, list[str]]:
    """Return the format, and of what the times are wanted."""
    format = value_of(data, form, "response_format") or "json"
    if format not in FORMATS:
        raise HttpError(400, f"response_format must be one of {', '.join(FORMATS)}, not {format}.", "response_format")
    stream = value_of(data, form, "stream")
    if stream is not None and stream.lower() not in ("", "false", "0"):
        raise HttpError(400, "stream is not served; leave it out.", "stream")
    name = "timestamp_granularities[]"
    granularities = values_of(data, form, name) + values_of(data, form, "timestamp_granularities")
    for found in granularities:
        if found not in ("word", "segment"):
            raise HttpError(400, f"timestamp_granularities must be word or segment, not {found}.", name)
    return format, granularities or ["segment"]


def _file(form: Form) -> Field:
    found = form.get("file", [])
    if len(found) != 1 or found[0].filename is None:
        raise HttpError(400, "The form needs the recording as one file in the field file.", "file")
    if found[0].start == found[0].end:
        raise HttpError(400, "The recording is an empty file.", "file")
    return found[0]


def _transcribe(data: mmap.mmap, file: Field, transcriber: Transcriber, is_wanted: Callable[[], bool]) -> Transcript:
    """Transcribe a file within a form, by way of a file of its own: that is what decoders of audio open."""
    from w2v.inference.recording import FileRecording

    def heard(segments: Sequence[Segment]) -> None:
        if not is_wanted():
            raise HttpError(503, "The server is ending, or the client is gone.")

    name = PurePath(file.filename or "").name or "the recording"
    ending = PurePath(name).suffix
    ending = ending if ending[1:].isascii() and ending[1:].isalnum() else ""
    with tempfile.NamedTemporaryFile(prefix="w2v-", suffix=ending) as copy:
        for start in range(file.start, file.end, 1 << 20):
            copy.write(data[start : min(start + (1 << 20), file.end)])
        copy.flush()
        (found,) = transcriber.transcripts([FileRecording(copy.name)], heard=heard)
        if isinstance(found, Transcript):
            return found
        raise HttpError(400, f"{found.reason.replace(copy.name, name)}.", "file")
