"""`w2v-infer compare`: whether one of two result folders has fewer errors, or chance explains the difference.

Both folders must hold transcripts of the same clips. Sentences are drawn with replacement, the same ones of both
(Bisani and Ney 2004): what makes a sentence hard is common to both systems, so that their difference is known far
better than either rate.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from w2v.config import ArgumentParser, arg, build_config, check_range
from w2v.data.text_file import read_lines
from w2v.errors import ConfigError, DataError
from w2v.rng import numpy_generator
from w2v.scoring import SCORERS, ErrorRateScorer, ScorerConfig, build_scorer
from w2v.scoring.bootstrap import bootstrap_rates, interval

CONFIDENCE = 0.95
_LINE = re.compile(r"(.*?) ?\(None-(\d+)\)")
Texts = dict[int, str]


@dataclass(frozen=True)
class CompareConfig(ScorerConfig):
    """Which transcripts are compared, and how."""

    first: str | None = arg(None, help="result folder (--results-path) of one system", positional=True)
    second: str | None = arg(None, help="result folder of the other one", positional=True)
    gen_subset: str | None = arg(None, help="subset, where a folder holds several")
    scoring: str = arg("wer", help="which error rate: wer or cer")
    bootstrap: int = arg(10000, help="drawings of sentences")
    seed: int = arg(1, help="of the drawings")

    def __post_init__(self) -> None:
        check_range(self, 1, math.inf, "bootstrap")
        if self.first is None or self.second is None:
            raise ConfigError("w2v-infer compare needs two result folders")
        if not issubclass(SCORERS.get(self.scoring).cls, ErrorRateScorer):
            raise ConfigError(f"--scoring must be wer or cer here, got {self.scoring!r}")


def compare(argv: Sequence[str]) -> int:
    """Print both error rates, their difference, and how sure it is.

    Raises:
        W2vError: a folder holds no transcripts, or they are not of the same clips.
    """
    parser = ArgumentParser(prog="w2v-infer compare", description="Compare the errors of two result folders.")
    parser.add_config(CompareConfig, "comparison")
    config = build_config(CompareConfig, parser.parse(argv), "w2v-infer compare")
    folders = [Path(str(config.first)), Path(str(config.second))]
    references = [read_texts(folder, "ref.word", config.gen_subset) for folder in folders]
    written = [read_texts(folder, "hypo.word", config.gen_subset) for folder in folders]
    rows = _same_clips(folders, references, written)
    scorers = [_score(config, references[0], texts, rows) for texts in written]
    print("\n".join(report(config, folders, scorers)))
    return 0


def read_texts(folder: Path, kind: str, subset: str | None) -> Texts:
    """Return the transcripts of a folder by line of the manifest, those of all shards together.

    Args:
        folder: a result folder.
        kind: `hypo.word` or `ref.word`.
        subset: what the names of the files must end in; None: there is but one.

    Raises:
        DataError: there is no such file, there are several, or a line is of another form.
    """
    ending = "*" if subset is None else f"*-{subset}"
    files = sorted(folder.glob(f"*{kind}-{ending}.txt"))
    suffixes = {path.name.partition(f"{kind}-")[2] for path in files}
    if not files:
        raise DataError(f"{folder}: holds no {kind}-{ending}.txt, which w2v-infer --results-path writes with labels")
    if len(suffixes) > 1:
        raise DataError(f"{folder}: holds several ({', '.join(sorted(suffixes)[:3])}); choose one with --gen-subset")
    texts: Texts = {}
    for path in files:
        for number, line in enumerate(read_lines(path, "file of transcripts"), start=1):
            found = _LINE.fullmatch(line)
            if found is None:
                raise DataError(f"{path}:{number}: must end in (None-ROW), got {line[-40:]!r}")
            texts[int(found[2])] = found[1]
    return texts


def report(config: CompareConfig, folders: Sequence[Path], scorers: Sequence[ErrorRateScorer]) -> Iterator[str]:
    """Yield the lines of the comparison."""
    first, second = scorers
    for folder, scorer in zip(folders, scorers, strict=True):
        yield f"{folder}: {scorer.summary()}"
    more = np.subtract(second.errors, first.errors)
    # Rates have the same denominator in each drawing, so the difference of rates is the rate of the difference.
    drawn = bootstrap_rates(more.tolist(), first.lengths, config.bootstrap, numpy_generator(config.seed, "bootstrap"))
    low, high = interval(drawn, CONFIDENCE)
    difference = second.score() - first.score()
    bounds = f"{CONFIDENCE:.0%} interval {low:+.2f} to {high:+.2f}"
    yield f"difference, second less first: {difference:+.2f} % absolute, {bounds}"
    better, worse, equal = (int(found.sum()) for found in (more < 0, more > 0, more == 0))
    yield (
        f"sentences: second better in {better}, worse in {worse}, equal in {equal}; "
        f"second better in {float((drawn < 0).mean()):.1%} of {config.bootstrap} drawings"
    )
    if low <= 0 <= high:
        yield "chance may explain the difference"
    else:
        yield f"the {'second' if difference < 0 else 'first'} is better: the interval does not hold 0"


def _same_clips(folders: Sequence[Path], references: Sequence[Texts], written: Sequence[Texts]) -> list[int]:
    """Return the lines of the manifest, which must be the same, with the same references."""
    rows = sorted(references[0])
    for folder, theirs, texts in zip(folders, references, written, strict=True):
        if sorted(theirs) != rows or sorted(texts) != rows:
            raise DataError(f"{folder}: {len(texts)} transcripts of other clips than the {len(rows)} of {folders[0]}")
        other = next((row for row in rows if theirs[row] != references[0][row]), None)
        if other is not None:
            raise DataError(
                f"{folder}: the reference of clip {other} is {theirs[other][:60]!r}, in {folders[0]} it is "
                f"{references[0][other][:60]!r}: other labels or another subset"
            )
    return rows


def _score(config: CompareConfig, references: Texts, texts: Texts, rows: Sequence[int]) -> ErrorRateScorer:
    scorer = build_scorer(config.scoring, config)
    assert isinstance(scorer, ErrorRateScorer)
    for row in rows:
        scorer.add(references[row], texts[row])
    return scorer
