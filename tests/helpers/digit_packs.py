"""The packs of real digits that the examples read, in small."""

from __future__ import annotations

from pathlib import Path


def link_few_clips(data: Path, folder: Path) -> Path:
    """Make `folder`, with links to eight clips of each pack of digits and four of read speech; return it.

    The other folders that examples need are linked whole.
    """
    for pack in ("digits_train", "digits_valid_seen", "digits_valid_unseen"):
        lines = (data / pack / "transcripts.tsv").read_text(encoding="utf-8").splitlines()[:8]
        for line in lines:
            path = folder / pack / line.split("\t")[0]
            path.parent.mkdir(parents=True, exist_ok=True)
            path.symlink_to((data / pack / line.split("\t")[0]).resolve())
        (folder / pack / "transcripts.tsv").write_text("\n".join([*lines, ""]), encoding="utf-8")
    for pack in ("libri_extra", "libri_train"):
        paths = sorted(path for path in (data / pack).rglob("*") if path.suffix in (".flac", ".ogg"))[:4]
        for path in paths:
            link = folder / pack / path.relative_to(data / pack)
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to(path.resolve())
    for whole in ("fsdd16k", "tools"):
        (folder / whole).symlink_to((data / whole).resolve())
    return folder
