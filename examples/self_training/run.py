"""Five labelled minutes and fifteen unlabelled ones: rounds of self-training against other ways to use the same speech.

    python examples/self_training/run.py --data FOLDER [--folder self-training-run] [--seeds 1,2,3]

FOLDER holds the packs `digits_train`, `digits_valid_seen` and `digits_valid_unseen`. Of the labelled minutes one is held
back to choose by (`dev`). Every stage calls the programs as a user would and shows the command; one that is done is not
done again, and a training that was stopped resumes. Results go to `results.json`.
"""

from __future__ import annotations

import random
import sys
from pathlib import Path

from w2v.errors import DataError

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from stages import Run, counts

SAMPLE_RATE = 16000
PACK, SEEN, UNSEEN = "digits_train", "digits_valid_seen", "digits_valid_unseen"
FEW, DEV, REST = "few", "dev", "rest"

# Four convolutions with strides 5 * 4 * 4 * 4 = 320: a frame every 20 ms, as in the paper, for a tenth of its cost.
NETWORK = (
    *("--conv-feature-layers", "[(32, 10, 5), (64, 8, 4)] + [(128, 4, 4)] * 2"),
    *("--encoder-layers", "3", "--encoder-embed-dim", "128", "--encoder-ffn-embed-dim", "512"),
    *("--encoder-attention-heads", "4", "--conv-pos", "32", "--conv-pos-groups", "8"),
)
PRETRAINING = (
    *("--task", "audio_pretraining", "--arch", "wav2vec2", *NETWORK),
    *("--quantize-targets", "--latent-vars", "40", "--latent-temp", "(2.0, 0.5, 0.99)", "--final-dim", "64"),
    *("--mask-prob", "0.5", "--mask-length", "5", "--num-negatives", "50"),
    *("--criterion", "wav2vec", "--infonce", "--loss-weights", "[0.1, 10]"),
    *("--log-keys", '["prob_perplexity", "code_perplexity", "temp"]'),
    *("--optimizer", "adam", "--adam-betas", "(0.9, 0.98)", "--adam-eps", "1e-06", "--weight-decay", "0.01"),
    *("--lr-scheduler", "polynomial_decay", "--lr", "0.002", "--disable-validation"),
    *("--max-tokens", "160000", "--max-sample-size", "64000"),
)
FINETUNING = (
    *("--task", "audio_pretraining", "--arch", "wav2vec_ctc", "--labels", "ltr", "--post-process", "letter"),
    *("--apply-mask", "--mask-prob", "0.3", "--mask-length", "5"),
    *("--mask-channel-prob", "0.1", "--mask-channel-length", "16"),
    *("--dropout", "0.1", "--attention-dropout", "0.1", "--final-dropout", "0.1", "--feature-grad-mult", "1.0"),
    *("--criterion", "ctc", "--zero-infinity"),
    *("--optimizer", "adam", "--adam-betas", "(0.9, 0.98)", "--adam-eps", "1e-08", "--clip-norm", "5"),
    *("--lr-scheduler", "tri_stage", "--lr", "0.002", "--final-lr-scale", "0.05"),
    # 10 seconds a batch: more and smaller updates learn faster here than fewer and larger ones.
    *("--max-tokens", "160000", "--required-batch-size-multiple", "1"),
    # Real labels alone decide.
    *("--valid-subset", DEV, "--best-checkpoint-metric", "wer"),
)
LOGGING = ("--num-workers", "0", "--no-epoch-checkpoints", "--log-format", "json", "--log-interval", "50")


def prepare(run: Run, data: Path, minutes: float, dev_minutes: float) -> None:
    """Write manifests and labels, part the speech, and make a language model of the labelled texts."""
    if run.is_done("lists"):
        return
    labels = run.folder / "labels"
    with run.stage("lists"):
        for name in (PACK, SEEN, UNSEEN):
            manifest = run.folder / "manifests" / name
            listed = ("--valid-percent", "0", "--ext", "flac,wav,ogg", "--sorted")
            run.call("w2v-manifest", data / name, "--dest", manifest, *listed)
            label(run, data / name, manifest / "train.tsv", name, *(["--dict"] if name == PACK else []))
        parts = part_manifest(labels / f"{PACK}.tsv", [(minutes - dev_minutes) * 60, dev_minutes * 60])
        for name, lines in zip((FEW, DEV, REST), parts, strict=True):
            manifest = run.folder / "manifests" / f"{name}.tsv"
            manifest.write_text("\n".join([*lines, ""]), encoding="utf-8")
            label(run, data / PACK, manifest, name)
        texts = labels / f"{FEW}.wrd"
        run.call("w2v-lm", texts, "--order", "2", "--arpa", run.folder / "bigrams.arpa", "--quiet")


def label(run: Run, pack: Path, manifest: Path, name: str, *flags: str) -> None:
    """Write the labels of a manifest, and the manifest beside them."""
    where = ("--output-dir", run.folder / "labels", "--output-name", name, "--drop-missing")
    run.call("w2v-labels", manifest, *where, "--transcripts", pack / "transcripts.tsv", *flags)


def part_manifest(manifest: Path, seconds: list[float]) -> list[list[str]]:
    """Return the lines of manifests with so many seconds each, drawn at random, and of one with the rest.

    Raises:
        DataError: the manifest does not last that long.
    """
    root, *lines = manifest.read_text(encoding="utf-8").splitlines()
    random.Random(1).shuffle(lines)
    parts, place = [], 0
    for wanted in seconds:
        left, first = wanted * SAMPLE_RATE, place
        while left > 0:
            if place == len(lines):
                raise DataError(f"{manifest} holds less than {sum(seconds):g} seconds")
            left -= int(lines[place].rpartition("\t")[2])
            place += 1
        parts.append([root, *lines[first:place]])
    if place == len(lines):
        raise DataError(f"{manifest} holds no more than {sum(seconds):g} seconds: nothing is left without labels")
    return [*parts, [root, *lines[place:]]]


def pretrain(run: Run, name: str, num_updates: int, *flags: str | Path) -> None:
    """Pretrain on all speech, without labels."""
    if run.is_done(name):
        return
    schedule = counts({"--max-update": num_updates, "--warmup-updates": max(1, num_updates // 10)})
    with run.stage(name):
        places = (run.folder / "manifests" / PACK, "--save-dir", run.folder / name)
        run.call("w2v-train", *places, *PRETRAINING, *LOGGING, *schedule, *flags, log=run.folder / f"{name}.log")


def finetune(run: Run, name: str, subset: str, num_updates: int, seed: int, encoder: str, *flags: str | Path) -> None:
    """Fine-tune a pretrained model."""
    if run.is_done(name):
        return
    warm, hold = max(1, num_updates // 10), num_updates * 2 // 5
    steps = {"--warmup-steps": warm, "--hold-steps": hold, "--decay-steps": num_updates - warm - hold}
    schedule = counts({"--max-update": num_updates, "--seed": seed, **steps})
    with run.stage(name):
        places = (run.folder / "labels", "--train-subset", subset, "--save-dir", run.folder / name)
        start = ("--w2v-path", run.folder / encoder / "checkpoint_last.pt", "--validate-interval", "1000")
        run.call("w2v-train", *places, *start, *FINETUNING, *LOGGING, *schedule, *flags, log=run.folder / f"{name}.log")
