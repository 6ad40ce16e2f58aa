"""Run a CTC model over the clips of a manifest: from audio to emissions, which decoders read.

No clip is dropped: one that cannot be read is named and has no frames, one shorter than a frame has none either, and
one of many minutes goes through in windows. Decoding is `decoders`', files of emissions are `emission_file`'s.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import PurePath

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from w2v.data.audio import Samples
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

FloatFrames = npt.NDArray[np.float32]
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
        task, model = self.loaded.task.config, self.loaded.model.to(self.device).eval()
        encoder = replace(
            ctc_encoder(model, self.device, self.half, self.info, self.longest),
            normalize=task.normalize, normalize_epsilon=task.normalize_epsilon, resample=True, channel=task.channel,
            num_threads=self.num_workers,
        )  # fmt: skip
        for clips in encoder.run(manifest, batches):
            yield self._batch(manifest, clips)

    def _batch(self, manifest: Manifest, clips: Sequence[Encoded]) -> Emissions:
        frames = []
        for clip in clips:
            if clip.is_short:
                reason = f"{manifest.path(clip.row)}: {clip.reason}"
                logger.warning("too short for the model, its transcript is empty: %s", reason)
            elif clip.frames is None:
                logger.warning("unreadable, its transcript is empty: %s", clip.reason)
            nothing = torch.zeros(0, len(self.info.symbols))
            frames.append(nothing if clip.frames is None else torch.from_numpy(clip.frames))
        return Emissions(
            rows=[clip.row for clip in clips],
            num_samples=[clip.num_samples for clip in clips],
            log_probs=pad_sequence(frames, batch_first=True),
            lengths=torch.tensor([len(part) for part in frames]),
        )


def ctc_encoder(
    model: torch.nn.Module, device: torch.device, half: torch.dtype | None, info: EmissionInfo, longest: int = 0
) -> ClipEncoder:
    """Return the engine that makes log-probabilities (T, V) of clips, which come normalised.

    Args:
        model: on `device`.
        device: where it computes.
        half: number format of autocast; None: float32.
        info: of the model.
        longest: clips of more samples go through in windows; 0: never.
    """

    def log_probs(source: Tensor, lengths: Tensor | None) -> tuple[Tensor, Tensor]:
        with torch.autocast(device.type, dtype=half, enabled=half is not None):
            output = model(source, lengths, 0)
        if not isinstance(output, CtcOutput):
            raise CheckpointError(f"{info.model}: {type(model).__name__} is no CTC model")
        return output.logits.float().log_softmax(dim=-1), output.lengths

    layers = layers_of(model)
    cut = partial(overlapping_windows, layers=layers, max_size=longest, context=CONTEXT) if layers else in_one
    return ClipEncoder(
        encode=log_probs, layers=layers, cut=cut, device=device, sample_rate=info.sample_rate,
        normalize=False, normalize_epsilon=0.0,
        resample=False, max_tokens=longest, num_threads=1,
    )  # fmt: skip


def clip_log_probs(
    model: torch.nn.Module,
    clips: Sequence[Samples],
    device: torch.device,
    half: torch.dtype | None,
    info: EmissionInfo,
) -> list[FloatFrames]:
    """Return the log-probabilities (T, V) of clips (S,), computed together; the arguments are those of `ctc_encoder`.

    Raises:
        CheckpointError: the model is no CTC model.
    """
    nothing = np.zeros((0, len(info.symbols)), dtype=np.float32)
    found = ctc_encoder(model, device, half, info).encode_clips(clips)
    return [nothing if clip.frames is None else clip.frames for clip in found]


def layers_of(model: torch.nn.Module) -> tuple[ConvLayer, ...]:
    """Return the convolutions that make frames of samples; () where the model does not tell."""
    layers: tuple[ConvLayer, ...] = getattr(model, "conv_layers", ())  # any module that returns a CtcOutput will do
    return layers


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
    if loaded.model.reads == "masked text":
        raise CheckpointError(
            f"{where} is a masked language model, which writes no words; fine-tune it with --bert-path"
        )
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
    task, layers = loaded.task.config, layers_of(loaded.model)
    post_process = fitting_post_process(post_process, dictionary.symbols)
    stride = total_stride(layers) if layers else 0
    offset = (receptive_field(layers) - stride) / 2 if layers else 0.0
    return EmissionInfo(name, dictionary.symbols, post_process, task.labels or "ltr", task.sample_rate, stride, offset)
