"""Recordings to transcripts and features in one call: what `w2v.transcribe` and its like are.

Each function takes a model that was loaded once, or the path of one.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import fields
from typing import Any, overload

import numpy.typing as npt
import torch

from w2v.config import build_config
from w2v.config.decoding import DecoderConfig
from w2v.data.dictionary import Dictionary
from w2v.decoders import DECODERS, build_decoder
from w2v.errors import ConfigError, DataError
from w2v.functional.windows import equal_chunks, overlapping_windows
from w2v.inference.emissions import ctc_info
from w2v.inference.encode import ClipEncoder, Cut, Encode, code_function, conv_stack, feature_function, frame_tokens
from w2v.inference.load import LoadedModel, load_language_model, load_model
from w2v.inference.recording import Recording, read_recording, recording_of
from w2v.inference.result import Segment, Transcript
from w2v.inference.token_features import token_features
from w2v.inference.transcribe_options import TranscribeConfig
from w2v.inference.transcriber import Failure, Transcriber

Model = LoadedModel | str | os.PathLike[str]
Source = str | os.PathLike[str] | npt.NDArray[Any] | torch.Tensor
LARGEST_WINDOW, CONTEXT = 1_300_000, 64_000  # samples, as in w2v-featurize


def open_transcriber(
    model: Model | Transcriber,
    *,
    device: str | torch.device | None = None,
    post_process: str | None = None,
    **options: Any,
) -> Transcriber:
    """Prepare a model for transcribing, with its decoder and language model.

    Args:
        model: what `w2v.load_model` returned, or a path that it takes; a transcriber is returned as it is.
        device: where it computes; None: a GPU where there is one.
        post_process: how symbols become words; None: as in training.
        options: of `TranscribeConfig` (`vad="silero"`, `window=20`) and of `DecoderConfig` (`decoder="kenlm"`,
            `kenlm_model="4gram.arpa"`, `lm_weight=2`), by name.

    Raises:
        CheckpointError: the model cannot be read, or writes no labels.
        ConfigError: an option is unknown or breaks a rule.
    """
    if isinstance(model, Transcriber):
        if options or device is not None or post_process is not None:
            raise ConfigError("options belong to w2v.open_transcriber: a transcriber has its own")
        return model
    loaded = _loaded(model)
    info = ctc_info(loaded, post_process)
    if "decoder" in options:
        options["w2l_decoder"] = options.pop("decoder")
    ours = {option.name for option in fields(TranscribeConfig)}
    config = build_config(TranscribeConfig, {k: v for k, v in options.items() if k in ours}, "w2v.transcribe")
    kind = DECODERS.get(options.get("w2l_decoder", DecoderConfig.w2l_decoder)).config
    decoding: DecoderConfig = build_config(kind, {k: v for k, v in options.items() if k not in ours}, "w2v.transcribe")
    decoder = build_decoder(decoding, Dictionary(info.symbols), info.post_process, load_language_model)
    return Transcriber(loaded, info, decoder, config, _device(device))


@overload
def transcribe(
    source: list[Source], sample_rate: int | None = None, *, model: Model | Transcriber, **options: Any
) -> list[Transcript]: ...
@overload
def transcribe(
    source: Source, sample_rate: int | None = None, *, model: Model | Transcriber, **options: Any
) -> Transcript: ...
def transcribe(
    source: Source | list[Source],
    sample_rate: int | None = None,
    *,
    model: Model | Transcriber,
    **options: Any,
) -> Transcript | list[Transcript]:
    """Return what was said in a recording, or in each of a list of recordings.

    Args:
        source: path of an audio file of any format, rate and number of channels; or samples (S,) or (channels, S) in
            [-1, 1], numpy array or torch tensor; or a list of these.
        sample_rate: of samples, in Hz.
        model: what `w2v.load_model` or `w2v.open_transcriber` returned, or the path of a checkpoint.
        options: as in `open_transcriber`.

    Raises:
        DataError: a recording cannot be read.
        W2vError: a model or an option cannot be used.
    """
    transcriber = open_transcriber(model, **options)
    if not isinstance(source, list):
        (found,) = _transcripts(transcriber, [recording_of(source, sample_rate)])
        return found
    numbered = enumerate(source)
    return _transcripts(transcriber, [recording_of(one, sample_rate, f"recording {n}") for n, one in numbered])


def transcribe_segments(
    source: Source, sample_rate: int | None = None, *, model: Model | Transcriber, **options: Any
) -> Iterator[Segment]:
    """Yield what was said in one long recording segment by segment, as soon as each is ready.

    The arguments are those of `transcribe`; the memory does not grow with the recording.
    """
    yield from open_transcriber(model, **options).segments(recording_of(source, sample_rate))


def features(
    model: Model,
    source: Source,
    sample_rate: int | None = None,
    *,
    layer: str | int = "c",
    bert: Model | None = None,
    device: str | torch.device | None = None,
) -> npt.NDArray[Any]:
    """Return the frames of one recording, as `w2v-featurize` writes them.

    Args:
        model: any speech model that `w2v.load_model` takes, or what it returned.
        source: path of an audio file, or samples, as in `transcribe`.
        sample_rate: of samples, in Hz.
        layer: `c`: the last frames of the model; `z`: those of the convolutions; `q`: quantised (vq-wav2vec); a number
            from 1: what that transformer block returns.
        bert: masked language model on the tokens of `model`: return its frames, those of block `layer`, from 0.
        device: where it computes; None: a GPU where there is one.

    Returns:
        (T, C) float32.

    Raises:
        ConfigError: the model has no such layer.
        DataError: the recording cannot be read, or is shorter than a frame.
    """
    loaded = _loaded(model)
    if bert is not None:
        loaded = token_features(loaded, _loaded(bert))
    layers = conv_stack(loaded.model)
    return _frames(
        loaded, feature_function(loaded.model, str(layer)), recording_of(source, sample_rate), device,
        lambda size: overlapping_windows(size, layers, LARGEST_WINDOW, CONTEXT),
    )  # fmt: skip


def tokens(
    model: Model,
    source: Source,
    sample_rate: int | None = None,
    *,
    device: str | torch.device | None = None,
) -> list[str]:
    """Return the tokens of one recording, as `w2v-tokenize` writes them: codes of a frame, joined by `-`.

    Args:
        model: a model with a quantizer, or the path of one.
        source: path of an audio file, or samples, as in `transcribe`.
        sample_rate: of samples, in Hz.
        device: where it computes; None: a GPU where there is one.

    Raises:
        ConfigError: the model has no quantizer.
        DataError: the recording cannot be read, or is shorter than a frame.
    """
    loaded = _loaded(model)
    layers = conv_stack(loaded.model)
    codes = _frames(
        loaded, code_function(loaded.model), recording_of(source, sample_rate), device,
        lambda size: equal_chunks(size, layers, LARGEST_WINDOW),
    )  # fmt: skip
    return frame_tokens(codes)


def _frames(
    loaded: LoadedModel, encode: Encode, recording: Recording, device: str | torch.device | None, cut: Cut
) -> npt.NDArray[Any]:
    """Return what `encode` makes of one recording, (T, ...)."""
    where, task = _device(device), loaded.task.config
    loaded.model.to(where).eval()
    encoder = ClipEncoder(
        encode=encode,
        layers=conv_stack(loaded.model),
        cut=cut,
        device=where,
        sample_rate=task.sample_rate,
        normalize=task.normalize,
        normalize_epsilon=task.normalize_epsilon,
        resample=True,
        max_tokens=LARGEST_WINDOW,
        num_threads=1,
    )
    return encoder.frames_of(read_recording(recording, task.sample_rate))


def _transcripts(transcriber: Transcriber, recordings: list[Recording]) -> list[Transcript]:
    found: list[Transcript] = []
    for transcript in transcriber.transcripts(recordings):
        if isinstance(transcript, Failure):
            raise DataError(transcript.reason)
        found.append(transcript)
    return found


def _loaded(model: Model) -> LoadedModel:
    return model if isinstance(model, LoadedModel) else load_model(os.fspath(model))


def _device(device: str | torch.device | None) -> torch.device:
    return torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
