"""Label files that a model wrote: what `--write-labels NAME` writes, and what training checks before it uses them.

NAME.tsv, NAME.ltr, NAME.wrd, NAME.conf and NAME.scores.tsv have one line per clip, in one order. NAME.labels.json tells
of the model, of the columns of the scores and of what was left out.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np

from w2v.data.dictionary import SPECIALS, Dictionary
from w2v.data.labels import Labels
from w2v.data.manifest import Manifest, write_manifest
from w2v.data.text_file import read_lines
from w2v.errors import ConfigError, DataError
from w2v.files import write_atomically

COLUMNS = ("path", "confidence", "score", "lm", "agreement", "entropy", "symbols")
SCORES, RECORD = ".scores.tsv", ".labels.json"


@dataclass(frozen=True)
class PseudoLabel:
    """What a model heard in one clip.

    Attributes:
        row: line of the clip in its manifest, from 0.
        units: symbols of the dictionary separated by spaces, as the label file has them.
        words: as the decoder named them.
        confidence: mean over words of the mean over symbols of the mean probability over each symbol's frames.
        score: ln P(units | clip) per symbol, over all alignments.
        lm: log-probability of the words and the end by the language model, per word; None: there is none.
        agreement: of a second model; None: there is none.
        entropy: mean over words of the lowest Tsallis confidence of their frames.
        fault: why no one may train on it; empty: there is nothing wrong.
    """

    row: int
    units: str
    words: str
    confidence: float = 0.0
    score: float = 0.0
    lm: float | None = None
    agreement: float | None = None
    entropy: float = 0.0
    fault: str = ""

    @property
    def num_symbols(self) -> int:
        return len(self.units.split())

    def line(self, path: str) -> str:
        """Return the line of NAME.scores.tsv."""
        values = (self.confidence, self.score, self.lm, self.agreement, self.entropy)
        shown = ["" if value is None else f"{value:.4f}" for value in values]
        return "\t".join([path, *shown, str(self.num_symbols)])


@dataclass(frozen=True)
class Teacher:
    """The model that wrote labels.

    Attributes:
        model: name of its file.
        decoder: `--w2l-decoder`.
        labels: ending of the label file.
        sample_rate: in Hz, at which lengths are counted.
        normalize: whether its clips had zero mean and unit variance; None: not known.
        symbols: its dictionary.
    """

    model: str
    decoder: str
    labels: str
    sample_rate: int
    normalize: bool | None
    symbols: list[str] = field(repr=False)


def prepare_labels(name: Path, teacher: Teacher, source: Manifest) -> None:
    """Look for what would be overwritten or not fit, before anything is computed.

    Raises:
        ConfigError: labels that no model wrote are there, or the folder has another dictionary.
    """
    flag = f"--write-labels {name}"
    if name.is_dir() or not name.name:
        raise ConfigError(f"{flag}: is a folder; name the files in it, such as {name / 'pseudo'}")
    manifest = name.with_name(f"{name.name}.tsv")
    if manifest.exists() and source.source and Path(source.source).exists() and manifest.samefile(source.source):
        raise ConfigError(f"{flag}: {manifest} is the manifest that is read; give another name")
    endings = (".tsv", f".{teacher.labels}", ".wrd")
    found = [path for ending in endings if (path := name.with_name(name.name + ending)).exists()]
    if found and not name.with_name(name.name + RECORD).exists():
        raise ConfigError(f"{flag}: {found[0]} is there and no model wrote it; give another name, or move it away")
    there = name.with_name(f"dict.{teacher.labels}.txt")
    if there.exists():
        difference = set(Dictionary.from_file(there).symbols) ^ set(teacher.symbols)
        if difference:
            raise ConfigError(
                f"{flag}: {there} is another dictionary than that of {teacher.model}: only one of them has "
                f"{min(difference)!r}; give another folder"
            )
    try:
        name.parent.mkdir(parents=True, exist_ok=True)
    except OSError as e:
        raise ConfigError(f"{flag}: cannot make the folder: {e.strerror or e}") from e


def write_labels(
    name: Path, manifest: Manifest, kept: Sequence[PseudoLabel], teacher: Teacher, report: dict[str, object]
) -> None:
    """Write the files of clips that were kept, and the dictionary where the folder has none.

    Args:
        name: path of the files without their endings.
        manifest: that the rows are lines of.
        kept: in manifest order.
        teacher: who wrote them.
        report: what else the record tells.

    Raises:
        DataError: a file cannot be written.
    """

    def write(ending: str, lines: Sequence[str]) -> None:
        content = "".join(f"{line}\n" for line in lines)
        write_atomically(name.with_name(name.name + ending), content.encode("utf-8", "surrogateescape"))

    names = [manifest.name(label.row) for label in kept]
    there = name.with_name(f"dict.{teacher.labels}.txt")
    if not there.exists():
        marked = [f"{symbol} 1{' #fairseq:overwrite' if symbol in SPECIALS else ''}" for symbol in teacher.symbols[4:]]
        write_atomically(there, "".join(f"{line}\n" for line in marked).encode())
    # The record first: where it is, training compares what else there is, so that files of two runs are told apart.
    record = {**asdict(teacher), "columns": COLUMNS, "clips": len(kept), **report}
    write(RECORD, [json.dumps(record, ensure_ascii=False, indent=1)])
    sizes = [int(manifest.sizes[label.row]) for label in kept]
    write_manifest(name.with_name(f"{name.name}.tsv"), manifest.root, names, sizes, manifest.identities)
    write(f".{teacher.labels}", [label.units for label in kept])
    write(".wrd", [label.words for label in kept])
    write(".conf", [f"{label.confidence:.4f}" for label in kept])
    write(SCORES, [label.line(path) for label, path in zip(kept, names, strict=True)])


def check_labels(
    name: Path, manifest: Manifest, labels: Labels, dictionary: Dictionary, *, sample_rate: int, normalize: bool
) -> None:
    """Compare labels with what is told of the model that wrote them; labels that people wrote are left alone.

    Args:
        name: path of the files without their endings.
        manifest: NAME.tsv.
        labels: of the label file.
        dictionary: that of the training.
        sample_rate: that of the training, in Hz.
        normalize: `--normalize` of the training.

    Raises:
        DataError: the first line that does not fit, or the rule that teacher and student do not share.
    """
    record = name.with_name(name.name + RECORD)
    if not record.exists():
        return
    try:
        found = json.loads(record.read_text(encoding="utf-8"))
        theirs = (int(found["sample_rate"]), found["normalize"], set(map(str, found["symbols"])))
    except (OSError, ValueError, KeyError, TypeError) as e:
        raise DataError(f"{record}: does not tell of the model that wrote the labels; write them anew") from e
    rate, normalized, symbols = theirs
    anyway = f"; to train on them nevertheless, remove {record}"
    if rate != sample_rate:
        raise DataError(
            f"{record}: the labels are those of a model of {rate} Hz, --sample-rate is {sample_rate}{anyway}"
        )
    if normalized not in (None, normalize):
        how = "with" if normalized else "without"
        raise DataError(f"{record}: the labels are those of a model {how} --normalize, unlike this training{anyway}")
    difference = symbols ^ set(dictionary.symbols)
    if difference:
        raise DataError(
            f"{record}: the labels are those of a model with another dictionary: only one of them has "
            f"{min(difference)!r}{anyway}"
        )
    unknown = np.flatnonzero(labels.ids == dictionary.unk)
    if len(unknown):
        line = int(np.searchsorted(labels.offsets, unknown[0], "right"))
        raise DataError(
            f"{labels.source}:{line}: holds a symbol that is not in the dictionary: {min(labels.unknown)!r}"
        )
    _compare_lines(name.with_name(name.name + SCORES), manifest, labels)


def _compare_lines(path: Path, manifest: Manifest, labels: Labels) -> None:
    lines = read_lines(path, "scores of labels")
    counts = np.diff(labels.offsets).tolist()
    hint = f"; write the labels anew, or remove {path.name.removesuffix(SCORES)}{RECORD} where you changed them by hand"
    for row, line in enumerate(lines[: len(manifest)]):
        name, *_, count = line.split("\t")
        if name != manifest.name(row):
            raise DataError(f"{path}:{row + 1}: is of {name}, but {manifest.line(row)} is {manifest.name(row)}{hint}")
        if count != str(counts[row]):
            raise DataError(
                f"{labels.source}:{row + 1}: has {counts[row]} symbols, but {path.name} tells of {count}: labels are "
                f"shifted against their clips{hint}"
            )
    if len(lines) != len(manifest):
        raise DataError(f"{path}: has {len(lines)} lines, but its manifest lists {len(manifest)} clips{hint}")
