"""`w2v-tokenize`: audio to the discrete tokens of a quantizer, one line per clip, for training on tokens.

Flags and files are those of the original's `vq-wav2vec_featurize.py`: a token is the codes of a frame's groups
joined by `-`. Besides, this writes the dictionary for BERT training and says how many codes are in use.
"""

from __future__ import annotations

import argparse
import logging
import math
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from w2v.config import ArgumentParser, arg, build_config, check_range
from w2v.data.dictionary import write_dictionary
from w2v.data.folder import list_folder
from w2v.data.manifest import Manifest, read_manifest
from w2v.data.text_file import read_lines
from w2v.errors import ConfigError, DataError
from w2v.files import write_atomically
from w2v.functional.windows import equal_chunks
from w2v.inference.encode import ClipEncoder, code_function, codebook_size, conv_stack
from w2v.inference.load import LoadedModel, load_model
from w2v_cli.main import run
from w2v_cli.progress import set_up_logging, show_clips

logger = logging.getLogger("w2v-tokenize")

Codes = npt.NDArray[np.int64]


@dataclass(frozen=True)
class TokenizeConfig:
    """What is read, and where tokens go."""

    checkpoint: str = arg(help="checkpoint of a model with a quantizer", aliases=("--path", "--model"))
    output_dir: str = arg(help="folder for SPLIT.src and, with --labels, SPLIT.lbl")
    data_dir: str = arg(help="folder with SPLIT.tsv, or with audio below SPLIT/")
    extension: str = arg("tsv", help="tsv: manifests; else the ending of audio files")
    labels: str | None = arg(
        None, help="file with a line per clip, or the ending of files beside the clips; its lines become SPLIT.lbl"
    )
    shard: int | None = arg(None, help="number of the part that this run makes, from 0; goes with --num-shards")
    num_shards: int | None = arg(None, help="number of parts: part k holds clips k, k + N, k + 2 N, ...")
    max_size: int = arg(1_300_000, help="clips longer than this, in samples, are encoded in equal parts; 0: never")
    max_tokens: int = arg(
        0,
        help="largest batch: clips x longest clip, in samples; 0: clip by clip, so that no rounding depends on others",
    )
    no_dict: bool = arg(False, help="write no dict.txt")
    allow_outside_root: bool = arg(False, help="take clips that a manifest names by absolute paths or with `..`")
    resample: bool = arg(False, help="convert other sample rates and mix channels down, instead of refusing them")
    num_workers: int = arg(2, help="files read at once")
    cpu: bool = arg(False, help="never use a GPU")
    data_parallel: bool = arg(False, help="accepted; one GPU is used, several take --shard each")
    log_format: str | None = arg(None, help="accepted, and ignored as in the original")
    user_dir: str | None = arg(None, help="python file, folder or package with your own models")
    quiet: bool = arg(False, help="no progress and no counts; only warnings")

    def __post_init__(self) -> None:
        check_range(self, 1, math.inf, "num_workers", "num_shards")
        check_range(self, 0, math.inf, "max_tokens", "max_size", "shard")
        if (self.shard is None) != (self.num_shards is None):
            raise ConfigError("--shard and --num-shards go together; give both or neither")
        if self.shard is not None and self.num_shards is not None and self.shard >= self.num_shards:
            raise ConfigError(f"--shard must be below --num-shards {self.num_shards}, got {self.shard}")

    @property
    def suffix(self) -> str:
        """What follows the names of the output files."""
        return "" if self.shard is None else f".{self.shard}"


def main(argv: Sequence[str] | None = None) -> int:
    """Run the program and return its exit code."""
    return run(lambda: tokenize(sys.argv[1:] if argv is None else argv))


def tokenize(argv: Sequence[str]) -> int:
    """Write the tokens of what the flags name.

    Raises:
        W2vError: a flag, a file or the checkpoint breaks a rule; or, when all else is done, a clip could not be read.
    """
    config, splits = parse_flags(argv)
    set_up_logging(is_master=not config.quiet, stream=sys.stderr)
    loaded = load_model(config.checkpoint, user_dir=config.user_dir)
    encoder = build_encoder(config, loaded)
    groups, num_vars = codebook_size(loaded.model)
    output = Path(config.output_dir)
    try:
        output.mkdir(parents=True, exist_ok=True)
    except OSError as e:
        raise DataError(f"cannot make the folder {output}: {e.strerror or e}") from e
    failed: list[str] = []
    for split in splits:
        clips = find_clips(config, split, encoder.sample_rate)
        rows = range(len(clips))[config.shard :: config.num_shards] if config.num_shards else range(len(clips))
        labels = read_clip_labels(config, clips, rows)
        codes = encode_split(config, encoder, clips, rows, split, failed)
        write_lines(output / f"{split}.src{config.suffix}", [to_line(clip) for clip in codes])
        if labels is not None:
            write_lines(output / f"{split}.lbl{config.suffix}", labels)
        report(split, codes, groups, num_vars)
    if not config.no_dict:
        make_dictionary(config, output, splits[0])
    if failed:
        raise DataError(f"no tokens of {len(failed)} clips, whose lines are empty; the first: {failed[0]}")
    return 0


def parse_flags(argv: Sequence[str]) -> tuple[TokenizeConfig, list[str]]:
    """Return the options and the names given with `--splits`.

    Raises:
        ConfigError: a flag breaks a rule.
    """
    parser = ArgumentParser(prog="w2v-tokenize", description="Write the discrete tokens of a quantizer.")
    parser.add_config(TokenizeConfig, "tokens")
    parser.add_argument(
        "--splits", "--split", nargs="+", metavar="NAME", default=argparse.SUPPRESS, help="names of the splits"
    )
    values = parser.parse(argv)
    splits = list(values.pop("splits", []))
    config = build_config(TokenizeConfig, values, "w2v-tokenize")
    if not splits:
        raise ConfigError("w2v-tokenize: --splits is required")
    return config, splits


def build_encoder(config: TokenizeConfig, loaded: LoadedModel) -> ClipEncoder:
    """Return what turns clips into codes.

    Raises:
        ConfigError: the model has no quantizer.
    """
    device = torch.device("cuda" if torch.cuda.is_available() and not config.cpu else "cpu")
    model = loaded.model.eval().to(device)
    layers = conv_stack(model)
    task = loaded.task.config
    return ClipEncoder(
        encode=code_function(model),
        layers=layers,
        cut=partial(equal_chunks, layers=layers, max_size=config.max_size),
        device=device,
        sample_rate=task.sample_rate,
        normalize=task.normalize,
        normalize_epsilon=task.normalize_epsilon,
        resample=config.resample,
        max_tokens=config.max_tokens,
        num_threads=config.num_workers,
    )


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


def encode_split(
    config: TokenizeConfig, encoder: ClipEncoder, clips: Manifest, rows: Sequence[int], split: str, failed: list[str]
) -> list[Codes]:
    """Return the codes (T, G) of each clip, in the order of `rows`; none for a clip too short or unreadable.

    Args:
        config: the options.
        encoder: from clips to codes.
        clips: all clips of the split.
        rows: which of them.
        split: its name, for messages.
        failed: takes the reason for each clip that cannot be read.
    """
    codes: dict[int, Codes] = {}
    for encoded in show_clips(encoder.run(clips, rows), len(rows), split, quiet=config.quiet):
        if encoded.frames is not None:
            # 16 bits: a large corpus waits here until its split is done.
            codes[encoded.row] = encoded.frames.astype(np.int16 if encoded.frames.max(initial=0) < 2**15 else np.int64)
            continue
        codes[encoded.row] = np.zeros((0, 1), dtype=np.int16)
        path = clips.path(encoded.row)
        reason = encoded.reason if path in encoded.reason else f"{path}: {encoded.reason}"
        logger.warning("no tokens, the line is empty: %s", reason)
        if not encoded.is_short:
            failed.append(reason)
    return [codes[row] for row in rows]


def to_line(codes: Codes) -> str:
    """Return `14-12 14-12 3-7`: frames separated by spaces, the codes of a frame by hyphens."""
    return " ".join("-".join(map(str, frame)) for frame in codes.tolist())


def write_lines(path: Path, lines: Sequence[str]) -> None:
    """Write a text file that appears whole or not at all."""
    write_atomically(path, "".join(f"{line}\n" for line in lines).encode())


def report(split: str, codes: Sequence[Codes], groups: int, num_vars: int) -> None:
    """Say how many codes of each group, and how many tokens, are in use."""
    frames = np.concatenate([clip for clip in codes if len(clip)] or [np.zeros((0, groups), dtype=np.int64)])
    for group in range(groups):
        counts = np.bincount(frames[:, group], minlength=num_vars)
        shares = counts[counts > 0] / max(len(frames), 1)
        perplexity = float(np.exp(-(shares * np.log(shares)).sum()))
        used = int((counts > 0).sum())
        logger.info("%s: group %d: %d of %d codes in use, perplexity %.1f", split, group, used, num_vars, perplexity)
    logger.info("%s: %d clips, %d frames, %d different tokens", split, len(codes), len(frames), count_tokens(frames))


def count_tokens(frames: Codes) -> int:
    """Return how many different rows (N, G) codes have."""
    return len(np.unique(frames, axis=0)) if len(frames) else 0


def make_dictionary(config: TokenizeConfig, output: Path, split: str) -> None:
    """Write dict.txt from the tokens of a split: what BERT and language models on tokens are trained with.

    With `--num-shards` it is made once all parts are there.
    """
    if config.num_shards is None:
        parts = [output / f"{split}.src"]
    else:
        parts = [output / f"{split}.src.{shard}" for shard in range(config.num_shards)]
        waiting = [part.name for part in parts if not part.is_file()]
        if waiting:
            logger.info("dict.txt is made by the run that ends last; not there yet: %s", ", ".join(waiting))
            return
    counts: Counter[str] = Counter()
    for part in parts:
        for line in read_lines(part, "token file"):
            counts.update(line.split(" ") if line else ())
    write_dictionary(output / "dict.txt", counts)
    logger.info("dict.txt: %d tokens of %s", len(counts), split)


if __name__ == "__main__":
    sys.exit(main())
