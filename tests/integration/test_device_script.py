"""`benchmarks/gpu.sh`, tried on a CPU with tiny models, and what benchmarks say about the machine."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


@pytest.fixture
def scripts(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import gpu
    import machine

    return argparse.Namespace(gpu=gpu, machine=machine)


def test_the_script_writes_one_file(tmp_path: Path) -> None:
    """A section that runs, in a process of its own: float32 on the device against float64."""
    out = tmp_path / "gpu.json"
    command = [str(BENCHMARKS / "gpu.sh"), "--device", "cpu", "--small", "--only", "parity", "--out", str(out)]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=120, env={**os.environ, "PYTHON": sys.executable}
    )
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads(out.read_text())
    assert found["machine"]["small"]
    assert found["machine"]["instructions"]
    parity = found["parity"]
    assert parity["same best path"]
    for name in ("logits, largest difference", "loss, relative difference", "gradients, relative difference"):
        assert 0 < parity[name] < 1e-5, name


def test_without_a_gpu_it_says_so(scripts: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(sys, "argv", ["gpu.py"])
    with pytest.raises(SystemExit, match="sees no CUDA device here; --device cpu --small"):
        scripts.gpu.main()


def test_sections(scripts: Any) -> None:
    options = argparse.Namespace(device="cpu", small=True)
    for name in ("attention", "memory", "inference"):
        found = scripts.gpu.SECTIONS[name](options)
        json.dumps(found)
        assert found, name
    assert found["fp32, 2 clips"] > 0
    assert scripts.gpu.run_section("steps", options, 1.0) == {"skipped": "no time left"}


def test_products_of_a_second_of_audio(scripts: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """14 GFLOP of inference and 42 of a step with BASE; against torch's own count of a forward pass of 1 s."""
    machine = scripts.machine
    assert round(machine.gflop_per_second(step=False)) == 14
    assert round(machine.gflop_per_second(step=True)) == 42
    assert machine.gflop_per_second("large", step=True) > 100
    monkeypatch.setattr(machine, "peak", lambda precision, clock: 200.0)
    assert machine.share_of_peak(4.0, 42.0, "fp32") == {"peak of products, GFLOP/s": 200.0, "share of that peak": 0.84}
    monkeypatch.undo()
    assert machine.instructions()
    assert {"processor", "instructions", "cores", "torch"} <= machine.machine().keys()


def test_the_count_is_that_of_torch(scripts: Any) -> None:
    """A plain stack of the same convolutions, and one block of the same products, on the meta device."""
    from torch.utils.flop_counter import FlopCounterMode

    machine = scripts.machine
    layers, width, inner = machine.LAYERS["base"]
    samples = 160_000  # 10 s, of which the last frames are cut
    with torch.device("meta"), FlopCounterMode(display=False) as counter:
        x, channels = torch.empty(1, 1, samples), 1
        for out, kernel, stride in machine.CONVOLUTIONS:
            x = torch.nn.functional.conv1d(x, torch.empty(out, channels, kernel), stride=stride)
            channels = out
        rows = torch.empty(x.shape[2], width)
        positions = torch.empty(1, width, x.shape[2] + 127)
        torch.nn.functional.conv1d(positions, torch.empty(width, width // 16, 128), groups=16)
        for _ in range(layers):
            for shape in [(width, width)] * 4 + [(width, inner)]:
                rows @ torch.empty(shape)
            torch.empty(x.shape[2], inner) @ torch.empty(inner, width)
    assert machine.gflop_per_second(step=False) == pytest.approx(1e-10 * counter.get_total_flops(), rel=0.01)
