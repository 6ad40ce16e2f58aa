"""One update of CTC fine-tuning of wav2vec 2.0 BASE, against `transformers.Wav2Vec2ForCTC` at its best.

    python benchmarks/ctc_step.py [--precision bf16|fp32] [--rounds 5] [--record]

Both sides: 4 clips of 10 s with 150 letters each, the published sizes, frozen convolutions, masks over time as in the
recipe for 100 hours, dropouts of 0.1, forward, backward, AdamW. Ours is `Trainer.train_step`, which also clips the
gradient and sums up what is logged; the peer draws masks inside, too, and neither clips nor logs.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))  # for the spawned processes, too

from machine import gflop_per_second
from pretraining_step import CONVOLUTIONS, RATE, RESULTS
from side_by_side import Step, plain_step, step_parser, take_turns, tell

LABELS = 150
MASK_PROB, MASK_LENGTH = 0.65, 10


def ours(precision: str, clips: int, seconds: float) -> Step:
    """Return a step of this library's trainer."""
    from trained_step import LETTERS, trainer_step

    encoder = {"_name": "wav2vec2", "conv_feature_layers": CONVOLUTIONS, "quantize_targets": True, "final_dim": 256}
    return trainer_step(
        arch="wav2vec_ctc",
        model={
            "w2v_args": encoder, "apply_mask": True, "mask_prob": MASK_PROB, "mask_length": MASK_LENGTH,
            "mask_channel_prob": 0.0, "dropout": 0.1, "attention_dropout": 0.1, "activation_dropout": 0.1,
            "feature_grad_mult": 0.0,
        },
        criterion="ctc",
        criterion_options={"zero_infinity": True},
        precision=precision,
        clips=clips,
        samples=int(seconds * RATE),
        labels=LABELS,
        context={"num_classes": len(LETTERS)},
    )  # fmt: skip


def peer(precision: str, clips: int, seconds: float) -> Step:
    """Return a step of transformers."""
    import torch
    from trained_step import LETTERS
    from transformers import Wav2Vec2Config, Wav2Vec2ForCTC

    torch.manual_seed(1)
    config = Wav2Vec2Config(
        vocab_size=len(LETTERS), pad_token_id=0, mask_time_prob=MASK_PROB, mask_time_length=MASK_LENGTH,
        hidden_dropout=0.1, attention_dropout=0.1, activation_dropout=0.1, final_dropout=0.0, feat_proj_dropout=0.0,
        layerdrop=0.0, ctc_zero_infinity=True, attn_implementation="sdpa",
    )  # fmt: skip
    network = Wav2Vec2ForCTC(config).train()
    network.freeze_feature_encoder()
    optimizer = torch.optim.AdamW([p for p in network.parameters() if p.requires_grad], lr=1e-5, fused=True)
    source = torch.randn(clips, int(seconds * RATE))
    labels = torch.randint(5, len(LETTERS), (clips, LABELS))

    return plain_step(lambda: network(source, labels=labels).loss, optimizer, precision)


def main() -> None:
    """Measure and print."""
    parser = step_parser(__doc__, "bf16", 4, 10, RESULTS)
    arguments = parser.parse_args()
    given = (arguments.precision, arguments.clips, arguments.seconds)
    mine, theirs = take_turns([("w2v", ours, given), ("transformers", peer, given)], arguments.rounds)
    audio = arguments.clips * arguments.seconds
    title = f"CTC base {arguments.precision}, {arguments.clips} x {arguments.seconds:g} s"
    gflop = gflop_per_second(step=True, frozen_convolutions=True)
    results = RESULTS if arguments.record else None
    tell(title, mine, theirs, audio, results, gflop=gflop, precision=arguments.precision)


if __name__ == "__main__":
    main()
