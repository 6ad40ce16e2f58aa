"""`w2v-kmeans`: classes of frames by k-means, one line per clip: what HuBERT learns to predict.

Frames are MFCC or a layer of a model, or come from feature files. The settings are those of the original's
`examples/hubert/simple_kmeans`; its three scripts are one run here, which resumes and is shared by ranks.
"""

from __future__ import annotations

import json
import logging
import math
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch

from w2v import distributed
from w2v.array_types import IntArray
from w2v.config import arg, check_range
from w2v.data.manifest import Manifest
from w2v.data.reference_frames import ReferenceFrames
from w2v.data.text_file import read_lines
from w2v.errors import ConfigError, DataError
from w2v.files import make_folder, write_atomically
from w2v.inference.clustering import Clustering, fit_kmeans, inertia, load_clustering
from w2v.inference.encode import Encoded
from w2v.inference.part_files import PartFiles, settings_key
from w2v.scoring.cluster_quality import ClusterQuality
from w2v_cli.clips import ClipOptions, describe, line_with, parse_flags, texts_of, write_missing
from w2v_cli.kmeans_frames import FeatureFiles, Frames, mfcc_frames, model_frames
from w2v_cli.main import run
from w2v_cli.progress import set_up_logging
from w2v_cli.sharding import first_of_ranks, joined_ranks, own_rank

logger = logging.getLogger("w2v-kmeans")

CENTROIDS = "kmeans.npz"


@dataclass(frozen=True)
class KmeansConfig(ClipOptions):
    """What is read, how it is clustered, and where classes go."""

    data: str = arg(help="folder with SPLIT.tsv, or with feature files SPLIT_RANK_NSHARD.npy", positional=True)
    output_dir: str | None = arg(None, help="folder for kmeans.npz, SPLIT.km and dict.km.txt; none: DATA")
    labels: str = arg("km", help="ending of the label files")
    mfcc: bool = arg(False, help="cluster MFCC, 100 frames a second")
    model: str | None = arg(None, help="cluster frames of this model", aliases=("--path", "--checkpoint"))
    layer: str = arg("6", help="with --model: a block, from 1, or c, the last frames")
    label_rate: float = arg(0.0, help="with feature files: frames per second, for the header of the labels")
    apply: str | None = arg(None, help="kmeans.npz of an earlier run: fit nothing, give classes alone")
    num_classes: int = arg(100, help="number of classes", aliases=("-K", "--n-clusters"))
    percent: float = arg(-1.0, help="fit on this share of the clips of the first split, such as 0.1; -1: on all")
    seed: int = arg(0, help="of the sample and of the first centroids")
    n_init: int = arg(20, help="starts, of which the best is taken")
    max_iter: int = arg(100, help="passes over the sample at most")
    batch_size: int = arg(10_000, help="frames of a step of k-means")
    tol: float = arg(0.0, help="stop when centroids move less; 0: go by --max-no-improvement")
    max_no_improvement: int = arg(100, help="stop after so many steps without a better inertia")
    reassignment_ratio: float = arg(0.0, help="above 0: move centroids that few frames belong to")
    quality: str | None = arg(
        None,
        help="compare with DATA/SPLIT.ENDING: lines of symbols per frame or, for ctm, words and their times",
    )
    quality_rate: float = arg(100.0, help="symbols per second of --quality")

    def __post_init__(self) -> None:
        super().__post_init__()
        check_range(self, 1, math.inf, "num_classes", "n_init", "max_iter", "batch_size", "max_no_improvement")
        check_range(self, 0, math.inf, "tol", "reassignment_ratio", "label_rate", "seed")
        if not (self.percent == -1 or 0 < self.percent <= 1):
            raise ConfigError(f"--percent must be a share in (0, 1], or -1 for all, got {self.percent:g}")
        if self.mfcc and self.model:
            raise ConfigError("--mfcc and --model exclude each other; give one of them")
        if self.num_shards is not None:
            raise ConfigError("--num-shards: start w2v-kmeans under torchrun or Slurm instead; ranks share the clips")
        if not self.quality_rate > 0:
            raise ConfigError(f"--quality-rate must be above 0, got {self.quality_rate:g}")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the program and return its exit code."""
    return run(lambda: kmeans(sys.argv[1:] if argv is None else argv))


def kmeans(argv: Sequence[str]) -> int:
    """Fit centroids, and write the classes of what the flags name.

    Raises:
        W2vError: a flag or a file breaks a rule; or, when all else is done, a clip has no classes.
    """
    config, splits = parse_flags(
        KmeansConfig, argv, "w2v-kmeans", "Cluster frames, and write the class of each.", title="classes",
        splits="names of the splits, on the first of which centroids are fitted; without it: train, and valid if there",
    )  # fmt: skip
    data, output = Path(config.data), Path(config.output_dir or config.data)
    rank = own_rank(config, cpu=config.cpu)
    failed: list[str] = []
    with joined_ranks(rank, cpu=config.cpu) as device:
        set_up_logging(is_master=rank.rank == 0 and not config.quiet, stream=sys.stderr)
        splits = splits or ["train", *(["valid"] if has_clips(data / "valid.tsv") else [])]
        frames = find_frames(config, data, splits[0], device)
        make_folder(output)
        if distributed.is_master():
            clustering = fitted(config, frames, splits[0])
            clustering.save(output / CENTROIDS)
        distributed.barrier()
        clustering = load_clustering(output / CENTROIDS)
        for split in splits:
            failed += write_split(config, frames, clustering, split, output)
    if failed:
        raise DataError(
            f"no classes of {len(failed)} clips, whose lines are empty; the first: {failed[0]}; leave them out of the "
            "manifest (w2v-manifest leaves out what cannot be read)"
        )
    return 0


def has_clips(manifest: Path) -> bool:
    """Whether there is a manifest that lists any; `w2v-manifest --valid-percent 0` writes one that lists none."""
    return manifest.is_file() and any(line.strip() for line in read_lines(manifest, "manifest")[1:])


def find_frames(config: KmeansConfig, data: Path, split: str, device: torch.device) -> Frames:
    """Return where frames come from.

    Raises:
        ConfigError: the flags do not tell.
    """
    if any(data.glob(f"{split}_*_*.npy")) and not (config.mfcc or config.model):
        return FeatureFiles(data, {"features": "files", "label_rate": config.label_rate})
    if config.mfcc:
        return mfcc_frames(config, data, device)
    if config.model is None:
        raise ConfigError("w2v-kmeans needs --mfcc, or --model and --layer, to know what is clustered")
    return model_frames(config, data, device, config.model, config.layer)


def fitted(config: KmeansConfig, frames: Frames, split: str) -> Clustering:
    """Return centroids: those of `--apply`, or new ones.

    Raises:
        DataError: those of `--apply` are of other frames.
    """
    if config.apply is not None:
        given = load_clustering(Path(config.apply))
        for name in ("features", "model"):
            if given.about.get(name) != frames.about.get(name):
                raise DataError(
                    f"--apply {config.apply}: its centroids are of {given.about.get('features')} "
                    f"{given.about.get('model', '')}, the frames of {frames.about.get('features')} "
                    f"{frames.about.get('model', '')}"
                )
        return given
    # One generator for the sample and then for k-means, as the original's global one.
    rng = np.random.RandomState(config.seed)
    sample = frames.sample(split, config.percent, rng)
    logger.info("%s: fitting %d classes to %d frames", split, config.num_classes, len(sample))
    centroids, steps = fit_kmeans(
        sample, config.num_classes, rng=rng, num_starts=config.n_init, max_iter=config.max_iter,
        batch_size=config.batch_size, tol=config.tol, max_no_improvement=config.max_no_improvement,
        reassignment_ratio=config.reassignment_ratio,
    )  # fmt: skip
    about = {**frames.about, "seed": config.seed, "percent": config.percent, "num_frames": len(sample)}
    clustering = Clustering(centroids, about)
    logger.info("%d steps, inertia per frame %.5g", steps, inertia(clustering, sample))
    return clustering


def write_split(config: KmeansConfig, frames: Frames, clustering: Clustering, split: str, output: Path) -> list[str]:
    """Write the classes of a split, their header and the dictionary; return what went wrong, a line per clip."""
    path = output / f"{split}.{config.labels}"
    failed: list[str] = []
    if isinstance(frames, FeatureFiles):
        # One rank does it: no model is run, and a clip costs a product of two small matrices.
        if distributed.is_master():
            finish(config, clustering, split, path, map(clustering.classes, frames.all_clips(split)), None)
        distributed.barrier()
        return failed
    clips = frames.clips(split)
    key = settings_key({**clustering.about, "kmeans": clustering.digest, "resample": config.resample}, [], clips)
    parts = PartFiles(path, first_of_ranks(lambda: key), len(clips))
    rows = range(len(clips))
    write_missing(config, frames.encoder, clips, rows, parts, split, partial(line_of, clustering, clips))
    if distributed.is_master():
        texts = texts_of(parts.read(rows), failed)
        finish(config, clustering, split, path, (np.array(text.split(), dtype=np.int64) for text in texts), clips)
        parts.remove()
    distributed.barrier()
    return failed


def line_of(clustering: Clustering, clips: Manifest, encoded: Encoded) -> str:
    """Return a clip's classes, or why there are none, as a line of `texts_of`."""
    if encoded.frames is None:
        return line_with("", describe(clips, encoded))
    return line_with(" ".join(map(str, clustering.classes(encoded.frames).tolist())))


def finish(
    config: KmeansConfig, clustering: Clustering, split: str, path: Path, classes: Iterator[IntArray],
    clips: Manifest | None,
) -> None:  # fmt: skip
    """Write the label file, its header and the dictionary, and say what the classes are worth."""
    rate = float(clustering.about.get("label_rate") or 0.0)
    quality = ClusterQuality(len(clustering.centroids))
    reference = None
    if config.quality is not None:
        if clips is None or rate <= 0:
            raise ConfigError("--quality needs clips of a manifest, whose frames have a rate")
        reference = ReferenceFrames(Path(config.data) / f"{split}.{config.quality}", clips, config.quality_rate)

    def lines() -> Iterator[bytes]:
        for row, ids in enumerate(classes):
            quality.add(ids, reference.symbols(row, len(ids), rate) if reference is not None else ())
            yield (" ".join(map(str, ids.tolist())) + "\n").encode()

    write_atomically(path, lines())
    header = {"kmeans": clustering.digest, "classes": len(clustering.centroids), **clustering.about}
    if not rate:
        del header["label_rate"]
    write_atomically(path.with_name(path.name + ".json"), (json.dumps(header, indent=1) + "\n").encode())
    symbols = "".join(f"{number} 1\n" for number in range(len(clustering.centroids)))
    # Written anew: the original's recipe appends, and a second run then holds each class twice.
    write_atomically(path.with_name(f"dict.{config.labels}.txt"), symbols.encode())
    values = ", ".join(f"{name} {value:.4g}" for name, value in quality.values().items())
    print(f"{split}: {values}")


if __name__ == "__main__":
    sys.exit(main())
