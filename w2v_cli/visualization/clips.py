"""Some clips in detail: spectrogram, latent frames, context and emissions on one time axis; cosines; attention."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from w2v.data.audio import normalize
from w2v.functional.similarity import cosines
from w2v.functional.spectrogram import spectrogram
from w2v.inference.activations import Activations, FrameClock
from w2v.inference.attention import attention_span, attention_weights
from w2v.inference.spoken import Spoken
from w2v.inference.survey import Looked, Viewer
from w2v.pictures.clip import Frames, Span, draw_clip
from w2v.pictures.heat_map import Matrix, draw_matrices
from w2v.pictures.report import Image, Section, Sound
from w2v_cli.visualization.gallery import Gallery, sound

Floats = npt.NDArray[np.float32]
CLIPS_WITH_ATTENTION = 3
SHOWN = 0.02  # probability that a symbol must reach somewhere to get a row
LAYER_TITLES = {
    "z": "z: latent frames of the convolutions",
    "q": "q: quantised frames",
    "c": "c: context, the model's last frames",
}


def clip_section(gallery: Gallery, viewer: Viewer, looks: Sequence[Looked], centres: dict[str, Floats]) -> Section:
    """Draw each clip: what it sounds like, and what the model makes of it.

    Args:
        gallery: where pictures go.
        viewer: the model.
        looks: the clips.
        centres: mean frame of each layer, over the survey.
    """
    parts: list[Image | Sound] = []
    for number, looked in enumerate(looks, 1):
        name = f"clip_{number:02d}"
        parts.append(sound(looked.clip.samples, viewer.clock.sample_rate, looked.clip.name))
        parts.append(_clip_image(gallery, viewer, looked, name))
        parts.append(_cosine_image(gallery, viewer.clock, looked, centres, f"{name}_cosine"))
    text = [
        "Everything above one time axis belongs together: a frame is drawn around the middle of the samples that it "
        "sees. Each channel is brought to zero mean and unit variance over the clip; channels that rise and fall "
        "together lie side by side.",
        "Heat maps show the cosine between any two frames of a clip, after the mean frame of all clips was taken "
        "away: blocks are stretches that the model takes for one sound, stripes off the diagonal are sounds that "
        "come back.",
    ]
    if any(looked.found.log_probs is not None for looked in looks):
        text.append(
            "The white line in the emissions is the path: of the transcript where it is known, else the best one. "
            "Colours and figures of the words are their confidence: the mean probability of their symbols."
        )
    return Section("Clips", text, parts)


def spans(spoken: Spoken, clock: FrameClock, seconds: float) -> list[Span]:
    """Return words in seconds, inside the clip."""
    return [
        Span(
            word.word,
            min(clock.seconds(word.start), seconds),
            min(clock.seconds(word.end), seconds),
            word.confidence if np.isfinite(word.confidence) else None,
        )
        for word in spoken.words
    ]


def _clip_image(gallery: Gallery, viewer: Viewer, looked: Looked, name: str) -> Image:
    clip, found, clock = looked.clip, looked.found, viewer.clock
    seconds = len(clip.samples) / clock.sample_rate
    words = spans(looked.spoken, clock, seconds)
    panels = [layer_frames(LAYER_TITLES[layer], found.layers[layer], clock) for layer in main_layers(found)]
    emissions, symbols = _emissions(viewer, looked)
    panels += emissions
    whose = "transcript" if looked.spoken.is_transcript else "the model's own words"
    title = f"{clip.name} ({whose})" if words else clip.name
    figure = draw_clip(title, clip.samples, clock.sample_rate, words=words, frames=panels)
    shown = ", ".join(panel.title for panel in panels)
    said = f", with the words {' '.join(word.text for word in words)}" if words else ""
    levels = spectrogram(clip.samples, clock.sample_rate)
    arrays: dict[str, npt.NDArray[Any]] = {
        "samples": clip.samples,
        "spectrogram_db": levels.decibels,
        "spectrogram_hop_seconds": np.array(levels.hop / clock.sample_rate),
        "frame_start_seconds": np.array(clock.start),
        "frame_step_seconds": np.array(clock.step),
        **{f"layer_{layer}": frames for layer, frames in found.layers.items()},
        "words": np.array([word.text for word in words], dtype=str),
        "word_times": np.array([(word.start, word.end) for word in words]).reshape(-1, 2),
        "word_confidences": np.array([np.nan if w.confidence is None else w.confidence for w in words]),
    }
    if found.codes is not None:
        arrays["codes"] = found.codes
    if found.log_probs is not None:
        arrays |= {"log_probs": found.log_probs, "path": looked.spoken.path, "symbols": np.array(symbols, dtype=str)}
    alt = f"Waveform, spectrogram and {shown} of {clip.name} over {seconds:.1f} seconds{said}."
    return gallery.add_arrays(name, figure, alt, arrays)


def main_layers(found: Activations) -> list[str]:
    """Return the layers that are drawn: those with a letter, from the bottom up."""
    return [layer for layer in LAYER_TITLES if layer in found.layers]


def layer_frames(title: str, frames: Floats, clock: FrameClock) -> Frames:
    """Return (T, C) frames as they are drawn: each channel standardised, similar channels side by side."""
    deviation = frames.std(axis=0)
    scaled = (frames - frames.mean(axis=0)) / np.where(deviation > 0, deviation, 1)
    return Frames(title, scaled.T[_similar_order(scaled)], clock.start, clock.step, "channel", is_signed=True)


def _similar_order(frames: Floats) -> npt.NDArray[np.int64]:
    """Order the channels of (T, C) frames by their angle on the first two principal axes of the channels."""
    known = np.nan_to_num(frames, posinf=0, neginf=0)
    # Of the smaller square matrix, not of the frames: 20 ms instead of seconds for 1,000 frames of 1,024 channels.
    _, axes = np.linalg.eigh(known.T @ known if known.shape[0] > known.shape[1] else known @ known.T)
    if known.shape[0] <= known.shape[1]:
        axes = known.T @ axes
    first, second = axes[:, -1], axes[:, -2] if axes.shape[1] > 1 else axes[:, -1]
    order: npt.NDArray[np.int64] = np.argsort(np.arctan2(second, first), kind="stable")
    return order


def _emissions(viewer: Viewer, looked: Looked) -> tuple[list[Frames], list[str]]:
    """Return the panel of a CTC model's emissions (none for other models), and the names of all symbols."""
    log_probs = looked.found.log_probs
    dictionary = getattr(viewer.loaded.task, "dictionary", None)
    if log_probs is None or dictionary is None:
        return [], []
    symbols = ["blank" if number == 0 else name for number, name in enumerate(dictionary.symbols)]
    probabilities = np.exp(log_probs)
    path = looked.spoken.path
    rows = [
        number
        for number in range(len(symbols))
        if probabilities[:, number].max(initial=0) >= SHOWN or (path == number).any()
    ]
    place = {number: row for row, number in enumerate(rows)}
    panel = Frames(
        "emissions: probability of each symbol, and the path",
        probabilities.T[rows],
        viewer.clock.start,
        viewer.clock.step,
        "symbol",
        rows=[symbols[number] for number in rows],
        limits=(0.0, 1.0),
        path=np.array([place.get(number, -1) for number in path.tolist()]),
    )
    return [panel], symbols


def _cosine_image(gallery: Gallery, clock: FrameClock, looked: Looked, centres: dict[str, Floats], name: str) -> Image:
    layers = main_layers(looked.found)
    maps = {}
    for layer in layers:
        frames = looked.found.layers[layer] - centres[layer]
        maps[layer] = cosines(frames, frames)
    end = clock.seconds(looked.found.num_frames)
    words = looked.spoken.words
    middles = [clock.seconds((word.start + word.end) / 2) for word in words]
    # Names of words become unreadable where they are many.
    ticks = (middles, [word.word for word in words]) if 0 < len(words) <= 16 else None
    matrices = [
        Matrix(
            LAYER_TITLES[layer].partition(":")[0] + ": cosine between frames",
            values,
            limits=(-1, 1),
            is_signed=True,
            extent=(clock.start, end, end, clock.start),
            x_label="seconds" if ticks is None else "",
            y_label="seconds",
            x_ticks=ticks,
        )
        for layer, values in maps.items()
    ]
    title = f"{looked.clip.name}: cosine of frames, less the mean of all clips"
    figure = draw_matrices(matrices, title=title, width=3.6, height=3.4, bar_label="cosine")
    alt = f"Heat maps of the cosines between the frames of {looked.clip.name}, for the layers {', '.join(layers)}."
    return gallery.add_arrays(name, figure, alt, {f"cosine_{layer}": values for layer, values in maps.items()})


def attention_section(gallery: Gallery, viewer: Viewer, looks: Sequence[Looked]) -> Section | None:
    """Draw where the transformer blocks look, for a few clips; None where the model has no attention."""
    parts: list[Image] = []
    reach: list[npt.NDArray[np.float32]] = []
    for number, looked in enumerate(looks[:CLIPS_WITH_ATTENTION], 1):
        samples = looked.clip.samples
        source = normalize(samples) if viewer.loaded.task.config.normalize else samples
        weights = attention_weights(viewer.loaded.model, source)
        if not weights:
            return None
        reach.append(np.stack([attention_span(block) for block in weights]) * np.float32(viewer.clock.step))
        parts.append(_attention_image(gallery, viewer.clock, looked, weights, f"attention_{number:02d}"))
    if not parts:
        return None
    parts.insert(0, _reach_image(gallery, np.mean(reach, axis=0)))
    text = [
        "How far a head looks is the mean distance in time between a frame and the frames that it takes from, "
        "weighted by attention. Maps show the mean over the heads of a block: what a frame (row) takes from (column).",
    ]
    return Section("Attention", text, parts)


def _attention_image(
    gallery: Gallery, clock: FrameClock, looked: Looked, weights: Sequence[Floats], name: str
) -> Image:
    means = [block.mean(axis=0) for block in weights]
    end = clock.seconds(looked.found.num_frames)
    # The largest weights are few: at their level all else would be black.
    highest = float(np.quantile(np.stack(means), 0.99)) or 1.0
    matrices = [
        Matrix(f"block {place}", mean, limits=(0, highest), extent=(clock.start, end, end, clock.start))
        for place, mean in enumerate(means, 1)
    ]
    title = f"{looked.clip.name}: attention, mean of the heads; both axes in seconds"
    figure = draw_matrices(matrices, title=title, width=2.3, height=2.2, bar_label="attention weight")
    alt = f"Attention maps of {len(means)} transformer blocks for {looked.clip.name}."
    return gallery.add_arrays(name, figure, alt, {f"block_{place}": mean for place, mean in enumerate(means, 1)})


def _reach_image(gallery: Gallery, reach: Floats) -> Image:
    blocks, heads = reach.shape
    matrix = Matrix(
        "mean distance, seconds",
        reach,
        x_label="head",
        y_label="block",
        x_ticks=(range(heads), [str(head + 1) for head in range(heads)]),
        y_ticks=(range(blocks), [str(block + 1) for block in range(blocks)]),
    )
    figure = draw_matrices([matrix], width=3 + 0.2 * heads, height=1.2 + 0.25 * blocks)
    alt = f"How far each of {heads} heads in {blocks} transformer blocks looks."
    rows = [(b + 1, h + 1, float(reach[b, h])) for b in range(blocks) for h in range(heads)]
    return gallery.add_table("attention_reach", figure, alt, ("block", "head", "mean_distance_seconds"), rows)
