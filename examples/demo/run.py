"""The main job from end to end in minutes: speech, manifest, labels, pretraining, fine-tuning, transcripts.

    python examples/demo/run.py [--data FOLDER]

It calls the programs as a user would and shows each command. The speech comes from speak.py, or from a folder with a
file `transcripts.tsv` of `path TAB TEXT` lines. The network is tiny: see examples/digits for real speech, and the
README for the published sizes.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import shlex
import shutil
import sys
from pathlib import Path

from w2v.data.manifest import read_manifest
from w2v.errors import ConfigError, DataError, W2vError

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from stages import Run, counts, read_results, word_errors

MARKER = ".w2v-demo"  # only a folder that holds this file is ever emptied
EXTENSIONS = "flac,wav,ogg,mp3"

# Convolutions with strides 10 * 4 * 4 * 2 = 320: a frame every 20 ms, as in the paper, for a twentieth of its cost.
NETWORK = (
    *("--conv-feature-layers", "[(32, 20, 10), (64, 8, 4), (128, 4, 4), (128, 2, 2)]"),
    *("--encoder-layers", "3", "--encoder-embed-dim", "128", "--encoder-ffn-embed-dim", "512"),
    *("--encoder-attention-heads", "4", "--conv-pos", "16", "--conv-pos-groups", "8"),
)
PRETRAINING = (
    *("--task", "audio_pretraining", "--arch", "wav2vec2", *NETWORK),
    *("--quantize-targets", "--latent-vars", "40", "--latent-temp", "(2.0, 0.5, 0.99)", "--final-dim", "64"),
    *("--mask-prob", "0.5", "--mask-length", "5", "--num-negatives", "50"),
    *("--criterion", "wav2vec", "--infonce", "--loss-weights", "[0.1, 10]"),
    *("--log-keys", '["prob_perplexity", "code_perplexity", "temp"]'),
    *("--optimizer", "adam", "--adam-betas", "(0.9, 0.98)", "--adam-eps", "1e-06", "--weight-decay", "0.01"),
    *("--lr-scheduler", "polynomial_decay", "--lr", "0.002", "--dropout", "0", "--attention-dropout", "0"),
)
FINETUNING = (
    *("--task", "audio_pretraining", "--arch", "wav2vec_ctc", "--labels", "ltr", "--post-process", "letter"),
    *("--apply-mask", "--mask-prob", "0.3", "--mask-length", "5"),
    *("--mask-channel-prob", "0.1", "--mask-channel-length", "16"),
    # Each clip is seen some ten times, in another voice each time, so dropout has little to prevent.
    *("--dropout", "0", "--attention-dropout", "0", "--final-dropout", "0.1", "--feature-grad-mult", "1.0"),
    *("--criterion", "ctc", "--zero-infinity"),
    *("--optimizer", "adam", "--adam-betas", "(0.9, 0.98)", "--adam-eps", "1e-08", "--clip-norm", "5"),
    *("--lr-scheduler", "tri_stage", "--lr", "0.002", "--final-lr-scale", "0.05"),
    *("--best-checkpoint-metric", "wer"),
)
# Two batches are an update. A clip must fit into
# a batch, so recordings of yours get 20 seconds each, what the demo speaks (0.3 to 3 seconds a clip) 10.
SHORT, LONG = 160_000, 320_000
DATA = ("--required-batch-size-multiple", "1", "--augment-speed", "0.9,1.1")
LOGGING = ("--log-format", "simple", "--log-interval", "100", "--no-epoch-checkpoints")


def main() -> int:
    """Run the demonstration and return the exit code."""
    parser = argparse.ArgumentParser(description="From speech to a word error rate.", allow_abbrev=False)
    parser.add_argument("--data", type=Path, help="folder with transcripts.tsv, instead of speech made here")
    parser.add_argument("--folder", type=Path, default=Path("demo-run"), help="where to write (default: demo-run)")
    parser.add_argument("--pretrain-updates", type=int, default=150, metavar="N", help="default: 150")
    parser.add_argument("--finetune-updates", type=int, default=1960, metavar="N", help="default: 1960")
    parser.add_argument("--cores", type=int, choices=(1, 2), default=min(2, os.cpu_count() or 1), help="default: 2")
    arguments = parser.parse_args()
    try:
        demo = Run(make_folder(arguments.folder), threads=1)
        train, test = prepare_speech(demo, arguments.data)
        manifests, labels = prepare_lists(demo, train, test)
        longest = SHORT if arguments.data is None else LONG
        updates = (arguments.pretrain_updates, arguments.finetune_updates)
        finetuned = train_models(demo, manifests, labels, longest, arguments.cores, *updates)
        results = transcribe(demo, finetuned, labels)
        show(demo, results, finetuned.name)
        clip = read_manifest(labels / "valid.tsv" if test is None else demo.folder / "test" / "train.tsv").path(0)
        draw(demo, finetuned, clip)
        show_next(finetuned, clip)
    except W2vError as e:
        print(f"demo: {e}", file=sys.stderr)
        return e.exit_code
    except KeyboardInterrupt:
        return 130
    return 0


def make_folder(folder: Path) -> Path:
    """Return an empty folder; what an earlier demonstration left there is removed, anything else never.

    Raises:
        ConfigError: the folder holds something else.
    """
    if folder.exists() and not (folder / MARKER).is_file() and any(folder.iterdir()):
        raise ConfigError(f"--folder {folder} holds files that are not from this demo; name another folder")
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    (folder / MARKER).touch()
    return folder


def prepare_speech(demo: Run, data: Path | None) -> tuple[Path, Path | None]:
    """Return the folder to train on, and the one to test on: None where a part of the first is to be held back.

    Raises:
        DataError: `data` has no transcripts.
        ConfigError: there is no synthesizer, and no `data` either.
    """
    if data is not None:
        if (data / "train" / "transcripts.tsv").is_file() and (data / "test" / "transcripts.tsv").is_file():
            return data / "train", data / "test"
        if not (data / "transcripts.tsv").is_file():
            raise DataError(
                f"--data {data}: there is no transcripts.tsv; write one with a line `path TAB TEXT` per clip"
            )
        return data, None
    for package in ("espeakng_loader", "soxr"):
        if importlib.util.find_spec(package) is None:
            raise ConfigError(
                f"the demo speaks its own data, which needs {package}: pip install 'w2v[demo]' "
                "(or `make demo`), or give --data FOLDER with audio and a transcripts.tsv"
            )
    with demo.stage("speech", "speech: random words from espeak-ng; the voices of the test are not trained on"):
        # In a process of its own: espeak-ng repeats itself only in a fresh one.
        demo.call(str(Path(__file__).with_name("speak.py")), demo.folder / "speech")
    return demo.folder / "speech" / "train", demo.folder / "speech" / "test"


def prepare_lists(demo: Run, train: Path, test: Path | None) -> tuple[Path, Path]:
    """Write manifests and labels; return the folders for pretraining and for fine-tuning."""
    manifests, labels = demo.folder / "manifests", demo.folder / "labels"
    held_back = "0.02" if test else "0.1"
    common = ("--ext", EXTENSIONS, "--resample", "--sorted")
    with demo.stage("manifests", "manifests: what there is to hear"):
        demo.call("w2v-manifest", train, "--dest", manifests, "--valid-percent", held_back, *common)
        if test is not None:
            demo.call("w2v-manifest", test, "--dest", demo.folder / "test", "--valid-percent", "0", *common)
    with demo.stage("labels", "labels: what was said, letter by letter, for the clips that have a transcript"):
        listed = ("--output-dir", labels, "--drop-missing", "--transcripts")
        texts = train / "transcripts.tsv"
        demo.call("w2v-labels", manifests / "train.tsv", "--output-name", "train", "--dict", *listed, texts)
        if test is not None:
            texts = test / "transcripts.tsv"
        tested = demo.folder / "test" / "train.tsv" if test else manifests / "valid.tsv"
        demo.call("w2v-labels", tested, "--output-name", "valid", *listed, texts)
    return manifests, labels


def train_models(
    demo: Run, manifests: Path, labels: Path, longest: int, cores: int, pretrain_updates: int, finetune_updates: int
) -> Path:
    """Pretrain and fine-tune in `cores` processes on batches of `longest` samples; return the last checkpoint."""
    pretrained, finetuned = demo.folder / "pretrained", demo.folder / "finetuned"
    # Two processes of one thread each: threads of a model as small as this one mostly wait for each other. One process
    # takes two batches for an update instead, and computes the same.
    ranks = counts({"--distributed-world-size": cores, "--update-freq": 2 // cores})
    batches = counts({"--max-tokens": longest, "--max-sample-size": longest})
    common = (*DATA, *LOGGING, *batches, "--resample", "--num-workers", "0", *ranks)
    with demo.stage("pretraining", "pretraining: which of 51 pieces of speech is behind the mask?"):
        steps = {"--warmup-updates": pretrain_updates // 10, "--total-num-update": pretrain_updates}
        schedule = counts({"--max-update": pretrain_updates, **steps})
        # Validation draws masks too and decides nothing here, so it is left to the end.
        rarely = ("--validate-interval", "1000")
        demo.call("w2v-train", manifests, "--save-dir", pretrained, *PRETRAINING, *common, *rarely, *schedule)
    checkpoint = pretrained / "checkpoint_last.pt"
    with demo.stage("fine-tuning", "fine-tuning: letters from speech"):
        warm, hold = finetune_updates // 10, finetune_updates * 3 // 10
        steps = {"--warmup-steps": warm, "--hold-steps": hold, "--decay-steps": finetune_updates - warm - hold}
        schedule = counts({"--max-update": finetune_updates, **steps})
        start = ("--w2v-path", checkpoint, "--save-dir", finetuned)
        demo.call("w2v-train", labels, *start, *FINETUNING, *common, "--validate-interval", "4", *schedule)
    return finetuned / "checkpoint_last.pt"


def transcribe(demo: Run, checkpoint: Path, labels: Path) -> dict[str, Path]:
    """Transcribe the test clips; return the folder of results by the name of the decoder."""
    results = {"viterbi": demo.folder / "results-viterbi"}
    common = (labels, "--path", checkpoint, "--gen-subset", "valid", "--post-process", "letter", "--quiet")
    with demo.stage("transcripts", "transcripts: the most likely letter of each frame"):
        demo.call("w2v-infer", *common, "--results-path", results["viterbi"], "--w2l-decoder", "viterbi")
    with demo.stage(
        "language model", "transcripts with a language model: beam search over the words of the training texts"
    ):
        model = demo.folder / "bigrams.arpa"
        demo.call("w2v-lm", labels / "train.wrd", "--order", "2", "--arpa", model, "--quiet")
        results["kenlm"] = demo.folder / "results-kenlm"
        beam = ("--w2l-decoder", "kenlm", "--lm-model", model, "--lm-weight", "1", "--word-score", "0", "--beam", "50")
        demo.call("w2v-infer", *common, "--results-path", results["kenlm"], *beam)
    return results


def show(demo: Run, results: dict[str, Path], checkpoint: str, num_lines: int = 8) -> None:
    """Print transcripts beside their references, error rates, and the time of each stage."""
    print()
    for decoder, folder in results.items():
        hypotheses = read_results(folder / f"hypo.word-{checkpoint}-valid.txt")
        references = read_results(folder / f"ref.word-{checkpoint}-valid.txt")
        ids = sorted(references)
        if decoder == "viterbi":
            for clip in ids[:: max(1, len(ids) // num_lines)][:num_lines]:
                print(f"   reference: {references[clip]}\n  hypothesis: {hypotheses[clip]}\n")
        found = word_errors(hypotheses, references)
        print(
            f"WER with {decoder}: {found['wer']:.1f} % ({found['errors']} errors in {found['words']} words of "
            f"{len(ids)} clips)"
        )
    demo.show_times()


def draw(demo: Run, checkpoint: Path, clip: str) -> None:
    """Draw a clip with the words and times that were heard in it, where matplotlib is installed."""
    if importlib.util.find_spec("matplotlib") is None:
        print("\nNo picture is drawn without matplotlib: pip install 'w2v[vis]'")
        return
    with demo.stage("picture", "picture: waveform, spectrogram, and what was heard when"):
        drawing = ("--output-dir", demo.folder / "picture", "--output-format", "srt", "--picture", "0-10", "--quiet")
        demo.call("w2v-transcribe", checkpoint, clip, "--overwrite", "--cpu", *drawing)
        for picture in sorted((demo.folder / "picture").glob("*.png")):
            print(f"the picture is {picture}")


def show_next(checkpoint: Path, clip: str) -> None:
    """Name the three commands that come next."""
    print("\n== what comes next")
    for purpose, command in (
        ("subtitles of a recording (here a clip of the test; any file, any length)",
         ["w2v-transcribe", str(checkpoint), clip, "--output-dir", "subtitles", "--output-format", "srt"]),
        ("what the network has learned, in pictures and sounds (pip install 'w2v[vis]')",
         ["w2v-visualize", "--checkpoint", str(checkpoint), "--data-dir", str(Path(clip).parent)]),
        ("your own recordings: docs/your_own_speech.md leads on from here",
         ["w2v-manifest", "my_recordings", "--dest", "lists", "--resample"]),
    ):  # fmt: skip
        print(f"# {purpose}\n{shlex.join(command)}")


if __name__ == "__main__":
    sys.exit(main())
