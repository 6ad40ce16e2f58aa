"""Tables of transcripts as corpora come with them: two columns, a header, ids, Praat's TextGrid.

A row has a name (a path or an id) and a text. Which clip of a manifest it belongs to is found out by `match`, names
compared in Unicode's composed form: a Mac stores `José.wav` with a mark of its own, keyboards write it without.
"""

from __future__ import annotations

import csv
import os
import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NoReturn

from w2v.data.audio_files import AUDIO_ENDINGS, ending_of
from w2v.data.text_file import read_lines
from w2v.errors import DataError

PATH_COLUMNS = ("path", "file", "file_name", "filename", "audio", "audio_path", "audio_filepath", "wav", "wav_filename")
ID_COLUMNS = ("id", "utt_id", "utt", "utterance_id", "utterance", "segment_id", "clip_id")
TEXT_COLUMNS = (
    *("sentence", "text", "transcript", "transcription", "transcripts", "normalized_text", "raw_transcription"),
    *("words", "label", "labels"),
)
DELIMITERS = "\t,;|"
KIND = "file of transcripts"


@dataclass(frozen=True)
class Row:
    """One line of a table.

    Attributes:
        name: path of a clip, or its id.
        text: as it stands there.
        where: `file:line`.
    """

    name: str
    text: str
    where: str


@dataclass(frozen=True)
class Match:
    """Rows brought together with clips.

    Attributes:
        by_clip: row of each clip; None where it has none.
        unused: names of rows for which there is no clip.
        by_file_name: no path agreed, so file names alone were compared.
    """

    by_clip: list[Row | None]
    unused: list[str]
    by_file_name: bool = False


# ---------------------------------------------------------------------------------------------- tables


def read_table(path: str, *, by_id: bool = False) -> list[Row]:
    """Read a table of transcripts.

    A first line that names its columns is a header: of a table with tabs or `|`, or with commas or semicolons and the
    quotes of CSV; all other columns are left alone. Without a header there must be two columns, path and text, with one
    tab between.

    Args:
        path: the file.
        by_id: names are ids: the column `id`, else that of paths, whose file names are ids; without a header the first
            word of each line (Kaldi's `text`).

    Raises:
        DataError: the file cannot be read, or a line is none of these; named as file:line.
    """
    lines = read_lines(path, KIND)
    filled = next((number for number, line in enumerate(lines) if line.strip()), None)
    if filled is None:
        return []
    first = lines[filled]
    mark = next((mark for mark in DELIMITERS if mark in first and _is_header(_cells_of(first, mark))), None)
    if mark is None and path.lower().endswith(".csv") and "," in first and "\t" not in first:
        mark = ","  # the message says what its first line lacks
    if mark is None:
        return list(_id_lines(path, lines) if by_id else _two_columns(path, lines))
    # Tables with tabs hold quotes as they were spoken, unless all of their cells are in quotes.
    is_plain = mark in "\t|" and not first.startswith('"')
    records = _plain_records(lines, mark) if is_plain else _quoted_records(path, lines, mark)
    return list(_named_columns(path, records, by_id=by_id))


def _cells_of(line: str, mark: str) -> list[str]:
    return next(csv.reader([line], delimiter=mark), [])


def _column(cells: Sequence[str], known: Sequence[str]) -> int | None:
    """Return the first known name's place among the titles of a table."""
    titles = [cell.strip().strip("\"'").lower().replace(" ", "_").replace("-", "_") for cell in cells]
    return next((titles.index(name) for name in known if name in titles), None)


def _is_header(cells: Sequence[str]) -> bool:
    has_name = _column(cells, PATH_COLUMNS) is not None or _column(cells, ID_COLUMNS) is not None
    return has_name and _column(cells, TEXT_COLUMNS) is not None


def _plain_records(lines: Sequence[str], mark: str) -> Iterator[tuple[int, list[str]]]:
    for number, line in enumerate(lines, start=1):
        if line.strip():
            yield number, [_unquoted(cell) for cell in line.split(mark)]


def _unquoted(cell: str) -> str:
    """Return a cell without the quotes that pandas, as Common Voice, puts around one that holds quotes, doubled."""
    inner = cell[1:-1]
    is_quoted = cell.startswith('"') and cell.endswith('"') and '""' in inner and '"' not in inner.replace('""', "")
    return inner.replace('""', '"') if is_quoted else cell


def _quoted_records(path: str, lines: Sequence[str], mark: str) -> Iterator[tuple[int, list[str]]]:
    reader = csv.reader((f"{line}\n" for line in lines), delimiter=mark, strict=True)
    try:
        for cells in reader:
            if cells:
                yield reader.line_num, cells
    except csv.Error as e:
        raise DataError(f"{path}:{reader.line_num}: is no CSV: {e}") from e


def _named_columns(path: str, records: Iterator[tuple[int, list[str]]], *, by_id: bool) -> Iterator[Row]:
    number, titles = next(records)
    known, flag = ((*ID_COLUMNS, *PATH_COLUMNS), " of ids") if by_id else (PATH_COLUMNS, " of paths")
    name, text = _column(titles, known), _column(titles, TEXT_COLUMNS)
    if name is None or text is None:
        lacking, names = (flag, known) if name is None else (" of texts", TEXT_COLUMNS)
        other = "; --by-id reads ids" if name is None and not by_id and _column(titles, ID_COLUMNS) is not None else ""
        raise DataError(
            f"{path}:{number}: the header names no column{lacking} ({', '.join(names[:5])} ...){other}, "
            f"got {', '.join(titles)[:200]}"
        )
    twice = [title for title in (titles[name], titles[text]) if titles.count(title) > 1]
    if twice:
        raise DataError(f"{path}:{number}: the header names the column {twice[0].strip()!r} twice; rename one of them")
    for number, cells in records:
        if len(cells) != len(titles):
            raise DataError(f"{path}:{number}: must have the {len(titles)} columns of its header, got {len(cells)}")
        yield Row(cells[name].strip(), cells[text], f"{path}:{number}")


def _two_columns(path: str, lines: Sequence[str]) -> Iterator[Row]:
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        cells = line.split("\t")
        if len(cells) != 2:
            _refuse_columns(path, number, line, len(cells))
        yield Row(cells[0].strip(), cells[1], f"{path}:{number}")


def _refuse_columns(path: str, number: int, line: str, count: int) -> NoReturn:
    mark = next((mark for mark in DELIMITERS[1:] if mark in line), None)
    hint = "more columns need a header such as `path TAB text`"
    if count == 1 and line.startswith("{"):
        hint = "of lines of JSON a table is made by jq -r '[.audio_filepath, .text] | @tsv'"
    elif count == 1:
        hint = "lines of `id text` go with --by-id"
        hint += f", columns parted by {mark!r} need a header such as `path{mark}text`" if mark is not None else ""
    raise DataError(f"{path}:{number}: must be path TAB TEXT, got {count} columns in {line[:200]!r}; {hint}")


def _id_lines(path: str, lines: Sequence[str]) -> Iterator[Row]:
    for number, line in enumerate(lines, start=1):
        name, _, text = line.strip().replace("\t", " ", 1).partition(" ")
        if "|" in name:
            raise DataError(
                f"{path}:{number}: must be an id, a space and a text, got {line[:200]!r}; columns parted by '|' need a "
                "header such as `id|text`"
            )
        if name:
            yield Row(name, text, f"{path}:{number}")


# ---------------------------------------------------------------------------------------------- matching


def match(rows: Iterable[Row], names: Sequence[str], root: str, *, by_id: bool = False) -> Match:
    """Find the row of each clip.

    Args:
        rows: the table.
        names: paths of the clips, relative to `root`.
        root: folder of the manifest; absolute paths inside of it are taken as relative ones.
        by_id: names of rows are ids, which are file names without their ending (or paths without it).

    Raises:
        DataError: a name has two different texts, or, by id, stands for two clips.
    """
    if not any("\\" in name for name in names):  # a table from Windows
        rows = [replace(row, name=row.name.replace("\\", "/")) for row in rows]
    if by_id:
        return _pair(by_name(rows, clip_id), _ids(names))
    table = by_name(rows, lambda name: _relative(name, root))
    found = _pair(table, [_key(name) for name in names])
    if any(row is not None for row in found.by_clip):
        return found
    # Common Voice names files of its folder `clips`, others the folders of another machine.
    files = [_key(os.path.basename(name)) for name in names]
    if len(set(files)) == len(files):
        short = Counter(os.path.basename(name) for name in table)
        found = _pair({os.path.basename(name): row for name, row in table.items()}, files)
        if max(short.values(), default=0) == 1 and any(row is not None for row in found.by_clip):
            return Match(found.by_clip, found.unused, by_file_name=True)
    return _pair(table, [_key(name) for name in names])


def clip_id(name: str) -> str:
    """Return the name under which ids and clips are compared: without folders and the ending of an audio file."""
    file = _key(os.path.basename(name))
    return os.path.splitext(file)[0] if ending_of(file) in AUDIO_ENDINGS else file


def _ids(names: Sequence[str]) -> list[str]:
    ids = [clip_id(name) for name in names]
    twice = next((name for name, count in Counter(ids).items() if count > 1), None)
    if twice is not None:
        both = [name for name, short in zip(names, ids, strict=True) if short == twice][:2]
        raise DataError(f"--by-id: the clips {both[0]} and {both[1]} have the same id {twice!r}; match them by path")
    return ids


def _key(name: str) -> str:
    return unicodedata.normalize("NFC", os.path.normpath(name))


def _relative(name: str, root: str) -> str:
    if os.path.isabs(name):
        for folder in (root, os.path.realpath(root)):
            if os.path.normpath(name).startswith(os.path.normpath(folder) + os.sep):
                return _key(os.path.relpath(name, folder))
    return _key(name)


def by_name(rows: Iterable[Row], key: Callable[[str], str]) -> dict[str, Row]:
    """Return rows by the key of their names.

    Raises:
        DataError: a row has no name, or two of one name have different texts.
    """
    table: dict[str, Row] = {}
    for row in rows:
        if not row.name.strip():
            raise DataError(f"{row.where}: has no path")
        earlier = table.setdefault(key(row.name), row)
        if earlier.text.split() != row.text.split():
            raise DataError(f"{row.where}: {row.name!r} has another text in {earlier.where}")
    return table


def _pair(table: dict[str, Row], keys: Sequence[str]) -> Match:
    used = set(keys)
    return Match([table.get(key) for key in keys], [row.name for key, row in table.items() if key not in used])


# ---------------------------------------------------------------------------------------------- TextGrids


_TOKEN = re.compile(r'"((?:[^"]|"")*)"|(?<![\w\[.])([-+]?\d+(?:\.\d+)?(?:[eE][-+]?\d+)?)(?![\w\]])')


def read_textgrid(path: str, tier: str | None = None) -> list[tuple[float, float, str]]:
    """Read the intervals that have a text from one tier of a TextGrid, in its long or its short form.

    Args:
        path: the file, UTF-8 or UTF-16.
        tier: its name; None: the only tier of intervals, or the one called `words`, `text` or `sentence`.

    Returns:
        start and end in seconds, and text, in the order of the file.

    Raises:
        DataError: the file cannot be read, is no TextGrid, or has no such tier.
    """
    try:
        content = Path(path).read_bytes()
        text = content.decode("utf-16" if content[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig")
    except OSError as e:
        raise DataError(f"cannot read the TextGrid {path}: {e.strerror or e}") from e
    except UnicodeDecodeError as e:
        raise DataError(f"{path}: is no TextGrid in UTF-8 or UTF-16") from e
    try:
        tiers = _tiers(text)
    except (ValueError, IndexError, StopIteration) as e:
        raise DataError(f"{path}: is no TextGrid, or one that is cut short") from e
    name = tier or next((known for known in ("words", "text", "sentence") if known in tiers and len(tiers) > 1), None)
    if name is None and len(tiers) == 1:
        name = next(iter(tiers))
    if name not in tiers:
        wanted = "several tiers of intervals; choose one" if tier is None else f"no tier of intervals {tier!r}"
        raise DataError(f"{path}: has {wanted} with --textgrid NAME, got {', '.join(tiers) or 'none'}")
    return [(start, end, words) for start, end, words in tiers[name] if words.strip()]


def _tiers(text: str) -> dict[str, list[tuple[float, float, str]]]:
    # Both forms hold the same texts and numbers in the same order; names, `=` and numbers in brackets are left out.
    found = [quoted.replace('""', '"') if number == "" else float(number) for quoted, number in _TOKEN.findall(text)]
    items = iter(found)
    if next(items) != "ooTextFile" or next(items) != "TextGrid":
        raise ValueError
    next(items), next(items)  # from, to
    tiers: dict[str, list[tuple[float, float, str]]] = {}
    for _ in range(int(_number(next(items)))):
        kind, name = str(next(items)), str(next(items))
        next(items), next(items)
        size = int(_number(next(items)))
        if kind == "IntervalTier":
            tiers[name] = [(_number(next(items)), _number(next(items)), str(next(items))) for _ in range(size)]
        else:  # points: a time and a mark
            for _ in range(2 * size):
                next(items)
    return tiers


def _number(item: str | float) -> float:
    if isinstance(item, str):
        raise ValueError
    return item
