"""One update of a masked language model on codes, against `transformers.RobertaForMaskedLM` at its best.

    python benchmarks/masked_step.py [--precision bf16|fp32] [--rounds 5] [--clips 2] [--seconds 5.12] [--record]
    python benchmarks/masked_step.py --published

Both sides: 12 blocks of 768, 13,537 tokens, items of 100 tokens per second, spans of 10 hidden as in the recipes,
dropouts of 0.1, forward, backward, AdamW; times are those of the processor, threads taken together. Ours is
`Trainer.train_step`, which also clips the gradient and sums up what is logged, and scores hidden tokens alone.
`--published` builds the same sizes with 6,144 positions, reads one item of 20 s and saves the model.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))  # for the spawned processes, too

from machine import LAYERS
from pretraining_step import RESULTS
from side_by_side import Step, plain_step, step_parser, take_turns, tell

TOKENS, RATE, PAD = 13_537, 100, 1


def masked_batch(items: int, size: int) -> Any:
    """Return random tokens, spans of which are hidden."""
    import numpy as np
    import torch

    from w2v.data.token_masks import TokenMaskSpec, mask_tokens, replacement_weights
    from w2v.types import TextBatch

    rng = np.random.RandomState(1)
    spec = TokenMaskSpec(0.5, 0.1, 0.1, 10, 10.0, TOKENS - 1, PAD, replacement_weights(TOKENS, 4))
    pairs = [mask_tokens(rng.randint(4, TOKENS - 1, size), spec, rng) for _ in range(items)]
    source, targets = (torch.from_numpy(np.stack(side)) for side in zip(*pairs, strict=True))
    return TextBatch(source, targets, torch.full((items,), size), torch.arange(items), seed=1)


def ours(precision: str, items: int, size: int) -> Step:
    """Return a step of this library's trainer."""
    from trained_step import trainer_step

    step: Step = trainer_step(
        arch="roberta_base", model={"max_positions": size}, criterion="masked_lm", criterion_options={},
        precision=precision, clips=items, samples=size, task="masked_lm", batch=masked_batch(items, size),
        context={"num_words": TOKENS, "pad": PAD, "max_positions": size},
    )  # fmt: skip
    return step


def peer(precision: str, items: int, size: int) -> Step:
    """Return a step of transformers."""
    import torch
    from transformers import RobertaConfig, RobertaForMaskedLM

    torch.manual_seed(1)
    config = RobertaConfig(
        vocab_size=TOKENS, max_position_embeddings=size + 2, type_vocab_size=1, layer_norm_eps=1e-5, pad_token_id=PAD,
        attn_implementation="sdpa",
    )  # fmt: skip
    network = RobertaForMaskedLM(config).train()
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-5, fused=True)
    batch = masked_batch(items, size)
    labels = batch.targets.masked_fill(batch.targets == PAD, -100)
    return plain_step(lambda: network(batch.source, labels=labels).loss, optimizer, precision)


def gflop_per_second(hidden: float) -> float:
    """Return the products, in GFLOP, of a step on a second of codes; attention between tokens is left out.

    Args:
        hidden: share of the tokens that are scored.
    """
    layers, width, inner = LAYERS["base"]
    blocks = layers * (4 * width * width + 2 * width * inner)
    return 3 * 2e-9 * RATE * (blocks + hidden * width * (width + TOKENS))


def published() -> None:
    """Build the published size, read one item of 20 s, save; print times of the processor and memory."""
    import torch
    from trained_step import tell_published

    options = {"max_positions": 6144}
    item, size = masked_batch(1, 20 * RATE).source, torch.tensor([20 * RATE])
    tell_published(
        "roberta_base", options, lambda model: model.encode(item, size), num_words=TOKENS, pad=PAD, **options
    )


def main() -> None:
    """Measure and print."""
    parser = step_parser(__doc__ or "", "fp32", 2, 5.12, RESULTS)
    parser.add_argument("--published", action="store_true")
    arguments = parser.parse_args()
    if arguments.published:
        published()
        return
    given = (arguments.precision, arguments.clips, int(arguments.seconds * RATE))
    sides = [("w2v", ours, given), ("transformers", peer, given)]
    mine, theirs = take_turns(sides, arguments.rounds, clock=time.process_time)
    audio = arguments.clips * arguments.seconds
    title = f"masked LM base {arguments.precision}, {arguments.clips} x {arguments.seconds:g} s of codes"
    hidden = float((masked_batch(*given[1:]).targets != PAD).float().mean())
    tell(
        title, mine, theirs, audio, RESULTS if arguments.record else None, gflop=gflop_per_second(hidden),
        precision=arguments.precision, clock=time.process_time,
    )  # fmt: skip


if __name__ == "__main__":
    main()
