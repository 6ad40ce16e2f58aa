"""Emissions that say given symbols: each symbol holds a few frames with high probability, blanks lie between."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from w2v.data.dictionary import SPECIALS
from w2v.inference.emission_file import EmissionInfo, EmissionWriter

PROBABILITY = 0.9
STRIDE = 320


def peaked(ids: Sequence[int], num_symbols: int) -> Tensor:
    """Return (T, V) log-probabilities in which each id is said once."""
    frames = [0, 0]
    for number in ids:
        frames += [number, number, 0, 0]
    rest = math.log((1 - PROBABILITY) / (num_symbols - 1))
    log_probs = torch.full((len(frames), num_symbols), rest)
    log_probs[torch.arange(len(frames)), torch.tensor(frames)] = math.log(PROBABILITY)
    return log_probs


def write_case(
    folder: Path,
    symbols: Sequence[str],
    clips: Sequence[tuple[str, Sequence[str], str]],
    post_process: str = "letter",
) -> list[str]:
    """Write emissions, a manifest and labels; return the arguments of `w2v-infer` that read them.

    Args:
        folder: where.
        symbols: the dictionary, without the four specials.
        clips: name, symbols that the model says, and the label line of each.
        post_process: what the emissions say about words.
    """
    full = [*SPECIALS, *symbols]
    info = EmissionInfo("hand.pt", full, post_process, "ltr", 16000, STRIDE, 0.0)
    rows = []
    with EmissionWriter(folder / "e.safetensors", info, [name for name, _, _ in clips]) as writer:
        for name, said, _ in clips:
            log_probs = peaked([full.index(symbol) for symbol in said], len(full))
            writer.add(name, len(log_probs) * STRIDE, log_probs)
            rows.append(f"{name}\t{len(log_probs) * STRIDE}\n")
    (folder / "valid.tsv").write_text("/nowhere\n" + "".join(rows))
    (folder / "valid.ltr").write_text("".join(f"{line}\n" for _, _, line in clips))
    return [str(folder), "--load-emissions", str(folder / "e.safetensors"), "--gen-subset", "valid", "--quiet"]


def spell(text: str) -> list[str]:
    """Return the letters of a text, with `|` after each word."""
    return [*text.replace(" ", "|"), "|"]
