"""CTC log-probabilities made from sentences: a random alignment of each, under noise that hides most of it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

PEAK, NOISE = 6.0, 2.0  # logits: the best symbol of a frame is wrong so often that hardly a word comes out right
LETTERS_PER_FRAME = 0.3


def noisy_log_probs(sentences: Sequence[str], symbols: Sequence[str], *, seed: int) -> tuple[Tensor, Tensor]:
    """Return (B, T, V) log-probabilities and (B,) frames.

    Args:
        sentences: of words separated by spaces.
        symbols: labels: the blank, three more specials, `|` and the letters.
        seed: of alignment and noise.
    """
    rng = np.random.default_rng(seed)
    clips = []
    for sentence in sentences:
        spelling = [symbols.index(letter) for letter in f"{sentence.replace(' ', '|')}|"]
        num_frames = int(len(spelling) / LETTERS_PER_FRAME) + 2
        # One symbol of the blank-separated spelling after the other, each held for a random number of frames.
        path = np.zeros(2 * len(spelling) + 1, dtype=np.int64)
        path[1::2] = spelling
        held = np.ones(len(path), dtype=np.int64)
        held[::2] += rng.multinomial(num_frames - len(path), rng.dirichlet(np.full(len(spelling) + 1, 2.0)))
        logits = NOISE * rng.standard_normal((num_frames, len(symbols)))
        logits[:, 1:4] -= 8.0
        logits[np.arange(num_frames), np.repeat(path, held)] += PEAK
        clips.append(torch.from_numpy(logits).float().log_softmax(-1))
    return pad_sequence(clips, batch_first=True), torch.tensor([len(clip) for clip in clips])
