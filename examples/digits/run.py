"""Connected digits, spoken by real people: pretrain, fine-tune on 20 minutes and on 5, transcribe, compare.

    python examples/digits/run.py --data FOLDER [--folder digits-run] [--threads 2]

FOLDER holds the packs `fsdd16k`, `digits_train`, `digits_valid_seen` and `digits_valid_unseen`, read English in
`libri_extra` and `libri_train`, and `tools/make_digits.py`. Every stage calls the programs as a user would and shows
the command; one that is done is not done again, and a training that was stopped resumes. Results go to `results.json`,
curves to `curves.csv` and `curves.png` (see plot.py).
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import sys
from pathlib import Path
from typing import Any

from w2v.errors import DataError, W2vError

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from stages import REPOSITORY, Run, counts, packs, read_results, word_errors

SAMPLE_RATE = 16000
SPEAKERS = ("george", "jackson", "lucas", "nicolas")
TRAIN, FEW, SEEN, UNSEEN = "digits_train", "digits_train_few", "digits_valid_seen", "digits_valid_unseen"
READ = ("libri_extra", "libri_train")
PACKS = ("fsdd16k", TRAIN, SEEN, UNSEEN, *READ, "tools/make_digits.py")
DECODERS = {
    "viterbi": ("--w2l-decoder", "viterbi"),
    "kenlm": ("--w2l-decoder", "kenlm", "--lm-weight", "1", "--word-score", "0", "--beam", "50"),
}

BLOCKS = (
    *("--encoder-layers", "4", "--encoder-embed-dim", "192", "--encoder-ffn-embed-dim", "768"),
    *("--encoder-attention-heads", "4", "--conv-pos-groups", "8"),
)
# A frame every 20 ms, as in the paper, at a fraction of the cost of its seven convolutions.
NETWORK = (*("--conv-feature-layers", "[(64, 10, 5), (64, 8, 4)] + [(128, 4, 4)] * 2", "--conv-pos", "32", *BLOCKS),)
PRETRAINING = (
    *("--task", "audio_pretraining", "--arch", "wav2vec2", "--dropout", "0.05", "--attention-dropout", "0.05"),
    *("--quantize-targets", "--latent-vars", "80", "--latent-groups", "2", "--final-dim", "96"),
    *("--latent-temp", "(2.0, 0.5, 0.998)", "--num-negatives", "100", "--mask-prob", "0.6", "--mask-length", "8"),
    *("--criterion", "wav2vec", "--infonce", "--loss-weights", "[0.1, 10]"),
    *("--log-keys", '["prob_perplexity", "code_perplexity", "temp"]'),
    *("--optimizer", "adam", "--adam-betas", "(0.9, 0.98)", "--adam-eps", "1e-06", "--weight-decay", "0.01"),
    *("--lr-scheduler", "polynomial_decay", "--lr", "0.001"),
    # 40 seconds a batch, in crops of 6 seconds.
    *("--max-tokens", "640000", "--max-sample-size", "96000", "--min-sample-size", "32000"),
)
FINETUNING = (
    *("--task", "audio_pretraining", "--arch", "wav2vec_ctc", "--labels", "ltr", "--post-process", "letter"),
    *("--apply-mask", "--mask-prob", "0.3", "--mask-length", "5"),
    *("--mask-channel-prob", "0.1", "--mask-channel-length", "16", "--feature-grad-mult", "1.0"),
    *("--dropout", "0.1", "--attention-dropout", "0.1", "--final-dropout", "0.1"),
    *("--criterion", "ctc", "--zero-infinity"),
    *("--optimizer", "adam", "--adam-betas", "(0.9, 0.98)", "--adam-eps", "1e-08", "--clip-norm", "5"),
    *("--lr-scheduler", "tri_stage", "--lr", "0.001", "--final-lr-scale", "0.05"),
    *("--max-tokens", "320000", "--required-batch-size-multiple", "1"),
    *("--valid-subset", f"{SEEN},{UNSEEN}", "--best-checkpoint-metric", "wer"),
)
SPEEDS = ("--augment-speed", "0.8,1.25")  # of four speakers, they make as many voices as training takes clips
# All of this costs updates before it saves errors, so it goes with many small ones: 10 seconds each. The gain is there
# for the unseen speaker, who was recorded 15 dB more softly than the others.
LONG = (*SPEEDS, "--augment-gain-db", "12", "--mask-channel-prob", "0.2", "--max-tokens", "160000")
LOGGING = ("--num-workers", "0", "--no-epoch-checkpoints", "--log-format", "json", "--log-interval", "25")


def main() -> int:
    """Run what is not done yet, print the results and return the exit code."""
    arguments = _arguments()
    try:
        data = packs(arguments.data, PACKS)
        run = Run(arguments.folder, arguments.threads)
        prepare(run, data, arguments.minutes, arguments.few_minutes)
        seed = ("--seed", str(arguments.seed))
        pretrain(run, arguments.pretrain_updates, *seed)
        finetune(run, "ft20", TRAIN, arguments.finetune_updates, *LONG, *seed)
        transcribe(run, "ft20")
        if arguments.few_updates:
            finetune(run, "ft5", FEW, arguments.few_updates, *seed)
            finetune(run, "scratch5", FEW, arguments.few_updates, *seed, "--no-pretrained-weights")
            transcribe(run, "ft5")
            transcribe(run, "scratch5")
        report(run)
        run.call(str(Path(__file__).with_name("plot.py")), run.folder)
    except W2vError as e:
        print(f"digits: {e}", file=sys.stderr)
        return e.exit_code
    except KeyboardInterrupt:
        return 130
    return 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="From real speech to digits.", allow_abbrev=False)
    default = os.environ.get("W2V_DATA") or REPOSITORY.parent / "shared" / "data"
    option = parser.add_argument
    option("--data", type=Path, default=Path(default), help="folder with the packs of speech (default: $W2V_DATA)")
    option("--folder", type=Path, default=Path("digits-run"), help="where to write (default: digits-run)")
    option("--threads", type=int, default=min(2, os.cpu_count() or 1), help="of each program (default: 2)")
    option("--minutes", type=float, default=150, help="of unlabelled speech to make (default: 150)")
    option("--few-minutes", type=float, default=5, help="of labelled speech in the comparison (default: 5)")
    option("--pretrain-updates", type=int, default=1500, metavar="N", help="default: 1500")
    option("--finetune-updates", type=int, default=12000, metavar="N", help="on all labelled speech (default: 12000)")
    option("--few-updates", type=int, default=1000, metavar="N", help="in the comparison; 0: none (default: 1000)")
    option("--seed", type=int, default=1, help="of all that training draws; the data stay the same (default: 1)")
    return parser.parse_args()


def prepare(run: Run, data: Path, minutes: float, few_minutes: float) -> None:
    """Make unlabelled speech; write manifests, labels, and a language model of the training texts."""
    manifests, labels = run.folder / "manifests", run.folder / "labels"
    unlabelled = make_speech(run, data, minutes)
    if run.is_done("lists"):
        return
    with run.stage("lists"):
        listed = ("--ext", "flac,wav,ogg", "--sorted")
        run.call("w2v-manifest", unlabelled, "--dest", manifests, "--valid-percent", "0.02", *listed)
        if (manifests / "valid.tsv").read_bytes().count(b"\n") < 2:  # of a handful of clips none is held back
            (manifests / "valid.tsv").write_bytes((manifests / "train.tsv").read_bytes())
        for name in (TRAIN, SEEN, UNSEEN):
            run.call("w2v-manifest", data / name, "--dest", manifests / name, "--valid-percent", "0", *listed)
            write_labels(run, data, name, manifests / name / "train.tsv", *(["--dict"] if name == TRAIN else []))
        for name in READ:
            run.call("w2v-manifest", data / name, "--dest", manifests / name, "--valid-percent", "0", *listed)
            shutil.copy(manifests / name / "train.tsv", manifests / f"{name}.tsv")
        few = manifests / "few.tsv"
        write_subset(labels / f"{TRAIN}.tsv", few, few_minutes * 60)
        write_labels(run, data, FEW, few)
        texts = labels / f"{TRAIN}.wrd"
        run.call("w2v-lm", texts, "--order", "2", "--arpa", run.folder / "bigrams.arpa", "--quiet")


def make_speech(run: Run, data: Path, minutes: float) -> Path:
    """Make connected digits without labels, unless they are there; return their folder."""
    unlabelled = run.folder / "unlabelled"
    if not run.is_done("speech"):
        with run.stage("speech"):
            # Recordings 10 to 49 only: 0 to 9 of the same speakers are what `digits_valid_seen` is made of.
            how = ("--speakers", *SPEAKERS, "--index", "10", "49", "--minutes", f"{minutes:g}", "--seed", "7")
            digits = ("--min-digits", "8", "--max-digits", "20", "--format", "wav")
            run.call(str(data / "tools" / "make_digits.py"), data / "fsdd16k", unlabelled, *how, *digits)
    return unlabelled


def write_labels(run: Run, data: Path, name: str, manifest: Path, *flags: str) -> None:
    """Write the labels of a pack, or of the few clips of one (`NAME_few`)."""
    texts = data / name.removesuffix("_few") / "transcripts.tsv"
    listed = ("--output-dir", run.folder / "labels", "--output-name", name, "--drop-missing")
    run.call("w2v-labels", manifest, *listed, "--transcripts", texts, *flags)


def write_subset(manifest: Path, path: Path, seconds: float) -> None:
    """Write the first clips of a shuffled manifest that last `seconds` together.

    Raises:
        DataError: they do not last that long.
    """
    root, *lines = manifest.read_text(encoding="utf-8").splitlines()
    random.Random(1).shuffle(lines)
    left, taken = seconds * SAMPLE_RATE, 0
    while left > 0:
        if taken == len(lines):
            raise DataError(f"{manifest} holds less than {seconds:g} seconds")
        left -= int(lines[taken].rpartition("\t")[2])
        taken += 1
    path.write_text("\n".join([root, *lines[:taken], ""]), encoding="utf-8")


def pretrain(run: Run, num_updates: int, *flags: str) -> None:
    """Pretrain on the unlabelled digits and on read speech."""
    if run.is_done("pretrain"):
        return
    schedule = counts({"--max-update": num_updates, "--warmup-updates": max(1, num_updates * 2 // 25)})
    with run.stage("pretrain"):
        subsets = ("--train-subset", ",".join(["train", *READ]))
        places = (run.folder / "manifests", *subsets, "--save-dir", run.folder / "pretrain")
        rarely = ("--validate-interval", "1000", "--validate-interval-updates", "250", "--save-interval-updates", "250")
        options = (*PRETRAINING, *NETWORK, *schedule, *LOGGING, *rarely, "--keep-interval-updates", "1", *flags)
        run.call("w2v-train", *places, *options, log=run.folder / "pretrain.log")


def finetune(run: Run, name: str, subset: str, num_updates: int, *flags: str) -> None:
    """Fine-tune the pretrained model, or with `--no-pretrained-weights` train the same network from scratch."""
    if run.is_done(name):
        return
    warm, hold = max(1, num_updates // 10), num_updates * 2 // 5
    steps = {"--warmup-steps": warm, "--hold-steps": hold, "--decay-steps": num_updates - warm - hold}
    schedule = counts({"--max-update": num_updates, **steps})
    with run.stage(name):
        places = (run.folder / "labels", "--train-subset", subset, "--save-dir", run.folder / name)
        weights = ("--w2v-path", run.folder / "pretrain" / "checkpoint_last.pt")
        rarely = ("--validate-interval", "1000", "--validate-interval-updates", "500")
        options = (*FINETUNING, *schedule, *LOGGING, *rarely, *flags)
        run.call("w2v-train", *places, *weights, *options, log=run.folder / f"{name}.log")


def transcribe(run: Run, model: str) -> None:
    """Transcribe both test sets with both decoders, with the last checkpoint: none is chosen by its test score."""
    beam = ("--lm-model", run.folder / "bigrams.arpa")  # the lexicon is derived from its words
    for decoder, flags in DECODERS.items():
        name = f"{model}, {decoder}"
        if run.is_done(name):
            continue
        with run.stage(name):
            for subset in (SEEN, UNSEEN):
                places = (run.folder / "labels", "--path", run.folder / model / "checkpoint_last.pt")
                results = ("--gen-subset", subset, "--results-path", run.folder / "results" / f"{model}-{decoder}")
                more = beam if decoder == "kenlm" else ()
                run.call("w2v-infer", *places, *results, "--post-process", "letter", "--quiet", *flags, *more)


def report(run: Run) -> None:
    """Print and write error rates and durations."""
    rows: list[dict[str, Any]] = []
    for model in ("ft20", "ft5", "scratch5"):
        for decoder in DECODERS:
            folder = run.folder / "results" / f"{model}-{decoder}"
            if f"{model}, {decoder}" in run.stages:
                rows += [{"model": model, "decoder": decoder, "set": s, **score(folder, s)} for s in (SEEN, UNSEEN)]
    run.write_results(rows)
    print()
    for row in rows:
        print(
            f"{row['model']:9} {row['decoder']:8} {row['set']:20} WER {row['wer']:6.2f} %"
            f"  ({row['errors']} errors in {row['words']} words)"
        )
    run.show_times()


def score(folder: Path, subset: str) -> dict[str, float]:
    """Return errors, words and word error rate of a folder of results."""
    name = f"checkpoint_last.pt-{subset}.txt"
    return word_errors(read_results(folder / f"hypo.word-{name}"), read_results(folder / f"ref.word-{name}"))


if __name__ == "__main__":
    sys.exit(main())
