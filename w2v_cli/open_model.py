"""From the flags of a program to a model that transcribes. Needs torch."""

from __future__ import annotations

import logging

import torch

from w2v.config.decoding import DecoderConfig
from w2v.convert import read_model_file
from w2v.data.dictionary import Dictionary
from w2v.decoders import build_decoder
from w2v.inference.emissions import ctc_info
from w2v.inference.load import build_model, load_language_model
from w2v.inference.prepare import prepare
from w2v.inference.transcribe_options import TranscribeConfig
from w2v.inference.transcriber import Transcriber
from w2v.plugins import import_user_dir
from w2v_cli.model_flags import ModelOptions

logger = logging.getLogger(__name__)


def open_transcriber(
    path: str,
    options: ModelOptions,
    decoding: DecoderConfig,
    device: torch.device,
    how: TranscribeConfig | None = None,
    num_threads: int = 1,
) -> Transcriber:
    """Load a model with its decoder.

    Args:
        path: the checkpoint.
        options: how it is read.
        decoding: the decoder and its language model.
        device: where it computes.
        how: how recordings are cut.
        num_threads: recordings read at once.

    Raises:
        W2vError: the model, the language model or a flag cannot be used.
    """
    if options.user_dir:
        import_user_dir(options.user_dir)
    # As `load_model`, but says nothing of where symbols come from, which is of no interest here.
    file = read_model_file(path, dictionary=options.dict, language=options.language)
    if file.language and options.language is None:
        logger.warning("%s: %s", path, file.language)
    loaded = build_model(file)
    info = ctc_info(loaded, options.post_process)
    half = prepare(loaded.model, options, device)
    decoder = build_decoder(decoding, Dictionary(info.symbols), info.post_process, load_language_model)
    return Transcriber(loaded, info, decoder, how or TranscribeConfig(), device, half, num_threads)
