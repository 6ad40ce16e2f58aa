"""How a stream is cut into utterances: the options of `w2v-live` and of `LiveSession`."""

from __future__ import annotations

import math
from dataclasses import dataclass

from w2v.config import arg, check_range
from w2v.errors import ConfigError


@dataclass(frozen=True)
class LiveOptions:
    """When an utterance begins and ends, and how often its text is shown before it has ended."""

    vad: str = arg(
        "auto",
        help="what tells speech from other sound: silero (a network; needs the extra vad), level (louder than the "
        "noise), or auto (silero where it is installed, else level)",
        choices=("auto", "silero", "level"),
    )
    vad_threshold: float = arg(0.5, help="probability at which silero hears speech")
    pre_roll: float = arg(0.2, help="seconds before the first sound of speech that belong to an utterance")
    hang_over: float = arg(0.3, help="seconds without speech that end an utterance")
    max_utterance: float = arg(
        20.0, help="longest utterance, in seconds; a longer one is cut in a pause, without losing a word"
    )
    partial_interval: float = arg(
        0.5, help="seconds between two hypotheses of an utterance that is being spoken; 0: none before its end"
    )

    def __post_init__(self) -> None:
        check_range(self, 0, 10, "pre_roll", "hang_over")
        check_range(self, 4, 40, "max_utterance")
        check_range(self, 0, math.inf, "partial_interval")
        if not 0 < self.vad_threshold < 1:
            raise ConfigError(f"--vad-threshold must be above 0 and below 1, got {self.vad_threshold}")
