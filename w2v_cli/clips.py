"""What `w2v-featurize`, `w2v-tokenize` and `w2v-kmeans` have in common: flags, names of splits, the encoder of clips.

The last two write one line per clip, which the ranks keep in part files until the first one joins them.
"""

from __future__ import annotations

import argparse
import json
import logging
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

import torch

from w2v import distributed
from w2v.config import ArgumentParser, arg, build_config, check_range
from w2v.data.manifest import Manifest
from w2v.inference.encode import ClipEncoder, Cut, Encode, Encoded
from w2v.inference.load import LoadedModel
from w2v.inference.part_files import PartFiles
from w2v.types import IntArray
from w2v_cli.progress import Work, show_progress
from w2v_cli.shard_flags import ShardOptions
from w2v_cli.sharding import first_of_ranks

logger = logging.getLogger(__name__)

Config = TypeVar("Config", bound="ClipOptions")


@dataclass(frozen=True)
class ClipOptions(ShardOptions):
    """How clips are found and read, and where the model computes."""

    max_tokens: int = arg(0, help="largest batch: clips x longest clip, in samples; 0: clip by clip")
    max_size: int = arg(1_300_000, help="longest clip, in samples, that the model sees at once; 0: any")
    allow_outside_root: bool = arg(False, help="take clips that a manifest names by absolute paths or with `..`")
    resample: bool = arg(True, help="convert other sample rates and mix channels down")
    num_workers: int = arg(2, help="files read at once")
    cpu: bool = arg(False, help="never use a GPU")
    user_dir: str | None = arg(None, help="python file, folder or package with your own models")
    quiet: bool = arg(False, help="no progress; only warnings")

    def __post_init__(self) -> None:
        super().__post_init__()
        check_range(self, 1, math.inf, "num_workers")
        check_range(self, 0, math.inf, "max_tokens", "max_size")


def parse_flags(
    kind: type[Config], argv: Sequence[str], program: str, purpose: str, *, title: str, splits: str
) -> tuple[Config, list[str]]:
    """Return the options and the names given with `--split`.

    Args:
        kind: the program's config.
        argv: the arguments.
        program: its name, for messages.
        purpose: what it does, for `--help`.
        title: of its flags, for `--help`.
        splits: what the names are, for `--help`.

    Raises:
        ConfigError: a flag breaks a rule.
    """
    parser = ArgumentParser(prog=program, description=purpose)
    parser.add_config(kind, title)
    parser.add_argument(
        "--split", "--splits", dest="split", nargs="+", metavar="NAME", default=argparse.SUPPRESS, help=splits
    )
    values = parser.parse(argv)
    names = list(values.pop("split", []))
    return build_config(kind, values, program), names


def clip_encoder(
    config: ClipOptions, loaded: LoadedModel, device: torch.device, *, encode: Encode, cut: Cut
) -> ClipEncoder:
    """Return what runs a function of a model over clips; the model is moved to the device."""
    loaded.model.eval().to(device)
    task = loaded.task.config
    return ClipEncoder(
        encode=encode,
        layers=loaded.model.conv_layers,
        cut=cut,
        device=device,
        sample_rate=task.sample_rate,
        normalize=task.normalize,
        normalize_epsilon=task.normalize_epsilon,
        resample=config.resample,
        max_tokens=config.max_tokens,
        num_threads=config.num_workers,
    )


def write_missing(
    config: ClipOptions, encoder: ClipEncoder, clips: Manifest, rows: Sequence[int], parts: PartFiles, split: str,
    line_of: Callable[[Encoded], str],
) -> None:  # fmt: skip
    """Write this rank's part of the lines that no earlier run has written; return when all ranks have.

    Args:
        config: the options.
        encoder: from clips to frames.
        clips: all clips of the split.
        rows: which of them.
        parts: where lines go, and are found.
        split: its name, for messages.
        line_of: makes the line of a clip, which `texts_of` reads again.
    """
    done = first_of_ranks(parts.done)
    if num_done := int(done[rows].sum()):
        logger.info("%s: resuming an earlier run, which has done %d of %d clips", split, num_done, len(rows))
    missing = [batch for batch in encoder.plan(clips, rows) if not done[batch].all()]
    batches = missing[distributed.rank() :: distributed.world_size()]
    sized = partial(size_of, sample_rate=encoder.sample_rate)
    work = work_of(split, clips, batches, encoder.sample_rate)
    style = "none" if config.quiet or not distributed.is_master() else None
    with parts.writer(str(distributed.rank())) as write:
        for batch in show_progress(encoder.run(clips, batches), sized, work, style):
            write({clip.row: line_of(clip) for clip in batch})
    distributed.barrier()


def line_with(text: str, reason: str = "") -> str:
    """Return the line of a clip: its text, or why there is none."""
    return json.dumps([text, reason])


def texts_of(lines: Iterator[str], failed: list[str]) -> Iterator[str]:
    """Yield the texts of lines that `line_with` made; `failed` takes the reasons of those that have one."""
    for text, reason in map(json.loads, lines):
        if reason:
            failed.append(reason)
        yield text


def work_of(name: str, clips: Manifest, batches: Sequence[IntArray], sample_rate: int) -> Work:
    """Return what is to be done of a manifest."""
    return Work(name, len(batches), sum(int(clips.sizes[batch].sum()) for batch in batches) / sample_rate)


def size_of(batch: Sequence[Encoded], sample_rate: int) -> tuple[int, float]:
    """Return the clips of a batch, and their seconds."""
    return len(batch), sum(clip.num_samples for clip in batch) / sample_rate


def describe(clips: Manifest, encoded: Encoded) -> str:
    """Return the path of a clip and why it has no frames."""
    path = clips.path(encoded.row)
    return encoded.reason if path in encoded.reason else f"{path}: {encoded.reason}"
