"""Log-probabilities of whole recordings, of any length: the model sees windows, and their frames are joined.

`transcriber` decodes recordings part by part; an alignment needs all frames of a recording at once.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from w2v.data.speech_segments import SpeechRule
from w2v.inference.emission_file import EmissionInfo
from w2v.inference.emissions import clip_log_probs
from w2v.inference.encode import conv_stack
from w2v.inference.load import LoadedModel
from w2v.inference.recording import Recording
from w2v.inference.recording_reader import End, RecordingReader
from w2v.inference.transcribe_options import TranscribeConfig
from w2v.inference.windows import Window, window_grid

WINDOW, CONTEXT = TranscribeConfig().window, TranscribeConfig().context  # seconds


@dataclass(frozen=True)
class RecordingFrames:
    """All frames of one recording.

    Attributes:
        number: of the recording.
        num_samples: at the model's rate; None: it could not be read.
        log_probs: (T, V).
        reason: why it could not be read.
    """

    number: int
    num_samples: int | None
    log_probs: npt.NDArray[np.float32]
    reason: str = ""


@dataclass(frozen=True)
class RecordingEmissions:
    """A model that is run over recordings.

    Attributes:
        loaded: a model fine-tuned with CTC.
        info: what its emissions have in common.
        device: where it computes.
        half: number format of autocast; None: float32.
        max_tokens: largest batch: windows x longest window, in samples; None: one window.
        num_threads: recordings read at once.
    """

    loaded: LoadedModel
    info: EmissionInfo
    device: torch.device
    half: torch.dtype | None = None
    max_tokens: int | None = None
    num_threads: int = 1

    def read(self, recordings: Iterable[Recording]) -> Iterator[RecordingFrames]:
        """Yield the frames of each recording as soon as they are there, in any order."""
        model = self.loaded.model.to(self.device).eval()
        empty = np.zeros((0, len(self.info.symbols)), dtype=np.float32)
        parts: dict[int, list[npt.NDArray[np.float32]]] = {}
        for items in self._reader().batches(recordings):
            windows = [(item.number, item.part) for item in items if isinstance(item.part, Window)]
            samples = [window.samples for _, window in windows]
            found = clip_log_probs(model, samples, self.device, self.half, self.info) if samples else []
            for (number, window), frames in zip(windows, found, strict=True):
                # A view would keep the padded batch.
                kept = frames[window.skip : window.skip + window.keep].copy()
                parts.setdefault(number, []).append(kept)
            for item in items:
                if isinstance(item.part, End):
                    log_probs = np.concatenate(parts.pop(item.number, [empty]))
                    yield RecordingFrames(item.number, item.part.num_samples, log_probs, item.part.reason)

    def _reader(self) -> RecordingReader:
        grid = window_grid(conv_stack(self.loaded.model), self.info.sample_rate, WINDOW, CONTEXT)
        return RecordingReader(
            sample_rate=self.info.sample_rate,
            normalize=self.loaded.task.config.normalize,
            normalize_epsilon=self.loaded.task.config.normalize_epsilon,
            grid=grid,
            new_detector=None,
            rule=SpeechRule(),
            max_tokens=self.max_tokens or grid.size,
            num_threads=self.num_threads,
        )
