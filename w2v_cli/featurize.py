"""`w2v-featurize`: audio files to frames of a trained model, one file per clip.

Flags and files are those of the original's `wav2vec_featurize.py`, which served wav2vec 1 alone; this serves every
model, in batches, and resumes where a killed run stopped. Each rank of torchrun or Slurm takes its part of the clips;
no rank needs another.
"""

from __future__ import annotations

import json
import logging
import math
import os
import shutil
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from w2v.config import arg, check_range, str_tuple
from w2v.convert.locate import fingerprint
from w2v.data.audio_files import AUDIO_ENDINGS
from w2v.data.folder import list_folder
from w2v.data.manifest import Manifest, equal_pairs, read_manifest
from w2v.distributed.ranks import RankInfo
from w2v.errors import ConfigError, DataError
from w2v.files import make_folder, write_atomically
from w2v.functional.windows import overlapping_windows
from w2v.inference.encode import ClipEncoder, feature_function, in_one
from w2v.inference.feature_file import SUFFIXES, write_features
from w2v.inference.load import LoadedModel, load_model
from w2v.inference.token_features import token_features
from w2v.shards.member import Source
from w2v_cli.clips import ClipOptions, clip_encoder, describe, parse_flags, size_of, work_of
from w2v_cli.main import run
from w2v_cli.progress import set_up_logging, show_progress
from w2v_cli.sharding import own_part, own_rank

logger = logging.getLogger("w2v-featurize")

SETTINGS_FILE = "w2v-featurize.json"


@dataclass(frozen=True)
class FeaturizeConfig(ClipOptions):
    """What is read, what is computed, and where it goes."""

    input: str = arg(help="folder, or manifest (.tsv), with the audio", aliases=("-i",))
    output: str = arg(help="folder for the features", aliases=("-o",))
    model: str = arg(help="checkpoint", aliases=("--path", "--checkpoint"))
    ext: tuple[str, ...] | None = arg(
        None, help="endings of audio files, separated by commas (default: all kinds of audio)", parse=str_tuple
    )
    layer: str = arg(
        "c", help="frames to write: c: context; z: before it; q: z quantised; 1, 2, ...: that transformer block"
    )
    language: str | None = arg(None, help="of a model of many languages (MMS): which one, such as eng", metavar="CODE")
    bert: str | None = arg(
        None, help="masked language model on the tokens of --model: write its frames; --layer c: the last; 0, 1, ..."
    )
    bert_no_bos: bool = arg(False, help="--bert reads tokens without <s> and </s>, as s3prl does")
    use_feat: bool = arg(False, help="the original's spelling of --layer z")
    format: str = arg("npy", help="h5: the original's .h5context (needs h5py)", choices=tuple(SUFFIXES))
    no_copy_labels: bool = arg(False, help="do not copy the other files of a split's folder")
    max_tokens: int = arg(1_300_000, help="largest batch: clips x longest clip, in samples; 0: clip by clip")
    max_size: int = arg(1_300_000, help="clips longer than this, in samples, are cut into windows; 0: never")
    context: int = arg(64_000, help="samples at both ends of a window that only serve as context")
    overwrite: bool = arg(False, help="write files anew that are there already")
    gpu: int = arg(0, help="number of the GPU, where there is one and torchrun or Slurm name no other")

    def __post_init__(self) -> None:
        super().__post_init__()
        check_range(self, 0, math.inf, "context", "gpu")
        if self.use_feat and self.layer not in ("c", "z"):
            raise ConfigError(f"--use-feat and --layer {self.layer} exclude each other; give one of them")
        if self.bert_no_bos and self.bert is None:
            raise ConfigError("--bert-no-bos needs --bert")


@dataclass(frozen=True)
class Job:
    """Clips whose features go into one folder."""

    clips: Manifest
    output: Path
    labels_from: Path | None = None


def main(argv: Sequence[str] | None = None) -> int:
    """Run the program and return its exit code."""
    return run(lambda: featurize(sys.argv[1:] if argv is None else argv))


def featurize(argv: Sequence[str]) -> int:
    """Write the features of what the flags name.

    Raises:
        W2vError: a flag, a file or the checkpoint breaks a rule; or, when all else is done, a clip could not be read.
    """
    purpose = "Write the frames of a trained model, clip by clip."
    names = "folders INPUT/NAME, or manifests INPUT/NAME.tsv; without it, all of INPUT"
    config, splits = parse_flags(FeaturizeConfig, argv, "w2v-featurize", purpose, title="features", splits=names)
    rank = own_rank(config, cpu=config.cpu)
    set_up_logging(is_master=rank.rank == 0 and not config.quiet, stream=sys.stderr)
    loaded = load_model(config.model, user_dir=config.user_dir, language=config.language)
    if config.bert is not None:
        loaded = token_features(loaded, load_model(config.bert), with_ends=not config.bert_no_bos)
    encoder = build_encoder(config, loaded, rank)
    check_settings(config)
    failed: list[str] = []
    for job in find_jobs(config, splits, encoder.sample_rate):
        failed += write_job(config, encoder, job, rank)
    if failed:
        raise DataError(f"no features of {len(failed)} clips; the first: {failed[0]}")
    return 0


def build_encoder(config: FeaturizeConfig, loaded: LoadedModel, rank: RankInfo) -> ClipEncoder:
    """Return what turns clips into frames.

    Raises:
        ConfigError: the model has no such layer, or `--context` leaves no room in `--max-size`.
    """
    layers = loaded.model.conv_layers
    windows = partial(overlapping_windows, layers=layers, max_size=config.max_size, context=config.context)
    cut = windows if layers else in_one
    try:
        cut(config.max_size + 1)
    except ValueError as e:
        raise ConfigError(f"--max-size and --context do not go together: {e}") from e
    with_gpu = torch.cuda.is_available() and not config.cpu
    if with_gpu and config.gpu >= torch.cuda.device_count():
        raise ConfigError(f"--gpu must be below {torch.cuda.device_count()}, the number of GPUs, got {config.gpu}")
    number = rank.local_rank if rank.world_size > 1 else config.gpu
    device = torch.device("cuda", number) if with_gpu else torch.device("cpu")
    encode = feature_function(loaded.model, "z" if config.use_feat else config.layer)
    return clip_encoder(config, loaded, device, encode=encode, cut=cut)


def check_settings(config: FeaturizeConfig) -> None:
    """Keep in the output folder how its files were made, so that a run never mixes two kinds of features.

    Raises:
        ConfigError: the folder was filled with other settings, and `--overwrite` is not given.
        DataError: the folder cannot be written.
    """
    settings: dict[str, Any] = {
        "model": fingerprint(config.model, config.language),
        "bert": None if config.bert is None else fingerprint(config.bert),
        "bert_no_bos": config.bert_no_bos or None,
        "layer": "z" if config.use_feat else config.layer,
        "max_size": config.max_size,
        "context": config.context,
    }
    path = Path(config.output) / SETTINGS_FILE
    # Settings bind once there is a file made with them, not after a run that found no clips.
    made = (file for suffix in SUFFIXES.values() for file in path.parent.rglob(f"*{suffix}"))
    if path.is_file() and not config.overwrite and next(made, None) is not None:
        try:
            before = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as e:
            raise DataError(f"{path}: cannot be read: {e}") from e
        for name, value in settings.items():
            if before.get(name) != value:
                raise ConfigError(
                    f"{config.output} holds features of another --{name.replace('_', '-')} ({before.get(name)}); "
                    "give another --output, or --overwrite"
                )
    make_folder(path.parent)
    write_atomically(path, (json.dumps(settings, indent=1) + "\n").encode())


def find_jobs(config: FeaturizeConfig, splits: Sequence[str], sample_rate: int) -> Iterator[Job]:
    """Find the clips: those of each split, or all of the input.

    Raises:
        DataError: there are none.
    """
    source, output = Path(config.input), Path(config.output)
    for split in splits:
        folder, manifest = source / split, source / f"{split}.tsv"
        if folder.is_dir():
            clips = list_folder(folder, config.ext, sample_rate, recursive=False)
            yield Job(clips, output / split, None if config.no_copy_labels else folder)
        elif manifest.is_file():
            clips = read_manifest(manifest, allow_outside_root=config.allow_outside_root)
            yield Job(clips, output / split)
        else:
            raise DataError(f"--split {split}: neither a folder {folder} nor a manifest {manifest}")
    if splits:
        return
    if source.suffix == ".tsv" or source.is_file():
        yield Job(read_manifest(source, allow_outside_root=config.allow_outside_root), output)
    else:
        yield Job(list_folder(source, config.ext, sample_rate, recursive=True), output)


def write_job(config: FeaturizeConfig, encoder: ClipEncoder, job: Job, rank: RankInfo) -> list[str]:
    """Write the features of this rank's clips that are not there yet; return what went wrong, a line per clip."""
    clips = job.clips
    clips.check_root()
    suffix = SUFFIXES[config.format]
    check_names(clips, job.output, suffix)
    # Batches and parts are those of the whole list, also where some of it is there: nothing depends on the number of
    # ranks, or on where an earlier run was ended.
    batches = own_part(config, rank, encoder.plan(clips))
    missing = np.zeros(len(clips), dtype=np.bool_)
    num_outdated = 0
    for row in (int(row) for batch in batches for row in batch):
        path = feature_path(job.output, clips.title(row), suffix)
        is_there = not config.overwrite and path.is_file()
        is_outdated = is_there and is_newer(clips.stretch(row)[0], path)
        missing[row] = is_outdated or not is_there
        num_outdated += is_outdated
    num_clips = sum(map(len, batches))
    if missing.sum() < num_clips:
        logger.info("%s: %d of %d clips are there already", job.output, num_clips - missing.sum(), num_clips)
    if num_outdated:
        logger.warning("%s: %d clips are newer than their features, which are made anew", job.output, num_outdated)
    batches = [batch for batch in batches if missing[batch].any()]
    failed = []
    work = work_of(str(job.output), clips, batches, encoder.sample_rate)
    sized = partial(size_of, sample_rate=encoder.sample_rate)
    for batch in show_progress(encoder.run(clips, batches, missing), sized, work, "none" if config.quiet else None):
        for encoded in batch:
            if encoded.frames is None:
                failed.append(describe(clips, encoded))
                logger.warning("no features: %s", failed[-1])
                continue
            path = feature_path(job.output, clips.title(encoded.row), suffix)
            make_folder(path.parent)
            write_features(path, encoded.frames.astype(np.float32, copy=False), encoder.frame_rate, config.format)
    if job.labels_from is not None and rank.rank == config.shard.index == 0:
        copy_labels(config, job.labels_from, job.output)
    return failed


def is_newer(clip: Source, made: Path) -> bool:
    """Whether a clip was changed or replaced after its features were made; one that is gone was not.

    Of a clip inside of a shard the whole shard was; on a server, nothing is asked.
    """
    try:
        return os.stat(clip if isinstance(clip, str) else clip.path).st_mtime > made.stat().st_mtime
    except OSError:
        return False


def feature_path(folder: Path, name: str, suffix: str) -> Path:
    """Return where the features of a clip go: below `folder`, also where its name leads out of the manifest's root."""
    inside = [part for part in Path(name).parts if part.strip("/") not in ("", "..")]
    return folder.joinpath(*inside).with_suffix(suffix)


def check_names(clips: Manifest, folder: Path, suffix: str) -> None:
    """Refuse two clips whose features would go into one file.

    Raises:
        DataError: `a.wav` and `a.flac` are both there.
    """
    for first, second in equal_pairs(lambda row: feature_path(folder, clips.title(row), suffix), len(clips)):
        names = " and ".join(clips.name(row) for row in (first, second))
        path = feature_path(folder, clips.title(first), suffix)
        raise DataError(f"{names} would both become {path}; choose with --ext, or change a name in the manifest")


def copy_labels(config: FeaturizeConfig, folder: Path, output: Path) -> None:
    """Copy what else lies in a split's folder, as the original does.

    Differs from the original, which looks for the ending anywhere in the whole path, and so copies nothing out of a
    folder such as `/data/waves`.
    """
    endings = tuple(f".{extension.lower().lstrip('.')}" for extension in config.ext or AUDIO_ENDINGS)
    make_folder(output)
    for path in sorted(folder.iterdir()):
        if path.is_file() and not path.name.lower().endswith(endings):
            try:
                shutil.copy(path, output / path.name)
            except OSError as e:
                raise DataError(f"cannot copy {path} to {output}: {e.strerror or e}") from e


if __name__ == "__main__":
    sys.exit(main())
