"""`w2v-labels`: write the letters and words of every clip of a manifest, line by line.

Texts come from LibriSpeech's `*.trans.txt` files beside the audio, as in the original's `libri_labels.py`, from a table
of paths or ids, or from stretches of recordings (Kaldi's `segments`, Praat's TextGrids). Line i of every file written
belongs to clip i of the manifest, always.
"""

from __future__ import annotations

import functools
import os
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from w2v.config import ArgumentParser, arg, build_config
from w2v.data.dictionary import Dictionary, write_dictionary
from w2v.data.kaldi import KaldiFolder, Segment, find_kaldi, read_kaldi, read_segments
from w2v.data.manifest import Manifest, read_manifest, write_manifest
from w2v.data.symbols import Cleaning, TextCleaner, symbol_notes, symbol_table
from w2v.data.text_file import id_and_value, read_lines
from w2v.data.transcripts import Columns, Row, by_name, clip_id, match, read_table, read_textgrid
from w2v.errors import ConfigError, DataError, listed
from w2v.files import make_folder, write_atomically
from w2v_cli.main import run

PROGRAM = "w2v-labels"
TEXTGRID = ("TextGrid", "textgrid", "TEXTGRID")  # endings
MOST_SYMBOLS = 80  # rows of the table that is printed


@dataclass(frozen=True)
class LabelsConfig:
    """Where texts come from, and where labels go."""

    tsv: str = arg(help="manifest whose clips get labels, such as DATA/train.tsv", positional=True)
    output_dir: str = arg(help="folder to write to; made where it is missing")
    output_name: str = arg(help="name of the split: writes NAME.ltr and NAME.wrd")
    transcripts: str | None = arg(
        None,
        help="table of texts: `path TAB text`, or tabs or commas with a header that names columns such as path and "
        "sentence; or a data directory of Kaldi (default: LibriSpeech's *.trans.txt files beside the audio)",
    )
    by_id: bool = arg(
        False, help="names in --transcripts are ids, not paths: file names without ending; `id text` as in Kaldi"
    )
    text_column: str | None = arg(
        None, help="column of texts in --transcripts, by its title, or by its number from 1 where there are no titles"
    )
    path_column: str | None = arg(
        None, help="column of paths, or of ids, in the same way (default: known titles, or the first)"
    )
    segments: str | None = arg(
        None, help="Kaldi's segments: clips are stretches of the manifest's recordings; texts by id", metavar="FILE"
    )
    textgrid: str | None = arg(
        None, help="clips are the intervals of this tier of the TextGrid beside each recording", metavar="TIER"
    )
    dict: bool = arg(False, help="also write dict.ltr.txt, the letters of these texts by falling count")
    lower: bool = arg(False, help="lower case")
    upper: bool = arg(False, help="upper case")
    nfc: bool = arg(False, help="join letters and their marks (Unicode's composed form)")
    strip_punctuation: bool = arg(
        False, help="leave punctuation out; apostrophes stay within words, dashes and slashes part them"
    )
    allow_outside_root: bool = arg(False, help="take clips that a manifest names by absolute paths or with `..`")
    drop_missing: bool = arg(
        False, help="leave out clips without text, and write NAME.tsv without them to the output folder"
    )

    def __post_init__(self) -> None:
        if self.lower and self.upper:
            raise ConfigError("--lower and --upper exclude each other; give one of them")
        if self.segments and self.textgrid:
            raise ConfigError("--segments and --textgrid exclude each other; give one of them")
        if self.transcripts and find_kaldi(self.transcripts) is not None:
            if self.segments:
                raise ConfigError("--segments and a data directory of Kaldi exclude each other, which has its segments")
            if self.columns != Columns():
                raise ConfigError("--text-column and --path-column are for tables; a data directory of Kaldi has none")
        if self.segments and not self.transcripts:
            raise ConfigError("--segments needs --transcripts, a table of utterance ids and texts")
        if (self.text_column or self.path_column) and not self.transcripts:
            raise ConfigError(
                "--text-column and --path-column choose columns of --transcripts, a table; give that, too"
            )
        if self.textgrid and self.transcripts:
            raise ConfigError("--textgrid and --transcripts exclude each other: the intervals hold the texts")

    @property
    def columns(self) -> Columns:
        """Which columns of the table are read."""
        return Columns(self.path_column, self.text_column)

    @property
    def cleaning(self) -> Cleaning:
        """What is done to each text."""
        return Cleaning(self.lower, self.upper, self.nfc, self.strip_punctuation)


@dataclass
class Clips:
    """Clips and what was said in them.

    Attributes:
        names, sizes: as in a manifest.
        texts: row of a table for each clip; None where there is no text.
        unused: names of texts for which there is no clip.
        is_new: the clips are not those of the manifest, so a manifest must be written.
        notes: what else is to be said.
    """

    names: list[str] = field(default_factory=list)
    sizes: list[int] = field(default_factory=list)
    texts: list[Row | None] = field(default_factory=list)
    unused: list[str] = field(default_factory=list)
    is_new: bool = False
    notes: list[str] = field(default_factory=list)

    def add(self, name: str, size: int, text: Row | None) -> None:
        """Add one clip."""
        self.names.append(name)
        self.sizes.append(size)
        self.texts.append(text)


def main(argv: Sequence[str] | None = None) -> int:
    """Run `w2v-labels`."""
    return run(lambda: _write(_parse(argv)))


def _parse(argv: Sequence[str] | None) -> LabelsConfig:
    parser = ArgumentParser(prog=PROGRAM, description="Write the letters and words of every clip of a manifest.")
    parser.add_config(LabelsConfig, "options")
    return build_config(LabelsConfig, parser.parse(sys.argv[1:] if argv is None else argv), PROGRAM)


def _write(config: LabelsConfig) -> int:
    manifest = read_manifest(config.tsv, allow_outside_root=config.allow_outside_root)
    clips = find_clips(config, manifest)
    cleaner = TextCleaner(config.cleaning)
    # An empty text is none: a model learns nothing from a clip whose only label is a word boundary.
    words = [cleaner.clean(row.text, row.where) or None if row is not None else None for row in clips.texts]
    cleaner.check_forms()
    missing = [name for name, text in zip(clips.names, words, strict=True) if text is None]
    if len(missing) == len(words):
        raise DataError(_nothing_fits(config, manifest, clips))
    if missing and not config.drop_missing:
        unused = f" ({len(clips.unused)} texts have no clip: {listed(clips.unused)})" if clips.unused else ""
        # Without them the manifest is another one, which must not take the place of this one.
        apart = ", with another --output-dir or --output-name" if _is_input(config, Path(config.output_dir)) else ""
        raise DataError(
            f"{config.tsv}: {len(missing)} of {len(words)} clips have no text: {listed(missing)}{unused}; "
            f"--drop-missing leaves them out{apart}"
        )
    writes_manifest = bool(missing) or clips.is_new
    folder = _output_folder(config, writes_manifest=writes_manifest)
    kept = [row for row, text in enumerate(words) if text is not None]
    texts = [text for text in words if text is not None]
    letters = [spell(text) for text in texts]
    counts = Counter(symbol for line in letters for symbol in line.split())
    notes = _dictionary(config, folder, counts)
    if writes_manifest or (config.drop_missing and not _is_input(config, folder)):
        names, sizes = [clips.names[row] for row in kept], [clips.sizes[row] for row in kept]
        write_manifest(folder / f"{config.output_name}.tsv", manifest.root, names, sizes, manifest.identities)
    write_atomically(folder / f"{config.output_name}.wrd", _lines(texts))
    write_atomically(folder / f"{config.output_name}.ltr", _lines(letters))
    print(_summary(config, clips, missing, len(texts)))
    print("\n".join([*clips.notes, *notes, *symbol_notes(counts, cleaner), *_table(counts)]), flush=True)
    return 0


def spell(words: str) -> str:
    """Return the letters of words separated by spaces; `|` ends each word."""
    return " ".join(words.replace(" ", "|")) + " |"


# ---------------------------------------------------------------------------------------------- clips and texts


def find_clips(config: LabelsConfig, manifest: Manifest) -> Clips:
    """Find what was said in each clip of a manifest, or the clips in its recordings.

    Raises:
        DataError: a table cannot be read, or names and clips do not fit.
    """
    if config.segments:
        return _clips_of_segments(config, manifest)
    if config.textgrid:
        return _clips_of_textgrids(config.textgrid, manifest)
    kaldi_folder = find_kaldi(config.transcripts) if config.transcripts else None
    if kaldi_folder is not None:
        return _clips_of_kaldi(read_kaldi(kaldi_folder), manifest)
    names = [manifest.name(row) for row in range(len(manifest))]
    titles = [manifest.title(row) for row in range(len(manifest))]
    notes: list[str] = []
    if config.transcripts:
        table = read_table(config.transcripts, by_id=config.by_id, columns=config.columns)
        found = match(table.rows, titles, manifest.root, by_id=config.by_id)
        notes = [table.columns] if table.columns else []
    else:
        found = match(read_librispeech(manifest), [_librispeech_id(name) for name in names], manifest.root)
    if found.by_file_name:
        notes.append("no path agreed with the manifest's: texts were found by file name alone")
    return Clips(names, manifest.sizes.tolist(), found.by_clip, found.unused, notes=notes)


def read_librispeech(manifest: Manifest) -> list[Row]:
    """Read `{speaker}-{chapter}.trans.txt` from the folder of every clip, as the original does.

    A clip's id is its file name up to the first dot. Differs from the original: a missing file or line is no
    assertion but a clip without text.

    Raises:
        DataError: a file of transcripts cannot be read.
    """
    rows = []
    folders = dict.fromkeys(os.path.dirname(manifest.name(row)) for row in range(len(manifest)))
    for folder in folders:
        place = os.path.join(manifest.root, folder) if folder else manifest.root
        parts = os.path.normpath(place).split(os.sep)
        path = os.path.join(place, f"{'-'.join(parts[-2:])}.trans.txt")
        if not os.path.exists(path):
            continue
        for number, line in enumerate(read_lines(path, "file of transcripts"), start=1):
            name, text = id_and_value(line)
            if name:
                rows.append(Row(os.path.join(folder, name), text, f"{path}:{number}"))
    return rows


def _librispeech_id(name: str) -> str:
    folder, file = os.path.split(name)
    return os.path.join(folder, file.split(".")[0])


def _clips_of_segments(config: LabelsConfig, manifest: Manifest) -> Clips:
    table = read_table(str(config.transcripts), by_id=True, columns=config.columns)
    texts = by_name(table.rows, str)
    recordings = {clip_id(manifest.title(row)): row for row in range(len(manifest))}
    clips = Clips(is_new=True, notes=[table.columns] if table.columns else [])
    segments = read_segments(str(config.segments))
    clip_of = _namer_of_clips(manifest)
    for segment in segments:
        row = recordings.get(clip_id(segment.recording))
        if row is None:
            raise DataError(
                f"{segment.where}: no recording of {config.tsv} is called {segment.recording!r}, as the first one is "
                f"{clip_id(manifest.name(0))!r}"
            )
        name, size = clip_of(row, segment)
        clips.add(name, size, texts.get(segment.name))
    used = {segment.name for segment in segments}
    clips.unused = [name for name in texts if name not in used]
    return clips


def _clips_of_kaldi(folder: KaldiFolder, manifest: Manifest) -> Clips:
    """Find the texts of clips that `w2v-manifest` has listed of a data directory, by the ids that they have there."""
    texts = by_name(read_table(folder.texts, by_id=True).rows, str)
    ids = _ids_of_clips(folder)
    clips = Clips(sizes=manifest.sizes.tolist())
    used = set()
    for row in range(len(manifest)):
        source, start, frames = manifest.stretch(row)
        name = ids.get((os.path.realpath(source), start, frames)) if isinstance(source, str) else None
        clips.names.append(manifest.name(row))
        clips.texts.append(texts.get(name) if name is not None else None)
        used.add(name)
    if used == {None}:
        raise DataError(
            f"{folder.path}: has no utterance that is a clip of the manifest, as the first one is "
            f"{manifest.name(0)!r}; list them by w2v-manifest {folder.path}"
        )
    clips.unused = [name for name in texts if name not in used]
    return clips


def _ids_of_clips(folder: KaldiFolder) -> dict[tuple[str, int | None, int | None], str]:
    """Return the id of each utterance by its file, its first sample and its samples; None: the whole file."""
    from w2v.data.audio import audio_info

    if folder.segments is None:
        return {(os.path.realpath(path), None, None): name for name, path in folder.recordings.items()}
    found: dict[tuple[str, int | None, int | None], str] = {}
    for path, segments in folder.segments.items():
        with suppress(DataError):  # w2v-manifest has listed none of its segments either, and said why
            info, source = audio_info(path), os.path.realpath(path)
            for segment in segments:
                with suppress(DataError):  # or not this one
                    first, count = segment.samples(info.frames, info.sample_rate, path)
                    found[source, first, count] = segment.name
    return found


def _clips_of_textgrids(tier: str, manifest: Manifest) -> Clips:
    clips, lacking, clip_of = Clips(is_new=True), [], _namer_of_clips(manifest)
    for row in range(len(manifest)):
        stem = os.path.splitext(manifest.path(row))[0]
        path = next((f"{stem}.{ending}" for ending in TEXTGRID if os.path.exists(f"{stem}.{ending}")), None)
        if path is None:
            lacking.append(manifest.name(row))
            continue
        for start, end, text in read_textgrid(path, tier):
            name, size = clip_of(row, Segment("", "", start, end, path))
            clips.add(name, size, Row(name, text, f"{path} at {start:g} s"))
    if lacking:
        clips.notes.append(f"{len(lacking)} recordings have no TextGrid beside them: {listed(lacking)}")
    return clips


def _namer_of_clips(manifest: Manifest) -> Callable[[int, Segment], tuple[str, int]]:
    """Return what gives name and samples of a stretch of a recording by its row, whose header is read once."""
    from w2v.data.audio import audio_info

    header = functools.cache(lambda row: audio_info(manifest.source_of(row)))

    def clip_of(row: int, segment: Segment) -> tuple[str, int]:
        info = header(row)
        return segment.clip(manifest.name(row), info.frames, info.sample_rate, int(manifest.sizes[row]))

    return clip_of


# ---------------------------------------------------------------------------------------------- files and words


def _output_folder(config: LabelsConfig, *, writes_manifest: bool) -> Path:
    folder = Path(config.output_dir)
    if writes_manifest and _is_input(config, folder):
        raise DataError(
            f"{folder / config.output_name}.tsv: is the manifest that is read, and would be overwritten by one with "
            "fewer clips; give another --output-dir or --output-name"
        )
    make_folder(folder, "--output-dir")
    return folder


def _is_input(config: LabelsConfig, folder: Path) -> bool:
    """Whether the manifest that would be written is the one that is read."""
    target = folder / f"{config.output_name}.tsv"
    return target.exists() and target.samefile(config.tsv)


def _dictionary(config: LabelsConfig, folder: Path, counts: Counter[str]) -> list[str]:
    """Write the dictionary, or compare the labels with the one that is there; return what is to be said.

    Raises:
        DataError: another dictionary is there, which models may depend on.
    """
    path = folder / "dict.ltr.txt"
    if not path.exists():
        if config.dict:
            write_dictionary(path, counts)
        return []
    there = Dictionary.from_file(path)
    lacking = sorted(symbol for symbol in counts if symbol not in there)
    surplus = [symbol for symbol in there.symbols[4:] if symbol not in counts]
    if config.dict and (lacking or surplus):
        found = f"lacks {lacking[0]!r}" if lacking else f"also holds {surplus[0]!r}"
        raise DataError(
            f"--dict: {path} is there and {found}; models that were trained with it need it: leave --dict out, give "
            "another --output-dir, or move it away"
        )
    if config.dict:
        return [f"{path.name}: is there with the same symbols, and stays as it is"]
    return [f"{path.name}: lacks {listed(list(map(repr, lacking)))}, which will be <unk>"] if lacking else []


def _nothing_fits(config: LabelsConfig, manifest: Manifest, clips: Clips) -> str:
    clip = f"the first clip of {config.tsv} is {manifest.name(0)!r}"
    if config.textgrid:
        return f"no interval of a TextGrid beside the recordings has a text in tier {config.textgrid!r} ({clip})"
    if config.transcripts is None:
        return f"no clip has a text in a *.trans.txt file beside it ({clip}); give texts with --transcripts"
    if not clips.unused:
        return f"{config.transcripts}: holds no texts for the clips of {config.tsv}"
    by_id = config.by_id or config.segments
    kind = "id" if by_id else "path"
    folder = os.path.dirname(config.transcripts) or "."
    if find_kaldi(folder) is not None:
        return (
            f"{config.transcripts}: no {kind} in it is one of the manifest's; for clips of Kaldi's wav.scp give the "
            f"directory: --transcripts {folder}"
        )
    hint = "; where ids stand in the place of paths, or paths end in another kind of audio, give --by-id"
    return (
        f"{config.transcripts}: no {kind} in it is one of the manifest's: {clip}, the first {kind} "
        f"{clips.unused[0]!r}{'' if by_id else hint}"
    )


def _summary(config: LabelsConfig, clips: Clips, missing: list[str], count: int) -> str:
    name = config.output_name
    parts = [f"{name}.ltr, {name}.wrd: {count} lines"]
    if missing:
        parts.append(f"{name}.tsv: without {len(missing)} clips that have no text: {listed(missing)}")
    elif clips.is_new:
        parts.append(f"{name}.tsv: {count} stretches of recordings")
    if clips.unused:
        parts.append(f"{len(clips.unused)} texts have no clip in {config.tsv}: {listed(clips.unused)}")
    return "; ".join(parts)


def _table(counts: Counter[str]) -> list[str]:
    rows = symbol_table(counts)
    more = [f"... and {len(rows) - MOST_SYMBOLS} more"] if len(rows) > MOST_SYMBOLS else []
    return [f"{len(rows)} symbols, each an output of the model:", *rows[:MOST_SYMBOLS], *more]


def _lines(lines: list[str]) -> bytes:
    return "".join(f"{line}\n" for line in lines).encode()


if __name__ == "__main__":
    sys.exit(main())
