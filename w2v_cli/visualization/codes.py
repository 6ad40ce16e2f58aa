"""The codebook of a quantizer: how often each code is used, and for which words or symbols."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from w2v.inference.survey import Survey, code_perplexities
from w2v.pictures.heat_map import Matrix, draw_matrices
from w2v.pictures.panels import Line, Panel, draw_panels
from w2v.pictures.report import Image, Section
from w2v_cli.visualization.frames import Labels
from w2v_cli.visualization.gallery import Gallery

Ints = npt.NDArray[np.int64]
MOST_LABELS = 30
MOST_CODES = 400


def code_section(gallery: Gallery, survey: Survey, labels: Labels) -> tuple[Section, list[str]] | None:
    """Draw the use of the codebook; None without a quantizer. Also return lines for the terminal."""
    if survey.code_counts is None:
        return None
    counts = survey.code_counts
    perplexities = code_perplexities(counts)
    num_vars = counts.shape[1]
    lines = [
        f"codes of group {group}: perplexity {perplexity:.4f} of {num_vars}, {dead} of {num_vars} codes never used"
        for group, (perplexity, dead) in enumerate(zip(perplexities, (counts == 0).sum(axis=1), strict=True), 1)
    ]
    text = [
        f"{survey.num_frames} frames chose codes. Perplexity is exp of the entropy: the number of codes that would be "
        "in use if all were used equally often; the log's code_perplexity is the sum over the groups.",
        *(f"{line[0].upper()}{line[1:]}." for line in lines),
    ]
    parts = [_usage_image(gallery, counts)]
    if labels.kind and survey.codes is not None:
        parts += _meaning_images(gallery, survey.codes, counts, labels)
    return Section("Codebook", text, parts), lines


def _usage_image(gallery: Gallery, counts: Ints) -> Image:
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    num_vars = counts.shape[1]
    ranks = np.arange(1.0, num_vars + 1)
    lines = [Line(f"group {g}", ranks, np.sort(share)[::-1], g - 1) for g, share in enumerate(shares, 1)]
    panels = [
        Panel(
            "share of frames, most used code first",
            "code, by rank",
            lines,
            limits=(0, None),
            level=(1 / num_vars, "all equally often"),
        ),
        Panel(
            "share of frames that the codes so far hold",
            "code, by rank",
            [Line(line.label, line.x, np.cumsum(line.y), line.colour) for line in lines],
            limits=(0, 1.02),
        ),
    ]
    alt = f"How often each of {num_vars} codes in {len(counts)} groups is used, most used code first."
    rows = [(g + 1, code, int(counts[g, code])) for g in range(len(counts)) for code in range(num_vars)]
    figure = draw_panels(panels, width=4.5)
    return gallery.add_table("codes", figure, alt, ("group", "code", "frames"), rows)


def _meaning_images(gallery: Gallery, codes: Ints, counts: Ints, labels: Labels) -> list[Image]:
    """Draw, group by group, how the frames of each code are shared out among words or symbols."""
    num_labels = min(len(labels.names), MOST_LABELS)
    known = (labels.numbers >= 0) & (labels.numbers < num_labels)
    images = []
    for group in range(codes.shape[1]):
        table = np.zeros((num_labels, counts.shape[1]))
        np.add.at(table, (labels.numbers[known], codes[known, group]), 1)
        used = np.flatnonzero(table.sum(axis=0))
        if not len(used):
            continue
        # The most frequent codes, ordered by the label that they stand for: a diagonal, where codes mean something.
        used = used[np.argsort(-table[:, used].sum(axis=0), kind="stable")[:MOST_CODES]]
        shares = table[:, used] / table[:, used].sum(axis=0)
        order = np.lexsort((-shares.max(axis=0), shares.argmax(axis=0)))
        names = labels.names[:num_labels]
        matrix = Matrix(
            f"group {group + 1}: share of each code's frames",
            shares[:, order].astype(np.float32),
            limits=(0, 1),
            x_label=f"{len(used)} codes, by their commonest {labels.kind}",
            y_ticks=(range(num_labels), names),
        )
        figure = draw_matrices([matrix], width=9, height=1.2 + 0.17 * num_labels)
        alt = f"Which {labels.kind} the codes of group {group + 1} stand for."
        rows = [
            (int(code), names[place], int(table[place, code]))
            for code in used[order].tolist()
            for place in np.flatnonzero(table[:, code]).tolist()
        ]
        name = f"codes_group_{group + 1}"
        images.append(gallery.add_table(name, figure, alt, ("code", labels.kind, "frames"), rows))
    return images
