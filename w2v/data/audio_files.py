"""The audio files of a folder and all its folders, and what is left out of them: nothing disappears without a word."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from w2v.errors import listed

# The one table, in lower case and without dots: what libsndfile reads, then what PyAV adds (`w2v.data.media_file`). Raw
# samples have no header and are none of them.
SNDFILE_ENDINGS = (
    *("flac", "wav", "ogg", "oga", "opus", "mp3", "aif", "aiff", "aifc", "au", "snd", "caf", "w64", "rf64", "sph"),
    *("nist", "voc", "mp1", "mp2"),
)
MEDIA_ENDINGS = (
    *("m4a", "m4b", "mp4", "m4v", "mov", "3gp", "aac", "mka", "mkv", "webm", "wma", "wmv", "asf", "amr", "ac3", "ape"),
    *("wv", "tta", "flv", "avi", "ts", "mpg", "mpeg"),
)
AUDIO_ENDINGS = (*SNDFILE_ENDINGS, *MEDIA_ENDINGS)
NAMED = 3


@dataclass
class Listing:
    """Files found below a folder.

    Attributes:
        files: full paths, in the order of the walk.
        left_out: reason -> paths relative to the folder.
    """

    files: list[str] = field(default_factory=list)
    left_out: dict[str, list[str]] = field(default_factory=dict)

    def report(self) -> list[str]:
        """Return one line for each reason, with the number of files and some of their names."""
        lines = []
        for reason, names in self.left_out.items():
            shown = _endings(names) if reason == OTHER else listed(names, NAMED)
            lines.append(f"left out {len(names)} {reason}: {shown}")
        return lines


OTHER = "files with other endings"
HIDDEN = "hidden files and folders"
DANGLING = "links that lead nowhere"
UPWARDS = "links that lead back up"
CLOSED = "folders that cannot be read"
NO_FILE = "pipes and devices"


def list_audio(root: str, extensions: Sequence[str] | None) -> Listing:
    """Find the files below `root` whose names end in one of the extensions, in any case.

    The order is that of `glob`, which the original uses; a link is listed under its own name, and one that leads back
    up is not followed.

    Args:
        root: the folder.
        extensions: without the dot; files come in the order of the extensions. None: all kinds of audio, in one walk.
    """
    listing = Listing()
    wanted = [e.lower().lstrip(".") for e in extensions] if extensions is not None else list(AUDIO_ENDINGS)
    paths = list(_walk(root, root, (), listing))
    kinds = [ending_of(path) for path in paths]
    rank = {ending: place for place, ending in enumerate(dict.fromkeys(wanted))}
    # A file called `x.tar.flac` may be asked for by `tar.flac`, as the original's glob allows.
    compound = [ending for ending in rank if "." in ending]
    chosen = []
    for place, (path, kind) in enumerate(zip(paths, kinds)):
        kind = next((c for c in compound if path.lower().endswith(f".{c}")), kind)
        if kind in rank:
            chosen.append((rank[kind] if extensions is not None else 0, place, path))
        else:
            _leave_out(listing, OTHER, root, path)
    listing.files = [path for _, _, path in sorted(chosen)]
    return listing


def ending_of(path: str) -> str:
    """Return the ending of a name as it stands in the table."""
    return os.path.splitext(path)[1].lower().lstrip(".")


def _walk(folder: str, root: str, above: tuple[str, ...], listing: Listing) -> Iterator[str]:
    """Yield the files below a folder that are not hidden; note down everything else."""
    try:
        with os.scandir(folder) as found:
            entries = list(found)
    except OSError as e:
        _leave_out(listing, CLOSED, root, folder, f" ({e.strerror or e})")
        return
    for entry in entries:
        if entry.name.startswith("."):
            _leave_out(listing, HIDDEN, root, entry.path)
    entries = [entry for entry in entries if not entry.name.startswith(".")]
    # Only links are looked at again; os.path, because a link to itself is an error for an entry.
    links = {entry.path for entry in entries if entry.is_symlink()}
    folders = []
    for entry in entries:
        path, is_link = entry.path, entry.path in links
        if os.path.isfile(path) if is_link else entry.is_file():
            yield path
        elif os.path.isdir(path) if is_link else entry.is_dir():
            folders.append(path)
        else:
            _leave_out(listing, DANGLING if is_link and not os.path.exists(path) else NO_FILE, root, path)
    above = (*above, os.path.realpath(folder))
    for path in folders:
        if path in links and os.path.realpath(path) in above:
            _leave_out(listing, UPWARDS, root, path)
        else:
            yield from _walk(path, root, above, listing)


def _leave_out(listing: Listing, reason: str, root: str, path: str, note: str = "") -> None:
    listing.left_out.setdefault(reason, []).append(os.path.relpath(path, root) + note)


def _endings(names: list[str]) -> str:
    counts = Counter(f".{ending_of(name)}" if ending_of(name) else "no ending" for name in names)
    shown = [f"{count} {ending}" for ending, count in counts.most_common(6)]
    return ", ".join(shown) + (" and others" if len(counts) > 6 else "")
