"""What products of matrices this CPU computes rightly, and quickly: tried once, when a program starts.

A format without instructions of its own is emulated: on a CPU with AVX2 alone a product of bfloat16 takes many times
the time of float32, and float16 is emulated, too, where AVX-512 is there but not its FP16 part. Nothing says so. On one
busy thread of an AMD EPYC with AVX2 `peak` of `benchmarks/machine.py` found 28 GFLOP/s in float32, 0.6 in bfloat16 and
0.3 in float16 (2026-11-29); 162 against 0.3 were seen there, too, without a record of the number of threads.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from functools import lru_cache

import torch
from torch.nn.functional import linear

from w2v.errors import ConfigError

logger = logging.getLogger(__name__)

ROWS, WIDTH = 256, 512
"""Of the product that is timed, 0.13 GFLOP: a millisecond or two in float32, and a quarter of a second at worst."""
TRIALS = 5
HOPELESS = 4.0
"""A product so many times slower than in float32 is made once, and no other one: no load explains that."""
NAMES = {torch.float16: "float16", torch.bfloat16: "bfloat16", torch.float32: "float32"}
FLAGS = {torch.float16: "--fp16", torch.bfloat16: "--bf16"}
LARGEST_INT8 = 127


def quickest_safe(asked: torch.dtype | None, device: torch.device, *, training: bool) -> torch.dtype | None:
    """Return the number format of autocast to compute in: the one that is asked for, unless a CPU is slow in it.

    Then bfloat16 where that is faster than float32, else float32; a line of the log says so. float16 is never taken
    unless it is asked for: its range is too small to train without a loss scale.

    Args:
        asked: float16, bfloat16, or None for float32.
        device: where to compute; only CPUs are tried.
        training: whether gradients are computed as well, which are products of other layouts.
    """
    if asked is None or device.type != "cpu":
        return asked
    speeds = {torch.float32: product_speed(torch.float32, training)}
    for half in dict.fromkeys((asked, torch.bfloat16)):
        speeds[half] = product_speed(half, training)
        if speeds[half] >= speeds[torch.float32]:
            break
    else:
        half = torch.float32
    if half != asked:
        measured = ", ".join(f"{NAMES[kind]} {speed:.3g}" for kind, speed in speeds.items())
        scale = ", without a loss scale" if training and asked == torch.float16 else ""
        logger.warning(
            "%s: this CPU is slow in it (GFLOP/s of a product: %s); computing in %s%s",
            FLAGS[asked], measured, NAMES[half], scale,
        )  # fmt: skip
    return None if half == torch.float32 else half


@lru_cache
def product_speed(dtype: torch.dtype, training: bool) -> float:
    """Return the GFLOP/s of one product in a number format on one core of this CPU.

    Args:
        dtype: the number format.
        training: time the products of the two gradients, too.
    """
    generator = torch.Generator().manual_seed(1)
    # (256, 512) times (512, 512): the layout and about the shape of a linear layer over five seconds of audio.
    rows = torch.randn(ROWS, WIDTH, generator=generator).to(dtype)
    weight = torch.randn(WIDTH, WIDTH, generator=generator).to(dtype)
    products: list[Callable[[], torch.Tensor]] = [lambda: linear(rows, weight)]
    if training:
        products += [lambda: rows @ weight, lambda: rows.t() @ rows]
    limit = 0.0 if dtype == torch.float32 else HOPELESS * _flop() / product_speed(torch.float32, training)
    # One thread: several wait for one another, and on a busy machine that is all that would be measured.
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        seconds: list[float] = []
        for product in products:
            seconds.append(_least_seconds(product, limit))
            if limit and seconds[-1] > limit:
                break
    finally:
        torch.set_num_threads(threads)
    return len(seconds) * _flop() / sum(seconds)


def _flop() -> float:
    return 2e-9 * ROWS * WIDTH * WIDTH


def _least_seconds(product: Callable[[], torch.Tensor], limit: float) -> float:
    """Return the least time of a few trials; past `limit` seconds (0: none) there is one trial."""
    product()  # the first call makes the kernel, which may take longer than the product
    least = _seconds(product)
    for _ in range(TRIALS - 1):
        if limit and least > limit:
            break
        least = min(least, _seconds(product))
    return least


def _seconds(call: Callable[[], torch.Tensor]) -> float:
    begin = time.perf_counter()
    call()
    return max(time.perf_counter() - begin, 1e-9)


def check_int8() -> None:
    """Compare one small product of whole numbers with the same in 64 bits.

    On a CPU without VNNI instructions, torch 2.4 added up in 16 bits and was wrong without a word.

    Raises:
        ConfigError: they differ.
    """
    generator = torch.Generator().manual_seed(1)
    # (32, 64) times (64, 24) of the largest numbers, in no regular order: sums that go beyond 16 bits.
    left = torch.randint(-LARGEST_INT8, LARGEST_INT8 + 1, (32, 64), generator=generator, dtype=torch.int8)
    right = torch.full((64, 24), LARGEST_INT8, dtype=torch.int8)
    if not torch.equal(torch._int_mm(left, right).long(), left.long() @ right.long()):
        raise ConfigError(
            f"--int8: torch {torch.__version__} multiplies whole numbers wrongly on this CPU; leave the flag out"
        )
