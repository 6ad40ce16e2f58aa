"""What figures depend on: the processor, its instructions, the peak of its products; and the memory of a process.

A step of wav2vec 2.0 is products of matrices for the most part. What share of the machine's own peak of products it
reaches is what can still be won, whatever another program does on the same machine.
"""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

LAYERS = {"base": (12, 768, 3072), "large": (24, 1024, 4096)}
"""Transformer blocks, width, and width inside of feed-forward layers."""
CONVOLUTIONS = ((512, 10, 5), *((512, 3, 2),) * 4, *((512, 2, 2),) * 2)
SIZE, SMALL_SIZE = 2048, 512
"""Of the squares whose product is the peak; the smaller one where a format is slow, or it would take a minute."""
SLOW = 0.2  # seconds for the smaller one
TRIALS = 5


def gflop_per_second(model: str = "base", *, step: bool, frozen_convolutions: bool = False, rate: int = 16000) -> float:
    """Return the products, in GFLOP, of a second of audio: 14 of inference with BASE and 42 of a training step.

    Attention between frames is left out: it grows with the length of a clip, and is 6 % of 10 s.

    Args:
        model: `base` or `large`.
        step: forward and backward; a backward pass is two forward passes.
        frozen_convolutions: they have no backward pass.
        rate: samples per second.
    """
    layers, width, inner = LAYERS[model]
    convolutions, channels, frames = 0.0, 1, float(rate)
    for width_out, kernel, stride in CONVOLUTIONS:
        frames /= stride
        convolutions += 2 * frames * channels * kernel * width_out
        channels = width_out
    blocks = 2 * frames * layers * (4 * width * width + 2 * width * inner)
    positions = 2 * frames * width * (width // 16) * 128
    times = 3 if step else 1
    return float(1e-9 * ((1 if frozen_convolutions else times) * convolutions + times * (blocks + positions)))


def peak(precision: str, device: str = "cpu", clock: Callable[[], float] = time.perf_counter) -> float:
    """Return the GFLOP/s of a product of two squares: the best of a few trials.

    Args:
        precision: `fp32`, `bf16` or `fp16`.
        device: `cpu`, with torch's number of threads, or `cuda`.
        clock: tells the time; `time.process_time`, of one thread, leaves out what other programs do to the machine.
    """
    import torch

    dtype = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[precision]

    def measure(size: int) -> float:
        square = torch.randn(size, size, device=device).to(dtype)
        best = float("inf")
        for trial in range(TRIALS + 1):
            begin = clock()
            square @ square
            if device == "cuda":
                torch.cuda.synchronize()
            if trial:
                best = min(best, clock() - begin)
            elif clock() - begin > 10 * SLOW:
                return clock() - begin
        return best

    size = SMALL_SIZE
    seconds = measure(size)
    if seconds < SLOW:
        size = SIZE if device == "cpu" else 4 * SIZE
        seconds = measure(size)
    return 2e-9 * size**3 / seconds


def instructions() -> str:
    """Return the widest instructions for products that this CPU has."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    found = next((line.split(":", 1)[1].split() for line in lines if line.startswith(("flags", "Features"))), [])
    wanted = (
        "amx_fp16",
        "amx_bf16",
        "avx512_fp16",
        "avx512_bf16",
        "avx512_vnni",
        "avx512f",
        "avx_vnni",
        "avx2",
        "asimd",
    )
    return " ".join(name for name in wanted if name in found) or platform.machine()


def machine() -> dict[str, str]:
    """Return what figures depend on."""
    packages = {}
    for name in ("torch", "transformers", "numpy", "soundfile"):
        try:
            packages[name] = version(name)
        except PackageNotFoundError:
            continue
    return {
        "date": time.strftime("%Y-%m-%d"),
        "python": platform.python_version(),
        "processor": _processor(),
        "instructions": instructions(),
        "cores": str(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()),
        **packages,
    }


def resident() -> int:
    """Return the bytes of memory that this process holds now."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def share_of_peak(
    audio_per_second: float, gflop: float, precision: str, clock: Callable[[], float] = time.perf_counter
) -> dict[str, Any]:
    """Return the peak of products and the share of it that a program reaches, for a record and for a line.

    Args:
        audio_per_second: seconds of audio per second.
        gflop: GFLOP per second of audio.
        precision: number format of the products.
        clock: the one of those seconds.
    """
    found = peak(precision, clock=clock)
    return {
        "peak of products, GFLOP/s": float(f"{found:.3g}"),
        "share of that peak": round(audio_per_second * gflop / found, 2),
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), "unknown")
