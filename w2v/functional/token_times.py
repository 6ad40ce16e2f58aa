"""How long each symbol of a reading lasts, and how sure the model is of it: from the reading's first frames.

A decoder says where a symbol begins. Until the next one begins there are repetitions of it and then blanks; the most
likely place for the change is found here, so that the best path of CTC gets exactly its own runs of equal frames.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from w2v.functional.best_path import BLANK


def token_ends(
    log_probs: npt.NDArray[np.float32], tokens: Sequence[int], starts: Sequence[int], blank: int = BLANK
) -> list[int]:
    """Return the frame after the last one of each symbol.

    Args:
        log_probs: (T, V) of one clip.
        tokens: symbols without blanks and repetitions.
        starts: first frame of each.
        blank: the symbol of "no output".
    """
    ends = []
    for token, start, following in zip(tokens, starts, [*starts, len(log_probs)][1:], strict=True):
        # Held up to frame e, the symbol gains the sum of these over start + 1 .. e against blanks.
        gains = log_probs[start + 1 : following, token] - log_probs[start + 1 : following, blank]
        sums = np.concatenate([[0.0], np.cumsum(gains, dtype=np.float64)])
        ends.append(start + 1 + int(sums.argmax()))
    return ends


def token_confidences(
    log_probs: npt.NDArray[np.float32], tokens: Sequence[int], starts: Sequence[int], ends: Sequence[int]
) -> list[float]:
    """Return the mean probability that each symbol has in its own frames.

    Of several ways (peak or mean over frames; mean, least or product over symbols) the mean of means has the best
    normalised cross entropy, as sclite computes it, with language models and without.
    """
    spans = zip(tokens, starts, ends, strict=True)
    return [float(np.exp(log_probs[start:end, token]).mean()) for token, start, end in spans]
