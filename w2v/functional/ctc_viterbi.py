"""The best path of CTC through a known text: exact, in little memory (Graves et al. 2006, section 4.1).

The states of a text of L labels are blank, label 0, blank, ..., label L - 1, blank: even states are blanks, state
2 i + 1 is label i. From one frame to the next a path stays, goes to the next state, or skips the blank between two
different labels. It begins in state 0 or 1 and ends in one of the last two.

Two vectors over the labels hold the best scores. They are kept at the beginning of every block of frames; then the
blocks are computed again, from the last to the first, only for the labels that the path can have passed there. Time
grows as T x L, memory as (T x L) ** (2 / 3): 170 MB for an hour of speech with 50,000 labels.

All sums are float64: in float32, sums over an hour lose the best path.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]

SMALL = 1 << 22  # cells of a trellis that is held whole: 64 MB


def best_states(scores: npt.NDArray[np.floating], targets: IntArray, blank: int) -> IntArray:
    """Return the state of each frame on the path with the largest sum of scores.

    Args:
        scores: (T, V), finite or -inf.
        targets: (L,) labels, none of them the blank; T is at least L plus the number of equal neighbours.
        blank: column of "no output".

    Returns:
        (T,) states, never falling. Where no path has a finite score, they mean nothing.
    """
    num_frames, num_labels = len(scores), len(targets)
    size = _block_size(num_frames, num_labels)
    is_repeat = np.zeros(num_labels, dtype=bool)
    is_repeat[1:] = targets[1:] == targets[:-1]
    kept = _forward(scores, targets, is_repeat, blank, size)
    states = np.empty(num_frames, dtype=np.int64)
    end = None
    for start in reversed(range(0, num_frames, size)):
        block = slice(start, start + size)
        last = num_labels if end is None else (end + 1) // 2
        left = max(0, last - size)  # a path passes at most one label in a frame
        trellis = _trellis(
            scores[block], targets[left:last], is_repeat[left:last], blank, kept.pop()[:, left : last + 1]
        )
        if end is None:
            end = 2 * num_labels - int(trellis[-1, 1, -1] > trellis[-1, 0, -1])
        path = _trace(trellis, is_repeat[left:last], end - 2 * left) + 2 * left
        states[block] = path[1:]
        end = int(path[0])
    return states


def _block_size(num_frames: int, num_labels: int) -> int:
    cells = num_frames * (num_labels + 1)
    if cells <= SMALL:
        return max(num_frames, 1)
    # Kept vectors take 16 cells / size bytes, the trellis of a block 16 size ** 2: the least sum is near this.
    return max(min(num_frames, int(np.cbrt(cells / 2))), 1)


# Scores lie in arrays (2, L + 1): [0, i] is the blank before label i, [1, i] is label i - 1, and [1, 0] stays -inf.
# So the two states from which blank i is reached share a column.


def _forward(
    scores: npt.NDArray[np.floating], targets: IntArray, is_repeat: npt.NDArray[np.bool_], blank: int, size: int
) -> list[FloatArray]:
    """Return the scores before the first frame of each block, (2, L + 1) each; the last block is not computed."""
    num_frames, num_labels = len(scores), len(targets)
    before = np.full((2, num_labels + 1), -np.inf)
    before[0, 0] = 0.0
    after = np.full_like(before, -np.inf)
    repeats = np.flatnonzero(is_repeat)
    pairs, places = _pairs(targets)
    pair_gains = np.empty(len(pairs) // 2, dtype=np.complex128)
    gains = np.empty(len(places), dtype=np.complex128)
    kept = [before.copy()]
    for start in range(0, (num_frames - 1) // size * size, size):
        for frame, (row, blank_gain) in enumerate(_relative(scores[start : start + size], blank), start):
            # Labels that can be reached from the beginning, and from which the end can be reached.
            low, high = max(0, num_labels - num_frames + frame), min(num_labels, frame + 1)
            part = slice(low // 2, (high + 1) // 2)
            # Without a mode, numpy would buffer what it writes to `out`.
            row.take(pairs, out=pair_gains.view(np.float64), mode="clip")
            pair_gains.take(places[part], out=gains[part], mode="clip")
            _advance(before, after, gains.view(np.float64), blank_gain, repeats, low, high)
            before, after = after, before
        kept.append(before.copy())
    return kept


def _pairs(targets: IntArray) -> tuple[IntArray, IntArray]:
    """Return the different pairs of labels in a text, one after the other, and which of them each two labels are.

    Looking values up is the slowest part of a frame. Two float64 looked up as one complex number take half as long.
    """
    even = np.append(targets, targets[-1:]) if len(targets) % 2 else targets
    pairs, places = np.unique(even.reshape(-1, 2), axis=0, return_inverse=True)
    return pairs.reshape(-1), places.reshape(-1)


def _trellis(
    scores: npt.NDArray[np.floating],
    targets: IntArray,
    is_repeat: npt.NDArray[np.bool_],
    blank: int,
    first: FloatArray,
) -> FloatArray:
    """Return the scores before each frame of a block and behind the last, (n + 1, 2, L + 1)."""
    rows = np.empty((len(scores) + 1, *first.shape))
    rows[:, 1, 0] = -np.inf
    rows[0] = first
    repeats = np.flatnonzero(is_repeat)
    for frame, (row, blank_gain) in enumerate(_relative(scores, blank)):
        _advance(rows[frame], rows[frame + 1], row[targets], blank_gain, repeats, 0, len(targets))
    return rows


def _relative(scores: npt.NDArray[np.floating], blank: int) -> Iterator[tuple[FloatArray, float]]:
    """Yield the scores of each frame (V,) less that of the blank, and what is left for the blank: 0 or -inf.

    Every path passes every frame once, so a number taken off all of its scores changes no path; and the blanks, half
    of the states, need no addition.
    """
    rows = scores.astype(np.float64)
    blanks = rows[:, blank]
    is_possible = np.isfinite(blanks)
    rows -= np.where(is_possible, blanks, 0.0)[:, None]
    yield from zip(rows, np.where(is_possible, 0.0, -np.inf).tolist(), strict=True)


def _advance(
    before: FloatArray,
    after: FloatArray,
    gain: FloatArray,
    blank_gain: float,
    repeats: IntArray,
    low: int,
    high: int,
) -> None:
    """Compute the scores behind a frame from those before it, for the labels low .. high - 1 and the blanks around."""
    entered = after[0]
    np.maximum(before[0, low : high + 1], before[1, low : high + 1], out=entered[low : high + 1])
    # A label is entered from where the blank before it is entered, but an equal label only from that blank itself.
    from_both = entered[repeats]
    entered[repeats] = before[0, repeats]
    labels = after[1, low + 1 : high + 1]
    np.maximum(before[1, low + 1 : high + 1], entered[low:high], out=labels)
    labels += gain[low:high]
    entered[repeats] = from_both
    if blank_gain:
        entered[low : high + 1] = blank_gain


def _trace(trellis: FloatArray, is_repeat: npt.NDArray[np.bool_], end: int) -> IntArray:
    """Return the states before each frame of a block and behind the last, (n + 1,), of the path that leads to `end`."""
    states = [end]
    state = end
    for row in trellis[-2::-1]:
        label = state // 2
        blank_score, previous_score = row[:, label].tolist()
        if state % 2 == 0:
            state -= previous_score > blank_score
        else:
            best = row[1, label + 1]
            if blank_score > best:
                best, state = blank_score, 2 * label
            if previous_score > best and not is_repeat[label]:
                state = 2 * label - 1
        states.append(state)
    return np.array(states[::-1])
