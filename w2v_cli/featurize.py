"""`w2v-featurize`: audio files to frames of a trained model, one file per clip.

Flags and files are those of the original's `wav2vec_featurize.py`, which served wav2vec 1 alone; this serves every
model, in batches, and resumes where a killed run stopped.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import logging
import math
import shutil
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from w2v.config import ArgumentParser, arg, build_config, check_range, str_tuple
from w2v.data.folder import list_folder
from w2v.data.manifest import Manifest, read_manifest
from w2v.errors import ConfigError, DataError
from w2v.files import write_atomically
from w2v.functional.windows import overlapping_windows
from w2v.inference.encode import ClipEncoder, Encoded, conv_stack, feature_function
from w2v.inference.feature_file import SUFFIXES, write_features
from w2v.inference.load import LoadedModel, load_model
from w2v_cli.main import run
from w2v_cli.progress import set_up_logging, show_clips

logger = logging.getLogger("w2v-featurize")

SETTINGS_FILE = "w2v-featurize.json"


@dataclass(frozen=True)
class FeaturizeConfig:
    """What is read, what is computed, and where it goes."""

    input: str = arg(help="folder, or manifest (.tsv), with the audio", aliases=("-i",))
    output: str = arg(help="folder for the features", aliases=("-o",))
    model: str = arg(help="checkpoint", aliases=("--path", "--checkpoint"))
    ext: tuple[str, ...] = arg(("wav",), help="endings of audio files, separated by commas", parse=str_tuple)
    layer: str = arg(
        "c", help="frames to write: c: context; z: before it; q: z quantised; 1, 2, ...: that transformer block"
    )
    use_feat: bool = arg(False, help="the original's spelling of --layer z")
    format: str = arg("npy", help="h5: the original's .h5context (needs h5py)", choices=tuple(SUFFIXES))
    no_copy_labels: bool = arg(False, help="do not copy the other files of a split's folder")
    max_tokens: int = arg(1_300_000, help="largest batch: clips x longest clip, in samples; 0: clip by clip")
    max_size: int = arg(1_300_000, help="clips longer than this, in samples, are cut into windows; 0: never")
    context: int = arg(64_000, help="samples at both ends of a window that only serve as context")
    allow_outside_root: bool = arg(False, help="take clips that a manifest names by absolute paths or with `..`")
    resample: bool = arg(True, help="convert other sample rates and mix channels down")
    overwrite: bool = arg(False, help="write files anew that are there already")
    num_workers: int = arg(2, help="files read at once")
    gpu: int = arg(0, help="number of the GPU, where there is one")
    cpu: bool = arg(False, help="never use a GPU")
    user_dir: str | None = arg(None, help="python file, folder or package with your own models")
    quiet: bool = arg(False, help="no progress; only warnings")

    def __post_init__(self) -> None:
        check_range(self, 1, math.inf, "num_workers")
        check_range(self, 0, math.inf, "max_tokens", "max_size", "context", "gpu")
        if self.use_feat and self.layer not in ("c", "z"):
            raise ConfigError(f"--use-feat and --layer {self.layer} exclude each other; give one of them")


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
    config, splits = parse_flags(argv)
    set_up_logging(is_master=not config.quiet, stream=sys.stderr)
    loaded = load_model(config.model, user_dir=config.user_dir)
    encoder = build_encoder(config, loaded)
    check_settings(config)
    failed: list[str] = []
    for job in find_jobs(config, splits, encoder.sample_rate):
        failed += write_job(config, encoder, job)
    if failed:
        raise DataError(f"no features of {len(failed)} clips; the first: {failed[0]}")
    return 0


def parse_flags(argv: Sequence[str]) -> tuple[FeaturizeConfig, list[str]]:
    """Return the options and the names given with `--split`."""
    parser = ArgumentParser(prog="w2v-featurize", description="Write the frames of a trained model, clip by clip.")
    parser.add_config(FeaturizeConfig, "features")
    parser.add_argument(
        "--split",
        "--splits",
        nargs="+",
        metavar="NAME",
        default=argparse.SUPPRESS,
        help="folders INPUT/NAME, or manifests INPUT/NAME.tsv; without it, all of INPUT",
    )
    values = parser.parse(argv)
    splits = list(values.pop("split", []))
    return build_config(FeaturizeConfig, values, "w2v-featurize"), splits


def build_encoder(config: FeaturizeConfig, loaded: LoadedModel) -> ClipEncoder:
    """Return what turns clips into frames.

    Raises:
        ConfigError: the model has no such layer, or `--context` leaves no room in `--max-size`.
    """
    layers = conv_stack(loaded.model)
    cut = partial(overlapping_windows, layers=layers, max_size=config.max_size, context=config.context)
    try:
        cut(config.max_size + 1)
    except ValueError as e:
        raise ConfigError(f"--max-size and --context do not go together: {e}") from e
    with_gpu = torch.cuda.is_available() and not config.cpu
    if with_gpu and config.gpu >= torch.cuda.device_count():
        raise ConfigError(f"--gpu must be below {torch.cuda.device_count()}, the number of GPUs, got {config.gpu}")
    device = torch.device("cuda", config.gpu) if with_gpu else torch.device("cpu")
    model = loaded.model.eval().to(device)
    task = loaded.task.config
    return ClipEncoder(
        encode=feature_function(model, "z" if config.use_feat else config.layer),
        layers=layers,
        cut=cut,
        device=device,
        sample_rate=task.sample_rate,
        normalize=task.normalize,
        resample=config.resample,
        max_tokens=config.max_tokens,
        num_threads=config.num_workers,
    )


def check_settings(config: FeaturizeConfig) -> None:
    """Keep in the output folder how its files were made, so that a run never mixes two kinds of features.

    Raises:
        ConfigError: the folder was filled with other settings, and `--overwrite` is not given.
        DataError: the folder cannot be written.
    """
    settings: dict[str, Any] = {
        "model": fingerprint(Path(config.model)),
        "layer": "z" if config.use_feat else config.layer,
        "max_size": config.max_size,
        "context": config.context,
    }
    path = Path(config.output) / SETTINGS_FILE
    if path.is_file() and not config.overwrite:
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


def fingerprint(path: Path) -> str:
    """Return a short digest of a file's content."""
    digest = hashlib.blake2b(digest_size=8)
    with open(path, "rb") as file:
        while block := file.read(1 << 22):
            digest.update(block)
    return digest.hexdigest()


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


def write_job(config: FeaturizeConfig, encoder: ClipEncoder, job: Job) -> list[str]:
    """Write the features of a job's clips that are not there yet; return what went wrong, a line per clip."""
    clips = job.clips
    clips.check_root()
    suffix = SUFFIXES[config.format]
    paths = [feature_path(job.output, clips.name(row), suffix) for row in range(len(clips))]
    check_names(clips, paths)
    missing = [row for row, path in enumerate(paths) if config.overwrite or not path.is_file()]
    if len(missing) < len(clips):
        logger.info("%s: %d of %d clips are there already", job.output, len(clips) - len(missing), len(clips))
    failed = []
    for encoded in show_clips(encoder.run(clips, missing), len(missing), str(job.output), quiet=config.quiet):
        if encoded.frames is None:
            failed.append(describe(clips, encoded))
            logger.warning("no features: %s", failed[-1])
            continue
        path = paths[encoded.row]
        make_folder(path.parent)
        write_features(path, encoded.frames.astype(np.float32, copy=False), encoder.frame_rate, config.format)
    if job.labels_from is not None:
        copy_labels(config, job.labels_from, job.output)
    return failed


def feature_path(folder: Path, name: str, suffix: str) -> Path:
    """Return where the features of a clip go: below `folder`, also where its name leads out of the manifest's root."""
    inside = [part for part in Path(name).parts if part.strip("/") not in ("", "..")]
    return folder.joinpath(*inside).with_suffix(suffix)


def describe(clips: Manifest, encoded: Encoded) -> str:
    """Return the path of a clip and why it has no frames."""
    path = clips.path(encoded.row)
    return encoded.reason if path in encoded.reason else f"{path}: {encoded.reason}"


def check_names(clips: Manifest, paths: Sequence[Path]) -> None:
    """Refuse two clips whose features would go into one file.

    Raises:
        DataError: `a.wav` and `a.flac` are both there.
    """
    first: dict[Path, int] = {}
    for row, path in enumerate(paths):
        if path in first:
            raise DataError(
                f"{clips.name(first[path])} and {clips.name(row)} would both become {path}; choose with --ext"
            )
        first[path] = row


def copy_labels(config: FeaturizeConfig, folder: Path, output: Path) -> None:
    """Copy what else lies in a split's folder, as the original does.

    Differs from the original, which looks for the ending anywhere in the whole path, and so copies nothing out of a
    folder such as `/data/waves`.
    """
    endings = tuple(f".{extension.lower().lstrip('.')}" for extension in config.ext)
    make_folder(output)
    for path in sorted(folder.iterdir()):
        if path.is_file() and not path.name.lower().endswith(endings):
            try:
                shutil.copy(path, output / path.name)
            except OSError as e:
                raise DataError(f"cannot copy {path} to {output}: {e.strerror or e}") from e


def make_folder(folder: Path) -> None:
    """Make a folder and those above it.

    Raises:
        DataError: it cannot be made.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as e:
        raise DataError(f"cannot make the folder {folder}: {e.strerror or e}") from e


if __name__ == "__main__":
    sys.exit(main())
