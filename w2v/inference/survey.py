"""A sample of a model's frames over many clips, with what is known of each: the material of pictures and figures.

Clips and frames are drawn from the seed alone, so the same data in the same order give the same sample. Memory does
not grow with the data: a few thousand frames of each layer are kept, counts of codes, and the samples of the clips.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import torch

from w2v.data.audio import normalize, read_stretch
from w2v.data.batch_sampler import batch_by_size, length_order
from w2v.data.dictionary import Dictionary
from w2v.data.manifest import Manifest
from w2v.errors import DataError
from w2v.functional.codebook import perplexity
from w2v.inference.activations import Activations, FrameClock, activations, frame_clock
from w2v.inference.load import LoadedModel
from w2v.inference.spoken import Spoken, frame_levels, spoken_alone, spoken_in_emissions
from w2v.rng import numpy_generator

Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Clip:
    """A clip, or the beginning of a longer one.

    Attributes:
        name: its path, relative to the data.
        samples: (S,) as they are in the file, at the model's rate.
        transcript: its words; None: unknown.
    """

    name: str
    samples: Floats
    transcript: Sequence[str] | None = None


@dataclass(frozen=True)
class Looked:
    """A clip and what the model makes of it."""

    clip: Clip
    found: Activations
    spoken: Spoken
    levels: Floats


@dataclass
class Survey:
    """N frames of a model, drawn from K clips.

    Attributes:
        clips: the K clips.
        layers: (N, C) frames by name of the layer.
        clip: (N,) place of each frame's clip in `clips`.
        frame: (N,) number of each frame in its clip.
        levels: (N,) level in decibels.
        words: (N,) word of each frame, None where it is unknown or there is none.
        symbols: (N,) symbol of each frame on the path of a CTC model; None: blank, or unknown.
        codes: (N, G) codes of each frame; None without a quantizer.
        code_counts: (G, V) how often all frames, not only the N, chose each code; None without a quantizer.
        num_frames: all frames that were computed.
        seconds: of audio that was read.
        problems: a line for each clip that could not be used.
    """

    clips: list[Clip] = field(default_factory=list)
    layers: dict[str, Floats] = field(default_factory=dict)
    clip: Ints = field(default_factory=lambda: np.zeros(0, np.int64))
    frame: Ints = field(default_factory=lambda: np.zeros(0, np.int64))
    levels: Floats = field(default_factory=lambda: np.zeros(0, np.float32))
    words: list[str | None] = field(default_factory=list)
    symbols: list[str | None] = field(default_factory=list)
    codes: Ints | None = None
    code_counts: Ints | None = None
    num_frames: int = 0
    seconds: float = 0.0
    problems: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Viewer:
    """How a model is looked at.

    Attributes:
        loaded: the model and its task.
        clock: when its frames are.
        longest: samples of a clip that are read; the rest of a longer one is left out.
        max_tokens: largest batch: clips x longest clip, in samples.
    """

    loaded: LoadedModel
    clock: FrameClock
    longest: int
    max_tokens: int

    @classmethod
    def of(cls, loaded: LoadedModel, *, longest_seconds: float, max_tokens: int) -> Viewer:
        """Build the viewer of a model."""
        rate = loaded.task.config.sample_rate
        return cls(loaded, frame_clock(loaded.model, rate), round(longest_seconds * rate), max_tokens)

    def read(self, manifest: Manifest, row: int, transcript: Sequence[str] | None) -> Clip:
        """Read a clip at the model's rate.

        Raises:
            DataError: it cannot be read, or is shorter than a frame.
        """
        rate = self.clock.sample_rate
        found = read_stretch(manifest.source_of(row), rate, 0, (self.longest + 1) / rate)
        if len(found) < self.clock.field:
            raise DataError(f"{manifest.path(row)}: {len(found)} samples, one frame needs {self.clock.field}")
        # The words of a whole recording are not those of its beginning.
        known = transcript if len(found) <= self.longest else None
        return Clip(manifest.title(row), found[: self.longest], known)

    def look(self, clips: Sequence[Clip]) -> list[Looked]:
        """Compute what the model makes of some clips, in one batch."""
        task = self.loaded.task.config
        sources = [
            normalize(clip.samples, task.normalize_epsilon) if task.normalize else clip.samples for clip in clips
        ]
        return [self._look(clip, found) for clip, found in zip(clips, activations(self.loaded.model, sources))]

    def _look(self, clip: Clip, found: Activations) -> Looked:
        levels = frame_levels(clip.samples, self.clock.stride, self.clock.field, found.num_frames)
        dictionary: Dictionary | None = getattr(self.loaded.task, "dictionary", None)
        if found.log_probs is None or dictionary is None or not np.isfinite(found.log_probs).all():
            return Looked(clip, found, spoken_alone(levels, clip.transcript), levels)
        spoken = spoken_in_emissions(found.log_probs, dictionary, self.post_process, clip.transcript)
        return Looked(clip, found, spoken, levels)

    @property
    def post_process(self) -> str:
        """How symbols become words: as in training."""
        return str(self.loaded.config.get("criterion", {}).get("post_process") or "letter")


def choose_clips(sizes: Ints, *, seed: int, max_batches: int, max_tokens: int, longest: int) -> list[Ints]:
    """Draw clips, and put them into batches of similar lengths.

    Args:
        sizes: (N,) samples of each clip by its header; those of 0 samples are left out.
        seed: of the draw.
        max_batches: most batches.
        max_tokens: largest batch: clips x longest clip, in samples.
        longest: samples that are read of a longer clip.

    Returns:
        rows of the clips, batch by batch.
    """
    order = numpy_generator(seed, "clips").permutation(np.flatnonzero(sizes > 0))
    cropped = np.minimum(sizes[order], longest)
    # As many as fill the batches without any padding; what padding takes is cut off below.
    enough = int(np.searchsorted(np.cumsum(cropped), max_batches * max_tokens, side="right"))
    chosen = order[: max(enough, 1)]
    lengths = np.minimum(sizes[chosen], longest)
    plan = batch_by_size(length_order(lengths, None), lengths, max_tokens=max(max_tokens, longest), multiple=1)
    batches = [chosen[batch] for batch in plan.batches]
    # Not the first ones, which hold the longest clips.
    kept = sorted(numpy_generator(seed, "batches").permutation(len(batches))[:max_batches].tolist())
    return [batches[place] for place in kept]


def survey(
    viewer: Viewer,
    manifest: Manifest,
    transcripts: Mapping[str, Sequence[str]],
    *,
    seed: int,
    max_batches: int,
    max_points: int,
    note: Callable[[str], None] = lambda text: None,
) -> Survey:
    """Draw frames of a model from many clips.

    Args:
        viewer: the model.
        manifest: the clips.
        transcripts: words by name of the clip, where they are known.
        seed: of the draw of clips and frames.
        max_batches: most batches.
        max_points: most frames that are kept.
        note: is told how far it is.

    Raises:
        DataError: no clip can be used.
    """
    batches = choose_clips(
        manifest.sizes, seed=seed, max_batches=max_batches, max_tokens=viewer.max_tokens, longest=viewer.longest
    )
    total = sum(map(len, batches))
    result = Survey()
    parts: list[_Part] = []
    for number, batch in enumerate(batches, 1):
        clips = list(_readable(viewer, manifest, batch.tolist(), transcripts, result.problems))
        for looked in viewer.look(clips) if clips else []:
            parts.append(_draw(viewer, looked, len(result.clips), -(-max_points // max(total, 1)), seed))
            result.clips.append(looked.clip)
            result.num_frames += looked.found.num_frames
            result.seconds += len(looked.clip.samples) / viewer.clock.sample_rate
            _count_codes(result, viewer, looked.found.codes)
        note(f"batch {number} of {len(batches)}: {len(result.clips)} clips, {result.seconds:.0f} s of audio")
    if not result.clips:
        first = f"; the first: {result.problems[0]}" if result.problems else ""
        raise DataError(f"{manifest.source or manifest.root}: holds no clip that can be used{first}")
    _join(result, parts, max_points, seed)
    return result


def _readable(
    viewer: Viewer,
    manifest: Manifest,
    rows: Sequence[int],
    transcripts: Mapping[str, Sequence[str]],
    problems: list[str],
) -> Iterator[Clip]:
    for row in rows:
        try:
            yield viewer.read(manifest, row, transcripts.get(manifest.title(row)))
        except DataError as e:
            problems.append(str(e))


@dataclass(frozen=True)
class _Part:
    """The frames of one clip that were drawn."""

    layers: dict[str, Floats]
    clip: int
    frame: Ints
    levels: Floats
    words: list[str | None]
    symbols: list[str | None]
    codes: Ints | None


def _draw(viewer: Viewer, looked: Looked, place: int, count: int, seed: int) -> _Part:
    """Draw frames of a clip, the same number from each clip, in the order of time."""
    found, num_frames = looked.found, looked.found.num_frames
    rng = numpy_generator(seed, "frames", place)
    # Frames that are not finite (a model that diverged) would spoil every figure.
    sound = np.flatnonzero(np.logical_and.reduce([np.isfinite(f).all(axis=1) for f in found.layers.values()]))
    chosen = np.sort(rng.permutation(sound)[: min(count, num_frames)])
    words = looked.spoken.word_of_each_frame()
    symbols = _symbols(viewer, looked.spoken.path[chosen])
    layers = {name: frames[chosen] for name, frames in found.layers.items()}
    codes = None if found.codes is None else found.codes[chosen]
    return _Part(layers, place, chosen, looked.levels[chosen], [words[t] for t in chosen], symbols, codes)


def _symbols(viewer: Viewer, path: Ints) -> list[str | None]:
    dictionary: Dictionary | None = getattr(viewer.loaded.task, "dictionary", None)
    if dictionary is None:
        return [None] * len(path)
    # The blank is symbol 0; the other special symbols are never said.
    return [dictionary.symbols[symbol] if symbol > dictionary.unk else None for symbol in path.tolist()]


def _count_codes(result: Survey, viewer: Viewer, codes: Ints | None) -> None:
    if codes is None:
        return
    groups, num_vars = viewer.loaded.model.codebook_size
    if result.code_counts is None:
        result.code_counts = np.zeros((groups, num_vars), np.int64)
    for group in range(groups):
        result.code_counts[group] += np.bincount(codes[:, group], minlength=num_vars)


def _join(result: Survey, parts: Sequence[_Part], max_points: int, seed: int) -> None:
    """Put the parts one after the other, and thin them out to the number of frames asked for."""
    clips = np.concatenate([np.full(len(part.frame), part.clip) for part in parts])
    kept = np.arange(len(clips))
    if len(kept) > max_points:
        kept = np.sort(numpy_generator(seed, "points").permutation(len(kept))[:max_points])
    result.clip = clips[kept]
    result.frame = np.concatenate([part.frame for part in parts])[kept]
    result.levels = np.concatenate([part.levels for part in parts])[kept]
    result.layers = {
        name: np.concatenate([part.layers[name] for part in parts]).astype(np.float32)[kept] for name in parts[0].layers
    }
    words = [word for part in parts for word in part.words]
    symbols = [symbol for part in parts for symbol in part.symbols]
    result.words, result.symbols = [words[i] for i in kept], [symbols[i] for i in kept]
    codes = [part.codes for part in parts if part.codes is not None]
    result.codes = np.concatenate(codes)[kept] if codes else None


def code_perplexities(counts: Ints) -> Floats:
    """Return the perplexity of each group's codes, (G,): exp of the entropy, by the trainer's own formula.

    Args:
        counts: (G, V) how often each code was chosen.
    """
    shares = torch.from_numpy(counts / np.maximum(counts.sum(axis=1, keepdims=True), 1))
    return np.array([float(perplexity(group[None])) for group in shares], dtype=np.float32)
