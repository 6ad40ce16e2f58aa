"""A recording and its text to words with times, in one call: what `w2v.align` is."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from pathlib import Path

import torch

from w2v.data.text_file import read_lines
from w2v.errors import DataError
from w2v.inference.align_options import AlignmentConfig
from w2v.inference.emissions import ctc_info
from w2v.inference.load import LoadedModel, load_model
from w2v.inference.recording import recording_of
from w2v.inference.recording_emissions import RecordingEmissions
from w2v.inference.result import Transcript
from w2v.inference.text_alignment import TextAligner
from w2v.inference.transcribe import Model, Source
from w2v.inference.wrong_text import MIN_CONFIDENCE, likely_cause, named_characters

logger = logging.getLogger(__name__)


def align(
    source: Source,
    text: str | os.PathLike[str] | Sequence[str],
    sample_rate: int | None = None,
    *,
    model: Model,
    star: str = "none",
    pad_words: bool = False,
    device: str | torch.device | None = None,
) -> Transcript:
    """Return when each word of a text was said in its recording.

    Each line of the text becomes a segment, and each word of it a word of the result, as it is written. A text is
    always found somewhere: `Transcript.confidence`, and those of its words, tell whether it was said, and a warning is
    logged where most of it was not.

    Args:
        source: path of an audio file, or samples, as in `w2v.transcribe`.
        text: what was said: the text itself, its lines, or a `Path` of a file that holds it. A word `*` stands for
            speech that is not written down.
        sample_rate: of samples, in Hz.
        model: what `w2v.load_model` returned, or the path of a checkpoint fine-tuned with CTC.
        star: where else the recording may hold speech that the text lacks: `none`, `ends`, `lines` or `words`.
        pad_words: let words reach to the middle of the pauses around them.
        device: where the model computes; None: a GPU where there is one.

    Raises:
        DataError: the recording cannot be read, or the text does not fit into it.
        W2vError: the model cannot be used.
    """
    loaded = model if isinstance(model, LoadedModel) else load_model(os.fspath(model))
    info = ctc_info(loaded)
    aligner = TextAligner(info, AlignmentConfig(star=star, pad_words=pad_words))
    recording = recording_of(source, sample_rate)
    where = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    (frames,) = RecordingEmissions(loaded, info, where).read([recording])
    if frames.num_samples is None:
        raise DataError(frames.reason)
    try:
        found = aligner.align(frames.log_probs, frames.num_samples, lines_of(text), recording.name)
    except DataError as e:
        raise DataError(f"{recording.name}: {e}") from e
    if found.spelling.missing:
        logger.info("the dictionary lacks %s", named_characters(found.spelling.missing))
    if found.median_confidence < MIN_CONFIDENCE:
        logger.warning("%s: the text was not heard: %s", recording.name, likely_cause(found))
    return found.transcript


def lines_of(text: str | os.PathLike[str] | Sequence[str]) -> list[str]:
    """Return the lines of a text, be it given itself or as a `Path` of its file."""
    if isinstance(text, os.PathLike):
        return list(read_lines(Path(text), "text"))
    return text.splitlines() if isinstance(text, str) else list(text)
