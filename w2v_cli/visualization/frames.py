"""Frames of many clips: in a plane (PCA, t-SNE), and their nearest neighbours in other clips."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from w2v.functional.similarity import nearest_neighbours, same_label_share
from w2v.inference.activations import FrameClock
from w2v.inference.embedding import MOST_POINTS, embed
from w2v.inference.survey import Survey
from w2v.pictures.canvas import COLOURS
from w2v.pictures.clip import Snippet, draw_snippets
from w2v.pictures.panels import Line, Panel, draw_panels
from w2v.pictures.report import Cell, Image, Section, Sound, Table
from w2v.pictures.scatter import Classes, Levels, Scatter, draw_scatters
from w2v.rng import numpy_generator
from w2v_cli.visualization.clips import LAYER_TITLES
from w2v_cli.visualization.gallery import Gallery, sound

Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]
NEIGHBOURS = 5
SNIPPET = 0.5  # seconds around a frame that are played
MOST_WORDS = 40  # different words up to which words are classes; beyond, symbols are


@dataclass(frozen=True)
class Labels:
    """What is known of each of N frames.

    Attributes:
        kind: `word` or `symbol`; empty where nothing is known.
        names: of the labels, the most frequent one first.
        numbers: (N,) label of each frame; -1: unknown, or none.
    """

    kind: str
    names: Sequence[str]
    numbers: Ints


def frame_labels(survey: Survey) -> Labels:
    """Return the words of frames where they are few, else the symbols of a CTC model's path, else nothing."""
    num_words = len({word for word in survey.words if word is not None})
    has_symbols = any(symbol is not None for symbol in survey.symbols)
    kind = "word" if num_words and (num_words <= MOST_WORDS or not has_symbols) else "symbol" if has_symbols else ""
    nothing: list[str | None] = [None] * len(survey.clip)
    found = {"word": survey.words, "symbol": survey.symbols}.get(kind, nothing)
    counts = Counter(label for label in found if label is not None)
    names = sorted(counts, key=lambda name: (-counts[name], name))
    places = {name: number for number, name in enumerate(names)}
    return Labels(kind, names, np.array([-1 if name is None else places[name] for name in found], dtype=np.int64))


def plane_section(gallery: Gallery, survey: Survey, labels: Labels, seed: int) -> Section:
    """Draw the frames of the lettered layers in planes."""
    layers = [layer for layer in LAYER_TITLES if layer in survey.layers]
    scatters, rows, shares, notes = [], [], [], []
    for layer in layers:
        frames = survey.layers[layer]
        # t-SNE takes seconds: of the bottom and the top only.
        found = embed(frames[:MOST_POINTS], seed, with_tsne=layer != "q")
        first, second = (100 * float(share) for share in np.append(found.shares, [0, 0])[:2])
        scatters.append(Scatter(f"{layer}: PCA", found.pca, f"{first:.1f} % of variance", f"{second:.1f} %"))
        if found.tsne is not None:
            scatters.append(Scatter(f"{layer}: t-SNE", found.tsne))
        notes += [f"{layer}: {found.note}"] if found.note else []
        shares += [(layer, axis, float(share)) for axis, share in enumerate(found.shares, 1)]
        tsne = np.full((len(found.pca), 2), np.nan) if found.tsne is None else found.tsne
        for place in range(len(found.pca)):
            clip = survey.clips[survey.clip[place]].name
            label = labels.names[labels.numbers[place]] if labels.numbers[place] >= 0 else ""
            values = [f"{float(value):.6g}" for value in (*found.pca[place], *tsne[place])]
            rows.append((layer, clip, int(survey.frame[place]), label, f"{survey.levels[place]:.1f}", *values))
    figure = draw_scatters(scatters, _colours(survey, labels), columns=4 if len(scatters) == 4 else 3)
    names = ("layer", "clip", "frame", labels.kind or "label", "level_db", "pca_1", "pca_2", "tsne_1", "tsne_2")
    alt = f"{len(survey.clip)} frames of {len(survey.clips)} clips in planes, layer by layer, by PCA and t-SNE."
    parts = [
        gallery.add_table("frames", figure, alt, names, rows),
        _share_image(gallery, shares),
    ]
    by = f"Colours: {labels.kind}." if labels.kind else "Colours: level, as neither words nor symbols are known."
    text = [f"{len(survey.clip)} frames, drawn from {len(survey.clips)} clips with --seed {seed}. {by}", *notes]
    return Section("Frames in a plane", text, parts)


def _share_image(gallery: Gallery, shares: Sequence[tuple[str, int, float]]) -> Image:
    lines = []
    for colour, layer in enumerate(dict.fromkeys(layer for layer, _, _ in shares)):
        values = np.array([share for name, _, share in shares if name == layer])
        lines.append(Line(layer, np.arange(1.0, len(values) + 1), values.cumsum(), colour))
    panel = Panel("share of the variance along the first axes", "principal axes", lines, limits=(0, 1.02))
    alt = "Share of the variance that the first principal axes hold, layer by layer."
    figure = draw_panels([panel], width=4.5)
    return gallery.add_table("pca_variance", figure, alt, ("layer", "axis", "share_of_variance"), shares)


def _colours(survey: Survey, labels: Labels) -> Classes | Levels:
    if not labels.kind:
        return Levels("level, dB", survey.levels)
    names = labels.names[: len(COLOURS)]
    return Classes(labels.kind, names, np.where(labels.numbers < len(names), labels.numbers, -1))


def neighbour_section(
    gallery: Gallery, survey: Survey, labels: Labels, clock: FrameClock, *, num_samples: int, seed: int
) -> tuple[Section, list[str]]:
    """Find and play nearest neighbours; return the section, and lines for the terminal."""
    queries = _queries(survey, labels, num_samples, seed)
    parts: list[Image | Table] = []
    lines: list[str] = []
    text = [
        "Nearest by cosine, of the context frames of other clips: a frame of the same clip never counts. "
        f"Sounds are {SNIPPET:g} seconds around the frame.",
    ]
    if labels.kind:
        image, lines = _agreement_image(gallery, survey, labels)
        parts.append(image)
        text += [f"{line}." for line in lines]
    else:
        text.append("How often neighbours agree is not known: there are neither transcripts nor a CTC model.")
    places, values = nearest_neighbours(_centred(survey.layers["c"]), survey.clip, NEIGHBOURS, queries)
    if len(survey.clips) < 2:
        text.append("There is one clip, so no frame has a neighbour.")
    found = _Neighbours(survey, labels, clock, queries, places, values)
    parts += [found.image(gallery), found.table()]
    return Section("Nearest neighbours", text, parts), lines


def _centred(frames: Floats) -> Floats:
    centred: Floats = frames - frames.mean(axis=0)
    return centred


def _queries(survey: Survey, labels: Labels, num_samples: int, seed: int) -> Ints:
    """Draw frames to ask for: of different clips, with a label and not silent where there are such."""
    order = numpy_generator(seed, "queries").permutation(len(survey.clip))
    loud = survey.levels >= np.median(survey.levels)
    wanted = loud & (labels.numbers >= 0) if labels.kind else loud
    order = order[np.argsort(~wanted[order], kind="stable")]
    _, first = np.unique(survey.clip[order], return_index=True)
    return order[np.sort(first)][:num_samples]


def _agreement_image(gallery: Gallery, survey: Survey, labels: Labels) -> tuple[Image, list[str]]:
    """Draw, layer by layer, how often the nearest neighbour has the same label."""
    rows = []
    for layer, frames in survey.layers.items():
        places, _ = nearest_neighbours(_centred(frames), survey.clip, 1)
        rows.append((layer, *same_label_share(places[:, 0], labels.numbers, survey.clip)))
    shares, chance = np.array([row[1] for row in rows]), rows[-1][2]
    line = Line("nearest neighbour", np.arange(len(rows), dtype=float), shares, has_points=True)
    panel = Panel(
        f"frames whose nearest neighbour has the same {labels.kind}",
        "layer",
        [line],
        limits=(0, 1),
        level=(chance, "chance"),
    )
    figure = draw_panels([panel], width=5.5)
    figure.axes[0].set_xticks(range(len(rows)), [row[0] for row in rows])
    alt = f"Share of frames whose nearest neighbour in another clip has the same {labels.kind}, layer by layer."
    columns = ("layer", f"same_{labels.kind}_share", "chance")
    image = gallery.add_table("neighbour_agreement", figure, alt, columns, rows)
    shown = [row for row in rows if row[0] in LAYER_TITLES]
    lines = [
        f"nearest neighbour has the same {labels.kind}, layer {layer}: {100 * share:.1f} % of frames "
        f"(chance {100 * chance:.1f} %)"
        for layer, share, chance in shown
    ]
    return image, lines


@dataclass(frozen=True)
class _Neighbours:
    """Some frames and their neighbours.

    Attributes:
        survey: where they are from.
        labels: what is known of them.
        clock: when they are.
        queries: (Q,) the frames.
        places: (Q, K) their neighbours; -1: none.
        cosines: (Q, K).
    """

    survey: Survey
    labels: Labels
    clock: FrameClock
    queries: Ints
    places: Ints
    cosines: Floats

    def image(self, gallery: Gallery) -> Image:
        """Draw the spectrogram of each frame and of its neighbours."""
        rows, numbers = [], []
        for query, found, values in zip(self.queries, self.places, self.cosines, strict=True):
            around = [(int(query), ""), *((int(p), f"{v:.2f} ") for p, v in zip(found, values, strict=True))]
            rows.append([Snippet(mark + self._label(place), self._samples(place)) for place, mark in around])
            numbers += [
                (*self._row(int(query)), rank, *self._row(int(place)), f"{value:.6f}")
                for rank, (place, value) in enumerate(zip(found, values, strict=True), 1)
                if place >= 0
            ]
        heading = ["frame", *(f"neighbour {rank}" for rank in range(1, self.places.shape[1] + 1))]
        figure = draw_snippets(rows, self.clock.sample_rate, heading)
        kind = self.labels.kind or "label"
        columns = ["clip", "frame", "seconds", kind, "rank", "neighbour_clip", "neighbour_frame"]
        columns += ["neighbour_seconds", f"neighbour_{kind}", "cosine"]
        alt = f"Spectrograms of {len(rows)} frames and of their nearest neighbours in other clips."
        return gallery.add_table("neighbours", figure, alt, columns, numbers)

    def table(self) -> Table:
        """Return the same as sounds."""
        rows = []
        for query, found, values in zip(self.queries, self.places, self.cosines, strict=True):
            cells: list[Cell] = [self._sound(int(query), "")]
            for place, value in zip(found, values, strict=True):
                cells.append(self._sound(int(place), f"cosine {value:.2f}, ") if place >= 0 else "none")
            rows.append(cells)
        return Table(["frame", *(f"neighbour {rank}" for rank in range(1, self.places.shape[1] + 1))], rows)

    def _label(self, place: int) -> str:
        number = int(self.labels.numbers[place]) if place >= 0 else -1
        return self.labels.names[number] if number >= 0 else ""

    def _row(self, place: int) -> tuple[str, int, str, str]:
        clip, frame = self.survey.clips[self.survey.clip[place]], int(self.survey.frame[place])
        return clip.name, frame, f"{self.clock.seconds(frame + 0.5):.4f}", self._label(place)

    def _samples(self, place: int) -> Floats:
        """Return the samples around a frame, fewer at the ends of its clip."""
        if place < 0:
            return np.zeros(0, np.float32)
        samples = self.survey.clips[self.survey.clip[place]].samples
        middle = round(self.clock.seconds(int(self.survey.frame[place]) + 0.5) * self.clock.sample_rate)
        half = round(SNIPPET / 2 * self.clock.sample_rate)
        stretch: Floats = samples[max(middle - half, 0) : middle + half]
        return stretch

    def _sound(self, place: int, mark: str) -> Sound:
        name, _, seconds, label = self._row(place)
        label = f"{label}, " if label else ""
        return sound(self._samples(place), self.clock.sample_rate, f"{mark}{label}{name} at {float(seconds):.2f} s")
