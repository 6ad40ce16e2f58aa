"""`w2v-infer`: transcripts of a manifest, and their word error rate where there are labels.

Flags, files and lines are those of the original's `examples/speech_recognition/infer.py`. What differs: no clip is
dropped, frames of padding are never decoded, and the checkpoint alone says how its input is made.
"""

from __future__ import annotations

import logging
import math
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F

from w2v.build import LoadedModel, load_model
from w2v.config import ArgumentParser, arg, build_config, check_range, parse_literal
from w2v.data.batch_sampler import batch_by_size, length_order
from w2v.data.dataset import AudioDataset, ReadReport
from w2v.data.dictionary import Dictionary
from w2v.data.iterator import iterate
from w2v.data.labels import Labels, read_labels
from w2v.data.manifest import read_manifest
from w2v.decoders import DECODERS, Decoder, DecoderConfig, build_decoder
from w2v.errors import CheckpointError, ConfigError, DataError
from w2v.plugins import import_installed, import_user_dir
from w2v.progress import set_up_logging
from w2v.scoring import SCORERS
from w2v.sections import LOG_FORMATS
from w2v.types import AudioBatch, AudioExample, CtcOutput, Hypothesis
from w2v_cli.infer_output import Results, show_progress
from w2v_cli.main import run

logger = logging.getLogger("w2v-infer")

MAX_TOKENS = 4_000_000
RETIRED = {
    "--dump-emissions": "load the model with w2v.load_model and save what it returns",
    "--dump-features": "load the model with w2v.load_model and call extract_features",
    "--load-emissions": "give them to w2v.decoders.build_decoder(...).decode",
    "--kspmodel": "the original never reads it",
    "--wfstlm": "the original never reads it",
    "--rnnt_decoding_type": "the original never reads it",
    "--rnnt_len_penalty": "the original never reads it",
}


def read_overrides(value: Any) -> dict[str, Any]:
    """Parse `"{'name': value}"`."""
    found = parse_literal(value) if isinstance(value, str) else value
    if not isinstance(found, dict):
        raise ValueError(f"must be {{'name': value, ...}}, got {value!r}")
    return found


@dataclass(frozen=True)
class InferConfig:
    """What is read, how it is computed, and where results go."""

    data: str = arg(help="folder with SUBSET.tsv and, for a score, SUBSET.LABELS", positional=True)
    path: str = arg(help="checkpoint of a model fine-tuned with CTC")
    gen_subset: str = arg("test", help="manifest to transcribe: DATA/NAME.tsv")
    results_path: str | None = arg(None, help="folder for the result files (default: print the transcripts)")
    task: str | None = arg(None, help="accepted; the checkpoint knows its task")
    criterion: str | None = arg(None, help="accepted; the checkpoint knows its criterion")
    labels: str | None = arg(None, help="extension of the label file (default: as in training)")
    dict: str | None = arg(None, help="dictionary file of a checkpoint that comes without one", metavar="FILE")
    post_process: str | None = arg(
        None, help="how units become words: letter, sentencepiece, ... (default: as in training)",
        aliases=("--remove-bpe",),
    )  # fmt: skip
    scoring: str = arg("wer", help="what is computed from transcripts and references: wer, cer or bleu")
    normalize: bool | None = arg(None, help="compared with the checkpoint, which decides")
    max_tokens: int | None = arg(
        None,
        help=f"largest batch: clips x longest clip, in samples (default: {MAX_TOKENS}, unless --batch-size is given)",
    )
    batch_size: int | None = arg(None, help="most clips in a batch", aliases=("--max-sentences",))
    required_batch_size_multiple: int = arg(8, help="batches of at least this many clips are cut to a multiple of it")
    num_workers: int = arg(1, help="processes that read audio; 0 reads in the main process")
    num_shards: int = arg(1, help="split the batches over this many runs")
    shard_id: int = arg(0, help="which of them this run takes, from 0")
    seed: int = arg(1, help="order of clips of equal length")
    cpu: bool = arg(False, help="never use CUDA")
    fp16: bool = arg(False, help="compute in half precision")
    bf16: bool = arg(False, help="compute in bfloat16")
    model_overrides: Mapping[str, Any] | None = arg(
        None, help="options of the checkpoint to change: \"{'name': value}\"", parse=read_overrides
    )
    user_dir: str | None = arg(None, help="python file, folder or package with your own models or decoders")
    quiet: bool = arg(False, help="no progress; only warnings and the result")
    log_format: str | None = arg(
        None, help="how progress is shown (default: tqdm on a terminal, else json)", choices=LOG_FORMATS
    )
    log_interval: int = arg(100, help="batches between two lines of progress")
    no_progress_bar: bool = arg(False, help="lines instead of a bar (--log-format simple)")

    def __post_init__(self) -> None:
        check_range(
            self, 1, math.inf, "max_tokens", "batch_size", "required_batch_size_multiple", "num_shards", "log_interval"
        )
        check_range(self, 0, math.inf, "num_workers")
        if not 0 <= self.shard_id < self.num_shards:
            raise ConfigError(f"--shard-id must be at least 0 and below --num-shards, got {self.shard_id}")
        if self.fp16 and self.bf16:
            raise ConfigError("--fp16 and --bf16 exclude each other; give one of them")
        if ":" in self.path and not Path(self.path).exists():
            raise ConfigError(f"--path takes one checkpoint, got {self.path!r}; models cannot be combined")
        SCORERS.get(self.scoring)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the program and return its exit code."""
    return run(lambda: infer(sys.argv[1:] if argv is None else argv))


def infer(argv: Sequence[str]) -> int:
    """Transcribe what the flags name.

    Raises:
        W2vError: a flag, a file or the checkpoint breaks a rule.
    """
    config, decoder_config = parse_flags(argv)
    # Without files the transcripts go to stdout, so what is said about them goes to stderr.
    set_up_logging(is_master=not config.quiet, stream=sys.stdout if config.results_path else sys.stderr)
    given = {"dictionary": config.dict} if config.dict else {}
    loaded = load_model(config.path, overrides=config.model_overrides, user_dir=config.user_dir, **given)
    dictionary = check_model(config, loaded)
    symbol = config.post_process or loaded.config.get("criterion", {}).get("post_process", "letter")
    decoder = build_decoder(decoder_config, dictionary, symbol)
    dataset = open_dataset(config, loaded, dictionary)
    with Results(
        dataset,
        dictionary,
        symbol,
        scoring=config.scoring,
        folder=config.results_path,
        suffix=f"{Path(config.path).name}-{config.gen_subset}",
        prefix=f"{config.shard_id}_" if config.num_shards > 1 else "",
        with_nbest=decoder_config.nbest > 1,
    ) as results:
        for batch, readings in transcribe(config, loaded, decoder, dataset):
            results.add(batch, readings)
    results.report(config.gen_subset)
    return 0


def parse_flags(argv: Sequence[str]) -> tuple[InferConfig, DecoderConfig]:
    """Read the command line; plugins are imported first, because they may add decoders."""
    for token in argv:
        flag = token.split("=")[0]
        if flag in RETIRED:
            raise ConfigError(f"w2v-infer has no {flag}: {RETIRED[flag]}")
    early = ArgumentParser(prog="w2v-infer", add_help=False)
    early.add_argument("--user-dir")
    early.add_argument("--w2l-decoder", default="viterbi")
    known, _ = early.parse_known_args(list(argv))
    import_installed()
    if known.user_dir:
        import_user_dir(known.user_dir)
    decoder_kind = DECODERS.get(known.w2l_decoder).config
    parser = ArgumentParser(prog="w2v-infer", description="Transcribe a manifest and score the transcripts.")
    parser.add_config(InferConfig, "inference")
    parser.add_config(decoder_kind, f"decoder {known.w2l_decoder}")
    values = parser.parse(argv)
    return _pick(InferConfig, values), _pick(decoder_kind, values)


def _pick(kind: type[Any], values: Mapping[str, Any]) -> Any:
    names = {item.name for item in fields(kind)}
    return build_config(kind, {name: value for name, value in values.items() if name in names}, "w2v-infer")


def check_model(config: InferConfig, loaded: LoadedModel) -> Dictionary:
    """Return the labels of the model.

    Raises:
        CheckpointError: the model writes no labels.
        ConfigError: `--normalize` contradicts the checkpoint.
    """
    dictionary = getattr(loaded.task, "dictionary", None)
    if not isinstance(dictionary, Dictionary):
        raise CheckpointError(f"--path {config.path} has no labels to write: it was not fine-tuned with --labels")
    trained = loaded.task.config.normalize
    if config.normalize is not None and config.normalize != trained:
        said = "--normalize" if config.normalize else "--no-normalize"
        raise ConfigError(f"{said}: {config.path} was trained {'with' if trained else 'without'} --normalize")
    return dictionary


class AllClips(AudioDataset):
    """Every clip of a manifest; one that cannot be read is named, and empty, instead of being replaced."""

    def example(self, index: int, rng: np.random.Generator | None = None) -> AudioExample:
        try:
            return super().example(index, rng)
        except DataError as e:
            logger.warning("unreadable, its transcript is empty: %s", e)
            targets = None if self.labels is None else torch.from_numpy(self.labels[index].astype(np.int64))
            return AudioExample(index, torch.zeros(0), targets)

    def record(self, report: ReadReport) -> None:
        report.lengths = {index: length for index, length in report.lengths.items() if length}
        super().record(report)


def open_dataset(config: InferConfig, loaded: LoadedModel, dictionary: Dictionary) -> AllClips:
    """Read the manifest and, where there are some, its labels."""
    task = loaded.task.config
    manifest = read_manifest(Path(config.data) / f"{config.gen_subset}.tsv")
    labels: Labels | None = None
    path = Path(config.data) / f"{config.gen_subset}.{config.labels or task.labels}"
    if path.is_file():
        labels = read_labels(path, len(manifest), dictionary)
        if labels.num_unknown:
            logger.warning(labels.unknown_warning())
    else:
        logger.warning("no file %s: transcripts are not scored", path)
    return AllClips(
        manifest, labels, sample_rate=task.sample_rate, pad=True, normalize=task.normalize, resample=task.resample
    )


def plan_batches(config: InferConfig, dataset: AudioDataset) -> list[npt.NDArray[np.int64]]:
    """Return the batches of this shard, longest clips first, as the original makes them."""
    max_tokens = config.max_tokens
    if max_tokens is None and config.batch_size is None:
        max_tokens = MAX_TOKENS
    plan = batch_by_size(
        length_order(dataset.sizes, config.seed),
        dataset.lengths,
        max_tokens=max_tokens,
        batch_size=config.batch_size,
        multiple=config.required_batch_size_multiple,
    )
    for index in map(int, plan.skipped):
        logger.warning(
            "%s: %d samples do not fit into --max-tokens %s; the clip is a batch of its own",
            dataset.name(index), dataset.lengths[index], max_tokens,
        )  # fmt: skip
    batches = [plan.skipped[i : i + 1] for i in range(plan.num_skipped)] + plan.batches
    return batches[config.shard_id :: config.num_shards]


@torch.inference_mode()
def transcribe(
    config: InferConfig, loaded: LoadedModel, decoder: Decoder, dataset: AudioDataset
) -> Iterator[tuple[AudioBatch, list[list[Hypothesis]]]]:
    """Yield each batch with the readings of its clips.

    Raises:
        CheckpointError: the model is no CTC model.
    """
    batches = plan_batches(config, dataset)
    device = torch.device("cuda" if torch.cuda.is_available() and not config.cpu else "cpu")
    model = loaded.model.to(device).eval()
    style = "none" if config.quiet else config.log_format or ("simple" if config.no_progress_bar else None)
    reader = iterate(dataset, batches, [0] * len(batches), num_workers=config.num_workers)
    for batch in show_progress(reader, len(batches), dataset.sample_rate, style, config.log_interval):
        dtype = torch.float16 if config.fp16 else torch.bfloat16
        with torch.autocast(device.type, dtype=dtype, enabled=config.fp16 or config.bf16):
            output = _forward(model, batch, dataset.sample_rate, device)
        if not isinstance(output, CtcOutput):
            raise CheckpointError(f"--path {config.path}: {type(model).__name__} is no CTC model")
        log_probs = output.logits.float().log_softmax(dim=-1).cpu()
        yield batch, decoder.decode(log_probs, output.lengths.cpu())


def _forward(model: torch.nn.Module, batch: AudioBatch, sample_rate: int, device: torch.device) -> Any:
    source = batch.source
    # Convolutions refuse a batch of clips shorter than one frame. Padding, which changes no clip's output, helps.
    if source.shape[1] < sample_rate // 10:
        source = F.pad(source, (0, sample_rate - source.shape[1]))
    is_padded = bool((batch.lengths < source.shape[1]).any())
    return model(source.to(device), batch.lengths if is_padded else None, batch.seed)


if __name__ == "__main__":
    sys.exit(main())
