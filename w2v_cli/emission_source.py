"""Where `w2v-infer` gets emissions from: a model run over audio, or a file that an earlier run wrote."""

from __future__ import annotations

import dataclasses
import logging
import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any, Protocol

import torch

from w2v import distributed
from w2v.config import arg, check_range, parse_literal
from w2v.config.named_files import is_address
from w2v.config.sections import LOG_FORMATS
from w2v.data.batch_sampler import batch_by_size, length_order
from w2v.data.dictionary import Dictionary
from w2v.data.labels import read_references
from w2v.data.manifest import Manifest, read_manifest
from w2v.data.post_process import fitting_post_process, post_process
from w2v.errors import ConfigError, listed
from w2v.inference.emission_file import EmissionFile, EmissionInfo, EmissionWriter, merge_emissions
from w2v.inference.emissions import ModelEmissions, ctc_info
from w2v.inference.load import LoadedModel, load_model
from w2v.inference.prepare import prepare
from w2v.types import Emissions, IntArray
from w2v_cli.progress import Work
from w2v_cli.shard_flags import ShardOptions

logger = logging.getLogger("w2v-infer")

MAX_TOKENS = 4_000_000


def read_overrides(value: Any) -> dict[str, Any]:
    """Parse `"{'name': value}"`."""
    found = parse_literal(value) if isinstance(value, str) else value
    if not isinstance(found, dict):
        raise ValueError(f"must be {{'name': value, ...}}, got {value!r}")
    return found


@dataclass(frozen=True)
class SourceConfig(ShardOptions):
    """Which clips, and how their emissions are computed or read."""

    data: str = arg(help="folder with SUBSET.tsv and, for a score, SUBSET.LABELS", positional=True)
    path: str | None = arg(None, help="checkpoint of a model fine-tuned with CTC")
    gen_subset: str = arg("test", help="manifest to transcribe: DATA/NAME.tsv")
    allow_outside_root: bool = arg(False, help="take clips that a manifest names by absolute paths or with `..`")
    dump_emissions: str | None = arg(
        None, help="also write the emissions to FILE (.safetensors), to decode them again", metavar="FILE"
    )
    load_emissions: str | None = arg(
        None, help="decode the emissions of FILE; neither model nor audio is read", metavar="FILE"
    )
    decode_workers: int | None = arg(
        None, help="processes that decode (default: all cores for kenlm, 0 for decoders that compute with torch)"
    )
    task: str | None = arg(None, help="accepted; the checkpoint knows its task")
    criterion: str | None = arg(None, help="accepted; the checkpoint knows its criterion")
    labels: str | None = arg(None, help="extension of the label file (default: as in training)")
    dict: str | None = arg(None, help="dictionary file of a checkpoint that comes without one", metavar="FILE")
    language: str | None = arg(None, help="of a model of many languages (MMS): which one, such as eng", metavar="CODE")
    post_process: str | None = arg(
        None, help="how units become words: letter, sentencepiece, ... (default: as in training)",
        aliases=("--remove-bpe",), none_is_text=True,
    )  # fmt: skip
    normalize: bool | None = arg(None, help="compared with the checkpoint, which decides")
    max_tokens: int | None = arg(
        None,
        help=f"largest batch: clips x longest clip, in samples (default: {MAX_TOKENS}, unless --batch-size is given)",
    )
    batch_size: int | None = arg(None, help="most clips in a batch", aliases=("--max-sentences",))
    required_batch_size_multiple: int = arg(8, help="batches of at least this many clips are cut to a multiple of it")
    num_workers: int = arg(1, help="files read at once")
    seed: int = arg(1, help="order of clips of equal length, and chance elsewhere")
    cpu: bool = arg(False, help="never use CUDA")
    fp16: bool = arg(False, help="compute in half precision; on a CPU only where that is faster")
    bf16: bool = arg(False, help="compute in bfloat16; on a CPU only where that is faster")
    int8: bool = arg(False, help="on a CPU: transformer blocks in whole numbers of 8 bits, faster and nearly as exact")
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
        super().__post_init__()
        check_range(self, 1, math.inf, "max_tokens", "batch_size", "required_batch_size_multiple", "log_interval")
        check_range(self, 0, math.inf, "num_workers", "decode_workers")
        if self.fp16 and self.bf16:
            raise ConfigError("--fp16 and --bf16 exclude each other; give one of them")
        if self.int8 and (self.fp16 or self.bf16):
            raise ConfigError("--int8 and --fp16 or --bf16 exclude each other; give one of them")
        if self.path is None and self.load_emissions is None:
            raise ConfigError("w2v-infer: --path is required (or --load-emissions, to decode what a model once wrote)")
        if self.path is not None and ":" in self.path and not (is_address(self.path) or Path(self.path).exists()):
            raise ConfigError(f"--path takes one checkpoint, got {self.path!r}; models cannot be combined")
        if self.load_emissions is not None and self.dump_emissions is not None:
            raise ConfigError("--load-emissions and --dump-emissions exclude each other; give one of them")
        if (self.dump_emissions or "").endswith(".npy"):
            raise ConfigError(
                f"--dump-emissions {self.dump_emissions}: clips of several lengths are no .npy file without pickle, "
                "which lets a file run code; name it .safetensors"
            )

    @property
    def progress_style(self) -> str | None:
        """How progress is shown; None: as fits the terminal."""
        if self.quiet or not distributed.is_master():
            return "none"
        return self.log_format or ("simple" if self.no_progress_bar else None)

    @property
    def shard_prefix(self) -> str:
        """What the names of files begin with where each of several runs writes its own."""
        return f"{self.shard.index}_" if self.shard.count > 1 else ""

    def shard_file(self, path: str) -> Path:
        """Return the emission file of this shard."""
        return Path(path).with_name(self.shard_prefix + Path(path).name)


class Reader(Protocol):
    """What gives emissions: `EmissionFile` or `ModelEmissions`."""

    @property
    def info(self) -> EmissionInfo: ...
    def read(self, manifest: Manifest, batches: Sequence[IntArray]) -> Iterator[Emissions]: ...


@dataclass(frozen=True)
class EmissionSource:
    """Emissions of a subset.

    Attributes:
        reader: gives them.
        info: what they have in common, with `--post-process` as the user wants it.
        dictionary: what their columns stand for.
        manifest: the clips.
        references: what was said in each clip, in symbols as the label file has them; None: not known.
        plan: lines of the manifest, of the batches of all runs.
        batches: those of this run, whose ranks take turns.
    """

    reader: Reader
    info: EmissionInfo
    dictionary: Dictionary
    manifest: Manifest
    references: list[str] | None
    plan: Sequence[IntArray]
    batches: Sequence[IntArray]

    @property
    def work(self) -> Work:
        """What this rank has before it."""
        batches = self.of_this_rank()
        samples = sum(int(self.manifest.sizes[batch].sum()) for batch in batches)
        return Work("", len(batches), samples / self.info.sample_rate)

    def seconds(self, batch: Emissions) -> float:
        """Return the seconds of audio in a batch."""
        return sum(batch.num_samples) / self.info.sample_rate

    def of_this_rank(self) -> Sequence[IntArray]:
        """Return the batches that this rank computes."""
        return self.batches[distributed.rank() :: distributed.world_size()]

    def read(self, dump: Path | None = None) -> Iterator[Emissions]:
        """Yield this rank's emissions, and write them to a file along the way.

        Raises:
            W2vError: a clip's emissions cannot be computed, read or written.
        """
        emissions = self.reader.read(self.manifest, self.of_this_rank())
        return emissions if dump is None else self._written(emissions, dump)

    def _written(self, emissions: Iterator[Emissions], target: Path) -> Iterator[Emissions]:
        size = distributed.world_size()
        parts = [target.with_name(f"{target.name}.rank{rank}") for rank in range(size)] if size > 1 else [target]
        mine = [self.manifest.title(int(row)) for batch in self.of_this_rank() for row in batch]
        with EmissionWriter(parts[distributed.rank()], self.info, mine) as writer:
            for batch in emissions:
                for place, row in enumerate(batch.rows):
                    writer.add(self.manifest.title(row), batch.num_samples[place], batch.clip(place))
                yield batch
        distributed.barrier()
        if size > 1 and distributed.is_master():
            merge_emissions(parts, target, [self.manifest.title(int(row)) for batch in self.batches for row in batch])

    def reference(self, row: int) -> tuple[str, str] | None:
        """Return what was said in a clip, as symbols and as words."""
        if self.references is None:
            return None
        units = self.references[row]
        return units, post_process(units, self.info.post_process)

    def scored_text(self, text: str, scoring: str) -> str:
        """Return a text as it is scored: symbols that are kept apart are still the characters of a cer."""
        is_apart = self.info.post_process == "none" and "|" not in self.dictionary
        return text.replace(" ", "") if is_apart and scoring == "cer" else text


def open_source(config: SourceConfig, device: torch.device) -> EmissionSource:
    """Open the model or the file of emissions, and read manifest and labels.

    Raises:
        W2vError: a file cannot be read, or does not fit.
    """
    return open_clips(config, *open_reader(config, device))


def open_reader(config: SourceConfig, device: torch.device, flag: str = "--path") -> tuple[Reader, EmissionInfo]:
    """Open the model or the file of emissions.

    Args:
        config: `path` names the model.
        device: where it computes.
        flag: what named it, for messages.

    Raises:
        W2vError: a file cannot be read, or does not fit.
    """
    reader: Reader
    if config.load_emissions is not None:
        file = EmissionFile(config.shard_file(config.load_emissions))
        info = file.info
        reader = file
    else:
        loaded, info = load(config, flag)
        half = prepare(loaded.model, config, device)
        longest = max(config.max_tokens or 0, MAX_TOKENS)
        reader = ModelEmissions(loaded, info, device, half, config.num_workers, longest)
    # As the user says; else as in training, which a dictionary without its word mark cannot mean.
    symbol = config.post_process or fitting_post_process(info.post_process, info.symbols)
    return reader, dataclasses.replace(info, post_process=symbol)


def open_clips(config: SourceConfig, reader: Reader, info: EmissionInfo, *, has_labels: bool = True) -> EmissionSource:
    """Read manifest and labels.

    Args:
        config: where they are.
        reader: gives emissions.
        info: what they have in common.
        has_labels: whether there may be labels, so that a word is due where there are none.

    Raises:
        W2vError: a file cannot be read, or does not fit.
    """
    dictionary = Dictionary(info.symbols)
    path = Path(config.data) / f"{config.gen_subset}.tsv"
    manifest = read_manifest(path, allow_outside_root=config.allow_outside_root)
    if config.dump_emissions or config.load_emissions:
        manifest.check_titles()  # emissions are found by names
    references = open_references(config, info, manifest, dictionary) if has_labels else None
    plan = plan_batches(config, manifest)
    return EmissionSource(reader, info, dictionary, manifest, references, plan, config.shard.take(plan))


def load(config: SourceConfig, flag: str = "--path") -> tuple[LoadedModel, EmissionInfo]:
    """Read the checkpoint, which `flag` named.

    Raises:
        CheckpointError: the model writes no labels.
        ConfigError: `--normalize` contradicts the checkpoint.
    """
    path = str(config.path)
    loaded = load_model(
        path,
        overrides=config.model_overrides,
        user_dir=config.user_dir,
        dictionary=config.dict or None,
        data=None if config.dict else config.data,
        language=config.language,
    )
    info = ctc_info(loaded, config.post_process, flag=flag)
    trained = loaded.task.config.normalize
    if config.normalize is not None and config.normalize != trained:
        said = "--normalize" if config.normalize else "--no-normalize"
        raise ConfigError(f"{said}: {path} was trained {'with' if trained else 'without'} --normalize")
    return loaded, info


def open_references(
    config: SourceConfig, info: EmissionInfo, manifest: Manifest, dictionary: Dictionary
) -> list[str] | None:
    """Read the label file, where there is one, and say which symbols of it the model cannot write."""
    path = Path(config.data) / f"{config.gen_subset}.{config.labels or info.labels}"
    if not path.is_file():
        logger.warning("no file %s: transcripts are not scored", path)
        return None
    references = read_references(path, len(manifest))
    found = Counter(chain.from_iterable(map(str.split, references)))
    lacking = {symbol: number for symbol, number in found.items() if symbol not in dictionary}
    if lacking:
        shown = listed([f"{symbol!r} ({number})" for symbol, number in Counter(lacking).most_common()])
        logger.warning(
            "%s: %d of %d symbols are not in the dictionary, so that no transcript has them: %s",
            path, sum(lacking.values()), found.total(), shown,
        )  # fmt: skip
    return references


def plan_batches(config: SourceConfig, manifest: Manifest) -> list[IntArray]:
    """Return the batches of all runs, longest clips first, as the original makes them."""
    max_tokens = config.max_tokens
    if max_tokens is None and config.batch_size is None:
        max_tokens = MAX_TOKENS
    plan = batch_by_size(
        length_order(manifest.sizes, config.seed),
        manifest.sizes,
        max_tokens=max_tokens,
        batch_size=config.batch_size,
        multiple=config.required_batch_size_multiple,
    )
    for row in map(int, plan.skipped):
        logger.warning(
            "%s: %d samples do not fit into --max-tokens %s; the clip is a batch of its own",
            manifest.title(row), manifest.sizes[row], max_tokens,
        )  # fmt: skip
    return [plan.skipped[i : i + 1] for i in range(plan.num_skipped)] + plan.batches
