"""What `w2v-featurize` and `w2v-tokenize` have in common: flags, names of splits, the encoder of clips."""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import torch

from w2v.config import ArgumentParser, arg, build_config, check_range
from w2v.data.manifest import Manifest
from w2v.errors import DataError
from w2v.inference.encode import ClipEncoder, Cut, Encode, Encoded
from w2v.inference.load import LoadedModel
from w2v.types import IntArray
from w2v_cli.progress import Work
from w2v_cli.shard_flags import ShardOptions

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


def make_folder(folder: Path) -> None:
    """Make a folder and those above it.

    Raises:
        DataError: it cannot be made.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as e:
        raise DataError(f"cannot make the folder {folder}: {e.strerror or e}") from e
