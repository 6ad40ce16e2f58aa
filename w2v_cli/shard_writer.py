"""Packs the clips of a manifest into tar shards, and writes the manifest that names them there.

The same clips give the same bytes. A shard gets its name when it is whole; the same command after a kill reads the
shards that are there and writes the others.
"""

from __future__ import annotations

import io
import os
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from w2v.data.manifest import Manifest, write_manifest
from w2v.errors import DataError
from w2v.files import write_atomically
from w2v.files.atomic import atomic_path
from w2v.shards.member import Member, Place, Source
from w2v.shards.store import Identity
from w2v.shards.tar_file import header, padding, read_files, trailer

RECORD = ".w2v-manifest.shards"  # in the folder while it is being written: what its shards are made of
LABELS = ("ltr", "wrd", "phn", "km", "txt")
MOST_DIGITS = 6


@dataclass(frozen=True)
class Clip:
    """What is written of a clip.

    Attributes:
        key: its name without ending.
        kind: the ending.
        source: the audio.
        start, frames: the stretch of it that is the clip; None: all of it.
        samples: length by the manifest.
        labels: ending -> line.
    """

    key: str
    kind: str
    source: Source
    start: int | None
    frames: int | None
    samples: int
    labels: Mapping[str, str]


def labels_beside(manifest: str) -> dict[str, list[str]]:
    """Return the label files of a manifest, by their endings.

    Raises:
        DataError: one cannot be read.
    """
    from w2v.data.text_file import read_lines

    stem = manifest.removesuffix(".gz").removesuffix(".tsv")
    return {kind: read_lines(f"{stem}.{kind}", "labels") for kind in LABELS if os.path.isfile(f"{stem}.{kind}")}


def write_shards(
    manifest: Manifest, labels: Mapping[str, Sequence[str]], folder: Path, dest: Path, split: str, shard_bytes: int
) -> int:
    """Write `folder/SPLIT-000000.tar` and on, then manifest and labels to `dest`; return the number of shards.

    Args:
        manifest: the clips, which may lie in shards themselves.
        labels: ending -> one line per clip.
        folder: where the shards go.
        dest: where the manifest goes.
        split: name of the manifest and beginning of the shards' names.
        shard_bytes: a shard is closed before it would become larger; a clip that is larger has its own.

    Raises:
        DataError: a clip cannot be read, or a file cannot be written.
    """
    clips = list(_clips(manifest, labels))
    record = folder / f"{RECORD}-{split}"
    text = "\n".join([str(shard_bytes), *(f"{clip.key}.{clip.kind}\t{clip.samples}" for clip in clips)])
    mark = f"{zlib.crc32(os.fsencode(text)):08x} {len(clips)}\n".encode()
    resumes = record.is_file() and record.read_bytes() == mark
    write_atomically(record, mark)
    names: list[str] = []
    shards: dict[str, Identity] = {}
    while len(names) < len(clips):
        path = folder / f"{split}-{len(shards):0{MOST_DIGITS}d}.tar"
        left = clips[len(names) :]
        places = _read_back(path, left) if resumes else None
        if places is None:
            resumes = False  # what comes behind is of another time
            places = _write_shard(path, left, shard_bytes)
        names += [place.name() for place in places]
        shards[path.name] = Identity(path.stat().st_size)
    for kind, lines in labels.items():
        write_atomically(dest / f"{split}.{kind}", "".join(f"{line}\n" for line in lines).encode())
    write_manifest(dest / f"{split}.tsv", os.path.realpath(folder), names, [clip.samples for clip in clips], shards)
    record.unlink()
    return len(shards)


def _clips(manifest: Manifest, labels: Mapping[str, Sequence[str]]) -> Iterator[Clip]:
    taken: set[str] = set()
    for row in range(len(manifest)):
        source, start, frames = manifest.stretch(row)
        name = source.place.title if isinstance(source, Member) else os.path.relpath(str(source), manifest.root)
        key, kind = _key(name)
        key += "" if start is None else f"-{start}"
        # Names that differ in their dots alone.
        number, free = 2, key
        while free in taken:
            number, free = number + 1, f"{key}-{number}"
        taken.add(free)
        lines = {name: column[row] for name, column in labels.items()}
        yield Clip(free, kind, source, start, frames, int(manifest.sizes[row]), lines)


def _key(name: str) -> tuple[str, str]:
    """Return a name that WebDataset reads as key and field: without dots in the key, below no other folder."""
    parts = [part for part in name.split(os.sep) if part not in ("", ".", "..")]
    stem, ending = os.path.splitext(parts[-1])
    stem = stem.lstrip(".").replace(".", "_") or "clip"
    return "/".join([*parts[:-1], "-" + stem if stem.startswith("__") else stem]), ending.lower().lstrip(".") or "wav"


def _content(clip: Clip) -> bytes:
    """Return the bytes of a clip: those of its file, or its samples as they are there, as WAV."""
    source = clip.source.load() if isinstance(clip.source, Member) else clip.source
    try:
        content = Path(source).read_bytes() if isinstance(source, str) else source.content
    except OSError as e:
        raise DataError(f"{source}: cannot be read: {e.strerror or e}") from e
    if clip.start is None:
        return content
    import soundfile

    try:
        with soundfile.SoundFile(io.BytesIO(content)) as file:
            file.seek(clip.start)
            samples = file.read(clip.frames, dtype="int32" if file.subtype.startswith("PCM_") else "float64")
            subtype = file.subtype if file.subtype in soundfile.available_subtypes("WAV") else "FLOAT"
            result = io.BytesIO()
            soundfile.write(result, samples, file.samplerate, format="WAV", subtype=subtype)
    except (soundfile.LibsndfileError, ValueError) as e:
        raise DataError(f"{source}: not readable as audio: {e}") from e
    return result.getvalue()


def _files(clip: Clip) -> list[tuple[str, bytes]]:
    kind = clip.kind if clip.start is None else "wav"
    content = [(f"{clip.key}.{kind}", _content(clip))]
    return content + [(f"{clip.key}.{name}", f"{line}\n".encode()) for name, line in clip.labels.items()]


def _write_shard(path: Path, clips: Sequence[Clip], shard_bytes: int) -> list[Place]:
    places: list[Place] = []
    size = 0
    try:
        with atomic_path(path) as part, open(part, "wb") as file:
            for clip in clips:
                parts, first = [], 0
                for number, (name, content) in enumerate(_files(clip)):
                    head = header(name, len(content))
                    if number == 0:
                        first = size + len(head)
                        place = Place(path.name, first, len(content), zlib.crc32(content), name)
                    parts += [head, content, padding(len(content))]
                added = sum(map(len, parts))
                if places and size + added + len(trailer(size + added)) > shard_bytes:
                    break
                file.writelines(parts)
                size += added
                places.append(place)
            file.write(trailer(size))
    except OSError as e:
        raise DataError(f"cannot write {path}: {e.strerror or e}") from e
    return places


def _read_back(path: Path, clips: Sequence[Clip]) -> list[Place] | None:
    """Return where clips lie in a shard that an earlier run has written; None: it has not, or other ones."""
    if not path.is_file():
        return None
    found: list[Place] = []
    try:
        with open(path, "rb") as stream:
            wanted = iter(clips)
            clip = next(wanted, None)
            for file in read_files(stream, str(path)):
                if clip is not None and file.name.startswith(f"{clip.key}."):
                    if not any(file.name == f"{clip.key}.{kind}" for kind in clip.labels):
                        found.append(Place(path.name, file.offset, len(file.content), file.crc, file.name))
                        clip = next(wanted, None)
                elif not found:
                    return None
    except (OSError, DataError):
        return None
    return found or None
