"""Number formats that a CPU is slow in are left for quicker ones, by the speed that is measured."""

from __future__ import annotations

import logging
import time

import pytest
import torch

from w2v.functional import products
from w2v.functional.products import product_speed, quickest_safe

CPU = torch.device("cpu")
FP32, BF16, FP16 = torch.float32, torch.bfloat16, torch.float16
AVX2 = {FP32: 60.0, BF16: 0.6, FP16: 0.7}
AVX512_BF16 = {FP32: 128.0, BF16: 369.0, FP16: 2.0}
AMX_FP16 = {FP32: 100.0, BF16: 900.0, FP16: 901.0}


@pytest.mark.parametrize(
    ("speeds", "asked", "chosen"),
    [
        (AVX2, FP16, None), (AVX2, BF16, None), (AVX2, None, None),
        (AVX512_BF16, FP16, BF16), (AVX512_BF16, BF16, BF16), (AVX512_BF16, None, None),
        (AMX_FP16, FP16, FP16), (AMX_FP16, BF16, BF16),
        # float16 is never chosen for bfloat16: its range is smaller, and there is no loss scale.
        ({FP32: 10.0, BF16: 1.0, FP16: 50.0}, BF16, None),
    ],
)  # fmt: skip
@pytest.mark.parametrize("training", [False, True])
def test_the_asked_format_or_a_quicker_safe_one(
    speeds: dict[torch.dtype, float],
    asked: torch.dtype | None,
    chosen: torch.dtype | None,
    training: bool,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(products, "product_speed", lambda dtype, _: speeds[dtype])
    assert quickest_safe(asked, CPU, training=training) == chosen
    lines = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert len(lines) == (asked != chosen)
    if lines:
        assert lines[0].startswith("--fp16: " if asked == FP16 else "--bf16: ")
        assert f"float32 {speeds[FP32]:.3g}" in lines[0]
        assert ("without a loss scale" in lines[0]) == (training and asked == FP16)


def test_only_cpus_are_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(products, "product_speed", lambda *_: pytest.fail("tried"))
    assert quickest_safe(FP16, torch.device("cuda", 0), training=True) == FP16
    assert quickest_safe(None, CPU, training=True) is None


def test_a_product_is_timed_in_little_time() -> None:
    """float32 reaches what a plain clock gives for the same product, within the noise of a machine that is in use."""
    product_speed.cache_clear()
    begin = time.process_time()
    found = {dtype: product_speed(dtype, True) for dtype in (FP32, BF16, FP16)}
    assert time.process_time() - begin < 10 * torch.get_num_threads()
    assert all(speed > 0 for speed in found.values())
    rows, weight = torch.randn(256, 512), torch.randn(512, 512)
    best = 1e9
    for _ in range(5):
        start = time.perf_counter()
        torch.nn.functional.linear(rows, weight)
        best = min(best, time.perf_counter() - start)
    assert product_speed(FP32, False) == pytest.approx(2e-9 * 256 * 512 * 512 / best, rel=0.9)
