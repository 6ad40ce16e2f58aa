"""Frames to letters: wav2vec 2.0 BASE with CTC in evaluation mode, against `transformers.Wav2Vec2ForCTC`.

    python benchmarks/inference.py [--batch 1|8] [--precision bf16|fp32|int8] [--rounds 5] [--record]

Clips of 10 s without padding. `int8` compares our `--int8` with our float32.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))  # for the spawned processes, too

from machine import gflop_per_second, share_of_peak
from pretraining_step import CONVOLUTIONS, RATE
from side_by_side import Step, ratio, record, take_turns, tell_machine

RESULTS = Path(__file__).with_name("inference.json")
SECONDS = 10


def ours(precision: str, clips: int) -> Step:
    """Return a forward pass as `w2v-infer` makes it."""
    import torch
    from trained_step import LETTERS, build, for_speed

    from w2v.inference.prepare import cast_weights, to_int8

    for_speed()
    torch.manual_seed(1)
    encoder = {"_name": "wav2vec2", "conv_feature_layers": CONVOLUTIONS, "quantize_targets": True, "final_dim": 256}
    network = build("wav2vec_ctc", {"w2v_args": encoder}, num_classes=len(LETTERS)).eval()
    if precision == "int8":
        to_int8(network)
    cast_weights(network, torch.bfloat16 if precision == "bf16" else None)
    source = torch.randn(clips, SECONDS * RATE)

    def step() -> None:
        with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
            network(source, None, 1).logits.float().argmax(dim=-1)

    return step


def peer(precision: str, clips: int) -> Step:
    """Return a forward pass of transformers."""
    import torch
    from trained_step import LETTERS
    from transformers import Wav2Vec2Config, Wav2Vec2ForCTC

    torch.manual_seed(1)
    network = Wav2Vec2ForCTC(Wav2Vec2Config(vocab_size=len(LETTERS), attn_implementation="sdpa")).eval()
    source = torch.randn(clips, SECONDS * RATE)

    def step() -> None:
        with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
            network(source).logits.float().argmax(dim=-1)

    return step


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--precision", choices=("bf16", "fp32", "int8"), default="bf16")
    parser.add_argument("--batch", type=int, default=1, help="clips")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--record", action="store_true", help=f"write the figures to {RESULTS.name}")
    arguments = parser.parse_args()
    given = (arguments.precision, arguments.batch)
    if arguments.precision == "int8":
        other, build, given_other = "w2v in fp32", ours, ("fp32", arguments.batch)
    else:
        other, build, given_other = "transformers", peer, given
    mine, theirs = take_turns([("w2v", ours, given), (other, build, given_other)], arguments.rounds, warm_up=2)
    audio = arguments.batch * SECONDS
    for side in (mine, theirs):
        print(f"{side.name:13} {side.median * 1e3:7.0f} ms  {audio / side.median:6.1f} audio-s/s")
    faster = ratio(mine, theirs)
    print(f"batch {arguments.batch}, {arguments.precision}: {faster:.2f} x as fast as {other}")
    # Whole numbers of 8 bits have a peak of their own, which torch has no square product for.
    share = {}
    if arguments.precision != "int8":
        share = share_of_peak(audio / mine.median, gflop_per_second(step=False), arguments.precision)
    tell_machine(share)
    if arguments.record:
        values: dict[str, object] = {
            "compared with": other, "speed ratio": round(faster, 2),
            "audio-seconds per second": round(audio / mine.median, 1), "of the other": round(audio / theirs.median, 1),
            **share,
        }  # fmt: skip
        record(RESULTS, f"CTC base, batch {arguments.batch}, {arguments.precision}", values)


if __name__ == "__main__":
    main()
