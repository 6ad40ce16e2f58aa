"""The clips of a split as they are found in shards, and the files that list them."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from w2v.data.manifest import shards_path, write_manifest
from w2v.files import write_atomically
from w2v.shards.store import ShardStore
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
        shards: lines about the shards.
        seconds: duration of all clips.
    """

    names: list[str] = field(default_factory=list)
    sizes: list[int] = field(default_factory=list)
    labels: list[dict[str, str]] = field(default_factory=list)
    texts: list[tuple[str, str | None]] = field(default_factory=list)
    shards: list[str] = field(default_factory=list)
    seconds: float = 0.0
    _closed: int = 0

    def add(self, clip: FoundInShard, found: Found) -> None:
        """Take a clip."""
        self.names.append(clip.place.name())
        self.sizes.append(found.samples)
        self.labels.append(clip.labels)
        self.texts.append((clip.place.title, clip.text))
        self.seconds += found.seconds

    def close_shard(self, name: str, store: ShardStore) -> None:
        """Note what the shard is from which clips have come."""
        count = len(self.names) - self._closed
        if count:
            file = store.file(name)
            tag = f"\t{file.tag}" if file.tag else ""
            self.shards.append(f"{name}\t{file.size or 0}\t{count}{tag}")
        self._closed = len(self.names)

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
        write_atomically(shards_path(folder / f"{split}.tsv"), "".join(f"{line}\n" for line in self.shards).encode())
        write_manifest(
            folder / f"{split}.tsv", root, [self.names[row] for row in kept], [self.sizes[row] for row in kept]
        )
        also = "".join(f", {split}.{kind}" for kind in kinds) + (f", {split}.transcripts.tsv" if spoken else "")
        note = f" (left out {left_out} without the labels that others have)" if left_out else ""
        return (
            f"{split}.tsv{also}: {len(kept)} clips in {len(self.shards)} shards, {self.seconds / 3600:.2f} hours{note}"
        )
