"""Time and memory to open a model, against `torch.load` with memory mapping.

    python benchmarks/open_checkpoint.py [--folder FOLDER] [--repeat 10]

Writes a BASE (95 M parameters) and a LARGE (317 M) model of random weights in the original's format, then opens each
in a fresh process: with `torch.load(mmap=True, weights_only=True)`, with `w2v.convert.read_model_file`, and with
`w2v.load_model`, which also builds the model. Calls are interleaved, and the shortest of each counts.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from machine import resident

REPOSITORY = Path(__file__).resolve().parents[1]
CONVOLUTIONS = "[(512, 10, 5)] + [(512, 3, 2)] * 4 + [(512, 2, 2)] * 2"
SIZES: dict[str, dict[str, Any]] = {
    "base": {"final_dim": 256},
    "large": {
        "encoder_layers": 24, "encoder_embed_dim": 1024, "encoder_ffn_embed_dim": 4096, "encoder_attention_heads": 16,
        "final_dim": 768, "extractor_mode": "layer_norm", "layer_norm_first": True, "conv_bias": True,
    },
}  # fmt: skip


def write(path: Path, options: dict[str, Any]) -> None:
    """Write a model of random weights."""
    import torch

    from w2v.config import build_config, to_plain
    from w2v.convert import ModelFile
    from w2v.convert.fairseq_file import write_fairseq
    from w2v.models import MODELS

    entry = MODELS.get("wav2vec2")
    values = {"quantize_targets": True, "conv_feature_layers": CONVOLUTIONS, **options}
    config: Any = build_config(entry.config, values, "")
    with torch.device("meta"):
        shapes = entry.cls.build(config).state_dict()
    state = {name: torch.rand(tensor.shape) for name, tensor in shapes.items()}
    sections = {"task": {"_name": "audio_pretraining", "data": "."}, "model": {"_name": "wav2vec2", **to_plain(config)}}
    write_fairseq(path, ModelFile("random", "w2v", sections, state))


def measure(path: Path, repeat: int) -> dict[str, float]:
    """Open `path` in every way, `repeat` times; run in a process of its own."""
    import torch

    import w2v
    from w2v.convert import read_model_file

    ways: dict[str, Callable[[], Any]] = {
        "torch.load": lambda: torch.load(path, map_location="cpu", mmap=True, weights_only=True),
        "read_model_file": lambda: read_model_file(path),
        "load_model": lambda: w2v.load_model(path),
    }
    found: dict[str, float] = {}
    for way in ways.values():  # once each, for what is imported late
        way()
    for name, way in ways.items():
        before = resident()
        kept = way()
        found[f"{name}, MB"] = (resident() - before) / 1e6
        del kept
    for _ in range(repeat):
        for name, way in ways.items():
            start = time.perf_counter()
            way()
            found[name] = min(found.get(name, 1e9), time.perf_counter() - start)
    model = w2v.load_model(path).model
    before = resident()
    for tensor in model.state_dict().values():
        tensor.sum()
    found["weights read once, MB"] = (resident() - before) / 1e6
    return found


def main() -> None:
    """Write the files, measure, print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", help="where to write the two files (1.7 GB); default: a temporary folder")
    parser.add_argument("--repeat", type=int, default=10)
    parser.add_argument("--one", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        print(json.dumps(measure(Path(arguments.one), arguments.repeat)))
        return
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        for size, options in SIZES.items():
            path = Path(folder) / f"{size}.pt"
            write(path, options)
            command = [sys.executable, __file__, "--one", str(path), "--repeat", str(arguments.repeat)]
            environ = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
            found = json.loads(subprocess.run(command, env=environ, check=True, capture_output=True, text=True).stdout)
            print(f"{size}: {path.stat().st_size / 1e6:.0f} MB on disk")
            for name in ("torch.load", "read_model_file", "load_model"):
                ratio = found[name] / found["torch.load"]
                print(f"  {name:16} {found[name] * 1e3:6.1f} ms  x {ratio:4.2f}  {found[name + ', MB']:6.1f} MB")
            print(f"  all weights read once: {found['weights read once, MB']:.0f} MB more")
            path.unlink()


if __name__ == "__main__":
    main()
