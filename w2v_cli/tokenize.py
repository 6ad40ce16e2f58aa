"""`w2v-tokenize`: audio to the discrete tokens of a quantizer, one line per clip, for training on tokens.

Flags and files are those of the original's `vq-wav2vec_featurize.py`: a token is the codes of a frame's groups
joined by `-`. Besides, this writes the dictionary for BERT training and says how many codes are in use.
"""

from __future__ import annotations

import contextlib
import logging
import math
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import ClassVar

import numpy as np

from w2v import distributed
from w2v.config import arg, check_range
from w2v.config.named_files import check_named_files
from w2v.data.binarized_file import write_token_file
from w2v.data.dictionary import Dictionary, write_dictionary
from w2v.data.folder import list_folder
from w2v.data.manifest import Manifest, read_manifest
from w2v.data.text_file import read_lines
from w2v.data.token_text import read_token_text
from w2v.errors import ConfigError, DataError
from w2v.files import make_folder, write_atomically
from w2v.functional.windows import equal_chunks
from w2v.inference.encode import ClipEncoder, Encoded, code_function, frame_tokens, in_one
from w2v.inference.load import load_model
from w2v.inference.part_files import PartFiles, settings_key
from w2v_cli.clips import (
    ClipOptions,
    clip_encoder,
    describe,
    line_with,
    parse_flags,
    texts_of,
    write_missing,
)
from w2v_cli.main import run
from w2v_cli.progress import set_up_logging
from w2v_cli.sharding import first_of_ranks, joined_ranks, own_rank

logger = logging.getLogger("w2v-tokenize")


@dataclass(frozen=True)
class TokenizeConfig(ClipOptions):
    """What is read, and where tokens go."""

    shard_flag: ClassVar[str] = "--shard"

    checkpoint: str = arg(help="checkpoint of a model with a quantizer", aliases=("--path", "--model"))
    output_dir: str = arg(help="folder for SPLIT.src and, with --labels, SPLIT.lbl")
    data_dir: str = arg(help="folder with SPLIT.tsv, or with audio below SPLIT/")
    extension: str = arg("tsv", help="tsv: manifests; else the ending of audio files")
    labels: str | None = arg(
        None, help="file with a line per clip, or the ending of files beside the clips; its lines become SPLIT.lbl"
    )
    shard_id: int | None = arg(
        None, help="number of the part that this run makes, from 0; goes with --num-shards", aliases=("--shard",)
    )
    num_shards: int | None = arg(
        None, help="number of parts: part k holds clips k, k + N, k + 2 N, ...; ranks of torchrun or Slurm need no flag"
    )
    max_size: int = arg(1_300_000, help="clips longer than this, in samples, are encoded in equal parts; 0: never")
    max_tokens: int = arg(
        0,
        help="largest batch: clips x longest clip, in samples; 0: clip by clip, so that no rounding depends on others",
    )
    no_dict: bool = arg(False, help="write no dict.txt")
    srcdict: str | None = arg(
        None, help="dictionary for --dataset-impl mmap (default: that of the first split)", reads="file"
    )
    thresholdsrc: int = arg(0, help="leave tokens out of dict.txt that are rarer than this")
    nwordssrc: int = arg(-1, help="keep so many symbols in dict.txt, the four special ones counted; -1: all")
    padding_factor: int = arg(8, help="fill dict.txt up to a multiple of this with symbols that never occur")
    dataset_impl: str = arg(
        "raw", help="mmap: write SPLIT.bin and SPLIT.idx as well, as fairseq-preprocess does", choices=("raw", "mmap")
    )
    data_parallel: bool = arg(False, help="accepted; a process uses one GPU, torchrun starts one for each")
    log_format: str | None = arg(None, help="accepted, and ignored as in the original")
    quiet: bool = arg(False, help="no progress and no counts; only warnings")

    def __post_init__(self) -> None:
        super().__post_init__()
        check_range(self, 0, math.inf, "thresholdsrc")
        check_range(self, -1, math.inf, "nwordssrc")
        check_range(self, 1, math.inf, "padding_factor")
        if self.dataset_impl == "mmap" and self.no_dict and self.srcdict is None:
            raise ConfigError("--dataset-impl mmap needs a dictionary: leave out --no-dict, or give --srcdict")

    @property
    def suffix(self) -> str:
        """What follows the names of the output files."""
        return "" if self.shard_id is None else f".{self.shard_id}"


def main(argv: Sequence[str] | None = None) -> int:
    """Run the program and return its exit code."""
    return run(lambda: tokenize(sys.argv[1:] if argv is None else argv))


def tokenize(argv: Sequence[str]) -> int:
    """Write the tokens of what the flags name.

    Raises:
        W2vError: a flag, a file or the checkpoint breaks a rule; or, when all else is done, a clip could not be read.
    """
    purpose = "Write the discrete tokens of a quantizer."
    config, splits = parse_flags(
        TokenizeConfig, argv, "w2v-tokenize", purpose, title="tokens", splits="names of the splits"
    )
    if not splits:
        raise ConfigError("w2v-tokenize: --splits is required")
    check_named_files(config)
    rank = own_rank(config, cpu=config.cpu)
    failed: list[str] = []
    with joined_ranks(rank, cpu=config.cpu) as device:
        set_up_logging(is_master=rank.rank == 0 and not config.quiet, stream=sys.stderr)
        loaded = load_model(config.checkpoint, user_dir=config.user_dir)
        model = loaded.model
        layers = model.conv_layers
        cut = partial(equal_chunks, layers=layers, max_size=config.max_size) if layers else in_one
        encoder = clip_encoder(config, loaded, device, encode=code_function(model), cut=cut)
        output = Path(config.output_dir)
        make_folder(output)
        for split in splits:
            failed += tokenize_split(config, encoder, model.codebook_size, split, with_dict=split == splits[0])
    if failed:
        raise DataError(f"no tokens of {len(failed)} clips, whose lines are empty; the first: {failed[0]}")
    return 0


def tokenize_split(
    config: TokenizeConfig, encoder: ClipEncoder, codebook: tuple[int, int], split: str, *, with_dict: bool
) -> list[str]:
    """Write the tokens of a split, and its labels; return what went wrong, a line per clip.

    Args:
        config: the options.
        encoder: from clips to codes.
        codebook: groups, and codewords per group.
        split: its name.
        with_dict: whether its tokens make dict.txt, unless that is not wanted.
    """
    clips = find_clips(config, split, encoder.sample_rate)
    rows = config.shard.take(range(len(clips)))
    output = Path(config.output_dir) / f"{split}.src{config.suffix}"
    labels = read_clip_labels(config, clips, rows) if distributed.is_master() else None
    parts = PartFiles(output, first_of_ranks(lambda: key_of(config, clips)), len(clips))
    write_missing(config, encoder, clips, rows, parts, split, partial(line_of, clips))
    failed: list[str] = []
    if distributed.is_master():
        counts: Counter[str] = Counter()
        write_lines(output, counted(texts_of(parts.read(rows), failed), counts))
        if labels is not None:
            write_lines(output.with_name(f"{split}.lbl{config.suffix}"), labels)
        parts.remove()
        report(split, len(rows), counts, codebook)
        if config.num_shards is not None:
            counts = join_shards(output.parent, split, len(clips), config.num_shards)
        if counts and with_dict and not config.no_dict:
            write_dictionary(
                output.parent / "dict.txt", counts, threshold=config.thresholdsrc, most=config.nwordssrc,
                padding_factor=config.padding_factor,
            )  # fmt: skip
            logger.info("dict.txt: %d tokens of %s", len(counts), split)
        if counts and config.dataset_impl == "mmap":
            binarize(output.parent, split, config.srcdict)
    distributed.barrier()
    return failed


def binarize(folder: Path, split: str, dictionary: str | None) -> None:
    """Write a split's tokens in the files of fairseq-preprocess, beside their text.

    Args:
        folder: of `SPLIT.src`.
        split: its name.
        dictionary: file of the dictionary; None: `dict.txt` of the folder.
    """
    symbols = Dictionary.from_file(dictionary or folder / "dict.txt")
    tokens = read_token_text(str(folder / f"{split}.src"), symbols)
    write_token_file(folder / split, map(tokens.sentence, range(len(tokens))), len(symbols))
    unknown = int((tokens.tokens == symbols.unk).sum())
    logger.info("%s.bin, %s.idx: %d lines, %d tokens unknown", split, split, len(tokens), unknown)


def find_clips(config: TokenizeConfig, split: str, sample_rate: int) -> Manifest:
    """Return the clips of a split: those of its manifest, or of its folder in the order of their names.

    Raises:
        DataError: there are none.
    """
    if config.extension == "tsv":
        clips = read_manifest(Path(config.data_dir) / f"{split}.tsv", allow_outside_root=config.allow_outside_root)
        clips.check_root()
        return clips
    return list_folder(Path(config.data_dir) / split, [config.extension], sample_rate, recursive=True)


def read_clip_labels(config: TokenizeConfig, clips: Manifest, rows: Sequence[int]) -> list[str] | None:
    """Return the label lines of clips: lines of one file, or the first line of the file beside each clip.

    Raises:
        DataError: a file is missing, or does not have a line per clip.
    """
    if config.labels is None:
        return None
    if Path(config.labels).is_file():
        lines = read_lines(config.labels, "label file")
        if len(lines) != len(clips):
            raise DataError(f"{config.labels}: {len(lines)} lines for {len(clips)} clips")
        return [lines[row] for row in rows]
    labels = []
    for row in rows:
        path = Path(clips.path(row)).with_suffix(f".{config.labels.lstrip('.')}")
        labels.append(next(iter(read_lines(path, "label file")), ""))
    return labels


def key_of(config: TokenizeConfig, clips: Manifest) -> str:
    """Return what the tokens of clips depend on, as a short text."""
    names = ("max_size", "max_tokens", "resample", "cpu")
    settings = {name: value for name, value in asdict(config).items() if name in names}
    return settings_key(settings, [config.checkpoint, *([config.user_dir] if config.user_dir else [])], clips)


def line_of(clips: Manifest, encoded: Encoded) -> str:
    """Return a clip's tokens, or why there are none, as a line of `texts_of`."""
    if encoded.frames is not None:
        return line_with(" ".join(frame_tokens(encoded.frames)))
    reason = describe(clips, encoded)
    logger.warning("no tokens, the line is empty: %s", reason)
    return line_with("", "" if encoded.is_short else reason)


def write_lines(path: Path, lines: Iterable[str]) -> None:
    """Write a text file that appears whole or not at all."""
    write_atomically(path, (f"{line}\n".encode() for line in lines))


def counted(lines: Iterable[str], counts: Counter[str]) -> Iterator[str]:
    """Pass lines on, and count their tokens."""
    for line in lines:
        counts.update(line.split(" ") if line else ())
        yield line


def join_shards(output: Path, split: str, num_clips: int, num_shards: int) -> Counter[str]:
    """Join the files of runs with `--num-shards` into those of one run, if all are there; return counts of tokens.

    The run that ends last does it. Line i of the whole is a line of part i modulo N.
    """
    counts: Counter[str] = Counter()
    for kind in ("src", "lbl"):
        paths = [output / f"{split}.{kind}.{shard}" for shard in range(num_shards)]
        there = [path for path in paths if path.is_file()]
        if kind == "lbl" and not there:
            continue
        sizes = [count_lines(path) if path in there else -1 for path in paths]
        waiting = [
            path.name for shard, path in enumerate(paths) if sizes[shard] != len(range(shard, num_clips, num_shards))
        ]
        if waiting:
            logger.info("%s.%s is made by the run that ends last; not there yet: %s", split, kind, ", ".join(waiting))
            continue
        write_lines(output / f"{split}.{kind}", counted(interleaved(paths), counts if kind == "src" else Counter()))
    return counts


def interleaved(paths: Sequence[Path]) -> Iterator[str]:
    """Yield the first lines of all files, their second lines, and so on."""
    with contextlib.ExitStack() as stack:
        files = [stack.enter_context(open(path, encoding="utf-8", newline="\n")) for path in paths]
        while lines := [line for file in files if (line := file.readline())]:
            yield from (line.removesuffix("\n") for line in lines)


def count_lines(path: Path) -> int:
    """Return the lines of a file."""
    with open(path, "rb") as file:
        return sum(block.count(b"\n") for block in iter(partial(file.read, 1 << 20), b""))


def report(split: str, num_clips: int, counts: Mapping[str, int], codebook: tuple[int, int]) -> None:
    """Say how many codes of each group, and how many tokens, are in use."""
    groups, num_vars = codebook
    tokens = np.array([token.split("-") for token in counts] or np.zeros((0, groups)), dtype=np.int64)
    times = np.array(list(counts.values()), dtype=np.int64)
    for group in range(groups):
        found = np.bincount(tokens[:, group], weights=times, minlength=num_vars)
        shares = found[found > 0] / max(times.sum(), 1)
        perplexity = float(np.exp(-(shares * np.log(shares)).sum()))
        used = len(shares)
        logger.info("%s: group %d: %d of %d codes in use, perplexity %.1f", split, group, used, num_vars, perplexity)
    logger.info("%s: %d clips, %d frames, %d different tokens", split, num_clips, times.sum(), len(counts))


if __name__ == "__main__":
    sys.exit(main())
