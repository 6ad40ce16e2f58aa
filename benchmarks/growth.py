"""How time and memory of a pretraining step grow: with clip length, model size, number of negatives, and ranks.

    python benchmarks/growth.py [--rounds 3] [--record]

Every row is one process that makes updates in bfloat16 on 40 s of audio. Those of the ranks have one thread and 20 s of
audio per rank, and tell of rank 0. Writes `growth.json` and, where matplotlib is installed, `growth.png`.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import socket
import statistics
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))  # for the spawned processes, too

from machine import machine
from pretraining_step import CONVOLUTIONS, RATE
from side_by_side import Step, take_turns

RESULTS = Path(__file__).with_name("growth.json")
AUDIO = 40
BASE: dict[str, Any] = {"encoder_layers": 12, "encoder_embed_dim": 768, "encoder_ffn_embed_dim": 3072,
                        "encoder_attention_heads": 12}  # fmt: skip
SIZES: dict[str, dict[str, Any]] = {
    "6 x 384": {"encoder_layers": 6, "encoder_embed_dim": 384, "encoder_ffn_embed_dim": 1536,
                "encoder_attention_heads": 6},
    "6 x 768": {**BASE, "encoder_layers": 6},
    "12 x 768": BASE,
}  # fmt: skip
LENGTHS = (5, 10, 20, 40)
NEGATIVES = (25, 100, 400)
_JOINED = contextlib.ExitStack()


def ours(seconds: float, clips: int, options: dict[str, Any], threads: int) -> Step:
    """Return a step of this library's trainer."""
    import torch
    from trained_step import trainer_step

    torch.set_num_threads(threads)
    return trainer_step(
        arch="wav2vec2",
        model={
            "conv_feature_layers": CONVOLUTIONS, "quantize_targets": True, "final_dim": 256, "dropout_input": 0.1,
            "dropout_features": 0.1, "feature_grad_mult": 0.1, **options,
        },
        criterion="wav2vec",
        criterion_options={"infonce": True, "loss_weights": (0.1, 10.0)},
        precision="bf16",
        clips=clips,
        samples=int(seconds * RATE),
    )  # fmt: skip


def of_ranks(ranks: int) -> Step:
    """Return a step of rank 0; the others, in processes of their own, step whenever it does."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    for rank in range(1, ranks):
        subprocess.Popen(
            [sys.executable, __file__, "--join", str(ranks), str(rank), str(port)], stderr=subprocess.DEVNULL
        )
    return as_rank(ranks, 0, port)


def as_rank(ranks: int, rank: int, port: int) -> Step:
    """Join the other ranks; return a step of this one."""
    from w2v.distributed.process_group import process_group
    from w2v.distributed.ranks import RankInfo

    _JOINED.enter_context(process_group(RankInfo(ranks, rank, 0, f"tcp://127.0.0.1:{port}"), cpu=True))
    return ours(10, AUDIO // 20, BASE, 1)


def plan() -> list[tuple[str, str, Callable[..., Step], tuple[Any, ...]]]:
    """Return (what varies, its value, what builds a step, with which arguments)."""
    rows: list[tuple[str, str, Callable[..., Step], tuple[Any, ...]]] = []
    rows += [("seconds per clip", str(s), ours, (s, AUDIO // s, BASE, 2)) for s in LENGTHS]
    rows += [("layers x width", name, ours, (10, AUDIO // 10, size, 2)) for name, size in SIZES.items()]
    rows += [("negatives", str(n), ours, (10, AUDIO // 10, {**BASE, "num_negatives": n}, 2)) for n in NEGATIVES]
    rows += [("ranks, 20 s each", str(n), of_ranks, (n,)) for n in (1, 2)]
    return rows


def measure(rounds: int) -> list[dict[str, Any]]:
    """Measure row after row."""
    found = []
    for what, value, build, arguments in plan():
        (side,) = take_turns([(value, build, arguments)], rounds, warm_up=3)
        found.append({"what": what, "value": value, "seconds": round(side.median, 2), "GB": round(side.peak / 1e9, 2)})
        print(f"{what:18} {value:>9} {side.median:7.2f} s {side.peak / 1e9:6.2f} GB", flush=True)
    return found


def plot(rows: list[dict[str, Any]], path: Path) -> None:
    """Draw time and memory, one panel for each thing that varies."""
    from w2v.pictures.canvas import drawing_style, to_png
    from w2v.pictures.panels import Bars, Panel, draw_panels

    panels = []
    for kind in dict.fromkeys(row["what"] for row in rows):
        chosen = [row for row in rows if row["what"] == kind]
        names = [row["value"] for row in chosen]
        bars = [Bars("seconds per update", names, [row["seconds"] for row in chosen]),
                Bars("peak memory, GB", names, [row["GB"] for row in chosen])]  # fmt: skip
        panels.append(Panel(kind, bars=bars, limits=(0, None)))
    with drawing_style():
        path.write_bytes(to_png(draw_panels(panels, columns=len(panels))))


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--record", action="store_true", help=f"write {RESULTS.name} and growth.png")
    parser.add_argument("--join", nargs=3, type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.join:
        step = as_rank(*arguments.join)
        while True:
            step()
    rows = measure(arguments.rounds)
    longest, shortest = (next(row for row in rows if row["value"] == str(s)) for s in (LENGTHS[-1], LENGTHS[0]))
    print(f"clips 8 x as long, the same audio: {longest['seconds'] / shortest['seconds']:.2f} x the time, "
          f"{longest['GB'] / shortest['GB']:.2f} x the memory")  # fmt: skip
    print(f"median of all updates: {statistics.median(row['seconds'] for row in rows):.2f} s")
    if arguments.record:
        RESULTS.write_text(json.dumps({"rows": rows, **machine()}, indent=1) + "\n")
        plot(rows, RESULTS.with_suffix(".png"))


if __name__ == "__main__":
    main()
