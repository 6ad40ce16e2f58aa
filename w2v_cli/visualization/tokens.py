"""A masked language model of tokens: which of them are used, and how well hidden ones are told, by position."""

from __future__ import annotations

import numpy as np

from w2v.inference.token_survey import TokenSurvey
from w2v.pictures.panels import Line, Panel, draw_panels
from w2v.pictures.report import Image
from w2v_cli.visualization.gallery import Gallery

STRETCHES = 40  # at most so many points of the curve over positions


def token_images(gallery: Gallery, survey: TokenSurvey) -> tuple[list[Image], list[str]]:
    """Draw the use of tokens and the perplexity by position; also return lines for the terminal."""
    reached = int(np.flatnonzero(survey.predicted)[-1]) + 1 if survey.predicted.any() else 1
    stretches = survey.by_position(-(-reached // STRETCHES))
    shares = survey.used
    ranks = np.arange(1.0, len(shares) + 1)
    usage = [
        Panel(
            "share of the text, most used token first", "token, by rank", [Line("", ranks, shares)], limits=(0, None)
        ),
        Panel(
            "share that the tokens so far hold", "token, by rank", [Line("", ranks, shares.cumsum())], limits=(0, 1.02)
        ),
    ]
    text = f"{len(shares)} of {len(survey.counts)} tokens occur"
    entropy = float(np.exp(-(shares * np.log(shares)).sum())) if len(shares) else 0.0
    counts = [(number, int(count)) for number, count in enumerate(survey.counts) if count]
    images = [
        gallery.add_table("token_use", draw_panels(usage, width=4.5), f"How often tokens are used: {text}.",
                          ("token", "times"), counts),
    ]  # fmt: skip
    points = Line("", np.array([s for s, _, _ in stretches], dtype=float), np.array([p for _, _, p in stretches]))
    level = (survey.perplexity, "all positions")
    panel = Panel("perplexity of hidden tokens", "position in the item", [points], limits=(0, None), level=level)
    alt = f"Perplexity of hidden tokens by position; {survey.perplexity:.2f} over all."
    columns = ("first position", "hidden tokens", "perplexity")
    images.append(gallery.add_table("perplexity_by_position", draw_panels([panel], width=6), alt, columns, stretches))
    lines = [
        f"{text}; perplexity of single tokens {entropy:.1f}",
        f"perplexity of {int(survey.predicted.sum())} hidden tokens: {survey.perplexity:.2f}",
    ]
    return images, lines
