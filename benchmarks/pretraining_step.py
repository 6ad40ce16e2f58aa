"""One update of wav2vec 2.0 pretraining, against `transformers.Wav2Vec2ForPreTraining` at its best.

    python benchmarks/pretraining_step.py [--model base|large] [--precision bf16|fp32] [--rounds 5] [--record]

Both sides: the published sizes and dropouts, the same number of clips of the same length, masks of the recipe, 100
negatives, forward, backward, AdamW. Ours is `Trainer.train_step` as a run calls it: it draws its own masks and
negatives, sums up what is logged, and clips the gradient. The peer gets masks and negatives ready made, torch's fused
attention and its fused AdamW, and neither clips nor logs.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))  # for the spawned processes, too

from machine import gflop_per_second
from side_by_side import Step, plain_step, step_parser, take_turns, tell

RESULTS = Path(__file__).with_name("training_steps.json")
CLIPS = {"base": 4, "large": 2}
SECONDS = 10
RATE = 16000
CONVOLUTIONS = "[(512, 10, 5)] + [(512, 3, 2)] * 4 + [(512, 2, 2)] * 2"
MASK_PROB, MASK_LENGTH, NEGATIVES = 0.65, 10, 100


def ours(model: str, precision: str, clips: int, seconds: float, is_checkpointed: bool = False) -> Step:
    """Return a step of this library's trainer."""
    from trained_step import trainer_step

    options = {
        "base": {"feature_grad_mult": 0.1},
        "large": {"feature_grad_mult": 0.03, "dropout": 0.0},
    }[model]
    return trainer_step(
        arch="wav2vec2" if model == "base" else "wav2vec2_large",
        model={
            "conv_feature_layers": CONVOLUTIONS,
            "quantize_targets": True,
            "final_dim": 256 if model == "base" else 768,
            "dropout_input": 0.1,
            "dropout_features": 0.1,
            "encoder_layerdrop": 0.0,
            "checkpoint_activations": is_checkpointed,
            **options,
        },
        criterion="wav2vec",
        criterion_options={"infonce": True, "loss_weights": (0.1, 10.0), "log_keys": ("code_perplexity", "temp")},
        precision=precision,
        clips=clips,
        samples=int(seconds * RATE),
    )


def peer(model: str, precision: str, clips: int, seconds: float) -> Step:
    """Return a step of transformers."""
    import numpy as np
    import torch
    from transformers import Wav2Vec2Config, Wav2Vec2ForPreTraining
    from transformers.models.wav2vec2.modeling_wav2vec2 import _compute_mask_indices, _sample_negative_indices

    shared: dict[str, Any] = dict(
        num_negatives=NEGATIVES, mask_time_prob=MASK_PROB, mask_time_length=MASK_LENGTH, layerdrop=0.0,
        activation_dropout=0.0, attn_implementation="sdpa",
    )  # fmt: skip
    if model == "large":
        shared.update(
            hidden_size=1024, num_hidden_layers=24, num_attention_heads=16, intermediate_size=4096,
            codevector_dim=768, proj_codevector_dim=768, hidden_dropout=0.0,
        )  # fmt: skip
    config = Wav2Vec2Config(feat_proj_dropout=0.1, feat_quantizer_dropout=0.1, **shared)
    torch.manual_seed(1)
    network = Wav2Vec2ForPreTraining(config).train()
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-5, fused=True)
    source = torch.randn(clips, int(seconds * RATE))
    frames = int(network._get_feat_extract_output_lengths(source.shape[1]))
    np.random.seed(1)
    mask = _compute_mask_indices((clips, frames), MASK_PROB, MASK_LENGTH, min_masks=2)
    negatives = torch.from_numpy(_sample_negative_indices((clips, frames), NEGATIVES, mask))
    time_mask = torch.from_numpy(mask)

    return plain_step(
        lambda: network(source, mask_time_indices=time_mask, sampled_negative_indices=negatives).loss,
        optimizer,
        precision,
    )


def main() -> None:
    """Measure and print."""
    parser = step_parser(__doc__, "bf16", None, SECONDS, RESULTS)
    parser.add_argument("--model", choices=("base", "large"), default="base")
    parser.add_argument("--checkpoint-activations", action="store_true", help="with our flag of that name")
    arguments = parser.parse_args()
    clips = arguments.clips or CLIPS[arguments.model]
    given = (arguments.model, arguments.precision, clips, arguments.seconds)
    is_checkpointed: bool = arguments.checkpoint_activations
    sides = [("w2v", ours, (*given, is_checkpointed)), ("transformers", peer, given)]
    mine, theirs = take_turns(sides, arguments.rounds, warm_up=3)
    audio = clips * arguments.seconds
    title = f"pretraining {arguments.model} {arguments.precision}, {clips} x {arguments.seconds:g} s"
    title += ", --checkpoint-activations" if is_checkpointed else ""
    gflop = gflop_per_second(arguments.model, step=True)
    results = RESULTS if arguments.record else None
    tell(title, mine, theirs, audio, results, gflop=gflop, precision=arguments.precision)


if __name__ == "__main__":
    main()
