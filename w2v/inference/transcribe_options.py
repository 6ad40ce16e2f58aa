"""How recordings are transcribed: the options of `w2v-transcribe` and of `w2v.transcribe`."""

from __future__ import annotations

import math
from dataclasses import dataclass

from w2v.config import arg, check_range
from w2v.data.speech_segments import SpeechRule
from w2v.errors import ConfigError


@dataclass(frozen=True)
class TranscribeConfig:
    """How a recording is cut, and how much is computed at once."""

    vad: str = arg(
        "auto",
        help="transcribe speech alone: silero (a network; needs the extra vad), level (louder than the noise), auto "
        "(recordings longer than a window by silero, or by level where it is not installed), or none: all of it",
        choices=("auto", "silero", "level", "none"),
    )
    vad_threshold: float = arg(0.5, help="probability at which silero hears speech")
    vad_silence: float = arg(0.5, help="seconds without speech that end a stretch of it")
    vad_pad: float = arg(0.2, help="seconds by which stretches of speech are widened at both ends")
    window: float = arg(60.0, help="longest piece that the model is given at once, in seconds; 0: all of a recording")
    context: float = arg(5.0, help="seconds at both ends of a piece that only serve as context")
    max_tokens: int | None = arg(
        None, help="largest batch: pieces x longest piece, in samples (default: 640000 on a CPU, 8000000 on a GPU)"
    )
    max_pause: float = arg(1.0, help="a longer pause ends a segment, in seconds")

    def __post_init__(self) -> None:
        check_range(self, 1, math.inf, "max_tokens")
        check_range(self, 0, math.inf, "window", "context", "vad_silence", "vad_pad", "max_pause")
        if not 0 < self.vad_threshold < 1:
            raise ConfigError(f"--vad-threshold must be above 0 and below 1, got {self.vad_threshold}")

    @property
    def speech_rule(self) -> SpeechRule:
        """When speech begins and ends; ten minutes without a pause are cut, which bounds the memory."""
        return SpeechRule(self.vad_threshold, self.vad_silence, pad=self.vad_pad, max_speech=600.0)
