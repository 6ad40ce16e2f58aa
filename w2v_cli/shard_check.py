"""`w2v-manifest --check`: is everything there that a manifest names, and as it was?"""

from __future__ import annotations

import os
import sys
from collections import Counter

from w2v.data.audio import audio_info
from w2v.data.manifest import Manifest, read_manifest, shards_path
from w2v.errors import DataError, ShardError
from w2v.shards.member import Member, Source, parse_place
from w2v_cli.shard_writer import labels_beside

MOST_SHOWN = 100
TOLERANCE = 1  # sample: a rate brought to another one is rounded


def check_manifest(path: str, sample_rate: int, *, resample: bool) -> int:
    """Read every clip; print what is wrong, one line each, and return 1 if anything is.

    Raises:
        DataError: the manifest itself cannot be read.
    """
    manifest = read_manifest(path)
    manifest.check_root()
    wrong = [*_shards(manifest), *_labels(manifest)]
    gone: set[str] = set()
    for row in range(len(manifest)):
        source, _, frames = manifest.stretch(row)
        shard = source.place.shard if isinstance(source, Member) else ""
        if shard and shard in gone:
            continue
        try:
            reason = _clip(source, frames, int(manifest.sizes[row]), sample_rate, resample=resample)
        except ShardError as e:
            gone.add(shard)
            reason = str(e)
        if reason:
            wrong.append(f"{manifest.line(row)}: {reason}")
    for line in wrong[:MOST_SHOWN]:
        print(line)
    if len(wrong) > MOST_SHOWN:
        print(f"and {len(wrong) - MOST_SHOWN} more")
    print(f"{path}: {len(manifest)} clips, {len(wrong)} faults", file=sys.stderr)
    return 1 if wrong else 0


def _clip(source: Source, frames: int | None, size: int, sample_rate: int, *, resample: bool) -> str:
    try:
        info = audio_info(source)
    except DataError as e:
        return str(e)
    if sample_rate and info.sample_rate != sample_rate and not resample:
        return f"{source}: sample rate {info.sample_rate} Hz, need {sample_rate} Hz"
    found = (frames if frames is not None else info.frames) * (sample_rate or info.sample_rate) / info.sample_rate
    if abs(found - size) > TOLERANCE:
        return f"{source}: holds {round(found)} samples, its manifest says {size}"
    return ""


def _shards(manifest: Manifest) -> list[str]:
    """Return what is wrong with the numbers of clips."""
    if manifest.store is None:
        return []
    path, wrong = shards_path(manifest.source), []
    counts = Counter(place.shard for row in range(len(manifest)) if (place := parse_place(manifest.name(row))))
    for number, (shard, told) in enumerate(manifest.store.identities.items(), 1):
        if counts[shard] != told.clips:
            wrong.append(f"{path}:{number}: {shard} has {told.clips} clips there, and {counts[shard]} in the manifest")
    return wrong


def _labels(manifest: Manifest) -> list[str]:
    if not os.path.isfile(manifest.source):
        return []
    return [
        f"{manifest.source}: {len(manifest)} clips, but {len(lines)} lines of {kind}"
        for kind, lines in labels_beside(manifest.source).items()
        if len(lines) != len(manifest)
    ]
