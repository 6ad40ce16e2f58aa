"""Tables of transcripts as corpora come with them: two columns, a header, ids, Praat's TextGrid.

A row has a name (a path or an id) and a text. Which clip of a manifest it belongs to is found out by `match`, names
compared in Unicode's composed form: a Mac stores `José.wav` with a mark of its own, keyboards write it without.
"""

from __future__ import annotations

import csv
import itertools
import os
import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NoReturn

from w2v.data.audio_files import AUDIO_ENDINGS, ending_of
from w2v.data.text_file import id_and_value, read_lines
from w2v.errors import DataError, listed

PATH_COLUMNS = ("path", "file", "file_name", "filename", "audio", "audio_path", "audio_filepath", "wav", "wav_filename")
ID_COLUMNS = ("id", "utt_id", "utt", "utterance_id", "utterance", "segment_id", "clip_id")
TEXT_COLUMNS = (
    *("sentence", "text", "transcript", "transcription", "transcripts", "normalized_text", "normalized_transcript"),
    *("raw_text", "raw_transcript", "raw_transcription"),
)
OTHER_TEXT_COLUMNS = ("words", "label", "labels")  # which may also be counts or classes: where none of those is there
DELIMITERS = "\t,;|"
KIND = "file of transcripts"
JSON_HINT = "of lines of JSON a table is made by jq -r '[.audio_filepath, .text] | @tsv', of a list by .[] | before it"


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
class Columns:
    """Which columns of a table are read, by title, or by number from 1; None: titles that are known.

    Attributes:
        name: of paths or ids.
        text: of texts.
    """

    name: str | None = None
    text: str | None = None

    @property
    def largest(self) -> int:
        """The largest number among them; 0: there is none."""
        return max(int(column) if column is not None and column.isdecimal() else 0 for column in (self.name, self.text))


@dataclass(frozen=True)
class Table:
    """Rows, and which columns they were read from; empty where there were no titles."""

    rows: list[Row]
    columns: str = ""


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


def read_table(path: str, *, by_id: bool = False, columns: Columns = Columns()) -> Table:
    """Read a table of transcripts.

    A first line that names its columns is a header: of a table with tabs or `|`, or with commas or semicolons and the
    quotes of CSV; all other columns are left alone. Without a header there must be two columns, path and text, with one
    tab between, or the number of the column of texts is given.

    Args:
        path: the file.
        by_id: names are ids: the column `id`, else that of paths, whose file names are ids; without a header the first
            word of each line (Kaldi's `text`).
        columns: the columns chosen.

    Raises:
        DataError: the file cannot be read, or a line is none of these; named as file:line.
    """
    lines = read_lines(path, KIND)
    if lines and re.fullmatch(r'"?sep=."?', lines[0]):  # Excel's own, before the titles
        lines[0] = ""
    filled = next((number for number, line in enumerate(lines) if line.strip()), None)
    if filled is None:
        return Table([])
    first = lines[filled]
    marks = [mark for mark in DELIMITERS if mark in first]
    mark = next((mark for mark in marks if _is_header(_cells_of(first, mark), columns)), None)
    has_titles = mark is not None
    if mark is None and columns.largest:
        mark = next((mark for mark in marks if len(_cells_of(first, mark)) >= columns.largest), None)
    if mark is None and path.lower().endswith(".csv") and "," in first and "\t" not in first:
        mark, has_titles = ",", True  # the message says what its first line lacks
    if mark is None and columns != Columns():
        _refuse_choice(f"{path}:{filled + 1}", first, marks, columns)
    if mark is None and not by_id and first.startswith('"') and "\t" in first:
        mark, columns = "\t", Columns("1", "2")  # two columns, each cell in quotes
    if mark is None:
        return Table(list(_id_lines(path, lines) if by_id else _two_columns(path, lines)))
    # Tables with tabs hold quotes as they were spoken, unless all of their cells are in quotes.
    is_plain = mark in "\t|" and not first.startswith('"')
    records = _plain_records(lines, mark) if is_plain else _quoted_records(path, lines, mark)
    if not has_titles:
        return Table(list(_numbered_columns(path, records, columns)))
    return _named_columns(path, records, columns, by_id=by_id)


def _cells_of(line: str, mark: str) -> list[str]:
    try:
        return next(csv.reader([line], delimiter=mark), [])
    except csv.Error:  # a carriage return in it, or a cell longer than the module takes
        return line.split(mark)


def _title(cell: str) -> str:
    return cell.strip().lstrip("#").strip("\"' ").lower().replace(" ", "_").replace("-", "_")


def _known(cells: Sequence[str], *groups: Sequence[str]) -> list[int]:
    """Return the places of titles that one group knows, the first group that knows any."""
    found = ([place for place, cell in enumerate(cells) if _title(cell) in group] for group in groups)
    return next(filter(None, found), [])


def _chosen(cells: Sequence[str], column: str) -> int | None:
    """Return the place of a column that was chosen by title or number; None: there is none."""
    if column.isdecimal():
        return int(column) - 1 if 1 <= int(column) <= len(cells) else None
    exact = [place for place, cell in enumerate(cells) if cell.strip() == column]
    return next(iter(exact or _known(cells, (_title(column),))), None)


def _is_header(cells: Sequence[str], columns: Columns) -> bool:
    """Whether the cells of a first line are titles: those that are chosen, and known ones of the rest."""
    known = {"name": bool(_known(cells, PATH_COLUMNS, ID_COLUMNS)),
             "text": bool(_known(cells, TEXT_COLUMNS, OTHER_TEXT_COLUMNS))}  # fmt: skip
    found = []
    for kind, chosen in (("name", columns.name), ("text", columns.text)):
        if chosen is None:
            found.append(known[kind])
        elif not chosen.isdecimal():
            found.append(_chosen(cells, chosen) is not None)
    return all(found or known.values())


def _refuse_choice(where: str, first: str, marks: Sequence[str], columns: Columns) -> NoReturn:
    """Name the columns that were chosen and that a first line lacks, by the mark that leaves the fewest of them."""
    flags = (("--path-column", columns.name), ("--text-column", columns.text))
    chosen = [(flag, name) for flag, name in flags if name is not None]
    lines = [_cells_of(first, mark) for mark in marks] or [[first]]
    wrong = min(([f"{name!r} ({flag})" for flag, name in chosen if _chosen(cells, name) is None] for cells in lines),
                key=len)  # fmt: skip
    raise DataError(f"{where}: has no column {' and no column '.join(wrong)} beside others, got {first[:200]!r}")


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


@dataclass(frozen=True)
class _Wanted:
    """A column of a table with titles: the one that was chosen with `flag`, or else one of a known title."""

    what: str
    flag: str
    chosen: str | None
    kinds: tuple[Sequence[str], ...]

    def places(self, titles: Sequence[str]) -> list[int]:
        """Return where it may be."""
        if self.chosen is None:
            return _known(titles, *self.kinds)
        place = _chosen(titles, self.chosen)
        return [] if place is None else [place]


def _named_columns(path: str, records: Iterator[tuple[int, list[str]]], columns: Columns, *, by_id: bool) -> Table:
    number, titles = next(records)
    what, kinds = ("ids", (ID_COLUMNS, PATH_COLUMNS)) if by_id else ("paths", (PATH_COLUMNS,))
    wanted = (
        _Wanted(what, "--path-column", columns.name, kinds),
        _Wanted("texts", "--text-column", columns.text, (TEXT_COLUMNS, OTHER_TEXT_COLUMNS)),
    )
    _check_titles(f"{path}:{number}", titles, wanted)
    name, text = (_only(f"{path}:{number}", titles, column) for column in wanted)
    rows = list(_rows(path, records, name, text, len(titles), "its header"))
    rest = [title.strip() for place, title in enumerate(titles) if title.strip() and place not in (name, text)]
    others = f"; not read: {listed(rest, 8)}" if rest else ""
    said = (
        f"{path}: {what} are read from its column {titles[name].strip()!r}, texts from {titles[text].strip()!r}{others}"
    )
    return Table(rows, said)


def _check_titles(where: str, titles: Sequence[str], wanted: Sequence[_Wanted]) -> None:
    """Check that a header has the columns wanted; all that it lacks are named."""
    shown = ", ".join(title.strip() for title in titles)[:200]
    lacking = [column for column in wanted if not column.places(titles)]
    wrong = [f"{column.flag} {column.chosen}" for column in lacking if column.chosen is not None]
    if wrong:
        raise DataError(f"{where}: {', '.join(wrong)}: the header names no such column, got {shown}")
    if lacking:
        names = [f"{c.what} ({', '.join([name for kind in c.kinds for name in kind][:5])} ...)" for c in lacking]
        other = "; --by-id reads ids" if lacking[0].kinds == (PATH_COLUMNS,) and _known(titles, ID_COLUMNS) else ""
        raise DataError(
            f"{where}: the header names no column of {' and none of '.join(names)}, got {shown}{other}; w2v-labels "
            f"{' and '.join(c.flag for c in lacking)} {'take' if len(lacking) > 1 else 'takes'} another title, or a "
            "number where there are no titles"
        )


def _only(where: str, titles: Sequence[str], column: _Wanted) -> int:
    """Return the place of a column that the titles have."""
    found = column.places(titles)
    title = titles[found[0]]
    if titles.count(title) > 1:
        raise DataError(f"{where}: the header names the column {title.strip()!r} twice; rename one of them")
    if len(found) > 1:
        several = ", ".join(titles[place].strip() for place in found)
        raise DataError(
            f"{where}: the header names several columns of {column.what}: {several}; choose one with w2v-labels "
            f"{column.flag} NAME"
        )
    return found[0]


def _numbered_columns(path: str, records: Iterator[tuple[int, list[str]]], columns: Columns) -> Iterator[Row]:
    """Yield rows of a table without titles."""
    number, cells = next(records)
    text = _chosen(cells, columns.text or "2")
    name = _chosen(cells, columns.name or "1")
    if text is None or name is None or text == name:
        raise DataError(
            f"{path}:{number}: without a header, --text-column and --path-column (default: 1) must be two numbers from "
            f"1 to {len(cells)}, got {columns.text} and {columns.name or 1}"
        )
    yield from _rows(path, itertools.chain([(number, cells)], records), name, text, len(cells), f"line {number}")


def _rows(
    path: str, records: Iterable[tuple[int, list[str]]], name: int, text: int, width: int, like: str
) -> Iterator[Row]:
    for number, cells in records:
        if len(cells) != width:
            raise DataError(f"{path}:{number}: must have the {width} columns of {like}, got {len(cells)}")
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
    hint = "more columns need a header such as `path TAB text`, or --text-column NUMBER"
    if count == 1 and line.startswith(("{", "[")):
        hint = JSON_HINT
    elif line.startswith("#"):
        hint = "comments are not read: take them out"
    elif "ooTextFile" in line:
        hint = "TextGrids beside the recordings are read by --textgrid TIER"
    elif path.lower().endswith((".srt", ".vtt")):
        hint = "subtitles are not read: give their times as Kaldi's segments (--segments), and their texts by id"
    elif count == 1:
        hint = "lines of `id text` go with --by-id"
        if mark is not None:
            hint += f", columns parted by {mark!r} need a header such as `path{mark}text`, or --text-column NUMBER"
    raise DataError(f"{path}:{number}: must be path TAB TEXT, got {count} columns in {line[:200]!r}; {hint}")


def _id_lines(path: str, lines: Sequence[str]) -> Iterator[Row]:
    for number, line in enumerate(lines, start=1):
        name, text = id_and_value(line)
        if name.startswith('{"'):
            raise DataError(f"{path}:{number}: must be an id, a space and a text, got {line[:200]!r}; {JSON_HINT}")
        if "|" in name:
            raise DataError(
                f"{path}:{number}: must be an id, a space and a text, got {line[:200]!r}; columns parted by '|' need a "
                "header such as `id|text`, or --text-column NUMBER"
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
        raise DataError(
            f"--by-id: the clips {both[0]} and {both[1]} have the same id {twice!r}; match them by path, or clips of "
            "Kaldi's wav.scp by its directory (--transcripts FOLDER)"
        )
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
