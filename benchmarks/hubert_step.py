"""One update of HuBERT, against `transformers.HubertModel` with the same loss written plainly.

    python benchmarks/hubert_step.py [--precision bf16|fp32] [--rounds 5] [--clips 1] [--seconds 10] [--record]
    python benchmarks/hubert_step.py --published

Both sides: BASE with the dropouts of the recipe, 500 classes at 50 Hz, forward, backward, AdamW; times are those of the
processor, threads taken together. Ours is `Trainer.train_step`: it draws its own masks, clips the gradient, sums up
what is logged, and, as the recipe says, scores the frames that are not masked, too, for the log. The peer gets its
masks ready made, and scores masked frames alone. `--published` builds BASE, reads 20 s and saves the model.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))  # for the spawned processes, too

from machine import gflop_per_second
from pretraining_step import CONVOLUTIONS, RATE, RESULTS
from side_by_side import Step, plain_step, step_parser, take_turns, tell

CLASSES, LABEL_RATE = 500, 50
SPECIAL = 4  # symbols of the dictionary that are no classes, but have a vector, as in the original
WIDTH, TEMPERATURE, PENALTY = 256, 0.1, 10
MASK_PROB, MASK_LENGTH = 0.8, 10
DROPOUTS = {"encoder_layerdrop": 0.0, "dropout_input": 0.1, "feature_grad_mult": 1.0}
BUILT = {"num_classes": [CLASSES + SPECIAL], "label_rate": LABEL_RATE, "sample_rate": RATE}


def labelled_batch(clips: int, seconds: float) -> Any:
    """Return noise with random classes."""
    import torch
    from trained_step import noise_batch

    from w2v.types import FrameLabelBatch

    noise = noise_batch(clips, int(seconds * RATE))
    generator = torch.Generator().manual_seed(2)
    labels = torch.randint(SPECIAL, CLASSES + SPECIAL, (clips, int(seconds * LABEL_RATE)), generator=generator)
    lengths = torch.full((clips,), labels.shape[1])
    return FrameLabelBatch(noise.source, noise.lengths, noise.indices, seed=1, frame_labels=(labels,),
                           label_lengths=(lengths,))  # fmt: skip


def ours(precision: str, clips: int, seconds: float) -> Step:
    """Return a step of this library's trainer."""
    from trained_step import trainer_step

    step: Step = trainer_step(
        arch="hubert_base", model={"conv_feature_layers": CONVOLUTIONS, **DROPOUTS}, criterion="hubert",
        criterion_options={"loss_weights": (float(PENALTY),)}, precision=precision, clips=clips, samples=0,
        task="hubert_pretraining", batch=labelled_batch(clips, seconds), context=BUILT,
    )  # fmt: skip
    return step


def peer(precision: str, clips: int, seconds: float) -> Step:
    """Return a step of transformers' encoder, with projection, classes and loss of our own."""
    import numpy as np
    import torch
    from torch.nn import functional
    from transformers import HubertConfig, HubertModel
    from transformers.models.wav2vec2.modeling_wav2vec2 import _compute_mask_indices

    torch.manual_seed(1)
    config = HubertConfig(layerdrop=0.0, activation_dropout=0.0, attn_implementation="sdpa")
    network = HubertModel(config).train()
    network.final_proj = torch.nn.Linear(config.hidden_size, WIDTH)
    network.classes = torch.nn.Parameter(torch.rand(CLASSES + SPECIAL, WIDTH))
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-5, fused=True)
    batch = labelled_batch(clips, seconds)
    frames = int(network._get_feat_extract_output_lengths(batch.source.shape[1]))
    np.random.seed(1)
    mask = torch.from_numpy(_compute_mask_indices((clips, frames), MASK_PROB, MASK_LENGTH, min_masks=2))
    targets = batch.frame_labels[0][:, :frames][mask]
    latent: list[Any] = []
    network.feature_extractor.register_forward_hook(lambda *values: latent.append(values[-1]))

    def loss() -> Any:
        latent.clear()
        contexts = network(batch.source, mask_time_indices=mask).last_hidden_state[mask]
        # (N, classes) cosines of projected frames and the vectors of the classes
        cosines = functional.normalize(network.final_proj(contexts), dim=-1) @ functional.normalize(network.classes).T
        entropy = functional.cross_entropy(cosines.float() / TEMPERATURE, targets, reduction="sum")
        return entropy + PENALTY * latent[0].float().square().mean() * len(targets)

    return plain_step(loss, optimizer, precision)


def published() -> None:
    """Build BASE, read 20 s, save."""
    from trained_step import noise_batch, tell_published

    source = noise_batch(1, 20 * RATE).source
    tell_published("hubert_base", {}, lambda model: model.extract_features(source, layer="c"), **BUILT)


def main() -> None:
    """Measure and print."""
    parser = step_parser(__doc__ or "", "fp32", 1, 10, RESULTS)
    parser.add_argument("--published", action="store_true")
    arguments = parser.parse_args()
    if arguments.published:
        published()
        return
    given = (arguments.precision, arguments.clips, arguments.seconds)
    sides = [("w2v", ours, given), ("transformers", peer, given)]
    mine, theirs = take_turns(sides, arguments.rounds, clock=time.process_time)
    tell(
        f"HuBERT base {arguments.precision}, {arguments.clips} x {arguments.seconds:g} s", mine, theirs,
        arguments.clips * arguments.seconds, RESULTS if arguments.record else None,
        gflop=gflop_per_second(step=True), precision=arguments.precision, clock=time.process_time,
    )  # fmt: skip


if __name__ == "__main__":
    main()
