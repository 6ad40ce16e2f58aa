"""Run a CTC model over the clips of a manifest: from audio to emissions, which decoders read.

No clip is dropped: one that cannot be read is named and has no frames, one shorter than a frame has none either, and
one of many minutes goes through in windows. Decoding is `decoders`', files of emissions are `emission_file`'s.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from w2v.data.dictionary import Dictionary
from w2v.data.manifest import Manifest
from w2v.data.post_process import fitting_post_process
from w2v.errors import CheckpointError
from w2v.functional.conv_spec import ConvLayer, receptive_field, total_stride
from w2v.functional.windows import overlapping_windows
from w2v.inference.emission_file import EmissionInfo
from w2v.inference.encode import ClipEncoder, Encoded, in_one
from w2v.inference.load import LoadedModel
from w2v.types import CtcOutput, Emissions, IntArray

logger = logging.getLogger(__name__)

CONTEXT = 64_000  # samples at both ends of a window that only serve as context, as in w2v-featurize


@dataclass(frozen=True)
class ModelEmissions:
    """Emissions of a model, computed when they are asked for.

    Attributes:
        loaded: the model.
        info: what all its emissions have in common.
        device: where it computes; it is moved there at the first batch.
        half: number format of autocast; None: float32.
        num_workers: files read at once.
        longest: clips of more samples are cut into overlapping windows, whose frames are joined: what a model computes
            of three hours at once fits into no memory. 0: never.
    """

    loaded: LoadedModel
    info: EmissionInfo
    device: torch.device
    half: torch.dtype | None
    num_workers: int
    longest: int = 0

    def read(self, manifest: Manifest, batches: Sequence[IntArray]) -> Iterator[Emissions]:
        """Yield the emissions of batches of clips.

        Args:
            manifest: the clips.
            batches: their lines in the manifest, from 0.

        Raises:
            CheckpointError: the model is no CTC model.
            DataError: the root folder is missing.
        """
        manifest.check_root()
        task, layers = self.loaded.task.config, layers_of(self.loaded.model)
        cut = partial(overlapping_windows, layers=layers, max_size=self.longest, context=CONTEXT) if layers else in_one
        encoder = ClipEncoder(
            encode=self._log_probs, layers=layers, cut=cut, device=self.device, sample_rate=task.sample_rate,
            normalize=task.normalize, resample=task.resample, max_tokens=self.longest, num_threads=self.num_workers,
        )  # fmt: skip
        self.loaded.model.to(self.device).eval()
        for clips in encoder.run(manifest, batches):
            yield self._batch(clips)

    def _log_probs(self, source: Tensor, lengths: Tensor | None) -> tuple[Tensor, Tensor]:
        """Return log-probabilities (B, T, V) of symbols, and true frames (B,) per clip."""
        model = self.loaded.model
        with torch.autocast(self.device.type, dtype=self.half, enabled=self.half is not None):
            output = model(source, lengths, 0)
        if not isinstance(output, CtcOutput):
            raise CheckpointError(f"{self.info.model}: {type(model).__name__} is no CTC model")
        return output.logits.float().log_softmax(dim=-1), output.lengths

    def _batch(self, clips: Sequence[Encoded]) -> Emissions:
        frames = []
        for clip in clips:
            if clip.frames is None and not clip.is_short:
                logger.warning("unreadable, its transcript is empty: %s", clip.reason)
            nothing = torch.zeros(0, len(self.info.symbols))
            frames.append(nothing if clip.frames is None else torch.from_numpy(clip.frames))
        return Emissions(
            rows=[clip.row for clip in clips],
            num_samples=[clip.num_samples for clip in clips],
            log_probs=pad_sequence(frames, batch_first=True),
            lengths=torch.tensor([len(part) for part in frames]),
        )


def layers_of(model: torch.nn.Module) -> tuple[ConvLayer, ...]:
    """Return the convolutions that make frames of samples; () where the model does not tell."""
    layers: tuple[ConvLayer, ...] = getattr(model, "conv_layers", ())  # any module that returns a CtcOutput will do
    return layers


def emission_info(loaded: LoadedModel, name: str, dictionary: Dictionary, post_process: str) -> EmissionInfo:
    """Return what is common to all emissions of a model.

    Args:
        loaded: the model.
        name: what it is called in file names.
        dictionary: what the columns stand for.
        post_process: how symbols become words.
    """
    task, layers = loaded.task.config, layers_of(loaded.model)
    post_process = fitting_post_process(post_process, dictionary.symbols)
    stride = total_stride(layers) if layers else 0
    offset = (receptive_field(layers) - stride) / 2 if layers else 0.0
    return EmissionInfo(name, dictionary.symbols, post_process, task.labels or "ltr", task.sample_rate, stride, offset)
