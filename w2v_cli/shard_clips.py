"""The clips of a split as they are found in shards, and the files that list them."""

from __future__ import annotations

import os
from collections import Counter
from dataclasses import dataclass, field, replace
from pathlib import Path

from w2v.data.audio_time import audio_time
from w2v.data.manifest import read_identities, write_manifest
from w2v.files import write_atomically
from w2v.shards.store import Identity, ShardStore
from w2v_cli.shard_listing import Found as FoundInShard


@dataclass(frozen=True)
class Found:
    """What was found out about one file.

    Attributes:
        samples: length at the rate at which the file will be read.
        seconds: duration.
        reason: why it cannot be used; empty where it can.
    """

    samples: int = 0
    seconds: float = 0.0
    reason: str = ""


@dataclass
class Clips:
    """Clips of one split.

    Attributes:
        names, sizes: as in a manifest.
        labels: lines of our own shards, by clip.
        texts: what others say is spoken.
        shards: what the shards are.
        seconds: durations.
        counts: name without ending -> how many clips had it so far.
    """

    names: list[str] = field(default_factory=list)
    sizes: list[int] = field(default_factory=list)
    labels: list[dict[str, str]] = field(default_factory=list)
    texts: list[tuple[str, str | None]] = field(default_factory=list)
    shards: dict[str, Identity] = field(default_factory=dict)
    seconds: list[float] = field(default_factory=list)
    counts: dict[str, int] = field(default_factory=dict, repr=False)

    def add(self, clip: FoundInShard, found: Found) -> None:
        """Take a clip, under a name that no other has."""
        place = replace(clip.place, key=self._free_name(clip.place.key))
        self.names.append(place.name())
        self.sizes.append(found.samples)
        self.labels.append(clip.labels)
        self.texts.append((place.title, clip.text))
        self.seconds.append(found.seconds)

    def _free_name(self, name: str) -> str:
        """Return a name with a number where it is taken; what programs write of a clip is called by its name."""
        stem, ending = os.path.splitext(name)
        free = stem
        while name and free in self.counts:
            self.counts[stem] += 1
            free = f"{stem}-{self.counts[stem]}"
        self.counts[free] = 1
        return free + ending

    def close_shard(self, name: str, store: ShardStore) -> None:
        """Note what a shard is from which clips may have come."""
        file = store.file(name)
        self.shards[name] = Identity(file.size or 0, file.tag)

    def write(self, folder: Path, split: str, root: str) -> str:
        """Write manifest, list of shards and labels; return what is to be said."""
        kinds = Counter(kind for labels in self.labels for kind in labels)
        kept = [row for row, labels in enumerate(self.labels) if all(kind in labels for kind in kinds)]
        left_out = len(self.names) - len(kept)
        for kind in kinds:
            lines = "".join(f"{self.labels[row][kind]}\n" for row in kept)
            write_atomically(folder / f"{split}.{kind}", lines.encode())
        spoken = [(title, text) for title, text in (self.texts[row] for row in kept) if text is not None]
        if spoken:
            table = "".join(f"{title}\t{text}\n" for title, text in spoken)
            write_atomically(folder / f"{split}.transcripts.tsv", table.encode("utf-8", "surrogateescape"))
        names = [self.names[row] for row in kept]
        write_manifest(folder / f"{split}.tsv", root, names, [self.sizes[row] for row in kept], self.shards)
        also = "".join(f", {split}.{kind}" for kind in kinds) + (f", {split}.transcripts.tsv" if spoken else "")
        note = f" (left out {left_out} without the labels that others have)" if left_out else ""
        length = audio_time(sum(self.seconds[row] for row in kept))
        num_shards = len(read_identities(folder / f"{split}.tsv"))
        return f"{split}.tsv{also}: {len(kept)} clips in {num_shards} shards, {length}{note}"
