"""The parts of `w2v-live` that need torch: the model, the thread that records, and the loop that hears."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch

from w2v.data.audio_queue import LONGEST, AudioQueue
from w2v.inference.live import LiveSession, listen
from w2v.inference.transcriber import Transcriber
from w2v_cli.cpu import speed_on
from w2v_cli.live_flags import PROGRAM, Flags
from w2v_cli.live_output import Writer
from w2v_cli.live_sources import Source
from w2v_cli.open_model import open_transcriber
from w2v_cli.progress import set_up_logging
from w2v_cli.stop import Stop

READ_AHEAD = 1.0  # seconds of a source that waits for who hears it


@contextmanager
def open_model(flags: Flags) -> Iterator[Transcriber]:
    """Load the model, and let it compute once: what torch prepares then would delay the first words."""
    set_up_logging(is_master=False, stream=sys.stderr)  # warnings alone
    use_gpu = torch.cuda.is_available() and not flags.what.cpu
    device = torch.device("cuda" if use_gpu else "cpu")
    assert flags.what.model is not None
    with speed_on(device):
        transcriber = open_transcriber(flags.what.model, flags.what, flags.decoder, device)
        transcriber.utterance(np.zeros(transcriber.info.sample_rate, np.float32))
        yield transcriber


def hear(flags: Flags, transcriber: Transcriber, source: Source, writers: Sequence[Writer]) -> None:
    """Hear a source until it ends, or until SIGINT or SIGTERM; hand every event to the writers.

    Raises:
        W2vError: the source broke; everything before it was handed on.
    """
    rate = transcriber.info.sample_rate
    # A source that does not wait leaves no time for partials that take long.
    clock = time.process_time if source.is_real_time else None
    session = LiveSession(transcriber, flags.how, clock=clock)
    queue = AudioQueue(rate, LONGEST if source.is_real_time else READ_AHEAD, waits=not source.is_real_time)
    # A daemon: it may wait for sound for ever.
    recorder = threading.Thread(target=source.send, args=(rate, queue), daemon=True)
    with Stop() as stop:
        if not flags.what.quiet:
            print(f"{PROGRAM}: hearing {source.name}; Ctrl-C ends", file=sys.stderr, flush=True)
        recorder.start()
        for event in listen(session, queue, lambda: stop.is_set):
            for writer in writers:
                writer.take(event)
