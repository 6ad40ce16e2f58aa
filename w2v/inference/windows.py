"""From the blocks of a recording to the windows that a model is run over, in memory that does not grow with its length.

A recording is one stretch of sound, or several where speech was detected. Each stretch is cut into overlapping windows
whose kept frames tile it exactly, so that it can be decoded as if the model had seen it whole.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import chain

import numpy as np
import numpy.typing as npt

from w2v.data.audio import NORMALIZE_EPSILON
from w2v.data.speech_segments import SpeechModel, SpeechRule, SpeechSegmenter, Stretch
from w2v.errors import ConfigError
from w2v.functional.conv_spec import ConvLayer, frame_lengths, receptive_field, total_stride

Samples = npt.NDArray[np.float32]
Blocks = Callable[[], Iterator[Samples]]
"""Opens a recording: (S,) blocks of mono samples at the model's rate. It may be opened twice."""


@dataclass(frozen=True)
class Window:
    """What a model is run over at once.

    Attributes:
        samples: (S,) of the window, context at both ends included.
        offset: sample of the recording at which its stretch begins.
        skip: frames at its beginning that belong to the window before.
        keep: frames kept after those.
        is_last: whether it ends its stretch.
    """

    samples: Samples
    offset: int
    skip: int
    keep: int
    is_last: bool


@dataclass(frozen=True)
class WindowGrid:
    """How a stretch is cut: windows of one size at equal distances; the last one ends with the stretch.

    Attributes:
        layers: the convolutions that make frames of samples.
        size: samples of a window; 0: a stretch is never cut.
        left: samples at its beginning that only serve as context.
        right: samples at its end that only serve as context. All three are multiples of the layers' stride.
    """

    layers: tuple[ConvLayer, ...]
    size: int
    left: int
    right: int

    def __post_init__(self) -> None:
        stride = total_stride(self.layers)
        if not self.size:
            return
        if self.size % stride or self.left % stride or self.right % stride:
            raise ValueError(f"windows of {self.size}, {self.left}, {self.right} samples are no multiples of {stride}")
        # The last frame before a seam needs the samples of its own field beyond it.
        if self.right < receptive_field(self.layers) - stride:
            raise ConfigError(f"--context must be at least {receptive_field(self.layers) - stride} samples")
        if self.size <= self.left + self.right:
            raise ConfigError(f"--window must exceed twice --context, got {self.size} and {self.right} samples")

    def windows(self, blocks: Iterable[Samples], offset: int = 0) -> Iterator[Window]:
        """Cut a stretch that begins at sample `offset` of its recording."""
        stride = total_stride(self.layers)
        margin, end = self.left // stride, (self.size - self.right) // stride
        held = _Buffer()
        is_first = True
        for block in blocks:
            held.append(block)
            # With more samples than a window has, it is not the last.
            while self.size and len(held) > self.size:
                skip = 0 if is_first else margin
                yield Window(held.first(self.size), offset, skip, end - skip, False)
                held.drop(self.size - self.left - self.right)
                is_first = False
        skip = 0 if is_first else margin
        rest = held.first(len(held))
        yield Window(rest, offset, skip, max(frame_lengths(len(rest), self.layers) - skip, 0), True)


def window_grid(layers: tuple[ConvLayer, ...], sample_rate: int, window: float, context: float) -> WindowGrid:
    """Return the grid for a window and a context in seconds, both rounded to frames."""
    stride = total_stride(layers)
    size, margin = (round(seconds * sample_rate / stride) * stride for seconds in (window, context))
    return WindowGrid(layers, size, margin, margin)


def speech_stretches(
    blocks: Iterable[Samples], model: SpeechModel, rule: SpeechRule
) -> Iterator[tuple[Stretch, Samples]]:
    """Yield each stretch of speech with its samples.

    Args:
        blocks: the recording, at the model's rate.
        model: a fresh detector; it remembers what it has heard.
        rule: when speech begins and ends; its `max_speech` bounds the memory.
    """
    segmenter = SpeechSegmenter(rule, model.window, model.sample_rate)
    held, first = _Buffer(), 0

    def taken(stretches: Iterable[Stretch]) -> Iterator[tuple[Stretch, Samples]]:
        for stretch in stretches:
            yield stretch, held.first(stretch.end - first)[stretch.start - first :]

    total = 0
    for block in blocks:
        held.append(block)
        total += len(block)
        yield from taken(segmenter.push(model.push(block)))
        held.drop(segmenter.earliest - first)
        first = segmenter.earliest
    yield from taken(chain(segmenter.push(model.finish()), segmenter.finish(total)))


def measured(
    open_blocks: Blocks, longest: int, epsilon: float = NORMALIZE_EPSILON
) -> tuple[float, float, Iterator[Samples]]:
    """Return the mean of a recording, what brings its deviation to 1, and its blocks.

    Args:
        open_blocks: the recording; it is opened a second time where it is longer than `longest`.
        longest: samples that are held in memory.
        epsilon: added to the variance, as in training.
    """
    blocks = open_blocks()
    head = _Buffer()
    for block in blocks:
        head.append(block)
        if len(head) > longest:
            break
    else:
        whole = head.first(len(head))
        return *_moments([whole], epsilon), iter([whole])
    mean, scale = _moments(chain([head.first(len(head))], blocks), epsilon)
    return mean, scale, open_blocks()


def _moments(blocks: Iterable[Samples], epsilon: float) -> tuple[float, float]:
    """Return mean and 1 / deviation, as `data.audio.normalize` has them; sums of blocks are added by Chan's rule."""
    count, mean, squares = 0, 0.0, 0.0
    for block in blocks:
        if not len(block):
            continue
        here = float(block.mean(dtype=np.float64))
        centred = block - np.float32(here)
        apart = here - mean
        count += len(block)
        mean += apart * len(block) / count
        squares += float(np.dot(centred, centred)) + apart * apart * len(block) * (count - len(block)) / count
    return mean, 1 / math.sqrt(squares / max(count, 1) + epsilon)


class _Buffer:
    """Samples that came in blocks, from which windows are taken."""

    def __init__(self) -> None:
        self._parts: list[Samples] = []
        self._size = 0

    def __len__(self) -> int:
        return self._size

    def append(self, block: Samples) -> None:
        self._parts.append(block)
        self._size += len(block)

    def first(self, size: int) -> Samples:
        """Return the first `size` samples."""
        if len(self._parts) != 1:
            self._parts = [np.concatenate(self._parts) if self._parts else np.zeros(0, np.float32)]
        return self._parts[0][:size]

    def drop(self, size: int) -> None:
        """Forget the first `size` samples."""
        if size > 0:
            # A copy: a view would keep what is forgotten.
            self._parts = [self.first(self._size)[size:].copy()]
            self._size = len(self._parts[0])
