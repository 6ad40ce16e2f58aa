"""HuBERT against wav2vec 2.0 on connected digits, at equal processor time, seed by seed.

    python examples/hubert/compare.py --data FOLDER [--folder hubert-run] [--seeds 1 2 3]

Both pretrain the same encoder on the speech of `examples/digits`. HuBERT has two rounds, of classes of MFCC
and of classes of its own layer; its k-means counts in its time. Each model is fine-tuned on five labelled minutes and
transcribed, and so is the same network without pretraining; frozen, two of its blocks are probed for the digit of
single recordings of unseen speakers. A stage that is done is not done again. Results go to `results.json`.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from statistics import mean, stdev
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "wav2vec"))
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "digits"))

import numpy as np
from digits_probe import Array, accuracy, log_mel, mean_features, read_clips, read_table
from run import DECODERS, FEW, SEEN, TRAIN, UNSEEN, make_speech, score, transcribe, write_labels, write_subset
from stages import REPOSITORY, Run, counts

from w2v.errors import W2vError

ENCODER = (
    *("--conv-feature-layers", "[(48, 10, 5), (48, 8, 4)] + [(96, 4, 4)] * 2", "--encoder-layers", "3"),
    *("--encoder-embed-dim", "128", "--encoder-ffn-embed-dim", "512", "--encoder-attention-heads", "4"),
    *("--conv-pos", "32", "--conv-pos-groups", "8", "--dropout", "0.05", "--attention-dropout", "0.05"),
    *("--final-dim", "64", "--mask-length", "8", "--feature-grad-mult", "1.0"),
    *("--optimizer", "adam", "--adam-betas", "(0.9, 0.98)", "--adam-eps", "1e-06", "--weight-decay", "0.01"),
    *("--lr-scheduler", "polynomial_decay", "--clip-norm", "10"),
    # 10 seconds a batch, in crops of 4 seconds.
    *("--max-tokens", "160000", "--max-sample-size", "64000", "--min-sample-size", "32000", "--disable-validation"),
)
WAV2VEC2 = (
    *("--task", "audio_pretraining", "--arch", "wav2vec2", *ENCODER, "--lr", "0.001", "--mask-prob", "0.6"),
    *("--quantize-targets", "--latent-vars", "80", "--latent-temp", "(2.0, 0.5, 0.997)", "--num-negatives", "100"),
    *("--criterion", "wav2vec", "--infonce", "--loss-weights", "[0.1, 10]"),
)
HUBERT = (
    *("--task", "hubert_pretraining", "--arch", "hubert", *ENCODER, "--lr", "0.001", "--mask-prob", "0.8"),
    *("--labels", "km", "--random-crop", "--criterion", "hubert", "--loss-weights", "[10]"),
)
FINETUNING = (
    *("--task", "audio_pretraining", "--arch", "wav2vec_ctc", "--labels", "ltr", "--post-process", "letter"),
    # Masks of a few frames, and 6 seconds a batch: with more of either, so few updates do not come to spell a word.
    *("--apply-mask", "--mask-prob", "0.15", "--mask-length", "4"),
    *("--feature-grad-mult", "1.0", "--dropout", "0.1", "--final-dropout", "0.1"),
    *("--criterion", "ctc", "--zero-infinity", "--optimizer", "adam", "--adam-betas", "(0.9, 0.98)"),
    *("--clip-norm", "5", "--lr-scheduler", "tri_stage", "--lr", "0.001", "--final-lr-scale", "0.05"),
    *("--max-tokens", "96000", "--required-batch-size-multiple", "1", "--disable-validation"),
)
LOGGING = ("--num-workers", "0", "--no-epoch-checkpoints", "--log-format", "json", "--log-interval", "25", "--cpu")
KMEANS = ("--n-init", "3", "--percent", "0.5", "--quiet")
MODELS, SCRATCH, ENERGIES = ("wav2vec2", "hubert"), "scratch", "log-mel energies"
LAYERS = ("2", "3")
# Recordings of each digit and speaker; of four speakers, pretraining hears those from the tenth on.
PROBED = range(5, 25)
DECAY = 1e-3  # of all probes


def main() -> int:
    """Run what is not done yet, print the results and return the exit code."""
    parser = argparse.ArgumentParser(description="HuBERT against wav2vec 2.0.", allow_abbrev=False)
    default = os.environ.get("W2V_DATA") or REPOSITORY.parent / "shared" / "data"
    option = parser.add_argument
    option("--data", type=Path, default=Path(default), help="folder with the packs of speech (default: $W2V_DATA)")
    option("--folder", type=Path, default=Path("hubert-run"), help="where to write (default: hubert-run)")
    option("--threads", type=int, default=1, help="of each program (default: 1)")
    option("--minutes", type=float, default=20, help="of unlabelled speech to make (default: 20)")
    option("--labelled-minutes", type=float, default=5, help="to fine-tune on (default: 5)")
    option("--seeds", type=int, nargs="+", default=[1, 2, 3], help="default: 1 2 3")
    option("--updates", type=int, nargs=3, default=[600, 140, 330], help="wav2vec 2.0; HuBERT, first and second round")
    option("--finetune-updates", type=int, default=700, metavar="N", help="default: 700")
    arguments = parser.parse_args()
    run, data = Run(arguments.folder, arguments.threads), arguments.data
    try:
        prepare(run, data, arguments.minutes, arguments.labelled_minutes)
        probe_energies(run, data)
        for seed in arguments.seeds:
            models = pretrain(run, seed, *arguments.updates)
            for name, checkpoint in models.items():
                probe(run, data, f"{name}-{seed}", checkpoint)
                finetune(run, f"ft-{name}-{seed}", checkpoint, seed, arguments.finetune_updates)
            report(run, arguments.seeds)
        for seed in arguments.seeds:
            network = run.folder / f"wav2vec2-{seed}" / "checkpoint_last.pt"
            start = ("--no-pretrained-weights",)
            finetune(run, f"ft-{SCRATCH}-{seed}", network, seed, arguments.finetune_updates, *start)
        report(run, arguments.seeds)
    except W2vError as e:
        print(f"hubert: {e}", file=sys.stderr)
        return e.exit_code
    return 0


def prepare(run: Run, data: Path, minutes: float, labelled_minutes: float) -> None:
    """Make unlabelled speech; write manifests, labels, and classes of MFCC."""
    manifests, labels = run.folder / "manifests", run.folder / "labels"
    unlabelled = make_speech(run, data, minutes)
    if not run.is_done("lists"):
        with run.stage("lists"):
            listed = ("--valid-percent", "0", "--ext", "flac,wav,ogg", "--sorted")
            run.call("w2v-manifest", unlabelled, "--dest", manifests, *listed)
            for name in (TRAIN, SEEN, UNSEEN):
                run.call("w2v-manifest", data / name, "--dest", manifests / name, *listed)
                write_labels(run, data, name, manifests / name / "train.tsv", *(["--dict"] if name == TRAIN else []))
            write_subset(labels / f"{TRAIN}.tsv", manifests / "few.tsv", 60 * labelled_minutes)
            write_labels(run, data, FEW, manifests / "few.tsv")
            texts = labels / f"{FEW}.wrd"
            run.call("w2v-lm", texts, "--order", "2", "--arpa", run.folder / "bigrams.arpa", "--quiet")
    if not run.is_done("k-means of MFCC"):
        with run.stage("k-means of MFCC"):
            run.call("w2v-kmeans", manifests, "--mfcc", "-K", "50", *KMEANS, "--output-dir", run.folder / "mfcc")


def pretrain(run: Run, seed: int, contrastive: int, first: int, second: int) -> dict[str, Path]:
    """Pretrain both models; return their checkpoints."""
    found = {name: run.folder / f"{name}-{seed}" / "checkpoint_last.pt" for name in MODELS}
    _train(run, f"wav2vec2-{seed}", WAV2VEC2, seed, contrastive)
    mfcc, layer = run.folder / "mfcc", run.folder / f"layer-{seed}"
    _train(run, f"round1-{seed}", (*HUBERT, "--label-rate", "100", "--label-dir", str(mfcc)), seed, first)
    if not run.is_done(f"k-means of layer-{seed}"):
        with run.stage(f"k-means of layer-{seed}"):
            model = run.folder / f"round1-{seed}" / "checkpoint_last.pt"
            flags = ("--model", model, "--layer", "2", "-K", "50", *KMEANS, "--cpu", "--max-tokens", "640000")
            run.call("w2v-kmeans", run.folder / "manifests", *flags, "--output-dir", layer)
    _train(run, f"hubert-{seed}", (*HUBERT, "--label-rate", "50", "--label-dir", str(layer)), seed, second)
    return found


def _train(run: Run, name: str, options: tuple[str, ...], seed: int, num_updates: int) -> None:
    if run.is_done(name):
        return
    schedule = counts({"--max-update": num_updates, "--warmup-updates": num_updates // 10, "--seed": seed})
    with run.stage(name):
        places = (run.folder / "manifests", "--save-dir", run.folder / name)
        run.call("w2v-train", *places, *options, *schedule, *LOGGING, log=run.folder / f"{name}.log")


def finetune(run: Run, name: str, checkpoint: Path, seed: int, num_updates: int, *flags: str) -> None:
    """Fine-tune on five minutes, or with `--no-pretrained-weights` train on them alone; transcribe both test sets."""
    if not run.is_done(name):
        warm, hold = num_updates // 10, num_updates * 2 // 5
        steps = {"--warmup-steps": warm, "--hold-steps": hold, "--decay-steps": num_updates - warm - hold}
        schedule = counts({"--max-update": num_updates, "--seed": seed, **steps})
        with run.stage(name):
            places = (run.folder / "labels", "--train-subset", FEW, "--save-dir", run.folder / name)
            options = ("--w2v-path", checkpoint, *flags, *FINETUNING, *schedule, *LOGGING)
            run.call("w2v-train", *places, *options, log=run.folder / f"{name}.log")
    transcribe(run, name)


def probe(run: Run, data: Path, name: str, checkpoint: Path) -> None:
    """Write the accuracy of a linear classifier of single digits, on speakers that it was not fitted on, by layer."""
    if run.is_done(f"probe-{name}"):
        return
    with run.stage(f"probe-{name}"):
        digits = single_digits(run, data)
        accuracies = {}
        for layer in LAYERS:
            features = run.folder / "features" / f"{name}-{layer}"
            where = ("-i", digits / "audio", "-o", features, "--ext", "flac", "--layer", layer)
            run.call("w2v-featurize", *where, "--model", checkpoint, "--cpu", "--quiet")
            accuracies[layer] = accuracy_of(digits, lambda clip, folder=features: mean_features(folder, clip))
        write_accuracies(run, name, accuracies)


def probe_energies(run: Run, data: Path) -> None:
    """Do the same with log-mel energies, which is what both have to beat."""
    if run.is_done(f"probe-{ENERGIES}"):
        return
    with run.stage(f"probe-{ENERGIES}"):
        digits = single_digits(run, data)
        means = accuracy_of(digits, lambda clip: log_mel(digits / "audio" / clip, 80, 8000, floor=1e-6).mean(axis=0))
        write_accuracies(run, ENERGIES, {"bands": means})


def single_digits(run: Run, data: Path) -> Path:
    """Return a folder with links to the recordings to probe, their words and speakers."""
    digits = run.folder / "probe"
    if digits.is_dir():
        return digits
    wanted = {f"_{number}." for number in PROBED}
    rows = [row for row in read_table(data / "fsdd16k" / "transcripts.tsv") if any(w in row[0] for w in wanted)]
    for path, _ in rows:
        (digits / "audio" / path).parent.mkdir(parents=True, exist_ok=True)
        (digits / "audio" / path).symlink_to((data / "fsdd16k" / path).resolve())
    for file, lines in (("transcripts", rows), ("meta", read_table(data / "fsdd16k" / "meta.tsv"))):
        text = "".join("\t".join(line) + "\n" for line in lines)
        (digits / f"{file}.tsv").write_text(text, encoding="utf-8")
    return digits


def accuracy_of(digits: Path, vector: Callable[[str], Array]) -> float:
    """Return the mean accuracy over the speakers that were left out, in percent, given a vector for each clip."""
    names, words, speakers = read_clips(digits)
    targets, persons = np.unique(words, return_inverse=True)[1], np.array(speakers)
    table = np.stack([vector(clip) for clip in names])
    found = [accuracy(table, targets, persons != who, persons == who, DECAY) for who in sorted(set(speakers))]
    return round(100 * float(np.mean(found)), 1)


def write_accuracies(run: Run, name: str, accuracies: dict[str, float]) -> None:
    (run.folder / f"probe-{name}.json").write_text(json.dumps(accuracies), encoding="utf-8")


def report(run: Run, seeds: list[int]) -> None:
    """Print and write error rates, probes and processor times of the seeds that are done, and their means."""
    rows: list[dict[str, Any]] = []
    for seed in seeds:
        for name in (*MODELS, SCRATCH):
            if f"ft-{name}-{seed}, kenlm" not in run.stages:
                continue
            parts = {"wav2vec2": [f"wav2vec2-{seed}"], SCRATCH: []}.get(
                name, [f"hubert-{seed}", f"round1-{seed}", f"k-means of layer-{seed}", "k-means of MFCC"]
            )
            values = {"cpu": sum(run.stages[part]["cpu"] for part in parts)}
            for decoder, subset in itertools.product(DECODERS, (SEEN, UNSEEN)):
                folder = run.folder / "results" / f"ft-{name}-{seed}-{decoder}"
                values[f"WER {subset.removeprefix('digits_valid_')}, {decoder}"] = score(folder, subset)["wer"]
            if name != SCRATCH:
                probes = json.loads((run.folder / f"probe-{name}-{seed}.json").read_text(encoding="utf-8"))
                values |= {f"probe, block {layer}": value for layer, value in probes.items()}
            rows.append({"model": name, "seed": seed, **values})
    energies = json.loads((run.folder / f"probe-{ENERGIES}.json").read_text(encoding="utf-8"))
    content = {"results": rows, f"probe, {ENERGIES}": energies["bands"], "seconds": run.stages}
    (run.folder / "results.json").write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    print(f"\nprobe, {ENERGIES}: {energies['bands']:.1f} %")
    for name in (*MODELS, SCRATCH):
        ours = [row for row in rows if row["model"] == name]
        for key in list(ours[0])[2:] if ours else ():
            found = [row[key] for row in ours]
            spread = f" +- {stdev(found):.1f}" if len(found) > 1 else ""
            print(f"{name:9} {key:22} {mean(found):6.1f}{spread}   {' '.join(f'{value:.1f}' for value in found)}")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
