"""Run a CTC model over the clips of a manifest: from audio to emissions, which decoders read.

No clip is dropped: one that cannot be read is named and has no frames, one shorter than a frame has none either, one
that is longer than a batch is a batch of its own, and one of many minutes goes through in windows. Decoding is
`decoders`', files of emissions are `data/emission_file`'s.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import PurePath

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from w2v.data.dataset import AudioDataset
from w2v.data.dictionary import Dictionary
from w2v.data.iterator import iterate
from w2v.data.manifest import Manifest
from w2v.data.post_process import fitting_post_process
from w2v.errors import CheckpointError, ConfigError, DataError
from w2v.functional.conv_spec import receptive_field, total_stride
from w2v.functional.windows import overlapping_windows
from w2v.inference.emission_file import EmissionInfo
from w2v.inference.encode import conv_stack
from w2v.inference.load import LoadedModel
from w2v.models.base import W2vModel
from w2v.types import AudioBatch, AudioExample, CtcOutput, Emissions

logger = logging.getLogger(__name__)


class AllClips(AudioDataset):
    """Every clip of a manifest; one that cannot be read is named, and empty, instead of being replaced."""

    def in_place_of(self, index: int, error: DataError) -> AudioExample:
        logger.warning("unreadable, its transcript is empty: %s", error)
        return AudioExample(index, torch.zeros(0))


CONTEXT = 64_000  # samples at both ends of a window that only serve as context, as in w2v-featurize


@dataclass(frozen=True)
class ModelEmissions:
    """Emissions of a model, computed when they are asked for.

    Attributes:
        loaded: the model.
        info: what all its emissions have in common.
        device: where it computes; it is moved there at the first batch.
        half: number format of autocast; None: float32.
        num_workers: processes that read audio; 0 reads in this process.
        longest: clips of more samples are cut into overlapping windows, whose frames are joined: what a model computes
            of three hours at once fits into no memory. 0: never.
    """

    loaded: LoadedModel
    info: EmissionInfo
    device: torch.device
    half: torch.dtype | None
    num_workers: int
    longest: int = 0

    @torch.inference_mode()
    def read(self, manifest: Manifest, batches: Sequence[npt.NDArray[np.int64]]) -> Iterator[Emissions]:
        """Yield the emissions of batches of clips.

        Args:
            manifest: the clips.
            batches: their lines in the manifest, from 0.

        Raises:
            CheckpointError: the model is no CTC model.
        """
        task = self.loaded.task.config
        clips = AllClips(
            manifest, sample_rate=task.sample_rate, pad=True, normalize=task.normalize, resample=task.resample
        )
        model = self.loaded.model.to(self.device).eval()
        for batch in iterate(clips, batches, [0] * len(batches), num_workers=self.num_workers):
            is_long = 0 < self.longest < batch.source.shape[1] and self.info.stride > 0
            output = self._in_windows(model, batch) if is_long else self._forward(model, batch)
            yield Emissions(
                rows=batch.indices.tolist(),
                num_samples=batch.lengths.tolist(),
                log_probs=output.logits.float().log_softmax(dim=-1).cpu(),
                lengths=output.lengths.cpu(),
            )

    def _forward(self, model: W2vModel, batch: AudioBatch) -> CtcOutput:
        return ctc_output(model, batch.source, batch.lengths, self.device, self.half, self.info)

    def _in_windows(self, model: W2vModel, batch: AudioBatch) -> CtcOutput:
        """Compute clip by clip, window by window."""
        layers = conv_stack(self.loaded.model)
        clips = []
        for source, length in zip(batch.source, batch.lengths.tolist(), strict=True):
            parts = []
            for piece in overlapping_windows(length, layers, self.longest, CONTEXT) if length else ():
                window = source[None, piece.start : piece.stop]
                part = replace(batch, source=window, lengths=torch.tensor([piece.num_samples]))
                parts.append(self._forward(model, part).logits[0, piece.skip : piece.skip + piece.keep].cpu())
            clips.append(torch.cat(parts) if parts else torch.zeros(0, len(self.info.symbols)))
        return CtcOutput(pad_sequence(clips, batch_first=True), torch.tensor([len(clip) for clip in clips]))


def ctc_output(
    model: W2vModel,
    source: Tensor,
    lengths: Tensor,
    device: torch.device,
    half: torch.dtype | None,
    info: EmissionInfo,
) -> CtcOutput:
    """Run a CTC model over padded clips.

    Args:
        model: on `device`.
        source: (B, S) samples, zero where padded; moved to `device`.
        lengths: (B,) true samples per clip, on the CPU.
        device: where it computes.
        half: number format of autocast; None: float32.
        info: of the model.

    Raises:
        CheckpointError: the model is no CTC model.
    """
    if source.shape[1] < receptive_field(model.conv_layers):
        # No clip has a frame. Models say so themselves; one from outside may refuse such a batch.
        return CtcOutput(torch.zeros(len(source), 0, len(info.symbols)), torch.zeros_like(lengths))
    is_padded = bool((lengths < source.shape[1]).any())
    with torch.autocast(device.type, dtype=half, enabled=half is not None):
        output = model(source.to(device), lengths if is_padded else None, 0)
    if not isinstance(output, CtcOutput):
        raise CheckpointError(f"{info.model}: {type(model).__name__} is no CTC model")
    return output


@torch.inference_mode()
def clip_log_probs(
    model: W2vModel,
    clips: Sequence[npt.NDArray[np.float32]],
    device: torch.device,
    half: torch.dtype | None,
    info: EmissionInfo,
) -> list[npt.NDArray[np.float32]]:
    """Return the log-probabilities (T, V) of clips (S,), computed together; the arguments are those of `ctc_output`."""
    lengths = torch.tensor([len(clip) for clip in clips])
    source = pad_sequence([torch.from_numpy(clip) for clip in clips], batch_first=True)
    output = ctc_output(model, source, lengths, device, half, info)
    log_probs = output.logits.float().log_softmax(dim=-1).cpu().numpy()
    return [part[:length] for part, length in zip(log_probs, output.lengths.tolist(), strict=True)]


def ctc_info(loaded: LoadedModel, post_process: str | None = None, *, flag: str = "the model") -> EmissionInfo:
    """Return what is common to all emissions of a model, as its checkpoint says it.

    Args:
        loaded: the model.
        post_process: how symbols become words; None: as in training.
        flag: what named it, for messages.

    Raises:
        CheckpointError: the model writes no labels.
    """
    where = f"{flag} {loaded.path}"
    if loaded.model.reads != "audio":
        raise CheckpointError(f"{where} is a language model; name it with --lm-model")
    dictionary = getattr(loaded.task, "dictionary", None)
    if not isinstance(dictionary, Dictionary):
        raise CheckpointError(f"{where} has no labels to write: it was not fine-tuned with --labels")
    trained = loaded.config.get("criterion", {}).get("post_process", "letter") or "none"
    symbol = post_process or fitting_post_process(trained, dictionary.symbols)
    return emission_info(loaded, PurePath(loaded.path).name, dictionary, symbol)


def emission_info(loaded: LoadedModel, name: str, dictionary: Dictionary, post_process: str) -> EmissionInfo:
    """Return what is common to all emissions of a model.

    Args:
        loaded: the model.
        name: what it is called in file names.
        dictionary: what the columns stand for.
        post_process: how symbols become words.
    """
    task = loaded.task.config
    post_process = fitting_post_process(post_process, dictionary.symbols)
    try:
        layers = conv_stack(loaded.model)
    except ConfigError:  # a model of somebody else: its frames are not known
        stride, offset = 0, 0.0
    else:
        stride = total_stride(layers)
        offset = (receptive_field(layers) - stride) / 2
    return EmissionInfo(name, dictionary.symbols, post_process, task.labels or "ltr", task.sample_rate, stride, offset)
