"""Reference and hypothesis one above the other, word by word, as sclite prints them (`--print-alignment`)."""

from __future__ import annotations

from collections.abc import Sequence

from w2v.functional.edit_distance import align


def alignment_lines(reference: Sequence[str], hypothesis: Sequence[str]) -> list[str]:
    """Return the counts and the three lines of one sentence.

    Substitutions, deletions and insertions are marked S, D and I below; a word without a partner stands above or
    below stars. Differs from sclite, which also writes wrong words in upper and right ones in lower case.

    Args:
        reference: the words that were said.
        hypothesis: the words that were read.
    """
    columns: list[tuple[str, str, str]] = []
    for i, j in align(reference, hypothesis):
        said, read = "" if i is None else reference[i], "" if j is None else hypothesis[j]
        mark = "I" if i is None else "D" if j is None else "S" if said != read else ""
        stars = "*" * max(len(said), len(read))
        columns.append((said if i is not None else stars, read if j is not None else stars, mark))
    marks = [mark for _, _, mark in columns]
    kinds = " ".join(str(marks.count(kind)) for kind in ("", "S", "D", "I"))
    lines = [f"Scores: (#C #S #D #I) {kinds}"]
    for row, title in enumerate(("REF:  ", "HYP:  ", "Eval: ")):
        cells = [column[row].ljust(max(map(len, column))) for column in columns]
        lines.append((title + " ".join(cells)).rstrip())
    return lines
