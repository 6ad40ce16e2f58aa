"""`w2v-transcribe --write-labels`: recordings are cut as `w2v-segment` does, and labelled as `w2v-infer` does."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import fields
from pathlib import Path
from tempfile import TemporaryDirectory

from w2v.data.manifest import write_manifest
from w2v.errors import ConfigError
from w2v_cli.emission_source import SourceConfig
from w2v_cli.infer import transcribe_clips
from w2v_cli.infer_output import OutputConfig
from w2v_cli.recordings import STANDARD_INPUT, Job
from w2v_cli.segment import SegmentConfig, cut_recording
from w2v_cli.transcribe_flags import PROGRAM, Flags


def label_recordings(flags: Flags, jobs: Sequence[Job]) -> int:
    """Write labels of recordings; those of more than half a minute come out as stretches.

    Returns the exit code: 1 where a recording could not be read, or where nothing is kept.

    Raises:
        W2vError: a flag, a recording or the model breaks a rule.
    """
    what, labels = flags.what, flags.labels
    if any(job.path == STANDARD_INPUT for job in jobs):
        raise ConfigError("--write-labels needs files, which a manifest can name; standard input (-) is none")
    if what.output_dir is not None or what.shard.count > 1:
        raise ConfigError(
            "--write-labels writes one set of clips, and goes without --output-dir and --num-shards; to share the "
            "work, cut the recordings with w2v-segment and label the manifest with w2v-infer --write-labels"
        )
    if not all(isinstance(job.path, str) for job in jobs):
        raise ConfigError("--write-labels cuts files; label clips inside of shards with w2v-infer --write-labels")
    paths = [os.path.abspath(str(job.path)) for job in jobs]
    root = os.path.commonpath([os.path.dirname(path) for path in paths])
    vad = "silero" if flags.how.vad == "silero" else "level"
    name = Path(labels.write_labels or "calibration").name
    with TemporaryDirectory(prefix="w2v-labels-") as folder:
        failed: list[str] = []

        def cut(sample_rate: int) -> None:
            """Write the manifest of the clips, with lengths at the rate of the model."""
            config = SegmentConfig(root=root, dest=folder, resample=True, sample_rate=sample_rate, vad=vad)
            rows: list[tuple[str, int]] = []
            for path in paths:
                found = cut_recording(config, root, os.path.relpath(path, root))
                if found.reason:
                    failed.append(path)
                    print(f"{PROGRAM}: {path}: {found.reason}", file=sys.stderr, flush=True)
                rows += _clips(found.path, found.seconds, found.rows, config)
            if not rows:
                raise ConfigError(f"--write-labels: no speech was found in {len(paths)} recordings")
            write_manifest(Path(folder) / f"{name}.tsv", root, [row for row, _ in rows], [size for _, size in rows])

        code = transcribe_clips(_source(flags, folder, name), OutputConfig(), labels, flags.decoder, cut)
    return code or int(bool(failed))


def _clips(
    path: str, seconds: float, rows: Sequence[tuple[str, int]], config: SegmentConfig
) -> Iterator[tuple[str, int]]:
    """Yield the clips of a recording: all of it where it is a clip already."""
    if rows and seconds <= config.max_seconds:
        yield path, round(seconds * config.sample_rate)
    else:
        yield from rows


def _source(flags: Flags, folder: str, name: str) -> SourceConfig:
    """Return what the flags mean to `w2v-infer`."""
    what = flags.what
    same = {item.name for item in fields(SourceConfig)} & {item.name for item in fields(what)}
    values = {name: getattr(what, name) for name in same - {"log_interval"}}
    return SourceConfig(**values, data=folder, path=what.model, gen_subset=name)
