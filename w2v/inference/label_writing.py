"""From hypotheses to labels that a model can be trained on: scores, filters, and what they cost.

Which scores there are, and what they mean: `w2v.data.pseudo_labels.PseudoLabel`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain

import numpy as np

from w2v.data.audio_time import audio_time
from w2v.data.dictionary import Dictionary
from w2v.data.labels import Labels
from w2v.data.pseudo_labels import PseudoLabel
from w2v.data.text import WORD_END
from w2v.functional.edit_distance import edit_distance
from w2v.functional.label_scores import agreement, ctc_log_likelihoods, loops, tsallis_confidence
from w2v.inference.word_times import WordTime, word_times
from w2v.types import Emissions, FloatArray, Hypothesis, IntArray

UNREADABLE, EMPTY = "unreadable", "nothing was heard"
FOREIGN, TOO_LONG = "symbols that are no labels", "more symbols than frames"
NUM_THRESHOLDS = 10


def label_units(tokens: Sequence[int], dictionary: Dictionary) -> str:
    """Return the symbols of a label file: where the dictionary has `|`, one after each word and none elsewhere."""
    symbols = [dictionary.symbols[token] for token in tokens]
    if WORD_END not in dictionary:
        return " ".join(symbols)
    words = " ".join(symbols).split(WORD_END)
    return " ".join(f"{word.strip()} {WORD_END}" for word in words if word.strip())


def score_labels(
    batch: Emissions,
    by_clip: Sequence[Sequence[Hypothesis]],
    dictionary: Dictionary,
    symbol: str,
    seconds: Sequence[str] | None = None,
) -> list[PseudoLabel]:
    """Return what a model heard in the clips of a batch, with scores.

    Args:
        batch: log-probabilities.
        by_clip: hypotheses of each clip, best first.
        dictionary: the symbols.
        symbol: `--post-process`.
        seconds: what a second model heard in each clip.
    """
    best = [hypotheses[0] for hypotheses in by_clip]
    units = [label_units(hypothesis.tokens, dictionary) for hypothesis in best]
    encoded = [dictionary.encode(text) for text in units]
    offsets = np.cumsum([0, *map(len, encoded)], dtype=np.int64)
    needed = Labels(np.fromiter(chain.from_iterable(encoded), dtype=np.int32), offsets).frames_needed()
    likelihoods = ctc_log_likelihoods(batch.log_probs, batch.lengths, encoded)
    found = []
    for place, (row, hypothesis) in enumerate(zip(batch.rows, best, strict=True)):
        words, ids = " ".join(hypothesis.words), encoded[place]
        fault = ""
        if not batch.num_samples[place]:
            fault = UNREADABLE
        elif not hypothesis.words or not ids:
            fault = EMPTY
        elif min(ids) <= Dictionary.unk or any(word in dictionary.symbols[:4] for word in hypothesis.words):
            fault = FOREIGN  # a blank, padding, an end or an unknown symbol: no label file may hold them
        elif needed[place] > int(batch.lengths[place]):
            fault = TOO_LONG
        if fault:
            found.append(PseudoLabel(row, units[place], words, fault=fault))
            continue
        times = word_times(hypothesis, batch.clip(place), dictionary, symbol)
        lm = hypothesis.scores.get("lm")
        label = PseudoLabel(
            row, units[place], words,
            confidence=float(np.mean([time.confidence for time in times])),
            score=likelihoods[place] / len(ids),
            lm=None if lm is None else lm / (len(hypothesis.words) + 1),  # the end of the sentence is one more
            agreement=None if seconds is None else agreement(words, seconds[place]),
            entropy=_entropy(times, batch.clip(place).numpy()),
        )  # fmt: skip
        found.append(label)
    return found


def _entropy(times: Sequence[WordTime], log_probs: FloatArray) -> float:
    """Return the mean over words of the lowest Tsallis confidence in the frames of their symbols."""
    sure = tsallis_confidence(np.exp(log_probs))
    lowest = []
    for time in times:
        spans = [(s.start, s.end) for s in time.symbols] or [(time.start, time.end)]
        lowest.append(min((float(sure[a:b].min()) for a, b in spans if b > a), default=0.0))
    return float(np.mean(lowest)) if lowest else 0.0


# ---------------------------------------------------------------------------------------------- filters


@dataclass(frozen=True)
class Filters:
    """Which labels are kept; None: any.

    Attributes:
        confidence, score, agreement, lm: least values.
        loops: most often that a sequence of four words may occur.
    """

    confidence: float | None = None
    score: float | None = None
    agreement: float | None = None
    lm: float | None = None
    loops: int | None = None

    def reason(self, label: PseudoLabel) -> str:
        """Return why a label is left out; empty: it is kept."""
        if label.fault:
            return label.fault
        if self.loops is not None and loops(label.words.split()) > self.loops:
            return f"above --max-loops {self.loops}"
        for flag, least, value in (
            ("confidence", self.confidence, label.confidence),
            ("score", self.score, label.score),
            ("agreement", self.agreement, label.agreement),
            ("lm-score", self.lm, label.lm),
        ):
            if least is not None and (value is None or not value >= least):
                return f"below --min-{flag} {least:g}"
        return ""


@dataclass(frozen=True)
class Selection:
    """Labels that are kept, and why others are not.

    Attributes:
        kept: in manifest order.
        seconds: of the clips that are kept.
        total: seconds of all clips.
        dropped: reason -> clips and seconds.
        characters: of the texts that are kept, spaces included.
    """

    kept: list[PseudoLabel]
    seconds: float
    total: float
    dropped: dict[str, tuple[int, float]]
    characters: int

    @property
    def rate(self) -> float:
        """Characters per second of what is kept."""
        return self.characters / self.seconds if self.seconds else 0.0

    def lines(self) -> Iterator[str]:
        """Yield the report."""
        num = len(self.kept) + sum(clips for clips, _ in self.dropped.values())
        share = 100 * self.seconds / self.total if self.total else 0.0
        yield (
            f"kept {len(self.kept)} of {num} clips, {audio_time(self.seconds)} of {audio_time(self.total)} "
            f"({share:.1f} %), {self.rate:.2f} characters per second"
        )
        for reason, (clips, seconds) in sorted(self.dropped.items(), key=lambda item: -item[1][1]):
            yield f"left out {clips} clips, {audio_time(seconds)}: {reason}"

    def plain(self) -> dict[str, object]:
        """Return the report as plain data."""
        return {
            "hours": round(self.seconds / 3600, 5),
            "of_hours": round(self.total / 3600, 5),
            "characters_per_second": round(self.rate, 4),
            "left_out": {
                reason: {"clips": clips, "hours": round(seconds / 3600, 5)}
                for reason, (clips, seconds) in self.dropped.items()
            },
        }


def select(labels: Sequence[PseudoLabel], filters: Filters, seconds_of: Callable[[int], float]) -> Selection:
    """Return which labels are kept.

    Args:
        labels: one per clip.
        filters: least scores.
        seconds_of: length of the clip at a line of the manifest.
    """
    kept: list[PseudoLabel] = []
    dropped: dict[str, tuple[int, float]] = {}
    total = seconds = 0.0
    for label in sorted(labels, key=lambda label: label.row):
        length = seconds_of(label.row)
        total += length
        reason = filters.reason(label)
        if reason:
            clips, before = dropped.get(reason, (0, 0.0))
            dropped[reason] = (clips + 1, before + length)
        else:
            kept.append(label)
            seconds += length
    return Selection(kept, seconds, total, dropped, sum(len(label.words) for label in kept))


# ---------------------------------------------------------------------------------------------- calibration


@dataclass(frozen=True)
class Threshold:
    """One line of a calibration table.

    Attributes:
        least: value of the score.
        share: of the seconds of all clips, those that are kept.
        wer: errors per hundred words of what is kept.
    """

    least: float
    share: float
    wer: float


def calibrate(
    values: Sequence[float | None], errors: IntArray, words: IntArray, seconds: FloatArray
) -> list[Threshold]:
    """Return what is kept, and how good it is, at ten thresholds of a score: its deciles.

    Args:
        values: score of each clip; None: it cannot be kept.
        errors: (N,) wrong words of each clip.
        words: (N,) words of each reference.
        seconds: (N,) length of each clip.
    """
    known = np.array([-math.inf if value is None else value for value in values])
    usable = np.sort(known[np.isfinite(known)])
    if not len(usable):
        return []
    # Rounded down to what is printed, so that the printed number keeps what its line says.
    places = [len(usable) * number // NUM_THRESHOLDS for number in range(NUM_THRESHOLDS)]
    found = []
    for least in np.floor(usable[places] * 1e4) / 1e4:
        keep = known >= least
        wer = 100 * errors[keep].sum() / max(int(words[keep].sum()), 1)
        found.append(Threshold(float(least), float(seconds[keep].sum() / max(seconds.sum(), 1e-9)), float(wer)))
    return found


def calibration_lines(
    labels: Sequence[PseudoLabel], references: Sequence[str], seconds: Sequence[float], filters: Filters
) -> Iterator[str]:
    """Yield tables of word error rate and share kept, one for each score that there is.

    Args:
        labels: of labelled clips.
        references: what was said in them.
        seconds: their lengths.
        filters: those of the command line, whose effect is told at the end.
    """
    pairs = [(label.words.split(), reference.split()) for label, reference in zip(labels, references, strict=True)]
    errors = np.array([edit_distance(reference, words) for words, reference in pairs])
    counts, lengths = np.array([len(reference) for _, reference in pairs]), np.array(seconds)
    yield f"{len(labels)} clips, {counts.sum()} words: WER {100 * errors.sum() / max(int(counts.sum()), 1):.2f} %"
    for name, flag in (
        ("confidence", "--min-confidence"), ("score", "--min-score"), ("agreement", "--min-agreement MODEL@"),
        ("lm", "--min-lm-score"), ("entropy", "column entropy"),
    ):  # fmt: skip
        table = calibrate([None if label.fault else getattr(label, name) for label in labels], errors, counts, lengths)
        if table:
            yield f"{flag:>22}    kept      WER"
            yield from (f"{row.least:22.4f} {100 * row.share:6.1f} % {row.wer:6.2f} %" for row in table)
    if filters != Filters():
        keep = np.array([not filters.reason(label) for label in labels], dtype=bool)
        wer, share = 100 * errors[keep].sum() / max(int(counts[keep].sum()), 1), lengths[keep].sum() / lengths.sum()
        yield f"with the filters given: kept {100 * share:.1f} %, WER {wer:.2f} %"
