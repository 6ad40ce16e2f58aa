"""When each label of a known text was said: forced alignment on the log-probabilities of a CTC model.

For everybody who has log-probabilities, as a torch tensor or a numpy array, and labels; no model, dictionary or
time in seconds is needed. `inference/align` puts words and seconds around it, `ctc_viterbi` finds the path.

>>> import numpy as np
>>> log_probs = np.log([[0.1, 0.8, 0.1], [0.1, 0.8, 0.1], [0.8, 0.1, 0.1], [0.1, 0.1, 0.8]])
>>> aligned = forced_align(log_probs, [1, 2])
>>> aligned.starts.tolist(), aligned.ends.tolist(), aligned.confidences.round(1).tolist()
([0, 3], [2, 4], [0.8, 0.8])
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from w2v.errors import DataError
from w2v.functional.ctc_path import token_confidences
from w2v.functional.ctc_viterbi import best_states

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]
Scores = npt.NDArray[np.floating]

STAR_KINDS = ("zero", "max")
SCORE_WINDOW = 30  # frames, as in ctc-segmentation
NOTHING = -1e10  # the score of no frames, as in ctc-segmentation


@dataclass(frozen=True)
class CtcAlignment:
    """Where each label of a text lies in T frames.

    Attributes:
        path: (T,) symbol of each frame, blanks included.
        scores: (T,) log-probability of that symbol.
        labels: (L,) the text.
        starts: (L,) first frame of each label.
        ends: (L,) frame after its last one; equal neighbours have a blank between them.
        log_probs: (L,) mean log-probability of each label over its frames.
        confidences: (L,) mean probability of each label over its frames.
    """

    path: IntArray
    scores: FloatArray
    labels: IntArray
    starts: IntArray
    ends: IntArray
    log_probs: FloatArray
    confidences: FloatArray

    @property
    def total(self) -> float:
        """Sum of the scores of all frames: no other path through the text has a larger one."""
        return float(self.scores.sum())


def forced_align(log_probs: Tensor | Scores, targets: Tensor | npt.ArrayLike, blank: int = 0) -> CtcAlignment:
    """Find the most likely path through a text.

    Exact for any length: three hours of speech work. Differs from torchaudio's function: any place of the blank, any
    float type and memory layout are taken, long input does not overflow, and a label that cannot be said is refused
    instead of left out.

    Args:
        log_probs: (T, V) log-probabilities, which need not be normalised.
        targets: (L,) labels without blanks; empty: all frames are blank.
        blank: column of "no output".

    Raises:
        DataError: the frames are too few, a label is no column or impossible in all frames, or a value is NaN or
            +inf. The message holds the numbers.
    """
    scores, labels = _numpy_scores(log_probs), _numpy_ints(targets, "targets")
    if scores.ndim != 2:
        raise DataError(f"log_probs must have the shape (T, V), got {tuple(scores.shape)}")
    _check(scores, labels, blank)
    return _spans(scores, labels, blank, best_states(scores, labels, blank))


def forced_align_batch(
    log_probs: Tensor | Scores,
    targets: Tensor | npt.ArrayLike,
    input_lengths: Tensor | npt.ArrayLike,
    target_lengths: Tensor | npt.ArrayLike,
    blank: int = 0,
) -> list[CtcAlignment]:
    """Align the rows of a batch; what lies behind a row's lengths is not read.

    Args:
        log_probs: (B, T, V).
        targets: (B, L), padded with anything.
        input_lengths: (B,) true frames of each row.
        target_lengths: (B,) labels of each row.
        blank: column of "no output".

    Raises:
        DataError: as `forced_align`; the row is named.
    """
    scores, labels = _numpy_scores(log_probs), _numpy_ints(targets, "targets")
    frames, counts = _numpy_ints(input_lengths, "input_lengths"), _numpy_ints(target_lengths, "target_lengths")
    if scores.ndim != 3 or labels.ndim != 2 or not len(scores) == len(labels) == frames.size == counts.size:
        shapes = ", ".join(str(tuple(part.shape)) for part in (scores, labels, frames, counts))
        raise DataError(f"a batch needs log_probs (B, T, V), targets (B, L) and lengths (B,) (B,), got {shapes}")
    for name, lengths, limit in (("input", frames, scores.shape[1]), ("target", counts, labels.shape[1])):
        if ((lengths < 0) | (lengths > limit)).any():
            raise DataError(f"{name}_lengths must lie in 0 .. {limit}, got {lengths.tolist()}")
    found = []
    for row, (num_frames, count) in enumerate(zip(frames.tolist(), counts.tolist(), strict=True)):
        try:
            found.append(forced_align(scores[row, :num_frames], labels[row, :count], blank))
        except DataError as e:
            raise DataError(f"row {row} of the batch: {e}") from e
    return found


def fewest_frames(targets: npt.ArrayLike) -> int:
    """Return how many frames a text needs: one for each label, and a blank between two equal ones."""
    labels = np.asarray(targets)
    return len(labels) + int((labels[1:] == labels[:-1]).sum())


def with_star(log_probs: Tensor | Scores, kind: str = "zero", blank: int = 0) -> Scores:
    """Return log-probabilities with one more column, V: a star, which stands for anything that was said.

    Args:
        log_probs: (T, V).
        kind: `zero`: log-probability 0 (Pratap et al. 2023, "Scaling Speech Technology to 1,000+ Languages"): takes
            pauses and every doubtful frame beside it, so words start cleanly. `max`: that of the best symbol of the
            frame but the blank: pauses stay blank, good for one unknown word amid known ones.
        blank: column of "no output".
    """
    scores = _numpy_scores(log_probs)
    if kind not in STAR_KINDS:
        raise DataError(f"a star is one of {', '.join(STAR_KINDS)}, got {kind!r}")
    if kind == "zero":
        star = np.zeros(len(scores), dtype=scores.dtype)
    else:
        star = np.maximum(
            scores[:, :blank].max(axis=1, initial=-np.inf), scores[:, blank + 1 :].max(axis=1, initial=-np.inf)
        ).astype(scores.dtype)
    return np.column_stack([scores, star])


def min_window_score(scores: npt.ArrayLike, window: int = SCORE_WINDOW) -> float:
    """Return the smallest mean over any successive `window` frames, or over all where they are fewer.

    The confidence of an utterance in ctc-segmentation (Kürzinger et al. 2020): a text of which a part was not said
    has a low mean there. As in that program, the window that ends with the last frame is left out.

    Args:
        scores: (T,) log-probability of each frame of the utterance on its path.
        window: frames.
    """
    values = np.asarray(scores, dtype=np.float64)
    if not len(values):
        return NOTHING
    if len(values) <= window:
        return float(values.mean())
    sums = np.concatenate([[0.0], np.cumsum(values)])
    return float((sums[window:-1] - sums[: -window - 1]).min() / window)


def _numpy_scores(log_probs: Tensor | Scores) -> Scores:
    if isinstance(log_probs, Tensor):
        # numpy has no bfloat16; float32 holds each of its values.
        values = log_probs.detach().cpu()
        array: Any = (values.float() if values.dtype in (torch.bfloat16, torch.float16) else values).numpy()
    else:
        array = np.asarray(log_probs)
        if array.dtype == np.float16:
            array = array.astype(np.float32)
    if array.dtype not in (np.float32, np.float64):
        raise DataError(f"log_probs must be floating-point numbers, got {array.dtype}")
    return np.asarray(array)


def _numpy_ints(values: Tensor | npt.ArrayLike, name: str) -> IntArray:
    array = values.detach().cpu().numpy() if isinstance(values, Tensor) else np.asarray(values)
    if array.size and array.dtype.kind not in "iu":
        raise DataError(f"{name} must be whole numbers, got {array.dtype}")
    return array.astype(np.int64)


def _check(scores: Scores, labels: IntArray, blank: int) -> None:
    num_frames, num_symbols = scores.shape
    if labels.ndim != 1:
        raise DataError(f"targets must have the shape (L,), got {tuple(labels.shape)}")
    if not 0 <= blank < num_symbols:
        raise DataError(f"the blank must be a column in 0 .. {num_symbols - 1}, got {blank}")
    wrong = np.flatnonzero((labels < 0) | (labels >= num_symbols) | (labels == blank))
    if len(wrong):
        where = f"got {labels[wrong[0]]} at place {wrong[0]}"
        raise DataError(f"labels must be columns in 0 .. {num_symbols - 1} and not the blank {blank}, {where}")
    needed = fewest_frames(labels)
    if num_frames < needed:
        raise DataError(
            f"{num_frames} frames are too few for {len(labels)} labels with {needed - len(labels)} equal neighbours: "
            f"at least {needed} are needed"
        )
    if not num_frames:
        return
    best = scores.max(axis=0)
    if not (best < np.inf).all():
        column = int(np.flatnonzero(~(best < np.inf))[0])
        value = "NaN" if np.isnan(best[column]) else "+inf"
        row = int(np.flatnonzero(~(scores[:, column] < np.inf))[0])
        raise DataError(f"log-probabilities must be below +inf, got {value} in frame {row}, column {column}")
    impossible = np.flatnonzero(np.isneginf(best[labels]))
    if len(impossible):
        place = int(impossible[0])
        raise DataError(f"label {labels[place]} at place {place} has probability 0 in all {num_frames} frames")


def _spans(scores: Scores, labels: IntArray, blank: int, states: IntArray) -> CtcAlignment:
    """Turn the states of a path into labels with their frames; states 2 i + 1 are label i, the others blanks."""
    is_label = states % 2 == 1
    path = np.full(len(states), blank)
    path[is_label] = labels[states[is_label] // 2]
    values = scores[np.arange(len(scores)), path].astype(np.float64)
    own = 2 * np.arange(len(labels)) + 1
    starts, ends = np.searchsorted(states, own), np.searchsorted(states, own, side="right")
    lengths = ends - starts
    # Where every path has probability 0, the one found leaves labels out.
    if np.isneginf(values).any() or not lengths.all():
        raise DataError(f"each path through the {len(labels)} labels has probability 0 in one of {len(path)} frames")

    # reduceat sums from one start up to the next: the blanks between must be 0.
    sums = np.add.reduceat(np.where(is_label, values, 0.0), starts) if len(starts) else np.zeros(0)
    confidences = np.array(token_confidences(scores, labels, starts, ends))
    return CtcAlignment(path, values, labels, starts, ends, sums / lengths, confidences)
