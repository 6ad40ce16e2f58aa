"""Five labelled minutes and more without labels: rounds of self-training against other ways to use the same speech.

    python examples/self_training/run.py --data FOLDER [--folder self-training-run] [--seeds 1,2,3]
    python examples/self_training/run.py --data FOLDER --pretrained MODEL  # ... from an encoder that is there
    python examples/self_training/run.py --data FOLDER --model MODEL       # a new speaker for a model that is there

FOLDER holds the packs `digits_train`, `digits_valid_seen` and `digits_valid_unseen`, for a new speaker also `fsdd16k`
and `tools/make_digits.py`. Of the labelled minutes one is held back to choose by (`dev`). Every stage calls the
programs as a user would and shows the command; one that is done is not done again, and a training that was stopped
resumes. Results go to `results.json`.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import sys
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import Any

from w2v.errors import DataError, TrainingError, W2vError

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
sys.path.insert(0, str(Path(__file__).resolve().parent))

from digits.run import BLOCKS, FINETUNING, LOGGING, PRETRAINING, SPEEDS
from guard import Round, fault_of_labels, fault_of_round
from stages import REPOSITORY, Run, counts, packs, read_results, word_errors

SAMPLE_RATE = 16000
PACK, SEEN, UNSEEN = "digits_train", "digits_valid_seen", "digits_valid_unseen"
FEW, DEV, REST = "few", "dev", "rest"
SETS = (DEV, SEEN, UNSEEN)
CHECKS = "checks"  # the three sets as one, so that a model is opened once
WEIGHT = 0.5  # of a pseudo-label: a quarter of the seconds are labelled, which makes two fifths of the gradient
BEAM = ("--w2l-decoder", "kenlm", "--lm-weight", "1", "--word-score", "0", "--beam", "50")

PRETRAIN, CONTINUED = "pretrain", "continued"
NEW_SPEAKER = "yweweler"  # none of digits_train
# Recordings of each digit: those that are heard without labels, and those of the test.
INDICES = {REST: ("0", "29"), UNSEEN: ("30", "49")}
# Strides of 10 * 4 * 4 * 2: an update of fine-tuning takes a fifth less than with those of the digits.
NETWORK = (
    *("--conv-feature-layers", "[(64, 20, 10), (64, 8, 4), (128, 4, 4), (128, 2, 2)]", "--conv-pos", "16"),
    *(*BLOCKS, *SPEEDS),
)
# 10 seconds a batch. Real labels alone decide.
BATCHES = ("--max-tokens", "160000", "--valid-subset", DEV)


def main() -> int:
    """Run what is not done yet, print the results and return the exit code."""
    arguments = _arguments()
    try:
        given = arguments.model
        needed = (PACK, SEEN, *(("fsdd16k", "tools/make_digits.py") if given else (UNSEEN,)))
        run = Run(arguments.folder, arguments.threads)
        prepare(run, packs(arguments.data, needed), arguments)
        if arguments.pretrained:
            adopt(run, PRETRAIN, arguments.pretrained)
        elif not given:
            pretrain(run, PRETRAIN, arguments.pretrain_updates)
        updates = arguments.updates or (150 if given else 1000)
        for seed in arguments.seeds:
            trainer = Trainer(run, seed, updates, given)
            if given:
                transcribe(run, adopt(run, f"supervised-{seed}", given))
                trainer.train("control", FEW)  # as many updates more, on labelled speech alone
            else:
                trainer.train("supervised", FEW)
            self_train(trainer, arguments.rounds)
            trainer.train("full", f"{FEW},{REST}")
            if not given and arguments.continued_updates:
                start = ("--finetune-from-model", run.folder / PRETRAIN / "checkpoint_last.pt")
                pretrain(run, CONTINUED, arguments.continued_updates, *start)
                trainer.train("continued", FEW, encoder=CONTINUED)
        report(run, arguments.seeds)
    except W2vError as e:
        print(f"self_training: {e}", file=sys.stderr)
        return e.exit_code
    except KeyboardInterrupt:
        return 130
    return 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Rounds of self-training on digits.", allow_abbrev=False)
    default = os.environ.get("W2V_DATA") or REPOSITORY.parent / "shared" / "data"
    option = parser.add_argument
    option("--data", type=Path, default=Path(default), help="folder with the packs of speech (default: $W2V_DATA)")
    option("--folder", type=Path, default=Path("self-training-run"), help="where to write")
    option("--threads", type=int, default=min(2, os.cpu_count() or 1), help="of each program (default: 2)")
    option("--seeds", type=lambda text: [int(n) for n in text.split(",")], default=[1, 2, 3], help="default: 1,2,3")
    option("--rounds", type=int, default=2, help="of labels and training (default: 2)")
    option("--labelled-minutes", type=float, default=5, help="speech with labels, dev among it (default: 5)")
    option("--dev-minutes", type=float, default=1, help="of it, held back to choose by (default: 1)")
    option("--pretrain-updates", type=int, default=1500, metavar="N", help="default: 1500")
    option("--updates", type=int, metavar="N", help="of each fine-tuning (default: 1000; 150 with --model)")
    option("--continued-updates", type=int, default=500, metavar="N", help="more pretraining; 0: none (default: 500)")
    start = parser.add_mutually_exclusive_group().add_argument
    start("--pretrained", type=Path, metavar="MODEL", help="begin with this encoder instead of pretraining one here")
    start("--model", type=Path, help="begin with this CTC model, and let it learn a speaker without labels")
    option("--minutes", type=float, default=10, help="of the new speaker, with --model (default: 10)")
    shown = "of these, with labels, to choose by instead of speakers whom the model knows (default: 0)"
    option("--speaker-dev-minutes", type=float, default=0, metavar="M", help=shown)
    return parser.parse_args()


def prepare(run: Run, data: Path, arguments: argparse.Namespace) -> None:
    """Write manifests and labels, part the speech, and make a language model of the labelled texts."""
    if run.is_done("lists"):
        return
    labels, few, dev = run.folder / "labels", arguments.labelled_minutes, arguments.dev_minutes
    with run.stage("lists"):
        packs = {PACK: data / PACK, SEEN: data / SEEN}
        packs |= make_speaker(run, data, arguments.minutes) if arguments.model else {UNSEEN: data / UNSEEN}
        if arguments.model:
            write_symbols(arguments.model, labels / "dict.ltr.txt")
        for name, pack in packs.items():
            manifest = run.folder / "manifests" / name
            listed = ("--valid-percent", "0", "--ext", "flac,wav,ogg", "--sorted")
            run.call("w2v-manifest", pack, "--dest", manifest, *listed)
            label(
                run, pack, manifest / "train.tsv", name, *(["--dict"] if name == PACK and not arguments.model else [])
            )
        parts = part_manifest(labels / f"{PACK}.tsv", [(few - dev) * 60, dev * 60])
        named = dict(zip((FEW, DEV, REST), parts, strict=True))
        if arguments.model:
            # A model that is there has heard all of digits_train with its labels: what it has not is parted instead.
            root, *lines = (labels / f"{SEEN}.tsv").read_text(encoding="utf-8").splitlines()
            named = {FEW: named[FEW], DEV: [root, *lines[::2]], SEEN: [root, *lines[1::2]]}
            if arguments.speaker_dev_minutes:
                minutes = arguments.speaker_dev_minutes
                named[DEV], named[REST] = part_manifest(labels / f"{REST}.tsv", [minutes * 60])
        for name, lines in named.items():
            manifest = run.folder / "manifests" / f"{name}.tsv"
            manifest.write_text("\n".join([*lines, ""]), encoding="utf-8")
            label(run, Path(lines[0]), manifest, name)
        join_sets(labels, SETS, CHECKS)
        run.call("w2v-lm", labels / f"{FEW}.wrd", "--order", "2", "--arpa", run.folder / "bigrams.arpa", "--quiet")


def make_speaker(run: Run, data: Path, minutes: float) -> dict[str, Path]:
    """Make strings of digits of the new speaker, to be heard without labels and to test on."""
    packs = {}
    for name, length in ((REST, minutes), (UNSEEN, minutes / 3)):
        packs[name] = run.folder / "speech" / name
        how = ("--speakers", NEW_SPEAKER, "--index", *INDICES[name], "--minutes", f"{length:g}", "--seed", "7")
        digits = ("--min-digits", "3", "--max-digits", "8", "--format", "flac")
        run.call(str(data / "tools" / "make_digits.py"), data / "fsdd16k", packs[name], *how, *digits)
    return packs


def write_symbols(model: Path, path: Path) -> None:
    """Write the dictionary of a model: its output layer is kept, so its symbols keep their numbers."""
    import w2v

    symbols = w2v.load_model(model).task.dictionary.symbols[4:]
    path.parent.mkdir(exist_ok=True)
    path.write_text("".join(f"{symbol} 1\n" for symbol in symbols), encoding="utf-8")


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


def join_sets(labels: Path, names: tuple[str, ...], joined: str) -> None:
    """Write manifest and labels of several sets as one, each clip below the folder of its own set."""
    rows, letters, roots = [], [], []
    for name in names:
        root, *lines = (labels / f"{name}.tsv").read_text(encoding="utf-8").splitlines()
        roots.append(root)
        rows += [(root, line) for line in lines]
        letters += (labels / f"{name}.ltr").read_text(encoding="utf-8").splitlines()
    top = os.path.commonpath([os.path.dirname(root) for root in roots])
    lines = [f"{os.path.relpath(root, top)}/{line}" for root, line in rows]
    (labels / f"{joined}.tsv").write_text("\n".join([top, *lines, ""]), encoding="utf-8")
    (labels / f"{joined}.ltr").write_text("\n".join([*letters, ""]), encoding="utf-8")


def pretrain(run: Run, name: str, num_updates: int, *flags: str | Path) -> None:
    """Pretrain on all speech, without labels."""
    if run.is_done(name):
        return
    schedule = counts({"--max-update": num_updates, "--warmup-updates": max(1, num_updates * 2 // 25)})
    with run.stage(name):
        places = (run.folder / "manifests" / PACK, "--save-dir", run.folder / name, "--disable-validation")
        options = (*PRETRAINING, *NETWORK, *LOGGING, *schedule, *flags)
        run.call("w2v-train", *places, *options, log=run.folder / f"{name}.log")


@dataclass(frozen=True)
class Trainer:
    """Fine-tunes models with one seed, each with as many updates.

    Attributes:
        run: the folder.
        seed: of all trainings.
        num_updates: of each of them.
        model: a CTC model that each of them begins with; None: they begin with the pretrained encoder.
    """

    run: Run
    seed: int
    num_updates: int
    model: Path | None

    def train(self, name: str, subset: str, *flags: str, encoder: str = PRETRAIN) -> str:
        """Fine-tune and transcribe; return the name with its seed."""
        run, number, name = self.run, self.num_updates, f"{name}-{self.seed}"
        if not run.is_done(name):
            warm, hold = max(1, number // 10), number * 2 // 5
            steps = {"--warmup-steps": warm, "--hold-steps": hold, "--decay-steps": number - warm - hold}
            schedule = counts({"--max-update": number, "--seed": self.seed, **steps})
            start: tuple[str | Path, ...] = ("--w2v-path", run.folder / encoder / "checkpoint_last.pt")
            if self.model is not None:
                # The whole model, its output layer too, at a rate for what is nearly right already.
                start = ("--w2v-path", self.model, "--finetune-from-model", self.model, "--lr", "0.0003")
            with run.stage(name):
                places = (run.folder / "labels", "--train-subset", subset, "--save-dir", run.folder / name)
                options = (*FINETUNING, *LOGGING, *BATCHES, *start, *schedule, "--validate-interval", "1000", *flags)
                run.call("w2v-train", *places, *options, log=run.folder / f"{name}.log")
        transcribe(run, name)
        return name


def adopt(run: Run, name: str, model: Path) -> str:
    """Take a model that is there for the one called `name`; return the name."""
    folder = run.folder / name
    folder.mkdir(exist_ok=True)
    if not (folder / "checkpoint_last.pt").exists():
        (folder / "checkpoint_last.pt").symlink_to(model.resolve())
    return name


def transcribe(run: Run, model: str) -> None:
    """Transcribe all sets with both decoders, with the last checkpoint: none is chosen by its test score."""
    if run.is_done(f"{model}, transcripts"):
        return
    with run.stage(f"{model}, transcripts"):
        for decoder, flags in (("viterbi", ()), ("kenlm", (*BEAM, "--lm-model", run.folder / "bigrams.arpa"))):
            where = ("--gen-subset", CHECKS, "--results-path", run.folder / "results" / f"{model}-{decoder}")
            run.call("w2v-infer", *_of(run, model), *where, "--quiet", *flags)


def _of(run: Run, model: str) -> tuple[str | Path, ...]:
    return (run.folder / "labels", "--path", run.folder / model / "checkpoint_last.pt", "--post-process", "letter")


def errors(run: Run, model: str, decoder: str) -> dict[str, dict[str, float]]:
    """Return errors, words and word error rate of a model by set."""
    folder, name = run.folder / "results" / f"{model}-{decoder}", f"checkpoint_last.pt-{CHECKS}.txt"
    hypotheses, references = (read_results(folder / f"{kind}.word-{name}") for kind in ("hypo", "ref"))
    found, first = {}, 0
    for name in SETS:
        last = first + (run.folder / "labels" / f"{name}.wrd").read_bytes().count(b"\n")
        found[name] = word_errors(hypotheses, {row: text for row, text in references.items() if first <= row < last})
        first = last
    return found


# ---------------------------------------------------------------------------------------------- rounds


def self_train(trainer: Trainer, num_rounds: int) -> None:
    """Label what has no labels, train on all of it, and again; stop when labels decay, and keep the best round."""
    run, seed = trainer.run, trainer.seed
    models, said = [f"supervised-{seed}"], []
    rounds = [Round(_dev(run, models[0]))]
    for number in range(1, num_rounds + 1):
        labels = f"pseudo{number}-{seed}"
        if not write_labels(run, models[-1], labels):
            said.append(f"round {number} is not trained: no label is kept")
            break
        record = json.loads((run.folder / "labels" / f"{labels}.labels.json").read_text(encoding="utf-8"))
        fault = fault_of_labels(record["characters_per_second"], _rate(run.folder / "labels", FEW))
        if fault:
            said.append(f"round {number} is not trained: {fault}")
            break
        weights = ("--subset-weights", f"1,{WEIGHT:g}")
        models.append(trainer.train(f"round{number}", f"{FEW},{labels}", *weights))
        rounds.append(Round(_dev(run, models[-1]), record["hours"] / record["of_hours"]))
        fault = fault_of_round(rounds[-2], rounds[-1])
        if fault:
            said.append(f"round {number} is not used: {fault}")
            break
    best = min(range(len(rounds)), key=lambda number: rounds[number].dev_wer)
    said.append(f"the best round by dev is {best} (WER {rounds[best].dev_wer:.1f} %)")
    print("\n".join(f"seed {seed}: {line}" for line in said), flush=True)
    content = {"models": models, "best": best, "said": said, "kept": [part.kept for part in rounds]}
    (run.folder / f"rounds-{seed}.json").write_text(json.dumps(content, indent=1), encoding="utf-8")


def write_labels(run: Run, teacher: str, name: str) -> bool:
    """Let a model label the rest, without clips that it is less sure of than of any in dev; return if any are left."""
    record = run.folder / "labels" / f"{name}.labels.json"
    if run.is_done(name):
        return record.exists()
    beam = (*BEAM, "--lm-model", run.folder / "bigrams.arpa", "--quiet")
    with run.stage(name):
        log = run.folder / f"{name}.log"
        log.unlink(missing_ok=True)
        manifest = run.folder / "labels" / f"{DEV}.tsv"
        run.call("w2v-infer", *_of(run, teacher), "--calibrate", manifest, *beam, log=log)
        least = least_confidence(log.read_text(encoding="utf-8"))
        where = ("--gen-subset", REST, "--write-labels", run.folder / "labels" / name)
        filters = ("--min-confidence", f"{least:g}", "--max-loops", "2")
        try:
            run.call("w2v-infer", *_of(run, teacher), *where, *beam, *filters)
        except TrainingError as e:
            if not str(e).endswith("exit code 1"):  # which means that nothing is kept
                raise
    return record.exists()


def least_confidence(table: str) -> float:
    """Return the confidence in a calibration table that keeps all labelled clips; 1 where nothing was heard in them."""
    lines = [line.removeprefix("calibration: ").split() for line in table.splitlines() if "calibration: " in line]
    places = [number for number, line in enumerate(lines) if line[0] == "--min-confidence"]
    return float(lines[places[0] + 1][0]) if places else 1.0


def _dev(run: Run, model: str) -> float:
    return errors(run, model, "kenlm")[DEV]["wer"]


def _rate(labels: Path, name: str) -> float:
    """Return the characters per second of labelled speech."""
    _, *clips = (labels / f"{name}.tsv").read_text(encoding="utf-8").splitlines()
    texts = (labels / f"{name}.wrd").read_text(encoding="utf-8").splitlines()
    return sum(map(len, texts)) / (sum(int(line.rpartition("\t")[2]) for line in clips) / SAMPLE_RATE)


# ---------------------------------------------------------------------------------------------- results


def label_errors(labels: Path, name: str) -> dict[str, float]:
    """Return how wrong the labels are that were kept; this is known here because `rest` has real ones, too."""

    def by_clip(split: str) -> dict[str, str]:
        _, *clips = (labels / f"{split}.tsv").read_text(encoding="utf-8").splitlines()
        texts = (labels / f"{split}.wrd").read_text(encoding="utf-8").splitlines()
        return dict(zip((line.split("\t")[0] for line in clips), texts, strict=True))

    heard, real = by_clip(name), by_clip(REST)
    numbered = dict(enumerate(heard))
    return word_errors(
        {n: heard[clip] for n, clip in numbered.items()}, {n: real[clip] for n, clip in numbered.items()}
    )


def report(run: Run, seeds: list[int]) -> None:
    """Print and write error rates, recovery rates and durations."""
    rows: list[dict[str, Any]] = []
    for seed in seeds:
        rounds = json.loads((run.folder / f"rounds-{seed}.json").read_text(encoding="utf-8"))
        for model in (*rounds["models"], *(f"{m}-{seed}" for m in ("control", "continued", "full"))):
            if f"{model}, transcripts" not in run.stages:
                continue
            row = {"seed": seed, "model": model.rpartition("-")[0]}
            for decoder in ("viterbi", "kenlm"):
                row[decoder] = {name: found["wer"] for name, found in errors(run, model, decoder).items()}
                base, top = (errors(run, f"{other}-{seed}", decoder) for other in ("supervised", "full"))
                # Where real labels take no errors away, there is nothing to recover.
                row[f"{decoder}_recovery"] = {
                    name: round((base[name]["wer"] - row[decoder][name]) / (base[name]["wer"] - top[name]["wer"]), 3)
                    for name in SETS
                    if base[name]["wer"] > top[name]["wer"]
                }
            if model.startswith("round"):
                number = rounds["models"].index(model)
                row |= {"kept": rounds["kept"][number], "is_best": number == rounds["best"]}
                row["labels"] = label_errors(run.folder / "labels", f"pseudo{number}-{seed}")
            rows.append(row)
        print("\n".join(f"seed {seed}: {line}" for line in rounds["said"]))
    run.write_results(rows)
    print(f"\n{'model':12} {'seeds':>5} " + " ".join(f"{f'{d} {s}':>28}" for d in ("viterbi", "kenlm") for s in SETS))
    for model in dict.fromkeys(row["model"] for row in rows):
        ours = [row for row in rows if row["model"] == model]
        rates = [mean(row[decoder][name] for row in ours) for decoder in ("viterbi", "kenlm") for name in SETS]
        print(f"{model:12} {len(ours):5} " + " ".join(f"{rate:26.1f} %" for rate in rates))
    run.show_times()


if __name__ == "__main__":
    sys.exit(main())
