"""A language model of speech: tokens of vq-wav2vec, a masked model on them, its perplexity, a probe of its features.

    python examples/tokens/run.py --speech FOLDER --digits FOLDER [--folder tokens-run] [--seeds 3]

SPEECH is any folder of speech, an hour or more; DIGITS holds `transcripts.tsv` (path TAB WORD) and `meta.tsv` (path TAB
speaker). Every stage calls the programs as a user would and shows the command; one that is done is not done again, and
a training that was stopped resumes. Results go to `results.json`.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

from w2v.errors import W2vError

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "wav2vec"))
sys.path.insert(0, str(Path(__file__).resolve().parent))

from digits_probe import accuracy, mean_features, read_clips
from perplexity import count_perplexities, masked_perplexity
from stages import Run, counts

MODEL = {
    "--encoder-layers": 2, "--encoder-embed-dim": 96, "--encoder-ffn-embed-dim": 384, "--encoder-attention-heads": 4,
}  # fmt: skip
QUANTIZER = (
    *("--task", "audio_pretraining", "--arch", "wav2vec", "--criterion", "wav2vec", "--infonce"),
    *("--conv-feature-layers", "[(48, 10, 5), (64, 8, 4)] + [(96, 4, 2)] * 3 + [(96, 1, 1)]"),
    *("--conv-aggregator-layers", "[(96, 2, 1), (96, 3, 1), (96, 4, 1), (96, 5, 1), (96, 6, 1)]"),
    *("--skip-connections-agg", "--residual-scale", "0.5", "--num-negatives", "10", "--prediction-steps", "12"),
    *("--activation", "gelu", "--vq-type", "gumbel", "--vq-groups", "2", "--vq-vars", "40", "--combine-groups"),
    *("--vq-depth", "1", "--vq-temp", "(2,0.5,0.998)", "--loss-weights", "[0.005]"),
    *("--optimizer", "adam", "--lr", "1e-06", "--max-lr", "0.001", "--lr-scheduler", "cosine"),
    *("--warmup-updates", "50", "--warmup-init-lr", "1e-07"),
    *("--max-sample-size", "32000", "--max-tokens", "192000", "--skip-invalid-size-inputs-valid-test"),
)
# Blocks of 0.64 s and batches of 20 s, where the recipes have whole utterances and an hour; shorter spans, too.
MASKED = (
    *("--task", "masked_lm", "--arch", "roberta_base", "--criterion", "masked_lm", "--sample-break-mode", "none"),
    *("--tokens-per-sample", "64", "--max-positions", "64", "--mask-prob", "0.3"),
    *("--mask-multiple-length", "3", "--mask-stdev", "3", "--dropout", "0", "--attention-dropout", "0"),
    *("--optimizer", "adam", "--adam-betas", "(0.9, 0.98)", "--adam-eps", "1e-06", "--weight-decay", "0.01"),
    *("--lr-scheduler", "polynomial_decay", "--lr", "0.002", "--clip-norm", "1", "--max-tokens", "2048"),
    *("--required-batch-size-multiple", "1", "--skip-invalid-size-inputs-valid-test"),
)
COMMON = ("--cpu", "--num-workers", "0", "--no-epoch-checkpoints", "--log-format", "json")
DECAY = 1e-3  # of all probes


def main() -> int:
    """Run what is left of the example, and print its results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--speech", type=Path, required=True)
    parser.add_argument("--digits", type=Path, required=True)
    parser.add_argument("--folder", type=Path, default=Path("tokens-run"))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--ext", default="flac")
    parser.add_argument("--quantizer-updates", type=int, default=600)
    parser.add_argument("--updates", type=int, default=1500)
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    run = Run(arguments.folder.resolve(), arguments.threads)
    try:
        results = example(run, arguments)
    except W2vError as e:
        print(e, file=sys.stderr)
        return 2
    (run.folder / "results.json").write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    for name, value in results.items():
        print(f"{name:<44}{value if isinstance(value, (int, str)) else round(value, 2)}")
    run.show_times()
    return 0


def example(run: Run, arguments: Any) -> dict[str, Any]:
    """Run the stages; return perplexities and accuracies by name."""
    data, tokens, vq = run.folder / "data", run.folder / "tokens", run.folder / "vq/checkpoint_last.pt"
    stage(run, "manifest", "w2v-manifest", arguments.speech, "--dest", data, "--ext", arguments.ext,
          "--valid-percent", "0.05")  # fmt: skip
    stage(run, "quantizer", "w2v-train", data, "--save-dir", vq.parent, *QUANTIZER, *COMMON,
          *counts({"--max-update": arguments.quantizer_updates, "--validate-interval-updates": 300}))  # fmt: skip
    stage(run, "tokens", "w2v-tokenize", "--data-dir", data, "--output-dir", tokens, "--checkpoint", vq,
          "--splits", "train", "valid", "--cpu")  # fmt: skip
    features = {"vq-wav2vec q": featurize(run, arguments, vq, "q"), "vq-wav2vec c": featurize(run, arguments, vq, "c")}
    results = count_perplexities(tokens / "train.src", tokens / "valid.src")
    for seed in range(1, arguments.seeds + 1):
        bert = run.folder / f"bert{seed}/checkpoint_last.pt"
        stage(run, f"masked model, seed {seed}", "w2v-train", tokens, "--save-dir", bert.parent, *MASKED, *COMMON,
              *schedule(seed, arguments.updates), "--disable-validation")  # fmt: skip
        results[f"perplexity, masked model, seed {seed}"] = masked_perplexity(bert, tokens / "valid.src")
        for layer in (1, 2):
            features[f"masked model, layer {layer}, seed {seed}"] = featurize(run, arguments, vq, str(layer), bert)
    return {**results, **probes(arguments.digits, features)}


def schedule(seed: int, updates: int) -> list[str]:
    """Return sizes, seed and schedule of a masked model as flags."""
    steps = {"--max-update": updates, "--total-num-update": updates, "--warmup-updates": updates // 10}
    return counts({**MODEL, "--seed": seed, **steps})


def stage(run: Run, name: str, *command: str | Path) -> None:
    """Run a program, unless it was run before."""
    if not run.is_done(name):
        with run.stage(name):
            run.call(str(command[0]), *command[1:], log=run.folder / f"{name.replace(' ', '-').replace(',', '')}.log")


def featurize(run: Run, arguments: Any, vq: Path, layer: str, bert: Path | None = None) -> Path:
    """Write the features of the digits; return their folder."""
    name = f"features {bert.parent.name if bert else 'vq'} {layer}"
    folder = run.folder / name.replace(" ", "-")
    more = ["--bert", bert] if bert else []
    stage(run, name, "w2v-featurize", "-i", arguments.digits, "-o", folder, "--model", vq, "--layer", layer, *more,
          "--ext", "flac,wav", "--max-tokens", "640000", "--cpu", "--quiet")  # fmt: skip
    return folder


def probes(digits: Path, features: dict[str, Path]) -> dict[str, float]:
    """Return how often a linear classifier on mean features names the digit of a speaker it was not fitted on, in %."""
    names, words, speakers = read_clips(digits)
    classes = sorted(set(words))
    targets, persons = np.array([classes.index(word) for word in words]), np.array(speakers)
    found = {}
    for name, folder in features.items():
        table = np.stack([mean_features(folder, clip) for clip in names])
        shares = [accuracy(table, targets, persons != who, persons == who, DECAY) for who in sorted(set(speakers))]
        found[f"digits named, {name}"] = 100 * float(np.mean(shares))
    return found


if __name__ == "__main__":
    sys.exit(main())
