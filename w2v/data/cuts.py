"""Where long recordings are cut: between stretches of speech, into clips of a length that training likes."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from w2v.config import check_range

Span = tuple[int, int]
Quietest = Callable[[int, int], int]


@dataclass(frozen=True)
class ClipLimits:
    """Lengths in samples.

    Attributes:
        shortest: clips aim at this length at least.
        longest: no clip is longer.
        least: shorter clips are not worth keeping.
        pause: a longer pause is never part of a clip.
        margin: what a clip keeps of the pauses on both sides.
    """

    shortest: int
    longest: int
    least: int
    pause: int
    margin: int

    def __post_init__(self) -> None:
        check_range(self, 1, math.inf, "shortest", "longest")
        check_range(self, 0, math.inf, "least", "pause", "margin")


def plan_clips(speech: Sequence[Span], total: int, limits: ClipLimits, quietest: Quietest) -> list[Span]:
    """Return first and last sample (exclusive) of each clip, in order; clips never overlap.

    A clip holds whole stretches of speech. It ends at the longest pause that leaves it between `shortest` and
    `longest`; at a pause longer than `pause` in any case. A single stretch beyond `longest` is cut at its quietest
    places. Clips below `least` are part of the result: what becomes of them is the caller's business.

    Args:
        speech: first and last sample of each stretch of speech, in order, without overlap.
        total: samples of the recording.
        limits: lengths.
        quietest: returns the best place for a cut between two samples.
    """
    widened = _widened(_short_enough(speech, limits, quietest), total, limits.margin)
    clips = []
    first = 0
    while first < len(widened):
        last = _last_of_clip(widened, first, limits)
        clips.append((widened[first][0], widened[last][1]))
        first = last + 1
    return clips


def _short_enough(speech: Sequence[Span], limits: ClipLimits, quietest: Quietest) -> list[Span]:
    """Return stretches of speech, of which none with its margins is longer than a clip may be."""
    longest = max(limits.longest - 2 * limits.margin, 1)
    parts = []
    for start, end in speech:
        while end - start > longest:
            # Parts of about equal length, so that no short rest is left over; a cut may move by a third of a part, but
            # never so early that one part more would be needed.
            count = math.ceil((end - start) / longest)
            aim = (end - start) // count
            latest = min(start + longest, start + aim + aim // 3)
            earliest = max(start + aim - aim // 3, end - (count - 1) * longest, start + 1)
            place = min(max(quietest(earliest, latest), earliest), latest)
            parts.append((start, place))
            start = place
        parts.append((start, end))
    return parts


def _widened(speech: Sequence[Span], total: int, margin: int) -> list[Span]:
    """Give each stretch its margins, or half of the pause where that is shorter."""
    middles = [(end + start) // 2 for (_, end), (start, _) in itertools.pairwise(speech)]
    starts, ends = [0, *middles], [*middles, total]
    return [
        (max(start - margin, low), min(end + margin, high)) for (start, end), low, high in zip(speech, starts, ends)
    ]


def _last_of_clip(speech: Sequence[Span], first: int, limits: ClipLimits) -> int:
    """Return the last stretch of the clip that begins with stretch `first`."""
    best, best_pause = first, -1
    for last in range(first, len(speech)):
        length = speech[last][1] - speech[first][0]
        if length > limits.longest:
            break
        gap = speech[last + 1][0] - speech[last][1] if last + 1 < len(speech) else math.inf
        if length < limits.shortest:
            best = last
        elif gap >= best_pause:
            best, best_pause = last, int(min(gap, 1 << 62))
        if gap > limits.pause:
            return last
    return best
