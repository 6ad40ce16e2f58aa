"""How late text comes after speech, what partial hypotheses cost, and how memory behaves over an hour.

    python benchmarks/live.py MODEL FOLDER_OF_SPEECH [--minutes 2] [--hours 1]

FOLDER_OF_SPEECH holds clips at 16 kHz, which are joined with pauses of 0.5 to 2 s.
"""

from __future__ import annotations

import argparse
import os
import platform
import resource
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import soundfile
import torch
from machine import resident

import w2v
from w2v.data.audio_queue import AudioQueue, Samples
from w2v.inference.live import LiveOptions, LiveSession, listen
from w2v.inference.transcriber import Transcriber
from w2v_cli.cpu import speed_on
from w2v_cli.live_sources import Source, paced

RATE = 16000


def speech(folder: Path, seconds: float) -> Iterator[Samples]:
    """Yield the clips of a folder again and again, a pause before each."""
    clips = sorted(path for path in folder.rglob("*") if path.suffix in (".wav", ".flac", ".ogg"))
    rng = np.random.default_rng(1)
    done = 0
    while True:
        for path in clips:
            for block in (
                np.zeros(int(RATE * rng.uniform(0.5, 2.0)), np.float32),
                soundfile.read(path, dtype="float32")[0],
            ):
                yield block[: int(seconds * RATE) - done]
                done += len(block)
                if done >= seconds * RATE:
                    return


def latency(transcriber: Transcriber, folder: Path, seconds: float) -> None:
    """Hear speech at its pace, as from a microphone."""
    source = Source("speech", True, lambda rate: paced(speech(folder, seconds), rate))
    queue = AudioQueue(RATE)
    threading.Thread(target=source.send, args=(RATE, queue), daemon=True).start()
    session = LiveSession(transcriber, clock=time.process_time)
    cpu, begun = time.process_time(), time.monotonic()
    events = list(listen(session, queue))
    cpu, wall = time.process_time() - cpu, time.monotonic() - begun
    finals = [event for event in events if event.kind == "final" and event.latency is not None]
    late = [event.latency for event in finals]
    partials = [event for event in events if event.kind == "partial"]
    print(f"{seconds:.0f} s at the pace of speech: {len(finals)} utterances, {len(partials)} partials, {wall:.0f} s")
    print(f"  text after speech: median {np.median(late):.3f} s, 95th percentile {np.percentile(late, 95):.3f} s")
    print(f"  of this decoding: median {np.median([event.decode_seconds for event in finals]):.3f} s")
    print(f"  partials: {sum(event.decode_seconds for event in partials) / wall:.1%} of the time")
    print(f"  all: {cpu / wall:.1%} of one core; dropped {events[-1].dropped_seconds} s")


def an_hour(transcriber: Transcriber, folder: Path, hours: float) -> None:
    """Hear speech as fast as it goes, without partials; watch the memory."""
    session = LiveSession(transcriber, LiveOptions(partial_interval=0))
    heard, told, finals, begun = 0, 0.0, 0, time.process_time()
    for block in speech(folder, hours * 3600):
        finals += sum(event.kind == "final" for event in session.feed(block))
        heard += len(block)
        if heard / RATE >= told + 600:
            told += 600
            print(f"  {heard / RATE / 60:4.0f} min: {finals} utterances, {resident() / 1e6:.0f} MB", flush=True)
    session.finish()
    print(f"  {heard / RATE / (time.process_time() - begun):.0f} x real time per core, speech detection included")
    print(f"  peak {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3:.0f} MB")


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--minutes", type=float, default=2.0)
    parser.add_argument("--hours", type=float, default=1.0)
    arguments = parser.parse_args()
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, {platform.machine()}, {os.cpu_count()} cores")
    transcriber = w2v.open_transcriber(arguments.model, device="cpu")
    with speed_on(torch.device("cpu")):
        transcriber.utterance(np.zeros(RATE, np.float32))
        latency(transcriber, arguments.folder, arguments.minutes * 60)
        an_hour(transcriber, arguments.folder, arguments.hours)


if __name__ == "__main__":
    main()
